//! Timers in the values of maps (`bpf_timer`, bpf-helpers(7)).
//!
//! Programs set them; they fire when their host says so ([`Session::run_timers`](crate::Session::run_timers)), by the
//! clock of the world, so that runs repeat exactly under an injected one. A callback runs in the checked interpreter,
//! whatever engine set it. A timer dies with its element, its map or its program.
//!
//! The first word of the timer in the value holds a number that no other timer has: maps clear it in fresh elements, so
//! that one who took a dead element's place is never taken for it.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, Weak};

use rtbpf_abi::Errno;
use rtbpf_abi::map_spec::SpecialKind;
use rtbpf_isa::InsnIdx;
use rtbpf_maps::{Map, MapRef};

use crate::executable::Bound;
use crate::world::Clock;

/// `clock` of `timer_init`: `CLOCK_REALTIME`, `CLOCK_MONOTONIC`, `CLOCK_BOOTTIME`.
const CLOCKS: [u64; 3] = [0, 1, 7];
/// `BPF_F_TIMER_ABS` and `BPF_F_TIMER_CPU_PIN`.
const ABSOLUTE: u64 = 1;
const PINNED: u64 = 2;
/// International atomic time is ahead of real time by so much since 2017.
const TAI_AHEAD_NS: u64 = 37_000_000_000;

/// What fires: a function of a program.
#[derive(Clone)]
pub(crate) struct Callback {
    pub program: Weak<Bound>,
    pub at: InsnIdx,
}

/// A timer that is due.
pub(crate) struct Due {
    pub word: u64,
    pub number: u64,
    pub map: MapRef,
    /// Address of the value that holds it.
    pub value: u64,
    pub callback: Callback,
}

struct Timer {
    number: u64,
    map: Weak<dyn Map>,
    value: u64,
    clock: u64,
    callback: Option<Callback>,
    /// By the monotonic clock.
    due: Option<u64>,
}

#[derive(Default)]
struct State {
    numbers: u64,
    /// By the address of their first word.
    timers: HashMap<u64, Timer>,
    /// Due time and address, of those that run.
    queue: BTreeSet<(u64, u64)>,
    /// How many there may be before the dead are looked for.
    crowd: usize,
}

/// The timers of an engine.
#[derive(Default)]
pub(crate) struct Timers(Mutex<State>);

impl State {
    /// The timer whose word is at `word` and holds `number`.
    fn timer(&mut self, word: u64, number: u64) -> Result<&mut Timer, Errno> {
        self.timers.get_mut(&word).filter(|timer| number != 0 && timer.number == number).ok_or(Errno::EINVAL)
    }

    /// Makes the timer at `word` due at `due`, and at no other time.
    fn enqueue(&mut self, word: u64, due: u64) {
        self.unqueue(word);
        if let Some(timer) = self.timers.get_mut(&word) {
            timer.due = Some(due);
            self.queue.insert((due, word));
        }
    }

    /// Whether the timer at `word` was due at some time; it no longer is.
    fn unqueue(&mut self, word: u64) -> bool {
        let due = self.timers.get_mut(&word).and_then(|timer| timer.due.take());
        due.is_some_and(|due| self.queue.remove(&(due, word)))
    }

    fn forget_the_dead(&mut self) {
        if self.timers.len() < self.crowd {
            return;
        }
        self.timers.retain(|_, timer| timer.map.strong_count() > 0);
        self.queue.retain(|(_, word)| self.timers.contains_key(word));
        self.crowd = (2 * self.timers.len()).max(1024);
    }
}

impl Timers {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `bpf_timer_init` of the timer whose first word is `word`.
    pub fn init(&self, word: &AtomicU64, map: &MapRef, flags: u64) -> Result<(), Errno> {
        if !CLOCKS.contains(&flags) {
            return Err(Errno::EINVAL);
        }
        let field = map.spec().field(|kind| matches!(kind, SpecialKind::Timer)).ok_or(Errno::EINVAL)?;
        let mut state = self.state();
        state.forget_the_dead();
        state.numbers += 1;
        let number = state.numbers;
        word.compare_exchange(0, number, Ordering::AcqRel, Ordering::Relaxed).map_err(|_| Errno::EBUSY)?;
        let at = word.as_ptr() as u64;
        state.unqueue(at);
        let value = at.wrapping_sub(u64::from(field.off));
        let timer =
            Timer { number, map: std::sync::Arc::downgrade(map), value, clock: flags, callback: None, due: None };
        state.timers.insert(at, timer);
        Ok(())
    }

    /// `bpf_timer_set_callback`.
    pub fn set_callback(&self, word: &AtomicU64, callback: Callback) -> Result<(), Errno> {
        let (at, number) = (word.as_ptr() as u64, word.load(Ordering::Acquire));
        self.state().timer(at, number)?.callback = Some(callback);
        Ok(())
    }

    /// `bpf_timer_start`.
    pub fn start(&self, word: &AtomicU64, clock: &dyn Clock, ns: u64, flags: u64) -> Result<(), Errno> {
        if flags & !(ABSOLUTE | PINNED) != 0 {
            return Err(Errno::EINVAL);
        }
        let (at, number) = (word.as_ptr() as u64, word.load(Ordering::Acquire));
        let mut state = self.state();
        let timer = state.timer(at, number)?;
        if timer.callback.is_none() {
            return Err(Errno::EINVAL);
        }
        let now = match timer.clock {
            0 => clock.tai_ns().saturating_sub(TAI_AHEAD_NS),
            7 => clock.boot_ns(),
            _ => clock.monotonic_ns(),
        };
        let wait = if flags & ABSOLUTE != 0 { ns.saturating_sub(now) } else { ns };
        let due = clock.monotonic_ns().saturating_add(wait);
        state.enqueue(at, due);
        Ok(())
    }

    /// `bpf_timer_cancel`; whether it was running. `firing` is the timer whose callback asks.
    pub fn cancel(&self, word: &AtomicU64, firing: Option<u64>) -> Result<bool, Errno> {
        let (at, number) = (word.as_ptr() as u64, word.load(Ordering::Acquire));
        let mut state = self.state();
        let timer = state.timer(at, number)?;
        if firing == Some(at) {
            return Err(Errno::EDEADLK);
        }
        timer.callback = None;
        Ok(state.unqueue(at))
    }

    /// When the next one is due, by the monotonic clock.
    pub fn next(&self) -> Option<u64> {
        self.state().queue.first().map(|(due, _)| *due)
    }

    /// Takes the timers that are due at `now` out of the queue, in order.
    pub fn take_due(&self, now: u64) -> Vec<Due> {
        let mut state = self.state();
        let mut found = Vec::new();
        while let Some(&(due, word)) = state.queue.first()
            && due <= now
        {
            state.queue.pop_first();
            let Some(timer) = state.timers.get_mut(&word) else { continue };
            timer.due = None;
            if let (Some(map), Some(callback)) = (timer.map.upgrade(), timer.callback.clone()) {
                found.push(Due { word, number: timer.number, map, value: timer.value, callback });
            } else {
                state.timers.remove(&word);
            }
        }
        found
    }

    /// Makes a timer that was taken due again.
    pub fn put_back(&self, due: &Due) {
        let mut state = self.state();
        if state.timer(due.word, due.number).is_ok_and(|timer| timer.due.is_none()) {
            state.enqueue(due.word, 0);
        }
    }

    /// Whether a timer that was taken still has its callback: one that fired before it may have cancelled it.
    pub fn may_fire(&self, due: &Due) -> bool {
        self.state().timer(due.word, due.number).is_ok_and(|timer| timer.callback.is_some() && timer.due.is_none())
    }
}

#[cfg(all(test, feature = "jit"))]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicU64;

    use rtbpf_abi::map_spec::{SpecialField, SpecialKind};
    use rtbpf_abi::{MapKind, MapSpec, ProgType};
    use rtbpf_maps::{CreateCx, create};
    use rtbpf_rt::RunCx;
    use rtbpf_verifier::Assumptions;

    use super::*;
    use crate::testing::{describe, program};
    use crate::{Config, Ctx, Engine, Executable, Native, World};

    /// A clock that is set by hand.
    #[derive(Default)]
    struct Hand(AtomicU64);

    impl Clock for Hand {
        fn monotonic_ns(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }

        fn tai_ns(&self) -> u64 {
            self.monotonic_ns()
        }
    }

    struct Fixture {
        engine: Engine,
        clock: Arc<Hand>,
        map: MapRef,
    }

    impl Fixture {
        fn new(kind: MapKind) -> Fixture {
            let clock = Arc::new(Hand::default());
            let world = World { clock: clock.clone(), ..World::default() };
            let engine = Engine::new(Config { world, ..Config::linux() });
            let timer = SpecialField { off: 8, kind: SpecialKind::Timer };
            let spec = MapSpec { fields: vec![timer], ..MapSpec::new(kind, 4, 24, 4) };
            let map = create(&spec, &CreateCx::new(2)).expect("the map can be made");
            if kind != MapKind::Array {
                map.update(&RunCx::CONTROL, &[0; 4], [0; 24].as_slice().into(), 0).expect("it has room");
            }
            Fixture { engine, clock, map }
        }

        /// Looks the element up, runs `body` with r6 = the timer, and ends; a callback may follow.
        fn native(&self, body: &str, callback: &str) -> Native {
            let text = format!(
                "*(u32 *)(r10 - 4) = 0\n r1 = map[idx:0] ll\n r2 = r10\n r2 += -4\n call 1\n if r0 == 0 goto out\n \
                 r6 = r0\n r6 += 8\n {body}\nout:\n exit\n{callback}"
            );
            let mut program = program(&text);
            let given = Assumptions {
                btf: Some(describe(&mut program)),
                maps: vec![Arc::new(self.map.spec().clone())],
                ..Assumptions::new(ProgType::Xdp)
            };
            let verified = self.engine.verify(program, given).unwrap_or_else(|error| panic!("{text}: {error}"));
            self.engine.bind_native(verified, vec![self.map.clone()]).expect("it has native code")
        }

        /// Runs by one engine or the other.
        fn run(&self, native: &Native, checked: bool) -> i64 {
            let mut ctx = Ctx::test_run(ProgType::Xdp, None, &[0; 64], &[]).expect("a good packet");
            let mut session = self.engine.session(0);
            let program: &Executable = native.executable();
            let r0 = if checked { program.run(&mut session, &mut ctx) } else { native.run(&mut session, &mut ctx) };
            r0.expect("it was proved") as i64
        }

        fn fire(&self, at: u64) -> usize {
            self.clock.0.store(at, Ordering::Relaxed);
            self.engine.session(0).run_timers().expect("callbacks end")
        }

        fn count(&self) -> u64 {
            let mut value = Vec::new();
            self.map.read(&RunCx::CONTROL, &[0; 4], 0, &mut value).expect("it is there");
            value.first_chunk().map_or(0, |count| u64::from_le_bytes(*count))
        }
    }

    const INIT: &str = "r1 = r6\n r2 = map[idx:0] ll\n r3 = 1\n call 169";
    const SET: &str = "r1 = r6\n r2 = subprog[fire] ll\n call 170";
    const START: &str = "r1 = r6\n r2 = 100\n r3 = 0\n call 171";
    const CANCEL: &str = "r1 = r6\n call 172";
    /// Counts in the element.
    const COUNT: &str = "fire:\n r1 = *(u64 *)(r3 + 0)\n r1 += 1\n *(u64 *)(r3 + 0) = r1\n r0 = 0\n exit";

    #[test]
    fn steps_out_of_order_are_refused() {
        for checked in [true, false] {
            let fixture = Fixture::new(MapKind::Hash);
            let run = |body: &str, callback: &str| fixture.run(&fixture.native(body, callback), checked);
            assert_eq!((run(START, ""), run(CANCEL, ""), run(SET, COUNT)), (-22, -22, -22));
            assert_eq!(run(&INIT.replace("r3 = 1", "r3 = 15"), ""), -22);
            assert_eq!((run(INIT, ""), run(INIT, ""), run(START, "")), (0, -16, -22));
            let program = fixture.native(SET, COUNT);
            assert_eq!((fixture.run(&program, checked), run(&START.replace("r3 = 0", "r3 = 8"), "")), (0, -22));
            assert_eq!((run(START, ""), run(CANCEL, ""), run(CANCEL, ""), run(START, "")), (0, 1, 0, -22));
        }
    }

    #[test]
    fn timers_fire_when_they_are_due_and_their_element_lives() {
        for (kind, checked) in
            [(MapKind::Array, true), (MapKind::Array, false), (MapKind::Hash, true), (MapKind::LruHash, false)]
        {
            let fixture = Fixture::new(kind);
            let program = fixture.native(&format!("{INIT}\n {SET}\n {START}"), COUNT);
            assert_eq!(fixture.run(&program, checked), 0);
            assert_eq!(fixture.engine.next_timer(), Some(100));
            assert_eq!((fixture.fire(99), fixture.count()), (0, 0));
            assert_eq!((fixture.fire(100), fixture.count()), (1, 1));
            assert_eq!((fixture.fire(1000), fixture.count(), fixture.engine.next_timer()), (0, 1, None));
            // Started again, by the callback that it has.
            let again = fixture.native(START, "");
            assert_eq!(fixture.run(&again, checked), 0);
            if kind != MapKind::Array {
                fixture.map.delete(&RunCx::CONTROL, &[0; 4]).expect("it is there");
                assert_eq!(fixture.fire(2000), 0);
                fixture.map.update(&RunCx::CONTROL, &[0; 4], [0; 24].as_slice().into(), 0).expect("it has room");
                assert_eq!(fixture.run(&fixture.native(CANCEL, ""), checked), -22);
            } else {
                assert_eq!((fixture.fire(2000), fixture.count()), (1, 2));
            }
        }
    }

    #[test]
    fn a_callback_may_start_its_timer_anew_and_not_cancel_it() {
        let fixture = Fixture::new(MapKind::Array);
        let again = "fire:\n r6 = r3\n r1 = r3\n r1 += 8\n call 172\n *(u64 *)(r6 + 0) = r0\n r1 = r6\n r1 += 8\n r2 = 10\n \
                     r3 = 0\n call 171\n r0 = 0\n exit";
        let program = fixture.native(&format!("{INIT}\n {SET}\n {START}"), again);
        assert_eq!(fixture.run(&program, false), 0);
        assert_eq!((fixture.fire(100), fixture.count() as i64), (1, -35));
        assert_eq!((fixture.engine.next_timer(), fixture.fire(110)), (Some(110), 1));
        // The program takes its callbacks with it.
        drop(program);
        assert_eq!(fixture.fire(1000), 0);
    }
}
