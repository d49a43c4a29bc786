//! The test of a loop, at the loop's end.
//!
//! ```text
//!       goto body                      goto body
//! test: if c goto body                 cold
//!       cold               becomes
//! body: ...                      body: ...
//!       goto test                test: if c goto body
//!                                      goto cold
//! ```
//!
//! Compilers place the test before the body where the way out is placed between them. Each round then jumps twice.

use rtbpf_isa::effects::Flow;
use rtbpf_isa::{Insn, InsnIdx};
use rtbpf_verifier::{Branch, VerifiedProgram};

use super::rounds;
use super::{Lead, begins};
use crate::asm::Label;
use crate::code::CompileError;
use crate::encode::{Encode, Reach};
use crate::fast::Fast;

/// Instructions of the longest test.
const MOST: u32 = 8;
/// Instructions that are looked at on the way out.
const WAY_OUT: u32 = 32;

/// A test and the jump whose place it takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moved {
    first: InsnIdx,
    /// Its branch.
    last: InsnIdx,
    jump: InsnIdx,
}

/// The tests to move; what is behind each becomes a block of its own.
pub(crate) fn moved(program: &VerifiedProgram, leads: &mut [Lead], sources: &[(u32, u32)]) -> Vec<Moved> {
    let mut found = Vec::new();
    let code = program.code();
    for (jump, insn) in code.iter() {
        let Insn::Jump { to, .. } = *insn else { continue };
        let first = jump.target(to);
        if to >= 0 || jump.0 - first.0 <= rounds::MOST_INSNS as u32 || first.0 == 0 {
            continue;
        }
        let last_source = sources.get(first.index()).is_some_and(|(_, last)| *last == jump.0);
        let Some(last) = test(program, leads, first).filter(|_| last_source) else { continue };
        let inverted = matches!(code.insns().get(jump.index() - 1), Some(Insn::Branch { to: 1, .. }));
        if last < jump
            && !inverted
            && !program.proved().at(jump).unreached
            && is_cold(program, last.next(), first, jump)
        {
            found.push(Moved { first, last, jump });
            if let Some(lead @ Lead::No) = leads.get_mut(last.index() + 1) {
                *lead = Lead::Block;
            }
        }
    }
    found
}

/// The branch of the short block at `first`, which nothing falls into.
fn test(program: &VerifiedProgram, leads: &[Lead], first: InsnIdx) -> Option<InsnIdx> {
    let insns = program.code().insns();
    let falls = !matches!(insns.get(first.index() - 1)?, Insn::Jump { .. } | Insn::Exit);
    if falls || program.code().subprog_at(first) != program.code().subprog_at(InsnIdx(first.0 - 1)) {
        return None;
    }
    for at in (first.0..first.0 + MOST).map(InsnIdx) {
        let facts = program.proved().at(at);
        let entered = at != first && begins(leads, at);
        if facts.unreached || entered {
            return None;
        }
        match insns.get(at.index())? {
            Insn::Alu { .. } | Insn::MovSx { .. } | Insn::Load { .. } | Insn::Store { .. } => {}
            Insn::Branch { to, .. } if *to != 1 && facts.branch == Branch::Both => return Some(at),
            _ => return None,
        }
    }
    None
}

/// Whether no way from `at` that is not the last one's goes back into the loop from `first` to `last`.
fn is_cold(program: &VerifiedProgram, at: InsnIdx, first: InsnIdx, last: InsnIdx) -> bool {
    let inside = |at: InsnIdx| (first..=last).contains(&at);
    for at in (at.0..at.0 + WAY_OUT).map(InsnIdx) {
        let Some(insn) = program.code().insns().get(at.index()) else { return false };
        match insn.flow() {
            Flow::Next | Flow::Call(_) if inside(at) => {}
            Flow::Branch(to) if inside(at) && !inside(at.target(to)) => {}
            Flow::Jump(to) => return !inside(at.target(to)),
            Flow::Exit => return true,
            Flow::Next | Flow::Call(_) | Flow::Branch(_) => return false,
        }
    }
    false
}

impl<E: Encode> Fast<'_, E> {
    /// Whether the instruction at `at` is emitted elsewhere.
    pub(crate) fn is_moved(&self, at: InsnIdx) -> bool {
        self.opt.moved.iter().any(|moved| (moved.first..=moved.last).contains(&at))
    }

    /// Emits the test that takes the place of the jump at `at`, if one does.
    pub(crate) fn test_here(&mut self, at: InsnIdx, starts: &[Label]) -> Result<bool, CompileError> {
        let Some(moved) = self.opt.moved.iter().find(|moved| moved.jump == at).copied() else { return Ok(false) };
        for at in (moved.first.0..=moved.last.0).map(InsnIdx) {
            self.emit(at, starts)?;
        }
        let out = moved.last.next();
        self.settle_all(self.live_before(out));
        self.e.jump(Label(out.0), Reach::Far);
        self.opt.forget();
        Ok(true)
    }
}
