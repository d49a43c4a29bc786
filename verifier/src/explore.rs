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

mod kept;
mod needs;

use std::collections::HashMap;

use rtbpf_isa::{Insn, InsnIdx, Program, Reg, effects::RegSet};

use crate::cfg::Flows;
use crate::domain::Precision;
use crate::facts::Facts;
use crate::log::Mark;
use crate::needed::{FRAMES, Need, Touch, Trail, numbers, undo_trail};
use crate::prune::{Match, View, covers};
use crate::reject::{Checked, Rejection, refuse};
use crate::state::{Frame, State};
use crate::value::{Kind, Value};
use crate::verified::{Assumptions, Options, Profile, Pruning, Stats};
use crate::walked::Keeper;
use crate::widen::{Back, Counter, Plans, same_counters};

/// Index of a checkpoint.
type Id = usize;

/// A state that later ones are compared with.
struct Checkpoint {
    state: State,
    at: InsnIdx,
    parent: Option<Id>,
    /// From the parent to here.
    trail: Trail,
    /// Slots written whole on the trail, by frame.
    written: [u64; FRAMES],
    /// Paths that still run below.
    branches: u32,
    /// Bounds that a walk below used.
    need: Need,
    /// Slots that a walk below read, by frame.
    read: [u64; FRAMES],
    /// Equal states have equal ones; see [`fingerprint`].
    fingerprint: u64,
    /// Checkpoints above.
    depth: u32,
    /// Some walk below ended at this checkpoint, or below it, while it was not finished: needs and reads are complete
    /// once it is.
    loop_head: Option<Id>,
    /// No longer compared with; freed when complete.
    evicted: bool,
    /// What is left of the state when nothing compares with it any more: where it held numbers, how many frames.
    outline: Option<Box<(Need, usize)>>,
    /// The counter that its state was widened by.
    counter: Option<Counter>,
    /// Kept for who asks for states; nothing compares with it.
    beside: bool,
    hits: u32,
    misses: u32,
}

impl Checkpoint {
    /// Frees the state.
    fn shrink(&mut self) {
        let state = self.state.take();
        self.outline = Some(Box::new((numbers(&state), state.depth())));
    }

    /// Frames of the state.
    fn frames(&self) -> usize {
        self.outline.as_ref().map_or(self.state.depth(), |outline| outline.1)
    }

    /// Notes needed places; returns what was not noted before.
    fn note(&mut self, need: &Need) -> Need {
        match &self.outline {
            Some(outline) => self.need.note(need, &outline.0),
            None => self.need.note(need, &self.state),
        }
    }
}

/// What waits for a loop's head to be finished.
#[derive(Default)]
struct Loop {
    /// Checkpoints whose needs are not complete before.
    members: Vec<Id>,
    /// Paths that ended in one of them.
    edges: Vec<Edge>,
}

/// A path that ended in a state whose needs were not complete.
struct Edge {
    target: Id,
    parent: Option<Id>,
    trail: Trail,
    written: [u64; FRAMES],
    depth: u32,
}

/// A number that equal states at one instruction share: a mix of the known parts of live numbers. A loop that counts is
/// then told from one that hangs without comparing whole states.
fn fingerprint(frame: &Frame, live: RegSet) -> u64 {
    live.iter().fold(0, |hash, reg| {
        let value = &frame.regs[reg.index()];
        let known =
            if value.is_scalar() { value.num.tnum().value() ^ value.num.wide().first().rotate_left(32) } else { 1 };
        (hash ^ known).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
    })
}

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

/// What arriving at an instruction means.
enum Arrival {
    Covered,
    Walk,
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
    met: Vec<Vec<Id>>,
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
            met: vec![Vec::new(); program.len()],
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
        self.trail = Trail::default();
        self.written = [0; FRAMES];
        self.parent = None;
        self.pending.clear();
        self.checkpoints.clear();
        self.free.clear();
        self.idle = 0;
        self.loops.clear();
        self.met.iter_mut().for_each(Vec::clear);
        self.walk()
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

    /// The state at `at` is that of checkpoint `id`, on the way from it.
    fn endless<T>(&self, at: InsnIdx, id: Id) -> Checked<T> {
        let said = refuse!(InfiniteLoop, EINVAL, "infinite loop detected at insn {}", self.program.slot(at));
        said.map_err(|mut rejection: Box<Rejection>| {
            let shown = |state: &State| crate::log::registers(state, &self.given.maps);
            let old = self.checkpoints.get(id).map(|checkpoint| shown(&checkpoint.state)).unwrap_or_default();
            rejection.log = format!("cur state:{}\nold state:{old}\n", shown(&self.state));
            rejection
        })
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

    fn end_path(&mut self) {
        let mut at = self.parent;
        while let Some(id) = at {
            let Some(checkpoint) = self.checkpoints.get_mut(id) else { return };
            checkpoint.branches -= 1;
            if checkpoint.branches > 0 {
                return;
            }
            at = checkpoint.parent;
            let waits_for = checkpoint.loop_head;
            if let Some(ended) = self.loops.remove(&id) {
                match waits_for {
                    // An inner loop is complete when the outer one is.
                    Some(outer) => self.join_loop(ended, outer),
                    None => self.complete(id, ended),
                }
            } else if waits_for.is_none() {
                self.settle(id);
            }
        }
    }

    fn join_loop(&mut self, inner: Loop, outer: Id) {
        for &id in &inner.members {
            if let Some(checkpoint) = self.checkpoints.get_mut(id) {
                checkpoint.loop_head = Some(outer);
            }
        }
        let outer = self.loops.entry(outer).or_default();
        outer.members.extend(inner.members);
        outer.edges.extend(inner.edges);
    }

    /// Every path through a loop is walked: what its states need is carried over its edges until nothing changes.
    fn complete(&mut self, head: Id, ended: Loop) {
        const ROUNDS: usize = 64;
        for round in 0..=ROUNDS {
            let mut changed = false;
            for edge in &ended.edges {
                let Some(target) = self.checkpoints.get(edge.target) else { continue };
                let (mut need, read) = (target.need, target.read);
                if round == ROUNDS {
                    need = Need::everything();
                }
                for (frame, slots) in read.iter().enumerate() {
                    changed |= self.note_read(edge.parent, frame, slots & !edge.written[frame]);
                }
                let mut depth = edge.depth;
                undo_trail(self.program, &edge.trail, &mut need, &mut depth);
                changed |= self.note_need(edge.parent, need);
            }
            if !changed {
                break;
            }
        }
        for &id in ended.members.iter().chain([&head]) {
            if let Some(checkpoint) = self.checkpoints.get_mut(id) {
                checkpoint.loop_head = None;
                if checkpoint.branches == 0 {
                    self.settle(id);
                }
            }
        }
    }

    /// A checkpoint is finished and complete: nobody follows its trail any more.
    fn settle(&mut self, id: Id) {
        let Some(checkpoint) = self.checkpoints.get_mut(id) else { return };
        checkpoint.trail = Trail::default();
        if checkpoint.evicted {
            checkpoint.evicted = false;
            if self.keeper.is_some() {
                self.idle += 1;
                return;
            }
            checkpoint.state.take();
            self.free.push(id);
        }
    }

    /// Compares the current state with those seen at `at`, and may keep it for later ones.
    fn arrive(&mut self, at: InsnIdx, insn: &Insn) -> Checked<Arrival> {
        let state_freq = self.given.prog_flags & 8 != 0;
        let converges = self.converges_at(insn);
        let force = converges || state_freq || self.trail.runs() > LONG_TRAIL;
        let insns = self.stats.processed - self.insns_at_checkpoint;
        let jumps = self.jumps - self.jumps_at_checkpoint;
        let mut keep = force || jumps >= 2 && insns >= 8;

        let call_site = self.state.frame().call_site;
        if self.goes_round(at) {
            return refuse!(TooComplex, E2BIG, "a loop seems to count");
        }
        let Some(list) = self.met.get_mut(at.index()) else { return Ok(Arrival::Walk) };
        if list.is_empty() && !keep && !self.plans.counts(at) {
            return Ok(Arrival::Walk);
        }
        let mut list = std::mem::take(list);
        let live = self.flows.live.get(at.index()).copied().unwrap_or_default();
        let fingerprint = fingerprint(self.state.frame(), live);
        let mut hit = None;
        let mut index = list.len();
        let states_here = index as u32;
        while index > 0 {
            index -= 1;
            let id = list[index];
            let Some(checkpoint) = self.checkpoints.get(id) else { continue };
            if checkpoint.state.frame().call_site != call_site {
                continue;
            }
            if checkpoint.branches > 0
                && let Some(counter) = checkpoint.counter
            {
                match counter.arrival(&self.state) {
                    Back::Step if self.covered_by(id, Match::Within) => {
                        hit = Some((index, id));
                        break;
                    }
                    Back::Step | Back::Stuck => {
                        self.plans.fail(at, Some((&checkpoint.state, &self.state)));
                        return refuse!(TooComplex, E2BIG, "a loop does not count as it seemed to");
                    }
                    Back::Entry => continue,
                }
            }
            if checkpoint.branches > 0 {
                let went_round = !matches!(insn, Insn::MayGoto { .. })
                    || checkpoint.state.may_goto_depth != self.state.may_goto_depth;
                if converges && went_round && self.covered_by(id, Match::Within) {
                    hit = Some((index, id));
                    break;
                }
                let may_hang = !converges || matches!(insn, Insn::MayGoto { .. });
                if may_hang
                    && checkpoint.fingerprint == fingerprint
                    && self.covered_by(id, Match::Same)
                    && checkpoint.state.may_goto_depth == self.state.may_goto_depth
                    && self.same_depths(id)
                {
                    return self.endless(at, id);
                }
                // In a loop, states are kept rarely: it may take many rounds.
                if !force && jumps < 20 && insns < 100 {
                    keep = false;
                }
            } else if self.opts.pruning != Pruning::Never {
                let is_needed = checkpoint.loop_head.is_none() && self.opts.pruning == Pruning::Needed;
                let how = if is_needed { Match::Needed } else { Match::Within };
                let is_counter = |link: u32| self.counters.binary_search(&link).is_ok();
                if self.covered_by(id, how)
                    && (how == Match::Needed || same_counters(&checkpoint.state, &self.state, is_counter))
                {
                    hit = Some((index, id));
                    break;
                }
            }
            if keep && let Some(checkpoint) = self.checkpoints.get_mut(id) {
                checkpoint.misses += 1;
                let patience = if converges && checkpoint.branches > 0 { 64 } else { 3 };
                if checkpoint.misses > checkpoint.hits * patience + patience {
                    list.remove(index);
                    checkpoint.evicted = true;
                    if !converges && self.keeper.is_none() {
                        checkpoint.shrink();
                    }
                    if checkpoint.branches == 0 && checkpoint.loop_head.is_none() {
                        self.settle(id);
                    }
                }
            }
        }
        if let Some((index, id)) = hit {
            // The most useful ones are looked at first.
            list.remove(index);
            list.push(id);
            self.met[at.index()] = list;
            self.cover(id);
            return Ok(Arrival::Covered);
        }
        self.stats.max_states_per_insn = self.stats.max_states_per_insn.max(states_here);
        if keep && self.compared() >= MAX_CHECKPOINTS {
            return refuse!(TooComplex, E2BIG, "BPF program is too large. Processed {} insn", self.stats.processed);
        }
        let counter = self.widen_counter(at);
        if keep || counter.is_some() {
            let id = self.keep(at, fingerprint);
            list.push(id);
            if let (Some(counter), Some(checkpoint)) = (counter, self.checkpoints.get_mut(id)) {
                counter.unlink(&mut checkpoint.state);
                checkpoint.counter = Some(counter);
                self.counters.push(counter.id);
            }
        }
        self.met[at.index()] = list;
        Ok(Arrival::Walk)
    }

    /// Where a state within an earlier one on the same path ends the path: the language promises that these loops end.
    fn converges_at(&self, insn: &Insn) -> bool {
        match *insn {
            Insn::MayGoto { .. } => true,
            Insn::Call(callee) => crate::call::converges(callee, self),
            _ => false,
        }
    }

    fn same_depths(&self, id: Id) -> bool {
        let depths = |state: &State| -> Vec<u32> {
            let callbacks = state.frames().iter().map(|f| f.callback_depth);
            let iters = state.frames().iter().flat_map(|f| {
                f.stack.spills().filter_map(|v| match v.kind {
                    Kind::Iter { depth, first: true, .. } => Some(depth),
                    _ => None,
                })
            });
            callbacks.chain(iters).collect()
        };
        self.checkpoints.get(id).is_some_and(|c| depths(&c.state) == depths(&self.state))
    }

    fn covered_by(&self, id: Id, how: Match) -> bool {
        let Some(checkpoint) = self.checkpoints.get(id) else { return false };
        let live = |at: InsnIdx| self.flows.live.get(at.index()).copied().unwrap_or(RegSet(u16::MAX));
        let complete = checkpoint.branches == 0 && checkpoint.loop_head.is_none();
        let view = View {
            live: &live,
            at: checkpoint.at,
            need: &checkpoint.need,
            slots: complete.then_some(&checkpoint.read[..]),
            uninit_stack: self.opts.privilege.perfmon,
        };
        covers(&checkpoint.state, &self.state, &view, how)
    }

    /// The current path ends in `id`: what `id` needs and reads, this path needs and reads.
    fn cover(&mut self, id: Id) {
        let Some(checkpoint) = self.checkpoints.get_mut(id) else { return };
        checkpoint.hits += 1;
        let running = checkpoint.branches > 0;
        let head = if running { Some(id) } else { checkpoint.loop_head };
        let Some(head) = head else {
            let (need, read) = (checkpoint.need, checkpoint.read);
            for (frame, slots) in read.iter().enumerate() {
                self.mark_read(frame as u32, *slots);
            }
            self.propagate(need, false);
            return;
        };
        // What `id` turns out to need, the checkpoints between the head and here hear of when the loop is complete.
        let edge = Edge {
            target: id,
            parent: self.parent,
            trail: self.trail.clone(),
            written: self.written,
            depth: self.state.current(),
        };
        let head_depth = self.checkpoints.get(head).map_or(0, |c| c.depth);
        let mut members = Vec::new();
        let mut at = self.parent;
        while let Some(id) = at.filter(|&id| id != head) {
            let Some(checkpoint) = self.checkpoints.get(id) else { break };
            if checkpoint.depth <= head_depth {
                break;
            }
            at = checkpoint.parent;
            let outer = checkpoint.loop_head.and_then(|other| self.checkpoints.get(other)).map(|c| c.depth);
            if outer.is_none_or(|outer| outer > head_depth) {
                members.push(id);
            }
        }
        for &id in &members {
            if let Some(checkpoint) = self.checkpoints.get_mut(id) {
                checkpoint.loop_head = Some(head);
            }
        }
        let waiting = self.loops.entry(head).or_default();
        waiting.members.extend(members);
        waiting.edges.push(edge);
    }

    /// Checkpoints that later states may be compared with.
    fn compared(&self) -> usize {
        self.checkpoints.len() - self.free.len() - self.idle
    }

    fn keep(&mut self, at: InsnIdx, fingerprint: u64) -> Id {
        self.jumps_at_checkpoint = self.jumps;
        self.insns_at_checkpoint = self.stats.processed;
        let trail = self.trail.take();
        let id = self.attach(at, trail, fingerprint);
        self.stats.states += 1;
        self.stats.peak_states = self.stats.peak_states.max(self.compared() as u64);
        id
    }

    /// Puts a checkpoint between the newest one and the current state.
    fn attach(&mut self, at: InsnIdx, trail: Trail, fingerprint: u64) -> Id {
        let checkpoint = Checkpoint {
            state: self.state.clone(),
            at,
            parent: self.parent,
            trail,
            written: std::mem::replace(&mut self.written, [0; FRAMES]),
            branches: 1,
            need: Need::default(),
            read: [0; FRAMES],
            fingerprint,
            depth: self.parent.and_then(|id| self.checkpoints.get(id)).map_or(0, |parent| parent.depth + 1),
            loop_head: None,
            evicted: false,
            outline: None,
            counter: None,
            beside: false,
            hits: 0,
            misses: 0,
        };
        let id = match self.free.pop() {
            Some(id) => {
                self.checkpoints[id] = checkpoint;
                id
            }
            None => {
                self.checkpoints.push(checkpoint);
                self.checkpoints.len() - 1
            }
        };
        self.parent = Some(id);
        id
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
