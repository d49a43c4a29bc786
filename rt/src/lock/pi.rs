//! The lock that sleeps, with priority inheritance.

use std::sync::atomic::AtomicU32;

use crate::level::RunCx;
use crate::lock::order::Class;
use crate::lock::{Lock, LockError, held, prim, word};

/// Spins while the owner may be running on another CPU, before the kernel is asked.
const SPINS: u32 = if cfg!(shuttle) { 2 } else { 100 };

/// A lock for sections that may allocate: the buckets of maps whose elements come at run time.
///
/// Waiters sleep in `FUTEX_LOCK_PI`, so the owner runs at the priority of the most urgent one. A context that may not
/// sleep is refused before it touches the word. Taking it masks nothing: handlers run while it is held.
#[derive(Default)]
#[repr(transparent)]
pub struct PiMutex {
    word: AtomicU32,
}

impl PiMutex {
    fn address(&self) -> usize {
        std::ptr::from_ref(self) as usize
    }

    #[cold]
    fn wait(&self, me: held::Me) -> Result<(), LockError> {
        if word::owner(&self.word) == me.tid() {
            return Err(LockError::Deadlock);
        }
        for _ in 0..SPINS {
            if word::try_take(&self.word, me.tid()) {
                return Ok(());
            }
            if self.word.load(std::sync::atomic::Ordering::Relaxed) & word::WAITERS != 0 {
                break;
            }
            prim::pause();
        }
        word::sleep(&self.word, None)
    }
}

impl Lock for PiMutex {
    const SLEEPS: bool = true;

    #[inline]
    fn take(&self, cx: &RunCx, class: Class) -> Result<held::Me, LockError> {
        if !cx.may_sleep() {
            return Err(LockError::WouldSleep);
        }
        let me = held::me();
        me.push(self.address(), class, cx.level as u8);
        if word::try_take(&self.word, me.tid()) {
            me.taken(class, cx.level as u8);
            return Ok(me);
        }
        self.wait(me).inspect(|()| me.taken(class, cx.level as u8)).inspect_err(|_| me.pop()).map(|()| me)
    }

    fn try_acquire(&self, cx: &RunCx, class: Class) -> Result<(), LockError> {
        let me = held::me();
        me.push(self.address(), class, cx.level as u8);
        if word::try_take(&self.word, me.tid()) {
            return Ok(());
        }
        me.pop();
        Err(LockError::Busy)
    }

    #[inline]
    fn give_back(&self, me: held::Me) {
        word::give_back(&self.word, me.tid());
        me.pop();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::level::{Level, Model};

    #[test]
    fn atomic_contexts_are_refused_and_sleeping_ones_served() {
        let lock = PiMutex::default();
        for (level, model, may) in [
            (Level::Task, Model::NonRt, true),
            (Level::Task, Model::Rt, true),
            (Level::Soft, Model::Rt, true),
            (Level::Soft, Model::NonRt, false),
            (Level::Hard, Model::Rt, false),
            (Level::Nmi, Model::Rt, false),
        ] {
            let cx = RunCx { level, model, ..RunCx::CONTROL };
            assert_eq!(lock.lock(&cx, Class::Bucket).map(|_| ()).is_ok(), may, "{level:?} {model:?}");
        }
    }

    #[test]
    fn waiters_are_woken_one_after_another() {
        let (lock, total) = (PiMutex::default(), AtomicU32::new(0));
        // Where every hand-over goes through an emulated kernel, time is up first.
        let until = Instant::now() + Duration::from_secs(2);
        let add = || {
            let turns = (0..2_000).take_while(|turn| turn % 16 != 0 || Instant::now() < until);
            turns
                .map(|turn| {
                    let _guard = lock.lock(&RunCx::CONTROL, Class::Control).expect("sleeps, no deadlock");
                    let seen = total.load(Ordering::Relaxed);
                    if turn % 64 == 0 {
                        std::thread::yield_now();
                    }
                    total.store(seen + 1, Ordering::Relaxed);
                })
                .count() as u32
        };
        let added: u32 = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(add)).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
        });
        assert!(added > 0);
        assert_eq!(total.load(Ordering::Relaxed), added);
    }

    #[test]
    fn a_lock_of_ones_own_is_refused() {
        let lock = PiMutex::default();
        let _guard = lock.lock(&RunCx::CONTROL, Class::Control);
        assert_eq!(lock.acquire(&RunCx::CONTROL, Class::Control), Err(LockError::Deadlock));
    }
}
