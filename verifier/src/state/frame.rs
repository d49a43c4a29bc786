//! One activation of a function.

use rtbpf_isa::{InsnIdx, Reg};

use super::Stack;
use crate::value::{Kind, Value};

/// Why a helper called a subprogram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Callback {
    /// Number of the helper that calls.
    pub helper: u32,
    /// Values that the callback may return.
    pub returns: (i64, i64),
    /// Runs later, outside of the caller.
    pub is_async: bool,
}

/// Registers and stack of one activation.
#[derive(Clone, Debug)]
pub struct Frame {
    /// R0 to R10.
    pub regs: [Value; Reg::COUNT],
    /// The stack.
    pub stack: Stack,
    /// The call that made it; the frame returns to the next instruction.
    pub call_site: InsnIdx,
    /// Index of the subprogram.
    pub subprog: usize,
    /// Set when a helper made it.
    pub callback: Option<Callback>,
    /// How many callbacks of this call site were walked on this path.
    pub callback_depth: u32,
}

impl Frame {
    /// A fresh frame at `depth`: only R10 is readable.
    pub fn new(depth: u32, subprog: usize, call_site: InsnIdx) -> Frame {
        let mut regs = [Value::UNINIT; Reg::COUNT];
        regs[Reg::FP.index()] = Value::pointer(Kind::Stack(depth));
        Frame { regs, stack: Stack::default(), call_site, subprog, callback: None, callback_depth: 0 }
    }
}
