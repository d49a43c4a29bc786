//! When a type of the object and one of the target may stand for each other.

use rtbpf_btf::{Btf, EnumValues, Kind, Members, Params, TypeId, essential_name};

/// A type in its BTF.
pub(super) type In<'a> = (&'a Btf, TypeId);

/// Types within types that a comparison follows, as in libbpf.
const MAX_DEPTH: u32 = 32;

/// Steps of comparison left for one object: types may share parts and so multiply.
#[derive(Debug)]
pub(super) struct Work(u64);

impl Work {
    pub fn new(steps: u64) -> Work {
        Work(steps)
    }

    /// False when there is none left.
    pub fn spend(&mut self, steps: u64) -> bool {
        self.0 = self.0.saturating_sub(steps);
        self.0 > 0
    }

    pub fn is_spent(&self) -> bool {
        self.0 == 0
    }
}

fn same_name(local: &str, target: &str) -> bool {
    essential_name(local) == essential_name(target)
}

/// Whether a member of one type can be read as one of the other.
pub(super) fn fields_compatible(local: In<'_>, target: In<'_>, work: &mut Work) -> bool {
    let (mut local_id, mut target_id) = (local.1, target.1);
    for _ in 0..MAX_DEPTH {
        if !work.spend(1) {
            return false;
        }
        let (l, t) = (local.0.peel(local_id), target.0.peel(target_id));
        let anonymous_or_same = l.name.is_empty() || t.name.is_empty() || same_name(l.name, t.name);
        return match (l.kind, t.kind) {
            (Kind::Struct { .. } | Kind::Union { .. }, Kind::Struct { .. } | Kind::Union { .. }) => true,
            (Kind::Ptr { .. }, Kind::Ptr { .. }) | (Kind::Float { .. }, Kind::Float { .. }) => true,
            (Kind::Fwd { .. }, Kind::Fwd { .. }) | (Kind::Enum { .. }, Kind::Enum { .. }) => anonymous_or_same,
            // Old-style bitfields are not.
            (Kind::Int(l), Kind::Int(t)) => l.offset == 0 && t.offset == 0,
            (Kind::Array { elem: l, .. }, Kind::Array { elem: t, .. }) => {
                (local_id, target_id) = (l, t);
                continue;
            }
            _ => false,
        };
    }
    false
}

/// Whether the types are of one shape at their first level: the test of existence.
pub(super) fn types_compatible(local: In<'_>, target: In<'_>, work: &mut Work) -> bool {
    compatible(local, target, MAX_DEPTH, work)
}

fn compatible(local: In<'_>, target: In<'_>, depth: u32, work: &mut Work) -> bool {
    let (mut local_id, mut target_id) = (local.1, target.1);
    for level in 0..depth {
        if !work.spend(1) {
            return false;
        }
        let (l, t) = (local.0.peel(local_id), target.0.peel(target_id));
        return match (l.kind, t.kind) {
            (Kind::Void, Kind::Void)
            | (Kind::Struct { .. }, Kind::Struct { .. })
            | (Kind::Union { .. }, Kind::Union { .. })
            | (Kind::Enum { .. }, Kind::Enum { .. })
            | (Kind::Fwd { .. }, Kind::Fwd { .. }) => true,
            (Kind::Int(l), Kind::Int(t)) => l.offset == 0 && t.offset == 0,
            (Kind::Ptr { to: l }, Kind::Ptr { to: t }) | (Kind::Array { elem: l, .. }, Kind::Array { elem: t, .. }) => {
                (local_id, target_id) = (l, t);
                continue;
            }
            (Kind::FuncProto { ret: l, params: lp }, Kind::FuncProto { ret: t, params: tp }) => {
                let left = depth - level - 1;
                if !all_pairs(lp, tp, |l, t| compatible((local.0, l), (target.0, t), left, work)) {
                    return false;
                }
                (local_id, target_id) = (l, t);
                continue;
            }
            _ => false,
        };
    }
    false
}

fn all_pairs(local: Params<'_>, target: Params<'_>, mut same: impl FnMut(TypeId, TypeId) -> bool) -> bool {
    local.len() == target.len() && local.iter().zip(target.iter()).all(|(l, t)| same(l.ty, t.ty))
}

/// Whether the target's type has all that the object's has, all the way down to pointers.
pub(super) fn types_match(local: In<'_>, target: In<'_>, work: &mut Work) -> bool {
    matches(local, target, false, MAX_DEPTH, work)
}

fn matches(local: In<'_>, target: In<'_>, behind_pointer: bool, depth: u32, work: &mut Work) -> bool {
    let (mut local_id, mut target_id, mut behind_pointer) = (local.1, target.1, behind_pointer);
    for level in 0..depth {
        if !work.spend(1) {
            return false;
        }
        let (l, t) = (local.0.peel(local_id), target.0.peel(target_id));
        if !same_name(l.name, t.name) {
            return false;
        }
        let left = depth - level - 1;
        return match (l.kind, t.kind) {
            (Kind::Void, Kind::Void) => true,
            (Kind::Int(l), Kind::Int(t)) => l.bytes == t.bytes && l.encoding.signed == t.encoding.signed,
            (Kind::Fwd { is_union: l }, Kind::Fwd { is_union: t }) => l == t,
            (Kind::Fwd { is_union }, Kind::Struct { .. }) | (Kind::Struct { .. }, Kind::Fwd { is_union }) => {
                behind_pointer && !is_union
            }
            (Kind::Fwd { is_union }, Kind::Union { .. }) | (Kind::Union { .. }, Kind::Fwd { is_union }) => {
                behind_pointer && is_union
            }
            (Kind::Enum { bytes: lb, values: lv, .. }, Kind::Enum { bytes: tb, values: tv, .. }) => {
                lb == tb && enum_names_match(lv, tv, work)
            }
            (Kind::Struct { members: lm, .. }, Kind::Struct { members: tm, .. })
            | (Kind::Union { members: lm, .. }, Kind::Union { members: tm, .. }) => {
                behind_pointer || members_match((local.0, lm), (target.0, tm), left, work)
            }
            (Kind::Ptr { to: l }, Kind::Ptr { to: t }) => {
                (local_id, target_id, behind_pointer) = (l, t, true);
                continue;
            }
            (Kind::Array { elem: l, len: ll, .. }, Kind::Array { elem: t, len: tl, .. }) if ll == tl => {
                (local_id, target_id) = (l, t);
                continue;
            }
            (Kind::FuncProto { ret: l, params: lp }, Kind::FuncProto { ret: t, params: tp }) => {
                let behind = behind_pointer;
                if !all_pairs(lp, tp, |l, t| matches((local.0, l), (target.0, t), behind, left, work)) {
                    return false;
                }
                (local_id, target_id) = (l, t);
                continue;
            }
            _ => false,
        };
    }
    false
}

fn enum_names_match(local: EnumValues<'_>, target: EnumValues<'_>, work: &mut Work) -> bool {
    local.len() <= target.len()
        && local.iter().all(|l| work.spend(target.len() as u64) && target.iter().any(|t| same_name(l.name, t.name)))
}

fn members_match(local: (&Btf, Members<'_>), target: (&Btf, Members<'_>), depth: u32, work: &mut Work) -> bool {
    local.1.len() <= target.1.len()
        && local.1.iter().all(|l| {
            target.1.iter().any(|t| {
                work.spend(1)
                    && same_name(l.name, t.name)
                    && matches((local.0, l.ty), (target.0, t.ty), false, depth, work)
            })
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtbpf_btf::{Builder, NewMember};

    #[test]
    fn what_exists_what_matches_and_what_can_be_read() {
        let mut b = Builder::new();
        let int = b.int("int", 4, true);
        let uint = b.int("unsigned int", 4, false);
        let long = b.int("long", 8, true);
        let float = b.float("float", 4);
        let p = b.pointer(int);
        let q = b.pointer(long);
        let small = b.structure("s", 4, &[NewMember::new("a", int, 0)]);
        let large = b.structure("s___new", 16, &[NewMember::new("b", long, 0), NewMember::new("a", int, 64)]);
        let other = b.structure("s___other", 8, &[NewMember::new("a", long, 0)]);
        let to_small = b.pointer(small);
        let fwd = b.forward("s", false);
        let to_fwd = b.pointer(fwd);
        let f = b.func_proto(int, &[("x", p)]);
        let g = b.func_proto(int, &[("x", int)]);
        let btf = b.build().unwrap();
        let check = |l, t, expected: [bool; 3]| {
            let (l, t) = ((&btf, l), (&btf, t));
            let work = &mut Work::new(1000);
            assert_eq!(
                [fields_compatible(l, t, work), types_compatible(l, t, work), types_match(l, t, work)],
                expected
            );
        };
        check(int, uint, [true, true, false]);
        check(int, float, [false, false, false]);
        check(p, q, [true, true, false]);
        check(small, large, [true, true, true]);
        check(large, small, [true, true, false]);
        check(small, other, [true, true, false]);
        check(to_small, to_fwd, [true, false, true]);
        check(f, g, [false, false, false]);
        check(f, f, [false, true, true]);
    }

    #[test]
    fn spent_work_says_no() {
        let mut b = Builder::new();
        let int = b.int("int", 4, true);
        let btf = b.build().unwrap();
        let mut work = Work::new(1);
        assert!(!types_compatible((&btf, int), (&btf, int), &mut work));
        assert!(work.is_spent());
    }
}
