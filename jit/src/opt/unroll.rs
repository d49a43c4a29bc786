//! Loops of one block, several times in a row.
//!
//! ```text
//! head: body; if c goto head      becomes      head:   body; if !c goto out
//!                                                      if too few rounds are left goto rest
//!                                              rounds: body; body; body; body; if enough are left goto rounds
//!                                                      if !c goto out
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
use rtbpf_isa::{AluOp, CmpOp, Insn, InsnIdx, Operand, Width};
use rtbpf_verifier::Branch;

use super::count::{Count, Spare, Test};
use super::exits::{Cond, Target};
use super::sums::{self, Sums};
use crate::asm::Label;
use crate::code::CompileError;
use crate::encode::{Bin, Encode, Reach, Rhs};
use crate::fast::{Fast, constant, reg, rhs};

/// Bodies in a row.
const ROUNDS: usize = 4;
/// Of so few instructions there are twice as many.
const SHORT_BODY: usize = 8;
/// Longer bodies are not bound by the branch.
pub(super) const MOST_INSNS: usize = 20;

/// A loop of one block.
struct Ring {
    /// The instructions of a round, but for the branch at its end; the first one is the head.
    places: Vec<InsnIdx>,
    /// On what there is another round.
    stay: Cond,
    out: Target,
}

impl<E: Encode> Fast<'_, E> {
    /// Emits the branch at `at` and more rounds of the loop that it ends; `false` when it ends none that is unrolled.
    pub(crate) fn unroll(&mut self, at: InsnIdx, starts: &[Label]) -> Result<bool, CompileError> {
        let Some(&Insn::Branch { op, width, lhs, rhs, to: to @ ..0 }) = self.insns.get(at.index()) else {
            return Ok(false);
        };
        let stay = Cond { at, op, width, lhs, rhs };
        let ring = Ring { places: (at.target(to).0..at.0).map(InsnIdx).collect(), stay, out: self.way_out(at) };
        let done = self.rounds(ring, starts)?;
        if done {
            // Some ways out know more of the registers than others.
            self.opt.enter(at.next());
            self.e.asm().bind(Label(at.next().0));
        }
        Ok(done)
    }

    /// Emits the branch at the end of a loop whose test was moved behind its body, and perhaps more rounds.
    pub(crate) fn unroll_moved(
        &mut self,
        places: Vec<InsnIdx>,
        leave: Cond,
        out: Target,
        starts: &[Label],
    ) -> Result<(), CompileError> {
        let (Some(stay), Some(&head)) = (leave.inverse(), places.first()) else { return Ok(()) };
        if !self.rounds(Ring { places, stay, out }, starts)? {
            self.branch(stay, self.around(head, Label(head.0)));
            self.settle_all(out.live);
        }
        self.e.jump(out.label, Reach::Far);
        self.opt.forget();
        Ok(())
    }

    fn rounds(&mut self, ring: Ring, starts: &[Label]) -> Result<bool, CompileError> {
        let Ring { places, stay: cond, out } = ring;
        let (Some(not), Some(&head)) = (cond.inverse(), places.first()) else { return Ok(false) };
        if !self.opt.on.unroll || places.len() > MOST_INSNS {
            return Ok(false);
        }
        let body: Vec<Insn> = places.iter().filter_map(|at| self.insns.get(at.index()).copied()).collect();
        // Out of the loop, which may have several ways out.
        let exits = |at: InsnIdx, insn: &Insn| match insn {
            Insn::Branch { to, .. } => {
                let target = at.target(*to);
                target != cond.at && !places.contains(&target) && self.program.proved().at(at).branch == Branch::Both
            }
            _ => false,
        };
        let simple = |(at, insn): (&InsnIdx, &Insn)| {
            self.opt.selects(*at) != 0 || insn.flow() == Flow::Next && !leaves(insn) || exits(*at, insn)
        };
        let one_way =
            places.iter().zip(&body).all(|(at, insn)| self.opt.selects(*at) != 0 || insn.flow() == Flow::Next);
        let reached = |at: &InsnIdx| !self.program.proved().at(*at).unreached;
        let joins = places.iter().skip(1).chain([&cond.at]).any(|at| self.opt.begins(*at));
        if joins || !places.iter().zip(&body).all(simple) || !places.iter().chain([&cond.at]).all(reached) {
            return Ok(false);
        }
        self.branch(not, out);
        let known = self.unconditional(&places, &body);
        let (width, right) = (cond.width, cond.rhs);
        let rounds = if body.len() <= SHORT_BODY { 2 * ROUNDS } else { ROUNDS };
        let count = Count::of(&known, cond.op, width, cond.lhs, right).and_then(|count| count.spare(rounds - 1));
        let count = count.filter(|_| self.plan.blocks.is_empty());
        let idle = RegSet::CALLER_SAVED.without(self.opt.liveness.after(cond.at));
        let sums = Sums::of(&known, [Operand::Reg(cond.lhs), right], idle).filter(|_| count.is_some() && one_way);
        let sums = sums.and_then(|sums| {
            let second = sums.second.map(reg::<E>).or_else(|| self.idle_extra(&body))?;
            Some((sums, second))
        });
        let step = sums::lone_step(&known, cond.lhs, rounds as i32);
        let step = step.filter(|_| one_way && right != Operand::Reg(cond.lhs));
        let again = match count {
            Some(spare) => {
                let (again, slow) = (self.e.asm().label(), self.e.asm().label());
                self.settle_all(self.live_before(head));
                if let Some((sums, second)) = &sums {
                    self.e.mov_imm(*second, 0);
                    self.opt.pinned = sums.second.map_or(RegSet::EMPTY, RegSet::of);
                }
                // The first test is apart from the rounds where another stands at their end.
                let alone = spare.stands_alone();
                if alone {
                    self.spare(&spare, false, slow);
                }
                if self.opt.on.align {
                    self.e.align(32);
                }
                self.e.asm().bind(again);
                self.opt.enter(head);
                if !alone {
                    self.spare(&spare, false, slow);
                }
                self.opt.rounds = true;
                for round in 0..rounds {
                    let mut body = body.clone();
                    let second = sums.as_ref().filter(|_| round % 2 == 1);
                    if let Some((sums, _)) = second {
                        sums.turn(&mut body);
                    }
                    if let Some(at) = step {
                        sums::step(&mut body, at, (round + 1 == rounds).then_some(rounds as i32));
                    }
                    self.round((&places, &body), cond.at, second, starts)?;
                }
                self.opt.rounds = false;
                if alone {
                    self.write();
                    self.settle_all(self.live_before(head));
                    self.spare(&spare, true, again);
                    self.opt.pinned = RegSet::EMPTY;
                    sums.iter().for_each(|(sums, second)| self.join(sums, *second));
                    self.branch(not, out);
                    self.settle_all(self.live_before(head));
                    self.e.asm().bind(slow);
                } else {
                    self.branch(cond, self.around(head, again));
                    self.settle_all(out.live);
                    self.opt.pinned = RegSet::EMPTY;
                    sums.iter().for_each(|(sums, second)| self.join(sums, *second));
                    self.e.jump(out.label, Reach::Near);
                    self.e.asm().bind(slow);
                    sums.iter().for_each(|(sums, second)| self.join(sums, *second));
                }
                let rest = self.e.asm().label();
                self.e.asm().bind(rest);
                self.opt.enter(head);
                self.round((&places, &body), cond.at, None, starts)?;
                // Loops often go round a power of two times, and all but one of so many are left.
                for _ in 1..if body.len() <= SHORT_BODY { ROUNDS } else { 1 } {
                    self.branch(not, out);
                    self.round((&places, &body), cond.at, None, starts)?;
                }
                rest
            }
            None => {
                for round in 1..ROUNDS {
                    self.round((&places, &body), cond.at, None, starts)?;
                    if round + 1 < ROUNDS {
                        self.branch(not, out);
                    }
                }
                Label(head.0)
            }
        };
        self.branch(cond, self.around(head, again));
        self.settle_all(out.live);
        Ok(true)
    }

    /// `body` for those who ask what it does to registers: what happens under a condition is some operation on what was there.
    fn unconditional(&self, places: &[InsnIdx], body: &[Insn]) -> Vec<Insn> {
        let mut body = body.to_vec();
        for (at, insn) in places.iter().zip(&mut body) {
            if let (true, Insn::Alu { op, .. }) = (self.opt.selected(*at), insn) {
                *op = AluOp::Or;
            }
        }
        body
    }

    /// The loop's head, which stands at `label`.
    fn around(&self, head: InsnIdx, label: Label) -> Target {
        Target { label, live: self.live_before(head), reach: Reach::Far, leaves: false }
    }

    /// A register of the machine that neither `body` nor the stack slots of the function take.
    fn idle_extra(&self, body: &[Insn]) -> Option<E::Reg> {
        let taken = |home: usize| self.opt.slots.iter().any(|slot| slot.home == home);
        let idle = E::EXTRA.iter().enumerate().find(|(home, _)| !taken(*home)).map(|(_, reg)| *reg);
        idle.filter(|_| !body.iter().any(|insn| self.e.takes_extra(insn)))
    }

    /// Adds what the sum at `at` adds to another register of the machine.
    fn add_to(&mut self, second: E::Reg, at: InsnIdx, sums: &Sums) {
        self.opt.after = self.opt.liveness.after(at).with(self.opt.pinned);
        self.opt.live = self.opt.after.with(RegSet::of(sums.summand));
        let summand = self.right_side(sums.width, Operand::Reg(sums.summand));
        self.e.bin(Bin::Add, sums.width, second, second, summand);
    }

    fn join(&mut self, sums: &Sums, second: E::Reg) {
        let first = reg::<E>(sums.first);
        self.e.bin(Bin::Add, sums.width, first, first, Rhs::Reg(second));
        self.opt.set_narrow(sums.first, sums.width == Width::W32);
    }

    /// Emits one round of `body`, perhaps with a sum to another register of the machine.
    fn round(
        &mut self,
        (places, body): (&[InsnIdx], &[Insn]),
        latch: InsnIdx,
        second: Option<&(Sums, E::Reg)>,
        starts: &[Label],
    ) -> Result<(), CompileError> {
        for (index, (at, insn)) in places.iter().copied().zip(body).enumerate() {
            self.e.asm().copy(at);
            self.charge(at);
            if let Some((sums, second)) = second.filter(|(sums, _)| sums.second.is_none() && sums.at == index) {
                self.add_to(*second, at, sums);
                continue;
            }
            if self.optimised(at, insn) {
                continue;
            }
            match (Cond::of(at, insn), *insn) {
                (Some(cond), Insn::Branch { to, .. }) => {
                    let out = at.target(to);
                    self.branch(cond, self.target(at, out, Label(out.0), Reach::Far));
                }
                _ => self.plain(at, insn, starts)?,
            }
        }
        self.e.asm().copy(latch);
        self.charge(latch);
        Ok(())
    }

    /// Jumps to `to` if the tests of the coming rounds all pass, or unless they do.
    fn spare(&mut self, spare: &Spare, passes: bool, to: Label) {
        let Spare { width, counter, add, .. } = *spare;
        let (t, x) = (E::SPARE, reg::<E>(counter));
        let turned = |op: CmpOp| if passes { op.inverse() } else { Some(op) };
        let (op, left, bound) = match spare.test {
            Test::Compare { op, bound } => {
                if add != 0 {
                    self.e.bin(Bin::Add, width, t, x, Rhs::Imm(add));
                }
                (op, if add != 0 { t } else { x }, bound)
            }
            Test::Distance { limit, up, most, .. } => {
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
                (CmpOp::Le, t, most)
            }
        };
        if let Some(op) = turned(op) {
            self.e.branch(op, width, left, Rhs::Imm(bound), to, Reach::Far);
        }
    }
}

/// Whether an instruction may leave the straight line, or has code of its own inside.
fn leaves(insn: &Insn) -> bool {
    matches!(insn, Insn::Call(_) | Insn::Packet { .. } | Insn::Bad { .. })
}
