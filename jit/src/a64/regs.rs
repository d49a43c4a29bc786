//! Registers, and how instructions name them.

use crate::encode::Addr;

/// A general register of aarch64, or the stack pointer where an instruction takes it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Gpr(u8);

impl Gpr {
    /// Register `n`, below 31.
    pub const fn x(n: u8) -> Gpr {
        assert!(n < 31);
        Gpr(n)
    }

    /// Its number.
    pub const fn number(self) -> u8 {
        self.0
    }

    /// As one bit of a register set.
    pub const fn bit(self) -> u32 {
        1 << self.0
    }
}

impl From<Gpr> for u8 {
    fn from(reg: Gpr) -> u8 {
        reg.0
    }
}

const fn x(n: u8) -> Gpr {
    Gpr::x(n)
}

/// R0 to R10. Helper arguments already stand where the psABI wants them; their result does not, because x0 is R1.
pub const MAP: [Gpr; 11] = [x(7), x(0), x(1), x(2), x(3), x(4), x(19), x(20), x(21), x(22), x(25)];
/// Holds the address of the run's frame.
pub const RUN: Gpr = x(23);
/// The sixth argument of helpers.
pub const SIXTH: Gpr = x(5);
/// Where helpers leave their result.
pub const RESULT: Gpr = x(0);
/// Temporaries of single operations.
pub const T0: Gpr = x(9);
/// Second temporary.
pub const T1: Gpr = x(10);
/// Third temporary.
pub const T2: Gpr = x(11);
/// Fourth temporary.
pub const T3: Gpr = x(12);
/// What only calls clobber.
pub const EXTRA: [Gpr; 5] = [x(13), x(14), x(15), x(6), x(8)];
/// Link register.
pub const LR: Gpr = x(30);

/// What the psABI has a callee keep, without link register and stack pointer.
pub const CALLEE_SAVED: u32 = 0x3ff << 19 | x(29).bit();

/// A memory operand.
pub type Mem = Addr<Gpr>;
