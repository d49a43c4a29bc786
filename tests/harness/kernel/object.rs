//! Programs of object files, loaded into the running kernel as our loader made them.

use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};

use rtbpf::loader::{Object, ProgramSpec};
use rtbpf_abi::{AttachType, MapKind, MapSpec};
use rtbpf_btf::{Btf, Builder, Kind, Linkage, TypeId};
use rtbpf_isa::{Imm64, Insn, MapBy, Program, encode};

use super::{Effort, Verdict, effort_in, errno, last_lines, sys};

/// An object whose maps and types the kernel holds.
pub struct KernelObject {
    maps: Vec<OwnedFd>,
    types: Option<Types>,
    license: CString,
}

/// What the kernel takes of an object's types.
struct Types {
    fd: OwnedFd,
    /// Its id for each of the object's.
    ids: Vec<TypeId>,
}

impl KernelObject {
    /// Makes the object's maps and hands over its types.
    pub fn new(object: &Object) -> Result<KernelObject, String> {
        let types = object.btf.as_ref().map(|btf| Types::load(btf)).transpose()?;
        let mut maps = Vec::new();
        for def in &object.maps {
            let fd = create(&def.spec, types.as_ref()).map_err(|error| format!("map `{}`: {error}", def.name))?;
            if let Some(contents) = &def.contents {
                sys::map_update(&fd, &0u32.to_le_bytes(), contents)
                    .map_err(|error| format!("map `{}`, update: {error}", def.name))?;
            }
            if def.spec.frozen.is_some() || !def.spec.prog_writes() {
                sys::map_freeze(&fd).map_err(|error| format!("map `{}`, freeze: {error}", def.name))?;
            }
            maps.push(fd);
        }
        let license = CString::new(object.license.as_str()).map_err(|error| error.to_string())?;
        Ok(KernelObject { maps, types, license })
    }

    /// Loads `program`, which is `spec` linked; nothing is attached, and the kernel forgets it at once.
    pub fn verify(&self, spec: &ProgramSpec, program: &Program) -> (Verdict, Option<Effort>) {
        const LOG: usize = 1 << 20;
        const STATISTICS: u32 = 4;
        let mut insns = Vec::with_capacity(program.slot_count() * 8);
        for raw in encode(program) {
            insns.extend(raw.to_le_bytes());
        }
        for (at, insn) in program.iter() {
            let map = match *insn {
                Insn::Imm {
                    value: Imm64::Map { map, by: MapBy::Fd } | Imm64::MapValue { map, by: MapBy::Fd, .. },
                    ..
                } => map,
                _ => continue,
            };
            let Some(fd) = self.maps.get(map.index()) else { continue };
            let slot = program.slot(at) as usize * 8;
            insns[slot + 4..slot + 8].copy_from_slice(&fd.as_raw_fd().to_le_bytes());
        }
        let functions: Vec<sys::FuncInfo> = self.types.iter().flat_map(|types| types.functions(program)).collect();
        let load = sys::Load {
            prog_type: spec.prog_type.number(),
            attach_type: spec.attach_type.map_or(0, AttachType::number),
            flags: spec.flags,
            insns: &insns,
            functions: self.types.as_ref().filter(|_| !functions.is_empty()).map(|types| (&types.fd, &*functions)),
            maps: &self.maps,
            log_level: STATISTICS,
            license: &self.license,
        };
        let mut log = vec![0; LOG];
        let errno = sys::prog_load(&load, &mut log).err().map_or(0, |error| errno(&error));
        let effort = effort_in(&log);
        let mut words = String::new();
        if errno != 0 {
            // The reason is written at level 1, which costs much more than the statistics do.
            let again = sys::Load { log_level: 1, ..load };
            log.fill(0);
            let _ = sys::prog_load(&again, &mut log);
            words = last_lines(&log);
        }
        (Verdict { errno, words }, effort)
    }
}

impl Types {
    /// All but variables, their sections and functions that are elsewhere: those only the linker can complete.
    fn load(btf: &Btf) -> Result<Types, String> {
        let stays = |id: TypeId| match btf.get(id).map(|ty| ty.kind) {
            Some(Kind::Var { .. } | Kind::DataSec { .. } | Kind::Func { linkage: Linkage::Extern, .. }) | None => false,
            Some(_) => true,
        };
        let mut builder = Builder::new();
        let ids = builder.append(btf, |id| match btf.get(id).map(|ty| ty.kind) {
            Some(Kind::DeclTag { to, .. }) => stays(to),
            _ => stays(id),
        });
        let fd = sys::btf_load(&builder.to_bytes()).map_err(|error| format!("BTF: {error}"))?;
        Ok(Types { fd, ids })
    }

    fn id(&self, of_object: u32) -> u32 {
        self.ids.get(of_object as usize).map_or(0, |id| id.0)
    }

    /// Where the program's functions begin and what their types are; nothing unless all have one.
    fn functions(&self, program: &Program) -> Vec<sys::FuncInfo> {
        let subprogs = program.subprogs().iter();
        let infos = subprogs.map(|function| {
            let btf_id = self.id(function.btf_id);
            (btf_id != 0).then(|| sys::FuncInfo { slot: program.slot(function.start), btf_id })
        });
        infos.collect::<Option<_>>().unwrap_or_default()
    }
}

fn create(spec: &MapSpec, types: Option<&Types>) -> Result<OwnedFd, String> {
    let inner = spec.inner.as_ref().map(|inner| create(inner, types)).transpose()?;
    let takes_types = !matches!(spec.kind, MapKind::PerfEventArray | MapKind::StackTrace | MapKind::ProgArray);
    let types = types.filter(|_| takes_types && spec.inner.is_none());
    let mut attr =
        sys::MapAttr { inner: inner.as_ref().map_or(0, |fd| fd.as_raw_fd() as u32), ..sys::MapAttr::of(spec) };
    if let Some(types) = types.filter(|_| spec.btf_value != 0) {
        attr.btf = types.fd.as_raw_fd() as u32;
        (attr.btf_key, attr.btf_value) = (types.id(spec.btf_key), types.id(spec.btf_value));
        if let Ok(fd) = sys::map_create(attr) {
            return Ok(fd);
        }
        // Some kinds take no types; where the types matter, the second try is refused too, or the program is.
        (attr.btf, attr.btf_key, attr.btf_value) = (0, 0, 0);
    }
    sys::map_create(attr).map_err(|error| error.to_string())
}
