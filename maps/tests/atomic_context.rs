//! Operations that programs may use in a handler neither allocate nor free, and do not fault in pages; nor does the control
//! plane allocate or free under a raw lock.

use rtbpf_abi::map_spec::flags;
use rtbpf_abi::{Errno, MapKind, MapSpec};
use rtbpf_maps::control::{Batch, lookup_batch};
use rtbpf_maps::{CreateCx, MapRef, ProgOut, Ringbuf, StackTrace, create};
use rtbpf_rt::alloc_gate::{Gate, violations};
use rtbpf_rt::{Entry, Level, Model, Path, ProgCounters, RunCx, Slots, pin};

#[global_allocator]
static ALLOCATOR: Gate = Gate::system();

fn map(kind: MapKind, key: u32, value: u32, max: u32) -> MapRef {
    create(&MapSpec::new(kind, key, value, max), &CreateCx { prefault: true, ..CreateCx::new(2) }).expect("legal")
}

fn dynamic(kind: MapKind, key: u32, value: u32, max: u32) -> MapRef {
    let spec = MapSpec { flags: flags::NO_PREALLOC, ..MapSpec::new(kind, key, value, max) };
    create(&spec, &CreateCx::new(2)).expect("legal")
}

#[test]
fn handlers_allocate_nothing_and_the_gate_would_see_it() {
    let slots = Slots::new(2, Model::Rt);
    let lease = slots.lease().expect("free");
    let program = ProgCounters::new(2);
    let hashes = [
        map(MapKind::Hash, 4, 8, 64),
        map(MapKind::PercpuHash, 4, 8, 64),
        map(MapKind::LruHash, 4, 8, 64),
        map(MapKind::Array, 4, 8, 64),
        map(MapKind::PercpuArray, 4, 8, 64),
    ];
    let (queue, stack) = (map(MapKind::Queue, 0, 8, 8), map(MapKind::StackTrace, 4, 8 * 127, 64));
    let (bloom, ring) = (map(MapKind::BloomFilter, 0, 8, 64), map(MapKind::Ringbuf, 0, 0, 4096));
    let stack = stack.as_any().downcast_ref::<StackTrace>().expect("a stack trace");
    let ring = ring.as_any().downcast_ref::<Ringbuf>().expect("a ring buffer");
    let frames: Vec<u64> = (1..=127).collect();
    let fresh = create(&MapSpec::new(MapKind::Array, 4, 4096, 64), &CreateCx::new(2)).expect("legal");
    let work = |entry: &Entry<'_>, round: u64| {
        let cx = entry.cx();
        let value = round.to_le_bytes();
        for hash in &hashes {
            for key in 0..96u32 {
                let _ = hash.update(&cx, &key.to_le_bytes(), value[..].into(), 0);
                let _ = hash.lookup(&cx, &key.to_le_bytes());
                if key % 5 == 0 {
                    let _ = hash.delete(&cx, &key.to_le_bytes());
                }
            }
        }
        let mut out = [0; 8];
        let _ = queue.push(&cx, value[..].into(), 0);
        let _ = queue.pop(&cx, ProgOut::from(&mut out[..]));
        let _ = queue.pop(&cx, ProgOut::from(&mut out[..]));
        let _ = bloom.push(&cx, value[..].into(), 0);
        let _ = bloom.peek(&cx, ProgOut::from(&mut out[..]));
        let _ = stack.id_of(&cx, &frames[round as usize % 100..], 1 << 10);
        let _ = ring.output(&cx, value[..].into(), 0);
        if let Some(record) = ring.reserve(&cx, 16, 0) {
            ring.discard(record.addr(), 0);
        }
    };
    let entry = Entry::begin(lease.slot(), Path::PerfOverflow, Level::Nmi, &program).expect("nothing runs");
    for round in 0..20 {
        work(&entry, round);
    }
    // The steady state: of several windows the quietest, for the system may move pages for reasons of its own.
    let window = |rounds: std::ops::Range<u64>| {
        let before = pin::minor_faults();
        rounds.for_each(|round| work(&entry, round));
        pin::minor_faults() - before
    };
    let faults = (1..5).map(|turn| window(turn * 50..turn * 50 + 50)).min();
    // A control: the counter counts.
    let before = pin::minor_faults();
    for key in 0..64u32 {
        fresh.update(&entry.cx(), &key.to_le_bytes(), [1; 4096][..].into(), 0).expect("in range");
    }
    let control = pin::minor_faults() - before;
    assert_eq!(violations(), (0, 0), "allocations and frees in a handler");
    // An emulator of user programs takes faults of its own, for the code it translates.
    if emulated() {
        println!("skipped: page faults are counted on the processor itself only");
    } else {
        assert_eq!(faults, Some(0), "page faults in a steady state");
        assert!(control >= 16, "{control} page faults for 64 pages that nobody had touched");
    }
    // The control: what the gate is for, it sees.
    drop(std::hint::black_box(vec![1u8, 2, 3]));
    let (allocations, frees) = violations();
    assert!(allocations >= 1 && frees >= 1);
    drop(entry);
    let before = violations();
    drop(std::hint::black_box(vec![1u8, 2, 3]));
    assert_eq!(violations(), before, "task level may allocate");
    control_plane_allocates_nothing_under_raw_locks(&hashes);
    assert_eq!((program.ran(), program.misses().total()), (1, 0));
}

/// Reads, takes and batches allocate what they answer with before they lock.
fn control_plane_allocates_nothing_under_raw_locks(maps: &[MapRef]) {
    let before = violations();
    let cx = RunCx::CONTROL;
    let trie = dynamic(MapKind::LpmTrie, 8, 8, 64);
    let tables = [dynamic(MapKind::Hash, 4, 8, 64), dynamic(MapKind::PercpuHash, 4, 8, 64)];
    for round in 0..64u32 {
        let prefix = [(round % 33).to_le_bytes(), round.wrapping_mul(0x9e37_79b9).to_be_bytes()].concat();
        let _ = trie.update(&cx, &prefix, [7; 8][..].into(), 0);
        for map in maps.iter().chain(&tables) {
            let _ = map.update(&cx, &round.to_le_bytes(), [7; 16][..].into(), 0);
            let mut out = Vec::new();
            let _ = map.read(&cx, &round.to_le_bytes(), 0, &mut out);
            if round % 4 == 0 {
                let _ = map.take(&cx, &round.to_le_bytes(), 0, &mut Vec::new());
            }
        }
    }
    for map in maps.iter().chain(&tables) {
        let batch = Batch { count: 128, ..Batch::default() };
        let seen = lookup_batch(&**map, &cx, &batch, map.spec().kind != MapKind::Array);
        assert!(seen.pairs.len() > 16 || seen.errno == Some(Errno::ENOTSUPP), "{:?}: {seen:?}", map.spec().kind);
    }
    for round in 0..64u32 {
        let prefix = [(round % 33).to_le_bytes(), round.wrapping_mul(0x9e37_79b9).to_be_bytes()].concat();
        let _ = trie.delete(&cx, &prefix);
    }
    assert_eq!(violations(), before, "allocations and frees under a raw lock");
}

/// Whether another processor's kernel runs this program (qemu-user shows the host's `/proc/cpuinfo`).
fn emulated() -> bool {
    let host = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    cfg!(target_arch = "aarch64") && host.contains("vendor_id")
}
