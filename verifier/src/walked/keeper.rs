//! Which states are kept, and whether one of them holds another state.

use std::cell::{Cell, OnceCell};
use std::collections::BTreeMap;

use rtbpf_isa::effects::{Flow, RegSet};
use rtbpf_isa::{InsnIdx, Program};

use super::{BlockState, BlockStates, KeepStates};
use crate::cfg::Flows;
use crate::needed::{FRAMES, Need};
use crate::prune::{Match, View, covers};
use crate::state::State;
use crate::verified::Options;

/// A kept state, and once it is compared the state it was read into with the slots that are read from there on, by frame.
struct Held {
    kept: BlockState,
    read: OnceCell<(State, [u64; FRAMES])>,
}

/// The states of a walk, or those that a walk is checked against.
pub(crate) struct Keeper {
    wanted: Vec<bool>,
    states: BTreeMap<InsnIdx, Vec<Held>>,
    /// No id in a state is higher.
    pub next_id: u32,
    next: Cell<usize>,
}

impl Held {
    fn new(kept: BlockState) -> Held {
        Held { kept, read: OnceCell::new() }
    }

    fn read(&self) -> &(State, [u64; FRAMES]) {
        self.read.get_or_init(|| self.kept.to_state())
    }

    /// Whether it holds all of `state`.
    fn holds(&self, at: InsnIdx, state: &State, uninit_stack: bool) -> bool {
        let live = |_: InsnIdx| RegSet(u16::MAX);
        let (own, read) = self.read();
        let view = View { live: &live, at, need: &Need::default(), slots: Some(read), uninit_stack };
        covers(own, state, &view, Match::Within)
    }
}

/// States that a new one is compared with, so that what one holds is not kept twice.
const NEWEST: usize = 8;

impl Keeper {
    /// `None` where no state is kept.
    pub fn new(keep: KeepStates, program: &Program, flows: &Flows) -> Option<Keeper> {
        let wanted = match keep {
            KeepStates::Nowhere => return None,
            KeepStates::Leaders => leaders(program, flows),
            KeepStates::Everywhere => vec![true; program.len()],
        };
        Some(Keeper { wanted, states: BTreeMap::new(), next_id: 0, next: Cell::new(0) })
    }

    /// The states of a finished proof, to be looked up.
    pub fn of(states: &BlockStates) -> Keeper {
        let mut keeper = Keeper {
            wanted: states.wanted.clone(),
            states: BTreeMap::new(),
            next_id: states.next_id,
            next: Cell::new(0),
        };
        for (at, kept) in states.iter() {
            keeper.states.entry(at).or_default().push(Held::new(kept.clone()));
        }
        keeper
    }

    /// Whether states are kept at `at`.
    pub fn wants(&self, at: InsnIdx) -> bool {
        self.wanted.get(at.index()).copied().unwrap_or(false)
    }

    /// Every state.
    pub fn states(&self) -> impl Iterator<Item = (InsnIdx, &State)> {
        self.states.iter().flat_map(|(at, states)| states.iter().map(|held| (*at, &held.read().0)))
    }

    /// The states at `at`.
    pub fn states_at(&self, at: InsnIdx) -> impl Iterator<Item = &State> {
        self.states.get(&at).into_iter().flatten().map(|held| &held.read().0)
    }

    /// Keeps a state, unless one that was kept lately holds it.
    pub fn add(&mut self, at: InsnIdx, kept: BlockState, uninit_stack: bool) {
        let there = self.states.entry(at).or_default();
        let newest = there.len().saturating_sub(NEWEST);
        let held = Held::new(kept);
        let is_held = |other: &Held| other.kept == held.kept || other.holds(at, &held.read().0, uninit_stack);
        if !there[newest..].iter().any(is_held) {
            there.push(held);
        }
    }

    /// Whether one of the states at `at` holds all of `state`.
    ///
    /// States that follow each other in a loop lead to states that do: the search begins behind the last one found.
    pub fn cover(&self, at: InsnIdx, state: &State, uninit_stack: bool) -> bool {
        let states = self.states.get(&at).map_or(&[][..], Vec::as_slice);
        let (before, behind) = states.split_at(states.len().min(self.next.get()));
        let behind = behind.iter().zip(before.len()..);
        let found = behind.chain(before.iter().zip(0..)).find(|(held, _)| held.holds(at, state, uninit_stack));
        if let Some((_, place)) = found {
            self.next.set(place + 1);
        }
        found.is_some()
    }

    /// The states alone.
    pub fn into_states(self, options: Options) -> BlockStates {
        let only = |states: Vec<Held>| states.into_iter().map(|held| held.kept).collect();
        let states = self.states.into_iter().map(|(at, states)| (at, only(states))).collect();
        BlockStates { states, wanted: self.wanted, options, next_id: self.next_id }
    }
}

/// Where blocks begin, and the jumps at their ends: there, too, a path may end in a state that was met before.
fn leaders(program: &Program, flows: &Flows) -> Vec<bool> {
    let mut leads = flows.meets.clone();
    let mut mark = |at: InsnIdx| {
        if let Some(lead) = leads.get_mut(at.index()) {
            *lead = true;
        }
    };
    for subprog in program.subprogs() {
        mark(subprog.start);
    }
    for (at, insn) in program.iter() {
        match insn.flow() {
            Flow::Branch(_) | Flow::Call(_) => mark(at.next()),
            Flow::Next | Flow::Jump(_) | Flow::Exit => {}
        }
    }
    leads
}
