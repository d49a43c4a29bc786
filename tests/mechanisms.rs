//! The ways in which verifiers were wrong before, each with near misses on both sides.
//!
//! ```text
//! == CVE-2017-16995                                 one mechanism, by the names it is known under
//! A 32-bit move of an immediate zero-extends.       what must hold
//! -- accept 7                                       just inside: accepted; every engine gives this value
//! r0 = 7
//! exit
//! -- reject OutOfBounds prog=xdp                    just outside: refused for this reason
//! ...
//! -- elsewhere vm/src/interp/flow.rs some_test      the test that shows it where it is no matter of one program
//! -- none it cannot exist here, because ...
//! ```
//!
//! Words after the verdict: `prog=TYPE`; `each=A,B`, the last, makes a program of each, in place of `$each`; `here` does
//! not ask Linux; `norun` does not run; `often` keeps a state wherever paths meet; `strict`; `unprivileged`, with CAP_BPF
//! and CAP_NET_ADMIN only. Lines that begin with `@` stand for the passages in [`PASSAGES`]. Where the running kernel may be asked, its verdict, errno and results must be the same.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rtbpf::isa::{asm, decode};
use rtbpf::verifier::{Assumptions, KeepStates, Options, Privilege, Profile, verify};
use rtbpf_abi::map_spec::{SpecialField, SpecialKind, flags};
use rtbpf_abi::{MapKind, MapSpec, ProgKind, ProgType};
use rtbpf_tests::differ::{Comparison, compare};
use rtbpf_tests::generate::{Case, CaseMap};
use rtbpf_tests::kernel;
use rtbpf_tests::machine::{Machine, Outcome, Way};

/// What programs share. A value of `value` (bytes 1 to 16) is in r0, the context in r9; r6 is unknown, 64 in a run.
const PASSAGES: [(&str, &str); 8] = [
    (
        "@value",
        "r6 = *(u32 *)(r1 + 0)\nr9 = r1\n*(u32 *)(r10 - 4) = 0\nr2 = r10\nr2 += -4\nr1 = map[value] ll\ncall 1\n\
         if r0 == 0 goto out",
    ),
    ("@maybe", "r6 = *(u32 *)(r1 + 0)\n*(u32 *)(r10 - 4) = 0\nr2 = r10\nr2 += -4\nr1 = map[value] ll\ncall 1"),
    ("@out", "exit\nout:\nr0 = 0\nexit"),
    // Eight bytes from r2 on, in r7 as well; r3 is the end.
    (
        "@packet",
        "r6 = r1\nr2 = *(u32 *)(r1 + 76)\nr3 = *(u32 *)(r1 + 80)\nr7 = r2\nr4 = r2\nr4 += 8\nif r4 > r3 goto out",
    ),
    ("@record", "r9 = r1\nr1 = map[ring] ll\nr2 = 16\nr3 = 0\ncall 131\nif r0 == 0 goto out"),
    // What two lookups gave, each of which may have found nothing: in r6 and r7, and at r10 - 16.
    (
        "@two",
        "r8 = *(u32 *)(r1 + 0)\n*(u32 *)(r10 - 4) = 0\nr2 = r10\nr2 += -4\nr1 = map[value] ll\ncall 1\n\
         *(u64 *)(r10 - 16) = r0\nr2 = r10\nr2 += -4\nr1 = map[value] ll\ncall 1\nr6 = r0\nr7 = r6",
    ),
    // A value with a lock at its byte 8, and up to 4 in r6.
    (
        "@late",
        "r6 = *(u32 *)(r1 + 0)\nr6 &= 4\n*(u32 *)(r10 - 4) = 0\nr2 = r10\nr2 += -4\nr1 = map[late] ll\ncall 1\n\
         if r0 == 0 goto out",
    ),
    ("@dynptr", "r9 = r1\nr1 = map[one][0] ll\nr2 = 16\nr3 = 0\nr4 = r10\nr4 += -16\ncall 197"),
];

/// Kernel functions, called by place.
const KFUNCS: [&str; 3] = ["bpf_dynptr_from_skb", "bpf_dynptr_slice", "bpf_dynptr_slice_rdwr"];

fn map(name: &str) -> CaseMap {
    let mut map = match name {
        "value" => CaseMap::new(MapKind::Hash, 4, 16, 4),
        "one" | "const" | "lock" | "late" => CaseMap::new(MapKind::Array, 4, 16, 1),
        "readonly" => CaseMap::new(MapKind::Hash, 4, 16, 4),
        "ring" => CaseMap::new(MapKind::Ringbuf, 0, 0, 4096),
        "progs" => CaseMap::new(MapKind::ProgArray, 4, 4, 4),
        "outer" | "outer_any" => CaseMap::new(MapKind::ArrayOfMaps, 4, 4, 4),
        name => panic!("no map called {name}"),
    };
    match name {
        "value" | "one" => map.init.push((vec![0; 4], (1..=16).collect())),
        "const" => {
            map.spec.flags = flags::RDONLY_PROG;
            map.spec.frozen = Some([3, 0, 0, 0, 0, 0, 0, 0, b'7', 0, 0, 1, 1, 1, 1, 1].into());
        }
        "readonly" => map.spec.flags = flags::RDONLY_PROG,
        "outer" => map.spec.inner = Some(Box::new(MapSpec::new(MapKind::Array, 4, 4, 2))),
        "outer_any" => {
            let any_length = MapSpec { flags: flags::INNER_MAP, ..MapSpec::new(MapKind::Array, 4, 4, 2) };
            map.spec.inner = Some(Box::new(any_length));
        }
        "lock" => map.spec.fields.push(SpecialField { off: 0, kind: SpecialKind::SpinLock }),
        "late" => map.spec.fields.push(SpecialField { off: 8, kind: SpecialKind::SpinLock }),
        _ => {}
    }
    map
}

struct Program {
    verdict: String,
    text: String,
}

#[derive(Default)]
struct Mechanism {
    names: String,
    rule: String,
    programs: Vec<Program>,
    elsewhere: Vec<String>,
    none: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(file: &str) -> Vec<Mechanism> {
    let path = root().join("tests/data/mechanisms").join(file);
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut found: Vec<Mechanism> = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        if let Some(names) = line.strip_prefix("== ") {
            found.push(Mechanism { names: names.into(), ..Mechanism::default() });
            continue;
        }
        let last = found.last_mut().unwrap_or_else(|| panic!("{file}: `{line}` before the first mechanism"));
        match line.strip_prefix("-- ") {
            Some(rest) if rest.starts_with("elsewhere ") => last.elsewhere.push(rest[10..].into()),
            Some(rest) if rest.starts_with("none ") => last.none = rest[5..].into(),
            Some(verdict) => last.programs.push(Program { verdict: verdict.into(), text: String::new() }),
            None => {
                let passage = PASSAGES.iter().find(|(name, _)| *name == line).map_or(line, |(_, text)| text);
                let text = last.programs.last_mut().map_or(&mut last.rule, |program| &mut program.text);
                *text += passage;
                *text += "\n";
            }
        }
    }
    found
}

fn case_of(text: &str, prog: ProgType) -> Case {
    let assembly = asm::assemble(text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    // Ethernet, of a protocol that nothing knows.
    let mut packet: Vec<u8> = (0..64).collect();
    packet[12..14].copy_from_slice(&[0x88, 0xb5]);
    let maps = assembly.maps.iter().map(|name| map(name)).collect();
    let kind = ProgKind::of(prog, None, false).expect("a program type has a kind");
    Case { name: text.into(), kind, prog_flags: 0, insns: assembly.slots, maps, typed: true, packets: vec![packet] }
}

/// The reason for which `case` is refused.
fn judge(case: &Case, machine: &Machine, words: &[&str]) -> Result<(), String> {
    let has = |word: &str| words.contains(&word);
    if !has("strict")
        && !has("unprivileged")
        && !has("kfuncs")
        && !case.maps.iter().any(|map| map.spec.frozen.is_some() || !map.spec.fields.is_empty())
    {
        return machine.judge(case).map(|_| ()).map_err(|why| format!("{:?}", why.reason));
    }
    let mut program = decode(&case.insns).map_err(|error| error.to_string())?;
    program.subprogs_mut().iter_mut().for_each(|subprog| subprog.btf_id = 3);
    let given = Assumptions {
        attach_type: case.attach_type(),
        prog_flags: case.prog_flags,
        maps: case.maps.iter().map(|map| Arc::new(map.spec.clone())).collect(),
        kfuncs: KFUNCS.iter().enumerate().map(|(id, name)| (id as i32 + 1, (*name).to_owned())).collect(),
        ..Assumptions::new(case.prog_type())
    };
    let options = Options {
        profile: if has("strict") { Profile::Strict } else { Profile::Compat },
        privilege: if has("unprivileged") {
            Privilege { bpf: true, net_admin: true, ..Privilege::NONE }
        } else {
            Privilege::ROOT
        },
        ..Options::default()
    };
    verify(program, given, &options).map(|_| ()).map_err(|why| format!("{:?}", why.reason))
}

/// What is wrong with one program; `None` when all is as it should be.
fn complaint(verdict: &str, text: &str, ask: bool) -> Option<String> {
    let words: Vec<&str> = verdict.split_whitespace().collect();
    let prog = words.iter().find_map(|word| word.strip_prefix("prog=")).unwrap_or("sched_cls");
    let mut case = case_of(text, ProgType::from_name(prog).unwrap_or_else(|| panic!("no program type {prog}")));
    if words.contains(&"norun") {
        case.packets.clear();
    }
    if words.contains(&"often") {
        case.prog_flags = 8;
    }
    let mut machine = match Machine::new(&case) {
        Ok(machine) => machine,
        Err(error) => return Some(error),
    };
    let got = judge(&case, &machine, &words);
    match (words[0], words.get(1)) {
        ("accept", value) => {
            if let Err(reason) = got {
                return Some(format!("refused: {reason}"));
            }
            let kept = Options { keep_states: KeepStates::Leaders, ..Options::default() };
            if let Some(Err(why)) = machine.judge_by(&case, &kept).ok().and_then(|verified| verified.recheck()) {
                return Some(format!("its states do not prove it: {why}"));
            }
            let value: Option<u64> = value.and_then(|word| word.parse().ok());
            if let Some(value) = value {
                for way in Way::ALL {
                    let verified = machine.judge(&case).ok()?;
                    if let Err(error) = machine.bind(verified, way) {
                        return Some(format!("{way:?}: {error}"));
                    }
                    match machine.run(&case.packets[0]) {
                        Outcome::Done { r0, .. } if r0 == value => {}
                        other => return Some(format!("{way:?}: {other:?}")),
                    }
                }
            }
        }
        ("reject", Some(reason)) if got == Err((*reason).to_owned()) => {}
        ("reject", Some(reason)) => return Some(format!("expected {reason}, got {got:?}")),
        _ => return Some("no verdict".into()),
    }
    let alike = |comparison| match comparison {
        Comparison::Accepted(_) | Comparison::Rejected(_) | Comparison::NoAnswer(_) => None,
        Comparison::Differs(difference) => Some(format!("{difference:?}")),
    };
    let ours_alone = ["here", "strict", "unprivileged", "kfuncs"].iter().any(|word| words.contains(word));
    if ask && !ours_alone { alike(compare(&case)) } else { None }
}

fn check(file: &str) {
    let ask = kernel::permitted().inspect_err(|reason| println!("Linux is not asked: {reason}")).is_ok();
    let (mut wrong, mut programs) = (Vec::new(), 0);
    for mechanism in read(file) {
        for Program { verdict, text } in &mechanism.programs {
            let each = verdict.split_once("each=").map_or("", |(_, each)| each);
            for each in each.split(',') {
                let text = text.replace("$each", each);
                programs += 1;
                if let Some(complaint) = complaint(verdict, &text, ask) {
                    wrong.push(format!("== {}\n-- {verdict}: {complaint}\n{text}", mechanism.names));
                }
            }
        }
    }
    println!("{file}: {programs} programs");
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn ranges() {
    check("ranges");
}

#[test]
fn states() {
    check("states");
}

#[test]
fn types() {
    check("types");
}

#[test]
fn speculation() {
    check("speculation");
}

#[test]
fn structure() {
    check("structure");
}

#[test]
fn every_mechanism_has_both_sides_or_a_reason() {
    let (mut names, mut shown) = (BTreeSet::new(), 0);
    for file in ["ranges", "states", "types", "speculation", "structure"] {
        for mechanism in read(file) {
            let name = &mechanism.names;
            assert!(names.insert(name.clone()), "{name} stands twice");
            assert!(!mechanism.rule.is_empty(), "{name} does not say what must hold");
            let has = |verdict| mechanism.programs.iter().any(|program| program.verdict.starts_with(verdict));
            for place in &mechanism.elsewhere {
                let (file, test) = place.split_once(' ').unwrap_or_else(|| panic!("{name}: {place}"));
                let text = fs::read_to_string(root().join(file)).unwrap_or_else(|e| panic!("{name}: {file}: {e}"));
                assert!(text.contains(&format!("fn {test}()")), "{name}: no test {test} in {file}");
            }
            let both = has("accept") && has("reject");
            assert!(both || !mechanism.elsewhere.is_empty() || !mechanism.none.is_empty(), "{name} lacks a side");
            shown += usize::from(mechanism.none.is_empty());
        }
    }
    println!("{} mechanisms, {shown} of them shown by tests", names.len());
    assert!(shown >= 40, "{shown} mechanisms");
}
