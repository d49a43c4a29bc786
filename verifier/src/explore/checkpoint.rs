//! States that later ones are compared with.

use rtbpf_isa::InsnIdx;
use rtbpf_isa::effects::RegSet;

use super::{Id, Walk};
use crate::needed::{FRAMES, Need, Trail, numbers};
use crate::state::{Frame, State};
use crate::widen::Counter;

/// A state that later ones are compared with.
pub(super) struct Checkpoint {
    pub(super) state: State,
    pub(super) at: InsnIdx,
    pub(super) parent: Option<Id>,
    /// From the parent to here.
    pub(super) trail: Trail,
    /// Slots written whole on the trail, by frame.
    pub(super) written: [u64; FRAMES],
    /// Paths that still run below.
    pub(super) branches: u32,
    /// Bounds that a walk below used.
    pub(super) need: Need,
    /// Slots that a walk below read, by frame.
    pub(super) read: [u64; FRAMES],
    /// Equal states have equal ones; see [`fingerprint`].
    pub(super) fingerprint: u64,
    /// Checkpoints above.
    pub(super) depth: u32,
    /// Some walk below ended at this checkpoint, or below it, while it was not finished: needs and reads are complete
    /// once it is.
    pub(super) loop_head: Option<Id>,
    /// No longer compared with; freed when complete.
    pub(super) evicted: bool,
    /// What is left of the state when nothing compares with it any more: where it held numbers, how many frames.
    pub(super) outline: Option<Box<(Need, usize)>>,
    /// The counter that its state was widened by.
    pub(super) counter: Option<Counter>,
    /// Kept for who asks for states; nothing compares with it.
    pub(super) beside: bool,
    pub(super) hits: u32,
    pub(super) misses: u32,
}

impl Checkpoint {
    /// Frees the state.
    pub(super) fn shrink(&mut self) {
        let state = self.state.take();
        self.outline = Some(Box::new((numbers(&state), state.depth())));
    }

    /// Frames of the state.
    pub(super) fn frames(&self) -> usize {
        self.outline.as_ref().map_or(self.state.depth(), |outline| outline.1)
    }

    /// Notes needed places; returns what was not noted before.
    pub(super) fn note(&mut self, need: &Need) -> Need {
        match &self.outline {
            Some(outline) => self.need.note(need, &outline.0),
            None => self.need.note(need, &self.state),
        }
    }
}

/// A number that equal states at one instruction share: a mix of the known parts of live numbers. A loop that counts is
/// then told from one that hangs without comparing whole states.
pub(super) fn fingerprint(frame: &Frame, live: RegSet) -> u64 {
    live.iter().fold(0, |hash, reg| {
        let value = &frame.regs[reg.index()];
        let known =
            if value.is_scalar() { value.num.tnum().value() ^ value.num.wide().first().rotate_left(32) } else { 1 };
        (hash ^ known).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
    })
}

impl Walk<'_> {
    /// Checkpoints that later states may be compared with.
    pub(super) fn compared(&self) -> usize {
        self.checkpoints.len() - self.free.len() - self.idle
    }

    /// Puts a checkpoint here that later states are compared with.
    pub(super) fn keep(&mut self, at: InsnIdx, fingerprint: u64) -> Id {
        self.jumps_at_checkpoint = self.jumps;
        self.insns_at_checkpoint = self.stats.processed;
        let trail = self.trail.take();
        let id = self.attach(at, trail, fingerprint);
        self.stats.states += 1;
        self.stats.peak_states = self.stats.peak_states.max(self.compared() as u64);
        id
    }

    /// Puts a checkpoint between the newest one and the current state.
    pub(super) fn attach(&mut self, at: InsnIdx, trail: Trail, fingerprint: u64) -> Id {
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
        debug_assert!(!self.loops.contains_key(&id), "nothing waits for a state that is new");
        self.parent = Some(id);
        id
    }
}
