//! Bytes to [`Btf`], and back to one [`Type`] at a time.

use std::sync::OnceLock;

use crate::error::Error;
use crate::types::{Int, IntEncoding, Kind, Linkage, List, Shape, Type, TypeId};

/// Levels of containment by value that a type may have.
pub const MAX_NESTING: u8 = 64;

/// Bytes of a type's name. Linux takes 512; Rust's generics make longer ones.
pub(crate) const MAX_NAME: usize = 1024;

/// Types that one blob may hold. Linux allows 2^20 - 1 ids.
const MAX_TYPES: usize = 0xf_ffff;

/// Kind numbers of the format.
pub(crate) mod number {
    pub const INT: u8 = 1;
    pub const PTR: u8 = 2;
    pub const ARRAY: u8 = 3;
    pub const STRUCT: u8 = 4;
    pub const UNION: u8 = 5;
    pub const ENUM: u8 = 6;
    pub const FWD: u8 = 7;
    pub const TYPEDEF: u8 = 8;
    pub const VOLATILE: u8 = 9;
    pub const CONST: u8 = 10;
    pub const RESTRICT: u8 = 11;
    pub const FUNC: u8 = 12;
    pub const FUNC_PROTO: u8 = 13;
    pub const VAR: u8 = 14;
    pub const DATASEC: u8 = 15;
    pub const FLOAT: u8 = 16;
    pub const DECL_TAG: u8 = 17;
    pub const TYPE_TAG: u8 = 18;
    pub const ENUM64: u8 = 19;
}

/// The type information of one object or kernel.
pub struct Btf {
    types: Box<[u8]>,
    /// Where type `id + 1` starts in `types`.
    starts: Vec<u32>,
    strings: String,
    /// Hash of the essential name above the id, sorted; built by the first look-up.
    pub(crate) names: OnceLock<Vec<u64>>,
}

/// The little-endian word at `off`.
pub(crate) fn word(bytes: &[u8], off: usize) -> Option<u32> {
    let word = bytes.get(off..)?.first_chunk::<4>()?;
    Some(u32::from_le_bytes(*word))
}

/// `bytes[off..off + len]` of a part of the blob called `what`.
pub(crate) fn part<'a>(bytes: &'a [u8], off: usize, len: usize, what: &'static str) -> Result<&'a [u8], Error> {
    let rest = bytes.get(off..).unwrap_or_default();
    rest.get(..len).ok_or(Error::Truncated { what, offset: off, need: len, have: rest.len() })
}

/// Magic, version and header length, common to `.BTF` and `.BTF.ext`.
pub(crate) fn header(bytes: &[u8], least: usize) -> Result<usize, Error> {
    let head = part(bytes, 0, 8, "header")?;
    let (magic, version) = match *head {
        [a, b, version, ..] => (u16::from_le_bytes([a, b]), version),
        _ => return Err(Error::Magic(0)),
    };
    match magic {
        0xeb9f => {}
        0x9feb => return Err(Error::BigEndian),
        _ => return Err(Error::Magic(magic)),
    }
    if version != 1 {
        return Err(Error::Version(version));
    }
    let len = word(head, 4).unwrap_or(0) as usize;
    part(bytes, 0, len.max(least), "header")?;
    Ok(len.max(least))
}

/// Bytes as text with each invalid byte replaced by one `?`, so that offsets keep.
fn same_length_utf8(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| '?'));
    }
    text
}

impl Btf {
    /// Parses the contents of a `.BTF` section or of `/sys/kernel/btf/vmlinux`.
    pub fn parse(bytes: &[u8]) -> Result<Btf, Error> {
        let header_len = header(bytes, 24)?;
        let field = |at| word(bytes, at).unwrap_or(0) as usize;
        let [type_off, type_len, str_off, str_len] = [8, 12, 16, 20].map(field);
        let types = part(bytes, header_len.saturating_add(type_off), type_len, "type section")?;
        let strings = part(bytes, header_len.saturating_add(str_off), str_len, "string section")?;
        if !strings.is_empty() && (strings.first() != Some(&0) || strings.last() != Some(&0)) {
            return Err(Error::Strings);
        }
        Btf::from_sections(types, same_length_utf8(strings))
    }

    pub(crate) fn from_sections(types: &[u8], strings: String) -> Result<Btf, Error> {
        let mut btf = Btf { types: types.into(), starts: Vec::new(), strings, names: OnceLock::new() };
        btf.starts = btf.split()?;
        btf.check_references()?;
        btf.check_nesting()?;
        Ok(btf)
    }

    /// Finds where each type starts.
    fn split(&self) -> Result<Vec<u32>, Error> {
        let mut starts = Vec::new();
        let mut offset = 0;
        while offset < self.types.len() {
            let id = starts.len() as u32 + 1;
            if starts.len() >= MAX_TYPES {
                return Err(Error::TooManyTypes(MAX_TYPES));
            }
            let head = part(&self.types, offset, 12, "type")?;
            let info = word(head, 4).unwrap_or(0);
            let kind = (info >> 24 & 0x1f) as u8;
            let payload = payload_bytes(kind, info & 0xffff).ok_or(Error::UnknownKind { id, offset, kind })?;
            part(&self.types, offset + 12, payload, "type")?;
            starts.push(offset as u32);
            offset += 12 + payload;
        }
        Ok(starts)
    }

    fn check_references(&self) -> Result<(), Error> {
        let count = self.len() as u32;
        for id in 1..count {
            let Some(ty) = self.raw(TypeId(id)) else { continue };
            let name = ty.name;
            match self.strings.as_bytes().get(name as usize..) {
                None | Some([]) if name != 0 => return Err(Error::BadName { id, name }),
                Some(text) if !text.is_empty() && text.iter().take(MAX_NAME).all(|&byte| byte != 0) => {
                    return Err(Error::LongName { id, name });
                }
                _ => {}
            }
            let references = (0..).map_while(|at| ty.reference(at));
            if let Some(to) = references.into_iter().find(|to| to.0 >= count) {
                return Err(Error::BadReference { id, to: to.0, count });
            }
        }
        Ok(())
    }

    /// Depth-first over containment by value, without recursion: a type contains itself or nests too deep, or not.
    fn check_nesting(&self) -> Result<(), Error> {
        const NEW: u8 = 0;
        const OPEN: u8 = u8::MAX;
        // Depth of each finished type, from 1.
        let mut depth = vec![NEW; self.len()];
        let mut stack: Vec<(TypeId, usize, u8)> = Vec::new();
        for root in 1..self.len() as u32 {
            if depth.get(root as usize) != Some(&NEW) {
                continue;
            }
            stack.push((TypeId(root), 0, 0));
            while let Some((id, child, deepest)) = stack.pop() {
                let Some(mark) = depth.get_mut(id.0 as usize) else { continue };
                *mark = OPEN;
                let Some(to) = self.raw(id).and_then(|ty| ty.contained(child)) else {
                    *mark = deepest + 1;
                    if deepest >= MAX_NESTING {
                        return Err(Error::Nesting { id: id.0 });
                    }
                    if let Some(parent) = stack.last_mut() {
                        parent.2 = parent.2.max(deepest + 1);
                    }
                    continue;
                };
                let inner = depth.get(to.0 as usize).copied().unwrap_or(NEW);
                match inner {
                    _ if to == TypeId::VOID => stack.push((id, child + 1, deepest)),
                    OPEN => return Err(Error::Nesting { id: to.0 }),
                    NEW => {
                        stack.push((id, child + 1, deepest));
                        stack.push((to, 0, 0));
                    }
                    done => stack.push((id, child + 1, deepest.max(done))),
                }
            }
        }
        Ok(())
    }

    /// How many types, void included.
    pub fn len(&self) -> usize {
        self.starts.len() + 1
    }

    /// Whether void is the only type.
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// All types but void, by id.
    pub fn iter(&self) -> impl Iterator<Item = Type<'_>> {
        (1..self.len() as u32).filter_map(|id| self.get(TypeId(id)))
    }

    /// The string at `offset` of the string section; empty when there is none.
    pub fn str(&self, offset: u32) -> &str {
        let rest = self.strings.get(offset as usize..).unwrap_or_default();
        rest.split('\0').next().unwrap_or_default()
    }

    pub(crate) fn strings(&self) -> &str {
        &self.strings
    }

    pub(crate) fn type_bytes(&self) -> &[u8] {
        &self.types
    }

    /// Words 0 to 2 of a type and the bytes behind them.
    pub(crate) fn record(&self, id: TypeId) -> Option<([u32; 3], &[u8])> {
        let start = *self.starts.get(id.0.checked_sub(1)? as usize)? as usize;
        let record = self.types.get(start..)?;
        let words = [word(record, 0)?, word(record, 4)?, word(record, 8)?];
        Some((words, record.get(12..)?))
    }

    fn raw(&self, id: TypeId) -> Option<RawType<'_>> {
        let ([name, info, size_or_type], payload) = self.record(id)?;
        let kind = (info >> 24 & 0x1f) as u8;
        Some(RawType { name, kind, size_or_type, payload: payload.get(..payload_bytes(kind, info & 0xffff)?)? })
    }

    /// The type with this id; `None` when there is none.
    pub fn get(&self, id: TypeId) -> Option<Type<'_>> {
        if id == TypeId::VOID {
            return Some(Type { id, name: "", kind: Kind::Void });
        }
        let ([name, info, size_or_type], payload) = self.record(id)?;
        let (kind, count, flag) = ((info >> 24 & 0x1f) as u8, (info & 0xffff) as usize, info >> 31 != 0);
        let payload = payload.get(..payload_bytes(kind, count as u32)?)?;
        let (bytes, to) = (size_or_type, TypeId(size_or_type));
        let first = word(payload, 0).unwrap_or(0);
        let kind = match kind {
            number::INT => Kind::Int(int(bytes, first)),
            number::PTR => Kind::Ptr { to },
            number::ARRAY => {
                Kind::Array { elem: TypeId(first), index: TypeId(word(payload, 4)?), len: word(payload, 8)? }
            }
            number::STRUCT => Kind::Struct { bytes, members: List::new(self, payload, Shape { stride: 12, flag }) },
            number::UNION => Kind::Union { bytes, members: List::new(self, payload, Shape { stride: 12, flag }) },
            number::ENUM => {
                Kind::Enum { bytes, signed: flag, values: List::new(self, payload, Shape { stride: 8, flag }) }
            }
            number::ENUM64 => {
                Kind::Enum { bytes, signed: flag, values: List::new(self, payload, Shape { stride: 12, flag }) }
            }
            number::FWD => Kind::Fwd { is_union: flag },
            number::TYPEDEF => Kind::Typedef { to },
            number::VOLATILE => Kind::Volatile { to },
            number::CONST => Kind::Const { to },
            number::RESTRICT => Kind::Restrict { to },
            number::FUNC => Kind::Func { proto: to, linkage: Linkage::from_number(count as u32) },
            number::FUNC_PROTO => {
                Kind::FuncProto { ret: to, params: List::new(self, payload, Shape { stride: 8, flag }) }
            }
            number::VAR => Kind::Var { ty: to, linkage: Linkage::from_number(first) },
            number::DATASEC => Kind::DataSec { bytes, vars: List::new(self, payload, Shape { stride: 12, flag }) },
            number::FLOAT => Kind::Float { bytes },
            number::DECL_TAG => Kind::DeclTag { to, component: (first != u32::MAX).then_some(first) },
            number::TYPE_TAG => Kind::TypeTag { to },
            _ => return None,
        };
        Some(Type { id, name: self.str(name), kind })
    }
}

impl std::fmt::Debug for Btf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Btf({} types, {} bytes of strings)", self.len(), self.strings.len())
    }
}

/// Two are equal when their types and strings are, byte for byte.
impl PartialEq for Btf {
    fn eq(&self, other: &Btf) -> bool {
        self.types == other.types && self.strings == other.strings
    }
}

fn int(bytes: u32, encoding: u32) -> Int {
    let kind = encoding >> 24;
    Int {
        bytes,
        bits: encoding as u8,
        offset: (encoding >> 16) as u8,
        encoding: IntEncoding { signed: kind & 1 != 0, char: kind & 2 != 0, bool: kind & 4 != 0 },
    }
}

/// Bytes behind the three words of a type; `None` for an unknown kind.
pub(crate) fn payload_bytes(kind: u8, count: u32) -> Option<usize> {
    let count = count as usize;
    Some(match kind {
        number::INT | number::VAR | number::DECL_TAG => 4,
        number::ARRAY => 12,
        number::STRUCT | number::UNION | number::DATASEC | number::ENUM64 => 12 * count,
        number::ENUM | number::FUNC_PROTO => 8 * count,
        number::PTR | number::FWD | number::TYPEDEF | number::VOLATILE | number::CONST | number::RESTRICT => 0,
        number::FUNC | number::FLOAT | number::TYPE_TAG => 0,
        _ => return None,
    })
}

/// Whether the third word of a type of this kind names a type; it is a size otherwise.
pub(crate) fn names_type(kind: u8) -> bool {
    use number::*;
    matches!(kind, PTR | TYPEDEF | VOLATILE | CONST | RESTRICT | FUNC | FUNC_PROTO | VAR | DECL_TAG | TYPE_TAG)
}

/// Which payload words of this kind name types: words in a record, and which of them.
pub(crate) fn type_words(kind: u8) -> Option<(usize, &'static [usize])> {
    match kind {
        number::ARRAY => Some((3, &[0, 1])),
        number::STRUCT | number::UNION => Some((3, &[1])),
        number::DATASEC => Some((3, &[0])),
        number::FUNC_PROTO => Some((2, &[1])),
        _ => None,
    }
}

/// A type undecoded, for walks over all of them.
struct RawType<'a> {
    name: u32,
    kind: u8,
    size_or_type: u32,
    payload: &'a [u8],
}

impl RawType<'_> {
    /// The `at`th type this one names.
    fn reference(&self, at: usize) -> Option<TypeId> {
        let Some((stride, words)) = type_words(self.kind) else {
            return (at == 0 && names_type(self.kind)).then_some(TypeId(self.size_or_type));
        };
        let Some(at) = at.checked_sub(usize::from(names_type(self.kind))) else {
            return Some(TypeId(self.size_or_type));
        };
        let word_at = at / words.len() * stride + words.get(at % words.len())?;
        word(self.payload, word_at * 4).map(TypeId)
    }

    /// The `at`th type this one contains by value.
    fn contained(&self, at: usize) -> Option<TypeId> {
        use number::*;
        match self.kind {
            STRUCT | UNION | DATASEC => self.reference(at),
            // The second reference of an array is its index type.
            ARRAY | TYPEDEF | CONST | VOLATILE | RESTRICT | TYPE_TAG | VAR if at == 0 => self.reference(0),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(types: &[u32], strings: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x9f, 0xeb, 1, 0];
        let len = types.len() as u32 * 4;
        for w in [24, 0, len, len, strings.len() as u32].iter().chain(types) {
            bytes.extend(w.to_le_bytes());
        }
        bytes.extend(strings);
        bytes
    }

    fn kind(kind: u8, count: u32) -> u32 {
        u32::from(kind) << 24 | count
    }

    #[test]
    fn headers_that_are_not_btf_are_named() {
        let check = |bytes: &[u8], error| assert_eq!(Btf::parse(bytes).err(), Some(error));
        check(&[], Error::Truncated { what: "header", offset: 0, need: 8, have: 0 });
        check(&[0xeb, 0x9f, 1, 0, 0, 0, 0, 24], Error::BigEndian);
        check(&[0x7f, b'E', 1, 0, 24, 0, 0, 0], Error::Magic(0x457f));
        check(&[0x9f, 0xeb, 2, 0, 24, 0, 0, 0], Error::Version(2));
        check(&[0x9f, 0xeb, 1, 0, 24, 0, 0, 0], Error::Truncated { what: "header", offset: 0, need: 24, have: 8 });
        check(&blob(&[], b"x\0"), Error::Strings);
    }

    #[test]
    fn broken_types_are_named() {
        let check = |types: &[u32], error| assert_eq!(Btf::parse(&blob(types, b"\0")).err(), Some(error));
        check(&[0, kind(number::PTR, 0), 2], Error::BadReference { id: 1, to: 2, count: 2 });
        check(&[0, kind(20, 0), 2], Error::UnknownKind { id: 1, offset: 0, kind: 20 });
        check(&[9, kind(number::PTR, 0), 0], Error::BadName { id: 1, name: 9 });
        let short = Error::Truncated { what: "type", offset: 12, need: 12, have: 0 };
        check(&[0, kind(number::STRUCT, 1), 2], short);
        check(&[0, kind(number::TYPEDEF, 0), 1], Error::Nesting { id: 1 });
        check(&[0, kind(number::CONST, 0), 2, 0, kind(number::CONST, 0), 1], Error::Nesting { id: 1 });
    }

    #[test]
    fn nesting_ends_at_the_limit() {
        let chain = |levels: u32| {
            let types: Vec<u32> = (0..levels).flat_map(|i| [0, kind(number::CONST, 0), i]).collect();
            Btf::parse(&blob(&types, b"\0")).map(|btf| btf.len())
        };
        assert_eq!(chain(MAX_NESTING.into()), Ok(65));
        assert_eq!(chain(u32::from(MAX_NESTING) + 1), Err(Error::Nesting { id: 65 }));
    }

    #[test]
    fn cycles_through_pointers_are_legal() {
        // struct { struct *next; }
        let types = [0, kind(number::STRUCT, 1), 8, 0, 2, 0, 0, kind(number::PTR, 0), 1];
        assert_eq!(Btf::parse(&blob(&types, b"\0")).map(|btf| btf.len()), Ok(3));
    }

    #[test]
    fn invalid_text_keeps_its_length() {
        assert_eq!(same_length_utf8(b"a\xffb\xe2\x82"), "a?b??");
    }
}
