//! Programs made to cost much: each ends with a verdict, an errno and a reason, in a bounded number of steps and seconds.

use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rtbpf_abi::{Errno, MapKind, MapSpec, ProgType};
use rtbpf_isa::{asm, decode};
use rtbpf_verifier::{Assumptions, KeepStates, Options, Profile, Stats, verify};

/// A build without optimisation is some ten times slower than one that people use.
const MOST: Duration = Duration::from_secs(if cfg!(debug_assertions) { 100 } else { 10 });

/// Sizes of programs; a build without optimisation gets smaller ones.
const fn size(full: usize, reduced: usize) -> usize {
    if cfg!(debug_assertions) { reduced } else { full }
}

/// The most memory that the process held at one time, in MiB.
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    peak.and_then(|kib| kib.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) / 1024
}

/// Verifies `text` and gives what was walked, accepted or not.
fn walk(text: &str, profile: Profile) -> Stats {
    let assembly = asm::assemble(text).expect("the program assembles");
    let program = decode(&assembly.slots).expect("the program decodes");
    let mut given = Assumptions::new(ProgType::SchedCls);
    given.maps = assembly.maps.iter().map(|_| Arc::new(MapSpec::new(MapKind::Hash, 4, 16, 8))).collect();
    let budget = cfg!(debug_assertions).then_some(100_000);
    let options = Options { profile, budget, ..Options::default() };
    let (budget, begun) = (options.budget(), Instant::now());
    let stats = match verify(program, given, &options) {
        Ok(verified) => verified.stats(),
        Err(why) => {
            assert!(why.errno.number() > 0 && !why.message.is_empty(), "{why:?}");
            why.stats
        }
    };
    let took = begun.elapsed();
    println!("{} processed in {took:?}, {} MiB at most so far", stats.processed, peak_mib());
    assert!(took < MOST, "{took:?}");
    assert!(peak_mib() < 256, "{} MiB", peak_mib());
    assert!(stats.processed <= budget + 1, "{} processed", stats.processed);
    stats
}

fn compat(text: &str) -> u64 {
    walk(text, Profile::Compat).processed
}

/// `count` forks, each of which leaves another number behind.
fn diamonds(count: usize, used: bool) -> String {
    let mut text = String::from("r6 = r1\n r7 = 0\n");
    for i in 0..count {
        let _ = writeln!(text, "r2 = *(u32 *)(r6 + 0)\n if r2 > {i} goto l{i}\n r7 += {}\nl{i}:", 1u32 << (i % 20));
    }
    if used {
        text += "r7 &= 7\n r1 = r10\n r1 -= r7\n *(u8 *)(r1 - 8) = 1\n";
    }
    text + "r0 = 0\n exit"
}

#[test]
fn forks_that_nothing_depends_on_are_walked_once() {
    let (some, more) = (compat(&diamonds(100, false)), compat(&diamonds(size(10_000, 400), false)));
    assert!(more <= some * (size(10_000, 400) as u64 / 80), "{some} and {more} processed");
}

#[test]
fn forks_that_a_check_depends_on_end_too() {
    compat(&diamonds(24, true));
}

#[test]
fn nested_loops_end() {
    let text = "r0 = 0\n r1 = 0\na:\n r2 = 0\nb:\n r3 = 0\nc:\n r0 += r3\n r3 += 1\n if r3 != 1000 goto c\n r2 += 1\n \
                if r2 != 1000 goto b\n r1 += 1\n if r1 != 1000 goto a\n r0 = 0\n exit";
    compat(text);
    assert!(walk(text, Profile::Strict).processed < 5_000);
}

#[test]
fn copies_of_an_outer_counter_do_not_keep_loops_apart() {
    for copy in ["r3 = r1", "r3 = r1\n r3 += 5", "*(u64 *)(r10 - 8) = r1\n r3 = 0"] {
        let text = format!(
            "r1 = 0\na:\n {copy}\n r2 = 0\nb:\n r2 += 1\n if r2 != 1000 goto b\n r4 = r3\n r1 += 1\n \
             if r1 != 1000000 goto a\n r0 = 0\n exit"
        );
        assert!(walk(&text, Profile::Strict).processed < 5_000, "{copy}");
    }
}

#[test]
fn calls_of_calls_end() {
    // Eight deep, each twice: the innermost is reached 2^7 times.
    let mut text = String::from("r6 = r1\n call f1\n r1 = r6\n call f1\n r0 = 0\n exit\n");
    for i in 1..7 {
        let _ = writeln!(text, "f{i}:\n r6 = r1\n call f{}\n r1 = r6\n call f{}\n r0 = 0\n exit", i + 1, i + 1);
    }
    compat(&(text + "f7:\n r0 = *(u32 *)(r1 + 0)\n exit"));
}

#[test]
fn many_lookups_with_many_ids_end() {
    let mut text = String::from("*(u32 *)(r10 - 4) = 0\n");
    for i in 0..size(3_000, 300) {
        let _ = writeln!(
            text,
            "r2 = r10\n r2 += -4\n r1 = map[m{}] ll\n call 1\n *(u64 *)(r10 - {}) = r0\n if r0 == 0 goto l{i}\n r1 = *(u8 *)(r0 + 0)\nl{i}:",
            i % 60,
            16 + i % 60 * 8
        );
    }
    compat(&(text + "r0 = 0\n exit"));
}

#[test]
fn linked_copies_everywhere_end() {
    let mut text = String::from("r6 = r1\n r7 = *(u32 *)(r6 + 0)\n");
    for i in 0..size(2_000, 200) {
        let slot = 8 + i % 60 * 8;
        let _ =
            writeln!(text, "*(u64 *)(r10 - {slot}) = r7\n r8 = r7\n r8 += 1\n if r8 > {i} goto l{i}\n r9 = r7\nl{i}:");
    }
    compat(&(text + "r0 = 0\n exit"));
}

#[test]
fn a_thousand_million_rounds_take_a_few_in_strict() {
    let text = "r1 = 0\nagain:\n r1 += 1\n if r1 != 1000000000 goto again\n r0 = 0\n exit";
    let processed = walk(text, Profile::Strict).processed;
    println!("{processed} processed");
    assert!(processed < 5_000);
}

#[test]
fn instructions_are_walked_once_each_and_cost_the_same_in_long_programs() {
    let of = |count: usize| {
        let text = "r0 = 0\n".to_owned() + &"r0 += 1\n".repeat(count - 2) + "exit";
        let begun = Instant::now();
        assert_eq!(compat(&text), count as u64);
        begun.elapsed().as_nanos() / count as u128
    };
    let costs = [10_000, 100_000, size(1_000_000, 100_000)].map(of);
    println!("{costs:?} ns an instruction, with assembling");
    let (least, most) = (costs.iter().min().unwrap(), costs.iter().max().unwrap());
    // Other work of the machine may fall into one of them.
    assert!(most <= &(least * 8), "{costs:?}");
}

#[test]
fn a_loop_is_walked_once_for_entries_that_it_does_not_tell_apart() {
    let of = |entries: usize| {
        let mut text = String::from("r6 = *(u32 *)(r1 + 0)\n r8 = r6\n r7 = 0\n r9 = 0\n");
        for i in 0..entries {
            let _ = writeln!(text, "if r6 == {i} goto e{i}");
        }
        text += "again:\n may_goto out\n r1 = r10\n r1 += r7\n *(u8 *)(r1 - 8) = 1\n r8 = r9\n r9 = r8\n goto again\n";
        for i in 0..entries {
            let _ = writeln!(text, "e{i}:\n r9 = {i}\n *(u64 *)(r10 - 32) = {i}\n goto again");
        }
        compat(&(text + "out:\n r0 = *(u64 *)(r10 - 32)\n r0 = 0\n exit"))
    };
    let (some, more) = (of(10), of(100));
    assert!(more <= some + 90 * 12, "{some} and {more} processed");
}

#[test]
fn a_chain_of_functions_ends() {
    let mut text = String::from("call f1\n r0 = 0\n exit\n");
    for i in 1..200 {
        let _ = writeln!(text, "f{i}:\n call f{}\n r0 = 0\n exit", i + 1);
    }
    compat(&(text + "f200:\n r0 = 0\n exit"));
}

#[test]
fn many_copies_of_many_numbers_end() {
    // Each round links eight registers anew; every fork refines all of them.
    let mut text = String::from("r9 = r1\n");
    for i in 0..size(2_000, 100) {
        let _ = writeln!(text, "r1 = *(u32 *)(r9 + {})", i % 4 * 4);
        for reg in 2..9 {
            let _ = writeln!(text, "r{reg} = r{}\n r{reg} += 1", reg - 1);
        }
        let _ = writeln!(text, "if r8 > {} goto l{i}\nl{i}:", i % 1000 + 10);
    }
    compat(&(text + "r0 = 0\n exit"));
}

#[test]
fn states_are_not_kept_without_end() {
    // Two of each round, and 150,000 are kept at most.
    let text = "r1 = 0\nagain:\n r1 += 1\n if r1 != 80000 goto again\n r0 = 0\n exit";
    let program = decode(&asm::assemble(text).expect("the program assembles").slots).expect("the program decodes");
    let options = Options { keep_states: KeepStates::Everywhere, ..Options::default() };
    let refused = verify(program, Assumptions::new(ProgType::SchedCls), &options).expect_err("it has 160,000 states");
    assert_eq!(refused.errno, Errno::E2BIG, "{refused:?}");
    assert!(peak_mib() < 256, "{} MiB", peak_mib());
}
