//! What the suites share: cases, engines, oracles, generators.

pub mod case;
pub mod classic;
pub mod fuzz;
pub mod oracle;
pub mod rng;
