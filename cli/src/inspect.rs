//! `rtbpf inspect`: what an object holds.

use std::io::Write;

use rtbpf::loader::Object;
use rtbpf::verifier::HelperNames;
use rtbpf_isa::text;
use serde_json::json;

use crate::error::Error;
use crate::object::ObjectArgs;

/// Shows programs, maps, variables, relocations and licence of an object.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    object: ObjectArgs,
    /// Print the instructions of this program, with their source lines.
    #[arg(long, value_name = "PROG")]
    insns: Option<String>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

pub fn main(args: &Args) -> Result<(), Error> {
    let object = args.object.open()?;
    let mut out = std::io::stdout().lock();
    match &args.insns {
        Some(name) => instructions(args, &object, name, &mut out)?,
        None if args.json => writeln!(out, "{}", as_json(&object))?,
        None => overview(&object, &mut out)?,
    }
    Ok(out.flush()?)
}

fn overview(object: &Object, out: &mut impl Write) -> std::io::Result<()> {
    writeln!(out, "licence: {}", if object.license.is_empty() { "none" } else { &object.license })?;
    writeln!(out, "types: {}", object.btf.as_ref().map_or("none".into(), |btf| format!("{} in BTF", btf.len())))?;
    writeln!(out, "\nprograms:")?;
    for program in &object.programs {
        let (name, slots) = (&program.name, program.slots);
        let attach = program.attach_type.map_or(String::new(), |attach| format!(" ({})", attach.name()));
        writeln!(out, "  {name:<32} {}{attach}, section {}, {slots} slots", program.prog_type.name(), program.section)?;
    }
    writeln!(out, "\nmaps:")?;
    for map in &object.maps {
        let spec = &map.spec;
        let sizes = format!("key {} B, value {} B, {} entries", spec.key_size, spec.value_size, spec.max_entries);
        let flags = if spec.flags == 0 { String::new() } else { format!(", flags {:#x}", spec.flags) };
        writeln!(out, "  {:<32} {}, {sizes}{flags}", map.name, spec.kind.name())?;
    }
    for section in object.data.iter().filter(|section| !section.variables.is_empty()) {
        writeln!(out, "\nvariables in {}:", section.name)?;
        for variable in &section.variables {
            writeln!(out, "  {:<32} {} bytes at {}", variable.name, variable.size, variable.offset)?;
        }
    }
    let r = &object.relocs;
    writeln!(
        out,
        "\nrelocations: {} applied ({} maps, {} data, {} calls, {} functions, {} kconfig, {} ksyms, {} CO-RE, {} poisoned)",
        r.applied(),
        r.maps,
        r.data,
        r.calls,
        r.functions,
        r.kconfig,
        r.ksyms,
        r.core,
        r.poisoned
    )
}

fn as_json(object: &Object) -> serde_json::Value {
    let programs = object.programs.iter().map(|program| {
        json!({
            "name": program.name, "section": program.section, "type": program.prog_type.name(),
            "attach_type": program.attach_type.map(|attach| attach.name()), "slots": program.slots,
            "sleepable": program.sleepable(), "autoload": program.autoload,
        })
    });
    let maps = object.maps.iter().map(|map| {
        json!({
            "name": map.name, "type": map.spec.kind.name(), "key_size": map.spec.key_size,
            "value_size": map.spec.value_size, "max_entries": map.spec.max_entries, "flags": map.spec.flags,
            "section": map.section,
        })
    });
    let variables = object.data.iter().flat_map(|section| {
        section
            .variables
            .iter()
            .map(|v| json!({ "name": &*v.name, "section": section.name, "size": v.size, "offset": v.offset }))
    });
    let r = &object.relocs;
    json!({
        "name": object.name, "license": object.license, "programs": programs.collect::<Vec<_>>(),
        "maps": maps.collect::<Vec<_>>(), "variables": variables.collect::<Vec<_>>(),
        "relocations": {
            "applied": r.applied(), "maps": r.maps, "data": r.data, "calls": r.calls, "functions": r.functions,
            "kconfig": r.kconfig, "ksyms": r.ksyms, "core": r.core, "poisoned": r.poisoned, "ignored": r.ignored,
        },
    })
}

fn instructions(args: &Args, object: &Object, name: &str, out: &mut impl Write) -> Result<(), Error> {
    let linked = object.link_named(name);
    let program =
        linked.map_err(|source| Error::Object { path: args.object.object.clone(), source: Box::new(source) })?;
    let mut line = None;
    for (at, _) in program.iter() {
        if let Some(subprog) = program.subprogs().iter().find(|subprog| subprog.start == at) {
            writeln!(out, "{}:", subprog.name.as_deref().unwrap_or("(unnamed)"))?;
        }
        let here = program.line(at);
        if here != line {
            line = here;
            if let Some(line) = line {
                writeln!(out, "; {} @ {}:{}", line.text.trim(), line.file, line.line)?;
            }
        }
        writeln!(out, "{:>6}: {}", program.slot(at), text::log(&program, at, &HelperNames))?;
    }
    Ok(())
}
