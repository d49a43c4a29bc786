//! The semantic cases of `data/isa`, on every engine.

use std::collections::BTreeSet;
use std::path::Path;

use rtbpf_isa::rows::{ROWS, opcodes};
use rtbpf_isa::{decode, encode};
use rtbpf_tests::case::{Case, cases_in};
use rtbpf_tests::engine::{self, Engine, Outcome};
use rtbpf_tests::oracle;

fn own_cases() -> Vec<Case> {
    cases_in(&Path::new(env!("CARGO_MANIFEST_DIR")).join("data/isa"))
}

/// Whether the oracle can run a case: it knows neither maps nor faults' sentences.
fn oracle_disagrees(case: &Case) -> Option<String> {
    let expected = case.expected.result?;
    let mut mem = case.mem.clone();
    let packet = case.packet.as_deref().unwrap_or_default();
    match oracle::run(&case.slots, &mut mem, packet, 1_000_000) {
        Err(oracle::Stop::Unsupported { .. }) => None,
        Ok(result) if result != expected => Some(format!("{}: {result:#x}, expected {expected:#x}", case.name)),
        Ok(_) => match &case.expected.mem_after {
            Some(after) if *after != mem => Some(format!("{}: memory {mem:02x?}, expected {after:02x?}", case.name)),
            _ => None,
        },
        Err(stop) => Some(format!("{}: {stop:?}, expected {expected:#x}", case.name)),
    }
}

#[test]
fn the_oracle_agrees_with_every_case() {
    let wrong: Vec<String> = own_cases().iter().filter_map(oracle_disagrees).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What differs from the expectation, if anything does.
fn engine_disagrees(engine: Engine, case: &Case) -> Option<String> {
    let Outcome { result, mem_after } = engine::run(engine, case)?;
    let expected = &case.expected;
    let is_right = match &result {
        Ok(r0) => expected.result == Some(*r0) && expected.mem_after.as_ref().is_none_or(|after| *after == mem_after),
        Err(sentence) => expected.fault.as_ref().is_some_and(|part| sentence.contains(part)),
    };
    (!is_right)
        .then(|| format!("{engine:?}: {}: {result:x?}, memory {mem_after:02x?}, expected {expected:x?}", case.name))
}

fn all_engines_agree(cases: &[Case]) {
    for &engine in Engine::ALL {
        let ran = cases.iter().filter(|case| engine::run(engine, case).is_some()).count();
        println!("{engine:?}: {ran} of {} cases", cases.len());
        let wrong: Vec<String> = cases.iter().filter_map(|case| engine_disagrees(engine, case)).collect();
        assert!(wrong.is_empty(), "{} of {ran}:\n{}", wrong.len(), wrong.join("\n"));
        assert!(ran * 2 > cases.len(), "{engine:?} ran only {ran} cases");
    }
}

#[test]
fn every_engine_agrees_with_every_case() {
    all_engines_agree(&own_cases());
}

/// Row names with one of their opcodes.
type Encodings = BTreeSet<(&'static str, u8)>;

#[test]
fn every_opcode_of_every_row_has_a_case() {
    let mut covered = Encodings::new();
    for case in own_cases() {
        let program = decode(&case.slots).unwrap_or_else(|e| panic!("{}: {e}", case.name));
        for (at, insn) in program.iter() {
            covered.extend(encode::row(insn).zip(program.raw(at).first()).map(|(row, raw)| (row.name, raw.code)));
        }
    }
    let all: Encodings = ROWS
        .iter()
        .flat_map(|row| {
            let (codes, n) = opcodes(row);
            codes.into_iter().take(n).map(|code| (row.name, code))
        })
        .collect();
    let missing: Vec<_> = all.difference(&covered).collect();
    assert!(missing.is_empty(), "no case for {missing:02x?}");
}

#[test]
fn the_oracle_and_every_engine_agree_with_the_public_suite() {
    let Some(suite) = std::env::var_os("BPF_CONFORMANCE") else {
        println!("skipped: BPF_CONFORMANCE does not name a checkout of the public conformance suite");
        return;
    };
    let cases = cases_in(&Path::new(&suite).join("tests"));
    assert!(cases.len() > 100, "only {} cases", cases.len());
    let wrong: Vec<String> = cases.iter().filter_map(oracle_disagrees).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // No version of Linux takes `callx`.
    let cases: Vec<Case> = cases.into_iter().filter(|case| case.name != "callx").collect();
    all_engines_agree(&cases);
}
