//! Packets: socket buffers, XDP buffers, lightweight tunnels, checksums, routes, redirection.

use super::proto::Arg::*;
use super::proto::HelperProto;
use super::proto::Ret::Int;
use super::sets::*;
use crate::map_kind::MapKind;

#[rustfmt::skip]
pub(super) const ROWS: &[HelperProto] = &[
//       id  name                      arguments                                               result kinds of program; effects
    row(  9, "skb_store_bytes",         &[Ctx, Anything, read(4), size(3), Anything],           Int, TC_LWT_XMIT.and(SK_SKB)).moves_packet(),
    row( 10, "l3_csum_replace",         &[Ctx, Anything, Anything, Anything, Anything],         Int, TC_LWT_XMIT).moves_packet(),
    row( 11, "l4_csum_replace",         &[Ctx, Anything, Anything, Anything, Anything],         Int, TC_LWT_XMIT).moves_packet(),
    row( 13, "clone_redirect",          &[Ctx, Anything, Anything],                             Int, TC_LWT_XMIT).moves_packet(),
    row( 17, "get_cgroup_classid",      &[Ctx],                                                 Int, TC_LWT),
    row( 17, "get_cgroup_classid",      &[],                                                    Int, ALL.without(TC_LWT)),
    row( 18, "skb_vlan_push",           &[Ctx, Anything, Anything],                             Int, TC).moves_packet(),
    row( 19, "skb_vlan_pop",            &[Ctx],                                                 Int, TC).moves_packet(),
    row( 20, "skb_get_tunnel_key",      &[Ctx, write(3), size(2), Anything],                    Int, TC_LWT_XMIT),
    row( 21, "skb_set_tunnel_key",      &[Ctx, read(3), size(2), Anything],                     Int, TC_LWT_XMIT),
    row( 23, "redirect",                &[Anything, Anything],                                  Int, TC_XDP.and(LWT_XMIT)),
    row( 24, "get_route_realm",         &[Ctx],                                                 Int, TC_LWT),
    row( 26, "skb_load_bytes",          &[Ctx, Anything, write(4), size(3)],                    Int, SKB_READERS),
    row( 28, "csum_diff",               &[read_or_null(2), size0(1), read_or_null(4), size0(3), Anything], Int, TC_XDP.and(LWT)).takes_packet(),
    row( 29, "skb_get_tunnel_opt",      &[Ctx, write(3), size(2)],                              Int, TC_LWT_XMIT),
    row( 30, "skb_set_tunnel_opt",      &[Ctx, read(3), size(2)],                               Int, TC_LWT_XMIT),
    row( 31, "skb_change_proto",        &[Ctx, Anything, Anything],                             Int, TC).moves_packet(),
    row( 32, "skb_change_type",         &[Ctx, Anything],                                       Int, TC),
    row( 33, "skb_under_cgroup",        &[Ctx, Map(&[MapKind::CgroupArray]), Anything],         Int, TC_LWT),
    row( 34, "get_hash_recalc",         &[Ctx],                                                 Int, TC_LWT),
    row( 38, "skb_change_tail",         &[Ctx, Anything, Anything],                             Int, TC_LWT_XMIT.and(SK_SKB)).moves_packet(),
    row( 39, "skb_pull_data",           &[Ctx, Anything],                                       Int, TC_LWT.and(SK_SKB)).moves_packet(),
    row( 40, "csum_update",             &[Ctx, Anything],                                       Int, TC_LWT_XMIT),
    row( 41, "set_hash_invalid",        &[Ctx],                                                 Int, TC_LWT_XMIT),
    row( 43, "skb_change_head",         &[Ctx, Anything, Anything],                             Int, TC_LWT_XMIT.and(SK_SKB)).moves_packet(),
    row( 44, "xdp_adjust_head",         &[Ctx, Anything],                                       Int, XDP).moves_packet(),
    row( 48, "set_hash",                &[Ctx, Anything],                                       Int, TC),
    row( 50, "skb_adjust_room",         &[Ctx, Anything, Anything, Anything],                   Int, TC.and(SK_SKB)).moves_packet(),
    row( 51, "redirect_map",            &[Map(REDIRECT), Anything, Anything],                   Int, XDP),
    row( 54, "xdp_adjust_meta",         &[Ctx, Anything],                                       Int, XDP).moves_packet(),
    row( 65, "xdp_adjust_tail",         &[Ctx, Anything],                                       Int, XDP).moves_packet(),
    row( 66, "skb_get_xfrm_state",      &[Ctx, Anything, write(4), size(3), Anything],          Int, TC),
    row( 68, "skb_load_bytes_relative", &[Ctx, Anything, write(4), size(3), Anything],          Int, SKB_HEADERS),
    row( 69, "fib_lookup",              &[Ctx, update(3), size(2), Anything],                   Int, TC_XDP).gpl(),
    row( 73, "lwt_push_encap",          &[Ctx, Anything, read(4), size(3)],                     Int, LWT_ENCAP).moves_packet(),
    row( 74, "lwt_seg6_store_bytes",    &[Ctx, Anything, read(4), size(3)],                     Int, LWT_SEG6).moves_packet(),
    row( 75, "lwt_seg6_adjust_srh",     &[Ctx, Anything, Anything],                             Int, LWT_SEG6).moves_packet(),
    row( 76, "lwt_seg6_action",         &[Ctx, Anything, read(4), size(3)],                     Int, LWT_SEG6).moves_packet(),
    row( 79, "skb_cgroup_id",           &[Ctx],                                                 Int, TC_CGROUP_SKB),
    row( 83, "skb_ancestor_cgroup_id",  &[Ctx, Anything],                                       Int, TC_CGROUP_SKB),
    row( 97, "skb_ecn_set_ce",          &[Ctx],                                                 Int, TC_CGROUP_SKB),
    row(135, "csum_level",              &[Ctx, Anything],                                       Int, TC_LWT_XMIT),
    row(151, "skb_cgroup_classid",      &[Ctx],                                                 Int, TC),
    row(152, "redirect_neigh",          &[Anything, read_or_null(3), size0(2), Anything],       Int, TC),
    row(155, "redirect_peer",           &[Anything, Anything],                                  Int, TC),
    row(163, "check_mtu",               &[Ctx, Anything, update_number(4), Anything, Anything], Int, TC_XDP).gpl(),
    row(188, "xdp_get_buff_len",        &[Ctx],                                                 Int, XDP),
    row(188, "xdp_get_buff_len",        &[Btf("xdp_buff")],                                     Int, BTF_SYSCALL),
    row(189, "xdp_load_bytes",          &[Ctx, Anything, write(4), size(3)],                    Int, XDP),
    row(190, "xdp_store_bytes",         &[Ctx, Anything, read(4), size(3)],                     Int, XDP),
    row(192, "skb_set_tstamp",          &[Ctx, Anything, Anything],                             Int, TC),
];
