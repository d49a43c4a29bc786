//! What an instruction reads, writes and leads to: asked once, never re-derived from bits.

use crate::insn::*;
use crate::reg::Reg;

/// A set of registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RegSet(pub u16);

impl RegSet {
    /// No register.
    pub const EMPTY: RegSet = RegSet(0);
    /// R1 to R5.
    pub const ARGS: RegSet = RegSet(0b11_1110);
    /// R0 to R5, which a call clobbers.
    pub const CALLER_SAVED: RegSet = RegSet(0b11_1111);

    /// The set of one register.
    #[inline]
    pub const fn of(reg: Reg) -> RegSet {
        RegSet(1 << reg as u8)
    }

    /// Union.
    #[inline]
    pub const fn with(self, other: RegSet) -> RegSet {
        RegSet(self.0 | other.0)
    }

    /// Difference.
    #[inline]
    pub const fn without(self, other: RegSet) -> RegSet {
        RegSet(self.0 & !other.0)
    }

    /// Membership.
    #[inline]
    pub const fn contains(self, reg: Reg) -> bool {
        self.0 & (1 << reg as u8) != 0
    }

    /// Members in order.
    #[inline]
    pub fn iter(self) -> impl Iterator<Item = Reg> {
        let mut left = self.0;
        std::iter::from_fn(move || {
            let first = left.trailing_zeros() as usize;
            left &= left.wrapping_sub(1);
            Reg::ALL.get(first).copied()
        })
    }
}

/// Where control can go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flow {
    /// The next instruction.
    Next,
    /// Only a target, relative to the next instruction.
    Jump(i32),
    /// The next instruction or a target.
    Branch(i32),
    /// A local call: into the target, later the next instruction.
    Call(i32),
    /// Out of the frame.
    Exit,
}

/// How an instruction touches memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemAccess {
    /// Base register.
    pub base: Reg,
    /// Byte offset from it.
    pub off: i16,
    /// Width.
    pub size: Size,
    /// Reads.
    pub reads: bool,
    /// Writes.
    pub writes: bool,
    /// Must be naturally aligned (atomics).
    pub atomic: bool,
}

impl Insn {
    /// Where control goes.
    #[inline]
    pub const fn flow(&self) -> Flow {
        match *self {
            Insn::Jump { to, .. } => Flow::Jump(to),
            Insn::Branch { to, .. } | Insn::MayGoto { to } => Flow::Branch(to),
            Insn::Call(Callee::Local { to }) => Flow::Call(to),
            Insn::Exit => Flow::Exit,
            Insn::Bad { flow, .. } => match flow {
                BadFlow::Next => Flow::Next,
                BadFlow::Exit => Flow::Exit,
                BadFlow::Jump(to) => Flow::Jump(to),
                BadFlow::Branch(to) => Flow::Branch(to),
                BadFlow::Call(to) => Flow::Call(to),
            },
            Insn::Alu { .. } | Insn::MovSx { .. } | Insn::Neg { .. } | Insn::Swap { .. } => Flow::Next,
            Insn::AddrCast { .. } | Insn::Imm { .. } | Insn::Load { .. } | Insn::Store { .. } => Flow::Next,
            Insn::Atomic { .. } | Insn::LoadAcquire { .. } | Insn::StoreRelease { .. } => Flow::Next,
            Insn::Packet { .. } => Flow::Next,
            Insn::Call(Callee::Helper(_) | Callee::Kfunc { .. } | Callee::Reg(_)) => Flow::Next,
        }
    }

    /// The relative target of a local call or callback reference.
    #[inline]
    pub const fn function_target(&self) -> Option<i32> {
        match *self {
            Insn::Imm { value: Imm64::Func { to }, .. } => Some(to),
            _ => match self.flow() {
                Flow::Call(to) => Some(to),
                Flow::Next | Flow::Exit | Flow::Jump(_) | Flow::Branch(_) => None,
            },
        }
    }

    /// The relative target of a jump, local call or callback reference.
    #[inline]
    pub const fn relative_target(&self) -> Option<i32> {
        match *self {
            Insn::Imm { value: Imm64::Func { to }, .. } => Some(to),
            _ => match self.flow() {
                Flow::Jump(to) | Flow::Branch(to) | Flow::Call(to) => Some(to),
                Flow::Next | Flow::Exit => None,
            },
        }
    }

    /// Registers it writes; a call clobbers R0 to R5.
    #[inline]
    pub const fn defs(&self) -> RegSet {
        match *self {
            Insn::Alu { dst, .. } | Insn::MovSx { dst, .. } | Insn::Neg { dst, .. } => RegSet::of(dst),
            Insn::Swap { dst, .. } | Insn::AddrCast { dst, .. } | Insn::Imm { dst, .. } => RegSet::of(dst),
            Insn::Load { dst, .. } | Insn::LoadAcquire { dst, .. } => RegSet::of(dst),
            Insn::Atomic { op: AtomicOp::Cmpxchg, .. } => RegSet::of(Reg::R0),
            Insn::Atomic { fetch: true, src, .. } => RegSet::of(src),
            Insn::Atomic { fetch: false, .. } => RegSet::EMPTY,
            Insn::Packet { .. } | Insn::Call(_) => RegSet::CALLER_SAVED,
            Insn::Store { .. } | Insn::StoreRelease { .. } => RegSet::EMPTY,
            Insn::Jump { .. } | Insn::Branch { .. } | Insn::MayGoto { .. } | Insn::Exit => RegSet::EMPTY,
            Insn::Bad { .. } => RegSet::EMPTY,
        }
    }

    /// Registers it reads. A helper or local call is taken to read R1 to R5.
    #[inline]
    pub const fn uses(&self) -> RegSet {
        match *self {
            Insn::Alu { op: AluOp::Mov, src, .. } => operand(src),
            Insn::Alu { dst, src, .. } => RegSet::of(dst).with(operand(src)),
            Insn::MovSx { src, .. } | Insn::AddrCast { src, .. } => RegSet::of(src),
            Insn::Neg { dst, .. } | Insn::Swap { dst, .. } => RegSet::of(dst),
            Insn::Imm { .. } => RegSet::EMPTY,
            Insn::Load { base, .. } | Insn::LoadAcquire { base, .. } => RegSet::of(base),
            Insn::Store { base, src, .. } => RegSet::of(base).with(operand(src)),
            Insn::StoreRelease { base, src, .. } => RegSet::of(base).with(RegSet::of(src)),
            Insn::Atomic { op: AtomicOp::Cmpxchg, base, src, .. } => {
                RegSet::of(base).with(RegSet::of(src)).with(RegSet::of(Reg::R0))
            }
            Insn::Atomic { base, src, .. } => RegSet::of(base).with(RegSet::of(src)),
            Insn::Packet { index: Some(index), .. } => RegSet::of(Reg::R6).with(RegSet::of(index)),
            Insn::Packet { index: None, .. } => RegSet::of(Reg::R6),
            Insn::Branch { lhs, rhs, .. } => RegSet::of(lhs).with(operand(rhs)),
            Insn::Call(Callee::Reg(reg)) => RegSet::ARGS.with(RegSet::of(reg)),
            Insn::Call(Callee::Helper(_) | Callee::Local { .. } | Callee::Kfunc { .. }) => RegSet::ARGS,
            Insn::Exit => RegSet::of(Reg::R0),
            Insn::Jump { .. } | Insn::MayGoto { .. } | Insn::Bad { .. } => RegSet::EMPTY,
        }
    }

    /// Registers it writes or reads.
    #[inline]
    pub const fn touches(&self) -> RegSet {
        match *self {
            // Most instructions are one of these, and name all that they touch.
            Insn::Alu { dst, src, .. } => RegSet::of(dst).with(operand(src)),
            Insn::Load { dst, base, .. } => RegSet::of(dst).with(RegSet::of(base)),
            Insn::Store { base, src, .. } => RegSet::of(base).with(operand(src)),
            _ => self.defs().with(self.uses()),
        }
    }

    /// Its access to memory through a register; legacy packet loads and calls have none.
    #[inline]
    pub const fn memory(&self) -> Option<MemAccess> {
        let (base, off, size, reads, writes, atomic) = match *self {
            Insn::Load { size, base, off, .. } => (base, off, size, true, false, false),
            Insn::Store { size, base, off, .. } => (base, off, size, false, true, false),
            Insn::Atomic { width, base, off, .. } => (base, off, width.size(), true, true, true),
            Insn::LoadAcquire { size, base, off, .. } => (base, off, size, true, false, true),
            Insn::StoreRelease { size, base, off, .. } => (base, off, size, false, true, true),
            Insn::Alu { .. } | Insn::MovSx { .. } | Insn::Neg { .. } | Insn::Swap { .. } => return None,
            Insn::AddrCast { .. } | Insn::Imm { .. } | Insn::Packet { .. } | Insn::Jump { .. } => return None,
            Insn::Branch { .. } | Insn::MayGoto { .. } | Insn::Call(_) | Insn::Exit => return None,
            Insn::Bad { .. } => return None,
        };
        Some(MemAccess { base, off, size, reads, writes, atomic })
    }
}

const fn operand(operand: Operand) -> RegSet {
    match operand {
        Operand::Reg(reg) => RegSet::of(reg),
        Operand::Imm(_) => RegSet::EMPTY,
    }
}
