//! The parts of a value that copies leave out: locks, timers and other special fields.

use rtbpf_abi::MapSpec;
use rtbpf_abi::map_spec::SpecialKind;

use crate::access::{Cell, ProgBytes};

/// A value, as ranges that are copied and ranges that are not.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    value_size: usize,
    /// Offset and length of what copies move; everything when there is no special field.
    plain: Vec<(usize, usize)>,
    special: Vec<(usize, usize)>,
    lock: Option<usize>,
}

impl Shape {
    pub(crate) fn of(spec: &MapSpec) -> Shape {
        let value_size = spec.value_size as usize;
        let mut special: Vec<(usize, usize)> =
            spec.fields.iter().map(|f| (f.off as usize, f.kind.size() as usize)).collect();
        special.retain(|(off, len)| off + len <= value_size);
        special.sort_unstable();
        let mut plain = Vec::new();
        let mut at = 0;
        for (off, len) in &special {
            if *off > at {
                plain.push((at, off - at));
            }
            at = at.max(off + len);
        }
        if at < value_size {
            plain.push((at, value_size - at));
        }
        let lock = spec.field(|kind| matches!(kind, SpecialKind::SpinLock)).map(|field| field.off as usize);
        Shape { value_size, plain, special, lock }
    }

    /// Offset of the `bpf_spin_lock`, where the value has one.
    pub(crate) fn lock(&self) -> Option<usize> {
        self.lock
    }

    /// Whether copies move every byte.
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        self.special.is_empty()
    }

    /// Copies `value` over the plain parts of `cell`.
    #[inline]
    pub(crate) fn write(&self, cell: Cell<'_>, value: ProgBytes<'_>) {
        if self.special.is_empty() { self.write_plain(cell, value) } else { self.write_parts(cell, value) }
    }

    /// The same for a value that has nothing special.
    #[inline]
    pub(crate) fn write_plain(&self, cell: Cell<'_>, value: ProgBytes<'_>) {
        cell.part(0, self.value_size).fill(value);
    }

    #[inline(never)]
    fn write_parts(&self, cell: Cell<'_>, value: ProgBytes<'_>) {
        for (off, len) in &self.plain {
            if let Some(part) = value.slice(*off, *len) {
                cell.part(*off, *len).fill(part);
            }
        }
    }

    /// Clears the special fields: a fresh element has no lock held and no timer.
    pub(crate) fn reset(&self, cell: Cell<'_>) {
        for (off, len) in &self.special {
            cell.part(*off, *len).zero();
        }
    }

    /// Appends the value, special fields as zeroes.
    pub(crate) fn read(&self, cell: Cell<'_>, out: &mut Vec<u8>) {
        let start = out.len();
        cell.part(0, self.value_size).append_to(out);
        for (off, len) in &self.special {
            out[start + off..start + off + len].fill(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slab::{Pages, Region};
    use rtbpf_abi::MapKind;
    use rtbpf_abi::map_spec::SpecialField;

    fn shape(fields: &[(u32, SpecialKind)]) -> Shape {
        let mut spec = MapSpec::new(MapKind::Array, 4, 32, 1);
        spec.fields = fields.iter().map(|(off, kind)| SpecialField { off: *off, kind: *kind }).collect();
        Shape::of(&spec)
    }

    #[test]
    fn copies_leave_special_fields_alone_and_reads_hide_them() {
        let check = |fields: &[(u32, SpecialKind)], kept: &[(usize, usize)]| {
            let shape = shape(fields);
            let region = Region::new(32, Pages::Now).expect("a page");
            let cell = region.cell(0, 32);
            cell.fill(ProgBytes::from(&[0x11; 32][..]));
            shape.write(cell, ProgBytes::from(&[0x22; 32][..]));
            let mut seen = Vec::new();
            shape.read(cell, &mut seen);
            for (at, (stored, read)) in cell.bytes().to_vec().into_iter().zip(seen).enumerate() {
                let special = kept.iter().any(|(from, to)| (*from..*to).contains(&at));
                assert_eq!(stored, if special { 0x11 } else { 0x22 }, "stored byte {at}");
                assert_eq!(read, if special { 0 } else { 0x22 }, "read byte {at}");
            }
        };
        check(&[], &[]);
        check(&[(0, SpecialKind::SpinLock)], &[(0, 4)]);
        check(&[(16, SpecialKind::Timer), (4, SpecialKind::SpinLock)], &[(4, 8), (16, 32)]);
    }
}
