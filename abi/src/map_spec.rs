//! What a map is, before it exists: the attributes of `BPF_MAP_CREATE`, and what the verifier may assume about it.

use std::sync::Arc;

use crate::map_kind::MapKind;
pub use crate::map_rules::{check, check_btf};

/// Creation flags, bits of `map_flags` (bpf(2), Linux 6.18).
pub mod flags {
    #![allow(missing_docs)]
    pub const NO_PREALLOC: u32 = 1 << 0;
    pub const NO_COMMON_LRU: u32 = 1 << 1;
    pub const NUMA_NODE: u32 = 1 << 2;
    pub const RDONLY: u32 = 1 << 3;
    pub const WRONLY: u32 = 1 << 4;
    pub const STACK_BUILD_ID: u32 = 1 << 5;
    pub const ZERO_SEED: u32 = 1 << 6;
    pub const RDONLY_PROG: u32 = 1 << 7;
    pub const WRONLY_PROG: u32 = 1 << 8;
    pub const CLONE: u32 = 1 << 9;
    pub const MMAPABLE: u32 = 1 << 10;
    pub const PRESERVE_ELEMS: u32 = 1 << 11;
    pub const INNER_MAP: u32 = 1 << 12;
    pub const LINK: u32 = 1 << 13;
    pub const PATH_FD: u32 = 1 << 14;
    pub const VTYPE_BTF_OBJ_FD: u32 = 1 << 15;
    pub const TOKEN_FD: u32 = 1 << 16;
    pub const SEGV_ON_FAULT: u32 = 1 << 17;
    pub const NO_USER_CONV: u32 = 1 << 18;
    pub const RB_OVERWRITE: u32 = 1 << 19;
}

/// A part of a value that plain loads and stores may not touch, declared by the value's BTF.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SpecialField {
    /// Byte offset in the value.
    pub off: u32,
    /// Which.
    pub kind: SpecialKind,
}

/// Kinds of special fields.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs)]
pub enum SpecialKind {
    SpinLock,
    ResSpinLock,
    Timer,
    Workqueue,
    TaskWork,
    /// Untrusted kernel pointer to the BTF type with this id.
    KptrUntrusted(u32),
    /// Referenced kernel pointer.
    KptrRef(u32),
    /// Per-CPU kernel pointer.
    KptrPercpu(u32),
    Uptr(u32),
    ListHead,
    ListNode,
    RbRoot,
    RbNode,
    Refcount,
}

impl SpecialKind {
    /// Bytes the field takes in a value.
    pub const fn size(self) -> u32 {
        match self {
            SpecialKind::SpinLock | SpecialKind::ResSpinLock | SpecialKind::Refcount => 4,
            SpecialKind::KptrUntrusted(_) | SpecialKind::KptrRef(_) | SpecialKind::KptrPercpu(_) => 8,
            SpecialKind::Uptr(_) => 8,
            SpecialKind::Timer | SpecialKind::Workqueue | SpecialKind::ListHead | SpecialKind::RbRoot => 16,
            SpecialKind::TaskWork => 8,
            SpecialKind::ListNode => 24,
            SpecialKind::RbNode => 32,
        }
    }
}

/// A map's attributes. Sizes in bytes.
#[derive(Clone, PartialEq, Debug)]
pub struct MapSpec {
    /// Map type.
    pub kind: MapKind,
    /// Name; at most 15 bytes where Linux must take it.
    pub name: String,
    /// Key size in bytes.
    pub key_size: u32,
    /// Value size in bytes, per CPU.
    pub value_size: u32,
    /// Capacity; bytes for ring buffers, pages for arenas.
    pub max_entries: u32,
    /// [`flags`].
    pub flags: u32,
    /// Kind-specific extra (bloom filter: hash functions; arena: user address).
    pub map_extra: u64,
    /// NUMA node; used with [`flags::NUMA_NODE`] only.
    pub numa_node: u32,
    /// Template of the inner maps, for maps of maps.
    pub inner: Option<Box<MapSpec>>,
    /// The value's special fields, by offset.
    pub fields: Vec<SpecialField>,
    /// The value bytes of a frozen, program-read-only map with one entry per index: the verifier folds loads of them.
    pub frozen: Option<Arc<[u8]>>,
    /// BTF type ids of key and value in the object's BTF; 0 when unknown.
    pub btf_key: u32,
    /// See `btf_key`.
    pub btf_value: u32,
}

impl MapSpec {
    /// A map without flags, inner map or types.
    pub fn new(kind: MapKind, key_size: u32, value_size: u32, max_entries: u32) -> MapSpec {
        MapSpec {
            kind,
            name: String::new(),
            key_size,
            value_size,
            max_entries,
            flags: 0,
            map_extra: 0,
            numa_node: 0,
            inner: None,
            fields: Vec::new(),
            frozen: None,
            btf_key: 0,
            btf_value: 0,
        }
    }

    /// Whether elements are allocated when the map is created.
    pub const fn is_preallocated(&self) -> bool {
        self.flags & flags::NO_PREALLOC == 0
    }

    /// Whether a lookup with a constant key below `max_entries` always finds a value. Not in arrays whose inner maps
    /// may be smaller than the template.
    pub const fn finds_constant_keys(&self) -> bool {
        matches!(self.kind, MapKind::Array | MapKind::PercpuArray) && self.flags & flags::INNER_MAP == 0
    }

    /// Whether programs may write values.
    pub const fn prog_writes(&self) -> bool {
        self.flags & flags::RDONLY_PROG == 0
    }

    /// Whether programs may read values.
    pub const fn prog_reads(&self) -> bool {
        self.flags & flags::WRONLY_PROG == 0
    }

    /// The special field of this kind, where there is one.
    pub fn field(&self, is: impl Fn(SpecialKind) -> bool) -> Option<SpecialField> {
        self.fields.iter().copied().find(|field| is(field.kind))
    }
}
