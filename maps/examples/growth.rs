//! How does the cost of an operation grow with the entries of a map? One thread; keys in an order that no cache guesses;
//! the shortest of many rounds, in nanoseconds, printed and drawn.
//!
//! `cargo run --release -p rtbpf-maps --example growth`; an argument is the most entries (10 000 000).

use std::hint::black_box;
use std::time::Instant;

use rtbpf_abi::map_spec::flags;
use rtbpf_abi::{MapKind, MapSpec};
use rtbpf_maps::{CreateCx, Map, create};
use rtbpf_rt::RunCx;

const CX: RunCx = RunCx::program(0);
/// Operations of a round.
const OPS: u32 = 10_000;
const ROUNDS: u32 = 40;
/// Characters of the longest bar.
const WIDTH: f64 = 60.0;

/// What is measured: a kind of map, and whether it is looked up or written.
#[derive(Clone, Copy)]
struct Work {
    name: &'static str,
    kind: MapKind,
    flags: u32,
    writes: bool,
}

const WORKS: [Work; 7] = {
    const fn work(name: &'static str, kind: MapKind, flags: u32, writes: bool) -> Work {
        Work { name, kind, flags, writes }
    }
    [
        work("array lookup", MapKind::Array, 0, false),
        work("hash lookup", MapKind::Hash, 0, false),
        work("hash update", MapKind::Hash, 0, true),
        work("hash update, dynamic", MapKind::Hash, flags::NO_PREALLOC, true),
        work("lru lookup", MapKind::LruHash, 0, false),
        work("lru update", MapKind::LruHash, 0, true),
        work("lpm lookup", MapKind::LpmTrie, flags::NO_PREALLOC, false),
    ]
};

/// Key `at` of a map: addresses of hosts for tries.
fn key(kind: MapKind, at: u32) -> ([u8; 8], usize) {
    match kind {
        MapKind::LpmTrie => ((u64::from(at.wrapping_mul(0x9e37_79b1)) << 32 | 32).to_le_bytes(), 8),
        _ => (u64::from(at).to_le_bytes(), 4),
    }
}

/// Nanoseconds an operation on a map that holds `entries`.
fn measure(work: Work, entries: u32) -> f64 {
    let key_size = key(work.kind, 0).1 as u32;
    // LRU maps give up elements in batches: room for one more of them keeps all keys.
    let room = if work.kind == MapKind::LruHash { entries + entries / 4 + 512 } else { entries };
    let spec = MapSpec { flags: work.flags, ..MapSpec::new(work.kind, key_size, 8, room) };
    let map = create(&spec, &CreateCx::new(2)).expect("memory for the map");
    let put = |map: &dyn Map, at: u32| {
        let (bytes, len) = key(work.kind, at);
        map.update(&CX, &bytes[..len], [7; 8][..].into(), 0).expect("room");
    };
    (0..entries).for_each(|at| put(&*map, at));
    let mut at = 0u32;
    let round = |_| {
        let begun = Instant::now();
        for _ in 0..OPS {
            at = at.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let place = ((u64::from(at) * u64::from(entries)) >> 32) as u32;
            if work.writes {
                put(&*map, place);
            } else {
                let (bytes, len) = key(work.kind, place);
                black_box(map.lookup(&CX, &bytes[..len]));
            }
        }
        begun.elapsed().as_nanos() as f64 / f64::from(OPS)
    };
    (0..ROUNDS).map(round).fold(f64::INFINITY, f64::min)
}

fn main() {
    let most = std::env::args().nth(1).and_then(|most| most.parse().ok()).unwrap_or(10_000_000);
    for work in WORKS {
        println!("{}", work.name);
        let sizes = (2..=7).map(|power| 10u32.pow(power)).take_while(|entries| *entries <= most);
        let costs: Vec<_> = sizes.map(|entries| (entries, measure(work, entries))).collect();
        let longest = costs.iter().map(|(_, ns)| *ns).fold(1.0, f64::max);
        for (entries, ns) in costs {
            println!("  {entries:>10} {ns:>8.1} ns {}", "#".repeat((ns / longest * WIDTH).ceil() as usize));
        }
    }
}
