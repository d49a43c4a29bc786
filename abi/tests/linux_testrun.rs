//! The rules of test runs against what Linux 6.18 answered.

mod tables;

use rtbpf_abi::testrun::{self, Input, Runner, Start};
use rtbpf_abi::{AttachType, Errno, ProgType};
use tables::{Differences, Row};

fn prog(row: Row) -> ProgType {
    ProgType::from_name(row.get("prog_type")).expect("program types have names")
}

fn attach(row: Row) -> Option<AttachType> {
    AttachType::from_name(row.get("attach_type"))
}

/// A frame of `len` bytes with this ethertype, as far as it fits.
fn frame(ethertype: u16, len: usize) -> Vec<u8> {
    let mut frame = vec![0; 14];
    frame[12..].copy_from_slice(&ethertype.to_be_bytes());
    frame.resize(len, 0);
    frame
}

/// Frames with the addresses that the measurement used: 10.0.0.1 to 10.0.0.2, ::1 to ::2.
fn packet(name: &str) -> Vec<u8> {
    let with = |ethertype, len, destination: u8, addresses: &[(usize, u8)]| {
        let mut data = frame(ethertype, len);
        data[0] = destination;
        for &(at, byte) in addresses {
            data[at] = byte;
        }
        data
    };
    match name {
        "zero64" => frame(0, 64),
        "ipv4-64" => with(0x0800, 64, 2, &[(26, 10), (29, 1), (30, 10), (33, 2)]),
        "ipv6-80" => with(0x86dd, 80, 2, &[(37, 1), (53, 2)]),
        "arp-60" => with(0x0806, 60, 0xff, &[]),
        other => panic!("no packet {other}"),
    }
}

fn errno(result: &str) -> Option<Errno> {
    let word = result.split([';', ' ']).next().unwrap_or_default();
    Errno::ALL.iter().copied().find(|errno| errno.name() == word)
}

fn run(row: Row, data: &[u8], ctx: &[u8]) -> Result<Start, Errno> {
    run_with(row, &Input { devices: &[1, 2, 3], ..Input::new(data, ctx) })
}

fn run_with(row: Row, input: &Input) -> Result<Start, Errno> {
    testrun::begin(prog(row), attach(row), input).map_err(|(errno, _)| errno)
}

fn what(row: Row, input: &str) -> String {
    format!("{} {} {} {input}", row.get("prog_type"), row.get("area"), row.get("what"))
}

#[test]
fn types_run_that_run_on_linux() {
    let Some(table) = tables::open("prog-types.tsv") else { return };
    let mut diff = Differences::default();
    for row in table.rows().filter(|&row| row.get("test_run") != "-" && prog(row) != ProgType::StructOps) {
        let refused = match testrun::runner(prog(row), attach(row)) {
            Runner::Refused(errno) => Some(errno),
            _ => None,
        };
        let answers: Vec<_> = row.get("test_run").split(' ').filter_map(|cell| cell.split('=').nth(1)).collect();
        let linux = if answers.iter().all(|answer| *answer == answers[0]) { errno(answers[0]) } else { None };
        diff.check(|| format!("{} {}", row.get("prog_type"), row.get("attach_type")), refused, linux);
    }
    diff.finish(60);
}

#[test]
fn sizes_of_packets_equal_linux() {
    let Some(table) = tables::open("testrun.tsv") else { return };
    let mut diff = Differences::default();
    for row in table.rows().filter(|row| row.get("area") == "data_in size") {
        let ethertype = match row.get("what") {
            "bytes (IPv4 header first)" => 0x0800,
            "bytes (IPv6 header first)" => 0x86dd,
            _ => 0,
        };
        for size in row.get("input").split("; ") {
            let ours = run(row, &frame(ethertype, size.parse().expect("a size")), &[]).err();
            diff.check(|| what(row, size), ours, errno(row.get("result")));
        }
    }
    diff.finish(600);
}

#[test]
fn run_options_equal_linux() {
    let Some(table) = tables::open("testrun.tsv") else { return };
    let mut diff = Differences::default();
    for row in table.rows().filter(|row| row.get("area") == "run options") {
        let option = row.get("what").split(' ').next().unwrap_or_default();
        let Some((name, value)) = option.split_once('=') else { continue };
        let value: u32 = value.parse().expect("a number");
        let mut tuple = [0; 72];
        (tuple[8], tuple[12]) = (2, 6);
        let data = packet("zero64");
        let (data, ctx): (&[u8], &[u8]) = match prog(row) {
            ProgType::SkLookup => (&[], &tuple),
            ProgType::RawTracepoint | ProgType::Syscall => (&[], &[]),
            _ => (&data, &[]),
        };
        let input = Input { repeat: if name == "repeat" { value } else { 0 }, ..Input::new(data, ctx) };
        let input = Input { flags: if name == "flags" { value } else { 0 }, ..input };
        diff.check(|| what(row, ""), run_with(row, &input).err(), errno(row.get("result")));
    }
    diff.finish(100);
}

#[test]
fn fields_that_a_caller_sets_equal_linux() {
    let Some(table) = tables::open("testrun.tsv") else { return };
    let mut diff = Differences::default();
    for row in table.rows().filter(|row| row.get("area") == "ctx_in") {
        if !matches!(testrun::runner(prog(row), attach(row)), Runner::Skb { .. }) {
            continue;
        }
        let fields = row.get("what").trim_end_matches(" (further values)");
        for field in fields.split(", ") {
            let Some((name, at)) = field.split_once(" @") else { continue };
            let at: usize = at.parse().expect("an offset");
            for value in row.get("input").split("; ") {
                let value = value.trim_start_matches('=');
                let number = match value.strip_prefix("0x") {
                    Some(hex) => u32::from_str_radix(hex, 16),
                    None => value.parse(),
                };
                let number = number.expect("a number");
                let mut ctx = [0; 192];
                let width = if at == 180 {
                    1
                } else if at == 181 {
                    3
                } else {
                    4
                };
                ctx[at..at + width].copy_from_slice(&number.to_le_bytes()[..width]);
                let ours = run(row, &packet("zero64"), &ctx);
                let linux = errno(row.get("result"));
                diff.check(|| format!("{} {name}={value}", row.get("prog_type")), ours.as_ref().err().copied(), linux);
                let (Ok(start), Some(out)) = (ours, row.get("result").split("ctx_out nonzero: ").nth(1)) else {
                    continue;
                };
                let ctx_out = testrun::skb_ctx_out(&start.ctx, &ctx);
                let layout = rtbpf_abi::ctx::layout(prog(row), None).expect("skb types have a layout");
                for pair in out.split(' ') {
                    let (name, value) = pair.split_once("=0x").expect("name=0xvalue");
                    let (base, index) = name.split_once('[').map_or((name, 0), |(base, i)| {
                        (base, i.trim_end_matches(']').parse::<usize>().expect("an index"))
                    });
                    let field = layout.fields.iter().find(|field| field.name == base).expect("fields have names");
                    let at = usize::from(field.offset) + index * 4;
                    let ours = u32::from_le_bytes(ctx_out[at..at + 4].try_into().expect("four bytes"));
                    let linux = u32::from_str_radix(value, 16).expect("hex");
                    diff.check(|| format!("{} {field:?} out", row.get("prog_type")), ours, linux);
                }
            }
        }
    }
    diff.finish(700);
}

#[test]
fn fields_at_entry_equal_linux() {
    let Some(table) = tables::open("testrun.tsv") else { return };
    let mut diff = Differences::default();
    for row in table.rows().filter(|row| row.get("area") == "field value") {
        let Some(name) = row.get("input").strip_prefix("no ctx_in, packet ") else { continue };
        let Some((number, _)) = row.get("result").split_once(' ') else { continue };
        let linux: u64 = number.parse().expect("a number");
        let start = run(row, &packet(name), &[]).expect("the packet is good");
        let (bytes, at) = match row.get("what").strip_prefix("sk (full sock).") {
            Some(field) => {
                let (base, index) = field.split_once('[').map_or((field, 0), |(base, i)| {
                    (base, i.trim_end_matches(']').parse::<usize>().expect("an index"))
                });
                let fields = rtbpf_abi::ctx::FULL_SOCK.fields;
                let field = fields.iter().find(|field| field.name == base).expect("fields have names");
                (
                    start.sock.expect("a socket").to_vec(),
                    Some((usize::from(field.offset) + 4 * index, usize::from(field.size.min(4)))),
                )
            }
            None => (
                start.ctx,
                row.get("what").split_once('@').and_then(|(_, place)| {
                    let (at, size) = place.split_once('/')?;
                    Some((at.parse().ok()?, size.parse().ok()?))
                }),
            ),
        };
        let Some((at, size)) = at else { continue };
        let mut ours = [0; 8];
        ours[..size].copy_from_slice(&bytes[at..at + size]);
        // cgroup programs return one bit of what they saw.
        let ours = u64::from_le_bytes(ours);
        let ours = if row.get("note").contains("low bit") { ours & 1 } else { ours };
        diff.check(|| what(row, name), ours, linux);
    }
    diff.finish(600);
}

#[test]
fn xdp_contexts_equal_linux() {
    let Some(table) = tables::open("testrun.tsv") else { return };
    let mut diff = Differences::default();
    for row in table.rows().filter(|row| row.get("area") == "ctx_in" && row.get("prog_type") == "xdp") {
        let (what_row, result) = (row.get("what"), row.get("result"));
        for input in row.get("input").split("; ") {
            let field = |name: &str| {
                input.split(' ').find_map(|part| part.strip_prefix(name)?.strip_prefix('=')?.parse::<u32>().ok())
            };
            let (len, data, end) = match what_row {
                "xdp_md, 64 bytes of data" => (64, field("data").unwrap_or(0), field("end").unwrap_or(64)),
                "xdp_md data=n end=600 with 600 bytes; program returns data - data_meta" => {
                    (600, input.parse().expect("n"), 600)
                }
                "xdp_md data_end=n with 64 bytes; program returns data_end - data" => {
                    (64, 0, input.parse().expect("n"))
                }
                _ => continue,
            };
            let words = [
                data,
                end,
                field("meta").unwrap_or(0),
                field("ifindex").unwrap_or(0),
                field("queue").unwrap_or(0),
                field("egress_ifindex").unwrap_or(0),
            ];
            let ctx: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            let ours = run(row, &frame(0, len), &ctx);
            diff.check(|| what(row, input), ours.as_ref().err().copied(), errno(result));
            let Ok(start) = ours else { continue };
            let linux: usize = result.split(' ').next().and_then(|n| n.parse().ok()).expect("a number");
            match what_row.rsplit("program returns ").next() {
                Some("data - data_meta") => diff.check(|| what(row, input), start.meta.len(), linux),
                Some("data_end - data") => diff.check(|| what(row, input), start.packet.len(), linux),
                _ => {}
            }
        }
    }
    diff.finish(40);
}

#[test]
fn contexts_of_other_types_equal_linux() {
    let Some(table) = tables::open("testrun.tsv") else { return };
    let mut diff = Differences::default();
    for row in table.rows().filter(|row| row.get("area") == "ctx_in size" && row.get("what") == "ctx_in bytes") {
        for size in row.get("input").split("; ") {
            let size: usize = size.parse().expect("a size");
            let mut ctx = vec![0; size];
            if prog(row) == ProgType::SkLookup && size > 12 {
                (ctx[8], ctx[12]) = (2, 6);
            }
            // A buffer of no bytes is a pointer without a size; ENOSPC is about the buffer for ctx_out.
            let linux = errno(row.get("result"));
            if size > 0 && linux != Some(Errno::ENOSPC) {
                diff.check(|| what(row, &size.to_string()), run(row, &[], &ctx).err(), linux);
            }
        }
    }
    for row in table.rows().filter(|row| row.get("area") == "ctx_in" && row.get("prog_type") == "sk_lookup") {
        for input in row.get("input").split("; ") {
            let field = |name: &str| {
                input.split(' ').find_map(|part| part.strip_prefix(name)?.strip_prefix('=')?.parse::<u32>().ok())
            };
            let mut ctx = [0; 72];
            let mut set = |at: usize, value: u32| ctx[at..at + 4].copy_from_slice(&value.to_le_bytes());
            set(8, field("family").unwrap_or(2));
            set(12, field("protocol").unwrap_or(6));
            set(0, field("cookie").unwrap_or(0));
            set(64, field("ingress_ifindex").unwrap_or(0));
            set(60, field("local_port").unwrap_or(0));
            set(36, field("remote_port").unwrap_or(0));
            diff.check(|| what(row, input), run(row, &[], &ctx).err(), errno(row.get("result")));
        }
    }
    diff.finish(25);
}
