//! Jumps.

use rtbpf_isa::{CmpOp, Size, Width};

use super::regs::{Gpr, Mem, T0};
use super::{A64, alu, imm, mem};
use crate::asm::{Field, Label};
use crate::encode::{Reach, Rhs};

/// Condition codes (Arm ARM C1.2.4); the lowest bit inverts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Cond(u32);

pub(super) const MI: Cond = Cond(4);

fn condition(op: CmpOp) -> Cond {
    Cond(match op {
        CmpOp::Eq => 0,
        CmpOp::Ne | CmpOp::Set => 1,
        CmpOp::Ge => 2,
        CmpOp::Lt => 3,
        CmpOp::Gt => 8,
        CmpOp::Le => 9,
        CmpOp::Sge => 10,
        CmpOp::Slt => 11,
        CmpOp::Sgt => 12,
        CmpOp::Sle => 13,
    })
}

/// A branch of 19 bits, and how to invert it.
#[derive(Clone, Copy)]
struct Short {
    code: u32,
    invert: u32,
}

pub(super) fn jump(e: &mut A64, to: Label) {
    e.asm.refer(to, Field::Imm26);
    e.asm.put(0x1400_0000, 4);
}

fn emit(e: &mut A64, short: Short, to: Label, reach: Reach) {
    let near = match e.asm.place(to) {
        Some(place) => e.asm.here() - place < 1 << 20,
        None => reach != Reach::Far,
    };
    if near {
        e.asm.refer(to, Field::Imm19);
        e.asm.put(short.code as u64, 4);
    } else {
        // The inverse, over the long jump.
        e.asm.put((short.code ^ short.invert | 2 << 5) as u64, 4);
        jump(e, to);
    }
}

pub(super) fn on(e: &mut A64, cond: Cond, to: Label, reach: Reach) {
    emit(e, Short { code: 0x5400_0000 | cond.0, invert: 1 }, to, reach);
}

/// Jumps if a register is zero, or if it is not.
pub(super) fn zero(e: &mut A64, is: bool, w: Width, reg: Gpr, to: Label, reach: Reach) {
    let code = match w {
        Width::W32 => 0x3400_0000,
        Width::W64 => 0xb400_0000,
    };
    let code = code | (!is as u32) << 24 | reg.number() as u32;
    emit(e, Short { code, invert: 1 << 24 }, to, reach);
}

pub(super) fn branch(e: &mut A64, op: CmpOp, w: Width, a: Gpr, b: Rhs<Gpr>, to: Label, reach: Reach) {
    match (op, b) {
        (CmpOp::Eq, Rhs::Imm(0)) => return zero(e, true, w, a, to, reach),
        (CmpOp::Ne, Rhs::Imm(0)) => return zero(e, false, w, a, to, reach),
        (_, b) => compare(e, op, w, a, b),
    }
    on(e, condition(op), to, reach);
}

pub(super) fn select(e: &mut A64, op: CmpOp, w: Width, a: Gpr, b: Rhs<Gpr>, d: Gpr, s: Gpr) {
    compare(e, op, w, a, b);
    // csel: the first operand if the condition holds.
    let (d, s) = (d.number() as u32, s.number() as u32);
    e.asm.put((0x9a80_0000 | s << 16 | condition(op).0 << 12 | d << 5 | d) as u64, 4);
}

pub(super) fn set(e: &mut A64, op: CmpOp, w: Width, a: Gpr, b: Rhs<Gpr>, d: Gpr) {
    compare(e, op, w, a, b);
    // cset, which is csinc of zeros on the inverse.
    e.asm.put((0x9a9f_07e0 | (condition(op).0 ^ 1) << 12 | d.number() as u32) as u64, 4);
}

pub(super) fn add_truth(e: &mut A64, op: CmpOp, compared: Width, a: Gpr, b: Rhs<Gpr>, w: Width, d: Gpr) {
    compare(e, op, compared, a, b);
    // cinc, which is csinc of one register on the inverse.
    let (sf, d) = (u32::from(w == Width::W64), d.number() as u32);
    e.asm.put((0x1a80_0400 | sf << 31 | d << 16 | (condition(op).0 ^ 1) << 12 | d << 5 | d) as u64, 4);
}

fn compare(e: &mut A64, op: CmpOp, w: Width, a: Gpr, b: Rhs<Gpr>) {
    match (op, b) {
        (CmpOp::Set, Rhs::Imm(value)) if imm::is_logical(w, value) => match w {
            Width::W32 => asm!(e.asm ; tst W(a), value as u32),
            Width::W64 => asm!(e.asm ; tst X(a), value as i64 as u64),
        },
        (CmpOp::Set, Rhs::Imm(value)) => {
            let b = alu::constant(e, w, T0, value);
            wx!(e, w ; tst a, b);
        }
        (CmpOp::Set, Rhs::Reg(b)) => wx!(e, w ; tst a, b),
        (_, Rhs::Imm(value)) => compare_imm(e, w, a, value),
        (_, Rhs::Reg(b)) => wx!(e, w ; cmp a, b),
    }
}

fn compare_imm(e: &mut A64, w: Width, a: Gpr, value: i32) {
    match (value.unsigned_abs(), value < 0, w) {
        (0xfff.., true, _) | (0x1000.., _, _) => {
            let b = alu::constant(e, w, T0, value);
            wx!(e, w ; cmp a, b);
        }
        (value, false, Width::W32) => asm!(e.asm ; cmp WSP(a), value),
        (value, false, Width::W64) => asm!(e.asm ; cmp XSP(a), value),
        (value, true, Width::W32) => asm!(e.asm ; cmn WSP(a), value),
        (value, true, Width::W64) => asm!(e.asm ; cmn XSP(a), value),
    }
}

/// The budget is the lowest word of the native frame.
pub(super) fn may_goto(e: &mut A64, to: Label, reach: Reach) {
    asm!(e.asm ; ldr X(T0), [sp]);
    zero(e, true, Width::W64, T0, to, reach);
    asm!(e.asm ; sub XSP(T0), XSP(T0), 1 ; str X(T0), [sp]);
}

/// Jumps if the word at `mem` is not zero.
pub(super) fn nonzero_word(e: &mut A64, at: Mem, to: Label) {
    mem::load(e, Size::W, false, T0, at);
    zero(e, false, Width::W32, T0, to, Reach::Far);
}

pub(super) fn align(e: &mut A64, bytes: usize) {
    while !(e.asm.here() as usize).is_multiple_of(bytes.max(4)) {
        asm!(e.asm ; nop);
    }
}
