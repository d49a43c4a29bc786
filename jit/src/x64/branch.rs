//! Jumps.

use rtbpf_isa::{CmpOp, Size, Width};

use super::regs::{Gpr, Mem};
use super::{Rm, X64, alu, as_i8, memory_imm, op, op8, sized};
use crate::asm::{Field, Label};
use crate::encode::{Reach, Rhs};

/// Condition codes.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Cc {
    B = 2,
    Ae = 3,
    E = 4,
    Ne = 5,
    Be = 6,
    A = 7,
    S = 8,
    L = 12,
    Ge = 13,
    Le = 14,
    G = 15,
}

impl Cc {
    fn of(op: CmpOp) -> Cc {
        match op {
            CmpOp::Eq => Cc::E,
            CmpOp::Ne | CmpOp::Set => Cc::Ne,
            CmpOp::Gt => Cc::A,
            CmpOp::Ge => Cc::Ae,
            CmpOp::Lt => Cc::B,
            CmpOp::Le => Cc::Be,
            CmpOp::Sgt => Cc::G,
            CmpOp::Sge => Cc::Ge,
            CmpOp::Slt => Cc::L,
            CmpOp::Sle => Cc::Le,
        }
    }
}

pub(super) fn jump(e: &mut X64, to: Label, reach: Reach) {
    emit(e, None, to, reach);
}

pub(super) fn short(e: &mut X64, cc: Cc, to: Label) {
    emit(e, Some(cc), to, Reach::Short);
}

pub(super) fn short_jump(e: &mut X64, to: Label) {
    emit(e, None, to, Reach::Short);
}

pub(super) fn jcc(e: &mut X64, cc: Cc, to: Label, reach: Reach) {
    emit(e, Some(cc), to, reach);
}

fn emit(e: &mut X64, cc: Option<Cc>, to: Label, reach: Reach) {
    if let Some(place) = e.asm.place(to) {
        // Two bytes of the instruction itself, six in the long form.
        let distance = place as i64 - e.asm.here() as i64;
        if let Ok(distance) = i8::try_from(distance - 2) {
            return e.asm.put(short_code(cc) | (distance as u8 as u64) << 8, 2);
        }
        let (code, len) = long_code(cc);
        e.asm.put(code, len);
        return e.imm32((distance - len as i64 - 4) as i32);
    }
    match reach {
        Reach::Short => {
            e.asm.put(short_code(cc), 1);
            e.asm.refer(to, Field::Rel8);
            e.asm.put(0, 1);
        }
        Reach::Near | Reach::Far => {
            let (code, len) = long_code(cc);
            e.asm.put(code, len);
            e.asm.refer(to, Field::Rel32);
            e.asm.put(0, 4);
        }
    }
}

fn short_code(cc: Option<Cc>) -> u64 {
    cc.map_or(0xeb, |cc| 0x70 | cc as u64)
}

fn long_code(cc: Option<Cc>) -> (u64, usize) {
    cc.map_or((0xe9, 1), |cc| (0x0f | (0x80 | cc as u64) << 8, 2))
}

pub(super) fn branch(e: &mut X64, op: CmpOp, w: Width, a: Gpr, b: Rhs<Gpr>, to: Label, reach: Reach) {
    compare(e, op, w, a, b);
    emit(e, Some(Cc::of(op)), to, reach);
}

pub(super) fn branch_memory(e: &mut X64, cmp: CmpOp, size: Size, addr: Mem, b: Rhs<Gpr>, to: Label, reach: Reach) {
    let (w, form, wide) = sized(size);
    match b {
        Rhs::Reg(b) if cmp == CmpOp::Set => e.rm(w, form(0x84 | wide), b as u8, Rm::Mem(addr)),
        Rhs::Reg(b) => e.rm(w, form(0x38 | wide), b as u8, Rm::Mem(addr)),
        Rhs::Imm(value) => {
            let short = as_i8(value).filter(|_| cmp != CmpOp::Set);
            let (code, extension) = match (cmp, size, short) {
                (CmpOp::Set, ..) => (0xf6 | wide, 0),
                (_, Size::B, _) => (0x80, 7),
                (_, _, Some(_)) => (0x83, 7),
                (_, _, None) => (0x81, 7),
            };
            memory_imm(e, size, addr, (code, extension), value, short);
        }
    }
    emit(e, Some(Cc::of(cmp)), to, reach);
}

/// A conditional move on the inverse of the condition, which differs in its lowest bit.
pub(super) fn select(e: &mut X64, op: CmpOp, w: Width, a: Gpr, b: Rhs<Gpr>, d: Gpr, s: Gpr) {
    let op = compare_by_carry(e, op, w, a, b);
    e.beside_flags(d, |e| e.rr(Width::W64, 0x0f40 | (Cc::of(op) as u16 ^ 1), d, s));
}

pub(super) fn set(e: &mut X64, cmp: CmpOp, w: Width, a: Gpr, b: Rhs<Gpr>, d: Gpr) {
    let compared = d == a || b == Rhs::Reg(d);
    if !compared {
        alu::mov_imm(e, d, 0);
    }
    let cmp = compare_by_carry(e, cmp, w, a, b);
    e.rm(Width::W32, op8(0x0f90 | Cc::of(cmp) as u16), 0, Rm::Reg(d));
    if compared {
        alu::zero_extend(e, Size::B, d, d);
    }
}

pub(super) fn branch_byte(e: &mut X64, cmp: CmpOp, a: Gpr, value: u8, to: Label, reach: Reach) {
    match (cmp, value) {
        (CmpOp::Eq | CmpOp::Ne, 0) => e.rm(Width::W32, op8(0x84), a as u8, Rm::Reg(a)),
        _ => {
            e.rm(Width::W32, op8(0x80), 7, Rm::Reg(a));
            e.imm8(value as i8);
        }
    }
    emit(e, Some(Cc::of(cmp)), to, reach);
}

/// The comparison whose carry, or the absence of it, is the truth of `a op b`: with its sides exchanged, or another number.
pub(super) fn carried(op: CmpOp, b: Rhs<Gpr>) -> Option<(CmpOp, Rhs<Gpr>, bool)> {
    let above = |value: i32| value.checked_add(1).filter(|above| *above != 0).map(Rhs::Imm);
    match (op, b) {
        (CmpOp::Lt | CmpOp::Ge, b) => Some((op, b, false)),
        (CmpOp::Gt, Rhs::Reg(_)) => Some((CmpOp::Lt, b, true)),
        (CmpOp::Le, Rhs::Reg(_)) => Some((CmpOp::Ge, b, true)),
        (CmpOp::Gt, Rhs::Imm(value)) => Some((CmpOp::Ge, above(value)?, false)),
        (CmpOp::Le, Rhs::Imm(value)) => Some((CmpOp::Lt, above(value)?, false)),
        (CmpOp::Eq, Rhs::Imm(0)) => Some((CmpOp::Lt, Rhs::Imm(1), false)),
        (CmpOp::Ne, Rhs::Imm(0)) => Some((CmpOp::Ge, Rhs::Imm(1), false)),
        (CmpOp::Eq | CmpOp::Ne | CmpOp::Set, _) => None,
        (CmpOp::Sgt | CmpOp::Sge | CmpOp::Slt | CmpOp::Sle, _) => None,
    }
}

/// Compares so that the flag of one bit decides where it can: what asks for two of them costs some processors a second
/// operation. What is to be asked.
fn compare_by_carry(e: &mut X64, cmp: CmpOp, w: Width, a: Gpr, b: Rhs<Gpr>) -> CmpOp {
    let one_bit = match cmp {
        CmpOp::Gt | CmpOp::Le => carried(cmp, b),
        _ => None,
    };
    compare_sides(e, one_bit.unwrap_or((cmp, b, false)), w, a)
}

/// Compares, with the sides exchanged where [`carried`] says so. What is to be asked.
fn compare_sides(e: &mut X64, (cmp, b, exchanged): (CmpOp, Rhs<Gpr>, bool), w: Width, a: Gpr) -> CmpOp {
    match (b, exchanged) {
        (Rhs::Reg(b), true) => compare(e, cmp, w, b, Rhs::Reg(a)),
        (b, _) => compare(e, cmp, w, a, b),
    }
    cmp
}

/// `adc d, 0`, or `sbb d, -1`.
pub(super) fn add_truth(e: &mut X64, op_: CmpOp, compared: Width, a: Gpr, b: Rhs<Gpr>, w: Width, d: Gpr) {
    let Some(form) = carried(op_, b) else { return };
    let cmp = compare_sides(e, form, compared, a);
    let (extension, value) = if cmp == CmpOp::Lt { (2, 0) } else { (3, -1) };
    e.rm(w, op(0x83), extension, Rm::Reg(d));
    e.imm8(value);
}

fn compare(e: &mut X64, cmp: CmpOp, w: Width, a: Gpr, b: Rhs<Gpr>) {
    match b {
        Rhs::Reg(b) if cmp == CmpOp::Set => e.rr(w, 0x85, b, a),
        Rhs::Reg(b) => e.rr(w, 0x3b, a, b),
        Rhs::Imm(value) if cmp == CmpOp::Set => {
            // Bits above a positive mask do not count.
            let w = if value >= 0 { Width::W32 } else { w };
            e.rm(w, op(0xf7), 0, Rm::Reg(a));
            e.imm32(value);
        }
        Rhs::Imm(0) if matches!(cmp, CmpOp::Eq | CmpOp::Ne) && e.is_flagged(w, a) => {}
        Rhs::Imm(0) => {
            e.rr(w, 0x85, a, a);
            e.flags(w, a);
        }
        Rhs::Imm(value) => match as_i8(value) {
            Some(value) => {
                e.rm(w, op(0x83), 7, Rm::Reg(a));
                e.imm8(value);
            }
            None => {
                e.rm(w, op(0x81), 7, Rm::Reg(a));
                e.imm32(value);
            }
        },
    }
}

/// The budget is the last thing that the prologue pushes.
pub(super) fn may_goto(e: &mut X64, to: Label, reach: Reach) {
    let budget = Mem::new(Gpr::Rsp, 0);
    e.rm(Width::W32, op(0x83), 7, Rm::Mem(budget));
    e.imm8(0);
    emit(e, Some(Cc::E), to, reach);
    e.rm(Width::W32, op(0x83), 5, Rm::Mem(budget));
    e.imm8(1);
}

/// Recommended multi-byte no-ops, by length (Intel SDM, NOP).
const NOPS: [(u64, usize); 8] = [
    (0x90, 1),
    (0x9066, 2),
    (0x1f0f, 3),
    (0x40_1f0f, 4),
    (0x44_1f0f, 5),
    (0x441f_0f66, 6),
    (0x80_1f0f, 7),
    (0x84_1f0f, 8),
];

/// Further bytes of one no-op: operand-size prefixes, of which every processor takes three at full speed.
const PREFIXES: usize = 3;

pub(super) fn align(e: &mut X64, bytes: usize) {
    let mut gap = (e.asm.here() as usize).next_multiple_of(bytes.max(1)) - e.asm.here() as usize;
    while gap != 0 {
        let prefixes = gap.saturating_sub(NOPS.len()).min(PREFIXES);
        if let Some((nop, len)) = NOPS.get((gap - prefixes).min(NOPS.len()) - 1) {
            e.asm.put(0x66_6666, prefixes);
            e.asm.put(*nop, *len);
            gap -= prefixes + len;
        }
    }
}
