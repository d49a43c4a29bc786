//! The vocabulary of prototypes. Codes follow the measured tables of Linux 6.18.

use crate::map_kind::MapKind;
use crate::prog_kind::ProgKinds;

/// A helper's number (`enum bpf_func_id`); embedders' own begin at [`HelperId::FIRST_CUSTOM`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct HelperId(pub u32);

impl HelperId {
    /// Numbers from here on belong to the embedder.
    pub const FIRST_CUSTOM: HelperId = HelperId(0x1000_0000);
}

/// How a memory argument is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MemUse {
    /// Read; must be initialised.
    Read,
    /// Written; may be uninitialised stack.
    Write,
    /// Written, and initialised before where the program lacks CAP_PERFMON.
    ReadWrite,
}

/// How large a memory argument is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MemSize {
    /// This many bytes.
    Fixed(u32),
    /// The value of argument `n`, 1 to 5.
    Arg(u8),
}

/// When a pointer argument may be 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Null {
    /// Never.
    No,
    /// Always.
    Yes,
    /// When the size argument is 0.
    IfSizeZero,
}

/// The kinds of dynptr an argument takes, as a set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DynptrKinds(pub u8);

#[allow(missing_docs)]
impl DynptrKinds {
    pub const LOCAL: DynptrKinds = DynptrKinds(1);
    pub const RINGBUF: DynptrKinds = DynptrKinds(2);
    pub const SKB: DynptrKinds = DynptrKinds(4);
    pub const XDP: DynptrKinds = DynptrKinds(8);
    pub const ANY: DynptrKinds = DynptrKinds(15);
}

/// What an argument must be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arg {
    /// No such argument; the register is not looked at.
    None,
    /// Any readable register.
    Anything,
    /// Any scalar.
    Scalar,
    /// The constant 0.
    ConstZero,
    /// The unmodified context pointer.
    Ctx,
    /// The unmodified context pointer, or 0.
    CtxOrNull,
    /// A map of one of these kinds.
    Map(&'static [MapKind]),
    /// The map that argument 1 points into (`bpf_timer_init`).
    MapOfArg1,
    /// Readable memory of the map's key size.
    MapKey,
    /// Memory of the map's value size.
    MapValue(MemUse),
    /// Readable memory of the map's value size, or 0.
    MapValueOrNull,
    /// Memory.
    Mem {
        /// Read or written.
        access: MemUse,
        /// Its size.
        size: MemSize,
        /// Whether it may be 0.
        null: Null,
        /// Must be aligned to its size.
        aligned: bool,
        /// Only memory in a map value.
        map_value_only: bool,
    },
    /// Bytes of the memory in argument `of`; `zero` says whether 0 is allowed.
    Size {
        /// The memory argument, 1 to 5.
        of: u8,
        /// Whether 0 is allowed.
        zero: bool,
    },
    /// Constant size of memory that the call hands out: a scalar with one known, non-negative value.
    AllocSize,
    /// A NUL-terminated string in a frozen read-only map.
    ConstStr,
    /// A static subprogram.
    Func,
    /// A pointer into the stack, or 0.
    StackOrNull,
    /// A pointer into the stack.
    Stack,
    /// 16 aligned bytes of stack that become a dynptr of this kind.
    DynptrUninit(DynptrKinds),
    /// An initialised dynptr of one of these kinds.
    Dynptr(DynptrKinds),
    /// A ring buffer record, which the call takes (`submit`, `discard`).
    RingbufMem,
    /// An initialised ring buffer dynptr, which the call takes.
    RingbufDynptr,
    /// A spin lock in a value.
    SpinLock,
    /// The spin lock that is held.
    SpinLockHeld,
    /// A timer in a value.
    Timer,
    /// A kernel-pointer field of a value.
    KptrSlot,
    /// A socket pointer of the verifier (sock_common, sock, tcp_sock, xdp_sock).
    SockCommon,
    /// The same, or a trusted kernel pointer of a matching type.
    SockCommonOrBtf,
    /// The same as [`Arg::SockCommonOrBtf`], or 0.
    SockCommonOrBtfOrNull,
    /// A full socket (sock), or 0; a pointer that may be 0 need not be tested first.
    SockOrNull,
    /// A socket whose reference the call takes.
    SockAcquired,
    /// A trusted pointer to this kernel type.
    Btf(&'static str),
    /// The same, or 0.
    BtfOrNull(&'static str),
    /// A referenced pointer that the call takes, or 0 (`kptr_xchg`).
    KptrValue,
    /// A per-CPU kernel pointer.
    PercpuBtf,
}

/// What R0 holds after the call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ret {
    /// A scalar of which nothing is known.
    Int,
    /// A scalar within these signed bounds.
    Range(i64, i64),
    /// A scalar, negative errno or 0 to the maximum of argument `n`.
    ErrnoOrUpTo(u8),
    /// A CPU number: 0 to CPUs − 1.
    Cpu,
    /// Nothing readable.
    Void,
    /// A map value, or 0.
    MapValueOrNull,
    /// A map value.
    MapValue,
    /// A ring buffer record whose size is the constant argument `n`, or 0; acquired.
    RingbufMemOrNull(u8),
    /// A dynptr slice of the constant size in argument `n`, or 0.
    DynptrSliceOrNull(u8),
    /// A socket, or 0.
    SockOrNull {
        /// Which.
        kind: SockKind,
        /// The caller owns a reference.
        acquired: bool,
    },
    /// A pointer to this kernel type.
    Btf {
        /// C name of the type.
        name: &'static str,
        /// Trusted, or only fit for probing reads.
        trusted: bool,
        /// May be 0.
        nullable: bool,
    },
    /// A previously stored kernel pointer, or 0 (`kptr_xchg`); acquired.
    KptrOrNull,
    /// A per-CPU variable's address on one CPU; nullable or not.
    Percpu {
        /// May be 0.
        nullable: bool,
    },
}

/// Socket pointer types of the verifier.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs)]
pub enum SockKind {
    SockCommon,
    Sock,
    TcpSock,
    XdpSock,
}

/// One row: a helper, or one argument shape of it where kinds of program differ.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct HelperProto {
    /// Number.
    pub id: HelperId,
    /// Name without `bpf_`.
    pub name: &'static str,
    /// Arguments 1 to 5.
    pub args: [Arg; 5],
    /// Result.
    pub ret: Ret,
    /// The kinds of program that may call it in this shape.
    pub kinds: ProgKinds,
    /// Packet pointers taken before the call are dead after it. `dynptr_write` is not marked: it kills them only
    /// where it writes to a dynptr of a socket buffer.
    pub invalidates_packet: bool,
    /// Memory arguments may lie in the packet.
    pub packet_as_memory: bool,
    /// Only for programs under a GPL-compatible licence.
    pub gpl_only: bool,
    /// Only with CAP_PERFMON.
    pub needs_perfmon: bool,
    /// Only in sleepable programs, outside of RCU, non-preemptible and IRQ-disabled regions.
    pub might_sleep: bool,
    /// The call acquires a reference.
    pub acquires: bool,
    /// The argument (1 to 5) whose reference the call takes; 0: none.
    pub releases: u8,
    /// May be called while a spin lock is held.
    pub under_spin_lock: bool,
    /// Changes R0 only (`bpf_fastcall`): compilers that know it spill argument registers around the call all the same,
    /// and Linux takes the spills out.
    pub spares_arguments: bool,
}

impl HelperProto {
    /// The row of an embedder's helper: it takes `args`, which are scalars, memory and its sizes, returns a number, and
    /// has no other effect.
    pub const fn custom(id: HelperId, args: [Arg; 5]) -> HelperProto {
        HelperProto::new(id.0, "(custom)", &args, Ret::Int, ProgKinds::ALL)
    }

    /// A row without effects; `args` beyond its end are [`Arg::None`].
    pub(crate) const fn new(id: u32, name: &'static str, args: &[Arg], ret: Ret, kinds: ProgKinds) -> HelperProto {
        let mut five = [Arg::None; 5];
        let mut i = 0;
        while i < args.len() {
            five[i] = args[i];
            i += 1;
        }
        HelperProto {
            id: HelperId(id),
            name,
            args: five,
            ret,
            kinds,
            invalidates_packet: false,
            packet_as_memory: false,
            gpl_only: false,
            needs_perfmon: false,
            might_sleep: false,
            acquires: false,
            releases: 0,
            under_spin_lock: false,
            spares_arguments: false,
        }
    }

    pub(crate) const fn moves_packet(self) -> HelperProto {
        HelperProto { invalidates_packet: true, ..self }
    }

    pub(crate) const fn takes_packet(self) -> HelperProto {
        HelperProto { packet_as_memory: true, ..self }
    }

    pub(crate) const fn gpl(self) -> HelperProto {
        HelperProto { gpl_only: true, ..self }
    }

    pub(crate) const fn perfmon(self) -> HelperProto {
        HelperProto { needs_perfmon: true, ..self }
    }

    pub(crate) const fn sleeps(self) -> HelperProto {
        HelperProto { might_sleep: true, ..self }
    }

    pub(crate) const fn acquires(self) -> HelperProto {
        HelperProto { acquires: true, ..self }
    }

    pub(crate) const fn releases(self, arg: u8) -> HelperProto {
        HelperProto { releases: arg, ..self }
    }

    pub(crate) const fn spares_arguments(self) -> HelperProto {
        HelperProto { spares_arguments: true, ..self }
    }

    pub(crate) const fn under_lock(self) -> HelperProto {
        HelperProto { under_spin_lock: true, ..self }
    }

    /// Whether the call runs a subprogram of the caller.
    pub fn calls_back(&self) -> bool {
        self.args.contains(&Arg::Func)
    }

    /// The kinds of map that argument 1 or 2 takes; `None` when no argument is a map.
    pub fn map_kinds(&self) -> Option<&'static [MapKind]> {
        self.args.iter().find_map(|arg| match arg {
            Arg::Map(kinds) => Some(*kinds),
            _ => None,
        })
    }
}
