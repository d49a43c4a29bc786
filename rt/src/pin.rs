//! Where a thread runs: affinity, priority, resident memory.

use std::io;

/// The CPU the thread runs on now; a hint that may be old when it is read.
pub fn current_cpu() -> u32 {
    // SAFETY: no arguments; -1 on failure.
    u32::try_from(unsafe { libc::sched_getcpu() }).unwrap_or(0)
}

/// Binds the calling thread to one CPU.
pub fn pin_to(cpu: usize) -> io::Result<()> {
    if cpu >= libc::CPU_SETSIZE as usize {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: `set` is plain bits, zeroed, and `cpu` is inside it.
    let done = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set)
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Gives the calling thread a real-time priority (`SCHED_FIFO`, 1 to 99), or the ordinary policy for 0.
pub fn set_priority(priority: i32) -> io::Result<()> {
    // SAFETY: the structure is plain numbers; fields that a C library adds are zero.
    let mut param: libc::sched_param = unsafe { std::mem::zeroed() };
    param.sched_priority = priority;
    let policy = if priority > 0 { libc::SCHED_FIFO } else { libc::SCHED_OTHER };
    // SAFETY: 0 is the calling thread; `param` is ours.
    let done = unsafe { libc::sched_setscheduler(0, policy, &param) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Keeps all memory of the process, now and later, from being paged out.
pub fn lock_memory() -> io::Result<()> {
    // SAFETY: flags only.
    let done = unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Page faults of the calling thread that needed no disk: zero between two calls in a steady state.
pub fn minor_faults() -> u64 {
    // SAFETY: the structure is plain numbers and ours.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_THREAD, &mut usage);
        usage
    };
    usage.ru_minflt as u64
}

/// Whether the host's kernel is a PREEMPT_RT one; part of every measurement.
pub fn host_is_realtime() -> bool {
    std::fs::read_to_string("/sys/kernel/realtime").is_ok_and(|text| text.trim() == "1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_thread_stays_on_its_cpu() {
        std::thread::spawn(|| {
            let cpu = current_cpu() as usize;
            pin_to(cpu).expect("a CPU we already run on");
            assert!((0..1000).all(|_| current_cpu() as usize == cpu));
            assert!(pin_to(usize::MAX).is_err());
        })
        .join()
        .expect("no panic");
    }
}
