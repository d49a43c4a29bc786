//! How long does compiling take, and how large is the code, an instruction?
//!
//! Input: straight-line programs of an ALU and stack mix, 300 to 1,000,000 instructions, and the recorded compute programs.

use std::time::Instant;

use rtbpf_benches::{assumed, recorded};
use rtbpf_jit::{NoLinker, Options, compile};
use rtbpf_verifier::VerifiedProgram;

/// A program of `count` instructions: additions, moves, shifts, masks, products, loads and stores of the stack.
fn mix(count: usize) -> VerifiedProgram {
    let mut bytes = Vec::with_capacity(count * 8);
    let mut push = |code: u8, dst: u8, src: u8, off: i16, imm: i32| {
        let (off, imm) = (off.to_le_bytes(), imm.to_le_bytes());
        bytes.extend([code, src << 4 | dst, off[0], off[1], imm[0], imm[1], imm[2], imm[3]]);
    };
    (0..10).for_each(|reg| push(0xb7, reg, 0, 0, reg as i32));
    for i in 0..count.saturating_sub(11) {
        let (dst, src) = ((i % 10) as u8, ((i * 7 + 3) % 10) as u8);
        let off = -8 - (i % 60) as i16 * 8;
        match i % 10 {
            0 => push(0x0f, dst, src, 0, 0),
            1 => push(0xaf, dst, src, 0, 0),
            2 => push(0x7b, 10, src, off, 0),
            3 => push(0x67, dst, 0, 0, 7),
            4 => push(0xbf, dst, src, 0, 0),
            5 => push(0x79, dst, 10, off, 0),
            6 => push(0x07, dst, 0, 0, i as i32),
            7 => push(0x1c, dst, src, 0, 0),
            8 => push(0x2f, dst, src, 0, 0),
            _ => push(0x57, dst, 0, 0, 0xff),
        }
    }
    push(0x95, 0, 0, 0, 0);
    assumed(&bytes)
}

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
