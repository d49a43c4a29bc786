//! A definitional interpreter: RFC 9669 spelled out on raw slots, as plainly as it can be.
//!
//! It shares nothing with the engines it judges: it reads opcodes by their bits, computes in 128 bits, and keeps memory
//! as bytes. It knows a plain context (R1 memory, R2 its length), stacks, local calls and packets; no helpers, no maps.

use rtbpf_isa::RawInsn;

/// Why a run has no result.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Stop {
    /// An access outside memory, a stack that is too deep, or no instruction to run.
    Fault {
        /// The slot.
        slot: usize,
        /// What was wrong.
        why: &'static str,
    },
    /// More instructions than allowed.
    Limit,
    /// Something that this interpreter does not know.
    Unsupported {
        /// The slot.
        slot: usize,
    },
}

const MEM: u64 = 0x1_0000_0000;
const STACK: u64 = 0x2_0000_0000;
const FRAME: u64 = 512;
const FRAMES: usize = 8;

struct Oracle<'a> {
    slots: &'a [RawInsn],
    at: usize,
    reg: [u64; 11],
    mem: &'a mut [u8],
    packet: &'a [u8],
    stack: Vec<u8>,
    /// Return slot and R6 to R9 of each caller.
    callers: Vec<(usize, [u64; 4])>,
}

/// Runs `slots` for at most `limit` instructions; R0 at the end.
pub fn run(slots: &[RawInsn], mem: &mut [u8], packet: &[u8], limit: u64) -> Result<u64, Stop> {
    let mut reg = [0; 11];
    (reg[1], reg[2], reg[10]) = (MEM, mem.len() as u64, STACK + FRAME);
    let stack = vec![0; FRAME as usize * FRAMES];
    let mut oracle = Oracle { slots, at: 0, reg, mem, packet, stack, callers: Vec::new() };
    for _ in 0..limit {
        if let Some(result) = oracle.step()? {
            return Ok(result);
        }
    }
    Err(Stop::Limit)
}

impl Oracle<'_> {
    fn fault(&self, why: &'static str) -> Stop {
        Stop::Fault { slot: self.at, why }
    }

    fn unsupported(&self) -> Stop {
        Stop::Unsupported { slot: self.at }
    }

    fn step(&mut self) -> Result<Option<u64>, Stop> {
        let i = *self.slots.get(self.at).ok_or(self.fault("no instruction"))?;
        if i.dst > 10 || i.src > 10 {
            return Err(self.unsupported());
        }
        match i.code & 7 {
            4 => self.alu(i, 32)?,
            7 => self.alu(i, 64)?,
            5 | 6 => return self.jump(i),
            0 => return self.wide_or_packet(i),
            1 => {
                let value = self.load(self.reg[i.src as usize], i.off, bytes_of(i.code))?;
                self.reg[i.dst as usize] = match i.code >> 5 {
                    3 => value,
                    4 => as_signed(value, 8 * bytes_of(i.code) as u32) as u64,
                    _ => return Err(self.unsupported()),
                };
            }
            2 if i.code >> 5 == 3 => {
                self.store(self.reg[i.dst as usize], i.off, bytes_of(i.code), i.imm as i64 as u64)?;
            }
            3 if i.code >> 5 == 3 => {
                self.store(self.reg[i.dst as usize], i.off, bytes_of(i.code), self.reg[i.src as usize])?;
            }
            3 if i.code >> 5 == 6 => self.atomic(i)?,
            _ => return Err(self.unsupported()),
        }
        self.at += 1;
        Ok(None)
    }

    fn alu(&mut self, i: RawInsn, bits: u32) -> Result<(), Stop> {
        let all: i128 = (1 << bits) - 1;
        let by_reg = i.code & 8 != 0;
        let source = if by_reg { self.reg[i.src as usize] } else { i.imm as i64 as u64 };
        let old = self.reg[i.dst as usize];
        // Both readings of both operands.
        let (a, b) = (old as i128 & all, source as i128 & all);
        let (sa, sb) = (as_signed(old, bits), as_signed(source, bits));
        let shift = b as u32 % bits;
        let value: i128 = match (i.code >> 4, i.off) {
            (0x0, 0) => a + b,
            (0x1, 0) => a - b,
            (0x2, 0) => a.wrapping_mul(b),
            (0x3, 0 | 1) if b == 0 => 0,
            (0x3, 0) => a / b,
            (0x3, 1) => sa / sb,
            (0x4, 0) => a | b,
            (0x5, 0) => a & b,
            (0x6, 0) => a << shift,
            (0x7, 0) => a >> shift,
            (0x8, 0) => -a,
            (0x9, 0 | 1) if b == 0 => a,
            (0x9, 0) => a % b,
            (0x9, 1) => sa % sb,
            (0xa, 0) => a ^ b,
            (0xb, 0) => b,
            (0xb, 8 | 16 | 32) if by_reg && i.off < bits as i16 => as_signed(source, i.off as u32),
            (0xc, 0) => sa >> shift,
            (0xd, 0) if matches!(i.imm, 16 | 32 | 64) => {
                let mut bytes = old.to_le_bytes()[..i.imm as usize / 8].to_vec();
                // 0xd4 is to little-endian: nothing to do on a little-endian machine, which this one is.
                if i.code != 0xd4 {
                    bytes.reverse();
                }
                bytes.iter().rev().fold(0, |value, &byte| value << 8 | byte as i128)
            }
            _ => return Err(self.unsupported()),
        };
        let kept = if i.code >> 4 == 0xd { u64::MAX as i128 } else { all };
        self.reg[i.dst as usize] = (value & kept) as u64;
        Ok(())
    }

    fn jump(&mut self, i: RawInsn) -> Result<Option<u64>, Stop> {
        let bits = if i.code & 7 == 5 { 64 } else { 32 };
        let source = if i.code & 8 != 0 { self.reg[i.src as usize] } else { i.imm as i64 as u64 };
        let all: i128 = (1 << bits) - 1;
        let (a, b) = (self.reg[i.dst as usize] as i128 & all, source as i128 & all);
        let (sa, sb) = (as_signed(self.reg[i.dst as usize], bits), as_signed(source, bits));
        let taken = match i.code >> 4 {
            0x0 if i.code == 0x05 => true,
            0x0 if i.code == 0x06 => {
                self.at = self.target(i.imm as i64);
                return Ok(None);
            }
            0x1 => a == b,
            0x2 => a > b,
            0x3 => a >= b,
            0x4 => a & b != 0,
            0x5 => a != b,
            0x6 => sa > sb,
            0x7 => sa >= sb,
            0x8 if i.code == 0x85 && i.src == 1 => return self.call(i),
            0x9 if i.code == 0x95 => return Ok(self.leave(self.reg[0])),
            0xa => a < b,
            0xb => a <= b,
            0xc => sa < sb,
            0xd => sa <= sb,
            // The budget of `may_goto` is larger than any case.
            0xe if i.code == 0xe5 => false,
            _ => return Err(self.unsupported()),
        };
        self.at = if taken { self.target(i.off as i64) } else { self.at + 1 };
        Ok(None)
    }

    /// Far beyond the end when the target lies before the start.
    fn target(&self, distance: i64) -> usize {
        (self.at as i64 + 1 + distance) as usize
    }

    fn call(&mut self, i: RawInsn) -> Result<Option<u64>, Stop> {
        if self.callers.len() + 1 == FRAMES {
            return Err(self.fault("too many frames"));
        }
        self.callers.push((self.at + 1, [self.reg[6], self.reg[7], self.reg[8], self.reg[9]]));
        self.reg[10] += FRAME;
        self.at = self.target(i.imm as i64);
        Ok(None)
    }

    /// Ends the frame; the result when it was the last.
    fn leave(&mut self, result: u64) -> Option<u64> {
        self.reg[0] = result;
        let Some((back, saved)) = self.callers.pop() else { return Some(result) };
        self.reg[6..10].copy_from_slice(&saved);
        self.reg[10] -= FRAME;
        self.at = back;
        None
    }

    fn wide_or_packet(&mut self, i: RawInsn) -> Result<Option<u64>, Stop> {
        if i.code == 0x18 {
            let second = self.slots.get(self.at + 1).ok_or(self.fault("half a wide load"))?;
            if i.src != 0 {
                return Err(self.unsupported());
            }
            self.reg[i.dst as usize] = (second.imm as u32 as u64) << 32 | i.imm as u32 as u64;
            self.at += 2;
            return Ok(None);
        }
        let index = match i.code >> 5 {
            1 => 0,
            2 => self.reg[i.src as usize] as u32,
            _ => return Err(self.unsupported()),
        };
        let first = i.imm as u32 as i32 as i64 + index as i32 as i64;
        let found =
            usize::try_from(first as i32).ok().and_then(|first| self.packet.get(first..first + bytes_of(i.code)));
        match found {
            Some(bytes) => self.reg[0] = bytes.iter().fold(0, |value, &byte| value << 8 | byte as u64),
            None => return Ok(self.leave(0)),
        }
        self.at += 1;
        Ok(None)
    }

    fn atomic(&mut self, i: RawInsn) -> Result<(), Stop> {
        let size = bytes_of(i.code);
        let (base, src) = (self.reg[i.dst as usize], self.reg[i.src as usize]);
        match i.imm {
            0x100 => self.reg[i.dst as usize] = self.load(src, i.off, size)?,
            0x110 => self.store(base, i.off, size, src)?,
            _ if size < 4 => return Err(self.unsupported()),
            op => {
                let old = self.load(base, i.off, size)?;
                let low = if size == 8 { u64::MAX } else { u32::MAX as u64 };
                let new = match op & !1 {
                    0x00 => (old as u128 + src as u128) as u64,
                    0x40 => old | src,
                    0x50 => old & src,
                    0xa0 => old ^ src,
                    0xe0 if op == 0xe1 => src,
                    0xf0 if op == 0xf1 && old == self.reg[0] & low => src,
                    0xf0 if op == 0xf1 => old,
                    _ => return Err(self.unsupported()),
                };
                self.store(base, i.off, size, new)?;
                match op {
                    0xf1 => self.reg[0] = old,
                    _ if op & 1 != 0 => self.reg[i.src as usize] = old,
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn bytes(&mut self, base: u64, off: i16, size: usize) -> Result<&mut [u8], Stop> {
        let fault = self.fault("access outside memory");
        let address = base.wrapping_add(off as i64 as u64);
        let depth = self.callers.len() as u64 + 1;
        let (region, start) =
            if address >= STACK { (&mut self.stack[..(depth * FRAME) as usize], STACK) } else { (&mut *self.mem, MEM) };
        let first = address.checked_sub(start).and_then(|first| usize::try_from(first).ok());
        first.and_then(|first| region.get_mut(first..first.checked_add(size)?)).ok_or(fault)
    }

    fn load(&mut self, base: u64, off: i16, size: usize) -> Result<u64, Stop> {
        Ok(self.bytes(base, off, size)?.iter().rev().fold(0, |value, &byte| value << 8 | byte as u64))
    }

    fn store(&mut self, base: u64, off: i16, size: usize, value: u64) -> Result<(), Stop> {
        self.bytes(base, off, size)?.copy_from_slice(&value.to_le_bytes()[..size]);
        Ok(())
    }
}

fn bytes_of(code: u8) -> usize {
    [4, 2, 1, 8][(code >> 3 & 3) as usize]
}

fn as_signed(value: u64, bits: u32) -> i128 {
    let low = value as i128 & ((1 << bits) - 1);
    if low >> (bits - 1) & 1 == 1 { low - (1 << bits) } else { low }
}
