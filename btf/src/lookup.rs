//! Types by name.
//!
//! The index holds one word per named type: 32 bits of hash of the *essential* name above the id. Sorting it puts
//! the types of one name side by side, flavours included.

use crate::read::Btf;
use crate::types::{Kind, Type, TypeId};

/// Bytes of a name that count for its hash, so that one long string shared by all types costs no more.
const HASHED: usize = 256;

/// A type name without its flavour: `task_struct___old` is `task_struct`.
pub fn essential_name(name: &str) -> &str {
    // The last triple underscore with something on either side.
    let cut = name.rmatch_indices("___").find(|&(at, _)| {
        let (before, after) = (name.as_bytes().get(..at), name.as_bytes().get(at + 3..));
        let part = |edge: Option<&u8>| edge.is_some_and(|&c| c != b'_');
        part(before.and_then(|b| b.last())) && part(after.and_then(|a| a.first()))
    });
    cut.and_then(|(at, _)| name.get(..at)).unwrap_or(name)
}

fn hash(name: &str) -> u64 {
    let fnv = |hash: u32, byte: &u8| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
    u64::from(name.as_bytes().iter().take(HASHED).fold(0x811c_9dc5, fnv)) << 32
}

impl Btf {
    fn names(&self) -> &[u64] {
        self.names.get_or_init(|| {
            let named = self.iter().filter(|ty| !ty.name.is_empty());
            let mut names: Vec<u64> = named.map(|ty| hash(essential_name(ty.name)) | u64::from(ty.id.0)).collect();
            names.sort_unstable();
            names
        })
    }

    /// All types whose name without flavour is `name`, by id.
    pub fn with_essential_name<'a>(&'a self, name: &'a str) -> impl Iterator<Item = Type<'a>> {
        let key = hash(name);
        let names = self.names();
        let from = names.partition_point(|&entry| entry < key);
        let same = names.get(from..).unwrap_or_default().iter().take_while(move |&&entry| entry >> 32 == key >> 32);
        same.filter_map(|&entry| self.get(TypeId(entry as u32))).filter(move |ty| essential_name(ty.name) == name)
    }

    /// All types called exactly `name`, by id.
    pub fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = Type<'a>> {
        self.with_essential_name(essential_name(name)).filter(move |ty| ty.name == name)
    }

    /// The first type called `name` that `is` takes.
    pub fn find<'a>(&'a self, name: &'a str, is: impl Fn(Kind<'a>) -> bool) -> Option<Type<'a>> {
        self.named(name).find(|ty| is(ty.kind))
    }

    /// The function called `name`.
    pub fn func<'a>(&'a self, name: &'a str) -> Option<Type<'a>> {
        self.find(name, |kind| matches!(kind, Kind::Func { .. }))
    }

    /// The data section called `name`.
    pub fn datasec<'a>(&'a self, name: &'a str) -> Option<Type<'a>> {
        self.find(name, |kind| matches!(kind, Kind::DataSec { .. }))
    }

    /// The declaration tags on type `on`, with the member or parameter they stand at. Walks all types.
    pub fn decl_tags(&self, on: TypeId) -> impl Iterator<Item = (&str, Option<u32>)> {
        self.iter().filter_map(move |ty| match ty.kind {
            Kind::DeclTag { to, component } if to == on => Some((ty.name, component)),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Builder;

    #[test]
    fn flavours_are_cut_off() {
        let check = |name, essential| assert_eq!(essential_name(name), essential);
        check("task_struct", "task_struct");
        check("task_struct___old", "task_struct");
        check("a___b___c", "a___b");
        check("___leading", "___leading");
        check("trailing___", "trailing___");
        check("a__b", "a__b");
        check("a____b", "a____b");
    }

    #[test]
    fn names_find_their_types() {
        let mut b = Builder::new();
        let int = b.int("int", 4, true);
        let t = b.typedef("twin", int);
        let s = b.structure("twin", 4, &[]);
        let f = b.structure("twin___new", 4, &[]);
        let btf = b.build().unwrap();
        let ids = |it: &mut dyn Iterator<Item = Type<'_>>| it.map(|ty| ty.id).collect::<Vec<_>>();
        assert_eq!(ids(&mut btf.named("twin")), [t, s]);
        assert_eq!(ids(&mut btf.with_essential_name("twin")), [t, s, f]);
        assert_eq!(ids(&mut btf.named("none")), []);
        assert_eq!(btf.find("twin", |kind| matches!(kind, Kind::Struct { .. })).map(|ty| ty.id), Some(s));
    }
}
