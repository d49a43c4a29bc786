//! `ringbuf`: records from any context to one reader.
//!
//! Data is mapped twice in a row, so that a record that wraps is contiguous. In front of each record stands, as
//! `rtbpf_rt::ring` has it,
//!
//! ```text
//! +0  length | BUSY (bit 31) | DISCARD (bit 30)
//! +4  pages from the record back to the start of the map's memory
//! +8  the record
//! ```

use std::any::Any;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rtbpf_abi::Errno;
use rtbpf_rt::RunCx;
use rtbpf_rt::doorbell::Doorbell;
use rtbpf_rt::ring::{self, BUSY, DISCARD, HEADER, Ring};

use crate::access::{Cell, KeyRef, ProgBytes, ValuePtr};
use crate::head::Head;
use crate::map::{Map, MapError, UpdateFlags};
use crate::slab::{Mirrored, Pages};

/// Pages in front of the data, as a header counts them: the map itself, consumer page, producer page.
const PAGES_BEFORE: u64 = 3;
const PAGE: u64 = 4096;

/// Flags of output, submit and discard.
pub mod wakeup {
    /// Do not notify the reader.
    pub const NO: u64 = 1;
    /// Notify it in any case.
    pub const FORCE: u64 = 2;
}

/// What [`Ringbuf::query`] asks for (`BPF_RB_*`).
pub mod query {
    #![allow(missing_docs)]
    pub const AVAIL_DATA: u64 = 0;
    pub const RING_SIZE: u64 = 1;
    pub const CONS_POS: u64 = 2;
    pub const PROD_POS: u64 = 3;
}

/// A ring buffer.
pub struct Ringbuf {
    head: Head,
    data: Mirrored,
    producer: AtomicU64,
    pending: AtomicU64,
    consumer: AtomicU64,
    /// What a reader that sleeps waits for.
    doorbell: Doorbell,
}

impl Ringbuf {
    pub(crate) fn new(head: Head, pages: Pages) -> Result<Ringbuf, MapError> {
        let data = Mirrored::new(head.spec().max_entries, pages)?;
        let word = || AtomicU64::new(0);
        let (producer, pending, consumer) = (word(), word(), word());
        let doorbell = Doorbell::default();
        Ok(Ringbuf { head, data, producer, pending, consumer, doorbell })
    }

    /// The `len` bytes at position `at`; `len` may not exceed the ring.
    #[inline]
    fn bytes_at(&self, at: u64, len: u64) -> Cell<'_> {
        self.data.cell(at, len)
    }

    /// Room for a record of `size` bytes; `None` when there is none. The caller submits or discards it.
    ///
    /// Semantics: `bpf_ringbuf_reserve`, bpf-helpers(7).
    #[inline(always)]
    pub fn reserve(&self, _: &RunCx, size: u64, flags: u64) -> Option<ValuePtr> {
        if flags != 0 {
            return None;
        }
        let at = self.reserve_at(size)?;
        // A zero-length record still has an address: that of what follows it.
        Some(self.bytes_at(at, HEADER + size).part(HEADER as usize, size as usize).value_ptr())
    }

    #[inline(always)]
    fn reserve_at(&self, size: u64) -> Option<u64> {
        let len = u32::try_from(size).ok().filter(|len| *len < DISCARD)?;
        ring::reserve(self, len, |at| (self.data.offset(at) / PAGE + PAGES_BEFORE) as u32)
    }

    #[inline]
    fn commit(&self, at: u64, flags: u64, discard: bool) {
        ring::commit(self, at, discard);
        // Whoever asks for no word gets none; the reader need not be known then.
        let tells = match flags & (wakeup::NO | wakeup::FORCE) {
            wakeup::NO => false,
            0 => ring::is_awaited(self, at),
            _ => true,
        };
        if tells {
            self.doorbell.ring();
        }
    }

    /// Position of the record whose bytes are at `sample`, when that is one that was reserved here.
    #[inline]
    fn position_of(&self, sample: u64) -> Option<u64> {
        let off = self.data.region().offset_of(sample.checked_sub(HEADER)?)? as u64;
        let off = off & (self.size() - 1);
        let busy = off.is_multiple_of(8) && self.header(off).load(Ordering::Relaxed) & BUSY != 0;
        busy.then_some(off)
    }

    /// Hands the record at `sample`, which `reserve` answered, to the reader. An address that is not a reserved
    /// record's is ignored.
    #[inline]
    pub fn submit(&self, sample: u64, flags: u64) {
        if let Some(at) = self.position_of(sample) {
            self.commit(at, flags, false);
        }
    }

    /// Gives the record at `sample` back.
    #[inline]
    pub fn discard(&self, sample: u64, flags: u64) {
        if let Some(at) = self.position_of(sample) {
            self.commit(at, flags, true);
        }
    }

    /// Copies a record in (`bpf_ringbuf_output`): EINVAL for unknown flags, EAGAIN without room.
    pub fn output(&self, _: &RunCx, record: ProgBytes<'_>, flags: u64) -> Result<(), MapError> {
        if flags & !(wakeup::NO | wakeup::FORCE) != 0 {
            return Err(Errno::EINVAL.into());
        }
        let size = record.len() as u64;
        let at = self.reserve_at(size).ok_or(Errno::EAGAIN)?;
        self.bytes_at(at, HEADER + size).part(HEADER as usize, size as usize).fill(record);
        self.commit(at, flags, false);
        Ok(())
    }

    /// `bpf_ringbuf_query`; 0 for unknown questions.
    pub fn query(&self, what: u64) -> u64 {
        let (consumer, producer) = (self.consumer.load(Ordering::Acquire), self.producer.load(Ordering::Acquire));
        match what {
            query::AVAIL_DATA => producer.saturating_sub(consumer),
            query::RING_SIZE => self.size(),
            query::CONS_POS => consumer,
            query::PROD_POS => producer,
            _ => 0,
        }
    }

    /// Shows each finished record to `take` and consumes it, until `take` answers `false` or none is left; answers how
    /// many were shown. One reader at a time.
    pub fn consume(&self, take: &mut dyn FnMut(&[u8]) -> bool) -> usize {
        let mut shown = 0;
        let mut record = Vec::new();
        while let Some(found) = ring::oldest(self) {
            let len = u64::from(found.len);
            let mut go_on = true;
            if found.is_shown && len + HEADER <= self.size() {
                record.clear();
                self.bytes_at(found.at, HEADER + len).part(HEADER as usize, len as usize).append_to(&mut record);
                go_on = take(&record);
                shown += 1;
            }
            ring::consume(self, found);
            if !go_on {
                break;
            }
        }
        shown
    }

    /// Sleeps until a producer tells of a record, for `timeout` at most (`None`: for ever); whether one can be read now. As
    /// `poll` of the map's descriptor: records whose producers ask for no notification do not end the sleep.
    pub fn wait(&self, timeout: Option<Duration>) -> bool {
        let until = timeout.map(|timeout| Instant::now() + timeout);
        loop {
            let seen = self.doorbell.seen();
            if ring::oldest(self).is_some() {
                return true;
            }
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return false;
            }
            self.doorbell.sleep(seen, left);
        }
    }

    /// The word that counts notifications, for a reader that sleeps in its own way.
    pub fn doorbell(&self) -> &AtomicU32 {
        self.doorbell.rings()
    }
}

impl Ring for Ringbuf {
    type Position = AtomicU64;
    type Header = AtomicU32;

    #[inline]
    fn size(&self) -> u64 {
        self.data.size()
    }

    #[inline]
    fn producer(&self) -> &AtomicU64 {
        &self.producer
    }

    #[inline]
    fn consumer(&self) -> &AtomicU64 {
        &self.consumer
    }

    #[inline]
    fn pending(&self) -> &AtomicU64 {
        &self.pending
    }

    #[inline]
    fn header(&self, at: u64) -> &AtomicU32 {
        self.data.half(at, false)
    }

    #[inline]
    fn stamp(&self, at: u64) -> &AtomicU32 {
        self.data.half(at, true)
    }

    fn clear(&self, at: u64, footprint: u64) {
        // A length may be anything where somebody moved a position.
        let bytes = footprint.min(self.size());
        self.bytes_at(at, bytes).part(HEADER as usize, (bytes - HEADER) as usize).zero();
    }
}

impl Map for Ringbuf {
    fn head(&self) -> &Head {
        &self.head
    }

    fn lookup(&self, _: &RunCx, _: KeyRef<'_>) -> Option<ValuePtr> {
        None
    }

    fn ring(&self) -> Option<&Ringbuf> {
        Some(self)
    }

    fn into_ring(self: Arc<Self>) -> Option<Arc<Ringbuf>> {
        Some(self)
    }

    fn update(&self, _: &RunCx, _: KeyRef<'_>, _: ProgBytes<'_>, _: UpdateFlags) -> Result<(), MapError> {
        Err(MapError::Unsupported)
    }

    fn delete(&self, _: &RunCx, _: KeyRef<'_>) -> Result<(), MapError> {
        Err(MapError::Unsupported)
    }

    fn next_key(&self, _: &RunCx, _: Option<KeyRef<'_>>, _: &mut Vec<u8>) -> Result<(), MapError> {
        Err(MapError::Unsupported)
    }

    fn read(&self, _: &RunCx, _: KeyRef<'_>, _: u64, _: &mut Vec<u8>) -> Result<(), MapError> {
        Err(MapError::Unsupported)
    }

    fn memory(&self) -> Vec<Range<u64>> {
        self.data.region().ranges()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtbpf_abi::{MapKind, MapSpec};

    const CX: RunCx = RunCx::program(0);

    fn ring() -> Ringbuf {
        Ringbuf::new(Head::new(MapSpec::new(MapKind::Ringbuf, 0, 0, 4096), 2), Pages::Now).expect("two pages")
    }

    fn records(ring: &Ringbuf) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        ring.consume(&mut |record| {
            out.push(record.to_vec());
            true
        });
        out
    }

    #[test]
    fn records_come_out_in_the_order_of_their_reservation() {
        let ring = ring();
        let first = ring.reserve(&CX, 8, 0).expect("room");
        ring.output(&CX, b"second"[..].into(), 0).expect("room");
        assert_eq!(records(&ring), Vec::<Vec<u8>>::new(), "the first is still busy");
        ring.submit(first.addr(), 0);
        assert_eq!(records(&ring), [vec![0; 8], b"second".to_vec()]);
    }

    #[test]
    fn discarded_records_take_room_until_consumed_but_are_not_shown() {
        let ring = ring();
        let record = ring.reserve(&CX, 8, 0).expect("room");
        ring.discard(record.addr(), 0);
        assert_eq!(ring.query(query::AVAIL_DATA), 16);
        assert!(records(&ring).is_empty());
        assert_eq!(ring.query(query::CONS_POS), 16);
    }

    #[test]
    fn a_ring_holds_less_than_its_size_and_a_full_one_says_so() {
        let check = |size: u64, fits: bool| {
            let ring = ring();
            assert_eq!(ring.reserve(&CX, size, 0).is_some(), fits, "reserve {size}");
        };
        check(4080, true);
        check(4081, false);
        check(4088, false);
        check(u64::MAX, false);
        check(1 << 30, false);
        let ring = ring();
        let sent = std::iter::repeat_with(|| ring.output(&CX, [0; 16][..].into(), 0)).take_while(Result::is_ok).count();
        assert_eq!(sent, 170);
        assert_eq!(ring.output(&CX, [0; 16][..].into(), 0), Err(Errno::EAGAIN.into()));
        assert_eq!(ring.query(query::PROD_POS), 4080);
        assert_eq!(records(&ring).len(), 170);
        assert!(ring.output(&CX, [0; 16][..].into(), 0).is_ok());
    }

    #[test]
    fn records_survive_every_wrap() {
        let ring = ring();
        for round in 0..1000u32 {
            let record: Vec<u8> = (0..round % 333 + 1).map(|i| (i ^ round) as u8).collect();
            ring.output(&CX, record[..].into(), 0).expect("room");
            assert_eq!(records(&ring), [record]);
        }
    }

    #[test]
    fn a_reader_sleeps_until_a_record_comes_and_no_longer_than_it_may() {
        let ring = ring();
        assert!(!ring.wait(Some(Duration::from_millis(1))));
        let read = std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut read = Vec::new();
                while read.len() < 500 {
                    assert!(ring.wait(None), "only a record ends it");
                    read.extend(records(&ring));
                }
                read
            });
            for at in 0..500u32 {
                while ring.output(&CX, at.to_le_bytes()[..].into(), 0).is_err() {
                    std::thread::yield_now();
                }
            }
            reader.join().expect("no panic")
        });
        assert_eq!(read, (0..500u32).map(|at| at.to_le_bytes().to_vec()).collect::<Vec<_>>());
        ring.output(&CX, [1][..].into(), wakeup::NO).expect("room");
        assert!(ring.wait(None), "it is there, told or not");
    }

    #[test]
    fn foreign_addresses_and_moved_positions_do_no_harm() {
        let ring = ring();
        ring.submit(0, 0);
        ring.submit(u64::MAX, 0);
        ring.discard(ring.data.region().address() + 3, 0);
        let record = ring.reserve(&CX, 64, 0).expect("room");
        ring.consumer.store(u64::MAX - 7, Ordering::Relaxed);
        assert!(ring.reserve(&CX, 4048, 0).is_none(), "would overwrite the busy record");
        ring.submit(record.addr(), 0);
        assert!(records(&ring).is_empty());
    }
}
