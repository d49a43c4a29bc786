//! Faults in native code, turned into faults of the run [unsafe room].
//!
//! ```text
//! SIGSEGV SIGBUS SIGFPE SIGILL ──▶ handler ── pc in a program's body ──▶ frame.fault, fault_at; go on at its exit
//!                                     │
//!                                     └─────── anywhere else ──▶ whoever handled the signal before
//! ```
//!
//! Opt-in by [`install`]. Verified programs do not fault: what comes here is a bug of verifier, code generation or host,
//! which an embedder may prefer to see as an error of one run. The handler takes no lock and allocates nothing. It leaves the
//! innermost entry: inside a callback the helper gets control back, sees the fault and returns. What the program held is
//! given back when the run has ended, never here.

use std::io;
use std::ops::Range;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use libc::{c_int, c_void, siginfo_t, ucontext_t};
use rtbpf_abi::frame::{FaultCode, RunFrame};

use crate::exec_mem::Pages;

/// What lies on each page of a reserved range. Tables are never freed, as ranges are not, so a handler walks them without
/// a lock.
#[derive(Debug)]
pub(crate) struct Table {
    range: Range<usize>,
    page: usize,
    /// The group of programs on each page; null where there is none.
    groups: Box<[AtomicPtr<Pages>]>,
    next: *const Table,
}

// SAFETY: `next` is written before the table is shared and leads to another table, which lives forever.
unsafe impl Sync for Table {}
// SAFETY: as above.
unsafe impl Send for Table {}

/// The newest table; the others follow from it. The release store pairs with the handler's acquire load.
static TABLES: AtomicPtr<Table> = AtomicPtr::new(ptr::null_mut());

impl Table {
    /// A table for a range that was reserved just now. Called under the lock of the ranges.
    pub(crate) fn add(base: usize, bytes: usize, page: usize) -> &'static Table {
        let groups = std::iter::repeat_with(|| AtomicPtr::new(ptr::null_mut())).take(bytes / page).collect();
        let next = TABLES.load(Ordering::Relaxed).cast_const();
        let table = Box::leak(Box::new(Table { range: base..base + bytes, page, groups, next }));
        TABLES.store(table, Ordering::Release);
        table
    }

    pub(crate) fn base(&self) -> usize {
        self.range.start
    }

    pub(crate) fn bytes(&self) -> usize {
        self.range.end - self.range.start
    }

    pub(crate) fn overlaps(&self, other: &Range<usize>) -> bool {
        self.range.start < other.end && other.start < self.range.end
    }

    fn set(&self, pages: Range<usize>, group: *mut Pages) {
        let index = |address: usize| (address - self.range.start) / self.page;
        for entry in self.groups.get(index(pages.start)..index(pages.end)).unwrap_or_default() {
            // Pairs with the acquire load of a handler that finds the group there.
            entry.store(group, Ordering::Release);
        }
    }

    /// Notes what lies on these pages, until [`Table::forget`].
    pub(crate) fn enter(&self, pages: Range<usize>, group: &Arc<Pages>) {
        self.set(pages, Arc::as_ptr(group).cast_mut());
    }

    pub(crate) fn forget(&self, pages: Range<usize>) {
        self.set(pages, ptr::null_mut());
    }

    /// The group of programs at `pc`.
    ///
    /// # Safety
    ///
    /// `pc` is an address that the calling thread executes: then the code there is alive, and its group with it.
    unsafe fn group_at<'a>(pc: usize) -> Option<&'a Pages> {
        let mut table = TABLES.load(Ordering::Acquire).cast_const();
        // SAFETY: tables live forever, and each was whole before it was linked.
        while let Some(found) = unsafe { table.as_ref() } {
            if found.range.contains(&pc) {
                let group = found.groups.get((pc - found.range.start) / found.page)?.load(Ordering::Acquire);
                // SAFETY: entries are null or groups that have not been dropped; the caller says that this one is not.
                return unsafe { group.as_ref() };
            }
            table = found.next;
        }
        None
    }
}

/// The signals that native code can raise by itself. All come again when their instruction is run again, so that a handler
/// which gives them their default action back need only return.
#[cfg(not(target_arch = "aarch64"))]
const SIGNALS: [c_int; 4] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL];
/// As above; `brk` is a trap here.
#[cfg(target_arch = "aarch64")]
const SIGNALS: [c_int; 5] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP];

/// Who handled each of [`SIGNALS`] before; set before our handler is in place.
static BEFORE: [OnceLock<libc::sigaction>; SIGNALS.len()] = [const { OnceLock::new() }; SIGNALS.len()];

/// Turns faults of native code into faults of its run, in this whole process and from now on.
///
/// Faults elsewhere go to whoever handled these signals when this was called first; later calls change nothing. Programs
/// must not run where SIGSEGV or SIGBUS are blocked: the system ends a process that faults then.
pub fn install() -> io::Result<()> {
    /// One installation at a time. Taken by callers of `install` alone.
    static INSTALLING: Mutex<()> = Mutex::new(());
    let _one = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
    for (signal, before) in SIGNALS.into_iter().zip(&BEFORE) {
        if before.get().is_some() {
            continue;
        }
        // SAFETY: plain structures, zeroed and filled; the handler is async-signal-safe.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            if libc::sigaction(signal, ptr::null(), &mut action) != 0 {
                return Err(io::Error::last_os_error());
            }
            let _ = before.set(action);
            action.sa_sigaction = handler as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigemptyset(&mut action.sa_mask);
            if libc::sigaction(signal, &action, ptr::null_mut()) != 0 {
                return Err(io::Error::last_os_error());
            }
        }
    }
    Ok(())
}

extern "C" fn handler(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: the system passes both to a handler with SA_SIGINFO, for as long as it runs.
    let (code, machine) = unsafe { ((*info).si_code, &mut *context.cast::<ucontext_t>()) };
    // Signals that the processor raised have positive codes; others only happened to arrive here.
    if code > 0 && leave(signal, info, machine).is_some() {
        return;
    }
    pass_on(signal, info, context);
}

/// Ends the run whose code faulted; `None` when it was other code.
fn leave(signal: c_int, info: *const siginfo_t, machine: &mut ucontext_t) -> Option<()> {
    let pc = registers::pc(machine);
    // SAFETY: this thread was executing `pc` when it faulted.
    let group = unsafe { Table::group_at(pc) }?;
    let (exit, at) = group.program_at(pc)?.leave(pc)?;
    // SAFETY: within a body the register holds the frame of the run, which nobody else uses while the code runs.
    let frame = unsafe { &mut *(registers::run(machine) as *mut RunFrame) };
    let memory = signal == libc::SIGSEGV || signal == libc::SIGBUS;
    frame.fault = if memory { FaultCode::Memory } else { FaultCode::Trap };
    frame.fault_at = at.0;
    // SAFETY: for these signals the system gives the address.
    let address = if memory { unsafe { (*info).si_addr() as u64 } } else { 0 };
    registers::resume(machine, exit, address);
    Some(())
}

fn pass_on(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    let before = SIGNALS.iter().position(|known| *known == signal).and_then(|at| BEFORE.get(at)?.get());
    match before {
        Some(action) if ![libc::SIG_DFL, libc::SIG_IGN].contains(&action.sa_sigaction) => {
            // SAFETY: the action was this signal's, so its address is that of a handler of the kind that its flags say.
            unsafe {
                if action.sa_flags & libc::SA_SIGINFO != 0 {
                    let handler: extern "C" fn(c_int, *mut siginfo_t, *mut c_void) =
                        std::mem::transmute(action.sa_sigaction);
                    handler(signal, info, context);
                } else {
                    let handler: extern "C" fn(c_int) = std::mem::transmute(action.sa_sigaction);
                    handler(signal);
                }
            }
        }
        // As without us: the fault comes again and ends the process; a signal that someone sent is sent again.
        Some(_) | None => {
            // SAFETY: gives the signal its default action back; both calls are async-signal-safe.
            unsafe {
                libc::signal(signal, libc::SIG_DFL);
                if (*info).si_code <= 0 {
                    libc::raise(signal);
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod registers {
    use super::ucontext_t;

    pub fn pc(machine: &ucontext_t) -> usize {
        machine.uc_mcontext.gregs[libc::REG_RIP as usize] as usize
    }

    pub fn run(machine: &ucontext_t) -> usize {
        machine.uc_mcontext.gregs[libc::REG_R12 as usize] as usize
    }

    pub fn resume(machine: &mut ucontext_t, pc: usize, r0: u64) {
        let registers = &mut machine.uc_mcontext.gregs;
        registers[libc::REG_RIP as usize] = pc as i64;
        registers[libc::REG_RAX as usize] = r0 as i64;
    }
}

#[cfg(target_arch = "aarch64")]
mod registers {
    use super::ucontext_t;

    pub fn pc(machine: &ucontext_t) -> usize {
        machine.uc_mcontext.pc as usize
    }

    pub fn run(machine: &ucontext_t) -> usize {
        machine.uc_mcontext.regs[23] as usize
    }

    pub fn resume(machine: &mut ucontext_t, pc: usize, r0: u64) {
        machine.uc_mcontext.pc = pc as u64;
        machine.uc_mcontext.regs[7] = r0;
    }
}

#[cfg(target_arch = "x86_64")]
const _: () = assert!(
    crate::x64::regs::RUN as u8 == 12 && crate::x64::regs::MAP[0] as u8 == 0,
    "the handler knows the frame's register and R0's"
);
#[cfg(target_arch = "aarch64")]
const _: () = assert!(
    crate::a64::regs::RUN.number() == 23 && crate::a64::regs::MAP[0].number() == 7,
    "the handler knows the frame's register and R0's"
);

/// No native code runs here, so none faults.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod registers {
    use super::ucontext_t;

    pub fn pc(_: &ucontext_t) -> usize {
        0
    }

    pub fn run(_: &ucontext_t) -> usize {
        0
    }

    pub fn resume(_: &mut ucontext_t, _: usize, _: u64) {}
}
