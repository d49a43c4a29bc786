//! Instruction limits: the same program with the same limit ends alike in every engine, wherever the limit falls.
//!
//! Limits are charged a block at a time, at its first instruction, and a block that cannot be paid is not begun. So a run
//! stops at the first instruction of a block, with less left than the block has, and with everything before it done.

use rtbpf::verifier::VerifiedProgram;
use rtbpf_tests::engines_agree;
use rtbpf_tests::generate::{Case, Generator};
use rtbpf_tests::inputs::{Input, inputs};
use rtbpf_tests::machine::{Contents, Machine, Outcome, Stop, Way};
use rtbpf_tests::rng::Rng;

/// All that a limited run leaves.
#[derive(PartialEq, Debug)]
struct Left {
    outcome: Outcome,
    stop: Stop,
    maps: Vec<Contents>,
}

/// Runs `case` under a limit; `None` where this engine does not take it.
fn limited(case: &Case, verified: &VerifiedProgram, input: &Input, way: Way, limit: u64) -> Option<Left> {
    let mut machine = Machine::limited(case, limit).ok()?;
    machine.bind(verified.clone(), way).ok()?;
    let outcome = match input {
        Input::Packet(packet) => machine.run(packet),
        Input::Ctx(bytes) => machine.run_on_ctx(bytes),
    };
    Some(Left { outcome, stop: machine.stop(), maps: machine.contents() })
}

/// Compares the engines at many limits; how many runs were stopped.
fn check(case: &Case) -> usize {
    let mut rng = Rng::new(case.insns.len() as u64);
    // Answers of these differ from run to run.
    if engines_agree::NAMES.iter().any(|&id| case.calls(id)) {
        return 0;
    }
    let Some(input) = inputs(case, &mut rng, 1).pop() else { return 0 };
    let Some(verified) = Machine::new(case).ok().and_then(|machine| machine.judge(case).ok()) else { return 0 };
    let limited = |way, limit| limited(case, &verified, &input, way, limit);
    let whole = 1 << 24;
    let Some(free) = limited(Way::Unverified, whole) else { return 0 };
    let (Outcome::Done { .. }, taken) = (&free.outcome, whole - free.stop.left as u64) else { return 0 };
    // Every limit of a short run, some of a long one, and those around its end.
    let mut limits: Vec<u64> = match taken {
        0..=12 => (0..taken).collect(),
        _ => std::iter::repeat_with(|| rng.below(taken)).take(10).collect(),
    };
    limits.extend([taken.saturating_sub(1), taken, taken + 1]);
    let mut stopped = 0;
    for limit in limits {
        let want = limited(Way::Unverified, limit).expect("it ran above");
        match want.outcome {
            Outcome::Endless => {
                stopped += 1;
                assert!(limit < taken, "{}: stopped at {limit}, needs {taken}\n{}", case.name, case.listing());
                assert!((0..=limit as i64).contains(&want.stop.left) && want.stop.at.is_some());
            }
            _ => assert!(limit >= taken, "{}: ended with {limit}, needs {taken}\n{}", case.name, case.listing()),
        }
        for way in Way::ALL {
            let Some(mut got) = limited(way, limit) else { continue };
            // Code without checks does not count what is proved to fit.
            let fits = verified.proved().worst_case_insns.is_some_and(|worst| worst <= limit);
            if fits && matches!(way, Way::FastNative | Way::Native | Way::NativeWithoutFacts | Way::Threaded) {
                got.stop.left = want.stop.left;
            }
            assert_eq!(got, want, "{way:?}, limit {limit} of {taken}: {}\n{}", case.name, case.listing());
        }
    }
    stopped
}

#[test]
fn every_engine_stops_alike_wherever_the_limit_falls() {
    let (mut programs, mut stopped) = (0, 0);
    for generator in [Generator::Grammar, Generator::Shaped] {
        for seed in 1000..1020 {
            let case = generator.case(seed);
            let runs = check(&case);
            programs += usize::from(runs > 0);
            stopped += runs;
        }
    }
    println!("{programs} programs, stopped at {stopped} limits, each in every engine that takes it");
    assert!(programs >= 12 && stopped >= 100, "too few runs to say anything: {programs} programs, {stopped} stops");
}
