//! Loads, stores and addresses.

use rtbpf_isa::{Size, Width};

use super::regs::{Gpr, Mem, T0};
use super::{A64, alu, imm};

/// An address in one of the forms that loads and stores have.
#[derive(Clone, Copy)]
enum Form {
    /// `[base, #disp]`, scaled.
    Scaled(Gpr, u32),
    /// `[base, #disp]`, unscaled.
    Unscaled(Gpr, i32),
    /// `[base, index]`.
    Indexed(Gpr, Gpr),
    /// `[base, index, lsl #log2(size)]`.
    Shifted(Gpr, Gpr),
}

fn form(e: &mut A64, size: Size, mem: Mem) -> Form {
    match mem.index {
        Some((index, 0)) if mem.disp == 0 => Form::Indexed(mem.base, index),
        Some((index, shift)) if mem.disp == 0 && 1 << shift == size.bytes() => Form::Shifted(mem.base, index),
        Some((index, shift)) => {
            lea(e, Width::W64, T0, Mem { base: mem.base, index: Some((index, shift)), disp: 0 });
            direct(e, size, T0, mem.disp)
        }
        None => direct(e, size, mem.base, mem.disp),
    }
}

fn direct(e: &mut A64, size: Size, base: Gpr, disp: i32) -> Form {
    if let Some(disp) = imm::scaled(size, disp) {
        Form::Scaled(base, disp)
    } else if imm::unscaled(disp) {
        Form::Unscaled(base, disp)
    } else if base == T0 {
        if !alu::add_imm(e, Width::W64, T0, T0, disp) {
            let rest = alu::constant(e, Width::W64, super::regs::T1, disp);
            asm!(e.asm ; add X(base), X(base), X(rest));
        }
        Form::Scaled(T0, 0)
    } else {
        Form::Indexed(base, alu::constant(e, Width::W64, T0, disp))
    }
}

macro_rules! access {
    ($e:expr, $form:expr ; $scaled:ident, $unscaled:ident, $size:ident($reg:ident), $shift:literal) => {
        match $form {
            Form::Scaled(b, disp) => asm!($e.asm ; $scaled $size($reg), [X(b), disp]),
            Form::Unscaled(b, disp) => asm!($e.asm ; $unscaled $size($reg), [X(b), disp]),
            Form::Indexed(b, i) => asm!($e.asm ; $scaled $size($reg), [X(b), X(i)]),
            Form::Shifted(b, i) => asm!($e.asm ; $scaled $size($reg), [X(b), X(i), lsl $shift]),
        }
    };
}

pub(super) fn load(e: &mut A64, size: Size, signed: bool, d: Gpr, mem: Mem) {
    let form = form(e, size, mem);
    match (size, signed) {
        (Size::B, false) => access!(e, form ; ldrb, ldurb, W(d), 0),
        (Size::H, false) => access!(e, form ; ldrh, ldurh, W(d), 1),
        (Size::W, false) => access!(e, form ; ldr, ldur, W(d), 2),
        (Size::D, _) => access!(e, form ; ldr, ldur, X(d), 3),
        (Size::B, true) => access!(e, form ; ldrsb, ldursb, X(d), 0),
        (Size::H, true) => access!(e, form ; ldrsh, ldursh, X(d), 1),
        (Size::W, true) => access!(e, form ; ldrsw, ldursw, X(d), 2),
    }
}

pub(super) fn store(e: &mut A64, size: Size, mem: Mem, s: Gpr) {
    let form = form(e, size, mem);
    match size {
        Size::B => access!(e, form ; strb, sturb, W(s), 0),
        Size::H => access!(e, form ; strh, sturh, W(s), 1),
        Size::W => access!(e, form ; str, stur, W(s), 2),
        Size::D => access!(e, form ; str, stur, X(s), 3),
    }
}

pub(super) fn store_imm(e: &mut A64, size: Size, mem: Mem, value: i32) {
    let value = alu::constant(e, Width::W64, super::regs::T2, value);
    store(e, size, mem, value);
}

pub(super) fn lea(e: &mut A64, w: Width, d: Gpr, mem: Mem) {
    let mut base = mem.base;
    if let Some((index, shift)) = mem.index {
        let shift = (shift & 3) as u32;
        match w {
            Width::W32 => asm!(e.asm ; add W(d), W(base), W(index), lsl shift),
            Width::W64 => asm!(e.asm ; add X(d), X(base), X(index), lsl shift),
        }
        base = d;
    }
    if mem.disp == 0 {
        if mem.index.is_none() {
            alu::mov(e, w, d, base);
        }
    } else if !alu::add_imm(e, w, d, base, mem.disp) {
        let rest = alu::constant(e, w, if base == T0 { super::regs::T1 } else { T0 }, mem.disp);
        wx!(e, w ; add d, base, rest);
    }
}
