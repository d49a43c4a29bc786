//! Which bits of a number may be set, within a block.
//!
//! ```text
//! w4 = *(u8 *)(r5 + 0); w4 &= 3; w6 <<= 2; w4 |= w6; w4 |= 0x400         becomes         r4 + r6 * 4 + 0x400
//! ```
//!
//! Where no bit may be set on both sides, `or` is a sum: compilers write `|` where they know that. And a mask that clears
//! nothing is none.

use rtbpf_isa::{Operand, Reg, Width};

use super::Opt;
use super::value::Value;
use crate::fast::constant;

const LOW: u64 = u32::MAX as u64;

/// Bits of a sum of two numbers.
pub(super) fn sum(a: u64, b: u64) -> u64 {
    match (a & b, a.checked_add(b)) {
        (0, _) => a | b,
        (_, Some(0)) => 0,
        (_, Some(most)) => u64::MAX >> most.leading_zeros(),
        (_, None) => u64::MAX,
    }
}

fn shifted(width: Width, left: bool, ones: u64, by: u8) -> u64 {
    match (width, left) {
        (Width::W64, true) => ones << (by & 63),
        (Width::W64, false) => ones >> (by & 63),
        (Width::W32, true) => (ones & LOW) << (by & 31) & LOW,
        (Width::W32, false) => (ones & LOW) >> (by & 31),
    }
}

impl Opt {
    /// Bits that may be set in the contents of `reg`.
    pub(super) fn ones(&self, reg: Reg) -> u64 {
        let narrow = if self.narrow.contains(reg) { LOW } else { u64::MAX };
        self.ones[reg.index()] & narrow
    }

    /// Bits that may be set in what `reg` is.
    pub(super) fn ones_of(&self, reg: Reg) -> u64 {
        self.ones_in(self.value(reg))
    }

    pub(super) fn ones_in(&self, value: Value) -> u64 {
        match value {
            Value::Const(value) => value,
            Value::Sum { disp: ..0, .. } => u64::MAX,
            Value::Sum { base, index, disp } => {
                let base = base.map_or(0, |base| self.ones(base));
                let index = index.map_or(0, |(index, by)| match self.ones(index) {
                    ones if ones.leading_zeros() >= by.into() => ones << by,
                    _ => u64::MAX,
                });
                sum(sum(base, index), disp as u64)
            }
            Value::Shift { width, left, of, by } => shifted(width, left, self.ones(of), by),
            Value::Product { width: Width::W64, .. } => u64::MAX,
            Value::Product { width: Width::W32, .. } => LOW,
            Value::Low { size, of } => self.ones(of) & u64::MAX >> (64 - size.bits()),
            Value::Load { size, .. } => u64::MAX >> (64 - size.bits()),
            Value::Truth { .. } | Value::Carry { .. } => 1,
        }
    }

    /// Bits that may be set in an operand of `width`.
    pub(super) fn ones_of_operand(&self, width: Width, operand: Operand) -> u64 {
        match (operand, width) {
            (Operand::Imm(value), width) => constant(width, value),
            (Operand::Reg(reg), Width::W64) => self.ones_of(reg),
            (Operand::Reg(reg), Width::W32) => self.ones_of(reg) & LOW,
        }
    }
}
