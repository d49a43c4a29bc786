//! An object file for debuggers: the symbols and source lines of code that lies in memory already.
//!
//! ELF64 with section addresses that are final, DWARF 4 without relocations: `.text` has no bytes here.

use object::elf;

use super::Seen;
use crate::code::Arch;

/// Names, addresses and contents of sections; numbers follow the order.
struct Section {
    name: &'static str,
    kind: elf::SectionType,
    flags: u64,
    address: u64,
    /// What it says of its size where it has no bytes.
    size: u64,
    link: u32,
    info: u32,
    entry: u64,
    bytes: Vec<u8>,
}

impl Section {
    fn new(name: &'static str, kind: elf::SectionType, bytes: Vec<u8>) -> Section {
        let size = bytes.len() as u64;
        Section { name, kind, flags: 0, address: 0, size, link: 0, info: 0, entry: 0, bytes }
    }
}

const TEXT: u16 = 1;
const STRINGS: u32 = 3;
#[cfg(target_arch = "aarch64")]
const MACHINE: u16 = elf::EM_AARCH64.0;
#[cfg(not(target_arch = "aarch64"))]
const MACHINE: u16 = elf::EM_X86_64.0;

pub(super) fn symfile(seen: &Seen<'_>) -> Vec<u8> {
    let text = Section {
        flags: (elf::SHF_ALLOC | elf::SHF_EXECINSTR).0,
        address: seen.base as u64,
        size: seen.image.len() as u64,
        ..Section::new(".text", elf::SHT_NOBITS, Vec::new())
    };
    let (symbols, strings) = symbols(seen);
    let symtab = Section { link: STRINGS, info: 1, entry: 24, ..Section::new(".symtab", elf::SHT_SYMTAB, symbols) };
    let data = |name, bytes| Section::new(name, elf::SHT_PROGBITS, bytes);
    let sections = [
        Section::new("", elf::SHT_NULL, Vec::new()),
        text,
        symtab,
        Section::new(".strtab", elf::SHT_STRTAB, strings),
        data(".debug_abbrev", ABBREVIATIONS.to_vec()),
        data(".debug_info", info(seen)),
        data(".debug_line", lines(seen)),
        data(".debug_frame", frames(seen)),
        Section::new(".shstrtab", elf::SHT_STRTAB, Vec::new()),
    ];
    assemble(sections.into())
}

fn frames(seen: &Seen<'_>) -> Vec<u8> {
    let arch = Arch::host();
    arch.map_or(Vec::new(), |arch| super::frames::frames(arch, seen.base, seen.image.len(), seen.unwind))
}

const HEADER: usize = 64;
const SECTION_HEADER: usize = 64;

fn assemble(mut sections: Vec<Section>) -> Vec<u8> {
    let mut names = Vec::new();
    let places: Vec<u32> = sections.iter().map(|section| add_string(&mut names, section.name)).collect();
    if let Some(last) = sections.last_mut() {
        (last.size, last.bytes) = (names.len() as u64, names);
    }
    let table = sections.iter().fold(HEADER, |at, section| (at + section.bytes.len()).next_multiple_of(8));
    let mut file = Vec::with_capacity(table + sections.len() * SECTION_HEADER);
    file.extend([0x7f, b'E', b'L', b'F', elf::ELFCLASS64.0, elf::ELFDATA2LSB.0, elf::EV_CURRENT.0, 0]);
    file.extend([0; 8]);
    file.extend(elf::ET_REL.0.to_le_bytes());
    file.extend(MACHINE.to_le_bytes());
    file.extend(u32::from(elf::EV_CURRENT.0).to_le_bytes());
    file.extend([0; 16]);
    file.extend((table as u64).to_le_bytes());
    file.extend([0; 4]);
    for half in [HEADER as u16, 0, 0, SECTION_HEADER as u16, sections.len() as u16, sections.len() as u16 - 1] {
        file.extend(half.to_le_bytes());
    }
    let mut headers = Vec::new();
    for (section, name) in sections.iter().zip(places) {
        let offset = if section.kind == elf::SHT_NULL { 0 } else { file.len() as u64 };
        headers.extend(name.to_le_bytes());
        headers.extend(section.kind.0.to_le_bytes());
        for word in [section.flags, section.address, offset, section.size] {
            headers.extend(word.to_le_bytes());
        }
        headers.extend(section.link.to_le_bytes());
        headers.extend(section.info.to_le_bytes());
        headers.extend(1u64.to_le_bytes());
        headers.extend(section.entry.to_le_bytes());
        file.extend(&section.bytes);
        file.resize(file.len().next_multiple_of(8), 0);
    }
    file.extend(headers);
    file
}

/// Appends a string with its end, and answers its place.
fn add_string(strings: &mut Vec<u8>, string: &str) -> u32 {
    let at = strings.len() as u32;
    strings.extend(string.bytes().filter(|byte| *byte != 0));
    strings.push(0);
    at
}

/// The symbol table and its strings.
fn symbols(seen: &Seen<'_>) -> (Vec<u8>, Vec<u8>) {
    let (mut table, mut strings) = (vec![0; 24], vec![0]);
    for (range, name) in &seen.functions {
        table.extend(add_string(&mut strings, name).to_le_bytes());
        table.extend([elf::STB_GLOBAL.0 << 4 | elf::STT_FUNC.0, 0]);
        table.extend(TEXT.to_le_bytes());
        table.extend(((range.start - seen.base) as u64).to_le_bytes());
        table.extend(((range.end - range.start) as u64).to_le_bytes());
    }
    (table, strings)
}

/// Two kinds of entries: the unit (producer, language, name, folder, addresses, lines), and functions (name, addresses).
#[rustfmt::skip]
const ABBREVIATIONS: &[u8] = &[
    1, 0x11, 1, 0x25, 0x08, 0x13, 0x05, 0x03, 0x08, 0x1b, 0x08, 0x11, 0x01, 0x12, 0x07, 0x10, 0x17, 0, 0,
    2, 0x2e, 0, 0x03, 0x08, 0x11, 0x01, 0x12, 0x07, 0, 0,
    0,
];

fn info(seen: &Seen<'_>) -> Vec<u8> {
    /// DW_LANG_C99.
    const LANGUAGE: u16 = 0x0c;
    let mut unit = Vec::new();
    unit.extend(4u16.to_le_bytes());
    unit.extend(0u32.to_le_bytes());
    unit.push(8);
    unit.push(1);
    add_string(&mut unit, "rtbpf");
    unit.extend(LANGUAGE.to_le_bytes());
    add_string(&mut unit, seen.lines.first().map_or("", |(_, line)| &line.file));
    add_string(&mut unit, "");
    unit.extend((seen.base as u64).to_le_bytes());
    unit.extend((seen.image.len() as u64).to_le_bytes());
    unit.extend(0u32.to_le_bytes());
    for (range, name) in &seen.functions {
        unit.push(2);
        add_string(&mut unit, name);
        unit.extend((range.start as u64).to_le_bytes());
        unit.extend(((range.end - range.start) as u64).to_le_bytes());
    }
    unit.push(0);
    with_length(unit)
}

fn with_length(unit: Vec<u8>) -> Vec<u8> {
    [&(unit.len() as u32).to_le_bytes()[..], &unit].concat()
}

/// The line program: for each line its address, file, column and number.
fn lines(seen: &Seen<'_>) -> Vec<u8> {
    const COPY: u8 = 1;
    const ADVANCE_LINE: u8 = 3;
    const SET_FILE: u8 = 4;
    const SET_COLUMN: u8 = 5;
    let mut files: Vec<&str> = Vec::new();
    let mut program = Vec::new();
    let set_address = |program: &mut Vec<u8>, address: usize| {
        program.extend([0, 9, 2]);
        program.extend((address as u64).to_le_bytes());
    };
    let mut number = 1;
    for (address, line) in &seen.lines {
        let file = files.iter().position(|known| *known == &*line.file).unwrap_or_else(|| {
            files.push(&line.file);
            files.len() - 1
        });
        set_address(&mut program, *address);
        program.push(SET_FILE);
        unsigned(&mut program, file as u64 + 1);
        program.push(SET_COLUMN);
        unsigned(&mut program, line.column.into());
        program.push(ADVANCE_LINE);
        signed(&mut program, i64::from(line.line) - number);
        number = i64::from(line.line);
        program.push(COPY);
    }
    set_address(&mut program, seen.base + seen.image.len());
    program.extend([0, 1, 1]);

    // One byte an instruction, one operation each, statements, line base and range, standard opcodes and their operands.
    let mut header = vec![1, 1, 1, -5i8 as u8, 14, 13, 0, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 1];
    header.push(0);
    for file in files {
        add_string(&mut header, file);
        header.extend([0, 0, 0]);
    }
    header.push(0);
    let mut unit = Vec::new();
    unit.extend(4u16.to_le_bytes());
    unit.extend((header.len() as u32).to_le_bytes());
    unit.extend(header);
    unit.extend(program);
    with_length(unit)
}

/// LEB128 (DWARF 4, 7.6).
pub(super) fn unsigned(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

fn signed(bytes: &mut Vec<u8>, mut value: i64) {
    while !(-64..64).contains(&value) {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8 & 0x7f);
}
