//! What programs may and may not do under the checked interpreter.

use rtbpf_abi::ProgType;
use rtbpf_isa::InsnIdx;
use rtbpf_verifier::Assumptions;

use crate::error::FaultKind;
use crate::region::RegionKind;
use crate::testing::program;
use crate::{Config, Ctx, Engine, Error, Executable};

fn engine() -> Engine {
    Engine::new(Config { max_insns: Some(10_000), ..Config::linux() })
}

fn bind(engine: &Engine, text: &str) -> Executable {
    engine.bind_unverified(program(text), Assumptions::new(ProgType::Plain), vec![]).expect("the test's program binds")
}

fn run(text: &str) -> Result<u64, FaultKind> {
    let engine = engine();
    match bind(&engine, text).run(&mut engine.session(0), &mut Ctx::plain(&[1, 2, 3, 4, 5, 6, 7, 8])) {
        Ok(r0) => Ok(r0),
        Err(Error::Fault(fault)) => Err(fault.kind),
        Err(other) => panic!("{other}"),
    }
}

#[track_caller]
fn check(text: &str, result: u64) {
    assert_eq!(run(text), Ok(result), "{text}");
}

#[track_caller]
fn faults(text: &str, is: impl Fn(&FaultKind) -> bool) {
    let result = run(text);
    assert!(result.as_ref().is_err_and(is), "{text}: {result:?}");
}

#[test]
fn accesses_stay_in_their_region() {
    check("r0 = *(u32 *)(r1 + 4)\nexit", 0x0807_0605);
    faults("r0 = *(u32 *)(r1 + 5)\nexit", |f| matches!(f, FaultKind::OutOfBounds { off: 5, size: 4, len: 8, .. }));
    faults("r0 = *(u8 *)(r1 - 1)\nexit", |f| matches!(f, FaultKind::OutOfBounds { off: -1, .. }));
    faults("r0 = *(u8 *)(r10 + 0)\nexit", |f| {
        matches!(f, FaultKind::OutOfBounds { region: RegionKind::Stack, off: 512, .. })
    });
    faults("r1 = 0\nr0 = *(u8 *)(r1 + 0)\nexit", |f| matches!(f, FaultKind::NullPointer { .. }));
    faults("r1 <<= 1\nr0 = *(u8 *)(r1 + 0)\nexit", |f| matches!(f, FaultKind::NotAPointer { .. }));
}

#[test]
fn pointers_compare_and_subtract_as_addresses() {
    check("r3 = r1\nr3 += r2\nr0 = r3\nr0 -= r1\nexit", 8);
    check("r3 = r1\nr3 += 9\nr4 = r1\nr4 += r2\nr0 = 1\nif r3 > r4 goto +1\nr0 = 0\nexit", 1);
    check("r3 = r1\nr3 += 8\nw0 = w3\nw0 -= w1\nexit", 8);
    check("*(u64 *)(r10 - 8) = r1\nr2 = *(u64 *)(r10 - 8)\nr0 = *(u8 *)(r2 + 2)\nexit", 3);
}

#[test]
fn unwritten_stack_reads_as_zero_in_every_frame() {
    check("r0 = *(u64 *)(r10 - 512)\nexit", 0);
    let twice = "call f\ncall f\nexit\nf:\nr0 = *(u64 *)(r10 - 8)\nr1 = 7\n*(u64 *)(r10 - 8) = r1\nexit";
    check(twice, 0);
}

#[test]
fn a_frame_is_gone_after_its_return() {
    let text = "call f\nr0 = *(u64 *)(r0 + 0)\nexit\nf:\nr0 = r10\nr0 += -8\nexit";
    faults(text, |f| matches!(f, FaultKind::StalePointer { .. }));
}

#[test]
fn callees_preserve_r6_to_r9_and_share_memory() {
    check(
        "r6 = 3\nr1 = r10\nr1 += -8\ncall f\nr0 = *(u64 *)(r10 - 8)\nr0 += r6\nexit\nf:\nr6 = 9\n*(u64 *)(r1 + 0) = r6\nexit",
        12,
    );
}

#[test]
fn recursion_ends_at_eight_frames() {
    faults("call f\nexit\nf:\ncall f\nexit", |f| matches!(f, FaultKind::CallDepth(9)));
}

#[test]
fn endless_loops_run_out_of_fuel_at_a_leader() {
    let engine = engine();
    let exe = bind(&engine, "l:\nr0 += 1\ngoto l");
    let mut session = engine.session(0);
    let mut run = exe.start(&mut session, Ctx::plain(&[])).unwrap();
    let fault = run.run(&mut ()).unwrap_err();
    assert_eq!((fault.kind, fault.at), (FaultKind::OutOfFuel, InsnIdx(0)));
    assert_eq!(run.regs()[0], 5_000);
    run.add_fuel(2);
    assert!(run.step(&mut ()).is_ok() && run.step(&mut ()).is_ok() && run.step(&mut ()).is_err());
    assert_eq!(run.regs()[0], 5_001);
}

#[test]
fn a_cancelled_run_stops() {
    let engine = engine();
    let exe = bind(&engine, "l:\ngoto l");
    let mut session = engine.session(0);
    session.cancel_handle().cancel();
    let fault = exe.run(&mut session, &mut Ctx::plain(&[])).unwrap_err();
    assert!(matches!(fault, Error::Fault(fault) if fault.kind == FaultKind::Cancelled));
}

#[test]
fn the_frame_pointer_is_read_only() {
    faults("r10 = 0\nexit", |f| matches!(f, FaultKind::FramePointer | FaultKind::BadInsn(_)));
}

#[test]
fn packet_loads_read_r6_and_end_the_frame_when_too_short() {
    check("r6 = r1\nr0 = *(u16 *)skb[1]\nexit", 0x0203);
    check("r6 = r1\nr0 = 7\nr0 = *(u32 *)skb[5]\nr0 = 9\nexit", 0);
    faults("r0 = *(u16 *)skb[1]\nexit", |f| matches!(f, FaultKind::NoPacket));
}

#[test]
fn embedders_add_helpers_with_state_and_memory() {
    use std::sync::atomic::{AtomicU64, Ordering};
    let mut engine = engine();
    let calls = std::sync::Arc::new(AtomicU64::new(0));
    let seen = calls.clone();
    let sum = engine
        .helper("sum", move |_: &mut crate::HelperCx<'_>, bytes: crate::Bytes, plus: u32| {
            seen.fetch_add(1, Ordering::Relaxed);
            bytes.iter().map(|b| *b as u64).sum::<u64>() + plus as u64
        })
        .unwrap();
    let fill = engine
        .helper("fill", |cx: &mut crate::HelperCx<'_>, out: crate::OutBytes| cx.write(&out, &[9, 9]) as u64)
        .unwrap();
    let boom = engine.helper("boom", |_: &mut crate::HelperCx<'_>| -> u64 { panic!("boom") }).unwrap();
    assert!(engine.helper("sum", |_: &mut crate::HelperCx<'_>| 0u64).is_err());
    let run = |text: String| {
        bind(&engine, &text).run(&mut engine.session(0), &mut Ctx::plain(&[1, 2, 3])).map_err(|e| e.to_string())
    };
    assert_eq!(run(format!("r3 = 4\ncall {}\nexit", sum.0)), Ok(10));
    assert_eq!(run(format!("r6 = r1\ncall {}\nr0 = *(u8 *)(r6 + 1)\nexit", fill.0)), Ok(9));
    assert!(run(format!("r2 = 99\ncall {}\nexit", sum.0)).is_err());
    assert!(run(format!("call {}\nexit", boom.0)).is_err_and(|e| e.contains("boom")));
    assert_eq!(calls.load(Ordering::Relaxed), 1);
}
