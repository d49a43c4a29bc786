//! The disassembler: the kernel's syntax, as verifier logs and `bpftool prog dump xlated` print it.
//!
//! [`log`] is that syntax to the letter, `(b7) r0 = 1`, also for encodings that Linux refuses; only maps, whose
//! addresses mean nothing here, go by name. [`plain`] drops the opcode and writes what the assembler reads back into the
//! same slots: a wide constant gets its `ll`, and what no instruction encodes becomes `.raw`.

use std::fmt;

use crate::encode::encode_one;
use crate::insn::*;
use crate::program::Program;
use crate::raw::{self, RawInsn};
use crate::rows::{Form, Target, Wide};

/// Names that other rooms know. Every method may answer `None`: the number is printed then.
pub trait Names {
    /// A helper's name, without `bpf_`.
    fn helper(&self, _id: i32) -> Option<&str> {
        None
    }

    /// A kernel function's name.
    fn kfunc(&self, _btf_id: i32, _module: i16) -> Option<&str> {
        None
    }

    /// A map's name.
    fn map(&self, _map: MapIdx, _by: MapBy) -> Option<&str> {
        None
    }
}

/// Knows no name.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoNames;

impl Names for NoNames {}

/// An instruction as a verifier log prints it: `(b7) r0 = 1`.
pub fn log<'a>(program: &'a Program, at: InsnIdx, names: &'a dyn Names) -> Text<'a> {
    Text { slots: Slots::of(program, at), style: Style::Log, names }
}

/// An instruction as the assembler takes it: `r0 = 1`.
pub fn plain<'a>(program: &'a Program, at: InsnIdx, names: &'a dyn Names) -> Text<'a> {
    let mut slots = Slots::of(program, at);
    slots.is_exact = program.get(at).is_some_and(|insn| {
        let to =
            insn.relative_target().map_or(0, |to| program.slot(at.target(to)) as i32 - program.slot(at) as i32 - 1);
        encode_one(insn, to) == Some((slots.first, slots.second))
    });
    Text { slots, style: Style::Plain, names }
}

/// An instruction, ready to print.
#[derive(Clone, Copy)]
pub struct Text<'a> {
    slots: Slots,
    style: Style,
    names: &'a dyn Names,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    Log,
    Plain,
}

#[derive(Clone, Copy)]
struct Slots {
    first: RawInsn,
    second: Option<RawInsn>,
    /// The decoded instruction encodes to exactly these slots.
    is_exact: bool,
}

impl Slots {
    fn of(program: &Program, at: InsnIdx) -> Slots {
        let raw = program.raw(at);
        Slots { first: raw.first().copied().unwrap_or_default(), second: raw.get(1).copied(), is_exact: true }
    }
}

/// An instruction out of its program; jumps count instructions.
impl fmt::Display for Insn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match encode_one(self, self.relative_target().unwrap_or_default()) {
            Some((first, second)) => {
                Text { slots: Slots { first, second, is_exact: true }, style: Style::Plain, names: &NoNames }.fmt(f)
            }
            None => match self {
                Insn::Bad { why, .. } => write!(f, "bad ({why:?})"),
                _ => write!(f, "unencodable jump"),
            },
        }
    }
}

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = self.slots.first.code;
        match (raw::nearest_row(self.slots.first), self.style) {
            (_, Style::Plain) if !self.slots.is_exact => self.raw(f),
            (None, Style::Plain) => self.raw(f),
            (None, Style::Log) => write!(f, "BUG_{code:02x}"),
            (Some(row), Style::Plain) => self.body(f, row.form),
            (Some(row), Style::Log) => {
                write!(f, "({code:02x}) ")?;
                self.body(f, row.form)
            }
        }
    }
}

impl Text<'_> {
    /// The slots' bytes in memory order.
    fn raw(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(".raw")?;
        for slot in [Some(self.slots.first), self.slots.second].into_iter().flatten() {
            write!(f, " {:016x}", u64::from_be_bytes(slot.to_le_bytes()))?;
        }
        Ok(())
    }

    fn body(&self, f: &mut fmt::Formatter<'_>, form: Form) -> fmt::Result {
        let raw @ RawInsn { dst, src, off, imm, .. } = self.slots.first;
        let r = match raw.width() {
            Width::W32 => 'w',
            Width::W64 => 'r',
        };
        let size = raw.size();
        match form {
            // Off the table, but Linux prints a move by its offset all the same.
            Form::Alu(AluOp::Mov) if raw.is_reg() && off == 32 => write!(f, "{r}{dst} = (s32){r}{src}"),
            Form::Alu(op) if raw.is_reg() => write!(f, "{r}{dst} {} {r}{src}", op.symbol()),
            Form::Alu(op) => write!(f, "{r}{dst} {} {imm}", op.symbol()),
            Form::MovSx(from) => write!(f, "{r}{dst} = (s{}){r}{src}", from.bits()),
            Form::Neg => write!(f, "{r}{dst} = -{r}{dst}"),
            Form::Swap(kind, _) => write!(f, "r{dst} = {}{imm} r{dst}", kind.symbol()),
            Form::AddrCast => {
                write!(f, "r{dst} = addr_space_cast(r{src}, {}, {})", imm as u32 >> 16, imm as u32 & 0xffff)
            }
            Form::Imm(kind) => self.wide(f, kind),
            Form::Load(size, signed) => {
                write!(f, "r{dst} = *({}{} *)(r{src} {off:+})", if signed { 's' } else { 'u' }, size.bits())
            }
            Form::Store(size) if raw.is_stx() => write!(f, "*(u{} *)(r{dst} {off:+}) = r{src}", size.bits()),
            Form::Store(size) => write!(f, "*(u{} *)(r{dst} {off:+}) = {imm}", size.bits()),
            Form::Atomic(op, fetch) => self.atomic(f, op, fetch),
            Form::LoadAcquire => write!(f, "r{dst} = load_acquire((u{} *)(r{src} {off:+}))", size.bits()),
            Form::StoreRelease => write!(f, "store_release((u{} *)(r{dst} {off:+}), r{src})", size.bits()),
            Form::PacketAbs(size) => write!(f, "r0 = *(u{} *)skb[{imm}]", size.bits()),
            Form::PacketInd(size) => write!(f, "r0 = *(u{} *)skb[r{src} + {imm}]", size.bits()),
            Form::Jump => write!(f, "goto pc{off:+}"),
            Form::JumpLong => write!(f, "gotol pc{imm:+}"),
            Form::Branch(op) if raw.is_reg() => write!(f, "if {r}{dst} {} {r}{src} goto pc{off:+}", op.symbol()),
            Form::Branch(op) => write!(f, "if {r}{dst} {} {imm:#x} goto pc{off:+}", op.symbol()),
            Form::MayGoto => write!(f, "may_goto pc{off:+}"),
            Form::Call(_) => self.call(f),
            Form::CallReg => write!(f, "callx r{}", if dst == 0 { imm as u8 } else { dst }),
            Form::Exit => f.write_str("exit"),
        }
    }

    fn atomic(&self, f: &mut fmt::Formatter<'_>, op: AtomicOp, fetch: bool) -> fmt::Result {
        let raw @ RawInsn { dst, src, off, .. } = self.slots.first;
        let bits = raw.size().bits();
        let wide = if raw.size() == Size::D { "64" } else { "" };
        let name = op.name();
        match (op, fetch) {
            (AtomicOp::Cmpxchg, _) => write!(f, "r0 = atomic{wide}_{name}((u{bits} *)(r{dst} {off:+}), r0, r{src})"),
            (AtomicOp::Xchg, _) => write!(f, "r{src} = atomic{wide}_{name}((u{bits} *)(r{dst} {off:+}), r{src})"),
            (_, true) => write!(f, "r{src} = atomic{wide}_fetch_{name}((u{bits} *)(r{dst} {off:+}), r{src})"),
            (_, false) => write!(f, "lock *(u{bits} *)(r{dst} {off:+}) {} r{src}", op.symbol()),
        }
    }

    fn wide(&self, f: &mut fmt::Formatter<'_>, kind: Wide) -> fmt::Result {
        let RawInsn { dst, imm, .. } = self.slots.first;
        let (low, high) = (imm as u32, self.slots.second.unwrap_or_default().imm as u32);
        write!(f, "r{dst} = ")?;
        match kind {
            Wide::Const => write!(f, "{:#x}", (high as u64) << 32 | low as u64)?,
            Wide::MapFd => self.map(f, MapIdx(low), MapBy::Fd)?,
            Wide::MapIndex => self.map(f, MapIdx(low), MapBy::Index)?,
            Wide::MapFdValue => {
                self.map(f, MapIdx(low), MapBy::Fd)?;
                write!(f, "[0]+{high}")?;
            }
            Wide::MapIndexValue => {
                self.map(f, MapIdx(low), MapBy::Index)?;
                write!(f, "[0]+{high}")?;
            }
            Wide::Var => write!(f, "var[{low}:{high}]")?,
            Wide::Func => write!(f, "subprog[{imm:+}]")?,
        }
        match self.style {
            Style::Plain => f.write_str(" ll"),
            Style::Log => Ok(()),
        }
    }

    fn map(&self, f: &mut fmt::Formatter<'_>, map: MapIdx, by: MapBy) -> fmt::Result {
        match (self.names.map(map, by), by) {
            (Some(name), _) => write!(f, "map[{name}]"),
            (None, MapBy::Fd) => write!(f, "map[fd:{}]", map.0 as i32),
            (None, MapBy::Index) => write!(f, "map[idx:{}]", map.0),
        }
    }

    fn call(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let raw @ RawInsn { off, imm, .. } = self.slots.first;
        let target = raw::row_of(raw).map(|row| row.form);
        match target {
            Some(Form::Call(Target::Local)) => write!(f, "call pc{imm:+}"),
            Some(Form::Call(Target::Kfunc)) => match (self.names.kfunc(imm, off), self.style) {
                (Some(name), Style::Log) => write!(f, "call {name}#{imm}"),
                (None, Style::Log) => write!(f, "call kernel-function#{imm}"),
                (_, Style::Plain) => write!(f, "call kfunc#{imm}:{off}"),
            },
            _ => match self.names.helper(imm).filter(|_| target.is_some()) {
                Some(name) => write!(f, "call bpf_{name}#{imm}"),
                None => write!(f, "call unknown#{imm}"),
            },
        }
    }
}

impl AluOp {
    /// The assignment operator; moves are `=`.
    pub const fn symbol(self) -> &'static str {
        match self {
            AluOp::Add => "+=",
            AluOp::Sub => "-=",
            AluOp::Mul => "*=",
            AluOp::Div => "/=",
            AluOp::Mod => "%=",
            AluOp::Sdiv => "s/=",
            AluOp::Smod => "s%=",
            AluOp::Or => "|=",
            AluOp::And => "&=",
            AluOp::Xor => "^=",
            AluOp::Lsh => "<<=",
            AluOp::Rsh => ">>=",
            AluOp::Arsh => "s>>=",
            AluOp::Mov => "=",
        }
    }
}

impl CmpOp {
    /// The comparison operator.
    pub const fn symbol(self) -> &'static str {
        match self {
            CmpOp::Eq => "==",
            CmpOp::Ne => "!=",
            CmpOp::Set => "&",
            CmpOp::Gt => ">",
            CmpOp::Ge => ">=",
            CmpOp::Lt => "<",
            CmpOp::Le => "<=",
            CmpOp::Sgt => "s>",
            CmpOp::Sge => "s>=",
            CmpOp::Slt => "s<",
            CmpOp::Sle => "s<=",
        }
    }
}

impl Swap {
    /// The word before the number of bits.
    pub const fn symbol(self) -> &'static str {
        match self {
            Swap::ToLe => "le",
            Swap::ToBe => "be",
            Swap::Bswap => "bswap",
        }
    }
}

impl AtomicOp {
    /// Its name in functions such as `atomic64_fetch_add`.
    pub const fn name(self) -> &'static str {
        match self {
            AtomicOp::Add => "add",
            AtomicOp::Or => "or",
            AtomicOp::And => "and",
            AtomicOp::Xor => "xor",
            AtomicOp::Xchg => "xchg",
            AtomicOp::Cmpxchg => "cmpxchg",
        }
    }

    /// The assignment operator of the form that does not fetch; the exchanges have none.
    pub const fn symbol(self) -> &'static str {
        match self {
            AtomicOp::Add => "+=",
            AtomicOp::Or => "|=",
            AtomicOp::And => "&=",
            AtomicOp::Xor => "^=",
            AtomicOp::Xchg | AtomicOp::Cmpxchg => "=",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode;

    struct Some5;

    impl Names for Some5 {
        fn helper(&self, id: i32) -> Option<&str> {
            (id == 5).then_some("ktime_get_ns")
        }

        fn kfunc(&self, btf_id: i32, _module: i16) -> Option<&str> {
            (btf_id == 77).then_some("bpf_preempt_disable")
        }

        fn map(&self, map: MapIdx, _by: MapBy) -> Option<&str> {
            (map.0 == 3).then_some("counts")
        }
    }

    fn program(slots: &[[u8; 8]]) -> Program {
        let exit = [0x95, 0, 0, 0, 0, 0, 0, 0];
        let slots: Vec<_> = slots.iter().chain([&exit; 3]).map(|s| RawInsn::from_le_bytes(*s)).collect();
        decode(&slots).unwrap()
    }

    #[test]
    fn log_text_is_the_kernels() {
        let check = |slot: [u8; 8], want: &str| {
            assert_eq!(log(&program(&[slot]), InsnIdx(0), &Some5).to_string(), want);
        };
        check([0xb7, 0, 0, 0, 1, 0, 0, 0], "(b7) r0 = 1");
        check([0x04, 3, 0, 0, 0xfb, 0xff, 0xff, 0xff], "(04) w3 += -5");
        check([0x3f, 0x43, 1, 0, 0, 0, 0, 0], "(3f) r3 s/= r4");
        check([0x37, 0x01, 2, 0, 8, 0, 0, 0], "(37) r1 /= 8");
        check([0x15, 3, 1, 0, 0xfb, 0xff, 0xff, 0xff], "(15) if r3 == 0xfffffffb goto pc+1");
        check([0x4e, 0x43, 1, 0, 0, 0, 0, 0], "(4e) if w3 & w4 goto pc+1");
        check([0x61, 0x43, 1, 0, 0, 0, 0, 0], "(61) r3 = *(u32 *)(r4 +1)");
        check([0x91, 0x43, 0xff, 0xff, 0, 0, 0, 0], "(91) r3 = *(s8 *)(r4 -1)");
        check([0x7a, 0x03, 8, 0, 16, 0, 0, 0], "(7a) *(u64 *)(r3 +8) = 16");
        check([0xbc, 0x43, 8, 0, 0, 0, 0, 0], "(bc) w3 = (s8)w4");
        check([0xbc, 0x11, 32, 0, 0, 0, 0, 0], "(bc) w1 = (s32)w1");
        check([0xbf, 0x43, 1, 0, 0, 0, 1, 0], "(bf) r3 = addr_space_cast(r4, 1, 0)");
        check([0xd4, 3, 0, 0, 16, 0, 0, 0], "(d4) r3 = le16 r3");
        check([0xd7, 3, 0, 0, 7, 0, 0, 0], "(d7) r3 = bswap7 r3");
        check([0x84, 3, 0, 0, 0, 0, 0, 0], "(84) w3 = -w3");
        check([0xc3, 0x43, 0xf8, 0xff, 0x40, 0, 0, 0], "(c3) lock *(u32 *)(r3 -8) |= r4");
        check([0xd3, 0x43, 0xf8, 0xff, 0x41, 0, 0, 0], "(d3) r4 = atomic_fetch_or((u8 *)(r3 -8), r4)");
        check([0xdb, 0x43, 0xf8, 0xff, 0xf1, 0, 0, 0], "(db) r0 = atomic64_cmpxchg((u64 *)(r3 -8), r0, r4)");
        check([0xcb, 0x43, 0xf8, 0xff, 0, 1, 0, 0], "(cb) r3 = load_acquire((u16 *)(r4 -8))");
        check([0xdb, 0x43, 0xf8, 0xff, 2, 0, 0, 0], "BUG_db");
        check([0x40, 0x40, 0, 0, 0xfb, 0xff, 0xff, 0xff], "(40) r0 = *(u32 *)skb[r4 + -5]");
        check([0x06, 0, 0, 0, 1, 0, 0, 0], "(06) gotol pc+1");
        check([0x85, 0, 0, 0, 5, 0, 0, 0], "(85) call bpf_ktime_get_ns#5");
        check([0x85, 0, 0, 0, 0xff, 0xff, 0xff, 0xff], "(85) call unknown#-1");
        check([0x85, 0x10, 0, 0, 1, 0, 0, 0], "(85) call pc+1");
        check([0x85, 0x20, 0, 0, 77, 0, 0, 0], "(85) call bpf_preempt_disable#77");
    }

    #[test]
    fn wide_loads_print_what_they_load() {
        let check = |src: u8, low: u8, high: u8, logged: &str, plainly: &str| {
            let program = program(&[[0x18, src << 4 | 1, 0, 0, low, 0, 0, 0], [0, 0, 0, 0, high, 0, 0, 0]]);
            assert_eq!(log(&program, InsnIdx(0), &Some5).to_string(), logged);
            assert_eq!(plain(&program, InsnIdx(0), &Some5).to_string(), plainly);
        };
        check(0, 1, 1, "(18) r1 = 0x100000001", "r1 = 0x100000001 ll");
        check(1, 3, 0, "(18) r1 = map[counts]", "r1 = map[counts] ll");
        check(2, 7, 5, "(18) r1 = map[fd:7][0]+5", "r1 = map[fd:7][0]+5 ll");
        check(6, 7, 5, "(18) r1 = map[idx:7][0]+5", "r1 = map[idx:7][0]+5 ll");
        check(3, 7, 0, "(18) r1 = var[7:0]", "r1 = var[7:0] ll");
        check(4, 2, 0, "(18) r1 = subprog[+2]", "r1 = subprog[+2] ll");
    }

    #[test]
    fn what_no_instruction_encodes_prints_as_bytes() {
        let exit_with_offset = program(&[[0x95, 0, 7, 0, 0, 0, 0, 0]]);
        assert_eq!(plain(&exit_with_offset, InsnIdx(0), &NoNames).to_string(), ".raw 9500070000000000");
        assert_eq!(log(&exit_with_offset, InsnIdx(0), &NoNames).to_string(), "(95) exit");
        let bad = program(&[[0x07, 0x0b, 0, 0, 5, 0, 0, 0]]);
        assert_eq!(plain(&bad, InsnIdx(0), &NoNames).to_string(), ".raw 070b000005000000");
        assert_eq!(log(&bad, InsnIdx(0), &NoNames).to_string(), "(07) r11 += 5");
    }

    #[test]
    fn an_instruction_prints_without_its_program() {
        assert_eq!(Insn::Jump { to: 3, long: true }.to_string(), "gotol pc+3");
        let bad = Insn::Bad { why: BadField::Register(11), flow: BadFlow::Next };
        assert_eq!(bad.to_string(), "bad (Register(11))");
    }
}
