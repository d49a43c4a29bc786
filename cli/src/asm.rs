//! `rtbpf asm`: text to instructions.

use std::io::Write;
use std::path::PathBuf;

use rtbpf_abi::helper;
use rtbpf_isa::asm::{self, AsmError};

use crate::error::Error;
use crate::input;

/// Assembles instructions, in the kernel's syntax or the conformance suite's mnemonics.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Text to assemble; `-` is standard input.
    file: PathBuf,
    /// Write the slots, 8 bytes each, to this file. Without it, hexadecimal digits go to standard output.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub fn main(args: &Args) -> Result<(), Error> {
    let text = String::from_utf8(input::read(&args.file)?).map_err(|_| Error::NotText { path: args.file.clone() })?;
    let assembly = asm::assemble_with(&text, &|name| helper::by_name(name).map(|id| id.0 as i32))
        .map_err(|error| locate(args, error))?;
    let bytes: Vec<u8> = assembly.slots.iter().flat_map(|slot| slot.to_le_bytes()).collect();
    match &args.output {
        Some(path) => {
            std::fs::write(path, bytes).map_err(|source| input::InputError::Io { path: path.clone(), source })?;
        }
        None => writeln!(std::io::stdout().lock(), "{}", hex::encode(bytes))?,
    }
    Ok(())
}

fn locate(args: &Args, error: AsmError) -> Error {
    Error::Assembly { path: args.file.clone(), line: error.line, column: error.column, what: error.to_string() }
}
