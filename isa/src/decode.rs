//! Slots to instructions.
//!
//! Decoding refuses what no path need reach to be wrong: an unknown opcode, half a wide load, a jump that leaves the
//! program or lands inside a wide load. What Linux refuses only on instructions that it walks decodes to
//! [`Insn::Bad`].

use crate::insn::*;
use crate::program::{Program, Subprog};
use crate::raw::{self, RawInsn};
use crate::reg::Reg;
use crate::rows::{Form, Row, Target, Wide};

/// Why slots are not a program.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum DecodeError {
    #[error("program has no instructions")]
    Empty,
    #[error("{0} instruction slots (at most {max} fit a program)", max = Program::MAX_SLOTS)]
    TooLong(usize),
    #[error("unknown opcode {code:02x} at slot {slot}")]
    UnknownOpcode { slot: u32, code: u8 },
    #[error("load at slot {slot} of an unknown mode, or with a non-zero immediate")]
    LoadFields { slot: u32 },
    #[error("wide load at slot {slot} has no valid second half")]
    HalfWide { slot: u32 },
    #[error(
        "wide load at slot {slot} has pseudo source {src} (0 to 6), or a second immediate where its source has none"
    )]
    WideSource { slot: u32, src: u8 },
    #[error("jump out of range from slot {slot} to {to}")]
    JumpOutOfRange { slot: u32, to: i64 },
    #[error("jump from slot {slot} into the middle of the wide load at slot {to}")]
    JumpIntoWide { slot: u32, to: u32 },
    #[error("call from slot {slot} to invalid destination {to}")]
    CallOutOfRange { slot: u32, to: i64 },
}

impl DecodeError {
    /// The slot it is about.
    pub fn slot(&self) -> Option<u32> {
        match *self {
            DecodeError::Empty | DecodeError::TooLong(_) => None,
            DecodeError::UnknownOpcode { slot, .. }
            | DecodeError::LoadFields { slot }
            | DecodeError::HalfWide { slot }
            | DecodeError::WideSource { slot, .. }
            | DecodeError::JumpOutOfRange { slot, .. }
            | DecodeError::JumpIntoWide { slot, .. }
            | DecodeError::CallOutOfRange { slot, .. } => Some(slot),
        }
    }
}

/// Decodes a whole program. Subprograms are found from calls and callback references; names, linkage and lines are
/// for the caller to add.
pub fn decode(raw: &[RawInsn]) -> Result<Program, DecodeError> {
    if raw.is_empty() {
        return Err(DecodeError::Empty);
    }
    if raw.len() > Program::MAX_SLOTS {
        return Err(DecodeError::TooLong(raw.len()));
    }
    let map = SlotMap::new(raw)?;
    let mut insns = Vec::with_capacity(map.first.len());
    let mut starts = vec![InsnIdx(0)];
    for (at, &slot) in map.first.iter().enumerate() {
        let insn = Decoder { raw, map: &map, slot }.insn()?;
        let at = InsnIdx(at as u32);
        starts.extend(insn.function_target().map(|to| at.target(to)));
        insns.push(insn);
    }
    starts.sort_unstable();
    starts.dedup();
    let end = InsnIdx(insns.len() as u32);
    let ends = starts.iter().skip(1).copied().chain([end]);
    let subprogs = starts.iter().zip(ends).map(|(&start, end)| Subprog::new(start, end)).collect();
    let mut slots = map.first;
    slots.push(raw.len() as u32);
    Ok(Program::from_parts(insns, slots, raw.to_vec(), subprogs))
}

/// Which instruction each slot belongs to.
struct SlotMap {
    first: Vec<u32>,
    /// Per slot: the instruction that starts there, or `u32::MAX` for the second half of a wide load.
    insn_at: Vec<u32>,
}

impl SlotMap {
    fn new(raw: &[RawInsn]) -> Result<SlotMap, DecodeError> {
        let mut map = SlotMap { first: Vec::with_capacity(raw.len()), insn_at: vec![u32::MAX; raw.len()] };
        let mut slot = 0;
        while let Some(insn) = raw.get(slot) {
            if raw::has_bad_load_fields(*insn) {
                return Err(DecodeError::LoadFields { slot: slot as u32 });
            }
            if raw::rows_of(insn.code).next().is_none() {
                return Err(DecodeError::UnknownOpcode { slot: slot as u32, code: insn.code });
            }
            if let Some(at) = map.insn_at.get_mut(slot) {
                *at = map.first.len() as u32;
            }
            map.first.push(slot as u32);
            if raw::is_wide(insn.code) {
                match raw.get(slot + 1) {
                    Some(RawInsn { code: 0, dst: 0, src: 0, off: 0, .. }) => slot += 1,
                    _ => return Err(DecodeError::HalfWide { slot: slot as u32 }),
                }
            }
            slot += 1;
        }
        Ok(map)
    }
}

struct Decoder<'a> {
    raw: &'a [RawInsn],
    map: &'a SlotMap,
    slot: u32,
}

impl Decoder<'_> {
    fn slot_raw(&self, ahead: usize) -> RawInsn {
        self.raw.get(self.slot as usize + ahead).copied().unwrap_or_default()
    }

    fn insn(&self) -> Result<Insn, DecodeError> {
        let raw = self.slot_raw(0);
        if let Some(row) = raw::row_of(raw) {
            return match self.fields(raw, row)? {
                Ok(insn) => Ok(insn),
                Err(why) => self.bad(raw, row.form, why),
            };
        }
        let unknown = DecodeError::UnknownOpcode { slot: self.slot, code: raw.code };
        let first = raw::rows_of(raw.code).next().ok_or(unknown)?;
        let why = match first.form {
            Form::Atomic(..) | Form::LoadAcquire | Form::StoreRelease => match raw::nearest_row(raw) {
                Some(_) => BadField::AtomicSize,
                None => BadField::AtomicOp,
            },
            Form::Imm(_) => return Err(DecodeError::WideSource { slot: self.slot, src: raw.src }),
            _ => BadField::Reserved,
        };
        self.bad(raw, first.form, why)
    }

    fn bad(&self, raw: RawInsn, form: Form, why: BadField) -> Result<Insn, DecodeError> {
        let flow = match form {
            Form::Jump => BadFlow::Jump(self.jump(raw.off as i64)?),
            Form::JumpLong => BadFlow::Jump(self.jump(raw.imm as i64)?),
            Form::Branch(_) | Form::MayGoto => BadFlow::Branch(self.jump(raw.off as i64)?),
            Form::Exit => BadFlow::Exit,
            Form::Call(Target::Local) | Form::Imm(Wide::Func) => BadFlow::Call(self.function(raw.imm as i64)?),
            _ => BadFlow::Next,
        };
        Ok(Insn::Bad { why, flow })
    }

    /// A relative jump in slots, as a relative jump in instructions.
    fn jump(&self, off: i64) -> Result<i32, DecodeError> {
        let to = self.slot as i64 + 1 + off;
        let insn = usize::try_from(to).ok().and_then(|to| self.map.insn_at.get(to).copied());
        match insn {
            None => Err(DecodeError::JumpOutOfRange { slot: self.slot, to }),
            Some(u32::MAX) => Err(DecodeError::JumpIntoWide { slot: self.slot, to: to as u32 - 1 }),
            Some(insn) => Ok(self.relative(insn)),
        }
    }

    /// A function reference in slots, likewise.
    fn function(&self, off: i64) -> Result<i32, DecodeError> {
        self.jump(off).map_err(|_| DecodeError::CallOutOfRange { slot: self.slot, to: self.slot as i64 + 1 + off })
    }

    fn relative(&self, insn: u32) -> i32 {
        let here = self.map.insn_at.get(self.slot as usize).copied().unwrap_or_default();
        (insn as i64 - here as i64 - 1) as i32
    }

    /// The instruction, or the field that Linux refuses in it.
    fn fields(&self, raw: RawInsn, row: &Row) -> Result<Result<Insn, BadField>, DecodeError> {
        let (dst, src) = (reg(raw.dst), reg(raw.src));
        let (width, off) = (raw.width(), raw.off);
        let operand = if raw.is_reg() { src.map(Operand::Reg) } else { Ok(Operand::Imm(raw.imm)) };
        let unused_operand = if raw.is_reg() { raw.imm == 0 } else { raw.src == 0 };
        // Of two bad registers Linux names the source; conditional jumps look at the destination before all else.
        Ok(match row.form {
            Form::Alu(op) => need(unused_operand && self.alu_off_is_clear(raw, op), || {
                Ok(Insn::Alu { op, width, src: operand?, dst: dst? })
            }),
            Form::MovSx(from) => need(raw.imm == 0, || Ok(Insn::MovSx { width, from, src: src?, dst: dst? })),
            Form::Neg => need(raw.src == 0 && raw.off == 0 && raw.imm == 0, || Ok(Insn::Neg { width, dst: dst? })),
            Form::Swap(kind, size) => need(raw.src == 0 && raw.off == 0, || Ok(Insn::Swap { kind, size, dst: dst? })),
            Form::AddrCast => match raw.imm {
                1 => src.and_then(|src| Ok(Insn::AddrCast { to: Cast::ToKernel, src, dst: dst? })),
                0x1_0000 => src.and_then(|src| Ok(Insn::AddrCast { to: Cast::ToUser, src, dst: dst? })),
                _ => Err(BadField::Cast),
            },
            Form::Imm(kind) => {
                let next = self.slot_raw(1).imm as u32;
                let map = MapIdx(raw.imm as u32);
                let value = match kind {
                    Wide::Const => Imm64::Const([raw.imm as u32, next]),
                    Wide::MapFd => Imm64::Map { map, by: MapBy::Fd },
                    Wide::MapIndex => Imm64::Map { map, by: MapBy::Index },
                    Wide::MapFdValue => Imm64::MapValue { map, off: next, by: MapBy::Fd },
                    Wide::MapIndexValue => Imm64::MapValue { map, off: next, by: MapBy::Index },
                    Wide::Var => Imm64::Var { btf_id: raw.imm as u32, btf_obj: next },
                    Wide::Func => Imm64::Func { to: self.function(raw.imm as i64)? },
                };
                if next != 0 && matches!(kind, Wide::MapFd | Wide::MapIndex) {
                    return Err(DecodeError::WideSource { slot: self.slot, src: raw.src });
                }
                need(raw.off == 0, || Ok(Insn::Imm { dst: dst?, value }))
            }
            Form::Load(size, signed) => {
                need(raw.imm == 0, || Ok(Insn::Load { size, signed, base: src?, dst: dst?, off }))
            }
            Form::Store(size) => {
                let value = if raw.is_stx() { src.map(Operand::Reg) } else { Ok(Operand::Imm(raw.imm)) };
                need(if raw.is_stx() { raw.imm == 0 } else { raw.src == 0 }, || {
                    Ok(Insn::Store { size, src: value?, base: dst?, off })
                })
            }
            Form::Atomic(op, fetch) => src.and_then(|src| {
                let width = if raw.size() == Size::W { Width::W32 } else { Width::W64 };
                Ok(Insn::Atomic { op, fetch, width, base: dst?, off, src })
            }),
            Form::LoadAcquire => src.and_then(|base| Ok(Insn::LoadAcquire { size: raw.size(), dst: dst?, base, off })),
            Form::StoreRelease => src.and_then(|src| Ok(Insn::StoreRelease { size: raw.size(), base: dst?, off, src })),
            Form::PacketAbs(size) => need(raw.dst == 0 && raw.src == 0 && raw.off == 0, || {
                Ok(Insn::Packet { size, index: None, off: raw.imm })
            }),
            Form::PacketInd(size) => {
                need(raw.dst == 0 && raw.off == 0, || Ok(Insn::Packet { size, index: Some(src?), off: raw.imm }))
            }
            Form::Jump => {
                let to = self.jump(raw.off as i64)?;
                need(raw.dst == 0 && raw.src == 0 && raw.imm == 0, || Ok(Insn::Jump { to, long: false }))
            }
            Form::JumpLong => {
                let to = self.jump(raw.imm as i64)?;
                need(raw.dst == 0 && raw.src == 0 && raw.off == 0, || Ok(Insn::Jump { to, long: true }))
            }
            Form::Branch(op) => {
                let to = self.jump(raw.off as i64)?;
                dst.and_then(|lhs| need(unused_operand, || Ok(Insn::Branch { op, width, lhs, rhs: operand?, to })))
            }
            Form::MayGoto => {
                let to = self.jump(raw.off as i64)?;
                let clear = raw.dst == 0 && raw.src == 0 && raw.imm == 0;
                if clear { Ok(Insn::MayGoto { to }) } else { Err(BadField::MayGoto) }
            }
            Form::Call(target) => {
                let callee = match target {
                    Target::Helper => Callee::Helper(raw.imm),
                    Target::Local => Callee::Local { to: self.function(raw.imm as i64)? },
                    Target::Kfunc => Callee::Kfunc { btf_id: raw.imm, module: raw.off },
                };
                need(raw.dst == 0 && (raw.off == 0 || target == Target::Kfunc), || Ok(Insn::Call(callee)))
            }
            // LLVM puts the register into dst, older versions put it into the immediate.
            Form::CallReg => {
                let number = match (raw.dst, raw.imm) {
                    (0, imm) => u8::try_from(imm).ok(),
                    (dst, 0) => Some(dst),
                    _ => None,
                };
                let clear = raw.src == 0 && raw.off == 0;
                match number.and_then(Reg::new) {
                    Some(reg) if clear => Ok(Insn::Call(Callee::Reg(reg))),
                    _ => return Err(DecodeError::UnknownOpcode { slot: self.slot, code: raw.code }),
                }
            }
            // Linux ignores the offset of an exit.
            Form::Exit => need(raw.dst == 0 && raw.src == 0 && raw.imm == 0, || Ok(Insn::Exit)),
        })
    }

    fn alu_off_is_clear(&self, raw: RawInsn, op: AluOp) -> bool {
        match op {
            AluOp::Sdiv | AluOp::Smod => raw.off == 1,
            AluOp::Add | AluOp::Sub | AluOp::Mul | AluOp::Div | AluOp::Mod | AluOp::Or | AluOp::And | AluOp::Xor => {
                raw.off == 0
            }
            AluOp::Lsh | AluOp::Rsh | AluOp::Arsh | AluOp::Mov => raw.off == 0,
        }
    }
}

fn need(clear: bool, build: impl FnOnce() -> Result<Insn, BadField>) -> Result<Insn, BadField> {
    if clear { build() } else { Err(BadField::Reserved) }
}

fn reg(number: u8) -> Result<Reg, BadField> {
    Reg::new(number).ok_or(BadField::Register(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(bytes: [u8; 8]) -> Result<Insn, DecodeError> {
        decode(&[RawInsn::from_le_bytes(bytes)]).map(|p| p.insns()[0])
    }

    #[test]
    fn fields_that_linux_refuses_on_reached_paths_decode_as_bad() {
        let check = |bytes, why| assert_eq!(one(bytes), Ok(Insn::Bad { why, flow: BadFlow::Next }));
        check([0x07, 0x0b, 0, 0, 5, 0, 0, 0], BadField::Register(11));
        check([0x07, 0x03, 1, 0, 5, 0, 0, 0], BadField::Reserved);
        check([0xd3, 0x3a, 0xf8, 0xff, 1, 0, 0, 0], BadField::AtomicSize);
        check([0xdb, 0x3a, 0xf8, 0xff, 2, 0, 0, 0], BadField::AtomicOp);
        check([0xbf, 0x43, 1, 0, 2, 0, 0, 0], BadField::Cast);
    }

    #[test]
    fn a_bad_call_begins_a_function_all_the_same() {
        // call +1 with an offset; exit; exit
        let bytes = [[0x85, 0x10, 1, 0, 1, 0, 0, 0], [0x95, 0, 0, 0, 0, 0, 0, 0], [0x95, 0, 0, 0, 0, 0, 0, 0]];
        let program = decode(&bytes.map(RawInsn::from_le_bytes)).unwrap();
        assert_eq!(program.insns()[0], Insn::Bad { why: BadField::Reserved, flow: BadFlow::Call(1) });
        assert_eq!(program.subprogs().len(), 2);
    }

    #[test]
    fn shape_errors_name_their_slot() {
        assert_eq!(decode(&[]).err(), Some(DecodeError::Empty));
        assert_eq!(one([0xff; 8]), Err(DecodeError::UnknownOpcode { slot: 0, code: 0xff }));
        assert_eq!(one([0x18, 0, 0, 0, 0, 0, 0, 0]), Err(DecodeError::HalfWide { slot: 0 }));
        assert_eq!(one([0x05, 0, 1, 0, 0, 0, 0, 0]), Err(DecodeError::JumpOutOfRange { slot: 0, to: 2 }));
    }

    #[test]
    fn targets_count_instructions_not_slots() {
        // goto over a wide load
        let bytes = [[0x05, 0, 2, 0, 0, 0, 0, 0], [0x18, 1, 0, 0, 7, 0, 0, 0], [0; 8], [0x95, 0, 0, 0, 0, 0, 0, 0]];
        let program = decode(&bytes.map(RawInsn::from_le_bytes)).unwrap();
        assert_eq!(program.insns()[0], Insn::Jump { to: 1, long: false });
        assert_eq!(program.slot(InsnIdx(2)), 3);
    }
}
