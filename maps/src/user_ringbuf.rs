//! `user_ringbuf`: records from the host to programs.

use std::any::Any;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use rtbpf_abi::Errno;
use rtbpf_rt::RunCx;

use crate::access::{Cell, KeyRef, ProgBytes, ValuePtr};
use crate::head::Head;
use crate::map::{Map, MapError, UpdateFlags};
use crate::slab::{Mirrored, Pages};

const BUSY: u32 = 1 << 31;
const DISCARD: u32 = 1 << 30;
const HEADER: u64 = 8;
/// Records one drain shows at most.
const MAX_SAMPLES: u32 = 128 * 1024;

/// A ring buffer that the host writes and programs drain. Layout of records as in `ringbuf`.
pub struct UserRingbuf {
    head: Head,
    data: Mirrored,
    producer: AtomicU64,
    consumer: AtomicU64,
    /// 1 while a program drains; others get EBUSY.
    draining: AtomicU32,
    /// 1 while a host thread writes.
    writing: AtomicU32,
}

impl UserRingbuf {
    pub(crate) fn new(head: Head, pages: Pages) -> Result<UserRingbuf, MapError> {
        let data = Mirrored::new(head.spec().max_entries, pages)?;
        let (producer, consumer) = (AtomicU64::new(0), AtomicU64::new(0));
        Ok(UserRingbuf { head, data, producer, consumer, draining: AtomicU32::new(0), writing: AtomicU32::new(0) })
    }

    fn size(&self) -> u64 {
        u64::from(self.head.spec().max_entries)
    }

    fn bytes_at(&self, at: u64, len: u64) -> Cell<'_> {
        self.data.cell(at, len)
    }

    /// Writes a record from the host: ENOSPC without room, E2BIG when it never fits, EBUSY beside another writer.
    pub fn write(&self, record: &[u8]) -> Result<(), MapError> {
        let need = (record.len() as u64).checked_add(HEADER + 7).ok_or(Errno::E2BIG)? & !7;
        if need > self.size() {
            return Err(Errno::E2BIG.into());
        }
        if self.writing.swap(1, Ordering::Acquire) != 0 {
            return Err(Errno::EBUSY.into());
        }
        let at = self.producer.load(Ordering::Relaxed);
        let used = at - self.consumer.load(Ordering::Acquire);
        let done = if need > self.size() - used {
            Err(Errno::ENOSPC.into())
        } else {
            let cell = self.bytes_at(at, need);
            cell.part(HEADER as usize, record.len()).fill(record.into());
            cell.atomic_u32(0).store(record.len() as u32, Ordering::Release);
            self.producer.store(at + need, Ordering::Release);
            Ok(())
        };
        self.writing.store(0, Ordering::Release);
        done
    }

    /// Shows each record to `take` until it breaks; answers how many were shown (`bpf_user_ringbuf_drain`).
    pub fn drain(&self, _: &RunCx, take: &mut dyn FnMut(ProgBytes<'_>) -> ControlFlow<()>) -> Result<u32, MapError> {
        if self.draining.swap(1, Ordering::Acquire) != 0 {
            return Err(Errno::EBUSY.into());
        }
        let done = self.drain_alone(take);
        self.draining.store(0, Ordering::Release);
        done
    }

    fn drain_alone(&self, take: &mut dyn FnMut(ProgBytes<'_>) -> ControlFlow<()>) -> Result<u32, MapError> {
        let mut shown = 0;
        while shown < MAX_SAMPLES {
            let at = self.consumer.load(Ordering::Relaxed);
            let filled = self.producer.load(Ordering::Acquire).wrapping_sub(at);
            if filled == 0 {
                break;
            }
            let header = self.bytes_at(at, HEADER).atomic_u32(0).load(Ordering::Acquire);
            let len = u64::from(header & !(BUSY | DISCARD));
            let footprint = (len + HEADER).next_multiple_of(8);
            if header & BUSY != 0 {
                break;
            }
            if footprint > filled || footprint > self.size() {
                return Err(Errno::EINVAL.into());
            }
            let mut flow = ControlFlow::Continue(());
            if header & DISCARD == 0 {
                flow = take(self.bytes_at(at, HEADER + len).part(HEADER as usize, len as usize).bytes());
                shown += 1;
            }
            self.consumer.store(at + footprint, Ordering::Release);
            if flow.is_break() {
                break;
            }
        }
        Ok(shown)
    }
}

impl Map for UserRingbuf {
    fn head(&self) -> &Head {
        &self.head
    }

    fn lookup(&self, _: &RunCx, _: KeyRef<'_>) -> Option<ValuePtr> {
        None
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

    fn memory(&self) -> Vec<std::ops::Range<u64>> {
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

    #[test]
    fn what_the_host_writes_is_drained_in_order() {
        let map = UserRingbuf::new(Head::new(MapSpec::new(MapKind::UserRingbuf, 0, 0, 4096), 1), Pages::Now)
            .expect("two pages");
        let mut seen = Vec::new();
        for round in 0..2000u32 {
            map.write(&round.to_le_bytes()).expect("room");
            map.write(&vec![1; round as usize % 100]).expect("room");
            let shown = map.drain(&RunCx::program(0), &mut |record| {
                seen.push(record.len());
                ControlFlow::Continue(())
            });
            assert_eq!(shown, Ok(2));
        }
        assert_eq!(seen[5..8], [2, 4, 3]);
        assert_eq!(map.write(&[0; 4096]), Err(Errno::E2BIG.into()));
    }
}
