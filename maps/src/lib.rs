//! BPF maps: every kind behind one trait, over type-stable shared memory.

mod map;

pub use map::*;
