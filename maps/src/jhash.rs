//! Bob Jenkins' lookup3 hash, as Linux's maps seed it: walk order under `BPF_F_ZERO_SEED` depends on it.
//!
//! From the public-domain description of lookup3 (Jenkins, 2006), `hashlittle` over bytes.

use crate::hash::{Key, by_width};

const START: u32 = 0xdead_beef;

/// One of lookup3's six mixing steps: `x -= z; x ^= rot(z, turn); z += y`.
#[inline(always)]
fn step(x: u32, y: u32, z: u32, turn: u32) -> (u32, u32) {
    (x.wrapping_sub(z) ^ z.rotate_left(turn), z.wrapping_add(y))
}

#[inline(always)]
fn mix(mut a: u32, mut b: u32, mut c: u32) -> (u32, u32, u32) {
    (a, c) = step(a, b, c, 4);
    (b, a) = step(b, c, a, 6);
    (c, b) = step(c, a, b, 8);
    (a, c) = step(a, b, c, 16);
    (b, a) = step(b, c, a, 19);
    (c, b) = step(c, a, b, 4);
    (a, b, c)
}

#[inline(always)]
fn finish(mut a: u32, mut b: u32, mut c: u32) -> u32 {
    let step = |x: &mut u32, y: u32, turn: u32| *x = (*x ^ y).wrapping_sub(y.rotate_left(turn));
    step(&mut c, b, 14);
    step(&mut a, c, 11);
    step(&mut b, a, 25);
    step(&mut c, b, 16);
    step(&mut a, c, 4);
    step(&mut b, a, 14);
    step(&mut c, b, 24);
    c
}

#[inline(always)]
fn start(len: usize, seed: u32) -> u32 {
    START.wrapping_add(len as u32).wrapping_add(seed)
}

/// Hashes the 4 bytes of `key`, as they are in memory.
#[inline(always)]
pub(crate) fn of_u32(key: u32, seed: u32) -> u32 {
    let start = start(4, seed);
    finish(start.wrapping_add(u32::from_le(key)), start, start)
}

/// Hashes the 8 bytes of `key`, as they are in memory.
#[inline(always)]
pub(crate) fn of_u64(key: u64, seed: u32) -> u32 {
    let (start, key) = (start(8, seed), u64::from_le(key));
    finish(start.wrapping_add(key as u32), start.wrapping_add((key >> 32) as u32), start)
}

/// Hashes `key`.
#[inline]
pub(crate) fn jhash(key: &[u8], seed: u32) -> u32 {
    by_width!(key, key => key.jhash(seed))
}

/// Hashes a key of any length.
pub(crate) fn of_bytes(key: &[u8], seed: u32) -> u32 {
    let start = start(key.len(), seed);
    let (mut a, mut b, mut c) = (start, start, start);
    let word = |bytes: &[u8]| {
        let mut word = [0; 4];
        word[..bytes.len()].copy_from_slice(bytes);
        u32::from_le_bytes(word)
    };
    let mut rest = key;
    while rest.len() > 12 {
        a = a.wrapping_add(word(&rest[..4]));
        b = b.wrapping_add(word(&rest[4..8]));
        c = c.wrapping_add(word(&rest[8..12]));
        (a, b, c) = mix(a, b, c);
        rest = &rest[12..];
    }
    if rest.is_empty() {
        return c;
    }
    let part = |from: usize| word(&rest[from.min(rest.len())..(from + 4).min(rest.len())]);
    finish(a.wrapping_add(part(0)), b.wrapping_add(part(4)), c.wrapping_add(part(8)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_examples_of_lookup3_hold() {
        // lookup3.c, driver5: hashlittle("", 0), hashlittle("Four score and seven years ago", 0 and 1).
        assert_eq!(jhash(b"", 0), 0xdead_beef);
        assert_eq!(jhash(b"Four score and seven years ago", 0), 0x1777_0551);
        assert_eq!(jhash(b"Four score and seven years ago", 1), 0xcd62_8161);
    }

    #[test]
    fn short_keys_hash_as_the_loop_hashes_them() {
        // Up to 12 bytes there is no mixing: the words, padded with zeroes, and one finish.
        let by_definition = |key: &[u8], seed: u32| {
            let start = START.wrapping_add(key.len() as u32).wrapping_add(seed);
            let mut padded = [0u8; 12];
            padded[..key.len()].copy_from_slice(key);
            let word = |at: usize| u32::from_le_bytes([padded[at], padded[at + 1], padded[at + 2], padded[at + 3]]);
            finish(start.wrapping_add(word(0)), start.wrapping_add(word(4)), start.wrapping_add(word(8)))
        };
        for len in 1..=12 {
            let key: Vec<u8> = (0..len).map(|i: u8| i.wrapping_mul(37).wrapping_add(5)).collect();
            assert_eq!(jhash(&key, 9), by_definition(&key, 9), "{len} bytes");
        }
    }
}
