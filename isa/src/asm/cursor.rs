//! A place in a line of tokens, with what both syntaxes read there: registers, numbers, operands, targets.

use super::AsmError;
use super::lex::{Kind, Token};
use crate::insn::{Imm64, MapBy, MapIdx, Operand, Width};
use crate::reg::Reg;

pub(super) struct Cursor<'a> {
    pub line: u32,
    tokens: Vec<Token<'a>>,
    at: usize,
    end_column: u32,
}

/// Where a jump, call or callback reference leads.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Target {
    /// Slots beyond the next one.
    Distance(i32),
    /// A label; `or_map` if the name of a map is as good.
    Label { name: String, column: u32, or_map: bool },
}

/// What a wide load loads: known now, or known once all labels are.
pub(super) enum WideValue {
    Known(Imm64),
    /// A map by name, with an offset into its value.
    Map(String, Option<u32>),
    Symbol(Target),
}

impl<'a> Cursor<'a> {
    pub fn new(line: u32, text: &'a str, tokens: Vec<Token<'a>>) -> Cursor<'a> {
        Cursor { line, tokens, at: 0, end_column: text.trim_end().chars().count() as u32 + 1 }
    }

    pub fn peek(&self) -> Option<Token<'a>> {
        self.tokens.get(self.at).copied()
    }

    pub fn peek_second(&self) -> Option<Token<'a>> {
        self.tokens.get(self.at + 1).copied()
    }

    /// The word `ahead` tokens from here.
    pub fn word_at(&self, ahead: usize) -> Option<&'a str> {
        match self.tokens.get(self.at + ahead)?.kind {
            Kind::Word(word) => Some(word),
            Kind::Number(_) | Kind::Punct(_) => None,
        }
    }

    pub fn skip(&mut self, tokens: usize) {
        self.at += tokens;
    }

    pub fn column(&self) -> u32 {
        self.peek().map_or(self.end_column, |token| token.column)
    }

    /// That `expected` should stand here.
    pub fn error(&self, expected: impl Into<String>) -> AsmError {
        let found = self.peek().map_or("", |token| token.text).to_string();
        AsmError { line: self.line, column: self.column(), expected: expected.into(), found }
    }

    pub fn end(&self) -> Result<(), AsmError> {
        if self.peek().is_some() { Err(self.error("the end of the line")) } else { Ok(()) }
    }

    pub fn is_punct(&self, punct: &str) -> bool {
        self.peek().is_some_and(|token| token.kind == Kind::Punct(punct))
    }

    pub fn eat_punct(&mut self, punct: &str) -> bool {
        let is = self.is_punct(punct);
        self.at += is as usize;
        is
    }

    pub fn punct(&mut self, punct: &str) -> Result<(), AsmError> {
        if self.eat_punct(punct) { Ok(()) } else { Err(self.error(format!("`{punct}`"))) }
    }

    pub fn peek_word(&self) -> Option<&'a str> {
        self.word_at(0)
    }

    pub fn eat_word(&mut self, word: &str) -> bool {
        let is = self.peek_word() == Some(word);
        self.at += is as usize;
        is
    }

    pub fn word(&mut self, expected: &str) -> Result<&'a str, AsmError> {
        let word = self.peek_word().ok_or_else(|| self.error(expected))?;
        self.at += 1;
        Ok(word)
    }

    /// An operator with an optional `s` before it, out of a table of symbols.
    pub fn operator<T: Copy>(&mut self, table: &[(T, &str)], expected: &str) -> Result<T, AsmError> {
        let start = self.at;
        let signed = self.eat_word("s");
        if let Some(Token { kind: Kind::Punct(punct), .. }) = self.peek() {
            let symbol = if signed { format!("s{punct}") } else { punct.to_string() };
            if let Some((op, _)) = table.iter().find(|(_, s)| *s == symbol) {
                self.at += 1;
                return Ok(*op);
            }
        }
        self.at = start;
        Err(self.error(expected))
    }

    /// Whether a register stands here; `r11` and above count, so that the error names them.
    pub fn is_reg(&self) -> bool {
        self.peek_word().is_some_and(|word| register(word).is_some())
    }

    pub fn reg(&mut self) -> Result<(Reg, Width), AsmError> {
        match self.peek_word().and_then(register) {
            Some((Some(reg), width)) => {
                self.at += 1;
                Ok((reg, width))
            }
            Some((None, _)) | None => Err(self.error("a register, r0 to r10 or w0 to w10")),
        }
    }

    /// A register that must be this one.
    pub fn same_reg(&mut self, reg: Reg) -> Result<(), AsmError> {
        if self.peek_word().and_then(register).is_some_and(|(found, _)| found == Some(reg)) {
            self.at += 1;
            return Ok(());
        }
        Err(self.error(format!("`{reg}`, the register that this form reads and writes")))
    }

    /// A number with an optional sign.
    pub fn integer(&mut self, expected: &str) -> Result<i128, AsmError> {
        let start = self.at;
        let negative = !self.eat_punct("+") && self.eat_punct("-");
        match self.peek().map(|token| token.kind) {
            Some(Kind::Number(magnitude)) => {
                self.at += 1;
                Ok(if negative { -(magnitude as i128) } else { magnitude as i128 })
            }
            _ => {
                self.at = start;
                Err(self.error(expected))
            }
        }
    }

    /// An integer that `convert` takes.
    fn integer_in<T>(&mut self, expected: &str, convert: impl Fn(i128) -> Option<T>) -> Result<T, AsmError> {
        let start = self.at;
        let value = self.integer(expected)?;
        convert(value).ok_or_else(|| AsmError { found: value.to_string(), ..self.error_at(start, expected) })
    }

    fn error_at(&self, at: usize, expected: &str) -> AsmError {
        let column = self.tokens.get(at).map_or(self.end_column, |token| token.column);
        AsmError { line: self.line, column, expected: expected.into(), found: String::new() }
    }

    /// 32 bits, signed or not: `0xffffffff` is -1.
    pub fn imm32(&mut self) -> Result<i32, AsmError> {
        self.integer_in("a 32-bit number", |value| {
            i32::try_from(value).ok().or_else(|| u32::try_from(value).ok().map(|value| value as i32))
        })
    }

    pub fn imm64(&mut self) -> Result<u64, AsmError> {
        self.integer_in("a 64-bit number", |value| {
            u64::try_from(value).ok().or_else(|| i64::try_from(value).ok().map(|value| value as u64))
        })
    }

    pub fn off16(&mut self) -> Result<i16, AsmError> {
        self.integer_in("a 16-bit offset", |value| i16::try_from(value).ok())
    }

    pub fn u32(&mut self) -> Result<u32, AsmError> {
        self.integer_in("a number below 2^32", |value| u32::try_from(value).ok())
    }

    /// A register, of the width that the operation has, or an immediate.
    pub fn operand(&mut self) -> Result<Operand, AsmError> {
        if self.is_reg() {
            return Ok(Operand::Reg(self.reg()?.0));
        }
        match self.peek().map(|token| token.kind) {
            Some(Kind::Number(_) | Kind::Punct("+" | "-")) => Ok(Operand::Imm(self.imm32()?)),
            _ => Err(self.error("a register or a number")),
        }
    }

    /// `label`, `+3`, `pc+3`.
    pub fn target(&mut self) -> Result<Target, AsmError> {
        let column = self.column();
        let is_pc = self.peek_word() == Some("pc")
            && matches!(self.peek_second(), Some(Token { kind: Kind::Punct("+" | "-"), .. }));
        self.at += is_pc as usize;
        if !is_pc && let Some(name) = self.peek_word() {
            self.at += 1;
            return Ok(Target::Label { name: name.into(), column, or_map: false });
        }
        self.integer_in("a label or a distance, such as +3", |value| i32::try_from(value).ok()).map(Target::Distance)
    }

    /// What follows `=` in a wide load, up to its `ll`; a number needs the `ll` to be wide.
    pub fn wide(&mut self) -> Result<WideValue, AsmError> {
        let bracketed = matches!(self.peek_second(), Some(Token { kind: Kind::Punct("["), .. }));
        match self.peek_word() {
            Some("map") if bracketed => {
                self.at += 2;
                self.map()
            }
            Some("var") if bracketed => {
                self.at += 2;
                let btf_id = self.u32()?;
                self.punct(":")?;
                let btf_obj = self.u32()?;
                self.punct("]")?;
                Ok(WideValue::Known(Imm64::Var { btf_id, btf_obj }))
            }
            Some("subprog") if bracketed => {
                self.at += 2;
                let target = self.target()?;
                self.punct("]")?;
                Ok(WideValue::Symbol(target))
            }
            Some(name) => {
                let column = self.column();
                self.at += 1;
                Ok(WideValue::Symbol(Target::Label { name: name.into(), column, or_map: true }))
            }
            None => {
                let value = self.imm64()?;
                Ok(WideValue::Known(Imm64::Const([value as u32, (value >> 32) as u32])))
            }
        }
    }

    /// `name]`, `fd:3]` or `idx:3]`, and `[0]+off` behind it.
    fn map(&mut self) -> Result<WideValue, AsmError> {
        let name = match self.peek().map(|token| token.kind) {
            Some(Kind::Word(name)) => name,
            _ => return Err(self.error("a map's name, `fd:` or `idx:` and a number")),
        };
        self.at += 1;
        let by = match name {
            "fd" if self.eat_punct(":") => Some((MapBy::Fd, MapIdx(self.imm32()? as u32))),
            "idx" if self.eat_punct(":") => Some((MapBy::Index, MapIdx(self.imm32()? as u32))),
            _ => None,
        };
        self.punct("]")?;
        let mut off = None;
        if self.eat_punct("[") {
            if self.u32()? != 0 {
                self.at -= 1;
                return Err(self.error("0, the only value that a program can take the address of"));
            }
            self.punct("]")?;
            off = Some(if self.is_punct("+") { self.u32()? } else { 0 });
        }
        Ok(match (by, off) {
            (Some((by, map)), None) => WideValue::Known(Imm64::Map { map, by }),
            (Some((by, map)), Some(off)) => WideValue::Known(Imm64::MapValue { map, off, by }),
            (None, off) => WideValue::Map(name.into(), off),
        })
    }
}

/// `r0` to `r10`, `w0` to `w10`; no register for larger numbers.
fn register(word: &str) -> Option<(Option<Reg>, Width)> {
    let (width, digits) = match word.strip_prefix('r') {
        Some(digits) => (Width::W64, digits),
        None => (Width::W32, word.strip_prefix('w')?),
    };
    let is_plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    is_plain.then(|| (digits.parse().ok().and_then(Reg::new), width))
}
