//! Maps under threads of the system: every recorded history is linearizable. `RTBPF_HISTORIES` sets how many each kind
//! of map gets (default 300), `RTBPF_SEED` the seed. `tests/shuttle.rs` chooses the interleavings itself.

mod history;

use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, Ordering};

use history::{Answer, Chance, Event, Op, SUBJECTS, Subject, is_linearizable, number};
use rtbpf_rt::RunCx;

const THREADS: u32 = 3;
/// Operations of a thread in a history.
const OPS: u32 = 8;

fn record(subject: Subject, seed: u64) -> Vec<Event> {
    let map = subject.create();
    let (clock, together) = (AtomicU32::new(0), Barrier::new(THREADS as usize));
    let turn = |slot: u32| {
        let mut chance = Chance::new(seed * u64::from(THREADS) + u64::from(slot));
        let ops: Vec<Op> = (0..OPS).map(|at| subject.draw(&mut chance, slot << 16 | at)).collect();
        let cx = RunCx { slot, ..RunCx::CONTROL };
        together.wait();
        let tick = || clock.fetch_add(1, Ordering::SeqCst);
        let run = |op| {
            let begun = tick();
            let answer = subject.run(&*map, &cx, op);
            Event { begun, ended: tick(), op, answer }
        };
        ops.into_iter().map(run).collect::<Vec<_>>()
    };
    std::thread::scope(|scope| {
        let turn = &turn;
        let threads: Vec<_> = (0..THREADS).map(|slot| scope.spawn(move || turn(slot))).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
    })
}

fn overlaps(history: &[Event]) -> bool {
    let beside = |a: &Event, b: &Event| a.begun < b.ended && b.begun < a.ended;
    history.iter().enumerate().any(|(at, a)| history[at + 1..].iter().any(|b| beside(a, b)))
}

#[test]
fn recorded_histories_are_linearizable() {
    let (count, first) = (number("RTBPF_HISTORIES", 300), number("RTBPF_SEED", 1));
    for subject in SUBJECTS {
        let mut concurrent = 0;
        for seed in first..first + count {
            let history = record(subject, seed);
            concurrent += u64::from(overlaps(&history));
            assert!(is_linearizable(subject, &history), "{subject:?}, RTBPF_SEED={seed}: {history:#?}");
        }
        println!("{subject:?}: {count} histories are linearizable, {concurrent} of them with operations side by side");
    }
}

#[test]
fn the_checker_sees_what_no_order_explains() {
    let event = |begun, ended, op, answer| Event { begun, ended, op, answer };
    let hash = Subject::Hash { dynamic: false, sleeping: false };
    let check = |subject, history: &[Event], expected| assert_eq!(is_linearizable(subject, history), expected);
    // A lookup beside an insertion may see it or not; after it, it must.
    let insert = |ended| event(0, ended, Op::Put(1, 7, 0), Answer::Done);
    check(hash, &[insert(3), event(1, 2, Op::Has(1), Answer::Refused)], true);
    check(hash, &[insert(3), event(1, 2, Op::Has(1), Answer::Done)], true);
    check(hash, &[insert(1), event(2, 3, Op::Has(1), Answer::Refused)], false);
    // Two takers of one value.
    let take = |begun| event(begun, begun + 2, Op::Take(1), Answer::Value(7));
    check(hash, &[insert(1), take(2), take(3)], false);
    // Two lookups that see an insertion, and its end, in the wrong order.
    let has = |begun, answer| event(begun, begun + 1, Op::Has(1), answer);
    check(hash, &[insert(9), has(1, Answer::Done), has(3, Answer::Refused)], false);
    // A queue that hands out the second value first; the order of a stack.
    let line = |popped| {
        let push = |at, value| event(at, at + 1, Op::Push(value), Answer::Done);
        [push(0, 5), push(2, 6), event(4, 5, Op::Pop, Answer::Value(popped))]
    };
    check(Subject::Queue, &line(5), true);
    check(Subject::Queue, &line(6), false);
    check(Subject::Stack, &line(6), true);
    check(Subject::Stack, &line(5), false);
}
