//! The rules of program types against what Linux 6.18 answered.

mod tables;

use rtbpf_abi::prog_rules::{self, Features, LoadNeed, ProgRules, flags};
use rtbpf_abi::{AttachType, ProgType, limits};
use tables::{Differences, Row};

/// Values that were tried in R0 at exit, beside -4096 and -4095.
const TRIED: &[i64] =
    &[-2, -1, 0, 1, 2, 3, 4, 19, 20, 127, 128, 129, 255, 256, 65535, 65536, 0x7fff_ffff, -4095, -4096];

fn prog(row: Row) -> ProgType {
    ProgType::from_name(row.get("prog_type")).expect("program types have names")
}

/// The row's attach type; `None` where members of a structure are numbered instead.
fn attach(row: Row) -> Option<AttachType> {
    match prog(row) {
        ProgType::StructOps => None,
        _ => AttachType::from_name(row.get("attach_type")),
    }
}

fn loads(row: Row) -> bool {
    !matches!(row.get("exit_values_accepted"), "none")
}

#[test]
fn exit_values_equal_linux() {
    let Some(table) = tables::open("prog-types.tsv") else { return };
    let mut diff = Differences::default();
    for row in table.rows().filter(|&row| loads(row)) {
        let range = prog_rules::exit_range(prog(row), attach(row));
        for &value in TRIED {
            let ours = range.is_none_or(|(low, high)| (low..=high).contains(&value));
            let linux = match row.get("exit_values_accepted") {
                "any" => true,
                list => match list.split_once("..") {
                    Some((low, high)) => {
                        let end = |s: &str| s.parse::<i64>().expect("bounds are numbers");
                        (end(low)..=end(high)).contains(&value)
                    }
                    None => list.parse::<i64>().expect("one value") == value,
                },
            };
            let what = || format!("{} {} exits with {value}", row.get("prog_type"), row.get("attach_type"));
            diff.check(what, ours, linux);
        }
        // Where any value will do, so will a pointer.
        let what = || format!("{} {} exits with a pointer", row.get("prog_type"), row.get("attach_type"));
        diff.check(what, range.is_none(), row.get("exit_ctx_pointer") == "ok");
    }
    diff.finish(1_300);
}

#[test]
fn attach_types_and_flags_equal_linux() {
    let Some(table) = tables::open("prog-types.tsv") else { return };
    let mut diff = Differences::default();
    for row in table.rows().filter(|&row| loads(row) && prog(row) != ProgType::StructOps) {
        let sleepable = if prog(row) == ProgType::Syscall { flags::SLEEPABLE } else { 0 };
        let list = row.get("attach_types_accepted_at_load");
        for number in 0..60 {
            // Other targets of tracing programs were refused for want of a permission, not by the type.
            if prog(row) == ProgType::Tracing && (24..=26).contains(&number) {
                continue;
            }
            let linux = list.starts_with("any") || list.split(',').any(|n| n.parse() == Ok(number));
            let ours = prog_rules::check_load(prog(row), number, sleepable).is_ok();
            diff.check(|| format!("{} attach {number}", row.get("prog_type")), ours, linux);
        }
        let number = row.number("attach_number");
        for bit in 0..32 {
            let linux = match row.get("prog_flag_bits_accepted") {
                "0..7" => bit <= 7,
                "0..3,5..7" => bit <= 7 && bit != 4,
                other => panic!("{other}"),
            };
            let ours = prog_rules::check_load(prog(row), number, sleepable | 1 << bit).is_ok();
            diff.check(|| format!("{} {number} flag bit {bit}", row.get("prog_type")), ours, linux);
        }
    }
    diff.finish(5_000);
}

#[test]
fn features_equal_linux() {
    let Some(table) = tables::open("prog-types.tsv") else { return };
    let mut diff = Differences::default();
    for row in table.rows().filter(|&row| loads(row)) {
        let rules = ProgRules::of(prog(row)).expect("every type has rules");
        let mut check = |column: &str, feature| match row.get(column) {
            // struct_ops members whose helpers are fewer
            cell if cell.contains("cannot use helper") || cell == "n/a" => {}
            cell => {
                let ours = rules.has(attach(row), feature);
                let what = || format!("{} {} {column}", row.get("prog_type"), row.get("attach_type"));
                diff.check(what, ours, cell == "ok");
            }
        };
        check("ld_abs", Features::LD_ABS);
        check("ld_ind", Features::LD_ABS);
        check("spin_lock", Features::SPIN_LOCK);
        check("timer_init", Features::TIMER);
        check("packet_read", Features::PACKET_READ);
        check("packet_write", Features::PACKET_WRITE);
        let gpl = row.get("license_not_gpl").contains("GPL compatible license");
        diff.check(|| format!("{} licence", row.get("prog_type")), rules.has(None, Features::GPL_ONLY), gpl);
    }
    diff.finish(350);
}

#[test]
fn stacks_of_frames_equal_linux() {
    let Some(table) = tables::open("limits.tsv") else { return };
    let mut diff = Differences::default();
    for row in table.rows().filter(|row| row.get("what") == "frames 400+400 by program type") {
        for cell in row.get("value").split(' ') {
            let (name, number) = cell.split_once('/').expect("type/attach");
            let prog = ProgType::from_name(name).expect("program types have names");
            let rules = ProgRules::of(prog).expect("every type has rules");
            let attach = AttachType::from_number(number.parse().expect("a number"));
            diff.check(|| cell.to_owned(), rules.has(attach, Features::PRIVATE_STACK), row.get("result") == "ok");
        }
    }
    diff.finish(50);
}

#[test]
fn capabilities_equal_linux() {
    let Some(table) = tables::open("limits.tsv") else { return };
    let mut diff = Differences::default();
    for row in table.rows() {
        let Some(who) = row.get("what").strip_prefix("program types that load: ") else { continue };
        let (bpf, perfmon, net_admin) = match who {
            "all capabilities" => (true, true, true),
            "no SYS_ADMIN, no PERFMON (BPF and NET_ADMIN kept)" => (true, false, true),
            "no SYS_ADMIN, no PERFMON, no NET_ADMIN (BPF kept)" => (true, false, false),
            _ => continue, // without CAP_BPF nothing loads
        };
        for name in row.get("value").split(' ') {
            let rules = ProgRules::of(ProgType::from_name(name).expect("program types have names")).expect("a row");
            let ours = bpf
                && match rules.need {
                    LoadNeed::Unprivileged | LoadNeed::Bpf => true,
                    LoadNeed::NetAdmin => net_admin,
                    LoadNeed::Perfmon => perfmon,
                };
            diff.check(|| format!("{name}: {who}"), ours, row.get("result") == "ok");
        }
    }
    diff.finish(70);
}

#[test]
fn limits_equal_linux() {
    let Some(table) = tables::open("limits.tsv") else { return };
    let mut diff = Differences::default();
    let largest = |what: &str| {
        let accepted = table.rows().filter(|row| row.get("what") == what && row.get("result") == "ok");
        accepted.filter_map(|row| row.get("value").parse::<u64>().ok()).max().unwrap_or_else(|| panic!("no row {what}"))
    };
    for (what, ours) in [
        ("instructions (r0 = 0 repeated, then exit)", limits::MAX_INSNS as u64),
        ("undecided conditional jumps in a row (pending branch states)", limits::MAX_PENDING_BRANCHES as u64),
        ("iterations of a 2-instruction counted loop (1M instructions processed)", limits::MAX_PROCESSED_INSNS / 2 - 2),
        ("deepest byte stored in one frame", limits::STACK_BYTES.into()),
        ("caller uses 1: largest frame of one subprogram", (limits::STACK_BYTES - limits::STACK_ROUND).into()),
        (
            "three frames, 100 + 100 + n",
            (limits::STACK_BYTES - 2 * 100_u32.next_multiple_of(limits::STACK_ROUND)).into(),
        ),
        (
            "frame of main below a subprogram with a tail call (subprogram frame 64)",
            (limits::STACK_BEFORE_TAIL_CALL - limits::STACK_ROUND).into(),
        ),
        ("frames in the deepest call chain (main counts 1)", limits::MAX_FRAMES as u64),
        ("subprograms beside main", limits::MAX_SUBPROGS as u64 - 1),
        ("distinct maps in one program", limits::MAX_MAPS as u64),
        ("constant n in: if data + n > data_end exit; read the byte n - 1", limits::MAX_PACKET_OFF.into()),
    ] {
        diff.check(|| what.to_owned(), ours, largest(what));
    }
    diff.finish(11);
}
