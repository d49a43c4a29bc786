//! Tristate numbers: each bit is 0, 1 or unknown.
//!
//! A number `x` is a member when `x & !mask == value`; `value & mask == 0` always holds.

use std::fmt;

/// Known bits of a 64-bit number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Tnum {
    value: u64,
    mask: u64,
}

impl Tnum {
    /// Any number.
    pub const UNKNOWN: Tnum = Tnum { value: 0, mask: u64::MAX };

    /// One number.
    pub const fn constant(value: u64) -> Tnum {
        Tnum { value, mask: 0 }
    }

    /// The bits of `value` outside `mask`.
    pub const fn new(value: u64, mask: u64) -> Tnum {
        Tnum { value: value & !mask, mask }
    }

    /// The smallest tnum that holds every number in `low..=high`: their common prefix.
    pub const fn range(low: u64, high: u64) -> Tnum {
        let differ = low ^ high;
        if differ == 0 {
            return Tnum::constant(low);
        }
        Tnum::new(low, u64::MAX >> differ.leading_zeros())
    }

    /// Known ones.
    pub const fn value(self) -> u64 {
        self.value
    }

    /// Unknown bits.
    pub const fn mask(self) -> u64 {
        self.mask
    }

    /// The one member, if there is only one.
    pub const fn as_constant(self) -> Option<u64> {
        if self.mask == 0 { Some(self.value) } else { None }
    }

    /// Smallest member, unsigned.
    pub const fn min(self) -> u64 {
        self.value
    }

    /// Largest member, unsigned.
    pub const fn max(self) -> u64 {
        self.value | self.mask
    }

    /// Smallest member as a signed number of `bits`, which it must fit.
    pub const fn smin(self, bits: u32) -> i64 {
        let sign = self.mask & 1 << (bits - 1);
        signed(bits, self.value | sign)
    }

    /// Largest member as a signed number of `bits`, which it must fit.
    pub const fn smax(self, bits: u32) -> i64 {
        let sign = self.mask & 1 << (bits - 1);
        signed(bits, (self.value | self.mask) & !sign)
    }

    /// Membership.
    pub const fn contains(self, x: u64) -> bool {
        x & !self.mask == self.value
    }

    /// Whether every member of `other` is a member of `self`.
    pub const fn includes(self, other: Tnum) -> bool {
        other.mask & !self.mask == 0 && other.value & !self.mask == self.value
    }

    /// Members of both; `None` when there is none.
    pub const fn intersect(self, other: Tnum) -> Option<Tnum> {
        if (self.value ^ other.value) & !self.mask & !other.mask != 0 {
            return None;
        }
        Some(Tnum::new(self.value | other.value, self.mask & other.mask))
    }

    /// Sum: a bit is unknown where an operand's is, or where the carries of the extreme sums differ.
    pub const fn add(self, other: Tnum) -> Tnum {
        let low = self.value.wrapping_add(other.value);
        let high = low.wrapping_add(self.mask.wrapping_add(other.mask));
        Tnum::new(low, (low ^ high) | self.mask | other.mask)
    }

    /// Difference.
    pub const fn sub(self, other: Tnum) -> Tnum {
        let middle = self.value.wrapping_sub(other.value);
        let changed = middle.wrapping_add(self.mask) ^ middle.wrapping_sub(other.mask);
        Tnum::new(middle, changed | self.mask | other.mask)
    }

    /// Bitwise and.
    pub const fn and(self, other: Tnum) -> Tnum {
        let ones = self.value & other.value;
        Tnum::new(ones, self.max() & other.max() & !ones)
    }

    /// Bitwise or.
    pub const fn or(self, other: Tnum) -> Tnum {
        let ones = self.value | other.value;
        Tnum::new(ones, (self.mask | other.mask) & !ones)
    }

    /// Bitwise exclusive or.
    pub const fn xor(self, other: Tnum) -> Tnum {
        Tnum::new(self.value ^ other.value, self.mask | other.mask)
    }

    /// Product by long multiplication: known ones of `self` add the other's value, unknown bits may add all of it.
    pub fn times(self, other: Tnum) -> Tnum {
        let value = self.value.wrapping_mul(other.value);
        let mut doubt = Tnum::constant(0);
        let (mut a, mut b) = (self, other);
        // Once every bit from the lowest one of `b` on is in doubt, nothing that is added changes it.
        let span = |b: Tnum| b.max() | b.max().wrapping_neg();
        while a.max() != 0 && span(b) & !doubt.mask != 0 {
            let by = a.max().trailing_zeros();
            (a, b) = (a.shr(by), b.shl(by));
            let added = if a.value & 1 != 0 { b.mask } else { b.max() };
            doubt = doubt.add(Tnum::new(0, added));
            (a, b) = (a.shr(1), b.shl(1));
        }
        Tnum::constant(value).add(doubt)
    }

    /// Left shift by `by < 64`.
    pub const fn shl(self, by: u32) -> Tnum {
        Tnum { value: self.value << by, mask: self.mask << by }
    }

    /// Logical right shift by `by < 64`.
    pub const fn shr(self, by: u32) -> Tnum {
        Tnum { value: self.value >> by, mask: self.mask >> by }
    }

    /// Arithmetic right shift of the low `bits` by `by < bits`; the result has `bits` bits.
    pub const fn sar(self, bits: u32, by: u32) -> Tnum {
        let wide = self.sign_extend(bits);
        let (value, mask) = ((wide.value as i64 >> by) as u64, (wide.mask as i64 >> by) as u64);
        Tnum::new(value, mask).truncate(bits)
    }

    /// The low `bits`, zero-extended.
    pub const fn truncate(self, bits: u32) -> Tnum {
        let keep = u64::MAX >> (64 - bits);
        Tnum { value: self.value & keep, mask: self.mask & keep }
    }

    /// The low `bits`, sign-extended.
    pub const fn sign_extend(self, bits: u32) -> Tnum {
        let by = 64 - bits;
        let (value, mask) = (((self.value << by) as i64 >> by) as u64, ((self.mask << by) as i64 >> by) as u64);
        Tnum::new(value, mask)
    }

    /// The low `bits` of `low` under the high bits of `self`.
    pub const fn with_low(self, bits: u32, low: Tnum) -> Tnum {
        let keep = u64::MAX >> (64 - bits);
        Tnum { value: self.value & !keep | low.value & keep, mask: self.mask & !keep | low.mask & keep }
    }

    /// Whether every member is a multiple of `size`, a power of two.
    pub const fn is_aligned(self, size: u64) -> bool {
        (self.value | self.mask) & (size - 1) == 0
    }

    /// The smallest member that is at least `x`, unsigned.
    pub fn first_at_least(self, x: u64) -> Option<u64> {
        if x <= self.value {
            return Some(self.value);
        }
        if x > self.max() {
            return None;
        }
        let known = !self.mask;
        let wrong = (x ^ self.value) & known;
        let Some(first_wrong) = wrong.checked_ilog2() else { return Some(x) };
        if self.value >> first_wrong & 1 != 0 {
            return Some(self.at_least_from(x, first_wrong));
        }
        // A member is larger above the first known bit that `x` exceeds: at the last unknown one there that `x` has as 0.
        let larger = self.mask & !x & (u64::MAX << first_wrong);
        (larger != 0).then(|| self.at_least_from(x, larger.trailing_zeros()))
    }

    /// The smallest member that equals `x` above `bit` and has a one there.
    fn at_least_from(self, x: u64, bit: u32) -> u64 {
        let above = u64::MAX.checked_shl(bit + 1).unwrap_or(0);
        x & above | 1 << bit | self.value & !above
    }
}

impl fmt::Display for Tnum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({:#x}; {:#x})", self.value, self.mask)
    }
}

const fn signed(bits: u32, x: u64) -> i64 {
    (x << (64 - bits)) as i64 >> (64 - bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BITS: u32 = 4;
    const ALL: u64 = 15;

    fn all() -> impl Iterator<Item = Tnum> {
        (0..=ALL).flat_map(|mask| (0..=ALL).filter(move |v| v & mask == 0).map(move |v| Tnum::new(v, mask)))
    }

    fn members(t: Tnum) -> impl Iterator<Item = u64> {
        (0..=ALL).filter(move |&x| t.contains(x))
    }

    fn sound(name: &str, op: impl Fn(Tnum, Tnum) -> Tnum, exact: impl Fn(u64, u64) -> u64) {
        for a in all() {
            for b in all() {
                let result = op(a, b).truncate(BITS);
                for x in members(a) {
                    for y in members(b) {
                        assert!(result.contains(exact(x, y) & ALL), "{name} {a} {b}: {x} {y} not in {result}");
                    }
                }
            }
        }
    }

    #[test]
    fn operators_hold_every_result_at_4_bits() {
        sound("add", Tnum::add, |x, y| x.wrapping_add(y));
        sound("sub", Tnum::sub, |x, y| x.wrapping_sub(y));
        sound("mul", Tnum::times, |x, y| x.wrapping_mul(y));
        sound("and", Tnum::and, |x, y| x & y);
        sound("or", Tnum::or, |x, y| x | y);
        sound("xor", Tnum::xor, |x, y| x ^ y);
    }

    #[test]
    fn products_are_those_of_long_multiplication_to_its_end() {
        let to_the_end = |a: Tnum, b: Tnum| {
            let added = |bit: u32| match (a.value >> bit & 1, a.mask >> bit & 1) {
                (1, _) => b.mask << bit,
                (_, 1) => b.max() << bit,
                _ => 0,
            };
            let doubt = (0..64).fold(Tnum::constant(0), |doubt, bit| doubt.add(Tnum::new(0, added(bit))));
            Tnum::constant(a.value.wrapping_mul(b.value)).add(doubt)
        };
        for (a, b) in all().flat_map(|a| all().map(move |b| (a, b))) {
            for by in [0u64, 13, 29, 60] {
                let high = Tnum::new(b.value << by, b.mask << by | by & 1);
                assert_eq!(a.times(high), to_the_end(a, high), "{a} {high}");
                assert_eq!(high.times(a), to_the_end(high, a), "{high} {a}");
            }
            assert_eq!(a.times(Tnum::UNKNOWN), to_the_end(a, Tnum::UNKNOWN));
        }
    }

    #[test]
    fn intersection_is_exact() {
        for a in all() {
            for b in all() {
                let both: Vec<u64> = members(a).filter(|&x| b.contains(x)).collect();
                let got: Vec<u64> = a.intersect(b).into_iter().flat_map(members).collect();
                assert_eq!(got, both, "{a} {b}");
                assert_eq!(a.includes(b), members(b).all(|x| a.contains(x)), "{a} {b}");
            }
        }
    }

    #[test]
    fn first_at_least_is_exact() {
        for t in all() {
            for x in 0..=ALL {
                let first = members(t).find(|&m| m >= x);
                assert_eq!(t.first_at_least(x), first, "{t} from {x}");
                // In the highest bits, and over known ones.
                assert_eq!(t.shl(60).first_at_least(x << 60), first.map(|m| m << 60), "{t} from {x}");
                let (over, ones) = (Tnum::new(t.value << 8 | 0xa5, t.mask << 8), x << 8 | 0xa5);
                assert_eq!(over.first_at_least(ones), first.map(|m| m << 8 | 0xa5), "{t} from {x}");
                let above = members(t).find(|&m| m > x);
                assert_eq!(over.first_at_least(ones + 1), above.map(|m| m << 8 | 0xa5), "{t} above {x}");
            }
        }
    }

    #[test]
    fn shifts_and_extensions_hold_every_result() {
        let signed = |x: u64| ((x << 60) as i64 >> 60) as u64;
        for t in all() {
            for x in members(t) {
                assert!(t.sign_extend(BITS).contains(signed(x)));
                for by in 0..BITS {
                    assert!(t.sar(BITS, by).contains(((signed(x) as i64) >> by) as u64 & ALL));
                    assert!(t.shl(by).contains(x << by) && t.shr(by).contains(x >> by));
                }
            }
        }
    }
}
