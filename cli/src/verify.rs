//! `rtbpf verify`: would Linux load it, and why not.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use rtbpf::abi::Policy;
use rtbpf::isa::{Program, text};
use rtbpf::loader::ProgramSpec;
use rtbpf::verifier::{
    Assumptions, HelperNames, KeepStates, Options, Profile, Rejection, Stats, VerifiedProgram, verify,
};
use rtbpf::{Config, Engine, Instance, Proof};
use serde_json::json;

use crate::error::Error;
use crate::input;
use crate::object::LoadArgs;

/// Verifies the programs of objects, by the rules of Linux 6.18.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// BPF object files.
    #[arg(required = true)]
    objects: Vec<PathBuf>,
    #[command(flatten)]
    load: LoadArgs,
    /// Only this program.
    #[arg(long, value_name = "NAME")]
    prog: Option<String>,
    /// Rules of budget and errno.
    #[arg(long, value_enum, default_value_t = ProfileName::Compat)]
    profile: ProfileName,
    /// Which program type may use which map; `rtbpf policy list` names them.
    #[arg(long, value_name = "NAME", default_value = "linux-6.18")]
    policy: String,
    /// The kernel's log: 1 paths, 2 every instruction, 4 statistics; may be added.
    #[arg(long, value_name = "LEVEL", default_value_t = 0)]
    log: u32,
    /// Print the states that prove each program, by the blocks they hold at.
    #[arg(long)]
    states: bool,
    /// How to print.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Print only what differs from an earlier run, whose `--format csv` output this file holds.
    #[arg(long, value_name = "CSV")]
    compare: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum ProfileName {
    Compat,
    Strict,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum Format {
    Table,
    Csv,
    Json,
}

/// One program's outcome, in veristat's columns.
struct Row {
    file: String,
    program: String,
    micros: u128,
    /// Bytes that the verification held at one time, the program aside.
    peak_bytes: u64,
    stats: Stats,
    refusal: Option<Box<Rejection>>,
    /// The refusal, rendered, or the states of the proof.
    words: String,
    log: String,
}

impl Row {
    fn verdict(&self) -> &'static str {
        if self.refusal.is_some() { "failure" } else { "success" }
    }

    fn peak_mib(&self) -> f64 {
        self.peak_bytes as f64 / f64::from(1 << 20)
    }
}

pub fn main(args: &Args) -> Result<(), Error> {
    let policy = crate::policy::named(&args.policy)?;
    let mut rows = Vec::new();
    let mut all_read = true;
    for path in &args.objects {
        // One that cannot be read says so; the others are verified all the same.
        if let Err(error) = verify_object(args, policy, path, &mut rows) {
            error.report();
            all_read = false;
        }
    }
    if rows.is_empty() && !all_read {
        return Err(Error::Refused);
    }
    let mut out = io::stdout().lock();
    match (&args.compare, args.format) {
        (Some(base), _) => compare(&input::read(base)?, &rows, &mut out)?,
        (None, Format::Table) => table(&rows, &mut out)?,
        (None, Format::Csv) => csv(&rows, &mut out)?,
        (None, Format::Json) => json_rows(&rows, &mut out)?,
    }
    out.flush()?;
    let passed = all_read && rows.iter().all(|row| row.refusal.is_none());
    if passed { Ok(()) } else { Err(Error::Refused) }
}

fn verify_object(args: &Args, policy: Policy, path: &Path, rows: &mut Vec<Row>) -> Result<(), Error> {
    let profile = match args.profile {
        ProfileName::Compat => Profile::Compat,
        ProfileName::Strict => Profile::Strict,
    };
    let engine = Engine::new(Config { profile, policy, ..Config::linux() });
    let located = |source| Error::Load { path: path.to_path_buf(), source: Box::new(source) };
    let object = args.load.open(path)?;
    // Programs that arrays name are judged like the others, not while the maps are made.
    let instance = Instance::new(&engine, object, Proof::Waived).map_err(located)?;
    let wanted = |spec: &&ProgramSpec| args.prog.as_ref().is_none_or(|name| *name == spec.name);
    let specs: Vec<&ProgramSpec> = instance.object().programs.iter().filter(wanted).collect();
    if let (Some(name), true) = (&args.prog, specs.is_empty()) {
        let known = instance.object().programs.iter().map(|spec| spec.name.clone()).collect();
        return Err(located(rtbpf::Error::NoSuchProgram { name: name.clone(), known }));
    }
    for spec in specs {
        let program = instance.object().link(spec).map_err(|error| located(error.into()))?;
        let keep_states = if args.states { KeepStates::Leaders } else { KeepStates::Nowhere };
        let options = Options { profile, log_level: args.log, keep_states, ..Options::default() };
        let given = instance.assumptions(spec);
        let (outcome, micros, peak_bytes) = measured(program.clone(), given, &options);
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let states = outcome.as_ref().map_or(String::new(), states_of);
        let (stats, log, refusal) = match outcome {
            Ok(verified) => (verified.stats(), verified.log().to_string(), None),
            Err(refusal) => (refusal.stats, refusal.log.clone(), Some(Box::new(refusal))),
        };
        let words = refusal.as_ref().map_or(states, |refusal| explain(refusal, &program, &spec.name));
        rows.push(Row { file, program: spec.name.clone(), micros, peak_bytes, stats, refusal, words, log });
    }
    Ok(())
}

/// Verifies; microseconds and bytes that it took.
fn measured(
    program: Program,
    given: Assumptions,
    options: &Options,
) -> (Result<VerifiedProgram, Rejection>, u128, u64) {
    let mut done = None;
    let allocated = allocation_counter::measure(|| {
        let begun = Instant::now();
        let outcome = verify(program, given, options);
        done = Some((outcome, begun.elapsed().as_micros()));
    });
    let (outcome, micros) = done.expect("measured code runs once");
    (outcome, micros, allocated.bytes_max)
}

/// The states that were kept, one a line; empty where none were.
fn states_of(verified: &VerifiedProgram) -> String {
    let kept = verified.block_states().into_iter().flat_map(|states| states.iter());
    kept.map(|(at, state)| format!("{}: {state}\n", verified.code().slot(at))).collect()
}

/// A refusal as rustc renders errors: what, where, the line, what to do.
fn explain(refusal: &Rejection, program: &Program, name: &str) -> String {
    let mut out = format!("error[{:?}]: {}\n", refusal.reason, refusal.message);
    let Some(at) = refusal.at else {
        out += &format!("  --> program `{name}`\n");
        return finish(out, refusal);
    };
    let slot = program.slot(at);
    match program.line(at) {
        Some(line) => {
            let margin = " ".repeat(line.line.to_string().len());
            out += &format!("  --> {}:{}, instruction {slot} of `{name}`\n", line.file, line.line);
            out += &format!(" {margin} |\n {} | {}\n {margin} |\n", line.line, line.text.trim_end());
        }
        None => out += &format!("  --> instruction {slot} of `{name}`\n"),
    }
    const AROUND: u32 = 3;
    for near in at.0.saturating_sub(AROUND)..=at.0 {
        let near = rtbpf::isa::InsnIdx(near);
        let mark = if near == at { ">" } else { " " };
        out += &format!(" {mark} {:>5}: {}\n", program.slot(near), text::log(program, near, &HelperNames));
    }
    finish(out, refusal)
}

fn finish(mut out: String, refusal: &Rejection) -> String {
    out += &format!("   = Linux answers {}\n", refusal.errno);
    if !refusal.hint.is_empty() {
        out += &format!("   = help: {}\n", refusal.hint);
    }
    out
}

fn table(rows: &[Row], out: &mut impl Write) -> io::Result<()> {
    for row in rows {
        if !row.log.is_empty() && row.log.lines().count() > 2 {
            writeln!(out, "{}", row.log.trim_end())?;
        }
        if !row.words.is_empty() {
            writeln!(out, "{}", row.words)?;
        }
    }
    let width =
        |get: fn(&Row) -> &str, title: &str| rows.iter().map(|row| get(row).len()).max().unwrap_or(0).max(title.len());
    let (files, programs) = (width(|row| &row.file, "File"), width(|row| &row.program, "Program"));
    writeln!(
        out,
        "{:<files$}  {:<programs$}  Verdict  Duration (us)     Insns    States  Peak states  Peak memory (MiB)",
        "File", "Program"
    )?;
    for row in rows {
        let (verdict, Stats { processed, states, peak_states, .. }) = (row.verdict(), row.stats);
        writeln!(
            out,
            "{:<files$}  {:<programs$}  {verdict}  {:>13}  {processed:>8}  {states:>8}  {peak_states:>11}  {:>17.3}",
            row.file,
            row.program,
            row.micros,
            row.peak_mib()
        )?;
    }
    Ok(())
}

const CSV_HEAD: &str = "file_name,prog_name,verdict,duration,total_insns,total_states,peak_states,mem_peak";

fn csv(rows: &[Row], out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "{CSV_HEAD}")?;
    for row in rows {
        let s = row.stats;
        writeln!(
            out,
            "{},{},{},{},{},{},{},{:.3}",
            row.file,
            row.program,
            row.verdict(),
            row.micros,
            s.processed,
            s.states,
            s.peak_states,
            row.peak_mib()
        )?;
    }
    Ok(())
}

fn json_rows(rows: &[Row], out: &mut impl Write) -> io::Result<()> {
    let rows = rows.iter().map(|row| {
        let refusal = row.refusal.as_ref().map(|refusal| {
            json!({
                "reason": format!("{:?}", refusal.reason), "errno": refusal.errno.number(), "message": refusal.message,
                "instruction": refusal.at.map(|at| at.0), "hint": refusal.hint,
            })
        });
        json!({
            "file_name": row.file, "prog_name": row.program, "verdict": row.verdict(), "duration": row.micros as u64,
            "total_insns": row.stats.processed, "total_states": row.stats.states,
            "peak_states": row.stats.peak_states, "mem_peak": row.peak_mib(), "refusal": refusal,
        })
    });
    writeln!(out, "{}", serde_json::Value::Array(rows.collect()))
}

/// Prints the programs whose verdict or cost changed.
fn compare(base: &[u8], rows: &[Row], out: &mut impl Write) -> io::Result<()> {
    let text = String::from_utf8_lossy(base);
    let mut before: BTreeMap<(&str, &str), (&str, u64)> = BTreeMap::new();
    for line in text.lines().skip(1) {
        let columns: Vec<&str> = line.split(',').collect();
        if let [file, program, verdict, _, insns, ..] = columns[..] {
            before.insert((file, program), (verdict, insns.parse().unwrap_or(0)));
        }
    }
    let mut differences = 0;
    for row in rows {
        let (now, insns) = (row.verdict(), row.stats.processed);
        match before.get(&(row.file.as_str(), row.program.as_str())) {
            Some((verdict, old)) if *verdict == now && *old == insns => continue,
            Some((verdict, old)) => {
                let change = insns as i128 - *old as i128;
                writeln!(
                    out,
                    "{}  {}  {verdict} -> {now}  {old} -> {insns} insns ({change:+})",
                    row.file, row.program
                )?;
            }
            None => writeln!(out, "{}  {}  new: {now}, {insns} insns", row.file, row.program)?,
        }
        differences += 1;
    }
    writeln!(out, "{differences} of {} programs differ", rows.len())
}
