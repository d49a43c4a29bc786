//! `.BTF.ext`: which instruction belongs to which function and source line, and which needs a CO-RE relocation.
//!
//! Offsets of instructions are in bytes from the start of the ELF section that a record's section names.

use crate::error::Error;
use crate::read::{Btf, header, part, word};
use crate::types::TypeId;

/// The parsed section.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct BtfExt {
    /// Functions.
    pub funcs: Vec<InfoSection<FuncInfo>>,
    /// Source lines.
    pub lines: Vec<InfoSection<LineInfo>>,
    /// CO-RE relocations.
    pub relos: Vec<InfoSection<CoreRelo>>,
}

/// The records of one ELF section.
#[derive(Clone, PartialEq, Debug)]
pub struct InfoSection<T> {
    /// Offset of the section's name in the BTF strings.
    pub name: u32,
    /// Records as they stand, normally by offset.
    pub records: Vec<T>,
}

/// A function starts here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FuncInfo {
    /// Byte offset in its ELF section.
    pub offset: u32,
    /// The function's type.
    pub ty: TypeId,
}

/// A source line starts here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LineInfo {
    /// Byte offset in its ELF section.
    pub offset: u32,
    /// String offset of the file name.
    pub file: u32,
    /// String offset of the line's text.
    pub text: u32,
    /// Line, from 1.
    pub line: u32,
    /// Column, from 1; 0 when unknown.
    pub column: u32,
}

/// An instruction to adjust to the target's types.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CoreRelo {
    /// Byte offset in its ELF section.
    pub offset: u32,
    /// The type the access starts from.
    pub ty: TypeId,
    /// String offset of the access, such as `0:1:2`.
    pub access: u32,
    /// What to put into the instruction.
    pub kind: u32,
}

/// What a CO-RE relocation asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
#[allow(missing_docs)]
pub enum CoreReloKind {
    FieldByteOffset = 0,
    FieldByteSize = 1,
    FieldExists = 2,
    FieldSigned = 3,
    FieldLshiftU64 = 4,
    FieldRshiftU64 = 5,
    TypeIdLocal = 6,
    TypeIdTarget = 7,
    TypeExists = 8,
    TypeSize = 9,
    EnumvalExists = 10,
    EnumvalValue = 11,
    TypeMatches = 12,
}

impl CoreReloKind {
    /// Every kind, by number.
    pub const ALL: [CoreReloKind; 13] = {
        use CoreReloKind::*;
        [
            FieldByteOffset,
            FieldByteSize,
            FieldExists,
            FieldSigned,
            FieldLshiftU64,
            FieldRshiftU64,
            TypeIdLocal,
            TypeIdTarget,
            TypeExists,
            TypeSize,
            EnumvalExists,
            EnumvalValue,
            TypeMatches,
        ]
    };

    /// From the format's number.
    pub fn from_number(number: u32) -> Option<CoreReloKind> {
        CoreReloKind::ALL.get(number as usize).copied()
    }

    /// The name that libbpf's logs use.
    pub fn name(self) -> &'static str {
        match self {
            CoreReloKind::FieldByteOffset => "byte_off",
            CoreReloKind::FieldByteSize => "byte_sz",
            CoreReloKind::FieldExists => "field_exists",
            CoreReloKind::FieldSigned => "signed",
            CoreReloKind::FieldLshiftU64 => "lshift_u64",
            CoreReloKind::FieldRshiftU64 => "rshift_u64",
            CoreReloKind::TypeIdLocal => "local_type_id",
            CoreReloKind::TypeIdTarget => "target_type_id",
            CoreReloKind::TypeExists => "type_exists",
            CoreReloKind::TypeSize => "type_size",
            CoreReloKind::EnumvalExists => "enumval_exists",
            CoreReloKind::EnumvalValue => "enumval_value",
            CoreReloKind::TypeMatches => "type_matches",
        }
    }
}

/// A record of known words; longer ones on file keep what follows to themselves.
trait Record: Sized {
    const WORDS: usize;
    fn read(words: [u32; 4]) -> Self;
}

impl Record for FuncInfo {
    const WORDS: usize = 2;
    fn read([offset, ty, ..]: [u32; 4]) -> FuncInfo {
        FuncInfo { offset, ty: TypeId(ty) }
    }
}

impl Record for LineInfo {
    const WORDS: usize = 4;
    fn read([offset, file, text, line_column]: [u32; 4]) -> LineInfo {
        LineInfo { offset, file, text, line: line_column >> 10, column: line_column & 0x3ff }
    }
}

impl Record for CoreRelo {
    const WORDS: usize = 4;
    fn read([offset, ty, access, kind]: [u32; 4]) -> CoreRelo {
        CoreRelo { offset, ty: TypeId(ty), access, kind }
    }
}

impl BtfExt {
    /// Parses the contents of a `.BTF.ext` section.
    pub fn parse(bytes: &[u8]) -> Result<BtfExt, Error> {
        let header_len = header(bytes, 24)?;
        let field = |at: usize| word(bytes, at).unwrap_or(0) as usize;
        let section = |at, what| part(bytes, header_len.saturating_add(field(at)), field(at + 4), what);
        let relos = if header_len >= 32 { section(24, "core_relo")? } else { &[] };
        Ok(BtfExt {
            funcs: records(section(8, "func_info")?, "func_info")?,
            lines: records(section(16, "line_info")?, "line_info")?,
            relos: records(relos, "core_relo")?,
        })
    }

    /// The name of an ELF section that a record's section gives.
    pub fn section_name<'a, T>(btf: &'a Btf, section: &InfoSection<T>) -> &'a str {
        btf.str(section.name)
    }
}

fn records<T: Record>(bytes: &[u8], what: &'static str) -> Result<Vec<InfoSection<T>>, Error> {
    let mut sections = Vec::new();
    if bytes.is_empty() {
        return Ok(sections);
    }
    let size = word(part(bytes, 0, 4, what)?, 0).unwrap_or(0);
    let least = T::WORDS as u32 * 4;
    if size < least || !size.is_multiple_of(4) {
        return Err(Error::RecordSize { what, size, least });
    }
    let stride = size as usize;
    let mut at = 4;
    while at < bytes.len() {
        let head = part(bytes, at, 8, what)?;
        let (name, count) = (word(head, 0).unwrap_or(0), word(head, 4).unwrap_or(0) as usize);
        at += 8;
        let body = part(bytes, at, stride.saturating_mul(count), what)?;
        let read = |record: &[u8]| T::read([0, 4, 8, 12].map(|off| word(record, off).unwrap_or(0)));
        sections.push(InfoSection { name, records: body.chunks_exact(stride).map(read).collect() });
        at += body.len();
    }
    Ok(sections)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(funcs: &[u32]) -> Vec<u8> {
        let len = funcs.len() as u32 * 4;
        let words = [0x0001_eb9f, 24, 0, len, len, 0];
        words.iter().chain(funcs).flat_map(|w| w.to_le_bytes()).collect()
    }

    #[test]
    fn longer_records_are_skipped_by_their_size() {
        let ext = BtfExt::parse(&blob(&[12, 7, 2, 0, 1, 99, 8, 2, 99])).unwrap();
        let records = vec![FuncInfo { offset: 0, ty: TypeId(1) }, FuncInfo { offset: 8, ty: TypeId(2) }];
        assert_eq!(ext.funcs, [InfoSection { name: 7, records }]);
    }

    #[test]
    fn counts_beyond_the_section_are_refused() {
        let check = |words: &[u32], error| assert_eq!(BtfExt::parse(&blob(words)).err(), Some(error));
        check(&[8, 7, 2, 0, 1], Error::Truncated { what: "func_info", offset: 12, need: 16, have: 8 });
        check(
            &[8, 7, u32::MAX, 0, 1],
            Error::Truncated { what: "func_info", offset: 12, need: 8 * 0xffff_ffff, have: 8 },
        );
        check(&[4, 7, 1, 0], Error::RecordSize { what: "func_info", size: 4, least: 8 });
    }
}
