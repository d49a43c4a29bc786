//! Steps that load and run programs.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use rtbpf::abi::testrun::{self, Input, Runner};
use rtbpf::abi::{AttachType, Errno, Policy, ProgType, prog_rules};
use rtbpf::ctx::DEVICES;
use rtbpf::isa::{RawInsn, decode};
use rtbpf::maps::{Arena, MapRef, Object, control};
use rtbpf::verifier::{Assumptions, Options as Verify, Profile, verify};
use rtbpf::{Config, Ctx, Engine, Executable, Model};
use rtbpf_rt::{Level, RunCx};
use serde_json::{Map as Fields, Value, json};

use super::steps::{bytes, number, text};
use super::world::Named;
use super::{Done, World};

type Step = Fields<String, Value>;

/// A run of a case may take this many instructions.
const MAX_INSNS: u64 = 1 << 30;
/// The packet of a test run that names none.
const PACKET: [u8; 64] = [0; 64];
/// Names of kernel functions by their numbers on the recorded kernel.
const KFUNCS: &[(i32, &str)] = &[(65271, "bpf_preempt_disable"), (65273, "bpf_preempt_enable")];

struct Loaded {
    program: Executable,
    ctx_bytes_used: u32,
    runs: u64,
    took_time: bool,
}

/// The programs of a case, and who calls.
pub(crate) struct Programs {
    engine: Engine,
    profile: Profile,
    policy: Policy,
    loaded: HashMap<String, Loaded>,
    /// Whether `BPF_ENABLE_STATS` is held; it is let go before the last run of a case.
    pub(super) stats: bool,
}

impl Programs {
    pub(crate) fn new(cpus: u32, model: Model, profile: Profile, policy: Policy) -> Programs {
        let config = Config { profile, policy, model, slots: cpus, max_insns: Some(MAX_INSNS), ..Config::linux() };
        Programs { engine: Engine::new(config), profile, policy, loaded: HashMap::new(), stats: false }
    }

    /// The caller of `bpf(2)`: one thread on CPU 0.
    pub(crate) fn control(&self) -> RunCx {
        RunCx { slot: 0, level: Level::Task, model: self.engine.config().model, in_program: false }
    }
}

/// The instructions, and the maps they name: map `i` of the answer is map `i` of the instructions.
fn relocate(step: &Step, world: &World) -> Result<(Vec<RawInsn>, Vec<MapRef>), Errno> {
    let code = bytes(step, "insns")?.unwrap_or_default();
    let mut slots = RawInsn::parse_all(&code).ok_or(Errno::EINVAL)?;
    let mut maps: Vec<MapRef> = Vec::new();
    for (at, name) in step.get("map_relocs").and_then(Value::as_object).into_iter().flatten() {
        let map = world.map(name.as_str().unwrap_or_default())?;
        let index = maps.iter().position(|known| known.id() == map.id()).unwrap_or_else(|| {
            maps.push(map);
            maps.len() - 1
        });
        let slot = at.parse().ok().and_then(|at: usize| slots.get_mut(at)).ok_or(Errno::EINVAL)?;
        slot.imm = index as i32;
    }
    Ok((slots, maps))
}

/// `BPF_PROG_LOAD`.
pub(super) fn load(step: &Step, world: &mut World) -> Result<Done, Errno> {
    let flags = number(step, "prog_flags") as u32;
    prog_rules::check_flags(flags)?;
    if !world.privileged {
        return Err(Errno::EPERM);
    }
    let prog_type = ProgType::from_name(text(step, "prog_type")).ok_or(Errno::EINVAL)?;
    let attach = number(step, "expected_attach_type") as u32;
    prog_rules::check_attach(prog_type, attach)?;
    let (slots, maps) = relocate(step, world)?;
    // Programs hold addresses in an arena, so the host has said where it lies before they load.
    let arena = |map: &MapRef| map.as_any().downcast_ref::<Arena>().is_none_or(Arena::has_address);
    if !maps.iter().all(arena) {
        return Ok(refused(Errno::EINVAL, "arena's user address must be set via map_extra or mmap()"));
    }
    let cx = world.programs.control();
    let given = Assumptions {
        attach_type: if attach == 0 { None } else { AttachType::from_number(attach) },
        sleepable: flags & prog_rules::flags::SLEEPABLE != 0,
        prog_flags: flags,
        maps: maps.iter().map(|map| Arc::new(control::assumed_spec(&**map, &cx))).collect(),
        kfuncs: KFUNCS.iter().map(|(id, name)| (*id, name.to_string())).collect(),
        cpus: world.cpus,
        policy: world.programs.policy,
        ..Assumptions::new(prog_type)
    };
    let options = Verify { profile: world.programs.profile, ..Verify::default() };
    let program = match decode(&slots) {
        Ok(program) => program,
        Err(error) => {
            let rejection = rtbpf::verifier::Rejection::from_decode(&error);
            return Ok(refused(rejection.errno, &rejection.message));
        }
    };
    let verified = match verify(program, given, &options) {
        Ok(verified) => verified,
        Err(rejection) => return Ok(refused(rejection.errno, &rejection.message)),
    };
    let owner = verified.given().attach_type.map_or(0, |attach| u64::from(attach.number()));
    if !maps.iter().all(|map| map.head().bind(prog_type, owner)) {
        return Ok(refused(Errno::EINVAL, ""));
    }
    let ctx_bytes_used = verified.ctx_bytes_used();
    let Ok(program) = world.programs.engine.bind(verified, maps) else { return Ok(Done::Unsupported) };
    let name = text(step, "as");
    world.insert(name, Named::Object(Object::Prog(program.as_prog())));
    world.programs.loaded.insert(name.to_string(), Loaded { program, ctx_bytes_used, runs: 0, took_time: false });
    Ok(Done::nothing())
}

fn refused(errno: Errno, log: &str) -> Done {
    Done::Failed(errno, [("log_tail".to_string(), json!(last_line(log)))].into_iter().collect())
}

fn last_line(log: &str) -> &str {
    log.lines().rev().find(|line| !line.is_empty()).unwrap_or_default()
}

/// `BPF_PROG_TEST_RUN`.
pub(super) fn test_run(step: &Step, world: &mut World) -> Result<Done, Errno> {
    let ctx_in = bytes(step, "ctx_in")?;
    let room = |name: &str| step.get(name).and_then(Value::as_u64).map(|room| room as usize);
    let (data_room, ctx_room) = (room("data_size_out"), room("ctx_size_out"));
    // A pointer without bytes behind it.
    if ctx_in.as_ref().is_some_and(Vec::is_empty) || ctx_room == Some(0) {
        return Err(Errno::EINVAL);
    }
    let ctx_in = ctx_in.unwrap_or_default();
    let control = world.programs.control();
    let programs = &mut world.programs;
    let loaded = programs.loaded.get_mut(text(step, "prog")).ok_or(Errno::EBADF)?;
    let (prog_type, attach_type) = (loaded.program.prog_type(), loaded.program.attach_type());
    let data = ["data_in", "data"].iter().find_map(|name| bytes(step, name).transpose()).transpose()?;
    let runner = testrun::runner(prog_type, attach_type);
    let data = data.unwrap_or(if runner.takes_data() { PACKET.to_vec() } else { Vec::new() });
    let cpu = number(step, "cpu") as u32;
    // A step that names a CPU asks for it.
    let on_cpu = if step.get("cpu").is_some_and(|cpu| !cpu.is_null()) { testrun::ON_CPU } else { 0 };
    let input = Input {
        data_out: data_room.is_some(),
        ctx_out: ctx_room.is_some(),
        repeat: number(step, "repeat") as u32,
        flags: number(step, "flags") as u32 | on_cpu,
        cpu,
        batch_size: number(step, "batch_size") as u32,
        cpus: world.cpus,
        devices: DEVICES,
        ctx_bytes_used: loaded.ctx_bytes_used,
        ..Input::new(&data, &ctx_in)
    };
    if let Runner::Refused(errno) = runner {
        // Tracing programs have runs in the kernel alone, and their flags are looked at first.
        return Err(if prog_type == ProgType::Tracing && input.flags != 0 { Errno::EINVAL } else { errno });
    }
    let mut ctx = Ctx::test_run_with(prog_type, attach_type, &input).map_err(|error| error.errno)?;
    let mut session = programs.engine.session(cpu % world.cpus);
    let mut retval = 0;
    let begun = Instant::now();
    let repeat = number(step, "repeat").max(1);
    for _ in 0..repeat {
        match loaded.program.run(&mut session, &mut ctx) {
            Ok(r0) => retval = r0 as u32 as i32,
            Err(_) => return Ok(Done::Unsupported),
        }
    }
    if runner == Runner::Xdp && input.flags & testrun::LIVE_FRAMES != 0 {
        // Each frame has its own verdict, and goes where that says.
        retval = 0;
    }
    if programs.stats {
        loaded.runs += repeat;
        loaded.took_time |= begun.elapsed().as_nanos() > 0;
    }
    ctx.end_test_run(loaded.program.maps(), &control);
    // What is due by now; a callback that faults changes no answer of this call.
    let _ = session.run_timers();
    let mut outputs = Fields::new();
    // A buffer that the step has, of so many bytes, is filled; the first short one ends the run with ENOSPC.
    let data_out = data_room.map(|room| ("data_out", ctx.copy_data_out(room)));
    let ctx_out = ctx_room.map(|room| ("ctx_out", testrun::copy_out(ctx.ctx_out(), 0, room)));
    for (name, (copied, fits)) in data_out.into_iter().chain(ctx_out) {
        outputs.insert(name.into(), json!(hex::encode(copied)));
        if let Err(errno) = fits {
            return Ok(Done::Failed(errno, outputs));
        }
    }
    outputs.insert("retval".into(), json!(retval));
    if let Some(errno) = retval.checked_neg().and_then(Errno::from_number) {
        outputs.insert("retval_errno".into(), json!(errno.name()));
    }
    Ok(Done::Ok(outputs))
}

/// `BPF_OBJ_GET_INFO_BY_FD` of a program.
pub(super) fn info(step: &Step, world: &mut World) -> Result<Done, Errno> {
    // This command has a word of its own for a closed descriptor.
    let loaded = world.programs.loaded.get(text(step, "prog")).ok_or(Errno::EBADFD)?;
    let outputs = [
        ("run_cnt", json!(loaded.runs)),
        ("recursion_misses", json!(0)),
        ("run_time_nonzero", json!(loaded.took_time)),
    ];
    Ok(Done::Ok(outputs.into_iter().map(|(name, value)| (name.to_string(), value)).collect()))
}

/// `BPF_ENABLE_STATS`: one type is known.
pub(super) fn enable_stats(step: &Step, world: &mut World) -> Result<Done, Errno> {
    if !world.privileged {
        return Err(Errno::EPERM);
    }
    if number(step, "type") != 0 {
        return Err(Errno::EINVAL);
    }
    world.programs.stats = true;
    Ok(Done::nothing())
}
