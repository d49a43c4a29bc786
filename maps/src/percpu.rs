//! One value per slot for every element.
//!
//! Slot `s` owns a run of whole pages: `base + s * slot_bytes + i * stride`. Values of different slots never share a
//! cache line, and native code reaches its own by one multiply and one add.

use rtbpf_abi::Errno;

use crate::access::{Cell, ProgBytes, ProgOut};
use crate::fields::Shape;
use crate::map::{Layout, MapError};
use crate::slab::{Pages, Region};

const PAGE: usize = 4096;

/// Values of a per-CPU map.
pub(crate) struct PercpuCells {
    region: Region,
    stride: usize,
    slot_bytes: usize,
    count: u32,
    slots: u32,
}

impl PercpuCells {
    pub(crate) fn new(count: u32, value_size: u32, slots: u32, pages: Pages) -> Result<PercpuCells, MapError> {
        let stride = (value_size as usize).next_multiple_of(8);
        let slot_bytes =
            stride.checked_mul(count as usize).and_then(|b| b.checked_next_multiple_of(PAGE)).ok_or(Errno::ENOMEM)?;
        let bytes = slot_bytes.checked_mul(slots as usize).ok_or(Errno::ENOMEM)?;
        Ok(PercpuCells { region: Region::new(bytes, pages)?, stride, slot_bytes, count, slots })
    }

    /// The value of element `index` on `slot`; both must be in range.
    #[inline]
    pub(crate) fn cell(&self, index: u32, slot: u32) -> Cell<'_> {
        assert!(index < self.count && slot < self.slots, "per-CPU value in range");
        self.region.cell(slot as usize * self.slot_bytes + index as usize * self.stride, self.stride)
    }

    pub(crate) fn slots(&self) -> u32 {
        self.slots
    }

    /// Copies a control-plane value, all slots of it, into element `index`; with what pads each to 8 bytes, as on Linux,
    /// where values hold nothing special.
    pub(crate) fn write_all(&self, shape: &Shape, index: u32, value: ProgBytes<'_>) -> Result<(), MapError> {
        for slot in 0..self.slots {
            let part = value.slice(slot as usize * self.stride, self.stride).ok_or(Errno::EINVAL)?;
            let cell = self.cell(index, slot);
            if shape.is_plain() { cell.fill(part) } else { shape.write(cell, part) }
        }
        Ok(())
    }

    /// Copies a program's value into its own slot.
    #[inline]
    pub(crate) fn write_one(&self, shape: &Shape, index: u32, mine: u32, value: ProgBytes<'_>) {
        if mine < self.slots {
            shape.write(self.cell(index, mine), value);
        }
    }

    /// Clears the values of a fresh element but one slot's.
    pub(crate) fn clear_others(&self, index: u32, mine: u32) {
        (0..self.slots).filter(|slot| *slot != mine).for_each(|slot| self.cell(index, slot).zero());
    }

    /// Appends every slot's value of element `index`.
    pub(crate) fn read_all(&self, index: u32, out: &mut Vec<u8>) {
        for slot in 0..self.slots {
            self.cell(index, slot).append_to(out);
        }
    }

    /// Bytes that [`PercpuCells::read_all`] appends.
    pub(crate) fn read_bytes(&self) -> usize {
        self.stride * self.slots as usize
    }

    pub(crate) fn layout(&self) -> Layout {
        Layout::PercpuArray {
            base: self.region.address(),
            stride: self.stride as u64,
            slot_bytes: self.slot_bytes as u64,
            entries: self.count,
        }
    }

    pub(crate) fn ranges(&self) -> Vec<std::ops::Range<u64>> {
        self.region.ranges()
    }
}

/// The place of `slot` among `count`. A division only for slots that there were none of when the map was made.
#[inline]
pub(crate) fn place_of(slot: u32, count: usize) -> usize {
    let slot = slot as usize;
    if slot < count { slot } else { slot % count }
}

/// The caller's buffer for helpers that hand a value out, or zeroes when there is none to hand out.
#[inline]
pub(crate) fn hand_out(value: Option<Cell<'_>>, out: ProgOut<'_>, value_size: u32) {
    match value {
        Some(value) => out.fill(value.part(0, value_size as usize).bytes()),
        None => out.zero(),
    }
}

#[cfg(test)]
mod tests {
    use rtbpf_abi::{MapKind, MapSpec};
    use rtbpf_rt::RunCx;

    use crate::{CreateCx, create};

    #[test]
    fn what_pads_a_value_is_kept_too() {
        for kind in [MapKind::PercpuArray, MapKind::PercpuHash] {
            let map = create(&MapSpec::new(kind, 4, 3, 1), &CreateCx::new(2)).expect("a few pages");
            let value: Vec<u8> = (1..=16).collect();
            map.update(&RunCx::CONTROL, &[0; 4], value.as_slice().into(), 0).expect("there is room");
            let mut read = Vec::new();
            map.read(&RunCx::CONTROL, &[0; 4], 0, &mut read).expect("the key is there");
            assert_eq!(read, value, "{kind:?}");
        }
    }
}
