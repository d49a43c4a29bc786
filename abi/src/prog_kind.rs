//! Kinds of program: a program type, told apart by attach type and sleepable flag as far as Linux treats them apart.
//!
//! Sets of kinds say where a helper exists. Names are section names (`xdp/devmap`, `cgroup_sock_addr/bind4`); `.s` is the
//! sleepable flag and `.w` a writable raw tracepoint.

use std::fmt;

use crate::prog_type::AttachType::{self, *};
use crate::prog_type::ProgType;

macro_rules! kinds {
    ($($kind:ident $name:literal $prog:ident [$($attach:ident),*] $sleepable:literal;)*) => {
        /// A kind of program.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        #[allow(missing_docs)]
        pub enum ProgKind { $($kind,)* }

        const KINDS: &[KindRow] = &[
            $(KindRow { kind: ProgKind::$kind, name: $name, prog: ProgType::$prog, attach: &[$($attach),*], sleepable: $sleepable },)*
        ];
    };
}

struct KindRow {
    kind: ProgKind,
    name: &'static str,
    prog: ProgType,
    /// Expected attach types; empty where the type does not look at them.
    attach: &'static [AttachType],
    sleepable: bool,
}

// Within a program type, the first row with the right sleepable flag stands for attach types that no row names.
#[rustfmt::skip]
kinds! {
//  kind                name                                program type            attach types                                 sleepable
    SocketFilter        "socket_filter"                     SocketFilter            []                                           false;
    Kprobe              "kprobe"                            Kprobe                  []                                           false;
    KprobeMulti         "kprobe.multi"                      Kprobe                  [TraceKprobeMulti]                           false;
    KprobeSession       "kprobe.session"                    Kprobe                  [TraceKprobeSession]                         false;
    UprobeMulti         "uprobe.multi"                      Kprobe                  [TraceUprobeMulti, TraceUprobeSession]       false;
    UprobeSleepable     "uprobe.s"                          Kprobe                  []                                           true;
    SchedCls            "sched_cls"                         SchedCls                []                                           false;
    SchedAct            "sched_act"                         SchedAct                []                                           false;
    Tracepoint          "tracepoint"                        Tracepoint              []                                           false;
    Xdp                 "xdp"                               Xdp                     []                                           false;
    XdpDevmap           "xdp/devmap"                        Xdp                     [XdpDevmap]                                  false;
    XdpCpumap           "xdp/cpumap"                        Xdp                     [XdpCpumap]                                  false;
    PerfEvent           "perf_event"                        PerfEvent               []                                           false;
    CgroupSkbIngress    "cgroup_skb/ingress"                CgroupSkb               [CgroupInetIngress]                          false;
    CgroupSkbEgress     "cgroup_skb/egress"                 CgroupSkb               [CgroupInetEgress]                           false;
    CgroupSockCreate    "cgroup_sock/create"                CgroupSock              [CgroupInetSockCreate]                       false;
    CgroupSockRelease   "cgroup_sock/release"               CgroupSock              [CgroupInetSockRelease]                      false;
    CgroupSockPostBind4 "cgroup_sock/post_bind4"            CgroupSock              [CgroupInet4PostBind]                        false;
    CgroupSockPostBind6 "cgroup_sock/post_bind6"            CgroupSock              [CgroupInet6PostBind]                        false;
    LwtIn               "lwt_in"                            LwtIn                   []                                           false;
    LwtOut              "lwt_out"                           LwtOut                  []                                           false;
    LwtXmit             "lwt_xmit"                          LwtXmit                 []                                           false;
    SockOps             "sock_ops"                          SockOps                 []                                           false;
    SkSkbParser         "sk_skb/parser"                     SkSkb                   [SkSkbStreamParser]                          false;
    SkSkbVerdict        "sk_skb/verdict"                    SkSkb                   [SkSkbStreamVerdict, SkSkbVerdict]           false;
    CgroupDevice        "cgroup_device"                     CgroupDevice            []                                           false;
    SkMsg               "sk_msg"                            SkMsg                   []                                           false;
    RawTp               "raw_tp"                            RawTracepoint           []                                           false;
    SockAddrBind4       "cgroup_sock_addr/bind4"            CgroupSockAddr          [CgroupInet4Bind]                            false;
    SockAddrBind6       "cgroup_sock_addr/bind6"            CgroupSockAddr          [CgroupInet6Bind]                            false;
    SockAddrConnect4    "cgroup_sock_addr/connect4"         CgroupSockAddr          [CgroupInet4Connect]                         false;
    SockAddrConnect6    "cgroup_sock_addr/connect6"         CgroupSockAddr          [CgroupInet6Connect]                         false;
    SockAddrConnectUnix "cgroup_sock_addr/connect_unix"     CgroupSockAddr          [CgroupUnixConnect]                          false;
    SockAddrSend4       "cgroup_sock_addr/sendmsg4"         CgroupSockAddr          [CgroupUdp4Sendmsg]                          false;
    SockAddrSend6       "cgroup_sock_addr/sendmsg6"         CgroupSockAddr          [CgroupUdp6Sendmsg]                          false;
    SockAddrSendUnix    "cgroup_sock_addr/sendmsg_unix"     CgroupSockAddr          [CgroupUnixSendmsg]                          false;
    SockAddrRecv4       "cgroup_sock_addr/recvmsg4"         CgroupSockAddr          [CgroupUdp4Recvmsg]                          false;
    SockAddrRecv6       "cgroup_sock_addr/recvmsg6"         CgroupSockAddr          [CgroupUdp6Recvmsg]                          false;
    SockAddrRecvUnix    "cgroup_sock_addr/recvmsg_unix"     CgroupSockAddr          [CgroupUnixRecvmsg]                          false;
    SockAddrPeer4       "cgroup_sock_addr/getpeername4"     CgroupSockAddr          [CgroupInet4Getpeername]                     false;
    SockAddrPeer6       "cgroup_sock_addr/getpeername6"     CgroupSockAddr          [CgroupInet6Getpeername]                     false;
    SockAddrPeerUnix    "cgroup_sock_addr/getpeername_unix" CgroupSockAddr          [CgroupUnixGetpeername]                      false;
    SockAddrName4       "cgroup_sock_addr/getsockname4"     CgroupSockAddr          [CgroupInet4Getsockname]                     false;
    SockAddrName6       "cgroup_sock_addr/getsockname6"     CgroupSockAddr          [CgroupInet6Getsockname]                     false;
    SockAddrNameUnix    "cgroup_sock_addr/getsockname_unix" CgroupSockAddr          [CgroupUnixGetsockname]                      false;
    LwtSeg6             "lwt_seg6local"                     LwtSeg6local            []                                           false;
    Lirc                "lirc_mode2"                        LircMode2               []                                           false;
    ReuseportSelect     "sk_reuseport/select"               SkReuseport             [SkReuseportSelect]                          false;
    ReuseportMigrate    "sk_reuseport/migrate"              SkReuseport             [SkReuseportSelectOrMigrate]                 false;
    FlowDissector       "flow_dissector"                    FlowDissector           []                                           false;
    CgroupSysctl        "cgroup_sysctl"                     CgroupSysctl            []                                           false;
    RawTpWritable       "raw_tp.w"                          RawTracepointWritable   []                                           false;
    SockoptGet          "cgroup_sockopt/get"                CgroupSockopt           [CgroupGetsockopt]                           false;
    SockoptSet          "cgroup_sockopt/set"                CgroupSockopt           [CgroupSetsockopt]                           false;
    TpBtf               "tp_btf"                            Tracing                 [TraceRawTp]                                 false;
    Fentry              "fentry"                            Tracing                 [TraceFentry]                                false;
    Fexit               "fexit"                             Tracing                 [TraceFexit]                                 false;
    FmodRet             "fmod_ret"                          Tracing                 [ModifyReturn]                               false;
    FentrySleepable     "fentry.s"                          Tracing                 [TraceFentry]                                true;
    FexitSleepable      "fexit.s"                           Tracing                 [TraceFexit]                                 true;
    FmodRetSleepable    "fmod_ret.s"                        Tracing                 [ModifyReturn]                               true;
    IterTask            "iter/task"                         Tracing                 [TraceIter]                                  false;
    IterTaskSleepable   "iter/task.s"                       Tracing                 [TraceIter]                                  true;
    IterTcp             "iter/tcp"                          Tracing                 [TraceIter]                                  false;
    IterMapElem         "iter/bpf_map_elem"                 Tracing                 [TraceIter]                                  false;
    IterSkStorage       "iter/bpf_sk_storage_map"           Tracing                 [TraceIter]                                  false;
    TcpCc               "struct_ops/tcp_cc"                 StructOps               []                                           false;
    SchedExt            "struct_ops/sched_ext"              StructOps               []                                           false;
    Qdisc               "struct_ops/qdisc"                  StructOps               []                                           false;
    Lsm                 "lsm"                               Lsm                     [LsmMac]                                     false;
    LsmSleepable        "lsm.s"                             Lsm                     [LsmMac]                                     true;
    LsmSocket           "lsm/socket"                        Lsm                     [LsmMac]                                     false;
    LsmCgroup           "lsm_cgroup"                        Lsm                     [LsmCgroup]                                  false;
    SkLookup            "sk_lookup"                         SkLookup                []                                           false;
    Syscall             "syscall"                           Syscall                 []                                           true;
    Netfilter           "netfilter"                         Netfilter               []                                           false;
    Ext                 "freplace"                          Ext                     []                                           false;
    Plain               "plain"                             Plain                   []                                           false;
}

const KIND_COUNT: usize = KINDS.len();

/// Where the rows of each program type begin and end; they stand together. Plain, whose number is large, comes last.
static RANGES: [(u8, u8); PLAIN + 1] = ranges();
const PLAIN: usize = ProgType::Netfilter as usize + 1;

const fn place(prog: ProgType) -> usize {
    if matches!(prog, ProgType::Plain) { PLAIN } else { prog as usize }
}

const fn ranges() -> [(u8, u8); PLAIN + 1] {
    let mut ranges = [(0, 0); PLAIN + 1];
    let mut i = 0;
    while i < KIND_COUNT {
        let at = place(KINDS[i].prog);
        if ranges[at].1 == 0 {
            ranges[at].0 = i as u8;
        } else {
            assert!(ranges[at].1 as usize == i, "rows of one program type stand together");
        }
        ranges[at].1 = i as u8 + 1;
        i += 1;
    }
    ranges
}

const _: () = assert!(KIND_COUNT <= 128, "a set of kinds is 128 bits");

impl ProgKind {
    /// Every kind, in table order.
    pub fn all() -> impl Iterator<Item = ProgKind> {
        KINDS.iter().map(|row| row.kind)
    }

    /// The kind of a program with this type, expected attach type (`None` is 0) and sleepable flag.
    ///
    /// Kinds that differ by BTF target (iterators, struct_ops members) are named by their first row. `None` for
    /// [`ProgType::Unspec`] only.
    pub fn of(prog: ProgType, attach: Option<AttachType>, sleepable: bool) -> Option<ProgKind> {
        let (first, end) = RANGES[place(prog)];
        let of_type = &KINDS[usize::from(first)..usize::from(end)];
        let exact = |row: &&KindRow| row.sleepable == sleepable && attach.is_some_and(|a| row.attach.contains(&a));
        of_type
            .iter()
            .find(exact)
            .or_else(|| of_type.iter().find(|row| row.sleepable == sleepable))
            .or_else(|| of_type.first())
            .map(|row| row.kind)
    }

    const fn row(self) -> &'static KindRow {
        &KINDS[self as usize]
    }

    /// Its name.
    pub const fn name(self) -> &'static str {
        self.row().name
    }

    /// Its program type.
    pub const fn prog_type(self) -> ProgType {
        self.row().prog
    }

    /// Its attach types; none where the type does not look at them.
    pub const fn attach_types(self) -> &'static [AttachType] {
        self.row().attach
    }

    /// Whether programs of this kind may sleep.
    pub const fn is_sleepable(self) -> bool {
        self.row().sleepable
    }

    /// The kind with this name.
    pub fn from_name(name: &str) -> Option<ProgKind> {
        KINDS.iter().find(|row| row.name == name).map(|row| row.kind)
    }
}

impl fmt::Display for ProgKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of kinds.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProgKinds(u128);

impl ProgKinds {
    /// None.
    pub const NONE: ProgKinds = ProgKinds(0);
    /// Every kind.
    pub const ALL: ProgKinds = ProgKinds(u128::MAX >> (128 - KIND_COUNT));

    /// The set of these kinds.
    pub const fn of(kinds: &[ProgKind]) -> ProgKinds {
        let mut bits = 0;
        let mut i = 0;
        while i < kinds.len() {
            bits |= 1 << kinds[i] as u32;
            i += 1;
        }
        ProgKinds(bits)
    }

    /// Every kind of these program types.
    pub const fn types(types: &[ProgType]) -> ProgKinds {
        let mut bits = 0;
        let mut kind = 0;
        while kind < KIND_COUNT {
            let mut i = 0;
            while i < types.len() {
                if KINDS[kind].prog.number() == types[i].number() {
                    bits |= 1 << kind;
                }
                i += 1;
            }
            kind += 1;
        }
        ProgKinds(bits)
    }

    /// Kinds in either.
    pub const fn and(self, other: ProgKinds) -> ProgKinds {
        ProgKinds(self.0 | other.0)
    }

    /// Kinds here and not in `other`.
    pub const fn without(self, other: ProgKinds) -> ProgKinds {
        ProgKinds(self.0 & !other.0)
    }

    /// Whether `kind` is in the set.
    pub const fn has(self, kind: ProgKind) -> bool {
        self.0 >> kind as u32 & 1 != 0
    }

    /// Whether the sets share a kind.
    pub const fn meets(self, other: ProgKinds) -> bool {
        self.0 & other.0 != 0
    }

    /// The kinds in the set, in table order.
    pub fn iter(self) -> impl Iterator<Item = ProgKind> {
        ProgKind::all().filter(move |&kind| self.has(kind))
    }
}

impl fmt::Debug for ProgKinds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(ProgKind::name)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(prog: ProgType, attach: Option<AttachType>, sleepable: bool, name: &str) {
        assert_eq!(ProgKind::of(prog, attach, sleepable).map(ProgKind::name), Some(name));
    }

    #[test]
    fn rows_stand_in_the_order_of_the_enum() {
        for (i, row) in KINDS.iter().enumerate() {
            assert_eq!(row.kind as usize, i, "{}", row.name);
            assert_eq!(ProgKind::from_name(row.name), Some(row.kind));
        }
    }

    #[test]
    fn attach_type_and_sleepable_choose_the_kind() {
        check(ProgType::Xdp, None, false, "xdp");
        check(ProgType::Xdp, Some(AttachType::XdpCpumap), false, "xdp/cpumap");
        check(ProgType::Xdp, Some(AttachType::Xdp), false, "xdp");
        check(ProgType::SchedCls, Some(AttachType::TcxIngress), false, "sched_cls");
        check(ProgType::Kprobe, None, true, "uprobe.s");
        check(ProgType::Kprobe, Some(AttachType::TraceKprobeMulti), false, "kprobe.multi");
        check(ProgType::CgroupSkb, None, false, "cgroup_skb/ingress");
        check(ProgType::CgroupSockAddr, Some(AttachType::CgroupUdp6Sendmsg), false, "cgroup_sock_addr/sendmsg6");
        check(ProgType::Tracing, Some(AttachType::TraceIter), true, "iter/task.s");
        check(ProgType::Syscall, None, true, "syscall");
        check(ProgType::Syscall, None, false, "syscall");
        assert_eq!(ProgKind::of(ProgType::Unspec, None, false), None);
    }

    #[test]
    fn every_program_type_has_a_kind() {
        for &prog in ProgType::ALL {
            assert_eq!(ProgKind::of(prog, None, false).is_some(), prog != ProgType::Unspec, "{}", prog.name());
        }
    }

    #[test]
    fn sets_union_and_subtract() {
        let xdp = ProgKinds::types(&[ProgType::Xdp]);
        assert_eq!(xdp, ProgKinds::of(&[ProgKind::Xdp, ProgKind::XdpDevmap, ProgKind::XdpCpumap]));
        assert!(ProgKinds::ALL.without(xdp).has(ProgKind::Plain));
        assert!(!ProgKinds::ALL.without(xdp).meets(xdp));
        assert_eq!(ProgKinds::NONE.and(xdp).iter().count(), 3);
    }
}
