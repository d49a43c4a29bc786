//! `perf_event_array` and `cgroup_array`: perf events and cgroups by index.

use std::any::Any;
use std::sync::Arc;

use rtbpf_abi::{Errno, MapKind};
use rtbpf_rt::RunCx;

use crate::access::{KeyRef, ProgBytes, ValuePtr};
use crate::array::next_index;
use crate::head::Head;
use crate::map::{Map, MapError, UpdateFlags, update};
use crate::object::{Object, PerfSink};
use crate::prog_array::{Places, place, remove};

/// The index of the running CPU, in the flags of an output.
pub const CURRENT_CPU: u64 = 0xffff_ffff;

#[derive(Clone)]
enum Element {
    Perf(Arc<dyn PerfSink>),
    Cgroup(u64),
}

/// An array of perf events or cgroups.
pub struct PerfEventArray {
    head: Head,
    elements: Places<Element>,
}

impl PerfEventArray {
    pub(crate) fn new(head: Head) -> Result<PerfEventArray, MapError> {
        Ok(PerfEventArray { elements: Places::new(head.spec().max_entries)?, head })
    }

    /// The event that `flags` name: an index, or [`CURRENT_CPU`].
    fn event<R>(
        &self,
        cx: &RunCx,
        index: u64,
        show: impl FnOnce(&dyn PerfSink) -> Result<R, MapError>,
    ) -> Result<R, MapError> {
        let index = if index == CURRENT_CPU { u64::from(cx.slot) } else { index };
        let place = usize::try_from(index).ok().and_then(|i| self.elements.get(i)).ok_or(Errno::E2BIG)?;
        place
            .with(|element| match element {
                Element::Perf(sink) if sink.cpu().is_some_and(|cpu| cpu != cx.slot) => Err(Errno::EOPNOTSUPP.into()),
                Element::Perf(sink) => show(&**sink),
                Element::Cgroup(_) => Err(Errno::EINVAL.into()),
            })
            .ok_or(Errno::ENOENT)?
    }

    /// Writes one record, in parts (`bpf_perf_event_output`).
    pub fn output(&self, cx: &RunCx, flags: u64, parts: &[ProgBytes<'_>]) -> Result<(), MapError> {
        if flags & !CURRENT_CPU != 0 {
            return Err(Errno::EINVAL.into());
        }
        self.event(cx, flags, |sink| if sink.record(cx.slot, parts) { Ok(()) } else { Err(Errno::ENOSPC.into()) })
    }

    /// Reads a counter: value, enabled time, running time (`bpf_perf_event_read_value`).
    pub fn counter(&self, cx: &RunCx, flags: u64) -> Result<[u64; 3], MapError> {
        if flags & !CURRENT_CPU != 0 {
            return Err(Errno::EINVAL.into());
        }
        self.event(cx, flags, |sink| sink.counter().ok_or(Errno::EINVAL.into()))
    }

    /// The cgroup at `index`.
    pub fn cgroup(&self, index: u32) -> Option<u64> {
        match self.elements.get(index as usize)?.get()? {
            Element::Cgroup(id) => Some(id),
            Element::Perf(_) => None,
        }
    }
}

impl Map for PerfEventArray {
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
        let place = place(&self.elements, key).ok_or(Errno::E2BIG)?;
        let element = match (object, self.head.spec().kind) {
            (Object::Perf(sink), MapKind::PerfEventArray) => Element::Perf(sink.clone()),
            (Object::Cgroup(id), MapKind::CgroupArray) => Element::Cgroup(*id),
            _ => return Err(Errno::EBADF.into()),
        };
        place.swap(Some(element));
        Ok(())
    }

    fn delete(&self, _: &RunCx, key: KeyRef<'_>) -> Result<(), MapError> {
        remove(&self.elements, key)
    }

    fn next_key(&self, _: &RunCx, key: Option<KeyRef<'_>>, out: &mut Vec<u8>) -> Result<(), MapError> {
        next_index(key, self.head.spec().max_entries, out)
    }

    fn read(&self, _: &RunCx, _: KeyRef<'_>, _: u64, _: &mut Vec<u8>) -> Result<(), MapError> {
        Err(MapError::Unsupported)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
