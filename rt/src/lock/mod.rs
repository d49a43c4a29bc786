//! Locks of maps: a raw one that never sleeps and a sleeping one with priority inheritance, over the same word.
//!
//! The word is 0 when free and the owner's thread id when held, with `FUTEX_WAITERS` set once someone sleeps on it: the
//! layout of the kernel's PI futexes. So a task-level waiter of a *raw* lock can, after a bounded spin, call
//! `FUTEX_LOCK_PI` on it and boost a preempted holder, and a handler that finds its own thread id there knows of its
//! deadlock at once.

pub mod held;
pub mod order;
mod pi;
pub mod prim;
mod raw;
#[cfg(all(test, not(loom)))]
mod storm;
#[cfg(not(loom))]
pub(crate) mod word;
#[cfg(loom)]
pub mod word;

pub use held::Me;
pub use order::Class;
pub use pi::PiMutex;
pub use raw::RawLock;

use std::marker::PhantomData;

use crate::level::RunCx;

/// Why a lock was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// The caller holds it, or holds what its owner waits for.
    #[error("taking this lock would deadlock")]
    Deadlock,
    /// The owner did not let go in time.
    #[error("the lock was not released in time")]
    TimedOut,
    /// It is held, and the caller may only try.
    #[error("the lock is held and this context may not wait")]
    Busy,
    /// It sleeps, and the caller may not.
    #[error("a sleeping lock was asked for in atomic context")]
    WouldSleep,
}

/// A lock that maps take by its type: chosen when the map is created, never asked for in the hot path.
pub trait Lock: Default + ZeroIsValid + Send + Sync {
    /// Whether waiting for it blocks the thread.
    const SLEEPS: bool;

    /// Takes it for `cx`, and answers the calling thread; nothing is held after an error.
    fn take(&self, cx: &RunCx, class: Class) -> Result<Me, LockError>;

    /// Takes it if it is free.
    fn try_acquire(&self, cx: &RunCx, class: Class) -> Result<(), LockError>;

    /// Gives it back. Only after a `take` that succeeded and answered `me`, on the same thread.
    fn give_back(&self, me: Me);

    /// Takes it for `cx`; nothing is held after an error.
    #[inline]
    fn acquire(&self, cx: &RunCx, class: Class) -> Result<(), LockError> {
        self.take(cx, class).map(|_| ())
    }

    /// Gives it back. Only after an `acquire` that succeeded on this thread.
    #[inline]
    fn release(&self) {
        self.give_back(held::me());
    }

    /// Takes it until the guard drops.
    #[inline(always)]
    fn lock<'a>(&'a self, cx: &RunCx, class: Class) -> Result<Guard<'a, Self>, LockError> {
        let me = self.take(cx, class)?;
        Ok(Guard { lock: self, me, thread_bound: PhantomData })
    }
}

/// Types whose value of all zero bytes is valid: they can lie in fresh memory.
///
/// # Safety
///
/// All-zero bytes must be a valid value, and dropping one must do nothing.
pub unsafe trait ZeroIsValid {}

// SAFETY: a word of 0, which means free; no destructor.
unsafe impl ZeroIsValid for RawLock {}
// SAFETY: as above.
unsafe impl ZeroIsValid for PiMutex {}
// SAFETY: a plain word.
unsafe impl ZeroIsValid for std::sync::atomic::AtomicU32 {}
// SAFETY: as above.
unsafe impl ZeroIsValid for std::sync::atomic::AtomicU64 {}
// SAFETY: elements in a row, each of which may be zero.
unsafe impl<T: ZeroIsValid, const N: usize> ZeroIsValid for [T; N] {}

/// Holds a lock. Stays on its thread: the owner is in the lock word.
pub struct Guard<'a, L: Lock> {
    lock: &'a L,
    me: Me,
    thread_bound: PhantomData<*const ()>,
}

impl<L: Lock> Drop for Guard<'_, L> {
    #[inline(always)]
    fn drop(&mut self) {
        self.lock.give_back(self.me);
    }
}
