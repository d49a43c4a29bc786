//! Where callers' registers stand, as debuggers read it: `.debug_frame` (DWARF 4, 6.4).
//!
//! One description a function, stub or way out; none for what stands between.

use crate::code::{Arch, Step, Unwind};

use super::symfile::unsigned;

const ADVANCE: u8 = 0x04;
const REMEMBER: u8 = 0x0a;
const RESTORE: u8 = 0x0b;
const DEFINE_FRAME: u8 = 0x0c;
const FRAME_OFFSET: u8 = 0x0e;
/// With the register in the low bits.
const SAVED: u8 = 0x80;
/// Offsets of saved registers are counted in these bytes, downwards.
const WORD: u64 = 8;

/// The section for code at `base` of so many bytes.
pub(super) fn frames(arch: Arch, base: usize, bytes: usize, notes: &[Unwind]) -> Vec<u8> {
    // Stack pointer, return address, and what a call pushes.
    let (stack, link, pushed) = match arch {
        Arch::X86_64 => (7, 16, 8),
        Arch::Aarch64 => (31, 30, 0),
    };
    let mut common = vec![1, 0, 1, 0x78, link, DEFINE_FRAME, stack, pushed];
    if pushed != 0 {
        common.extend([SAVED | link, 1]);
    }
    let mut section = Vec::new();
    entry(&mut section, u32::MAX, common);
    let mut rest = notes;
    while let Some((first, after)) = rest.split_first() {
        let len = after.iter().take_while(|note| !matches!(note.step, Step::Begins | Step::Ends)).count();
        let (body, others) = after.split_at(len);
        rest = others;
        if first.step == Step::Begins {
            let end = others.first().map_or(bytes, |next| next.offset as usize);
            let start = first.offset as usize;
            let mut text = Vec::new();
            text.extend(((base + start) as u64).to_le_bytes());
            text.extend((end.saturating_sub(start) as u64).to_le_bytes());
            describe(&mut text, first.offset, u32::from(pushed), body);
            entry(&mut section, 0, text);
        }
    }
    section
}

/// What happens to the frame of a function from `at` on.
fn describe(text: &mut Vec<u8>, mut at: u32, mut depth: u32, notes: &[Unwind]) {
    let mut kept = depth;
    for note in notes {
        if note.offset != at {
            text.push(ADVANCE);
            text.extend((note.offset - at).to_le_bytes());
            at = note.offset;
        }
        match note.step {
            Step::Grew(by) => {
                depth = depth.wrapping_add_signed(by);
                text.push(FRAME_OFFSET);
                unsigned(text, depth.into());
            }
            Step::Saved { reg, below } => {
                text.push(SAVED | reg);
                unsigned(text, u64::from(below) / WORD);
            }
            Step::Keeps => {
                kept = depth;
                text.push(REMEMBER);
            }
            Step::Recalled => {
                depth = kept;
                text.push(RESTORE);
            }
            Step::Begins | Step::Ends => {}
        }
    }
}

/// Appends an entry: its length, an identifier, the text, filled up with what does nothing.
fn entry(section: &mut Vec<u8>, id: u32, text: Vec<u8>) {
    let len = (4 + text.len()).next_multiple_of(WORD as usize) + 4;
    section.extend((len as u32).to_le_bytes());
    section.extend(id.to_le_bytes());
    let end = section.len() + len - 4;
    section.extend(text);
    section.resize(end, 0);
}
