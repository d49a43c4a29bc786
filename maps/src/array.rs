//! Arrays: `array` and `percpu_array`. Every element exists, zeroed; there is no lock.

use std::any::Any;
use std::ops::Range;

use rtbpf_abi::Errno;
use rtbpf_rt::{Class, Lock, RawLock, RunCx};

use crate::access::{Cell, KeyRef, ProgBytes, ValuePtr};
use crate::fields::Shape;
use crate::hash::check_flags;
use crate::head::Head;
use crate::map::{Layout, Map, MapError, UpdateFlags, Visit, update};
use crate::percpu::PercpuCells;
use crate::slab::{Pages, Slab};

/// The index a 4-byte key names; `None` for keys of another length.
pub(crate) fn index_of(key: KeyRef<'_>) -> Option<u32> {
    key.try_into().map(u32::from_le_bytes).ok()
}

/// The key after `key` in any kind whose keys are indices: the first for none and for one out of range.
pub(crate) fn next_index(key: Option<KeyRef<'_>>, max_entries: u32, out: &mut Vec<u8>) -> Result<(), MapError> {
    let next = match key.and_then(index_of) {
        Some(index) if index < max_entries => index + 1,
        _ => 0,
    };
    if next >= max_entries {
        return Err(Errno::ENOENT.into());
    }
    out.extend_from_slice(&next.to_le_bytes());
    Ok(())
}

enum Values {
    Shared(Slab),
    Percpu(PercpuCells),
}

/// An array.
pub(crate) struct Array {
    head: Head,
    shape: Shape,
    values: Values,
}

impl Array {
    pub(crate) fn new(head: Head, pages: Pages) -> Result<Array, MapError> {
        let spec = head.spec();
        let values = if spec.kind.is_percpu() {
            Values::Percpu(PercpuCells::new(spec.max_entries, spec.value_size, head.slots(), pages)?)
        } else {
            Values::Shared(Slab::new(spec.max_entries, spec.value_size as usize, pages)?)
        };
        Ok(Array { shape: Shape::of(spec), values, head })
    }

    #[inline]
    fn index(&self, key: KeyRef<'_>) -> Option<u32> {
        index_of(key).filter(|index| *index < self.head.spec().max_entries)
    }

    fn value(&self, cx: &RunCx, index: u32) -> Cell<'_> {
        match &self.values {
            Values::Shared(slab) => slab.cell(index),
            Values::Percpu(cells) => cells.cell(index, cx.slot.min(cells.slots() - 1)),
        }
    }

    /// The value's own lock, held, when `flags` ask for it.
    fn value_lock<'a>(
        &self,
        cx: &RunCx,
        cell: Cell<'a>,
        flags: u64,
    ) -> Result<Option<rtbpf_rt::Guard<'a, RawLock>>, MapError> {
        match (flags & update::F_LOCK != 0, self.shape.lock()) {
            (true, Some(off)) => Ok(Some(RawLock::of_word(cell.atomic_u32(off)).lock(cx, Class::Value)?)),
            (true, None) => Err(Errno::EINVAL.into()),
            (false, _) => Ok(None),
        }
    }

    /// The values as the host sees a mapping of them: address and bytes. Per-CPU arrays have none.
    pub(crate) fn host_view(&self) -> Option<(u64, usize)> {
        match &self.values {
            Values::Shared(slab) => Some((slab.region().address(), slab.region().bytes())),
            Values::Percpu(_) => None,
        }
    }
}

impl Map for Array {
    fn head(&self) -> &Head {
        &self.head
    }

    #[inline]
    fn lookup(&self, cx: &RunCx, key: KeyRef<'_>) -> Option<ValuePtr> {
        Some(self.value(cx, self.index(key)?).value_ptr())
    }

    fn lookup_percpu(&self, _: &RunCx, key: KeyRef<'_>, slot: u32) -> Option<ValuePtr> {
        let Values::Percpu(cells) = &self.values else { return None };
        let index = self.index(key)?;
        (slot < cells.slots()).then(|| cells.cell(index, slot).value_ptr())
    }

    fn update(&self, cx: &RunCx, key: KeyRef<'_>, value: ProgBytes<'_>, flags: UpdateFlags) -> Result<(), MapError> {
        // Unknown flags first, then the range, then existence.
        if flags & !update::F_LOCK > update::EXIST {
            return Err(Errno::EINVAL.into());
        }
        let index = self.index(key).ok_or(Errno::E2BIG)?;
        if flags & 3 == update::NOEXIST {
            return Err(Errno::EEXIST.into());
        }
        check_flags(flags, matches!(self.values, Values::Shared(_)), self.head.spec())?;
        match &self.values {
            Values::Shared(slab) => {
                let cell = slab.cell(index);
                // Without a guard that may be none: it would go through memory.
                if flags & update::F_LOCK == 0 {
                    self.shape.write(cell, value);
                    return Ok(());
                }
                let _held = self.value_lock(cx, cell, flags)?;
                self.shape.write(cell, value);
                Ok(())
            }
            Values::Percpu(cells) if cx.in_program => {
                cells.write_one(&self.shape, index, cx.slot, value);
                Ok(())
            }
            Values::Percpu(cells) => cells.write_all(&self.shape, index, value),
        }
    }

    fn delete(&self, _: &RunCx, _: KeyRef<'_>) -> Result<(), MapError> {
        Err(Errno::EINVAL.into())
    }

    fn next_key(&self, _: &RunCx, key: Option<KeyRef<'_>>, out: &mut Vec<u8>) -> Result<(), MapError> {
        next_index(key, self.head.spec().max_entries, out)
    }

    fn read(&self, cx: &RunCx, key: KeyRef<'_>, flags: u64, out: &mut Vec<u8>) -> Result<(), MapError> {
        let index = self.index(key).ok_or(Errno::ENOENT)?;
        match &self.values {
            Values::Shared(slab) => {
                let cell = slab.cell(index);
                out.reserve(self.head.spec().value_size as usize);
                let _held = self.value_lock(cx, cell, flags)?;
                self.shape.read(cell, out);
            }
            Values::Percpu(cells) => cells.read_all(index, out),
        }
        Ok(())
    }

    fn for_each(&self, cx: &RunCx, visit: &mut Visit<'_>) -> Result<u64, MapError> {
        for index in 0..self.head.spec().max_entries {
            if !visit(&index.to_le_bytes(), self.value(cx, index).value_ptr()) {
                return Ok(u64::from(index) + 1);
            }
        }
        Ok(u64::from(self.head.spec().max_entries))
    }

    fn key_of(&self, value: u64) -> Option<Vec<u8>> {
        let Values::Shared(slab) = &self.values else { return None };
        let off = slab.region().offset_of(value)?;
        let index = u32::try_from(off / slab.stride()).ok().filter(|_| off.is_multiple_of(slab.stride()))?;
        (index < self.head.spec().max_entries).then(|| index.to_le_bytes().to_vec())
    }

    fn layout(&self) -> Layout {
        match &self.values {
            Values::Shared(slab) => Layout::Array {
                base: slab.region().address(),
                stride: slab.stride() as u64,
                entries: self.head.spec().max_entries,
            },
            Values::Percpu(cells) => cells.layout(),
        }
    }

    fn memory(&self) -> Vec<Range<u64>> {
        match &self.values {
            Values::Shared(slab) => slab.region().ranges(),
            Values::Percpu(cells) => cells.ranges(),
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
