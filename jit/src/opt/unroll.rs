//! Jumps that cost less: branches over jumps, and unrolling of loops of one block.
//!
//! ```text
//! head: body; if c goto head      becomes      head:   body; if !c goto out
//!                                              rounds: if too few rounds are left goto rest
//!                                                      body; body; body; body; if c goto rounds; goto out
//!                                              rest:   body; if c goto rest
//!                                              out:
//! ```
//!
//! A sum over the rounds goes to two registers in turn (`sums.rs`), so that an addition need not wait for the one before.
//!
//! How many rounds are left is known where the loop counts: one side of the test grows by the same step each round, the
//! other stands still (`count.rs`). Everywhere else, and under a meter, which charges each round, the tests stay between
//! the bodies: a processor takes one branch a cycle, and predicts one that is not taken for nothing.

use rtbpf_isa::effects::Flow;
use rtbpf_isa::effects::RegSet;
use rtbpf_isa::{CmpOp, Insn, InsnIdx, Operand, Width};

use super::count::{Count, Spare, Test};
use super::exits::{Cond, Target};
use super::select::unconditional;
use super::sums::Sums;
use crate::asm::Label;
use crate::code::CompileError;
use crate::encode::{Bin, Encode, Reach, Rhs};
use crate::fast::{Fast, constant, reg, rhs};

/// Bodies in a row.
const ROUNDS: usize = 4;
/// Of so few instructions there are twice as many.
const SHORT_BODY: usize = 8;
/// Longer bodies are not bound by the branch.
const MOST_INSNS: usize = 20;

impl<E: Encode> Fast<'_, E> {
    /// `if c goto +1; goto x` as `if !c goto x`. Under a meter the jump is a block of its own and stays.
    pub(crate) fn over_jump(&mut self, at: InsnIdx) -> bool {
        let next = at.next();
        let (Some(&branch @ Insn::Branch { to: 1, .. }), Some(&Insn::Jump { to, .. })) =
            (self.insns.get(at.index()), self.insns.get(next.index()))
        else {
            return false;
        };
        let entered = self.opt.begins(next);
        let unreached = self.program.proved().at(next).unreached;
        let Some(not) = Cond::of(at, &branch).and_then(Cond::inverse).filter(|_| self.opt.on.invert) else {
            return false;
        };
        if entered || unreached || !self.plan.blocks.is_empty() || self.ends_repeated(next) {
            return false;
        }
        let target = next.target(to);
        let target = self.target(at, target, Label(target.0), self.reach(next, to));
        self.branch(not, target);
        self.falls_to(next.next());
        self.opt.folded = Some(next);
        true
    }

    /// Emits the branch at `at` and more rounds of the loop that it ends; `false` when it ends none that is unrolled.
    pub(crate) fn unroll(&mut self, at: InsnIdx, starts: &[Label]) -> Result<bool, CompileError> {
        let Some(&Insn::Branch { op, width, lhs, rhs: right, to }) = self.insns.get(at.index()) else {
            return Ok(false);
        };
        let (head, out) = (at.target(to), self.way_out(at));
        let cond = Cond { at, op, width, lhs, rhs: right };
        let (true, Some(not)) = (self.opt.on.unroll && to < 0, cond.inverse()) else { return Ok(false) };
        let body = self.insns.get(head.index()..at.index()).filter(|body| body.len() <= MOST_INSNS);
        let Some(body) = body.map(<[Insn]>::to_vec) else { return Ok(false) };
        let simple = |(offset, insn): (usize, &Insn)| {
            let selects = self.selects(InsnIdx((head.index() + offset) as u32));
            selects || insn.flow() == Flow::Next && !leaves(insn)
        };
        let unreached = (head.index()..=at.index()).any(|at| self.program.proved().at(InsnIdx(at as u32)).unreached);
        let one_block =
            body.iter().enumerate().all(simple) && !(head.0 + 1..=at.0).any(|at| self.opt.begins(InsnIdx(at)));
        if !one_block || unreached {
            return Ok(false);
        }
        self.branch(not, out);
        let known = unconditional(&body);
        let rounds = if body.len() <= SHORT_BODY { 2 * ROUNDS } else { ROUNDS };
        let count = Count::of(&known, op, width, lhs, right).and_then(|count| count.spare(rounds - 1));
        let count = count.filter(|_| self.plan.blocks.is_empty());
        let idle = RegSet::CALLER_SAVED.without(self.opt.liveness.after(at));
        let sums = Sums::of(&known, [Operand::Reg(lhs), right], idle).filter(|_| count.is_some());
        let again = match count {
            Some(spare) => {
                let (again, slow) = (self.e.asm().label(), self.e.asm().label());
                self.settle_all(self.live_before(head));
                if let Some(sums) = &sums {
                    self.e.mov_imm(reg::<E>(sums.second), 0);
                    self.opt.pinned = RegSet::of(sums.second);
                }
                if self.opt.on.align {
                    self.e.align(32);
                }
                self.e.asm().bind(again);
                self.opt.enter(head);
                self.unless(&spare, slow);
                let other = sums.as_ref().map(|sums| sums.other(&body));
                let turns = [&body, other.as_ref().unwrap_or(&body)];
                self.opt.rounds = true;
                for round in 0..rounds {
                    self.round(head, turns[round % 2], starts)?;
                }
                self.opt.rounds = false;
                self.branch(cond, self.around(head, again));
                self.settle_all(out.live);
                self.opt.pinned = RegSet::EMPTY;
                sums.iter().for_each(|sums| self.join(sums));
                self.e.jump(out.label, Reach::Near);
                self.e.asm().bind(slow);
                sums.iter().for_each(|sums| self.join(sums));
                let rest = self.e.asm().label();
                self.e.asm().bind(rest);
                self.opt.enter(head);
                self.round(head, &body, starts)?;
                rest
            }
            None => {
                for round in 1..ROUNDS {
                    self.charge(head);
                    self.round(head, &body, starts)?;
                    if round + 1 < ROUNDS {
                        self.branch(not, out);
                    }
                }
                Label(head.0)
            }
        };
        self.branch(cond, self.around(head, again));
        self.settle_all(out.live);
        // Some ways out know more of the registers than others.
        self.opt.enter(at.next());
        Ok(true)
    }

    /// The loop's head, which stands at `label`.
    fn around(&self, head: InsnIdx, label: Label) -> Target {
        Target { label, live: self.live_before(head), reach: Reach::Far, leaves: false }
    }

    fn join(&mut self, sums: &Sums) {
        let first = reg::<E>(sums.first);
        self.e.bin(Bin::Add, sums.width, first, first, Rhs::Reg(reg::<E>(sums.second)));
    }

    fn round(&mut self, head: InsnIdx, body: &[Insn], starts: &[Label]) -> Result<(), CompileError> {
        for (offset, insn) in body.iter().enumerate() {
            let at = InsnIdx(head.0 + offset as u32);
            if !self.optimised(at, insn) {
                self.plain(at, insn, starts)?;
            }
        }
        Ok(())
    }

    /// Jumps to `slow` unless the tests of the coming rounds all pass.
    fn unless(&mut self, spare: &Spare, slow: Label) {
        let Spare { width, counter, add, .. } = *spare;
        let (t, x) = (E::SPARE, reg::<E>(counter));
        let compare = |e: &mut E, op, bound| {
            if add != 0 {
                e.bin(Bin::Add, width, t, x, Rhs::Imm(add));
            }
            e.branch(op, width, if add != 0 { t } else { x }, bound, slow, Reach::Far);
        };
        match spare.test {
            Test::Compare { op, bound } => compare(self.e, op, Rhs::Imm(bound)),
            Test::Distance { limit, up, most } => {
                // `limit - (x + add)`, or the other way round.
                let mut left = add;
                match (up, limit) {
                    (true, Operand::Reg(limit)) => self.e.bin(Bin::Sub, width, t, reg::<E>(limit), Rhs::Reg(x)),
                    (true, Operand::Imm(limit)) => {
                        let from = constant(Width::W64, limit).wrapping_sub(add as i64 as u64);
                        left = 0;
                        let from = if width == Width::W32 { from & u32::MAX as u64 } else { from };
                        self.e.mov_imm(t, from);
                        self.e.bin(Bin::Sub, width, t, t, Rhs::Reg(x));
                    }
                    (false, limit) => self.e.bin(Bin::Sub, width, t, x, rhs::<E>(limit)),
                }
                if left != 0 {
                    self.e.bin(if up { Bin::Sub } else { Bin::Add }, width, t, t, Rhs::Imm(left));
                }
                self.e.branch(CmpOp::Le, width, t, Rhs::Imm(most), slow, Reach::Far);
            }
        }
    }
}

/// Whether an instruction may leave the straight line, or has code of its own inside.
fn leaves(insn: &Insn) -> bool {
    matches!(insn, Insn::Call(_) | Insn::Packet { .. } | Insn::Bad { .. })
}
