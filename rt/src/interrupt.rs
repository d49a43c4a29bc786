//! Signals as interrupts: a timer or a counter of the system interrupts one thread, and a hook runs in its handler
//! [unsafe room].
//!
//! ```text
//!  timer, cpu-clock ── signal ──▶ this thread ──▶ handler ──▶ hook(slot, where it was interrupted)
//! ```
//!
//! The signal is aimed at the thread that holds the slot, never at the process. The handler runs on the thread's own
//! stack, allocates nothing, takes no lock, and gives `errno` back; what the hook does must be as careful. At level Hard
//! the handler can be interrupted by level Nmi; at level Nmi by nothing but a fault.

use std::cell::{Cell, UnsafeCell};
use std::io;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Instant;

use crate::level::Level;
use crate::lock::held;
use crate::slot::{Slot, Slots};

/// What interrupts the thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// A timer: every so many nanoseconds of real time. Where handlers leave the thread no time in between, its period is
    /// doubled, as often as needed (Linux lowers the rate of its samples then, too).
    Timer {
        /// Nanoseconds.
        period_ns: u64,
    },
    /// The system's software cpu-clock: every so many nanoseconds that the thread ran outside the kernel. Not permitted
    /// everywhere (`perf_event_paranoid`).
    CpuClock {
        /// Nanoseconds.
        period_ns: u64,
    },
}

impl Source {
    /// Nanoseconds between two interrupts.
    pub const fn period_ns(self) -> u64 {
        match self {
            Source::Timer { period_ns } | Source::CpuClock { period_ns } => period_ns,
        }
    }
}

/// Why interrupts could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InterruptError {
    /// Programs run in handlers at levels Hard and Nmi.
    #[error("no interrupts at level {0:?} (must be Hard or Nmi)")]
    Level(Level),
    /// A thread has one source at each level, and a signal one level in the process.
    #[error("the thread has interrupts at this level already, or signal {0} stands for another level")]
    Busy(i32),
    /// The process handles the signal itself.
    #[error("signal {0} has a handler of its own")]
    Handled(i32),
    /// The slot must be held by the calling thread.
    #[error("the calling thread does not hold slot {0}")]
    NotHeld(u32),
    /// The system refuses.
    #[error("{what}: {error}")]
    System {
        /// What was asked.
        what: &'static str,
        /// Its answer.
        error: io::Error,
    },
}

/// What runs in the handler. It must not allocate, free, block, or take a lock that waits.
pub type Hook = Box<dyn FnMut(&Slot, &Interrupted<'_>)>;

struct State {
    signal: i32,
    level: Level,
    slots: Arc<Slots>,
    slot: u32,
    /// The thread's stack: the only memory that frame pointers are followed in.
    stack: Range<u64>,
    /// Set while the hook runs: it is never entered twice.
    busy: Cell<bool>,
    pace: Pace,
    hook: UnsafeCell<Hook>,
}

/// How often the source interrupts.
struct Pace {
    period_ns: Cell<u64>,
    timer: Cell<Option<libc::timer_t>>,
    /// When the last interrupt began.
    last: Cell<Option<Instant>>,
    /// Interrupts in a row that came later than their period.
    late: Cell<u32>,
}

impl Pace {
    /// A periodic timer that is late once is early the next time. Late so many times in a row, its interrupts take longer
    /// than the period.
    const STARVED: u32 = 16;

    /// An interrupt begins.
    fn begin(&self) {
        let Some(timer) = self.timer.get() else { return };
        let (now, period) = (Instant::now(), self.period_ns.get());
        let since = self.last.replace(Some(now)).map_or(0, |last| now.duration_since(last).as_nanos() as u64);
        let late = since > period.saturating_add(period / 16);
        self.late.set(if late { self.late.get() + 1 } else { 0 });
        if self.late.get() >= Self::STARVED {
            self.late.set(0);
            self.period_ns.set(period.saturating_mul(2));
            // A timer that cannot be set keeps its pace.
            let _ = set_timer(timer, self.period_ns.get());
        }
    }
}

thread_local! {
    // `const` and without destructor: handlers read them. For levels Hard and Nmi.
    static MINE: [Cell<*const State>; 2] = const { [const { Cell::new(std::ptr::null()) }; 2] };
}

/// The level each signal stands for, 0 for none: the handler's mask is the process', not the thread's.
static LEVELS: [AtomicU8; 65] = [const { AtomicU8::new(0) }; 65];

/// Interrupts of the calling thread, until dropped.
pub struct Interrupts {
    state: Box<State>,
    source: Running,
    thread_bound: PhantomData<*const ()>,
}

impl Interrupts {
    /// Interrupts the calling thread, which must hold slot `slot`, by `signal` at `level`.
    ///
    /// The handler of `signal` stays installed when the interrupts end: one may still be on its way.
    pub fn start(
        slots: &Arc<Slots>,
        slot: u32,
        (source, signal, level): (Source, i32, Level),
        hook: Hook,
    ) -> Result<Interrupts, InterruptError> {
        if !slots.get(slot).is_some_and(Slot::is_held_here) {
            return Err(InterruptError::NotHeld(slot));
        }
        let mine = index(level).ok_or(InterruptError::Level(level))?;
        let claim = LEVELS.get(usize::try_from(signal).unwrap_or(usize::MAX));
        let claim = claim.filter(|_| signal > 0).ok_or(InterruptError::Busy(signal))?;
        let claimed = claim.compare_exchange(0, level as u8, Ordering::Relaxed, Ordering::Relaxed);
        let used = MINE.with(|mine| mine.iter().any(|state| signal_of(state.get()) == Some(signal)));
        if claimed.is_err_and(|known| known != level as u8) || used || MINE.with(|all| !all[mine].get().is_null()) {
            return Err(InterruptError::Busy(signal));
        }
        install(signal, level)?;
        let (busy, hook) = (Cell::new(false), UnsafeCell::new(hook));
        let period_ns = Cell::new(source.period_ns());
        let pace = Pace { period_ns, timer: Cell::new(None), last: Cell::new(None), late: Cell::new(0) };
        let (slots, stack) = (slots.clone(), stack_bounds());
        let state = Box::new(State { signal, level, slots, slot, stack, busy, pace, hook });
        // The box does not move: what the handler reads lives until `drop` has taken it out of `MINE`.
        MINE.with(|all| all[mine].set(&*state));
        let source = Running::start(source, signal, &state.pace)
            .inspect_err(|_| MINE.with(|all| all[mine].set(std::ptr::null())))?;
        Ok(Interrupts { state, source, thread_bound: PhantomData })
    }

    /// Nanoseconds between two interrupts, as it is now.
    pub fn period_ns(&self) -> u64 {
        self.state.pace.period_ns.get()
    }

    /// Interrupts the thread now.
    #[cfg(test)]
    fn raise(&self) {
        // SAFETY: sends the calling thread a signal whose handler is ours.
        unsafe { libc::raise(self.state.signal) };
    }
}

impl Drop for Interrupts {
    fn drop(&mut self) {
        self.state.pace.timer.set(None);
        self.source.stop();
        if let Some(mine) = index(self.state.level) {
            MINE.with(|all| all[mine].set(std::ptr::null()));
        }
    }
}

fn index(level: Level) -> Option<usize> {
    match level {
        Level::Hard => Some(0),
        Level::Nmi => Some(1),
        Level::Task | Level::Soft => None,
    }
}

fn signal_of(state: *const State) -> Option<i32> {
    // SAFETY: pointers in `MINE` are null or lead to a state that lives; see `Interrupts::start`.
    unsafe { state.as_ref() }.map(|state| state.signal)
}

fn system(what: &'static str) -> InterruptError {
    InterruptError::System { what, error: io::Error::last_os_error() }
}

/// Installs the handler, unless the process has one of its own.
fn install(signal: i32, level: Level) -> Result<(), InterruptError> {
    let ours = handler as *const () as usize;
    // SAFETY: plain structures, zeroed and filled; the handler is async-signal-safe.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        if libc::sigaction(signal, std::ptr::null(), &mut action) != 0 {
            return Err(system("sigaction"));
        }
        if ![libc::SIG_DFL, libc::SIG_IGN, ours].contains(&action.sa_sigaction) {
            return Err(InterruptError::Handled(signal));
        }
        action.sa_sigaction = ours;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
        libc::sigemptyset(&mut action.sa_mask);
        if level == Level::Nmi {
            libc::sigfillset(&mut action.sa_mask);
            // A recoverable fault under a mask would kill the process.
            for fault in [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP, libc::SIGABRT] {
                libc::sigdelset(&mut action.sa_mask, fault);
            }
        }
        if libc::sigaction(signal, &action, std::ptr::null_mut()) != 0 {
            return Err(system("sigaction"));
        }
    }
    Ok(())
}

extern "C" fn handler(signal: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the address of the calling thread's own errno.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above; read and written by this thread alone.
    let before = unsafe { *errno };
    MINE.with(|all| {
        let mine = all.iter().map(Cell::get).find(|state| signal_of(*state) == Some(signal));
        // SAFETY: `signal_of` found it to be set, and it stays until this thread takes it out.
        let Some(state) = mine.and_then(|state| unsafe { state.as_ref() }) else { return };
        let Some(slot) = state.slots.get(state.slot) else { return };
        if state.busy.replace(true) {
            return;
        }
        // SAFETY: the system passes the registers of the interrupted code to a handler with SA_SIGINFO.
        let context = unsafe { &*context.cast::<libc::ucontext_t>() };
        state.pace.begin();
        let period_ns = state.pace.period_ns.get();
        let interrupted = Interrupted { context, level: state.level, period_ns, stack: &state.stack };
        // SAFETY: `busy` makes this the only reference to the hook; it is not moved while the state is in `MINE`.
        unsafe { (*state.hook.get())(slot, &interrupted) };
        state.busy.set(false);
    });
    // SAFETY: as above.
    unsafe { *errno = before };
}

/// Where a thread was interrupted.
pub struct Interrupted<'a> {
    context: &'a libc::ucontext_t,
    level: Level,
    period_ns: u64,
    stack: &'a Range<u64>,
}

/// Registers of a `struct pt_regs` of x86-64.
pub const REGISTERS: usize = 21;

impl Interrupted<'_> {
    /// The level that the handler runs at.
    pub fn level(&self) -> Level {
        self.level
    }

    /// Nanoseconds between two interrupts, as it is now.
    pub fn period_ns(&self) -> u64 {
        self.period_ns
    }

    /// The registers as programs read them: x86-64's `struct pt_regs`, on every host. On aarch64 the arguments x0 to x5,
    /// the result x0, frame and stack pointer, program counter and flags stand where x86-64 has their like; the rest is 0.
    pub fn registers(&self) -> [u64; REGISTERS] {
        registers(self.context)
    }

    /// Appends the addresses of the call stack, innermost first, as far as `frames` has room: the interrupted
    /// instruction, then what frame pointers lead to inside the thread's stack. Code without frame pointers ends it early.
    pub fn frames(&self, frames: &mut Vec<u64>) {
        let (ip, sp, mut fp) = places(self.context);
        let push = |frames: &mut Vec<u64>, ip: u64| {
            let room = frames.len() < frames.capacity();
            if room {
                frames.push(ip);
            }
            room
        };
        push(frames, ip);
        let mut low = sp.max(self.stack.start);
        while fp >= low && fp.is_multiple_of(8) && fp.saturating_add(16) <= self.stack.end {
            // SAFETY: 16 bytes, aligned, between this thread's stack pointer and the end of its stack, where all pages
            // exist; the thread itself is interrupted.
            let [caller, ret] = unsafe { (fp as *const [u64; 2]).read_volatile() };
            if ret == 0 || !push(frames, ret) {
                break;
            }
            (low, fp) = (fp + 16, caller);
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn places(context: &libc::ucontext_t) -> (u64, u64, u64) {
    let register = |number: i32| context.uc_mcontext.gregs[number as usize] as u64;
    (register(libc::REG_RIP), register(libc::REG_RSP), register(libc::REG_RBP))
}

#[cfg(target_arch = "x86_64")]
fn registers(context: &libc::ucontext_t) -> [u64; REGISTERS] {
    use libc::*;
    const ORDER: [i32; 15] = [
        REG_R15, REG_R14, REG_R13, REG_R12, REG_RBP, REG_RBX, REG_R11, REG_R10, REG_R9, REG_R8, REG_RAX, REG_RCX,
        REG_RDX, REG_RSI, REG_RDI,
    ];
    let register = |number: i32| context.uc_mcontext.gregs[number as usize] as u64;
    let segments = register(REG_CSGSFS);
    let mut registers = [0; REGISTERS];
    registers.iter_mut().zip(ORDER).for_each(|(to, from)| *to = register(from));
    // Not in a system call.
    registers[15] = u64::MAX;
    registers[16..].copy_from_slice(&[
        register(REG_RIP),
        segments & 0xffff,
        register(REG_EFL),
        register(REG_RSP),
        segments >> 48,
    ]);
    registers
}

#[cfg(target_arch = "aarch64")]
fn places(context: &libc::ucontext_t) -> (u64, u64, u64) {
    (context.uc_mcontext.pc, context.uc_mcontext.sp, context.uc_mcontext.regs[29])
}

#[cfg(target_arch = "aarch64")]
fn registers(context: &libc::ucontext_t) -> [u64; REGISTERS] {
    let machine = &context.uc_mcontext;
    let x = &machine.regs;
    let mut registers = [0; REGISTERS];
    (registers[4], registers[10], registers[15]) = (x[29], x[0], u64::MAX);
    // r9, r8; rcx, rdx, rsi, rdi.
    (registers[8], registers[9]) = (x[5], x[4]);
    (registers[11], registers[12], registers[13], registers[14]) = (x[3], x[2], x[1], x[0]);
    (registers[16], registers[18], registers[19]) = (machine.pc, machine.pstate, machine.sp);
    registers
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn places(_: &libc::ucontext_t) -> (u64, u64, u64) {
    (0, 0, 0)
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn registers(_: &libc::ucontext_t) -> [u64; REGISTERS] {
    [0; REGISTERS]
}

/// The calling thread's stack; empty where the system does not tell.
fn stack_bounds() -> Range<u64> {
    let (mut low, mut bytes) = (std::ptr::null_mut(), 0);
    // SAFETY: the attributes are filled by the first call, read by the second, and destroyed once.
    let known = unsafe {
        let mut attributes: libc::pthread_attr_t = std::mem::zeroed();
        if libc::pthread_getattr_np(libc::pthread_self(), &mut attributes) != 0 {
            return 0..0;
        }
        let known = libc::pthread_attr_getstack(&attributes, &mut low, &mut bytes) == 0;
        libc::pthread_attr_destroy(&mut attributes);
        known
    };
    if known { low as u64..(low as u64).saturating_add(bytes as u64) } else { 0..0 }
}

/// A source under way.
enum Running {
    Timer(libc::timer_t),
    Counter(libc::c_int),
}

impl Running {
    fn start(source: Source, signal: i32, pace: &Pace) -> Result<Running, InterruptError> {
        match source {
            Source::Timer { .. } => start_timer(signal, pace).map(Running::Timer),
            Source::CpuClock { period_ns } => start_counter(period_ns, signal).map(Running::Counter),
        }
    }

    fn stop(&mut self) {
        // SAFETY: made by `start` and given back once: only `Interrupts::drop` calls this.
        unsafe {
            match *self {
                Running::Timer(timer) => libc::timer_delete(timer),
                Running::Counter(fd) => libc::close(fd),
            }
        };
    }
}

fn start_timer(signal: i32, pace: &Pace) -> Result<libc::timer_t, InterruptError> {
    // SAFETY: plain structures, zeroed and filled; the timer is deleted where it cannot be set.
    unsafe {
        let mut event: libc::sigevent = std::mem::zeroed();
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = signal;
        event.sigev_notify_thread_id = held::me().tid() as libc::c_int;
        let mut timer = std::mem::zeroed();
        if libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, &mut timer) != 0 {
            return Err(system("timer_create"));
        }
        // Known before its first interrupt, which may be the first of many that leave no time.
        pace.timer.set(Some(timer));
        set_timer(timer, pace.period_ns.get()).inspect_err(|_| {
            pace.timer.set(None);
            libc::timer_delete(timer);
        })?;
        Ok(timer)
    }
}

/// Lets the timer fire every `period_ns` from now on.
fn set_timer(timer: libc::timer_t, period_ns: u64) -> Result<(), InterruptError> {
    let every = libc::timespec {
        tv_sec: (period_ns / 1_000_000_000) as libc::time_t,
        tv_nsec: (period_ns % 1_000_000_000) as libc::c_long,
    };
    let setting = libc::itimerspec { it_interval: every, it_value: every };
    // SAFETY: the timer is one that `start_timer` made and nobody has deleted; handlers may call timer_settime(2).
    match unsafe { libc::timer_settime(timer, 0, &setting, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(system("timer_settime")),
    }
}

/// perf_event_open(2): the software cpu-clock of the calling thread, whose overflows send `signal` to it.
fn start_counter(period_ns: u64, signal: i32) -> Result<libc::c_int, InterruptError> {
    /// `struct perf_event_attr` up to `PERF_ATTR_SIZE_VER1`, in words.
    const WORDS: usize = 9;
    const SOFTWARE: u64 = 1;
    /// `disabled`, `exclude_kernel`, `exclude_hv`.
    const FLAGS: u64 = 1 | 1 << 5 | 1 << 6;
    const CLOSE_ON_EXEC: libc::c_ulong = 1 << 3;
    /// `PERF_EVENT_IOC_ENABLE`.
    const ENABLE: libc::c_ulong = 0x2400;
    /// `F_SETSIG`, `F_SETOWN_EX` (fcntl(2)).
    const SETSIG: libc::c_int = 10;
    const SETOWN_EX: libc::c_int = 15;
    let mut attr = [0u64; WORDS];
    attr[0] = SOFTWARE | ((WORDS * 8) as u64) << 32;
    // Word 1, the event: 0 is PERF_COUNT_SW_CPU_CLOCK.
    attr[2] = period_ns;
    attr[5] = FLAGS;
    // Wakes for every sample.
    attr[6] = 1;
    let owner = [0, held::me().tid() as libc::c_int];
    // SAFETY: `attr` says its own size; `owner` is a `struct f_owner_ex` {F_OWNER_TID, tid}; the descriptor is closed
    // where it cannot be set up.
    unsafe {
        let fd = libc::syscall(libc::SYS_perf_event_open, attr.as_ptr(), 0, -1, -1, CLOSE_ON_EXEC) as libc::c_int;
        if fd < 0 {
            return Err(system("perf_event_open"));
        }
        let done = libc::fcntl(fd, SETOWN_EX, owner.as_ptr()) == 0
            && libc::fcntl(fd, SETSIG, signal) == 0
            && libc::fcntl(fd, libc::F_SETFL, libc::O_ASYNC | libc::O_NONBLOCK) == 0
            && libc::ioctl(fd, ENABLE, 0) == 0;
        if !done {
            let error = system("perf_event_open: setting up its signal");
            libc::close(fd);
            return Err(error);
        }
        Ok(fd)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::level::Model;
    use std::sync::atomic::AtomicU64;
    use std::time::Duration;

    /// Works at level Task for a while; `sum` keeps it from being optimised away.
    #[inline(never)]
    fn work(until: Instant) -> u64 {
        let mut sum = 0u64;
        while Instant::now() < until {
            sum = std::hint::black_box(sum.wrapping_mul(31) + 1);
        }
        sum
    }

    fn count(source: Source, signal: i32, level: Level) -> Result<(u64, u64), InterruptError> {
        let slots = Arc::new(Slots::new(1, Model::NonRt));
        let _lease = slots.lease().expect("free");
        let (hits, inside) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (seen, good) = (hits.clone(), inside.clone());
        let mut frames = Vec::with_capacity(16);
        let hook: Hook = Box::new(move |_, at| {
            seen.fetch_add(1, Ordering::Relaxed);
            frames.clear();
            at.frames(&mut frames);
            good.fetch_add(u64::from(frames.first() == Some(&at.registers()[16])), Ordering::Relaxed);
        });
        let interrupts = Interrupts::start(&slots, 0, (source, signal, level), hook)?;
        // Under an emulator, time passes and little is done in it.
        let patience = Instant::now() + Duration::from_secs(20);
        while hits.load(Ordering::Relaxed) <= 3 && Instant::now() < patience {
            work(Instant::now() + Duration::from_millis(20));
        }
        drop(interrupts);
        Ok((hits.load(Ordering::Relaxed), inside.load(Ordering::Relaxed)))
    }

    #[test]
    fn timers_interrupt_the_thread_that_holds_the_slot_and_show_where() {
        let (hits, inside) = count(Source::Timer { period_ns: 1_000_000 }, libc::SIGRTMIN() + 5, Level::Hard).unwrap();
        assert!(hits > 3 && hits == inside, "{hits} {inside}");
    }

    #[test]
    fn a_timer_faster_than_its_handler_slows_down_until_the_thread_gets_on() {
        let slots = Arc::new(Slots::new(1, Model::NonRt));
        let _lease = slots.lease().expect("free");
        let period = Arc::new(AtomicU64::new(0));
        let seen = period.clone();
        let hook: Hook = Box::new(move |_, at| {
            seen.store(at.period_ns(), Ordering::Relaxed);
            work(Instant::now() + Duration::from_micros(200));
        });
        let source = Source::Timer { period_ns: 20_000 };
        let interrupts = Interrupts::start(&slots, 0, (source, libc::SIGRTMIN() + 8, Level::Hard), hook).unwrap();
        let patience = Instant::now() + Duration::from_secs(20);
        while interrupts.period_ns() < 160_000 && Instant::now() < patience {
            work(Instant::now() + Duration::from_millis(20));
        }
        assert!(interrupts.period_ns() >= 160_000, "{}", interrupts.period_ns());
        drop(interrupts);
        assert!(period.load(Ordering::Relaxed) >= 160_000);
    }

    #[test]
    fn the_cpu_clock_interrupts_too_where_it_is_permitted() {
        match count(Source::CpuClock { period_ns: 1_000_000 }, libc::SIGRTMIN() + 6, Level::Nmi) {
            Ok((hits, inside)) => assert!(hits > 3 && hits == inside, "{hits} {inside}"),
            Err(refused) => println!("skipped: {refused}"),
        }
    }

    #[test]
    fn one_source_a_level_one_level_a_signal_and_only_on_a_held_slot() {
        let slots = Arc::new(Slots::new(1, Model::NonRt));
        let never = Source::Timer { period_ns: 3_600_000_000_000 };
        let start = |signal, level| Interrupts::start(&slots, 0, (never, signal, level), Box::new(|_, _| ()));
        let signal = libc::SIGRTMIN() + 7;
        assert!(matches!(start(signal, Level::Hard), Err(InterruptError::NotHeld(0))));
        let _lease = slots.lease().expect("free");
        assert!(matches!(start(signal, Level::Task), Err(InterruptError::Level(Level::Task))));
        let first = start(signal, Level::Hard).expect("free");
        assert!(matches!(start(signal + 1, Level::Hard), Err(InterruptError::Busy(_))));
        assert!(matches!(start(signal, Level::Nmi), Err(InterruptError::Busy(_))));
        assert!(matches!(start(libc::SIGSEGV, Level::Nmi), Err(InterruptError::Handled(_))));
        drop(first);
        let again = start(signal, Level::Hard).expect("free again");
        again.raise();
    }
}
