//! Contexts as Linux's test run (`BPF_PROG_TEST_RUN`) builds them from `data_in` and `ctx_in`.
//!
//! Sizes, defaults and refusals were measured on Linux 6.18.

use rtbpf_abi::{AttachType, Errno, ProgType};
use rtbpf_isa::Size;

use super::{Ctx, CtxError};
use crate::packet::Packet;

/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;
/// Room before the packet that XDP programs may use.
const XDP_HEADROOM: usize = 256;
/// A page, less the bookkeeping behind a frame: where an XDP frame must end.
const XDP_FRAME_END: usize = 4096 - 320;
/// Room before the packet of a socket buffer.
const SKB_HEADROOM: usize = 256;

fn refuse(errno: Errno, what: impl Into<String>) -> CtxError {
    CtxError { what: what.into(), errno }
}

impl Ctx {
    /// The context that a test run of this type gives a program, or Linux's refusal.
    ///
    /// Types that have no test run on Linux get `ctx_in` as their context.
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
            _ => Ok(Ctx::bytes(prog_type, attach_type, ctx_in)),
        }
    }

    /// What a test run gives back as `data_out`.
    pub fn data_out(&self) -> Vec<u8> {
        let Some(packet) = self.packet() else {
            return if self.prog_type() == ProgType::Plain { self.to_vec() } else { Vec::new() };
        };
        let shown = packet.to_vec();
        if self.hides_ethernet() {
            // The header was pulled off before the program ran, and comes back as zeros.
            let mut out = vec![0; ETHERNET];
            out.extend_from_slice(&shown);
            return out;
        }
        shown
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
}

fn xdp(attach_type: Option<AttachType>, data_in: &[u8], ctx_in: &[u8]) -> Result<Ctx, CtxError> {
    if data_in.len() < ETHERNET {
        return Err(refuse(Errno::EINVAL, format!("data_in has {} bytes (at least {ETHERNET})", data_in.len())));
    }
    let mut packet = Packet::new(data_in, XDP_HEADROOM, XDP_FRAME_END.saturating_sub(XDP_HEADROOM + data_in.len()));
    let word = |at: usize| ctx_in.get(at..at + 4).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize);
    if !ctx_in.is_empty() {
        let (data, end, meta) = (word(0), word(4), word(8));
        if end > data_in.len() || data > end || meta != 0 || data % 4 != 0 || data > 216 {
            return Err(refuse(Errno::EINVAL, format!("xdp_md: data {data}, data_end {end}, data_meta {meta}")));
        }
        packet.set_len(end, false);
        packet.split_meta(data);
    }
    let mut ctx = Ctx::with_packet(ProgType::Xdp, attach_type, packet);
    ctx.set_field("ingress_ifindex", if ctx_in.is_empty() { 1 } else { word(12) as u64 });
    ctx.set_field("rx_queue_index", word(16) as u64);
    Ok(ctx)
}

fn skb(prog_type: ProgType, attach_type: Option<AttachType>, data_in: &[u8], ctx_in: &[u8]) -> Result<Ctx, CtxError> {
    if data_in.len() < ETHERNET {
        return Err(refuse(Errno::EINVAL, format!("data_in has {} bytes (at least {ETHERNET})", data_in.len())));
    }
    let ethertype = u16::from_be_bytes([data_in[12], data_in[13]]);
    let needs = match ethertype {
        0x0800 => 20,
        0x86dd => 40,
        _ => 0,
    };
    if data_in.len() < ETHERNET + needs {
        return Err(refuse(Errno::EINVAL, format!("{needs} bytes of network header do not fit behind Ethernet")));
    }
    let packet = Packet::new(data_in, SKB_HEADROOM, 512);
    let mut ctx = Ctx::with_packet(prog_type, attach_type, packet);
    if ctx.hides_ethernet()
        && let Some(packet) = ctx.packet_mut()
    {
        packet.move_head(ETHERNET as i64, 0);
    }
    ctx.skb_changed();
    let pkt_type = match data_in[0] {
        _ if data_in[..6] == [0; 6] => 0,
        first if first & 1 != 0 => 2,
        _ => 3,
    };
    ctx.set_field("pkt_type", pkt_type);
    ctx.set_field("protocol", ethertype.swap_bytes() as u64);
    ctx.set_field("ifindex", 1);
    for field in [
        "mark",
        "priority",
        "ingress_ifindex",
        "ifindex",
        "cb",
        "tstamp",
        "wire_len",
        "gso_segs",
        "gso_size",
        "hwtstamp",
    ] {
        ctx.copy_field(field, ctx_in);
    }
    if ctx.field_value("ifindex") == 0 {
        ctx.set_field("ifindex", 1);
    }
    let len = ctx.field_value("len");
    if ctx.get(160, Size::W) == 0 {
        ctx.set_field("wire_len", if ctx_in.is_empty() { 0 } else { len });
    }
    Ok(ctx)
}
