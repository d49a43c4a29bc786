//! Objects with bytes changed, cut or doubled, and a few built to be nasty: typed errors, in time, without a panic.

use std::time::{Duration, Instant};

use object::write::{Object as Writer, Relocation, StandardSection, Symbol, SymbolSection};
use object::{Architecture, BinaryFormat, Endianness, RelocationFlags, SymbolFlags, SymbolKind, SymbolScope};
use rtbpf_loader::{Error, Object, ParseOptions};

fn examples() -> Vec<Vec<u8>> {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples");
    let mut paths: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|ext| ext == "o"));
    paths.sort();
    assert!(paths.len() >= 7);
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

fn load(bytes: &[u8]) -> Result<Object, Error> {
    let object = Object::parse(bytes, &ParseOptions::default())?;
    for program in &object.programs {
        object.link(program)?;
    }
    Ok(object)
}

#[test]
fn any_prefix_of_an_object_is_refused_or_loads() {
    for object in examples() {
        for len in 0..object.len() {
            let _ = load(&object[..len]);
        }
        assert!(load(&object).is_ok());
    }
}

#[test]
fn changed_words_never_panic() {
    let seed = 0x2545_f491_4f6c_dd1d;
    println!("seed {seed}");
    let mut state: u64 = seed;
    let mut next = |end: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % end as u64) as usize
    };
    let edges = [0u32, 1, 7, 8, 0x7f, 0xff, 0xffff, 0x7fff_ffff, u32::MAX];
    for object in examples() {
        for _ in 0..1500 {
            let mut bytes = object.clone();
            for _ in 0..=next(4) {
                let at = next(bytes.len() - 3) & !3;
                let word = if next(2) == 0 { edges[next(edges.len())] } else { next(bytes.len()) as u32 };
                bytes[at..at + 4].copy_from_slice(&word.to_le_bytes());
            }
            let _ = load(&bytes);
        }
    }
}

/// `mov r0, 0; exit`.
const RETURN_0: [u8; 16] = [0xb7, 0, 0, 0, 0, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0];

fn writer() -> Writer<'static> {
    Writer::new(BinaryFormat::Elf, Architecture::Bpf, Endianness::Little)
}

fn symbol(name: &str, section: SymbolSection, value: u64, size: u64) -> Symbol {
    Symbol {
        name: name.into(),
        value,
        size,
        kind: SymbolKind::Text,
        scope: SymbolScope::Dynamic,
        weak: false,
        section,
        flags: SymbolFlags::None,
    }
}

/// An object of one XDP section with these symbols.
fn with_symbols(code: &[u8], symbols: &[(&str, u64, u64)]) -> Vec<u8> {
    let mut w = writer();
    let section = w.add_section(Vec::new(), b"xdp".to_vec(), object::SectionKind::Text);
    w.append_section_data(section, code, 8);
    for &(name, value, size) in symbols {
        w.add_symbol(symbol(name, SymbolSection::Section(section), value, size));
    }
    w.write().unwrap()
}

#[test]
fn functions_must_lie_on_instructions_of_their_section() {
    let check = |code: &[u8], symbol, part: &str| {
        let error = load(&with_symbols(code, &[symbol])).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    check(&RETURN_0, ("f", 4, 8), "within an instruction");
    check(&RETURN_0, ("f", 8, 16), "does not lie in the section's 16 bytes");
    check(&RETURN_0, ("f", u64::MAX - 7, 16), "does not lie in the section's 16 bytes");
    check(&RETURN_0[..12], ("f", 0, 8), "code ends within an instruction");
    assert!(load(&with_symbols(&RETURN_0, &[("f", 0, 16), ("alias", 0, 16)])).is_ok());
}

#[test]
fn files_that_are_no_bpf_objects_say_what_they_are() {
    let good = with_symbols(&RETURN_0, &[("f", 0, 16)]);
    let changed = |at: usize, bytes: &[u8]| {
        let mut file = good.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        load(&file).unwrap_err()
    };
    assert_eq!(load(b""), Err(Error::NotElf { start: vec![] }));
    assert_eq!(load(b"\x89PNG\r\n"), Err(Error::NotElf { start: vec![0x89, b'P', b'N', b'G'] }));
    assert_eq!(changed(4, &[1]), Error::Class32);
    assert_eq!(changed(18, &[62, 0]), Error::Machine { machine: 62 });
    assert_eq!(changed(18, &[7, 1]), Error::Solana { machine: 263 });
    assert_eq!(changed(16, &[3]), Error::Solana { machine: 247 });
    assert_eq!(changed(16, &[2]), Error::NotRelocatable { kind: 2 });
    let mut big = good.clone();
    (big[5], big[18], big[19]) = (2, 0, 247);
    assert_eq!(load(&big), Err(Error::BigEndian));
    assert!(matches!(load(&good[..100]), Err(Error::Truncated { .. })));
}

#[test]
fn relocations_outside_instructions_are_refused() {
    let reloc = |offset, kind| {
        let mut w = writer();
        let section = w.add_section(Vec::new(), b"xdp".to_vec(), object::SectionKind::Text);
        w.append_section_data(section, &RETURN_0, 8);
        w.add_symbol(symbol("f", SymbolSection::Section(section), 0, 16));
        let to = w.add_symbol(symbol("to", SymbolSection::Section(section), 0, 16));
        let flags = RelocationFlags::Elf { r_type: object::elf::RelocationType(kind) };
        w.add_relocation(section, Relocation { offset, symbol: to, addend: 0, flags }).unwrap();
        load(&w.write().unwrap()).map(|_| ()).unwrap_err().to_string()
    };
    assert!(reloc(4, 10).contains("not at the start of an instruction"));
    assert!(reloc(16, 10).contains("beyond the section's last instruction"));
    assert!(reloc(0, 10).contains("cannot take it"));
    assert!(reloc(0, 99).contains("instructions have no such relocation"));
}

/// `count` functions of a section that each call the next two, and one of the last that calls the first.
#[test]
fn read_only_data_that_the_file_does_not_hold_is_refused() {
    let sized = |name: &[u8], size: u64| {
        let mut w = writer();
        let code = w.add_section(Vec::new(), b"xdp".to_vec(), object::SectionKind::Text);
        w.append_section_data(code, &RETURN_0, 8);
        w.add_symbol(symbol("f", SymbolSection::Section(code), 0, 16));
        let zeroes = w.add_section(Vec::new(), name.to_vec(), object::SectionKind::UninitializedData);
        w.append_section_bss(zeroes, size, 8);
        load(&w.write().unwrap())
    };
    assert!(sized(b".bss", 0x7fff_fff8).is_ok());
    let error = sized(b".rodata", 0x7fff_fff8).unwrap_err().to_string();
    assert!(error.contains("2147483640 read-only bytes that the file does not hold"), "{error}");
}

#[test]
fn many_functions_cost_linear_time() {
    let count = 20_000u32;
    let mut w = writer();
    let text = w.section_id(StandardSection::Text);
    let mut code = Vec::new();
    for at in 0..count {
        for to in [at + 1, at + 2] {
            let here = (code.len() / 8) as i64;
            let imm = (i64::from(to % count) * 3 - here - 1) as i32;
            code.extend([0x85, 0x10, 0, 0]);
            code.extend(imm.to_le_bytes());
        }
        code.extend([0x95, 0, 0, 0, 0, 0, 0, 0]);
    }
    w.append_section_data(text, &code, 8);
    for at in 0..count {
        w.add_symbol(symbol(&format!("f{at}"), SymbolSection::Section(text), u64::from(at) * 24, 24));
    }
    let bytes = w.write().unwrap();
    let start = Instant::now();
    let object = Object::parse(&bytes, &ParseOptions::default()).unwrap();
    let linked = object.link_named("f0").unwrap();
    assert_eq!(linked.len(), count as usize * 3);
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

#[test]
fn symbols_that_share_one_long_name_are_refused() {
    let name = "x".repeat(5000);
    let error = load(&with_symbols(&RETURN_0, &[(&name, 0, 16)])).unwrap_err();
    assert!(matches!(error, Error::Damaged { what: "symbol", .. }), "{error}");
}

#[test]
fn many_symbols_that_share_one_name_are_refused() {
    let name = "x".repeat(1000);
    let symbols = vec![(name.as_str(), 0, 16); 3000];
    let error = load(&with_symbols(&RETURN_0, &symbols)).unwrap_err();
    assert!(matches!(error, Error::Limit { what: "bytes of symbol names", .. }), "{error}");
}
