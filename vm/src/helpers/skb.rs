//! Packets behind a socket buffer (bpf-helpers(7)); behaviour at the edges was measured on Linux 6.18.

use rtbpf_abi::Errno;

use super::native::Cx;
use super::status;
use crate::ctx::Ctx;
use crate::packet::Packet;

/// The longest packet that the helpers make: four pages, less the bookkeeping behind the bytes.
const MAX_LEN: usize = 16_384 - 320;
/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;
/// The largest change of room.
const MAX_ROOM: u64 = 0xfff;
/// `BPF_F_RECOMPUTE_CSUM` and `BPF_F_INVALIDATE_HASH`.
const STORE_FLAGS: u64 = 3;
/// The flags of `skb_adjust_room` that exist.
const ROOM_FLAGS: u64 = 0xff_0000_0000_01ff;

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const VLAN: u16 = 0x8100;
const VLAN_AD: u16 = 0x88a8;

fn packet<'a>(cx: &'a mut Cx<'_>) -> Result<&'a mut Packet, Errno> {
    cx.host().ctx.packet_mut().ok_or(Errno::EINVAL)
}

/// Where the network header lies.
fn network_offset(ctx: &Ctx) -> usize {
    if ctx.hides_ethernet() { 0 } else { ETHERNET }
}

/// The ethertype that the context names.
fn protocol(ctx: &Ctx) -> u16 {
    (ctx.field_value("protocol") as u16).swap_bytes()
}

/// Copies packet bytes at `at` to argument 3; what cannot be read is zeroed.
fn load(cx: &mut Cx<'_>, at: Option<usize>) -> u64 {
    let len = cx.arg(4) as u32 as usize;
    let mut bytes = vec![0; len];
    let read = at.is_some_and(|at| packet(cx).is_ok_and(|packet| packet.read(at, &mut bytes)));
    cx.write(3, len, &bytes);
    status(if read { Ok(()) } else { Err(Errno::EFAULT) })
}

/// An offset that Linux takes: a non-negative 32-bit number.
fn offset(value: u64) -> Option<usize> {
    usize::try_from(value as u32 as i32).ok()
}

pub(crate) fn load_bytes(cx: &mut Cx<'_>) -> u64 {
    let at = offset(cx.arg(2));
    load(cx, at)
}

pub(crate) fn load_bytes_relative(cx: &mut Cx<'_>) -> u64 {
    let at = offset(cx.arg(2)).filter(|at| *at <= 0xffff);
    let network = network_offset(&cx.host().ctx);
    let at = match cx.arg(5) as u32 {
        // From the link-layer header: only where the packet still has it.
        0 if network != 0 => at,
        1 => at.map(|at| at + network),
        _ => None,
    };
    load(cx, at)
}

pub(crate) fn store_bytes(cx: &mut Cx<'_>) -> u64 {
    let len = cx.arg(4) as u32 as usize;
    if cx.arg(5) & !STORE_FLAGS != 0 {
        return Errno::EINVAL.as_ret();
    }
    let bytes = cx.copied(3, len);
    let at = offset(cx.arg(2));
    let written = at.is_some_and(|at| packet(cx).is_ok_and(|packet| packet.write(at, &bytes)));
    status(if written { Ok(()) } else { Err(Errno::EFAULT) })
}

pub(crate) fn pull_data(cx: &mut Cx<'_>) -> u64 {
    let len = cx.arg(2) as u32 as usize;
    status(packet(cx).and_then(|packet| {
        if len > packet.len() {
            return Err(Errno::ENOMEM);
        }
        packet.set_linear(packet.linear_len().max(len));
        Ok(())
    }))
}

pub(crate) fn change_tail(cx: &mut Cx<'_>) -> u64 {
    let (len, flags) = (cx.arg(2) as u32 as usize, cx.arg(3));
    let least = network_offset(&cx.host().ctx);
    let changed = packet(cx).and_then(|packet| {
        if flags != 0 || len > MAX_LEN || len < least {
            return Err(Errno::EINVAL);
        }
        packet.set_linear(usize::MAX);
        if packet.set_len(len, true) { Ok(()) } else { Err(Errno::ENOMEM) }
    });
    cx.host().ctx.skb_changed();
    status(changed)
}

pub(crate) fn change_head(cx: &mut Cx<'_>) -> u64 {
    let (room, flags) = (cx.arg(2) as u32 as usize, cx.arg(3));
    let changed = packet(cx).and_then(|packet| {
        if flags != 0 || room > MAX_LEN || packet.len() + room > MAX_LEN {
            return Err(Errno::EINVAL);
        }
        if packet.resize_at(0, room as i64) { Ok(()) } else { Err(Errno::ENOMEM) }
    });
    cx.host().ctx.skb_changed();
    status(changed)
}

pub(crate) fn adjust_room(cx: &mut Cx<'_>) -> u64 {
    let (diff, mode, flags) = (cx.arg(2) as i32 as i64, cx.arg(3) as u32, cx.arg(4));
    let ctx = &cx.host().ctx;
    let network = network_offset(ctx);
    let header = match protocol(ctx) {
        IPV4 => 20,
        IPV6 => 40,
        _ => return Errno::ENOTSUPP.as_ret(),
    };
    let at = match mode {
        0 => network + header,
        1 => network,
        _ => return Errno::ENOTSUPP.as_ret(),
    };
    let changed = packet(cx).and_then(|packet| {
        if flags & !ROOM_FLAGS != 0 {
            return Err(Errno::EINVAL);
        }
        if diff.unsigned_abs() > MAX_ROOM {
            return Err(Errno::EFAULT);
        }
        let behind = packet.len() as i64 - network as i64;
        if diff < 0 && behind + diff < header as i64 || packet.len() as i64 + diff > MAX_LEN as i64 {
            return Err(Errno::ENOTSUPP);
        }
        if packet.resize_at(at, diff) { Ok(()) } else { Err(Errno::ENOMEM) }
    });
    cx.host().ctx.skb_changed();
    status(changed)
}

pub(crate) fn change_proto(cx: &mut Cx<'_>) -> u64 {
    let (to, flags) = ((cx.arg(2) as u16).swap_bytes(), cx.arg(3));
    let ctx = &cx.host().ctx;
    let (network, from) = (network_offset(ctx), protocol(ctx));
    let diff = match (from, to) {
        (IPV4, IPV6) => 20,
        (IPV6, IPV4) => -20,
        _ => return Errno::ENOTSUPP.as_ret(),
    };
    let changed = packet(cx).and_then(|packet| {
        if flags != 0 {
            return Err(Errno::EINVAL);
        }
        if packet.resize_at(network, diff) { Ok(()) } else { Err(Errno::ENOMEM) }
    });
    let ctx = &mut cx.host().ctx;
    if changed.is_ok() {
        ctx.set_field("protocol", to.swap_bytes() as u64);
        ctx.set_field("hash", 0);
    }
    ctx.skb_changed();
    status(changed)
}

pub(crate) fn change_type(cx: &mut Cx<'_>) -> u64 {
    let to = cx.arg(2) as u32 as u64;
    let ctx = &mut cx.host().ctx;
    // Host, broadcast, multicast and other host; nothing else may become or stop being one of these.
    if to > 3 || ctx.field_value("pkt_type") > 3 {
        return Errno::EINVAL.as_ret();
    }
    ctx.set_field("pkt_type", to);
    0
}

/// Moves the tag of the context into the packet's bytes, if it has one.
fn push_tag(ctx: &mut Ctx) -> Result<(), Errno> {
    if ctx.field_value("vlan_present") == 0 {
        return Ok(());
    }
    let (proto, tci) = (ctx.field_value("vlan_proto") as u16, ctx.field_value("vlan_tci") as u16);
    let packet = ctx.packet_mut().ok_or(Errno::EINVAL)?;
    if !packet.resize_at(ETHERNET - 2, 4) {
        return Err(Errno::ENOMEM);
    }
    // The protocol is kept in network order, the tag in the host's.
    packet.write(ETHERNET - 2, &proto.to_le_bytes());
    packet.write(ETHERNET, &tci.to_be_bytes());
    ctx.set_field("protocol", proto as u64);
    ctx.skb_changed();
    Ok(())
}

pub(crate) fn vlan_push(cx: &mut Cx<'_>) -> u64 {
    let proto = match (cx.arg(2) as u16).swap_bytes() {
        tag @ (VLAN | VLAN_AD) => tag,
        _ => VLAN,
    };
    let tci = cx.arg(3) as u16;
    let ctx = &mut cx.host().ctx;
    status(push_tag(ctx).map(|()| {
        ctx.set_field("vlan_present", 1);
        ctx.set_field("vlan_tci", tci as u64);
        ctx.set_field("vlan_proto", proto.swap_bytes() as u64);
    }))
}

pub(crate) fn vlan_pop(cx: &mut Cx<'_>) -> u64 {
    let ctx = &mut cx.host().ctx;
    if ctx.field_value("vlan_present") != 0 {
        for field in ["vlan_present", "vlan_tci", "vlan_proto"] {
            ctx.set_field(field, 0);
        }
    }
    if !matches!(protocol(ctx), VLAN | VLAN_AD) {
        return 0;
    }
    let mut inner = [0; 2];
    let popped = match ctx.packet_mut() {
        Some(packet) => packet.read(ETHERNET + 2, &mut inner) && packet.resize_at(ETHERNET - 2, -4),
        None => false,
    };
    if popped {
        ctx.set_field("protocol", u16::from_le_bytes(inner) as u64);
    }
    ctx.skb_changed();
    status(if popped { Ok(()) } else { Err(Errno::ENOMEM) })
}

/// The hash of the packet's flow; once computed, or set, it stays. Linux keys it by a random number of the boot, the
/// machine by nothing, so that runs repeat.
pub(crate) fn get_hash_recalc(cx: &mut Cx<'_>) -> u64 {
    let ctx = &mut cx.host().ctx;
    let known = ctx.field_value("hash");
    if known != 0 {
        return known;
    }
    let network = network_offset(ctx);
    let header = ctx.packet().map_or(Vec::new(), Packet::to_vec);
    let addresses = match protocol(ctx) {
        IPV4 => network + 12..network + 24,
        IPV6 => network + 8..network + 44,
        _ => 0..header.len().min(ETHERNET),
    };
    // FNV-1a, folded so that it is never 0: Linux says 0 for "no hash yet".
    let mix = |hash: u32, byte: &u8| (hash ^ *byte as u32).wrapping_mul(0x0100_0193);
    let hash = header.get(addresses).unwrap_or_default().iter().fold(0x811c_9dc5, mix).max(1);
    ctx.set_field("hash", hash as u64);
    hash as u64
}

pub(crate) fn set_hash(cx: &mut Cx<'_>) -> u64 {
    let hash = cx.arg(2) as u32 as u64;
    cx.host().ctx.set_field("hash", hash);
    0
}

pub(crate) fn set_hash_invalid(cx: &mut Cx<'_>) -> u64 {
    cx.host().ctx.set_field("hash", 0);
    0
}

/// Marks congestion in the IP header: 1 when it is marked, 0 where the packet does not take part.
pub(crate) fn ecn_set_ce(cx: &mut Cx<'_>) -> u64 {
    let ctx = &mut cx.host().ctx;
    let (network, protocol) = (network_offset(ctx), protocol(ctx));
    let Some(packet) = ctx.packet_mut() else { return 0 };
    let mut head = [0; 20];
    if !packet.read(network, &mut head) {
        return 0;
    }
    match protocol {
        IPV4 if head[1] & 3 != 0 => {
            let old = u16::from_be_bytes([head[0], head[1]]);
            let check = u16::from_ne_bytes([head[10], head[11]]);
            let check = super::checksum::replace2(check, old.to_be(), (old | 3).to_be());
            packet.write(network + 1, &[head[1] | 3]);
            packet.write(network + 10, &check.to_ne_bytes());
            1
        }
        // The traffic class straddles the first two bytes.
        IPV6 if head[1] & 0x30 != 0 => {
            packet.write(network + 1, &[head[1] | 0x30]);
            1
        }
        _ => 0,
    }
}

/// Packets of the machine come through no tunnel.
pub(crate) fn get_tunnel_key(cx: &mut Cx<'_>) -> u64 {
    let len = cx.arg(3) as u32 as usize;
    cx.write(2, len, &vec![0; len]);
    Errno::EINVAL.as_ret()
}

/// See [`get_tunnel_key`].
pub(crate) fn get_tunnel_opt(cx: &mut Cx<'_>) -> u64 {
    let len = cx.arg(3) as u32 as usize;
    cx.write(2, len, &vec![0; len]);
    Errno::ENOENT.as_ret()
}

/// The sizes of `struct bpf_tunnel_key` in the versions that exist; there is no tunnel to tell.
pub(crate) fn set_tunnel_key(cx: &mut Cx<'_>) -> u64 {
    const VERSIONS: [u32; 6] = [44, 40, 28, 20, 24, 16];
    let (len, flags) = (cx.arg(3) as u32, cx.arg(4));
    if flags > 0x1f || !VERSIONS.contains(&len) { Errno::EINVAL.as_ret() } else { 0 }
}

/// Options of a tunnel: whole words, and a tunnel's key first.
pub(crate) fn set_tunnel_opt(cx: &mut Cx<'_>) -> u64 {
    let len = cx.arg(3) as u32;
    if len > 255 { Errno::ENOMEM.as_ret() } else { Errno::EINVAL.as_ret() }
}

/// The packet's socket has none of what cgroups and routes could set.
pub(crate) fn zero(_: &mut Cx<'_>) -> u64 {
    0
}

/// `skb_set_tstamp`: a time, and which clock it is of.
pub(crate) fn set_tstamp(cx: &mut Cx<'_>) -> u64 {
    let (tstamp, kind) = (cx.arg(2), cx.arg(3) as u32);
    let ctx = &mut cx.host().ctx;
    if !matches!(protocol(ctx), IPV4 | IPV6) {
        return Errno::EOPNOTSUPP.as_ret();
    }
    match kind {
        0 if tstamp == 0 => {}
        1 | 2 if tstamp != 0 => {}
        _ => return Errno::EINVAL.as_ret(),
    }
    ctx.set_field("tstamp", tstamp);
    ctx.set_field("tstamp_type", kind as u64);
    0
}
