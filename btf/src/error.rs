//! What can be wrong with BTF.

/// Why bytes are not the BTF they claim to be. Offsets are in bytes, from the start of the blob.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The blob, a section or a record ends early.
    #[error("BTF {what} at byte {offset} needs {need} bytes, {have} are left")]
    Truncated {
        /// What was being read.
        what: &'static str,
        /// Where it starts.
        offset: usize,
        /// Bytes it takes.
        need: usize,
        /// Bytes there are.
        have: usize,
    },
    /// Not BTF.
    #[error("BTF magic is {0:#06x} (must be 0xeb9f)")]
    Magic(u16),
    /// Byte-swapped.
    #[error("BTF is big-endian; build the object with -target bpfel")]
    BigEndian,
    /// From the future.
    #[error("BTF version {0} (must be 1)")]
    Version(u8),
    /// Neither empty nor enclosed in NUL bytes.
    #[error("BTF string section must start and end with a NUL byte")]
    Strings,
    /// Unknown kind; nothing after it can be read.
    #[error("BTF type {id} at byte {offset} has unknown kind {kind}")]
    UnknownKind {
        /// The type's id.
        id: u32,
        /// Where it starts in the type section.
        offset: usize,
        /// The kind number.
        kind: u8,
    },
    /// A reference to a type that does not exist.
    #[error("BTF type {id} refers to type {to}, but there are only {count} types")]
    BadReference {
        /// The type's id.
        id: u32,
        /// The missing type.
        to: u32,
        /// How many types there are, void included.
        count: u32,
    },
    /// A name outside the string section.
    #[error("BTF type {id} has its name at {name}, beyond the string section")]
    BadName {
        /// The type's id.
        id: u32,
        /// Offset in the string section.
        name: u32,
    },
    /// A name so long that it must be an attack.
    #[error("BTF type {id} has a name of more than {} bytes at {name} of the string section", crate::read::MAX_NAME)]
    LongName {
        /// The type's id.
        id: u32,
        /// Offset in the string section.
        name: u32,
    },
    /// A type that contains itself, or nests too deep.
    #[error("BTF type {id} contains itself or nests more than {} levels deep", crate::MAX_NESTING)]
    Nesting {
        /// The type's id.
        id: u32,
    },
    /// More types than Linux takes.
    #[error("BTF has more than {0} types")]
    TooManyTypes(usize),
    /// A record size in `.BTF.ext` that holds less than the fields known.
    #[error("BTF.ext {what} records have {size} bytes (must be a multiple of 4 and at least {least})")]
    RecordSize {
        /// Which section.
        what: &'static str,
        /// Its record size.
        size: u32,
        /// The least that works.
        least: u32,
    },
    /// A special field that its declaration does not permit.
    #[error("BTF type {id}: {why}")]
    SpecialField {
        /// The value's type.
        id: u32,
        /// What is wrong.
        why: &'static str,
    },
}
