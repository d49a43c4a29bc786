//! Prologues, epilogues and stubs.
//!
//! ```text
//! entry by the host        by the program          stub (keeps everything)
//! ───────────────────      ───────────────────     ─────────────────────────
//! return address           return address          return address
//! kept registers           kept registers          rbx rbp r12 r13 r14 r15
//! pad, if it calls         pad, if it calls        RunFrame::entry_sp
//! may_goto budget          may_goto budget         RunFrame::stack
//!  ◀ RunFrame::entry_sp                            pad  ◀ RunFrame::entry_sp
//! ```

use rtbpf_isa::{Size, Width};

use super::branch::{self, Cc};
use super::regs::{CALLEE_SAVED, Gpr, MAP, Mem, RUN, T0};
use super::{Rm, X64, alu, call, mem, op};
use crate::abi::{FRAME_STRIDE, MAY_GOTO_BUDGET, Slot};
use crate::asm::Label;
use crate::code::Step;
use crate::encode::{Bin, Entered, FramePointer, Shape};
use Gpr::*;

const FP: Gpr = MAP[10];
const R1: Gpr = MAP[1];

/// The field of the run's frame.
pub(super) fn slot(slot: Slot) -> Mem {
    Mem::new(RUN, slot.offset())
}

/// Registers to push, as bits.
fn kept(shape: &Shape) -> u32 {
    let mut kept = shape.saves & CALLEE_SAVED;
    if shape.entered == Entered::ByHost {
        if shape.run {
            kept |= RUN.bit();
        }
        if shape.fp != FramePointer::None {
            kept |= FP.bit();
        }
    }
    kept
}

/// Words below the kept registers: the pad that aligns the stack to 16 bytes at calls, and the budget.
fn locals(shape: &Shape) -> (bool, u32) {
    let words = 1 + kept(shape).count_ones() + shape.may_goto as u32;
    let pad = shape.calls && !words.is_multiple_of(2);
    (pad, pad as u32 + shape.may_goto as u32)
}

pub(super) fn push(e: &mut X64, reg: Gpr) {
    let rex = reg as u64 >> 3;
    let code = 0x50 | reg as u64 & 7;
    e.asm.put(if rex != 0 { 0x41 | code << 8 } else { code }, 1 + rex as usize);
}

fn pop(e: &mut X64, reg: Gpr) {
    let rex = reg as u64 >> 3;
    let code = 0x58 | reg as u64 & 7;
    e.asm.put(if rex != 0 { 0x41 | code << 8 } else { code }, 1 + rex as usize);
}

pub(super) fn push_slot(e: &mut X64, field: Slot) {
    e.rm(Width::W32, op(0xff), 6, Rm::Mem(slot(field)));
}

pub(super) fn pop_slot(e: &mut X64, field: Slot) {
    e.rm(Width::W32, op(0x8f), 0, Rm::Mem(slot(field)));
}

/// The registers in order, as the pushes of a function or stub that follow each other; whether they are emitted.
fn push_all(e: &mut X64, registers: u32, emits: bool) {
    e.asm.frame(Step::Begins);
    let mut below = 8;
    for reg in Gpr::ALL.into_iter().filter(|reg| registers & reg.bit() != 0) {
        if emits {
            push(e, reg);
        }
        below += 8;
        e.asm.frame(Step::Grew(8));
        e.asm.frame(Step::Saved { reg: dwarf(reg), below });
    }
}

/// Numbers of registers in the psABI for x86-64, figure 3.36.
fn dwarf(reg: Gpr) -> u8 {
    match reg {
        Rax => 0,
        Rdx => 1,
        Rcx => 2,
        Rbx => 3,
        Rsi => 4,
        Rdi => 5,
        Rbp => 6,
        Rsp => 7,
        other => other as u8,
    }
}

pub(super) fn enter(e: &mut X64, shape: &Shape) {
    push_all(e, kept(shape), true);
    match shape.entered {
        Entered::ByHost => {
            if shape.run {
                alu::mov(e, Width::W64, RUN, R1);
            }
            if shape.fp != FramePointer::None {
                mem::load(e, Size::D, false, FP, Mem::new(R1, Slot::StackTop.offset()));
            }
            if shape.second {
                mem::load(e, Size::D, false, MAP[2], Mem::new(R1, Slot::Second.offset()));
            }
            mem::load(e, Size::D, false, R1, Mem::new(R1, Slot::Ctx.offset()));
        }
        Entered::ByProgram => {
            if matches!(shape.fp, FramePointer::Own { .. }) {
                alu::apply_imm(e, Bin::Sub, Width::W64, FP, FRAME_STRIDE);
            }
        }
    }
    if let FramePointer::Own { zeroed } = shape.fp {
        zero_stack(e, zeroed);
    }
    if locals(shape).0 {
        push(e, Rax);
        e.asm.frame(Step::Grew(8));
    }
    if shape.may_goto {
        e.asm.put(0x68, 1);
        e.imm32(MAY_GOTO_BUDGET);
        e.asm.frame(Step::Grew(8));
    }
    if shape.entered == Entered::ByHost && shape.run {
        mem::store(e, Size::D, slot(Slot::EntrySp), Rsp);
    }
}

fn zero_stack(e: &mut X64, bytes: u32) {
    match bytes {
        0 => {}
        1..=64 => {
            asm!(e.asm ; xorps xmm0, xmm0);
            for below in (16..=bytes as i32).step_by(16) {
                asm!(e.asm ; movups [rbp - below], xmm0);
            }
        }
        _ => {
            alu::mov_imm(e, T0, -(bytes as i64) as u64);
            asm!(e.asm ; xorps xmm0, xmm0);
            let again = e.asm.label();
            e.asm.bind(again);
            asm!(e.asm ; movups [rbp + r11], xmm0 ; movups [rbp + r11 + 16], xmm0 ; add r11, 32);
            branch::short(e, Cc::Ne, again);
        }
    }
}

/// Everything that `enter` did, undone; no register but the kept ones changes. What follows the jump or return behind it
/// is in the frame again.
pub(super) fn unwind(e: &mut X64, shape: &Shape) {
    e.asm.frame(Step::Keeps);
    let (_, words) = locals(shape);
    if words != 0 {
        alu::apply_imm(e, Bin::Add, Width::W64, Rsp, words as i32 * 8);
        e.asm.frame(Step::Grew(words as i32 * -8));
    }
    if shape.entered == Entered::ByProgram && matches!(shape.fp, FramePointer::Own { .. }) {
        alu::apply_imm(e, Bin::Add, Width::W64, FP, FRAME_STRIDE);
    }
    pop_all(e, kept(shape));
}

fn pop_all(e: &mut X64, registers: u32) {
    for reg in Gpr::ALL.into_iter().rev().filter(|reg| registers & reg.bit() != 0) {
        pop(e, reg);
        e.asm.frame(Step::Grew(-8));
    }
}

fn ret(e: &mut X64) {
    e.asm.put(0xc3, 1);
}

pub(super) fn leave(e: &mut X64, shape: &Shape) {
    unwind(e, shape);
    ret(e);
    e.asm.frame(Step::Recalled);
}

pub(super) fn exit(e: &mut X64, shape: &Shape) {
    push_all(e, kept(shape), false);
    e.asm.frame(Step::Grew(locals(shape).1 as i32 * 8));
    mem::load(e, Size::D, false, Rsp, slot(Slot::EntrySp));
    leave(e, shape);
}

fn enter_stub(e: &mut X64, frame: Gpr) {
    push_all(e, CALLEE_SAVED, true);
    alu::mov(e, Width::W64, RUN, frame);
    push_slot(e, Slot::EntrySp);
    e.asm.frame(Step::Grew(8));
    push_slot(e, Slot::Stack);
    e.asm.frame(Step::Grew(8));
    push(e, Rax);
    e.asm.frame(Step::Grew(8));
    mem::store(e, Size::D, slot(Slot::EntrySp), Rsp);
}

fn leave_stub(e: &mut X64) {
    alu::apply_imm(e, Bin::Add, Width::W64, Rsp, 8);
    e.asm.frame(Step::Grew(-8));
    pop_slot(e, Slot::Stack);
    e.asm.frame(Step::Grew(-8));
    pop_slot(e, Slot::EntrySp);
    e.asm.frame(Step::Grew(-8));
    pop_all(e, CALLEE_SAVED);
    ret(e);
}

pub(super) fn host_stub(e: &mut X64, body: Label) {
    enter_stub(e, R1);
    // The body takes its frame below what it is given.
    mem::load(e, Size::D, false, FP, slot(Slot::StackTop));
    alu::apply_imm(e, Bin::Add, Width::W64, FP, FRAME_STRIDE);
    mem::load(e, Size::D, false, MAP[2], slot(Slot::Second));
    mem::load(e, Size::D, false, R1, slot(Slot::Ctx));
    call::call(e, body);
    leave_stub(e);
}

pub(super) fn callback_stub(e: &mut X64, body: Label) {
    enter_stub(e, R9);
    mem::load(e, Size::D, false, FP, slot(Slot::Stack));
    call::call(e, body);
    leave_stub(e);
}

pub(super) fn exit_stub(e: &mut X64) {
    push_all(e, CALLEE_SAVED, false);
    // The slots and the pad.
    e.asm.frame(Step::Grew(3 * 8));
    mem::load(e, Size::D, false, Rsp, slot(Slot::EntrySp));
    leave_stub(e);
}
