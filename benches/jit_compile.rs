//! How long does compiling take, and how large is the code, an instruction?
//!
//! Input: straight-line programs of an ALU and stack mix, 300 to 1,000,000 instructions, and the recorded compute programs.

use std::time::Instant;

use rtbpf_benches::shapes::mix;
use rtbpf_benches::{assumed, recorded};
use rtbpf_jit::{NoLinker, Options, compile};
use rtbpf_verifier::VerifiedProgram;

fn report(name: &str, program: &VerifiedProgram, options: &Options) {
    let count = program.code().len() as f64;
    let rounds = (2_000_000.0 / count).clamp(5.0, 300.0) as usize;
    let mut times = Vec::with_capacity(rounds);
    let mut bytes = 0;
    for _ in 0..rounds {
        let begun = Instant::now();
        bytes = compile(program, &NoLinker, options).expect("these programs have native code").bytes.len();
        times.push(begun.elapsed().as_nanos() as f64 / count);
    }
    times.sort_by(f64::total_cmp);
    let (median, spread) = (times[rounds / 2], times[rounds * 3 / 4] - times[rounds / 4]);
    println!(
        "{name:24} {count:>8} insns  {median:>7.1} ns an insn ({spread:.1})  {:>5.2} bytes an insn",
        bytes as f64 / count
    );
}

fn main() {
    let Some(options) = Options::host() else { return println!("skipped: no native code for this processor") };
    for (tier, options) in [("fast", Options { optimise: None, ..options }), ("optimised", options)] {
        for count in [300, 1_000, 10_000, 100_000, 1_000_000] {
            report(&format!("{tier}: mix"), &mix(count), &options);
        }
        for program in recorded() {
            report(&format!("{tier}: {}", program.name), &assumed(&program.bytes), &options);
        }
    }
}
