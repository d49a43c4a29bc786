//! All interleavings of the lock-free parts, by loom: `RUSTFLAGS="--cfg loom" cargo test -p rtbpf-rt --test loom --release`.
#![cfg(loom)]

use std::collections::VecDeque;

use loom::cell::UnsafeCell;
use loom::sync::atomic::fence;
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;
use rtbpf_rt::doorbell::Doorbell;
use rtbpf_rt::freelist::{FreeLists, Links};
use rtbpf_rt::gate;
use rtbpf_rt::lock::prim::{AtomicU32, AtomicU64, Ordering};
use rtbpf_rt::lock::word;
use rtbpf_rt::ring::{self, Ring};

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

/// A ring of records that hold one number each.
struct Records {
    producer: AtomicU64,
    consumer: AtomicU64,
    pending: AtomicU64,
    headers: Vec<AtomicU32>,
    stamps: Vec<AtomicU32>,
    /// Loom sees who writes and who reads.
    numbers: Vec<UnsafeCell<u32>>,
    /// What a reader that sleeps waits for; and the kernel behind it.
    doorbell: Doorbell,
    kernel: Mutex<()>,
    rung: Condvar,
}

/// Bytes of a record with its header.
const STEP: u64 = 16;

impl Ring for Records {
    type Position = AtomicU64;
    type Header = AtomicU32;

    fn size(&self) -> u64 {
        self.headers.len() as u64 * STEP
    }

    fn producer(&self) -> &AtomicU64 {
        &self.producer
    }

    fn consumer(&self) -> &AtomicU64 {
        &self.consumer
    }

    fn pending(&self) -> &AtomicU64 {
        &self.pending
    }

    fn header(&self, at: u64) -> &AtomicU32 {
        &self.headers[self.place(at)]
    }

    fn stamp(&self, at: u64) -> &AtomicU32 {
        &self.stamps[self.place(at)]
    }

    fn clear(&self, at: u64, _: u64) {
        // SAFETY: as in `end`.
        self.numbers[self.place(at)].with_mut(|place| unsafe { *place = 0 });
    }
}

impl Records {
    /// Room for one record less than `places`, a power of two.
    fn new(places: usize) -> Arc<Records> {
        let position = || AtomicU64::new(0);
        Arc::new(Records {
            producer: position(),
            consumer: position(),
            pending: position(),
            headers: (0..places).map(|_| AtomicU32::new(0)).collect(),
            stamps: (0..places).map(|_| AtomicU32::new(0)).collect(),
            numbers: (0..places).map(|_| UnsafeCell::new(0)).collect(),
            doorbell: Doorbell::default(),
            kernel: Mutex::new(()),
            rung: Condvar::new(),
        })
    }

    fn place(&self, at: u64) -> usize {
        (at / STEP) as usize % self.headers.len()
    }

    fn reserve(&self) -> Option<u64> {
        ring::reserve(self, 8, |_| 1)
    }

    fn end(&self, at: u64, number: Option<u32>) {
        // SAFETY: loom reports an access side by side with another one; a number is never invalid.
        self.numbers[self.place(at)].with_mut(|place| unsafe { *place = number.unwrap_or(u32::MAX) });
        ring::commit(self, at, number.is_none());
    }

    /// Sends `number`, or reserves and gives back; whether there was room.
    fn send(&self, number: Option<u32>) -> bool {
        self.reserve().inspect(|at| self.end(*at, number)).is_some()
    }

    /// The same, and wakes a reader that sleeps at this record.
    fn send_and_tell(&self, number: u32) {
        let at = self.reserve().expect("room");
        self.end(at, Some(number));
        if ring::is_awaited(self, at) {
            self.doorbell.ring_by(|_| {
                let _asleep = self.kernel.lock().expect("no panic");
                self.rung.notify_all();
            });
        }
    }

    /// What can be read now.
    fn read(&self) -> Vec<u32> {
        let mut read = Vec::new();
        while let Some(record) = ring::oldest(self) {
            assert_eq!(record.len, 8);
            if record.is_shown {
                // SAFETY: as in `end`.
                self.numbers[self.place(record.at)].with(|place| read.push(unsafe { *place }));
            }
            ring::consume(self, record);
        }
        read
    }

    /// Sleeps in `FUTEX_WAIT` unless the doorbell was rung since it was `seen`.
    fn sleep(&self, seen: u32) {
        self.doorbell.sleep_by(seen, |rings, seen| {
            let mut asleep = self.kernel.lock().expect("no panic");
            while rings.load(Ordering::Acquire) == seen {
                asleep = self.rung.wait(asleep).expect("no panic");
            }
        });
    }
}

/// Loom, for models in which no schedule has more preemptions than these.
fn bounded(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

#[test]
fn records_are_read_once_in_order_and_their_room_is_used_again() {
    loom::model(|| {
        // Room for one record: each but the first takes the other's place, once the reader has given it back.
        let ring = Records::new(2);
        let producer = {
            let ring = ring.clone();
            thread::spawn(move || [Some(1), None, Some(2), Some(3)].map(|number| (ring.send(number), number)))
        };
        let mut read = ring.read();
        read.extend(ring.read());
        let sent = producer.join().expect("no panic");
        read.extend(ring.read());
        let sent: Vec<u32> = sent.into_iter().filter_map(|(fits, number)| number.filter(|_| fits)).collect();
        assert_eq!(read, sent);
        assert_eq!(ring.producer.load(Ordering::Relaxed), ring.consumer.load(Ordering::Relaxed));
    });
}

#[test]
fn a_busy_record_keeps_the_reader_from_those_behind_it() {
    bounded(3, || {
        let ring = Records::new(4);
        let at = ring.reserve().expect("room");
        let producer = {
            let ring = ring.clone();
            thread::spawn(move || assert!(ring.send(Some(2)) && ring.send(None)))
        };
        assert!(ring.read().is_empty(), "the first is not ended");
        ring.end(at, Some(1));
        let mut read = ring.read();
        producer.join().expect("no panic");
        read.extend(ring.read());
        assert_eq!(read, [1, 2]);
    });
}

#[test]
fn a_busy_record_is_never_written_over() {
    bounded(3, || {
        let ring = Records::new(2);
        let busy = ring.reserve().expect("room");
        // A reader, or whoever maps the ring, says that all was read.
        let producer = {
            let ring = ring.clone();
            thread::spawn(move || {
                ring.consumer.store(STEP, Ordering::Release);
                ring.send(Some(2))
            })
        };
        ring.end(busy, Some(1));
        if producer.join().expect("no panic") {
            assert_eq!(ring.read(), [2]);
        }
    });
}

#[test]
fn producers_share_no_record() {
    bounded(2, || {
        let ring = Records::new(4);
        let producers = [1, 2].map(|number| {
            let ring = ring.clone();
            thread::spawn(move || assert!(ring.send(Some(number))))
        });
        let mut read = ring.read();
        producers.into_iter().for_each(|producer| producer.join().expect("no panic"));
        read.extend(ring.read());
        read.sort_unstable();
        assert_eq!(read, [1, 2]);
    });
}

#[test]
fn producers_use_room_again_that_the_reader_is_just_clearing() {
    bounded(3, || {
        let ring = Records::new(2);
        assert!(ring.send(Some(1)));
        let producers = [2, 3].map(|number| {
            let ring = ring.clone();
            thread::spawn(move || ring.send(Some(number)).then_some(number))
        });
        let mut read = ring.read();
        let sent = producers.map(|producer| producer.join().expect("no panic"));
        read.extend(ring.read());
        let mut sent: Vec<u32> = sent.into_iter().flatten().chain([1]).collect();
        read.sort_unstable();
        sent.sort_unstable();
        assert_eq!(read, sent);
    });
}

/// Loom reports a reader that is never woken as a deadlock.
#[test]
fn a_reader_that_sleeps_is_woken() {
    bounded(4, || {
        let ring = Records::new(4);
        let producer = {
            let ring = ring.clone();
            thread::spawn(move || [1, 2].into_iter().for_each(|number| ring.send_and_tell(number)))
        };
        let mut read = Vec::new();
        while read.len() < 2 {
            let seen = ring.doorbell.seen();
            let more = ring.read();
            if more.is_empty() {
                ring.sleep(seen);
            }
            read.extend(more);
        }
        producer.join().expect("no panic");
        assert_eq!(read, [1, 2]);
    });
}
