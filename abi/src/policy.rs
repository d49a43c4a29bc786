//! Real-time policies: which kind of program may use which map, allocated how. One value, never a `cfg`.
//!
//! On a PREEMPT_RT kernel the allocator and the locks of maps that allocate may sleep, while programs on kprobes,
//! tracepoints and perf events run where nothing may. Linux has answered that differently over time; each era is a
//! preset, and one pure function judges a program and a map under any of them.

use crate::errno::Errno;
use crate::map_kind::MapKind;
use crate::map_rules::MapRules;
use crate::map_spec::{MapSpec, SpecialKind};
use crate::prog_type::{AttachType, ProgType};

/// The kernel era whose rules hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Policy {
    /// Preset name, as `--policy` takes it.
    pub name: &'static str,
    /// Kernel version whose rules hold, as (major, minor).
    pub version: (u16, u16),
    /// The rules of a PREEMPT_RT kernel.
    pub rt: bool,
    /// Also close the holes that every kernel version left open.
    pub close_holes: bool,
    /// `kernel.unprivileged_bpf_disabled`.
    pub unpriv_disabled: u8,
}

impl Policy {
    /// Before the real-time rules: only perf_event programs are held to preallocated hash maps.
    pub const V5_6: Policy = Policy::linux("linux-5.6", (5, 6), false);
    /// Tracing programs are warned about maps that allocate.
    pub const V5_7: Policy = Policy::linux("linux-5.7", (5, 7), false);
    /// The same on PREEMPT_RT: they are refused.
    pub const V5_7_RT: Policy = Policy::linux("linux-5.7-rt", (5, 7), true);
    /// Preemptible programs; sleepable ones are held to preallocated maps.
    pub const V5_11: Policy = Policy::linux("linux-5.11", (5, 11), false);
    /// Maps have an allocator of their own: no rule of allocation is left.
    pub const V6_1: Policy = Policy::linux("linux-6.1", (6, 1), false);
    /// Locks of maps detect deadlocks.
    pub const V6_15: Policy = Policy::linux("linux-6.15", (6, 15), false);
    /// What Linux 6.18 answers.
    pub const V6_18: Policy = Policy::linux("linux-6.18", (6, 18), false);
    /// Ours: no program in atomic context uses a map that sleeps or allocates.
    pub const STRICT_RT: Policy =
        Policy { name: "strict-rt", close_holes: true, ..Policy::linux("strict-rt", (6, 18), true) };

    /// All presets.
    pub const ALL: &[Policy] = &[
        Policy::V5_6,
        Policy::V5_7,
        Policy::V5_7_RT,
        Policy::V5_11,
        Policy::V6_1,
        Policy::V6_15,
        Policy::V6_18,
        Policy::STRICT_RT,
    ];

    const fn linux(name: &'static str, version: (u16, u16), rt: bool) -> Policy {
        Policy { name, version, rt, close_holes: false, unpriv_disabled: 2 }
    }

    /// The preset with this name.
    pub fn named(name: &str) -> Option<Policy> {
        Policy::ALL.iter().copied().find(|policy| policy.name == name)
    }

    /// What an operation gives that finds its lock held further up its own stack.
    pub fn recursion_errno(&self) -> Errno {
        if self.version >= (6, 15) { Errno::EDEADLK } else { Errno::EBUSY }
    }
}

/// What a policy knows of a program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProgFacts {
    /// Program type.
    pub prog: ProgType,
    /// Expected attach type; `None` is 0.
    pub attach: Option<AttachType>,
    /// May sleep.
    pub sleepable: bool,
}

/// What a policy says of a program that uses a map.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It may.
    Ok,
    /// It may, and Linux writes this line to the log.
    Warn(String),
    /// It may not load.
    Err(Errno, String),
}

/// Whether a program may use a map under a policy.
///
/// Texts are Linux's where the rule is Linux's. Our own name the map, the rule and a policy that accepts the pair.
pub fn check(policy: &Policy, prog: &ProgFacts, map: &MapSpec) -> Verdict {
    let rules: [fn(&Policy, &ProgFacts, &MapSpec) -> Verdict; 4] = [allocation, values, sleepable, holes];
    let mut warning = None;
    for rule in rules {
        match rule(policy, prog, map) {
            Verdict::Ok => {}
            Verdict::Warn(text) => warning = Some(text),
            refused @ Verdict::Err(..) => return refused,
        }
    }
    warning.map_or(Verdict::Ok, Verdict::Warn)
}

fn refuse(text: impl Into<String>) -> Verdict {
    Verdict::Err(Errno::EINVAL, text.into())
}

/// Whether elements are allocated while programs run. Linux looks at three kinds of hash only.
fn allocates(map: &MapSpec) -> bool {
    matches!(map.kind, MapKind::Hash | MapKind::PercpuHash | MapKind::HashOfMaps) && !map.is_preallocated()
}

/// The same for the map or the template of its inner maps.
fn allocates_anywhere(map: &MapSpec) -> bool {
    allocates(map) || map.inner.as_deref().is_some_and(allocates)
}

/// Linux's rule of preallocation, up to 6.0.
fn allocation(policy: &Policy, prog: &ProgFacts, map: &MapSpec) -> Verdict {
    if policy.version >= (6, 1) || !allocates_anywhere(map) {
        return Verdict::Ok;
    }
    if prog.prog == ProgType::PerfEvent {
        let inner_only = policy.version < (5, 7) && !allocates(map);
        let what = if inner_only { "inner hash map" } else { "hash map" };
        return refuse(format!("perf_event programs can only use preallocated {what}"));
    }
    let tracing = matches!(prog.prog, ProgType::Kprobe | ProgType::Tracepoint | ProgType::RawTracepoint);
    if policy.version < (5, 7) || !tracing {
        return Verdict::Ok;
    }
    if policy.rt {
        return refuse("trace type programs can only use preallocated hash map");
    }
    let text = "trace type programs with run-time allocated hash maps are unsafe. Switch to preallocated hash maps.";
    Verdict::Warn(text.into())
}

/// Special fields that a type of program may not meet. Locks came with 5.1, timers with 5.15.
fn values(policy: &Policy, prog: &ProgFacts, map: &MapSpec) -> Verdict {
    let lock = map.field(|kind| matches!(kind, SpecialKind::SpinLock | SpecialKind::ResSpinLock)).is_some();
    let timer = map.field(|kind| kind == SpecialKind::Timer).is_some() && policy.version >= (5, 15);
    if lock && prog.prog.is_tracing() {
        return refuse("tracing progs cannot use bpf_spin_lock yet");
    }
    if lock && prog.prog == ProgType::SocketFilter {
        return refuse("socket filter progs cannot use bpf_spin_lock yet");
    }
    if timer && prog.prog.is_tracing() {
        return refuse("tracing progs cannot use bpf_timer yet");
    }
    Verdict::Ok
}

/// Kinds of map for sleepable programs, which came with 5.10.
fn sleepable(policy: &Policy, prog: &ProgFacts, map: &MapSpec) -> Verdict {
    if !prog.sleepable || policy.version < (5, 10) {
        return Verdict::Ok;
    }
    if policy.version >= (6, 1) {
        let fits = MapRules::of(map.kind).is_some_and(|rules| rules.sleepable);
        let text = "Sleepable programs can only use array, hash, ringbuf and local storage maps";
        return if fits { Verdict::Ok } else { refuse(text) };
    }
    if allocates_anywhere(map) {
        return refuse("Sleepable programs can only use preallocated hash maps");
    }
    let fits = matches!(
        map.kind,
        MapKind::Hash
            | MapKind::LruHash
            | MapKind::Array
            | MapKind::PercpuHash
            | MapKind::PercpuArray
            | MapKind::LruPercpuHash
            | MapKind::ArrayOfMaps
            | MapKind::HashOfMaps
    );
    if fits { Verdict::Ok } else { refuse("Sleepable programs can only use array and hash maps") }
}

/// Whether programs run where nothing may sleep or allocate.
fn is_atomic(prog: &ProgFacts) -> bool {
    let traced = prog.prog == ProgType::Tracing && prog.attach != Some(AttachType::TraceIter);
    (prog.prog.is_tracing() || traced) && !prog.sleepable
}

/// What every version of Linux left open to programs in atomic context.
fn holes(policy: &Policy, prog: &ProgFacts, map: &MapSpec) -> Verdict {
    if !policy.close_holes || !is_atomic(prog) {
        return Verdict::Ok;
    }
    let rule = if allocates_anywhere(map) {
        "its elements are allocated while programs run; create it, and the template of its inner maps, preallocated"
    } else if allocates_always(map) || map.inner.as_deref().is_some_and(allocates_always) {
        "its elements are always allocated while programs run"
    } else if map.field(|kind| kind == SpecialKind::Timer).is_some() {
        "its values hold timers, which allocate and sleep"
    } else {
        return Verdict::Ok;
    };
    let map_name = if map.name.is_empty() { "without a name" } else { &map.name };
    refuse(format!(
        "{} programs run in atomic context and cannot use the {} map {map_name}: {rule} (rule of {}; {} accepts it)",
        prog.prog.name(),
        map.kind.name(),
        policy.name,
        Policy::V6_18.name,
    ))
}

/// Kinds that have no preallocated form.
fn allocates_always(map: &MapSpec) -> bool {
    match map.kind {
        MapKind::LpmTrie
        | MapKind::CgroupStorage
        | MapKind::PercpuCgroupStorage
        | MapKind::SkStorage
        | MapKind::InodeStorage
        | MapKind::TaskStorage
        | MapKind::CgrpStorage
        | MapKind::Arena => true,
        MapKind::Hash
        | MapKind::Array
        | MapKind::ProgArray
        | MapKind::PerfEventArray
        | MapKind::PercpuHash
        | MapKind::PercpuArray
        | MapKind::StackTrace
        | MapKind::CgroupArray
        | MapKind::LruHash
        | MapKind::LruPercpuHash
        | MapKind::ArrayOfMaps
        | MapKind::HashOfMaps
        | MapKind::Devmap
        | MapKind::Sockmap
        | MapKind::Cpumap
        | MapKind::Xskmap
        | MapKind::Sockhash
        | MapKind::ReuseportSockarray
        | MapKind::Queue
        | MapKind::Stack
        | MapKind::DevmapHash
        | MapKind::StructOps
        | MapKind::Ringbuf
        | MapKind::BloomFilter
        | MapKind::UserRingbuf
        | MapKind::InsnArray => false,
    }
}

/// Whether programs may look a map's element up and lock it for an update (`BPF_F_LOCK`) under this policy.
pub fn allows_value_lock(policy: &Policy, prog: &ProgFacts) -> bool {
    !(policy.close_holes && is_atomic(prog))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map_spec::{SpecialField, flags};

    const KPROBE: ProgFacts = ProgFacts { prog: ProgType::Kprobe, attach: None, sleepable: false };

    fn prog(prog: ProgType) -> ProgFacts {
        ProgFacts { prog, ..KPROBE }
    }

    fn traced(attach: AttachType) -> ProgFacts {
        ProgFacts { prog: ProgType::Tracing, attach: Some(attach), sleepable: false }
    }

    fn map(kind: MapKind, flags: u32) -> MapSpec {
        MapSpec { flags, ..MapSpec::new(kind, 4, 8, 4) }
    }

    fn dynamic(kind: MapKind) -> MapSpec {
        map(kind, flags::NO_PREALLOC)
    }

    fn of_maps(outer: MapSpec, inner: MapSpec) -> MapSpec {
        MapSpec { inner: Some(Box::new(inner)), ..outer }
    }

    fn holding(kind: MapKind, field: SpecialKind) -> MapSpec {
        MapSpec { fields: vec![SpecialField { off: 0, kind: field }], ..map(kind, 0) }
    }

    /// `expected`: `ok`, `warn`, or a part of the refusal.
    #[track_caller]
    fn say(policy: Policy, prog: ProgFacts, map: &MapSpec, expected: &str) {
        let verdict = check(&policy, &prog, map);
        let agrees = match &verdict {
            Verdict::Ok => expected == "ok",
            Verdict::Warn(text) => expected == "warn" && text.starts_with("trace type programs with run-time"),
            Verdict::Err(errno, text) => *errno == Errno::EINVAL && text.contains(expected),
        };
        assert!(agrees, "{} {prog:?} {:?}: {verdict:?}, not {expected}", policy.name, map.kind);
    }

    const PERF: &str = "perf_event programs can only use preallocated hash map";
    const PERF_INNER: &str = "perf_event programs can only use preallocated inner hash map";
    const TRACE: &str = "trace type programs can only use preallocated hash map";
    const SLEEP: &str = "Sleepable programs can only use";
    const ATOMIC: &str = "atomic context";

    #[test]
    fn allocation_is_judged_as_each_era_did() {
        let policies = [Policy::V5_6, Policy::V5_7, Policy::V5_7_RT, Policy::V5_11, Policy::V6_1, Policy::V6_18];
        let table: [(ProgFacts, [&str; 6]); 7] = [
            (prog(ProgType::PerfEvent), [PERF, PERF, PERF, PERF, "ok", "ok"]),
            (prog(ProgType::Kprobe), ["ok", "warn", TRACE, "warn", "ok", "ok"]),
            (prog(ProgType::Tracepoint), ["ok", "warn", TRACE, "warn", "ok", "ok"]),
            (prog(ProgType::RawTracepoint), ["ok", "warn", TRACE, "warn", "ok", "ok"]),
            (traced(AttachType::TraceFentry), ["ok"; 6]),
            (traced(AttachType::TraceRawTp), ["ok"; 6]),
            (prog(ProgType::Xdp), ["ok"; 6]),
        ];
        for (prog, expected) in table {
            for kind in [MapKind::Hash, MapKind::PercpuHash, MapKind::HashOfMaps] {
                for (policy, expected) in policies.into_iter().zip(expected) {
                    say(policy, prog, &dynamic(kind), expected);
                    say(policy, prog, &map(kind, 0), "ok");
                }
            }
        }
    }

    #[test]
    fn templates_of_inner_maps_count() {
        let inner = of_maps(map(MapKind::ArrayOfMaps, 0), dynamic(MapKind::Hash));
        say(Policy::V5_6, prog(ProgType::PerfEvent), &inner, PERF_INNER);
        say(Policy::V5_7, prog(ProgType::PerfEvent), &inner, PERF);
        say(Policy::V5_7_RT, KPROBE, &inner, TRACE);
        say(Policy::V6_18, KPROBE, &inner, "ok");
        say(Policy::STRICT_RT, KPROBE, &inner, ATOMIC);
        let fine = of_maps(map(MapKind::ArrayOfMaps, 0), map(MapKind::Hash, 0));
        say(Policy::STRICT_RT, KPROBE, &fine, "ok");
    }

    #[test]
    fn tries_and_storages_passed_every_version_and_are_refused_here() {
        let linux = &Policy::ALL[..Policy::ALL.len() - 1];
        for kind in [MapKind::LpmTrie, MapKind::TaskStorage, MapKind::SkStorage] {
            for &policy in linux {
                say(policy, KPROBE, &dynamic(kind), "ok");
            }
            say(Policy::STRICT_RT, KPROBE, &dynamic(kind), ATOMIC);
            say(Policy::STRICT_RT, traced(AttachType::TraceRawTp), &dynamic(kind), ATOMIC);
            say(Policy::STRICT_RT, traced(AttachType::TraceIter), &dynamic(kind), "ok");
            say(Policy::STRICT_RT, prog(ProgType::SchedCls), &dynamic(kind), "ok");
        }
        say(Policy::STRICT_RT, prog(ProgType::RawTracepointWritable), &dynamic(MapKind::Hash), ATOMIC);
        say(Policy::STRICT_RT, KPROBE, &map(MapKind::LruHash, 0), "ok");
        say(Policy::STRICT_RT, prog(ProgType::PerfEvent), &map(MapKind::StackTrace, 0), "ok");
    }

    #[test]
    fn refusals_of_ours_name_map_rule_and_a_policy_that_accepts() {
        let named = MapSpec { name: "routes".into(), ..dynamic(MapKind::LpmTrie) };
        for part in ["kprobe", "lpm_trie map routes", "rule of strict-rt", "linux-6.18 accepts it"] {
            say(Policy::STRICT_RT, KPROBE, &named, part);
        }
    }

    #[test]
    fn sleepable_programs_have_their_kinds() {
        let syscall = ProgFacts { prog: ProgType::Syscall, attach: None, sleepable: true };
        say(Policy::V6_18, syscall, &dynamic(MapKind::Hash), "ok");
        say(Policy::V6_18, syscall, &map(MapKind::Queue, 0), "ok");
        say(Policy::V6_18, syscall, &dynamic(MapKind::LpmTrie), SLEEP);
        say(Policy::V6_18, syscall, &map(MapKind::ProgArray, 0), SLEEP);
        say(Policy::V5_11, syscall, &dynamic(MapKind::Hash), "preallocated");
        say(Policy::V5_11, syscall, &map(MapKind::Queue, 0), "array and hash maps");
        say(Policy::V5_7, syscall, &dynamic(MapKind::LpmTrie), "ok");
    }

    #[test]
    fn locks_and_timers_in_values_are_not_for_all() {
        let lock = holding(MapKind::Array, SpecialKind::SpinLock);
        let timer = holding(MapKind::Array, SpecialKind::Timer);
        say(Policy::V6_18, KPROBE, &lock, "tracing progs cannot use bpf_spin_lock yet");
        say(Policy::V6_18, prog(ProgType::SocketFilter), &lock, "socket filter progs");
        say(Policy::V6_18, prog(ProgType::SchedCls), &lock, "ok");
        say(Policy::V6_18, prog(ProgType::PerfEvent), &timer, "tracing progs cannot use bpf_timer yet");
        say(Policy::V6_18, prog(ProgType::SocketFilter), &timer, "ok");
        say(Policy::V5_11, KPROBE, &timer, "ok");
        say(Policy::STRICT_RT, traced(AttachType::TraceFentry), &timer, ATOMIC);
        assert!(allows_value_lock(&Policy::V6_18, &KPROBE));
        assert!(!allows_value_lock(&Policy::STRICT_RT, &KPROBE));
    }

    #[test]
    fn presets_have_their_names() {
        for policy in Policy::ALL {
            assert_eq!(Policy::named(policy.name), Some(*policy));
        }
        assert_eq!(Policy::named("linux-2.6"), None);
        assert_eq!(Policy::V5_11.recursion_errno(), Errno::EBUSY);
        assert_eq!(Policy::STRICT_RT.recursion_errno(), Errno::EDEADLK);
    }
}
