//! Helpers that ask for parts of a kernel which the machine does not have, and answer as Linux does where that part is
//! empty, absent or says no (bpf-helpers(7)).

use rtbpf_abi::Errno;
use rtbpf_maps::PerfEventArray;

use super::native::Cx;
use super::value;
use crate::ctx::OBJECT_BYTES;
use crate::mem::Buffer;

/// Zeroes the buffer in argument `n`, whose size is the next argument, and answers `errno`.
fn nothing(cx: &Cx<'_>, n: usize, errno: Errno) -> u64 {
    let len = cx.arg(n + 1) as u32 as usize;
    if cx.arg(n) != 0 {
        cx.write(n, len, &vec![0; len]);
    }
    errno.as_ret()
}

/// No such entry: `find_vma`, `get_branch_snapshot`, `read_branch_records`, `btf_find_by_name_kind`.
pub(crate) fn no_entry(_: &mut Cx<'_>) -> u64 {
    Errno::ENOENT.as_ret()
}

/// Not here: TCP header options, socket maps filled from a program, segment routing, system calls.
pub(crate) fn not_supported(_: &mut Cx<'_>) -> u64 {
    Errno::EOPNOTSUPP.as_ret()
}

/// Not allowed: writing to a user's memory, which no task here has (`probe_write_user`).
pub(crate) fn not_permitted(_: &mut Cx<'_>) -> u64 {
    Errno::EPERM.as_ret()
}

/// `get_task_stack` of a task that is none.
pub(crate) fn no_stack(cx: &mut Cx<'_>) -> u64 {
    nothing(cx, 2, Errno::EOPNOTSUPP)
}

/// `snprintf_btf`: no kernel, no types of it.
pub(crate) fn no_types(cx: &mut Cx<'_>) -> u64 {
    nothing(cx, 1, Errno::ENOENT)
}

/// Refused: binding sockets, SYN cookies of sockets that do not listen, values of counters that do not run.
pub(crate) fn invalid(_: &mut Cx<'_>) -> u64 {
    Errno::EINVAL.as_ret()
}

/// Taken, without effect: an acknowledgement to send, a value to install.
pub(crate) fn accepted(_: &mut Cx<'_>) -> u64 {
    0
}

/// `sys_close`: no descriptor is open.
pub(crate) fn no_descriptor(_: &mut Cx<'_>) -> u64 {
    Errno::EBADF.as_ret()
}

/// `perf_prog_read_value`, `sysctl_get_new_value`.
pub(crate) fn no_value(cx: &mut Cx<'_>) -> u64 {
    nothing(cx, 2, Errno::EINVAL)
}

/// `skb_get_xfrm_state`.
pub(crate) fn no_state(cx: &mut Cx<'_>) -> u64 {
    nothing(cx, 3, Errno::EINVAL)
}

/// `kallsyms_lookup_name`: no kernel, no symbols.
pub(crate) fn no_symbol(cx: &mut Cx<'_>) -> u64 {
    cx.write(4, 8, &[0; 8]);
    Errno::ENOENT.as_ret()
}

/// The registers of a task that never was in user space: zeros.
pub(crate) fn task_pt_regs(cx: &mut Cx<'_>) -> u64 {
    cx.host().keep(Buffer::zeroed(OBJECT_BYTES))
}

/// Whether the task's cgroup is the one at an index of a cgroup array.
fn under_cgroup(cx: &mut Cx<'_>, map: usize, index: usize) -> u64 {
    let index = cx.arg(index) as u32;
    let Ok(map) = cx.map(map) else { return Errno::EINVAL.as_ret() };
    if index >= map.spec().max_entries {
        return Errno::E2BIG.as_ret();
    }
    let cgroup = map.as_any().downcast_ref::<PerfEventArray>().and_then(|array| array.cgroup(index));
    let own = cx.host().world().identity.cgroup;
    value(cgroup.map(|cgroup| (cgroup == own) as u64).ok_or(Errno::EAGAIN))
}

pub(crate) fn current_task_under_cgroup(cx: &mut Cx<'_>) -> u64 {
    under_cgroup(cx, 1, 2)
}

pub(crate) fn skb_under_cgroup(cx: &mut Cx<'_>) -> u64 {
    under_cgroup(cx, 2, 3)
}

/// Which callbacks a TCP socket wants; the answer is the bits that no kernel knows.
pub(crate) fn sock_ops_cb_flags_set(cx: &mut Cx<'_>) -> u64 {
    const KNOWN: u64 = 0x7f;
    let flags = cx.arg(2) as u32 as u64;
    let ctx = &mut cx.host().ctx;
    if ctx.field_value("is_fullsock") == 0 {
        return Errno::EINVAL.as_ret();
    }
    ctx.set_field("bpf_sock_ops_cb_flags", flags & KNOWN);
    flags & !KNOWN
}

/// Exchanges the kernel pointer in a value for argument 2.
pub(crate) fn kptr_xchg(cx: &mut Cx<'_>) -> u64 {
    cx.swap_pointer(1, cx.arg(2))
}
