//! What the suites share: cases, engines, oracles, generators.

pub mod case;
pub mod oracle;
