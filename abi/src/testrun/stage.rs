//! What each kind of test run sets up: packet, context and what its pointers lead to.

use std::ops::Range;

use super::{
    ETHERNET, FLOW_MAX, Input, LIVE_FRAMES, ON_CPU, Refusal, SK_LOOKUP_BYTES, SKB_MAX, Start, XDP_LINEAR_MAX,
    XDP_LIVE_MAX, XDP_MAX, XDP_META_MAX,
};
use super::{known_ctx, set_word, word};
use crate::errno::Errno;

/// `ctx_in` as [`known_ctx`] has it, where there is one or a buffer for what comes back.
fn given_ctx(input: &Input, size: usize) -> Result<Option<Vec<u8>>, Refusal> {
    if input.ctx.is_empty() && !input.ctx_out { Ok(None) } else { known_ctx(input.ctx, size).map(Some) }
}

/// The largest `wire_len`.
const WIRE_LEN_MAX: u32 = 65_536;

/// Fields of `__sk_buff` that a caller may set, as offset and size. All others must be zero.
const SKB_IN: &[Range<usize>] = &[8..12, 32..44, 48..68, 152..164, 164..168, 176..180, 184..192];

// `__sk_buff`
pub(super) const MARK: Range<usize> = 8..12;
pub(super) const PRIORITY_AND_DEVICES: Range<usize> = 32..44;
const IFINDEX: usize = 40;
pub(super) const CB: Range<usize> = 48..68;
pub(super) const TSTAMP: Range<usize> = 152..160;
pub(super) const WIRE_LEN: usize = 160;
pub(super) const GSO_SEGS: usize = 164;
pub(super) const GSO_SIZE: Range<usize> = 176..180;
pub(super) const HWTSTAMP: Range<usize> = 184..192;

pub(super) fn skb(mut start: Start, input: &Input, ethernet: bool) -> Result<Start, Refusal> {
    let data = input.data;
    if data.len() < ETHERNET {
        return Err((Errno::EINVAL, "data_in is shorter than an Ethernet header (14 bytes)"));
    }
    if data.len() > SKB_MAX {
        return Err((Errno::EINVAL, "data_in does not fit into one buffer (3712 bytes)"));
    }
    start.ctx_in = given_ctx(input, start.ctx.len())?;
    let ifindex = start.ctx_in.as_ref().map_or(0, |given| word(given, IFINDEX));
    check_device(ifindex, input.devices)?;
    let ethertype = u16::from_be_bytes([data[12], data[13]]);
    let network = &data[ETHERNET..];
    let header = match ethertype {
        0x0800 => 20,
        0x86dd => 40,
        _ => 0,
    };
    if network.len() < header {
        return Err((Errno::EINVAL, "data_in ends within its IP header"));
    }
    start.packet = if ethernet { 0..data.len() } else { ETHERNET..data.len() };
    start.frags_end = data.len();
    let len = start.packet.len() as u32;

    if let Some(given) = &start.ctx_in {
        check_skb(given, len)?;
        start.ctx.copy_from_slice(given);
        if word(given, WIRE_LEN) == 0 {
            set_word(&mut start.ctx, WIRE_LEN, len);
        }
        // The buffer keeps 16 bits of it; `ctx_out` gives back what came in.
        start.ctx[GSO_SIZE][2..].fill(0);
    }
    if word(&start.ctx, IFINDEX) == 0 {
        set_word(&mut start.ctx, IFINDEX, 1);
    }
    set_word(&mut start.ctx, 0, len);
    set_word(&mut start.ctx, 4, packet_type(data));
    set_word(&mut start.ctx, 16, u32::from(protocol(ethertype, network).to_be()));
    let sock = sock(ethertype, network);
    for (field, from, bytes) in [(88, 4, 4), (92, 52, 4), (96, 24, 4), (100, 56, 16), (116, 28, 16)] {
        start.ctx[field..field + bytes].copy_from_slice(&sock[from..from + bytes]);
    }
    start.sock = Some(sock);
    Ok(start)
}

/// 0 is no device, and 1 is on every machine.
fn check_device(ifindex: u32, devices: &[u32]) -> Result<(), Refusal> {
    match ifindex > 1 && !devices.contains(&ifindex) {
        true => Err((Errno::ENODEV, "ctx_in names a device that does not exist")),
        false => Ok(()),
    }
}

fn check_skb(given: &[u8], len: u32) -> Result<(), Refusal> {
    let settable = |at: usize| SKB_IN.iter().any(|range| range.contains(&at));
    if given.iter().enumerate().any(|(at, &byte)| byte != 0 && !settable(at)) {
        return Err((Errno::EINVAL, "ctx_in sets a field that a test run decides itself"));
    }
    let (wire_len, gso_segs) = (word(given, WIRE_LEN), word(given, GSO_SEGS));
    if wire_len != 0 && !(len..=WIRE_LEN_MAX).contains(&wire_len) {
        return Err((Errno::EINVAL, "wire_len is shorter than the packet or longer than 65536 bytes"));
    }
    if gso_segs > u32::from(u16::MAX) {
        return Err((Errno::EINVAL, "gso_segs is above 65535"));
    }
    Ok(())
}

/// `PACKET_HOST`, `_MULTICAST` or `_OTHERHOST`, by the destination address on a device whose own is all zeros.
fn packet_type(data: &[u8]) -> u32 {
    match data {
        [0, 0, 0, 0, 0, 0, ..] => 0,
        [first, ..] if first & 1 != 0 => 2,
        _ => 3,
    }
}

/// What stands in `skb->protocol`, in host order: an ethertype, or the mark of an IEEE 802.3 length field (`ETH_P_802_3`,
/// `ETH_P_802_2`). `network` is what follows the Ethernet header.
pub fn protocol(ethertype: u16, network: &[u8]) -> u16 {
    match network {
        _ if ethertype >= 0x0600 => ethertype,
        [0xff, 0xff, ..] => 0x0001,
        _ => 0x0004,
    }
}

/// The `bpf_sock` behind a test run's packet: closed, with the packet's addresses.
fn sock(ethertype: u16, network: &[u8]) -> [u8; 80] {
    let mut sock = [0; 80];
    set_word(&mut sock, 72, 7);
    set_word(&mut sock, 76, u32::MAX);
    match (ethertype, network) {
        (0x0800, [_, _, _, _, _, _, _, _, _, _, _, _, addresses @ ..]) if addresses.len() >= 8 => {
            set_word(&mut sock, 4, 2);
            sock[24..28].copy_from_slice(&addresses[..4]);
            sock[52..56].copy_from_slice(&addresses[4..8]);
        }
        (0x86dd, [_, _, _, _, _, _, _, _, addresses @ ..]) if addresses.len() >= 32 => {
            set_word(&mut sock, 4, 10);
            sock[28..44].copy_from_slice(&addresses[..16]);
            sock[56..72].copy_from_slice(&addresses[16..32]);
        }
        _ => {}
    }
    sock
}

pub(super) fn xdp(mut start: Start, input: &Input) -> Result<Start, Refusal> {
    let len = input.data.len();
    start.ctx_in = given_ctx(input, start.ctx.len())?;
    if len < ETHERNET {
        return Err((Errno::EINVAL, "data_in is shorter than an Ethernet header (14 bytes)"));
    }
    let (mut meta, mut end) = (0, len);
    if let Some(given) = &start.ctx_in {
        let [data, data_end, data_meta] = [0, 4, 8].map(|at| word(given, at));
        let behind = len.saturating_sub(data as usize);
        let fits = data <= data_end && data_end as usize <= len && behind >= ETHERNET;
        if data_meta != 0 || !data.is_multiple_of(4) || data > XDP_META_MAX || !fits {
            return Err((Errno::EINVAL, "data, data_end and data_meta of xdp_md do not describe data_in"));
        }
        (meta, end) = (data as usize, data_end as usize);
    }
    let live = input.flags & LIVE_FRAMES != 0;
    end = end.min(meta + if live { XDP_LIVE_MAX } else { XDP_LINEAR_MAX });
    if live && end < len {
        return Err((Errno::EINVAL, "frames that are sent have no fragments"));
    }
    let device = start.ctx_in.as_ref().map_or(Ok(1), |given| xdp_device(given, input.devices))?;
    set_word(&mut start.ctx, 12, device);
    if len > XDP_MAX {
        return Err((Errno::ENOMEM, "data_in does not fit into one frame and its fragments (73152 bytes)"));
    }
    start.meta = 0..meta;
    start.packet = meta..end;
    start.frags_end = len;
    Ok(start)
}

/// The device on which the packet arrives: the loopback unless `xdp_md` names another.
fn xdp_device(given: &[u8], devices: &[u32]) -> Result<u32, Refusal> {
    let [ifindex, queue, egress] = [12, 16, 20].map(|at| word(given, at));
    if egress != 0 {
        return Err((Errno::EINVAL, "xdp_md names an egress device"));
    }
    check_device(ifindex, devices)?;
    if queue != 0 {
        return Err((Errno::EINVAL, "xdp_md names a queue that does not exist"));
    }
    Ok(ifindex.max(1))
}

pub(super) fn flow_dissector(mut start: Start, input: &Input) -> Result<Start, Refusal> {
    let data = input.data;
    if !(ETHERNET..=FLOW_MAX).contains(&data.len()) {
        return Err((Errno::EINVAL, "data_in has fewer than 14 or more than 4096 bytes"));
    }
    let mut keys = [0; 56];
    start.ctx_in = given_ctx(input, keys.len())?;
    if let Some(given) = &start.ctx_in {
        if given.iter().enumerate().any(|(at, &byte)| byte != 0 && !(48..52).contains(&at)) {
            return Err((Errno::EINVAL, "ctx_in sets flow keys other than flags"));
        }
        keys.copy_from_slice(given);
    }
    keys[0] = ETHERNET as u8;
    keys[2] = ETHERNET as u8;
    keys[10..12].copy_from_slice(&data[12..14]);
    start.packet = 0..data.len();
    start.frags_end = data.len();
    start.flow_keys = Some(keys);
    Ok(start)
}

/// Bytes of `nf_hook_state` that a caller may bring.
const HOOK_STATE: usize = 48;

pub(super) fn netfilter(mut start: Start, input: &Input) -> Result<Start, Refusal> {
    if !(20..=SKB_MAX).contains(&input.data.len()) {
        return Err((Errno::EINVAL, "data_in has fewer than 20 or more than 3712 bytes"));
    }
    if let Some(state) = given_ctx(input, HOOK_STATE)? {
        check_hook(&state, input.data)?;
    }
    start.packet = 0..input.data.len();
    start.frags_end = input.data.len();
    Ok(start)
}

/// A hook, and the family of its packets; what follows 6 bytes of padding must be zero.
fn check_hook(state: &[u8], data: &[u8]) -> Result<(), Refusal> {
    const IPV4: u8 = 2;
    const IPV6: u8 = 10;
    let family = state[1];
    if !matches!(family, IPV4 | IPV6) || state[8..].iter().any(|&byte| byte != 0) {
        return Err((Errno::EINVAL, "ctx_in is no state of an IPv4 or IPv6 hook"));
    }
    let network = data.len() - ETHERNET;
    match (u16::from_be_bytes([data[12], data[13]]), family) {
        _ if network < 20 => Err((Errno::EINVAL, "data_in ends within its IP header")),
        (0x0800, IPV4) => Ok(()),
        (0x86dd, IPV6) if network >= 40 => Ok(()),
        (0x0800 | 0x86dd, _) => Err((Errno::EINVAL, "data_in is no packet of the hook's family")),
        _ => Err((Errno::EPROTO, "data_in is no IP packet")),
    }
}

pub(super) fn raw_tracepoint(start: Start, input: &Input) -> Result<Start, Refusal> {
    let start = buffer(start, input, 96)?;
    match input.flags & ON_CPU != 0 && input.cpu >= input.cpus {
        true => Err((Errno::ENXIO, "no such cpu")),
        false => Ok(start),
    }
}

pub(super) fn buffer(mut start: Start, input: &Input, max: usize) -> Result<Start, Refusal> {
    if input.ctx.len() > max {
        return Err((Errno::EINVAL, "ctx_in is longer than the context may be"));
    }
    if (input.ctx.len() as u64) < u64::from(input.ctx_bytes_used) {
        return Err((Errno::EINVAL, "ctx_in is shorter than what the program touches"));
    }
    start.ctx = input.ctx.to_vec();
    Ok(start)
}

pub(super) fn sk_lookup(mut start: Start, input: &Input) -> Result<Start, Refusal> {
    let given = given_ctx(input, SK_LOOKUP_BYTES)?.ok_or((Errno::EINVAL, "a lookup needs ctx_in"))?;
    if given[..8] != [0; 8] || given[38..40] != [0; 2] || given[64..] != [0; 8] {
        return Err((Errno::EINVAL, "ctx_in sets cookie, ingress_ifindex or padding"));
    }
    if word(&given, 60) > u32::from(u16::MAX) {
        return Err((Errno::ERANGE, "local_port is above 65535"));
    }
    if !matches!(word(&given, 8), 2 | 10) {
        return Err((Errno::EAFNOSUPPORT, "family is neither AF_INET (2) nor AF_INET6 (10)"));
    }
    let size = start.ctx.len();
    start.ctx.copy_from_slice(&given[..size]);
    Ok(start)
}
