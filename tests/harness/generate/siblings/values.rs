//! Values of every kind, made in a few lines.

use rtbpf_abi::ProgType;
use rtbpf_abi::ctx::{FieldKind, layout_of};

use super::{EDGES, MAPS, Sibling};

/// What a register holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Constant,
    Unknown,
    Small,
    Word,
    Signed,
    Ctx,
    MovedCtx,
    Stack,
    MovedStack,
    Value,
    VariableValue,
    FixedValue,
    HiddenValue,
    Lookup,
    UncheckedLookup,
    Map,
    Packet,
    CheckedPacket,
    PacketEnd,
    Record,
    UncheckedRecord,
    Socket,
    UncheckedSocket,
    Nothing,
}

/// Every kind, those with which most can be done more than once.
#[rustfmt::skip]
const KINDS: [Kind; 40] = [
    Kind::Constant, Kind::Constant, Kind::Unknown, Kind::Small, Kind::Small, Kind::Small, Kind::Word, Kind::Signed,
    Kind::Ctx, Kind::Ctx, Kind::MovedCtx, Kind::Stack, Kind::Stack, Kind::Stack, Kind::MovedStack, Kind::Value,
    Kind::Value, Kind::Value, Kind::VariableValue, Kind::VariableValue, Kind::FixedValue, Kind::HiddenValue,
    Kind::Lookup, Kind::Lookup, Kind::Lookup, Kind::UncheckedLookup, Kind::Map, Kind::Packet, Kind::CheckedPacket,
    Kind::CheckedPacket, Kind::CheckedPacket, Kind::PacketEnd, Kind::Record, Kind::Record, Kind::UncheckedRecord,
    Kind::Socket, Kind::Socket, Kind::UncheckedSocket, Kind::Small, Kind::Nothing,
];

impl Kind {
    /// Whether it points to what programs may load.
    pub fn is_memory(self) -> bool {
        match self {
            Kind::Ctx | Kind::Stack | Kind::MovedStack | Kind::Value | Kind::VariableValue | Kind::FixedValue => true,
            Kind::Lookup | Kind::CheckedPacket | Kind::Record | Kind::Socket => true,
            Kind::Constant | Kind::Unknown | Kind::Small | Kind::Word | Kind::Signed | Kind::MovedCtx => false,
            Kind::HiddenValue | Kind::UncheckedLookup | Kind::Map | Kind::Packet | Kind::PacketEnd => false,
            Kind::UncheckedRecord | Kind::UncheckedSocket | Kind::Nothing => false,
        }
    }
}

impl Kind {
    /// Whether it is a number from the start.
    pub fn is_number(self) -> bool {
        matches!(self, Kind::Constant | Kind::Unknown | Kind::Small | Kind::Word | Kind::Signed)
    }
}

impl Sibling<'_> {
    pub(super) fn any_kind(&mut self) -> Kind {
        self.rng.pick(&KINDS)
    }

    /// Puts a value of `kind` into `reg`, R7 or R8. Where programs of this kind have none, a small number.
    pub(super) fn value(&mut self, kind: Kind, reg: &str) {
        let text = match kind {
            Kind::Constant => format!("{reg} = {}", self.rng.pick(&EDGES)),
            Kind::Unknown => format!("call 5\n{reg} = r0"),
            Kind::Small => format!("call 7\n{reg} = r0\n{reg} &= {}", self.rng.pick(&[1, 3, 7, 8, 63, 255])),
            Kind::Word => format!("call 7\n{reg} = r0"),
            Kind::Signed => format!("call 5\n{reg} = r0\n{reg} s>>= {}", self.rng.pick(&[63, 60, 32])),
            Kind::Ctx => format!("{reg} = r6"),
            Kind::MovedCtx => format!("{reg} = r6\n{reg} += {}", self.rng.pick(&[1, 4, 8, -4])),
            Kind::Stack => {
                format!("{reg} = r10\n{reg} += -{}", self.rng.pick(&[8, 16, 32, 64, 64, 64, 64, 72, 512, 520]))
            }
            Kind::MovedStack => format!("call 7\n{reg} = r0\n{reg} &= 24\n{reg} += -64\n{reg} += r10"),
            Kind::Value => format!("{reg} = map[one][0]+{} ll", self.rng.pick(&[0, 0, 0, 8, 56, 63])),
            Kind::VariableValue => {
                let mask = self.rng.pick(&[7, 31, 63]);
                format!("call 7\nr0 &= {mask}\n{reg} = map[one][0]+0 ll\n{reg} += r0")
            }
            Kind::FixedValue => format!("{reg} = map[readonly][0]+0 ll"),
            Kind::HiddenValue => format!("{reg} = map[writeonly][0]+0 ll"),
            Kind::Lookup | Kind::UncheckedLookup => {
                let map = self.rng.pick(&["hash", "wide", "array", "lru", "percpu_array", "lpm"]);
                let test = if kind == Kind::Lookup { "if r0 == 0 goto out\n" } else { "" };
                format!("r1 = map[{map}] ll\nr2 = r10\nr2 += -16\ncall 1\n{test}{reg} = r0")
            }
            Kind::Map => format!("{reg} = map[{}] ll", self.rng.pick(MAPS)),
            Kind::Packet | Kind::CheckedPacket | Kind::PacketEnd => match self.packet() {
                Some((size, data, end)) => {
                    let packet = format!("{reg} = *({size} *)(r6 + {data})");
                    match kind {
                        Kind::PacketEnd => format!("{reg} = *({size} *)(r6 + {end})"),
                        Kind::CheckedPacket => {
                            let bytes = self.rng.pick(&[1, 8, 14, 64]);
                            let test = self.rng.pick(&["r2 > r3", "r2 > r3", "r2 >= r3", "r3 < r2", "r3 <= r2"]);
                            format!(
                                "{packet}\nr3 = *({size} *)(r6 + {end})\nr2 = {reg}\nr2 += {bytes}\nif {test} goto out"
                            )
                        }
                        _ => packet,
                    }
                }
                None => format!("{reg} = 2"),
            },
            Kind::Record | Kind::UncheckedRecord => {
                let bytes = self.rng.pick(&[8, 16, 64]);
                let reserve = format!("r1 = map[ring] ll\nr2 = {bytes}\nr3 = 0\ncall 131");
                if kind == Kind::UncheckedRecord {
                    format!("{reserve}\n{reg} = r0")
                } else {
                    // Kept on the stack, so that it can be given back whatever becomes of the register.
                    let slot = self.label().trim_start_matches('l').parse::<i32>().unwrap_or(0) % 8 * 8 + 128;
                    let have = self.label();
                    let give = "goto out";
                    let text = format!(
                        "{reserve}\nif r0 != 0 goto {have}\n{give}\n{have}:\n*(u64 *)(r10 - {slot}) = r0\n{reg} = r0"
                    );
                    if self.held.is_empty() {
                        self.held.push((format!("*(u64 *)(r10 - {slot})"), 133));
                        text
                    } else {
                        format!("{reg} = 2")
                    }
                }
            }
            Kind::Socket | Kind::UncheckedSocket => match self.socket() {
                Some(off) => {
                    let test = if kind == Kind::Socket { format!("\nif {reg} == 0 goto out") } else { String::new() };
                    format!("{reg} = *(u64 *)(r6 + {off}){test}")
                }
                None => format!("{reg} = 2"),
            },
            Kind::Nothing => return,
        };
        self.line(text);
    }

    /// Size and offsets of the packet's first byte and end in the context.
    fn packet(&self) -> Option<(&'static str, u16, u16)> {
        let fields = layout_of(self.kind)?.fields;
        let of = |kind| fields.iter().find(|f| f.kind == kind && f.reads.0 != 0);
        let (data, end) = (of(FieldKind::PacketData)?, of(FieldKind::PacketEnd)?);
        Some((if data.size == 8 { "u64" } else { "u32" }, data.offset, end.offset))
    }

    /// Offset of a socket in the context.
    fn socket(&self) -> Option<u16> {
        let nullable = |kind| matches!(kind, FieldKind::SockCommonOrNull | FieldKind::SockOrNull);
        let fields = layout_of(self.kind)?.fields;
        fields.iter().find(|f| nullable(f.kind) && f.reads.0 != 0).map(|f| f.offset)
    }

    /// Whether helpers take sockets by a lookup here.
    pub(super) fn looks_up_sockets(&self) -> bool {
        matches!(self.kind.prog_type(), ProgType::SchedCls | ProgType::SchedAct | ProgType::Xdp)
    }
}
