//! Every helper row against what Linux 6.18 answered, cell by cell.

mod tables;

use rtbpf_abi::helper::{self, Arg, DynptrKinds, HelperProto, Lookup, MemSize, MemUse, Null, Ret, SockKind};
use rtbpf_abi::{HelperId, MapKind, ProgKind};
use tables::{Differences, Row};

fn kind(name: &str) -> Option<ProgKind> {
    // The target of a tracing program (its name behind the slash) changes nothing about its helpers.
    let name = match name {
        "tp_btf/skb" | "tp_btf/sk" | "tp_btf/cgrp" => "tp_btf",
        "iter/task_file" => "iter/task",
        other => other,
    };
    ProgKind::from_name(name)
}

fn id(row: Row) -> HelperId {
    HelperId(row.number("id"))
}

/// The prototype in the context that the row was measured in.
fn measured(row: Row) -> Option<&'static HelperProto> {
    helper::proto_for(id(row), kind(row.get("measured_in")).expect("contexts are kinds")).found()
}

#[test]
fn availability_equals_linux_in_every_cell() {
    let Some(table) = tables::open("helper-availability.tsv") else { return };
    let mut diff = Differences::default();
    for row in table.rows() {
        for column in &table.header()[3..] {
            let kind = kind(column).unwrap_or_else(|| panic!("no kind {column}"));
            let ours = match helper::proto_for(id(row), kind) {
                Lookup::Found(_) | Lookup::Refused(..) => "y",
                Lookup::NotForKind => "n",
                Lookup::Unknown => "no such helper",
            };
            match row.get(column) {
                "denied" | "absent" => {}
                linux => diff.check(|| format!("{} in {column}", row.get("name")), ours, linux),
            }
        }
        diff.check(|| format!("name of {}", row.get("id")), helper::name(id(row)), Some(row.get("name")));
        diff.check(|| format!("number of {}", row.get("name")), helper::by_name(row.get("name")), Some(id(row)));
        let gpl = row.get("gpl_only");
        for kind in ProgKind::all() {
            let Some(proto) = helper::proto_for(id(row), kind).found() else { continue };
            let linux = match gpl.strip_prefix("yes,except:") {
                Some(except) => !except.split('|').any(|name| name == kind.name()),
                None if gpl == "?" => continue,
                None => gpl == "yes",
            };
            diff.check(|| format!("{} gpl in {kind}", row.get("name")), proto.gpl_only, linux);
        }
    }
    diff.finish(15_000);
}

fn memory(access: MemUse, size: MemSize, null: Null, aligned: bool, map_value_only: bool) -> String {
    let access = match access {
        MemUse::Read => "mem_ro",
        MemUse::Write => "mem_wo",
        MemUse::ReadWrite => "mem_inout",
    };
    let size = match size {
        MemSize::Fixed(bytes) => format!("fixed={bytes}"),
        MemSize::Arg(n) => format!("arg{n}"),
    };
    let null = match null {
        Null::No => "",
        Null::Yes => "|null",
        Null::IfSizeZero => "|null_if_size0",
    };
    let aligned = if aligned { ",aligned" } else { "" };
    let only = if map_value_only { ",map_value_only" } else { "" };
    format!("{access}:{size}{aligned}{only}{null}")
}

fn dynptr(kinds: DynptrKinds) -> &'static str {
    match kinds {
        DynptrKinds::ANY => "local|ringbuf|skb|xdp",
        DynptrKinds::LOCAL => "local",
        DynptrKinds::RINGBUF => "ringbuf",
        _ => "?",
    }
}

/// An argument in the words of the tables.
fn words(arg: Arg) -> String {
    match arg {
        Arg::None => "-".into(),
        Arg::Anything => "anything".into(),
        Arg::Scalar => "scalar".into(),
        Arg::ConstZero => "const_0".into(),
        Arg::Ctx => "ctx".into(),
        Arg::CtxOrNull => "ctx|null".into(),
        Arg::Map(kinds) => format!("const_map:{}", kinds.iter().map(|k| k.name()).collect::<Vec<_>>().join("|")),
        Arg::MapOfArg1 => "const_map:the map of arg1".into(),
        Arg::MapKey => "map_key".into(),
        Arg::MapValue(MemUse::Read) => "map_value_ro".into(),
        Arg::MapValue(MemUse::Write | MemUse::ReadWrite) => "map_value_wo".into(),
        Arg::MapValueOrNull => "map_value_ro|null".into(),
        Arg::Mem { access, size, null, aligned, map_value_only } => memory(access, size, null, aligned, map_value_only),
        Arg::Size { of, zero: true } => format!("size>=0:arg{of}"),
        Arg::Size { of, zero: false } => format!("size>0:arg{of}"),
        Arg::AllocSize => "const_scalar>=0".into(),
        Arg::ConstStr => "const_str".into(),
        Arg::Func => "func".into(),
        Arg::StackOrNull => "stack|null".into(),
        Arg::Stack => "stack".into(),
        Arg::DynptrUninit(_) => "dynptr_uninit".into(),
        Arg::Dynptr(kinds) => format!("dynptr:{}", dynptr(kinds)),
        Arg::RingbufMem => "ringbuf_mem,acquired".into(),
        Arg::RingbufDynptr => "dynptr:ringbuf,acquired".into(),
        Arg::SpinLock => "spin_lock".into(),
        Arg::SpinLockHeld => "spin_lock,held".into(),
        Arg::Timer => "timer".into(),
        Arg::KptrSlot => "kptr_slot".into(),
        Arg::SockCommon => "sock_common".into(),
        Arg::SockCommonOrBtf => "sock_common_or_btf".into(),
        Arg::SockCommonOrBtfOrNull => "sock_common_or_btf|null".into(),
        Arg::SockOrNull => "sock|null".into(),
        Arg::SockAcquired => "sock_common_or_btf,acquired".into(),
        Arg::Btf(name) => format!("btf:{name}"),
        Arg::BtfOrNull(name) => format!("btf:{name}|null"),
        Arg::KptrValue => "btf:type of the slot,acquired|null".into(),
        Arg::PercpuBtf => "PERCPU_BTF".into(),
    }
}

/// A result in the words of the tables; `sizes` are the key and value sizes that the measurement used.
fn result(ret: Ret, sizes: &str) -> String {
    let sock = |kind| match kind {
        SockKind::SockCommon => "sock_common",
        SockKind::Sock => "sock",
        SockKind::TcpSock => "tcp_sock",
        SockKind::XdpSock => "xdp_sock",
    };
    let null = |nullable| if nullable { "_or_null" } else { "" };
    let owned = |acquired| if acquired { " acquired" } else { "" };
    match ret {
        Ret::Int => "int".into(),
        Ret::Range(low, high) => format!("int[smin={low},smax={high}]"),
        Ret::ErrnoOrUpTo(n) => format!("int[smin=smin32=-4095,smax=smax32=arg{n}]"),
        Ret::Cpu => "int[smin=smin32=0,smax=umax=smax32=umax32=1,var_off=(0x0; 0x1)]".into(),
        Ret::Void => "void".into(),
        Ret::MapValueOrNull => format!("map_value_or_null({sizes})"),
        Ret::MapValue => format!("map_value({sizes})"),
        Ret::RingbufMemOrNull(n) => format!("ringbuf_mem_or_null(sz=arg{n}) acquired"),
        Ret::DynptrSliceOrNull(n) => format!("mem_or_null(sz=arg{n})"),
        Ret::SockOrNull { kind, acquired } => format!("{}_or_null{}", sock(kind), owned(acquired)),
        Ret::Btf { name, trusted, nullable } => {
            format!("{}ptr{}_{name}", if trusted { "trusted_" } else { "" }, null(nullable))
        }
        Ret::KptrOrNull => "ptr_or_null_task_struct acquired".into(),
        Ret::Percpu { .. } => "rcu_ptr_local".into(),
    }
}

#[test]
fn prototypes_equal_linux_in_every_cell() {
    let Some(table) = tables::open("helper-prototypes.tsv") else { return };
    let mut diff = Differences::default();
    for row in table.rows() {
        let contexts: Vec<&str> = match row.get("contexts") {
            "all" => vec![row.get("measured_in")],
            list => list.split(',').collect(),
        };
        for context in contexts {
            let what = |part: &str| format!("{} in {context}: {part}", row.get("name"));
            let Some(proto) = helper::proto_for(id(row), kind(context).expect("contexts are kinds")).found() else {
                diff.check(|| what("row"), "none", "one");
                continue;
            };
            for (i, arg) in proto.args.iter().enumerate() {
                let column = format!("arg{}", i + 1);
                // `mem_w` is written, with or without initialisation: not known which. `?` was not measured.
                let linux = row.get(&column).replace("mem_w:", "mem_wo:");
                if !linux.starts_with('?') {
                    diff.check(|| what(&column), words(*arg), linux);
                }
            }
            let ret = row.get("ret");
            let sizes = ret.split_once('(').map_or("", |(_, rest)| rest.trim_end_matches(')'));
            if ret != "?" {
                diff.check(|| what("ret"), result(proto.ret, sizes), ret.to_owned());
            }
        }
    }
    diff.finish(4_000);
}

#[test]
fn effects_equal_linux_in_every_cell() {
    let Some(table) = tables::open("helper-effects.tsv") else { return };
    let mut diff = Differences::default();
    for row in table.rows() {
        let proto = measured(row).expect("measured rows exist");
        let mut check = |column: &str, ours: &str| match row.get(column) {
            "?" | "n/a" | "-" | "? (no context there)" => {}
            linux => diff.check(|| format!("{} {column}", row.get("name")), ours.to_owned(), linux.to_owned()),
        };
        let yes = |y| if y { "y" } else { "n" };
        check("invalidates_packet", yes(proto.invalidates_packet));
        check("acquires", yes(proto.acquires));
        check("releases", &if proto.releases == 0 { "n".to_owned() } else { format!("arg{}", proto.releases) });
        check("might_sleep", yes(proto.might_sleep));
        let short = |column: &str| row.get(column).split(':').next().unwrap_or_default().to_owned();
        diff.check(
            || format!("{} packet", row.get("name")),
            proto.packet_as_memory,
            row.get("packet_as_memory").contains("=y"),
        );
        for region in ["in_rcu_read_lock", "in_preempt_disable", "in_irq_save"] {
            diff.check(|| format!("{} {region}", row.get("name")), yes(!proto.might_sleep).to_owned(), short(region));
        }
        if row.get("under_spin_lock") != "?" {
            let linux = short("under_spin_lock");
            diff.check(|| format!("{} under lock", row.get("name")), yes(proto.under_spin_lock).to_owned(), linux);
        }
        let void = proto.ret == Ret::Void;
        if row.get("r0") != "?" {
            diff.check(|| format!("{} r0", row.get("name")), void, row.get("r0") == "void");
        }
    }
    diff.finish(1_500);
}

#[test]
fn capabilities_equal_linux_in_every_cell() {
    let Some(table) = tables::open("helper-capabilities.tsv") else { return };
    let mut diff = Differences::default();
    for row in table.rows() {
        if kind(row.get("measured_in")).is_none() {
            continue;
        }
        if let (Some(proto), "y" | "n") = (measured(row), row.get("available")) {
            diff.check(|| format!("{} perfmon", row.get("name")), proto.needs_perfmon, row.get("available") == "n");
        }
        // Uninitialised stack is good for memory that is only written.
        for cell in row.get("uninit_stack").split(',').filter(|cell| cell.starts_with("arg")) {
            let (arg, verdict) = cell.split_once('=').expect("arg=verdict");
            let n: usize = arg[3..].parse().expect("argument number");
            let Some(proto) = measured(row) else { continue };
            let ours = match proto.args[n - 1] {
                Arg::Mem { access, .. } | Arg::MapValue(access) => access == MemUse::Write,
                Arg::DynptrUninit(_) => true,
                _ => false,
            };
            diff.check(|| format!("{} {arg} uninitialised", row.get("name")), ours, verdict == "ok");
        }
    }
    diff.finish(200);
}

#[test]
fn map_kinds_equal_linux_in_every_cell() {
    let Some(table) = tables::open("map-helper-matrix.tsv") else { return };
    let mut diff = Differences::default();
    for row in table.rows() {
        let Some(proto) = measured(row) else { continue };
        let Some(kinds) = proto.map_kinds() else { continue };
        for &map in MapKind::ALL {
            if !table.header().iter().any(|column| column == map.name()) {
                continue;
            }
            let linux = match row.get(map.name()) {
                "y" => true,
                "n" => false,
                cell if cell.starts_with("call ok") => true,
                // Keys and values of no bytes are refused before the kind is looked at.
                _ => continue,
            };
            let what = || format!("{} in {} with {}", row.get("name"), row.get("measured_in"), map.name());
            diff.check(what, kinds.contains(&map), linux);
        }
    }
    diff.finish(1_200);
}
