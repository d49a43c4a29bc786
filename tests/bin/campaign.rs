//! Long runs of the generators against the oracles; prints counts. For people and CI machines with time; the suites run
//! a seeded few of the same.
//!
//! ```text
//! campaign kernel  [--generator near] [--count 10000] [--seed 0]   what Linux makes of the programs
//! campaign show    --generator shaped --seed 7                     one case, as text and as a line of the batch format
//! ```
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rtbpf_tests::generate::Generator;
use rtbpf_tests::kernel;

/// What the command line asks for.
struct Request {
    command: String,
    generator: Generator,
    count: u64,
    seed: u64,
    /// Stop after this time.
    limit: Duration,
}

fn main() -> ExitCode {
    let request = match parse(std::env::args().skip(1)) {
        Ok(request) => request,
        Err(message) => {
            eprintln!("campaign: {message}");
            return ExitCode::from(2);
        }
    };
    match request.command.as_str() {
        "kernel" => of_kernel(&request),
        "show" => show(&request),
        other => {
            eprintln!("campaign: no command `{other}` (kernel, show)");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Request, String> {
    let command = args.next().ok_or("no command (kernel, show)")?;
    let limit = Duration::from_secs(180);
    let mut request = Request { command, generator: Generator::NearMiss, count: 10_000, seed: 0, limit };
    while let Some(option) = args.next() {
        let value = args.next().ok_or_else(|| format!("{option} needs a value"))?;
        let number = || value.parse::<u64>().map_err(|_| format!("{option}: `{value}` is no number"));
        match option.as_str() {
            "--generator" => {
                request.generator = Generator::from_name(&value)
                    .ok_or(format!("no generator `{value}` (raw, grammar, shaped, near)"))?;
            }
            "--count" => request.count = number()?,
            "--seed" => request.seed = number()?,
            "--seconds" => request.limit = Duration::from_secs(number()?),
            _ => return Err(format!("no option `{option}` (--generator, --count, --seed, --seconds)")),
        }
    }
    Ok(request)
}

fn show(request: &Request) {
    let case = request.generator.case(request.seed);
    println!("{} {}\n{}{}", case.name, case.kind, case.listing(), case.line());
    match kernel::load(&case, true) {
        Ok(loaded) => println!("Linux: {:?}", loaded.verdict()),
        Err(error) => println!("Linux: {error}"),
    }
}

/// What Linux makes of the programs: accept rate, what accepted ones contain, why others are refused.
fn of_kernel(request: &Request) {
    if let Err(reason) = kernel::permitted() {
        println!("skipped: {reason}");
        return;
    }
    let begun = Instant::now();
    let mut accepted = Vec::new();
    let mut reasons: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    let (mut done, mut unmade, mut slowest) = (0, 0, (Duration::ZERO, 0));
    for seed in request.seed..request.seed + request.count {
        if begun.elapsed() > request.limit {
            break;
        }
        let case = request.generator.case(seed);
        let before = Instant::now();
        let loaded = match kernel::load(&case, true) {
            Ok(loaded) => loaded,
            Err(error) => {
                unmade += 1;
                reasons.entry(error).or_insert((0, seed)).0 += 1;
                continue;
            }
        };
        done += 1;
        slowest = slowest.max((before.elapsed(), seed));
        let verdict = loaded.verdict();
        if verdict.errno == 0 {
            accepted.push(case.features());
        } else {
            let words = verdict.words.lines().rev().find(|line| is_reason(line)).unwrap_or_default();
            reasons.entry(format!("{} {}", verdict.errno, folded(words))).or_insert((0, seed)).0 += 1;
        }
    }
    let share = |n: usize| 100.0 * n as f64 / accepted.len().max(1) as f64;
    let with = |test: fn(&rtbpf_tests::generate::Features) -> bool| share(accepted.iter().filter(|f| test(f)).count());
    let mut lengths: Vec<usize> = accepted.iter().map(|f| f.insns).collect();
    lengths.sort_unstable();
    println!(
        "{} programs of {}, {} accepted ({:.1} %), {unmade} with maps that cannot be made, {:.1} s, slowest {:?} (seed {})",
        done,
        request.generator.name(),
        accepted.len(),
        100.0 * accepted.len() as f64 / f64::from(done).max(1.0),
        begun.elapsed().as_secs_f64(),
        slowest.0,
        slowest.1,
    );
    println!(
        "accepted: median {} instructions; variable offset {:.0} %, helpers {:.0} %, loops {:.0} %, spills {:.0} %, subprograms {:.0} %, atomics {:.0} %",
        lengths.get(lengths.len() / 2).unwrap_or(&0),
        with(|f| f.variable_offset),
        with(|f| f.helpers),
        with(|f| f.loops),
        with(|f| f.spills),
        with(|f| f.subprogs),
        with(|f| f.atomics),
    );
    let mut reasons: Vec<_> = reasons.into_iter().collect();
    reasons.sort_by_key(|(_, (count, _))| std::cmp::Reverse(*count));
    for (reason, (count, seed)) in reasons.into_iter().take(40) {
        println!("{count:7}  {reason}   (seed {seed})");
    }
}

/// Whether a line of the log is the reason rather than an instruction or a state.
fn is_reason(line: &str) -> bool {
    !line.is_empty() && !line.starts_with(|c: char| c.is_ascii_digit() || c == ';') && !line.starts_with("mark_precise")
}

/// Numbers replaced, so that alike reasons count together.
fn folded(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars().take(100) {
        let c = if c.is_ascii_digit() { '#' } else { c };
        if !(c == '#' && out.ends_with('#')) {
            out.push(c);
        }
    }
    out
}
