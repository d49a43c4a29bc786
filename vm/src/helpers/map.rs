//! Operations of every map (bpf-helpers(7)).

use rtbpf_abi::limits::STACK_BYTES;
use rtbpf_maps::{Map, ValuePtr};
use rtbpf_rt::RunCx;

use super::map_status;
use super::native::Cx;

/// Calls `operation` with the map in argument 1, a copy of the key in argument 2 — another CPU may write the program's own
/// bytes — and the call. Keys that fit a program's stack are not copied to the heap.
#[inline(always)]
fn keyed<'a, T>(cx: &mut Cx<'a>, operation: impl FnOnce(&'a dyn Map, &RunCx, &[u8], &Cx<'a>) -> T) -> Option<T> {
    const SHORT: usize = 64;
    let map = cx.map(1).ok()?;
    let (run, len) = (cx.run_cx(), map.spec().key_size as usize);
    let on = |key: &mut [u8]| cx.bytes(2, len).copy_to(key);
    if len <= SHORT {
        let mut key = [0; SHORT];
        let key = &mut key[..len];
        on(key);
        return Some(operation(map, &run, key, cx));
    }
    let (mut middle, mut long) = ([0; STACK_BYTES as usize], Vec::new());
    let key = match middle.get_mut(..len) {
        Some(key) => key,
        None => {
            long.resize(len, 0);
            &mut long
        }
    };
    on(key);
    Some(operation(map, &run, key, cx))
}

pub(crate) fn lookup(cx: &mut Cx<'_>) -> u64 {
    keyed(cx, |map, run, key, _| map.lookup(run, key).map_or(0, ValuePtr::addr)).unwrap_or(0)
}

pub(crate) fn lookup_percpu(cx: &mut Cx<'_>) -> u64 {
    // The CPU is a u32: the upper half of the register is ignored.
    let slot = cx.arg(3) as u32;
    keyed(cx, |map, run, key, _| map.lookup_percpu(run, key, slot).map_or(0, ValuePtr::addr)).unwrap_or(0)
}

pub(crate) fn update(cx: &mut Cx<'_>) -> u64 {
    keyed(cx, |map, run, key, cx| {
        let value = cx.bytes(3, map.spec().value_size as usize);
        map_status(map.update(run, key, value, cx.arg(4)))
    })
    .unwrap_or(0)
}

pub(crate) fn delete(cx: &mut Cx<'_>) -> u64 {
    keyed(cx, |map, run, key, _| map_status(map.delete(run, key))).unwrap_or(0)
}

pub(crate) fn push(cx: &mut Cx<'_>) -> u64 {
    let Ok(map) = cx.map(1) else { return 0 };
    let value = cx.bytes(2, map.spec().value_size as usize);
    map_status(map.push(&cx.run_cx(), value, cx.arg(3)))
}

pub(crate) fn pop(cx: &mut Cx<'_>) -> u64 {
    let Ok(map) = cx.map(1) else { return 0 };
    let out = cx.out(2, map.spec().value_size as usize);
    map_status(map.pop(&cx.run_cx(), out))
}

pub(crate) fn peek(cx: &mut Cx<'_>) -> u64 {
    let Ok(map) = cx.map(1) else { return 0 };
    let out = cx.out(2, map.spec().value_size as usize);
    map_status(map.peek(&cx.run_cx(), out))
}
