//! `rtbpf compile`: programs to a native object file, for the linker of a C or Rust program.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use rtbpf::abi::MapKind;
use rtbpf::isa::MapIdx;
use rtbpf::jit::{self, Arch, ArrayLookup, Code, Features, HelperTraits, Linker, Symbol};
use rtbpf::loader::{InitialTarget, MapDef, Object};
use rtbpf::{Config, Engine, Instance, Proof};

use crate::error::Error;
use crate::object::ObjectArgs;

/// Compiles verified programs to a native object file, with `prog_NAME(ctx, frame)` for each. What it wants from its host
/// is undefined in it: helpers (`rtbpf_helper_ID`) and maps (`rtbpf_map_NAME`, `rtbpf_value_NAME`).
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    object: ObjectArgs,
    /// The object file to write.
    #[arg(short, long, value_name = "FILE.o")]
    output: PathBuf,
    /// Write C definitions of the maps, for jit/runtime/rtbpf_runtime.c.
    #[arg(long, value_name = "FILE.c")]
    maps: Option<PathBuf>,
    /// Only this program; may be given several times.
    #[arg(long, value_name = "NAME")]
    prog: Vec<String>,
    #[command(flatten)]
    code: CodeArgs,
}

/// Options of every command that generates code.
#[derive(Debug, clap::Args)]
pub struct CodeArgs {
    /// The processor [default: this machine's].
    #[arg(long, value_enum)]
    arch: Option<ArchName>,
    /// The one-pass tier instead of the optimising one.
    #[arg(long)]
    fast: bool,
    /// Count instructions: a run stops when `frame.fuel` does not suffice for the next block.
    #[arg(long)]
    fuel: bool,
    /// For programs that may be hostile: no constant of them in the code, landing pads.
    #[arg(long)]
    harden: bool,
    /// Use what this machine's processor has beyond its architecture's base.
    #[arg(long)]
    native: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum ArchName {
    #[value(name = "x86_64")]
    X86_64,
    Aarch64,
}

impl CodeArgs {
    /// What to generate.
    pub fn options(&self) -> Result<jit::Options, Error> {
        let arch = match self.arch {
            Some(ArchName::X86_64) => Arch::X86_64,
            Some(ArchName::Aarch64) => Arch::Aarch64,
            None => Arch::host().ok_or_else(|| Error::Option {
                option: "--arch".into(),
                what: "this machine is neither x86_64 nor aarch64; name one of them".into(),
            })?,
        };
        let native = self.native && Some(arch) == Arch::host();
        Ok(jit::Options {
            arch,
            features: if native { Features::host() } else { Features::default() },
            fuel: self.fuel,
            cancel: false,
            optimise: (!self.fast).then_some(jit::Techniques::ALL),
            harden: self.harden.then(|| std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0)),
        })
    }
}

pub fn main(args: &Args) -> Result<(), Error> {
    let options = args.code.options()?;
    let path = &args.object.object;
    let object = args.object.open()?;
    let compiled = compile(path, object, &args.prog, &options)?;
    let object = compiled.instance.object();
    let named: Vec<(&str, &Code)> = compiled.programs.iter().map(|(name, code)| (name.as_str(), code)).collect();
    let map_name = |map: MapIdx| object.maps.get(map.index()).map(|def| c_name(&def.name));
    let bytes = jit::elf::object_file(options.arch, &named, &map_name)
        .map_err(|error| Error::Program { path: path.clone(), what: error.to_string() })?;
    write(&args.output, &bytes)?;
    if let Some(path) = &args.maps {
        write(path, definitions(object, &compiled).as_bytes())?;
    }
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    std::fs::write(path, bytes).map_err(|error| Error::Program { path: path.to_path_buf(), what: error.to_string() })
}

/// Programs of an object, verified and compiled.
pub struct Compiled {
    pub instance: Instance,
    pub programs: Vec<(String, Code)>,
}

/// Compiles the named programs of an object, or all.
pub fn compile(path: &Path, object: Object, names: &[String], options: &jit::Options) -> Result<Compiled, Error> {
    let located = |source| Error::Load { path: path.to_path_buf(), source: Box::new(source) };
    // Each program is verified below; those that arrays name need not be loaded for it.
    let instance = Instance::new(&Engine::new(Config::linux()), object, Proof::Waived).map_err(located)?;
    let object = instance.object();
    if let Some(name) = names.iter().find(|name| object.program(name).is_none()) {
        let known = object.programs.iter().map(|spec| spec.name.clone()).collect();
        return Err(located(rtbpf::Error::NoSuchProgram { name: name.clone(), known }));
    }
    let mut programs = Vec::new();
    for spec in object.programs.iter().filter(|spec| names.is_empty() || names.contains(&spec.name)) {
        let verified = instance.verify(spec).map_err(located)?;
        let refused = |error: jit::CompileError| Error::Program {
            path: path.to_path_buf(),
            what: format!("program `{}`: {error}", spec.name),
        };
        programs.push((spec.name.clone(), jit::compile(&verified, &AheadOfTime(object), options).map_err(refused)?));
    }
    Ok(Compiled { instance, programs })
}

/// The host that is not there yet: what its maps will look like is known, what its helpers do is not.
struct AheadOfTime<'a>(&'a Object);

impl Linker for AheadOfTime<'_> {
    fn resolve(&self, _: Symbol) -> Option<u64> {
        None
    }

    fn helper(&self, _: i32) -> HelperTraits {
        HelperTraits::ANY
    }

    fn array(&self, map: MapIdx) -> Option<ArrayLookup> {
        let spec = &self.0.maps.get(map.index())?.spec;
        let stride = spec.value_size.checked_next_multiple_of(8)?;
        let slot_bytes = match spec.kind {
            MapKind::Array => 0,
            MapKind::PercpuArray => spec.max_entries.checked_mul(stride).filter(|bytes| *bytes <= i32::MAX as u32)?,
            _ => return None,
        };
        Some(ArrayLookup { len: spec.max_entries, stride, slot_bytes })
    }
}

/// A map's name as C names things: `.rodata` is `rodata`.
fn c_name(name: &str) -> String {
    name.trim_start_matches('.').chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}

/// C definitions of the object's maps, as `rtbpf_runtime.h` has them.
fn definitions(object: &Object, compiled: &Compiled) -> String {
    let mut text = format!("/* The maps of {}, for rtbpf_runtime.c. */\n#include <rtbpf_runtime.h>\n", object.name);
    for def in &object.maps {
        text.push('\n');
        define(def, compiled, &mut text);
    }
    text
}

fn define(def: &MapDef, compiled: &Compiled, text: &mut String) {
    let (name, spec) = (c_name(&def.name), &def.spec);
    let (key, value, entries) = (spec.key_size, spec.value_size, spec.max_entries);
    let stride = value.next_multiple_of(8);
    let mut order = String::new();
    let (kind, stride, more) = match spec.kind {
        MapKind::Array | MapKind::PercpuArray => {
            let percpu = spec.kind == MapKind::PercpuArray;
            let cpus = if percpu { "(size_t)RTBPF_CPUS * " } else { "" };
            let contents = def.contents.as_ref().map_or(String::new(), |bytes| format!(" = {{ {} }}", list(bytes)));
            line(text, &format!("_Alignas(16) uint8_t rtbpf_value_{name}[{cpus}{entries} * {stride}]{contents};"));
            (if percpu { "RTBPF_PERCPU_ARRAY" } else { "RTBPF_ARRAY" }, stride, "")
        }
        MapKind::Hash | MapKind::LruHash if entries > 0 => {
            let stride = key.next_multiple_of(8) + stride;
            line(text, &format!("static _Alignas(16) uint8_t rtbpf_value_{name}[(size_t){entries} * {stride}];"));
            line(text, &format!("static uint32_t rtbpf_links_{name}[2 * (size_t){entries}];"));
            let evicts = spec.kind == MapKind::LruHash;
            if evicts {
                line(text, &format!("static uint32_t rtbpf_order_{name}[2 * (size_t){entries}];"));
                order = format!(", .order = rtbpf_order_{name}");
            }
            (if evicts { "RTBPF_LRU_HASH" } else { "RTBPF_HASH" }, stride, ", .links = rtbpf_links_")
        }
        MapKind::ProgArray => {
            let mut targets = Vec::new();
            for entry in &def.initial {
                if let InitialTarget::Program(target) = &entry.target
                    && compiled.programs.iter().any(|(known, _)| known == target)
                {
                    line(text, &format!("extern rtbpf_entry entry_{target};"));
                    targets.push(format!("[{}] = entry_{target}", entry.key));
                }
            }
            line(text, &format!("static rtbpf_entry *rtbpf_value_{name}[{entries}] = {{ {} }};", targets.join(", ")));
            ("RTBPF_PROG_ARRAY", 8, "")
        }
        other => {
            return line(text, &format!("/* rtbpf_map_{name}, a {}, is yours to define. */", other.name()));
        }
    };
    let more = if more.is_empty() { String::new() } else { format!("{more}{name}") };
    line(text, &format!("struct rtbpf_map rtbpf_map_{name} = {{"));
    line(text, &format!("\t.kind = {kind}, .key_size = {key}, .value_size = {value}, .max_entries = {entries},"));
    line(text, &format!("\t.stride = {stride}, .values = rtbpf_value_{name}{more}{order},"));
    line(text, "};");
}

fn line(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}

/// Bytes as C lists them.
fn list(bytes: &[u8]) -> String {
    let mut text = String::new();
    for (at, byte) in bytes.iter().enumerate() {
        let before = if at % 24 == 0 { "\n\t" } else { " " };
        // Writing to a string cannot fail.
        let _ = write!(text, "{before}{byte},");
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtbpf::abi::{ProgType, ctx};

    #[test]
    fn names_of_maps_are_names_of_c() {
        assert_eq!(c_name(".rodata"), "rodata");
        assert_eq!(c_name(".data.hot-path"), "data_hot_path");
        assert_eq!(c_name("counts"), "counts");
    }

    #[test]
    fn the_runtimes_xdp_context_is_the_native_one() {
        let layout = ctx::layout(ProgType::Xdp, None).expect("XDP has a context");
        let native = |name| layout.fields.iter().find(|field| field.name == name).map(|field| field.native_offset);
        let offsets = ["ingress_ifindex", "rx_queue_index", "data", "data_end", "data_meta"].map(native);
        assert_eq!(offsets, [12, 16, 24, 32, 40].map(Some));
    }
}
