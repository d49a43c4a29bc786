//! The running Linux kernel as an oracle: loads and test-runs cases. Nothing is ever attached.

mod object;
mod sys;

use std::borrow::Cow;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::OnceLock;

use rtbpf_abi::AttachType;
use rtbpf_abi::map_kind::MapKind;
use rtbpf_isa::decode;
use sys::FuncInfo;

pub use object::KernelObject;

use crate::generate::{Case, CaseMap};

/// What the kernel answers to a load.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// 0 when it accepted.
    pub errno: i32,
    /// The last lines of its log; empty unless asked for, or when it accepted.
    pub words: String,
}

/// What a test run gives.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Run {
    /// 0, or why the kernel did not run it.
    pub errno: i32,
    /// R0, 32 bits.
    pub retval: u32,
    /// The packet afterwards.
    pub data_out: Vec<u8>,
}

/// A loaded case with its maps.
pub struct Loaded {
    maps: Vec<OwnedFd>,
    prog: Result<OwnedFd, i32>,
    words: String,
}

/// Whether this process may load programs; the reason where it may not.
pub fn permitted() -> Result<(), String> {
    let exit = [0xb7, 0, 0, 0, 0, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0];
    let load = sys::Load {
        prog_type: 1,
        attach_type: 0,
        flags: 0,
        insns: &exit,
        functions: None,
        maps: &[],
        log_level: 1,
        license: c"GPL",
    };
    sys::prog_load(&load, &mut []).map(|_| ()).map_err(|error| format!("bpf(2) is not permitted here: {error}"))
}

/// Keeps this thread on the CPU it is on, so that test runs see one CPU's values of per-CPU maps.
pub fn pin() -> Result<(), String> {
    sys::pin().map_err(|error| format!("the thread cannot be kept on its CPU: {error}"))
}

/// The reason in the last lines of a log: neither an instruction nor a state.
pub fn last_words(log: &str) -> &str {
    let is_reason = |line: &&str| {
        !line.is_empty()
            && !line.starts_with(|c: char| c.is_ascii_digit() || c == ';')
            && !line.starts_with("mark_precise")
    };
    log.lines().rev().find(is_reason).unwrap_or_default()
}

fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

/// Loads `case`; with its log where `log` is set. `Err` when one of its maps cannot be made.
pub fn load(case: &Case, log: bool) -> Result<Loaded, String> {
    let mut buffer = vec![0; if log { 1 << 16 } else { 0 }];
    let (maps, prog) = load_into(case, 1, &mut buffer)?;
    let words = if prog.is_err() { last_lines(&buffer) } else { String::new() };
    Ok(Loaded { maps, prog, words })
}

/// What the kernel's verifier says it took for `case`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Effort {
    /// Time, in microseconds.
    pub usec: u64,
    /// Instructions that it processed.
    pub processed: u64,
}

/// Loads `case` for the statistics of the kernel's verifier; `None` when it gave up before its walk.
pub fn effort(case: &Case) -> Result<Option<Effort>, String> {
    let mut buffer = vec![0; 1 << 16];
    let _loaded = load_into(case, 4, &mut buffer)?;
    Ok(effort_in(&buffer))
}

/// The log of a load at level 2; `None` when `case` is refused, or walked for too long to be logged.
pub fn walk(case: &Case) -> Result<Option<String>, String> {
    let mut buffer = vec![0; 4 << 20];
    let (_maps, prog) = load_into(case, 2, &mut buffer)?;
    Ok(prog.ok().map(|_| text_of(&buffer).into_owned()))
}

/// The statistics at the end of a log.
fn effort_in(log: &[u8]) -> Option<Effort> {
    let text = String::from_utf8_lossy(log);
    let number = |before: &str| {
        let rest = text.lines().find_map(|line| line.strip_prefix(before))?;
        rest.split(' ').next()?.parse().ok()
    };
    let (usec, processed) = (number("verification time "), number("processed "));
    usec.zip(processed).map(|(usec, processed)| Effort { usec, processed })
}

type MapsAndProg = (Vec<OwnedFd>, Result<OwnedFd, i32>);

fn load_into(case: &Case, log_level: u32, log: &mut [u8]) -> Result<MapsAndProg, String> {
    let maps = case.maps.iter().map(create).collect::<Result<Vec<_>, _>>()?;
    let mut bytes = case.bytes();
    for (slot, map) in case.fixups() {
        bytes[slot * 8 + 4..slot * 8 + 8].copy_from_slice(&maps[map].as_raw_fd().to_le_bytes());
    }
    let functions = if case.typed { functions(case) } else { Vec::new() };
    let types = if functions.len() > 1 { types().map(Some)? } else { None };
    let load = sys::Load {
        prog_type: case.prog_type().number(),
        attach_type: case.attach_type().map_or(0, AttachType::number),
        flags: case.prog_flags | if case.kind.is_sleepable() { 1 << 4 } else { 0 },
        insns: &bytes,
        functions: types.map(|types| (types, functions.as_slice())),
        maps: &maps,
        log_level,
        license: c"GPL",
    };
    let prog = sys::prog_load(&load, log).map_err(|error| errno(&error));
    Ok((maps, prog))
}

/// Where the functions of `case` begin.
fn functions(case: &Case) -> Vec<FuncInfo> {
    let Ok(program) = decode(&case.insns) else { return Vec::new() };
    let starts = program.subprogs().iter().map(|subprog| program.slot(subprog.start));
    starts.map(|slot| FuncInfo { slot, btf_id: FUNCTION }).collect()
}

/// BTF id of the one function type.
const FUNCTION: u32 = 3;

/// The type information that every function of a case shares: `static int f(void)`.
fn types() -> Result<&'static OwnedFd, String> {
    static TYPES: OnceLock<Result<OwnedFd, String>> = OnceLock::new();
    let load = || {
        let strings = b"\0int\0f\0";
        #[rustfmt::skip]
        let types: [u32; 10] = [
            1, 1 << 24, 4, 1 << 24 | 32, // int, signed, 32 bits
            0, 13 << 24, 1,              // int (void)
            5, 12 << 24, 2,              // f, static
        ];
        let mut bytes = vec![0x9f, 0xeb, 1, 0];
        let len = (types.len() * 4) as u32;
        for word in [24, 0, len, len, strings.len() as u32].into_iter().chain(types) {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(strings);
        sys::btf_load(&bytes).map_err(|error| format!("BTF of the functions: {error}"))
    };
    TYPES.get_or_init(load).as_ref().map_err(Clone::clone)
}

fn create(map: &CaseMap) -> Result<OwnedFd, String> {
    let spec = &map.spec;
    let wrong = |what: &str, error: io::Error| format!("{} map{what}: {error}", spec.kind.name());
    let inner = spec.inner.as_ref().map(|inner| sys::map_create(sys::MapAttr::of(inner))).transpose();
    let inner = inner.map_err(|error| wrong(", inner", error))?;
    let of_inner = inner.as_ref().map_or(0, |fd| fd.as_raw_fd() as u32);
    let attr = sys::MapAttr { inner: of_inner, ..sys::MapAttr::of(spec) };
    let fd = sys::map_create(attr).map_err(|error| wrong("", error))?;
    for (key, value) in &map.init {
        sys::map_update(&fd, key, value).map_err(|error| wrong(", update", error))?;
    }
    if let Some(bytes) = &spec.frozen {
        let frozen = sys::map_update(&fd, &[0; 4], bytes).and_then(|()| sys::map_freeze(&fd));
        frozen.map_err(|error| wrong(", freeze", error))?;
    }
    Ok(fd)
}

/// What the kernel wrote into a buffer for its log.
fn text_of(log: &[u8]) -> Cow<'_, str> {
    let end = log.iter().position(|&byte| byte == 0).unwrap_or(log.len());
    String::from_utf8_lossy(&log[..end])
}

/// The kernel's reason: the last lines of its log before the statistics.
fn last_lines(log: &[u8]) -> String {
    let text = text_of(log);
    let lines: Vec<&str> =
        text.lines().filter(|line| !line.starts_with("processed ") && !line.starts_with("verification time")).collect();
    lines[lines.len().saturating_sub(4)..].join("\n")
}

impl Loaded {
    /// The kernel's answer.
    pub fn verdict(&self) -> Verdict {
        Verdict { errno: self.prog.as_ref().err().copied().unwrap_or(0), words: self.words.clone() }
    }

    /// Runs it on `packet`.
    pub fn run(&self, packet: &[u8]) -> Run {
        let Ok(prog) = &self.prog else { return Run { errno: libc::EINVAL, ..Run::default() } };
        let mut out = vec![0; packet.len() + 4096];
        match sys::test_run(prog, packet, &mut out) {
            Ok((retval, len)) => {
                out.truncate(len);
                Run { errno: 0, retval, data_out: out }
            }
            Err(error) => Run { errno: errno(&error), ..Run::default() },
        }
    }

    /// Runs it `repeat` times on `packet`; nanoseconds a run, as the kernel measured, without the system call.
    pub fn ns_a_run(&self, packet: &[u8], repeat: u32) -> Option<f64> {
        sys::time_runs(self.prog.as_ref().ok()?, packet, repeat).ok().map(f64::from)
    }

    /// The bytes of array map `index`, value after value; `None` for other kinds.
    pub fn array(&self, case: &Case, index: usize) -> Option<Vec<u8>> {
        let spec = &case.maps.get(index)?.spec;
        if spec.kind != MapKind::Array {
            return None;
        }
        let mut out = Vec::new();
        for key in 0..spec.max_entries {
            let mut value = vec![0; spec.value_size as usize];
            sys::map_lookup(self.maps.get(index)?, &key.to_le_bytes(), &mut value).ok()?;
            out.extend(value);
        }
        Some(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_stands_before_the_statistics() {
        let log = b"0: (b7) r0 = 0\nR1 !read_ok\nprocessed 1 insns\0\0\0";
        assert_eq!(last_lines(log), "0: (b7) r0 = 0\nR1 !read_ok");
    }
}
