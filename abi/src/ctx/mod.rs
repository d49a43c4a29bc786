//! Context layouts: what the memory at R1 is, field by field, for each program type.
//!
//! A program reads a context by the offsets of the UAPI structure. Behind it stands a *native* context, which engines
//! that trust the proof read directly:
//!
//! ```text
//!  0                      size            align8(size)
//!  │ UAPI structure, as is │ padding       │ packet pointers, 8 bytes each, in field order │
//! ```
//!
//! Scalars and 8-byte pointers are read where they stand; a 4-byte packet field (`data`) is an 8-byte load of its
//! appended slot, [`CtxField::native_offset`].

/// What a load of a field gives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum FieldKind {
    Scalar,
    PacketData,
    PacketMeta,
    PacketEnd,
    /// Flow keys of a flow dissector.
    FlowKeys,
    /// The socket of a packet, or 0.
    SockCommonOrNull,
    Sock,
    SockOrNull,
    /// Start and end of a bounded buffer (`optval`).
    BufStart,
    BufEnd,
    /// Trusted pointer to this kernel type.
    Btf(&'static str),
}

/// Sizes (a bit set of 1, 2, 4, 8) an access may have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sizes(pub u8);

impl Sizes {
    /// No access.
    pub const NONE: Sizes = Sizes(0);

    /// Whether `bytes` is in the set.
    pub const fn has(self, bytes: u32) -> bool {
        self.0 as u32 & bytes != 0
    }
}

/// One field of a context.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CtxField {
    /// UAPI name.
    pub name: &'static str,
    /// UAPI byte offset.
    pub offset: u16,
    /// UAPI size in bytes; an array has the size of the whole.
    pub size: u16,
    /// What a load gives.
    pub kind: FieldKind,
    /// Accepted load sizes, at multiples of that size within the field.
    pub reads: Sizes,
    /// Accepted store sizes, likewise.
    pub writes: Sizes,
    /// Byte offset in the native context.
    pub native_offset: u16,
}

/// The context of a program type.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CtxLayout {
    /// C name of the structure.
    pub name: &'static str,
    /// UAPI size in bytes.
    pub size: u16,
    /// Native size in bytes: the UAPI structure and the pointer slots behind it.
    pub native_size: u16,
    /// Fields by offset.
    pub fields: &'static [CtxField],
}
