//! What a file descriptor stands for, where a map stores objects or is keyed by them.

use std::any::Any;
use std::sync::Arc;

use rtbpf_abi::ProgType;

use crate::map::MapRef;

/// A program as prog arrays, devmaps and cpumaps hold it. The machine implements it.
pub trait Prog: Send + Sync {
    /// A number unique in the process (`bpf_prog_info.id`).
    fn id(&self) -> u32;

    /// Its type.
    fn prog_type(&self) -> ProgType;

    /// Other properties that programs sharing a prog array must agree on (attach type, context, level), as one number.
    fn compatibility(&self) -> u64 {
        0
    }

    /// The machine's own type.
    fn as_any(&self) -> &dyn Any;
}

/// A program as maps share it.
pub type ProgRef = Arc<dyn Prog>;

/// What kind of socket a descriptor is, as socket maps ask.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Socket {
    /// The host's name for it, unique (`SO_COOKIE`).
    pub cookie: u64,
    /// TCP, UDP, Unix or AF_XDP.
    pub family: SocketKind,
    /// Whether it is connected or listening (TCP) or bound (UDP).
    pub ready: bool,
    /// Whether it belongs to a reuseport group.
    pub reuseport: bool,
}

/// See [`Socket`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SocketKind {
    /// Stream over IP.
    Tcp,
    /// Datagram over IP.
    Udp,
    /// AF_UNIX.
    Unix,
    /// AF_XDP.
    Xsk,
}

/// Where a perf event array delivers records.
pub trait PerfSink: Send + Sync {
    /// Takes one record; `false` when it was lost for want of room.
    fn record(&self, cpu: u32, parts: &[crate::access::ProgBytes<'_>]) -> bool;

    /// The counter's value, enabled time and running time (`bpf_perf_event_read_value`).
    fn counter(&self) -> Option<[u64; 3]> {
        None
    }

    /// The CPU it is bound to, when it is bound to one.
    fn cpu(&self) -> Option<u32> {
        None
    }
}

/// What a descriptor stands for.
#[derive(Clone)]
pub enum Object {
    /// Nothing: it is closed.
    Closed,
    /// A map.
    Map(MapRef),
    /// A program.
    Prog(ProgRef),
    /// A perf event.
    Perf(Arc<dyn PerfSink>),
    /// A socket.
    Socket(Socket),
    /// A process (pidfd), by the host's number for it.
    Task(u64),
    /// A regular file, by the host's number for its inode.
    Inode(u64),
    /// A cgroup directory, by the host's number for it.
    Cgroup(u64),
    /// Anything else, by the host's number for its inode.
    Other(u64),
}

impl std::fmt::Debug for Object {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Object::Closed => write!(f, "Closed"),
            Object::Map(map) => write!(f, "Map({})", map.id()),
            Object::Prog(prog) => write!(f, "Prog({})", prog.id()),
            Object::Perf(_) => write!(f, "Perf"),
            Object::Socket(socket) => write!(f, "{socket:?}"),
            Object::Task(id) => write!(f, "Task({id})"),
            Object::Inode(id) => write!(f, "Inode({id})"),
            Object::Cgroup(id) => write!(f, "Cgroup({id})"),
            Object::Other(id) => write!(f, "Other({id})"),
        }
    }
}
