//! A definitional interpreter and a way to run the same program natively, on the same memory, with the same helpers.

#![allow(dead_code)]

pub mod agree;
pub mod generate;
pub mod reference;

use std::ffi::c_void;
use std::ptr;

use rtbpf_abi::ProgType;
use rtbpf_abi::frame::{FaultCode, HelperFn, RunFrame};
use rtbpf_isa::encode::encode_one;
use rtbpf_isa::{Imm64, Insn, Program, RawInsn, decode};
use rtbpf_jit::{Code, HelperTraits, Linker, Native, Options, Symbol, compile, pages, publish};
use rtbpf_verifier::{Assumptions, VerifiedProgram};

/// Bytes of the test context.
pub const CTX: usize = 256;
/// Bytes of stack: eight frames.
pub const STACK: usize = 4096;
/// A helper of all five arguments that keeps a trace.
pub const MIX: i32 = 100;
/// Calls the subprogram in R1 with (i, R3) for i in 0..R2, until one returns other than 0; returns the count.
pub const REPEAT: i32 = 101;
/// Ends the run with a fault when R1 is odd.
pub const FAIL_IF_ODD: i32 = 102;

/// Everything a run leaves behind that a program could see.
#[derive(Clone, PartialEq, Debug)]
pub struct Outcome {
    pub r0: Option<u64>,
    pub fault: FaultCode,
    pub fault_at: u32,
    pub fuel: i64,
    pub ctx: [u64; CTX / 8],
    pub trace: Vec<[u64; 5]>,
}

/// A tenth of the rounds where the processor may be an emulated one.
pub const fn rounds(native: u64) -> u64 {
    if cfg!(target_arch = "x86_64") { native } else { native / 10 }
}

/// Instructions, with jumps counted in instructions, as a program.
pub fn program(insns: &[Insn]) -> Program {
    let mut slot = 0;
    let mut slots = Vec::new();
    for insn in insns {
        slots.push(slot);
        slot += insn.slots() as i32;
    }
    slots.push(slot);
    let mut raw: Vec<RawInsn> = Vec::new();
    for (at, insn) in insns.iter().enumerate() {
        let to = insn.relative_target().map_or(0, |to| slots[(at as i32 + 1 + to) as usize] - slots[at] - 1);
        let (first, second) = encode_one(insn, to).unwrap_or_else(|| panic!("no encoding for {insn:?} over {to}"));
        raw.push(first);
        raw.extend(second);
        if let Insn::Imm { value: Imm64::Func { .. }, .. } = insn {
            assert!(second.is_some());
        }
    }
    decode(&raw).expect("a well-formed test program")
}

pub fn assume(insns: &[Insn]) -> VerifiedProgram {
    verified(program(insns))
}

pub fn verified(program: Program) -> VerifiedProgram {
    // SAFETY: tests only touch the context and the stack that the harness gives them.
    unsafe { VerifiedProgram::assume(program, Assumptions::new(ProgType::Xdp)) }
}

pub struct TestLinker;

impl Linker for TestLinker {
    fn resolve(&self, symbol: Symbol) -> Option<u64> {
        let helper: HelperFn = match symbol {
            Symbol::Helper(MIX) => mix,
            Symbol::Helper(REPEAT) => repeat,
            Symbol::Helper(FAIL_IF_ODD) => fail_if_odd,
            Symbol::PacketLoad => packet_load,
            Symbol::TailCall => tail_call,
            _ => return None,
        };
        Some(helper as usize as u64)
    }

    fn helper(&self, id: i32) -> HelperTraits {
        if id == MIX { HelperTraits::PLAIN } else { HelperTraits::ANY }
    }
}

/// The host's side of a run.
#[derive(Default)]
pub struct Host {
    pub trace: Vec<[u64; 5]>,
    /// Entries that tail calls reach, by index.
    pub targets: Vec<usize>,
}

pub fn mixed(args: [u64; 5]) -> u64 {
    args.iter().fold(0x9e37_79b9_7f4a_7c15, |h, a| (h ^ a).wrapping_mul(0x100_0000_01b3).rotate_left(23))
}

fn host(frame: &mut RunFrame) -> &mut Host {
    // SAFETY: the harness put a `Host` there, and only one helper runs at a time.
    unsafe { &mut *frame.host.cast::<Host>() }
}

extern "C" fn mix(a: u64, b: u64, c: u64, d: u64, e: u64, frame: &mut RunFrame) -> u64 {
    host(frame).trace.push([a, b, c, d, e]);
    mixed([a, b, c, d, e])
}

extern "C" fn repeat(body: u64, count: u64, arg: u64, _: u64, _: u64, frame: &mut RunFrame) -> u64 {
    // SAFETY: the program passed a subprogram of its own.
    let body: HelperFn = unsafe { std::mem::transmute(body as usize) };
    let mut done = 0;
    while done < count && frame.fault == FaultCode::None && body(done, arg, 0, 0, 0, frame) == 0 {
        done += 1;
    }
    done
}

extern "C" fn fail_if_odd(a: u64, _: u64, _: u64, _: u64, _: u64, frame: &mut RunFrame) -> u64 {
    if a & 1 != 0 {
        frame.fault = FaultCode::Helper;
    }
    a
}

/// A packet of 16 bytes, 0x10 to 0x1f.
pub fn packet(off: u64, bytes: u64) -> Option<u64> {
    let off = off as u32 as u64;
    (off + bytes <= 16).then(|| (0..bytes).fold(0, |value, i| value << 8 | (0x10 + off + i)))
}

extern "C" fn packet_load(_: u64, off: u64, bytes: u64, _: u64, _: u64, _: &mut RunFrame) -> u64 {
    packet(off, bytes).unwrap_or(u64::MAX)
}

extern "C" fn tail_call(_: u64, _: u64, index: u64, _: u64, _: u64, frame: &mut RunFrame) -> u64 {
    if frame.tail_calls >= 33 {
        return 0;
    }
    let target = host(frame).targets.get(index as usize).copied().unwrap_or(0) as u64;
    frame.tail_calls += (target != 0) as u32;
    target
}

#[repr(align(16))]
struct Aligned([u8; STACK]);

pub fn native(insns: &[Insn], options: &Options) -> Native {
    let code = code(insns, options);
    let native = publish(&[&code], &TestLinker).expect("publishes").remove(0);
    if cfg!(debug_assertions) {
        assert_eq!(breach(), None);
    }
    native
}

/// What is wrong with the pages of this process.
pub fn breach() -> Option<pages::Breach> {
    pages::breach(&pages::mappings().expect("the system lists mappings"))
}

pub fn code(insns: &[Insn], options: &Options) -> Code {
    compile(&assume(insns), &TestLinker, options).unwrap_or_else(|error| panic!("{error}: {insns:#?}"))
}

/// The same program under several options, published together.
pub fn natives(program: &VerifiedProgram, options: impl Iterator<Item = Options>) -> Vec<Native> {
    let codes: Vec<Code> = options.map(|options| compile(program, &TestLinker, &options).expect("compiles")).collect();
    publish(&codes.iter().collect::<Vec<_>>(), &TestLinker).expect("publishes")
}

/// A frame for a run on this context and stack, without fuel or host.
pub fn frame<T>(ctx: &mut [u64; CTX / 8], stack: &mut [T]) -> RunFrame {
    RunFrame {
        ctx: ctx.as_mut_ptr().cast(),
        stack_top: stack.as_mut_ptr_range().end.cast(),
        fuel: i64::MAX,
        fault: FaultCode::None,
        fault_at: RunFrame::NOWHERE,
        tail_calls: 0,
        cpu: 0,
        entry_sp: 0,
        data: ptr::null_mut(),
        data_end: ptr::null_mut(),
        data_meta: ptr::null_mut(),
        cancel: ptr::null(),
        host: ptr::null_mut(),
        stack: ptr::null_mut(),
        second: 0,
        helper: 0,
    }
}

/// Runs published code.
pub fn run(native: &Native, ctx: [u64; CTX / 8], fuel: i64, targets: &[usize]) -> Outcome {
    let mut ctx = ctx;
    let mut stack = Aligned([0xa5; STACK]);
    let mut host = Host { trace: Vec::new(), targets: targets.to_vec() };
    let cancel = 0u32;
    let mut frame =
        RunFrame { fuel, cancel: &cancel, host: (&raw mut host).cast::<c_void>(), ..frame(&mut ctx, &mut stack.0) };
    // SAFETY: context, stack and cancel word are as promised; programs under test stay within them.
    let r0 = unsafe { native.call(&mut frame) };
    let faulted = frame.fault != FaultCode::None;
    Outcome {
        r0: (!faulted).then_some(r0),
        fault: frame.fault,
        fault_at: if faulted { frame.fault_at } else { RunFrame::NOWHERE },
        fuel: frame.fuel,
        ctx,
        trace: host.trace,
    }
}
