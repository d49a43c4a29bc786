//! Hash maps: plain and per-CPU, preallocated and not, with and without LRU eviction. One source over the mode.

mod key;
mod pool;
mod table;

pub(crate) use key::{Key, by_width};
pub(crate) use pool::{Listed, Pool, bump};
pub(crate) use table::{Bucket, Place, Size, Table};

use table::Glance;

use std::any::Any;
use std::ops::Range;

use rtbpf_abi::{Errno, MapSpec};
use rtbpf_rt::{Class, Lock, RawLock, RunCx, ZeroIsValid};

use crate::access::{Cell, KeyRef, ProgBytes, ValuePtr};
use crate::batch::{Buckets, Pairs};
use crate::fields::Shape;
use crate::head::Head;
use crate::map::{Map, MapError, UpdateFlags, Visit, update};
use crate::percpu::PercpuCells;

/// Where values are.
pub(crate) enum Values {
    /// Behind the key.
    Inline,
    /// One per slot, elsewhere.
    Percpu(PercpuCells),
}

/// A hash map.
pub(crate) struct Hash<P: Pool> {
    head: Head,
    shape: Shape,
    /// Whether values are behind their keys, and copied whole.
    is_plain: bool,
    table: Table<P::Lock>,
    values: Values,
    pool: P,
}

impl<P: Pool> Hash<P>
where
    Place<P::Lock>: ZeroIsValid,
{
    pub(crate) fn new(head: Head, table: Table<P::Lock>, values: Values, pool: P) -> Hash<P> {
        let shape = Shape::of(head.spec());
        let is_plain = shape.is_plain() && matches!(values, Values::Inline);
        Hash { shape, is_plain, head, table, values, pool }
    }

    /// Whether a key has the length that this map's keys have.
    #[inline]
    fn is_key(&self, key: KeyRef<'_>) -> bool {
        key.len() == self.head.spec().key_size as usize
    }

    #[inline]
    fn find(&self, key: KeyRef<'_>) -> Option<u32> {
        if !self.is_key(key) {
            return None;
        }
        self.table.find_bytes(key)
    }

    #[inline]
    fn value(&self, cx: &RunCx, node: u32) -> Cell<'_> {
        match &self.values {
            Values::Inline => self.table.value(node),
            Values::Percpu(cells) => slot_value(cells, cx, node),
        }
    }

    /// The value that programs find under a key that this map's keys are as long as.
    #[inline(always)]
    fn look_up(&self, cx: &RunCx, key: impl Key) -> Option<ValuePtr> {
        let hash = self.table.hash(key);
        match self.table.find_first(key, hash) {
            Glance::Found(node, body) => self.hand_out(cx, node, body),
            Glance::Absent => None,
            Glance::Unclear => self.look_further(cx, key, hash),
        }
    }

    #[inline(never)]
    fn look_further(&self, cx: &RunCx, key: impl Key, hash: u32) -> Option<ValuePtr> {
        let (node, body) = self.table.find_with_body(key, hash)?;
        self.hand_out(cx, node, body)
    }

    /// The value of a node with this body, used by a program or not.
    #[inline(always)]
    fn hand_out(&self, cx: &RunCx, node: u32, body: Cell<'_>) -> Option<ValuePtr> {
        if cx.in_program {
            self.pool.touch(node);
        }
        let value = match &self.values {
            Values::Inline => self.table.value_in(body),
            Values::Percpu(cells) => slot_value(cells, cx, node),
        };
        Some(value.value_ptr())
    }

    /// Writes the value of a node with this body that is in no chain.
    #[inline(always)]
    fn write_fresh(&self, cx: &RunCx, node: u32, body: Cell<'_>, value: ProgBytes<'_>) -> Result<(), MapError> {
        if self.is_plain {
            self.shape.write_plain(self.table.value_in(body), value);
            return Ok(());
        }
        self.write_fresh_parts(cx, node, body, value)
    }

    #[inline(never)]
    fn write_fresh_parts(&self, cx: &RunCx, node: u32, body: Cell<'_>, value: ProgBytes<'_>) -> Result<(), MapError> {
        match &self.values {
            Values::Inline => {
                let cell = self.table.value_in(body);
                self.shape.reset(cell);
                self.shape.write(cell, value);
                Ok(())
            }
            Values::Percpu(cells) => write_slots(cells, &self.shape, cx, node, value, true),
        }
    }

    /// Writes a value in place, under its own lock.
    fn write_locked(&self, cx: &RunCx, node: u32, value: ProgBytes<'_>) -> Result<(), MapError> {
        let cell = self.table.value(node);
        let off = self.shape.lock().ok_or(Errno::EINVAL)?;
        let _held = RawLock::of_word(cell.atomic_u32(off)).lock(cx, Class::Value)?;
        self.shape.write(cell, value);
        Ok(())
    }

    fn read_node(&self, cx: &RunCx, node: u32, flags: u64, out: &mut Vec<u8>) -> Result<(), MapError> {
        match &self.values {
            Values::Inline => {
                let cell = self.table.value(node);
                let _held = match (flags & update::F_LOCK != 0, self.shape.lock()) {
                    (true, Some(off)) => Some(RawLock::of_word(cell.atomic_u32(off)).lock(cx, Class::Value)?),
                    (true, None) => return Err(Errno::EINVAL.into()),
                    (false, _) => None,
                };
                self.shape.read(cell, out);
            }
            Values::Percpu(cells) => cells.read_all(node, out),
        }
        Ok(())
    }

    /// Bytes that [`Hash::read_node`] appends.
    fn read_bytes(&self) -> usize {
        match &self.values {
            Values::Inline => self.head.spec().value_size as usize,
            Values::Percpu(cells) => cells.read_bytes(),
        }
    }

    fn is_percpu(&self) -> bool {
        matches!(self.values, Values::Percpu(_))
    }

    /// Removes `key` after `last_look` saw its node, under the bucket lock.
    #[inline]
    fn remove(
        &self,
        cx: &RunCx,
        key: impl Key,
        last_look: impl FnOnce(u32) -> Result<(), MapError>,
    ) -> Result<(), MapError> {
        let bucket = self.table.bucket(self.table.hash(key));
        let held = bucket.lock(cx)?;
        let found = bucket.seek(key).ok_or(Errno::ENOENT)?;
        last_look(found.node)?;
        bucket.unlink(found);
        drop(held);
        self.pool.give_back(cx, &self.table, found.node);
        Ok(())
    }

    #[inline(always)]
    fn insert(
        &self,
        cx: &RunCx,
        key: impl Key,
        hash: u32,
        value: ProgBytes<'_>,
        flags: UpdateFlags,
        hold: &mut P::Hold<'_>,
    ) -> Result<(), MapError> {
        let bucket = self.table.bucket(hash);
        let _held = bucket.lock(cx)?;
        let old = bucket.seek(key);
        if flags != update::ANY {
            admit(old.is_some(), flags)?;
        }
        let node = match old {
            // Most values are replaced node and all.
            Some(old) if self.is_plain => self.pool.swap(&bucket, hold, old.node),
            Some(old) => match self.write_in_place(cx, old.node, value, flags) {
                Some(done) => return done,
                None => self.pool.swap(&bucket, hold, old.node),
            },
            None => self.pool.take(cx, &self.table, hold)?,
        };
        if let Err(error) = bucket.enter(node, (key, hash), old, |body| self.write_fresh(cx, node, body, value)) {
            // Only the slots' values of a new key can be refused.
            self.pool.give_back(cx, &self.table, node);
            return Err(error);
        }
        if old.is_some() {
            self.pool.touch(node);
        }
        Ok(())
    }

    /// Writes the value of a node that stays where it is; `None` for values that are replaced node and all.
    #[inline(never)]
    fn write_in_place(
        &self,
        cx: &RunCx,
        node: u32,
        value: ProgBytes<'_>,
        flags: UpdateFlags,
    ) -> Option<Result<(), MapError>> {
        if let Values::Percpu(cells) = &self.values {
            let done = write_slots(cells, &self.shape, cx, node, value, false);
            return Some(done.inspect(|()| self.pool.touch(node)));
        }
        (flags & update::F_LOCK != 0).then(|| self.write_locked(cx, node, value))
    }

    /// Writes the value of a key that is there, under its own lock.
    #[inline(never)]
    fn put_locked(
        &self,
        cx: &RunCx,
        key: impl Key,
        value: ProgBytes<'_>,
        flags: UpdateFlags,
    ) -> Option<Result<(), MapError>> {
        let node = self.table.find(key, self.table.hash(key))?;
        Some(admit(true, flags).and_then(|()| self.write_locked(cx, node, value)))
    }

    /// Creates or replaces the element of `key`; the flags are known ones. A function for each width of keys: together they
    /// would have more to remember than there are registers.
    #[inline(never)]
    fn put(&self, cx: &RunCx, key: impl Key, value: ProgBytes<'_>, flags: UpdateFlags) -> Result<(), MapError> {
        if flags & update::F_LOCK != 0
            && let Some(done) = self.put_locked(cx, key, value, flags)
        {
            return done;
        }
        let hash = self.table.hash(key);
        // A per-CPU value that must exist is written in place; every other update may need a node.
        let may_need = !(self.is_percpu() && flags & 3 == update::EXIST);
        let mut hold = if may_need { self.pool.begin(cx, &self.table)? } else { P::Hold::default() };
        let done = self.insert(cx, key, hash, value, flags, &mut hold);
        self.pool.end(cx, &self.table, hold);
        done
    }
}

#[inline(always)]
fn write_slots(
    cells: &PercpuCells,
    shape: &Shape,
    cx: &RunCx,
    node: u32,
    value: ProgBytes<'_>,
    fresh: bool,
) -> Result<(), MapError> {
    if cx.in_program {
        if fresh {
            cells.clear_others(node, cx.slot);
        }
        cells.write_one(shape, node, cx.slot, value);
        return Ok(());
    }
    cells.write_all(shape, node, value)
}

#[inline(never)]
fn slot_value<'a>(cells: &'a PercpuCells, cx: &RunCx, node: u32) -> Cell<'a> {
    cells.cell(node, cx.slot.min(cells.slots() - 1))
}

/// Whether the existence flags allow an update.
pub(crate) fn admit(exists: bool, flags: UpdateFlags) -> Result<(), MapError> {
    match flags & 3 {
        update::NOEXIST if exists => Err(Errno::EEXIST.into()),
        update::EXIST if !exists => Err(Errno::ENOENT.into()),
        _ => Ok(()),
    }
}

/// Update flags beyond the known ones.
#[inline]
pub(crate) fn check_flags(flags: UpdateFlags, with_lock: bool, spec: &MapSpec) -> Result<(), MapError> {
    if flags <= update::EXIST { Ok(()) } else { check_rare_flags(flags, with_lock, spec) }
}

#[cold]
fn check_rare_flags(flags: UpdateFlags, with_lock: bool, spec: &MapSpec) -> Result<(), MapError> {
    let known = if with_lock { flags & !update::F_LOCK } else { flags };
    if known > update::EXIST {
        return Err(Errno::EINVAL.into());
    }
    let has_lock = || spec.field(|kind| matches!(kind, rtbpf_abi::map_spec::SpecialKind::SpinLock)).is_some();
    if flags & update::F_LOCK != 0 && !has_lock() {
        return Err(Errno::EINVAL.into());
    }
    Ok(())
}

impl<P: Pool + 'static> Map for Hash<P>
where
    Place<P::Lock>: ZeroIsValid,
{
    fn head(&self) -> &Head {
        &self.head
    }

    fn lookup(&self, cx: &RunCx, key: KeyRef<'_>) -> Option<ValuePtr> {
        if !self.is_key(key) {
            return None;
        }
        by_width!(key, key => self.look_up(cx, key))
    }

    fn lookup_u32(&self, cx: &RunCx, key: u32) -> Option<ValuePtr> {
        if self.head.spec().key_size != 4 {
            return None;
        }
        self.look_up(cx, key)
    }

    fn lookup_u64(&self, cx: &RunCx, key: u64) -> Option<ValuePtr> {
        if self.head.spec().key_size != 8 {
            return None;
        }
        self.look_up(cx, key)
    }

    fn lookup_percpu(&self, _: &RunCx, key: KeyRef<'_>, slot: u32) -> Option<ValuePtr> {
        let Values::Percpu(cells) = &self.values else { return None };
        if slot >= cells.slots() {
            return None;
        }
        let node = self.find(key)?;
        self.pool.touch(node);
        Some(cells.cell(node, slot).value_ptr())
    }

    fn update(&self, cx: &RunCx, key: KeyRef<'_>, value: ProgBytes<'_>, flags: UpdateFlags) -> Result<(), MapError> {
        check_flags(flags, !self.is_percpu(), self.head.spec())?;
        if !self.is_key(key) {
            return Err(Errno::EINVAL.into());
        }
        by_width!(key, key => self.put(cx, key, value, flags))
    }

    fn delete(&self, cx: &RunCx, key: KeyRef<'_>) -> Result<(), MapError> {
        if !self.is_key(key) {
            return Err(Errno::EINVAL.into());
        }
        by_width!(key, key => self.remove(cx, key, |_| Ok(())))
    }

    fn next_key(&self, _: &RunCx, key: Option<KeyRef<'_>>, out: &mut Vec<u8>) -> Result<(), MapError> {
        let next = match key.and_then(|key| self.find(key)) {
            Some(node) => self.table.after(node),
            None => self.table.first_from(0),
        };
        self.table.key(next.ok_or(Errno::ENOENT)?).append_to(out);
        Ok(())
    }

    fn read(&self, cx: &RunCx, key: KeyRef<'_>, flags: u64, out: &mut Vec<u8>) -> Result<(), MapError> {
        out.reserve(self.read_bytes());
        let node = self.find(key).ok_or(Errno::ENOENT)?;
        self.read_node(cx, node, flags, out)
    }

    fn take(&self, cx: &RunCx, key: KeyRef<'_>, flags: u64, out: &mut Vec<u8>) -> Result<(), MapError> {
        if !self.is_key(key) {
            return Err(Errno::EINVAL.into());
        }
        out.reserve(self.read_bytes());
        by_width!(key, key => self.remove(cx, key, |node| self.read_node(cx, node, flags, out)))
    }

    fn for_each(&self, cx: &RunCx, visit: &mut Visit<'_>) -> Result<u64, MapError> {
        let mut count = 0;
        let mut key = Vec::new();
        for bucket in 0..self.table.bucket_count() {
            for node in self.table.chain(bucket) {
                key.clear();
                self.table.key(node).append_to(&mut key);
                count += 1;
                if !visit(&key, self.value(cx, node).value_ptr()) {
                    return Ok(count);
                }
            }
        }
        Ok(count)
    }

    fn key_of(&self, value: u64) -> Option<Vec<u8>> {
        let node = self.table.node_of(value).filter(|_| !self.is_percpu())?;
        let mut key = Vec::new();
        self.table.key(node).append_to(&mut key);
        (self.find(&key) == Some(node)).then_some(key)
    }

    fn memory(&self) -> Vec<Range<u64>> {
        match &self.values {
            Values::Inline => self.table.nodes().region().ranges(),
            Values::Percpu(cells) => cells.ranges(),
        }
    }

    fn buckets(&self) -> Option<&dyn Buckets> {
        Some(self)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl<P: Pool> Buckets for Hash<P>
where
    Place<P::Lock>: ZeroIsValid,
{
    fn bucket_count(&self) -> u32 {
        self.table.bucket_count()
    }

    fn bucket(&self, cx: &RunCx, bucket: u32, room: u32, take: bool, out: &mut Pairs) -> Result<(), MapError> {
        let (key_bytes, value_bytes) = (self.head.spec().key_size as usize, self.read_bytes());
        // Nothing is allocated under the lock: the room is there before, for as many as there seem to be.
        let (mut nodes, mut pairs) = (Vec::new(), Pairs::new());
        let held = loop {
            let count = self.table.chain(bucket).count();
            if count == 0 {
                return Ok(());
            }
            nodes.reserve(count);
            pairs.resize_with(count, || (Vec::with_capacity(key_bytes), Vec::with_capacity(value_bytes)));
            let held = self.table.bucket(bucket).lock(cx)?;
            if self.table.chain(bucket).count() <= count {
                break held;
            }
        };
        nodes.extend(self.table.chain(bucket));
        if nodes.len() > room as usize {
            return Err(Errno::ENOSPC.into());
        }
        for (node, (key, value)) in nodes.iter().zip(&mut pairs) {
            self.table.key(*node).append_to(key);
            self.read_node(cx, *node, 0, value)?;
            if take {
                self.table.bucket(bucket).unlink_node(*node);
            }
        }
        drop(held);
        pairs.truncate(nodes.len());
        out.append(&mut pairs);
        if take {
            nodes.into_iter().for_each(|node| self.pool.give_back(cx, &self.table, node));
        }
        Ok(())
    }
}
