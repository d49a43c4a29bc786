//! CO-RE against targets made for the test: moved, widened, missing and ambiguous members.

use rtbpf_abi::MapKind;
use rtbpf_btf::{Btf, Builder, CoreReloKind, NewMember, TypeId};
use rtbpf_isa::{Callee, Insn};
use rtbpf_loader::{CoreResult, Object, POISONED_HELPER, ParseOptions};

/// Types of a kernel that the members of `task_struct` are chosen for.
struct Kernel {
    b: Builder,
    int: TypeId,
    long: TypeId,
    comm: TypeId,
    mm: TypeId,
}

fn kernel() -> Kernel {
    let mut b = Builder::new();
    let int = b.int("int", 4, true);
    let long = b.int("unsigned long", 8, false);
    let char_ = b.int("char", 1, true);
    let comm = b.array(char_, 24);
    let mm = b.structure("mm_struct", 16, &[NewMember::new("total_vm", long, 64)]);
    let mm = b.pointer(mm);
    Kernel { b, int, long, comm, mm }
}

fn load(target: Option<&Btf>) -> Object {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/core_task.bpf.o");
    let options = ParseOptions { target_btf: target, ..ParseOptions::default() };
    Object::parse(&std::fs::read(path).unwrap(), &options).unwrap()
}

/// Results of the relocations of `kind` at `path`.
fn results<'a>(object: &'a Object, kind: CoreReloKind, path: &str) -> Vec<&'a CoreResult> {
    let found = object.core.iter().filter(|outcome| outcome.kind == kind && &*outcome.path == path);
    found.map(|outcome| &outcome.result).collect()
}

fn new_value(object: &Object, kind: CoreReloKind, path: &str) -> Option<u64> {
    match results(object, kind, path).first()? {
        CoreResult::Applied { new, .. } => Some(*new),
        CoreResult::Kept | CoreResult::Poisoned { .. } => None,
    }
}

fn modern() -> Btf {
    let Kernel { mut b, int, long, comm, mm } = kernel();
    let flag = b.int("unsigned int", 4, false);
    let inner = b.union("", 8, &[NewMember::new("pid", int, 0), NewMember::new("whole", long, 0)]);
    let task = b.next_id();
    let parent = TypeId(task.0 + 1);
    let members = [
        NewMember::new("__state", flag, 0),
        NewMember::new("", inner, 64),
        NewMember::new("tgid", int, 128),
        NewMember::new("flags", flag, 160),
        NewMember::new("comm", comm, 192),
        NewMember::bits("in_execve", flag, 387, 1),
        NewMember::new("real_parent", parent, 448),
        NewMember::new("mm", mm, 512),
    ];
    b.structure("task_struct", 72, &members);
    b.pointer(task);
    b.enumeration("pid_type", 4, false, &[("PIDTYPE_PID", 0), ("PIDTYPE_TGID", 1)]);
    b.build().unwrap()
}

#[test]
fn members_are_found_where_the_target_keeps_them() {
    use CoreReloKind::*;
    let object = load(Some(&modern()));
    let check = |kind, path: &str, expected| assert_eq!(new_value(&object, kind, path), expected, "{path} {kind:?}");
    // Within an anonymous union.
    check(FieldByteOffset, "struct task_struct.pid", Some(8));
    check(FieldByteOffset, "struct task_struct.tgid", Some(16));
    check(FieldByteOffset, "struct task_struct.mm", Some(64));
    check(FieldByteOffset, "struct mm_struct.total_vm", Some(8));
    check(FieldByteSize, "struct task_struct.comm", Some(24));
    check(TypeSize, "struct task_struct", Some(72));
    check(FieldExists, "struct task_struct___new.__state", Some(1));
    check(EnumvalExists, "enum pid_type.PIDTYPE_TGID", Some(1));
    check(EnumvalValue, "enum pid_type.PIDTYPE_TGID", Some(1));
    // Bit 387 lies in the word at byte 48, 3 bits up.
    check(FieldByteOffset, "struct task_struct.in_execve", Some(48));
    check(FieldLshiftU64, "struct task_struct.in_execve", Some(60));
    check(FieldRshiftU64, "struct task_struct.in_execve", Some(63));
    assert_eq!(object.relocs.poisoned as usize, object.poisoned().count());
}

#[test]
fn a_member_that_is_not_there_poisons_its_instruction() {
    let object = load(Some(&modern()));
    let poisoned: Vec<_> = object.poisoned().map(|outcome| (outcome.kind, &*outcome.path)).collect();
    assert_eq!(poisoned, [(CoreReloKind::FieldByteOffset, "struct task_struct___old.state")]);
    let linked = object.link_named("read_task").unwrap();
    let poison = linked.insns().iter().filter(|insn| **insn == Insn::Call(Callee::Helper(POISONED_HELPER)));
    assert_eq!(poison.count(), 1);
}

#[test]
fn without_a_target_instructions_stay_as_compiled() {
    let object = load(None);
    let kept = object.core.iter().filter(|outcome| outcome.result == CoreResult::Kept).count();
    assert!(kept > 10 && kept == object.core.len());
    assert_eq!((object.relocs.core, object.relocs.poisoned), (0, 0));
    assert_eq!(object.maps[0].spec.kind, MapKind::Array);
}

#[test]
fn existence_of_what_a_target_lacks_is_zero_and_the_rest_is_poison() {
    use CoreReloKind::*;
    let Kernel { mut b, int, .. } = kernel();
    b.structure("task_struct", 4, &[NewMember::new("pid", int, 0)]);
    let object = load(Some(&b.build().unwrap()));
    assert_eq!(new_value(&object, FieldExists, "struct task_struct___new.__state"), Some(0));
    assert_eq!(new_value(&object, EnumvalExists, "enum pid_type.PIDTYPE_TGID"), Some(0));
    assert_eq!(new_value(&object, FieldByteOffset, "struct task_struct.pid"), Some(0));
    let [CoreResult::Poisoned { why }] = results(&object, EnumvalValue, "enum pid_type.PIDTYPE_TGID")[..] else {
        panic!("the value of an enum that is not there");
    };
    assert_eq!(&**why, "the target has no type of this name");
    let [CoreResult::Poisoned { why }, ..] = results(&object, FieldByteOffset, "struct task_struct.mm")[..] else {
        panic!("the offset of a member that is not there");
    };
    assert_eq!(&**why, "the target's type has no such member or value");
}

#[test]
fn types_of_one_name_that_disagree_are_poison() {
    let Kernel { mut b, int, long, .. } = kernel();
    b.structure("task_struct", 8, &[NewMember::new("pid", int, 0)]);
    b.structure("task_struct___other", 16, &[NewMember::new("x", long, 0), NewMember::new("pid", int, 64)]);
    let object = load(Some(&b.build().unwrap()));
    let pid = results(&object, CoreReloKind::FieldByteOffset, "struct task_struct.pid");
    assert!(matches!(pid[..], [CoreResult::Poisoned { why }, ..] if &**why == "types of this name disagree there"));
}

#[test]
fn only_objects_that_ask_need_the_system() {
    let needs = |name: &str| {
        let path = format!("{}/../examples/{name}.bpf.o", env!("CARGO_MANIFEST_DIR"));
        Object::needs_system(&[&std::fs::read(path).expect("the example is there")]).expect("it is an object")
    };
    assert!(needs("core_task"));
    for name in ["xdp_counter", "tc_port", "plain_sum"] {
        assert!(!needs(name), "{name}");
    }
    assert!(Object::needs_system(&[b"no object"]).is_err());
}
