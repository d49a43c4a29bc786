//! Moves and arithmetic.

use rtbpf_isa::{Size, Width};

use super::regs::{Gpr, T0, T1, T2};
use super::{A64, imm};
use crate::code::{RelocKind, Symbol};
use crate::encode::{Bin, Div, Rhs};
use crate::opt::magic::Magic;

pub(super) fn mov(e: &mut A64, w: Width, d: Gpr, s: Gpr) {
    // A 32-bit move onto itself clears the upper half.
    if d != s || w == Width::W32 {
        wx!(e, w ; mov d, s);
    }
}

pub(super) fn mov_imm(e: &mut A64, d: Gpr, value: u64) {
    let halves = |value: u64| (0..4).filter(move |i| value >> (16 * i) & 0xffff != 0);
    let inverted = halves(!value).count() < halves(value).count();
    let base = if inverted { !value } else { value };
    let first = halves(base).next().unwrap_or(0);
    let half = |i: u32| (value >> (16 * i)) as u32 & 0xffff;
    let first_half = (base >> (16 * first)) as u32 & 0xffff;
    if inverted {
        wide(e, 0x9280_0000, d, first_half, first);
    } else {
        wide(e, 0xd280_0000, d, first_half, first);
    }
    for i in halves(base).skip(1) {
        wide(e, 0xf280_0000, d, half(i), i);
    }
}

/// `movz`, `movn` or `movk`; `half` has 16 bits, `place` is 0 to 3.
fn wide(e: &mut A64, code: u32, d: Gpr, half: u32, place: u32) {
    e.asm.put((code | (place & 3) << 21 | (half & 0xffff) << 5 | d.number() as u32) as u64, 4);
}

pub(super) fn mov_symbol(e: &mut A64, d: Gpr, symbol: Symbol) {
    e.asm.relocate(RelocKind::Mov64, symbol);
    wide(e, 0xd280_0000, d, 0, 0);
    (1..4).for_each(|place| wide(e, 0xf280_0000, d, 0, place));
}

pub(super) fn add_carry(e: &mut A64, a: Gpr, b: Gpr, d: Gpr) {
    asm!(e.asm ; adds X(d), X(a), X(b) ; cinc X(d), X(d), cs);
}

pub(super) fn set_carry(e: &mut A64, a: Gpr, b: Gpr, d: Gpr) {
    asm!(e.asm ; cmn X(a), X(b) ; cset X(d), cs);
}

pub(super) fn sign_extend(e: &mut A64, w: Width, from: Size, d: Gpr, s: Gpr) {
    match (from, w) {
        (Size::B, Width::W32) => asm!(e.asm ; sxtb W(d), W(s)),
        (Size::B, Width::W64) => asm!(e.asm ; sxtb X(d), W(s)),
        (Size::H, Width::W32) => asm!(e.asm ; sxth W(d), W(s)),
        (Size::H, Width::W64) => asm!(e.asm ; sxth X(d), W(s)),
        (Size::W, Width::W64) => asm!(e.asm ; sxtw X(d), W(s)),
        (Size::W, Width::W32) | (Size::D, _) => mov(e, w, d, s),
    }
}

pub(super) fn zero_extend(e: &mut A64, from: Size, d: Gpr, s: Gpr) {
    match from {
        Size::B => asm!(e.asm ; uxtb W(d), W(s)),
        Size::H => asm!(e.asm ; uxth W(d), W(s)),
        Size::W => mov(e, Width::W32, d, s),
        Size::D => mov(e, Width::W64, d, s),
    }
}

/// The immediate of an operation of width `w`, in a temporary.
pub(super) fn constant(e: &mut A64, w: Width, d: Gpr, value: i32) -> Gpr {
    match w {
        Width::W32 => mov_imm(e, d, value as u32 as u64),
        Width::W64 => mov_imm(e, d, value as i64 as u64),
    }
    d
}

pub(super) fn bin(e: &mut A64, op: Bin, w: Width, d: Gpr, a: Gpr, b: Rhs<Gpr>) {
    let b = match b {
        Rhs::Imm(value) if with_imm(e, op, w, d, a, value) => return,
        Rhs::Imm(value) => constant(e, w, T0, value),
        Rhs::Reg(b) => b,
    };
    match op {
        Bin::Add => wx!(e, w ; add d, a, b),
        Bin::Sub => wx!(e, w ; sub d, a, b),
        Bin::Mul => wx!(e, w ; mul d, a, b),
        Bin::Or => wx!(e, w ; orr d, a, b),
        Bin::And => wx!(e, w ; and d, a, b),
        Bin::Xor => wx!(e, w ; eor d, a, b),
        Bin::Lsh => wx!(e, w ; lsl d, a, b),
        Bin::Rsh => wx!(e, w ; lsr d, a, b),
        Bin::Arsh => wx!(e, w ; asr d, a, b),
    }
}

/// Emits the immediate form; `false` where there is none.
fn with_imm(e: &mut A64, op: Bin, w: Width, d: Gpr, a: Gpr, value: i32) -> bool {
    let count = value as u32 & (w.bits() - 1);
    match op {
        Bin::Add => return add_imm(e, w, d, a, value),
        Bin::Sub => return value != i32::MIN && add_imm(e, w, d, a, -value),
        Bin::Mul => return false,
        Bin::Or | Bin::And | Bin::Xor if !imm::is_logical(w, value) => return false,
        Bin::Or => match w {
            Width::W32 => asm!(e.asm ; orr WSP(d), W(a), value as u32),
            Width::W64 => asm!(e.asm ; orr XSP(d), X(a), value as i64 as u64),
        },
        Bin::And => match w {
            Width::W32 => asm!(e.asm ; and WSP(d), W(a), value as u32),
            Width::W64 => asm!(e.asm ; and XSP(d), X(a), value as i64 as u64),
        },
        Bin::Xor => match w {
            Width::W32 => asm!(e.asm ; eor WSP(d), W(a), value as u32),
            Width::W64 => asm!(e.asm ; eor XSP(d), X(a), value as i64 as u64),
        },
        // A shift by nothing still clears the upper half.
        Bin::Lsh | Bin::Rsh | Bin::Arsh if count == 0 => mov(e, w, d, a),
        Bin::Lsh => match w {
            Width::W32 => asm!(e.asm ; lsl W(d), W(a), count),
            Width::W64 => asm!(e.asm ; lsl X(d), X(a), count),
        },
        Bin::Rsh => match w {
            Width::W32 => asm!(e.asm ; lsr W(d), W(a), count),
            Width::W64 => asm!(e.asm ; lsr X(d), X(a), count),
        },
        Bin::Arsh => match w {
            Width::W32 => asm!(e.asm ; asr W(d), W(a), count),
            Width::W64 => asm!(e.asm ; asr X(d), X(a), count),
        },
    }
    true
}

/// `d = a + value` in one instruction, where there is one.
pub(super) fn add_imm(e: &mut A64, w: Width, d: Gpr, a: Gpr, value: i32) -> bool {
    match (imm::add(value.unsigned_abs()), value < 0, w) {
        (None, ..) => return false,
        (Some(imm::Add::Plain(value)), false, Width::W32) => asm!(e.asm ; add WSP(d), WSP(a), value),
        (Some(imm::Add::Plain(value)), false, Width::W64) => asm!(e.asm ; add XSP(d), XSP(a), value),
        (Some(imm::Add::Plain(value)), true, Width::W32) => asm!(e.asm ; sub WSP(d), WSP(a), value),
        (Some(imm::Add::Plain(value)), true, Width::W64) => asm!(e.asm ; sub XSP(d), XSP(a), value),
        (Some(imm::Add::Shifted(value)), false, Width::W32) => asm!(e.asm ; add WSP(d), WSP(a), value, lsl #12),
        (Some(imm::Add::Shifted(value)), false, Width::W64) => asm!(e.asm ; add XSP(d), XSP(a), value, lsl #12),
        (Some(imm::Add::Shifted(value)), true, Width::W32) => asm!(e.asm ; sub WSP(d), WSP(a), value, lsl #12),
        (Some(imm::Add::Shifted(value)), true, Width::W64) => asm!(e.asm ; sub XSP(d), XSP(a), value, lsl #12),
    }
    true
}

pub(super) fn neg(e: &mut A64, w: Width, d: Gpr, a: Gpr) {
    wx!(e, w ; neg d, a);
}

pub(super) fn swap(e: &mut A64, size: Size, d: Gpr) {
    match size {
        Size::B => zero_extend(e, Size::B, d, d),
        Size::H => {
            asm!(e.asm ; rev16 W(d), W(d));
            zero_extend(e, Size::H, d, d);
        }
        Size::W => asm!(e.asm ; rev W(d), W(d)),
        Size::D => asm!(e.asm ; rev X(d), X(d)),
    }
}

pub(super) fn rotate_left(e: &mut A64, w: Width, d: Gpr, a: Gpr, count: u8) {
    let right = (w.bits() - (count as u32 & (w.bits() - 1))) & (w.bits() - 1);
    match w {
        Width::W32 => asm!(e.asm ; ror W(d), W(a), right),
        Width::W64 => asm!(e.asm ; ror X(d), X(a), right),
    }
}

pub(super) fn quotient(e: &mut A64, w: Width, d: Gpr, a: Gpr, narrow: bool, magic: Magic) -> Gpr {
    mov_imm(e, T0, magic.multiplier);
    let mut n = a;
    if w == Width::W32 && !narrow {
        mov(e, w, T1, a);
        n = T1;
    }
    if magic.before != 0 {
        let before = magic.before as u32 & 63;
        asm!(e.asm ; lsr X(T1), X(n), before);
        n = T1;
    }
    // With one more step, the dividend is read once more.
    let q = if magic.adds { T2 } else { d };
    match magic.low {
        true => asm!(e.asm ; mul X(q), X(n), X(T0)),
        false => asm!(e.asm ; umulh X(q), X(n), X(T0)),
    }
    let shift = magic.shift as u32 & 63;
    if magic.adds {
        asm!(e.asm ; sub X(T0), X(n), X(q) ; add X(q), X(q), X(T0), lsr 1);
    }
    if shift != 0 {
        asm!(e.asm ; lsr X(q), X(q), shift);
    }
    q
}

/// Division by zero gives 0 here, and `MIN / -1` gives `MIN`: what eBPF wants, for remainders too.
pub(super) fn divide(e: &mut A64, op: Div, w: Width, d: Gpr, b: Rhs<Gpr>) {
    let b = match b {
        Rhs::Imm(value) => constant(e, w, T0, value),
        Rhs::Reg(b) => b,
    };
    let quotient = T1;
    match op {
        Div::Div => wx!(e, w ; udiv d, d, b),
        Div::Sdiv => wx!(e, w ; sdiv d, d, b),
        Div::Mod => {
            wx!(e, w ; udiv quotient, d, b);
            wx!(e, w ; msub d, quotient, b, d);
        }
        Div::Smod => {
            wx!(e, w ; sdiv quotient, d, b);
            wx!(e, w ; msub d, quotient, b, d);
        }
    }
}
