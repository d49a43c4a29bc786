//! One case, and its near miss on the other side, for every mechanism by which verifiers were wrong before.

use std::sync::Arc;

use rtbpf_abi::map_spec::{SpecialField, SpecialKind, flags};
use rtbpf_abi::{AttachType, MapKind, MapSpec, ProgType};
use rtbpf_isa::{asm, decode};
use rtbpf_verifier::{Assumptions, Options, Privilege, Profile, Reason, verify};

/// Maps that programs name: `hash` and `array` have values of 16 bytes, `lock` has a spin lock at offset 0.
fn map(name: &str) -> Arc<MapSpec> {
    let mut spec = match name {
        "hash" => MapSpec::new(MapKind::Hash, 4, 16, 8),
        "array" => MapSpec::new(MapKind::Array, 4, 16, 8),
        "one" | "const" | "lock" => MapSpec::new(MapKind::Array, 4, 16, 1),
        "ring" => MapSpec::new(MapKind::Ringbuf, 0, 0, 4096),
        "progs" => MapSpec::new(MapKind::ProgArray, 4, 4, 8),
        name => panic!("no map called {name}"),
    };
    spec.name = name.to_owned();
    if name == "lock" {
        spec.fields.push(SpecialField { off: 0, kind: SpecialKind::SpinLock });
    }
    if name == "const" {
        spec.flags = flags::RDONLY_PROG;
        spec.frozen = Some([3, 0, 0, 0, 0, 0, 0, 0, b'o', b'k', 0, 1, 1, 1, 1, 1].into());
    }
    Arc::new(spec)
}

fn judge(prog: ProgType, text: &str, opts: &Options) -> Result<(), (Reason, String)> {
    let assembly = asm::assemble(text).expect("the case assembles");
    let program = decode(&assembly.slots).expect("the case decodes");
    let mut given = Assumptions::new(prog);
    given.maps = assembly.maps.iter().map(|name| map(name)).collect();
    given.attach_type = match prog {
        ProgType::CgroupSkb => Some(AttachType::CgroupInetIngress),
        _ => None,
    };
    verify(program, given, opts).map(|_| ()).map_err(|why| (why.reason, why.message.clone()))
}

#[track_caller]
fn accept(text: &str) {
    assert_eq!(judge(ProgType::SchedCls, text, &Options::default()), Ok(()), "{text}");
}

#[track_caller]
fn reject(reason: Reason, text: &str) {
    let got = judge(ProgType::SchedCls, text, &Options::default()).map_err(|(reason, _)| reason);
    assert_eq!(got, Err(reason), "{text}");
}

/// A value of `hash` in r0, not null; r6 is an unknown number.
const VALUE: &str = "
    r6 = *(u32 *)(r1 + 0)
    *(u32 *)(r10 - 4) = 0
    r2 = r10
    r2 += -4
    r1 = map[hash] ll
    call 1
    if r0 == 0 goto out
";
const OUT: &str = "
out:
    r0 = 0
    exit
";

fn with_value(text: &str) -> String {
    format!("{VALUE}{text}{OUT}")
}

#[test]
fn a_32_bit_move_of_a_negative_immediate_is_not_sign_extended() {
    // r7 = 0xffffffff: as a 64-bit -1 the branch would be dead.
    reject(Reason::PointerArithmetic, &with_value("w7 = -1\n if r7 == -1 goto out\n r0 += r7\n r1 = *(u8 *)(r0 + 0)"));
    accept(&with_value("r7 = -1\n if r7 == -1 goto out\n r0 += r7\n r1 = *(u8 *)(r0 + 0)"));
}

#[test]
fn a_bound_on_the_low_half_is_none_on_the_whole() {
    let program = |width: &str| {
        with_value(&format!("r7 = r6\n r7 <<= 16\n if {width}7 > 8 goto out\n r0 += r7\n r1 = *(u64 *)(r0 + 0)"))
    };
    reject(Reason::OutOfBounds, &program("w"));
    accept(&program("r"));
}

#[test]
fn bitwise_operators_follow_32_bit_bounds() {
    accept(&with_value("w6 &= 7\n w6 |= 8\n r0 += r6\n r1 = *(u8 *)(r0 + 0)"));
    reject(Reason::OutOfBounds, &with_value("w6 &= 7\n w6 |= 16\n r0 += r6\n r1 = *(u8 *)(r0 + 0)"));
    accept(&with_value("w6 &= 7\n w6 ^= 8\n r0 += r6\n r1 = *(u8 *)(r0 + 0)"));
    // Not above the smaller side, though the bits would allow 15.
    for (width, and) in [("w", "w7 &= w6\n r0 += r7"), ("w", "w6 &= w7\n r0 += r6"), ("r", "r7 &= r6\n r0 += r7")] {
        let program = |off| {
            let numbers = format!("if {width}6 > 9 goto out\n r7 = *(u8 *)(r0 + 0)");
            with_value(&format!("{numbers}\n {and}\n r1 = *(u8 *)(r0 + {off})"))
        };
        accept(&program(6));
        reject(Reason::OutOfBounds, &program(7));
    }
}

#[test]
fn both_operands_of_a_comparison_are_refined_apart() {
    let program = |limit| with_value(&format!("r7 = {limit}\n if r6 > r7 goto out\n r0 += r6\n r1 = *(u8 *)(r0 + 0)"));
    accept(&program(15));
    reject(Reason::OutOfBounds, &program(16));
    // A register compared with itself teaches nothing.
    reject(Reason::OutOfBounds, &with_value("if r6 > r6 goto out\n r0 += r6\n r1 = *(u8 *)(r0 + 0)"));
}

#[test]
fn a_maps_own_structure_is_read_member_by_member() {
    let load = |load: &str| format!("r1 = map[hash] ll\n r0 = {load}\n r0 = 0\n exit");
    accept(&load("*(u32 *)(r1 + 76)"));
    accept(&load("*(u64 *)(r1 + 40)"));
    reject(Reason::OutOfBounds, &load("*(u64 *)(r1 + 76)"));
    reject(Reason::OutOfBounds, &load("*(u32 *)(r1 + 40)"));
    reject(Reason::OutOfBounds, &load("*(u8 *)(r1 - 1)"));
    reject(Reason::ReadOnly, "r1 = map[hash] ll\n *(u32 *)(r1 + 76) = 1\n r0 = 0\n exit");
}

#[test]
fn a_32_bit_test_decides_no_pointer() {
    reject(
        Reason::InvalidAccess,
        &with_value("").replace("if r0 == 0 goto out", "if w0 == 0 goto out\n r1 = *(u8 *)(r0 + 0)"),
    );
    accept(&with_value("r1 = *(u8 *)(r0 + 0)"));
}

#[test]
fn sign_extension_keeps_the_sign() {
    reject(Reason::OutOfBounds, &with_value("w6 &= 255\n r6 = (s8)r6\n r0 += r6\n r1 = *(u8 *)(r0 + 0)"));
    accept(&with_value("w6 &= 15\n r6 = (s8)r6\n r0 += r6\n r1 = *(u8 *)(r0 + 0)"));
    accept(&with_value("w6 &= 15\n r6 = -r6\n r6 += 15\n r0 += r6\n r1 = *(u8 *)(r0 + 0)"));
}

#[test]
fn links_carry_refinements_and_changes_break_them() {
    accept(&with_value("r7 = r6\n if r7 > 15 goto out\n r0 += r6\n r1 = *(u8 *)(r0 + 0)"));
    accept(&with_value(
        "r7 = r6\n r7 += 1\n if r7 > 16 goto out\n if r7 < 1 goto out\n r0 += r6\n r1 = *(u8 *)(r0 + 0)",
    ));
    reject(
        Reason::OutOfBounds,
        &with_value("r7 = r6\n r7 = be16 r7\n if r7 > 15 goto out\n r0 += r6\n r1 = *(u8 *)(r0 + 0)"),
    );
    reject(
        Reason::OutOfBounds,
        &with_value("w7 = w6\n r7 *= 2\n if r7 > 15 goto out\n r0 += r6\n r1 = *(u8 *)(r0 + 0)"),
    );
}

#[test]
fn a_path_on_which_other_numbers_are_linked_is_walked() {
    let verdict = |copied: &str| {
        let text = format!(
            "r6 = *(u32 *)(r1 + 0)\n r8 = *(u32 *)(r1 + 4)\n r2 = *(u32 *)(r1 + 8)\n r6 &= 255\n r8 &= 255\n \
             if r2 > 5 goto other\n r7 = r6\n goto join\nother:\n r7 = {copied}\njoin:\n if r6 > 7 goto out\n \
             r3 = r10\n r3 += -16\n r3 += r7\n *(u8 *)(r3 + 0) = 1\nout:\n r0 = 0\n exit"
        );
        let program = decode(&asm::assemble(&text).expect("the case assembles").slots).expect("the case decodes");
        // A state is kept at each jump.
        let given = Assumptions { prog_flags: 8, ..Assumptions::new(ProgType::SchedCls) };
        verify(program, given, &Options::default()).map(|_| ()).map_err(|why| why.reason)
    };
    assert_eq!(verdict("r6"), Ok(()));
    assert_eq!(verdict("r8"), Err(Reason::StackAccess));
}

#[test]
fn a_narrow_spill_is_not_linked_to_the_wide_value() {
    let program = |size, mask: &str| {
        with_value(&format!(
            "{mask}\n *({size} *)(r10 - 16) = r6\n r7 = *({size} *)(r10 - 16)\n if r7 != 0 goto out\n r0 += r6\n r1 = *(u8 *)(r0 + 0)"
        ))
    };
    reject(Reason::OutOfBounds, &program("u8", "r6 = r6"));
    accept(&program("u8", "w6 &= 255"));
    accept(&program("u32", "r6 = r6"));
}

#[test]
fn pruning_keeps_what_a_later_check_needs() {
    // Two paths meet with r7 = 0 and r7 = 64; only one may index the value.
    let program = |other| {
        with_value(&format!(
            "r7 = 0\n if r6 > 9 goto join\n r7 = {other}\njoin:\n r8 = r7\n r0 += r8\n r1 = *(u8 *)(r0 + 0)"
        ))
    };
    reject(Reason::OutOfBounds, &program(64));
    accept(&program(15));
    // The same through a stack slot and an atomic operation on it.
    let atomic = |other| {
        with_value(&format!(
            "r7 = 0\n if r6 > 9 goto join\n r7 = {other}\njoin:\n *(u64 *)(r10 - 16) = r7\n r8 = 0\n
             r8 = atomic_fetch_add((u64 *)(r10 - 16), r8)\n r0 += r8\n r1 = *(u8 *)(r0 + 0)"
        ))
    };
    reject(Reason::OutOfBounds, &atomic(64));
    accept(&atomic(15));
}

#[test]
fn sizes_of_helper_memory_are_needed_facts() {
    let program = |other| {
        with_value(&format!(
            "r7 = 8\n if r6 > 9 goto join\n r7 = {other}\njoin:\n r1 = r0\n r2 = r7\n r3 = 0\n r4 = 0\n r5 = 0\n call 28"
        ))
    };
    accept(&program(16));
    reject(Reason::OutOfBounds, &program(20));
}

#[test]
fn unchecked_pointers_do_not_move() {
    let program = |text: &str| with_value("").replace("if r0 == 0 goto out", &format!("{text}\n if r0 == 0 goto out"));
    reject(Reason::PointerArithmetic, &program("r0 += 8"));
    reject(Reason::InvalidAccess, &program("r1 = *(u8 *)(r0 + 0)"));
    accept(&program("r7 = r0"));
}

#[test]
fn map_values_end_where_they_end() {
    accept(&with_value("r1 = *(u64 *)(r0 + 8)"));
    reject(Reason::OutOfBounds, &with_value("r1 = *(u64 *)(r0 + 9)"));
    reject(Reason::OutOfBounds, &with_value("r1 = *(u8 *)(r0 - 1)"));
    accept(&with_value("r6 &= 15\n r0 += r6\n r1 = *(u8 *)(r0 + 0)"));
    reject(Reason::OutOfBounds, &with_value("r6 &= 15\n r0 += r6\n r1 = *(u16 *)(r0 + 0)"));
}

#[test]
fn read_only_values_are_not_written_not_even_by_helpers() {
    reject(Reason::ReadOnly, "r1 = map[const][0] ll\n *(u8 *)(r1 + 0) = 1\n r0 = 0\n exit");
    accept("r1 = map[const][0] ll\n r0 = *(u8 *)(r1 + 0)\n exit");
    let strtol = |map: &str| {
        format!("r1 = map[const][0]+8 ll\n r2 = 3\n r3 = 0\n r4 = map[{map}][0] ll\n call 105\n r0 = 0\n exit")
    };
    let sysctl = |text: &str| judge(ProgType::CgroupSysctl, text, &Options::default()).map_err(|(reason, _)| reason);
    assert_eq!(sysctl(&strtol("const")), Err(Reason::ReadOnly));
    assert_eq!(sysctl(&strtol("one")), Ok(()));
}

#[test]
fn frozen_bytes_fold() {
    accept(
        "r1 = map[const][0] ll\n r2 = *(u64 *)(r1 + 0)\n if r2 == 3 goto ok\n r0 = *(u8 *)(r2 + 0)\nok:\n r0 = 0\n exit",
    );
    reject(
        Reason::InvalidAccess,
        "r1 = map[one][0] ll\n r2 = *(u64 *)(r1 + 0)\n if r2 == 3 goto ok\n r0 = *(u8 *)(r2 + 0)\nok:\n r0 = 0\n exit",
    );
}

/// `r2` = start and `r3` = end of the packet.
const PACKET: &str = "r6 = r1\n r2 = *(u32 *)(r1 + 76)\n r3 = *(u32 *)(r1 + 80)\n";

fn with_packet(text: &str) -> String {
    format!("{PACKET}{text}{OUT}")
}

#[test]
fn packets_are_as_long_as_a_comparison_shows() {
    let program = |test: &str, size, off| {
        with_packet(&format!("r4 = r2\n r4 += 8\n if {test} goto out\n r0 = *({size} *)(r2 + {off})"))
    };
    accept(&program("r4 > r3", "u64", 0));
    reject(Reason::PacketBounds, &program("r4 > r3", "u64", 1));
    accept(&program("r4 >= r3", "u8", 8));
    reject(Reason::PacketBounds, &program("r4 >= r3", "u8", 9));
    reject(Reason::PacketBounds, &program("r4 == r3", "u8", 0));
    reject(Reason::PacketBounds, &program("w4 > w3", "u8", 0));
}

#[test]
fn packet_pointers_die_when_the_packet_moves() {
    let check = "r4 = r2\n r4 += 8\n if r4 > r3 goto out\n r7 = r2\n r1 = r6\n";
    accept(&with_packet(&format!("{check} call 7\n r0 = *(u8 *)(r7 + 0)")));
    reject(Reason::InvalidAccess, &with_packet(&format!("{check} r2 = 8\n call 39\n r0 = *(u8 *)(r7 + 0)")));
    // Through a subprogram as well.
    let callee = "pull:\n r2 = 8\n call 39\n r0 = 0\n exit";
    reject(
        Reason::InvalidAccess,
        &with_packet(&format!("{check} call pull\n r0 = *(u8 *)(r7 + 0)"))
            .replace("exit\n", &format!("exit\n{callee}\n")),
    );
}

#[test]
fn contexts_give_what_their_fields_are() {
    accept("r0 = *(u32 *)(r1 + 0)\n exit");
    reject(Reason::ContextAccess, "r0 = *(u32 *)(r1 + 2)\n exit");
    reject(Reason::ContextAccess, "r0 = *(u16 *)(r1 + 78)\n exit");
    reject(Reason::ContextAccess, "r1 += 4\n r0 = *(u32 *)(r1 - 4)\n exit");
}

#[test]
fn stack_reads_and_writes_stay_in_512_bytes() {
    accept("*(u64 *)(r10 - 512) = 0\n r0 = 0\n exit");
    reject(Reason::StackAccess, "*(u64 *)(r10 - 520) = 0\n r0 = 0\n exit");
    reject(Reason::StackAccess, "*(u64 *)(r10 + 0) = 0\n r0 = 0\n exit");
    reject(Reason::Misaligned, "*(u64 *)(r10 - 12) = 0\n r0 = 0\n exit");
    reject(Reason::StackAccess, "*(u64 *)(r10 - 8) = r1\n r0 = *(u32 *)(r10 - 8)\n exit");
    accept("*(u64 *)(r10 - 8) = r1\n r1 = *(u64 *)(r10 - 8)\n r0 = *(u32 *)(r1 + 0)\n exit");
    reject(
        Reason::InvalidAccess,
        "*(u64 *)(r10 - 8) = r1\n *(u8 *)(r10 - 5) = 1\n r1 = *(u64 *)(r10 - 8)\n r0 = *(u32 *)(r1 + 0)\n exit",
    );
}

#[test]
fn a_read_modify_write_leaves_a_number() {
    // The slot held a pointer; after the exchange it does not.
    reject(
        Reason::InvalidAccess,
        "*(u64 *)(r10 - 8) = r1\n r2 = 0\n r2 = xchg_64(r10 - 8, r2)\n r1 = *(u64 *)(r10 - 8)\n r0 = *(u32 *)(r1 + 0)\n exit",
    );
    accept("*(u64 *)(r10 - 8) = r1\n r2 = 0\n r2 = xchg_64(r10 - 8, r2)\n r0 = *(u32 *)(r2 + 0)\n exit");
}

/// A ring buffer record in r0, not null.
const RECORD: &str = "r1 = map[ring] ll\n r2 = 16\n r3 = 0\n call 131\n if r0 == 0 goto out\n";

#[test]
fn references_are_given_back_once_on_every_path() {
    let program = |text: &str| format!("{RECORD}{text}{OUT}");
    accept(&program("r1 = r0\n r2 = 0\n call 132"));
    reject(Reason::ReferenceLeak, &program("r1 = 0"));
    reject(Reason::Argument, &program("r6 = r0\n r1 = r0\n r2 = 0\n call 132\n r1 = r6\n r2 = 0\n call 132"));
    reject(Reason::InvalidAccess, &program("r6 = r0\n r1 = r0\n r2 = 0\n call 132\n r0 = *(u8 *)(r6 + 0)"));
    reject(Reason::Reference, &program("r1 = r0\n r1 += 8\n r2 = 0\n call 132"));
    accept(&program("*(u64 *)(r0 + 8) = 1\n r1 = r0\n r2 = 0\n call 133"));
    reject(Reason::OutOfBounds, &program("*(u64 *)(r0 + 9) = 1\n r1 = r0\n r2 = 0\n call 133"));
    reject(
        Reason::ReferenceLeak,
        &program("r1 = r10\n r2 = map[progs] ll\n r3 = 0\n call 12")
            .replace("r1 = r10", "r1 = r9")
            .replace(RECORD, &format!("r9 = r1\n{RECORD}")),
    );
}

#[test]
fn locks_are_held_one_at_a_time_and_alone() {
    let program = |text: &str| format!("r6 = map[lock][0] ll\n r1 = r6\n call 93\n {text}{OUT}");
    accept(&program("*(u64 *)(r6 + 8) = 1\n r1 = r6\n call 94"));
    reject(Reason::Lock, &program("r1 = 0"));
    reject(Reason::Lock, &program("call 7\n r1 = r6\n call 94"));
    reject(Reason::Lock, &program("r1 = r6\n call 93"));
    reject(Reason::SpecialField, &program("*(u32 *)(r6 + 0) = 1\n r1 = r6\n call 94"));
    reject(Reason::Lock, &format!("r1 = map[lock][0] ll\n call 94{OUT}"));
}

#[test]
fn dynptrs_die_when_they_are_overwritten() {
    let make = "r1 = map[one][0] ll\n r2 = 8\n r3 = 0\n r4 = r10\n r4 += -16\n call 197\n";
    let data = "r1 = r10\n r1 += -16\n r2 = 0\n r3 = 8\n call 203\n if r0 == 0 goto out\n";
    let program = |text: &str| format!("{make}{data}{text}{OUT}");
    accept(&program("r1 = *(u64 *)(r0 + 0)"));
    reject(Reason::OutOfBounds, &program("r1 = *(u64 *)(r0 + 1)"));
    reject(Reason::InvalidAccess, &program("*(u64 *)(r10 - 8) = 0\n r1 = *(u64 *)(r0 + 0)"));
    reject(Reason::Dynptr, &format!("{make} r1 = r10\n r1 += -8\n r2 = 0\n r3 = 8\n call 203{OUT}"));
    let reserve = "r1 = map[ring] ll\n r2 = 8\n r3 = 0\n r4 = r10\n r4 += -16\n call 198\n";
    accept(&format!("{reserve} r1 = r10\n r1 += -16\n r2 = 0\n call 199{OUT}"));
    reject(Reason::ReferenceLeak, &format!("{reserve}{OUT}"));
    reject(Reason::Dynptr, &format!("{reserve} *(u64 *)(r10 - 16) = 0{OUT}"));
}

#[test]
fn loops_end_or_are_refused() {
    accept("r1 = 0\nagain:\n r1 += 1\n if r1 < 100 goto again\n r0 = 0\n exit");
    reject(
        Reason::InfiniteLoop,
        "r0 = 0\nagain:\n if r1 != 0 goto again\n exit"
            .replace("r1", "r0")
            .replace("r0 = 0", "r0 = *(u32 *)(r1 + 0)")
            .as_str(),
    );
    reject(
        Reason::TooComplex,
        "r1 = 0\nagain:\n r1 += 1\n goto again\n exit"
            .replace("goto again\n exit", "if r1 != 0 goto again\n r0 = 0\n exit")
            .as_str(),
    );
    accept("r1 = 0\nagain:\n may_goto out\n r1 += 1\n goto again\nout:\n r0 = 0\n exit");
}

#[test]
fn subprograms_are_walked_with_what_callers_know() {
    accept("call f\n exit\nf:\n  r0 = *(u32 *)(r1 + 0)\n exit");
    reject(Reason::UninitRegister, "call f\n exit\nf:\n  r0 = r6\n exit");
    reject(Reason::InvalidAccess, "call f\n r0 = 0\n exit\nf:\n  r0 = r10\n exit");
    reject(Reason::StackAccess, "r1 = r10\n call f\n r0 = 0\n exit\nf:\n  *(u64 *)(r1 - 8) = r10\n r0 = 0\n exit");
    accept("r1 = r10\n call f\n r0 = *(u64 *)(r10 - 8)\n exit\nf:\n  *(u64 *)(r1 - 8) = 7\n r0 = 0\n exit");
    reject(Reason::CallDepth, "r0 = 0\n call f\n exit\nf:\n  call f\n exit");
    reject(Reason::StackDepth, "*(u8 *)(r10 - 300) = 1\n call f\n exit\nf:\n  *(u8 *)(r10 - 300) = 1\n r0 = 0\n exit");
}

#[test]
fn callbacks_are_walked_until_they_converge() {
    let strict = Options { profile: Profile::Strict, ..Options::default() };
    let program = |body: &str, after: &str| {
        format!(
            "*(u64 *)(r10 - 8) = 0\n r1 = 100\n r2 = subprog[body] ll\n r3 = r10\n r3 += -8\n r4 = 0\n call 181\n {after}\n r0 = 0\n exit\nbody:\n {body}\n r0 = 0\n exit"
        )
    };
    let judge = |text: &str| judge(ProgType::SchedCls, text, &strict).map_err(|(reason, _)| reason);
    assert_eq!(judge(&program("*(u64 *)(r2 + 0) = r1", "r0 = 0")), Ok(()));
    // After the loop, the slot may hold any index.
    let index = "r1 = *(u64 *)(r10 - 8)\n r2 = map[one][0] ll\n r2 += r1\n r0 = *(u8 *)(r2 + 0)";
    assert_eq!(judge(&program("r0 = 0", index)), Ok(()));
    assert!(judge(&program("*(u64 *)(r2 + 0) = r1", index)).is_err());
    assert_eq!(judge(&program("if r1 > 5 goto +2\n r0 = 2\n exit", "r0 = 0")), Err(Reason::ReturnValue));
}

#[test]
fn results_are_in_range() {
    let judge = |text: &str| judge(ProgType::CgroupSkb, text, &Options::default()).map_err(|(reason, _)| reason);
    assert_eq!(judge("r0 = 1\n exit"), Ok(()));
    assert_eq!(judge("r0 = 2\n exit"), Err(Reason::ReturnValue));
    assert_eq!(judge("r0 = *(u32 *)(r1 + 0)\n r0 &= 1\n exit"), Ok(()));
    assert_eq!(judge("r0 = r1\n exit"), Err(Reason::ReturnValue));
}

#[test]
fn pointers_do_not_leak_without_perfmon() {
    let opts =
        Options { privilege: Privilege { perfmon: false, sys_admin: false, ..Privilege::ROOT }, ..Options::default() };
    let judge = |text: &str| judge(ProgType::SchedCls, text, &opts).map_err(|(reason, _)| reason);
    assert_eq!(judge("r0 = r1\n exit"), Err(Reason::PointerLeak));
    assert_eq!(judge("r1 = map[one][0] ll\n *(u64 *)(r1 + 0) = r10\n r0 = 0\n exit"), Err(Reason::PointerLeak));
    assert_eq!(judge("r0 = *(u64 *)(r10 - 8)\n exit"), Err(Reason::StackAccess));
    assert_eq!(judge("*(u64 *)(r10 - 8) = r1\n *(u8 *)(r10 - 8) = 1\n r0 = 0\n exit"), Err(Reason::StackAccess));
    assert_eq!(judge("r0 = r1\n r0 -= r10\n exit"), Err(Reason::PointerArithmetic));
    assert_eq!(judge("r0 = *(u32 *)(r1 + 0)\n exit"), Ok(()));
}

#[test]
fn dead_code_may_be_wrong_but_not_unreachable() {
    accept("r2 = 0\n if r2 == 1 goto +1\n goto +1\n r0 = *(u64 *)(r2 + 0)\n r0 = 0\n exit");
    reject(Reason::Unreachable, "r0 = 0\n exit\n r0 = 1\n exit");
    reject(Reason::Helper, "call 9999\n exit");
}

#[test]
fn a_frame_may_end_in_the_middle() {
    // Out of range, the load ends the subprogram with 0; a tail call ends it with anything.
    let judge = |text: &str, types: bool| {
        let mut program = decode(&asm::assemble(text).expect("the case assembles").slots).expect("the case decodes");
        if types {
            program.subprogs_mut().iter_mut().for_each(|subprog| subprog.btf_id = 1);
        }
        let mut given = Assumptions::new(ProgType::SchedCls);
        given.maps = vec![map("progs")];
        verify(program, given, &Options::default()).map(|_| ()).map_err(|why| why.reason)
    };
    let load =
        "r6 = r1\n call f\n r0 = *(u32 *)(r0 + 0)\n exit\nf:\n r6 = r1\n r7 = r1\n r0 = ldabs8[0]\n r0 = r7\n exit";
    let load = load.replace("r0 = ldabs8[0]", "r0 = *(u8 *)skb[0]");
    assert_eq!(judge(&load, true), Err(Reason::InvalidAccess));
    assert_eq!(judge(&load.replace("r0 = *(u8 *)skb[0]\n", ""), true), Ok(()));
    assert_eq!(judge(&load, false), Err(Reason::ProgType));
    let tail =
        "call f\n r0 = *(u32 *)(r0 + 0)\n exit\nf:\n r7 = r1\n r2 = map[progs] ll\n r3 = 0\n call 12\n r0 = r7\n exit";
    assert_eq!(judge(tail, true), Err(Reason::InvalidAccess));
    assert_eq!(judge(&tail.replace("r0 = *(u32 *)(r0 + 0)\n", ""), true), Ok(()));
}

#[test]
fn a_store_over_an_object_is_refused_on_every_path_to_it() {
    // The path without the dynptr reaches `join` first; its state must not stand for the one with it.
    let text = |slot: i32| {
        format!(
            "r9 = r1\n*(u64 *)(r10 - 8) = 0\nr2 = r10\nr2 += -8\nr1 = map[array] ll\ncall 1\nif r0 == 0 goto join\n\
             may_goto join\nr1 = r0\nr2 = 16\nr3 = 0\nr4 = r10\nr4 += {slot}\ncall 197\n\
             join: r1 = r9\nr2 = 0\nr3 = r10\nr3 += -32\nr4 = 24\ncall 26\nr0 = 0\nexit"
        )
    };
    let verdict = |slot| {
        let assembly = asm::assemble(&text(slot)).expect("the case assembles");
        let mut given = Assumptions::new(ProgType::SchedCls);
        given.maps = assembly.maps.iter().map(|name| map(name)).collect();
        given.prog_flags = 8;
        verify(decode(&assembly.slots).expect("the case decodes"), given, &Options::default()).map(|_| ())
    };
    assert!(verdict(-24).is_err_and(|why| why.message.contains("dynptr")));
    assert_eq!(verdict(-48), Ok(()));
}

#[track_caller]
fn strict(text: &str) -> Result<u64, Reason> {
    let program = decode(&asm::assemble(text).expect("the case assembles").slots).expect("the case decodes");
    let opts = Options { profile: Profile::Strict, ..Options::default() };
    let answer = verify(program, Assumptions::new(ProgType::SchedCls), &opts);
    answer.map(|verified| verified.stats().processed).map_err(|why| why.reason)
}

#[test]
fn what_nobody_reads_keeps_no_path_alive() {
    let processed = |reads: &str| {
        let tail = "r0 += 1\n ".repeat(50);
        let text = format!(
            "r6 = *(u32 *)(r1 + 0)\n r0 = 0\n *(u64 *)(r10 - 8) = 0\n if r6 == 0 goto join\n *(u64 *)(r10 - 8) = r10\n\
             join:\n {tail} {reads} r0 = 0\n exit"
        );
        let program = decode(&asm::assemble(&text).expect("the case assembles").slots).expect("the case decodes");
        let given = Assumptions { prog_flags: 8, ..Assumptions::new(ProgType::SchedCls) };
        verify(program, given, &Options::default()).expect("it is safe").stats().processed
    };
    assert!(processed("") < 65, "the slot is dead");
    assert!(processed("r2 = *(u64 *)(r10 - 8)\n") > 100, "it holds a number or a pointer");
}

#[test]
fn loops_that_count_are_walked_a_few_times_in_strict() {
    let few = |text: &str| match strict(text) {
        Ok(processed) => assert!(processed < 5_000, "{processed}: {text}"),
        Err(reason) => panic!("{reason:?}: {text}"),
    };
    few("r1 = 0\nagain:\n r1 += 1\n if r1 != 1000000000 goto again\n r0 = 0\n exit");
    few("w1 = 0\n r0 = 0\nagain:\n w0 += 3\n w1 += 1\n if w1 < 1000000000 goto again\n r0 = 0\n exit");
    few("r1 = 1000000000\nagain:\n r1 += -1\n if r1 != 0 goto again\n r0 = 0\n exit");
    // What is guessed first never fits: the number begins beyond its bound.
    few(
        "r1 = 0\n r2 = 1000\nagain:\n r2 += 1\n if r2 == 5 goto +0\n r1 += 1\n if r1 != 1000000000 goto again\n r0 = 0\n exit",
    );
    few("r1 = 0\nagain:\n if r1 s>= 1000000000 goto out\n r1 += 2\n goto again\nout:\n r0 = 0\n exit");
    few("r0 = 0\n r1 = 0\n *(u64 *)(r10 - 8) = 1\nagain:\n r2 = *(u64 *)(r10 - 8)\n r0 += r2\n \
         *(u64 *)(r10 - 8) = r0\n r1 += 1\n if r1 < 1000000000 goto again\n r0 = 0\n exit");
    // What is left of a round is walked once, also where a copy of the counter is alive.
    let forks: String =
        (0..20).map(|i| format!("r2 = *(u32 *)(r6 + 0)\n if r2 > {i} goto l{i}\n r3 = 1\nl{i}:\n")).collect();
    few(&format!(
        "r6 = r1\n r1 = 0\nagain:\n r7 = r1\n {forks} r0 = r7\n r1 += 1\n if r1 != 1000000000 goto again\n r0 = 0\n exit"
    ));
    few("r1 = 0\na:\n r2 = 0\nb:\n r3 = 0\nc:\n r0 = r3\n r3 += 1\n if r3 != 100000 goto c\n r2 += 1\n \
         if r2 != 100000 goto b\n r1 += 1\n if r1 != 100000 goto a\n r0 = 0\n exit");
}

#[test]
fn what_a_counted_loop_reaches_is_checked_in_strict() {
    let stores = |rounds: u32| {
        strict(&format!(
            "r1 = 0\nagain:\n r2 = r10\n r2 += -256\n r2 += r1\n *(u8 *)(r2 + 0) = 1\n r1 += 1\n \
             if r1 != {rounds} goto again\n r0 = 0\n exit"
        ))
    };
    assert!(stores(256).is_ok());
    assert_eq!(stores(257), Err(Reason::StackAccess));
}

#[test]
fn loops_that_may_not_end_are_refused_in_strict() {
    let refused = |text: &str| assert!(strict(text).is_err(), "{text}");
    // Set back, left alone, or stepped in one arm only.
    refused(
        "r6 = r1\n r1 = 0\nagain:\n r2 = *(u32 *)(r6 + 0)\n if r2 == 5 goto back\n r1 += 1\n \
             if r1 != 1000000000 goto again\n r0 = 0\n exit\nback:\n r1 = 0\n goto again",
    );
    refused(
        "r6 = r1\n r1 = 0\nagain:\n r2 = *(u32 *)(r6 + 0)\n if r2 == 5 goto again\n r1 += 1\n \
             if r1 != 1000000000 goto again\n r0 = 0\n exit",
    );
    refused(
        "r6 = r1\n r1 = 0\nagain:\n r2 = *(u32 *)(r6 + 0)\n if r2 == 5 goto down\n r1 += 1\n goto test\n\
             down:\n r1 += -1\ntest:\n if r1 < 1000000000 goto again\n r0 = 0\n exit",
    );
    refused(
        "r6 = r1\n r1 = 0\nagain:\n r1 += 1\n r2 = *(u32 *)(r6 + 0)\n if r2 != 5 goto test\n \
             r1 = *(u32 *)(r6 + 4)\n r1 &= 255\n r7 = r1\n r1 += 1\ntest:\n if r1 < 1000000000 goto again\n \
             r0 = 0\n exit",
    );
    // Another number with a copy, where the counter has one; a state is kept at each jump.
    let text = "r6 = r1\n r1 = 0\nagain:\n r2 = *(u32 *)(r6 + 0)\n r7 = r1\n if r2 == 5 goto other\n goto join\nother:\n \
                r7 = *(u32 *)(r6 + 4)\n r7 &= 255\n r1 = r7\njoin:\n if r2 == 9 goto out\n r1 += 1\n \
                if r1 < 1000000000 goto again\n r0 = r7\n exit\nout:\n r0 = r7\n exit";
    let program = decode(&asm::assemble(text).expect("the case assembles").slots).expect("the case decodes");
    let given = Assumptions { prog_flags: 8, ..Assumptions::new(ProgType::SchedCls) };
    let opts = Options { profile: Profile::Strict, budget: Some(100_000), ..Options::default() };
    assert_eq!(verify(program, given, &opts).map(|_| ()).map_err(|why| why.reason), Err(Reason::TooComplex));
    // Steps over its end.
    let text = "r1 = 0\nagain:\n r1 += 3\n if r1 != 1000000000 goto again\n r0 = 0\n exit";
    let answer = judge(ProgType::SchedCls, text, &opts).map_err(|(reason, _)| reason);
    assert_eq!(answer, Err(Reason::TooComplex));
}

#[test]
fn a_number_compared_with_itself_has_one_outcome_in_strict() {
    let check = |compare: &str, falls: bool| {
        let text = |wrong: &str, right: &str| {
            format!("r6 = *(u32 *)(r1 + 0)\n if {compare} goto taken\n {wrong}\n exit\ntaken:\n {right}\n exit")
        };
        let (wrong, right) = ("r0 = r9", "r0 = 0");
        let dead = if falls { text(right, wrong) } else { text(wrong, right) };
        let alive = if falls { text(wrong, right) } else { text(right, wrong) };
        assert!(strict(&dead).is_ok(), "{compare}");
        assert_eq!(strict(&alive), Err(Reason::UninitRegister), "{compare}");
        reject(Reason::UninitRegister, &dead);
    };
    check("r6 > r6", true);
    check("w6 > w6", true);
    check("r6 s< r6", true);
    check("r6 != r6", true);
    check("r6 == r6", false);
    check("w6 s>= w6", false);
    check("r6 <= r6", false);
    // Zero has no bit in common with itself.
    let text = "r6 = *(u32 *)(r1 + 0)\n if r6 & r6 goto set\n r0 = r9\n exit\nset:\n r0 = 0\n exit";
    assert_eq!(strict(text), Err(Reason::UninitRegister));
}

#[test]
fn a_refused_result_says_what_is_known_of_it() {
    let message = |text: &str| {
        let text = format!("call 7\n {text}\n exit");
        judge(ProgType::CgroupSkb, &text, &Options::default()).map_err(|(_, message)| message).unwrap_err()
    };
    let start = "At program exit the register R0 has";
    assert_eq!(message("r0 &= 7\n r0 += 5"), format!("{start} smin=5 smax=12 should have been in [0, 1]"));
    assert_eq!(message("call 5"), format!("{start} unknown scalar value should have been in [0, 1]"));
    assert_eq!(message("call 5\n if r0 s> 9 goto l\nl:"), format!("{start} smax=9 should have been in [0, 1]"));
}

#[test]
fn states_are_kept_more_often_where_that_is_asked_for() {
    let text =
        "r6 = *(u32 *)(r1 + 0)\n r0 = 0\n if r6 > 1 goto a\na:\n if r6 > 2 goto b\nb:\n if r6 > 3 goto c\nc:\n exit";
    let kept = |prog_flags| {
        let program = decode(&asm::assemble(text).unwrap().slots).unwrap();
        let given = Assumptions { prog_flags, ..Assumptions::new(ProgType::SchedCls) };
        verify(program, given, &Options::default()).unwrap().stats().states
    };
    assert!(kept(8) > kept(0), "{} and {}", kept(8), kept(0));
}

#[test]
fn without_rights_paths_may_meet_and_not_go_back() {
    let opts = Options { profile: Profile::Strict, privilege: Privilege::NONE, ..Options::default() };
    let check = |text: &str, expected: Result<(), Reason>| {
        let text = format!("r2 = *(u32 *)(r1 + 0)\n r0 = 0\n {text}\n exit");
        assert_eq!(judge(ProgType::SocketFilter, &text, &opts).map_err(|(reason, _)| reason), expected, "{text}");
    };
    check("if r2 == 0 goto a\n r0 = 1\n goto b\na:\n r0 = 2\nb:", Ok(()));
    check("if r2 == 0 goto a\n if r2 == 1 goto a\na:", Ok(()));
    check("a:\n r2 += -1\n if r2 != 0 goto a", Err(Reason::InfiniteLoop));
    check("r3 = 4\na:\n r3 += -1\n if r3 != 0 goto a", Err(Reason::InfiniteLoop));
    check("a:\n r2 += -1\n if r2 == 0 goto b\n goto a\nb:", Err(Reason::InfiniteLoop));
}

#[test]
fn the_longest_run_of_a_program_without_loops_is_known() {
    let worst = |text: &str| {
        let program = decode(&asm::assemble(text).unwrap().slots).unwrap();
        let verified = verify(program, Assumptions::new(ProgType::SchedCls), &Options::default());
        verified.unwrap().proved().worst_case_insns
    };
    assert_eq!(worst("r0 = 0\n exit"), Some(2));
    assert_eq!(worst("r0 = *(u32 *)(r1 + 0)\n if r0 == 0 goto l\n r0 = 1\n r0 = 2\nl:\n exit"), Some(5));
    assert_eq!(worst("r0 = 4\nl:\n r0 += -1\n if r0 != 0 goto l\n exit"), None);
}

#[test]
fn reading_stack_that_nothing_wrote_is_noted() {
    let reads = |text: &str| {
        let text = format!("r6 = *(u32 *)(r1 + 0)\n r6 &= 7\n r9 = r1\n {text}\n r0 = 0\n exit");
        let program = decode(&asm::assemble(&text).unwrap().slots).unwrap();
        let given = Assumptions { maps: vec![map("hash")], ..Assumptions::new(ProgType::SchedCls) };
        verify(program, given, &Options::default()).expect("accepted").proved().reads_uninit_stack
    };
    let key = "r1 = map[hash] ll\n r2 = r10\n r2 += -4\n call 1";
    assert!(reads(key));
    assert!(!reads(&format!("*(u32 *)(r10 - 4) = 0\n {key}")));
    assert!(reads("r1 = *(u64 *)(r10 - 8)"));
    assert!(!reads("*(u64 *)(r10 - 8) = 0\n r1 = *(u64 *)(r10 - 8)"));
    let somewhere = "r1 = r10\n r1 += r6\n r1 = *(u8 *)(r1 - 8)";
    assert!(reads(somewhere));
    assert!(!reads(&format!("*(u64 *)(r10 - 8) = 0\n {somewhere}")));
}

#[test]
fn operands_that_need_no_check_are_noted() {
    let facts = |text: &str| {
        let text = format!("r0 = *(u32 *)(r1 + 0)\n r2 = 3\n {text}\n exit");
        let program = decode(&asm::assemble(&text).unwrap().slots).unwrap();
        let verified = verify(program, Assumptions::new(ProgType::SchedCls), &Options::default()).unwrap();
        let facts = &verified.proved().insns[2];
        (facts.divisor_nonzero, facts.shift_in_range)
    };
    assert_eq!(facts("r0 /= 4"), (true, false));
    assert_eq!(facts("w0 s%= 4"), (true, false));
    assert_eq!(facts("r0 /= r2"), (false, false));
    assert_eq!(facts("r0 <<= 63"), (false, true));
    assert_eq!(facts("w0 s>>= 31"), (false, true));
    assert_eq!(facts("r0 <<= r2"), (false, false));
    assert_eq!(facts("r0 += 4"), (false, false));
}

#[test]
fn a_rejection_says_how_much_was_walked() {
    let program = decode(&asm::assemble("r0 = 0\n r1 = 0\n r0 = r9\n exit").unwrap().slots).unwrap();
    let why = verify(program, Assumptions::new(ProgType::SchedCls), &Options::default()).unwrap_err();
    assert_eq!(why.stats.processed, 3);
}

#[test]
fn the_byte_that_was_not_written_is_named() {
    let opts = Options { privilege: Privilege { perfmon: false, ..Privilege::ROOT }, ..Options::default() };
    let text = "*(u16 *)(r10 - 4) = 0\n r1 = map[hash] ll\n r2 = r10\n r2 += -4\n call 1\n r0 = 0\n exit";
    let message = judge(ProgType::SchedCls, text, &opts).map_err(|(_, message)| message);
    assert_eq!(message, Err("invalid read from stack R2 off -4+2 size 4".to_owned()));
}
