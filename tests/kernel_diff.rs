//! Generated programs before the running Linux kernel. Loads and test-runs only; nothing is attached. Where `bpf(2)` is
//! not permitted the tests say so and do nothing.

use rtbpf_tests::differ::{Comparison, Difference, compare};
use rtbpf_tests::generate::Generator;
use rtbpf_tests::kernel;
use rtbpf_tests::objects::{Judge, Judged, files};

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
    for generator in [Generator::Raw, Generator::Grammar, Generator::Siblings, Generator::NearMiss] {
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

/// The folder may hold any public collection; `campaign objects` prints the same with reasons.
#[test]
fn programs_of_objects_are_judged_alike() {
    let Some(folder) = std::env::var_os("RTBPF_OBJECTS") else {
        println!("skipped: RTBPF_OBJECTS names no folder of objects");
        return;
    };
    let judge = match Judge::new() {
        Ok(judge) => judge,
        Err(reason) => {
            println!("skipped: {reason}");
            return;
        }
    };
    let (mut accepted, mut rejected, mut unjudged, mut wrong) = (0, 0, 0, Vec::new());
    for path in files(folder.as_ref()).expect("RTBPF_OBJECTS is a folder") {
        for (program, judged) in judge.object(&path) {
            match judged {
                Judged::Not(_) => unjudged += 1,
                Judged::Both { us, linux } if (us.errno == 0) == (linux.errno == 0) => match us.errno {
                    0 => accepted += 1,
                    _ => rejected += 1,
                },
                Judged::Both { us, linux } => {
                    wrong.push(format!(
                        "{} {program}: {} {}, Linux {} {}",
                        path.display(),
                        us.errno,
                        us.words,
                        linux.errno,
                        linux.words
                    ));
                }
            }
        }
    }
    println!(
        "{accepted} programs accepted by both, {rejected} rejected by both, {unjudged} not judged; the rest:\n{}",
        wrong.join("\n")
    );
    // What our verifier and Linux's give up as too complex is not the same to the last program.
    let too_complex = |line: &&String| line.contains(": 7 ") || line.contains("Linux 7 ");
    let wrong: Vec<_> = wrong.iter().filter(|line| !too_complex(line)).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}
