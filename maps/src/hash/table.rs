//! Buckets and chains: the part that all hash maps share.
//!
//! Readers take no lock. A chain ends in a marker that names its bucket; a reader who was carried into another chain
//! (the node it stood on was freed and used again) sees the wrong marker at the end and starts over. So does one who finds
//! that nodes came to the chain meanwhile, for the key may be in one of them, or that one left it: what was found may be a node
//! that is being written for a key to come. New nodes go to the front.
//!
//! Writers hold the lock of the bucket's *stripe*: the buckets on one cache line have one, and it stands on that line, since
//! who locks a bucket goes on to its first link. With the lock comes a node that is in no chain, the stripe's spare: an element
//! is replaced by writing the spare and making the old node the next one, without a word to the lists of free nodes.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use rtbpf_abi::Errno;
use rtbpf_rt::freelist::Links;
use rtbpf_rt::lock::prim::point;
use rtbpf_rt::{Class, Guard, Lock, RawLock, RunCx, ZeroIsValid};

use crate::access::Cell;
use crate::hash::key::{Key, Secret, by_width};
use crate::map::MapError;
use crate::slab::{Headed, Pages, Words, ZeroedArray};

/// Ends a chain; the other bits are the bucket. A link of 0 is the marker of the bucket it stands in.
const END: u32 = 1 << 31;

/// The words of a node. Its key is behind them, then its value.
const NEXT: usize = 0;
const HASH: usize = 1;
const FREE: usize = 2;

/// Buckets on a cache line.
const LINE: u32 = 4;

/// Stripes that a table has at most where its slots are few, and for each slot where they are many. Large tables have a stripe
/// for many lines: spares are in the caches then, and where most lines are not, two CPUs seldom want one at once.
const STRIPES: u32 = 1024;
const SLOT_STRIPES: u32 = 64;

/// A bucket in memory.
#[repr(C)]
pub(crate) struct Place<L> {
    /// The link to the first node, index + 1 (low half), and how often a node came or left (high half).
    first: AtomicU64,
    /// In the first place of a stripe: protects the chains of its buckets, and `spare`. Taken under the LRU locks, before the
    /// value lock and nothing else. Its holder may sleep exactly if `L` sleeps.
    lock: L,
    /// In the first place of a stripe, where the table has spares: the one that it has, exclusive or the one that it had
    /// first. So fresh memory need not be written.
    spare: AtomicU32,
}

const _: () = assert!(size_of::<Place<RawLock>>() * LINE as usize == 64, "as many as are said to be on a line");

/// Whether no node came to a bucket or left it since its first word was read. A node that left may be written for another key,
/// which is not in the table yet.
#[inline(always)]
fn is_unchanged(bucket: &AtomicU64, first: u64) -> bool {
    // Acquire: pairs with the fence in `Bucket::enter`, so that who sees what a node is written for sees that it left.
    fence(Ordering::Acquire);
    point();
    bucket.load(Ordering::Relaxed) == first
}

/// The first word of a bucket after a change, with this link.
#[inline(always)]
fn changed(first: u64, link: u32) -> u64 {
    (first >> 32).wrapping_add(1) << 32 | u64::from(link)
}

/// How large a table is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    /// Keys, and nodes beside the spares.
    pub entries: u32,
    /// Slots that write at once.
    pub slots: u32,
    /// Whether each stripe has a spare: the last nodes.
    pub spares: bool,
    /// Bytes of a key.
    pub key: u32,
    /// Bytes of a value; 0 where values live elsewhere.
    pub value: u32,
}

impl Size {
    /// Stripes, a power of two.
    fn stripes(&self) -> u32 {
        let lines = (buckets(self.entries) / LINE).max(1);
        let most = self.slots.saturating_mul(SLOT_STRIPES).clamp(STRIPES, 1 << 16).next_power_of_two();
        lines.min(most)
    }

    /// All nodes.
    fn nodes(&self) -> Option<u32> {
        self.entries.checked_add(if self.spares { self.stripes() } else { 0 })
    }
}

/// Those of a table for more entries than it can have are as many as there can be.
fn buckets(entries: u32) -> u32 {
    entries.max(1).checked_next_power_of_two().unwrap_or(END)
}

pub(crate) struct Table<L> {
    places: ZeroedArray<Place<L>>,
    /// What of a bucket's number is the first place of its stripe.
    stripe_mask: u32,
    mask: u32,
    /// Spares are the nodes from here.
    entries: u32,
    secret: Secret,
    nodes: Headed,
    key_size: usize,
    value_at: usize,
    value_len: usize,
}

/// A bucket, as writers see it.
pub(crate) struct Bucket<'a, L> {
    table: &'a Table<L>,
    number: u32,
    first: &'a AtomicU64,
    /// The first place of its stripe.
    stripe: &'a Place<L>,
}

/// A node that a writer found, and what leads to it.
#[derive(Clone, Copy)]
pub(crate) struct Found<'a> {
    pub node: u32,
    words: Words<'a>,
    /// The node before it in its chain.
    before: Option<Words<'a>>,
}

/// What a look at the first node of a bucket tells.
pub(crate) enum Glance<'a> {
    /// The key's node and its body.
    Found(u32, Cell<'a>),
    Absent,
    Unclear,
}

impl<L> Links for Table<L> {
    #[inline]
    fn link(&self, node: u32) -> &AtomicU32 {
        self.nodes.words(node).at(FREE)
    }
}

impl<L: Lock> Table<L>
where
    Place<L>: ZeroIsValid,
{
    /// An empty table. It hashes as Linux does under `BPF_F_ZERO_SEED` where `seed` is 0.
    pub(crate) fn new(size: Size, seed: u32, pages: Pages) -> Result<Table<L>, MapError> {
        let value_at = (size.key as usize).next_multiple_of(8);
        let value_len = (size.value as usize).next_multiple_of(8);
        let nodes = size.nodes().filter(|nodes| *nodes <= END).ok_or(Errno::E2BIG)?;
        let buckets = buckets(size.entries);
        Ok(Table {
            nodes: Headed::new(nodes, value_at + value_len, pages)?,
            places: ZeroedArray::new(buckets as usize, pages)?,
            stripe_mask: (size.stripes() - 1) * LINE,
            mask: buckets - 1,
            entries: size.entries,
            secret: Secret::of(seed),
            key_size: size.key as usize,
            value_at,
            value_len,
        })
    }

    #[inline(always)]
    pub(crate) fn hash(&self, key: impl Key) -> u32 {
        key.hash(self.secret)
    }

    #[inline]
    pub(crate) fn bucket_of(&self, hash: u32) -> u32 {
        hash & self.mask
    }

    pub(crate) fn bucket_count(&self) -> u32 {
        self.places.len() as u32
    }

    /// The bucket of keys with this hash, for writers.
    #[inline(always)]
    pub(crate) fn bucket(&self, hash: u32) -> Bucket<'_, L> {
        let number = self.bucket_of(hash);
        let stripe = self.places.get((number & self.stripe_mask) as usize);
        Bucket { table: self, number, first: &self.places.get(number as usize).first, stripe }
    }

    #[inline]
    fn first(&self, bucket: u32) -> &AtomicU64 {
        point();
        &self.places.get(bucket as usize).first
    }

    /// The node that a link leads to, and its words; `None` at the end of a chain.
    #[inline]
    fn follow(&self, link: u32) -> Option<(u32, Words<'_>)> {
        // 0 and the ends are no nodes: there are at most `END` of those.
        let node = link.wrapping_sub(1);
        (node < self.nodes.count()).then(|| (node, self.nodes.words(node)))
    }

    /// The node with `key`, whose hash is `hash`. Takes no lock.
    #[inline]
    pub(crate) fn find(&self, key: impl Key, hash: u32) -> Option<u32> {
        self.find_with_body(key, hash).map(|(node, _)| node)
    }

    /// The same where the first node of its bucket tells: most keys are there, and an empty bucket holds none.
    #[inline(always)]
    pub(crate) fn find_first<K: Key>(&self, key: K, hash: u32) -> Glance<'_> {
        let bucket = self.first(self.bucket_of(hash));
        let first = bucket.load(Ordering::Acquire);
        let node = (first as u32).wrapping_sub(1);
        if node >= self.nodes.count() {
            return Glance::Absent;
        }
        let (words, body) = self.nodes.element(node);
        // A node may be written for another key meanwhile; keys of several words are told from a mixture by the hash.
        let may_be = K::WHOLE || words.at(HASH).load(Ordering::Relaxed) == hash;
        if may_be && key.is_in(body) && is_unchanged(bucket, first) {
            Glance::Found(node, body)
        } else {
            Glance::Unclear
        }
    }

    /// The same, with what is behind the node's words.
    #[inline(always)]
    pub(crate) fn find_with_body(&self, key: impl Key, hash: u32) -> Option<(u32, Cell<'_>)> {
        let bucket = self.bucket_of(hash);
        'again: loop {
            // Acquire: pairs with the release in `Bucket::enter`, so that a node is seen with its key.
            let first = self.first(bucket).load(Ordering::Acquire);
            let mut link = first as u32;
            while let Some((node, words)) = self.follow(link) {
                if words.at(HASH).load(Ordering::Relaxed) == hash {
                    let body = self.nodes.body(node);
                    if key.is_in(body) {
                        if is_unchanged(self.first(bucket), first) {
                            return Some((node, body));
                        }
                        continue 'again;
                    }
                }
                link = words.at(NEXT).load(Ordering::Acquire);
            }
            // In another chain's end; or a node that replaced the key's meanwhile stands in front of where we began.
            let ours = link == 0 || link == END | bucket;
            if ours && is_unchanged(self.first(bucket), first) {
                return None;
            }
        }
    }

    /// The same for a key of bytes.
    #[inline]
    pub(crate) fn find_bytes(&self, key: &[u8]) -> Option<u32> {
        by_width!(key, key => self.find(key, self.hash(key)))
    }

    /// The nodes of `bucket`, newest first, for a holder of its lock (or one who can live with a torn walk).
    pub(crate) fn chain(&self, bucket: u32) -> impl Iterator<Item = u32> + '_ {
        let mut link = self.first(bucket).load(Ordering::Acquire) as u32;
        // A torn walk could circle through recycled nodes; no chain is longer than all nodes.
        let mut left = self.nodes.count();
        std::iter::from_fn(move || {
            let (node, words) = self.follow(link)?;
            left = left.checked_sub(1)?;
            link = words.at(NEXT).load(Ordering::Acquire);
            Some(node)
        })
    }

    /// The first node in walk order at or after `bucket`.
    pub(crate) fn first_from(&self, bucket: u32) -> Option<u32> {
        (bucket..self.bucket_count()).find_map(|bucket| self.chain(bucket).next())
    }

    /// The node after `node` in walk order.
    pub(crate) fn after(&self, node: u32) -> Option<u32> {
        let bucket = self.bucket_of(self.node_hash(node));
        let link = self.nodes.words(node).at(NEXT).load(Ordering::Acquire);
        self.follow(link).map(|(node, _)| node).or_else(|| self.first_from(bucket.checked_add(1)?))
    }

    #[inline]
    pub(crate) fn node_hash(&self, node: u32) -> u32 {
        self.nodes.words(node).at(HASH).load(Ordering::Relaxed)
    }

    /// The key of `node`.
    pub(crate) fn key(&self, node: u32) -> Cell<'_> {
        self.nodes.body(node).part(0, self.key_size)
    }

    /// The value in the body of a node, rounded up to 8 bytes.
    #[inline]
    pub(crate) fn value_in<'a>(&self, body: Cell<'a>) -> Cell<'a> {
        body.part(self.value_at, self.value_len)
    }

    /// The value of `node`, rounded up to 8 bytes.
    #[inline]
    pub(crate) fn value(&self, node: u32) -> Cell<'_> {
        self.value_in(self.nodes.body(node))
    }

    /// The node whose value is at `address`.
    pub(crate) fn node_of(&self, address: u64) -> Option<u32> {
        let (node, off) = self.nodes.element_at(address)?;
        (off == self.value_at).then_some(node)
    }

    pub(crate) fn nodes(&self) -> &Headed {
        &self.nodes
    }
}

impl<'a, L: Lock> Bucket<'a, L>
where
    Place<L>: ZeroIsValid,
{
    /// Its lock, held. All else is for who has that.
    #[inline(always)]
    pub(crate) fn lock(&self, cx: &RunCx) -> Result<Guard<'a, L>, MapError> {
        Ok(self.stripe.lock.lock(cx, Class::Bucket)?)
    }

    /// Exchanges the spare for a node that it is about to replace.
    #[inline(always)]
    pub(crate) fn swap_spare(&self, old: u32) -> u32 {
        let spare = &self.stripe.spare;
        let had_first = self.table.entries + (self.number & self.table.stripe_mask) / LINE;
        let node = spare.load(Ordering::Relaxed) ^ had_first;
        spare.store(old ^ had_first, Ordering::Relaxed);
        node
    }

    /// The first node that `is` it.
    #[inline(always)]
    fn search(&self, is: impl Fn(u32, Words<'a>) -> bool) -> Option<Found<'a>> {
        point();
        let mut link = self.first.load(Ordering::Relaxed) as u32;
        let mut before = None;
        while let Some((node, words)) = self.table.follow(link) {
            if is(node, words) {
                return Some(Found { node, words, before });
            }
            link = words.at(NEXT).load(Ordering::Relaxed);
            before = Some(words);
        }
        None
    }

    /// The node with `key`.
    #[inline(always)]
    pub(crate) fn seek(&self, key: impl Key) -> Option<Found<'a>> {
        self.search(|node, _| key.is_in(self.table.nodes.body(node)))
    }

    /// Whether `node`, which is in no chain, has a key of this bucket.
    pub(crate) fn is_of(&self, node: u32) -> bool {
        self.table.bucket_of(self.table.node_hash(node)) == self.number
    }

    /// Writes the hash and key of a node that is in no chain, lets `write` have what is behind its words, and puts it at the
    /// front, in place of `old`.
    #[inline(always)]
    pub(crate) fn enter<E>(
        &self,
        node: u32,
        (key, hash): (impl Key, u32),
        old: Option<Found<'_>>,
        write: impl FnOnce(Cell<'a>) -> Result<(), E>,
    ) -> Result<(), E> {
        let (words, body) = self.table.nodes.element(node);
        // Release: see `is_unchanged`.
        fence(Ordering::Release);
        words.at(HASH).store(hash, Ordering::Relaxed);
        key.put(body);
        write(body)?;
        point();
        let first = self.first.load(Ordering::Relaxed);
        let after = |old: Found<'_>| old.words.at(NEXT).load(Ordering::Relaxed);
        let next = match (first as u32, old) {
            (0, _) => END | self.number,
            (_, Some(old)) if old.before.is_none() => after(old),
            (next, _) => next,
        };
        words.at(NEXT).store(next, Ordering::Relaxed);
        point();
        // Release: pairs with the acquire loads of readers.
        self.first.store(changed(first, node + 1), Ordering::Release);
        if let Some(old) = old
            && let Some(before) = old.before
        {
            before.at(NEXT).store(after(old), Ordering::Release);
        }
        Ok(())
    }

    /// Takes a node out. It keeps its own link, so that readers who stand on it go on.
    #[inline]
    pub(crate) fn unlink(&self, found: Found<'_>) {
        let next = found.words.at(NEXT).load(Ordering::Relaxed);
        if let Some(before) = found.before {
            before.at(NEXT).store(next, Ordering::Release);
        }
        point();
        let first = self.first.load(Ordering::Relaxed);
        let link = if found.before.is_some() { first as u32 } else { next };
        self.first.store(changed(first, link), Ordering::Release);
    }

    /// Takes `node` out; `false` when it is not here.
    pub(crate) fn unlink_node(&self, node: u32) -> bool {
        self.search(|at, _| at == node).is_some_and(|found| {
            self.unlink(found);
            true
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stripe_has_a_spare_of_its_own() {
        let check = |entries: u32, slots: u32, count: u32| {
            let size = Size { entries, slots, spares: true, key: 4, value: 8 };
            let table = Table::<RawLock>::new(size, 1, Pages::OnTouch).expect("there is memory");
            let buckets = (0..table.bucket_count()).map(|number| table.bucket(number));
            let mut spares: Vec<u32> = buckets
                .filter(|bucket| bucket.number & table.stripe_mask == bucket.number)
                .map(|bucket| {
                    let spare = bucket.swap_spare(0);
                    assert_eq!(bucket.swap_spare(spare), 0, "what it was given");
                    spare
                })
                .collect();
            spares.sort_unstable();
            assert_eq!(spares, (entries..entries + count).collect::<Vec<_>>(), "{entries} keys, {slots} slots");
            assert_eq!(table.nodes().count(), entries + count);
        };
        check(1, 2, 1);
        check(3, 2, 1);
        check(5, 2, 2);
        check(1000, 2, 256);
        check(1 << 16, 2, 1 << 10);
        check(1 << 16, 100, 1 << 13);
    }
}
