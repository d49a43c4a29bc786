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
const ROOM_FLAGS: u64 = 0xff00_0000_0000_01ff;

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const VLAN: u16 = 0x8100;
const VLAN_AD: u16 = 0x88a8;

fn packet<'a>(cx: &'a mut Cx<'_>) -> Result<&'a mut Packet, Errno> {
    cx.host().ctx.packet_mut().ok_or(Errno::EINVAL)
}

/// Where the network header lies.
fn network_offset(ctx: &Ctx) -> usize {
    ctx.packet().map_or(0, Packet::network)
}

/// The ethertype that the context names.
fn protocol(ctx: &Ctx) -> u16 {
    (ctx.field_value("protocol") as u16).swap_bytes()
}

/// The ethertype behind the tags in the packet's bytes. They are looked for an Ethernet header behind the packet's
/// beginning, also where that header is hidden.
fn protocol_behind_tags(ctx: &Ctx) -> u16 {
    let (mut found, mut at) = (protocol(ctx), ETHERNET);
    while matches!(found, VLAN | VLAN_AD) {
        let mut inner = [0; 2];
        if !ctx.packet().is_some_and(|packet| packet.read(at + 2, &mut inner)) {
            return 0;
        }
        (found, at) = (u16::from_be_bytes(inner), at + 4);
    }
    found
}

/// Copies packet bytes at `at` to argument 3; what cannot be read is zeroed.
fn load(cx: &mut Cx<'_>, at: Option<i64>) -> u64 {
    let len = cx.arg(4) as u32 as usize;
    let mut bytes = vec![0; len];
    let read = at.is_some_and(|at| packet(cx).is_ok_and(|packet| packet.read_from(at, &mut bytes)));
    cx.write(3, len, &bytes);
    status(if read { Ok(()) } else { Err(Errno::EFAULT) })
}

/// An offset that Linux takes: a non-negative 32-bit number.
fn offset(value: u64) -> Option<usize> {
    usize::try_from(value as u32 as i32).ok()
}

pub(crate) fn load_bytes(cx: &mut Cx<'_>) -> u64 {
    let at = offset(cx.arg(2));
    load(cx, at.map(|at| at as i64))
}

pub(crate) fn load_bytes_relative(cx: &mut Cx<'_>) -> u64 {
    let at = offset(cx.arg(2)).filter(|at| *at <= 0xffff);
    let ctx = &cx.host().ctx;
    let (network, hidden) = (network_offset(ctx), ctx.hides_ethernet());
    let at = match cx.arg(5) as u32 {
        // From the link-layer header, which may lie before the packet.
        0 if hidden => at.map(|at| at as i64 - ETHERNET as i64),
        0 => at.map(|at| at as i64),
        1 => at.map(|at| at as i64 + network as i64),
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
        if !packet.resize_at(0, room as i64) {
            return Err(Errno::ENOMEM);
        }
        packet.set_network(packet.network() + room);
        Ok(())
    });
    cx.host().ctx.skb_changed();
    status(changed)
}

/// What the flags of `skb_adjust_room` ask for.
struct Room(u64);

impl Room {
    const ENCAP_IPV4: u64 = 1 << 1;
    const ENCAP_IPV6: u64 = 1 << 2;
    const ENCAP_GRE: u64 = 1 << 3;
    const ENCAP_UDP: u64 = 1 << 4;
    const FIXED_GSO: u64 = 1;
    /// `BPF_F_ADJ_ROOM_NO_CSUM_RESET`.
    const KEEP_CHECKED: u64 = 1 << 5;
    const ENCAP_ETHERNET: u64 = 1 << 6;
    const DECAP_IPV4: u64 = 1 << 7;
    const DECAP_IPV6: u64 = 1 << 8;

    fn has(&self, flags: u64) -> bool {
        self.0 & flags != 0
    }

    fn all(&self, flags: u64) -> bool {
        self.0 & flags == flags
    }

    /// Room for headers: what the new headers are must not contradict itself.
    fn grow(&self, by: u64) -> Result<(), Errno> {
        let inner_link = self.0 >> 56;
        let is_tunnel = self.has(Self::ENCAP_IPV4 | Self::ENCAP_IPV6);
        let bad = self.has(Self::DECAP_IPV4 | Self::DECAP_IPV6)
            || is_tunnel
                && (self.all(Self::ENCAP_IPV4 | Self::ENCAP_IPV6)
                    || self.all(Self::ENCAP_GRE | Self::ENCAP_UDP)
                    || self.has(Self::ENCAP_ETHERNET) && inner_link < ETHERNET as u64
                    || inner_link > by);
        if bad { Err(Errno::EINVAL) } else { Ok(()) }
    }

    /// Headers taken away: none can be put on at the same time.
    fn shrink(&self) -> Result<(), Errno> {
        let least = Self::DECAP_IPV4 | Self::DECAP_IPV6;
        if self.0 & !(least | Self::FIXED_GSO | Self::KEEP_CHECKED) != 0 || self.all(least) {
            Err(Errno::EINVAL)
        } else {
            Ok(())
        }
    }

    /// The ethertype of the outermost header afterwards.
    fn outermost(&self, before: u16) -> u16 {
        match () {
            () if self.has(Self::ENCAP_IPV4 | Self::DECAP_IPV4) => IPV4,
            () if self.has(Self::ENCAP_IPV6 | Self::DECAP_IPV6) => IPV6,
            () => before,
        }
    }
}

/// Bytes of the network header of `ethertype`, without options.
fn header_len(ethertype: u16) -> Option<usize> {
    match ethertype {
        IPV4 => Some(20),
        IPV6 => Some(40),
        _ => None,
    }
}

pub(crate) fn adjust_room(cx: &mut Cx<'_>) -> u64 {
    status(adjusted(cx))
}

fn adjusted(cx: &mut Cx<'_>) -> Result<(), Errno> {
    let (diff, mode, flags) = (cx.arg(2) as i32 as i64, cx.arg(3) as u32, cx.arg(4));
    if flags & !ROOM_FLAGS != 0 {
        return Err(Errno::EINVAL);
    }
    if diff.unsigned_abs() > MAX_ROOM {
        return Err(Errno::EFAULT);
    }
    let room = Room(flags);
    let ctx = &mut cx.host().ctx;
    let (network, from) = (network_offset(ctx), protocol(ctx));
    let header = header_len(from).ok_or(Errno::ENOTSUPP)?;
    let at = match mode {
        0 => network + header,
        1 => network,
        _ => return Err(Errno::ENOTSUPP),
    };
    let to = room.outermost(from);
    let packet = ctx.packet_mut().ok_or(Errno::EINVAL)?;
    let kept = packet.len() as i64 - network as i64 + diff;
    // What stays behind the link layer has room for the header that is outermost then.
    let least = if room.has(Room::DECAP_IPV4 | Room::DECAP_IPV6) { header_len(to).unwrap_or(header) } else { header };
    if diff < 0 && kept < least as i64 || packet.len() as i64 + diff > MAX_LEN as i64 {
        return Err(Errno::ENOTSUPP);
    }
    if diff < 0 {
        room.shrink()?
    } else {
        room.grow(diff.unsigned_abs())?
    }
    if !packet.resize_at(at.min(packet.len()), diff) {
        return Err(Errno::ENOMEM);
    }
    if !room.has(Room::KEEP_CHECKED) {
        packet.set_csum_level(None);
    }
    ctx.set_field("protocol", to.swap_bytes() as u64);
    ctx.skb_changed();
    Ok(())
}

pub(crate) fn change_proto(cx: &mut Cx<'_>) -> u64 {
    let (to, flags) = ((cx.arg(2) as u16).swap_bytes(), cx.arg(3));
    let ctx = &cx.host().ctx;
    let (network, from) = (network_offset(ctx), protocol(ctx));
    let diff = match (from, to) {
        _ if flags != 0 => return Errno::EINVAL.as_ret(),
        (IPV4, IPV6) => 20,
        (IPV6, IPV4) => -20,
        _ => return Errno::ENOTSUPP.as_ret(),
    };
    let changed =
        packet(cx).and_then(|packet| if packet.resize_at(network, diff) { Ok(()) } else { Err(Errno::ENOMEM) });
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
    status(push_tag(ctx).map(|()| set_tag(ctx, Some((proto, tci)))))
}

/// Takes the tag out of the packet's bytes: its contents.
fn pop_tag(ctx: &mut Ctx) -> Result<u16, Errno> {
    let mut tag = [0; 4];
    let popped = match ctx.packet_mut() {
        Some(packet) => packet.read(ETHERNET, &mut tag) && packet.resize_at(ETHERNET - 2, -4),
        None => false,
    };
    if !popped {
        return Err(Errno::ENOMEM);
    }
    let [tci, inner] = [[tag[0], tag[1]], [tag[2], tag[3]]].map(u16::from_be_bytes);
    let behind = ctx.packet().map_or(Vec::new(), Packet::to_vec);
    let protocol = rtbpf_abi::testrun::protocol(inner, behind.get(ETHERNET..).unwrap_or_default());
    ctx.set_field("protocol", protocol.swap_bytes() as u64);
    ctx.skb_changed();
    Ok(tci)
}

fn set_tag(ctx: &mut Ctx, tag: Option<(u16, u16)>) {
    let (proto, tci) = tag.unwrap_or_default();
    ctx.set_field("vlan_present", tag.is_some() as u64);
    ctx.set_field("vlan_tci", tci as u64);
    ctx.set_field("vlan_proto", proto.swap_bytes() as u64);
}

/// Drops the outermost tag; the next one moves from the packet's bytes into the context.
pub(crate) fn vlan_pop(cx: &mut Cx<'_>) -> u64 {
    status(popped(&mut cx.host().ctx))
}

fn popped(ctx: &mut Ctx) -> Result<(), Errno> {
    let is_tagged = |ctx: &Ctx| matches!(protocol(ctx), VLAN | VLAN_AD);
    match ctx.field_value("vlan_present") {
        0 if !is_tagged(ctx) => return Ok(()),
        0 => _ = pop_tag(ctx)?,
        _ => set_tag(ctx, None),
    }
    if is_tagged(ctx) {
        let proto = protocol(ctx);
        let tci = pop_tag(ctx)?;
        set_tag(ctx, Some((proto, tci)));
    }
    Ok(())
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
    let (network, protocol) = (network_offset(ctx), protocol_behind_tags(ctx));
    let Some(packet) = ctx.packet_mut() else { return 0 };
    let needs = match protocol {
        IPV4 => 20,
        IPV6 => 40,
        _ => return 0,
    };
    let mut head = [0; 40];
    if !head.get_mut(..needs).is_some_and(|head| packet.read(network, head)) {
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
    const VERSIONS: [u32; 5] = [44, 28, 24, 22, 8];
    /// Bytes that must be zero: what follows the time to live, and the IPv6 flow label of a tunnel over IPv4.
    const PADDING: std::ops::Range<usize> = 22..24;
    const LABEL: std::ops::Range<usize> = 24..28;
    /// `BPF_F_TUNINFO_IPV6`.
    const OVER_IPV6: u64 = 1;
    let (len, flags) = (cx.arg(3) as u32, cx.arg(4));
    if flags > 0x1f || !VERSIONS.contains(&len) {
        return Errno::EINVAL.as_ret();
    }
    let mut key = cx.copied(2, len as usize);
    key.resize(44, 0);
    let zero = |bytes: std::ops::Range<usize>| key.get(bytes).is_some_and(|bytes| bytes.iter().all(|byte| *byte == 0));
    if zero(PADDING) && (flags & OVER_IPV6 != 0 || zero(LABEL)) { 0 } else { Errno::EINVAL.as_ret() }
}

/// `skb_cgroup_id`: the packet's socket is in the cgroup of who sends it.
pub(crate) fn cgroup_id(cx: &mut Cx<'_>) -> u64 {
    cx.host().world().identity.cgroup
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
        0 => {}
        1 | 2 if tstamp != 0 => {}
        _ => return Errno::EINVAL.as_ret(),
    }
    ctx.set_field("tstamp", tstamp);
    ctx.set_field("tstamp_type", kind as u64);
    0
}
