//! x86_64.
//!
//! Instructions whose registers are known only at run time go through `X64::rm`: dynasm spends a needless REX prefix
//! and SIB byte on each of them and 8 to 10 ns. Fixed sequences are dynasm's.

/// `dynasm!` for x86_64, whatever the host.
macro_rules! asm {
    ($ops:expr ; $($t:tt)*) => {{
        // Not every instruction needs the trait.
        #[allow(unused_imports)]
        use dynasmrt::DynasmApi as _;
        let ops = &mut $ops;
        dynasmrt::dynasm!(ops ; .arch x64 ; $($t)*)
    }};
}

mod alu;
mod atomic;
mod branch;
mod call;
mod frame;
mod mem;
pub mod regs;

use rtbpf_isa::{AluOp, AtomicOp, CmpOp, Insn, InsnIdx, Operand, Size, Width};

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
    /// Shifts and rotates with three operands, `mulx`.
    pub bmi2: bool,
}

/// The encoder.
pub struct X64 {
    asm: Asm,
    features: Features,
    /// The register of which the zero flag tells, and where it does so.
    result: Option<(u32, Width, Gpr)>,
}

/// The `r/m` operand.
#[derive(Clone, Copy)]
enum Rm {
    Reg(Gpr),
    Mem(Mem),
}

/// Opcode and prefix of an instruction: `0f` opcodes as `0x0fxx`, others as one byte.
#[derive(Clone, Copy)]
struct Op {
    prefix: u8,
    code: u16,
    /// The register operands are bytes: numbers 4 to 7 need a REX prefix to mean sil, dil and so on.
    bytes: bool,
}

const fn op(code: u16) -> Op {
    Op { prefix: 0, code, bytes: false }
}

const fn op16(code: u16) -> Op {
    Op { prefix: 0x66, code, bytes: false }
}

const fn op8(code: u16) -> Op {
    Op { prefix: 0, code, bytes: true }
}

/// The width and form of an operation on memory of this size, and what its code is above that of the form for bytes.
fn sized(size: Size) -> (Width, fn(u16) -> Op, u16) {
    match size {
        Size::B => (Width::W32, op8, 0),
        Size::H => (Width::W32, op16, 1),
        Size::W => (Width::W32, op, 1),
        Size::D => (Width::W64, op, 1),
    }
}

/// An operation of memory with a number, of which `short` is the short form, if it has one.
fn memory_imm(e: &mut X64, size: Size, addr: Mem, (code, extension): (u16, u8), value: i32, short: Option<i8>) {
    let (w, form, _) = sized(size);
    // The number in an extension's place names no byte register.
    e.rm(w, Op { bytes: false, ..form(code) }, extension, Rm::Mem(addr));
    match (size, short) {
        (Size::B, _) => e.imm8(value as i8),
        (_, Some(value)) => e.imm8(value),
        (Size::H, None) => e.asm.put(value as u16 as u64, 2),
        (Size::W | Size::D, None) => e.imm32(value),
    }
}

impl X64 {
    /// An encoder over `asm`.
    pub fn new(asm: Asm, features: Features) -> X64 {
        X64 { asm, features, result: None }
    }

    /// The buffer, for its results.
    pub fn into_asm(self) -> Asm {
        self.asm
    }

    /// One instruction with ModRM, without its immediate. `reg` is a register number or an opcode extension.
    #[inline(always)]
    fn rm(&mut self, w: Width, op: Op, reg: u8, rm: Rm) {
        let wide = (w == Width::W64) as u8;
        let (b, x) = match rm {
            Rm::Reg(reg) => (reg as u8, 0),
            Rm::Mem(mem) => (mem.base as u8, mem.index.map_or(0, |(index, _)| index as u8)),
        };
        let mut head = Head::default();
        if op.prefix != 0 {
            head.byte(op.prefix);
        }
        let rex = wide << 3 | (reg >> 3) << 2 | (x >> 3) << 1 | b >> 3;
        let byte_reg = op.bytes && (reg > 3 || matches!(rm, Rm::Reg(r) if r as u8 > 3));
        if rex != 0 || byte_reg {
            head.byte(0x40 | rex);
        }
        if op.code > 0xff {
            head.byte((op.code >> 8) as u8);
        }
        head.byte(op.code as u8);
        match rm {
            Rm::Reg(_) => {
                head.byte(0xc0 | (reg & 7) << 3 | b & 7);
                self.asm.put(head.word, head.len);
            }
            Rm::Mem(mem) => {
                // Without displacement, base 5 (rbp, r13) means something else.
                let (mode, bytes) = match mem.disp {
                    0 if b & 7 != 5 => (0x00, 0),
                    -128..=127 => (0x40, 1),
                    _ => (0x80, 4),
                };
                match mem.index {
                    Some((index, shift)) => {
                        head.byte(mode | (reg & 7) << 3 | 4);
                        head.byte((shift & 3) << 6 | (index as u8 & 7) << 3 | b & 7);
                    }
                    None => {
                        head.byte(mode | (reg & 7) << 3 | b & 7);
                        // Base 4 (rsp, r12) announces a SIB byte.
                        if b & 7 == 4 {
                            head.byte(0x24);
                        }
                    }
                }
                self.asm.put(head.word, head.len);
                if bytes != 0 {
                    self.asm.put(mem.disp as u32 as u64, bytes);
                }
            }
        }
    }

    /// The instruction just emitted left the zero flag of what it wrote to `d`.
    #[inline(always)]
    fn flags(&mut self, w: Width, d: Gpr) {
        self.result = Some((self.asm.here(), w, d));
    }

    /// What the zero flag tells of here.
    #[inline(always)]
    fn flagged(&self) -> Option<(Width, Gpr)> {
        let (place, w, reg) = self.result?;
        (place == self.asm.here() && self.asm.falls()).then_some((w, reg))
    }

    /// Whether the zero flag tells of `a`; a 32-bit result is extended.
    fn is_flagged(&self, w: Width, a: Gpr) -> bool {
        self.flagged().is_some_and(|(of, reg)| reg == a && (of == w || of == Width::W32))
    }

    /// Emits what leaves the flags alone and writes `d`.
    #[inline(always)]
    fn beside_flags(&mut self, d: Gpr, emit: impl FnOnce(&mut X64)) {
        let flagged = self.flagged().filter(|(_, reg)| *reg != d);
        emit(self);
        if let Some((w, reg)) = flagged {
            self.flags(w, reg);
        }
    }

    fn rr(&mut self, w: Width, code: u16, reg: Gpr, rm: Gpr) {
        self.rm(w, op(code), reg as u8, Rm::Reg(rm));
    }

    fn imm32(&mut self, value: i32) {
        self.asm.put(value as u32 as u64, 4);
    }

    fn imm8(&mut self, value: i8) {
        self.asm.put(value as u8 as u64, 1);
    }
}

#[derive(Default)]
struct Head {
    word: u64,
    len: usize,
}

impl Head {
    #[inline(always)]
    fn byte(&mut self, byte: u8) {
        self.word |= (byte as u64) << (8 * self.len);
        self.len += 1;
    }
}

/// Whether an immediate fits the sign-extended byte that many instructions take.
fn as_i8(value: i32) -> Option<i8> {
    i8::try_from(value).ok()
}

impl Encode for X64 {
    type Reg = Gpr;
    const MAP: [Gpr; 11] = regs::MAP;
    const MEMORY_OPERANDS: bool = true;
    const EXTRA: &'static [Gpr] = &[regs::T0, regs::T1];
    const SPARE: Gpr = regs::T2;
    const CALLEE_SAVED: u32 = regs::CALLEE_SAVED;

    fn takes_extra(&self, insn: &Insn) -> bool {
        match insn {
            Insn::Alu { op: AluOp::Lsh | AluOp::Rsh | AluOp::Arsh, src: Operand::Reg(_), .. } => !self.features.bmi2,
            Insn::Alu { op: AluOp::Div | AluOp::Mod | AluOp::Sdiv | AluOp::Smod, .. } => true,
            Insn::Call(_) | Insn::Packet { .. } | Insn::Atomic { .. } | Insn::AddrCast { .. } => true,
            Insn::Alu { .. } | Insn::MovSx { .. } | Insn::Neg { .. } | Insn::Swap { .. } | Insn::Imm { .. } => false,
            Insn::Load { .. } | Insn::Store { .. } | Insn::LoadAcquire { .. } | Insn::StoreRelease { .. } => false,
            Insn::Jump { .. } | Insn::Branch { .. } | Insn::MayGoto { .. } | Insn::Exit | Insn::Bad { .. } => false,
        }
    }

    fn asm(&mut self) -> &mut Asm {
        &mut self.asm
    }

    fn most_bytes(insn: &Insn) -> Option<u32> {
        Some(match insn {
            // A shift by a register without BMI2 is six instructions of three bytes.
            Insn::Alu { op: AluOp::Lsh | AluOp::Rsh | AluOp::Arsh, src: Operand::Reg(_), .. } => 18,
            Insn::Alu { op: AluOp::Div | AluOp::Mod | AluOp::Sdiv | AluOp::Smod, .. } => return None,
            Insn::Alu { .. } => 7,
            Insn::MovSx { .. } => 4,
            Insn::Neg { .. } => 6,
            Insn::Swap { .. } => 8,
            Insn::Imm { .. } => 10,
            Insn::Load { .. } | Insn::LoadAcquire { .. } | Insn::StoreRelease { .. } => 9,
            Insn::Store { .. } => 13,
            Insn::Jump { .. } => 5,
            Insn::Branch { .. } => 13,
            Insn::AddrCast { .. } | Insn::Atomic { .. } | Insn::Packet { .. } | Insn::MayGoto { .. } => return None,
            Insn::Call(_) | Insn::Exit | Insn::Bad { .. } => return None,
        })
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
    fn bin_memory(&mut self, op: Bin, w: Width, d: Gpr, a: Gpr, addr: Mem) {
        alu::bin_memory(self, op, w, d, a, addr);
    }
    fn divide(&mut self, op: Div, w: Width, d: Gpr, b: Rhs<Gpr>, nonzero: bool) {
        alu::divide(self, op, w, d, b, nonzero);
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
        alu::quotient(self, w, d, a, narrow, magic)
    }
    fn load(&mut self, size: Size, signed: bool, d: Gpr, addr: Mem) {
        mem::load(self, size, signed, d, addr);
    }
    fn update(&mut self, op: Bin, size: Size, addr: Mem, b: Rhs<Gpr>) {
        alu::update(self, op, size, addr, b);
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
    // Loads acquire and stores release on this architecture.
    fn load_acquire(&mut self, size: Size, d: Gpr, base: Gpr, disp: i32) {
        mem::load(self, size, false, d, Addr::new(base, disp));
    }
    fn store_release(&mut self, size: Size, base: Gpr, disp: i32, s: Gpr) {
        mem::store(self, size, Addr::new(base, disp), s);
    }
    fn jump(&mut self, to: Label, reach: Reach) {
        branch::jump(self, to, reach);
    }
    fn branch(&mut self, op: CmpOp, w: Width, a: Gpr, b: Rhs<Gpr>, to: Label, reach: Reach) {
        branch::branch(self, op, w, a, b, to, reach);
    }
    fn branch_memory(&mut self, op: CmpOp, size: Size, addr: Mem, b: Rhs<Gpr>, to: Label, reach: Reach) {
        branch::branch_memory(self, op, size, addr, b, to, reach);
    }
    fn branch_byte(&mut self, op: CmpOp, a: Gpr, value: u8, to: Label, reach: Reach) {
        branch::branch_byte(self, op, a, value, to, reach);
    }
    fn adds_truth(op: CmpOp, _: Width, b: Rhs<Gpr>) -> bool {
        branch::carried(op, b).is_some()
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
        // endbr64
        self.asm.put(0xfa1e_0ff3, 4);
    }
    fn trap(&mut self) {
        asm!(self.asm ; ud2);
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
