//! Context layouts: what the memory at R1 is, field by field, for each kind of program; and the objects its fields
//! lead to.
//!
//! A program reads a context by the offsets of the UAPI structure. Behind it stands a *native* context, which engines
//! that trust the proof read directly:
//!
//! ```text
//!  0                      size            align8(size)
//!  │ UAPI structure, as is │ padding       │ packet pointers, 8 bytes each, in field order │
//! ```
//!
//! Scalars and 8-byte pointers are read where they stand; a 4-byte packet field (`data`) is an 8-byte load of its
//! appended slot, [`CtxField::native_offset`].
//!
//! A structure is described once; which program may read and write a field is a set of kinds in its row, and the layout
//! of a kind is the rows with that kind's rights. Rights are what Linux 6.18 answers for every offset and size.

mod cgroup;
mod net;
mod rows;
mod skb;
mod sock;
mod trace;

pub use sock::{FLOW_KEYS, FULL_SOCK, SOCK_COMMON, TCP_SOCK, XDP_SOCK};

use crate::prog_kind::ProgKind;
use crate::prog_type::{AttachType, ProgType};

/// What a load of a field gives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FieldKind {
    /// A number.
    Scalar,
    /// First byte of the packet (of a message, of an option's value).
    PacketData,
    /// First byte of its metadata.
    PacketMeta,
    /// One past its last byte.
    PacketEnd,
    /// Flow keys of a flow dissector: [`FLOW_KEYS`].
    FlowKeys,
    /// A socket, or 0: [`SOCK_COMMON`].
    SockCommonOrNull,
    /// A full socket: [`FULL_SOCK`].
    Sock,
    /// A full socket, or 0.
    SockOrNull,
    /// The buffer of a writable raw tracepoint; its size is known at attach.
    TracepointBuffer,
    /// Trusted pointer to this kernel type.
    Btf(&'static str),
}

impl FieldKind {
    /// Whether a load gives a pointer (or 0).
    pub const fn is_pointer(self) -> bool {
        !matches!(self, FieldKind::Scalar)
    }
}

/// Sizes (a bit set of 1, 2, 4, 8) an access may have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sizes(pub u8);

impl Sizes {
    /// No access.
    pub const NONE: Sizes = Sizes(0);

    /// Whether `bytes` is in the set.
    pub const fn has(self, bytes: u32) -> bool {
        matches!(bytes, 1 | 2 | 4 | 8) && self.0 as u32 & bytes != 0
    }
}

/// Where in a field the loads smaller than the field may begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Narrow {
    /// At every multiple of their size.
    Anywhere,
    /// At the field's first byte.
    Start,
    /// Anywhere but at the field's first byte, where a pointer stands; they give numbers.
    NotStart,
}

/// One field of a context.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CtxField {
    /// UAPI name; empty for readable padding.
    pub name: &'static str,
    /// UAPI byte offset.
    pub offset: u16,
    /// UAPI size in bytes; an array has the size of the whole.
    pub size: u16,
    /// What a load gives.
    pub kind: FieldKind,
    /// Accepted load sizes, at context offsets that are multiples of the size.
    pub reads: Sizes,
    /// Accepted store sizes, likewise.
    pub writes: Sizes,
    /// Where smaller loads may begin.
    pub narrow: Narrow,
    /// Bytes that Linux keeps of a number. A load that is smaller than the field and not smaller than this gives the
    /// whole number, wherever in the field it begins.
    pub kept: u16,
    /// Byte offset in the native context.
    pub native_offset: u16,
}

/// Memory without fields: every offset in a range, at any of the four sizes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpenRange {
    /// First byte a program may touch.
    pub first: u16,
    /// One past the last.
    pub end: u16,
    /// Stores as well as loads.
    pub writable: bool,
    /// Offsets are multiples of the size.
    pub aligned: bool,
}

/// The context of a kind of program, or an object that a context leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CtxLayout {
    /// C name of the structure.
    pub name: &'static str,
    /// UAPI size in bytes.
    pub size: u16,
    /// Native size in bytes: the UAPI structure and the pointer slots behind it.
    pub native_size: u16,
    /// Fields by offset, also those without rights.
    pub fields: &'static [CtxField],
    /// The rights where there are no fields. How much of it exists is known at attach or at run only: the highest byte
    /// a program touches is part of its requirements.
    pub open: Option<OpenRange>,
}

/// What a program does to a context.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CtxOp {
    /// A plain load.
    Load,
    /// A sign-extending load.
    LoadSigned,
    /// A store of a register or an immediate.
    Store,
}

/// An access that is allowed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CtxAccess {
    /// What a load gives.
    pub kind: FieldKind,
    /// Byte offset in the native context.
    pub native_offset: u16,
    /// Bytes of the native access: the access's own, or 8 where a 4-byte field is a pointer.
    pub native_size: u8,
}

/// An access that is refused: EACCES on Linux, "invalid bpf_context access".
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CtxRefusal {
    /// Before the structure or past its end.
    OutOfBounds,
    /// No field holds all these bytes, or not at this size and alignment.
    Shape,
    /// The field exists; programs of this kind may not read it.
    NotReadable(&'static str),
    /// The field exists; programs of this kind may not write it.
    NotWritable(&'static str),
}

impl CtxLayout {
    /// Whether a program may touch `size` bytes at offset `off`, and what it then touches.
    pub fn access(&self, off: i32, size: u32, op: CtxOp) -> Result<CtxAccess, CtxRefusal> {
        let (Ok(off), 1 | 2 | 4 | 8) = (u16::try_from(off), size) else { return Err(CtxRefusal::OutOfBounds) };
        let end = u32::from(off) + size;
        if let Some(open) = self.open {
            return open.access(off, size, op);
        }
        if end > u32::from(self.size) {
            return Err(CtxRefusal::OutOfBounds);
        }
        if !u32::from(off).is_multiple_of(size) {
            return Err(CtxRefusal::Shape);
        }
        let field = self.fields.iter().find(|field| field.offset <= off && off - field.offset < field.size);
        field.ok_or(CtxRefusal::Shape)?.access(off, size, op)
    }
}

impl OpenRange {
    fn access(self, off: u16, size: u32, op: CtxOp) -> Result<CtxAccess, CtxRefusal> {
        if off < self.first || u32::from(off) + size > u32::from(self.end) {
            return Err(CtxRefusal::OutOfBounds);
        }
        if self.aligned && !u32::from(off).is_multiple_of(size) {
            return Err(CtxRefusal::Shape);
        }
        if op == CtxOp::Store && !self.writable {
            return Err(CtxRefusal::NotWritable(""));
        }
        Ok(CtxAccess { kind: FieldKind::Scalar, native_offset: off, native_size: size as u8 })
    }
}

impl CtxField {
    fn access(&self, off: u16, size: u32, op: CtxOp) -> Result<CtxAccess, CtxRefusal> {
        let (sizes, refusal) = match op {
            CtxOp::Load | CtxOp::LoadSigned => (self.reads, CtxRefusal::NotReadable(self.name)),
            CtxOp::Store => (self.writes, CtxRefusal::NotWritable(self.name)),
        };
        if sizes == Sizes::NONE {
            return Err(refusal);
        }
        let within = off - self.offset;
        let narrow = match self.narrow {
            Narrow::Anywhere => true,
            Narrow::Start => within == 0,
            Narrow::NotStart => (within == 0) == (size == 8),
        };
        // A 2-byte port may be read as 4 bytes with the zeros behind it.
        let fits = u32::from(within) + size <= u32::from(self.size) || within == 0 && sizes.has(size);
        if !sizes.has(size) || !narrow || !fits {
            return Err(CtxRefusal::Shape);
        }
        let whole_pointer = self.kind.is_pointer() && within == 0;
        if whole_pointer && op == CtxOp::LoadSigned {
            return Err(CtxRefusal::NotReadable(self.name));
        }
        if whole_pointer {
            return Ok(CtxAccess { kind: self.kind, native_offset: self.native_offset, native_size: 8 });
        }
        let whole = size < u32::from(self.size) && size >= u32::from(self.kept);
        let native_offset = if whole { self.offset } else { off };
        Ok(CtxAccess { kind: FieldKind::Scalar, native_offset, native_size: size as u8 })
    }
}

/// The context of programs of this type and expected attach type (`None` is 0).
///
/// `None` where BTF gives the context (tracing, LSM, struct_ops, extensions), and for the plain context, which is memory.
pub fn layout(prog: ProgType, attach: Option<AttachType>) -> Option<&'static CtxLayout> {
    layout_of(ProgKind::of(prog, attach, prog == ProgType::Syscall)?)
}

/// The context of programs of this kind; see [`layout`].
pub fn layout_of(kind: ProgKind) -> Option<&'static CtxLayout> {
    use ProgKind as K;
    Some(match kind {
        K::SocketFilter => &skb::SOCKET_FILTER,
        K::SchedCls | K::SchedAct => &skb::TC,
        K::CgroupSkbIngress | K::CgroupSkbEgress => &skb::CGROUP,
        K::LwtIn | K::LwtOut | K::LwtXmit | K::LwtSeg6 => &skb::LWT,
        K::SkSkbParser | K::SkSkbVerdict => &skb::SK_SKB,
        K::FlowDissector => &skb::FLOW_DISSECTOR,
        K::Xdp => &net::XDP,
        K::XdpDevmap => &net::XDP_DEVMAP,
        K::XdpCpumap => &net::XDP,
        K::SockOps => &net::SOCK_OPS,
        K::SkMsg => &net::SK_MSG,
        K::SkLookup => &net::SK_LOOKUP,
        K::ReuseportSelect | K::ReuseportMigrate => &net::REUSEPORT,
        K::Netfilter => &net::NETFILTER,
        K::CgroupSockCreate | K::CgroupSockRelease => &sock::CGROUP_SOCK_CREATE,
        K::CgroupSockPostBind4 => &sock::CGROUP_SOCK_BIND4,
        K::CgroupSockPostBind6 => &sock::CGROUP_SOCK_BIND6,
        K::SockAddrSend4 => &cgroup::SOCK_ADDR_SEND4,
        K::SockAddrSend6 => &cgroup::SOCK_ADDR_SEND6,
        K::SockAddrBind4 | K::SockAddrConnect4 | K::SockAddrRecv4 | K::SockAddrPeer4 | K::SockAddrName4 => {
            &cgroup::SOCK_ADDR4
        }
        K::SockAddrBind6 | K::SockAddrConnect6 | K::SockAddrRecv6 | K::SockAddrPeer6 | K::SockAddrName6 => {
            &cgroup::SOCK_ADDR6
        }
        K::SockAddrConnectUnix
        | K::SockAddrSendUnix
        | K::SockAddrRecvUnix
        | K::SockAddrPeerUnix
        | K::SockAddrNameUnix => &cgroup::SOCK_ADDR_UNIX,
        K::CgroupDevice => &cgroup::DEVICE,
        K::CgroupSysctl => &cgroup::SYSCTL,
        K::SockoptGet => &cgroup::SOCKOPT_GET,
        K::SockoptSet => &cgroup::SOCKOPT_SET,
        K::Kprobe | K::KprobeMulti | K::KprobeSession | K::UprobeMulti | K::UprobeSleepable => &trace::PT_REGS,
        K::PerfEvent => &trace::PERF_EVENT,
        K::Tracepoint => &trace::TRACEPOINT,
        K::RawTp => &trace::RAW_TRACEPOINT,
        K::RawTpWritable => &trace::RAW_TRACEPOINT_WRITABLE,
        K::Syscall => &trace::SYSCALL,
        K::Lirc => &trace::LIRC,
        K::TpBtf
        | K::Fentry
        | K::Fexit
        | K::FmodRet
        | K::FentrySleepable
        | K::FexitSleepable
        | K::FmodRetSleepable
        | K::IterTask
        | K::IterTaskSleepable
        | K::IterTcp
        | K::IterMapElem
        | K::IterSkStorage
        | K::TcpCc
        | K::SchedExt
        | K::Qdisc
        | K::Lsm
        | K::LsmSleepable
        | K::LsmSocket
        | K::LsmCgroup
        | K::Ext
        | K::Plain => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(kind: ProgKind, off: i32, size: u32, op: CtxOp, expected: Result<(FieldKind, u16, u8), CtxRefusal>) {
        let layout = layout_of(kind).expect("the kind has a layout");
        let access = layout.access(off, size, op).map(|a| (a.kind, a.native_offset, a.native_size));
        assert_eq!(access, expected, "{kind} {off} {size} {op:?}");
    }

    #[test]
    fn packet_fields_are_loads_of_their_slots() {
        check(ProgKind::Xdp, 0, 4, CtxOp::Load, Ok((FieldKind::PacketData, 24, 8)));
        check(ProgKind::Xdp, 4, 4, CtxOp::Load, Ok((FieldKind::PacketEnd, 32, 8)));
        check(ProgKind::Xdp, 8, 4, CtxOp::Load, Ok((FieldKind::PacketMeta, 40, 8)));
        check(ProgKind::SchedCls, 76, 4, CtxOp::Load, Ok((FieldKind::PacketData, 192, 8)));
        check(ProgKind::SkMsg, 0, 8, CtxOp::Load, Ok((FieldKind::PacketData, 0, 8)));
    }

    #[test]
    fn pointers_load_whole_and_unsigned() {
        check(ProgKind::Xdp, 0, 2, CtxOp::Load, Err(CtxRefusal::Shape));
        check(ProgKind::Xdp, 0, 8, CtxOp::Load, Err(CtxRefusal::Shape));
        check(ProgKind::Xdp, 0, 4, CtxOp::LoadSigned, Err(CtxRefusal::NotReadable("data")));
        check(ProgKind::Xdp, 0, 4, CtxOp::Store, Err(CtxRefusal::NotWritable("data")));
    }

    #[test]
    fn rights_depend_on_the_kind() {
        check(ProgKind::Xdp, 20, 4, CtxOp::Load, Err(CtxRefusal::NotReadable("egress_ifindex")));
        check(ProgKind::XdpDevmap, 20, 4, CtxOp::Load, Ok((FieldKind::Scalar, 20, 4)));
        check(ProgKind::SchedCls, 8, 4, CtxOp::Store, Ok((FieldKind::Scalar, 8, 4)));
        check(ProgKind::SocketFilter, 8, 4, CtxOp::Store, Err(CtxRefusal::NotWritable("mark")));
    }

    #[test]
    fn narrow_loads_give_all_that_linux_keeps_of_a_number() {
        // pkt_type: 1 byte; protocol: 2 bytes; mark: 4 bytes.
        check(ProgKind::SchedCls, 7, 1, CtxOp::Load, Ok((FieldKind::Scalar, 4, 1)));
        check(ProgKind::SchedCls, 6, 2, CtxOp::Load, Ok((FieldKind::Scalar, 4, 2)));
        check(ProgKind::SchedCls, 17, 1, CtxOp::Load, Ok((FieldKind::Scalar, 17, 1)));
        check(ProgKind::SchedCls, 18, 2, CtxOp::Load, Ok((FieldKind::Scalar, 16, 2)));
        check(ProgKind::SchedCls, 16, 4, CtxOp::Load, Ok((FieldKind::Scalar, 16, 4)));
        check(ProgKind::SchedCls, 10, 2, CtxOp::Load, Ok((FieldKind::Scalar, 10, 2)));
    }

    #[test]
    fn wide_accesses_are_aligned_to_the_context() {
        check(ProgKind::SchedCls, 48, 8, CtxOp::Store, Ok((FieldKind::Scalar, 48, 8)));
        check(ProgKind::SchedCls, 52, 8, CtxOp::Store, Err(CtxRefusal::Shape));
        check(ProgKind::SchedCls, 64, 8, CtxOp::Store, Err(CtxRefusal::Shape));
    }

    #[test]
    fn offsets_outside_are_refused() {
        check(ProgKind::SchedCls, -4, 4, CtxOp::Load, Err(CtxRefusal::OutOfBounds));
        check(ProgKind::SchedCls, 192, 4, CtxOp::Load, Err(CtxRefusal::OutOfBounds));
        check(ProgKind::Tracepoint, 0, 8, CtxOp::Load, Err(CtxRefusal::OutOfBounds));
        check(ProgKind::Tracepoint, 8184, 8, CtxOp::Load, Ok((FieldKind::Scalar, 8184, 8)));
        check(ProgKind::Tracepoint, 8192, 1, CtxOp::Load, Err(CtxRefusal::OutOfBounds));
        check(ProgKind::Tracepoint, i32::MAX, 3, CtxOp::Load, Err(CtxRefusal::OutOfBounds));
    }

    #[test]
    fn fields_stand_in_order_and_slots_behind_the_structure() {
        for kind in ProgKind::all() {
            let Some(layout) = layout_of(kind) else { continue };
            let mut end = 0;
            let mut slot = layout.size.next_multiple_of(8);
            for field in layout.fields {
                assert!(field.offset >= end, "{kind} {}", field.name);
                end = field.offset + field.size;
                if field.kind.is_pointer() && field.size == 4 {
                    assert_eq!(field.native_offset, slot, "{kind} {}", field.name);
                    slot += 8;
                } else {
                    assert_eq!(field.native_offset, field.offset, "{kind} {}", field.name);
                }
            }
            assert!(end <= layout.size, "{kind}");
            assert_eq!(layout.native_size, slot, "{kind}");
        }
    }

    #[test]
    fn accesses_stay_inside_and_numbers_apart_from_pointers() {
        let objects = [&FLOW_KEYS, &FULL_SOCK, &SOCK_COMMON, &TCP_SOCK, &XDP_SOCK];
        for layout in ProgKind::all().filter_map(layout_of).chain(objects) {
            for (off, op) in (-16..i32::from(layout.size.min(512)) + 16)
                .flat_map(|off| [CtxOp::Load, CtxOp::LoadSigned, CtxOp::Store].map(|op| (off, op)))
            {
                for size in 0..=16 {
                    let Ok(access) = layout.access(off, size, op) else { continue };
                    let end = u32::from(access.native_offset) + u32::from(access.native_size);
                    assert!(end <= u32::from(layout.native_size), "{} {off} {size}", layout.name);
                    let overlaps = |field: &&CtxField| {
                        let (start, end) = (i32::from(field.offset), i32::from(field.offset + field.size));
                        field.kind.is_pointer()
                            && field.narrow != Narrow::NotStart
                            && off < end
                            && start < off + size as i32
                    };
                    let pointer = layout.fields.iter().find(overlaps);
                    assert_eq!(
                        access.kind.is_pointer() && pointer.is_some(),
                        pointer.is_some(),
                        "{} {off}",
                        layout.name
                    );
                    assert!(op == CtxOp::Load || !access.kind.is_pointer(), "{} {off} {op:?}", layout.name);
                }
            }
        }
    }
}
