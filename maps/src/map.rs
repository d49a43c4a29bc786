//! The door to every map.

use std::any::Any;
use std::ptr::NonNull;
use std::sync::Arc;

use rtbpf_abi::{Errno, MapSpec};
use rtbpf_rt::RunCx;

/// A key: bytes the caller owns and nobody else writes (a helper copies a program's key first).
pub type KeyRef<'a> = &'a [u8];

/// Address of a value. Covers `value_size` bytes rounded up to 8, and stays valid until the map drops; the bytes may
/// change under the reader, so no reference is ever made to them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ValuePtr(pub NonNull<u8>);

impl ValuePtr {
    /// The address as a program sees it.
    pub fn addr(self) -> u64 {
        self.0.as_ptr() as u64
    }
}

/// Readable bytes that a program or another CPU may write meanwhile: address and length.
#[derive(Clone, Copy, Debug)]
pub struct ProgBytes {
    ptr: *const u8,
    len: usize,
}

impl ProgBytes {
    /// # Safety
    ///
    /// `ptr` must be readable for `len` bytes for as long as the value is used.
    pub const unsafe fn new(ptr: *const u8, len: usize) -> ProgBytes {
        ProgBytes { ptr, len }
    }

    /// Where they begin.
    pub const fn as_ptr(&self) -> *const u8 {
        self.ptr
    }

    /// How many.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl<'a> From<&'a [u8]> for ProgBytes {
    fn from(bytes: &'a [u8]) -> ProgBytes {
        // A control-plane caller's own bytes; the borrow ends after the call that takes them.
        ProgBytes { ptr: bytes.as_ptr(), len: bytes.len() }
    }
}

/// Why a map operation failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MapError {
    /// Linux's answer.
    #[error("{0}")]
    Errno(Errno),
    /// This kind has no such operation in this build.
    #[error("operation not offered by this build")]
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

/// Flags of an update (`BPF_ANY`, `BPF_NOEXIST`, `BPF_EXIST`, `BPF_F_LOCK`), as the caller gave them.
pub type UpdateFlags = u64;

/// A map. Every kind implements the operations it has; the rest answer as Linux does for that kind.
///
/// `cx` says on which slot and level the caller runs, and whether it is a program or the control plane: per-CPU kinds
/// read and write the caller's slot for programs, and all slots for the control plane.
pub trait Map: Send + Sync {
    /// The attributes it was created with.
    fn spec(&self) -> &MapSpec;

    /// A number unique in the process (`bpf_map_info.id`).
    fn id(&self) -> u32;

    /// The value under `key`, in place. For per-CPU kinds the caller's slot's. `None` when absent.
    ///
    /// Semantics: `bpf_map_lookup_elem`, bpf-helpers(7).
    fn lookup(&self, cx: &RunCx, key: KeyRef<'_>) -> Option<ValuePtr>;

    /// `slot`'s value under `key` (`bpf_map_lookup_percpu_elem`). `None` when absent or `slot` is out of range.
    fn lookup_percpu(&self, cx: &RunCx, key: KeyRef<'_>, slot: u32) -> Option<ValuePtr> {
        let _ = (cx, key, slot);
        None
    }

    /// Stores `value` under `key`. `value` has `value_size` bytes for programs; for the control plane of per-CPU kinds,
    /// `value_size` rounded up to 8 for each slot.
    fn update(&self, cx: &RunCx, key: KeyRef<'_>, value: ProgBytes, flags: UpdateFlags) -> Result<(), MapError>;

    /// Removes `key`.
    fn delete(&self, cx: &RunCx, key: KeyRef<'_>) -> Result<(), MapError>;

    /// Writes the key after `key` (the first for `None`) to `out`; ENOENT after the last.
    fn next_key(&self, cx: &RunCx, key: Option<KeyRef<'_>>, out: &mut Vec<u8>) -> Result<(), MapError>;

    /// Reads the value under `key` into `out`, as the control plane sees it: `value_size` bytes, or all slots' values
    /// rounded up to 8 each; an id for maps of maps and programs.
    fn read(&self, cx: &RunCx, key: KeyRef<'_>, out: &mut Vec<u8>) -> Result<(), MapError>;

    /// Adds an element (`bpf_map_push_elem`).
    fn push(&self, cx: &RunCx, value: ProgBytes, flags: UpdateFlags) -> Result<(), MapError> {
        let _ = (cx, value, flags);
        Err(MapError::Unsupported)
    }

    /// Removes an element into `out`, `value_size` writable bytes (`bpf_map_pop_elem`).
    ///
    /// # Safety
    ///
    /// `out` must be writable for `value_size` bytes.
    unsafe fn pop(&self, cx: &RunCx, out: *mut u8) -> Result<(), MapError> {
        let _ = (cx, out);
        Err(MapError::Unsupported)
    }

    /// Copies the next element without removing it (`bpf_map_peek_elem`; bloom filter: tests membership of `out`).
    ///
    /// # Safety
    ///
    /// `out` must be readable and writable for `value_size` bytes.
    unsafe fn peek(&self, cx: &RunCx, out: *mut u8) -> Result<(), MapError> {
        let _ = (cx, out);
        Err(MapError::Unsupported)
    }

    /// The kind's own type, for operations only it has (ring buffers, prog arrays, stack traces).
    fn as_any(&self) -> &dyn Any;
}

/// A map as programs and hosts share it.
pub type MapRef = Arc<dyn Map>;
