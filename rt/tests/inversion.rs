//! Priority inversion: an urgent thread wants what an unimportant one holds, while a middle one keeps the CPU from the
//! holder. All three are pinned to one CPU and scheduled by `SCHED_FIFO`, so that nothing but inheritance helps.

use std::io;
use std::sync::Barrier;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use rtbpf_rt::{Class, Lock, Model, PiMutex, RawLock, RunCx, pin};

/// CPU time the holder needs before it lets go.
const SECTION: Duration = Duration::from_millis(10);
/// CPU time the middle thread takes.
const BURST: Duration = Duration::from_millis(60);
/// The shortest wait of so many counts: the host may take the CPU away from all three.
const ROUNDS: usize = 8;

fn cpu_time() -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is ours; the clock exists for every thread.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut now) };
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// Works for so much CPU time: while the thread is preempted, none of it passes.
fn work(time: Duration) {
    let end = cpu_time() + time;
    while cpu_time() < end {
        std::hint::spin_loop();
    }
}

/// How long the urgent thread waits in `enter`, where the unimportant one is in a `critical` section and the middle one
/// becomes runnable at the same time. The error where real-time priorities are not permitted.
fn wait(critical: &(dyn Fn(&dyn Fn()) + Sync), enter: &(dyn Fn() + Sync)) -> io::Result<Duration> {
    let (wake_high, high) = channel();
    let (wake_middle, middle) = channel();
    let ready = Barrier::new(3);
    let become_one = |priority| {
        let done = pin::pin_to(0).and_then(|()| pin::set_priority(priority));
        ready.wait();
        done
    };
    std::thread::scope(|scope| {
        let high = scope.spawn(move || {
            become_one(30)?;
            high.recv().map_err(io::Error::other)?;
            // Wakes nobody yet: this thread has the CPU until it waits.
            wake_middle.send(()).map_err(io::Error::other)?;
            let begun = Instant::now();
            enter();
            Ok(begun.elapsed())
        });
        scope.spawn(move || {
            if become_one(20).is_ok() && middle.recv().is_ok() {
                work(BURST);
            }
        });
        scope.spawn(move || {
            if become_one(10).is_ok() {
                critical(&|| {
                    // The urgent thread takes the CPU inside this call, and gives it back when it waits.
                    let _ = wake_high.send(());
                    work(SECTION);
                });
            }
        });
        high.join().expect("no panic")
    })
}

fn shortest(critical: &(dyn Fn(&dyn Fn()) + Sync), enter: &(dyn Fn() + Sync)) -> io::Result<Duration> {
    let waits: io::Result<Vec<_>> = (0..ROUNDS).map(|_| wait(critical, enter)).collect();
    Ok(waits?.into_iter().min().unwrap_or_default())
}

fn shortest_on<L: Lock>(class: Class) -> io::Result<Duration> {
    let lock = L::default();
    let cx = RunCx { model: Model::Rt, ..RunCx::CONTROL };
    let critical = |section: &dyn Fn()| {
        let _held = lock.lock(&cx, class).expect("free");
        section();
    };
    shortest(&critical, &|| drop(lock.lock(&cx, class).expect("level Task waits")))
}

#[test]
fn row_05b_priority_inversion_is_bounded_by_the_critical_section() {
    let plain = std::sync::Mutex::new(());
    let critical = |section: &dyn Fn()| {
        let _held = plain.lock();
        section();
    };
    let waits = shortest_on::<PiMutex>(Class::Control)
        .and_then(|pi| Ok((pi, shortest_on::<RawLock>(Class::Queue)?, shortest(&critical, &|| drop(plain.lock()))?)));
    let (pi, raw, control) = match waits {
        Ok(waits) => waits,
        Err(refused) => return println!("skipped: real-time priorities: {refused}"),
    };
    println!("section {SECTION:?}, burst {BURST:?}: waited {pi:?} on the sleeping lock, {raw:?} on the raw one,");
    println!("{control:?} on a lock without inheritance");
    assert!(control >= BURST, "the control waits for the burst: {control:?}");
    assert!(pi < 2 * SECTION, "{pi:?} on the sleeping lock");
    assert!(raw < 2 * SECTION, "{raw:?} on the raw lock");
}
