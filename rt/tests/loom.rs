//! All interleavings of the lock-free parts, by loom: `RUSTFLAGS="--cfg loom" cargo test -p rtbpf-rt --test loom --release`.
#![cfg(loom)]

use std::collections::VecDeque;

use loom::cell::UnsafeCell;
use loom::sync::atomic::fence;
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;
use rtbpf_rt::freelist::{FreeLists, Links};
use rtbpf_rt::gate;
use rtbpf_rt::lock::prim::{AtomicU32, AtomicU64, Ordering};
use rtbpf_rt::lock::word;

struct Nodes(Vec<AtomicU32>);

impl Links for Nodes {
    fn link(&self, node: u32) -> &AtomicU32 {
        &self.0[node as usize]
    }
}

struct World {
    lists: FreeLists,
    nodes: Nodes,
    /// 1 while somebody has the node.
    taken: Vec<AtomicU32>,
}

fn world(slots: u32, nodes: u32) -> Arc<World> {
    let words = || (0..nodes).map(|_| AtomicU32::new(0)).collect::<Vec<_>>();
    let world = World { lists: FreeLists::new(slots), nodes: Nodes(words()), taken: words() };
    (0..nodes).for_each(|node| world.lists.push(&world.nodes, node % slots, node));
    Arc::new(world)
}

/// Takes a node and gives it back, and checks that nobody else had it.
fn turn(world: &World, slot: u32) {
    if let Some(node) = world.lists.pop(&world.nodes, slot) {
        assert_eq!(world.taken[node as usize].swap(1, Ordering::AcqRel), 0, "node {node} was given twice");
        world.taken[node as usize].store(0, Ordering::Release);
        world.lists.push(&world.nodes, slot, node);
    }
}

fn left(world: &World) -> usize {
    std::iter::from_fn(|| world.lists.pop(&world.nodes, 0)).count()
}

#[test]
fn two_threads_on_one_list_share_nothing() {
    loom::model(|| {
        let world = world(1, 2);
        let other = {
            let world = world.clone();
            thread::spawn(move || turn(&world, 0))
        };
        turn(&world, 0);
        other.join().expect("no panic");
        assert_eq!(left(&world), 2);
    });
}

#[test]
fn a_node_that_comes_back_in_between_does_not_fool_a_pop() {
    loom::model(|| {
        let world = world(1, 2);
        let other = {
            let world = world.clone();
            thread::spawn(move || {
                // Takes both and gives them back in the other order: the top is the same node with another link.
                let (a, b) = (world.lists.pop(&world.nodes, 0), world.lists.pop(&world.nodes, 0));
                a.into_iter().chain(b).for_each(|node| world.lists.push(&world.nodes, 0, node));
            })
        };
        turn(&world, 0);
        other.join().expect("no panic");
        assert_eq!(left(&world), 2);
    });
}

#[test]
fn a_thief_and_an_owner_share_nothing() {
    loom::model(|| {
        let world = world(2, 1);
        let other = {
            let world = world.clone();
            thread::spawn(move || turn(&world, 1))
        };
        turn(&world, 0);
        other.join().expect("no panic");
        assert_eq!(left(&world), 1);
    });
}

/// A thing that readers find by a link, and who frees it when none of them can see it any more.
struct Retired {
    /// 1 while the thing can be found.
    link: AtomicU32,
    readers: [AtomicU64; 2],
    epoch: AtomicU64,
    /// Loom sees who reads it, and who frees it by writing.
    thing: UnsafeCell<u32>,
}

impl Retired {
    fn new() -> Arc<Retired> {
        let word = || AtomicU64::new(0);
        let (link, epoch) = (AtomicU32::new(1), AtomicU64::new(1));
        Arc::new(Retired { link, readers: [word(), word()], epoch, thing: UnsafeCell::new(7) })
    }

    /// Enters a section `deep` times, and reads the thing if it finds it.
    fn read(&self, reader: usize, deep: usize) {
        let state = &self.readers[reader];
        (0..deep).for_each(|_| assert!(gate::begin(state, &self.epoch, || fence(Ordering::SeqCst))));
        if self.link.load(Ordering::Acquire) == 1 {
            // SAFETY: loom reports an access side by side with that of `retire`; the value is never invalid.
            self.thing.with(|thing| assert_eq!(unsafe { *thing }, 7, "read after it was freed"));
        }
        (0..deep).for_each(|_| gate::end(state));
    }

    /// Takes the thing out, and frees it if nobody is in a section from before; whether it did.
    fn retire(&self) -> bool {
        self.link.store(0, Ordering::Release);
        let epoch = self.epoch.fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        let unseen = self.readers.iter().all(|reader| gate::since(reader).is_none_or(|since| since > epoch));
        if unseen {
            // SAFETY: as in `read`.
            self.thing.with_mut(|thing| unsafe { *thing = 0 });
        }
        unseen
    }
}

#[test]
fn what_is_freed_is_read_by_nobody() {
    loom::model(|| {
        let world = Retired::new();
        let reader = {
            let world = world.clone();
            thread::spawn(move || {
                world.read(0, 2);
                world.read(0, 1);
            })
        };
        world.retire();
        reader.join().expect("no panic");
    });
}

#[test]
fn every_reader_counts() {
    loom::model(|| {
        let world = Retired::new();
        let readers = [0, 1].map(|reader| {
            let world = world.clone();
            thread::spawn(move || world.read(reader, 1))
        });
        world.retire();
        readers.into_iter().for_each(|reader| reader.join().expect("no panic"));
    });
}

/// A lock word, the kernel behind it as futex(2) has it, and what the lock protects.
struct Locked {
    word: AtomicU32,
    /// Sleepers in their order.
    kernel: Mutex<VecDeque<u32>>,
    woken: Condvar,
    count: UnsafeCell<u32>,
    /// Whose slot it is, where the lock is a slot's lease.
    holder: AtomicU32,
}

impl Locked {
    fn new() -> Arc<Locked> {
        let (word, holder) = (AtomicU32::new(0), AtomicU32::new(0));
        let (kernel, woken) = (Mutex::new(VecDeque::new()), Condvar::new());
        Arc::new(Locked { word, kernel, woken, count: UnsafeCell::new(0), holder })
    }

    /// `FUTEX_LOCK_PI`.
    fn sleep(&self, tid: u32) {
        let mut sleepers = self.kernel.lock().expect("no panic");
        loop {
            let seen = self.word.load(Ordering::Relaxed);
            let (new, mine) = if seen & word::OWNER == 0 { (tid, true) } else { (seen | word::WAITERS, false) };
            if self.word.compare_exchange(seen, new, Ordering::Acquire, Ordering::Relaxed).is_err() {
                continue;
            }
            if mine {
                return;
            }
            break;
        }
        sleepers.push_back(tid);
        while self.word.load(Ordering::Acquire) & word::OWNER != tid {
            sleepers = self.woken.wait(sleepers).expect("no panic");
        }
    }

    /// `FUTEX_UNLOCK_PI`: straight to the first sleeper.
    fn hand_over(&self) {
        let mut sleepers = self.kernel.lock().expect("no panic");
        let next = sleepers.pop_front();
        let waiters = if sleepers.is_empty() { 0 } else { word::WAITERS };
        self.word.store(next.map_or(0, |tid| tid | waiters), Ordering::Release);
        self.woken.notify_all();
    }

    fn turn(&self, tid: u32) {
        if !word::try_take(&self.word, tid) {
            self.sleep(tid);
        }
        assert_eq!(self.holder.load(Ordering::Relaxed), 0, "two have it");
        self.holder.store(tid, Ordering::Relaxed);
        // SAFETY: loom reports accesses that the lock does not keep apart.
        self.count.with_mut(|count| unsafe { *count += 1 });
        self.holder.store(0, Ordering::Release);
        if !word::try_give_back(&self.word, tid) {
            self.hand_over();
        }
    }
}

/// Each of `threads` takes the lock `turns` times; loom reports a sleeper that is never woken as a deadlock. With
/// `preemptions`, no schedule has more of them: all those of three threads take minutes.
fn take_turns(threads: u32, turns: u32, preemptions: Option<usize>) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = preemptions;
    model.check(move || {
        let lock = Locked::new();
        let others: Vec<_> = (2..=threads)
            .map(|tid| {
                let lock = lock.clone();
                thread::spawn(move || (0..turns).for_each(|_| lock.turn(tid)))
            })
            .collect();
        (0..turns).for_each(|_| lock.turn(1));
        others.into_iter().for_each(|other| other.join().expect("no panic"));
        // SAFETY: nobody else is left.
        lock.count.with(|count| assert_eq!(unsafe { *count }, threads * turns));
        assert_eq!(lock.word.load(Ordering::Relaxed), 0);
    });
}

#[test]
fn a_lock_keeps_two_apart_and_wakes_who_sleeps() {
    take_turns(2, 2, None);
}

#[test]
fn a_lock_is_handed_from_sleeper_to_sleeper() {
    take_turns(3, 1, Some(2));
}
