//! Loads that wait for what takes them and stores that wait for their neighbours, against the reference: random programs of
//! copies, constants, operands and comparisons over a few bytes, so that most of them overlap.

mod harness;

use harness::agree::alu;
use harness::generate::Rng;
use harness::*;
use rtbpf_isa::Operand::{Imm as I, Reg as R};
use rtbpf_isa::Reg::*;
use rtbpf_isa::Width::*;
use rtbpf_isa::*;
use rtbpf_jit::{Options, Techniques};

const SIZES: [Size; 4] = [Size::B, Size::H, Size::W, Size::D];
const DATA: [Reg; 4] = [R2, R3, R4, R5];

/// A base and an offset into the 256 bytes of the context. R6 is the context, R7 and R8 lie inside, R9 is `R6 + R0`.
fn place(rng: &mut Rng) -> (Reg, i16) {
    let base = rng.one_of(&[R6, R6, R7, R8, R9]);
    (base, 96 + rng.below(24) as i16)
}

fn load(rng: &mut Rng, dst: Reg, size: Size) -> Insn {
    let (base, off) = place(rng);
    Insn::Load { size, signed: size != Size::D && rng.chance(6), dst, base, off }
}

fn piece(rng: &mut Rng, insns: &mut Vec<Insn>) {
    let (size, a, b) = (rng.one_of(&SIZES), rng.one_of(&DATA), rng.one_of(&DATA));
    match rng.below(10) {
        // A copy of some bytes one by one, as compilers write it.
        0..=3 => {
            let ((from, first), (to, second)) = (place(rng), place(rng));
            let by = rng.one_of(&[1, 1, 1, 2, -1]) * size.bytes() as i16;
            for k in 0..(1 + rng.below(9) as i16).min(40 / by.abs()) {
                insns.push(Insn::Load { size, signed: false, dst: a, base: from, off: first + k * by });
                if rng.chance(5) {
                    insns.push(alu(AluOp::Add, W64, b, I(k.into())));
                }
                insns.push(Insn::Store { size, base: to, off: second + k * by, src: R(a) });
            }
        }
        4..=5 => {
            let (base, off) = place(rng);
            let by = size.bytes() as i16;
            for k in 0..(1 + rng.below(9) as i16).min(40 / by) {
                insns.push(Insn::Store { size, base, off: off + k * by, src: I(rng.imm()) });
            }
        }
        6 => {
            insns.push(load(rng, a, size));
            if rng.chance(3) {
                insns.push(load(rng, b, size));
            }
            let op = rng.one_of(&[AluOp::Add, AluOp::Sub, AluOp::Mul, AluOp::Or, AluOp::And, AluOp::Xor]);
            insns.push(alu(op, rng.width(), b, R(a)));
            insns.push(alu(AluOp::Mov, W64, a, I(1)));
        }
        7 => {
            insns.push(load(rng, a, size));
            insns.push(load(rng, b, size));
            let rhs = if rng.chance(2) { R(b) } else { I(rng.below(300) as i32 - 20) };
            let (op, width) = (rng.one_of(&CmpOp::ALL), rng.width());
            insns.push(Insn::Branch { op, width, lhs: a, rhs, to: 3 });
            insns.push(alu(AluOp::Xor, W64, R5, I(rng.imm())));
            let (base, off) = place(rng);
            insns.push(Insn::Store { size, base, off, src: R(a) });
            insns.push(alu(AluOp::Mov, W64, a, R(b)));
            insns.push(alu(AluOp::Mov, W64, a, I(3)));
        }
        8 => {
            let base = rng.one_of(&[R7, R8, R0]);
            insns.push(alu(AluOp::Add, W64, base, I(1)));
            insns.push(alu(AluOp::Mov, W64, R9, R(R6)));
            insns.push(alu(AluOp::Add, W64, R9, R(R0)));
        }
        _ => {
            let (base, off) = place(rng);
            insns.push(Insn::Store { size, base, off, src: R(a) });
        }
    }
}

fn program_of(rng: &mut Rng) -> Vec<Insn> {
    let mut insns = vec![alu(AluOp::Mov, W64, R6, R(R1)), alu(AluOp::Mov, W64, R7, R(R1))];
    insns.extend([alu(AluOp::Mov, W64, R8, R(R1)), alu(AluOp::Mov, W64, R9, R(R1)), alu(AluOp::Mov, W64, R0, I(0))]);
    insns.push(alu(AluOp::Add, W64, R8, I(rng.below(9) as i32)));
    insns.extend(DATA.map(|reg| alu(AluOp::Mov, W64, reg, I(rng.imm()))));
    let rounds = 1 + rng.below(3) as i32;
    // A loop counts in memory, at an end that nothing else touches.
    insns.push(Insn::Store { size: Size::W, base: R6, off: 248, src: I(0) });
    let head = insns.len();
    for _ in 0..1 + rng.below(8) {
        piece(rng, &mut insns);
    }
    insns.push(Insn::Load { size: Size::W, signed: false, dst: R1, base: R6, off: 248 });
    insns.push(alu(AluOp::Add, W32, R1, I(1)));
    insns.push(Insn::Store { size: Size::W, base: R6, off: 248, src: R(R1) });
    let to = head as i32 - insns.len() as i32 - 1;
    insns.push(Insn::Branch { op: CmpOp::Lt, width: W64, lhs: R1, rhs: I(rounds), to });
    insns.extend(DATA.map(|reg| alu(AluOp::Xor, W64, R0, R(reg))));
    insns.push(Insn::Exit);
    insns
}

#[test]
fn waiting_loads_and_stores_agree() {
    let Some(host) = Options::host() else { return };
    let all = Techniques::ALL;
    let settings = [all, Techniques { fuse: false, ..all }, Techniques { merge: false, ..all }];
    for round in 0..rounds(4_000) {
        let mut rng = Rng::new(0x3e3 ^ round << 8);
        let insns = program_of(&mut rng);
        let ctx = std::array::from_fn(|_| rng.word());
        let want = reference::reference(&program(&insns), ctx, None);
        for on in settings {
            let options = Options { optimise: Some(on), ..host };
            assert_eq!(run(&native(&insns, &options), ctx, i64::MAX, &[]), want, "round {round}, {on:?}: {insns:#?}");
        }
    }
}

/// Loops over an array, as they are unrolled: copies to a distance that overlaps or does not, and fills.
#[test]
fn loops_that_copy_and_fill_agree() {
    let Some(host) = Options::host() else { return };
    for size in SIZES {
        let step = size.bytes() as i32;
        for (distance, count) in (-9..=9).flat_map(|distance| [1, 3, 9, 17].map(|count| (distance, count))) {
            for fills in [false, true] {
                let mut insns = vec![alu(AluOp::Mov, W64, R2, I(0))];
                insns.extend([alu(AluOp::Mov, W64, R3, R(R1)), alu(AluOp::Add, W64, R3, R(R2))]);
                let off = 100 + distance;
                if fills {
                    insns.push(Insn::Store { size, base: R3, off, src: I(distance.into()) });
                } else {
                    insns.push(Insn::Load { size, signed: false, dst: R4, base: R3, off: 100 });
                    insns.push(Insn::Store { size, base: R3, off, src: R(R4) });
                }
                insns.push(alu(AluOp::Add, W64, R2, I(step)));
                let to = 1 - insns.len() as i32 - 1;
                insns.push(Insn::Branch { op: CmpOp::Ne, width: W64, lhs: R2, rhs: I(count * step), to });
                insns.extend([alu(AluOp::Mov, W64, R0, R(R2)), Insn::Exit]);
                let ctx = std::array::from_fn(|i| (i as u64 + 1).wrapping_mul(0x1234_5678_9abc_def1));
                let want = reference::reference(&program(&insns), ctx, None);
                assert_eq!(run(&native(&insns, &host), ctx, i64::MAX, &[]), want, "{insns:#?}");
            }
        }
    }
}

/// In a short loop, whose rounds are repeated.
#[test]
fn what_is_jumped_over_is_not_written_in_any_round() {
    let Some(host) = Options::host() else { return };
    let store = Insn::Store { size: Size::B, base: R1, off: 124, src: I(3) };
    let mut insns = vec![alu(AluOp::Mov, W64, R2, I(6)), Insn::Jump { to: 1, long: false }, store];
    insns.extend([
        alu(AluOp::Sub, W64, R2, I(1)),
        Insn::Branch { op: CmpOp::Ne, width: W64, lhs: R2, rhs: I(0), to: -4 },
    ]);
    insns.extend([alu(AluOp::Mov, W64, R0, I(0)), Insn::Exit]);
    assert_eq!(run(&native(&insns, &host), [0; 32], i64::MAX, &[]).ctx, [0; 32]);
}
