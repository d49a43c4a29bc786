//! What went wrong, by likely cause.

use std::collections::BTreeMap;

use rtbpf_tests::generate::Case;
use rtbpf_tests::shrink::shrink;

/// By what is the same of all: how often, and the shortest case.
#[derive(Default)]
pub struct Clusters(BTreeMap<String, (u64, Case)>);

impl Clusters {
    pub fn add(&mut self, key: String, case: Case) {
        let (count, smallest) = self.0.entry(key).or_insert_with(|| (0, case.clone()));
        *count += 1;
        if case.insns.len() < smallest.insns.len() {
            *smallest = case;
        }
    }

    /// How many cases there are, and of how many kinds.
    pub fn counts(&self) -> (u64, usize) {
        (self.0.values().map(|(count, _)| count).sum(), self.0.len())
    }

    /// Prints the most frequent first, each with its case made smaller while `wrong` answers the same key, and what else
    /// it says.
    pub fn print(self, most: usize, wrong: impl Fn(&Case) -> Option<(String, String)>) {
        let mut clusters: Vec<_> = self.0.into_iter().collect();
        clusters.sort_by_key(|(_, (count, _))| std::cmp::Reverse(*count));
        for (key, (count, smallest)) in clusters.into_iter().take(most) {
            let small = shrink(&smallest, |case| wrong(case).is_some_and(|(found, _)| found == key));
            println!("\n## {count} x {key}\n{} {} flags {}", small.name, small.kind, small.prog_flags);
            let (_, words) = wrong(&small).unwrap_or_default();
            println!("{words}\n{}{}", small.listing(), small.line());
        }
    }
}
