//! Prologues, epilogues and stubs.
//!
//! ```text
//! function                              stub (keeps everything)
//! ─────────────────────────────         ─────────────────────────
//! kept registers, x30 if it calls       x19 to x30
//! may_goto budget                       RunFrame::entry_sp, RunFrame::stack
//!  ◀ sp, RunFrame::entry_sp              ◀ sp, RunFrame::entry_sp
//! ```

use rtbpf_isa::{Size, Width};

use super::branch;
use super::regs::{CALLEE_SAVED, Gpr, LR, MAP, Mem, RESULT, RUN, SIXTH, T0};
use super::{A64, alu, call, mem};
use crate::abi::{FRAME_STRIDE, MAY_GOTO_BUDGET, Slot};
use crate::asm::Label;
use crate::code::Step;
use crate::encode::{Entered, FramePointer, Reach, Rhs, Shape};
use rtbpf_isa::CmpOp;

const FP: Gpr = MAP[10];
const R0: Gpr = MAP[0];
const R1: Gpr = MAP[1];

pub(super) fn slot(slot: Slot) -> Mem {
    Mem::new(RUN, slot.offset())
}

/// Registers to keep, the link register last.
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
    if shape.calls { kept | LR.bit() } else { kept }
}

fn members(set: u32) -> impl Iterator<Item = Gpr> {
    (0..31).map(Gpr::x).filter(move |reg| set & reg.bit() != 0)
}

fn frame_bytes(shape: &Shape) -> u32 {
    (8 * (kept(shape).count_ones() + shape.may_goto as u32)).next_multiple_of(16)
}

fn push_all(e: &mut A64, set: u32, bytes: u32, from: u32) {
    asm!(e.asm ; sub sp, sp, bytes);
    e.asm.frame(Step::Grew(bytes as i32));
    for (reg, at) in members(set).zip((from..).step_by(8)) {
        asm!(e.asm ; str X(reg), [sp, at]);
        e.asm.frame(Step::Saved { reg: reg.number(), below: bytes - at });
    }
}

/// The frame as `push_all` leaves it.
fn assume_all(e: &mut A64, set: u32, bytes: u32, from: u32) {
    e.asm.frame(Step::Begins);
    e.asm.frame(Step::Grew(bytes as i32));
    for (reg, at) in members(set).zip((from..).step_by(8)) {
        e.asm.frame(Step::Saved { reg: reg.number(), below: bytes - at });
    }
}

fn pop_all(e: &mut A64, set: u32, bytes: u32, from: u32) {
    for (reg, at) in members(set).zip((from..).step_by(8)) {
        asm!(e.asm ; ldr X(reg), [sp, at]);
    }
    asm!(e.asm ; add sp, sp, bytes);
    e.asm.frame(Step::Grew(-(bytes as i32)));
}

fn note_entry(e: &mut A64) {
    asm!(e.asm ; mov XSP(T0), sp);
    mem::store(e, Size::D, slot(Slot::EntrySp), T0);
}

fn return_to_entry(e: &mut A64) {
    mem::load(e, Size::D, false, T0, slot(Slot::EntrySp));
    asm!(e.asm ; mov sp, XSP(T0));
}

pub(super) fn enter(e: &mut A64, shape: &Shape) {
    e.asm.frame(Step::Begins);
    if frame_bytes(shape) != 0 {
        push_all(e, kept(shape), frame_bytes(shape), 8 * shape.may_goto as u32);
    }
    if shape.may_goto {
        alu::mov_imm(e, T0, MAY_GOTO_BUDGET as u64);
        asm!(e.asm ; str X(T0), [sp]);
    }
    match shape.entered {
        Entered::ByHost => {
            if shape.run {
                alu::mov(e, Width::W64, RUN, R1);
                note_entry(e);
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
                alu::add_imm(e, Width::W64, FP, FP, -FRAME_STRIDE);
            }
        }
    }
    if let FramePointer::Own { zeroed } = shape.fp {
        zero_stack(e, zeroed);
    }
}

fn zero_stack(e: &mut A64, bytes: u32) {
    if bytes == 0 {
        return;
    }
    let again = e.asm.label();
    alu::add_imm(e, Width::W64, T0, FP, -(bytes as i32));
    e.asm.bind(again);
    asm!(e.asm ; stp xzr, xzr, [XSP(T0)], 16);
    branch::branch(e, CmpOp::Ne, Width::W64, T0, Rhs::Reg(FP), again, Reach::Near);
}

/// Everything that `enter` did, undone. What follows the jump or return behind it is in the frame again.
pub(super) fn unwind(e: &mut A64, shape: &Shape) {
    e.asm.frame(Step::Keeps);
    if shape.entered == Entered::ByProgram && matches!(shape.fp, FramePointer::Own { .. }) {
        alu::add_imm(e, Width::W64, FP, FP, FRAME_STRIDE);
    }
    if frame_bytes(shape) != 0 {
        pop_all(e, kept(shape), frame_bytes(shape), 8 * shape.may_goto as u32);
    }
}

pub(super) fn leave(e: &mut A64, shape: &Shape) {
    unwind(e, shape);
    if shape.entered == Entered::ByHost {
        alu::mov(e, Width::W64, RESULT, R0);
    }
    asm!(e.asm ; ret);
    e.asm.frame(Step::Recalled);
}

pub(super) fn exit(e: &mut A64, shape: &Shape) {
    assume_all(e, kept(shape), frame_bytes(shape), 8 * shape.may_goto as u32);
    return_to_entry(e);
    leave(e, shape);
}

const STUB_BYTES: u32 = 8 * 14;
const EVERYTHING: u32 = CALLEE_SAVED | LR.bit();

fn enter_stub(e: &mut A64, frame: Gpr) {
    e.asm.frame(Step::Begins);
    push_all(e, EVERYTHING, STUB_BYTES, 16);
    alu::mov(e, Width::W64, RUN, frame);
    for (field, at) in [(Slot::EntrySp, 0u32), (Slot::Stack, 8)] {
        mem::load(e, Size::D, false, T0, slot(field));
        asm!(e.asm ; str X(T0), [sp, at]);
    }
    note_entry(e);
}

fn leave_stub(e: &mut A64) {
    for (field, at) in [(Slot::EntrySp, 0u32), (Slot::Stack, 8)] {
        asm!(e.asm ; ldr X(T0), [sp, at]);
        mem::store(e, Size::D, slot(field), T0);
    }
    pop_all(e, EVERYTHING, STUB_BYTES, 16);
    alu::mov(e, Width::W64, RESULT, R0);
    asm!(e.asm ; ret);
}

pub(super) fn host_stub(e: &mut A64, body: Label) {
    enter_stub(e, R1);
    // The body takes its frame below what it is given.
    mem::load(e, Size::D, false, FP, slot(Slot::StackTop));
    alu::add_imm(e, Width::W64, FP, FP, FRAME_STRIDE);
    mem::load(e, Size::D, false, MAP[2], slot(Slot::Second));
    mem::load(e, Size::D, false, R1, slot(Slot::Ctx));
    call::call(e, body);
    leave_stub(e);
}

pub(super) fn callback_stub(e: &mut A64, body: Label) {
    enter_stub(e, SIXTH);
    mem::load(e, Size::D, false, FP, slot(Slot::Stack));
    call::call(e, body);
    leave_stub(e);
}

pub(super) fn exit_stub(e: &mut A64) {
    assume_all(e, EVERYTHING, STUB_BYTES, 16);
    return_to_entry(e);
    leave_stub(e);
}
