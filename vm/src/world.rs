//! What a machine takes from outside: clocks, chance, identity, output. All of it can be replaced, so that runs repeat.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Where time comes from; nanoseconds.
pub trait Clock: Send + Sync {
    /// Since boot, without suspended time (`CLOCK_MONOTONIC`).
    fn monotonic_ns(&self) -> u64;

    /// Since boot, with suspended time (`CLOCK_BOOTTIME`).
    fn boot_ns(&self) -> u64 {
        self.monotonic_ns()
    }

    /// International atomic time (`CLOCK_TAI`).
    fn tai_ns(&self) -> u64;
}

/// The host's clocks.
#[derive(Debug)]
pub struct HostClock {
    start: Instant,
    /// Monotonic time at `start`.
    base: Duration,
}

impl Default for HostClock {
    fn default() -> HostClock {
        // Any base does: programs only compare and subtract. A day keeps "now minus an hour" above zero.
        HostClock { start: Instant::now(), base: Duration::from_secs(86_400) }
    }
}

impl Clock for HostClock {
    fn monotonic_ns(&self) -> u64 {
        (self.base + self.start.elapsed()).as_nanos() as u64
    }

    fn tai_ns(&self) -> u64 {
        // TAI is ahead of UTC by 37 leap seconds since 2017.
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| (now + Duration::from_secs(37)).as_nanos() as u64)
    }
}

/// A clock that stands at one moment, for runs that repeat exactly.
#[derive(Clone, Copy, Debug)]
pub struct FixedClock(pub u64);

impl Clock for FixedClock {
    fn monotonic_ns(&self) -> u64 {
        self.0
    }

    fn tai_ns(&self) -> u64 {
        self.0
    }
}

/// Who runs: what the `get_current_*` helpers answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// Thread id.
    pub pid: u32,
    /// Process id.
    pub tgid: u32,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Command name; at most 15 bytes are shown.
    pub comm: String,
    /// Id of the cgroup.
    pub cgroup: u64,
    /// NUMA node of the CPU.
    pub numa_node: u32,
}

impl Default for Identity {
    fn default() -> Identity {
        let pid = std::process::id();
        Identity { pid, tgid: pid, uid: 0, gid: 0, comm: "rtbpf".into(), cgroup: 1, numa_node: 0 }
    }
}

/// Takes what programs print (`trace_printk`, `trace_vprintk`).
pub trait TraceSink: Send + Sync {
    /// One message as the program formatted it, line feed included if it wrote one.
    fn print(&self, message: &str);
}

impl<F: Fn(&str) + Send + Sync> TraceSink for F {
    fn print(&self, message: &str) {
        self(message);
    }
}

/// Answers what only a network stack knows. Programs run without one; every method says "nothing" by default.
pub trait Network: Send + Sync {
    /// `bpf_fib_lookup`: fills the 64-byte `struct bpf_fib_lookup` in place and returns its answer, 0 to 9 or a
    /// negative error number.
    fn fib_lookup(&self, params: &mut [u8; 64], flags: u32) -> i64 {
        let _ = (params, flags);
        // BPF_FIB_LKUP_RET_NOT_FWDED
        4
    }

    /// `bpf_sk_lookup_*`, `bpf_skc_lookup_tcp`: the `struct bpf_sock` (80 bytes) that owns this tuple.
    fn socket(&self, tuple: &[u8], netns: u64, protocol: u8) -> Option<[u8; 80]> {
        let _ = (tuple, netns, protocol);
        None
    }

    /// Whether an interface with this index exists (`bpf_check_mtu`, test runs), and its MTU.
    fn mtu(&self, ifindex: u32) -> Option<u32> {
        (ifindex == 1).then_some(65_536)
    }
}

/// A machine with nothing but a loopback interface.
#[derive(Debug, Default)]
pub struct Loopback;

impl Network for Loopback {}

/// The sysctl that a cgroup_sysctl program is asked about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sysctl {
    /// Its path below `/proc/sys`.
    pub name: Arc<str>,
    /// Its value now.
    pub value: Arc<str>,
}

impl Default for Sysctl {
    fn default() -> Sysctl {
        Sysctl { name: Arc::from(""), value: Arc::from("") }
    }
}

/// Everything from outside, replaceable piece by piece.
#[derive(Clone)]
pub struct World {
    /// Clocks.
    pub clock: Arc<dyn Clock>,
    /// Seed of `get_prandom_u32`; a fixed one makes runs repeat.
    pub seed: u64,
    /// Who runs.
    pub identity: Identity,
    /// Where printed lines go.
    pub trace: Arc<dyn TraceSink>,
    /// Routes and sockets.
    pub network: Arc<dyn Network>,
    /// What the sysctl helpers tell.
    pub sysctl: Sysctl,
    /// Memory outside the machine that the `probe_read` helpers may read.
    pub probes: Vec<ProbeRange>,
}

impl World {
    /// `len` bytes of declared memory at `addr`; `None` when they are not all declared in one range.
    pub fn probe(&self, addr: u64, len: usize) -> Option<Vec<u8>> {
        self.probes.iter().find_map(|range| {
            let at = usize::try_from(addr.checked_sub(range.addr)?).ok()?;
            range.bytes.get(at..at.checked_add(len)?).map(<[u8]>::to_vec)
        })
    }
}

/// Bytes that `probe_read` finds at an address: what a host declares of its memory, or a captured image of another's.
#[derive(Clone, Debug)]
pub struct ProbeRange {
    /// The address of the first byte, as programs name it.
    pub addr: u64,
    /// The bytes.
    pub bytes: Arc<[u8]>,
}

impl Default for World {
    fn default() -> World {
        World {
            clock: Arc::new(HostClock::default()),
            seed: 0x9e37_79b9_7f4a_7c15,
            identity: Identity::default(),
            trace: Arc::new(|_: &str| ()),
            network: Arc::new(Loopback),
            sysctl: Sysctl::default(),
            probes: Vec::new(),
        }
    }
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World").field("seed", &self.seed).field("identity", &self.identity).finish_non_exhaustive()
    }
}
