//! States kept for who asks for them, and the walk between them: see [`crate::walked`].

use rtbpf_isa::InsnIdx;

use super::{MAX_CHECKPOINTS, Next, Walk};
use crate::reject::{Checked, refuse};
use crate::state::State;
use crate::walked::{BlockState, Keeper, Places};

impl Walk<'_> {
    /// Keeps the current state where states are kept, if no checkpoint holds it. Nothing compares with it: what is
    /// walked stays the same.
    pub(super) fn keep_beside(&mut self, at: InsnIdx) -> Checked {
        // Nothing was walked since the newest checkpoint was made.
        let is_kept = self.trail.is_empty() && self.parent.is_some();
        if is_kept || !self.keeper.as_ref().is_some_and(|keeper| keeper.wants(at)) {
            return Ok(());
        }
        if self.checkpoints.len() >= MAX_CHECKPOINTS {
            return refuse!(TooComplex, E2BIG, "more than {MAX_CHECKPOINTS} states to keep");
        }
        let trail = self.trail.cut();
        let id = self.attach(at, trail, 0);
        if let Some(checkpoint) = self.checkpoints.get_mut(id) {
            checkpoint.beside = true;
        }
        self.idle += 1;
        Ok(())
    }

    /// Every path from an entry is walked: what each state needed is known.
    pub(super) fn keep_proof(&mut self) {
        let Some(keeper) = &mut self.keeper else { return };
        keeper.next_id = self.next_id;
        let (uninit_stack, counters) = (self.opts.privilege.perfmon, &self.counters[..]);
        let live = |at: InsnIdx| self.flows.live.get(at.index()).copied().unwrap_or_default();
        for checkpoint in std::mem::take(&mut self.checkpoints) {
            let at = checkpoint.at;
            let places =
                Places { live: &live, at, need: &checkpoint.need, read: &checkpoint.read, uninit_stack, counters };
            keeper.add(at, BlockState::needed(&checkpoint.state, &places), uninit_stack);
        }
    }

    /// Walks from a kept state on every path to the next instructions where states are kept: there, one must hold it.
    pub(crate) fn run_to_kept(&mut self, from: InsnIdx, state: &State, kept: &Keeper) -> Checked {
        self.entry = state.frames().first().map_or(0, |frame| frame.subprog);
        self.next_id = self.next_id.max(kept.next_id);
        self.state = state.clone();
        self.at = from;
        let mut begins = true;
        loop {
            let at = self.at;
            let done = !std::mem::take(&mut begins) && kept.wants(at);
            if done && !kept.cover(at, &self.state, self.opts.privilege.perfmon) {
                let found = crate::log::registers(&self.state, &self.given.maps);
                let there: String =
                    kept.states_at(at).map(|kept| crate::log::registers(kept, &self.given.maps) + ";").collect();
                return refuse!(Internal, EFAULT, "from {from}, no kept state at {at} holds{found}; there are{there}");
            }
            let next = match (done, self.program.get(at).copied()) {
                (true, _) => Next::End,
                (false, Some(insn)) => {
                    self.trail = Default::default();
                    self.trail.push(at);
                    self.step(at, &insn)?
                }
                (false, None) => return refuse!(Internal, EFAULT, "invalid insn idx {at}"),
            };
            match next {
                Next::Go(to) => self.at = to,
                Next::End => {
                    let Some(pending) = self.pending.pop() else { return Ok(()) };
                    self.at = pending.at;
                    self.state = pending.state;
                }
            }
        }
    }
}
