//! Programs made of one thing, of any size.

use std::fmt::Write;

use rtbpf_verifier::VerifiedProgram;

use crate::assumed;

/// Assembly of `count` instructions in a line: additions, products, shifts, masks, loads and stores of the stack.
pub fn straight(count: usize) -> String {
    let mut text = String::from("r6 = *(u32 *)(r1 + 0)\n");
    for reg in [0, 2, 3, 4, 5, 7, 8, 9] {
        let _ = writeln!(text, "r{reg} = r6");
    }
    for i in 0..count / 10 {
        let (a, b, off) = ([0, 2, 3, 4, 5, 7, 8, 9][i % 8], [3, 4, 5, 7, 8, 9, 0, 2][i % 8], 8 + i % 60 * 8);
        let _ = writeln!(
            text,
            "r{a} += r{b}\n r{a} ^= r{b}\n *(u64 *)(r10 - {off}) = r{b}\n r{a} <<= 7\n r{a} = r{b}\n \
             r{b} = *(u64 *)(r10 - {off})\n r{a} += {i}\n w{a} -= w{b}\n r{a} *= r{b}\n r{b} &= 255"
        );
    }
    text + "r0 = 0\n exit"
}

/// Assembly of a loop that counts to `rounds`.
pub fn counted(rounds: usize) -> String {
    format!("r0 = 0\n r1 = 0\nagain:\n r0 += r1\n r0 ^= 5\n r1 += 1\n if r1 != {rounds} goto again\n r0 = 0\n exit")
}

/// `count` instructions in a line, for compilers: additions, moves, shifts, masks, products, loads and stores of the stack.
pub fn mix(count: usize) -> VerifiedProgram {
    let mut bytes = Vec::with_capacity(count * 8);
    let mut push = |code: u8, dst: u8, src: u8, off: i16, imm: i32| {
        let (off, imm) = (off.to_le_bytes(), imm.to_le_bytes());
        bytes.extend([code, src << 4 | dst, off[0], off[1], imm[0], imm[1], imm[2], imm[3]]);
    };
    (0..10).for_each(|reg| push(0xb7, reg, 0, 0, reg as i32));
    for i in 0..count.saturating_sub(11) {
        let (dst, src) = ((i % 10) as u8, ((i * 7 + 3) % 10) as u8);
        let off = -8 - (i % 60) as i16 * 8;
        match i % 10 {
            0 => push(0x0f, dst, src, 0, 0),
            1 => push(0xaf, dst, src, 0, 0),
            2 => push(0x7b, 10, src, off, 0),
            3 => push(0x67, dst, 0, 0, 7),
            4 => push(0xbf, dst, src, 0, 0),
            5 => push(0x79, dst, 10, off, 0),
            6 => push(0x07, dst, 0, 0, i as i32),
            7 => push(0x1c, dst, src, 0, 0),
            8 => push(0x2f, dst, src, 0, 0),
            _ => push(0x57, dst, 0, 0, 0xff),
        }
    }
    push(0x95, 0, 0, 0, 0);
    assumed(&bytes)
}
