//! Reads the measured tables of Linux 6.18 from the folder that `RTBPF_CORPORA` names.
#![allow(dead_code)] // each test binary uses its part

use std::path::PathBuf;

/// A tab-separated table with one header line.
pub struct Table {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

/// One row of a table.
#[derive(Clone, Copy)]
pub struct Row<'a> {
    table: &'a Table,
    cells: &'a [String],
}

/// The table of this name; `None`, with a line on standard output, where the tables are not at hand.
pub fn open(name: &str) -> Option<Table> {
    let Some(dir) = std::env::var_os("RTBPF_CORPORA") else {
        println!("skipped: RTBPF_CORPORA names no folder with {name}");
        return None;
    };
    let path = PathBuf::from(dir).join("linux-6.18").join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let split = |line: &str| line.split('\t').map(str::to_owned).collect::<Vec<_>>();
    let mut lines = text.lines().map(split);
    let header = lines.next().expect("a table has a header");
    Some(Table { header, rows: lines.collect() })
}

impl Table {
    pub fn header(&self) -> &[String] {
        &self.header
    }

    pub fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        self.rows.iter().map(|cells| Row { table: self, cells })
    }
}

impl<'a> Row<'a> {
    /// The cell in this column; empty where the row is short.
    pub fn get(&self, column: &str) -> &'a str {
        let at = self.table.header.iter().position(|c| c == column);
        let at = at.unwrap_or_else(|| panic!("no column {column}"));
        self.cells.get(at).map_or("", String::as_str)
    }

    pub fn number(&self, column: &str) -> u32 {
        self.get(column).parse().unwrap_or_else(|e| panic!("{column} {:?}: {e}", self.get(column)))
    }
}

/// Collects differences, and fails with all of them at the end.
#[derive(Default)]
pub struct Differences(Vec<String>, usize);

impl Differences {
    #[track_caller]
    pub fn check<T: PartialEq + std::fmt::Debug>(&mut self, what: impl Fn() -> String, ours: T, linux: T) {
        self.1 += 1;
        if ours != linux {
            self.0.push(format!("{}: ours {ours:?}, Linux {linux:?}", what()));
        }
    }

    pub fn finish(self, at_least: usize) {
        let shown = self.0.iter().take(40).cloned().collect::<Vec<_>>().join("\n");
        assert!(self.0.is_empty(), "{} differences in {} cells\n{shown}", self.0.len(), self.1);
        assert!(self.1 >= at_least, "only {} cells were judged", self.1);
        println!("{} cells agree", self.1);
    }
}
