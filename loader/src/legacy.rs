//! Map records from before BTF: `struct bpf_map_def`, and what other loaders made of it.
//!
//! ```text
//!  bytes  0     4         8           12           16         20            24           28        32
//!  20     type  key_size  value_size  max_entries  map_flags
//!  24     …                                                   inner index
//!  28     …                                                   inner index   NUMA node
//!  36     … (iproute2)                                        id            pinning      inner id  inner index
//! ```

use rtbpf_abi::{MapKind, MapSpec};

use crate::elf::{Holds, Unit};
use crate::error::Error;
use crate::maps::{Sites, fit, linux_name, symbols_in};
use crate::object::{Initial, InitialTarget, MapDef, Object, Pinning};

/// A section of records: `maps`, and per-program ones such as `lirc_mode2/maps`.
fn is_legacy(name: &str) -> bool {
    name == "maps" || name.ends_with("/maps")
}

impl Object {
    pub(crate) fn find_legacy_maps(&mut self, unit: &Unit<'_>, sites: &mut Sites) -> Result<(), Error> {
        for (index, section) in unit.sections.iter().enumerate() {
            if is_legacy(&section.name) && matches!(section.holds, Holds::Data | Holds::Other | Holds::Code) {
                self.find_legacy_maps_in(unit, index, sites)?;
            }
        }
        Ok(())
    }

    pub(crate) fn find_legacy_maps_in(
        &mut self,
        unit: &Unit<'_>,
        index: usize,
        sites: &mut Sites,
    ) -> Result<(), Error> {
        let Some(section) = unit.sections.get(index) else { return Ok(()) };
        let mut symbols: Vec<_> = symbols_in(unit, index).into_values().collect();
        symbols.sort_by_key(|symbol| symbol.value);
        if symbols.is_empty() {
            return Ok(());
        }
        let first = self.maps.len();
        let mut records = Vec::new();
        for (at, symbol) in symbols.iter().enumerate() {
            // Where its symbol has no size, a record reaches up to the next one.
            let next = symbols.get(at + 1).map_or(section.bytes.len() as u64, |next| next.value);
            let end = if symbol.size == 0 { next } else { symbol.value.saturating_add(symbol.size) };
            let part = usize::try_from(symbol.value).ok().zip(usize::try_from(end).ok());
            let bytes = part.and_then(|(from, to)| section.bytes.get(from..to)).unwrap_or_default();
            let refuse = |why| Error::Map { map: symbol.name.to_string(), why };
            let record = Record::read(bytes).map_err(refuse)?;
            let kind = MapKind::from_number(record.kind)
                .ok_or_else(|| refuse(format!("unknown map type {} in a {}-byte record", record.kind, bytes.len())))?;
            let mut spec = MapSpec::new(kind, record.key_size, record.value_size, record.max_entries);
            spec.name = linux_name(&symbol.name);
            spec.flags = record.flags;
            spec.numa_node = record.numa_node;
            fit(&mut spec);
            sites.maps.insert((index, symbol.value), first + at);
            if let Some(id) = record.id {
                sites.ids.entry(id).or_insert(first + at);
            }
            self.maps.push(MapDef {
                name: symbol.name.to_string(),
                spec,
                pinning: record.pinning,
                initial: Vec::new(),
                contents: None,
                section: section.name.to_string(),
            });
            records.push(record);
        }
        self.nest_legacy_maps(first, &records)
    }

    /// Gives maps of maps their templates, and iproute2's inner maps their places.
    fn nest_legacy_maps(&mut self, first: usize, records: &[Record]) -> Result<(), Error> {
        for (at, record) in records.iter().enumerate() {
            let Some(outer) = self.maps.get(first + at).filter(|map| map.spec.kind.is_map_in_map()) else { continue };
            let inner = match record.inner {
                Inner::None => None,
                Inner::Index(index) => Some(index as usize),
                Inner::Id(id) => records.iter().position(|inner| inner.id == Some(id) && id != 0),
            };
            let template = inner.and_then(|inner| self.maps.get(first + inner)).map(|map| map.spec.clone());
            let Some(template) = template.filter(|template| !template.kind.is_map_in_map()) else {
                let why = "its record names no inner map that holds plain values".to_owned();
                return Err(Error::Map { map: outer.name.clone(), why });
            };
            let key = inner.and_then(|inner| records.get(inner)).and_then(|inner| inner.place);
            let Some(outer) = self.maps.get_mut(first + at) else { continue };
            outer.spec.inner = Some(Box::new(template));
            if let (Some(key), Some(inner)) = (key, inner) {
                outer.initial.push(Initial { key, target: InitialTarget::Map(first + inner) });
                self.relocs.initial += 1;
            }
        }
        Ok(())
    }
}

#[derive(Debug, Default, PartialEq)]
struct Record {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
    numa_node: u32,
    id: Option<u32>,
    pinning: Pinning,
    inner: Inner,
    /// Where an inner map goes in its outer one.
    place: Option<u32>,
}

#[derive(Debug, Default, PartialEq)]
enum Inner {
    #[default]
    None,
    Index(u32),
    Id(u32),
}

impl Record {
    fn read(bytes: &[u8]) -> Result<Record, String> {
        if bytes.len() < 20 || !bytes.len().is_multiple_of(4) {
            return Err(format!("its record has {} bytes (must be 20, 24, 28 or 36)", bytes.len()));
        }
        let word = |at: usize| {
            let word = bytes.get(at * 4..).and_then(|rest| rest.first_chunk::<4>());
            word.map_or(0, |word| u32::from_le_bytes(*word))
        };
        let mut record = Record {
            kind: word(0),
            key_size: word(1),
            value_size: word(2),
            max_entries: word(3),
            flags: word(4),
            ..Record::default()
        };
        match bytes.len() {
            20 => {}
            24 => record.inner = Inner::Index(word(5)),
            28 => (record.inner, record.numa_node) = (Inner::Index(word(5)), word(6)),
            36 => {
                record.id = Some(word(5));
                record.pinning = match word(6) {
                    1 => Pinning::PerObject,
                    2 => Pinning::ByName,
                    _ => Pinning::None,
                };
                record.inner = Inner::Id(word(7));
                // -1 says that it is nobody's inner map.
                record.place = i32::try_from(word(8)).ok().map(|place| place as u32);
            }
            _ => {
                let rest = bytes.get(20..).unwrap_or_default();
                if rest.iter().any(|&byte| byte != 0) {
                    return Err(format!("its record of {} bytes has fields that no known loader has", bytes.len()));
                }
            }
        }
        Ok(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_each_length_are_read() {
        let bytes = |words: &[u32]| words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>();
        let plain = || Record { kind: 2, key_size: 4, value_size: 8, max_entries: 16, flags: 1, ..Record::default() };
        let check = |words: &[u32], record| assert_eq!(Record::read(&bytes(words)), Ok(record));
        check(&[2, 4, 8, 16, 1], plain());
        check(&[2, 4, 8, 16, 1, 3], Record { inner: Inner::Index(3), ..plain() });
        check(&[2, 4, 8, 16, 1, 3, 1], Record { inner: Inner::Index(3), numa_node: 1, ..plain() });
        let iproute2 = Record { id: Some(5), pinning: Pinning::ByName, inner: Inner::Id(6), ..plain() };
        check(&[2, 4, 8, 16, 1, 5, 2, 6, u32::MAX], iproute2);
        check(&[2, 4, 8, 16, 1, 0, 0, 0], plain());
        assert!(Record::read(&bytes(&[2, 4, 8, 16])).is_err());
        assert!(Record::read(&bytes(&[2, 4, 8, 16, 1, 0, 0, 9])).is_err());
    }
}
