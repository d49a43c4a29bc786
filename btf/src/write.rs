//! Making BTF: for tests, and for joining objects.

use std::collections::HashMap;

use crate::error::Error;
use crate::read::{Btf, names_type, number, payload_bytes, type_words};
use crate::types::{IntEncoding, Linkage, TypeId};

/// A member to be.
#[derive(Clone, Copy, Debug)]
pub struct NewMember<'a> {
    name: &'a str,
    ty: TypeId,
    bit_offset: u32,
    bitfield: u32,
}

impl<'a> NewMember<'a> {
    /// A plain member.
    pub fn new(name: &'a str, ty: TypeId, bit_offset: u32) -> NewMember<'a> {
        NewMember { name, ty, bit_offset, bitfield: 0 }
    }

    /// A bitfield of `width` bits.
    pub fn bits(name: &'a str, ty: TypeId, bit_offset: u32, width: u32) -> NewMember<'a> {
        NewMember { name, ty, bit_offset, bitfield: width }
    }
}

/// Collects types; ids count up from 1 as they are added, and references may run ahead.
#[derive(Clone, Debug)]
pub struct Builder {
    types: Vec<u8>,
    count: u32,
    strings: String,
    known: HashMap<String, u32>,
}

impl Default for Builder {
    fn default() -> Builder {
        Builder::new()
    }
}

impl Builder {
    /// Without types.
    pub fn new() -> Builder {
        Builder { types: Vec::new(), count: 0, strings: "\0".to_owned(), known: HashMap::new() }
    }

    /// The offset of `text` in the string section, added when new. NUL ends it.
    pub fn string(&mut self, text: &str) -> u32 {
        let text = text.split('\0').next().unwrap_or_default();
        if text.is_empty() {
            return 0;
        }
        if let Some(&at) = self.known.get(text) {
            return at;
        }
        let at = self.strings.len() as u32;
        self.strings.push_str(text);
        self.strings.push('\0');
        self.known.insert(text.to_owned(), at);
        at
    }

    /// The id the next type gets.
    pub fn next_id(&self) -> TypeId {
        TypeId(self.count + 1)
    }

    fn add(&mut self, kind: u8, name: &str, count: usize, flag: bool, size_or_type: u32, rest: &[u32]) -> TypeId {
        let name = self.string(name);
        let info = u32::from(flag) << 31 | u32::from(kind) << 24 | (count as u32 & 0xffff);
        for word in [name, info, size_or_type].iter().chain(rest) {
            self.types.extend(word.to_le_bytes());
        }
        self.count += 1;
        TypeId(self.count)
    }

    /// An integer.
    pub fn int(&mut self, name: &str, bytes: u32, signed: bool) -> TypeId {
        self.int_with(name, bytes, IntEncoding { signed, ..IntEncoding::default() })
    }

    /// An integer of this encoding.
    pub fn int_with(&mut self, name: &str, bytes: u32, encoding: IntEncoding) -> TypeId {
        let bit = |set, at: u32| u32::from(set) << at;
        let encoding = bit(encoding.signed, 24) | bit(encoding.char, 25) | bit(encoding.bool, 26);
        self.add(number::INT, name, 0, false, bytes, &[encoding | (bytes * 8)])
    }

    /// A floating-point type.
    pub fn float(&mut self, name: &str, bytes: u32) -> TypeId {
        self.add(number::FLOAT, name, 0, false, bytes, &[])
    }

    /// A pointer.
    pub fn pointer(&mut self, to: TypeId) -> TypeId {
        self.add(number::PTR, "", 0, false, to.0, &[])
    }

    /// `const`.
    pub fn constant(&mut self, to: TypeId) -> TypeId {
        self.add(number::CONST, "", 0, false, to.0, &[])
    }

    /// `volatile`.
    pub fn volatile(&mut self, to: TypeId) -> TypeId {
        self.add(number::VOLATILE, "", 0, false, to.0, &[])
    }

    /// A typedef.
    pub fn typedef(&mut self, name: &str, to: TypeId) -> TypeId {
        self.add(number::TYPEDEF, name, 0, false, to.0, &[])
    }

    /// A type tag.
    pub fn type_tag(&mut self, tag: &str, to: TypeId) -> TypeId {
        self.add(number::TYPE_TAG, tag, 0, false, to.0, &[])
    }

    /// A declaration tag on `to`, or on its member or parameter `component`.
    pub fn decl_tag(&mut self, tag: &str, to: TypeId, component: Option<u32>) -> TypeId {
        self.add(number::DECL_TAG, tag, 0, false, to.0, &[component.unwrap_or(u32::MAX)])
    }

    /// A forward declaration.
    pub fn forward(&mut self, name: &str, is_union: bool) -> TypeId {
        self.add(number::FWD, name, 0, is_union, 0, &[])
    }

    /// An array; its index type is its element type, which nobody reads.
    pub fn array(&mut self, elem: TypeId, len: u32) -> TypeId {
        self.add(number::ARRAY, "", 0, false, 0, &[elem.0, elem.0, len])
    }

    /// A struct.
    pub fn structure(&mut self, name: &str, bytes: u32, members: &[NewMember<'_>]) -> TypeId {
        self.composite(number::STRUCT, name, bytes, members)
    }

    /// A union.
    pub fn union(&mut self, name: &str, bytes: u32, members: &[NewMember<'_>]) -> TypeId {
        self.composite(number::UNION, name, bytes, members)
    }

    fn composite(&mut self, kind: u8, name: &str, bytes: u32, members: &[NewMember<'_>]) -> TypeId {
        let flag = members.iter().any(|m| m.bitfield != 0);
        let mut words = Vec::new();
        for m in members {
            words.extend([self.string(m.name), m.ty.0, m.bitfield << 24 | m.bit_offset]);
        }
        self.add(kind, name, members.len(), flag, bytes, &words)
    }

    /// An enum; values beyond 32 bits make it the 64-bit kind.
    pub fn enumeration(&mut self, name: &str, bytes: u32, signed: bool, values: &[(&str, i64)]) -> TypeId {
        let mut words = Vec::new();
        for (name, value) in values {
            words.extend([self.string(name), *value as u32]);
            if bytes == 8 {
                words.push((*value >> 32) as u32);
            }
        }
        let kind = if bytes == 8 { number::ENUM64 } else { number::ENUM };
        self.add(kind, name, values.len(), signed, bytes, &words)
    }

    /// A function type; a last parameter of type void is `...`.
    pub fn func_proto(&mut self, ret: TypeId, params: &[(&str, TypeId)]) -> TypeId {
        let words: Vec<u32> = params.iter().flat_map(|(name, ty)| [self.string(name), ty.0]).collect();
        self.add(number::FUNC_PROTO, "", params.len(), false, ret.0, &words)
    }

    /// A function.
    pub fn func(&mut self, name: &str, proto: TypeId, linkage: Linkage) -> TypeId {
        self.add(number::FUNC, name, linkage.number() as usize, false, proto.0, &[])
    }

    /// A variable.
    pub fn var(&mut self, name: &str, ty: TypeId, linkage: Linkage) -> TypeId {
        self.add(number::VAR, name, 0, false, ty.0, &[linkage.number()])
    }

    /// A data section of variables (or extern functions): type, offset, bytes.
    pub fn datasec(&mut self, name: &str, bytes: u32, vars: &[(TypeId, u32, u32)]) -> TypeId {
        let words: Vec<u32> = vars.iter().flat_map(|&(ty, offset, bytes)| [ty.0, offset, bytes]).collect();
        self.add(number::DATASEC, name, vars.len(), false, bytes, &words)
    }

    /// Appends all types of `other` that `keep` takes; returns each old id's new one, void for those left out.
    ///
    /// References to types left out become void.
    pub fn append(&mut self, other: &Btf, keep: impl Fn(TypeId) -> bool) -> Vec<TypeId> {
        let mut map = vec![TypeId::VOID];
        let mut next = self.count;
        for ty in other.iter() {
            let kept = keep(ty.id);
            next += u32::from(kept);
            map.push(if kept { TypeId(next) } else { TypeId::VOID });
        }
        let new = |old: u32| map.get(old as usize).map_or(0, |id| id.0);
        for ty in other.iter().filter(|ty| keep(ty.id)) {
            let Some(([name, info, size_or_type], payload)) = other.record(ty.id) else { continue };
            let name = self.string(other.str(name));
            let (kind, count) = ((info >> 24 & 0x1f) as u8, info & 0xffff);
            let size_or_type = if names_type(kind) { new(size_or_type) } else { size_or_type };
            let payload = payload.get(..payload_bytes(kind, count).unwrap_or(0)).unwrap_or_default();
            let (stride, types) = type_words(kind).unwrap_or((usize::MAX, &[]));
            let names = name_stride(kind);
            let mut words = Vec::with_capacity(payload.len() / 4);
            for (at, word) in payload.as_chunks::<4>().0.iter().enumerate() {
                let word = u32::from_le_bytes(*word);
                words.push(match word {
                    _ if types.contains(&(at % stride)) => new(word),
                    _ if names.is_some_and(|stride| at.is_multiple_of(stride)) => self.string(other.str(word)),
                    _ => word,
                });
            }
            for word in [name, info, size_or_type].iter().chain(&words) {
                self.types.extend(word.to_le_bytes());
            }
            self.count += 1;
        }
        map
    }

    /// The bytes of a `.BTF` section.
    pub fn to_bytes(&self) -> Vec<u8> {
        encode(&self.types, &self.strings)
    }

    /// The types, checked like parsed ones.
    pub fn build(self) -> Result<Btf, Error> {
        Btf::from_sections(&self.types, self.strings)
    }
}

impl Btf {
    /// The bytes of a `.BTF` section.
    pub fn to_bytes(&self) -> Vec<u8> {
        encode(self.type_bytes(), self.strings())
    }
}

/// Words of a payload record that starts with a name.
fn name_stride(kind: u8) -> Option<usize> {
    match kind {
        number::STRUCT | number::UNION | number::ENUM64 => Some(3),
        number::ENUM | number::FUNC_PROTO => Some(2),
        _ => None,
    }
}

fn encode(types: &[u8], strings: &str) -> Vec<u8> {
    let (types_len, strings_len) = (types.len() as u32, strings.len() as u32);
    let mut bytes = Vec::with_capacity(24 + types.len() + strings.len());
    for word in [0x0001_eb9f, 24, 0, types_len, types_len, strings_len] {
        bytes.extend(u32::to_le_bytes(word));
    }
    bytes.extend(types);
    bytes.extend(strings.as_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn appended_types_keep_their_shape_under_new_ids() {
        let mut first = Builder::new();
        let int = first.int("int", 4, true);
        let p = first.pointer(int);
        let f = first.func_proto(int, &[("arg", p)]);
        first.func("fun", f, Linkage::Global);
        let s = first.structure("s", 8, &[NewMember::new("ptr", p, 0)]);
        let e = first.enumeration("e", 8, false, &[("BIG", 1 << 40)]);
        let v = first.var("v", s, Linkage::Static);
        let d = first.datasec(".data", 8, &[(v, 0, 8)]);
        let first = first.build().unwrap();
        let mut second = Builder::new();
        second.int("other", 1, false);
        let map = second.append(&first, |_| true);
        let second = second.build().unwrap();
        for id in [s, e, v, d] {
            assert_eq!(first.define(id), second.define(map[id.0 as usize]));
        }
        assert_eq!(second.define(second.func("fun").unwrap().id), "int fun(int *arg);");
    }

    #[test]
    fn bytes_round_trip() {
        let mut b = Builder::new();
        let t = b.int("int", 4, true);
        b.typedef("i", t);
        let bytes = b.to_bytes();
        assert_eq!(Btf::parse(&bytes).unwrap().to_bytes(), bytes);
    }
}
