//! Contexts of cgroup hooks: socket addresses, options, sysctl, devices.

use super::rows::{ALL, BHW, BHWD, Row, W, WD, fields, layout, num, ptr};
use super::{CtxLayout, FieldKind};
use crate::prog_kind::{ProgKind as K, ProgKinds};

/// Hooks with an IPv4 address.
const IP4: ProgKinds = ProgKinds::of(&[
    K::SockAddrBind4,
    K::SockAddrConnect4,
    K::SockAddrSend4,
    K::SockAddrRecv4,
    K::SockAddrPeer4,
    K::SockAddrName4,
]);
/// Hooks with an IPv6 address.
const IP6: ProgKinds = ProgKinds::of(&[
    K::SockAddrBind6,
    K::SockAddrConnect6,
    K::SockAddrSend6,
    K::SockAddrRecv6,
    K::SockAddrPeer6,
    K::SockAddrName6,
]);
const SEND4: ProgKinds = ProgKinds::of(&[K::SockAddrSend4]);
const SEND6: ProgKinds = ProgKinds::of(&[K::SockAddrSend6]);

#[rustfmt::skip]
const SOCK_ADDR_ROWS: [Row; 10] = [
    num("user_family",  0,  4, W),
    num("user_ip4",     4,  4, BHW ).read_by(IP4).written(W, IP4),
    num("user_ip6",     8, 16, BHWD).read_by(IP6).written(WD, IP6),
    num("user_port",   24,  4, BHW ).written(W, ALL),
    num("family",      28,  4, W),
    num("type",        32,  4, W),
    num("protocol",    36,  4, W),
    num("msg_src_ip4", 40,  4, BHW ).read_by(SEND4).written(W, SEND4),
    num("msg_src_ip6", 44, 16, BHWD).read_by(SEND6).written(WD, SEND6),
    ptr("sk",          64,  8, FieldKind::Sock),
];

#[rustfmt::skip]
const SOCKOPT_ROWS: [Row; 7] = [
    ptr("sk",          0, 8, FieldKind::Sock),
    ptr("optval",      8, 8, FieldKind::PacketData),
    ptr("optval_end", 16, 8, FieldKind::PacketEnd),
    num("level",      24, 4, W).written(W, SET),
    num("optname",    28, 4, W).written(W, SET),
    num("optlen",     32, 4, W).written(W, ALL),
    num("retval",     36, 4, W).read_by(GET).written(W, GET),
];

const GET: ProgKinds = ProgKinds::of(&[K::SockoptGet]);
const SET: ProgKinds = ProgKinds::of(&[K::SockoptSet]);

#[rustfmt::skip]
const SYSCTL_ROWS: [Row; 2] = [
    num("write",    0, 4, BHW),
    num("file_pos", 4, 4, BHW).written(W, ALL),
];

#[rustfmt::skip]
const DEVICE_ROWS: [Row; 3] = [
    num("access_type", 0, 4, BHW),
    num("major",       4, 4, W),
    num("minor",       8, 4, W),
];

macro_rules! layouts {
    ($($name:ident = $structure:literal $size:literal $rows:ident $kind:ident;)*) => { $(
        pub(super) static $name: CtxLayout = layout($structure, $size, &const { fields(&$rows, $size, K::$kind) });
    )* };
}

layouts! {
    SOCK_ADDR4      = "bpf_sock_addr" 72 SOCK_ADDR_ROWS SockAddrBind4;
    SOCK_ADDR6      = "bpf_sock_addr" 72 SOCK_ADDR_ROWS SockAddrBind6;
    SOCK_ADDR_SEND4 = "bpf_sock_addr" 72 SOCK_ADDR_ROWS SockAddrSend4;
    SOCK_ADDR_SEND6 = "bpf_sock_addr" 72 SOCK_ADDR_ROWS SockAddrSend6;
    SOCK_ADDR_UNIX  = "bpf_sock_addr" 72 SOCK_ADDR_ROWS SockAddrConnectUnix;
    SOCKOPT_GET     = "bpf_sockopt" 40 SOCKOPT_ROWS SockoptGet;
    SOCKOPT_SET     = "bpf_sockopt" 40 SOCKOPT_ROWS SockoptSet;
    SYSCTL          = "bpf_sysctl" 8 SYSCTL_ROWS CgroupSysctl;
    DEVICE          = "bpf_cgroup_dev_ctx" 12 DEVICE_ROWS CgroupDevice;
}
