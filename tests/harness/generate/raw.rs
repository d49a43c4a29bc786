//! Slots of the table's rows with any fields: what a decoder and a shape check must take without complaint or refuse in
//! words.

use rtbpf_abi::ProgKind;
use rtbpf_isa::RawInsn;
use rtbpf_isa::raw::is_wide;
use rtbpf_isa::rows::{ROWS, Rule, opcodes};

use super::{Case, Rng};

/// One slot, or two for a wide load, of a random row.
pub fn insn(rng: &mut Rng, out: &mut Vec<RawInsn>) {
    let row = &ROWS[rng.below(ROWS.len() as u64) as usize];
    let (codes, n) = opcodes(row);
    let code = codes[rng.below(n as u64) as usize];
    let clean = rng.chance(3, 4);
    let mut raw = RawInsn {
        code,
        dst: rng.below(if clean { 10 } else { 16 }) as u8,
        src: rng.below(if clean { 10 } else { 16 }) as u8,
        off: if clean { rng.within(-8, 8) as i16 } else { rng.edge() as i16 },
        imm: if clean { rng.within(-8, 64) as i32 } else { rng.edge() as i32 },
    };
    match row.rule {
        Rule::None => {}
        Rule::Off(off) => raw.off = off,
        Rule::Imm(imm) => raw.imm = imm,
        Rule::Src(src) => raw.src = src,
    }
    out.push(raw);
    if is_wide(code) {
        let imm = if clean { 0 } else { rng.edge() as i32 };
        out.push(RawInsn { imm, ..RawInsn::default() });
    }
}

/// One to twelve such instructions, mostly with an exit at the end.
pub fn case(rng: &mut Rng, name: String) -> Case {
    let mut insns = vec![];
    if rng.chance(1, 2) {
        insns.push(RawInsn { code: 0xb7, ..RawInsn::default() });
    }
    for _ in 0..1 + rng.below(12) {
        insn(rng, &mut insns);
    }
    if rng.chance(7, 8) {
        insns.push(RawInsn { code: 0x95, ..RawInsn::default() });
    }
    let kind = rng.pick(&[ProgKind::Xdp, ProgKind::SchedCls, ProgKind::SocketFilter, ProgKind::Kprobe]);
    Case { name, kind, prog_flags: 0, insns, maps: Vec::new(), typed: true, packets: Vec::new() }
}
