//! Where nodes come from and go to: the one difference between the allocation modes.

use std::sync::atomic::{AtomicU32, Ordering};

use rtbpf_abi::Errno;
use rtbpf_rt::freelist::FreeLists;
use rtbpf_rt::{Lock, RawLock, RunCx, ZeroIsValid};

use crate::hash::table::{Bucket, Stripe, Table};
use crate::map::MapError;

/// Levels that can interrupt one another on a slot.
const LEVELS: u32 = 4;

/// An allocation mode.
pub(crate) trait Pool: Send + Sync {
    /// The bucket lock that goes with it.
    type Lock: Lock;

    /// What an update has of the pool while it goes on; by default nothing.
    type Hold<'a>: Default
    where
        Self: 'a;

    /// Begins an update, before its bucket is locked.
    fn begin<'a>(&'a self, cx: &RunCx, table: &Table<Self::Lock>) -> Result<Self::Hold<'a>, MapError>;

    /// A node for a new key. Under the bucket lock.
    fn take(&self, cx: &RunCx, table: &Table<Self::Lock>, hold: &mut Self::Hold<'_>) -> Result<u32, MapError>;

    /// A node in place of `old`, which is about to leave its bucket. Under the bucket lock.
    fn swap(&self, bucket: &Bucket<'_, Self::Lock>, hold: &mut Self::Hold<'_>, old: u32) -> u32;

    /// Ends an update, after the bucket lock.
    fn end(&self, cx: &RunCx, table: &Table<Self::Lock>, hold: Self::Hold<'_>);

    /// Takes back a node that left the table for good, or was taken and never entered it.
    fn give_back(&self, cx: &RunCx, table: &Table<Self::Lock>, node: u32);

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
}

impl Prealloc {
    pub(crate) fn new(entries: u32, slots: u32) -> Prealloc {
        Prealloc { free: FreeLists::new(slots), fresh: AtomicU32::new(0), entries }
    }
}

impl Pool for Prealloc {
    type Lock = RawLock;
    type Hold<'a> = ();

    #[inline(always)]
    fn begin(&self, _: &RunCx, _: &Table<RawLock>) -> Result<(), MapError> {
        Ok(())
    }

    #[inline]
    fn take(&self, cx: &RunCx, table: &Table<RawLock>, (): &mut ()) -> Result<u32, MapError> {
        let own = self.free.pop_own(table, cx.slot).or_else(|| bump(&self.fresh, self.entries));
        // The other slots' lists.
        own.or_else(|| self.free.pop(table, cx.slot)).ok_or(Errno::E2BIG.into())
    }

    #[inline(always)]
    fn swap(&self, bucket: &Bucket<'_, RawLock>, (): &mut (), old: u32) -> u32 {
        bucket.swap_spare(old)
    }

    #[inline(always)]
    fn end(&self, _: &RunCx, _: &Table<RawLock>, (): ()) {}

    #[inline]
    fn give_back(&self, cx: &RunCx, table: &Table<RawLock>, node: u32) {
        self.free.push(table, cx.slot, node);
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
    nodes: u32,
    lock: std::marker::PhantomData<L>,
}

impl<L: Lock> Dynamic<L> {
    /// Nodes that a map of `entries` keys may use: one that is given back is counted out before it is free again.
    pub(crate) fn nodes(entries: u32, slots: u32) -> Option<u32> {
        entries.checked_add(slots.checked_mul(LEVELS)?)
    }

    pub(crate) fn new(max_entries: u32, nodes: u32, slots: u32) -> Dynamic<L> {
        Dynamic {
            free: FreeLists::new(slots),
            used: AtomicU32::new(0),
            count: AtomicU32::new(0),
            max_entries,
            nodes,
            lock: std::marker::PhantomData,
        }
    }
}

impl<L: Lock> Pool for Dynamic<L>
where
    Stripe<L>: ZeroIsValid,
{
    type Lock = L;
    type Hold<'a>
        = ()
    where
        L: 'a;

    #[inline(always)]
    fn begin(&self, _: &RunCx, _: &Table<L>) -> Result<(), MapError> {
        Ok(())
    }

    fn take(&self, cx: &RunCx, table: &Table<L>, (): &mut ()) -> Result<u32, MapError> {
        let room = |count: u32| (count < self.max_entries).then_some(count + 1);
        if self.count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).is_err() {
            return Err(Errno::E2BIG.into());
        }
        self.free.pop(table, cx.slot).or_else(|| bump(&self.used, self.nodes)).ok_or_else(|| {
            self.count.fetch_sub(1, Ordering::Relaxed);
            Errno::ENOMEM.into()
        })
    }

    #[inline(always)]
    fn swap(&self, bucket: &Bucket<'_, L>, (): &mut (), old: u32) -> u32 {
        bucket.swap_spare(old)
    }

    #[inline(always)]
    fn end(&self, _: &RunCx, _: &Table<L>, (): ()) {}

    fn give_back(&self, cx: &RunCx, table: &Table<L>, node: u32) {
        self.count.fetch_sub(1, Ordering::Relaxed);
        self.free.push(table, cx.slot, node);
    }
}
