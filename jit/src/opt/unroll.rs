//! Jumps that cost less: branches over jumps, and unrolling of loops of one block.
//!
//! ```text
//! head: body; if c goto head      becomes      head: body; if !c goto out
//!                                                    body; if !c goto out
//!                                                    body; if !c goto out
//!                                                    body; if  c goto head
//!                                              out:
//! ```
//!
//! A processor takes one branch a cycle, and predicts one that is not taken for nothing. Every test stays, so nothing
//! need be known of the number of rounds.

use rtbpf_isa::effects::Flow;
use rtbpf_isa::{Insn, InsnIdx};

use super::Lead;
use crate::asm::Label;
use crate::code::CompileError;
use crate::encode::{Encode, Reach};
use crate::fast::{Fast, reg, rhs};

/// Copies of the body behind the first.
const MORE: usize = 3;
/// Longer bodies are not bound by the branch.
const MOST_INSNS: usize = 16;

impl<E: Encode> Fast<'_, E> {
    /// `if c goto +1; goto x` as `if !c goto x`. Under a meter the jump is a block of its own and stays.
    pub(crate) fn over_jump(&mut self, at: InsnIdx) -> bool {
        let program = self.program.code();
        let (here, next) = (program.get(at), at.next());
        let (Some(&Insn::Branch { op, width, lhs, rhs: right, to: 1 }), Some(&Insn::Jump { to, .. })) =
            (here, program.get(next))
        else {
            return false;
        };
        let entered = self.opt.leads.get(next.index()).is_none_or(|lead| *lead != Lead::No);
        let unreached = self.program.proved().at(next).unreached;
        let Some(not) = op.inverse().filter(|_| self.opt.on.invert) else { return false };
        if entered || unreached || !self.plan.blocks.is_empty() {
            return false;
        }
        let reach = self.reach(next, to);
        self.e.branch(not, width, reg::<E>(lhs), rhs::<E>(right), Label(next.target(to).0), reach);
        self.opt.folded = Some(next);
        true
    }

    /// Emits the branch at `at` and more rounds of the loop that it ends; `false` when it ends none that is unrolled.
    pub(crate) fn unroll(&mut self, at: InsnIdx, starts: &[Label]) -> Result<bool, CompileError> {
        let program = self.program.code();
        let Some(&Insn::Branch { op, width, lhs, rhs: right, to }) = program.get(at) else { return Ok(false) };
        let (head, out) = (at.target(to), Label(at.next().0));
        let (true, Some(not)) = (self.opt.on.unroll && to < 0, op.inverse()) else { return Ok(false) };
        let Some(body) = program.insns().get(head.index()..at.index()) else { return Ok(false) };
        let simple = |insn: &Insn| insn.flow() == Flow::Next && !leaves(insn);
        let inside = self.opt.leads.get(head.index() + 1..=at.index()).unwrap_or_default();
        let unreached = (head.index()..=at.index()).any(|at| self.program.proved().at(InsnIdx(at as u32)).unreached);
        let one_block = body.iter().all(simple) && inside.iter().all(|lead| *lead == Lead::No);
        if body.len() > MOST_INSNS || !one_block || unreached {
            return Ok(false);
        }
        for _ in 0..MORE {
            self.e.branch(not, width, reg::<E>(lhs), rhs::<E>(right), out, Reach::Near);
            self.charge(head);
            for (offset, insn) in body.iter().enumerate() {
                let at = InsnIdx(head.0 + offset as u32);
                if !self.optimised(at, insn) {
                    self.plain(at, insn, starts)?;
                }
            }
            if let Some(insn) = program.get(at) {
                self.optimised(at, insn);
            }
        }
        self.e.branch(op, width, reg::<E>(lhs), rhs::<E>(right), Label(head.0), Reach::Far);
        Ok(true)
    }
}

/// Whether an instruction may leave the straight line, or has code of its own inside.
fn leaves(insn: &Insn) -> bool {
    matches!(insn, Insn::Call(_) | Insn::Packet { .. } | Insn::Bad { .. })
}
