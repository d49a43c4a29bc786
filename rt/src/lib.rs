//! Slots, execution levels and locks: the real-time runtime under maps and machine.

pub mod level;

pub use level::{Level, RunCx};
