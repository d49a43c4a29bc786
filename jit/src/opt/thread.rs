//! A branch on a condition that was just decided.
//!
//! ```text
//!     if c goto L                      if c goto M
//!     x = 1                            x = 1
//! L:  y += 1              becomes      y += 1
//!     if c goto far                    ...
//!     ...                          M:  y += 1; goto far
//! ```
//!
//! Compilers make two of one branch when each side of it chose two values.

use rtbpf_isa::effects::Flow;
use rtbpf_isa::{Insn, InsnIdx};
use rtbpf_verifier::Branch;

use super::exits::{Cond, is_emitted};
use crate::asm::Label;
use crate::encode::{Encode, Reach};
use crate::fast::Fast;

/// Instructions that the first branch skips, and between the two, at most.
const MOST: usize = 4;

impl<E: Encode> Fast<'_, E> {
    /// Emits the branch at `at` so that the next one on its condition is decided with it, if there is such a one.
    pub(crate) fn thread(&mut self, at: InsnIdx) -> bool {
        let Some(second) = self.decided(at) else { return false };
        let Some((cond, &Insn::Branch { to: skips, .. })) = self.condition(at).zip(self.insns.get(at.index())) else {
            return false;
        };
        let Some(&Insn::Branch { to, .. }) = self.insns.get(second.index()) else { return false };
        let far = second.target(to);
        let target = self.target(second, far, Label(far.0), Reach::Far);
        let compared = self.branching(cond);
        let from = self.e.asm().label();
        self.leave_pending((at, from), target, at.target(skips).0..second.0, Some(far));
        self.compare(cond, compared, from, Reach::Far);
        self.opt.folded = Some(second);
        true
    }

    /// The branch that the one at `at` decides.
    pub(super) fn decided(&self, at: InsnIdx) -> Option<InsnIdx> {
        let cond = self.condition(at).filter(|_| self.opt.on.thread && self.plan.blocks.is_empty())?;
        let &Insn::Branch { to: skips @ 1.., .. } = self.insns.get(at.index())? else { return None };
        let join = at.target(skips);
        if skips as usize > MOST || self.opt.sources.get(join.index()) != Some(&(at.0, at.0)) {
            return None;
        }
        let stays = |place: InsnIdx, insn: &Insn| {
            let entered = place != join && self.opt.begins(place);
            let keeps = insn.defs().0 & cond.uses().0 == 0 && insn.flow() == Flow::Next;
            !entered && is_emitted(insn) && keeps && !self.program.proved().at(place).unreached
        };
        for place in (at.0 + 1..=join.0 + MOST as u32).map(InsnIdx) {
            let insn = self.insns.get(place.index())?;
            if place >= join
                && let Some(second) = self.condition(place)
            {
                let same =
                    (second.op, second.width, second.lhs, second.rhs) == (cond.op, cond.width, cond.lhs, cond.rhs);
                let entered = place != join && self.opt.begins(place);
                return (same && !entered && self.opt.selects(place) == 0).then_some(place);
            }
            if !stays(place, insn) {
                return None;
            }
        }
        None
    }

    /// What the branch at `at` compares, if both of its ways are open.
    pub(super) fn condition(&self, at: InsnIdx) -> Option<Cond> {
        let facts = self.program.proved().at(at);
        let cond = Cond::of(at, self.insns.get(at.index())?)?;
        (facts.branch == Branch::Both && !facts.unreached).then_some(cond)
    }
}
