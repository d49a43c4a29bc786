//! The soundness oracle: an accepted program runs without a fault, and whatever it holds at any instruction lies in a
//! state that its proof kept.

use rtbpf::verifier::{KeepStates, Options, Profile};

use crate::generate::Case;
use crate::inputs::inputs;
use crate::machine::{Machine, Outcome, Way};
use crate::rng::Rng;

/// What checking cases came to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Soundness {
    /// Cases.
    pub programs: usize,
    /// Those that the verifier accepts.
    pub accepted: usize,
    /// Runs that ended as they should.
    pub runs: usize,
    /// Times that a run was found in a kept state.
    pub contained: u64,
    /// Runs that called a helper this build lacks.
    pub unsupported: usize,
    /// What an accepted program did that its proof excludes.
    pub escape: Option<String>,
}

impl Soundness {
    /// Counts `other` in.
    pub fn add(&mut self, other: &Soundness) {
        self.programs += other.programs;
        self.accepted += other.accepted;
        self.runs += other.runs;
        self.contained += other.contained;
        self.unsupported += other.unsupported;
        self.escape = self.escape.take().or(other.escape.clone());
    }
}

/// How cases are checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Oracle {
    /// Whose rules they are verified by.
    pub profile: Profile,
    /// Where runs are looked at.
    pub keep_states: KeepStates,
    /// Whether programs are proved again from their kept states.
    pub recheck: bool,
    /// On how many inputs a program runs.
    pub inputs: usize,
    /// Instructions that are walked at most; `None`: the profile's budget.
    pub budget: Option<u64>,
}

impl Oracle {
    /// Looks everywhere.
    pub fn new(profile: Profile) -> Oracle {
        Oracle { profile, keep_states: KeepStates::Everywhere, recheck: true, inputs: 8, budget: None }
    }

    /// Verifies `case`, and runs it if it is accepted.
    pub fn check(&self, case: &Case) -> Soundness {
        let mut found = Soundness { programs: 1, ..Soundness::default() };
        let Ok(mut machine) = Machine::new(case) else { return found };
        let Oracle { profile, keep_states, budget, .. } = *self;
        let options = Options { profile, keep_states, budget, ..Options::default() };
        let Ok(verified) = machine.judge_by(case, &options) else { return found };
        found.accepted = 1;
        if let Some(Err(rejection)) = self.recheck.then(|| verified.recheck()).flatten() {
            found.escape = Some(format!("accepted and not proved again: {rejection}"));
            return found;
        }
        if let Err(error) = machine.bind(verified.clone(), Way::Checked) {
            found.escape = Some(format!("accepted and not bound: {error}"));
            return found;
        }
        let mut rng = Rng::new(case.insns.len() as u64);
        for input in inputs(case, &mut rng, self.inputs) {
            let (outcome, looks) = machine.run_contained(&input, &verified);
            found.contained += looks;
            match outcome {
                Outcome::Done { .. } | Outcome::Refused(_) | Outcome::Endless => found.runs += 1,
                Outcome::Unsupported(_) => found.unsupported += 1,
                Outcome::Fault(words) => {
                    found.escape = Some(words);
                    return found;
                }
            }
        }
        found
    }
}
