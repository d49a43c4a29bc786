//! The rules of `BPF_PROG_TEST_RUN`: which types run, what they take, what a program finds at entry and what comes back.
//!
//! [`begin`] judges the input and says where packet and fields stand when the program starts; `*_out` say what of the
//! end is handed back. Nothing here runs a program. Measured on Linux 6.18, one CPU page of 4096 bytes.

mod stage;

use std::ops::Range;

pub use stage::protocol;
use stage::{CB, GSO_SEGS, GSO_SIZE, HWTSTAMP, MARK, PRIORITY_AND_DEVICES, TSTAMP, WIRE_LEN};

use crate::ctx;
use crate::errno::Errno;
use crate::prog_type::{AttachType, ProgType};

/// Bytes of an Ethernet header.
pub const ETHERNET: usize = 14;
/// Bytes of packet that one socket buffer of a test run holds.
pub const SKB_MAX: usize = 3712;
/// Bytes of packet that stand in one piece before an XDP program; what follows is in fragments.
pub const XDP_LINEAR_MAX: usize = 3520;
/// The same before a frame that is sent ([`LIVE_FRAMES`]), which has no fragments.
pub const XDP_LIVE_MAX: usize = 3408;
/// Frames of one batch that are sent.
const LIVE_BATCH_MAX: u32 = 256;
/// Bytes of packet that an XDP test run takes: a first page and 17 of fragments.
pub const XDP_MAX: usize = XDP_LINEAR_MAX + 17 * 4096;
/// Bytes of metadata that may stand before an XDP packet.
pub const XDP_META_MAX: u32 = 216;
/// Bytes of packet that a flow dissector's test run takes.
pub const FLOW_MAX: usize = 4096;
/// Bytes of context that skb, XDP and flow dissector runs take at most, the tail zero.
const CTX_MAX: usize = 4096;
/// Bytes that `bpf_sk_lookup` has for user space: the structure programs see, rounded up.
const SK_LOOKUP_BYTES: usize = 72;

/// `BPF_F_TEST_RUN_ON_CPU`: run on the CPU that `cpu` names.
pub const ON_CPU: u32 = 1;
/// `BPF_F_TEST_XDP_LIVE_FRAMES`: send the frames.
pub const LIVE_FRAMES: u32 = 2;
/// `BPF_F_TEST_SKB_CHECKSUM_COMPLETE`.
pub const CHECKSUM_COMPLETE: u32 = 4;

/// How a type runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Runner {
    /// On a socket buffer; the program sees the Ethernet header or not.
    Skb {
        /// It does.
        ethernet: bool,
    },
    /// On an XDP buffer.
    Xdp,
    /// On a packet, with flow keys to fill.
    FlowDissector,
    /// On a socket buffer at a netfilter hook.
    Netfilter,
    /// On arguments.
    RawTracepoint,
    /// On the caller's buffer.
    Syscall,
    /// On a lookup's tuple.
    SkLookup,
    /// Not at all.
    Refused(Errno),
}

impl Runner {
    /// Whether runs take `data_in`.
    pub fn takes_data(self) -> bool {
        !matches!(self, Runner::RawTracepoint | Runner::Syscall | Runner::SkLookup)
    }
}

/// How programs of this type and expected attach type run.
pub fn runner(prog: ProgType, attach: Option<AttachType>) -> Runner {
    match (prog, attach) {
        (ProgType::SchedCls | ProgType::SchedAct, _) => Runner::Skb { ethernet: true },
        (ProgType::SocketFilter | ProgType::CgroupSkb | ProgType::LwtIn | ProgType::LwtOut | ProgType::LwtXmit, _) => {
            Runner::Skb { ethernet: false }
        }
        (ProgType::Xdp, Some(AttachType::XdpDevmap | AttachType::XdpCpumap)) => Runner::Refused(Errno::EINVAL),
        (ProgType::Xdp, _) => Runner::Xdp,
        (ProgType::FlowDissector, _) => Runner::FlowDissector,
        (ProgType::Netfilter, _) => Runner::Netfilter,
        (ProgType::RawTracepoint, _) => Runner::RawTracepoint,
        (ProgType::Syscall, _) => Runner::Syscall,
        (ProgType::SkLookup, _) => Runner::SkLookup,
        (ProgType::Tracing, _) => Runner::Refused(Errno::EFAULT),
        (ProgType::StructOps, _) => Runner::Refused(Errno::EOPNOTSUPP),
        (
            ProgType::Unspec
            | ProgType::Kprobe
            | ProgType::Tracepoint
            | ProgType::PerfEvent
            | ProgType::CgroupSock
            | ProgType::SockOps
            | ProgType::SkSkb
            | ProgType::CgroupDevice
            | ProgType::SkMsg
            | ProgType::CgroupSockAddr
            | ProgType::LwtSeg6local
            | ProgType::LircMode2
            | ProgType::SkReuseport
            | ProgType::CgroupSysctl
            | ProgType::RawTracepointWritable
            | ProgType::CgroupSockopt
            | ProgType::Ext
            | ProgType::Lsm
            | ProgType::Plain,
            _,
        ) => Runner::Refused(Errno::ENOTSUPP),
    }
}

/// What the caller hands in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Input<'a> {
    /// `data_in`; empty is none.
    pub data: &'a [u8],
    /// `ctx_in`; empty is none.
    pub ctx: &'a [u8],
    /// Whether there is a buffer for `data_out`.
    pub data_out: bool,
    /// Whether there is a buffer for `ctx_out`. Then a context that is not given is one of zeros.
    pub ctx_out: bool,
    /// Runs; 0 is 1, and all that raw tracepoint and syscall runs take.
    pub repeat: u32,
    /// [`ON_CPU`], [`LIVE_FRAMES`], [`CHECKSUM_COMPLETE`].
    pub flags: u32,
    /// See [`ON_CPU`].
    pub cpu: u32,
    /// Frames of a live batch.
    pub batch_size: u32,
    /// CPUs of the machine.
    pub cpus: u32,
    /// Interface numbers of the machine; 1 is the loopback, on which packets arrive.
    pub devices: &'a [u32],
    /// One past the highest context byte that the program touches: what raw tracepoint and syscall runs must bring.
    pub ctx_bytes_used: u32,
}

impl<'a> Input<'a> {
    /// A packet and a context, run once on a machine with two CPUs and the loopback device.
    pub fn new(data: &'a [u8], ctx: &'a [u8]) -> Input<'a> {
        Input {
            data,
            ctx,
            data_out: false,
            ctx_out: false,
            repeat: 0,
            flags: 0,
            cpu: 0,
            batch_size: 0,
            cpus: 2,
            devices: &[1],
            ctx_bytes_used: 0,
        }
    }
}

/// What a program finds when it starts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Start {
    /// How it runs.
    pub runner: Runner,
    /// The bytes of `data_in` that lie before the packet as metadata.
    pub meta: Range<usize>,
    /// The bytes of `data_in` between `data` and `data_end`.
    pub packet: Range<usize>,
    /// One past the last byte of the packet in fragments; `packet.end` when there are none.
    pub frags_end: usize,
    /// The context's bytes by UAPI offset, without pointers.
    pub ctx: Vec<u8>,
    /// What `ctx_out` keeps of `ctx_in`: all of the structure, where runs of this kind have one.
    pub ctx_in: Option<Vec<u8>>,
    /// What `sk` leads to, a `bpf_sock`.
    pub sock: Option<[u8; 80]>,
    /// What `flow_keys` leads to, a `bpf_flow_keys`.
    pub flow_keys: Option<[u8; 56]>,
    /// Runs, at least 1.
    pub repeat: u32,
}

/// A refusal: Linux's errno, and what is wrong.
pub type Refusal = (Errno, &'static str);

/// Judges the input of a test run and sets the stage.
pub fn begin(prog: ProgType, attach: Option<AttachType>, input: &Input) -> Result<Start, Refusal> {
    let runner = runner(prog, attach);
    check_options(runner, input)?;
    let start = Start {
        runner,
        meta: 0..0,
        packet: 0..0,
        frags_end: 0,
        ctx: vec![0; ctx::layout(prog, attach).map_or(0, |layout| usize::from(layout.size))],
        ctx_in: None,
        sock: None,
        flow_keys: None,
        repeat: input.repeat.max(1),
    };
    match runner {
        Runner::Skb { ethernet } => stage::skb(start, input, ethernet),
        Runner::Xdp => stage::xdp(start, input),
        Runner::FlowDissector => stage::flow_dissector(start, input),
        Runner::Netfilter => stage::netfilter(start, input),
        Runner::RawTracepoint => stage::raw_tracepoint(start, input),
        Runner::Syscall => stage::buffer(start, input, usize::from(u16::MAX)),
        Runner::SkLookup => stage::sk_lookup(start, input),
        Runner::Refused(errno) => Err((errno, "programs of this type have no test run")),
    }
}

fn check_options(runner: Runner, input: &Input) -> Result<(), Refusal> {
    let known_flags = match runner {
        Runner::Skb { .. } => CHECKSUM_COMPLETE,
        Runner::Xdp => LIVE_FRAMES,
        Runner::RawTracepoint => u32::MAX,
        Runner::FlowDissector | Runner::Netfilter | Runner::Syscall | Runner::SkLookup | Runner::Refused(_) => 0,
    };
    let wants_cpu = matches!(runner, Runner::RawTracepoint) && input.flags & ON_CPU != 0;
    let ignores_cpu = matches!(runner, Runner::Xdp | Runner::Syscall);
    let live = matches!(runner, Runner::Xdp) && input.flags & LIVE_FRAMES != 0;
    let once = matches!(runner, Runner::RawTracepoint | Runner::Syscall);
    let has_data_out = !once && !matches!(runner, Runner::SkLookup);
    if matches!(runner, Runner::Refused(_)) {
        return Ok(());
    }
    if input.flags & !known_flags != 0 {
        return Err((Errno::EINVAL, "a flag that this type does not know"));
    }
    if input.data_out && !has_data_out || input.ctx_out && once {
        return Err((Errno::EINVAL, "a buffer for what this type does not hand back"));
    }
    if !runner.takes_data() && !input.data.is_empty() {
        return Err((Errno::EINVAL, "this type takes no data_in"));
    }
    if !wants_cpu && !ignores_cpu && input.cpu != 0 {
        return Err((Errno::EINVAL, "a cpu without the flag that asks for it"));
    }
    if input.batch_size != 0 && !live {
        return Err((Errno::EINVAL, "a batch without live frames"));
    }
    if input.batch_size > LIVE_BATCH_MAX {
        return Err((Errno::E2BIG, "a batch of more than 256 frames"));
    }
    if once && input.repeat != 0 {
        return Err((Errno::EINVAL, "this type runs once and takes no repeat"));
    }
    Ok(())
}

fn word(bytes: &[u8], at: usize) -> u32 {
    match bytes.get(at..).and_then(|rest| rest.first_chunk()) {
        Some(word) => u32::from_le_bytes(*word),
        None => 0,
    }
}

fn set_word(bytes: &mut [u8], at: usize, value: u32) {
    if let Some(place) = bytes.get_mut(at..at + 4) {
        place.copy_from_slice(&value.to_le_bytes());
    }
}

/// The caller's structure cut or padded with zeros to `size` bytes; a tail that Linux does not know must be zero.
fn known_ctx(ctx: &[u8], size: usize) -> Result<Vec<u8>, Refusal> {
    if ctx.len() > CTX_MAX || ctx.iter().skip(size).any(|&byte| byte != 0) {
        return Err((Errno::E2BIG, "ctx_in has bytes beyond the context"));
    }
    let mut known = vec![0; size];
    let shared = ctx.len().min(size);
    known[..shared].copy_from_slice(&ctx[..shared]);
    Ok(known)
}

/// `data_out` for the bytes from `data` to the packet's end, fragments included.
///
/// Runs that hide the Ethernet header give 14 zeros in its place; runs without a packet give nothing.
pub fn data_out(runner: Runner, packet: &[u8]) -> Vec<u8> {
    match runner {
        Runner::Skb { ethernet: true } | Runner::Xdp => packet.to_vec(),
        Runner::Skb { ethernet: false } => [&[0; ETHERNET], packet].concat(),
        Runner::FlowDissector
        | Runner::Netfilter
        | Runner::RawTracepoint
        | Runner::Syscall
        | Runner::SkLookup
        | Runner::Refused(_) => Vec::new(),
    }
}

/// `data_out` of a flow dissector: the keys, offsets brought within the packet.
pub fn flow_keys_out(keys: &[u8; 56], packet_len: usize) -> [u8; 56] {
    let mut out = *keys;
    let last = u16::try_from(packet_len).unwrap_or(u16::MAX);
    let nhoff = u16::from_le_bytes([keys[0], keys[1]]).clamp((ETHERNET as u16).min(last), last);
    let thoff = u16::from_le_bytes([keys[2], keys[3]]).clamp(nhoff, last);
    out[..2].copy_from_slice(&nhoff.to_le_bytes());
    out[2..4].copy_from_slice(&thoff.to_le_bytes());
    out
}

/// `ctx_out` of a run on a socket buffer: the fields that a test run carries back, all others zero.
pub fn skb_ctx_out(ctx: &[u8], ctx_in: &[u8]) -> Vec<u8> {
    let mut out = vec![0; ctx.len()];
    let mut keep = |range: Range<usize>, from: &[u8]| {
        if let (Some(to), Some(from)) = (out.get_mut(range.clone()), from.get(range)) {
            to.copy_from_slice(from);
        }
    };
    for range in [MARK, PRIORITY_AND_DEVICES, CB, TSTAMP, WIRE_LEN..WIRE_LEN + 4, GSO_SEGS..GSO_SEGS + 4, HWTSTAMP] {
        keep(range, ctx);
    }
    keep(GSO_SIZE, ctx_in);
    out
}

/// `ctx_out` of a socket lookup: the structure as user space has it.
pub fn sk_lookup_ctx_out(ctx: &[u8]) -> Vec<u8> {
    let mut out = ctx.to_vec();
    out.resize(SK_LOOKUP_BYTES, 0);
    out
}

/// `ctx_out` of an XDP run: `ctx_in` with `data` after `meta` bytes and `data_end` behind `linear` bytes of packet.
pub fn xdp_ctx_out(ctx_in: &[u8], meta: u32, linear: u32) -> Vec<u8> {
    let mut out = vec![0; 24];
    let shared = ctx_in.len().min(out.len());
    out[..shared].copy_from_slice(&ctx_in[..shared]);
    set_word(&mut out, 0, meta);
    set_word(&mut out, 4, meta.saturating_add(linear));
    out
}

/// What of `bytes`, the last `frags` of them in fragments, comes into the caller's buffer of `room` bytes.
///
/// Without a buffer (0 bytes) only the size is told. A short one is answered with ENOSPC, and filled: the fragments are
/// whole, so that bytes before them are missing; a buffer that is too short for the fragments stays as it is.
pub fn copy_out(mut bytes: Vec<u8>, frags: usize, room: usize) -> (Vec<u8>, Result<(), Errno>) {
    let linear = bytes.len().saturating_sub(frags);
    let missing = bytes.len().saturating_sub(room);
    match linear.checked_sub(missing) {
        Some(kept) => _ = bytes.drain(kept..linear),
        None => bytes.clear(),
    }
    (bytes, if room != 0 && missing != 0 { Err(Errno::ENOSPC) } else { Ok(()) })
}

/// `retval`: the low half of R0.
pub const fn retval(r0: u64) -> u32 {
    r0 as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(ethertype: u16, len: usize) -> Vec<u8> {
        let mut frame = vec![0; len];
        frame[0] = 2;
        frame[12..14].copy_from_slice(&ethertype.to_be_bytes());
        frame
    }

    #[track_caller]
    fn refused(prog: ProgType, input: &Input, errno: Errno) {
        assert_eq!(begin(prog, None, input).map_err(|(errno, _)| errno), Err(errno), "{prog:?} {input:?}");
    }

    fn started(prog: ProgType, data: &[u8], ctx: &[u8]) -> Start {
        begin(prog, None, &Input::new(data, ctx)).expect("the input is good")
    }

    #[test]
    fn packets_hide_the_ethernet_header_where_programs_work_on_ip() {
        let data = frame(0x0800, 64);
        assert_eq!(started(ProgType::SchedCls, &data, &[]).packet, 0..64);
        let cgroup = started(ProgType::CgroupSkb, &data, &[]);
        assert_eq!((cgroup.packet, word(&cgroup.ctx, 0)), (14..64, 50));
        assert_eq!(data_out(cgroup.runner, &data[14..])[..16], [[0; 14].as_slice(), &data[14..16]].concat());
    }

    #[test]
    fn sockets_carry_the_addresses_of_the_packet() {
        let mut data = frame(0x0800, 64);
        data[26..34].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        let start = started(ProgType::CgroupSkb, &data, &[]);
        let sock = start.sock.expect("a socket");
        assert_eq!((word(&sock, 4), sock[24..28].to_vec(), word(&sock, 72)), (2, vec![10, 0, 0, 1], 7));
        assert_eq!((word(&start.ctx, 88), start.ctx[92..96].to_vec()), (2, vec![10, 0, 0, 2]));
    }

    #[test]
    fn contexts_may_be_short_and_not_long() {
        let data = frame(0, 64);
        let with = |len: usize, last: u8| {
            let mut ctx = vec![0; len];
            ctx[len - 1] = last;
            ctx
        };
        assert_eq!(word(&started(ProgType::SchedCls, &data, &[0, 0, 0, 0, 0, 0, 0, 0, 7]).ctx, 8), 7);
        refused(ProgType::SchedCls, &Input::new(&data, &with(193, 1)), Errno::E2BIG);
        refused(ProgType::SchedCls, &Input::new(&data, &with(4097, 0)), Errno::E2BIG);
        // That is looked at before the packet is, but for a socket buffer's size.
        refused(ProgType::SchedCls, &Input::new(&frame(0x0800, 14), &with(193, 1)), Errno::E2BIG);
        refused(ProgType::SchedCls, &Input::new(&data[..13], &with(193, 1)), Errno::EINVAL);
        refused(ProgType::Xdp, &Input::new(&data[..13], &with(96, 1)), Errno::E2BIG);
        assert_eq!(started(ProgType::SchedCls, &data, &with(4096, 0)).ctx.len(), 192);
    }

    #[test]
    fn xdp_metadata_is_cut_from_the_front() {
        let mut ctx = vec![0; 24];
        (ctx[0], ctx[4]) = (8, 60);
        let start = started(ProgType::Xdp, &frame(0, 64), &ctx);
        assert_eq!((start.meta, start.packet, start.frags_end), (0..8, 8..60, 64));
        assert_eq!(xdp_ctx_out(&ctx, 16, 40)[..8], [16, 0, 0, 0, 56, 0, 0, 0]);
        ctx[0] = 6;
        refused(ProgType::Xdp, &Input::new(&frame(0, 64), &ctx), Errno::EINVAL);
    }

    #[test]
    fn what_is_wrong_first_is_answered() {
        let (ipv4, mut ctx) = (frame(0x0800, 64), [0; 192]);
        // A device is looked up before the rest of a socket buffer's context and the packet's headers are looked at.
        (ctx[0], ctx[40]) = (1, 99);
        refused(ProgType::SchedCls, &Input::new(&ipv4, &ctx), Errno::ENODEV);
        refused(ProgType::SchedCls, &Input::new(&ipv4[..20], &ctx), Errno::ENODEV);
        // In `xdp_md` it comes after the other device and before the queue.
        let mut xdp = [0; 24];
        (xdp[4], xdp[12], xdp[16]) = (64, 99, 1);
        refused(ProgType::Xdp, &Input::new(&ipv4, &xdp), Errno::ENODEV);
        xdp[20] = 1;
        refused(ProgType::Xdp, &Input::new(&ipv4, &xdp), Errno::EINVAL);
        // A CPU comes last.
        let on_cpu = |ctx| Input { flags: ON_CPU, cpu: 2, ..Input::new(&[], ctx) };
        refused(ProgType::RawTracepoint, &on_cpu(&[0; 16]), Errno::ENXIO);
        refused(ProgType::RawTracepoint, &on_cpu(&[0; 104]), Errno::EINVAL);
    }

    #[test]
    fn large_xdp_packets_have_fragments() {
        let start = started(ProgType::Xdp, &frame(0, 4000), &[]);
        assert_eq!((start.packet, start.frags_end), (0..3520, 4000));
        refused(ProgType::Xdp, &Input::new(&vec![0; XDP_MAX + 1], &[]), Errno::ENOMEM);
    }

    #[test]
    fn hooks_take_packets_of_their_family() {
        let hook = |family: u8, data: &[u8], errno| {
            let begun = begin(ProgType::Netfilter, None, &Input::new(data, &[1, family]));
            assert_eq!(begun.err().map(|(errno, _)| errno), errno, "{family} {data:?}");
        };
        hook(2, &frame(0x0800, 34), None);
        hook(10, &frame(0x86dd, 54), None);
        hook(2, &frame(0x0800, 33), Some(Errno::EINVAL));
        hook(10, &frame(0x0800, 64), Some(Errno::EINVAL));
        hook(2, &frame(0, 64), Some(Errno::EPROTO));
        hook(7, &frame(0x0800, 64), Some(Errno::EINVAL));
        let data = frame(0x0800, 64);
        refused(ProgType::Netfilter, &Input::new(&data, &[&[0, 2], &[0; 46][..], &[1]].concat()), Errno::E2BIG);
    }

    #[test]
    fn frames_that_are_sent_have_no_fragments() {
        let live = |data, ctx| Input { flags: LIVE_FRAMES, ..Input::new(data, ctx) };
        let begun =
            |input: &Input| begin(ProgType::Xdp, None, input).map(|start| start.packet).map_err(|(errno, _)| errno);
        let data = frame(0, XDP_LIVE_MAX + 1);
        assert_eq!(begun(&live(&data[..XDP_LIVE_MAX], &[])), Ok(0..XDP_LIVE_MAX));
        refused(ProgType::Xdp, &live(&data, &[]), Errno::EINVAL);
        // Metadata does not count, and is looked at before the device.
        let mut ctx = [0; 24];
        (ctx[0], ctx[4], ctx[12]) = (4, 60, 99);
        refused(ProgType::Xdp, &live(&data[..64], &ctx), Errno::EINVAL);
        refused(ProgType::Xdp, &live(&data[..60], &ctx), Errno::ENODEV);
        refused(ProgType::Xdp, &Input { ctx_out: true, ..live(&data[..64], &[]) }, Errno::EINVAL);
        refused(ProgType::Xdp, &Input { batch_size: 257, ..live(&data[..13], &[]) }, Errno::E2BIG);
    }

    #[test]
    fn flow_keys_are_brought_within_the_packet() {
        let mut keys = started(ProgType::FlowDissector, &frame(0x0800, 64), &[]).flow_keys.expect("keys");
        assert_eq!(keys[..12], [14, 0, 14, 0, 0, 0, 0, 0, 0, 0, 8, 0]);
        keys[..4].copy_from_slice(&[0x34, 0x12, 0, 0]);
        assert_eq!(flow_keys_out(&keys, 64)[..4], [64, 0, 64, 0]);
        assert_eq!(flow_keys_out(&[0; 56], 4)[..4], [4, 0, 4, 0]);
    }

    #[test]
    fn short_buffers_are_filled_and_refused() {
        let copied = |frags, room| {
            let (bytes, fits) = copy_out(b"abcde".to_vec(), frags, room);
            (String::from_utf8(bytes).expect("letters"), fits)
        };
        assert_eq!(copied(0, 0), (String::new(), Ok(())));
        assert_eq!(copied(0, 2), ("ab".into(), Err(Errno::ENOSPC)));
        assert_eq!(copied(3, 4), ("acde".into(), Err(Errno::ENOSPC)));
        assert_eq!(copied(3, 3), ("cde".into(), Err(Errno::ENOSPC)));
        assert_eq!(copied(3, 2), (String::new(), Err(Errno::ENOSPC)));
        assert_eq!(copied(3, 9), ("abcde".into(), Ok(())));
    }

    #[test]
    fn a_buffer_for_the_context_stands_for_one_of_zeros() {
        let data = frame(0x0800, 64);
        let start = |prog, ctx: &[u8]| begin(prog, None, &Input { ctx_out: true, ..Input::new(&data, ctx) });
        let xdp = start(ProgType::Xdp, &[]).expect("the input is good");
        assert_eq!((xdp.packet, xdp.frags_end, xdp.ctx_in), (0..0, 64, Some(vec![0; 24])));
        // The program finds a device, the caller what it named.
        assert_eq!(word(&xdp.ctx, 12), 1);
        let skb = start(ProgType::SchedCls, &[0, 0, 0, 0, 0, 0, 0, 0, 7]).expect("the input is good");
        assert_eq!(skb.ctx_in.map(|ctx| (ctx.len(), word(&ctx, 8))), Some((192, 7)));
        let lookup = begin(ProgType::SkLookup, None, &Input { ctx_out: true, ..Input::new(&[], &[]) });
        assert_eq!(lookup.map_err(|(errno, _)| errno), Err(Errno::EAFNOSUPPORT));
        refused(ProgType::SkLookup, &Input { data_out: true, ..Input::new(&[], &[]) }, Errno::EINVAL);
        refused(ProgType::Netfilter, &Input { ctx_out: true, ..Input::new(&data, &[]) }, Errno::EINVAL);
    }

    #[test]
    fn no_input_panics() {
        for &prog in ProgType::ALL {
            for len in [0, 1, 13, 14, 15, 34, 54, 72, 192, 5000, 80_000] {
                for fill in [0, 1, 0xff] {
                    for ethertype in [0x0800, 0x86dd] {
                        let mut data = vec![fill; len];
                        if len >= 14 {
                            data[12..14].copy_from_slice(&u16::to_be_bytes(ethertype));
                        }
                        for ctx in [&[][..], &data[..], &[fill; 24], &[fill; 4097]] {
                            let _ = begin(prog, None, &Input::new(&data, ctx));
                        }
                    }
                }
            }
        }
    }
}
