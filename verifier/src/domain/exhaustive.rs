//! Every operator on every small number set, against what the operands' members give; and how much is lost.
//!
//! A set of 4-bit numbers is laid into 64 bits at the places where operators change their mind: as small signed numbers,
//! at the top of a byte, of a half word, of the low half, and of the whole.

use rtbpf_isa::{AluOp, Size, Swap, Width, eval};

use super::scalar::tests::Draw;
use super::{Circle, Precision, Scalar, Tnum};

/// A set, and all of its members.
struct Set {
    scalar: Scalar,
    members: Vec<u64>,
}

/// `x` of `bits` bits at bit `place`; at 0, with its sign.
fn laid(bits: u32, place: u32, x: u64) -> u64 {
    if place == 0 { ((x << (64 - bits)) as i64 >> (64 - bits)) as u64 } else { x << place }
}

/// The numbers from `first` on to `last`, around the circle of `bits` bits. `None` where it goes round and 64 bits do not
/// at this place.
fn arc(bits: u32, place: u32, first: u64, last: u64) -> Option<Set> {
    let max = u64::MAX >> (64 - bits);
    let count = (last.wrapping_sub(first) & max) + 1;
    let members: Vec<u64> = (0..count).map(|i| laid(bits, place, first.wrapping_add(i) & max)).collect();
    let (start, end) = (laid(bits, place, first), laid(bits, place, last));
    let multiples = Tnum::new(0, max << place);
    let scalar = match place {
        0 if start as i64 > end as i64 => return None,
        0 => Scalar::from_parts(Tnum::UNKNOWN, Circle::arc(start, end), Circle::FULL),
        _ if place + bits == 32 => Scalar::from_parts(multiples, Circle::FULL, Circle::arc(start, end)),
        _ if first > last && place + bits < 64 => return None,
        _ => Scalar::from_parts(multiples, Circle::arc(start, end), Circle::FULL),
    };
    Some(Set { scalar: scalar.expect("an arc has members"), members })
}

/// The numbers whose bits outside of `mask` are those of `value`.
fn known_bits(bits: u32, place: u32, value: u64, mask: u64) -> Set {
    let max = u64::MAX >> (64 - bits);
    let members: Vec<u64> = (0..=max).filter(|x| x & !mask == value).map(|x| laid(bits, place, x)).collect();
    let sign = if place == 0 { u64::MAX << bits } else { 0 };
    let spread = |x: u64| if x >> (bits - 1) & 1 != 0 { sign } else { 0 };
    let tnum = Tnum::new(value << place | spread(value), mask << place | spread(mask));
    let scalar = Scalar::from_parts(tnum, Circle::FULL, Circle::FULL).expect("its value is a member");
    Set { scalar, members }
}

/// Every arc and every pattern of known bits of `bits` bits.
fn all(bits: u32, place: u32) -> Vec<Set> {
    let max = u64::MAX >> (64 - bits);
    let arcs = (0..=max).flat_map(|first| (0..=max).map(move |last| (first, last)));
    let patterns = (0..=max).flat_map(|mask| (0..=max).map(move |value| (value, mask)));
    let patterns = patterns.filter(|(value, mask)| value & mask == 0);
    arcs.filter_map(|(first, last)| arc(bits, place, first, last))
        .chain(patterns.map(|(value, mask)| known_bits(bits, place, value, mask)))
        .collect()
}

/// How the sets that an operator gives compare with the best ones.
#[derive(Default)]
struct Score {
    results: u64,
    /// As small as an arc and known bits can be.
    best: u64,
    /// Bits of size above the smallest arc, and unknown bits that are known, in all.
    arc_bits: f64,
    known_bits: u64,
}

impl Score {
    fn count(&mut self, result: &Scalar, exact: &mut [u64]) {
        exact.sort_unstable();
        let (Some(&first), Some(&last)) = (exact.first(), exact.last()) else { return };
        // The smallest arc leaves out the widest gap.
        let around = first.wrapping_sub(last);
        let gap = exact.windows(2).map(|pair| pair[1] - pair[0]).chain([around]).max().unwrap_or(0);
        let size = if gap == 0 { 0 } else { 0u64.wrapping_sub(gap) };
        let differ = exact.iter().fold(0, |bits, x| bits | x ^ first);
        let lost = (result.wide().size() as f64 + 1.0).log2() - (size as f64 + 1.0).log2();
        let unknown = result.tnum().mask().count_ones() - (result.tnum().mask() & differ).count_ones();
        self.results += 1;
        self.best += u64::from(result.wide().size() == size && unknown == 0);
        self.arc_bits += lost.max(0.0);
        self.known_bits += u64::from(unknown);
    }

    fn print(&self, name: &str) {
        let of = |x: f64| x / self.results.max(1) as f64;
        println!(
            "{name:>12}: {:5.1} % best; {:.2} bits of arc and {:.2} known bits lost",
            100.0 * of(self.best as f64),
            of(self.arc_bits),
            of(self.known_bits as f64)
        );
    }
}

/// Checks `op` on all pairs; scores every `every`th.
fn check_pairs(op: AluOp, width: Width, left: &[Set], right: &[Set], every: usize, score: &mut Score) {
    let mut round = 0;
    let mut exact = Vec::new();
    for a in left {
        for b in right {
            let result = a.scalar.alu(op, width, &b.scalar, Precision::Full);
            exact.clear();
            for &x in &a.members {
                exact.extend(b.members.iter().map(|&y| eval::alu(op, width, x, y)));
            }
            if let Some(z) = exact.iter().find(|&&z| !result.contains(z)) {
                panic!("{op:?} {width:?}: {:?} and {:?} give {z:#x}, which {result:?} lacks", a.scalar, b.scalar);
            }
            round += 1;
            if round % every == 0 {
                score.count(&result, &mut exact);
            }
        }
    }
}

const WIDTHS: [Width; 2] = [Width::W64, Width::W32];

#[test]
fn every_operator_holds_every_result_of_small_signed_numbers() {
    let sets = all(4, 0);
    for op in AluOp::ALL {
        for width in WIDTHS {
            let mut score = Score::default();
            check_pairs(op, width, &sets, &sets, 37, &mut score);
            score.print(&format!("{op:?} {}", width.bits()));
        }
    }
}

#[test]
fn every_operator_holds_every_result_at_the_signs() {
    // 3 bits at each sign, with small numbers and with its like.
    let small = all(3, 0);
    for place in [5, 13, 29, 61] {
        let sets = all(3, place);
        for op in AluOp::ALL {
            for width in WIDTHS {
                let mut score = Score::default();
                check_pairs(op, width, &sets, &sets, 1 << 20, &mut score);
                check_pairs(op, width, &sets, &small, 1 << 20, &mut score);
                check_pairs(op, width, &small, &sets, 1 << 20, &mut score);
            }
        }
    }
}

#[test]
fn every_operator_holds_every_result_of_sampled_8_bit_numbers() {
    let mut draw = Draw(8);
    let sample = |draw: &mut Draw| {
        let place = [0, 0, 24, 56][(draw.next() >> 7) as usize % 4];
        let (a, b) = (draw.next() & 0xff, draw.next() >> 3 & 0xff);
        let of_arc = if draw.next() & 64 == 0 { arc(8, place, a, a.wrapping_add(b % 40) & 0xff) } else { None };
        of_arc.unwrap_or_else(|| known_bits(8, place, a & !(b & 0x3c), b & 0x3c))
    };
    for op in AluOp::ALL {
        for width in WIDTHS {
            let mut score = Score::default();
            for _ in 0..60 {
                let pair = (sample(&mut draw), sample(&mut draw));
                check_pairs(op, width, &[pair.0], &[pair.1], 1, &mut score);
            }
            score.print(&format!("{op:?} {} at 8", width.bits()));
        }
    }
}

#[test]
fn every_move_holds_every_result() {
    type Unary = (String, Box<dyn Fn(&Scalar) -> Scalar>, Box<dyn Fn(u64) -> u64>);
    let mut moves: Vec<Unary> = Vec::new();
    for width in WIDTHS {
        let name = format!("neg {}", width.bits());
        moves.push((name, Box::new(move |a| a.neg(width)), Box::new(move |x| eval::neg(width, x))));
        for size in [Size::B, Size::H, Size::W, Size::D] {
            let name = format!("sx{} {}", size.bits(), width.bits());
            let exact = move |x| eval::move_sx(width, size, x);
            moves.push((name, Box::new(move |a| a.move_sx(width, size)), Box::new(exact)));
        }
    }
    for size in [Size::B, Size::H, Size::W, Size::D] {
        let name = format!("zx{}", size.bits());
        moves.push((name, Box::new(move |a| a.zero_extend(size)), Box::new(move |x| eval::zero_extend(size, x))));
    }
    for (kind, size) in [Swap::ToLe, Swap::ToBe, Swap::Bswap]
        .into_iter()
        .flat_map(|kind| [Size::H, Size::W, Size::D].into_iter().map(move |size| (kind, size)))
    {
        let name = format!("{kind:?} {}", size.bits());
        moves.push((name, Box::new(move |a| a.swap(kind, size)), Box::new(move |x| eval::swap(kind, size, x))));
    }
    let sets: Vec<Set> = [0, 4, 12, 28, 60].into_iter().flat_map(|place| all(4, place)).collect();
    for (name, op, exact) in &moves {
        let mut score = Score::default();
        for set in &sets {
            let result = op(&set.scalar);
            let mut results: Vec<u64> = set.members.iter().map(|&x| exact(x)).collect();
            if let Some(z) = results.iter().find(|&&z| !result.contains(z)) {
                panic!("{name}: {:?} gives {z:#x}, which {result:?} lacks", set.scalar);
            }
            score.count(&result, &mut results);
        }
        score.print(name);
    }
}

#[test]
fn sets_hold_their_members() {
    for set in [0, 4, 12, 28, 60].into_iter().flat_map(|place| all(4, place)) {
        assert!(!set.members.is_empty() && set.members.iter().all(|&x| set.scalar.contains(x)), "{:?}", set.scalar);
    }
}
