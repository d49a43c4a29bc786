//! Tables that lookups begin with: 8 bits at a time for as long as the trie is dense, in place of a node a bit.
//!
//! A table stands for the bits that lead to it, and has an entry for each value of the next 8:
//!
//! ```text
//! found  the last node with a value whose prefix ends among these 8 bits
//! next   the first node whose prefix holds all of them, or the table of the bits after them
//! ```
//!
//! A node's prefix ends in one table at most, so a change of the trie changes entries of one table. Tables are written
//! under the trie's lock, each before anything leads to it, and stay.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use rtbpf_rt::lock::prim::point;

use crate::hash::bump;
use crate::map::MapError;
use crate::slab::{Pages, ZeroedArray};

/// Bits that a table stands for.
pub(super) const BITS: u32 = 8;
/// Entries of a table.
pub(super) const FAN: usize = 1 << BITS;
/// Keys under one table at least, when it is made: fewer are found as fast by walking.
pub(super) const DENSE: u32 = if cfg!(shuttle) { 2 } else { 8 };
/// Tables at most: 128 MiB.
const MOST: u32 = 1 << 16;

/// Link of a table.
const TABLE: u32 = 1 << 31;

/// An entry. Links are 0 where there is nothing; those of nodes are index + 1.
#[derive(Clone, Copy)]
pub(super) struct Entry {
    /// Link of a node.
    pub found: u32,
    /// Link of a node, or of a table.
    pub next: u32,
}

impl Entry {
    /// The table that follows.
    #[inline(always)]
    pub(super) fn table(self) -> Option<usize> {
        (self.next & TABLE != 0).then_some((self.next & !TABLE) as usize)
    }
}

/// See the module's head.
pub(super) struct Jumps {
    entries: ZeroedArray<AtomicU64>,
    /// Tables in use; the first one begins every lookup.
    used: AtomicU32,
    most: u32,
}

impl Jumps {
    /// Tables for a trie of so many keys: each of them but the first holds as many as make a trie dense.
    pub(super) fn new(keys: u32) -> Result<Jumps, MapError> {
        let most = 1 + (keys / DENSE).min(MOST - 1);
        let entries = ZeroedArray::new(most as usize * FAN, Pages::OnTouch)?;
        Ok(Jumps { entries, used: AtomicU32::new(1), most })
    }

    #[inline(always)]
    pub(super) fn get(&self, table: usize, byte: u8) -> Entry {
        point();
        // Acquire: pairs with the release in `set`; nodes and tables are seen as they were when they were linked.
        let word = self.entries.get(table * FAN + usize::from(byte)).load(Ordering::Acquire);
        Entry { found: (word >> 32) as u32, next: word as u32 }
    }

    pub(super) fn set(&self, table: usize, byte: u8, entry: Entry) {
        let word = u64::from(entry.found) << 32 | u64::from(entry.next);
        self.entries.get(table * FAN + usize::from(byte)).store(word, Ordering::Release);
    }

    /// A table that nothing leads to, and its link; `None` when all are in use.
    pub(super) fn take(&self) -> Option<(usize, u32)> {
        bump(&self.used, self.most).map(|table| (table as usize, table | TABLE))
    }

    #[cfg(test)]
    pub(super) fn in_use(&self) -> u32 {
        self.used.load(Ordering::Relaxed)
    }
}
