//! Symbols defined outside the object: kernel configuration, kernel variables and kernel functions.

use std::collections::HashMap;
use std::sync::Arc;

use rtbpf_abi::map_spec::flags;
use rtbpf_abi::{MapKind, MapSpec};
use rtbpf_btf::{Btf, Kind, TypeId};

use crate::data::data_map_name;
use crate::elf::{Bind, Place, Unit};
use crate::error::Error;
use crate::kconfig::Kconfig;
use crate::object::{DataSection, Kfunc, MapDef, Object, ParseOptions, Pinning, Variable};

/// Numbers of kernel functions that only the object knows start here, above every BTF id.
const OWN_KFUNCS: i32 = 0x4000_0000;

/// Externs that an object may have.
const MAX_EXTERNS: usize = 1 << 16;

/// What an extern became.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extern {
    /// A variable in the map of configuration values.
    Kconfig { map: usize, offset: u32 },
    /// A kernel variable, or a kernel function's address, by BTF id in the target.
    Var { btf_id: u32 },
    /// A number known now: an address, or 0 for what is not there.
    Address(u64),
    /// A kernel function.
    Kfunc { id: i32 },
    /// A weak kernel function that is not there; `at` is its place among externs.
    MissingKfunc { at: i32 },
}

/// A declaration before it is resolved.
struct Declared<'a> {
    name: &'a str,
    weak: bool,
    ty: TypeId,
    section: &'a str,
}

impl Object {
    pub(crate) fn find_externs<'u>(
        &mut self,
        unit: &'u Unit<'_>,
        options: &ParseOptions<'_>,
    ) -> Result<HashMap<&'u str, Extern>, Error> {
        let mut externs = HashMap::new();
        let Some(btf) = self.btf.clone() else { return Ok(externs) };
        let mut sections = HashMap::new();
        for name in [".kconfig", ".ksyms"] {
            if let Some(Kind::DataSec { vars, .. }) = btf.datasec(name).map(|ty| ty.kind) {
                for var in vars.iter().filter_map(|var| btf.get(var.ty)) {
                    sections.insert(var.name, (name, var.id));
                }
            }
        }
        let undefined = unit.symbols.iter().filter(|s| s.at == Place::Undefined && s.bind != Bind::Local);
        let mut declared: Vec<Declared<'_>> = undefined
            .filter_map(|symbol| {
                let &(section, ty) = sections.get(symbol.name.as_ref())?;
                Some(Declared { name: &symbol.name, weak: symbol.bind == Bind::Weak, ty, section })
            })
            .collect();
        if declared.len() > MAX_EXTERNS {
            return Err(Error::Limit { what: "externs", limit: MAX_EXTERNS as u64 });
        }
        declared.sort_by_key(|declared| declared.name);
        declared.dedup_by_key(|declared| declared.name);
        self.add_kconfig(&btf, &declared, options, &mut externs)?;
        for (at, declared) in declared.iter().enumerate().filter(|(_, declared)| declared.section == ".ksyms") {
            let resolved = match btf.get(declared.ty).map(|ty| ty.kind) {
                Some(Kind::Func { .. }) => Some(self.kfunc(declared, at as i32, options)),
                Some(Kind::Var { ty, .. }) => ksym(&btf, declared, ty, options),
                _ => None,
            };
            externs.extend(resolved.map(|resolved| (declared.name, resolved)));
        }
        Ok(externs)
    }

    fn add_kconfig<'u>(
        &mut self,
        btf: &Btf,
        declared: &[Declared<'u>],
        options: &ParseOptions<'_>,
        externs: &mut HashMap<&'u str, Extern>,
    ) -> Result<(), Error> {
        if declared.iter().all(|declared| declared.section != ".kconfig") {
            return Ok(());
        }
        let kconfig = Kconfig::new(options.kconfig.unwrap_or_default(), options.kernel_version);
        let mut vars = Vec::new();
        for declared in declared.iter().filter(|declared| declared.section == ".kconfig") {
            let refuse = |why: String| Error::Extern { name: declared.name.to_owned(), why };
            let Some(Kind::Var { ty, .. }) = btf.get(declared.ty).map(|ty| ty.kind) else {
                return Err(refuse("a configuration value must be a variable".into()));
            };
            let size = btf.size_of(ty).filter(|&size| size > 0 && size <= 1 << 16);
            let Some(size) = size else {
                return Err(refuse(format!("its type `{}` has no usable size", btf.declare(ty, ""))));
            };
            let bytes = match kconfig.value(declared.name, btf, ty) {
                Some(value) => value.map_err(refuse)?,
                None if declared.weak => vec![0; size as usize],
                None => {
                    return Err(refuse(match options.kconfig {
                        Some(_) => "the given kernel configuration does not have it; declare it __weak".into(),
                        None => "it needs a kernel configuration; give one, such as /boot/config-$(uname -r)".into(),
                    }));
                }
            };
            vars.push((declared.name, ty, btf.align_of(ty), bytes));
        }
        if vars.is_empty() {
            return Ok(());
        }
        // Large alignment first leaves no holes; then as libbpf lays them out.
        vars.sort_by(|a, b| (b.2, b.3.len(), a.0).cmp(&(a.2, a.3.len(), b.0)));
        let map = self.maps.len();
        let mut contents: Vec<u8> = Vec::new();
        let mut variables = Vec::new();
        for (name, ty, align, bytes) in vars {
            contents.resize(contents.len().next_multiple_of(align as usize), 0);
            let offset = contents.len() as u32;
            externs.insert(name, Extern::Kconfig { map, offset });
            variables.push(Variable { name: name.into(), offset, size: bytes.len() as u32, ty });
            contents.extend(bytes);
        }
        let contents: Arc<[u8]> = contents.into();
        let mut spec = MapSpec::new(MapKind::Array, 4, contents.len() as u32, 1);
        spec.name = data_map_name(&self.name, ".kconfig");
        spec.flags = flags::RDONLY_PROG | flags::MMAPABLE;
        spec.frozen = Some(contents.clone());
        spec.btf_value = btf.datasec(".kconfig").map_or(0, |ty| ty.id.0);
        self.maps.push(MapDef {
            name: ".kconfig".into(),
            spec,
            pinning: Pinning::None,
            initial: Vec::new(),
            contents: Some(contents),
            section: ".kconfig".into(),
        });
        self.data.push(DataSection { name: ".kconfig".into(), map, variables });
        Ok(())
    }

    fn kfunc(&mut self, declared: &Declared<'_>, at: i32, options: &ParseOptions<'_>) -> Extern {
        let essential = rtbpf_btf::essential_name(declared.name);
        let ours = options.kfunc.and_then(|kfunc| kfunc(essential));
        let target = || options.target_btf?.func(essential).map(|ty| ty.id.0 as i32);
        let found = ours.or_else(target);
        if found.is_none() && declared.weak {
            return Extern::MissingKfunc { at };
        }
        let id = found.unwrap_or(OWN_KFUNCS + self.kfuncs.len() as i32);
        self.kfuncs.push(Kfunc { id, name: essential.to_owned(), found: found.is_some() });
        Extern::Kfunc { id }
    }
}

/// A kernel variable: by type where it is declared with one, else by address. `None` leaves it undefined.
fn ksym(btf: &Btf, declared: &Declared<'_>, ty: TypeId, options: &ParseOptions<'_>) -> Option<Extern> {
    let essential = rtbpf_btf::essential_name(declared.name);
    let found = if btf.peel(ty).id == TypeId::VOID {
        options.ksym.and_then(|ksym| ksym(essential)).map(Extern::Address)
    } else {
        let is_var = |kind| matches!(kind, Kind::Var { .. });
        let var = options.target_btf.and_then(|target| target.find(essential, is_var));
        var.map(|var| Extern::Var { btf_id: var.id.0 })
    };
    found.or_else(|| declared.weak.then_some(Extern::Address(0)))
}
