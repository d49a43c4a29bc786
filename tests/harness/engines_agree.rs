//! The differential oracle: every engine gives the same result, packet, context and maps, and runs that are stopped on the
//! way stop in the same state, at the same instruction, with as many left.

use rtbpf::verifier::VerifiedProgram;

use crate::generate::Case;
use crate::generate::case::hex;
use crate::inputs::{Input, inputs};
use crate::machine::{Contents, Machine, Outcome, Stop, Way};
use crate::rng::Rng;

/// Helpers that answer with the name of something the run itself made (a task, a socket, a namespace): it differs from
/// run to run.
pub const NAMES: &[i32] = &[35, 46, 122, 158];

/// Instructions of a run that would otherwise go on to its end.
const PATIENCE: u64 = 1 << 16;
/// Instructions of the longest run that is stopped on purpose.
const LONGEST: u64 = 300;
/// Inputs on which runs are stopped.
const STOPPED: usize = 2;

/// What one engine showed on all inputs: the outcomes, then what the maps hold.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Shown {
    outcomes: Vec<Outcome>,
    /// Where runs ended, where instructions are counted.
    stops: Vec<Stop>,
    maps: Vec<Contents>,
}

/// What comparing engines on a case came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Agreement {
    /// The verifier refuses the case, no input fits its kind, or its result depends on addresses.
    NotRun,
    /// So many engines ran it and agree.
    Engines(usize),
    /// Two engines differ: which, and in what.
    Differs(String),
}

/// Runs `case` on `count` inputs in every engine that has it, to the end and stopped on the way.
pub fn agree(case: &Case, count: usize) -> Agreement {
    let mut rng = Rng::new(case.insns.len() as u64);
    let inputs = inputs(case, &mut rng, count);
    if inputs.is_empty() || NAMES.iter().any(|&id| case.calls(id)) {
        return Agreement::NotRun;
    }
    let Ok(Ok(verified)) = Machine::new(case).map(|machine| machine.judge(case)) else { return Agreement::NotRun };
    let whole = compare(case, &verified, &inputs, None);
    let worst = verified.proved().worst_case_insns.unwrap_or(u64::MAX);
    if worst == 1 || !matches!(whole, Agreement::Engines(_)) {
        return whole;
    }
    // Below the worst case, native code counts.
    let limit = 1 + rng.below(worst.min(LONGEST) - 1);
    match compare(case, &verified, inputs.get(..STOPPED).unwrap_or(&inputs), Some(limit)) {
        Agreement::NotRun | Agreement::Engines(_) => whole,
        Agreement::Differs(what) => Agreement::Differs(format!("at most {limit} instructions: {what}")),
    }
}

fn compare(case: &Case, verified: &VerifiedProgram, inputs: &[Input], limit: Option<u64>) -> Agreement {
    let mut first: Option<Shown> = None;
    let mut engines = 0;
    for way in Way::ALL {
        let Ok(mut machine) = Machine::limited(case, limit.unwrap_or(PATIENCE)) else { return Agreement::NotRun };
        if let Err(error) = machine.bind(verified.clone(), way) {
            match way {
                Way::Threaded | Way::FastNative | Way::Native | Way::NativeWithoutFacts => continue,
                Way::Checked | Way::Unverified => {
                    return Agreement::Differs(format!("{way:?} cannot be bound: {error}"));
                }
            }
        }
        let shown = show(&machine, inputs, limit.is_some());
        if shown.outcomes.iter().any(|outcome| matches!(outcome, Outcome::Unsupported(_))) {
            return Agreement::NotRun;
        }
        engines += 1;
        match &first {
            None => first = Some(shown),
            Some(first) if *first == shown => {}
            Some(_) if shows_addresses(case, verified, inputs) => return Agreement::NotRun,
            Some(first) => return Agreement::Differs(format!("{way:?}: {}", difference(first, &shown))),
        }
    }
    Agreement::Engines(engines)
}

fn run(machine: &Machine, input: &Input) -> Outcome {
    match input {
        Input::Packet(packet) => machine.run(packet),
        Input::Ctx(bytes) => machine.run_on_ctx(bytes),
    }
}

fn show(machine: &Machine, inputs: &[Input], counts: bool) -> Shown {
    let (mut outcomes, mut stops) = (Vec::new(), Vec::new());
    for input in inputs {
        outcomes.push(run(machine, input));
        stops.extend(counts.then(|| machine.stop()));
    }
    Shown { outcomes, stops, maps: machine.contents() }
}

/// Whether one engine shows different things when everything is at other addresses: on two machines that are alive at once.
fn shows_addresses(case: &Case, verified: &VerifiedProgram, inputs: &[Input]) -> bool {
    let machine = || {
        let mut machine = Machine::limited(case, PATIENCE).ok()?;
        machine.bind(verified.clone(), Way::Threaded).ok()?;
        Some(machine)
    };
    let (Some(one), Some(other)) = (machine(), machine()) else { return false };
    inputs.iter().any(|input| run(&one, input) != run(&other, input)) || one.contents() != other.contents()
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
    if expected.stops != found.stops {
        return format!("runs end at {:?}, not at {:?}", expected.stops, found.stops);
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

#[cfg(test)]
mod tests {
    use rtbpf_abi::{ProgKind, ProgType};
    use rtbpf_isa::asm;

    use super::*;

    /// A helper that fails leaves its memory alone: what stood there before the run must not show.
    #[test]
    fn what_a_failing_helper_did_not_write_is_the_same_everywhere() {
        let text = "r2 = 0x80000000 ll\n r3 = r10\n r3 += -128\n r4 = 46\n call 189\n lock *(u32 *)(r10 - 112) += r0\n \
                    r0 = *(u32 *)(r10 - 112)\n exit";
        let case = Case {
            name: "failing-helper".into(),
            kind: ProgKind::of(ProgType::Xdp, None, false).expect("there are XDP programs"),
            prog_flags: 0,
            insns: asm::assemble(text).expect("it assembles").slots,
            maps: Vec::new(),
            typed: true,
            packets: Vec::new(),
        };
        assert_eq!(agree(&case, 4), Agreement::Engines(Way::ALL.len()));
    }
}
