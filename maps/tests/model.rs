//! Maps against models over std collections: random operations, one seed a run. `RTBPF_MODEL_OPS` sets how many
//! operations each map gets (default 20 000), `RTBPF_SEED` the seed.

use std::collections::{BTreeMap, HashMap, VecDeque};

use rtbpf_abi::map_spec::flags;
use rtbpf_abi::{Errno, MapKind, MapSpec};
use rtbpf_maps::{CreateCx, Map, MapRef, ProgBytes, ProgOut, create, update};
use rtbpf_rt::RunCx;

const CX: RunCx = RunCx::CONTROL;

/// xorshift64*: chance that repeats.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 16) % n
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn chance() -> Chance {
    let seed = number("RTBPF_SEED", 0x9e37_79b9);
    println!("RTBPF_SEED={seed}");
    Chance(seed | 1)
}

fn ops() -> u64 {
    number("RTBPF_MODEL_OPS", 20_000)
}

fn map(kind: MapKind, key: u32, value: u32, max: u32, flags: u32, sleeping: bool) -> MapRef {
    let mut spec = MapSpec::new(kind, key, value, max);
    spec.flags = flags;
    create(&spec, &CreateCx { sleeping_locks: sleeping, ..CreateCx::new(2) }).expect("legal attributes")
}

fn errno(result: Result<(), rtbpf_maps::MapError>) -> Option<Errno> {
    result.err().map(|error| error.errno())
}

fn read(map: &dyn Map, key: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    map.read(&CX, key, 0, &mut out).is_ok().then_some(out)
}

fn keys(map: &dyn Map) -> Vec<Vec<u8>> {
    let mut keys: Vec<Vec<u8>> = Vec::new();
    loop {
        let mut next = Vec::new();
        if map.next_key(&CX, keys.last().map(Vec::as_slice), &mut next).is_err() {
            return keys;
        }
        keys.push(next);
    }
}

#[test]
fn hash_maps_answer_like_a_hash_map_of_bounded_size() {
    let mut chance = chance();
    for (flags, sleeping) in [(0, false), (flags::NO_PREALLOC, false), (flags::NO_PREALLOC, true)] {
        let (max, key_size) = (64, 12);
        let map = map(MapKind::Hash, key_size, 20, max, flags, sleeping);
        let mut model: HashMap<Vec<u8>, Vec<u8>> = HashMap::new();
        for step in 0..ops() {
            let mut key = vec![0; key_size as usize];
            key[chance.below(3) as usize * 4] = chance.below(40) as u8;
            match chance.below(10) {
                0..5 => {
                    let value: Vec<u8> = (0..20).map(|_| chance.next() as u8).collect();
                    let how = chance.below(3);
                    let present = model.contains_key(&key);
                    let expected = match how {
                        update::NOEXIST if present => Some(Errno::EEXIST),
                        update::EXIST if !present => Some(Errno::ENOENT),
                        _ if !present && model.len() == max as usize => Some(Errno::E2BIG),
                        _ => None,
                    };
                    let got = errno(map.update(&CX, &key, ProgBytes::from(&value[..]), how));
                    assert_eq!(got, expected, "update at step {step}, flags {flags}");
                    if expected.is_none() {
                        model.insert(key, value);
                    }
                }
                5..8 => {
                    let expected = if model.remove(&key).is_some() { None } else { Some(Errno::ENOENT) };
                    assert_eq!(errno(map.delete(&CX, &key)), expected, "delete at step {step}");
                }
                8 => assert_eq!(read(&*map, &key), model.get(&key).cloned(), "read at step {step}"),
                _ => {
                    let mut out = Vec::new();
                    let got = errno(map.take(&CX, &key, 0, &mut out));
                    assert_eq!(got, if model.contains_key(&key) { None } else { Some(Errno::ENOENT) });
                    assert_eq!(got.is_none().then_some(out), model.remove(&key), "take at step {step}");
                }
            }
            if step % 1024 == 0 {
                let mut seen = keys(&*map);
                seen.sort();
                let mut expected: Vec<_> = model.keys().cloned().collect();
                expected.sort();
                assert_eq!(seen, expected, "walk at step {step}");
            }
        }
    }
    println!("hash maps: {} operations like std's", 3 * ops());
}

#[test]
fn lru_maps_never_refuse_and_never_invent() {
    let mut chance = chance();
    for flags in [0, flags::NO_COMMON_LRU] {
        let max = 64;
        let map = map(MapKind::LruHash, 4, 8, max, flags, false);
        let mut last: HashMap<u32, u64> = HashMap::new();
        for step in 0..ops() {
            let key = chance.below(200) as u32;
            let cx = RunCx::program(chance.below(2) as u32);
            match chance.below(10) {
                0..6 => {
                    map.update(&cx, &key.to_le_bytes(), step.to_le_bytes()[..].into(), 0).expect("never full");
                    last.insert(key, step);
                    assert_eq!(read(&*map, &key.to_le_bytes()), Some(step.to_le_bytes().to_vec()));
                }
                6 => {
                    let _ = map.delete(&cx, &key.to_le_bytes());
                    last.remove(&key);
                }
                _ => {
                    map.lookup(&cx, &key.to_le_bytes());
                    if let Some(value) = read(&*map, &key.to_le_bytes()) {
                        assert_eq!(Some(&u64::from_le_bytes(value.try_into().expect("8 bytes"))), last.get(&key));
                    }
                }
            }
            if step % 1024 == 0 {
                assert!(keys(&*map).len() <= max as usize);
            }
        }
    }
    println!("lru maps: {} operations", 2 * ops());
}

/// Bits of `a` and `b` that agree from the first on.
fn agree(a: &[u8], b: &[u8]) -> u32 {
    let same = a.iter().zip(b).take_while(|(x, y)| x == y).count();
    let rest = a.get(same).zip(b.get(same)).map_or(0, |(x, y)| (x ^ y).leading_zeros());
    same as u32 * 8 + rest
}

#[test]
fn tries_answer_like_a_search_of_all_prefixes() {
    let mut chance = chance();
    for sleeping in [false, true] {
        let max = 96;
        let map = map(MapKind::LpmTrie, 7, 8, max, flags::NO_PREALLOC, sleeping);
        let mut model: BTreeMap<(u32, [u8; 3]), u64> = BTreeMap::new();
        let masked = |len: u32, data: [u8; 3]| {
            let word = u32::from_be_bytes([data[0], data[1], data[2], 0]);
            let kept = if len == 0 { 0 } else { word & (u32::MAX << (32 - len)) };
            [kept.to_be_bytes()[0], kept.to_be_bytes()[1], kept.to_be_bytes()[2]]
        };
        for step in 0..ops() {
            let len = chance.below(25) as u32;
            let data = [0, 1, 2].map(|_| [0u8, 0x80, 0xff, 0x0f][chance.below(4) as usize]);
            let key = [&len.to_le_bytes()[..], &data].concat();
            let id = (len, masked(len, data));
            match chance.below(8) {
                0..4 => {
                    let full = !model.contains_key(&id) && model.len() == max as usize;
                    let got = errno(map.update(&CX, &key, step.to_le_bytes()[..].into(), 0));
                    assert_eq!(got, full.then_some(Errno::ENOSPC), "update at step {step}");
                    if !full {
                        model.insert(id, step);
                    }
                }
                4..6 => {
                    let expected = if model.remove(&id).is_some() { None } else { Some(Errno::ENOENT) };
                    assert_eq!(errno(map.delete(&CX, &key)), expected, "delete {id:?} at step {step}");
                }
                _ => {
                    let fits = |(l, d): &(u32, [u8; 3])| *l <= len && agree(d, &data) >= *l;
                    let best = model.iter().filter(|(id, _)| fits(id)).max_by_key(|((l, _), _)| *l);
                    let expected = best.map(|(_, value)| value.to_le_bytes().to_vec());
                    assert_eq!(read(&*map, &key), expected, "lookup {id:?} at step {step}");
                }
            }
            if step % 1024 == 0 {
                assert_eq!(keys(&*map).len(), model.len(), "walk at step {step}");
            }
        }
    }
    println!("tries: {} operations like a search of all prefixes", 2 * ops());
}

#[test]
fn queues_and_stacks_answer_like_a_deque() {
    let mut chance = chance();
    for kind in [MapKind::Queue, MapKind::Stack] {
        let max = 7;
        let map = map(kind, 0, 8, max, 0, false);
        let mut model: VecDeque<u64> = VecDeque::new();
        for step in 0..ops() {
            let next = if kind == MapKind::Queue { model.front().copied() } else { model.back().copied() };
            let mut out = [0xffu8; 8];
            match chance.below(6) {
                0..3 => {
                    let replace = chance.below(4) == 0;
                    let full = model.len() == max as usize;
                    let flags = if replace { update::EXIST } else { 0 };
                    let got = errno(map.push(&CX, step.to_le_bytes()[..].into(), flags));
                    assert_eq!(got, (full && !replace).then_some(Errno::E2BIG));
                    if got.is_none() {
                        if full {
                            model.pop_front();
                        }
                        model.push_back(step);
                    }
                }
                3 => {
                    let got = map.peek(&CX, ProgOut::from(&mut out[..])).is_ok().then(|| u64::from_le_bytes(out));
                    assert_eq!(got, next);
                }
                _ => {
                    let got = map.pop(&CX, ProgOut::from(&mut out[..])).is_ok().then(|| u64::from_le_bytes(out));
                    assert_eq!(got, next);
                    if kind == MapKind::Queue {
                        model.pop_front()
                    } else {
                        model.pop_back()
                    };
                    assert!(next.is_some() || out == [0; 8], "an empty map hands out zeroes");
                }
            }
        }
    }
    println!("queues and stacks: {} operations like std's", 2 * ops());
}

#[test]
fn sizes_at_every_edge_are_errors_and_never_panics() {
    let edges = [0, 1, 4, 8, 13, 32_768, 1 << 31, u32::MAX];
    for kind in MapKind::ALL {
        for key in edges {
            for value in edges {
                for max in [0, 1, 3, 4096, u32::MAX] {
                    let mut spec = MapSpec::new(*kind, key, value, max);
                    for flags in [0, flags::NO_PREALLOC, flags::MMAPABLE] {
                        spec.flags = flags;
                        // Whatever is created must be usable; whatever is refused has an errno.
                        let Ok(map) = create(&spec, &CreateCx::new(2)) else { continue };
                        let key = vec![0u8; key as usize % 4096];
                        let _ = map.lookup(&CX, &key);
                        let _ = map.delete(&CX, &key);
                    }
                }
            }
        }
    }
}
