//! Slots, execution levels and locks: the real-time runtime under maps and machine.

pub mod alloc_gate;
pub mod doorbell;
pub mod entry;
pub mod freelist;
pub mod gate;
pub mod interrupt;
pub mod lease;
pub mod level;
pub mod lock;
pub mod pin;
pub mod ring;
pub mod slot;
pub mod stats;
pub mod token;

pub use entry::{Entry, Guard as RunGuard, Missed, Path, ProgCounters, Quiet};
pub use interrupt::{InterruptError, Interrupted, Interrupts, Source};
pub use lease::Lease;
pub use level::{Level, Model, RunCx};
pub use lock::{Class, Guard, Lock, LockError, PiMutex, RawLock, ZeroIsValid};
pub use slot::{Delivery, Slot, Slots};
pub use stats::Misses;
