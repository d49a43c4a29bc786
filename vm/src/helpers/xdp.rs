//! XDP frames and redirects (bpf-helpers(7)); behaviour at the edges was measured on Linux 6.18.

use rtbpf_abi::{Errno, MapKind, ProgType};
use rtbpf_maps::RedirectMap;

use super::native::Cx;
use super::{status, value};
use crate::ctx::Redirect;
use crate::packet::Packet;

/// The part of the headroom that the frame's bookkeeping takes.
const RESERVED: usize = 40;
/// The shortest frame.
const ETHERNET: usize = 14;
/// The most bytes of one fragment.
const PAGE: usize = 4096;
/// The longest metadata.
const MAX_META: usize = 252;

const XDP_ABORTED: u64 = 0;
const XDP_REDIRECT: u64 = 4;
const TC_SHOT: u64 = 2;
const TC_REDIRECT: u64 = 7;

fn packet<'a>(cx: &'a mut Cx<'_>) -> Result<&'a mut Packet, Errno> {
    cx.host().ctx.packet_mut().ok_or(Errno::EINVAL)
}

pub(crate) fn adjust_head(cx: &mut Cx<'_>) -> u64 {
    let delta = cx.arg(2) as i32 as i64;
    let moved = packet(cx).and_then(|packet| {
        let room = packet.headroom().saturating_sub(RESERVED) as i64;
        if delta < -room || !packet.move_head(delta, ETHERNET) { Err(Errno::EINVAL) } else { Ok(()) }
    });
    cx.host().ctx.refresh();
    status(moved)
}

pub(crate) fn adjust_meta(cx: &mut Cx<'_>) -> u64 {
    let delta = cx.arg(2) as i32 as i64;
    let moved = packet(cx).and_then(|packet| {
        let room = packet.headroom().saturating_sub(RESERVED) as i64;
        let len = packet.meta_len() as i64 - delta;
        if delta < -room || len < 0 {
            return Err(Errno::EINVAL);
        }
        if len % 4 != 0 || len > MAX_META as i64 {
            return Err(Errno::EACCES);
        }
        if packet.move_meta(delta) { Ok(()) } else { Err(Errno::EINVAL) }
    });
    cx.host().ctx.refresh();
    status(moved)
}

pub(crate) fn adjust_tail(cx: &mut Cx<'_>) -> u64 {
    let delta = cx.arg(2) as i32 as i64;
    let moved = packet(cx).and_then(|packet| {
        let len = usize::try_from(packet.len() as i64 + delta).map_err(|_| Errno::EINVAL)?;
        let frags = packet.len() - packet.linear_len();
        // The last fragment ends within its page; without fragments the packet ends within its own.
        let fits = frags == 0 || len <= packet.linear_len() + frags.next_multiple_of(PAGE);
        if len < ETHERNET || !fits || !packet.set_len(len, frags != 0) {
            return Err(Errno::EINVAL);
        }
        if len <= packet.linear_len() {
            packet.set_linear(usize::MAX);
        }
        Ok(())
    });
    cx.host().ctx.refresh();
    status(moved)
}

pub(crate) fn get_buff_len(cx: &mut Cx<'_>) -> u64 {
    value(packet(cx).map(|packet| packet.len() as u64))
}

/// The offset in argument 2.
fn offset(cx: &Cx<'_>) -> Result<usize, Errno> {
    match cx.arg(2) as u32 {
        at @ ..=0xffff => Ok(at as usize),
        _ => Err(Errno::EFAULT),
    }
}

pub(crate) fn load_bytes(cx: &mut Cx<'_>) -> u64 {
    let len = cx.arg(4) as u32 as usize;
    let mut bytes = vec![0; len];
    status(offset(cx).and_then(|at| {
        if !packet(cx)?.read(at, &mut bytes) {
            return Err(Errno::EINVAL);
        }
        cx.write(3, len, &bytes);
        Ok(())
    }))
}

pub(crate) fn store_bytes(cx: &mut Cx<'_>) -> u64 {
    let bytes = cx.copied(3, cx.arg(4) as u32 as usize);
    status(offset(cx).and_then(|at| if packet(cx)?.write(at, &bytes) { Ok(()) } else { Err(Errno::EINVAL) }))
}

/// Remembers where the packet shall go; the host delivers it.
pub(crate) fn redirect(cx: &mut Cx<'_>) -> u64 {
    let (ifindex, flags) = (cx.arg(1) as u32, cx.arg(2));
    let ctx = &mut cx.host().ctx;
    if ctx.prog_type() == ProgType::Xdp {
        if flags != 0 {
            return XDP_ABORTED;
        }
        ctx.set_redirect(Redirect::Interface { ifindex, ingress: false });
        return XDP_REDIRECT;
    }
    if flags & !1 != 0 {
        return TC_SHOT;
    }
    ctx.set_redirect(Redirect::Interface { ifindex, ingress: flags & 1 != 0 });
    TC_REDIRECT
}

/// `redirect_peer` and `redirect_neigh`: the flags must be 0.
pub(crate) fn redirect_peer(cx: &mut Cx<'_>) -> u64 {
    redirect_plain(cx, 2)
}

/// See [`redirect_peer`].
pub(crate) fn redirect_neigh(cx: &mut Cx<'_>) -> u64 {
    redirect_plain(cx, 4)
}

fn redirect_plain(cx: &mut Cx<'_>, flags: usize) -> u64 {
    if cx.arg(flags) != 0 {
        return TC_SHOT;
    }
    let ifindex = cx.arg(1) as u32;
    cx.host().ctx.set_redirect(Redirect::Interface { ifindex, ingress: false });
    TC_REDIRECT
}

pub(crate) fn clone_redirect(cx: &mut Cx<'_>) -> u64 {
    let (ifindex, flags) = (cx.arg(2) as u32, cx.arg(3));
    if flags & !1 != 0 || cx.host().world().network.mtu(ifindex).is_none() {
        return Errno::EINVAL.as_ret();
    }
    cx.host().ctx.add_clone(Redirect::Interface { ifindex, ingress: flags & 1 != 0 });
    0
}

pub(crate) fn redirect_map(cx: &mut Cx<'_>) -> u64 {
    /// `BPF_F_BROADCAST` and `BPF_F_EXCLUDE_INGRESS`.
    const BROADCAST: u64 = 8 | 16;
    let Ok(map) = cx.map_ref(1) else { return XDP_ABORTED };
    let (key, flags) = (cx.arg(2), cx.arg(3));
    let (index, run) = (key as u32, cx.run_cx());
    let device = matches!(map.spec().kind, MapKind::Devmap | MapKind::DevmapHash);
    if flags & !(3 | if device { BROADCAST } else { 0 }) != 0 {
        return XDP_ABORTED;
    }
    let Some(targets) = map.as_any().downcast_ref::<RedirectMap>() else { return flags & 3 };
    if flags & 8 == 0 && targets.target(&run, index).is_none() {
        return flags & 3;
    }
    cx.host().ctx.set_redirect(Redirect::Map { map, index, flags });
    XDP_REDIRECT
}

/// Answered by the host: `struct bpf_fib_lookup` is 64 bytes.
pub(crate) fn fib_lookup(cx: &mut Cx<'_>) -> u64 {
    let (len, flags) = (cx.arg(3) as u32 as usize, cx.arg(4) as u32);
    let mut params = [0; 64];
    if len < params.len() || flags & !0x3f != 0 {
        return Errno::EINVAL.as_ret();
    }
    params.copy_from_slice(&cx.copied(2, 64));
    let answer = cx.host().world().network.clone().fib_lookup(&mut params, flags);
    cx.write(2, 64, &params);
    answer as u64
}

pub(crate) fn check_mtu(cx: &mut Cx<'_>) -> u64 {
    /// `BPF_MTU_CHK_SEGS`: of whole packets behind sockets only.
    const SEGMENTS: u64 = 1;
    let (ifindex, delta, flags) = (cx.arg(2) as u32, cx.arg(4) as i32 as i64, cx.arg(5));
    let asked = cx.copied(3, 4).try_into().map_or(0, u32::from_ne_bytes);
    let host = cx.host();
    let segments = host.ctx.prog_type() != ProgType::Xdp && delta == 0 && asked == 0;
    if flags & !(if segments { SEGMENTS } else { 0 }) != 0 {
        return Errno::EINVAL.as_ret();
    }
    let own = host.ctx.field_value(if host.ctx.prog_type() == ProgType::Xdp { "ingress_ifindex" } else { "ifindex" });
    let ifindex = if ifindex == 0 { own as u32 } else { ifindex };
    let Some(mtu) = host.world().network.mtu(ifindex) else { return Errno::ENODEV.as_ret() };
    let network = cx.host().ctx.packet().map_or(0, |packet| packet.len().saturating_sub(ETHERNET)) as i64;
    // Sizes are signed 32-bit numbers there.
    let len = if asked != 0 { asked as i32 as i64 } else { network } + delta;
    cx.write(3, 4, &mtu.to_ne_bytes());
    // BPF_MTU_CHK_RET_FRAG_NEEDED
    if len > mtu as i64 { 1 } else { 0 }
}
