//! Where the logs of Linux's verifier and ours differ on programs of which they think alike, clustered and shrunk.

use std::collections::BTreeMap;
use std::time::Instant;

use rtbpf_tests::differ::folded;
use rtbpf_tests::generate::Case;
use rtbpf_tests::kernel;
use rtbpf_tests::logs::{Agree, Differs, compare};
use rtbpf_tests::shrink::shrink;

use crate::Request;

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
    let mut clusters: BTreeMap<String, (u64, Case)> = BTreeMap::new();
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
            Some(Err(differs)) => {
                let (count, smallest) = clusters.entry(key(&differs)).or_insert_with(|| (0, case.clone()));
                *count += 1;
                if case.insns.len() < smallest.insns.len() {
                    *smallest = case;
                }
            }
        }
    }
    let differ: u64 = clusters.values().map(|(count, _)| count).sum();
    println!(
        "{done} programs of {} from seed {}: {agree} accepted with one log ({insns} instructions), {words} refused in the same \
         words, {differ} differ in {} ways, {:.0} s",
        request.generator.name(),
        request.seed,
        clusters.len(),
        begun.elapsed().as_secs_f64()
    );
    let mut clusters: Vec<_> = clusters.into_iter().collect();
    clusters.sort_by_key(|(_, (count, _))| std::cmp::Reverse(*count));
    for (words, (count, smallest)) in clusters.into_iter().take(request.show) {
        let alike = |case: &Case| matches!(compare(case), Some(Err(differs)) if key(&differs) == words);
        let small = shrink(&smallest, alike);
        println!("\n## {count} x {words}\n{} {} flags {}", small.name, small.kind, small.prog_flags);
        if let Some(Err(Differs { insn, theirs, ours })) = compare(&small) {
            println!("{insn}\n  Linux {theirs}\n  here  {ours}");
        }
        println!("{}{}", small.listing(), small.line());
    }
}
