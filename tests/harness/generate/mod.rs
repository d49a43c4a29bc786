//! Program generators: plain functions from a stream of chance to a [`Case`].
//!
//! | generator | programs | for |
//! |---|---|---|
//! | [`raw`] | any encoding of any row of the instruction table, fields at their edges | decoder, shape checks |
//! | [`grammar`] | structurally valid: jumps in range, terminated, registers mostly initialised | control flow, arithmetic |
//! | [`helpers`] | calls of helpers with arguments at their edges, results kept | helper functions |
//! | [`shaped`] | built under a light abstract state, so that most are accepted and reach the deep checks | proofs, engines |
//! | [`siblings`] | small, around one rule each: values of every kind where a rule wants one kind | agreement with Linux |
//!
//! [`mutate`] turns any of them into a near miss. The folder is named `generate` because `gen` is a keyword.

pub mod case;
pub mod code;
pub mod grammar;
pub mod helpers;
pub mod mutate;
pub mod raw;
pub mod shaped;
pub mod siblings;

use crate::rng::Rng;
pub use case::{Case, CaseMap, Features};

/// Which generator.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Generator {
    /// [`raw`].
    Raw,
    /// [`grammar`].
    Grammar,
    /// [`helpers`].
    Helpers,
    /// [`shaped`].
    Shaped,
    /// [`siblings`].
    Siblings,
    /// [`shaped`], with one field of one instruction a little off in half of the programs.
    NearMiss,
}

impl Generator {
    /// Every generator.
    pub const ALL: [Generator; 6] = [
        Generator::Raw,
        Generator::Grammar,
        Generator::Helpers,
        Generator::Shaped,
        Generator::Siblings,
        Generator::NearMiss,
    ];

    /// Its name on the command line and in case names.
    pub fn name(self) -> &'static str {
        match self {
            Generator::Raw => "raw",
            Generator::Grammar => "grammar",
            Generator::Helpers => "helpers",
            Generator::Shaped => "shaped",
            Generator::Siblings => "siblings",
            Generator::NearMiss => "near",
        }
    }

    /// The generator with this name.
    pub fn from_name(name: &str) -> Option<Generator> {
        Generator::ALL.into_iter().find(|generator| generator.name() == name)
    }

    /// The case with this seed: always the same one.
    pub fn case(self, seed: u64) -> Case {
        let name = format!("{}-{seed}", self.name());
        let mut rng = Rng::new(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ 0x5eed);
        match self {
            Generator::Raw => raw::case(&mut rng, name),
            Generator::Grammar => grammar::case(&mut rng, name),
            Generator::Helpers => helpers::case(&mut rng, name),
            Generator::Shaped => shaped(&mut rng, &name),
            Generator::Siblings => siblings::case(&mut rng, name),
            Generator::NearMiss => {
                let mut case = shaped(&mut rng, &name);
                if rng.chance(1, 2) {
                    mutate::one_field(&mut rng, &mut case.insns);
                }
                case
            }
        }
    }
}

/// A shaped case; one that does not fit its jump offsets is thrown away for the next.
fn shaped(rng: &mut Rng, name: &str) -> Case {
    loop {
        if let Some(case) = shaped::case(rng, name.to_owned()) {
            return case;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rtbpf_isa::decode;
    use rtbpf_isa::raw::row_of;
    use rtbpf_isa::rows::ROWS;

    use super::*;

    #[test]
    fn a_seed_names_one_case() {
        for generator in Generator::ALL {
            assert_eq!(Generator::from_name(generator.name()), Some(generator));
            assert_eq!(generator.case(7), generator.case(7));
            assert_ne!(generator.case(7).insns, generator.case(8).insns);
        }
    }

    #[test]
    fn raw_programs_hold_every_row() {
        let mut seen = BTreeSet::new();
        for seed in 0..2000 {
            seen.extend(Generator::Raw.case(seed).insns.into_iter().filter_map(row_of).map(|row| row.name));
        }
        let missing: Vec<_> = ROWS.iter().map(|row| row.name).filter(|name| !seen.contains(name)).collect();
        assert!(missing.is_empty(), "no case holds {missing:?}");
    }

    #[test]
    fn structured_programs_decode_and_name_their_maps() {
        for seed in 0..500 {
            for generator in [Generator::Grammar, Generator::Helpers, Generator::Shaped, Generator::Siblings] {
                let case = generator.case(seed);
                assert!(decode(&case.insns).is_ok(), "{}\n{}", case.name, case.listing());
                assert!(case.fixups().iter().all(|&(_, map)| map < case.maps.len()));
            }
        }
    }

    #[test]
    fn shaped_programs_reach_the_deep_checks() {
        let cases: Vec<Features> = (0..500).map(|seed| Generator::Shaped.case(seed).features()).collect();
        let share = |test: fn(&Features) -> bool| cases.iter().filter(|f| test(f)).count() * 100 / cases.len();
        assert!(share(|f| f.variable_offset) >= 20);
        assert!(share(|f| f.helpers) >= 20);
        assert!(share(|f| f.loops) >= 20);
        assert!(share(|f| f.spills) >= 20);
        assert!(share(|f| f.subprogs) >= 20);
    }
}
