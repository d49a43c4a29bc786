//! Steps that call helpers: arguments are made from the prototype's rows, so that every helper whose arguments can be
//! had is called by every kind of program that has it.

use rtbpf_abi::helper::{self, DynptrKinds, HelperProto, MemSize, MemUse, Null, SockKind};
use rtbpf_abi::{Arg, MapKind, Ret};
use rtbpf_isa::{AluOp, CmpOp, Reg, Size};

use super::Shaper;
use super::state::{ANY, Place, SLOTS, Slot, Value};

/// Helpers whose results follow from the program's input, so that two engines must agree on them.
const DETERMINISTIC: &[u32] = &[
    1, 2, 3, 9, 10, 11, 12, 26, 28, 38, 39, 44, 54, 65, 87, 88, 89, 105, 106, 130, 131, 132, 133, 164, 181, 195, 197,
    198, 199, 200, 201, 202, 203,
];

/// Common helpers, called more often than the rest of the table.
const COMMON: &[u32] =
    &[1, 1, 2, 3, 5, 7, 8, 12, 26, 28, 130, 131, 164, 181, 181, 197, 198, 201, 202, 203, 9, 39, 44, 87, 195];

/// Helpers that are never called: they write kernel memory or end processes, and say so in the kernel's log even when a
/// program is only loaded.
const NEVER: &[u32] = &[36, 58, 109, 117];

impl Shaper<'_> {
    /// A call of some helper of the kind.
    pub(super) fn any_helper(&mut self) {
        for _ in 0..8 {
            let id = if self.rng.chance(2, 3) {
                self.rng.pick(COMMON)
            } else {
                1 + self.rng.below(u64::from(helper::LAST)) as u32
            };
            if NEVER.contains(&id) {
                continue;
            }
            let Some(proto) = helper::proto_for(helper::HelperId(id), self.kind).found() else { continue };
            let sleeps = proto.might_sleep && !self.kind.is_sleepable();
            let moves = proto.invalidates_packet && self.in_loop;
            let nests = proto.calls_back() && (self.in_loop || self.nesting > 2);
            if !sleeps && !moves && !nests && self.call(proto) {
                return;
            }
        }
    }

    /// A lookup in a map, with a null test and an access behind it.
    pub(super) fn lookup(&mut self) {
        if let Some(proto) = helper::proto_for(helper::HelperId(1), self.kind).found() {
            self.call(proto);
        }
    }

    /// Calls `proto`; false when an argument cannot be had. What was written for it stays and does no harm.
    fn call(&mut self, proto: &'static HelperProto) -> bool {
        let mut call = Call { map: None, sizes: [None; 5], dynptr: None, wrote: None, variable: false };
        // Sizes are chosen with the memory they measure, wherever that stands.
        for (i, arg) in proto.args.iter().enumerate() {
            if matches!(arg, Arg::AllocSize) {
                call.sizes[i] = Some(8 * (1 + self.rng.below(6) as u32));
            }
            if let Arg::Size { of, zero } = *arg {
                let least = u64::from(!zero);
                let most = if self.rng.chance(1, 6) { 48 } else { 16 };
                let fixed = matches!(proto.args[usize::from(of) - 1], Arg::Mem { size: MemSize::Fixed(_), .. });
                let size = if fixed { 8 } else { self.rng.within(least as i64, most) as u32 };
                // Checksums take multiples of four.
                call.sizes[i] = Some(if proto.id.0 == 28 { size / 4 * 4 } else { size.max(least as u32) });
            }
        }
        for (i, &arg) in proto.args.iter().enumerate() {
            let to = Reg::ARGS[i];
            if arg != Arg::None && self.provide(proto, &mut call, i, arg, to).is_none() {
                self.state.clobber();
                return false;
            }
            if arg != Arg::None {
                // Later arguments must not be made from this register.
                self.state.set(to, Value::Dead);
                self.state.lock(to);
            }
        }
        self.code.call(proto.id.0);
        for reg in Reg::ARGS {
            self.state.locked &= !(1 << reg.index());
        }
        self.deterministic &= DETERMINISTIC.contains(&proto.id.0);
        self.state.clobber();
        if proto.invalidates_packet {
            self.state.forget_packet();
        }
        if let Some((off, len)) = call.wrote {
            // A size that is only bounded may leave the end of what stood there before, were it a pointer.
            if call.variable {
                self.state.forget_pointers(off, len);
            } else {
                self.state.write_stack(off, len);
            }
        }
        if let Some((slot, made)) = call.dynptr {
            self.state.stack[slot] = if made { Slot::Dynptr } else { Slot::Empty };
            self.state.stack[slot + 1] = self.state.stack[slot];
        }
        self.result(proto, &call);
        true
    }

    /// What R0 holds after the call, and what must be done with it.
    fn result(&mut self, proto: &HelperProto, call: &Call) {
        let value = match proto.ret {
            Ret::Int | Ret::ErrnoOrUpTo(_) => ANY,
            Ret::Range(low, high) if low >= 0 => Value::Scalar(low as u64, high as u64),
            Ret::Range(..) => ANY,
            Ret::Cpu => Value::Scalar(0, 63),
            Ret::Void => Value::Dead,
            Ret::MapValueOrNull => {
                let Some(map) = call.map else { return self.state.set(Reg::R0, Value::Dead) };
                self.value_or_null(Place::MapValue(map), self.maps[map].spec.value_size)
            }
            Ret::MapValue => Value::Dead,
            Ret::RingbufMemOrNull(n) | Ret::DynptrSliceOrNull(n) => {
                self.value_or_null(Place::Record, call.sizes[usize::from(n) - 1].unwrap_or(8))
            }
            Ret::SockOrNull { kind, acquired } => return self.socket(kind, acquired),
            Ret::Btf { .. } | Ret::KptrOrNull | Ret::Percpu { .. } => Value::Dead,
        };
        self.state.set(Reg::R0, value);
        if matches!(proto.ret, Ret::RingbufMemOrNull(_)) {
            self.record();
        } else if proto.id.0 == 198 {
            self.dynptr_record(call);
        } else if matches!(value, Value::Mem { null: true, .. }) && !self.rng.chance(1, 30) {
            self.null_test();
        }
    }

    fn value_or_null(&mut self, place: Place, size: u32) -> Value {
        let id = self.id();
        Value::Mem { place, id, size, low: 0, high: 0, null: true }
    }

    /// Tests R0 for null: the pointer lives on inside a branch, or beyond an early exit.
    fn null_test(&mut self) {
        let Value::Mem { id, .. } = self.state.get(Reg::R0) else { return };
        if self.rng.chance(1, 3) {
            let keep = self.target();
            if keep != Reg::R0 {
                self.code.mov(keep, Reg::R0);
                self.state.set(keep, self.state.get(Reg::R0));
            }
        }
        let null = self.code.label();
        if self.rng.chance(1, 2) && self.nesting < 3 {
            self.code.branch(CmpOp::Eq, Reg::R0, 0, null);
            let mut before = self.state.clone();
            self.state.not_null(id);
            self.memory_access();
            self.arm();
            self.code.bind(null);
            before.forget(id);
            self.state = self.state.join(&before);
        } else {
            self.code.branch(CmpOp::Ne, Reg::R0, 0, null);
            let before = self.state.clone();
            self.state.forget(id);
            self.leave();
            self.state = before;
            self.code.bind(null);
            self.state.not_null(id);
            self.memory_access();
        }
    }

    /// A ring buffer record in R0: uses it where it is not null, and gives it back.
    fn record(&mut self) {
        let Value::Mem { id, .. } = self.state.get(Reg::R0) else { return };
        let null = self.code.label();
        self.code.branch(CmpOp::Eq, Reg::R0, 0, null);
        let mut before = self.state.clone();
        before.forget(id);
        self.state.not_null(id);
        let keep = self.rng.pick(&[Reg::R7, Reg::R8, Reg::R9]);
        let keep = if self.state.is_free(keep) { keep } else { Reg::R0 };
        if keep != Reg::R0 {
            self.code.mov(keep, Reg::R0);
            self.state.set(keep, self.state.get(Reg::R0));
            self.memory_access();
            self.memory_access();
        } else {
            self.code.store(Size::W, Reg::R0, 0, 1);
        }
        if !self.rng.chance(1, 40)
            && matches!(self.state.get(keep), Value::Mem { id: kept, low: 0, high: 0, .. } if kept == id)
        {
            self.code.mov(Reg::R1, keep);
            self.code.mov(Reg::R2, 0);
            let give_back = self.rng.pick(&[132, 133]);
            self.code.call(give_back);
            self.state.set(Reg::R0, Value::Dead);
            self.state.clobber();
        }
        self.state.forget(id);
        self.code.bind(null);
        self.state = self.state.join(&before);
    }

    /// A ring buffer dynptr, which must be given back whether or not there was room.
    fn dynptr_record(&mut self, call: &Call) {
        let Some((slot, _)) = call.dynptr else { return };
        if self.rng.chance(2, 3) {
            self.code.mov(Reg::R1, Reg::R10);
            self.code.alu(AluOp::Add, Reg::R1, -8 * (slot as i32 + 2));
            self.code.mov(Reg::R2, 0);
            self.code.mov(Reg::R3, 8);
            self.code.call(203);
            self.state.clobber();
            let value = self.value_or_null(Place::Record, 8);
            self.state.set(Reg::R0, value);
            let skip = self.code.label();
            self.code.branch(CmpOp::Eq, Reg::R0, 0, skip);
            self.code.store(Size::D, Reg::R0, 0, 3);
            self.code.bind(skip);
        }
        if !self.rng.chance(1, 40) {
            self.code.mov(Reg::R1, Reg::R10);
            self.code.alu(AluOp::Add, Reg::R1, -8 * (slot as i32 + 2));
            self.code.mov(Reg::R2, 0);
            let give_back = self.rng.pick(&[199, 200]);
            self.code.call(give_back);
        }
        self.state.clobber();
        self.state.set(Reg::R0, Value::Dead);
        self.state.stack[slot] = Slot::Empty;
        self.state.stack[slot + 1] = Slot::Empty;
    }

    /// A socket in R0: reads a field where it is not null, and releases it where it was acquired.
    fn socket(&mut self, kind: SockKind, acquired: bool) {
        let null = self.code.label();
        self.state.set(Reg::R0, Value::Dead);
        self.code.branch(CmpOp::Eq, Reg::R0, 0, null);
        if kind != SockKind::XdpSock && self.rng.chance(1, 2) {
            let field = self.rng.pick(&[0, 4, 8, 12, 16, 24]);
            self.code.load(Size::W, Reg::R2, Reg::R0, field);
        }
        if acquired && !self.rng.chance(1, 30) {
            self.code.mov(Reg::R1, Reg::R0);
            self.code.call(86);
        }
        self.code.bind(null);
        self.state.clobber();
    }

    /// Makes argument `i` in register `to`.
    fn provide(&mut self, proto: &HelperProto, call: &mut Call, i: usize, arg: Arg, to: Reg) -> Option<()> {
        match arg {
            Arg::None => {}
            Arg::Anything => {
                let value = if self.rng.chance(1, 3) { self.rng.edge() } else { self.rng.below(4) };
                self.code.constant(to, value);
            }
            Arg::Scalar if proto.id.0 == 181 => {
                let rounds = self.rng.pick(&[0, 1, 2, 5, 16, 100]);
                self.code.mov(to, rounds);
            }
            Arg::Scalar => self.code.mov(to, 1),
            Arg::ConstZero => self.code.mov(to, 0),
            Arg::Ctx | Arg::CtxOrNull => {
                let contexts = self.state.registers(|value| value == Value::Ctx);
                let from = self.rng.choose(&contexts)?;
                self.code.mov(to, from);
            }
            Arg::Map(kinds) => {
                let kind = self.map_kind(kinds)?;
                let map = self.a_map(kind);
                call.map = Some(map);
                self.code.map(to, map);
            }
            Arg::MapKey => {
                let size = self.maps[call.map?].spec.key_size;
                self.memory(call, to, size, MemUse::Read, proto.packet_as_memory)?;
            }
            Arg::MapValue(access) => {
                let size = self.maps[call.map?].spec.value_size;
                self.memory(call, to, size, access, proto.packet_as_memory)?;
            }
            Arg::MapValueOrNull => self.code.mov(to, 0),
            Arg::Mem { access, size, null, map_value_only, .. } => {
                let bytes = match size {
                    MemSize::Fixed(bytes) => bytes,
                    MemSize::Arg(n) => call.sizes[usize::from(n) - 1]?,
                };
                let may_be_null = null == Null::Yes || null == Null::IfSizeZero && bytes == 0;
                if may_be_null && self.rng.chance(1, 2) {
                    self.code.mov(to, 0);
                } else if map_value_only {
                    self.map_memory(to, bytes)?;
                } else {
                    self.memory(call, to, bytes, access, proto.packet_as_memory)?;
                }
            }
            Arg::Size { .. } => self.size_argument(call, i, to),
            Arg::AllocSize => self.code.mov(to, call.sizes[i]? as i32),
            Arg::Func => {
                let args = self.callback_arguments(proto, call)?;
                self.callback(to, args)?;
            }
            Arg::StackOrNull | Arg::Stack => {
                // The callback was told that it gets 16 bytes of the caller's stack.
                let off = self.stack_bytes(16, true)?;
                self.code.mov(to, Reg::R10);
                self.code.alu(AluOp::Add, to, off);
            }
            Arg::DynptrUninit(_) => {
                let slot = self.rng.below(SLOTS as u64 - 1) as usize;
                if self.state.stack[slot..slot + 2].contains(&Slot::Dynptr) {
                    return None;
                }
                call.dynptr = Some((slot, true));
                self.code.mov(to, Reg::R10);
                self.code.alu(AluOp::Add, to, -8 * (slot as i32 + 2));
            }
            Arg::Dynptr(kinds) if kinds.0 & DynptrKinds::LOCAL.0 != 0 => {
                let found = self.state.stack.windows(2).position(|pair| pair == [Slot::Dynptr, Slot::Dynptr])?;
                self.code.mov(to, Reg::R10);
                self.code.alu(AluOp::Add, to, -8 * (found as i32 + 2));
            }
            Arg::MapOfArg1
            | Arg::ConstStr
            | Arg::Dynptr(_)
            | Arg::RingbufMem
            | Arg::RingbufDynptr
            | Arg::SpinLock
            | Arg::SpinLockHeld
            | Arg::Timer
            | Arg::KptrSlot
            | Arg::SockCommon
            | Arg::SockCommonOrBtf
            | Arg::SockCommonOrBtfOrNull
            | Arg::SockOrNull
            | Arg::SockAcquired
            | Arg::Btf(_)
            | Arg::BtfOrNull(_)
            | Arg::KptrValue
            | Arg::PercpuBtf => return None,
        }
        Some(())
    }

    /// One of `kinds` that a case can create without another object; mostly one whose values programs may write.
    fn map_kind(&mut self, kinds: &[MapKind]) -> Option<MapKind> {
        use MapKind as K;
        let plain: Vec<MapKind> = supported(kinds)
            .into_iter()
            .filter(|kind| match kind {
                K::Array | K::Hash | K::Ringbuf => true,
                K::PercpuArray | K::PercpuHash | K::LruHash | K::LruPercpuHash | K::LpmTrie => {
                    !self.kind.is_sleepable()
                }
                _ => false,
            })
            .collect();
        if !plain.is_empty() && !self.rng.chance(1, 30) {
            return self.rng.choose(&plain);
        }
        self.rng.choose(&supported(kinds))
    }

    /// A size as a constant, or as a number that is bounded by it.
    fn size_argument(&mut self, call: &mut Call, i: usize, to: Reg) {
        let size = call.sizes[i].unwrap_or(1);
        let saved: Vec<Reg> =
            self.state.registers(Value::is_scalar).into_iter().filter(|r| r.is_callee_saved()).collect();
        match self.rng.choose(&saved) {
            Some(from) if size > 1 && self.rng.chance(1, 4) => {
                // 1 to size, or a power of two less.
                call.variable = true;
                let mask = size.next_power_of_two() / 2;
                self.code.mov(to, from);
                self.code.alu(AluOp::And, to, mask as i32 - 1);
                self.code.alu(AluOp::Add, to, 1);
            }
            _ => self.code.mov(to, size as i32),
        }
    }

    /// The address of `bytes` bytes.
    fn memory(&mut self, call: &mut Call, to: Reg, bytes: u32, access: MemUse, packet: bool) -> Option<()> {
        if self.rng.chance(1, 4) && self.map_memory(to, bytes).is_some() {
            return Some(());
        }
        if packet && access == MemUse::Read && self.rng.chance(1, 3) {
            let fits = |value| matches!(value, Value::Packet { off, range, .. } if range - off >= bytes as i32);
            let fits: Vec<Reg> = self.state.registers(fits).into_iter().filter(|r| r.is_callee_saved()).collect();
            if let Some(from) = self.rng.choose(&fits) {
                self.code.mov(to, from);
                return Some(());
            }
        }
        let off = self.stack_bytes(bytes, access != MemUse::Write)?;
        if access != MemUse::Read {
            call.wrote = Some((off, bytes as i32));
        }
        self.code.mov(to, Reg::R10);
        self.code.alu(AluOp::Add, to, off);
        Some(())
    }

    /// The address of `bytes` bytes of a map value.
    fn map_memory(&mut self, to: Reg, bytes: u32) -> Option<()> {
        let fits = |value| matches!(value, Value::Mem { size, high, null: false, place: Place::MapValue(_), .. } if high + bytes <= size);
        let fits: Vec<Reg> = self.state.registers(fits).into_iter().filter(|reg| reg.is_callee_saved()).collect();
        match self.rng.choose(&fits) {
            Some(from) => self.code.mov(to, from),
            None => {
                let map = self.a_variable();
                let size = self.maps[map].spec.value_size;
                if size < bytes {
                    return None;
                }
                self.code.map_value(to, map, 0);
            }
        }
        Some(())
    }

    /// R1 to R5 of a callback.
    fn callback_arguments(&mut self, proto: &HelperProto, call: &Call) -> Option<[Value; 5]> {
        let id = self.id();
        let mem = |place, size, id| Value::Mem { place, id, size, low: 0, high: 0, null: false };
        let stack = mem(Place::CallerStack, 16, id);
        let mut args = [Value::Dead; 5];
        match proto.id.0 {
            181 => (args[0], args[1]) = (Value::Scalar(0, 1 << 23), stack),
            164 => {
                let map = call.map?;
                let spec = &self.maps[map].spec;
                args[2] = mem(Place::MapValue(map), spec.value_size, id + 1_000_000);
                args[3] = stack;
            }
            _ => return None,
        }
        Some(args)
    }
}

/// What is known of a call while its arguments are made.
struct Call {
    /// The map in its arguments.
    map: Option<usize>,
    /// Sizes by argument.
    sizes: [Option<u32>; 5],
    /// The upper slot of a dynptr argument, and whether the call makes it.
    dynptr: Option<(usize, bool)>,
    /// Stack that the call writes.
    wrote: Option<(i32, i32)>,
    /// A size is not constant.
    variable: bool,
}

/// Those of `kinds` that a case can create without another object.
fn supported(kinds: &[MapKind]) -> Vec<MapKind> {
    let objects = |kind: &MapKind| {
        !matches!(
            kind,
            MapKind::ArrayOfMaps
                | MapKind::HashOfMaps
                | MapKind::SkStorage
                | MapKind::InodeStorage
                | MapKind::TaskStorage
                | MapKind::CgrpStorage
                | MapKind::CgroupStorage
                | MapKind::PercpuCgroupStorage
                | MapKind::StructOps
                | MapKind::Arena
                | MapKind::InsnArray
        )
    };
    kinds.iter().copied().filter(objects).collect()
}
