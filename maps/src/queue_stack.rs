//! `queue` and `stack`: a ring of values under one lock.

use std::any::Any;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};

use rtbpf_abi::{Errno, MapKind};
use rtbpf_rt::{Class, Lock, RawLock, RunCx};

use crate::access::{KeyRef, ProgBytes, ProgOut, ValuePtr};
use crate::head::Head;
use crate::map::{Map, MapError, UpdateFlags, update};
use crate::percpu::hand_out;
use crate::slab::{Pages, Slab};

/// A queue (first in, first out) or a stack (last in, first out).
pub(crate) struct QueueStack {
    head: Head,
    /// Protects `first`, `count` and the values. Taken by programs at any level, under no other lock.
    lock: RawLock,
    /// One more place than entries would do; as many as entries is simpler.
    values: Slab,
    /// The oldest value.
    first: AtomicU32,
    count: AtomicU32,
}

impl QueueStack {
    pub(crate) fn new(head: Head, pages: Pages) -> Result<QueueStack, MapError> {
        let spec = head.spec();
        let values = Slab::new(spec.max_entries, spec.value_size as usize, pages)?;
        let (first, count) = (AtomicU32::new(0), AtomicU32::new(0));
        Ok(QueueStack { head, lock: RawLock::default(), values, first, count })
    }

    /// The place `after` values behind the oldest; `after` is no more than entries.
    #[inline]
    fn place(&self, after: u32) -> u32 {
        let (first, entries) = (self.first.load(Ordering::Relaxed), self.head.spec().max_entries);
        // Without a sum that could overflow, and without a division.
        let before_wrap = entries - first;
        if after < before_wrap { first + after } else { after - before_wrap }
    }

    /// Hands out the next value; removes it when `take` is set.
    #[inline]
    fn next(&self, cx: &RunCx, out: ProgOut<'_>, take: bool) -> Result<(), MapError> {
        let value_size = self.head.spec().value_size;
        let _held = self.lock.lock(cx, Class::Queue)?;
        let count = self.count.load(Ordering::Relaxed);
        if count == 0 {
            hand_out(None, out, value_size);
            return Err(Errno::ENOENT.into());
        }
        let is_queue = self.head.spec().kind == MapKind::Queue;
        let at = self.place(if is_queue { 0 } else { count - 1 });
        hand_out(Some(self.values.cell(at)), out, value_size);
        if take {
            if is_queue {
                self.first.store(self.place(1), Ordering::Relaxed);
            }
            self.count.store(count - 1, Ordering::Relaxed);
        }
        Ok(())
    }

    fn next_into(&self, cx: &RunCx, out: &mut Vec<u8>, take: bool) -> Result<(), MapError> {
        let mut value = vec![0; self.head.spec().value_size as usize];
        self.next(cx, ProgOut::from(&mut value[..]), take)?;
        out.append(&mut value);
        Ok(())
    }
}

impl Map for QueueStack {
    fn head(&self) -> &Head {
        &self.head
    }

    fn lookup(&self, _: &RunCx, _: KeyRef<'_>) -> Option<ValuePtr> {
        None
    }

    fn update(&self, cx: &RunCx, _: KeyRef<'_>, value: ProgBytes<'_>, flags: UpdateFlags) -> Result<(), MapError> {
        self.push(cx, value, flags)
    }

    fn delete(&self, _: &RunCx, _: KeyRef<'_>) -> Result<(), MapError> {
        Err(Errno::EINVAL.into())
    }

    fn next_key(&self, _: &RunCx, _: Option<KeyRef<'_>>, _: &mut Vec<u8>) -> Result<(), MapError> {
        Err(Errno::EINVAL.into())
    }

    fn read(&self, cx: &RunCx, _: KeyRef<'_>, _: u64, out: &mut Vec<u8>) -> Result<(), MapError> {
        self.next_into(cx, out, false)
    }

    fn take(&self, cx: &RunCx, _: KeyRef<'_>, _: u64, out: &mut Vec<u8>) -> Result<(), MapError> {
        self.next_into(cx, out, true)
    }

    fn push(&self, cx: &RunCx, value: ProgBytes<'_>, flags: UpdateFlags) -> Result<(), MapError> {
        // BPF_EXIST: drop the oldest value to make room.
        let replace = flags & update::EXIST != 0;
        if flags & update::NOEXIST != 0 || flags > update::EXIST {
            return Err(Errno::EINVAL.into());
        }
        let _held = self.lock.lock(cx, Class::Queue)?;
        let mut count = self.count.load(Ordering::Relaxed);
        if count == self.head.spec().max_entries {
            if !replace {
                return Err(Errno::E2BIG.into());
            }
            self.first.store(self.place(1), Ordering::Relaxed);
            count -= 1;
        }
        self.values.cell(self.place(count)).fill(value);
        self.count.store(count + 1, Ordering::Relaxed);
        Ok(())
    }

    fn pop(&self, cx: &RunCx, out: ProgOut<'_>) -> Result<(), MapError> {
        self.next(cx, out, true)
    }

    fn peek(&self, cx: &RunCx, out: ProgOut<'_>) -> Result<(), MapError> {
        self.next(cx, out, false)
    }

    fn memory(&self) -> Vec<Range<u64>> {
        Vec::new()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
