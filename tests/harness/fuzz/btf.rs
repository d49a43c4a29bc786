//! BTF: types of an object that clang made, with words changed.

use std::sync::OnceLock;

use rtbpf_btf::{Btf, BtfExt};

use crate::rng::Rng;

const SEED: &[u8] = include_bytes!("../../data/objects/everything.bpf.o");
const MAGIC: [u8; 4] = [0x9f, 0xeb, 1, 0];

/// The `.BTF` section of the seed: from its magic on, as long as its header says.
pub(super) fn seed() -> Option<&'static [u8]> {
    section(0)
}

/// The section with magic number `nth` of the seed; `.BTF` comes first, `.BTF.ext` second.
fn section(nth: usize) -> Option<&'static [u8]> {
    static STARTS: OnceLock<Vec<usize>> = OnceLock::new();
    let starts = STARTS.get_or_init(|| {
        let at = (0..SEED.len()).step_by(4);
        at.filter(|&at| SEED.get(at..at + 4).is_some_and(|word| word == MAGIC)).collect()
    });
    let start = *starts.get(nth)?;
    let word = |at: usize| {
        let bytes = SEED.get(start + at..start + at + 4)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?) as usize)
    };
    // The last of the parts that both headers name at these places.
    let len = word(4)? + if nth == 0 { word(16)? + word(20)? } else { word(24)? + word(28)? };
    SEED.get(start..start + len)
}

/// `.BTF` or `.BTF.ext`, with a few words changed.
pub fn bytes(rng: &mut Rng) -> Vec<u8> {
    let which = rng.below(4) / 3;
    let mut bytes = section(which as usize).unwrap_or_default().to_vec();
    for _ in 0..rng.below(6) {
        let at = rng.below((bytes.len() / 4) as u64) as usize * 4;
        let Some(word) = bytes.get_mut(at..at + 4) else { continue };
        let old = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
        let new = match rng.below(6) {
            0 => rng.below(80) as u32,
            1 => old ^ 1 << rng.below(32),
            2 => old.wrapping_add(rng.below(5) as u32).wrapping_sub(2),
            // Another kind, another count of members, the same name.
            3 => old & 0x80ff_0000 | (rng.below(20) as u32) << 24 | rng.below(6) as u32,
            4 => rng.edge() as u32,
            _ => rng.bits() as u32,
        };
        word.copy_from_slice(&new.to_le_bytes());
    }
    bytes
}

/// What parses answers every question about every type, and is written as it was read.
pub fn check(data: &[u8]) -> bool {
    if let Ok(ext) = BtfExt::parse(data) {
        let lines: usize = ext.lines.iter().map(|section| section.records.len()).sum();
        assert!(lines * 16 <= data.len(), "{lines} lines in {} bytes", data.len());
    }
    let Ok(btf) = Btf::parse(data) else { return false };
    let memory = [0x5a; 64];
    for ty in btf.iter().take(400) {
        let size = btf.size_of(ty.id);
        let align = btf.align_of(ty.id);
        assert!(size.is_none_or(|size| size < 1 << 32) && align <= 64, "{size:?} bytes aligned to {align}");
        let text = btf.define(ty.id).len() + btf.declare(ty.id, "x").len();
        assert!(text < 1 << 20, "type {:?} prints as {text} bytes", ty.id);
        drop(btf.value(ty.id, &memory).to_string());
        let _ = btf.member(ty.id, "word.whole");
        drop(rtbpf_btf::special_fields(&btf, ty.id));
        let found = btf.named(ty.name).any(|other| other.id == ty.id);
        assert!(found || ty.name.is_empty(), "{:?} is not found by its name", ty.id);
    }
    let written = btf.to_bytes();
    let again = Btf::parse(&written).expect("what is written can be read");
    assert_eq!(again.len(), btf.len());
    assert_eq!(again.to_bytes(), written);
    true
}
