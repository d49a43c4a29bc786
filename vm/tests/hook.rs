//! Programs that run in signal handlers of the thread they sample: nothing is lost, nothing blocks, nothing allocates.
#![cfg(feature = "jit")]

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rtbpf::abi::{MapKind, MapSpec, ProgType, helper};
use rtbpf::maps::{CreateCx, MapRef, create};
use rtbpf::rt::alloc_gate::{Gate, violations};
use rtbpf::rt::{InterruptError, Interrupts, Level, RunCx, Source};
use rtbpf::verifier::Assumptions;
use rtbpf::{Config, Engine, HookError, Native, isa};

#[global_allocator]
static ALLOCATOR: Gate = Gate::system();

/// The gate counts for the whole process.
static ALONE: Mutex<()> = Mutex::new(());

/// Counts stacks by id; writes the shared map's only key, and counts in `refused` how often its lock was taken.
const SAMPLE: &str = "
    r6 = r1
    *(u32 *)(r10 - 4) = 0
    r1 = *(u64 *)(r6 + 128)
    *(u64 *)(r10 - 16) = r1
    r1 = map[idx:2] ll
    r2 = r10
    r2 += -4
    r3 = r10
    r3 += -16
    r4 = 0
    call bpf_map_update_elem
    if r0 == 0 goto stack
    r1 = map[idx:3] ll
    r2 = r10
    r2 += -4
    call bpf_map_lookup_elem
    if r0 == 0 goto stack
    r1 = 1
    lock *(u64 *)(r0 + 0) += r1
stack:
    r1 = r6
    r2 = map[idx:0] ll
    r3 = 0x500
    call bpf_get_stackid
    if r0 s< 0 goto out
    *(u32 *)(r10 - 4) = r0
    r1 = map[idx:1] ll
    r2 = r10
    r2 += -4
    call bpf_map_lookup_elem
    if r0 == 0 goto new
    r1 = 1
    lock *(u64 *)(r0 + 0) += r1
    goto out
new:
    *(u64 *)(r10 - 16) = 1
    r1 = map[idx:1] ll
    r2 = r10
    r2 += -4
    r3 = r10
    r3 += -16
    r4 = 0
    call bpf_map_update_elem
out:
    r0 = 0
    exit";

fn specs() -> [MapSpec; 4] {
    [
        MapSpec::new(MapKind::StackTrace, 4, 8 * 16, 1024),
        MapSpec::new(MapKind::Hash, 4, 8, 1024),
        MapSpec::new(MapKind::Hash, 4, 8, 4),
        MapSpec::new(MapKind::Array, 4, 8, 1),
    ]
}

fn maps() -> Vec<MapRef> {
    specs().iter().map(|spec| create(spec, &CreateCx { prefault: true, ..CreateCx::new(2) }).expect("legal")).collect()
}

fn native(engine: &Engine, text: &str, prog_type: ProgType, maps: Vec<MapRef>) -> Native {
    let by_name = |name: &str| helper::by_name(name).map(|id| id.0 as i32);
    let assembly = isa::asm::assemble_with(text, &by_name).expect("the test's program");
    let maps_given = specs().into_iter().map(Arc::new).collect();
    let given = Assumptions { maps: maps_given, cpus: 2, ..Assumptions::new(prog_type) };
    let verified = engine.verify(isa::decode(&assembly.slots).expect("decodes"), given).expect("is safe");
    engine.bind_native(verified, maps).expect("this host has native code")
}

fn number(map: &MapRef, key: &[u8]) -> Option<u64> {
    let mut value = Vec::new();
    map.read(&RunCx::CONTROL, key, 0, &mut value).ok()?;
    value.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

/// Samples the calling thread while it updates the map that the program updates, and answers hits.
fn storm(source: Source, signal: i32, level: Level) -> Result<u64, HookError> {
    let _alone = ALONE.lock();
    let engine = Engine::new(Config::linux());
    let maps = maps();
    let program = native(&engine, SAMPLE, ProgType::PerfEvent, maps.clone());
    let lease = engine.slots().lease_of(0).expect("free");
    let before = violations();
    let mut sampler = program.sample(&lease, source, signal, level)?;
    let (cx, end) = (lease.slot().cx(Level::Task, false), Instant::now() + Duration::from_millis(400));
    let mut rounds = 0u64;
    while Instant::now() < end {
        let done = maps[2].update(&cx, &0u32.to_le_bytes(), rounds.to_le_bytes()[..].into(), 0);
        assert_eq!(done, Ok(()), "the interrupted thread holds no lock that it waits for");
        rounds += 1;
    }
    sampler.stop();
    let hits = sampler.hits();
    assert_eq!(hits, sampler.ran() + sampler.misses().total(), "{:?}", sampler.misses());
    assert_eq!(sampler.faults(), 0);
    let (ran, refused) = (sampler.ran(), number(&maps[3], &[0; 4]).unwrap_or_default());
    println!("{source:?} {level:?}: {rounds} rounds, {sampler:?}, {:?}, lock refused {refused}", sampler.misses());
    assert_eq!(violations(), before, "allocations and frees in handlers");
    let mut keys = Vec::new();
    let mut stacks = 0;
    let mut next = maps[1].next_key(&RunCx::CONTROL, None, &mut keys);
    while next.is_ok() {
        let key = keys.split_off(keys.len() - 4);
        stacks += number(&maps[1], &key).unwrap_or_default();
        let mut frames = Vec::new();
        maps[0].read(&RunCx::CONTROL, &key, 0, &mut frames).expect("a counted stack is there");
        assert_ne!(frames[..8], [0; 8], "the interrupted instruction");
        next = maps[1].next_key(&RunCx::CONTROL, Some(&key), &mut keys);
    }
    assert!(stacks > 0 && stacks <= ran, "{stacks} stacks of {ran} runs");
    Ok(hits)
}

#[test]
fn a_storm_of_interrupts_loses_nothing_blocks_nothing_and_allocates_nothing() {
    let source = Source::Timer { period_ns: 20_000 };
    for (signal, level) in [(libc::SIGRTMIN() + 1, Level::Nmi), (libc::SIGRTMIN() + 2, Level::Hard)] {
        assert!(storm(source, signal, level).expect("timers are permitted") > 50);
    }
}

#[test]
fn the_cpu_clock_samples_where_it_is_permitted() {
    match storm(Source::CpuClock { period_ns: 100_000 }, libc::SIGRTMIN() + 3, Level::Nmi) {
        Ok(hits) => assert!(hits > 10, "{hits}"),
        Err(HookError::Interrupts(InterruptError::System { what, error })) => println!("skipped: {what}: {error}"),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn the_gate_would_see_a_handler_that_allocates() {
    let _alone = ALONE.lock();
    std::thread::spawn(|| {
        let engine = Engine::new(Config::linux());
        let lease = engine.slots().lease_of(1).expect("free");
        let counters = rtbpf::rt::ProgCounters::new(2);
        let hook = Box::new(move |slot: &rtbpf::rt::Slot, at: &rtbpf::rt::Interrupted<'_>| {
            let entry = rtbpf::rt::Entry::begin(slot, rtbpf::rt::Path::PerfOverflow, at.level(), &counters);
            drop(std::hint::black_box(Box::new(7)));
            drop(entry);
        });
        let before = violations();
        let what = (Source::Timer { period_ns: 3_600_000_000_000 }, libc::SIGRTMIN() + 4, Level::Hard);
        let _interrupts = Interrupts::start(engine.slots(), lease.slot().id(), what, hook).expect("permitted");
        // SAFETY: a signal to this thread, whose handler is installed.
        unsafe { libc::raise(libc::SIGRTMIN() + 4) };
        let after = violations();
        assert_eq!((after.0 - before.0, after.1 - before.1), (1, 1));
    })
    .join()
    .expect("no panic");
}

#[test]
fn what_may_not_run_in_a_handler_is_not_attached() {
    let engine = Engine::new(Config::linux());
    let lease = engine.slots().lease_of(0).expect("free");
    let attach = |text: &str, prog_type| {
        let program = native(&engine, text, prog_type, maps());
        let never = Source::Timer { period_ns: 3_600_000_000_000 };
        program.sample(&lease, never, libc::SIGRTMIN() + 5, Level::Nmi).map(|_| ())
    };
    let prints = "*(u64 *)(r10 - 16) = 0\nr1 = r10\nr1 += -16\nr2 = 16\ncall bpf_get_current_comm\nr0 = 0\nexit";
    assert!(matches!(attach(prints, ProgType::PerfEvent), Err(HookError::Unsafe(name)) if name == "get_current_comm"));
    assert!(matches!(attach("r0 = 0\nexit", ProgType::Kprobe), Err(HookError::NotPerfEvent("kprobe"))));
    assert!(attach("r0 = 0\nexit", ProgType::PerfEvent).is_ok());
    let other = Engine::new(Config::linux());
    let program = native(&other, "r0 = 0\nexit", ProgType::PerfEvent, maps());
    let never = Source::Timer { period_ns: 3_600_000_000_000 };
    let refused = program.sample(&lease, never, libc::SIGRTMIN() + 5, Level::Nmi);
    assert!(matches!(refused, Err(HookError::OtherSlots)));
}
