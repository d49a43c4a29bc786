//! Locks, leases and retirement under schedules that shuttle chooses: threads change places at every lock word.
//!
//! `RUSTFLAGS="--cfg shuttle" cargo test -p rtbpf-rt --test shuttle --release`; `RTBPF_SCHEDULES` sets how many. Memory is
//! sequentially consistent here; loom (`tests/loom.rs`) looks at what weaker orders do.
#![cfg(shuttle)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use rtbpf_rt::lock::prim::point;
use rtbpf_rt::{Class, Level, Lock, LockError, Model, PiMutex, RawLock, RunCx, Slots, gate};

const CX: RunCx = RunCx::CONTROL;
const HARD: RunCx = RunCx { level: Level::Hard, ..RunCx::CONTROL };

fn check(schedule: impl Fn() + Send + Sync + 'static) {
    let count = std::env::var("RTBPF_SCHEDULES").ok().and_then(|text| text.parse().ok()).unwrap_or(2000);
    shuttle::check_random(schedule, count);
    println!("{count} schedules");
}

/// Runs `work` in three threads.
fn three(work: impl Fn(usize) + Send + Sync + 'static) {
    let work = Arc::new(work);
    let start = |id| {
        let work = work.clone();
        shuttle::thread::spawn(move || work(id))
    };
    (0..3).map(start).collect::<Vec<_>>().into_iter().for_each(|thread| thread.join().expect("no panic"));
}

fn excludes<L: Lock + 'static>(class: Class) {
    check(move || {
        let (lock, total) = (L::default(), AtomicU32::new(0));
        let state = Arc::new((lock, total));
        let inner = state.clone();
        three(move |_| {
            for _ in 0..2 {
                let _held = inner.0.lock(&CX, class).expect("no deadlock");
                let seen = inner.1.load(Ordering::Relaxed);
                point();
                inner.1.store(seen + 1, Ordering::Relaxed);
            }
        });
        assert_eq!(state.1.load(Ordering::Relaxed), 6);
        assert!(state.0.try_acquire(&CX, class).is_ok(), "somebody left it held");
        state.0.release();
    });
}

/// The control: without a lock, an update is lost under some schedule.
#[test]
fn what_no_lock_protects_is_lost() {
    let unprotected = || {
        check(|| {
            let total = Arc::new(AtomicU32::new(0));
            let inner = total.clone();
            three(move |_| {
                let seen = inner.load(Ordering::Relaxed);
                point();
                inner.store(seen + 1, Ordering::Relaxed);
            });
            assert_eq!(total.load(Ordering::Relaxed), 3, "lost");
        });
    };
    assert!(std::panic::catch_unwind(unprotected).is_err());
}

#[test]
fn a_raw_lock_excludes() {
    excludes::<RawLock>(Class::Queue);
}

#[test]
fn a_sleeping_lock_excludes() {
    excludes::<PiMutex>(Class::Control);
}

#[test]
fn crossed_locks_end_and_at_most_one_thread_is_refused() {
    // A deadlock is seen, not timed out: also where the test itself gets no CPU for a while.
    RawLock::set_patience_ns(60_000_000_000);
    check(|| {
        let locks = Arc::new([RawLock::default(), RawLock::default()]);
        let refused = Arc::new(AtomicU32::new(0));
        let take = |first: usize| {
            let (locks, refused) = (locks.clone(), refused.clone());
            shuttle::thread::spawn(move || {
                let _outer = locks[first].lock(&HARD, Class::Queue).expect("nobody waits for ours yet");
                match locks[1 - first].lock(&HARD, Class::Queue) {
                    Ok(_inner) => {}
                    Err(LockError::Deadlock) => {
                        refused.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(error) => panic!("{error}"),
                }
            })
        };
        let threads = [take(0), take(1)];
        threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
        assert!(refused.load(Ordering::Relaxed) <= 1);
        assert!(!locks[0].is_held() && !locks[1].is_held());
    });
}

#[test]
fn a_slot_has_one_thread_at_a_time() {
    check(|| {
        let slots = Slots::new(2, Model::Rt);
        let inside = [AtomicU32::new(0), AtomicU32::new(0)];
        three(move |_| {
            let lease = slots.lease().expect("level Task waits");
            let id = lease.slot().id() as usize;
            assert_eq!(inside[id].swap(1, Ordering::SeqCst), 0, "two threads on slot {id}");
            point();
            inside[id].store(0, Ordering::SeqCst);
        });
    });
}

#[test]
fn what_is_retired_outlives_the_sections_that_could_see_it() {
    check(|| {
        let freed: Arc<[AtomicBool; 4]> = Arc::new(std::array::from_fn(|_| AtomicBool::new(false)));
        let current = Arc::new(AtomicUsize::new(0));
        let (all, shown) = (freed.clone(), current.clone());
        three(move |id| match id {
            0 => {
                for next in 1..4 {
                    point();
                    let old = shown.swap(next, Ordering::SeqCst);
                    let all = all.clone();
                    gate::retire(move || all[old].store(true, Ordering::SeqCst));
                }
            }
            _ => {
                let _section = gate::enter();
                point();
                let seen = shown.load(Ordering::SeqCst);
                point();
                assert!(!all[seen].load(Ordering::SeqCst), "{seen} was freed under a reader");
            }
        });
        assert_eq!(gate::reclaim(), 0, "all readers have left");
        assert_eq!(freed.iter().filter(|freed| freed.load(Ordering::SeqCst)).count(), 3);
    });
}
