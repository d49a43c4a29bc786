//! Programs that call the helpers whose answer a test run fixes, with arguments at their edges, and keep every result
//! and buffer in an array: what the helper functions do, beside what the kernel's do.

use rtbpf_abi::{MapKind, ProgKind};
use rtbpf_isa::{Insn, Reg, Size};

use super::code::Code;
use super::{Case, CaseMap, Rng};

/// Words of the array's one value.
const WORDS: i16 = 128;

/// Bytes of initialised stack.
const STACK: i16 = 256;

/// An argument of a call.
#[derive(Clone, Copy)]
enum Arg {
    /// The context.
    Ctx,
    /// A stack buffer of 64 bytes: 0 and 1 are read, 2 and 3 written.
    Buf(i16),
    /// A number near one of the packet's own boundaries.
    Off,
    /// The size of the buffer before it: 1 to 64.
    Len,
    /// The size of the buffer before it, a multiple of 4, or 0.
    Len4,
    /// Any number that matters somewhere.
    Any,
    /// One of these.
    Of(&'static [i32]),
    /// A null pointer.
    Null,
}
use Arg::{Any, Buf, Ctx, Len, Len4, Null, Of, Off};

const SKB: &[ProgKind] = &[
    ProgKind::SocketFilter,
    ProgKind::SchedCls,
    ProgKind::SchedAct,
    ProgKind::CgroupSkbIngress,
    ProgKind::CgroupSkbEgress,
    ProgKind::LwtIn,
    ProgKind::LwtOut,
    ProgKind::LwtXmit,
];
const TC: &[ProgKind] = &[ProgKind::SchedCls, ProgKind::SchedAct];
const LWT: &[ProgKind] = &[ProgKind::SchedCls, ProgKind::SchedAct, ProgKind::LwtXmit];
const XDP: &[ProgKind] = &[ProgKind::Xdp];
const ALL: &[ProgKind] = &[
    ProgKind::SocketFilter,
    ProgKind::SchedCls,
    ProgKind::SchedAct,
    ProgKind::CgroupSkbIngress,
    ProgKind::CgroupSkbEgress,
    ProgKind::LwtIn,
    ProgKind::LwtOut,
    ProgKind::LwtXmit,
    ProgKind::Xdp,
];

/// A helper, the kinds of program that call it here, and its arguments.
struct Row(u32, &'static [ProgKind], &'static [Arg]);

const BITS: &[i32] = &[0, 1, 2, 3, 4, 8, 16, 32, 64, -1];
const FLAGS: &[i32] = &[0, 0, 0, 1, 2, 3, 4, 7, 8, -1];
const ETHER: &[i32] = &[0x0008, 0xdd86u32 as i32, 0x0081, 0xa888u32 as i32, 0x0608, 0, 0x800, 0x8100];
const DELTA: &[i32] = &[0, 1, -1, 4, -4, 8, 14, -14, 20, -20, 32, -32, 64, 128, 256, -256, 257, 4096, -4096, 70000];
const SIZES: &[i32] = &[0, 1, 13, 14, 15, 20, 33, 34, 35, 40, 54, 64, 65, 100, 128, 1500, 3000, 65535, 65536];

#[rustfmt::skip]
const ROWS: &[Row] = &[
    // Packets behind sockets.
    Row(9,   LWT, &[Ctx, Off, Buf(0), Len, Of(&[0, 0, 1, 2, 3, 4])]),           // skb_store_bytes
    Row(26,  SKB, &[Ctx, Off, Buf(2), Len]),                                    // skb_load_bytes
    Row(68,  SKB, &[Ctx, Off, Buf(2), Len, Of(&[0, 1, 0, 1, 2])]),              // skb_load_bytes_relative
    Row(10,  LWT, &[Ctx, Off, Any, Any, Of(&[0, 2, 4, 2, 4, 1, 8])]),           // l3_csum_replace
    Row(11,  LWT, &[Ctx, Off, Any, Any, Of(&[0, 2, 4, 0x12, 0x22, 0x40, 0x14, 0x24, 0x60, 1, 0x80])]), // l4_csum_replace
    Row(40,  LWT, &[Ctx, Any]),                                                 // csum_update
    Row(135, TC,  &[Ctx, Of(&[0, 1, 2, 3, 4, -1])]),                            // csum_level
    Row(18,  TC,  &[Ctx, Of(ETHER), Any]),                                      // skb_vlan_push
    Row(19,  TC,  &[Ctx]),                                                      // skb_vlan_pop
    Row(31,  TC,  &[Ctx, Of(ETHER), Of(FLAGS)]),                                // skb_change_proto
    Row(32,  TC,  &[Ctx, Of(&[0, 1, 2, 3, 4, 5, 7, -1])]),                      // skb_change_type
    Row(38,  LWT, &[Ctx, Of(SIZES), Of(FLAGS)]),                                // skb_change_tail
    Row(43,  LWT, &[Ctx, Of(DELTA), Of(FLAGS)]),                                // skb_change_head
    Row(50,  TC,  &[Ctx, Of(DELTA), Of(&[0, 1, 2]), Of(&[0, 0, 1, 2, 4, 8, 16, 32, 64, 128, 256, -1])]), // skb_adjust_room
    Row(39,  SKB, &[Ctx, Of(SIZES)]),                                           // skb_pull_data
    Row(41,  TC,  &[Ctx]),                                                      // set_hash_invalid
    Row(48,  TC,  &[Ctx, Any]),                                                 // set_hash
    Row(17,  SKB, &[Ctx]),                                                      // get_cgroup_classid
    Row(24,  SKB, &[Ctx]),                                                      // get_route_realm
    Row(20,  LWT, &[Ctx, Buf(2), Of(&[16, 20, 28, 32, 40, 44, 64, 4, 1]), Of(FLAGS)]), // skb_get_tunnel_key
    Row(21,  LWT, &[Ctx, Buf(0), Of(&[16, 20, 28, 32, 40, 44, 64, 4, 1]), Of(&[0, 1, 2, 4, 8, 16, 32])]), // skb_set_tunnel_key
    Row(29,  LWT, &[Ctx, Buf(2), Len]),                                         // skb_get_tunnel_opt
    Row(97,  SKB, &[Ctx]),                                                      // skb_ecn_set_ce
    Row(192, TC,  &[Ctx, Any, Of(&[0, 1, 2, 3, -1])]),                          // skb_set_tstamp
    Row(79,  SKB, &[Ctx]),                                                      // skb_cgroup_id
    Row(46,  SKB, &[Ctx]),                                                      // get_socket_cookie
    Row(47,  SKB, &[Ctx]),                                                      // get_socket_uid
    Row(163, TC,  &[Ctx, Of(&[0, 1, 9999]), Buf(0), Of(&[0, 100, -100, 2000]), Of(&[0, 1, 2])]), // check_mtu
    // Packets behind drivers.
    Row(44,  XDP, &[Ctx, Of(DELTA)]),                                           // xdp_adjust_head
    Row(54,  XDP, &[Ctx, Of(DELTA)]),                                           // xdp_adjust_meta
    Row(65,  XDP, &[Ctx, Of(DELTA)]),                                           // xdp_adjust_tail
    Row(188, XDP, &[Ctx]),                                                      // xdp_get_buff_len
    Row(189, XDP, &[Ctx, Off, Buf(2), Len]),                                    // xdp_load_bytes
    Row(190, XDP, &[Ctx, Off, Buf(0), Len]),                                    // xdp_store_bytes
    Row(163, XDP, &[Ctx, Of(&[0, 1, 9999]), Buf(0), Of(&[0, 100, -100, 2000]), Of(&[0, 1, 2])]), // check_mtu
    Row(23,  XDP, &[Of(&[0, 1, 7]), Of(FLAGS)]),                                // redirect
    Row(23,  TC,  &[Of(&[0, 1, 7]), Of(FLAGS)]),
    // Numbers and text.
    Row(28,  ALL, &[Buf(0), Len4, Buf(1), Len4, Any]),                          // csum_diff
    Row(28,  ALL, &[Null, Of(&[0]), Buf(1), Len4, Any]),
    Row(28,  ALL, &[Buf(0), Len4, Null, Of(&[0]), Any]),
    Row(105, ALL, &[Buf(0), Len, Of(&[0, 8, 10, 16, 1, 2, 36]), Buf(2)]),       // strtol
    Row(106, ALL, &[Buf(0), Len, Of(&[0, 8, 10, 16, 1, 2, 36]), Buf(2)]),       // strtoul
    Row(105, ALL, &[Buf(1), Len, Of(&[0, 8, 10, 16]), Buf(2)]),
    Row(106, ALL, &[Buf(1), Len, Of(&[0, 8, 10, 16]), Buf(2)]),
    Row(113, ALL, &[Buf(2), Len, Buf(0)]),                                      // probe_read_kernel
    Row(115, ALL, &[Buf(2), Len, Buf(1)]),                                      // probe_read_kernel_str
    Row(112, ALL, &[Buf(2), Len, Of(BITS)]),                                    // probe_read_user
    Row(114, ALL, &[Buf(2), Len, Of(BITS)]),                                    // probe_read_user_str
    Row(113, ALL, &[Buf(2), Len, Of(BITS)]),
    Row(115, ALL, &[Buf(2), Len, Of(BITS)]),
    Row(42,  ALL, &[]),                                                         // get_numa_node_id
    Row(130, ALL, &[]),                                                         // ringbuf_output, by its own code below
    Row(6,   ALL, &[]),                                                         // trace_printk, likewise
];

/// Text that number parsing cares about.
const TEXTS: [&[u8]; 16] = [
    b"0",
    b"42",
    b"-17",
    b"0x1f",
    b"  12",
    b"+5",
    b"077",
    b"9223372036854775808",
    b"18446744073709551615",
    b"-0x10",
    b"12abc",
    b"",
    b" ",
    b"-",
    b"0x",
    b"99999999999999999999999",
];

/// One to eight calls.
pub fn case(rng: &mut Rng, name: String) -> Case {
    let kind = rng.pick(ALL);
    let packets = (0..3).map(|_| packet(rng)).collect::<Vec<_>>();
    let mut build = Build { rng, code: Code::default(), next: 0 };
    build.code.mov(Reg::R6, Reg::R1);
    build.code.map_value(Reg::R7, 0, 0);
    build.fill();
    for _ in 0..1 + build.rng.below(8) {
        let rows: Vec<&Row> = ROWS.iter().filter(|row| row.1.contains(&kind)).collect();
        let row = build.rng.pick(&rows);
        build.call(row, kind);
    }
    build.fields(kind);
    for word in 0..STACK / 8 {
        build.code.load(Size::D, Reg::R0, Reg::R10, -STACK + word * 8);
        build.keep(Reg::R0);
    }
    let most = if kind == ProgKind::Xdp { 5 } else { 2 };
    let verdict = build.rng.below(most) as i32;
    build.code.mov(Reg::R0, verdict);
    build.code.push(Insn::Exit);
    let insns = build.code.assemble().expect("no jumps");
    let mut ring = CaseMap::new(MapKind::Ringbuf, 0, 0, 4096);
    ring.init.clear();
    let maps = vec![CaseMap::new(MapKind::Array, 4, WORDS as u32 * 8, 1), ring];
    Case { name, kind, prog_flags: 0, insns, maps, typed: false, packets }
}

struct Build<'a> {
    rng: &'a mut Rng,
    code: Code,
    next: i16,
}

impl Build<'_> {
    /// Keeps a register as the next word of the array's value.
    fn keep(&mut self, reg: Reg) {
        if self.next < WORDS {
            self.code.store(Size::D, Reg::R7, self.next * 8, reg);
            self.next += 1;
        }
    }

    /// Fills the stack: two buffers to read from, one of them with text, two to write to.
    fn fill(&mut self) {
        let text = self.rng.pick(&TEXTS);
        let mut bytes = self.rng.bytes(STACK as usize);
        let at = 64;
        bytes[at..at + text.len()].copy_from_slice(text);
        if self.rng.chance(1, 2) {
            bytes[at + text.len()..128].fill(if self.rng.chance(1, 2) { 0 } else { b' ' });
        }
        if self.rng.chance(1, 2) {
            let text = self.rng.pick(&TEXTS);
            bytes[..64].fill(0);
            bytes[..text.len()].copy_from_slice(text);
        }
        if self.rng.chance(1, 4) {
            bytes[..4].copy_from_slice(&[40, 0, 0, 0]);
        }
        for (word, chunk) in bytes.chunks_exact(8).enumerate() {
            let value = u64::from_le_bytes(chunk.try_into().expect("8 bytes"));
            self.code.constant(Reg::R0, value);
            self.code.store(Size::D, Reg::R10, -STACK + word as i16 * 8, Reg::R0);
        }
    }

    fn call(&mut self, row: &Row, kind: ProgKind) {
        match row.0 {
            130 => return self.ringbuf(),
            6 => return self.trace(),
            _ => {}
        }
        for (&arg, reg) in row.2.iter().zip([Reg::R1, Reg::R2, Reg::R3, Reg::R4, Reg::R5]) {
            match arg {
                Ctx => self.code.mov(reg, Reg::R6),
                Buf(index) => {
                    self.code.mov(reg, Reg::R10);
                    self.code.alu(rtbpf_isa::AluOp::Add, reg, i32::from(-STACK + index * 64));
                }
                Off => {
                    let base = self.rng.pick(&[0, 0, 12, 14, 20, 23, 24, 26, 34, 36, 40, 42, 50, 54, 64, 100, 0xffff]);
                    self.code.mov(reg, base + self.rng.pick(&[0, 0, 0, 1, -1, 2, -2]));
                }
                Len => {
                    let len = self.rng.pick(&[1, 2, 4, 6, 8, 12, 14, 16, 20, 31, 32, 64]);
                    self.code.mov(reg, len);
                }
                Len4 => {
                    let len = self.rng.pick(&[4, 8, 12, 16, 20, 32, 64, 0, 6]);
                    self.code.mov(reg, len);
                }
                Any => {
                    let value = if self.rng.chance(1, 2) { self.rng.edge() } else { self.rng.below(0x10000) };
                    self.code.constant(reg, value);
                }
                Of(values) => {
                    let value = self.rng.pick(values);
                    self.code.mov(reg, value);
                }
                Null => self.code.mov(reg, 0),
            }
        }
        self.code.call(row.0);
        self.keep(Reg::R0);
        if self.rng.chance(1, 3) {
            self.fields(kind);
        }
    }

    /// `ringbuf_output`, then each of the ring's numbers.
    fn ringbuf(&mut self) {
        let len = self.rng.pick(&[1, 7, 8, 16, 64]);
        let flags = self.rng.pick(&[0, 1, 2, 0, 3, 4]);
        for _ in 0..self.rng.pick(&[1, 1, 2, 60]) {
            self.code.map(Reg::R1, 1);
            self.code.mov(Reg::R2, Reg::R10);
            self.code.alu(rtbpf_isa::AluOp::Add, Reg::R2, i32::from(-STACK));
            self.code.mov(Reg::R3, len);
            self.code.mov(Reg::R4, flags);
            self.code.call(130);
        }
        self.keep(Reg::R0);
        let what = self.rng.pick(&[0, 1, 2, 3, 4, -1]);
        self.code.map(Reg::R1, 1);
        self.code.mov(Reg::R2, what);
        self.code.call(134);
        self.keep(Reg::R0);
    }

    /// `trace_printk` with up to three numbers: its result is the length of the text.
    fn trace(&mut self) {
        let formats: [&[u8; 16]; 8] = [
            b"plain\0\0\0\0\0\0\0\0\0\0\0",
            b"%d\n\0\0\0\0\0\0\0\0\0\0\0\0\0",
            b"%lld %x\0\0\0\0\0\0\0\0\0",
            b"%u %llu %lx\0\0\0\0\0",
            b"%5d|%-8x|\0\0\0\0\0\0\0",
            b"%08llx %i\0\0\0\0\0\0\0",
            b"%%\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
            b"%q %d\0\0\0\0\0\0\0\0\0\0\0",
        ];
        let format = self.rng.pick(&formats);
        for (word, chunk) in format.chunks_exact(8).enumerate() {
            self.code.constant(Reg::R0, u64::from_le_bytes(chunk.try_into().expect("8 bytes")));
            self.code.store(Size::D, Reg::R10, -STACK + word as i16 * 8, Reg::R0);
        }
        self.code.mov(Reg::R1, Reg::R10);
        self.code.alu(rtbpf_isa::AluOp::Add, Reg::R1, i32::from(-STACK));
        let len = self.rng.pick(&[16, 16, 16, 12, 4]);
        self.code.mov(Reg::R2, len);
        for reg in [Reg::R3, Reg::R4, Reg::R5] {
            let value = self.rng.edge();
            self.code.constant(reg, value);
        }
        self.code.call(6);
        self.keep(Reg::R0);
    }

    /// Keeps context fields that helpers change.
    fn fields(&mut self, kind: ProgKind) {
        let offsets: &[i16] = match kind {
            ProgKind::Xdp => &[12, 16],
            // len, pkt_type, mark, queue_mapping, protocol, vlan_present, vlan_tci, vlan_proto, priority, hash
            _ => &[0, 4, 8, 12, 16, 20, 24, 28, 32],
        };
        for &offset in offsets {
            self.code.load(Size::W, Reg::R0, Reg::R6, offset);
            self.keep(Reg::R0);
        }
        if matches!(kind, ProgKind::SchedCls | ProgKind::SchedAct) {
            // gso_segs, gso_size
            for offset in [164, 176] {
                self.code.load(Size::W, Reg::R0, Reg::R6, offset);
                self.keep(Reg::R0);
            }
        }
    }
}

/// An Ethernet frame: IPv4 or IPv6 with TCP or UDP, or something else, with or without a VLAN tag.
fn packet(rng: &mut Rng) -> Vec<u8> {
    let mut out = rng.bytes(12);
    if rng.chance(1, 6) {
        out.extend(rng.pick(&[[0x81, 0x00], [0x88, 0xa8]]));
        out.extend(rng.bytes(2));
    }
    let protocol = rng.pick(&[6u8, 17, 1, 58, 0]);
    let body = rng.pick(&[0usize, 1, 7, 8, 20, 26, 40, 100, 500]);
    match rng.below(5) {
        0..=1 => {
            out.extend([0x08, 0x00, 0x45, rng.below(4) as u8]);
            let len = 20 + body as u16;
            out.extend(len.to_be_bytes());
            out.extend([0, 1, 0x40, 0, 64, protocol, 0x12, 0x34]);
            out.extend(rng.bytes(8));
        }
        2..=3 => {
            out.extend([0x86, 0xdd, 0x60, (rng.below(4) as u8) << 4, 0, 0]);
            out.extend((body as u16).to_be_bytes());
            out.extend([protocol, 64]);
            out.extend(rng.bytes(32));
        }
        _ => out.extend(rng.pick(&[[0x08, 0x06], [0x88, 0x47], [0xff, 0xff], [0x00, 0x10]])),
    }
    out.extend(rng.bytes(body));
    out
}
