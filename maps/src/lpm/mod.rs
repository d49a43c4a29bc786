//! `lpm_trie`: longest-prefix match, a binary trie with compressed paths.
//!
//! A node is a prefix; its children are longer prefixes that differ in the first bit after it. Nodes without a value
//! join two branches. Updates build a node whole and then swing one link; lookups follow links without a lock, over
//! type-stable nodes. A node taken out keeps its links, so that a reader who stands on it goes on; a reader looks again
//! when a node was reused meanwhile.
//!
//! Lookups of whole keys begin with tables ([`jumps`]), which lead behind the first 8 bits, and behind the next ones where
//! many prefixes share those.

mod jumps;

use std::any::Any;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering, fence};

use rtbpf_abi::Errno;
use rtbpf_rt::freelist::{FreeLists, Links};
use rtbpf_rt::lock::prim::point;
use rtbpf_rt::{Class, Lock, RunCx};

use crate::access::{Cell, KeyRef, ProgBytes, ValuePtr};
use crate::fields::Shape;
use crate::hash::{admit, bump};
use crate::head::Head;
use crate::map::{Map, MapError, UpdateFlags, Visit, update};
use crate::slab::{Pages, Slab};
use jumps::{BITS, DENSE, Entry, FAN, Jumps};

/// Node index + 1 of the two children; 0 where there is none.
const CHILD: [usize; 2] = [0, 4];
const FREE: usize = 8;
/// Prefix length, and [`JOIN`].
const PREFIX: usize = 12;
const HEADER: usize = 16;
/// A node without a value.
const JOIN: u32 = 1 << 31;
/// How often a lookup looks again at most. Each time an update has come between, which takes longer than a lookup.
const LOOKS: u32 = 64;

struct Nodes(Slab);

impl Links for Nodes {
    fn link(&self, node: u32) -> &AtomicU32 {
        self.0.cell(node).atomic_u32(FREE)
    }
}

/// A trie. `L` is its lock: sleeping where nodes come at run time and the rules of real time hold.
pub(crate) struct Lpm<L> {
    head: Head,
    shape: Shape,
    /// Protects all links. Taken by updates and deletes, under no other lock; before the free list.
    lock: L,
    root: AtomicU32,
    /// Where lookups of whole keys begin.
    jumps: Jumps,
    /// Counts nodes that are used again: what a walk found meanwhile may be another's.
    reused: AtomicU32,
    nodes: Nodes,
    free: FreeLists,
    used: AtomicU32,
    count: AtomicU32,
    data_bytes: usize,
    value_at: usize,
}

/// A key of a trie, taken apart.
#[derive(Clone, Copy)]
struct Prefix<'a> {
    len: u32,
    data: &'a [u8],
    /// The first 64 bits of the data, the first bit on top.
    word: u64,
}

impl Prefix<'_> {
    /// Bit `at` of the data.
    #[inline]
    fn bit(&self, at: u32) -> usize {
        if at < 64 { (self.word >> (63 - at) & 1) as usize } else { bit(self.data, at) }
    }
}

/// The first 64 bits of a node's data, the first bit on top. Data is followed by zeroes up to a multiple of 8, so they are
/// always there.
#[inline(always)]
fn first_word(cell: Cell<'_>) -> u64 {
    u64::from_be(cell.load_u64(HEADER))
}

/// The first `bits` bits of `word`, fewer than 64, and then `byte`.
fn behind(word: u64, bits: u32, byte: u8) -> u64 {
    word & !(u64::MAX >> bits) | u64::from(byte) << (64 - BITS) >> bits
}

fn bit(data: &[u8], at: u32) -> usize {
    data.get(at as usize / 8).map_or(0, |byte| usize::from(byte >> (7 - at % 8) & 1))
}

impl<L: Lock> Lpm<L> {
    pub(crate) fn new(head: Head) -> Result<Lpm<L>, MapError> {
        let spec = head.spec();
        let data_bytes = spec.key_size as usize - 4;
        let value_at = HEADER + data_bytes.next_multiple_of(8);
        // Each entry can bring one joining node; and an overwrite builds the new node before the old one is free.
        let count =
            spec.max_entries.checked_mul(2).and_then(|n| n.checked_add(4 * head.slots())).ok_or(Errno::ENOMEM)?;
        let nodes = Slab::new(count, value_at + spec.value_size as usize, Pages::OnTouch)?;
        Ok(Lpm {
            shape: Shape::of(spec),
            lock: L::default(),
            root: AtomicU32::new(0),
            jumps: Jumps::new(spec.max_entries)?,
            reused: AtomicU32::new(0),
            nodes: Nodes(nodes),
            free: FreeLists::new(head.slots()),
            used: AtomicU32::new(0),
            count: AtomicU32::new(0),
            data_bytes,
            value_at,
            head,
        })
    }

    fn max_prefix(&self) -> u32 {
        self.data_bytes as u32 * 8
    }

    fn parse<'a>(&self, key: KeyRef<'a>) -> Option<Prefix<'a>> {
        let (len, data) = key.split_first_chunk::<4>()?;
        let word = match (data.first_chunk(), data) {
            (Some(first), _) => u64::from_be_bytes(*first),
            (None, &[a, b, c, d]) => u64::from(u32::from_be_bytes([a, b, c, d])) << 32,
            (None, data) => data.iter().zip(1..).fold(0, |word, (byte, at)| word | u64::from(*byte) << (64 - 8 * at)),
        };
        (data.len() == self.data_bytes).then_some(Prefix { len: u32::from_le_bytes(*len), data, word })
    }

    #[inline(always)]
    fn cell(&self, node: u32) -> Cell<'_> {
        self.nodes.0.cell(node)
    }

    fn child(&self, node: u32, side: usize) -> &AtomicU32 {
        self.cell(node).atomic_u32(CHILD[side])
    }

    fn follow(link: &AtomicU32) -> Option<u32> {
        point();
        link.load(Ordering::Acquire).checked_sub(1)
    }

    fn prefix_of(&self, node: u32) -> (u32, bool) {
        let word = self.cell(node).atomic_u32(PREFIX).load(Ordering::Relaxed);
        (word & !JOIN, word & JOIN != 0)
    }

    fn data_of(&self, node: u32) -> Cell<'_> {
        self.cell(node).part(HEADER, self.data_bytes)
    }

    /// Bit `at` of a node's data.
    fn bit_of(&self, node: u32, at: u32) -> usize {
        let mut byte = [0];
        self.cell(node).part(HEADER + at as usize / 8, 1).bytes().copy_to(&mut byte);
        usize::from(byte[0] >> (7 - at % 8) & 1)
    }

    fn value_of(&self, node: u32) -> Cell<'_> {
        self.cell(node).part(self.value_at, self.head.spec().value_size as usize)
    }

    /// Bits of `key` that `node`'s prefix agrees with.
    #[inline]
    fn matching(&self, node: u32, key: Prefix<'_>) -> u32 {
        let cell = self.cell(node);
        let len = cell.atomic_u32(PREFIX).load(Ordering::Relaxed) & !JOIN;
        self.matching_in(cell, len.min(key.len), key)
    }

    /// How many of the first `limit` bits of a node agree with `key`.
    #[inline]
    fn matching_in(&self, cell: Cell<'_>, limit: u32, key: Prefix<'_>) -> u32 {
        let bits = (first_word(cell) ^ key.word).leading_zeros();
        if bits < 64 || limit <= 64 { bits.min(limit) } else { self.matching_behind(cell, key, limit) }
    }

    /// The same for long keys whose first 64 bits agree.
    #[cold]
    #[inline(never)]
    fn matching_behind(&self, cell: Cell<'_>, key: Prefix<'_>, limit: u32) -> u32 {
        let mut bits = 64;
        while bits < limit {
            let byte = bits as usize / 8;
            let (mut ours, mut theirs) = ([0; 8], [0; 8]);
            let n = (self.data_bytes - byte).min(8);
            ours[..n].copy_from_slice(&key.data[byte..byte + n]);
            crate::access::ProgOut::from(&mut theirs[..n]).fill(cell.part(HEADER + byte, n).bytes());
            let differ = u64::from_be_bytes(ours) ^ u64::from_be_bytes(theirs);
            bits += differ.leading_zeros();
            if differ != 0 {
                break;
            }
        }
        bits.min(limit)
    }

    /// The node with the longest prefix of `key`.
    #[inline]
    fn longest(&self, key: Prefix<'_>) -> Option<u32> {
        for _ in 0..LOOKS {
            // Acquire, and the fence below: pair with those in `take_node`. Who read what a node was reused for sees
            // that one was.
            let before = self.reused.load(Ordering::Acquire);
            let found = self.walk(key);
            fence(Ordering::Acquire);
            if self.reused.load(Ordering::Relaxed) == before {
                return found;
            }
        }
        self.walk(key)
    }

    #[inline(always)]
    fn walk(&self, key: Prefix<'_>) -> Option<u32> {
        let (link, found) = if key.len >= self.max_prefix() { self.jump(key) } else { (self.start(), 0) };
        match self.data_bytes {
            0..=8 => self.walk_by(key, link, found, |cell, len| {
                // What agrees up to `len` has nothing but zeroes there.
                (first_word(cell) ^ key.word).leading_zeros() >= len
            }),
            _ => self.walk_long(key, link, found),
        }
    }

    #[inline(never)]
    fn walk_long(&self, key: Prefix<'_>, link: u32, found: u32) -> Option<u32> {
        self.walk_by(key, link, found, |cell, len| self.matching_in(cell, len, key) >= len)
    }

    fn start(&self) -> u32 {
        point();
        self.root.load(Ordering::Acquire)
    }

    /// The link to the first node that tables say nothing of, on the path of a whole key, and to the last one with a value
    /// before it.
    #[inline(always)]
    fn jump(&self, key: Prefix<'_>) -> (u32, u32) {
        let (mut table, mut found, mut word) = (0, 0, key.word);
        loop {
            let entry = self.jumps.get(table, (word >> (64 - BITS)) as u8);
            found = if entry.found == 0 { found } else { entry.found };
            let Some(next) = entry.table() else { return (entry.next, found) };
            (table, word) = (next, word << BITS);
        }
    }

    /// The last node with a value on the path of prefixes that hold, from `link` on; `found` is the one before. `holds` is
    /// asked about no more bits than `key` has.
    #[inline(always)]
    fn walk_by(
        &self,
        key: Prefix<'_>,
        mut link: u32,
        mut found: u32,
        holds: impl Fn(Cell<'_>, u32) -> bool,
    ) -> Option<u32> {
        let most = self.max_prefix().min(key.len);
        // Prefixes grow along a path, so a torn walk ends by this count.
        let mut steps = self.max_prefix() + 2;
        while link != 0 {
            steps = steps.checked_sub(1)?;
            let cell = self.cell(link - 1);
            let word = cell.atomic_u32(PREFIX).load(Ordering::Relaxed);
            let len = word & !JOIN;
            if len > key.len || !holds(cell, len) {
                break;
            }
            found = if word & JOIN == 0 { link } else { found };
            if len >= most {
                break;
            }
            link = cell.atomic_u32(CHILD[0] + 4 * key.bit(len)).load(Ordering::Acquire);
        }
        found.checked_sub(1)
    }

    /// Brings the tables up to date after a change of `key`'s node, before what left the trie is free. Under the lock.
    fn refresh(&self, key: Prefix<'_>) {
        let (mut table, mut bits) = (0, 0);
        let first = |bits: u32| (key.word << bits >> (64 - BITS)) as u8;
        // Tables for more bits than the prefix has are none of its business, and entries before them do not change.
        while key.len >= bits + BITS
            && let Some(next) = self.jumps.get(table, first(bits)).table()
        {
            (table, bits) = (next, bits + BITS);
        }
        let open = (bits + BITS).saturating_sub(key.len);
        let low = u32::from(first(bits)) >> open << open;
        for byte in (low..low + (1 << open)).map(|byte| byte as u8) {
            let word = behind(key.word, bits, byte);
            let old = self.jumps.get(table, byte);
            let mut entry = self.entry_of(self.start(), word, bits);
            if old.table().is_some() {
                entry.next = old.next;
            } else if let Some(dense) = self.spread(entry.next, word, bits + BITS) {
                entry.next = dense;
            }
            self.jumps.set(table, byte, entry);
        }
    }

    /// What keys find that begin with the first `bits` + 8 bits of `word`, in a table behind `bits` of them. The walk goes
    /// from `link`, a node on their path.
    fn entry_of(&self, mut link: u32, word: u64, bits: u32) -> Entry {
        let mut found = 0;
        while let Some(node) = link.checked_sub(1) {
            let (len, joins) = self.prefix_of(node);
            if (first_word(self.cell(node)) ^ word).leading_zeros() < len.min(bits + BITS) {
                break;
            }
            if len >= bits + BITS {
                return Entry { found, next: link };
            }
            found = if joins || len < bits { found } else { link };
            link = self.child(node, (word >> (63 - len) & 1) as usize).load(Ordering::Relaxed);
        }
        Entry { found, next: 0 }
    }

    /// A table for what is at `link`, whose first `bits` bits are `word`'s, if that is much; its link.
    fn spread(&self, link: u32, word: u64, bits: u32) -> Option<u32> {
        // Keys are taken apart as one word.
        let is_short = bits + BITS <= self.max_prefix().min(64);
        if !is_short || self.values_below(link, DENSE) < DENSE {
            return None;
        }
        let (table, own) = self.jumps.take()?;
        for byte in 0..FAN as u32 {
            self.jumps.set(table, byte as u8, self.entry_of(link, behind(word, bits, byte as u8), bits));
        }
        Some(own)
    }

    /// Nodes with values at `link` and below, where they are fewer than [`DENSE`]. So many nodes in a row have as many: a
    /// node without one has two branches.
    fn values_below(&self, link: u32, depth: u32) -> u32 {
        let Some(node) = link.checked_sub(1) else { return 0 };
        if depth == 0 {
            return DENSE;
        }
        let own = u32::from(!self.prefix_of(node).1);
        self.children_of(node)
            .into_iter()
            .fold(own, |sum, child| if sum >= DENSE { sum } else { sum + self.values_below(child, depth - 1) })
    }

    /// The link under which `key`'s node is, or would be put.
    fn place<'a>(&'a self, key: Prefix<'_>) -> (&'a AtomicU32, Option<u32>) {
        let mut link = &self.root;
        loop {
            let Some(node) = Self::follow(link) else { return (link, None) };
            let (len, _) = self.prefix_of(node);
            if self.matching(node, key) < len || len == key.len || len == self.max_prefix() {
                return (link, Some(node));
            }
            link = self.child(node, bit(key.data, len));
        }
    }

    fn exact(&self, key: Prefix<'_>) -> Option<u32> {
        let node = self.place(key).1?;
        let (len, joins) = self.prefix_of(node);
        (len == key.len && !joins && self.matching(node, key) == len).then_some(node)
    }

    fn take_node(&self, cx: &RunCx) -> Result<u32, MapError> {
        if let Some(node) = self.free.pop(&self.nodes, cx.slot) {
            self.reused.fetch_add(1, Ordering::Relaxed);
            fence(Ordering::Release);
            return Ok(node);
        }
        bump(&self.used, self.nodes.0.count()).ok_or(Errno::ENOMEM.into())
    }

    fn build(&self, node: u32, prefix: u32, data: ProgBytes<'_>, children: [u32; 2]) {
        let cell = self.cell(node);
        cell.atomic_u32(PREFIX).store(prefix, Ordering::Relaxed);
        cell.part(HEADER, self.data_bytes).fill(data);
        for (side, child) in children.into_iter().enumerate() {
            cell.atomic_u32(CHILD[side]).store(child, Ordering::Relaxed);
        }
    }

    fn children_of(&self, node: u32) -> [u32; 2] {
        [0, 1].map(|side| self.child(node, side).load(Ordering::Relaxed))
    }

    fn key_of(&self, node: u32, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.prefix_of(node).0.to_le_bytes());
        self.data_of(node).append_to(out);
    }

    /// The first node with a value below `node` in post-order.
    fn leftmost(&self, node: u32) -> Option<u32> {
        let mut last_value = None;
        let mut at = Some(node);
        let mut steps = self.max_prefix() + 2;
        while let Some(node) = at {
            steps = steps.checked_sub(1)?;
            if !self.prefix_of(node).1 {
                last_value = Some(node);
            }
            at = Self::follow(self.child(node, 0)).or_else(|| Self::follow(self.child(node, 1)));
        }
        last_value
    }

    /// The node after `key` in post-order (longer prefixes first), the first one when `key` is not in the trie.
    fn after(&self, key: Option<Prefix<'_>>) -> Option<u32> {
        let first = || self.leftmost(Self::follow(&self.root)?);
        let Some(key) = key.filter(|key| key.len <= self.max_prefix()) else { return first() };
        let mut path = Vec::new();
        let mut at = Self::follow(&self.root);
        while let Some(node) = at {
            path.push(node);
            let (len, _) = self.prefix_of(node);
            if self.matching(node, key) < len || len >= key.len || path.len() > self.max_prefix() as usize + 1 {
                break;
            }
            at = Self::follow(self.child(node, bit(key.data, len)));
        }
        let here = path.last().copied()?;
        let (len, joins) = self.prefix_of(here);
        if len != key.len || joins || self.matching(here, key) != len {
            return first();
        }
        let mut node = path.pop()?;
        while let Some(parent) = path.pop() {
            if Self::follow(self.child(parent, 0)) == Some(node)
                && let Some(other) = Self::follow(self.child(parent, 1))
                && let Some(next) = self.leftmost(other)
            {
                return Some(next);
            }
            if !self.prefix_of(parent).1 {
                return Some(parent);
            }
            node = parent;
        }
        None
    }

    fn insert(&self, cx: &RunCx, key: Prefix<'_>, value: ProgBytes<'_>, flags: UpdateFlags) -> Result<(), MapError> {
        let _held = self.lock.lock(cx, Class::Trie)?;
        let (link, at) = self.place(key);
        let exact = self.exact(key);
        admit(exact.is_some(), flags)?;
        let full = self.count.load(Ordering::Relaxed) >= self.head.spec().max_entries;
        if exact.is_none() && full {
            return Err(Errno::ENOSPC.into());
        }
        let node = self.take_node(cx)?;
        let cell = self.value_of(node);
        self.shape.reset(cell);
        self.shape.write(cell, value);
        let data = ProgBytes::from(key.data);
        let same = at.map_or(0, |at| self.matching(at, key));
        let mut children = [0; 2];
        let (top, left) = match at {
            None => (node, None),
            // The same prefix, with a value or joining: the new node takes its place.
            Some(at) if same == key.len && self.prefix_of(at).0 == same => {
                children = self.children_of(at);
                (node, Some(at))
            }
            // The new node is a prefix of the one that is here.
            Some(at) if same == key.len => {
                children[self.bit_of(at, same)] = at + 1;
                (node, None)
            }
            Some(at) => {
                let join = self.take_node(cx).inspect_err(|_| self.free.push(&self.nodes, cx.slot, node))?;
                let mut both = [0; 2];
                both[bit(key.data, same)] = node + 1;
                both[self.bit_of(at, same)] = at + 1;
                self.build(join, same | JOIN, self.data_of(at).bytes(), both);
                (join, None)
            }
        };
        self.build(node, key.len, data, children);
        link.store(top + 1, Ordering::Release);
        point();
        self.refresh(key);
        point();
        if let Some(left) = left {
            self.free.push(&self.nodes, cx.slot, left);
        }
        if exact.is_none() {
            self.count.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    fn remove(&self, cx: &RunCx, key: Prefix<'_>) -> Result<(), MapError> {
        let _held = self.lock.lock(cx, Class::Trie)?;
        let mut link = &self.root;
        let mut parent: Option<(&AtomicU32, u32)> = None;
        let node = loop {
            let node = Self::follow(link).ok_or(Errno::ENOENT)?;
            let (len, joins) = self.prefix_of(node);
            if self.matching(node, key) < len || len > key.len {
                return Err(Errno::ENOENT.into());
            }
            if len == key.len {
                if joins {
                    return Err(Errno::ENOENT.into());
                }
                break node;
            }
            parent = Some((link, node));
            link = self.child(node, bit(key.data, len));
        };
        let mut emptied = None;
        match self.children_of(node) {
            [0, 0] => match parent {
                // A joining parent has exactly one child left: that takes its place.
                Some((parent_link, parent)) if self.prefix_of(parent).1 => {
                    let [left, right] = self.children_of(parent);
                    let other = if left == node + 1 { right } else { left };
                    parent_link.store(other, Ordering::Release);
                    emptied = Some(parent);
                }
                _ => link.store(0, Ordering::Release),
            },
            [child, 0] | [0, child] => link.store(child, Ordering::Release),
            children => {
                // Two branches meet here: the node stays as a join. A new one, since readers may hold its value.
                let join = self.take_node(cx)?;
                self.build(join, key.len | JOIN, self.data_of(node).bytes(), children);
                link.store(join + 1, Ordering::Release);
            }
        }
        self.refresh(key);
        for left in emptied.into_iter().chain([node]) {
            self.free.push(&self.nodes, cx.slot, left);
        }
        self.count.fetch_sub(1, Ordering::Relaxed);
        Ok(())
    }
}

impl<L: Lock + 'static> Map for Lpm<L> {
    fn head(&self) -> &Head {
        &self.head
    }

    fn lookup(&self, _: &RunCx, key: KeyRef<'_>) -> Option<ValuePtr> {
        let key = self.parse(key).filter(|key| key.len <= self.max_prefix())?;
        Some(self.value_of(self.longest(key)?).value_ptr())
    }

    fn lookup_u64(&self, _: &RunCx, key: u64) -> Option<ValuePtr> {
        // A length, and 4 bytes of data: most tries are of addresses.
        let bytes = key.to_le_bytes();
        let (len, word) = (key as u32, u64::from((key >> 32) as u32).swap_bytes());
        let key = Prefix { len, data: &bytes[4..], word };
        if self.data_bytes != 4 || len > 32 {
            return None;
        }
        Some(self.value_of(self.longest(key)?).value_ptr())
    }

    fn update(&self, cx: &RunCx, key: KeyRef<'_>, value: ProgBytes<'_>, flags: UpdateFlags) -> Result<(), MapError> {
        if flags > update::EXIST {
            return Err(Errno::EINVAL.into());
        }
        let key = self.parse(key).filter(|key| key.len <= self.max_prefix()).ok_or(Errno::EINVAL)?;
        self.insert(cx, key, value, flags)
    }

    fn delete(&self, cx: &RunCx, key: KeyRef<'_>) -> Result<(), MapError> {
        let key = self.parse(key).filter(|key| key.len <= self.max_prefix()).ok_or(Errno::EINVAL)?;
        self.remove(cx, key)
    }

    fn next_key(&self, _: &RunCx, key: Option<KeyRef<'_>>, out: &mut Vec<u8>) -> Result<(), MapError> {
        let key = key.and_then(|key| self.parse(key));
        let next = self.after(key).ok_or(Errno::ENOENT)?;
        self.key_of(next, out);
        Ok(())
    }

    fn read(&self, _: &RunCx, key: KeyRef<'_>, _: u64, out: &mut Vec<u8>) -> Result<(), MapError> {
        let key = self.parse(key).filter(|key| key.len <= self.max_prefix()).ok_or(Errno::ENOENT)?;
        let node = self.longest(key).ok_or(Errno::ENOENT)?;
        self.shape.read(self.value_of(node), out);
        Ok(())
    }

    fn for_each(&self, _: &RunCx, visit: &mut Visit<'_>) -> Result<u64, MapError> {
        let _ = visit;
        Err(MapError::Unsupported)
    }

    fn memory(&self) -> Vec<Range<u64>> {
        self.nodes.0.region().ranges()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;
    use rtbpf_abi::{MapKind, MapSpec};
    use rtbpf_rt::RawLock;

    const CX: RunCx = RunCx::CONTROL;

    fn trie(data_bytes: u32, entries: u32) -> Lpm<RawLock> {
        Lpm::new(Head::new(MapSpec::new(MapKind::LpmTrie, 4 + data_bytes, 8, entries), 2)).expect("there is memory")
    }

    /// A number below `n`, from a generator that no test changes.
    fn below(state: &mut u64, n: u64) -> u64 {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*state >> 33) % n
    }

    /// Prefixes that share their first bits, so that tables come into being and change.
    #[test]
    fn dense_tries_answer_like_a_search_of_all_prefixes() {
        for data_bytes in [1, 3, 4, 8, 9, 16] {
            let trie = trie(data_bytes, 600);
            let mut model: Vec<(u32, Vec<u8>, u64)> = Vec::new();
            let mut state = u64::from(data_bytes);
            let matches = |len: u32, a: &[u8], b: &[u8]| (0..len).all(|at| bit(a, at) == bit(b, at));
            for step in 0..2_000u64 {
                let max = u64::from(data_bytes) * 8;
                let len = if below(&mut state, 3) == 0 { max } else { below(&mut state, max + 1) } as u32;
                let mut data = vec![0; data_bytes as usize];
                let random = below(&mut state, data_bytes.into()) as usize;
                data[random] = below(&mut state, 256) as u8;
                data[below(&mut state, data_bytes.into()) as usize] |= [0, 1, 0x80, 7][below(&mut state, 4) as usize];
                let key = [&len.to_le_bytes()[..], &data].concat();
                let known = model.iter().position(|(l, d, _)| *l == len && matches(len, d, &data));
                match below(&mut state, 8) {
                    0..3 => {
                        let done = trie.update(&CX, &key, step.to_le_bytes()[..].into(), 0).is_ok();
                        assert_eq!(done, known.is_some() || model.len() < 600, "{data_bytes}, step {step}");
                        if let Some(known) = known {
                            model.remove(known);
                        }
                        if done {
                            model.push((len, data, step));
                        }
                    }
                    3 => {
                        assert_eq!(trie.delete(&CX, &key).is_ok(), known.is_some(), "{data_bytes}, step {step}");
                        if let Some(known) = known {
                            model.remove(known);
                        }
                    }
                    _ => {
                        let fit = model.iter().filter(|(l, d, _)| *l <= len && matches(*l, d, &data));
                        let best = fit.max_by_key(|(l, ..)| *l).map(|(.., value)| value.to_le_bytes().to_vec());
                        let mut value = Vec::new();
                        let found = trie.read(&CX, &key, 0, &mut value).ok().map(|()| value);
                        assert_eq!(found, best, "{data_bytes}, step {step}, {key:?}");
                        let same = key[..].try_into().map(u64::from_le_bytes).map(|key| trie.lookup_u64(&CX, key));
                        if let Ok(same) = same {
                            assert_eq!(same, trie.lookup(&CX, &key));
                        }
                    }
                }
            }
            let tables = trie.jumps.in_use();
            assert!(data_bytes == 1 || tables > 2, "{data_bytes}: {tables} tables");
        }
    }
}
