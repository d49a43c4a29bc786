//! Several objects as one.
//!
//! Sections of one name follow each other, and symbols, relocations, types and source lines move along. What one
//! object leaves undefined another may define; a strong definition wins over weak ones, two strong ones are refused.
//! Maps are symbols like others: a weak map or an extern one takes the definition that another object has.

use std::collections::HashMap;
use std::sync::Arc;

use rtbpf_btf::{Btf, BtfExt, Builder, CoreRelo, FuncInfo, InfoSection, Kind, LineInfo, Linkage, TypeId};

use crate::elf::{Bind, Holds, Place, Reloc, Section, Symbol, Unit};
use crate::error::Error;
use crate::object::{Object, ParseOptions};

/// One file and what the sections of the joined object make of its own.
struct Part<'a> {
    unit: Unit<'a>,
    btf: Option<Btf>,
    ext: BtfExt,
    /// Per section: its index in the joined object, and where its bytes start there.
    places: Vec<Option<(usize, u64)>>,
}

impl Object {
    /// Parses several ELF objects and joins them, as `bpftool gen object` does.
    pub fn join(files: &[&[u8]], options: &ParseOptions<'_>) -> Result<Object, Error> {
        if let [file] = files {
            return Object::parse(file, options);
        }
        let mut parts = Vec::new();
        for file in files {
            let unit = Unit::read(file)?;
            let (btf, ext) = (unit.btf()?, unit.btf_ext()?);
            parts.push(Part { unit, btf, ext, places: Vec::new() });
        }
        let mut joined = Unit::default();
        for part in &mut parts {
            part.place(&mut joined)?;
        }
        let definitions = definitions(&parts)?;
        for (index, part) in parts.iter().enumerate() {
            part.move_symbols(index, &definitions, &mut joined);
        }
        joined.resolve_by_name();
        let (btf, ext) = join_types(&parts, &definitions)?;
        Object::from_parts(joined, btf.map(Arc::new), ext, options)
    }
}

/// By name: the part that defines it, and the symbol there.
type Definitions<'u> = HashMap<&'u str, (usize, usize)>;

fn definitions<'u>(parts: &'u [Part<'_>]) -> Result<Definitions<'u>, Error> {
    let mut found: Definitions<'u> = HashMap::new();
    for (index, part) in parts.iter().enumerate() {
        for (at, symbol) in part.unit.symbols.iter().enumerate() {
            let defined = matches!(symbol.at, Place::Section(_)) && symbol.bind != Bind::Local;
            if !defined || symbol.name.is_empty() || part.is_text_of_file(symbol) {
                continue;
            }
            let bind_of = |&(part, at): &(usize, usize)| {
                parts.get(part).and_then(|part| part.unit.symbols.get(at)).map(|symbol| symbol.bind)
            };
            match found.get(symbol.name.as_ref()).map(bind_of) {
                Some(Some(Bind::Global)) if symbol.bind == Bind::Global => {
                    let why = "two objects define it; make one of them static or __weak".to_owned();
                    return Err(Error::Join { name: symbol.name.to_string(), why });
                }
                Some(_) if symbol.bind == Bind::Weak => {}
                _ => drop(found.insert(symbol.name.as_ref(), (index, at))),
            }
        }
    }
    Ok(found)
}

impl<'a> Part<'a> {
    /// Whether the symbol is the licence or version, which each object has.
    fn is_text_of_file(&self, symbol: &Symbol<'_>) -> bool {
        let Place::Section(at) = symbol.at else { return false };
        self.unit.sections.get(at).is_some_and(|section| is_of_file(&section.name))
    }

    /// Appends the bytes of each section to the joined section of its name.
    fn place(&mut self, joined: &mut Unit<'a>) -> Result<(), Error> {
        for section in &self.unit.sections {
            if section.holds == Holds::Other || section.size == 0 {
                self.places.push(None);
                continue;
            }
            let refuse = |why: &str| Error::Join { name: section.name.to_string(), why: why.to_owned() };
            let Some((index, _)) = joined.section(&section.name) else {
                self.places.push(Some((joined.sections.len(), 0)));
                joined.sections.push(Section { relocs: Vec::new(), ..section.clone() });
                continue;
            };
            let Some(into) = joined.sections.get_mut(index) else { continue };
            if is_of_file(&section.name) {
                if into.bytes != section.bytes {
                    return Err(refuse("the objects do not agree on it"));
                }
                self.places.push(None);
                continue;
            }
            if into.holds != section.holds {
                return Err(refuse("it holds code in one object and data in another"));
            }
            let align = section.align.clamp(1, 4096);
            let base = into.size.checked_next_multiple_of(align).ok_or_else(|| refuse("it is too large"))?;
            into.size = base.checked_add(section.size).ok_or_else(|| refuse("it is too large"))?;
            into.align = into.align.max(section.align);
            into.writable |= section.writable;
            if section.holds != Holds::Zeroes {
                let bytes = into.bytes.to_mut();
                bytes.resize(usize::try_from(base).map_err(|_| refuse("it is too large"))?, 0);
                bytes.extend_from_slice(&section.bytes);
            }
            self.places.push(Some((index, base)));
        }
        Ok(())
    }

    fn placed(&self, section: usize) -> Option<(usize, u64)> {
        *self.places.get(section)?
    }

    /// Appends symbols and relocations. A symbol that another one wins over stays as a nameless reference to nothing.
    fn move_symbols(&self, index: usize, definitions: &Definitions<'_>, joined: &mut Unit<'a>) {
        let first = joined.symbols.len();
        for (at, symbol) in self.unit.symbols.iter().enumerate() {
            let mut moved = symbol.clone();
            let winner = definitions.get(symbol.name.as_ref()).filter(|_| symbol.bind != Bind::Local);
            match symbol.at {
                Place::Section(section) => match self.placed(section) {
                    _ if winner.is_some_and(|&winner| winner != (index, at)) => moved.at = Place::Undefined,
                    Some((section, base)) => {
                        moved.at = Place::Section(section);
                        moved.value = moved.value.saturating_add(base);
                    }
                    None => moved.at = Place::Nowhere,
                },
                Place::Undefined | Place::Nowhere => {}
            }
            joined.symbols.push(moved);
        }
        for (section, from) in self.unit.sections.iter().enumerate() {
            let Some((target, base)) = self.placed(section) else { continue };
            let Some(into) = joined.sections.get_mut(target) else { continue };
            into.relocs.extend(from.relocs.iter().map(|reloc| Reloc {
                offset: reloc.offset.saturating_add(base),
                symbol: first + reloc.symbol,
                ..*reloc
            }));
        }
    }
}

/// Sections that say something about the whole object.
fn is_of_file(name: &str) -> bool {
    matches!(name, "license" | "version")
}

impl Unit<'_> {
    /// Lets references by name find the definition that the joined object has.
    pub(crate) fn resolve_by_name(&mut self) {
        let mut defined: HashMap<&str, usize> = HashMap::new();
        for (at, symbol) in self.symbols.iter().enumerate() {
            if matches!(symbol.at, Place::Section(_)) && symbol.bind != Bind::Local && !symbol.name.is_empty() {
                defined.entry(&symbol.name).or_insert(at);
            }
        }
        let to = |at: usize| {
            let symbol = self.symbols.get(at).filter(|symbol| symbol.at == Place::Undefined)?;
            defined.get(symbol.name.as_ref()).copied()
        };
        let moved: Vec<usize> = (0..self.symbols.len()).map(|at| to(at).unwrap_or(at)).collect();
        for reloc in self.sections.iter_mut().flat_map(|section| &mut section.relocs) {
            reloc.symbol = moved.get(reloc.symbol).copied().unwrap_or(reloc.symbol);
        }
    }
}

/// A data section of the joined types.
#[derive(Default)]
struct DataSec {
    name: String,
    bytes: u32,
    /// Type, offset, bytes.
    vars: Vec<(TypeId, u32, u32)>,
}

/// All types under new ids. Data sections of one name become one; of several declarations of a variable, the one that
/// defines it stays.
fn join_types(parts: &[Part<'_>], definitions: &Definitions<'_>) -> Result<(Option<Btf>, BtfExt), Error> {
    if parts.iter().all(|part| part.btf.is_none()) {
        return Ok((None, BtfExt::default()));
    }
    let mut builder = Builder::new();
    let mut ext = BtfExt::default();
    let mut sections: Vec<DataSec> = Vec::new();
    let mut seen: HashMap<(String, String), String> = HashMap::new();
    for (index, part) in parts.iter().enumerate() {
        let Some(btf) = &part.btf else { continue };
        let is_section = |id| matches!(btf.get(id).map(|ty| ty.kind), Some(Kind::DataSec { .. }));
        let ids = builder.append(btf, |id| !is_section(id));
        let new = |id: TypeId| ids.get(id.0 as usize).copied().unwrap_or_default();
        for ty in btf.iter() {
            let Kind::DataSec { bytes, vars } = ty.kind else { continue };
            let at = sections.iter().position(|section| section.name == ty.name).unwrap_or_else(|| {
                sections.push(DataSec { name: ty.name.to_owned(), ..DataSec::default() });
                sections.len() - 1
            });
            let Some(into) = sections.get_mut(at) else { continue };
            for var in vars.iter() {
                let Some(declared) = btf.get(var.ty) else { continue };
                let of = if let Kind::Var { ty, .. } = declared.kind { ty } else { var.ty };
                let is_static = matches!(declared.kind, Kind::Var { linkage: Linkage::Static, .. });
                let winner = definitions.get(declared.name).filter(|_| !is_static);
                if ty.name == ".maps" {
                    same_map(btf, declared.name, of, winner.is_some(), &mut seen)?;
                }
                // Another object's definition stands for this one, and a name for all its declarations.
                let loses = winner.is_some_and(|&(part, _)| part != index);
                let known = (ty.name.to_owned() + "\0", declared.name.to_owned());
                let again = !is_static && winner.is_none() && seen.insert(known, String::new()).is_some();
                if !loses && !again {
                    into.vars.push((new(var.ty), var.offset, var.bytes));
                }
            }
            into.bytes = into.bytes.saturating_add(bytes);
        }
        let named = part.unit.sections.iter().enumerate().rev();
        let by_name: HashMap<&str, usize> = named.map(|(at, section)| (section.name.as_ref(), at)).collect();
        let base_of = |name: u32| {
            let name = btf.str(name);
            let section = *by_name.get(name)?;
            Some((name, u32::try_from(part.placed(section)?.1).ok()?))
        };
        for info in &part.ext.funcs {
            let Some((name, base)) = base_of(info.name) else { continue };
            let moved = |r: &FuncInfo| FuncInfo { offset: r.offset.saturating_add(base), ty: new(r.ty) };
            let records = info.records.iter().map(moved).collect();
            ext.funcs.push(InfoSection { name: builder.string(name), records });
        }
        for info in &part.ext.lines {
            let Some((name, base)) = base_of(info.name) else { continue };
            let mut records = Vec::with_capacity(info.records.len());
            for r in &info.records {
                let (file, text) = (builder.string(btf.str(r.file)), builder.string(btf.str(r.text)));
                records.push(LineInfo { offset: r.offset.saturating_add(base), file, text, ..*r });
            }
            ext.lines.push(InfoSection { name: builder.string(name), records });
        }
        for info in &part.ext.relos {
            let Some((name, base)) = base_of(info.name) else { continue };
            let mut records = Vec::with_capacity(info.records.len());
            for r in &info.records {
                let access = builder.string(btf.str(r.access));
                let offset = r.offset.saturating_add(base);
                records.push(CoreRelo { offset, ty: new(r.ty), access, kind: r.kind });
            }
            ext.relos.push(InfoSection { name: builder.string(name), records });
        }
    }
    for section in &sections {
        builder.datasec(&section.name, section.bytes, &section.vars);
    }
    let btf = builder.build().map_err(|source| Error::Btf { section: ".BTF", source })?;
    Ok((Some(btf), ext))
}

/// Refuses declarations of one map that differ.
fn same_map(
    btf: &Btf,
    name: &str,
    ty: TypeId,
    shared: bool,
    seen: &mut HashMap<(String, String), String>,
) -> Result<(), Error> {
    if !shared {
        return Ok(());
    }
    let text = btf.define(btf.peel(ty).id);
    match seen.insert((".maps".into(), name.to_owned()), text.clone()) {
        Some(other) if other != text => {
            Err(Error::Join { name: name.to_owned(), why: "the objects define this map differently".into() })
        }
        _ => Ok(()),
    }
}
