//! What Linux makes of the programs: the generators judged.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rtbpf_tests::differ::folded;
use rtbpf_tests::kernel;

use crate::{Request, print_features};

/// What Linux makes of the programs: accept rate, what accepted ones contain, why others are refused.
pub fn run(request: &Request) {
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
