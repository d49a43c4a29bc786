//! The semantic cases of `tests/data/isa`, and the public conformance suite where `BPF_CONFORMANCE` names a checkout of
//! it, on the checked interpreter and as native code.

#![cfg(feature = "jit")]

use std::path::Path;

use rtbpf::abi::ProgType;
use rtbpf::verifier::{Assumptions, VerifiedProgram};
use rtbpf::{Config, Ctx, Engine, Error, isa};
use rtbpf_tests::case::{Case, cases_in};

/// What a run gave: R0 and the memory.
type Outcome = Result<(u64, Vec<u8>), String>;

fn checked(engine: &Engine, case: &Case) -> Outcome {
    let program = isa::decode(&case.slots).map_err(|error| error.to_string())?;
    let run = || -> Result<(u64, Vec<u8>), Error> {
        let exe = engine.bind_unverified(program, Assumptions::new(ProgType::Plain), vec![])?;
        let mut ctx = Ctx::plain(&case.mem);
        Ok((exe.run(&mut engine.session(0), &mut ctx)?, ctx.to_vec()))
    };
    run().map_err(|error| error.to_string())
}

fn native(engine: &Engine, case: &Case) -> Outcome {
    let program = isa::decode(&case.slots).map_err(|error| error.to_string())?;
    // SAFETY: only called for programs that the checked interpreter ran to their end on the same memory.
    let assumed = unsafe { VerifiedProgram::assume(program, Assumptions::new(ProgType::Plain)) };
    let run = || -> Result<(u64, Vec<u8>), Error> {
        let native = engine.bind_native(assumed, vec![])?;
        let mut ctx = Ctx::plain(&case.mem);
        Ok((native.run(&mut engine.session(0), &mut ctx)?, ctx.to_vec()))
    };
    run().map_err(|error| error.to_string())
}

/// Whether it uses `callx`, which no version of Linux takes and no engine here runs.
fn calls_register(case: &Case) -> bool {
    let is_callx = |insn: &isa::Insn| matches!(insn, isa::Insn::Call(isa::Callee::Reg(_)));
    isa::decode(&case.slots).is_ok_and(|program| program.insns().iter().any(is_callx))
}

/// Complaints about the cases, and how many both engines ran.
fn judge(cases: &[Case]) -> (Vec<String>, usize) {
    let engine = Engine::new(Config::linux());
    let (mut wrong, mut ran) = (Vec::new(), 0);
    // Other contexts and maps are bound by the suites that know them.
    for case in cases.iter().filter(|case| case.packet.is_none() && case.maps.is_empty() && !calls_register(case)) {
        let Some(expected) = case.expected.result else { continue };
        let interpreted = checked(&engine, case);
        let compiled = if interpreted.is_ok() { native(&engine, case) } else { interpreted.clone() };
        for (what, outcome) in [("checked", interpreted), ("native", compiled)] {
            let right = outcome.as_ref().is_ok_and(|(result, mem)| {
                *result == expected && case.expected.mem_after.as_ref().is_none_or(|after| after == mem)
            });
            if !right {
                wrong.push(format!("{} ({what}): {outcome:x?}, expected {expected:#x}", case.name));
            }
        }
        ran += 1;
    }
    (wrong, ran)
}

#[test]
fn both_engines_agree_with_every_case() {
    let (wrong, ran) = judge(&cases_in(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/isa")));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(ran > 500, "only {ran} cases ran");
}

#[test]
fn both_engines_agree_with_the_public_suite() {
    let Some(suite) = std::env::var_os("BPF_CONFORMANCE") else {
        println!("skipped: BPF_CONFORMANCE does not name a checkout of the public conformance suite");
        return;
    };
    let (wrong, ran) = judge(&cases_in(&Path::new(&suite).join("tests")));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(ran > 100, "only {ran} cases ran");
}
