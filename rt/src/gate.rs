//! Sections in which what a map handed out stays alive, and the end of what was replaced.
//!
//! A run of a program is a section. What can be replaced while programs run (inner maps, tail-call targets, code) is
//! *retired*: freed only when every thread that was in a section at that moment has left it. Sections cost one plain
//! store each way; the one who frees pays for the ordering with `membarrier`.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, compiler_fence, fence};

use crate::lock::prim::{Word, point};
use crate::lock::word;

/// Threads that can be in sections at once without slowing reclamation.
const THREADS: usize = 512;

#[repr(align(64))]
struct Reader {
    /// 0 when unused, else the thread's id.
    tid: AtomicU32,
    /// The epoch in which the outermost section began, and how many there are (the low [`NESTING`] bits); 0 outside.
    state: AtomicU64,
}

const NESTING: u32 = 16;
const DEEPEST: u64 = (1 << NESTING) - 1;

static READERS: [Reader; THREADS] = [const { Reader { tid: AtomicU32::new(0), state: AtomicU64::new(0) } }; THREADS];
/// Sections of threads that found no entry: nothing is freed while there are any.
static UNLISTED: AtomicU32 = AtomicU32::new(0);
static EPOCH: AtomicU64 = AtomicU64::new(1);
static ASYMMETRIC: AtomicBool = AtomicBool::new(false);

type Last = Box<dyn FnOnce() + Send>;

/// What is retired and not yet freed, with the epoch of its retirement. Level Task only; nothing is called under it.
static RETIRED: Mutex<Vec<(u64, Last)>> = Mutex::new(Vec::new());

thread_local! {
    static MINE: Cell<Option<&'static Reader>> = const { Cell::new(None) };
}

/// A section of the calling thread. Nests; ends when dropped.
pub struct Section {
    listed: Option<&'static Reader>,
    thread_bound: PhantomData<*const ()>,
}

/// Begins a section. Usable at every level.
#[inline]
pub fn enter() -> Section {
    point();
    let Some(reader) = mine() else { return unlisted() };
    let order = || match ASYMMETRIC.load(Ordering::Relaxed) {
        true => compiler_fence(Ordering::SeqCst),
        false => fence(Ordering::SeqCst),
    };
    if !begin(&reader.state, &EPOCH, order) {
        return unlisted();
    }
    Section { listed: Some(reader), thread_bound: PhantomData }
}

/// Begins a section in a reader's state; `false` when there are too many. `order` lets who frees see that before anything
/// is read in the section.
#[inline(always)]
pub fn begin<W: Word<u64>>(reader: &W, epoch: &W, order: impl FnOnce()) -> bool {
    // A handler may come between any two of these lines. It leaves the state as it found it.
    let state = reader.load(Ordering::Relaxed);
    point();
    // Release: who sees this section knows that the reads of those before it are over. Pairs with the acquire in `since`.
    if state == 0 {
        reader.store(epoch.load(Ordering::Relaxed) << NESTING | 1, Ordering::Release);
        order();
    } else if state & DEEPEST != DEEPEST {
        reader.store(state + 1, Ordering::Release);
    } else {
        return false;
    }
    true
}

/// Ends a section in a reader's state.
#[inline(always)]
pub fn end(reader: &impl Word<u64>) {
    let state = reader.load(Ordering::Relaxed);
    point();
    // Release: all reads of the section come before; pairs with the acquire in `since`. A branch rather than
    // arithmetic: what is stored does not wait for what was loaded.
    if state & DEEPEST == 1 {
        reader.store(0, Ordering::Release);
    } else {
        reader.store(state - 1, Ordering::Release);
    }
}

/// The epoch in which a reader's outermost section began; `None` outside.
pub fn since(reader: &impl Word<u64>) -> Option<u64> {
    Some(reader.load(Ordering::Acquire)).filter(|state| *state != 0).map(|state| state >> NESTING)
}

#[cold]
fn unlisted() -> Section {
    UNLISTED.fetch_add(1, Ordering::SeqCst);
    Section { listed: None, thread_bound: PhantomData }
}

impl Drop for Section {
    #[inline]
    fn drop(&mut self) {
        let Some(reader) = self.listed else {
            UNLISTED.fetch_sub(1, Ordering::SeqCst);
            return;
        };
        end(&reader.state);
    }
}

/// The calling thread's entry.
#[cfg(not(shuttle))]
#[inline]
fn mine() -> Option<&'static Reader> {
    MINE.get().or_else(register)
}

/// The calling thread's entry: one of shuttle's threads.
#[cfg(shuttle)]
fn mine() -> Option<&'static Reader> {
    READERS.get(crate::lock::held::me().tid() as usize)
}

#[cold]
#[cfg_attr(shuttle, allow(dead_code))]
fn register() -> Option<&'static Reader> {
    let tid = crate::lock::held::me().tid();
    let claim = |reader: &&Reader| {
        let old = reader.tid.load(Ordering::Acquire);
        (old == 0 || !crate::lock::held::thread_lives(old))
            && reader.tid.compare_exchange(old, tid, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    };
    let unused = |reader: &&Reader| reader.tid.compare_exchange(0, tid, Ordering::AcqRel, Ordering::Relaxed).is_ok();
    let reader = READERS.iter().find(unused).or_else(|| READERS.iter().find(claim))?;
    reader.state.store(0, Ordering::Release);
    let asymmetric = word::membarrier(libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED);
    ASYMMETRIC.store(asymmetric, Ordering::SeqCst);
    MINE.set(Some(reader));
    Some(reader)
}

/// The epoch of the oldest section under way; `u64::MAX` when there is none.
fn oldest() -> u64 {
    // Makes every reader's stores of `enter` visible before its later loads, as a fence there would.
    fence(Ordering::SeqCst);
    if ASYMMETRIC.load(Ordering::Relaxed) {
        word::membarrier(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED);
    }
    if UNLISTED.load(Ordering::SeqCst) != 0 {
        return 0;
    }
    READERS.iter().filter_map(|reader| since(&reader.state)).min().unwrap_or(u64::MAX)
}

/// Calls `last` once no section that began before this call is under way. Level Task only. The thing retired must
/// already be unreachable for new sections.
pub fn retire(last: impl FnOnce() + Send + 'static) {
    point();
    let epoch = EPOCH.fetch_add(1, Ordering::SeqCst);
    point();
    if let Ok(mut retired) = RETIRED.lock() {
        retired.push((epoch, Box::new(last)));
    }
    reclaim();
}

/// Frees what can be freed now; answers how much is left. Worker loops call it between runs.
pub fn reclaim() -> usize {
    let oldest = oldest();
    let (ready, left) = {
        let Ok(mut retired) = RETIRED.lock() else { return 0 };
        let (ready, left): (Vec<_>, Vec<_>) = retired.drain(..).partition(|(epoch, _)| *epoch < oldest);
        let count = left.len();
        *retired = left;
        (ready, count)
    };
    // Outside the lock: dropping a map may retire others.
    ready.into_iter().for_each(|(_, last)| last());
    left
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc::channel;

    use super::*;

    fn flag() -> (Arc<AtomicBool>, impl FnOnce() + Send + 'static) {
        let flag = Arc::new(AtomicBool::new(false));
        let set = flag.clone();
        (flag, move || set.store(true, Ordering::SeqCst))
    }

    /// Other tests of this process may be in sections of their own for a moment.
    fn within_a_second(done: impl Fn() -> bool) -> bool {
        (0..1000).any(|_| {
            reclaim();
            done() || {
                std::thread::sleep(std::time::Duration::from_millis(1));
                false
            }
        })
    }

    #[test]
    fn what_is_retired_outlives_the_sections_that_could_see_it() {
        let (freed, last) = flag();
        let outer = enter();
        let inner = enter();
        retire(last);
        drop(inner);
        reclaim();
        assert!(!freed.load(Ordering::SeqCst), "freed under an open section");
        drop(outer);
        assert!(within_a_second(|| freed.load(Ordering::SeqCst)));
    }

    #[test]
    fn sections_of_other_threads_count_and_later_ones_do_not() {
        let (freed, last) = flag();
        let (entered, wait_entered) = channel();
        let (leave, wait_leave) = channel::<()>();
        let thread = std::thread::spawn(move || {
            let _section = enter();
            entered.send(()).expect("the test listens");
            let _ = wait_leave.recv();
        });
        wait_entered.recv().expect("the thread entered");
        retire(last);
        let _later = enter();
        reclaim();
        assert!(!freed.load(Ordering::SeqCst), "freed under the other thread's section");
        drop(leave);
        thread.join().expect("no panic");
        assert!(within_a_second(|| freed.load(Ordering::SeqCst)));
    }
}
