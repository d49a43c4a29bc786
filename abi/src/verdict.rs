//! What a program's return value means to whoever runs it (`linux/bpf.h`, `linux/pkt_cls.h`).

use crate::prog_type::ProgType;

/// What becomes of the packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It goes on.
    Forwarded,
    /// It is gone.
    Dropped,
}

/// One verdict: value, name, fate.
pub type Verdict = (i32, &'static str, Fate);

use Fate::{Dropped, Forwarded};

#[rustfmt::skip]
const XDP: &[Verdict] = &[
    (0, "XDP_ABORTED",  Dropped),
    (1, "XDP_DROP",     Dropped),
    (2, "XDP_PASS",     Forwarded),
    (3, "XDP_TX",       Forwarded),
    (4, "XDP_REDIRECT", Forwarded),
];

#[rustfmt::skip]
const TC: &[Verdict] = &[
    (-1, "TC_ACT_UNSPEC",     Forwarded),
    (0,  "TC_ACT_OK",         Forwarded),
    (1,  "TC_ACT_RECLASSIFY", Forwarded),
    (2,  "TC_ACT_SHOT",       Dropped),
    (3,  "TC_ACT_PIPE",       Forwarded),
    (4,  "TC_ACT_STOLEN",     Dropped),
    (5,  "TC_ACT_QUEUED",     Dropped),
    (6,  "TC_ACT_REPEAT",     Forwarded),
    (7,  "TC_ACT_REDIRECT",   Forwarded),
    (8,  "TC_ACT_TRAP",       Dropped),
];

#[rustfmt::skip]
const LWT: &[Verdict] = &[
    (0,   "BPF_OK",          Forwarded),
    (2,   "BPF_DROP",        Dropped),
    (7,   "BPF_REDIRECT",    Forwarded),
    (128, "BPF_LWT_REROUTE", Forwarded),
];

const SK: &[Verdict] = &[(0, "SK_DROP", Dropped), (1, "SK_PASS", Forwarded)];

const CGROUP: &[Verdict] = &[(0, "deny", Dropped), (1, "allow", Forwarded)];

const NETFILTER: &[Verdict] = &[(0, "NF_DROP", Dropped), (1, "NF_ACCEPT", Forwarded)];

const DISSECTOR: &[Verdict] =
    &[(0, "BPF_OK", Forwarded), (2, "BPF_DROP", Dropped), (129, "BPF_FLOW_DISSECTOR_CONTINUE", Forwarded)];

/// The verdicts of a program type; empty where a return value is only a number.
pub fn verdicts(prog_type: ProgType) -> &'static [Verdict] {
    match prog_type {
        ProgType::Xdp => XDP,
        ProgType::SchedCls | ProgType::SchedAct => TC,
        ProgType::LwtIn | ProgType::LwtOut | ProgType::LwtXmit | ProgType::LwtSeg6local => LWT,
        ProgType::SkSkb | ProgType::SkMsg | ProgType::SkLookup | ProgType::SkReuseport => SK,
        ProgType::CgroupSkb
        | ProgType::CgroupSock
        | ProgType::CgroupSockAddr
        | ProgType::CgroupDevice
        | ProgType::CgroupSysctl
        | ProgType::CgroupSockopt => CGROUP,
        ProgType::Netfilter => NETFILTER,
        ProgType::FlowDissector => DISSECTOR,
        ProgType::Unspec
        | ProgType::SocketFilter
        | ProgType::Kprobe
        | ProgType::Tracepoint
        | ProgType::PerfEvent
        | ProgType::SockOps
        | ProgType::RawTracepoint
        | ProgType::LircMode2
        | ProgType::RawTracepointWritable
        | ProgType::Tracing
        | ProgType::StructOps
        | ProgType::Ext
        | ProgType::Lsm
        | ProgType::Syscall
        | ProgType::Plain => &[],
    }
}

/// The verdict behind a return value, where the type has a name for it.
pub fn verdict(prog_type: ProgType, value: u32) -> Option<Verdict> {
    verdicts(prog_type).iter().copied().find(|(number, ..)| *number == value as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_names() {
        assert_eq!(verdict(ProgType::Xdp, 2), Some((2, "XDP_PASS", Forwarded)));
        assert_eq!(verdict(ProgType::SchedCls, u32::MAX), Some((-1, "TC_ACT_UNSPEC", Forwarded)));
        assert_eq!(verdict(ProgType::Kprobe, 0), None);
    }
}
