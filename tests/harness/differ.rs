//! Where rtbpf and the running kernel disagree on a case, and how a disagreement is told from another.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::generate::Case;
use crate::kernel;
use crate::machine::{Machine, Outcome, Way};
use rtbpf::verifier::VerifiedProgram;

/// One disagreement. Its order is how serious it is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Difference {
    /// rtbpf panicked.
    Panic(String),
    /// A program that rtbpf accepted did what its proof excludes.
    Fault(String),
    /// Linux refuses what rtbpf accepts.
    FalseAccept {
        /// Linux's errno.
        errno: i32,
        /// Linux's last words.
        words: String,
    },
    /// Both accept, and the runs differ.
    Run(String),
    /// rtbpf refuses what Linux accepts.
    FalseReject(String),
    /// Both refuse, with different numbers.
    Errno {
        /// Linux's errno.
        theirs: i32,
        /// rtbpf's.
        ours: i32,
        /// Linux's last words, and rtbpf's.
        words: String,
    },
}

impl Difference {
    /// What kind it is and what was said, with numbers folded: equal for disagreements that likely share a cause.
    pub fn key(&self) -> String {
        match self {
            Difference::Panic(words) => format!("panic: {}", folded(words)),
            Difference::Fault(words) => format!("fault: {}", folded(words)),
            Difference::FalseAccept { errno, words } => format!("false accept: {errno} {}", folded(words)),
            Difference::Run(words) => format!("run: {}", folded(words)),
            Difference::FalseReject(words) => format!("false reject: {}", folded(words)),
            Difference::Errno { theirs, ours, words } => format!("errno: {theirs} here {ours}: {}", folded(words)),
        }
    }
}

/// What comparing came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Comparison {
    /// Both accept, and every run agrees; how many ran.
    Accepted(usize),
    /// Both refuse, with this errno.
    Rejected(i32),
    /// They differ.
    Differs(Difference),
    /// One side has no answer: a map it cannot make, a helper it lacks, a descriptor or kernel function
    /// that does not exist, a complaint about itself.
    NoAnswer(String),
}

/// Compares verdict, errno, results, packets and arrays.
pub fn compare(case: &Case) -> Comparison {
    let linux = match kernel::load(case, false) {
        Ok(loaded) => loaded,
        Err(error) => return Comparison::NoAnswer(error),
    };
    let theirs = linux.verdict().errno;
    let mut machine = match Machine::new(case) {
        Ok(machine) => machine,
        Err(error) => return Comparison::NoAnswer(format!("here: {error}")),
    };
    let ours = match catch_unwind(AssertUnwindSafe(|| machine.judge(case))) {
        Ok(ours) => ours,
        Err(panic) => return Comparison::Differs(Difference::Panic(panic_words(&*panic))),
    };
    match (theirs, ours) {
        // What the stack held before is nobody's to tell.
        (0, Ok(verified)) if verified.proved().reads_uninit_stack => Comparison::Accepted(0),
        (0, Ok(verified)) => match catch_unwind(AssertUnwindSafe(|| runs(case, &linux, &mut machine, verified))) {
            // A program that gives addresses away gives others the next time.
            Ok(Comparison::Differs(Difference::Run(_))) if !repeats(case) => {
                Comparison::NoAnswer("Linux's runs differ from each other".into())
            }
            Ok(comparison) => comparison,
            Err(panic) => Comparison::Differs(Difference::Panic(panic_words(&*panic))),
        },
        (0, Err(rejection)) => Comparison::Differs(Difference::FalseReject(rejection.message)),
        (errno, ours) => {
            let words = reason(case);
            let of_kernel =
                ["verifier bug", "fd_idx without fd_array", "is not pointing to valid bpf_map", "kernel function"];
            if errno == libc::ENOMEM || of_kernel.iter().any(|part| words.contains(part)) {
                return Comparison::NoAnswer(words);
            }
            match ours {
                Ok(_) => Comparison::Differs(Difference::FalseAccept { errno, words }),
                Err(rejection) if rejection.errno.number() == errno => Comparison::Rejected(errno),
                Err(rejection) => {
                    let words = format!("{words} / {}", rejection.message);
                    Comparison::Differs(Difference::Errno { theirs: errno, ours: rejection.errno.number(), words })
                }
            }
        }
    }
}

/// Linux's last words on a case that it refuses.
pub fn reason(case: &Case) -> String {
    let Ok(loaded) = kernel::load(case, true) else { return String::new() };
    kernel::last_words(&loaded.verdict().words).to_owned()
}

/// Whether Linux's runs of a fresh copy of `case` are like those of another.
fn repeats(case: &Case) -> bool {
    let all = || {
        let loaded = kernel::load(case, false).ok()?;
        let runs: Vec<kernel::Run> = case.packets.iter().map(|packet| loaded.run(packet)).collect();
        let arrays: Vec<_> = (0..case.maps.len()).map(|map| loaded.array(case, map)).collect();
        Some((loaded, runs, arrays))
    };
    // Both are alive at once, so that nothing is at the same address.
    match (all(), all()) {
        (Some((_one, runs, arrays)), Some((_two, again, arrays_again))) => (runs, arrays) == (again, arrays_again),
        _ => false,
    }
}

fn runs(case: &Case, linux: &kernel::Loaded, machine: &mut Machine, verified: VerifiedProgram) -> Comparison {
    if let Err(error) = machine.bind(verified, Way::Checked) {
        return Comparison::Differs(Difference::Run(format!("not bound: {error}")));
    }
    for packet in &case.packets {
        let theirs = linux.run(packet);
        let differs = |what: &str, theirs: String, ours: String| {
            Comparison::Differs(Difference::Run(format!("{what}: Linux {theirs}, here {ours}")))
        };
        match machine.run(packet) {
            Outcome::Fault(words) => return Comparison::Differs(Difference::Fault(words)),
            Outcome::Endless => return Comparison::NoAnswer("endless".into()),
            Outcome::Unsupported(words) => return Comparison::NoAnswer(words),
            Outcome::Refused(errno) if errno == theirs.errno => {}
            Outcome::Refused(errno) => return differs("errno", theirs.errno.to_string(), errno.to_string()),
            Outcome::Done { .. } if theirs.errno != 0 => return differs("errno", theirs.errno.to_string(), "0".into()),
            Outcome::Done { r0, .. } if r0 as u32 != theirs.retval => {
                return differs("retval", format!("{:#x}", theirs.retval), format!("{:#x}", r0 as u32));
            }
            Outcome::Done { data_out, .. } => {
                if data_out.len() != theirs.data_out.len() {
                    return differs("data_out length", theirs.data_out.len().to_string(), data_out.len().to_string());
                }
                if let Some(at) = (0..data_out.len()).find(|&at| data_out[at] != theirs.data_out[at]) {
                    let show = |bytes: &[u8]| format!("{:#04x} at byte {at}", bytes[at]);
                    return differs("data_out", show(&theirs.data_out), show(&data_out));
                }
            }
        }
    }
    if !case.packets.is_empty() {
        for index in 0..case.maps.len() {
            let (theirs, ours) = (linux.array(case, index), machine.array(index));
            if theirs != ours {
                let (theirs, ours) = (theirs.unwrap_or_default(), ours.unwrap_or_default());
                let at = theirs.chunks(8).zip(ours.chunks(8)).position(|(a, b)| a != b).unwrap_or_default();
                let word = |bytes: &[u8]| bytes.chunks(8).nth(at).map(crate::generate::case::hex).unwrap_or_default();
                let words = format!("array {index} word {at}: Linux {}, here {}", word(&theirs), word(&ours));
                return Comparison::Differs(Difference::Run(words));
            }
        }
    }
    Comparison::Accepted(case.packets.len())
}

fn panic_words(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    text.unwrap_or("panic without words").to_owned()
}

/// Numbers replaced, so that alike words count together.
pub fn folded(text: &str) -> String {
    let mut out = String::new();
    let mut words = text.split_inclusive(|c: char| !c.is_ascii_alphanumeric());
    words.by_ref().take(40).for_each(|word| {
        let bare = word.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
        let number = bare.starts_with(|c: char| c.is_ascii_digit())
            || bare.len() >= 8 && bare.chars().all(|c| c.is_ascii_hexdigit())
            || bare.len() >= 2 && matches!(&bare[..1], "R" | "r") && bare[1..].chars().all(|c| c.is_ascii_digit());
        out += if number { "#" } else { bare };
        out += &word[bare.len()..];
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_folded_to_their_kind() {
        assert_eq!(folded("R2 invalid mem access 'scalar' off=12"), "# invalid mem access 'scalar' off=#");
        assert_eq!(folded("word 3: Linux 00deadbeef001122, here 0"), "word #: Linux #, here #");
    }

    #[test]
    fn memory_comes_before_words() {
        let accept = Difference::FalseAccept { errno: 13, words: String::new() };
        let errno = Difference::Errno { theirs: 13, ours: 22, words: String::new() };
        assert!(Difference::Fault(String::new()) < accept && accept < errno);
    }
}
