//! The walk: every path, depth first, until each ends in an exit or in a state that was covered before.
//!
//! ```text
//!          ┌── checkpoint ── trail ── checkpoint ── trail ──▶ current state
//!  entry ──┤        └─ pending branch (state, parent, trail so far)
//!          └── …
//! ```
//!
//! A checkpoint counts the paths that still run below it. Once none does, it covers every state that its needed facts
//! hold in. One that still has running paths is a loop's head if it is met again: an equal state never ends.

mod arrive;
mod checkpoint;
mod kept;
mod loops;
mod met;
mod needs;

use std::collections::HashMap;

use rtbpf_isa::{Insn, InsnIdx, Program, Reg};

use arrive::Arrival;
use checkpoint::Checkpoint;
use loops::Loop;
use met::Met;

use crate::cfg::Flows;
use crate::domain::Precision;
use crate::facts::Facts;
use crate::log::Mark;
use crate::needed::{FRAMES, Touch, Trail};
use crate::reject::{Checked, refuse};
use crate::state::{Frame, State};
use crate::value::{Kind, Value};
use crate::verified::{Assumptions, Options, Profile, Stats};
use crate::walked::Keeper;
use crate::widen::Plans;

/// Index of a checkpoint.
type Id = usize;

/// A branch to walk later.
struct Pending {
    state: State,
    at: InsnIdx,
    from: InsnIdx,
    parent: Option<Id>,
    trail: Trail,
    written: [u64; FRAMES],
    /// What was logged until then.
    logged: Mark,
}

/// Where control goes after an instruction.
pub(crate) enum Next {
    /// There.
    Go(InsnIdx),
    /// The path is done.
    End,
}

/// One verification under way.
pub(crate) struct Walk<'a> {
    pub program: &'a Program,
    pub given: &'a Assumptions,
    pub opts: &'a Options,
    pub flows: &'a Flows,
    pub state: State,
    pub at: InsnIdx,
    pub facts: Facts,
    pub lowering: crate::lower::Lowering,
    pub ctx_bytes_used: u32,
    pub object_bytes_used: u32,
    pub stats: Stats,
    pub log: crate::log::Log<'a>,
    /// Bytes of stack each subprogram touched.
    pub stack_bytes: Vec<u32>,
    /// What of it does not count.
    pub spills: crate::spills::Spills,
    /// Instruction kinds of pointer seen so far, for memory instructions.
    pub pointer_kinds: Vec<Option<crate::step::mem::PointerClass>>,
    /// Static subprograms that run later, from timers and the like.
    pub async_entries: Vec<usize>,
    /// Their entry states.
    pub async_frames: Vec<Frame>,
    /// The function walked on its own: 0 for the program, else a global function.
    pub entry: usize,
    /// What calling each subprogram does, whatever its path.
    pub effects: Vec<crate::effects::Effects>,
    /// Declared parameters of global functions, where they were asked for.
    pub params: HashMap<usize, Option<Vec<crate::global::Param>>>,
    /// No path came to the current instruction before.
    pub first_visit: bool,
    trail: Trail,
    written: [u64; FRAMES],
    parent: Option<Id>,
    pending: Vec<Pending>,
    checkpoints: Vec<Checkpoint>,
    free: Vec<Id>,
    loops: HashMap<Id, Loop>,
    /// Checkpoints that are compared with, by instruction.
    met: Met,
    /// Links of counters, in ascending order.
    counters: Vec<u32>,
    pub plans: Plans,
    next_id: u32,
    jumps: u64,
    jumps_at_checkpoint: u64,
    insns_at_checkpoint: u64,
    /// States that are kept for who asks for them.
    pub keeper: Option<Keeper>,
    /// Checkpoints that nothing compares with, kept for the same reason.
    idle: usize,
}

/// Pending branches, at most.
const MAX_PENDING: usize = 8192;
/// Checkpoints at one time: some 1.4 kB each. Linux gives up on the number of instructions long before, but for a test
/// flag that keeps every state.
const MAX_CHECKPOINTS: usize = 150_000;
/// Runs of a trail after which a checkpoint is made at the next meeting point.
const LONG_TRAIL: usize = 40;

impl<'a> Walk<'a> {
    pub fn new(program: &'a Program, given: &'a Assumptions, opts: &'a Options, flows: &'a Flows) -> Walk<'a> {
        let facts = Facts {
            insns: vec![crate::facts::InsnFacts { unreached: true, ..Default::default() }; program.len()],
            ..Facts::default()
        };
        Walk {
            program,
            given,
            opts,
            flows,
            state: State::new(Frame::new(0, 0, InsnIdx(0))),
            at: InsnIdx(0),
            facts,
            lowering: crate::lower::Lowering::identity(),
            ctx_bytes_used: 0,
            object_bytes_used: 0,
            stats: Stats::default(),
            log: crate::log::Log::new(opts.log_level, program, given),
            stack_bytes: vec![0; program.subprogs().len()],
            spills: crate::spills::Spills::of(program, given),
            pointer_kinds: vec![None; program.len()],
            async_entries: Vec::new(),
            async_frames: Vec::new(),
            entry: 0,
            effects: crate::effects::of(program, given),
            params: HashMap::new(),
            first_visit: false,
            trail: Trail::default(),
            written: [0; FRAMES],
            parent: None,
            pending: Vec::new(),
            checkpoints: Vec::new(),
            free: Vec::new(),
            loops: HashMap::new(),
            met: Met::new(program.len()),
            counters: Vec::new(),
            plans: Plans::default(),
            next_id: 0,
            jumps: 0,
            jumps_at_checkpoint: 0,
            insns_at_checkpoint: 0,
            keeper: Keeper::new(opts.keep_states, program, flows),
            idle: 0,
        }
    }

    /// A fresh id.
    pub fn fresh_id(&mut self) -> u32 {
        self.next_id += 1;
        self.next_id
    }

    /// How exactly operators are followed.
    pub fn precision(&self) -> Precision {
        match self.opts.profile {
            Profile::Compat => Precision::Linux,
            Profile::Strict => Precision::Full,
        }
    }

    /// Walks everything that can run from `state` at the start of function `entry`.
    pub fn run(&mut self, entry: usize, state: State) -> Checked {
        let Some(start) = self.program.subprogs().get(entry).map(|s| s.start) else { return Ok(()) };
        self.entry = entry;
        let waiting = (self.async_entries.len(), self.async_frames.len());
        let logged = self.log.mark();
        loop {
            self.state = state.clone();
            self.at = start;
            self.plans.begin();
            let answer = self.walk_from_start();
            let Err(mut rejection) = answer else {
                self.keep_proof();
                self.forget_paths();
                return Ok(());
            };
            let head = self.innermost_counter().filter(|_| self.stats.processed <= self.opts.budget());
            if let Some(head) = head.filter(|_| !self.plans.restart) {
                self.plans.fail(head, None);
            }
            if !self.plans.restart {
                rejection.at.get_or_insert(self.at);
                return Err(rejection);
            }
            self.log.forget(logged);
            self.async_entries.truncate(waiting.0);
            self.async_frames.truncate(waiting.1);
        }
    }

    fn walk_from_start(&mut self) -> Checked {
        self.forget_paths();
        self.walk()
    }

    fn forget_paths(&mut self) {
        self.trail = Trail::default();
        self.written = [0; FRAMES];
        self.parent = None;
        self.pending.clear();
        self.checkpoints.clear();
        self.free.clear();
        self.idle = 0;
        self.loops.clear();
        self.met.clear();
    }

    /// The head of the innermost loop around the current instruction that was widened.
    fn innermost_counter(&self) -> Option<InsnIdx> {
        let above = |id: &Id| self.checkpoints.get(*id).and_then(|checkpoint| checkpoint.parent);
        let mut chain = std::iter::successors(self.parent, above).filter_map(|id| self.checkpoints.get(id));
        chain.find(|checkpoint| checkpoint.counter.is_some()).map(|checkpoint| checkpoint.at)
    }

    fn walk(&mut self) -> Checked {
        let begins = self.log.mark();
        self.log.begin();
        let (budget, logs) = (self.opts.budget(), self.log.wants_paths());
        loop {
            let at = self.at;
            let Some(insn) = self.program.get(at).copied() else {
                return refuse!(Internal, EFAULT, "invalid insn idx {at} insn_cnt {}", self.program.len());
            };
            self.stats.processed += 1;
            if self.stats.processed > budget {
                return refuse!(TooComplex, E2BIG, "BPF program is too large. Processed {} insn", self.stats.processed);
            }
            let meets = self.flows.meets.get(at.index()).copied().unwrap_or(true);
            let covered = meets && matches!(self.arrive(at, &insn)?, Arrival::Covered);
            if logs {
                self.log.arrive(at, &self.state, covered);
            }
            let next = if covered {
                Next::End
            } else {
                if self.keeper.is_some() {
                    self.keep_beside(at)?;
                }
                self.trail.push(at);
                if logs { self.step_logged(at, &insn)? } else { self.step(at, &insn)? }
            };
            match next {
                Next::Go(to) => self.at = to,
                Next::End => {
                    self.end_path();
                    let Some(pending) = self.pending.pop() else {
                        self.log.rewind(begins);
                        return Ok(());
                    };
                    self.log.rewind(pending.logged);
                    self.log.path(pending.from);
                    self.at = pending.at;
                    self.state = pending.state;
                    self.parent = pending.parent;
                    self.trail = pending.trail;
                    self.written = pending.written;
                }
            }
        }
    }

    fn step_logged(&mut self, at: InsnIdx, insn: &Insn) -> Checked<Next> {
        self.log.insn(at);
        let before = self.state.clone();
        let next = self.step(at, insn)?;
        self.log.after(&before, &self.state, insn);
        Ok(next)
    }

    /// Counts a jump: states are kept after some of them.
    pub fn count_jump(&mut self) {
        self.jumps += 1;
    }

    /// Puts `state` aside, to be walked from `at` later.
    pub fn push(&mut self, state: State, at: InsnIdx) -> Checked {
        if self.pending.len() >= MAX_PENDING {
            return refuse!(TooComplex, EFAULT, "The sequence of {} jumps is too complex.", self.pending.len() + 1);
        }
        if let Some(parent) = self.parent.and_then(|id| self.checkpoints.get_mut(id)) {
            parent.branches += 1;
        }
        self.pending.push(Pending {
            state,
            at,
            from: self.at,
            parent: self.parent,
            trail: self.trail.clone(),
            written: self.written,
            logged: self.log.mark(),
        });
        self.stats.pending = self.stats.pending.max(self.pending.len() as u32);
        Ok(())
    }

    /// Says what the current instruction did.
    pub fn touch(&mut self, touch: Touch) {
        self.trail.touch(touch);
    }

    /// Enters a subprogram: nothing in its frame comes from an older one.
    pub fn enter(&mut self, frame: Frame) {
        self.mark_written(self.state.depth() as u32, u64::MAX);
        self.state.push(frame);
    }

    /// Puts `state` aside with a new frame, to be walked from its start later.
    pub fn push_entering(&mut self, mut state: State, frame: Frame, at: InsnIdx) -> Checked {
        let written = self.written;
        self.mark_written(state.depth() as u32, u64::MAX);
        state.push(frame);
        let pushed = self.push(state, at);
        self.written = written;
        pushed
    }

    /// The readable value of a register.
    #[inline]
    pub fn read(&self, reg: Reg) -> Checked<Value> {
        let value = *self.state.reg(reg);
        if matches!(value.kind, Kind::Uninit) {
            return refuse!(UninitRegister, EACCES, "R{} !read_ok", reg as u8);
        }
        Ok(value)
    }

    /// Whether a register may be written.
    #[inline]
    pub fn check_writable(&self, reg: Reg) -> Checked {
        if reg == Reg::FP {
            return refuse!(FramePointer, EACCES, "frame pointer is read only");
        }
        Ok(())
    }

    /// Sets a register.
    #[inline]
    pub fn set(&mut self, reg: Reg, value: Value) {
        self.state.set(reg, value);
    }
}

impl Walk<'_> {
    /// What was found out about the program as a whole, when every path is done.
    pub fn take_facts(&mut self) -> Facts {
        let mut facts = std::mem::take(&mut self.facts);
        facts.worst_case_insns = crate::worst::case(self.program);
        facts.stack_bytes = self.stack_bytes.iter().map(|bytes| bytes.next_multiple_of(8)).collect();
        facts
    }
}
