//! What the system says of this process's pages, and what must not be true of them: writable and executable at once, or
//! one memory mapped twice, once so and once so.

use std::fmt;
use std::io;
use std::ops::Range;

/// A line of `/proc/self/maps` (proc(5)).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mapping {
    /// Addresses.
    pub range: Range<usize>,
    /// Programs may write to it.
    pub writable: bool,
    /// Programs may run in it.
    pub executable: bool,
    /// Writes reach whoever else maps the same memory.
    pub shared: bool,
    /// Byte in the file that the first address shows.
    pub offset: u64,
    /// Device and inode of the file; `None` for memory without one.
    pub file: Option<(String, u64)>,
}

/// Pages that code could be written to and run from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Breach {
    /// Of one mapping.
    Both(Mapping),
    /// Of two mappings of one memory: a writable one and an executable one.
    Twice(Mapping, Mapping),
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Breach::Both(at) => write!(f, "{:#x?} is writable and executable", at.range),
            Breach::Twice(writable, executable) => {
                write!(f, "{:#x?}, writable, shows the memory of {:#x?}, executable", writable.range, executable.range)
            }
        }
    }
}

impl Mapping {
    fn parse(line: &str) -> Option<Mapping> {
        let mut words = line.split_ascii_whitespace();
        let (range, flags, offset) = (words.next()?, words.next()?, words.next()?);
        let (device, inode) = (words.next()?, words.next()?.parse().ok()?);
        let (start, end) = range.split_once('-')?;
        let address = |text| usize::from_str_radix(text, 16).ok();
        Some(Mapping {
            range: address(start)?..address(end)?,
            writable: flags.contains('w'),
            executable: flags.contains('x'),
            shared: flags.contains('s'),
            offset: u64::from_str_radix(offset, 16).ok()?,
            file: (inode != 0).then(|| (device.to_string(), inode)),
        })
    }

    /// Bytes of the file that it shows.
    fn shows(&self) -> Range<u64> {
        self.offset..self.offset + (self.range.end - self.range.start) as u64
    }
}

/// The mappings of this process, by address.
pub fn mappings() -> io::Result<Vec<Mapping>> {
    let text = std::fs::read_to_string("/proc/self/maps")?;
    let bad = |line: &str| io::Error::other(format!("/proc/self/maps: cannot read `{line}`"));
    text.lines().map(|line| Mapping::parse(line).ok_or_else(|| bad(line))).collect()
}

/// The first breach among `mappings`, if there is one.
pub fn breach(mappings: &[Mapping]) -> Option<Breach> {
    if let Some(both) = mappings.iter().find(|mapping| mapping.writable && mapping.executable) {
        return Some(Breach::Both(both.clone()));
    }
    // A private mapping writes to copies of its own.
    let written = mappings.iter().filter(|mapping| mapping.writable && mapping.shared && mapping.file.is_some());
    for writable in written {
        let same = |other: &&Mapping| {
            let (a, b) = (writable.shows(), other.shows());
            other.executable && other.file == writable.file && a.start < b.end && b.start < a.end
        };
        if let Some(executable) = mappings.iter().find(same) {
            return Some(Breach::Twice(writable.clone(), executable.clone()));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(lines: &[&str], found: bool) {
        let mappings: Vec<_> = lines.iter().map(|line| Mapping::parse(line).expect("a line")).collect();
        assert_eq!(breach(&mappings).is_some(), found, "{lines:?}");
    }

    #[test]
    fn both_rights_and_two_views_of_one_memory_are_breaches() {
        let code = "7f0000000000-7f0000002000 r-xp 00000000 00:00 0";
        check(&[code, "7f0000002000-7f0000004000 rw-p 00000000 00:00 0 [heap]"], false);
        check(&[code, "7f0000002000-7f0000004000 rwxp 00000000 00:00 0"], true);
        let view = "7f1000000000-7f1000002000 r-xs 00001000 00:01 77 /memfd:code (deleted)";
        check(&[view, "7f2000000000-7f2000001000 rw-s 00002000 00:01 77 /memfd:code (deleted)"], true);
        check(&[view, "7f2000000000-7f2000001000 rw-s 00003000 00:01 77 /memfd:code (deleted)"], false);
        check(&[view, "7f2000000000-7f2000001000 rw-p 00002000 00:01 77 /memfd:code (deleted)"], false);
        check(&[view, "7f2000000000-7f2000001000 rw-s 00002000 00:01 78 /memfd:other (deleted)"], false);
    }

    #[test]
    fn this_process_is_listed_and_has_none() {
        let mappings = mappings().expect("the system lists mappings");
        let code = this_process_is_listed_and_has_none as *const () as usize;
        assert!(mappings.iter().any(|mapping| mapping.executable && mapping.range.contains(&code)));
        assert_eq!(breach(&mappings), None);
        assert!(Mapping::parse("7f0000002000 rwxp").is_none());
    }
}
