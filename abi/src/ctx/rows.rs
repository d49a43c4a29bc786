//! How rows of a structure become the layout of one kind of program.

use super::{CtxField, CtxLayout, FieldKind, Narrow, Sizes};
use crate::prog_kind::{ProgKind, ProgKinds};

/// One field, and the kinds of program that may read and write it.
#[derive(Clone, Copy)]
pub(super) struct Row {
    field: CtxField,
    readers: ProgKinds,
    writers: ProgKinds,
}

pub(super) const ALL: ProgKinds = ProgKinds::ALL;
/// Four bytes only.
pub(super) const W: Sizes = Sizes(4);
/// Eight bytes only.
pub(super) const D: Sizes = Sizes(8);
/// One, two or four bytes.
pub(super) const BHW: Sizes = Sizes(1 | 2 | 4);
/// One or two bytes.
pub(super) const BH: Sizes = Sizes(1 | 2);
/// Two or four bytes.
pub(super) const HW: Sizes = Sizes(2 | 4);
/// Four or eight bytes.
pub(super) const WD: Sizes = Sizes(4 | 8);
/// Every size.
pub(super) const BHWD: Sizes = Sizes(1 | 2 | 4 | 8);

/// A number that every kind reads with these sizes.
pub(super) const fn num(name: &'static str, offset: u16, size: u16, reads: Sizes) -> Row {
    let field = CtxField {
        name,
        offset,
        size,
        kind: FieldKind::Scalar,
        reads,
        writes: Sizes::NONE,
        narrow: Narrow::Anywhere,
        kept: size,
        native_offset: offset,
    };
    Row { field, readers: ALL, writers: ProgKinds::NONE }
}

/// A pointer: 4 or 8 bytes in the structure, loaded whole.
pub(super) const fn ptr(name: &'static str, offset: u16, size: u16, kind: FieldKind) -> Row {
    let row = num(name, offset, size, Sizes(size as u8));
    Row { field: CtxField { kind, ..row.field }, ..row }
}

impl Row {
    /// Only these kinds read it.
    pub(super) const fn read_by(self, readers: ProgKinds) -> Row {
        Row { readers, ..self }
    }

    /// These kinds store with these sizes.
    pub(super) const fn written(self, writes: Sizes, writers: ProgKinds) -> Row {
        Row { field: CtxField { writes, ..self.field }, writers, ..self }
    }

    /// Loads have these sizes.
    pub(super) const fn reads(self, reads: Sizes) -> Row {
        Row { field: CtxField { reads, ..self.field }, ..self }
    }

    /// Linux keeps this many bytes of the number.
    pub(super) const fn kept(self, bytes: u16) -> Row {
        Row { field: CtxField { kept: bytes, ..self.field }, ..self }
    }

    /// Where smaller loads begin.
    pub(super) const fn narrow(self, narrow: Narrow) -> Row {
        Row { field: CtxField { narrow, ..self.field }, ..self }
    }
}

/// The fields with the rights of `kind`, pointer slots laid out behind `size` bytes.
pub(super) const fn fields<const N: usize>(rows: &[Row; N], size: u16, kind: ProgKind) -> [CtxField; N] {
    let mut out = [rows[0].field; N];
    let mut slot = size.next_multiple_of(8);
    let mut i = 0;
    while i < N {
        let mut field = rows[i].field;
        if !rows[i].readers.has(kind) {
            field.reads = Sizes::NONE;
        }
        if !rows[i].writers.has(kind) {
            field.writes = Sizes::NONE;
        }
        if field.kind.is_pointer() && field.size == 4 {
            field.native_offset = slot;
            slot += 8;
        }
        out[i] = field;
        i += 1;
    }
    out
}

/// A layout of fields.
pub(super) const fn layout(name: &'static str, size: u16, fields: &'static [CtxField]) -> CtxLayout {
    let mut native_size = size.next_multiple_of(8);
    let mut i = 0;
    while i < fields.len() {
        if fields[i].kind.is_pointer() && fields[i].size == 4 {
            native_size += 8;
        }
        i += 1;
    }
    CtxLayout { name, size, native_size, fields, open: None }
}
