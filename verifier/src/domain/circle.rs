//! Circular intervals: one arc on the circle of `B`-bit numbers.
//!
//! ```text
//!        0
//!   max ╭─╮ 1          members: base, base + 1, … base + size   (mod 2^B)
//!      │   │
//!       ╰─╯            size = count − 1, so the full circle is size = 2^B − 1
//!   sign flips here
//! ```
//!
//! Unsigned and signed bounds are projections of the same arc: an arc that crosses 0 has the unsigned bounds 0 and max,
//! an arc that crosses the sign has the signed bounds min and max. An arc is never empty.

/// An arc of `B`-bit numbers, `B` from 1 to 64.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Circle<const B: u32> {
    base: u64,
    size: u64,
}

impl<const B: u32> Circle<B> {
    /// The largest unsigned number.
    pub const MAX: u64 = u64::MAX >> (64 - B);
    /// The sign bit, the smallest signed number.
    pub const SIGN: u64 = 1 << (B - 1);
    /// Every number.
    pub const FULL: Circle<B> = Circle { base: 0, size: Self::MAX };

    /// One number.
    pub const fn constant(x: u64) -> Circle<B> {
        Circle { base: x & Self::MAX, size: 0 }
    }

    /// From `first` upwards to `last`, around the circle if `last` is smaller.
    pub const fn arc(first: u64, last: u64) -> Circle<B> {
        Circle::of(first, last.wrapping_sub(first) & Self::MAX)
    }

    /// From `base`, `size + 1` numbers. All but one are an arc only where that moves a bound: elsewhere the hole decides
    /// little, and would leave no room for one at a bound.
    pub(super) const fn of(base: u64, size: u64) -> Circle<B> {
        let hole = base.wrapping_sub(1) & Self::MAX;
        let is_bound = hole == 0 || hole == Self::MAX || hole == Self::SIGN || hole == Self::SIGN - 1;
        if size < Self::MAX - 1 || size == Self::MAX - 1 && is_bound {
            return Circle { base: base & Self::MAX, size };
        }
        Self::FULL
    }

    /// First member.
    pub const fn first(self) -> u64 {
        self.base
    }

    /// Last member, `first` at the earliest.
    pub const fn last(self) -> u64 {
        self.base.wrapping_add(self.size) & Self::MAX
    }

    /// Number of members, minus one.
    pub const fn size(self) -> u64 {
        self.size
    }

    /// The one member, if there is only one.
    pub const fn as_constant(self) -> Option<u64> {
        if self.size == 0 { Some(self.base) } else { None }
    }

    /// Sign extension of a member to 64 bits.
    pub const fn signed(x: u64) -> i64 {
        ((x << (64 - B)) as i64) >> (64 - B)
    }

    /// Membership.
    pub const fn contains(self, x: u64) -> bool {
        (x.wrapping_sub(self.base) & Self::MAX) <= self.size
    }

    /// Whether every member of `other` is a member of `self`.
    pub const fn includes(self, other: Circle<B>) -> bool {
        let start = other.base.wrapping_sub(self.base) & Self::MAX;
        self.size == Self::MAX || start <= self.size && other.size <= self.size - start
    }

    /// Smallest member, unsigned.
    pub const fn umin(self) -> u64 {
        if self.last() < self.base { 0 } else { self.base }
    }

    /// Largest member, unsigned.
    pub const fn umax(self) -> u64 {
        if self.last() < self.base { Self::MAX } else { self.last() }
    }

    /// Smallest member, signed.
    pub const fn smin(self) -> i64 {
        if Self::signed(self.last()) < Self::signed(self.base) {
            Self::signed(Self::SIGN)
        } else {
            Self::signed(self.base)
        }
    }

    /// Largest member, signed.
    pub const fn smax(self) -> i64 {
        if Self::signed(self.last()) < Self::signed(self.base) {
            Self::signed(Self::SIGN - 1)
        } else {
            Self::signed(self.last())
        }
    }

    /// An arc that holds the members of both; `None` when there is none. Two arcs in common are over-approximated by
    /// the smaller operand, never by a third arc.
    pub const fn intersect(self, other: Circle<B>) -> Option<Circle<B>> {
        let (a, b) = if self.size <= other.size { (self, other) } else { (other, self) };
        if b.size == Self::MAX {
            return Some(a);
        }
        let (first_in, last_in) = (b.contains(a.base), b.contains(a.last()));
        match (first_in, last_in) {
            // Both ends inside: either all of `a`, or two pieces of it.
            (true, true) => Some(a),
            (true, false) => Some(Circle::arc(a.base, b.last())),
            (false, true) => Some(Circle::arc(b.base, a.last())),
            (false, false) => None,
        }
    }

    /// The smallest arc around both operands.
    pub const fn join(self, other: Circle<B>) -> Circle<B> {
        if self.includes(other) {
            return self;
        }
        if other.includes(self) {
            return other;
        }
        let up = Circle::of(self.base, other.last().wrapping_sub(self.base) & Self::MAX);
        let down = Circle::of(other.base, self.last().wrapping_sub(other.base) & Self::MAX);
        match (up.includes(self) && up.includes(other), down.includes(self) && down.includes(other)) {
            (true, true) => {
                if up.size <= down.size {
                    up
                } else {
                    down
                }
            }
            (true, false) => up,
            (false, true) => down,
            (false, false) => Self::FULL,
        }
    }

    /// `self` without `x`, where that is an arc; else `self`. `None` when nothing is left.
    pub const fn without(self, x: u64) -> Option<Circle<B>> {
        let x = x & Self::MAX;
        if self.size == 0 {
            return if self.base == x { None } else { Some(self) };
        }
        if self.size == Self::MAX {
            return Some(Circle::of(x.wrapping_add(1), Self::MAX - 1));
        }
        if x == self.base {
            return Some(Circle::of(self.base.wrapping_add(1), self.size - 1));
        }
        if x == self.last() { Some(Circle::of(self.base, self.size - 1)) } else { Some(self) }
    }

    /// Sum.
    pub const fn add(self, other: Circle<B>) -> Circle<B> {
        match self.size.checked_add(other.size) {
            Some(size) => Circle::of(self.base.wrapping_add(other.base), size),
            None => Self::FULL,
        }
    }

    /// Additive inverse.
    pub const fn neg(self) -> Circle<B> {
        Circle::of(self.last().wrapping_neg(), self.size)
    }

    /// Difference.
    pub const fn sub(self, other: Circle<B>) -> Circle<B> {
        self.add(other.neg())
    }

    /// Product: from unsigned bounds where they do not overflow, else from signed ones, whichever is smaller.
    pub fn times(self, other: Circle<B>) -> Circle<B> {
        let wide = |x: u64, y: u64| x as u128 * y as u128;
        let mut best = Self::FULL;
        if wide(self.umax(), other.umax()) <= Self::MAX as u128 {
            best = Circle::arc(self.umin() * other.umin(), self.umax() * other.umax());
        }
        let (a, b) = ([self.smin() as i128, self.smax() as i128], [other.smin() as i128, other.smax() as i128]);
        let products = a.iter().flat_map(|x| b.iter().map(move |y| x * y));
        let (low, high) = products.fold((i128::MAX, i128::MIN), |(l, h), p| (l.min(p), h.max(p)));
        let fits = low >= Self::signed(Self::SIGN) as i128 && high <= Self::signed(Self::SIGN - 1) as i128;
        if fits && (high - low) < best.size as i128 {
            best = Circle::arc(low as u64, high as u64);
        }
        best
    }

    /// Left shift by `by < B`: an arc of multiples, as long as it does not lap itself.
    pub const fn shl(self, by: u32) -> Circle<B> {
        if self.size > Self::MAX >> by { Self::FULL } else { Circle::of(self.base << by, self.size << by) }
    }

    /// Logical right shift by `by < B`.
    pub const fn shr(self, by: u32) -> Circle<B> {
        Circle::arc(self.umin() >> by, self.umax() >> by)
    }

    /// Arithmetic right shift by `by < B`.
    pub const fn sar(self, by: u32) -> Circle<B> {
        Circle::arc((self.smin() >> by) as u64, (self.smax() >> by) as u64)
    }

    /// Unsigned division; 0 where the divisor is 0.
    pub fn udiv(self, other: Circle<B>) -> Circle<B> {
        let low = if other.contains(0) { 0 } else { self.umin() / other.umax() };
        Circle::arc(low, self.umax() / other.umin().max(1))
    }

    /// Unsigned remainder; the dividend where the divisor is 0.
    pub fn umod(self, other: Circle<B>) -> Circle<B> {
        if other.umin() > self.umax() {
            return Circle::arc(self.umin(), self.umax());
        }
        let high = if other.contains(0) { self.umax() } else { self.umax().min(other.umax() - 1) };
        Circle::arc(0, high)
    }

    /// Signed division; 0 where the divisor is 0, `MIN / -1` is `MIN`.
    pub fn sdiv(self, other: Circle<B>) -> Circle<B> {
        let min = Self::signed(Self::SIGN);
        let Some(divisor) = other.as_constant().map(Self::signed) else { return Self::FULL };
        match divisor {
            0 => Circle::constant(0),
            -1 if self.smin() == min && self.size != 0 => Self::FULL,
            -1 => self.neg(),
            d => {
                let (a, b) = (self.smin() / d, self.smax() / d);
                Circle::arc(a.min(b) as u64, a.max(b) as u64)
            }
        }
    }

    /// Signed remainder; the dividend where the divisor is 0.
    pub fn smod(self, other: Circle<B>) -> Circle<B> {
        let Some(divisor) = other.as_constant().map(Self::signed) else { return Self::FULL };
        let limit = match divisor {
            0 => return self,
            d => (d.unsigned_abs() - 1) as i64,
        };
        let low = if self.smin() < 0 { self.smin().max(-limit) } else { 0 };
        let high = if self.smax() > 0 { self.smax().min(limit) } else { 0 };
        Circle::arc(low as u64, high as u64)
    }
}

impl Circle<64> {
    /// The arc of the low halves.
    pub const fn low(self) -> Circle<32> {
        Circle::<32>::of(self.base, self.size)
    }

    /// `self` with both ends moved inwards to numbers whose low half is in `low`; `None` when there is none.
    pub const fn trim_to_low(self, low: Circle<32>) -> Option<Circle<64>> {
        let ahead =
            if low.contains(self.base as u32 as u64) { 0 } else { (low.base as u32).wrapping_sub(self.base as u32) };
        let ahead = ahead as u64;
        if ahead > self.size {
            return None;
        }
        let (base, size) = (self.base.wrapping_add(ahead), self.size - ahead);
        let end = base.wrapping_add(size) as u32;
        let behind = if low.contains(end as u64) { 0 } else { end.wrapping_sub(low.last() as u32) as u64 };
        if behind > size { None } else { Some(Circle::of(base, size - behind)) }
    }

    /// Smallest and largest members whose low half is in `low`, counted from `zero`: an arc that goes over `zero` is two
    /// pieces. Where one of them has no such member, the other's.
    fn ends_from(self, zero: u64, low: Circle<32>) -> (u64, u64) {
        let (first, last) = (self.base.wrapping_sub(zero), self.last().wrapping_sub(zero));
        if first <= last {
            return (self.base, self.last());
        }
        let below = Circle::arc(zero, self.last()).trim_to_low(low);
        let above = Circle::arc(self.base, zero.wrapping_sub(1)).trim_to_low(low);
        (below.map_or(self.base, |arc| arc.base), above.map_or(self.last(), |arc| arc.last()))
    }

    /// Smallest and largest unsigned member whose low half is in `low`.
    pub fn unsigned_ends(self, low: Circle<32>) -> (u64, u64) {
        self.ends_from(0, low)
    }

    /// Smallest and largest signed member whose low half is in `low`.
    pub fn signed_ends(self, low: Circle<32>) -> (i64, i64) {
        let (min, max) = self.ends_from(Self::SIGN, low);
        (min as i64, max as i64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtbpf_isa::{AluOp, Width, eval};

    type C = Circle<4>;

    fn all() -> impl Iterator<Item = C> {
        (0..16).flat_map(|base| (0..16).map(move |size| C::of(base, size)))
    }

    fn members(c: C) -> impl Iterator<Item = u64> {
        (0..16).filter(move |&x| c.contains(x))
    }

    fn sound(name: &str, op: impl Fn(C, C) -> C, alu: AluOp, signed: bool) {
        let (mut size, mut best) = (0u64, 0u64);
        for a in all() {
            for b in all() {
                let result = op(a, b);
                let mut exact = [false; 16];
                for x in members(a) {
                    for y in members(b) {
                        let widen = |x| if signed { C::signed(x) as u64 } else { x };
                        let z = eval::alu(alu, Width::W64, widen(x), widen(y)) & 15;
                        exact[z as usize] = true;
                        assert!(result.contains(z), "{name} {a:?} {b:?}: {x} {y} -> {z} not in {result:?}");
                    }
                }
                size += result.size() + 1;
                best += exact.iter().filter(|&&hit| hit).count() as u64;
            }
        }
        println!("{name}: {:.2} times the exact set", size as f64 / best as f64);
    }

    #[test]
    fn operators_hold_every_result_at_4_bits() {
        sound("add", C::add, AluOp::Add, false);
        sound("sub", C::sub, AluOp::Sub, false);
        sound("mul", C::times, AluOp::Mul, false);
        sound("udiv", C::udiv, AluOp::Div, false);
        sound("umod", C::umod, AluOp::Mod, false);
        sound("sdiv", C::sdiv, AluOp::Sdiv, true);
        sound("smod", C::smod, AluOp::Smod, true);
    }

    #[test]
    fn shifts_hold_every_result_at_4_bits() {
        for a in all() {
            for x in members(a) {
                for by in 0..4 {
                    assert!(a.shl(by).contains(x << by), "{a:?} << {by}");
                    assert!(a.shr(by).contains(x >> by), "{a:?} >> {by}");
                    assert!(a.sar(by).contains((C::signed(x) >> by) as u64), "{a:?} s>> {by}");
                }
            }
        }
    }

    #[test]
    fn projections_are_exact() {
        for a in all() {
            assert_eq!(a.umin(), members(a).min().unwrap());
            assert_eq!(a.umax(), members(a).max().unwrap());
            assert_eq!(a.smin(), members(a).map(C::signed).min().unwrap());
            assert_eq!(a.smax(), members(a).map(C::signed).max().unwrap());
            assert!(members(a).all(|x| a.neg().contains(x.wrapping_neg())));
        }
    }

    #[test]
    fn sets_hold_what_they_must() {
        for a in all() {
            for b in all() {
                let both: Vec<u64> = members(a).filter(|&x| b.contains(x)).collect();
                match a.intersect(b) {
                    None => assert!(both.is_empty()),
                    Some(c) => assert!(both.iter().all(|&x| c.contains(x)) && c.size() <= a.size().min(b.size())),
                }
                assert_eq!(a.includes(b), members(b).all(|x| a.contains(x)));
                assert!(a.join(b).includes(a) && a.join(b).includes(b), "{a:?} {b:?}");
            }
            for x in 0..16 {
                let rest = a.without(x);
                assert!(members(a).filter(|&y| y != x).all(|y| rest.is_some_and(|r| r.contains(y))));
            }
        }
    }

    #[test]
    fn trimming_keeps_members_whose_low_half_fits() {
        let check = |wide: (u64, u64), low: (u64, u64), want: Option<(u64, u64)>| {
            let got = Circle::<64>::arc(wide.0, wide.1).trim_to_low(Circle::arc(low.0, low.1));
            assert_eq!(got, want.map(|(a, b)| Circle::arc(a, b)));
        };
        check((0, u64::MAX), (5, 9), Some((5, u64::MAX - u32::MAX as u64 + 9)));
        check((0, 100), (5, 9), Some((5, 9)));
        check((10, 100), (5, 9), None);
        check((0xffff_fff0, 0x1_0000_0010), (8, 9), Some((0x1_0000_0008, 0x1_0000_0009)));
    }
}
