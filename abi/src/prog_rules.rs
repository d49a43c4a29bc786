//! What each program type may be and do: attach types and capabilities at load, values at exit, features.
//!
//! Measured on Linux 6.18. Types that no measured kernel loads (fentry, LSM, extensions, lirc_mode2) follow the Linux
//! documentation.

use crate::errno::Errno;
use crate::prog_type::AttachType::{self, *};
use crate::prog_type::ProgType;

/// Features of a program type, as a bit set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Features(u16);

#[allow(missing_docs)]
impl Features {
    pub const NONE: Features = Features(0);
    /// Legacy packet loads (`BPF_LD_ABS`, `BPF_LD_IND`).
    pub const LD_ABS: Features = Features(1);
    /// Maps with `bpf_spin_lock` in their values.
    pub const SPIN_LOCK: Features = Features(2);
    /// Maps with `bpf_timer` in their values.
    pub const TIMER: Features = Features(4);
    /// Loads through packet pointers.
    pub const PACKET_READ: Features = Features(8);
    /// Stores through packet pointers.
    pub const PACKET_WRITE: Features = Features(16);
    /// Each frame has a stack of its own, unless the program makes a tail call.
    pub const PRIVATE_STACK: Features = Features(32);
    /// The licence must be compatible with the GPL.
    pub const GPL_ONLY: Features = Features(64);
    /// Needs a BTF id to attach to.
    pub const NEEDS_TARGET: Features = Features(128);

    pub const fn and(self, other: Features) -> Features {
        Features(self.0 | other.0)
    }

    pub const fn has(self, other: Features) -> bool {
        self.0 & other.0 == other.0
    }
}

/// Whether programs of a type sleep (`BPF_F_SLEEPABLE`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sleep {
    /// Never.
    Never,
    /// With the flag.
    May,
    /// Always; the flag is mandatory.
    Must,
    /// With the flag, at these attach types.
    At(&'static [AttachType]),
}

/// Capabilities that loading takes beside CAP_BPF.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LoadNeed {
    /// None; and none at all where unprivileged users may use `bpf(2)`.
    Unprivileged,
    /// None.
    Bpf,
    /// CAP_NET_ADMIN.
    NetAdmin,
    /// CAP_PERFMON.
    Perfmon,
}

/// One program type's rules.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct ProgRules {
    /// The type.
    pub prog: ProgType,
    /// Expected attach types that load; empty where the type does not look.
    pub attach: &'static [AttachType],
    /// Capabilities.
    pub need: LoadNeed,
    /// Sleepable programs.
    pub sleep: Sleep,
    /// Features.
    pub features: Features,
}

const NO: Features = Features::NONE;
const LOCKS: Features = Features::SPIN_LOCK.and(Features::TIMER);
const READS: Features = LOCKS.and(Features::PACKET_READ);
const WRITES: Features = READS.and(Features::PACKET_WRITE);
const LEGACY: Features = Features::LD_ABS;
const OWN_STACK: Features = Features::PRIVATE_STACK;
const TARGET: Features = LOCKS.and(Features::NEEDS_TARGET);

const ANY: &[AttachType] = &[];
const CGROUP_SKB: &[AttachType] = &[CgroupInetIngress, CgroupInetEgress];
// 0 (`cgroup_inet_ingress`) stands for sock_create, as old loaders leave it.
const CGROUP_SOCK: &[AttachType] =
    &[CgroupInetIngress, CgroupInetSockCreate, CgroupInet4PostBind, CgroupInet6PostBind, CgroupInetSockRelease];
const REUSEPORT: &[AttachType] = &[CgroupInetIngress, SkReuseportSelect, SkReuseportSelectOrMigrate];
const SOCKOPT: &[AttachType] = &[CgroupGetsockopt, CgroupSetsockopt];
const ZERO: &[AttachType] = &[CgroupInetIngress];
const TRACING: &[AttachType] = &[TraceRawTp, TraceFentry, TraceFexit, ModifyReturn, TraceIter];
const SLEEPABLE_TRACING: &[AttachType] = &[TraceFentry, TraceFexit, ModifyReturn, TraceIter];
const LSM: &[AttachType] = &[LsmMac, LsmCgroup];
#[rustfmt::skip]
const SOCK_ADDR: &[AttachType] = &[
    CgroupInet4Bind, CgroupInet6Bind, CgroupInet4Connect, CgroupInet6Connect, CgroupUdp4Sendmsg, CgroupUdp6Sendmsg,
    CgroupUdp4Recvmsg, CgroupUdp6Recvmsg, CgroupInet4Getpeername, CgroupInet6Getpeername, CgroupInet4Getsockname,
    CgroupInet6Getsockname, CgroupUnixConnect, CgroupUnixSendmsg, CgroupUnixRecvmsg, CgroupUnixGetpeername,
    CgroupUnixGetsockname,
];

use LoadNeed::{Bpf, NetAdmin, Perfmon, Unprivileged};
use Sleep::{At, May, Must, Never};

/// Every program type, by number.
#[rustfmt::skip]
pub const RULES: &[ProgRules] = &[
//       type                             attach         needs         sleeps                  features
    rule(ProgType::SocketFilter,          ANY,           Unprivileged, Never,                  LEGACY.and(Features::TIMER)),
    rule(ProgType::Kprobe,                ANY,           Perfmon,      May,                    OWN_STACK),
    rule(ProgType::SchedCls,              ANY,           NetAdmin,     Never,                  WRITES.and(LEGACY)),
    rule(ProgType::SchedAct,              ANY,           NetAdmin,     Never,                  WRITES.and(LEGACY)),
    rule(ProgType::Tracepoint,            ANY,           Perfmon,      Never,                  OWN_STACK),
    rule(ProgType::Xdp,                   ANY,           NetAdmin,     Never,                  WRITES),
    rule(ProgType::PerfEvent,             ANY,           Perfmon,      Never,                  OWN_STACK),
    rule(ProgType::CgroupSkb,             CGROUP_SKB,    Unprivileged, Never,                  READS),
    rule(ProgType::CgroupSock,            CGROUP_SOCK,   NetAdmin,     Never,                  LOCKS),
    rule(ProgType::LwtIn,                 ANY,           NetAdmin,     Never,                  READS),
    rule(ProgType::LwtOut,                ANY,           NetAdmin,     Never,                  READS),
    rule(ProgType::LwtXmit,               ANY,           NetAdmin,     Never,                  WRITES),
    rule(ProgType::SockOps,               ANY,           NetAdmin,     Never,                  READS),
    rule(ProgType::SkSkb,                 ANY,           NetAdmin,     Never,                  WRITES),
    rule(ProgType::CgroupDevice,          ANY,           NetAdmin,     Never,                  LOCKS),
    rule(ProgType::SkMsg,                 ANY,           NetAdmin,     Never,                  WRITES),
    rule(ProgType::RawTracepoint,         ANY,           Perfmon,      Never,                  OWN_STACK),
    rule(ProgType::CgroupSockAddr,        SOCK_ADDR,     NetAdmin,     Never,                  LOCKS),
    rule(ProgType::LwtSeg6local,          ANY,           NetAdmin,     Never,                  READS),
    rule(ProgType::LircMode2,             ANY,           NetAdmin,     Never,                  LOCKS),
    rule(ProgType::SkReuseport,           REUSEPORT,     Bpf,          Never,                  READS),
    rule(ProgType::FlowDissector,         ANY,           NetAdmin,     Never,                  READS),
    rule(ProgType::CgroupSysctl,          ANY,           NetAdmin,     Never,                  LOCKS),
    rule(ProgType::RawTracepointWritable, ANY,           Perfmon,      Never,                  NO),
    rule(ProgType::CgroupSockopt,         SOCKOPT,       NetAdmin,     Never,                  WRITES),
    rule(ProgType::Tracing,               TRACING,       Perfmon,      At(SLEEPABLE_TRACING),  TARGET),
    rule(ProgType::StructOps,             ANY,           Perfmon,      May,                    LOCKS.and(Features::GPL_ONLY)),
    rule(ProgType::Ext,                   ANY,           Perfmon,      Never,                  TARGET),
    rule(ProgType::Lsm,                   LSM,           Perfmon,      At(&[LsmMac]),          TARGET),
    rule(ProgType::SkLookup,              &[SkLookup],   Bpf,          Never,                  LOCKS),
    rule(ProgType::Syscall,               ZERO,          Bpf,          Must,                   LOCKS),
    rule(ProgType::Netfilter,             &[Netfilter],  NetAdmin,     Never,                  LOCKS),
    rule(ProgType::Plain,                 ANY,           Unprivileged, Never,                  LOCKS),
];

const fn rule(
    prog: ProgType,
    attach: &'static [AttachType],
    need: LoadNeed,
    sleep: Sleep,
    features: Features,
) -> ProgRules {
    ProgRules { prog, attach, need, sleep, features }
}

impl ProgRules {
    /// The rules of a type; `None` for [`ProgType::Unspec`].
    pub fn of(prog: ProgType) -> Option<&'static ProgRules> {
        RULES.iter().find(|rules| rules.prog == prog)
    }

    /// Whether programs loaded for `attach` (`None` is 0) may or must sleep.
    fn check_sleepable(&self, attach: Option<AttachType>, sleepable: bool) -> Result<(), (Errno, &'static str)> {
        let allowed = match self.sleep {
            Sleep::Never => false,
            Sleep::May | Sleep::Must => true,
            Sleep::At(types) => attach.is_some_and(|attach| types.contains(&attach)),
        };
        if sleepable && !allowed {
            let text = "Only fentry/fexit/fmod_ret, lsm, iter, uprobe, and struct_ops programs can be sleepable";
            return Err((Errno::EINVAL, text));
        }
        if !sleepable && self.sleep == Sleep::Must {
            return Err((Errno::EINVAL, "Syscall programs can only be sleepable"));
        }
        Ok(())
    }

    /// Whether `features` hold for programs at `attach`. Of the tracing programs only those on tracepoints have a stack
    /// for each frame.
    pub fn has(&self, attach: Option<AttachType>, features: Features) -> bool {
        let tracepoint = self.prog == ProgType::Tracing && attach == Some(TraceRawTp);
        let here = if tracepoint { self.features.and(OWN_STACK) } else { self.features };
        here.has(features)
    }
}

/// Bits of `prog_flags`.
pub mod flags {
    #![allow(missing_docs)]
    pub const STRICT_ALIGNMENT: u32 = 1 << 0;
    pub const ANY_ALIGNMENT: u32 = 1 << 1;
    pub const TEST_RND_HI32: u32 = 1 << 2;
    pub const TEST_STATE_FREQ: u32 = 1 << 3;
    pub const SLEEPABLE: u32 = 1 << 4;
    pub const XDP_HAS_FRAGS: u32 = 1 << 5;
    pub const XDP_DEV_BOUND_ONLY: u32 = 1 << 6;
    pub const TEST_REG_INVARIANTS: u32 = 1 << 7;
    /// Every bit that Linux 6.18 knows.
    pub const KNOWN: u32 = 0xff;
}

/// Whether a program of this type may load with this expected attach type (its number) and these flags, before anyone
/// looks at its instructions. The text is empty where Linux writes none.
pub fn check_load(prog: ProgType, attach_number: u32, prog_flags: u32) -> Result<(), (Errno, &'static str)> {
    let silent = |errno| (errno, "");
    check_flags(prog_flags).map_err(silent)?;
    let rules = check_attach(prog, attach_number).map_err(silent)?;
    rules.check_sleepable(AttachType::from_number(attach_number), prog_flags & flags::SLEEPABLE != 0)
}

/// What is first: that no flag is unknown. It comes before the caller's privilege.
pub fn check_flags(prog_flags: u32) -> Result<(), Errno> {
    if prog_flags & !flags::KNOWN == 0 { Ok(()) } else { Err(Errno::EINVAL) }
}

/// What is next: that a program of this type attaches so. It comes before the maps that the instructions name.
pub fn check_attach(prog: ProgType, attach_number: u32) -> Result<&'static ProgRules, Errno> {
    let rules = ProgRules::of(prog).ok_or(Errno::EINVAL)?;
    let attaches = |attach| rules.attach.contains(&attach);
    let good = rules.attach.is_empty() || AttachType::from_number(attach_number).is_some_and(attaches);
    if good { Ok(rules) } else { Err(Errno::EINVAL) }
}

/// The values that R0 may have when the program ends, as signed 64-bit bounds; `None` when any value will do, pointers
/// included.
pub fn exit_range(prog: ProgType, attach: Option<AttachType>) -> Option<(i64, i64)> {
    match (prog, attach) {
        (ProgType::CgroupSkb, Some(CgroupInetEgress)) => Some((0, 3)),
        (ProgType::CgroupSkb, _) => Some((0, 1)),
        (ProgType::CgroupSockAddr, Some(CgroupInet4Bind | CgroupInet6Bind)) => Some((0, 3)),
        (
            ProgType::CgroupSockAddr,
            Some(
                CgroupUdp4Recvmsg
                | CgroupUdp6Recvmsg
                | CgroupUnixRecvmsg
                | CgroupInet4Getpeername
                | CgroupInet6Getpeername
                | CgroupUnixGetpeername
                | CgroupInet4Getsockname
                | CgroupInet6Getsockname
                | CgroupUnixGetsockname,
            ),
        ) => Some((1, 1)),
        (ProgType::CgroupSockAddr, _) => Some((0, 1)),
        (
            ProgType::CgroupSock
            | ProgType::SockOps
            | ProgType::CgroupDevice
            | ProgType::CgroupSysctl
            | ProgType::CgroupSockopt
            | ProgType::SkLookup
            | ProgType::Netfilter,
            _,
        ) => Some((0, 1)),
        (ProgType::Kprobe, Some(TraceKprobeSession | TraceUprobeSession)) => Some((0, 1)),
        (ProgType::Tracing, Some(TraceIter)) => Some((0, 1)),
        (ProgType::Tracing, Some(TraceFentry | TraceFexit)) => Some((0, 0)),
        (ProgType::Lsm, Some(LsmCgroup)) => Some((0, 1)),
        (ProgType::Lsm, _) => Some((-4095, 0)),
        (
            ProgType::Unspec
            | ProgType::SocketFilter
            | ProgType::Kprobe
            | ProgType::SchedCls
            | ProgType::SchedAct
            | ProgType::Tracepoint
            | ProgType::Xdp
            | ProgType::PerfEvent
            | ProgType::LwtIn
            | ProgType::LwtOut
            | ProgType::LwtXmit
            | ProgType::SkSkb
            | ProgType::SkMsg
            | ProgType::RawTracepoint
            | ProgType::LwtSeg6local
            | ProgType::LircMode2
            | ProgType::SkReuseport
            | ProgType::FlowDissector
            | ProgType::RawTracepointWritable
            | ProgType::Tracing
            | ProgType::StructOps
            | ProgType::Ext
            | ProgType::Syscall
            | ProgType::Plain,
            _,
        ) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_has_one_row() {
        for &prog in ProgType::ALL {
            let rows = RULES.iter().filter(|rules| rules.prog == prog).count();
            assert_eq!(rows, usize::from(prog != ProgType::Unspec), "{}", prog.name());
        }
    }

    #[track_caller]
    fn check(prog: ProgType, attach: u32, prog_flags: u32, expected: Result<(), Errno>) {
        assert_eq!(check_load(prog, attach, prog_flags).map_err(|(errno, _)| errno), expected);
    }

    #[test]
    fn loads_follow_attach_type_and_flags() {
        let refused = Err(Errno::EINVAL);
        check(ProgType::SchedCls, 99, 0, Ok(()));
        check(ProgType::SchedCls, 0, flags::SLEEPABLE, refused);
        check(ProgType::SchedCls, 0, 1 << 8, refused);
        check(ProgType::CgroupSockAddr, 99, 0, refused);
        check(ProgType::Syscall, 0, flags::SLEEPABLE, Ok(()));
        check(ProgType::Syscall, 0, 0, refused);
        check(ProgType::Tracing, TraceIter.number(), flags::SLEEPABLE, Ok(()));
        check(ProgType::Tracing, TraceRawTp.number(), flags::SLEEPABLE, refused);
        check(ProgType::Unspec, 0, 0, refused);
    }

    #[test]
    fn exit_values_depend_on_the_hook() {
        assert_eq!(exit_range(ProgType::CgroupSkb, None), Some((0, 1)));
        assert_eq!(exit_range(ProgType::CgroupSkb, Some(CgroupInetEgress)), Some((0, 3)));
        assert_eq!(exit_range(ProgType::Kprobe, None), None);
        assert_eq!(exit_range(ProgType::Kprobe, Some(TraceUprobeSession)), Some((0, 1)));
        assert_eq!(exit_range(ProgType::CgroupSockAddr, Some(CgroupUdp4Recvmsg)), Some((1, 1)));
    }
}
