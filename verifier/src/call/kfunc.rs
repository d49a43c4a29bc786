//! The closed set of kernel functions: number iterators and regions, and those that their row says everything about:
//! dynptrs over packets, parts of dynptrs, strings.

use std::rc::Rc;

use rtbpf_abi::ProgKind;
use rtbpf_abi::helper::{DynptrKinds, MemUse};
use rtbpf_abi::kfunc::{DynptrSource, Kfunc, KfuncArg, KfuncRet, RegionEffect};
use rtbpf_isa::Reg;

use super::Call;
use super::dynptr::bit;

use crate::explore::{Next, Walk};
use crate::reject::{Checked, refuse};
use crate::state::{Byte, Stack};
use crate::value::{DynptrKind, IterState, Kind, Source, Value};

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
            name => match Kfunc::named(name).filter(|row| self.may_call(row)) {
                Some(row) => self.kfunc_by_row(row)?,
                None => return refuse!(Kfunc, EACCES, "calling kernel function {name} is not allowed"),
            },
        }
        Ok(Next::Go(self.at.next()))
    }

    /// Whether programs of this kind may call `row`, and its arguments are among those checked here.
    fn may_call(&self, row: &Kfunc) -> bool {
        let kind = ProgKind::of(self.given.prog_type, self.given.attach_type, self.given.sleepable);
        kind.is_some_and(|kind| row.kinds.has(kind))
            && row.region == RegionEffect::None
            && matches!(row.ret, KfuncRet::Int | KfuncRet::Void | KfuncRet::SliceOrNull { .. })
            && row.args.iter().all(|arg| match arg {
                KfuncArg::Scalar | KfuncArg::Ignored | KfuncArg::Address | KfuncArg::Ctx | KfuncArg::Map => true,
                KfuncArg::Dynptr | KfuncArg::BufferOrNull { .. } | KfuncArg::ConstSize { .. } => true,
                KfuncArg::DynptrUninit(source) => *source != DynptrSource::SkbMeta,
                KfuncArg::LocalType | KfuncArg::KernelType | KfuncArg::Words { .. } => false,
                KfuncArg::IterUninit(_) | KfuncArg::Iter(_) | KfuncArg::IterDestroy(_) => false,
                KfuncArg::OwnedObj | KfuncArg::OwnedPercpuObj | KfuncArg::RefcountedObj => false,
                KfuncArg::ListHead | KfuncArg::ListNode | KfuncArg::RbRoot | KfuncArg::RbNode => false,
                KfuncArg::RbNodeBorrowed | KfuncArg::Less => false,
                KfuncArg::IrqFlagUninit | KfuncArg::IrqFlag | KfuncArg::ResSpinLock => false,
            })
    }

    /// A call that its row says everything about.
    fn kfunc_by_row(&mut self, row: &Kfunc) -> Checked {
        let mut call = Call::default();
        for (&arg, reg) in row.args.iter().zip(Reg::ARGS) {
            self.kfunc_argument(arg, reg, &mut call)?;
        }
        let result = match row.ret {
            KfuncRet::SliceOrNull { writable } => {
                if writable && !self.may_write_packet() {
                    return refuse!(ReadOnly, EINVAL, "the prog does not allow writes to packet data");
                }
                let (_, ref_id, dynptr) = call.dynptr.unwrap_or((DynptrKind::Local, 0, 0));
                let size = u32::try_from(call.alloc_size).unwrap_or(u32::MAX);
                let slice = Kind::Mem { size, from: Source::Dynptr(dynptr), writable };
                Value { ref_id, ..Value::pointer_or_null(slice, self.fresh_id()) }
            }
            KfuncRet::Int => Value::UNKNOWN,
            _ => Value::UNINIT,
        };
        if let Some((frame, off, size)) = call.overwrites {
            self.overwrite(frame, off, size)?;
        }
        self.clobber();
        self.set(Reg::R0, result);
        if let Some((kind, frame, slot)) = call.new_dynptr {
            // A copy shares what the dynptr that it was made from owns.
            let ref_id = call.dynptr.map_or(0, |(_, ref_id, _)| ref_id);
            self.place_dynptr(kind, frame, slot, ref_id);
        }
        Ok(())
    }

    fn kfunc_argument(&mut self, arg: KfuncArg, reg: Reg, call: &mut Call) -> Checked {
        let r = reg as u8;
        if matches!(arg, KfuncArg::Ignored | KfuncArg::Address) {
            return Ok(());
        }
        let value = self.read(reg)?;
        match arg {
            KfuncArg::Scalar if !value.is_scalar() => refuse!(Argument, EINVAL, "R{r} is not a scalar"),
            KfuncArg::Ctx if value.kind != Kind::Ctx => {
                refuse!(Argument, EINVAL, "arg#{} expected pointer to ctx, but got {}", r - 1, value.type_name())
            }
            KfuncArg::Ctx => self.check_unmodified(reg, &value),
            KfuncArg::Map if !matches!(value.kind, Kind::MapPtr(_)) => {
                refuse!(Argument, EINVAL, "pointer in R{r} isn't map pointer")
            }
            KfuncArg::Dynptr => {
                let earlier = call.dynptr;
                self.dynptr_argument(reg, &value, DynptrKinds::ANY, false, call)?;
                call.dynptr = earlier.or(call.dynptr);
                Ok(())
            }
            KfuncArg::DynptrUninit(source) => {
                let kinds = match (source, call.dynptr) {
                    (DynptrSource::Xdp, _) => DynptrKinds::XDP,
                    (DynptrSource::Arg1, Some((kind, ..))) => bit(kind),
                    (DynptrSource::Skb | DynptrSource::SkbMeta | DynptrSource::Arg1, _) => DynptrKinds::SKB,
                };
                self.uninit_dynptr(reg, &value, kinds, call)
            }
            KfuncArg::ConstSize { of } => {
                let Some(size) = value.as_constant() else {
                    return refuse!(Argument, EINVAL, "R{r} must be a known constant");
                };
                self.demand(reg);
                call.alloc_size = size;
                let place = Reg::ARGS[usize::from(of).saturating_sub(1).min(4)];
                let buffer = self.read(place)?;
                if buffer.is_null() {
                    self.demand(place);
                    return Ok(());
                }
                if buffer.nullable || buffer.is_scalar() {
                    return refuse!(Argument, EACCES, "R{} type={} expected=fp", place as u8, buffer.type_name());
                }
                let size = u32::try_from(size).unwrap_or(u32::MAX);
                self.memory_argument(place, &buffer, size, MemUse::Write, true, call)
            }
            // Numbers, contexts and maps that were found right above; the rest is not called from here.
            KfuncArg::Scalar | KfuncArg::Map | KfuncArg::Ignored | KfuncArg::Address => Ok(()),
            KfuncArg::BufferOrNull { .. } => Ok(()),
            KfuncArg::LocalType
            | KfuncArg::KernelType
            | KfuncArg::IterUninit(_)
            | KfuncArg::Iter(_)
            | KfuncArg::IterDestroy(_)
            | KfuncArg::Words { .. }
            | KfuncArg::OwnedObj
            | KfuncArg::OwnedPercpuObj
            | KfuncArg::RefcountedObj
            | KfuncArg::ListHead
            | KfuncArg::ListNode
            | KfuncArg::RbRoot
            | KfuncArg::RbNode
            | KfuncArg::RbNodeBorrowed
            | KfuncArg::Less
            | KfuncArg::IrqFlagUninit
            | KfuncArg::IrqFlag
            | KfuncArg::ResSpinLock => refuse!(Kfunc, EACCES, "calling this kernel function is not allowed"),
        }
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
