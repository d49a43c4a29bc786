//! Run gates: how a program is started, by the path it is invoked on.
//!
//! A path decides at which levels its programs may run, what keeps them from re-entering, and whether they may sleep.
//! What is kept out is missed, never queued, and counted: hits = ran + missed, exactly.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::gate::{self, Section};
use crate::level::{Level, RunCx};
use crate::slot::Slot;
use crate::stats::Misses;

/// What keeps a program from re-entering.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Guard {
    /// Nothing.
    None,
    /// The slot's counter: any program of such a path, and any control-plane operation, keeps the next one out.
    Slot,
    /// The program's own counter on the slot: only itself.
    Program,
}

macro_rules! paths {
    ($($path:ident, $name:literal, $lowest:ident, $highest:ident, $guard:ident, $sleeps:literal;)*) => {
        /// The paths on which programs are invoked.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[allow(missing_docs)]
        pub enum Path { $($path,)* }

        impl Path {
            /// All of them.
            pub const ALL: &[Path] = &[$(Path::$path,)*];

            /// Name in reports.
            pub const fn name(self) -> &'static str {
                match self { $(Path::$path => $name,)* }
            }

            /// The levels at which its programs may run, lowest and highest.
            pub const fn levels(self) -> (Level, Level) {
                match self { $(Path::$path => (Level::$lowest, Level::$highest),)* }
            }

            /// What keeps them from re-entering.
            pub const fn guard(self) -> Guard {
                match self { $(Path::$path => Guard::$guard,)* }
            }

            /// Whether they may sleep.
            pub const fn sleeps(self) -> bool {
                match self { $(Path::$path => $sleeps,)* }
            }
        }
    };
}

#[rustfmt::skip]
paths! {
//  path          name                          lowest highest guard    sleeps
    PerfOverflow, "perf overflow",              Hard,  Nmi,    Slot,    false;
    Trace,        "kprobe, tracepoint",         Task,  Nmi,    Slot,    false;
    KprobeMulti,  "kprobe-multi",               Task,  Nmi,    Slot,    false;
    RawTp,        "raw tracepoint",             Task,  Nmi,    Program, false;
    Trampoline,   "fentry, fexit, fmod_ret",    Task,  Nmi,    Program, false;
    Sleepable,    "sleepable fentry, LSM",      Task,  Task,   Program, true;
    StructOps,    "struct_ops, cgroup LSM",     Task,  Soft,   None,    false;
    Uprobes,      "uprobe array",               Task,  Task,   None,    true;
    Array,        "cgroup and lirc arrays",     Task,  Soft,   None,    false;
    Pinned,       "seccomp, sk_msg, sk_skb",    Task,  Soft,   None,    false;
    Packet,       "xdp, tc",                    Soft,  Soft,   None,    false;
    Syscall,      "syscall programs",           Task,  Task,   None,    true;
    TestRun,      "test run",                   Task,  Task,   None,    false;
    Iter,         "iterators",                  Task,  Task,   None,    true;
    Timer,        "bpf_timer callbacks",        Soft,  Soft,   None,    false;
    Embedder,     "plain programs",             Task,  Nmi,    Program, false;
}

/// A program's own counters.
pub struct ProgCounters {
    active: Box<[AtomicU32]>,
    ran: AtomicU64,
    misses: Misses,
}

impl ProgCounters {
    /// For a machine of `slots` slots.
    pub fn new(slots: u32) -> ProgCounters {
        let active = (0..slots.max(1)).map(|_| AtomicU32::new(0)).collect();
        ProgCounters { active, ran: AtomicU64::new(0), misses: Misses::default() }
    }

    /// Runs that began.
    pub fn ran(&self) -> u64 {
        self.ran.load(Ordering::Relaxed)
    }

    /// Runs that did not, by cause (`recursion_misses`).
    pub fn misses(&self) -> &Misses {
        &self.misses
    }
}

/// Why a program did not run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Missed {
    /// Its guard was taken on this slot.
    #[error("the program, or one like it, is running on this slot")]
    Recursion,
    /// The slot belongs to another thread.
    #[error("the slot belongs to another thread")]
    BusySlot,
    /// The path's programs do not run at this level.
    #[error("programs of this path do not run at this level")]
    WrongLevel,
}

/// A run under way. Ends when dropped.
pub struct Entry<'a> {
    slot: &'a Slot,
    guard: Option<&'a AtomicU32>,
    before: Level,
    level: Level,
    _section: Section,
    thread_bound: PhantomData<*const ()>,
}

impl<'a> Entry<'a> {
    /// Starts a run of the program with these counters on `slot`, which the thread must hold.
    #[inline]
    pub fn begin(slot: &'a Slot, path: Path, level: Level, program: &'a ProgCounters) -> Result<Entry<'a>, Missed> {
        let (lowest, highest) = path.levels();
        if level < lowest || level > highest {
            return Err(Missed::WrongLevel);
        }
        if !slot.is_held_here() {
            slot.misses().busy_slot.fetch_add(1, Ordering::Relaxed);
            program.misses.busy_slot.fetch_add(1, Ordering::Relaxed);
            return Err(Missed::BusySlot);
        }
        let guard = match path.guard() {
            Guard::None => None,
            Guard::Slot => Some(slot.active()),
            Guard::Program => program.active.get(slot.id() as usize % program.active.len()),
        };
        if let Some(guard) = guard
            && !try_raise(guard)
        {
            slot.misses().recursion.fetch_add(1, Ordering::Relaxed);
            program.misses.recursion.fetch_add(1, Ordering::Relaxed);
            return Err(Missed::Recursion);
        }
        program.ran.fetch_add(1, Ordering::Relaxed);
        let before = slot.enter(level);
        Ok(Entry { slot, guard, before, level, _section: gate::enter(), thread_bound: PhantomData })
    }

    /// What map operations of the run are told.
    pub fn cx(&self) -> RunCx {
        self.slot.cx(self.level, true)
    }
}

/// Raises a counter from 0. A handler that comes in between finds it raised, or leaves it as it was.
fn try_raise(counter: &AtomicU32) -> bool {
    // An increment, a look and a decrement would do on one CPU too; this is one instruction either way.
    counter.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok()
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.slot.leave(self.before);
        if let Some(guard) = self.guard {
            guard.store(0, Ordering::Release);
        }
    }
}

/// A control-plane operation under way: tracing programs that it would meet are missed, not run.
pub struct Quiet<'a> {
    slot: &'a Slot,
    thread_bound: PhantomData<*const ()>,
}

impl<'a> Quiet<'a> {
    /// Raises the recursion counter of `slot`, which the thread must hold.
    pub fn begin(slot: &'a Slot) -> Quiet<'a> {
        slot.active().fetch_add(1, Ordering::Relaxed);
        Quiet { slot, thread_bound: PhantomData }
    }
}

impl Drop for Quiet<'_> {
    fn drop(&mut self) {
        self.slot.active().fetch_sub(1, Ordering::Relaxed);
    }
}
