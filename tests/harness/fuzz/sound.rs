//! Programs that the verifier accepts: the first eight bytes name a generated program, the others change its fields.

use rtbpf::verifier::Profile;

use crate::generate::{Case, Generator};
use crate::rng::Rng;
use crate::sound::Oracle;

/// Inputs that an accepted program runs on.
const INPUTS: usize = 4;

/// Bytes of one change: which instruction, which field, and two of the new value.
const CHANGE: usize = 4;

/// The program that `data` names, under one of the two profiles.
fn case(data: &[u8]) -> Option<(Case, Profile)> {
    let (seed, changes) = data.split_first_chunk::<8>()?;
    let seed = u64::from_le_bytes(*seed);
    let mut case = Generator::Shaped.case(seed);
    for change in changes.chunks_exact(CHANGE) {
        let &[at, field, low, high] = change else { continue };
        let count = case.insns.len().max(1);
        let Some(insn) = case.insns.get_mut(usize::from(at) % count) else { continue };
        let value = i16::from_le_bytes([low, high]);
        match field % 6 {
            0 => insn.off = insn.off.wrapping_add(value % 32),
            1 => insn.imm = insn.imm.wrapping_add(i32::from(value % 32)),
            2 => insn.imm = i32::from(value),
            3 => insn.dst = low % 11,
            4 => insn.src = low % 11,
            _ => insn.code = low,
        }
    }
    let profile = if seed & 1 == 0 { Profile::Compat } else { Profile::Strict };
    Some((case, profile))
}

/// An accepted program does what its proof says; whether it was accepted.
///
/// # Panics
///
/// When it does something else.
pub fn check(data: &[u8]) -> bool {
    let Some((case, profile)) = case(data) else { return false };
    let found = Oracle { inputs: INPUTS, ..Oracle::new(profile) }.check(&case);
    assert_eq!(found.escape, None, "{profile:?}\n{}", case.listing());
    found.accepted > 0
}

/// A seed, and a change now and then.
pub fn bytes(rng: &mut Rng) -> Vec<u8> {
    let changes = rng.below(3) as usize;
    rng.bytes(8 + CHANGE * changes)
}
