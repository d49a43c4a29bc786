//! Leases: how threads without a slot of their own get one.
//!
//! The lease is the pin. If the system moves the thread to another CPU meanwhile, its slot's data stays its own and the
//! slot's number stays the same; only locality is lost. Waiters queue on the slot's PI word, so a thread that waits for
//! a slot lends its priority to the one that holds it.

use std::marker::PhantomData;
use std::sync::atomic::Ordering;

use crate::level::{Level, RunCx};
use crate::lock::{Class, Lock, LockError, held};
use crate::pin;
use crate::slot::{Current, Slot, Slots};

/// A slot, held by this thread. Nests: a thread that asks again gets the same slot.
pub struct Lease<'s> {
    slot: &'s Slot,
    /// Whether this is the outermost lease of its thread, which gives the slot back.
    outermost: bool,
    _current: Current,
    thread_bound: PhantomData<*const ()>,
}

impl<'s> Lease<'s> {
    /// The slot.
    pub fn slot(&self) -> &'s Slot {
        self.slot
    }

    /// Whether the thread held the slot already.
    pub fn is_nested(&self) -> bool {
        !self.outermost
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        if self.outermost {
            self.slot.holder.store(0, Ordering::Release);
            self.slot.lease.release();
        }
    }
}

impl Slots {
    /// Leases the slot of the CPU the thread runs on, a free sibling if that is taken, else waits for it. Level Task.
    pub fn lease(&self) -> Result<Lease<'_>, LockError> {
        if let Some(slot) = self.iter().find(|slot| slot.is_held_here()) {
            return Ok(nested(slot));
        }
        let preferred = pin::current_cpu() % self.len();
        let free = (0..self.len()).filter_map(|away| self.get((preferred + away) % self.len()));
        for slot in free {
            if slot.holder.load(Ordering::Relaxed) == 0
                && let Ok(lease) = slot.try_lease()
            {
                return Ok(lease);
            }
        }
        self.lease_of(preferred)
    }

    /// Leases slot `id` (the last one when there are fewer), waiting for it. Level Task.
    pub fn lease_of(&self, id: u32) -> Result<Lease<'_>, LockError> {
        let slot = self.get(id.min(self.len() - 1)).ok_or(LockError::Busy)?;
        if slot.is_held_here() {
            return Ok(nested(slot));
        }
        slot.lease.acquire(&CX, Class::Lease)?;
        Ok(slot.taken())
    }
}

const CX: RunCx = RunCx { level: Level::Task, ..RunCx::CONTROL };

fn nested(slot: &Slot) -> Lease<'_> {
    Lease { slot, outermost: false, _current: slot.make_current(), thread_bound: PhantomData }
}

impl Slot {
    /// Whether the calling thread holds it.
    pub fn is_held_here(&self) -> bool {
        self.holder.load(Ordering::Relaxed) == held::me().tid()
    }

    /// Leases it if it is free.
    pub fn try_lease(&self) -> Result<Lease<'_>, LockError> {
        if self.is_held_here() {
            return Ok(nested(self));
        }
        self.lease.try_acquire(&CX, Class::Lease)?;
        Ok(self.taken())
    }

    fn taken(&self) -> Lease<'_> {
        self.holder.store(held::me().tid(), Ordering::Release);
        Lease { slot: self, outermost: true, _current: self.make_current(), thread_bound: PhantomData }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;
    use crate::level::Model;

    #[test]
    fn a_slot_has_one_thread_at_a_time_and_nests_on_it() {
        let slots = Slots::new(2, Model::Rt);
        let inside = [AtomicU32::new(0), AtomicU32::new(0)];
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        let lease = slots.lease().expect("level Task waits");
                        let id = lease.slot().id() as usize;
                        assert_eq!(inside[id].fetch_add(1, Ordering::SeqCst), 0, "two threads on slot {id}");
                        let again = slots.lease().expect("ours");
                        assert!(again.is_nested() && again.slot().id() as usize == id);
                        drop(again);
                        assert!(lease.slot().is_held_here());
                        inside[id].fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert!(slots.iter().all(|slot| slot.try_lease().is_ok_and(|lease| !lease.is_nested())));
    }

    #[test]
    fn a_taken_slot_is_refused_to_those_who_only_try() {
        let slots = Slots::new(1, Model::Rt);
        let _lease = slots.lease().expect("free");
        std::thread::scope(|scope| {
            scope.spawn(|| assert!(slots.get(0).expect("one").try_lease().is_err()));
        });
    }
}
