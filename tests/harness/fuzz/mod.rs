//! Fuzz targets: what must hold for any bytes, and generators of bytes that get far.
//!
//! A target's check panics when it finds a bug. The same functions serve the seeded runs in `cargo test`, the driver and
//! the glue of cargo-fuzz in `fuzz/`.

pub mod assembler;
pub mod btf;
pub mod classic;
pub mod elf;
pub mod program;
pub mod sound;

use crate::rng::Rng;

/// One entry point for bytes from outside.
#[derive(Clone, Copy)]
pub struct Target {
    /// Name on the command line.
    pub name: &'static str,
    /// Panics when the bytes show a bug; whether they were good enough to be looked at all the way.
    pub check: fn(&[u8]) -> bool,
    /// Bytes that look like real input.
    pub generate: fn(&mut Rng) -> Vec<u8>,
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target { name: "decode", check: program::check_decode, generate: program::bytes },
    Target { name: "text", check: program::check_text, generate: program::bytes },
    Target { name: "asm", check: assembler::check, generate: assembler::text },
    Target { name: "classic", check: classic::check, generate: classic::bytes },
    Target { name: "elf", check: elf::check, generate: elf::bytes },
    Target { name: "btf", check: btf::check, generate: btf::bytes },
    Target { name: "sound", check: sound::check, generate: sound::bytes },
];

/// The target of that name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

/// Input number `index` of a campaign: mostly what the generator makes, else that with bytes changed, cut or doubled,
/// and now and then noise.
pub fn input(target: &Target, seed: u64, index: u64) -> Vec<u8> {
    let mut rng = Rng::new(seed ^ index.wrapping_mul(0xd134_2543_de82_ef95));
    if rng.below(16) == 0 {
        let len = rng.below(256) as usize;
        return rng.bytes(len);
    }
    let mut bytes = (target.generate)(&mut rng);
    if rng.below(2) == 0 {
        mutate(&mut rng, &mut bytes);
    }
    bytes
}

fn mutate(rng: &mut Rng, bytes: &mut Vec<u8>) {
    for _ in 0..=rng.below(4) {
        let at = rng.below(bytes.len() as u64) as usize;
        let Some(byte) = bytes.get_mut(at) else { return };
        match rng.below(7) {
            0 => *byte = rng.bits() as u8,
            1 => *byte ^= 1 << rng.below(8),
            2 => *byte = rng.pick(&[0, 1, 0x7f, 0x80, 0xff]),
            3 => *byte = byte.wrapping_add(rng.below(3) as u8).wrapping_sub(1),
            4 => bytes.truncate(at),
            5 => {
                let end = (at + 1 + rng.below(16) as usize).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                let to = rng.below(bytes.len() as u64) as usize;
                bytes.splice(to..to, piece);
            }
            _ => {
                let end = (at + rng.below(16) as usize).min(bytes.len());
                bytes.drain(at..end);
            }
        }
    }
}
