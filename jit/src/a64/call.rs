//! Calls, tail calls, faults and fuel.

use rtbpf_abi::frame::FaultCode;
use rtbpf_isa::{CmpOp, InsnIdx, Size, Width};

use super::branch;
use super::frame::{self, slot};
use super::regs::{Gpr, MAP, Mem, RESULT, RUN, SIXTH, T0, T1, T2};
use super::{A64, alu, mem};
use crate::abi::{FRAME_STRIDE, Slot};
use crate::asm::{Field, Label};
use crate::code::{RelocKind, Step, Symbol};
use crate::encode::{Bin, Entered, FramePointer, Reach, Rhs, Shape};

const R0: Gpr = MAP[0];
const FP: Gpr = MAP[10];

pub(super) fn call(e: &mut A64, body: Label) {
    e.asm.refer(body, Field::Imm26);
    e.asm.put(0x9400_0000, 4);
}

pub(super) fn mov_label(e: &mut A64, d: Gpr, label: Label) {
    e.asm.refer(label, Field::Adr);
    e.asm.put(0x1000_0000 | d.number() as u64, 4);
}

pub(super) fn call_symbol(e: &mut A64, symbol: Symbol, publish_stack: bool) {
    if publish_stack {
        mem::store(e, Size::D, slot(Slot::Stack), FP);
    }
    alu::mov(e, Width::W64, SIXTH, RUN);
    e.asm.relocate(RelocKind::Call26, symbol);
    e.asm.put(0x9400_0000, 4);
    alu::mov(e, Width::W64, R0, RESULT);
}

pub(super) fn packet_load(e: &mut A64, size: Size, index: Option<Gpr>, off: i32, fail: Label) {
    match index {
        Some(index) => alu::bin(e, Bin::Add, Width::W32, MAP[2], index, Rhs::Imm(off)),
        None => alu::mov_imm(e, MAP[2], off as u32 as u64),
    }
    alu::mov(e, Width::W64, MAP[1], MAP[6]);
    alu::mov_imm(e, MAP[3], size.bytes() as u64);
    call_symbol(e, Symbol::PacketLoad, false);
    branch::branch(e, CmpOp::Slt, Width::W64, R0, Rhs::Imm(0), fail, Reach::Near);
}

pub(super) fn tail_jump(e: &mut A64, shape: &Shape, exit: Label) {
    let stays = e.asm.label();
    branch::zero(e, true, Width::W64, R0, stays, Reach::Near);
    match shape.entered {
        Entered::ByHost => {
            alu::mov(e, Width::W64, MAP[1], RUN);
            frame::unwind(e, shape);
            asm!(e.asm ; br X(R0));
            e.asm.frame(Step::Recalled);
        }
        Entered::ByProgram => {
            // The target is an entry of its own, below this function's caller; its frame takes the place of ours.
            let below = if matches!(shape.fp, FramePointer::Own { .. }) { 0 } else { -FRAME_STRIDE };
            mem::lea(e, Width::W64, T2, Mem::new(FP, below));
            mem::load(e, Size::D, false, T0, slot(Slot::StackTop));
            mem::load(e, Size::D, false, T1, slot(Slot::EntrySp));
            asm!(e.asm ; stp X(T0), X(T1), [sp, -16]!);
            mem::store(e, Size::D, slot(Slot::StackTop), T2);
            alu::mov(e, Width::W64, MAP[1], RUN);
            asm!(e.asm ; blr X(R0) ; ldp X(T0), X(T1), [sp], 16);
            mem::store(e, Size::D, slot(Slot::StackTop), T0);
            mem::store(e, Size::D, slot(Slot::EntrySp), T1);
            alu::mov(e, Width::W64, R0, RESULT);
            check_fault(e, exit);
            frame::leave(e, shape);
        }
    }
    e.asm.bind(stays);
}

pub(super) fn check_fault(e: &mut A64, out: Label) {
    branch::nonzero_word(e, slot(Slot::Fault), out);
}

pub(super) fn charge(e: &mut A64, count: u32, out: Label) {
    mem::load(e, Size::D, false, T0, slot(Slot::Fuel));
    match super::imm::add(count) {
        Some(super::imm::Add::Plain(count)) => asm!(e.asm ; subs X(T0), XSP(T0), count),
        Some(super::imm::Add::Shifted(_)) | None => {
            alu::mov_imm(e, T1, count as u64);
            asm!(e.asm ; subs X(T0), X(T0), X(T1));
        }
    }
    mem::store(e, Size::D, slot(Slot::Fuel), T0);
    branch::on(e, branch::MI, out, Reach::Far);
}

pub(super) fn check_cancel(e: &mut A64, out: Label) {
    mem::load(e, Size::D, false, T0, slot(Slot::Cancel));
    branch::nonzero_word(e, Mem::new(T0, 0), out);
}

pub(super) fn fault(e: &mut A64, refund: u32, code: FaultCode, at: InsnIdx, exit: Label) {
    if refund != 0 {
        mem::load(e, Size::D, false, T2, slot(Slot::Fuel));
        alu::mov_imm(e, T1, refund as u64);
        alu::bin(e, Bin::Add, Width::W64, T2, T2, Rhs::Reg(T1));
        mem::store(e, Size::D, slot(Slot::Fuel), T2);
    }
    if code != FaultCode::None {
        mem::store_imm(e, Size::W, slot(Slot::Fault), code as i32);
    } else {
        // A callback may have noted its own place.
        mem::load(e, Size::W, false, T2, slot(Slot::FaultAt));
        branch::branch(e, CmpOp::Ne, Width::W32, T2, Rhs::Imm(-1), exit, Reach::Far);
    }
    mem::store_imm(e, Size::W, slot(Slot::FaultAt), at.0 as i32);
    branch::jump(e, exit);
}
