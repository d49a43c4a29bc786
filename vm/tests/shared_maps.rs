//! Maps that outlive the version of the programs that made them.

use rtbpf::abi::{MapKind, MapSpec};
use rtbpf::loader::{Object, ParseOptions};
use rtbpf::maps::{CreateCx, MapRef, create};
use rtbpf::rt::RunCx;
use rtbpf::{Config, Ctx, Engine, Error, Instance, Proof};

fn object() -> Object {
    let bytes = include_bytes!("../../examples/xdp_counter.bpf.o");
    Object::parse(bytes, &ParseOptions::default()).expect("the object is good")
}

/// Packets counted so far on CPU 0, after one more.
fn count(engine: &Engine, instance: &mut Instance) -> u64 {
    let program = instance.program("count").expect("it loads");
    let mut ctx = Ctx::test_run(program.prog_type(), program.attach_type(), &[0; 64], &[]).expect("a good packet");
    program.run(&mut engine.session(0), &mut ctx).expect("it runs");
    let (map, mut value) = (instance.map("by_protocol").expect("the object has it"), Vec::new());
    map.read(&RunCx::CONTROL, &255u32.to_le_bytes(), 0, &mut value).expect("the key is in range");
    u64::from_le_bytes(*value.first_chunk().expect("it has 16 bytes"))
}

#[test]
fn a_new_version_goes_on_where_the_old_one_stood() {
    let engine = Engine::new(Config::linux());
    let mut old = Instance::new(&engine, object(), Proof::Required).expect("it loads");
    assert_eq!((count(&engine, &mut old), count(&engine, &mut old)), (1, 2));
    let counts = old.map("by_protocol").expect("the object has it").clone();
    let shared = [("by_protocol", counts)];
    let mut new = Instance::with_maps(&engine, object(), Proof::Required, &shared).expect("the map is alike");
    assert_eq!(count(&engine, &mut new), 3);
    assert_eq!(count(&engine, &mut old), 4, "both count in it");
    let mut apart = Instance::new(&engine, object(), Proof::Required).expect("it loads");
    assert_eq!(count(&engine, &mut apart), 1);
}

#[test]
fn maps_of_another_shape_or_name_are_refused() {
    let engine = Engine::new(Config::linux());
    let refused = |name: &str, map: &MapRef| {
        Instance::with_maps(&engine, object(), Proof::Required, &[(name, map.clone())]).expect_err("it differs")
    };
    let other = create(&MapSpec::new(MapKind::PercpuArray, 4, 16, 255), &CreateCx::new(2)).expect("it can be made");
    assert!(matches!(refused("by_protocol", &other), Error::MapUnlike { what: "capacity", .. }));
    assert!(
        matches!(refused("by_port", &other), Error::NoMapNamed { name, known } if name == "by_port" && known.len() == 2)
    );
    // A constant that the proof would read is part of what the object is.
    let rodata = Instance::new(&engine, object(), Proof::Required).expect("it loads");
    let constants = rodata.object().maps.iter().find(|def| def.spec.frozen.is_some()).expect("it has constants");
    let mut spec = constants.spec.clone();
    spec.frozen = None;
    let unwritten = create(&spec, &CreateCx::new(2)).expect("it can be made");
    assert!(matches!(refused(&constants.name, &unwritten), Error::MapUnlike { what: "contents", .. }));
}
