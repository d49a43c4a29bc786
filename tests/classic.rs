//! Classic filters and their conversions do the same.

use rtbpf_isa::classic::{ClassicInsn, ClassicKind, to_ebpf};
use rtbpf_isa::decode;
use rtbpf_tests::rng::Rng;
use rtbpf_tests::{classic, oracle};

/// Runs a filter both ways; whether Linux's rules let it run at all.
fn compare(filter: &[ClassicInsn], kind: ClassicKind, context: &[u8], packet: &[u8]) -> bool {
    let Ok(slots) = to_ebpf(filter, kind) else { return false };
    decode(&slots).unwrap_or_else(|e| panic!("{filter:x?}: {e}"));
    let seen = (kind == ClassicKind::SocketFilter).then_some(packet);
    let want = classic::run(filter, context, seen).unwrap_or_else(|| panic!("{filter:x?} has no result"));
    let got = oracle::run(&slots, &mut context.to_vec(), packet, 100_000);
    assert_eq!(got, Ok(want as u64), "{filter:x?}\ncontext {context:x?}\npacket {packet:x?}");
    true
}

#[test]
fn random_filters_and_their_conversions_agree() {
    let seed = 11;
    println!("seed {seed}");
    let mut rng = Rng::new(seed);
    for kind in [ClassicKind::SocketFilter, ClassicKind::Seccomp] {
        let mut runs = 0;
        for _ in 0..60_000 {
            let filter = classic::random_filter(&mut rng);
            let packet_bytes = rng.below(80) as usize;
            let packet = rng.bytes(packet_bytes);
            let mut context = rng.bytes(192);
            context[..4].copy_from_slice(&(packet.len() as u32).to_le_bytes());
            // Protocols are two bytes in fields of four.
            context[18..20].fill(0);
            context[30..32].fill(0);
            runs += compare(&filter, kind, &context, &packet) as u32;
        }
        println!("{kind:?}: {runs} filters ran");
        assert!(runs > 2000, "{kind:?}: only {runs} filters were valid");
    }
}

#[test]
fn a_filter_of_tcpdump_finds_its_packets() {
    // `tcpdump -dd udp port 53` on an Ethernet device.
    let dump = "
        { 0x28, 0, 0, 0x0000000c }, { 0x15, 0, 6, 0x000086dd }, { 0x30, 0, 0, 0x00000014 }, { 0x15, 0, 15, 0x00000011 },
        { 0x28, 0, 0, 0x00000036 }, { 0x15, 12, 0, 0x00000035 }, { 0x28, 0, 0, 0x00000038 }, { 0x15, 10, 11, 0x00000035 },
        { 0x15, 0, 10, 0x00000800 }, { 0x30, 0, 0, 0x00000017 }, { 0x15, 0, 8, 0x00000011 }, { 0x28, 0, 0, 0x00000014 },
        { 0x45, 6, 0, 0x00001fff }, { 0xb1, 0, 0, 0x0000000e }, { 0x48, 0, 0, 0x0000000e }, { 0x15, 2, 0, 0x00000035 },
        { 0x48, 0, 0, 0x00000010 }, { 0x15, 0, 1, 0x00000035 }, { 0x6, 0, 0, 0x00040000 }, { 0x6, 0, 0, 0x00000000 },
    ";
    let one_a_line = dump.replace("}, ", "},\n");
    let filter = ClassicInsn::parse_dump(&one_a_line).expect("twenty instructions");
    assert_eq!(filter.len(), 20);
    let slots = to_ebpf(&filter, ClassicKind::SocketFilter).unwrap();
    let verdict = |ethertype: u16, protocol: u8, port: u16| {
        let mut packet = vec![0; 60];
        packet[12..14].copy_from_slice(&ethertype.to_be_bytes());
        packet[14] = 0x45;
        packet[23] = protocol;
        packet[36..38].copy_from_slice(&port.to_be_bytes());
        oracle::run(&slots, &mut [0; 192], &packet, 1000)
    };
    assert_eq!(verdict(0x0800, 17, 53), Ok(0x40000));
    assert_eq!(verdict(0x0800, 17, 54), Ok(0));
    assert_eq!(verdict(0x0800, 6, 53), Ok(0));
    assert_eq!(verdict(0x0806, 17, 53), Ok(0));
}
