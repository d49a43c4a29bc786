//! rtbpf itself as an oracle: verifies and runs generated cases.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use rtbpf::abi::MapKind;
use rtbpf::abi::ctx::layout;
use rtbpf::isa::{InsnIdx, Program, decode};
use rtbpf::maps::{CreateCx, MapRef, control, create};
use rtbpf::rt::RunCx;
use rtbpf::verifier::{Assumptions, Options, Profile, Rejection, VerifiedProgram, verify};
use rtbpf::world::FixedClock;
use rtbpf::{Config, Ctx, Engine, Error, Executable, FaultKind, Native, Session, Threaded, Tier, World};

use crate::contain::{Containment, Hint};
use crate::generate::Case;
use crate::inputs::Input;

/// CPUs of the machine, as many as Linux is told apart by: 2.
const CPUS: u32 = 2;

/// Instructions a run may take before it counts as endless, where nothing else is said.
const MAX_INSNS: u64 = 1 << 24;

/// Times that a run is looked at before it counts as endless.
const MAX_LOOKS: u64 = 1 << 14;

/// How a program is run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// The checked interpreter with the verifier's facts, each of which it asserts.
    Checked,
    /// The checked interpreter on a program of which nothing is claimed.
    Unverified,
    /// The threaded interpreter.
    Threaded,
    /// Native code made in one pass.
    FastNative,
    /// Native code made with the verifier's facts.
    Native,
    /// Native code made without facts.
    NativeWithoutFacts,
}

impl Way {
    /// Every way.
    pub const ALL: [Way; 6] =
        [Way::Checked, Way::Unverified, Way::Threaded, Way::FastNative, Way::Native, Way::NativeWithoutFacts];
}

/// What a run gives.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It ended.
    Done {
        /// R0.
        r0: u64,
        /// The packet afterwards.
        data_out: Vec<u8>,
        /// The context afterwards, without pointers.
        ctx_out: Vec<u8>,
    },
    /// The test run's rules refuse the input.
    Refused(i32),
    /// It took more instructions than it may.
    Endless,
    /// It called a helper that this build knows and does not have.
    Unsupported(String),
    /// The checked interpreter stopped it: where an accepted program does this, a proof or an engine is wrong.
    Fault(String),
}

/// The decoded program of a case, with types on its functions where the case says so.
pub fn program(case: &Case) -> Result<Program, Rejection> {
    let mut program = decode(&case.insns).map_err(|error| Rejection::from_decode(&error))?;
    if case.typed {
        for subprog in program.subprogs_mut() {
            subprog.btf_id = 3;
        }
    }
    Ok(program)
}

/// Keys and values of a map.
pub type Contents = Vec<(Vec<u8>, Vec<u8>)>;

/// A program ready to run.
enum Bound {
    Checked(Executable),
    Threaded(Threaded),
    Native(Native),
}

/// A case with live maps, verified or not.
pub struct Machine {
    engine: Engine,
    session: RefCell<Session>,
    /// The last run's: it stays, so that machines which run in turn never have theirs at one address.
    ctx: RefCell<Option<Ctx>>,
    maps: Vec<MapRef>,
    given: Assumptions,
    program: Option<Bound>,
    stop: Cell<Stop>,
}

/// Where a run ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stop {
    /// The instruction of a fault; `None` when the program ended by itself.
    pub at: Option<InsnIdx>,
    /// Instructions it might have taken still.
    pub left: i64,
}

impl Machine {
    /// Makes the maps of `case` and fills them.
    pub fn new(case: &Case) -> Result<Machine, String> {
        Machine::limited(case, MAX_INSNS)
    }

    /// The same, for runs of at most `max_insns` instructions.
    pub fn limited(case: &Case, max_insns: u64) -> Result<Machine, String> {
        // Clock and chance stand still, so that engines see the same.
        let world = World { clock: Arc::new(FixedClock(1 << 40)), seed: 7, ..World::default() };
        let engine = Engine::new(Config { slots: CPUS, max_insns: Some(max_insns), world, ..Config::linux() });
        let session = engine.session(0);
        let mut maps = Vec::new();
        for map in &case.maps {
            let made = create(&map.spec, &CreateCx::new(CPUS)).map_err(|error| error.to_string())?;
            let frozen = map.spec.frozen.as_ref().map(|bytes| (vec![0; 4], bytes.to_vec()));
            for (key, value) in map.init.iter().chain(&frozen) {
                let updated = made.update(&RunCx::CONTROL, key, value.as_slice().into(), 0);
                updated.map_err(|error| error.to_string())?;
            }
            if frozen.is_some() {
                control::freeze(&*made).map_err(|error| error.to_string())?;
            }
            maps.push(made);
        }
        let given = Assumptions {
            attach_type: case.attach_type(),
            sleepable: case.kind.is_sleepable(),
            prog_flags: case.prog_flags,
            // Some kinds are created with more flags than were asked for.
            maps: maps.iter().map(|map| Arc::new(control::assumed_spec(&**map, &RunCx::CONTROL))).collect(),
            cpus: CPUS,
            ..Assumptions::new(case.prog_type())
        };
        let (session, ctx) = (RefCell::new(session), RefCell::new(None));
        Ok(Machine { engine, session, ctx, maps, given, program: None, stop: Cell::default() })
    }

    /// Verifies `case` by Linux's rules.
    pub fn judge(&self, case: &Case) -> Result<VerifiedProgram, Rejection> {
        self.judge_by(case, &Options { profile: Profile::Compat, ..Options::default() })
    }

    /// Verifies `case` by `options`.
    pub fn judge_by(&self, case: &Case, options: &Options) -> Result<VerifiedProgram, Rejection> {
        verify(program(case)?, self.given.clone(), options)
    }

    /// Binds what [`Machine::judge`] accepted. `Err` also where this machine has no native code for it.
    pub fn bind(&mut self, verified: VerifiedProgram, way: Way) -> Result<(), String> {
        let maps = self.maps.clone();
        let bound = match way {
            Way::Checked => self.engine.bind(verified, maps).map(Bound::Checked),
            Way::Unverified => {
                let given = verified.given().clone();
                self.engine.bind_unverified(verified.code().clone(), given, maps).map(Bound::Checked)
            }
            Way::Threaded => self.engine.bind_threaded(verified, maps).map(Bound::Threaded),
            Way::FastNative => self.engine.bind_native_in(Tier::Fast, verified, maps).map(Bound::Native),
            Way::Native => self.engine.bind_native(verified, maps).map(Bound::Native),
            Way::NativeWithoutFacts => self.engine.bind_native(verified.without_facts(), maps).map(Bound::Native),
        };
        self.program = Some(bound.map_err(|error| error.to_string())?);
        Ok(())
    }

    fn start(&self, ctx: Ctx) -> Outcome {
        let mut last = self.ctx.borrow_mut();
        let ctx = last.insert(ctx);
        let session = &mut *self.session.borrow_mut();
        let result = match &self.program {
            None => return Outcome::Fault("nothing is bound".into()),
            Some(Bound::Checked(program)) => program.run(session, ctx),
            Some(Bound::Threaded(program)) => program.run(session, ctx),
            Some(Bound::Native(program)) => program.run(session, ctx),
        };
        let at = match &result {
            Err(Error::Fault(fault)) => Some(fault.at),
            Ok(_) | Err(_) => None,
        };
        self.stop.set(Stop { at, left: session.insns_left() });
        outcome(result, |r0| Outcome::Done { r0, data_out: ctx.data_out(), ctx_out: self.numbers(ctx) })
    }

    /// Runs it in the checked interpreter and looks wherever states are kept whether the run lies in a kept state of
    /// `verified`, which is what was bound; also answers how many times it looked.
    pub fn run_contained(&self, input: &Input, verified: &VerifiedProgram) -> (Outcome, u64) {
        let (Some(Bound::Checked(program)), Some(states)) = (&self.program, verified.block_states()) else {
            return (Outcome::Fault("no states are kept, or the engine has none".into()), 0);
        };
        let (prog_type, attach_type) = (self.given.prog_type, self.given.attach_type);
        let ctx = match input {
            Input::Packet(packet) => match Ctx::test_run(prog_type, attach_type, packet, &[]) {
                Ok(ctx) => ctx,
                Err(refusal) => return (Outcome::Refused(refusal.errno.number()), 0),
            },
            Input::Ctx(bytes) => Ctx::bytes(prog_type, attach_type, bytes),
        };
        let mut session = self.engine.session(0);
        let containment = Containment { states, program, given: verified.given() };
        let (mut looks, mut hint) = (0, Hint::default());
        let result = program.start(&mut session, ctx).and_then(|mut run| {
            loop {
                if looks == MAX_LOOKS {
                    return Ok(Err(None));
                }
                if let Some(found) = containment.check(&run, &mut hint) {
                    looks += 1;
                    if let Err(escape) = found {
                        return Ok(Err(Some(escape)));
                    }
                }
                if let Some(r0) = run.step(&mut ())? {
                    return Ok(Ok(r0));
                }
            }
        });
        let done = |r0| Outcome::Done { r0, data_out: Vec::new(), ctx_out: Vec::new() };
        match result {
            Ok(Err(Some(escape))) => (Outcome::Fault(escape), looks),
            Ok(Err(None)) => (Outcome::Endless, looks),
            Ok(Ok(r0)) => (done(r0), looks),
            Err(error) => (outcome(Err(error), done), looks),
        }
    }

    /// Where the last run ended.
    pub fn stop(&self) -> Stop {
        self.stop.get()
    }

    /// The context's bytes, with zeros where a field is a pointer.
    fn numbers(&self, ctx: &Ctx) -> Vec<u8> {
        let mut bytes = ctx.to_vec();
        let layout = layout(self.given.prog_type, self.given.attach_type);
        for field in layout.into_iter().flat_map(|layout| layout.fields).filter(|field| field.kind.is_pointer()) {
            let start = usize::from(field.offset);
            if let Some(bytes) = bytes.get_mut(start..start + usize::from(field.size)) {
                bytes.fill(0);
            }
        }
        bytes
    }

    /// Runs it as Linux's test run would.
    pub fn run(&self, packet: &[u8]) -> Outcome {
        match Ctx::test_run(self.given.prog_type, self.given.attach_type, packet, &[]) {
            Ok(ctx) => self.start(ctx),
            Err(refusal) => Outcome::Refused(refusal.errno.number()),
        }
    }

    /// Runs it with these bytes as its context.
    pub fn run_on_ctx(&self, bytes: &[u8]) -> Outcome {
        self.start(Ctx::bytes(self.given.prog_type, self.given.attach_type, bytes))
    }

    /// What every map holds that can be listed, pointers and programs excepted.
    pub fn contents(&self) -> Vec<Contents> {
        let listed = |map: &MapRef| {
            let (mut found, mut key) = (Contents::new(), None);
            loop {
                let mut next = Vec::new();
                if map.next_key(&RunCx::CONTROL, key.as_deref(), &mut next).is_err() {
                    found.sort();
                    return found;
                }
                let mut value = Vec::new();
                if map.read(&RunCx::CONTROL, &next, 0, &mut value).is_ok() {
                    found.push((next.clone(), value));
                }
                key = Some(next);
            }
        };
        self.maps.iter().map(listed).collect()
    }

    /// The bytes of array map `index`, value after value; `None` for other kinds.
    pub fn array(&self, index: usize) -> Option<Vec<u8>> {
        let map = self.maps.get(index)?;
        if map.spec().kind != MapKind::Array {
            return None;
        }
        let mut out = Vec::new();
        for key in 0..map.spec().max_entries {
            map.read(&RunCx::CONTROL, &key.to_le_bytes(), 0, &mut out).ok()?;
        }
        Some(out)
    }
}

/// What a run that ended so is called.
fn outcome(result: Result<u64, Error>, done: impl FnOnce(u64) -> Outcome) -> Outcome {
    match result {
        Ok(r0) => done(r0),
        Err(Error::Fault(fault)) if matches!(fault.kind, FaultKind::NoHelper(_)) => {
            Outcome::Unsupported(fault.to_string())
        }
        Err(Error::Fault(fault)) if fault.kind == FaultKind::OutOfFuel => Outcome::Endless,
        Err(error) => Outcome::Fault(error.to_string()),
    }
}
