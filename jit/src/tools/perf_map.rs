//! `/tmp/perf-PID.map`: a line of start, size and name for each function (perf's `jit-interface.txt`).

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::{self, Write as _};

use super::Seen;

/// Appends the functions of a program, in one write: other threads and other engines append as well.
pub(super) fn append(seen: &Seen<'_>) -> io::Result<()> {
    let mut text = String::new();
    for (range, name) in &seen.functions {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{:x} {:x} {name}", range.start, range.end - range.start);
    }
    let path = format!("/tmp/perf-{}.map", std::process::id());
    OpenOptions::new().create(true).append(true).open(path)?.write_all(text.as_bytes())
}
