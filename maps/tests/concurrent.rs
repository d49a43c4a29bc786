//! Maps under several threads: what is read was written for that key, what is promised of capacity holds.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rtbpf_abi::map_spec::flags;
use rtbpf_abi::{MapKind, MapSpec};
use rtbpf_maps::{CreateCx, MapRef, ProgOut, create};
use rtbpf_rt::RunCx;

fn map(kind: MapKind, key: u32, value: u32, max: u32, flags: u32, sleeping: bool) -> MapRef {
    let mut spec = MapSpec::new(kind, key, value, max);
    spec.flags = flags;
    create(&spec, &CreateCx { sleeping_locks: sleeping, ..CreateCx::new(2) }).expect("legal attributes")
}

/// How long a storm may last at most: an emulator is a hundred times slower, and now and then much more.
const STORM: Duration = Duration::from_secs(2);

fn value_of(key: u32, round: u32) -> [u8; 8] {
    (u64::from(key) << 32 | u64::from(round)).to_le_bytes()
}

#[test]
fn a_value_always_belongs_to_its_key() {
    for (kind, flags, sleeping) in [
        (MapKind::Hash, 0, false),
        (MapKind::Hash, flags::NO_PREALLOC, false),
        (MapKind::Hash, flags::NO_PREALLOC, true),
        (MapKind::LruHash, 0, false),
        (MapKind::LruHash, flags::NO_COMMON_LRU, false),
    ] {
        let max = 32;
        let map = map(kind, 4, 8, max, flags, sleeping);
        let done = AtomicBool::new(false);
        let until = Instant::now() + STORM;
        std::thread::scope(|scope| {
            let (map, done) = (&map, &done);
            for slot in 0..2u32 {
                scope.spawn(move || {
                    let cx = RunCx { slot, ..RunCx::CONTROL };
                    for round in 0..30_000u32 {
                        let key = round.wrapping_mul(2_654_435_761) >> 26;
                        let _ = map.update(&cx, &key.to_le_bytes(), value_of(key, round)[..].into(), 0);
                        if round % 3 == 0 {
                            let _ = map.delete(&cx, &(key ^ 1).to_le_bytes());
                        }
                        if round % 256 == 0 && Instant::now() > until {
                            break;
                        }
                    }
                    done.store(true, Ordering::Release);
                });
            }
            scope.spawn(move || {
                let mut out = Vec::new();
                while !done.load(Ordering::Acquire) {
                    for key in 0..64u32 {
                        // Taken out under the bucket lock, so key and value are one element's.
                        out.clear();
                        if map.take(&RunCx::CONTROL, &key.to_le_bytes(), 0, &mut out).is_ok() {
                            assert_eq!(out[4..], key.to_le_bytes(), "{kind:?} {flags}");
                        }
                    }
                }
            });
        });
        let mut count = 0;
        map.for_each(&RunCx::CONTROL, &mut |_, _| {
            count += 1;
            true
        })
        .expect("hash maps are walked");
        assert!(count <= max, "{count} keys in a map of {max}");
        // Nothing leaked: a map that was emptied takes as many keys as a fresh one.
        for key in 0..64u32 {
            let _ = map.delete(&RunCx::CONTROL, &key.to_le_bytes());
        }
        if kind == MapKind::Hash {
            for key in 0..max {
                map.update(&RunCx::CONTROL, &key.to_le_bytes(), value_of(key, 0)[..].into(), 0).expect("all free");
            }
        }
    }
}

#[test]
fn a_prefix_that_is_always_there_is_always_found() {
    let key = |len: u32, data: u32| [len.to_le_bytes(), data.to_be_bytes()].concat();
    for sleeping in [false, true] {
        let map = map(MapKind::LpmTrie, 8, 8, 256, flags::NO_PREALLOC, sleeping);
        let put = |len, data| map.update(&RunCx::CONTROL, &key(len, data), value_of(len, 0)[..].into(), 0);
        // One behind the table of first bits and one before it; both are written again and again.
        let fixed = [(6, 0x0400_0000), (24, 0x0a0b_0c00)];
        fixed.iter().for_each(|(len, data)| put(*len, *data).expect("room"));
        let done = AtomicBool::new(false);
        let until = Instant::now() + STORM / 2;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for round in 0..100_000u32 {
                    fixed.iter().for_each(|(len, data)| put(*len, *data).expect("room"));
                    // Neighbours and longer ones come and go, and with them the nodes that join them.
                    let (len, data) = (1 + round % 32, round.wrapping_mul(0x9e37_79b9) | 0x8000_0000);
                    let _ = put(len, data);
                    let _ = put(32, 0x0a0b_0c80 | (round % 4));
                    let _ = map.delete(&RunCx::CONTROL, &key(32, 0x0a0b_0c80 | ((round + 1) % 4)));
                    let _ = map.delete(&RunCx::CONTROL, &key(len, data));
                    if Instant::now() > until {
                        break;
                    }
                }
                done.store(true, Ordering::Release);
            });
            let mut looks = 0u64;
            while !done.load(Ordering::Acquire) {
                for (_, data) in fixed {
                    let found = map.lookup(&RunCx::program(1), &key(32, data));
                    assert!(found.is_some(), "{data:#x} after {looks} looks");
                    looks += 1;
                }
            }
            println!("{looks} looks");
        });
    }
}

#[test]
fn what_is_pushed_is_popped_once() {
    let map = map(MapKind::Queue, 0, 8, 16, 0, false);
    let (pushed, popped) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for slot in 0..2u32 {
            let (map, pushed, popped) = (&map, &pushed, &popped);
            scope.spawn(move || {
                let cx = RunCx::program(slot);
                for i in 1..20_000u64 {
                    if map.push(&cx, i.to_le_bytes()[..].into(), 0).is_ok() {
                        pushed.fetch_add(i, Ordering::Relaxed);
                    }
                    let mut out = [0; 8];
                    if i % 2 == 0 && map.pop(&cx, ProgOut::from(&mut out[..])).is_ok() {
                        popped.fetch_add(u64::from_le_bytes(out), Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let mut out = [0; 8];
    while map.pop(&RunCx::CONTROL, ProgOut::from(&mut out[..])).is_ok() {
        popped.fetch_add(u64::from_le_bytes(out), Ordering::Relaxed);
    }
    assert_eq!(pushed.into_inner(), popped.into_inner());
}

#[test]
fn inner_maps_can_be_replaced_under_readers() {
    let inner = |value: u64| {
        let inner = map(MapKind::Array, 4, 8, 1, 0, false);
        inner.update(&RunCx::CONTROL, &[0; 4], value.to_le_bytes()[..].into(), 0).expect("index 0");
        inner
    };
    for kind in [MapKind::ArrayOfMaps, MapKind::HashOfMaps] {
        let cx = CreateCx { inner: Some(inner(0)), ..CreateCx::new(2) };
        let outer = create(&MapSpec::new(kind, 4, 4, 2), &cx).expect("legal attributes");
        let object = |value: u64| rtbpf_maps::Object::Map(inner(value));
        outer.update_object(&RunCx::CONTROL, &[0; 4], &object(7), 0).expect("alike");
        let (done, seen) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            let (outer, done, seen) = (&outer, &done, &seen);
            let reader = scope.spawn(move || {
                while !done.load(Ordering::Acquire) {
                    if let Some(inner) = outer.inner(&RunCx::program(1), &[0; 4]) {
                        let mut out = Vec::new();
                        inner.read(&RunCx::CONTROL, &[0; 4], 0, &mut out).expect("index 0");
                        assert!(u64::from_le_bytes(out.try_into().expect("8 bytes")) >= 7);
                        seen.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
            for value in 8..400 {
                outer.update_object(&RunCx::CONTROL, &[0; 4], &object(value), 0).expect("alike");
            }
            while seen.load(Ordering::Relaxed) == 0 && !reader.is_finished() {
                std::thread::yield_now();
            }
            done.store(true, Ordering::Release);
        });
        let address = outer.lookup(&RunCx::program(0), &[0; 4]).expect("filled").addr();
        assert_eq!(
            rtbpf_maps::map_at(address).map(|map| map.id()),
            outer.inner(&RunCx::CONTROL, &[0; 4]).map(|m| m.id())
        );
        assert_eq!(outer.delete(&RunCx::CONTROL, &[0; 4]), Ok(()));
        assert!(outer.inner(&RunCx::CONTROL, &[0; 4]).is_none());
    }
}
