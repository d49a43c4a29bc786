//! CO-RE: instructions adjusted to the types of the system they run on.
//!
//! ```text
//!  record: instruction, type, "0:1:2", kind
//!    spec    the access by names, in the object's types
//!    compat  candidates of the same name in the target's types; which of them have it
//!    apply   the number asked for, in both; the instruction patched, or poisoned
//! ```
//!
//! Semantics are libbpf's, so that the same instructions come out. A relocation that the target cannot satisfy
//! poisons its instruction: a call of a helper that does not exist, refused where a path reaches it. The outcome keeps
//! the access by its names, so that the refusal can be explained.

mod apply;
mod compat;
mod spec;

use std::collections::HashMap;
use std::sync::Arc;

use rtbpf_btf::{Btf, BtfExt, CoreRelo, CoreReloKind, Kind, TypeId};
use rtbpf_isa::RawInsn;
use rtbpf_isa::raw::is_wide;

use crate::error::Error;
use crate::object::{Object, ParseOptions};
use apply::{Change, change, number, patch, poison};
use compat::Work;
use spec::Spec;

/// Helper number of a poisoned instruction.
pub const POISONED_HELPER: i32 = 195_896_080;

/// Steps of comparison that one object may cost.
const MAX_WORK: u64 = 1 << 28;

/// What became of a relocation.
#[derive(Clone, Debug, PartialEq)]
pub struct CoreOutcome {
    /// Section of the instruction.
    pub section: Arc<str>,
    /// Its byte offset there.
    pub offset: u64,
    /// What was asked for.
    pub kind: CoreReloKind,
    /// The access as the object spells it, such as `0:1:2`.
    pub access: Arc<str>,
    /// The access by names, such as `struct task_struct.pid`.
    pub path: Arc<str>,
    /// How it went.
    pub result: CoreResult,
}

/// How it went.
#[derive(Clone, Debug, PartialEq)]
pub enum CoreResult {
    /// The number was replaced.
    Applied {
        /// The compiler's.
        old: u64,
        /// The target's.
        new: u64,
    },
    /// No target was given: the instruction is as compiled.
    Kept,
    /// The target cannot satisfy it.
    Poisoned {
        /// Why not.
        why: Arc<str>,
    },
}

/// What to do to every instruction with the same type, access and kind.
#[derive(Clone)]
struct Resolved {
    access: Arc<str>,
    path: Arc<str>,
    verdict: Verdict,
}

#[derive(Clone)]
enum Verdict {
    Change(Change),
    Keep,
    Poison(Arc<str>),
}

impl Object {
    pub(crate) fn apply_core(&mut self, ext: &BtfExt, options: &ParseOptions<'_>) -> Result<(), Error> {
        let Some(btf) = self.btf.clone() else { return Ok(()) };
        let mut resolver = Resolver {
            btf: &btf,
            target: options.target_btf,
            work: Work::new(MAX_WORK),
            candidates: HashMap::new(),
            known: HashMap::new(),
        };
        for info in &ext.relos {
            let name = btf.str(info.name);
            let Some(index) = self.code.section_named(name) else { continue };
            for record in &info.records {
                self.apply_one(index, record, &mut resolver)?;
            }
        }
        Ok(())
    }

    fn apply_one(&mut self, index: usize, record: &CoreRelo, resolver: &mut Resolver<'_>) -> Result<(), Error> {
        let Some(section) = self.code.sections.get(index) else { return Ok(()) };
        let name = section.name.clone();
        let refuse = |access: &str, why: String| Error::Core {
            section: name.to_string(),
            offset: record.offset.into(),
            access: access.to_owned(),
            why,
        };
        let slot = record.offset / 8;
        let first = section.slots.get(slot as usize).filter(|_| record.offset.is_multiple_of(8));
        let Some(&first) = first else {
            return Err(refuse(resolver.access(record), "no instruction starts there".into()));
        };
        let second = section.slots.get(slot as usize + 1).copied().unwrap_or_default();
        let Some(kind) = CoreReloKind::from_number(record.kind) else {
            return Err(refuse(resolver.access(record), format!("unknown kind {}; the object is newer", record.kind)));
        };
        let resolved = resolver.resolve(record, kind).map_err(|why| refuse(resolver.access(record), why))?;
        if resolver.work.is_spent() {
            return Err(Error::Limit { what: "steps of comparing types for CO-RE", limit: MAX_WORK });
        }
        let result = match resolved.verdict {
            Verdict::Keep => CoreResult::Kept,
            Verdict::Poison(why) => self.poison(index, slot, first, why),
            Verdict::Change(change) => {
                match patch([first, second], &change).map_err(|why| refuse(&resolved.path, why))? {
                    Some([first, second]) => {
                        self.set_slot(index, slot, first);
                        if is_wide(first.code) {
                            self.set_slot(index, slot + 1, second);
                        }
                        self.relocs.core += 1;
                        CoreResult::Applied { old: change.old, new: change.new }
                    }
                    None => {
                        let why = "the field has another width there, and is signed or no integer";
                        self.poison(index, slot, first, why.into())
                    }
                }
            }
        };
        self.core.push(CoreOutcome {
            section: name,
            offset: record.offset.into(),
            kind,
            access: resolved.access,
            path: resolved.path,
            result,
        });
        Ok(())
    }

    fn poison(&mut self, section: usize, slot: u32, insn: RawInsn, why: Arc<str>) -> CoreResult {
        self.set_slot(section, slot, poison());
        if is_wide(insn.code) {
            self.set_slot(section, slot + 1, poison());
        }
        self.relocs.poisoned += 1;
        CoreResult::Poisoned { why }
    }

    /// The failed relocations among the instructions of `section`, for the explanation of a refusal.
    pub fn poisoned(&self) -> impl Iterator<Item = &CoreOutcome> {
        self.core.iter().filter(|outcome| matches!(outcome.result, CoreResult::Poisoned { .. }))
    }
}

struct Resolver<'a> {
    btf: &'a Btf,
    target: Option<&'a Btf>,
    work: Work,
    /// Types of the target by the object's type.
    candidates: HashMap<TypeId, Arc<[TypeId]>>,
    known: HashMap<(TypeId, u32, u32), Resolved>,
}

impl<'a> Resolver<'a> {
    fn access(&self, record: &CoreRelo) -> &'a str {
        let access = self.btf.str(record.access);
        access.get(..256).unwrap_or(access)
    }

    fn resolve(&mut self, record: &CoreRelo, kind: CoreReloKind) -> Result<Resolved, String> {
        let key = (record.ty, record.access, record.kind);
        if let Some(known) = self.known.get(&key) {
            return Ok(known.clone());
        }
        let access = self.access(record);
        let local = Spec::parse(self.btf, record.ty, access, kind)?;
        let verdict = self.verdict(&local, kind)?;
        let resolved = Resolved { access: access.into(), path: local.path().into(), verdict };
        self.known.insert(key, resolved.clone());
        Ok(resolved)
    }

    fn verdict(&mut self, local: &Spec<'a>, kind: CoreReloKind) -> Result<Verdict, String> {
        let Some(old) = number(kind, Some(local))? else { return Err("it asks for nothing".into()) };
        if kind == CoreReloKind::TypeIdLocal {
            return Ok(Verdict::Change(change(old, old, local, local)));
        }
        let Some(target) = self.target else { return Ok(Verdict::Keep) };
        let mut found: Option<(Change, u64)> = None;
        let candidates = self.candidates(local.root, target)?;
        for &candidate in candidates.iter() {
            let Some(there) = local.find_in(target, candidate, kind, &mut self.work) else { continue };
            let Some(new) = number(kind, Some(&there))? else { continue };
            let change = change(old, new, local, &there);
            match found {
                None => found = Some((change, there.bit_offset)),
                Some((first, bit_offset)) if first.new == change.new && bit_offset == there.bit_offset => {}
                Some(_) => return Ok(Verdict::Poison("types of this name disagree there".into())),
            }
        }
        if let Some((change, _)) = found {
            return Ok(Verdict::Change(change));
        }
        Ok(match number(kind, None)? {
            Some(new) => Verdict::Change(change(old, new, local, local)),
            None if candidates.is_empty() => Verdict::Poison("the target has no type of this name".into()),
            None => Verdict::Poison("the target's type has no such member or value".into()),
        })
    }

    /// Types of the target with the same kind and, flavours aside, the same name.
    fn candidates(&mut self, local: TypeId, target: &Btf) -> Result<Arc<[TypeId]>, String> {
        if let Some(known) = self.candidates.get(&local) {
            return Ok(known.clone());
        }
        let Some(ty) = self.btf.get(local).filter(|ty| !ty.name.is_empty()) else {
            return Err("its type has no name".into());
        };
        let same = |kind: Kind<'_>| std::mem::discriminant(&kind) == std::mem::discriminant(&ty.kind);
        let name = rtbpf_btf::essential_name(ty.name);
        let found: Arc<[TypeId]> =
            target.with_essential_name(name).filter(|ty| same(ty.kind)).map(|ty| ty.id).collect();
        self.work.spend(found.len() as u64);
        self.candidates.insert(local, found.clone());
        Ok(found)
    }
}
