//! Checks the house itself: which crate may use which, where `unsafe` may live and how it is argued, how long a file
//! may be. ARCHITECTURE.md states the rules; the tables here are what holds them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Crate folder and the crates of ours it may use. Edges not listed do not exist.
const EDGES: &[(&str, &[&str])] = &[
    ("isa", &[]),
    ("abi", &["isa"]),
    ("rt", &[]),
    ("btf", &["abi"]),
    ("loader", &["isa", "abi", "btf"]),
    ("verifier", &["isa", "abi", "btf"]),
    ("maps", &["abi", "rt"]),
    ("jit", &["isa", "abi", "verifier"]),
    ("vm", &["isa", "abi", "rt", "btf", "loader", "verifier", "maps", "jit"]),
];

/// Files and folders that may hold `unsafe`. Leaves outside the nine crates forbid it.
const UNSAFE_ROOMS: &[&str] = &[
    "rt/src/lock/",
    "rt/src/slot.rs",
    "rt/src/interrupt.rs",
    "rt/src/pin.rs",
    "rt/src/alloc_gate.rs",
    "maps/src/slab.rs",
    "maps/src/percpu.rs",
    "maps/src/retire.rs",
    "maps/src/access.rs",
    "maps/src/head.rs",
    "jit/src/exec_mem.rs",
    "jit/src/native.rs",
    "jit/src/trap.rs",
    "jit/src/tools/gdb.rs",
    "jit/src/tools/jitdump.rs",
    "verifier/src/verified.rs",
    "vm/src/mem.rs",
    "vm/src/interp/threaded/",
    "vm/src/unchecked.rs",
    "vm/src/native.rs",
    "vm/src/worker/",
    "vm/src/helpers/native.rs",
];

/// Lines a source file may have.
const MOST_LINES: usize = 800;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the workspace").to_path_buf()
}

/// Rust files of the workspace: path from the root, text.
fn sources() -> Vec<(String, String)> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        let Ok(entries) = std::fs::read_dir(dir) else { return };
        for path in entries.flatten().map(|entry| entry.path()) {
            if path.is_dir() {
                if !path.ends_with("target") && !path.ends_with(".git") {
                    walk(&path, found);
                }
            } else if path.extension().is_some_and(|ext| ext == "rs") {
                found.push(path);
            }
        }
    }
    let root = root();
    let mut found = Vec::new();
    walk(&root, &mut found);
    found.sort();
    found
        .into_iter()
        .map(|path| {
            let text = std::fs::read_to_string(&path).expect("sources are UTF-8");
            (path.strip_prefix(&root).expect("below the root").to_string_lossy().into_owned(), text)
        })
        .collect()
}

/// Panics with every complaint, one a line.
fn report(complaints: Vec<String>) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn crates_use_only_the_crates_below_them() {
    let mut complaints = Vec::new();
    for (folder, allowed) in EDGES {
        let manifest = std::fs::read_to_string(root().join(folder).join("Cargo.toml")).expect("a manifest");
        let manifest: toml::Table = manifest.parse().expect("valid TOML");
        let used: BTreeSet<&str> = manifest
            .get("dependencies")
            .and_then(|deps| deps.as_table())
            .into_iter()
            .flat_map(|deps| deps.keys())
            .filter_map(|name| if name == "rtbpf" { Some("vm") } else { name.strip_prefix("rtbpf-") })
            .collect();
        for other in used {
            if !allowed.contains(&other) {
                complaints.push(format!("{folder}/Cargo.toml: uses {other}, an edge that does not exist"));
            }
        }
    }
    report(complaints);
}

#[test]
fn files_are_one_idea_long() {
    let long = |(path, text): (String, String)| {
        let lines = text.lines().count();
        (lines > MOST_LINES).then(|| format!("{path}: {lines} lines (at most {MOST_LINES})"))
    };
    report(sources().into_iter().filter_map(long).collect());
}

#[test]
fn unsafe_lives_in_its_rooms_and_is_argued() {
    let crates: Vec<String> = EDGES.iter().map(|(folder, _)| format!("{folder}/src/")).collect();
    let mut complaints = Vec::new();
    for (path, text) in sources() {
        if !crates.iter().any(|folder| path.starts_with(folder)) {
            continue;
        }
        let in_room = UNSAFE_ROOMS.iter().any(|room| path.starts_with(room));
        let lines: Vec<&str> = text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let opens =
                ["unsafe {", "unsafe impl", "unsafe fn", "unsafe extern"].iter().any(|form| code.contains(form));
            if !opens {
                continue;
            }
            // Types of function pointers and trait signatures carry the word without doing anything.
            let declares = code.contains("unsafe extern \"C\" fn(") || code.contains("unsafe fn(");
            if !in_room && !declares {
                complaints.push(format!("{path}:{}: `unsafe` outside its rooms", at + 1));
            }
            let above = &lines[at.saturating_sub(12)..=at];
            let argued = above.iter().any(|line| line.contains("SAFETY:") || line.contains("# Safety"));
            if !declares && !argued {
                complaints.push(format!("{path}:{}: `unsafe` without a SAFETY note", at + 1));
            }
        }
    }
    report(complaints);
}

#[test]
fn every_unfinished_mark_says_when_it_ends() {
    let marks = ["todo!", "unimplemented!", "#[ignore]"];
    let own = "tests/tidy.rs";
    let unfinished = |(path, text): (String, String)| {
        let at = text.lines().position(|line| marks.iter().any(|mark| line.contains(mark)))?;
        (path != own).then(|| format!("{path}:{}: unfinished mark without a reason", at + 1))
    };
    report(sources().into_iter().filter_map(unfinished).collect());
}
