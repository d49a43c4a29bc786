//! Worker threads: one a slot, pinned to its CPU, on which programs run to completion without changing it.
//!
//! ```text
//!  caller ── job ──▶ mailbox of slot 0 ──▶ thread 0: lease of slot 0, session 0
//!         ── job ──▶ mailbox of slot 1 ──▶ thread 1: lease of slot 1, session 1
//! ```
//!
//! rayon makes and pins the threads; each then serves its own mailbox, since rayon cannot aim a job at one thread. A
//! thread holds its slot's lease all its life: what belongs to the slot (per-CPU values, free lists) is touched by this
//! thread alone.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use rtbpf_rt::pin;
use rtbpf_rt::slot::Slots;

use crate::engine::Engine;
use crate::executable::Session;

/// Why work could not be given to a worker.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkersError {
    /// The threads could not be made.
    #[error("no worker threads: {0}")]
    Start(#[from] rayon::ThreadPoolBuildError),
    /// There is no such slot.
    #[error("no slot {slot}; there are {slots}")]
    NoSlot {
        /// As asked for.
        slot: u32,
        /// How many there are.
        slots: u32,
    },
    /// A worker asked its own pool, and would wait for itself.
    #[error("called on a worker thread, which would wait for itself: run in the session the job was given")]
    OnWorker,
    /// The worker is gone.
    #[error("the worker of slot {0} has ended")]
    Ended(u32),
}

type Job = Box<dyn FnOnce(&mut Session) + Send>;

thread_local! {
    static IS_WORKER: Cell<bool> = const { Cell::new(false) };
}

/// The workers of an engine. Dropping them waits for the jobs that were given.
#[derive(Debug)]
pub struct Workers {
    mailboxes: Vec<Sender<Job>>,
    pinned: Arc<[Mutex<Option<usize>>]>,
    // Dropped after the mailboxes: the threads end when these are gone.
    _pool: rayon::ThreadPool,
}

impl Workers {
    /// A thread for each slot of `engine`, pinned to the slot's CPU where the process may run there. Where there are more
    /// slots than CPUs, several share one. A worker begins when its slot is free: nobody else leases it.
    pub fn new(engine: &Engine) -> Result<Workers, WorkersError> {
        let count = engine.config().slots.max(1);
        let slots = engine.slots().clone();
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let pinned: Arc<[Mutex<Option<usize>>]> = (0..count).map(|_| Mutex::new(None)).collect();
        let (mailboxes, receivers): (Vec<_>, Vec<_>) = (0..count).map(|_| channel::<Job>()).unzip();
        let receivers: Vec<_> = receivers.into_iter().map(|receiver| Mutex::new(Some(receiver))).collect();
        let places = pinned.clone();
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(count as usize)
            .thread_name(|index| format!("rtbpf/{index}"))
            .start_handler(move |index| {
                IS_WORKER.set(true);
                let cpu = index % cpus;
                if pin::pin_to(cpu).is_ok()
                    && let Some(Ok(mut place)) = places.get(index).map(Mutex::lock)
                {
                    *place = Some(cpu);
                }
            })
            .build()?;
        let engine = engine.clone();
        pool.spawn_broadcast(move |thread| {
            let mine = receivers.get(thread.index()).and_then(|receiver| receiver.lock().ok()?.take());
            if let (Some(jobs), Ok(slot)) = (mine, u32::try_from(thread.index())) {
                serve(&engine, &slots, slot, jobs);
            }
        });
        Ok(Workers { mailboxes, pinned, _pool: pool })
    }

    /// How many there are: one a slot.
    pub fn len(&self) -> u32 {
        self.mailboxes.len() as u32
    }

    /// Never: there is at least one.
    pub fn is_empty(&self) -> bool {
        self.mailboxes.is_empty()
    }

    /// The CPU that the worker of `slot` is pinned to; `None` where the system did not allow it.
    pub fn cpu(&self, slot: u32) -> Option<usize> {
        self.pinned.get(slot as usize).and_then(|place| *place.lock().ok()?)
    }

    /// Runs `job` on the worker of `slot` and waits for its answer. A panic in it goes on in the caller.
    pub fn run_on<R: Send + 'static>(
        &self,
        slot: u32,
        job: impl FnOnce(&mut Session) -> R + Send + 'static,
    ) -> Result<R, WorkersError> {
        self.start(slot, job)?.wait()
    }

    /// Gives `job` to the worker of `slot` and goes on.
    pub fn start<R: Send + 'static>(
        &self,
        slot: u32,
        job: impl FnOnce(&mut Session) -> R + Send + 'static,
    ) -> Result<Pending<R>, WorkersError> {
        if IS_WORKER.get() {
            return Err(WorkersError::OnWorker);
        }
        let no_slot = WorkersError::NoSlot { slot, slots: self.len() };
        let mailbox = self.mailboxes.get(slot as usize).ok_or(no_slot)?;
        let (send, answer) = channel();
        let job: Job = Box::new(move |session| {
            // Nobody may wait for the answer any more.
            let _ = send.send(catch_unwind(AssertUnwindSafe(|| job(session))));
        });
        mailbox.send(job).map_err(|_| WorkersError::Ended(slot))?;
        Ok(Pending { slot, answer })
    }

    /// Runs `job` on every worker at once and waits for all answers, in the order of the slots.
    pub fn run_on_all<R: Send + 'static>(
        &self,
        job: impl Fn(&mut Session) -> R + Send + Sync + 'static,
    ) -> Result<Vec<R>, WorkersError> {
        let job = Arc::new(job);
        let started: Vec<Pending<R>> = (0..self.len())
            .map(|slot| {
                let job = job.clone();
                self.start(slot, move |session| job(session))
            })
            .collect::<Result<_, _>>()?;
        started.into_iter().map(Pending::wait).collect()
    }
}

/// An answer to come.
#[derive(Debug)]
pub struct Pending<R> {
    slot: u32,
    answer: Receiver<std::thread::Result<R>>,
}

impl<R> Pending<R> {
    /// Waits for it. A panic in the job goes on here.
    pub fn wait(self) -> Result<R, WorkersError> {
        match self.answer.recv() {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(panic)) => resume_unwind(panic),
            Err(_) => Err(WorkersError::Ended(self.slot)),
        }
    }
}

/// A worker's life: until every sender of its mailbox is gone.
fn serve(engine: &Engine, slots: &Slots, slot: u32, jobs: Receiver<Job>) {
    let Ok(_lease) = slots.lease_of(slot) else { return };
    let mut session = engine.session(slot);
    for job in jobs {
        job(&mut session);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rtbpf_abi::{MapKind, MapSpec, ProgType, helper};
    use rtbpf_maps::{CreateCx, create};
    use rtbpf_rt::RunCx;
    use rtbpf_verifier::Assumptions;

    use super::*;
    use crate::{Config, Ctx, Executable};

    const SLOTS: u32 = 3;

    fn engine() -> Engine {
        Engine::new(Config { slots: SLOTS, ..Config::linux() })
    }

    /// Adds one to this CPU's value; answers the CPU.
    fn counting(engine: &Engine) -> (Executable, rtbpf_maps::MapRef) {
        let map = create(&MapSpec::new(MapKind::PercpuArray, 4, 8, 1), &CreateCx::new(SLOTS)).expect("one page");
        let text = "r1 = map[fd:0] ll\nr2 = r10\nr2 += -4\n*(u32 *)(r2 + 0) = 0\ncall bpf_map_lookup_elem\n\
                    if r0 == 0 goto none\nr1 = *(u64 *)(r0 + 0)\nr1 += 1\n*(u64 *)(r0 + 0) = r1\nnone:\n\
                    call bpf_get_smp_processor_id\nexit";
        let by_name = |name: &str| helper::by_name(name).map(|id| id.0 as i32);
        let assembly = rtbpf_isa::asm::assemble_with(text, &by_name).expect("the test's program");
        let program = rtbpf_isa::decode(&assembly.slots).expect("the test's program");
        let program = engine.bind_unverified(program, Assumptions::new(ProgType::Plain), vec![map.clone()]);
        (program.expect("the test's program"), map)
    }

    #[test]
    fn each_slot_has_a_thread_of_its_own() {
        let engine = engine();
        let workers = Workers::new(&engine).unwrap();
        let (program, map) = counting(&engine);
        let program = Arc::new(program);
        let cpus = workers.run_on_all(move |session| {
            for _ in 0..9_999 {
                program.run(session, &mut Ctx::plain(&[])).unwrap();
            }
            program.run(session, &mut Ctx::plain(&[])).unwrap()
        });
        assert_eq!(cpus.unwrap(), [0, 1, 2]);
        let mut counts = Vec::new();
        map.read(&RunCx::CONTROL, &[0; 4], 0, &mut counts).unwrap();
        assert_eq!(counts, [10_000u64; SLOTS as usize].map(u64::to_le_bytes).concat());
    }

    #[test]
    fn jobs_of_a_slot_run_in_order_on_one_thread() {
        let workers = Workers::new(&engine()).unwrap();
        let name = || std::thread::current().name().unwrap_or_default().to_owned();
        let started: Vec<_> = (0..4).map(|n| workers.start(1, move |_| (n, name())).unwrap()).collect();
        let ran: Vec<_> = started.into_iter().map(|pending| pending.wait().unwrap()).collect();
        assert_eq!(ran, [0, 1, 2, 3].map(|n| (n, "rtbpf/1".to_owned())));
    }

    #[test]
    fn a_panic_goes_to_who_waits_and_the_worker_goes_on() {
        let workers = Workers::new(&engine()).unwrap();
        let panicked = catch_unwind(AssertUnwindSafe(|| workers.run_on(0, |_| -> u32 { panic!("as asked") })));
        assert!(panicked.is_err());
        assert_eq!(workers.run_on(0, |_| 7).unwrap(), 7);
    }

    #[test]
    fn waiting_for_oneself_and_slots_that_are_not_there_are_errors() {
        let workers = Arc::new(Workers::new(&engine()).unwrap());
        assert!(matches!(workers.run_on(SLOTS, |_| ()), Err(WorkersError::NoSlot { slot: 3, slots: 3 })));
        let (inner, (send, wait)) = (workers.clone(), channel());
        let pending = workers.start(0, move |_| {
            let refused = matches!(inner.run_on(0, |_| ()), Err(WorkersError::OnWorker));
            // The last owner must not be a worker: it would wait for itself.
            send.send(inner).unwrap();
            refused
        });
        assert!(pending.unwrap().wait().unwrap());
        drop(wait);
    }

    #[test]
    fn workers_say_where_they_are_pinned() {
        let workers = Workers::new(&engine()).unwrap();
        let real = workers.run_on(1, |_| pin::current_cpu() as usize).unwrap();
        assert!(workers.cpu(1).is_none_or(|cpu| cpu == real));
    }
}
