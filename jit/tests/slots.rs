//! Stack slots that move to registers, against the reference: random programs of spills and reloads of one function, with
//! numbers that differ by constants, ways around the stores, and loops.

mod harness;

use harness::generate::Rng;
use harness::*;
use rtbpf_isa::Operand::{Imm as I, Reg as R};
use rtbpf_isa::Reg::*;
use rtbpf_isa::Width::*;
use rtbpf_isa::*;
use rtbpf_jit::{Options, Techniques};

const SIZES: [Size; 4] = [Size::D, Size::D, Size::W, Size::B];
const DATA: [Reg; 4] = [R2, R3, R4, R5];

fn alu(op: AluOp, dst: Reg, src: Operand) -> Insn {
    Insn::Alu { op, width: W64, dst, src }
}

/// One of a few slots; always of the same size at one offset, but for one that overlaps its neighbour.
fn slot(rng: &mut Rng) -> (i16, Size) {
    let number = rng.below(9) as usize;
    if number == 8 { (-60, Size::W) } else { (-8 * (number as i16 + 1), SIZES[number % 4]) }
}

fn piece(rng: &mut Rng, insns: &mut Vec<Insn>) {
    let (a, b, (off, size)) = (rng.one_of(&DATA), rng.one_of(&DATA), slot(rng));
    match rng.below(8) {
        0..=1 => insns.push(Insn::Store { size, base: R10, off, src: R(a) }),
        2 => insns.push(Insn::Store { size, base: R10, off, src: I(rng.imm()) }),
        3..=4 => {
            let signed = size != Size::D && rng.chance(4);
            insns.push(Insn::Load { size, signed, dst: a, base: R10, off });
            insns.push(alu(rng.one_of(&[AluOp::Add, AluOp::Xor, AluOp::Mul]), b, R(a)));
        }
        5 => insns.push(alu(AluOp::Add, a, I(rng.imm()))),
        6 => {
            let (op, width, rhs) = (rng.one_of(&CmpOp::ALL), rng.width(), I(rng.imm()));
            insns.push(Insn::Branch { op, width, lhs: a, rhs, to: 1 });
            insns.push(if rng.chance(2) { alu(AluOp::Mov, b, R(a)) } else { alu(AluOp::Add, a, I(3)) });
        }
        // A family.
        _ => {
            for k in 0..1 + rng.below(4) as i32 {
                insns.push(alu(AluOp::Mov, a, R(b)));
                insns.push(alu(AluOp::Add, a, I(k * 4 - 4)));
                let off = -8 * (1 + rng.below(2) as i16) - 32 * rng.below(2) as i16;
                insns.push(Insn::Store { size: Size::D, base: R10, off, src: R(a) });
            }
        }
    }
}

fn program_of(rng: &mut Rng) -> Vec<Insn> {
    let mut insns = vec![alu(AluOp::Mov, R6, I(3)), alu(AluOp::Mov, R0, I(0))];
    insns.extend(DATA.map(|reg| alu(AluOp::Mov, reg, I(rng.imm()))));
    if rng.chance(2) {
        for number in 0..8 {
            let (off, size) = (-8 * (number as i16 + 1), SIZES[number % 4]);
            insns.push(Insn::Store { size, base: R10, off, src: R(rng.one_of(&DATA)) });
        }
    }
    for _ in 0..1 + rng.below(2) {
        let head = insns.len();
        for _ in 0..1 + rng.below(10) {
            piece(rng, &mut insns);
        }
        insns.push(alu(AluOp::Sub, R6, I(1)));
        let to = head as i32 - insns.len() as i32 - 1;
        insns.push(Insn::Branch { op: CmpOp::Sgt, width: W64, lhs: R6, rhs: I(0), to });
    }
    for _ in 0..rng.below(6) {
        piece(rng, &mut insns);
    }
    insns.extend(DATA.map(|reg| alu(AluOp::Xor, R0, R(reg))));
    for number in 0..8 {
        let (off, size) = (-8 * (number as i16 + 1), SIZES[number % 4]);
        if rng.chance(2) {
            insns.push(Insn::Load { size, signed: false, dst: R2, base: R10, off });
            insns.extend([alu(AluOp::Mul, R0, I(31)), alu(AluOp::Add, R0, R(R2))]);
        }
    }
    insns.push(Insn::Exit);
    insns
}

#[test]
fn slots_in_registers_agree() {
    let Some(host) = Options::host() else { return };
    let plain = Options { features: rtbpf_jit::Features::default(), ..host };
    for round in 0..rounds(4_000) {
        let mut rng = Rng::new(0x510 ^ round << 8);
        let insns = program_of(&mut rng);
        let want = reference::reference(&program(&insns), [0; 32], None);
        for options in [host, plain] {
            let got = run(&native(&insns, &options), [0; 32], i64::MAX, &[]);
            assert_eq!(got, want, "round {round}, {options:?}: {insns:#?}");
        }
    }
}

/// Where an address of the frame is taken, nothing moves; elsewhere the code has fewer accesses to memory.
#[test]
fn slots_move_only_where_nothing_else_reaches_them() {
    let Some(host) = Options::host() else { return };
    let code = |taken: bool, slots: bool| {
        let mut insns = vec![alu(AluOp::Mov, R0, I(0)), alu(AluOp::Mov, R2, I(9))];
        if taken {
            insns.push(alu(AluOp::Mov, R1, R(R10)));
        }
        insns.push(Insn::Store { size: Size::D, base: R10, off: -8, src: R(R2) });
        insns.push(Insn::Load { size: Size::D, signed: false, dst: R3, base: R10, off: -8 });
        insns.extend([alu(AluOp::Add, R0, R(R3)), alu(AluOp::Sub, R2, I(1))]);
        insns.extend([Insn::Branch { op: CmpOp::Ne, width: W64, lhs: R2, rhs: I(0), to: -5 }, Insn::Exit]);
        let options = Options { optimise: Some(Techniques { slots, ..Techniques::ALL }), ..host };
        assert_eq!(run(&native(&insns, &options), [0; 32], i64::MAX, &[]).r0, Some(45));
        rtbpf_jit::compile(&verified(program(&insns)), &rtbpf_jit::NoLinker, &options).expect("it compiles").bytes
    };
    assert_eq!(code(true, true), code(true, false));
    assert_ne!(code(false, true), code(false, false));
}
