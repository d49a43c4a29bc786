//! What does a map operation cost a program, and what does it cost in the running kernel?
//!
//! Each program does one operation, or a pair that undo each other, in a loop; the two machines run it in turn, in one
//! run. Ours as native code. The loop around an operation costs both about a nanosecond. First come pairs of locks, taken and
//! given back by nobody else, and the two locked instructions that such a pair takes at least; last the same programs on all
//! CPUs at once, on the same map: nanoseconds an operation on each. `maps NAME…` measures those whose names hold one of these
//! words; `--alone` leaves the kernel out; `--least` shows the fastest run in place of the median, for busy machines; `--once`
//! runs once and `--long` a hundred times as often, for tools that look inside. What an operation costs as maps grow,
//! `cargo run --release -p rtbpf-maps --example growth` plots.

use std::hint::black_box;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::time::Instant;

use rtbpf::maps::{CreateCx, MapRef, create};
use rtbpf::rt::pin::pin_to;
use rtbpf::rt::{Class, Lock, PiMutex, RawLock, RunCx};
use rtbpf::{Config, Ctx, Engine, Native, Session};
use rtbpf_abi::map_spec::flags;
use rtbpf_abi::{MapKind, MapSpec, ProgKind, ProgType};
use rtbpf_isa::asm;
use rtbpf_tests::generate::{Case, CaseMap};
use rtbpf_tests::kernel::{self, Loaded};
use rtbpf_verifier::Assumptions;

/// Operations a run.
const ROUNDS: usize = 4096;
/// Runs of each machine, in turn.
const SAMPLES: usize = 31;
/// Runs on each of several CPUs.
const CROWDED: usize = 17;

/// Keys are drawn from `keys`, a power of two, in an order that no cache guesses.
fn case(name: &str, spec: MapSpec, keys: usize, operation: &str) -> Case {
    let key = spec.key_size;
    // Addresses of one network, and prefixes of its parts.
    let dense = name.contains("/24");
    let text = format!(
        "r6 = 0\n r7 = 0\nagain:\n r7 *= 1664525\n r7 += 1013904223\n r1 = r7\n r1 >>= 16\n r1 &= {}\n \
         *(u64 *)(r10 - 24) = r1\n *(u64 *)(r10 - 16) = r1\n *(u64 *)(r10 - 8) = r1\n {}\n{operation}\n \
         r6 += 1\n if r6 != {ROUNDS} goto again\n r0 = 0\n exit",
        keys - 1,
        match spec.kind {
            MapKind::LpmTrie if dense => "*(u32 *)(r10 - 8) = 32\n r1 <<= 8\n r1 |= 10\n *(u32 *)(r10 - 4) = r1",
            MapKind::LpmTrie => "*(u32 *)(r10 - 8) = 32\n *(u32 *)(r10 - 4) = r1",
            _ => "",
        },
    );
    let key_of = |i: u64| match spec.kind {
        MapKind::LpmTrie if dense => [&24u32.to_le_bytes()[..], &((i << 8) as u32 | 10).to_le_bytes()].concat(),
        MapKind::LpmTrie => [&32u32.to_le_bytes()[..], &(i as u32).to_le_bytes()].concat(),
        _ => i.to_le_bytes()[..key as usize].to_vec(),
    };
    let fills = matches!(spec.kind, MapKind::Hash | MapKind::LruHash | MapKind::LpmTrie) && name.contains("of");
    let per_cpu = spec.kind.is_percpu();
    let init =
        (0..if fills && !per_cpu { keys as u64 } else { 0 }).map(|i| (key_of(i), vec![1; spec.value_size as usize]));
    let init = init.collect();
    Case {
        name: name.into(),
        kind: ProgKind::of(ProgType::SchedCls, None, false).expect("there are classifiers"),
        prog_flags: 0,
        insns: asm::assemble(&text).unwrap_or_else(|error| panic!("{name}: {error}\n{text}")).slots,
        maps: vec![CaseMap { spec, init }],
        typed: true,
        packets: Vec::new(),
    }
}

const LOOKUP: &str = "r1 = map[fd:0] ll\n r2 = r10\n r2 += -8\n call 1";
const UPDATE: &str = "r1 = map[fd:0] ll\n r2 = r10\n r2 += -8\n r3 = r10\n r3 += -24\n r4 = 0\n call 2";
const DELETE: &str = "r1 = map[fd:0] ll\n r2 = r10\n r2 += -8\n call 3";
const PUSH: &str = "r1 = map[fd:0] ll\n r2 = r10\n r2 += -8\n r3 = 0\n call 87";
const POP: &str = "r1 = map[fd:0] ll\n r2 = r10\n r2 += -8\n call 88";
const RESERVE: &str =
    "r1 = map[fd:0] ll\n r2 = 16\n r3 = 0\n call 131\n if r0 == 0 goto full\n r1 = r0\n r2 = 1\n call 133\nfull:";

fn cases() -> Vec<Case> {
    let spec = |kind, key, value, entries| MapSpec::new(kind, key, value, entries);
    let dynamic = |spec: MapSpec| MapSpec { flags: flags::NO_PREALLOC, ..spec };
    let pair = |a: &str, b: &str| format!("{a}\n {b}");
    let hash = || spec(MapKind::Hash, 8, 16, 1024);
    let lpm = || dynamic(spec(MapKind::LpmTrie, 8, 16, 1024));
    vec![
        case("array lookup", spec(MapKind::Array, 4, 16, 1024), 1024, LOOKUP),
        case("percpu array lookup", spec(MapKind::PercpuArray, 4, 16, 1024), 1024, LOOKUP),
        case("hash lookup of 512", hash(), 512, LOOKUP),
        case("hash lookup miss", hash(), 512, LOOKUP),
        case("hash update of 512", hash(), 512, UPDATE),
        case("hash update of 512, dynamic", dynamic(hash()), 512, UPDATE),
        case("hash insert and delete", hash(), 512, &pair(UPDATE, DELETE)),
        case("hash insert and delete, dynamic", dynamic(hash()), 512, &pair(UPDATE, DELETE)),
        case("percpu hash update", spec(MapKind::PercpuHash, 8, 16, 1024), 512, UPDATE),
        case("lru update of 512", spec(MapKind::LruHash, 8, 16, 1024), 512, UPDATE),
        case("lru update with eviction", spec(MapKind::LruHash, 8, 16, 1024), 1 << 16, UPDATE),
        case("lpm lookup of 512", lpm(), 512, LOOKUP),
        case("lpm lookup of 512 parts, /24", lpm(), 512, LOOKUP),
        case("queue push and pop", spec(MapKind::Queue, 0, 8, 64), 512, &pair(PUSH, POP)),
        case("stack push and pop", spec(MapKind::Stack, 0, 8, 64), 512, &pair(PUSH, POP)),
        // Nobody reads, so there is room for all runs.
        case("ringbuf reserve and discard", spec(MapKind::Ringbuf, 0, 0, 1 << 23), 512, RESERVE),
    ]
}

/// One case on our machine.
struct Ours {
    native: Native,
    session: Session,
    ctx: Ctx,
}

/// The maps of a case, filled.
fn maps_of(case: &Case) -> Vec<MapRef> {
    let mut maps = Vec::new();
    for map in &case.maps {
        // As the kernel does: all pages of what exists from the start.
        let live = create(&map.spec, &CreateCx { prefault: true, ..CreateCx::new(2) }).expect("the map can be made");
        for (key, value) in &map.init {
            live.update(&RunCx::CONTROL, key, value.as_slice().into(), 0).expect("it has room");
        }
        maps.push(live);
    }
    maps
}

impl Ours {
    fn new(case: &Case, maps: Vec<MapRef>, cpu: u32) -> Ours {
        let engine = Engine::new(Config { max_insns: None, slots: cpu + 1, ..Config::linux() });
        let given = Assumptions {
            maps: case.maps.iter().map(|map| Arc::new(map.spec.clone())).collect(),
            ..Assumptions::new(case.prog_type())
        };
        let program = rtbpf_isa::decode(&case.insns).expect("the program decodes");
        let verified = engine.verify(program, given).unwrap_or_else(|error| panic!("{}: {error}", case.name));
        let native = engine.bind_native(verified, maps).expect("it has native code");
        let ctx = Ctx::test_run(case.prog_type(), None, &[0; 64], &[]).expect("the packet is good");
        Ours { native, session: engine.session(cpu), ctx }
    }

    fn run(&mut self) {
        self.native.run(&mut self.session, &mut self.ctx).expect("it was proved");
    }
}

/// Runs on all CPUs at once what `begin` makes for each of them; all times.
fn crowd<R: FnMut()>(cpus: u32, begin: impl Fn(u32) -> R + Sync) -> Vec<f64> {
    let (start, all) = (Barrier::new(cpus as usize), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for cpu in 0..cpus {
            let (begin, start, all) = (&begin, &start, &all);
            scope.spawn(move || {
                // A hint: where it cannot be had, threads go where the system puts them.
                let _ = pin_to(cpu as usize);
                let mut run = begin(cpu);
                let mut times = Vec::new();
                for _ in 0..CROWDED {
                    start.wait();
                    times.push(time(&mut run));
                }
                // The first ones warm caches and tables.
                all.lock().expect("no panic").extend(times.split_off(2));
            });
        }
    });
    all.into_inner().expect("no panic")
}

type Part = Box<dyn Fn()>;

/// What an operation is made of, without a program around it.
fn parts() -> Vec<(&'static str, Part)> {
    fn pair<L: Lock + 'static>(class: Class) -> Part {
        let lock = L::default();
        Box::new(move || {
            for _ in 0..ROUNDS {
                let held = lock.lock(black_box(&RunCx::CONTROL), class);
                assert!(held.is_ok(), "nobody else wants it");
            }
        })
    }
    let word = AtomicU32::new(0);
    let exchanges = move || {
        for _ in 0..ROUNDS {
            let _ = black_box(&word).compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed);
            let _ = black_box(&word).compare_exchange(1, 0, Ordering::Release, Ordering::Relaxed);
        }
    };
    vec![
        ("floor: two locked exchanges", Box::new(exchanges)),
        ("raw lock pair", pair::<RawLock>(Class::Queue)),
        ("sleeping lock pair", pair::<PiMutex>(Class::Control)),
    ]
}

/// Nanoseconds an operation.
fn time(run: impl FnOnce()) -> f64 {
    let begun = Instant::now();
    run();
    begun.elapsed().as_nanos() as f64 / ROUNDS as f64
}

/// Median, or what was least, and the distance between the quartiles.
fn middle(mut samples: Vec<f64>, least: bool) -> (f64, f64) {
    samples.sort_by(f64::total_cmp);
    let at = |part: usize| samples.get(samples.len() * part / 4).copied().unwrap_or(f64::NAN);
    (at(if least { 0 } else { 2 }), at(3) - at(1))
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let (options, names): (Vec<_>, Vec<_>) = words.into_iter().partition(|word| word.starts_with("--"));
    let has = |option: &str| options.iter().any(|given| given == option);
    let linux = kernel::permitted().and_then(|()| kernel::pin());
    match &linux {
        Err(reason) => println!("without the kernel: {reason}"),
        Ok(()) if has("--alone") => {}
        Ok(()) => println!(
            "beside Linux {}",
            std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim()
        ),
    }
    println!("{:<34} {:>16} {:>16} {:>7}", "ns an operation (spread)", "rtbpf", "Linux", "ratio");
    let wanted = |name: &str| names.is_empty() || names.iter().any(|word| name.contains(word.as_str()));
    for (name, part) in parts().into_iter().filter(|(name, _)| wanted(name)) {
        row(name, middle((0..SAMPLES).map(|_| time(&part)).collect(), has("--least")), None);
    }
    for case in cases() {
        if !wanted(&case.name) {
            continue;
        }
        let mut ours = Ours::new(&case, maps_of(&case), 0);
        if has("--once") {
            ours.run();
            continue;
        }
        let theirs = match linux.is_ok() && !has("--alone") {
            true => kernel::load(&case, false).map(Some).unwrap_or_else(|error| panic!("{}: {error}", case.name)),
            false => None,
        };
        if let Some(verdict) = theirs.as_ref().map(Loaded::verdict).filter(|verdict| verdict.errno != 0) {
            panic!("Linux refuses {}: {} {}", case.name, verdict.errno, verdict.words);
        }
        let (mut a, mut b) = (Vec::new(), Vec::new());
        for sample in 0..SAMPLES * if has("--long") { 100 } else { 1 } + 3 {
            let mine = time(|| ours.run());
            let linux = theirs.as_ref().map(|loaded| time(|| drop(loaded.run(&[0; 64]))));
            // The first runs warm caches and tables.
            if sample >= 3 {
                a.push(mine);
                b.extend(linux);
            }
        }
        let theirs = theirs.map(|_| middle(b, has("--least")));
        row(&case.name, middle(a, has("--least")), theirs);
    }
    let cpus = cpus();
    if cpus < 2 || has("--once") || has("--long") {
        return;
    }
    println!("on {cpus} CPUs at once");
    for case in cases().into_iter().filter(|case| wanted(&case.name)) {
        let maps = maps_of(&case);
        let ours = crowd(cpus, |cpu| {
            let mut ours = Ours::new(&case, maps.clone(), cpu);
            move || ours.run()
        });
        let theirs = (linux.is_ok() && !has("--alone")).then(|| {
            let loaded = kernel::load(&case, false).unwrap_or_else(|error| panic!("{}: {error}", case.name));
            crowd(cpus, |_| || drop(loaded.run(&[0; 64])))
        });
        row(&case.name, middle(ours, has("--least")), theirs.map(|times| middle(times, has("--least"))));
    }
}

/// CPUs that are there; not those that the pinned thread may use.
fn cpus() -> u32 {
    let possible = std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    possible.trim().rsplit(['-', ',']).next().and_then(|last| last.parse().ok()).map_or(1, |last: u32| last + 1)
}

/// A line of the table.
fn row(name: &str, (mine, spread): (f64, f64), linux: Option<(f64, f64)>) {
    let mine_text = format!("{mine:.1} ({spread:.1})");
    match linux {
        Some((linux, wide)) => {
            println!("{name:<34} {mine_text:>16} {:>16} {:>7.2}", format!("{linux:.1} ({wide:.1})"), mine / linux);
        }
        None => println!("{name:<34} {mine_text:>16} {:>16}", "-"),
    }
}
