//! Where nodes come from: the allocation mode, and with it the lock.
//!
//! | mode | nodes | bucket lock |
//! |---|---|---|
//! | [`Prealloc`] | all of them exist, in free lists per slot; spares for overwriting a full map | raw |
//! | [`Dynamic`] with `PiMutex` | come when they are used (strict real-time rules) | sleeping |
//! | [`Dynamic`] with `RawLock` | the same, for contexts that may not sleep (Linux since 6.1) | raw |
//! | [`crate::lru::Lru`] | all of them exist; the oldest are taken back when none is free | raw |

use std::sync::atomic::{AtomicU32, Ordering};

use rtbpf_abi::Errno;
use rtbpf_rt::freelist::{FreeLists, NONE};
use rtbpf_rt::{Lock, RawLock, RunCx, ZeroIsValid};

use crate::hash::table::{Bucket, Table};
use crate::map::MapError;
use crate::percpu::place_of;

/// Levels that can interrupt one another on a slot.
const LEVELS: u32 = 4;

/// An allocation mode.
pub(crate) trait Pool: Send + Sync {
    /// The bucket lock that goes with it.
    type Lock: Lock;

    /// A node taken before the bucket is locked, for pools that must; `None` for the others.
    fn take_early(&self, cx: &RunCx, table: &Table<Self::Lock>) -> Result<Option<u32>, MapError>;

    /// A node for a new key, or to replace a key's node (`overwrite`). Under the bucket lock.
    fn take(&self, cx: &RunCx, table: &Table<Self::Lock>, overwrite: bool) -> Result<u32, MapError>;

    /// Takes back a node that left the table, or never entered it. After the bucket lock.
    fn give_back(&self, cx: &RunCx, table: &Table<Self::Lock>, node: u32);

    /// Takes back a node that another one replaced. After the bucket lock.
    fn replaced(&self, cx: &RunCx, table: &Table<Self::Lock>, node: u32);

    /// Whether a node is taken before anything is known of the key.
    const EARLY: bool = false;

    /// Notes that a program used `node`.
    #[inline]
    fn touch(&self, node: u32) {
        let _ = node;
    }
}

/// The next number below `end`.
#[inline]
pub(crate) fn bump(next: &AtomicU32, end: u32) -> Option<u32> {
    if next.load(Ordering::Relaxed) >= end {
        return None;
    }
    next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| (next < end).then_some(next + 1)).ok()
}

/// All nodes exist from the start.
pub(crate) struct Prealloc {
    free: FreeLists,
    /// Nodes from here on were never used; they need not be listed one by one.
    fresh: AtomicU32,
    entries: u32,
    /// A node per slot and level that overwriting swaps with, so that a full map can still be written.
    spares: Box<[AtomicU32]>,
}

impl Prealloc {
    /// Nodes a map of `entries` keys needs.
    pub(crate) fn nodes(entries: u32, slots: u32) -> Option<u32> {
        entries.checked_add(slots.checked_mul(LEVELS)?)
    }

    pub(crate) fn new(entries: u32, slots: u32) -> Prealloc {
        let spares = (entries..entries + slots * LEVELS).map(AtomicU32::new).collect();
        Prealloc { free: FreeLists::new(slots), fresh: AtomicU32::new(0), entries, spares }
    }

    #[inline]
    fn free_node(&self, cx: &RunCx, table: &Table<RawLock>) -> Option<u32> {
        self.free.pop_own(table, cx.slot).or_else(|| bump(&self.fresh, self.entries)).or_else(|| {
            // The other slots' lists.
            self.free.pop(table, cx.slot)
        })
    }

    #[inline]
    fn spare(&self, cx: &RunCx) -> &AtomicU32 {
        let level = cx.level as usize;
        &self.spares[place_of(cx.slot, self.spares.len() / LEVELS as usize) * LEVELS as usize + level]
    }
}

impl Pool for Prealloc {
    type Lock = RawLock;

    fn take_early(&self, _: &RunCx, _: &Table<RawLock>) -> Result<Option<u32>, MapError> {
        Ok(None)
    }

    #[inline]
    fn take(&self, cx: &RunCx, table: &Table<RawLock>, overwrite: bool) -> Result<u32, MapError> {
        if overwrite {
            let node = self.spare(cx).swap(NONE, Ordering::Acquire);
            if node != NONE {
                return Ok(node);
            }
            // Another thread writes as this slot (the control plane has no lease): any other node will do.
            if let Some(node) = self.free_node(cx, table) {
                return Ok(node);
            }
            let other = self.spares.iter().map(|spare| spare.swap(NONE, Ordering::Acquire)).find(|node| *node != NONE);
            return other.ok_or(Errno::ENOMEM.into());
        }
        self.free_node(cx, table).ok_or(Errno::E2BIG.into())
    }

    #[inline]
    fn give_back(&self, cx: &RunCx, table: &Table<RawLock>, node: u32) {
        self.free.push(table, cx.slot, node);
    }

    #[inline]
    fn replaced(&self, cx: &RunCx, table: &Table<RawLock>, node: u32) {
        let own = self.spare(cx).compare_exchange(NONE, node, Ordering::Release, Ordering::Relaxed);
        if own.is_err() {
            // Ours is full: another writer's may be empty (it took a free node instead), else the node is free.
            self.free.push(table, cx.slot, node);
        }
    }
}

/// Nodes come into being when they are first used.
pub(crate) struct Dynamic<L> {
    free: FreeLists,
    /// Nodes of the slab that were ever used.
    used: AtomicU32,
    /// Keys in the map.
    count: AtomicU32,
    max_entries: u32,
    lock: std::marker::PhantomData<L>,
}

impl<L: Lock> Dynamic<L> {
    pub(crate) fn new(max_entries: u32, slots: u32) -> Dynamic<L> {
        Dynamic {
            free: FreeLists::new(slots),
            used: AtomicU32::new(0),
            count: AtomicU32::new(0),
            max_entries,
            lock: std::marker::PhantomData,
        }
    }
}

impl<L: Lock> Pool for Dynamic<L>
where
    Bucket<L>: ZeroIsValid,
{
    type Lock = L;

    fn take_early(&self, _: &RunCx, _: &Table<L>) -> Result<Option<u32>, MapError> {
        Ok(None)
    }

    fn take(&self, cx: &RunCx, table: &Table<L>, overwrite: bool) -> Result<u32, MapError> {
        if !overwrite {
            let room = |count: u32| (count < self.max_entries).then_some(count + 1);
            if self.count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).is_err() {
                return Err(Errno::E2BIG.into());
            }
        }
        if let Some(node) = self.free.pop(table, cx.slot) {
            return Ok(node);
        }
        bump(&self.used, table.nodes().count()).ok_or_else(|| {
            if !overwrite {
                self.count.fetch_sub(1, Ordering::Relaxed);
            }
            Errno::ENOMEM.into()
        })
    }

    fn give_back(&self, cx: &RunCx, table: &Table<L>, node: u32) {
        self.count.fetch_sub(1, Ordering::Relaxed);
        self.free.push(table, cx.slot, node);
    }

    fn replaced(&self, cx: &RunCx, table: &Table<L>, node: u32) {
        self.free.push(table, cx.slot, node);
    }
}
