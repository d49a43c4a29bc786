//! Inputs for runs that no kernel takes part in: packets and contexts of the kinds that need nothing but bytes.

use rtbpf_abi::ProgType;
use rtbpf_abi::ctx::{FieldKind, layout_of};

use crate::generate::Case;
use crate::rng::Rng;

/// What a program is run on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input {
    /// A packet, as Linux's test run takes it.
    Packet(Vec<u8>),
    /// The bytes of the context.
    Ctx(Vec<u8>),
}

/// `count` inputs for `case`: its own first, then random ones. None for kinds whose contexts hold pointers to what only
/// a kernel has.
pub fn inputs(case: &Case, rng: &mut Rng, count: usize) -> Vec<Input> {
    let packets = matches!(
        case.prog_type(),
        ProgType::Xdp
            | ProgType::SchedCls
            | ProgType::SchedAct
            | ProgType::SocketFilter
            | ProgType::CgroupSkb
            | ProgType::LwtIn
            | ProgType::LwtOut
            | ProgType::LwtXmit
    );
    if packets {
        let own = case.packets.iter().cloned();
        let random = std::iter::repeat_with(|| {
            let len = 14 + rng.below(120) as usize;
            let mut packet = rng.bytes(len);
            packet[12..14].copy_from_slice(&[0x88, 0xb5]);
            packet
        });
        return own.chain(random).take(count).map(Input::Packet).collect();
    }
    let Some(layout) = layout_of(case.kind) else { return Vec::new() };
    let plain = layout.open.is_some() || layout.fields.iter().all(|field| field.kind == FieldKind::Scalar);
    let len = layout.open.map_or(layout.size, |open| open.end.min(512));
    if plain { (0..count).map(|_| Input::Ctx(rng.bytes(usize::from(len)))).collect() } else { Vec::new() }
}
