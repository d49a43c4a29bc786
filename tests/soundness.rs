//! What the verifier accepts does not fault: accepted programs run in the checked interpreter, which asserts every access
//! and every fact, on inputs of all kinds; at every instruction, every register and slot lies in a state of the proof,
//! and the states prove the program again by themselves.

use rtbpf::verifier::{KeepStates, Options, Profile, Pruning, Reason};
use rtbpf_tests::generate::{Case, Generator};
use rtbpf_tests::machine::Machine;
use rtbpf_tests::sound::{Oracle, Soundness};

const SHAPES: [Generator; 3] = [Generator::Grammar, Generator::Shaped, Generator::NearMiss];

/// Checks `count` cases of each generator, with states kept where `keep_states` says.
fn check_all(profile: Profile, keep_states: KeepStates, count: u64) {
    let oracle = Oracle { keep_states, ..Oracle::new(profile) };
    let mut total = Soundness::default();
    for generator in SHAPES {
        for seed in 0..count {
            let case = generator.case(seed);
            let found = oracle.check(&case);
            assert_eq!(found.escape, None, "{}\n{}", case.name, case.listing());
            total.add(&found);
        }
    }
    println!(
        "{} programs, {} accepted, {} runs without a fault, in a kept state {} times",
        total.programs, total.accepted, total.runs, total.contained
    );
    assert!(total.accepted * 100 >= total.programs * 30, "too few programs are accepted to say anything");
    assert!(total.runs >= total.accepted, "too few programs run");
    assert!(total.contained >= total.runs as u64, "too few states are looked at");
}

#[test]
fn accepted_programs_stay_within_their_states_at_every_instruction() {
    check_all(Profile::Compat, KeepStates::Everywhere, 100);
    check_all(Profile::Strict, KeepStates::Everywhere, 60);
}

#[test]
fn accepted_programs_stay_within_their_states_at_the_leaders_of_blocks() {
    check_all(Profile::Compat, KeepStates::Leaders, 100);
    check_all(Profile::Strict, KeepStates::Leaders, 60);
}

/// Found by a long campaign.
#[test]
fn a_program_that_escaped_once_stays_within_its_states() {
    // An atomic on a part of what is behind a dynptr, which begins in the middle of a word.
    let case = Generator::Shaped.case(731_421_582);
    let found = Oracle::new(Profile::Compat).check(&case);
    assert_eq!(found.escape, None, "{}\n{}", case.name, case.listing());
    assert!(found.accepted > 0 && found.runs > 0, "{}", case.name);
}

/// Small programs of all kinds.
fn small_cases(count: u64) -> impl Iterator<Item = Case> {
    let generators = [Generator::Shaped, Generator::NearMiss, Generator::Siblings, Generator::Helpers];
    generators.into_iter().flat_map(move |generator| (0..count).map(move |seed| generator.case(seed)))
}

/// What the verifier answers by `options`: why it refuses, or how much it walked.
fn verdict(case: &Case, options: &Options) -> Option<Result<rtbpf::verifier::Stats, Reason>> {
    let machine = Machine::new(case).ok()?;
    Some(machine.judge_by(case, options).map(|verified| verified.stats()).map_err(|rejection| rejection.reason))
}

#[test]
fn keeping_states_changes_no_verdict_and_no_walk() {
    for case in small_cases(80) {
        for profile in [Profile::Compat, Profile::Strict] {
            let by = |keep_states| verdict(&case, &Options { profile, keep_states, ..Options::default() });
            let without = by(KeepStates::Nowhere);
            assert_eq!(by(KeepStates::Leaders), without, "{}\n{}", case.name, case.listing());
            assert_eq!(by(KeepStates::Everywhere), without, "{}\n{}", case.name, case.listing());
        }
    }
}

/// Compares the verdict by `pruning` with the usual one where the budget lasts for both; says how often.
fn same_verdict_by(pruning: Pruning) {
    let (mut compared, mut accepted, mut saved) = (0, 0, 0);
    for case in small_cases(150) {
        let by = |pruning| verdict(&case, &Options { pruning, budget: Some(20_000), ..Options::default() });
        let (Some(usual), Some(other)) = (by(Pruning::Needed), by(pruning)) else { continue };
        if [&usual, &other].iter().any(|verdict| matches!(verdict, Err(Reason::TooComplex))) {
            continue;
        }
        compared += 1;
        if let (Ok(usual), Ok(other)) = (usual, other) {
            accepted += 1;
            saved += usize::from(usual.processed < other.processed);
        }
        let said = (usual.map(|_| ()), other.map(|_| ()));
        assert_eq!(said.0, said.1, "{}\n{}", case.name, case.listing());
    }
    println!("{pruning:?}: {compared} verdicts agree, {accepted} accept, {saved} of them were walked further");
    assert!(compared >= 400 && accepted >= 150, "only {compared} were compared, {accepted} accepted");
    assert!(saved >= 20, "only {saved} programs have something to prune");
}

#[test]
fn a_walk_that_never_prunes_gives_the_same_verdict() {
    same_verdict_by(Pruning::Never);
}

#[test]
fn a_proof_that_needs_all_facts_gives_the_same_verdict() {
    same_verdict_by(Pruning::Whole);
}
