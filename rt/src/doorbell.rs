//! A doorbell: a reader sleeps until a writer, in any context, tells that there is something to read.
//!
//! ```text
//! writer                          reader
//! makes its record ready          looks at what was rung
//! rings                           finds nothing to read
//! looks for sleepers, wakes them  says that it sleeps
//!                                 sleeps, if nothing was rung since
//! ```
//!
//! Of ringing and saying so, one is first: either the writer sees a sleeper, or the reader sees the ring. Whether to ring is
//! the writer's choice ([`ring::is_awaited`](crate::ring::is_awaited)).

use crate::lock::prim::{AtomicU32, Ordering, fence, point};
#[cfg(not(loom))]
use crate::lock::word;

/// See the module's head.
#[derive(Default)]
pub struct Doorbell {
    /// How often it was rung.
    rings: AtomicU32,
    /// Readers that sleep, or are about to.
    sleepers: AtomicU32,
}

impl Doorbell {
    /// The word that counts rings.
    pub fn rings(&self) -> &AtomicU32 {
        &self.rings
    }

    /// What was rung by now: to be read before looking for something to read.
    pub fn seen(&self) -> u32 {
        // Acquire: pairs with the exchange in `ring_by`; who saw the ring sees what it told of.
        self.rings.load(Ordering::Acquire)
    }

    /// Rings; `wake` lets go all who sleep on the word.
    #[inline]
    pub fn ring_by(&self, wake: impl FnOnce(&AtomicU32)) {
        self.rings.fetch_add(1, Ordering::Release);
        // Of two fences, one is first: see the module's head. Pairs with `sleep_by`.
        fence(Ordering::SeqCst);
        point();
        if self.sleepers.load(Ordering::Relaxed) != 0 {
            wake(&self.rings);
        }
    }

    /// Sleeps unless it was rung since `seen`; `park` sleeps on the word while that holds this number.
    pub fn sleep_by(&self, seen: u32, park: impl FnOnce(&AtomicU32, u32)) {
        self.sleepers.fetch_add(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        point();
        park(&self.rings, seen);
        self.sleepers.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(not(loom))]
impl Doorbell {
    /// Rings. Allowed at every level: it never waits.
    #[inline]
    pub fn ring(&self) {
        self.ring_by(word::wake_all);
    }

    /// Sleeps until it is rung, unless it was since `seen`; no longer than `timeout`. May return early.
    pub fn sleep(&self, seen: u32, timeout: Option<std::time::Duration>) {
        self.sleep_by(seen, |rings, seen| word::park(rings, seen, timeout));
    }
}
