//! BTF: the types of BPF objects and of kernels, their names, layouts and source lines.
//!
//! ```text
//!  .BTF:  header | types: [info, size or type, payload]… | strings: "\0name\0name\0…"
//!                    id 1      id 2      id 3 …   (id 0 is void)
//! ```
//!
//! [`Btf`] keeps the bytes as they are and decodes a [`Type`] when asked: parsing a kernel's BTF walks its types once
//! and costs four bytes of index per type. What parsing checks, every later reader relies on: references name types
//! that exist, names lie in the string section, and *containment by value* (members, elements, typedefs) is finite
//! and at most [`MAX_NESTING`] deep. Cycles through pointers are legal.
//!
//! Format: kernel documentation, "BPF Type Format (BTF)".
#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]
#![cfg_attr(test, allow(clippy::indexing_slicing))]

mod error;
mod ext;
mod fields;
mod layout;
mod lookup;
mod print;
mod read;
mod types;
mod value;
mod write;

pub use error::Error;
pub use ext::{BtfExt, CoreRelo, CoreReloKind, FuncInfo, InfoSection, LineInfo};
pub use fields::{special_fields, variable_fields};
pub use layout::Place;
pub use lookup::essential_name;
pub use read::{Btf, MAX_NESTING};
pub use types::{
    EnumValue, EnumValues, Int, IntEncoding, Kind, Linkage, List, Member, Members, Param, Params, Type, TypeId,
    VarInfo, VarInfos,
};
pub use value::Value;
pub use write::{Builder, NewMember};
