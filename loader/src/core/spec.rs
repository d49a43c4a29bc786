//! Accesses: from `0:1:2` to named steps, and from the object's types to the target's.
//!
//! A step is a member, by name, or an array element, by index. The object's steps are taken again in the target's
//! types by the names, wherever the members lie there.

use rtbpf_btf::{Btf, CoreReloKind, Kind, TypeId, essential_name};

use super::compat::{Work, fields_compatible, types_compatible, types_match};

/// Steps that one access may have.
const MAX_STEPS: usize = 64;

/// One step of an access.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Step<'a> {
    /// The struct, union or enum of a named step; the element type of an index.
    pub ty: TypeId,
    pub index: u32,
    /// `None` for an array element.
    pub name: Option<&'a str>,
}

/// An access in one BTF.
#[derive(Clone, Debug)]
pub(super) struct Spec<'a> {
    pub btf: &'a Btf,
    pub root: TypeId,
    pub steps: Vec<Step<'a>>,
    pub bit_offset: u64,
}

/// Families of relocations: what an access string means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Family {
    Field,
    Type,
    Enumval,
}

pub(super) fn family(kind: CoreReloKind) -> Family {
    use CoreReloKind::*;
    match kind {
        FieldByteOffset | FieldByteSize | FieldExists | FieldSigned | FieldLshiftU64 | FieldRshiftU64 => Family::Field,
        TypeIdLocal | TypeIdTarget | TypeExists | TypeSize | TypeMatches => Family::Type,
        EnumvalExists | EnumvalValue => Family::Enumval,
    }
}

impl<'a> Spec<'a> {
    /// Reads `access` in the object's own types.
    pub fn parse(btf: &'a Btf, root: TypeId, access: &str, kind: CoreReloKind) -> Result<Spec<'a>, String> {
        let mut spec = Spec { btf, root, steps: Vec::new(), bit_offset: 0 };
        let mut indices = Vec::new();
        for index in access.split(':') {
            indices.push(index.parse::<u32>().map_err(|_| "its access string is not numbers and colons".to_owned())?);
            if indices.len() > MAX_STEPS {
                return Err(format!("its access string has more than {MAX_STEPS} steps"));
            }
        }
        let Some((&first, rest)) = indices.split_first() else { return Err("its access string is empty".into()) };
        let peeled = btf.peel(root);
        match family(kind) {
            Family::Type if access == "0" => return Ok(spec),
            Family::Type => return Err("a type has no access string but 0".into()),
            Family::Enumval => {
                let value = match peeled.kind {
                    Kind::Enum { values, .. } if rest.is_empty() => values.get(first as usize),
                    _ => None,
                };
                let value = value.ok_or("it names no value of an enum")?;
                spec.steps.push(Step { ty: peeled.id, index: first, name: Some(value.name) });
                return Ok(spec);
            }
            Family::Field => {}
        }
        spec.index(peeled.id, first).ok_or("its root type has no size")?;
        let mut ty = peeled.id;
        for &index in rest {
            let at = btf.peel(ty);
            match at.kind {
                Kind::Struct { members, .. } | Kind::Union { members, .. } => {
                    let member = members.get(index as usize).ok_or("it names a member that does not exist")?;
                    spec.advance(member.bit_offset.into()).ok_or("its offset overflows")?;
                    if !member.name.is_empty() {
                        spec.steps.push(Step { ty: at.id, index, name: Some(member.name) });
                    }
                    ty = member.ty;
                }
                Kind::Array { elem, len, .. } => {
                    if index >= len && !spec.is_flexible(len) {
                        return Err("it names an array element that does not exist".into());
                    }
                    ty = btf.peel(elem).id;
                    spec.index(ty, index).ok_or("its array element has no size")?;
                }
                _ => return Err(format!("it steps into `{}`", btf.declare(ty, ""))),
            }
        }
        Ok(spec)
    }

    fn advance(&mut self, bits: u64) -> Option<()> {
        self.bit_offset = self.bit_offset.checked_add(bits)?;
        Some(())
    }

    fn index(&mut self, ty: TypeId, index: u32) -> Option<()> {
        // The root of an existence test may be a type without size.
        let bits = match index {
            0 => 0,
            index => self.btf.size_of(ty)?.checked_mul(8)?.checked_mul(index.into())?,
        };
        self.advance(bits)?;
        self.steps.push(Step { ty, index, name: None });
        Some(())
    }

    /// Whether an array of `len` elements, the member stepped into last, ends its struct without a length.
    fn is_flexible(&self, len: u32) -> bool {
        let Some(Step { ty, index, name: Some(_) }) = self.steps.last() else { return false };
        let count = self.btf.members(*ty).map_or(0, |members| members.len());
        len == 0 && *index as usize + 1 == count
    }

    /// The same access from `root` of the target; `None` where the target has no such thing.
    pub fn find_in(&self, target: &'a Btf, root: TypeId, kind: CoreReloKind, work: &mut Work) -> Option<Spec<'a>> {
        let mut spec = Spec { btf: target, root, steps: Vec::new(), bit_offset: 0 };
        match family(kind) {
            Family::Type => {
                let same = match kind {
                    CoreReloKind::TypeMatches => types_match((self.btf, self.root), (target, root), work),
                    _ => types_compatible((self.btf, self.root), (target, root), work),
                };
                return same.then_some(spec);
            }
            Family::Enumval => {
                let name = self.steps.first()?.name?;
                let at = target.peel(root);
                let Kind::Enum { values, .. } = at.kind else { return None };
                work.spend(values.len() as u64);
                let same = |name_: &str| essential_name(name_) == essential_name(name);
                let (index, value) = values.iter().enumerate().find(|(_, value)| same(value.name))?;
                spec.steps.push(Step { ty: at.id, index: index as u32, name: Some(value.name) });
                return Some(spec);
            }
            Family::Field => {}
        }
        let mut ty = target.peel(root).id;
        for (at, step) in self.steps.iter().enumerate() {
            match step.name {
                Some(name) => {
                    let local = self.btf.members(step.ty)?.get(step.index as usize)?.ty;
                    ty = spec.find_member(name, ty, 0, work)?;
                    if !fields_compatible((self.btf, local), (target, ty), work) {
                        return None;
                    }
                }
                None => {
                    if at > 0 {
                        let Kind::Array { elem, len, .. } = target.peel(ty).kind else { return None };
                        if step.index >= len && !spec.is_flexible(len) {
                            return None;
                        }
                        ty = target.peel(elem).id;
                    }
                    spec.index(ty, step.index)?;
                }
            }
        }
        Some(spec)
    }

    /// Steps to the member called `name` of `ty`, anonymous members searched too; returns its type.
    fn find_member(&mut self, name: &'a str, ty: TypeId, depth: u8, work: &mut Work) -> Option<TypeId> {
        let at = self.btf.peel(ty);
        if depth > rtbpf_btf::MAX_NESTING || !work.spend(1) {
            return None;
        }
        let members = self.btf.members(at.id)?;
        for (index, member) in members.iter().enumerate() {
            if !work.spend(1) {
                return None;
            }
            let before = self.bit_offset;
            self.advance(member.bit_offset.into())?;
            if member.name.is_empty() {
                if let Some(found) = self.find_member(name, member.ty, depth + 1, work) {
                    return Some(found);
                }
            } else if member.name == name {
                self.steps.push(Step { ty: at.id, index: index as u32, name: Some(member.name) });
                return Some(member.ty);
            }
            self.bit_offset = before;
        }
        None
    }

    /// The access for people: `struct task_struct.mm.pgd[2]`.
    pub fn path(&self) -> String {
        let ty = self.btf.get(self.root);
        let name = ty.map_or("", |ty| ty.name);
        let mut path = match ty.map(|ty| ty.kind) {
            Some(Kind::Struct { .. }) => format!("struct {name}"),
            Some(Kind::Union { .. }) => format!("union {name}"),
            Some(Kind::Enum { .. }) => format!("enum {name}"),
            _ => name.to_owned(),
        };
        for (at, step) in self.steps.iter().enumerate() {
            match step.name {
                Some(name) => path.extend([".", name]),
                None if at == 0 && step.index == 0 => {}
                None => path.push_str(&format!("[{}]", step.index)),
            }
            if path.len() > 256 {
                path.push_str("...");
                break;
            }
        }
        path
    }
}
