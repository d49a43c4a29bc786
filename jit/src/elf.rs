//! Native code as an object file, for the linker of a C or Rust program.
//!
//! ```text
//! prog_NAME(ctx, frame)   defined: sets frame.ctx, then goes on as
//! entry_NAME(frame)       defined: the program's entry, where tail calls go
//! rtbpf_helper_ID         undefined: a HelperFn
//! rtbpf_map_NAME          undefined: what a register holds after a wide load of the map
//! rtbpf_value_NAME        undefined: the first byte of the map's first value
//! rtbpf_packet_load, rtbpf_tail_call
//! ```
//!
//! `include/rtbpf.h` has the types. Maps have absolute addresses in the code: link such objects with `-no-pie`.

use std::collections::HashMap;

use object::elf;
use object::write::{Object, Relocation, StandardSection, Symbol as ElfSymbol, SymbolId, SymbolSection};
use object::{
    Architecture, BinaryFormat, Endianness, RelocationFlags, SectionKind, SymbolFlags, SymbolKind, SymbolScope,
};
use rtbpf_isa::MapIdx;

use crate::code::{Arch, Code, RelocKind, Symbol};

/// Why there is no object file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum ElfError {
    #[error("`{program}` uses {symbol:?}, which has no name outside this process")]
    Nameless { program: String, symbol: Symbol },
    #[error("`{program}` is code for {found:?} among code for {wanted:?}")]
    MixedArch { program: String, found: Arch, wanted: Arch },
    #[error("object file: {0}")]
    Write(#[from] object::write::Error),
}

/// Functions of an object begin at multiples of this.
const ALIGN: u64 = 64;

/// An ELF object of named programs. `map_name` names maps as the programs number them.
pub fn object_file(
    arch: Arch,
    programs: &[(&str, &Code)],
    map_name: &dyn Fn(MapIdx) -> Option<String>,
) -> Result<Vec<u8>, ElfError> {
    let architecture = match arch {
        Arch::X86_64 => Architecture::X86_64,
        Arch::Aarch64 => Architecture::Aarch64,
    };
    let mut object = Object::new(BinaryFormat::Elf, architecture, Endianness::Little);
    let text = object.section_id(StandardSection::Text);
    // Without it linkers make the stack executable.
    object.add_section(Vec::new(), b".note.GNU-stack".to_vec(), SectionKind::Other);
    let mut undefined = HashMap::new();
    for (name, code) in programs {
        let program = || String::from(*name);
        if code.arch != arch {
            return Err(ElfError::MixedArch { program: program(), found: code.arch, wanted: arch });
        }
        let start = entry(arch, code.entry);
        let stub = start.len() as u64;
        let place = object.append_section_data(text, &start, ALIGN);
        let body = object.append_section_data(text, &code.bytes, 1);
        debug_assert_eq!(body, place + stub);
        let section = SymbolSection::Section(text);
        let size = stub + code.bytes.len() as u64;
        object.add_symbol(function(format!("prog_{name}"), section, place, size));
        let (entry, behind) = (u64::from(code.entry), code.bytes.len() as u64 - u64::from(code.entry));
        object.add_symbol(function(format!("entry_{name}"), section, body + entry, behind));
        for reloc in &code.relocs {
            let nameless = || ElfError::Nameless { program: program(), symbol: reloc.symbol };
            let (name, off) = outside(reloc.symbol, map_name).ok_or_else(nameless)?;
            let symbol = *undefined
                .entry(name)
                .or_insert_with_key(|name| object.add_symbol(function(name.clone(), SymbolSection::Undefined, 0, 0)));
            for relocation in relocations(reloc.kind, body + u64::from(reloc.offset), symbol, i64::from(off)) {
                object.add_relocation(text, relocation)?;
            }
        }
    }
    Ok(object.write()?)
}

/// Makes an entry of one that gets the context beside the frame; bytes of a whole alignment.
fn entry(arch: Arch, entry: u32) -> [u8; ALIGN as usize] {
    let mut bytes = [0; ALIGN as usize];
    let stub: [u8; 12] = match arch {
        Arch::X86_64 => {
            // mov [rsi], rdi; mov rdi, rsi; jmp entry, which is counted from the jump's end; int3
            let [a, b, c, d] = (entry + ALIGN as u32 - 11).to_le_bytes();
            [0x48, 0x89, 0x3e, 0x48, 0x89, 0xf7, 0xe9, a, b, c, d, 0xcc]
        }
        Arch::Aarch64 => {
            // str x0, [x1]; mov x0, x1; b entry, which is counted from the branch, in words
            let [a, b, c, d] = (0x1400_0000 | ((entry + ALIGN as u32 - 8) >> 2)).to_le_bytes();
            [0x20, 0x00, 0x00, 0xf9, 0xe0, 0x03, 0x01, 0xaa, a, b, c, d]
        }
    };
    bytes[..stub.len()].copy_from_slice(&stub);
    bytes
}

const _: () = assert!(crate::abi::Slot::Ctx.offset() == 0, "the stubs store the context at the frame's first byte");

fn function(name: String, section: SymbolSection, value: u64, size: u64) -> ElfSymbol {
    ElfSymbol {
        name: name.into_bytes(),
        value,
        size,
        kind: if section == SymbolSection::Undefined { SymbolKind::Unknown } else { SymbolKind::Text },
        scope: SymbolScope::Dynamic,
        weak: false,
        section,
        flags: SymbolFlags::None,
    }
}

/// The name of what lies outside the code, and a distance from it.
fn outside(symbol: Symbol, map_name: &dyn Fn(MapIdx) -> Option<String>) -> Option<(String, u32)> {
    match symbol {
        Symbol::Helper(id) => Some((format!("rtbpf_helper_{id}"), 0)),
        Symbol::Map(map) => Some((format!("rtbpf_map_{}", map_name(map)?), 0)),
        Symbol::MapValue { map, off } => Some((format!("rtbpf_value_{}", map_name(map)?), off)),
        Symbol::PacketLoad => Some(("rtbpf_packet_load".into(), 0)),
        Symbol::TailCall => Some(("rtbpf_tail_call".into(), 0)),
        Symbol::Kfunc { .. } | Symbol::Var { .. } => None,
    }
}

fn relocations(kind: RelocKind, offset: u64, symbol: SymbolId, addend: i64) -> Vec<Relocation> {
    let one = |offset, r_type, addend| Relocation { offset, symbol, addend, flags: RelocationFlags::Elf { r_type } };
    match kind {
        RelocKind::Abs64 => vec![one(offset, elf::R_X86_64_64, addend)],
        RelocKind::Call32 => vec![one(offset, elf::R_X86_64_PLT32, addend - 4)],
        RelocKind::Call26 => vec![one(offset, elf::R_AARCH64_CALL26, addend)],
        RelocKind::Mov64 => vec![
            one(offset, elf::R_AARCH64_MOVW_UABS_G0_NC, addend),
            one(offset + 4, elf::R_AARCH64_MOVW_UABS_G1_NC, addend),
            one(offset + 8, elf::R_AARCH64_MOVW_UABS_G2_NC, addend),
            one(offset + 12, elf::R_AARCH64_MOVW_UABS_G3, addend),
        ],
    }
}
