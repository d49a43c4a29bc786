//! What Linux 6.18 answers to small programs: verdict and errno, each found by loading the program.

use std::sync::Arc;

use rtbpf_abi::map_spec::flags;
use rtbpf_abi::{AttachType, Errno, MapKind, MapSpec, ProgType, prog_rules};
use rtbpf_isa::{RawInsn, asm, decode};
use rtbpf_verifier::{Assumptions, Options, Rejection, VerifiedProgram, verify};

fn map(name: &str) -> Arc<MapSpec> {
    Arc::new(match name {
        "hash" => MapSpec::new(MapKind::Hash, 4, 16, 8),
        "array" => MapSpec::new(MapKind::Array, 4, 16, 8),
        "one" => MapSpec::new(MapKind::Array, 4, 64, 1),
        "fixed" => MapSpec { flags: flags::RDONLY_PROG, ..MapSpec::new(MapKind::Hash, 4, 16, 8) },
        "fixed_queue" => MapSpec { flags: flags::RDONLY_PROG, ..MapSpec::new(MapKind::Queue, 0, 16, 8) },
        "socks" => MapSpec::new(MapKind::Sockmap, 4, 4, 8),
        "bloom" => MapSpec::new(MapKind::BloomFilter, 0, 16, 8),
        "readonly" => MapSpec { flags: flags::RDONLY_PROG, ..MapSpec::new(MapKind::Array, 4, 64, 1) },
        "queue" => MapSpec::new(MapKind::Queue, 0, 16, 8),
        "format" => MapSpec {
            flags: flags::RDONLY_PROG,
            frozen: Some(b"%d %s\0\0\0".as_slice().into()),
            ..MapSpec::new(MapKind::Array, 4, 8, 1)
        },
        "ring" => MapSpec::new(MapKind::Ringbuf, 0, 0, 4096),
        "storage" | "other_storage" => MapSpec::new(MapKind::CgroupStorage, 16, 8, 0),
        "percpu_storage" => MapSpec::new(MapKind::PercpuCgroupStorage, 16, 8, 0),
        name => panic!("no map called {name}"),
    })
}

fn judge(slots: &[RawInsn], maps: &[String], given: Assumptions) -> Result<(), Errno> {
    let maps = maps.iter().map(|name| map(name)).collect();
    let program = decode(slots).map_err(|error| Rejection::from_decode(&error).errno)?;
    verify(program, Assumptions { maps, ..given }, &Options::default()).map(|_| ()).map_err(|why| why.errno)
}

/// Loads `text` as `prog` at `attach`.
#[track_caller]
fn check_at(prog: ProgType, attach: Option<AttachType>, text: &str, expected: Result<(), Errno>) {
    let assembly = asm::assemble(text).expect("the case assembles");
    let given = Assumptions { attach_type: attach, ..Assumptions::new(prog) };
    assert_eq!(judge(&assembly.slots, &assembly.maps, given), expected, "{text}");
}

#[track_caller]
fn check(text: &str, expected: Result<(), Errno>) {
    check_at(ProgType::SchedCls, None, text, expected);
}

/// The kernel functions that texts call, by number.
const KFUNCS: [&str; 6] = [
    "bpf_dynptr_from_skb",
    "bpf_dynptr_slice",
    "bpf_dynptr_slice_rdwr",
    "bpf_dynptr_clone",
    "bpf_dynptr_size",
    "bpf_strlen",
];

/// Loads `text` as `prog`; in it `NAME()` calls a kernel function without its prefix.
#[track_caller]
fn check_kfuncs(prog: ProgType, text: &str, expected: Result<(), Errno>) {
    let numbered = KFUNCS.iter().enumerate().fold(text.to_owned(), |text, (id, name)| {
        text.replace(&format!("{}()", &name[4..]), &format!("call kfunc#{}", id + 1))
    });
    let assembly = asm::assemble(&numbered).expect("the case assembles");
    let kfuncs = KFUNCS.iter().enumerate().map(|(id, name)| (id as i32 + 1, (*name).to_owned())).collect();
    let given = Assumptions { kfuncs, ..Assumptions::new(prog) };
    assert_eq!(judge(&assembly.slots, &assembly.maps, given), expected, "{text}");
}

const EACCES: Result<(), Errno> = Err(Errno::EACCES);
const EINVAL: Result<(), Errno> = Err(Errno::EINVAL);

/// Of two registers, one that does not exist and one that was not written, the one that Linux looks at first decides.
#[test]
fn registers_that_do_not_exist_are_seen_in_order() {
    for (slot, expected) in [
        // r11 = be16 r11; r11 = -r11
        ("dc0b000010000000", EINVAL),
        ("870b000000000000", EINVAL),
        // if r11 == r5; if r5 == r11; if r11 > r5
        ("1d5b000000000000", EINVAL),
        ("1db5000000000000", EACCES),
        ("2d5b000000000000", EINVAL),
        // r11 += r5; r5 += r11; r11 = r5
        ("0f5b000000000000", EACCES),
        ("0fb5000000000000", EINVAL),
        ("bf5b000000000000", EACCES),
        // *(u64 *)(r11 + 0) = r5; *(u64 *)(r5 + 0) = r11
        ("7b5b000000000000", EACCES),
        ("7bb5000000000000", EINVAL),
        // r11 = *(u64 *)(r5 + 0); r5 = *(u64 *)(r11 + 0)
        ("795b000000000000", EACCES),
        ("79b5000000000000", EINVAL),
    ] {
        check(&format!(".raw {slot}\n exit"), expected);
    }
}

#[test]
fn sums_with_constants_stay_linked() {
    let program = |sum: &str, back: &str| {
        format!(
            "r6 = map[one][0]+0 ll\n call 7\n r1 = r0\n {sum}\n if r0 > 8 goto out\n {back}\n r6 += r1\n
             *(u8 *)(r6 + 0) = 1\nout:\n r0 = 0\n exit"
        )
    };
    check(&program("r1 += 5", ""), Ok(()));
    check(&program("r1 -= -5", ""), Ok(()));
    check(&program("r1 -= 5", "r1 += 5"), Ok(()));
    check(&program("r4 = 5\n r1 += r4", ""), Ok(()));
    check(&program("r4 = -5\n r1 -= r4", ""), Ok(()));
    check(&program("r1 -= 5", ""), EACCES);
    check(&program("r4 = 0x100000005 ll\n r1 += r4", "r1 -= r4"), EINVAL);
    check(&program("r4 = 0xffffffff80000000 ll\n r1 += r4", "r1 -= r4"), EINVAL);
    check(&program("r1 -= -2147483648", ""), EINVAL);
    check(&program("r1 += 1\n r1 -= 1", ""), EINVAL);
    check(&program("r1 *= 1", ""), EINVAL);
}

#[test]
fn copies_of_a_sum_are_linked_to_each_other_alone() {
    let program = |used: &str| {
        format!(
            "call 7\n r1 = r0\n r1 += 5\n r2 = r1\n if r2 > 15 goto out\n r3 = r10\n r3 += -64\n r3 += {used}\n
             *(u8 *)(r3 + 0) = 1\nout:\n r0 = 0\n exit"
        )
    };
    check(&program("r1"), Ok(()));
    check(&program("r2"), Ok(()));
    check(&program("r0"), EINVAL);
}

#[test]
fn a_number_left_out_is_forgotten_unless_it_was_a_bound() {
    let twice = |x: i32, add: i32, y: i32| {
        format!(
            "call 7\n if w0 == {x} goto out\n w0 += {add}\n if w0 == {y} goto unread\nout:\n r0 = 0\n exit\nunread:\n
             r0 = r5\n exit"
        )
    };
    check(&twice(0, 0, 0), Ok(()));
    check(&twice(-1, 0, -1), Ok(()));
    check(&twice(5, 0, 5), EACCES);
    check(&twice(0, 3, 3), EACCES);
    // One that was left out elsewhere before is in nobody's way.
    check(
        "call 7\n if w0 == 5 goto out\n if w0 != 0 goto more\nout:\n r0 = 0\n exit\nmore:\n if w0 != 0 goto out\n r0 = r5\n exit",
        Ok(()),
    );
}

#[test]
fn a_loop_in_which_live_numbers_stay_is_endless() {
    check("r6 = *(u32 *)(r1 + 0)\nagain:\n if r6 == 7 goto out\n goto again\nout:\n r0 = r6\n exit", EINVAL);
    check("r0 = *(u32 *)(r1 + 0)\n r7 = 0\nagain:\n r7 += 1\n if r7 != 9 goto again\n exit", Ok(()));
}

/// Instructions that are processed and states that are kept: what Linux keeps decides what else it walks.
#[test]
fn states_are_kept_as_often_as_linux_keeps_them() {
    let counts = |text: &str| {
        let stats = proof(text, 0).expect(text).stats();
        (stats.processed, stats.states)
    };
    let counted = |rounds: u32| {
        format!("r0 = 0\n r1 = 0\nagain:\n r0 += r1\n r1 += 1\n if r1 != {rounds} goto again\n r0 = 0\n exit")
    };
    assert_eq!(counts(&counted(10)), (34, 2));
    assert_eq!(counts(&counted(100)), (304, 6));
    assert_eq!(counts(&counted(300)), (904, 16));
    let forks: String =
        (0..40).map(|i| format!("r2 = *(u32 *)(r6 + 0)\n if r2 > {i} goto l{i}\n r0 += 1\nl{i}:\n")).collect();
    assert_eq!(counts(&format!("r6 = r1\n r0 = 0\n{forks} r0 = 0\n exit")), (269, 27));
}

fn proof(text: &str, prog_flags: u32) -> Result<VerifiedProgram, Rejection> {
    let program = decode(&asm::assemble(text).expect("the case assembles").slots).expect("the case decodes");
    verify(program, Assumptions { prog_flags, ..Assumptions::new(ProgType::SchedCls) }, &Options::default())
}

/// The verdict where a state is kept at each jump and each place that jumps lead to.
fn kept_often(text: &str) -> Result<VerifiedProgram, Rejection> {
    proof(text, prog_rules::flags::TEST_STATE_FREQ)
}

/// Instructions processed then.
fn processed(text: &str) -> u64 {
    kept_often(text).expect(text).stats().processed
}

#[test]
fn a_state_that_covered_another_is_compared_for_longer() {
    // The first of these numbers to arrive is the last one, and is followed by one like it and by six others.
    let numbers = [0, 1, 2, 3, 4, 5, 6, 0];
    let paths: String =
        (1..).zip(numbers).map(|(way, number)| format!("r6 = {number}\n if r7 == {way} goto join\n")).collect();
    let used = "r1 = r10\n r1 += r6\n *(u8 *)(r1 - 16) = 1\n r2 = 1\n r2 = 2\n r2 = 3\n r2 = 4\n r0 = 0\n exit";
    assert_eq!(processed(&format!("call 7\n r7 = r0\n {paths} r6 = 0\njoin:\n {used}")), 84);
}

/// A path within a loop ends in a state of an inner loop that is walked already.
#[test]
fn inner_loops_are_complete_when_outer_ones_are() {
    let text =
        "r6 = 0\n r7 = 0\nouter:\n may_goto out\n call 7\n if r0 == 0 goto skip\ninner:\n may_goto next\n call 7\n
                if r0 == 1 goto skip\n r6 = 0\nskip:\n r8 = r10\n r8 += r7\n *(u8 *)(r8 - 8) = 1\n goto inner\nnext:\n
                goto outer\nout:\n r0 = 0\n exit";
    assert_eq!(processed(text), 20);
}

/// What a loop's last path reads, an earlier one reads through the loop's head: who enters in its middle must bring it.
#[test]
fn what_is_read_in_a_loop_is_read_on_every_way_round() {
    let program = |late: &str| {
        format!(
            "call 7\n if r0 == 5 goto late\n *(u64 *)(r10 - 16) = r10\nhead:\n may_goto out\n call 7\n
             if r0 == 1 goto straight\n if r0 == 2 goto back\n *(u64 *)(r10 - 16) = r10\nuse:\n
             r1 = *(u64 *)(r10 - 16)\n *(u8 *)(r1 - 8) = 1\n goto head\nback:\n r3 = 1\n goto head\nstraight:\n
             goto use\nlate:\n *(u64 *)(r10 - 16) = {late}\n goto back\nout:\n r0 = 0\n exit"
        )
    };
    let errno = |late: &str| kept_often(&program(late)).err().map(|rejection| rejection.errno);
    assert_eq!(errno("r10"), None);
    assert_eq!(errno("7"), Some(Errno::EACCES));
}

#[test]
fn numbers_on_the_stack_cover_as_in_linux() {
    // What one path left unwritten is covered by any number, if the path wrote below it.
    let unwritten = |below: &str| {
        format!(
            "{below} call 7\n if r0 > 10 goto join\n *(u64 *)(r10 - 8) = r0\njoin:\n r1 = *(u64 *)(r10 - 8)\n r2 = 1\n
             r2 += 1\n r2 += 1\n r0 = 0\n exit"
        )
    };
    assert_eq!(processed(&unwritten("*(u64 *)(r10 - 16) = 0\n")), 11);
    assert_eq!(processed(&unwritten("")), 15);
    // A store to half of a slot forgets the number that the whole held: the check that follows needs the half alone.
    let half =
        "call 7\n r6 = 7\n if r0 > 10 goto join\n r6 = 3\njoin:\n *(u64 *)(r10 - 8) = r6\n if r0 > 20 goto store\n
                r0 = 5\nstore:\n r1 = 2\n *(u32 *)(r10 - 8) = r1\n r2 = *(u32 *)(r10 - 8)\n r3 = r10\n r3 += r2\n
                *(u8 *)(r3 - 32) = 1\n r0 = 0\n exit";
    assert_eq!(processed(half), 20);
}

#[test]
fn sums_of_low_halves_stay_linked() {
    let program = |sum: &str, test: &str, back: &str, used: &str| {
        format!(
            "r6 = map[one][0]+0 ll\n call 7\n w7 = w0\n w1 = w7\n {sum}\n if {test} > 8 goto out\n {back}\n r6 += {used}\n
             *(u8 *)(r6 + 0) = 1\nout:\n r0 = 0\n exit"
        )
    };
    for (sum, test, back, used) in [
        ("w1 += 5", "r7", "", "r1"),
        ("w1 += 5", "w7", "", "r1"),
        ("w1 -= -5", "r7", "", "r1"),
        ("w1 -= 5", "r7", "w1 += 5", "r1"),
        ("w1 += 5", "r1", "w7 += 5", "r7"),
        ("w1 += 5\n w2 = w7\n w2 += 3", "r2", "w1 -= 2", "r1"),
        ("w2 = -5\n w1 -= w2", "r7", "", "r1"),
        ("w1 += -2147483648", "r7", "w1 += -2147483648", "r1"),
    ] {
        check(&program(sum, test, back, used), Ok(()));
    }
    for (sum, test, back, used) in [
        // The low half of the other may be a negative number.
        ("w1 += 5", "r1", "", "r7"),
        // What they are linked by does not fit 32 bits.
        ("r1 = r0\n w1 += 5", "r0", "", "r1"),
        // Sums in two widths say nothing about each other.
        ("w1 += 5\n r2 = r7\n r2 += 3", "r2", "", "r1"),
        ("w1 += 5\n w1 += 1", "r7", "", "r1"),
        ("w1 -= -2147483648", "r7", "w1 += -2147483648", "r1"),
    ] {
        check(&program(sum, test, back, used), EACCES);
    }
}

#[test]
fn constant_keys_end_where_the_stored_number_does() {
    let program = |store: &str, key: i32| {
        format!(
            "{store}\n r2 = r10\n r2 += {key}\n r1 = map[array] ll\n call 1\n r0 = *(u32 *)(r0 + 0)\n r0 = 0\n exit"
        )
    };
    for (store, key) in [
        ("*(u32 *)(r10 - 16) = 5", -16),
        ("*(u64 *)(r10 - 16) = 0", -12),
        ("*(u64 *)(r10 - 16) = 5", -12),
        ("r3 = 3\n *(u64 *)(r10 - 16) = r3", -12),
        ("*(u32 *)(r10 - 16) = 0\n *(u32 *)(r10 - 12) = 0", -12),
    ] {
        check(&program(store, key), Ok(()));
    }
    for (store, key) in [
        ("*(u32 *)(r10 - 16) = 8", -16),
        ("*(u64 *)(r10 - 16) = 0", -16),
        ("*(u64 *)(r10 - 16) = 0", -14),
        ("r3 = 0x100000003 ll\n *(u64 *)(r10 - 16) = r3", -12),
        ("*(u64 *)(r10 - 16) = -1", -12),
        ("*(u32 *)(r10 - 16) = 7\n *(u32 *)(r10 - 12) = 5", -12),
    ] {
        check(&program(store, key), EACCES);
    }
}

#[test]
fn atomics_on_the_stack_need_a_known_place() {
    let program = |access: &str| {
        format!(
            "*(u64 *)(r10 - 8) = 0\n *(u64 *)(r10 - 16) = 0\n r2 = *(u32 *)(r1 + 0)\n r2 &= 8\n r2 -= 16\n
             r2 += r10\n r0 = 0\n r3 = 1\n {access}\n r0 = 0\n exit"
        )
    };
    check(&program("lock *(u64 *)(r2 + 0) += r3"), EACCES);
    check(&program("r3 = atomic_fetch_or((u64 *)(r2 + 0), r3)"), EACCES);
    check(&program("r3 = xchg_64(r2 + 0, r3)"), EACCES);
    check(&program("r0 = cmpxchg_64(r2 + 0, r0, r3)"), EACCES);
    check(&program("lock *(u64 *)(r10 - 8) += r3"), Ok(()));
    check(&program("r3 = load_acquire((u64 *)(r2 + 0))"), Ok(()));
    check(&program("store_release((u64 *)(r2 + 0), r3)"), Ok(()));
}

#[test]
fn an_atomic_that_loads_its_own_address_is_refused() {
    let program = |access: &str| format!("r0 = r10\n *(u64 *)(r10 - 8) = r0\n r1 = 1\n {access}\n r0 = 0\n exit");
    check(&program("r0 = cmpxchg_64(r0 - 8, r0, r1)"), EACCES);
    check(&program("r0 = xchg_64(r0 - 8, r0)"), EACCES);
    check(&program("r1 = xchg_64(r0 - 8, r1)\n *(u8 *)(r1 - 1) = 0"), Ok(()));
    check(&program("r0 = load_acquire((u64 *)(r0 - 8))"), Ok(()));
}

#[test]
fn what_may_be_null_needs_no_test_where_there_are_no_bytes() {
    let program = |call: &str| {
        format!(
            "*(u64 *)(r10 - 8) = 0\n r2 = r10\n r2 += -8\n r1 = map[hash] ll\n call 1\n r1 = r0\n r2 = 0\n r3 = 0\n
             r4 = 0\n r5 = 0\n {call}\n r0 = 0\n exit"
        )
    };
    check(&program("call 28"), Ok(()));
    // Linux accepts this one, and its helper reads at 0.
    check(&program("r2 = 4\n call 28"), EACCES);
}

#[test]
fn what_is_computed_from_an_address_is_unknown() {
    let program = |compute: &str| {
        format!("r7 = r10\n {compute}\n r0 = map[one][0]+0 ll\n r0 += r7\n r0 = *(u8 *)(r0 + 0)\n exit")
    };
    check(&program("r7 = be16 r7"), EINVAL);
    check(&program("r7 = le32 r7"), EINVAL);
    check(&program("r7 = -r7"), EINVAL);
    check(&program("w7 = -w7"), EINVAL);
    check(&program("w7 = w7"), EACCES);
}

#[test]
fn no_bytes_of_the_stack_are_still_on_the_stack() {
    let program = |off: i32, call: &str| {
        format!("r1 = r10\n r1 += {off}\n r2 = 0\n r3 = 0\n r4 = 0\n r5 = 0\n {call}\n r0 = 0\n exit")
    };
    for call in ["call 28", "call 113"] {
        check(&program(-8, call), Ok(()));
        check(&program(-512, call), Ok(()));
        check(&program(-513, call), EACCES);
        check(&program(0, call), EACCES);
        check(&program(8, call), EACCES);
    }
}

#[test]
fn one_argument_of_a_call_owns() {
    let program = |call: &str| {
        let reserve = "r1 = map[ring] ll\n r2 = 16\n r3 = 0\n call 131";
        format!(
            "*(u64 *)(r10 - 16) = 0\n *(u64 *)(r10 - 8) = 0\n {reserve}\n if r0 == 0 goto out\n r6 = r0\n {reserve}\n
             if r0 == 0 goto one\n r7 = r0\n r1 = map[hash] ll\n r2 = r6\n r3 = r10\n r3 += -16\n r4 = 0\n {call}\n
             r1 = r7\n r2 = 0\n call 133\none:\n r1 = r6\n r2 = 0\n call 133\nout:\n r0 = 0\n exit"
        )
    };
    check(&program("call 2"), Ok(()));
    check(&program("r3 = r7\n call 2"), EACCES);
    check(&program("r3 = r6\n call 2"), EACCES);
    // An argument that is not looked at owns nothing.
    check(&program("r4 = r7\n call 2"), Ok(()));
}

#[test]
fn a_bloom_filters_peek_reads_the_value() {
    let program = |map: &str| format!("r2 = map[readonly][0]+0 ll\n r1 = map[{map}] ll\n call 89\n r0 = 0\n exit");
    check(&program("bloom"), Ok(()));
    check(&program("queue"), EACCES);
}

#[test]
fn arguments_that_no_map_of_the_kind_can_serve() {
    let program = |map: &str, call: &str| {
        format!("r1 = map[{map}] ll\n r2 = 0\n r3 = 0\n r4 = r10\n r4 += -520\n {call}\n r0 = 0\n exit")
    };
    check(&program("socks", "call 89"), EINVAL);
    check(&program("hash", "call 89"), EACCES);
    check(&program("ring", "call 198"), EACCES);
}

#[test]
fn maps_that_programs_may_only_read_take_no_changes() {
    let program = |map: &str, helper: u32| {
        format!(
            "*(u64 *)(r10 - 8) = 0\n *(u64 *)(r10 - 16) = 0\n r2 = r10\n r2 += -16\n r3 = r2\n r4 = 0\n
             r1 = map[{map}] ll\n call {helper}\n r0 = 0\n exit"
        )
    };
    check(&program("fixed", 1), Ok(()));
    check(&program("fixed", 2), EACCES);
    check(&program("fixed", 3), EACCES);
    check(&program("hash", 2), Ok(()));
    check(&program("fixed_queue", 87), EACCES);
    check(&program("fixed_queue", 88), EACCES);
    check(&program("fixed_queue", 89), Ok(()));
}

#[test]
fn a_tracepoints_buffer_is_a_number_once_it_was_stored() {
    let check = |text: &str, expected| check_at(ProgType::RawTracepointWritable, None, text, expected);
    check("r1 = *(u64 *)(r1 + 0)\n *(u32 *)(r10 - 8) = r1\n r0 = 0\n exit", Ok(()));
    check(
        "r1 = *(u64 *)(r1 + 0)\n *(u64 *)(r10 - 8) = r1\n r1 = *(u64 *)(r10 - 8)\n r0 = *(u8 *)(r1 + 0)\n exit",
        EACCES,
    );
    check("r1 = *(u64 *)(r1 + 0)\n r0 = *(u8 *)(r1 + 0)\n exit", Ok(()));
}

#[test]
fn only_arrays_of_one_value_have_addresses() {
    let program = |map: &str| format!("r1 = map[{map}][0]+0 ll\n r0 = 0\n exit");
    check(&program("one"), Ok(()));
    check(&program("array"), Err(Errno::ENOTSUPP));
    check(&program("hash"), EINVAL);
}

#[test]
fn arguments_come_before_what_a_helper_asks_of_them() {
    // dynptr_from_mem: the memory's size, then its kind.
    let program =
        |size| format!("r1 = r10\n r1 += -64\n r2 = {size}\n r3 = 0\n r4 = r10\n r4 += -16\n call 197\n r0 = 0\n exit");
    check(&program(65), EINVAL);
    check(&program(8), EACCES);
    // get_func_ip, which a tracepoint does not have.
    let at = |text| {
        check_at(ProgType::Tracepoint, None, text, if text.starts_with("r1") { EACCES } else { Err(Errno::ENOTSUPP) })
    };
    at("r1 = r10\n call 173\n r0 = 0\n exit");
    at("call 173\n r0 = 0\n exit");
}

#[test]
fn a_store_over_an_acquired_dynptr_is_refused_before_its_size_is_looked_at() {
    let program = |size: &str| {
        format!(
            "r1 = map[ring] ll\n r2 = 8\n r3 = 0\n r4 = r10\n r4 += -16\n call 198\n r1 = r10\n
             *({size} *)(r10 - 8) = r1\n r0 = 0\n exit"
        )
    };
    check(&program("u64"), EINVAL);
    check(&program("u8"), EINVAL);
}

#[test]
fn errno_helpers_need_a_hook_with_an_errno() {
    let check = |attach, expected| check_at(ProgType::CgroupDevice, attach, "call 186\n r0 = 0\n exit", expected);
    check(None, EINVAL);
    check(Some(AttachType::CgroupDevice), Ok(()));
}

/// Loads these slots.
#[track_caller]
fn check_slots(slots: &[[u8; 8]], expected: Result<(), Errno>) {
    let slots: Vec<RawInsn> = slots.iter().map(|slot| RawInsn::from_le_bytes(*slot)).collect();
    assert_eq!(judge(&slots, &[], Assumptions::new(ProgType::SchedCls)), expected);
}

#[test]
fn reserved_fields_come_before_operands_and_sources_before_destinations() {
    let exit = [0x95, 0, 0, 0, 0, 0, 0, 0];
    // r15 ^= r8 with an offset and an immediate; with a valid shape.
    check_slots(&[[0xaf, 0x8f, 1, 0, 1, 0, 0, 0], exit], EINVAL);
    check_slots(&[[0xaf, 0x8f, 0, 0, 0, 0, 0, 0], exit], EACCES);
    // *(u32 *)(r12 + 0) += r0, where r0 holds nothing.
    check_slots(&[[0xc3, 0x0c, 0, 0, 0, 0, 0, 0], exit], EACCES);
}

#[test]
fn packets_are_read_through_dynptrs() {
    let program = |rest: &str| {
        format!(
            "r6 = r1\n r2 = 0\n r3 = r10\n r3 += -16\n dynptr_from_skb()\n r1 = r10\n r1 += -16\n r2 = 14\n
             r3 = r10\n r3 += -32\n r4 = 16\n {rest}\nout:\n r0 = 0\n exit"
        )
    };
    let check = |prog, rest: &str, expected| check_kfuncs(prog, &program(rest), expected);
    let tc = ProgType::SchedCls;
    check(tc, "dynptr_slice()\n if r0 == 0 goto out\n r0 = *(u8 *)(r0 + 15)", Ok(()));
    check(tc, "dynptr_slice()\n if r0 == 0 goto out\n r0 = *(u8 *)(r0 + 16)", EACCES);
    check(tc, "dynptr_slice()\n r0 = *(u8 *)(r0 + 0)", EACCES);
    check(tc, "dynptr_slice()\n if r0 == 0 goto out\n *(u8 *)(r0 + 0) = 1", EACCES);
    check(tc, "dynptr_slice_rdwr()\n if r0 == 0 goto out\n *(u8 *)(r0 + 0) = 1", Ok(()));
    check(ProgType::SocketFilter, "dynptr_slice_rdwr()", EINVAL);
    check(ProgType::SocketFilter, "dynptr_slice()", Ok(()));
    check(ProgType::Xdp, "dynptr_slice()", EACCES);
    check(tc, "r4 = 600\n dynptr_slice()", EINVAL);
    check(tc, "r3 = 0\n dynptr_slice()", Ok(()));
    check(tc, "r4 = *(u32 *)(r6 + 0)\n dynptr_slice()", EINVAL);
    // The packet may move.
    let moved = "dynptr_slice()\n if r0 == 0 goto out\n r7 = r0\n r1 = r6\n r2 = 0\n call 39\n r0 = *(u8 *)(r7 + 0)";
    check(tc, moved, EACCES);
    check(tc, "r1 = r10\n r1 += -48\n dynptr_size()", EINVAL);
}

#[test]
fn copies_of_a_dynptr_end_together() {
    let program = |rest: &str| {
        format!(
            "r1 = map[ring] ll\n r2 = 8\n r3 = 0\n r4 = r10\n r4 += -16\n call 198\n r1 = r10\n r1 += -16\n r2 = r10\n
             r2 += -32\n dynptr_clone()\n {rest}\n r0 = 0\n exit"
        )
    };
    let check = |rest: &str, expected| check_kfuncs(ProgType::SchedCls, &program(rest), expected);
    let submit = |off: i32| format!("r1 = r10\n r1 += {off}\n r2 = 0\n call 199");
    check(&submit(-16), Ok(()));
    check(&submit(-32), Ok(()));
    check("", EINVAL);
    check(&format!("{}\n{}", submit(-32), submit(-16)), EINVAL);
    check(&format!("{}\n r1 = r10\n r1 += -16\n dynptr_size()", submit(-32)), EINVAL);
}

#[test]
fn a_program_has_one_cgroup_storage_of_each_type() {
    let names = |first: &str, second: &str| {
        format!("r1 = map[{first}] ll\n r2 = 0\n call 81\n r1 = map[{second}] ll\n r2 = 0\n call 81\n r0 = 1\n exit")
    };
    let check = |first, second, expected| check_at(ProgType::CgroupSkb, None, &names(first, second), expected);
    check("storage", "storage", Ok(()));
    check("storage", "percpu_storage", Ok(()));
    check("storage", "other_storage", Err(Errno::EBUSY));
}

#[test]
fn calls_nest_eight_deep_also_where_nobody_goes() {
    let program = |functions: u32| {
        let inner = (1..functions).map(|i| format!("f{i}:\n call f{}\n exit\n", i + 1)).collect::<String>();
        format!("r0 = 0\n if r0 == 0 goto out\n call f1\nout:\n r0 = 0\n exit\n{inner}f{functions}:\n r0 = 0\n exit")
    };
    check(&program(7), Ok(()));
    check(&program(8), Err(Errno::E2BIG));
}

#[test]
fn an_index_into_the_packet_has_a_value() {
    check("r6 = r1\n r0 = *(u32 *)skb[r2 + 0]\n exit", EACCES);
    check("r6 = r1\n r2 = 0\n r0 = *(u32 *)skb[r2 + 0]\n exit", Ok(()));
}

#[test]
fn strings_are_read_wherever_they_are() {
    check_kfuncs(ProgType::Kprobe, "r1 = *(u64 *)(r1 + 0)\n strlen()\n exit", Ok(()));
    check_kfuncs(ProgType::Kprobe, "strlen()\n r0 = r1\n exit", EACCES);
    // What the address is, nobody asks: the call before leaves r1 without a value.
    check_kfuncs(ProgType::Kprobe, "call 5\n strlen()\n exit", Ok(()));
}

#[test]
fn formats_are_checked_with_the_program() {
    let program = |words: &str| {
        format!(
            "*(u64 *)(r10 - 8) = 0\n *(u64 *)(r10 - 16) = 0\n r1 = r10\n r1 += -64\n r2 = 16\n r3 = map[format][0]+0 ll\n
             r4 = r10\n r4 += -16\n {words}\n call 165\n r0 = 0\n exit"
        )
    };
    check(&program("r5 = 16"), Ok(()));
    check(&program("r5 = 8"), EINVAL);
    check(&program("r5 = 12"), EINVAL);
}
