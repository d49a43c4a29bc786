//! A ring of records: who moves which position when, between producers in any context and one reader.
//!
//! Positions count bytes for ever. A record is an 8-byte header and its bytes, rounded up to 8. A producer moves the
//! producer position over a record by one exchange, and then writes the header: length and a mark that it is busy, and
//! behind them a stamp. It ends the record by clearing the mark. The reader stops at the first record that is busy or has no
//! stamp, so records arrive in the order of their reservation; it clears what it has read, and gives the room back by moving
//! the consumer position. So room between the positions is zero until its producer comes to write the header, and a record
//! whose producer was interrupted right after the exchange keeps the reader waiting, and nobody else. No one takes a lock.
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
    /// Behind the newest record. Moved by producers.
    fn producer(&self) -> &Self::Position;
    /// The oldest record that is not consumed. Written by the reader.
    fn consumer(&self) -> &Self::Position;
    /// A record below which all are ended, as some producer saw it.
    fn pending(&self) -> &Self::Position;
    /// The first word of the header of the record at `at`.
    fn header(&self, at: u64) -> &Self::Header;
    /// The second one: 0 until the first one is written.
    fn stamp(&self, at: u64) -> &Self::Header;
    /// Clears the bytes behind the header of the record at `at`, which takes so many in all.
    fn clear(&self, at: u64, footprint: u64);
}

/// Bytes a record of `len` bytes takes.
#[inline]
pub fn footprint(len: u32) -> u64 {
    (u64::from(len) + HEADER).next_multiple_of(8)
}

/// Makes room for a record of `len` bytes, below [`DISCARD`], and marks it busy; its position, or `None` when there is no
/// room. `stamp` answers the second word of its header, never 0, given the position.
#[inline(always)]
pub fn reserve(ring: &impl Ring, len: u32, stamp: impl FnOnce(u64) -> u32) -> Option<u64> {
    let (need, most) = (footprint(len), ring.size() - 1);
    if need > most {
        return None;
    }
    let at = loop {
        // Acquire: pairs with the release in `consume`, so that what is read no more is written again.
        let consumer = ring.consumer().load(Ordering::Acquire);
        point();
        // Acquire: pairs with the exchange below; what its producer saw of the reader's work, we see.
        let at = ring.producer().load(Ordering::Acquire);
        let pending = first_pending(ring, consumer, at);
        let next = at + need;
        let fits = next.wrapping_sub(pending) <= most && next.wrapping_sub(consumer) <= most;
        point();
        let unmoved = if fits {
            ring.producer().replace(at, next, Ordering::AcqRel)
        } else {
            ring.producer().load(Ordering::Relaxed) == at
        };
        if unmoved {
            // Nobody reserved meanwhile, so what we walked over were records. An older position does no harm.
            ring.pending().store(pending, Ordering::Relaxed);
            if !fits {
                return None;
            }
            break at;
        }
    };
    ring.header(at).store(len | BUSY, Ordering::Relaxed);
    point();
    // Release: who sees the stamp sees the busy mark.
    ring.stamp(at).store(stamp(at), Ordering::Release);
    Some(at)
}

/// The first record before `at` that may be busy: it bounds how far a producer may go, even where the reader's position was
/// moved behind our back.
#[inline(always)]
fn first_pending(ring: &impl Ring, consumer: u64, at: u64) -> u64 {
    let mut pending = ring.pending().load(Ordering::Relaxed);
    if pending < consumer && consumer <= at {
        pending = consumer;
    }
    while pending < at {
        point();
        // Acquire, both: pair with the releases in `reserve` and `commit`; and in `consume`, so that a record whose header
        // was just cleared is followed by zeroes.
        if ring.stamp(pending).load(Ordering::Acquire) == 0 {
            break;
        }
        let header = ring.header(pending).load(Ordering::Acquire);
        if header & BUSY != 0 {
            break;
        }
        pending += footprint(header & !DISCARD);
    }
    pending
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
    // Acquire, all: pair with the releases in `reserve` and `commit`.
    if at >= ring.producer().load(Ordering::Acquire) {
        return None;
    }
    point();
    if ring.stamp(at).load(Ordering::Acquire) == 0 {
        return None;
    }
    let header = ring.header(at).load(Ordering::Acquire);
    (header & BUSY == 0).then_some(Record { at, len: header & !DISCARD, is_shown: header & DISCARD == 0 })
}

/// Gives a record's room back. For the reader.
#[inline]
pub fn consume(ring: &impl Ring, record: Record) {
    ring.clear(record.at, footprint(record.len));
    point();
    // Release, both: in this order, so that a producer who still takes the header for a record's goes no further than into
    // what was cleared.
    ring.stamp(record.at).store(0, Ordering::Release);
    point();
    ring.header(record.at).store(0, Ordering::Release);
    point();
    // Release: the record's bytes are read before. Pairs with the acquire in `reserve`.
    ring.consumer().store(record.at + footprint(record.len), Ordering::Release);
    // See `is_awaited`.
    fence(Ordering::SeqCst);
}
