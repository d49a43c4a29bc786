//! `rtbpf dump jited`: native code beside the BPF instructions and source lines that it stands for.

use std::io::Write;

use iced_x86::{Decoder, DecoderOptions, Formatter, GasFormatter, Instruction};
use rtbpf::isa::text::{self, Names as _};
use rtbpf::isa::{Program, SourceLine};
use rtbpf::jit::{Arch, Code, Symbol};
use rtbpf::loader::Object;
use rtbpf::verifier::HelperNames;
use yaxpeax_arch::{Decoder as _, LengthedInstruction as _, U8Reader};

use crate::compile::{CodeArgs, compile};
use crate::error::Error;
use crate::object::ObjectArgs;

/// Shows what programs become.
#[derive(Debug, clap::Subcommand)]
pub enum Dump {
    /// Native code of verified programs, beside BPF instructions and source lines.
    Jited(Args),
}

/// What to show.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    object: ObjectArgs,
    /// Only this program; may be given several times.
    #[arg(long, value_name = "NAME")]
    prog: Vec<String>,
    #[command(flatten)]
    code: CodeArgs,
}

pub fn main(dump: &Dump) -> Result<(), Error> {
    let Dump::Jited(args) = dump;
    let options = args.code.options()?;
    let path = &args.object.object;
    let compiled = compile(path, args.object.open()?, &args.prog, &options)?;
    let object = compiled.instance.object();
    let mut out = std::io::stdout().lock();
    for (name, code) in &compiled.programs {
        let linked = object.link_named(name);
        let program = linked.map_err(|source| Error::Object { path: path.clone(), source: Box::new(source) })?;
        show(&mut out, object, name, &program, code)?;
    }
    Ok(out.flush()?)
}

/// One instruction of the machine.
struct Native {
    offset: u32,
    bytes: u32,
    text: String,
}

fn show(out: &mut impl Write, object: &Object, name: &str, program: &Program, code: &Code) -> std::io::Result<()> {
    let arch = match code.arch {
        Arch::X86_64 => "x86_64",
        Arch::Aarch64 => "aarch64",
    };
    let (insns, bytes) = (program.len(), code.bytes.len());
    writeln!(out, "{name}: {insns} instructions, {bytes} bytes of {arch} code")?;
    let natives = match code.arch {
        Arch::X86_64 => x86_64(&code.bytes),
        Arch::Aarch64 => aarch64(&code.bytes),
    };
    // Instructions by the place of their code. Those that share a place stand together; the last one of them has it.
    let mut places = code.places().into_iter().peekable();
    let mut line = None;
    for native in &natives {
        for (number, subprog) in program.subprogs().iter().enumerate() {
            if code.functions.get(number) == Some(&native.offset) {
                writeln!(out, "\n{}:", subprog.name.as_deref().unwrap_or("(unnamed)"))?;
            }
        }
        while let Some((_, at)) = places.next_if(|(offset, _)| *offset <= native.offset) {
            let here = program.line(at);
            if let Some(here) = here.filter(|here| line.is_none_or(|line: &SourceLine| !same(line, here))) {
                writeln!(out, "; {} @ {}:{}", here.text.trim(), here.file, here.line)?;
            }
            line = here;
            writeln!(out, "{:>6}: {}", program.slot(at), text::log(program, at, &HelperNames))?;
        }
        let end = native.offset + native.bytes;
        let hex = code.bytes.get(native.offset as usize..end as usize).map(hex::encode).unwrap_or_default();
        write!(out, "        {:>6x}:  {hex:<22} {}", native.offset, native.text)?;
        match code.relocs.iter().find(|reloc| (native.offset..end).contains(&reloc.offset)) {
            Some(reloc) => writeln!(out, "   # {}", symbol(object, reloc.symbol))?,
            None => writeln!(out)?,
        }
    }
    let without = code.offsets.iter().filter(|offset| **offset as usize > bytes).count();
    if without > 0 {
        writeln!(out, "\n{without} instructions are never reached and have no code")?;
    }
    writeln!(out)
}

/// The same line; columns are not shown.
fn same(a: &SourceLine, b: &SourceLine) -> bool {
    (&a.file, a.line) == (&b.file, b.line)
}

/// What a relocation names.
fn symbol(object: &Object, symbol: Symbol) -> String {
    let map = |map: rtbpf::isa::MapIdx| object.maps.get(map.index()).map_or("?", |def| &def.name);
    match symbol {
        Symbol::Helper(id) => match HelperNames.helper(id) {
            Some(name) => format!("helper {name}"),
            None => format!("helper {id}"),
        },
        Symbol::Kfunc { btf_id, .. } => format!("kernel function {btf_id}"),
        Symbol::Map(at) => format!("map {}", map(at)),
        Symbol::MapValue { map: at, off } => format!("value of map {} + {off}", map(at)),
        Symbol::Var { btf_id, .. } => format!("kernel variable {btf_id}"),
        Symbol::PacketLoad => "packet load".into(),
        Symbol::TailCall => "tail call".into(),
    }
}

/// In the syntax of GNU tools, as the kernel's dumps are.
fn x86_64(bytes: &[u8]) -> Vec<Native> {
    let mut decoder = Decoder::new(64, bytes, DecoderOptions::NONE);
    let mut formatter = GasFormatter::new();
    formatter.options_mut().set_branch_leading_zeros(false);
    formatter.options_mut().set_uppercase_hex(false);
    let mut insn = Instruction::default();
    let mut natives = Vec::new();
    while decoder.can_decode() {
        decoder.decode_out(&mut insn);
        let mut text = String::new();
        formatter.format(&insn, &mut text);
        natives.push(Native { offset: insn.ip() as u32, bytes: insn.len() as u32, text });
    }
    natives
}

fn aarch64(bytes: &[u8]) -> Vec<Native> {
    let decoder = yaxpeax_arm::armv8::a64::InstDecoder::default();
    let words = bytes.chunks(4).zip((0..).step_by(4));
    words
        .map(|(word, offset)| {
            let text = match decoder.decode(&mut U8Reader::new(word)) {
                Ok(insn) => {
                    debug_assert_eq!(insn.len().to_const(), 4);
                    insn.to_string()
                }
                // Newer than the decoder.
                Err(_) => {
                    word.first_chunk().map_or(String::new(), |w| format!(".word {:#010x}", u32::from_le_bytes(*w)))
                }
            };
            Native { offset, bytes: word.len() as u32, text }
        })
        .collect()
}
