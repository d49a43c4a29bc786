//! Section names to program types, until the table of them stands in `abi`.

use rtbpf_abi::{AttachType, ProgType};

use crate::object::prog_flags;

/// What a section's name says about its programs.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SectionKind {
    pub prog_type: ProgType,
    pub attach_type: Option<AttachType>,
    pub flags: u32,
    /// What follows the name, such as the function to attach to.
    pub target: Option<String>,
}

#[rustfmt::skip]
const TABLE: &[(&str, ProgType, Option<AttachType>, u32)] = {
    use AttachType as A;
    use ProgType as P;
    const S: u32 = prog_flags::SLEEPABLE;
    const F: u32 = prog_flags::XDP_HAS_FRAGS;
    &[
    ("socket",                 P::SocketFilter,   None,                               0),
    ("sk_reuseport/migrate",   P::SkReuseport,    Some(A::SkReuseportSelectOrMigrate), 0),
    ("sk_reuseport",           P::SkReuseport,    Some(A::SkReuseportSelect),         0),
    ("kprobe.multi",           P::Kprobe,         Some(A::TraceKprobeMulti),          0),
    ("kretprobe.multi",        P::Kprobe,         Some(A::TraceKprobeMulti),          0),
    ("kprobe.session",         P::Kprobe,         Some(A::TraceKprobeSession),        0),
    ("kprobe",                 P::Kprobe,         None,                               0),
    ("kretprobe",              P::Kprobe,         None,                               0),
    ("uprobe.multi.s",         P::Kprobe,         Some(A::TraceUprobeMulti),          S),
    ("uprobe.multi",           P::Kprobe,         Some(A::TraceUprobeMulti),          0),
    ("uretprobe.multi.s",      P::Kprobe,         Some(A::TraceUprobeMulti),          S),
    ("uretprobe.multi",        P::Kprobe,         Some(A::TraceUprobeMulti),          0),
    ("uprobe.session.s",       P::Kprobe,         Some(A::TraceUprobeSession),        S),
    ("uprobe.session",         P::Kprobe,         Some(A::TraceUprobeSession),        0),
    ("uprobe.s",               P::Kprobe,         None,                               S),
    ("uprobe",                 P::Kprobe,         None,                               0),
    ("uretprobe.s",            P::Kprobe,         None,                               S),
    ("uretprobe",              P::Kprobe,         None,                               0),
    ("ksyscall",               P::Kprobe,         None,                               0),
    ("kretsyscall",            P::Kprobe,         None,                               0),
    ("usdt.s",                 P::Kprobe,         None,                               S),
    ("usdt",                   P::Kprobe,         None,                               0),
    ("tc/ingress",             P::SchedCls,       Some(A::TcxIngress),                0),
    ("tc/egress",              P::SchedCls,       Some(A::TcxEgress),                 0),
    ("tcx/ingress",            P::SchedCls,       Some(A::TcxIngress),                0),
    ("tcx/egress",             P::SchedCls,       Some(A::TcxEgress),                 0),
    ("tc",                     P::SchedCls,       None,                               0),
    ("classifier",             P::SchedCls,       None,                               0),
    ("action",                 P::SchedAct,       None,                               0),
    ("netkit/primary",         P::SchedCls,       Some(A::NetkitPrimary),             0),
    ("netkit/peer",            P::SchedCls,       Some(A::NetkitPeer),                0),
    ("tracepoint",             P::Tracepoint,     None,                               0),
    ("tp",                     P::Tracepoint,     None,                               0),
    ("raw_tracepoint.w",       P::RawTracepointWritable, None,                        0),
    ("raw_tp.w",               P::RawTracepointWritable, None,                        0),
    ("raw_tracepoint",         P::RawTracepoint,  None,                               0),
    ("raw_tp",                 P::RawTracepoint,  None,                               0),
    ("tp_btf",                 P::Tracing,        Some(A::TraceRawTp),                0),
    ("fentry.s",               P::Tracing,        Some(A::TraceFentry),               S),
    ("fentry",                 P::Tracing,        Some(A::TraceFentry),               0),
    ("fmod_ret.s",             P::Tracing,        Some(A::ModifyReturn),              S),
    ("fmod_ret",               P::Tracing,        Some(A::ModifyReturn),              0),
    ("fexit.s",                P::Tracing,        Some(A::TraceFexit),                S),
    ("fexit",                  P::Tracing,        Some(A::TraceFexit),                0),
    ("freplace",               P::Ext,            None,                               0),
    ("lsm_cgroup",             P::Lsm,            Some(A::LsmCgroup),                 0),
    ("lsm.s",                  P::Lsm,            Some(A::LsmMac),                    S),
    ("lsm",                    P::Lsm,            Some(A::LsmMac),                    0),
    ("iter.s",                 P::Tracing,        Some(A::TraceIter),                 S),
    ("iter",                   P::Tracing,        Some(A::TraceIter),                 0),
    ("syscall",                P::Syscall,        None,                               S),
    ("xdp.frags/devmap",       P::Xdp,            Some(A::XdpDevmap),                 F),
    ("xdp/devmap",             P::Xdp,            Some(A::XdpDevmap),                 0),
    ("xdp_devmap",             P::Xdp,            Some(A::XdpDevmap),                 0),
    ("xdp.frags/cpumap",       P::Xdp,            Some(A::XdpCpumap),                 F),
    ("xdp/cpumap",             P::Xdp,            Some(A::XdpCpumap),                 0),
    ("xdp_cpumap",             P::Xdp,            Some(A::XdpCpumap),                 0),
    ("xdp.frags",              P::Xdp,            Some(A::Xdp),                       F),
    ("xdp",                    P::Xdp,            Some(A::Xdp),                       0),
    ("perf_event",             P::PerfEvent,      None,                               0),
    ("lwt_in",                 P::LwtIn,          None,                               0),
    ("lwt_out",                P::LwtOut,         None,                               0),
    ("lwt_xmit",               P::LwtXmit,        None,                               0),
    ("lwt_seg6local",          P::LwtSeg6local,   None,                               0),
    ("sockops",                P::SockOps,        Some(A::CgroupSockOps),             0),
    ("sk_skb/stream_parser",   P::SkSkb,          Some(A::SkSkbStreamParser),         0),
    ("sk_skb/stream_verdict",  P::SkSkb,          Some(A::SkSkbStreamVerdict),        0),
    ("sk_skb/verdict",         P::SkSkb,          Some(A::SkSkbVerdict),              0),
    ("sk_skb",                 P::SkSkb,          None,                               0),
    ("sk_msg",                 P::SkMsg,          Some(A::SkMsgVerdict),              0),
    ("lirc_mode2",             P::LircMode2,      Some(A::LircMode2),                 0),
    ("flow_dissector",         P::FlowDissector,  Some(A::FlowDissector),             0),
    ("cgroup_skb/ingress",     P::CgroupSkb,      Some(A::CgroupInetIngress),         0),
    ("cgroup_skb/egress",      P::CgroupSkb,      Some(A::CgroupInetEgress),          0),
    ("cgroup/skb",             P::CgroupSkb,      None,                               0),
    ("cgroup/sock_create",     P::CgroupSock,     Some(A::CgroupInetSockCreate),      0),
    ("cgroup/sock_release",    P::CgroupSock,     Some(A::CgroupInetSockRelease),     0),
    ("cgroup/sock",            P::CgroupSock,     Some(A::CgroupInetSockCreate),      0),
    ("cgroup/post_bind4",      P::CgroupSock,     Some(A::CgroupInet4PostBind),       0),
    ("cgroup/post_bind6",      P::CgroupSock,     Some(A::CgroupInet6PostBind),       0),
    ("cgroup/bind4",           P::CgroupSockAddr, Some(A::CgroupInet4Bind),           0),
    ("cgroup/bind6",           P::CgroupSockAddr, Some(A::CgroupInet6Bind),           0),
    ("cgroup/connect4",        P::CgroupSockAddr, Some(A::CgroupInet4Connect),        0),
    ("cgroup/connect6",        P::CgroupSockAddr, Some(A::CgroupInet6Connect),        0),
    ("cgroup/connect_unix",    P::CgroupSockAddr, Some(A::CgroupUnixConnect),         0),
    ("cgroup/sendmsg4",        P::CgroupSockAddr, Some(A::CgroupUdp4Sendmsg),         0),
    ("cgroup/sendmsg6",        P::CgroupSockAddr, Some(A::CgroupUdp6Sendmsg),         0),
    ("cgroup/sendmsg_unix",    P::CgroupSockAddr, Some(A::CgroupUnixSendmsg),         0),
    ("cgroup/recvmsg4",        P::CgroupSockAddr, Some(A::CgroupUdp4Recvmsg),         0),
    ("cgroup/recvmsg6",        P::CgroupSockAddr, Some(A::CgroupUdp6Recvmsg),         0),
    ("cgroup/recvmsg_unix",    P::CgroupSockAddr, Some(A::CgroupUnixRecvmsg),         0),
    ("cgroup/getpeername4",    P::CgroupSockAddr, Some(A::CgroupInet4Getpeername),    0),
    ("cgroup/getpeername6",    P::CgroupSockAddr, Some(A::CgroupInet6Getpeername),    0),
    ("cgroup/getpeername_unix", P::CgroupSockAddr, Some(A::CgroupUnixGetpeername),    0),
    ("cgroup/getsockname4",    P::CgroupSockAddr, Some(A::CgroupInet4Getsockname),    0),
    ("cgroup/getsockname6",    P::CgroupSockAddr, Some(A::CgroupInet6Getsockname),    0),
    ("cgroup/getsockname_unix", P::CgroupSockAddr, Some(A::CgroupUnixGetsockname),    0),
    ("cgroup/sysctl",          P::CgroupSysctl,   Some(A::CgroupSysctl),              0),
    ("cgroup/getsockopt",      P::CgroupSockopt,  Some(A::CgroupGetsockopt),          0),
    ("cgroup/setsockopt",      P::CgroupSockopt,  Some(A::CgroupSetsockopt),          0),
    ("cgroup/dev",             P::CgroupDevice,   Some(A::CgroupDevice),              0),
    ("struct_ops.s",           P::StructOps,      None,                               S),
    ("struct_ops",             P::StructOps,      None,                               0),
    ("sk_lookup",              P::SkLookup,       Some(A::SkLookup),                  0),
    ("netfilter",              P::Netfilter,      Some(A::Netfilter),                 0),
    ("plain",                  P::Plain,          None,                               0),
    ]
};

/// The program type that section `name` means; unspecified when no row fits.
///
/// A row fits the name itself, the name with `/…`, and, as old objects have it, the name with `_…`.
pub(crate) fn kind_of(name: &str) -> SectionKind {
    let name = name.strip_prefix('?').unwrap_or(name);
    let fits = |separators: &[char]| {
        TABLE.iter().find_map(|&(row, prog_type, attach_type, flags)| {
            let rest = name.strip_prefix(row)?;
            let target = match rest.strip_prefix(separators) {
                Some(target) => Some(target.to_owned()),
                None if rest.is_empty() => None,
                None => return None,
            };
            Some(SectionKind { prog_type, attach_type, flags, target })
        })
    };
    let unknown = SectionKind { prog_type: ProgType::Unspec, attach_type: None, flags: 0, target: None };
    fits(&['/']).or_else(|| fits(&['_', '-', '.', ':'])).unwrap_or(unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_mean_types() {
        let check = |name, prog_type, flags, target: Option<&str>| {
            let kind = kind_of(name);
            assert_eq!((kind.prog_type, kind.flags, kind.target.as_deref()), (prog_type, flags, target), "{name}");
        };
        check("xdp", ProgType::Xdp, 0, None);
        check("xdp.frags", ProgType::Xdp, prog_flags::XDP_HAS_FRAGS, None);
        check("xdp_pass", ProgType::Xdp, 0, Some("pass"));
        check("fentry.s/do_it", ProgType::Tracing, prog_flags::SLEEPABLE, Some("do_it"));
        check("tp/sched/sched_switch", ProgType::Tracepoint, 0, Some("sched/sched_switch"));
        check("?kprobe/x", ProgType::Kprobe, 0, Some("x"));
        check("2/1", ProgType::Unspec, 0, None);
    }
}
