//! Assembly text.

use rtbpf_isa::text::{NoNames, plain};
use rtbpf_isa::{asm, decode};

use crate::rng::Rng;

const WORDS: &[&str] = &[
    "r0",
    "r1",
    "r10",
    "r11",
    "w0",
    "w3",
    "%r2",
    "goto",
    "gotol",
    "if",
    "exit",
    "call",
    "callx",
    "lock",
    "ll",
    "pc",
    "may_goto",
    "be16",
    "bswap64",
    "u8",
    "u32",
    "s16",
    "u64",
    "skb",
    "map",
    "var",
    "subprog",
    "fd",
    "idx",
    "label",
    "add",
    "mov32",
    "lddw",
    "ldxw",
    "stxdw",
    "stb",
    "jslt32",
    "ja",
    "fetch",
    "cmpxchg",
    "local",
    "helper",
    "kfunc",
    "load_acquire",
    "store_release",
    "addr_space_cast",
    "atomic64_fetch_add",
    "xchg_64",
    "cmpxchg32_32",
    ".raw",
    "s",
    "=",
    "+=",
    "s/=",
    "s>>=",
    "==",
    "s<",
    "&",
    "*",
    "(",
    ")",
    "[",
    "]",
    ",",
    ":",
    "+",
    "-",
    "#",
    ";",
    "//",
    "(b7)",
    "0",
    "1",
    "-1",
    "0xffffffff",
    "18446744073709551615",
    "32768",
    "9500000000000000",
    "\n",
    "\n",
    "\n",
];

const LINES: &[&str] = &[
    "r1 = *(u32 *)(r2 + 4)",
    "*(u64 *)(r10 - 8) = r1",
    "if w1 s< 5 goto label",
    "lock *(u64 *)(r1 + 0) += r2",
    "r0 = cmpxchg_64(r1 + 0, r0, r2)",
    "r2 = atomic_fetch_add((u64 *)(r1 + 0), r2)",
    "r1 = 0x123456789 ll",
    "r1 = map[counts][0]+4 ll",
    "r1 = label ll",
    "lock fetch add32 [%r1+4], %r2",
    "jslt32 %r1, -5, label",
    "lddw %r1, -1",
    "label: exit",
    "12: (b7) r0 = 1 ; R0=1",
    "call bpf_map_lookup_elem#1",
    "call kfunc#77:3",
    ".raw 9500070000000000",
];

/// Lines of assembly, some whole, some of words thrown together.
pub fn text(rng: &mut Rng) -> Vec<u8> {
    let mut out = String::new();
    for _ in 0..=rng.below(8) {
        if rng.below(2) == 0 {
            out.push_str(rng.pick(LINES));
        } else {
            for _ in 0..rng.below(12) {
                out.push_str(rng.pick(WORDS));
                out.push_str(rng.pick(&["", " "]));
            }
        }
        out.push('\n');
    }
    out.into_bytes()
}

/// Errors stand inside the text; what assembles has a line for each slot, and prints and assembles to itself.
pub fn check(data: &[u8]) -> bool {
    let text = String::from_utf8_lossy(data);
    let out = match asm::assemble(&text) {
        Ok(out) => out,
        Err(e) => {
            let line = text.lines().nth(e.line as usize - 1).unwrap_or_else(|| panic!("{e}: no such line"));
            assert!(e.column as usize <= line.chars().count() + 1, "{e}: beyond the end of `{line}`");
            return false;
        }
    };
    assert_eq!(out.slots.len(), out.lines.len());
    assert!(out.labels.values().all(|&slot| slot as usize <= out.slots.len()));
    let Ok(program) = decode(&out.slots) else { return true };
    let printed: String = program.iter().map(|(at, _)| format!("{}\n", plain(&program, at, &NoNames))).collect();
    let again = asm::assemble(&printed).unwrap_or_else(|e| panic!("{e}\n{printed}"));
    assert_eq!(again.slots, out.slots, "{printed}");
    true
}
