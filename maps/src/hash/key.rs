//! Keys by width: what is known of a key when code is generated need not be asked of it in a lookup.

use crate::access::Cell;
use crate::jhash;

/// How a table hashes: as Linux does without a seed, or by one multiplication a word, which takes a third of the time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Secret(u64);

impl Secret {
    /// The way of a table with this seed.
    pub(crate) fn of(seed: u32) -> Secret {
        // Spread over all bits; 0 is Linux's way, and comes of no other seed.
        Secret(u64::from(seed).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// Both halves of a product, folded: each bit of the word bears on each bit of the low half.
    #[inline(always)]
    fn mix(self, word: u64) -> u64 {
        const ODD: u64 = 0xd6e8_feb8_6659_fd93;
        let product = u128::from(word ^ self.0) * u128::from(ODD);
        (product >> 64) as u64 ^ product as u64
    }
}

/// A key, as hash tables see it.
pub(crate) trait Key: Copy {
    /// Whether it is written and compared at once: a reader never sees half of one and half of another.
    const WHOLE: bool;

    /// Its hash as Linux has it.
    fn jhash(self, seed: u32) -> u32;

    /// Its hash with a secret.
    fn mixed(self, secret: Secret) -> u32;

    /// Whether `cell` begins with it at this moment.
    fn is_in(self, cell: Cell<'_>) -> bool;

    /// Writes it to the start of `cell`.
    fn put(self, cell: Cell<'_>);

    /// Its hash.
    #[inline(always)]
    fn hash(self, secret: Secret) -> u32 {
        if secret.0 == 0 { self.jhash(0) } else { self.mixed(secret) }
    }
}

impl Key for u32 {
    const WHOLE: bool = true;

    #[inline]
    fn jhash(self, seed: u32) -> u32 {
        jhash::of_u32(self, seed)
    }

    #[inline(always)]
    fn mixed(self, secret: Secret) -> u32 {
        u64::from(self).mixed(secret)
    }

    #[inline(always)]
    fn is_in(self, cell: Cell<'_>) -> bool {
        cell.load_u32(0) == self
    }

    #[inline(always)]
    fn put(self, cell: Cell<'_>) {
        cell.store_u32(0, self);
    }
}

impl Key for u64 {
    const WHOLE: bool = true;

    #[inline]
    fn jhash(self, seed: u32) -> u32 {
        jhash::of_u64(self, seed)
    }

    #[inline(always)]
    fn mixed(self, secret: Secret) -> u32 {
        secret.mix(self) as u32
    }

    #[inline(always)]
    fn is_in(self, cell: Cell<'_>) -> bool {
        cell.load_u64(0) == self
    }

    #[inline(always)]
    fn put(self, cell: Cell<'_>) {
        cell.store_u64(0, self);
    }
}

impl Key for &[u8] {
    const WHOLE: bool = false;

    #[inline]
    fn jhash(self, seed: u32) -> u32 {
        jhash::of_bytes(self, seed)
    }

    #[inline]
    fn mixed(self, secret: Secret) -> u32 {
        let (words, rest) = self.as_chunks();
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        let words = words.iter().chain(std::iter::once(&last)).map(|word| u64::from_ne_bytes(*word));
        words.fold(0, |hash: u64, word| secret.mix(hash.rotate_left(29) ^ word)) as u32
    }

    #[inline(always)]
    fn is_in(self, cell: Cell<'_>) -> bool {
        cell.starts_with(self)
    }

    #[inline(always)]
    fn put(self, cell: Cell<'_>) {
        cell.fill(self.into());
    }
}

/// Evaluates an expression with a key of bytes as a [`Key`]: a word where it is one.
macro_rules! by_width {
    ($bytes:expr, $key:ident => $result:expr) => {{
        let bytes: &[u8] = $bytes;
        if let Ok(word) = bytes.try_into().map(u32::from_ne_bytes) {
            let $key = word;
            $result
        } else if let Ok(word) = bytes.try_into().map(u64::from_ne_bytes) {
            let $key = word;
            $result
        } else {
            let $key = bytes;
            $result
        }
    }};
}

pub(crate) use by_width;

#[cfg(test)]
mod tests {
    use super::*;

    /// Keys of a kind fall into buckets about as chance has it: with as many as there are buckets, no bucket gets many and
    /// about 37 % get none.
    #[test]
    fn keys_that_look_alike_spread_over_all_buckets() {
        const BUCKETS: usize = 1024;
        type NthKey = fn(u64) -> u64;
        let kinds: [(&str, NthKey); 6] = [
            ("in a row", |at| at),
            ("by pages", |at| at << 12),
            ("by lines", |at| at << 6),
            ("in the upper half", |at| at << 32),
            ("in both halves", |at| at << 32 | at),
            ("at the top", |at| at << 54),
        ];
        for (name, key) in kinds {
            for seed in [1, 0x5eed, u32::MAX] {
                for long in [false, true] {
                    let mut count = [0; BUCKETS];
                    for at in 0..BUCKETS as u64 {
                        let key = key(at);
                        let bytes = [key.to_ne_bytes(), (!key).to_ne_bytes()].concat();
                        let secret = Secret::of(seed);
                        let hash = if long { bytes.as_slice().hash(secret) } else { key.hash(secret) };
                        count[hash as usize % BUCKETS] += 1;
                    }
                    let (empty, most) = (count.iter().filter(|n| **n == 0).count(), count.iter().max());
                    assert!(empty < BUCKETS / 2 && most.is_some_and(|most| *most < 12), "{name}: {empty} {most:?}");
                }
            }
        }
    }
}
