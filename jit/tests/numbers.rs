//! The shapes in which compilers leave sums, products, quotients and bits, against the reference.

mod harness;

use harness::agree::*;
use harness::generate::Rng;
use harness::*;
use rtbpf_isa::Operand::{Imm as I, Reg as R};
use rtbpf_isa::Reg::*;
use rtbpf_isa::Width::*;
use rtbpf_isa::*;

#[test]
fn products_and_scaled_numbers_with_something_added_agree() {
    for factor in [3, 5, 6, 7, 9, 10, 12, 17, 24, 31, 33, 40, 65, 96, 127, 129, 0x6000_0000, i32::MAX] {
        let mut insns = Vec::new();
        for number in 0..32 {
            let (width, other) = ([W32, W64][number % 2], [W32, W64][number / 2 % 2]);
            insns.extend([word(R3, EDGES[number % 8]), word(R4, EDGES[(number * 3 + 1) % 8]), mov(R5, R(R3))]);
            insns.push(alu(AluOp::Mov, width, [R3, R5][number / 4 % 2], R([R4, R3][number / 8 % 2])));
            insns.push(if number % 5 == 0 {
                alu(AluOp::Lsh, width, R3, I(2))
            } else {
                alu(AluOp::Mul, width, R3, I(factor))
            });
            let (dst, src) = [(R3, R4), (R4, R3), (R3, R3), (R5, R3), (R3, R5)][number % 5];
            insns.push(alu(AluOp::Add, other, dst, R(src)));
            if number % 3 == 0 {
                insns.push(mov(src, I(1)));
            }
            fold(&mut insns, &[R3, R4, R5]);
        }
        body_agrees(insns, &format!("times {factor}"));
    }
}

/// Sums with the carry of their addition, which C programs compute by comparing the sum with what went into it.
#[test]
fn sums_with_their_carry_agree() {
    let words = [0, 1, u64::MAX, u64::MAX - 1, 1 << 63, (1 << 63) - 1, 0xffff_ffff, 0xdead_beef_0000_0003];
    for round in 0..rounds(600) {
        let rng = &mut Rng::new(0xca44 ^ round << 8);
        let mut insns = Vec::new();
        for _ in 0..6 {
            let [a, b, number, sum] = [R3, R4, R5, R7];
            insns.extend([word(a, rng.one_of(&words)), word(b, rng.one_of(&words)), word(R8, rng.one_of(&words))]);
            // The sum in a register of its own, or in the place of one side; of two registers, or twice one.
            let (into, from) = rng.one_of(&[(sum, a), (sum, a), (sum, b), (a, a), (b, b)]);
            insns.push(mov(sum, R(from)));
            insns.push(add(into, R(rng.one_of(&[a, b, b]))));
            insns.push(alu(AluOp::Mov, W32, number, I(1)));
            let part = rng.one_of(&[a, b, b, R8]);
            let (op, lhs, rhs) =
                rng.one_of(&[(CmpOp::Lt, into, part), (CmpOp::Gt, part, into), (CmpOp::Ge, into, part)]);
            let width = if rng.chance(8) { W32 } else { W64 };
            insns.push(Insn::Branch { op, width, lhs, rhs: R(rhs), to: 1 });
            insns.push(alu(AluOp::Mov, W32, number, I(0)));
            match rng.below(6) {
                0 => insns.push(add(rng.one_of(&[a, b, sum]), I(1))),
                1 => insns.push(alu(AluOp::And, W64, number, I(1))),
                2 => insns.push(Insn::Branch { op: CmpOp::Ne, width: W64, lhs: number, rhs: I(0), to: 0 }),
                _ => {}
            }
            let target = rng.one_of(&[into, into, into, a, b, R8]);
            let op = rng.one_of(&[AluOp::Add, AluOp::Add, AluOp::Add, AluOp::Sub, AluOp::Or]);
            insns.push(alu(op, if rng.chance(6) { W32 } else { W64 }, target, R(number)));
            if rng.chance(2) {
                insns.push(mov(number, I(3)));
            }
            fold(&mut insns, &[a, b, number, sum, R8]);
        }
        body_agrees(insns, &format!("round {round}"));
    }
}

/// The highest bits of a number, as an index of elements of two, four or eight bytes, and masks that are none of it.
#[test]
fn highest_bits_as_indexes_agree() {
    for round in 0..rounds(400) {
        let rng = &mut Rng::new(0x6b17 ^ round << 8);
        let mut insns = vec![mov(R6, R(R1))];
        for _ in 0..6 {
            let (width, zeros, ones) = (rng.one_of(&[W32, W64]), rng.below(5) as u32, rng.below(4) as u32 + 1);
            let by = width.bits() - zeros - ones - u32::from(rng.chance(4));
            let mask = ((1 << ones) - 1) << zeros;
            insns.extend([word(R3, rng.word()), mov(R4, R(R6))]);
            let from = rng.one_of(&[R3, R5]);
            insns.push(mov(from, R(R3)));
            insns.push(alu(AluOp::Rsh, width, from, I(by as i32)));
            insns.push(alu(AluOp::And, rng.one_of(&[W32, W64]), from, I(if rng.chance(5) { mask + 1 } else { mask })));
            if rng.chance(2) {
                insns.push(alu(AluOp::And, W64, from, I(24)));
            }
            if rng.chance(4) {
                insns.push(mov(R3, I(5)));
            }
            if mask < 32 {
                insns.push(alu(AluOp::And, W64, from, I(31)));
                insns.push(add(R4, R(from)));
                insns.push(Insn::Load { size: Size::B, signed: false, dst: R7, base: R4, off: 0 });
                insns.push(add(R0, R(R7)));
            }
            fold(&mut insns, &[R3, from]);
        }
        body_agrees(insns, &format!("round {round}"));
    }
}

/// Division by numbers that fit no immediate, in registers that hold them throughout, or not.
#[test]
fn divisions_by_constants_in_registers_agree() {
    let divisors = [3_600_000_000_000, 1 << 40, 0x3_ffff_fffb, 10, 0xffff_ffff, 0xffff_fffb, 1, 0, u64::MAX, 1 << 31];
    for round in 0..rounds(400) {
        let rng = &mut Rng::new(0xd1f1 ^ round << 8);
        let divisor = rng.one_of(&divisors);
        let mut insns = vec![word(R5, divisor), mov(R2, I(0))];
        let head = insns.len();
        let changes = rng.chance(4);
        for _ in 0..3 {
            insns.push(word(R3, rng.word()));
            if rng.chance(4) {
                insns.push(word(R4, rng.one_of(&divisors)));
            } else {
                insns.push(mov(R4, R(R5)));
            }
            let (op, width) =
                (rng.one_of(&[AluOp::Div, AluOp::Mod, AluOp::Sdiv, AluOp::Smod]), rng.one_of(&[W32, W64]));
            let (dst, src) = rng.one_of(&[(R3, R5), (R3, R5), (R3, R4), (R4, R4), (R4, R3), (R8, R5)]);
            insns.push(alu(op, width, dst, R(src)));
            fold(&mut insns, &[R3, R4, R5, R8]);
        }
        insns.extend(changes.then(|| add(R5, I(1))));
        insns.push(add(R2, I(1)));
        let to = head as i32 - insns.len() as i32 - 1;
        insns.push(Insn::Branch { op: CmpOp::Lt, width: W64, lhs: R2, rhs: I(3), to });
        body_agrees(insns, &format!("round {round}"));
    }
}

/// Low bytes, compared, stored and masked again.
#[test]
fn masks_of_whole_bytes_agree() {
    for round in 0..rounds(1500) {
        let rng = &mut Rng::new(0x3a5c ^ round << 8);
        let mut insns = vec![mov(R6, R(R1))];
        for _ in 0..6 {
            insns.extend([word(R3, rng.word()), mov(R4, I(0))]);
            let (from, width) = (rng.one_of(&[R3, R4]), rng.one_of(&[W32, W64]));
            insns.push(alu(AluOp::Mov, rng.one_of(&[W32, W64]), R5, R(R3)));
            insns.push(alu(AluOp::And, width, R5, I(rng.one_of(&[0xff, 0xff, 0xffff, 0x7f]))));
            if rng.chance(3) {
                insns.push(alu(AluOp::And, width, R5, I(rng.one_of(&[0xff, 0xffff, 1]))));
            }
            if rng.chance(3) {
                insns.push(add(R3, I(1)));
            }
            let rhs = rng.one_of(&[I(0), I(0x1a), I(0x80), I(0xff), I(0x100), I(-1), R(from)]);
            insns.push(Insn::Branch { op: rng.one_of(&CmpOp::ALL), width, lhs: R5, rhs, to: 2 });
            insns.extend([add(R4, I(77)), alu(AluOp::Xor, W64, R3, R(R4))]);
            insns.push(Insn::Store { size: rng.one_of(&[Size::B, Size::H, Size::W]), base: R6, off: 8, src: R(R5) });
            insns.push(Insn::Load { size: Size::W, signed: false, dst: R7, base: R6, off: 8 });
            fold(&mut insns, &[R3, R4, R5, R7]);
        }
        body_agrees(insns, &format!("round {round}"));
    }
}

/// A bit shifted in, by one position or by none, and a mask that is wider than a bit.
#[test]
fn bits_that_are_shifted_in_agree() {
    for (mask, shift) in [(1, 1), (1, 0), (1, 3), (3, 1), (1, 31), (-1, 1)] {
        let mut insns = Vec::new();
        for number in 0..64 {
            let width = |bit: usize| [W32, W64][number >> bit & 1];
            insns.extend([word(R3, EDGES[number % 8]), word(R4, EDGES[(number * 3 + 1) % 8])]);
            insns.extend([alu(AluOp::And, width(0), R4, I(mask)), alu(AluOp::Lsh, width(1), R3, I(shift))]);
            let (dst, src) = if number & 4 == 0 { (R3, R4) } else { (R4, R3) };
            insns.push(alu(AluOp::Or, width(3), dst, R(src)));
            insns.push(if number & 16 == 0 { mov(src, I(1)) } else { mov(R5, R(src)) });
            fold(&mut insns, &[R3, R4]);
        }
        body_agrees(insns, &format!("{mask} {shift}"));
    }
}

/// Loads, operations and stores back; the register, the base or the place may differ, or somebody reads the register.
#[test]
fn updates_of_memory_agree() {
    let sizes = [Size::B, Size::H, Size::W, Size::D];
    for (size, op) in sizes.into_iter().flat_map(|size| AluOp::ALL.map(|op| (size, op))) {
        let mut insns = vec![mov(R6, R(R1))];
        for number in 0..48 {
            let (width, way) = ([W32, W64][number % 2], number / 6);
            let src = [R(R4), I(1), I(-1), I(0x1234_5678), I(-77), I(200)][number % 6];
            insns.extend([word(R4, EDGES[number % 8]), mov(R3, I(9)), mov(R7, R(R6)), add(R7, R(R3))]);
            let (dst, base, off) = [(R3, R6, 16), (R3, R7, 8), (R7, R7, 24), (R3, R6, 3)][way % 4];
            let src = if way == 5 { R(dst) } else { src };
            insns.push(Insn::Load { size, signed: false, dst, base, off });
            insns.push(alu(op, width, dst, src));
            let (base, off) = if way == 6 {
                (R6, 40)
            } else if dst == base {
                (R6, 48)
            } else {
                (base, off)
            };
            insns.push(Insn::Store { size, base, off, src: R(dst) });
            insns.push(if number % 4 == 0 { add(R0, R(dst)) } else { mov(dst, I(1)) });
            insns.push(Insn::Load { size: Size::D, signed: false, dst: R5, base: R6, off: 16 });
            fold(&mut insns, &[R3, R5]);
        }
        body_agrees(insns, &format!("{size:?} {op:?}"));
    }
}

/// Bits put together with `or`, where they have none in common and where they have, and masks that clear something or not.
#[test]
fn bits_put_together_agree() {
    for round in 0..rounds(1000) {
        let rng = &mut Rng::new(0x0b17 ^ round << 8);
        let mut insns = vec![mov(R6, R(R1))];
        for _ in 0..5 {
            insns.extend([word(R3, rng.word()), word(R4, rng.word()), word(R5, rng.word())]);
            for _ in 0..rng.below(8) + 3 {
                let (dst, other) = (rng.one_of(&[R3, R4, R5]), rng.one_of(&[R3, R4, R5]));
                let (width, by) = (rng.one_of(&[W32, W64]), rng.below(12) as i32);
                insns.push(match rng.below(10) {
                    0 => Insn::Load { size: rng.one_of(&[Size::B, Size::H]), signed: false, dst, base: R6, off: 8 },
                    1 => alu(AluOp::And, width, dst, I(rng.one_of(&[1, 3, 7, 0xff, 0xffff, 0x3fc, -4, 0x7fff_ffff]))),
                    2 | 3 => alu(AluOp::Lsh, width, dst, I(by)),
                    4 => alu(AluOp::Rsh, width, dst, I(by * 5)),
                    5 => alu(AluOp::Or, width, dst, I(rng.one_of(&[1, 4, 0x400, 0x100, -1, -0x10000, 0x7000_0000]))),
                    6 => alu(AluOp::Mov, width, dst, R(other)),
                    7 => alu(AluOp::Add, width, dst, rng.one_of(&[R(other), I(8), I(-8)])),
                    _ => alu(AluOp::Or, width, dst, R(other)),
                });
            }
            if rng.chance(3) {
                insns.push(alu(AluOp::And, W64, R3, I(24)));
                insns.push(alu(AluOp::Or, rng.one_of(&[W32, W64]), R3, I(rng.one_of(&[4, 32, 8]))));
                insns.extend([add(R3, R(R6)), Insn::Load { size: Size::W, signed: false, dst: R3, base: R3, off: 0 }]);
            }
            fold(&mut insns, &[R3, R4, R5]);
        }
        body_agrees(insns, &format!("round {round}"));
    }
}

/// Quotients and remainders of every register in every register.
#[test]
fn divisions_by_constants_agree_in_every_register() {
    let registers = &Reg::ALL[..10];
    for (number, (dst, src)) in registers.iter().flat_map(|d| registers.iter().map(move |s| (*d, *s))).enumerate() {
        let sum = [R9, R8, R7].into_iter().find(|reg| ![dst, src].contains(reg)).expect("there are three");
        let mut insns: Vec<Insn> = registers.iter().map(|reg| mov(*reg, I(*reg as i32 + 1))).collect();
        for divisor in [7, 10, 641, 1_000_000_007, 28] {
            for (op, width) in [(AluOp::Div, W32), (AluOp::Mod, W32), (AluOp::Div, W64), (AluOp::Mod, W64)] {
                // Numbers with and without a bit above 31, of which that is known or not.
                insns.push(word(src, EDGES[(number + insns.len()) % 8].rotate_right(number as u32 / 7)));
                if insns.len().is_multiple_of(3) {
                    insns.push(alu(AluOp::Mov, W32, src, R(src)));
                }
                insns.extend([mov(dst, R(src)), alu(op, width, dst, I(divisor))]);
                for reg in [dst, src, R3] {
                    insns.extend([alu(AluOp::Mul, W64, sum, I(31)), add(sum, R(reg))]);
                }
            }
        }
        insns.extend([mov(R0, R(sum)), Insn::Exit]);
        agrees(&insns, &format!("{dst:?} and {src:?}"));
    }
}

/// Counts of shifts that were masked before, and are read again or not.
#[test]
fn masks_of_shift_counts_agree() {
    for op in [AluOp::Lsh, AluOp::Rsh, AluOp::Arsh] {
        let mut insns = Vec::new();
        for (number, mask) in [15, 31, 63, 127, 47, -1, 0, 1 << 20 | 63].into_iter().cycle().take(64).enumerate() {
            let [masked, shifted] = [1, 2].map(|bit| [W32, W64][number / 8 / bit % 2]);
            insns.extend([word(R3, EDGES[number % 7]), word(R4, EDGES[number * 5 % 8] ^ number as u64)]);
            insns.push(alu(AluOp::And, masked, R4, I(mask)));
            if number % 5 == 0 {
                insns.push(alu(AluOp::Xor, W64, R3, R(R5)));
            }
            insns.push(alu(op, shifted, R3, R(R4)));
            if number % 3 != 0 {
                insns.push(mov(R4, I(1)));
            }
            fold(&mut insns, &[R3, R4]);
        }
        insns.insert(0, word(R5, 0x0123_4567_89ab_cdef));
        body_agrees(insns, &format!("{op:?}"));
    }
}

/// Numbers of few bits, shifted, summed up and added to others, at both widths.
#[test]
fn sums_of_numbers_of_few_bits_agree() {
    for mask in [1, 0xff, 0x3fff_ffff, 0x1fff_ffff, 0x1000_0000, i32::MAX, -1, -256] {
        let mut insns = Vec::new();
        for number in 0..64 {
            let [first, shift, second, third] = [1, 2, 4, 8].map(|bit| [W32, W64][number / bit % 2]);
            insns.extend([word(R3, EDGES[number % 8]), word(R4, EDGES[(number * 3 + 1) % 8]), mov(R5, R(R4))]);
            insns.push(alu(AluOp::And, first, R3, I(mask)));
            insns.push(alu(AluOp::Lsh, shift, R3, I([0, 1, 2, 3, 4, 31][number % 6])));
            insns.push(alu(AluOp::And, third, R4, I([3, 0xff, -1][number % 3])));
            let (dst, src) = if number % 5 < 3 { (R4, R3) } else { (R3, R4) };
            insns.push(alu([AluOp::Add, AluOp::Or][number / 3 % 2], second, dst, R(src)));
            insns.push(alu([AluOp::Add, AluOp::Or, AluOp::Sub][number % 3], third, dst, I([0x400, -8, 1][number % 3])));
            insns.push(add(R5, R(dst)));
            if number % 7 < 4 {
                insns.push(mov(src, I(1)));
            }
            fold(&mut insns, &[R5, R3, R4]);
        }
        body_agrees(insns, &format!("mask {mask:#x}"));
    }
}

/// Two shifts, back and forth.
#[test]
fn shifts_to_both_sides_agree() {
    for (width, right) in [W32, W64].into_iter().flat_map(|width| [AluOp::Rsh, AluOp::Arsh].map(|op| (width, op))) {
        let mut insns = Vec::new();
        for (by, back) in (0..width.bits() as i32).flat_map(|by| [0, 1, 7, 8].map(|more| (by, by + more))) {
            for a in [EDGES[by as usize % 8], 0x0123_4567_89ab_cdef] {
                insns.extend([word(R3, a), alu(AluOp::Lsh, width, R3, I(by))]);
                insns.push(alu(right, width, R3, I(back.min(width.bits() as i32 - 1))));
                fold(&mut insns, &[R3]);
            }
        }
        body_agrees(insns, &format!("{width:?} {right:?}"));
    }
}
