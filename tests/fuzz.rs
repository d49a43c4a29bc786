//! A seeded run of every fuzz target: seconds, not hours.

use rtbpf_tests::fuzz::{TARGETS, input};

#[test]
fn every_target_survives_its_seeded_inputs() {
    let seed = 1;
    for target in TARGETS {
        println!("{}: seed {seed}", target.name);
        for index in 0..20_000 {
            (target.check)(&input(target, seed, index));
        }
    }
}
