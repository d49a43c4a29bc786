//! The sampling hook: a perf_event program that a signal runs inside the thread it interrupts.
//!
//! ```text
//!  timer or cpu-clock ──▶ handler (level Hard or Nmi) ──▶ run gate ──▶ native code
//!                                                     └──▶ missed, and counted
//! ```
//!
//! The program reads the interrupted registers through its context, stores the interrupted stack by `bpf_get_stackid`,
//! and updates maps that the interrupted code may be using at that moment: locks in handlers are only tried. Nothing on
//! the way allocates; a program that calls a helper which might is not attached.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rtbpf_abi::limits::STACK_BYTES;
use rtbpf_abi::{HelperId, ProgType, helper};
use rtbpf_isa::{Callee, Insn};
use rtbpf_rt::{
    Entry, InterruptError, Interrupted, Interrupts, Lease, Level, Misses, Path, ProgCounters, Slot, Source,
};

use crate::ctx::Ctx;
use crate::error::Error;
use crate::executable::{Executable, Session};
use crate::native::Native;
use crate::unchecked::Prepared;

/// Helpers that neither allocate nor wait.
const SAFE: &[&str] = &[
    "map_lookup_elem",
    "map_update_elem",
    "map_delete_elem",
    "map_push_elem",
    "map_pop_elem",
    "map_peek_elem",
    "map_lookup_percpu_elem",
    "ktime_get_ns",
    "ktime_get_boot_ns",
    "jiffies64",
    "get_prandom_u32",
    "get_smp_processor_id",
    "get_numa_node_id",
    "get_current_pid_tgid",
    "get_current_uid_gid",
    "get_stackid",
    "ringbuf_output",
    "ringbuf_query",
    "loop",
];

/// Frames of a stack, at most.
const MAX_FRAMES: usize = 127;

/// Why a program could not be attached.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HookError {
    /// Only perf_event programs are.
    #[error("{0} programs cannot sample (must be perf_event)")]
    NotPerfEvent(&'static str),
    /// It calls something that may allocate or wait.
    #[error("calls {0}, which may allocate or wait in a handler")]
    Unsafe(String),
    /// Its map's keys would be copied to the heap.
    #[error("keys of {0} bytes are copied to the heap (at most {STACK_BYTES} bytes in a handler)")]
    LongKey(u32),
    /// The slot is not one of the program's engine.
    #[error("the lease is of another engine's slots")]
    OtherSlots,
    /// The signal could not be set up.
    #[error(transparent)]
    Interrupts(#[from] InterruptError),
    /// The program could not be made ready.
    #[error(transparent)]
    Prepare(Error),
}

/// What became of the interrupts: `hits = ran + missed`, exactly.
struct Counts {
    hits: AtomicU64,
    faults: AtomicU64,
    program: ProgCounters,
}

/// A program attached to interrupts of the calling thread, until dropped.
pub struct Sampler {
    counts: Arc<Counts>,
    interrupts: Option<Interrupts>,
}

impl Native {
    /// Attaches this perf_event program to interrupts of the calling thread, which holds `lease`: each `source` sends it
    /// `signal`, and the program runs in the handler at `level` (Hard or Nmi).
    ///
    /// At level Hard interrupts that come under a raw lock are missed; at level Nmi they run there too, and an update
    /// that needs the lock answers EBUSY or EDEADLK to the program. The thread needs 64 KiB of stack to spare.
    pub fn sample(&self, lease: &Lease<'_>, source: Source, signal: i32, level: Level) -> Result<Sampler, HookError> {
        let exe = self.executable();
        check(exe)?;
        let engine = exe.bound().engine.clone();
        let slot = lease.slot();
        if !engine.slots.get(slot.id()).is_some_and(|ours| std::ptr::eq(ours, slot)) {
            return Err(HookError::OtherSlots);
        }
        let mut session = Session::new(&engine, slot.id());
        let ctx = Ctx::bytes(ProgType::PerfEvent, exe.attach_type(), &[]);
        let prepared = self.prepare(&mut session, ctx).map_err(|(error, _)| HookError::Prepare(error))?;
        // Registers the thread as a reader of maps, so that the handler need not.
        drop(rtbpf_rt::gate::enter());
        let program = ProgCounters::new(engine.slots.len());
        let counts = Arc::new(Counts { hits: AtomicU64::new(0), faults: AtomicU64::new(0), program });
        let mut run =
            Sample { counts: counts.clone(), session, prepared, frames: Some(Vec::with_capacity(MAX_FRAMES)) };
        let hook = Box::new(move |slot: &Slot, at: &Interrupted<'_>| run.take(slot, at));
        let interrupts = Interrupts::start(&engine.slots, slot.id(), (source, signal, level), hook)?;
        Ok(Sampler { counts, interrupts: Some(interrupts) })
    }
}

impl Sampler {
    /// Detaches the program; the counts stand still from here on.
    pub fn stop(&mut self) {
        self.interrupts = None;
    }

    /// Interrupts so far.
    pub fn hits(&self) -> u64 {
        self.counts.hits.load(Ordering::Relaxed)
    }

    /// Runs so far.
    pub fn ran(&self) -> u64 {
        self.counts.program.ran()
    }

    /// Runs that did not happen, by cause.
    pub fn misses(&self) -> &Misses {
        self.counts.program.misses()
    }

    /// Runs that ended with a fault.
    pub fn faults(&self) -> u64 {
        self.counts.faults.load(Ordering::Relaxed)
    }
}

impl std::fmt::Debug for Sampler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sampler").field("hits", &self.hits()).field("ran", &self.ran()).finish_non_exhaustive()
    }
}

/// Whether nothing the program does is forbidden in a handler.
fn check(exe: &Executable) -> Result<(), HookError> {
    if exe.prog_type() != ProgType::PerfEvent {
        return Err(HookError::NotPerfEvent(exe.prog_type().name()));
    }
    for (_, insn) in exe.program().iter() {
        let called = match *insn {
            Insn::Call(Callee::Helper(id)) => {
                let name = u32::try_from(id).ok().and_then(|id| helper::name(HelperId(id)));
                match name {
                    Some(name) if SAFE.contains(&name) => continue,
                    Some(name) => name.to_string(),
                    None => format!("helper {id}"),
                }
            }
            Insn::Call(Callee::Kfunc { .. }) => "a kernel function".to_string(),
            _ => continue,
        };
        return Err(HookError::Unsafe(called));
    }
    let long = exe.maps().iter().map(|map| map.spec().key_size).find(|bytes| *bytes > STACK_BYTES);
    long.map_or(Ok(()), |bytes| Err(HookError::LongKey(bytes)))
}

/// One program's runs in the handler.
struct Sample {
    counts: Arc<Counts>,
    session: Session,
    prepared: Prepared<rtbpf_jit::Native>,
    /// Lent to each run.
    frames: Option<Vec<u64>>,
}

impl Sample {
    /// Async-signal-safe.
    fn take(&mut self, slot: &Slot, at: &Interrupted<'_>) {
        let (level, counts) = (at.level(), &*self.counts);
        counts.hits.fetch_add(1, Ordering::Relaxed);
        if level == Level::Hard && slot.is_masked() {
            slot.misses().masked.fetch_add(1, Ordering::Relaxed);
            counts.program.misses().masked.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let Ok(entry) = Entry::begin(slot, Path::PerfOverflow, level, &counts.program) else { return };
        let mut frames = self.frames.take().unwrap_or_default();
        frames.clear();
        at.frames(&mut frames);
        let (finished, frames) = self.prepared.sample(&self.session, entry.cx(), at, frames);
        self.frames = Some(frames);
        counts.faults.fetch_add(u64::from(!finished), Ordering::Relaxed);
    }
}
