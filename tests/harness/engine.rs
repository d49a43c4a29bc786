//! The engines that run a case.

use std::sync::Arc;

use rtbpf::maps::{CreateCx, MapRef, create};
use rtbpf::verifier::{Assumptions, Options, verify};
use rtbpf::{Config, Ctx, Error, Executable};
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
}

impl Engine {
    /// All engines of this build.
    pub const ALL: [Engine; 2] = [Engine::Checked, Engine::CheckedWithFacts];
}

/// What a run showed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// R0, or the fault's sentence.
    pub result: Result<u64, String>,
    /// The plain context's memory at the end.
    pub mem_after: Vec<u8>,
}

/// Runs a case; `None` when this engine takes only verified programs and the verifier refused this one.
///
/// # Panics
///
/// When the case cannot be set up: the suite itself is broken then.
pub fn run(engine: Engine, case: &Case) -> Option<Outcome> {
    let machine = rtbpf::Engine::new(Config::linux());
    let (executable, prog_type) = match bind(engine, &machine, case) {
        Ok(bound) => bound?,
        Err(e) => return Some(Outcome { result: Err(e.to_string()), mem_after: Vec::new() }),
    };
    let mut ctx = match &case.packet {
        Some(packet) => Ctx::test_run(prog_type, None, packet, &[]).unwrap_or_else(|e| panic!("{}: {e}", case.name)),
        None => Ctx::plain(&case.mem),
    };
    let result = executable.run(&mut machine.session(0), &mut ctx).map_err(|e| e.to_string());
    Some(Outcome { result, mem_after: if case.packet.is_none() { ctx.to_vec() } else { Vec::new() } })
}

fn bind(engine: Engine, machine: &rtbpf::Engine, case: &Case) -> Result<Option<(Executable, ProgType)>, Error> {
    let program = decode(&case.slots)?;
    let prog_type = if case.packet.is_some() { ProgType::SchedCls } else { ProgType::Plain };
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
    let executable = match engine {
        Engine::Checked => machine.bind_unverified(program, given, maps)?,
        Engine::CheckedWithFacts => match verify(program, given, &Options::default()) {
            Ok(verified) => machine.bind(verified, maps)?,
            Err(_) => return Ok(None),
        },
    };
    Ok(Some((executable, prog_type)))
}
