//! The pool of LRU maps: when no node is free, the least recently used ones are taken out of the table.
//!
//! Two lists approximate recency. New nodes enter *inactive*; a node that was used since it was last looked at moves to
//! *active*; when inactive has become the shorter one, active's unused tail moves back. Eviction takes from inactive's
//! tail. Using a node only sets a flag in it, so lookups touch no list.
//!
//! With common lists, each slot keeps a private stock of free nodes and a list of those it handed out; both are
//! exchanged with the common lists in batches, so that most updates take one slot's lock only, and take it once. A node that
//! an update replaced stays on its common list until then. Without common lists (`BPF_F_NO_COMMON_LRU`) each slot has
//! lists and nodes of its own.
//! The scheme is the one that the kernel's documentation of hash maps describes (map_hash.rst, Linux 6.18).

use std::sync::atomic::{AtomicU32, Ordering};

use rtbpf_abi::Errno;
use rtbpf_rt::freelist::{FreeLists, Links, NONE};
use rtbpf_rt::lock::prim::point;
use rtbpf_rt::{Class, Guard, Lock, RawLock, RunCx};

use crate::hash::{Bucket, Pool, Table};
use crate::map::MapError;
use crate::percpu::place_of;
use crate::slab::{Pages, ZeroedArray};

/// Nodes moved to a slot's stock at once, at most; and nodes looked at per rotation.
const BATCH: u32 = 128;
/// Both, where slots have lists of their own.
const OWN_BATCH: u32 = 4;

const PREV: usize = 0;
const NEXT: usize = 1;
/// Which list a node is on (low byte, [`On`]) and whose (the rest).
const PLACE: usize = 2;
/// Whether it was used since it was last looked at; or [`STRAY`].
const USED: usize = 3;
const STRAY: u32 = 2;

/// The list a node is on. What is said of a free node is old.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
enum On {
    Inactive = 1,
    Active = 2,
    /// Handed out by a slot, not yet given to the common lists.
    Pending = 3,
}

/// A list through the nodes. Changed under the lock of its owner only; atomics because lookups run beside.
struct List {
    /// What [`PLACE`] says of its nodes.
    place: u32,
    first: AtomicU32,
    last: AtomicU32,
    len: AtomicU32,
}

/// Words of a node.
type Words = [AtomicU32; 4];

/// The words of all nodes.
#[derive(Clone, Copy)]
struct Nodes<'a>(&'a [Words]);

impl<'a> Nodes<'a> {
    #[inline(always)]
    fn word(self, node: u32, at: usize) -> &'a AtomicU32 {
        point();
        &self.0[node as usize][at]
    }

    #[inline(always)]
    fn get(self, node: u32, at: usize) -> u32 {
        self.word(node, at).load(Ordering::Relaxed)
    }

    #[inline(always)]
    fn set(self, node: u32, at: usize, value: u32) {
        self.word(node, at).store(value, Ordering::Relaxed);
    }

    fn is_used(self, node: u32) -> bool {
        self.get(node, USED) == 1
    }

    /// Whether it left the table while its list could not be locked.
    fn is_stray(self, node: u32) -> bool {
        self.get(node, USED) == STRAY
    }

    #[inline]
    fn place(self, node: u32) -> (u32, u32) {
        let place = self.get(node, PLACE);
        (place & 0xff, place >> 8)
    }
}

impl List {
    fn new(on: On, slot: u32) -> List {
        let word = || AtomicU32::new(NONE);
        List { place: slot << 8 | on as u32, first: word(), last: word(), len: AtomicU32::new(0) }
    }

    fn len(&self) -> u32 {
        self.len.load(Ordering::Relaxed)
    }

    fn last(&self) -> Option<u32> {
        Some(self.last.load(Ordering::Relaxed)).filter(|node| *node != NONE)
    }

    #[inline]
    fn holds(&self, nodes: Nodes<'_>, node: u32) -> bool {
        nodes.get(node, PLACE) == self.place
    }

    #[inline]
    fn push(&self, nodes: Nodes<'_>, node: u32) {
        let old = self.first.load(Ordering::Relaxed);
        nodes.set(node, PREV, NONE);
        nodes.set(node, NEXT, old);
        nodes.set(node, PLACE, self.place);
        match old {
            NONE => self.last.store(node, Ordering::Relaxed),
            old => nodes.set(old, PREV, node),
        }
        self.first.store(node, Ordering::Relaxed);
        self.len.store(self.len() + 1, Ordering::Relaxed);
    }

    #[inline]
    fn remove(&self, nodes: Nodes<'_>, node: u32) {
        let (prev, next) = (nodes.get(node, PREV), nodes.get(node, NEXT));
        match prev {
            NONE => self.first.store(next, Ordering::Relaxed),
            prev => nodes.set(prev, NEXT, next),
        }
        match next {
            NONE => self.last.store(prev, Ordering::Relaxed),
            next => nodes.set(next, PREV, prev),
        }
        self.len.store(self.len() - 1, Ordering::Relaxed);
    }

    /// Its nodes, oldest first. It is empty afterwards, and each node may go elsewhere before the next one is asked for.
    fn drain<'a>(&self, nodes: Nodes<'a>) -> impl Iterator<Item = u32> + 'a {
        let mut at = self.last();
        self.first.store(NONE, Ordering::Relaxed);
        self.last.store(NONE, Ordering::Relaxed);
        self.len.store(0, Ordering::Relaxed);
        std::iter::from_fn(move || {
            let node = at?;
            at = Some(nodes.get(node, PREV)).filter(|node| *node != NONE);
            Some(node)
        })
    }
}

/// Free nodes, linked by [`NEXT`]. Changed under the lock of its owner only.
struct Stack {
    top: AtomicU32,
    len: AtomicU32,
}

impl Stack {
    fn new() -> Stack {
        Stack { top: AtomicU32::new(NONE), len: AtomicU32::new(0) }
    }

    #[inline]
    fn len(&self) -> u32 {
        self.len.load(Ordering::Relaxed)
    }

    #[inline]
    fn push(&self, nodes: Nodes<'_>, node: u32) {
        nodes.set(node, NEXT, self.top.load(Ordering::Relaxed));
        nodes.set(node, USED, 0);
        self.top.store(node, Ordering::Relaxed);
        self.len.store(self.len() + 1, Ordering::Relaxed);
    }

    #[inline]
    fn pop(&self, nodes: Nodes<'_>) -> Option<u32> {
        let node = Some(self.top.load(Ordering::Relaxed)).filter(|node| *node != NONE)?;
        self.top.store(nodes.get(node, NEXT), Ordering::Relaxed);
        self.len.store(self.len() - 1, Ordering::Relaxed);
        Some(node)
    }
}

/// Free, inactive and active nodes, common or one slot's.
struct Lists {
    /// Protects the three lists. Taken after a slot's stock lock, before bucket locks; its holder does not sleep.
    lock: RawLock,
    free: Stack,
    /// Nodes from here to `fresh_end` were never used.
    fresh: AtomicU32,
    fresh_end: u32,
    inactive: List,
    active: List,
    /// Where the next look for used nodes in inactive begins.
    rotation: AtomicU32,
}

impl Lists {
    /// The lists of `slot`, with the nodes of `fresh`.
    fn new(slot: u32, fresh: std::ops::Range<u32>) -> Lists {
        Lists {
            lock: RawLock::default(),
            free: Stack::new(),
            fresh: AtomicU32::new(fresh.start),
            fresh_end: fresh.end,
            inactive: List::new(On::Inactive, slot),
            active: List::new(On::Active, slot),
            rotation: AtomicU32::new(NONE),
        }
    }

    /// A free node.
    #[inline]
    fn take_free(&self, nodes: Nodes<'_>) -> Option<u32> {
        self.free.pop(nodes).or_else(|| {
            let fresh = self.fresh.load(Ordering::Relaxed);
            (fresh < self.fresh_end).then(|| {
                self.fresh.store(fresh + 1, Ordering::Relaxed);
                fresh
            })
        })
    }

    fn has_free(&self) -> bool {
        self.free.len() > 0 || self.fresh.load(Ordering::Relaxed) < self.fresh_end
    }

    /// Takes `node` out of whichever list it is on.
    #[inline]
    fn detach(&self, nodes: Nodes<'_>, node: u32) {
        if self.rotation.load(Ordering::Relaxed) == node {
            self.rotation.store(nodes.get(node, PREV), Ordering::Relaxed);
        }
        let list = if nodes.place(node).0 == On::Active as u32 { &self.active } else { &self.inactive };
        list.remove(nodes, node);
    }

    #[inline]
    fn move_to(&self, nodes: Nodes<'_>, node: u32, list: &List) {
        self.detach(nodes, node);
        nodes.set(node, USED, 0);
        list.push(nodes, node);
    }

    /// Frees a node that is on one of the lists and not in the table.
    #[inline]
    fn release(&self, nodes: Nodes<'_>, node: u32, free: &Stack) {
        self.detach(nodes, node);
        free.push(nodes, node);
    }

    /// Moves used nodes to active, and unused ones back when inactive has become short.
    fn rotate(&self, nodes: Nodes<'_>, looks: u32) {
        if self.inactive.len() < self.active.len() {
            for _ in 0..looks.min(self.active.len()) {
                let Some(node) = self.active.last() else { break };
                if nodes.is_stray(node) {
                    self.release(nodes, node, &self.free);
                    continue;
                }
                let list = if nodes.is_used(node) { &self.active } else { &self.inactive };
                self.move_to(nodes, node, list);
            }
        }
        let mut at = Some(self.rotation.load(Ordering::Relaxed)).filter(|n| *n != NONE).or(self.inactive.last());
        for _ in 0..looks.min(self.inactive.len()) {
            let Some(node) = at else { break };
            let before = Some(nodes.get(node, PREV)).filter(|n| *n != NONE);
            if nodes.is_used(node) {
                self.move_to(nodes, node, &self.active);
            }
            at = before.or(self.inactive.last());
        }
        self.rotation.store(at.unwrap_or(NONE), Ordering::Relaxed);
    }

    /// Evicts up to `want` nodes to `free`: unused ones from inactive's tail; when there is none, one that is used.
    fn shrink(&self, nodes: Nodes<'_>, want: u32, looks: u32, free: &Stack, evict: &dyn Fn(u32) -> bool) {
        let mut done = 0;
        let mut at = self.inactive.last();
        for _ in 0..looks {
            let Some(node) = at else { break };
            at = Some(nodes.get(node, PREV)).filter(|n| *n != NONE);
            if nodes.is_used(node) {
                self.move_to(nodes, node, &self.active);
            } else if nodes.is_stray(node) || evict(node) {
                self.release(nodes, node, free);
                done += 1;
            }
            if done == want {
                break;
            }
        }
        if done > 0 {
            return;
        }
        let list = if self.inactive.len() > 0 { &self.inactive } else { &self.active };
        let mut at = list.last();
        while let Some(node) = at {
            at = Some(nodes.get(node, PREV)).filter(|n| *n != NONE);
            if nodes.is_stray(node) || evict(node) {
                self.release(nodes, node, free);
                return;
            }
        }
    }
}

/// What a slot keeps beside the common lists, on cache lines of its own.
#[repr(align(64))]
struct Stock {
    /// Protects the three. First lock of an update; its holder does not sleep.
    lock: RawLock,
    free: Stack,
    pending: List,
    /// Nodes that left the table and are still on a common list, linked as the table links free ones.
    replaced: AtomicU32,
}

/// What slots share, and what each keeps.
struct Common {
    lists: Lists,
    stocks: Box<[Stock]>,
    batch: u32,
    /// Nodes that were taken from another slot for one whose lock could not be had again: on no list, free for all.
    adrift: FreeLists,
}

enum Shape {
    Common(Common),
    PerSlot(Box<[Lists]>),
}

/// See the module's head.
pub(crate) struct Lru {
    words: ZeroedArray<Words>,
    shape: Shape,
}

impl Lru {
    /// A pool of `entries` nodes. Without common lists `entries` must be a multiple of `slots`.
    pub(crate) fn new(entries: u32, slots: u32, common: bool, pages: Pages) -> Result<Lru, MapError> {
        let words = ZeroedArray::new(entries as usize, pages)?;
        let slots = slots.max(1);
        let shape = if common {
            let lists = Lists::new(0, 0..entries);
            let stock = |slot| Stock {
                lock: RawLock::default(),
                free: Stack::new(),
                pending: List::new(On::Pending, slot),
                replaced: AtomicU32::new(NONE),
            };
            // Small maps keep small stocks, so that one slot's stock does not starve the others.
            let batch = (entries / slots / 2).clamp(1, BATCH);
            Shape::Common(Common { lists, stocks: (0..slots).map(stock).collect(), batch, adrift: FreeLists::new(1) })
        } else {
            let share = entries / slots;
            Shape::PerSlot((0..slots).map(|slot| Lists::new(slot, slot * share..(slot + 1) * share)).collect())
        };
        Ok(Lru { words, shape })
    }

    #[inline(always)]
    fn nodes(&self) -> Nodes<'_> {
        Nodes(self.words.all())
    }

    /// Takes `node` out of the table, unless it is not (yet, or any more) in it.
    fn evict(cx: &RunCx, table: &Table<RawLock>, node: u32) -> bool {
        let bucket = table.bucket(table.node_hash(node));
        bucket.lock(cx).is_ok_and(|_held| bucket.is_of(node) && bucket.unlink_node(node))
    }

    #[inline(always)]
    fn begin_common<'a>(
        &'a self,
        cx: &RunCx,
        table: &Table<RawLock>,
        common: &'a Common,
    ) -> Result<Hold<'a>, MapError> {
        let stock = &common.stocks[place_of(cx.slot, common.stocks.len())];
        let mut guard = stock.lock.lock(cx, Class::LruLocal).map_err(no_node)?;
        if stock.free.len() == 0 {
            let _lists_held = common.lists.lock.lock(cx, Class::Lru).map_err(no_node)?;
            self.refill(cx, table, &common.lists, stock, common.batch);
        }
        let node = match stock.free.pop(self.nodes()) {
            Some(node) => node,
            None => {
                drop(guard);
                // Other slots hold everything: take one of theirs.
                let stolen = self.steal(cx, table, common)?;
                guard = Lru::lock_again(cx, table, common, stock, stolen)?;
                stolen
            }
        };
        Ok(self.enter(&stock.pending, node, guard, Owner::Stock(stock)))
    }

    /// The lock of a slot for which a node was taken from another one; where it cannot be had, the node is free for all.
    #[cold]
    fn lock_again<'a>(
        cx: &RunCx,
        table: &Table<RawLock>,
        common: &Common,
        stock: &'a Stock,
        stolen: u32,
    ) -> Result<Guard<'a, RawLock>, MapError> {
        stock.lock.lock(cx, Class::LruLocal).map_err(|error| {
            common.adrift.push(table, 0, stolen);
            no_node(error)
        })
    }

    /// Puts a node for an update on the list of those that are in use.
    #[inline(always)]
    fn enter<'a>(&self, list: &List, node: u32, guard: Guard<'a, RawLock>, of: Owner<'a>) -> Hold<'a> {
        self.nodes().set(node, USED, 0);
        list.push(self.nodes(), node);
        Hold { node: Some(node), guard: Some(guard), of }
    }

    #[cold]
    fn steal(&self, cx: &RunCx, table: &Table<RawLock>, common: &Common) -> Result<u32, MapError> {
        let (nodes, Common { lists, stocks, adrift, .. }) = (self.nodes(), common);
        if let Some(node) = adrift.pop(table, 0) {
            return Ok(node);
        }
        let own = place_of(cx.slot, stocks.len());
        let stolen = (1..stocks.len()).find_map(|away| {
            let other = &stocks[(own + away) % stocks.len()];
            let _held = other.lock.lock(cx, Class::LruLocal).ok()?;
            if other.replaced.load(Ordering::Relaxed) != NONE
                && let Ok(_lists_held) = lists.lock.lock(cx, Class::Lru)
            {
                self.take_replaced(table, lists, other);
            }
            if let Some(node) = other.free.pop(nodes) {
                return Some(node);
            }
            let mut at = other.pending.last();
            while let Some(node) = at {
                at = Some(nodes.get(node, PREV)).filter(|n| *n != NONE);
                if nodes.is_stray(node) || Lru::evict(cx, table, node) {
                    other.pending.remove(nodes, node);
                    return Some(node);
                }
            }
            None
        });
        stolen.ok_or(Errno::ENOMEM.into())
    }

    /// Takes what updates replaced off the common lists, into the slot's stock. Both locks are held.
    fn take_replaced(&self, table: &Table<RawLock>, lists: &Lists, stock: &Stock) {
        let mut at = stock.replaced.load(Ordering::Relaxed);
        stock.replaced.store(NONE, Ordering::Relaxed);
        while at != NONE {
            let node = at;
            at = table.link(node).load(Ordering::Relaxed);
            lists.release(self.nodes(), node, &stock.free);
        }
    }

    /// Gives what a slot handed out to the common lists, and fills its stock. Both locks are held.
    #[inline(never)]
    fn refill(&self, cx: &RunCx, table: &Table<RawLock>, lists: &Lists, stock: &Stock, batch: u32) {
        let nodes = self.nodes();
        self.take_replaced(table, lists, stock);
        for node in stock.pending.drain(nodes) {
            if nodes.is_stray(node) {
                lists.free.push(nodes, node);
                continue;
            }
            let list = if nodes.is_used(node) { &lists.active } else { &lists.inactive };
            nodes.set(node, USED, 0);
            list.push(nodes, node);
        }
        lists.rotate(nodes, BATCH);
        while stock.free.len() < batch {
            let Some(node) = lists.take_free(nodes) else { break };
            stock.free.push(nodes, node);
        }
        if stock.free.len() < batch {
            let want = batch - stock.free.len();
            lists.shrink(nodes, want, BATCH, &stock.free, &|node| Lru::evict(cx, table, node));
        }
    }

    #[inline(never)]
    fn begin_own<'a>(&self, cx: &RunCx, table: &Table<RawLock>, lists: &'a Lists) -> Result<Hold<'a>, MapError> {
        let nodes = self.nodes();
        let guard = lists.lock.lock(cx, Class::Lru).map_err(no_node)?;
        lists.rotate(nodes, OWN_BATCH);
        if !lists.has_free() {
            lists.shrink(nodes, OWN_BATCH, OWN_BATCH, &lists.free, &|node| Lru::evict(cx, table, node));
        }
        let node = lists.take_free(nodes).ok_or(Errno::ENOMEM)?;
        Ok(self.enter(&lists.inactive, node, guard, Owner::Lists(lists)))
    }

    /// Takes back a node that is out of the table, under the owner's lock; whether it could.
    #[inline(always)]
    fn take_back(&self, table: &Table<RawLock>, of: Owner<'_>, node: u32) -> bool {
        let nodes = self.nodes();
        let (on, slot) = nodes.place(node);
        match of {
            Owner::Stock(stock) if stock.pending.holds(nodes, node) => {
                stock.pending.remove(nodes, node);
                stock.free.push(nodes, node);
            }
            Owner::Stock(stock) if on != On::Pending as u32 => {
                table.link(node).store(stock.replaced.load(Ordering::Relaxed), Ordering::Relaxed);
                stock.replaced.store(node, Ordering::Relaxed);
            }
            Owner::Lists(lists) if lists.inactive.place >> 8 == slot => lists.release(nodes, node, &lists.free),
            Owner::Stock(_) | Owner::Lists(_) | Owner::Nobody => return false,
        }
        true
    }
}

/// What an update has of the lists while it goes on. In parts that fit registers: together they would go through memory.
#[derive(Default)]
pub(crate) struct Hold<'a> {
    /// A node for it; once that is used, the one that it replaced: what is left when the update ends.
    node: Option<u32>,
    /// The lock under which the node was taken.
    guard: Option<Guard<'a, RawLock>>,
    /// Whose it is.
    of: Owner<'a>,
}

#[derive(Clone, Copy, Default)]
enum Owner<'a> {
    #[default]
    Nobody,
    Stock(&'a Stock),
    Lists(&'a Lists),
}

/// A list that cannot be locked has no node to give.
fn no_node(_: rtbpf_rt::LockError) -> MapError {
    Errno::ENOMEM.into()
}

impl Pool for Lru {
    type Lock = RawLock;

    type Hold<'a> = Hold<'a>;

    #[inline(always)]
    fn begin<'a>(&'a self, cx: &RunCx, table: &Table<RawLock>) -> Result<Hold<'a>, MapError> {
        match &self.shape {
            Shape::Common(common) => self.begin_common(cx, table, common),
            Shape::PerSlot(lists) => self.begin_own(cx, table, &lists[place_of(cx.slot, lists.len())]),
        }
    }

    #[inline]
    fn take(&self, _: &RunCx, _: &Table<RawLock>, hold: &mut Hold<'_>) -> Result<u32, MapError> {
        hold.node.take().ok_or(Errno::ENOMEM.into())
    }

    #[inline]
    fn swap(&self, _: &Bucket<'_, RawLock>, hold: &mut Hold<'_>, old: u32) -> u32 {
        hold.node.replace(old).expect("an update that may need a node has one, and needs no second one")
    }

    #[inline(always)]
    fn end(&self, cx: &RunCx, table: &Table<RawLock>, hold: Hold<'_>) {
        let left = match hold.node {
            Some(node) if !self.take_back(table, hold.of, node) => Some(node),
            _ => None,
        };
        drop(hold.guard);
        if let Some(node) = left {
            self.give_back(cx, table, node);
        }
    }

    fn give_back(&self, cx: &RunCx, _: &Table<RawLock>, node: u32) {
        let nodes = self.nodes();
        let slot = nodes.place(node).1;
        match &self.shape {
            Shape::Common(Common { lists, stocks, .. }) => {
                let stock = &stocks[place_of(slot, stocks.len())];
                // A node that left the table becomes pending no more, so a look without the lock saves taking it.
                if stock.pending.holds(nodes, node)
                    && let Ok(_held) = stock.lock.lock(cx, Class::LruLocal)
                    && stock.pending.holds(nodes, node)
                {
                    stock.pending.remove(nodes, node);
                    stock.free.push(nodes, node);
                    return;
                }
                if let Ok(_held) = lists.lock.lock(cx, Class::Lru) {
                    let on = nodes.place(node).0;
                    if on != On::Pending as u32 {
                        lists.release(nodes, node, &lists.free);
                        return;
                    }
                }
                // A handler that interrupted the list's owner: the next eviction finds the node.
                nodes.set(node, USED, STRAY);
            }
            Shape::PerSlot(all) => {
                let lists = &all[place_of(slot, all.len())];
                match lists.lock.lock(cx, Class::Lru) {
                    Ok(_held) => lists.release(nodes, node, &lists.free),
                    Err(_) => nodes.set(node, USED, STRAY),
                }
            }
        }
    }

    #[inline]
    fn touch(&self, node: u32) {
        // Read first: a hot node's line stays shared.
        if self.nodes().get(node, USED) == 0 {
            self.nodes().set(node, USED, 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::Size;

    const CX: RunCx = RunCx::program(0);

    #[test]
    fn a_node_whose_taker_is_refused_its_own_lock_is_found_again() {
        let size = Size { entries: 1, slots: 1, spares: false, key: 4, value: 8 };
        let table = Table::new(size, 1, Pages::Now).expect("there is memory");
        let lru = Lru::new(1, 2, true, Pages::Now).expect("there is memory");
        let Shape::Common(common) = &lru.shape else { panic!("lists are common") };
        // The only node is free on slot 1.
        let hold = lru.begin(&RunCx::program(1), &table).expect("there is a node");
        lru.end(&RunCx::program(1), &table, hold);
        let stolen = lru.steal(&CX, &table, common).expect("slot 1 has it");
        {
            let stock = &common.stocks[0];
            let _held = stock.lock.lock(&CX, Class::LruLocal).expect("nobody has it");
            assert!(Lru::lock_again(&CX, &table, common, stock, stolen).is_err(), "its own thread holds it");
        }
        let hold = lru.begin(&CX, &table).expect("what was stolen is there");
        assert_eq!(hold.node, Some(stolen));
    }
}
