//! Object files: what the verifier says of their programs, and what the running kernel says.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rtbpf::loader::{Object, ParseOptions, ProgramSpec};
use rtbpf::verifier::{Options, verify};
use rtbpf::{Config, Engine, Instance, Proof};
use rtbpf_abi::{MapKind, ProgType};
use rtbpf_btf::Btf;

use crate::kernel::{self, KernelObject};

/// One side's answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// 0 when it accepted.
    pub errno: i32,
    /// Why not.
    pub words: String,
    /// What verification took.
    pub time: Duration,
    /// Instructions that it processed, 0 where it refused.
    pub processed: u64,
}

/// What becomes of one program.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Judged {
    /// It cannot be compared.
    Not(String),
    /// It was given to both.
    Both {
        /// Our answer.
        us: Answer,
        /// The running kernel's.
        linux: Answer,
    },
}

/// Asks both.
pub struct Judge {
    engine: Engine,
    system: Btf,
}

/// The object files under `folder`, in order.
pub fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let (mut found, mut open) = (Vec::new(), vec![folder.to_path_buf()]);
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder)? {
            let (path, kind) = entry.and_then(|entry| Ok((entry.path(), entry.file_type()?)))?;
            if kind.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "o" || extension == "elf") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// What programs of no type are judged as.
const GUESSES: &[ProgType] = &[ProgType::SchedCls, ProgType::Xdp, ProgType::SocketFilter, ProgType::Kprobe];

/// Types whose rules the verifier claims to know.
fn is_known(prog_type: ProgType) -> bool {
    !matches!(prog_type, ProgType::Unspec | ProgType::Tracing | ProgType::StructOps | ProgType::Ext | ProgType::Lsm)
}

impl Judge {
    /// Fails where the running kernel may not be asked, or has no types to show.
    pub fn new() -> Result<Judge, String> {
        kernel::permitted()?;
        let bytes = std::fs::read("/sys/kernel/btf/vmlinux").map_err(|error| format!("the kernel's types: {error}"))?;
        let system = Btf::parse(&bytes).map_err(|error| format!("the kernel's types: {error}"))?;
        Ok(Judge { engine: Engine::new(Config::linux()), system })
    }

    /// Every program of the object at `path`; one line in the place of all where the object itself does not load.
    pub fn object(&self, path: &Path) -> Vec<(String, Judged)> {
        let not = |why: String| vec![("(object)".to_string(), Judged::Not(why))];
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) => return not(error.to_string()),
        };
        let stem = path.file_name().unwrap_or_default().to_string_lossy();
        let options = ParseOptions {
            name: stem.split('.').next().unwrap_or_default(),
            target_btf: Some(&self.system),
            cpus: 2,
            ..ParseOptions::default()
        };
        let mut object = match Object::parse(&bytes, &options) {
            Ok(object) => object,
            Err(error) => return not(format!("our loader: {error}")),
        };
        size(&mut object);
        let kernel = match KernelObject::new(&object) {
            Ok(kernel) => kernel,
            Err(error) => return not(format!("Linux makes no {error}")),
        };
        let instance = match Instance::new(&self.engine, object, Proof::Waived) {
            Ok(instance) => instance,
            Err(error) => return not(format!("our machine: {error}")),
        };
        let mut answers = Vec::new();
        for spec in &instance.object().programs {
            if spec.prog_type != ProgType::Unspec {
                answers.push((spec.name.clone(), judge(&instance, &kernel, spec)));
                continue;
            }
            // Its loader knew what its section does not say. Maps of programs keep to the type that came first.
            for &prog_type in GUESSES {
                let mut spec = spec.clone();
                spec.prog_type = prog_type;
                let judged = match KernelObject::new(instance.object()) {
                    Ok(kernel) => judge(&instance, &kernel, &spec),
                    Err(error) => Judged::Not(format!("Linux makes no {error}")),
                };
                answers.push((format!("{} as {}", spec.name, prog_type.name()), judged));
            }
        }
        answers
    }
}

/// Kinds whose entries are their owners.
fn is_storage(kind: MapKind) -> bool {
    matches!(kind, MapKind::SkStorage | MapKind::InodeStorage | MapKind::TaskStorage | MapKind::CgrpStorage)
}

/// Gives maps entries that their host would size.
fn size(object: &mut Object) {
    let unsized_maps = object.maps.iter().filter(|map| map.spec.max_entries == 0 && !is_storage(map.spec.kind));
    let sizes: Vec<_> = unsized_maps.map(|map| (map.name.clone(), map.spec.kind)).collect();
    for (name, kind) in sizes {
        let entries = if matches!(kind, MapKind::Ringbuf | MapKind::UserRingbuf) { 4096 } else { 4 };
        // One that cannot be sized is one that cannot be made, and that is said then.
        let _ = object.resize_map(&name, entries, None);
    }
}

fn judge(instance: &Instance, kernel: &KernelObject, spec: &ProgramSpec) -> Judged {
    if !is_known(spec.prog_type) {
        return Judged::Not(format!("programs of type {} are not judged", spec.prog_type.name()));
    }
    let program = match instance.object().link(spec) {
        Ok(program) => program,
        Err(error) => return Judged::Not(format!("our loader: {error}")),
    };
    let given = instance.assumptions(spec);
    let begun = Instant::now();
    let outcome = catch_unwind(AssertUnwindSafe(|| verify(program.clone(), given, &Options::default())));
    let time = begun.elapsed();
    let us = match outcome {
        Ok(Ok(proved)) => Answer { errno: 0, words: String::new(), time, processed: proved.stats().processed },
        Ok(Err(refusal)) => {
            let at = refusal.at.map_or(String::new(), |at| format!(" (instruction {})", program.slot(at)));
            Answer { errno: refusal.errno.number(), words: format!("{}{at}", refusal.message), time, processed: 0 }
        }
        Err(_) => Answer { errno: -1, words: "the verifier panicked".to_string(), time, processed: 0 },
    };
    let (verdict, effort) = kernel.verify(spec, &program);
    let effort = effort.unwrap_or_default();
    let (words, time) = (verdict.words.replace('\n', " / "), Duration::from_micros(effort.usec));
    Judged::Both { us, linux: Answer { errno: verdict.errno, words, time, processed: effort.processed } }
}
