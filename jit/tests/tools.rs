//! What profilers and debuggers are told, read back as they read it.

mod harness;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use harness::*;
use object::{Object, ObjectSection, ObjectSymbol};
use rtbpf_isa::Operand::Imm as I;
use rtbpf_isa::*;
use rtbpf_jit::{Native, Options, Tools, publish};

/// Two functions on three lines of one file.
fn told() -> (Program, Native) {
    let mov = |dst, value| Insn::Alu { op: AluOp::Mov, width: Width::W64, dst, src: I(value) };
    let insns = [mov(Reg::R1, 1), Insn::Call(Callee::Local { to: 1 }), Insn::Exit, mov(Reg::R0, 7), Insn::Exit];
    let mut named = program(&insns);
    let line = |at, line, text: &str| SourceLine {
        at: InsnIdx(at),
        file: Arc::from("src/told.bpf.c"),
        line,
        column: 2,
        text: Arc::from(text),
    };
    named.set_lines(vec![line(0, 10, "int one = 1;"), line(1, 11, "return seven(one);"), line(3, 4, "return 7;")]);
    named.subprogs_mut()[1].name = Some(Arc::from("seven"));
    // The one-pass tier: each instruction has code of its own.
    let code = code(&insns, &Options { optimise: None, ..Options::host().expect("the caller asked") });
    (named, publish(&[&code], &TestLinker).expect("publishes").remove(0))
}

fn has_native_code() -> bool {
    Options::host().is_some()
}

#[test]
fn perfs_map_names_every_function() {
    if !has_native_code() {
        return;
    }
    let (program, native) = told();
    let tools = Tools { perf_map: true, ..Tools::default() };
    tools.show(&native, "mapped", &program).expect("/tmp is writable");
    let path = format!("/tmp/perf-{}.map", std::process::id());
    let text = std::fs::read_to_string(&path).expect("it was written");
    std::fs::remove_file(path).expect("it is ours");
    let rows: Vec<(usize, usize, &str)> = text
        .lines()
        .filter(|line| line.contains("bpf_prog_mapped"))
        .map(|line| {
            let mut words = line.splitn(3, ' ');
            let mut number = || usize::from_str_radix(words.next().expect("a number"), 16).expect("hexadecimal");
            (number(), number(), words.next().expect("a name"))
        })
        .collect();
    let [(start, bytes, "bpf_prog_mapped"), (inner, more, "bpf_prog_mapped.seven")] = rows[..] else {
        panic!("{text}");
    };
    assert_eq!((start, start + bytes, bytes + more), (native.base(), inner, native.code_bytes()));
}

/// Little-endian numbers and strings, one after the other.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        taken
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take(4).try_into().expect("four bytes"))
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take(8).try_into().expect("eight bytes"))
    }

    fn string(&mut self) -> &'a str {
        let end = self.0.iter().position(|byte| *byte == 0).expect("an end");
        let text = std::str::from_utf8(self.take(end)).expect("text");
        self.take(1);
        text
    }
}

#[test]
fn the_jitdump_holds_code_and_lines() {
    if !has_native_code() {
        return;
    }
    let folder = std::env::temp_dir().join(format!("rtbpf-jitdump-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("the temporary folder is writable");
    let tools = Tools { jitdump: Some(folder.clone()), ..Tools::default() };
    let (program, native) = told();
    tools.show(&native, "first", &program).expect("the folder is writable");
    let (again, other) = told();
    tools.show(&other, "second", &again).expect("the folder is writable");
    let bytes = std::fs::read(folder.join(format!("jit-{}.dump", std::process::id()))).expect("it was written");
    std::fs::remove_dir_all(&folder).expect("it is ours");

    let mut file = Reader(&bytes);
    assert_eq!((file.u32(), file.u32(), file.u32()), (0x4a69_5444, 1, 40));
    let machine = file.u32();
    assert_eq!(machine, if cfg!(target_arch = "aarch64") { 183 } else { 62 });
    assert_eq!((file.u32(), file.u32()), (0, std::process::id()));
    let begun = file.u64();
    assert_eq!(file.u64(), 0);
    let (mut lines, mut functions, mut last) = (HashMap::new(), Vec::new(), begun);
    while !file.0.is_empty() {
        let (kind, size, time) = (file.u32(), file.u32(), file.u64());
        assert!(time >= last, "times go forward");
        last = time;
        let mut body = Reader(file.take(size as usize - 16));
        match kind {
            0 => {
                assert_eq!(body.u32(), std::process::id());
                let (_thread, vma, address, bytes, index) =
                    (body.u32(), body.u64(), body.u64(), body.u64(), body.u64());
                assert_eq!((vma, index), (address, functions.len() as u64));
                let name = body.string().to_string();
                assert_eq!(body.0.len() as u64, bytes);
                functions.push((name, address, body.0.to_vec()));
            }
            2 => {
                let (address, count) = (body.u64(), body.u64());
                let entry = |body: &mut Reader<'_>| (body.u64(), body.u32(), body.u32(), body.string().to_string());
                let entries: Vec<_> = (0..count).map(|_| entry(&mut body)).collect();
                assert!(body.0.is_empty() && functions.iter().all(|(_, known, _)| *known != address));
                lines.insert(address, entries);
            }
            other => panic!("record {other}"),
        }
    }
    let names: Vec<&str> = functions.iter().map(|(name, ..)| name.as_str()).collect();
    assert_eq!(names, ["bpf_prog_first", "bpf_prog_first.seven", "bpf_prog_second", "bpf_prog_second.seven"]);
    assert_eq!(functions[0].1, native.base() as u64);
    let code: Vec<u8> = functions[..2].iter().flat_map(|(_, _, code)| code.clone()).collect();
    assert_eq!(code.len(), native.code_bytes());
    // SAFETY: published code is readable, and not written to.
    let published = unsafe { std::slice::from_raw_parts(native.base() as *const u8, code.len()) };
    assert_eq!(code, published);
    let numbers = |function: usize| lines[&functions[function].1].iter().map(|entry| entry.1).collect::<Vec<_>>();
    assert_eq!((numbers(0), numbers(1), numbers(3)), (vec![10, 11], vec![4], vec![4]));
    assert!(lines.values().flatten().all(|(.., discriminator, file)| *discriminator == 0 && file == "src/told.bpf.c"));
}

/// GDB's side of its interface.
#[repr(C)]
struct Entry {
    next: *const Entry,
    prev: *const Entry,
    symfile: *const u8,
    bytes: u64,
}

#[repr(C)]
struct Descriptor {
    version: u32,
    action: u32,
    relevant: *const Entry,
    first: *const Entry,
}

unsafe extern "C" {
    static __jit_debug_descriptor: Descriptor;
}

/// The object files on GDB's list.
fn listed() -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    // SAFETY: only the test below changes the list; entries on it are alive.
    unsafe {
        let descriptor = (&raw const __jit_debug_descriptor).read_volatile();
        assert_eq!(descriptor.version, 1);
        let (mut at, mut before) = (descriptor.first, std::ptr::null());
        while let Some(entry) = at.as_ref() {
            assert_eq!(entry.prev, before);
            found.push(std::slice::from_raw_parts(entry.symfile, entry.bytes as usize).to_vec());
            (before, at) = (at, entry.next);
        }
    }
    found
}

#[test]
fn gdbs_list_holds_symbols_and_lines_while_the_code_lives() {
    if !has_native_code() {
        return;
    }
    let tools = Tools { gdb: true, ..Tools::default() };
    assert!(listed().is_empty());
    let (program, native) = told();
    tools.show(&native, "first", &program).expect("no file is involved");
    let (again, other) = told();
    tools.show(&other, "second", &again).expect("no file is involved");
    let files = listed();
    assert_eq!(files.len(), 2);
    let base = native.base() as u64;

    let file = object::File::parse(&*files[1]).expect("an object file");
    let text = file.section_by_name(".text").expect("code");
    assert_eq!((text.address(), text.size()), (base, native.code_bytes() as u64));
    let symbols: Vec<(String, u64)> =
        file.symbols().filter_map(|symbol| Some((symbol.name().ok()?.to_string(), symbol.size()))).collect();
    let names: Vec<&str> = symbols.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["bpf_prog_first", "bpf_prog_first.seven"]);
    assert_eq!(symbols.iter().map(|(_, size)| size).sum::<u64>(), text.size());

    let section = |id: gimli::SectionId| -> Result<_, gimli::Error> {
        let data = file.section_by_name(id.name()).and_then(|section| section.data().ok()).unwrap_or_default();
        Ok(gimli::EndianSlice::new(data, gimli::LittleEndian))
    };
    let dwarf = gimli::Dwarf::load(section).expect("DWARF");
    let header = dwarf.units().next().expect("it parses").expect("a unit");
    let unit = dwarf.unit(header).expect("it parses");
    let mut entries = unit.entries();
    let mut functions = Vec::new();
    while let Some(entry) = entries.next_dfs().expect("it parses") {
        if entry.tag() == gimli::DW_TAG_subprogram {
            let name = entry.attr_value(gimli::DW_AT_name).expect("a name");
            functions.push(dwarf.attr_string(&unit, name).expect("a string").to_string_lossy().into_owned());
        }
    }
    assert_eq!(functions, names);
    let mut rows = unit.line_program.clone().expect("lines").rows();
    let mut found = Vec::new();
    while let Some((header, row)) = rows.next_row().expect("it parses") {
        let name = row.file(header).map(|file| dwarf.attr_string(&unit, file.path_name()).expect("a string"));
        let name = name.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        found.push((row.address(), row.line().map_or(0, u64::from), row.end_sequence(), name));
    }
    // Functions begin with their prologue; the call is where its code is.
    assert_eq!(native.insn_at(found[1].0 as usize), Some(InsnIdx(1)));
    // Counted from its section, as in every relocatable object.
    let seven = file.symbols().nth(1).expect("the second function").address();
    let line = |at, number| (at, number, false, "src/told.bpf.c".to_string());
    assert_eq!(found[..3], [line(base, 10), line(found[1].0, 11), line(base + seven, 4)]);
    assert!(found.len() == 4 && found[3].2 && found[3].0 == base + text.size());

    drop(native);
    assert_eq!(listed(), files[..1]);
    drop(other);
    assert!(listed().is_empty());
}

#[test]
fn what_nobody_asked_for_is_not_written() {
    if !has_native_code() {
        return;
    }
    let (program, native) = told();
    Tools::default().show(&native, "silent", &program).expect("nothing to do");
    let missing = Tools { jitdump: Some(PathBuf::from("/no/such/folder")), ..Tools::default() };
    assert!(missing.show(&native, "silent", &program).is_err());
    let map = std::fs::read_to_string(format!("/tmp/perf-{}.map", std::process::id())).unwrap_or_default();
    assert!(!map.contains("silent"));
}
