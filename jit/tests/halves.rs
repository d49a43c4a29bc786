//! Masks, shifts and extensions that take the place of 32-bit arithmetic, against the reference.

mod harness;

use harness::agree::{alu, word};
use harness::generate::Rng;
use harness::*;
use rtbpf_isa::Operand::{Imm as I, Reg as R};
use rtbpf_isa::Reg::*;
use rtbpf_isa::Width::*;
use rtbpf_isa::*;
use rtbpf_jit::{Options, Techniques};

const OPERANDS: [Reg; 5] = [R3, R4, R5, R7, R8];

/// A few instructions as compilers for versions without 32-bit arithmetic write them, and some that are none.
///
/// Masks stand in R9: by `hoisted` bits all through, or as they are needed.
fn idiom(rng: &mut Rng, hoisted: Option<i32>) -> Vec<Insn> {
    let (a, b) = (rng.one_of(&OPERANDS), rng.one_of(&OPERANDS));
    let width = rng.one_of(&[W64, W64, W32]);
    let by = rng.one_of(&[32, 32, 48, 56, 31, 33, 29, 16, 24]);
    let back = rng.one_of(&[AluOp::Rsh, AluOp::Arsh]);
    let k = hoisted.unwrap_or(1 + rng.below(31) as i32);
    let bits = |k: i32| word(R9, u64::from(u32::MAX) << k & 0xffff_ffff);
    let mask = |k: i32| if hoisted.is_some() { vec![] } else { vec![bits(k)] };
    match rng.below(16) {
        0 | 1 => vec![alu(AluOp::Lsh, W64, a, I(by)), alu(back, W64, a, I(by))],
        2 => vec![alu(AluOp::Lsh, W32, a, I(by & 31)), alu(back, W32, a, I(by & 31))],
        3 => {
            let between = if rng.chance(2) { vec![alu(AluOp::Add, width, b, I(1))] } else { vec![] };
            let masked = [alu(AluOp::And, rng.one_of(&[W64, W32]), a, R(R9))];
            [mask(k), masked.to_vec(), between, vec![alu(AluOp::Rsh, width, a, I(k))]].concat()
        }
        4 => vec![alu(AluOp::And, width, a, I(-1 << k)), alu(AluOp::Rsh, width, a, I(rng.below(64) as i32))],
        5 => {
            let moved = [alu(AluOp::Mov, W64, R2, R(a))];
            let rotation = [
                alu(AluOp::And, W64, R2, R(R9)),
                alu(AluOp::Rsh, W64, R2, I(k)),
                alu(AluOp::Lsh, W64, a, I(32 - k)),
                alu(rng.one_of(&[AluOp::Or, AluOp::Xor, AluOp::Add]), W64, a, R(R2)),
            ];
            [&moved[..], &mask(k), &rotation].concat()
        }
        6 => vec![alu(AluOp::Mov, rng.one_of(&[W32, W64]), a, R(b))],
        7 => vec![alu(
            rng.one_of(&[AluOp::Add, AluOp::Sub, AluOp::Xor, AluOp::Or, AluOp::And, AluOp::Mul]),
            width,
            a,
            R(b),
        )],
        8 => vec![alu(rng.one_of(&[AluOp::Add, AluOp::Mul, AluOp::And, AluOp::Xor]), width, a, I(rng.word() as i32))],
        9 => vec![alu(rng.one_of(&[AluOp::Div, AluOp::Mod, AluOp::Sdiv, AluOp::Smod]), width, a, R(b))],
        10 => vec![alu(
            rng.one_of(&[AluOp::Lsh, AluOp::Rsh, AluOp::Arsh]),
            width,
            a,
            if rng.chance(2) { R(b) } else { I(k) },
        )],
        11 => vec![
            Insn::Neg { width, dst: a },
            Insn::MovSx { width: W64, from: rng.one_of(&[Size::B, Size::H, Size::W]), dst: b, src: a },
        ],
        12 => {
            let (size, off) = (rng.one_of(&[Size::B, Size::H, Size::W, Size::D]), -8 * (1 + rng.below(3) as i16));
            vec![
                Insn::Store { size: rng.one_of(&[size, Size::D]), base: R10, off, src: R(a) },
                Insn::Load { size, signed: false, dst: b, base: R10, off },
                alu(AluOp::Lsh, W64, b, I(64 - size.bits() as i32)),
                alu(back, W64, b, I(64 - size.bits() as i32)),
            ]
        }
        13 | 14 => {
            let slot = |rng: &mut Rng| rng.one_of(&[-32, -40]);
            let spill = Insn::Store { size: Size::D, base: R10, off: slot(rng), src: R(a) };
            let fill = Insn::Load { size: Size::D, signed: false, dst: b, base: R10, off: slot(rng) };
            [&[spill], &idiom(rng, hoisted)[..], &[fill]].concat()
        }
        _ => {
            let extend = |reg: Reg| [alu(AluOp::Lsh, W64, reg, I(32)), alu(back, W64, reg, I(32))];
            let rhs = if rng.chance(3) { I(rng.word() as i32) } else { R(b) };
            let branch = Insn::Branch { op: rng.one_of(&CmpOp::ALL), width, lhs: a, rhs, to: 1 };
            [&extend(a)[..], &extend(b)[usize::from(rng.chance(4)) * 2..], &[branch, alu(AluOp::Xor, W64, b, I(k))]]
                .concat()
        }
    }
}

#[test]
fn numbers_of_32_bits_in_wide_registers_agree() {
    let Some(host) = Options::host() else { return };
    for round in 0..rounds(4000) {
        let mut rng = Rng::new(0x4a1f ^ round << 8);
        let rng = &mut rng;
        let mut insns = [R2, R3, R4, R5, R7, R8, R9].map(|reg| word(reg, rng.word())).to_vec();
        insns.extend([-8, -16, -24, -32, -40].map(|off| Insn::Store { size: Size::D, base: R10, off, src: R(R3) }));
        insns.push(alu(AluOp::Mov, W64, R6, I(0)));
        let hoisted = rng.chance(2).then(|| 1 + rng.below(31) as i32);
        insns.extend(hoisted.map(|k| word(R9, u64::from(u32::MAX) << k & 0xffff_ffff)));
        let head = insns.len();
        for _ in 0..1 + rng.below(8) {
            insns.extend(idiom(rng, hoisted));
        }
        // Some go round, and read what the round before left.
        insns.push(alu(AluOp::Add, W64, R6, I(1)));
        if rng.chance(2) {
            let to = head as i32 - insns.len() as i32 - 1;
            insns.push(Insn::Branch { op: CmpOp::Lt, width: W64, lhs: R6, rhs: I(3), to });
        }
        insns.push(alu(AluOp::Mov, W64, R0, I(0)));
        for (at, reg) in OPERANDS.into_iter().enumerate() {
            // What is only stored has an upper half that nobody reads.
            match rng.below(3) {
                0 => insns.push(Insn::Store {
                    size: rng.one_of(&[Size::W, Size::H]),
                    base: R1,
                    off: 8 * at as i16,
                    src: R(reg),
                }),
                1 => insns.extend([alu(AluOp::Mul, W64, R0, I(31)), alu(AluOp::Add, W64, R0, R(reg))]),
                _ => insns.extend([alu(AluOp::Mul, W32, R0, I(31)), alu(AluOp::Add, W32, R0, R(reg))]),
            }
        }
        insns.push(Insn::Exit);
        // Versions 1 and 2.
        if rng.chance(2) {
            for insn in &mut insns {
                if let Insn::Alu { width, .. } = insn {
                    *width = W64;
                }
            }
        }
        let ctx = std::array::from_fn(|_| rng.word());
        let want = reference::reference(&program(&insns), ctx, None);
        let off = Techniques { halves: false, ..Techniques::ALL };
        for on in [Some(Techniques::ALL), Some(off), None] {
            let options = Options { optimise: on, ..host };
            assert_eq!(
                run(&native(&insns, &options), ctx, i64::MAX, &[]),
                want,
                "round {round}, {options:?}: {insns:#?}"
            );
        }
    }
}

/// `rotate(x, 14)` of a 32-bit number, by mask and shifts, which may have been on the stack.
#[test]
fn a_rotation_by_mask_and_shifts_is_one() {
    let Some(host) = Options::host() else { return };
    let rotation = [
        Insn::Load { size: Size::W, signed: false, dst: R2, base: R1, off: 0 },
        alu(AluOp::Mov, W64, R3, R(R2)),
        word(R4, 0xfffc_0000),
        alu(AluOp::And, W64, R3, R(R4)),
        alu(AluOp::Rsh, W64, R3, I(18)),
        alu(AluOp::Lsh, W64, R2, I(14)),
        alu(AluOp::Or, W64, R2, R(R3)),
        Insn::Store { size: Size::W, base: R1, off: 0, src: R(R2) },
        alu(AluOp::Mov, W64, R0, I(0)),
        Insn::Exit,
    ];
    let spilled = [
        Insn::Store { size: Size::D, base: R10, off: -8, src: R(R2) },
        Insn::Load { size: Size::D, signed: false, dst: R2, base: R10, off: -8 },
    ];
    let spilled = [&rotation[..7], &spilled, &rotation[7..]].concat();
    for insns in [&rotation[..], &spilled] {
        let bytes = |halves| {
            let options = Options { optimise: Some(Techniques { halves, ..Techniques::ALL }), ..host };
            code(insns, &options).bytes.len()
        };
        assert!(bytes(true) + 12 <= bytes(false), "{} of {}", bytes(true), bytes(false));
    }
}
