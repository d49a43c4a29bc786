//! How native code, helpers and the host agree: offsets in [`RunFrame`] and the conventions of calls.
//!
//! ```text
//! entry       EntryFn   (&mut RunFrame) -> R0       host to program, and target of tail calls
//! callback    HelperFn  (R1..R5, &mut RunFrame)     helper to subprogram; frames lie below RunFrame::stack
//! subprogram  private   R1..R5, R10, frame in registers; keeps R6..R10; takes 512 bytes below R10
//! helper      HelperFn  (R1..R5, &mut RunFrame)     program to helper
//! ```
//!
//! `docs/jit-abi.md` tells the same at length.

use std::mem::offset_of;

use rtbpf_abi::frame::RunFrame;
use rtbpf_abi::limits::STACK_BYTES;

/// A field of [`RunFrame`] that native code touches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Slot {
    Ctx,
    Cpu,
    StackTop,
    Fuel,
    Fault,
    FaultAt,
    EntrySp,
    Cancel,
    Stack,
    Second,
    Helper,
}

impl Slot {
    /// Byte offset in the frame; below 128, so that x86_64 needs one byte for it.
    pub const fn offset(self) -> i32 {
        let offset = match self {
            Slot::Cpu => offset_of!(RunFrame, cpu),
            Slot::Ctx => offset_of!(RunFrame, ctx),
            Slot::StackTop => offset_of!(RunFrame, stack_top),
            Slot::Fuel => offset_of!(RunFrame, fuel),
            Slot::Fault => offset_of!(RunFrame, fault),
            Slot::FaultAt => offset_of!(RunFrame, fault_at),
            Slot::EntrySp => offset_of!(RunFrame, entry_sp),
            Slot::Cancel => offset_of!(RunFrame, cancel),
            Slot::Stack => offset_of!(RunFrame, stack),
            Slot::Second => offset_of!(RunFrame, second),
            Slot::Helper => offset_of!(RunFrame, helper),
        };
        offset as i32
    }
}

/// Distance of R10 between a caller and its callee.
pub const FRAME_STRIDE: i32 = STACK_BYTES as i32;

/// Iterations that one frame's `may_goto` instructions have together (Linux: `BPF_MAX_LOOPS`).
pub const MAY_GOTO_BUDGET: i32 = 8 << 20;
