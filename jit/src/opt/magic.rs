//! Division by a constant, as a multiplication (Granlund and Montgomery, PLDI 1994).

use rtbpf_isa::Width;

/// `n / divisor = mul_high(n >> before, multiplier) >> shift`, with one more step when `adds`:
/// `t = mul_high(n, multiplier); (t + ((n - t) >> 1)) >> shift`. Where the product fits 64 bits (`low`), it is
/// `n * multiplier >> shift`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Magic {
    /// The first shift: the zeros at the end of a divisor whose multiplier would otherwise not fit.
    pub before: u8,
    /// The multiplier.
    pub multiplier: u64,
    /// The last shift.
    pub shift: u8,
    /// The multiplier has a 65th bit.
    pub adds: bool,
    /// The product has no high half: a 32-bit dividend and a 32-bit multiplier.
    pub low: bool,
}

impl Magic {
    /// For a divisor that is neither 0 nor a power of two.
    pub fn new(width: Width, divisor: u64) -> Option<Magic> {
        if divisor == 0 || divisor.is_power_of_two() {
            return None;
        }
        let d = divisor as u128;
        let exact_at_32 = |shift: &u8| {
            let power = 1u128 << shift;
            let multiplier = power.div_ceil(d);
            multiplier <= u32::MAX as u128 && multiplier * d - power <= power >> 32
        };
        if width == Width::W32 {
            if let Some(shift) = (32..64).find(exact_at_32) {
                let multiplier = u64::try_from((1u128 << shift).div_ceil(d)).ok()?;
                return Some(Magic { before: 0, multiplier, shift, adds: false, low: true });
            }
            // The error of a 64-bit multiplier is below the divisor, and times a 32-bit dividend below 2^64.
            let multiplier = u64::try_from((1u128 << 64).div_ceil(d)).ok()?;
            return Some(Magic { before: 0, multiplier, shift: 0, adds: false, low: false });
        }
        let zeros = divisor.trailing_zeros();
        if let Some(magic) = Magic::exact(divisor, 0).or_else(|| Magic::exact(divisor >> zeros, zeros)) {
            return Some(magic);
        }
        let log = 64 - (divisor - 1).leading_zeros();
        let multiplier = (((1u128 << log) - d) << 64) / d + 1;
        let multiplier = u64::try_from(multiplier).ok()?;
        Some(Magic { before: 0, multiplier, shift: log as u8 - 1, adds: true, low: false })
    }

    /// A multiplier of 64 bits for dividends of `64 - before` bits.
    fn exact(divisor: u64, before: u32) -> Option<Magic> {
        let d = divisor as u128;
        let log = 64 - (divisor - 1).leading_zeros();
        (0..log).find_map(|shift| {
            // 2^(64 + shift) / d, rounded up, without a 129th bit.
            let (high, low) = ((1u128 << 64) / d, (1u128 << 64) % d);
            let quotient = (high << shift) + ((low << shift) / d);
            let rest = (low << shift) % d;
            let (multiplier, error) = if rest == 0 { (quotient, 0) } else { (quotient + 1, d - rest) };
            let multiplier = u64::try_from(multiplier).ok()?;
            // The error grows with the dividend, and must stay below the divisor.
            let fits = error <= 1 << (shift + before);
            fits.then_some(Magic { before: before as u8, multiplier, shift: shift as u8, adds: false, low: false })
        })
    }

    /// What the emitted code computes.
    #[cfg(test)]
    fn apply(self, n: u64) -> u64 {
        if self.low {
            return n.checked_mul(self.multiplier).expect("the product fits") >> self.shift;
        }
        let t = (((n >> self.before) as u128 * self.multiplier as u128) >> 64) as u64;
        if self.adds { (t + ((n - t) >> 1)) >> self.shift } else { t >> self.shift }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotients_are_exact_at_edges_and_around_multiples() {
        let mut divisors: Vec<u64> = (1..2000).collect();
        divisors.extend((1..=63).flat_map(|bit| [(1u64 << bit) - 1, (1 << bit) + 1, (1 << bit) + (1 << (bit / 2))]));
        divisors.extend([u64::MAX, u64::MAX - 1, 0xffff_ffff, 0x7fff_ffff, 10_000_000_007, 6_700_417]);
        for divisor in divisors {
            for width in [Width::W32, Width::W64] {
                let most = if width == Width::W32 { u32::MAX as u64 } else { u64::MAX };
                let Some(magic) = Magic::new(width, divisor).filter(|_| divisor <= most) else { continue };
                let edges = [0, 1, divisor - 1, divisor, most, most / 2, most - most % divisor];
                for n in edges.into_iter().flat_map(|n| [n.wrapping_sub(1) & most, n, n.wrapping_add(1) & most]) {
                    assert_eq!(magic.apply(n), n / divisor, "{n} / {divisor}, {width:?}, {magic:?}");
                }
            }
        }
    }
}
