//! `rtbpf bench`: measurements on this machine.

mod latency;

use crate::error::Error;

/// Measures this machine.
#[derive(Debug, clap::Subcommand)]
pub enum Bench {
    Latency(latency::Args),
}

pub fn main(bench: &Bench) -> Result<(), Error> {
    match bench {
        Bench::Latency(args) => latency::main(args),
    }
}
