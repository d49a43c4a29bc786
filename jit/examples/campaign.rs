//! Compares both tiers with the reference on random programs: `campaign [COUNT] [SEED]`.

#[path = "../tests/harness/mod.rs"]
mod harness;

use harness::generate::{self, Rng};
use harness::{native, program, reference, run};
use rtbpf_jit::{Features, Options};

fn main() {
    let mut args = std::env::args().skip(1).map(|arg| arg.parse::<u64>().expect("a number"));
    let (count, seed) = (args.next().unwrap_or(100_000), args.next().unwrap_or(1));
    let Some(host) = Options::host() else { return println!("skipped: no native code for this processor") };
    let plain = Options { features: Features::default(), ..host };
    let all: Vec<Options> = [host, plain].into_iter().flat_map(|o| [o, Options { optimise: None, ..o }]).collect();
    let (mut insns_run, mut faults) = (0, 0);
    for round in 0..count {
        let mut rng = Rng::new(seed.wrapping_mul(0x1_0000_0001).wrapping_add(round));
        let size = 1 + rng.below(60);
        let insns = generate::program(&mut rng, size);
        let ctx = std::array::from_fn(|_| rng.word());
        let fuel = rng.chance(2).then(|| rng.below(400) as i64);
        let want = reference::reference(&program(&insns), ctx, fuel);
        insns_run += insns.len();
        faults += want.r0.is_none() as u64;
        for options in &all {
            let options = Options { fuel: fuel.is_some(), ..*options };
            let got = run(&native(&insns, &options), ctx, fuel.unwrap_or(i64::MAX), &[]);
            assert_eq!(got, want, "seed {seed}, round {round}, {options:?}: {insns:#?}");
        }
    }
    println!(
        "{count} programs of {insns_run} instructions, seed {seed}, {faults} faults, {} settings: equal",
        all.len()
    );
}
