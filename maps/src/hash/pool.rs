//! Where nodes come from and go to.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicU32, Ordering};

use rtbpf_abi::Errno;
use rtbpf_rt::freelist::FreeLists;
use rtbpf_rt::{Lock, RunCx, ZeroIsValid};

use crate::hash::table::{Bucket, Place, Table};
use crate::map::MapError;

/// A way to have nodes.
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

/// As many nodes as the map may have keys, so that nobody counts those: what all writers count, all CPUs wait for. Nodes that
/// are free are listed, those that a slot gave back by that slot.
pub(crate) struct Listed<L> {
    free: FreeLists,
    /// Nodes from here on were never used; they need not be listed one by one.
    fresh: AtomicU32,
    entries: u32,
    /// Whether the memory of a node comes when it is first used: then what other slots gave back is used before.
    is_dynamic: bool,
    lock: PhantomData<L>,
}

impl<L> Listed<L> {
    pub(crate) fn new(entries: u32, slots: u32, is_dynamic: bool) -> Listed<L> {
        Listed { free: FreeLists::new(slots), fresh: AtomicU32::new(0), entries, is_dynamic, lock: PhantomData }
    }
}

impl<L: Lock> Pool for Listed<L>
where
    Place<L>: ZeroIsValid,
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

    #[inline]
    fn take(&self, cx: &RunCx, table: &Table<L>, (): &mut ()) -> Result<u32, MapError> {
        let own = self.free.pop_own(table, cx.slot);
        let listed = || self.free.pop(table, cx.slot);
        let fresh = || bump(&self.fresh, self.entries);
        let other = || if self.is_dynamic { listed().or_else(fresh) } else { fresh().or_else(listed) };
        own.or_else(other).ok_or(Errno::E2BIG.into())
    }

    #[inline(always)]
    fn swap(&self, bucket: &Bucket<'_, L>, (): &mut (), old: u32) -> u32 {
        bucket.swap_spare(old)
    }

    #[inline(always)]
    fn end(&self, _: &RunCx, _: &Table<L>, (): ()) {}

    #[inline]
    fn give_back(&self, cx: &RunCx, table: &Table<L>, node: u32) {
        self.free.push(table, cx.slot, node);
    }
}

#[cfg(test)]
mod tests {
    use rtbpf_rt::RawLock;

    use super::*;
    use crate::hash::Size;
    use crate::slab::Pages;

    #[test]
    fn a_slot_takes_what_others_gave_back_before_it_touches_new_memory_and_no_more_than_there_is() {
        let check = |is_dynamic: bool, expected: [Option<u32>; 4]| {
            let size = Size { entries: 3, slots: 1, spares: false, key: 4, value: 8 };
            let table = Table::<RawLock>::new(size, 1, Pages::Now).expect("there is memory");
            let pool = Listed::<RawLock>::new(3, 2, is_dynamic);
            let take = |slot| pool.take(&RunCx::program(slot), &table, &mut ()).ok();
            let node = take(1).expect("there are three");
            pool.give_back(&RunCx::program(1), &table, node);
            assert_eq!([(); 4].map(|()| take(0)), expected, "dynamic: {is_dynamic}");
        };
        check(true, [Some(0), Some(1), Some(2), None]);
        check(false, [Some(1), Some(2), Some(0), None]);
    }
}
