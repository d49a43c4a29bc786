//! `rtbpf policy show NAME` against what each era of Linux answered: which program type may use which map, allocated how.

use std::collections::HashMap;
use std::process::Command;

/// The table of a preset: verdicts by row and column.
fn table(policy: &str) -> HashMap<(String, String), String> {
    let output = Command::new(env!("CARGO_BIN_EXE_rtbpf")).args(["policy", "show", policy]).output();
    let output = output.expect("the binary starts");
    assert!(output.status.success(), "{policy}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("text");
    let mut lines = text.lines();
    let head = lines.next().expect("a line of names");
    let columns: Vec<&str> = head.split_whitespace().skip(1).collect();
    let row = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (name, verdicts) = words.split_at(words.len() - columns.len());
        let name = name.join(" ");
        let cell = |(column, verdict): (&&str, &&str)| ((name.clone(), column.to_string()), verdict.to_string());
        columns.iter().zip(verdicts).map(cell).collect::<Vec<_>>()
    };
    lines.flat_map(row).collect()
}

const TRACE: [&str; 3] = ["kprobe", "tracepoint", "raw_tp"];
const DYNAMIC: [&str; 5] = [
    "hash dynamic",
    "percpu_hash dynamic",
    "hash_of_maps dynamic",
    "array_of_maps of dynamic maps",
    "hash_of_maps of dynamic maps",
];
const PREALLOCATED: [&str; 5] =
    ["hash preallocated", "percpu_hash preallocated", "hash_of_maps preallocated", "array", "lru_hash"];

#[test]
fn each_eras_rule_of_allocation_is_shown() {
    // perf_event; kprobe, tracepoint, raw_tracepoint; fentry; sleepable fentry; xdp.
    let expected = [
        ("linux-5.6", ["EINVAL", "ok", "ok", "ok", "ok"]),
        ("linux-5.7", ["EINVAL", "warn", "ok", "ok", "ok"]),
        ("linux-5.7-rt", ["EINVAL", "EINVAL", "ok", "ok", "ok"]),
        ("linux-5.11", ["EINVAL", "warn", "ok", "EINVAL", "ok"]),
        ("linux-6.1", ["ok", "ok", "ok", "ok", "ok"]),
        ("linux-6.15", ["ok", "ok", "ok", "ok", "ok"]),
        ("linux-6.18", ["ok", "ok", "ok", "ok", "ok"]),
        ("strict-rt", ["EINVAL", "EINVAL", "EINVAL", "ok", "ok"]),
    ];
    for (policy, [perf, trace, fentry, sleepable, xdp]) in expected {
        let table = table(policy);
        let check = |row: &str, column: &str, verdict: &str| {
            let shown = table.get(&(row.to_string(), column.to_string())).map(String::as_str);
            assert_eq!(shown, Some(verdict), "{policy}: {row}, {column}");
        };
        for row in DYNAMIC {
            check(row, "perf_event", perf);
            TRACE.iter().for_each(|column| check(row, column, trace));
            check(row, "fentry", fentry);
            check(row, "fentry.s", sleepable);
            check(row, "xdp", xdp);
        }
        for row in PREALLOCATED {
            let all = ["perf_event", "fentry", "fentry.s", "xdp"];
            TRACE.iter().chain(&all).for_each(|column| check(row, column, "ok"));
        }
    }
}

#[test]
fn the_hole_of_tries_and_storages_is_open_in_every_linux_and_closed_in_strict_rt() {
    let all = ["linux-5.6", "linux-5.7", "linux-5.7-rt", "linux-5.11", "linux-6.1", "linux-6.15", "linux-6.18"];
    let tracing = ["kprobe", "tracepoint", "perf_event", "raw_tp", "fentry"];
    for (policies, verdict) in [(&all[..], "ok"), (&["strict-rt"][..], "EINVAL")] {
        for policy in policies {
            let table = table(policy);
            for column in tracing {
                for row in ["lpm_trie", "task_storage"] {
                    assert_eq!(table[&(row.to_string(), column.to_string())], verdict, "{policy}: {row}, {column}");
                }
            }
        }
    }
}

#[test]
fn sleepable_programs_have_a_list_of_kinds() {
    for (policy, row, verdict) in [
        ("linux-5.11", "queue", "EINVAL"),
        ("linux-5.11", "array_of_maps", "ok"),
        ("linux-6.18", "queue", "ok"),
        ("linux-6.18", "ringbuf", "ok"),
        ("linux-6.18", "arena", "ok"),
        ("linux-6.18", "lpm_trie", "EINVAL"),
        ("linux-6.18", "bloom_filter", "EINVAL"),
        ("linux-6.18", "stack_trace", "EINVAL"),
        ("linux-6.18", "prog_array", "EINVAL"),
    ] {
        assert_eq!(table(policy)[&(row.to_string(), "fentry.s".to_string())], verdict, "{policy}: {row}");
    }
}
