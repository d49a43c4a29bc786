//! A second reader: what the `object` crate reads in a file, the loader finds too.

use std::path::PathBuf;

use object::{Object as _, ObjectSection, ObjectSymbol, SymbolKind};
use rtbpf_loader::{Object, ParseOptions};

fn objects() -> Vec<PathBuf> {
    let mut paths = Vec::new();
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples").into();
    let mut dirs = vec![examples];
    dirs.extend(std::env::var_os("RTBPF_OBJECTS").map(PathBuf::from));
    while let Some(dir) = dirs.pop() {
        for path in std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()) {
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|ext| ext == "o") {
                paths.push(path);
            }
        }
    }
    paths.sort();
    paths
}

#[test]
fn both_readers_see_the_same_functions_and_relocations() {
    let mut compared = 0;
    for path in objects() {
        let bytes = std::fs::read(&path).unwrap();
        let options =
            ParseOptions { kconfig: Some("CONFIG_HZ=250\nCONFIG_BPF_SYSCALL=y\n"), ..ParseOptions::default() };
        let Ok(ours) = Object::parse(&bytes, &options) else { continue };
        let theirs = object::File::parse(&*bytes).unwrap();
        let is_code =
            |section: &object::Section<'_, '_>| section.kind() == object::SectionKind::Text && section.size() > 0;
        let mut programs: Vec<(String, String)> = Vec::new();
        for symbol in theirs.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.is_global()) {
            let Some(section) = symbol.section_index().and_then(|at| theirs.section_by_index(at).ok()) else {
                continue;
            };
            let name = section.name().unwrap();
            if is_code(&section) && name != ".text" {
                programs.push((name.to_owned(), symbol.name().unwrap().to_owned()));
            }
        }
        let mut found: Vec<_> = ours.programs.iter().map(|p| (p.section.clone(), p.name.clone())).collect();
        if programs.is_empty() {
            continue;
        }
        programs.sort();
        found.sort();
        assert_eq!(found, programs, "{}", path.display());
        let relocs: usize = theirs.sections().filter(is_code).map(|section| section.relocations().count()).sum();
        let c = ours.relocs;
        let applied = c.maps + c.data + c.calls + c.functions + c.kconfig + c.ksyms + c.undefined;
        assert_eq!(applied as usize, relocs, "{}", path.display());
        let license = theirs.section_by_name("license").and_then(|section| section.data().ok()).unwrap_or_default();
        assert_eq!(ours.license.as_bytes(), license.split(|&byte| byte == 0).next().unwrap_or_default());
        compared += 1;
    }
    println!("{compared} objects compared");
    assert!(compared >= 6);
}
