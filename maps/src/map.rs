//! The door to every map.

use std::any::Any;
use std::ops::Range;
use std::sync::Arc;

use rtbpf_abi::{Errno, MapSpec};
use rtbpf_rt::RunCx;

use crate::access::{KeyRef, ProgBytes, ProgOut, ValuePtr};
use crate::head::Head;
use crate::object::Object;
use crate::ringbuf::Ringbuf;

/// Why a map operation failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MapError {
    /// Linux's answer.
    #[error("{0}")]
    Errno(Errno),
    /// This kind has no such operation.
    #[error("operation not offered by this kind of map")]
    Unsupported,
}

impl MapError {
    /// The number a helper returns, positive.
    pub fn errno(self) -> Errno {
        match self {
            MapError::Errno(errno) => errno,
            MapError::Unsupported => Errno::ENOTSUPP,
        }
    }
}

impl From<Errno> for MapError {
    fn from(errno: Errno) -> MapError {
        MapError::Errno(errno)
    }
}

impl From<rtbpf_rt::LockError> for MapError {
    fn from(error: rtbpf_rt::LockError) -> MapError {
        MapError::Errno(match error {
            rtbpf_rt::LockError::Deadlock => Errno::EDEADLK,
            rtbpf_rt::LockError::TimedOut => Errno::ETIMEDOUT,
            // Linux 6.18 has one number for every lock it could not wait for.
            rtbpf_rt::LockError::Busy => Errno::ETIMEDOUT,
            _ => Errno::EBUSY,
        })
    }
}

/// Flags of an update ([`update`]), as the caller gave them.
pub type UpdateFlags = u64;

/// The bits of [`UpdateFlags`] (bpf(2)).
pub mod update {
    /// Create or replace.
    pub const ANY: u64 = 0;
    /// Create only.
    pub const NOEXIST: u64 = 1;
    /// Replace only.
    pub const EXIST: u64 = 2;
    /// Under the value's spin lock.
    pub const F_LOCK: u64 = 4;
}

/// What `for_each` does after an element.
pub type Visit<'a> = dyn FnMut(KeyRef<'_>, ValuePtr) -> bool + 'a;

/// Where native code finds values without a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Layout {
    /// Only through [`Map::lookup`].
    Opaque,
    /// Value `i` lies at `base + i * stride`, for `i < entries`.
    Array {
        /// Address of value 0.
        base: u64,
        /// Bytes between values.
        stride: u64,
        /// Number of values.
        entries: u32,
    },
    /// Value `i` of slot `s` lies at `base + s * slot_bytes + i * stride`.
    PercpuArray {
        /// Address of value 0 of slot 0.
        base: u64,
        /// Bytes between values.
        stride: u64,
        /// Bytes between slots.
        slot_bytes: u64,
        /// Number of values.
        entries: u32,
    },
}

/// A map. Every kind implements the operations it has; the rest answer as Linux does for that kind.
///
/// `cx` says on which slot and level the caller runs, and whether it is a program or the control plane: per-CPU kinds
/// read and write the caller's slot for programs, and all slots for the control plane.
///
/// These are the operations of the kinds. What `bpf(2)` checks before it reaches them (rights, frozen maps, missing
/// keys) is in `control`.
pub trait Map: Send + Sync {
    /// Identity, attributes and state that every kind has.
    fn head(&self) -> &Head;

    /// The attributes it was created with.
    #[inline]
    fn spec(&self) -> &MapSpec {
        self.head().spec()
    }

    /// A number unique in the process (`bpf_map_info.id`).
    #[inline]
    fn id(&self) -> u32 {
        self.head().id()
    }

    /// The value under `key`, in place. For per-CPU kinds the caller's slot's; for maps of maps the address of the
    /// inner map's [`Head`]. `None` when absent.
    ///
    /// Semantics: `bpf_map_lookup_elem`, bpf-helpers(7).
    fn lookup(&self, cx: &RunCx, key: KeyRef<'_>) -> Option<ValuePtr>;

    /// [`Map::lookup`] of a key of 4 bytes, given as the number that they are in memory.
    fn lookup_u32(&self, cx: &RunCx, key: u32) -> Option<ValuePtr> {
        self.lookup(cx, &key.to_ne_bytes())
    }

    /// [`Map::lookup`] of a key of 8 bytes, given as the number that they are in memory.
    fn lookup_u64(&self, cx: &RunCx, key: u64) -> Option<ValuePtr> {
        self.lookup(cx, &key.to_ne_bytes())
    }

    /// The ring buffer that this is.
    fn ring(&self) -> Option<&Ringbuf> {
        None
    }

    /// The same, to be held.
    fn into_ring(self: Arc<Self>) -> Option<Arc<Ringbuf>> {
        None
    }

    /// `slot`'s value under `key` (`bpf_map_lookup_percpu_elem`). `None` when absent or `slot` is out of range.
    fn lookup_percpu(&self, cx: &RunCx, key: KeyRef<'_>, slot: u32) -> Option<ValuePtr> {
        let _ = (cx, key, slot);
        None
    }

    /// The map stored under `key`, for maps of maps.
    fn inner(&self, cx: &RunCx, key: KeyRef<'_>) -> Option<MapRef> {
        let _ = (cx, key);
        None
    }

    /// Stores `value` under `key`. `value` has `value_size` bytes for programs; for the control plane of per-CPU kinds,
    /// `value_size` rounded up to 8 for each slot.
    fn update(&self, cx: &RunCx, key: KeyRef<'_>, value: ProgBytes<'_>, flags: UpdateFlags) -> Result<(), MapError>;

    /// Stores what a file descriptor stands for under `key`, for kinds whose values are objects. Those whose values are
    /// plain bytes answer EINVAL.
    fn update_object(&self, cx: &RunCx, key: KeyRef<'_>, object: &Object, flags: UpdateFlags) -> Result<(), MapError> {
        let _ = (cx, key, object, flags);
        Err(Errno::EINVAL.into())
    }

    /// The key under which `owner`'s value is stored, for kinds keyed by owner (task, socket, inode, cgroup storage).
    fn owner_key(&self, owner: &Object) -> Result<[u8; 8], MapError> {
        let _ = owner;
        Err(MapError::Unsupported)
    }

    /// Removes `key`.
    fn delete(&self, cx: &RunCx, key: KeyRef<'_>) -> Result<(), MapError>;

    /// Writes the key after `key` (the first for `None`) to `out`; ENOENT after the last.
    fn next_key(&self, cx: &RunCx, key: Option<KeyRef<'_>>, out: &mut Vec<u8>) -> Result<(), MapError>;

    /// Reads the value under `key` into `out`, as the control plane sees it: `value_size` bytes, or all slots' values
    /// rounded up to 8 each; an id for maps of maps and programs. Lock words and timers read as zero.
    /// `flags`: 0 or [`update::F_LOCK`].
    fn read(&self, cx: &RunCx, key: KeyRef<'_>, flags: u64, out: &mut Vec<u8>) -> Result<(), MapError>;

    /// Reads and removes (`BPF_MAP_LOOKUP_AND_DELETE_ELEM`).
    fn take(&self, cx: &RunCx, key: KeyRef<'_>, flags: u64, out: &mut Vec<u8>) -> Result<(), MapError> {
        let _ = (cx, key, flags, out);
        Err(MapError::Unsupported)
    }

    /// Adds an element (`bpf_map_push_elem`).
    fn push(&self, cx: &RunCx, value: ProgBytes<'_>, flags: UpdateFlags) -> Result<(), MapError> {
        let _ = (cx, value, flags);
        Err(MapError::Unsupported)
    }

    /// Removes an element into `out`, `value_size` bytes (`bpf_map_pop_elem`). On an empty map `out` is zeroed.
    fn pop(&self, cx: &RunCx, out: ProgOut<'_>) -> Result<(), MapError> {
        let _ = (cx, out);
        Err(MapError::Unsupported)
    }

    /// Copies the next element without removing it (`bpf_map_peek_elem`; bloom filter: tests membership of `out`).
    fn peek(&self, cx: &RunCx, out: ProgOut<'_>) -> Result<(), MapError> {
        let _ = (cx, out);
        Err(MapError::Unsupported)
    }

    /// Shows every element to `visit` until it returns `false`; answers how many were shown
    /// (`bpf_for_each_map_elem`). No lock is held during a visit.
    fn for_each(&self, cx: &RunCx, visit: &mut Visit<'_>) -> Result<u64, MapError> {
        let _ = (cx, visit);
        Err(MapError::Unsupported)
    }

    /// The key of the element whose value is at this address, while it is in the map; `None` for kinds whose values hold
    /// no timers.
    fn key_of(&self, value: u64) -> Option<Vec<u8>> {
        let _ = value;
        None
    }

    /// Where native code finds values.
    fn layout(&self) -> Layout {
        Layout::Opaque
    }

    /// The addresses at which values may lie: what an engine that checks accesses lets programs touch.
    fn memory(&self) -> Vec<Range<u64>> {
        Vec::new()
    }

    /// Batches by bucket, for kinds that have them.
    fn buckets(&self) -> Option<&dyn crate::batch::Buckets> {
        None
    }

    /// The kind's own type, for operations only it has (ring buffers, prog arrays, stack traces).
    fn as_any(&self) -> &dyn Any;
}

/// A map as programs and hosts share it.
pub type MapRef = Arc<dyn Map>;
