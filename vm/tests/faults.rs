//! Faults of native code as an embedder sees them: an error of the run, with its place; nothing stays held.
//!
//! The programs here were not verified: they do what only a bug of the verifier would let through.

#![cfg(feature = "jit")]

use std::sync::Arc;

use rtbpf::abi::{MapKind, MapSpec, ProgType};
use rtbpf::maps::{CreateCx, MapRef, Ringbuf, create};
use rtbpf::verifier::{Assumptions, VerifiedProgram};
use rtbpf::{Config, Ctx, Engine, Error, FaultKind, Native, isa};

fn native(engine: &Engine, text: &str, maps: Vec<MapRef>) -> Native {
    rtbpf::install_fault_handler().expect("handlers can be installed");
    let program = isa::decode(&isa::asm::assemble(text).expect("assembles").slots).expect("decodes");
    let given = Assumptions {
        maps: maps.iter().map(|map| Arc::new(map.spec().clone())).collect(),
        ..Assumptions::new(ProgType::Plain)
    };
    // SAFETY: not shown. What the program does wrong is a load from page 0, which the fault handler ends.
    let assumed = unsafe { VerifiedProgram::assume(program, given) };
    engine.bind_native(assumed, maps).expect("this host has native code")
}

#[test]
fn a_fault_names_the_address_and_the_instruction() {
    let engine = Engine::new(Config::linux());
    let native = native(&engine, "r0 = 0\nr2 = 64\nr0 = *(u32 *)(r2 + 8)\nexit", vec![]);
    for _ in 0..3 {
        match native.run(&mut engine.session(0), &mut Ctx::plain(&[1])) {
            Err(Error::Fault(fault)) => {
                assert_eq!((fault.kind.clone(), fault.at.0), (FaultKind::NativeMemory { address: 72 }, 2));
                assert!(fault.to_string().contains("native code used the address 0x48"), "{fault}");
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Reserves a record, then loads from page 0 when the context says so; answers 1 when all is well.
const HOLDS: &str = "
    r6 = *(u8 *)(r1 + 0)
    r1 = map[idx:0] ll
    r2 = 8
    r3 = 0
    call 131
    if r0 == 0 goto none
    r7 = r0
    if r6 == 0 goto fine
    r2 = 64
    r0 = *(u64 *)(r2 + 0)
fine:
    r1 = r7
    r2 = 0
    call 132
    r0 = 1
    exit
none:
    r0 = 2
    exit";

#[test]
fn what_a_run_held_is_given_back_when_it_faults() {
    let engine = Engine::new(Config::linux());
    let map = create(&MapSpec::new(MapKind::Ringbuf, 0, 0, 4096), &CreateCx::new(2)).expect("it can be made");
    let ring: &Ringbuf = map.as_any().downcast_ref().expect("it is a ring buffer");
    // A reader stops at the first record that stays open.
    let read = || {
        let mut records = 0;
        ring.consume(&mut |_| {
            records += 1;
            true
        });
        records
    };
    let native = native(&engine, HOLDS, vec![map.clone()]);
    let mut session = engine.session(0);
    for round in 0..1000 {
        for faults in [true, false, true] {
            let got = native.run(&mut session, &mut Ctx::plain(&[faults as u8]));
            assert_eq!(got.is_err(), faults, "{got:?} in round {round}");
        }
        assert_eq!(read(), 1, "round {round}");
    }
    // A prepared run, which keeps its state between runs, gives back as well.
    let Ok(mut prepared) = native.prepare(&mut session, Ctx::plain(&[1])) else { panic!("the context fits") };
    for _ in 0..10 {
        assert!(matches!(prepared.run(&session), Err(Error::Fault(_))));
    }
    assert_eq!(native.run(&mut engine.session(1), &mut Ctx::plain(&[0])).expect("there is room for a record"), 1);
    assert_eq!(read(), 1);
    prepared.finish(&mut session);
}
