//! Steps on numbers.

use rtbpf_isa::{AluOp, CmpOp, Insn, Operand, Reg, Size, Swap, Width};

use super::state::{ANY, Value};
use super::{Shaper, ones, weighted};
use crate::generate::code::Source;

impl Shaper<'_> {
    /// One to three operations on numbers.
    pub(super) fn arithmetic(&mut self) {
        for _ in 0..1 + self.rng.below(3) {
            match self.rng.below(10) {
                0 => self.fresh(),
                1 => self.bounded(),
                2 => self.unary(),
                3 => self.pointer_arithmetic(),
                _ => self.binary(),
            }
        }
    }

    fn fresh(&mut self) {
        let dst = self.target();
        let scalars = self.state.registers(Value::is_scalar);
        match self.rng.choose(&scalars) {
            Some(src) if self.rng.chance(1, 2) => {
                self.code.mov(dst, src);
                self.state.set(dst, self.state.get(src));
            }
            _ => {
                let value = self.rng.edge();
                self.code.constant(dst, value);
                self.state.set(dst, Value::Scalar(value, value));
            }
        }
    }

    /// An operand with which `op` is defined: no shift by the width, no division by an immediate zero.
    fn operand(&mut self, op: AluOp, width: Width) -> Operand {
        let scalars = self.state.registers(Value::is_scalar);
        if self.rng.chance(1, 2)
            && let Some(reg) = self.rng.choose(&scalars)
        {
            return Operand::Reg(reg);
        }
        let edge = self.rng.edge() as i32;
        Operand::Imm(match op {
            AluOp::Lsh | AluOp::Rsh | AluOp::Arsh => self.rng.below(u64::from(width.bits())) as i32,
            AluOp::Div | AluOp::Mod | AluOp::Sdiv | AluOp::Smod if edge == 0 => 7,
            _ => edge,
        })
    }

    fn binary(&mut self) {
        let dst = self.scalar();
        if !self.state.is_free(dst) {
            return;
        }
        let op = self.rng.pick(&AluOp::ALL);
        let width = self.rng.pick(&[Width::W32, Width::W64]);
        let src = self.operand(op, width);
        self.code.push(Insn::Alu { op, width, dst, src });
        let Value::Scalar(low, high) = self.state.get(dst) else { return };
        let wide = width == Width::W64;
        let value = match (op, src) {
            (AluOp::And, Operand::Imm(imm)) if imm >= 0 => Value::Scalar(0, high.min(imm as u64)),
            (AluOp::Mod, Operand::Imm(imm)) if imm > 0 => Value::Scalar(0, imm as u64 - 1),
            (AluOp::Rsh, Operand::Imm(imm)) if wide => Value::Scalar(low >> imm, high >> imm),
            (AluOp::Mov, Operand::Imm(imm)) if wide => Value::Scalar(imm as u64, imm as u64),
            (AluOp::Mov, Operand::Reg(reg)) if wide => self.state.get(reg),
            (AluOp::Add, Operand::Imm(imm)) if imm >= 0 && wide && high < 1 << 40 => {
                Value::Scalar(low + imm as u64, high + imm as u64)
            }
            _ if !wide => Value::Scalar(0, u64::from(u32::MAX)),
            _ => ANY,
        };
        self.state.set(dst, value);
    }

    fn unary(&mut self) {
        let dst = self.scalar();
        if !self.state.is_free(dst) {
            return;
        }
        let width = self.rng.pick(&[Width::W32, Width::W64]);
        let size = self.rng.pick(&[Size::H, Size::W, Size::D]);
        match self.rng.below(3) {
            0 => self.code.push(Insn::Neg { width, dst }),
            1 => {
                let kind = self.rng.pick(&[Swap::ToLe, Swap::ToBe, Swap::Bswap]);
                self.code.push(Insn::Swap { kind, size, dst });
                self.state.set(dst, Value::Scalar(0, ones(size)));
                return;
            }
            _ => {
                let src = self.scalar();
                let from = if width == Width::W64 { self.rng.pick(&[Size::B, Size::H, Size::W]) } else { Size::B };
                self.code.push(Insn::MovSx { width, from, dst, src });
            }
        }
        self.state.set(dst, if width == Width::W64 { ANY } else { Value::Scalar(0, u64::from(u32::MAX)) });
    }

    /// Brings a number below a small bound, by mask, remainder, shift or comparison; returns it.
    pub(super) fn bound(&mut self, most: u64) -> Option<Reg> {
        let reg = self.scalar();
        if !self.state.is_free(reg) {
            return None;
        }
        let bound = match weighted(self.rng, &[(0, 6), (1, 1), (2, 6), (3, 7)]) {
            0 => {
                let mask = (most + 1).next_power_of_two() / 2;
                let mask = if mask * 2 == most + 1 { most } else { mask.saturating_sub(1) };
                self.code.alu(AluOp::And, reg, mask as i32);
                mask
            }
            1 => {
                let width = self.rng.pick(&[Width::W32, Width::W64]);
                self.code.push(Insn::Alu { op: AluOp::Mod, width, dst: reg, src: Operand::Imm(most as i32 + 1) });
                most
            }
            2 => {
                // Shift out all but the bits that fit.
                let bits = 63 - (most + 1).leading_zeros();
                if bits == 0 {
                    self.code.mov(reg, 0);
                } else {
                    self.code.alu(AluOp::Rsh, reg, 64 - bits as i32);
                }
                (1u64 << bits) - 1
            }
            _ => {
                let width = self.rng.pick(&[Width::W32, Width::W64]);
                if width == Width::W32 {
                    self.code.push(Insn::Alu { op: AluOp::Mov, width, dst: reg, src: Operand::Reg(reg) });
                }
                let signed = self.rng.chance(1, 3);
                let over = self.code.label();
                let imm = Operand::Imm(most as i32);
                if signed {
                    let low = Insn::Branch { op: CmpOp::Slt, width: Width::W64, lhs: reg, rhs: Operand::Imm(0), to: 0 };
                    let ok = self.code.label();
                    self.code.push_to(low, over);
                    self.code.push_to(Insn::Branch { op: CmpOp::Sle, width, lhs: reg, rhs: imm, to: 0 }, ok);
                    self.code.bind(over);
                    self.code.mov(reg, 0);
                    self.code.bind(ok);
                } else {
                    self.code.push_to(Insn::Branch { op: CmpOp::Le, width, lhs: reg, rhs: imm, to: 0 }, over);
                    let value = self.rng.below(most + 1) as i32;
                    self.code.mov(reg, value);
                    self.code.bind(over);
                }
                most
            }
        };
        self.state.set(reg, Value::Scalar(0, bound));
        Some(reg)
    }

    fn bounded(&mut self) {
        let most = self.rng.pick(&[1, 3, 7, 8, 15, 31, 63, 255, 1000]);
        self.bound(most);
    }

    /// Copies a pointer, moves it by a constant, or subtracts two into the same memory.
    fn pointer_arithmetic(&mut self) {
        let pointers = self.state.registers(|value| {
            matches!(value, Value::Mem { null: false, .. } | Value::Packet { .. } | Value::Stack(_))
        });
        let Some(src) = self.rng.choose(&pointers) else { return };
        let dst = self.target();
        if src != dst {
            self.code.mov(dst, src);
        }
        if self.rng.chance(1, 6) {
            // A pointer minus a pointer is a number, and so is what 32-bit arithmetic leaves of one, where allowed.
            if matches!(self.state.get(src), Value::Packet { .. }) && src != dst {
                self.code.alu(AluOp::Sub, dst, src);
                self.state.set(dst, ANY);
                return;
            }
        }
        let step = self.rng.below(9) as i32;
        self.code.alu(AluOp::Add, dst, Source::from(step));
        let moved = match self.state.get(src) {
            Value::Mem { place, id, size, low, high, null } => {
                Value::Mem { place, id, size, low: low + step as u32, high: high + step as u32, null }
            }
            Value::Packet { base, off, range } => Value::Packet { base, off: off + step, range },
            Value::Stack(off) => Value::Stack(off + step),
            other => other,
        };
        self.state.set(dst, moved);
    }
}
