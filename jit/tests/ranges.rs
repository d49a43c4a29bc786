//! Branches over as many bytes as their fields hold, one less and one more, and programs of a million instructions.
//!
//! ```text
//! head:  if r7 == 1 goto over      the first round goes through what lies between, the second over it
//!        between
//! over:  r7 -= 1
//!        if r7 != 0 goto head      or, where that is too far, a long jump
//! ```

mod harness;

use harness::*;
use rtbpf_isa::Operand::{Imm as I, Reg as R};
use rtbpf_isa::Reg::*;
use rtbpf_isa::Width::*;
use rtbpf_isa::*;
use rtbpf_jit::Options;

fn alu(op: AluOp, dst: Reg, src: Operand) -> Insn {
    Insn::Alu { op, width: W64, dst, src }
}

fn branch(op: CmpOp, lhs: Reg, value: i32, to: i32) -> Insn {
    Insn::Branch { op, width: W64, lhs, rhs: I(value), to }
}

/// What lies between: short, middling and long machine code, which no tier folds into less.
const FILLERS: [fn(i32) -> Insn; 3] = [
    |at| alu(if at % 2 == 0 { AluOp::Mul } else { AluOp::Xor }, R0, R(R8)),
    |at| alu(if at % 2 == 0 { AluOp::Xor } else { AluOp::Or }, R0, I(0x1234_5600 ^ at)),
    |at| Insn::Store { size: Size::D, base: R10, off: -512 + (at % 60) as i16 * 8, src: I(0x7654_3200 ^ at) },
];

fn program_over(count: i32, filler: fn(i32) -> Insn) -> Vec<Insn> {
    let mut insns = vec![alu(AluOp::Mov, R0, I(1)), alu(AluOp::Mov, R7, I(2)), alu(AluOp::Mov, R8, I(77))];
    let head = insns.len() as i32;
    if count <= i32::from(i16::MAX) {
        insns.push(branch(CmpOp::Eq, R7, 1, count));
    } else {
        insns.extend([branch(CmpOp::Ne, R7, 1, 1), Insn::Jump { to: count, long: true }]);
    }
    insns.extend((0..count).map(filler));
    insns.push(alu(AluOp::Sub, R7, I(1)));
    let back = head - insns.len() as i32 - 1;
    if back >= i32::from(i16::MIN) {
        insns.push(branch(CmpOp::Ne, R7, 0, back));
    } else {
        insns.extend([branch(CmpOp::Eq, R7, 0, 1), Insn::Jump { to: back - 1, long: true }]);
    }
    insns.extend([
        Insn::Load { size: Size::D, signed: false, dst: R1, base: R10, off: -512 },
        alu(AluOp::Xor, R0, R(R1)),
    ]);
    insns.push(Insn::Exit);
    insns
}

#[track_caller]
fn check(count: i32, filler: fn(i32) -> Insn, settings: &[Options]) {
    let program = program(&program_over(count, filler));
    // The stack that is read holds the harness's bytes unless the filler writes it.
    let want = reference::reference(&program, [0; CTX / 8], None);
    let natives = natives(&verified(program), settings.iter().copied());
    for (native, options) in natives.iter().zip(settings) {
        let got = run(native, [0; CTX / 8], i64::MAX, &[]);
        assert_eq!(got.r0, want.r0, "over {count} instructions, {options:?}");
    }
}

/// Both tiers.
fn settings() -> Vec<Options> {
    let Some(host) = Options::host() else { return Vec::new() };
    vec![host, Options { optimise: None, ..host }]
}

#[test]
fn branches_of_a_byte_reach_what_they_name() {
    for filler in FILLERS {
        (0..70).for_each(|count| check(count, filler, &settings()));
    }
}

#[test]
fn branches_around_the_next_limits_reach_what_they_name() {
    // Where forward branches may have to go beyond a mebibyte, and where offsets of 16 bits end.
    for count in [4189, 4194, 4195, 4200, 32_760, 32_766, 32_767, 32_768, 32_769] {
        FILLERS.into_iter().for_each(|filler| check(count, filler, &settings()));
    }
}

#[test]
fn branches_around_a_mebibyte_of_code_reach_what_they_name() {
    // aarch64: 19 bits of words; one word or two an instruction of the first kind.
    for count in [131_070, 131_073, 262_139, 262_141, 262_143, 262_145, 262_147] {
        check(count, FILLERS[0], &settings());
    }
}

#[test]
fn a_million_instructions_compile_and_run() {
    for options in settings() {
        check(1_000_000 - 11, FILLERS[1], &[options]);
    }
}
