//! The soundness oracle: an accepted program runs without a fault.

use crate::generate::Case;
use crate::inputs::{Input, inputs};
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
        self.unsupported += other.unsupported;
        self.escape = self.escape.take().or(other.escape.clone());
    }
}

/// Verifies `case` and runs it on `count` inputs, if it is accepted.
pub fn check(case: &Case, count: usize) -> Soundness {
    let mut found = Soundness { programs: 1, ..Soundness::default() };
    let Ok(mut machine) = Machine::new(case) else { return found };
    let Ok(verified) = machine.judge(case) else { return found };
    found.accepted = 1;
    if let Err(error) = machine.bind(verified, Way::Checked) {
        found.escape = Some(format!("accepted and not bound: {error}"));
        return found;
    }
    let mut rng = Rng::new(case.insns.len() as u64);
    for input in inputs(case, &mut rng, count) {
        let outcome = match &input {
            Input::Packet(packet) => machine.run(packet),
            Input::Ctx(bytes) => machine.run_on_ctx(bytes),
        };
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
