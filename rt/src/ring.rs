//! A ring of records: who moves which position when, between producers in any context and one reader.
//!
//! Positions count bytes for ever. A record is an 8-byte header and its bytes, rounded up to 8. A producer moves the
//! producer position, under the producers' lock, over a record whose header says that it is busy; it ends the record by
//! clearing that mark, without the lock. The reader stops at the first busy record, so records arrive in the order of
//! their reservation, and gives room back by moving the consumer position.
//!
//! Neither position is trusted for memory safety: the reader's may be moved by anyone who maps the ring.

use crate::lock::prim::{Ordering, Word, fence, point};

/// Bit of a header: the record is not ended.
pub const BUSY: u32 = 1 << 31;
/// Bit of a header: the record was given back.
pub const DISCARD: u32 = 1 << 30;
/// Bytes in front of a record.
pub const HEADER: u64 = 8;

/// The words that producers and reader share.
pub trait Ring {
    /// A position.
    type Position: Word<u64>;
    /// Length and marks of a record.
    type Header: Word<u32>;

    /// Bytes of the ring, a power of two.
    fn size(&self) -> u64;
    /// Behind the newest record. Written under the producers' lock.
    fn producer(&self) -> &Self::Position;
    /// The oldest record that is not consumed. Written by the reader.
    fn consumer(&self) -> &Self::Position;
    /// The oldest record that may be busy, as producers last saw it. Used under their lock only.
    fn pending(&self) -> &Self::Position;
    /// The header of the record at `at`.
    fn header(&self, at: u64) -> &Self::Header;
}

/// Bytes a record of `len` bytes takes.
#[inline]
pub fn footprint(len: u32) -> u64 {
    (u64::from(len) + HEADER).next_multiple_of(8)
}

/// Makes room for a record of `len` bytes, below [`DISCARD`], and marks it busy; its position, or `None` when there is no
/// room. `stamp` may write more of the header, given the position. Under the producers' lock.
#[inline(always)]
pub fn reserve(ring: &impl Ring, len: u32, stamp: impl FnOnce(u64)) -> Option<u64> {
    let (need, most) = (footprint(len), ring.size() - 1);
    if need > most {
        return None;
    }
    // Acquire: pairs with the release in `consume`, so that what is read no more is written again.
    let consumer = ring.consumer().load(Ordering::Acquire);
    let at = ring.producer().load(Ordering::Relaxed);
    // Skip what was consumed, and what was ended: the oldest busy record bounds how far a producer may go, even where
    // the reader's position was moved behind our back.
    let mut pending = ring.pending().load(Ordering::Relaxed);
    if pending < consumer && consumer <= at {
        pending = consumer;
    }
    while pending < at {
        let header = ring.header(pending).load(Ordering::Acquire);
        if header & BUSY != 0 {
            break;
        }
        pending += footprint(header & !DISCARD);
    }
    ring.pending().store(pending, Ordering::Relaxed);
    let next = at + need;
    if next.wrapping_sub(pending) > most || next.wrapping_sub(consumer) > most {
        return None;
    }
    stamp(at);
    ring.header(at).store(len | BUSY, Ordering::Relaxed);
    point();
    // Release: who sees the position sees the busy mark.
    ring.producer().store(next, Ordering::Release);
    Some(at)
}

/// Ends the record at `at` without a thought of the reader.
#[inline]
pub fn commit(ring: &impl Ring, at: u64, discard: bool) {
    let header = ring.header(at);
    let len = header.load(Ordering::Relaxed) & !(BUSY | DISCARD);
    // Release: the reader's acquire sees the record's bytes.
    header.store(if discard { len | DISCARD } else { len }, Ordering::Release);
}

/// Whether the reader, after the record at `at` was ended, may have seen it busy and gone to sleep.
#[inline]
pub fn is_awaited(ring: &impl Ring, at: u64) -> bool {
    // The reader moves its position, looks at the next record and then sleeps; we end a record and then look at the
    // position. Of two fences, one is first: either the reader sees the end, or we see where it is. Pairs with `consume`.
    fence(Ordering::SeqCst);
    point();
    let place = ring.size() - 1;
    ring.consumer().load(Ordering::Relaxed) & place == at & place
}

/// A record that is ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    /// Its position.
    pub at: u64,
    /// Its bytes.
    pub len: u32,
    /// Whether the reader is to see it.
    pub is_shown: bool,
}

/// The oldest record, once it is ended. For the reader.
#[inline]
pub fn oldest(ring: &impl Ring) -> Option<Record> {
    let at = ring.consumer().load(Ordering::Relaxed);
    // Acquire, both: pair with the releases in `reserve` and `commit`.
    if at >= ring.producer().load(Ordering::Acquire) {
        return None;
    }
    point();
    let header = ring.header(at).load(Ordering::Acquire);
    (header & BUSY == 0).then_some(Record { at, len: header & !DISCARD, is_shown: header & DISCARD == 0 })
}

/// Gives a record's room back. For the reader.
#[inline]
pub fn consume(ring: &impl Ring, record: Record) {
    point();
    // Release: the record's bytes are read before. Pairs with the acquire in `reserve`.
    ring.consumer().store(record.at + footprint(record.len), Ordering::Release);
    // See `is_awaited`.
    fence(Ordering::SeqCst);
}
