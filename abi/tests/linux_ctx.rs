//! Every context layout against what Linux 6.18 answered, offset by offset.

mod tables;

use rtbpf_abi::ctx::{self, CtxLayout, CtxOp, FieldKind};
use rtbpf_abi::{AttachType, ProgType};
use tables::{Differences, Row, Table};

fn prog(row: Row) -> ProgType {
    ProgType::from_name(row.get("prog_type")).expect("program types have names")
}

fn attach(name: &str) -> Option<AttachType> {
    match name {
        "-" => None,
        name => Some(AttachType::from_name(name).unwrap_or_else(|| panic!("no attach type {name}"))),
    }
}

fn check_row(diff: &mut Differences, layout: &CtxLayout, what: &str, row: Row) {
    let off: i32 = row.get("offset").parse().expect("offsets are numbers");
    for (column, op) in [("read", CtxOp::Load), ("write", CtxOp::Store), ("writeimm", CtxOp::Store)] {
        for size in [1, 2, 4, 8] {
            let linux = match row.get(&format!("{column}{size}")) {
                // Half of an 8-byte counter: a fault of that kernel, not a rule.
                "EFAULT" => continue,
                cell => cell == "ok",
            };
            let ours = layout.access(off, size, op).is_ok();
            // Linux lets a tracepoint program read in front of its record.
            if layout.name == "tracepoint record" && off < 0 {
                assert!(!ours);
                continue;
            }
            diff.check(|| format!("{what} {column} {size} at {off}"), ours, linux);
        }
    }
}

/// Rows of a matrix that hold for one attach type, where `same as X` stands for the rows of X.
fn rows_of<'a>(table: &'a Table, row: Row<'a>) -> Vec<Row<'a>> {
    let same = |other: &Row| other.get("prog_type") == row.get("prog_type") && other.get("object") == row.get("object");
    let target = row.get("read1").strip_prefix("same as ").expect("a row that names another attach type");
    table.rows().filter(|r| same(r) && r.get("attach_type") == target && r.get("offset") != "*").collect()
}

#[test]
fn context_access_equals_linux_at_every_offset() {
    let Some(table) = tables::open("ctx-access-matrix.tsv") else { return };
    let mut diff = Differences::default();
    for row in table.rows() {
        if matches!(prog(row), ProgType::Tracing | ProgType::StructOps) {
            continue; // BTF gives these contexts
        }
        let layout = ctx::layout(prog(row), attach(row.get("attach_type"))).expect("the type has a layout");
        let what = format!("{}/{}", row.get("prog_type"), row.get("attach_type"));
        if row.get("offset") == "*" {
            for other in rows_of(&table, row) {
                check_row(&mut diff, layout, &what, other);
            }
        } else {
            check_row(&mut diff, layout, &what, row);
        }
    }
    diff.finish(60_000);
}

#[test]
fn nested_objects_equal_linux_at_every_offset() {
    let Some(table) = tables::open("ctx-nested-matrix.tsv") else { return };
    let mut diff = Differences::default();
    for row in table.rows() {
        let object = row.get("object");
        let layout = match object.split('(').next().unwrap_or_default().trim() {
            "bpf_sock: sk_common" => &ctx::SOCK_COMMON,
            "bpf_sock: sock" => &ctx::FULL_SOCK,
            "bpf_tcp_sock: tcp_sock" => &ctx::TCP_SOCK,
            "bpf_xdp_sock: xdp_sock" => &ctx::XDP_SOCK,
            "bpf_flow_keys: flow_keys" => &ctx::FLOW_KEYS,
            _ => continue, // kernel types
        };
        check_row(&mut diff, layout, object, row);
    }
    diff.finish(13_000);
}

#[test]
fn registers_after_a_load_equal_linux() {
    let Some(table) = tables::open("ctx-access.tsv") else { return };
    let mut diff = Differences::default();
    for row in table.rows() {
        let (Ok(off), Ok(size)) = (row.get("offset").parse(), row.get("size").parse()) else { continue };
        let Some(layout) = ctx::layout(prog(row), attach_if_known(row)) else { continue };
        let linux = row.get("register_after_full_read");
        if row.get("full_read") != "yes" {
            continue;
        }
        let ours = layout.access(off, size, CtxOp::Load).map(|access| match access.kind {
            FieldKind::Scalar if size == 8 => "scalar64".to_owned(),
            FieldKind::Scalar => format!("u{}", size * 8),
            FieldKind::PacketData => "pkt(r=0)".into(),
            FieldKind::PacketMeta => "pkt_meta(r=0)".into(),
            FieldKind::PacketEnd => "pkt_end()".into(),
            FieldKind::FlowKeys => "flow_keys()".into(),
            FieldKind::SockCommonOrNull => "sock_common_or_null()".into(),
            FieldKind::Sock => "sock()".into(),
            FieldKind::SockOrNull => "sock_or_null()".into(),
            FieldKind::TracepointBuffer => "tp_buffer()".into(),
            FieldKind::Btf(name) => format!("trusted_ptr_{name}()"),
        });
        let what = || format!("{} {} {}", row.get("prog_type"), row.get("attach_type"), row.get("field"));
        diff.check(what, ours, Ok(linux.to_owned()));
    }
    diff.finish(500);
}

fn attach_if_known(row: Row) -> Option<AttachType> {
    AttachType::from_name(row.get("attach_type"))
}

#[test]
fn sign_extending_loads_equal_linux_in_number_and_kind() {
    let Some(table) = tables::open("ctx-ldsx.tsv") else { return };
    let mut diff = Differences::default();
    for row in table.rows() {
        let Some(layout) = ctx::layout(prog(row), attach(row.get("attach_type"))) else { continue };
        if layout.open.is_some() {
            continue; // ranges were probed at some offsets only
        }
        let mut plain = 0;
        let mut signed = 0;
        let mut plain_only = Vec::new();
        for off in 0..i32::from(layout.size) {
            for size in [1, 2, 4] {
                let (load, extend) =
                    (layout.access(off, size, CtxOp::Load), layout.access(off, size, CtxOp::LoadSigned));
                plain += u32::from(load.is_ok());
                signed += u32::from(extend.is_ok());
                if load.is_ok() && extend.is_err() {
                    plain_only.push(format!("@{off}/{size}"));
                }
            }
        }
        let what = |part: &str| format!("{} {} {part}", row.get("prog_type"), row.get("attach_type"));
        diff.check(|| what("plain"), plain, row.number("plain_loads_accepted"));
        diff.check(|| what("signed"), signed, row.number("sign_extending_loads_accepted"));
        let linux: Vec<String> = match row.get("plain_only") {
            "-" => Vec::new(),
            list => list.split(' ').map(|cell| cell.split('(').next().unwrap_or_default().to_owned()).collect(),
        };
        diff.check(|| what("plain only"), plain_only, linux);
    }
    diff.finish(150);
}
