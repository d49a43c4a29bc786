//! Branches over one operation, without the branch.
//!
//! ```text
//! if c goto +1                      t = x + 1            (nothing for a plain move)
//! x += 1              becomes       compare
//! ...                               x = t unless c
//! ```
//!
//! The same of a branch to where a jump behind the operation goes.
//!
//! Compilers make this of `c ? a : b`, because the instruction set has no conditional move. Most have decided by then that
//! the condition cannot be predicted, or that both sides cost nothing: they emit a conditional move for other machines.

use rtbpf_isa::effects::{Flow, RegSet};
use rtbpf_isa::{AluOp, Insn, InsnIdx, Operand, Reg, Width};
use rtbpf_verifier::{Branch, VerifiedProgram};

use super::exits::Cond;
use super::liveness::Liveness;
use super::value::Value;
use super::{Lead, Opt, begins};
use crate::encode::{Alu, Encode, Rhs};
use crate::fast::{Fast, constant, reg};

/// Operations under one branch at most: the last is chosen, those before it compute what only it reads.
const MOST: usize = 3;
/// Instructions from one branch to the next on its condition, at most.
const AGAIN: u32 = 8;

/// Marks branches that select with the number of their operations; what was a block only by them is none any more.
pub(crate) fn selects(
    (program, insns): (&VerifiedProgram, &[Insn]),
    liveness: &Liveness,
    leads: &mut [Lead],
    sources: &[(u32, u32)],
) -> Vec<u8> {
    let mut selects = Vec::new();
    let code = program.code();
    let facts = program.proved();
    let mut waiting = None;
    for (at, insn) in (0..).map(InsnIdx).zip(insns) {
        let (branch, Insn::Branch { to, .. }) = (insn, *insn) else { continue };
        // Over the operations, or where a jump behind them goes.
        let jumps = |count: usize| match insns.get(at.index() + 1 + count) {
            Some(Insn::Jump { to: then, .. }) => {
                *then + count as i32 + 1 == to && !begins(leads, InsnIdx(at.0 + 1 + count as u32))
            }
            _ => false,
        };
        let Some(count) = (1..=MOST).find(|count| to == *count as i32 || jumps(*count)) else { continue };
        let known = facts.at(at).unreached || facts.at(at).branch != Branch::Both;
        let entered = (1..=count as u32).any(|offset| begins(leads, InsnIdx(at.0 + offset)));
        let next = InsnIdx(at.0 + 1 + count as u32);
        let Some(under) = insns.get(at.index() + 1..next.index()).filter(|_| !known && !entered) else { continue };
        let Some((chosen, before)) = under.split_last() else { continue };
        let alone = before.iter().all(|insn| {
            let kept = branch.uses().with(liveness.before(at.target(to), insns)).with(chosen.defs());
            insn.defs().0 & kept.0 == 0
        });
        if !alone || !under.iter().all(is_plain) || code.subprog_at(at) != code.subprog_at(next) {
            continue;
        }
        // Where the first of two branches on one condition is predicted, the second one has been.
        let again = waiting.is_some_and(|(before, branch)| at.0 - before <= AGAIN && is_same(branch, insn));
        if again || waits(insns, at, to, chosen) {
            waiting = Some((at.0, insn));
            continue;
        }
        selects.resize(code.len() + 1, 0);
        if let Some(place) = selects.get_mut(at.index()) {
            *place = count as u8;
        }
        if let (Some(lead @ Lead::Block), Some(source)) = (leads.get_mut(next.index()), sources.get(next.index()))
            && to == count as i32
            && *source == (at.0, at.0)
        {
            *lead = Lead::No;
        }
    }
    selects
}

/// Whether two branches make the same comparison.
fn is_same(a: &Insn, b: &Insn) -> bool {
    match (*a, *b) {
        (Insn::Branch { op: o, width: w, lhs: l, rhs: r, .. }, Insn::Branch { op, width, lhs, rhs, .. }) => {
            (o, w, l, r) == (op, width, lhs, rhs)
        }
        _ => false,
    }
}

/// Whether what the branch at `at` compares is loaded from an address that what was chosen the time before goes into, or is
/// a sum that is kept within bounds from round to round: a processor that predicts the branch need not wait for one load, or
/// one comparison, before the next.
fn waits(insns: &[Insn], at: InsnIdx, to: i32, chosen: &Insn) -> bool {
    /// Instructions that are looked at, on all ways.
    const MOST: usize = 64;
    let mut left = MOST;
    let bounded = insns.get(at.index()).is_some_and(|branch| match *chosen {
        Insn::Alu { op: AluOp::Mov, dst, src: Operand::Imm(_), .. } => branch.uses().contains(dst),
        _ => false,
    });
    // From where the ways meet: registers that the choice went into, and those of them that were loaded.
    let mut ways = vec![(at.target(to), chosen.defs(), RegSet::EMPTY)];
    while let Some((mut place, mut goes_into, mut loaded)) = ways.pop() {
        while let Some(insn) = insns.get(place.index()) {
            if left == 0 || goes_into == RegSet::EMPTY {
                break;
            }
            left -= 1;
            let meets = |set: RegSet| insn.uses().0 & set.0 != 0;
            if place == at {
                if meets(loaded) || bounded && meets(goes_into) {
                    return true;
                }
                break;
            }
            let (into, of) = (meets(goes_into), meets(loaded) || matches!(insn, Insn::Load { .. }));
            let with = |set: RegSet, is: bool| if is { set.with(insn.defs()) } else { set.without(insn.defs()) };
            (goes_into, loaded) = (with(goes_into, into), with(loaded, into && of));
            place = match insn.flow() {
                Flow::Next | Flow::Call(_) => place.next(),
                Flow::Jump(to) => place.target(to),
                Flow::Branch(to) => {
                    ways.push((place.target(to), goes_into, loaded));
                    place.next()
                }
                Flow::Exit => break,
            };
        }
    }
    false
}

/// One cheap operation on registers.
fn is_plain(insn: &Insn) -> bool {
    match *insn {
        Insn::Alu { op, src, .. } => match op {
            AluOp::Mov | AluOp::Add | AluOp::Sub | AluOp::Or | AluOp::And | AluOp::Xor => true,
            AluOp::Lsh | AluOp::Rsh | AluOp::Arsh => matches!(src, Operand::Imm(_)),
            AluOp::Mul | AluOp::Div | AluOp::Mod | AluOp::Sdiv | AluOp::Smod => false,
        },
        Insn::Neg { .. } => true,
        _ => false,
    }
}

impl Opt {
    /// How many operations the branch at `at` selects with; 0 where it branches.
    pub(crate) fn selects(&self, at: InsnIdx) -> usize {
        self.selects.get(at.index()).copied().unwrap_or(0).into()
    }

    /// Whether the operation at `at` is emitted with a branch before it.
    pub(crate) fn selected(&self, at: InsnIdx) -> bool {
        let by = |back: usize| at.index().checked_sub(back).and_then(|at| self.selects.get(at));
        (1..=MOST).any(|back| by(back).is_some_and(|count| usize::from(*count) >= back))
    }
}

impl<E: Encode> Fast<'_, E> {
    /// Emits the branch at `at` and the operations behind it.
    pub(crate) fn select(&mut self, at: InsnIdx, branch: &Insn) -> bool {
        let chosen = InsnIdx(at.0 + self.opt.selects(at) as u32);
        let (Some(cond), Some(&insn)) = (Cond::of(at, branch), self.insns.get(chosen.index())) else { return false };
        self.write();
        // What is computed for the chosen one is computed in any case.
        for before in (at.0 + 1..chosen.0).map(InsnIdx) {
            let Some(&insn) = self.insns.get(before.index()) else { return false };
            self.opt.after = self.opt.liveness.after(at).with(self.opt.liveness.after(before)).with(self.opt.pinned);
            self.opt.after = self.opt.after.with(cond.uses());
            self.opt.live = self.opt.after.with(insn.uses());
            self.always(before, &insn);
        }
        self.opt.after = self.opt.liveness.after(chosen).with(self.opt.pinned);
        self.opt.live = self.opt.after.with(cond.uses()).with(insn.uses()).with(insn.defs());
        let cond = self.resolved(cond);
        match insn {
            Insn::Alu { op: AluOp::Mov, width, dst, src: Operand::Imm(value) } if self.set(cond, dst, width, value) => {
            }
            Insn::Alu { op, width, dst, src } => {
                self.choose(cond, dst, (width, src), |this| this.value_of(op, width, dst, src));
            }
            Insn::Neg { width, dst } => self.choose(cond, dst, (width, Operand::Reg(dst)), |this| {
                this.e.neg(width, E::SPARE, reg::<E>(dst));
                (E::SPARE, width == Width::W32)
            }),
            _ => return false,
        }
        true
    }

    /// Emits an operation that happens whatever the branch does.
    fn always(&mut self, at: InsnIdx, insn: &Insn) {
        match *insn {
            Insn::Alu { op, width, dst, src } => {
                self.alu(at, op, width, dst, src);
            }
            Insn::Neg { width, dst } => {
                self.settle(dst);
                self.release(dst);
                self.e.neg(width, reg::<E>(dst), reg::<E>(dst));
                self.defined(dst, width == Width::W32);
            }
            _ => {}
        }
    }

    /// `dst`, which is 0 or 1, unless the condition holds the other one: the condition as a number.
    fn set(&mut self, cond: Cond, dst: Reg, width: Width, other: i32) -> bool {
        let holds = match (self.opt.value(dst), constant(width, other)) {
            (Value::Const(1), 0) => Some(cond),
            (Value::Const(0), 1) => cond.inverse(),
            _ => None,
        };
        let Some(cond) = holds else { return false };
        self.assign_truth(cond, dst);
        true
    }

    /// `dst` is what it is if the condition holds, and if not `other`, which is computed from `src`: a register with it, and
    /// whether it has no bit above 31.
    fn choose(
        &mut self,
        cond: Cond,
        dst: Reg,
        (width, src): (Width, Operand),
        other: impl Fn(&mut Self) -> (E::Reg, bool),
    ) {
        // Computing one of these may compute another; the second time all of them stand still.
        for _ in 0..2 {
            self.release(dst);
            self.settle(dst);
            self.right_side(width, src);
            self.compared(cond);
        }
        let (value, narrow) = other(self);
        let (a, b) = self.compared(cond);
        self.e.select(cond.op, cond.width, a, b, reg::<E>(dst), value);
        let narrow = narrow && self.opt.narrow.contains(dst);
        self.defined(dst, narrow);
    }

    /// A register with the result of an operation on `dst`, and whether it has no bit above 31.
    fn value_of(&mut self, op: AluOp, width: Width, dst: Reg, src: Operand) -> (E::Reg, bool) {
        match (op.into(), self.right_side(width, src)) {
            (Alu::Mov, Rhs::Imm(value)) => {
                let value = constant(width, value);
                self.e.mov_imm(E::SPARE, value);
                (E::SPARE, value <= u32::MAX.into())
            }
            (Alu::Mov, Rhs::Reg(value)) if width == Width::W32 && !self.is_narrow(src) => {
                self.e.mov(width, E::SPARE, value);
                (E::SPARE, true)
            }
            (Alu::Mov, Rhs::Reg(value)) => (value, self.is_narrow(src)),
            (Alu::Bin(op), value) => {
                self.e.bin(op, width, E::SPARE, reg::<E>(dst), value);
                (E::SPARE, width == Width::W32)
            }
            (Alu::Div(_), _) => unreachable!("divisions are not plain"),
        }
    }

    fn is_narrow(&self, src: Operand) -> bool {
        let Operand::Reg(src) = src else { return false };
        let is = |r: Reg| self.opt.narrow.contains(r);
        match self.opt.value(src) {
            Value::Sum { base: Some(base), index: None, disp: 0 } => is(base),
            Value::Sum { .. } | Value::Const(_) | Value::Shift { .. } | Value::Product { .. } => false,
            Value::Low { .. } | Value::Load { .. } | Value::Truth { .. } | Value::Carry { .. } => false,
        }
    }
}
