//! `struct __sk_buff`: the context of packet programs behind the network stack's socket buffer.

use super::rows::{BHW, BHWD, D, Row, W, fields, layout, num, ptr};
use super::{CtxLayout, FieldKind, Sizes};
use crate::prog_kind::{ProgKind, ProgKinds};
use crate::prog_type::ProgType as T;

const SIZE: u16 = 192;

const TC_KINDS: ProgKinds = ProgKinds::types(&[T::SchedCls, T::SchedAct]);
const CGROUP_KINDS: ProgKinds = ProgKinds::types(&[T::CgroupSkb]);
const LWT_KINDS: ProgKinds = ProgKinds::types(&[T::LwtIn, T::LwtOut, T::LwtXmit, T::LwtSeg6local]);
const SK_SKB_KINDS: ProgKinds = ProgKinds::types(&[T::SkSkb]);
const DISSECTOR: ProgKinds = ProgKinds::types(&[T::FlowDissector]);

/// A flow dissector sees packet pointers and its keys, nothing else.
const NOT_DISSECTOR: ProgKinds = ProgKinds::ALL.without(DISSECTOR);
const NOT_SK_SKB: ProgKinds = NOT_DISSECTOR.without(SK_SKB_KINDS);
/// Programs that may look at the packet through pointers.
const PACKET: ProgKinds = ProgKinds::ALL.without(ProgKinds::types(&[T::SocketFilter]));
/// Programs at a hook that knows the connection.
const FLOW: ProgKinds = CGROUP_KINDS.and(SK_SKB_KINDS);
const MARKERS: ProgKinds = TC_KINDS.and(CGROUP_KINDS).and(LWT_KINDS);
const PRIORITY: ProgKinds = MARKERS.and(SK_SKB_KINDS);
const TC_INDEX: ProgKinds = TC_KINDS.and(SK_SKB_KINDS);
const TC_CGROUP: ProgKinds = TC_KINDS.and(CGROUP_KINDS);

#[rustfmt::skip]
const ROWS: [Row; 34] = [
//      name               off size  reads                            readers                  writes by
    num("len",               0,  4, BHW                   ).read_by(NOT_DISSECTOR),
    num("pkt_type",          4,  4, BHW).kept(1)           .read_by(NOT_DISSECTOR),
    num("mark",              8,  4, BHW                   ).read_by(NOT_SK_SKB   ).written(W, MARKERS),
    num("queue_mapping",    12,  4, BHW).kept(2)           .read_by(NOT_DISSECTOR).written(W, TC_KINDS),
    num("protocol",         16,  4, BHW).kept(2)           .read_by(NOT_DISSECTOR),
    num("vlan_present",     20,  4, BHW                   ).read_by(NOT_DISSECTOR),
    num("vlan_tci",         24,  4, BHW).kept(2)           .read_by(NOT_DISSECTOR),
    num("vlan_proto",       28,  4, BHW).kept(2)           .read_by(NOT_DISSECTOR),
    num("priority",         32,  4, BHW                   ).read_by(NOT_DISSECTOR).written(W, PRIORITY),
    num("ingress_ifindex",  36,  4, BHW                   ).read_by(NOT_DISSECTOR),
    num("ifindex",          40,  4, BHW                   ).read_by(NOT_DISSECTOR),
    num("tc_index",         44,  4, BHW).kept(2)           .read_by(NOT_DISSECTOR).written(W, TC_INDEX),
    num("cb",               48, 20, BHWD                  ).read_by(NOT_DISSECTOR).written(BHWD, NOT_SK_SKB),
    num("hash",             68,  4, BHW                   ).read_by(NOT_DISSECTOR),
    num("tc_classid",       72,  4, BHW                   ).read_by(TC_KINDS     ).written(W, TC_KINDS),
    ptr("data",             76,  4, FieldKind::PacketData ).read_by(PACKET),
    ptr("data_end",         80,  4, FieldKind::PacketEnd  ).read_by(PACKET),
    num("napi_id",          84,  4, BHW                   ).read_by(NOT_DISSECTOR),
    num("family",           88,  4, BHW                   ).read_by(FLOW),
    num("remote_ip4",       92,  4, W                     ).read_by(FLOW),
    num("local_ip4",        96,  4, W                     ).read_by(FLOW),
    num("remote_ip6",      100, 16, W                     ).read_by(FLOW),
    num("local_ip6",       116, 16, W                     ).read_by(FLOW),
    num("remote_port",     132,  4, BHW                   ).read_by(FLOW),
    num("local_port",      136,  4, BHW                   ).read_by(FLOW),
    ptr("data_meta",       140,  4, FieldKind::PacketMeta ).read_by(TC_KINDS),
    ptr("flow_keys",       144,  8, FieldKind::FlowKeys   ).read_by(DISSECTOR),
    num("tstamp",          152,  8, D                     ).read_by(TC_CGROUP    ).written(D, TC_CGROUP),
    num("wire_len",        160,  4, BHW                   ).read_by(TC_KINDS),
    num("gso_segs",        164,  4, BHW                   ).read_by(NOT_DISSECTOR),
    ptr("sk",              168,  8, FieldKind::SockCommonOrNull).read_by(NOT_DISSECTOR),
    num("gso_size",        176,  4, BHW                   ).read_by(NOT_DISSECTOR),
    num("tstamp_type",     180,  1, Sizes(1)              ).read_by(TC_KINDS),
    num("hwtstamp",        184,  8, D                     ).read_by(TC_CGROUP),
];

macro_rules! kinds {
    ($($name:ident = $kind:ident;)*) => { $(
        pub(super) static $name: CtxLayout = layout("__sk_buff", SIZE, &const { fields(&ROWS, SIZE, ProgKind::$kind) });
    )* };
}

kinds! {
    SOCKET_FILTER = SocketFilter;
    TC = SchedCls;
    CGROUP = CgroupSkbIngress;
    LWT = LwtXmit;
    SK_SKB = SkSkbVerdict;
    FLOW_DISSECTOR = FlowDissector;
}
