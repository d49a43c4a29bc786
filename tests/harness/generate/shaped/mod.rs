//! Programs built one instruction at a time under a light abstract state, so that most are accepted and reach the deep
//! checks: bounded pointers, helper calls, loops, spills, subprograms.
//!
//! A program is a series of *steps*, each some instructions and the change of state they mean. Steps that branch write
//! their arms as series of their own and join the states. Subprograms and callbacks wait in a queue and are written
//! behind the code that names them.

mod alu;
mod call;
mod flow;
mod helper;
mod memory;
mod state;

use rtbpf_abi::ctx::{CtxLayout, FieldKind, layout_of};
use rtbpf_abi::{MapKind, ProgKind, ProgType};
use rtbpf_isa::{AluOp, Insn, Reg, Size};

use super::Rng;
use super::case::{Case, CaseMap};
use super::code::{Code, Label};
use state::{State, Value};

/// Kinds of program and their weights.
#[rustfmt::skip]
const KINDS: &[(ProgKind, u64)] = &[
    (ProgKind::Xdp,              20),
    (ProgKind::SchedCls,         20),
    (ProgKind::SocketFilter,     12),
    (ProgKind::CgroupSkbIngress,  6),
    (ProgKind::CgroupSkbEgress,   3),
    (ProgKind::Kprobe,            5),
    (ProgKind::Tracepoint,        5),
    (ProgKind::PerfEvent,         2),
    (ProgKind::RawTp,             3),
    (ProgKind::RawTpWritable,     1),
    (ProgKind::SchedAct,          2),
    (ProgKind::LwtIn,             1),
    (ProgKind::LwtOut,            1),
    (ProgKind::LwtXmit,           2),
    (ProgKind::SockOps,           2),
    (ProgKind::SkSkbVerdict,      2),
    (ProgKind::SkSkbParser,       1),
    (ProgKind::SkMsg,             2),
    (ProgKind::CgroupSockCreate,  1),
    (ProgKind::SockAddrConnect4,  2),
    (ProgKind::SockAddrBind6,     1),
    (ProgKind::SockoptGet,        1),
    (ProgKind::SockoptSet,        1),
    (ProgKind::CgroupDevice,      1),
    (ProgKind::CgroupSysctl,      1),
    (ProgKind::SkLookup,          1),
    (ProgKind::ReuseportSelect,   1),
    (ProgKind::FlowDissector,     2),
    (ProgKind::Syscall,           2),
];

/// A subprogram that is named but not yet written.
struct Pending {
    label: Label,
    /// R1 to R5 at its entry.
    args: [Value; 5],
    /// Called back by a helper: returns 0 or 1.
    callback: bool,
    depth: u32,
}

/// A program under construction.
struct Shaper<'r> {
    rng: &'r mut Rng,
    kind: ProgKind,
    layout: Option<&'static CtxLayout>,
    code: Code,
    maps: Vec<CaseMap>,
    state: State,
    pending: Vec<Pending>,
    /// Of the function that is being written: 0 for the entry.
    depth: u32,
    callback: bool,
    /// Nesting of arms and loops.
    nesting: u32,
    in_loop: bool,
    ids: u32,
    /// The result follows from the input.
    deterministic: bool,
}

/// A program of `seed`'s stream. `None` when it does not fit its jump offsets.
pub fn case(rng: &mut Rng, name: String) -> Option<Case> {
    let kind = weighted(rng, KINDS);
    let mut shaper = Shaper {
        kind,
        layout: layout_of(kind),
        code: Code::default(),
        maps: Vec::new(),
        state: State::new(),
        pending: Vec::new(),
        depth: 0,
        callback: false,
        nesting: 0,
        in_loop: false,
        ids: 0,
        deterministic: true,
        rng,
    };
    shaper.entry();
    while let Some(next) = shaper.pending.pop() {
        shaper.subprogram(next);
    }
    let insns = shaper.code.assemble()?;
    let (maps, deterministic) = (shaper.maps, shaper.deterministic);
    let packets = if deterministic && runs_on_packets(kind) { packets(rng) } else { Vec::new() };
    let prog_flags = match rng.below(40) {
        0 => 1,
        1 => 2,
        2..5 => 8,
        _ => 0,
    };
    let typed = !rng.chance(1, 50);
    Some(Case { name, kind, prog_flags, insns, maps, typed, packets })
}

/// One of `items` by weight.
fn weighted<T: Copy>(rng: &mut Rng, items: &[(T, u64)]) -> T {
    let mut at = rng.below(items.iter().map(|(_, weight)| weight).sum());
    for &(item, weight) in items {
        if at < weight {
            return item;
        }
        at -= weight;
    }
    items[0].0
}

/// Whether a test run hands programs of this kind a packet and answers with a number and the packet.
fn runs_on_packets(kind: ProgKind) -> bool {
    matches!(
        kind.prog_type(),
        ProgType::Xdp | ProgType::SchedCls | ProgType::SchedAct | ProgType::SocketFilter | ProgType::CgroupSkb
    )
}

/// Two packets: an Ethernet and IPv4 frame, and one of random bytes behind another ethertype.
fn packets(rng: &mut Rng) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    for ipv4 in [true, false] {
        let len = 14 + 20 + rng.below(90) as usize;
        let mut packet: Vec<u8> = (0..len).map(|_| rng.bits() as u8).collect();
        packet[12..14].copy_from_slice(if ipv4 { &[0x08, 0x00] } else { &[0x88, 0xb5] });
        if ipv4 {
            packet[14] = 0x45;
            packet[16..18].copy_from_slice(&((len - 14) as u16).to_be_bytes());
        }
        out.push(packet);
    }
    out
}

impl Shaper<'_> {
    fn entry(&mut self) {
        self.state.set(Reg::R1, Value::Ctx);
        if !self.rng.chance(1, 12) {
            self.code.mov(Reg::R6, Reg::R1);
            self.state.set(Reg::R6, Value::Ctx);
            self.state.lock(Reg::R6);
        }
        self.seed_scalars();
        // Short ones more often than long ones.
        let most = 3 + self.rng.below(14);
        let steps = 2 + self.rng.below(most);
        self.series(steps);
        self.state.locked = 0;
        self.finish();
    }

    fn subprogram(&mut self, next: Pending) {
        self.code.bind(next.label);
        self.state = State::new();
        self.state.regs[1..6].copy_from_slice(&next.args);
        (self.depth, self.callback, self.nesting, self.in_loop) = (next.depth, next.callback, 0, next.callback);
        for (to, from) in [(Reg::R6, Reg::R1), (Reg::R7, Reg::R2), (Reg::R8, Reg::R3)] {
            if self.state.get(from) != Value::Dead && self.rng.chance(2, 3) {
                self.code.mov(to, from);
                self.state.set(to, self.state.get(from));
            }
        }
        let steps = 1 + self.rng.below(5);
        self.series(steps);
        self.leave();
    }

    /// Gives some registers numbers to begin with.
    fn seed_scalars(&mut self) {
        for reg in [Reg::R0, Reg::R7, Reg::R8, Reg::R9] {
            if self.rng.chance(2, 3) {
                let value = self.rng.edge();
                self.code.constant(reg, value);
                self.state.set(reg, Value::Scalar(value, value));
            }
        }
    }

    /// `n` steps.
    fn series(&mut self, n: u64) {
        for _ in 0..n {
            if self.code.len() > 400 {
                return;
            }
            self.step();
        }
    }

    fn step(&mut self) {
        #[derive(Clone, Copy)]
        enum Step {
            Alu,
            Ctx,
            Stack,
            StackVariable,
            Spill,
            Mem,
            Packet,
            Lookup,
            Direct,
            Helper,
            Branch,
            Loop,
            Subprogram,
            Legacy,
        }
        #[rustfmt::skip]
        let steps: &[(Step, u64)] = &[
            (Step::Alu,           30),
            (Step::Ctx,            8),
            (Step::Stack,         10),
            (Step::StackVariable,  5),
            (Step::Spill,         10),
            (Step::Mem,           12),
            (Step::Packet,        10),
            (Step::Lookup,         8),
            (Step::Direct,         4),
            (Step::Helper,        16),
            (Step::Branch,        16),
            (Step::Loop,           5),
            (Step::Subprogram,     4),
            (Step::Legacy,         1),
        ];
        match weighted(self.rng, steps) {
            Step::Alu => self.arithmetic(),
            Step::Ctx => self.context(),
            Step::Stack => self.stack_access(),
            Step::StackVariable => self.stack_variable(),
            Step::Spill => self.spill_or_fill(),
            Step::Mem => self.memory_access(),
            Step::Packet => self.packet(),
            Step::Lookup => self.lookup(),
            Step::Direct => self.direct_value(),
            Step::Helper => self.any_helper(),
            Step::Branch => self.branch(),
            Step::Loop => self.a_loop(),
            Step::Subprogram => self.call_subprogram(),
            Step::Legacy => self.legacy_packet(),
        }
    }

    /// A register that may be overwritten; numbers and dead registers are taken before pointers.
    fn target(&mut self) -> Reg {
        let free: Vec<Reg> = Reg::ALL.into_iter().filter(|&reg| self.state.is_free(reg)).collect();
        let cheap: Vec<Reg> =
            free.iter().copied().filter(|&r| matches!(self.state.get(r), Value::Dead | Value::Scalar(..))).collect();
        if !cheap.is_empty() && !self.rng.chance(1, 20) { self.rng.pick(&cheap) } else { self.rng.pick(&free) }
    }

    /// A register that holds a number, making one where there is none.
    fn scalar(&mut self) -> Reg {
        let scalars = self.state.registers(Value::is_scalar);
        if let Some(reg) = self.rng.choose(&scalars) {
            return reg;
        }
        let reg = self.target();
        let value = self.rng.edge();
        self.code.constant(reg, value);
        self.state.set(reg, Value::Scalar(value, value));
        reg
    }

    /// A fresh name for memory or a packet base.
    fn id(&mut self) -> u32 {
        self.ids += 1;
        self.ids
    }

    /// The index of a map of `kind`, made when the case has none.
    fn a_map(&mut self, kind: MapKind) -> usize {
        if let Some(found) = self.maps.iter().position(|map| map.spec.kind == kind)
            && !self.rng.chance(1, 4)
        {
            return found;
        }
        let size = self.rng.pick(&[8, 16, 24, 40, 64]);
        let entries = self.rng.pick(&[1, 2, 4, 5, 8]);
        use MapKind as K;
        let mut map = match kind {
            K::Array | K::PercpuArray => CaseMap::new(kind, 4, size, entries),
            K::Ringbuf | K::UserRingbuf => CaseMap::new(kind, 0, 0, 4096),
            K::Queue | K::Stack | K::BloomFilter => CaseMap::new(kind, 0, size, entries),
            K::ProgArray | K::PerfEventArray | K::CgroupArray | K::Devmap | K::Cpumap | K::Xskmap => {
                CaseMap::new(kind, 4, 4, 4)
            }
            K::DevmapHash | K::Sockmap | K::Sockhash | K::ReuseportSockarray => CaseMap::new(kind, 4, 4, 4),
            K::LpmTrie => CaseMap::new(kind, 8, size, entries),
            K::StackTrace => CaseMap::new(kind, 4, 64, 4),
            _ => CaseMap::new(kind, self.rng.pick(&[4, 8, 12]), size, entries),
        };
        if kind == K::LpmTrie {
            map.spec.flags = rtbpf_abi::map_spec::flags::NO_PREALLOC;
        }
        self.maps.push(map);
        self.maps.len() - 1
    }

    /// The index of an array of one value, whose address a program may name.
    fn a_variable(&mut self) -> usize {
        let found = self.maps.iter().position(|map| map.spec.kind == MapKind::Array && map.spec.max_entries == 1);
        found.unwrap_or_else(|| {
            let size = self.rng.pick(&[8, 16, 40, 64]);
            self.maps.push(CaseMap::new(MapKind::Array, 4, size, 1));
            self.maps.len() - 1
        })
    }

    /// Stores what the entry knows to a map, and leaves.
    fn finish(&mut self) {
        let map = self.results();
        let live: Vec<Reg> = self.state.registers(Value::is_scalar);
        let spare = Reg::ALL.into_iter().take(10).find(|reg| !live.contains(reg)).unwrap_or(Reg::R9);
        self.code.map_value(spare, map, 0);
        self.state.set(spare, Value::Dead);
        let mut off = 0;
        for reg in live.into_iter().filter(|&reg| reg != spare) {
            self.code.store(Size::D, spare, off, reg);
            off += 8;
        }
        if let Some(temporary) = self.state.registers(|v| v == Value::Dead).into_iter().find(|&reg| reg != spare) {
            for slot in 0..state::SLOTS {
                if self.state.stack[slot].written() == 0xff {
                    self.code.load(Size::D, temporary, Reg::R10, -8 * (slot as i16 + 1));
                    self.code.store(Size::D, spare, off, temporary);
                    off += 8;
                }
            }
        }
        self.leave();
    }

    /// The map that takes results: one value wide enough for all registers and slots.
    fn results(&mut self) -> usize {
        let size = 8 * (10 + state::SLOTS as u32);
        self.maps.push(CaseMap::new(MapKind::Array, 4, size, 1));
        self.maps.len() - 1
    }

    /// Leaves the function with a result that its kind allows.
    fn leave(&mut self) {
        let scalars = self.state.registers(Value::is_scalar);
        let small = self.callback || self.depth == 0 && has_return_range(self.kind);
        match self.rng.choose(&scalars) {
            Some(reg) if !small && self.rng.chance(3, 4) => self.code.mov(Reg::R0, reg),
            Some(reg) if small && self.rng.chance(1, 4) => {
                self.code.mov(Reg::R0, reg);
                self.code.alu(AluOp::And, Reg::R0, 1);
            }
            _ => {
                let value = if self.callback { 0 } else { self.rng.below(2) as i32 };
                self.code.mov(Reg::R0, value);
            }
        }
        self.code.push(Insn::Exit);
    }

    /// A load or, where allowed, a store of a field of the context.
    fn context(&mut self) {
        let contexts = self.state.registers(|value| value == Value::Ctx);
        let (Some(base), Some(layout)) = (self.rng.choose(&contexts), self.layout) else { return };
        if let Some(open) = layout.open {
            let size = self.rng.pick(&[Size::B, Size::H, Size::W, Size::D]);
            let last = u32::from(open.end).min(96).saturating_sub(size.bytes());
            let off =
                (u32::from(open.first) + self.rng.below(u64::from(last) + 1) as u32) / size.bytes() * size.bytes();
            let dst = self.target();
            self.code.load(size, dst, base, off as i16);
            self.state.set(dst, Value::Scalar(0, ones(size)));
            return;
        }
        let fields: Vec<_> = layout.fields.iter().filter(|f| f.reads.0 != 0 || f.writes.0 != 0).collect();
        let Some(field) = self.rng.choose(&fields) else { return };
        let store = field.writes.0 != 0 && (field.reads.0 == 0 || self.rng.chance(1, 3));
        let sizes = if store { field.writes } else { field.reads };
        let sizes: Vec<Size> =
            [Size::B, Size::H, Size::W, Size::D].into_iter().filter(|size| sizes.has(size.bytes())).collect();
        let Some(size) = self.rng.choose(&sizes) else { return };
        let steps = (u32::from(field.size) / size.bytes()).max(1);
        let off = u32::from(field.offset) + size.bytes() * self.rng.below(u64::from(steps)) as u32;
        if store {
            let src = self.scalar();
            self.code.store(size, base, off as i16, src);
            return;
        }
        let dst = self.target();
        self.code.load(size, dst, base, off as i16);
        let value = match field.kind {
            FieldKind::Scalar => Value::Scalar(0, ones(size)),
            FieldKind::PacketData => Value::Packet { base: 0, off: 0, range: 0 },
            FieldKind::PacketEnd => Value::PacketEnd,
            _ => Value::Dead,
        };
        self.state.set(dst, value);
    }

    /// A legacy packet load, for the kinds that have it.
    fn legacy_packet(&mut self) {
        let skb = matches!(self.kind.prog_type(), ProgType::SocketFilter | ProgType::SchedCls | ProgType::SchedAct);
        if !skb || self.depth > 0 || self.state.get(Reg::R6) != Value::Ctx {
            return;
        }
        let size = self.rng.pick(&[Size::B, Size::H, Size::W]);
        let off = self.rng.below(40) as i32;
        let index = self.state.registers(Value::is_scalar).into_iter().next_back().filter(|_| self.rng.chance(1, 3));
        self.code.push(Insn::Packet { size, index, off });
        self.state.set(Reg::R0, Value::Scalar(0, ones(size)));
        self.state.clobber();
    }
}

/// The largest number of `size`.
fn ones(size: Size) -> u64 {
    u64::MAX >> (64 - size.bits())
}

/// Whether the entry's result is limited to few values.
fn has_return_range(kind: ProgKind) -> bool {
    !matches!(
        kind.prog_type(),
        ProgType::Xdp
            | ProgType::SchedCls
            | ProgType::SchedAct
            | ProgType::SocketFilter
            | ProgType::Kprobe
            | ProgType::Tracepoint
            | ProgType::PerfEvent
            | ProgType::Syscall
    )
}
