//! Two objects joined: what one leaves undefined the other defines.

use rtbpf_isa::{Callee, Insn};
use rtbpf_loader::{Error, Object, ParseOptions};

fn read(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/../tests/data/objects/{name}.bpf.o", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn join(files: &[&[u8]]) -> Result<Object, Error> {
    Object::join(files, &ParseOptions::default())
}

#[test]
fn functions_maps_and_variables_are_found_in_the_other_object() {
    let (main, library) = (read("join_main"), read("join_library"));
    for files in [[&*main, &*library], [&*library, &*main]] {
        let object = join(&files).unwrap();
        let names: Vec<&str> = object.maps.iter().map(|map| map.name.as_str()).collect();
        assert_eq!(names.iter().filter(|name| **name == "classes").count(), 1, "{names:?}");
        let linked = object.link_named("joined").unwrap();
        let names: Vec<_> = linked.subprogs().iter().map(|s| s.name.as_deref().unwrap_or_default()).collect();
        assert_eq!(names, ["joined", "classify", "verdict"]);
        // The strong `verdict` tests its argument; the weak one returns a constant.
        let verdict = &linked.subprogs()[2];
        let body = &linked.insns()[verdict.start.index()..verdict.end.index()];
        assert!(body.len() > 2 && body.iter().any(|insn| matches!(insn, Insn::Branch { .. })), "{body:?}");
        let calls = linked.insns().iter().filter(|insn| matches!(insn, Insn::Call(Callee::Local { .. })));
        assert_eq!(calls.count(), 2);
        let lines = linked.lines();
        assert!(lines.iter().any(|line| line.file.ends_with("join_main.bpf.c")));
        assert!(lines.iter().any(|line| line.file.ends_with("join_library.bpf.c")));
        assert_eq!(object.variable_bytes("limit").as_deref(), Some(&[100, 0, 0, 0][..]));
        assert!(object.variable("packets").is_some() && object.variable("calls").is_some());
        assert_eq!(object.license, "GPL");
        let btf = object.btf.as_ref().unwrap();
        let func = btf.get(rtbpf_btf::TypeId(linked.subprogs()[1].btf_id)).unwrap();
        assert_eq!(btf.define(func.id), "int classify(__u32 length);");
    }
}

#[test]
fn one_object_alone_loads_but_does_not_link() {
    let object = join(&[&read("join_main")]).unwrap();
    let error = object.link_named("joined").unwrap_err();
    assert!(matches!(&error, Error::Undefined { symbol, .. } if symbol == "classify"), "{error}");
}

#[test]
fn two_strong_definitions_are_refused() {
    let library = read("join_library");
    let error = join(&[&library, &library]).unwrap_err();
    assert!(matches!(&error, Error::Join { .. }), "{error}");
}
