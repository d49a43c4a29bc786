//! One entry and the functions it reaches, as a [`Program`].
//!
//! Functions follow each other in the order of first mention, depth first, as libbpf lays them out: instruction for
//! instruction what Linux would be given.

use std::collections::HashMap;
use std::sync::Arc;

use rtbpf_btf::Kind;
use rtbpf_isa::{Program, RawInsn, SourceLine, decode};

use crate::code::{Function, FunctionId, Target};
use crate::error::Error;
use crate::object::{Object, ProgramSpec};

/// Instructions that wait for the place of their function.
type Fixup = (usize, Target);

#[derive(Default)]
struct Gathered {
    slots: Vec<RawInsn>,
    /// First slot of each function in the program.
    starts: HashMap<FunctionId, usize>,
    order: Vec<FunctionId>,
    fixups: Vec<Fixup>,
}

impl Object {
    /// Links the program called `name`; see [`Object::link`].
    pub fn link_named(&self, name: &str) -> Result<Program, Error> {
        match self.program(name) {
            Some(program) => self.link(program),
            None => {
                let known: Vec<&str> = self.programs.iter().map(|program| program.name.as_str()).take(20).collect();
                let why = format!("the object has [{}]", known.join(", "));
                Err(Error::NoSuch { what: "program", name: name.to_owned(), why })
            }
        }
    }

    /// The program's own function and all that it calls or takes the address of, decoded, with names, linkage, types
    /// and source lines.
    pub fn link(&self, program: &ProgramSpec) -> Result<Program, Error> {
        let mut gathered = Gathered::default();
        self.gather(program.entry, &mut gathered)?;
        if let Some(&callback) = self.code.exception_callbacks.get(&program.entry) {
            self.gather(callback, &mut gathered)?;
        }
        for &(at, to) in &gathered.fixups {
            let place = self.code.function_at(to).and_then(|id| {
                let start = gathered.starts.get(&id)?;
                Some(start + (to.slot - self.code.functions.get(id)?.start) as usize)
            });
            // Both are below MAX_SLOTS.
            if let (Some(place), Some(insn)) = (place, gathered.slots.get_mut(at)) {
                insn.imm = (place as i64 - at as i64 - 1) as i32;
            }
        }
        let refuse = |source| Error::Decode { program: program.name.clone(), source };
        let mut linked = decode(&gathered.slots).map_err(refuse)?;
        linked.name.clone_from(&program.name);
        self.describe(&gathered, &mut linked);
        Ok(linked)
    }

    /// Appends `root` and what it reaches. The stack holds functions being read, each with the slot to go on from.
    fn gather(&self, root: FunctionId, into: &mut Gathered) -> Result<(), Error> {
        let mut open: Vec<(FunctionId, u32)> = Vec::new();
        if self.append(root, into)? {
            open.push((root, 0));
        }
        while let Some((id, from)) = open.pop() {
            let Some((function, start)) = self.code.functions.get(id).zip(into.starts.get(&id).copied()) else {
                continue;
            };
            let Some(section) = self.code.sections.get(function.section) else { continue };
            for slot in from..function.slots {
                let Some(&to) = section.targets.get(&(function.start + slot)) else { continue };
                into.fixups.push((start + slot as usize, to));
                let Some(callee) = self.code.function_at(to) else { continue };
                if self.append(callee, into)? {
                    open.push((id, slot + 1));
                    open.push((callee, 0));
                    break;
                }
            }
        }
        Ok(())
    }

    /// Whether the function is new to the program.
    fn append(&self, id: FunctionId, into: &mut Gathered) -> Result<bool, Error> {
        if into.starts.contains_key(&id) {
            return Ok(false);
        }
        let Some(function) = self.code.functions.get(id) else { return Ok(false) };
        let Some(slots) = self.slots_of(function) else { return Ok(false) };
        if into.slots.len() + slots.len() > Program::MAX_SLOTS {
            return Err(Error::Limit { what: "slots of a linked program", limit: Program::MAX_SLOTS as u64 });
        }
        let own = function.start..function.start + function.slots;
        let section = self.code.sections.get(function.section);
        if let Some((section, (slot, symbol))) = section.and_then(|s| Some((s, s.undefined.range(own).next()?))) {
            return Err(Error::Undefined {
                section: section.name.to_string(),
                offset: u64::from(*slot) * 8,
                symbol: symbol.to_string(),
            });
        }
        into.starts.insert(id, into.slots.len());
        into.order.push(id);
        into.slots.extend(slots);
        Ok(true)
    }

    fn slots_of(&self, function: &Function) -> Option<&[RawInsn]> {
        let slots = &self.code.sections.get(function.section)?.slots;
        slots.get(function.start as usize..(function.start + function.slots) as usize)
    }

    /// Names, linkage, types and lines.
    fn describe(&self, gathered: &Gathered, linked: &mut Program) {
        let mut lines = Vec::new();
        let mut texts: HashMap<u32, Arc<str>> = HashMap::new();
        for &id in &gathered.order {
            let Some((function, &start)) = self.code.functions.get(id).zip(gathered.starts.get(&id)) else { continue };
            let Some(at) = linked.insn_at_slot(start as u32) else { continue };
            linked.add_subprog(at);
            let subprog = linked.subprog_at(at);
            if let Some(subprog) = linked.subprogs_mut().get_mut(subprog) {
                subprog.name = Some(function.name.clone());
                subprog.linkage = function.linkage;
                subprog.btf_id = function.btf_id.0;
            }
            let (Some(section), Some(btf)) = (self.code.sections.get(function.section), &self.btf) else { continue };
            let end = function.start + function.slots;
            let from = section.lines.partition_point(|line| line.slot < function.start);
            let own = section.lines.get(from..).unwrap_or_default().iter().take_while(|line| line.slot < end);
            for line in own {
                let Some(at) = linked.insn_at_slot(start as u32 + line.slot - function.start) else { continue };
                let mut text = |offset| texts.entry(offset).or_insert_with(|| btf.str(offset).into()).clone();
                let (file, source) = (text(line.file), text(line.text));
                let source = match source.trim() {
                    trimmed if trimmed.len() == source.len() => source,
                    trimmed => trimmed.into(),
                };
                lines.push(SourceLine { at, file, line: line.line, column: line.column, text: source });
            }
        }
        linked.set_lines(lines);
    }

    /// The function's declaration in C, where BTF has it.
    pub fn prototype(&self, program: &ProgramSpec) -> Option<String> {
        let (btf, function) = (self.btf.as_ref()?, self.code.functions.get(program.entry)?);
        matches!(btf.get(function.btf_id)?.kind, Kind::Func { .. }).then(|| btf.define(function.btf_id))
    }
}
