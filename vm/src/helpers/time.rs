//! Time, chance and place (bpf-helpers(7)).

use super::native::Cx;

/// A tick of `jiffies`: 4 ms (`CONFIG_HZ=250`).
const NS_PER_JIFFY: u64 = 4_000_000;

#[inline]
pub(crate) fn ktime_get_ns(cx: &mut Cx<'_>) -> u64 {
    cx.host().world().clock.monotonic_ns()
}

#[inline]
pub(crate) fn ktime_get_boot_ns(cx: &mut Cx<'_>) -> u64 {
    cx.host().world().clock.boot_ns()
}

/// The monotonic clock at the last tick.
#[inline]
pub(crate) fn ktime_get_coarse_ns(cx: &mut Cx<'_>) -> u64 {
    let now = ktime_get_ns(cx);
    now - now % NS_PER_JIFFY
}

#[inline]
pub(crate) fn ktime_get_tai_ns(cx: &mut Cx<'_>) -> u64 {
    cx.host().world().clock.tai_ns()
}

#[inline]
pub(crate) fn jiffies64(cx: &mut Cx<'_>) -> u64 {
    ktime_get_ns(cx) / NS_PER_JIFFY
}

#[inline]
pub(crate) fn get_prandom_u32(cx: &mut Cx<'_>) -> u64 {
    cx.host().random() >> 32
}

#[inline]
pub(crate) fn get_smp_processor_id(cx: &mut Cx<'_>) -> u64 {
    cx.host().cx.slot as u64
}

#[inline]
pub(crate) fn get_numa_node_id(cx: &mut Cx<'_>) -> u64 {
    cx.host().world().identity.numa_node as u64
}
