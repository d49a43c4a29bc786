//! Instructions to slots: the inverse of [`decode`](crate::decode::decode).

use crate::insn::*;
use crate::program::Program;
use crate::raw::RawInsn;
use crate::rows::{Form, ROWS, Row, Rule, Target, Wide};

/// Encodes one instruction whose jump distance, if it has one, is `to` *slots*.
///
/// Returns one slot, or two for a wide load. `None` when the distance does not fit the encoding, and for
/// [`Insn::Bad`], which only its program's raw slots can reproduce.
pub fn encode_one(insn: &Insn, to: i32) -> Option<(RawInsn, Option<RawInsn>)> {
    let row = row(insn)?;
    let mut raw = RawInsn { code: row.code, ..RawInsn::default() };
    let mut second = None;
    match row.rule {
        Rule::None => {}
        Rule::Off(off) => raw.off = off,
        Rule::Imm(imm) => raw.imm = imm,
        Rule::Src(src) => raw.src = src,
    }
    match *insn {
        Insn::Alu { width, dst, src, .. } => {
            raw.code |= alu_class(width);
            raw.dst = dst as u8;
            operand(&mut raw, src);
        }
        Insn::MovSx { width, dst, src, .. } => {
            raw.code |= alu_class(width) | REG;
            (raw.dst, raw.src) = (dst as u8, src as u8);
        }
        Insn::Neg { width, dst } => {
            raw.code |= alu_class(width);
            raw.dst = dst as u8;
        }
        Insn::Swap { dst, .. } => raw.dst = dst as u8,
        Insn::AddrCast { to, dst, src } => {
            (raw.dst, raw.src) = (dst as u8, src as u8);
            raw.imm = match to {
                Cast::ToKernel => 1,
                Cast::ToUser => 0x1_0000,
            };
        }
        Insn::Imm { dst, value } => {
            raw.dst = dst as u8;
            let (low, high) = match value {
                Imm64::Const([low, high]) => (low, high),
                Imm64::Map { map, .. } => (map.0, 0),
                Imm64::MapValue { map, off, .. } => (map.0, off),
                Imm64::Var { btf_id, btf_obj } => (btf_id, btf_obj),
                Imm64::Func { .. } => (to as u32, 0),
            };
            raw.imm = low as i32;
            second = Some(RawInsn { imm: high as i32, ..RawInsn::default() });
        }
        Insn::Load { dst, base, off, .. } => (raw.dst, raw.src, raw.off) = (dst as u8, base as u8, off),
        Insn::Store { base, off, src, .. } => {
            (raw.dst, raw.off) = (base as u8, off);
            match src {
                Operand::Reg(reg) => (raw.code, raw.src) = (raw.code + 1, reg as u8),
                Operand::Imm(imm) => raw.imm = imm,
            }
        }
        Insn::Atomic { width, base, off, src, .. } => {
            raw.code |= size_bits(width.size());
            (raw.dst, raw.src, raw.off) = (base as u8, src as u8, off);
        }
        Insn::LoadAcquire { size, dst, base, off } => {
            raw.code |= size_bits(size);
            (raw.dst, raw.src, raw.off) = (dst as u8, base as u8, off);
        }
        Insn::StoreRelease { size, base, off, src } => {
            raw.code |= size_bits(size);
            (raw.dst, raw.src, raw.off) = (base as u8, src as u8, off);
        }
        Insn::Packet { index, off, .. } => {
            raw.src = index.map_or(0, |index| index as u8);
            raw.imm = off;
        }
        Insn::Jump { long: false, .. } | Insn::MayGoto { .. } => raw.off = i16::try_from(to).ok()?,
        Insn::Jump { long: true, .. } => raw.imm = to,
        Insn::Branch { width, lhs, rhs, .. } => {
            raw.code |= match width {
                Width::W32 => 0x06,
                Width::W64 => 0x05,
            };
            raw.dst = lhs as u8;
            operand(&mut raw, rhs);
            raw.off = i16::try_from(to).ok()?;
        }
        Insn::Call(callee) => match callee {
            Callee::Helper(id) => raw.imm = id,
            Callee::Local { .. } => raw.imm = to,
            Callee::Kfunc { btf_id, module } => (raw.imm, raw.off) = (btf_id, module),
            Callee::Reg(reg) => raw.dst = reg as u8,
        },
        Insn::Exit => {}
        Insn::Bad { .. } => return None,
    }
    Some((raw, second))
}

/// Encodes a whole program; [`Insn::Bad`] comes back as the slots it was decoded from.
pub fn encode(program: &Program) -> Vec<RawInsn> {
    let mut out = Vec::with_capacity(program.slot_count());
    for (at, insn) in program.iter() {
        let to = match insn.relative_target() {
            Some(to) => program.slot(at.target(to)) as i32 - program.slot(at) as i32 - 1,
            None => 0,
        };
        match encode_one(insn, to) {
            Some((first, second)) => out.extend([Some(first), second].into_iter().flatten()),
            None => out.extend_from_slice(program.raw(at)),
        }
    }
    out
}

const REG: u8 = 0x08;

fn alu_class(width: Width) -> u8 {
    match width {
        Width::W32 => 0x04,
        Width::W64 => 0x07,
    }
}

/// Size bits over those of a word, which the table holds.
fn size_bits(size: Size) -> u8 {
    match size {
        Size::W => 0x00,
        Size::H => 0x08,
        Size::B => 0x10,
        Size::D => 0x18,
    }
}

fn operand(raw: &mut RawInsn, operand: Operand) {
    match operand {
        Operand::Reg(reg) => (raw.code, raw.src) = (raw.code | REG, reg as u8),
        Operand::Imm(imm) => raw.imm = imm,
    }
}

/// The table row of an instruction; `None` for [`Insn::Bad`].
pub fn row(insn: &Insn) -> Option<&'static Row> {
    let form = match *insn {
        Insn::Alu { op, .. } => Form::Alu(op),
        Insn::MovSx { from, .. } => Form::MovSx(from),
        Insn::Neg { .. } => Form::Neg,
        Insn::Swap { kind, size, .. } => Form::Swap(kind, size),
        Insn::AddrCast { .. } => Form::AddrCast,
        Insn::Imm { value, .. } => Form::Imm(match value {
            Imm64::Const(_) => Wide::Const,
            Imm64::Map { by: MapBy::Fd, .. } => Wide::MapFd,
            Imm64::Map { by: MapBy::Index, .. } => Wide::MapIndex,
            Imm64::MapValue { by: MapBy::Fd, .. } => Wide::MapFdValue,
            Imm64::MapValue { by: MapBy::Index, .. } => Wide::MapIndexValue,
            Imm64::Var { .. } => Wide::Var,
            Imm64::Func { .. } => Wide::Func,
        }),
        Insn::Load { size, signed, .. } => Form::Load(size, signed),
        Insn::Store { size, .. } => Form::Store(size),
        Insn::Atomic { op, fetch, .. } => Form::Atomic(op, fetch),
        Insn::LoadAcquire { .. } => Form::LoadAcquire,
        Insn::StoreRelease { .. } => Form::StoreRelease,
        Insn::Packet { size, index: None, .. } => Form::PacketAbs(size),
        Insn::Packet { size, index: Some(_), .. } => Form::PacketInd(size),
        Insn::Jump { long: false, .. } => Form::Jump,
        Insn::Jump { long: true, .. } => Form::JumpLong,
        Insn::Branch { op, .. } => Form::Branch(op),
        Insn::MayGoto { .. } => Form::MayGoto,
        Insn::Call(Callee::Helper(_)) => Form::Call(Target::Helper),
        Insn::Call(Callee::Local { .. }) => Form::Call(Target::Local),
        Insn::Call(Callee::Kfunc { .. }) => Form::Call(Target::Kfunc),
        Insn::Call(Callee::Reg(_)) => Form::CallReg,
        Insn::Exit => Form::Exit,
        Insn::Bad { .. } => return None,
    };
    ROWS.iter().find(|row| row.form == form)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::opcodes;
    use crate::{InsnIdx, decode, raw, text};

    /// Every slot of a row with fields at their edges, as the first instruction of a program that ends well.
    fn edge_programs(row: &Row) -> Vec<Vec<RawInsn>> {
        let (codes, n) = opcodes(row);
        let offsets = [0, 1, -1, 8, 127, -128, 128, i16::MAX, i16::MIN];
        let imms = [0, 1, -1, 16, 127, 128, 0x7fff, 0x1_0000, i32::MAX, i32::MIN];
        let exit = RawInsn { code: 0x95, ..RawInsn::default() };
        let mut out = Vec::new();
        for &code in &codes[..n] {
            for (dst, src) in [(0, 0), (1, 0), (0, 9), (3, 4), (9, 10), (10, 1), (5, 0)] {
                for off in offsets {
                    for imm in imms {
                        let mut first = RawInsn { code, dst, src, off, imm };
                        match row.rule {
                            Rule::None => {}
                            Rule::Off(off) => first.off = off,
                            Rule::Imm(imm) => first.imm = imm,
                            Rule::Src(src) => first.src = src,
                        }
                        let seconds: &[i32] = if raw::is_wide(code) { &[0, 1, -1] } else { &[0] };
                        for &imm in seconds {
                            let mut program = vec![first];
                            if raw::is_wide(code) {
                                program.push(RawInsn { imm, ..RawInsn::default() });
                            }
                            program.resize(20, exit);
                            out.push(program);
                        }
                    }
                }
            }
        }
        out
    }

    #[test]
    fn every_row_encodes_to_what_it_was_decoded_from() {
        for row in ROWS {
            let mut seen = 0;
            for slots in edge_programs(row) {
                let Ok(program) = decode(&slots) else { continue };
                let insn = program.insns()[0];
                // Fields that Linux ignores do not survive.
                let ignored = match insn {
                    Insn::Bad { .. } => continue,
                    Insn::Exit => slots[0].off != 0,
                    Insn::Call(Callee::Reg(_)) => slots[0].imm != 0,
                    Insn::Imm { value: Imm64::Func { .. }, .. } => slots[1].imm != 0,
                    _ => false,
                };
                if ignored {
                    continue;
                }
                assert_eq!(super::row(&insn).map(|row| row.name), Some(row.name));
                assert_eq!(encode(&program), slots, "{}: {insn:?}", row.name);
                let again = decode(&encode(&program)).unwrap();
                assert_eq!(again.insns(), program.insns());
                let printed = text::plain(&program, InsnIdx(0), &text::NoNames).to_string();
                assert!(!printed.starts_with(".raw"), "{insn:?}");
                let read = crate::asm::assemble(&printed).unwrap_or_else(|e| panic!("{printed}: {e}"));
                assert_eq!(read.slots, program.raw(InsnIdx(0)), "{printed}");
                seen += 1;
            }
            assert!(seen > 0, "no encoding of {} was tried", row.name);
        }
    }

    #[test]
    fn a_distance_beyond_its_field_is_refused() {
        let check = |insn, to, fits: bool| assert_eq!(encode_one(&insn, to).is_some(), fits);
        check(Insn::Jump { to: 0, long: false }, 0x7fff, true);
        check(Insn::Jump { to: 0, long: false }, 0x8000, false);
        check(Insn::Jump { to: 0, long: true }, 0x8000, true);
        check(Insn::MayGoto { to: 0 }, -0x8001, false);
    }
}
