//! Who runs, and what programs report about it (bpf-helpers(7)).

use rtbpf_abi::Errno;
use rtbpf_maps::stack_trace::stack;
use rtbpf_maps::{PerfEventArray, ProgBytes, StackTrace};

use super::native::Cx;
use super::{map_status, status, value};

pub(crate) fn get_current_pid_tgid(cx: &mut Cx<'_>) -> u64 {
    let identity = &cx.host().world().identity;
    (identity.tgid as u64) << 32 | identity.pid as u64
}

pub(crate) fn get_current_uid_gid(cx: &mut Cx<'_>) -> u64 {
    let identity = &cx.host().world().identity;
    (identity.gid as u64) << 32 | identity.uid as u64
}

/// The command name, padded with zeros; the last byte is always zero.
pub(crate) fn get_current_comm(cx: &mut Cx<'_>) -> u64 {
    let len = cx.arg(2) as u32 as usize;
    let comm = cx.host().world().identity.comm.clone();
    let mut out = vec![0; len];
    let room = len.saturating_sub(1).min(15);
    for (to, from) in out.iter_mut().take(room).zip(comm.bytes()) {
        *to = from;
    }
    cx.write(1, len, &out);
    0
}

pub(crate) fn get_current_cgroup_id(cx: &mut Cx<'_>) -> u64 {
    cx.host().world().identity.cgroup
}

/// Level 0 is the root, level 1 the task's own cgroup; there are no others.
pub(crate) fn get_current_ancestor_cgroup_id(cx: &mut Cx<'_>) -> u64 {
    match cx.arg(1) as u32 {
        0 => 1,
        1 => get_current_cgroup_id(cx),
        _ => 0,
    }
}

/// A number that stands for the task: programs may only hand it around.
pub(crate) fn get_current_task(cx: &mut Cx<'_>) -> u64 {
    cx.host().task().addr()
}

/// The pid and tgid inside the machine's only namespace, whatever `dev` and `ino` say.
pub(crate) fn get_ns_current_pid_tgid(cx: &mut Cx<'_>) -> u64 {
    if cx.arg(4) as u32 != 8 {
        return Errno::EINVAL.as_ret();
    }
    let identity = &cx.host().world().identity;
    let mut out = identity.pid.to_ne_bytes().to_vec();
    out.extend_from_slice(&identity.tgid.to_ne_bytes());
    cx.write(3, 8, &out);
    0
}

/// Nobody receives signals.
pub(crate) fn send_signal(cx: &mut Cx<'_>) -> u64 {
    // Linux takes 0 and the numbers of signals.
    if cx.arg(1) as u32 > 64 { Errno::EINVAL.as_ret() } else { 0 }
}

/// Programs that are not attached have no cookie.
pub(crate) fn get_attach_cookie(_: &mut Cx<'_>) -> u64 {
    0
}

/// The address of the probed function: what a kprobe's instruction pointer (`pt_regs`, 16th word) says.
pub(crate) fn get_func_ip(cx: &mut Cx<'_>) -> u64 {
    cx.host().ctx.get(16 * 8, rtbpf_isa::Size::D)
}

pub(crate) fn perf_event_output(cx: &mut Cx<'_>) -> u64 {
    /// Bits of the flags that say how many bytes of the packet to add.
    const PACKET_LEN: u64 = 0xf_ffff << 32;
    let (flags, len) = (cx.arg(3), cx.arg(5) as u32 as usize);
    let Ok(map) = cx.map(2) else { return Errno::EINVAL.as_ret() };
    let Some(array) = map.as_any().downcast_ref::<PerfEventArray>() else { return Errno::EINVAL.as_ret() };
    let extra = ((flags & PACKET_LEN) >> 32) as usize;
    let run = cx.run_cx();
    let mut packet = Vec::new();
    if extra != 0 {
        match cx.host().ctx.packet() {
            Some(bytes) if extra <= bytes.len() => packet = bytes.to_vec(),
            Some(_) => return Errno::EFAULT.as_ret(),
            None => return Errno::EINVAL.as_ret(),
        }
        packet.truncate(extra);
    }
    let record = if len == 0 { ProgBytes::from(&[][..]) } else { cx.bytes(4, len) };
    map_status(array.output(&run, flags & !PACKET_LEN, &[record, packet.as_slice().into()]))
}

fn counter(cx: &mut Cx<'_>) -> Result<[u64; 3], Errno> {
    let map = cx.map(1)?;
    let array = map.as_any().downcast_ref::<PerfEventArray>().ok_or(Errno::EINVAL)?;
    array.counter(&cx.run_cx(), cx.arg(2)).map_err(|error| error.errno())
}

pub(crate) fn perf_event_read(cx: &mut Cx<'_>) -> u64 {
    value(counter(cx).map(|[count, ..]| count))
}

/// `struct bpf_perf_event_value`: counter, enabled and running time.
pub(crate) fn perf_event_read_value(cx: &mut Cx<'_>) -> u64 {
    let len = cx.arg(4) as u32 as usize;
    let read = if len == 24 { counter(cx) } else { Err(Errno::EINVAL) };
    let values = read.unwrap_or_default();
    cx.write(3, len, &values.map(u64::to_ne_bytes).concat());
    if len > 24 {
        cx.write(3, len, &vec![0; len]);
    }
    status(read.map(|_| ()))
}

/// Shows the call stack. In a handler it is the interrupted one, all of it user's: there are no kernel frames. Elsewhere
/// it is the one frame a program in the machine has: the place its context names, or the program's start.
fn with_frames<R>(cx: &mut Cx<'_>, flags: u64, show: impl FnOnce(&mut Cx<'_>, &[u64]) -> R) -> R {
    // Out of the run's state meanwhile, and back.
    let Some(frames) = cx.host().frames.take() else {
        let ip = get_func_ip(cx);
        return show(cx, &[if ip == 0 { 0xffff_ffff_8100_0000 } else { ip }]);
    };
    let shown = show(cx, if flags & stack::USER != 0 { &frames } else { &[] });
    cx.host().frames = Some(frames);
    shown
}

pub(crate) fn get_stackid(cx: &mut Cx<'_>) -> u64 {
    let Ok(map) = cx.map(2) else { return Errno::EINVAL.as_ret() };
    let Some(stacks) = map.as_any().downcast_ref::<StackTrace>() else { return Errno::EINVAL.as_ret() };
    let flags = cx.arg(3);
    let id = with_frames(cx, flags, |cx, frames| stacks.id_of(&cx.run_cx(), frames, flags));
    value(id.map(u64::from).map_err(|error| error.errno()))
}

/// Writes the stack to argument 2; the number of bytes, or a negated error number.
pub(crate) fn get_stack(cx: &mut Cx<'_>) -> u64 {
    /// Frames to skip, and the flags that exist.
    const SKIP: u64 = 0xff;
    const KNOWN: u64 = SKIP | 0x100 | 0x800;
    let (len, flags) = (cx.arg(3) as u32 as usize, cx.arg(4));
    if flags & !KNOWN != 0 || len % 8 != 0 {
        return Errno::EINVAL.as_ret();
    }
    let shown: Vec<u8> = with_frames(cx, flags, |_, frames| {
        frames.iter().skip((flags & SKIP) as usize).take(len / 8).flat_map(|f| f.to_ne_bytes()).collect()
    });
    let mut out = shown.clone();
    out.resize(len, 0);
    cx.write(2, len, &out);
    shown.len() as u64
}

/// Remote controls report through the host.
pub(crate) fn rc_repeat(cx: &mut Cx<'_>) -> u64 {
    cx.host().ctx.add_key(crate::ctx::Key::Repeat);
    0
}

pub(crate) fn rc_keydown(cx: &mut Cx<'_>) -> u64 {
    let (protocol, scancode, toggle) = (cx.arg(2) as u32, cx.arg(3), cx.arg(4) as u32);
    cx.host().ctx.add_key(crate::ctx::Key::Down { protocol, scancode, toggle });
    0
}

pub(crate) fn rc_pointer_rel(cx: &mut Cx<'_>) -> u64 {
    let (x, y) = (cx.arg(2) as i32, cx.arg(3) as i32);
    cx.host().ctx.add_key(crate::ctx::Key::Pointer { x, y });
    0
}
