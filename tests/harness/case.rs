//! `.data` files: programs with what they compute, run on every engine.
//!
//! ```text
//! -- case sdiv64
//! -- asm
//! r0 = $a ll
//! r1 = $b ll
//! r0 s/= r1
//! exit
//! -- table                       one run a line; each $name is replaced by its column
//! a    b   result
//! -13  4   -3
//! ```
//!
//! Instead of a table, `-- result` holds the one result, or `-- fault` a part of the fault's sentence. `-- mem` is the
//! memory behind R1 (its length is in R2), `-- mem after` what it must hold in the end, `-- packet` a packet that
//! R1's context leads to, `-- map NAME KIND KEY VALUE ENTRIES` a map that the program names. Numbers are decimal or
//! hexadecimal, bytes are pairs of hexadecimal digits. Lines that begin with `#` or `;` are comments.
//!
//! A file without `-- case` is one case, so that the files of the public conformance suite can be read as they are.

use std::fs;
use std::path::{Path, PathBuf};

use rtbpf_isa::{RawInsn, asm};

/// A program with its input and what must come out.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Case {
    /// File and case; with a table, also the row.
    pub name: String,
    /// The program.
    pub slots: Vec<RawInsn>,
    /// Maps in the order of their indices.
    pub maps: Vec<CaseMap>,
    /// Memory behind R1, where the program has a plain context.
    pub mem: Vec<u8>,
    /// A packet; the context is then a socket buffer.
    pub packet: Option<Vec<u8>>,
    /// What must happen.
    pub expected: Expected,
}

/// A map that a case declares.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CaseMap {
    /// Name in the assembly.
    pub name: String,
    /// Linux's name of the kind, such as `array`.
    pub kind: String,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value.
    pub value_size: u32,
    /// Number of entries.
    pub max_entries: u32,
}

/// What a run must show.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Expected {
    /// R0 at the end; `None` when the run must fault.
    pub result: Option<u64>,
    /// Part of the fault's sentence.
    pub fault: Option<String>,
    /// Memory behind R1 at the end.
    pub mem_after: Option<Vec<u8>>,
}

/// All cases of the `.data` files in `folder`, in order of file names.
///
/// # Panics
///
/// When a file cannot be read or understood: the suite itself is broken then.
pub fn cases_in(folder: &Path) -> Vec<Case> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "data"));
    files.sort();
    let mut cases = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let stem = file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        cases.extend(parse(&stem, &text).unwrap_or_else(|e| panic!("{}: {e}", file.display())));
    }
    cases
}

/// Sections of one case as written.
#[derive(Default)]
struct Sections {
    name: String,
    asm: String,
    raw: String,
    mem: String,
    packet: Option<String>,
    result: Option<String>,
    fault: Option<String>,
    mem_after: Option<String>,
    table: Vec<String>,
    maps: Vec<CaseMap>,
}

/// The cases of a file.
pub fn parse(stem: &str, text: &str) -> Result<Vec<Case>, String> {
    let mut cases = Vec::new();
    let mut sections: Option<Sections> = None;
    let mut section = String::new();
    for line in text.lines() {
        if let Some(heading) = line.strip_prefix("-- ") {
            section = heading.trim().to_string();
            if let Some(name) = section.strip_prefix("case ") {
                if let Some(done) = sections.take() {
                    done.expand(&mut cases)?;
                }
                sections = Some(Sections { name: format!("{stem}/{}", name.trim()), ..Sections::default() });
            } else {
                let open = sections.get_or_insert_with(|| Sections { name: stem.into(), ..Sections::default() });
                open.begin(&section)?;
            }
        } else if let Some(open) = &mut sections {
            open.line(&section, line);
        }
    }
    if let Some(done) = sections {
        done.expand(&mut cases)?;
    }
    Ok(cases)
}

impl Sections {
    fn begin(&mut self, section: &str) -> Result<(), String> {
        if let Some(map) = section.strip_prefix("map ") {
            let words: Vec<&str> = map.split_whitespace().collect();
            let [name, kind, key, value, entries] = words[..] else {
                return Err(format!("`-- map {map}`: expected NAME KIND KEY VALUE ENTRIES"));
            };
            let size = |word: &str| number(word).map(|n| n as u32);
            self.maps.push(CaseMap {
                name: name.into(),
                kind: kind.into(),
                key_size: size(key)?,
                value_size: size(value)?,
                max_entries: size(entries)?,
            });
        }
        match section {
            "packet" => self.packet = Some(String::new()),
            "result" => self.result = Some(String::new()),
            "mem after" => self.mem_after = Some(String::new()),
            "fault" => self.fault = Some(String::new()),
            _ => {}
        }
        Ok(())
    }

    fn line(&mut self, section: &str, line: &str) {
        if section == "asm" {
            self.asm.push_str(line);
            self.asm.push('\n');
            return;
        }
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') || line.starts_with(';') {
            return;
        }
        let text = match section {
            "raw" => &mut self.raw,
            "mem" => &mut self.mem,
            "packet" => self.packet.get_or_insert_default(),
            "result" => self.result.get_or_insert_default(),
            "fault" => self.fault.get_or_insert_default(),
            "mem after" => self.mem_after.get_or_insert_default(),
            "table" => {
                self.table.push(line.into());
                return;
            }
            // The public suite's files hold more: C sources, notes.
            _ => return,
        };
        text.push_str(line);
        text.push(' ');
    }

    fn expand(self, cases: &mut Vec<Case>) -> Result<(), String> {
        let Some((header, rows)) = self.table.split_first() else {
            cases.push(self.case(self.name.clone(), &self.asm, self.result.as_deref())?);
            return Ok(());
        };
        let columns: Vec<&str> = header.split_whitespace().collect();
        if columns.last() != Some(&"result") {
            return Err(format!("{}: the last column of a table is `result`", self.name));
        }
        for row in rows {
            let values: Vec<&str> = row.split_whitespace().collect();
            if values.len() != columns.len() {
                return Err(format!("{}: `{row}` has {} columns, not {}", self.name, values.len(), columns.len()));
            }
            let mut asm = self.asm.clone();
            for (column, value) in columns.iter().zip(&values) {
                asm = asm.replace(&format!("${column}"), value);
            }
            let inputs = values[..values.len() - 1].join(", ");
            cases.push(self.case(format!("{}({inputs})", self.name), &asm, values.last().copied())?);
        }
        Ok(())
    }

    fn case(&self, name: String, asm: &str, result: Option<&str>) -> Result<Case, String> {
        let names: Vec<&str> = self.maps.iter().map(|map| map.name.as_str()).collect();
        let slots = if asm.trim().is_empty() {
            raw_slots(&self.raw)?
        } else {
            let out = asm::assemble(asm).map_err(|e| format!("{name}: {e}"))?;
            // Indices follow the order of first use: it must be that of the declarations.
            if out.maps.iter().zip(&names).any(|(used, declared)| used != declared) || out.maps.len() > names.len() {
                return Err(format!("{name}: maps used in the order {:?}, declared in the order {names:?}", out.maps));
            }
            out.slots
        };
        let expected = Expected {
            result: result.map(|text| number(text.trim())).transpose()?,
            fault: self.fault.as_ref().map(|text| text.trim().into()),
            mem_after: self.mem_after.as_deref().map(bytes).transpose()?,
        };
        if expected.result.is_none() == expected.fault.is_none() {
            return Err(format!("{name}: expected either a result or a fault"));
        }
        let packet = self.packet.as_deref().map(bytes).transpose()?;
        Ok(Case { name, slots, maps: self.maps.clone(), mem: bytes(&self.mem)?, packet, expected })
    }
}

/// The suite's `-- raw`: one number a slot.
fn raw_slots(text: &str) -> Result<Vec<RawInsn>, String> {
    let slots = text.split_whitespace().map(|word| Ok(RawInsn::from_le_bytes(number(word)?.to_le_bytes())));
    slots.collect()
}

fn number(word: &str) -> Result<u64, String> {
    let error = || format!("`{word}` is not a number of 64 bits");
    let (negative, digits) = word.strip_prefix('-').map_or((false, word), |digits| (true, digits));
    let magnitude = match digits.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => digits.parse(),
    };
    let magnitude = magnitude.map_err(|_| error())?;
    Ok(if negative { magnitude.wrapping_neg() } else { magnitude })
}

fn bytes(text: &str) -> Result<Vec<u8>, String> {
    let digits: Vec<char> = text.chars().filter(|c| !c.is_whitespace()).collect();
    let pairs = digits.chunks(2).map(|pair| {
        let pair: String = pair.iter().collect();
        u8::from_str_radix(&pair, 16).ok().filter(|_| pair.len() == 2).ok_or(format!("`{pair}` is not a byte"))
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_makes_a_case_of_each_row() {
        let text = "-- case add\n-- asm\nr0 = $a\nr0 += $b\nexit\n-- table\na b result\n1 2 3\n# note\n-1 1 0\n";
        let cases = parse("alu", text).unwrap();
        assert_eq!(cases.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), ["alu/add(1, 2)", "alu/add(-1, 1)"]);
        assert_eq!(cases[1].slots[0].imm, -1);
        assert_eq!(cases[1].expected.result, Some(0));
    }

    #[test]
    fn a_file_of_the_public_suite_is_one_case() {
        let text = "# note\n-- asm\nldxb %r0, [%r1+1]\nexit\n-- mem\naa bb\n-- result\n0xbb\n-- no register offset\n";
        let cases = parse("ldxb", text).unwrap();
        assert_eq!((cases.len(), cases[0].mem.as_slice()), (1, &[0xaa, 0xbb][..]));
        assert_eq!(cases[0].expected.result, Some(0xbb));
    }

    #[test]
    fn mistakes_in_a_file_are_reported() {
        let check = |text: &str, part: &str| {
            let error = parse("f", text).expect_err(text);
            assert!(error.contains(part), "{error}");
        };
        check("-- asm\nexit\n", "either a result or a fault");
        check("-- asm\nnonsense\n-- result\n1", "line 1");
        check("-- asm\nexit\n-- mem\nabc\n-- result\n1", "`c` is not a byte");
        check("-- asm\nexit\n-- table\na result\n1 2 3\n", "has 3 columns, not 2");
        check("-- asm\nr1 = map[m] ll\nexit\n-- result\n1", "maps used in the order");
    }
}
