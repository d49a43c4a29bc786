//! Operations of every map (bpf-helpers(7)).

use rtbpf_maps::{MapRef, ValuePtr};

use super::map_status;
use super::native::Cx;

/// The map in argument 1 and a copy of the key in argument 2: another CPU may write the program's own bytes.
fn map_and_key(cx: &Cx<'_>) -> Option<(MapRef, Vec<u8>)> {
    let map = cx.map(1).ok()?;
    let key = cx.bytes(2, map.spec().key_size as usize).to_vec();
    Some((map, key))
}

pub(crate) fn lookup(cx: &mut Cx<'_>) -> u64 {
    let Some((map, key)) = map_and_key(cx) else { return 0 };
    map.lookup(&cx.run_cx(), &key).map_or(0, ValuePtr::addr)
}

pub(crate) fn lookup_percpu(cx: &mut Cx<'_>) -> u64 {
    let Some((map, key)) = map_and_key(cx) else { return 0 };
    // The CPU is a u32: the upper half of the register is ignored.
    let slot = cx.arg(3) as u32;
    map.lookup_percpu(&cx.run_cx(), &key, slot).map_or(0, ValuePtr::addr)
}

pub(crate) fn update(cx: &mut Cx<'_>) -> u64 {
    let Some((map, key)) = map_and_key(cx) else { return 0 };
    let value = cx.bytes(3, map.spec().value_size as usize);
    map_status(map.update(&cx.run_cx(), &key, value, cx.arg(4)))
}

pub(crate) fn delete(cx: &mut Cx<'_>) -> u64 {
    let Some((map, key)) = map_and_key(cx) else { return 0 };
    map_status(map.delete(&cx.run_cx(), &key))
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
