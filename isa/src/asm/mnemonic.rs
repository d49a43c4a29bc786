//! The mnemonic syntax of the public BPF conformance suite: `add %r1, %r2`. Mnemonics are the table's names.

use super::AsmError;
use super::algebra::base_off;
use super::cursor::Cursor;
use super::parse::Statement;
use crate::insn::*;
use crate::rows::{Form, ROWS, Row};

pub(super) fn statement(c: &mut Cursor) -> Result<Statement, AsmError> {
    let unknown = c.error("an instruction");
    let name = c.word("an instruction")?;
    if name == "lock" {
        return locked(c);
    }
    let (row, width) = row(name).ok_or(unknown.clone())?;
    Ok(match row.form {
        Form::Alu(op) => {
            let dst = c.reg()?.0;
            c.punct(",")?;
            Insn::Alu { op, width, dst, src: c.operand()? }.into()
        }
        Form::MovSx(from) => {
            let dst = c.reg()?.0;
            c.punct(",")?;
            Insn::MovSx { width, from, dst, src: c.reg()?.0 }.into()
        }
        Form::Neg => Insn::Neg { width, dst: c.reg()?.0 }.into(),
        Form::Swap(kind, size) => Insn::Swap { kind, size, dst: c.reg()?.0 }.into(),
        Form::Imm(_) => {
            let dst = c.reg()?.0;
            c.punct(",")?;
            Statement::wide(dst, c.wide()?)
        }
        Form::Load(size, signed) => {
            let dst = c.reg()?.0;
            c.punct(",")?;
            let (base, off) = bracketed(c)?;
            Insn::Load { size, signed, dst, base, off }.into()
        }
        Form::Store(size) => {
            let (base, off) = bracketed(c)?;
            c.punct(",")?;
            let src = if name.starts_with("stx") { Operand::Reg(c.reg()?.0) } else { Operand::Imm(c.imm32()?) };
            Insn::Store { size, base, off, src }.into()
        }
        Form::PacketAbs(size) => Insn::Packet { size, index: None, off: c.imm32()? }.into(),
        Form::PacketInd(size) => {
            let index = Some(c.reg()?.0);
            let off = if c.eat_punct(",") { c.imm32()? } else { 0 };
            Insn::Packet { size, index, off }.into()
        }
        Form::Jump => Statement::jump(Insn::Jump { to: 0, long: false }, c.target()?),
        Form::JumpLong => Statement::jump(Insn::Jump { to: 0, long: true }, c.target()?),
        Form::Branch(op) => {
            let lhs = c.reg()?.0;
            c.punct(",")?;
            let rhs = c.operand()?;
            c.punct(",")?;
            Statement::jump(Insn::Branch { op, width, lhs, rhs, to: 0 }, c.target()?)
        }
        // The suite has no spelling for these; the kernel's is read before a line comes here.
        Form::AddrCast | Form::Atomic(..) | Form::LoadAcquire | Form::StoreRelease => return Err(unknown),
        Form::MayGoto | Form::Call(_) | Form::CallReg | Form::Exit => return Err(unknown),
    })
}

/// The row of a mnemonic and the width that its ending gives.
fn row(name: &str) -> Option<(&'static Row, Width)> {
    let known = |name: &str| ROWS.iter().find(|row| row.name == name);
    if let Some(alias) = match name {
        "ja32" => Some("jal"),
        "swap16" => Some("bswap16"),
        "swap32" => Some("bswap32"),
        "swap64" => Some("bswap64"),
        "stxb" => Some("stb"),
        "stxh" => Some("sth"),
        "stxw" => Some("stw"),
        "stxdw" => Some("stdw"),
        _ => None,
    } {
        return Some((known(alias)?, Width::W64));
    }
    let is_movsx = name.starts_with("movsx");
    if !is_movsx && let Some(row) = known(name) {
        return Some((row, Width::W64));
    }
    let (stem, width) = match name.strip_suffix("32") {
        Some(stem) => (stem, Width::W32),
        None => (name.strip_suffix("64")?, Width::W64),
    };
    let row = known(stem)?;
    let has_widths = match row.form {
        Form::Alu(_) | Form::Neg | Form::Branch(_) => true,
        Form::MovSx(from) => from.bits() < width.bits(),
        _ => false,
    };
    has_widths.then_some((row, width))
}

/// `[%r1+4]`.
fn bracketed(c: &mut Cursor) -> Result<(crate::Reg, i16), AsmError> {
    c.punct("[")?;
    let address = base_off(c)?;
    c.punct("]")?;
    Ok(address)
}

/// `lock [fetch] add32 [%r1+4], %r2`.
fn locked(c: &mut Cursor) -> Result<Statement, AsmError> {
    let says_fetch = c.eat_word("fetch");
    let unknown = c.error("add, or, and, xor, xchg or cmpxchg");
    let name = c.word("an operation after `lock`")?;
    let (name, width) = name.strip_suffix("32").map_or((name, Width::W64), |stem| (stem, Width::W32));
    let ops = [AtomicOp::Add, AtomicOp::Or, AtomicOp::And, AtomicOp::Xor, AtomicOp::Xchg, AtomicOp::Cmpxchg];
    let op = ops.into_iter().find(|op| op.name() == name).ok_or(unknown)?;
    let fetch = says_fetch || matches!(op, AtomicOp::Xchg | AtomicOp::Cmpxchg);
    let (base, off) = bracketed(c)?;
    c.punct(",")?;
    Ok(Insn::Atomic { op, fetch, width, base, off, src: c.reg()?.0 }.into())
}
