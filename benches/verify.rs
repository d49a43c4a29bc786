//! How long does verifying take, a program and a processed instruction, and how long does the running kernel take?
//!
//! Input: programs that stress one thing each (straight lines, branches, loops, subprograms, the stack) and the recorded
//! compute programs on a map value. The two verifiers run in turn, in one run; the kernel's time is the one it logs.
//! `verify NAME…` measures those whose names hold one of these words; `--alone` leaves the kernel out,
//! `--once` verifies once, for tools that count instructions.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Instant;

use rtbpf_abi::{MapKind, ProgKind, ProgType};
use rtbpf_benches::{MEM, recorded, shapes};
use rtbpf_isa::{RawInsn, asm, decode};
use rtbpf_tests::generate::{Case, CaseMap};
use rtbpf_tests::kernel;
use rtbpf_verifier::{Assumptions, Options, verify};

fn case(name: &str, insns: Vec<RawInsn>) -> Case {
    Case {
        name: name.into(),
        kind: ProgKind::of(ProgType::SocketFilter, None, false).expect("there are socket filters"),
        prog_flags: 0,
        insns,
        maps: Vec::new(),
        typed: true,
        packets: Vec::new(),
    }
}

fn of_text(name: &str, text: &str) -> Case {
    case(name, asm::assemble(text).expect("a well-formed program").slots)
}

/// Additions, products, shifts, masks, loads and stores of the stack.
fn straight(count: usize) -> Case {
    of_text(&format!("straight {count}"), &shapes::straight(count))
}

/// One forward branch each 16 instructions, on a number that is not known.
fn branchy(count: usize) -> Case {
    let mut text = String::from("r6 = *(u32 *)(r1 + 0)\n r7 = 0\n r0 = 0\n");
    for i in 0..count / 16 {
        let _ = writeln!(text, "r6 = *(u32 *)(r1 + 0)\n if r6 > {i} goto l{i}");
        for k in 0..14 {
            let _ = writeln!(text, "r0 += {k}");
        }
        let _ = writeln!(text, "l{i}:");
    }
    of_text(&format!("branchy {count}"), &(text + "r0 = 0\n exit"))
}

/// A counted loop.
fn counted(rounds: usize) -> Case {
    of_text(&format!("loop {rounds}"), &shapes::counted(rounds))
}

/// A loop that branches on numbers that are not known.
fn branching_loop(rounds: usize) -> Case {
    of_text(
        &format!("loop-branch {rounds}"),
        &format!(
            "r6 = r1\n r0 = 0\n r1 = 0\nagain:\n r2 = *(u32 *)(r6 + 0)\n if r2 > 7 goto even\n r0 += r1\n goto next\n\
             even:\n r0 ^= 5\nnext:\n r1 += 1\n if r1 != {rounds} goto again\n r0 = 0\n exit"
        ),
    )
}

/// Subprograms that call each other, each called often.
fn subprogs(calls: usize) -> Case {
    let mut text = String::from("r6 = r1\n");
    for i in 0..calls {
        let _ = writeln!(text, "r1 = {i}\n r2 = r6\n call f{}", i % 60);
    }
    text += "r0 = 0\n exit\n";
    for i in 0..60 {
        let _ = writeln!(text, "f{i}:\n *(u64 *)(r10 - 8) = r1\n r6 = *(u32 *)(r2 + 0)\n if r6 > 9 goto g{i}\n r6 = 1");
        let _ = writeln!(text, "g{i}:\n r0 = *(u64 *)(r10 - 8)\n r0 += r6\n exit");
    }
    of_text(&format!("subprogs {calls}"), &text)
}

/// Spills and fills of every slot, with branches between.
fn stack_heavy(count: usize) -> Case {
    let mut text = String::from("r6 = r1\n r0 = 0\n r7 = *(u32 *)(r6 + 0)\n");
    for slot in 1..61 {
        let _ = writeln!(text, "*(u64 *)(r10 - {}) = r7", slot * 8);
    }
    for i in 0..count / 8 {
        let (a, b) = (i * 7 % 60 * 8 + 8, i * 11 % 60 * 8 + 8);
        let _ = writeln!(
            text,
            "r2 = *(u64 *)(r10 - {a})\n r3 = *(u64 *)(r10 - {b})\n r2 += r3\n *(u64 *)(r10 - {a}) = r2\n \
             r4 = *(u32 *)(r6 + 4)\n if r4 > {i} goto l{i}\n *(u64 *)(r10 - {b}) = r4\nl{i}:"
        );
    }
    of_text(&format!("stack {count}"), &(text + "r0 = 0\n exit"))
}

/// The recorded programs, with a map's value for their memory.
fn on_a_map() -> Vec<Case> {
    let prologue = "*(u32 *)(r10 - 512) = 0\n r2 = r10\n r2 += -512\n r1 = map[fd:0] ll\n call 1\n if r0 != 0 goto on\n exit\n\
                    on:\n r1 = r0\n r2 = 4096";
    let prologue = asm::assemble(prologue).expect("a well-formed prologue");
    let build = |program: rtbpf_benches::Recorded| {
        let insns = prologue.slots.iter().copied().chain(RawInsn::parse_all(&program.bytes)?).collect();
        let maps = vec![CaseMap::new(MapKind::Array, 4, MEM as u32, 1)];
        Some(Case { maps, ..case(&program.name, insns) })
    };
    recorded().into_iter().filter_map(build).collect()
}

fn middle(mut times: Vec<f64>) -> (f64, f64) {
    times.sort_by(f64::total_cmp);
    (times[times.len() / 2], times[times.len() * 3 / 4] - times[times.len() / 4])
}

fn report(case: &Case, oracle: bool) {
    let program = match decode(&case.insns) {
        Ok(program) => program,
        Err(error) => return println!("{:20} {error}", case.name),
    };
    let mut given = Assumptions::new(case.prog_type());
    given.maps = case.maps.iter().map(|map| Arc::new(map.spec.clone())).collect();
    let options = Options::default();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let mut effort = kernel::Effort::default();
    let (mut stats, mut verdict) = (rtbpf_verifier::Stats::default(), "accepted".to_owned());
    let begun = Instant::now();
    let rounds = if std::env::args().any(|word| word == "--once") { 1 } else { 5 };
    while ours.len() < rounds || rounds > 1 && begun.elapsed().as_millis() < 300 && ours.len() < 200 {
        let (program, given) = (program.clone(), given.clone());
        let started = Instant::now();
        let answer = verify(program, given, &options);
        ours.push(started.elapsed().as_nanos() as f64 / 1e3);
        match answer {
            Ok(verified) => stats = verified.stats(),
            Err(rejection) => (stats, verdict) = (rejection.stats, rejection.message.clone()),
        }
        if oracle && let Ok(Some(now)) = kernel::effort(case) {
            effort = now;
            theirs.push(now.usec as f64);
        }
    }
    let (median, spread) = middle(ours);
    print!(
        "{:20} {:>8} processed {:>6} peak  {median:>10.1} us ({spread:.1})  {:>7.1} ns an insn",
        case.name,
        stats.processed,
        stats.peak_states,
        median * 1e3 / stats.processed.max(1) as f64,
    );
    if !theirs.is_empty() {
        let (linux, spread) = middle(theirs);
        print!(
            "  linux {linux:>9.0} us ({spread:.0}) {:>8} processed {:>7.1} ns an insn, {:.2} of it",
            effort.processed,
            linux * 1e3 / effort.processed.max(1) as f64,
            median / linux
        );
    }
    println!("  {verdict}");
}

fn main() {
    let alone = std::env::args().any(|word| word == "--alone");
    let oracle = if alone { Err("not asked for".to_owned()) } else { kernel::permitted() };
    if let Err(reason) = &oracle {
        println!("without the kernel: {reason}");
    }
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let wanted = |name: &str| words.is_empty() || words.iter().any(|word| name.contains(word.as_str()));
    type Build = fn(usize) -> Case;
    let families: [(&str, Build, &[usize]); 6] = [
        ("straight", straight, &[1_000, 10_000, 100_000, 900_000]),
        ("branchy", branchy, &[1_000, 10_000, 65_000]),
        ("loop", counted, &[10_000, 100_000]),
        ("loop-branch", branching_loop, &[2_000]),
        ("subprogs", subprogs, &[2_000]),
        ("stack", stack_heavy, &[2_000, 20_000]),
    ];
    for (name, build, sizes) in families {
        for &size in sizes.iter().filter(|size| wanted(&format!("{name} {size}"))) {
            report(&build(size), oracle.is_ok());
        }
    }
    on_a_map().iter().filter(|case| wanted(&case.name)).for_each(|case| report(case, oracle.is_ok()));
}
