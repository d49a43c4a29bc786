//! The shapes in which compilers leave choices, branches and loops, against the reference.

mod harness;

use harness::agree::*;
use harness::generate::Rng;
use harness::*;
use rtbpf_isa::Operand::{Imm as I, Reg as R};
use rtbpf_isa::Reg::*;
use rtbpf_isa::Width::*;
use rtbpf_isa::*;
use rtbpf_jit::{Options, Techniques};

/// Fewer than `most` of some operations.
fn some(rng: &mut Rng, most: u64, work: &[Insn]) -> Vec<Insn> {
    (0..rng.below(most)).map(|_| rng.one_of(work)).collect()
}

/// Operations that mix R2 into R0 and R5.
fn mixture() -> [Insn; 4] {
    [add(R0, R(R2)), alu(AluOp::Xor, W64, R5, R(R0)), add(R5, I(3)), alu(AluOp::Mul, W32, R5, I(10))]
}

/// One of two numbers, of which one takes some operations, by a branch over them or to where a jump behind them goes.
#[test]
fn choices_of_one_to_three_operations_agree() {
    for (shape, jumps) in (0..7).flat_map(|shape| [false, true].map(|jumps| (shape, jumps))) {
        let mut insns = Vec::new();
        for (number, (op, a)) in CmpOp::ALL.into_iter().flat_map(|op| EDGES.map(|a| (op, a))).enumerate() {
            let (width, rhs) = ([W32, W64][number % 2], [R(R4), I(1), R(R3), I(0)][number % 4]);
            let lhs = [R5, R3, R7][number % 3];
            insns.extend([word(R3, a), word(R4, EDGES[number * 5 % 8]), mov(R5, R(R4)), mov(R7, I(number as i32 % 2))]);
            let under = match shape {
                0 => vec![mov(R7, I(1 - number as i32 % 2))],
                1 => vec![alu(AluOp::Mov, W32, R7, I(1 - number as i32 % 2))],
                2 => vec![Insn::Neg { width, dst: R7 }],
                3 => vec![add(R5, I(87)), mov(R7, R(R5))],
                4 => vec![alu(AluOp::Lsh, W32, R4, I(1)), alu(AluOp::Xor, W32, R4, I(0x1021)), mov(R7, R(R4))],
                5 => vec![mov(R8, R(R3)), Insn::Neg { width, dst: R8 }, alu(AluOp::Sub, width, R7, R(R8))],
                _ => vec![mov(R8, R(R7)), alu(AluOp::Mov, W32, R3, R(R8)), alu(AluOp::And, W64, R5, R(R3))],
            };
            let over = under.len() as i32 + 2 * i32::from(jumps);
            insns.push(Insn::Branch { op, width, lhs, rhs, to: over });
            insns.extend(under);
            if jumps {
                insns.extend([Insn::Jump { to: 1, long: false }, mov(R3, I(7))]);
            }
            // Whether what was computed on the way is read again.
            if number % 3 != 0 {
                insns.extend([R4, R5, R8].map(|reg| mov(reg, I(2))));
            }
            fold(&mut insns, &[R3, R4, R5, R7]);
        }
        body_agrees(insns, &format!("shape {shape}, jumps {jumps}"));
    }
}

/// The number of a condition, added, asked for, masked, inverted, and what is compared changing before that.
#[test]
fn numbers_of_conditions_agree() {
    for round in 0..rounds(1500) {
        let rng = &mut Rng::new(0x7204 ^ round << 8);
        let mut insns = Vec::new();
        for _ in 0..6 {
            let [a, b, number, sum] = [R3, R4, R5, R7];
            let (x, y) = (rng.one_of(&EDGES), rng.one_of(&EDGES));
            insns.extend([word(a, x), word(b, if rng.chance(4) { x } else { y }), word(sum, rng.one_of(&EDGES))]);
            let rhs = rng.one_of(&[R(b), R(b), I(0), I(1), I(-1), I(i32::MAX), I(0x7f)]);
            let (one, width) = (rng.below(2) as i32, rng.one_of(&[W32, W64]));
            let lhs = rng.one_of(&[a, a, sum]);
            insns.extend([alu(AluOp::Mov, rng.one_of(&[W32, W64]), number, I(one))]);
            insns.push(Insn::Branch { op: rng.one_of(&CmpOp::ALL), width, lhs, rhs, to: 1 });
            insns.push(alu(AluOp::Mov, rng.one_of(&[W32, W64]), number, I(1 - one)));
            if rng.chance(3) {
                insns.push(add(rng.one_of(&[a, b, sum]), I(1)));
            }
            match rng.below(6) {
                0 => insns.push(alu(AluOp::And, width, number, I(rng.one_of(&[1, 2, 0xff])))),
                1 => insns.push(alu(AluOp::Xor, width, number, I(1))),
                2 => insns.push(alu(AluOp::Lsh, width, number, I(3))),
                3 => insns.push(alu(AluOp::Mov, W32, R8, R(number))),
                _ => {}
            }
            let target = rng.one_of(&[sum, sum, a, b]);
            insns.push(alu(rng.one_of(&[AluOp::Add, AluOp::Add, AluOp::Or, AluOp::Sub]), width, target, R(number)));
            if rng.chance(2) {
                let (op, rhs) = (rng.one_of(&[CmpOp::Eq, CmpOp::Ne, CmpOp::Gt]), I(rng.below(2) as i32));
                insns.push(Insn::Branch { op, width, lhs: number, rhs, to: rng.one_of(&[1, 2]) });
                insns.extend([add(sum, I(77)), alu(AluOp::Xor, W64, b, R(sum))]);
            }
            if rng.chance(2) {
                insns.push(mov(number, I(3)));
            }
            fold(&mut insns, &[a, b, number, sum]);
        }
        body_agrees(insns, &format!("round {round}"));
    }
}

/// Loops that are entered behind their step and test, of one block and of several.
#[test]
fn loops_that_are_entered_in_the_middle_agree() {
    for round in 0..rounds(600) {
        let rng = &mut Rng::new(0x0707 ^ round << 8);
        let step = rng.one_of(&[1, 1, 2, 4, -1, -3]);
        let count = rng.below(40) as i32 + 1;
        let (start, width) = (rng.below(9) as i32, rng.one_of(&[W32, W64]));
        let mut insns =
            vec![mov(R0, I(0)), mov(R2, I(start)), word(R4, rng.word()), word(R5, rng.word()), mov(R7, I(3))];
        insns.push(mov(R8, I(start + step * count)));
        let entry = insns.len();
        insns.push(Insn::Exit);
        let work = [
            add(R0, R(R2)),
            alu(AluOp::Xor, W64, R4, R(R0)),
            alu(AluOp::Mov, W32, R5, R(R4)),
            alu(AluOp::Mul, W32, R5, I(33)),
            alu(AluOp::Add, W32, R5, R(R7)),
            alu(AluOp::And, W64, R4, I(0xff)),
            Insn::Store { size: Size::B, base: R1, off: 8, src: R(R4) },
            Insn::Load { size: Size::W, signed: false, dst: R3, base: R1, off: 6 },
        ];
        insns.extend(some(rng, 3, &work));
        insns.push(alu(AluOp::Add, width, R2, I(step)));
        insns.extend(some(rng, 3, &work));
        let test = insns.len();
        insns.push(Insn::Exit);
        insns[entry] = jump(insns.len(), entry);
        insns.extend(some(rng, 6, &work));
        // A choice, a way around, a round that ends early, or another way out.
        let (op, rhs) = (rng.one_of(&CmpOp::ALL), R(rng.one_of(&[R4, R5, R7])));
        let (shape, branch) = (rng.below(6), insns.len());
        let to = match shape {
            0 => 1,
            1 => 2,
            2 => entry as i32 - insns.len() as i32,
            _ => 0,
        };
        if shape < 4 {
            insns.push(Insn::Branch { op, width, lhs: R0, rhs, to });
            insns.push(mov(R7, I(round as i32)));
        }
        if shape != 2 {
            let most = if rng.chance(4) { 16 } else { 4 };
            insns.extend(some(rng, most, &work));
        }
        let back = insns.len();
        insns.push(jump(entry + 1, back));
        let rhs = if rng.chance(2) { R(R8) } else { I(start + step * count) };
        let op = rng.one_of(&[CmpOp::Eq, CmpOp::Eq, if step > 0 { CmpOp::Sge } else { CmpOp::Sle }]);
        // At 32 bits, numbers below zero are large.
        let op = if width == W32 && op != CmpOp::Eq { CmpOp::Eq } else { op };
        let end = insns.len();
        let out = |from: usize| (end - from - 1) as i32;
        insns[test] = Insn::Branch { op, width, lhs: R2, rhs, to: out(test) };
        if let (3, Insn::Branch { to, .. }) = (shape, &mut insns[branch]) {
            *to = out(branch);
        }
        fold(&mut insns, &[R2, R3, R4, R5, R7]);
        insns.insert(0, mov(R3, I(0)));
        insns.push(Insn::Exit);
        agrees(&insns, &format!("round {round}"));
    }
}

/// Two branches on one condition, with one operation of any kind under the first and some between them, and what follows
/// the second: a test of its own.
#[test]
fn branches_that_were_decided_agree() {
    for round in 0..rounds(600) {
        let rng = &mut Rng::new(0x7b4d ^ round << 8);
        let mut insns = vec![mov(R6, R(R1))];
        for pair in 0..4 {
            // Now and then one pair follows the other at once.
            if pair == 0 || rng.chance(2) {
                insns.extend([R2, R3, R4].map(|reg| word(reg, rng.word())));
                insns.extend([mov(R5, I(5)), mov(R7, I(7))]);
            }
            let (op, rhs) = (rng.one_of(&CmpOp::ALL), rng.one_of(&[R(R4), I(3), I(-1)]));
            let width = rng.one_of(&[W32, W64]);
            let branch = |to: usize| Insn::Branch { op, width, lhs: R3, rhs, to: to as i32 };
            let work = |rng: &mut Rng| match rng.below(5) {
                0 => Insn::Load { size: Size::H, signed: rng.chance(2), dst: R5, base: R6, off: 8 },
                1 => Insn::MovSx { width: W64, from: Size::B, dst: R7, src: R2 },
                // What is not computed at once.
                2 => {
                    let (op, dst) = (rng.one_of(&[AluOp::Lsh, AluOp::Rsh, AluOp::Add]), rng.one_of(&[R2, R5, R7]));
                    alu(op, rng.one_of(&[W32, W64]), dst, I(rng.below(30) as i32 + 1))
                }
                _ => {
                    let dst = rng.one_of(&[R2, R5, R7]);
                    alu(rng.one_of(&AluOp::ALL), rng.one_of(&[W32, W64]), dst, R(rng.one_of(&[R2, R3, R5, R7])))
                }
            };
            let some = |rng: &mut Rng, n: u64| (0..n).map(|_| work(rng)).collect::<Vec<_>>();
            let (n, m, k) = (rng.below(3) + 1, rng.below(3), rng.below(4));
            let (under, between, behind) = (some(rng, n), some(rng, m), some(rng, k));
            // The second one goes over more than can be chosen from, to others and perhaps a branch.
            insns.push(branch(under.len()));
            insns.extend(under);
            insns.extend(between);
            insns.push(branch(4));
            insns.extend(some(rng, 4));
            insns.extend(behind);
            if rng.chance(2) {
                // Over two of them, or over all that reads what was computed before.
                let mut over = some(rng, 2);
                fold(&mut over, &[R2, R3, R4, R5, R7]);
                let to = rng.one_of(&[2, over.len() as i32]);
                insns.push(Insn::Branch { op: rng.one_of(&CmpOp::ALL), width, lhs: R5, rhs: R(R7), to });
                insns.extend(over);
            }
        }
        fold(&mut insns, &[R2, R3, R4, R5, R7]);
        body_agrees(insns, &format!("round {round}"));
    }
}

/// Loops whose test stands in front of what follows them, which the body stands behind.
#[test]
fn loops_behind_what_follows_them_agree() {
    for round in 0..rounds(600) {
        let rng = &mut Rng::new(0xbe41 ^ round << 8);
        let (step, count) = (rng.one_of(&[1, 1, 2, 4]), rng.below(40) as i32 + 1);
        let work = [
            add(R0, R(R2)),
            alu(AluOp::Xor, W64, R4, R(R0)),
            alu(AluOp::Mov, W32, R5, R(R4)),
            alu(AluOp::Mul, W32, R5, I(33)),
            add(R0, R(R7)),
            add(R0, R(R5)),
            Insn::Store { size: Size::B, base: R1, off: 8, src: R(R4) },
            Insn::Load { size: Size::W, signed: false, dst: R3, base: R1, off: 6 },
        ];
        let mut insns = vec![mov(R0, I(0)), mov(R2, I(0)), mov(R3, I(0)), word(R4, rng.word()), word(R5, rng.word())];
        insns.extend([mov(R7, I(3)), mov(R8, I(0))]);
        let entry = insns.len();
        insns.push(Insn::Exit);
        insns.extend(some(rng, 3, &work));
        insns.push(add(R2, I(step)));
        insns.extend(some(rng, 3, &work));
        let test = insns.len();
        insns.push(Insn::Exit);
        insns.extend(some(rng, 3, &work));
        let folded = rng.chance(2);
        if folded {
            fold(&mut insns, &[R2, R3, R4, R5, R7, R8]);
        }
        insns.push(Insn::Exit);
        insns[test] = Insn::Branch {
            op: rng.one_of(&[CmpOp::Lt, CmpOp::Lt, CmpOp::Slt, CmpOp::Ne]),
            width: rng.one_of(&[W32, W64]),
            lhs: R2,
            rhs: I(step * count),
            to: (insns.len() - test - 1) as i32,
        };
        insns[entry] = jump(insns.len(), entry);
        insns.extend(some(rng, 6, &work));
        // Choices at the end, of which the last may jump to the test itself; or a way around, or a round that ends early.
        let shape = rng.below(5);
        let (op, rhs) = (rng.one_of(&CmpOp::ALL), rng.one_of(&[R(R4), R(R5), I(5)]));
        let branch = |to| Insn::Branch { op, width: W64, lhs: R0, rhs, to };
        match shape {
            0 => insns.extend([branch(1), mov(R7, I(round as i32))]),
            1 => insns.extend([branch(2), mov(R7, I(9)), add(R8, I(1))]),
            2 => {
                let to = entry as i32 - insns.len() as i32 - 1;
                insns.extend([mov(R8, I(1)), branch(to), mov(R8, I(0))]);
            }
            3 => {
                let to = entry as i32 - insns.len() as i32;
                insns.extend([branch(to), add(R7, I(1)), add(R8, R(R7))]);
            }
            _ => {}
        }
        let back = insns.len();
        insns.push(jump(entry + 1, back));
        agrees(&insns, &format!("round {round}"));
    }
}

/// Jumps that lead to jumps, round and round, which no verifier lets through.
#[test]
fn jumps_without_end_are_compiled() {
    let Some(host) = Options::host() else { return };
    let branch = Insn::Branch { op: CmpOp::Eq, width: W64, lhs: R1, rhs: I(0), to: 1 };
    let work = [add(R1, I(1)); 24];
    for tail in
        [vec![jump(2, 2)], vec![jump(3, 2), jump(2, 3)], vec![jump(1, 2)], [work.to_vec(), vec![jump(2, 26)]].concat()]
    {
        let insns = [&[branch, Insn::Exit][..], &tail].concat();
        assert!(!code(&insns, &host).bytes.is_empty());
    }
}

/// Loops with several ways round, each of which jumps back to what they share: a step and perhaps a test.
#[test]
fn loops_with_several_ways_round_agree() {
    let Some(host) = Options::host() else { return };
    let mut longer = 0;
    for round in 0..rounds(400) {
        let rng = &mut Rng::new(0x3a9 ^ round << 8);
        let work = mixture();
        let mut insns = vec![mov(R0, I(0)), mov(R5, I(7)), mov(R3, I(1)), mov(R2, I(rng.below(20) as i32 + 1))];
        let entry = insns.len();
        insns.push(Insn::Exit);
        insns.extend(some(rng, 4, &work));
        insns.push(add(R2, I(-1)));
        let test = insns.len();
        insns.push(Insn::Exit);
        if rng.chance(2) {
            insns[entry] = jump(insns.len(), entry);
        } else {
            insns[entry] = jump(entry + 1, entry);
        }
        insns.extend(some(rng, 9, &work));
        for _ in 0..rng.below(4) {
            let (op, width) = (rng.one_of(&CmpOp::ALL), rng.one_of(&[W32, W64]));
            let (lhs, rhs) = rng.one_of(&[(R5, I(100)), (R2, I(3)), (R0, R(R5)), (R3, I(1))]);
            let skip = insns.len();
            insns.push(Insn::Branch { op, width, lhs, rhs, to: 0 });
            insns.extend(some(rng, 8, &work));
            insns.push(mov(R3, I(rng.below(3) as i32)));
            // Not behind the step: it would go round for ever.
            insns.push(jump(entry + 1 + rng.below((test - 1 - entry) as u64) as usize, insns.len()));
            insns[skip] = Insn::Branch { op, width, lhs, rhs, to: (insns.len() - skip - 1) as i32 };
            insns.extend(some(rng, 8, &work));
        }
        insns.push(jump(entry + 1, insns.len()));
        insns[test] =
            Insn::Branch { op: CmpOp::Eq, width: W64, lhs: R2, rhs: I(0), to: (insns.len() - test - 1) as i32 };
        fold(&mut insns, &[R2, R3, R5]);
        insns.push(Insn::Exit);
        agrees(&insns, &format!("round {round}"));
        let size = |on| code(&insns, &Options { optimise: Some(on), ..host }).bytes.len();
        let once = Techniques { unroll: false, align: false, ..Techniques::ALL };
        longer += u64::from(size(once) > size(Techniques { thread: false, ..once }));
    }
    println!("{longer} loops became longer");
    assert!(longer > rounds(100), "{longer} loops became longer");
}

/// Loops of one block that count, as they are unrolled, with sums that take a register of their own, and masked shifts.
#[test]
fn loops_that_count_and_sum_agree() {
    for round in 0..rounds(600) {
        let rng = &mut Rng::new(0x50b5 ^ round << 8);
        let (width, sum) = (rng.one_of(&[W32, W64]), rng.one_of(&[W32, W64]));
        // Registers that are read behind the loop are not idle.
        let read: &[Reg] = if rng.chance(2) { &[R1, R2, R3, R4, R5] } else { &[R2, R3] };
        let mut insns = vec![mov(R6, R(R1)), mov(R0, I(0)), mov(R1, I(1)), mov(R4, I(3)), mov(R5, I(7)), mov(R7, I(9))];
        let (count, step) = (rng.below(70) as i32 + 1, rng.below(3) as i32 + 1);
        let up = rng.chance(2);
        let (first, last) = if up { (0, count * step) } else { (count * step, 0) };
        insns.extend([mov(R2, I(first)), mov(R3, I(last))]);
        let head = insns.len();
        let mask = rng.one_of(&[31, 63, 15, 127]);
        let work = [
            Insn::Load { size: Size::H, signed: false, dst: R5, base: R6, off: 8 },
            alu(AluOp::Xor, sum, R7, R(R5)),
            alu(AluOp::Mul, W64, R7, I(0x1_0003)),
            alu(AluOp::Add, W64, R7, R(R2)),
            mov(R5, R(R7)),
            alu(AluOp::And, sum, R5, I(mask)),
            alu(AluOp::Rsh, sum, R7, R(R5)),
            alu(AluOp::And, W32, R7, I(mask)),
            alu(AluOp::Lsh, width, R4, R(R7)),
            alu(AluOp::Or, sum, R4, I(5)),
        ];
        insns.extend((0..rng.below(6) + 1).map(|_| rng.one_of(&work)));
        insns.push(alu(AluOp::Add, sum, R0, R(rng.one_of(&[R5, R7]))));
        insns.extend((0..rng.below(3)).map(|_| rng.one_of(&work)));
        insns.push(alu(AluOp::Add, width, R2, I(if up { step } else { -step })));
        if rng.chance(4) {
            insns.push(alu(AluOp::Xor, W64, R4, R(R0)));
        }
        let op = if rng.chance(2) { CmpOp::Ne } else { if up { CmpOp::Lt } else { CmpOp::Gt } };
        let rhs = if rng.chance(2) { R(R3) } else { I(last) };
        let to = head as i32 - insns.len() as i32 - 1;
        insns.push(Insn::Branch { op, width, lhs: R2, rhs, to });
        fold(&mut insns, read);
        fold(&mut insns, &[R7]);
        insns.push(Insn::Exit);
        agrees(&insns, &format!("round {round}"));
    }
}

/// Loops whose test at the head reads a number that the end of the round made of a condition.
#[test]
fn loops_that_carry_their_condition_agree() {
    let Some(host) = Options::host() else { return };
    let mut shorter = 0;
    for round in 0..rounds(400) {
        let rng = &mut Rng::new(0x1a7c ^ round << 8);
        let (zero, width) = (rng.below(2) as i32, rng.one_of(&[W32, W64]));
        let number = rng.one_of(&[R3, R4]);
        let work = mixture();
        let mut insns =
            vec![mov(R0, I(0)), mov(R3, I(0)), mov(R4, I(1)), mov(R5, I(7)), mov(R2, I(-(rng.below(20) as i32) - 1))];
        let entry = insns.len();
        insns.push(Insn::Exit);
        insns.extend(some(rng, 3, &work));
        let masks = rng.chance(2);
        insns.extend(masks.then(|| alu(AluOp::And, width, R3, I(1))));
        // Now and then something that is in the way.
        if rng.chance(6) {
            insns.push(rng.one_of(&[add(R2, I(0)), add(R0, R(R3)), alu(AluOp::And, W64, R3, I(3))]));
        }
        insns.extend(some(rng, 3, &work));
        let test = insns.len();
        insns.push(Insn::Exit);
        insns[entry] = jump(insns.len(), entry);
        insns.extend(some(rng, 6, &work));
        insns.push(add(R2, I(1)));
        let back = |insns: &[Insn]| entry as i32 - insns.len() as i32;
        // It leaves when the counter is zero: 1 if it is, or 0 if it is not.
        let op = if zero == 0 { CmpOp::Eq } else { CmpOp::Ne };
        insns.push(alu(AluOp::Mov, rng.one_of(&[W32, W64]), number, I(1 - zero)));
        insns.push(Insn::Branch { op, width: W64, lhs: R2, rhs: I(0), to: back(&insns) });
        insns.push(mov(number, I(zero)));
        insns.push(Insn::Jump { to: back(&insns), long: false });
        let to = (insns.len() - test - 1) as i32;
        // Where the test reads another number, the counter must leave.
        insns[test] = match number {
            R3 => Insn::Branch { op: CmpOp::Ne, width, lhs: R3, rhs: I(0), to },
            _ => Insn::Branch { op: CmpOp::Sge, width: W64, lhs: R2, rhs: I(0), to },
        };
        if rng.chance(4) {
            insns.push(add(R0, R(R3)));
        }
        fold(&mut insns, &[R2, R5]);
        insns.push(Insn::Exit);
        agrees(&insns, &format!("round {round}"));
        let size = |on| code(&insns, &Options { optimise: Some(on), ..host }).bytes.len();
        let once = Techniques { unroll: false, align: false, ..Techniques::ALL };
        shorter += u64::from(size(once) < size(Techniques { invert: false, ..once }));
    }
    println!("{shorter} loops became shorter");
    assert!(shorter > rounds(60), "{shorter} loops became shorter");
}

/// A test of what was computed just before it, where another way comes in between.
#[test]
fn tests_behind_joins_look_at_the_register() {
    for (number, op) in [AluOp::And, AluOp::Sub, AluOp::Rsh, AluOp::Xor].into_iter().enumerate() {
        for (width, compared) in [(W32, W32), (W32, W64), (W64, W32), (W64, W64)] {
            let mut insns = Vec::new();
            for (a, cmp) in EDGES.into_iter().flat_map(|a| [CmpOp::Eq, CmpOp::Ne, CmpOp::Sgt].map(|cmp| (a, cmp))) {
                insns.extend([word(R3, a), word(R4, a ^ 1), mov(R5, I(0))]);
                let skip = |to| Insn::Branch { op: CmpOp::Set, width: W64, lhs: R4, rhs: I(1), to };
                // Over the operation, over nothing, or not at all.
                insns.push(skip([1, 1, 0, 2][number]));
                insns.push(alu(op, width, R3, I(1)));
                insns.push(Insn::Branch { op: cmp, width: compared, lhs: R3, rhs: I(0), to: 1 });
                insns.push(mov(R5, R(R3)));
                fold(&mut insns, &[R3, R5]);
            }
            body_agrees(insns, &format!("{op:?} {width:?} {compared:?}"));
        }
    }
}

/// What the shapes are for: code without the jumps.
#[test]
fn shapes_are_found() {
    let Some(host) = Options::host() else { return };
    let size = |insns: &[Insn], on| code(insns, &Options { optimise: Some(on), ..host }).bytes.len();
    let branch = |op, rhs, to| Insn::Branch { op, width: W64, lhs: R2, rhs, to };
    let all = Techniques { unroll: false, align: false, ..Techniques::ALL };
    let number = [mov(R2, R(R1)), mov(R0, I(1)), branch(CmpOp::Gt, I(5), 1), mov(R0, I(0)), Insn::Exit];
    assert!(size(&number, all) < size(&number, Techniques { select: false, ..all }));
    let temporary = [
        [mov(R2, R(R1)), mov(R0, R(R1)), mov(R3, R(R1)), branch(CmpOp::Gt, I(5), 2)],
        [add(R3, I(87)), mov(R0, R(R3)), add(R0, I(1)), Insn::Exit],
    ];
    let temporary = temporary.concat();
    assert!(size(&temporary, all) < size(&temporary, Techniques { select: false, ..all }));
    let back = [mov(R2, I(9)), add(R2, I(-1)), branch(CmpOp::Eq, I(0), 1), jump(1, 3), mov(R0, I(0)), Insn::Exit];
    assert!(size(&back, all) < size(&back, Techniques { invert: false, ..all }));
    let load = Insn::Load { size: Size::W, signed: false, dst: R3, base: R1, off: 8 };
    let count =
        [load, add(R3, I(1)), Insn::Store { size: Size::W, base: R1, off: 8, src: R(R3) }, mov(R0, I(0)), Insn::Exit];
    assert!(cfg!(not(target_arch = "x86_64")) || size(&count, all) < size(&count, Techniques { fuse: false, ..all }));
}
