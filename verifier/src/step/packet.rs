//! Legacy packet loads.

use rtbpf_abi::ProgType;
use rtbpf_isa::{Reg, Size};

use crate::explore::Walk;
use crate::reject::{Checked, refuse};
use crate::value::{Kind, Value};

impl Walk<'_> {
    pub(super) fn packet_load(&mut self, _size: Size, index: Option<Reg>) -> Checked {
        match self.given.prog_type {
            ProgType::SocketFilter | ProgType::SchedCls | ProgType::SchedAct => {}
            _ => {
                return refuse!(ProgType, EINVAL, "BPF_LD_[ABS|IND] instructions not allowed for this program type");
            }
        }
        let ctx = self.read(Reg::R6)?;
        self.check_nothing_held("BPF_LD_[ABS|IND]", true)?;
        if ctx.kind != Kind::Ctx {
            return refuse!(ContextAccess, EINVAL, "at the time of BPF_LD_ABS|IND R6 != pointer to skb");
        }
        if let Some(index) = index {
            self.read(index)?;
        }
        self.check_unmodified(Reg::R6, &ctx)?;
        // Out of the packet's range, the frame ends with 0.
        self.leave_early(Value::constant(0), false)?;
        self.clobber();
        self.set(Reg::R0, Value::UNKNOWN);
        Ok(())
    }
}
