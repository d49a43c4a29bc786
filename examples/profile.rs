//! Profiles its own process: a perf_event program runs in the signal handler of the thread that works, and stores where
//! it was. Prints folded stacks, outermost function first, as flame graph tools read them.
//! Whole stacks need frame pointers: `cargo rustc -p rtbpf-examples --bin profile -- -C force-frame-pointers=yes`.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rtbpf::abi::{MapKind, MapSpec, ProgType, helper};
use rtbpf::maps::{CreateCx, MapRef, create};
use rtbpf::rt::{Level, RunCx, Source};
use rtbpf::verifier::Assumptions;
use rtbpf::{Config, Engine, Native, isa};

/// Counts the interrupted user stacks by their id: `stacks` is map 0, `counts` map 1.
const SAMPLE: &str = "
    r2 = map[idx:0] ll
    r3 = 0x100
    call bpf_get_stackid
    if r0 s< 0 goto out
    *(u32 *)(r10 - 4) = r0
    r1 = map[idx:1] ll
    r2 = r10
    r2 += -4
    call bpf_map_lookup_elem
    if r0 == 0 goto first
    r1 = 1
    lock *(u64 *)(r0 + 0) += r1
    goto out
first:
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

const FRAMES: usize = 64;

fn load(engine: &Engine) -> Result<(Native, Vec<MapRef>), Box<dyn std::error::Error>> {
    let specs =
        [MapSpec::new(MapKind::StackTrace, 4, 8 * FRAMES as u32, 4096), MapSpec::new(MapKind::Hash, 4, 8, 4096)];
    let maps: Result<Vec<_>, _> = specs.iter().map(|spec| create(spec, &CreateCx::new(1))).collect();
    let maps = maps?;
    let by_name = |name: &str| helper::by_name(name).map(|id| id.0 as i32);
    let program = isa::decode(&isa::asm::assemble_with(SAMPLE, &by_name)?.slots)?;
    let given = Assumptions { maps: specs.map(Arc::new).into(), ..Assumptions::new(ProgType::PerfEvent) };
    Ok((engine.bind_native(engine.verify(program, given)?, maps.clone())?, maps))
}

#[inline(never)]
fn divide(n: u64) -> u64 {
    (1..2000).fold(n, |sum, by| sum.wrapping_add(black_box(n) / black_box(by)))
}

#[inline(never)]
fn hash(n: u64) -> u64 {
    (0..4000).fold(n, |mixed, round| (black_box(mixed) ^ round).wrapping_mul(0x0100_0000_01b3))
}

#[inline(never)]
fn work(until: Instant) -> u64 {
    let mut sum = 0u64;
    while Instant::now() < until {
        sum = sum.wrapping_add(divide(sum)).wrapping_add(hash(sum));
    }
    sum
}

/// The value of a map that user space reads.
fn read(map: &MapRef, key: &[u8]) -> Result<Vec<u64>, Box<dyn std::error::Error>> {
    let mut value = Vec::new();
    map.read(&RunCx::CONTROL, key, 0, &mut value)?;
    Ok(value.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word)).collect())
}

/// The function that holds an address: what the symbols of this process say.
fn name_of(address: u64) -> String {
    let mut name = None;
    backtrace::resolve(address as *mut _, |symbol| {
        name = name.take().or_else(|| symbol.name().map(|name| format!("{name:#}")));
    });
    name.unwrap_or_else(|| format!("{address:#x}"))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let engine = Engine::new(Config { slots: 1, ..Config::default() });
    let (program, maps) = load(&engine)?;
    let lease = engine.slots().lease_of(0)?;
    let source = Source::Timer { period_ns: 1_000_000 };
    let mut sampler = program.sample(&lease, source, libc::SIGPROF, Level::Nmi)?;
    black_box(work(Instant::now() + Duration::from_millis(500)));
    sampler.stop();

    let mut folded: BTreeMap<String, u64> = BTreeMap::new();
    let mut keys = Vec::new();
    let mut next = maps[1].next_key(&RunCx::CONTROL, None, &mut keys);
    while next.is_ok() {
        let id = std::mem::take(&mut keys);
        let count = read(&maps[1], &id)?.first().copied().unwrap_or_default();
        let frames = read(&maps[0], &id)?;
        let used = frames.iter().take_while(|frame| **frame != 0).enumerate();
        // What a call returns to belongs to the instruction before it.
        let mut names: Vec<_> = used.map(|(depth, at)| name_of(at - u64::from(depth > 0))).collect();
        names.reverse();
        *folded.entry(names.join(";")).or_default() += count;
        next = maps[1].next_key(&RunCx::CONTROL, Some(&id), &mut keys);
    }
    for (stack, count) in &folded {
        println!("{stack} {count}");
    }
    let misses = sampler.misses().total();
    eprintln!("{} interrupts: {} runs, {misses} missed, {} faults", sampler.hits(), sampler.ran(), sampler.faults());
    Ok(())
}
