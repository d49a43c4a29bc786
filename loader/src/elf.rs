//! An ELF file as a [`Unit`]: sections, symbols and relocations, checked once.
//!
//! goblin reads the parts; what they say about each other is checked here. Sections that hold bytes may not overlap
//! more than a file of their size can explain, so that whatever is copied out of them stays linear in the file.

use std::borrow::Cow;
use std::collections::HashMap;

use goblin::container::{Container, Ctx, Endian};
use goblin::elf::header::header64::Header;
use goblin::elf::{RelocSection, SectionHeader, Symtab, section_header as sh, sym};

use crate::error::Error;

/// `e_machine` of BPF.
const EM_BPF: u16 = 247;
/// `e_machine` of Solana's dialect.
const EM_SBPF: u16 = 263;
/// Bytes of a symbol's name. Linux's longest symbols have 512.
const MAX_NAME: usize = 1024;

/// Sections of code and data in one file. The largest objects have some hundred.
const MAX_SECTIONS: usize = 4096;

const CTX: Ctx = Ctx { container: Container::Big, le: Endian::Little };

/// One file's tables, or several files' joined.
#[derive(Clone, Debug, Default)]
pub(crate) struct Unit<'a> {
    pub sections: Vec<Section<'a>>,
    pub symbols: Vec<Symbol<'a>>,
    /// Named symbols that stand for data, by section; see [`Unit::index`].
    pub data_symbols: HashMap<usize, Vec<usize>>,
}

#[derive(Clone, Debug)]
pub(crate) struct Section<'a> {
    pub name: Cow<'a, str>,
    pub holds: Holds,
    pub writable: bool,
    pub align: u64,
    /// Bytes in memory; more than `bytes` has where the file stores none.
    pub size: u64,
    pub bytes: Cow<'a, [u8]>,
    pub relocs: Vec<Reloc>,
}

/// What a section is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Holds {
    /// Instructions.
    Code,
    /// Bytes that a program sees.
    Data,
    /// Zeroes.
    Zeroes,
    /// Something for tools: BTF, DWARF, tables.
    Other,
}

#[derive(Clone, Debug)]
pub(crate) struct Symbol<'a> {
    pub name: Cow<'a, str>,
    pub at: Place,
    pub value: u64,
    pub size: u64,
    pub kind: SymbolKind,
    pub bind: Bind,
    /// Hidden or internal.
    pub hidden: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// Defined elsewhere.
    Undefined,
    /// In the section with this index.
    Section(usize),
    /// A number, or tentative storage: nothing BPF uses.
    Nowhere,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SymbolKind {
    None,
    Object,
    Function,
    Section,
    Other,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Bind {
    Local,
    Global,
    Weak,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Reloc {
    pub offset: u64,
    pub kind: u32,
    pub symbol: usize,
    /// `None` where the instruction or datum holds it (REL).
    pub addend: Option<i64>,
}

impl<'a> Unit<'a> {
    pub fn read(file: &'a [u8]) -> Result<Unit<'a>, Error> {
        let header = header(file)?;
        let headers = section_headers(file, &header)?;
        let reader = Reader { file, headers };
        let names = reader.names(&header)?;
        let mut unit = Unit { sections: reader.sections(names)?, ..Unit::default() };
        unit.symbols = reader.symbols()?;
        reader.relocs(&mut unit)?;
        Ok(unit)
    }

    /// Sorts data symbols by section.
    pub fn index(&mut self) {
        self.data_symbols.clear();
        for (at, symbol) in self.symbols.iter().enumerate() {
            if let Place::Section(section) = symbol.at
                && !symbol.name.is_empty()
                && matches!(symbol.kind, SymbolKind::Object | SymbolKind::None)
            {
                self.data_symbols.entry(section).or_default().push(at);
            }
        }
    }

    pub fn section(&self, name: &str) -> Option<(usize, &Section<'a>)> {
        self.sections.iter().enumerate().find(|(_, section)| section.name == name)
    }

    /// Bytes of the section called `name`; empty when there is none.
    pub fn bytes(&self, name: &str) -> &[u8] {
        self.section(name).map_or(&[], |(_, section)| &section.bytes)
    }
}

fn truncated(what: impl Into<String>, offset: u64, need: u64, file: &[u8]) -> Error {
    Error::Truncated { what: what.into(), offset, need, have: file.len() as u64 }
}

fn range(file: &[u8], offset: u64, size: u64, what: impl FnOnce() -> String) -> Result<&[u8], Error> {
    let end = offset.checked_add(size).and_then(|end| usize::try_from(end).ok());
    let found = end.and_then(|end| file.get(offset as usize..end));
    found.ok_or_else(|| truncated(what(), offset, size, file))
}

fn header(file: &[u8]) -> Result<Header, Error> {
    let Some((ident, _)) = file.split_first_chunk::<4>() else {
        return Err(Error::NotElf { start: file.to_vec() });
    };
    if ident != b"\x7fELF" {
        return Err(Error::NotElf { start: ident.to_vec() });
    }
    let byte = |at: usize| file.get(at).copied().unwrap_or(0);
    let half = |at| u16::from_le_bytes([byte(at), byte(at + 1)]);
    if byte(4) == 1 {
        return Err(Error::Class32);
    }
    if byte(5) == 2 {
        let machine = half(18).swap_bytes();
        return Err(if machine == EM_BPF { Error::BigEndian } else { Error::Machine { machine } });
    }
    range(file, 0, 64, || "ELF header".into())?;
    let header =
        Header::parse(file).map_err(|error| Error::Damaged { what: "header", index: 0, why: error.to_string() })?;
    match (header.e_machine, header.e_type) {
        (machine @ EM_SBPF, _) | (machine @ EM_BPF, 3) => Err(Error::Solana { machine }),
        // The first compilers wrote no machine.
        (EM_BPF | 0, 1) => Ok(header),
        (EM_BPF | 0, kind) => Err(Error::NotRelocatable { kind }),
        (machine, _) => Err(Error::Machine { machine }),
    }
}

fn section_headers(file: &[u8], header: &Header) -> Result<Vec<SectionHeader>, Error> {
    if header.e_shoff == 0 {
        return Ok(Vec::new());
    }
    let first = range(file, header.e_shoff, 64, || "section header table".into())?;
    let parse = |bytes: &[u8], count| {
        SectionHeader::parse_from(bytes, 0, count, CTX).map_err(|error| Error::Damaged {
            what: "section header",
            index: 0,
            why: error.to_string(),
        })
    };
    // A count of zero says that the true one is in the first header.
    let count = match header.e_shnum {
        0 => parse(first, 1)?.first().map_or(0, |null| null.sh_size),
        count => count.into(),
    };
    let size = count.checked_mul(64).ok_or(Error::Limit { what: "section headers", limit: u64::MAX / 64 })?;
    let table = range(file, header.e_shoff, size, || "section header table".into())?;
    if count == 0 { Ok(Vec::new()) } else { parse(table, count as usize) }
}

/// NUL-terminated text at `offset` of a string table.
fn text(table: &[u8], offset: usize) -> Option<&str> {
    let rest = table.get(offset..)?;
    let end = rest.iter().take(MAX_NAME + 1).position(|&byte| byte == 0)?;
    std::str::from_utf8(rest.get(..end)?).ok()
}

struct Reader<'a> {
    file: &'a [u8],
    headers: Vec<SectionHeader>,
}

impl<'a> Reader<'a> {
    fn header(&self, index: usize, what: &'static str) -> Result<&SectionHeader, Error> {
        self.headers.get(index).ok_or(Error::Damaged { what, index, why: "no such section".into() })
    }

    fn contents(&self, index: usize, what: &'static str) -> Result<&'a [u8], Error> {
        let header = self.header(index, what)?;
        if header.sh_type == sh::SHT_NOBITS || header.sh_type == sh::SHT_NULL {
            return Ok(&[]);
        }
        range(self.file, header.sh_offset, header.sh_size, || format!("{what} (section {index})"))
    }

    fn names(&self, header: &Header) -> Result<&'a [u8], Error> {
        let index = match header.e_shstrndx {
            0xffff => self.headers.first().map_or(0, |null| null.sh_link as usize),
            index => index.into(),
        };
        if self.headers.is_empty() { Ok(&[]) } else { self.contents(index, "section name table") }
    }

    fn sections(&self, names: &'a [u8]) -> Result<Vec<Section<'a>>, Error> {
        let mut sections = Vec::with_capacity(self.headers.len());
        let (mut stored, mut used) = (0u64, 0);
        for (index, header) in self.headers.iter().enumerate() {
            let name = text(names, header.sh_name).ok_or_else(|| Error::Damaged {
                what: "section",
                index,
                why: format!("its name at {:#x} is not text", header.sh_name),
            })?;
            let bytes = self.contents(index, "section contents").map_err(|error| match error {
                Error::Truncated { offset, need, have, .. } => {
                    Error::Truncated { what: format!("section {name}"), offset, need, have }
                }
                error => error,
            })?;
            stored = stored.saturating_add(bytes.len() as u64);
            if stored > self.file.len() as u64 {
                return Err(Error::Damaged { what: "section", index, why: format!("{name} overlaps others") });
            }
            let holds = holds(header, name);
            used += usize::from(holds != Holds::Other);
            if used > MAX_SECTIONS {
                return Err(Error::Limit { what: "sections of code and data", limit: MAX_SECTIONS as u64 });
            }
            sections.push(Section {
                name: name.into(),
                holds,
                writable: header.sh_flags & u64::from(sh::SHF_WRITE) != 0,
                align: header.sh_addralign.max(1),
                size: header.sh_size,
                bytes: bytes.into(),
                relocs: Vec::new(),
            });
        }
        Ok(sections)
    }

    fn symbols(&self) -> Result<Vec<Symbol<'a>>, Error> {
        let of_type = |kind| self.headers.iter().position(|header| header.sh_type == kind);
        let Some(table) = of_type(sh::SHT_SYMTAB) else { return Ok(Vec::new()) };
        let names = self.contents(self.header(table, "symbol table")?.sh_link as usize, "symbol name table")?;
        let wide = match of_type(sh::SHT_SYMTAB_SHNDX) {
            Some(index) => self.contents(index, "extended section indices")?.as_chunks::<4>().0,
            None => &[],
        };
        let bytes = self.contents(table, "symbol table")?;
        let count = bytes.len() / 24;
        if count == 0 {
            return Ok(Vec::new());
        }
        let parsed = Symtab::parse(bytes, 0, count, CTX).map_err(|error| Error::Damaged {
            what: "symbol table",
            index: table,
            why: error.to_string(),
        })?;
        let mut symbols = Vec::with_capacity(count);
        // Names share bytes at most as often as tails of other names do.
        let most = names.len().saturating_mul(4).saturating_add(1 << 20);
        let mut named = 0;
        for (index, raw) in parsed.iter().enumerate() {
            let name = text(names, raw.st_name).ok_or_else(|| Error::Damaged {
                what: "symbol",
                index,
                why: format!("its name at {:#x} is not text of at most {MAX_NAME} bytes", raw.st_name),
            })?;
            named += name.len();
            if named > most {
                return Err(Error::Limit { what: "bytes of symbol names", limit: most as u64 });
            }
            let at = match u32::try_from(raw.st_shndx).unwrap_or(u32::MAX) {
                sh::SHN_UNDEF => Place::Undefined,
                sh::SHN_XINDEX => match wide.get(index) {
                    Some(section) => self.place(index, u32::from_le_bytes(*section))?,
                    None => Place::Nowhere,
                },
                section if section >= sh::SHN_LORESERVE => Place::Nowhere,
                section => self.place(index, section)?,
            };
            symbols.push(Symbol {
                name: name.into(),
                at,
                value: raw.st_value,
                size: raw.st_size,
                kind: match sym::st_type(raw.st_info) {
                    sym::STT_NOTYPE => SymbolKind::None,
                    sym::STT_OBJECT => SymbolKind::Object,
                    sym::STT_FUNC => SymbolKind::Function,
                    sym::STT_SECTION => SymbolKind::Section,
                    _ => SymbolKind::Other,
                },
                bind: match sym::st_bind(raw.st_info) {
                    sym::STB_LOCAL => Bind::Local,
                    sym::STB_WEAK => Bind::Weak,
                    _ => Bind::Global,
                },
                hidden: matches!(sym::st_visibility(raw.st_other), sym::STV_HIDDEN | sym::STV_INTERNAL),
            });
        }
        Ok(symbols)
    }

    fn place(&self, symbol: usize, section: u32) -> Result<Place, Error> {
        match self.headers.get(section as usize) {
            Some(_) => Ok(Place::Section(section as usize)),
            None => {
                let why = format!("it lies in section {section}, which does not exist");
                Err(Error::Damaged { what: "symbol", index: symbol, why })
            }
        }
    }

    fn relocs(&self, unit: &mut Unit<'a>) -> Result<(), Error> {
        for (index, header) in self.headers.iter().enumerate() {
            let is_rela = match header.sh_type {
                sh::SHT_REL => false,
                sh::SHT_RELA => true,
                _ => continue,
            };
            let bytes = self.contents(index, "relocation section")?;
            let parsed = RelocSection::parse(bytes, 0, bytes.len(), is_rela, CTX).map_err(|error| Error::Damaged {
                what: "relocation section",
                index,
                why: error.to_string(),
            })?;
            let symbols = unit.symbols.len();
            let Some(target) = unit.sections.get_mut(header.sh_info as usize) else {
                let why = format!("it is for section {}, which does not exist", header.sh_info);
                return Err(Error::Damaged { what: "relocation section", index, why });
            };
            target.relocs.reserve(parsed.len());
            for raw in parsed.iter() {
                if raw.r_sym >= symbols {
                    return Err(Error::Reloc {
                        section: target.name.to_string(),
                        offset: raw.r_offset,
                        kind: raw.r_type,
                        symbol: format!("symbol {}", raw.r_sym),
                        why: format!("the file has {symbols} symbols"),
                    });
                }
                target.relocs.push(Reloc {
                    offset: raw.r_offset,
                    kind: raw.r_type,
                    symbol: raw.r_sym,
                    addend: if is_rela { Some(raw.r_addend.unwrap_or(0)) } else { None },
                });
            }
        }
        Ok(())
    }
}

fn holds(header: &SectionHeader, name: &str) -> Holds {
    let allocated = header.sh_flags & u64::from(sh::SHF_ALLOC) != 0;
    match header.sh_type {
        sh::SHT_PROGBITS if header.sh_flags & u64::from(sh::SHF_EXECINSTR) != 0 => Holds::Code,
        sh::SHT_PROGBITS if allocated && !name.starts_with(".BTF") => Holds::Data,
        // Sections that tools read by name need not be allocated.
        sh::SHT_PROGBITS if matches!(name, "license" | "version" | "maps" | ".maps") => Holds::Data,
        sh::SHT_NOBITS => Holds::Zeroes,
        _ => Holds::Other,
    }
}
