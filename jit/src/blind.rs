//! Constant blinding: no constant of the program stands in its code.
//!
//! Who chooses a program's constants chooses bytes of executable memory, which other bugs may be made to jump to. With
//! [`Options::harden`](crate::Options::harden) a constant `v` is written as `v ^ mask`, then `mask` is taken away in a
//! register, with another unguessable `mask` each time. Instructions are emitted so one by one, none is rewritten: branches
//! stay what they are.
//!
//! What stays: distances of memory accesses (16 bits), shift counts (6 bits), numbers of maps and helpers.

use rtbpf_isa::{AluOp, Imm64, Insn, InsnIdx, Operand, Width};

use crate::asm::Label;
use crate::encode::{Addr, Alu, Bin, Encode, Rhs};
use crate::fast::{Fast, reg};

/// The masks of one compilation (splitmix64).
pub(crate) struct Masks(u64);

impl Masks {
    pub fn new(seed: u64) -> Masks {
        Masks(seed)
    }

    fn next(&mut self) -> i32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb) >> 32) as i32
    }
}

impl<E: Encode> Fast<'_, E> {
    /// Emits an instruction with its constant blinded; whether it did, because there is one.
    pub(crate) fn blinded(&mut self, at: InsnIdx, insn: &Insn) -> bool {
        if self.masks.is_none() {
            return false;
        }
        match *insn {
            Insn::Alu { op: AluOp::Lsh | AluOp::Rsh | AluOp::Arsh, .. } => return false,
            Insn::Alu { op, width, dst, src: Operand::Imm(value) } => {
                let dst = reg::<E>(dst);
                match op.into() {
                    Alu::Mov => self.constant(width, dst, value),
                    Alu::Bin(op) => {
                        self.constant(width, E::SPARE, value);
                        self.e.bin(op, width, dst, dst, Rhs::Reg(E::SPARE));
                    }
                    Alu::Div(op) => {
                        self.constant(width, E::SPARE, value);
                        self.e.divide(op, width, dst, Rhs::Reg(E::SPARE), value != 0);
                    }
                }
            }
            Insn::Imm { dst, value: Imm64::Const([low, high]) } => {
                let dst = reg::<E>(dst);
                self.constant(Width::W32, dst, high as i32);
                self.e.bin(Bin::Lsh, Width::W64, dst, dst, Rhs::Imm(32));
                self.constant(Width::W32, E::SPARE, low as i32);
                self.e.bin(Bin::Or, Width::W64, dst, dst, Rhs::Reg(E::SPARE));
            }
            Insn::Store { size, base, off, src: Operand::Imm(value) } => {
                let (size, off) = self.native(at, size, off);
                self.constant(Width::W64, E::SPARE, value);
                self.e.store(size, Addr::new(reg::<E>(base), off), E::SPARE);
            }
            Insn::Branch { op, width, lhs, rhs: Operand::Imm(value), to } => {
                let (target, reach) = (Label(at.target(to).0), self.reach(at, to));
                self.constant(width, E::SPARE, value);
                self.e.branch(op, width, reg::<E>(lhs), Rhs::Reg(E::SPARE), target, reach);
            }
            Insn::Packet { size, index, off } => {
                self.constant(Width::W32, E::SPARE, off);
                if let Some(index) = index {
                    self.e.bin(Bin::Add, Width::W32, E::SPARE, E::SPARE, Rhs::Reg(reg::<E>(index)));
                }
                self.packet(size, Some(E::SPARE), 0);
            }
            Insn::Alu { .. } | Insn::MovSx { .. } | Insn::Neg { .. } | Insn::Swap { .. } => return false,
            Insn::AddrCast { .. } | Insn::Imm { .. } | Insn::Load { .. } | Insn::Store { .. } => return false,
            Insn::Atomic { .. } | Insn::LoadAcquire { .. } | Insn::StoreRelease { .. } => return false,
            Insn::Jump { .. } | Insn::Branch { .. } | Insn::MayGoto { .. } => return false,
            Insn::Call(_) | Insn::Exit | Insn::Bad { .. } => return false,
        }
        true
    }

    /// `d = value`, sign-extended to 64 bits or zero-extended from 32.
    fn constant(&mut self, width: Width, d: E::Reg, value: i32) {
        let mask = self.masks.as_mut().map_or(0, Masks::next);
        self.e.mov_imm(d, crate::fast::constant(width, value ^ mask));
        self.e.bin(Bin::Xor, width, d, d, Rhs::Imm(mask));
    }
}
