//! A seeded run of every fuzz target: seconds, not hours.

use rtbpf_tests::fuzz::{TARGETS, input};

#[test]
fn every_target_survives_its_seeded_inputs() {
    let seed = 1;
    for target in TARGETS {
        println!("{}: seed {seed}", target.name);
        // A program that runs takes as long as hundreds of texts.
        let count = if target.name == "sound" { 100 } else { 5_000 };
        let accepted = (0..count).filter(|&index| (target.check)(&input(target, seed, index))).count();
        assert!(accepted * 20 > count as usize, "{}: only {accepted} of {count} inputs were accepted", target.name);
    }
}
