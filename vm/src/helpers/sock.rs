//! Sockets, as far as a host tells about them (bpf-helpers(7)).

use rtbpf_abi::Errno;
use rtbpf_maps::{CgroupStorage, Storage};

use super::native::Cx;
use super::{status, value};
use crate::mem::Buffer;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// Bytes of the tuples of IPv4 and IPv6: addresses and ports.
const TUPLES: [usize; 2] = [12, 36];

fn look_up(cx: &mut Cx<'_>, protocol: u8) -> u64 {
    let (len, netns, flags) = (cx.arg(3) as u32 as usize, cx.arg(4), cx.arg(5));
    // The network namespace is a 32-bit id, or -1 for the context's own.
    let known_ns = i32::try_from(netns as i64).is_ok();
    if !TUPLES.contains(&len) || flags != 0 || !known_ns {
        return 0;
    }
    let tuple = cx.copied(2, len);
    match cx.host().world().network.clone().socket(&tuple, netns, protocol) {
        Some(sock) => cx.host().keep(Buffer::from_bytes(&sock)),
        None => 0,
    }
}

pub(crate) fn lookup_tcp(cx: &mut Cx<'_>) -> u64 {
    look_up(cx, TCP)
}

pub(crate) fn lookup_udp(cx: &mut Cx<'_>) -> u64 {
    look_up(cx, UDP)
}

/// The engine ends the socket's region.
pub(crate) fn release(_: &mut Cx<'_>) -> u64 {
    0
}

/// Every socket the host tells about is a full one.
pub(crate) fn fullsock(cx: &mut Cx<'_>) -> u64 {
    cx.arg(1)
}

/// The protocol of the `struct bpf_sock` in argument 1.
fn protocol(cx: &Cx<'_>) -> u32 {
    cx.bytes(1, 16).slice(12, 4).and_then(|bytes| bytes.to_vec().try_into().ok()).map_or(0, u32::from_ne_bytes)
}

/// A TCP socket's counters, all zero; null for other sockets.
pub(crate) fn tcp_sock(cx: &mut Cx<'_>) -> u64 {
    if protocol(cx) == TCP as u32 { cx.host().keep(Buffer::zeroed(96)) } else { 0 }
}

/// Only a listening socket (state 10).
pub(crate) fn get_listener_sock(cx: &mut Cx<'_>) -> u64 {
    let state = cx.bytes(1, 76).slice(72, 4).map(|bytes| bytes.to_vec());
    if state == Some(10u32.to_ne_bytes().to_vec()) { cx.arg(1) } else { 0 }
}

/// The machine has no kernel structures behind its sockets.
pub(crate) fn no_cast(_: &mut Cx<'_>) -> u64 {
    0
}

/// A number for the socket: its address, which is unique while it lives.
pub(crate) fn get_socket_cookie(cx: &mut Cx<'_>) -> u64 {
    let sock = cx.host().ctx.object("sk").map(|sock| sock.addr());
    sock.unwrap_or(1) >> 3
}

pub(crate) fn get_socket_uid(_: &mut Cx<'_>) -> u64 {
    0
}

pub(crate) fn get_netns_cookie(_: &mut Cx<'_>) -> u64 {
    1
}

/// Sockets of a map are the host's to deliver to; an empty map has none.
pub(crate) fn no_entry(_: &mut Cx<'_>) -> u64 {
    Errno::ENOENT.as_ret()
}

/// Redirects of socket data: `SK_DROP` where there is no target.
pub(crate) fn drop_data(_: &mut Cx<'_>) -> u64 {
    0
}

/// Assigning a socket to a packet: nothing is delivered, so that anything fits.
pub(crate) fn assign(cx: &mut Cx<'_>) -> u64 {
    if cx.arg(3) == 0 { 0 } else { Errno::EINVAL.as_ret() }
}

/// Sizes that decide when a message's program runs again; the host hands in whole messages.
pub(crate) fn accept(_: &mut Cx<'_>) -> u64 {
    0
}

/// Bytes `start..end` of a message become linear.
pub(crate) fn msg_pull_data(cx: &mut Cx<'_>) -> u64 {
    let (start, end, flags) = (cx.arg(2) as u32 as usize, cx.arg(3) as u32 as usize, cx.arg(4));
    let len = cx.host().ctx.packet().map_or(0, |packet| packet.len());
    status(if flags != 0 || start >= end || end > len { Err(Errno::EINVAL) } else { Ok(()) })
}

fn resize_message(cx: &mut Cx<'_>, sign: i64) -> u64 {
    let (start, len, flags) = (cx.arg(2) as u32 as usize, cx.arg(3) as u32 as i64, cx.arg(4));
    let ctx = &mut cx.host().ctx;
    let done = match ctx.packet_mut() {
        Some(packet) if flags == 0 && len <= 0xffff => packet.resize_at(start, len * sign),
        _ => false,
    };
    let size = ctx.packet().map_or(0, |packet| packet.len() as u64);
    ctx.set_field("size", size);
    ctx.refresh();
    status(if done { Ok(()) } else { Err(Errno::EINVAL) })
}

pub(crate) fn msg_push_data(cx: &mut Cx<'_>) -> u64 {
    resize_message(cx, 1)
}

pub(crate) fn msg_pop_data(cx: &mut Cx<'_>) -> u64 {
    resize_message(cx, -1)
}

/// Socket options live in a network stack.
pub(crate) fn no_option(cx: &mut Cx<'_>) -> u64 {
    let len = cx.arg(5) as u32 as usize;
    cx.write(4, len, &vec![0; len]);
    Errno::EINVAL.as_ret()
}

/// See [`no_option`].
pub(crate) fn set_option(_: &mut Cx<'_>) -> u64 {
    Errno::EINVAL.as_ret()
}

/// The value of the attachment: the machine has one attachment for each map.
pub(crate) fn get_local_storage(cx: &mut Cx<'_>) -> u64 {
    let Ok(map) = cx.map(1) else { return 0 };
    let run = cx.run_cx();
    let key = vec![0; map.spec().key_size as usize];
    if map.lookup(&run, &key).is_none()
        && let Some(storage) = map.as_any().downcast_ref::<CgroupStorage>()
    {
        // Another run may have made it meanwhile: the lookup below finds either.
        let _ = storage.attach(&run, &key);
    }
    map.lookup(&run, &key).map_or(0, |value| value.addr())
}

/// `*_storage_get`: the owner's value, made where flag 1 asks for it.
pub(crate) fn storage_get(cx: &mut Cx<'_>) -> u64 {
    let (owner, flags) = (cx.arg(2), cx.arg(4));
    let Ok(map) = cx.map(1) else { return 0 };
    if owner == 0 || flags > 1 {
        return 0;
    }
    let run = cx.run_cx();
    let init = (cx.arg(3) != 0).then(|| cx.bytes(3, map.spec().value_size as usize));
    let storage = map.as_any().downcast_ref::<Storage>();
    storage.and_then(|storage| storage.get(&run, owner, init, flags)).map_or(0, |value| value.addr())
}

pub(crate) fn storage_delete(cx: &mut Cx<'_>) -> u64 {
    let owner = cx.arg(2);
    let (Ok(map), run) = (cx.map(1), cx.run_cx()) else { return Errno::EINVAL.as_ret() };
    if owner == 0 {
        return Errno::EINVAL.as_ret();
    }
    super::map_status(map.delete(&run, &owner.to_ne_bytes()))
}

/// Cgroup programs answer through a value beside R0.
pub(crate) fn get_retval(cx: &mut Cx<'_>) -> u64 {
    cx.host().retval as i64 as u64
}

pub(crate) fn set_retval(cx: &mut Cx<'_>) -> u64 {
    let retval = cx.arg(1) as i32;
    // Errors only, as the caller of a system call sees them.
    if !(-4095..=0).contains(&retval) {
        return Errno::EINVAL.as_ret();
    }
    cx.host().retval = retval;
    0
}

/// Copies the text that the host tells to argument 2, cut and NUL-terminated; its length, or E2BIG when it was cut.
fn sysctl(cx: &mut Cx<'_>, text: &str) -> u64 {
    let len = cx.arg(3) as u32 as usize;
    let mut out = text.bytes().take(len.saturating_sub(1)).collect::<Vec<u8>>();
    let (fits, copied) = (out.len() == text.len(), out.len() as u64);
    out.resize(len, 0);
    cx.write(2, len, &out);
    value(if fits { Ok(copied) } else { Err(Errno::E2BIG) })
}

pub(crate) fn sysctl_get_name(cx: &mut Cx<'_>) -> u64 {
    /// `BPF_F_SYSCTL_BASE_NAME`: without directories.
    const BASE_NAME: u64 = 1;
    let name = cx.host().world().sysctl.name.clone();
    let base = if cx.arg(4) & BASE_NAME != 0 { name.rsplit('/').next().unwrap_or_default() } else { &name };
    sysctl(cx, base)
}

pub(crate) fn sysctl_value(cx: &mut Cx<'_>) -> u64 {
    let text = cx.host().world().sysctl.value.clone();
    sysctl(cx, &text)
}
