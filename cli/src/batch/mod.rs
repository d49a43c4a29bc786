//! `rtbpf batch`: cases in, answers out, one JSON object a line.
//!
//! A case is a program ([`programs`]) or a list of map operations ([`maps`]). One bad case never ends the process, and
//! answers come in the order of the cases however many threads work.

mod maps;
mod programs;

use std::collections::BTreeMap;
use std::io::{self, BufRead, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::mpsc;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::error::Error;

/// How many lines a thread may be ahead of the writer.
const AHEAD: usize = 256;

/// Judge and run cases given as JSON lines on standard input.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// What runs programs
    #[arg(long, value_enum, default_value_t = EngineKind::Checked)]
    pub engine: EngineKind,
    /// Whose rules of budget and errno hold
    #[arg(long, value_enum, default_value_t = ProfileKind::Compat)]
    pub profile: ProfileKind,
    /// Real-time policy
    #[arg(long, default_value = "linux-6.18")]
    pub policy: String,
    /// Whether the rules of a PREEMPT_RT kernel hold
    #[arg(long, value_enum, default_value_t = ModelKind::Nonrt)]
    pub model: ModelKind,
    /// CPUs of the machine; by default what the case says, else 2
    #[arg(long)]
    pub cpus: Option<u32>,
    /// Threads that work on cases
    #[arg(long, default_value_t = 1)]
    pub threads: usize,
    /// Verifier log: bits 1 paths, 2 every state, 4 statistics
    #[arg(long, default_value_t = 0)]
    pub log: u32,
}

/// What runs programs.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum EngineKind {
    /// The interpreter that checks every access
    Checked,
    /// The same, which also asserts every claim of the verifier
    Interp,
    /// The interpreter that trusts the proof
    Threaded,
    /// Native code
    Jit,
}

/// Whose rules of budget and errno hold.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProfileKind {
    /// Linux's
    Compat,
    /// A deterministic work budget
    Strict,
}

/// The locking model.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum ModelKind {
    /// A kernel without PREEMPT_RT
    Nonrt,
    /// A kernel with PREEMPT_RT
    Rt,
}

/// Reads cases until the input ends.
pub fn run(options: &Options) -> Result<(), Error> {
    let refused = |option: &str, what: String| Error::Option { option: option.into(), what };
    if rtbpf::abi::Policy::named(&options.policy).is_none() {
        let known: Vec<_> = rtbpf::abi::Policy::ALL.iter().map(|policy| policy.name).collect();
        return Err(refused("--policy", format!("unknown policy {:?} (known: {})", options.policy, known.join(", "))));
    }
    // A case that panics is answered; the message would only interleave with other output.
    std::panic::set_hook(Box::new(|_| ()));
    let input = io::BufReader::new(io::stdin()).lines();
    let output = io::BufWriter::new(io::stdout().lock());
    Ok(work(options, input, output)?)
}

fn work(
    options: &Options,
    input: impl Iterator<Item = io::Result<String>> + Send,
    mut output: impl Write,
) -> io::Result<()> {
    if options.threads <= 1 {
        for line in input {
            if let Some(answer) = answer_line(&line?, options) {
                writeln!(output, "{answer}")?;
                // Whoever asks one case at a time waits for it.
                output.flush()?;
            }
        }
        return Ok(());
    }
    let input = Mutex::new(input.enumerate());
    std::thread::scope(|scope| {
        let (answers, done) = mpsc::sync_channel(AHEAD);
        for _ in 0..options.threads {
            let (answers, input) = (answers.clone(), &input);
            scope.spawn(move || {
                loop {
                    // A poisoned lock means a reader that panicked; its line is lost, the others are not.
                    let next = input.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).next();
                    let Some((at, line)) = next else { break };
                    let answer = line.map(|line| answer_line(&line, options));
                    if answers.send((at, answer)).is_err() {
                        break;
                    }
                }
            });
        }
        drop(answers);
        let mut waiting = BTreeMap::new();
        let mut next = 0;
        for (at, answer) in done {
            waiting.insert(at, answer);
            while let Some(answer) = waiting.remove(&next) {
                next += 1;
                if let Some(answer) = answer? {
                    writeln!(output, "{answer}")?;
                }
            }
        }
        output.flush()
    })
}

/// The answer to one line; `None` for an empty one.
fn answer_line(line: &str, options: &Options) -> Option<Value> {
    if line.trim().is_empty() {
        return None;
    }
    let case: Value = match serde_json::from_str(line) {
        Ok(case) => case,
        Err(error) => return Some(json!({ "name": null, "error": format!("not JSON: {error}") })),
    };
    let name = case.get("name").cloned().unwrap_or(Value::Null);
    let answer = catch_unwind(AssertUnwindSafe(|| answer(&case, options)));
    Some(answer.unwrap_or_else(|_| json!({ "name": name, "error": "internal error: the case caused a panic" })))
}

fn answer(case: &Value, options: &Options) -> Value {
    if case.get("record").and_then(Value::as_str) == Some("meta") {
        return json!({ "record": "meta" });
    }
    if case.get("steps").is_some() {
        return maps::answer(case, options);
    }
    programs::answer(case, options)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(threads: usize) -> Options {
        Options {
            engine: EngineKind::Checked,
            profile: ProfileKind::Compat,
            policy: "linux-6.18".into(),
            model: ModelKind::Nonrt,
            cpus: None,
            threads,
            log: 0,
        }
    }

    fn batch(lines: &[String], threads: usize) -> Vec<Value> {
        let mut output = Vec::new();
        work(&options(threads), lines.iter().cloned().map(Ok), &mut output).unwrap();
        String::from_utf8(output).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn bad_lines_are_answered_and_the_run_goes_on() {
        let lines = ["{", "{\"name\":\"x\"}", "", "{\"record\":\"meta\",\"fields\":{}}", "[]"].map(String::from);
        let answers = batch(&lines, 1);
        assert_eq!(answers.len(), 4);
        assert!(answers[0]["error"].is_string() && answers[3]["error"].is_string());
        assert_eq!(answers[1]["name"], "x");
        assert_eq!(answers[2], json!({ "record": "meta" }));
    }

    #[test]
    fn a_program_array_takes_programs_of_one_type() {
        // r2 = map; r3 = 0; call tail_call; r0 = 1; exit
        let case = |of: &str| {
            format!(
                r#"{{"name":"t","prog_type":"xdp","insns":"18120000000000000000000000000000b703000000000000850000000c000000b7000000010000009500000000000000","fixups":[[0,0]],
                "maps":[{{"type":"prog_array","key_size":4,"value_size":4,"max_entries":1,"init_prog":[["00000000",0]]}}],
                "progs":[{{"prog_type":"{of}","insns":"b7000000000000009500000000000000"}}]}}"#
            )
        };
        let answers = batch(&["xdp", "sched_cls"].map(case).map(|line| line.replace('\n', " ")), 1);
        assert_eq!((&answers[0]["verdict"], &answers[0]["errno"]), (&json!("accept"), &json!(0)));
        assert_eq!((&answers[1]["verdict"], &answers[1]["errno"]), (&json!("reject"), &json!(22)));
    }

    #[test]
    fn threads_keep_the_order_and_the_answers() {
        // r0 = n; exit
        let case = |n: u8| {
            format!(
                r#"{{"name":"{n}","prog_type":1,"insns":"b7000000{n:02x}0000009500000000000000","runs":[{{"data_in":"{}"}}]}}"#,
                "00".repeat(64)
            )
        };
        let lines: Vec<String> = (0..200).map(case).collect();
        let answers = batch(&lines, 3);
        assert_eq!(answers.len(), lines.len());
        for (n, answer) in answers.iter().enumerate() {
            assert_eq!(answer["name"], n.to_string());
            assert_eq!(answer["runs"][0]["retval"], n);
        }
    }
}
