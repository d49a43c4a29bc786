//! Steps that load and run programs.

use rtbpf::abi::Errno;
use rtbpf_rt::{Level, Model, RunCx};
use serde_json::{Map as Fields, Value};

use super::steps::number;
use super::{Done, World};

type Step = Fields<String, Value>;

/// The programs of a case, and who calls.
pub(crate) struct Programs {
    model: Model,
    stats: bool,
}

impl Programs {
    pub(crate) fn new(_cpus: u32, rt: bool) -> Programs {
        Programs { model: if rt { Model::Rt } else { Model::NonRt }, stats: false }
    }

    /// The caller of `bpf(2)`: one thread on CPU 0.
    pub(crate) fn control(&self) -> RunCx {
        RunCx { slot: 0, level: Level::Task, model: self.model, in_program: false }
    }
}

pub(super) fn load(_: &Step, world: &mut World) -> Result<Done, Errno> {
    if !world.privileged {
        return Err(Errno::EPERM);
    }
    Ok(Done::Unsupported)
}

pub(super) fn test_run(_: &Step, _: &mut World) -> Result<Done, Errno> {
    Ok(Done::Unsupported)
}

pub(super) fn info(_: &Step, _: &mut World) -> Result<Done, Errno> {
    Ok(Done::Unsupported)
}

/// `BPF_ENABLE_STATS`: one type is known.
pub(super) fn enable_stats(step: &Step, world: &mut World) -> Result<Done, Errno> {
    if number(step, "type") != 0 {
        return Err(Errno::EINVAL);
    }
    world.programs.stats = true;
    Ok(Done::nothing())
}
