//! BPF maps: every kind behind one trait, over type-stable shared memory.

mod access;
pub mod batch;
mod head;
mod map;
mod object;

pub use access::{KeyRef, ProgBytes, ProgOut, ValuePtr};
pub use head::{Head, map_at};
pub use map::{Layout, Map, MapError, MapRef, UpdateFlags, Visit, update};
pub use object::{Object, PerfSink, Prog, ProgRef, Socket, SocketKind};
