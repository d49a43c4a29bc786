//! Looking into a run of the checked interpreter that stands between two instructions.

use std::sync::Arc;

use rtbpf_isa::{InsnIdx, Reg};

use super::checked::Checked;
use crate::executable::Executable;
use crate::region::{RegionId, Regions};

/// One activation.
#[derive(Clone, Copy, Debug)]
pub struct FrameView {
    /// Where it goes on; for the current frame, the instruction that runs next.
    pub resumes_at: InsnIdx,
    /// R0 to R10. Of a caller, R0 to R5 are gone and read as 0.
    pub regs: [u64; Reg::COUNT],
    /// Its stack.
    pub stack: RegionId,
}

impl Checked {
    /// How many frames there are.
    pub fn depth(&self) -> usize {
        self.frames.len() + 1
    }

    /// Frame `index`, the entry's is 0; `None` above the current one.
    pub fn frame(&self, index: usize) -> Option<FrameView> {
        match self.frames.get(index) {
            Some(frame) => {
                let mut regs = [0; Reg::COUNT];
                regs[Reg::R6.index()..].copy_from_slice(&frame.saved);
                Some(FrameView { resumes_at: frame.ret, regs, stack: frame.stack })
            }
            None if index == self.frames.len() => {
                Some(FrameView { resumes_at: self.pc, regs: self.regs, stack: self.stack })
            }
            None => None,
        }
    }

    /// What the program's pointers name.
    pub fn regions(&self) -> &Regions {
        &self.regions
    }

    /// Whether this is the program that runs now: a tail call replaces it.
    pub fn runs(&self, program: &Executable) -> bool {
        Arc::ptr_eq(&self.exe, program.bound())
    }

    /// Spin locks that the program holds.
    pub fn locks_held(&self) -> usize {
        self.host.locks.len()
    }

    /// Pointers to the packet's first byte and behind its last; `None` while the program has no pointer into it.
    pub fn packet_bounds(&self) -> Option<(u64, u64)> {
        let id = self.packet?;
        let (region, packet) = (self.regions.get(id)?, self.host.ctx.packet()?);
        let at = |off: usize| id.pointer(region.origin + off as i64);
        Some((at(packet.meta_len()), at(packet.meta_len() + packet.linear_len())))
    }
}

#[cfg(test)]
mod tests {
    use rtbpf_abi::ProgType;
    use rtbpf_verifier::Assumptions;

    use super::*;
    use crate::region::split;
    use crate::testing::program;
    use crate::{Config, Ctx, Engine};

    #[test]
    fn a_run_that_stands_shows_its_frames() {
        let engine = Engine::new(Config::linux());
        let text = "r6 = 7\ncall f\nexit\nf:\nr6 = 9\nr0 = 0\nexit";
        let given = Assumptions::new(ProgType::Plain);
        let program = engine.bind_unverified(program(text), given, vec![]).expect("it binds");
        let mut run = program.start(&mut engine.session(0), Ctx::plain(&[])).expect("it starts");
        for _ in 0..3 {
            assert!(run.step(&mut ()).expect("it steps").is_none());
        }
        assert!(run.runs(&program));
        assert_eq!(run.depth(), 2);
        let (caller, callee) = (run.frame(0).expect("the caller"), run.frame(1).expect("the callee"));
        assert_eq!((caller.regs[6], caller.resumes_at), (7, InsnIdx(2)));
        assert_eq!((callee.regs[6], callee.resumes_at), (9, InsnIdx(4)));
        assert_eq!(split(callee.regs[10]).0, callee.stack);
        assert!(run.frame(2).is_none());
    }
}
