//! Slots: what stands for CPUs.
//!
//! A slot is a per-CPU data area, a recursion counter, and a place to put interrupts off. A thread that runs programs
//! holds one (see [`crate::lease`]); the handlers that interrupt that thread run on the same one. Only the holder and
//! its handlers change a slot's counters, and handlers leave them as they found them, so plain relaxed accesses do.

use std::cell::Cell;
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering, compiler_fence};

use crate::level::{Level, Model, RunCx};
use crate::lock::{PiMutex, held};
use crate::stats::Misses;

/// Interrupts a slot can put off before it loses one.
const PENDING: usize = 64;

/// What a deferred interrupt does when it is let in. Must be safe to call in a handler.
pub type Handler = fn(&Slot, u64);

/// A virtual CPU.
#[repr(align(128))]
pub struct Slot {
    id: u32,
    model: Model,
    /// Held by the thread whose slot this is. May be waited for at level Task only, before any other lock.
    pub(crate) lease: PiMutex,
    /// Thread id of the holder; 0 when free.
    pub(crate) holder: AtomicU32,
    /// The level that runs now.
    level: AtomicU32,
    /// Programs of the global recursion guard under way; control-plane operations raise it too.
    active: AtomicU32,
    /// Sections in which maskable interrupts are put off.
    masked: AtomicU32,
    pending: [AtomicU64; PENDING],
    put: AtomicU32,
    taken: AtomicU32,
    handler: AtomicPtr<()>,
    misses: Misses,
    /// Times a thread found itself on another CPU than it was pinned to. Never a matter of correctness.
    migrations: AtomicU64,
}

thread_local! {
    // `const` and without destructor, so that handlers may touch it first.
    static CURRENT: Cell<*const Slot> = const { Cell::new(std::ptr::null()) };
}

/// What became of an interrupt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Delivery {
    /// Nothing is in its way: run it now.
    Now,
    /// It runs when the slot is unmasked.
    Deferred,
    /// There was no room for it.
    Lost,
}

impl Slot {
    fn new(id: u32, model: Model) -> Slot {
        Slot {
            id,
            model,
            lease: PiMutex::default(),
            holder: AtomicU32::new(0),
            level: AtomicU32::new(0),
            active: AtomicU32::new(0),
            masked: AtomicU32::new(0),
            pending: [const { AtomicU64::new(0) }; PENDING],
            put: AtomicU32::new(0),
            taken: AtomicU32::new(0),
            handler: AtomicPtr::new(std::ptr::null_mut()),
            misses: Misses::default(),
            migrations: AtomicU64::new(0),
        }
    }

    /// Its number: what `bpf_get_smp_processor_id` answers.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The model of its machine.
    pub fn model(&self) -> Model {
        self.model
    }

    /// The level that runs on it now.
    pub fn level(&self) -> Level {
        match self.level.load(Ordering::Relaxed) {
            0 => Level::Task,
            1 => Level::Soft,
            2 => Level::Hard,
            _ => Level::Nmi,
        }
    }

    /// Enters `level`; answers the one that was interrupted, for [`Slot::leave`].
    pub(crate) fn enter(&self, level: Level) -> Level {
        let before = self.level();
        self.level.store(level as u32, Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        before
    }

    pub(crate) fn leave(&self, before: Level) {
        compiler_fence(Ordering::SeqCst);
        self.level.store(before as u32, Ordering::Relaxed);
    }

    /// What map operations on this slot at `level` are told.
    pub fn cx(&self, level: Level, in_program: bool) -> RunCx {
        RunCx { slot: self.id, level, model: self.model, in_program }
    }

    /// The global recursion counter.
    pub(crate) fn active(&self) -> &AtomicU32 {
        &self.active
    }

    /// Runs that did not happen on this slot, by cause.
    pub fn misses(&self) -> &Misses {
        &self.misses
    }

    /// Counts a thread that ran elsewhere than where it was pinned.
    pub fn note_migration(&self) {
        self.migrations.fetch_add(1, Ordering::Relaxed);
    }

    /// See [`Slot::note_migration`].
    pub fn migrations(&self) -> u64 {
        self.migrations.load(Ordering::Relaxed)
    }

    /// Says what deferred interrupts do.
    pub fn set_handler(&self, handler: Handler) {
        self.handler.store(handler as *mut (), Ordering::Release);
    }

    /// Puts maskable interrupts off until the guard drops: a counter, no system call.
    pub fn mask(&self) -> Masked<'_> {
        self.masked.store(self.masked.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        Masked { slot: self }
    }

    /// Whether maskable interrupts are put off: by [`Slot::mask`], by a raw lock of this thread, or because one runs.
    pub fn is_masked(&self) -> bool {
        self.masked.load(Ordering::Relaxed) != 0 || held::me().raw_depth() != 0 || self.level() >= Level::Hard
    }

    /// Asks what a maskable interrupt that arrives on this slot's thread must do. On a PREEMPT_RT machine it is always
    /// put off: its worker runs it at level Soft.
    pub fn deliver(&self, event: u64) -> Delivery {
        if !self.is_masked() && self.model == Model::NonRt {
            return Delivery::Now;
        }
        let put = self.put.load(Ordering::Relaxed);
        if put.wrapping_sub(self.taken.load(Ordering::Relaxed)) as usize >= PENDING {
            return Delivery::Lost;
        }
        self.pending[put as usize % PENDING].store(event, Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        self.put.store(put.wrapping_add(1), Ordering::Relaxed);
        held::me().set_pending(true);
        Delivery::Deferred
    }

    /// Takes the oldest interrupt that was put off.
    pub fn take_pending(&self) -> Option<u64> {
        loop {
            let taken = self.taken.load(Ordering::Relaxed);
            if taken == self.put.load(Ordering::Relaxed) {
                return None;
            }
            let event = self.pending[taken as usize % PENDING].load(Ordering::Relaxed);
            let next = taken.wrapping_add(1);
            if self.taken.compare_exchange(taken, next, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                return Some(event);
            }
        }
    }

    /// Lets in what was put off, if nothing is in the way any more. Answers how many ran.
    pub fn drain(&self) -> usize {
        let handler = self.handler.load(Ordering::Acquire);
        if self.is_masked() || handler.is_null() || self.model == Model::Rt {
            return 0;
        }
        held::me().set_pending(false);
        // SAFETY: only `set_handler` stores here, and only functions of this type.
        let handler: Handler = unsafe { std::mem::transmute(handler) };
        std::iter::from_fn(|| self.take_pending()).map(|event| handler(self, event)).count()
    }

    /// Makes this the slot of the calling thread until the guard drops.
    pub(crate) fn make_current(&self) -> Current {
        Current { before: CURRENT.replace(self) }
    }
}

/// Shows the calling thread's slot.
pub fn with_current<R>(show: impl FnOnce(&Slot) -> R) -> Option<R> {
    // SAFETY: `make_current` stored it, and its guard, which clears it, cannot outlive the slot's lease.
    unsafe { CURRENT.get().as_ref() }.map(show)
}

/// Puts maskable interrupts off; see [`Slot::mask`].
pub struct Masked<'a> {
    slot: &'a Slot,
}

impl Drop for Masked<'_> {
    fn drop(&mut self) {
        compiler_fence(Ordering::SeqCst);
        self.slot.masked.store(self.slot.masked.load(Ordering::Relaxed) - 1, Ordering::Relaxed);
        if held::me().is_pending() {
            self.slot.drain();
        }
    }
}

/// Restores the thread's slot; see [`Slot::make_current`].
pub(crate) struct Current {
    before: *const Slot,
}

impl Drop for Current {
    fn drop(&mut self) {
        CURRENT.set(self.before);
    }
}

/// The slots of a machine.
pub struct Slots {
    slots: Box<[Slot]>,
}

impl Slots {
    /// `count` slots, at least one.
    pub fn new(count: u32, model: Model) -> Slots {
        Slots { slots: (0..count.max(1)).map(|id| Slot::new(id, model)).collect() }
    }

    /// Slot `id`.
    pub fn get(&self, id: u32) -> Option<&Slot> {
        self.slots.get(id as usize)
    }

    /// How many there are.
    pub fn len(&self) -> u32 {
        self.slots.len() as u32
    }

    /// Whether there is none; never.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::{Class, Lock, RawLock};

    static RAN: AtomicU64 = AtomicU64::new(0);

    #[test]
    fn interrupts_under_a_mask_run_when_it_ends_and_none_is_lost_or_doubled() {
        let slots = Slots::new(1, Model::NonRt);
        let slot = slots.get(0).expect("one slot");
        slot.set_handler(|_, event| {
            RAN.fetch_add(event, Ordering::Relaxed);
        });
        assert_eq!(slot.deliver(1), Delivery::Now);
        {
            let _outer = slot.mask();
            let inner = slot.mask();
            assert_eq!(slot.deliver(10), Delivery::Deferred);
            drop(inner);
            assert_eq!(RAN.load(Ordering::Relaxed), 0, "still masked");
            let _current = slot.make_current();
            let lock = RawLock::default();
            let guard = lock.lock(&slot.cx(Level::Task, false), Class::Queue);
            assert_eq!(slot.deliver(100), Delivery::Deferred);
            drop(guard);
        }
        assert_eq!(RAN.load(Ordering::Relaxed), 110);
    }

    #[test]
    fn a_slot_that_is_full_says_that_it_loses() {
        let slots = Slots::new(1, Model::Rt);
        let slot = slots.get(0).expect("one slot");
        for event in 0..PENDING as u64 {
            assert_eq!(slot.deliver(event), Delivery::Deferred);
        }
        assert_eq!(slot.deliver(64), Delivery::Lost);
        assert_eq!(std::iter::from_fn(|| slot.take_pending()).count(), PENDING);
        held::me().set_pending(false);
    }
}
