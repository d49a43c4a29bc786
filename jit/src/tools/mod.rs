//! What profilers and debuggers are told of published programs, where an embedder asks for it.
//!
//! ```text
//!            ┌─ /tmp/perf-PID.map    name and address of each function       perf report, perf top
//! Native ────┼─ jit-PID.dump         code and source lines, too              perf inject --jit, perf annotate
//!            └─ GDB's list           symbols, source lines and frames        gdb: break, list, info line, backtrace
//! ```

mod frames;
mod gdb;
mod jitdump;
mod perf_map;
mod symfile;

use std::io;
use std::ops::Range;
use std::path::PathBuf;

use rtbpf_isa::{InsnIdx, Program, SourceLine};

use crate::code::Unwind;
use crate::native::Native;

pub(crate) use gdb::Registered;

/// Which tools are told. None by default.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tools {
    /// Functions go into `/tmp/perf-PID.map`, where `perf` looks for them.
    pub perf_map: bool,
    /// Code and source lines go into `jit-PID.dump` in this folder: `perf record -k 1`, then `perf inject --jit`.
    pub jitdump: Option<PathBuf>,
    /// Functions, source lines and frames go onto GDB's list of compiled code, until the code is dropped.
    pub gdb: bool,
}

impl Tools {
    /// Tells them of `native`, which is `program` under the name `name`. Fails when a file cannot be written.
    pub fn show(&self, native: &Native, name: &str, program: &Program) -> io::Result<()> {
        if *self == Tools::default() {
            return Ok(());
        }
        let seen = Seen::new(native, name, program);
        if self.perf_map {
            perf_map::append(&seen)?;
        }
        if let Some(folder) = &self.jitdump {
            jitdump::append(folder, &seen)?;
        }
        if self.gdb {
            native.keep(gdb::register(symfile::symfile(&seen)));
        }
        Ok(())
    }
}

/// A published program as tools see it.
struct Seen<'a> {
    /// Address of its first byte.
    base: usize,
    /// Its bytes, as linked.
    image: &'a [u8],
    /// Functions by address; together they cover the image.
    functions: Vec<(Range<usize>, String)>,
    /// Where each source line's code begins, by address.
    lines: Vec<(usize, &'a SourceLine)>,
    /// What happens to frames of the stack, by offset.
    unwind: &'a [Unwind],
}

impl<'a> Seen<'a> {
    fn new(native: &'a Native, name: &str, program: &'a Program) -> Seen<'a> {
        let (base, image) = (native.base(), native.image());
        let starts = native.functions();
        let ends = starts.iter().skip(1).copied().chain([image.len() as u32]);
        let functions =
            starts.iter().zip(ends).zip(program.subprogs()).enumerate().map(|(at, ((&start, end), sub))| {
                // The entry, or its stub, is the first byte.
                let start = if at == 0 { 0 } else { start };
                let own = sub.name.as_deref().map_or_else(|| format!("f{at}"), String::from);
                let name = if at == 0 { format!("bpf_prog_{name}") } else { format!("bpf_prog_{name}.{own}") };
                (base + start as usize..base + end as usize, name.replace(char::is_whitespace, "_"))
            });
        let functions: Vec<(Range<usize>, String)> = functions.collect();
        let places = native.places().into_iter().filter(|(offset, _)| (*offset as usize) < image.len());
        let places: Vec<(usize, InsnIdx)> = places.map(|(offset, at)| (base + offset as usize, at)).collect();
        let mut lines: Vec<(usize, &SourceLine)> = Vec::new();
        for (range, _) in &functions {
            // A function's prologue belongs to its first line.
            let (mut begins, mut last) = (Some(range.start), None);
            for &(address, at) in places.iter().filter(|(address, _)| range.contains(address)) {
                let line = program.line(at);
                if let Some(line) = line.filter(|_| line != last) {
                    lines.push((begins.take().unwrap_or(address), line));
                }
                last = line;
            }
        }
        Seen { base, image, functions, lines, unwind: native.unwind() }
    }
}
