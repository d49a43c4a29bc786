//! The lock word and the kernel's part of it.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::lock::LockError;
use crate::lock::prim::{Word, point};

/// Set by the kernel once a thread sleeps on the word.
pub const WAITERS: u32 = libc::FUTEX_WAITERS;
/// The owner's thread id in the word.
pub const OWNER: u32 = libc::FUTEX_TID_MASK;

/// The owner's id; 0 when free.
pub(super) fn owner(word: &AtomicU32) -> u32 {
    word.load(Ordering::Relaxed) & OWNER
}

/// Takes a free word for the thread `tid`.
#[inline(always)]
pub fn try_take(word: &impl Word<u32>, tid: u32) -> bool {
    point();
    // Acquire: pairs with the release in `give_back` and with the kernel's hand-over.
    word.replace(0, tid, Ordering::Acquire)
}

/// Gives a word of the thread `tid` back; whether it did. The kernel must where a thread sleeps on it.
#[inline(always)]
pub fn try_give_back(word: &impl Word<u32>, tid: u32) -> bool {
    point();
    word.replace(tid, 0, Ordering::Release)
}

#[inline(always)]
pub(super) fn give_back(word: &AtomicU32, tid: u32) {
    if !try_give_back(word, tid) {
        hand_over(word);
    }
}

#[cold]
fn hand_over(word: &AtomicU32) {
    // SAFETY: the word outlives the call; the kernel only changes its value. Allowed at any level: it never waits.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_UNLOCK_PI | libc::FUTEX_PRIVATE_FLAG) };
}

/// Shuttle's threads are one thread of the system, which must not sleep.
#[cfg(shuttle)]
pub(super) fn sleep(word: &AtomicU32, _: Option<u64>) -> Result<(), LockError> {
    while !try_take(word, super::held::me().tid()) {}
    Ok(())
}

/// Sleeps until the word is ours; the owner inherits our priority meanwhile. `timeout_ns` is from now.
#[cfg(not(shuttle))]
pub(super) fn sleep(word: &AtomicU32, timeout_ns: Option<u64>) -> Result<(), LockError> {
    let until = timeout_ns.map(|ns| {
        // FUTEX_LOCK_PI takes a point of the real-time clock.
        let at = clock_ns(libc::CLOCK_REALTIME).saturating_add(ns);
        libc::timespec { tv_sec: (at / 1_000_000_000) as libc::time_t, tv_nsec: (at % 1_000_000_000) as libc::c_long }
    });
    let until = until.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    loop {
        // SAFETY: word and timeout outlive the call; the kernel only changes the word's value.
        let ret = unsafe {
            libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_LOCK_PI | libc::FUTEX_PRIVATE_FLAG, 0, until)
        };
        if ret == 0 {
            return Ok(());
        }
        match std::io::Error::last_os_error().raw_os_error() {
            Some(libc::EINTR | libc::EAGAIN) => {}
            Some(libc::EDEADLK) => return Err(LockError::Deadlock),
            // ESRCH: the owner ended while holding it. Nobody will release it.
            _ => return Err(LockError::TimedOut),
        }
    }
}

/// Wakes all who sleep on a word in [`park`]. Allowed at any level: it never waits.
#[cfg(not(loom))]
#[cold]
pub(crate) fn wake_all(word: &AtomicU32) {
    // SAFETY: the word outlives the call, which reads and writes no memory.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG, i32::MAX) };
}

/// Sleeps while a word holds `seen`, until it is woken, for `timeout` at most. May return early.
#[cfg(not(loom))]
pub(crate) fn park(word: &AtomicU32, seen: u32, timeout: Option<std::time::Duration>) {
    let time = timeout.map(|timeout| libc::timespec {
        tv_sec: timeout.as_secs().try_into().unwrap_or(libc::time_t::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    });
    let time = time.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: word and time outlive the call; the kernel only reads them.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG, seen, time) };
}

/// A clock in nanoseconds.
pub(super) fn clock_ns(clock: libc::clockid_t) -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is ours; the clocks used here always exist.
    unsafe { libc::clock_gettime(clock, &mut now) };
    (now.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(now.tv_nsec as u64)
}

/// Asks for memory ordering on every CPU that runs a thread of ours; `false` where the kernel does not offer it.
pub(crate) fn membarrier(command: libc::c_int) -> bool {
    // SAFETY: membarrier touches no memory of ours.
    unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) == 0 }
}
