//! Operations, and the machine that they work on.

use rtbpf_abi::frame::{FaultCode, RunFrame};
use rtbpf_abi::limits::{MAX_FRAMES, MAX_LOOPS, STACK_BYTES};
use rtbpf_isa::InsnIdx;

/// Jumps that may follow each other without a return to [`Machine::run`].
///
/// Optimised, an operation jumps to the next one; otherwise it calls it, and this and [`STRAIGHT`] bound the stack.
const JUMPS: u32 = if cfg!(debug_assertions) { 0 } else { 32 };

/// Operations that may follow each other without a jump or a return to [`Machine::run`].
pub(super) const STRAIGHT: usize = 64;

/// Does what an operation says and goes on with the next; answers where to go on, [`At::END`] when the run is over.
pub(super) type Handler = fn(At, &mut Machine<'_>, u32) -> At;

/// One operation.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Op {
    pub run: Handler,
    pub dst: u8,
    pub lhs: u8,
    pub rhs: u8,
    /// Offset in memory; for a jump, the distance in operations.
    pub off: i32,
    pub imm: u64,
}

/// The address of an operation in code that lives; every path from it ends in an operation that does not go on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct At(*const Op);

impl At {
    /// Nowhere: the run is over.
    pub const END: At = At(std::ptr::null());

    /// # Safety
    ///
    /// `op` points to an operation of code that lives while the `At` is in use.
    pub unsafe fn new(op: *const Op) -> At {
        At(op)
    }

    pub fn address(self) -> u64 {
        self.0 as u64
    }

    #[inline(always)]
    pub fn op(self) -> Op {
        // SAFETY: not `END`, which no operation goes on to; so it points to an operation that lives, by the invariant.
        unsafe { *self.0 }
    }

    #[inline(always)]
    pub fn by(self, distance: i32) -> At {
        At(self.0.wrapping_offset(distance as isize))
    }

    /// Goes on with the operation after this.
    #[inline(always)]
    pub fn next(self, m: &mut Machine<'_>, jumps: u32) -> At {
        let next = self.by(1);
        (next.op().run)(next, m, jumps)
    }

    /// Goes on here, which is the target of a jump.
    #[inline(always)]
    pub fn jump(self, m: &mut Machine<'_>, jumps: u32) -> At {
        if jumps == 0 {
            return self;
        }
        (self.op().run)(self, m, jumps - 1)
    }
}

/// Where a frame began.
#[derive(Clone, Copy)]
struct Saved {
    back: At,
    regs: [u64; 5],
    may_goto_left: u64,
}

/// One run.
pub(super) struct Machine<'a> {
    /// R0 to R10; sixteen, so that four bits always name one.
    pub regs: [u64; 16],
    pub may_goto_left: u64,
    depth: usize,
    saved: [Saved; MAX_FRAMES + 1],
    pub frame: &'a mut RunFrame,
}

/// Ends a frame that the host began.
pub(super) static HALT: Op = Op { run: halt, dst: 0, lhs: 0, rhs: 0, off: 0, imm: 0 };

fn halt(_: At, _: &mut Machine<'_>, _: u32) -> At {
    At::END
}

impl<'a> Machine<'a> {
    pub fn new(frame: &'a mut RunFrame) -> Machine<'a> {
        let mut regs = [0; 16];
        (regs[1], regs[2], regs[10]) = (frame.ctx as u64, frame.second, frame.stack_top as u64);
        let none = Saved { back: At::END, regs: [0; 5], may_goto_left: 0 };
        Machine { regs, may_goto_left: MAX_LOOPS, depth: 0, saved: [none; MAX_FRAMES + 1], frame }
    }

    /// A machine for a callback of another one.
    pub fn nested(frame: &'a mut RunFrame, regs: [u64; 16], depth: usize) -> Machine<'a> {
        Machine { regs, depth, ..Machine::new(frame) }
    }

    pub fn depth(&self) -> usize {
        self.depth
    }

    #[inline(always)]
    pub fn get(&self, reg: u8) -> u64 {
        self.regs[(reg & 15) as usize]
    }

    #[inline(always)]
    pub fn set(&mut self, reg: u8, value: u64) {
        self.regs[(reg & 15) as usize] = value;
    }

    /// Runs from `at` until the run, or the frame that the host began, is over.
    pub fn run(&mut self, mut at: At) {
        while at != At::END {
            at = (at.op().run)(at, self, JUMPS);
        }
    }

    /// Begins a frame; `None` when there are too many.
    #[inline(always)]
    pub fn push(&mut self, back: At) -> Option<()> {
        // The last one is for the host's own.
        let depth = self.depth;
        let [_, _, _, _, _, _, r6, r7, r8, r9, r10, ..] = self.regs;
        let saved = self.saved.get_mut(depth).filter(|_| depth + 1 < MAX_FRAMES)?;
        *saved = Saved { back, regs: [r6, r7, r8, r9, r10], may_goto_left: self.may_goto_left };
        self.depth += 1;
        self.regs[10] = r10.wrapping_sub(STACK_BYTES as u64);
        self.may_goto_left = MAX_LOOPS;
        Some(())
    }

    /// Ends a frame.
    #[inline(always)]
    pub fn pop(&mut self) -> At {
        let Some(saved) = self.depth.checked_sub(1).and_then(|depth| self.saved.get(depth)) else { return At::END };
        self.depth -= 1;
        let [_, _, _, _, _, _, r6, r7, r8, r9, r10, ..] = &mut self.regs;
        [*r6, *r7, *r8, *r9, *r10] = saved.regs;
        self.may_goto_left = saved.may_goto_left;
        saved.back
    }

    /// Ends the run with a fault at `at`, unless it has one.
    #[cold]
    pub fn fault(&mut self, code: FaultCode, at: u32) -> At {
        if self.frame.fault == FaultCode::None {
            self.frame.fault = code;
        }
        if self.frame.fault_at == RunFrame::NOWHERE {
            self.frame.fault_at = InsnIdx(at).0;
        }
        At::END
    }

    /// Runs the subprogram at `at` in a frame of its own; its R0.
    pub fn call_back(&mut self, at: At, args: [u64; 4]) -> u64 {
        // SAFETY: the operation is a static.
        let halt = unsafe { At::new(&raw const HALT) };
        if self.push(halt).is_none() {
            self.frame.fault = FaultCode::Helper;
            return 1;
        }
        self.regs[1..5].copy_from_slice(&args);
        self.run(at);
        self.regs[0]
    }
}
