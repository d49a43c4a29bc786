//! The kernel's and clang's syntax: `r1 += r2`.

use super::AsmError;
use super::cursor::{Cursor, WideValue};
use super::lex::{Kind, Token};
use super::parse::{Helpers, Statement};
use crate::insn::*;
use crate::reg::Reg;

macro_rules! symbols_of {
    ($op:ident: $($name:ident),*) => { [$(($op::$name, $op::$name.symbol())),*] };
}

const ALU: &[(AluOp, &str)] =
    &symbols_of!(AluOp: Add, Sub, Mul, Div, Mod, Sdiv, Smod, Or, And, Xor, Lsh, Rsh, Arsh, Mov);
const CMP: &[(CmpOp, &str)] = &symbols_of!(CmpOp: Eq, Ne, Set, Gt, Ge, Lt, Le, Sgt, Sge, Slt, Sle);
const LOCKED: &[(AtomicOp, &str)] = &symbols_of!(AtomicOp: Add, Or, And, Xor);
const FETCHED: [AtomicOp; 4] = [AtomicOp::Add, AtomicOp::Or, AtomicOp::And, AtomicOp::Xor];

/// One instruction; `None` when the line is not in this syntax. `is_wide`: a plain number is a wide constant.
pub(super) fn statement(c: &mut Cursor, is_wide: bool, helpers: Helpers) -> Result<Option<Statement>, AsmError> {
    if c.is_reg() {
        return assignment(c, is_wide).map(Some);
    }
    if c.is_punct("*") {
        let (size, _, base, off) = deref(c)?;
        c.punct("=")?;
        let src = c.operand()?;
        return Ok(Some(Insn::Store { size, base, off, src }.into()));
    }
    let is_locked_store = matches!(c.peek_second(), Some(Token { kind: Kind::Punct("*"), .. }));
    Ok(Some(match c.peek_word() {
        Some("lock") if is_locked_store => {
            c.skip(1);
            locked(c)?
        }
        Some("if") => {
            c.skip(1);
            branch(c)?
        }
        Some("goto") => {
            c.skip(1);
            Statement::jump(Insn::Jump { to: 0, long: false }, c.target()?)
        }
        Some("gotol") => {
            c.skip(1);
            Statement::jump(Insn::Jump { to: 0, long: true }, c.target()?)
        }
        Some("may_goto") => {
            c.skip(1);
            Statement::jump(Insn::MayGoto { to: 0 }, c.target()?)
        }
        Some("store_release") => {
            c.skip(1);
            c.punct("(")?;
            let (size, base, off) = pointer(c)?;
            c.punct(",")?;
            let src = c.reg()?.0;
            c.punct(")")?;
            Insn::StoreRelease { size, base, off, src }.into()
        }
        Some("call") => {
            c.skip(1);
            call(c, helpers)?
        }
        Some("callx") => {
            c.skip(1);
            Insn::Call(Callee::Reg(c.reg()?.0)).into()
        }
        Some("exit") => {
            c.skip(1);
            Insn::Exit.into()
        }
        _ => return Ok(None),
    }))
}

fn assignment(c: &mut Cursor, is_wide: bool) -> Result<Statement, AsmError> {
    let (dst, width) = c.reg()?;
    let op = c.operator(ALU, "`=` or an operator such as `+=`")?;
    if op != AluOp::Mov {
        return Ok(Insn::Alu { op, width, dst, src: c.operand()? }.into());
    }
    if c.is_reg() {
        let src = Operand::Reg(c.reg()?.0);
        return Ok(Insn::Alu { op, width, dst, src }.into());
    }
    match c.peek().map(|token| token.kind) {
        Some(Kind::Punct("(")) => {
            c.skip(1);
            let from = signed_size(c)?;
            c.punct(")")?;
            Ok(Insn::MovSx { width, from, dst, src: c.reg()?.0 }.into())
        }
        Some(Kind::Punct("*")) => load(c, dst),
        Some(Kind::Punct("-")) if !matches!(c.peek_second(), Some(Token { kind: Kind::Number(_), .. })) => {
            c.skip(1);
            c.same_reg(dst)?;
            Ok(Insn::Neg { width, dst }.into())
        }
        Some(Kind::Number(_) | Kind::Punct("-" | "+")) => constant(c, dst, width, is_wide),
        Some(Kind::Word(word)) if matches!(c.peek_second(), Some(Token { kind: Kind::Punct("("), .. })) => {
            c.skip(2);
            let insn = function(c, word, dst)?;
            c.punct(")")?;
            Ok(insn.into())
        }
        Some(Kind::Word(word)) => match swap(word) {
            Some((kind, size)) => {
                c.skip(1);
                c.same_reg(dst)?;
                Ok(Insn::Swap { kind, size, dst }.into())
            }
            None => {
                let value = c.wide()?;
                end_wide(c, is_wide)?;
                Ok(Statement::wide(dst, value))
            }
        },
        Some(Kind::Punct(_)) | None => Err(c.error("a value")),
    }
}

/// A number: a move, or with `ll` a wide load.
fn constant(c: &mut Cursor, dst: Reg, width: Width, is_wide: bool) -> Result<Statement, AsmError> {
    let mut ahead = 1;
    if c.is_punct("-") || c.is_punct("+") {
        ahead = 2;
    }
    if is_wide || c.word_at(ahead) == Some("ll") {
        let value = c.imm64()?;
        end_wide(c, is_wide)?;
        return Ok(Statement::wide(dst, WideValue::Known(Imm64::Const([value as u32, (value >> 32) as u32]))));
    }
    let src =
        Operand::Imm(c.imm32().map_err(|e| AsmError { expected: "a 32-bit number, or `ll` after it".into(), ..e })?);
    Ok(Insn::Alu { op: AluOp::Mov, width, dst, src }.into())
}

fn end_wide(c: &mut Cursor, is_wide: bool) -> Result<(), AsmError> {
    if c.eat_word("ll") || is_wide { Ok(()) } else { Err(c.error("`ll`")) }
}

/// `be16`, `le32`, `bswap64`.
pub(super) fn swap(word: &str) -> Option<(Swap, Size)> {
    [Swap::ToLe, Swap::ToBe, Swap::Bswap].into_iter().find_map(|kind| {
        let size = match word.strip_prefix(kind.symbol())? {
            "16" => Size::H,
            "32" => Size::W,
            "64" => Size::D,
            _ => return None,
        };
        Some((kind, size))
    })
}

fn load(c: &mut Cursor, dst: Reg) -> Result<Statement, AsmError> {
    c.punct("*")?;
    c.punct("(")?;
    let (size, signed) = size(c)?;
    c.punct("*")?;
    c.punct(")")?;
    if c.peek_word() != Some("skb") {
        let (base, off) = address(c)?;
        return Ok(Insn::Load { size, signed, dst, base, off }.into());
    }
    if dst != Reg::R0 || signed || size == Size::D {
        return Err(c.error("an address; packet loads go to r0 and have 8, 16 or 32 bits"));
    }
    c.skip(1);
    c.punct("[")?;
    let index = if c.is_reg() { Some(c.reg()?.0) } else { None };
    if index.is_some() {
        c.eat_punct("+");
    }
    let off = if c.is_punct("]") { 0 } else { c.imm32()? };
    c.punct("]")?;
    Ok(Insn::Packet { size, index, off }.into())
}

/// `*(u32 *)(r1 + 4)`.
fn deref(c: &mut Cursor) -> Result<(Size, bool, Reg, i16), AsmError> {
    c.punct("*")?;
    let (size, base, off) = pointer(c)?;
    Ok((size, false, base, off))
}

/// `(u32 *)(r1 + 4)`.
fn pointer(c: &mut Cursor) -> Result<(Size, Reg, i16), AsmError> {
    c.punct("(")?;
    let at_type = c.error("u8, u16, u32 or u64");
    let (size, signed) = size(c)?;
    if signed {
        return Err(at_type);
    }
    c.punct("*")?;
    c.punct(")")?;
    let (base, off) = address(c)?;
    Ok((size, base, off))
}

/// `(r1 + 4)`.
fn address(c: &mut Cursor) -> Result<(Reg, i16), AsmError> {
    c.punct("(")?;
    let address = base_off(c)?;
    c.punct(")")?;
    Ok(address)
}

/// `r1 + 4`, `r1 +4`, `r1 - 4`, `r1`.
pub(super) fn base_off(c: &mut Cursor) -> Result<(Reg, i16), AsmError> {
    let base = c.reg()?.0;
    let off = if c.is_punct("+") || c.is_punct("-") { c.off16()? } else { 0 };
    Ok((base, off))
}

fn size(c: &mut Cursor) -> Result<(Size, bool), AsmError> {
    let found = match c.peek_word() {
        Some("u8") => (Size::B, false),
        Some("u16") => (Size::H, false),
        Some("u32") => (Size::W, false),
        Some("u64") => (Size::D, false),
        Some("s8" | "i8") => (Size::B, true),
        Some("s16" | "i16") => (Size::H, true),
        Some("s32" | "i32") => (Size::W, true),
        _ => return Err(c.error("a type, such as u32 or s8")),
    };
    c.skip(1);
    Ok(found)
}

fn signed_size(c: &mut Cursor) -> Result<Size, AsmError> {
    let at_type = c.error("s8, s16 or s32");
    match size(c)? {
        (size, true) => Ok(size),
        (_, false) => Err(at_type),
    }
}

/// A function on the right of `dst =`, up to its closing parenthesis.
fn function(c: &mut Cursor, name: &str, dst: Reg) -> Result<Insn, AsmError> {
    let unknown = c.error("load_acquire, addr_space_cast or an atomic operation before `(`");
    match name {
        "load_acquire" => {
            let (size, base, off) = pointer(c)?;
            return Ok(Insn::LoadAcquire { size, dst, base, off });
        }
        "addr_space_cast" => {
            let src = c.reg()?.0;
            c.punct(",")?;
            let at_spaces = c.error("`0, 1` or `1, 0`");
            let to_space = c.u32()?;
            c.punct(",")?;
            return match (to_space, c.u32()?) {
                (0, 1) => Ok(Insn::AddrCast { to: Cast::ToKernel, dst, src }),
                (1, 0) => Ok(Insn::AddrCast { to: Cast::ToUser, dst, src }),
                _ => Err(at_spaces),
            };
        }
        _ => {}
    }
    // clang writes the exchanges without a type.
    let (op, width, base, off) = match name {
        "xchg_64" | "xchg32_32" | "cmpxchg_64" | "cmpxchg32_32" => {
            let op = if name.starts_with('c') { AtomicOp::Cmpxchg } else { AtomicOp::Xchg };
            let width = if name.ends_with("_64") { Width::W64 } else { Width::W32 };
            let (base, off) = base_off(c)?;
            (op, width, base, off)
        }
        _ => {
            let stem = name.strip_prefix("atomic64_").or(name.strip_prefix("atomic_")).ok_or(unknown.clone())?;
            let op = match stem.strip_prefix("fetch_") {
                Some(op) => FETCHED.into_iter().find(|known| known.name() == op),
                None => [AtomicOp::Xchg, AtomicOp::Cmpxchg].into_iter().find(|known| known.name() == stem),
            };
            let op = op.ok_or(unknown)?;
            let at_type = c.error("u32 or u64");
            let (size, base, off) = pointer(c)?;
            let width = match size {
                Size::W => Width::W32,
                Size::D => Width::W64,
                Size::B | Size::H => return Err(at_type),
            };
            (op, width, base, off)
        }
    };
    c.punct(",")?;
    if op != AtomicOp::Cmpxchg {
        c.same_reg(dst)?;
        return Ok(Insn::Atomic { op, fetch: true, width, base, off, src: dst });
    }
    c.same_reg(Reg::R0)?;
    c.punct(",")?;
    let src = c.reg()?.0;
    if dst != Reg::R0 {
        return Err(c.error("r0 on the left of a cmpxchg, before this"));
    }
    Ok(Insn::Atomic { op, fetch: true, width, base, off, src })
}

fn locked(c: &mut Cursor) -> Result<Statement, AsmError> {
    let at_type = c.error("a pointer to u32 or u64 after `lock`");
    let (size, _, base, off) = deref(c)?;
    let width = match size {
        Size::W => Width::W32,
        Size::D => Width::W64,
        Size::B | Size::H => return Err(at_type),
    };
    let op = c.operator(LOCKED, "`+=`, `|=`, `&=` or `^=`")?;
    Ok(Insn::Atomic { op, fetch: false, width, base, off, src: c.reg()?.0 }.into())
}

fn branch(c: &mut Cursor) -> Result<Statement, AsmError> {
    let (lhs, width) = c.reg()?;
    let op = c.operator(CMP, "a comparison, such as `==` or `s<`")?;
    let rhs = c.operand()?;
    if !c.eat_word("goto") {
        return Err(c.error("`goto`"));
    }
    Ok(Statement::jump(Insn::Branch { op, width, lhs, rhs, to: 0 }, c.target()?))
}

/// `5`, `%r2`, `bpf_ktime_get_ns`, `bpf_ktime_get_ns#5`, `kfunc#7:0`, `label`, `pc+2`, `local label`, `helper 5`, `runtime 7`.
fn call(c: &mut Cursor, helpers: Helpers) -> Result<Statement, AsmError> {
    let local = Insn::Call(Callee::Local { to: 0 });
    if c.is_reg() {
        return Ok(Insn::Call(Callee::Reg(c.reg()?.0)).into());
    }
    let Some(word) = c.peek_word() else { return Ok(Insn::Call(Callee::Helper(c.imm32()?)).into()) };
    let has_more = c.peek_second().is_some();
    match word {
        "local" if has_more => {
            c.skip(1);
            Ok(Statement::jump(local, c.target()?))
        }
        "helper" if has_more => {
            c.skip(1);
            let callee = if c.is_reg() { Callee::Reg(c.reg()?.0) } else { Callee::Helper(c.imm32()?) };
            Ok(Insn::Call(callee).into())
        }
        "runtime" if has_more => {
            c.skip(1);
            Ok(Insn::Call(Callee::Kfunc { btf_id: c.imm32()?, module: 0 }).into())
        }
        _ if matches!(c.peek_second(), Some(Token { kind: Kind::Punct("#"), .. })) => {
            c.skip(2);
            let number = c.imm32()?;
            if word != "kfunc" {
                return Ok(Insn::Call(Callee::Helper(number)).into());
            }
            let module = if c.eat_punct(":") { c.off16()? } else { 0 };
            Ok(Insn::Call(Callee::Kfunc { btf_id: number, module }).into())
        }
        _ => match helpers(word.strip_prefix("bpf_").unwrap_or(word)) {
            Some(id) => {
                c.skip(1);
                Ok(Insn::Call(Callee::Helper(id)).into())
            }
            None => Ok(Statement::jump(local, c.target()?)),
        },
    }
}
