//! Generated programs before the running Linux kernel. Loads and test-runs only; nothing is attached. Where `bpf(2)` is
//! not permitted the tests say so and do nothing.

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
