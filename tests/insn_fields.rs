//! Every opcode with every field varied, judged as Linux judged it.
//!
//! Linux's answers lie outside this repository: `RTBPF_CORPORA` names their folder.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use rtbpf_isa::{DecodeError, Insn, InsnIdx, RawInsn, decode};

/// What decoding can know of Linux's answer.
#[derive(Clone, PartialEq, Debug)]
enum Verdict {
    /// Refused wherever it stands.
    Everywhere(String),
    /// Refused where a path reaches it.
    Reached(String),
    /// No complaint about the encoding itself.
    Fine,
}

/// Messages about the encoding, not about what a register holds or a number names.
fn is_about_encoding(message: &str) -> bool {
    let about = ["uses reserved fields", " is invalid", "uses invalid atomic opcode", "invalid atomic operand size"];
    let more =
        ["unknown opcode", "unrecognized bpf_ld_imm", "invalid bpf_ld_imm64", "invalid may_goto", "address space 1"];
    about.iter().chain(&more).any(|part| message.contains(part))
}

fn judge(first: RawInsn) -> Verdict {
    let exit = RawInsn { code: 0x95, ..RawInsn::default() };
    let mut slots = vec![exit; 48];
    slots[8] = first;
    if first.code == 0x18 {
        slots[9] = RawInsn::default();
    }
    match decode(&slots) {
        Err(DecodeError::JumpOutOfRange { .. } | DecodeError::CallOutOfRange { .. }) => Verdict::Fine,
        Err(e) => Verdict::Everywhere(e.kernel_message().unwrap_or_default()),
        Ok(program) => match program.insn_at_slot(8).and_then(|at| program.get(at)) {
            Some(Insn::Bad { why, .. }) => Verdict::Reached(why.kernel_message(first)),
            _ => Verdict::Fine,
        },
    }
}

/// Numbers differ between answers that the table folds into one.
fn folded(message: &str) -> String {
    if let Some((text, _)) = message.split_once("invalid atomic opcode") {
        return text.into();
    }
    let mut out = String::new();
    let mut in_number = false;
    for c in message.chars() {
        let is_digit = c.is_ascii_digit() || c == '-' && !in_number;
        if is_digit && !in_number {
            out.push('N');
        }
        if !is_digit {
            out.push(c);
        }
        in_number = is_digit;
    }
    out.replace("RN", "Rn").replace("=N", "N")
}

fn fields(text: &str) -> BTreeMap<&str, i64> {
    let pairs = text.split([' ', '(', ')']).filter_map(|pair| pair.split_once('='));
    pairs.filter_map(|(field, value)| Some((field, value.parse().ok()?))).collect()
}

fn with(base: &BTreeMap<&str, i64>, changes: &BTreeMap<&str, i64>, code: u8) -> RawInsn {
    let field = |name| changes.get(name).or(base.get(name)).copied().unwrap_or_default();
    RawInsn {
        code,
        dst: field("dst") as u8,
        src: field("src") as u8,
        off: field("off") as i16,
        imm: field("imm") as i32,
    }
}

#[test]
fn linux_refuses_the_same_encodings() {
    let Some(corpora) = std::env::var_os("RTBPF_CORPORA") else {
        println!("skipped: RTBPF_CORPORA does not name the folder of Linux's answers");
        return;
    };
    let file = PathBuf::from(corpora).join("linux-6.18/insn-fields.tsv");
    let text = fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let rows: Vec<Vec<&str>> = text.lines().skip(1).map(|line| line.split('\t').collect()).collect();
    let fields_rows = || rows.iter().filter(|row| row[0] == "fields");
    let mut bases = BTreeMap::new();
    for row in fields_rows() {
        if let Some(base) = row[5].split("; ").find(|variant| variant.starts_with("base (")) {
            bases.insert(row[1], fields(base));
        }
    }
    let (mut judged, mut wrong) = (0, Vec::new());
    for row in fields_rows() {
        let (opcode, message) = (row[1], row[4]);
        let code = u8::from_str_radix(&opcode[2..], 16).expect("opcodes are hexadecimal");
        for variant in row[5].split("; ") {
            let raw = with(&bases[opcode], &fields(variant), code);
            let verdict = judge(raw);
            let agrees = match &verdict {
                // Linux stops at the first complaint: a bad pointer, say, before a bad second register.
                Verdict::Fine => !is_about_encoding(message),
                Verdict::Everywhere(ours) | Verdict::Reached(ours) => {
                    folded(ours) == folded(message) || row[3] != "ok" && !is_about_encoding(message)
                }
            };
            judged += 1;
            // The one encoding that is decoded although Linux does not know it.
            if !agrees && code != 0x8d {
                wrong.push(format!("{raw:x?}: {verdict:?}, Linux: {} {message}", row[3]));
            }
        }
    }
    assert!(judged > 5000, "only {judged} variants read");
    assert!(wrong.is_empty(), "{} of {judged}:\n{}", wrong.len(), wrong.join("\n"));
    println!("{judged} variants judged as Linux judges them");
}

#[test]
fn a_program_that_holds_a_bad_encoding_in_dead_code_decodes() {
    let slots = ["b700000000000000", "5500010000000000", "9500000000000000", "070b000005000000", "9500000000000000"];
    let slots = slots.map(|hex| RawInsn::from_le_bytes(u64::from_str_radix(hex, 16).unwrap().to_be_bytes()));
    let program = decode(&slots).unwrap();
    assert!(matches!(program.get(InsnIdx(3)), Some(Insn::Bad { .. })));
}
