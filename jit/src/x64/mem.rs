//! Loads, stores and addresses.

use rtbpf_isa::{Size, Width};

use super::regs::{Gpr, Mem};
use super::{Rm, X64, op, op8, op16};

pub(super) fn load(e: &mut X64, size: Size, signed: bool, d: Gpr, mem: Mem) {
    let (w, code) = match (size, signed) {
        (Size::B, false) => (Width::W32, 0x0fb6),
        (Size::H, false) => (Width::W32, 0x0fb7),
        (Size::W, false) => (Width::W32, 0x8b),
        (Size::D, _) => (Width::W64, 0x8b),
        (Size::B, true) => (Width::W64, 0x0fbe),
        (Size::H, true) => (Width::W64, 0x0fbf),
        (Size::W, true) => (Width::W64, 0x63),
    };
    e.rm(w, op(code), d as u8, Rm::Mem(mem));
}

pub(super) fn store(e: &mut X64, size: Size, mem: Mem, s: Gpr) {
    let (w, op) = match size {
        Size::B => (Width::W32, op8(0x88)),
        Size::H => (Width::W32, op16(0x89)),
        Size::W => (Width::W32, op(0x89)),
        Size::D => (Width::W64, op(0x89)),
    };
    e.rm(w, op, s as u8, Rm::Mem(mem));
}

pub(super) fn store_imm(e: &mut X64, size: Size, mem: Mem, value: i32) {
    match size {
        Size::B => {
            e.rm(Width::W32, op(0xc6), 0, Rm::Mem(mem));
            e.imm8(value as i8);
        }
        Size::H => {
            e.rm(Width::W32, op16(0xc7), 0, Rm::Mem(mem));
            e.asm.put(value as u16 as u64, 2);
        }
        Size::W => {
            e.rm(Width::W32, op(0xc7), 0, Rm::Mem(mem));
            e.imm32(value);
        }
        Size::D => {
            e.rm(Width::W64, op(0xc7), 0, Rm::Mem(mem));
            e.imm32(value);
        }
    }
}

pub(super) fn lea(e: &mut X64, w: Width, d: Gpr, mem: Mem) {
    e.rm(w, op(0x8d), d as u8, Rm::Mem(mem));
}
