//! Maps, ring buffers, dynptrs, local storage, locks, timers, control flow.

use super::proto::Arg::*;
use super::proto::Ret::{DynptrSliceOrNull, Int, KptrOrNull, Percpu, RingbufMemOrNull, Void};
use super::proto::{
    DynptrKinds, HelperProto,
    MemUse::{Read, Write},
    Ret,
};
use super::sets::*;
use crate::map_kind::MapKind;

#[rustfmt::skip]
pub(super) const ROWS: &[HelperProto] = &[
//       id  name                     arguments                                                  result                kinds of program; effects
    row(  1, "map_lookup_elem",        &[Map(LOOKUP), MapKey],                                    Ret::MapValueOrNull,  EVERYWHERE).takes_packet(),
    row(  2, "map_update_elem",        &[Map(UPDATE), MapKey, MapValue(Read), Anything],          Int,                  EVERYWHERE).takes_packet(),
    row(  3, "map_delete_elem",        &[Map(UPDATE), MapKey],                                    Int,                  EVERYWHERE).takes_packet(),
    row( 12, "tail_call",              &[Ctx, Map(&[MapKind::ProgArray]), Anything],              Void,                 EVERYWHERE),
    row( 81, "get_local_storage",      &[Map(CGROUP_LOCAL), ConstZero],                           Ret::MapValue,        CGROUP),
    row( 87, "map_push_elem",          &[Map(PUSH), MapValue(Read), Anything],                    Int,                  EVERYWHERE).takes_packet(),
    row( 88, "map_pop_elem",           &[Map(POP), MapValue(Write)],                              Int,                  EVERYWHERE),
    row( 89, "map_peek_elem",          &[Map(PUSH), MapValue(Write)],                             Int,                  EVERYWHERE),
    row( 93, "spin_lock",              &[SpinLock],                                               Void,                 ALL),
    row( 94, "spin_unlock",            &[SpinLockHeld],                                           Void,                 ALL).under_lock(),
    row(107, "sk_storage_get",         &[Map(&[MapKind::SkStorage]), SockCommonOrBtf, MapValueOrNull, Anything], Ret::MapValueOrNull,  SOCK_STORAGE),
    row(107, "sk_storage_get",         &[Map(&[MapKind::SkStorage]), Ctx, MapValueOrNull, Anything], Ret::MapValueOrNull,  CGROUP_SOCK),
    row(107, "sk_storage_get",         &[Map(&[MapKind::SkStorage]), BtfOrNull("sock_common"), MapValueOrNull, Anything], Ret::MapValueOrNull,  BTF_TRACING),
    row(108, "sk_storage_delete",      &[Map(&[MapKind::SkStorage]), SockCommonOrBtf],            Int,                  SOCK_STORAGE),
    row(108, "sk_storage_delete",      &[Map(&[MapKind::SkStorage]), BtfOrNull("sock_common")],   Int,                  BTF_TRACING),
    row(130, "ringbuf_output",         &[Map(&[MapKind::Ringbuf]), read(3), size0(2), Anything],  Int,                  ALL),
    row(131, "ringbuf_reserve",        &[Map(&[MapKind::Ringbuf]), AllocSize, Anything],          RingbufMemOrNull(2),  ALL).acquires(),
    row(132, "ringbuf_submit",         &[RingbufMem, Anything],                                   Void,                 ALL).releases(1),
    row(133, "ringbuf_discard",        &[RingbufMem, Anything],                                   Void,                 ALL).releases(1),
    row(134, "ringbuf_query",          &[Map(&[MapKind::Ringbuf]), Anything],                     Int,                  ALL),
    row(145, "inode_storage_get",      &[Map(&[MapKind::InodeStorage]), BtfOrNull("inode"), MapValueOrNull, Anything], Ret::MapValueOrNull,  LSM),
    row(146, "inode_storage_delete",   &[Map(&[MapKind::InodeStorage]), BtfOrNull("inode")],      Int,                  LSM),
    row(153, "per_cpu_ptr",            &[PercpuBtf, Anything],                                    Percpu { nullable: true }, ALL),
    row(154, "this_cpu_ptr",           &[PercpuBtf],                                              Percpu { nullable: false }, ALL),
    row(156, "task_storage_get",       &[Map(&[MapKind::TaskStorage]), BtfOrNull("task_struct"), MapValueOrNull, Anything], Ret::MapValueOrNull,  ALL),
    row(157, "task_storage_delete",    &[Map(&[MapKind::TaskStorage]), BtfOrNull("task_struct")], Int,                  ALL),
    row(164, "for_each_map_elem",      &[Map(FOR_EACH), Func, StackOrNull, Anything],             Int,                  ALL),
    row(169, "timer_init",             &[Timer, MapOfArg1, Anything],                             Int,                  ALL).gpl(),
    row(170, "timer_set_callback",     &[Timer, Func],                                            Int,                  ALL).gpl(),
    row(171, "timer_start",            &[Timer, Anything, Anything],                              Int,                  ALL).gpl(),
    row(172, "timer_cancel",           &[Timer],                                                  Int,                  ALL).gpl(),
    row(181, "loop",                   &[Scalar, Func, StackOrNull, Anything],                    Int,                  ALL),
    row(194, "kptr_xchg",              &[KptrSlot, KptrValue],                                    KptrOrNull,           ALL).acquires().releases(2),
    row(195, "map_lookup_percpu_elem", &[Map(PERCPU), MapKey, Anything],                          Ret::MapValueOrNull,  ALL).takes_packet(),
    row(197, "dynptr_from_mem",        &[lend_map_value(2), size0(1), Anything, DynptrUninit(DynptrKinds::LOCAL)], Int,                  ALL),
    row(198, "ringbuf_reserve_dynptr", &[Map(&[MapKind::Ringbuf]), Anything, Anything, DynptrUninit(DynptrKinds::RINGBUF)], Int,                  ALL).acquires(),
    row(199, "ringbuf_submit_dynptr",  &[RingbufDynptr, Anything],                                Void,                 ALL).releases(1),
    row(200, "ringbuf_discard_dynptr", &[RingbufDynptr, Anything],                                Void,                 ALL).releases(1),
    row(201, "dynptr_read",            &[write(2), size0(1), Dynptr(DynptrKinds::ANY), Anything, Anything], Int,                  ALL),
    row(202, "dynptr_write",           &[Dynptr(DynptrKinds::ANY), Anything, read(4), size0(3), Anything], Int,                  ALL),
    row(203, "dynptr_data",            &[Dynptr(DynptrKinds::ANY), Anything, AllocSize],          DynptrSliceOrNull(3), ALL),
    row(209, "user_ringbuf_drain",     &[Map(&[MapKind::UserRingbuf]), Func, StackOrNull, Anything], Int,                  ALL),
    row(210, "cgrp_storage_get",       &[Map(&[MapKind::CgrpStorage]), BtfOrNull("cgroup"), MapValueOrNull, Anything], Ret::MapValueOrNull,  ALL),
    row(211, "cgrp_storage_delete",    &[Map(&[MapKind::CgrpStorage]), BtfOrNull("cgroup")],      Int,                  ALL),
];
