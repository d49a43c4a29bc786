//! How fast is a program in each engine, beside the same C compiled natively (`-O2`, not vectorised)?
//!
//! Input: the compute programs of `programs/`, on 4096 pseudo-random bytes: native C, both tiers of native code, both
//! interpreters, rbpf and solana-sbpf in both of theirs, and the running kernel where `bpf(2)` is permitted. All engines
//! are interleaved in one process; a figure is the median of 31 rounds, its spread the middle half. Then what entering a
//! program and calling from it cost. `side_by_side NAME...` measures the programs with these words in their names.

mod calls;
mod engines;
mod report;

use std::hint::black_box;
use std::time::Instant;

use rtbpf_benches::{Library, recorded};

use engines::{Engine, NAMES};
use report::{Cell, Row};

/// Times that each engine is measured, in turn with the others.
const ROUNDS: usize = 31;

/// Runs `run` so many times; nanoseconds each.
fn time(calls: u64, mut run: impl FnMut() -> u64) -> f64 {
    let begun = Instant::now();
    for _ in 0..calls {
        black_box(run());
    }
    begun.elapsed().as_nanos() as f64 / calls as f64
}

/// Median and middle half of nanoseconds a run for each engine, interleaved.
fn interleave(engines: &mut [Engine]) -> Vec<Cell> {
    let calls: Vec<u64> =
        engines.iter_mut().map(|run| (200_000.0 / run(3).max(10.0)).clamp(2.0, 20_000.0) as u64).collect();
    let mut times = vec![Vec::with_capacity(ROUNDS); engines.len()];
    for _ in 0..ROUNDS {
        for ((run, times), calls) in engines.iter_mut().zip(&mut times).zip(&calls) {
            times.push(run(*calls));
        }
    }
    times.into_iter().map(Cell::of).collect()
}

fn main() {
    if rtbpf_jit::Options::host().is_none() {
        return println!("skipped: no native code for this processor");
    }
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let wanted = |name: &str| words.is_empty() || words.iter().any(|word| name.contains(word.as_str()));
    let library = Library::compiled();
    let linux = engines::linux();
    println!("{}", report::heading());
    let mut rows = Vec::new();
    for program in recorded().iter().filter(|program| wanted(&program.name)) {
        let found = engines::all(program, library.as_ref(), linux);
        let (names, mut runs): (Vec<_>, Vec<_>) = found.into_iter().unzip();
        let mut cells = interleave(&mut runs).into_iter();
        let cells = NAMES.map(|name| if names.contains(&name) { cells.next() } else { None });
        let row = Row { name: program.name.clone(), cells };
        println!("{}", row.text());
        rows.push(row);
    }
    println!("{}", report::means(&rows));
    match report::write(&rows) {
        Ok(folder) => println!("table and plot: {folder}"),
        Err(error) => println!("table and plot are not written: {error}"),
    }
    calls::print(linux, wanted);
}
