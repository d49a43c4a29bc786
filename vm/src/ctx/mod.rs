//! Contexts: what R1 points to, for each program type.
//!
//! A [`Ctx`] holds the native context that [`rtbpf_abi::ctx`] describes, and the packet behind it where there is one.
//! Programs that are checked read it field by field; programs that are proved read the same bytes directly.

mod outcome;
mod test_run;

use std::sync::Arc;

use rtbpf_abi::ctx::{CtxField, CtxLayout, CtxOp, FieldKind, layout};
use rtbpf_abi::{AttachType, ProgType};
use rtbpf_isa::{Size, eval};

use crate::error::FaultKind;
use crate::mem::{Buffer, Span};
use crate::packet::Packet;
use crate::region::{Region, RegionKind};

use outcome::Outcome;
pub use outcome::{Key, Redirect};
pub use test_run::DEVICES;

/// Bytes of zeroes behind a field that always points to something, where nobody put anything else. Every structure of the
/// kernel that programs can reach has at least as many, so that engines without checks need only compare.
pub(crate) const OBJECT_BYTES: usize = 4096;

/// Why a context could not be built. The words are for people; `errno` is what Linux answers a test run with.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{what}")]
pub struct CtxError {
    /// What is wrong with the input.
    pub what: String,
    /// Linux's answer.
    pub errno: rtbpf_abi::Errno,
}

/// What a load of the context gives.
pub(crate) enum CtxValue {
    Scalar(u64),
    /// A pointer into the packet, this far from the start of its region.
    Packet(i64),
    Null,
    /// A pointer to other memory.
    Memory {
        kind: RegionKind,
        span: Span,
        off: i64,
        writable: bool,
    },
}

/// The context of one run.
#[derive(Debug)]
pub struct Ctx {
    /// On the heap, so that a run takes the context over by its address.
    parts: Box<Parts>,
}

#[derive(Clone, Debug)]
struct Parts {
    prog_type: ProgType,
    attach_type: Option<AttachType>,
    layout: Option<&'static CtxLayout>,
    memory: Arc<Buffer>,
    /// Bytes that programs see.
    len: usize,
    packet: Option<Packet>,
    /// What pointer fields point to, by UAPI offset.
    objects: Vec<CtxObject>,
    writable: bool,
    /// What the host of a test run gave as the context, where some of it comes back.
    ctx_in: Vec<u8>,
    outcome: Outcome,
}

/// Memory behind a pointer field.
#[derive(Clone, Debug)]
struct CtxObject {
    field: u16,
    kind: RegionKind,
    memory: Arc<Buffer>,
    writable: bool,
}

/// A context of its own: its memory, its packet and what its pointers lead to are copied.
impl Clone for Ctx {
    fn clone(&self) -> Ctx {
        let copy = |memory: &Buffer| Buffer::from_bytes(&memory.to_vec(0, memory.len()));
        let mut ctx = Ctx { parts: self.parts.clone() };
        ctx.parts.memory = copy(&self.parts.memory);
        for at in 0..ctx.parts.objects.len() {
            let object = &mut ctx.parts.objects[at];
            object.memory = copy(&object.memory);
            let (field, addr) = (object.field as usize, object.memory.addr());
            ctx.put(field, Size::D, addr);
        }
        ctx.refresh();
        ctx
    }
}

impl Ctx {
    /// The plain context of embedders: `r1` points to a copy of `memory`, `r2` is its length.
    pub fn plain(memory: &[u8]) -> Ctx {
        Ctx::bytes(ProgType::Plain, None, memory)
    }

    /// A context whose first bytes are `bytes` and whose other bytes are 0 (tracepoint, kprobe, raw_tracepoint,
    /// perf_event, syscall …). Pointer fields are not taken from `bytes`: those that are never null point to zeroes, the
    /// others nowhere.
    pub fn bytes(prog_type: ProgType, attach_type: Option<AttachType>, bytes: &[u8]) -> Ctx {
        let layout = layout(prog_type, attach_type);
        // Linux knows at attach how much of an open context exists; here all that a program may touch does.
        let open = layout.and_then(|layout| layout.open).map_or(0, |open| open.end);
        let least = layout.map_or(0, |layout| layout.native_size.max(open) as usize);
        let len = layout.map_or(bytes.len(), |layout| layout.size.max(open) as usize);
        let memory = Buffer::zeroed(len.max(least));
        memory.write(0, bytes.get(..len).unwrap_or(bytes));
        for field in layout.into_iter().flat_map(|layout| layout.fields).filter(|field| field.kind != FieldKind::Scalar)
        {
            memory.write(field.offset as usize, &[0; 8][..field.size as usize]);
        }
        let parts = Parts {
            prog_type,
            attach_type,
            layout,
            memory,
            len,
            packet: None,
            objects: Vec::new(),
            writable: true,
            ctx_in: Vec::new(),
            outcome: Outcome::default(),
        };
        let mut ctx = Ctx { parts: Box::new(parts) };
        ctx.add_objects();
        ctx
    }

    /// Puts zeroes behind each field that is never null: the machine has no sockets and no kernel structures of its own.
    fn add_objects(&mut self) {
        let Some(layout) = self.parts.layout else { return };
        for field in layout.fields {
            let (kind, writable) = match field.kind {
                FieldKind::Sock => (RegionKind::Socket, false),
                FieldKind::Btf(_) => (RegionKind::Object, false),
                FieldKind::TracepointBuffer => (RegionKind::Object, true),
                FieldKind::FlowKeys => (RegionKind::FlowKeys, true),
                FieldKind::Scalar
                | FieldKind::PacketData
                | FieldKind::PacketMeta
                | FieldKind::PacketEnd
                | FieldKind::SockOrNull
                | FieldKind::SockCommonOrNull => continue,
            };
            // Types that share a layout do not all see all of it.
            if layout.access(i32::from(field.offset), u32::from(field.size), CtxOp::Load).is_ok() {
                self.set_object(field.name, kind, Buffer::zeroed(OBJECT_BYTES), writable);
            }
        }
    }

    /// Bytes that programs see.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.parts.len
    }

    /// A context with fields, all zero, and a packet behind it.
    pub(crate) fn with_packet(prog_type: ProgType, attach_type: Option<AttachType>, packet: Packet) -> Ctx {
        let mut ctx = Ctx::bytes(prog_type, attach_type, &[]);
        ctx.parts.packet = Some(packet);
        ctx.refresh();
        ctx
    }

    /// What a run leaves in its place while it owns the context.
    pub(crate) fn taken() -> Ctx {
        Ctx::bytes(ProgType::Unspec, None, &[])
    }

    /// The program type it was built for.
    #[inline]
    pub fn prog_type(&self) -> ProgType {
        self.parts.prog_type
    }

    /// The attach type it was built for.
    pub fn attach_type(&self) -> Option<AttachType> {
        self.parts.attach_type
    }

    /// The packet, where it has one.
    #[inline]
    pub fn packet(&self) -> Option<&Packet> {
        self.parts.packet.as_ref()
    }

    #[inline]
    pub(crate) fn packet_mut(&mut self) -> Option<&mut Packet> {
        self.parts.packet.as_mut()
    }

    /// The bytes that programs see, pointers excepted.
    pub fn to_vec(&self) -> Vec<u8> {
        self.parts.memory.to_vec(0, self.parts.len)
    }

    /// The number in the `size` bytes at `off`; 0 outside.
    pub fn get(&self, off: usize, size: Size) -> u64 {
        Span::of(&self.parts.memory, 0, self.parts.len).load(off as i64, size).unwrap_or(0)
    }

    /// Sets the `size` bytes at `off`; nothing outside, and no pointer.
    pub fn set(&mut self, off: usize, size: Size, value: u64) {
        let end = off.saturating_add(size.bytes() as usize);
        let meets = |field: &&CtxField| (field.offset as usize) < end && off < (field.offset + field.size) as usize;
        let fields = self.parts.layout.map_or(&[][..], |layout| layout.fields);
        if fields.iter().filter(meets).all(|field| field.kind == FieldKind::Scalar) {
            self.put(off, size, value);
        }
    }

    #[inline]
    pub(crate) fn put(&mut self, off: usize, size: Size, value: u64) {
        Span::of(&self.parts.memory, 0, self.parts.len).store(off as i64, size, value);
    }

    /// The field with this UAPI name.
    pub fn field(&self, name: &str) -> Option<&'static CtxField> {
        self.parts.layout?.fields.iter().find(|field| field.name == name)
    }

    /// The value of a 1-, 2-, 4- or 8-byte field by name; 0 where there is none.
    pub fn field_value(&self, name: &str) -> u64 {
        let size = |field: &CtxField| Size::from_bytes(field.size as u32);
        self.field(name).and_then(|f| Some(self.get(f.offset as usize, size(f)?))).unwrap_or(0)
    }

    /// Sets a number by name; nothing where there is none.
    pub fn set_field(&mut self, name: &str, value: u64) {
        if let Some(field) = self.field(name)
            && let Some(size) = Size::from_bytes(field.size as u32)
        {
            self.set(field.offset as usize, size, value);
        }
    }

    /// Brings `len` and the packet's addresses up to date after the packet changed.
    pub(crate) fn skb_changed(&mut self) {
        if let Some(packet) = &self.parts.packet {
            let len = packet.len() as u64;
            self.set_field("len", len);
        }
        self.refresh();
    }

    /// Puts memory behind a pointer field, zeroes to a null pointer.
    pub(crate) fn set_object(&mut self, name: &str, kind: RegionKind, memory: Arc<Buffer>, writable: bool) {
        if let Some(field) = self.field(name) {
            self.put(field.offset as usize, Size::D, memory.addr());
            self.parts.objects.retain(|object| object.field != field.offset);
            self.parts.objects.push(CtxObject { field: field.offset, kind, memory, writable });
        }
    }

    /// The bytes of the memory behind a pointer field.
    pub(crate) fn object(&self, name: &str) -> Option<&Arc<Buffer>> {
        let field = self.field(name)?;
        self.parts.objects.iter().find(|object| object.field == field.offset).map(|object| &object.memory)
    }

    /// Writes the packet's native addresses into their slots, after it moved.
    pub(crate) fn refresh(&mut self) {
        let (Some(layout), Some(packet)) = (self.parts.layout, &self.parts.packet) else { return };
        let (meta, data, end) = packet.addrs();
        let native = self.native();
        for field in layout.fields {
            let addr = match field.kind {
                FieldKind::PacketData => data,
                FieldKind::PacketMeta => meta,
                FieldKind::PacketEnd => end,
                _ => continue,
            };
            native.store(field.native_offset as i64, Size::D, addr);
        }
    }

    /// The native context.
    fn native(&self) -> Span {
        Span::of(&self.parts.memory, 0, self.parts.memory.len())
    }

    /// Size of the native context in bytes.
    #[inline]
    pub(crate) fn native_len(&self) -> usize {
        self.parts.memory.len()
    }

    /// Native address of the context.
    #[inline]
    pub(crate) fn addr(&self) -> u64 {
        self.parts.memory.addr()
    }

    /// The region of R1.
    pub(crate) fn region(&self) -> Region {
        let kind = if self.parts.prog_type == ProgType::Plain { RegionKind::Mem } else { RegionKind::Ctx };
        Region::memory(kind, Span::of(&self.parts.memory, 0, self.parts.len), self.parts.writable)
    }

    /// What R2 holds at entry.
    #[inline]
    pub(crate) fn second_arg(&self) -> u64 {
        if self.parts.prog_type == ProgType::Plain { self.parts.len as u64 } else { 0 }
    }

    /// Whether accesses go by fields.
    pub(crate) fn has_layout(&self) -> bool {
        self.parts.layout.is_some()
    }

    pub(crate) fn packet_region(&self) -> Region {
        match &self.parts.packet {
            Some(packet) => packet.region(true),
            None => Region::memory(RegionKind::Packet, Span::EMPTY, false),
        }
    }

    /// A load by a checked program; `None` when the layout does not allow it.
    pub(crate) fn load(&self, off: i64, size: Size, signed: bool) -> Option<CtxValue> {
        let Some(layout) = self.parts.layout else {
            return Span::of(&self.parts.memory, 0, self.parts.len).load(off, size).map(CtxValue::Scalar);
        };
        let op = if signed { CtxOp::LoadSigned } else { CtxOp::Load };
        let access = layout.access(i32::try_from(off).ok()?, size.bytes(), op).ok()?;
        Some(match access.kind {
            FieldKind::Scalar => CtxValue::Scalar(self.native().load(access.native_offset as i64, size)?),
            FieldKind::PacketMeta => CtxValue::Packet(0),
            FieldKind::PacketData => CtxValue::Packet(self.parts.packet.as_ref()?.meta_len() as i64),
            FieldKind::PacketEnd => {
                let packet = self.parts.packet.as_ref()?;
                CtxValue::Packet((packet.meta_len() + packet.linear_len()) as i64)
            }
            FieldKind::FlowKeys
            | FieldKind::SockCommonOrNull
            | FieldKind::Sock
            | FieldKind::SockOrNull
            | FieldKind::TracepointBuffer
            | FieldKind::Btf(_) => self.pointer(off),
        })
    }

    /// What the pointer field at `off` points to.
    fn pointer(&self, off: i64) -> CtxValue {
        match self.parts.objects.iter().find(|object| object.field as i64 == off) {
            Some(CtxObject { kind, memory, writable, .. }) => {
                let span = Span::of(memory, 0, memory.len());
                CtxValue::Memory { kind: *kind, span, off: 0, writable: *writable }
            }
            None => CtxValue::Null,
        }
    }

    /// Whether a checked program may store there.
    pub(crate) fn may_write(&self, off: i64, size: Size) -> bool {
        let Some(layout) = self.parts.layout else { return self.parts.writable };
        i32::try_from(off).is_ok_and(|off| layout.access(off, size.bytes(), CtxOp::Store).is_ok())
    }

    /// A legacy packet load, in host order; `None` when it is out of range.
    ///
    /// Negative offsets count from the network (-0x10_0000) and link-layer (-0x20_0000) headers, as in classic BPF.
    /// The plain context is its own packet.
    pub(crate) fn load_packet(&self, at: i64, size: Size) -> Result<Option<u64>, FaultKind> {
        const NETWORK: i64 = -0x10_0000;
        const LINK: i64 = -0x20_0000;
        if self.parts.prog_type == ProgType::Plain {
            let big_endian = |value: u64| eval::swap(rtbpf_isa::Swap::ToBe, size, value);
            let raw = Span::of(&self.parts.memory, 0, self.parts.len).load(at, size);
            return Ok(raw.map(|value| if size == Size::B { value } else { big_endian(value) }));
        }
        let packet = self.parts.packet.as_ref().ok_or(FaultKind::NoPacket)?;
        let network = packet.network() as i64;
        Ok(match at {
            0.. => packet.load(at, size),
            NETWORK.. => packet.load(at - NETWORK + network, size),
            LINK.. => packet.load_from_link(at - LINK, size),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_of_a_context_are_the_machines() {
        let (ones, at) =
            ([0xff; 400], |ctx: &Ctx, name: &str| ctx.field(name).map_or(0, |field| field.offset as usize));
        let mut ctx = Ctx::bytes(ProgType::SchedCls, None, &ones);
        assert_eq!(ctx.field_value("mark"), u32::MAX as u64);
        let sk = at(&ctx, "sk");
        for size in [Size::B, Size::W, Size::D] {
            ctx.set(sk, size, 1);
        }
        ctx.set(sk - 4, Size::D, u64::MAX);
        ctx.set_field("sk", 1);
        assert_eq!(ctx.get(sk, Size::D), 0, "a program would follow it");
        // Native slots of packet pointers lie behind what programs see.
        let native = ctx.native();
        let data = ctx.field("data").expect("there is one").native_offset;
        assert_eq!(native.load(data as i64, Size::D), Some(0));
        ctx.set_field("mark", 7);
        assert_eq!(ctx.field_value("mark"), 7);
    }

    #[test]
    fn a_clone_shares_nothing() {
        let ctx = Ctx::test_run(ProgType::SchedCls, None, &[7; 64], &[]).expect("a good packet");
        let mut other = ctx.clone();
        other.set_field("mark", 9);
        assert!(other.packet().is_some_and(|packet| packet.write(0, &[1, 2])));
        assert_eq!(ctx.field_value("mark"), 0);
        assert_eq!(ctx.packet().map(Packet::to_vec), Some(vec![7; 64]));
        let addrs = |ctx: &Ctx| ctx.packet().expect("it has one").addrs();
        let data = ctx.field("data").expect("there is one").native_offset as i64;
        for ctx in [&ctx, &other] {
            let native = ctx.native();
            assert_eq!(native.load(data, Size::D), Some(addrs(ctx).1), "the slot leads to its own packet");
        }
        assert_ne!(addrs(&ctx), addrs(&other));
        // Every object behind a pointer is its own, too.
        let (socket, copy) = (Ctx::bytes(ProgType::SkLookup, None, &[]), Ctx::bytes(ProgType::CgroupSock, None, &[]));
        for ctx in [socket, copy] {
            let other = ctx.clone();
            for (ours, theirs) in ctx.parts.objects.iter().zip(&other.parts.objects) {
                assert_eq!(other.get(theirs.field as usize, Size::D), theirs.memory.addr());
                assert_ne!(ours.memory.addr(), theirs.memory.addr());
            }
        }
    }
}
