//! Slots: decoding, encoding, printing, assembling.

use rtbpf_isa::rows::{ROWS, Rule, opcodes};
use rtbpf_isa::text::{NoNames, log, plain};
use rtbpf_isa::{Insn, InsnIdx, Program, RawInsn, asm, decode, encode};

use crate::rng::Rng;

/// A program of rows chosen at random, with fields that are often, not always, in range.
pub fn bytes(rng: &mut Rng) -> Vec<u8> {
    let count = 1 + rng.below(24) as usize;
    let mut slots = Vec::with_capacity(count * 2);
    while slots.len() < count {
        let row = rng.pick(ROWS);
        let (codes, n) = opcodes(&row);
        let mut raw = RawInsn { code: codes[rng.below(n as u64) as usize], ..RawInsn::default() };
        raw.dst = rng.below(11) as u8;
        raw.src = if rng.below(2) == 0 { 0 } else { rng.below(11) as u8 };
        raw.off = if rng.below(2) == 0 { 0 } else { rng.below(9) as i16 - 4 };
        raw.imm = if rng.below(2) == 0 { 0 } else { rng.edge() as i32 };
        match row.rule {
            Rule::None => {}
            Rule::Off(off) => raw.off = off,
            Rule::Imm(imm) => raw.imm = imm,
            Rule::Src(src) => raw.src = src,
        }
        // Of the fields that most rows reserve, now and then one is set.
        if rng.below(16) == 0 {
            raw.dst = rng.below(16) as u8;
        }
        slots.push(raw);
        if raw.code == 0x18 {
            slots.push(RawInsn { imm: if rng.below(2) == 0 { 0 } else { rng.edge() as i32 }, ..RawInsn::default() });
        }
    }
    slots.push(RawInsn { code: 0x95, ..RawInsn::default() });
    slots.iter().flat_map(|slot| slot.to_le_bytes()).collect()
}

fn decoded(data: &[u8]) -> Option<Program> {
    decode(&RawInsn::parse_all(data)?).inspect_err(|e| drop((e.to_string(), e.kernel_message(), e.slot()))).ok()
}

/// Decoding keeps its promises, and encoding is its inverse.
pub fn check_decode(data: &[u8]) -> bool {
    let Some(program) = decoded(data) else { return false };
    assert_eq!(program.slot_count() * 8, data.len());
    check_decoded(&program);
    let again = decode(&encode(&program)).expect("what was decoded encodes to a program");
    assert_eq!(again.insns(), program.insns());
    assert_eq!(again.subprogs(), program.subprogs());
    true
}

/// Slots and instructions lead to each other, targets lie in the program, effects name what exists.
pub(super) fn check_decoded(program: &Program) {
    let mut next_slot = 0;
    for (at, insn) in program.iter() {
        assert_eq!(program.slot(at), next_slot);
        assert_eq!(program.insn_at_slot(next_slot), Some(at));
        next_slot += program.raw(at).len() as u32;
        if let Some(to) = insn.relative_target() {
            assert!(program.get(at.target(to)).is_some(), "{insn:?} at {at} leaves the program");
        }
        let (defs, uses) = (insn.defs(), insn.uses());
        assert!((defs.0 | uses.0) >> 11 == 0, "{insn:?} touches a register that does not exist");
        if let Some(access) = insn.memory() {
            assert!(uses.contains(access.base));
        }
        if let (Insn::Bad { why, .. }, [first, ..]) = (insn, program.raw(at)) {
            assert!(!why.kernel_message(*first).is_empty());
        }
    }
    assert_eq!(next_slot as usize, program.slot_count());
}

/// What the disassembler prints assembles to the slots it came from; a log line does so where the kernel's syntax says
/// everything.
pub fn check_text(data: &[u8]) -> bool {
    let Some(program) = decoded(data) else { return false };
    let mut text = String::new();
    for (at, insn) in program.iter() {
        text.push_str(&plain(&program, at, &NoNames).to_string());
        text.push('\n');
        let logged = log(&program, at, &NoNames).to_string();
        assert!(!logged.is_empty() && !insn.to_string().is_empty());
    }
    let read = asm::assemble(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    assert_eq!(read.slots, program.raw_slots(), "{text}");
    let first = log(&program, InsnIdx(0), &NoNames).to_string();
    drop(asm::assemble(&format!("0: {first}")));
    true
}
