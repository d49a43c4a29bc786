//! Steps that touch the stack, the packet, and memory that maps and helpers hand out.

use rtbpf_isa::{AluOp, AtomicOp, CmpOp, Insn, Operand, Reg, Size, Width};

use super::state::{ANY, Place, SLOTS, Slot, Value};
use super::{Shaper, ones};

/// Bytes of stack in use.
const FRAME: i32 = 8 * SLOTS as i32;

impl Shaper<'_> {
    fn size(&mut self) -> Size {
        self.rng.pick(&[Size::B, Size::H, Size::W, Size::W, Size::D, Size::D])
    }

    /// Loads into a register, sometimes sign-extended.
    fn load(&mut self, size: Size, base: Reg, off: i16) {
        let dst = self.target();
        let signed = size != Size::D && self.rng.chance(1, 6);
        self.code.push(Insn::Load { size, signed, dst, base, off });
        self.state.set(dst, if signed { ANY } else { Value::Scalar(0, ones(size)) });
    }

    /// Stores a number or an immediate.
    fn store(&mut self, size: Size, base: Reg, off: i16) {
        if self.rng.chance(1, 3) {
            let imm = self.rng.edge() as i32;
            self.code.store(size, base, off, imm);
        } else {
            let src = self.scalar();
            self.code.store(size, base, off, src);
        }
    }

    /// An atomic operation on aligned initialised memory.
    fn atomic(&mut self, base: Reg, off: i16) {
        let width = self.rng.pick(&[Width::W32, Width::W64]);
        let src = self.scalar();
        if !self.state.is_free(src) || src == base {
            return;
        }
        let size = self.rng.pick(&[Size::B, Size::H, Size::W, Size::D]);
        match self.rng.below(8) {
            0 => {
                let dst = self.target();
                self.code.push(Insn::LoadAcquire { size, dst, base, off });
                self.state.set(dst, Value::Scalar(0, ones(size)));
            }
            1 => self.code.push(Insn::StoreRelease { size, base, off, src }),
            2 if self.state.get(Reg::R0).is_scalar() => {
                self.code.push(Insn::Atomic { op: AtomicOp::Cmpxchg, fetch: true, width, base, off, src });
                self.state.set(Reg::R0, ANY);
            }
            3 => {
                self.code.push(Insn::Atomic { op: AtomicOp::Xchg, fetch: true, width, base, off, src });
                self.state.set(src, ANY);
            }
            _ => {
                let op = self.rng.pick(&[AtomicOp::Add, AtomicOp::Or, AtomicOp::And, AtomicOp::Xor]);
                let fetch = self.rng.chance(1, 2);
                self.code.push(Insn::Atomic { op, fetch, width, base, off, src });
                if fetch {
                    self.state.set(src, ANY);
                }
            }
        }
    }

    /// A load, store or atomic operation at a constant stack offset.
    pub(super) fn stack_access(&mut self) {
        let size = self.size();
        let bytes = size.bytes() as i32;
        let off = -bytes - self.rng.below((FRAME / bytes) as u64) as i32 * bytes;
        let slot = ((-off - 1) / 8) as usize;
        if matches!(self.state.stack[slot], Slot::Dynptr) {
            return;
        }
        if self.state.reads_stack(off, bytes) && self.rng.chance(1, 2) {
            if self.state.reads_stack(-8 * (slot as i32 + 1), 8) && self.rng.chance(1, 4) {
                self.atomic(Reg::R10, -8 * (slot as i16 + 1));
                self.state.stack[slot] = Slot::Bytes(0xff);
            } else {
                self.load(size, Reg::R10, off as i16);
            }
            return;
        }
        self.store(size, Reg::R10, off as i16);
        self.state.write_stack(off, bytes);
    }

    /// An access at a bounded variable stack offset.
    pub(super) fn stack_variable(&mut self) {
        let len = self.rng.pick(&[8, 16, 24, 32]);
        let base = -len - 8 * self.rng.below(4) as i32;
        for at in (base..base + len).step_by(8) {
            if matches!(self.state.stack[((-at - 1) / 8) as usize], Slot::Dynptr) {
                return;
            }
            if !self.state.reads_stack(at, 8) {
                self.code.store(Size::D, Reg::R10, at as i16, 0);
                self.state.write_stack(at, 8);
            }
        }
        let size = self.size();
        let bytes = size.bytes() as i32;
        if len < bytes + 1 {
            return;
        }
        let Some(index) = self.bound((len - bytes) as u64) else { return };
        let dst = self.target();
        if dst == index {
            return;
        }
        if bytes > 1 && !self.rng.chance(1, 20) {
            self.code.alu(AluOp::And, index, -bytes);
        }
        self.code.mov(dst, Reg::R10);
        self.code.alu(AluOp::Add, dst, base);
        self.code.alu(AluOp::Add, dst, index);
        self.state.set(dst, Value::Dead);
        if self.rng.chance(1, 2) {
            self.store(size, dst, 0);
            for at in (base..base + len).step_by(8) {
                self.state.stack[((-at - 1) / 8) as usize] = Slot::Bytes(0xff);
            }
        } else {
            self.load(size, dst, 0);
        }
    }

    /// Saves a register whole or in part, or restores one.
    pub(super) fn spill_or_fill(&mut self) {
        let slot = self.rng.below(SLOTS as u64) as usize;
        let off = -8 * (slot as i16 + 1);
        if let Slot::Spill(value) = self.state.stack[slot]
            && self.rng.chance(2, 3)
        {
            let dst = self.target();
            if value.is_scalar() && self.rng.chance(1, 3) {
                let size = self.rng.pick(&[Size::B, Size::H, Size::W]);
                let at = off + size.bytes() as i16 * self.rng.below(u64::from(8 / size.bytes())) as i16;
                self.code.load(size, dst, Reg::R10, at);
                self.state.set(dst, Value::Scalar(0, ones(size)));
            } else {
                self.code.load(Size::D, dst, Reg::R10, off);
                self.state.set(dst, value);
            }
            return;
        }
        if matches!(self.state.stack[slot], Slot::Dynptr) {
            return;
        }
        let live = self.state.registers(|value| value != Value::Dead);
        let Some(src) = self.rng.choose(&live) else { return };
        let value = self.state.get(src);
        if value.is_scalar() && self.rng.chance(1, 3) {
            let size = self.rng.pick(&[Size::B, Size::H, Size::W]);
            self.code.store(size, Reg::R10, off, src);
            self.state.write_stack(i32::from(off), size.bytes() as i32);
            if self.rng.chance(1, 2) {
                let dst = self.target();
                self.code.load(size, dst, Reg::R10, off);
                self.state.set(dst, Value::Scalar(0, ones(size)));
            }
            return;
        }
        self.code.store(Size::D, Reg::R10, off, src);
        self.state.stack[slot] = Slot::Spill(value);
    }

    /// An access to a map value, record, or the caller's stack.
    pub(super) fn memory_access(&mut self) {
        let known = self.state.registers(|value| matches!(value, Value::Mem { null: false, .. }));
        let Some(base) = self.rng.choose(&known) else { return };
        let Value::Mem { place, id, size: len, low, high, .. } = self.state.get(base) else { return };
        // The stack takes only accesses aligned to their size.
        let moving = place == Place::CallerStack && low != high;
        let size = if moving { Size::B } else { self.size() };
        let bytes = size.bytes();
        if high + bytes > len {
            return;
        }
        if self.rng.chance(1, 3)
            && high == low
            && let Some(index) = self.bound(u64::from(len - high - bytes))
            && index != base
        {
            let Value::Scalar(_, most) = self.state.get(index) else { return };
            let dst = self.target();
            if dst == index {
                return;
            }
            if dst != base {
                self.code.mov(dst, base);
            }
            self.code.alu(AluOp::Add, dst, index);
            self.state.set(dst, Value::Mem { place, id, size: len, low, high: high + most as u32, null: false });
            let size = if place == Place::CallerStack { Size::B } else { size };
            self.touch(dst, size, 0);
            return;
        }
        let off = self.rng.below(u64::from(len - high - bytes) + 1) as u32;
        let aligned = (low + off) / 8 * 8;
        if low == high && aligned + 8 <= len && aligned >= low && self.rng.chance(1, 5) && place != Place::CallerStack {
            self.atomic(base, (aligned - low) as i16);
            return;
        }
        let off = if place == Place::CallerStack { off / bytes * bytes } else { off };
        self.touch(base, size, off as i16);
    }

    fn touch(&mut self, base: Reg, size: Size, off: i16) {
        if self.rng.chance(1, 2) {
            self.store(size, base, off);
        } else {
            self.load(size, base, off);
        }
    }

    /// Loads packet pointers, tests a length, and reads or writes behind the test.
    pub(super) fn packet(&mut self) {
        let checked = self.state.registers(|value| matches!(value, Value::Packet { range: 1.., .. }));
        if let Some(base) = self.rng.choose(&checked)
            && self.rng.chance(2, 3)
        {
            self.packet_access(base);
            return;
        }
        self.packet_check();
    }

    fn packet_access(&mut self, base: Reg) {
        let Value::Packet { base: id, off, range } = self.state.get(base) else { return };
        let size = self.size();
        let bytes = size.bytes() as i32;
        if range - off < bytes {
            return;
        }
        if off == 0
            && self.rng.chance(1, 3)
            && let Some(index) = self.bound((range - bytes).min(60) as u64)
            && index != base
        {
            // A variable step makes a new base that needs its own test.
            let dst = self.target();
            let end = self.state.registers(|value| value == Value::PacketEnd);
            let (Some(end), true) = (self.rng.choose(&end), dst != index) else { return };
            if dst == end || dst == base {
                return;
            }
            let fresh = self.id();
            let _ = id;
            self.code.mov(dst, base);
            self.code.alu(AluOp::Add, dst, index);
            self.state.set(dst, Value::Packet { base: fresh, off: 0, range: 0 });
            self.check_end(dst, end, bytes);
            self.touch_packet(dst, size, 0);
            return;
        }
        let at = self.rng.below((range - off - bytes) as u64 + 1) as i16;
        self.touch_packet(base, size, at);
    }

    fn touch_packet(&mut self, base: Reg, size: Size, off: i16) {
        let writable = !matches!(
            self.kind.prog_type(),
            rtbpf_abi::ProgType::CgroupSkb | rtbpf_abi::ProgType::FlowDissector | rtbpf_abi::ProgType::LwtIn
        );
        if writable && self.rng.chance(1, 3) {
            self.store(size, base, off);
        } else {
            self.load(size, base, off);
        }
    }

    /// Loads `data` and `data_end` where they are not at hand, and tests that some bytes exist.
    fn packet_check(&mut self) {
        use rtbpf_abi::ctx::FieldKind;
        let contexts = self.state.registers(|value| value == Value::Ctx);
        let (Some(layout), Some(ctx)) = (self.layout, self.rng.choose(&contexts)) else { return };
        let field = |kind| layout.fields.iter().find(|field| field.kind == kind && field.reads.0 != 0);
        let (Some(data), Some(end)) = (field(FieldKind::PacketData), field(FieldKind::PacketEnd)) else { return };
        let width = |bytes| if bytes == 8 { Size::D } else { Size::W };
        let start = self.target();
        if start == ctx {
            return;
        }
        self.code.load(width(data.size), start, ctx, data.offset as i16);
        self.state.set(start, Value::Packet { base: 0, off: 0, range: 0 });
        let stop = self.target();
        if stop == ctx || stop == start {
            return;
        }
        self.code.load(width(end.size), stop, ctx, end.offset as i16);
        self.state.set(stop, Value::PacketEnd);
        let bytes = self.rng.pick(&[1, 4, 8, 14, 20, 34, 60]);
        self.check_end(start, stop, bytes);
        if self.rng.chance(2, 3) {
            self.packet_access(start);
        }
    }

    /// Leaves unless `bytes` bytes at `start` lie before `end`; in every order the comparison can be written.
    fn check_end(&mut self, start: Reg, end: Reg, bytes: i32) {
        let probe = self.target();
        if probe == start || probe == end || self.state.get(probe) == Value::Ctx {
            return;
        }
        self.code.mov(probe, start);
        self.code.alu(AluOp::Add, probe, bytes);
        self.state.set(probe, Value::Dead);
        let ok = self.code.label();
        match self.rng.below(4) {
            0 => self.code.branch(CmpOp::Le, probe, end, ok),
            1 => self.code.branch(CmpOp::Ge, end, probe, ok),
            2 => self.code.branch(CmpOp::Lt, probe, end, ok),
            _ => self.code.branch(CmpOp::Gt, end, probe, ok),
        }
        let before = self.state.clone();
        self.leave();
        self.state = before;
        self.code.bind(ok);
        let Value::Packet { base: id, .. } = self.state.get(start) else { return };
        self.state.each(|value| match value {
            Value::Packet { base, off, range } if base == id => Value::Packet { base, off, range: range.max(bytes) },
            _ => value,
        });
    }

    /// The address of a value of an array, without a lookup.
    pub(super) fn direct_value(&mut self) {
        let map = self.a_variable();
        let size = self.maps[map].spec.value_size;
        let dst = self.target();
        let off = if self.rng.chance(1, 2) { 0 } else { self.rng.below(u64::from(size)) as u32 };
        self.code.map_value(dst, map, off);
        let id = self.id();
        self.state.set(dst, Value::Mem { place: Place::MapValue(map), id, size, low: off, high: off, null: false });
    }

    /// Bytes of stack that hold numbers, `len` of them at an 8-aligned offset, written where they were not.
    pub(super) fn stack_bytes(&mut self, len: u32, write: bool) -> Option<i32> {
        let slots = len.div_ceil(8).max(1) as usize;
        if slots > SLOTS {
            return None;
        }
        let top = self.rng.below((SLOTS - slots) as u64 + 1) as usize;
        let range = top..top + slots;
        if self.state.stack[range.clone()].contains(&Slot::Dynptr) {
            return None;
        }
        for slot in range {
            if write && self.state.stack[slot].written() != 0xff {
                let off = -8 * (slot as i16 + 1);
                let scalars = self.state.registers(Value::is_scalar);
                match self.rng.choose(&scalars) {
                    Some(reg) if self.rng.chance(1, 3) => self.code.store(Size::D, Reg::R10, off, reg),
                    _ => {
                        let imm = self.rng.below(8) as i32;
                        self.code.push(Insn::Store { size: Size::D, base: Reg::R10, off, src: Operand::Imm(imm) });
                    }
                }
                self.state.stack[slot] = Slot::Bytes(0xff);
            }
        }
        Some(-8 * (top + slots) as i32)
    }
}
