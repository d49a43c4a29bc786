//! The machine, as both tiers see it: one method per machine operation.
//!
//! Three-operand forms: where the machine has two, the encoder moves first. An encoder may use its own temporaries
//! inside one method and nothing survives in them.

use rtbpf_abi::frame::FaultCode;
use rtbpf_isa::{AluOp, AtomicOp, CmpOp, Insn, InsnIdx, Reg, Size, Width};

use crate::abi::Slot;
use crate::asm::{Asm, Label};
use crate::code::Symbol;
use crate::opt::magic::Magic;

/// A register or a sign-extended immediate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rhs<R> {
    /// A register.
    Reg(R),
    /// An immediate.
    Imm(i32),
}

/// `base + (index << shift) + disp`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Addr<R> {
    /// Base register.
    pub base: R,
    /// Index register and its shift, 0 to 3.
    pub index: Option<(R, u8)>,
    /// Displacement in bytes.
    pub disp: i32,
}

impl<R> Addr<R> {
    /// `base + disp`.
    pub const fn new(base: R, disp: i32) -> Addr<R> {
        Addr { base, index: None, disp }
    }
}

/// Operations with one machine operation on either architecture.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs)]
pub enum Bin {
    Add,
    Sub,
    Mul,
    Or,
    And,
    Xor,
    Lsh,
    Rsh,
    Arsh,
}

/// Divisions, each a short sequence.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs)]
pub enum Div {
    Div,
    Mod,
    Sdiv,
    Smod,
}

/// What an [`AluOp`] asks of the machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Alu {
    Bin(Bin),
    Div(Div),
    Mov,
}

impl From<AluOp> for Alu {
    fn from(op: AluOp) -> Alu {
        match op {
            AluOp::Add => Alu::Bin(Bin::Add),
            AluOp::Sub => Alu::Bin(Bin::Sub),
            AluOp::Mul => Alu::Bin(Bin::Mul),
            AluOp::Or => Alu::Bin(Bin::Or),
            AluOp::And => Alu::Bin(Bin::And),
            AluOp::Xor => Alu::Bin(Bin::Xor),
            AluOp::Lsh => Alu::Bin(Bin::Lsh),
            AluOp::Rsh => Alu::Bin(Bin::Rsh),
            AluOp::Arsh => Alu::Bin(Bin::Arsh),
            AluOp::Div => Alu::Div(Div::Div),
            AluOp::Mod => Alu::Div(Div::Mod),
            AluOp::Sdiv => Alu::Div(Div::Sdiv),
            AluOp::Smod => Alu::Div(Div::Smod),
            AluOp::Mov => Alu::Mov,
        }
    }
}

/// How far a forward branch may have to reach.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reach {
    /// At most 100 bytes, by the sum of [`Encode::most_bytes`].
    Short,
    /// At most 1 MiB, likewise.
    Near,
    /// Anywhere in the code.
    Far,
}

/// Who enters a function, and so what it must keep.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entered {
    /// The host, as an `EntryFn`.
    ByHost,
    /// Other functions of the program, by the private convention.
    ByProgram,
}

/// What a function does with R10.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FramePointer {
    /// Nothing.
    None,
    /// Nothing itself, but what it calls takes frames below it.
    Passed,
    /// It has a frame of its own, of which so many bytes are to be zero at entry.
    Own {
        /// Multiple of 32, at most 512.
        zeroed: u32,
    },
}

/// What prologue and epilogue of a function must do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// Who enters it.
    pub entered: Entered,
    /// Machine registers to keep for the caller, as bits by number; without those below.
    pub saves: u32,
    /// R10.
    pub fp: FramePointer,
    /// Holds the run's frame in its register.
    pub run: bool,
    /// Calls something, so the stack must be aligned and the return address kept.
    pub calls: bool,
    /// Has a `may_goto` budget in its native frame.
    pub may_goto: bool,
    /// The host gives it a second argument.
    pub second: bool,
}

/// A machine.
pub trait Encode: Sized {
    /// A general register.
    type Reg: Copy + PartialEq + Eq + std::fmt::Debug + Into<u8> + 'static;

    /// Where the fast tier keeps R0 to R10; the private convention of calls in both tiers.
    const MAP: [Self::Reg; Reg::COUNT];

    /// A temporary that [`Encode::bin`], [`Encode::mov_imm`], [`Encode::branch`] and [`Encode::select`] leave alone.
    const SPARE: Self::Reg;

    /// Registers that only the code of some instructions uses.
    const EXTRA: &'static [Self::Reg];

    /// Whether the code of `insn` uses those.
    fn takes_extra(&self, insn: &Insn) -> bool;

    /// Operations and comparisons take one operand from memory, and comparisons the low byte of a register.
    const MEMORY_OPERANDS: bool;

    /// Machine registers that a callee keeps, as bits by number.
    const CALLEE_SAVED: u32;

    /// The buffer.
    fn asm(&mut self) -> &mut Asm;

    /// An upper bound of the bytes that the fast tier emits for an instruction; `None` where there is no small one.
    fn most_bytes(insn: &Insn) -> Option<u32>;

    // Moves

    /// `d = s`; 32 bits zero-extend.
    fn mov(&mut self, w: Width, d: Self::Reg, s: Self::Reg);
    /// `d = value`.
    fn mov_imm(&mut self, d: Self::Reg, value: u64);
    /// `d = address or value of symbol`.
    fn mov_symbol(&mut self, d: Self::Reg, symbol: Symbol);
    /// `d = address of label`.
    fn mov_label(&mut self, d: Self::Reg, label: Label);
    /// `d = low bytes of s, sign-extended to w, zero-extended beyond`.
    fn sign_extend(&mut self, w: Width, from: Size, d: Self::Reg, s: Self::Reg);
    /// `d = low bytes of s, zero-extended`.
    fn zero_extend(&mut self, from: Size, d: Self::Reg, s: Self::Reg);

    // Arithmetic

    /// `d = a op b`.
    fn bin(&mut self, op: Bin, w: Width, d: Self::Reg, a: Self::Reg, b: Rhs<Self::Reg>);
    /// `d = a op *addr`, where `addr` has not `d` in it; not for shifts.
    fn bin_memory(&mut self, op: Bin, w: Width, d: Self::Reg, a: Self::Reg, addr: Addr<Self::Reg>) {
        self.load(w.size(), false, Self::SPARE, addr);
        self.bin(op, w, d, a, Rhs::Reg(Self::SPARE));
    }
    /// `d = d op b`, total; `nonzero` promises that `b` is not zero.
    fn divide(&mut self, op: Div, w: Width, d: Self::Reg, b: Rhs<Self::Reg>, nonzero: bool);
    /// `d = -a`.
    fn neg(&mut self, w: Width, d: Self::Reg, a: Self::Reg);
    /// `d = low bytes of d, reversed, zero-extended`.
    fn swap(&mut self, size: Size, d: Self::Reg);
    /// `d = a rotated left by count`, 1 to width - 1.
    fn rotate_left(&mut self, w: Width, d: Self::Reg, a: Self::Reg, count: u8);
    /// `d = address`, truncated to `w`.
    fn lea(&mut self, w: Width, d: Self::Reg, addr: Addr<Self::Reg>);
    /// `a / divisor`, unsigned, by the divisor's magic number: in `d`, or in a temporary that the next operation may use, and
    /// one more with an immediate; `None` where the machine lacks the multiplication. `narrow` promises that `a` has no bit
    /// above 31.
    fn quotient(&mut self, w: Width, d: Self::Reg, a: Self::Reg, narrow: bool, magic: Magic) -> Option<Self::Reg>;

    // Memory

    /// `d = *addr`, extended to 64 bits.
    fn load(&mut self, size: Size, signed: bool, d: Self::Reg, addr: Addr<Self::Reg>);
    /// `*addr = *addr op b`, the low `size` of it; not for shifts and products.
    fn update(&mut self, op: Bin, size: Size, addr: Addr<Self::Reg>, b: Rhs<Self::Reg>) {
        let w = if size == Size::D { Width::W64 } else { Width::W32 };
        self.load(size, false, Self::SPARE, addr);
        self.bin(op, w, Self::SPARE, Self::SPARE, b);
        self.store(size, addr, Self::SPARE);
    }
    /// `*addr = s`.
    fn store(&mut self, size: Size, addr: Addr<Self::Reg>, s: Self::Reg);
    /// `*addr = value`, sign-extended.
    fn store_imm(&mut self, size: Size, addr: Addr<Self::Reg>, value: i32);
    /// As [`Insn::Atomic`]; compare-and-exchange compares with and loads into the register of R0.
    fn atomic(&mut self, op: AtomicOp, fetch: bool, w: Width, base: Self::Reg, disp: i32, src: Self::Reg);
    /// `d = *addr`, acquire.
    fn load_acquire(&mut self, size: Size, d: Self::Reg, base: Self::Reg, disp: i32);
    /// `*addr = s`, release.
    fn store_release(&mut self, size: Size, base: Self::Reg, disp: i32, s: Self::Reg);

    // Control

    /// Jumps.
    fn jump(&mut self, to: Label, reach: Reach);
    /// Jumps if `a op b`.
    fn branch(&mut self, op: CmpOp, w: Width, a: Self::Reg, b: Rhs<Self::Reg>, to: Label, reach: Reach);
    /// Jumps if `*addr op b`, as numbers of `size`; for bytes, of which `b` is one, without sign and mask.
    fn branch_memory(
        &mut self,
        op: CmpOp,
        size: Size,
        addr: Addr<Self::Reg>,
        b: Rhs<Self::Reg>,
        to: Label,
        reach: Reach,
    ) {
        let w = if size == Size::D { Width::W64 } else { Width::W32 };
        self.load(size, false, Self::SPARE, addr);
        self.branch(op, w, Self::SPARE, b, to, reach);
    }
    /// Jumps if `low byte of a op value`; for comparisons without sign and mask.
    fn branch_byte(&mut self, op: CmpOp, a: Self::Reg, value: u8, to: Label, reach: Reach) {
        self.zero_extend(Size::B, Self::SPARE, a);
        self.branch(op, Width::W32, Self::SPARE, Rhs::Imm(value.into()), to, reach);
    }
    /// Whether the machine adds the truth of `a op b` as it is.
    fn adds_truth(op: CmpOp, w: Width, b: Rhs<Self::Reg>) -> bool;
    /// `d += 1` at `w` if `a op b` at `compared`, where it does so.
    fn add_truth(&mut self, op: CmpOp, compared: Width, a: Self::Reg, b: Rhs<Self::Reg>, w: Width, d: Self::Reg);
    /// `d = a + b + c`, where `c` is the carry of `a + b`, all 64 bits wide.
    fn add_carry(&mut self, a: Self::Reg, b: Self::Reg, d: Self::Reg);
    /// `d = 1` if `a + b` has a carry out of 64 bits, else 0.
    fn set_carry(&mut self, a: Self::Reg, b: Self::Reg, d: Self::Reg);
    /// `d = s` unless `a op b`.
    fn select(&mut self, op: CmpOp, w: Width, a: Self::Reg, b: Rhs<Self::Reg>, d: Self::Reg, s: Self::Reg);
    /// `d = 1` if `a op b`, else 0.
    fn set(&mut self, op: CmpOp, w: Width, a: Self::Reg, b: Rhs<Self::Reg>, d: Self::Reg);
    /// Jumps if the frame's budget is spent, else takes one from it.
    fn may_goto(&mut self, to: Label, reach: Reach);
    /// Fills up to a multiple of `bytes` with what executes as nothing.
    fn align(&mut self, bytes: usize);
    /// What calls and jumps by address may lead to, where the processor asks for a mark (CET, BTI); executes as nothing.
    fn landing_pad(&mut self);
    /// What never returns if it is ever reached.
    fn trap(&mut self);

    // Functions

    /// Prologue: R1 is the context when entered by the host.
    fn enter(&mut self, shape: &Shape);
    /// Epilogue and return.
    fn leave(&mut self, shape: &Shape);
    /// Leaves the entry of this shape from any depth.
    fn exit(&mut self, shape: &Shape);
    /// An entry for the host that calls `body` by the private convention, from any state.
    fn host_stub(&mut self, body: Label);
    /// An entry for helpers that calls `body`: arguments stand in R1 to R5.
    fn callback_stub(&mut self, body: Label);
    /// Leaves the innermost stub from any depth.
    fn exit_stub(&mut self);

    // Calls

    /// Calls a function of the program.
    fn call(&mut self, body: Label);
    /// Calls a helper: arguments in R1 to R5, result to R0. `publish_stack` stores R10 for callbacks.
    fn call_symbol(&mut self, symbol: Symbol, publish_stack: bool);
    /// Calls [`Symbol::PacketLoad`] with R6, `off` plus the low half of `index`, `size`; jumps to `fail` if negative.
    fn packet_load(&mut self, size: Size, index: Option<Self::Reg>, off: i32, fail: Label);
    /// After [`Symbol::TailCall`]: if R0 is not 0, leaves for the entry that it names.
    fn tail_jump(&mut self, shape: &Shape, exit: Label);
    /// Jumps to `out` if the run has a fault.
    fn check_fault(&mut self, out: Label);

    // Fuel

    /// Takes `count` from the fuel; jumps to `out` when it was less.
    fn charge(&mut self, count: u32, out: Label);
    /// Jumps to `out` when the run is cancelled.
    fn check_cancel(&mut self, out: Label);
    /// Gives `refund` back, notes the fault (unless a helper did) and its place, and jumps to `exit`.
    fn fault(&mut self, refund: u32, code: FaultCode, at: InsnIdx, exit: Label);
    /// `d = frame.slot`, 32 bits.
    fn get_slot(&mut self, d: Self::Reg, slot: Slot);
    /// `frame.slot = value`, 32 bits.
    fn set_slot(&mut self, slot: Slot, value: u32);
}
