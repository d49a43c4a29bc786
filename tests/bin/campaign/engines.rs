//! Campaigns that need no kernel: soundness, and engines against each other.

use std::collections::BTreeMap;
use std::time::Instant;

use rtbpf::isa::decode;
use rtbpf::isa::encode::row;
use rtbpf::isa::rows::ROWS;
use rtbpf_tests::differ::folded;
use rtbpf_tests::engines_agree::{Agreement, agree};
use rtbpf_tests::generate::Case;
use rtbpf_tests::machine::Way;
use rtbpf_tests::sound::{Oracle, Soundness};

use crate::clusters::Clusters;
use crate::{Request, print_features};

/// Inputs a program runs on.
const INPUTS: usize = 8;

/// One program in so many is checked in full: proved again from its kept states, and walked as far as [`FULL`] allows.
const IN_FULL: u64 = 8;

/// Instructions that are walked for one program at most. What walks more takes most of all time: one program in seventy
/// walks more than [`SHORT`], one in five hundred more than [`FULL`].
const FULL: u64 = 10_000;
const SHORT: u64 = 1_000;

/// What was said, behind what is the same of all that likely share its cause.
fn alike(words: String) -> (String, String) {
    (folded(&words), words)
}

/// How often each row of the instruction table stands in programs that every engine ran.
#[derive(Default)]
struct Rows(BTreeMap<&'static str, u64>);

impl Rows {
    fn count(&mut self, case: &Case) {
        for row in decode(&case.insns).iter().flat_map(|program| program.insns().iter().filter_map(row)) {
            *self.0.entry(row.name).or_default() += 1;
        }
    }

    fn print(&self) {
        let mut rows: Vec<_> = ROWS.iter().map(|row| (self.0.get(row.name).copied().unwrap_or(0), row.name)).collect();
        rows.sort_unstable();
        let rows: Vec<String> = rows.into_iter().map(|(count, name)| format!("{name} {count}")).collect();
        println!("in each engine, rows of the instruction table: {}", rows.join(", "));
    }
}

/// Accepted programs that fault, or that a kept state does not hold.
pub fn sound(request: &Request) {
    let begun = Instant::now();
    let (mut total, mut accepted, mut clusters, mut faults) =
        (Soundness::default(), Vec::new(), Clusters::default(), 0);
    for seed in request.seed..request.seed + request.count {
        if begun.elapsed() > request.limit {
            break;
        }
        let case = request.generator.case(seed);
        let recheck = seed % IN_FULL == 0;
        let budget = Some(if recheck { FULL } else { SHORT });
        let found = Oracle { recheck, budget, ..Oracle::new(request.profile) }.check(&case);
        if found.accepted > 0 {
            accepted.push(case.features());
        }
        if let Some(words) = &found.escape {
            faults += 1;
            println!("{}: {words}", case.name);
            clusters.add(folded(words), case);
        }
        total.add(&found);
    }
    println!(
        "{} programs of {} from seed {}, {} accepted ({:.0} %), {} runs without a fault, {} without a helper's function, \
         in a kept state at all of {} instructions, {faults} programs escape, {:.0} s",
        total.programs,
        request.generator.name(),
        request.seed,
        total.accepted,
        100.0 * total.accepted as f64 / total.programs.max(1) as f64,
        total.runs,
        total.unsupported,
        total.contained,
        begun.elapsed().as_secs_f64()
    );
    print_features(&accepted);
    clusters.print(request.show, |case| Oracle::new(request.profile).check(case).escape.map(alike));
}

/// Programs on which two engines differ.
pub fn agree_all(request: &Request) {
    let begun = Instant::now();
    let (mut done, mut ran, mut engines, mut clusters, mut differ) = (0u64, 0u64, 0, Clusters::default(), 0u64);
    let mut rows = Rows::default();
    for seed in request.seed..request.seed + request.count {
        if begun.elapsed() > request.limit {
            break;
        }
        let case = request.generator.case(seed);
        done += 1;
        match agree(&case, INPUTS) {
            Agreement::NotRun => {}
            Agreement::Engines(count) => {
                (ran, engines) = (ran + 1, engines + count);
                if count == Way::ALL.len() {
                    rows.count(&case);
                }
            }
            Agreement::Differs(words) => {
                differ += 1;
                clusters.add(folded(&words), case);
            }
        }
    }
    println!(
        "{done} programs of {} from seed {}: {ran} agree on {INPUTS} inputs each, in {:.2} engines, {differ} differ, {:.0} s",
        request.generator.name(),
        request.seed,
        engines as f64 / ran.max(1) as f64,
        begun.elapsed().as_secs_f64()
    );
    rows.print();
    clusters.print(request.show, |case| match agree(case, INPUTS) {
        Agreement::Differs(words) => Some(alike(words)),
        Agreement::NotRun | Agreement::Engines(_) => None,
    });
}
