//! Execution levels: how deep in interrupts a program runs, and what it may therefore do.

/// The four contexts of a CPU, and what stands for them in a process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(u8)]
pub enum Level {
    /// A thread that holds a slot.
    #[default]
    Task = 0,
    /// A worker's event loop (softirq).
    Soft = 1,
    /// The handler of a maskable signal (hardirq).
    Hard = 2,
    /// The handler of a signal that nothing masks (NMI).
    Nmi = 3,
}

/// Whether the rules of a PREEMPT_RT kernel hold.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Model {
    /// Sleeping locks are raw ones.
    #[default]
    NonRt,
    /// Locks of run-time allocated maps sleep.
    Rt,
}

/// What a map operation needs to know about its caller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RunCx {
    /// The caller's slot (virtual CPU), below the number of slots.
    pub slot: u32,
    /// The caller's level.
    pub level: Level,
    /// The model in force.
    pub model: Model,
    /// Whether the caller is a program; `false` for the control plane (the user side of `bpf(2)`).
    pub in_program: bool,
}

impl RunCx {
    /// The control plane on slot 0.
    pub const CONTROL: RunCx = RunCx { slot: 0, level: Level::Task, model: Model::NonRt, in_program: false };

    /// A program on `slot` at task level.
    pub const fn program(slot: u32) -> RunCx {
        RunCx { slot, level: Level::Task, model: Model::NonRt, in_program: true }
    }

    /// Whether it may block.
    pub const fn may_sleep(&self) -> bool {
        match (self.level, self.model) {
            (Level::Task, _) | (Level::Soft, Model::Rt) => true,
            (Level::Soft, Model::NonRt) | (Level::Hard | Level::Nmi, _) => false,
        }
    }

    /// Whether it may allocate memory.
    pub const fn may_alloc(&self) -> bool {
        matches!(self.level, Level::Task) || matches!((self.level, self.model), (Level::Soft, Model::Rt))
    }
}
