//! Leaving a frame.

use rtbpf_abi::prog_rules::exit_range;
use rtbpf_isa::Reg;

use crate::domain::Scalar;
use crate::explore::{Next, Walk};
use crate::needed::Touch;
use crate::reject::{Checked, refuse};
use crate::value::{Kind, Value};

impl Walk<'_> {
    pub(super) fn exit(&mut self) -> Checked<Next> {
        let outermost = self.state.depth() == 1;
        let callback = self.state.frame().callback;
        if outermost {
            self.check_nothing_held("BPF_EXIT instruction in main prog", true)?;
        }
        if !outermost {
            return match callback {
                Some(callback) => self.leave_callback(callback),
                None => self.leave_local(),
            };
        }
        self.check_result()?;
        Ok(Next::End)
    }

    /// References, locks and regions must be given back here. `locks` says whether locks are looked at too.
    pub(crate) fn check_nothing_held(&self, place: &str, locks: bool) -> Checked {
        let held = &self.state.held;
        if locks && held.lock.is_some() {
            return refuse!(Lock, EINVAL, "{place} cannot be used inside bpf_spin_lock-ed region");
        }
        if !held.refs.is_empty() {
            return refuse!(ReferenceLeak, EINVAL, "{place} would lead to reference leak");
        }
        if !held.irq.is_empty() {
            return refuse!(Lock, EINVAL, "{place} cannot be used inside bpf_local_irq_save-ed region");
        }
        if held.rcu > 0 {
            return refuse!(Lock, EINVAL, "{place} cannot be used inside bpf_rcu_read_lock-ed region");
        }
        if held.preempt > 0 {
            return refuse!(Lock, EINVAL, "{place} cannot be used inside bpf_preempt_disable-ed region");
        }
        Ok(())
    }

    /// A frame's stack is gone when its caller goes on.
    pub(crate) fn check_no_stack_returned(&self) -> Checked {
        if matches!(self.state.reg(Reg::R0).kind, Kind::Stack(_)) {
            return refuse!(InvalidAccess, EINVAL, "cannot return stack pointer to the caller");
        }
        Ok(())
    }

    fn leave_local(&mut self) -> Checked<Next> {
        let result = *self.state.reg(Reg::R0);
        self.check_no_stack_returned()?;
        let before = self.log.wants_paths().then(|| self.state.clone());
        let frame = self.state.pop();
        let to = frame.call_site.next();
        self.set(Reg::R0, result);
        self.touch(Touch::Leave);
        if let Some(before) = before {
            self.log.leave(self.at, &before, to, &self.state);
        }
        Ok(Next::Go(to))
    }

    /// The current instruction may end the frame of a subprogram, with `result` in R0: its caller goes on from there.
    pub(crate) fn leave_early(&mut self, result: Value, moves_packet: bool) -> Checked {
        if self.state.depth() == 1 {
            return Ok(());
        }
        if self.state.frame().callback.is_some() {
            return refuse!(Callback, EINVAL, "a callback cannot end in the middle");
        }
        let saved = self.state.clone();
        self.touch(Touch::Leave);
        let frame = self.state.pop();
        self.set(Reg::R0, result);
        if moves_packet {
            self.drop_packet_pointers();
        }
        let left = std::mem::replace(&mut self.state, saved);
        self.push(left, frame.call_site.next())?;
        self.touch(Touch::None);
        Ok(())
    }

    fn check_result(&mut self) -> Checked {
        let frame = self.state.frame();
        if let Some(callback) = frame.callback {
            return self.check_range("At async callback return", callback.returns);
        }
        let result = self.read(Reg::R0)?;
        if result.is_pointer() && !self.opts.privilege.perfmon {
            return refuse!(PointerLeak, EACCES, "R0 leaks addr as return value");
        }
        if self.entry != 0 {
            if !result.is_scalar() {
                let name = result.type_name();
                return refuse!(
                    ReturnValue,
                    EINVAL,
                    "At subprogram exit the register R0 is not a scalar value ({name})"
                );
            }
            return Ok(());
        }
        match exit_range(self.given.prog_type, self.given.attach_type) {
            Some(range) => {
                if !result.is_scalar() {
                    let name = result.type_name();
                    return refuse!(
                        ReturnValue,
                        EINVAL,
                        "At program exit the register R0 is not a known value ({name})"
                    );
                }
                self.check_range("At program exit", range)
            }
            None => Ok(()),
        }
    }

    /// R0 must be a number in `low..=high`.
    pub(crate) fn check_range(&mut self, place: &str, (low, high): (i64, i64)) -> Checked {
        let result = self.read(Reg::R0)?;
        if !result.is_scalar() {
            return refuse!(ReturnValue, EACCES, "R0 not a scalar value");
        }
        self.demand(Reg::R0);
        if result.num.smin() >= low && result.num.smax() <= high {
            return Ok(());
        }
        let known = describe(&result.num);
        refuse!(ReturnValue, EINVAL, "{place} the register R0 has{known} should have been in [{low}, {high}]")
    }

    /// Marks the registers that a call leaves unreadable.
    pub(crate) fn clobber(&mut self) {
        let frame = self.state.frame_mut();
        for reg in &mut frame.regs[..=Reg::R5.index()] {
            *reg = Value::UNINIT;
        }
    }
}

fn describe(num: &Scalar) -> String {
    let mut text = String::new();
    if num.smin() > i64::MIN {
        text += &format!(" smin={}", num.smin());
    }
    if num.smax() < i64::MAX {
        text += &format!(" smax={}", num.smax());
    }
    if text.is_empty() { " unknown scalar value".into() } else { text }
}
