//! The 8-byte slot, and the index from opcode to table rows.

use crate::insn::{Size, Width};
use crate::rows::{self, Form, ROWS, Row, Rule};

/// One undecoded slot, fields as in `struct bpf_insn`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct RawInsn {
    /// Operation code.
    pub code: u8,
    /// Destination register, 0 to 15.
    pub dst: u8,
    /// Source register or pseudo source, 0 to 15.
    pub src: u8,
    /// Offset.
    pub off: i16,
    /// Immediate.
    pub imm: i32,
}

impl RawInsn {
    /// From 8 little-endian bytes.
    pub const fn from_le_bytes(b: [u8; 8]) -> RawInsn {
        RawInsn {
            code: b[0],
            dst: b[1] & 0xf,
            src: b[1] >> 4,
            off: i16::from_le_bytes([b[2], b[3]]),
            imm: i32::from_le_bytes([b[4], b[5], b[6], b[7]]),
        }
    }

    /// To 8 little-endian bytes.
    pub const fn to_le_bytes(self) -> [u8; 8] {
        let (off, imm) = (self.off.to_le_bytes(), self.imm.to_le_bytes());
        [self.code, self.src << 4 | self.dst & 0xf, off[0], off[1], imm[0], imm[1], imm[2], imm[3]]
    }

    /// Whether the operand of an ALU or jump opcode is the source register, not the immediate.
    pub(crate) const fn is_reg(self) -> bool {
        self.code & 0x08 != 0
    }

    /// Whether a store opcode takes its value from the source register (STX), not from the immediate (ST).
    pub(crate) const fn is_stx(self) -> bool {
        self.code & 0x01 != 0
    }

    /// Width of an ALU or jump opcode, by its class.
    pub(crate) const fn width(self) -> Width {
        match self.code & 0x07 {
            0x04 | 0x06 => Width::W32,
            _ => Width::W64,
        }
    }

    /// Size of a load or store opcode.
    pub(crate) const fn size(self) -> Size {
        match self.code & 0x18 {
            0x00 => Size::W,
            0x08 => Size::H,
            0x10 => Size::B,
            _ => Size::D,
        }
    }

    /// All slots of a little-endian byte string; `None` unless its length is a multiple of 8.
    pub fn parse_all(bytes: &[u8]) -> Option<Vec<RawInsn>> {
        let (slots, rest) = bytes.as_chunks::<8>();
        rest.is_empty().then(|| slots.iter().map(|s| RawInsn::from_le_bytes(*s)).collect())
    }
}

/// The most rows that share one opcode (the atomics on 8 bytes: 12).
const MOST: usize = 12;

/// For each opcode, the rows that use it. Two rows that claim one encoding fail to compile.
static INDEX: [([u8; MOST], u8); 256] = build_index();

const fn build_index() -> [([u8; MOST], u8); 256] {
    let mut index = [([0u8; MOST], 0u8); 256];
    let mut r = 0;
    while r < ROWS.len() {
        let (codes, n) = rows::opcodes(&ROWS[r]);
        let mut c = 0;
        while c < n {
            let slot = &mut index[codes[c] as usize];
            let mut i = 0;
            while i < slot.1 as usize {
                assert!(!collide(&ROWS[slot.0[i] as usize], &ROWS[r]), "two rows claim one encoding");
                i += 1;
            }
            slot.0[slot.1 as usize] = r as u8;
            slot.1 += 1;
            c += 1;
        }
        r += 1;
    }
    index
}

const fn collide(a: &Row, b: &Row) -> bool {
    match (a.rule, b.rule) {
        (Rule::Off(a), Rule::Off(b)) => a == b,
        (Rule::Imm(a), Rule::Imm(b)) => a == b,
        (Rule::Src(a), Rule::Src(b)) => a == b,
        _ => true,
    }
}

/// The rows that share `code`; empty for an opcode that does not exist.
pub fn rows_of(code: u8) -> impl Iterator<Item = &'static Row> {
    let (rows, n) = &INDEX[code as usize];
    rows[..*n as usize].iter().map(|r| &ROWS[*r as usize])
}

/// The row of one encoding: the one of its opcode whose selecting field has the right value.
pub fn row_of(raw: RawInsn) -> Option<&'static Row> {
    rows_of(raw.code).find(|row| match row.rule {
        Rule::None => true,
        Rule::Off(off) => raw.off == off,
        Rule::Imm(imm) => raw.imm == imm,
        Rule::Src(src) => raw.src == src,
    })
}

/// The row that comes closest: of an encoding that selects none, the first of its opcode, and for atomics the one that
/// another size has.
pub(crate) fn nearest_row(raw: RawInsn) -> Option<&'static Row> {
    let first = rows_of(raw.code).next();
    row_of(raw).or_else(|| match first?.form {
        Form::Atomic(..) | Form::LoadAcquire | Form::StoreRelease => row_of(RawInsn { code: ATOMIC64, ..raw }),
        _ => first,
    })
}

/// The opcode whose rows are all atomic operations there are.
const ATOMIC64: u8 = 0xdb;

/// Whether a slot of the load class has a mode other than plain and sign-extending, or a non-zero immediate: Linux has
/// one answer for both.
pub(crate) const fn has_bad_load_fields(raw: RawInsn) -> bool {
    let (class, mode) = (raw.code & 0x07, raw.code & 0xe0);
    class == 0x01 && (mode != 0x60 && mode != 0x80 || raw.imm != 0)
}

/// Whether a slot with this opcode begins a two-slot wide load.
pub fn is_wide(code: u8) -> bool {
    rows_of(code).any(|row| matches!(row.form, Form::Imm(_)))
}
