//! How long does one map operation take? One thread, 512 `u32` keys with 8-byte values, median of 15 rounds.
//!
//! `cargo run --release -p rtbpf-maps --example map_speed`

use std::hint::black_box;
use std::time::Instant;

use rtbpf_abi::map_spec::flags;
use rtbpf_abi::{MapKind, MapSpec};
use rtbpf_maps::{CreateCx, MapRef, ProgOut, Ringbuf, create};
use rtbpf_rt::{Class, Lock, PiMutex, RawLock, RunCx};

const KEYS: u32 = 512;
const CX: RunCx = RunCx::program(0);

fn map(kind: MapKind, key: u32, value: u32, max: u32, flags: u32) -> MapRef {
    let mut spec = MapSpec::new(kind, key, value, max);
    spec.flags = flags;
    create(&spec, &CreateCx { prefault: true, ..CreateCx::new(2) }).expect("legal attributes")
}

/// Runs `op` for every key, many times, and prints the median time of one.
fn time(name: &str, mut op: impl FnMut(u32)) {
    let mut rounds: Vec<f64> = (0..15)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..200 {
                (0..KEYS).for_each(&mut op);
            }
            start.elapsed().as_nanos() as f64 / f64::from(200 * KEYS)
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    println!("{name:<34} {:6.1} ns  ({:.1} to {:.1})", rounds[7], rounds[0], rounds[14]);
}

fn main() {
    let value = 7u64.to_le_bytes();
    let filled = |kind, max, flags| {
        let map = map(kind, 4, 8, max, flags);
        (0..KEYS).for_each(|key| map.update(&CX, &key.to_le_bytes(), value[..].into(), 0).expect("room"));
        map
    };
    let array = filled(MapKind::Array, KEYS, 0);
    time("array lookup (call)", |key| {
        black_box(array.lookup(&CX, &key.to_le_bytes()));
    });
    time("array update", |key| array.update(&CX, &key.to_le_bytes(), value[..].into(), 0).expect("in range"));
    let hash = filled(MapKind::Hash, KEYS, 0);
    time("hash lookup", |key| {
        black_box(hash.lookup(&CX, &key.to_le_bytes()));
    });
    time("hash lookup, miss", |key| {
        black_box(hash.lookup(&CX, &(key + KEYS).to_le_bytes()));
    });
    time("hash update", |key| hash.update(&CX, &key.to_le_bytes(), value[..].into(), 0).expect("there"));
    time("hash delete and insert", |key| {
        hash.delete(&CX, &key.to_le_bytes()).expect("there");
        hash.update(&CX, &key.to_le_bytes(), value[..].into(), 0).expect("room");
    });
    let dynamic = filled(MapKind::Hash, KEYS, flags::NO_PREALLOC);
    time("hash update, not preallocated", |key| {
        dynamic.update(&CX, &key.to_le_bytes(), value[..].into(), 0).expect("there");
    });
    let lru = filled(MapKind::LruHash, 4 * KEYS, 0);
    time("lru update", |key| lru.update(&CX, &key.to_le_bytes(), value[..].into(), 0).expect("never full"));
    let mut next = 0u32;
    time("lru update with eviction", |_| {
        next = next.wrapping_add(1);
        lru.update(&CX, &next.to_le_bytes(), value[..].into(), 0).expect("never full");
    });
    let trie = map(MapKind::LpmTrie, 8, 8, KEYS, flags::NO_PREALLOC);
    let prefix = |key: u32, len: u32| (u64::from(key.wrapping_mul(0x9e37_79b1)) << 32 | u64::from(len)).to_le_bytes();
    for key in 0..KEYS {
        let _ = trie.update(&CX, &prefix(key, 24), value[..].into(), 0);
    }
    time("lpm /24 lookup", |key| {
        black_box(trie.lookup(&CX, &prefix(key, 32)));
    });
    let hosts = map(MapKind::LpmTrie, 8, 8, KEYS, flags::NO_PREALLOC);
    let host = |key: u32| (u64::from(key) << 32 | 32).to_le_bytes();
    (0..KEYS).for_each(|key| hosts.update(&CX, &host(key), value[..].into(), 0).expect("room"));
    time("lpm /32 lookup", |key| {
        black_box(hosts.lookup(&CX, &host(key)));
    });
    let queue = map(MapKind::Queue, 0, 8, 64, 0);
    time("queue push and pop", |_| {
        let mut out = [0; 8];
        queue.push(&CX, value[..].into(), 0).expect("room");
        queue.pop(&CX, ProgOut::from(&mut out[..])).expect("pushed");
    });
    let ring = map(MapKind::Ringbuf, 0, 0, 1 << 16, 0);
    let ring = ring.as_any().downcast_ref::<Ringbuf>().expect("a ring buffer");
    time("ringbuf reserve, discard, consume", |_| {
        if let Some(record) = ring.reserve(&CX, 16, 0) {
            ring.discard(record.addr(), 0);
        }
        ring.consume(&mut |_| true);
    });
    time("ringbuf reserve, discard in silence", |key| {
        if let Some(record) = ring.reserve(&CX, 16, 0) {
            ring.discard(record.addr(), rtbpf_maps::ringbuf::wakeup::NO);
        }
        if key == 0 {
            ring.consume(&mut |_| true);
        }
    });
    let (raw, sleeping) = (RawLock::default(), PiMutex::default());
    time("raw lock pair", |_| drop(black_box(raw.lock(&CX, Class::Queue))));
    time("sleeping lock pair", |_| drop(black_box(sleeping.lock(&CX, Class::Control))));
}
