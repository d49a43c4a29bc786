//! Map definitions in BTF: `struct { __uint(type, …); __type(key, …); … } name SEC(".maps")`.
//!
//! The macros hide numbers and types in member types: `__uint(m, 5)` is `int (*m)[5]`, `__type(m, T)` is `T *m`,
//! `__array(values, T)` is `T *values[]`, `__ulong(m, v)` an enum of one value.

use std::collections::HashMap;

use rtbpf_abi::{MapKind, MapSpec};
use rtbpf_btf::{Btf, Kind, Linkage, TypeId, special_fields};

use crate::code::Target;
use crate::elf::{Place, Symbol, Unit};
use crate::error::Error;
use crate::object::{Initial, InitialTarget, MapDef, Object, Pinning};

/// Bytes of a map name that Linux keeps.
pub(crate) const MAX_MAP_NAME: usize = 15;

/// Where maps and variables lie in the file: what relocations point at.
#[derive(Debug, Default)]
pub(crate) struct Sites {
    /// Map definitions by section and offset.
    pub maps: HashMap<(usize, u64), usize>,
    /// Maps of data sections by section.
    pub data: HashMap<usize, usize>,
    /// `values` arrays: section, first byte, one past the last, map.
    values: Vec<(usize, u64, u64, usize)>,
    /// iproute2's map ids.
    pub ids: HashMap<u32, usize>,
}

/// What one definition says.
struct Definition {
    spec: MapSpec,
    pinning: Pinning,
    /// Byte offset of `values` in the definition.
    values: Option<u64>,
}

impl Object {
    pub(crate) fn find_btf_maps(&mut self, unit: &Unit<'_>, sites: &mut Sites) -> Result<(), Error> {
        let Some((section, _)) = unit.section(".maps") else { return Ok(()) };
        let Some(btf) = self.btf.clone() else {
            // A legacy record may stand in a section of the new name.
            return self.find_legacy_maps_in(unit, section, sites);
        };
        let Some(Kind::DataSec { vars, .. }) = btf.datasec(".maps").map(|ty| ty.kind) else {
            return self.find_legacy_maps_in(unit, section, sites);
        };
        let symbols = symbols_in(unit, section);
        for var in vars.iter() {
            let Some(name) = btf.get(var.ty).map(|ty| ty.name) else { continue };
            let refuse = |why: String| Error::Map { map: name.to_owned(), why };
            if matches!(btf.get(var.ty).map(|ty| ty.kind), Some(Kind::Var { linkage: Linkage::Extern, .. })) {
                // Another object defines it.
                continue;
            }
            let Some(symbol) = symbols.get(name) else {
                return Err(refuse("its BTF is in .maps, but no symbol is; rebuild the object".into()));
            };
            let Some(Kind::Var { ty, .. }) = btf.get(var.ty).map(|ty| ty.kind) else {
                return Err(refuse("not a variable".into()));
            };
            let definition = define(&btf, ty, name, true)?;
            let index = self.maps.len();
            sites.maps.insert((section, symbol.value), index);
            if let Some(offset) = definition.values {
                let size = symbol.size.max(btf.size_of(ty).unwrap_or(0));
                let (from, to) = (symbol.value.saturating_add(offset), symbol.value.saturating_add(size));
                sites.values.push((section, from, to, index));
            }
            self.maps.push(MapDef {
                name: name.to_owned(),
                spec: definition.spec,
                pinning: definition.pinning,
                initial: Vec::new(),
                contents: None,
                section: ".maps".into(),
            });
        }
        sites.values.sort_unstable();
        Ok(())
    }

    /// Entries that `values` initialisers, and iproute2's section names, ask for.
    pub(crate) fn initialise_maps(&mut self, unit: &Unit<'_>, sites: &Sites) -> Result<(), Error> {
        if let Some((index, section)) = unit.section(".maps") {
            for reloc in &section.relocs {
                let Some(symbol) = unit.symbols.get(reloc.symbol) else { continue };
                let refuse = |why: &str| Error::Reloc {
                    section: section.name.to_string(),
                    offset: reloc.offset,
                    kind: reloc.kind,
                    symbol: symbol.name.to_string(),
                    why: why.to_owned(),
                };
                let after = sites.values.partition_point(|&(at, from, ..)| (at, from) <= (index, reloc.offset));
                let site = after.checked_sub(1).and_then(|before| sites.values.get(before));
                let Some(&(_, from, _, outer)) = site.filter(|site| site.0 == index && reloc.offset < site.2) else {
                    return Err(refuse("it lies in no map's values array"));
                };
                let stored = usize::try_from(reloc.offset).ok().and_then(|at| section.bytes.get(at..));
                let stored = stored.and_then(|bytes| bytes.first_chunk::<8>()).map_or(0, |b| u64::from_le_bytes(*b));
                let value = symbol.value.wrapping_add(reloc.addend.map_or(stored, |addend| addend as u64));
                let target = match symbol.at {
                    Place::Section(at) => match sites.maps.get(&(at, value)) {
                        Some(&map) => InitialTarget::Map(map),
                        None => match self.program_at(at, value) {
                            Some(program) => InitialTarget::Program(program),
                            None => return Err(refuse("a map or program must stand there")),
                        },
                    },
                    _ => return Err(refuse("it is defined in no section of this object")),
                };
                let key = ((reloc.offset - from) / 8) as u32;
                self.relocs.initial += 1;
                let Some(outer) = self.maps.get_mut(outer) else { continue };
                outer.initial.push(Initial { key, target });
                // An array without a size has as many entries as initialisers.
                outer.spec.max_entries = outer.spec.max_entries.max(key.saturating_add(1));
            }
        }
        for program in &self.programs {
            let Some((id, key)) = program.section.split_once('/') else { continue };
            if let (Some(id), Some(key)) = (number(id), number(key))
                && let Some(map) = sites.ids.get(&id).and_then(|&map| self.maps.get_mut(map))
                && map.spec.kind == MapKind::ProgArray
            {
                map.initial.push(Initial { key, target: InitialTarget::Program(program.name.clone()) });
                self.relocs.initial += 1;
            }
        }
        Ok(())
    }

    fn program_at(&self, unit_section: usize, value: u64) -> Option<String> {
        let section = self.code.section_of(unit_section)?;
        let slot = u32::try_from(value / 8).ok()?;
        let function = self.code.functions.get(self.code.function_at(Target { section, slot })?)?;
        (function.start == slot).then(|| function.name.to_string())
    }
}

/// Decimal, or hexadecimal after `0x`, as iproute2 reads section names.
fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

/// Named symbols of a section that stand for data.
pub(crate) fn symbols_in<'u, 'a>(unit: &'u Unit<'a>, section: usize) -> HashMap<&'u str, &'u Symbol<'a>> {
    let inside = unit.data_symbols.get(&section).into_iter().flatten().filter_map(|&at| unit.symbols.get(at));
    inside.map(|symbol| (symbol.name.as_ref(), symbol)).collect()
}

/// Reads a definition; `outer` permits the definition of an inner map.
fn define(btf: &Btf, ty: TypeId, name: &str, outer: bool) -> Result<Definition, Error> {
    let refuse = |why: String| Error::Map { map: name.to_owned(), why };
    let Some(members) = btf.members(ty) else {
        return Err(refuse(format!("its type is `{}` (must be a struct of __uint and __type)", btf.declare(ty, ""))));
    };
    let mut kind = None;
    let mut definition =
        Definition { spec: MapSpec::new(MapKind::Array, 0, 0, 0), pinning: Pinning::None, values: None };
    let spec = &mut definition.spec;
    for member in members.iter() {
        let uint =
            || number_of(btf, member.ty).ok_or_else(|| refuse(format!("{} is no number; use __uint", member.name)));
        let word = || {
            let value = uint()?;
            u32::try_from(value).map_err(|_| refuse(format!("{} is {value} (must fit 32 bits)", member.name)))
        };
        match member.name {
            "type" => {
                let number = word()?;
                kind = Some(MapKind::from_number(number).ok_or_else(|| refuse(format!("unknown map type {number}")))?);
            }
            "max_entries" => spec.max_entries = word()?,
            "map_flags" => spec.flags = word()?,
            "numa_node" => spec.numa_node = word()?,
            "map_extra" => spec.map_extra = uint()?,
            "key_size" => spec.key_size = word()?,
            "value_size" => spec.value_size = word()?,
            "pinning" => definition.pinning = if word()? == 1 { Pinning::ByName } else { Pinning::None },
            "key" | "value" => {
                let Kind::Ptr { to } = btf.peel(member.ty).kind else {
                    return Err(refuse(format!("{} is no type; use __type", member.name)));
                };
                let bytes = btf.size_of(to).and_then(|bytes| u32::try_from(bytes).ok());
                let Some(bytes) = bytes else {
                    return Err(refuse(format!(
                        "{} has type `{}`, which has no size",
                        member.name,
                        btf.declare(to, "")
                    )));
                };
                let (size, id) = match member.name {
                    "key" => (&mut spec.key_size, &mut spec.btf_key),
                    _ => (&mut spec.value_size, &mut spec.btf_value),
                };
                if *size != 0 && *size != bytes {
                    return Err(refuse(format!("{} has {bytes} bytes, but its size is given as {size}", member.name)));
                }
                (*size, *id) = (bytes, to.0);
            }
            "values" if outer => {
                definition.values = Some(u64::from(member.bit_offset / 8));
                let Some(of) = element(btf, member.ty) else {
                    return Err(refuse("values must be an array of pointers; use __array".into()));
                };
                // The elements of a program array are functions.
                if let Kind::Struct { .. } = btf.peel(of).kind {
                    let mut inner = define(btf, of, name, false)?.spec;
                    inner.name = inner_name(name);
                    spec.inner = Some(Box::new(inner));
                }
                if spec.value_size == 0 {
                    spec.value_size = 4;
                }
            }
            "values" => return Err(refuse("an inner map cannot hold maps".into())),
            // iproute2 numbers its maps.
            "id" => {}
            other => {
                return Err(refuse(format!(
                    "unknown attribute {other}; the object is newer than this loader, or wrong"
                )));
            }
        }
    }
    spec.kind = kind.ok_or_else(|| refuse("it has no type; add __uint(type, …)".into()))?;
    spec.name = linux_name(name);
    if spec.btf_value != 0 {
        spec.fields = special_fields(btf, TypeId(spec.btf_value)).map_err(|error| refuse(error.to_string()))?;
    }
    fit(spec);
    Ok(definition)
}

/// Gives a map the sizes that its kind alone decides.
pub(crate) fn fit(spec: &mut MapSpec) {
    match spec.kind {
        MapKind::ArrayOfMaps | MapKind::HashOfMaps | MapKind::ProgArray => {
            spec.key_size = if spec.key_size == 0 { 4 } else { spec.key_size };
            spec.value_size = 4;
        }
        // Their value may name the type of the messages, for whoever reads them; no element has it.
        MapKind::Ringbuf | MapKind::UserRingbuf if spec.btf_value != 0 => (spec.key_size, spec.value_size) = (0, 0),
        MapKind::PerfEventArray if spec.btf_value != 0 => (spec.key_size, spec.value_size) = (4, 4),
        _ => {}
    }
    round_ring(spec);
}

/// Ring buffers take a power of two of whole pages.
pub(crate) fn round_ring(spec: &mut MapSpec) {
    const PAGE: u32 = 4096;
    if matches!(spec.kind, MapKind::Ringbuf | MapKind::UserRingbuf) && spec.max_entries != 0 {
        spec.max_entries = spec.max_entries.max(PAGE).checked_next_power_of_two().unwrap_or(spec.max_entries);
    }
}

pub(crate) fn linux_name(name: &str) -> String {
    name.chars().take_while(char::is_ascii).take(MAX_MAP_NAME).collect()
}

fn inner_name(outer: &str) -> String {
    linux_name(&format!("{}.inner", outer.chars().take(MAX_MAP_NAME - 6).collect::<String>()))
}

/// The number that `__uint` or `__ulong` hides.
fn number_of(btf: &Btf, ty: TypeId) -> Option<u64> {
    match btf.peel(ty).kind {
        Kind::Ptr { to } => match btf.peel(to).kind {
            Kind::Array { len, .. } => Some(len.into()),
            _ => None,
        },
        Kind::Enum { values, .. } => values.get(0).map(|value| value.value as u64),
        _ => None,
    }
}

/// What the pointers of a `values` array point to.
fn element(btf: &Btf, ty: TypeId) -> Option<TypeId> {
    let Kind::Array { elem, .. } = btf.peel(ty).kind else { return None };
    let Kind::Ptr { to } = btf.peel(elem).kind else { return None };
    Some(to)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtbpf_btf::{Builder, NewMember};

    type Make<'a> = (&'a str, &'a dyn Fn(&mut Builder) -> TypeId);

    fn map_of(members: &[Make<'_>]) -> Result<MapSpec, Error> {
        let mut b = Builder::new();
        let types: Vec<TypeId> = members.iter().map(|(_, make)| make(&mut b)).collect();
        let named = members.iter().zip(&types).enumerate();
        let list: Vec<_> = named.map(|(i, ((name, _), ty))| NewMember::new(name, *ty, i as u32 * 64)).collect();
        let s = b.structure("", members.len() as u32 * 8, &list);
        define(&b.build().unwrap(), s, "m", true).map(|definition| definition.spec)
    }

    fn uint(value: u32) -> impl Fn(&mut Builder) -> TypeId {
        move |b| {
            let int = b.int("int", 4, true);
            let array = b.array(int, value);
            b.pointer(array)
        }
    }

    fn ty(bytes: u32) -> impl Fn(&mut Builder) -> TypeId {
        move |b| {
            let int = b.int("x", bytes, true);
            b.pointer(int)
        }
    }

    #[test]
    fn messages_have_a_type_and_elements_have_none() {
        let ring = map_of(&[("type", &uint(27)), ("max_entries", &uint(4096)), ("value", &ty(16))]).unwrap();
        assert_eq!((ring.key_size, ring.value_size), (0, 0));
        assert_ne!(ring.btf_value, 0);
        let events = map_of(&[("type", &uint(4)), ("value", &ty(16))]).unwrap();
        assert_eq!((events.key_size, events.value_size), (4, 4));
    }

    #[test]
    fn attributes_are_read_out_of_types() {
        let spec =
            map_of(&[("type", &uint(1)), ("key", &ty(4)), ("value", &ty(8)), ("max_entries", &uint(7))]).unwrap();
        let expected = (MapKind::Hash, 4, 8, 7);
        assert_eq!((spec.kind, spec.key_size, spec.value_size, spec.max_entries), expected);
        let spec = map_of(&[("type", &uint(27)), ("max_entries", &uint(5000))]).unwrap();
        assert_eq!((spec.kind, spec.max_entries), (MapKind::Ringbuf, 8192));
    }

    #[test]
    fn definitions_that_contradict_themselves_are_refused() {
        let check = |members: &[Make<'_>], part: &str| {
            let why = map_of(members).unwrap_err().to_string();
            assert!(why.contains(part), "{why}");
        };
        check(&[("key", &ty(4))], "it has no type");
        check(&[("type", &uint(99))], "unknown map type 99");
        check(&[("type", &ty(4))], "type is no number");
        check(&[("type", &uint(1)), ("key_size", &uint(2)), ("key", &ty(4))], "key has 4 bytes");
        check(&[("type", &uint(1)), ("speed", &uint(2))], "unknown attribute speed");
    }
}
