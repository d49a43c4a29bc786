//! Operations of every map (bpf-helpers(7)).

use rtbpf_abi::limits::STACK_BYTES;
use rtbpf_maps::{Map, ValuePtr};
use rtbpf_rt::RunCx;

use super::map_status;
use super::native::Cx;

/// Calls `operation` with the map in argument 1, a copy of the key in argument 2 — another CPU may write the program's own
/// bytes — and the call. The two most common widths are known to the compiler.
#[inline(always)]
fn keyed<'a>(cx: &mut Cx<'a>, operation: impl FnOnce(&'a dyn Map, &RunCx, &[u8], &Cx<'a>) -> u64) -> u64 {
    let (Ok(map), run) = (cx.map(1), cx.run_cx()) else { return 0 };
    match cx.head(1).spec().key_size {
        4 => operation(map, &run, &cx.bytes(2, 4).to_array::<4>(), cx),
        8 => operation(map, &run, &cx.bytes(2, 8).to_array::<8>(), cx),
        size => by_bytes(cx, size as usize, |key, cx| operation(map, &run, key, cx)),
    }
}

/// The same for keys of any size. Those that fit a program's stack are not copied to the heap.
#[inline(never)]
fn by_bytes<'a>(cx: &Cx<'a>, len: usize, operation: impl FnOnce(&[u8], &Cx<'a>) -> u64) -> u64 {
    const SHORT: usize = 64;
    let bytes = cx.bytes(2, len);
    if let Some(short) = [0; SHORT].get_mut(..len) {
        bytes.copy_to(short);
        return operation(short, cx);
    }
    if let Some(middle) = [0; STACK_BYTES as usize].get_mut(..len) {
        bytes.copy_to(middle);
        return operation(middle, cx);
    }
    operation(&bytes.to_vec(), cx)
}

#[inline]
pub(crate) fn lookup(cx: &mut Cx<'_>) -> u64 {
    keyed(cx, |map, run, key, _| map.lookup(run, key).map_or(0, ValuePtr::addr))
}

#[inline]
pub(crate) fn lookup_percpu(cx: &mut Cx<'_>) -> u64 {
    // The CPU is a u32: the upper half of the register is ignored.
    let slot = cx.arg(3) as u32;
    keyed(cx, |map, run, key, _| map.lookup_percpu(run, key, slot).map_or(0, ValuePtr::addr))
}

#[inline]
pub(crate) fn update(cx: &mut Cx<'_>) -> u64 {
    let value = cx.bytes(3, cx.head(1).spec().value_size as usize);
    keyed(cx, |map, run, key, cx| map_status(map.update(run, key, value, cx.arg(4))))
}

#[inline]
pub(crate) fn delete(cx: &mut Cx<'_>) -> u64 {
    keyed(cx, |map, run, key, _| map_status(map.delete(run, key)))
}

#[inline]
pub(crate) fn push(cx: &mut Cx<'_>) -> u64 {
    let Ok(map) = cx.map(1) else { return 0 };
    let value = cx.bytes(2, cx.head(1).spec().value_size as usize);
    map_status(map.push(&cx.run_cx(), value, cx.arg(3)))
}

#[inline]
pub(crate) fn pop(cx: &mut Cx<'_>) -> u64 {
    let Ok(map) = cx.map(1) else { return 0 };
    let out = cx.out(2, cx.head(1).spec().value_size as usize);
    map_status(map.pop(&cx.run_cx(), out))
}

#[inline]
pub(crate) fn peek(cx: &mut Cx<'_>) -> u64 {
    let Ok(map) = cx.map(1) else { return 0 };
    let out = cx.out(2, cx.head(1).spec().value_size as usize);
    map_status(map.peek(&cx.run_cx(), out))
}
