//! Where the logs of Linux's verifier and ours differ on programs of which they think alike, clustered and shrunk.

use std::time::Instant;

use rtbpf_tests::differ::folded;
use rtbpf_tests::kernel;
use rtbpf_tests::logs::{Agree, Differs, compare};

use crate::Request;
use crate::clusters::Clusters;

/// What is the same for differences that likely share a cause.
fn key(differs: &Differs) -> String {
    let insn = differs.insn.split_once(": ").map_or(differs.insn.as_str(), |(_, text)| text);
    let kind = |known: &str| known.split_once('=').map_or(known, |(_, value)| value).to_owned();
    folded(&format!("{insn}; {} | {}", kind(&differs.theirs), kind(&differs.ours)))
}

/// Counts, then each kind of difference with its smallest case.
pub fn run(request: &Request) {
    if let Err(reason) = kernel::permitted() {
        println!("skipped: {reason}");
        return;
    }
    let begun = Instant::now();
    let (mut done, mut agree, mut insns, mut words) = (0u64, 0u64, 0, 0u64);
    let mut clusters = Clusters::default();
    for seed in request.seed..request.seed + request.count {
        if begun.elapsed() > request.limit {
            break;
        }
        let case = request.generator.case(seed);
        done += 1;
        match compare(&case) {
            None => {}
            Some(Ok(Agree::Walk(count))) => (agree, insns) = (agree + 1, insns + count),
            Some(Ok(Agree::Words)) => words += 1,
            Some(Err(differs)) => clusters.add(key(&differs), case),
        }
    }
    let (differ, ways) = clusters.counts();
    println!(
        "{done} programs of {} from seed {}: {agree} accepted with one log ({insns} instructions), {words} refused in the same \
         words, {differ} differ in {ways} ways, {:.0} s",
        request.generator.name(),
        request.seed,
        begun.elapsed().as_secs_f64()
    );
    clusters.print(request.show, |case| {
        let differs = compare(case)?.err()?;
        let Differs { insn, theirs, ours } = &differs;
        Some((key(&differs), format!("{insn}\n  Linux {theirs}\n  here  {ours}")))
    });
}
