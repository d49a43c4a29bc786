//! Special fields of map values: what programs may touch through helpers only.

use rtbpf_abi::map_spec::{SpecialField, SpecialKind};

use crate::error::Error;
use crate::read::Btf;
use crate::types::{Kind, Members, TypeId};

/// Fields that one value may have; Linux allows 11.
const MAX_FIELDS: usize = 64;

/// Members visited in one value.
const MAX_VISITS: u32 = 1 << 16;

/// The special fields of values of type `value`, by offset: those among its members, so a value that is a lock and nothing
/// else has none.
///
/// Structs and pointers are recognised by the names that Linux gives them, in nested structs and array elements too.
/// Kernel pointers carry the id of the type they point to, in this BTF.
pub fn special_fields(btf: &Btf, value: TypeId) -> Result<Vec<SpecialField>, Error> {
    let mut walk = Walk { btf, value, visits: 0, fields: Vec::new() };
    if let Kind::Struct { members, .. } = btf.peel(value).kind {
        walk.members(members, 0)?;
    }
    Ok(walk.found())
}

/// The special fields of a variable of type `ty`, by offset: it may be one itself. Else as [`special_fields`].
pub fn variable_fields(btf: &Btf, ty: TypeId) -> Result<Vec<SpecialField>, Error> {
    let mut walk = Walk { btf, value: ty, visits: 0, fields: Vec::new() };
    walk.ty(ty, 0)?;
    Ok(walk.found())
}

struct Walk<'a> {
    btf: &'a Btf,
    value: TypeId,
    visits: u32,
    fields: Vec<SpecialField>,
}

impl Walk<'_> {
    fn error(&self, why: &'static str) -> Error {
        Error::SpecialField { id: self.value.0, why }
    }

    fn found(mut self) -> Vec<SpecialField> {
        self.fields.sort_by_key(|field| field.off);
        self.fields
    }

    fn members(&mut self, members: Members<'_>, off: u64) -> Result<(), Error> {
        for member in members.iter() {
            self.ty(member.ty, off.saturating_add(u64::from(member.bit_offset / 8)))?;
        }
        Ok(())
    }

    /// Recursion is bounded by the nesting that parsing allowed.
    fn ty(&mut self, id: TypeId, off: u64) -> Result<(), Error> {
        self.visits += 1;
        if self.visits > MAX_VISITS {
            // A value of so many members has no special field that anybody would find.
            return Ok(());
        }
        let ty = self.btf.peel(id);
        match ty.kind {
            Kind::Struct { members, .. } => match named(ty.name) {
                Some(kind) => self.push(off, kind),
                None => self.members(members, off),
            },
            Kind::Ptr { to } => match self.pointer(to) {
                Some(kind) => self.push(off, kind),
                None => Ok(()),
            },
            Kind::Array { elem, len, .. } => {
                let before = self.fields.len();
                let bytes = self.btf.size_of(elem).unwrap_or(0);
                for index in 0..u64::from(len) {
                    self.ty(elem, off.saturating_add(bytes.saturating_mul(index)))?;
                    if self.fields.len() == before {
                        // The first element has none, so the others have none.
                        break;
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn push(&mut self, off: u64, kind: SpecialKind) -> Result<(), Error> {
        let off = u32::try_from(off).map_err(|_| self.error("a special field lies beyond 4 GiB"))?;
        if self.fields.len() >= MAX_FIELDS {
            return Err(self.error("more special fields than a value may have (64)"));
        }
        self.fields.push(SpecialField { off, kind });
        Ok(())
    }

    /// A pointer is special by its pointee's type tag.
    fn pointer(&self, to: TypeId) -> Option<SpecialKind> {
        let tag = self.btf.get(to)?;
        let Kind::TypeTag { to } = tag.kind else { return None };
        let pointee = self.btf.peel(to).id.0;
        Some(match tag.name {
            "kptr_untrusted" => SpecialKind::KptrUntrusted(pointee),
            "kptr" => SpecialKind::KptrRef(pointee),
            "percpu_kptr" => SpecialKind::KptrPercpu(pointee),
            "uptr" => SpecialKind::Uptr(pointee),
            _ => return None,
        })
    }
}

fn named(name: &str) -> Option<SpecialKind> {
    Some(match name {
        "bpf_spin_lock" => SpecialKind::SpinLock,
        "bpf_res_spin_lock" => SpecialKind::ResSpinLock,
        "bpf_timer" => SpecialKind::Timer,
        "bpf_wq" => SpecialKind::Workqueue,
        "bpf_task_work" => SpecialKind::TaskWork,
        "bpf_list_head" => SpecialKind::ListHead,
        "bpf_list_node" => SpecialKind::ListNode,
        "bpf_rb_root" => SpecialKind::RbRoot,
        "bpf_rb_node" => SpecialKind::RbNode,
        "bpf_refcount" => SpecialKind::Refcount,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Builder, NewMember};

    #[test]
    fn fields_are_found_in_nested_structs_arrays_and_behind_tags() {
        let mut b = Builder::new();
        let int = b.int("int", 4, true);
        let lock = b.structure("bpf_spin_lock", 4, &[NewMember::new("val", int, 0)]);
        let timer = b.structure("bpf_timer", 16, &[]);
        let two = b.array(timer, 2);
        let task = b.structure("task_struct", 8, &[]);
        let tagged = b.type_tag("kptr", task);
        let kptr = b.pointer(tagged);
        let plain = b.pointer(task);
        let inner = b.structure("inner", 48, &[NewMember::new("t", two, 0), NewMember::new("k", kptr, 256)]);
        let members = [("n", int, 0), ("lock", lock, 32), ("in", inner, 64), ("p", plain, 448)];
        let value = b.structure("value", 64, &members.map(|(name, ty, at)| NewMember::new(name, ty, at)));
        let btf = b.build().unwrap();
        let fields = special_fields(&btf, value).unwrap();
        let expected = [
            (4, SpecialKind::SpinLock),
            (8, SpecialKind::Timer),
            (24, SpecialKind::Timer),
            (40, SpecialKind::KptrRef(task.0)),
        ];
        assert_eq!(fields, expected.map(|(off, kind)| SpecialField { off, kind }));
        assert_eq!(special_fields(&btf, int), Ok(Vec::new()));
        assert_eq!(special_fields(&btf, lock), Ok(Vec::new()));
        assert_eq!(variable_fields(&btf, lock), Ok(vec![SpecialField { off: 0, kind: SpecialKind::SpinLock }]));
    }
}
