//! What the verifier accepts does not fault: accepted programs run in the checked interpreter, which asserts every access
//! and every fact, on inputs of all kinds.

use rtbpf_tests::generate::Generator;
use rtbpf_tests::sound::{Soundness, check};

#[test]
fn accepted_programs_never_fault() {
    let mut total = Soundness::default();
    for generator in [Generator::Grammar, Generator::Shaped, Generator::NearMiss] {
        for seed in 0..250 {
            let case = generator.case(seed);
            let found = check(&case, 8);
            assert_eq!(found.escape, None, "{}\n{}", case.name, case.listing());
            total.add(&found);
        }
    }
    println!("{} programs, {} accepted, {} runs without a fault", total.programs, total.accepted, total.runs);
    assert!(total.accepted * 100 >= total.programs * 30, "too few programs are accepted to say anything");
    assert!(total.runs >= total.accepted, "too few programs run");
}
