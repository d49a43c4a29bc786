//! `fuzz TARGET COUNT [SEED]`: runs a fuzz target on COUNT generated inputs, or all targets when TARGET is `all`.
//!
//! Stops at the first panic, or when one input takes 10 seconds, with the input as hexadecimal digits. At the end it
//! prints executions, executions a second, the slowest input and the peak of memory.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{ExitCode, exit};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rtbpf_tests::fuzz::{TARGETS, Target, input, target};

/// One input may take this long.
const PATIENCE: Duration = Duration::from_secs(10);

/// The input under way, for the watchdog.
static INDEX: AtomicU64 = AtomicU64::new(0);

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| words.get(at).and_then(|word| word.replace('_', "").parse::<u64>().ok());
    let known = words.first().map(|name| match name.as_str() {
        "all" => TARGETS.iter().collect(),
        name => Vec::from_iter(target(name)),
    });
    let (Some(targets), Some(count)) = (known.filter(|targets| !targets.is_empty()), number(1)) else {
        let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
        eprintln!("usage: fuzz TARGET COUNT [SEED], TARGET one of all, {}", names.join(", "));
        return ExitCode::from(2);
    };
    let seed = number(2).unwrap_or(1);
    targets.into_iter().for_each(|target| campaign(target, count, seed));
    ExitCode::SUCCESS
}

fn campaign(target: &'static Target, count: u64, seed: u64) {
    INDEX.store(0, Relaxed);
    std::thread::spawn(move || watch(target, count, seed));
    let start = Instant::now();
    let (mut slowest, mut slowest_index, mut bytes, mut deep) = (Duration::ZERO, 0, 0u64, 0u64);
    for index in 0..count {
        INDEX.store(index, Relaxed);
        let data = input(target, seed, index);
        bytes += data.len() as u64;
        let before = Instant::now();
        match catch_unwind(AssertUnwindSafe(|| (target.check)(&data))) {
            Ok(was_deep) => deep += was_deep as u64,
            Err(_) => give_up(target, seed, index, "panicked on"),
        }
        let took = before.elapsed();
        if took > slowest {
            (slowest, slowest_index) = (took, index);
        }
    }
    INDEX.store(count, Relaxed);
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{}: {count} executions, seed {seed}, {:.0} a second, {} bytes each, {}% accepted, slowest {:?} (number {slowest_index}), peak {}",
        target.name,
        count as f64 / seconds,
        bytes / count.max(1),
        100 * deep / count.max(1),
        slowest,
        peak_memory(),
    );
}

/// Ends the process when one input takes too long.
fn watch(target: &Target, count: u64, seed: u64) {
    let mut last = u64::MAX;
    loop {
        let index = INDEX.load(Relaxed);
        if index >= count {
            return;
        }
        if index == last {
            give_up(target, seed, index, "hangs on");
        }
        last = index;
        std::thread::sleep(PATIENCE);
    }
}

fn give_up(target: &Target, seed: u64, index: u64, what: &str) -> ! {
    let hex: String = input(target, seed, index).iter().map(|byte| format!("{byte:02x}")).collect();
    eprintln!("{} {what} input {index} of seed {seed}:\n{hex}", target.name);
    exit(1)
}

/// As Linux tells it.
fn peak_memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    peak.map_or("unknown".into(), |peak| peak.trim().into())
}
