//! Faults of native code under the fault handler: the run ends with its place, its caller goes on.
//!
//! The programs here are not verified; what they do wrong is what a bug of the verifier would let through.

mod harness;

use std::sync::atomic::{AtomicUsize, Ordering};

use harness::generate::Rng;
use harness::*;
use rtbpf_abi::frame::FaultCode;
use rtbpf_isa::Operand::Imm as I;
use rtbpf_isa::*;
use rtbpf_jit::{Options, trap};

/// A page that faults until [`mend`] gives it rights.
static BROKEN: AtomicUsize = AtomicUsize::new(0);
static MENDED: AtomicUsize = AtomicUsize::new(0);

/// Who handled SIGSEGV before us.
extern "C" fn mend(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    MENDED.fetch_add(1, Ordering::Relaxed);
    // SAFETY: the page is one that the test mapped.
    unsafe { libc::mprotect(BROKEN.load(Ordering::Relaxed) as *mut _, 4096, libc::PROT_READ | libc::PROT_WRITE) };
}

/// Both tiers of this machine, with the handler installed.
fn options() -> Vec<Options> {
    static FIRST: std::sync::Once = std::sync::Once::new();
    FIRST.call_once(|| {
        // SAFETY: the handler calls mprotect and counts, both of which are allowed in handlers.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = mend as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO;
            assert_eq!(libc::sigaction(libc::SIGSEGV, &action, std::ptr::null_mut()), 0);
        }
        trap::install().expect("handlers can be installed");
        trap::install().expect("a second time changes nothing");
    });
    let Some(host) = Options::host() else { return Vec::new() };
    [host, Options { optimise: None, ..host }].into_iter().flat_map(|o| [o, Options { fuel: true, ..o }]).collect()
}

fn mov(dst: Reg, value: i32) -> Insn {
    Insn::Alu { op: AluOp::Mov, width: Width::W64, dst, src: I(value) }
}

fn load(dst: Reg, base: Reg) -> Insn {
    Insn::Load { size: Size::D, signed: false, dst, base, off: 0 }
}

/// Faults at instruction `at` with `fault`, everywhere, and leaves a mark before it in the context.
#[track_caller]
fn check(insns: &[Insn], fault: FaultCode, at: u32) {
    for options in options() {
        let got = run(&native(insns, &options), [0; 32], 1 << 20, &[]);
        assert_eq!((got.fault, got.fault_at), (fault, at), "{options:?} {insns:#?}");
        assert_eq!(got.ctx[1], 7, "what came before the fault was done");
    }
}

const MARK: Insn = Insn::Store { size: Size::D, base: Reg::R1, off: 8, src: I(7) };

#[test]
fn loads_stores_and_atomics_end_the_run_where_they_stand() {
    check(&[MARK, mov(Reg::R2, 16), load(Reg::R0, Reg::R2), Insn::Exit], FaultCode::Memory, 2);
    let store = Insn::Store { size: Size::W, base: Reg::R2, off: 4, src: I(1) };
    check(&[MARK, mov(Reg::R0, 0), mov(Reg::R2, -4096), store, Insn::Exit], FaultCode::Memory, 3);
    let op = AtomicOp::Add;
    let atomic = Insn::Atomic { op, fetch: false, width: Width::W64, base: Reg::R2, off: 0, src: Reg::R2 };
    check(&[MARK, mov(Reg::R0, 0), mov(Reg::R2, 16), atomic, Insn::Exit], FaultCode::Memory, 3);
}

/// Loops are emitted several times, and branches out of them leave code for later.
#[test]
fn rounds_of_loops_fault_where_they_stand() {
    for (rounds, leaves) in (0..20).flat_map(|rounds| [false, true].map(|leaves| (rounds, leaves))) {
        let add = |dst, value| Insn::Alu { op: AluOp::Add, width: Width::W64, dst, src: I(value) };
        let store = |round: i16, src| Insn::Store { size: Size::D, base: Reg::R1, off: 16 + 8 * round, src };
        // So many addresses to read at, and one that is none.
        let mut insns = vec![MARK];
        insns.extend((0..rounds).map(|round| store(round, Operand::Reg(Reg::R1))));
        insns.push(store(rounds, I(16)));
        let copy = Insn::Alu { op: AluOp::Mov, width: Width::W64, dst: Reg::R4, src: Operand::Reg(Reg::R1) };
        insns.extend([copy, add(Reg::R4, 16), mov(Reg::R0, 1), mov(Reg::R5, 0)]);
        let head = insns.len() as i32;
        insns.push(load(Reg::R3, Reg::R4));
        insns.extend(leaves.then_some(Insn::Branch {
            op: CmpOp::Eq,
            width: Width::W64,
            lhs: Reg::R3,
            rhs: I(1),
            to: 4,
        }));
        let at = insns.len() as u32;
        insns.extend([load(Reg::R0, Reg::R3), add(Reg::R4, 8), add(Reg::R5, 1)]);
        let to = head - insns.len() as i32 - 1;
        insns.push(Insn::Branch { op: CmpOp::Ne, width: Width::W64, lhs: Reg::R5, rhs: I(24), to });
        insns.push(Insn::Exit);
        check(&insns, FaultCode::Memory, at);
    }
}

#[test]
fn an_instruction_without_meaning_is_a_trap() {
    // A subprogram whose last instruction falls off its end.
    check(
        &[MARK, mov(Reg::R0, 0), Insn::Call(Callee::Local { to: 1 }), Insn::Exit, mov(Reg::R0, 1)],
        FaultCode::Trap,
        4,
    );
}

#[test]
fn faults_leave_from_subprograms_and_callbacks() {
    let call = Insn::Call(Callee::Local { to: 1 });
    check(&[MARK, call, Insn::Exit, mov(Reg::R6, 16), load(Reg::R0, Reg::R6), Insn::Exit], FaultCode::Memory, 4);
    // The helper sees the fault and returns; the program leaves behind its call.
    let body = Insn::Imm { dst: Reg::R1, value: Imm64::Func { to: 4 } };
    let repeat = Insn::Call(Callee::Helper(REPEAT));
    let insns = [MARK, body, mov(Reg::R2, 3), repeat, mov(Reg::R0, 5), Insn::Exit, load(Reg::R0, Reg::R1), Insn::Exit];
    check(&insns, FaultCode::Memory, 6);
}

#[test]
fn the_address_is_the_result() {
    for options in options() {
        let native = native(&[mov(Reg::R2, 0x123), load(Reg::R0, Reg::R2), Insn::Exit], &options);
        let (mut ctx, mut stack) = ([0u64; 32], [0u64; 512]);
        let mut frame = frame(&mut ctx, &mut stack);
        // SAFETY: context and stack are as promised; the fault is what is tested.
        let r0 = unsafe { native.call(&mut frame) };
        assert_eq!((frame.fault, r0), (FaultCode::Memory, 0x123));
    }
}

#[test]
fn other_faults_go_to_whoever_handled_them_before() {
    if options().is_empty() {
        return;
    }
    // SAFETY: a page of the system's choice, touched once it has rights.
    unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let page = libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_NONE, flags, -1, 0);
        BROKEN.store(page as usize, Ordering::Relaxed);
        page.cast::<u64>().write_volatile(42);
        assert_eq!(page.cast::<u64>().read_volatile(), 42);
    }
    assert_eq!(MENDED.load(Ordering::Relaxed), 1);
}

#[test]
fn a_hundred_thousand_faults_at_any_instruction_leave_nothing_behind() {
    let mut rng = Rng::new(0xfa17);
    for options in options() {
        for _ in 0..50 {
            // Straight code with one access that faults, at a random place and depth.
            let (before, after) = (rng.below(40) as i32, rng.below(10) as i32);
            let mut insns = vec![MARK, Insn::Call(Callee::Local { to: 1 }), Insn::Exit];
            insns.extend((0..before).map(|i| mov(Reg::ALL[6 + i as usize % 4], i)));
            insns.extend([mov(Reg::R7, 8), load(Reg::R8, Reg::R7)]);
            let at = insns.len() as u32 - 1;
            insns.extend((0..after).map(|i| mov(Reg::R0, i)));
            insns.extend([mov(Reg::R0, 0), Insn::Exit]);
            let native = native(&insns, &options);
            for _ in 0..500 {
                let got = run(&native, [0; 32], 1 << 20, &[]);
                assert_eq!((got.fault, got.fault_at, got.ctx[1]), (FaultCode::Memory, at, 7));
            }
        }
    }
}
