//! Values that are known but not yet computed.
//!
//! Within a block each register of the program has a value, written over the *machine* contents of registers. Moves,
//! additions, small shifts and constants only change the value; code is emitted when something needs it, as one
//! address, one `lea`, one rotate, or not at all.
//!
//! Invariant: the registers that values refer to, drawn as arrows between different registers, form no cycle. Where a value
//! would close one, what refers to the contents of its register is computed first, and the value is looked at again. As
//! computing a value may compute others, registers of the machine are asked for last.

use rtbpf_isa::effects::RegSet;
use rtbpf_isa::{CmpOp, Operand, Reg, Size, Width};

use crate::encode::Addr;

/// One register's value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Value {
    /// `base + (index << shift) + disp`; at least one of base and index is there.
    Sum { base: Option<Reg>, index: Option<(Reg, u8)>, disp: i32 },
    /// A constant.
    Const(u64),
    /// A shift by 1 to width - 1; logical. The result of a 32-bit one is zero-extended.
    Shift { width: Width, left: bool, of: Reg, by: u8 },
    /// `of + (of << shift)`, shifted by 1 to width - 1. The result of a 32-bit one is zero-extended.
    Product { width: Width, of: Reg, shift: u8 },
    /// The low bytes, up to four, zero-extended.
    Low { size: Size, of: Reg },
    /// What memory holds, zero-extended; memory does not change before it is computed.
    Load { size: Size, at: Place },
    /// 1 if `lhs op rhs`, else 0.
    Truth { op: CmpOp, width: Width, lhs: Reg, rhs: Operand },
    /// 1 if the sum of two 64-bit numbers is too large for one, else 0.
    Carry { a: Reg, b: Reg },
}

/// `base + (index << shift) + disp`, an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    pub base: Reg,
    pub index: Option<(Reg, u8)>,
    pub disp: i32,
}

impl Place {
    pub fn new(base: Reg, disp: i32) -> Place {
        Place { base, index: None, disp }
    }

    pub fn refs(self) -> RegSet {
        self.index.map_or(RegSet::EMPTY, |(index, _)| RegSet::of(index)).with(RegSet::of(self.base))
    }

    pub fn plus(self, by: i32) -> Option<Place> {
        Some(Place { disp: self.disp.checked_add(by)?, ..self })
    }

    /// Whether `len` bytes here and `other_len` at `other` surely have none in common.
    pub fn is_apart(self, len: i32, other: Place, other_len: i32) -> bool {
        let distance = i64::from(other.disp) - i64::from(self.disp);
        (self.base, self.index) == (other.base, other.index)
            && !(-i64::from(other_len) + 1..len.into()).contains(&distance)
    }

    pub fn addr<R>(self, machine: impl Fn(Reg) -> R) -> Addr<R> {
        let index = self.index.map(|(index, shift)| (machine(index), shift));
        Addr { base: machine(self.base), index, disp: self.disp }
    }
}

impl Value {
    /// What the register itself holds.
    pub const fn of(reg: Reg) -> Value {
        Value::Sum { base: Some(reg), index: None, disp: 0 }
    }

    /// The registers it refers to.
    pub fn refs(self) -> RegSet {
        match self {
            Value::Sum { base, index, .. } => {
                let base = base.map_or(RegSet::EMPTY, RegSet::of);
                index.map_or(base, |(index, _)| base.with(RegSet::of(index)))
            }
            Value::Load { at, .. } => at.refs(),
            Value::Const(_) => RegSet::EMPTY,
            Value::Shift { of, .. } | Value::Product { of, .. } | Value::Low { of, .. } => RegSet::of(of),
            Value::Truth { lhs, rhs: Operand::Reg(rhs), .. } => RegSet::of(lhs).with(RegSet::of(rhs)),
            Value::Truth { lhs, rhs: Operand::Imm(_), .. } => RegSet::of(lhs),
            Value::Carry { a, b } => RegSet::of(a).with(RegSet::of(b)),
        }
    }

    /// As the address of memory at `off` from it.
    pub fn place(self, off: i32) -> Option<Place> {
        match self.plus(off)? {
            Value::Sum { base: Some(base), index, disp } => Some(Place { base, index, disp }),
            Value::Sum { .. } | Value::Const(_) | Value::Shift { .. } | Value::Product { .. } => None,
            Value::Low { .. } | Value::Load { .. } | Value::Truth { .. } | Value::Carry { .. } => None,
        }
    }

    /// The register of which it is a copy.
    pub fn copied(self) -> Option<Reg> {
        match self {
            Value::Sum { base: Some(base), index: None, disp: 0 } => Some(base),
            Value::Sum { .. } | Value::Const(_) | Value::Shift { .. } | Value::Product { .. } => None,
            Value::Low { .. } | Value::Load { .. } | Value::Truth { .. } | Value::Carry { .. } => None,
        }
    }

    /// `self + by`.
    pub fn plus(self, by: i32) -> Option<Value> {
        match self {
            Value::Sum { base, index, disp } => Some(Value::Sum { base, index, disp: disp.checked_add(by)? }),
            Value::Const(value) => Some(Value::Const(value.wrapping_add(by as i64 as u64))),
            Value::Shift { .. }
            | Value::Product { .. }
            | Value::Low { .. }
            | Value::Load { .. }
            | Value::Truth { .. }
            | Value::Carry { .. } => None,
        }
    }

    /// `self + other`.
    pub fn sum(self, other: Value) -> Option<Value> {
        if let Value::Const(value) = other {
            return match self {
                Value::Const(mine) => Some(Value::Const(mine.wrapping_add(value))),
                _ => self.plus(i32::try_from(value as i64).ok()?),
            };
        }
        if let Value::Const(_) = self {
            return other.sum(self);
        }
        let (Value::Sum { base: b0, index: i0, disp: d0 }, Value::Sum { base: b1, index: i1, disp: d1 }) =
            (self, other)
        else {
            return None;
        };
        let disp = d0.checked_add(d1)?;
        let terms = [b0.map(|b| (b, 0)), i0, b1.map(|b| (b, 0)), i1];
        let mut terms = terms.into_iter().flatten();
        let (first, second) = (terms.next()?, terms.next());
        if terms.next().is_some() {
            return None;
        }
        // At most one of two terms may be scaled, and it is the index.
        let (base, index) = match (first, second) {
            ((base, 0), index) => (Some(base), index),
            (index, None) => (None, Some(index)),
            (index, Some((base, 0))) => (Some(base), Some(index)),
            (_, Some(_)) => return None,
        };
        Some(Value::Sum { base, index, disp })
    }

    /// `self << by`, where that is still a sum.
    pub fn scaled(self, by: u8) -> Option<Value> {
        match self {
            Value::Sum { base: Some(reg), index: None, disp } if (1..=3).contains(&by) => {
                let disp = disp.checked_mul(1 << by)?;
                Some(Value::Sum { base: None, index: Some((reg, by)), disp })
            }
            Value::Sum { base: None, index: Some((reg, shift)), disp } if by <= 3 - shift.min(3) => {
                Some(Value::Sum { base: None, index: Some((reg, shift + by)), disp: disp.checked_mul(1 << by)? })
            }
            Value::Const(value) => Some(Value::Const(value.wrapping_shl(by.into()))),
            Value::Sum { .. } | Value::Shift { .. } | Value::Product { .. } => None,
            Value::Low { .. } | Value::Load { .. } | Value::Truth { .. } | Value::Carry { .. } => None,
        }
    }

    /// The same value after the contents of `reg` grew by `by`.
    pub fn rebased(self, reg: Reg, by: i32) -> Option<Value> {
        match self {
            Value::Sum { base, index, disp } => {
                let shift = index.filter(|(index, _)| *index == reg).map(|(_, shift)| shift);
                let times = (base == Some(reg)) as i64 + shift.map_or(0, |shift| 1 << shift);
                let by = by as i64 * times;
                let disp = i32::try_from(disp as i64 - by).ok()?;
                Some(Value::Sum { base, index, disp })
            }
            Value::Const(_) => Some(self),
            Value::Shift { of, .. } | Value::Product { of, .. } | Value::Low { of, .. } => (of != reg).then_some(self),
            Value::Load { .. } | Value::Truth { .. } | Value::Carry { .. } => {
                (!self.refs().contains(reg)).then_some(self)
            }
        }
    }

    /// As a shift: width, direction, operand, count.
    pub fn shift(self) -> Option<(Width, bool, Reg, u8)> {
        match self {
            Value::Shift { width, left, of, by } => Some((width, left, of, by)),
            Value::Sum { base: None, index: Some((of, by)), disp: 0 } if by != 0 => Some((Width::W64, true, of, by)),
            Value::Sum { .. } | Value::Const(_) | Value::Product { .. } => None,
            Value::Low { .. } | Value::Load { .. } | Value::Truth { .. } | Value::Carry { .. } => None,
        }
    }
}
