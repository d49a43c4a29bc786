//! The assembler. Text to slots, in either of two syntaxes, freely mixed:
//!
//! ```text
//! the kernel's and clang's            the mnemonics of the public conformance suite
//!   r1 = *(u32 *)(r1 + 4)               ldxw %r1, [%r1+4]
//!   if w0 s< 5 goto out                 jslt32 %r0, 5, out
//!   lock *(u64 *)(r1 + 0) += r2         lock add [%r1+0], %r2
//!   r2 = map[counts] ll
//! out:                                out:
//!   exit                                exit
//! ```
//!
//! One instruction a line. `;`, `//` and `#` begin a comment. A jump goes to a label, or over a number of slots: `+3`,
//! `pc+3`. A line of a verifier log, `12: (b7) r0 = 1`, is read as its instruction. `.raw 9500000000000000` stands for
//! the slots with these bytes. What [`text::plain`](crate::text::plain) prints assembles to the slots it came from.

mod algebra;
mod cursor;
mod lex;
mod mnemonic;
mod parse;

use std::collections::BTreeMap;

use crate::raw::RawInsn;

/// Assembled text.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Assembly {
    /// The slots.
    pub slots: Vec<RawInsn>,
    /// The slot of each label.
    pub labels: BTreeMap<String, u32>,
    /// Maps that the text names. Wide loads refer to them by index in this list.
    pub maps: Vec<String>,
    /// The line, from 1, of each slot.
    pub lines: Vec<u32>,
}

/// What is wrong with a text, and where.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("line {line}, column {column}: expected {expected}, found {}", quoted(.found))]
pub struct AsmError {
    /// From 1.
    pub line: u32,
    /// From 1, in characters.
    pub column: u32,
    /// What would have been right.
    pub expected: String,
    /// What stands there; empty at the end of a line.
    pub found: String,
}

fn quoted(found: &str) -> String {
    if found.is_empty() { "the end of the line".into() } else { format!("`{found}`") }
}

/// Assembles `text`; calls name helpers by number.
pub fn assemble(text: &str) -> Result<Assembly, AsmError> {
    assemble_with(text, &|_| None)
}

/// Assembles `text`; `helper` knows helpers by name without `bpf_`.
pub fn assemble_with(text: &str, helper: &dyn Fn(&str) -> Option<i32>) -> Result<Assembly, AsmError> {
    parse::parse(text, helper)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::{NoNames, plain};
    use crate::{InsnIdx, decode};

    /// One instruction (its jumps go to labels or over fewer than 3 slots) in its plain text.
    fn assembled(line: &str) -> String {
        let padding = "\nl0: exit\nl1: exit\nl2: exit";
        let out = assemble(&format!("{line}{padding}")).unwrap_or_else(|e| panic!("{line}: {e}"));
        let program = decode(&out.slots).unwrap_or_else(|e| panic!("{line}: {e}"));
        plain(&program, InsnIdx(0), &NoNames).to_string()
    }

    #[test]
    fn both_syntaxes_assemble_to_the_same_instruction() {
        let check = |plain: &str, spellings: &[&str]| {
            for spelling in spellings.iter().chain([&plain]) {
                assert_eq!(assembled(spelling), plain, "{spelling}");
            }
        };
        check("r1 += r2", &["add %r1, %r2", "add r1, r2", "add64 %r1, %r2", "r1+=r2", "12: (0f) r1 += r2 ; R1=3"]);
        check("w1 -= -5", &["sub32 %r1, -5", "w1 -= 0xfffffffb", "(14) w1 -= -5"]);
        check("r1 s/= r2", &["sdiv %r1, %r2"]);
        check("w1 s%= 7", &["smod32 %r1, 7"]);
        check("r1 s>>= 3", &["arsh %r1, 3"]);
        check("w0 = 1", &["mov32 %r0, 1"]);
        check("r1 = (s8)r2", &["movsx864 %r1, %r2", "r1 = (s8) r2"]);
        check("w1 = (s16)w2", &["movsx1632 %r1, %r2"]);
        check("r3 = -r3", &["neg %r3"]);
        check("w3 = -w3", &["neg32 %r3"]);
        check("r1 = be32 r1", &["be32 %r1"]);
        check("r1 = bswap16 r1", &["bswap16 %r1", "swap16 %r1"]);
        check("r1 = *(u32 *)(r2 +4)", &["ldxw %r1, [%r2+4]", "r1 = *(u32 *)(r2 + 4)", "w1 = *(u32*)(r2+4)"]);
        check("r1 = *(s8 *)(r2 -1)", &["ldxsb %r1, [%r2-1]", "r1 = *(s8 *)(r2 - 1)"]);
        check("*(u64 *)(r10 -8) = r1", &["stxdw [%r10-8], %r1", "*(u64 *)(r10 - 8) = r1"]);
        check("*(u8 *)(r1 +0) = 7", &["stb [%r1], 7", "*(u8 *)(r1) = 7"]);
        check("r0 = *(u16 *)skb[12]", &["ldabsh 12"]);
        check("r0 = *(u8 *)skb[r3 + -2]", &["ldindb %r3, -2"]);
        check("r1 = 0x1122334455667788 ll", &["lddw %r1, 0x1122334455667788", "(18) r1 = 0x1122334455667788"]);
        check("r1 = 0xffffffffffffffff ll", &["lddw %r1, -1", "r1 = -1 ll"]);
        check("goto pc+1", &["ja l1", "ja +1", "goto l1", "goto +1"]);
        check("gotol pc+1", &["ja32 l1", "gotol l1"]);
        check("may_goto pc+2", &["may_goto l2", "may_goto +2"]);
        check("if r1 == 0x5 goto pc+1", &["jeq %r1, 5, l1", "if r1 == 5 goto l1"]);
        check("if w1 s< w2 goto pc+0", &["jslt32 %r1, %r2, exit", "jslt32 %r1, %r2, +0"]);
        check("if r1 & 0xfffffff8 goto pc+0", &["jset %r1, -8, l0"]);
        check("lock *(u64 *)(r1 +8) += r2", &["lock add [%r1+8], %r2"]);
        check("lock *(u32 *)(r1 +8) ^= r2", &["lock xor32 [%r1+8], %r2", "lock *(u32 *)(r1 + 8) ^= w2"]);
        check(
            "r2 = atomic64_fetch_or((u64 *)(r1 +0), r2)",
            &["lock fetch or [%r1], %r2", "r2 = atomic_fetch_or((u64 *)(r1 + 0), r2)"],
        );
        check("r2 = atomic_xchg((u32 *)(r1 +0), r2)", &["lock xchg32 [%r1], %r2", "w2 = xchg32_32(r1 + 0, w2)"]);
        check(
            "r0 = atomic64_cmpxchg((u64 *)(r1 -8), r0, r2)",
            &["lock cmpxchg [%r1-8], %r2", "r0 = cmpxchg_64(r1 - 8, r0, r2)"],
        );
        check("r1 = load_acquire((u16 *)(r2 +6))", &["w1 = load_acquire((u16 *)(r2 + 6))"]);
        check("store_release((u32 *)(r2 +4), r1)", &["store_release((u32 *)(r2 + 4), w1)"]);
        check("r1 = addr_space_cast(r2, 0, 1)", &[]);
        check("call unknown#5", &["call 5", "call helper 5", "call bpf_ktime_get_ns#5"]);
        check("call pc+1", &["call l1", "call local l1", "call local +1"]);
        check("call kfunc#7:0", &["call runtime 7", "call kfunc#7"]);
        check("callx r3", &["call %r3", "call helper %r3"]);
        check("exit", &["exit # done", "exit // done"]);
        check(".raw 9500070000000000", &[]);
        check("r1 = map[fd:7] ll", &["(18) r1 = map[fd:7]"]);
        check("r1 = map[idx:0] ll", &["r1 = map[counts] ll", "r1 = counts ll"]);
        check("r1 = map[idx:0][0]+4 ll", &["r1 = map[counts][0]+4 ll"]);
        check("r1 = var[12:0] ll", &[]);
        check("r1 = subprog[+2] ll", &["r1 = subprog[l1] ll", "r1 = l1 ll"]);
    }

    #[test]
    fn errors_name_place_and_expectation() {
        let check = |text: &str, line: u32, column: u32, expected: &str, found: &str| {
            let e = assemble(text).expect_err(text);
            assert_eq!(
                (e.line, e.column, e.expected.as_str(), e.found.as_str()),
                (line, column, expected, found),
                "{text}"
            );
        };
        check("exit\nr11 = 1", 2, 1, "a register, r0 to r10 or w0 to w10", "r11");
        check("r1 = r2 + 3", 1, 9, "the end of the line", "+");
        check("r1 = 0x100000000", 1, 6, "a 32-bit number, or `ll` after it", "4294967296");
        check("r1 = *(u32 *)(r2 + 40000)", 1, 18, "a 16-bit offset", "40000");
        check("r1 = -r2", 1, 7, "`r1`, the register that this form reads and writes", "r2");
        check("if r1 = 2 goto x", 1, 7, "a comparison, such as `==` or `s<`", "=");
        check("goto nowhere", 1, 6, "a label of this text", "nowhere");
        check("a: exit\na: exit", 2, 1, "a label that is defined once", "a");
        check("frobnicate %r1", 1, 1, "an instruction", "frobnicate");
        check("add %r1", 1, 8, "`,`", "");
        check("movsx3232 %r1, %r2", 1, 1, "an instruction", "movsx3232");
        check("lock mul [%r1], %r2", 1, 6, "add, or, and, xor, xchg or cmpxchg", "mul");
        check(".raw 95", 1, 6, "16 hexadecimal digits, the slot's bytes in memory order", "95");
        check("lock *(u8 *)(r1 + 0) += r2", 1, 6, "a pointer to u32 or u64 after `lock`", "*");
        let far = format!("goto far\n{}far: exit", "exit\n".repeat(40_000));
        check(&far, 1, 6, "a target within 32767 slots (`gotol` reaches farther)", "far");
        assert_eq!(
            assemble("add %r1").unwrap_err().to_string(),
            "line 1, column 8: expected `,`, found the end of the line"
        );
    }

    #[test]
    fn labels_lines_and_maps_come_out() {
        let text = "start:\n  r1 = map[a] ll\n\n  r2 = b ll\n  r3 = map[a] ll\nend: exit";
        let out = assemble(text).unwrap();
        assert_eq!(out.maps, ["a", "b"]);
        assert_eq!(out.labels, BTreeMap::from([("start".into(), 0), ("end".into(), 6)]));
        assert_eq!(out.lines, [2, 2, 4, 4, 5, 5, 6]);
    }

    #[test]
    fn helpers_go_by_name_where_a_table_is_given() {
        let helper = |name: &str| (name == "ktime_get_ns").then_some(5);
        let out = assemble_with("call bpf_ktime_get_ns\ncall ktime_get_ns\nexit", &helper).unwrap();
        assert_eq!(out.slots[0], RawInsn { code: 0x85, imm: 5, ..RawInsn::default() });
        assert_eq!(out.slots[1], out.slots[0]);
    }
}
