//! The kept states checked, as if nobody knew where they came from.

use rtbpf_isa::InsnIdx;

use super::{BlockStates, Keeper};
use crate::cfg;
use crate::explore::Walk;
use crate::facts::InsnFacts;
use crate::reject::{Checked, Rejection, refuse};
use crate::verified::VerifiedProgram;

impl VerifiedProgram {
    /// Proves the program again from its kept states alone; `None` where none were kept.
    ///
    /// From every kept state, one pass to the next ones: no rule may be broken on the way, and the state there must lie
    /// in a kept one. So must the states that functions begin in, and the states must imply every fact that is claimed
    /// of an instruction. That is the whole proof but for its end: that loops end is not checked again.
    pub fn recheck(&self) -> Option<Result<(), Rejection>> {
        let states = self.block_states()?;
        Some(self.recheck_from(states).map_err(|rejection| *rejection))
    }

    fn recheck_from(&self, states: &BlockStates) -> Checked {
        let program = self.code();
        let flows = cfg::flows(program, states.options.privilege.bpf)?;
        let keeper = Keeper::of(states);
        let mut walk = Walk::new(program, self.given(), &states.options, &flows);
        // States are not kept a second time.
        walk.keeper = None;
        for (at, state) in keeper.states() {
            walk.run_to_kept(at, state, &keeper)?;
        }
        let perfmon = states.options.privilege.perfmon;
        crate::verify::each_entry(&mut walk, |_, entry, state| {
            let start = program.subprogs().get(entry).map_or(InsnIdx(0), |subprog| subprog.start);
            if keeper.cover(start, &state, perfmon) {
                return Ok(());
            }
            refuse!(Internal, EFAULT, "no kept state holds what function {entry} begins in")
        })?;
        let found = walk.take_facts();
        for (at, _) in program.iter() {
            let (found, claimed) = (found.at(at), self.proved().at(at));
            if !implies(&found, &claimed) {
                return refuse!(Internal, EFAULT, "insn {at} is claimed {claimed:?}, its states show {found:?}");
            }
        }
        if walk.lowering.ctx().iter().any(|access| self.lowering().at(access.at) != Some(*access)) {
            return refuse!(Internal, EFAULT, "the states show other context accesses than are claimed");
        }
        Ok(())
    }
}

/// Whether everything that `claimed` claims follows from what the states show.
fn implies(found: &InsnFacts, claimed: &InsnFacts) -> bool {
    found.unreached
        || !claimed.unreached
            && (found.divisor_nonzero || !claimed.divisor_nonzero)
            && (found.shift_in_range || !claimed.shift_in_range)
            && (claimed.branch == Default::default() || claimed.branch == found.branch)
            && crate::prove::join(claimed.access, found.access) == claimed.access
            && (claimed.const_key.is_none() || claimed.const_key == found.const_key)
            && (claimed.map.is_none() || claimed.map == found.map)
}

#[cfg(test)]
mod tests {
    use rtbpf_abi::ProgType;
    use rtbpf_isa::{Reg, asm, decode};

    use super::*;
    use crate::domain::Scalar;
    use crate::verified::{Assumptions, Options};
    use crate::walked::{BlockState, KeepStates, Value};

    const TEXT: &str = "
        r0 = 0
        r2 = *(u8 *)(r1 + 0)
        if r2 > 7 goto out
        r3 = r10
        r3 += -8
        r3 += r2
        *(u8 *)(r3 + 0) = r2
    again:
        r0 += 1
        if r0 != 4 goto again
    out:
        exit";

    fn proved() -> VerifiedProgram {
        let program = decode(&asm::assemble(TEXT).unwrap().slots).unwrap();
        let given = Assumptions { plain_ctx_bytes: 8, ..Assumptions::new(ProgType::Plain) };
        crate::verify(program, given, &Options { keep_states: KeepStates::Leaders, ..Options::default() }).unwrap()
    }

    /// What is said when the states are changed before they are checked.
    fn said(change: impl Fn(InsnIdx, &mut Vec<BlockState>)) -> Result<(), String> {
        let verified = proved();
        let mut states = verified.block_states().unwrap().clone();
        for (at, there) in &mut states.states {
            change(*at, there);
        }
        verified.recheck_from(&states).map_err(|rejection| rejection.message)
    }

    #[test]
    fn kept_states_prove_the_program() {
        assert_eq!(proved().recheck(), Some(Ok(())));
        assert_eq!(proved().block_states().unwrap().at(InsnIdx(2)).len(), 1);
        assert!(proved().block_states().unwrap().at(InsnIdx(3))[0].frame().regs[2].num.umax() == 7);
    }

    #[test]
    fn without_the_states_of_one_block_nothing_is_proved() {
        let leaders: Vec<InsnIdx> = proved().block_states().unwrap().states.keys().copied().collect();
        assert!(leaders.len() >= 5, "{leaders:?}");
        for leader in leaders {
            let without = said(|at, states| {
                if at == leader {
                    states.clear()
                }
            });
            assert!(without.as_ref().is_err_and(|said| said.contains("no kept state")), "{leader}: {without:?}");
        }
    }

    #[test]
    fn a_state_that_says_less_proves_less() {
        let unknown = |at: InsnIdx, states: &mut Vec<BlockState>| {
            if at == InsnIdx(3) {
                states[0].frames[0].regs[Reg::R2.index()] = Value::UNKNOWN;
            }
        };
        assert!(said(unknown).unwrap_err().contains("unbounded"), "{:?}", said(unknown));
    }

    #[test]
    fn a_state_that_says_more_holds_no_run() {
        let small = |at: InsnIdx, states: &mut Vec<BlockState>| {
            if at == InsnIdx(3) {
                states[0].frames[0].regs[Reg::R2.index()] = Value::scalar(Scalar::range(0, 6));
            }
        };
        assert!(said(small).unwrap_err().contains("no kept state at 3"), "{:?}", said(small));
    }

    #[test]
    fn nothing_is_kept_unless_it_is_asked_for() {
        let program = decode(&asm::assemble("r0 = 0\n exit").unwrap().slots).unwrap();
        let plain = crate::verify(program, Assumptions::new(ProgType::Plain), &Options::default()).unwrap();
        assert!(plain.block_states().is_none() && plain.recheck().is_none());
    }
}
