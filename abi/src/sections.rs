//! Section names of BPF objects and what they say about the programs in them.
//!
//! The names are libbpf's (Linux documentation, "Program Types and ELF Sections"), with those that older loaders knew.

use crate::prog_rules::flags::{SLEEPABLE, XDP_HAS_FRAGS};
use crate::prog_type::AttachType::{self, *};
use crate::prog_type::ProgType;

/// How much of a section's name a row stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Match {
    /// The whole name. Loaders before libbpf 1.0 took it for a prefix (`xdp_pass`, `socket1`).
    Whole,
    /// The whole name, and always has been.
    Only,
    /// The name, or the name, `/` and what to attach to.
    Target,
}

struct Row {
    name: &'static str,
    prog: ProgType,
    attach: Option<AttachType>,
    flags: u32,
    matches: Match,
}

/// What a section's name says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SectionKind<'a> {
    /// The name in the table that it matches.
    pub name: &'static str,
    /// Program type.
    pub prog: ProgType,
    /// Expected attach type; `None` is 0.
    pub attach: Option<AttachType>,
    /// `prog_flags` to load with: [`SLEEPABLE`], [`XDP_HAS_FRAGS`].
    pub flags: u32,
    /// What follows the name, such as the function or the tracepoint to attach to.
    pub target: Option<&'a str>,
    /// A name that only loaders before libbpf 1.0 accepted.
    pub legacy: bool,
}

const S: u32 = SLEEPABLE;
const F: u32 = XDP_HAS_FRAGS;

use Match::{Only, Target, Whole};

// A longer name stands before every shorter one that begins it.
#[rustfmt::skip]
const TABLE: &[Row] = &[
//      name                      program type                     attach type                       flags matches
    row("socket",                 ProgType::SocketFilter,          None,                             0, Whole),
    row("sk_reuseport/migrate",   ProgType::SkReuseport,           Some(SkReuseportSelectOrMigrate), 0, Only),
    row("sk_reuseport",           ProgType::SkReuseport,           Some(SkReuseportSelect),          0, Whole),
    row("kprobe.multi",           ProgType::Kprobe,                Some(TraceKprobeMulti),           0, Target),
    row("kretprobe.multi",        ProgType::Kprobe,                Some(TraceKprobeMulti),           0, Target),
    row("kprobe.session",         ProgType::Kprobe,                Some(TraceKprobeSession),         0, Target),
    row("kprobe",                 ProgType::Kprobe,                None,                             0, Target),
    row("kretprobe",              ProgType::Kprobe,                None,                             0, Target),
    row("uprobe.multi.s",         ProgType::Kprobe,                Some(TraceUprobeMulti),           S, Target),
    row("uprobe.multi",           ProgType::Kprobe,                Some(TraceUprobeMulti),           0, Target),
    row("uretprobe.multi.s",      ProgType::Kprobe,                Some(TraceUprobeMulti),           S, Target),
    row("uretprobe.multi",        ProgType::Kprobe,                Some(TraceUprobeMulti),           0, Target),
    row("uprobe.session.s",       ProgType::Kprobe,                Some(TraceUprobeSession),         S, Target),
    row("uprobe.session",         ProgType::Kprobe,                Some(TraceUprobeSession),         0, Target),
    row("uprobe.s",               ProgType::Kprobe,                None,                             S, Target),
    row("uprobe",                 ProgType::Kprobe,                None,                             0, Target),
    row("uretprobe.s",            ProgType::Kprobe,                None,                             S, Target),
    row("uretprobe",              ProgType::Kprobe,                None,                             0, Target),
    row("ksyscall",               ProgType::Kprobe,                None,                             0, Target),
    row("kretsyscall",            ProgType::Kprobe,                None,                             0, Target),
    row("usdt.s",                 ProgType::Kprobe,                None,                             S, Target),
    row("usdt",                   ProgType::Kprobe,                None,                             0, Target),
    row("tc/ingress",             ProgType::SchedCls,              Some(TcxIngress),                 0, Only),
    row("tc/egress",              ProgType::SchedCls,              Some(TcxEgress),                  0, Only),
    row("tcx/ingress",            ProgType::SchedCls,              Some(TcxIngress),                 0, Only),
    row("tcx/egress",             ProgType::SchedCls,              Some(TcxEgress),                  0, Only),
    row("netkit/primary",         ProgType::SchedCls,              Some(NetkitPrimary),              0, Only),
    row("netkit/peer",            ProgType::SchedCls,              Some(NetkitPeer),                 0, Only),
    row("tc",                     ProgType::SchedCls,              None,                             0, Target),
    row("classifier",             ProgType::SchedCls,              None,                             0, Whole),
    row("action",                 ProgType::SchedAct,              None,                             0, Whole),
    row("tracepoint",             ProgType::Tracepoint,            None,                             0, Target),
    row("tp_btf",                 ProgType::Tracing,               Some(TraceRawTp),                 0, Target),
    row("tp",                     ProgType::Tracepoint,            None,                             0, Target),
    row("raw_tracepoint.w",       ProgType::RawTracepointWritable, None,                             0, Target),
    row("raw_tp.w",               ProgType::RawTracepointWritable, None,                             0, Target),
    row("raw_tracepoint",         ProgType::RawTracepoint,         None,                             0, Target),
    row("raw_tp",                 ProgType::RawTracepoint,         None,                             0, Target),
    row("fentry.s",               ProgType::Tracing,               Some(TraceFentry),                S, Target),
    row("fentry",                 ProgType::Tracing,               Some(TraceFentry),                0, Target),
    row("fmod_ret.s",             ProgType::Tracing,               Some(ModifyReturn),               S, Target),
    row("fmod_ret",               ProgType::Tracing,               Some(ModifyReturn),               0, Target),
    row("fexit.s",                ProgType::Tracing,               Some(TraceFexit),                 S, Target),
    row("fexit",                  ProgType::Tracing,               Some(TraceFexit),                 0, Target),
    row("freplace",               ProgType::Ext,                   None,                             0, Target),
    row("lsm_cgroup",             ProgType::Lsm,                   Some(LsmCgroup),                  0, Target),
    row("lsm.s",                  ProgType::Lsm,                   Some(LsmMac),                     S, Target),
    row("lsm",                    ProgType::Lsm,                   Some(LsmMac),                     0, Target),
    row("iter.s",                 ProgType::Tracing,               Some(TraceIter),                  S, Target),
    row("iter",                   ProgType::Tracing,               Some(TraceIter),                  0, Target),
    row("syscall",                ProgType::Syscall,               None,                             S, Only),
    row("xdp.frags/devmap",       ProgType::Xdp,                   Some(XdpDevmap),                  F, Target),
    row("xdp.frags/cpumap",       ProgType::Xdp,                   Some(XdpCpumap),                  F, Target),
    row("xdp.frags",              ProgType::Xdp,                   Some(Xdp),                        F, Target),
    row("xdp/devmap",             ProgType::Xdp,                   Some(XdpDevmap),                  0, Target),
    row("xdp/cpumap",             ProgType::Xdp,                   Some(XdpCpumap),                  0, Target),
    row("xdp_devmap",             ProgType::Xdp,                   Some(XdpDevmap),                  0, Target),
    row("xdp_cpumap",             ProgType::Xdp,                   Some(XdpCpumap),                  0, Target),
    row("xdp",                    ProgType::Xdp,                   Some(Xdp),                        0, Whole),
    row("perf_event",             ProgType::PerfEvent,             None,                             0, Whole),
    row("lwt_in",                 ProgType::LwtIn,                 None,                             0, Whole),
    row("lwt_out",                ProgType::LwtOut,                None,                             0, Whole),
    row("lwt_xmit",               ProgType::LwtXmit,               None,                             0, Whole),
    row("lwt_seg6local",          ProgType::LwtSeg6local,          None,                             0, Whole),
    row("sockops",                ProgType::SockOps,               Some(CgroupSockOps),              0, Whole),
    row("sk_skb/stream_parser",   ProgType::SkSkb,                 Some(SkSkbStreamParser),          0, Whole),
    row("sk_skb/stream_verdict",  ProgType::SkSkb,                 Some(SkSkbStreamVerdict),         0, Whole),
    row("sk_skb/verdict",         ProgType::SkSkb,                 Some(SkSkbVerdict),               0, Only),
    row("sk_skb",                 ProgType::SkSkb,                 None,                             0, Whole),
    row("sk_msg",                 ProgType::SkMsg,                 Some(SkMsgVerdict),               0, Whole),
    row("sk_lookup",              ProgType::SkLookup,              Some(SkLookup),                   0, Whole),
    row("lirc_mode2",             ProgType::LircMode2,             Some(LircMode2),                  0, Whole),
    row("flow_dissector",         ProgType::FlowDissector,         Some(FlowDissector),              0, Whole),
    row("cgroup_skb/ingress",     ProgType::CgroupSkb,             Some(CgroupInetIngress),          0, Whole),
    row("cgroup_skb/egress",      ProgType::CgroupSkb,             Some(CgroupInetEgress),           0, Whole),
    row("cgroup/skb",             ProgType::CgroupSkb,             None,                             0, Whole),
    row("cgroup/sock_create",     ProgType::CgroupSock,            Some(CgroupInetSockCreate),       0, Whole),
    row("cgroup/sock_release",    ProgType::CgroupSock,            Some(CgroupInetSockRelease),      0, Whole),
    row("cgroup/sock",            ProgType::CgroupSock,            Some(CgroupInetSockCreate),       0, Whole),
    row("cgroup/post_bind4",      ProgType::CgroupSock,            Some(CgroupInet4PostBind),        0, Whole),
    row("cgroup/post_bind6",      ProgType::CgroupSock,            Some(CgroupInet6PostBind),        0, Whole),
    row("cgroup/bind4",           ProgType::CgroupSockAddr,        Some(CgroupInet4Bind),            0, Whole),
    row("cgroup/bind6",           ProgType::CgroupSockAddr,        Some(CgroupInet6Bind),            0, Whole),
    row("cgroup/connect4",        ProgType::CgroupSockAddr,        Some(CgroupInet4Connect),         0, Whole),
    row("cgroup/connect6",        ProgType::CgroupSockAddr,        Some(CgroupInet6Connect),         0, Whole),
    row("cgroup/connect_unix",    ProgType::CgroupSockAddr,        Some(CgroupUnixConnect),          0, Only),
    row("cgroup/sendmsg4",        ProgType::CgroupSockAddr,        Some(CgroupUdp4Sendmsg),          0, Whole),
    row("cgroup/sendmsg6",        ProgType::CgroupSockAddr,        Some(CgroupUdp6Sendmsg),          0, Whole),
    row("cgroup/sendmsg_unix",    ProgType::CgroupSockAddr,        Some(CgroupUnixSendmsg),          0, Only),
    row("cgroup/recvmsg4",        ProgType::CgroupSockAddr,        Some(CgroupUdp4Recvmsg),          0, Whole),
    row("cgroup/recvmsg6",        ProgType::CgroupSockAddr,        Some(CgroupUdp6Recvmsg),          0, Whole),
    row("cgroup/recvmsg_unix",    ProgType::CgroupSockAddr,        Some(CgroupUnixRecvmsg),          0, Only),
    row("cgroup/getpeername4",    ProgType::CgroupSockAddr,        Some(CgroupInet4Getpeername),     0, Whole),
    row("cgroup/getpeername6",    ProgType::CgroupSockAddr,        Some(CgroupInet6Getpeername),     0, Whole),
    row("cgroup/getpeername_unix", ProgType::CgroupSockAddr,       Some(CgroupUnixGetpeername),      0, Only),
    row("cgroup/getsockname4",    ProgType::CgroupSockAddr,        Some(CgroupInet4Getsockname),     0, Whole),
    row("cgroup/getsockname6",    ProgType::CgroupSockAddr,        Some(CgroupInet6Getsockname),     0, Whole),
    row("cgroup/getsockname_unix", ProgType::CgroupSockAddr,       Some(CgroupUnixGetsockname),      0, Only),
    row("cgroup/sysctl",          ProgType::CgroupSysctl,          Some(CgroupSysctl),               0, Whole),
    row("cgroup/getsockopt",      ProgType::CgroupSockopt,         Some(CgroupGetsockopt),           0, Whole),
    row("cgroup/setsockopt",      ProgType::CgroupSockopt,         Some(CgroupSetsockopt),           0, Whole),
    row("cgroup/dev",             ProgType::CgroupDevice,          Some(CgroupDevice),               0, Whole),
    row("struct_ops.s",           ProgType::StructOps,             None,                             S, Target),
    row("struct_ops",             ProgType::StructOps,             None,                             0, Target),
    row("netfilter",              ProgType::Netfilter,             Some(Netfilter),                  0, Only),
    // rtbpf's own: `r1` = memory, `r2` = length.
    row("plain",                  ProgType::Plain,                 None,                             0, Target),
];

const fn row(name: &'static str, prog: ProgType, attach: Option<AttachType>, flags: u32, matches: Match) -> Row {
    Row { name, prog, attach, flags, matches }
}

/// What the name of a section says about the programs in it; `None` when it says nothing, see [`advice`].
///
/// A leading `?` (do not load by default) is ignored.
pub fn kind_of(section: &str) -> Option<SectionKind<'_>> {
    let name = section.strip_prefix('?').unwrap_or(section);
    let exact = TABLE.iter().find_map(|row| Some(row.kind(row.target(name)?, false)));
    exact.or_else(|| TABLE.iter().find_map(|row| Some(row.kind(row.legacy_target(name)?, true))))
}

impl Row {
    /// What follows this row's name in `section`: `Some(None)` when nothing does, `None` when it is another name.
    fn target<'a>(&self, section: &'a str) -> Option<Option<&'a str>> {
        match section.strip_prefix(self.name)? {
            "" => Some(None),
            rest if self.matches == Target => {
                rest.strip_prefix('/').map(|target| Some(target).filter(|t| !t.is_empty()))
            }
            _ => None,
        }
    }

    /// The same, as loaders before libbpf 1.0 read names.
    fn legacy_target<'a>(&self, section: &'a str) -> Option<Option<&'a str>> {
        let rest = section.strip_prefix(self.name).filter(|_| self.matches == Whole)?;
        Some(rest.strip_prefix('/').filter(|target| !target.is_empty()))
    }

    fn kind<'a>(&self, target: Option<&'a str>, legacy: bool) -> SectionKind<'a> {
        SectionKind { name: self.name, prog: self.prog, attach: self.attach, flags: self.flags, target, legacy }
    }
}

/// Why a section's name says nothing about its programs, and what to do.
pub fn advice(section: &str) -> &'static str {
    let number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    match section.split_once('/') {
        Some((map, key)) if number(map) && number(key) => {
            "a tail-call target of an iproute2 object (map id/key): the loader decides the program type; give it, usually sched_cls"
        }
        _ if matches!(section, "prog" | "from-netdev" | "to-netdev" | "ingress" | "egress") => {
            "a name that tc was told on its command line: give the program type, usually sched_cls"
        }
        _ => "no section name that libbpf knows: give the program type",
    }
}

/// Every name of the table.
pub fn names() -> impl Iterator<Item = &'static str> {
    TABLE.iter().map(|row| row.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(section: &str, prog: ProgType, attach: Option<AttachType>, flags: u32, target: Option<&str>) {
        let kind = kind_of(section).unwrap_or_else(|| panic!("{section} is unknown"));
        assert_eq!((kind.prog, kind.attach, kind.flags, kind.target), (prog, attach, flags, target), "{section}");
    }

    #[test]
    fn names_give_type_attach_type_and_flags() {
        check("xdp", ProgType::Xdp, Some(Xdp), 0, None);
        check("xdp.frags", ProgType::Xdp, Some(Xdp), F, None);
        check("xdp/cpumap", ProgType::Xdp, Some(XdpCpumap), 0, None);
        check("xdp_cpumap/pass", ProgType::Xdp, Some(XdpCpumap), 0, Some("pass"));
        check("tc", ProgType::SchedCls, None, 0, None);
        check("tcx/ingress", ProgType::SchedCls, Some(TcxIngress), 0, None);
        check("classifier", ProgType::SchedCls, None, 0, None);
        check("action", ProgType::SchedAct, None, 0, None);
        check("kprobe/do_unlinkat", ProgType::Kprobe, None, 0, Some("do_unlinkat"));
        check("kprobe.multi/tcp_*", ProgType::Kprobe, Some(TraceKprobeMulti), 0, Some("tcp_*"));
        check("uprobe.s//bin/sh:main", ProgType::Kprobe, None, S, Some("/bin/sh:main"));
        check("usdt", ProgType::Kprobe, None, 0, None);
        check("tracepoint/sched/sched_switch", ProgType::Tracepoint, None, 0, Some("sched/sched_switch"));
        check("tp_btf/sched_switch", ProgType::Tracing, Some(TraceRawTp), 0, Some("sched_switch"));
        check("raw_tp.w/x", ProgType::RawTracepointWritable, None, 0, Some("x"));
        check("iter.s/task", ProgType::Tracing, Some(TraceIter), S, Some("task"));
        check("struct_ops.s/init", ProgType::StructOps, None, S, Some("init"));
        check("cgroup/connect4", ProgType::CgroupSockAddr, Some(CgroupInet4Connect), 0, None);
        check("lirc_mode2", ProgType::LircMode2, Some(LircMode2), 0, None);
        check("syscall", ProgType::Syscall, None, S, None);
        check("?xdp", ProgType::Xdp, Some(Xdp), 0, None);
    }

    #[test]
    fn old_prefixes_are_marked() {
        for (section, prog, target) in [
            ("xdp_pass", ProgType::Xdp, None),
            ("xdp/pass", ProgType::Xdp, Some("pass")),
            ("socket1", ProgType::SocketFilter, None),
            ("classifier/ingress", ProgType::SchedCls, Some("ingress")),
            ("cgroup/skb/egress", ProgType::CgroupSkb, Some("egress")),
        ] {
            check(section, prog, kind_of(section).and_then(|kind| kind.attach), 0, target);
            assert!(kind_of(section).is_some_and(|kind| kind.legacy), "{section}");
        }
        assert!(kind_of("xdp").is_some_and(|kind| !kind.legacy));
    }

    #[test]
    fn unknown_names_come_with_advice() {
        for section in ["2/1", "prog", "kprobes", "tpx", "netfilter/x", ".text", "", "?", "from-container", "maps"] {
            assert_eq!(kind_of(section), None, "{section}");
        }
        assert!(advice("2/1").contains("iproute2"));
        assert!(advice("prog").contains("tc"));
        assert!(advice("nonsense").contains("program type"));
    }

    #[test]
    fn no_name_hides_behind_a_shorter_one() {
        for row in TABLE {
            let kind = kind_of(row.name).expect("every name is known");
            assert_eq!((kind.name, kind.legacy), (row.name, false));
        }
    }

    #[test]
    fn every_row_loads_with_its_own_attach_type() {
        for row in TABLE {
            let attach = row.attach.map_or(0, AttachType::number);
            assert!(crate::prog_rules::check_load(row.prog, attach, row.flags).is_ok(), "{}", row.name);
        }
    }
}
