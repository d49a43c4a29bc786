//! The decoded instruction.
//!
//! Encodings that cannot exist are not representable: the two-slot wide load is one [`Insn::Imm`], and jump targets
//! count instructions, relative to the next one. An instruction whose opcode is known but whose fields Linux refuses
//! *when a path reaches it* (a register above 10, a reserved field) is [`Insn::Bad`]: dead code may hold it.

use crate::reg::Reg;

/// The index of an instruction in its program. The same index names it in every log, fact and line table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct InsnIdx(pub u32);

impl InsnIdx {
    /// As an index into a slice.
    #[inline]
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// The instruction after this one.
    #[inline]
    pub const fn next(self) -> InsnIdx {
        InsnIdx(self.0 + 1)
    }

    /// The target of a jump `to` instructions beyond the next one.
    ///
    /// Decoding proved that it lies in the program, so the sum does not wrap.
    #[inline]
    pub const fn target(self, to: i32) -> InsnIdx {
        InsnIdx((self.0 as i64 + 1 + to as i64) as u32)
    }
}

impl std::fmt::Display for InsnIdx {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// The index of a map in the program's list of maps.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct MapIdx(pub u32);

impl MapIdx {
    /// As an index into a slice.
    #[inline]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Width of an ALU operation, comparison or read-modify-write.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Width {
    /// The low 32 bits; an ALU result is zero-extended.
    W32,
    /// All 64 bits.
    W64,
}

impl Width {
    /// 32 or 64.
    #[inline]
    pub const fn bits(self) -> u32 {
        match self {
            Width::W32 => 32,
            Width::W64 => 64,
        }
    }

    /// The memory size of the same width.
    #[inline]
    pub const fn size(self) -> Size {
        match self {
            Width::W32 => Size::W,
            Width::W64 => Size::D,
        }
    }
}

/// Size of a memory access or of an extension.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Size {
    /// 1 byte.
    B,
    /// 2 bytes.
    H,
    /// 4 bytes.
    W,
    /// 8 bytes.
    D,
}

impl Size {
    /// 1, 2, 4 or 8.
    #[inline]
    pub const fn bytes(self) -> u32 {
        match self {
            Size::B => 1,
            Size::H => 2,
            Size::W => 4,
            Size::D => 8,
        }
    }

    /// 8, 16, 32 or 64.
    #[inline]
    pub const fn bits(self) -> u32 {
        self.bytes() * 8
    }

    /// The size of `bytes` bytes.
    #[inline]
    pub const fn from_bytes(bytes: u32) -> Option<Size> {
        match bytes {
            1 => Some(Size::B),
            2 => Some(Size::H),
            4 => Some(Size::W),
            8 => Some(Size::D),
            _ => None,
        }
    }
}

/// The right-hand side of an operation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Operand {
    /// A register.
    Reg(Reg),
    /// An immediate, sign-extended to the operation's width.
    Imm(i32),
}

/// Binary ALU operations (RFC 9669 §4.1).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs)]
pub enum AluOp {
    Add,
    Sub,
    Mul,
    /// Unsigned; a zero divisor gives 0.
    Div,
    /// Unsigned; a zero divisor leaves the dividend.
    Mod,
    /// Signed; a zero divisor gives 0, `MIN / -1` gives `MIN`.
    Sdiv,
    /// Signed; a zero divisor leaves the dividend, `MIN % -1` gives 0.
    Smod,
    Or,
    And,
    Xor,
    /// Shift amounts are taken modulo the width.
    Lsh,
    Rsh,
    Arsh,
    Mov,
}

impl AluOp {
    /// Every operation, in the order of the declaration.
    pub const ALL: [AluOp; 14] = [
        AluOp::Add,
        AluOp::Sub,
        AluOp::Mul,
        AluOp::Div,
        AluOp::Mod,
        AluOp::Sdiv,
        AluOp::Smod,
        AluOp::Or,
        AluOp::And,
        AluOp::Xor,
        AluOp::Lsh,
        AluOp::Rsh,
        AluOp::Arsh,
        AluOp::Mov,
    ];
}

/// Comparisons of conditional jumps (RFC 9669 §4.3).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs)]
pub enum CmpOp {
    Eq,
    Ne,
    /// `lhs & rhs != 0`.
    Set,
    Gt,
    Ge,
    Lt,
    Le,
    Sgt,
    Sge,
    Slt,
    Sle,
}

impl CmpOp {
    /// Every comparison, in the order of the declaration.
    pub const ALL: [CmpOp; 11] = [
        CmpOp::Eq,
        CmpOp::Ne,
        CmpOp::Set,
        CmpOp::Gt,
        CmpOp::Ge,
        CmpOp::Lt,
        CmpOp::Le,
        CmpOp::Sgt,
        CmpOp::Sge,
        CmpOp::Slt,
        CmpOp::Sle,
    ];

    /// The comparison that holds where this one does not; a bit test has none.
    #[inline]
    pub const fn inverse(self) -> Option<CmpOp> {
        match self {
            CmpOp::Eq => Some(CmpOp::Ne),
            CmpOp::Ne => Some(CmpOp::Eq),
            CmpOp::Set => None,
            CmpOp::Gt => Some(CmpOp::Le),
            CmpOp::Ge => Some(CmpOp::Lt),
            CmpOp::Lt => Some(CmpOp::Ge),
            CmpOp::Le => Some(CmpOp::Gt),
            CmpOp::Sgt => Some(CmpOp::Sle),
            CmpOp::Sge => Some(CmpOp::Slt),
            CmpOp::Slt => Some(CmpOp::Sge),
            CmpOp::Sle => Some(CmpOp::Sgt),
        }
    }
}

/// Byte-order operations (RFC 9669 §4.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Swap {
    /// Truncate, and convert host order to little-endian.
    ToLe,
    /// Truncate, and convert host order to big-endian.
    ToBe,
    /// Truncate, and swap unconditionally.
    Bswap,
}

/// Read-modify-write operations (RFC 9669 §5.3).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs)]
pub enum AtomicOp {
    Add,
    Or,
    And,
    Xor,
    /// Always fetches.
    Xchg,
    /// Compares with R0 and always loads the old value into R0.
    Cmpxchg,
}

/// What a wide load puts into its register (RFC 9669 §5.4).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Imm64 {
    /// A constant: low and high half.
    Const([u32; 2]),
    /// A map; before binding, the immediate as encoded (a map fd, or its index in the list of maps).
    Map {
        /// Index in the program's list of maps.
        map: MapIdx,
        /// How the encoding names it.
        by: MapBy,
    },
    /// The address `off` bytes into the value of a map with one direct value.
    MapValue {
        /// Index in the program's list of maps.
        map: MapIdx,
        /// Byte offset into the value.
        off: u32,
        /// How the encoding names it.
        by: MapBy,
    },
    /// A kernel variable, by BTF id and BTF object.
    Var {
        /// BTF type id of the variable.
        btf_id: u32,
        /// BTF object; 0 is the kernel's.
        btf_obj: u32,
    },
    /// A subprogram of this program, as a callback; relative like a jump, counted from this instruction.
    Func {
        /// Instructions beyond the next one.
        to: i32,
    },
}

/// Whether a wide load names its map by descriptor or by index. Only the encoder cares.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum MapBy {
    /// Pseudo source 1 or 2.
    Fd,
    /// Pseudo source 5 or 6.
    Index,
}

/// What a call calls.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Callee {
    /// A helper, by number.
    Helper(i32),
    /// A subprogram, `to` instructions beyond the next one.
    Local {
        /// Instructions beyond the next one.
        to: i32,
    },
    /// A kernel function, by BTF id (or by the number the loader gave its name) and module index.
    Kfunc {
        /// BTF type id.
        btf_id: i32,
        /// Index into the fd array; 0 is the kernel itself.
        module: i16,
    },
    /// The function that a register points to (`callx`); no version of Linux takes it.
    Reg(Reg),
}

/// Direction of an address-space cast (LLVM's arena address space 1, kernel 6.9).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Cast {
    /// `addr_space_cast(0, 1)`: a user arena address to a kernel one.
    ToKernel,
    /// `addr_space_cast(1, 0)`: a kernel arena address to a user one.
    ToUser,
}

/// Why a known opcode is not a valid instruction. Refused when a path reaches it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum BadField {
    /// A field that must be zero, or one of few values, is not.
    Reserved,
    /// A register number above 10.
    Register(u8),
    /// An unknown atomic operation.
    AtomicOp,
    /// A known atomic operation on a size that it does not have.
    AtomicSize,
    /// An address-space cast between other spaces than 0 and 1.
    Cast,
    /// `may_goto` with a non-zero immediate or register.
    MayGoto,
}

/// Where control goes from a [`Insn::Bad`]: its shape still counts for the control-flow graph.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum BadFlow {
    /// To the next instruction.
    Next,
    /// Nowhere.
    Exit,
    /// To one target.
    Jump(i32),
    /// To the next or to the target.
    Branch(i32),
    /// To the next, and it names the function at the target.
    Call(i32),
}

/// One instruction. 16 bytes; targets count instructions, from the next one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs)]
pub enum Insn {
    /// `dst = dst op src`; a move ignores the old `dst`.
    Alu { op: AluOp, width: Width, dst: Reg, src: Operand },
    /// `dst = sign-extended low bits of src`.
    MovSx { width: Width, from: Size, dst: Reg, src: Reg },
    /// `dst = -dst`.
    Neg { width: Width, dst: Reg },
    /// `dst = swap(dst)`; `size` is 2, 4 or 8 bytes, the result is zero-extended.
    Swap { kind: Swap, size: Size, dst: Reg },
    /// `dst = cast(src)`, arenas only.
    AddrCast { to: Cast, dst: Reg, src: Reg },
    /// `dst = wide constant`; two slots.
    Imm { dst: Reg, value: Imm64 },
    /// `dst = *(size *)(base + off)`.
    Load { size: Size, signed: bool, dst: Reg, base: Reg, off: i16 },
    /// `*(size *)(base + off) = src`.
    Store { size: Size, base: Reg, off: i16, src: Operand },
    /// `*(width *)(base + off) op= src`, old value to `src` (cmpxchg: to R0) when `fetch`.
    Atomic { op: AtomicOp, fetch: bool, width: Width, base: Reg, off: i16, src: Reg },
    /// `dst = load_acquire((size *)(base + off))`.
    LoadAcquire { size: Size, dst: Reg, base: Reg, off: i16 },
    /// `store_release((size *)(base + off), src)`.
    StoreRelease { size: Size, base: Reg, off: i16, src: Reg },
    /// Legacy packet load, `r0 = ntoh(*(size *)(packet + index + off))`; ends the frame with 0 when out of range.
    Packet { size: Size, index: Option<Reg>, off: i32 },
    /// `goto`; `long` keeps the encoding (`gotol`).
    Jump { to: i32, long: bool },
    /// `if lhs op rhs goto`.
    Branch { op: CmpOp, width: Width, lhs: Reg, rhs: Operand, to: i32 },
    /// `may_goto`: leaves a loop once its hidden budget is spent.
    MayGoto { to: i32 },
    /// A call; arguments in R1 to R5, result in R0.
    Call(Callee),
    /// Returns R0 to the caller.
    Exit,
    /// A known opcode with fields that no version gives a meaning.
    Bad { why: BadField, flow: BadFlow },
}

impl Insn {
    /// How many 8-byte slots its encoding takes. For [`Insn::Bad`], ask the program.
    #[inline]
    pub const fn slots(&self) -> u32 {
        match self {
            Insn::Imm { .. } => 2,
            _ => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instruction_is_16_bytes() {
        assert_eq!(size_of::<Insn>(), 16);
    }
}
