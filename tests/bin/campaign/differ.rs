//! Where Linux and rtbpf disagree, clustered and shrunk.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rtbpf::isa::RawInsn;
use rtbpf_tests::differ::{Comparison, Difference, compare};
use rtbpf_tests::generate::Case;
use rtbpf_tests::kernel;
use rtbpf_tests::shrink::shrink;

use crate::{Request, print_features};

/// Disagreements of one kind.
struct Cluster {
    difference: Difference,
    count: u64,
    /// The shortest case of the first few.
    smallest: Case,
}

/// Where Linux and rtbpf disagree: counts, then each kind of disagreement with its smallest case.
pub fn run(request: &Request) {
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
                let (case, key) = told_apart(case, &difference);
                let fresh = || Cluster { difference: difference.clone(), count: 0, smallest: case.clone() };
                let cluster = clusters.entry(key).or_insert_with(fresh);
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
        let small = match &cluster.difference {
            Difference::Run(_) => cluster.smallest.clone(),
            difference => shrink(&cluster.smallest, |case| differs_alike(case, difference)),
        };
        println!("\n## {} x {key}\n{} {} flags {}", cluster.count, small.name, small.kind, small.prog_flags);
        if let Comparison::Differs(difference) = compare(&small) {
            println!("{difference:?}");
        }
        println!("{}{}", small.listing(), small.line());
    }
}

/// Runs that differ say only where: what was called tells them apart, once the case is small.
fn told_apart(case: Case, difference: &Difference) -> (Case, String) {
    if !matches!(difference, Difference::Run(_)) {
        return (case, difference.key());
    }
    let small = shrink(&case, |case| differs_alike(&on_a_clean_stack(case), difference));
    let calls: Vec<String> = small.helpers().iter().map(i32::to_string).collect();
    let key = format!("{}, {} calling {}", difference.key(), small.kind, calls.join(" "));
    (small, key)
}

/// With a stack that does not show what was there before: smaller cases may read what larger ones wrote.
fn on_a_clean_stack(case: &Case) -> Case {
    let clear = |word: i16| RawInsn { code: 0x7a, dst: 10, src: 0, off: -8 * word, imm: 0 };
    Case { insns: (1..=64).map(clear).chain(case.insns.iter().copied()).collect(), ..case.clone() }
}

fn differs_alike(case: &Case, difference: &Difference) -> bool {
    matches!(compare(case), Comparison::Differs(other) if other.key() == difference.key())
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
