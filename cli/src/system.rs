//! What the running system tells about its kernel.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::input;

/// The text of a kernel's configuration: of the file, of the running kernel where it can be read, or none.
pub fn kconfig(file: Option<&Path>) -> Result<Option<String>, Error> {
    match file {
        Some(path) if path == Path::new("none") => Ok(None),
        Some(path) => unpacked(path.to_path_buf()).map(Some),
        None => Ok(running().and_then(|path| unpacked(path).ok())),
    }
}

fn unpacked(path: PathBuf) -> Result<String, Error> {
    let bytes = input::read(&path)?;
    let mut text = Vec::new();
    // What is not gzipped passes through.
    let read = match bytes.starts_with(&[0x1f, 0x8b]) {
        true => flate2::read::GzDecoder::new(bytes.as_slice()).take(MOST_TEXT).read_to_end(&mut text),
        false => bytes.as_slice().read_to_end(&mut text),
    };
    read.map_err(|error| Error::Program { path: path.clone(), what: error.to_string() })?;
    String::from_utf8(text).map_err(|_| Error::NotText { path })
}

/// Bytes that a configuration unpacks to at most; real ones have a quarter of a megabyte.
const MOST_TEXT: u64 = 16 << 20;

/// Where distributions keep the running kernel's configuration.
fn running() -> Option<PathBuf> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let places = ["/proc/config.gz".to_string(), format!("/boot/config-{}", release.trim())];
    places.into_iter().map(PathBuf::from).find(|path| path.is_file())
}

/// Addresses of the running kernel's symbols, read when the first is asked for.
#[derive(Default)]
pub struct Symbols {
    addresses: OnceCell<HashMap<String, u64>>,
}

impl Symbols {
    /// The address of a symbol; 0 where the kernel does not tell.
    pub fn address(&self, name: &str) -> Option<u64> {
        let read = || parse(&std::fs::read_to_string("/proc/kallsyms").unwrap_or_default());
        self.addresses.get_or_init(read).get(name).copied()
    }
}

/// Lines of `address type name`, with a module's name behind that of its symbols; the first of a name counts.
fn parse(text: &str) -> HashMap<String, u64> {
    let mut addresses = HashMap::new();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        if let (Some(address), Some(_), Some(name)) = (words.next(), words.next(), words.next())
            && let Ok(address) = u64::from_str_radix(address, 16)
        {
            addresses.entry(name.to_string()).or_insert(address);
        }
    }
    addresses
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn symbols_have_addresses() {
        let addresses =
            parse("ffffffff81000000 T _text\nffffffffc0000000 t init\t[mod]\nbroken\n0 D bpf_prog_active\n");
        assert_eq!(addresses.get("_text"), Some(&0xffff_ffff_8100_0000));
        assert_eq!(addresses.get("init"), Some(&0xffff_ffff_c000_0000));
        assert_eq!((addresses.len(), addresses.get("bpf_prog_active")), (3, Some(&0)));
    }

    #[test]
    fn configurations_are_plain_or_packed() {
        let text = "CONFIG_BPF=y\n";
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(text.as_bytes()).expect("memory takes all");
        let cases = [("plain", text.as_bytes().to_vec()), ("packed.gz", packed.finish().expect("memory takes all"))];
        for (name, bytes) in cases {
            let path = std::env::temp_dir().join(format!("rtbpf-config-{}-{name}", std::process::id()));
            std::fs::write(&path, bytes).expect("the temporary folder is writable");
            assert_eq!(kconfig(Some(&path)).expect("it is a configuration").as_deref(), Some(text));
            std::fs::remove_file(path).expect("it was written above");
        }
        assert_eq!(kconfig(Some(Path::new("none"))).expect("none is none"), None);
    }
}
