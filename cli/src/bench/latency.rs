//! `rtbpf bench latency`: how long operations on maps take, and how long locks are held for them.

use std::io::Write;
use std::sync::Barrier;
use std::time::Instant;

use rtbpf::abi::map_spec::flags;
use rtbpf::abi::{MapKind, MapSpec};
use rtbpf::maps::{CreateCx, MapRef, ProgOut, Ringbuf, StackTrace, create, ringbuf};
use rtbpf::rt::stats::{self, Histogram};
use rtbpf::rt::{Class, Model, RunCx, pin};

use crate::error::Error;

/// Shows how long operations on maps take, and how long each class of lock is held for them: by raw and by sleeping locks,
/// with elements that exist and that are allocated, in both models, on one thread and on two that contend.
///
/// Each histogram has a line for each power of two. Times are the wall clock's: where the system takes the CPU away, the
/// longest ones are its.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Work to measure: what has one of these words in its name, or all.
    words: Vec<String>,
    /// Operations of a thread.
    #[arg(long, value_name = "COUNT", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..))]
    ops: u32,
}

const KEYS: u32 = 1024;

type Operation = Box<dyn Fn(&RunCx, u32) + Sync>;

fn map(spec: MapSpec, sleeping_locks: bool) -> MapRef {
    create(&spec, &CreateCx { sleeping_locks, prefault: true, ..CreateCx::new(2) }).expect("legal attributes")
}

/// Writes keys in turn: `keys` of them.
fn writes(map: MapRef, keys: u32, key_of: fn(u32) -> u64) -> Operation {
    Box::new(move |cx, at| {
        let key = key_of(at.wrapping_mul(0x9e37_79b1) % keys).to_le_bytes();
        let _ = map.update(cx, &key[..map.spec().key_size as usize], [7; 8][..].into(), 0);
    })
}

fn works() -> Vec<(&'static str, Operation)> {
    let hash = |flags, sleeping| map(MapSpec { flags, ..MapSpec::new(MapKind::Hash, 4, 8, KEYS) }, sleeping);
    let lru = |flags| map(MapSpec { flags, ..MapSpec::new(MapKind::LruHash, 4, 8, KEYS) }, false);
    let trie =
        |sleeping| map(MapSpec { flags: flags::NO_PREALLOC, ..MapSpec::new(MapKind::LpmTrie, 8, 8, KEYS) }, sleeping);
    let host = |at: u32| u64::from(at) << 32 | 32;
    let queue = map(MapSpec::new(MapKind::Queue, 0, 8, 64), false);
    let (ring, stacks) = (
        map(MapSpec::new(MapKind::Ringbuf, 0, 0, 1 << 24), false),
        map(MapSpec::new(MapKind::StackTrace, 4, 8 * 127, KEYS), false),
    );
    vec![
        ("hash update, preallocated, raw", writes(hash(0, false), KEYS, u64::from)),
        ("hash update, dynamic, raw", writes(hash(flags::NO_PREALLOC, false), KEYS, u64::from)),
        ("hash update, dynamic, sleeping", writes(hash(flags::NO_PREALLOC, true), KEYS, u64::from)),
        ("hash update of one key, raw", writes(hash(0, false), 1, u64::from)),
        ("hash update of one key, sleeping", writes(hash(flags::NO_PREALLOC, true), 1, u64::from)),
        ("lru update with eviction", writes(lru(0), 1 << 20, u64::from)),
        ("lru update with eviction, per slot", writes(lru(flags::NO_COMMON_LRU), 1 << 20, u64::from)),
        ("lpm update, raw", writes(trie(false), KEYS, host)),
        ("lpm update, sleeping", writes(trie(true), KEYS, host)),
        (
            "queue push and pop",
            Box::new(move |cx, _| {
                let _ = queue.push(cx, [7; 8][..].into(), 0);
                let _ = queue.pop(cx, ProgOut::from(&mut [0; 8][..]));
            }),
        ),
        (
            "ring buffer reserve and discard",
            Box::new(move |cx, _| {
                let ring = ring.as_any().downcast_ref::<Ringbuf>().expect("a ring buffer");
                if let Some(record) = ring.reserve(cx, 16, 0) {
                    ring.discard(record.addr(), ringbuf::wakeup::NO);
                }
            }),
        ),
        (
            "stack id",
            Box::new(move |cx, at| {
                let stacks = stacks.as_any().downcast_ref::<StackTrace>().expect("a stack trace");
                let _ = stacks.id_of(
                    cx,
                    &std::array::from_fn::<u64, 32, _>(|frame| u64::from(at % 64) + frame as u64),
                    1 << 10,
                );
            }),
        ),
    ]
}

pub fn main(args: &Args) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{} kernel", if pin::host_is_realtime() { "a PREEMPT_RT" } else { "not a PREEMPT_RT" })?;
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let (works, others): (Vec<_>, Vec<_>) = works().into_iter().partition(|(name, _)| is_wanted(&args.words, name));
    if works.is_empty() {
        let known: Vec<&str> = others.iter().map(|(name, _)| *name).collect();
        let option = format!("work `{}`", args.words.join(" "));
        return Err(Error::Option { option, what: format!("no such work; there are: {}", known.join("; ")) });
    }
    for (name, work) in works {
        for threads in (1..=2).filter(|threads| *threads as usize <= cpus) {
            for model in [Model::NonRt, Model::Rt] {
                writeln!(out, "{name}, {threads} {}, {model:?}", if threads == 1 { "thread" } else { "threads" })?;
                measure(&mut out, &work, args.ops, threads, model)?;
            }
        }
    }
    Ok(out.flush()?)
}

fn is_wanted(words: &[String], name: &str) -> bool {
    words.is_empty() || words.iter().any(|word| name.contains(word.as_str()))
}

fn measure(out: &mut impl Write, work: &Operation, ops: u32, threads: u32, model: Model) -> std::io::Result<()> {
    let times = Histogram::new();
    let together = Barrier::new(threads as usize);
    let run = |slot: u32| {
        // Where the CPU cannot be had, the thread runs where it may.
        let _ = pin::pin_to(slot as usize);
        let cx = RunCx { slot, model, ..RunCx::CONTROL };
        (0..ops / 10).for_each(|at| work(&cx, at));
        together.wait();
        for at in 0..ops {
            let begun = Instant::now();
            work(&cx, at.wrapping_add(slot * 7));
            times.record(begun.elapsed().as_nanos() as u64);
        }
    };
    let all = || {
        std::thread::scope(|scope| {
            for slot in 0..threads {
                scope.spawn(move || run(slot));
            }
        });
    };
    all();
    show(out, "operation", &times)?;
    // Again, for reading the clock under a lock lengthens the operation.
    Class::ALL.iter().for_each(|class| stats::holds(*class).clear());
    stats::time_locks(true);
    all();
    stats::time_locks(false);
    for class in Class::ALL.iter().filter(|class| stats::holds(**class).count() > 0) {
        show(out, class.name(), stats::holds(*class))?;
    }
    Ok(())
}

/// Quantiles, and a bar for each power of two.
fn show(out: &mut impl Write, name: &str, times: &Histogram) -> std::io::Result<()> {
    let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|share| times.quantile(share));
    let (count, max) = (times.count(), times.max());
    writeln!(out, "  {name:<12} {count:>7}   under {p50} ns: half, {p99}: 99 %, {p999}: 99.9 %; longest {max}")?;
    for (bound, here) in times.buckets().filter(|(_, here)| *here > 0) {
        let marks = (here as f64 / count as f64 * 50.0).round() as usize;
        writeln!(out, "  {bound:>20} {here:>8} {}", "#".repeat(marks))?;
    }
    Ok(())
}
