//! What programs see of the helpers, in the checked interpreter.

use std::sync::{Arc, Mutex};

use rtbpf_abi::{Errno, MapKind, MapSpec, ProgType, helper};
use rtbpf_maps::{CreateCx, MapRef, create};
use rtbpf_verifier::Assumptions;

use crate::world::{ProbeRange, World};
use crate::{Config, Ctx, Engine, Error};

fn world() -> World {
    World { probes: vec![ProbeRange { addr: 0x9000, bytes: b"probed\0".as_slice().into() }], ..World::default() }
}

fn run_in(world: World, maps: Vec<MapRef>, text: &str) -> Result<u64, Error> {
    let engine = Engine::new(Config { max_insns: Some(10_000), world, ..Config::linux() });
    let by_name = |name: &str| helper::by_name(name).map(|id| id.0 as i32);
    let assembly = rtbpf_isa::asm::assemble_with(text, &by_name).unwrap_or_else(|error| panic!("{text}: {error}"));
    let program = rtbpf_isa::decode(&assembly.slots).expect("the test's program decodes");
    let exe = engine.bind_unverified(program, Assumptions::new(ProgType::Plain), maps)?;
    exe.run(&mut engine.session(0), &mut Ctx::plain(&[0; 64]))
}

#[track_caller]
fn check(maps: &[MapRef], text: &str, result: u64) {
    assert_eq!(run_in(world(), maps.to_vec(), text).map_err(|e| e.to_string()), Ok(result), "{text}");
}

fn map(kind: MapKind, key: u32, value: u32, entries: u32) -> MapRef {
    create(&MapSpec::new(kind, key, value, entries), &CreateCx::new(2)).expect("the test's map is valid")
}

/// Instructions that put `bytes` on the stack at `r10 - at`.
fn store(at: usize, bytes: &[u8]) -> String {
    let line = |(i, byte): (usize, &u8)| format!("*(u8 *)(r10 - {}) = {byte}\n", at - i);
    bytes.iter().enumerate().map(line).collect()
}

#[test]
fn a_maps_pointer_shows_its_attributes() {
    let load = |off: u32| format!("r1 = map[fd:0] ll\nr0 = *(u32 *)(r1 + {off})\nexit");
    for (off, value) in [(64, 1), (68, 4), (72, 12), (76, 3)] {
        check(&[map(MapKind::Hash, 4, 12, 3)], &load(off), value);
    }
    assert!(run_in(world(), vec![map(MapKind::Hash, 4, 12, 3)], &load(312)).is_err());
}

#[test]
fn printed_lines_reach_the_sink() {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let sink = lines.clone();
    let world = World { trace: Arc::new(move |line: &str| sink.lock().unwrap().push(line.to_string())), ..world() };
    let text = store(16, b"%d %s\0")
        + &store(32, b"on stack\0")
        + "r1 = r10\nr1 += -16\nr2 = 6\nr3 = 42\nr4 = r10\nr4 += -32\ncall bpf_trace_printk\nexit";
    assert_eq!(run_in(world, vec![], &text).unwrap(), 11);
    assert_eq!(*lines.lock().unwrap(), ["42 on stack"]);
}

#[test]
fn numbers_and_strings_are_read_from_text() {
    let call = |name: &str| format!("r1 = r10\nr1 += -16\nr2 = 8\nr3 = 0\nr4 = r10\nr4 += -24\ncall {name}\n");
    check(&[], &(store(16, b" -0x10zz") + &call("bpf_strtol") + "exit"), 6);
    check(&[], &(store(16, b" -0x10zz") + &call("bpf_strtol") + "r0 = *(u64 *)(r10 - 24)\nexit"), -16i64 as u64);
    check(&[], &(store(16, b"-1      ") + &call("bpf_strtoul") + "exit"), Errno::EINVAL.as_ret());
}

#[test]
fn probes_read_what_is_there_and_nothing_else() {
    let call = |name: &str, addr: &str| {
        format!("*(u64 *)(r10 - 16) = -1\nr1 = r10\nr1 += -16\nr2 = 8\nr3 = {addr}\ncall {name}\n")
    };
    check(&[], &(call("bpf_probe_read_kernel_str", "0x9000") + "exit"), 7);
    check(&[], &(call("bpf_probe_read_user", "0x9001") + "exit"), Errno::EFAULT.as_ret());
    check(&[], &(call("bpf_probe_read_kernel", "0x9001") + "exit"), Errno::ERANGE.as_ret());
    check(&[], &(call("bpf_probe_read_kernel", "-8") + "exit"), Errno::EFAULT.as_ret());
    check(&[], &(call("bpf_probe_read_kernel", "0x9001") + "r0 = *(u64 *)(r10 - 16)\nexit"), 0);
    check(&[], &(call("bpf_probe_read_user", "r10\nr3 += -16") + "r0 = *(u64 *)(r10 - 16)\nexit"), u64::MAX);
}

#[test]
fn checksums_of_differences() {
    let text = "*(u32 *)(r10 - 4) = 0x12345678\nr1 = 0\nr2 = 0\nr3 = r10\nr3 += -4\nr4 = 4\nr5 = 0\n\
                call bpf_csum_diff\nexit";
    check(&[], text, 0x1234 + 0x5678);
}

#[test]
fn ring_buffer_records_arrive_when_submitted() {
    let ring = map(MapKind::Ringbuf, 0, 0, 4096);
    let reserve = "r1 = map[ring] ll\nr2 = 16\nr3 = 0\ncall bpf_ringbuf_reserve\nif r0 == 0 goto none\nr1 = r0\n\
                   r3 = 7\n*(u64 *)(r1 + 8) = r3\nr2 = 0\n";
    let end = "r0 = 1\nexit\nnone: r0 = 0\nexit";
    check(std::slice::from_ref(&ring), &format!("{reserve}call bpf_ringbuf_discard\n{end}"), 1);
    check(std::slice::from_ref(&ring), &format!("{reserve}call bpf_ringbuf_submit\n{end}"), 1);
    // A run that ends with a record in hand gives it back.
    let fault = format!("{reserve}r0 = *(u64 *)(r2 + 0)\n{end}");
    assert!(run_in(world(), vec![ring.clone()], &fault).is_err());
    let mut seen = Vec::new();
    let ring = super::ringbuf::ring(&*ring).unwrap();
    ring.consume(&mut |record| {
        seen.push(record.to_vec());
        true
    });
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0][8..], 7u64.to_le_bytes());
}

#[test]
fn a_record_is_gone_after_its_end() {
    let ring = map(MapKind::Ringbuf, 0, 0, 4096);
    let text = "r1 = map[ring] ll\nr2 = 16\nr3 = 0\ncall bpf_ringbuf_reserve\nr6 = r0\nr1 = r0\nr2 = 0\n\
                call bpf_ringbuf_submit\nr0 = *(u64 *)(r6 + 0)\nexit";
    assert!(matches!(run_in(world(), vec![ring], text), Err(Error::Fault(_))));
}

#[test]
fn dynptrs_cannot_be_forged() {
    let array = map(MapKind::Array, 4, 64, 1);
    let make = "r1 = map[array] ll\nr2 = r10\nr2 += -4\n*(u32 *)(r2 + 0) = 0\ncall bpf_map_lookup_elem\n\
                if r0 == 0 goto none\nr1 = r0\nr2 = 32\nr3 = 0\nr4 = r10\nr4 += -24\ncall bpf_dynptr_from_mem\n";
    let write = "*(u64 *)(r10 - 32) = 9\nr1 = r10\nr1 += -24\nr2 = 24\nr3 = r10\nr3 += -32\nr4 = 8\nr5 = 0\n\
                 call bpf_dynptr_write\n";
    let end = "exit\nnone: r0 = -1\nexit";
    let maps = std::slice::from_ref(&array);
    check(maps, &format!("{make}{write}{end}"), 0);
    check(maps, &format!("{make}{}{end}", write.replace("r2 = 24", "r2 = 25")), Errno::E2BIG.as_ret());
    let slice = "r1 = r10\nr1 += -24\nr2 = 24\nr3 = 8\ncall bpf_dynptr_data\nr0 = *(u64 *)(r0 + 0)\n";
    check(maps, &format!("{make}{write}{slice}{end}"), 9);
    let forge = "*(u64 *)(r10 - 24) = 77\n";
    check(maps, &format!("{make}{forge}{write}{end}"), Errno::EINVAL.as_ret());
}

#[test]
fn the_stack_outlives_a_dynptr_that_is_given_back() {
    let ring = map(MapKind::Ringbuf, 0, 0, 4096);
    let text = "r1 = map[ring] ll\nr2 = 8\nr3 = 0\nr4 = r10\nr4 += -24\ncall bpf_ringbuf_reserve_dynptr\n\
                r1 = r10\nr1 += -24\nr2 = 0\ncall bpf_ringbuf_discard_dynptr\n\
                *(u64 *)(r10 - 32) = 5\nr0 = *(u64 *)(r10 - 32)\nexit";
    check(&[ring], text, 5);
}
