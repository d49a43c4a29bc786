//! Recorded histories of concurrent operations, and whether they are linearizable: whether the operations can be put in
//! one order, in which each takes effect between its begin and its end, that a sequential map would have answered so.
//!
//! The search is Wing and Gong's (1993): take any operation that began before every other one ended, let the model do
//! it, and go on; states seen with the same operations done are not searched again.

use std::collections::{BTreeMap, HashSet, VecDeque};

use rtbpf_abi::map_spec::flags;
use rtbpf_abi::{MapKind, MapSpec};
use rtbpf_maps::{CreateCx, Map, MapRef, ProgOut, create, update};
use rtbpf_rt::RunCx;

/// What is done to a map. Keys are small; values tell operations apart.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Op {
    /// Update with flags.
    Put(u8, u32, u64),
    Delete(u8),
    /// Lookup and delete.
    Take(u8),
    /// Whether a lookup finds the key. (What stands behind the pointer may be another key's by the time it is read: on
    /// Linux as here, elements are reused at once.)
    Has(u8),
    Push(u32),
    Pop,
}

/// What was answered: done, or a value, or not.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Answer {
    Done,
    Value(u32),
    Refused,
}

/// One operation of a history. Times are ticks of one counter.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    pub begun: u32,
    pub ended: u32,
    pub op: Op,
    pub answer: Answer,
}

/// A map and its sequential model.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Subject {
    /// A hash map; allocated at run time or not, with a sleeping lock or not.
    Hash {
        dynamic: bool,
        sleeping: bool,
    },
    /// An LRU map that has room for all keys.
    Lru,
    /// The same keys as prefixes of full length.
    Trie {
        sleeping: bool,
    },
    Queue,
    Stack,
}

pub const SUBJECTS: [Subject; 8] = [
    Subject::Hash { dynamic: false, sleeping: false },
    Subject::Hash { dynamic: true, sleeping: false },
    Subject::Hash { dynamic: true, sleeping: true },
    Subject::Lru,
    Subject::Trie { sleeping: false },
    Subject::Trie { sleeping: true },
    Subject::Queue,
    Subject::Stack,
];

/// Keys that operations draw from. All of them fit in the map: what a full one answers while a delete is under way
/// depends on the element, not on the key.
const KEYS: u64 = 3;
/// What a queue holds.
const ROOM: usize = 2;

impl Subject {
    pub fn create(self) -> MapRef {
        let (spec, sleeping_locks) = match self {
            // Two buckets, so that keys meet in one chain.
            Subject::Hash { dynamic, sleeping } => {
                let flags = flags::ZERO_SEED | if dynamic { flags::NO_PREALLOC } else { 0 };
                (MapSpec { flags, ..MapSpec::new(MapKind::Hash, 4, 4, 4) }, sleeping)
            }
            Subject::Lru => (MapSpec::new(MapKind::LruHash, 4, 4, 32), false),
            Subject::Trie { sleeping } => {
                (MapSpec { flags: flags::NO_PREALLOC, ..MapSpec::new(MapKind::LpmTrie, 8, 4, 8) }, sleeping)
            }
            Subject::Queue => (MapSpec::new(MapKind::Queue, 0, 4, ROOM as u32), false),
            Subject::Stack => (MapSpec::new(MapKind::Stack, 0, 4, ROOM as u32), false),
        };
        create(&spec, &CreateCx { sleeping_locks, ..CreateCx::new(4) }).expect("legal attributes")
    }

    /// A random operation that the map has.
    pub fn draw(self, chance: &mut Chance, value: u32) -> Op {
        let key = chance.below(KEYS) as u8;
        match self {
            Subject::Queue | Subject::Stack if chance.below(2) == 0 => Op::Push(value),
            Subject::Queue | Subject::Stack => Op::Pop,
            Subject::Hash { .. } | Subject::Lru if chance.below(8) == 0 => Op::Take(key),
            Subject::Hash { .. } | Subject::Lru | Subject::Trie { .. } => match chance.below(8) {
                0..4 => Op::Put(
                    key,
                    value,
                    [update::ANY, update::ANY, update::NOEXIST, update::EXIST][chance.below(4) as usize],
                ),
                4 | 5 => Op::Delete(key),
                _ => Op::Has(key),
            },
        }
    }

    fn key(self, key: u8) -> Vec<u8> {
        match self {
            // Two of them differ in the last bit only, one in the first.
            Subject::Trie { .. } => {
                [[32, 0, 0, 0], [[10, 0, 0, 0], [10, 0, 0, 1], [138, 0, 0, 0]][usize::from(key)]].concat()
            }
            Subject::Hash { .. } | Subject::Lru | Subject::Queue | Subject::Stack => {
                u32::from(key).to_le_bytes().to_vec()
            }
        }
    }

    pub fn run(self, map: &dyn Map, cx: &RunCx, op: Op) -> Answer {
        let done = |ok: bool| if ok { Answer::Done } else { Answer::Refused };
        match op {
            Op::Put(key, value, how) => {
                done(map.update(cx, &self.key(key), value.to_le_bytes()[..].into(), how).is_ok())
            }
            Op::Delete(key) => done(map.delete(cx, &self.key(key)).is_ok()),
            Op::Has(key) => done(map.lookup(cx, &self.key(key)).is_some()),
            Op::Take(key) => {
                let mut out = Vec::new();
                match map.take(cx, &self.key(key), 0, &mut out) {
                    Ok(()) => Answer::Value(u32::from_le_bytes(out.try_into().expect("4 bytes"))),
                    Err(_) => Answer::Refused,
                }
            }
            Op::Push(value) => done(map.push(cx, value.to_le_bytes()[..].into(), 0).is_ok()),
            Op::Pop => {
                let mut out = [0; 4];
                match map.pop(cx, ProgOut::from(&mut out[..])) {
                    Ok(()) => Answer::Value(u32::from_le_bytes(out)),
                    Err(_) => Answer::Refused,
                }
            }
        }
    }
}

/// The sequential map.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
struct Model {
    values: BTreeMap<u8, u32>,
    line: VecDeque<u32>,
}

impl Model {
    fn run(&mut self, subject: Subject, op: Op) -> Answer {
        let done = |ok: bool| if ok { Answer::Done } else { Answer::Refused };
        let value = |value: Option<u32>| value.map_or(Answer::Refused, Answer::Value);
        match op {
            Op::Put(key, value, how) => {
                let present = self.values.contains_key(&key);
                let admitted = !(how == update::NOEXIST && present || how == update::EXIST && !present);
                if admitted {
                    self.values.insert(key, value);
                }
                done(admitted)
            }
            Op::Delete(key) => done(self.values.remove(&key).is_some()),
            Op::Has(key) => done(self.values.contains_key(&key)),
            Op::Take(key) => value(self.values.remove(&key)),
            Op::Push(value) => {
                let room = self.line.len() < ROOM;
                if room {
                    self.line.push_back(value);
                }
                done(room)
            }
            Op::Pop if subject == Subject::Queue => value(self.line.pop_front()),
            Op::Pop => value(self.line.pop_back()),
        }
    }
}

/// Whether a history of at most 32 operations on a map that was empty is linearizable.
pub fn is_linearizable(subject: Subject, history: &[Event]) -> bool {
    let all = (1u64 << history.len()) - 1;
    let mut seen = HashSet::new();
    let mut left = vec![(0u64, Model::default())];
    while let Some((done, model)) = left.pop() {
        if done == all {
            return true;
        }
        if !seen.insert((done, model.clone())) {
            continue;
        }
        let open = || history.iter().enumerate().filter(|(at, _)| done >> at & 1 == 0);
        let first_end = open().map(|(_, event)| event.ended).min().unwrap_or(0);
        for (at, event) in open().filter(|(_, event)| event.begun < first_end) {
            let mut next = model.clone();
            if next.run(subject, event.op) == event.answer {
                left.push((done | 1 << at, next));
            }
        }
    }
    false
}

/// xorshift64*: chance that repeats.
pub struct Chance(u64);

impl Chance {
    pub fn new(seed: u64) -> Chance {
        // Neighbouring seeds begin far apart.
        Chance(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) % n
    }
}

/// A number that the environment may set.
pub fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}
