//! Global functions: each is walked once on its own, and callers are held to what its parameters were declared as.

use std::sync::Arc;

use rtbpf_abi::{AttachType, MapKind, MapSpec, ProgType};
use rtbpf_btf::{Builder, Linkage as BtfLinkage};
use rtbpf_isa::{Linkage, asm, decode};
use rtbpf_verifier::{Assumptions, KeepStates, Options, Reason, verify};

/// What the one global function takes.
#[derive(Clone, Copy)]
enum Takes {
    Number,
    Ctx,
    /// Eight bytes, or nothing.
    Mem,
    /// Eight bytes.
    SomeMem,
}

fn map(name: &str) -> MapSpec {
    match name {
        "progs" => MapSpec::new(MapKind::ProgArray, 4, 4, 1),
        _ => MapSpec::new(MapKind::Array, 4, 16, 1),
    }
}

/// Verifies `text`, whose second function is global and takes one argument.
fn judge(text: &str, takes: Takes) -> Result<(), Reason> {
    judge_as(ProgType::SchedCls, text, takes)
}

/// The same, as a program of this type; what is accepted is proved again.
fn judge_as(prog: ProgType, text: &str, takes: Takes) -> Result<(), Reason> {
    let mut types = Builder::new();
    let int = types.int("int", 4, true);
    let long = types.int("long", 8, true);
    let pair = types.pointer(long);
    let skb = types.structure("__sk_buff", 192, &[]);
    let ctx = types.pointer(skb);
    let ty = match takes {
        Takes::Number => int,
        Takes::Ctx => ctx,
        Takes::Mem | Takes::SomeMem => pair,
    };
    let proto = types.func_proto(int, &[("arg", ty)]);
    let function = types.func("f", proto, BtfLinkage::Global);
    if matches!(takes, Takes::SomeMem) {
        types.decl_tag("arg:nonnull", function, Some(0));
    }
    let assembly = asm::assemble(text).expect("the case assembles");
    let mut program = decode(&assembly.slots).expect("the case decodes");
    for (index, subprog) in program.subprogs_mut().iter_mut().enumerate() {
        subprog.btf_id = function.0;
        subprog.linkage = if index == 1 { Linkage::Global } else { Linkage::Static };
    }
    let given = Assumptions {
        kfuncs: vec![(1, "bpf_dynptr_from_skb".to_owned())],
        btf: Some(Arc::new(types.build().expect("the types are right"))),
        maps: assembly.maps.iter().map(|name| Arc::new(map(name))).collect(),
        attach_type: (prog == ProgType::CgroupSkb).then_some(AttachType::CgroupInetIngress),
        ..Assumptions::new(prog)
    };
    let options = Options { keep_states: KeepStates::Leaders, ..Options::default() };
    let verified = verify(program, given, &options).map_err(|why| why.reason)?;
    assert_eq!(verified.recheck(), Some(Ok(())), "{text}");
    Ok(())
}

#[track_caller]
fn check(takes: Takes, caller: &str, callee: &str, expected: Result<(), Reason>) {
    let text = format!("{caller}\n call f\n r0 = 0\n exit\nf:\n {callee}\n exit");
    assert_eq!(judge(&text, takes), expected, "{text}");
}

#[test]
fn what_a_program_may_return_is_no_rule_for_a_function() {
    let text = |program: u32| format!("r1 = 1\n call f\n r0 = {program}\n exit\nf:\n r0 = 100\n exit");
    assert_eq!(judge_as(ProgType::CgroupSkb, &text(1), Takes::Number), Ok(()));
    assert_eq!(judge_as(ProgType::CgroupSkb, &text(100), Takes::Number), Err(Reason::ReturnValue));
}

#[test]
fn the_body_is_walked_whoever_calls_it() {
    check(Takes::Number, "r1 = 1", "r0 = r1", Ok(()));
    check(Takes::Number, "r1 = 1", "r0 = *(u8 *)(r1 + 0)", Err(Reason::InvalidAccess));
    check(Takes::Number, "r1 = 1", "r0 = r6", Err(Reason::UninitRegister));
    // The caller's number is not known inside.
    let index = "r0 = map[one][0] ll\n r0 += r1\n r0 = *(u8 *)(r0 + 0)";
    check(Takes::Number, "r1 = 1", index, Err(Reason::PointerArithmetic));
    check(Takes::Number, "r1 = 1", &format!("r1 &= 15\n {index}"), Ok(()));
    check(Takes::Number, "r1 = 1", "r0 = r10", Err(Reason::ReturnValue));
}

#[test]
fn what_is_passed_is_what_was_declared() {
    let unread = "r0 = 0";
    check(Takes::Number, "r1 = 7", unread, Ok(()));
    check(Takes::Number, "r1 = r10", unread, Err(Reason::GlobalFunction));
    check(Takes::Ctx, "r1 = r1", "r0 = *(u32 *)(r1 + 0)", Ok(()));
    check(Takes::Ctx, "r1 += 4", unread, Err(Reason::GlobalFunction));
    check(Takes::Ctx, "r1 = 0", unread, Err(Reason::GlobalFunction));
    let stack = "*(u64 *)(r10 - 8) = 0\n r1 = r10\n r1 += -8";
    let reads = "r0 = 0\n if r1 == 0 goto l\n r0 = *(u64 *)(r1 + 0)\n r0 = 0\nl:";
    check(Takes::Mem, stack, reads, Ok(()));
    check(Takes::Mem, "r1 = 0", reads, Ok(()));
    check(Takes::Mem, "r1 = map[one][0]+8 ll", reads, Ok(()));
    check(Takes::Mem, "r1 = map[one][0]+9 ll", reads, Err(Reason::GlobalFunction));
    check(Takes::Mem, "r1 = r10\n r1 += -4", reads, Err(Reason::GlobalFunction));
    check(Takes::Mem, "r1 = 8", reads, Err(Reason::GlobalFunction));
    check(Takes::Mem, stack, "r0 = *(u64 *)(r1 + 0)", Err(Reason::InvalidAccess));
    check(Takes::Mem, stack, &reads.replace("r1 + 0", "r1 + 1"), Err(Reason::OutOfBounds));
}

#[test]
fn what_must_not_be_null_is_not() {
    let reads = "r0 = *(u32 *)(r1 + 4)\n r0 = 0";
    let lookup = "*(u32 *)(r10 - 4) = 1\n r1 = map[one] ll\n r2 = r10\n r2 += -4\n call 1\n r1 = r0\n";
    check(Takes::SomeMem, "*(u64 *)(r10 - 8) = 0\n r1 = r10\n r1 += -8", reads, Ok(()));
    check(Takes::SomeMem, &format!("{lookup} if r0 != 0 goto l\n r0 = 0\n exit\nl:"), reads, Ok(()));
    check(Takes::SomeMem, lookup, reads, Err(Reason::GlobalFunction));
    check(Takes::SomeMem, "r1 = 0", reads, Err(Reason::GlobalFunction));
    let either = "r6 = *(u32 *)(r1 + 0)\n *(u64 *)(r10 - 8) = 0\n r1 = r10\n r1 += -8\n if r6 == 0 goto l\n r1 = 0\nl:";
    check(Takes::SomeMem, either, reads, Err(Reason::GlobalFunction));
}

#[test]
fn a_callee_that_moves_the_packet_ends_pointers_into_it() {
    let uses = |callee: &str| {
        let text = format!(
            "r6 = r1\n r7 = *(u32 *)(r1 + 76)\n r2 = *(u32 *)(r1 + 80)\n r3 = r7\n r3 += 8\n if r3 > r2 goto out\n call f\n \
             r0 = *(u8 *)(r7 + 0)\nout:\n r0 = 0\n exit\nf:\n {callee}\n r0 = 0\n exit"
        );
        judge(&text, Takes::Ctx)
    };
    assert_eq!(uses("r0 = *(u32 *)(r1 + 0)"), Ok(()));
    assert_eq!(uses("call 7"), Ok(()));
    assert_eq!(uses("r2 = 0\n call 39"), Err(Reason::InvalidAccess));
    assert_eq!(uses("r2 = map[progs] ll\n r3 = 0\n call 12"), Err(Reason::InvalidAccess));
    let dynptr =
        "r2 = 0\n r3 = r10\n r3 += -16\n call kfunc#1\n *(u64 *)(r10 - 24) = 0\n r1 = r10\n r1 += -16\n r2 = 0\n";
    let write = "r3 = r10\n r3 += -24\n r4 = 8\n r5 = 0\n call 202";
    assert_eq!(uses(&format!("{dynptr}{write}")), Err(Reason::InvalidAccess));
    // Through a function that it calls in turn.
    assert_eq!(uses("call g\n r0 = 0\n exit\ng:\n call 7"), Ok(()));
    assert_eq!(uses("call g\n r0 = 0\n exit\ng:\n r2 = 0\n call 39"), Err(Reason::InvalidAccess));
}
