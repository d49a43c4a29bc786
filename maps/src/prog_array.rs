//! `prog_array`: programs by index, for tail calls.

use std::any::Any;
use std::sync::atomic::{AtomicUsize, Ordering};

use rtbpf_abi::Errno;
use rtbpf_rt::RunCx;

use crate::access::{KeyRef, ProgBytes, ValuePtr};
use crate::array::{index_of, next_index};
use crate::head::Head;
use crate::map::{Map, MapError, UpdateFlags, update};
use crate::object::{Object, ProgRef};
use crate::retire::Shared;
use crate::slab::{Pages, ZeroedArray};

/// An array of programs. All are of one type: the first one's.
pub struct ProgArray {
    head: Head,
    targets: Places<ProgRef>,
}

impl ProgArray {
    pub(crate) fn new(head: Head) -> Result<ProgArray, MapError> {
        Ok(ProgArray { targets: Places::new(head.spec().max_entries)?, head })
    }

    /// The program at `index`, kept alive by the answer.
    pub fn get(&self, index: u32) -> Option<ProgRef> {
        self.targets.get(index as usize)?.get()
    }

    /// Shows the program at `index`. Inside a run (a section of [`rtbpf_rt::gate`]) what it refers to stays alive for
    /// the rest of the run.
    #[inline]
    pub fn with<R>(&self, index: u32, show: impl FnOnce(&ProgRef) -> R) -> Option<R> {
        self.targets.get(index as usize)?.with(show)
    }

    /// Empties the array, so that programs that refer to it and are in it can end.
    pub fn clear(&self) {
        self.targets.iter().for_each(|place| {
            place.swap(None);
        });
    }
}

/// Places for objects, by index. Memory comes when a place is filled.
pub(crate) struct Places<T: Send + Sync + 'static> {
    places: ZeroedArray<Shared<T>>,
    /// No place from here on was ever filled.
    end: AtomicUsize,
}

impl<T: Send + Sync + 'static> Places<T> {
    pub(crate) fn new(count: u32) -> Result<Places<T>, MapError> {
        let places = ZeroedArray::new(count as usize, Pages::OnTouchReserved)?;
        Ok(Places { places, end: AtomicUsize::new(0) })
    }

    /// Place `index`.
    #[inline]
    pub(crate) fn get(&self, index: usize) -> Option<&Shared<T>> {
        (index < self.places.len()).then(|| self.places.get(index))
    }

    /// The places that may be filled.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Shared<T>> {
        (0..self.end.load(Ordering::Acquire)).map(|index| self.places.get(index))
    }
}

impl<T: Send + Sync + 'static> Drop for Places<T> {
    fn drop(&mut self) {
        self.iter().filter(|place| !place.is_empty()).for_each(|place| {
            place.swap(None);
        });
    }
}

/// The place that `key` names; it may be filled then.
pub(crate) fn place<'a, T: Send + Sync + 'static>(places: &'a Places<T>, key: KeyRef<'_>) -> Option<&'a Shared<T>> {
    let index = index_of(key)? as usize;
    let place = places.get(index)?;
    if places.end.load(Ordering::Relaxed) <= index {
        places.end.fetch_max(index + 1, Ordering::AcqRel);
    }
    Some(place)
}

/// Empties the place that `key` names: E2BIG outside, ENOENT when empty.
pub(crate) fn remove<T: Send + Sync + 'static>(places: &Places<T>, key: KeyRef<'_>) -> Result<(), MapError> {
    let place = place(places, key).ok_or(Errno::E2BIG)?;
    if place.swap(None) { Ok(()) } else { Err(Errno::ENOENT.into()) }
}

impl Map for ProgArray {
    fn head(&self) -> &Head {
        &self.head
    }

    fn lookup(&self, _: &RunCx, _: KeyRef<'_>) -> Option<ValuePtr> {
        None
    }

    fn update(&self, _: &RunCx, _: KeyRef<'_>, _: ProgBytes<'_>, _: UpdateFlags) -> Result<(), MapError> {
        Err(Errno::EINVAL.into())
    }

    fn update_object(&self, _: &RunCx, key: KeyRef<'_>, object: &Object, flags: UpdateFlags) -> Result<(), MapError> {
        if flags != update::ANY {
            return Err(Errno::EINVAL.into());
        }
        let place = place(&self.targets, key).ok_or(Errno::E2BIG)?;
        match object {
            Object::Prog(prog) if self.head.bind(prog.prog_type(), prog.compatibility()) => {
                place.swap(Some(prog.clone()));
                Ok(())
            }
            Object::Closed => Err(Errno::EBADF.into()),
            _ => Err(Errno::EINVAL.into()),
        }
    }

    fn delete(&self, _: &RunCx, key: KeyRef<'_>) -> Result<(), MapError> {
        remove(&self.targets, key)
    }

    fn next_key(&self, _: &RunCx, key: Option<KeyRef<'_>>, out: &mut Vec<u8>) -> Result<(), MapError> {
        next_index(key, self.head.spec().max_entries, out)
    }

    fn read(&self, _: &RunCx, key: KeyRef<'_>, _: u64, out: &mut Vec<u8>) -> Result<(), MapError> {
        let id = place(&self.targets, key).and_then(|place| place.with(|prog| prog.id())).ok_or(Errno::ENOENT)?;
        out.extend_from_slice(&id.to_le_bytes());
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
