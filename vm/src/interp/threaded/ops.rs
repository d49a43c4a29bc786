//! What each operation does.

use rtbpf_abi::frame::FaultCode;
use rtbpf_abi::frame::HelperFn;
use rtbpf_isa::{AluOp, AtomicOp, CmpOp, Operand, Size, Swap, Width, eval};

use super::op::{At, Handler, Machine, Op};
use crate::mem;
use crate::unchecked::host;

const fn width(wide: bool) -> Width {
    if wide { Width::W64 } else { Width::W32 }
}

/// What an operation does that always goes on with the next.
pub(super) trait Step {
    /// Which it is.
    const FORM: Form;
    /// Does it.
    fn take(op: Op, m: &mut Machine<'_>);
}

/// What an operation asks that goes on with the next or jumps.
pub(super) trait Test {
    /// Which it is.
    const FORM: Form;
    /// Whether it jumps.
    fn holds(op: Op, m: &Machine<'_>) -> bool;
}

/// An operation by what is known of it when this is compiled: numbers of [`AluOp`], [`CmpOp`] or [`SIZES`], whether it is wide
/// (of a load, signed).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Form {
    AluReg(usize, bool),
    AluImm(usize, bool),
    Load(usize, bool),
    StoreReg(usize),
    StoreImm(usize),
    BranchReg(usize, bool),
    BranchImm(usize, bool),
}

pub(super) struct AluReg<const OP: usize, const WIDE: bool>;
pub(super) struct AluImm<const OP: usize, const WIDE: bool>;
pub(super) struct Load<const SIZE: usize, const SIGNED: bool>;
pub(super) struct StoreReg<const SIZE: usize>;
pub(super) struct StoreImm<const SIZE: usize>;
pub(super) struct BranchReg<const OP: usize, const WIDE: bool>;
pub(super) struct BranchImm<const OP: usize, const WIDE: bool>;

impl<const OP: usize, const WIDE: bool> Step for AluReg<OP, WIDE> {
    const FORM: Form = Form::AluReg(OP, WIDE);

    #[inline(always)]
    fn take(op: Op, m: &mut Machine<'_>) {
        m.set(op.dst, eval::alu(const { AluOp::ALL[OP] }, const { width(WIDE) }, m.get(op.dst), m.get(op.rhs)));
    }
}

impl<const OP: usize, const WIDE: bool> Step for AluImm<OP, WIDE> {
    const FORM: Form = Form::AluImm(OP, WIDE);

    #[inline(always)]
    fn take(op: Op, m: &mut Machine<'_>) {
        m.set(op.dst, eval::alu(const { AluOp::ALL[OP] }, const { width(WIDE) }, m.get(op.dst), op.imm));
    }
}

impl<const SIZE: usize, const SIGNED: bool> Step for Load<SIZE, SIGNED> {
    const FORM: Form = Form::Load(SIZE, SIGNED);

    #[inline(always)]
    fn take(op: Op, m: &mut Machine<'_>) {
        // SAFETY: the verifier proved that the program may read there.
        let value = unsafe { mem::load(ea(m, op.lhs, op.off), const { SIZES[SIZE] }) };
        m.set(op.dst, if SIGNED { eval::sign_extend(const { SIZES[SIZE] }, value) } else { value });
    }
}

impl<const SIZE: usize> Step for StoreReg<SIZE> {
    const FORM: Form = Form::StoreReg(SIZE);

    #[inline(always)]
    fn take(op: Op, m: &mut Machine<'_>) {
        // SAFETY: the verifier proved that the program may write there.
        unsafe { mem::store(ea(m, op.lhs, op.off), const { SIZES[SIZE] }, m.get(op.rhs)) };
    }
}

impl<const SIZE: usize> Step for StoreImm<SIZE> {
    const FORM: Form = Form::StoreImm(SIZE);

    #[inline(always)]
    fn take(op: Op, m: &mut Machine<'_>) {
        // SAFETY: the verifier proved that the program may write there.
        unsafe { mem::store(ea(m, op.lhs, op.off), const { SIZES[SIZE] }, op.imm) };
    }
}

impl<const OP: usize, const WIDE: bool> Test for BranchReg<OP, WIDE> {
    const FORM: Form = Form::BranchReg(OP, WIDE);

    #[inline(always)]
    fn holds(op: Op, m: &Machine<'_>) -> bool {
        eval::compare(const { CmpOp::ALL[OP] }, const { width(WIDE) }, m.get(op.lhs), m.get(op.rhs))
    }
}

impl<const OP: usize, const WIDE: bool> Test for BranchImm<OP, WIDE> {
    const FORM: Form = Form::BranchImm(OP, WIDE);

    #[inline(always)]
    fn holds(op: Op, m: &Machine<'_>) -> bool {
        eval::compare(const { CmpOp::ALL[OP] }, const { width(WIDE) }, m.get(op.lhs), op.imm)
    }
}

fn step<S: Step>(at: At, m: &mut Machine<'_>, jumps: u32) -> At {
    S::take(at.op(), m);
    at.next(m, jumps)
}

fn branch<T: Test>(at: At, m: &mut Machine<'_>, jumps: u32) -> At {
    match T::holds(at.op(), m) {
        true => at.by(at.op().off).jump(m, jumps),
        false => at.by(1).jump(m, jumps),
    }
}

macro_rules! table {
    ($run:ident, $form:ident, $wide:ident, $($op:literal)*) => {
        if $wide { [$($run::<$form<$op, true>> as Handler),*] } else { [$($run::<$form<$op, false>> as Handler),*] }
    };
}

impl Form {
    pub fn alu(op: AluOp, width: Width, src: Operand) -> Form {
        match src {
            Operand::Reg(_) => Form::AluReg(op as usize, width == Width::W64),
            Operand::Imm(_) => Form::AluImm(op as usize, width == Width::W64),
        }
    }

    pub fn branch(op: CmpOp, width: Width, rhs: Operand) -> Form {
        match rhs {
            Operand::Reg(_) => Form::BranchReg(op as usize, width == Width::W64),
            Operand::Imm(_) => Form::BranchImm(op as usize, width == Width::W64),
        }
    }

    pub fn load(size: Size, signed: bool) -> Form {
        Form::Load(size as usize, signed)
    }

    pub fn store(size: Size, src: Operand) -> Form {
        match src {
            Operand::Reg(_) => Form::StoreReg(size as usize),
            Operand::Imm(_) => Form::StoreImm(size as usize),
        }
    }

    /// What performs it.
    pub fn handler(self) -> Handler {
        match self {
            Form::AluReg(op, wide) => table!(step, AluReg, wide, 0 1 2 3 4 5 6 7 8 9 10 11 12 13)[op],
            Form::AluImm(op, wide) => table!(step, AluImm, wide, 0 1 2 3 4 5 6 7 8 9 10 11 12 13)[op],
            Form::BranchReg(op, wide) => table!(branch, BranchReg, wide, 0 1 2 3 4 5 6 7 8 9 10)[op],
            Form::BranchImm(op, wide) => table!(branch, BranchImm, wide, 0 1 2 3 4 5 6 7 8 9 10)[op],
            Form::Load(size, signed) => table!(step, Load, signed, 0 1 2 3)[size],
            Form::StoreReg(size) => {
                [step::<StoreReg<0>>, step::<StoreReg<1>>, step::<StoreReg<2>>, step::<StoreReg<3>>][size]
            }
            Form::StoreImm(size) => {
                [step::<StoreImm<0>>, step::<StoreImm<1>>, step::<StoreImm<2>>, step::<StoreImm<3>>][size]
            }
        }
    }
}

pub(super) const SIZES: [Size; 4] = [Size::B, Size::H, Size::W, Size::D];
const SWAPS: [Swap; 3] = [Swap::ToLe, Swap::ToBe, Swap::Bswap];
const ATOMICS: [AtomicOp; 6] =
    [AtomicOp::Add, AtomicOp::Or, AtomicOp::And, AtomicOp::Xor, AtomicOp::Xchg, AtomicOp::Cmpxchg];

#[inline(always)]
fn ea(m: &Machine<'_>, base: u8, off: i32) -> *mut u8 {
    std::ptr::with_exposed_provenance_mut(m.get(base).wrapping_add(off as i64 as u64) as usize)
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

/// `imm`: the function; `off`: its number. The instruction is in the operation behind.
pub(super) fn helper(at: At, m: &mut Machine<'_>, jumps: u32) -> At {
    m.frame.helper = at.op().off as u32;
    call_function(at, m);
    after_call(at, m, jumps)
}

/// The same for a function that cannot fault and does not ask for its number.
pub(super) fn sure_helper(at: At, m: &mut Machine<'_>, jumps: u32) -> At {
    call_function(at, m);
    at.by(1).next(m, jumps)
}

#[inline(always)]
fn call_function(at: At, m: &mut Machine<'_>) {
    // SAFETY: translation put the address of a `HelperFn` there.
    let function = unsafe { std::mem::transmute::<usize, HelperFn>(at.op().imm as usize) };
    let [_, r1, r2, r3, r4, r5, ..] = m.regs;
    m.regs[0] = function(r1, r2, r3, r4, r5, m.frame);
}

/// Goes on behind the note that follows a call, unless the callee faulted.
#[inline(always)]
pub(super) fn after_call(at: At, m: &mut Machine<'_>, jumps: u32) -> At {
    if m.frame.fault != FaultCode::None {
        return m.fault(FaultCode::None, at.by(1).op().imm as u32);
    }
    at.by(1).next(m, jumps)
}
