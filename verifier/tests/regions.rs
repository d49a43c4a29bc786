//! What is opened must be closed: iterators, regions, timers; and what the log ends with. Kernel functions are called by
//! names without their prefix.

use std::sync::Arc;

use rtbpf_abi::map_spec::{SpecialField, SpecialKind};
use rtbpf_abi::{MapKind, MapSpec, ProgType};
use rtbpf_isa::{asm, decode};
use rtbpf_verifier::{Assumptions, Options, Reason, Rejection, VerifiedProgram, verify};

const KFUNCS: [&str; 7] = [
    "bpf_iter_num_new",
    "bpf_iter_num_next",
    "bpf_iter_num_destroy",
    "bpf_preempt_disable",
    "bpf_preempt_enable",
    "bpf_rcu_read_lock",
    "bpf_rcu_read_unlock",
];

/// `value` has 64 bytes; `timer` and `short` begin with a timer, and have 64 and 24.
fn map(name: &str) -> Arc<MapSpec> {
    let bytes = if name == "short" { 24 } else { 64 };
    let mut spec = MapSpec::new(MapKind::Array, 4, bytes, 1);
    if name != "value" {
        spec.fields.push(SpecialField { off: 0, kind: SpecialKind::Timer });
    }
    Arc::new(spec)
}

fn judge(text: &str, sleepable: bool, opts: &Options) -> Result<VerifiedProgram, Rejection> {
    let numbered = KFUNCS.iter().enumerate().fold(text.to_owned(), |text, (id, name)| {
        text.replace(&format!("{}()", &name[4..]), &format!("call kfunc#{}", id + 1))
    });
    let assembly = asm::assemble(&numbered).expect("the case assembles");
    let mut program = decode(&assembly.slots).expect("the case decodes");
    program.subprogs_mut().iter_mut().for_each(|subprog| subprog.btf_id = 3);
    let prog_type = if sleepable { ProgType::Kprobe } else { ProgType::SchedCls };
    let given = Assumptions {
        sleepable,
        kfuncs: KFUNCS.iter().enumerate().map(|(id, name)| (id as i32 + 1, (*name).to_owned())).collect(),
        maps: assembly.maps.iter().map(|name| map(name)).collect(),
        ..Assumptions::new(prog_type)
    };
    verify(program, given, opts)
}

#[track_caller]
fn check(text: &str, expected: Result<(), Reason>) {
    let got = judge(text, false, &Options::default()).map(|_| ()).map_err(|why| why.reason);
    assert_eq!(got, expected, "{text}");
}

#[track_caller]
fn check_sleepable(text: &str, expected: Result<(), Reason>) {
    let got = judge(text, true, &Options::default()).map(|_| ()).map_err(|why| why.reason);
    assert_eq!(got, expected, "{text}");
}

/// `body` for each of ten numbers; the element is in r0, the iterator 8 bytes below the frame's end.
fn each(body: &str) -> String {
    format!(
        "r6 = 0\n r1 = r10\n r1 += -8\n r2 = 0\n r3 = 10\n iter_num_new()\nnext:\n r1 = r10\n r1 += -8\n \
         iter_num_next()\n if r0 == 0 goto done\n {body}\n goto next\ndone:\n r1 = r10\n r1 += -8\n \
         iter_num_destroy()\n r0 = 0\n exit"
    )
}

#[test]
fn iterators_are_made_used_and_destroyed() {
    check(&each("r1 = *(u32 *)(r0 + 0)"), Ok(()));
    check(&each("r6 += 1"), Ok(()));
    check(&each("r1 = *(u64 *)(r0 + 0)"), Err(Reason::OutOfBounds));
    check(&each("*(u32 *)(r0 + 0) = 1"), Err(Reason::ReadOnly));
    check(&each("if r6 == 0 goto out").replace("done:", "out:\n r0 = 0\n exit\ndone:"), Err(Reason::ReferenceLeak));
    let start = "r1 = r10\n r1 += -8\n r2 = 0\n r3 = 10\n iter_num_new()\n";
    let call = |name: &str| format!("r1 = r10\n r1 += -8\n {name}()\n");
    let (next, destroy) = (call("iter_num_next"), call("iter_num_destroy"));
    let end = "r0 = 0\n exit";
    check(&format!("{start}{destroy}{end}"), Ok(()));
    check(&format!("{start}{end}"), Err(Reason::ReferenceLeak));
    check(&format!("{next}{end}"), Err(Reason::Iterator));
    check(&format!("{destroy}{end}"), Err(Reason::Iterator));
    check(&format!("{start}{destroy}{destroy}{end}"), Err(Reason::Iterator));
    check(&format!("{start}{destroy}{next}{end}"), Err(Reason::Iterator));
    check(&format!("{start}{start}{destroy}{end}"), Err(Reason::Iterator));
    check(&format!("{start}{destroy}{start}{destroy}{end}"), Ok(()));
    check(&format!("{start}r2 = *(u64 *)(r10 - 8)\n{destroy}{end}"), Err(Reason::StackAccess));
    check(&format!("{start}*(u8 *)(r10 - 8) = 1\n{destroy}{end}"), Err(Reason::Iterator));
    let moved = |off: &str| format!("r1 = r10\n r1 += {off}\n r2 = 0\n r3 = 1\n iter_num_new()\n{end}");
    check(&moved("-4"), Err(Reason::Iterator));
    check(&moved("0"), Err(Reason::Iterator));
    check(&moved("-520"), Err(Reason::Iterator));
    check(&format!("{}{end}", start.replace("r2 = 0", "r2 = r10")), Err(Reason::Argument));
}

#[test]
fn an_element_is_gone_once_its_iterator_is() {
    let keeps = "r1 = r10\n r1 += -8\n r2 = 0\n r3 = 10\n iter_num_new()\n r1 = r10\n r1 += -8\n iter_num_next()\n \
                 r7 = r0\n if r7 == 0 goto done\ndone:\n";
    let destroy = "r1 = r10\n r1 += -8\n iter_num_destroy()\n";
    let read = "if r7 == 0 goto out\n r0 = *(u32 *)(r7 + 0)\nout:\n";
    check(&format!("{keeps}{read}{destroy}r0 = 0\n exit"), Ok(()));
    check(&format!("{keeps}{destroy}{read}r0 = 0\n exit"), Err(Reason::InvalidAccess));
}

#[test]
fn rounds_of_an_iterator_are_not_one_round() {
    let sum = |body: &str| {
        let use_it = "r1 = map[value][0] ll\n r1 += r6\n r0 = *(u8 *)(r1 + 0)\n r0 = 0\n exit";
        each(body).replace("r0 = 0\n exit", use_it)
    };
    check(&sum("r6 += 8\n r6 &= 63"), Ok(()));
    check(&sum("r6 += 8"), Err(Reason::OutOfBounds));
}

#[test]
fn regions_are_left_as_often_as_entered() {
    let end = "r0 = 0\n exit";
    for (enter, leave) in [("preempt_disable()", "preempt_enable()"), ("rcu_read_lock()", "rcu_read_unlock()")] {
        check(&format!("{enter}\n{leave}\n{end}"), Ok(()));
        check(&format!("{enter}\n{enter}\n{leave}\n{leave}\n{end}"), Ok(()));
        check(&format!("{enter}\n{enter}\n{leave}\n{end}"), Err(Reason::Lock));
        check(&format!("{enter}\n{end}"), Err(Reason::Lock));
        check(&format!("{leave}\n{end}"), Err(Reason::Lock));
        // Only one of the paths that meet has left it.
        let one = format!(
            "r6 = *(u32 *)(r1 + 0)\n {enter}\n r7 = 0\n r8 = 0\n if r6 > 5 goto skip\n {leave}\nskip:\n \
             if r6 > 7 goto more\nmore:\n {end}"
        );
        check(&one, Err(Reason::Lock));
        // Sleeping: copy_from_user.
        let sleep = "r1 = r10\n r1 += -8\n r2 = 8\n r3 = 0\n call 148\n";
        check_sleepable(&format!("{enter}\n{leave}\n{sleep}{end}"), Ok(()));
        check_sleepable(&format!("{enter}\n{sleep}{leave}\n{end}"), Err(Reason::Lock));
    }
    check("r1 = r10\n r1 += -8\n r2 = 8\n r3 = 0\n call 148\n r0 = 0\n exit", Err(Reason::Helper));
}

#[test]
fn a_timers_callback_is_right_for_every_map_it_is_set_in() {
    let program = |first: &str, second: &str, body: &str| {
        format!(
            "r1 = map[{first}][0] ll\n r2 = fires ll\n call 170\n r1 = map[{second}][0] ll\n r2 = fires ll\n call 170\n \
             r0 = 0\n exit\nfires:\n {body}\n exit"
        )
    };
    let reads = |at: u32| format!("r1 = *(u64 *)(r3 + {at})\n r0 = 0");
    check(&program("timer", "timer", &reads(56)), Ok(()));
    check(&program("timer", "timer", &reads(57)), Err(Reason::OutOfBounds));
    check(&program("timer", "short", &reads(16)), Ok(()));
    check(&program("timer", "short", &reads(24)), Err(Reason::OutOfBounds));
    check(&program("short", "timer", &reads(24)), Err(Reason::OutOfBounds));
    check(&program("timer", "short", &reads(8)), Err(Reason::SpecialField));
    check(&program("timer", "short", "r1 = *(u32 *)(r2 + 0)\n r0 = 0"), Ok(()));
    check(&program("timer", "short", "r1 = *(u64 *)(r2 + 0)\n r0 = 0"), Err(Reason::OutOfBounds));
    check(&program("timer", "short", "r1 = *(u32 *)(r1 + 0)\n r0 = 0"), Ok(()));
    check(&program("timer", "short", "r0 = 1"), Err(Reason::ReturnValue));
    check(&program("timer", "short", "r0 = r4"), Err(Reason::UninitRegister));
    // Nothing that the setter holds or points to is there when it fires.
    check(&program("timer", "short", "r0 = *(u64 *)(r10 - 8)\n r0 = 0\n r1 = r6"), Err(Reason::UninitRegister));
}

#[test]
fn timers_are_initialised_with_their_own_map() {
    let init = |map: &str, off: u32| {
        format!("r1 = map[timer][0]+{off} ll\n r2 = map[{map}] ll\n r3 = 1\n call 169\n r0 = 0\n exit")
    };
    check(&init("timer", 0), Ok(()));
    check(&init("short", 0), Err(Reason::SpecialField));
    check(&init("timer", 8), Err(Reason::SpecialField));
    check(&init("timer", 16), Err(Reason::SpecialField));
}

#[test]
fn a_log_that_is_asked_for_ends_with_how_much_was_walked() {
    let log = |text: &str, log_level| match judge(text, false, &Options { log_level, ..Options::default() }) {
        Ok(verified) => verified.log().to_owned(),
        Err(why) => why.log,
    };
    for text in ["r0 = 0\n exit", "exit"] {
        for level in [1, 2, 4] {
            let log = log(text, level);
            let last = log.lines().next_back().unwrap_or_default();
            assert!(last.starts_with("processed ") && last.contains(" insns"), "{level}: {log}");
        }
    }
    assert_eq!(log("r0 = 0\n exit", 0), "");
}
