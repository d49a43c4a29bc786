//! Program cases: verify, run as Linux's test run does, dump maps.

use std::sync::Arc;
use std::time::Instant;

use rtbpf::abi::license::is_gpl_compatible;
use rtbpf::abi::testrun::Input;
use rtbpf::abi::{AttachType, MapKind, MapSpec, ProgType};
use rtbpf::ctx::{CtxError, DEVICES};
use rtbpf::isa::{Program, RawInsn, decode};
use rtbpf::maps::{CreateCx, MapRef, Object, control, create};
use rtbpf::rt::RunCx;
use rtbpf::verifier::{self, Assumptions, Profile, Rejection, VerifiedProgram};
use rtbpf::{Config, Ctx, Engine, Error};
use serde_json::{Value, json};

use super::{EngineKind, ModelKind, Options, ProfileKind};
use crate::loaded::Loaded;

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
        Err(Failure::Rejected { errno, log, processed }) => json!({
            "name": name, "verdict": "reject", "errno": errno, "log": log, "insns_processed": processed, "runs": [],
        }),
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
        processed: u64,
    },
}

fn malformed(what: &str) -> Failure {
    Failure::Malformed(what.into())
}

fn judge(case: &Value, options: &Options) -> Result<Value, Failure> {
    let engine = Engine::new(config(case, options));
    let maps = make_maps(case, engine.config().slots)?;
    let judge = Judge { engine: &engine, case, maps: &maps, options };
    judge.fill_maps()?;
    let begun = Instant::now();
    let verified = judge.verify(case)?;
    let verify_ns = begun.elapsed().as_nanos() as u64;
    let (processed, log) = (verified.stats().processed, verified.log().to_owned());
    let ctx_bytes_used = verified.ctx_bytes_used();
    let begun = Instant::now();
    let loaded = judge.bind(verified)?;
    let compile_ns = begun.elapsed().as_nanos() as u64;
    let mut runs = Vec::new();
    for run in list(case, "runs") {
        runs.push(one_run(&engine, &loaded, ctx_bytes_used, run)?);
    }
    Ok(json!({
        "verdict": "accept",
        "errno": 0,
        "log": log,
        "insns_processed": processed,
        "verify_ns": verify_ns,
        "compile_ns": compile_ns,
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

/// The maps of a case, without their contents.
fn make_maps(case: &Value, slots: u32) -> Result<Vec<MapRef>, Failure> {
    let mut maps: Vec<MapRef> = Vec::new();
    for (at, wanted) in list(case, "maps").iter().enumerate() {
        let number = |field: &str| wanted.get(field).and_then(Value::as_u64).unwrap_or(0);
        let kind = match wanted.get("type") {
            Some(Value::String(name)) => MapKind::from_name(name),
            _ => u32::try_from(number("type")).ok().and_then(MapKind::from_number),
        };
        let kind = kind.ok_or_else(|| Failure::CannotJudge(format!("map {at}: unknown type")))?;
        let size = |field: &str| number(field) as u32;
        let mut spec = MapSpec {
            flags: size("flags"),
            map_extra: number("map_extra"),
            name: wanted.get("name").and_then(Value::as_str).unwrap_or_default().into(),
            ..MapSpec::new(kind, size("key_size"), size("value_size"), size("max_entries"))
        };
        let mut cx = CreateCx::new(slots);
        if let Some(inner) = wanted.get("inner").and_then(Value::as_u64) {
            let inner = maps.get(inner as usize).ok_or_else(|| Failure::Malformed(format!("map {at}: inner")))?;
            spec.inner = Some(Box::new(inner.spec().clone()));
            cx.inner = Some(inner.clone());
        }
        let made = create(&spec, &cx).map_err(|error| Failure::CannotJudge(format!("map {at}: {error}")))?;
        maps.push(made);
    }
    Ok(maps)
}

fn list<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value.get(field).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// One case at work.
struct Judge<'a> {
    engine: &'a Engine,
    case: &'a Value,
    maps: &'a [MapRef],
    options: &'a Options,
}

impl Judge<'_> {
    /// Puts the values of a case into its maps; programs of its program arrays are loaded first.
    fn fill_maps(&self) -> Result<(), Failure> {
        let mut programs = Vec::new();
        for program in list(self.case, "progs") {
            programs.push(self.bind(self.verify(program)?)?);
        }
        for (at, (wanted, map)) in list(self.case, "maps").iter().zip(self.maps).enumerate() {
            let failed = |what: &dyn std::fmt::Display| Failure::CannotJudge(format!("map {at}: {what}"));
            let key = |entry: &Value| {
                hex::decode(entry.get(0).and_then(Value::as_str).unwrap_or_default()).map_err(|error| failed(&error))
            };
            let index = |entry: &Value| entry.get(1).and_then(Value::as_u64).unwrap_or(u64::MAX) as usize;
            for entry in list(wanted, "init") {
                let text = entry.get(1).and_then(Value::as_str).unwrap_or_default();
                let value = hex::decode(text).map_err(|error| failed(&error))?;
                map.update(&RunCx::CONTROL, &key(entry)?, value.as_slice().into(), 0)
                    .map_err(|error| failed(&error))?;
            }
            for entry in list(wanted, "init_prog") {
                let program = programs.get(index(entry)).ok_or_else(|| failed(&"no such program"))?;
                let object = Object::Prog(program.executable().as_prog());
                map.update_object(&RunCx::CONTROL, &key(entry)?, &object, 0).map_err(|error| failed(&error))?;
            }
            for entry in list(wanted, "init_map") {
                let inner = self.maps.get(index(entry)).ok_or_else(|| failed(&"no such map"))?;
                let object = Object::Map(inner.clone());
                map.update_object(&RunCx::CONTROL, &key(entry)?, &object, 0).map_err(|error| failed(&error))?;
            }
            if wanted.get("frozen").and_then(Value::as_bool) == Some(true) {
                control::freeze(&**map).map_err(|refusal| failed(&format!("freeze: {refusal:?}")))?;
            }
        }
        Ok(())
    }

    /// Verifies the case's program, or an auxiliary one.
    fn verify(&self, program: &Value) -> Result<VerifiedProgram, Failure> {
        let number = |field: &str| program.get(field).and_then(Value::as_u64).unwrap_or(0);
        let attach_type = match number("attach_type") {
            0 => None,
            number => u32::try_from(number).ok().and_then(AttachType::from_number),
        };
        let flags = number("prog_flags") as u32;
        let license = program.get("license").and_then(Value::as_str).unwrap_or("GPL");
        let given = Assumptions {
            attach_type,
            gpl: is_gpl_compatible(license),
            sleepable: flags & 16 != 0,
            prog_flags: flags,
            maps: self.maps.iter().map(|map| Arc::new(control::assumed_spec(&**map, &RunCx::CONTROL))).collect(),
            cpus: self.engine.config().slots,
            policy: self.engine.config().policy,
            ..Assumptions::new(prog_type(program)?)
        };
        let verifier = verifier::Options {
            profile: self.engine.config().profile,
            log_level: self.options.log,
            ..verifier::Options::default()
        };
        verifier::verify(decoded(program)?, given, &verifier).map_err(|rejection| Failure::Rejected {
            errno: rejection.errno.number(),
            log: if rejection.log.is_empty() { rejection.message } else { rejection.log },
            processed: rejection.stats.processed,
        })
    }

    fn bind(&self, verified: VerifiedProgram) -> Result<Loaded, Failure> {
        let processed = verified.stats().processed;
        let failed = |error: Error| match error {
            // Maps are made for the case; only what stands in them can differ. Linux refuses that at load.
            Error::MapDiffers { .. } => Failure::Rejected { errno: 22, log: error.to_string(), processed },
            error => Failure::CannotJudge(error.to_string()),
        };
        match self.options.engine {
            EngineKind::Jit => {
                self.engine.bind_native(verified, self.maps.to_vec()).map(Loaded::Native).map_err(failed)
            }
            EngineKind::Threaded => {
                self.engine.bind_threaded(verified, self.maps.to_vec()).map(Loaded::Threaded).map_err(failed)
            }
            // Without facts, so that a wrong one shows as a difference between engines and not in both.
            EngineKind::Checked => {
                self.engine.bind(verified.without_facts(), self.maps.to_vec()).map(Loaded::Checked).map_err(failed)
            }
            EngineKind::Interp => self.engine.bind(verified, self.maps.to_vec()).map(Loaded::Checked).map_err(failed),
        }
    }
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
fn decoded(case: &Value) -> Result<Program, Failure> {
    let text = case.get("insns").and_then(Value::as_str).ok_or_else(|| malformed("insns missing"))?;
    let bytes = hex::decode(text).map_err(|error| Failure::Malformed(format!("insns: {error}")))?;
    let mut slots = RawInsn::parse_all(&bytes).ok_or_else(|| malformed("insns: not a multiple of 8 bytes"))?;
    for fixup in list(case, "fixups") {
        let number = |at: usize| fixup.get(at).and_then(Value::as_i64);
        let (Some(slot), Some(map)) = (number(0), number(1)) else { return Err(malformed("fixups: not two numbers")) };
        match usize::try_from(slot).ok().and_then(|slot| slots.get_mut(slot)) {
            Some(insn) => insn.imm = map as i32,
            None => return Err(malformed("fixups: no such instruction")),
        }
    }
    decode(&slots).map_err(|error| {
        let Rejection { errno, log, .. } = Rejection::from_decode(&error);
        Failure::Rejected { errno: errno.number(), log, processed: 0 }
    })
}

/// One run: return value, packet, context, errno.
fn one_run(engine: &Engine, loaded: &Loaded, ctx_bytes_used: u32, run: &Value) -> Result<Value, Failure> {
    let data_in = bytes(run, "data_in")?;
    let ctx_in = bytes(run, "ctx_in")?;
    let repeat = run.get("repeat").and_then(Value::as_u64).unwrap_or(1).max(1);
    let input = Input { ctx_bytes_used, devices: DEVICES, ..Input::new(&data_in, &ctx_in) };
    let program = loaded.executable();
    let mut ctx = match Ctx::test_run_with(program.prog_type(), program.attach_type(), &input) {
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
    ctx.end_test_run(program.maps(), &RunCx::CONTROL);
    Ok(json!({
        "retval": retval,
        "data_out": hex::encode(ctx.data_out()),
        "ctx_out": hex::encode(ctx.ctx_out()),
        "errno": 0,
    }))
}

fn bytes(run: &Value, field: &str) -> Result<Vec<u8>, Failure> {
    let text = run.get(field).and_then(Value::as_str).unwrap_or_default();
    hex::decode(text).map_err(|error| Failure::Malformed(format!("{field}: {error}")))
}

/// The contents of the maps the case asks for: pairs of key and value.
fn dump(case: &Value, maps: &[MapRef]) -> Value {
    let contents = |map: &MapRef| {
        let mut pairs = Vec::new();
        let mut key = None;
        loop {
            let mut next = Vec::new();
            if map.next_key(&RunCx::CONTROL, key.as_deref(), &mut next).is_err() {
                return Value::Array(pairs);
            }
            let mut value = Vec::new();
            if map.read(&RunCx::CONTROL, &next, 0, &mut value).is_ok() {
                pairs.push(json!([hex::encode(&next), hex::encode(value)]));
            }
            key = Some(next);
        }
    };
    let map = |wanted: &Value| wanted.as_u64().and_then(|at| maps.get(at as usize)).map_or(Value::Null, contents);
    Value::Array(list(case, "dump_maps").iter().map(map).collect())
}
