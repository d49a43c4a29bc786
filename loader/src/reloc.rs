//! Relocations of code: maps, variables, functions, externs.
//!
//! A relocation says which symbol an instruction means; with REL the offset from it stands in the instruction, and
//! RELA's addend is first put there. What the section of the symbol holds decides what the instruction becomes:
//!
//! ```text
//!  instruction   symbol in       becomes
//!  wide load     map section     address of a map          (pseudo source 1, map index)
//!                data section    address in a map's value  (2, map index, offset)
//!                code section    address of a function     (4, resolved by link)
//!                nowhere         configuration, kernel variable, 0
//!  call          code section    call of a function        (1, resolved by link)
//!                nowhere         call of a kernel function (2, its number)
//! ```

use std::collections::HashMap;

use rtbpf_isa::RawInsn;
use rtbpf_isa::raw::is_wide;

use crate::code::Target;
use crate::elf::{Holds, Place, Reloc, Symbol, Unit};
use crate::error::Error;
use crate::externs::Extern;
use crate::maps::Sites;
use crate::object::Object;

/// `BPF_JMP | BPF_CALL`.
pub(crate) const CALL: u8 = 0x85;

/// Pseudo sources of wide loads and calls.
pub(crate) mod pseudo {
    pub const MAP: u8 = 1;
    pub const MAP_VALUE: u8 = 2;
    pub const VAR: u8 = 3;
    pub const FUNC: u8 = 4;
    pub const CALL: u8 = 1;
    pub const KFUNC: u8 = 2;
}

/// Helper number of a call to a weak kernel function that is not there, plus the extern's place: Linux's verifier
/// log names it so.
const POISONED_KFUNC: i32 = 2_002_000_000;

/// R_BPF_NONE, which the first compilers wrote for all.
const R_NONE: u32 = 0;
/// R_BPF_64_64: a wide load.
const R_WIDE: u32 = 1;
/// R_BPF_64_32: a call.
const R_CALL: u32 = 10;

impl Object {
    pub(crate) fn relocate(
        &mut self,
        unit: &Unit<'_>,
        sites: &Sites,
        externs: &HashMap<&str, Extern>,
    ) -> Result<(), Error> {
        for section in &unit.sections {
            if section.holds != Holds::Code && section.name != ".maps" {
                self.relocs.ignored = self.relocs.ignored.saturating_add(section.relocs.len() as u32);
            }
        }
        for index in 0..self.code.sections.len() {
            let unit_section = self.code.sections.get(index).map_or(0, |section| section.unit_section);
            let Some(section) = unit.sections.get(unit_section) else { continue };
            for reloc in &section.relocs {
                let Some(symbol) = unit.symbols.get(reloc.symbol) else { continue };
                self.relocate_one(index, reloc, symbol, unit, sites, externs).map_err(|why| Error::Reloc {
                    section: section.name.to_string(),
                    offset: reloc.offset,
                    kind: reloc.kind,
                    symbol: symbol_name(unit, symbol),
                    why,
                })?;
            }
            self.own_calls(index)?;
        }
        Ok(())
    }

    fn relocate_one(
        &mut self,
        index: usize,
        reloc: &Reloc,
        symbol: &Symbol<'_>,
        unit: &Unit<'_>,
        sites: &Sites,
        externs: &HashMap<&str, Extern>,
    ) -> Result<(), String> {
        let Some(slot) = u32::try_from(reloc.offset / 8).ok().filter(|_| reloc.offset.is_multiple_of(8)) else {
            return Err("it is not at the start of an instruction".into());
        };
        let Some((first, second)) = self.slots_at(index, slot) else {
            return Err("it lies beyond the section's last instruction".into());
        };
        match (reloc.kind, first.code) {
            (R_WIDE | R_NONE, code) if is_wide(code) => {
                let Some(second) = second else { return Err("its wide load lacks a second half".into()) };
                let addend = reloc.addend.unwrap_or(i64::from(first.imm));
                self.wide(index, slot, [first, second], symbol, addend, sites, externs, unit)
            }
            (R_CALL | R_NONE, CALL) => {
                let addend = match reloc.addend {
                    // The psABI counts bytes to the end of the call.
                    Some(addend) => addend / 8 - i64::from(addend != 0),
                    None => i64::from(first.imm),
                };
                self.call(index, slot, first, symbol, addend, externs)
            }
            (R_WIDE | R_CALL | R_NONE, code) => Err(format!("instruction {code:#04x} cannot take it")),
            _ => Err("instructions have no such relocation; rebuild the object with a current clang".into()),
        }
    }

    fn slots_at(&self, section: usize, slot: u32) -> Option<(RawInsn, Option<RawInsn>)> {
        let slots = &self.code.sections.get(section)?.slots;
        Some((*slots.get(slot as usize)?, slots.get(slot as usize + 1).copied()))
    }

    pub(crate) fn set_slot(&mut self, section: usize, slot: u32, insn: RawInsn) {
        let section = self.code.sections.get_mut(section);
        if let Some(to) = section.and_then(|section| section.slots.get_mut(slot as usize)) {
            *to = insn;
        }
    }

    fn set_wide(&mut self, section: usize, slot: u32, [first, second]: [RawInsn; 2], src: u8, imm: [u32; 2]) {
        self.set_slot(section, slot, RawInsn { src, imm: imm[0] as i32, ..first });
        self.set_slot(section, slot + 1, RawInsn { imm: imm[1] as i32, ..second });
    }

    #[allow(clippy::too_many_arguments)]
    fn wide(
        &mut self,
        section: usize,
        slot: u32,
        insns: [RawInsn; 2],
        symbol: &Symbol<'_>,
        addend: i64,
        sites: &Sites,
        externs: &HashMap<&str, Extern>,
        unit: &Unit<'_>,
    ) -> Result<(), String> {
        let at = match symbol.at {
            Place::Section(at) => at,
            Place::Undefined => return self.wide_extern(section, slot, insns, symbol, externs),
            Place::Nowhere => return Err("it is defined in no section".into()),
        };
        let value = symbol.value.checked_add_signed(addend).ok_or("its address overflows")?;
        if let Some(&map) = sites.maps.get(&(at, value)) {
            self.set_wide(section, slot, insns, pseudo::MAP, [map as u32, 0]);
            self.relocs.maps += 1;
            return Ok(());
        }
        if let Some(&map) = sites.data.get(&at) {
            let offset = u32::try_from(value).map_err(|_| "it lies beyond its section's end".to_owned())?;
            self.set_wide(section, slot, insns, pseudo::MAP_VALUE, [map as u32, offset]);
            self.relocs.data += 1;
            return Ok(());
        }
        if let Some(target) = self.code.section_of(at) {
            let to = u32::try_from(value / 8).ok().filter(|_| value.is_multiple_of(8));
            let to = Target { section: target, slot: to.ok_or("it is not at the start of an instruction")? };
            self.aim(section, slot, to)?;
            self.set_wide(section, slot, insns, pseudo::FUNC, [0, 0]);
            self.relocs.functions += 1;
            return Ok(());
        }
        let holder = unit.sections.get(at).map_or("?", |section| section.name.as_ref());
        Err(format!("section {holder} has no map, variable or function at {value:#x}"))
    }

    fn wide_extern(
        &mut self,
        section: usize,
        slot: u32,
        insns: [RawInsn; 2],
        symbol: &Symbol<'_>,
        externs: &HashMap<&str, Extern>,
    ) -> Result<(), String> {
        let Some(&resolved) = externs.get(symbol.name.as_ref()) else {
            self.leave_undefined(section, slot, symbol);
            return Ok(());
        };
        let (src, imm) = match resolved {
            Extern::Kconfig { map, offset } => (pseudo::MAP_VALUE, [map as u32, offset]),
            Extern::Var { btf_id } => (pseudo::VAR, [btf_id, 0]),
            Extern::Kfunc { id } => (pseudo::VAR, [id as u32, 0]),
            Extern::Address(address) => (0, [address as u32, (address >> 32) as u32]),
            Extern::MissingKfunc { .. } => (0, [0, 0]),
        };
        match resolved {
            Extern::Kconfig { .. } => self.relocs.kconfig += 1,
            _ => self.relocs.ksyms += 1,
        }
        self.set_wide(section, slot, insns, src, imm);
        Ok(())
    }

    /// `addend` counts slots, less the one that a call counts from.
    fn call(
        &mut self,
        section: usize,
        slot: u32,
        insn: RawInsn,
        symbol: &Symbol<'_>,
        addend: i64,
        externs: &HashMap<&str, Extern>,
    ) -> Result<(), String> {
        match symbol.at {
            Place::Section(at) => {
                let Some(target) = self.code.section_of(at) else {
                    return Err("its section holds no code".into());
                };
                let to = i128::from(symbol.value / 8) + i128::from(addend) + 1;
                let to = u32::try_from(to).map_err(|_| "the called address overflows".to_owned())?;
                self.aim(section, slot, Target { section: target, slot: to })?;
                self.set_slot(section, slot, RawInsn { src: pseudo::CALL, ..insn });
                self.relocs.calls += 1;
                Ok(())
            }
            Place::Undefined => match externs.get(symbol.name.as_ref()) {
                Some(&Extern::Kfunc { id }) => {
                    self.set_slot(section, slot, RawInsn { src: pseudo::KFUNC, off: 0, imm: id, ..insn });
                    self.relocs.ksyms += 1;
                    Ok(())
                }
                Some(&Extern::MissingKfunc { at }) => {
                    let imm = POISONED_KFUNC.saturating_add(at);
                    self.set_slot(section, slot, RawInsn { src: 0, off: 0, imm, ..insn });
                    self.relocs.ksyms += 1;
                    Ok(())
                }
                Some(_) => Err("it is a variable, not a function".into()),
                None => {
                    self.leave_undefined(section, slot, symbol);
                    Ok(())
                }
            },
            Place::Nowhere => Err("it is defined in no section".into()),
        }
    }

    /// A program that reaches the instruction does not link; others do.
    fn leave_undefined(&mut self, section: usize, slot: u32, symbol: &Symbol<'_>) {
        self.relocs.undefined += 1;
        if let Some(section) = self.code.sections.get_mut(section) {
            section.undefined.insert(slot, symbol.name.as_ref().into());
        }
    }

    /// Remembers that the instruction names the function at `to`.
    fn aim(&mut self, section: usize, slot: u32, to: Target) -> Result<(), String> {
        if self.code.function_at(to).is_none() {
            let name = self.code.sections.get(to.section).map_or("?", |section| &section.name);
            return Err(format!("section {name} has no function at {:#x}", u64::from(to.slot) * 8));
        }
        if let Some(section) = self.code.sections.get_mut(section) {
            section.targets.insert(slot, to);
        }
        Ok(())
    }

    /// Calls within the section that the compiler resolved itself.
    fn own_calls(&mut self, index: usize) -> Result<(), Error> {
        let Some(section) = self.code.sections.get(index) else { return Ok(()) };
        let mut own = Vec::new();
        let mut slot = 0;
        while let Some(insn) = section.slots.get(slot) {
            let is_call = insn.code == CALL && insn.src == pseudo::CALL;
            let is_func = is_wide(insn.code) && insn.src == pseudo::FUNC;
            let known = section.targets.contains_key(&(slot as u32)) || section.undefined.contains_key(&(slot as u32));
            if (is_call || is_func) && !known {
                let to = slot as i64 + 1 + i64::from(insn.imm);
                match u32::try_from(to).ok().map(|to| Target { section: index, slot: to }) {
                    Some(to) if self.code.function_at(to).is_some() => own.push((slot as u32, to)),
                    _ => {
                        return Err(Error::Section {
                            section: section.name.to_string(),
                            offset: slot as u64 * 8,
                            why: format!("call of slot {to}, where no function is"),
                        });
                    }
                }
            }
            slot += if is_wide(insn.code) { 2 } else { 1 };
        }
        if let Some(section) = self.code.sections.get_mut(index) {
            section.targets.extend(own);
        }
        Ok(())
    }
}

fn symbol_name(unit: &Unit<'_>, symbol: &Symbol<'_>) -> String {
    match (symbol.name.as_ref(), symbol.at) {
        ("", Place::Section(at)) => format!("section {}", unit.sections.get(at).map_or("?", |s| s.name.as_ref())),
        ("", _) => "the empty symbol".to_owned(),
        (name, _) => name.to_owned(),
    }
}
