//! Relocations resolved: from [`Code`] to the image for one address. Data only; publication copies it.

use std::collections::HashMap;

use crate::asm::words;
use crate::code::{Arch, Code, RelocKind, Symbol};
use crate::linker::Linker;

/// Why code cannot be linked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum LinkError {
    #[error("{symbol:?} has no address; bind it before publishing")]
    Undefined { symbol: Symbol },
    #[error("relocation at native offset {offset} lies outside the code")]
    Place { offset: u32 },
    #[error("call at native offset {offset} does not reach its veneer")]
    Range { offset: u32 },
}

/// Bytes of one veneer: a jump to an address that stands behind it.
const VENEER: usize = 16;

/// An upper bound of the image's bytes.
pub fn image_bytes(code: &Code) -> usize {
    let calls = code.relocs.iter().filter(|reloc| matches!(reloc.kind, RelocKind::Call32 | RelocKind::Call26)).count();
    code.bytes.len().next_multiple_of(VENEER) + calls * VENEER
}

/// The image of `code` at address `base`.
pub fn image(code: &Code, base: u64, linker: &dyn Linker) -> Result<Vec<u8>, LinkError> {
    let mut bytes = Vec::with_capacity(image_bytes(code));
    bytes.extend_from_slice(&code.bytes);
    let mut veneers = HashMap::new();
    for reloc in &code.relocs {
        let at = reloc.offset as usize;
        let value = linker.resolve(reloc.symbol).ok_or(LinkError::Undefined { symbol: reloc.symbol })?;
        let done = match reloc.kind {
            RelocKind::Abs64 => write(&mut bytes, at, &value.to_le_bytes()),
            RelocKind::Mov64 => (0..4).try_for_each(|part| merge(&mut bytes, at + part * 4, half(value, part) << 5)),
            RelocKind::Call32 | RelocKind::Call26 => {
                let place = base.wrapping_add(at as u64);
                if call(&mut bytes, at, reloc.kind, value.wrapping_sub(place) as i64).is_none() {
                    let veneer = *veneers.entry(value).or_insert_with(|| add_veneer(&mut bytes, code.arch, value));
                    let distance = veneer as i64 - at as i64;
                    let range = LinkError::Range { offset: reloc.offset };
                    call(&mut bytes, at, reloc.kind, distance).ok_or(range)?;
                }
                Some(())
            }
        };
        done.ok_or(LinkError::Place { offset: reloc.offset })?;
    }
    Ok(bytes)
}

fn half(value: u64, part: usize) -> u32 {
    (value >> (16 * part)) as u32 & 0xffff
}

/// Fills in a call over `distance` bytes, from the field; `None` when it does not reach.
fn call(bytes: &mut [u8], at: usize, kind: RelocKind, distance: i64) -> Option<()> {
    match kind {
        RelocKind::Call32 => write(bytes, at, &i32::try_from(distance - 4).ok()?.to_le_bytes()),
        RelocKind::Call26 => merge(bytes, at, words(distance, 26)?),
        RelocKind::Abs64 | RelocKind::Mov64 => None,
    }
}

fn write(bytes: &mut [u8], at: usize, value: &[u8]) -> Option<()> {
    bytes.get_mut(at..at + value.len())?.copy_from_slice(value);
    Some(())
}

fn merge(bytes: &mut [u8], at: usize, bits: u32) -> Option<()> {
    let room = bytes.get_mut(at..at + 4)?.first_chunk_mut::<4>()?;
    *room = (u32::from_le_bytes(*room) | bits).to_le_bytes();
    Some(())
}

fn add_veneer(bytes: &mut Vec<u8>, arch: Arch, target: u64) -> usize {
    bytes.resize(bytes.len().next_multiple_of(VENEER), 0);
    let at = bytes.len();
    let jump: [u8; 8] = match arch {
        // jmp [rip + 2]
        Arch::X86_64 => [0xff, 0x25, 2, 0, 0, 0, 0xcc, 0xcc],
        // ldr x16, .+8; br x16
        Arch::Aarch64 => [0x50, 0x00, 0x00, 0x58, 0x00, 0x02, 0x1f, 0xd6],
    };
    bytes.extend_from_slice(&jump);
    bytes.extend_from_slice(&target.to_le_bytes());
    at
}
