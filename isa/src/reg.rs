//! Registers.

use std::fmt;

/// One of the eleven registers a program can name (RFC 9669 §2.1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Reg {
    R0,
    R1,
    R2,
    R3,
    R4,
    R5,
    R6,
    R7,
    R8,
    R9,
    R10,
}

impl Reg {
    /// The number of registers.
    pub const COUNT: usize = 11;

    /// All registers, in order.
    pub const ALL: [Reg; Reg::COUNT] =
        [Reg::R0, Reg::R1, Reg::R2, Reg::R3, Reg::R4, Reg::R5, Reg::R6, Reg::R7, Reg::R8, Reg::R9, Reg::R10];

    /// The frame pointer, read-only.
    pub const FP: Reg = Reg::R10;

    /// The argument registers of a call, R1 to R5.
    pub const ARGS: [Reg; 5] = [Reg::R1, Reg::R2, Reg::R3, Reg::R4, Reg::R5];

    /// The register with number `n`; `None` for 11 and above.
    pub const fn new(n: u8) -> Option<Reg> {
        if (n as usize) < Reg::COUNT { Some(Reg::ALL[n as usize]) } else { None }
    }

    /// Its number, 0 to 10.
    #[inline]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Whether a callee must preserve it (R6 to R10).
    pub const fn is_callee_saved(self) -> bool {
        self as u8 >= Reg::R6 as u8
    }
}

impl fmt::Display for Reg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{}", *self as u8)
    }
}
