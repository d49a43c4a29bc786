//! Moves and arithmetic.

use rtbpf_isa::{Size, Width};

use super::branch::{self, Cc};
use super::regs::{Gpr, Mem, T0, T1, T2};
use super::{Rm, X64, as_i8, mem, memory_imm, op, op8, sized};
use crate::asm::Label;
use crate::code::{RelocKind, Symbol};
use crate::encode::{Bin, Div, Rhs};
use crate::opt::magic::Magic;
use Gpr::*;

pub(super) fn mov(e: &mut X64, w: Width, d: Gpr, s: Gpr) {
    // A 32-bit move onto itself clears the upper half.
    if d != s || w == Width::W32 {
        e.beside_flags(d, |e| e.rr(w, 0x8b, d, s));
    }
}

pub(super) fn mov_imm(e: &mut X64, d: Gpr, value: u64) {
    if value == 0 {
        e.rr(Width::W32, 0x31, d, d);
    } else if let Ok(value) = u32::try_from(value) {
        let rex = d as u64 >> 3;
        e.asm.put(if rex != 0 { 0x41 | (0xb8 | d as u64 & 7) << 8 } else { 0xb8 | d as u64 }, 1 + rex as usize);
        e.imm32(value as i32);
    } else if let Ok(value) = i32::try_from(value as i64) {
        e.rm(Width::W64, op(0xc7), 0, Rm::Reg(d));
        e.imm32(value);
    } else {
        e.asm.put(0x48 | d as u64 >> 3 | (0xb8 | d as u64 & 7) << 8, 2);
        e.asm.put(value, 8);
    }
}

pub(super) fn mov_symbol(e: &mut X64, d: Gpr, symbol: Symbol) {
    e.asm.put(0x48 | d as u64 >> 3 | (0xb8 | d as u64 & 7) << 8, 2);
    e.asm.relocate(RelocKind::Abs64, symbol);
    e.asm.put(0, 8);
}

pub(super) fn sign_extend(e: &mut X64, w: Width, from: Size, d: Gpr, s: Gpr) {
    match from {
        Size::B => e.rm(w, op8(0x0fbe), d as u8, Rm::Reg(s)),
        Size::H => e.rr(w, 0x0fbf, d, s),
        Size::W if w == Width::W64 => e.rr(w, 0x63, d, s),
        Size::W => mov(e, w, d, s),
        Size::D => mov(e, w, d, s),
    }
}

pub(super) fn zero_extend(e: &mut X64, from: Size, d: Gpr, s: Gpr) {
    match from {
        Size::B => e.rm(Width::W32, op8(0x0fb6), d as u8, Rm::Reg(s)),
        Size::H => e.rr(Width::W32, 0x0fb7, d, s),
        Size::W => mov(e, Width::W32, d, s),
        Size::D => mov(e, Width::W64, d, s),
    }
}

/// `add`, then `adc` of 0.
pub(super) fn add_carry(e: &mut X64, a: Gpr, b: Gpr, d: Gpr) {
    let (a, b) = if d == b { (b, a) } else { (a, b) };
    mov(e, Width::W64, d, a);
    e.rr(Width::W64, 0x03, d, b);
    e.rm(Width::W64, op(0x83), 2, Rm::Reg(d));
    e.imm8(0);
}

pub(super) fn set_carry(e: &mut X64, a: Gpr, b: Gpr, d: Gpr) {
    mov(e, Width::W64, T2, a);
    e.rr(Width::W64, 0x03, T2, b);
    e.rm(Width::W32, op8(0x0f90 | Cc::B as u16), 0, Rm::Reg(d));
    zero_extend(e, Size::B, d, d);
}

/// Opcode extension of the immediate form; the register form `op r, r/m` has code `8 * extension + 3`.
fn extension(op: Bin) -> Option<u8> {
    match op {
        Bin::Add => Some(0),
        Bin::Or => Some(1),
        Bin::And => Some(4),
        Bin::Sub => Some(5),
        Bin::Xor => Some(6),
        Bin::Mul | Bin::Lsh | Bin::Rsh | Bin::Arsh => None,
    }
}

pub(super) fn bin(e: &mut X64, op: Bin, w: Width, d: Gpr, a: Gpr, b: Rhs<Gpr>) {
    match op {
        Bin::Mul => multiply(e, w, d, a, b),
        Bin::Lsh => shift(e, Shift { extension: 4, vex: Vex::Shlx }, w, d, a, b),
        Bin::Rsh => shift(e, Shift { extension: 5, vex: Vex::Shrx }, w, d, a, b),
        Bin::Arsh => shift(e, Shift { extension: 7, vex: Vex::Sarx }, w, d, a, b),
        Bin::Add | Bin::Sub | Bin::Or | Bin::And | Bin::Xor => simple(e, op, w, d, a, b),
    }
}

fn simple(e: &mut X64, op: Bin, w: Width, d: Gpr, a: Gpr, b: Rhs<Gpr>) {
    match b {
        Rhs::Imm(value) => {
            if d != a {
                match op {
                    Bin::Add => return mem::lea(e, w, d, Mem::new(a, value)),
                    Bin::Sub if value != i32::MIN => return mem::lea(e, w, d, Mem::new(a, -value)),
                    _ => mov(e, w, d, a),
                }
            }
            apply_imm(e, op, w, d, value);
        }
        Rhs::Reg(b) => {
            if d == a {
                apply(e, op, w, d, b);
            } else if d != b {
                match op {
                    Bin::Add => mem::lea(e, w, d, Mem { base: a, index: Some((b, 0)), disp: 0 }),
                    _ => {
                        mov(e, w, d, a);
                        apply(e, op, w, d, b);
                    }
                }
            } else if op == Bin::Sub {
                neg(e, w, d, d);
                apply(e, Bin::Add, w, d, a);
            } else {
                apply(e, op, w, d, a);
            }
        }
    }
}

fn apply(e: &mut X64, op: Bin, w: Width, d: Gpr, b: Gpr) {
    if let Some(extension) = extension(op) {
        e.rr(w, extension as u16 * 8 + 3, d, b);
        e.flags(w, d);
    }
}

/// `d = a op *addr`; `addr` has not `d` in it.
pub(super) fn bin_memory(e: &mut X64, op_: Bin, w: Width, d: Gpr, a: Gpr, addr: Mem) {
    if d != a {
        mov(e, w, d, a);
    }
    let code = match extension(op_) {
        Some(extension) => extension as u16 * 8 + 3,
        None => 0x0faf,
    };
    e.rm(w, op(code), d as u8, Rm::Mem(addr));
}

/// `*addr = *addr op b`.
pub(super) fn update(e: &mut X64, op_: Bin, size: Size, addr: Mem, b: Rhs<Gpr>) {
    let Some(extension) = extension(op_) else { return };
    let (w, form, wide) = sized(size);
    match b {
        Rhs::Reg(b) => e.rm(w, form(extension as u16 * 8 + wide), b as u8, Rm::Mem(addr)),
        Rhs::Imm(value) => {
            let short = as_i8(value).filter(|_| size != Size::B);
            let code = if short.is_some() { 0x83 } else { 0x80 | wide };
            memory_imm(e, size, addr, (code, extension), value, short);
        }
    }
}

pub(super) fn apply_imm(e: &mut X64, op_: Bin, w: Width, d: Gpr, value: i32) {
    let Some(extension) = extension(op_) else { return };
    // Bits above a positive mask are cleared either way.
    let w = if op_ == Bin::And && value >= 0 { Width::W32 } else { w };
    match as_i8(value) {
        Some(value) => {
            e.rm(w, op(0x83), extension, Rm::Reg(d));
            e.imm8(value);
        }
        None => {
            e.rm(w, op(0x81), extension, Rm::Reg(d));
            e.imm32(value);
        }
    }
    e.flags(w, d);
}

fn multiply(e: &mut X64, w: Width, d: Gpr, a: Gpr, b: Rhs<Gpr>) {
    match b {
        Rhs::Imm(value) => match as_i8(value) {
            Some(value) => {
                e.rr(w, 0x6b, d, a);
                e.imm8(value);
            }
            None => {
                e.rr(w, 0x69, d, a);
                e.imm32(value);
            }
        },
        Rhs::Reg(b) if d == b => e.rr(w, 0x0faf, d, a),
        Rhs::Reg(b) => {
            if d != a {
                mov(e, w, d, a);
            }
            e.rr(w, 0x0faf, d, b);
        }
    }
}

#[derive(Clone, Copy)]
enum Vex {
    Shlx,
    Shrx,
    Sarx,
}

#[derive(Clone, Copy)]
struct Shift {
    extension: u8,
    vex: Vex,
}

fn shift(e: &mut X64, shift: Shift, w: Width, d: Gpr, a: Gpr, b: Rhs<Gpr>) {
    match b {
        Rhs::Imm(count) => {
            if d != a {
                mov(e, w, d, a);
            }
            match (count as u32 & (w.bits() - 1)) as i8 {
                0 => mov(e, w, d, d),
                count => {
                    e.rm(w, op(0xc1), shift.extension, Rm::Reg(d));
                    e.imm8(count);
                    e.flags(w, d);
                }
            }
        }
        Rhs::Reg(b) if e.features.bmi2 => match (shift.vex, w) {
            (Vex::Shlx, Width::W64) => asm!(e.asm ; shlx Rq(d), Rq(a), Rq(b)),
            (Vex::Shlx, Width::W32) => asm!(e.asm ; shlx Rd(d), Rd(a), Rd(b)),
            (Vex::Shrx, Width::W64) => asm!(e.asm ; shrx Rq(d), Rq(a), Rq(b)),
            (Vex::Shrx, Width::W32) => asm!(e.asm ; shrx Rd(d), Rd(a), Rd(b)),
            (Vex::Sarx, Width::W64) => asm!(e.asm ; sarx Rq(d), Rq(a), Rq(b)),
            (Vex::Sarx, Width::W32) => asm!(e.asm ; sarx Rd(d), Rd(a), Rd(b)),
        },
        Rhs::Reg(b) => shift_by_cl(e, shift.extension, w, d, a, b),
    }
}

/// The count must stand in cl, which is R4.
fn shift_by_cl(e: &mut X64, extension: u8, w: Width, d: Gpr, a: Gpr, b: Gpr) {
    let direct = d != Rcx && d != b;
    let work = if direct { d } else { T0 };
    let saved = d != Rcx && b != Rcx;
    if saved {
        mov(e, Width::W64, T1, Rcx);
    }
    if work != a || w == Width::W32 {
        mov(e, w, work, a);
    }
    if b != Rcx {
        mov(e, Width::W32, Rcx, b);
    }
    e.rm(w, op(0xd3), extension, Rm::Reg(work));
    if saved {
        mov(e, Width::W64, Rcx, T1);
    }
    if work != d {
        mov(e, w, d, work);
    }
}

pub(super) fn neg(e: &mut X64, w: Width, d: Gpr, a: Gpr) {
    if d != a {
        mov(e, w, d, a);
    }
    e.rm(w, op(0xf7), 3, Rm::Reg(d));
}

pub(super) fn swap(e: &mut X64, size: Size, d: Gpr) {
    match size {
        Size::B => zero_extend(e, Size::B, d, d),
        Size::H => {
            asm!(e.asm ; rol Rw(d), 8);
            zero_extend(e, Size::H, d, d);
        }
        Size::W => asm!(e.asm ; bswap Rd(d)),
        Size::D => asm!(e.asm ; bswap Rq(d)),
    }
}

pub(super) fn rotate_left(e: &mut X64, w: Width, d: Gpr, a: Gpr, count: u8) {
    let count = (count as u32 & (w.bits() - 1)) as i8;
    if d != a && e.features.bmi2 {
        let right = (w.bits() as i8 - count) & (w.bits() as i8 - 1);
        match w {
            Width::W64 => asm!(e.asm ; rorx Rq(d), Rq(a), right),
            Width::W32 => asm!(e.asm ; rorx Rd(d), Rd(a), right),
        }
        return;
    }
    if d != a {
        mov(e, w, d, a);
    }
    e.rm(w, op(0xc1), 0, Rm::Reg(d));
    e.imm8(count);
}

/// A high half needs `mulx`, whose first factor stands in rdx, which is R3.
pub(super) fn quotient(e: &mut X64, w: Width, d: Gpr, a: Gpr, narrow: bool, magic: Magic) -> Option<Gpr> {
    let narrow = narrow || w == Width::W64;
    if magic.low {
        let n = if narrow { a } else { d };
        if !narrow {
            mov(e, Width::W32, n, a);
        }
        match i32::try_from(magic.multiplier) {
            Ok(multiplier) => multiply(e, Width::W64, d, n, Rhs::Imm(multiplier)),
            Err(_) => {
                mov_imm(e, T0, magic.multiplier);
                multiply(e, Width::W64, d, n, Rhs::Reg(T0));
            }
        }
        shift_imm(e, d, magic.shift as i8);
        return Some(d);
    }
    if !e.features.bmi2 {
        return None;
    }
    if magic.adds {
        return Some(long_quotient(e, a, magic));
    }
    // What stands in rdx is kept, unless the quotient goes there.
    let mut n = a;
    if d != Rdx || a == Rdx {
        mov(e, Width::W64, T1, Rdx);
        n = if a == Rdx { T1 } else { a };
    }
    if !narrow || magic.before != 0 {
        mov(e, w, T0, n);
        n = T0;
    }
    if magic.before != 0 {
        shift_imm(e, T0, magic.before as i8);
    }
    mov_imm(e, Rdx, magic.multiplier);
    asm!(e.asm ; mulx Rq(d), r11, Rq(n));
    if d != Rdx {
        mov(e, Width::W64, Rdx, T1);
    }
    if magic.shift != 0 {
        shift_imm(e, d, magic.shift as i8);
    }
    Some(d)
}

/// A quotient whose multiplier has a 65th bit.
fn long_quotient(e: &mut X64, a: Gpr, magic: Magic) -> Gpr {
    mov_imm(e, T0, magic.multiplier);
    if a != Rdx {
        mov(e, Width::W64, T1, Rdx);
        mov(e, Width::W64, Rdx, a);
    }
    asm!(e.asm ; mulx r9, r11, r11);
    mov(e, Width::W64, T0, Rdx);
    apply(e, Bin::Sub, Width::W64, T0, T2);
    shift_imm(e, T0, 1);
    apply(e, Bin::Add, Width::W64, T2, T0);
    if a != Rdx {
        mov(e, Width::W64, Rdx, T1);
    }
    shift_imm(e, T2, magic.shift as i8);
    T2
}

/// `d >>= count`, logical.
fn shift_imm(e: &mut X64, d: Gpr, count: i8) {
    e.rm(Width::W64, op(0xc1), 5, Rm::Reg(d));
    e.imm8(count);
}

/// The dividend stands in rdx:rax, which are R3 and R0.
pub(super) fn divide(e: &mut X64, op_: Div, w: Width, d: Gpr, b: Rhs<Gpr>, nonzero: bool) {
    let signed = matches!(op_, Div::Sdiv | Div::Smod);
    let quotient = matches!(op_, Div::Div | Div::Sdiv);
    match b {
        Rhs::Imm(0) if quotient => return mov_imm(e, d, 0),
        Rhs::Imm(0) => return mov(e, w, d, d),
        Rhs::Imm(-1) if op_ == Div::Sdiv => return neg(e, w, d, d),
        Rhs::Imm(-1) if op_ == Div::Smod => return mov_imm(e, d, 0),
        Rhs::Imm(value) if w == Width::W32 => mov_imm(e, T0, value as u32 as u64),
        Rhs::Imm(value) => mov_imm(e, T0, value as i64 as u64),
        Rhs::Reg(b) => mov(e, w, T0, b),
    }
    let end = e.asm.label();
    if matches!(b, Rhs::Reg(_)) {
        if signed {
            divide_by_zero_or_minus_one(e, op_, w, d, end);
        } else if !nonzero {
            divide_by_zero(e, op_, w, d, end);
        }
    }
    if d != Rdx {
        mov(e, Width::W64, T1, Rdx);
    }
    if d != Rax {
        mov(e, Width::W64, T2, Rax);
        mov(e, w, Rax, d);
    }
    if signed {
        match w {
            Width::W64 => asm!(e.asm ; cqo),
            Width::W32 => asm!(e.asm ; cdq),
        }
    } else {
        mov_imm(e, Rdx, 0);
    }
    e.rm(w, op(0xf7), if signed { 7 } else { 6 }, Rm::Reg(T0));
    let result = if quotient { Rax } else { Rdx };
    if d != result {
        mov(e, w, d, result);
    }
    if d != Rdx {
        mov(e, Width::W64, Rdx, T1);
    }
    if d != Rax {
        mov(e, Width::W64, Rax, T2);
    }
    e.asm.bind(end);
}

fn divide_by_zero(e: &mut X64, op_: Div, w: Width, d: Gpr, end: Label) {
    e.rr(w, 0x85, T0, T0);
    if op_ == Div::Mod && w == Width::W64 {
        return branch::short(e, Cc::E, end);
    }
    let normal = e.asm.label();
    branch::short(e, Cc::Ne, normal);
    match op_ {
        Div::Div | Div::Sdiv => mov_imm(e, d, 0),
        Div::Mod | Div::Smod => mov(e, w, d, d),
    }
    branch::short_jump(e, end);
    e.asm.bind(normal);
}

/// `T0` is 0 or -1: the quotient is `d * T0` and the remainder `d & -(T0 + 1)`.
fn divide_by_zero_or_minus_one(e: &mut X64, op_: Div, w: Width, d: Gpr, end: Label) {
    let normal = e.asm.label();
    mem::lea(e, w, T1, Mem::new(T0, 1));
    e.rm(w, op(0x83), 7, Rm::Reg(T1));
    e.imm8(1);
    branch::short(e, Cc::A, normal);
    match op_ {
        Div::Div | Div::Sdiv => e.rr(w, 0x0faf, d, T0),
        Div::Mod | Div::Smod => {
            neg(e, w, T1, T1);
            apply(e, Bin::And, w, d, T1);
        }
    }
    branch::short_jump(e, end);
    e.asm.bind(normal);
}
