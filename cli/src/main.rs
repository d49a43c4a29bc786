//! The command line: one file a command, one arm each here.
#![forbid(unsafe_code)]

mod asm;
mod batch;
mod bench;
mod capture;
mod compile;
mod disasm;
mod dump;
mod error;
mod input;
mod inspect;
mod jited;
mod loaded;
mod object;
mod policy;
mod run;
mod system;
mod verify;

use std::process::ExitCode;

use clap::Parser;

/// Run, verify and inspect BPF programs without a kernel.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true)]
enum Command {
    Asm(asm::Args),
    Batch(batch::Options),
    #[command(subcommand)]
    Bench(bench::Bench),
    Compile(compile::Args),
    Disasm(disasm::Args),
    #[command(subcommand)]
    Dump(jited::Dump),
    Inspect(inspect::Args),
    Policy(policy::Args),
    Run(run::Args),
    Verify(verify::Args),
}

fn main() -> ExitCode {
    let done = match Command::parse() {
        Command::Asm(args) => asm::main(&args),
        Command::Batch(options) => batch::run(&options),
        Command::Bench(bench) => bench::main(&bench),
        Command::Compile(args) => compile::main(&args),
        Command::Disasm(args) => disasm::main(&args),
        Command::Dump(dump) => jited::main(&dump),
        Command::Inspect(args) => inspect::main(&args),
        Command::Policy(args) => policy::main(&args),
        Command::Run(args) => run::main(&args),
        Command::Verify(args) => verify::main(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.report(),
    }
}
