//! The frame of one run: the memory that native code, interpreters and helper functions share.

use std::ffi::c_void;

/// Why a run ended early. Numbers are part of the native ABI.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u32)]
pub enum FaultCode {
    /// It did not.
    #[default]
    None = 0,
    /// The fuel ran out.
    OutOfFuel = 1,
    /// Another thread cancelled the run.
    Cancelled = 2,
    /// A helper failed in a way that has no errno (an embedder's closure panicked).
    Helper = 3,
    /// Native code touched memory it must not.
    Memory = 4,
    /// A `bpf_throw`.
    Thrown = 5,
    /// The deadline passed.
    Deadline = 6,
    /// Native code came to an operation that its proof excludes.
    Trap = 7,
}

/// One run. `#[repr(C)]`: native code addresses fields by `offset_of!`.
///
/// Helper functions get it as their sixth argument.
#[repr(C)]
#[derive(Debug)]
pub struct RunFrame {
    /// Address of the native context.
    pub ctx: *mut u8,
    /// One past the highest byte of the entry frame's stack; R10 of the entry.
    pub stack_top: *mut u8,
    /// Source instructions left; counts down. `i64::MAX` when not metered.
    pub fuel: i64,
    /// Set by helpers and fuel points; native code leaves when it is not `None`.
    pub fault: FaultCode,
    /// Instruction at which the fault arose; [`RunFrame::NOWHERE`] until then. The innermost one counts.
    pub fault_at: u32,
    /// Tail calls made so far.
    pub tail_calls: u32,
    /// The slot (virtual CPU) of the run.
    pub cpu: u32,
    /// Native stack pointer at entry, for leaving from any depth.
    pub entry_sp: u64,
    /// First byte of the packet, where the context has one.
    pub data: *mut u8,
    /// One past its last byte.
    pub data_end: *mut u8,
    /// First byte of packet metadata; `data` when there is none.
    pub data_meta: *mut u8,
    /// Non-zero once another thread asked the run to stop.
    pub cancel: *const u32,
    /// The machine's own state for this run; opaque to native code.
    pub host: *mut c_void,
    /// R10 of the frame that called the running helper: a callback's frame lies below it. Written by native code.
    pub stack: *mut u8,
    /// R2 of the entry: the length of a plain context.
    pub second: u64,
    /// Number of the helper that is being called, for functions that stand behind several.
    pub helper: u32,
}

impl RunFrame {
    /// No instruction: what `fault_at` holds when a run begins.
    pub const NOWHERE: u32 = u32::MAX;
}

/// A helper function: arguments R1 to R5 as native values, result in R0.
pub type HelperFn = extern "C" fn(u64, u64, u64, u64, u64, &mut RunFrame) -> u64;

/// A native entry point: context in the frame, result R0.
pub type EntryFn = unsafe extern "C" fn(&mut RunFrame) -> u64;

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::{align_of, offset_of, size_of};

    #[test]
    fn native_code_relies_on_this_layout() {
        assert_eq!((size_of::<RunFrame>(), align_of::<RunFrame>()), (112, 8));
        let check = |offset: usize, want: usize| assert_eq!(offset, want);
        check(offset_of!(RunFrame, ctx), 0);
        check(offset_of!(RunFrame, stack_top), 8);
        check(offset_of!(RunFrame, fuel), 16);
        check(offset_of!(RunFrame, fault), 24);
        check(offset_of!(RunFrame, fault_at), 28);
        check(offset_of!(RunFrame, tail_calls), 32);
        check(offset_of!(RunFrame, cpu), 36);
        check(offset_of!(RunFrame, entry_sp), 40);
        check(offset_of!(RunFrame, cancel), 72);
        check(offset_of!(RunFrame, stack), 88);
        check(offset_of!(RunFrame, second), 96);
        check(offset_of!(RunFrame, helper), 104);
    }
}
