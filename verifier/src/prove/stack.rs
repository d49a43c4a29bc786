//! The stack: 512 bytes a frame, byte by byte, with the values that were spilled.

use std::rc::Rc;

use rtbpf_abi::Errno;
use rtbpf_abi::limits::STACK_BYTES;
use rtbpf_isa::Operand;

use super::{Mode, Target};
use crate::domain::Scalar;
use crate::explore::Walk;
use crate::facts::Access;
use crate::needed::Touch;
use crate::reject::{Checked, Reason, Rejection, refuse};
use crate::state::{Byte, SLOT_BYTES, Slot, Stack};
use crate::value::{Kind, Value};

/// Why bytes of the stack are looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Use {
    /// An instruction reads them.
    Load,
    /// An instruction writes them.
    Store,
    /// A helper reads them.
    HelperRead,
    /// A helper writes them, and does not look at what was there.
    HelperWrite,
}

impl Walk<'_> {
    pub(super) fn stack_access(&mut self, target: &Target, frame: u32, mode: Mode) -> Checked<Option<Value>> {
        let what = if mode.writes() { Use::Store } else { Use::Load };
        let (low, high) = self.check_stack_range(target, what)?;
        self.grow(frame, low);
        if low != high {
            self.note_access(Access::AnyStack);
        } else if frame == self.state.current() {
            self.note_access(Access::Stack(low as i16));
        } else {
            self.note_access(Access::AnyStack);
        }
        match mode {
            Mode::Load | Mode::LoadSigned if low == high => self.load_slot(target, frame, low, true).map(Some),
            Mode::AtomicLoad { kept } if low == high => self.load_slot(target, frame, low, kept).map(Some),
            Mode::AtomicLoad { .. } => {
                let (tnum, off, size) = (target.pointer.num.tnum(), target.fixed(), target.size);
                let what = "variable offset stack pointer cannot be passed into helper function";
                refuse!(StackAccess, EACCES, "{what}; var_off={tnum} off={off} size={size}")
            }
            Mode::Load | Mode::LoadSigned => {
                self.check_initialised(target, frame, low, high, Use::Load)?;
                let end = high + target.size as i32;
                let zero = (low..end).all(|off| self.state.frame_at(frame).stack.byte(off) == Byte::Zero);
                Ok(Some(Value::scalar(if zero { Scalar::ZERO } else { super::narrow(target.size) })))
            }
            Mode::AtomicStore => self.overwrite_place(target, frame, low).map(|()| None),
            Mode::Store { value, from } if low == high => {
                self.store_slot(target, frame, low, value, from).map(|()| None)
            }
            Mode::Store { value, from } => self.store_anywhere(target, frame, low, high, value, from).map(|()| None),
        }
    }

    /// First and last offset that the access may begin at.
    pub(crate) fn check_stack_range(&self, target: &Target, what: Use) -> Checked<(i32, i32)> {
        let (r, off, size) = (target.r(), target.fixed(), target.size);
        let num = &target.pointer.num;
        let verb = match what {
            Use::Load | Use::HelperRead => "read from",
            Use::Store | Use::HelperWrite => "write to",
        };
        let (low, high) = match num.as_constant() {
            Some(k) => {
                let low = off as i64 + k as i64;
                (low, low)
            }
            None => {
                let tnum = num.tnum();
                if !self.opts.privilege.perfmon {
                    return refuse!(
                        StackAccess,
                        EACCES,
                        "R{r} variable stack access prohibited for !root, var_off={tnum} off={off}"
                    );
                }
                let limit = rtbpf_abi::limits::MAX_VAR_OFF;
                if num.smax() >= limit || num.smin() <= -limit {
                    return refuse!(StackAccess, EACCES, "invalid unbounded variable-offset {verb} stack R{r}");
                }
                (off as i64 + num.smin(), off as i64 + num.smax())
            }
        };
        let starts_inside = (-(STACK_BYTES as i64)..0).contains(&low);
        if starts_inside && high + size as i64 <= 0 {
            return Ok((low as i32, high as i32));
        }
        let message = if low == high {
            format!("invalid {verb} stack R{r} off={low} size={size}")
        } else {
            format!("invalid variable-offset {verb} stack R{r} var_off={} off={off} size={size}", num.tnum())
        };
        // Linux tells an access that begins outside from one that runs out at the top.
        let errno = if starts_inside { Errno::EINVAL } else { Errno::EACCES };
        Err(Rejection::new(Reason::StackAccess, errno, message))
    }

    /// Notes that `frame`'s function uses stack down to `off`.
    pub(crate) fn grow(&mut self, frame: u32, off: i32) {
        let subprog = self.state.frame_at(frame).subprog;
        if let Some(bytes) = self.stack_bytes.get_mut(subprog) {
            *bytes = (*bytes).max(off.unsigned_abs());
        }
        self.spills.touch(self.at, subprog, off.unsigned_abs());
    }

    fn load_slot(&mut self, target: &Target, frame: u32, off: i32, kept: bool) -> Checked<Value> {
        let size = target.size;
        let (at, index) = Stack::locate(off);
        let (_, last) = (at, index + size as usize - 1);
        self.mark_read(frame, 1 << at);
        let empty = Slot::default();
        let slot = self.state.frame_at(frame).stack.slot(at).unwrap_or(&empty);
        if let Some(spilled) = slot.spilled() {
            let spilled = *spilled;
            if !spilled.is_scalar() {
                if size != 8 || index != 0 {
                    return refuse!(StackAccess, EACCES, "invalid size of register fill");
                }
                if !kept {
                    return Ok(spilled);
                }
                self.touch(Touch::Slot { frame: frame as u8, slot: at as u8 });
                return Ok(spilled);
            }
            if index == 0 && size <= slot.spill_size() {
                let width = rtbpf_isa::Size::from_bytes(size).expect("instructions access 1, 2, 4 or 8 bytes");
                let num = spilled.num.zero_extend(width);
                let value = if num == spilled.num { spilled } else { Value::scalar(num) };
                self.touch(Touch::Slot { frame: frame as u8, slot: at as u8 });
                return Ok(value);
            }
        }
        let bytes = slot.bytes.get(index..=last).unwrap_or_default();
        let mut zero = true;
        let mut uninit = false;
        for (i, byte) in bytes.iter().enumerate() {
            match byte {
                Byte::Zero => {}
                Byte::Spill => {
                    zero &= slot.spilled().is_some_and(|v| v.is_null());
                }
                Byte::Misc => zero = false,
                Byte::Invalid if self.opts.privilege.perfmon => {
                    zero = false;
                    uninit = true;
                }
                Byte::Invalid if bytes.iter().all(|b| *b == Byte::Invalid) => {
                    return refuse!(
                        StackAccess,
                        EACCES,
                        "invalid read from stack R{} off={off} size={size}",
                        target.r()
                    );
                }
                Byte::Invalid | Byte::Dynptr | Byte::Iter => {
                    return refuse!(StackAccess, EACCES, "invalid read from stack off {off}+{i} size {size}");
                }
            }
        }
        if zero && slot.spilled().is_some() {
            // The zero came from a spilled number whose bounds are now relied on.
            self.demand_slot(frame, at);
        }
        self.facts.reads_uninit_stack |= uninit;
        Ok(Value::scalar(if zero { Scalar::ZERO } else { super::narrow(size) }))
    }

    fn store_slot(&mut self, target: &Target, frame: u32, off: i32, value: Value, from: Operand) -> Checked {
        let size = target.size;
        let (at, index) = Stack::locate(off);
        let aligned = index == 0;
        let current = self.state.current();
        // What a writable tracepoint gives is no pointer any more once it was stored.
        let value = if value.kind == Kind::TpBuffer { Value::UNKNOWN } else { value };
        let spilled_pointer =
            self.state.frame_at(frame).stack.slot(at).and_then(|s| s.spilled()).is_some_and(|v| v.is_pointer());
        if !self.opts.privilege.perfmon && spilled_pointer && size != 8 {
            return refuse!(StackAccess, EACCES, "attempt to corrupt spilled pointer on stack");
        }
        self.destroy_objects(frame, off, size as i32)?;
        if value.is_pointer() {
            if size != 8 || !aligned {
                return refuse!(StackAccess, EACCES, "invalid size of register spill");
            }
            if matches!(value.kind, Kind::Stack(_)) && frame != current {
                return refuse!(StackAccess, EINVAL, "cannot spill pointers to stack into stack frame of the caller");
            }
        }
        let keeps = aligned && (value.is_pointer() || self.opts.privilege.bpf && size <= 8);
        let spill = match from {
            Operand::Reg(reg) if keeps => {
                let fits = size == 8 || value.is_pointer() || value.num.umax() <= super::narrow(size).umax();
                let linked = match fits && self.opts.privilege.bpf {
                    true if *self.state.reg(reg) == value => self.linked(reg, value),
                    true => value,
                    false => value.unlinked(),
                };
                let width = rtbpf_isa::Size::from_bytes(size).expect("instructions access 1, 2, 4 or 8 bytes");
                Some(if linked.is_scalar() { Value { num: linked.num.zero_extend(width), ..linked } } else { linked })
            }
            Operand::Imm(_) if keeps => {
                let width = rtbpf_isa::Size::from_bytes(size).expect("instructions access 1, 2, 4 or 8 bytes");
                Some(Value::scalar(value.num.zero_extend(width)))
            }
            _ => None,
        };
        let zero = value.is_null();
        if zero
            && spill.is_none()
            && let Operand::Reg(reg) = from
        {
            self.demand(reg);
        }
        let slot = self.state.frame_at_mut(frame).stack.slot_mut(at);
        match spill {
            Some(value) => {
                for byte in &mut slot.bytes[size as usize..] {
                    match byte {
                        Byte::Invalid | Byte::Zero | Byte::Misc => {}
                        Byte::Spill | Byte::Dynptr | Byte::Iter => *byte = Byte::Misc,
                    }
                }
                slot.bytes[..size as usize].fill(Byte::Spill);
                slot.value = Some(Rc::new(value));
            }
            None => {
                slot.scrub();
                let byte = if zero { Byte::Zero } else { Byte::Misc };
                if let Some(bytes) = slot.bytes.get_mut(index..index + size as usize) {
                    bytes.fill(byte);
                }
            }
        }
        if size == 8 {
            self.mark_written(frame, 1 << at);
        }
        self.touch(Touch::Slot { frame: frame as u8, slot: at as u8 });
        Ok(())
    }

    /// A store to one of several places: each may have changed or not.
    fn store_anywhere(
        &mut self,
        target: &Target,
        frame: u32,
        low: i32,
        high: i32,
        value: Value,
        from: Operand,
    ) -> Checked {
        let end = high + target.size as i32;
        let zero = value.is_null();
        self.destroy_objects(frame, low, end - low)?;
        let mut relies_on_zero = false;
        for off in low..end {
            let (at, index) = Stack::locate(off);
            let byte = self.state.frame_at(frame).stack.byte(off);
            let spill = self.state.frame_at(frame).stack.slot(at).and_then(|s| s.spilled()).copied();
            if let (Byte::Spill, Some(spill)) = (byte, spill) {
                if zero && spill.is_null() {
                    relies_on_zero = true;
                    self.demand_slot(frame, at);
                    continue;
                }
                if spill.is_pointer() && !self.opts.privilege.perfmon {
                    return refuse!(StackAccess, EACCES, "spilled ptr in range of var-offset stack write");
                }
            }
            if byte == Byte::Invalid && !self.opts.privilege.perfmon {
                let tnum = target.pointer.num.tnum();
                return refuse!(
                    StackAccess,
                    EINVAL,
                    "uninit stack in range of var-offset write prohibited for !root; var_off: {tnum}"
                );
            }
            let slot = self.state.frame_at_mut(frame).stack.slot_mut(at);
            slot.forget();
            if zero && byte == Byte::Zero {
                relies_on_zero = true;
            } else {
                slot.bytes[index] = Byte::Misc;
            }
        }
        if relies_on_zero && let Operand::Reg(reg) = from {
            self.demand(reg);
        }
        Ok(())
    }

    /// Stores over a dynptr destroy it; over an iterator or saved interrupt state they are refused.
    fn destroy_objects(&mut self, frame: u32, off: i32, size: i32) -> Checked {
        let first = Stack::locate(off + size - 1).0;
        let last = Stack::locate(off).0;
        for at in first..=last {
            let Some(slot) = self.state.frame_at(frame).stack.slot(at) else { continue };
            if !slot.is_object() {
                continue;
            }
            let value = slot.value.as_deref().copied();
            match value.map(|v| v.kind) {
                Some(Kind::Dynptr { .. }) => self.destroy_dynptr(frame, at)?,
                // The object ends here; its reference stays, so that the program cannot end without it.
                _ => self.state.frame_at_mut(frame).stack.slot_mut(at).scrub(),
            }
        }
        Ok(())
    }

    /// Bytes `low..high + size` may be read; those never written are, without CAP_PERFMON, refused.
    pub(crate) fn check_initialised(&mut self, target: &Target, frame: u32, low: i32, high: i32, what: Use) -> Checked {
        let end = high + target.size as i32;
        let r = target.r();
        for off in low..end {
            let (at, _) = Stack::locate(off);
            if what != Use::HelperWrite {
                self.mark_read(frame, 1 << at);
            }
            let byte = self.state.frame_at(frame).stack.byte(off);
            match byte {
                Byte::Misc | Byte::Zero => {
                    if byte == Byte::Zero && what == Use::HelperWrite {
                        let (slot, index) = Stack::locate(off);
                        self.state.frame_at_mut(frame).stack.slot_mut(slot).bytes[index] = Byte::Misc;
                    }
                }
                Byte::Spill => {
                    let spilled = self.state.frame_at(frame).stack.slot(at).and_then(|s| s.spilled()).copied();
                    let pointer = spilled.is_some_and(|v| v.is_pointer());
                    if pointer && !self.opts.privilege.perfmon {
                        let i = off - low;
                        let size = target.size;
                        return refuse!(StackAccess, EACCES, "invalid read from stack R{r} off {low}+{i} size {size}");
                    }
                    if what == Use::HelperWrite {
                        self.state.frame_at_mut(frame).stack.slot_mut(at).scrub();
                    }
                }
                Byte::Invalid if self.opts.privilege.perfmon => {
                    // A helper that fails may leave what it should have written.
                    self.facts.reads_uninit_stack = true;
                    if !matches!(what, Use::Load | Use::HelperRead) {
                        let (slot, index) = Stack::locate(off);
                        self.state.frame_at_mut(frame).stack.slot_mut(slot).bytes[index] = Byte::Misc;
                    }
                }
                Byte::Invalid | Byte::Dynptr | Byte::Iter => {
                    let (i, size) = (off - low, target.size);
                    if low == high {
                        return refuse!(StackAccess, EACCES, "invalid read from stack R{r} off {low}+{i} size {size}");
                    }
                    let tnum = target.pointer.num.tnum();
                    return refuse!(StackAccess, EACCES, "invalid read from stack R{r} var_off {tnum}+{i} size {size}");
                }
            }
        }
        Ok(())
    }

    /// A read-modify-write leaves some number.
    fn overwrite_place(&mut self, target: &Target, frame: u32, off: i32) -> Checked {
        let (at, _) = Stack::locate(off);
        self.overwrite(frame, off, target.size as i32)?;
        self.touch(Touch::Slot { frame: frame as u8, slot: at as u8 });
        Ok(())
    }

    /// A helper overwrites bytes `off..off + size`.
    pub(crate) fn overwrite(&mut self, frame: u32, off: i32, size: i32) -> Checked {
        self.destroy_objects(frame, off, size)?;
        for off in off..off + size {
            let (at, index) = Stack::locate(off);
            let slot = self.state.frame_at_mut(frame).stack.slot_mut(at);
            // As Linux does, also where the spilled number lies beside the byte.
            slot.scrub();
            slot.bytes[index] = Byte::Misc;
        }
        // Whole slots no longer hold what they held before.
        for at in Stack::locate(off + size - 1).0..=Stack::locate(off).0 {
            if frame == self.state.current() {
                self.log.overwrites(at);
            }
            let bottom = -(at as i32 + 1) * SLOT_BYTES;
            if off <= bottom && bottom + SLOT_BYTES <= off + size {
                self.mark_written(frame, 1 << at);
            }
        }
        Ok(())
    }
}
