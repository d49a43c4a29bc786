//! Free elements: one stack per slot, without locks.
//!
//! A head packs the index of the newest free element with a count of pushes and pops; the count makes a
//! compare-exchange fail when the same element came back in between (the ABA case). Elements are type-stable, so reading
//! the link of one that was just taken is harmless. A handler that interrupts a pop sees a consistent stack and the
//! interrupted compare-exchange fails and tries again: no level ever waits.

use crate::lock::prim::{AtomicU32, AtomicU64, Ordering, point};

/// No element.
pub const NONE: u32 = u32::MAX;

/// Where the link of a free element is kept.
pub trait Links {
    /// The link word of element `index`.
    fn link(&self, index: u32) -> &AtomicU32;
}

/// A stack's head, on a cache line of its own.
#[repr(align(64))]
struct Head(AtomicU64);

fn pack(index: u32, turn: u64) -> u64 {
    turn << 32 | u64::from(index)
}

/// A stack of free elements for each slot.
pub struct FreeLists {
    heads: Box<[Head]>,
}

impl FreeLists {
    /// Empty stacks, one a slot.
    pub fn new(slots: u32) -> FreeLists {
        FreeLists { heads: (0..slots.max(1)).map(|_| Head(AtomicU64::new(pack(NONE, 0)))).collect() }
    }

    /// The stack of `slot`. A division only for slots that there were none of when the stacks were made.
    #[inline]
    fn own(&self, slot: u32) -> usize {
        let (slot, stacks) = (slot as usize, self.heads.len());
        if slot < stacks { slot } else { slot % stacks }
    }

    /// Puts `index` on top of `slot`'s stack.
    #[inline]
    pub fn push(&self, links: &impl Links, slot: u32, index: u32) {
        let head = &self.heads[self.own(slot)].0;
        let mut old = head.load(Ordering::Relaxed);
        loop {
            links.link(index).store(old as u32, Ordering::Relaxed);
            point();
            // Release: pairs with the acquire in `pop_from`, so that who takes the element sees its link.
            match head.compare_exchange_weak(
                old,
                pack(index, (old >> 32).wrapping_add(1)),
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => return,
                Err(seen) => old = seen,
            }
        }
    }

    /// Takes the top of `slot`'s stack, or of the next slot's that has one.
    #[inline]
    pub fn pop(&self, links: &impl Links, slot: u32) -> Option<u32> {
        let (own, slots) = (self.own(slot), self.heads.len());
        self.pop_from(links, own).or_else(|| (1..slots).find_map(|away| self.pop_from(links, (own + away) % slots)))
    }

    /// Takes the top of `slot`'s own stack.
    #[inline]
    pub fn pop_own(&self, links: &impl Links, slot: u32) -> Option<u32> {
        self.pop_from(links, self.own(slot))
    }

    #[inline]
    fn pop_from(&self, links: &impl Links, slot: usize) -> Option<u32> {
        let head = &self.heads[slot].0;
        let mut old = head.load(Ordering::Acquire);
        loop {
            let index = old as u32;
            if index == NONE {
                return None;
            }
            point();
            let next = links.link(index).load(Ordering::Relaxed);
            point();
            match head.compare_exchange_weak(
                old,
                pack(next, (old >> 32).wrapping_add(1)),
                Ordering::Acquire,
                Ordering::Acquire,
            ) {
                Ok(_) => return Some(index),
                Err(seen) => old = seen,
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    struct Array(Vec<AtomicU32>);

    impl Links for Array {
        fn link(&self, index: u32) -> &AtomicU32 {
            &self.0[index as usize]
        }
    }

    fn array(count: u32) -> Array {
        Array((0..count).map(|_| AtomicU32::new(0)).collect())
    }

    #[test]
    fn a_slot_takes_back_what_it_gave_last_and_then_its_neighbours() {
        let (lists, links) = (FreeLists::new(2), array(3));
        for (slot, index) in [(0, 0), (0, 1), (1, 2)] {
            lists.push(&links, slot, index);
        }
        let taken: Vec<_> = (0..4).map(|_| lists.pop(&links, 0)).collect();
        assert_eq!(taken, [Some(1), Some(0), Some(2), None]);
    }

    #[test]
    fn no_element_is_lost_or_given_twice_under_contention() {
        let (lists, links) = (FreeLists::new(2), array(64));
        let out: Vec<AtomicU32> = (0..64).map(|_| AtomicU32::new(0)).collect();
        (0..64).for_each(|i| lists.push(&links, i % 2, i));
        std::thread::scope(|scope| {
            for slot in 0..4 {
                let (lists, links, out) = (&lists, &links, &out);
                scope.spawn(move || {
                    for _ in 0..20_000 {
                        if let Some(index) = lists.pop(links, slot % 2) {
                            assert_eq!(out[index as usize].swap(1, Ordering::Relaxed), 0, "given twice");
                            out[index as usize].store(0, Ordering::Relaxed);
                            lists.push(links, slot % 2, index);
                        }
                    }
                });
            }
        });
        assert_eq!(std::iter::from_fn(|| lists.pop(&links, 0)).count(), 64);
    }
}
