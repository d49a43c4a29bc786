//! Arriving where paths meet: is what follows covered by an earlier state, and may later ones be covered by this one?

use rtbpf_abi::prog_rules::flags;
use rtbpf_isa::effects::RegSet;
use rtbpf_isa::{Insn, InsnIdx};

use super::checkpoint::fingerprint;
use super::{Id, LONG_TRAIL, MAX_CHECKPOINTS, Walk};
use crate::prune::{Match, View, covers};
use crate::reject::{Checked, Rejection, refuse};
use crate::state::State;
use crate::value::Kind;
use crate::verified::Pruning;
use crate::widen::{Back, same_counters};

/// What arriving at an instruction means.
pub(super) enum Arrival {
    Covered,
    Walk,
}

/// What comparing with one checkpoint came to.
enum Meeting {
    /// It covers the current state.
    Covered,
    /// It belongs to another call, or to another round of a loop that counts.
    Apart,
    /// It does not cover it; its paths still run: this is a way round a loop.
    Running,
    /// It does not cover it.
    Finished,
}

impl Walk<'_> {
    /// Compares the current state with those seen at `at`, and may keep it for later ones.
    pub(super) fn arrive(&mut self, at: InsnIdx, insn: &Insn) -> Checked<Arrival> {
        let state_freq = self.given.prog_flags & flags::TEST_STATE_FREQ != 0;
        let converges = self.converges_at(insn);
        let force = converges || state_freq || self.trail.runs() > LONG_TRAIL;
        let insns = self.stats.processed - self.insns_at_checkpoint;
        let jumps = self.jumps - self.jumps_at_checkpoint;
        let mut keep = force || jumps >= 2 && insns >= 8;
        if self.goes_round(at) {
            return refuse!(TooComplex, E2BIG, "a loop seems to count");
        }
        if !keep && self.met.is_empty(at) && !self.plans.counts(at) {
            return Ok(Arrival::Walk);
        }
        let mut list = self.met.take(at);
        let live = self.flows.live.get(at.index()).copied().unwrap_or_default();
        let fingerprint = fingerprint(self.state.frame(), live);
        let mut hit = None;
        let mut index = list.len();
        let states_here = index as u32;
        while index > 0 {
            index -= 1;
            let id = list[index];
            match self.meet(id, insn, converges, fingerprint)? {
                Meeting::Covered => {
                    hit = Some((index, id));
                    break;
                }
                Meeting::Apart => continue,
                // In a loop, states are kept rarely: it may take many rounds.
                Meeting::Running if !force && jumps < 20 && insns < 100 => keep = false,
                Meeting::Running | Meeting::Finished => {}
            }
            if keep && self.gives_up(id, converges) {
                list.remove(index);
            }
        }
        if let Some((index, id)) = hit {
            // The most useful ones are looked at first.
            list.remove(index);
            list.push(id);
            self.met.put(at, list);
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
        self.met.put(at, list);
        Ok(Arrival::Walk)
    }

    /// Compares the current state with that of one checkpoint at the same instruction.
    fn meet(&mut self, id: Id, insn: &Insn, converges: bool, fingerprint: u64) -> Checked<Meeting> {
        let Some(checkpoint) = self.checkpoints.get(id) else { return Ok(Meeting::Apart) };
        if checkpoint.state.frame().call_site != self.state.frame().call_site {
            return Ok(Meeting::Apart);
        }
        let covered = |is_covered| if is_covered { Meeting::Covered } else { Meeting::Finished };
        if checkpoint.branches == 0 {
            let is_needed = checkpoint.loop_head.is_none() && self.opts.pruning == Pruning::Needed;
            let how = if is_needed { Match::Needed } else { Match::Within };
            let is_counter = |link: u32| self.counters.binary_search(&link).is_ok();
            return Ok(covered(
                self.opts.pruning != Pruning::Never
                    && self.covered_by(id, how)
                    && (how == Match::Needed || same_counters(&checkpoint.state, &self.state, is_counter)),
            ));
        }
        if let Some(counter) = checkpoint.counter {
            match counter.arrival(&self.state) {
                Back::Step if self.covered_by(id, Match::Within) => return Ok(Meeting::Covered),
                Back::Step | Back::Stuck => {
                    self.plans.fail(checkpoint.at, Some((&checkpoint.state, &self.state)));
                    return refuse!(TooComplex, E2BIG, "a loop does not count as it seemed to");
                }
                Back::Entry => return Ok(Meeting::Apart),
            }
        }
        let is_may_goto = matches!(insn, Insn::MayGoto { .. });
        let went_round = !is_may_goto || checkpoint.state.may_goto_depth != self.state.may_goto_depth;
        if converges && went_round && self.covered_by(id, Match::Within) {
            return Ok(Meeting::Covered);
        }
        let is_same = (!converges || is_may_goto)
            && checkpoint.fingerprint == fingerprint
            && self.covered_by(id, Match::Same)
            && checkpoint.state.may_goto_depth == self.state.may_goto_depth
            && self.same_depths(id);
        if is_same { self.endless(id) } else { Ok(Meeting::Running) }
    }

    /// A checkpoint did not cover a state that will be kept; whether it is compared no longer.
    fn gives_up(&mut self, id: Id, converges: bool) -> bool {
        let Some(checkpoint) = self.checkpoints.get_mut(id) else { return false };
        checkpoint.misses += 1;
        let patience = if converges && checkpoint.branches > 0 { 64 } else { 3 };
        if checkpoint.misses <= checkpoint.hits * patience + patience {
            return false;
        }
        checkpoint.evicted = true;
        if !converges && self.keeper.is_none() {
            checkpoint.shrink();
        }
        if checkpoint.branches == 0 && checkpoint.loop_head.is_none() {
            self.settle(id);
        }
        true
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

    /// The current state is that of checkpoint `id`, on the way from it.
    fn endless<T>(&self, id: Id) -> Checked<T> {
        let at = self.program.slot(self.at);
        let said = refuse!(InfiniteLoop, EINVAL, "infinite loop detected at insn {at}");
        said.map_err(|mut rejection: Box<Rejection>| {
            let shown = |state: &State| crate::log::registers(state, &self.given.maps);
            let old = self.checkpoints.get(id).map(|checkpoint| shown(&checkpoint.state)).unwrap_or_default();
            rejection.log = format!("cur state:{}\nold state:{old}\n", shown(&self.state));
            rejection
        })
    }
}
