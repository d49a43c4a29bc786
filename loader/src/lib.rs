//! BPF ELF objects to programs and map specifications.
//!
//! ```text
//!  bytes ──elf──▶ Unit ──┬─ functions, programs ─┐
//!                        ├─ maps, data, externs ─┼─▶ Object ──link──▶ Program, one per entry
//!  bytes ──elf──▶ Unit ──┘  relocations, CO-RE,  │
//!            join           source lines ────────┘
//! ```
//!
//! [`Object::parse`] says what a file holds: same bytes and options, same object, on any machine; no map exists yet.
//! [`Object::link`] gathers one entry and the functions it reaches into a [`Program`](rtbpf_isa::Program).
//! [`Object::join`] makes one object of several.
//!
//! **Safe on any bytes.** Parsing never panics, never recurses on input, and its time and memory grow with the size
//! of the file: sections may not overlap, names and their total are bounded, work that could multiply is budgeted.
//! What is wrong comes back as an [`Error`] that names section and offset.
#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]
#![cfg_attr(test, allow(clippy::indexing_slicing))]

mod code;
mod core;
mod data;
mod elf;
mod error;
mod externs;
mod join;
mod kconfig;
mod legacy;
mod lines;
mod link;
mod maps;
mod object;
mod reloc;

pub use self::core::{CoreOutcome, CoreResult, POISONED_HELPER};
pub use error::Error;
pub use object::{
    DataSection, Initial, InitialTarget, Kfunc, Lookup, MapDef, Object, ParseOptions, Pinning, ProgramSpec,
    RelocCounts, TypeOverride, Variable,
};
