//! The engines that run a case.

use std::sync::Arc;

use rtbpf::maps::{CreateCx, MapRef, create};
use rtbpf::verifier::{Assumptions, Options, verify};
use rtbpf::{Config, Ctx, Error, Executable, Native, Threaded};
use rtbpf_abi::{MapKind, MapSpec, ProgType};
use rtbpf_isa::decode;

use crate::case::Case;

/// A way to run programs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Engine {
    /// The checked interpreter, on the program as it is.
    Checked,
    /// The checked interpreter with the verifier's facts, each of which it asserts. Cases that the verifier refuses have
    /// no outcome.
    CheckedWithFacts,
    /// The threaded interpreter.
    Threaded,
    /// The threaded interpreter without facts.
    ThreadedWithoutFacts,
    /// Native code of the verified program, with the facts that it was compiled by.
    Native,
    /// Native code that assumes the worst.
    NativeWithoutFacts,
}

impl Engine {
    /// All engines of this machine.
    pub const ALL: &[Engine] = if cfg!(any(target_arch = "x86_64", target_arch = "aarch64")) {
        &[
            Engine::Checked,
            Engine::CheckedWithFacts,
            Engine::Threaded,
            Engine::ThreadedWithoutFacts,
            Engine::Native,
            Engine::NativeWithoutFacts,
        ]
    } else {
        &[Engine::Checked, Engine::CheckedWithFacts, Engine::Threaded, Engine::ThreadedWithoutFacts]
    };
}

/// What a run showed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// R0, or the fault's sentence.
    pub result: Result<u64, String>,
    /// The plain context's memory at the end.
    pub mem_after: Vec<u8>,
}

/// Runs a case; `None` when this engine takes only verified programs and the verifier refused this one, or when it has
/// no code for a helper.
///
/// # Panics
///
/// When the case cannot be set up: the suite itself is broken then.
pub fn run(engine: Engine, case: &Case) -> Option<Outcome> {
    let machine = rtbpf::Engine::new(Config::linux());
    let prog_type = if case.packet.is_some() { ProgType::SchedCls } else { ProgType::Plain };
    let bound = match bind(engine, &machine, case, prog_type) {
        Ok(bound) => bound?,
        Err(Error::NoNativeCode(_)) => return None,
        Err(e) => return Some(Outcome { result: Err(e.to_string()), mem_after: Vec::new() }),
    };
    let mut ctx = match &case.packet {
        Some(packet) => Ctx::test_run(prog_type, None, packet, &[]).unwrap_or_else(|e| panic!("{}: {e}", case.name)),
        None => Ctx::plain(&case.mem),
    };
    let mut session = machine.session(0);
    let result = match bound {
        Bound::Interpreted(executable) => executable.run(&mut session, &mut ctx),
        Bound::Threaded(threaded) => threaded.run(&mut session, &mut ctx),
        Bound::Native(native) => native.run(&mut session, &mut ctx),
    };
    let mem_after = if case.packet.is_none() { ctx.to_vec() } else { Vec::new() };
    Some(Outcome { result: result.map_err(|e| e.to_string()), mem_after })
}

enum Bound {
    Interpreted(Executable),
    Threaded(Threaded),
    Native(Native),
}

fn bind(engine: Engine, machine: &rtbpf::Engine, case: &Case, prog_type: ProgType) -> Result<Option<Bound>, Error> {
    let program = decode(&case.slots)?;
    let maps: Vec<MapRef> = case
        .maps
        .iter()
        .map(|map| {
            let kind =
                MapKind::from_name(&map.kind).unwrap_or_else(|| panic!("{}: no map kind {}", case.name, map.kind));
            let spec = MapSpec::new(kind, map.key_size, map.value_size, map.max_entries);
            create(&spec, &CreateCx::new(2)).unwrap_or_else(|e| panic!("{}: map {}: {e}", case.name, map.name))
        })
        .collect();
    let mut given = Assumptions::new(prog_type);
    given.maps = maps.iter().map(|map| Arc::new(map.spec().clone())).collect();
    if engine == Engine::Checked {
        return machine.bind_unverified(program, given, maps).map(|executable| Some(Bound::Interpreted(executable)));
    }
    let Ok(verified) = verify(program, given, &Options::default()) else { return Ok(None) };
    Ok(Some(match engine {
        Engine::Checked | Engine::CheckedWithFacts => Bound::Interpreted(machine.bind(verified, maps)?),
        Engine::Threaded => Bound::Threaded(machine.bind_threaded(verified, maps)?),
        Engine::ThreadedWithoutFacts => Bound::Threaded(machine.bind_threaded(verified.without_facts(), maps)?),
        Engine::Native => Bound::Native(machine.bind_native(verified, maps)?),
        Engine::NativeWithoutFacts => Bound::Native(machine.bind_native(verified.without_facts(), maps)?),
    }))
}
