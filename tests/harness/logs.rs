//! Whether rtbpf's verifier logs what Linux's does: the same walk, and after each instruction the same knowledge.

use std::collections::BTreeMap;

use rtbpf::verifier::{Options, Profile};

use crate::generate::Case;
use crate::kernel;
use crate::machine::Machine;

/// An instruction that was walked, and what the log says it touched.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Walked {
    text: String,
    /// By register or slot.
    known: BTreeMap<String, String>,
}

/// The first place where two logs of one program differ.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Differs {
    /// The instruction, with its slot.
    pub insn: String,
    /// What Linux says.
    pub theirs: String,
    /// What rtbpf says.
    pub ours: String,
}

/// In what two logs agree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Agree {
    /// Both accept, after as many instructions that are shown alike.
    Walk(usize),
    /// Both refuse, in the same words.
    Words,
}

/// Compares the logs of a case. `None` where one of them refuses what the other accepts, or for another errno.
pub fn compare(case: &Case) -> Option<Result<Agree, Differs>> {
    let machine = Machine::new(case).ok()?;
    let options = Options { profile: Profile::Compat, log_level: 2, ..Options::default() };
    match (kernel::walk(case).ok()?, machine.judge_by(case, &options)) {
        (Some(theirs), Ok(ours)) => Some(first_difference(&walked(&theirs), &walked(ours.log()))),
        (None, Err(ours)) => {
            let verdict = kernel::load(case, true).ok()?.verdict();
            let statistics = |line: &&str| !line.starts_with("processed ");
            let log: Vec<&str> = ours.log.lines().filter(statistics).collect();
            // Some of Linux's words lack the end of their line.
            let (theirs, ours_words) =
                (kernel::last_words(verdict.words.split("processed ").next().unwrap_or_default()), log.join("\n"));
            let ours_words = kernel::last_words(&ours_words);
            (verdict.errno == ours.errno.number()).then(|| match theirs == ours_words {
                true => Ok(Agree::Words),
                false => Err(Differs { insn: "words".into(), theirs: theirs.into(), ours: ours_words.into() }),
            })
        }
        (Some(_), Err(_)) | (None, Ok(_)) => None,
    }
}

fn first_difference(theirs: &[Walked], ours: &[Walked]) -> Result<Agree, Differs> {
    for at in 0..theirs.len().max(ours.len()) {
        let (a, b) = (theirs.get(at), ours.get(at));
        let text = |side: Option<&Walked>| side.map_or("the end".into(), |walked| walked.text.clone());
        let (theirs, ours) = (text(a), text(b));
        let (Some(a), Some(b)) = (a, b) else { return Err(Differs { insn: "walk".into(), theirs, ours }) };
        if theirs != ours {
            return Err(Differs { insn: "walk".into(), theirs, ours });
        }
        let places = a.known.keys().chain(b.known.keys());
        let differing = places.map(|place| (a.known.get(place), b.known.get(place), place)).find(|(a, b, _)| a != b);
        if let Some((a, b, place)) = differing {
            let shown = |known: Option<&String>| format!("{place}={}", known.map_or("", String::as_str));
            return Err(Differs { insn: theirs, theirs: shown(a), ours: shown(b) });
        }
    }
    Ok(Agree::Walk(theirs.len()))
}

/// The instructions of a log. How precision was found, where states lie and what is live is left out.
fn walked(log: &str) -> Vec<Walked> {
    let mut found: Vec<Walked> = Vec::new();
    let mut begins = true;
    for line in log.lines() {
        let at = line.split_once(": ").filter(|(slot, _)| slot.parse::<u32>().is_ok());
        let Some((slot, rest)) = at else {
            begins |= line.starts_with("from ") || line.starts_with("callee:");
            continue;
        };
        if rest.starts_with('(') {
            let (text, state) = rest.split_once("; ").unwrap_or((rest, ""));
            // Addresses are Linux's own.
            let text = if text.starts_with("(18)") { text.split('=').next().unwrap_or_default() } else { text };
            found.push(Walked { text: format!("{slot}: {}", text.trim_end_matches([' ', ';'])), known: known(state) });
        } else if let Some(last) = found.last_mut().filter(|last| !begins && last.known.is_empty()) {
            // What an instruction touched stands on a line of its own where something was said in between.
            last.known = known(rest);
        }
        begins = false;
    }
    found
}

/// Registers and slots; ids without their numbers, precision left out.
fn known(state: &str) -> BTreeMap<String, String> {
    let (mut found, mut depth, mut start) = (BTreeMap::new(), 0, 0);
    let mut add = |word: &str| {
        if let Some((place, value)) = word.split_once('=') {
            found.insert(place.to_owned(), plain(place, value));
        }
    };
    for (at, c) in state.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ' ' if depth == 0 => {
                add(&state[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    add(&state[start..]);
    found
}

/// What both logs can say of `place`.
fn plain(place: &str, value: &str) -> String {
    let value = value.strip_prefix('P').unwrap_or(value);
    // Linux keeps the whole register behind a spill of its low bytes; dynptrs have ids of their own in each.
    let is_bytes = value.len() == 8 && value.chars().all(|c| "?m0".contains(c));
    if place.starts_with("fp") && value.starts_with(['?', 'm', '0']) && !is_bytes && value != "0" {
        return "narrow".into();
    }
    if place == "refs" {
        return value.split(',').count().to_string();
    }
    if value.starts_with("dynptr_") || value.starts_with("iter_") {
        return value.split('(').next().unwrap_or_default().to_owned();
    }
    let (mut plain, mut rest) = (String::new(), value);
    while let Some(at) = rest.find("id=") {
        let (before, id) = rest.split_at(at + 3);
        plain += before;
        rest = id.trim_start_matches(|c: char| c.is_ascii_digit());
    }
    plain + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_read_with_what_they_touched() {
        let log = "func#0 @0\n0: R1=ctx() R10=fp0\n0: (b7) r0 = 0      ; R0=P0\n1: (0f) r7 += r6\n\
                   mark_precise: frame0: last_idx 1\n2: R6=scalar(id=3+1,var_off=(0x0; 0x7)) R7=fp-8\n\
                   2: (95) exit\nprocessed 3 insns";
        let found = walked(log);
        assert_eq!(found.len(), 3);
        assert_eq!(found[0].known["R0"], "0");
        assert_eq!(found[1].text, "1: (0f) r7 += r6");
        assert_eq!(found[1].known["R6"], "scalar(id=+1,var_off=(0x0; 0x7))");
        assert!(found[2].known.is_empty());
    }
}
