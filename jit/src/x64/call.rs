//! Calls, tail calls, faults and fuel.

use rtbpf_abi::frame::FaultCode;
use rtbpf_isa::{InsnIdx, Size, Width};

use super::branch::{self, Cc};
use super::frame::{self, slot};
use super::regs::{Gpr, MAP, Mem, RUN, T0, T2};
use super::{Rm, X64, alu, mem, op};
use crate::abi::{FRAME_STRIDE, Slot};
use crate::asm::{Field, Label};
use crate::code::{RelocKind, Step, Symbol};
use crate::encode::{Entered, FramePointer, Reach, Shape};

const R0: Gpr = MAP[0];
const FP: Gpr = MAP[10];

fn rel32(e: &mut X64, to: Label) {
    e.asm.refer(to, Field::Rel32);
    e.asm.put(0, 4);
}

pub(super) fn call(e: &mut X64, body: Label) {
    e.asm.put(0xe8, 1);
    rel32(e, body);
}

pub(super) fn mov_label(e: &mut X64, d: Gpr, label: Label) {
    // lea d, [rip + rel32]
    let (rex, modrm) = (0x48 | (d as u64 >> 3) << 2, 0x05 | (d as u64 & 7) << 3);
    e.asm.put(rex | 0x8d00 | modrm << 16, 3);
    rel32(e, label);
}

pub(super) fn call_symbol(e: &mut X64, symbol: Symbol, publish_stack: bool) {
    if publish_stack {
        mem::store(e, Size::D, slot(Slot::Stack), FP);
    }
    alu::mov(e, Width::W64, T2, RUN);
    e.asm.put(0xe8, 1);
    e.asm.relocate(RelocKind::Call32, symbol);
    e.asm.put(0, 4);
}

pub(super) fn packet_load(e: &mut X64, size: Size, index: Option<Gpr>, off: i32, fail: Label) {
    match index {
        Some(index) => mem::lea(e, Width::W32, MAP[2], Mem::new(index, off)),
        None => alu::mov_imm(e, MAP[2], off as u32 as u64),
    }
    alu::mov(e, Width::W64, MAP[1], MAP[6]);
    alu::mov_imm(e, MAP[3], size.bytes() as u64);
    call_symbol(e, Symbol::PacketLoad, false);
    e.rr(Width::W64, 0x85, R0, R0);
    branch::jcc(e, Cc::S, fail, Reach::Near);
}

pub(super) fn tail_jump(e: &mut X64, shape: &Shape, exit: Label) {
    let stays = e.asm.label();
    e.rr(Width::W64, 0x85, R0, R0);
    match shape.entered {
        Entered::ByHost => {
            branch::short(e, Cc::E, stays);
            alu::mov(e, Width::W64, MAP[1], RUN);
            frame::unwind(e, shape);
            e.rm(Width::W32, op(0xff), 4, Rm::Reg(R0));
            e.asm.frame(Step::Recalled);
        }
        Entered::ByProgram => {
            // The target is an entry of its own, below this function's caller; its frame takes the place of ours.
            branch::jcc(e, Cc::E, stays, Reach::Near);
            let below = if matches!(shape.fp, FramePointer::Own { .. }) { 0 } else { -FRAME_STRIDE };
            mem::lea(e, Width::W64, T0, Mem::new(FP, below));
            frame::push_slot(e, Slot::StackTop);
            frame::push_slot(e, Slot::EntrySp);
            mem::store(e, Size::D, slot(Slot::StackTop), T0);
            alu::mov(e, Width::W64, MAP[1], RUN);
            e.rm(Width::W32, op(0xff), 2, Rm::Reg(R0));
            frame::pop_slot(e, Slot::EntrySp);
            frame::pop_slot(e, Slot::StackTop);
            check_fault(e, exit);
            frame::leave(e, shape);
        }
    }
    e.asm.bind(stays);
}

pub(super) fn check_fault(e: &mut X64, out: Label) {
    e.rm(Width::W32, op(0x83), 7, Rm::Mem(slot(Slot::Fault)));
    e.imm8(0);
    branch::jcc(e, Cc::Ne, out, Reach::Near);
}

pub(super) fn charge(e: &mut X64, count: u32, out: Label) {
    e.rm(Width::W64, op(0x81), 5, Rm::Mem(slot(Slot::Fuel)));
    e.imm32(count as i32);
    branch::jcc(e, Cc::S, out, Reach::Near);
}

pub(super) fn check_cancel(e: &mut X64, out: Label) {
    mem::load(e, Size::D, false, T0, slot(Slot::Cancel));
    e.rm(Width::W32, op(0x83), 7, Rm::Mem(Mem::new(T0, 0)));
    e.imm8(0);
    branch::jcc(e, Cc::Ne, out, Reach::Near);
}

pub(super) fn fault(e: &mut X64, refund: u32, code: FaultCode, at: InsnIdx, exit: Label) {
    if refund != 0 {
        e.rm(Width::W64, op(0x81), 0, Rm::Mem(slot(Slot::Fuel)));
        e.imm32(refund as i32);
    }
    if code != FaultCode::None {
        mem::store_imm(e, Size::W, slot(Slot::Fault), code as i32);
    } else {
        // A callback may have noted its own place.
        e.rm(Width::W32, op(0x83), 7, Rm::Mem(slot(Slot::FaultAt)));
        e.imm8(-1);
        branch::jcc(e, Cc::Ne, exit, Reach::Far);
    }
    mem::store_imm(e, Size::W, slot(Slot::FaultAt), at.0 as i32);
    branch::jump(e, exit, Reach::Far);
}
