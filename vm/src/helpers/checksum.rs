//! The Internet checksum (RFC 1071), and how helpers patch it (RFC 1624).
//!
//! Sums are one's complement over 16-bit words in network order, held in host order: byte order cancels out as long as
//! the two are not mixed.

/// Folds a sum to 16 bits.
pub fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The sum of the 16-bit words of `bytes`, an odd last byte padded with zero.
pub fn sum(bytes: &[u8], seed: u32) -> u64 {
    let words = bytes.chunks(2).map(|pair| match *pair {
        [a, b] => u16::from_ne_bytes([a, b]),
        [a] => u16::from_ne_bytes([a, 0]),
        _ => 0,
    });
    words.fold(seed as u64, |sum, word| sum + word as u64)
}

/// `bpf_csum_diff`: the sum that turns a checksum over `from` into one over `to`, folded to 16 bits (Linux 6.13 and
/// later, on every architecture). Any sizes do.
pub fn diff(from: &[u8], to: &[u8], seed: u32) -> u64 {
    match (from.is_empty(), to.is_empty()) {
        (true, true) => fold(seed as u64) as u64,
        (true, false) => fold(sum(to, seed)) as u64,
        (false, true) => !fold(sum(from, !seed)) as u64,
        (false, false) => {
            let (to, from) = (fold32(sum(to, seed)), fold32(sum(from, 0)));
            fold(to as u64 + !from as u64) as u64
        }
    }
}

fn fold32(sum: u64) -> u32 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    ((sum & 0xffff_ffff) + (sum >> 32)) as u32
}

/// A checksum field after a 16-bit word of the data changed from `from` to `to`.
pub fn replace2(check: u16, from: u16, to: u16) -> u16 {
    !fold(!check as u64 + !from as u64 + to as u64)
}

/// A checksum field after a 32-bit word of the data changed.
pub fn replace4(check: u16, from: u32, to: u32) -> u16 {
    let halves = |word: u32| (word & 0xffff) as u64 + (word >> 16) as u64;
    !fold(!check as u64 + halves(!from) + halves(to))
}

/// A checksum field after the data's sum grew by `diff` (a result of [`diff`]).
pub fn replace_by_diff(check: u16, diff: u32) -> u16 {
    !fold(!check as u64 + diff as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checksum(bytes: &[u8]) -> u16 {
        !fold(sum(bytes, 0))
    }

    #[test]
    fn replacing_words_equals_summing_anew() {
        let mut data = *b"\x45\x00\x00\x3c\x1c\x46\x40\x00\x40\x06\x00\x00\xac\x10\x0a\x63\xac\x10\x0a\x0c";
        let before = checksum(&data);
        assert_eq!(before, u16::from_ne_bytes([0xb1, 0xe6]));
        let old: [u8; 4] = data[12..16].try_into().unwrap();
        let new = [10, 0, 0, 1];
        data[12..16].copy_from_slice(&new);
        let after = checksum(&data);
        assert_eq!(replace4(before, u32::from_ne_bytes(old), u32::from_ne_bytes(new)), after);
        assert_eq!(replace_by_diff(before, diff(&old, &new, 0) as u32), after);
        let old = u16::from_ne_bytes([data[8], data[9]]);
        data[8] = 63;
        assert_eq!(replace2(after, old, u16::from_ne_bytes([63, data[9]])), checksum(&data));
    }

    #[test]
    fn differences_are_folded() {
        assert_eq!(diff(&[1, 2, 3], &[], 0), 0xfdfb);
        assert_eq!(diff(&[1, 2, 3, 4], &[1, 2, 3, 4], 0), 0xffff);
        assert_eq!(diff(&[], &[], 0x12_3456), 0x3468, "Linux 6.18 folds the seed as well");
    }
}
