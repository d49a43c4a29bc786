//! Loads an XDP object, runs it on a packet, reads its map: `cargo run -p rtbpf-examples --bin packet_counter`.

use rtbpf::loader::{Object, ParseOptions};
use rtbpf::rt::RunCx;
use rtbpf::{Config, Ctx, Engine, Instance, Proof};

/// An IPv4 UDP packet behind an Ethernet header.
fn udp_packet() -> Vec<u8> {
    let mut packet = vec![0xff; 12];
    packet.extend([0x08, 0x00, 0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    packet.extend([0x30, 0x39, 0, 53, 0, 12, 0, 0, 1, 2, 3, 4]);
    packet.resize(60, 0);
    packet
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let bytes = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/xdp_counter.bpf.o"))?;
    let object = Object::parse(&bytes, &ParseOptions { name: "xdp_counter", ..ParseOptions::default() })?;

    let engine = Engine::new(Config::linux());
    let mut instance = Instance::new(&engine, object, Proof::Required)?;
    let program = instance.program("count")?;
    let mut session = engine.session(0);
    for _ in 0..3 {
        let mut ctx = Ctx::test_run(program.prog_type(), program.attach_type(), &udp_packet(), &[])?;
        let verdict = program.run(&mut session, &mut ctx)?;
        assert_eq!(verdict, 2, "XDP_PASS");
    }

    let by_protocol = instance.map("by_protocol").ok_or("the object has this map")?;
    let mut value = Vec::new();
    by_protocol.read(&RunCx::CONTROL, &17u32.to_le_bytes(), 0, &mut value)?;
    let packets = value.first_chunk().map(|count| u64::from_le_bytes(*count));
    println!("UDP packets on CPU 0: {}", packets.unwrap_or_default());
    Ok(())
}
