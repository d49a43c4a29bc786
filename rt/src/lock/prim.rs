//! The atomics that lock-free code is written with: std's, or loom's when its models run; and where threads change places
//! when shuttle's schedules run.

#[cfg(loom)]
pub use loom::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
#[cfg(not(loom))]
pub use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};

/// A word that threads share: std's, or loom's. What is written over this trait runs in programs and in loom's models.
pub trait Word<T> {
    /// Reads it.
    fn load(&self, order: Ordering) -> T;
    /// Writes it.
    fn store(&self, value: T, order: Ordering);
    /// Writes `new` if it holds `old`; whether it did.
    fn replace(&self, old: T, new: T, order: Ordering) -> bool;
}

macro_rules! words {
    ($($word:ty, $number:ty;)*) => {$(
        impl Word<$number> for $word {
            #[inline(always)]
            fn load(&self, order: Ordering) -> $number {
                self.load(order)
            }

            #[inline(always)]
            fn store(&self, value: $number, order: Ordering) {
                self.store(value, order);
            }

            #[inline(always)]
            fn replace(&self, old: $number, new: $number, order: Ordering) -> bool {
                self.compare_exchange(old, new, order, Ordering::Relaxed).is_ok()
            }
        }
    )*};
}

words! {
    std::sync::atomic::AtomicU32, u32;
    std::sync::atomic::AtomicU64, u64;
}
#[cfg(loom)]
words! {
    loom::sync::atomic::AtomicU32, u32;
    loom::sync::atomic::AtomicU64, u64;
}

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
