//! `rtbpf_plugin`: runs one program for the public BPF conformance suite.
//!
//! The suite's runner passes memory as hex in the first argument, if any, and the program as hex on standard input. The
//! plugin prints R0 in hex; errors go to standard error, with a non-zero exit status. It executes without verifying.
#![deny(unsafe_code)]

use std::io::{Read, Write};
use std::process::ExitCode;

use clap::Parser;
use rtbpf::abi::ProgType;
use rtbpf::isa::Program;
use rtbpf::verifier::{Assumptions, VerifiedProgram};
use rtbpf::{Config, Ctx, Engine};

/// Run a BPF program for the public conformance suite: memory in the first argument, program on standard input, both as
/// hex; prints r0 as hex.
///
/// The program is executed without being verified: by an engine that checks every access, or with --threaded or --jit by
/// one that checks nothing and may do anything.
#[derive(Parser)]
#[command(name = "rtbpf_plugin", version)]
struct Args {
    /// Memory that r1 points to, as hex; r2 is its length
    memory: Option<String>,
    /// Program as hex, instead of standard input
    #[arg(long, value_name = "HEX")]
    program: Option<String>,
    /// Run in the checked interpreter, as without any of these
    #[arg(long)]
    interpret: bool,
    /// Run in the threaded interpreter
    #[arg(long, conflicts_with = "interpret")]
    threaded: bool,
    /// Run as native code
    #[arg(long, conflicts_with_all = ["interpret", "threaded"])]
    jit: bool,
    /// The program is an ELF object
    #[arg(long)]
    elf: bool,
    /// Say on standard error what is run
    #[arg(long)]
    debug: bool,
    /// What the runner adds when it has no options to pass: nothing
    #[arg(hide = true)]
    rest: Vec<String>,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(r0) => match writeln!(std::io::stdout(), "{r0:x}") {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "rtbpf_plugin: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<u64, String> {
    if let Some(rest) = args.rest.iter().find(|rest| !rest.trim().is_empty()) {
        return Err(format!("unexpected argument {rest:?}"));
    }
    let memory = bytes(args.memory.as_deref().unwrap_or_default()).map_err(|error| format!("memory: {error}"))?;
    let text = match &args.program {
        Some(text) => text.clone(),
        None => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).map_err(|error| format!("standard input: {error}"))?;
            text
        }
    };
    let code = bytes(&text).map_err(|error| format!("program: {error}"))?;
    if args.elf {
        return Err("--elf: this build takes programs as bare instructions only".into());
    }
    let slots = rtbpf::isa::RawInsn::parse_all(&code)
        .ok_or_else(|| format!("program: {} bytes (must be a multiple of 8)", code.len()))?;
    let program = rtbpf::isa::decode(&slots).map_err(|error| format!("program: {error}"))?;
    if args.debug {
        let engine = match (args.jit, args.threaded) {
            (true, _) => "native code",
            (false, true) => "threaded interpreter",
            (false, false) => "checked interpreter",
        };
        eprintln!("{} instructions, {} bytes of memory, {engine}", program.len(), memory.len());
    }
    let engine = Engine::new(Config::linux());
    if args.jit || args.threaded {
        return run_unchecked(&engine, args.jit, program, &memory);
    }
    let executable = engine
        .bind_unverified(program, Assumptions::new(ProgType::Plain), Vec::new())
        .map_err(|error| error.to_string())?;
    executable.run(&mut engine.session(0), &mut Ctx::plain(&memory)).map_err(|error| error.to_string())
}

/// Runs a program that nobody verified without checks: what the tool is for, and says in its help.
#[allow(unsafe_code)]
fn run_unchecked(engine: &Engine, jit: bool, program: Program, memory: &[u8]) -> Result<u64, String> {
    // SAFETY: not shown. The person who passes --jit or --threaded answers for the program, as the tool's help says.
    let assumed = unsafe { VerifiedProgram::assume(program, Assumptions::new(ProgType::Plain)) };
    let (mut session, mut ctx) = (engine.session(0), Ctx::plain(memory));
    let ran = match jit {
        true => engine.bind_native(assumed, Vec::new()).and_then(|native| native.run(&mut session, &mut ctx)),
        false => engine.bind_threaded(assumed, Vec::new()).and_then(|threaded| threaded.run(&mut session, &mut ctx)),
    };
    ran.map_err(|error| error.to_string())
}

/// Bytes written as hex, with white space anywhere between them.
fn bytes(text: &str) -> Result<Vec<u8>, hex::FromHexError> {
    hex::decode(text.split_whitespace().collect::<String>())
}
