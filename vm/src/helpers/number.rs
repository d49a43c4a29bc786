//! `bpf_strtol` and `bpf_strtoul`: numbers out of bounded text.
//!
//! White space, then a minus sign, then digits of the base (0: by prefix `0x` or `0`); parsing stops at the first other
//! byte.

use rtbpf_abi::Errno;

/// A parsed number and how many bytes it took.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Parsed<T> {
    /// The value.
    pub value: T,
    /// Bytes from the start of the text to the end of the digits.
    pub taken: usize,
}

struct Magnitude {
    negative: bool,
    value: u64,
    taken: usize,
}

/// EINVAL: no digits, or bad base or flags; ERANGE: does not fit 64 bits.
fn magnitude(text: &[u8], flags: u64) -> Result<Magnitude, Errno> {
    let base = match flags {
        0 | 8 | 10 | 16 => flags,
        _ => return Err(Errno::EINVAL),
    };
    let text = text.get(..text.iter().position(|b| *b == 0).unwrap_or(text.len())).unwrap_or_default();
    // Linux counts the no-break space of Latin-1 as well.
    let mut at = text.iter().take_while(|b| matches!(b, b'\t'..=b'\r' | b' ' | 0xa0)).count();
    let negative = text.get(at) == Some(&b'-');
    at += negative as usize;
    let rest = text.get(at..).unwrap_or_default();
    let has_prefix = matches!(rest, [b'0', b'x' | b'X', ..]);
    let base = match base {
        0 if has_prefix && rest.get(2).is_some_and(u8::is_ascii_hexdigit) => 16,
        0 if rest.first() == Some(&b'0') => 8,
        0 => 10,
        given => given,
    };
    at += if base == 16 && has_prefix { 2 } else { 0 };
    let mut value = 0u64;
    let start = at;
    while let Some(digit) = text.get(at).and_then(|b| (*b as char).to_digit(base as u32)) {
        value = value.checked_mul(base).and_then(|v| v.checked_add(digit.into())).ok_or(Errno::ERANGE)?;
        at += 1;
    }
    if at == start {
        return Err(Errno::EINVAL);
    }
    Ok(Magnitude { negative, value, taken: at })
}

/// `bpf_strtol`, bpf-helpers(7).
pub fn strtol(text: &[u8], flags: u64) -> Result<Parsed<i64>, Errno> {
    let Magnitude { negative, value, taken } = magnitude(text, flags)?;
    let value = if negative { 0i64.checked_sub_unsigned(value) } else { i64::try_from(value).ok() };
    Ok(Parsed { value: value.ok_or(Errno::ERANGE)?, taken })
}

/// `bpf_strtoul`, bpf-helpers(7). A minus sign is EINVAL.
pub fn strtoul(text: &[u8], flags: u64) -> Result<Parsed<u64>, Errno> {
    match magnitude(text, flags)? {
        Magnitude { negative: true, .. } => Err(Errno::EINVAL),
        Magnitude { value, taken, .. } => Ok(Parsed { value, taken }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signed_numbers() {
        let check = |text: &str, flags, value, taken| {
            assert_eq!(strtol(text.as_bytes(), flags), Ok(Parsed { value, taken }), "{text}");
        };
        check(" -42x", 0, -42, 4);
        check("0x1F", 0, 31, 4);
        check("017", 0, 15, 3);
        check("17", 16, 23, 2);
        check("0x17", 16, 23, 4);
        check("0x", 0, 0, 1);
        check("-0x10", 8, 0, 2);
        check("-9223372036854775808", 10, i64::MIN, 20);
        assert_eq!(strtol(b"\t\n\x0b\x0c\r \xa05", 10), Ok(Parsed { value: 5, taken: 8 }));
        assert_eq!(strtol(b"\x855", 10), Err(Errno::EINVAL));
    }

    #[test]
    fn refusals() {
        assert_eq!(strtol(b"", 0), Err(Errno::EINVAL));
        assert_eq!(strtol(b"x", 10), Err(Errno::EINVAL));
        assert_eq!(strtol(b"+5", 10), Err(Errno::EINVAL));
        assert_eq!(strtol(b"0x", 16), Err(Errno::EINVAL));
        assert_eq!(strtol(b"1", 2), Err(Errno::EINVAL));
        assert_eq!(strtol(b"9223372036854775808", 10), Err(Errno::ERANGE));
        assert_eq!(strtoul(b"-1", 10), Err(Errno::EINVAL));
        assert_eq!(strtoul(b"18446744073709551616", 10), Err(Errno::ERANGE));
        assert_eq!(strtoul(b"18446744073709551615", 10), Ok(Parsed { value: u64::MAX, taken: 20 }));
    }
}
