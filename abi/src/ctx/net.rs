//! Contexts of XDP, socket operations, messages, socket selection and netfilter.

use super::rows::{BH, BHW, D, HW, Row, W, fields, layout, num, ptr};
use super::{CtxLayout, FieldKind, Narrow};
use crate::prog_kind::{ProgKind, ProgKinds};

const DEVMAP: ProgKinds = ProgKinds::of(&[ProgKind::XdpDevmap]);
const SOCK_OPS_KINDS: ProgKinds = ProgKinds::of(&[ProgKind::SockOps]);

#[rustfmt::skip]
const XDP_ROWS: [Row; 6] = [
    ptr("data",             0, 4, FieldKind::PacketData),
    ptr("data_end",         4, 4, FieldKind::PacketEnd),
    ptr("data_meta",        8, 4, FieldKind::PacketMeta),
    num("ingress_ifindex", 12, 4, W),
    num("rx_queue_index",  16, 4, W),
    num("egress_ifindex",  20, 4, W).read_by(DEVMAP),
];

pub(super) static XDP: CtxLayout = layout("xdp_md", 24, &const { fields(&XDP_ROWS, 24, ProgKind::Xdp) });
pub(super) static XDP_DEVMAP: CtxLayout = layout("xdp_md", 24, &const { fields(&XDP_ROWS, 24, ProgKind::XdpDevmap) });

#[rustfmt::skip]
const SOCK_OPS_ROWS: [Row; 42] = [
    num("op",                     0,  4, W),
    num("reply",                  4,  4, W).written(W, SOCK_OPS_KINDS),
    num("args",                   8, 12, W),
    num("family",                20,  4, W),
    num("remote_ip4",            24,  4, W),
    num("local_ip4",             28,  4, W),
    num("remote_ip6",            32, 16, W),
    num("local_ip6",             48, 16, W),
    num("remote_port",           64,  4, W),
    num("local_port",            68,  4, W),
    num("is_fullsock",           72,  4, W),
    num("snd_cwnd",              76,  4, W),
    num("srtt_us",               80,  4, W),
    num("bpf_sock_ops_cb_flags", 84,  4, W),
    num("state",                 88,  4, W),
    num("rtt_min",               92,  4, W),
    num("snd_ssthresh",          96,  4, W),
    num("rcv_nxt",              100,  4, W),
    num("snd_nxt",              104,  4, W),
    num("snd_una",              108,  4, W),
    num("mss_cache",            112,  4, W),
    num("ecn_flags",            116,  4, W),
    num("rate_delivered",       120,  4, W),
    num("rate_interval_us",     124,  4, W),
    num("packets_out",          128,  4, W),
    num("retrans_out",          132,  4, W),
    num("total_retrans",        136,  4, W),
    num("segs_in",              140,  4, W),
    num("data_segs_in",         144,  4, W),
    num("segs_out",             148,  4, W),
    num("data_segs_out",        152,  4, W),
    num("lost_out",             156,  4, W),
    num("sacked_out",           160,  4, W),
    num("sk_txhash",            164,  4, W).written(W, SOCK_OPS_KINDS),
    num("bytes_received",       168,  8, D),
    num("bytes_acked",          176,  8, D),
    ptr("sk",                   184,  8, FieldKind::SockOrNull),
    ptr("skb_data",             192,  8, FieldKind::PacketData),
    ptr("skb_data_end",         200,  8, FieldKind::PacketEnd),
    num("skb_len",              208,  4, W),
    num("skb_tcp_flags",        212,  4, BHW).narrow(Narrow::Start),
    num("skb_hwtstamp",         216,  8, D),
];

pub(super) static SOCK_OPS: CtxLayout =
    layout("bpf_sock_ops", 224, &const { fields(&SOCK_OPS_ROWS, 224, ProgKind::SockOps) });

#[rustfmt::skip]
const SK_MSG_ROWS: [Row; 11] = [
    ptr("data",         0,  8, FieldKind::PacketData),
    ptr("data_end",     8,  8, FieldKind::PacketEnd),
    num("family",      16,  4, W),
    num("remote_ip4",  20,  4, W),
    num("local_ip4",   24,  4, W),
    num("remote_ip6",  28, 16, W),
    num("local_ip6",   44, 16, W),
    num("remote_port", 60,  4, W),
    num("local_port",  64,  4, W),
    num("size",        68,  4, W),
    ptr("sk",          72,  8, FieldKind::Sock),
];

pub(super) static SK_MSG: CtxLayout = layout("sk_msg_md", 80, &const { fields(&SK_MSG_ROWS, 80, ProgKind::SkMsg) });

#[rustfmt::skip]
const SK_LOOKUP_ROWS: [Row; 11] = [
    ptr("sk",               0,  8, FieldKind::SockOrNull),
    num("family",           8,  4, BHW),
    num("protocol",        12,  4, BHW),
    num("remote_ip4",      16,  4, BHW),
    num("remote_ip6",      20, 16, BHW),
    num("remote_port",     36,  2, BHW),
    num("",                38,  2, BH),
    num("local_ip4",       40,  4, BHW),
    num("local_ip6",       44, 16, BHW),
    num("local_port",      60,  4, BHW),
    num("ingress_ifindex", 64,  4, BHW),
];

pub(super) static SK_LOOKUP: CtxLayout =
    layout("bpf_sk_lookup", 68, &const { fields(&SK_LOOKUP_ROWS, 68, ProgKind::SkLookup) });

#[rustfmt::skip]
const REUSEPORT_ROWS: [Row; 9] = [
    ptr("data",          0, 8, FieldKind::PacketData),
    ptr("data_end",      8, 8, FieldKind::PacketEnd),
    num("len",          16, 4, BHW),
    num("eth_protocol", 20, 4, HW),
    num("ip_protocol",  24, 4, BHW),
    num("bind_inany",   28, 4, BHW),
    num("hash",         32, 4, W),
    ptr("sk",           40, 8, FieldKind::Sock),
    ptr("migrating_sk", 48, 8, FieldKind::SockCommonOrNull),
];

pub(super) static REUSEPORT: CtxLayout =
    layout("sk_reuseport_md", 56, &const { fields(&REUSEPORT_ROWS, 56, ProgKind::ReuseportSelect) });

#[rustfmt::skip]
const NETFILTER_ROWS: [Row; 2] = [
    ptr("state", 0, 8, FieldKind::Btf("nf_hook_state")),
    ptr("skb",   8, 8, FieldKind::Btf("sk_buff")),
];

pub(super) static NETFILTER: CtxLayout =
    layout("bpf_nf_ctx", 16, &const { fields(&NETFILTER_ROWS, 16, ProgKind::Netfilter) });
