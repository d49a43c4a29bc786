//! Calls of subprograms.

use rtbpf_abi::limits::MAX_FRAMES;
use rtbpf_isa::{InsnIdx, Linkage, Reg};

use crate::explore::{Next, Walk};
use crate::needed::Touch;
use crate::reject::{Checked, refuse};
use crate::state::Frame;
use crate::value::Value;

impl Walk<'_> {
    pub(crate) fn call_local(&mut self, target: InsnIdx) -> Checked<Next> {
        let subprog = self.program.subprog_at(target);
        let linkage = self.program.subprogs().get(subprog).map(|s| s.linkage).unwrap_or_default();
        if linkage == Linkage::Global && subprog != 0 {
            return self.call_global(subprog);
        }
        self.check_depth()?;
        let mut frame = Frame::new(self.state.depth() as u32, subprog, self.at);
        let caller = self.state.frame();
        for reg in Reg::ARGS {
            frame.regs[reg.index()] = caller.regs[reg.index()];
        }
        self.clobber();
        self.touch(Touch::Enter);
        self.enter(frame);
        self.log.call(&self.state);
        Ok(Next::Go(target))
    }

    /// One more frame must fit.
    pub(super) fn check_depth(&self) -> Checked {
        let frames = self.state.depth() + 1;
        if frames > MAX_FRAMES {
            return refuse!(CallDepth, E2BIG, "the call stack of {frames} frames is too deep");
        }
        Ok(())
    }

    /// A global function was, or will be, walked on its own; here only its effects count.
    fn call_global(&mut self, subprog: usize) -> Checked<Next> {
        let name = self.program.subprogs().get(subprog).and_then(|s| s.name.clone()).unwrap_or_default();
        if self.state.held.lock.is_some() {
            return refuse!(
                Lock,
                EINVAL,
                "global function calls are not allowed while holding a lock, use static function instead"
            );
        }
        self.check_global_arguments(subprog, &name)?;
        if self.effects.get(subprog).is_some_and(|effects| effects.moves_packet) {
            self.drop_packet_pointers();
        }
        self.clobber();
        self.set(Reg::R0, Value::UNKNOWN);
        Ok(Next::Go(self.at.next()))
    }
}
