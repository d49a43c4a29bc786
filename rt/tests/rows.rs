//! The rules that make run-to-completion work without disabling preemption, one test a rule, named by its row in
//! docs/locking.md.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rtbpf_rt::lock::order;
use rtbpf_rt::{
    Class, Delivery, Entry, Interrupted, Interrupts, Level, Lock, LockError, Missed, Model, Path, PiMutex,
    ProgCounters, Quiet, RawLock, RunCx, RunGuard, Slot, Slots, Source, pin,
};

const MODELS: [Model; 2] = [Model::NonRt, Model::Rt];

#[test]
fn row_01_the_model_is_a_value_and_decides_who_sleeps() {
    for model in MODELS {
        let slots = Slots::new(1, model);
        let slot = slots.get(0).expect("one");
        assert!(slot.cx(Level::Task, true).may_sleep());
        assert_eq!(slot.cx(Level::Soft, true).may_sleep(), model == Model::Rt);
        assert!(!slot.cx(Level::Hard, true).may_sleep() && !slot.cx(Level::Nmi, true).may_sleep());
    }
}

#[test]
fn row_02_maskable_interrupts_are_left_to_the_worker_on_rt() {
    for model in MODELS {
        let slots = Slots::new(1, model);
        let slot = slots.get(0).expect("one");
        let expected = if model == Model::Rt { Delivery::Deferred } else { Delivery::Now };
        assert_eq!(slot.deliver(1), expected);
        while slot.take_pending().is_some() {}
        rtbpf_rt::lock::held::me().set_pending(false);
    }
}

#[test]
fn row_04_one_slot_is_one_lane() {
    let slots = Slots::new(1, Model::Rt);
    let inside = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let program = ProgCounters::new(1);
                for _ in 0..2000 {
                    let lease = slots.lease().expect("task level waits");
                    let _run = Entry::begin(lease.slot(), Path::Packet, Level::Soft, &program).expect("ours");
                    assert_eq!(inside.swap(1, Ordering::SeqCst), 0);
                    inside.store(0, Ordering::SeqCst);
                }
            });
        }
    });
}

#[test]
fn row_05_a_sleeping_lock_masks_nothing_and_row_07_a_raw_one_does() {
    let slots = Slots::new(1, Model::NonRt);
    let slot = slots.get(0).expect("one");
    let (sleeping, raw) = (PiMutex::default(), RawLock::default());
    let cx = slot.cx(Level::Task, false);
    let held = sleeping.lock(&cx, Class::Control).expect("free");
    assert_eq!(slot.deliver(1), Delivery::Now);
    drop(held);
    let held = raw.lock(&cx, Class::Queue).expect("free");
    assert_eq!(slot.deliver(1), Delivery::Deferred);
    assert_eq!(slot.take_pending(), Some(1));
    drop(held);
}

#[test]
fn row_06_atomic_contexts_never_take_a_sleeping_lock() {
    let lock = PiMutex::default();
    for level in [Level::Hard, Level::Nmi] {
        for model in MODELS {
            let cx = RunCx { level, model, ..RunCx::CONTROL };
            assert_eq!(lock.lock(&cx, Class::Control).map(|_| ()).err(), Some(LockError::WouldSleep));
        }
    }
}

#[test]
fn row_09_the_slot_of_a_run_stays_when_the_thread_is_moved() {
    std::thread::spawn(|| {
        let slots = Slots::new(2, Model::Rt);
        let lease = slots.lease().expect("free");
        let program = ProgCounters::new(2);
        let run = Entry::begin(lease.slot(), Path::TestRun, Level::Task, &program).expect("nothing runs");
        let first = run.cx().slot;
        let elsewhere = (pin::current_cpu() as usize + 1) % std::thread::available_parallelism().map_or(1, usize::from);
        pin::pin_to(elsewhere).expect("a CPU of this machine");
        assert_eq!(run.cx().slot, first);
        assert_eq!(slots.lease().expect("nested").slot().id(), first);
    })
    .join()
    .expect("no panic");
}

#[test]
fn row_10_a_control_operation_keeps_tracing_programs_out_and_row_11_counts_them() {
    let slots = Slots::new(1, Model::Rt);
    let lease = slots.lease().expect("free");
    let program = ProgCounters::new(1);
    let (mut hits, mut ran) = (0, 0);
    for round in 0..100 {
        let quiet = (round % 3 == 0).then(|| Quiet::begin(lease.slot()));
        hits += 1;
        ran += u64::from(Entry::begin(lease.slot(), Path::Trace, Level::Nmi, &program).is_ok());
        drop(quiet);
    }
    assert_eq!(hits, ran + program.misses().recursion.load(Ordering::Relaxed));
    assert_eq!((ran, program.ran()), (66, 66));
    assert_eq!(lease.slot().misses().total(), 34);
}

#[test]
fn row_12_who_keeps_whom_out_is_the_paths_choice() {
    let slots = Slots::new(1, Model::Rt);
    let lease = slots.lease().expect("free");
    let slot = lease.slot();
    for path in Path::ALL.iter().copied().filter(|path| path.levels().1 >= Level::Hard) {
        let (a, b) = (ProgCounters::new(1), ProgCounters::new(1));
        let level = path.levels().1;
        let outer = Entry::begin(slot, path, level, &a).expect("nothing runs");
        let again = Entry::begin(slot, path, level, &a).map(|_| ());
        let other = Entry::begin(slot, path, level, &b).map(|_| ());
        let missed = Err(Missed::Recursion);
        let expected = match path.guard() {
            RunGuard::Slot => (missed, missed),
            RunGuard::Program => (missed, Ok(())),
            RunGuard::None => (Ok(()), Ok(())),
        };
        assert_eq!((again, other), expected, "{}", path.name());
        drop(outer);
        assert!(Entry::begin(slot, path, level, &a).is_ok(), "{} is free again", path.name());
    }
}

#[test]
fn row_15_other_threads_never_run_on_a_held_slot() {
    let slots = Slots::new(1, Model::Rt);
    let _lease = slots.lease().expect("free");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let program = ProgCounters::new(1);
            let slot = slots.get(0).expect("one");
            let refused = Entry::begin(slot, Path::Trampoline, Level::Task, &program).map(|_| ());
            assert_eq!(refused, Err(Missed::BusySlot));
            assert_eq!(program.misses().busy_slot.load(Ordering::Relaxed), 1);
        });
    });
}

#[test]
fn row_18_no_program_preempts_another_on_its_slot_in_either_model() {
    for model in MODELS {
        let slots = Slots::new(1, model);
        let (running, other) = (AtomicBool::new(false), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let lease = slots.lease().expect("free");
                let program = ProgCounters::new(1);
                let run = Entry::begin(lease.slot(), Path::Packet, Level::Soft, &program).expect("nothing runs");
                running.store(true, Ordering::Release);
                // Gives the CPU away in the middle of the run.
                std::thread::sleep(Duration::from_millis(20));
                assert!(!other.load(Ordering::Acquire), "{model:?}: another program ran in the middle of this one");
                drop((run, lease));
            });
            scope.spawn(|| {
                while !running.load(Ordering::Acquire) {
                    std::thread::yield_now();
                }
                let lease = slots.lease().expect("level Task waits");
                let program = ProgCounters::new(1);
                let _run = Entry::begin(lease.slot(), Path::Packet, Level::Soft, &program).expect("nothing runs");
                other.store(true, Ordering::Release);
            });
        });
        assert!(other.load(Ordering::Acquire), "{model:?}");
    }
}

/// How often of 100 runs a handler's program changed the slot's scratch value under the one it interrupted.
fn torn(path: Path, signal: i32) -> usize {
    let slots = Arc::new(Slots::new(1, Model::Rt));
    let lease = slots.lease().expect("free");
    let scratch = Arc::new(AtomicU64::new(0));
    let (outer, inner, shared) = (ProgCounters::new(1), ProgCounters::new(1), scratch.clone());
    let hook = Box::new(move |slot: &Slot, at: &Interrupted<'_>| {
        if let Ok(_run) = Entry::begin(slot, path, at.level(), &inner) {
            shared.store(u64::MAX, Ordering::Relaxed);
        }
    });
    let never = Source::Timer { period_ns: 3_600_000_000_000 };
    let _interrupts = Interrupts::start(&slots, 0, (never, signal, Level::Nmi), hook).expect("permitted");
    let tears = |value: u64| {
        let _run = Entry::begin(lease.slot(), path, Level::Task, &outer).expect("nothing runs");
        scratch.store(value, Ordering::Relaxed);
        // SAFETY: a signal to this thread, whose handler is installed.
        unsafe { libc::raise(signal) };
        scratch.load(Ordering::Relaxed) != value
    };
    (0..100).filter(|value| tears(*value)).count()
}

#[test]
fn row_15b_scratch_of_two_programs_is_torn_where_linux_tears_it_and_nowhere_else() {
    assert_eq!(torn(Path::Trampoline, libc::SIGRTMIN() + 1), 100, "another program may interrupt this one");
    assert_eq!(torn(Path::Trace, libc::SIGRTMIN() + 2), 0, "the slot's counter keeps it out");
}

#[test]
fn row_24_the_lock_kind_costs_nothing_at_run_time() {
    assert_eq!((size_of::<RawLock>(), size_of::<PiMutex>()), (4, 4));
    assert_eq!((RawLock::SLEEPS, PiMutex::SLEEPS), (false, true));
}

#[test]
fn row_32_sleeping_under_raw_is_reported() {
    let (raw, sleeping) = (RawLock::default(), PiMutex::default());
    let held = raw.lock(&RunCx::CONTROL, Class::Queue).expect("free");
    let inner = sleeping.lock(&RunCx::CONTROL, Class::Control);
    drop((inner, held));
    let (count, seen) = order::violations();
    if cfg!(debug_assertions) {
        assert!(count >= 1 && seen.iter().any(|v| v.held == Class::Queue && v.taken == Class::Control), "{seen:?}");
    }
}
