//! Code sections, the functions in them, and which of those are programs.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use rtbpf_abi::{ProgType, sections};
use rtbpf_btf::{BtfExt, Kind, TypeId};
use rtbpf_isa::{Linkage, RawInsn};

use crate::elf::{Bind, Holds, Place, Symbol, SymbolKind, Unit};
use crate::error::Error;
use crate::object::{Object, ParseOptions, ProgramSpec};

/// Index of a function.
pub(crate) type FunctionId = usize;

/// All code of an object, relocated but for calls and function addresses.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Code {
    pub sections: Vec<CodeSection>,
    pub functions: Vec<Function>,
    /// Sections by name, and by index in the unit.
    by_name: HashMap<Arc<str>, usize>,
    by_unit: HashMap<usize, usize>,
    /// The function that each tagged one leaves exceptions to.
    pub exception_callbacks: HashMap<FunctionId, FunctionId>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct CodeSection {
    pub name: Arc<str>,
    /// Index in the unit.
    pub unit_section: usize,
    pub slots: Vec<RawInsn>,
    /// Slots that name a function: calls and wide loads of addresses, with the slot they name.
    pub targets: HashMap<u32, Target>,
    /// Slots that name a symbol which the object does not define.
    pub undefined: BTreeMap<u32, Arc<str>>,
    /// Functions by first slot; entries of the same slot are aliases.
    pub by_start: Vec<(u32, FunctionId)>,
    pub lines: Vec<Line>,
}

/// A slot of a section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub section: usize,
    pub slot: u32,
}

/// A source line, from `slot` on.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Line {
    pub slot: u32,
    pub line: u32,
    pub column: u32,
    pub file: u32,
    pub text: u32,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Function {
    pub name: Arc<str>,
    /// Index in [`Code::sections`].
    pub section: usize,
    pub start: u32,
    pub slots: u32,
    pub linkage: Linkage,
    pub btf_id: TypeId,
    /// Local to its file.
    pub local: bool,
}

impl Code {
    /// The code section made of the unit's section.
    pub fn section_of(&self, unit_section: usize) -> Option<usize> {
        self.by_unit.get(&unit_section).copied()
    }

    /// The first code section of that name.
    pub fn section_named(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// The function that holds `at`: the last one that starts at or before it.
    pub fn function_at(&self, at: Target) -> Option<FunctionId> {
        let starts = &self.sections.get(at.section)?.by_start;
        let &(first, _) = starts.get(starts.partition_point(|&(start, _)| start <= at.slot).checked_sub(1)?)?;
        // Of aliases, the first.
        let &(_, id) = starts.get(starts.partition_point(|&(start, _)| start < first))?;
        let function = self.functions.get(id)?;
        (at.slot - function.start < function.slots).then_some(id)
    }
}

impl Object {
    pub(crate) fn find_functions(&mut self, unit: &Unit<'_>, ext: &BtfExt) -> Result<(), Error> {
        for (index, section) in unit.sections.iter().enumerate() {
            if section.holds != Holds::Code || section.bytes.is_empty() {
                continue;
            }
            let slots = RawInsn::parse_all(&section.bytes).ok_or_else(|| Error::Section {
                section: section.name.to_string(),
                offset: section.bytes.len() as u64 & !7,
                why: "code ends within an instruction (must be a multiple of 8 bytes)".into(),
            })?;
            let name: Arc<str> = section.name.as_ref().into();
            self.code.by_unit.insert(index, self.code.sections.len());
            self.code.by_name.entry(name.clone()).or_insert(self.code.sections.len());
            self.code.sections.push(CodeSection {
                name,
                unit_section: index,
                slots,
                targets: HashMap::new(),
                undefined: BTreeMap::new(),
                by_start: Vec::new(),
                lines: Vec::new(),
            });
        }
        let mut found: Vec<Vec<&Symbol<'_>>> = vec![Vec::new(); self.code.sections.len()];
        let mut loose = found.clone();
        for symbol in &unit.symbols {
            let Place::Section(at) = symbol.at else { continue };
            let Some(section) = self.code.section_of(at) else { continue };
            let list = match symbol.kind {
                SymbolKind::Function => found.get_mut(section),
                // The first compilers gave functions no type.
                SymbolKind::None if symbol.bind != Bind::Local && !symbol.name.is_empty() => loose.get_mut(section),
                _ => None,
            };
            if let Some(list) = list {
                list.push(symbol);
            }
        }
        for (section, (functions, loose)) in found.into_iter().zip(loose).enumerate() {
            let symbols = if functions.is_empty() { loose } else { functions };
            self.functions_of(section, symbols)?;
        }
        self.type_functions(ext);
        Ok(())
    }

    fn functions_of(&mut self, section: usize, mut symbols: Vec<&Symbol<'_>>) -> Result<(), Error> {
        symbols.sort_by_key(|symbol| symbol.value);
        let Some(into) = self.code.sections.get_mut(section) else { return Ok(()) };
        let total = into.slots.len() as u32;
        if symbols.is_empty() {
            let name = into.name.clone();
            into.by_start.push((0, self.code.functions.len()));
            self.code.functions.push(Function {
                name,
                section,
                start: 0,
                slots: total,
                linkage: Linkage::Static,
                btf_id: TypeId::VOID,
                local: false,
            });
            return Ok(());
        }
        let ends: Vec<u64> = symbols.iter().map(|symbol| symbol.value).collect();
        for symbol in symbols {
            let refuse = |why: &str| Error::Symbol {
                symbol: symbol.name.to_string(),
                section: into.name.to_string(),
                offset: symbol.value,
                why: why.to_owned(),
            };
            let size = match symbol.size {
                // Up to the next function.
                0 => {
                    let next = ends.get(ends.partition_point(|&start| start <= symbol.value));
                    next.copied().unwrap_or(u64::from(total) * 8).saturating_sub(symbol.value)
                }
                size => size,
            };
            if !symbol.value.is_multiple_of(8) || !size.is_multiple_of(8) {
                return Err(refuse("function starts or ends within an instruction"));
            }
            let end = symbol.value.checked_add(size).filter(|&end| end <= u64::from(total) * 8);
            if end.is_none() || size == 0 {
                return Err(refuse(&format!(
                    "function of {size} bytes does not lie in the section's {} bytes",
                    total * 8
                )));
            }
            let start = (symbol.value / 8) as u32;
            into.by_start.push((start, self.code.functions.len()));
            self.code.functions.push(Function {
                name: symbol.name.as_ref().into(),
                section,
                start,
                slots: (size / 8) as u32,
                linkage: if symbol.bind == Bind::Local || symbol.hidden { Linkage::Static } else { Linkage::Global },
                btf_id: TypeId::VOID,
                local: symbol.bind == Bind::Local,
            });
        }
        Ok(())
    }

    /// Types by `.BTF.ext`. Without a type no function is global: nothing could be checked against.
    fn type_functions(&mut self, ext: &BtfExt) {
        let Some(btf) = &self.btf else {
            self.code.functions.iter_mut().for_each(|function| function.linkage = Linkage::Static);
            return;
        };
        let mut types = HashMap::new();
        for info in &ext.funcs {
            let name = btf.str(info.name);
            let Some(section) = self.code.section_named(name) else { continue };
            types.extend(info.records.iter().map(|record| ((section, record.offset / 8), record.ty)));
        }
        for function in &mut self.code.functions {
            let ty = types.get(&(function.section, function.start)).and_then(|&ty| btf.get(ty));
            match ty.map(|ty| (ty.id, ty.kind)) {
                Some((id, Kind::Func { linkage, .. })) => {
                    function.btf_id = id;
                    if linkage != rtbpf_btf::Linkage::Global {
                        function.linkage = Linkage::Static;
                    }
                }
                _ => function.linkage = Linkage::Static,
            }
        }
        let tags = btf.iter().filter_map(|ty| match ty.kind {
            Kind::DeclTag { to, component: None } => Some((to, ty.name.strip_prefix("exception_callback:")?)),
            _ => None,
        });
        let tags: HashMap<TypeId, &str> = tags.collect();
        if tags.is_empty() {
            return;
        }
        let by_name: HashMap<&str, FunctionId> =
            self.code.functions.iter().enumerate().map(|(id, function)| (&*function.name, id)).collect();
        for (id, function) in self.code.functions.iter().enumerate() {
            if let Some(&callback) = tags.get(&function.btf_id).and_then(|name| by_name.get(name)) {
                self.code.exception_callbacks.insert(id, callback);
            }
        }
    }

    /// Programs are the functions outside `.text`; where there are none, the global functions in it.
    pub(crate) fn find_programs(&mut self, options: &ParseOptions<'_>) {
        let in_text = |section: &CodeSection| &*section.name == ".text";
        let only_text = self.code.sections.iter().all(in_text);
        for (entry, function) in self.code.functions.iter().enumerate() {
            let Some(section) = self.code.sections.get(function.section) else { continue };
            if function.local || (in_text(section) && !only_text) {
                continue;
            }
            let kind = sections::kind_of(&section.name);
            let given = options.types.iter().rev().find(|of| of.program.is_empty() || *of.program == *function.name);
            self.programs.push(ProgramSpec {
                name: function.name.to_string(),
                section: section.name.to_string(),
                prog_type: given.map_or(kind.map_or(ProgType::Unspec, |kind| kind.prog), |of| of.prog_type),
                attach_type: given.map_or(kind.and_then(|kind| kind.attach), |of| of.attach_type),
                attach_target: kind.and_then(|kind| kind.target).map(str::to_owned),
                flags: kind.map_or(0, |kind| kind.flags),
                autoload: !section.name.starts_with('?'),
                slots: function.slots,
                entry,
            });
        }
    }
}
