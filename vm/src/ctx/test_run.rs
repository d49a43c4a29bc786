//! Contexts as Linux's test run (`BPF_PROG_TEST_RUN`) builds them from `data_in` and `ctx_in`; the rules are those of
//! [`rtbpf_abi::testrun`].

use rtbpf_abi::ctx::FieldKind;
use rtbpf_abi::testrun::{self, ETHERNET, Input, Runner, Start};
use rtbpf_abi::{AttachType, Errno, ProgType};
use rtbpf_isa::Size;
use rtbpf_maps::{CgroupStorage, MapRef, Storage};
use rtbpf_rt::RunCx;

use super::{Ctx, CtxError};
use crate::mem::Buffer;
use crate::packet::Packet;
use crate::region::RegionKind;

/// Room before the packet of an XDP frame, metadata included.
const XDP_HEADROOM: usize = 256;
/// Room before the packet of a socket buffer.
const SKB_HEADROOM: usize = 64;
/// Interfaces of the machine; 1 is the loopback device.
pub const DEVICES: &[u32] = &[1, 2, 3];
/// Bytes of `struct bpf_flow_keys`.
const FLOW_KEYS: usize = 56;

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
        Ctx::test_run_with(prog_type, attach_type, &Input { devices: DEVICES, ..Input::new(data_in, ctx_in) })
    }

    /// [`Ctx::test_run`] with all that the system call takes.
    pub fn test_run_with(
        prog_type: ProgType,
        attach_type: Option<AttachType>,
        input: &Input<'_>,
    ) -> Result<Ctx, CtxError> {
        if prog_type == ProgType::Plain {
            return Ok(Ctx::plain(input.data));
        }
        if let Runner::Refused(_) = testrun::runner(prog_type, attach_type) {
            return Ok(with_parts(prog_type, attach_type, input.data, input.ctx));
        }
        let start = testrun::begin(prog_type, attach_type, input)
            .map_err(|(errno, what)| CtxError { what: what.to_string(), errno })?;
        let mut ctx = match start.runner {
            Runner::Xdp => xdp(prog_type, attach_type, input.data, &start),
            Runner::Skb { ethernet } => skb(prog_type, attach_type, input.data, &start, ethernet),
            Runner::FlowDissector => {
                let mut ctx = Ctx::with_packet(prog_type, attach_type, Packet::new(input.data, 0, 0));
                let keys = start.flow_keys.unwrap_or([0; FLOW_KEYS]);
                ctx.set_object("flow_keys", RegionKind::FlowKeys, Buffer::from_bytes(&keys), true);
                ctx
            }
            Runner::Netfilter | Runner::RawTracepoint | Runner::Syscall | Runner::SkLookup | Runner::Refused(_) => {
                Ctx::bytes(prog_type, attach_type, &start.ctx)
            }
        };
        ctx.parts.ctx_in = start.ctx_in.unwrap_or_default();
        Ok(ctx)
    }

    /// What a test run gives back as `data_out`.
    pub fn data_out(&self) -> Vec<u8> {
        if let Some(keys) = self.object("flow_keys") {
            let keys = keys.to_vec(0, FLOW_KEYS).try_into().unwrap_or([0; FLOW_KEYS]);
            return testrun::flow_keys_out(&keys, self.packet().map_or(0, Packet::len)).to_vec();
        }
        let Some(packet) = self.packet() else {
            return if self.parts.prog_type == ProgType::Plain { self.to_vec() } else { Vec::new() };
        };
        match testrun::runner(self.parts.prog_type, self.parts.attach_type) {
            Runner::Refused(_) => packet.to_vec(),
            Runner::Xdp => packet.to_vec_with_meta(),
            runner => testrun::data_out(runner, &packet.to_vec()),
        }
    }

    /// What of [`Ctx::data_out`] comes into a buffer of `room` bytes, and ENOSPC when that is not all.
    pub fn copy_data_out(&self, room: usize) -> (Vec<u8>, Result<(), Errno>) {
        let frags = match (testrun::runner(self.parts.prog_type, self.parts.attach_type), self.packet()) {
            (Runner::Xdp, Some(packet)) => packet.len() - packet.linear_len(),
            _ => 0,
        };
        testrun::copy_out(self.data_out(), frags, room)
    }

    /// What a test run gives back as `ctx_out`.
    pub fn ctx_out(&self) -> Vec<u8> {
        let (ctx, ctx_in) = (self.to_vec(), &self.parts.ctx_in);
        match (testrun::runner(self.parts.prog_type, self.parts.attach_type), self.packet()) {
            (Runner::Xdp, Some(packet)) => {
                testrun::xdp_ctx_out(ctx_in, packet.meta_len() as u32, packet.linear_len() as u32)
            }
            (Runner::Skb { .. }, Some(_)) => testrun::skb_ctx_out(&ctx, ctx_in),
            (Runner::Netfilter, _) => Vec::new(),
            (Runner::SkLookup, _) => testrun::sk_lookup_ctx_out(&ctx),
            (Runner::FlowDissector, _) => ctx_in.iter().copied().chain(std::iter::repeat(0)).take(FLOW_KEYS).collect(),
            _ => ctx,
        }
    }

    /// Drops what `maps` keep for this test run alone, however often it was repeated: the values of its attachment, and
    /// those of its packet's socket.
    pub fn end_test_run(&self, maps: &[MapRef], cx: &RunCx) {
        let socket = self.object("sk").map(|socket| socket.addr());
        for map in maps {
            if let Some(storage) = map.as_any().downcast_ref::<CgroupStorage>() {
                let _ = storage.detach(cx, &vec![0; map.spec().key_size as usize]);
            } else if let (Some(storage), Some(owner)) = (map.as_any().downcast_ref::<Storage>(), socket) {
                storage.release(cx, owner);
            }
        }
    }

    /// Whether programs of this type see packets from the network header on.
    pub(crate) fn hides_ethernet(&self) -> bool {
        testrun::runner(self.parts.prog_type, self.parts.attach_type) == Runner::Skb { ethernet: false }
    }
}

fn xdp(prog_type: ProgType, attach_type: Option<AttachType>, data_in: &[u8], start: &Start) -> Ctx {
    let tailroom = (start.meta.len() + testrun::XDP_LINEAR_MAX).saturating_sub(data_in.len());
    let mut packet = Packet::new(data_in, XDP_HEADROOM - start.meta.len(), tailroom);
    packet.split_meta(start.meta.len());
    if start.packet.end < start.frags_end {
        packet.set_linear(start.packet.len());
    }
    let mut ctx = Ctx::with_packet(prog_type, attach_type, packet);
    ctx.parts.memory.write(0, &start.ctx);
    ctx.refresh();
    ctx
}

fn skb(prog_type: ProgType, attach_type: Option<AttachType>, data_in: &[u8], start: &Start, ethernet: bool) -> Ctx {
    let mut packet = Packet::new(data_in, SKB_HEADROOM, testrun::SKB_MAX - data_in.len());
    match ethernet {
        true => packet.set_network(ETHERNET),
        false => _ = packet.move_head(ETHERNET as i64, 0),
    }
    let mut ctx = Ctx::with_packet(prog_type, attach_type, packet);
    ctx.parts.memory.write(0, &start.ctx);
    ctx.refresh();
    if let Some(sock) = &start.sock {
        ctx.set_object("sk", RegionKind::Socket, Buffer::from_bytes(sock), false);
    }
    ctx
}

/// A context whose scalars are `ctx_in`, with a packet and sockets behind the fields that point to some.
fn with_parts(prog_type: ProgType, attach_type: Option<AttachType>, data_in: &[u8], ctx_in: &[u8]) -> Ctx {
    let mut ctx = Ctx::bytes(prog_type, attach_type, ctx_in);
    let has_packet =
        ctx.parts.layout.is_some_and(|layout| layout.fields.iter().any(|f| f.kind == FieldKind::PacketEnd));
    if has_packet {
        ctx.parts.packet = Some(Packet::new(data_in, SKB_HEADROOM, 512));
        for (name, size) in [("len", Size::W), ("size", Size::W), ("skb_len", Size::W), ("optlen", Size::W)] {
            if let Some(field) = ctx.field(name) {
                ctx.set(field.offset as usize, size, data_in.len() as u64);
            }
        }
        ctx.refresh();
    }
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
        assert_eq!(errno(ProgType::SchedCls, &[0; 64], &[0; 191]), None);
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
        // What lies behind the end that the context names is in a fragment.
        ctx_in[4] = 60;
        let ctx = Ctx::test_run(ProgType::Xdp, None, &[1; 64], &ctx_in).unwrap();
        assert_eq!((ctx.packet().unwrap().len(), ctx.packet().unwrap().linear_len()), (56, 52));
        assert_eq!(ctx.ctx_out()[..8], ctx_in[..8]);
    }

    #[test]
    fn what_the_caller_gave_comes_back_as_it_was() {
        // A device that nobody named is the loopback for the program, and none for the caller.
        let mut ctx_in = [0; 24];
        ctx_in[4] = 64;
        let ctx = Ctx::test_run(ProgType::Xdp, None, &[1; 64], &ctx_in).unwrap();
        assert_eq!(ctx.field_value("ingress_ifindex"), 1);
        assert_eq!(ctx.ctx_out(), ctx_in);
        // The program sees 16 bits of a segment's size.
        let mut ctx_in = [0; 192];
        ctx_in[176..180].fill(1);
        let ctx = Ctx::test_run(ProgType::SchedCls, None, &[1; 64], &ctx_in).unwrap();
        assert_eq!((ctx.field_value("gso_size"), &ctx.ctx_out()[176..180]), (0x101, &[1; 4][..]));
        let mut ctx_in = [0; 56];
        ctx_in[48] = 1;
        let ctx = Ctx::test_run(ProgType::FlowDissector, None, &[1; 64], &ctx_in).unwrap();
        assert_eq!(ctx.ctx_out(), ctx_in);
    }

    #[test]
    fn a_short_buffer_holds_the_fragments_or_nothing() {
        let (mut ctx_in, data) = ([0; 24], Vec::from_iter(0..100));
        ctx_in[4] = 60;
        let ctx = Ctx::test_run(ProgType::Xdp, None, &data, &ctx_in).unwrap();
        assert_eq!(ctx.copy_data_out(39), (Vec::new(), Err(Errno::ENOSPC)));
        assert_eq!(ctx.copy_data_out(42), ([&data[..2], &data[60..]].concat(), Err(Errno::ENOSPC)));
        assert_eq!(ctx.copy_data_out(100), (data, Ok(())));
    }
}
