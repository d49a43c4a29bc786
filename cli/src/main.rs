//! The command line: one file a command, one arm each here.
#![forbid(unsafe_code)]

mod asm;
mod batch;
mod capture;
mod disasm;
mod error;
mod input;

use std::process::ExitCode;

use clap::Parser;

/// Run, verify and inspect BPF programs without a kernel.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true)]
enum Command {
    Asm(asm::Args),
    Batch(batch::Options),
    Disasm(disasm::Args),
}

fn main() -> ExitCode {
    let done = match Command::parse() {
        Command::Asm(args) => asm::main(&args),
        Command::Batch(options) => batch::run(&options),
        Command::Disasm(args) => disasm::main(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.report(),
    }
}
