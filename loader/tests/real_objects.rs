//! Objects that nobody here wrote: `RTBPF_OBJECTS=DIR` names a folder of them, searched to any depth.
//!
//! Every little-endian BPF object must parse, and each of its programs link. One line a file says what was found.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rtbpf_btf::Btf;
use rtbpf_loader::{Error, Object, ParseOptions};

fn files(dir: &Path, into: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() { files(&path, into) } else { into.push(path) }
    }
}

#[test]
fn every_real_object_loads() {
    let Some(dir) = std::env::var_os("RTBPF_OBJECTS") else {
        println!("skipped: RTBPF_OBJECTS names no folder of objects");
        return;
    };
    let kernel = std::fs::read("/sys/kernel/btf/vmlinux").ok().and_then(|bytes| Btf::parse(&bytes).ok());
    let mut paths = Vec::new();
    files(Path::new(&dir), &mut paths);
    paths.sort();
    let mut failures = BTreeMap::new();
    let (mut loaded, mut foreign) = (0, 0);
    for path in &paths {
        let bytes = std::fs::read(path).unwrap();
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let name = stem.strip_suffix(".bpf").unwrap_or(&stem);
        let options = ParseOptions {
            name,
            target_btf: kernel.as_ref(),
            kconfig: Some("CONFIG_BPF_SYSCALL=y\nCONFIG_HZ=250\nCONFIG_DEFAULT_HOSTNAME=\"(none)\"\n"),
            ksym: Some(&|_| Some(0xffff_ffff_8100_0000)),
            ..ParseOptions::default()
        };
        let object = match Object::parse(&bytes, &options) {
            Err(Error::BigEndian | Error::NotElf { .. } | Error::Machine { .. } | Error::NotRelocatable { .. }) => {
                foreign += 1;
                continue;
            }
            Err(_) if path.to_string_lossy().contains("invalid") => continue,
            Err(error) => {
                failures.insert(path, error.to_string());
                continue;
            }
            Ok(object) => object,
        };
        // What an object leaves undefined is for another one to define.
        let undefined = |error: &Error| matches!(error, Error::Undefined { .. });
        let bad = object.programs.iter().find_map(|program| object.link(program).err().filter(|e| !undefined(e)));
        println!(
            "{}: {} programs, {} maps, {:?}",
            path.display(),
            object.programs.len(),
            object.maps.len(),
            object.relocs
        );
        match bad {
            Some(_) if path.to_string_lossy().contains("invalid") => {}
            Some(error) => drop(failures.insert(path, error.to_string())),
            None => loaded += 1,
        }
    }
    println!("{loaded} loaded, {foreign} are no little-endian BPF objects, {} failed", failures.len());
    for (path, error) in &failures {
        println!("FAILED {}: {error}", path.display());
    }
    assert!(failures.is_empty());
}
