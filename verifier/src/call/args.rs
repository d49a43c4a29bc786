//! What each argument of a helper must be.

use rtbpf_abi::MapKind;
use rtbpf_abi::helper::{Arg, DynptrKinds, HelperProto, MemSize, MemUse, Null, SockKind, value_use};
use rtbpf_abi::limits::MAX_VAR_OFF;
use rtbpf_isa::Reg;

use super::{Call, id, takes_null};
use crate::explore::Walk;
use crate::prove::Target;
use crate::prove::stack::Use;
use crate::reject::{Checked, refuse};
use crate::state::{Byte, Stack};
use crate::value::{DynptrKind, Kind, MapRef, Source, Value};

/// Kinds of memory that helpers take, as messages list them.
const MEMORY: &str = "fp, pkt, pkt_meta, map_key, map_value, mem, ringbuf_mem, buf, trusted_ptr_";
const SOCKETS: &str = "sock_common, sock, tcp_sock, xdp_sock, ptr_, trusted_ptr_";

impl Walk<'_> {
    pub(super) fn check_argument(&mut self, proto: &HelperProto, i: usize, arg: Arg, call: &mut Call) -> Checked {
        if arg == Arg::None {
            return Ok(());
        }
        let reg = Reg::ARGS[i];
        let r = reg as u8;
        let value = self.read(reg)?;
        let map_kind = call.map.and_then(|map| self.map(map)).map(|spec| spec.kind);
        let arg = match (arg, map_kind) {
            (Arg::MapValue(usage), Some(map)) => Arg::MapValue(value_use(usage, map)),
            _ => arg,
        };
        if arg == Arg::Anything {
            if value.is_pointer() && !self.opts.privilege.perfmon {
                return refuse!(PointerLeak, EACCES, "R{r} leaks addr into helper function");
            }
            return Ok(());
        }
        if value.is_packet() && !self.packet_allowed(proto) {
            return refuse!(Argument, EACCES, "helper access to the packet is not allowed");
        }
        let socket_value = matches!(arg, Arg::MapValue(_)) && map_kind.is_some_and(is_socket_map);
        if socket_value && arg != Arg::MapValue(MemUse::Read) {
            return refuse!(Map, EINVAL, "invalid arg_type for sockmap/sockhash");
        }
        if value.is_null() && takes_null(arg) {
            // The bounds of the number decide here: it must be 0 on every path.
            self.demand(reg);
            return Ok(());
        }
        // A map of sockets takes a socket where others take memory.
        self.check_kind(reg, &value, if socket_value { Arg::SockCommonOrBtf } else { arg })?;
        self.check_offset_of(reg, &value, arg, proto.releases as usize == i + 1)?;
        if value.ref_id != 0 {
            if call.ref_id != 0 {
                let (one, two) = (value.ref_id, call.ref_id);
                return refuse!(Reference, EACCES, "more than one arg with ref_obj_id R{r} {one} {two}");
            }
            call.ref_id = value.ref_id;
        }
        match arg {
            Arg::None | Arg::Anything | Arg::Ctx | Arg::CtxOrNull => Ok(()),
            Arg::Scalar => Ok(()),
            Arg::ConstZero => {
                if !value.is_null() {
                    return refuse!(Argument, EINVAL, "{}() doesn't support non-zero flags", proto.name);
                }
                self.demand(reg);
                Ok(())
            }
            Arg::Map(_) => self.map_argument(&value, call),
            Arg::MapOfArg1 => self.map_of_timer(&value),
            Arg::MapKey => self.key_argument(reg, &value, call),
            Arg::MapValue(access) => self.value_argument(reg, &value, access, call),
            Arg::MapValueOrNull => self.value_argument(reg, &value, MemUse::Read, call),
            Arg::Mem { access, size: MemSize::Fixed(size), aligned, .. } => {
                self.memory_argument(reg, &value, size, access, false, call)?;
                if aligned { self.check_out_alignment(&value, size) } else { Ok(()) }
            }
            // Checked with its size.
            Arg::Mem { size: MemSize::Arg(_), .. } => Ok(()),
            Arg::Size { of, zero } => self.size_argument(proto, reg, of, zero, call),
            Arg::AllocSize => {
                let Some(size) = value.as_constant() else {
                    return refuse!(Argument, EACCES, "R{r} is not a known constant'");
                };
                self.demand(reg);
                call.alloc_size = size;
                Ok(())
            }
            Arg::ConstStr => self.const_str(reg, &value).map(|_| ()),
            Arg::Func => {
                if let Kind::Func(subprog) = value.kind {
                    call.callback = Some(subprog as usize);
                }
                Ok(())
            }
            Arg::Stack | Arg::StackOrNull => Ok(()),
            Arg::DynptrUninit(kinds) => self.uninit_dynptr(reg, &value, kinds, call),
            Arg::Dynptr(kinds) => self.dynptr_argument(reg, &value, kinds, false, call),
            Arg::RingbufDynptr => self.dynptr_argument(reg, &value, DynptrKinds::RINGBUF, true, call),
            Arg::RingbufMem | Arg::SockAcquired => self.acquired(reg, &value),
            Arg::SpinLock | Arg::SpinLockHeld => Ok(()),
            Arg::Timer => self.timer_argument(reg, &value),
            Arg::KptrSlot => self.kptr_slot(reg, &value),
            Arg::KptrValue => self.acquired(reg, &value),
            Arg::SockCommon | Arg::SockCommonOrBtf | Arg::SockCommonOrBtfOrNull | Arg::SockOrNull => Ok(()),
            Arg::Btf(_) | Arg::BtfOrNull(_) | Arg::PercpuBtf => Ok(()),
        }
    }

    /// Whether a helper's memory arguments may lie in the packet.
    fn packet_allowed(&self, proto: &HelperProto) -> bool {
        use rtbpf_abi::ProgType as P;
        // The value of a socket option is no packet, whatever its pointers look like.
        if self.given.prog_type == P::CgroupSockopt {
            return true;
        }
        let has_packets = matches!(
            self.given.prog_type,
            P::LwtIn
                | P::LwtOut
                | P::LwtSeg6local
                | P::SkReuseport
                | P::FlowDissector
                | P::CgroupSkb
                | P::SchedCls
                | P::SchedAct
                | P::Xdp
                | P::LwtXmit
                | P::SkSkb
                | P::SkMsg
        );
        proto.packet_as_memory && has_packets
    }

    fn unexpected<T>(&self, reg: Reg, value: &Value, expected: &str) -> Checked<T> {
        refuse!(Argument, EACCES, "R{} type={} expected={expected}", reg as u8, value.type_name())
    }

    fn check_kind(&self, reg: Reg, value: &Value, arg: Arg) -> Checked {
        let is_socket = matches!(value.kind, Kind::Sock(_));
        let is_kernel = matches!(value.kind, Kind::Btf { .. });
        let (fine, expected) = match arg {
            Arg::None | Arg::Anything => (true, ""),
            Arg::ConstZero => (true, ""),
            Arg::Scalar | Arg::Size { .. } | Arg::AllocSize => (value.is_scalar(), "scalar"),
            Arg::Ctx | Arg::CtxOrNull => (value.kind == Kind::Ctx, "ctx"),
            Arg::Map(_) | Arg::MapOfArg1 => (matches!(value.kind, Kind::MapPtr(_)), "map_ptr"),
            Arg::MapKey | Arg::MapValue(_) | Arg::MapValueOrNull => (is_memory(value), MEMORY),
            Arg::Mem { .. } => (is_memory(value), MEMORY),
            Arg::ConstStr | Arg::Timer | Arg::KptrSlot => (matches!(value.kind, Kind::MapValue(_)), "map_value"),
            Arg::SpinLock | Arg::SpinLockHeld => (matches!(value.kind, Kind::MapValue(_)), "map_value, ptr_"),
            Arg::Func => (matches!(value.kind, Kind::Func(_)), "func"),
            Arg::Stack | Arg::StackOrNull => (matches!(value.kind, Kind::Stack(_)), "fp"),
            Arg::DynptrUninit(_) | Arg::Dynptr(_) | Arg::RingbufDynptr => {
                (matches!(value.kind, Kind::Stack(_) | Kind::Dynptr { .. }), "fp, dynptr_ptr")
            }
            Arg::RingbufMem => (matches!(value.kind, Kind::Mem { from: Source::Ringbuf, .. }), "ringbuf_mem"),
            Arg::SockCommon => (is_socket, "sock_common, sock, tcp_sock, xdp_sock"),
            Arg::SockCommonOrBtf | Arg::SockCommonOrBtfOrNull | Arg::SockAcquired => (is_socket || is_kernel, SOCKETS),
            Arg::SockOrNull => (value.kind == Kind::Sock(SockKind::Sock), "sock"),
            Arg::Btf(_) | Arg::BtfOrNull(_) | Arg::KptrValue => (is_kernel, "ptr_, trusted_ptr_, rcu_ptr_"),
            Arg::PercpuBtf => (value.kind == Kind::PercpuBtf, "percpu_ptr_, percpu_rcu_ptr_, percpu_trusted_ptr_"),
        };
        // Whether there are bytes behind what may be 0 is asked with the size.
        if fine && (!value.nullable || takes_null(arg)) {
            return Ok(());
        }
        self.unexpected(reg, value, expected)
    }

    /// Pointers whose identity matters must not be moved.
    fn check_offset_of(&self, reg: Reg, value: &Value, arg: Arg, released: bool) -> Checked {
        if value.is_scalar() {
            return Ok(());
        }
        let r = reg as u8;
        let dynptr = matches!(arg, Arg::Dynptr(_) | Arg::RingbufDynptr | Arg::DynptrUninit(_));
        if released && !dynptr && (value.off != 0 || value.num.as_constant() != Some(0)) {
            return refuse!(
                Reference,
                EINVAL,
                "R{r} must have zero offset when passed to release func or trusted arg to kfunc"
            );
        }
        match value.kind {
            Kind::Stack(_) | Kind::Packet(_) | Kind::PacketMeta(_) | Kind::MapKey(_) | Kind::MapValue(_) => Ok(()),
            Kind::Mem { .. } | Kind::TpBuffer | Kind::Scalar => Ok(()),
            _ => self.check_unmodified(reg, value),
        }
    }

    fn map_argument(&mut self, value: &Value, call: &mut Call) -> Checked {
        if let Kind::MapPtr(map) = value.kind {
            call.map = Some(map);
        }
        Ok(())
    }

    fn key_argument(&mut self, reg: Reg, value: &Value, call: &mut Call) -> Checked {
        let Some(spec) = call.map.and_then(|map| self.map(map)) else {
            return refuse!(Argument, EACCES, "invalid map_ptr to access map->key");
        };
        let (size, entries) = (spec.key_size, spec.max_entries);
        let is_named = call.map.is_some_and(|map| !map.inner);
        let array = matches!(spec.kind, MapKind::Array | MapKind::PercpuArray);
        let finds = if is_named { array } else { spec.finds_constant_keys() };
        self.memory_argument(reg, value, size, MemUse::Read, false, call)?;
        if finds {
            call.const_key = self.constant_key(value, entries);
        }
        Ok(())
    }

    /// The key on the stack, where it was stored as one known number of 4 bytes.
    fn constant_key(&mut self, value: &Value, entries: u32) -> Option<u32> {
        let Kind::Stack(frame) = value.kind else { return None };
        let off = value.off.checked_add(value.num.as_constant()? as i32)?;
        let (at, index) = Stack::locate(off);
        let slot = self.state.frame_at(frame).stack.slot(at)?;
        let bytes = slot.bytes.get(index..index + 4)?;
        if bytes.iter().all(|&byte| byte == Byte::Zero) {
            return (entries > 0).then_some(0);
        }
        // The key ends where the spilled value does. Of a value of eight bytes, Linux 6.18 takes the whole for the key, so
        // only what fits four is one; the key is its high half.
        if index + 4 != slot.spill_size() as usize {
            return None;
        }
        let value = u32::try_from(slot.spilled()?.as_constant()?).ok().filter(|&value| value < entries)?;
        self.demand_slot(frame, at);
        Some(if index == 0 { value } else { 0 })
    }

    fn value_argument(&mut self, reg: Reg, value: &Value, access: MemUse, call: &mut Call) -> Checked {
        let Some(spec) = call.map.and_then(|map| self.map(map)) else {
            return refuse!(Argument, EACCES, "invalid map_ptr to access map->value");
        };
        let size = spec.value_size;
        if is_socket_map(spec.kind) {
            return Ok(());
        }
        self.memory_argument(reg, value, size, access, false, call)
    }

    fn size_argument(&mut self, proto: &HelperProto, reg: Reg, of: u8, zero: bool, call: &mut Call) -> Checked {
        let value = *self.state.reg(reg);
        let r = reg as u8;
        let num = value.num;
        let memory = Reg::ARGS[(of as usize).saturating_sub(1).min(4)];
        let Some(Arg::Mem { access, null, .. }) = proto.args.get(of as usize - 1).copied() else {
            return refuse!(Internal, EFAULT, "size argument without memory");
        };
        if num.smin() < 0 {
            return refuse!(OutOfBounds, EACCES, "R{r} min value is negative, either use unsigned or 'var &= const'");
        }
        if num.umin() == 0 && !zero {
            let (low, high) = (num.umin(), num.umax());
            return refuse!(OutOfBounds, EACCES, "R{r} invalid zero-sized read: u64=[{low},{high}]");
        }
        if num.umax() >= MAX_VAR_OFF as u64 {
            return refuse!(
                OutOfBounds,
                EACCES,
                "R{r} unbounded memory access, use 'var &= const' or 'if (var < const)'"
            );
        }
        let pointer = *self.state.reg(memory);
        // A size that varies may leave bytes as they were.
        let access = match (access, num.as_constant()) {
            (MemUse::Write, None) => MemUse::ReadWrite,
            _ => access,
        };
        self.demand(reg);
        call.size_max = num.umax();
        if pointer.is_scalar() {
            let fits = pointer.is_null() && (null == Null::Yes || num.umax() == 0 && zero);
            if fits {
                return Ok(());
            }
            return self.unexpected(memory, &pointer, "fp");
        }
        if pointer.nullable && null != Null::Yes && num.umax() > 0 {
            return self.unexpected(memory, &pointer, MEMORY);
        }
        self.memory_argument(memory, &pointer, num.umax() as u32, access, zero, call)
    }

    /// `size` bytes behind `value` may be read or written by the helper.
    pub(crate) fn memory_argument(
        &mut self,
        reg: Reg,
        value: &Value,
        size: u32,
        access: MemUse,
        zero: bool,
        call: &mut Call,
    ) -> Checked {
        let target = Target { reg, pointer: *value, off: 0, size };
        let r = reg as u8;
        let writes = access != MemUse::Read;
        match value.kind {
            Kind::Packet(_) | Kind::PacketMeta(_) => self.packet_access(&target, zero),
            Kind::MapKey(map) => {
                if writes {
                    return refuse!(ReadOnly, EACCES, "R{r} cannot write into map_key");
                }
                let size = self.map(map).map_or(0, |spec| spec.key_size);
                self.check_region(&target, size, zero, "key")
            }
            Kind::MapValue(map) => {
                let Some(spec) = self.map(map) else { return refuse!(Internal, EFAULT, "map is gone") };
                let (value_size, off) = (spec.value_size, value.off);
                if writes && !spec.prog_writes() {
                    return refuse!(
                        ReadOnly,
                        EACCES,
                        "write into map forbidden, value_size={value_size} off={off} size={size}"
                    );
                }
                if !writes && !spec.prog_reads() {
                    return refuse!(
                        ReadOnly,
                        EACCES,
                        "read from map forbidden, value_size={value_size} off={off} size={size}"
                    );
                }
                self.check_map_range(&target, map, zero)
            }
            Kind::Mem { size: bytes, writable, .. } => {
                if writes && !writable {
                    return refuse!(ReadOnly, EACCES, "R{r} cannot write into {}", value.type_name());
                }
                self.check_region(&target, bytes, zero, "mem")
            }
            Kind::Stack(frame) => self.stack_argument(&target, frame, access, zero, call),
            Kind::Btf { name, .. } => self.kernel_access_by_helper(&target, name, writes),
            _ => self.unexpected(reg, value, "fp"),
        }
    }

    fn kernel_access_by_helper(&mut self, target: &Target, name: &str, writes: bool) -> Checked {
        if target.fixed() < 0 || target.pointer.num.as_constant() != Some(0) || writes {
            let (r, off) = (target.r(), target.fixed());
            return refuse!(OutOfBounds, EACCES, "R{r} is ptr_{name} invalid access: off={off}");
        }
        self.note_object_bytes(target);
        Ok(())
    }

    fn stack_argument(&mut self, target: &Target, frame: u32, access: MemUse, zero: bool, call: &mut Call) -> Checked {
        if target.size == 0 && !zero {
            return refuse!(StackAccess, EACCES, "invalid zero-sized read");
        }
        let what = if access == MemUse::Read { Use::HelperRead } else { Use::HelperWrite };
        let (low, high) = self.check_stack_range(target, what)?;
        if target.size == 0 {
            return Ok(());
        }
        self.grow(frame, low);
        if access == MemUse::Write && low == high {
            let end = low + target.size as i32;
            for off in low..end {
                let byte = self.state.frame_at(frame).stack.byte(off);
                if byte == Byte::Dynptr {
                    return refuse!(Dynptr, EACCES, "potential write to dynptr at off={off} disallowed");
                }
                // A helper that fails may leave what it should have written.
                self.facts.reads_uninit_stack |= byte == Byte::Invalid;
            }
            call.overwrites = Some((frame, low, target.size as i32));
            return Ok(());
        }
        let what = if access == MemUse::Read { Use::HelperRead } else { Use::HelperWrite };
        self.check_initialised(target, frame, low, high, what)
    }

    fn check_out_alignment(&self, value: &Value, size: u32) -> Checked {
        let off = value.off as i64;
        let sum = value.num.tnum().add(crate::domain::Tnum::constant(off as u64));
        if sum.is_aligned(size as u64) {
            return Ok(());
        }
        let kind = match value.kind {
            Kind::Stack(_) => "stack ",
            Kind::MapValue(_) => "value ",
            _ => "",
        };
        refuse!(Misaligned, EACCES, "misaligned {kind}access off 0+{off}+0 size {size}")
    }

    /// A string lies in a frozen map that programs may only read, and ends in it: its bytes, without the NUL.
    fn const_str(&self, reg: Reg, value: &Value) -> Checked<Vec<u8>> {
        let Kind::MapValue(map) = value.kind else { return self.unexpected(reg, value, "map_value") };
        let r = reg as u8;
        let Some(spec) = self.map(map) else { return refuse!(Internal, EFAULT, "map is gone") };
        let Some(bytes) = spec.frozen.clone().filter(|_| !map.inner && !spec.prog_writes()) else {
            return refuse!(Argument, EACCES, "R{r} does not point to a readonly map'");
        };
        let Some(off) = value.num.as_constant() else {
            return refuse!(Argument, EACCES, "R{r} is not a constant address'");
        };
        let start = usize::try_from(value.off as i64 + off as i64).unwrap_or(usize::MAX);
        match bytes.get(start..).map(|rest| (rest, rest.iter().position(|&byte| byte == 0))) {
            Some((rest, Some(end))) => Ok(rest.get(..end).unwrap_or_default().to_vec()),
            Some((_, None)) => refuse!(Argument, EINVAL, "string is not zero-terminated"),
            None => refuse!(OutOfBounds, EACCES, "R{r} min value is outside of the allowed memory range"),
        }
    }

    /// The format in R3 suits the words that R5 counts.
    pub(super) fn check_format(&mut self) -> Checked {
        let format = self.const_str(Reg::R3, self.state.reg(Reg::R3))?;
        self.demand(Reg::R5);
        // Of a length that varies, Linux takes the bits that do not.
        let bytes = self.state.reg(Reg::R5).num.tnum().value();
        if !bytes.is_multiple_of(8) {
            return refuse!(Argument, EINVAL, "data length {bytes} is no number of words");
        }
        match rtbpf_abi::format::check(&format, usize::try_from(bytes / 8).unwrap_or(usize::MAX)) {
            Ok(()) => Ok(()),
            Err(_) => refuse!(Argument, EINVAL, "Invalid format string"),
        }
    }

    /// An argument whose reference the call takes.
    fn acquired(&self, reg: Reg, value: &Value) -> Checked {
        if value.ref_id == 0 && !value.is_null() {
            return refuse!(Reference, EINVAL, "R{} must be referenced when passed to release function", reg as u8);
        }
        Ok(())
    }

    pub(super) fn uninit_dynptr(&mut self, reg: Reg, value: &Value, kinds: DynptrKinds, call: &mut Call) -> Checked {
        let kind = match kinds {
            DynptrKinds::LOCAL => DynptrKind::Local,
            DynptrKinds::RINGBUF => DynptrKind::Ringbuf,
            DynptrKinds::SKB => DynptrKind::Skb,
            _ => DynptrKind::Xdp,
        };
        let Ok((frame, slot)) = self.dynptr_slot(reg, value) else {
            // Below the stack, Linux misses the memory before the dynptr.
            if value.off < -(rtbpf_abi::limits::STACK_BYTES as i32) && value.off % 8 == 0 {
                self.check_stack_range(&Target { reg, pointer: *value, off: 0, size: 8 }, Use::HelperWrite)?;
            }
            return refuse!(Dynptr, EINVAL, "Dynptr has to be an uninitialized dynptr");
        };
        // An older dynptr there is overwritten, if it may be.
        let stack = &self.state.frame_at(frame).stack;
        let used = |at: usize| stack.slot(at).is_some_and(|s| s.bytes.contains(&Byte::Iter));
        if used(slot) || used(slot - 1) {
            return refuse!(Dynptr, EINVAL, "Dynptr has to be an uninitialized dynptr");
        }
        let off = -((slot as i32 + 1) * 8);
        self.grow(frame, off);
        call.new_dynptr = Some((kind, frame, slot));
        call.overwrites = Some((frame, off, 16));
        Ok(())
    }

    /// What argument 1 of `bpf_loop` is at most, where known.
    pub(super) fn loop_bound(&self) -> Option<u64> {
        let count = self.state.reg(Reg::R1);
        count.is_scalar().then(|| count.num.umax())
    }

    /// The number of a helper that the current instruction calls.
    pub(super) fn is_lookup(&self, proto: &HelperProto) -> bool {
        proto.id.0 == id::MAP_LOOKUP
    }

    /// The map behind a pointer to its value.
    pub(super) fn map_of_value(&self, value: &Value) -> Option<MapRef> {
        match value.kind {
            Kind::MapValue(map) => Some(map),
            _ => None,
        }
    }
}

pub(super) fn is_socket_map(kind: MapKind) -> bool {
    matches!(kind, MapKind::Sockmap | MapKind::Sockhash)
}

fn is_memory(value: &Value) -> bool {
    match value.kind {
        Kind::Stack(_) | Kind::Packet(_) | Kind::PacketMeta(_) | Kind::MapKey(_) | Kind::MapValue(_) => true,
        Kind::Mem { .. } => true,
        Kind::Btf { trust, .. } => trust == crate::value::Trust::Trusted,
        _ => false,
    }
}
