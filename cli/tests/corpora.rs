//! `rtbpf batch` on what Linux 6.18 answered: recorded programs through every engine, and recorded map operations.
//!
//! The recordings lie in the folder that `RTBPF_CORPORA` names; without it the tests say so and pass. Those of answers that
//! once differed lie beside this file.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;

/// `file` of the recordings, unpacked; `None` where there are none.
fn recorded(file: &str) -> Option<Vec<u8>> {
    let path = PathBuf::from(std::env::var_os("RTBPF_CORPORA")?).join(file);
    if path.extension().is_some_and(|extension| extension == "xz") {
        let unpacked = Command::new("xz").arg("-dc").arg(&path).output().ok()?;
        return unpacked.status.success().then_some(unpacked.stdout);
    }
    std::fs::read(path).ok()
}

fn parsed(lines: &[u8]) -> Vec<Value> {
    let line = |line: &[u8]| serde_json::from_slice(line).expect("a line is one JSON object");
    lines.split(|byte| *byte == b'\n').filter(|text| !text.is_empty()).map(line).collect()
}

fn answers(cases: &[u8], engine: &str) -> Vec<Value> {
    let mut batch = Command::new(env!("CARGO_BIN_EXE_rtbpf"))
        .args(["batch", "--engine", engine])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut input = batch.stdin.take().expect("it is a pipe");
    let cases = cases.to_vec();
    let feeder = std::thread::spawn(move || input.write_all(&cases));
    let output = batch.wait_with_output().expect("it ends");
    feeder.join().expect("no panic").expect("it reads all of its input");
    parsed(&output.stdout)
}

/// How many of the cases agree.
#[derive(Default, Debug)]
struct Score {
    same: usize,
    of: usize,
}

impl Score {
    fn add(&mut self, same: bool) {
        self.same += usize::from(same);
        self.of += 1;
    }

    fn at_least(&self, percent: usize) -> bool {
        self.same * 100 >= self.of * percent
    }
}

/// Whether a recorded run and ours are the same; `None` for those that cannot be compared: results that are addresses,
/// and kinds of program that Linux has no test run for.
fn same_run(theirs: &Value, ours: &Value) -> Option<bool> {
    let errno = |run: &Value| run["errno"].as_i64().unwrap_or(0);
    if theirs["nondet"] == true || errno(theirs) == 524 {
        return None;
    }
    let given = |field: &str| theirs[field].is_null() || theirs[field] == ours[field];
    Some(errno(theirs) == errno(ours) && given("retval") && given("data_out"))
}

fn programs_agree(engine: &str) {
    let Some(cases) = recorded("verifier-cases.jsonl.xz") else {
        println!("skipped: RTBPF_CORPORA names no folder with verifier-cases.jsonl.xz, or there is no xz");
        return;
    };
    let (mut accepts, mut rejects, mut errnos, mut runs) =
        (Score::default(), Score::default(), Score::default(), Score::default());
    let mut false_accepts = Vec::new();
    let answered = answers(&cases, engine);
    let cases = parsed(&cases);
    assert_eq!(cases.len(), answered.len(), "one answer a case");
    for (case, ours) in cases.iter().zip(&answered) {
        let linux = &case["linux"];
        let agree = linux["verdict"] == ours["verdict"];
        match linux["verdict"].as_str() {
            Some("accept") => accepts.add(agree),
            _ => rejects.add(agree),
        }
        match (linux["verdict"].as_str(), agree) {
            (Some("accept"), true) => {
                let (theirs, ours) = (linux["runs"].as_array(), ours["runs"].as_array());
                let pairs = theirs.into_iter().flatten().zip(ours.into_iter().flatten());
                pairs.filter_map(|(theirs, ours)| same_run(theirs, ours)).for_each(|same| runs.add(same));
            }
            (Some("accept"), false) => {}
            (_, true) => errnos.add(linux["errno"] == ours["errno"]),
            (_, false) => false_accepts.push(case["name"].to_string()),
        }
    }
    println!("{engine}: accepts {accepts:?}, rejects {rejects:?}, errno {errnos:?}, runs {runs:?}");
    assert!(false_accepts.is_empty(), "accepted here, refused by Linux: {false_accepts:?}");
    assert!(accepts.at_least(98) && errnos.at_least(95));
    // One program returns the address of a kernel object, which no other machine has.
    assert!(runs.same + 1 >= runs.of, "{runs:?}");
}

#[test]
fn recorded_programs_agree_in_the_checked_interpreter() {
    programs_agree("checked");
}

#[test]
fn recorded_programs_agree_in_the_threaded_interpreter() {
    programs_agree("threaded");
}

#[test]
fn recorded_programs_agree_where_facts_are_asserted() {
    programs_agree("interp");
}

#[test]
fn recorded_programs_agree_in_native_code() {
    programs_agree("jit");
}

/// Whether a step answers as recorded: errno always, outputs where it succeeded, and what a short buffer holds.
fn same_step(theirs: &Value, ours: &Value) -> bool {
    const INPUTS_AND_WORDS: [&str; 3] = ["ret", "errno_num", "log_tail"];
    if theirs["errno"] != ours["errno"] {
        return false;
    }
    if theirs["ret"].as_i64().unwrap_or(0) < 0 {
        return ["data_out", "ctx_out"].iter().all(|name| theirs[name].is_null() || theirs[name] == ours[name]);
    }
    let Some(fields) = theirs.as_object() else { return true };
    fields.iter().filter(|(name, _)| !INPUTS_AND_WORDS.contains(&name.as_str())).all(|(name, theirs_value)| {
        let as_set = |value: &Value| {
            let mut items: Vec<String> = value.as_array().into_iter().flatten().map(Value::to_string).collect();
            items.sort();
            items
        };
        match theirs["ordered"] == false && theirs_value.is_array() {
            true => as_set(theirs_value) == as_set(&ours[name]),
            false => *theirs_value == ours[name],
        }
    })
}

/// How many of the map cases agree in every step, and the names of the others.
fn map_operations(cases: &[u8]) -> (Score, Vec<String>) {
    let answered = answers(cases, "checked");
    let cases = parsed(cases);
    assert_eq!(cases.len(), answered.len(), "one answer a line");
    let (mut score, mut differ) = (Score::default(), Vec::new());
    for (case, ours) in cases.iter().zip(&answered).filter(|(case, _)| case["record"] != "meta") {
        let (steps, ours) = (case["steps"].as_array(), ours["steps"].as_array());
        let pairs = || steps.into_iter().flatten().zip(ours.into_iter().flatten());
        let same = pairs().all(|(theirs, ours)| same_step(theirs, ours)) && steps.map(Vec::len) == ours.map(Vec::len);
        score.add(same);
        if !same {
            differ.push(case["id"].to_string());
        }
    }
    (score, differ)
}

#[test]
fn recorded_map_operations_agree() {
    let Some(cases) = recorded("map-cases.jsonl") else {
        println!("skipped: RTBPF_CORPORA names no folder with map-cases.jsonl");
        return;
    };
    let (score, differ) = map_operations(&cases);
    println!("maps: {score:?}; differ: {}", differ.join(", "));
    assert!(score.at_least(98), "{score:?}: {differ:?}");
}

#[test]
fn map_operations_that_once_differed_agree() {
    let (_, differ) = map_operations(include_bytes!("linux_map_cases.jsonl"));
    assert!(differ.is_empty(), "{differ:?}");
}
