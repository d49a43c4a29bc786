//! Objects as a user names them: the file, the types it is loaded against, and what is changed before it loads.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};

use rtbpf::Config;
use rtbpf::abi::ProgType;
use rtbpf::btf::Btf;
use rtbpf::loader::{self, Object, ParseOptions, TypeOverride};

use crate::error::Error;
use crate::{input, system};

/// The running system's types.
const SYSTEM_BTF: &str = "/sys/kernel/btf/vmlinux";

/// An object and how to load it.
#[derive(Debug, clap::Args)]
pub struct ObjectArgs {
    /// BPF object file.
    pub object: PathBuf,
    #[command(flatten)]
    load: LoadArgs,
}

impl ObjectArgs {
    /// Reads and parses the object, and sets its variables.
    pub fn open(&self) -> Result<Object, Error> {
        self.load.open(&self.object)
    }
}

/// Options of every command that loads objects.
#[derive(Debug, clap::Args)]
pub struct LoadArgs {
    /// Load programs as this type (`xdp`, `sched_cls` …), whatever their section says; PROG=TYPE for one program.
    #[arg(long = "type", value_name = "[PROG=]TYPE")]
    types: Vec<String>,
    /// Types of the system that CO-RE programs shall see; `none` leaves instructions as compiled.
    #[arg(long, value_name = "FILE", default_value = SYSTEM_BTF)]
    btf: PathBuf,
    /// Configuration of the kernel that `CONFIG_…` externs shall see, plain or gzipped; `none` has nothing set [default:
    /// the running kernel's].
    #[arg(long, value_name = "FILE")]
    kconfig: Option<PathBuf>,
    /// Link the object with this one first, which defines what it only declares.
    #[arg(long, value_name = "FILE")]
    link: Vec<PathBuf>,
    /// Set a global variable before loading: a number, "text", hex:DIGITS or @FILE.
    #[arg(long, value_name = "VAR=VALUE")]
    set: Vec<String>,
    /// Give a map this many entries, of this many bytes each, as programs do that size maps before they load them.
    #[arg(long, value_name = "MAP=ENTRIES[,BYTES]")]
    resize: Vec<String>,
    /// What the first object read of the system, for those behind it.
    #[arg(skip)]
    target: OnceCell<Target>,
}

/// The system that objects are loaded for.
#[derive(Debug)]
struct Target {
    btf: Option<Btf>,
    kconfig: Option<String>,
}

impl LoadArgs {
    /// Reads and parses an object, and sets its variables.
    pub fn open(&self, path: &Path) -> Result<Object, Error> {
        let mut files = vec![input::read(path)?];
        for path in &self.link {
            files.push(input::read(path)?);
        }
        let files: Vec<&[u8]> = files.iter().map(Vec::as_slice).collect();
        let refused = |source: loader::Error| Error::Object { path: path.to_path_buf(), source: Box::new(source) };
        let named = self.btf != Path::new(SYSTEM_BTF) || self.kconfig.is_some();
        // Most objects do not ask about the system, whose types take longer to read than they do.
        let target = if named || Object::needs_system(&files).map_err(refused)? { Some(self.target()?) } else { None };
        let symbols = system::Symbols::default();
        let types = self.types.iter().map(|text| type_override(text)).collect::<Result<Vec<_>, _>>()?;
        let file_name = path.file_name().unwrap_or_default().to_string_lossy();
        let options = ParseOptions {
            name: file_name.split('.').next().unwrap_or_default(),
            target_btf: target.and_then(|target| target.btf.as_ref()),
            kconfig: target.and_then(|target| target.kconfig.as_deref()),
            cpus: Config::linux().slots,
            types: &types,
            ksym: Some(&|name| symbols.address(name)),
            ..ParseOptions::default()
        };
        let mut object = Object::join(&files, &options).map_err(refused)?;
        for setting in &self.set {
            let bad = |what: String| Error::Option { option: format!("--set {setting}"), what };
            let (name, value) = setting.split_once('=').ok_or_else(|| bad("write VAR=VALUE".into()))?;
            let size = object.variable(name).map(|(_, variable)| variable.size);
            let bytes = value_bytes(value, size.unwrap_or(8)).map_err(bad)?;
            object.set_variable(name, &bytes).map_err(|error| bad(error.to_string()))?;
        }
        for setting in &self.resize {
            let bad = |what: String| Error::Option { option: format!("--resize {setting}"), what };
            let number = |text: &str| text.parse().map_err(|_| bad(format!("`{text}` is no number below 2^32")));
            let (name, sizes) = setting.split_once('=').ok_or_else(|| bad("write MAP=ENTRIES[,BYTES]".into()))?;
            let (entries, bytes) = match sizes.split_once(',') {
                Some((entries, bytes)) => (number(entries)?, Some(number(bytes)?)),
                None => (number(sizes)?, None),
            };
            object.resize_map(name, entries, bytes).map_err(|error| bad(error.to_string()))?;
        }
        Ok(object)
    }

    fn target(&self) -> Result<&Target, Error> {
        if let Some(target) = self.target.get() {
            return Ok(target);
        }
        let target = Target { btf: self.target_btf()?, kconfig: system::kconfig(self.kconfig.as_deref())? };
        Ok(self.target.get_or_init(|| target))
    }

    fn target_btf(&self) -> Result<Option<Btf>, Error> {
        if self.btf == Path::new("none") || (self.btf == Path::new(SYSTEM_BTF) && !self.btf.exists()) {
            return Ok(None);
        }
        let bytes = input::read(&self.btf)?;
        let parsed = Btf::parse(&bytes);
        parsed.map(Some).map_err(|error| Error::Program { path: self.btf.clone(), what: error.to_string() })
    }
}

fn type_override(text: &str) -> Result<TypeOverride<'_>, Error> {
    let (program, name) = text.split_once('=').unwrap_or(("", text));
    let prog_type = match name {
        "tc" | "classifier" => Some(ProgType::SchedCls),
        "socket" => Some(ProgType::SocketFilter),
        "raw_tp" => Some(ProgType::RawTracepoint),
        name => ProgType::from_name(name),
    };
    let known = || ProgType::ALL.iter().map(|known| known.name()).collect::<Vec<_>>().join(", ");
    let prog_type = prog_type.ok_or_else(|| Error::Option {
        option: format!("--type {text}"),
        what: format!("no such program type; there are {}", known()),
    })?;
    Ok(TypeOverride { program, prog_type, attach_type: None })
}

/// A value on the command line as the bytes of a variable of `size` bytes.
pub fn value_bytes(text: &str, size: u32) -> Result<Vec<u8>, String> {
    if let Some(quoted) = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) {
        return Ok(quoted.as_bytes().to_vec());
    }
    if let Some(digits) = text.strip_prefix("hex:") {
        return input::bytes(digits).map_err(|error| error.to_string());
    }
    if text.starts_with('@') {
        return input::bytes(text).map_err(|error| error.to_string());
    }
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |digits| (true, digits));
    let magnitude = match digits.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => digits.parse(),
    };
    let value = match (magnitude, text) {
        (Ok(magnitude), _) if negative => magnitude.wrapping_neg(),
        (Ok(magnitude), _) => magnitude,
        (Err(_), "true") => 1,
        (Err(_), "false") => 0,
        (Err(_), _) => return Err(format!("`{text}` is no number; text is written \"text\", bytes hex:DIGITS")),
    };
    let kept = (size as usize).clamp(1, 8);
    let bits = 8 * kept as u32;
    // What is cut off must be the sign or nothing.
    let fits =
        if negative { (value as i64) >> (bits - 1) == -1 || value == 0 } else { bits == 64 || value >> bits == 0 };
    let bytes = value.to_le_bytes();
    if fits { Ok(bytes[..kept].to_vec()) } else { Err(format!("{text} does not fit {size} bytes")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_become_bytes_of_the_variables_size() {
        assert_eq!(value_bytes("258", 2), Ok(vec![2, 1]));
        assert_eq!(value_bytes("-1", 4), Ok(vec![0xff; 4]));
        assert_eq!(value_bytes("0xff", 1), Ok(vec![0xff]));
        assert_eq!(value_bytes("\"eth0\"", 16), Ok(b"eth0".to_vec()));
        assert_eq!(value_bytes("hex:0102", 16), Ok(vec![1, 2]));
        assert_eq!(value_bytes("true", 1), Ok(vec![1]));
        assert!(value_bytes("256", 1).is_err());
        assert!(value_bytes("-129", 1).is_err());
        assert!(value_bytes("eth0", 16).is_err());
    }
}
