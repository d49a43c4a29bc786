//! What the generator believes about registers and stack: a rough, optimistic shadow of a verifier's state. Where it is
//! wrong the program is refused, which costs acceptance rate and nothing else.

use rtbpf_isa::Reg;

/// Memory that a program got a pointer to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// A value of this map of the case.
    MapValue(usize),
    /// A ring buffer record, or a slice of a dynptr.
    Record,
    /// The caller's stack, as seen by a callee.
    CallerStack,
}

/// What a register or stack slot holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Value {
    /// Nothing readable.
    Dead,
    /// A number within these unsigned bounds.
    Scalar(u64, u64),
    /// The context.
    Ctx,
    /// An address in the current frame, relative to R10.
    Stack(i32),
    /// The packet at `off` from its base, of which `range` bytes are known to exist.
    Packet { base: u32, off: i32, range: i32 },
    /// The packet's end.
    PacketEnd,
    /// `size` bytes, pointed to at an offset within `low..=high`; `id` is shared by copies that may be null.
    Mem { place: Place, id: u32, size: u32, low: u32, high: u32, null: bool },
}

/// The unknown number.
pub const ANY: Value = Value::Scalar(0, u64::MAX);

impl Value {
    /// Whether it is a number.
    pub fn is_scalar(self) -> bool {
        matches!(self, Value::Scalar(..))
    }

    /// What holds on both paths; [`Value::Dead`] where they disagree.
    pub fn join(self, other: Value) -> Value {
        match (self, other) {
            (Value::Scalar(a, b), Value::Scalar(c, d)) => Value::Scalar(a.min(c), b.max(d)),
            (Value::Packet { base, off, range }, Value::Packet { base: b, off: o, range: r })
                if base == b && off == o =>
            {
                Value::Packet { base, off, range: range.min(r) }
            }
            (
                Value::Mem { place, id, size, low, high, null },
                Value::Mem { place: p, id: i, size: s, low: l, high: h, null: n },
            ) if (place, id, size) == (p, i, s) => {
                Value::Mem { place, id, size, low: low.min(l), high: high.max(h), null: null || n }
            }
            (a, b) if a == b => a,
            _ => Value::Dead,
        }
    }
}

/// Eight aligned bytes of stack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Slot {
    /// Not written.
    Empty,
    /// Bytes with these numbers are written (bit set).
    Bytes(u8),
    /// A whole register.
    Spill(Value),
    /// Half of a dynptr; the other half is its neighbour.
    Dynptr,
}

impl Slot {
    fn join(self, other: Slot) -> Slot {
        match (self, other) {
            (Slot::Spill(a), Slot::Spill(b)) => match a.join(b) {
                Value::Dead => Slot::Empty,
                value => Slot::Spill(value),
            },
            (Slot::Dynptr, Slot::Dynptr) => Slot::Dynptr,
            (a, b) => Slot::Bytes(a.written() & b.written()),
        }
    }

    /// Bytes that may be read as numbers, as a bit set.
    pub fn written(self) -> u8 {
        match self {
            Slot::Empty | Slot::Dynptr => 0,
            Slot::Bytes(bytes) => bytes,
            Slot::Spill(value) => {
                if value.is_scalar() {
                    0xff
                } else {
                    0
                }
            }
        }
    }
}

/// Slots of a frame.
pub const SLOTS: usize = 16;

/// Registers and stack of the frame that is being written.
#[derive(Clone, PartialEq, Debug)]
pub struct State {
    /// R0 to R9; R10 is the frame.
    pub regs: [Value; 10],
    /// Slot `i` lies at R10 − 8 × (i + 1).
    pub stack: [Slot; SLOTS],
    /// Registers that must keep what they hold (loop counters, what a loop's head relies on), as a bit set.
    pub locked: u16,
}

impl State {
    /// Nothing known, nothing locked.
    pub fn new() -> State {
        State { regs: [Value::Dead; 10], stack: [Slot::Empty; SLOTS], locked: 0 }
    }

    /// What `reg` holds.
    pub fn get(&self, reg: Reg) -> Value {
        if reg == Reg::R10 { Value::Stack(0) } else { self.regs[reg.index()] }
    }

    /// Changes what `reg` holds.
    pub fn set(&mut self, reg: Reg, value: Value) {
        self.regs[reg.index()] = value;
    }

    /// Whether `reg` may be overwritten.
    pub fn is_free(&self, reg: Reg) -> bool {
        reg != Reg::R10 && self.locked >> reg.index() & 1 == 0
    }

    /// Keeps `reg` from being overwritten.
    pub fn lock(&mut self, reg: Reg) {
        self.locked |= 1 << reg.index();
    }

    /// Registers whose value passes `test`.
    pub fn registers(&self, test: impl Fn(Value) -> bool) -> Vec<Reg> {
        Reg::ALL.into_iter().take(10).filter(|&reg| test(self.get(reg))).collect()
    }

    /// What holds where two paths meet.
    pub fn join(&self, other: &State) -> State {
        State {
            regs: std::array::from_fn(|i| self.regs[i].join(other.regs[i])),
            stack: std::array::from_fn(|i| self.stack[i].join(other.stack[i])),
            locked: self.locked,
        }
    }

    /// A call: R1 to R5 are gone.
    pub fn clobber(&mut self) {
        self.regs[1..6].fill(Value::Dead);
    }

    /// Applies `change` to every value, in registers and spills.
    pub fn each(&mut self, change: impl Fn(Value) -> Value) {
        for reg in &mut self.regs {
            *reg = change(*reg);
        }
        for slot in &mut self.stack {
            if let Slot::Spill(value) = slot {
                *slot = match change(*value) {
                    Value::Dead => Slot::Empty,
                    value => Slot::Spill(value),
                };
            }
        }
    }

    /// The packet moved: pointers into it are gone.
    pub fn forget_packet(&mut self) {
        self.each(|value| match value {
            Value::Packet { .. } | Value::PacketEnd => Value::Dead,
            Value::Dead | Value::Scalar(..) | Value::Ctx | Value::Stack(_) | Value::Mem { .. } => value,
        });
    }

    /// A null test of the pointers called `id`: on this path they are not null.
    pub fn not_null(&mut self, id: u32) {
        self.each(|value| match value {
            Value::Mem { place, id: other, size, low, high, .. } if other == id => {
                Value::Mem { place, id, size, low, high, null: false }
            }
            _ => value,
        });
    }

    /// The memory called `id` is gone.
    pub fn forget(&mut self, id: u32) {
        self.each(
            |value| if matches!(value, Value::Mem { id: other, .. } if other == id) { Value::Dead } else { value },
        );
    }

    /// Every number may be anything: the head of a loop.
    pub fn widen(&mut self) {
        self.each(|value| if value.is_scalar() { ANY } else { value });
    }

    /// Marks `len` bytes at `off` from R10 as written numbers.
    pub fn write_stack(&mut self, off: i32, len: i32) {
        for at in off..off + len {
            let (slot, bit) = place(at);
            let Some(slot) = self.stack.get_mut(slot) else { continue };
            *slot = Slot::Bytes(slot.written() | 1 << bit);
        }
    }

    /// Spilled pointers in `len` bytes at `off` from R10 are no longer whole.
    pub fn forget_pointers(&mut self, off: i32, len: i32) {
        for at in off..off + len {
            if let Some(slot) = self.stack.get_mut(place(at).0)
                && matches!(slot, Slot::Spill(value) if !value.is_scalar())
            {
                *slot = Slot::Empty;
            }
        }
    }

    /// Whether `len` bytes at `off` from R10 are written numbers.
    pub fn reads_stack(&self, off: i32, len: i32) -> bool {
        (off..off + len).all(|at| {
            let (slot, bit) = place(at);
            self.stack.get(slot).is_some_and(|slot| slot.written() >> bit & 1 != 0)
        })
    }
}

/// Slot and byte of an offset from R10.
fn place(off: i32) -> (usize, u32) {
    (((-off - 1) / 8) as usize, off.rem_euclid(8) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_the_stack_are_tracked_one_by_one() {
        let mut state = State::new();
        state.write_stack(-12, 6);
        assert!(state.reads_stack(-12, 6));
        assert!(!state.reads_stack(-13, 2));
        assert!(!state.reads_stack(-8, 8));
        assert_eq!(state.stack[0], Slot::Bytes(0b0000_0011));
        assert_eq!(state.stack[1], Slot::Bytes(0b1111_0000));
    }

    #[test]
    fn a_join_keeps_what_both_paths_know() {
        let mem = |null| Value::Mem { place: Place::Record, id: 1, size: 8, low: 0, high: 0, null };
        assert_eq!(mem(true).join(mem(false)), mem(true));
        assert_eq!(Value::Scalar(1, 2).join(Value::Scalar(5, 9)), Value::Scalar(1, 9));
        assert_eq!(Value::Ctx.join(ANY), Value::Dead);
    }
}
