//! How long the locks of maps are held, by class: what the discussion of real-time BPF asked for. What is counted is
//! asserted; times are printed, and `rtbpf bench latency` has more of them.

use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use rtbpf_abi::map_spec::flags;
use rtbpf_abi::{Errno, MapKind, MapSpec};
use rtbpf_maps::{CreateCx, Map, MapRef, StackTrace, create};
use rtbpf_rt::{Class, Level, Model, RunCx, pin, stats};

const CX: RunCx = RunCx::program(0);

fn map(spec: MapSpec, sleeping_locks: bool) -> MapRef {
    create(&spec, &CreateCx { sleeping_locks, ..CreateCx::new(2) }).expect("legal attributes")
}

fn hash(entries: u32, flags: u32, sleeping_locks: bool) -> MapRef {
    map(MapSpec { flags, ..MapSpec::new(MapKind::Hash, 4, 248, entries) }, sleeping_locks)
}

fn insert(map: &dyn Map, cx: &RunCx, key: u32) -> Option<Errno> {
    map.update(cx, &key.to_le_bytes(), [7; 248][..map.spec().value_size as usize].into(), 0).err().map(|e| e.errno())
}

/// The histograms are the process': one test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Does `work` with locks timed, prints what they were held, and answers how often each class was.
fn holds<W: FnOnce()>(title: &str, work: W) -> impl Fn(Class) -> u64 + use<W> {
    Class::ALL.iter().for_each(|class| stats::holds(*class).clear());
    stats::time_locks(true);
    work();
    stats::time_locks(false);
    for class in Class::ALL {
        let held = stats::holds(*class);
        let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|share| held.quantile(share));
        if held.count() > 0 {
            println!(
                "{title:<24} {:<12} {:>7} holds, ns: {p50} {p99} {p999} {}",
                class.name(),
                held.count(),
                held.max()
            );
        }
    }
    |class| stats::holds(class).count()
}

#[test]
fn row_19_an_element_costs_page_faults_under_the_lock_once_and_never_again() {
    let _alone = alone();
    const KEYS: u32 = 2048;
    for (name, sleeping) in [("raw", false), ("sleeping", true)] {
        let map = hash(KEYS, flags::NO_PREALLOC, sleeping);
        let fill = |title: &str| {
            let before = pin::minor_faults();
            let held = holds(&format!("{title}, {name}"), || {
                (0..KEYS).for_each(|key| assert_eq!(insert(&*map, &RunCx::CONTROL, key), None));
            });
            assert_eq!(held(Class::Bucket), u64::from(KEYS));
            pin::minor_faults() - before
        };
        let first = fill("elements come to be");
        (0..KEYS).for_each(|key| map.delete(&RunCx::CONTROL, &key.to_le_bytes()).expect("it is there"));
        let again = fill("elements are reused");
        println!("{first} page faults, then {again}");
        // Half a MiB of elements; an emulator takes faults of its own.
        assert!(first >= 64 && (again < first / 8 || cfg!(target_arch = "aarch64")), "{first} {again}");
    }
}

#[test]
fn row_20_sleeping_locks_everywhere_would_serve_threads_and_no_handler() {
    let _alone = alone();
    let (raw, sleeping) = (hash(64, 0, false), hash(64, flags::NO_PREALLOC, true));
    for (name, map) in [("raw locks", &raw), ("sleeping locks", &sleeping)] {
        let begun = Instant::now();
        (0..2_000).for_each(|key| assert_eq!(insert(&**map, &CX, key % 64), None));
        println!("{name:<24} {} ns an update", begun.elapsed().as_nanos() / 2_000);
    }
    for level in [Level::Hard, Level::Nmi] {
        let cx = RunCx { level, model: Model::Rt, ..CX };
        assert_eq!(insert(&*raw, &cx, 5), None);
        assert_eq!(insert(&*sleeping, &cx, 5), Some(Errno::EBUSY));
        assert!(raw.lookup(&cx, &[5, 0, 0, 0]).is_some() && sleeping.lookup(&cx, &[5, 0, 0, 0]).is_some());
        assert_eq!(raw.delete(&cx, &[5, 0, 0, 0]).err().map(|error| error.errno()), None);
    }
}

#[test]
fn row_28_lru_lists_are_locked_by_the_batch_and_stack_maps_never() {
    let _alone = alone();
    const INSERTS: u32 = 5_000;
    for (name, flags, often) in [("common lru", 0, 32), ("lru per slot", flags::NO_COMMON_LRU, 1)] {
        let map = map(MapSpec { flags, ..MapSpec::new(MapKind::LruHash, 4, 8, 1024) }, false);
        let held = holds(name, || (0..INSERTS).for_each(|key| assert_eq!(insert(&*map, &CX, key), None)));
        // Each insertion and each eviction locks one bucket; a slot's stock is filled up to 128 elements at a time.
        assert!(held(Class::Bucket) >= u64::from(2 * INSERTS - 1024), "{name}: {}", held(Class::Bucket));
        assert!((1..=u64::from(INSERTS / often)).contains(&held(Class::Lru)), "{name}: {}", held(Class::Lru));
    }
    let map = map(MapSpec::new(MapKind::StackTrace, 4, 8 * 64, 1024), false);
    let stacks = map.as_any().downcast_ref::<StackTrace>().expect("a stack trace");
    let held = holds("stack map", || {
        for frame in 1..=2000 {
            let _ = stacks.id_of(&CX, &[frame, frame + 1, frame + 2], 1 << 10);
        }
    });
    assert_eq!(Class::ALL.iter().map(|class| held(*class)).sum::<u64>(), 0, "stack maps swap pointers");
}

#[test]
fn row_30_the_model_costs_nothing_where_locks_are_raw() {
    let _alone = alone();
    let map = hash(64, 0, false);
    // The shortest of many turns: whoever else runs on this machine only adds.
    let mut shortest = [u128::MAX; 2];
    for turn in 0..400 {
        let model = [Model::NonRt, Model::Rt][turn % 2];
        let cx = RunCx { model, ..CX };
        let begun = Instant::now();
        (0..64).for_each(|key| assert_eq!(insert(&*map, &cx, key), None));
        shortest[turn % 2] = shortest[turn % 2].min(begun.elapsed().as_nanos());
    }
    let [non_rt, rt] = shortest;
    println!("64 updates: {non_rt} ns in one model, {rt} ns in the other");
    assert!(non_rt * 4 < rt * 5 && rt * 4 < non_rt * 5, "{non_rt} {rt}");
}
