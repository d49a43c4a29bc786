//! Long runs of the generators against the oracles; prints counts. For people and CI machines with time; the suites run
//! a seeded few of the same.
//!
//! ```text
//! campaign kernel  [--generator near] [--count 10000] [--seed 0]   what Linux makes of the programs
//! campaign differ  [--generator near] [--count 10000] [--seed 0]   where Linux and rtbpf disagree, with shrunk cases
//! campaign logs    [--generator near] [--count 10000] [--seed 0]   where the two verifiers know different things
//! campaign sound   [--generator near] [--count 10000] [--seed 0]   accepted programs that escape from their proof
//! campaign engines [--generator shaped] [--count 10000] [--seed 0] programs on which two engines differ
//! campaign objects [--folder DIR]                                  verdicts on the programs of object files beside Linux's
//! campaign show    --generator shaped --seed 7                     one case, as text and as a line of the batch format
//! ```
#![forbid(unsafe_code)]

mod clusters;
mod differ;
mod engines;
mod logs;
mod objects;
mod of_kernel;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use rtbpf::verifier::Profile;
use rtbpf_tests::differ::compare;
use rtbpf_tests::engines_agree::agree;
use rtbpf_tests::generate::{Features, Generator};
use rtbpf_tests::kernel;
use rtbpf_tests::machine::Machine;

/// What the command line asks for.
struct Request {
    command: String,
    generator: Generator,
    count: u64,
    seed: u64,
    /// Stop after this time.
    limit: Duration,
    /// How many kinds of disagreement to shrink and print.
    show: usize,
    /// Where object files are.
    folder: PathBuf,
    /// Whose rules programs are verified by, for soundness.
    profile: Profile,
}

fn main() -> ExitCode {
    let request = match parse(std::env::args().skip(1)) {
        Ok(request) => request,
        Err(message) => {
            eprintln!("campaign: {message}");
            return ExitCode::from(2);
        }
    };
    match request.command.as_str() {
        "kernel" => of_kernel::run(&request),
        "differ" => differ::run(&request),
        "logs" => logs::run(&request),
        "sound" => engines::sound(&request),
        "engines" => engines::agree_all(&request),
        "objects" => objects::run(&request),
        "show" => show(&request),
        other => {
            eprintln!("campaign: no command `{other}` (kernel, differ, logs, sound, engines, objects, show)");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Request, String> {
    let command = args.next().ok_or("no command (kernel, differ, logs, sound, engines, objects, show)")?;
    let limit = Duration::from_secs(180);
    let mut request = Request {
        command,
        generator: Generator::NearMiss,
        count: 10_000,
        seed: 0,
        limit,
        show: 30,
        folder: ".".into(),
        profile: Profile::Compat,
    };
    while let Some(option) = args.next() {
        let value = args.next().ok_or_else(|| format!("{option} needs a value"))?;
        let number = || value.parse::<u64>().map_err(|_| format!("{option}: `{value}` is no number"));
        match option.as_str() {
            "--generator" => {
                request.generator = Generator::from_name(&value)
                    .ok_or(format!("no generator `{value}` (raw, grammar, helpers, shaped, siblings, near)"))?;
            }
            "--count" => request.count = number()?,
            "--seed" => request.seed = number()?,
            "--show" => request.show = number()? as usize,
            "--seconds" => request.limit = Duration::from_secs(number()?),
            "--folder" => request.folder = value.into(),
            "--profile" => {
                request.profile = match value.as_str() {
                    "compat" => Profile::Compat,
                    "strict" => Profile::Strict,
                    _ => return Err(format!("no profile `{value}` (compat, strict)")),
                }
            }
            _ => {
                return Err(format!(
                    "no option `{option}` (--generator, --count, --seed, --seconds, --show, --folder, --profile)"
                ));
            }
        }
    }
    Ok(request)
}

fn show(request: &Request) {
    let case = request.generator.case(request.seed);
    println!("{} {}\n{}{}", case.name, case.kind, case.listing(), case.line());
    match kernel::load(&case, true) {
        Ok(loaded) => println!("Linux: {:?}", loaded.verdict()),
        Err(error) => println!("Linux: {error}"),
    }
    match Machine::new(&case).map(|machine| machine.judge(&case)) {
        Ok(Ok(verified)) => println!("here: accepted, {:?}", verified.stats()),
        Ok(Err(rejection)) => println!("here: {}", rejection.log),
        Err(error) => println!("here: {error}"),
    }
    println!("together: {:?}", compare(&case));
    println!("engines: {:?}", agree(&case, 8));
}

/// What accepted programs contain.
fn print_features(accepted: &[Features]) {
    let share = |n: usize| 100.0 * n as f64 / accepted.len().max(1) as f64;
    let with = |test: fn(&Features) -> bool| share(accepted.iter().filter(|f| test(f)).count());
    let mut lengths: Vec<usize> = accepted.iter().map(|f| f.insns).collect();
    lengths.sort_unstable();
    println!(
        "accepted: median {} instructions; variable offset {:.0} %, helpers {:.0} %, loops {:.0} %, spills {:.0} %, subprograms {:.0} %, atomics {:.0} %",
        lengths.get(lengths.len() / 2).unwrap_or(&0),
        with(|f| f.variable_offset),
        with(|f| f.helpers),
        with(|f| f.loops),
        with(|f| f.spills),
        with(|f| f.subprogs),
        with(|f| f.atomics),
    );
}
