//! The printf of BPF: `bpf_trace_printk`, `bpf_snprintf`, `bpf_seq_printf` share one language,
//! [`rtbpf_abi::format`].
//!
//! A 32-bit conversion takes the low half of its argument. Strings and addresses are read through [`Memory`]; what
//! cannot be read prints empty, as on Linux. Plain `%p` prints a hash, never the address: output may leave the process.

use std::io::Write;

use rtbpf_abi::Errno;
use rtbpf_abi::format::{Kind, LONGEST_STRING, Piece, Spec, parse};

/// How the text reads what its arguments point to.
pub trait Memory {
    /// Reads `out.len()` bytes at `addr`; `user` when the conversion names user memory.
    fn read(&self, addr: u64, user: bool, out: &mut [u8]) -> Result<(), Errno>;
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
        for fmt in ["%", "%y", "%.3d", "%d %d", "%pz", "\u{7f}", "%#x", "%lls"] {
            assert_eq!(format(fmt.as_bytes(), &[1], &At100(b"")), Err(Errno::EINVAL), "{fmt}");
        }
    }

    #[test]
    fn plain_pointers_print_a_hash() {
        let text = format(b"%p", &[0x7fff_1234_5678], &At100(b"")).unwrap();
        assert!(!text.ends_with(b"12345678"));
        assert_eq!(text.len(), 16);
    }
}
