//! The rules of map kinds against what Linux 6.18 answered.

mod tables;

use std::collections::HashMap;

use rtbpf_abi::map_kind::LookupResult;
use rtbpf_abi::map_rules::{BtfRule, RULES};
use rtbpf_abi::map_spec::{self, SpecialField, SpecialKind};
use rtbpf_abi::policy::{self, ProgFacts};
use rtbpf_abi::{AttachType, Creator, Errno, MapKind, MapRules, MapSpec, Policy, ProgKind, ProgType, helper};
use serde_json::Value;
use tables::Differences;

/// A map of this kind with a value of 40 bytes, as far as the kind allows.
fn sample(kind: MapKind) -> MapSpec {
    let rules = MapRules::of(kind).expect("the kind has rules");
    let (key, entries) = match kind {
        MapKind::LpmTrie | MapKind::CgroupStorage | MapKind::PercpuCgroupStorage => (8, 0),
        MapKind::Queue | MapKind::Stack | MapKind::BloomFilter => (0, 4),
        MapKind::SkStorage | MapKind::InodeStorage | MapKind::TaskStorage | MapKind::CgrpStorage => (4, 0),
        _ => (4, 4),
    };
    let entries = if kind == MapKind::LpmTrie { 4 } else { entries };
    let mut spec = MapSpec::new(kind, key, 40, entries);
    (spec.flags, spec.btf_key, spec.btf_value) = (rules.required, 1, 2);
    spec
}

fn field(words: &str) -> Option<SpecialKind> {
    Some(match words {
        "bpf_spin_lock" => SpecialKind::SpinLock,
        "bpf_res_spin_lock" => SpecialKind::ResSpinLock,
        "bpf_timer" => SpecialKind::Timer,
        "bpf_wq" => SpecialKind::Workqueue,
        "bpf_task_work" => SpecialKind::TaskWork,
        "kptr pointer" => SpecialKind::KptrRef(1),
        "kptr_untrusted pointer" => SpecialKind::KptrUntrusted(1),
        "percpu_kptr pointer" => SpecialKind::KptrPercpu(1),
        "uptr pointer" => SpecialKind::Uptr(1),
        _ => return None,
    })
}

#[test]
fn special_fields_equal_linux_in_every_kind() {
    let Some(table) = tables::open("helper-rules.tsv") else { return };
    let mut diff = Differences::default();
    for row in table.rows() {
        let Some(rest) = row.get("what").strip_prefix("BPF_MAP_CREATE of ") else { continue };
        let Some((kind, words)) = rest.split_once(" whose value has ") else { continue };
        let Some(kind_of_field) = words.strip_suffix(" at offset 0").and_then(field) else { continue };
        let kind = MapKind::from_name(kind).expect("kinds have names");
        let mut spec = sample(kind);
        if kind == MapKind::StackTrace {
            spec.btf_key = 0; // its value is frames
        }
        spec.fields = vec![SpecialField { off: 0, kind: kind_of_field }];
        let ours = map_spec::check(&spec, Creator::ROOT);
        let linux = match row.get("message").strip_prefix("errno ") {
            Some(number) => Err(Errno::from_number(number.parse().expect("a number")).expect("a known errno")),
            None => Ok(()),
        };
        diff.check(|| format!("{} with {words}", kind.name()), ours, linux);
    }
    diff.finish(150);
}

#[test]
fn sleepable_programs_use_the_kinds_that_linux_lets_them() {
    let Some(table) = tables::open("map-helper-matrix.tsv") else { return };
    let mut diff = Differences::default();
    for row in table.rows().filter(|row| matches!(row.get("measured_in"), "syscall" | "uprobe.s" | "iter/task.s")) {
        for rules in RULES {
            if !table.header().iter().any(|column| column == rules.kind.name()) {
                continue;
            }
            let linux = match row.get(rules.kind.name()) {
                "?" | "unavailable" => continue,
                cell => !cell.contains("Sleepable programs can only use"),
            };
            diff.check(|| format!("{} {}", row.get("name"), rules.kind.name()), rules.sleepable, linux);
        }
    }
    diff.finish(500);
}

#[test]
fn lookups_give_what_linux_gives() {
    let Some(table) = tables::open("map-lookup-result.tsv") else { return };
    let mut diff = Differences::default();
    for row in table.rows().filter(|row| row.get("helper") == "map_lookup_elem") {
        let name = row.get("map_type").split('+').next().unwrap_or_default();
        let ours = MapKind::from_name(name).and_then(MapKind::lookup_result);
        let linux = match row.get("after_null_check").split('(').next().unwrap_or_default() {
            "map_value" => LookupResult::Value,
            "map_ptr" => LookupResult::InnerMap,
            "sock" => LookupResult::Sock,
            "xdp_sock" => LookupResult::XdpSock,
            _ => continue, // refused for the program type
        };
        diff.check(|| format!("{name} in {}", row.get("prog_type")), ours, Some(linux));
    }
    diff.finish(80);
}

#[test]
fn socket_maps_are_written_by_the_kinds_that_linux_lets() {
    let Some(table) = tables::open("helper-rules.tsv") else { return };
    let mut diff = Differences::default();
    for row in table.rows().filter(|row| row.get("what").starts_with("sockmap in this program type")) {
        let kind = ProgKind::from_name(row.get("context")).expect("contexts are kinds");
        let id = helper::by_name(row.get("helper")).expect("helpers have names");
        let proto = helper::proto_for(id, kind).found().expect("the kind knows map helpers");
        if row.get("message").contains("Sleepable") {
            continue;
        }
        let linux = !row.get("message").contains("cannot pass map_type");
        let what = || format!("{} in {kind}", row.get("helper"));
        diff.check(what, helper::takes_map(proto, MapKind::Sockmap, kind), linux);
    }
    diff.finish(40);
}

/// The lines of the map cases; `None` where they are not at hand.
fn cases() -> Option<Vec<Value>> {
    let Some(dir) = std::env::var_os("RTBPF_CORPORA") else {
        println!("skipped: RTBPF_CORPORA names no folder with map-cases.jsonl");
        return None;
    };
    let path = std::path::Path::new(&dir).join("map-cases.jsonl");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    Some(text.lines().map(|line| serde_json::from_str(line).expect("one JSON object a line")).collect())
}

/// The map that a `create` step asks for; `made` holds earlier ones by name.
fn spec_of(step: &Value, made: &HashMap<String, MapSpec>) -> Option<MapSpec> {
    let number = |field: &str| step[field].as_u64().unwrap_or(0);
    let size = |field: &str| u32::try_from(number(field)).expect("sizes are 32 bits");
    let kind = step["type"].as_str().and_then(MapKind::from_name)?;
    let mut spec = MapSpec::new(kind, size("key_size"), size("value_size"), size("max_entries"));
    (spec.flags, spec.numa_node, spec.map_extra) = (size("flags"), size("numa_node"), number("map_extra"));
    (spec.btf_key, spec.btf_value) = (size("btf_key_id"), size("btf_value_id"));
    spec.name = step["name"].as_str().unwrap_or_default().into();
    spec.inner = step["inner"].as_str().and_then(|name| made.get(name)).cloned().map(Box::new);
    Some(spec)
}

#[test]
fn maps_are_created_and_refused_as_on_linux() {
    let Some(cases) = cases() else { return };
    let mut diff = Differences::default();
    for case in &cases {
        let creator = if case["cred"] == "root" { Creator::ROOT } else { Creator::NOBODY };
        let mut made = HashMap::new();
        for step in case["steps"].as_array().into_iter().flatten().filter(|step| step["op"] == "create") {
            let Some(spec) = spec_of(step, &made) else { continue };
            let linux = step["errno"].as_str();
            if linux.is_none() {
                made.insert(step["as"].as_str().unwrap_or_default().to_owned(), spec.clone());
            }
            // What the types say is in bytes that are not part of a spec; memory is no rule.
            let typed = step.get("btf").is_some();
            if typed && linux.is_some() && MapRules::of(spec.kind).is_some_and(|r| r.btf != BtfRule::Required)
                || linux == Some("ENOMEM")
            {
                continue;
            }
            let ours = map_spec::check(&spec, creator).err().map(Errno::name);
            diff.check(|| format!("{} {}", case["id"], case["title"]), ours, linux);
        }
    }
    diff.finish(400);
}

#[test]
fn programs_use_maps_as_linux_lets_them() {
    let Some(cases) = cases() else { return };
    let mut diff = Differences::default();
    for case in cases.iter().filter(|case| case["group"].as_str().is_some_and(|group| group.starts_with("policy"))) {
        let mut made = HashMap::new();
        // Special fields are in types that are not part of a spec.
        if case["steps"].as_array().into_iter().flatten().any(|step| step.get("btf").is_some()) {
            continue;
        }
        for step in case["steps"].as_array().into_iter().flatten() {
            let name = step["as"].as_str().unwrap_or_default().to_owned();
            if step["op"] == "create" {
                made.extend(spec_of(step, &made).map(|spec| (name, spec)));
                continue;
            }
            let Some(prog) = step["prog_type"].as_str().and_then(ProgType::from_name) else { continue };
            let attach = step["expected_attach_type"].as_u64().and_then(|n| AttachType::from_number(n as u32));
            let sleepable = step["prog_flags"].as_u64().unwrap_or(0) & 16 != 0;
            let facts = ProgFacts { prog, attach, sleepable };
            let maps = step["map_relocs"].as_object().into_iter().flat_map(|relocs| relocs.values());
            let verdicts =
                maps.filter_map(|name| made.get(name.as_str()?)).map(|map| policy::check(&Policy::V6_18, &facts, map));
            let ours = verdicts.map(|verdict| match verdict {
                policy::Verdict::Ok | policy::Verdict::Warn(_) => "",
                policy::Verdict::Err(_, text) => text.leak(),
            });
            let ours = ours.max().unwrap_or_default();
            // Programs that another type had bound the map to are refused without a word.
            let linux = step["log_tail"].as_str().unwrap_or_default();
            diff.check(|| format!("{} {}", case["title"], step["desc"]), ours, linux);
        }
    }
    diff.finish(200);
}
