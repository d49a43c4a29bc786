//! What a whole object holds once it is parsed: maps, variables, externs, functions, lines.

use rtbpf_abi::{MapKind, ProgType};
use rtbpf_btf::Btf;
use rtbpf_isa::{Callee, Imm64, Insn, Linkage, Program};
use rtbpf_loader::{Initial, InitialTarget, Object, ParseOptions};

fn read(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/../tests/data/objects/{name}.bpf.o", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn everything(options: &ParseOptions<'_>) -> Object {
    Object::parse(&read("everything"), options).unwrap()
}

fn calls(program: &Program) -> Vec<Callee> {
    let callee = |insn: &Insn| if let Insn::Call(callee) = *insn { Some(callee) } else { None };
    program.insns().iter().filter_map(callee).collect()
}

#[test]
fn maps_carry_their_definitions_and_initialisers() {
    let object = everything(&ParseOptions::default());
    let map = |name| &object.maps[object.map(name).unwrap()];
    let events = &map("events").spec;
    let sizes = (events.kind, events.key_size, events.value_size, events.max_entries);
    assert_eq!(sizes, (MapKind::Hash, 4, 40, 64));
    let btf = object.btf.as_ref().unwrap();
    assert_eq!(btf.declare(rtbpf_btf::TypeId(events.btf_value), ""), "struct event");
    let outer = map("outer");
    let inner = outer.spec.inner.as_ref().unwrap();
    assert_eq!((inner.kind, inner.value_size, inner.max_entries), (MapKind::Array, 8, 4));
    let at = |name| InitialTarget::Map(object.map(name).unwrap());
    assert_eq!(outer.initial, [Initial { key: 0, target: at("first") }, Initial { key: 1, target: at("second") }]);
    let last = InitialTarget::Program("last".into());
    assert_eq!(map("calls").initial, [Initial { key: 1, target: last }]);
    assert_eq!(object.relocs.initial, 3);
}

#[test]
fn variables_are_read_and_set_by_name() {
    let mut object = everything(&ParseOptions { name: "everything", ..ParseOptions::default() });
    assert_eq!(object.variable_bytes("limit"), Some(vec![10, 0, 0, 0]));
    assert_eq!(object.variable_bytes("total"), Some(vec![0; 8]));
    assert_eq!(object.variable_bytes("weights").unwrap()[8], 2);
    let (section, variable) = object.variable("latest").unwrap();
    let btf = object.btf.as_ref().unwrap();
    let value = btf.value(variable.ty, &object.variable_bytes("latest").unwrap());
    assert_eq!(value.field("name").unwrap().to_string(), "\"latest\"");
    assert_eq!(object.maps[section.map].spec.name, "everythi.data");
    object.set_variable("limit", &[3]).unwrap();
    assert_eq!(object.variable_bytes("limit"), Some(vec![3, 0, 0, 0]));
    let (section, variable) = object.variable("limit").unwrap();
    let frozen = object.maps[section.map].spec.frozen.as_ref().unwrap();
    assert_eq!(frozen[variable.offset as usize], 3);
    let refuse = |object: &mut Object, name, bytes: &[u8]| object.set_variable(name, bytes).unwrap_err().to_string();
    assert!(refuse(&mut object, "limit", &[0; 5]).contains("5 bytes do not fit its 4"));
    assert!(refuse(&mut object, "limits", &[0]).contains("no variable limits"));
}

#[test]
fn hosts_may_size_maps_before_loading() {
    let mut object = everything(&ParseOptions::default());
    let name = object.maps.iter().find(|map| map.spec.kind == MapKind::Hash).unwrap().name.clone();
    object.resize_map(&name, 77, Some(40)).unwrap();
    let spec = &object.maps[object.map(&name).unwrap()].spec;
    assert_eq!((spec.max_entries, spec.value_size), (77, 40));
    assert!(object.resize_map("everything.data", 2, None).unwrap_err().to_string().contains("no map"));
    let of_variables = object.maps[object.data[0].map].name.clone();
    assert!(object.resize_map(&of_variables, 2, None).unwrap_err().to_string().contains("backs global variables"));
}

#[test]
fn externs_come_from_the_options_or_are_nothing() {
    let without = everything(&ParseOptions::default());
    let version = without.variable_bytes("LINUX_KERNEL_VERSION").unwrap();
    assert_eq!(u32::from_le_bytes(version.try_into().unwrap()), 6 << 16 | 18 << 8);
    assert_eq!(without.variable_bytes("CONFIG_PREEMPT_RT"), Some(vec![0]));
    assert_eq!(without.kfuncs, []);
    // Calls of a weak kernel function that is not there stand in code that its test makes dead.
    let linked = without.link_named("first_prog").unwrap();
    assert!(calls(&linked).iter().any(|c| matches!(c, Callee::Helper(id) if *id >= 2_002_000_000)));

    let with = everything(&ParseOptions {
        kconfig: Some("CONFIG_PREEMPT_RT=y\n"),
        kernel_version: 5 << 16,
        kfunc: Some(&|name| (name == "bpf_rcu_read_lock").then_some(77)),
        ksym: Some(&|name| (name == "init_task").then_some(0x1_2345_6789)),
        ..ParseOptions::default()
    });
    assert_eq!(with.variable_bytes("CONFIG_PREEMPT_RT"), Some(vec![1]));
    assert_eq!(with.variable_bytes("LINUX_KERNEL_VERSION"), Some(vec![0, 0, 5, 0]));
    assert_eq!(with.kfunc_names().into_iter().collect::<Vec<_>>(), [(77, "bpf_rcu_read_lock")]);
    let linked = with.link_named("first_prog").unwrap();
    assert!(calls(&linked).contains(&Callee::Kfunc { btf_id: 77, module: 0 }));
    let address = Imm64::Const([0x2345_6789, 1]);
    assert!(linked.insns().iter().any(|insn| matches!(insn, Insn::Imm { value, .. } if *value == address)));
}

#[test]
fn functions_keep_their_names_linkage_and_lines() {
    let object = everything(&ParseOptions::default());
    let linked = object.link_named("first_prog").unwrap();
    let subprogs: Vec<_> =
        linked.subprogs().iter().map(|s| (s.name.as_deref().unwrap_or_default(), s.linkage)).collect();
    let expected = [
        ("first_prog", Linkage::Global),
        ("checksum", Linkage::Global),
        ("add_up", Linkage::Static),
        ("hook", Linkage::Global),
    ];
    assert_eq!(subprogs, expected);
    let callback = linked.function_refs().find(|(at, _)| matches!(linked.get(*at), Some(Insn::Imm { .. }))).unwrap();
    assert_eq!(linked.subprog_at(callback.1), 2);
    let start = linked.subprogs()[1].start;
    let line = linked.line(start).unwrap();
    assert!(line.text.contains("u32 checksum(const struct event *event)") && line.file.ends_with("everything.bpf.c"));
    for (at, _) in linked.iter() {
        assert!(linked.line(at).is_some(), "{at}");
    }
    assert_eq!(object.prototype(object.program("last").unwrap()).as_deref(), Some("int last(void *ctx);"));
}

#[test]
fn records_before_btf_and_old_section_names_load() {
    let object = Object::parse(&read("legacy"), &ParseOptions::default()).unwrap();
    let maps: Vec<_> = object.maps.iter().map(|m| (m.name.as_str(), m.spec.kind, m.spec.max_entries)).collect();
    assert_eq!(maps[..2], [("counts", MapKind::Array, 4), ("keys", MapKind::Hash, 128)]);
    let types: Vec<_> = object.programs.iter().map(|p| (p.name.as_str(), p.prog_type)).collect();
    assert_eq!(types, [("count", ProgType::SocketFilter), ("decode", ProgType::LircMode2)]);
    for program in &object.programs {
        let linked = object.link(program).unwrap();
        assert_eq!(linked.subprogs().len(), 2);
        assert_eq!(linked.subprogs()[1].name.as_deref(), Some("weigh"));
    }
    assert_eq!(object.license, "MIT");
}

#[test]
fn the_same_bytes_make_the_same_object() {
    let target = Btf::parse(&rtbpf_btf::Builder::new().to_bytes()).unwrap();
    let options = ParseOptions { target_btf: Some(&target), ..ParseOptions::default() };
    assert_eq!(everything(&options), everything(&options));
}
