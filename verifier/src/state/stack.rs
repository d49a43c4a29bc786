//! A frame's stack: 64 slots of 8 bytes, each byte with a kind, each slot with the value that was spilled to it.
//!
//! ```text
//!  R10 ─▶ 0    slot 0: bytes -8 … -1      byte index 0 is the lowest address, -8
//!        -8    slot 1: bytes -16 … -9
//! ```

use std::rc::Rc;

use crate::value::Value;

/// Bytes of a slot.
pub const SLOT_BYTES: i32 = 8;

/// What one byte holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Byte {
    /// Never written.
    #[default]
    Invalid,
    /// Some number.
    Misc,
    /// Zero.
    Zero,
    /// Part of the slot's spilled value.
    Spill,
    /// Part of a dynptr.
    Dynptr,
    /// Part of an iterator.
    Iter,
}

/// Eight bytes.
#[derive(Clone, Debug, Default)]
pub struct Slot {
    /// By address.
    pub bytes: [Byte; 8],
    /// The spilled value, or the state of a dynptr or iterator. A scalar of fewer than 8 bytes is zero-extended.
    pub value: Option<Rc<Value>>,
}

impl Slot {
    /// Bytes that belong to the spilled value, from the lowest address.
    pub fn spill_size(&self) -> u32 {
        self.bytes.iter().take_while(|&&b| b == Byte::Spill).count() as u32
    }

    /// The spilled value.
    pub fn spilled(&self) -> Option<&Value> {
        if self.bytes[0] == Byte::Spill { self.value.as_deref() } else { None }
    }

    /// Whether it is a dynptr, iterator or saved interrupt state, which plain stores may not tear.
    pub fn is_object(&self) -> bool {
        self.bytes.iter().any(|b| matches!(b, Byte::Dynptr | Byte::Iter))
    }

    /// Forgets the spilled value: its bytes become some number.
    pub fn forget(&mut self) {
        self.value = None;
        for byte in &mut self.bytes {
            match byte {
                Byte::Spill | Byte::Dynptr | Byte::Iter => *byte = Byte::Misc,
                Byte::Invalid | Byte::Misc | Byte::Zero => {}
            }
        }
    }

    /// What a store leaves of the slot: beside a spilled value Linux forgets zeros, too.
    pub fn scrub(&mut self) {
        if self.bytes[0] == Byte::Spill {
            self.bytes.iter_mut().filter(|byte| **byte == Byte::Zero).for_each(|byte| *byte = Byte::Misc);
        }
        self.forget();
    }
}

/// Slots of a part.
const PART: usize = 8;

/// A part of the stack.
pub type Part = [Slot; PART];

/// All slots, in parts that states share until one of them writes.
#[derive(Clone, Debug, Default)]
pub struct Stack {
    parts: [Option<Rc<Part>>; Stack::SLOTS / PART],
}

impl Stack {
    /// Slots of a stack.
    pub const SLOTS: usize = 64;

    /// Which slot holds the byte at `off` (negative), and at which index.
    pub fn locate(off: i32) -> (usize, usize) {
        let below = -off - 1;
        ((below / SLOT_BYTES) as usize, (SLOT_BYTES - 1 - below % SLOT_BYTES) as usize)
    }

    /// Slots that may have been touched, by index.
    pub fn slots(&self) -> impl Iterator<Item = (usize, &Slot)> {
        let touched = self.parts.iter().enumerate().filter_map(|(index, part)| Some((index * PART, part.as_ref()?)));
        touched.flat_map(|(first, part)| part.iter().enumerate().map(move |(at, slot)| (first + at, slot)))
    }

    /// Parts that either stack touched: index of the first slot, slots of each, whether the same ones are behind both.
    pub fn pairs<'a>(&'a self, other: &'a Stack) -> impl Iterator<Item = (usize, &'a Part, &'a Part, bool)> {
        const UNTOUCHED: &Part = &[const { Slot { bytes: [Byte::Invalid; 8], value: None } }; PART];
        self.parts.iter().zip(&other.parts).enumerate().filter_map(|(index, pair)| {
            let first = index * PART;
            match pair {
                (None, None) => None,
                (Some(a), Some(b)) => Some((first, &**a, &**b, Rc::ptr_eq(a, b))),
                (Some(a), None) => Some((first, &**a, UNTOUCHED, false)),
                (None, Some(b)) => Some((first, UNTOUCHED, &**b, false)),
            }
        })
    }

    /// Whether a slot at a lower address than slot `at` was written.
    pub fn reaches_below(&self, at: usize) -> bool {
        (at + 1..Stack::SLOTS).any(|at| self.slot(at).is_some_and(|slot| slot.bytes != [Byte::Invalid; 8]))
    }

    /// Slot `at`, if it may have been touched.
    pub fn slot(&self, at: usize) -> Option<&Slot> {
        self.parts.get(at / PART)?.as_ref().map(|part| &part[at % PART])
    }

    /// Slot `at`, to change.
    pub fn slot_mut(&mut self, at: usize) -> &mut Slot {
        &mut Rc::make_mut(self.parts[at / PART].get_or_insert_default())[at % PART]
    }

    /// The byte at `off`.
    pub fn byte(&self, off: i32) -> Byte {
        let (slot, index) = Stack::locate(off);
        self.slot(slot).map_or(Byte::Invalid, |slot| slot.bytes[index])
    }

    /// Spilled values.
    pub fn spills(&self) -> impl Iterator<Item = &Value> {
        self.parts.iter().flatten().flat_map(|part| part.iter()).filter_map(|slot| slot.value.as_deref())
    }

    /// Replaces spilled values that `change` has another one for.
    pub fn rewrite(&mut self, change: &impl Fn(&Value) -> Option<Value>) {
        for part in self.parts.iter_mut().flatten() {
            if part.iter().filter_map(|slot| slot.value.as_deref()).all(|v| change(v).is_none()) {
                continue;
            }
            for slot in Rc::make_mut(part) {
                if let Some(new) = slot.value.as_deref().and_then(change) {
                    slot.value = Some(Rc::new(new));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_name_slots_from_the_top() {
        let check = |off, want| assert_eq!(Stack::locate(off), want);
        check(-1, (0, 7));
        check(-8, (0, 0));
        check(-9, (1, 7));
        check(-512, (63, 0));
    }
}
