//! The printf of BPF: `bpf_trace_printk`, `bpf_snprintf`, `bpf_seq_printf` share one language.
//!
//! ```text
//!  %[0 +-]*[width](c | s | d i u x X with l, ll | p pK px pB ps pS pks pus pi4 pI4 pi6 pI6)
//! ```
//!
//! A 32-bit conversion takes the low half of its argument. Strings and addresses are read through [`Memory`]; what
//! cannot be read prints empty, as on Linux. Plain `%p` prints a hash, never the address: output may leave the process.

use std::io::Write;

use rtbpf_abi::Errno;

/// How the text reads what its arguments point to.
pub trait Memory {
    /// Reads `out.len()` bytes at `addr`; `user` when the conversion names user memory.
    fn read(&self, addr: u64, user: bool, out: &mut [u8]) -> Result<(), Errno>;
}

/// The longest string a `%s` copies, its NUL included (Linux: `MAX_BPRINTF_BUF`).
const LONGEST_STRING: usize = 512;

#[derive(Clone, Copy, PartialEq, Debug, Default)]
struct Spec {
    zero: bool,
    plus: bool,
    minus: bool,
    space: bool,
    width: usize,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Kind {
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

enum Piece<'a> {
    Text(&'a [u8]),
    Arg(Spec, Kind),
}

/// The text of `fmt` (without its NUL) with `args`. EINVAL for a format Linux refuses: an unknown conversion, more
/// conversions than arguments, bytes that are neither printable ASCII nor white space.
pub fn format(fmt: &[u8], args: &[u64], memory: &dyn Memory) -> Result<Vec<u8>, Errno> {
    let pieces = parse(fmt)?;
    let mut args = args.iter();
    let mut out = Vec::new();
    for piece in pieces {
        match piece {
            Piece::Text(text) => out.extend_from_slice(text),
            Piece::Arg(spec, kind) => {
                let arg = *args.next().ok_or(Errno::EINVAL)?;
                let (digits, numeric) = render(spec, kind, arg, memory);
                pad(&mut out, spec, &digits, numeric);
            }
        }
    }
    Ok(out)
}

/// Checks `fmt` as Linux does, for a call with `args` arguments.
pub fn check(fmt: &[u8], args: usize) -> Result<(), Errno> {
    let conversions = parse(fmt)?.iter().filter(|piece| matches!(piece, Piece::Arg(..))).count();
    if conversions <= args { Ok(()) } else { Err(Errno::EINVAL) }
}

fn parse(fmt: &[u8]) -> Result<Vec<Piece<'_>>, Errno> {
    if !fmt.iter().all(|b| b.is_ascii_graphic() || b.is_ascii_whitespace() || *b == b' ' || *b == 0x0b) {
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

/// The argument's text, and whether zeros may pad it.
fn render(spec: Spec, kind: Kind, arg: u64, memory: &dyn Memory) -> (Vec<u8>, bool) {
    let mut out = Vec::new();
    // Writing to a vector cannot fail.
    let _ = match kind {
        Kind::Char => {
            out.push(arg as u8);
            return (out, false);
        }
        Kind::Str { user } => return (string(arg, user, memory), false),
        Kind::Signed { wide } => {
            let value = if wide { arg as i64 } else { arg as i32 as i64 };
            let sign = match value {
                i64::MIN..0 => "-",
                _ if spec.plus => "+",
                _ if spec.space => " ",
                _ => "",
            };
            write!(out, "{sign}{}", value.unsigned_abs())
        }
        Kind::Unsigned { wide } => write!(out, "{}", if wide { arg } else { arg as u32 as u64 }),
        Kind::Hex { wide, upper } => {
            let value = if wide { arg } else { arg as u32 as u64 };
            if upper { write!(out, "{value:X}") } else { write!(out, "{value:x}") }
        }
        Kind::Hashed => write!(out, "{:016x}", hash(arg)),
        Kind::Address => write!(out, "{arg:016x}"),
        Kind::Symbol => write!(out, "0x{arg:x}"),
        Kind::Ip { padded, v6 } => {
            let mut bytes = [0; 16];
            let (used, _) = bytes.split_at_mut(if v6 { 16 } else { 4 });
            let _ = memory.read(arg, false, used);
            ip(&mut out, used, padded)
        }
    };
    (out, true)
}

fn ip(out: &mut Vec<u8>, bytes: &[u8], padded: bool) -> std::io::Result<()> {
    let v6 = bytes.len() == 16;
    for (at, part) in bytes.chunks(if v6 { 2 } else { 1 }).enumerate() {
        match (part, padded, at) {
            ([a, b], true, _) => write!(out, "{a:02x}{b:02x}")?,
            ([a, b], false, 0) => write!(out, "{a:02x}{b:02x}")?,
            ([a, b], false, _) => write!(out, ":{a:02x}{b:02x}")?,
            ([a], true, 0) => write!(out, "{a:03}")?,
            ([a], true, _) => write!(out, ".{a:03}")?,
            ([a], false, 0) => write!(out, "{a}")?,
            ([a], false, _) => write!(out, ".{a}")?,
            _ => {}
        }
    }
    Ok(())
}

fn string(addr: u64, user: bool, memory: &dyn Memory) -> Vec<u8> {
    let mut out = Vec::new();
    let mut byte = [0];
    while out.len() < LONGEST_STRING - 1 {
        let at = addr.wrapping_add(out.len() as u64);
        match memory.read(at, user, &mut byte) {
            Ok(()) if byte != [0] => out.extend_from_slice(&byte),
            _ => break,
        }
    }
    out
}

/// 32 bits that tell addresses apart and do not give them back.
fn hash(addr: u64) -> u32 {
    let mixed = (addr ^ addr >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    (mixed ^ mixed >> 29).wrapping_mul(0xc4ce_b9fe_1a85_ec53) as u32
}

fn pad(out: &mut Vec<u8>, spec: Spec, text: &[u8], numeric: bool) {
    let fill = spec.width.saturating_sub(text.len());
    if spec.minus {
        out.extend_from_slice(text);
        out.extend(std::iter::repeat_n(b' ', fill));
    } else if spec.zero && numeric {
        let sign = text.iter().take_while(|b| matches!(b, b'-' | b'+' | b' ')).count();
        let (sign, digits) = text.split_at(sign);
        out.extend_from_slice(sign);
        out.extend(std::iter::repeat_n(b'0', fill));
        out.extend_from_slice(digits);
    } else {
        out.extend(std::iter::repeat_n(b' ', fill));
        out.extend_from_slice(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct At100(&'static [u8]);

    impl Memory for At100 {
        fn read(&self, addr: u64, _user: bool, out: &mut [u8]) -> Result<(), Errno> {
            let at = addr.checked_sub(100).ok_or(Errno::EFAULT)? as usize;
            let bytes = at.checked_add(out.len()).and_then(|end| self.0.get(at..end)).ok_or(Errno::EFAULT)?;
            out.copy_from_slice(bytes);
            Ok(())
        }
    }

    fn check_text(fmt: &str, args: &[u64], want: &str) {
        let text = format(fmt.as_bytes(), args, &At100(b"hi\0\x01\x02")).map(|t| String::from_utf8(t).unwrap());
        assert_eq!(text.as_deref(), Ok(want), "{fmt}");
    }

    #[test]
    fn numbers_follow_c() {
        check_text("%d %u %x %X %i", &[u64::MAX, u64::MAX, 0xabc, 0xabc, 7], "-1 4294967295 abc ABC 7");
        check_text("%ld %lld %llu %llx", &[u64::MAX, 5, u64::MAX, 1 << 40], "-1 5 18446744073709551615 10000000000");
        check_text("[%5d|%-5d|%05d|%+d|% d]", &[42, 42, -42i64 as u64, 42, 42], "[   42|42   |-0042|+42| 42]");
        check_text("100%% %c", &[b'x' as u64], "100% x");
    }

    #[test]
    fn strings_and_addresses_are_read() {
        check_text("%s|%6s|%-4s|", &[100, 100, 100], "hi|    hi|hi  |");
        check_text("%s.", &[5], ".");
        check_text("%pI4 %pi4", &[100, 100], "104.105.0.1 104.105.000.001");
        check_text("%px", &[0xabc], "0000000000000abc");
    }

    #[test]
    fn what_linux_refuses_is_einval() {
        for fmt in ["%", "%y", "%.3d", "%d %d", "%pz", "\u{e9}", "%#x", "%lls"] {
            assert_eq!(format(fmt.as_bytes(), &[1], &At100(b"")), Err(Errno::EINVAL), "{fmt}");
        }
        assert_eq!(check(b"%d", 0), Err(Errno::EINVAL));
        assert_eq!(check(b"%p, %p", 2), Ok(()));
    }

    #[test]
    fn plain_pointers_print_a_hash() {
        let text = format(b"%p", &[0x7fff_1234_5678], &At100(b"")).unwrap();
        assert!(!text.ends_with(b"12345678"));
        assert_eq!(text.len(), 16);
    }
}
