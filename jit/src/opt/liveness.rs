//! Which registers are read later, after each instruction.

use super::is_nothing;
use rtbpf_isa::effects::{Flow, RegSet};
use rtbpf_isa::{Insn, InsnIdx, Subprog};

/// Live registers behind each instruction of a program.
#[derive(Default)]
pub(crate) struct Liveness {
    after: Vec<RegSet>,
}

impl Liveness {
    pub fn new(insns: &[Insn], subprogs: &[Subprog]) -> Liveness {
        let mut liveness = Liveness { after: vec![RegSet::EMPTY; insns.len()] };
        let mut before = vec![RegSet::EMPTY; insns.len() + 1];
        let mut heads = vec![false; insns.len() + 1];
        for subprog in subprogs {
            // Sets only grow, so this ends; as many passes as the depth of loops, and one more.
            while liveness.pass(insns, subprog, &mut before, &mut heads) {}
        }
        liveness
    }

    /// Whether a head of a loop has grown that was looked at before.
    fn pass(&mut self, insns: &[Insn], subprog: &Subprog, before: &mut [RegSet], heads: &mut [bool]) -> bool {
        let mut changed = false;
        for at in (subprog.start.0..subprog.end.0).rev().map(InsnIdx) {
            let Some(insn) = insns.get(at.index()) else { continue };
            let live = |at: InsnIdx| before.get(at.index()).copied().unwrap_or_default();
            let after = match insn.flow() {
                Flow::Next | Flow::Call(_) => live(at.next()),
                Flow::Jump(to) | Flow::Branch(to) => {
                    if let (..0, Some(head)) = (to, heads.get_mut(at.target(to).index())) {
                        *head = true;
                    }
                    let next = if matches!(insn.flow(), Flow::Branch(_)) { live(at.next()) } else { RegSet::EMPTY };
                    next.with(live(at.target(to)))
                }
                Flow::Exit => RegSet::EMPTY,
            };
            if let Some(place) = self.after.get_mut(at.index()) {
                *place = after;
            }
            let new = if is_nothing(insn) { after } else { after.without(kills(insn)).with(insn.uses()) };
            if let Some(place) = before.get_mut(at.index())
                && *place != new
            {
                *place = new;
                changed |= heads.get(at.index()) == Some(&true);
            }
        }
        changed
    }

    /// What is read at `at` or later.
    pub fn before(&self, at: InsnIdx, insns: &[Insn]) -> RegSet {
        match insns.get(at.index()) {
            Some(insn) if !is_nothing(insn) => self.after(at).without(insn.defs()).with(insn.uses()),
            Some(_) => self.after(at),
            None => RegSet::EMPTY,
        }
    }

    pub fn after(&self, at: InsnIdx) -> RegSet {
        self.after.get(at.index()).copied().unwrap_or_default()
    }
}

/// Registers whose old value is surely gone.
fn kills(insn: &Insn) -> RegSet {
    insn.defs()
}
