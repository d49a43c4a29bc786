//! Rejections: stable code, place, errno, words.

use rtbpf_abi::Errno;
use rtbpf_isa::InsnIdx;

/// Stable code of a rejection. Tests match it; people read the message.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum Reason {
    BadField,
    Unreachable,
    Internal,
}

/// Why a program was refused.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Rejection {
    /// Stable code.
    pub reason: Reason,
    /// The instruction, where there is one.
    pub at: Option<InsnIdx>,
    /// What Linux's `bpf(2)` would answer.
    pub errno: Errno,
    /// One line, in the kernel's words where it has some.
    pub message: String,
    /// What to do about it; empty when there is nothing to add.
    pub hint: String,
}
