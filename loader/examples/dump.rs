//! Prints maps and linked instructions of objects: one line a slot, maps by name. For comparison with other loaders.
//!
//! `cargo run -p rtbpf-loader --example dump -- [--btf FILE] [--join] OBJECT…`; `--join` makes one of all.

use std::process::ExitCode;

use rtbpf_btf::Btf;
use rtbpf_loader::{Object, ParseOptions};

fn main() -> ExitCode {
    let mut paths: Vec<String> = std::env::args().skip(1).collect();
    let mut types = "/sys/kernel/btf/vmlinux".to_owned();
    if paths.first().is_some_and(|first| first == "--btf") && paths.len() > 1 {
        types = paths.remove(1);
        paths.remove(0);
    }
    let target = std::fs::read(types).ok().and_then(|bytes| Btf::parse(&bytes).ok());
    let groups: Vec<&[String]> = match paths.split_first() {
        Some((first, rest)) if first == "--join" => vec![rest],
        _ => paths.chunks(1).collect(),
    };
    let mut code = ExitCode::SUCCESS;
    for group in groups {
        if let Err(error) = dump(group, target.as_ref()) {
            println!("{}: {error}", group.join(", "));
            code = ExitCode::FAILURE;
        }
    }
    code
}

fn dump(paths: &[String], target_btf: Option<&Btf>) -> Result<(), Box<dyn std::error::Error>> {
    let files = paths.iter().map(std::fs::read).collect::<Result<Vec<_>, _>>()?;
    let files: Vec<&[u8]> = files.iter().map(Vec::as_slice).collect();
    let file = paths.first().and_then(|path| path.rsplit('/').next()).unwrap_or_default();
    let name = file.split('.').next().unwrap_or(file);
    let cpus = std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u32);
    let object = Object::join(&files, &ParseOptions { name, target_btf, cpus, ..ParseOptions::default() })?;
    for map in &object.maps {
        let spec = &map.spec;
        println!(
            "map {} type={} key={} value={} max={} flags={}",
            spec.name,
            spec.kind.number(),
            spec.key_size,
            spec.value_size,
            spec.max_entries,
            spec.flags
        );
    }
    for program in &object.programs {
        let linked = object.link(program)?;
        println!("prog {}", program.name);
        let mut wide = false;
        for insn in linked.raw_slots() {
            let map = match insn.src {
                1 | 2 if insn.code == 0x18 && !wide => object.maps.get(insn.imm as usize),
                _ => None,
            };
            let imm = if map.is_some() { 0 } else { insn.imm };
            let bytes = rtbpf_isa::RawInsn { imm, ..*insn }.to_le_bytes();
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            println!("{hex} {}", map.map_or("", |map| &map.spec.name));
            wide = insn.code == 0x18 && !wide;
        }
    }
    Ok(())
}
