//! Kernel functions that programs call by name: a small closed set, with the rules of their arguments.
//!
//! A kernel gives these prototypes by BTF and by suffixes of argument names; a machine without one needs them as rows.
//! Who may call them, and what their arguments must be, was measured on Linux 6.18.

use crate::prog_kind::ProgKinds;
use crate::prog_type::ProgType as T;

/// Iterators over numbers that live on the stack.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum IterKind {
    /// `bpf_iter_num`, 8 bytes: the integers from start to end.
    Num,
    /// `bpf_iter_bits`, 16 bytes: the set bits of words in memory.
    Bits,
}

impl IterKind {
    /// Bytes of stack, 8-aligned.
    pub const fn size(self) -> u32 {
        match self {
            IterKind::Num => 8,
            IterKind::Bits => 16,
        }
    }

    /// Its name in logs.
    pub const fn name(self) -> &'static str {
        match self {
            IterKind::Num => "iter_num",
            IterKind::Bits => "iter_bits",
        }
    }
}

/// Where the bytes behind a dynptr are.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DynptrSource {
    /// The packet of a socket buffer.
    Skb,
    /// Its metadata.
    SkbMeta,
    /// The packet of an XDP buffer.
    Xdp,
    /// Where the dynptr in argument 1 points.
    Arg1,
}

/// What an argument must be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KfuncArg {
    /// Any scalar.
    Scalar,
    /// A scalar with one known value: the BTF id of a type of the program (`local_type_id__k`).
    LocalType,
    /// A scalar with one known value: the BTF id of a kernel type, 0 for untyped memory (`btf_id__k`).
    KernelType,
    /// Not looked at (`__ign`).
    Ignored,
    /// Any register: read with faults caught, so that no address is wrong (`char *s__ign`). Linux does not even ask
    /// that the register was written.
    Address,
    /// The unmodified context pointer.
    Ctx,
    /// A map.
    Map,
    /// Uninitialised stack that becomes an iterator, which the program must destroy.
    IterUninit(IterKind),
    /// An iterator to step.
    Iter(IterKind),
    /// An iterator to destroy.
    IterDestroy(IterKind),
    /// 16 aligned bytes of uninitialised stack that become a dynptr (`__uninit`).
    DynptrUninit(DynptrSource),
    /// An initialised dynptr of any kind.
    Dynptr,
    /// Memory of the constant size in argument `size`, or 0 (`__opt`). With CAP_PERFMON it may be uninitialised stack.
    BufferOrNull {
        /// The size argument, 1 to 5.
        size: u8,
    },
    /// A scalar with one known value: the size of the memory in argument `of` (`__szk`).
    ConstSize {
        /// The memory argument, 1 to 5.
        of: u8,
    },
    /// Address of words whose number is argument `count`, any scalar; read with faults caught, as [`KfuncArg::Address`].
    Words {
        /// The argument that counts.
        count: u8,
    },
    /// An object of [`KfuncRet::ObjOrNull`] whose reference the call takes.
    OwnedObj,
    /// The same, per CPU.
    OwnedPercpuObj,
    /// An object with a reference count, owned or not.
    RefcountedObj,
    /// A list head in a map value or object.
    ListHead,
    /// A list node of an owned object; the call takes it, and leaves a pointer that does not own.
    ListNode,
    /// A tree root in a map value or object.
    RbRoot,
    /// A tree node of an owned object; the call takes it, and leaves a pointer that does not own.
    RbNode,
    /// A tree node that the program does not own, in the critical section of its root's lock.
    RbNodeBorrowed,
    /// A static subprogram that compares two tree nodes.
    Less,
    /// 8 aligned bytes of uninitialised stack that become the saved state of interrupts.
    IrqFlagUninit,
    /// Saved state of interrupts, to restore.
    IrqFlag,
    /// A `bpf_res_spin_lock` in a map value or object.
    ResSpinLock,
}

/// What R0 holds after the call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KfuncRet {
    /// A scalar of which nothing is known.
    Int,
    /// Nothing readable.
    Void,
    /// The call does not return.
    Never,
    /// 4 bytes of read-only memory until the iterator's next step, or 0, which ends it.
    IterElemOrNull,
    /// Memory of the constant size in argument 4, or 0: dead when the dynptr in argument 1 is given up, when its packet
    /// moves, and after `bpf_dynptr_write` to a socket buffer.
    SliceOrNull {
        /// It may be written where the program may write its packet.
        writable: bool,
    },
    /// An object of the local type in argument 1, owned by the program, or 0.
    ObjOrNull,
    /// The same, per CPU.
    PercpuObjOrNull,
    /// The object of argument 1 with one more reference, or 0.
    SameObjOrNull,
    /// A node of the list or tree; owned by the program when it was taken out.
    NodeOrNull {
        /// The program owns it.
        owned: bool,
    },
    /// The kernel's structure behind the context, trusted.
    KernelCtx,
    /// Untrusted memory of the kernel type in argument 2.
    Cast,
    /// 0 when the lock is held, a negative errno otherwise.
    LockResult,
}

/// A region that a call opens or closes; every path closes what it opened.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Region {
    /// RCU read side; does not nest.
    Rcu,
    /// Without preemption; nests.
    Preempt,
    /// Without interrupts, until the flag it saved is restored.
    Irq,
    /// A resilient lock is held.
    ResLock,
    /// Both of the last two.
    ResLockIrq,
}

/// What a call does to regions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RegionEffect {
    /// Nothing.
    None,
    /// Opens one; a lock only where R0 is 0 afterwards.
    Enter(Region),
    /// Closes the innermost one.
    Leave(Region),
}

/// One kernel function.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Kfunc {
    /// Name.
    pub name: &'static str,
    /// Arguments in order.
    pub args: &'static [KfuncArg],
    /// Result.
    pub ret: KfuncRet,
    /// Kinds of program that may call it.
    pub kinds: ProgKinds,
    /// Regions.
    pub region: RegionEffect,
}

impl Kfunc {
    /// The function with this name.
    pub fn named(name: &str) -> Option<&'static Kfunc> {
        ROWS.iter().find(|row| row.name == name)
    }
}

const ALL: ProgKinds = ProgKinds::ALL;
/// Programs that may own kernel objects, and throw.
const OBJECTS: ProgKinds = ProgKinds::types(&[
    T::SchedCls,
    T::Tracepoint,
    T::Xdp,
    T::PerfEvent,
    T::CgroupSkb,
    T::CgroupSock,
    T::SockOps,
    T::CgroupDevice,
    T::CgroupSockAddr,
    T::CgroupSysctl,
    T::CgroupSockopt,
    T::Syscall,
    T::Tracing,
    T::Lsm,
    T::StructOps,
    T::Plain,
]);
const TC: ProgKinds = ProgKinds::types(&[T::SchedCls, T::SchedAct]);
const XDP: ProgKinds = ProgKinds::types(&[T::Xdp]);
const SKB: ProgKinds = ALL.without(ProgKinds::types(&[
    T::Kprobe,
    T::Xdp,
    T::SkMsg,
    T::RawTracepoint,
    T::RawTracepointWritable,
    T::SkReuseport,
    T::FlowDissector,
    T::SkLookup,
    T::Syscall,
    T::LircMode2,
    T::Plain,
]));

use IterKind::{Bits, Num};
use KfuncArg::*;
use KfuncRet::{Cast, Int, IterElemOrNull, KernelCtx, LockResult, Never, NodeOrNull, ObjOrNull};
use KfuncRet::{PercpuObjOrNull, SameObjOrNull, SliceOrNull, Void};

#[rustfmt::skip]
const ROWS: &[Kfunc] = &[
//      name                           arguments                                                             result                         kinds    regions
    row("bpf_iter_num_new",            &[IterUninit(Num), Scalar, Scalar],                                   Int,                           ALL),
    row("bpf_iter_num_next",           &[Iter(Num)],                                                         IterElemOrNull,                ALL),
    row("bpf_iter_num_destroy",        &[IterDestroy(Num)],                                                  Void,                          ALL),
    row("bpf_iter_bits_new",           &[IterUninit(Bits), Words { count: 3 }, Scalar],                      Int,                           ALL),
    row("bpf_iter_bits_next",          &[Iter(Bits)],                                                        IterElemOrNull,                ALL),
    row("bpf_iter_bits_destroy",       &[IterDestroy(Bits)],                                                 Void,                          ALL),

    row("bpf_dynptr_from_skb",         &[Ctx, Scalar, DynptrUninit(DynptrSource::Skb)],                      Int,                           SKB),
    row("bpf_dynptr_from_skb_meta",    &[Ctx, Scalar, DynptrUninit(DynptrSource::SkbMeta)],                  Int,                           TC),
    row("bpf_dynptr_from_xdp",         &[Ctx, Scalar, DynptrUninit(DynptrSource::Xdp)],                      Int,                           XDP),
    row("bpf_dynptr_slice",            &[Dynptr, Scalar, BufferOrNull { size: 4 }, ConstSize { of: 3 }],     SliceOrNull { writable: false }, ALL),
    row("bpf_dynptr_slice_rdwr",       &[Dynptr, Scalar, BufferOrNull { size: 4 }, ConstSize { of: 3 }],     SliceOrNull { writable: true }, ALL),
    row("bpf_dynptr_adjust",           &[Dynptr, Scalar, Scalar],                                            Int,                           ALL),
    row("bpf_dynptr_is_null",          &[Dynptr],                                                            Int,                           ALL),
    row("bpf_dynptr_is_rdonly",        &[Dynptr],                                                            Int,                           ALL),
    row("bpf_dynptr_size",             &[Dynptr],                                                            Int,                           ALL),
    row("bpf_dynptr_clone",            &[Dynptr, DynptrUninit(DynptrSource::Arg1)],                          Int,                           ALL),
    row("bpf_dynptr_copy",             &[Dynptr, Scalar, Dynptr, Scalar, Scalar],                            Int,                           ALL),
    row("bpf_dynptr_memset",           &[Dynptr, Scalar, Scalar, Scalar],                                    Int,                           ALL),

    row("bpf_obj_new_impl",            &[LocalType, Ignored],                                                ObjOrNull,                     OBJECTS),
    row("bpf_obj_drop_impl",           &[OwnedObj, Ignored],                                                 Void,                          OBJECTS),
    row("bpf_percpu_obj_new_impl",     &[LocalType, Ignored],                                                PercpuObjOrNull,               OBJECTS),
    row("bpf_percpu_obj_drop_impl",    &[OwnedPercpuObj, Ignored],                                           Void,                          OBJECTS),
    row("bpf_refcount_acquire_impl",   &[RefcountedObj, Ignored],                                            SameObjOrNull,                 OBJECTS),
    row("bpf_list_push_front_impl",    &[ListHead, ListNode, Ignored, Ignored],                              Int,                           OBJECTS),
    row("bpf_list_push_back_impl",     &[ListHead, ListNode, Ignored, Ignored],                              Int,                           OBJECTS),
    row("bpf_list_pop_front",          &[ListHead],                                                          NodeOrNull { owned: true },    OBJECTS),
    row("bpf_list_pop_back",           &[ListHead],                                                          NodeOrNull { owned: true },    OBJECTS),
    row("bpf_list_front",              &[ListHead],                                                          NodeOrNull { owned: false },   OBJECTS),
    row("bpf_list_back",               &[ListHead],                                                          NodeOrNull { owned: false },   OBJECTS),
    row("bpf_rbtree_add_impl",         &[RbRoot, RbNode, Less, Ignored, Ignored],                            Int,                           OBJECTS),
    row("bpf_rbtree_remove",           &[RbRoot, RbNodeBorrowed],                                            NodeOrNull { owned: true },    OBJECTS),
    row("bpf_rbtree_first",            &[RbRoot],                                                            NodeOrNull { owned: false },   OBJECTS),
    row("bpf_rbtree_root",             &[RbRoot],                                                            NodeOrNull { owned: false },   OBJECTS),
    row("bpf_rbtree_left",             &[RbRoot, RbNodeBorrowed],                                            NodeOrNull { owned: false },   OBJECTS),
    row("bpf_rbtree_right",            &[RbRoot, RbNodeBorrowed],                                            NodeOrNull { owned: false },   OBJECTS),

    row("bpf_rcu_read_lock",           &[],                                                                  Void,                          ALL).enters(Region::Rcu),
    row("bpf_rcu_read_unlock",         &[],                                                                  Void,                          ALL).leaves(Region::Rcu),
    row("bpf_preempt_disable",         &[],                                                                  Void,                          ALL).enters(Region::Preempt),
    row("bpf_preempt_enable",          &[],                                                                  Void,                          ALL).leaves(Region::Preempt),
    row("bpf_local_irq_save",          &[IrqFlagUninit],                                                     Void,                          ALL).enters(Region::Irq),
    row("bpf_local_irq_restore",       &[IrqFlag],                                                           Void,                          ALL).leaves(Region::Irq),
    row("bpf_res_spin_lock",           &[ResSpinLock],                                                       LockResult,                    ALL).enters(Region::ResLock),
    row("bpf_res_spin_unlock",         &[ResSpinLock],                                                       Void,                          ALL).leaves(Region::ResLock),
    row("bpf_res_spin_lock_irqsave",   &[ResSpinLock, IrqFlagUninit],                                        LockResult,                    ALL).enters(Region::ResLockIrq),
    row("bpf_res_spin_unlock_irqrestore", &[ResSpinLock, IrqFlag],                                           Void,                          ALL).leaves(Region::ResLockIrq),

    row("bpf_cast_to_kern_ctx",        &[Ctx],                                                               KernelCtx,                     ALL),
    row("bpf_rdonly_cast",             &[Address, KernelType],                                               Cast,                          ALL),
    row("bpf_throw",                   &[Scalar],                                                            Never,                         OBJECTS),
    row("bpf_map_sum_elem_count",      &[Map],                                                               Int,                           ALL),

    row("bpf_strcmp",                  &[Address, Address],                                                  Int,                           ALL),
    row("bpf_strcasecmp",              &[Address, Address],                                                  Int,                           ALL),
    row("bpf_strchr",                  &[Address, Scalar],                                                   Int,                           ALL),
    row("bpf_strchrnul",               &[Address, Scalar],                                                   Int,                           ALL),
    row("bpf_strnchr",                 &[Address, Scalar, Scalar],                                           Int,                           ALL),
    row("bpf_strrchr",                 &[Address, Scalar],                                                   Int,                           ALL),
    row("bpf_strlen",                  &[Address],                                                           Int,                           ALL),
    row("bpf_strnlen",                 &[Address, Scalar],                                                   Int,                           ALL),
    row("bpf_strspn",                  &[Address, Address],                                                  Int,                           ALL),
    row("bpf_strcspn",                 &[Address, Address],                                                  Int,                           ALL),
    row("bpf_strstr",                  &[Address, Address],                                                  Int,                           ALL),
    row("bpf_strnstr",                 &[Address, Address, Scalar],                                          Int,                           ALL),
];

const fn row(name: &'static str, args: &'static [KfuncArg], ret: KfuncRet, kinds: ProgKinds) -> Kfunc {
    Kfunc { name, args, ret, kinds, region: RegionEffect::None }
}

impl Kfunc {
    const fn enters(self, region: Region) -> Kfunc {
        Kfunc { region: RegionEffect::Enter(region), ..self }
    }

    const fn leaves(self, region: Region) -> Kfunc {
        Kfunc { region: RegionEffect::Leave(region), ..self }
    }
}

/// Every row.
pub fn rows() -> &'static [Kfunc] {
    ROWS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_found() {
        for row in ROWS {
            assert_eq!(Kfunc::named(row.name), Some(row));
            assert!(row.args.len() <= 5, "{}", row.name);
        }
        assert_eq!(Kfunc::named("bpf_no_such"), None);
    }

    #[test]
    fn sizes_name_their_memory_and_back() {
        for row in ROWS {
            for (i, arg) in row.args.iter().enumerate() {
                let own = i as u8 + 1;
                match *arg {
                    BufferOrNull { size } => assert_eq!(row.args[size as usize - 1], ConstSize { of: own }),
                    Words { count } => assert_eq!(row.args[count as usize - 1], Scalar),
                    _ => {}
                }
            }
        }
    }

    #[test]
    fn what_opens_has_something_that_closes() {
        for row in ROWS {
            let RegionEffect::Enter(region) = row.region else { continue };
            assert!(ROWS.iter().any(|other| other.region == RegionEffect::Leave(region)), "{}", row.name);
        }
    }
}
