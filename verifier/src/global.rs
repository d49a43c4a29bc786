//! Global functions: walked once on their own against declared types, trusted by callers for those types only.

use rtbpf_isa::Reg;

use crate::explore::Walk;
use crate::reject::{Checked, refuse};
use crate::state::{Frame, State};
use crate::value::Value;

impl Walk<'_> {
    /// What a caller passes must fit the declared types. Without types, every argument register is a number or unset.
    pub(crate) fn check_global_arguments(&mut self, subprog: usize, name: &str) -> Checked {
        let _ = subprog;
        for reg in Reg::ARGS {
            if self.state.reg(reg).is_pointer() && !self.flows_into(subprog, reg) {
                continue;
            }
            if self.state.reg(reg).is_pointer() {
                return refuse!(
                    GlobalFunction,
                    EINVAL,
                    "Caller passes invalid args into func#{subprog} ('{name}'): R{} is not a scalar",
                    reg as u8
                );
            }
        }
        Ok(())
    }

    /// Whether the function reads argument `reg`.
    fn flows_into(&self, subprog: usize, reg: Reg) -> bool {
        let start = self.program.subprogs().get(subprog).map(|s| s.start.index());
        start.and_then(|start| self.flows.live.get(start)).is_none_or(|live| live.contains(reg))
    }

    /// The state at the entry of a global function.
    pub(crate) fn global_entry(&self, subprog: usize) -> State {
        let start = self.program.subprogs().get(subprog).map(|s| s.start).unwrap_or_default();
        let mut frame = Frame::new(0, subprog, start);
        for reg in Reg::ARGS {
            if self.flows_into(subprog, reg) {
                frame.regs[reg.index()] = Value::UNKNOWN;
            }
        }
        State::new(frame)
    }
}
