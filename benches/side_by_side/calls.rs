//! What entering a program costs, and what a call from it costs, here and in the running kernel.

use std::sync::Arc;

use rtbpf::maps::{CreateCx, create};
use rtbpf::{Config, Ctx, HelperCx, Native, Session};
use rtbpf_abi::{HelperId, MapKind, MapSpec, ProgKind, ProgType};
use rtbpf_isa::{asm, decode};
use rtbpf_tests::generate::{Case, CaseMap};
use rtbpf_tests::kernel;
use rtbpf_verifier::Assumptions;

use crate::engines::Engine;
use crate::{interleave, time};

/// Calls in a run.
const ROUNDS: usize = 1000;

/// What is called, as text; maps are an array of 16-byte values. The first is the loop around the others.
const CALLS: [(&str, &str); 7] = [
    ("nothing (the loop alone)", ""),
    ("helper: get_numa_node_id", "call 42"),
    ("helper of the embedder: a closure", "r1 = r6\n call closure"),
    ("helper inlined: get_smp_processor_id", "call 8"),
    (
        "array lookup, inlined, and add",
        "r1 = map[fd:0] ll\n r2 = r10\n r2 += -4\n call 1\n if r0 == 0 goto next\n lock *(u64 *)(r0 + 0) += r6\nnext:",
    ),
    ("array lookup inlined", "r1 = map[fd:0] ll\n r2 = r10\n r2 += -4\n call 1"),
    ("subprogram", "r1 = r6\n call sub"),
];

/// The embedder's helper.
const CLOSURE: &str = "closure";

fn case(name: &str, operation: &str) -> Case {
    // What the loop computes with r7 keeps compilers from dropping a loop that does nothing else.
    let text = format!(
        "r6 = 0\n r7 = 0\n *(u32 *)(r10 - 4) = 0\nagain:\n {operation}\n r7 ^= r6\n r6 += 1\n if r6 != {ROUNDS} goto again\n r0 = r7\n exit\n{}",
        if operation.contains("call sub") { "sub:\n r0 = r1\n r0 += 1\n exit\n" } else { "" }
    );
    classifier(name, &text)
}

fn classifier(name: &str, text: &str) -> Case {
    let map = CaseMap { spec: MapSpec::new(MapKind::Array, 4, 16, 4), init: Vec::new() };
    Case {
        name: name.into(),
        kind: ProgKind::of(ProgType::SchedCls, None, false).expect("there are classifiers"),
        prog_flags: 0,
        insns: asm::assemble_with(text, &|name| (name == CLOSURE).then_some(HelperId::FIRST_CUSTOM.0 as i32))
            .unwrap_or_else(|error| panic!("{name}: {error}\n{text}"))
            .slots,
        maps: vec![map],
        typed: true,
        packets: Vec::new(),
    }
}

fn bind(case: &Case) -> (Native, Session, Ctx) {
    let mut engine = rtbpf::Engine::new(Config { max_insns: None, ..Config::linux() });
    let closure = engine.helper(CLOSURE, |_: &mut HelperCx, number: u64| number ^ 1).expect("the name is free");
    assert_eq!(closure, HelperId::FIRST_CUSTOM);
    let specs = case.maps.iter().map(|map| Arc::new(map.spec.clone())).collect();
    let given = Assumptions { maps: specs, ..Assumptions::new(case.prog_type()) };
    let maps = case.maps.iter().map(|map| create(&map.spec, &CreateCx::new(2)).expect("the map can be made")).collect();
    let program = decode(&case.insns).expect("the program decodes");
    let verified = engine.verify(program, given).unwrap_or_else(|error| panic!("{}: {error}", case.name));
    let ctx = Ctx::test_run(case.prog_type(), None, &[0; 64], &[]).expect("the packet is good");
    (engine.bind_native(verified, maps).expect("it has native code"), engine.session(0), ctx)
}

/// A prepared run, repeated.
fn held(case: &Case) -> Engine {
    let (native, mut session, ctx) = bind(case);
    let Ok(mut prepared) = native.prepare(&mut session, ctx) else { panic!("the context fits") };
    Box::new(move |calls| time(calls, || prepared.run(&session).expect("it was proved")))
}

/// The whole way in, each time.
fn gate(case: &Case) -> Engine {
    let (native, mut session, mut ctx) = bind(case);
    Box::new(move |calls| time(calls, || native.run(&mut session, &mut ctx).expect("it was proved")))
}

fn in_linux(case: &Case) -> Engine {
    let loaded = kernel::load(case, false).unwrap_or_else(|error| panic!("{}: {error}", case.name));
    Box::new(move |runs| loaded.ns_a_run(&[0; 64], runs as u32).unwrap_or(f64::NAN))
}

/// Measures and prints what is wanted.
pub fn print(linux: bool, wanted: impl Fn(&str) -> bool) {
    println!("\n{:<40} {:>16} {:>16}", "ns (spread: middle half)", "rtbpf", "Linux");
    let nothing = classifier("return 0", "r0 = 0\n exit");
    for (name, run) in [("return 0, held session", held(&nothing)), ("return 0, full gate", gate(&nothing))] {
        if !wanted(name) {
            continue;
        }
        let mut engines = vec![run];
        engines.extend(linux.then(|| in_linux(&nothing)));
        line(name, &interleave(&mut engines), 1.0, &[0.0; 2]);
    }
    let mut base = [0.0; 2];
    let any = CALLS.iter().any(|(name, _)| wanted(name));
    for (at, (name, operation)) in CALLS.into_iter().enumerate() {
        // The loop is measured for what is in it.
        if !(wanted(name) || at == 0 && any) {
            continue;
        }
        let case = case(name, operation);
        let mut engines = vec![held(&case)];
        let known = linux && !operation.contains(CLOSURE);
        engines.extend(known.then(|| in_linux(&case)));
        let cells = interleave(&mut engines);
        line(name, &cells, ROUNDS as f64, &base);
        if at == 0 {
            base.iter_mut().zip(&cells).for_each(|(base, cell)| *base = cell.ns);
        }
    }
}

/// One operation, over the loop around it.
fn line(name: &str, cells: &[crate::report::Cell], operations: f64, base: &[f64; 2]) {
    let column = |at: usize| match (cells.get(at), base.get(at)) {
        (Some(cell), Some(base)) => format!("{:.2} ({:.2})", (cell.ns - base) / operations, cell.spread / operations),
        _ => "-".into(),
    };
    println!("{name:<40} {:>16} {:>16}", column(0), column(1));
}
