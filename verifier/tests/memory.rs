//! What a verification holds at one time: `rtbpf verify` prints it for each program.

use std::fmt::Write;

use rtbpf_abi::ProgType;
use rtbpf_isa::{asm, decode};
use rtbpf_verifier::{Assumptions, Options, verify};

/// The most that one program may take, in bytes. A build without optimisation verifies a tenth of it, in a tenth.
const MOST: u64 = (64 << 20) / PART;
const PART: u64 = if cfg!(debug_assertions) { 10 } else { 1 };

/// Bytes that the verification of `text` held at one time.
fn peak(text: &str) -> u64 {
    let slots = asm::assemble(text).expect("the program assembles").slots;
    let program = decode(&slots).expect("the program decodes");
    let given = Assumptions::new(ProgType::SchedCls);
    let options = Options { budget: Some(1_000_000 / PART), ..Options::default() };
    let mut processed = 0;
    let allocated = allocation_counter::measure(|| {
        processed = match verify(program, given, &options) {
            Ok(verified) => verified.stats().processed,
            Err(rejection) => rejection.stats.processed,
        };
    });
    println!("{processed} processed: {:.1} MiB", allocated.bytes_max as f64 / f64::from(1 << 20));
    assert!(processed > 900_000 / PART, "{processed}");
    allocated.bytes_max
}

#[test]
fn long_programs() {
    const LINES: [&str; 7] = [
        "r2 += r3",
        "r3 &= 255",
        "r4 <<= 3",
        "r2 ^= r4",
        "*(u64 *)(r10 - 8) = r4",
        "r4 = *(u64 *)(r10 - 8)",
        "r3 = r2",
    ];
    let mut text = String::from("r2 = *(u32 *)(r1 + 0)\n r3 = 2\n r4 = r2\n");
    for line in LINES.iter().cycle().take(900_000 / PART as usize) {
        let _ = writeln!(text, " {line}");
    }
    let bytes = peak(&(text + " r0 = 0\n exit"));
    assert!(bytes < MOST, "{bytes}");
}

#[test]
fn long_walks() {
    let rounds = 240_000 / PART;
    let text = format!(
        "r7 = 0\n r8 = 0\nagain:\n r7 += r8\n r7 ^= 3\n r8 += 1\n if r8 != {rounds} goto again\n r0 = 0\n exit"
    );
    let bytes = peak(&text);
    assert!(bytes < MOST, "{bytes}");
}
