//! Stores next to each other, as one.
//!
//! ```text
//! r5 = *(u8 *)(r4 + 0); *(u8 *)(r4 + 2048) = r5
//! r5 = *(u8 *)(r4 + 1); *(u8 *)(r4 + 2049) = r5        becomes        t = *(u16 *)(r4 + 0); *(u16 *)(r4 + 2048) = t
//! ```
//!
//! A store of a constant, or of what was just loaded, waits for the next one. It is written before anything else looks at
//! memory that may be the same, and before its address changes. Copies are made so only if what they read lies beside what
//! they write, as far as the same registers tell.

use rtbpf_isa::effects::{Flow, RegSet};
use rtbpf_isa::{Insn, InsnIdx, Operand, Reg, Size};

use super::value::{Place, Value};
use crate::encode::{Encode, Rhs};
use crate::fast::{Fast, reg};

/// Instructions between one store and the next.
const NEAR: usize = 4;
/// Bytes that are written at once at most.
const MOST: u8 = 8;

/// Bytes to be written.
#[derive(Clone, Copy)]
pub(crate) struct Run {
    to: Place,
    len: u8,
    from: From,
}

#[derive(Clone, Copy)]
enum From {
    Memory(Place),
    /// Little-endian, zero above the length.
    Bytes(u64),
}

impl Run {
    /// The registers of its addresses.
    fn refs(&self) -> RegSet {
        match self.from {
            From::Memory(from) => self.to.refs().with(from.refs()),
            From::Bytes(_) => self.to.refs(),
        }
    }

    /// With `size` bytes behind its own, if that is what they are.
    fn with(self, size: Size, to: Place, from: From) -> Option<Run> {
        let added = size.bytes() as u8;
        if self.len + added > MOST || self.to.plus(self.len.into()) != Some(to) {
            return None;
        }
        let from = match (self.from, from) {
            (From::Memory(first), From::Memory(next)) if first.plus(self.len.into()) == Some(next) => self.from,
            (From::Bytes(low), From::Bytes(high)) => From::Bytes(low | high << (8 * self.len)),
            (From::Memory(_) | From::Bytes(_), _) => return None,
        };
        Some(Run { len: self.len + added, from, ..self })
    }
}

impl<E: Encode> Fast<'_, E> {
    /// Lets a store of `size` bytes wait, if it is one to wait.
    pub(crate) fn delayed(&mut self, at: InsnIdx, size: Size, base: Reg, off: i32, src: Operand) -> bool {
        if !self.opt.on.merge || size == Size::D || !self.continues(at, size, base, off) {
            return false;
        }
        let mask = u64::MAX >> (64 - 8 * size.bytes());
        let what = |this: &Self| match src {
            Operand::Imm(value) => Some(From::Bytes(value as i64 as u64 & mask)),
            Operand::Reg(src) => match this.opt.value(src) {
                Value::Const(value) => Some(From::Bytes(value & mask)),
                Value::Load { size: loaded, at } if loaded == size && !this.opt.after.contains(src) => {
                    Some(From::Memory(at))
                }
                Value::Sum { .. } | Value::Shift { .. } | Value::Product { .. } => None,
                Value::Low { .. } | Value::Load { .. } | Value::Truth { .. } | Value::Carry { .. } => None,
            },
        };
        if what(self).is_none() {
            return false;
        }
        self.settle_loads_but(src);
        // The address may be computed from what is stored.
        let to = self.place(base, off);
        let Some(from) = what(self) else { return false };
        if let Operand::Reg(src) = src
            && matches!(from, From::Memory(_))
        {
            self.opt.set(src, Value::of(src));
        }
        let run = match self.opt.run.and_then(|run| run.with(size, to, from)) {
            Some(longer) => longer,
            None => {
                self.write();
                Run { to, len: size.bytes() as u8, from }
            }
        };
        self.opt.run = Some(run);
        if run.len == MOST {
            self.write();
        }
        true
    }

    /// Whether the store at `at` goes on what waits, or another may go on with it: near by, or in the next round of a loop.
    pub(crate) fn continues(&self, at: InsnIdx, size: Size, base: Reg, off: i32) -> bool {
        if self.opt.run.is_some() || self.opt.rounds {
            return true;
        }
        let next = i16::try_from(off + size.bytes() as i32).ok();
        for insn in self.insns.iter().skip(at.index() + 1).take(NEAR) {
            match *insn {
                Insn::Store { base: other, off, .. } => return other == base && Some(off) == next,
                _ if insn.flow() != Flow::Next || insn.defs().contains(base) => return false,
                _ => {}
            }
        }
        false
    }

    /// Before a load from `at`: writes what waits, unless it lies elsewhere.
    pub(crate) fn write_unless_apart(&mut self, at: Place, size: Size) {
        if let Some(run) = self.opt.run
            && !run.to.is_apart(run.len.into(), at, size.bytes() as i32)
        {
            self.write();
        }
    }

    /// Before the contents of `r` change.
    pub(crate) fn write_if_through(&mut self, r: Reg) {
        if self.opt.run.is_some_and(|run| run.refs().contains(r)) {
            self.write();
        }
    }

    /// Writes what waits.
    pub(crate) fn write(&mut self) {
        let Some(Run { to, len, from }) = self.opt.run.take() else { return };
        let mut done = 0;
        for size in [Size::D, Size::W, Size::H, Size::B] {
            let bytes = size.bytes() as u8;
            while done + bytes <= len {
                if let Some(to) = to.plus(done.into()) {
                    self.write_part(size, to, from, done);
                }
                done += bytes;
            }
        }
    }

    fn write_part(&mut self, size: Size, to: Place, from: From, done: u8) {
        let source = match from {
            From::Memory(from) => {
                let Some(from) = from.plus(done.into()) else { return };
                self.e.load(size, false, E::SPARE, from.addr(reg::<E>));
                Rhs::Reg(E::SPARE)
            }
            From::Bytes(bytes) => {
                let value = bytes >> (8 * done);
                match i32::try_from(value as i64) {
                    Ok(value) => Rhs::Imm(value),
                    Err(_) if size != Size::D => Rhs::Imm(value as i32),
                    Err(_) => {
                        self.e.mov_imm(E::SPARE, value);
                        Rhs::Reg(E::SPARE)
                    }
                }
            }
        };
        match source {
            Rhs::Reg(source) => self.e.store(size, to.addr(reg::<E>), source),
            Rhs::Imm(value) => self.e.store_imm(size, to.addr(reg::<E>), value),
        }
    }
}
