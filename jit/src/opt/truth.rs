//! Conditions as numbers, for as long as nobody needs the number.
//!
//! ```text
//! w3 = 1; if r1 > r2 goto +1; w3 = 0                becomes      (nothing)
//! if w3 != 0 goto far                                            if r1 > r2 goto far
//!
//! w3 = 1; if r1 < r2 goto +1; w3 = 0; r0 += r3      becomes      compare r1, r2; r0 += carry
//!
//! w3 = 1; r0 += r1; if r0 < r1 goto +1; w3 = 0; r0 += r3
//!                                               becomes      r0 += r1; r0 += carry
//! ```
//!
//! The registers that are compared hold what they held; when one of them changes, the number is computed.

use rtbpf_isa::{CmpOp, Operand, Reg, Width};

use super::exits::Cond;
use super::value::Value;
use crate::encode::{Bin, Encode, Rhs};
use crate::fast::{Fast, reg};

impl<E: Encode> Fast<'_, E> {
    /// Gives `dst` the number of `cond`, 0 or 1.
    pub(super) fn assign_truth(&mut self, cond: Cond, dst: Reg) {
        if let Some(carry) = self.carry(cond) {
            self.avoid_cycle(dst, carry.refs());
            if self.carry(cond) == Some(carry) {
                return self.assign(dst, carry);
            }
        }
        let (lhs, rhs) = self.sides(cond);
        let truth = |lhs, rhs| Value::Truth { op: cond.op, width: cond.width, lhs, rhs };
        // Computing what refers to `dst` may compute the sides; then they stand still.
        self.avoid_cycle(dst, truth(lhs, rhs).refs());
        let (lhs, rhs) = self.sides(cond);
        self.assign(dst, truth(lhs, rhs));
    }

    /// A sum that is less than what went into it, as the carry of the addition, which was not computed yet.
    fn carry(&self, cond: Cond) -> Option<Value> {
        let (sum, part) = match (cond.op, cond.width, cond.lhs, cond.rhs) {
            (CmpOp::Lt, Width::W64, sum, Operand::Reg(part)) => (sum, part),
            (CmpOp::Gt, Width::W64, part, Operand::Reg(sum)) => (sum, part),
            _ => return None,
        };
        let Value::Sum { base: Some(a), index: Some((b, 0)), disp: 0 } = self.opt.value(sum) else { return None };
        let part = self.opt.value(part).copied()?;
        (part == a || part == b).then_some(Value::Carry { a, b })
    }

    /// `dst += src`, where `dst` is a sum and `src` its carry, and neither was computed yet.
    fn add_carry(&mut self, dst: Reg, src: Reg) -> bool {
        let parts = |this: &Self| match (this.opt.value(dst), this.opt.value(src)) {
            (Value::Sum { base: Some(a), index: Some((b, 0)), disp: 0 }, Value::Carry { a: c, b: d }) => {
                ((a, b) == (c, d) || (a, b) == (d, c)).then_some((a, b))
            }
            _ => None,
        };
        if parts(self).is_none() {
            return false;
        }
        self.release_but(dst, src);
        let Some((a, b)) = parts(self) else { return false };
        self.opt.set(src, Value::of(src));
        self.e.add_carry(reg::<E>(a), reg::<E>(b), reg::<E>(dst));
        self.defined(dst, false);
        true
    }

    /// The condition that `cond` asks for, if it is about the number of another one.
    pub(super) fn resolved(&self, cond: Cond) -> Cond {
        let Value::Truth { op, width, lhs, rhs } = self.opt.value(cond.lhs) else { return cond };
        let holds = match (cond.op, cond.rhs) {
            (CmpOp::Ne, Operand::Imm(0)) | (CmpOp::Eq, Operand::Imm(1)) => Some(op),
            (CmpOp::Eq, Operand::Imm(0)) | (CmpOp::Ne, Operand::Imm(1)) => op.inverse(),
            _ => None,
        };
        let stands = |operand: Operand| match operand {
            Operand::Reg(reg) => self.opt.value(reg) == Value::of(reg),
            Operand::Imm(_) => true,
        };
        match holds {
            Some(op) if stands(Operand::Reg(lhs)) && stands(rhs) => Cond { at: cond.at, op, width, lhs, rhs },
            Some(_) | None => cond,
        }
    }

    /// `dst += src`, where `src` is the number of a condition that the machine adds, and nobody else reads it.
    pub(super) fn add_truth(&mut self, op: Bin, width: Width, dst: Reg, src: Operand) -> bool {
        let (Bin::Add, Operand::Reg(src)) = (op, src) else { return false };
        if width == Width::W64 && src != dst && !self.opt.after.contains(src) && self.add_carry(dst, src) {
            return true;
        }
        let truth = |this: &Self| match this.opt.value(src) {
            Value::Truth { op, width, lhs, rhs } => Some((op, width, lhs, rhs)),
            _ => None,
        };
        let adds = |(op, width, _, rhs): (CmpOp, Width, Reg, Operand)| E::adds_truth(op, width, right::<E>(rhs));
        if src == dst || self.opt.after.contains(src) || !truth(self).is_some_and(adds) {
            return false;
        }
        self.settle(dst);
        // What else refers to `dst` may be computed into one of the sides, and then the number before it.
        self.release_but(dst, src);
        let Some((op, compared, lhs, rhs)) = truth(self) else { return false };
        self.opt.set(src, Value::of(src));
        self.e.add_truth(op, compared, reg::<E>(lhs), right::<E>(rhs), width, reg::<E>(dst));
        self.defined(dst, width == Width::W32);
        true
    }
}

pub(super) fn right<E: Encode>(operand: Operand) -> Rhs<E::Reg> {
    match operand {
        Operand::Reg(r) => Rhs::Reg(reg::<E>(r)),
        Operand::Imm(value) => Rhs::Imm(value),
    }
}
