//! ELF objects: two that clang made, with their tables changed where it hurts.

use std::sync::OnceLock;

use rtbpf_btf::Btf;
use rtbpf_loader::{Object, ParseOptions};

use crate::rng::Rng;

const SEEDS: [&[u8]; 2] =
    [include_bytes!("../../data/objects/everything.bpf.o"), include_bytes!("../../data/objects/legacy.bpf.o")];

/// What one part of a file costs to parse may not grow beyond this many bytes of instructions.
const MAX_SLOTS: usize = 4_000_000;

/// Offsets in an ELF file of 64 bits.
const SECTION_TABLE: usize = 0x28;
const SECTION_COUNT: usize = 0x3c;
const SECTION_HEADER: usize = 64;

fn number(bytes: &[u8], at: usize, size: usize) -> Option<u64> {
    let field = bytes.get(at..at.checked_add(size)?)?;
    Some(field.iter().rev().fold(0, |value, &byte| value << 8 | byte as u64))
}

/// A section's header, contents' offset and size, and the size of an entry.
#[derive(Clone, Copy)]
struct Section {
    header: usize,
    offset: usize,
    size: usize,
    entry: usize,
    kind: u64,
}

fn sections(bytes: &[u8]) -> Vec<Section> {
    let table = number(bytes, SECTION_TABLE, 8).unwrap_or(0) as usize;
    let count = number(bytes, SECTION_COUNT, 2).unwrap_or(0) as usize;
    let read = |index: usize| {
        let header = table.checked_add(index * SECTION_HEADER)?;
        let field = |at, size| number(bytes, header.checked_add(at)?, size);
        Some(Section {
            header,
            kind: field(4, 4)?,
            offset: field(24, 8)? as usize,
            size: field(32, 8)? as usize,
            entry: field(56, 8)? as usize,
        })
    };
    (0..count).map_while(read).collect()
}

fn set(bytes: &mut [u8], at: usize, size: usize, value: u64) {
    if let Some(field) = at.checked_add(size).and_then(|end| bytes.get_mut(at..end)) {
        field.copy_from_slice(&value.to_le_bytes()[..size]);
    }
}

/// A number of the kind that tables hold: small, near one that stands there, or at an edge.
fn field_value(rng: &mut Rng, old: u64) -> u64 {
    match rng.below(5) {
        0 => rng.below(40),
        1 => old.wrapping_add(rng.below(17)).wrapping_sub(8),
        2 => old ^ 1 << rng.below(64),
        3 => rng.edge(),
        _ => old.wrapping_mul(2),
    }
}

/// One of the seeds with up to eight fields changed.
pub fn bytes(rng: &mut Rng) -> Vec<u8> {
    let mut bytes = rng.pick(&SEEDS).to_vec();
    for _ in 0..rng.below(9) {
        damage(rng, &mut bytes);
    }
    bytes
}

fn damage(rng: &mut Rng, bytes: &mut Vec<u8>) {
    const HEADER_FIELDS: [(usize, usize); 6] = [(4, 4), (24, 8), (32, 8), (40, 4), (44, 4), (56, 8)];
    let sections = sections(bytes);
    if sections.is_empty() || rng.below(64) == 0 {
        bytes.truncate(rng.below(bytes.len() as u64 + 1) as usize);
        return;
    }
    let section = rng.pick(&sections);
    match rng.below(8) {
        // A field of a section's header; the name's offset now and then.
        0 => {
            let (at, size) = if rng.below(8) == 0 { (0, 4) } else { rng.pick(&HEADER_FIELDS) };
            let old = number(bytes, section.header + at, size).unwrap_or(0);
            let value = field_value(rng, old);
            set(bytes, section.header + at, size, value);
        }
        // The header of one section for that of another.
        1 => {
            let other = rng.pick(&sections);
            for at in (0..SECTION_HEADER).step_by(8) {
                let field = number(bytes, other.header + at, 8).unwrap_or(0);
                set(bytes, section.header + at, 8, field);
            }
        }
        // A field of the file's header.
        2 if rng.below(8) == 0 => {
            let at = rng.below(64) as usize;
            let value = rng.edge();
            set(bytes, at, 1 + rng.below(8) as usize, value);
        }
        // A field of an entry of a symbol or relocation table.
        2..=4 => {
            let tables: Vec<Section> = sections.into_iter().filter(|s| matches!(s.kind, 2 | 4 | 9)).collect();
            if tables.is_empty() {
                return;
            }
            let table = rng.pick(&tables);
            let entry = table.entry.clamp(8, 64);
            let index = rng.below((table.size / entry) as u64) as usize;
            let at =
                table.offset.wrapping_add(index.wrapping_mul(entry)).wrapping_add(rng.below(entry as u64) as usize);
            let size = rng.pick(&[1, 2, 4, 8]);
            let value = field_value(rng, number(bytes, at, size).unwrap_or(0));
            set(bytes, at, size, value);
        }
        // A word of any section.
        _ => {
            let at = section.offset.wrapping_add(rng.below(section.size as u64) as usize);
            let at = if rng.below(2) == 0 { at & !3 } else { at };
            let size = rng.pick(&[1, 2, 4, 8]);
            let value = field_value(rng, number(bytes, at, size).unwrap_or(0));
            set(bytes, at, size, value);
        }
    }
}

/// A kernel's types for CO-RE relocations to meet: those of the first seed, which differ from its own only in their ids.
fn target_btf() -> Option<&'static Btf> {
    static TARGET: OnceLock<Option<Btf>> = OnceLock::new();
    TARGET.get_or_init(|| super::btf::seed().and_then(|bytes| Btf::parse(bytes).ok())).as_ref()
}

/// Parsing and linking end in an object or an error, and what links keeps the promises of programs.
pub fn check(data: &[u8]) -> bool {
    let kfunc = |name: &str| name.len().is_multiple_of(2).then_some(name.len() as i32);
    let ksym = |name: &str| name.len().is_multiple_of(3).then_some(name.len() as u64);
    let options = ParseOptions {
        name: "fuzz",
        target_btf: target_btf(),
        kconfig: Some("CONFIG_PREEMPT_RT=y\nCONFIG_HZ=250\n"),
        kernel_version: 0x0006_0c00,
        cpus: 2,
        kfunc: Some(&kfunc),
        ksym: Some(&ksym),
        ..ParseOptions::default()
    };
    let mut object = match Object::parse(data, &options) {
        Ok(object) => object,
        Err(e) => {
            assert!(!e.to_string().is_empty());
            return false;
        }
    };
    let mut slots = 0;
    for spec in &object.programs {
        let Ok(program) = object.link(spec) else { continue };
        slots += program.slot_count();
        assert!(program.lines().iter().all(|line| line.at.index() < program.len()));
        super::program::check_decoded(&program);
    }
    assert!(slots <= MAX_SLOTS, "{} bytes became {slots} slots", data.len());
    // A host that sets a variable asks for its whole section.
    let small = object.data.iter().filter(|data| object.maps[data.map].spec.value_size < 1 << 16);
    let names: Vec<_> = small.flat_map(|data| &data.variables).map(|v| v.name.to_string()).collect();
    for name in names.iter().take(16) {
        if let Some(bytes) = object.variable_bytes(name) {
            let set = object.set_variable(name, &bytes);
            assert!(set.is_ok(), "{name} does not take its own bytes: {set:?}");
        }
    }
    if let Ok(joined) = Object::join(&[data, SEEDS[1]], &options) {
        for program in joined.programs.iter().filter_map(|spec| joined.link(spec).ok()) {
            super::program::check_decoded(&program);
        }
    }
    true
}
