//! Rejections: stable code, place, errno, words.

use rtbpf_abi::Errno;
use rtbpf_isa::{DecodeError, InsnIdx};

use crate::verified::Stats;

macro_rules! reasons {
    ($($name:ident, $hint:literal;)*) => {
        /// Stable code of a rejection. Tests match it; people read the message.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[non_exhaustive]
        #[allow(missing_docs)]
        pub enum Reason { $($name,)* }

        impl Reason {
            /// Every code.
            pub const ALL: &[Reason] = &[$(Reason::$name,)*];

            /// What usually helps; empty where the message says it all.
            pub const fn hint(self) -> &'static str {
                match self { $(Reason::$name => $hint,)* }
            }
        }
    };
}

reasons! {
    Malformed, "";
    BadField, "recompile for an instruction set version that the target knows";
    Unreachable, "remove the dead code; compilers do so from -O1";
    FallsThrough, "end every function with exit or a jump";
    BadJump, "";
    TooLarge, "split the program with tail calls or global functions";
    TooComplex, "bound loops by a constant, or use bpf_loop or bpf_for";
    InfiniteLoop, "the loop must change a value that decides whether it ends";
    CallDepth, "inline functions, or use tail calls";
    StackDepth, "move large buffers into a per-CPU array map";
    UninitRegister, "assign the register on every path that leads here";
    FramePointer, "";
    Arithmetic, "";
    PointerArithmetic, "add bounded, non-negative numbers to pointers; check for null first";
    PointerComparison, "";
    PointerLeak, "pointers may not leave the program without CAP_PERFMON";
    InvalidAccess, "check a pointer for null before using it, and keep its type on all paths";
    OutOfBounds, "compare the index with the size of the memory, on this path, before the access";
    PacketBounds, "compare the pointer plus the size of the access with data_end, and re-check after anything that moves the packet";
    ContextAccess, "use a field of the context of this program type, with its size";
    StackAccess, "stay within 512 bytes below r10, aligned, and initialise before reading";
    Misaligned, "align the access to its size";
    ReadOnly, "";
    SpecialField, "use the helpers for this field";
    Map, "";
    Helper, "see which program types have this helper with `rtbpf inspect helpers`";
    License, "declare a GPL-compatible licence";
    Argument, "";
    ReturnValue, "set r0 to a value in the accepted range on every path to exit";
    ReferenceLeak, "release what was acquired on every path";
    Reference, "";
    Lock, "hold one lock at a time, unlock on every path, and call nothing in between";
    Dynptr, "";
    Iterator, "";
    Callback, "";
    Kfunc, "";
    GlobalFunction, "";
    ProgType, "";
    Policy, "";
    Privilege, "";
    Internal, "this is a fault of the verifier: please report it";
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
    /// The log, in the kernel's format; ends with the message and the statistics.
    pub log: String,
    /// How much was walked.
    pub stats: Stats,
}

/// The result of a check; boxed, as rejections are rare and large.
pub(crate) type Checked<T = ()> = Result<T, Box<Rejection>>;

impl Rejection {
    /// A rejection without place; the walk adds it.
    pub(crate) fn new(reason: Reason, errno: Errno, message: String) -> Box<Rejection> {
        let hint = reason.hint().to_owned();
        Box::new(Rejection { reason, at: None, errno, message, hint, log: String::new(), stats: Stats::default() })
    }

    /// The rejection of slots that do not decode.
    pub fn from_decode(error: &DecodeError) -> Rejection {
        use DecodeError as D;
        let (reason, errno) = match error {
            D::Empty | D::TooLong(_) => (Reason::TooLarge, Errno::E2BIG),
            D::JumpOutOfRange { .. } | D::JumpIntoWide { .. } | D::CallOutOfRange { .. } => {
                (Reason::BadJump, Errno::EINVAL)
            }
            _ => (Reason::Malformed, Errno::EINVAL),
        };
        let message = match *error {
            D::UnknownOpcode { code, .. } => format!("unknown opcode {code:02x}"),
            D::HalfWide { .. } => "invalid bpf_ld_imm64 insn".to_owned(),
            D::JumpOutOfRange { slot, to } => format!("jump out of range from insn {slot} to {to}"),
            D::JumpIntoWide { to, .. } => format!("jump into the middle of ldimm64 insn {to}"),
            D::CallOutOfRange { .. } => "call to invalid destination".to_owned(),
            _ => error.to_string(),
        };
        let mut rejection = *Rejection::new(reason, errno, message.clone());
        rejection.log = format!("{message}\n");
        rejection
    }
}

/// `Err` with a rejection: reason, errno, message.
macro_rules! refuse {
    ($reason:ident, $errno:ident, $($message:tt)+) => {
        Err($crate::reject::Rejection::new($crate::Reason::$reason, rtbpf_abi::Errno::$errno, format!($($message)+)))
    };
}
pub(crate) use refuse;
