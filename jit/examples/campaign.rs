//! Compares both tiers with the reference on random programs: `campaign [COUNT] [SEED]`.
//!
//! Prints how often each row of the instruction table occurred; every program runs in every setting.

#[path = "../tests/harness/mod.rs"]
mod harness;

use std::collections::BTreeMap;

use harness::generate::{self, Rng};
use harness::{natives, program, reference, run, verified};
use rtbpf_isa::encode;
use rtbpf_isa::rows::ROWS;
use rtbpf_jit::{Features, Options};

fn main() {
    let mut args = std::env::args().skip(1).map(|arg| arg.parse::<u64>().expect("a number"));
    let (count, seed) = (args.next().unwrap_or(100_000), args.next().unwrap_or(1));
    let Some(host) = Options::host() else { return println!("skipped: no native code for this processor") };
    let plain = Options { features: Features::default(), ..host };
    let all: Vec<Options> = [host, plain].into_iter().flat_map(|o| [o, Options { optimise: None, ..o }]).collect();
    let (mut insns_run, mut faults) = (0, 0);
    let mut rows: BTreeMap<&str, u64> = BTreeMap::new();
    for round in 0..count {
        let mut rng = Rng::new(seed.wrapping_mul(0x1_0000_0001).wrapping_add(round));
        let size = 1 + rng.below(60);
        let insns = generate::program(&mut rng, size);
        let ctx = std::array::from_fn(|_| rng.word());
        let fuel = rng.chance(2).then(|| rng.below(400) as i64);
        let program = program(&insns);
        for row in program.insns().iter().filter_map(encode::row) {
            *rows.entry(row.name).or_default() += 1;
        }
        let want = reference::reference(&program, ctx, fuel);
        insns_run += insns.len();
        faults += want.r0.is_none() as u64;
        let settings = || all.iter().map(|options| Options { fuel: fuel.is_some(), ..*options });
        for (native, options) in natives(&verified(program), settings()).iter().zip(settings()) {
            let got = run(native, ctx, fuel.unwrap_or(i64::MAX), &[]);
            assert_eq!(got, want, "seed {seed}, round {round}, {options:?}: {insns:#?}");
        }
    }
    println!(
        "{count} programs of {insns_run} instructions, seed {seed}, {faults} faults, {} settings: equal",
        all.len()
    );
    let without: Vec<&str> = ROWS.iter().map(|row| row.name).filter(|name| !rows.contains_key(name)).collect();
    if let Some((name, least)) = rows.iter().min_by_key(|(_, count)| **count) {
        println!("{} rows of the instruction table, each at least {least} times ({name})", rows.len());
    }
    println!("not generated: {}", without.join(" "));
    rows.iter().for_each(|(name, count)| println!("{name} {count}"));
}
