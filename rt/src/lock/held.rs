//! What each thread holds and wants: the table behind deadlock detection and the lock-order checker.
//!
//! A thread writes the lock's address *before* it tries for the word. Between a successful compare-exchange and a later
//! write, a handler on the same thread could otherwise not see what it interrupted. Entries are only ever changed by
//! their thread; other threads read. Handlers nest: one that comes before an entry is written puts its own above it, for
//! the depth is raised first, and an entry without a lock is 0.

use std::cell::Cell;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering, compiler_fence};

use crate::lock::order::{self, Class};
use crate::lock::word;
use crate::stats;

/// Locks a thread can hold at once, over all its levels. Linux's table has 31.
pub const DEPTH: usize = 31;
/// Threads that can hold locks at once with deadlock detection.
const LANES: usize = 512;

/// One thread's locks, oldest first; the last may still be wanted only. What every lock touches is on one cache line.
#[repr(C, align(128))]
pub struct Lane {
    tid: AtomicU32,
    /// What locks look at: [`PENDING`] and [`TIMED`].
    flags: AtomicU32,
    /// How many locks there are (low half), and raw ones among them (high half): while there are any of those, maskable
    /// interrupts are put off.
    state: AtomicU32,
    locks: [AtomicUsize; DEPTH],
    /// Class and level of each, for the order checker and while holds are timed.
    kinds: [AtomicU16; DEPTH],
    /// When each was taken, ns, while holds are timed.
    since: [AtomicU64; DEPTH],
}

/// An interrupt was put off.
const PENDING: u32 = 1;
/// Holds are timed; the same in all lanes.
const TIMED: u32 = 2;

/// One lock, and one raw lock, in a lane's state.
const ONE: u32 = 1;
const RAW: u32 = 1 << 16;

/// The locks in a state.
const fn depth(state: u32) -> usize {
    (state & (RAW - 1)) as usize
}

static TABLE: [Lane; LANES] = [const { Lane::new() }; LANES];

thread_local! {
    // `const` and without a destructor: the first touch in a signal handler neither allocates nor registers anything.
    static MINE: Cell<Option<Me>> = const { Cell::new(None) };
    /// The lane of a thread for which the table had none: only its own eyes see it.
    static UNLISTED: Lane = const { Lane::new() };
}

impl Lane {
    const fn new() -> Lane {
        Lane {
            tid: AtomicU32::new(0),
            flags: AtomicU32::new(0),
            state: AtomicU32::new(0),
            locks: [const { AtomicUsize::new(0) }; DEPTH],
            kinds: [const { AtomicU16::new(0) }; DEPTH],
            since: [const { AtomicU64::new(0) }; DEPTH],
        }
    }

    fn note(&self, at: usize, class: Class, level: u8) {
        self.kinds[at].store(u16::from(class as u8) << 8 | u16::from(level), Ordering::Relaxed);
    }

    #[inline]
    fn has_flag(&self, flag: u32) -> bool {
        self.flags.load(Ordering::Relaxed) & flag != 0
    }

    fn set_flag(&self, flag: u32, on: bool) {
        if on {
            self.flags.fetch_or(flag, Ordering::Relaxed);
        } else {
            self.flags.fetch_and(!flag, Ordering::Relaxed);
        }
    }

    /// How many it holds or wants.
    pub fn depth(&self) -> usize {
        depth(self.state.load(Ordering::Acquire))
    }

    /// Whether the lock at `address` is in it.
    fn has(&self, address: usize) -> bool {
        self.locks[..self.depth().min(DEPTH)].iter().any(|lock| lock.load(Ordering::Acquire) == address)
    }

    fn wants(&self) -> Option<usize> {
        let newest = self.locks.get(self.depth().checked_sub(1)?)?.load(Ordering::Acquire);
        Some(newest).filter(|lock| *lock != 0)
    }
}

/// A thread as locks know it: its lane. Stays on its thread.
#[derive(Clone, Copy)]
pub struct Me {
    lane: NonNull<Lane>,
}

/// The calling thread: one of shuttle's.
#[cfg(shuttle)]
pub fn me() -> Me {
    let id = usize::from(shuttle::current::me());
    let lane = TABLE.get(id).expect("schedules have few threads");
    lane.tid.store(id as u32 + 1, Ordering::Relaxed);
    Me { lane: NonNull::from(lane) }
}

/// The calling thread.
#[cfg(not(shuttle))]
#[inline]
pub fn me() -> Me {
    MINE.get().unwrap_or_else(register)
}

/// The calling thread, if it ever took a lock.
pub fn known() -> Option<Me> {
    MINE.get()
}

#[cold]
#[cfg_attr(shuttle, allow(dead_code))]
fn register() -> Me {
    // SAFETY: gettid has no arguments and cannot fail.
    let tid = unsafe { libc::syscall(libc::SYS_gettid) } as u32;
    let free = |lane: &&Lane| lane.tid.compare_exchange(0, tid, Ordering::AcqRel, Ordering::Relaxed).is_ok();
    // Threads leave no notice when they end (a destructor would allocate); their lanes are taken over when none is free.
    let lane = TABLE.iter().find(free).or_else(|| TABLE.iter().find(|lane| take_over(lane, tid)));
    let lane = lane.map(NonNull::from).unwrap_or_else(|| {
        UNLISTED.with(|lane| {
            lane.tid.store(tid, Ordering::Relaxed);
            NonNull::from(lane)
        })
    });
    let me = Me { lane };
    MINE.set(Some(me));
    me
}

/// Says of all threads, those to come too, whether their holds are timed.
pub(crate) fn time(on: bool) {
    TABLE.iter().for_each(|lane| lane.set_flag(TIMED, on));
}

/// Whether a thread of this process has the id `tid`.
pub(crate) fn thread_lives(tid: u32) -> bool {
    // SAFETY: signal 0 is never delivered; it only asks whether the thread exists.
    unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), tid, 0) == 0 }
}

fn take_over(lane: &Lane, tid: u32) -> bool {
    let old = lane.tid.load(Ordering::Acquire);
    if !thread_lives(old) && lane.tid.compare_exchange(old, tid, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
        lane.locks.iter().for_each(|lock| lock.store(0, Ordering::Relaxed));
        lane.set_flag(PENDING, false);
        lane.state.store(0, Ordering::Release);
        return true;
    }
    false
}

#[cold]
#[inline(never)]
fn let_in_now() {
    crate::slot::with_current(|slot| slot.drain());
}

impl Me {
    #[inline(always)]
    fn lane<'a>(self) -> &'a Lane {
        // SAFETY: a place in the table, or one that lives as long as the thread, which `Me` does not leave.
        unsafe { self.lane.as_ref() }
    }

    /// Its id: what it writes into lock words.
    #[inline(always)]
    pub fn tid(self) -> u32 {
        self.lane().tid.load(Ordering::Relaxed)
    }

    /// Notes that the lock at `address` is wanted. Must come before the first attempt to take it.
    #[inline]
    pub fn push(self, address: usize, class: Class, level: u8) {
        self.enter(address, (class, level), ONE);
    }

    #[inline]
    fn enter(self, address: usize, (class, level): (Class, u8), step: u32) {
        let lane = self.lane();
        let state = lane.state.load(Ordering::Relaxed);
        let depth = depth(state);
        if cfg!(debug_assertions) {
            self.check_order(depth, class, level);
        }
        // Release: who sees the depth sees that the entry is 0, or the lock.
        lane.state.store(state.wrapping_add(step), Ordering::Release);
        compiler_fence(Ordering::SeqCst);
        if let Some(lock) = lane.locks.get(depth) {
            if cfg!(debug_assertions) {
                lane.note(depth, class, level);
            }
            lock.store(address, Ordering::Release);
        }
    }

    /// Takes the newest entry back: the lock was released, or not taken.
    #[inline]
    pub fn pop(self) {
        self.leave(ONE);
    }

    #[inline]
    fn leave(self, step: u32) {
        let lane = self.lane();
        let state = lane.state.load(Ordering::Relaxed);
        if let Some(lock) = lane.locks.get(depth(state).wrapping_sub(1)) {
            lock.store(0, Ordering::Relaxed);
        }
        compiler_fence(Ordering::SeqCst);
        let left = state.wrapping_sub(step);
        lane.state.store(left, Ordering::Release);
        // After the store: until then, a handler puts off what comes.
        compiler_fence(Ordering::SeqCst);
        if lane.flags.load(Ordering::Relaxed) != 0 {
            self.look_around(left);
        }
    }

    /// Does what flags ask for after a lock was let go.
    #[cold]
    fn look_around(self, left: u32) {
        if self.lane().has_flag(TIMED) {
            self.stop_clock(depth(left));
        }
        self.let_in(left);
    }

    /// Takes the entry of `address` back, wherever it stands: program locks are not always released in order.
    pub fn pop_address(self, address: usize) {
        let lane = self.lane();
        let depth = lane.depth().min(DEPTH);
        let Some(at) = lane.locks[..depth].iter().rposition(|lock| lock.load(Ordering::Relaxed) == address) else {
            return;
        };
        for i in at..depth - 1 {
            lane.locks[i].store(lane.locks[i + 1].load(Ordering::Relaxed), Ordering::Relaxed);
            lane.kinds[i].store(lane.kinds[i + 1].load(Ordering::Relaxed), Ordering::Relaxed);
        }
        lane.locks[depth - 1].store(0, Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        lane.state.store(lane.state.load(Ordering::Relaxed).wrapping_sub(ONE), Ordering::Release);
    }

    /// Notes that a raw lock is wanted, like [`Me::push`], and puts maskable interrupts off.
    #[inline]
    pub fn push_raw(self, address: usize, class: Class, level: u8) {
        self.enter(address, (class, level), ONE | RAW);
    }

    /// The reverse of [`Me::push_raw`]; lets in what was put off when no raw lock is left.
    #[inline]
    pub fn pop_raw(self) {
        self.leave(ONE | RAW);
    }

    /// Ends the part of a raw lock that puts interrupts off.
    #[inline]
    pub fn unmask(self) {
        let lane = self.lane();
        compiler_fence(Ordering::SeqCst);
        let left = lane.state.load(Ordering::Relaxed).wrapping_sub(RAW);
        lane.state.store(left, Ordering::Release);
        self.let_in(left);
    }

    #[inline]
    fn let_in(self, state: u32) {
        compiler_fence(Ordering::SeqCst);
        if state < RAW && self.lane().has_flag(PENDING) {
            let_in_now();
        }
    }

    /// Raw locks the thread holds or wants.
    pub fn raw_depth(self) -> u32 {
        self.lane().state.load(Ordering::Relaxed) / RAW
    }

    /// Whether an interrupt was put off on this thread.
    pub fn is_pending(self) -> bool {
        self.lane().has_flag(PENDING)
    }

    /// Notes that one was, or that all were let in.
    pub fn set_pending(self, pending: bool) {
        self.lane().set_flag(PENDING, pending);
    }

    /// Notes that the lock wanted last was taken now, where holds are timed.
    #[inline]
    pub fn taken(self, class: Class, level: u8) {
        if self.lane().has_flag(TIMED) {
            self.start_clock(class, level);
        }
    }

    #[cold]
    fn start_clock(self, class: Class, level: u8) {
        let lane = self.lane();
        let newest = lane.depth().checked_sub(1);
        if let Some((at, since)) = newest.and_then(|at| Some((at, lane.since.get(at)?))) {
            lane.note(at, class, level);
            since.store(word::clock_ns(libc::CLOCK_MONOTONIC), Ordering::Relaxed);
        }
    }

    #[cold]
    fn stop_clock(self, at: usize) {
        let lane = self.lane();
        let Some(since) = lane.since.get(at) else { return };
        let since = since.swap(0, Ordering::Relaxed);
        let class = Class::ALL.get(usize::from(lane.kinds[at].load(Ordering::Relaxed) >> 8));
        if let (1.., Some(class)) = (since, class) {
            stats::holds(*class).record(word::clock_ns(libc::CLOCK_MONOTONIC).saturating_sub(since));
        }
    }

    /// How many locks the thread holds or wants.
    pub fn depth(self) -> usize {
        self.lane().depth()
    }

    /// Whether the thread already holds the lock at `address` below its newest entry.
    pub fn holds(self, address: usize) -> bool {
        let lane = self.lane();
        let below = lane.depth().saturating_sub(1).min(DEPTH);
        lane.locks[..below].iter().any(|lock| lock.load(Ordering::Relaxed) == address)
    }

    /// Whether `owner`, who holds the lock at `address`, waits for a lock of ours: the ABBA case. Of two threads that
    /// both see it, the one with the greater id gives up.
    pub fn is_deadlocked_with(self, owner: u32, address: usize) -> bool {
        let mine = self.lane();
        if owner == 0 || owner > self.tid() {
            return false;
        }
        let Some(theirs) = TABLE.iter().find(|lane| lane.tid.load(Ordering::Acquire) == owner) else { return false };
        let Some(wanted) = theirs.wants() else { return false };
        wanted != address && theirs.has(address) && mine.has(wanted) && mine.wants() != Some(wanted)
    }

    #[cold]
    fn check_order(self, depth: usize, class: Class, level: u8) {
        let lane = self.lane();
        let Some(below) = depth.checked_sub(1).and_then(|at| lane.kinds.get(at)) else { return };
        let below = below.load(Ordering::Relaxed);
        // A handler's locks do not nest in the order of what it interrupted.
        if (below & 0xff) as u8 == level {
            order::nested((below >> 8) as u8, class);
        }
    }
}
