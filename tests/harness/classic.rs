//! A classic BPF machine as simple as the manual's table, and filters for it.

use rtbpf_isa::classic::ClassicInsn;

use crate::rng::Rng;

/// Where `struct __sk_buff` keeps its length, and `struct seccomp_data` nothing.
const SKB_LEN: usize = 0;

/// What a filter returns for `packet`, in a context of these bytes; `None` when it runs off its end or holds an opcode
/// that is not known here.
pub fn run(filter: &[ClassicInsn], context: &[u8], packet: Option<&[u8]>) -> Option<u32> {
    let (mut a, mut x, mut scratch) = (0u32, 0u32, [0u32; 16]);
    let word = |off: usize| Some(u32::from_le_bytes(context.get(off..off + 4)?.try_into().ok()?));
    let fetch = |off: u32, size: usize| -> Option<u32> {
        let bytes = packet?.get(off as usize..(off as usize).checked_add(size)?)?;
        Some(bytes.iter().fold(0, |value, &byte| value << 8 | byte as u32))
    };
    let mut at = 0;
    loop {
        let i = *filter.get(at)?;
        at += 1;
        let operand = if i.code & 8 != 0 { x } else { i.k };
        // A packet load that fails ends the filter with 0.
        macro_rules! packet_or_return_0 {
            ($off:expr, $size:expr) => {
                match fetch($off, $size) {
                    Some(value) => value,
                    None => return Some(0),
                }
            };
        }
        match i.code {
            0x20 if packet.is_none() => a = word(i.k as usize)?,
            0x20 | 0x28 | 0x30 if i.k >= 0xffff_f000 => match i.k - 0xffff_f000 {
                0 => a = (word(16)? as u16).swap_bytes() as u32,
                4 => a = word(4)?,
                8 => a = word(40)?,
                20 => a = word(8)?,
                24 => a = word(12)?,
                32 => a = word(68)?,
                40 => a ^= x,
                44 => a = word(24)?,
                48 => a = word(20)?,
                60 => a = (word(28)? as u16).swap_bytes() as u32,
                _ => return None,
            },
            0x20 => a = packet_or_return_0!(i.k, 4),
            0x28 => a = packet_or_return_0!(i.k, 2),
            0x30 => a = packet_or_return_0!(i.k, 1),
            0x40 => a = packet_or_return_0!(x.wrapping_add(i.k), 4),
            0x48 => a = packet_or_return_0!(x.wrapping_add(i.k), 2),
            0x50 => a = packet_or_return_0!(x.wrapping_add(i.k), 1),
            0xb1 => x = (packet_or_return_0!(i.k, 1) & 15) * 4,
            0x80 => a = if packet.is_some() { word(SKB_LEN)? } else { 64 },
            0x81 => x = if packet.is_some() { word(SKB_LEN)? } else { 64 },
            0x00 => a = i.k,
            0x01 => x = i.k,
            0x60 => a = *scratch.get(i.k as usize)?,
            0x61 => x = *scratch.get(i.k as usize)?,
            0x02 => *scratch.get_mut(i.k as usize)? = a,
            0x03 => *scratch.get_mut(i.k as usize)? = x,
            0x04 | 0x0c => a = a.wrapping_add(operand),
            0x14 | 0x1c => a = a.wrapping_sub(operand),
            0x24 | 0x2c => a = a.wrapping_mul(operand),
            0x34 | 0x3c | 0x94 | 0x9c if operand == 0 => return Some(0),
            0x34 | 0x3c => a /= operand,
            0x94 | 0x9c => a %= operand,
            0x44 | 0x4c => a |= operand,
            0x54 | 0x5c => a &= operand,
            0xa4 | 0xac => a ^= operand,
            0x64 | 0x6c => a <<= operand % 32,
            0x74 | 0x7c => a >>= operand % 32,
            0x84 => a = a.wrapping_neg(),
            0x05 => at += i.k as usize,
            0x15 | 0x1d => at += if a == operand { i.jt } else { i.jf } as usize,
            0x25 | 0x2d => at += if a > operand { i.jt } else { i.jf } as usize,
            0x35 | 0x3d => at += if a >= operand { i.jt } else { i.jf } as usize,
            0x45 | 0x4d => at += if a & operand != 0 { i.jt } else { i.jf } as usize,
            0x06 => return Some(i.k),
            0x16 => return Some(a),
            0x07 => x = a,
            0x87 => a = x,
            _ => return None,
        }
    }
}

/// A filter of known opcodes with fields that are often, not always, in range.
pub fn random_filter(rng: &mut Rng) -> Vec<ClassicInsn> {
    const CODES: [u16; 47] = [
        0x20, 0x28, 0x30, 0x40, 0x48, 0x50, 0x80, 0x81, 0x00, 0x01, 0x60, 0x61, 0x02, 0x03, 0xb1, 0x04, 0x0c, 0x14,
        0x1c, 0x24, 0x2c, 0x34, 0x3c, 0x44, 0x4c, 0x54, 0x5c, 0x64, 0x6c, 0x74, 0x7c, 0x84, 0x94, 0x9c, 0xa4, 0xac,
        0x05, 0x15, 0x1d, 0x25, 0x2d, 0x35, 0x3d, 0x45, 0x4d, 0x07, 0x87,
    ];
    let len = 1 + rng.below(24) as usize;
    let mut filter: Vec<ClassicInsn> = (0..len)
        .map(|at| {
            let code = CODES[rng.below(CODES.len() as u64) as usize];
            let room = (len - at) as u64;
            let (jt, jf) = (rng.below(room) as u8, rng.below(room) as u8);
            let k = match code {
                0x05 => rng.below(room) as u32,
                0x60 | 0x61 | 0x02 | 0x03 => rng.below(4) as u32,
                0x64 | 0x74 => rng.below(32) as u32,
                0x20 if rng.below(4) == 0 => 0xffff_f000 + rng.pick(&[0, 4, 8, 20, 24, 32, 40, 44, 48, 60]),
                0x20 | 0x28 | 0x30 | 0x40 | 0x48 | 0x50 | 0xb1 => rng.below(70) as u32 & !(rng.below(2) as u32 * 3),
                _ => rng.edge() as u32,
            };
            ClassicInsn { code, jt, jf, k }
        })
        .collect();
    let code = if rng.below(2) == 0 { 0x06 } else { 0x16 };
    filter.push(ClassicInsn { code, jt: 0, jf: 0, k: rng.edge() as u32 });
    filter
}
