//! Contexts as Linux's test run (`BPF_PROG_TEST_RUN`) builds them from `data_in` and `ctx_in`.
//!
//! Sizes, defaults and refusals were measured on Linux 6.18.

use rtbpf_abi::ctx::FieldKind;
use rtbpf_abi::{AttachType, Errno, ProgType};
use rtbpf_isa::Size;

use super::{Ctx, CtxError};
use crate::mem::Buffer;
use crate::packet::Packet;
use crate::region::RegionKind;

/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;
/// Room before the packet of an XDP frame, and the part of it that belongs to the frame's own bookkeeping.
const XDP_HEADROOM: usize = 256;
/// Where an XDP frame ends: a page, less the bookkeeping behind the bytes.
const XDP_FRAME_END: usize = 4096 - 320;
/// The largest XDP frame: a page and 17 fragments.
const XDP_MAX: usize = 73_152;
/// Room before the packet of a socket buffer.
const SKB_HEADROOM: usize = 64;
/// The largest packet of a socket buffer in a test run.
const SKB_MAX: usize = 4096 - SKB_HEADROOM - 320;
/// The largest `ctx_in`.
const CTX_MAX: usize = 4096;
/// Interfaces of the measured machine; index 1 is the loopback device.
const LAST_IFINDEX: u64 = 3;
/// Bytes of `struct bpf_flow_keys`.
const FLOW_KEYS: usize = 56;
/// Bytes of `struct bpf_sock`.
const SOCK: usize = 80;

/// Bytes that stand for a kernel structure; none that contexts point to is larger.
const KERNEL_STRUCT: usize = 4096;

/// Fields of `struct __sk_buff` that `ctx_in` may set.
const SKB_INPUTS: [&str; 10] =
    ["mark", "priority", "ingress_ifindex", "ifindex", "cb", "tstamp", "wire_len", "gso_segs", "gso_size", "hwtstamp"];

fn refuse<T>(errno: Errno, what: impl Into<String>) -> Result<T, CtxError> {
    Err(CtxError { what: what.into(), errno })
}

impl Ctx {
    /// The context that a test run of this type gives a program, or Linux's refusal.
    ///
    /// Types that have no test run on Linux get `ctx_in` as their context, and `data_in` as their packet where they
    /// have one.
    pub fn test_run(
        prog_type: ProgType,
        attach_type: Option<AttachType>,
        data_in: &[u8],
        ctx_in: &[u8],
    ) -> Result<Ctx, CtxError> {
        match prog_type {
            ProgType::Plain => Ok(Ctx::plain(data_in)),
            ProgType::Xdp => xdp(attach_type, data_in, ctx_in),
            ProgType::SocketFilter
            | ProgType::SchedCls
            | ProgType::SchedAct
            | ProgType::CgroupSkb
            | ProgType::LwtIn
            | ProgType::LwtOut
            | ProgType::LwtXmit
            | ProgType::LwtSeg6local => skb(prog_type, attach_type, data_in, ctx_in),
            ProgType::FlowDissector => flow_dissector(attach_type, data_in),
            ProgType::SkLookup => sk_lookup(attach_type, ctx_in),
            ProgType::RawTracepoint if ctx_in.len() > 96 => refuse(Errno::EINVAL, "ctx_in has more than 96 bytes"),
            ProgType::Syscall if ctx_in.len() > 65_535 => refuse(Errno::EINVAL, "ctx_in has more than 65535 bytes"),
            _ => Ok(with_parts(prog_type, attach_type, data_in, ctx_in)),
        }
    }

    /// What a test run gives back as `data_out`.
    pub fn data_out(&self) -> Vec<u8> {
        if let Some(keys) = self.object("flow_keys") {
            let mut out = keys.to_vec(0, FLOW_KEYS);
            let len = self.packet().map_or(0, Packet::len) as u16;
            // The offsets that the program left are brought into the packet, behind the Ethernet header.
            let nhoff = u16::from_le_bytes([out[0], out[1]]).max(ETHERNET as u16).min(len);
            let thoff = u16::from_le_bytes([out[2], out[3]]).max(nhoff).min(len);
            out[..2].copy_from_slice(&nhoff.to_le_bytes());
            out[2..4].copy_from_slice(&thoff.to_le_bytes());
            return out;
        }
        let Some(packet) = self.packet() else {
            return if self.prog_type() == ProgType::Plain { self.to_vec() } else { Vec::new() };
        };
        if self.prog_type() == ProgType::Xdp {
            return packet.to_vec_with_meta();
        }
        let shown = packet.to_vec();
        if self.hides_ethernet() {
            // The header was pulled off before the program ran, and comes back as zeros.
            let mut out = vec![0; ETHERNET];
            out.extend_from_slice(&shown);
            return out;
        }
        shown
    }

    /// What a test run gives back as `ctx_out`.
    pub fn ctx_out(&self) -> Vec<u8> {
        let mut out = self.to_vec();
        if self.prog_type() == ProgType::Xdp
            && let Some(packet) = self.packet()
        {
            let (data, end) = (packet.meta_len() as u32, (packet.meta_len() + packet.len()) as u32);
            out[..4].copy_from_slice(&data.to_le_bytes());
            out[4..8].copy_from_slice(&end.to_le_bytes());
        }
        out
    }

    /// Whether programs of this type see packets from the network header on.
    pub(crate) fn hides_ethernet(&self) -> bool {
        matches!(
            self.prog_type(),
            ProgType::SocketFilter
                | ProgType::CgroupSkb
                | ProgType::LwtIn
                | ProgType::LwtOut
                | ProgType::LwtXmit
                | ProgType::LwtSeg6local
        )
    }

    /// Puts all-zero memory behind each field that always points somewhere: the machine has no sockets and no kernel
    /// structures of its own.
    fn add_objects(&mut self) {
        for field in self.layout.map_or(&[][..], |layout| layout.fields) {
            if field.kind == FieldKind::Sock {
                self.set_object(field.name, RegionKind::Socket, Buffer::zeroed(SOCK), false);
            }
            if matches!(field.kind, FieldKind::Btf(_)) {
                self.set_object(field.name, RegionKind::Object, Buffer::zeroed(KERNEL_STRUCT), false);
            }
        }
    }
}

/// The size rules of `ctx_in` for a structure of `size` bytes.
fn check_size(ctx_in: &[u8], size: usize) -> Result<(), CtxError> {
    if ctx_in.len() > CTX_MAX || ctx_in.iter().skip(size).any(|byte| *byte != 0) {
        return refuse(Errno::E2BIG, format!("ctx_in has more than {size} bytes"));
    }
    if !ctx_in.is_empty() && ctx_in.len() < size {
        return refuse(Errno::ENOSPC, format!("ctx_in has {} bytes ({size} needed)", ctx_in.len()));
    }
    Ok(())
}

fn word(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 4).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as u64)
}

fn xdp(attach_type: Option<AttachType>, data_in: &[u8], ctx_in: &[u8]) -> Result<Ctx, CtxError> {
    check_size(ctx_in, 24)?;
    if data_in.len() < ETHERNET {
        return refuse(Errno::EINVAL, format!("data_in has {} bytes (at least {ETHERNET})", data_in.len()));
    }
    if data_in.len() > XDP_MAX {
        return refuse(Errno::ENOMEM, format!("data_in has {} bytes (at most {XDP_MAX})", data_in.len()));
    }
    let linear = XDP_FRAME_END - XDP_HEADROOM;
    let mut packet = Packet::new(data_in, XDP_HEADROOM, linear.saturating_sub(data_in.len()));
    if data_in.len() > linear {
        packet.set_linear(linear);
    }
    let (data, end, meta) = (word(ctx_in, 0) as usize, word(ctx_in, 4) as usize, word(ctx_in, 8));
    let (ifindex, queue, egress) = (word(ctx_in, 12), word(ctx_in, 16), word(ctx_in, 20));
    if !ctx_in.is_empty() {
        if end > data_in.len() || data > end || meta != 0 || data % 4 != 0 || data > 216 || queue != 0 || egress != 0 {
            return refuse(Errno::EINVAL, format!("xdp_md: data {data}, data_end {end}, data_meta {meta}"));
        }
        if ifindex > LAST_IFINDEX {
            return refuse(Errno::ENODEV, format!("xdp_md: no interface {ifindex}"));
        }
        packet.set_len(end, false);
        packet.split_meta(data);
    }
    let mut ctx = Ctx::with_packet(ProgType::Xdp, attach_type, packet);
    ctx.set_field("ingress_ifindex", ifindex.max(1));
    Ok(ctx)
}

fn skb(prog_type: ProgType, attach_type: Option<AttachType>, data_in: &[u8], ctx_in: &[u8]) -> Result<Ctx, CtxError> {
    check_size(ctx_in, 192)?;
    if data_in.len() < ETHERNET || data_in.len() > SKB_MAX {
        return refuse(Errno::EINVAL, format!("data_in has {} bytes ({ETHERNET} to {SKB_MAX})", data_in.len()));
    }
    let ethertype = u16::from_be_bytes([data_in[12], data_in[13]]);
    let (needs, family) = match ethertype {
        0x0800 => (20, 2),
        0x86dd => (40, 10),
        _ => (0, 0),
    };
    if data_in.len() < ETHERNET + needs {
        return refuse(Errno::EINVAL, format!("{needs} bytes of network header do not fit behind Ethernet"));
    }
    let packet = Packet::new(data_in, SKB_HEADROOM, SKB_MAX - data_in.len());
    let mut ctx = Ctx::with_packet(prog_type, attach_type, packet);
    let hides_ethernet = ctx.hides_ethernet();
    if let Some(packet) = ctx.packet_mut() {
        match hides_ethernet {
            true => _ = packet.move_head(ETHERNET as i64, 0),
            false => packet.set_network(ETHERNET),
        }
    }
    ctx.skb_changed();
    let pkt_type = match data_in[0] {
        // The loopback device's own address; then bit 0 marks a group.
        _ if data_in[..6] == [0; 6] => 0,
        first if first & 1 != 0 => 2,
        _ => 3,
    };
    ctx.set_field("pkt_type", pkt_type);
    ctx.set_field("protocol", protocol(ethertype, &data_in[ETHERNET..]).swap_bytes() as u64);
    skb_inputs(&mut ctx, ctx_in)?;
    let sock = socket_of(data_in, family);
    ctx.set_field("family", family);
    for (field, from) in [("remote_ip4", 52), ("local_ip4", 24), ("remote_ip6", 56), ("local_ip6", 28)] {
        ctx.copy_bytes(field, &sock, from);
    }
    ctx.set_object("sk", RegionKind::Socket, Buffer::from_bytes(&sock), false);
    Ok(ctx)
}

/// What Linux calls a packet of this ethertype: below 0x600 the field is a length, of a raw 802.3 frame (`ETH_P_802_3`)
/// where ones follow, else of an 802.2 one (`ETH_P_802_2`).
pub(crate) fn protocol(ethertype: u16, behind: &[u8]) -> u16 {
    match ethertype {
        0x600.. => ethertype,
        _ if behind.starts_with(&[0xff; 2]) => 1,
        _ => 4,
    }
}

/// Takes over the fields of `ctx_in`, and refuses what it may not say.
fn skb_inputs(ctx: &mut Ctx, ctx_in: &[u8]) -> Result<(), CtxError> {
    let mut rest = ctx_in.to_vec();
    for name in SKB_INPUTS {
        let Some(field) = ctx.field(name) else { continue };
        ctx.copy_field(name, ctx_in);
        if let Some(bytes) = rest.get_mut(field.offset as usize..(field.offset + field.size) as usize) {
            bytes.fill(0);
        }
    }
    if rest.iter().any(|byte| *byte != 0) {
        return refuse(Errno::EINVAL, format!("ctx_in may set {} only", SKB_INPUTS.join(", ")));
    }
    let (len, wire_len) = (ctx.field_value("len"), word(ctx_in, 160));
    if wire_len != 0 && (wire_len < len || wire_len > 65_536) || word(ctx_in, 164) > 65_535 {
        return refuse(Errno::EINVAL, format!("wire_len {wire_len} (0, or {len} to 65536), or gso_segs above 65535"));
    }
    if ctx.field_value("ifindex") > LAST_IFINDEX {
        return refuse(Errno::ENODEV, format!("no interface {}", ctx.field_value("ifindex")));
    }
    if ctx.field_value("ifindex") == 0 {
        ctx.set_field("ifindex", 1);
    }
    if wire_len == 0 && !ctx_in.is_empty() {
        ctx.set_field("wire_len", len);
    }
    Ok(())
}

/// The socket a packet seems to come from: its `struct bpf_sock`.
fn socket_of(data_in: &[u8], family: u64) -> [u8; SOCK] {
    let mut sock = [0; SOCK];
    sock[4] = family as u8;
    // A closed socket, on no receive queue.
    sock[72] = 7;
    sock[76..80].fill(0xff);
    let mut copy = |to: usize, from: usize, len: usize| {
        if let (Some(to), Some(from)) = (sock.get_mut(to..to + len), data_in.get(from..from + len)) {
            to.copy_from_slice(from);
        }
    };
    match family {
        2 => {
            copy(24, ETHERNET + 12, 4);
            copy(52, ETHERNET + 16, 4);
        }
        10 => {
            copy(28, ETHERNET + 8, 16);
            copy(56, ETHERNET + 24, 16);
        }
        _ => {}
    }
    sock
}

fn flow_dissector(attach_type: Option<AttachType>, data_in: &[u8]) -> Result<Ctx, CtxError> {
    if data_in.len() < ETHERNET || data_in.len() > 4096 {
        return refuse(Errno::EINVAL, format!("data_in has {} bytes ({ETHERNET} to 4096)", data_in.len()));
    }
    let mut ctx = Ctx::with_packet(ProgType::FlowDissector, attach_type, Packet::new(data_in, 0, 0));
    let keys = Buffer::zeroed(FLOW_KEYS);
    let offset = (ETHERNET as u16).to_le_bytes();
    keys.write(0, &offset);
    keys.write(2, &offset);
    keys.write(10, &data_in[12..14]);
    ctx.set_object("flow_keys", RegionKind::FlowKeys, keys, true);
    Ok(ctx)
}

fn sk_lookup(attach_type: Option<AttachType>, ctx_in: &[u8]) -> Result<Ctx, CtxError> {
    if ctx_in.is_empty() {
        return refuse(Errno::EINVAL, "ctx_in missing (struct bpf_sk_lookup)");
    }
    let (cookie, family, port) = (word(ctx_in, 0) | word(ctx_in, 4), word(ctx_in, 8), word(ctx_in, 60));
    if ctx_in.len() > 8 {
        check_size(ctx_in, 72)?;
    }
    if cookie != 0 || word(ctx_in, 64) != 0 {
        return refuse(Errno::EINVAL, "cookie and ingress_ifindex must be 0");
    }
    if port > 65_535 {
        return refuse(Errno::ERANGE, format!("local_port {port} (at most 65535)"));
    }
    if family != 2 && family != 10 {
        return refuse(Errno::EAFNOSUPPORT, format!("family {family} (2 or 10)"));
    }
    Ok(Ctx::bytes(ProgType::SkLookup, attach_type, ctx_in))
}

/// A context whose scalars are `ctx_in`, with a packet and sockets behind the fields that point to some.
fn with_parts(prog_type: ProgType, attach_type: Option<AttachType>, data_in: &[u8], ctx_in: &[u8]) -> Ctx {
    let mut ctx = Ctx::bytes(prog_type, attach_type, ctx_in);
    let has_packet = ctx.layout.is_some_and(|layout| layout.fields.iter().any(|f| f.kind == FieldKind::PacketEnd));
    if has_packet {
        ctx.packet = Some(Packet::new(data_in, SKB_HEADROOM, 512));
        for (name, size) in [("len", Size::W), ("size", Size::W), ("skb_len", Size::W), ("optlen", Size::W)] {
            if let Some(field) = ctx.field(name) {
                ctx.set(field.offset as usize, size, data_in.len() as u64);
            }
        }
        ctx.refresh();
    }
    ctx.add_objects();
    ctx
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errno(prog_type: ProgType, data_in: &[u8], ctx_in: &[u8]) -> Option<Errno> {
        Ctx::test_run(prog_type, None, data_in, ctx_in).err().map(|error| error.errno)
    }

    #[test]
    fn sizes_of_packets_are_bounded() {
        let mut ipv4 = [0; 34];
        ipv4[12] = 8;
        assert_eq!(errno(ProgType::SchedCls, &[0; 13], &[]), Some(Errno::EINVAL));
        assert_eq!(errno(ProgType::SchedCls, &[0; 14], &[]), None);
        assert_eq!(errno(ProgType::SchedCls, &ipv4[..33], &[]), Some(Errno::EINVAL));
        assert_eq!(errno(ProgType::SchedCls, &ipv4, &[]), None);
        assert_eq!(errno(ProgType::SchedCls, &[0; 3712], &[]), None);
        assert_eq!(errno(ProgType::SchedCls, &[0; 3713], &[]), Some(Errno::EINVAL));
        assert_eq!(errno(ProgType::Xdp, &[0; 13], &[]), Some(Errno::EINVAL));
        assert_eq!(errno(ProgType::Xdp, &vec![0; 73_153], &[]), Some(Errno::ENOMEM));
    }

    #[test]
    fn a_context_sets_what_a_test_run_may_set() {
        let with = |off: usize, value: u8| {
            let mut ctx_in = [0; 192];
            ctx_in[off] = value;
            ctx_in
        };
        assert_eq!(errno(ProgType::SchedCls, &[0; 64], &with(8, 1)), None);
        assert_eq!(errno(ProgType::SchedCls, &[0; 64], &with(0, 1)), Some(Errno::EINVAL));
        assert_eq!(errno(ProgType::SchedCls, &[0; 64], &with(40, 9)), Some(Errno::ENODEV));
        assert_eq!(errno(ProgType::SchedCls, &[0; 64], &with(160, 63)), Some(Errno::EINVAL));
        assert_eq!(errno(ProgType::SchedCls, &[0; 64], &[0; 191]), Some(Errno::ENOSPC));
        assert_eq!(errno(ProgType::SchedCls, &[0; 64], &[0; 4097]), Some(Errno::E2BIG));
    }

    #[test]
    fn hidden_ethernet_headers_come_back_as_zeros() {
        let mut packet = [7; 64];
        packet[12..14].fill(0);
        let ctx = Ctx::test_run(ProgType::SocketFilter, None, &packet, &[]).unwrap();
        assert_eq!(ctx.field_value("len"), 50);
        let out = ctx.data_out();
        assert_eq!((&out[..14], &out[14..]), (&[0; 14][..], &packet[14..]));
    }

    #[test]
    fn metadata_of_an_xdp_frame_is_part_of_what_comes_back() {
        let mut ctx_in = [0; 24];
        (ctx_in[0], ctx_in[4]) = (8, 64);
        let ctx = Ctx::test_run(ProgType::Xdp, None, &[1; 64], &ctx_in).unwrap();
        assert_eq!(ctx.packet().unwrap().len(), 56);
        assert_eq!(ctx.data_out(), [1; 64]);
        assert_eq!(ctx.ctx_out()[..8], ctx_in[..8]);
    }
}
