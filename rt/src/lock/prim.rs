//! The atomics that lock-free code is written with: std's, or loom's when its models run; and where threads change places
//! when shuttle's schedules run.

#[cfg(loom)]
pub use loom::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
#[cfg(not(loom))]
pub use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};

/// Tells the processor that this is a spin loop.
#[inline]
pub fn pause() {
    #[cfg(loom)]
    loom::thread::yield_now();
    #[cfg(shuttle)]
    shuttle::thread::yield_now();
    #[cfg(not(any(loom, shuttle)))]
    std::hint::spin_loop();
}

/// Stands before an access to a word that threads share: another thread may come first. Costs nothing but under shuttle.
#[inline(always)]
pub fn point() {
    #[cfg(shuttle)]
    shuttle::thread::yield_now();
}
