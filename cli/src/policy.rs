//! `rtbpf policy`: which program type may use which map, allocated how.

use std::io::Write;

use rtbpf::abi::policy::{self, ProgFacts, Verdict};
use rtbpf::abi::{MapKind, MapSpec, Policy, ProgType, map_spec};

use crate::error::Error;

/// Shows the real-time policies.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Names the presets.
    List,
    /// Prints a preset's table of program type, map kind and allocation.
    Show {
        /// Its name.
        name: String,
    },
}

/// The preset with this name, or an error that names those there are.
pub fn named(name: &str) -> Result<Policy, Error> {
    Policy::named(name).ok_or_else(|| {
        let known: Vec<&str> = Policy::ALL.iter().map(|policy| policy.name).collect();
        Error::Option {
            option: format!("policy `{name}`"),
            what: format!("no such preset; there are {}", known.join(", ")),
        }
    })
}

pub fn main(args: &Args) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    match &args.what {
        What::List => {
            for policy in Policy::ALL {
                writeln!(out, "{}", policy.name)?;
            }
        }
        What::Show { name } => show(named(name)?, &mut out)?,
    }
    Ok(out.flush()?)
}

const TYPES: &[(ProgType, bool, &str)] = &[
    (ProgType::Kprobe, false, "kprobe"),
    (ProgType::Tracepoint, false, "tracepoint"),
    (ProgType::PerfEvent, false, "perf_event"),
    (ProgType::RawTracepoint, false, "raw_tp"),
    (ProgType::Xdp, false, "xdp"),
    (ProgType::SchedCls, false, "sched_cls"),
    (ProgType::SocketFilter, false, "socket"),
    (ProgType::Syscall, true, "syscall"),
];

fn show(policy: Policy, out: &mut impl Write) -> Result<(), Error> {
    write!(out, "{:<26}", policy.name)?;
    for (.., name) in TYPES {
        write!(out, " {name:>10}")?;
    }
    writeln!(out)?;
    for &kind in MapKind::ALL {
        for (flags, how) in [(0, "preallocated"), (map_spec::flags::NO_PREALLOC, "dynamic")] {
            let spec = MapSpec { flags, ..MapSpec::new(kind, 4, 8, 1) };
            if how == "dynamic" && !has_both(kind) {
                continue;
            }
            let how = if has_both(kind) { how } else { "" };
            write!(out, "{:<26}", format!("{} {how}", kind.name()).trim_end())?;
            for &(prog_type, sleepable, _) in TYPES {
                let facts = ProgFacts { prog: prog_type, attach: None, sleepable };
                let verdict = match policy::check(&policy, &facts, &spec) {
                    Verdict::Ok => "ok".to_string(),
                    Verdict::Warn(_) => "warn".to_string(),
                    Verdict::Err(errno, _) => errno.name().to_string(),
                };
                write!(out, " {verdict:>10}")?;
            }
            writeln!(out)?;
        }
    }
    Ok(())
}

/// Kinds that can be made either way.
fn has_both(kind: MapKind) -> bool {
    matches!(kind, MapKind::Hash | MapKind::PercpuHash | MapKind::HashOfMaps)
}
