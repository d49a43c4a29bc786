//! A storm of signals over one lock: every hit is a run or a counted miss, nothing deadlocks, nothing is lost.

use std::sync::Mutex;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::entry::{Entry, Path, ProgCounters, Quiet};
use crate::level::{Level, Model};
use crate::lock::{Class, Lock, LockError, RawLock, word};
use crate::slot::{Slot, Slots};

struct Shared {
    lock: RawLock,
    /// Only changed under the lock, by a load and a store.
    total: AtomicU64,
    program: ProgCounters,
    hits: AtomicU64,
    done: AtomicU64,
    refused: AtomicU64,
    late: AtomicU64,
    stop: Instant,
    timer: AtomicPtr<libc::c_void>,
}

static SLOT: AtomicPtr<Slot> = AtomicPtr::new(std::ptr::null_mut());
static SHARED: AtomicPtr<Shared> = AtomicPtr::new(std::ptr::null_mut());

fn add(shared: &Shared) {
    shared.total.store(shared.total.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    shared.done.fetch_add(1, Ordering::Relaxed);
}

extern "C" fn handler(_: libc::c_int) {
    // SAFETY: both are set before the timer starts and cleared after it is gone; what they point to outlives it.
    let (slot, shared) = unsafe { (SLOT.load(Ordering::Acquire).as_ref(), SHARED.load(Ordering::Acquire).as_ref()) };
    let (Some(slot), Some(shared)) = (slot, shared) else { return };
    shared.hits.fetch_add(1, Ordering::Relaxed);
    // Where a handler takes longer than the period, the thread itself would never see that time is up.
    if Instant::now() > shared.stop {
        set(shared.timer.load(Ordering::Relaxed), 0);
    }
    let Ok(entry) = Entry::begin(slot, Path::PerfOverflow, Level::Nmi, &shared.program) else { return };
    // By the thread's own time: what the system takes from it is no wait.
    let cpu_ns = || word::clock_ns(libc::CLOCK_THREAD_CPUTIME_ID);
    let start = cpu_ns();
    match shared.lock.lock(&entry.cx(), Class::Bucket) {
        Ok(_held) => add(shared),
        Err(LockError::Deadlock | LockError::Busy) => {
            shared.refused.fetch_add(1, Ordering::Relaxed);
        }
        Err(_) => unreachable!("an NMI never waits"),
    }
    if cpu_ns() - start > 100_000_000 {
        shared.late.fetch_add(1, Ordering::Relaxed);
    }
}

/// Lets a timer fire every `ns`, or never again for 0.
fn set(timer: libc::timer_t, ns: libc::c_long) {
    let every = libc::timespec { tv_sec: 0, tv_nsec: ns };
    let setting = libc::itimerspec { it_interval: every, it_value: every };
    // SAFETY: the timer was made by `timer_create` and lives; timer_settime(2) is async-signal-safe.
    unsafe { libc::timer_settime(timer, 0, &setting, std::ptr::null_mut()) };
}

/// Sends the calling thread `signal` every `ns` until the guard drops.
struct Timer(libc::timer_t);

impl Timer {
    fn start(signal: libc::c_int, ns: libc::c_long, timer_of: &AtomicPtr<libc::c_void>) -> Option<Timer> {
        // SAFETY: plain structures, zeroed and filled; the handler is async-signal-safe.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handler as *const () as usize;
            action.sa_flags = libc::SA_RESTART;
            libc::sigaction(signal, &action, std::ptr::null_mut());
            let mut event: libc::sigevent = std::mem::zeroed();
            event.sigev_notify = libc::SIGEV_THREAD_ID;
            event.sigev_signo = signal;
            event.sigev_notify_thread_id = libc::syscall(libc::SYS_gettid) as libc::c_int;
            let mut timer = std::mem::zeroed();
            if libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, &mut timer) != 0 {
                return None;
            }
            timer_of.store(timer, Ordering::Relaxed);
            set(timer, ns);
            Some(Timer(timer))
        }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        // SAFETY: made by `timer_create` and deleted once.
        unsafe { libc::timer_delete(self.0) };
    }
}

#[test]
fn a_signal_storm_over_one_lock_loses_and_blocks_nothing() {
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock();
    let slots = Slots::new(2, Model::NonRt);
    let shared = Shared {
        lock: RawLock::default(),
        total: AtomicU64::new(0),
        program: ProgCounters::new(2),
        hits: AtomicU64::new(0),
        done: AtomicU64::new(0),
        refused: AtomicU64::new(0),
        late: AtomicU64::new(0),
        stop: Instant::now() + Duration::from_millis(300),
        timer: AtomicPtr::new(std::ptr::null_mut()),
    };
    let stop = shared.stop;
    std::thread::scope(|scope| {
        let (shared, slots) = (&shared, &slots);
        scope.spawn(move || {
            let lease = slots.lease_of(0).expect("free");
            SHARED.store(std::ptr::from_ref(shared).cast_mut(), Ordering::Release);
            SLOT.store(std::ptr::from_ref(lease.slot()).cast_mut(), Ordering::Release);
            let Some(timer) = Timer::start(libc::SIGUSR1, 20_000, &shared.timer) else {
                println!("skipped: no timers here");
                return;
            };
            let cx = lease.slot().cx(Level::Task, false);
            for round in 0u64.. {
                let quiet = round.is_multiple_of(4).then(|| Quiet::begin(lease.slot()));
                let held = shared.lock.lock(&cx, Class::Bucket).expect("task level waits");
                add(shared);
                drop((held, quiet));
                if round % 64 == 0 && Instant::now() > stop {
                    break;
                }
            }
            drop(timer);
            SLOT.store(std::ptr::null_mut(), Ordering::Release);
        });
        scope.spawn(move || {
            let lease = slots.lease_of(1).expect("free");
            let cx = lease.slot().cx(Level::Task, false);
            while Instant::now() < stop {
                let _held = shared.lock.lock(&cx, Class::Bucket).expect("task level waits");
                add(shared);
            }
        });
    });
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let (hits, ran, missed) = (count(&shared.hits), shared.program.ran(), shared.program.misses().total());
    println!("{hits} hits = {ran} ran + {missed} missed; {} refused the lock", count(&shared.refused));
    assert_eq!(hits, ran + missed);
    assert_eq!(count(&shared.total), count(&shared.done), "a section was entered twice");
    assert_eq!(count(&shared.late), 0, "a handler waited");
    assert!(!shared.lock.is_held());
}

#[test]
fn a_handler_between_the_exchange_and_its_record_is_refused_at_once() {
    // The record comes first: what a handler would find in between is a lock that is wanted, and then held, by its own
    // thread. Both states are refused without waiting.
    let lock = RawLock::default();
    let me = crate::lock::held::me();
    let nmi = crate::RunCx { level: Level::Nmi, ..crate::RunCx::CONTROL };
    let hard = crate::RunCx { level: Level::Hard, ..crate::RunCx::CONTROL };
    let held = lock.lock(&crate::RunCx::CONTROL, Class::Bucket).expect("free");
    assert_eq!(me.depth(), 1, "recorded when the exchange has succeeded");
    for cx in [nmi, hard] {
        // A waiter would wait each time; a machine that stops between two readings of the clock does not do so each time.
        let refused_in = |_| {
            let start = Instant::now();
            assert_eq!(lock.acquire(&cx, Class::Bucket), Err(LockError::Deadlock));
            start.elapsed()
        };
        assert!((0..32).map(refused_in).min() < Some(Duration::from_millis(5)), "refused after a timeout");
    }
    drop(held);
    assert_eq!((me.depth(), me.raw_depth()), (0, 0));
}
