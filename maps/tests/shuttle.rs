//! Whole maps under chosen interleavings (shuttle): threads change places at every shared word and every lock, and every
//! history is linearizable.
//!
//! `RUSTFLAGS="--cfg shuttle" cargo test -p rtbpf-maps --test shuttle --release -- --nocapture --test-threads=1`;
//! `RTBPF_SCHEDULES` sets how many schedules each kind of map gets. One test at a time: shuttle's threads of two tests have
//! the same ids, and would take each other's locks for their own.
#![cfg(shuttle)]

mod history;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use history::{Chance, Event, Op, SUBJECTS, Subject, is_linearizable, number};
use rtbpf_abi::{MapKind, MapSpec};
use rtbpf_maps::{CreateCx, Ringbuf, create};
use rtbpf_rt::RunCx;

const THREADS: u32 = 3;
const OPS: u32 = 3;

/// One schedule: the threads' operations are drawn by `seed`, their order by shuttle.
fn schedule(subject: Subject, seed: u64) {
    let map = subject.create();
    let clock = Arc::new(AtomicU32::new(0));
    let history = Arc::new(Mutex::new(Vec::new()));
    let threads: Vec<_> = (0..THREADS)
        .map(|slot| {
            let (map, clock, history) = (map.clone(), clock.clone(), history.clone());
            shuttle::thread::spawn(move || {
                let mut chance = Chance::new(seed * u64::from(THREADS) + u64::from(slot));
                let cx = RunCx { slot, ..RunCx::CONTROL };
                for at in 0..OPS {
                    let op: Op = subject.draw(&mut chance, slot << 16 | at);
                    let begun = clock.fetch_add(1, Ordering::SeqCst);
                    let answer = subject.run(&*map, &cx, op);
                    let ended = clock.fetch_add(1, Ordering::SeqCst);
                    history.lock().expect("no panic").push(Event { begun, ended, op, answer });
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    let history = history.lock().expect("no panic");
    assert!(is_linearizable(subject, &history), "{subject:?}, seed {seed}: {history:#?}");
}

/// Two producers, who may give records back, and a reader.
fn ring(seed: u64) {
    let map = create(&MapSpec::new(MapKind::Ringbuf, 0, 0, 4096), &CreateCx::new(2)).expect("two pages");
    let sent = Arc::new(Mutex::new([const { Vec::new() }; 2]));
    let producer = |slot: u32| {
        let (map, sent) = (map.clone(), sent.clone());
        shuttle::thread::spawn(move || {
            let ring = map.as_any().downcast_ref::<Ringbuf>().expect("a ring buffer");
            let mut chance = Chance::new(seed * 2 + u64::from(slot));
            for at in 0..3u32 {
                let record = [slot, at];
                if chance.below(3) == 0 {
                    let given_back = ring.reserve(&RunCx::program(slot), 8, 0).expect("room");
                    ring.discard(given_back.addr(), 0);
                } else {
                    let bytes: Vec<u8> = record.iter().flat_map(|word| word.to_le_bytes()).collect();
                    ring.output(&RunCx::program(slot), bytes[..].into(), 0).expect("room");
                    sent.lock().expect("no panic")[slot as usize].push(bytes);
                }
            }
        })
    };
    let producers = [producer(0), producer(1)];
    let mut read: [Vec<Vec<u8>>; 2] = Default::default();
    let ring = map.as_any().downcast_ref::<Ringbuf>().expect("a ring buffer");
    let mut consume = || {
        ring.consume(&mut |record| {
            read[usize::from(record[0])].push(record.to_vec());
            true
        });
    };
    for _ in 0..3 {
        consume();
        shuttle::thread::yield_now();
    }
    producers.into_iter().for_each(|thread| thread.join().expect("no panic"));
    consume();
    assert_eq!(read, *sent.lock().expect("no panic"), "seed {seed}");
}

/// Runs each schedule with a number of its own; how many there were.
fn each_schedule(run: impl Fn(u64) + Send + Sync + 'static) -> u64 {
    let count = number("RTBPF_SCHEDULES", 2000);
    let seed = AtomicU64::new(0);
    shuttle::check_random(move || run(seed.fetch_add(1, Ordering::Relaxed)), count as usize);
    count
}

/// A reader who looks twice for a key that is put in the place of another one.
fn early(seed: u64) {
    let map = create(&MapSpec::new(MapKind::Hash, 4, 4, 1), &CreateCx::new(2)).expect("a page");
    let (old, new) = (1u32.to_le_bytes(), 2u32.to_le_bytes());
    map.update(&RunCx::CONTROL, &old, old[..].into(), 0).expect("room");
    let writer = {
        let map = map.clone();
        shuttle::thread::spawn(move || {
            map.delete(&RunCx::program(0), &old).expect("it is there");
            map.update(&RunCx::program(0), &new, new[..].into(), 0).expect("room");
        })
    };
    let sees = || map.lookup(&RunCx::program(1), &new).is_some();
    let (first, second) = (sees(), sees());
    writer.join().expect("no panic");
    assert!(!first || second, "seed {seed}: it was seen, and then it was not there");
}

#[test]
fn a_key_is_not_seen_before_it_is_there() {
    let count = each_schedule(early);
    println!("a key to come: {count} schedules, not seen before it is there");
}

/// Three threads whose keys an LRU map has no room for, together: each key is there once, and
/// afterwards the map takes new ones.
fn crowded_lru(seed: u64) {
    const ROOM: u32 = 4;
    let map = create(&MapSpec::new(MapKind::LruHash, 4, 4, ROOM), &CreateCx::new(2)).expect("a page");
    let keys = || {
        let mut keys = Vec::new();
        let each = &mut |key: &[u8], _| {
            keys.push(key.to_vec());
            true
        };
        map.for_each(&RunCx::CONTROL, each).expect("hash maps are walked");
        keys.sort();
        keys
    };
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| {
            let map = map.clone();
            shuttle::thread::spawn(move || {
                let mut chance = Chance::new(seed * u64::from(THREADS) + u64::from(thread));
                let cx = RunCx::program(thread % 2);
                for _ in 0..4 {
                    let key = (chance.below(6) as u32).to_le_bytes();
                    match chance.below(4) {
                        // The others may hold all elements at this moment.
                        0..3 => drop(map.update(&cx, &key, key[..].into(), 0)),
                        _ => drop(map.delete(&cx, &key)),
                    }
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    let left = keys();
    assert!(left.len() <= ROOM as usize && left.windows(2).all(|pair| pair[0] != pair[1]), "seed {seed}: {left:?}");
    for key in &left {
        map.delete(&RunCx::CONTROL, key).expect("it is there");
    }
    let new: Vec<_> = (10..10 + ROOM).map(|key| key.to_le_bytes().to_vec()).collect();
    for key in &new {
        map.update(&RunCx::CONTROL, key, key[..].into(), 0).expect("an LRU map is never full");
    }
    assert!(keys().iter().all(|key| new.contains(key)), "seed {seed}");
}

#[test]
fn crowded_lru_maps_have_no_key_twice_and_take_new_ones() {
    let count = each_schedule(crowded_lru);
    println!("crowded LRU map: {count} schedules, no key there twice");
}

#[test]
fn what_producers_send_is_read_once_in_their_order() {
    let count = each_schedule(ring);
    println!("ring buffer: {count} schedules, each record read once and in order");
}

#[test]
fn maps_are_linearizable_under_every_schedule_tried() {
    for subject in SUBJECTS {
        let count = each_schedule(move |seed| schedule(subject, seed));
        println!("{subject:?}: {count} schedules, all linearizable");
    }
}
