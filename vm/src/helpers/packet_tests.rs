//! What packet programs see of the helpers; answers at the edges are Linux 6.18's.

use rtbpf_abi::{Errno, ProgType, helper};
use rtbpf_verifier::Assumptions;

use crate::world::{FixedClock, Identity, World};
use crate::{Config, Ctx, Engine};

/// 64 bytes: Ethernet, IPv4 (10.0.0.1 to 10.0.0.2, UDP), and counting bytes.
fn ipv4() -> Vec<u8> {
    let mut packet: Vec<u8> = (0..64).collect();
    packet[..6].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    packet[12..14].copy_from_slice(&[8, 0]);
    packet[14..34].copy_from_slice(&[0x45, 1, 0, 50, 0, 0, 0, 0, 64, 17, 0x66, 0xb8, 10, 0, 0, 1, 10, 0, 0, 2]);
    packet
}

fn run(prog: ProgType, data: &[u8], text: &str) -> (Result<u64, String>, Ctx) {
    let identity =
        Identity { pid: 7, tgid: 6, uid: 5, gid: 4, comm: "a rather long command".into(), ..Identity::default() };
    let world = World { clock: std::sync::Arc::new(FixedClock(8_000_001)), identity, ..World::default() };
    let engine = Engine::new(Config { max_insns: Some(10_000), world, ..Config::linux() });
    let by_name = |name: &str| helper::by_name(name).map(|id| id.0 as i32);
    let assembly = rtbpf_isa::asm::assemble_with(text, &by_name).unwrap_or_else(|error| panic!("{text}: {error}"));
    let program = rtbpf_isa::decode(&assembly.slots).expect("the test's program decodes");
    let exe = engine.bind_unverified(program, Assumptions::new(prog), vec![]).expect("the test's program binds");
    let mut ctx = Ctx::test_run(prog, None, data, &[]).expect("the test's packet is valid");
    let result = exe.run(&mut engine.session(0), &mut ctx).map_err(|error| error.to_string());
    (result, ctx)
}

/// A call of `name` with the context and two numbers, its result and the packet's length afterwards.
#[track_caller]
fn check(prog: ProgType, name: &str, args: [i64; 3], result: i64, len: usize) {
    let [r2, r3, r4] = args;
    let text = format!("r2 = {r2}\nr3 = {r3}\nr4 = {r4}\ncall {name}\nexit");
    let (got, ctx) = run(prog, &ipv4(), &text);
    assert_eq!(got.map(|r0| r0 as i64), Ok(result), "{text}");
    assert_eq!(ctx.data_out().len(), len, "{text}");
}

const EINVAL: i64 = -(Errno::EINVAL as i64);
const EACCES: i64 = -(Errno::EACCES as i64);
const ENOMEM: i64 = -(Errno::ENOMEM as i64);
const ENOTSUPP: i64 = -(Errno::ENOTSUPP as i64);

#[test]
fn xdp_frames_move_within_their_page() {
    let head = |by, result, len| check(ProgType::Xdp, "bpf_xdp_adjust_head", [by, 0, 0], result, len);
    head(-217, EINVAL, 64);
    head(-216, 0, 280);
    head(50, 0, 14);
    head(51, EINVAL, 64);
    let tail = |by, result, len| check(ProgType::Xdp, "bpf_xdp_adjust_tail", [by, 0, 0], result, len);
    tail(-51, EINVAL, 64);
    tail(-50, 0, 14);
    tail(3456, 0, 3520);
    tail(3457, EINVAL, 64);
    let meta = |by, result, len| check(ProgType::Xdp, "bpf_xdp_adjust_meta", [by, 0, 0], result, len);
    meta(-216, 0, 280);
    meta(-220, EINVAL, 64);
    meta(-6, EACCES, 64);
    meta(4, EINVAL, 64);
}

#[test]
fn packet_pointers_are_gone_after_the_packet_moved() {
    let text = "r6 = r1\nr7 = *(u32 *)(r1 + 0)\nr2 = 4\ncall bpf_xdp_adjust_head\nr0 = *(u8 *)(r7 + 0)\nexit";
    assert!(run(ProgType::Xdp, &ipv4(), text).0.is_err_and(|fault| fault.contains("gone")));
    let text = "r6 = r1\nr2 = 14\ncall bpf_xdp_adjust_head\nr7 = *(u32 *)(r6 + 0)\nr0 = *(u8 *)(r7 + 0)\nexit";
    assert_eq!(run(ProgType::Xdp, &ipv4(), text).0, Ok(0x45));
}

#[test]
fn socket_buffers_change_at_both_ends() {
    let tail = |len, result, after| check(ProgType::SchedCls, "bpf_skb_change_tail", [len, 0, 0], result, after);
    tail(13, EINVAL, 64);
    tail(14, 0, 14);
    tail(9000, 0, 9000);
    tail(65_535, EINVAL, 64);
    let head = |room, result, after| check(ProgType::SchedCls, "bpf_skb_change_head", [room, 0, 0], result, after);
    head(3000, 0, 3064);
    head(70_000, EINVAL, 64);
    let pull = |len, result| check(ProgType::SchedCls, "bpf_skb_pull_data", [len, 0, 0], result, 64);
    pull(64, 0);
    pull(65, ENOMEM);
    let room = |diff, mode, result, after| {
        check(ProgType::SchedCls, "bpf_skb_adjust_room", [diff, mode, 0], result, after);
    };
    room(-34, 0, ENOTSUPP, 64);
    room(-20, 1, 0, 44);
    room(1000, 0, 0, 1064);
    check(ProgType::SchedCls, "bpf_skb_change_proto", [0xdd86, 0, 0], 0, 84);
    check(ProgType::SchedCls, "bpf_skb_change_proto", [0x0008, 0, 0], ENOTSUPP, 64);
    check(ProgType::SchedCls, "bpf_skb_change_type", [3, 0, 0], 0, 64);
    check(ProgType::SchedCls, "bpf_skb_change_type", [4, 0, 0], EINVAL, 64);
}

#[test]
fn bytes_are_stored_where_asked() {
    let text =
        "*(u32 *)(r10 - 4) = 0x04030201\nr2 = 60\nr3 = r10\nr3 += -4\nr4 = 4\nr5 = 0\ncall bpf_skb_store_bytes\nexit";
    let (result, ctx) = run(ProgType::SchedCls, &ipv4(), text);
    assert_eq!((result, &ctx.data_out()[60..]), (Ok(0), &[1, 2, 3, 4][..]));
    let load = |at: i64, prog| {
        let text =
            format!("r2 = {at}\nr3 = r10\nr3 += -4\nr4 = 4\ncall bpf_skb_load_bytes\nr0 = *(u32 *)(r10 - 4)\nexit");
        run(prog, &ipv4(), &text).0.unwrap()
    };
    assert_eq!(load(26, ProgType::SchedCls), 0x0100_000a);
    assert_eq!(load(12, ProgType::SocketFilter), 0x0100_000a);
    assert_eq!(load(61, ProgType::SchedCls), 0, "what cannot be read is zeroed");
}

#[test]
fn tags_live_beside_the_packet() {
    let push = "r6 = r1\nr2 = 0x0081\nr3 = 5\ncall bpf_skb_vlan_push\n";
    let field = |off: u32| format!("{push}r0 = *(u32 *)(r6 + {off})\nexit");
    for (off, value) in [(0, 64), (16, 8), (20, 1), (24, 5), (28, 0x81)] {
        assert_eq!(run(ProgType::SchedCls, &ipv4(), &field(off)).0, Ok(value), "field at {off}");
    }
    let twice = format!("{push}r1 = r6\nr2 = 0x0081\nr3 = 6\ncall bpf_skb_vlan_push\nexit");
    let (result, ctx) = run(ProgType::SchedCls, &ipv4(), &twice);
    let out = ctx.data_out();
    assert_eq!((result, out.len(), &out[12..18]), (Ok(0), 68, &[0x81, 0, 0, 5, 8, 0][..]));
    let back = format!("{push}r1 = r6\ncall bpf_skb_vlan_pop\nexit");
    assert_eq!(run(ProgType::SchedCls, &ipv4(), &back).1.data_out(), ipv4());
}

#[test]
fn the_next_tag_takes_the_place_of_one_popped() {
    let mut tagged = ipv4();
    tagged.splice(12..12, [0x81, 0, 0, 9]);
    let field = |off: u32, calls: &str| format!("r6 = r1\n{calls}r0 = *(u32 *)(r6 + {off})\nexit");
    let (push, pop) = ("r1 = r6\nr2 = 0x0081\nr3 = 5\ncall bpf_skb_vlan_push\n", "r1 = r6\ncall bpf_skb_vlan_pop\n");
    let both = format!("{push}{pop}");
    for (off, value) in [(0, 64), (16, 8), (20, 1), (24, 9), (28, 0x81)] {
        assert_eq!(run(ProgType::SchedCls, &tagged, &field(off, &both)).0, Ok(value), "field at {off}");
    }
    assert_eq!(run(ProgType::SchedCls, &tagged, &field(20, pop)).0, Ok(0));
}

#[test]
fn room_is_made_and_taken_by_its_flags() {
    let room = |diff: i64, flags: i64, result, len| {
        let text = format!("r2 = {diff}\nr3 = 1\nr4 = {flags} ll\ncall bpf_skb_adjust_room\nexit");
        let (got, ctx) = run(ProgType::SchedCls, &ipv4(), &text);
        assert_eq!((got.map(|r0| r0 as i64), ctx.data_out().len()), (Ok(result), len), "{text}");
    };
    room(20, 2, 0, 84);
    room(20, 2 | 4, EINVAL, 64);
    room(20, 2 | 0x40, EINVAL, 64);
    room(20, 2 | 0x40 | 14 << 56, 0, 84);
    room(20, 0x80, EINVAL, 64);
    room(-20, 0x80, 0, 44);
    room(-20, 0x100, ENOTSUPP, 64);
    room(-20, 2, EINVAL, 64);
    room(0x1000, 0x200, EINVAL, 64);
    room(0x1000, 0, -(Errno::EFAULT as i64), 64);
}

#[test]
fn checksums_are_counted_as_checked() {
    let asked = "r1 = r6\nr2 = 0\ncall bpf_csum_level\nexit";
    let after = |what: &[u32]| {
        let calls: String = what.iter().map(|what| format!("r1 = r6\nr2 = {what}\ncall bpf_csum_level\n")).collect();
        run(ProgType::SchedCls, &ipv4(), &format!("r6 = r1\n{calls}{asked}")).0.map(|r0| r0 as i64)
    };
    assert_eq!(after(&[]), Ok(EACCES));
    assert_eq!(after(&[1]), Ok(0));
    assert_eq!(after(&[1, 1, 1, 1, 1]), Ok(3));
    assert_eq!(after(&[1, 2]), Ok(EACCES));
    assert_eq!(after(&[1, 1, 3]), Ok(EACCES));
}

#[test]
fn hidden_headers_can_be_read_from_the_link_layer() {
    let text =
        "r2 = 12\nr3 = r10\nr3 += -4\nr4 = 4\nr5 = 0\ncall bpf_skb_load_bytes_relative\nr0 = *(u32 *)(r10 - 4)\nexit";
    for prog in [ProgType::SchedCls, ProgType::SocketFilter, ProgType::CgroupSkb] {
        assert_eq!(run(prog, &ipv4(), text).0, Ok(0x0145_0008), "{prog:?}");
    }
}

#[test]
fn lengths_in_place_of_ethertypes_name_802_frames() {
    let protocol = |first: [u8; 4]| {
        let mut frame = ipv4();
        frame[12..16].copy_from_slice(&first);
        run(ProgType::SchedCls, &frame, "r0 = *(u32 *)(r1 + 16)\nexit").0
    };
    assert_eq!(protocol([0x05, 0xff, 0, 0]), Ok(0x0400));
    assert_eq!(protocol([0, 0x10, 0xff, 0xff]), Ok(0x0100));
    assert_eq!(protocol([0x06, 0, 0, 0]), Ok(0x0006));
}

#[test]
fn hashes_stay_once_made() {
    let text = "r6 = r1\ncall bpf_get_hash_recalc\nr7 = r0\nr1 = r6\ncall bpf_get_hash_recalc\nr0 -= r7\nexit";
    assert_eq!(run(ProgType::SchedCls, &ipv4(), text).0, Ok(0));
    let text = "r6 = r1\nr2 = 0x1234\ncall bpf_set_hash\nr1 = r6\ncall bpf_get_hash_recalc\nexit";
    assert_eq!(run(ProgType::SchedCls, &ipv4(), text).0, Ok(0x1234));
}

#[test]
fn congestion_is_marked_with_its_checksum() {
    let (result, ctx) = run(ProgType::SchedCls, &ipv4(), "call bpf_skb_ecn_set_ce\nexit");
    let out = ctx.data_out();
    assert_eq!((result, out[15]), (Ok(1), 3));
    assert_eq!(super::checksum::fold(super::checksum::sum(&out[14..34], 0)), 0xffff);
}

#[test]
fn redirects_are_left_to_the_host() {
    let (result, ctx) = run(ProgType::Xdp, &ipv4(), "r1 = 3\nr2 = 0\ncall bpf_redirect\nexit");
    assert_eq!(result, Ok(4));
    assert_eq!(format!("{:?}", ctx.redirect()), "Some(Interface(3, ingress: false))");
    assert_eq!(run(ProgType::Xdp, &ipv4(), "r1 = 3\nr2 = 1\ncall bpf_redirect\nexit").0, Ok(0));
    assert_eq!(run(ProgType::SchedCls, &ipv4(), "r1 = 3\nr2 = 1\ncall bpf_redirect\nexit").0, Ok(7));
    assert_eq!(run(ProgType::SchedCls, &ipv4(), "r1 = 3\nr2 = 2\ncall bpf_redirect\nexit").0, Ok(2));
}

#[test]
fn time_and_identity_are_the_worlds() {
    let check = |call: &str, result| assert_eq!(run(ProgType::SchedCls, &ipv4(), call).0, Ok(result), "{call}");
    check("call bpf_ktime_get_ns\nexit", 8_000_001);
    check("call bpf_ktime_get_coarse_ns\nexit", 8_000_000);
    check("call bpf_jiffies64\nexit", 2);
    check("call bpf_get_current_pid_tgid\nexit", 6 << 32 | 7);
    check("call bpf_get_current_uid_gid\nexit", 4 << 32 | 5);
    let comm = "r1 = r10\nr1 += -16\nr2 = 16\ncall bpf_get_current_comm\nr0 = *(u8 *)(r10 - ";
    check(&format!("{comm}16)\nexit"), b'a' as u64);
    check(&format!("{comm}1)\nexit"), 0);
}

#[test]
fn sockets_nobody_knows_are_not_found() {
    let text = "r2 = r10\nr2 += -12\nr3 = 12\nr4 = -1\nr5 = 0\ncall bpf_sk_lookup_tcp\nexit";
    assert_eq!(run(ProgType::SchedCls, &ipv4(), text).0, Ok(0));
    let sk = "r1 = *(u64 *)(r1 + 168)\ncall bpf_sk_fullsock\nr0 = *(u32 *)(r0 + 24)\nexit";
    assert_eq!(run(ProgType::SchedCls, &ipv4(), sk).0, Ok(0x0100_000a));
}
