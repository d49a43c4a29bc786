//! Sets that the rows share: kinds of program by family, kinds of map by use; and short names for arguments.

use super::proto::{Arg, HelperProto, MemSize, MemUse, Null, Ret, SockKind};
use crate::map_kind::MapKind::{self, *};
use crate::prog_kind::ProgKind as K;
use crate::prog_kind::ProgKinds;
use crate::prog_type::ProgType as T;

pub(super) const NOWHERE: ProgKinds = ProgKinds::NONE;
pub(super) const EVERYWHERE: ProgKinds = ProgKinds::ALL;
/// Everywhere but in infrared decoders, which have a short list of their own.
pub(super) const ALL: ProgKinds = EVERYWHERE.without(LIRC);
pub(super) const TC: ProgKinds = ProgKinds::types(&[T::SchedCls, T::SchedAct]);
pub(super) const XDP: ProgKinds = ProgKinds::types(&[T::Xdp]);
pub(super) const TC_XDP: ProgKinds = TC.and(XDP);
pub(super) const LWT_XMIT: ProgKinds = ProgKinds::types(&[T::LwtXmit]);
pub(super) const TC_LWT_XMIT: ProgKinds = TC.and(LWT_XMIT);
pub(super) const LWT_SEG6: ProgKinds = ProgKinds::types(&[T::LwtSeg6local]);
pub(super) const LWT: ProgKinds = ProgKinds::types(&[T::LwtIn, T::LwtOut, T::LwtXmit, T::LwtSeg6local]);
pub(super) const LWT_ENCAP: ProgKinds = ProgKinds::types(&[T::LwtIn, T::LwtXmit]);
pub(super) const TC_LWT: ProgKinds = TC.and(LWT);
pub(super) const SOCKET_FILTER: ProgKinds = ProgKinds::types(&[T::SocketFilter]);
pub(super) const CGROUP_SKB: ProgKinds = ProgKinds::types(&[T::CgroupSkb]);
pub(super) const TC_CGROUP_SKB: ProgKinds = TC.and(CGROUP_SKB);
pub(super) const CGROUP_SOCK: ProgKinds = ProgKinds::types(&[T::CgroupSock]);
pub(super) const SOCK_ADDR: ProgKinds = ProgKinds::types(&[T::CgroupSockAddr]);
pub(super) const INET_CONNECT: ProgKinds = ProgKinds::of(&[K::SockAddrConnect4, K::SockAddrConnect6]);
pub(super) const SOCKOPT: ProgKinds = ProgKinds::types(&[T::CgroupSockopt]);
pub(super) const SYSCTL: ProgKinds = ProgKinds::types(&[T::CgroupSysctl]);
pub(super) const SOCK_OPS: ProgKinds = ProgKinds::types(&[T::SockOps]);
pub(super) const SK_SKB: ProgKinds = ProgKinds::types(&[T::SkSkb]);
pub(super) const SK_MSG: ProgKinds = ProgKinds::types(&[T::SkMsg]);
pub(super) const SK_LOOKUP: ProgKinds = ProgKinds::types(&[T::SkLookup]);
pub(super) const REUSEPORT: ProgKinds = ProgKinds::types(&[T::SkReuseport]);
pub(super) const FLOW_DISSECTOR: ProgKinds = ProgKinds::types(&[T::FlowDissector]);
pub(super) const PERF_EVENT: ProgKinds = ProgKinds::types(&[T::PerfEvent]);
pub(super) const LIRC: ProgKinds = ProgKinds::types(&[T::LircMode2]);
pub(super) const STRUCT_OPS: ProgKinds = ProgKinds::types(&[T::StructOps]);
pub(super) const TCP_CC: ProgKinds = ProgKinds::of(&[K::TcpCc]);
pub(super) const LSM: ProgKinds = ProgKinds::types(&[T::Lsm]);
pub(super) const NETFILTER: ProgKinds = ProgKinds::types(&[T::Netfilter]);
pub(super) const DEVICE: ProgKinds = ProgKinds::types(&[T::CgroupDevice]);
pub(super) const SYSCALL: ProgKinds = ProgKinds::types(&[T::Syscall]);
/// Tracing programs whose context is typed by BTF.
pub(super) const BTF_TRACING: ProgKinds = ProgKinds::types(&[T::Tracing, T::Lsm]);
pub(super) const BTF_SYSCALL: ProgKinds = BTF_TRACING.and(SYSCALL);
pub(super) const ITER: ProgKinds =
    ProgKinds::of(&[K::IterTask, K::IterTaskSleepable, K::IterTcp, K::IterMapElem, K::IterSkStorage]);
pub(super) const TRAMPOLINE: ProgKinds =
    ProgKinds::of(&[K::Fentry, K::Fexit, K::FmodRet, K::FentrySleepable, K::FexitSleepable, K::FmodRetSleepable]);
pub(super) const TRAMPOLINE_EXIT: ProgKinds =
    ProgKinds::of(&[K::Fexit, K::FmodRet, K::FexitSleepable, K::FmodRetSleepable]);
/// Programs on kprobes and uprobes.
pub(super) const PROBES: ProgKinds = ProgKinds::types(&[T::Kprobe]);
pub(super) const PROBES_SINGLE: ProgKinds = ProgKinds::of(&[K::Kprobe, K::UprobeSleepable]);
pub(super) const PROBES_MULTI: ProgKinds = PROBES.without(PROBES_SINGLE);
/// Tracing programs with a plain context.
pub(super) const EVENTS: ProgKinds =
    PROBES.and(ProgKinds::types(&[T::Tracepoint, T::PerfEvent, T::RawTracepoint, T::RawTracepointWritable]));
pub(super) const TRACING: ProgKinds = EVENTS.and(BTF_SYSCALL);
pub(super) const TRACING_NOT_PERF: ProgKinds = TRACING.without(PERF_EVENT);
/// Programs in which Linux replaces the call for the processor's number by a load.
pub(super) const PROCESSOR_ID: ProgKinds = TRACING.and(TC_XDP).and(LWT);
/// Programs that hold a socket: cgroup hooks and socket operations.
pub(super) const SOCK_HOLDERS: ProgKinds = CGROUP_SKB.and(CGROUP_SOCK).and(SOCK_OPS).and(SOCK_ADDR);
pub(super) const SOCK_LOOKUPS: ProgKinds = TC_XDP.and(CGROUP_SKB).and(SK_SKB).and(SOCK_ADDR);
/// Programs that can get at a full socket.
pub(super) const SOCK_CASTS: ProgKinds = SOCKET_FILTER
    .and(TC_XDP)
    .and(CGROUP_SKB)
    .and(LWT)
    .and(SOCK_OPS)
    .and(SK_SKB)
    .and(SK_MSG)
    .and(SOCK_ADDR)
    .and(FLOW_DISSECTOR)
    .and(BTF_SYSCALL)
    .and(SK_LOOKUP)
    .and(ProgKinds::types(&[T::Ext, T::Plain]));
pub(super) const SOCK_STORAGE: ProgKinds =
    TC.and(CGROUP_SKB).and(SOCK_OPS).and(SK_MSG).and(SOCK_ADDR).and(SOCKOPT).and(STRUCT_OPS);
/// cgroup hooks that return an errno to the caller of a system call.
pub(super) const RETVAL: ProgKinds =
    CGROUP_SOCK.and(ProgKinds::types(&[T::CgroupDevice])).and(SYSCTL).and(SOCKOPT).and(ProgKinds::of(&[
        K::SockAddrBind4,
        K::SockAddrBind6,
        K::SockAddrConnect4,
        K::SockAddrConnect6,
        K::SockAddrConnectUnix,
        K::SockAddrSend4,
        K::SockAddrSend6,
        K::SockAddrSendUnix,
    ]));
pub(super) const SOCKOPT_SOCK: ProgKinds = ProgKinds::of(&[K::SockoptSet, K::IterTcp, K::TcpCc, K::LsmCgroup]);
pub(super) const SOCKOPT_CTX: ProgKinds = SOCK_OPS.and(SOCK_ADDR);

/// Programs that read a socket buffer's bytes.
pub(super) const SKB_READERS: ProgKinds =
    SOCKET_FILTER.and(TC_CGROUP_SKB).and(LWT).and(SK_SKB).and(REUSEPORT).and(FLOW_DISSECTOR);
pub(super) const SKB_HEADERS: ProgKinds = SOCKET_FILTER.and(TC_CGROUP_SKB).and(REUSEPORT);
pub(super) const SOCK_COOKIE: ProgKinds = SOCKET_FILTER.and(TC).and(SOCK_HOLDERS).and(SK_SKB);
pub(super) const SOCK_UID: ProgKinds = SOCKET_FILTER.and(TC_CGROUP_SKB).and(SK_SKB);
pub(super) const NETNS: ProgKinds = SOCKET_FILTER.and(TC).and(SOCK_HOLDERS).and(SK_MSG).and(SOCKOPT);
/// Every cgroup hook.
pub(super) const CGROUP: ProgKinds = SOCK_HOLDERS.and(DEVICE).and(SYSCTL).and(SOCKOPT);
pub(super) const EVENT_OUTPUT: ProgKinds =
    ALL.without(REUSEPORT).without(FLOW_DISSECTOR).without(STRUCT_OPS).without(NETFILTER);
pub(super) const COARSE_CLOCK: ProgKinds = ALL.without(TRACING).without(DEVICE).without(SOCKOPT).without(NETFILTER);
pub(super) const ATTACH_COOKIE: ProgKinds = EVENTS.and(BTF_TRACING).without(ITER);

pub(super) const LOOKUP: &[MapKind] = &[
    Hash,
    Array,
    PercpuHash,
    PercpuArray,
    LruHash,
    LruPercpuHash,
    LpmTrie,
    ArrayOfMaps,
    HashOfMaps,
    Devmap,
    Sockmap,
    Xskmap,
    Sockhash,
    DevmapHash,
];
pub(super) const UPDATE: &[MapKind] =
    &[Hash, Array, PercpuHash, PercpuArray, LruHash, LruPercpuHash, LpmTrie, Sockmap, Sockhash];
pub(super) const FOR_EACH: &[MapKind] = &[Hash, Array, PercpuHash, PercpuArray, LruHash, LruPercpuHash];
pub(super) const PERCPU: &[MapKind] = &[PercpuHash, PercpuArray, LruPercpuHash];
pub(super) const REDIRECT: &[MapKind] = &[Devmap, Cpumap, Xskmap, DevmapHash];
pub(super) const SELECT: &[MapKind] = &[Sockmap, Sockhash, ReuseportSockarray];
pub(super) const POP: &[MapKind] = &[Queue, Stack];
pub(super) const PUSH: &[MapKind] = &[Queue, Stack, BloomFilter];
pub(super) const CGROUP_LOCAL: &[MapKind] = &[CgroupStorage, PercpuCgroupStorage];

pub(super) const SOCK: Ret = Ret::SockOrNull { kind: SockKind::Sock, acquired: false };
pub(super) const SOCK_ACQUIRED: Ret = Ret::SockOrNull { kind: SockKind::Sock, acquired: true };
pub(super) const SOCK_COMMON_ACQUIRED: Ret = Ret::SockOrNull { kind: SockKind::SockCommon, acquired: true };
pub(super) const TCP_SOCK: Ret = Ret::SockOrNull { kind: SockKind::TcpSock, acquired: false };

/// A trusted pointer to this kernel type.
pub(super) const fn trusted(name: &'static str) -> Ret {
    Ret::Btf { name, trusted: true, nullable: false }
}

/// A pointer to this kernel type, fit for reading.
pub(super) const fn kernel(name: &'static str) -> Ret {
    Ret::Btf { name, trusted: false, nullable: false }
}

/// The same, or 0.
pub(super) const fn kernel_or_null(name: &'static str) -> Ret {
    Ret::Btf { name, trusted: false, nullable: true }
}

/// One row.
pub(super) const fn row(id: u32, name: &'static str, args: &[Arg], ret: Ret, kinds: ProgKinds) -> HelperProto {
    HelperProto::new(id, name, args, ret, kinds)
}

const fn mem(access: MemUse, size: MemSize) -> Arg {
    Arg::Mem { access, size, null: Null::No, aligned: false, map_value_only: false }
}

/// Memory that is read; argument `n` is its size.
pub(super) const fn read(n: u8) -> Arg {
    mem(MemUse::Read, MemSize::Arg(n))
}

/// The same; 0 when its size is 0.
pub(super) const fn read_or_null(n: u8) -> Arg {
    null_if_empty(read(n))
}

/// Memory of this size that is read.
pub(super) const fn read_bytes(bytes: u32) -> Arg {
    mem(MemUse::Read, MemSize::Fixed(bytes))
}

/// Memory that is written; argument `n` is its size.
pub(super) const fn write(n: u8) -> Arg {
    mem(MemUse::Write, MemSize::Arg(n))
}

/// The same; 0 when its size is 0.
pub(super) const fn write_or_null(n: u8) -> Arg {
    null_if_empty(write(n))
}

/// An aligned number of this size that is written.
pub(super) const fn write_number(bytes: u32) -> Arg {
    Arg::Mem {
        access: MemUse::Write,
        size: MemSize::Fixed(bytes),
        null: Null::No,
        aligned: true,
        map_value_only: false,
    }
}

/// Bytes of a map value that are handed out; argument `n` is their number.
pub(super) const fn lend_map_value(n: u8) -> Arg {
    Arg::Mem { access: MemUse::Write, size: MemSize::Arg(n), null: Null::No, aligned: false, map_value_only: true }
}

/// Memory that is read and written; argument `n` is its size.
pub(super) const fn update(n: u8) -> Arg {
    mem(MemUse::ReadWrite, MemSize::Arg(n))
}

/// An aligned number of this size that is read and written.
pub(super) const fn update_number(bytes: u32) -> Arg {
    Arg::Mem {
        access: MemUse::ReadWrite,
        size: MemSize::Fixed(bytes),
        null: Null::No,
        aligned: true,
        map_value_only: false,
    }
}

/// The size, above 0, of the memory in argument `of`.
pub(super) const fn size(of: u8) -> Arg {
    Arg::Size { of, zero: false }
}

/// The size, 0 included, of the memory in argument `of`.
pub(super) const fn size0(of: u8) -> Arg {
    Arg::Size { of, zero: true }
}

const fn null_if_empty(arg: Arg) -> Arg {
    match arg {
        Arg::Mem { access, size, aligned, map_value_only, .. } => {
            Arg::Mem { access, size, null: Null::IfSizeZero, aligned, map_value_only }
        }
        other => other,
    }
}
