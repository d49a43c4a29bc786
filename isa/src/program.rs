//! A decoded program: one entry and its subprograms.
//!
//! Instruction `i` is the same instruction in every later log, fact, line table and native offset; the count never
//! changes after decoding. Logs, line info and corpora count *slots* (a wide load is two): [`Program::slot`].

use std::sync::Arc;

use crate::insn::{Insn, InsnIdx};
use crate::raw::RawInsn;

/// Who may call a subprogram, and how the verifier treats it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Linkage {
    /// Verified at each call, with what the caller knows.
    #[default]
    Static,
    /// Verified once against its declared types.
    Global,
    /// Resolved at load, outside this program.
    Extern,
}

/// A function of a program: instructions `start..end`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Subprog {
    /// First instruction.
    pub start: InsnIdx,
    /// One past its last instruction.
    pub end: InsnIdx,
    /// Its name, where symbols or BTF give one.
    pub name: Option<Arc<str>>,
    /// Its linkage; static unless BTF says otherwise.
    pub linkage: Linkage,
    /// BTF type id of the function, in the program's BTF; 0 when unknown.
    pub btf_id: u32,
}

impl Subprog {
    /// A static, nameless subprogram.
    pub fn new(start: InsnIdx, end: InsnIdx) -> Subprog {
        Subprog { start, end, name: None, linkage: Linkage::Static, btf_id: 0 }
    }

    /// Whether `at` belongs to it.
    pub fn contains(&self, at: InsnIdx) -> bool {
        self.start <= at && at < self.end
    }
}

/// Where an instruction comes from. Valid from `at` up to the next record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SourceLine {
    /// First instruction of the line.
    pub at: InsnIdx,
    /// File name as the compiler saw it.
    pub file: Arc<str>,
    /// Line, from 1.
    pub line: u32,
    /// Column, from 1; 0 when unknown.
    pub column: u32,
    /// The line's text; empty when the object does not carry it.
    pub text: Arc<str>,
}

/// Decoded instructions, their subprograms and source lines.
#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    /// Name of the entry function; empty when unknown.
    pub name: String,
    insns: Vec<Insn>,
    /// First slot of each instruction, and the slot count at the end.
    slots: Vec<u32>,
    raw: Vec<RawInsn>,
    subprogs: Vec<Subprog>,
    lines: Vec<SourceLine>,
}

impl Program {
    /// The most slots a program may have (Linux: `BPF_COMPLEXITY_LIMIT_INSNS`).
    pub const MAX_SLOTS: usize = 1_000_000;

    pub(crate) fn from_parts(insns: Vec<Insn>, slots: Vec<u32>, raw: Vec<RawInsn>, subprogs: Vec<Subprog>) -> Program {
        Program { name: String::new(), insns, slots, raw, subprogs, lines: Vec::new() }
    }

    /// All instructions.
    #[inline]
    pub fn insns(&self) -> &[Insn] {
        &self.insns
    }

    /// Instructions with their indices.
    #[inline]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (InsnIdx, &Insn)> {
        self.insns.iter().enumerate().map(|(at, insn)| (InsnIdx(at as u32), insn))
    }

    /// The instruction at `at`.
    #[inline]
    pub fn get(&self, at: InsnIdx) -> Option<&Insn> {
        self.insns.get(at.index())
    }

    /// How many instructions.
    #[inline]
    pub fn len(&self) -> usize {
        self.insns.len()
    }

    /// Never true: decoding refuses an empty program.
    pub fn is_empty(&self) -> bool {
        self.insns.is_empty()
    }

    /// The first slot of instruction `at`; the slot count when `at` is one past the end.
    #[inline]
    pub fn slot(&self, at: InsnIdx) -> u32 {
        self.slots.get(at.index()).or(self.slots.last()).copied().unwrap_or_default()
    }

    /// How many slots.
    pub fn slot_count(&self) -> usize {
        self.raw.len()
    }

    /// The instruction that starts at or contains slot `slot`.
    pub fn insn_at_slot(&self, slot: u32) -> Option<InsnIdx> {
        if slot as usize >= self.raw.len() {
            return None;
        }
        Some(InsnIdx(self.slots.partition_point(|&first| first <= slot) as u32 - 1))
    }

    /// The slots instruction `at` was decoded from: one, or two for a wide load.
    #[inline]
    pub fn raw(&self, at: InsnIdx) -> &[RawInsn] {
        self.raw.get(self.slot(at) as usize..self.slot(at.next()) as usize).unwrap_or_default()
    }

    /// All slots.
    pub fn raw_slots(&self) -> &[RawInsn] {
        &self.raw
    }

    /// Subprograms in address order; the first holds the entry.
    #[inline]
    pub fn subprogs(&self) -> &[Subprog] {
        &self.subprogs
    }

    /// Subprograms, to add names, linkage and types.
    pub fn subprogs_mut(&mut self) -> &mut [Subprog] {
        &mut self.subprogs
    }

    /// Index of the subprogram that holds `at`.
    pub fn subprog_at(&self, at: InsnIdx) -> usize {
        self.subprogs.partition_point(|s| s.start <= at).saturating_sub(1)
    }

    /// Splits subprograms at `start`, for functions that only symbols or BTF know.
    pub fn add_subprog(&mut self, start: InsnIdx) {
        let inside = self.subprog_at(start);
        if let Some(outer) = self.subprogs.get_mut(inside)
            && outer.start < start
            && start < outer.end
        {
            let end = std::mem::replace(&mut outer.end, start);
            self.subprogs.insert(inside + 1, Subprog::new(start, end));
        }
    }

    /// Source lines, in instruction order.
    pub fn lines(&self) -> &[SourceLine] {
        &self.lines
    }

    /// Sets the source lines; sorts them.
    pub fn set_lines(&mut self, mut lines: Vec<SourceLine>) {
        lines.sort_by_key(|line| line.at);
        self.lines = lines;
    }

    /// The source line of `at`, where known: the last record at or before it, within its subprogram.
    pub fn line(&self, at: InsnIdx) -> Option<&SourceLine> {
        let line = self.lines.get(self.lines.partition_point(|line| line.at <= at).checked_sub(1)?)?;
        let start = self.subprogs.get(self.subprog_at(at))?.start;
        (line.at >= start).then_some(line)
    }

    /// Targets of local calls and callback references, with the instruction that names them.
    pub fn function_refs(&self) -> impl Iterator<Item = (InsnIdx, InsnIdx)> {
        self.iter().filter_map(|(at, insn)| insn.function_target().map(|to| (at, at.target(to))))
    }
}
