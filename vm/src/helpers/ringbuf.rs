//! Ring buffer records (bpf-helpers(7)).

use std::ops::ControlFlow;
use std::sync::Arc;

use rtbpf_abi::Errno;
use rtbpf_maps::ringbuf::wakeup;
use rtbpf_maps::{Map, MapError, MapRef, ProgBytes, Ringbuf, UserRingbuf};
use rtbpf_rt::RunCx;

use super::map_status;
use super::native::Cx;

/// A map as the ring buffer that it is.
pub(crate) fn ring(map: &dyn Map) -> Option<&Ringbuf> {
    map.ring()
}

/// How a record leaves a program's hands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Submit,
    Discard,
}

/// Ends the record at `sample`, if this run reserved it.
#[inline(always)]
pub(crate) fn end(cx: &mut Cx<'_>, sample: u64, flags: u64, how: End) {
    let Some(ring) = cx.host().records.take(sample) else { return };
    match how {
        End::Submit => ring.submit(sample, flags),
        End::Discard => ring.discard(sample, flags),
    }
}

/// Reserves a record in the ring buffer of argument `n`, and remembers it.
#[inline(always)]
pub(crate) fn reserve_in(cx: &mut Cx<'_>, n: usize, size: u64, flags: u64) -> Option<u64> {
    let (run, head) = (cx.run_cx(), cx.arg(n));
    let known = cx.host().records.rings.iter().position(|used| used.head == head);
    let at = known.or_else(|| cx.map_ref(n).ok().and_then(|map| cx.host().records.hold(map)))?;
    cx.host().records.reserve(at, &run, size, flags)
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

#[inline]
pub(crate) fn reserve(cx: &mut Cx<'_>) -> u64 {
    let (size, flags) = (cx.arg(2), cx.arg(3));
    reserve_in(cx, 1, size, flags).unwrap_or(0)
}

#[inline]
pub(crate) fn submit(cx: &mut Cx<'_>) -> u64 {
    let (sample, flags) = (cx.arg(1), cx.arg(2));
    end(cx, sample, flags, End::Submit);
    0
}

#[inline]
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
    /// The ring buffers that it used, each held once until the run ends: counting holders costs as much as a record.
    rings: Vec<Used>,
    /// Address of a record, and which of `rings` it is in.
    open: Vec<(u64, usize)>,
}

struct Used {
    /// Address of its head.
    head: u64,
    ring: Arc<Ringbuf>,
}

impl Records {
    /// Holds a ring buffer; `None` when the map is none.
    #[cold]
    fn hold(&mut self, map: MapRef) -> Option<usize> {
        let head = std::ptr::from_ref(map.head()).addr() as u64;
        self.rings.push(Used { head, ring: map.into_ring()? });
        Some(self.rings.len() - 1)
    }

    #[inline(always)]
    fn reserve(&mut self, at: usize, run: &RunCx, size: u64, flags: u64) -> Option<u64> {
        let sample = self.rings.get(at)?.ring.reserve(run, size, flags)?.addr();
        self.open.push((sample, at));
        Some(sample)
    }

    /// Forgets the record at `sample`, and answers the ring buffer that it is in.
    #[inline(always)]
    fn take(&mut self, sample: u64) -> Option<&Ringbuf> {
        // The newest one, most often.
        let at = match self.open.last() {
            Some((known, at)) if *known == sample => {
                let at = *at;
                self.open.pop();
                at
            }
            _ => {
                let found = self.open.iter().rposition(|(known, _)| *known == sample)?;
                self.open.swap_remove(found).1
            }
        };
        Some(&self.rings.get(at)?.ring)
    }

    /// The ring buffer that holds the record at `sample`.
    pub fn map_of(&self, sample: u64) -> Option<MapRef> {
        let (_, at) = self.open.iter().find(|(known, _)| *known == sample)?;
        Some(self.rings.get(*at)?.ring.clone())
    }

    /// Gives back what is open — a run that ends with a record in hand, by a fault: readers stop at the first open
    /// record — and lets the ring buffers go.
    #[inline]
    pub fn clear(&mut self) {
        if !self.rings.is_empty() {
            for (sample, at) in self.open.drain(..) {
                if let Some(used) = self.rings.get(at) {
                    used.ring.discard(sample, 0);
                }
            }
            self.rings.clear();
        }
    }
}

impl Drop for Records {
    fn drop(&mut self) {
        self.clear();
    }
}
