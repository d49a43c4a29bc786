//! What a proof found out, one small record an instruction.
//!
//! A fact is a claim that lets an engine do less work. Every engine gives the same result with [`Facts::none`], and the
//! checked interpreter asserts every claim at every instruction.

use rtbpf_isa::{InsnIdx, MapIdx};

/// Where a memory instruction points.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Access {
    /// Nothing is known, or paths differ.
    #[default]
    Mixed,
    /// The current frame's stack, at this offset from R10.
    Stack(i16),
    /// Some frame's stack.
    AnyStack,
    /// The context, at this UAPI offset.
    Ctx(u16),
    /// A map's value, at offsets within `low..=high`.
    MapValue {
        /// Which map.
        map: MapIdx,
        /// Lowest first byte.
        low: u32,
        /// Highest first byte.
        high: u32,
    },
    /// The packet.
    Packet,
    /// Memory that a helper handed out.
    Mem,
}

/// Which edges of a conditional jump are alive.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Branch {
    /// Both.
    #[default]
    Both,
    /// Only the target.
    Taken,
    /// Only the next instruction.
    Never,
}

/// Claims about one instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct InsnFacts {
    /// No path reaches it.
    pub unreached: bool,
    /// The divisor is not zero.
    pub divisor_nonzero: bool,
    /// The shift amount is below the width.
    pub shift_in_range: bool,
    /// Live edges.
    pub branch: Branch,
    /// Where it points.
    pub access: Access,
    /// For a lookup in the array `map` with a constant key: the index.
    pub const_key: Option<u32>,
    /// For a call that names a map in R1: the one map it can be.
    pub map: Option<MapIdx>,
}

/// Claims about a program.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Facts {
    /// By instruction; empty for [`Facts::none`].
    pub insns: Vec<InsnFacts>,
    /// Bytes of stack each subprogram uses; 512 where unknown.
    pub stack_bytes: Vec<u32>,
    /// Some frame reads stack bytes nobody wrote, or that a helper may have failed to write: engines zero the frames of these
    /// subprograms.
    pub reads_uninit_stack: bool,
    /// The most instructions one run can take; `None` when unknown.
    pub worst_case_insns: Option<u64>,
    /// A tail call is reachable.
    pub tail_calls: bool,
    /// A helper that sleeps is reachable.
    pub sleeps: bool,
}

impl Facts {
    /// No claims: engines assume the worst.
    pub fn none() -> Facts {
        Facts { reads_uninit_stack: true, tail_calls: true, sleeps: true, ..Facts::default() }
    }

    /// The claims about `at`; the default (no claims) where there are none.
    pub fn at(&self, at: InsnIdx) -> InsnFacts {
        self.insns.get(at.index()).copied().unwrap_or_default()
    }
}
