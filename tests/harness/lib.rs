//! What the suites share: cases, engines, oracles, generators.
#![deny(unsafe_code)]

pub mod case;
pub mod classic;
pub mod contain;
pub mod differ;
pub mod engine;
pub mod engines_agree;
pub mod fuzz;
pub mod generate;
pub mod inputs;
pub mod kernel;
pub mod logs;
pub mod machine;
pub mod objects;
pub mod oracle;
pub mod rng;
pub mod shrink;
pub mod sound;
pub mod variants;
