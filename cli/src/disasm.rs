//! `rtbpf disasm`: instructions to text, and the instruction table.

use std::io::Write;
use std::path::{Path, PathBuf};

use rtbpf::verifier::HelperNames;
use rtbpf_isa::rows::{self, ROWS};
use rtbpf_isa::text;
use rtbpf_isa::{Program, RawInsn, decode};

use crate::error::Error;
use crate::input;

/// Disassembles raw instructions into the kernel's syntax.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Raw slots, 8 bytes each; `-` is standard input.
    #[arg(required_unless_present_any = ["table", "hex"])]
    file: Option<PathBuf>,
    /// Slots as hexadecimal digits instead of a file.
    #[arg(long, value_name = "DIGITS", conflicts_with = "file")]
    hex: Option<String>,
    /// Print as verifier logs do, with slot numbers and opcodes; without it, as the assembler reads.
    #[arg(long)]
    log: bool,
    /// Print the instruction table instead.
    #[arg(long)]
    table: bool,
}

pub fn main(args: &Args) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    if args.table {
        return Ok(table(&mut out)?);
    }
    let (path, bytes) = match (&args.hex, &args.file) {
        (Some(digits), _) => (Path::new("--hex"), input::bytes(digits)?),
        (None, Some(path)) => (path.as_path(), input::read(path)?),
        (None, None) => return Err(Error::Option { option: "FILE".into(), what: "name a file".into() }),
    };
    let refused = |what: String| Error::Program { path: path.to_path_buf(), what };
    let slots = RawInsn::parse_all(&bytes)
        .ok_or_else(|| refused(format!("{} bytes are no whole number of 8-byte instructions", bytes.len())))?;
    let program = decode(&slots).map_err(|error| refused(error.to_string()))?;
    Ok(print(&mut out, &program, args.log)?)
}

fn print(out: &mut impl Write, program: &Program, log: bool) -> std::io::Result<()> {
    for (at, _) in program.iter() {
        if log {
            writeln!(out, "{}: {}", program.slot(at), text::log(program, at, &HelperNames))?;
        } else {
            writeln!(out, "{}", text::plain(program, at, &HelperNames))?;
        }
    }
    Ok(())
}

fn table(out: &mut impl Write) -> std::io::Result<()> {
    writeln!(out, "{:<22} {:<20} {:<10} {:<5} opcodes", "name", "selected by", "group", "since")?;
    for row in ROWS {
        let (codes, count) = rows::opcodes(row);
        let codes: Vec<String> = codes.iter().take(count).map(|code| format!("{code:02x}")).collect();
        let rule = match row.rule {
            rows::Rule::None => String::new(),
            rows::Rule::Off(off) => format!("offset {off}"),
            rows::Rule::Imm(imm) => format!("immediate {imm:#x}"),
            rows::Rule::Src(src) => format!("source {src}"),
        };
        let (group, since) = (format!("{:?}", row.group), format!("{:?}", row.since));
        writeln!(out, "{:<22} {rule:<20} {group:<10} {since:<5} {}", row.name, codes.join(" "))?;
    }
    Ok(())
}
