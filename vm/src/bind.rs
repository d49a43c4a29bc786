//! The gate between what a proof assumed and what is bound.

use rtbpf_abi::MapSpec;
use rtbpf_maps::{MapRef, control};
use rtbpf_rt::RunCx;
use rtbpf_verifier::Assumptions;

use crate::error::Error;
use crate::executable::compatibility;

/// Checks that the live maps are what the program was verified with, field by field, and binds those that hold programs
/// to its type.
pub(crate) fn check_maps(given: &Assumptions, maps: &[MapRef]) -> Result<(), Error> {
    let differs = |map, what| Err(Error::MapDiffers { map, what });
    for (index, assumed) in given.maps.iter().enumerate() {
        let Some(live) = maps.get(index) else {
            return differs(index, "number of maps");
        };
        if let Some(what) = difference(assumed, live.spec()) {
            return differs(index, what);
        }
        // The proof read them.
        if frozen_differs(assumed, live) {
            return differs(index, "frozen contents");
        }
        if !live.head().bind(given.prog_type, compatibility(given)) {
            return differs(index, "the type of its programs");
        }
    }
    Ok(())
}

/// How a live map differs from what an object says of it.
pub(crate) fn unlike(spec: &MapSpec, live: &MapRef) -> Option<&'static str> {
    difference(spec, live.spec()).or_else(|| frozen_differs(spec, live).then_some("contents"))
}

/// Whether a map holds something else than the contents that are frozen in `spec`.
fn frozen_differs(spec: &MapSpec, live: &MapRef) -> bool {
    spec.frozen.is_some() && control::assumed_spec(&**live, &RunCx::CONTROL).frozen != spec.frozen
}

fn difference(assumed: &MapSpec, live: &MapSpec) -> Option<&'static str> {
    let inner_differs = match (&assumed.inner, &live.inner) {
        (Some(assumed), Some(live)) => difference(assumed, live).is_some(),
        (None, None) => false,
        (Some(_), None) | (None, Some(_)) => true,
    };
    let differences = [
        ("kind", live.kind != assumed.kind),
        ("key size", live.key_size != assumed.key_size),
        ("value size", live.value_size != assumed.value_size),
        ("capacity", live.max_entries != assumed.max_entries),
        ("flags", live.flags != assumed.flags),
        ("inner map", inner_differs),
        ("special fields", live.fields != assumed.fields),
    ];
    differences.into_iter().find(|(_, differs)| *differs).map(|(what, _)| what)
}

#[cfg(all(test, feature = "jit"))]
mod tests {
    use std::sync::Arc;

    use rtbpf_abi::{AttachType, MapKind, ProgType};
    use rtbpf_maps::{CreateCx, Object, create};

    use super::*;
    use crate::testing::program;
    use crate::{Config, Ctx, Engine};

    fn engine() -> Engine {
        Engine::new(Config::linux())
    }

    fn map(spec: &MapSpec) -> MapRef {
        create(spec, &CreateCx::new(2)).expect("the test's map can be made")
    }

    fn given(prog_type: ProgType, maps: &[&MapSpec]) -> Assumptions {
        let maps = maps.iter().map(|&spec| Arc::new(spec.clone())).collect();
        Assumptions { maps, ..Assumptions::new(prog_type) }
    }

    #[test]
    fn a_run_brings_the_bytes_that_were_proved() {
        let engine = engine();
        let given = Assumptions { plain_ctx_bytes: 8, ..Assumptions::new(ProgType::Plain) };
        let verified = engine.verify(program("r0 = *(u64 *)(r1 + 0)\nexit"), given).unwrap();
        let native = engine.bind_native(verified, vec![]).unwrap();
        let run = |bytes: &[u8]| native.run(&mut engine.session(0), &mut Ctx::plain(bytes));
        assert_eq!(run(&[1, 0, 0, 0, 0, 0, 0, 0]).unwrap(), 1);
        assert!(matches!(run(&[1; 7]), Err(Error::ShortContext { needed: 8, given: 7 })));
    }

    #[test]
    fn fields_that_are_never_null_lead_somewhere() {
        let engine = engine();
        let getsockopt = Some(AttachType::CgroupGetsockopt);
        let cases = [
            (ProgType::FlowDissector, None, "r1 = *(u64 *)(r1 + 144)\nr0 = *(u16 *)(r1 + 0)\nexit"),
            (ProgType::CgroupSockopt, getsockopt, "r1 = *(u64 *)(r1 + 0)\nr0 = *(u32 *)(r1 + 4)\nr0 = 1\nexit"),
            (ProgType::RawTracepointWritable, None, "r1 = *(u64 *)(r1 + 0)\nr0 = *(u64 *)(r1 + 4088)\nexit"),
        ];
        for (prog_type, attach_type, text) in cases {
            let given = Assumptions { attach_type, ..Assumptions::new(prog_type) };
            let native = engine.bind_native(engine.verify(program(text), given).unwrap(), vec![]).unwrap();
            let run = native.run(&mut engine.session(0), &mut Ctx::bytes(prog_type, attach_type, &[]));
            assert!(run.is_ok(), "{}: {run:?}", prog_type.name());
        }
        let far = program("r1 = *(u64 *)(r1 + 0)\nr0 = *(u64 *)(r1 + 4096)\nexit");
        let verified = engine.verify(far, Assumptions::new(ProgType::RawTracepointWritable)).unwrap();
        assert!(matches!(engine.bind_native(verified, vec![]), Err(Error::NoNativeCode(_))));
    }

    #[test]
    fn structures_of_the_kernel_are_read_without_checks_as_far_as_they_go() {
        let engine = engine();
        let spec = MapSpec::new(MapKind::Ringbuf, 0, 0, 1 << 17);
        let ring = map(&spec);
        let prog_type = ProgType::Kprobe;
        let loads = |off: i32| format!("call 158\nr0 += {off}\nr0 = *(u64 *)(r0 + 0)\nexit");
        let sends =
            |bytes: i32| format!("call 158\nr1 = map[idx:0] ll\nr2 = r0\nr3 = {bytes}\nr4 = 0\ncall 130\nr0 = 0\nexit");
        let cases = [(loads(4088), true), (loads(4096), false), (sends(4096), true), (sends(1 << 16), false)];
        for (text, fits) in cases {
            let given = Assumptions { gpl: true, ..given(prog_type, &[&spec]) };
            let verified = engine.verify(program(&text), given).expect("Linux takes it");
            let threaded = engine.bind_threaded(verified.clone(), vec![ring.clone()]);
            assert_eq!(threaded.is_ok(), fits, "{text}");
            match engine.bind_native(verified, vec![ring.clone()]) {
                Ok(native) => {
                    let run = native.run(&mut engine.session(0), &mut Ctx::bytes(prog_type, None, &[]));
                    assert!(fits && run.is_ok(), "{text}: {run:?}");
                }
                Err(error) => assert!(!fits && matches!(error, Error::NoNativeCode(_)), "{text}: {error}"),
            }
        }
    }

    #[test]
    fn programs_of_an_array_see_the_same_context() {
        let engine = engine();
        let spec = MapSpec::new(MapKind::ProgArray, 4, 4, 1);
        let array = map(&spec);
        let bind = |prog_type| {
            let caller = program("r2 = map[idx:0] ll\nr3 = 0\ncall 12\nr0 = 7\nexit");
            let verified = engine.verify(caller, given(prog_type, &[&spec])).unwrap();
            engine.bind(verified, vec![array.clone()])
        };
        let xdp = bind(ProgType::Xdp).unwrap();
        assert!(matches!(bind(ProgType::SchedCls), Err(Error::MapDiffers { what: "the type of its programs", .. })));
        array.update_object(&RunCx::CONTROL, &[0; 4], &Object::Prog(xdp.as_prog()), 0).unwrap();
        let shorter = Assumptions { plain_ctx_bytes: 4, ..Assumptions::new(ProgType::Plain) };
        let plain = engine.bind(engine.verify(program("r0 = 0\nexit"), shorter).unwrap(), vec![]).unwrap();
        assert!(array.update_object(&RunCx::CONTROL, &[0; 4], &Object::Prog(plain.as_prog()), 0).is_err());
    }

    #[test]
    fn programs_of_an_array_have_one_attach_type() {
        let engine = engine();
        let spec = MapSpec::new(MapKind::ProgArray, 4, 4, 1);
        let array = map(&spec);
        let bind = |text, attach_type, maps: Vec<MapRef>| {
            let specs: Vec<&MapSpec> = maps.iter().map(|_| &spec).collect();
            let given = Assumptions { attach_type: Some(attach_type), ..given(ProgType::CgroupSkb, &specs) };
            engine.bind(engine.verify(program(text), given).unwrap(), maps)
        };
        let caller = "r2 = map[idx:0] ll\nr3 = 0\ncall 12\nr0 = 1\nexit";
        assert!(bind(caller, AttachType::CgroupInetEgress, vec![array.clone()]).is_ok());
        let other = bind(caller, AttachType::CgroupInetIngress, vec![array.clone()]);
        assert!(matches!(other, Err(Error::MapDiffers { what: "the type of its programs", .. })));
        let put = |attach_type| {
            let callee = bind("r0 = 1\nexit", attach_type, vec![]).unwrap();
            array.update_object(&RunCx::CONTROL, &[0; 4], &Object::Prog(callee.as_prog()), 0)
        };
        assert!(put(AttachType::CgroupInetIngress).is_err());
        assert!(put(AttachType::CgroupInetEgress).is_ok());
    }

    #[test]
    fn live_maps_are_what_was_assumed() {
        let engine = engine();
        let outer = |bytes| MapSpec {
            inner: Some(Box::new(MapSpec::new(MapKind::Array, 4, bytes, 1))),
            ..MapSpec::new(MapKind::ArrayOfMaps, 4, 4, 1)
        };
        let differs = |assumed: &MapSpec, live: &MapSpec| {
            let text = program("r1 = map[idx:0] ll\nr0 = 0\nexit");
            let verified = engine.verify(text, given(ProgType::Xdp, &[assumed])).unwrap();
            match engine.bind(verified, vec![map(live)]) {
                Err(Error::MapDiffers { what, .. }) => Some(what),
                Err(other) => panic!("{other}"),
                Ok(_) => None,
            }
        };
        assert_eq!(differs(&outer(8), &outer(8)), None);
        assert_eq!(differs(&outer(16), &outer(8)), Some("inner map"));
        let plain = MapSpec { flags: rtbpf_abi::map_spec::flags::RDONLY_PROG, ..MapSpec::new(MapKind::Array, 4, 8, 1) };
        let frozen = MapSpec { frozen: Some(vec![1; 8].into()), ..plain.clone() };
        assert_eq!(differs(&plain, &plain), None);
        assert_eq!(differs(&frozen, &plain), Some("frozen contents"));
    }
}
