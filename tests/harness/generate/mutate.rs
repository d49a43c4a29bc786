//! Near misses: a program with one field a little off.

use rtbpf_isa::RawInsn;
use rtbpf_isa::raw::{is_wide, rows_of};
use rtbpf_isa::rows::Form;

use super::Rng;

/// Changes one field of one instruction: a bound, an offset, a size, a comparison, a register, or the whole instruction
/// becomes `goto +0`.
pub fn one_field(rng: &mut Rng, insns: &mut [RawInsn]) {
    for _ in 0..20 {
        let at = rng.below(insns.len() as u64) as usize;
        let second_half = at > 0 && is_wide(insns[at - 1].code);
        let Some(form) = rows_of(insns[at].code).next().map(|row| row.form) else { continue };
        if second_half || matches!(form, Form::Exit) {
            continue;
        }
        let insn = &mut insns[at];
        match (rng.below(6), form) {
            (0, Form::Load(..) | Form::Store(_) | Form::Atomic(..)) => {
                insn.off = insn.off.wrapping_add(step(rng) as i16)
            }
            (1, Form::Load(..)) => insn.code = rng.pick(&[0x61, 0x69, 0x71, 0x79]),
            (1, Form::Store(_)) => insn.code = insn.code & !0x18 | rng.pick(&[0x00, 0x08, 0x10, 0x18]),
            (0..=1, Form::Branch(_)) => insn.imm = insn.imm.wrapping_add(step(rng)),
            (2, Form::Branch(_)) => {
                insn.code =
                    insn.code & 0x0f | rng.pick(&[0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0xa0, 0xb0, 0xc0, 0xd0]);
            }
            // 32 and 64 bits change places.
            (3, Form::Branch(_) | Form::Alu(_)) => insn.code ^= 0x03,
            (0..=2, Form::Alu(_)) => insn.imm = insn.imm.wrapping_add(step(rng)),
            (4, Form::Load(..) | Form::Alu(_) | Form::Store(_) | Form::Branch(_)) => insn.dst = rng.below(11) as u8,
            (5, _) if !is_wide(insn.code) => *insn = RawInsn { code: 0x05, ..RawInsn::default() },
            _ => continue,
        }
        return;
    }
}

fn step(rng: &mut Rng) -> i32 {
    rng.pick(&[1, -1, 1, -1, 2, -2, 4, -4, 8, -8, 16, -16])
}
