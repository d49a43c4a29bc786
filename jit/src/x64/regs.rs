//! Registers, and how instructions name them.

use crate::encode::Addr;

/// A general register of x86_64. The number is its encoding.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
#[allow(missing_docs)]
#[rustfmt::skip]
pub enum Gpr { Rax, Rcx, Rdx, Rbx, Rsp, Rbp, Rsi, Rdi, R8, R9, R10, R11, R12, R13, R14, R15 }

use Gpr::*;

impl Gpr {
    /// All, by number.
    #[rustfmt::skip]
    pub const ALL: [Gpr; 16] = [Rax, Rcx, Rdx, Rbx, Rsp, Rbp, Rsi, Rdi, R8, R9, R10, R11, R12, R13, R14, R15];

    /// As one bit of a register set.
    pub const fn bit(self) -> u32 {
        1 << self as u8
    }
}

impl From<Gpr> for u8 {
    fn from(reg: Gpr) -> u8 {
        reg as u8
    }
}

/// R0 to R10. Helper arguments already stand where the psABI wants them.
pub const MAP: [Gpr; 11] = [Rax, Rdi, Rsi, Rdx, Rcx, R8, Rbx, R13, R14, R15, Rbp];
/// Holds the address of the run's frame.
pub const RUN: Gpr = R12;
/// Temporaries of single operations.
pub const T0: Gpr = R11;
/// Second temporary.
pub const T1: Gpr = R10;
/// Third; the sixth argument of helpers.
pub const T2: Gpr = R9;

/// What the psABI has a callee keep, without the stack pointer.
pub const CALLEE_SAVED: u32 = Rbx.bit() | Rbp.bit() | R12.bit() | R13.bit() | R14.bit() | R15.bit();

/// A memory operand.
pub type Mem = Addr<Gpr>;
