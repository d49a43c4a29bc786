//! aarch64.
//!
//! Branches are emitted as words, because their fields are filled in by our own fix-ups; all else is dynasm's.

/// `dynasm!` for aarch64, whatever the host.
macro_rules! asm {
    ($ops:expr ; $($t:tt)*) => {{
        // Not every instruction needs the trait.
        #[allow(unused_imports)]
        use dynasmrt::DynasmApi as _;
        let ops = &mut $ops;
        dynasmrt::dynasm!(ops ; .arch aarch64 ; $($t)*)
    }};
}

/// One instruction over registers only, at either width.
macro_rules! wx {
    ($e:expr, $w:expr ; $mnemonic:ident $($reg:ident),+) => {
        match $w {
            Width::W32 => asm!($e.asm ; $mnemonic $(W($reg)),+),
            Width::W64 => asm!($e.asm ; $mnemonic $(X($reg)),+),
        }
    };
}

mod alu;
mod atomic;
mod branch;
mod call;
mod frame;
mod imm;
mod mem;
pub mod regs;

use rtbpf_isa::{AtomicOp, CmpOp, Insn, InsnIdx, Size, Width};

use crate::abi::Slot;
use crate::asm::{Asm, Label};
use crate::code::Symbol;
use crate::encode::{Addr, Bin, Div, Encode, Reach, Rhs, Shape};
use crate::opt::magic::Magic;
use regs::{Gpr, Mem};
use rtbpf_abi::frame::FaultCode;

/// What the processor has beyond the base instruction set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Features {
    /// Atomic operations in one instruction.
    pub lse: bool,
}

/// The encoder.
pub struct A64 {
    asm: Asm,
    features: Features,
}

impl A64 {
    /// An encoder over `asm`.
    pub fn new(asm: Asm, features: Features) -> A64 {
        A64 { asm, features }
    }
}

impl Encode for A64 {
    type Reg = Gpr;
    const MAP: [Gpr; 11] = regs::MAP;
    const MEMORY_OPERANDS: bool = false;
    const EXTRA: &'static [Gpr] = &regs::EXTRA;
    const SPARE: Gpr = regs::T2;
    const CALLEE_SAVED: u32 = regs::CALLEE_SAVED;

    fn takes_extra(&self, insn: &Insn) -> bool {
        matches!(insn, Insn::Call(_) | Insn::Packet { .. } | Insn::AddrCast { .. })
    }

    fn asm(&mut self) -> &mut Asm {
        &mut self.asm
    }

    // Only the distance beyond 1 MiB matters here, and that counts instructions.
    fn most_bytes(_: &Insn) -> Option<u32> {
        None
    }

    fn mov(&mut self, w: Width, d: Gpr, s: Gpr) {
        alu::mov(self, w, d, s);
    }
    fn mov_imm(&mut self, d: Gpr, value: u64) {
        alu::mov_imm(self, d, value);
    }
    fn mov_symbol(&mut self, d: Gpr, symbol: Symbol) {
        alu::mov_symbol(self, d, symbol);
    }
    fn mov_label(&mut self, d: Gpr, label: Label) {
        call::mov_label(self, d, label);
    }
    fn sign_extend(&mut self, w: Width, from: Size, d: Gpr, s: Gpr) {
        alu::sign_extend(self, w, from, d, s);
    }
    fn zero_extend(&mut self, from: Size, d: Gpr, s: Gpr) {
        alu::zero_extend(self, from, d, s);
    }
    fn bin(&mut self, op: Bin, w: Width, d: Gpr, a: Gpr, b: Rhs<Gpr>) {
        alu::bin(self, op, w, d, a, b);
    }
    fn divide(&mut self, op: Div, w: Width, d: Gpr, b: Rhs<Gpr>, nonzero: bool) {
        // Total as it is.
        let _ = nonzero;
        alu::divide(self, op, w, d, b);
    }
    fn neg(&mut self, w: Width, d: Gpr, a: Gpr) {
        alu::neg(self, w, d, a);
    }
    fn swap(&mut self, size: Size, d: Gpr) {
        alu::swap(self, size, d);
    }
    fn rotate_left(&mut self, w: Width, d: Gpr, a: Gpr, count: u8) {
        alu::rotate_left(self, w, d, a, count);
    }
    fn lea(&mut self, w: Width, d: Gpr, addr: Mem) {
        mem::lea(self, w, d, addr);
    }
    fn quotient(&mut self, w: Width, d: Gpr, a: Gpr, narrow: bool, magic: Magic) -> Option<Gpr> {
        Some(alu::quotient(self, w, d, a, narrow, magic))
    }
    fn load(&mut self, size: Size, signed: bool, d: Gpr, addr: Mem) {
        mem::load(self, size, signed, d, addr);
    }
    fn store(&mut self, size: Size, addr: Mem, s: Gpr) {
        mem::store(self, size, addr, s);
    }
    fn store_imm(&mut self, size: Size, addr: Mem, value: i32) {
        mem::store_imm(self, size, addr, value);
    }
    fn atomic(&mut self, op: AtomicOp, fetch: bool, w: Width, base: Gpr, disp: i32, src: Gpr) {
        atomic::atomic(self, op, fetch, w, Addr::new(base, disp), src);
    }
    fn load_acquire(&mut self, size: Size, d: Gpr, base: Gpr, disp: i32) {
        atomic::load_acquire(self, size, d, Addr::new(base, disp));
    }
    fn store_release(&mut self, size: Size, base: Gpr, disp: i32, s: Gpr) {
        atomic::store_release(self, size, Addr::new(base, disp), s);
    }
    fn jump(&mut self, to: Label, reach: Reach) {
        let _ = reach;
        branch::jump(self, to);
    }
    fn branch(&mut self, op: CmpOp, w: Width, a: Gpr, b: Rhs<Gpr>, to: Label, reach: Reach) {
        branch::branch(self, op, w, a, b, to, reach);
    }
    fn adds_truth(_: CmpOp, _: Width, _: Rhs<Gpr>) -> bool {
        true
    }
    fn add_truth(&mut self, op: CmpOp, compared: Width, a: Gpr, b: Rhs<Gpr>, w: Width, d: Gpr) {
        branch::add_truth(self, op, compared, a, b, w, d);
    }
    fn add_carry(&mut self, a: Gpr, b: Gpr, d: Gpr) {
        alu::add_carry(self, a, b, d);
    }
    fn set_carry(&mut self, a: Gpr, b: Gpr, d: Gpr) {
        alu::set_carry(self, a, b, d);
    }
    fn select(&mut self, op: CmpOp, w: Width, a: Gpr, b: Rhs<Gpr>, d: Gpr, s: Gpr) {
        branch::select(self, op, w, a, b, d, s);
    }
    fn set(&mut self, op: CmpOp, w: Width, a: Gpr, b: Rhs<Gpr>, d: Gpr) {
        branch::set(self, op, w, a, b, d);
    }
    fn may_goto(&mut self, to: Label, reach: Reach) {
        branch::may_goto(self, to, reach);
    }
    fn align(&mut self, bytes: usize) {
        branch::align(self, bytes);
    }
    fn landing_pad(&mut self) {
        // bti jc: tail calls jump, helpers and hosts call.
        self.asm.put(0xd503_24df, 4);
    }
    fn trap(&mut self) {
        asm!(self.asm ; brk 1);
    }
    fn enter(&mut self, shape: &Shape) {
        frame::enter(self, shape);
    }
    fn leave(&mut self, shape: &Shape) {
        frame::leave(self, shape);
    }
    fn exit(&mut self, shape: &Shape) {
        frame::exit(self, shape);
    }
    fn host_stub(&mut self, body: Label) {
        frame::host_stub(self, body);
    }
    fn callback_stub(&mut self, body: Label) {
        frame::callback_stub(self, body);
    }
    fn exit_stub(&mut self) {
        frame::exit_stub(self);
    }
    fn call(&mut self, body: Label) {
        call::call(self, body);
    }
    fn call_symbol(&mut self, symbol: Symbol, publish_stack: bool) {
        call::call_symbol(self, symbol, publish_stack);
    }
    fn packet_load(&mut self, size: Size, index: Option<Gpr>, off: i32, fail: Label) {
        call::packet_load(self, size, index, off, fail);
    }
    fn tail_jump(&mut self, shape: &Shape, exit: Label) {
        call::tail_jump(self, shape, exit);
    }
    fn check_fault(&mut self, out: Label) {
        call::check_fault(self, out);
    }
    fn charge(&mut self, count: u32, out: Label) {
        call::charge(self, count, out);
    }
    fn check_cancel(&mut self, out: Label) {
        call::check_cancel(self, out);
    }
    fn fault(&mut self, refund: u32, code: FaultCode, at: InsnIdx, exit: Label) {
        call::fault(self, refund, code, at, exit);
    }
    fn get_slot(&mut self, d: Gpr, slot: Slot) {
        mem::load(self, Size::W, false, d, frame::slot(slot));
    }
    fn set_slot(&mut self, slot: Slot, value: u32) {
        mem::store_imm(self, Size::W, frame::slot(slot), value as i32);
    }
}
