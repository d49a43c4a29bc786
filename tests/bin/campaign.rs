//! Long runs of the generators against the oracles; prints counts. For people and CI machines with time; the suites run
//! a seeded few of the same.
//!
//! ```text
//! campaign kernel  [--generator near] [--count 10000] [--seed 0]   what Linux makes of the programs
//! campaign differ  [--generator near] [--count 10000] [--seed 0]   where Linux and rtbpf disagree, with shrunk cases
//! campaign show    --generator shaped --seed 7                     one case, as text and as a line of the batch format
//! ```
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rtbpf_tests::differ::{Comparison, Difference, compare, folded};
use rtbpf_tests::generate::{Case, Features, Generator};
use rtbpf_tests::kernel;
use rtbpf_tests::machine::Machine;
use rtbpf_tests::shrink::shrink;

/// What the command line asks for.
struct Request {
    command: String,
    generator: Generator,
    count: u64,
    seed: u64,
    /// Stop after this time.
    limit: Duration,
    /// How many kinds of disagreement to shrink and print.
    show: usize,
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
        "differ" => differ(&request),
        "show" => show(&request),
        other => {
            eprintln!("campaign: no command `{other}` (kernel, differ, show)");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Request, String> {
    let command = args.next().ok_or("no command (kernel, differ, show)")?;
    let limit = Duration::from_secs(180);
    let mut request = Request { command, generator: Generator::NearMiss, count: 10_000, seed: 0, limit, show: 30 };
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
            "--show" => request.show = number()? as usize,
            "--seconds" => request.limit = Duration::from_secs(number()?),
            _ => return Err(format!("no option `{option}` (--generator, --count, --seed, --seconds, --show)")),
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
    match Machine::new(&case).map(|machine| machine.judge(&case)) {
        Ok(Ok(verified)) => println!("here: accepted, {:?}", verified.stats()),
        Ok(Err(rejection)) => println!("here: {}", rejection.log),
        Err(error) => println!("here: {error}"),
    }
    println!("together: {:?}", compare(&case));
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
            let words = kernel::last_words(&verdict.words);
            reasons.entry(format!("{} {}", verdict.errno, folded(words))).or_insert((0, seed)).0 += 1;
        }
    }
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
    print_features(&accepted);
    let mut reasons: Vec<_> = reasons.into_iter().collect();
    reasons.sort_by_key(|(_, (count, _))| std::cmp::Reverse(*count));
    for (reason, (count, seed)) in reasons.into_iter().take(40) {
        println!("{count:7}  {reason}   (seed {seed})");
    }
}

/// What accepted programs contain.
fn print_features(accepted: &[Features]) {
    let share = |n: usize| 100.0 * n as f64 / accepted.len().max(1) as f64;
    let with = |test: fn(&Features) -> bool| share(accepted.iter().filter(|f| test(f)).count());
    let mut lengths: Vec<usize> = accepted.iter().map(|f| f.insns).collect();
    lengths.sort_unstable();
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
}

/// Disagreements of one kind.
struct Cluster {
    difference: Difference,
    count: u64,
    /// The shortest case of the first few.
    smallest: Case,
}

/// Where Linux and rtbpf disagree: counts, then each kind of disagreement with its smallest case.
fn differ(request: &Request) {
    if let Err(reason) = kernel::permitted().and_then(|()| kernel::pin()) {
        println!("skipped: {reason}");
        return;
    }
    std::panic::set_hook(Box::new(|_| {}));
    let begun = Instant::now();
    let mut clusters: BTreeMap<String, Cluster> = BTreeMap::new();
    let mut accepted = Vec::new();
    let (mut done, mut runs, mut rejected, mut unanswered) = (0u64, 0, 0u64, 0u64);
    let mut slowest = (Duration::ZERO, 0);
    for seed in request.seed..request.seed + request.count {
        if begun.elapsed() > request.limit {
            break;
        }
        let case = request.generator.case(seed);
        let before = Instant::now();
        let comparison = compare(&case);
        slowest = slowest.max((before.elapsed(), seed));
        done += 1;
        match comparison {
            Comparison::Accepted(ran) => {
                accepted.push(case.features());
                runs += ran;
            }
            Comparison::Rejected(_) => rejected += 1,
            Comparison::NoAnswer(_) => unanswered += 1,
            Comparison::Differs(difference) => {
                let fresh = || Cluster { difference: difference.clone(), count: 0, smallest: case.clone() };
                let cluster = clusters.entry(difference.key()).or_insert_with(fresh);
                cluster.count += 1;
                if case.insns.len() < cluster.smallest.insns.len() {
                    cluster.smallest = case;
                }
            }
        }
    }
    let count = |test: fn(&Difference) -> bool| -> u64 {
        clusters.values().filter(|c| test(&c.difference)).map(|c| c.count).sum()
    };
    let differing = count(|_| true);
    let judged = done - unanswered;
    println!(
        "{done} programs of {} from seed {} in {:.0} s (slowest {:?}, seed {}); {unanswered} that one side cannot judge",
        request.generator.name(),
        request.seed,
        begun.elapsed().as_secs_f64(),
        slowest.0,
        slowest.1
    );
    println!(
        "both accept {} ({runs} runs agree), both refuse with the same errno {rejected}; {:.2} % of {judged} agree in all",
        accepted.len(),
        100.0 * (judged - differing) as f64 / judged.max(1) as f64,
    );
    println!(
        "panics {}, faults {}, false accepts {}, runs that differ {}, false rejects {}, other errno {}",
        count(|d| matches!(d, Difference::Panic(_))),
        count(|d| matches!(d, Difference::Fault(_))),
        count(|d| matches!(d, Difference::FalseAccept { .. })),
        count(|d| matches!(d, Difference::Run(_))),
        count(|d| matches!(d, Difference::FalseReject(_))),
        count(|d| matches!(d, Difference::Errno { .. })),
    );
    print_features(&accepted);
    let mut clusters: Vec<_> = clusters.into_iter().collect();
    clusters.sort_by(|(_, a), (_, b)| rank(&a.difference).cmp(&rank(&b.difference)).then(b.count.cmp(&a.count)));
    for (key, cluster) in clusters.iter().take(request.show) {
        let same = |case: &Case| matches!(compare(case), Comparison::Differs(difference) if difference.key() == *key);
        let small = shrink(&cluster.smallest, same);
        println!("\n## {} x {key}\n{} {} flags {}", cluster.count, small.name, small.kind, small.prog_flags);
        if let Comparison::Differs(difference) = compare(&small) {
            println!("{difference:?}");
        }
        println!("{}{}", small.listing(), small.line());
    }
}

/// The most serious kinds first.
fn rank(difference: &Difference) -> u32 {
    match difference {
        Difference::Panic(_) => 0,
        Difference::Fault(_) => 1,
        Difference::FalseAccept { .. } => 2,
        Difference::Run(_) => 3,
        Difference::FalseReject(_) => 4,
        Difference::Errno { .. } => 5,
    }
}
