//! Programs as object files, linked into a C program by the system's compiler, against the reference.
//!
//! Where a compiler (or, for the other architecture, qemu's user mode) is missing, a line says so.

mod harness;

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::{CTX, MIX, generate, program, reference};
use rtbpf_isa::{AluOp, Callee, Imm64, Insn, MapBy, MapIdx, Operand, Reg, Size, Width};
use rtbpf_jit::elf::object_file;
use rtbpf_jit::{Arch, Features, Options, Techniques};

/// The C side: for each program its R0 and a hash of its context.
const MAIN: &str = r#"
#include <stdio.h>
#include <string.h>
#include <rtbpf.h>
uint64_t rtbpf_map_counts[4] = { 11, 22, 33, 44 };
static uint64_t mix_in(uint64_t h, uint64_t a) { h = (h ^ a) * 0x100000001b3ull; return h << 23 | h >> 41; }
uint64_t rtbpf_helper_100(uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, struct rtbpf_frame *frame)
{
	uint64_t h = 0x9e3779b97f4a7c15ull, args[5] = { a, b, c, d, e };
	for (int i = 0; i < 5; i++) h = mix_in(h, args[i]);
	return h;
}
uint64_t rtbpf_value_counts[4] = { 10, 20, 30, 40 };
static uint8_t packet[16];
uint64_t rtbpf_packet_load(uint64_t ctx, uint64_t off, uint64_t bytes, uint64_t d, uint64_t e, struct rtbpf_frame *frame)
{
	uint64_t value = 0;
	if ((int32_t)off < 0 || (uint32_t)off + bytes > sizeof(packet)) return UINT64_MAX;
	for (uint64_t i = 0; i < bytes; i++) value = value << 8 | packet[(uint32_t)off + i];
	return value;
}
extern rtbpf_entry entry_target;
uint64_t rtbpf_tail_call(uint64_t ctx, uint64_t map, uint64_t index, uint64_t d, uint64_t e, struct rtbpf_frame *frame)
{
	if (map != (uintptr_t)rtbpf_map_counts || index != 1) return 0;
	frame->tail_calls++;
	return (uintptr_t)entry_target;
}
static void run(rtbpf_prog *prog)
{
	static uint8_t stack[4096] __attribute__((aligned(16)));
	uint64_t ctx[32], h = 0;
	struct rtbpf_frame frame = { .stack_top = stack + sizeof(stack), .fuel = INT64_MAX, .fault_at = UINT32_MAX };
	memset(stack, 0xa5, sizeof(stack));
	for (int i = 0; i < 16; i++) packet[i] = 0x10 + i;
	for (int i = 0; i < 32; i++) ctx[i] = (i + 1) * 0x123456789abcdef1ull;
	uint64_t r0 = prog(ctx, &frame);
	for (int i = 0; i < 32; i++) h = mix_in(h, ctx[i]);
	printf("%u %llx %llx\n", frame.fault, (unsigned long long)r0, (unsigned long long)h);
}
"#;

fn works(command: &str) -> bool {
    let found = Command::new(command).arg("--version").output().is_ok_and(|output| output.status.success());
    if !found {
        eprintln!("skipped: no {command}");
    }
    found
}

/// What a program asks of its host besides helpers: values of maps, legacy packet loads, tail calls.
fn asks_its_host() -> Vec<Insn> {
    let mov = |dst, src| Insn::Alu { op: AluOp::Mov, width: Width::W64, dst, src };
    let add = |src| Insn::Alu { op: AluOp::Add, width: Width::W64, dst: Reg::R7, src: Operand::Reg(src) };
    vec![
        mov(Reg::R6, Operand::Reg(Reg::R1)),
        // The fourth word of the value, 40 by itself.
        Insn::Imm { dst: Reg::R1, value: Imm64::MapValue { map: MapIdx(0), off: 24, by: MapBy::Index } },
        Insn::Load { size: Size::D, signed: false, dst: Reg::R7, base: Reg::R1, off: 0 },
        // Bytes 3 and 4 of the packet, 0x1314, big-endian.
        Insn::Packet { size: Size::H, index: None, off: 3 },
        add(Reg::R0),
        // No program at 5; at 1 there is one.
        mov(Reg::R1, Operand::Reg(Reg::R6)),
        Insn::Imm { dst: Reg::R2, value: Imm64::Map { map: MapIdx(0), by: MapBy::Index } },
        mov(Reg::R3, Operand::Imm(5)),
        Insn::Call(Callee::Helper(12)),
        Insn::Store { size: Size::D, base: Reg::R6, off: 8, src: Operand::Reg(Reg::R7) },
        mov(Reg::R1, Operand::Reg(Reg::R6)),
        Insn::Imm { dst: Reg::R2, value: Imm64::Map { map: MapIdx(0), by: MapBy::Index } },
        mov(Reg::R3, Operand::Imm(1)),
        Insn::Call(Callee::Helper(12)),
        mov(Reg::R0, Operand::Imm(0)),
        Insn::Exit,
    ]
}

/// Where [`asks_its_host`] goes: one more than what stands in the context.
fn is_called_last() -> Vec<Insn> {
    vec![
        Insn::Load { size: Size::D, signed: false, dst: Reg::R0, base: Reg::R1, off: 8 },
        Insn::Alu { op: AluOp::Add, width: Width::W64, dst: Reg::R0, src: Operand::Imm(1) },
        Insn::Exit,
    ]
}

/// The third word of a map that C defines.
fn reads_a_map() -> Vec<Insn> {
    vec![
        Insn::Imm { dst: Reg::R1, value: Imm64::Map { map: MapIdx(0), by: MapBy::Index } },
        Insn::Load { size: Size::D, signed: false, dst: Reg::R0, base: Reg::R1, off: 16 },
        Insn::Exit,
    ]
}

/// Compiles, links and runs programs without faults; their lines must be those of the reference.
fn check(options: &Options, cc: &str, runner: Option<&str>) {
    let mut sources = Vec::new();
    let mut want = String::new();
    let ctx: [u64; CTX / 8] = std::array::from_fn(|i| (i as u64 + 1).wrapping_mul(0x1234_5678_9abc_def1));
    for round in 0..1000u64 {
        let mut rng = generate::Rng::new(0x0b1ec7 ^ round << 8);
        let size = 1 + rng.below(60);
        let insns = generate::program(&mut rng, size);
        let others = |insn: &Insn| matches!(insn, Insn::Call(Callee::Helper(_))) && !calls_mix(insn);
        if insns.iter().any(others) || sources.len() == 40 {
            continue;
        }
        let outcome = reference::reference(&program(&insns), ctx, None);
        let Some(r0) = outcome.r0 else { continue };
        let mix_in = |h: u64, a: &u64| (h ^ a).wrapping_mul(0x100_0000_01b3).rotate_left(23);
        writeln!(want, "0 {r0:x} {:x}", outcome.ctx.iter().fold(0, mix_in)).expect("strings grow");
        sources.push(insns);
    }
    assert!(sources.len() >= 20, "only {} programs", sources.len());
    let mut last = String::new();
    let codes: Vec<_> = sources.iter().map(|insns| harness::code(insns, options)).collect();
    let map = harness::code(&reads_a_map(), options);
    let names: Vec<String> = (0..codes.len()).map(|at| format!("p{at}")).collect();
    let mut programs: Vec<_> = names.iter().map(String::as_str).zip(&codes).collect();
    let (asks, last_called) = (harness::code(&asks_its_host(), options), harness::code(&is_called_last(), options));
    programs.extend([("map", &map), ("target", &last_called), ("asks", &asks)]);
    let mut source = MAIN.to_string();
    for (name, _) in &programs {
        writeln!(source, "extern rtbpf_prog prog_{name};").expect("strings grow");
        writeln!(last, "\trun(prog_{name});").expect("strings grow");
    }
    write!(source, "int main(void)\n{{\n{last}\treturn 0;\n}}\n").expect("strings grow");

    let object = object_file(options.arch, &programs, &|map| (map.0 == 0).then(|| "counts".into())).expect("an object");
    let folder = Folder::new(&format!("{:?}-{}", options.arch, options.optimise.is_some()));
    let (main, file, binary) = (folder.0.join("main.c"), folder.0.join("programs.o"), folder.0.join("binary"));
    std::fs::write(&main, source).expect("writes");
    std::fs::write(&file, object).expect("writes");
    let include = Path::new(env!("CARGO_MANIFEST_DIR")).join("include");
    let linked = Command::new(cc)
        .args(["-Wall", "-Werror", "-no-pie", "-static", "-I"])
        .args([&include, &main, &file])
        .arg("-o")
        .arg(&binary)
        .output()
        .expect("the compiler starts");
    assert!(linked.status.success(), "{}", String::from_utf8_lossy(&linked.stderr));
    let ran = match runner {
        Some(runner) => Command::new(runner).arg(&binary).output(),
        None => Command::new(&binary).output(),
    };
    let got = String::from_utf8(ran.expect("the program starts").stdout).expect("text");
    let mut lines = got.lines();
    let (asks, _target, of_map) = (lines.next_back(), lines.next_back(), lines.next_back());
    assert_eq!(lines.collect::<Vec<_>>(), want.lines().collect::<Vec<_>>(), "{options:?}");
    assert!(of_map.is_some_and(|line| line.starts_with("0 21 ")), "{of_map:?}");
    // 40 + 0x1314 + 1, from the program that the tail call went to.
    assert!(asks.is_some_and(|line| line.starts_with("0 133d ")), "{asks:?}");
}

fn calls_mix(insn: &Insn) -> bool {
    matches!(insn, Insn::Call(Callee::Helper(MIX)))
}

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("rtbpf-object-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).expect("the temporary folder is writable");
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn both_tiers(arch: Arch, cc: &str, runner: Option<&str>) {
    for optimise in [None, Some(Techniques::ALL)] {
        check(
            &Options { arch, features: Features::default(), fuel: false, cancel: false, optimise, harden: None },
            cc,
            runner,
        );
    }
}

#[test]
fn programs_link_into_c_and_agree_with_the_reference() {
    let Some(arch) = Arch::host() else { return };
    // Under emulation the system's compiler is another machine's.
    let target = Command::new("cc").arg("-dumpmachine").output().map(|output| output.stdout).unwrap_or_default();
    if target.starts_with(std::env::consts::ARCH.as_bytes()) {
        both_tiers(arch, "cc", None);
    } else {
        eprintln!("skipped: no cc for {}", std::env::consts::ARCH);
    }
}

#[test]
fn programs_for_aarch64_link_into_c_and_agree_under_qemu() {
    let (cc, qemu) = ("aarch64-linux-gnu-gcc", "qemu-aarch64-static");
    if Arch::host() == Some(Arch::Aarch64) {
        eprintln!("skipped: aarch64 programs run on this machine itself");
    } else if works(cc) && works(qemu) {
        both_tiers(Arch::Aarch64, cc, Some(qemu));
    }
}
