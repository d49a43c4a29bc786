//! Sockets: `struct bpf_sock` as a context and as what pointers lead to, TCP and XDP sockets, and flow keys.

use super::rows::{ALL, BHW, D, Row, W, fields, layout, num};
use super::{CtxLayout, Narrow, OpenRange};
use crate::prog_kind::{ProgKind as K, ProgKinds};

const CREATE: ProgKinds = ProgKinds::of(&[K::CgroupSockCreate, K::CgroupSockRelease]);
const BIND4: ProgKinds = ProgKinds::of(&[K::CgroupSockPostBind4]);
const BIND6: ProgKinds = ProgKinds::of(&[K::CgroupSockPostBind6]);
/// `sk_msg_md.sk` leads to a full socket, `__sk_buff.sk` to the part that all sockets share: these two kinds stand for
/// everybody who holds such a pointer.
const FULL: ProgKinds = ProgKinds::of(&[K::SkMsg]);
const COMMON: ProgKinds = ProgKinds::of(&[K::SchedCls]);
const POINTERS: ProgKinds = FULL.and(COMMON);

#[rustfmt::skip]
const SOCK_ROWS: [Row; 14] = [
//      name               off size reads                          readers                                writes by
    num("bound_dev_if",      0,  4, W                     ).read_by(CREATE.and(POINTERS)           ).written(W, CREATE),
    num("family",            4,  4, BHW                   ).narrow(Narrow::Start),
    num("type",              8,  4, BHW                   ).narrow(Narrow::Start).read_by(ALL.without(COMMON)),
    num("protocol",         12,  4, BHW                   ).narrow(Narrow::Start).read_by(ALL.without(COMMON)),
    num("mark",             16,  4, W                     ).read_by(CREATE.and(FULL)               ).written(W, CREATE),
    num("priority",         20,  4, W                     ).read_by(CREATE.and(FULL)               ).written(W, CREATE),
    num("src_ip4",          24,  4, BHW                   ).read_by(BIND4.and(POINTERS)            ),
    num("src_ip6",          28, 16, BHW                   ).read_by(BIND6.and(POINTERS)            ),
    num("src_port",         44,  4, BHW                   ).narrow(Narrow::Start).read_by(ALL.without(CREATE)),
    num("dst_port",         48,  2, BHW                   ),
    num("dst_ip4",          52,  4, BHW                   ),
    num("dst_ip6",          56, 16, BHW                   ),
    num("state",            72,  4, BHW                   ).narrow(Narrow::Start),
    num("rx_queue_mapping", 76,  4, BHW                   ).narrow(Narrow::Start),
];

macro_rules! views {
    ($($(#[$doc:meta])* $vis:vis $name:ident = $kind:ident;)*) => { $(
        $(#[$doc])*
        $vis static $name: CtxLayout = layout("bpf_sock", 80, &const { fields(&SOCK_ROWS, 80, K::$kind) });
    )* };
}

views! {
    pub(super) CGROUP_SOCK_CREATE = CgroupSockCreate;
    pub(super) CGROUP_SOCK_BIND4 = CgroupSockPostBind4;
    pub(super) CGROUP_SOCK_BIND6 = CgroupSockPostBind6;
    /// Behind a pointer to a full socket.
    pub FULL_SOCK = SkMsg;
    /// Behind a pointer to the part that all sockets share.
    pub SOCK_COMMON = SchedCls;
}

#[rustfmt::skip]
const TCP_SOCK_ROWS: [Row; 26] = [
    num("snd_cwnd",           0, 4, W),
    num("srtt_us",            4, 4, W),
    num("rtt_min",            8, 4, W),
    num("snd_ssthresh",      12, 4, W),
    num("rcv_nxt",           16, 4, W),
    num("snd_nxt",           20, 4, W),
    num("snd_una",           24, 4, W),
    num("mss_cache",         28, 4, W),
    num("ecn_flags",         32, 4, W),
    num("rate_delivered",    36, 4, W),
    num("rate_interval_us",  40, 4, W),
    num("packets_out",       44, 4, W),
    num("retrans_out",       48, 4, W),
    num("total_retrans",     52, 4, W),
    num("segs_in",           56, 4, W),
    num("data_segs_in",      60, 4, W),
    num("segs_out",          64, 4, W),
    num("data_segs_out",     68, 4, W),
    num("lost_out",          72, 4, W),
    num("sacked_out",        76, 4, W),
    num("bytes_received",    80, 8, D),
    num("bytes_acked",       88, 8, D),
    num("dsack_dups",        96, 4, W),
    num("delivered",        100, 4, W),
    num("delivered_ce",     104, 4, W),
    num("icsk_retransmits", 108, 4, W),
];

/// Behind a pointer from `bpf_tcp_sock`.
pub static TCP_SOCK: CtxLayout = layout("bpf_tcp_sock", 112, &const { fields(&TCP_SOCK_ROWS, 112, K::SchedCls) });

const XDP_SOCK_ROWS: [Row; 1] = [num("queue_id", 0, 4, W)];

/// Behind a pointer from an xskmap lookup.
pub static XDP_SOCK: CtxLayout = layout("bpf_xdp_sock", 4, &const { fields(&XDP_SOCK_ROWS, 4, K::Xdp) });

/// Behind `__sk_buff.flow_keys`: plain memory.
pub static FLOW_KEYS: CtxLayout = CtxLayout {
    name: "bpf_flow_keys",
    size: 56,
    native_size: 56,
    fields: &[],
    open: Some(OpenRange { first: 0, end: 56, writable: true, aligned: false }),
};
