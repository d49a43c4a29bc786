//! What an object holds.

use std::collections::BTreeMap;
use std::sync::Arc;

use rtbpf_abi::{AttachType, MapKind, MapSpec, ProgType};
use rtbpf_btf::{Btf, BtfExt, TypeId};

use crate::code::{Code, FunctionId};
use crate::core::CoreOutcome;
use crate::elf::Unit;
use crate::error::Error;
use crate::maps::round_ring;

/// A number by name.
pub type Lookup<'a, T> = &'a dyn Fn(&str) -> Option<T>;

/// What parsing takes besides the bytes.
#[derive(Clone, Copy, Default)]
pub struct ParseOptions<'a> {
    /// The object's name, for the names of its data maps; normally the file's name up to its first dot.
    pub name: &'a str,
    /// Types of the system the programs shall see, for CO-RE and kernel functions. Without them, instructions stay
    /// as the compiler left them.
    pub target_btf: Option<&'a Btf>,
    /// A kernel configuration, as in `/boot/config-…`, for `CONFIG_…` externs.
    pub kconfig: Option<&'a str>,
    /// `LINUX_KERNEL_VERSION`: `major << 16 | minor << 8 | patch`; 0 means 6.18.0.
    pub kernel_version: u32,
    /// CPUs of the machine: the size of per-CPU event arrays that give none. 0 leaves them without.
    pub cpus: u32,
    /// Program types given by the user; they win over section names.
    pub types: &'a [TypeOverride<'a>],
    /// The number of a kernel function that the machine has, by name.
    pub kfunc: Option<Lookup<'a, i32>>,
    /// The address of a kernel symbol, as in `/proc/kallsyms`.
    pub ksym: Option<Lookup<'a, u64>>,
}

/// A program's type as the user says it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TypeOverride<'a> {
    /// The program; empty for all.
    pub program: &'a str,
    /// Its type.
    pub prog_type: ProgType,
    /// Its expected attach type.
    pub attach_type: Option<AttachType>,
}

/// A parsed object.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// Its name, as given.
    pub name: String,
    /// Entry points, in file order.
    pub programs: Vec<ProgramSpec>,
    /// Maps; instructions refer to them by index.
    pub maps: Vec<MapDef>,
    /// Sections of global variables, each backed by one of `maps`.
    pub data: Vec<DataSection>,
    /// Types.
    pub btf: Option<Arc<Btf>>,
    /// Licence; empty when the object names none.
    pub license: String,
    /// `version` section; 0 when there is none.
    pub kernel_version: u32,
    /// Kernel functions that calls name, with the number the calls use.
    pub kfuncs: Vec<Kfunc>,
    /// What became of each CO-RE relocation.
    pub core: Vec<CoreOutcome>,
    /// What was applied.
    pub relocs: RelocCounts,
    pub(crate) code: Code,
}

/// An entry point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramSpec {
    /// Function name.
    pub name: String,
    /// Section.
    pub section: String,
    /// Type; unspecified when the section's name says nothing.
    pub prog_type: ProgType,
    /// Expected attach type.
    pub attach_type: Option<AttachType>,
    /// What the section asks to attach to, such as a kernel function.
    pub attach_target: Option<String>,
    /// What the section asks for, such as [`SLEEPABLE`](rtbpf_abi::prog_rules::flags::SLEEPABLE).
    pub flags: u32,
    /// Whether loading the object loads it; a section name that starts with `?` says no.
    pub autoload: bool,
    /// Slots of the function itself.
    pub slots: u32,
    pub(crate) entry: FunctionId,
}

impl ProgramSpec {
    /// Whether it may sleep.
    pub fn sleepable(&self) -> bool {
        self.flags & rtbpf_abi::prog_rules::flags::SLEEPABLE != 0
    }
}

/// A map to create.
#[derive(Clone, Debug, PartialEq)]
pub struct MapDef {
    /// Its name in the source; data maps have their section's name.
    pub name: String,
    /// Attributes, under the name Linux would show.
    pub spec: MapSpec,
    /// Whether to share it through a file system.
    pub pinning: Pinning,
    /// Entries to set when it is created: inner maps and programs.
    pub initial: Vec<Initial>,
    /// First (only) value of a data map; `None` means zeroes.
    pub contents: Option<Arc<[u8]>>,
    /// Section it was defined in.
    pub section: String,
}

/// `pinning` of a map definition.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Pinning {
    /// Not pinned.
    #[default]
    None,
    /// Pinned under its name (`LIBBPF_PIN_BY_NAME`, iproute2's global namespace).
    ByName,
    /// Pinned per object (iproute2's object namespace).
    PerObject,
}

/// An entry of a map of maps or programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Initial {
    /// Index in the outer map.
    pub key: u32,
    /// What to put there.
    pub target: InitialTarget,
}

/// What an entry holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InitialTarget {
    /// The map with this index.
    Map(usize),
    /// The program with this name.
    Program(String),
}

/// A section of variables.
#[derive(Clone, Debug, PartialEq)]
pub struct DataSection {
    /// Its name.
    pub name: String,
    /// Index of its map.
    pub map: usize,
    /// Its variables, by offset.
    pub variables: Vec<Variable>,
}

/// A global variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variable {
    /// Name.
    pub name: Arc<str>,
    /// Byte offset in its section's value.
    pub offset: u32,
    /// Bytes.
    pub size: u32,
    /// BTF type; void when unknown.
    pub ty: TypeId,
}

/// A kernel function that programs call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kfunc {
    /// The number in calls: its BTF id in the target, the machine's number, or one of the object's own.
    pub id: i32,
    /// Name.
    pub name: String,
    /// Whether anything with this name was found.
    pub found: bool,
}

/// How many relocations of each kind were applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RelocCounts {
    /// Maps by descriptor.
    pub maps: u32,
    /// Addresses in data sections.
    pub data: u32,
    /// Calls of functions.
    pub calls: u32,
    /// Addresses of functions.
    pub functions: u32,
    /// Kernel configuration values.
    pub kconfig: u32,
    /// Kernel variables and functions.
    pub ksyms: u32,
    /// Entries of maps of maps or programs.
    pub initial: u32,
    /// CO-RE relocations applied.
    pub core: u32,
    /// CO-RE relocations that poisoned their instruction.
    pub poisoned: u32,
    /// Symbols that the object leaves undefined; programs that reach them do not link.
    pub undefined: u32,
    /// Relocations of sections that programs do not see.
    pub ignored: u32,
}

impl RelocCounts {
    /// All that changed an instruction or a map.
    pub fn applied(&self) -> u32 {
        let calls = self.maps + self.data + self.calls + self.functions + self.kconfig + self.ksyms;
        calls + self.initial + self.core + self.poisoned
    }
}

impl Object {
    /// Parses an ELF object.
    pub fn parse(bytes: &[u8], options: &ParseOptions<'_>) -> Result<Object, Error> {
        Object::from_unit(Unit::read(bytes)?, options)
    }

    /// Whether an object made of these files depends on the system it is parsed for: on its types, its configuration or
    /// its symbols. Where it does not, [`ParseOptions::target_btf`] and [`ParseOptions::kconfig`] change nothing.
    pub fn needs_system(files: &[&[u8]]) -> Result<bool, Error> {
        let asks = |btf: Btf| [".kconfig", ".ksyms"].iter().any(|section| btf.datasec(section).is_some());
        for file in files {
            let unit = Unit::read(file)?;
            if !unit.btf_ext()?.relos.is_empty() || unit.btf()?.is_some_and(asks) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn from_unit(unit: Unit<'_>, options: &ParseOptions<'_>) -> Result<Object, Error> {
        let (btf, ext) = (unit.btf()?, unit.btf_ext()?);
        Object::from_parts(unit, btf.map(Arc::new), ext, options)
    }

    pub(crate) fn from_parts(
        mut unit: Unit<'_>,
        btf: Option<Arc<Btf>>,
        ext: BtfExt,
        options: &ParseOptions<'_>,
    ) -> Result<Object, Error> {
        let mut object = Object {
            name: options.name.to_owned(),
            programs: Vec::new(),
            maps: Vec::new(),
            data: Vec::new(),
            btf,
            license: text(unit.bytes("license")),
            kernel_version: version(unit.bytes("version")),
            kfuncs: Vec::new(),
            core: Vec::new(),
            relocs: RelocCounts::default(),
            code: Code::default(),
        };
        unit.index();
        object.find_functions(&unit, &ext)?;
        object.find_programs(options);
        let mut sites = crate::maps::Sites::default();
        object.find_legacy_maps(&unit, &mut sites)?;
        object.find_btf_maps(&unit, &mut sites)?;
        object.find_data(&unit, &mut sites)?;
        for map in &mut object.maps {
            if map.spec.kind == MapKind::PerfEventArray && map.spec.max_entries == 0 {
                map.spec.max_entries = options.cpus;
            }
        }
        let externs = object.find_externs(&unit, options)?;
        object.initialise_maps(&unit, &sites)?;
        object.relocate(&unit, &sites, &externs)?;
        object.apply_core(&ext, options)?;
        object.find_lines(&ext);
        Ok(object)
    }

    /// The program called `name`, or in the only section of that name.
    pub fn program(&self, name: &str) -> Option<&ProgramSpec> {
        let by_section = || {
            let mut inside = self.programs.iter().filter(|program| program.section == name);
            inside.next().filter(|_| inside.next().is_none())
        };
        self.programs.iter().find(|program| program.name == name).or_else(by_section)
    }

    /// Index of the map called `name` in the source, or by the name Linux would show.
    pub fn map(&self, name: &str) -> Option<usize> {
        let by_source = self.maps.iter().position(|map| map.name == name);
        by_source.or_else(|| self.maps.iter().position(|map| map.spec.name == name))
    }

    /// The variable called `name`, with its section.
    pub fn variable(&self, name: &str) -> Option<(&DataSection, &Variable)> {
        let found = |section| Some((section, DataSection::variable(section, name)?));
        self.data.iter().find_map(found)
    }

    /// The bytes that variable `name` starts with.
    pub fn variable_bytes(&self, name: &str) -> Option<Vec<u8>> {
        let (section, variable) = self.variable(name)?;
        let (from, size) = (variable.offset as usize, variable.size as usize);
        match &self.maps.get(section.map)?.contents {
            Some(contents) => contents.get(from..from.checked_add(size)?).map(<[u8]>::to_vec),
            None if size <= 1 << 20 => Some(vec![0; size]),
            None => None,
        }
    }

    /// Makes map `name` hold `entries`, of `value_bytes` each if given: hosts size maps so before they load an object
    /// (`bpf_map__set_max_entries`, `bpf_map__set_value_size`). Maps that back global variables keep their size.
    pub fn resize_map(&mut self, name: &str, entries: u32, value_bytes: Option<u32>) -> Result<(), Error> {
        let no = |why: String| Error::NoSuch { what: "map", name: name.to_owned(), why };
        let of_variables = self.map(name).is_some_and(|index| self.data.iter().any(|section| section.map == index));
        let known = self.maps.iter().map(|map| map.name.as_str()).take(20).collect::<Vec<_>>().join(", ");
        let Some(map) = self.maps.iter_mut().find(|map| map.name == name) else {
            return Err(no(format!("the object has [{known}]")));
        };
        if of_variables {
            return Err(no("it backs global variables".into()));
        }
        let spec = &mut map.spec;
        spec.max_entries = entries;
        spec.value_size = value_bytes.unwrap_or(spec.value_size);
        round_ring(spec);
        Ok(())
    }

    /// Sets the bytes that variable `name` starts with; shorter ones are padded with zeroes.
    pub fn set_variable(&mut self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let no = |why: String| Error::NoSuch { what: "variable", name: name.to_owned(), why };
        let Some((section, variable)) = self.variable(name) else {
            let known: Vec<&str> = self.data.iter().flat_map(|s| &s.variables).map(|v| &*v.name).take(20).collect();
            return Err(no(format!("the object has [{}]", known.join(", "))));
        };
        let (from, size, map) = (variable.offset as usize, variable.size as usize, section.map);
        if bytes.len() > size {
            return Err(no(format!("{} bytes do not fit its {size}", bytes.len())));
        }
        let Some(map) = self.maps.get_mut(map) else { return Err(no("its map is gone".into())) };
        let mut contents = match &map.contents {
            Some(contents) => contents.to_vec(),
            None => vec![0; map.spec.value_size as usize],
        };
        let Some(part) = contents.get_mut(from..from.saturating_add(size)) else {
            return Err(no("it lies beyond its section".into()));
        };
        part.fill(0);
        part.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        let contents: Arc<[u8]> = contents.into();
        if map.spec.frozen.is_some() {
            map.spec.frozen = Some(contents.clone());
        }
        map.contents = Some(contents);
        Ok(())
    }

    /// Kernel functions as calls number them.
    pub fn kfunc_names(&self) -> BTreeMap<i32, &str> {
        self.kfuncs.iter().map(|kfunc| (kfunc.id, kfunc.name.as_str())).collect()
    }
}

impl DataSection {
    /// The variable called `name`.
    pub fn variable(&self, name: &str) -> Option<&Variable> {
        self.variables.iter().find(|variable| &*variable.name == name)
    }
}

impl Unit<'_> {
    /// The types; `None` when the file has none.
    pub(crate) fn btf(&self) -> Result<Option<Btf>, Error> {
        match self.bytes(".BTF") {
            [] => Ok(None),
            bytes => Btf::parse(bytes).map(Some).map_err(|source| Error::Btf { section: ".BTF", source }),
        }
    }

    /// Functions, lines and CO-RE relocations; empty when the file has none.
    pub(crate) fn btf_ext(&self) -> Result<BtfExt, Error> {
        match self.bytes(".BTF.ext") {
            [] => Ok(BtfExt::default()),
            bytes => BtfExt::parse(bytes).map_err(|source| Error::Btf { section: ".BTF.ext", source }),
        }
    }
}

/// Text up to the first NUL.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end.min(128)).unwrap_or_default()).into_owned()
}

fn version(bytes: &[u8]) -> u32 {
    bytes.first_chunk::<4>().map_or(0, |word| u32::from_le_bytes(*word))
}
