//! The allocation gate: memory is neither allocated nor freed in atomic context.
//!
//! A test or a careful embedder installs [`Gate`] as the global allocator. It counts what happens at level Hard or Nmi,
//! or under a raw lock; the only accepted count is zero.
//!
//! ```
//! use rtbpf_rt::alloc_gate::Gate;
//! #[global_allocator]
//! static ALLOCATOR: Gate = Gate::system();
//! # fn main() {}
//! ```

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::level::Level;
use crate::lock::held;
use crate::slot;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static FREES: AtomicU64 = AtomicU64::new(0);

/// An allocator that counts what atomic contexts do.
pub struct Gate<A = System> {
    inner: A,
}

impl Gate<System> {
    /// Over the system's allocator.
    pub const fn system() -> Gate<System> {
        Gate { inner: System }
    }
}

/// Allocations and frees in atomic context since the process began.
pub fn violations() -> (u64, u64) {
    (ALLOCATIONS.load(Ordering::Relaxed), FREES.load(Ordering::Relaxed))
}

/// Whether the thread is in atomic context: in a handler's level, or under a raw lock.
pub fn is_atomic() -> bool {
    held::known().is_some_and(|me| me.raw_depth() != 0)
        || slot::with_current(|slot| slot.level() >= Level::Hard) == Some(true)
}

// SAFETY: passes everything on to the inner allocator; counting allocates nothing and touches only atomics and
// thread-local cells without destructors.
unsafe impl<A: GlobalAlloc> GlobalAlloc for Gate<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if is_atomic() {
            ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        }
        // SAFETY: the caller's promises are the inner allocator's conditions.
        unsafe { self.inner.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        if is_atomic() {
            FREES.fetch_add(1, Ordering::Relaxed);
        }
        // SAFETY: as above.
        unsafe { self.inner.dealloc(at, layout) }
    }
}
