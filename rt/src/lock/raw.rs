//! The lock that never sleeps above task level.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::level::{Level, RunCx};
use crate::lock::order::Class;
use crate::lock::{Lock, LockError, held, prim, word};

/// Spins before a task-level waiter sleeps (and boosts the owner), and between two looks for a deadlock: about 5 µs.
const SPINS: u32 = if cfg!(shuttle) { 2 } else { 128 };

/// How long a waiter above task level waits for a lock, ns. Linux gives up after 250 ms, which no deadline survives.
static PATIENCE_NS: AtomicU64 = AtomicU64::new(10_000_000);

/// A lock for critical sections that are bounded: buckets and lists of preallocated maps.
///
/// * Level Task waits with a bounded spin, then sleeps in `FUTEX_LOCK_PI`, so that a preempted holder runs.
/// * Levels Soft and Hard only spin, up to a limit ([`RawLock::set_patience_ns`]).
/// * Level Nmi only tries.
///
/// A lock its own thread holds is refused at once, and so is one whose owner waits for a lock of ours.
#[derive(Default)]
#[repr(transparent)]
pub struct RawLock {
    word: AtomicU32,
}

impl RawLock {
    /// Sets how long levels Soft and Hard wait, ns, for the whole process.
    pub fn set_patience_ns(ns: u64) {
        PATIENCE_NS.store(ns, Ordering::Relaxed);
    }

    /// The lock that a value's own word is (`bpf_spin_lock`, `bpf_res_spin_lock`).
    pub fn of_word(word: &AtomicU32) -> &RawLock {
        // SAFETY: `RawLock` is a transparent wrapper of this type.
        unsafe { &*std::ptr::from_ref(word).cast() }
    }

    /// Gives back a lock that need not be the one taken last: programs choose their own order.
    pub fn release_any(&self) {
        let me = held::me();
        if word::owner(&self.word) == me.tid() {
            word::give_back(&self.word, me.tid());
            me.pop_address(self.address());
            me.unmask();
        }
    }

    /// Whether anyone holds it, at this moment.
    pub fn is_held(&self) -> bool {
        word::owner(&self.word) != 0
    }

    fn address(&self) -> usize {
        std::ptr::from_ref(self) as usize
    }

    /// Takes it after the first attempt, which `me` has noted, was in vain.
    #[cold]
    fn take_later(&self, cx: &RunCx, class: Class, me: held::Me) -> Result<(), LockError> {
        self.wait(cx, me).inspect(|()| me.taken(class, cx.level as u8)).inspect_err(|_| me.pop_raw())
    }

    fn wait(&self, cx: &RunCx, me: held::Me) -> Result<(), LockError> {
        if word::owner(&self.word) == me.tid() {
            return Err(LockError::Deadlock);
        }
        let mut until = None;
        loop {
            for _ in 0..SPINS {
                if self.word.load(Ordering::Relaxed) == 0 && word::try_take(&self.word, me.tid()) {
                    return Ok(());
                }
                if cx.level == Level::Nmi {
                    return Err(LockError::Busy);
                }
                prim::pause();
            }
            if me.is_deadlocked_with(word::owner(&self.word), self.address()) {
                return Err(LockError::Deadlock);
            }
            let patience = PATIENCE_NS.load(Ordering::Relaxed);
            if cx.level == Level::Task {
                // In slices, so that a deadlock which closes while we sleep is still found.
                match word::sleep(&self.word, Some(patience)) {
                    Err(LockError::TimedOut) => {}
                    other => return other,
                }
            }
            let now = word::clock_ns(libc::CLOCK_MONOTONIC);
            let slices = if cx.level == Level::Task { 25 } else { 1 };
            if now > *until.get_or_insert(now.saturating_add(patience.saturating_mul(slices))) {
                return Err(LockError::TimedOut);
            }
        }
    }
}

impl Lock for RawLock {
    const SLEEPS: bool = false;

    #[inline(always)]
    fn take(&self, cx: &RunCx, class: Class) -> Result<held::Me, LockError> {
        let me = held::me();
        me.push_raw(self.address(), class, cx.level as u8);
        if word::try_take(&self.word, me.tid()) {
            me.taken(class, cx.level as u8);
            return Ok(me);
        }
        self.take_later(cx, class, me).map(|()| me)
    }

    fn try_acquire(&self, cx: &RunCx, class: Class) -> Result<(), LockError> {
        let me = held::me();
        me.push_raw(self.address(), class, cx.level as u8);
        if word::try_take(&self.word, me.tid()) {
            return Ok(());
        }
        me.pop_raw();
        Err(LockError::Busy)
    }

    #[inline(always)]
    fn give_back(&self, me: held::Me) {
        word::give_back(&self.word, me.tid());
        me.pop_raw();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::AtomicBool;
    use std::time::{Duration, Instant};

    use super::*;

    const CX: RunCx = RunCx::CONTROL;
    const HARD: RunCx = RunCx { level: Level::Hard, ..RunCx::CONTROL };
    const NMI: RunCx = RunCx { level: Level::Nmi, ..RunCx::CONTROL };

    #[test]
    fn a_lock_excludes_and_counts_right() {
        let (lock, total) = (RawLock::default(), AtomicU64::new(0));
        // Where every hand-over goes through an emulated kernel, time is up first.
        let until = Instant::now() + Duration::from_secs(2);
        let add = || {
            let turns = (0..20_000).take_while(|turn| turn % 16 != 0 || Instant::now() < until);
            turns
                .map(|_| {
                    let _guard = lock.lock(&CX, Class::Queue).expect("no deadlock here");
                    total.store(total.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
                })
                .count() as u64
        };
        let added: u64 = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(add)).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
        });
        assert!(added > 0);
        assert_eq!(total.load(Ordering::Relaxed), added);
        assert!(!lock.is_held());
    }

    #[test]
    fn a_lock_of_ones_own_is_refused_at_every_level() {
        let lock = RawLock::default();
        let _guard = lock.lock(&CX, Class::Bucket);
        for cx in [CX, HARD, NMI] {
            assert_eq!(lock.acquire(&cx, Class::Bucket), Err(LockError::Deadlock));
        }
    }

    /// The steps of `acquire` one by one, and what a handler meets between them.
    #[test]
    fn a_handler_between_intent_and_lock_is_served_and_after_it_is_refused_at_once() {
        let (lock, me) = (RawLock::default(), held::me());
        me.push_raw(lock.address(), Class::Bucket, Level::Task as u8);
        for cx in [HARD, NMI] {
            assert_eq!(lock.acquire(&cx, Class::Bucket), Ok(()), "nobody has it yet");
            lock.release();
        }
        assert!(word::try_take(&lock.word, me.tid()));
        for cx in [HARD, NMI] {
            assert_eq!(lock.acquire(&cx, Class::Bucket), Err(LockError::Deadlock), "not after a timeout");
        }
        me.taken(Class::Bucket, Level::Task as u8);
        lock.release();
        assert!(!lock.is_held());
    }

    #[test]
    fn nmi_only_tries() {
        let (lock, held) = (RawLock::default(), Barrier::new(2));
        std::thread::scope(|scope| {
            let (lock, held) = (&lock, &held);
            scope.spawn(move || {
                let _guard = lock.lock(&CX, Class::Bucket);
                held.wait();
                held.wait();
            });
            held.wait();
            assert_eq!(lock.acquire(&NMI, Class::Bucket), Err(LockError::Busy));
            held.wait();
        });
        assert!(lock.lock(&NMI, Class::Bucket).is_ok());
    }

    #[test]
    fn of_two_crossed_waiters_one_is_refused_and_the_other_proceeds() {
        // A deadlock is seen, not timed out: also where the other thread gets no CPU for a while.
        RawLock::set_patience_ns(60_000_000_000);
        let locks = [RawLock::default(), RawLock::default()];
        let (refused, both) = (AtomicBool::new(false), Barrier::new(2));
        std::thread::scope(|scope| {
            let (both, locks, refused) = (&both, &locks, &refused);
            for first in 0..2 {
                scope.spawn(move || {
                    let _outer = locks[first].lock(&HARD, Class::Queue).expect("free");
                    both.wait();
                    match locks[1 - first].acquire(&HARD, Class::Queue) {
                        Ok(()) => locks[1 - first].release(),
                        Err(error) => {
                            assert_eq!(error, LockError::Deadlock);
                            assert!(!refused.swap(true, Ordering::Relaxed), "both were refused");
                        }
                    }
                });
            }
        });
        assert!(refused.load(Ordering::Relaxed));
        assert!(!locks[0].is_held() && !locks[1].is_held());
    }
}
