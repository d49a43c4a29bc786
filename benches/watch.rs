//! Verifier, compilers and engines under criterion, which remembers: each run is compared with the one before.
//!
//! `cargo bench -p rtbpf-benches --bench watch -- NAME` takes those whose names match. To compare with other engines, use
//! the benches that run them in turn.

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rtbpf_abi::ProgType;
use rtbpf_benches::runs::{checked, ours, threaded};
use rtbpf_benches::{recorded, shapes};
use rtbpf_isa::{Program, asm, decode};
use rtbpf_jit::{NoLinker, Options, compile};
use rtbpf_verifier::{Assumptions, Options as Rules, Profile, verify};

fn program(text: &str) -> Program {
    decode(&asm::assemble(text).expect("well-formed text").slots).expect("a well-formed program")
}

/// Time an instruction that is processed.
fn verifier(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("verify");
    let given = Assumptions::new(ProgType::SocketFilter);
    let cases = [
        ("straight 10000", shapes::straight(10_000), Profile::Compat),
        ("straight 100000", shapes::straight(100_000), Profile::Compat),
        ("loop 10000", shapes::counted(10_000), Profile::Compat),
        ("loop 100000", shapes::counted(100_000), Profile::Compat),
        ("strict: loop 1000000000", shapes::counted(1_000_000_000), Profile::Strict),
    ];
    for (name, text, profile) in cases {
        let (program, rules) = (program(&text), Rules { profile, ..Rules::default() });
        let prove = || verify(program.clone(), given.clone(), &rules).expect("it is safe");
        group.throughput(Throughput::Elements(prove().stats().processed));
        group.bench_function(name, |bencher| bencher.iter(prove));
    }
    group.finish();
}

/// The tiers of the host's compiler, by name.
fn tiers() -> Vec<(&'static str, Options)> {
    let tiers = |host| [("fast", Options { optimise: None, ..host }), ("optimised", host)];
    Options::host().into_iter().flat_map(tiers).collect()
}

/// Time an instruction that is compiled.
fn compilers(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("compile");
    for size in [300, 10_000] {
        let program = shapes::mix(size);
        group.throughput(Throughput::Elements(size as u64));
        for (tier, options) in tiers() {
            let emit = || compile(&program, &NoLinker, &options).expect("it has native code");
            group.bench_function(format!("{tier}: mix {size}"), |bencher| bencher.iter(emit));
        }
    }
    group.finish();
}

/// Time a run of each recorded program.
fn engines(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("run");
    group.warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_millis(500)).sample_size(20);
    for program in recorded() {
        let natives = tiers().into_iter().map(|(tier, options)| (tier, ours(&program, &options)));
        for (engine, mut run) in
            [("checked", checked(&program)), ("threaded", threaded(&program))].into_iter().chain(natives)
        {
            group.bench_function(format!("{}/{engine}", program.name), |bencher| bencher.iter(&mut run));
        }
    }
    group.finish();
}

criterion_group!(benches, verifier, compilers, engines);
criterion_main!(benches);
