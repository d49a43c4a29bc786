//! The abstract state of one path: frames, references, locks.
//!
//! Frames and their stacks are shared between states until one of them writes (copy on write), so that forking a path
//! costs a few reference counts.

mod frame;
mod refs;
mod stack;

use std::rc::Rc;

use rtbpf_isa::Reg;

pub use frame::{Callback, Frame};
pub use refs::{Held, Lock, Reference};
pub use stack::{Byte, SLOT_BYTES, Slot, Stack};

use crate::value::Value;

/// One path's state between two instructions.
#[derive(Clone, Debug)]
pub struct State {
    /// Frames, the entry's first. Never empty.
    frames: Vec<Rc<Frame>>,
    /// References, locks, regions.
    pub held: Held,
    /// Times that a `may_goto` was passed on this path.
    pub may_goto_depth: u32,
}

impl State {
    /// The state at the entry of a function.
    pub fn new(frame: Frame) -> State {
        State { frames: vec![Rc::new(frame)], held: Held::default(), may_goto_depth: 0 }
    }

    /// Takes the state away to change it beside the walk; what stays is nowhere, until another one is put there.
    pub fn take(&mut self) -> State {
        let nowhere = State { frames: Vec::new(), held: Held::default(), may_goto_depth: 0 };
        std::mem::replace(self, nowhere)
    }

    /// How many frames.
    pub fn depth(&self) -> usize {
        self.frames.len()
    }

    /// Index of the current frame.
    pub fn current(&self) -> u32 {
        self.frames.len() as u32 - 1
    }

    /// All frames.
    pub fn frames(&self) -> &[Rc<Frame>] {
        &self.frames
    }

    /// The current frame.
    pub fn frame(&self) -> &Frame {
        self.frames.last().expect("a state has a frame")
    }

    /// The current frame, to change.
    pub fn frame_mut(&mut self) -> &mut Frame {
        Rc::make_mut(self.frames.last_mut().expect("a state has a frame"))
    }

    /// Frame `at`.
    pub fn frame_at(&self, at: u32) -> &Frame {
        self.frames.get(at as usize).expect("frame indices come from live pointers")
    }

    /// Frame `at`, to change.
    pub fn frame_at_mut(&mut self, at: u32) -> &mut Frame {
        Rc::make_mut(self.frames.get_mut(at as usize).expect("frame indices come from live pointers"))
    }

    /// Enters a callee.
    pub fn push(&mut self, frame: Frame) {
        self.frames.push(Rc::new(frame));
    }

    /// Leaves the current frame.
    pub fn pop(&mut self) -> Rc<Frame> {
        self.frames.pop().expect("a state has a frame")
    }

    /// A register of the current frame.
    pub fn reg(&self, reg: Reg) -> &Value {
        &self.frame().regs[reg.index()]
    }

    /// Sets a register of the current frame.
    pub fn set(&mut self, reg: Reg, value: Value) {
        self.frame_mut().regs[reg.index()] = value;
    }

    /// Replaces every value, in registers and spills of all frames, that `change` has another one for.
    pub fn rewrite(&mut self, change: impl Fn(&Value) -> Option<Value>) {
        for frame in &mut self.frames {
            let touched =
                frame.regs.iter().any(|v| change(v).is_some()) || frame.stack.spills().any(|v| change(v).is_some());
            if !touched {
                continue;
            }
            let frame = Rc::make_mut(frame);
            for value in &mut frame.regs {
                if let Some(new) = change(value) {
                    *value = new;
                }
            }
            frame.stack.rewrite(&change);
        }
    }
}
