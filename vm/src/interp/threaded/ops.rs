//! What each operation does.

use rtbpf_abi::frame::FaultCode;
use rtbpf_abi::frame::HelperFn;
use rtbpf_isa::{AluOp, AtomicOp, CmpOp, Operand, Size, Swap, Width, eval};

use super::op::{At, Handler, Machine};
use crate::mem;
use crate::unchecked::host;

const fn width(wide: bool) -> Width {
    if wide { Width::W64 } else { Width::W32 }
}

fn alu_reg<const OP: usize, const WIDE: bool>(at: At, m: &mut Machine<'_>, jumps: u32) -> At {
    let op = at.op();
    m.set(op.dst, eval::alu(const { AluOp::ALL[OP] }, const { width(WIDE) }, m.get(op.dst), m.get(op.rhs)));
    at.next(m, jumps)
}

fn alu_imm<const OP: usize, const WIDE: bool>(at: At, m: &mut Machine<'_>, jumps: u32) -> At {
    let op = at.op();
    m.set(op.dst, eval::alu(const { AluOp::ALL[OP] }, const { width(WIDE) }, m.get(op.dst), op.imm));
    at.next(m, jumps)
}

fn branch_reg<const OP: usize, const WIDE: bool>(at: At, m: &mut Machine<'_>, jumps: u32) -> At {
    let op = at.op();
    match eval::compare(const { CmpOp::ALL[OP] }, const { width(WIDE) }, m.get(op.lhs), m.get(op.rhs)) {
        true => at.by(op.off).jump(m, jumps),
        false => at.by(1).jump(m, jumps),
    }
}

fn branch_imm<const OP: usize, const WIDE: bool>(at: At, m: &mut Machine<'_>, jumps: u32) -> At {
    let op = at.op();
    match eval::compare(const { CmpOp::ALL[OP] }, const { width(WIDE) }, m.get(op.lhs), op.imm) {
        true => at.by(op.off).jump(m, jumps),
        false => at.by(1).jump(m, jumps),
    }
}

macro_rules! table {
    ($name:ident, $wide:literal, $($op:literal)*) => {
        [$($name::<$op, $wide>),*]
    };
}

/// The handler of an ALU operation.
pub(super) fn alu(op: AluOp, width: Width, src: Operand) -> Handler {
    let handlers: [Handler; 14] = match (width, src) {
        (Width::W64, Operand::Reg(_)) => table!(alu_reg, true, 0 1 2 3 4 5 6 7 8 9 10 11 12 13),
        (Width::W64, Operand::Imm(_)) => table!(alu_imm, true, 0 1 2 3 4 5 6 7 8 9 10 11 12 13),
        (Width::W32, Operand::Reg(_)) => table!(alu_reg, false, 0 1 2 3 4 5 6 7 8 9 10 11 12 13),
        (Width::W32, Operand::Imm(_)) => table!(alu_imm, false, 0 1 2 3 4 5 6 7 8 9 10 11 12 13),
    };
    handlers[op as usize]
}

/// The handler of a conditional jump.
pub(super) fn branch(op: CmpOp, width: Width, rhs: Operand) -> Handler {
    let handlers: [Handler; 11] = match (width, rhs) {
        (Width::W64, Operand::Reg(_)) => table!(branch_reg, true, 0 1 2 3 4 5 6 7 8 9 10),
        (Width::W64, Operand::Imm(_)) => table!(branch_imm, true, 0 1 2 3 4 5 6 7 8 9 10),
        (Width::W32, Operand::Reg(_)) => table!(branch_reg, false, 0 1 2 3 4 5 6 7 8 9 10),
        (Width::W32, Operand::Imm(_)) => table!(branch_imm, false, 0 1 2 3 4 5 6 7 8 9 10),
    };
    handlers[op as usize]
}

const SIZES: [Size; 4] = [Size::B, Size::H, Size::W, Size::D];
const SWAPS: [Swap; 3] = [Swap::ToLe, Swap::ToBe, Swap::Bswap];
const ATOMICS: [AtomicOp; 6] =
    [AtomicOp::Add, AtomicOp::Or, AtomicOp::And, AtomicOp::Xor, AtomicOp::Xchg, AtomicOp::Cmpxchg];

#[inline(always)]
fn ea(m: &Machine<'_>, base: u8, off: i32) -> *mut u8 {
    std::ptr::with_exposed_provenance_mut(m.get(base).wrapping_add(off as i64 as u64) as usize)
}

fn load_as<const SIZE: usize, const SIGNED: bool>(at: At, m: &mut Machine<'_>, jumps: u32) -> At {
    let op = at.op();
    // SAFETY: the verifier proved that the program may read there.
    let value = unsafe { mem::load(ea(m, op.lhs, op.off), const { SIZES[SIZE] }) };
    m.set(op.dst, if SIGNED { eval::sign_extend(const { SIZES[SIZE] }, value) } else { value });
    at.next(m, jumps)
}

fn store_reg<const SIZE: usize, const _WIDE: bool>(at: At, m: &mut Machine<'_>, jumps: u32) -> At {
    let op = at.op();
    // SAFETY: the verifier proved that the program may write there.
    unsafe { mem::store(ea(m, op.lhs, op.off), const { SIZES[SIZE] }, m.get(op.rhs)) };
    at.next(m, jumps)
}

fn store_value<const SIZE: usize, const _WIDE: bool>(at: At, m: &mut Machine<'_>, jumps: u32) -> At {
    let op = at.op();
    // SAFETY: the verifier proved that the program may write there.
    unsafe { mem::store(ea(m, op.lhs, op.off), const { SIZES[SIZE] }, op.imm) };
    at.next(m, jumps)
}

pub(super) fn load(size: Size, signed: bool) -> Handler {
    let handlers: [Handler; 4] = if signed { table!(load_as, true, 0 1 2 3) } else { table!(load_as, false, 0 1 2 3) };
    handlers[size as usize]
}

pub(super) fn store(size: Size, src: Operand) -> Handler {
    let handlers: [Handler; 4] = match src {
        Operand::Reg(_) => table!(store_reg, true, 0 1 2 3),
        Operand::Imm(_) => table!(store_value, true, 0 1 2 3),
    };
    handlers[size as usize]
}

pub(super) fn fence(at: At, m: &mut Machine<'_>, jumps: u32) -> At {
    std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
    at.next(m, jumps)
}

/// `imm`: 2 for 64 bits wide, 1 for fetch, from bit 8 the operation.
pub(super) fn atomic(at: At, m: &mut Machine<'_>, jumps: u32) -> At {
    let op = at.op();
    let (width, address) = (width(op.imm & 2 != 0), ea(m, op.lhs, op.off));
    let Some(&what) = ATOMICS.get((op.imm >> 8) as usize & 0xff) else { return At::END };
    // SAFETY: the verifier proved that the program may write there.
    let old = unsafe { mem::atomic(address, what, width, m.get(op.rhs), m.regs[0]) };
    match what {
        AtomicOp::Cmpxchg => m.regs[0] = old,
        AtomicOp::Xchg => m.set(op.rhs, old),
        AtomicOp::Add | AtomicOp::Or | AtomicOp::And | AtomicOp::Xor if op.imm & 1 != 0 => m.set(op.rhs, old),
        AtomicOp::Add | AtomicOp::Or | AtomicOp::And | AtomicOp::Xor => {}
    }
    at.next(m, jumps)
}

/// `imm`: 0 for 32 bits, otherwise 64; `off`: the size.
pub(super) fn move_sx(at: At, m: &mut Machine<'_>, jumps: u32) -> At {
    let op = at.op();
    m.set(op.dst, eval::move_sx(width(op.imm != 0), SIZES[op.off as usize & 3], m.get(op.rhs)));
    at.next(m, jumps)
}

pub(super) fn neg(at: At, m: &mut Machine<'_>, jumps: u32) -> At {
    let op = at.op();
    m.set(op.dst, eval::neg(width(op.imm != 0), m.get(op.dst)));
    at.next(m, jumps)
}

/// `imm`: which swap; `off`: the size.
pub(super) fn swap(at: At, m: &mut Machine<'_>, jumps: u32) -> At {
    let op = at.op();
    let kind = SWAPS.get(op.imm as usize).copied().unwrap_or(Swap::Bswap);
    m.set(op.dst, eval::swap(kind, SIZES[op.off as usize & 3], m.get(op.dst)));
    at.next(m, jumps)
}

pub(super) fn jump(at: At, m: &mut Machine<'_>, jumps: u32) -> At {
    at.by(at.op().off).jump(m, jumps)
}

/// Returns to [`Machine::run`].
pub(super) fn pause(at: At, _: &mut Machine<'_>, _: u32) -> At {
    at.by(1)
}

pub(super) fn may_goto(at: At, m: &mut Machine<'_>, jumps: u32) -> At {
    match m.may_goto_left.checked_sub(1) {
        None => at.by(at.op().off).jump(m, jumps),
        Some(left) => {
            m.may_goto_left = left;
            at.next(m, jumps)
        }
    }
}

/// Pays for a block; `off`: its cost, `imm`: its first instruction.
pub(super) fn charge(at: At, m: &mut Machine<'_>, jumps: u32) -> At {
    let op = at.op();
    if m.frame.fuel < op.off as i64 {
        return m.fault(FaultCode::OutOfFuel, op.imm as u32);
    }
    if host(m.frame).cancel.load(std::sync::atomic::Ordering::Relaxed) != 0 {
        return m.fault(FaultCode::Cancelled, op.imm as u32);
    }
    m.frame.fuel -= op.off as i64;
    at.next(m, jumps)
}

/// `off`: the distance; `imm`: the instruction.
pub(super) fn call(at: At, m: &mut Machine<'_>, jumps: u32) -> At {
    let op = at.op();
    match m.push(at.by(1)) {
        Some(()) => at.by(op.off).jump(m, jumps),
        None => m.fault(FaultCode::Helper, op.imm as u32),
    }
}

/// Zeroes the new frame's stack: `imm` bytes below R10, at most 512.
pub(super) fn clear(at: At, m: &mut Machine<'_>, jumps: u32) -> At {
    let bytes = at.op().imm as i32;
    // SAFETY: each frame has that many bytes of stack, which are the run's own.
    unsafe { ea(m, 10, -bytes).write_bytes(0, bytes as usize) };
    at.next(m, jumps)
}

pub(super) fn exit(_: At, m: &mut Machine<'_>, jumps: u32) -> At {
    match m.pop() {
        At::END => At::END,
        back => back.jump(m, jumps),
    }
}

pub(super) fn trap(at: At, m: &mut Machine<'_>, _: u32) -> At {
    m.fault(FaultCode::Memory, at.op().imm as u32)
}

/// `imm`: the function; `lhs`: 1 when it wants its number, which `off` is. The instruction is in the operation behind.
pub(super) fn helper(at: At, m: &mut Machine<'_>, jumps: u32) -> At {
    let op = at.op();
    m.frame.helper = op.off as u32;
    // SAFETY: translation put the address of a `HelperFn` there.
    let function = unsafe { std::mem::transmute::<usize, HelperFn>(op.imm as usize) };
    let [_, r1, r2, r3, r4, r5, ..] = m.regs;
    m.regs[0] = function(r1, r2, r3, r4, r5, m.frame);
    after_call(at, m, jumps)
}

/// Goes on behind the note that follows a call, unless the callee faulted.
#[inline(always)]
pub(super) fn after_call(at: At, m: &mut Machine<'_>, jumps: u32) -> At {
    if m.frame.fault != FaultCode::None {
        return m.fault(FaultCode::None, at.by(1).op().imm as u32);
    }
    at.by(1).next(m, jumps)
}
