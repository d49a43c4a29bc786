//! Classic BPF, as `tcpdump -dd` and libseccomp emit it, checked by Linux's rules and converted to eBPF.
//!
//! ```text
//! classic    A    X    M[0..16]        packet, seccomp_data    helper results
//! eBPF       r0   r7   r10 -64 .. r10  r6, the context         r0
//! ```
//!
//! Sources: the Linux documentation on socket filters and on seccomp filters. Every operation has 32 bits. A packet load
//! beyond the end and a division by X = 0 end the program with 0.

use crate::encode::encode_one;
use crate::insn::*;
use crate::raw::RawInsn;
use crate::reg::Reg;

/// One instruction, `struct sock_filter`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct ClassicInsn {
    /// Operation.
    pub code: u16,
    /// Instructions to skip when a comparison holds.
    pub jt: u8,
    /// Instructions to skip when it does not.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

impl ClassicInsn {
    /// From the 8 bytes of a little-endian `struct sock_filter`.
    pub const fn from_le_bytes(b: [u8; 8]) -> ClassicInsn {
        let (code, k) = (u16::from_le_bytes([b[0], b[1]]), u32::from_le_bytes([b[4], b[5], b[6], b[7]]));
        ClassicInsn { code, jt: b[2], jf: b[3], k }
    }

    /// Reads the output of `tcpdump -dd` or, after its line with the count, of `tcpdump -ddd`. `None` when a line is not
    /// four numbers.
    pub fn parse_dump(text: &str) -> Option<Vec<ClassicInsn>> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let is_decimal = !text.contains('{');
        lines.skip(is_decimal as usize).map(ClassicInsn::parse_line).collect()
    }

    fn parse_line(line: &str) -> Option<ClassicInsn> {
        let mut numbers = line.split([' ', ',', '{', '}']).filter(|word| !word.is_empty()).map(|word| {
            let hex = word.strip_prefix("0x").map(|hex| u32::from_str_radix(hex, 16));
            hex.unwrap_or_else(|| word.parse()).ok()
        });
        let mut next = || numbers.next().flatten();
        let (code, jt, jf, k) = (next()?, next()?, next()?, next()?);
        let insn = ClassicInsn { code: code.try_into().ok()?, jt: jt.try_into().ok()?, jf: jf.try_into().ok()?, k };
        numbers.next().is_none().then_some(insn)
    }
}

/// Where a filter runs; it decides which loads exist.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClassicKind {
    /// On packets; the converted program has the context of a socket filter, `struct __sk_buff`.
    SocketFilter,
    /// On system calls; the converted program has `struct seccomp_data` as its context.
    Seccomp,
}

/// Why a filter is refused or has no conversion.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum ClassicError {
    #[error("filter has {0} instructions (must be 1..={MAX_INSNS})")]
    Length(usize),
    #[error("unknown opcode {code:#06x} at instruction {at}")]
    UnknownOpcode { at: usize, code: u16 },
    #[error("opcode {code:#06x} at instruction {at} does not exist in seccomp filters")]
    NotInSeccomp { at: usize, code: u16 },
    #[error("division by the constant 0 at instruction {at}")]
    DivisionByZero { at: usize },
    #[error("shift by {amount} at instruction {at} (must be below 32)")]
    Shift { at: usize, amount: u32 },
    #[error("scratch slot M[{index}] at instruction {at} (there are {SCRATCH_SLOTS})")]
    ScratchIndex { at: usize, index: u32 },
    #[error("scratch slot M[{index}] is read at instruction {at} where a path has not written it")]
    ScratchUnwritten { at: usize, index: u32 },
    #[error("jump from instruction {at} leaves the filter")]
    JumpOutOfRange { at: usize },
    #[error("last instruction is not a return")]
    NoReturn,
    #[error("load of seccomp data at instruction {at} from offset {offset} (must be a multiple of 4 below 64)")]
    SeccompOffset { at: usize, offset: u32 },
    #[error("ancillary load {offset} at instruction {at} has no field in `struct __sk_buff`")]
    Ancillary { at: usize, offset: u32 },
}

/// The most instructions a filter may have.
pub const MAX_INSNS: usize = 4096;
const SCRATCH_SLOTS: u32 = 16;
/// Bytes of `struct seccomp_data`.
const SECCOMP_DATA_BYTES: u32 = 64;
/// Offset of `len` in `struct __sk_buff`.
const SKB_LEN: i16 = 0;
/// Absolute loads from here on read no packet (`SKF_AD_OFF`).
const ANCILLARY: u32 = 0xffff_f000;

const A: Reg = Reg::R0;
const X: Reg = Reg::R7;
const CTX: Reg = Reg::R6;
/// Holds A while it serves a packet load for X.
const KEPT: Reg = Reg::R8;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Op {
    LoadAbs(Size),
    LoadInd(Size),
    /// The `bool` of these: into X.
    LoadLen(bool),
    LoadImm(bool),
    LoadScratch(bool),
    StoreScratch(bool),
    LoadHeaderLen,
    /// The `bool` of these: with X, not with K.
    Alu(AluOp, bool),
    Jump(CmpOp, bool),
    Neg,
    Always,
    ReturnK,
    ReturnA,
    AToX,
    XToA,
}

/// Operations by opcode, and whether seccomp filters have them.
const OPS: &[(u16, Op, bool)] = &[
    (0x20, Op::LoadAbs(Size::W), true),
    (0x28, Op::LoadAbs(Size::H), false),
    (0x30, Op::LoadAbs(Size::B), false),
    (0x40, Op::LoadInd(Size::W), false),
    (0x48, Op::LoadInd(Size::H), false),
    (0x50, Op::LoadInd(Size::B), false),
    (0x80, Op::LoadLen(false), true),
    (0x81, Op::LoadLen(true), true),
    (0x00, Op::LoadImm(false), true),
    (0x01, Op::LoadImm(true), true),
    (0x60, Op::LoadScratch(false), true),
    (0x61, Op::LoadScratch(true), true),
    (0x02, Op::StoreScratch(false), true),
    (0x03, Op::StoreScratch(true), true),
    (0xb1, Op::LoadHeaderLen, false),
    (0x04, Op::Alu(AluOp::Add, false), true),
    (0x0c, Op::Alu(AluOp::Add, true), true),
    (0x14, Op::Alu(AluOp::Sub, false), true),
    (0x1c, Op::Alu(AluOp::Sub, true), true),
    (0x24, Op::Alu(AluOp::Mul, false), true),
    (0x2c, Op::Alu(AluOp::Mul, true), true),
    (0x34, Op::Alu(AluOp::Div, false), true),
    (0x3c, Op::Alu(AluOp::Div, true), true),
    (0x44, Op::Alu(AluOp::Or, false), true),
    (0x4c, Op::Alu(AluOp::Or, true), true),
    (0x54, Op::Alu(AluOp::And, false), true),
    (0x5c, Op::Alu(AluOp::And, true), true),
    (0x64, Op::Alu(AluOp::Lsh, false), true),
    (0x6c, Op::Alu(AluOp::Lsh, true), true),
    (0x74, Op::Alu(AluOp::Rsh, false), true),
    (0x7c, Op::Alu(AluOp::Rsh, true), true),
    (0x84, Op::Neg, true),
    (0x94, Op::Alu(AluOp::Mod, false), false),
    (0x9c, Op::Alu(AluOp::Mod, true), false),
    (0xa4, Op::Alu(AluOp::Xor, false), true),
    (0xac, Op::Alu(AluOp::Xor, true), true),
    (0x05, Op::Always, true),
    (0x15, Op::Jump(CmpOp::Eq, false), true),
    (0x1d, Op::Jump(CmpOp::Eq, true), true),
    (0x25, Op::Jump(CmpOp::Gt, false), true),
    (0x2d, Op::Jump(CmpOp::Gt, true), true),
    (0x35, Op::Jump(CmpOp::Ge, false), true),
    (0x3d, Op::Jump(CmpOp::Ge, true), true),
    (0x45, Op::Jump(CmpOp::Set, false), true),
    (0x4d, Op::Jump(CmpOp::Set, true), true),
    (0x06, Op::ReturnK, true),
    (0x16, Op::ReturnA, true),
    (0x07, Op::AToX, true),
    (0x87, Op::XToA, true),
];

/// What an ancillary load puts into A.
#[derive(Clone, Copy)]
enum Ancillary {
    /// A field of `struct __sk_buff`.
    Field(i16),
    /// The same, two bytes in network order.
    NetworkOrder(i16),
    /// What a helper without arguments returns.
    Helper(i32),
    /// A ^ X.
    XorX,
}

/// Ancillary loads (`SKF_AD_*`) by offset. Netlink attributes (12, 16), the device's type (28) and the payload's offset
/// (52) have no field.
const ANCILLARIES: &[(u32, Ancillary)] = &[
    (0, Ancillary::NetworkOrder(16)),
    (4, Ancillary::Field(4)),
    (8, Ancillary::Field(40)),
    (20, Ancillary::Field(8)),
    (24, Ancillary::Field(12)),
    (32, Ancillary::Field(68)),
    (36, Ancillary::Helper(8)),
    (40, Ancillary::XorX),
    (44, Ancillary::Field(24)),
    (48, Ancillary::Field(20)),
    (56, Ancillary::Helper(7)),
    (60, Ancillary::NetworkOrder(28)),
];

/// Checks a filter as Linux does, and converts it. Instructions that no path reaches, which classic filters may hold and
/// eBPF programs may not, are left out.
pub fn to_ebpf(filter: &[ClassicInsn], kind: ClassicKind) -> Result<Vec<RawInsn>, ClassicError> {
    let (ops, reached) = check(filter, kind)?;
    let mut out = Emitter { code: Vec::with_capacity(2 * filter.len() + 3), jumps: Vec::new() };
    out.mov(CTX, Operand::Reg(Reg::R1));
    out.mov(A, Operand::Imm(0));
    out.mov(X, Operand::Imm(0));
    let mut first = Vec::with_capacity(filter.len());
    for (at, (&op, &insn)) in ops.iter().zip(filter).enumerate() {
        first.push(out.code.len());
        match (op, kind) {
            _ if !reached[at] => {}
            (Op::LoadAbs(_), ClassicKind::Seccomp) => out.load(A, insn.k as i16),
            (Op::LoadLen(into_x), ClassicKind::Seccomp) => {
                out.mov(if into_x { X } else { A }, Operand::Imm(SECCOMP_DATA_BYTES as i32));
            }
            _ => out.op(op, insn, at)?,
        }
    }
    Ok(out.finish(&first))
}

/// The operations of a filter that keeps Linux's rules, and which of them some path reaches.
fn check(filter: &[ClassicInsn], kind: ClassicKind) -> Result<(Vec<Op>, Vec<bool>), ClassicError> {
    if filter.is_empty() || filter.len() > MAX_INSNS {
        return Err(ClassicError::Length(filter.len()));
    }
    let mut ops = Vec::with_capacity(filter.len());
    for (at, insn) in filter.iter().enumerate() {
        let row = OPS.iter().find(|(code, ..)| *code == insn.code);
        let &(code, op, in_seccomp) = row.ok_or(ClassicError::UnknownOpcode { at, code: insn.code })?;
        if kind == ClassicKind::Seccomp && !in_seccomp {
            return Err(ClassicError::NotInSeccomp { at, code });
        }
        let leaves = |distance: u32| distance as usize >= filter.len() - at - 1;
        match op {
            Op::Alu(AluOp::Div | AluOp::Mod, false) if insn.k == 0 => return Err(ClassicError::DivisionByZero { at }),
            Op::Alu(AluOp::Lsh | AluOp::Rsh, false) if insn.k >= 32 => {
                return Err(ClassicError::Shift { at, amount: insn.k });
            }
            Op::LoadScratch(_) | Op::StoreScratch(_) if insn.k >= SCRATCH_SLOTS => {
                return Err(ClassicError::ScratchIndex { at, index: insn.k });
            }
            Op::Always if leaves(insn.k) => return Err(ClassicError::JumpOutOfRange { at }),
            Op::Jump(..) if leaves(insn.jt.max(insn.jf).into()) => return Err(ClassicError::JumpOutOfRange { at }),
            Op::LoadAbs(_) if kind == ClassicKind::Seccomp && (insn.k % 4 != 0 || insn.k >= SECCOMP_DATA_BYTES) => {
                return Err(ClassicError::SeccompOffset { at, offset: insn.k });
            }
            _ => {}
        }
        ops.push(op);
    }
    if !matches!(ops.last(), Some(Op::ReturnK | Op::ReturnA)) {
        return Err(ClassicError::NoReturn);
    }
    let reached = check_scratch(filter, &ops)?;
    Ok((ops, reached))
}

/// Which instructions some path reaches, after a check that no path reads a scratch slot before it writes it. Jumps
/// only go forward: one pass sees every path.
fn check_scratch(filter: &[ClassicInsn], ops: &[Op]) -> Result<Vec<bool>, ClassicError> {
    // Per instruction that is reached, the slots that every path to it has written.
    let mut written: Vec<Option<u16>> = vec![None; filter.len()];
    written[0] = Some(0);
    for (at, (insn, op)) in filter.iter().zip(ops).enumerate() {
        let Some(here) = written[at] else { continue };
        let mut meet = |skip: usize, slots: u16| {
            let there = &mut written[at + 1 + skip];
            *there = Some(there.map_or(slots, |there| there & slots));
        };
        match op {
            Op::LoadScratch(_) if here & 1 << insn.k == 0 => {
                return Err(ClassicError::ScratchUnwritten { at, index: insn.k });
            }
            Op::StoreScratch(_) => meet(0, here | 1 << insn.k),
            Op::Always => meet(insn.k as usize, here),
            Op::Jump(..) => {
                meet(insn.jt.into(), here);
                meet(insn.jf.into(), here);
            }
            Op::ReturnK | Op::ReturnA => {}
            _ => meet(0, here),
        }
    }
    Ok(written.iter().map(Option::is_some).collect())
}

struct Emitter {
    code: Vec<Insn>,
    /// Emitted jumps, with the classic instruction they lead to.
    jumps: Vec<(usize, usize)>,
}

impl Emitter {
    fn mov(&mut self, dst: Reg, src: Operand) {
        self.alu(AluOp::Mov, dst, src, if dst == CTX { Width::W64 } else { Width::W32 });
    }

    fn alu(&mut self, op: AluOp, dst: Reg, src: Operand, width: Width) {
        self.code.push(Insn::Alu { op, width, dst, src });
    }

    /// From the context.
    fn load(&mut self, dst: Reg, off: i16) {
        self.code.push(Insn::Load { size: Size::W, signed: false, dst, base: CTX, off });
    }

    fn op(&mut self, op: Op, insn: ClassicInsn, at: usize) -> Result<(), ClassicError> {
        let k = insn.k as i32;
        let scratch = || -64 + 4 * k as i16;
        let reg = |into_x| if into_x { X } else { A };
        match op {
            Op::LoadAbs(_) if insn.k >= ANCILLARY => self.ancillary(insn.k - ANCILLARY, at)?,
            Op::LoadAbs(size) => self.code.push(Insn::Packet { size, index: None, off: k }),
            Op::LoadInd(size) => self.code.push(Insn::Packet { size, index: Some(X), off: k }),
            Op::LoadLen(into_x) => self.load(reg(into_x), SKB_LEN),
            Op::LoadImm(into_x) => self.mov(reg(into_x), Operand::Imm(k)),
            Op::LoadScratch(into_x) => {
                self.code.push(Insn::Load {
                    size: Size::W,
                    signed: false,
                    dst: reg(into_x),
                    base: Reg::FP,
                    off: scratch(),
                });
            }
            Op::StoreScratch(of_x) => {
                self.code.push(Insn::Store {
                    size: Size::W,
                    base: Reg::FP,
                    off: scratch(),
                    src: Operand::Reg(reg(of_x)),
                });
            }
            // X = 4 * (byte & 15), the length of an IPv4 header.
            Op::LoadHeaderLen => {
                self.mov(KEPT, Operand::Reg(A));
                self.code.push(Insn::Packet { size: Size::B, index: None, off: k });
                self.alu(AluOp::And, A, Operand::Imm(0xf), Width::W32);
                self.alu(AluOp::Lsh, A, Operand::Imm(2), Width::W32);
                self.mov(X, Operand::Reg(A));
                self.mov(A, Operand::Reg(KEPT));
            }
            Op::Alu(op, with_x) => {
                if with_x && matches!(op, AluOp::Div | AluOp::Mod) {
                    let rhs = Operand::Imm(0);
                    self.code.push(Insn::Branch { op: CmpOp::Ne, width: Width::W32, lhs: X, rhs, to: 2 });
                    self.mov(A, Operand::Imm(0));
                    self.code.push(Insn::Exit);
                }
                self.alu(op, A, if with_x { Operand::Reg(X) } else { Operand::Imm(k) }, Width::W32);
            }
            Op::Neg => self.code.push(Insn::Neg { width: Width::W32, dst: A }),
            Op::Always => self.jump(Insn::Jump { to: 0, long: false }, at + 1 + insn.k as usize),
            Op::Jump(op, with_x) => {
                let rhs = if with_x { Operand::Reg(X) } else { Operand::Imm(k) };
                let branch = Insn::Branch { op, width: Width::W32, lhs: A, rhs, to: 0 };
                self.jump(branch, at + 1 + insn.jt as usize);
                if insn.jf != 0 {
                    self.jump(Insn::Jump { to: 0, long: false }, at + 1 + insn.jf as usize);
                }
            }
            Op::ReturnK => {
                self.mov(A, Operand::Imm(k));
                self.code.push(Insn::Exit);
            }
            Op::ReturnA => self.code.push(Insn::Exit),
            Op::AToX => self.mov(X, Operand::Reg(A)),
            Op::XToA => self.mov(A, Operand::Reg(X)),
        }
        Ok(())
    }

    fn ancillary(&mut self, offset: u32, at: usize) -> Result<(), ClassicError> {
        let row = ANCILLARIES.iter().find(|(known, _)| *known == offset);
        match row.ok_or(ClassicError::Ancillary { at, offset })?.1 {
            Ancillary::Field(off) => self.load(A, off),
            Ancillary::NetworkOrder(off) => {
                self.load(A, off);
                self.code.push(Insn::Swap { kind: Swap::ToBe, size: Size::H, dst: A });
            }
            Ancillary::Helper(id) => {
                self.code.push(Insn::Call(Callee::Helper(id)));
                // Classic registers have 32 bits.
                self.mov(A, Operand::Reg(A));
            }
            Ancillary::XorX => self.alu(AluOp::Xor, A, Operand::Reg(X), Width::W32),
        }
        Ok(())
    }

    fn jump(&mut self, insn: Insn, target: usize) {
        self.jumps.push((self.code.len(), target));
        self.code.push(insn);
    }

    fn finish(self, first: &[usize]) -> Vec<RawInsn> {
        let mut distance: Vec<i32> = self.code.iter().map(|insn| insn.relative_target().unwrap_or_default()).collect();
        for (from, target) in self.jumps {
            distance[from] = (first[target] - from - 1) as i32;
        }
        let slots = self.code.iter().zip(distance).map(|(insn, to)| {
            // At most 4096 instructions of at most 6 slots each.
            encode_one(insn, to).expect("every jump of a converted filter fits 16 bits").0
        });
        slots.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::{NoNames, plain};
    use crate::{InsnIdx, decode};

    fn converted(filter: &[(u16, u8, u8, u32)], kind: ClassicKind) -> Result<Vec<String>, ClassicError> {
        let filter: Vec<_> = filter.iter().map(|&(code, jt, jf, k)| ClassicInsn { code, jt, jf, k }).collect();
        let program = decode(&to_ebpf(&filter, kind)?).unwrap();
        // After the prologue.
        Ok((3..program.len()).map(|at| plain(&program, InsnIdx(at as u32), &NoNames).to_string()).collect())
    }

    const RET: (u16, u8, u8, u32) = (0x06, 0, 0, 0xffff_ffff);

    #[test]
    fn one_operation_at_a_time() {
        let check = |insn, want: &[&str]| {
            let got = converted(&[insn, RET], ClassicKind::SocketFilter).unwrap();
            assert_eq!(got[..got.len() - 2], *want, "{insn:x?}");
        };
        check((0x28, 0, 0, 12), &["r0 = *(u16 *)skb[12]"]);
        check((0x50, 0, 0, 4), &["r0 = *(u8 *)skb[r7 + 4]"]);
        check((0x80, 0, 0, 0), &["r0 = *(u32 *)(r6 +0)"]);
        check((0x03, 0, 0, 15), &["*(u32 *)(r10 -4) = r7"]);
        check((0x3c, 0, 0, 0), &["if w7 != 0x0 goto pc+2", "w0 = 0", "exit", "w0 /= w7"]);
        check((0x24, 0, 0, 0x8000_0000), &["w0 *= -2147483648"]);
        check((0x20, 0, 0, 0xffff_f000), &["r0 = *(u32 *)(r6 +16)", "r0 = be16 r0"]);
        check((0x20, 0, 0, 0xffff_f038), &["call unknown#7", "w0 = w0"]);
        check((0x20, 0, 0, 0xffff_f028), &["w0 ^= w7"]);
        check((0x28, 0, 0, 0xfff0_000c), &["r0 = *(u16 *)skb[-1048564]"]);
        check((0xb1, 0, 0, 14), &["w8 = w0", "r0 = *(u8 *)skb[14]", "w0 &= 15", "w0 <<= 2", "w7 = w0", "w0 = w8"]);
    }

    #[test]
    fn jumps_lead_to_the_instruction_they_led_to() {
        let filter = [(0x15, 0, 2, 7), (0xb1, 0, 0, 0), RET, (0x06, 0, 0, 1)];
        let got = converted(&filter, ClassicKind::SocketFilter).unwrap();
        assert_eq!(got[..2], ["if w0 == 0x7 goto pc+1", "goto pc+8"]);
        assert_eq!(got[10], "w0 = 1");
    }

    #[test]
    fn unreachable_instructions_are_left_out() {
        let filter = [(0x05, 0, 0, 1), (0x07, 0, 0, 0), RET, (0x87, 0, 0, 0), RET];
        let got = converted(&filter, ClassicKind::SocketFilter).unwrap();
        assert_eq!(got, ["goto pc+0", "w0 = -1", "exit"]);
    }

    #[test]
    fn seccomp_reads_its_data() {
        let got = converted(&[(0x20, 0, 0, 4), (0x81, 0, 0, 0), RET], ClassicKind::Seccomp).unwrap();
        assert_eq!(got[..2], ["r0 = *(u32 *)(r6 +4)", "w7 = 64"]);
    }

    #[test]
    fn linuxs_rules_hold() {
        let check = |filter: &[_], kind, want| assert_eq!(converted(filter, kind).err(), Some(want), "{filter:x?}");
        let (socket, seccomp) = (ClassicKind::SocketFilter, ClassicKind::Seccomp);
        check(&[], socket, ClassicError::Length(0));
        check(&[RET; 4097], socket, ClassicError::Length(4097));
        check(&[(0x38, 0, 0, 0), RET], socket, ClassicError::UnknownOpcode { at: 0, code: 0x38 });
        check(&[(0x106, 0, 0, 0)], socket, ClassicError::UnknownOpcode { at: 0, code: 0x106 });
        check(&[(0x34, 0, 0, 0), RET], socket, ClassicError::DivisionByZero { at: 0 });
        check(&[(0x64, 0, 0, 32), RET], socket, ClassicError::Shift { at: 0, amount: 32 });
        check(&[(0x02, 0, 0, 16), RET], socket, ClassicError::ScratchIndex { at: 0, index: 16 });
        check(&[(0x61, 0, 0, 3), RET], socket, ClassicError::ScratchUnwritten { at: 0, index: 3 });
        check(&[(0x05, 0, 0, 1), RET], socket, ClassicError::JumpOutOfRange { at: 0 });
        check(&[(0x05, 0, 0, u32::MAX), RET], socket, ClassicError::JumpOutOfRange { at: 0 });
        check(&[(0x15, 0, 1, 0), RET], socket, ClassicError::JumpOutOfRange { at: 0 });
        check(&[(0x87, 0, 0, 0)], socket, ClassicError::NoReturn);
        check(&[(0x20, 0, 0, 0xffff_f00c), RET], socket, ClassicError::Ancillary { at: 0, offset: 12 });
        check(&[(0x20, 0, 0, 64), RET], seccomp, ClassicError::SeccompOffset { at: 0, offset: 64 });
        check(&[(0x20, 0, 0, 2), RET], seccomp, ClassicError::SeccompOffset { at: 0, offset: 2 });
        check(&[(0x28, 0, 0, 0), RET], seccomp, ClassicError::NotInSeccomp { at: 0, code: 0x28 });
        // One of two paths writes.
        let half = [(0x15, 1, 0, 0), (0x02, 0, 0, 2), (0x60, 0, 0, 2), RET];
        check(&half, socket, ClassicError::ScratchUnwritten { at: 2, index: 2 });
    }

    #[test]
    fn dumps_of_tcpdump_are_read() {
        let want =
            vec![ClassicInsn { code: 0x28, jt: 0, jf: 0, k: 12 }, ClassicInsn { code: 6, jt: 0, jf: 0, k: 262_144 }];
        assert_eq!(
            ClassicInsn::parse_dump("{ 0x28, 0, 0, 0x0000000c },\n{ 0x6, 0, 0, 0x00040000 },\n"),
            Some(want.clone())
        );
        assert_eq!(ClassicInsn::parse_dump("2\n40 0 0 12\n6 0 0 262144\n"), Some(want));
        assert_eq!(ClassicInsn::parse_dump("{ 0x28, 0, 0 },"), None);
        assert_eq!(ClassicInsn::parse_dump("{ 0x28, 256, 0, 0 },"), None);
    }
}
