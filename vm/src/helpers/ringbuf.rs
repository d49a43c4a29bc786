//! Ring buffer records (bpf-helpers(7)).

use std::ops::ControlFlow;

use rtbpf_abi::Errno;
use rtbpf_maps::ringbuf::wakeup;
use rtbpf_maps::{Map, MapError, MapRef, ProgBytes, Ringbuf, UserRingbuf};
use rtbpf_rt::RunCx;

use super::map_status;
use super::native::Cx;

/// A map as the ring buffer that it is.
pub(crate) fn ring(map: &dyn Map) -> Option<&Ringbuf> {
    map.as_any().downcast_ref()
}

/// How a record leaves a program's hands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Submit,
    Discard,
}

/// Ends the record at `sample`, if this run reserved it.
pub(crate) fn end(cx: &mut Cx<'_>, sample: u64, flags: u64, how: End) {
    let Some(map) = cx.host().records.take(sample) else { return };
    match (ring(&*map), how) {
        (Some(ring), End::Submit) => ring.submit(sample, flags),
        (Some(ring), End::Discard) => ring.discard(sample, flags),
        (None, _) => {}
    }
    cx.host().records.last = Some(map);
}

/// Reserves a record and remembers who holds it.
pub(crate) fn reserve_in(cx: &mut Cx<'_>, map: MapRef, size: u64, flags: u64) -> Option<u64> {
    let sample = ring(&*map)?.reserve(&cx.run_cx(), size, flags)?.addr();
    cx.host().records.add(sample, map);
    Some(sample)
}

pub(crate) fn output(cx: &mut Cx<'_>) -> u64 {
    let Ok(map) = cx.map(1) else { return Errno::EINVAL.as_ret() };
    let len = cx.arg(3) as u32 as usize;
    let record = if len == 0 { ProgBytes::from(&[][..]) } else { cx.bytes(2, len) };
    match ring(map) {
        Some(ring) => map_status(ring.output(&cx.run_cx(), record, cx.arg(4))),
        None => Errno::EINVAL.as_ret(),
    }
}

pub(crate) fn reserve(cx: &mut Cx<'_>) -> u64 {
    let (head, size, flags) = (cx.arg(1), cx.arg(2), cx.arg(3));
    let is_it = |map: &mut MapRef| std::ptr::from_ref(map.head()).addr() as u64 == head;
    let Some(map) = cx.host().records.last.take_if(is_it).or_else(|| cx.map_ref(1).ok()) else { return 0 };
    reserve_in(cx, map, size, flags).unwrap_or(0)
}

pub(crate) fn submit(cx: &mut Cx<'_>) -> u64 {
    let (sample, flags) = (cx.arg(1), cx.arg(2));
    end(cx, sample, flags, End::Submit);
    0
}

pub(crate) fn discard(cx: &mut Cx<'_>) -> u64 {
    let (sample, flags) = (cx.arg(1), cx.arg(2));
    end(cx, sample, flags, End::Discard);
    0
}

pub(crate) fn query(cx: &mut Cx<'_>) -> u64 {
    let Ok(map) = cx.map(1) else { return 0 };
    ring(map).map_or(0, |ring| ring.query(cx.arg(2)))
}

/// Records that one `user_ringbuf_drain` shows at most (Linux: `BPF_MAX_USER_RINGBUF_SAMPLES`).
pub(crate) const MOST_RECORDS: u64 = 128 * 1024;

/// Consumes the next record of a user ring buffer (`bpf_user_ringbuf_drain`); `None` when there is none. `flags` are the
/// helper's.
pub(crate) fn next_record(map: &dyn Map, run: &RunCx, flags: u64) -> Result<Option<Vec<u8>>, Errno> {
    if flags & !(wakeup::NO | wakeup::FORCE) != 0 {
        return Err(Errno::EINVAL);
    }
    let ring: &UserRingbuf = map.as_any().downcast_ref().ok_or(Errno::EINVAL)?;
    let mut record = None;
    let take = &mut |bytes: ProgBytes<'_>| {
        record = Some(bytes.to_vec());
        ControlFlow::Break(())
    };
    ring.drain(run, take).map_err(MapError::errno)?;
    Ok(record)
}

/// Records that a run reserved and has not ended.
#[derive(Default)]
pub(crate) struct Records {
    open: Vec<(u64, MapRef)>,
    /// Whose record was ended last: most likely the next one is there too, and counting its holders costs as much as
    /// the record.
    last: Option<MapRef>,
}

impl Records {
    fn add(&mut self, sample: u64, map: MapRef) {
        self.open.push((sample, map));
    }

    fn take(&mut self, sample: u64) -> Option<MapRef> {
        let at = self.open.iter().position(|(known, _)| *known == sample)?;
        Some(self.open.swap_remove(at).1)
    }

    /// The ring buffer that holds the record at `sample`.
    pub fn map_of(&self, sample: u64) -> Option<&MapRef> {
        self.open.iter().find(|(known, _)| *known == sample).map(|(_, map)| map)
    }
}

impl Drop for Records {
    /// A run that ends with a record in hand, by a fault, gives it back: readers stop at the first open record.
    fn drop(&mut self) {
        for (sample, map) in self.open.drain(..) {
            if let Some(ring) = ring(&*map) {
                ring.discard(sample, 0);
            }
        }
    }
}
