//! The differential oracle: every engine gives the same result, packet, context and maps.

use crate::generate::Case;
use crate::generate::case::hex;
use crate::inputs::{Input, inputs};
use crate::machine::{Contents, Machine, Outcome, Way};
use crate::rng::Rng;

/// Helpers that answer with the name of something the run itself made (a task, a socket, a namespace): it differs from
/// run to run.
pub const NAMES: &[i32] = &[35, 46, 122, 158];

/// What one engine showed on all inputs: the outcomes, then what the maps hold.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Shown {
    outcomes: Vec<Outcome>,
    maps: Vec<Contents>,
}

/// What comparing engines on a case came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Agreement {
    /// The verifier refuses the case, or no input fits its kind.
    NotRun,
    /// So many engines ran it and agree.
    Engines(usize),
    /// Two engines differ: which, and in what.
    Differs(String),
}

/// Runs `case` on `count` inputs in every engine that has it.
pub fn agree(case: &Case, count: usize) -> Agreement {
    let inputs = inputs(case, &mut Rng::new(case.insns.len() as u64), count);
    if inputs.is_empty() || NAMES.iter().any(|&id| case.calls(id)) {
        return Agreement::NotRun;
    }
    let mut first: Option<Shown> = None;
    let mut engines = 0;
    for way in Way::ALL {
        let Ok(mut machine) = Machine::new(case) else { return Agreement::NotRun };
        let Ok(verified) = machine.judge(case) else { return Agreement::NotRun };
        if let Err(error) = machine.bind(verified, way) {
            match way {
                Way::Threaded | Way::Native | Way::NativeWithoutFacts => continue,
                Way::Checked | Way::Unverified => {
                    return Agreement::Differs(format!("{way:?} cannot be bound: {error}"));
                }
            }
        }
        let outcomes = inputs.iter().map(|input| match input {
            Input::Packet(packet) => machine.run(packet),
            Input::Ctx(bytes) => machine.run_on_ctx(bytes),
        });
        let shown = Shown { outcomes: outcomes.collect(), maps: machine.contents() };
        if shown.outcomes.iter().any(|outcome| matches!(outcome, Outcome::Unsupported(_))) {
            return Agreement::NotRun;
        }
        engines += 1;
        match &first {
            None => first = Some(shown),
            Some(first) if *first == shown => {}
            Some(first) => return Agreement::Differs(format!("{way:?}: {}", difference(first, &shown))),
        }
    }
    Agreement::Engines(engines)
}

fn difference(expected: &Shown, found: &Shown) -> String {
    for (at, (a, b)) in expected.outcomes.iter().zip(&found.outcomes).enumerate() {
        match (a, b) {
            _ if a == b => {}
            (
                Outcome::Done { r0, data_out, ctx_out },
                Outcome::Done { r0: other, data_out: data_other, ctx_out: ctx_other },
            ) => {
                let what = if r0 != other {
                    format!("r0 {r0:#x}, not {other:#x}")
                } else if data_out != data_other {
                    "packet".into()
                } else {
                    let at = ctx_out.iter().zip(ctx_other).position(|(a, b)| a != b);
                    format!("context at byte {at:?}")
                };
                return format!("input {at}: {what}");
            }
            (a, b) => return format!("input {at}: {a:?}, not {b:?}"),
        }
    }
    for (at, (a, b)) in expected.maps.iter().zip(&found.maps).enumerate() {
        if let Some((one, other)) = a.iter().zip(b).find(|(one, other)| one != other) {
            let byte = one.1.iter().zip(&other.1).position(|(a, b)| a != b);
            return format!("map {at} key {} at byte {byte:?}: {}, not {}", hex(&one.0), hex(&one.1), hex(&other.1));
        }
        if a.len() != b.len() {
            return format!("map {at}: {} elements, not {}", a.len(), b.len());
        }
    }
    "something that has no name".into()
}
