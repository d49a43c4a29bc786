//! The closed set of kernel functions: number iterators and regions.

use std::rc::Rc;

use rtbpf_isa::Reg;

use crate::explore::{Next, Walk};
use crate::reject::{Checked, refuse};
use crate::state::{Byte, Stack};
use crate::value::{IterState, Kind, Source, Value};

impl Walk<'_> {
    /// The name under which the loader or the host gave a kernel function.
    pub(crate) fn kfunc_name(&self, btf_id: i32) -> Option<&str> {
        self.given.kfuncs.iter().find(|(id, _)| *id == btf_id).map(|(_, name)| name.as_str())
    }

    pub(crate) fn call_kfunc(&mut self, btf_id: i32, module: i16) -> Checked<Next> {
        if module != 0 {
            return refuse!(Kfunc, EINVAL, "kernel function of module {module} is not known");
        }
        if self.state.held.lock.is_some() {
            return refuse!(Lock, EINVAL, "function calls are not allowed while holding a lock");
        }
        let Some(name) = self.kfunc_name(btf_id).map(str::to_owned) else {
            return refuse!(Kfunc, EINVAL, "kernel btf_id {btf_id} is not a function");
        };
        match name.as_str() {
            "bpf_iter_num_new" => self.iter_new()?,
            "bpf_iter_num_next" => return self.iter_next(),
            "bpf_iter_num_destroy" => self.iter_destroy()?,
            "bpf_preempt_disable" => self.enter_region(|held| held.preempt += 1),
            "bpf_rcu_read_lock" => self.enter_region(|held| held.rcu += 1),
            "bpf_preempt_enable" => {
                if self.state.held.preempt == 0 {
                    return refuse!(
                        Lock,
                        EINVAL,
                        "unmatched attempt to enable preemption (kernel function bpf_preempt_enable)"
                    );
                }
                self.enter_region(|held| held.preempt -= 1);
            }
            "bpf_rcu_read_unlock" => {
                if self.state.held.rcu == 0 {
                    return refuse!(Lock, EINVAL, "unmatched rcu read unlock (kernel function bpf_rcu_read_unlock)");
                }
                self.enter_region(|held| held.rcu -= 1);
            }
            name => return refuse!(Kfunc, EACCES, "calling kernel function {name} is not allowed"),
        }
        Ok(Next::Go(self.at.next()))
    }

    fn enter_region(&mut self, change: impl Fn(&mut crate::state::Held)) {
        change(&mut self.state.held);
        self.clobber();
    }

    /// Frame and slot of the 8-byte iterator that R1 points to.
    fn iter_slot(&self) -> Checked<(u32, usize)> {
        let value = self.read(Reg::R1)?;
        let Kind::Stack(frame) = value.kind else {
            return refuse!(Iterator, EINVAL, "arg#0 expected pointer to an iterator on stack");
        };
        let off = value.num.as_constant().map(|k| value.off as i64 + k as i64);
        match off {
            Some(off) if off % 8 == 0 && (-512..=-8).contains(&off) => Ok((frame, Stack::locate(off as i32).0)),
            _ => refuse!(Iterator, EINVAL, "iterator has to be at a constant, aligned offset of the stack"),
        }
    }

    fn iter_at(&mut self, frame: u32, at: usize) -> Checked<Value> {
        self.mark_read(frame, 1 << at);
        match self.state.frame_at(frame).stack.slot(at).and_then(|s| s.value.as_deref()).copied() {
            Some(value) if matches!(value.kind, Kind::Iter { .. }) => Ok(value),
            _ => refuse!(Iterator, EINVAL, "expected an initialized iter_num as arg #0"),
        }
    }

    fn iter_new(&mut self) -> Checked {
        let (frame, at) = self.iter_slot()?;
        for reg in [Reg::R2, Reg::R3] {
            if !self.read(reg)?.is_scalar() {
                return refuse!(Argument, EINVAL, "R{} is not a scalar", reg as u8);
            }
        }
        if self.state.frame_at(frame).stack.slot(at).is_some_and(|s| s.is_object()) {
            return refuse!(Iterator, EINVAL, "expected uninitialized iter_num as arg #0");
        }
        let off = -(at as i32 + 1) * 8;
        self.grow(frame, off);
        self.overwrite(frame, off, 8)?;
        let id = self.acquire();
        let iter =
            Value { ref_id: id, id, ..Value::pointer(Kind::Iter { state: IterState::Active, depth: 0, first: true }) };
        self.put_iter(frame, at, iter);
        self.clobber();
        self.set(Reg::R0, Value::UNKNOWN);
        Ok(())
    }

    fn put_iter(&mut self, frame: u32, at: usize, iter: Value) {
        let slot = self.state.frame_at_mut(frame).stack.slot_mut(at);
        slot.bytes = [Byte::Iter; 8];
        slot.value = Some(Rc::new(iter));
    }

    /// Forks: an element, and none.
    fn iter_next(&mut self) -> Checked<Next> {
        let (frame, at) = self.iter_slot()?;
        let iter = self.iter_at(frame, at)?;
        let next = self.at.next();
        let Kind::Iter { state, depth, .. } = iter.kind else { return Ok(Next::Go(next)) };
        if state == IterState::Active {
            let drained = self.state.clone();
            self.widen(self.at, true);
            let active = Kind::Iter { state: IterState::Active, depth: depth + 1, first: true };
            self.put_iter(frame, at, Value { kind: active, ..iter });
            self.clobber();
            let element = Kind::Mem { size: 4, from: Source::Plain, writable: false };
            self.set(Reg::R0, Value { ref_id: iter.ref_id, ..Value::pointer(element) });
            let active = std::mem::replace(&mut self.state, drained);
            self.push(active, next)?;
        }
        self.put_iter(frame, at, Value { kind: Kind::Iter { state: IterState::Drained, depth, first: true }, ..iter });
        self.clobber();
        self.set(Reg::R0, Value::constant(0));
        Ok(Next::Go(next))
    }

    fn iter_destroy(&mut self) -> Checked {
        let (frame, at) = self.iter_slot()?;
        let iter = self.iter_at(frame, at)?;
        let slot = self.state.frame_at_mut(frame).stack.slot_mut(at);
        slot.value = None;
        slot.bytes = [Byte::Invalid; 8];
        self.release(iter.ref_id)?;
        self.clobber();
        Ok(())
    }
}
