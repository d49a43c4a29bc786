//! What a compilation yields: bytes, and everything that is still to be filled in or known about them. Data only.

use rtbpf_isa::{InsnIdx, MapIdx};

/// The processor that code is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs)]
pub enum Arch {
    X86_64,
    Aarch64,
}

impl Arch {
    /// The architecture of this process, where it is one of ours.
    pub const fn host() -> Option<Arch> {
        if cfg!(target_arch = "x86_64") {
            Some(Arch::X86_64)
        } else if cfg!(target_arch = "aarch64") {
            Some(Arch::Aarch64)
        } else {
            None
        }
    }
}

/// Something outside the code, whose address or value publication fills in.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Symbol {
    /// A helper function, by number.
    Helper(i32),
    /// A kernel function.
    Kfunc {
        /// Its id in the call instruction.
        btf_id: i32,
        /// Its module index.
        module: i16,
    },
    /// What a register holds after a wide load of a map.
    Map(MapIdx),
    /// An address in the value of a map.
    MapValue {
        /// The map.
        map: MapIdx,
        /// Byte offset into its value.
        off: u32,
    },
    /// A kernel variable.
    Var {
        /// BTF type id.
        btf_id: u32,
        /// BTF object.
        btf_obj: u32,
    },
    /// The function behind legacy packet loads: `(ctx, offset, bytes) -> value`, negative when out of range.
    PacketLoad,
    /// The function behind tail calls: `(ctx, map, index) -> EntryFn`, 0 when the call does not happen.
    TailCall,
}

/// How a relocation is filled in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RelocKind {
    /// x86_64: 8 bytes, absolute.
    Abs64,
    /// x86_64: 4 bytes of a call, relative to their end. Through a veneer when out of reach.
    Call32,
    /// aarch64: `bl`, 26 bits. Through a veneer when out of reach.
    Call26,
    /// aarch64: `movz, movk, movk, movk`.
    Mov64,
}

/// A place that publication fills in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reloc {
    /// Byte offset in the code.
    pub offset: u32,
    /// How.
    pub kind: RelocKind,
    /// With what.
    pub symbol: Symbol,
}

/// What happens to a frame of the native stack at a place in the code, for those who walk the stack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unwind {
    /// Byte offset in the code, behind the instruction that does it.
    pub offset: u32,
    /// What.
    pub step: Step,
}

/// See [`Unwind`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// A function begins: the stack is as its caller left it.
    Begins,
    /// The stack grew by so many bytes, or shrank.
    Grew(i32),
    /// A register of the caller stands so many bytes below the caller's frame. Registers have the numbers of the psABI.
    Saved {
        /// Its number.
        reg: u8,
        /// Bytes.
        below: u32,
    },
    /// What is known here holds again behind the next [`Step::Recalled`].
    Keeps,
    /// See [`Step::Keeps`].
    Recalled,
    /// What follows belongs to no frame that is known.
    Ends,
}

/// Compiled code. Position-independent but for its relocations.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Code {
    /// The processor it is for.
    pub arch: Arch,
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Offset of the entry, an [`EntryFn`](rtbpf_abi::frame::EntryFn).
    pub entry: u32,
    /// Offset of the code that leaves the innermost native entry; wants the frame in its register. `None` for a program
    /// that keeps no frame: it neither calls nor touches memory.
    pub exit: Option<u32>,
    /// What is to be filled in.
    pub relocs: Vec<Reloc>,
    /// Offset of each instruction, in program order; `u32::MAX` where none was emitted.
    pub offsets: Vec<u32>,
    /// Offsets of code of instructions that stands once more: of loops that are emitted several times, of ways that jumps
    /// and branches take along.
    pub copies: Vec<(u32, InsnIdx)>,
    /// Offset of each subprogram, in program order: where its prologue begins.
    pub functions: Vec<u32>,
    /// Entries for helpers of the subprograms that wide loads name: offset, and the subprogram's first instruction.
    pub callbacks: Vec<(u32, InsnIdx)>,
    /// The frames of functions and stubs, by offset.
    pub unwind: Vec<Unwind>,
    /// Entry and callbacks begin with landing pads.
    pub landing_pads: bool,
}

impl Code {
    /// Where functions keep the frame in its register: from the first instruction to the stubs.
    pub fn body(&self) -> std::ops::Range<u32> {
        let start = self.offsets.iter().copied().min().unwrap_or(u32::MAX);
        let stubs = self.callbacks.iter().map(|(stub, _)| *stub).chain(self.exit).min();
        start..stubs.unwrap_or(start).max(start)
    }

    /// The instruction whose code holds byte `offset`.
    ///
    /// Exact within the bodies of functions, but for memory that the optimising tier reads or writes later than the program
    /// says: a load that is an operand belongs to what takes it, stores that became one to what they waited for. `None`
    /// before the first instruction and in stubs.
    pub fn insn_at(&self, offset: u32) -> Option<InsnIdx> {
        insn_at(&self.offsets, &self.copies, offset)
    }

    /// Where code of instructions begins, copies included, by offset. Of those with one offset, the last has code there.
    pub fn places(&self) -> Vec<(u32, InsnIdx)> {
        places(&self.offsets, &self.copies, self.bytes.len() as u32)
    }
}

/// All places of code, as they come.
fn all_places<'a>(offsets: &'a [u32], copies: &'a [(u32, InsnIdx)]) -> impl Iterator<Item = (u32, InsnIdx)> + 'a {
    // Where a copy ends that emitted nothing, what comes next begins.
    copies.iter().copied().chain(offsets.iter().copied().zip((0..).map(InsnIdx)))
}

/// See [`Code::places`].
pub(crate) fn places(offsets: &[u32], copies: &[(u32, InsnIdx)], bytes: u32) -> Vec<(u32, InsnIdx)> {
    let mut places: Vec<_> = all_places(offsets, copies).filter(|(offset, _)| *offset <= bytes).collect();
    places.sort_by_key(|(offset, _)| *offset);
    places
}

/// See [`Code::insn_at`].
pub(crate) fn insn_at(offsets: &[u32], copies: &[(u32, InsnIdx)], offset: u32) -> Option<InsnIdx> {
    all_places(offsets, copies).filter(|(start, _)| *start <= offset).max_by_key(|(start, _)| *start).map(|(_, at)| at)
}

/// Why a program has no native code.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum CompileError {
    #[error("instruction {at}: {what} has no native code; use the interpreter")]
    Unsupported { at: InsnIdx, what: &'static str },
    #[error("instruction {at}: not a valid instruction, yet reached")]
    BadInsn { at: InsnIdx },
    #[error("native code above {max} bytes; split the program or use the interpreter", max = Code::MAX_BYTES)]
    TooLarge,
    #[error("internal: a branch at native offset {offset} does not reach its target")]
    BranchRange { offset: u32 },
    #[error("internal: label {label} has no place")]
    Unbound { label: u32 },
}

impl Code {
    /// The most bytes one program may take: a direct branch crosses it on either architecture.
    pub const MAX_BYTES: usize = 100 << 20;
}
