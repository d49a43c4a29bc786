//! Classic filters.

use rtbpf_isa::classic::{ClassicInsn, ClassicKind, to_ebpf};
use rtbpf_isa::decode;

use crate::rng::Rng;
use crate::{classic, oracle};

/// A filter, as `struct sock_filter`s.
pub fn bytes(rng: &mut Rng) -> Vec<u8> {
    let filter = classic::random_filter(rng);
    let bytes = filter.iter().flat_map(|insn| {
        let ([code0, code1], k) = (insn.code.to_le_bytes(), insn.k.to_le_bytes());
        [code0, code1, insn.jt, insn.jf, k[0], k[1], k[2], k[3]]
    });
    bytes.collect()
}

/// What converts is a program that does what the filter does; text that is no dump is refused.
pub fn check(data: &[u8]) -> bool {
    let mut converted = false;
    drop(ClassicInsn::parse_dump(&String::from_utf8_lossy(data)));
    let filter: Vec<ClassicInsn> = data.as_chunks::<8>().0.iter().map(|b| ClassicInsn::from_le_bytes(*b)).collect();
    let mut context: Vec<u8> = (0..192).map(|byte| byte as u8).collect();
    context[16..20].copy_from_slice(&[8, 0, 0, 0]);
    context[..4].copy_from_slice(&64u32.to_le_bytes());
    let packet = [0x45; 64];
    for kind in [ClassicKind::SocketFilter, ClassicKind::Seccomp] {
        let Ok(slots) = to_ebpf(&filter, kind).inspect_err(|e| drop(e.to_string())) else { continue };
        converted = true;
        decode(&slots).unwrap_or_else(|e| panic!("{filter:x?}: {e}"));
        let seen = (kind == ClassicKind::SocketFilter).then_some(&packet[..]);
        let got = oracle::run(&slots, &mut context.clone(), &packet, 100_000);
        // Loads from before the packet's start, and helpers, are not known here.
        if let (Some(want), Ok(got)) = (classic::run(&filter, &context, seen), got) {
            assert_eq!(got, want as u64, "{filter:x?}");
        }
    }
    converted
}
