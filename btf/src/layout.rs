//! Sizes, alignments, and members by path.

use crate::read::{Btf, MAX_NESTING};
use crate::types::{Kind, Members, Type, TypeId};

/// Where a member lies in its outermost type.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The member's type.
    pub ty: TypeId,
    /// Offset in bits.
    pub bit_offset: u64,
    /// Width in bits of a bitfield, 0 otherwise.
    pub bitfield: u32,
}

impl Btf {
    /// `id` without typedefs, qualifiers and type tags. Void for a type that does not exist.
    pub fn peel(&self, id: TypeId) -> Type<'_> {
        let mut id = id;
        // Parsing bounded every such chain.
        for _ in 0..=MAX_NESTING {
            match self.get(id) {
                Some(Type {
                    kind:
                        Kind::Typedef { to }
                        | Kind::Const { to }
                        | Kind::Volatile { to }
                        | Kind::Restrict { to }
                        | Kind::TypeTag { to },
                    ..
                }) => id = to,
                Some(ty) => return ty,
                None => break,
            }
        }
        Type { id: TypeId::VOID, name: "", kind: Kind::Void }
    }

    /// The members of a struct or union, through typedefs and qualifiers.
    pub fn members(&self, id: TypeId) -> Option<Members<'_>> {
        match self.peel(id).kind {
            Kind::Struct { members, .. } | Kind::Union { members, .. } => Some(members),
            _ => None,
        }
    }

    /// Bytes of a value of this type; `None` for void, functions, forward declarations, and sizes that 32 bits do not
    /// hold, which Linux refuses too.
    pub fn size_of(&self, id: TypeId) -> Option<u64> {
        let mut ty = self.peel(id);
        let mut count = 1u64;
        loop {
            let bytes = match ty.kind {
                Kind::Int(int) => int.bytes,
                Kind::Struct { bytes, .. }
                | Kind::Union { bytes, .. }
                | Kind::Enum { bytes, .. }
                | Kind::Float { bytes }
                | Kind::DataSec { bytes, .. } => bytes,
                Kind::Ptr { .. } => 8,
                Kind::Array { elem, len, .. } => {
                    count = count.checked_mul(u64::from(len))?;
                    ty = self.peel(elem);
                    continue;
                }
                Kind::Var { ty: of, .. } => {
                    ty = self.peel(of);
                    continue;
                }
                Kind::Void | Kind::Fwd { .. } | Kind::Func { .. } | Kind::FuncProto { .. } => return None,
                Kind::DeclTag { .. } => return None,
                Kind::Typedef { .. }
                | Kind::Const { .. }
                | Kind::Volatile { .. }
                | Kind::Restrict { .. }
                | Kind::TypeTag { .. } => return None,
            };
            return count.checked_mul(u64::from(bytes)).filter(|size| *size <= u64::from(u32::MAX));
        }
    }

    /// Natural alignment of this type in bytes: 1, 2, 4 or 8; packed structs are not recognised.
    pub fn align_of(&self, id: TypeId) -> u32 {
        self.align_within(id, &mut 4096)
    }

    /// `budget` bounds the members visited: types may share parts and so spell more than they hold.
    fn align_within(&self, id: TypeId, budget: &mut u32) -> u32 {
        *budget = budget.saturating_sub(1);
        let power = |bytes: u32| bytes.clamp(1, 8).next_power_of_two();
        match self.peel(id).kind {
            Kind::Int(int) => power(int.bytes),
            Kind::Enum { bytes, .. } | Kind::Float { bytes } => power(bytes),
            Kind::Ptr { .. } => 8,
            Kind::Array { elem, .. } if *budget > 0 => self.align_within(elem, budget),
            Kind::Struct { members, .. } | Kind::Union { members, .. } => {
                let mut align = 1;
                for member in members.iter() {
                    if align == 8 || *budget == 0 {
                        break;
                    }
                    align = align.max(self.align_within(member.ty, budget));
                }
                align
            }
            Kind::Var { ty, .. } if *budget > 0 => self.align_within(ty, budget),
            _ => 1,
        }
    }

    /// The member of `id` at `path`, such as `a.b[2].c`; members of anonymous structs and unions count as its own.
    pub fn member(&self, id: TypeId, path: &str) -> Option<Place> {
        let mut at = Place { ty: id, bit_offset: 0, bitfield: 0 };
        for step in path.split('.') {
            let mut parts = step.split('[');
            let name = parts.next()?;
            if !name.is_empty() {
                let inner = self.member_named(at.ty, name)?;
                at = Place { bit_offset: at.bit_offset.checked_add(inner.bit_offset)?, ..inner };
            }
            for index in parts {
                let index: u64 = index.strip_suffix(']')?.parse().ok()?;
                let Kind::Array { elem, len, .. } = self.peel(at.ty).kind else { return None };
                if index >= u64::from(len) {
                    return None;
                }
                let bits = self.size_of(elem)?.checked_mul(8)?.checked_mul(index)?;
                at = Place { ty: elem, bit_offset: at.bit_offset.checked_add(bits)?, bitfield: 0 };
            }
        }
        Some(at)
    }

    /// A member by its own name, anonymous members included.
    fn member_named(&self, id: TypeId, name: &str) -> Option<Place> {
        let mut open = vec![(id, 0u64)];
        let mut visits = 0;
        while let Some((id, base)) = open.pop() {
            for member in self.members(id)?.iter() {
                visits += 1;
                if visits > 1 << 16 {
                    return None;
                }
                let bit_offset = base.checked_add(u64::from(member.bit_offset))?;
                if member.name == name {
                    return Some(Place { ty: member.ty, bit_offset, bitfield: member.bitfield });
                }
                if member.name.is_empty() && self.members(member.ty).is_some() {
                    open.push((member.ty, bit_offset));
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Builder, NewMember};

    #[test]
    fn sizes_alignments_and_paths() {
        let mut b = Builder::new();
        let int = b.int("int", 4, true);
        let long = b.int("long", 8, false);
        let four = b.array(int, 4);
        let anon = b.union("", 16, &[NewMember::new("arr", four, 0), NewMember::new("wide", long, 0)]);
        let outer = b.structure(
            "outer",
            32,
            &[NewMember::new("first", long, 0), NewMember::new("", anon, 64), NewMember::bits("flag", int, 195, 5)],
        );
        let alias = b.typedef("outer_t", outer);
        let two = b.array(alias, 2);
        let ptr = b.pointer(outer);
        let row = b.array(int, 0x7fff_fff0);
        let huge = b.array(row, 0x4000_0001);
        let btf = b.build().unwrap();
        let check = |id, size, align| assert_eq!((btf.size_of(id), btf.align_of(id)), (Some(size), align));
        check(int, 4, 4);
        check(four, 16, 4);
        check(two, 64, 8);
        check(ptr, 8, 8);
        assert_eq!(btf.size_of(TypeId::VOID), None);
        assert_eq!(btf.size_of(huge), None);
        let find = |path| btf.member(two, path).map(|p| (p.ty, p.bit_offset, p.bitfield));
        assert_eq!(find("[1].arr[3]"), Some((int, 256 + 64 + 96, 0)));
        assert_eq!(find("[0].flag"), Some((int, 195, 5)));
        assert_eq!(find("[2].first"), None);
        assert_eq!(find("[0].none"), None);
    }
}
