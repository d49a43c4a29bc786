//! The states that proved a program, kept for whoever asks ([`Options::keep_states`](crate::Options::keep_states)).
//!
//! ```text
//!  S[p] = { s1 … sk }   for every kept instruction p: whatever a run meets at p lies in one of them
//! ```
//!
//! A kept state says what the proof needed and no more: a number that no check depended on is any number, a register or
//! a byte of stack that nobody reads again holds anything. That makes the states *inductive*: from each, the instructions
//! up to the next kept ones break no rule and lead into kept states again. [`VerifiedProgram::recheck`] shows it in one
//! pass over them, without search, without pruning, and without a word about what was needed.
//!
//! [`VerifiedProgram::recheck`]: crate::VerifiedProgram::recheck

mod keeper;
mod recheck;
mod take;

use std::collections::BTreeMap;
use std::fmt;

use rtbpf_isa::{InsnIdx, Reg};

pub(crate) use keeper::Keeper;
pub(crate) use take::Places;

pub use crate::domain::Scalar;
pub use crate::state::{Byte, Callback, Held, Lock, Reference};
pub use crate::value::{AT_END, BEYOND_END, DynptrKind, IterState, Kind, MapRef, Source, Trust, Value};
use crate::verified::Options;

/// Where states are kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum KeepStates {
    /// Nowhere; costs nothing.
    #[default]
    Nowhere,
    /// At the first instruction of every block, and wherever else a path may end in a state that was met before.
    Leaders,
    /// At every instruction.
    Everywhere,
}

/// The states that proved a program, by instruction.
#[derive(Clone, Debug)]
pub struct BlockStates {
    states: BTreeMap<InsnIdx, Vec<BlockState>>,
    wanted: Vec<bool>,
    /// How the program was verified.
    options: Options,
    /// No id in a state is higher.
    next_id: u32,
}

impl BlockStates {
    /// The states at `at`; none where none are kept, and where no run gets.
    pub fn at(&self, at: InsnIdx) -> &[BlockState] {
        self.states.get(&at).map_or(&[], Vec::as_slice)
    }

    /// Whether states are kept at `at`: where there is none then, no run gets.
    pub fn keeps(&self, at: InsnIdx) -> bool {
        self.wanted.get(at.index()).copied().unwrap_or(false)
    }

    /// Every kept state, in the order of instructions.
    pub fn iter(&self) -> impl Iterator<Item = (InsnIdx, &BlockState)> {
        self.states.iter().flat_map(|(at, states)| states.iter().map(|state| (*at, state)))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.states.values().map(Vec::len).sum()
    }
}

/// What is known before one instruction, on some paths to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BlockState {
    /// Frames, the entry's first. Never empty.
    pub frames: Vec<FrameState>,
    /// References, locks and regions that are held.
    pub held: Held,
    may_goto_depth: u32,
}

impl BlockState {
    /// The current frame.
    pub fn frame(&self) -> &FrameState {
        self.frames.last().expect("a state has a frame")
    }
}

/// What is known of one activation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FrameState {
    /// R0 to R10. [`Kind::Uninit`]: nobody reads it again.
    pub regs: [Value; Reg::COUNT],
    /// Slots of which something is known, in ascending order.
    pub slots: Vec<SlotState>,
    /// The call that made the frame, which returns to the next instruction; 0 for the entry.
    pub call_site: InsnIdx,
    /// Index of the subprogram.
    pub subprog: usize,
    /// Set when a helper made the frame.
    pub callback: Option<Callback>,
    callback_depth: u32,
}

/// What is known of eight bytes of stack.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SlotState {
    /// Slot 0 lies at R10 − 8, slot 1 at R10 − 16.
    pub at: u8,
    /// By address. [`Byte::Invalid`]: anything.
    pub bytes: [Byte; 8],
    /// What [`Byte::Spill`] is part of: a pointer of 8 bytes, or a number of as many as are marked, zero-extended.
    pub value: Option<Value>,
    /// Some path reads it. Else it is here because a dynptr or iterator is in it, which stores may not tear.
    pub is_read: bool,
}

impl fmt::Display for BlockState {
    /// As the kernel's log prints states.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(crate::log::registers(&self.to_state().0, &[]).trim_start())
    }
}
