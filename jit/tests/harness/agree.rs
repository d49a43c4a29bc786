//! Instructions by hand, and the reference's word on programs of them.

use rtbpf_isa::Operand::{Imm as I, Reg as R};
use rtbpf_isa::Reg::*;
use rtbpf_isa::Width::*;
use rtbpf_isa::*;
use rtbpf_jit::{Options, Techniques};

use super::{native, program, reference, run};

/// Numbers at the edges of widths and signs.
pub const EDGES: [u64; 8] = [0, 1, 2, u64::MAX, 1 << 63, 0x7fff_ffff, 0xffff_ffff, 0xdead_beef_0000_0003];

/// An operation.
pub fn alu(op: AluOp, width: Width, dst: Reg, src: Operand) -> Insn {
    Insn::Alu { op, width, dst, src }
}

/// A copy of 64 bits.
pub fn mov(dst: Reg, src: Operand) -> Insn {
    alu(AluOp::Mov, W64, dst, src)
}

/// A sum of 64 bits.
pub fn add(dst: Reg, src: Operand) -> Insn {
    alu(AluOp::Add, W64, dst, src)
}

/// A constant of 64 bits.
pub fn word(dst: Reg, value: u64) -> Insn {
    Insn::Imm { dst, value: Imm64::Const([value as u32, (value >> 32) as u32]) }
}

/// A jump from one place to another.
pub fn jump(to: usize, from: usize) -> Insn {
    Insn::Jump { to: to as i32 - from as i32 - 1, long: false }
}

/// What registers hold, folded into R0.
pub fn fold(insns: &mut Vec<Insn>, registers: &[Reg]) {
    for reg in registers {
        insns.extend([alu(AluOp::Mul, W64, R0, I(31)), add(R0, R(*reg))]);
    }
}

/// Runs a program in both tiers, and without some techniques, as the reference does.
#[track_caller]
pub fn agrees(insns: &[Insn], what: &str) {
    let ctx = std::array::from_fn(|i| (i as u64 + 1).wrapping_mul(0x8182_8384_8586_8789));
    let want = reference::reference(&program(insns), ctx, Some(1 << 14));
    assert!(want.r0.is_some(), "{what}: it ends");
    let Some(host) = Options::host() else { return };
    let off = [
        Techniques::ALL,
        Techniques { select: false, ..Techniques::ALL },
        Techniques { layout: false, ..Techniques::ALL },
        Techniques { unroll: false, ..Techniques::ALL },
        Techniques { invert: false, align: false, ..Techniques::ALL },
    ];
    for optimise in off.into_iter().map(Some).chain([None]) {
        let options = Options { optimise, ..host };
        assert_eq!(run(&native(insns, &options), ctx, i64::MAX, &[]).r0, want.r0, "{what}, {options:?}: {insns:#?}");
    }
}

/// A body that folds what it leaves into R0, which is 0 before it; R8 is 3.
#[track_caller]
pub fn body_agrees(mut body: Vec<Insn>, what: &str) {
    body.splice(0..0, [mov(R0, I(0)), mov(R8, I(3))]);
    body.push(Insn::Exit);
    agrees(&body, what);
}
