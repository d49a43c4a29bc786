//! Lines to slots: labels, directives, and the second pass that knows them all.

use std::collections::BTreeMap;

use super::cursor::{Cursor, Target, WideValue};
use super::lex::{Kind, Token, tokens};
use super::{AsmError, Assembly, algebra, mnemonic};
use crate::encode::encode_one;
use crate::insn::*;
use crate::raw::RawInsn;
use crate::reg::Reg;

/// An instruction; the target of its jump, if it has one, stands beside it.
pub(super) struct Statement {
    pub insn: Insn,
    pub target: Option<Target>,
    /// The map that a wide load names, and an offset into its value.
    pub map: Option<(String, Option<u32>)>,
}

impl From<Insn> for Statement {
    fn from(insn: Insn) -> Statement {
        Statement { insn, target: None, map: None }
    }
}

impl Statement {
    pub fn jump(insn: Insn, target: Target) -> Statement {
        Statement { insn, target: Some(target), map: None }
    }

    pub fn wide(dst: Reg, value: WideValue) -> Statement {
        let load = |value| Insn::Imm { dst, value };
        match value {
            WideValue::Known(value) => load(value).into(),
            WideValue::Symbol(target) => Statement::jump(load(Imm64::Func { to: 0 }), target),
            WideValue::Map(name, off) => {
                let insn = load(Imm64::Map { map: MapIdx(0), by: MapBy::Index });
                Statement { insn, target: None, map: Some((name, off)) }
            }
        }
    }
}

enum Item {
    Insn(Statement),
    Raw(RawInsn),
}

/// Helpers' numbers by name without `bpf_`.
pub(super) type Helpers<'h> = &'h dyn Fn(&str) -> Option<i32>;

pub(super) fn parse(text: &str, helpers: Helpers) -> Result<Assembly, AsmError> {
    let mut pass = Pass::default();
    for (index, line) in text.lines().enumerate() {
        pass.line(line, index as u32 + 1, helpers)?;
    }
    pass.finish()
}

#[derive(Default)]
struct Pass {
    /// With slot and line.
    items: Vec<(Item, u32, u32)>,
    labels: BTreeMap<String, u32>,
    slot: u32,
    /// The slot of the first `exit`, which the conformance suite's syntax takes for a label.
    first_exit: Option<u32>,
}

impl Pass {
    fn line(&mut self, text: &str, number: u32, helpers: Helpers) -> Result<(), AsmError> {
        let mut c = Cursor::new(number, text, tokens(text, number)?);
        while let (Some(label), Some(Token { kind: Kind::Punct(":"), .. })) = (c.peek(), c.peek_second()) {
            // `12:` is the index in a verifier log.
            if let Kind::Word(name) = label.kind
                && self.labels.insert(name.into(), self.slot).is_some()
            {
                return Err(c.error("a label that is defined once"));
            }
            c.skip(2);
        }
        let logged_opcode = opcode_prefix(&mut c);
        if c.peek().is_none() {
            return Ok(());
        }
        if c.eat_word(".raw") {
            return self.raw(&mut c);
        }
        let is_wide = logged_opcode.is_some_and(crate::raw::is_wide);
        let statement = match algebra::statement(&mut c, is_wide, helpers)? {
            Some(statement) => statement,
            None => mnemonic::statement(&mut c)?,
        };
        c.end()?;
        if statement.insn == Insn::Exit {
            self.first_exit.get_or_insert(self.slot);
        }
        let slots = statement.insn.slots();
        self.items.push((Item::Insn(statement), self.slot, number));
        self.slot += slots;
        Ok(())
    }

    fn raw(&mut self, c: &mut Cursor) -> Result<(), AsmError> {
        let expected = "16 hexadecimal digits, the slot's bytes in memory order";
        loop {
            let token = c.peek().filter(|token| token.text.len() == 16).ok_or_else(|| c.error(expected))?;
            let bytes = u64::from_str_radix(token.text, 16).map_err(|_| c.error(expected))?;
            c.skip(1);
            self.items.push((Item::Raw(RawInsn::from_le_bytes(bytes.to_be_bytes())), self.slot, c.line));
            self.slot += 1;
            if c.peek().is_none() {
                return Ok(());
            }
        }
    }

    fn finish(self) -> Result<Assembly, AsmError> {
        let Pass { items, mut labels, first_exit, .. } = self;
        let mut out = Assembly::default();
        let exit = first_exit.filter(|_| !labels.contains_key("exit"));
        for (item, slot, line) in items {
            let (first, second) = match item {
                Item::Raw(raw) => (raw, None),
                Item::Insn(statement) => {
                    let mut names = Names { labels: &labels, exit, maps: &mut out.maps };
                    names.encode(statement, slot, line)?
                }
            };
            for raw in [Some(first), second].into_iter().flatten() {
                out.slots.push(raw);
                out.lines.push(line);
            }
        }
        out.labels = std::mem::take(&mut labels);
        Ok(out)
    }
}

/// `(b7)`, the opcode in a verifier log.
fn opcode_prefix(c: &mut Cursor) -> Option<u8> {
    let hex = c.peek_second().filter(|token| c.is_punct("(") && token.text.len() == 2)?;
    let code = u8::from_str_radix(hex.text, 16).ok()?;
    c.skip(2);
    c.eat_punct(")").then_some(code)
}

struct Names<'a> {
    labels: &'a BTreeMap<String, u32>,
    exit: Option<u32>,
    maps: &'a mut Vec<String>,
}

impl Names<'_> {
    fn encode(&mut self, statement: Statement, slot: u32, line: u32) -> Result<(RawInsn, Option<RawInsn>), AsmError> {
        let Statement { mut insn, target, map } = statement;
        if let (Some((name, off)), Insn::Imm { value, .. }) = (map, &mut insn) {
            let map = self.map(&name);
            *value = match off {
                Some(off) => Imm64::MapValue { map, off, by: MapBy::Index },
                None => Imm64::Map { map, by: MapBy::Index },
            };
        }
        let mut to = 0;
        let mut place = (1, String::new());
        match target {
            None => {}
            Some(Target::Distance(distance)) => {
                to = distance;
                place.1 = distance.to_string();
            }
            Some(Target::Label { name, column, or_map }) => {
                let found = self.labels.get(&name).copied().or(self.exit.filter(|_| name == "exit"));
                match (found, &mut insn) {
                    (Some(target), _) => to = (target as i64 - slot as i64 - 1) as i32,
                    (None, Insn::Imm { value, .. }) if or_map => {
                        *value = Imm64::Map { map: self.map(&name), by: MapBy::Index };
                    }
                    (None, _) => {
                        return Err(AsmError { line, column, expected: "a label of this text".into(), found: name });
                    }
                }
                place = (column, name);
            }
        }
        encode_one(&insn, to).ok_or(AsmError {
            line,
            column: place.0,
            expected: "a target within 32767 slots (`gotol` reaches farther)".into(),
            found: place.1,
        })
    }

    fn map(&mut self, name: &str) -> MapIdx {
        let index = self.maps.iter().position(|known| known == name).unwrap_or_else(|| {
            self.maps.push(name.into());
            self.maps.len() - 1
        });
        MapIdx(index as u32)
    }
}
