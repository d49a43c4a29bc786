//! Global variables: each data section is an array map of one value.

use std::collections::HashSet;
use std::sync::Arc;

use rtbpf_abi::map_spec::flags;
use rtbpf_abi::{MapKind, MapSpec};
use rtbpf_btf::{Kind, Linkage, TypeId, variable_fields};

use crate::elf::{Holds, Place, Section, Unit};
use crate::error::Error;
use crate::maps::{MAX_MAP_NAME, Sites, linux_name, symbols_in};
use crate::object::{DataSection, MapDef, Object, Pinning, Variable};

/// Bytes of one section: what an array's value may have.
const MAX_BYTES: u64 = i32::MAX as u64;

impl Object {
    pub(crate) fn find_data(&mut self, unit: &Unit<'_>, sites: &mut Sites) -> Result<(), Error> {
        let referenced = referenced_by_code(unit);
        for (index, section) in unit.sections.iter().enumerate() {
            if section.size == 0 || !matches!(section.holds, Holds::Data | Holds::Zeroes) {
                continue;
            }
            let name = section.name.as_ref();
            let known = [".data", ".rodata", ".bss"]
                .iter()
                .any(|kind| name.strip_prefix(kind).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')));
            // Sections of other names count when code refers to them.
            let foreign = referenced.contains(&index) && !is_special(name);
            if known || foreign {
                let contents = (section.holds == Holds::Data).then(|| Arc::from(section.bytes.as_ref()));
                let read_only = name.starts_with(".rodata") || (foreign && !known && !section.writable);
                let map = self.add_data_map(section, contents, read_only)?;
                sites.data.insert(index, map);
                let variables = self.variables(unit, index, section);
                self.data.push(DataSection { name: name.to_owned(), map, variables });
            }
        }
        Ok(())
    }

    fn add_data_map(
        &mut self,
        section: &Section<'_>,
        contents: Option<Arc<[u8]>>,
        read_only: bool,
    ) -> Result<usize, Error> {
        let name = section.name.as_ref();
        if section.size > MAX_BYTES {
            return Err(Error::Section {
                section: name.to_owned(),
                offset: 0,
                why: format!("{} bytes of variables (must be at most {MAX_BYTES})", section.size),
            });
        }
        if read_only && contents.is_none() {
            // A header of 64 bytes could claim gigabytes that a proof would have to hold.
            let why = format!("{} read-only bytes that the file does not hold", section.size);
            return Err(Error::Section { section: name.to_owned(), offset: 0, why });
        }
        let mut spec = MapSpec::new(MapKind::Array, 4, section.size as u32, 1);
        spec.name = data_map_name(&self.name, name);
        let mut visible = false;
        if let Some(btf) = &self.btf
            && let Some(ty) = btf.datasec(name)
            && let Kind::DataSec { vars, .. } = ty.kind
        {
            spec.btf_value = ty.id.0;
            visible = vars.iter().any(|var| {
                matches!(btf.get(var.ty).map(|ty| ty.kind), Some(Kind::Var { linkage, .. }) if linkage != Linkage::Static)
            });
        }
        // A host can map what has a variable that it can name.
        spec.flags = if visible { flags::MMAPABLE } else { 0 };
        if read_only {
            spec.flags |= flags::RDONLY_PROG;
            spec.frozen = contents.clone();
        }
        self.maps.push(MapDef {
            name: name.to_owned(),
            spec,
            pinning: Pinning::None,
            initial: Vec::new(),
            contents,
            section: name.to_owned(),
        });
        Ok(self.maps.len() - 1)
    }

    /// Variables by ELF symbols, with the types that BTF has for their names; locks and timers among them count as
    /// the map's special fields.
    fn variables(&mut self, unit: &Unit<'_>, index: usize, section: &Section<'_>) -> Vec<Variable> {
        let btf = self.btf.clone();
        let mut types = std::collections::HashMap::new();
        if let Some(btf) = &btf
            && let Some(Kind::DataSec { vars, .. }) = btf.datasec(&section.name).map(|ty| ty.kind)
        {
            for var in vars.iter().filter_map(|var| btf.get(var.ty)) {
                if let Kind::Var { ty, .. } = var.kind {
                    types.insert(var.name, ty);
                }
            }
        }
        let mut variables: Vec<Variable> = symbols_in(unit, index)
            .into_values()
            .filter(|symbol| symbol.size != 0)
            .filter(|symbol| symbol.value.checked_add(symbol.size).is_some_and(|end| end <= section.size))
            .map(|symbol| Variable {
                name: symbol.name.as_ref().into(),
                offset: symbol.value as u32,
                size: symbol.size as u32,
                ty: types.get(symbol.name.as_ref()).copied().unwrap_or(TypeId::VOID),
            })
            .collect();
        variables.sort_by(|a, b| (a.offset, &a.name).cmp(&(b.offset, &b.name)));
        if let (Some(btf), Some(map)) = (&btf, self.maps.last_mut()) {
            for variable in &variables {
                for mut field in variable_fields(btf, variable.ty).unwrap_or_default() {
                    field.off = field.off.saturating_add(variable.offset);
                    map.spec.fields.push(field);
                }
            }
        }
        variables
    }
}

/// Sections that mean something else to a loader.
fn is_special(name: &str) -> bool {
    matches!(name, "license" | "version" | ".maps" | "maps" | ".eh_frame") || name.ends_with("/maps")
}

fn referenced_by_code(unit: &Unit<'_>) -> HashSet<usize> {
    let code = unit.sections.iter().filter(|section| section.holds == Holds::Code);
    let symbols = code.flat_map(|section| &section.relocs).filter_map(|reloc| unit.symbols.get(reloc.symbol));
    symbols
        .filter_map(|symbol| match symbol.at {
            Place::Section(index) => Some(index),
            Place::Undefined | Place::Nowhere => None,
        })
        .collect()
}

/// The name Linux shows: `object.data` cut to 15 bytes, or the section's own name when it has a second dot.
pub(crate) fn data_map_name(object: &str, section: &str) -> String {
    let own = section.strip_prefix('.').is_some_and(|rest| rest.contains('.'));
    let prefix = if own { "" } else { object };
    let room = MAX_MAP_NAME - section.len().clamp(7, MAX_MAP_NAME);
    let name: String = prefix.chars().take(room).chain(section.chars()).collect();
    let clean = |c: char| if c.is_ascii_alphanumeric() || c == '_' || c == '.' { c } else { '_' };
    linux_name(&name.chars().map(clean).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_maps_are_named_as_linux_shows_them() {
        let check = |object, section, name| assert_eq!(data_map_name(object, section), name);
        check("prog", ".data", "prog.data");
        check("a_long_object_name", ".rodata", "a_long_o.rodata");
        check("prog", ".rodata.str1.1", ".rodata.str1.1");
        check("my-prog", ".bss", "my_prog.bss");
    }
}
