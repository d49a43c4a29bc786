//! Frames of the native stack: what the code does to the stack pointer, and what a debugger makes of it.

mod harness;

use std::collections::BTreeMap;
use std::process::Command;

use harness::generate::Rng;
use harness::*;
use iced_x86::{Code as Op, Decoder, DecoderOptions, Mnemonic, Register};
use rtbpf_abi::frame::{HelperFn, RunFrame};
use rtbpf_isa::Operand::Imm as I;
use rtbpf_isa::*;
use rtbpf_jit::{Arch, HelperTraits, Linker, Options, Step, Symbol, Techniques, Tools, compile, publish};

/// Bytes between the stack pointer and the caller's frame at each place that has them, by the notes.
/// A call has put `pushed` bytes there.
fn noted(unwind: &[rtbpf_jit::Unwind], bytes: usize, pushed: i32) -> BTreeMap<u32, Option<i32>> {
    let mut at = BTreeMap::new();
    let (mut depth, mut kept) = (None, None);
    for (number, note) in unwind.iter().enumerate() {
        match note.step {
            Step::Begins => depth = Some(pushed),
            Step::Ends => depth = None,
            Step::Grew(by) => depth = depth.map(|depth| depth + by),
            Step::Keeps => kept = depth,
            Step::Recalled => depth = kept,
            Step::Saved { below, .. } => assert!(Some(below as i32) <= depth, "what is saved is on the stack"),
        }
        let end = unwind.get(number + 1).map_or(bytes as u32, |next| next.offset);
        at.extend((note.offset..end).map(|place| (place, depth)));
    }
    at
}

/// Walks the code from each function's beginning, as it stands, and compares.
fn agree(insns: &[Insn], options: &Options) -> usize {
    let code = code(insns, &Options { arch: Arch::X86_64, ..*options });
    let noted = noted(&code.unwind, code.bytes.len(), 8);
    let (mut depth, mut body, mut checked) = (None::<i32>, 0, 0);
    for insn in Decoder::new(64, &code.bytes, DecoderOptions::NONE) {
        let Some(want) = noted.get(&(insn.ip32())).copied() else { continue };
        let begins = code.unwind.iter().any(|note| note.step == Step::Begins && note.offset == insn.ip32());
        depth = match (begins, want) {
            // Ways out are in a frame already: they load the stack pointer first.
            (true, want) => want,
            (false, None) => None,
            (false, Some(_)) => depth,
        };
        assert_eq!(depth, want, "at {:#x} of {insns:#?}", insn.ip());
        checked += usize::from(depth.is_some());
        let grows = match insn.mnemonic() {
            Mnemonic::Push => 8,
            Mnemonic::Pop => -8,
            Mnemonic::Add if insn.op0_register() == Register::RSP => -(insn.immediate(1) as i32),
            Mnemonic::Sub if insn.op0_register() == Register::RSP => insn.immediate(1) as i32,
            _ => 0,
        };
        depth = depth.map(|depth| depth + grows);
        body = body.max(depth.unwrap_or(0));
        if begins {
            body = depth.unwrap_or(0);
        }
        // Behind the end of a function stands what else belongs to it.
        if insn.mnemonic() == Mnemonic::Ret || matches!(insn.code(), Op::Jmp_rm64) {
            assert!(depth == Some(8) || insn.mnemonic() != Mnemonic::Ret, "{:#x}", insn.ip());
            depth = depth.map(|_| body);
        }
    }
    checked
}

/// The other architecture's returns: all that was taken of the stack is given back.
fn returns(insns: &[Insn], options: &Options) -> usize {
    const RET: u32 = 0xd65f_03c0;
    let code = code(insns, &Options { arch: Arch::Aarch64, ..*options });
    let noted = noted(&code.unwind, code.bytes.len(), 0);
    let words = code.bytes.chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().expect("four bytes")));
    let returns: Vec<u32> = (0..).step_by(4).zip(words).filter(|(_, word)| *word == RET).map(|(at, _)| at).collect();
    for at in &returns {
        assert_eq!(noted[at], Some(0), "at {at:#x} of {insns:#?}");
    }
    returns.len()
}

#[test]
fn the_stack_pointer_is_where_frames_say() {
    let tier = |optimise, fuel, harden| Options {
        arch: Arch::X86_64,
        features: rtbpf_jit::Features::default(),
        fuel,
        cancel: fuel,
        optimise,
        harden,
    };
    let settings = [
        tier(Some(Techniques::ALL), false, None),
        tier(None, false, None),
        tier(Some(Techniques::ALL), true, None),
        tier(None, true, Some(77)),
    ];
    let mut checked = 0;
    for round in 0..rounds(300) {
        let mut rng = Rng::new(0xf4a3 ^ round << 8);
        let size = 1 + rng.below(40);
        let insns = generate::program(&mut rng, size);
        checked += settings.iter().map(|options| agree(&insns, options)).sum::<usize>();
        assert!(settings.iter().all(|options| returns(&insns, options) > 0));
    }
    println!("{checked} instructions in frames");
    assert!(checked > rounds(300) as usize * 100);
}

struct Stopping;

extern "C" fn stop(_: u64, _: u64, _: u64, _: u64, _: u64, _: &mut RunFrame) -> u64 {
    // SAFETY: the debugger that runs this test stops here; the process does not go on.
    unsafe { libc::raise(libc::SIGTRAP) };
    0
}

impl Linker for Stopping {
    fn resolve(&self, symbol: Symbol) -> Option<u64> {
        matches!(symbol, Symbol::Helper(MIX)).then_some(stop as HelperFn as usize as u64)
    }

    fn helper(&self, _: i32) -> HelperTraits {
        HelperTraits::PLAIN
    }
}

const UNDER_A_DEBUGGER: &str = "RTBPF_UNDER_A_DEBUGGER";

/// Stops in a helper that a function of a program calls, which its entry called.
#[test]
fn a_program_that_stops_in_a_helper() {
    let Some(options) = Options::host().filter(|_| std::env::var_os(UNDER_A_DEBUGGER).is_some()) else { return };
    let mov = |dst, value| Insn::Alu { op: AluOp::Mov, width: Width::W64, dst, src: I(value) };
    // Both keep registers, and the second one has a frame of its own.
    let insns = [
        mov(Reg::R6, 1),
        mov(Reg::R7, 1),
        Insn::Call(Callee::Local { to: 2 }),
        Insn::Alu { op: AluOp::Add, width: Width::W64, dst: Reg::R0, src: Operand::Reg(Reg::R6) },
        Insn::Exit,
        mov(Reg::R6, 5),
        Insn::Store { size: Size::D, base: Reg::R10, off: -8, src: Operand::Reg(Reg::R6) },
        Insn::Call(Callee::Helper(MIX)),
        Insn::Exit,
    ];
    let mut named = program(&insns);
    named.subprogs_mut()[1].name = Some("inner".into());
    let code = compile(&assume(&insns), &Stopping, &options).expect("compiles");
    let native = publish(&[&code], &Stopping).expect("publishes").remove(0);
    Tools { gdb: true, ..Tools::default() }.show(&native, "walked", &named).expect("no file is involved");
    run(&native, [0; CTX / 8], i64::MAX, &[]);
}

#[test]
fn a_debugger_walks_through_native_code() {
    let found = Command::new("gdb").arg("--version").output().is_ok_and(|output| output.status.success());
    if !found || Options::host().is_none() || cfg!(not(target_arch = "x86_64")) {
        return println!("skipped: no gdb, or not its machine");
    }
    let me = std::env::current_exe().expect("a test has a file");
    let done = Command::new("gdb")
        .args(["-nx", "-batch", "-ex", "set startup-with-shell off", "-ex", "run", "-ex", "backtrace", "--args"])
        .arg(me)
        .args(["--exact", "a_program_that_stops_in_a_helper", "--test-threads=1"])
        .env(UNDER_A_DEBUGGER, "1")
        .output()
        .expect("it starts");
    let text = String::from_utf8_lossy(&done.stdout);
    if !text.contains("SIGTRAP") {
        return println!("skipped: gdb cannot trace here: {text} {}", String::from_utf8_lossy(&done.stderr));
    }
    let places: Vec<Option<usize>> = [
        "#0",
        "frames::stop",
        "in bpf_prog_walked.inner (",
        "in bpf_prog_walked (",
        "a_program_that_stops_in_a_helper (",
    ]
    .map(|name| text.find(name))
    .to_vec();
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{places:?} {text}");
}
