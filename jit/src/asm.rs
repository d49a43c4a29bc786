//! The buffer under both encoders: bytes, labels, fix-ups, relocations.
//!
//! dynasmrt's own assemblers keep labels in hash maps and vectors of relocations, at 11 to 28 ns a machine instruction.
//! Here a label is an index, instruction `i` of the program has label `i`, and an instruction is one 8-byte store into
//! a buffer that is always longer than its contents.

use dynasmrt::{AssemblyOffset, DynasmApi};

use rtbpf_isa::InsnIdx;

use crate::code::{Code, CompileError, Reloc, RelocKind, Step, Symbol, Unwind};

/// A place in the code, perhaps not yet known.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Label(pub u32);

/// How a branch names its target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Field {
    /// x86_64: one byte, relative to its end.
    Rel8,
    /// x86_64: four bytes, relative to their end.
    Rel32,
    /// aarch64: 26 bits at bit 0, in words.
    Imm26,
    /// aarch64: 19 bits at bit 5, in words.
    Imm19,
    /// aarch64: `adr`, 21 bits, split.
    Adr,
}

struct Fixup {
    at: u32,
    label: Label,
    field: Field,
}

/// A finished buffer.
pub struct Finished {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// What publication fills in.
    pub relocs: Vec<Reloc>,
    /// Places of labels; `u32::MAX` where a label has none.
    pub places: Vec<u32>,
    /// Where instructions begin whose code stands once more.
    pub copies: Vec<(u32, InsnIdx)>,
    /// The frames of functions and stubs.
    pub unwind: Vec<Unwind>,
}

const UNBOUND: u32 = u32::MAX;
/// No instruction, alignment or immediate writes more at once.
const SLACK: usize = 64;

/// The buffer.
pub struct Asm {
    bytes: Vec<u8>,
    len: usize,
    /// Where the last label was placed that branches may name.
    bound: usize,
    labels: Vec<u32>,
    fixups: Vec<Fixup>,
    relocs: Vec<Reloc>,
    copies: Vec<(u32, InsnIdx)>,
    unwind: Vec<Unwind>,
}

impl Asm {
    /// An empty buffer for about `bytes` bytes, with `labels` labels.
    pub fn new(bytes: usize, labels: usize) -> Asm {
        Asm {
            bytes: vec![0; bytes + SLACK],
            len: 0,
            bound: 0,
            labels: vec![UNBOUND; labels],
            fixups: Vec::with_capacity(labels / 8),
            relocs: Vec::new(),
            copies: Vec::new(),
            unwind: Vec::new(),
        }
    }

    /// Offset of the next byte.
    pub fn here(&self) -> u32 {
        self.len as u32
    }

    /// A new label.
    pub fn label(&mut self) -> Label {
        self.labels.push(UNBOUND);
        Label(self.labels.len() as u32 - 1)
    }

    /// Places a label here. The last placement counts.
    #[inline]
    pub fn bind(&mut self, label: Label) {
        self.mark(label);
        self.bound = self.len;
    }

    /// Places a label here that no branch names.
    #[inline]
    pub fn mark(&mut self, label: Label) {
        if let Some(place) = self.labels.get_mut(label.0 as usize) {
            *place = self.len as u32;
        }
    }

    /// Notes that code of an instruction begins here that stands elsewhere, too.
    pub fn copy(&mut self, at: InsnIdx) {
        // One that emitted nothing has no place.
        if self.copies.last().is_some_and(|(offset, _)| *offset == self.len as u32) {
            self.copies.pop();
        }
        self.copies.push((self.len as u32, at));
    }

    /// Whether no branch comes here: what was emitted last has just happened.
    pub fn falls(&self) -> bool {
        self.bound != self.len
    }

    /// Where a label is, if it is placed.
    #[inline]
    pub fn place(&self, label: Label) -> Option<u32> {
        self.labels.get(label.0 as usize).copied().filter(|place| *place != UNBOUND)
    }

    /// Appends the low `count` (at most 8) bytes of `word`.
    #[inline(always)]
    pub fn put(&mut self, word: u64, count: usize) {
        if let Some(room) = self.bytes.get_mut(self.len..self.len + 8) {
            room.copy_from_slice(&word.to_le_bytes());
            self.len += count;
        } else {
            self.grow();
            self.put(word, count);
        }
    }

    #[cold]
    fn grow(&mut self) {
        self.bytes.resize(self.bytes.len() * 2 + SLACK, 0);
    }

    /// Notes that the field which begins here names `label`; the caller then emits the field as zero.
    pub fn refer(&mut self, label: Label, field: Field) {
        self.fixups.push(Fixup { at: self.len as u32, label, field });
    }

    /// Notes that publication fills in what begins here.
    pub fn relocate(&mut self, kind: RelocKind, symbol: Symbol) {
        self.relocs.push(Reloc { offset: self.len as u32, kind, symbol });
    }

    /// Notes what has happened to the frame.
    pub fn frame(&mut self, step: Step) {
        self.unwind.push(Unwind { offset: self.len as u32, step });
    }

    /// Resolves every branch; keeps the places of the first `count` labels.
    pub fn finish(mut self, count: usize) -> Result<Finished, CompileError> {
        if self.len > Code::MAX_BYTES {
            return Err(CompileError::TooLarge);
        }
        for fixup in std::mem::take(&mut self.fixups) {
            let target = self.place(fixup.label).ok_or(CompileError::Unbound { label: fixup.label.0 })?;
            self.resolve(&fixup, target).ok_or(CompileError::BranchRange { offset: fixup.at })?;
        }
        self.bytes.truncate(self.len);
        self.labels.truncate(count);
        Ok(Finished {
            bytes: self.bytes,
            relocs: self.relocs,
            places: self.labels,
            copies: self.copies,
            unwind: self.unwind,
        })
    }

    fn resolve(&mut self, fixup: &Fixup, target: u32) -> Option<()> {
        let at = fixup.at as usize;
        let distance = target as i64 - fixup.at as i64;
        match fixup.field {
            Field::Rel8 => *self.bytes.get_mut(at)? = i8::try_from(distance - 1).ok()? as u8,
            Field::Rel32 => {
                let value = i32::try_from(distance - 4).ok()?;
                self.bytes.get_mut(at..at + 4)?.copy_from_slice(&value.to_le_bytes());
            }
            Field::Imm26 => self.merge(at, words(distance, 26)?)?,
            Field::Imm19 => self.merge(at, words(distance, 19)? << 5)?,
            Field::Adr => {
                let value = signed(distance, 21)?;
                self.merge(at, (value & 3) << 29 | (value >> 2) << 5)?;
            }
        }
        Some(())
    }

    fn merge(&mut self, at: usize, bits: u32) -> Option<()> {
        let room = self.bytes.get_mut(at..at + 4)?.first_chunk_mut::<4>()?;
        *room = (u32::from_le_bytes(*room) | bits).to_le_bytes();
        Some(())
    }
}

/// `distance` in words as a field of `bits` bits.
pub(crate) fn words(distance: i64, bits: u32) -> Option<u32> {
    if distance % 4 == 0 { signed(distance / 4, bits) } else { None }
}

fn signed(value: i64, bits: u32) -> Option<u32> {
    let half = 1i64 << (bits - 1);
    (-half..half).contains(&value).then_some(value as u32 & (u32::MAX >> (32 - bits)))
}

impl Extend<u8> for Asm {
    fn extend<T: IntoIterator<Item = u8>>(&mut self, bytes: T) {
        for byte in bytes {
            self.put(byte.into(), 1);
        }
    }
}

impl<'a> Extend<&'a u8> for Asm {
    fn extend<T: IntoIterator<Item = &'a u8>>(&mut self, bytes: T) {
        self.extend(bytes.into_iter().copied());
    }
}

impl DynasmApi for Asm {
    fn offset(&self) -> AssemblyOffset {
        AssemblyOffset(self.len)
    }

    fn push(&mut self, byte: u8) {
        self.put(byte.into(), 1);
    }

    fn push_u16(&mut self, value: u16) {
        self.put(value.into(), 2);
    }

    fn push_u32(&mut self, value: u32) {
        self.put(value.into(), 4);
    }

    fn push_i32(&mut self, value: i32) {
        self.put(value as u32 as u64, 4);
    }

    fn push_u64(&mut self, value: u64) {
        self.put(value, 8);
    }

    fn push_i64(&mut self, value: i64) {
        self.put(value as u64, 8);
    }

    fn align(&mut self, alignment: usize, with: u8) {
        while !self.len.is_multiple_of(alignment) {
            self.put(with.into(), 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_refuse_what_they_cannot_hold() {
        let check = |field, pad: usize, ok: bool| {
            let mut asm = Asm::new(0, 1);
            asm.refer(Label(0), field);
            asm.put(0, 4);
            for _ in 0..pad {
                asm.put(0, 1);
            }
            asm.bind(Label(0));
            assert_eq!(asm.finish(1).is_ok(), ok, "{field:?} over {pad} bytes");
        };
        check(Field::Rel8, 124, true);
        check(Field::Rel8, 125, false);
        check(Field::Imm19, (1 << 20) - 8, true);
        check(Field::Imm19, (1 << 20) - 4, false);
        check(Field::Imm26, 2, false);
        check(Field::Adr, (1 << 20) - 5, true);
        check(Field::Adr, (1 << 20) - 4, false);
    }

    #[test]
    fn a_label_without_a_place_is_an_error() {
        let mut asm = Asm::new(0, 1);
        asm.refer(Label(0), Field::Rel32);
        asm.put(0, 4);
        assert!(matches!(asm.finish(1).err(), Some(CompileError::Unbound { label: 0 })));
    }
}
