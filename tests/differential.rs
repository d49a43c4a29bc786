//! Generated programs in every engine: checked interpreter with and without facts, native code with and without. Programs
//! end by storing what they know to a map, so that a wrong bit anywhere shows.

use rtbpf_tests::engines_agree::{Agreement, agree};
use rtbpf_tests::generate::Generator;

#[test]
fn every_engine_gives_the_same_answer() {
    let (mut programs, mut engines) = (0, 0);
    for generator in [Generator::Grammar, Generator::Shaped] {
        for seed in 0..200 {
            let case = generator.case(seed);
            match agree(&case, 4) {
                Agreement::NotRun => {}
                Agreement::Engines(ran) => (programs, engines) = (programs + 1, engines + ran),
                Agreement::Differs(what) => panic!("{}: {what}\n{}", case.name, case.listing()),
            }
        }
    }
    println!("{programs} programs agree, each in {:.1} engines", engines as f64 / f64::from(programs));
    assert!(programs >= 200, "too few programs run to say anything: {programs}");
}
