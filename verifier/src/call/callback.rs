//! Helpers that run a subprogram of the caller.
//!
//! A synchronous callback is walked from the call, as often as it takes for the states at the call to converge; each time,
//! the path on which the helper returns is walked as well. An asynchronous one runs later, on its own.

use rtbpf_abi::MapSpec;
use rtbpf_abi::helper::{Arg, HelperProto};
use rtbpf_abi::map_spec::SpecialKind;
use rtbpf_isa::{InsnIdx, Linkage, Reg};

use super::{Call, id};
use crate::explore::{Next, Walk};
use crate::needed::Touch;
use crate::reject::{Checked, refuse};
use crate::state::{Callback, Frame};
use crate::value::{DynptrKind, Kind, MapRef, Trust, Value};

impl Walk<'_> {
    /// Enters the callback of a call that has one. `None`: the call has none to enter now.
    pub(super) fn call_back(&mut self, proto: &HelperProto, call: &Call) -> Checked<Option<Next>> {
        let Some(subprog) = call.callback else { return Ok(None) };
        debug_assert!(proto.args.contains(&Arg::Func));
        let Some(target) = self.program.subprogs().get(subprog).cloned() else { return Ok(None) };
        if target.linkage != Linkage::Static || subprog == 0 {
            return refuse!(Callback, EINVAL, "callback function not static");
        }
        if proto.id.0 == id::TIMER_SET_CALLBACK {
            self.enter_later(subprog, call)?;
            return Ok(None);
        }
        if proto.id.0 == id::LOOP {
            // A known number of rounds bounds how often the callback is walked.
            self.demand(Reg::R1);
            let rounds = self.loop_bound().unwrap_or(u64::MAX);
            if self.state.frame().callback_depth as u64 >= rounds {
                self.state.frame_mut().callback_depth = 0;
                return Ok(None);
            }
        }
        self.check_depth()?;
        let mut frame = Frame::new(self.state.depth() as u32, subprog, self.at);
        frame.callback = Some(Callback { helper: proto.id.0, returns: (0, 1), is_async: false });
        self.callback_arguments(proto.id.0, call, &mut frame);

        // The code behind the call is walked first, the callback later.
        let mut inside = self.state.clone();
        inside.frame_mut().callback_depth += 1;
        self.touch(Touch::EnterCallback);
        self.push_entering(inside, frame, target.start)?;
        self.touch(Touch::None);
        self.state.frame_mut().callback_depth = 0;
        self.finish(proto, call)?;
        Ok(Some(Next::Go(self.at.next())))
    }

    fn callback_arguments(&mut self, helper: u32, call: &Call, frame: &mut Frame) {
        let context = *self.state.reg(if helper == id::FIND_VMA { Reg::R4 } else { Reg::R3 });
        let mut set = |reg: Reg, value: Value| frame.regs[reg.index()] = value;
        match helper {
            id::LOOP => {
                set(Reg::R1, Value::UNKNOWN);
                set(Reg::R2, context);
            }
            id::FOR_EACH_MAP_ELEM => {
                let map = call.map.unwrap_or(MapRef { map: rtbpf_isa::MapIdx(0), inner: false, uid: 0 });
                set(Reg::R1, Value::pointer(Kind::MapPtr(map)));
                set(Reg::R2, Value::pointer(Kind::MapKey(map)));
                // Values without a lock need not be told apart.
                let locks = |spec: &MapSpec| spec.field(|kind| kind == SpecialKind::SpinLock).is_some();
                let id = if self.map(map).is_some_and(locks) { self.fresh_id() } else { 0 };
                set(Reg::R3, Value { id, ..Value::pointer(Kind::MapValue(map)) });
                set(Reg::R4, context);
            }
            id::FIND_VMA => {
                set(Reg::R1, Value::pointer(Kind::Btf { name: "task_struct", trust: Trust::Trusted }));
                set(Reg::R2, Value::pointer(Kind::Btf { name: "vm_area_struct", trust: Trust::Trusted }));
                set(Reg::R3, context);
            }
            id::USER_RINGBUF_DRAIN => {
                let id = self.fresh_id();
                let dynptr = Kind::Dynptr { kind: DynptrKind::Local, first: true };
                set(Reg::R1, Value { id, ..Value::pointer(dynptr) });
                set(Reg::R2, context);
            }
            _ => {}
        }
    }

    /// A timer's callback: walked on its own, with a fresh stack and nothing held.
    fn enter_later(&mut self, subprog: usize, call: &Call) -> Checked {
        let Some(map) = self.map_of_value(self.state.reg(Reg::R1)).or(call.map) else { return Ok(()) };
        let mut frame = Frame::new(0, subprog, InsnIdx(0));
        frame.callback = Some(Callback { helper: id::TIMER_SET_CALLBACK, returns: (0, 0), is_async: true });
        frame.regs[Reg::R1.index()] = Value::pointer(Kind::MapPtr(map));
        frame.regs[Reg::R2.index()] = Value::pointer(Kind::MapKey(map));
        frame.regs[Reg::R3.index()] = Value::pointer(Kind::MapValue(map));
        if !self.async_frames.iter().any(|f| f.subprog == subprog && f.regs == frame.regs) {
            self.async_frames.push(frame);
        }
        if !self.async_entries.contains(&subprog) {
            self.async_entries.push(subprog);
        }
        Ok(())
    }

    /// A callback returned to its helper, which may call it again. What it holds, the program may give back later.
    pub(crate) fn leave_callback(&mut self, callback: Callback) -> Checked<Next> {
        self.check_no_stack_returned()?;
        self.check_range("At callback return", callback.returns)?;
        let frame = self.state.pop();
        self.touch(Touch::LeaveCallback);
        self.widen(frame.call_site, false);
        Ok(Next::Go(frame.call_site))
    }
}
