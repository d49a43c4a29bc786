//! The format strings of BPF: what `bpf_trace_printk`, `bpf_snprintf` and `bpf_seq_printf` take.
//!
//! ```text
//!  %[0 +-]*[width](c | s | d i u x X with l, ll | p pK px pB ps pS pks pus pi4 pI4 pi6 pI6)
//! ```
//!
//! The verifier looks at the format of `bpf_snprintf`; the others are looked at when they run.

use crate::errno::Errno;

/// The longest string a `%s` copies, its NUL included (Linux: `MAX_BPRINTF_BUF`).
pub const LONGEST_STRING: usize = 512;

/// Flags and width of a conversion.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
#[allow(missing_docs)]
pub struct Spec {
    pub zero: bool,
    pub plus: bool,
    pub minus: bool,
    pub space: bool,
    pub width: usize,
}

/// A conversion.
#[derive(Clone, Copy, PartialEq, Debug)]
#[allow(missing_docs)]
pub enum Kind {
    Char,
    Str {
        user: bool,
    },
    Signed {
        wide: bool,
    },
    Unsigned {
        wide: bool,
    },
    Hex {
        wide: bool,
        upper: bool,
    },
    /// `%p`, `%pK`.
    Hashed,
    /// `%px`.
    Address,
    /// `%pB`, `%ps`, `%pS`.
    Symbol,
    /// `%pi4`, `%pI4`, `%pi6`, `%pI6`: padded or usual, 4 or 16 bytes.
    Ip {
        padded: bool,
        v6: bool,
    },
}

/// A part of a format.
#[derive(Debug)]
#[allow(missing_docs)]
pub enum Piece<'a> {
    Text(&'a [u8]),
    Arg(Spec, Kind),
}

/// Checks `fmt` as Linux does, for a call with `args` arguments.
pub fn check(fmt: &[u8], args: usize) -> Result<(), Errno> {
    let conversions = parse(fmt)?.iter().filter(|piece| matches!(piece, Piece::Arg(..))).count();
    if conversions <= args { Ok(()) } else { Err(Errno::EINVAL) }
}

/// The pieces of `fmt` (without its NUL). EINVAL for an unknown conversion, and for ASCII that is neither printable nor
/// white space.
pub fn parse(fmt: &[u8]) -> Result<Vec<Piece<'_>>, Errno> {
    if !fmt.iter().all(|b| !b.is_ascii() || b.is_ascii_graphic() || b.is_ascii_whitespace() || *b == 0x0b) {
        return Err(Errno::EINVAL);
    }
    let mut pieces = Vec::new();
    let mut rest = fmt;
    while let Some(at) = rest.iter().position(|b| *b == b'%') {
        let (text, after) = rest.split_at(at);
        pieces.push(Piece::Text(text));
        let after = after.get(1..).unwrap_or_default();
        if let Some(tail) = after.strip_prefix(b"%") {
            pieces.push(Piece::Text(b"%"));
            rest = tail;
            continue;
        }
        let (spec, after) = flags(after);
        let (kind, tail) = conversion(after).ok_or(Errno::EINVAL)?;
        pieces.push(Piece::Arg(spec, kind));
        rest = tail;
    }
    pieces.push(Piece::Text(rest));
    Ok(pieces)
}

fn flags(mut rest: &[u8]) -> (Spec, &[u8]) {
    let mut spec = Spec::default();
    while let [flag, tail @ ..] = rest {
        match flag {
            b'0' => spec.zero = true,
            b'+' => spec.plus = true,
            b'-' => spec.minus = true,
            b' ' => spec.space = true,
            _ => break,
        }
        rest = tail;
    }
    while let [digit @ b'0'..=b'9', tail @ ..] = rest {
        spec.width = spec.width.saturating_mul(10).saturating_add((digit - b'0') as usize).min(LONGEST_STRING);
        rest = tail;
    }
    (spec, rest)
}

/// The longest spelling first.
#[rustfmt::skip]
const CONVERSIONS: &[(&[u8], Kind)] = &[
    (b"pks", Kind::Str { user: false }),
    (b"pus", Kind::Str { user: true }),
    (b"pi4", Kind::Ip { padded: true,  v6: false }),
    (b"pI4", Kind::Ip { padded: false, v6: false }),
    (b"pi6", Kind::Ip { padded: true,  v6: true }),
    (b"pI6", Kind::Ip { padded: false, v6: true }),
    (b"pK",  Kind::Hashed),
    (b"px",  Kind::Address),
    (b"pB",  Kind::Symbol),
    (b"pS",  Kind::Symbol),
    (b"ps",  Kind::Symbol),
    (b"p",   Kind::Hashed),
    (b"s",   Kind::Str { user: false }),
    (b"c",   Kind::Char),
    (b"lld", Kind::Signed { wide: true }),
    (b"lli", Kind::Signed { wide: true }),
    (b"llu", Kind::Unsigned { wide: true }),
    (b"llx", Kind::Hex { wide: true, upper: false }),
    (b"llX", Kind::Hex { wide: true, upper: true }),
    (b"ld",  Kind::Signed { wide: true }),
    (b"li",  Kind::Signed { wide: true }),
    (b"lu",  Kind::Unsigned { wide: true }),
    (b"lx",  Kind::Hex { wide: true, upper: false }),
    (b"lX",  Kind::Hex { wide: true, upper: true }),
    (b"d",   Kind::Signed { wide: false }),
    (b"i",   Kind::Signed { wide: false }),
    (b"u",   Kind::Unsigned { wide: false }),
    (b"x",   Kind::Hex { wide: false, upper: false }),
    (b"X",   Kind::Hex { wide: false, upper: true }),
];

fn conversion(rest: &[u8]) -> Option<(Kind, &[u8])> {
    let (kind, tail) = CONVERSIONS.iter().find_map(|(name, kind)| Some((*kind, rest.strip_prefix(*name)?)))?;
    // After a bare pointer only white space, punctuation or the end may follow: `%pz` is unknown.
    let bare_pointer = kind == Kind::Hashed && rest.first() == Some(&b'p');
    let ends = tail.first().is_none_or(|b| b.is_ascii_whitespace() || b.is_ascii_punctuation());
    (!bare_pointer || ends).then_some((kind, tail))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(fmt: &[u8], args: usize) {
        assert_eq!(check(fmt, args), Err(Errno::EINVAL), "{}", fmt.escape_ascii());
    }

    #[test]
    fn formats_are_those_of_linux() {
        let fine: [&[u8]; 12] =
            [b"", b"%d", b"%pi4", b"%pks", b"%lli", b"% d", b"%-8s", b"%5c", b"%p ", b"%%", b"\xe9%d", b"\t\n\x0b"];
        for fmt in fine {
            assert_eq!(check(fmt, 1), Ok(()), "{}", fmt.escape_ascii());
        }
        let wrong: [&[u8]; 14] = [
            b"%o", b"%p4", b"%pM", b"%hd", b"%llld", b"%ls", b"%zd", b"%#x", b"%.3s", b"%*d", b"%5%", b"%", b"\x7f",
            b"\x1b",
        ];
        for fmt in wrong {
            refused(fmt, 1);
        }
        refused(b"%d %d", 1);
        assert_eq!(check(b"%p, %p", 2), Ok(()));
    }
}
