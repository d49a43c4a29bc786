//! Slots, execution levels and locks: the real-time runtime under maps and machine.

pub mod gate;
pub mod level;
pub mod lock;

pub use level::{Level, Model, RunCx};
pub use lock::{Class, Guard, Lock, LockError, PiMutex, RawLock, ZeroIsValid};
