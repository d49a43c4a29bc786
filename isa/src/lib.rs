//! The eBPF instruction set: one table, one decoded form, one meaning.
//!
//! ```text
//!  8-byte slots ──decode──▶ Insn (16 bytes, typed) ──text──▶ kernel syntax
//!       ▲                      │        │
//!       └──────encode──────────┘        └──eval──▶ what the operation computes
//! ```
//!
//! A slot, as RFC 9669 §3 draws it:
//!
//! ```text
//!  byte 0   byte 1          bytes 2-3   bytes 4-7
//!  opcode   src:4 | dst:4   offset      immediate
//! ```
//!
//! [`rows::ROWS`] is the table that every reader of instructions shares. Nothing outside this crate classifies an
//! opcode by its bits.
#![forbid(unsafe_code)]

pub mod asm;
pub mod classic;
pub mod decode;
pub mod effects;
pub mod encode;
pub mod eval;
pub mod insn;
pub mod program;
pub mod raw;
pub mod refusal;
pub mod reg;
pub mod rows;
pub mod text;

pub use decode::{DecodeError, decode};
pub use encode::encode;
pub use insn::*;
pub use program::{Linkage, Program, SourceLine, Subprog};
pub use raw::RawInsn;
pub use reg::Reg;
