//! `jit-PID.dump`: code and source lines for `perf inject --jit` (perf's `jitdump-specification.txt`, version 1)
//! [unsafe room].
//!
//! ```text
//! header │ DEBUG_INFO, LOAD │ DEBUG_INFO, LOAD │ …
//! ```
//!
//! `perf record` learns of the file by an executable mapping of its first page, which is never used otherwise. Times are
//! of CLOCK_MONOTONIC: `perf record -k 1`.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::Seen;

const MAGIC: u32 = 0x4a69_5444;
const VERSION: u32 = 1;
const HEADER_BYTES: u32 = 40;
const CODE_LOAD: u32 = 0;
const DEBUG_INFO: u32 = 2;
#[cfg(target_arch = "aarch64")]
const MACHINE: u32 = object::elf::EM_AARCH64.0 as u32;
#[cfg(not(target_arch = "aarch64"))]
const MACHINE: u32 = object::elf::EM_X86_64.0 as u32;

struct Dump {
    folder: PathBuf,
    file: File,
    programs: u64,
}

/// The dumps of this process, by folder. Taken only while one is written to.
static DUMPS: Mutex<Vec<Dump>> = Mutex::new(Vec::new());

/// Appends a program to the dump in `folder`, which begins with the first.
pub(super) fn append(folder: &Path, seen: &Seen<'_>) -> io::Result<()> {
    let mut dumps = DUMPS.lock().unwrap_or_else(PoisonError::into_inner);
    let at = match dumps.iter().position(|dump| dump.folder == folder) {
        Some(at) => at,
        None => {
            dumps.push(Dump::create(folder)?);
            dumps.len() - 1
        }
    };
    let Some(dump) = dumps.get_mut(at) else { return Ok(()) };
    for (number, _) in seen.functions.iter().enumerate() {
        let records = [debug_info(seen, number), code_load(seen, number, dump.programs)].concat();
        dump.programs += 1;
        dump.file.write_all(&records)?;
    }
    Ok(())
}

impl Dump {
    fn create(folder: &Path) -> io::Result<Dump> {
        let path = folder.join(format!("jit-{}.dump", std::process::id()));
        let mut file = File::options().read(true).write(true).create(true).truncate(true).open(path)?;
        let mut header = Vec::new();
        for word in [MAGIC, VERSION, HEADER_BYTES, MACHINE, 0, std::process::id()] {
            header.extend(word.to_le_bytes());
        }
        header.extend(monotonic_ns().to_le_bytes());
        header.extend(0u64.to_le_bytes());
        file.write_all(&header)?;
        // SAFETY: maps a page of a file at an address of the system's choice. Nobody reads or runs it, and it stays, as
        // perf may look at it at any time.
        let marker = unsafe {
            let (rights, flags) = (libc::PROT_READ | libc::PROT_EXEC, libc::MAP_PRIVATE);
            libc::mmap(std::ptr::null_mut(), HEADER_BYTES as usize, rights, flags, file.as_raw_fd(), 0)
        };
        if marker == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Dump { folder: folder.to_path_buf(), file, programs: 0 })
    }
}

/// A record: its kind, its length, the time, then `body`.
fn record(kind: u32, body: &[u8]) -> Vec<u8> {
    let bytes = 16 + body.len();
    let mut record = Vec::with_capacity(bytes);
    record.extend(kind.to_le_bytes());
    record.extend((bytes as u32).to_le_bytes());
    record.extend(monotonic_ns().to_le_bytes());
    record.extend(body);
    record
}

fn code_load(seen: &Seen<'_>, function: usize, index: u64) -> Vec<u8> {
    let Some((range, name)) = seen.functions.get(function) else { return Vec::new() };
    let mut body = Vec::new();
    body.extend(std::process::id().to_le_bytes());
    body.extend(thread_id().to_le_bytes());
    for word in [range.start as u64, range.start as u64, (range.end - range.start) as u64, index] {
        body.extend(word.to_le_bytes());
    }
    body.extend(name.as_bytes());
    body.push(0);
    body.extend(seen.image.get(range.start - seen.base..range.end - seen.base).unwrap_or_default());
    record(CODE_LOAD, &body)
}

/// The lines of a function; nothing where none are known.
fn debug_info(seen: &Seen<'_>, function: usize) -> Vec<u8> {
    let Some((range, _)) = seen.functions.get(function) else { return Vec::new() };
    let lines = seen.lines.iter().filter(|(address, _)| range.contains(address));
    let mut body = Vec::new();
    body.extend((range.start as u64).to_le_bytes());
    body.extend((lines.clone().count() as u64).to_le_bytes());
    for (address, line) in lines {
        body.extend((*address as u64).to_le_bytes());
        body.extend(line.line.to_le_bytes());
        body.extend(0u32.to_le_bytes());
        body.extend(line.file.as_bytes());
        body.push(0);
    }
    if body.len() == 16 { Vec::new() } else { record(DEBUG_INFO, &body) }
}

fn monotonic_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: fills the structure given; this clock exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

fn thread_id() -> u32 {
    // SAFETY: no preconditions.
    unsafe { libc::gettid() as u32 }
}
