//! Buckets and chains: the part that all hash maps share.
//!
//! Readers take no lock. A chain ends in a marker that names its bucket; a reader who was carried into another chain
//! (the node it stood on was freed and used again) sees the wrong marker at the end and starts over. Writers hold the
//! bucket's lock. New nodes go to the front.

use std::sync::atomic::{AtomicU32, Ordering};

use rtbpf_rt::freelist::Links;
use rtbpf_rt::lock::prim::point;
use rtbpf_rt::{Class, Guard, Lock, RunCx, ZeroIsValid};

use crate::access::Cell;
use crate::hash::key::{Key, by_width};
use crate::map::MapError;
use crate::slab::{Headed, Pages, Words, ZeroedArray};

/// Ends a chain; the other bits are the bucket. A link of 0 is the marker of the bucket it stands in.
const END: u32 = 1 << 31;

/// The words of a node. Its key is behind them, then its value.
const NEXT: usize = 0;
const HASH: usize = 1;
const FREE: usize = 2;

/// First node of a chain, and the lock of its writers.
#[derive(Default)]
#[repr(C)]
pub(crate) struct Bucket<L> {
    /// Node index + 1, or 0.
    first: AtomicU32,
    /// Protects the chain. Taken under the LRU list lock (eviction), before the value lock and nothing else. Its
    /// holder may sleep exactly if `L` sleeps.
    lock: L,
}

pub(crate) struct Table<L> {
    buckets: ZeroedArray<Bucket<L>>,
    mask: u32,
    seed: u32,
    nodes: Headed,
    key_size: usize,
    value_at: usize,
    value_len: usize,
}

impl<L> Links for Table<L> {
    #[inline]
    fn link(&self, node: u32) -> &AtomicU32 {
        self.nodes.words(node).at(FREE)
    }
}

impl<L: Lock> Table<L>
where
    Bucket<L>: ZeroIsValid,
{
    /// A table for `entries` keys with `nodes` nodes. `value_len` is 0 where values live elsewhere.
    pub(crate) fn new(
        entries: u32,
        nodes: u32,
        key_size: u32,
        value_len: u32,
        seed: u32,
        pages: Pages,
    ) -> Result<Table<L>, MapError> {
        let value_at = (key_size as usize).next_multiple_of(8);
        let value_len = (value_len as usize).next_multiple_of(8);
        let buckets = entries.max(1).next_power_of_two();
        Ok(Table {
            nodes: Headed::new(nodes, value_at + value_len, pages)?,
            buckets: ZeroedArray::new(buckets as usize, pages)?,
            mask: buckets - 1,
            seed,
            key_size: key_size as usize,
            value_at,
            value_len,
        })
    }

    #[inline]
    pub(crate) fn hash(&self, key: impl Key) -> u32 {
        key.hash(self.seed)
    }

    #[inline]
    pub(crate) fn bucket_of(&self, hash: u32) -> u32 {
        hash & self.mask
    }

    pub(crate) fn bucket_count(&self) -> u32 {
        self.buckets.len() as u32
    }

    /// The bucket's lock, held.
    #[inline]
    pub(crate) fn lock(&self, cx: &RunCx, bucket: u32) -> Result<Guard<'_, L>, MapError> {
        Ok(self.buckets.get(bucket as usize).lock.lock(cx, Class::Bucket)?)
    }

    #[inline]
    fn first(&self, bucket: u32) -> &AtomicU32 {
        point();
        &self.buckets.get(bucket as usize).first
    }

    /// The node that a link leads to, and its words; `None` at the end of a chain.
    #[inline]
    fn follow(&self, link: u32) -> Option<(u32, Words<'_>)> {
        // 0 and the ends are no nodes: there are at most `END` of those.
        let node = link.wrapping_sub(1);
        Some((node, self.nodes.get(node)?))
    }

    /// The node with `key`, whose hash is `hash`. Takes no lock.
    #[inline]
    pub(crate) fn find(&self, key: impl Key, hash: u32) -> Option<u32> {
        self.find_with_body(key, hash).map(|(node, _)| node)
    }

    /// The same, with what is behind the node's words.
    #[inline(always)]
    pub(crate) fn find_with_body(&self, key: impl Key, hash: u32) -> Option<(u32, Cell<'_>)> {
        let bucket = self.bucket_of(hash);
        loop {
            // Acquire: pairs with the release in `link`, so that a node is seen with its key.
            let first = self.first(bucket).load(Ordering::Acquire);
            let mut link = first;
            while let Some((node, words)) = self.follow(link) {
                if words.at(HASH).load(Ordering::Relaxed) == hash {
                    let body = self.nodes.body(node);
                    if key.is_in(body) {
                        return Some((node, body));
                    }
                }
                link = words.at(NEXT).load(Ordering::Acquire);
            }
            // In another chain's end; or a node that replaced the key's meanwhile stands in front of where we began.
            let ours = link == 0 || link == END | bucket;
            if ours && self.first(bucket).load(Ordering::Acquire) == first {
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
        let mut link = self.first(bucket).load(Ordering::Acquire);
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

    /// Writes the key of a node that is in no chain; answers the node's body.
    #[inline]
    pub(crate) fn set_key(&self, node: u32, key: impl Key, hash: u32) -> Cell<'_> {
        self.nodes.words(node).at(HASH).store(hash, Ordering::Relaxed);
        let body = self.nodes.body(node);
        key.put(body);
        body
    }

    /// Puts `node` at the front of its bucket, whose lock is held.
    #[inline]
    pub(crate) fn link(&self, node: u32) {
        let words = self.nodes.words(node);
        let bucket = self.bucket_of(words.at(HASH).load(Ordering::Relaxed));
        let first = self.first(bucket);
        let old = first.load(Ordering::Relaxed);
        words.at(NEXT).store(if old == 0 { END | bucket } else { old }, Ordering::Relaxed);
        // Release: pairs with the acquire loads of readers.
        first.store(node + 1, Ordering::Release);
    }

    /// Takes `node` out of its bucket, whose lock is held; `false` when it is not in it. The node keeps its own link,
    /// so that readers who stand on it go on.
    #[inline]
    pub(crate) fn unlink(&self, node: u32) -> bool {
        let words = self.nodes.words(node);
        let bucket = self.bucket_of(words.at(HASH).load(Ordering::Relaxed));
        let mut place = self.first(bucket);
        loop {
            match self.follow(place.load(Ordering::Relaxed)) {
                Some((at, _)) if at == node => {
                    place.store(words.at(NEXT).load(Ordering::Relaxed), Ordering::Release);
                    return true;
                }
                Some((_, before)) => place = before.at(NEXT),
                None => return false,
            }
        }
    }

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
