//! Programs bound to maps and helpers, and the sessions they run in.

use std::any::Any;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::Instant;

use rtbpf_abi::limits::{MAX_FRAMES, STACK_BYTES};
use rtbpf_abi::{AttachType, ProgType};
use rtbpf_isa::{Callee, Imm64, Insn, MapIdx, Program};
use rtbpf_maps::{MapRef, Prog, ProgRef};
use rtbpf_rt::RunCx;
use rtbpf_verifier::{Assumptions, Facts};

use crate::ctx::Ctx;
use crate::engine::{CancelHandle, Inner};
use crate::error::{Error, FaultKind};
use crate::helpers::custom::Custom;
use crate::helpers::{self, Action, BoundHelper};
use crate::interp::{Checked, Observer};
use crate::mem::Buffer;
use crate::region::Regions;
use crate::run::Host;
use crate::unchecked::Entry;

/// A program with everything it refers to.
pub(crate) struct Bound {
    /// Itself: program arrays give programs out by reference.
    pub me: Weak<Bound>,
    pub engine: Arc<Inner>,
    pub id: u32,
    pub program: Program,
    pub prog_type: ProgType,
    pub attach_type: Option<AttachType>,
    /// What programs that tail-call each other agree on besides their type.
    compatibility: u64,
    /// Bytes of context that every run must bring: those that the proof took for granted.
    ctx_bytes: usize,
    /// The verifier's claims; `None` for a program that nobody verified.
    pub facts: Option<Facts>,
    pub maps: Box<[MapRef]>,
    /// Names of kernel functions by the number that calls use.
    pub kfuncs: Vec<(i32, String)>,
    /// The helpers it calls, by number.
    helpers: Vec<(i32, Result<BoundHelper, FaultKind>)>,
    /// For the first instruction of each straight run, how many instructions the run has; 0 for the others.
    pub costs: Vec<u32>,
    /// Its threaded code, once translated: where tail calls go.
    pub threaded: std::sync::OnceLock<crate::interp::threaded::Thread>,
    /// Its native code, once compiled: where tail calls go.
    #[cfg(feature = "jit")]
    pub native: std::sync::OnceLock<rtbpf_jit::Native>,
}

impl Bound {
    pub(crate) fn new(
        engine: &Arc<Inner>,
        program: Program,
        given: Assumptions,
        facts: Option<Facts>,
        maps: Vec<MapRef>,
    ) -> Result<Arc<Bound>, Error> {
        static NEXT_ID: AtomicU32 = AtomicU32::new(1);
        let mut helpers: Vec<(i32, Result<BoundHelper, FaultKind>)> = Vec::new();
        for (at, insn) in program.iter() {
            match *insn {
                Insn::Imm { value: Imm64::Map { map, .. } | Imm64::MapValue { map, .. }, .. }
                    if map.index() >= maps.len() =>
                {
                    return Err(Error::NoSuchMap { at, map: map.0, given: maps.len() });
                }
                Insn::Call(Callee::Helper(id)) if helpers.iter().all(|(known, _)| *known != id) => {
                    helpers.push((id, helpers::bind(engine, id, &given)));
                }
                _ => {}
            }
        }
        helpers.sort_by_key(|(id, _)| *id);
        Ok(Arc::new_cyclic(|me| Bound {
            me: me.clone(),
            engine: engine.clone(),
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            costs: costs(&program),
            threaded: std::sync::OnceLock::new(),
            #[cfg(feature = "jit")]
            native: std::sync::OnceLock::new(),
            program,
            compatibility: compatibility(&given),
            ctx_bytes: if facts.is_some() { given.plain_ctx_bytes as usize } else { 0 },
            prog_type: given.prog_type,
            attach_type: given.attach_type,
            facts,
            maps: maps.into(),
            kfuncs: given.kfuncs,
            helpers,
        }))
    }

    /// Whether the program may run on `ctx`.
    #[inline]
    pub fn admits(&self, ctx: &Ctx) -> Result<(), Error> {
        let fits = ctx.prog_type() == self.prog_type && ctx.len() >= self.ctx_bytes;
        if fits { Ok(()) } else { Err(self.misfit(ctx)) }
    }

    #[cold]
    fn misfit(&self, ctx: &Ctx) -> Error {
        if ctx.prog_type() != self.prog_type {
            let (program, context) = (self.prog_type.name(), ctx.prog_type().name());
            return Error::WrongContext { program, context };
        }
        Error::ShortContext { needed: self.ctx_bytes, given: ctx.len() }
    }

    /// Whether a tail call may lead from it to `other`.
    pub fn may_become(&self, other: &Bound) -> bool {
        (self.prog_type, self.compatibility) == (other.prog_type, other.compatibility)
    }

    /// The map with this index.
    pub fn map(&self, map: MapIdx) -> Result<&MapRef, FaultKind> {
        let found = self.maps.get(map.index());
        found.ok_or(FaultKind::Expected { expected: "the index of a map", found: map.0 as u64 })
    }

    /// The embedder's helper with this number, which some call names.
    pub fn custom(&self, id: i32) -> Option<&Custom> {
        match self.bound_helper(id)? {
            Ok(BoundHelper { action: Action::Custom(custom), .. }) => Some(custom),
            Ok(_) | Err(_) => None,
        }
    }

    /// The helper with this number, which some call names.
    pub fn helper(&self, id: i32) -> Result<&BoundHelper, FaultKind> {
        self.bound_helper(id).ok_or(FaultKind::UnknownHelper(id))?.as_ref().map_err(Clone::clone)
    }

    fn bound_helper(&self, id: i32) -> Option<&Result<BoundHelper, FaultKind>> {
        let at = self.helpers.binary_search_by_key(&id, |(known, _)| *known).ok()?;
        self.helpers.get(at).map(|(_, helper)| helper)
    }
}

/// What programs that tail-call each other must agree on besides their type: all that says what their context is.
pub(crate) fn compatibility(given: &Assumptions) -> u64 {
    match given.prog_type {
        ProgType::Plain => u64::from(given.plain_ctx_bytes),
        _ => given.attach_type.map_or(0, |attach| u64::from(attach.number())),
    }
}

impl Prog for Bound {
    fn id(&self) -> u32 {
        self.id
    }

    fn prog_type(&self) -> ProgType {
        self.prog_type
    }

    fn compatibility(&self) -> u64 {
        self.compatibility
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The lengths of straight runs: a run begins at an entry, at a jump's target and after whatever may leave the line.
fn costs(program: &Program) -> Vec<u32> {
    let insns = program.insns();
    let mut leads = vec![false; insns.len() + 1];
    let mut lead = |at: usize| {
        if let Some(lead) = leads.get_mut(at) {
            *lead = true;
        }
    };
    for subprog in program.subprogs() {
        lead(subprog.start.index());
    }
    for (at, insn) in program.iter() {
        if let Some(to) = insn.relative_target() {
            lead(at.target(to).index());
        }
        let leaves = match insn {
            Insn::Jump { .. } | Insn::Branch { .. } | Insn::MayGoto { .. } | Insn::Exit | Insn::Call(_) => true,
            // Ends the frame when the packet is too short.
            Insn::Packet { .. } | Insn::Bad { .. } => true,
            Insn::Alu { .. } | Insn::MovSx { .. } | Insn::Neg { .. } | Insn::Swap { .. } => false,
            Insn::AddrCast { .. } | Insn::Imm { .. } | Insn::Load { .. } | Insn::Store { .. } => false,
            Insn::Atomic { .. } | Insn::LoadAcquire { .. } | Insn::StoreRelease { .. } => false,
        };
        if leaves {
            lead(at.index() + 1);
        }
    }
    let mut costs = vec![0; insns.len()];
    let mut run = 0;
    for at in (0..insns.len()).rev() {
        run += 1;
        if leads.get(at).copied().unwrap_or_default()
            && let Some(cost) = costs.get_mut(at)
        {
            *cost = run;
            run = 0;
        }
    }
    costs
}

/// A program that is ready to run. Cheap to clone; clones are the same program.
#[derive(Clone)]
pub struct Executable(Arc<Bound>);

impl From<Arc<Bound>> for Executable {
    fn from(bound: Arc<Bound>) -> Executable {
        Executable(bound)
    }
}

impl Executable {
    /// Runs it on `ctx`, and returns R0 at its end.
    pub fn run(&self, session: &mut Session, ctx: &mut Ctx) -> Result<u64, Error> {
        self.run_observed(session, ctx, &mut ())
    }

    /// Runs it under an observer's eyes.
    pub fn run_observed<O: Observer>(
        &self,
        session: &mut Session,
        ctx: &mut Ctx,
        observer: &mut O,
    ) -> Result<u64, Error> {
        let mut run = self.start(session, std::mem::replace(ctx, Ctx::taken()))?;
        let result = run.run(observer);
        *ctx = run.finish(session);
        Ok(result?)
    }

    /// A run that has not begun, for stepping. [`Executable::run`] is this, run to its end.
    pub fn start(&self, session: &mut Session, ctx: Ctx) -> Result<Checked, Error> {
        self.0.admits(&ctx)?;
        Ok(Checked::start(&self.0, session, ctx)?)
    }

    /// The decoded program.
    pub fn program(&self) -> &Program {
        &self.0.program
    }

    /// Its type.
    pub fn prog_type(&self) -> ProgType {
        self.0.prog_type
    }

    /// The attach type it was loaded for.
    pub fn attach_type(&self) -> Option<AttachType> {
        self.0.attach_type
    }

    /// Its maps, by the index its instructions use.
    pub fn maps(&self) -> &[MapRef] {
        &self.0.maps
    }

    pub(crate) fn bound(&self) -> &Arc<Bound> {
        &self.0
    }

    /// As program arrays hold it.
    pub fn as_prog(&self) -> ProgRef {
        self.0.clone()
    }
}

impl std::fmt::Debug for Executable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Executable").field("id", &self.0.id).field("type", &self.0.prog_type).finish_non_exhaustive()
    }
}

/// What one thread needs to run programs on one slot: stacks, tables, chance. Reuse it; making one allocates.
pub struct Session {
    engine: Arc<Inner>,
    cx: RunCx,
    stack: Arc<Buffer>,
    regions: Regions,
    cancel: CancelHandle,
    random: u64,
    /// The instructions that a run may take.
    fuel: i64,
    insns_left: i64,
    /// What the next run without checks may use.
    idle: Option<Box<Host>>,
}

impl Session {
    pub(crate) fn new(engine: &Arc<Inner>, slot: u32) -> Session {
        let slot = slot.min(engine.config.slots.saturating_sub(1));
        Session {
            engine: engine.clone(),
            cx: RunCx { model: engine.config.model, ..RunCx::program(slot) },
            stack: Buffer::zeroed(MAX_FRAMES * STACK_BYTES as usize),
            regions: Regions::default(),
            cancel: CancelHandle::default(),
            // Slots draw different numbers from one seed.
            random: engine.config.world.seed.wrapping_add((slot as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            fuel: engine.config.max_insns.map_or(i64::MAX, |max| i64::try_from(max).unwrap_or(i64::MAX)),
            insns_left: 0,
            idle: None,
        }
    }

    /// A handle that stops this session's runs from another thread.
    pub fn cancel_handle(&self) -> CancelHandle {
        self.cancel.clone()
    }

    /// How much of the instruction limit the last run left.
    pub fn insns_left(&self) -> i64 {
        self.insns_left
    }

    /// Runs the timers of programs that are due by the world's clock, in order; answers how many callbacks ran. One that a
    /// callback starts anew waits for the next call.
    ///
    /// A callback that faults ends with its fault here; the timers behind it stay due for the next call.
    pub fn run_timers(&mut self) -> Result<usize, Error> {
        let engine = self.engine.clone();
        let mut due = engine.timers.take_due(engine.config.world.clock.monotonic_ns()).into_iter();
        let mut ran = 0;
        while let Some(timer) = due.next() {
            let Some(program) = timer.callback.program.upgrade().filter(|_| engine.timers.may_fire(&timer)) else {
                continue;
            };
            // Its element may be gone, or another one in its place.
            let alive = crate::helpers::native::word_of(&timer.map, timer.word) == Some(timer.number);
            let Some(key) = timer.map.key_of(timer.value).filter(|_| alive) else { continue };
            let ctx = Ctx::bytes(program.prog_type, program.attach_type, &[]);
            let done = Checked::start_callback(&program, self, ctx, &timer, &key).and_then(|mut run| {
                let result = run.run(&mut ());
                run.finish(self);
                result
            });
            ran += 1;
            if let Err(fault) = done {
                due.for_each(|timer| engine.timers.put_back(&timer));
                return Err(fault.into());
            }
        }
        Ok(ran)
    }

    #[inline]
    pub(crate) fn fuel(&self) -> i64 {
        self.fuel
    }

    pub(crate) fn take_regions(&mut self) -> Regions {
        std::mem::take(&mut self.regions)
    }

    pub(crate) fn host(&mut self, exe: &Arc<Bound>, ctx: Ctx) -> Host {
        let deadline = self.engine.config.timeout.map(|timeout| Instant::now() + timeout);
        let entry = Entry::held(exe.clone());
        Host::new(entry, ctx, self.cx, self.stack.clone(), self.cancel.clone(), deadline, self.random)
    }

    /// The state of a run without a context, from the last run where there was one.
    #[inline]
    pub(crate) fn idle_host(&mut self, entry: Entry) -> Box<Host> {
        let Some(mut host) = self.idle.take() else { return self.new_host(entry) };
        host.wake(entry, self.cx, self.random);
        host
    }

    #[cold]
    fn new_host(&self, entry: Entry) -> Box<Host> {
        // Engines without checks take no program that has a deadline.
        Box::new(Host::new(entry, Ctx::taken(), self.cx, self.stack.clone(), self.cancel.clone(), None, self.random))
    }

    /// Keeps what [`Session::idle_host`] gave out.
    #[inline]
    pub(crate) fn keep_host(&mut self, mut host: Box<Host>, fuel: i64) {
        self.insns_left = fuel;
        self.random = host.rest();
        self.idle = Some(host);
    }

    pub(crate) fn take_back(&mut self, mut regions: Regions, fuel: i64, host: Host) -> Ctx {
        regions.clear();
        self.regions = regions;
        self.insns_left = fuel;
        let (ctx, random) = host.end();
        self.random = random;
        ctx
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("cx", &self.cx).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtbpf_isa::{RawInsn, decode};

    #[test]
    fn straight_runs_begin_at_targets_and_after_jumps() {
        let raw = |code, off, imm| RawInsn { code, off, imm, ..RawInsn::default() };
        let insns = [raw(0xb7, 0, 0), raw(0x07, 0, 1), raw(0x15, -2, 1), raw(0xb7, 0, 0), raw(0x95, 0, 0)];
        assert_eq!(costs(&decode(&insns).unwrap()), [1, 2, 0, 2, 0]);
    }
}
