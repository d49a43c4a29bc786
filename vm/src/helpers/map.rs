//! Operations of every map (bpf-helpers(7)).

use rtbpf_abi::limits::STACK_BYTES;
use rtbpf_maps::{Map, ValuePtr};
use rtbpf_rt::RunCx;

use super::map_status;
use super::native::Cx;

/// Calls `operation` with the map in argument 1, a copy of the key in argument 2 — another CPU may write the program's own
/// bytes — and the call. The two most common widths are known to the compiler.
#[inline(always)]
fn keyed<'a>(cx: &mut Cx<'a>, operation: impl FnOnce(&'a dyn Map, &RunCx, &[u8], &Cx<'_>) -> u64) -> u64 {
    let (Ok(map), run) = (cx.map(1), cx.run_cx()) else { return 0 };
    let key = match cx.head(1).spec().key_size {
        4 => cx.bytes(2, 4).first_u32().map(|key| operation(map, &run, &key.to_ne_bytes(), cx)),
        8 => cx.bytes(2, 8).first_u64().map(|key| operation(map, &run, &key.to_ne_bytes(), cx)),
        size => Some(by_bytes(cx.again(), size as usize, |key, cx| operation(map, &run, key, cx))),
    };
    key.unwrap_or(0)
}

/// The same for keys of any size. Those that fit a program's stack are not copied to the heap.
#[inline(never)]
fn by_bytes(cx: Cx<'_>, len: usize, operation: impl FnOnce(&[u8], &Cx<'_>) -> u64) -> u64 {
    const SHORT: usize = 64;
    let bytes = cx.bytes(2, len);
    if let Some(short) = [0; SHORT].get_mut(..len) {
        bytes.copy_to(short);
        return operation(short, &cx);
    }
    if let Some(middle) = [0; STACK_BYTES as usize].get_mut(..len) {
        bytes.copy_to(middle);
        return operation(middle, &cx);
    }
    operation(&bytes.to_vec(), &cx)
}

#[inline]
pub(crate) fn lookup(cx: &mut Cx<'_>) -> u64 {
    let Ok(map) = cx.map(1) else { return 0 };
    let found = match cx.head(1).spec().key_size {
        4 => cx.bytes(2, 4).first_u32().and_then(|key| map.lookup_u32(cx.run_cx_ref(), key)),
        8 => cx.bytes(2, 8).first_halves().and_then(|key| map.lookup_u64(cx.run_cx_ref(), key)),
        size => return lookup_bytes(cx.again(), map, size as usize),
    };
    found.map_or(0, ValuePtr::addr)
}

#[inline(never)]
fn lookup_bytes(mut cx: Cx<'_>, map: &dyn Map, len: usize) -> u64 {
    let run = cx.run_cx();
    by_bytes(cx, len, |key, _| map.lookup(&run, key).map_or(0, ValuePtr::addr))
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
