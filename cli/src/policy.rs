//! `rtbpf policy`: which program type may use which map, allocated how.

use std::io::Write;

use rtbpf::abi::policy::{self, ProgFacts, Verdict};
use rtbpf::abi::{AttachType, MapKind, MapSpec, Policy, ProgType, map_spec};

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

/// Columns: program type, attach type, whether it sleeps, name.
const TYPES: &[(ProgType, Option<AttachType>, bool, &str)] = &[
    (ProgType::Kprobe, None, false, "kprobe"),
    (ProgType::Tracepoint, None, false, "tracepoint"),
    (ProgType::PerfEvent, None, false, "perf_event"),
    (ProgType::RawTracepoint, None, false, "raw_tp"),
    (ProgType::Tracing, Some(AttachType::TraceFentry), false, "fentry"),
    (ProgType::Tracing, Some(AttachType::TraceFentry), true, "fentry.s"),
    (ProgType::Xdp, None, false, "xdp"),
    (ProgType::SchedCls, None, false, "sched_cls"),
    (ProgType::SocketFilter, None, false, "socket"),
    (ProgType::Syscall, None, true, "syscall"),
];

fn show(policy: Policy, out: &mut impl Write) -> Result<(), Error> {
    write!(out, "{:<30}", policy.name)?;
    for (.., name) in TYPES {
        write!(out, " {name:>10}")?;
    }
    writeln!(out)?;
    for &kind in MapKind::ALL {
        for (how, spec) in forms(kind) {
            write!(out, "{:<30}", format!("{} {how}", kind.name()).trim_end())?;
            for &(prog, attach, sleepable, _) in TYPES {
                let verdict = match policy::check(&policy, &ProgFacts { prog, attach, sleepable }, &spec) {
                    Verdict::Ok => "ok",
                    Verdict::Warn(_) => "warn",
                    Verdict::Err(errno, _) => errno.name(),
                };
                write!(out, " {verdict:>10}")?;
            }
            writeln!(out)?;
        }
    }
    Ok(())
}

/// The forms in which a kind of map is judged, by name: how its elements are allocated, or those of the maps in it.
fn forms(kind: MapKind) -> Vec<(&'static str, MapSpec)> {
    let plain = MapSpec::new(kind, 4, 8, 1);
    let dynamic = |spec: &MapSpec| MapSpec { flags: map_spec::flags::NO_PREALLOC, ..spec.clone() };
    let mut forms = if has_both(kind) {
        vec![("dynamic", dynamic(&plain)), ("preallocated", plain.clone())]
    } else {
        vec![("", plain.clone())]
    };
    if matches!(kind, MapKind::ArrayOfMaps | MapKind::HashOfMaps) {
        let inner = Some(Box::new(dynamic(&MapSpec::new(MapKind::Hash, 4, 8, 1))));
        forms.push(("of dynamic maps", MapSpec { inner, ..plain }));
    }
    forms
}

/// Kinds that can be made either way.
fn has_both(kind: MapKind) -> bool {
    matches!(kind, MapKind::Hash | MapKind::PercpuHash | MapKind::HashOfMaps)
}
