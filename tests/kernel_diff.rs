//! Generated programs before the running Linux kernel. Loads and test-runs only; nothing is attached. Where `bpf(2)` is
//! not permitted the tests say so and do nothing.

use rtbpf_tests::differ::{Comparison, Difference, compare};
use rtbpf_tests::generate::Generator;
use rtbpf_tests::kernel;

/// Whether to go on; prints the reason where not.
fn permitted() -> bool {
    kernel::permitted().inspect_err(|reason| println!("skipped: {reason}")).is_ok()
}

#[test]
fn linux_accepts_most_shaped_programs() {
    if !permitted() {
        return;
    }
    let count = 300;
    let accepts = |seed: &u64| {
        let loaded =
            kernel::load(&Generator::Shaped.case(*seed), false).expect("the maps of a shaped case can be made");
        loaded.verdict().errno == 0
    };
    let accepted = (0..count).filter(accepts).count();
    println!("Linux accepts {accepted} of {count} shaped programs");
    assert!(accepted * 100 >= count as usize * 30, "{accepted} of {count} accepted");
}

#[test]
fn verdicts_errnos_and_runs_agree() {
    if !permitted() {
        return;
    }
    if let Err(reason) = kernel::pin() {
        println!("skipped: {reason}");
        return;
    }
    let (mut judged, mut agreed, mut runs, mut differing) = (0, 0, 0, Vec::new());
    for generator in [Generator::Raw, Generator::Grammar, Generator::NearMiss] {
        for seed in 0..200 {
            let case = generator.case(seed);
            match compare(&case) {
                Comparison::NoAnswer(_) => continue,
                Comparison::Accepted(ran) => (agreed, runs) = (agreed + 1, runs + ran),
                Comparison::Rejected(_) => agreed += 1,
                Comparison::Differs(difference) => {
                    let serious = matches!(difference, Difference::Panic(_) | Difference::FalseAccept { .. });
                    assert!(!serious, "{}: {difference:?}\n{}", case.name, case.listing());
                    differing.push(format!("{}: {}", case.name, difference.key()));
                }
            }
            judged += 1;
        }
    }
    println!("{agreed} of {judged} programs agree, {runs} runs among them; the rest:\n{}", differing.join("\n"));
    assert!(agreed * 100 >= judged * 97, "{agreed} of {judged} programs agree:\n{}", differing.join("\n"));
}
