//! What a register or a spilled slot holds: a number, or a pointer into a kind of memory.
//!
//! A pointer's address is `base(kind, id) + off + num`: a constant offset, and a number that varies. Linux 6.18 keeps the
//! two apart, and the range that a packet pointer was checked for counts from `base + num`.

use std::fmt;

use rtbpf_abi::helper::SockKind;
use rtbpf_isa::{MapIdx, Width};

use crate::domain::Scalar;

/// Range of a packet pointer that is at or past the packet's end.
pub const AT_END: i32 = -1;
/// Range of a packet pointer that is past the packet's end.
pub const BEYOND_END: i32 = -2;

/// A map a program can name, or the inner map of one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct MapRef {
    /// Which.
    pub map: MapIdx,
    /// The inner map of `map`, from a lookup.
    pub inner: bool,
    /// Tells inner maps of different lookups apart; 0 for a map that the program names.
    pub uid: u32,
}

/// Who handed out a piece of memory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Source {
    /// A helper or a declared argument.
    Plain,
    /// A ring buffer.
    Ringbuf,
    /// A dynptr with this id.
    Dynptr(u32),
}

/// How far a kernel pointer can be trusted.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Trust {
    /// Alive as long as the program runs.
    Trusted,
    /// Good for reads that may fault.
    Plain,
}

/// Kinds of dynptr.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DynptrKind {
    /// Memory of a map value.
    Local,
    /// A ring buffer record.
    Ringbuf,
    /// A packet, by its socket buffer.
    Skb,
    /// A packet, by its XDP buffer.
    Xdp,
}

/// State of an open-coded iterator on the stack.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum IterState {
    /// `next` may give another element.
    Active,
    /// `next` gave none.
    Drained,
}

/// What a value is, modifiers aside.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    /// Nothing was stored, or it must not be read.
    Uninit,
    /// A number.
    Scalar,
    /// The context.
    Ctx,
    /// A map.
    MapPtr(MapRef),
    /// A value of a map.
    MapValue(MapRef),
    /// A key of a map, in a callback.
    MapKey(MapRef),
    /// The stack of frame `0..`.
    Stack(u32),
    /// The packet; so many bytes from `base + num` were checked, or [`AT_END`], or [`BEYOND_END`].
    Packet(i32),
    /// Metadata before the packet, likewise.
    PacketMeta(i32),
    /// One past the packet's last byte.
    PacketEnd,
    /// Flow keys.
    FlowKeys,
    /// A socket.
    Sock(SockKind),
    /// The buffer of a writable raw tracepoint.
    TpBuffer,
    /// Memory of known size.
    Mem {
        /// Bytes.
        size: u32,
        /// Who handed it out.
        from: Source,
        /// Programs may write it.
        writable: bool,
    },
    /// A kernel structure.
    Btf {
        /// C name of the type.
        name: &'static str,
        /// How far it is trusted.
        trust: Trust,
    },
    /// A per-CPU kernel structure.
    PercpuBtf,
    /// A subprogram.
    Func(u32),
    /// A dynptr: half of one on the stack, or a reference to one in a callback.
    Dynptr {
        /// Of what.
        kind: DynptrKind,
        /// The lower-addressed half.
        first: bool,
    },
    /// Part of an iterator on the stack.
    Iter {
        /// Where it stands.
        state: IterState,
        /// How many `next` calls led here.
        depth: u32,
        /// The lower-addressed half.
        first: bool,
    },
}

/// A register's content.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Value {
    /// What it is.
    pub kind: Kind,
    /// May be 0 instead.
    pub nullable: bool,
    /// For a scalar: it is the linked scalar plus `off`, in this width. Where that is 32 bits, the linked one fits them.
    pub plus: Option<Width>,
    /// Constant part of a pointer's offset.
    pub off: i32,
    /// Equal ids: the same unchecked pointer, the same packet base, or linked scalars. 0: none.
    pub id: u32,
    /// The reference that it owns or derives from; 0: none.
    pub ref_id: u32,
    /// The number, or the variable part of a pointer's offset.
    pub num: Scalar,
}

impl Value {
    /// Nothing readable.
    pub const UNINIT: Value = Value::of(Kind::Uninit, Scalar::ZERO);
    /// A number of which nothing is known.
    pub const UNKNOWN: Value = Value::scalar(Scalar::UNKNOWN);

    const fn of(kind: Kind, num: Scalar) -> Value {
        Value { kind, nullable: false, plus: None, off: 0, id: 0, ref_id: 0, num }
    }

    /// A number.
    pub const fn scalar(num: Scalar) -> Value {
        Value::of(Kind::Scalar, num)
    }

    /// One number.
    pub const fn constant(x: u64) -> Value {
        Value::scalar(Scalar::constant(x))
    }

    /// A pointer to the start of `kind`.
    pub const fn pointer(kind: Kind) -> Value {
        Value::of(kind, Scalar::ZERO)
    }

    /// The same, which may be 0, told apart by `id`.
    pub const fn pointer_or_null(kind: Kind, id: u32) -> Value {
        Value { nullable: true, id, ..Value::pointer(kind) }
    }

    /// Whether it is a number.
    pub fn is_scalar(&self) -> bool {
        matches!(self.kind, Kind::Scalar)
    }

    /// Whether it is a pointer.
    pub fn is_pointer(&self) -> bool {
        !matches!(self.kind, Kind::Scalar | Kind::Uninit)
    }

    /// The number, if it is one and known.
    pub fn as_constant(&self) -> Option<u64> {
        if self.is_scalar() { self.num.as_constant() } else { None }
    }

    /// Whether it is the number 0.
    pub fn is_null(&self) -> bool {
        self.as_constant() == Some(0)
    }

    /// Whether it is a packet pointer, of data or metadata.
    pub fn is_packet(&self) -> bool {
        matches!(self.kind, Kind::Packet(_) | Kind::PacketMeta(_))
    }

    /// Without the link to other scalars.
    pub fn unlinked(self) -> Value {
        if self.is_scalar() { Value { id: 0, plus: None, off: 0, ..self } } else { self }
    }

    /// The kernel's name of the type.
    pub fn type_name(&self) -> TypeName {
        TypeName(*self)
    }
}

/// The kernel's name of a value's type, as in "R1 type=map_value_or_null expected=…".
pub struct TypeName(Value);

impl fmt::Display for TypeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.0.kind {
            Kind::Uninit => "?",
            Kind::Scalar => "scalar",
            Kind::Ctx => "ctx",
            Kind::MapPtr(_) => "map_ptr",
            Kind::MapValue(_) => "map_value",
            Kind::MapKey(_) => "map_key",
            Kind::Stack(_) => "fp",
            Kind::Packet(_) => "pkt",
            Kind::PacketMeta(_) => "pkt_meta",
            Kind::PacketEnd => "pkt_end",
            Kind::FlowKeys => "flow_keys",
            Kind::Sock(SockKind::SockCommon) => "sock_common",
            Kind::Sock(SockKind::Sock) => "sock",
            Kind::Sock(SockKind::TcpSock) => "tcp_sock",
            Kind::Sock(SockKind::XdpSock) => "xdp_sock",
            Kind::TpBuffer => "tp_buffer",
            Kind::Mem { from: Source::Ringbuf, .. } => "ringbuf_mem",
            Kind::Mem { writable: false, .. } => "rdonly_mem",
            Kind::Mem { .. } => "mem",
            Kind::Btf { trust: Trust::Trusted, .. } if self.0.nullable => return f.write_str("trusted_ptr_or_null_"),
            Kind::Btf { trust: Trust::Trusted, .. } => "trusted_ptr_",
            Kind::Btf { .. } if self.0.nullable => return f.write_str("ptr_or_null_"),
            Kind::Btf { .. } => "ptr_",
            Kind::PercpuBtf => "percpu_ptr_",
            Kind::Func(_) => "func",
            Kind::Dynptr { .. } => "dynptr_ptr",
            Kind::Iter { .. } => "iter",
        };
        f.write_str(name)?;
        if self.0.nullable { f.write_str("_or_null") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn type_names_are_the_kernels() {
        let check = |kind, nullable, want: &str| {
            assert_eq!(Value { nullable, ..Value::pointer(kind) }.type_name().to_string(), want);
        };
        let map = MapRef { map: MapIdx(0), inner: false, uid: 0 };
        check(Kind::MapValue(map), true, "map_value_or_null");
        check(Kind::Stack(0), false, "fp");
        check(Kind::Btf { name: "task_struct", trust: Trust::Trusted }, true, "trusted_ptr_or_null_");
    }

    #[test]
    fn values_stay_small() {
        assert!(size_of::<Value>() <= 80, "{}", size_of::<Value>());
        // What glibc's allocator hands out without looking for it, with the counts of `Rc`.
        assert!(size_of::<crate::state::Frame>() + 16 <= 1032, "{}", size_of::<crate::state::Frame>());
    }
}
