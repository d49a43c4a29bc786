//! Agreement with Linux 6.18 on recorded programs: verdict, errno, and how much was walked.
//!
//! The recordings lie in the folder that `RTBPF_CORPORA` names; without it the test says so and passes.
//! `RTBPF_CASES=FILE` names another recording, one case a line; `RTBPF_WORDS=1` prints messages that differ; `RTBPF_CASE=NAME` runs one case and prints its log.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rtbpf_abi::{AttachType, MapKind, MapSpec, ProgType, map_spec::flags};
use rtbpf_isa::{RawInsn, decode};
use rtbpf_verifier::{Assumptions, Options, Rejection, verify};
use serde_json::Value;

struct Answer {
    errno: i64,
    message: String,
    processed: u64,
    peak: u64,
    log: String,
}

fn map_spec(case: &Value, earlier: &[Arc<MapSpec>]) -> Option<MapSpec> {
    let number = |key: &str| case[key].as_u64().unwrap_or(0) as u32;
    let kind = match case["type"].as_str() {
        Some(name) => MapKind::from_name(name)?,
        None => MapKind::from_number(number("type"))?,
    };
    let mut spec = MapSpec::new(kind, number("key_size"), number("value_size"), number("max_entries"));
    spec.name = case["name"].as_str().unwrap_or("").to_owned();
    spec.flags = number("flags");
    spec.inner = case["inner"].as_u64().and_then(|i| earlier.get(i as usize)).map(|m| Box::new((**m).clone()));
    let fixed = case["frozen"] == true && spec.flags & flags::RDONLY_PROG != 0;
    if fixed && kind == MapKind::Array && spec.max_entries == 1 {
        let value = case["init"].as_array().and_then(|init| init.first()).and_then(|entry| entry[1].as_str());
        let bytes = value.and_then(|hex| hex::decode(hex).ok()).unwrap_or(vec![0; spec.value_size as usize]);
        spec.frozen = Some(bytes.into());
    }
    Some(spec)
}

fn judge(case: &Value, log_level: u32) -> Answer {
    let bytes = hex::decode(case["insns"].as_str().unwrap_or("")).unwrap_or_default();
    let mut raw = RawInsn::parse_all(&bytes).unwrap_or_default();
    for fixup in case["fixups"].as_array().into_iter().flatten() {
        let (at, map) = (fixup[0].as_u64().unwrap_or(0) as usize, fixup[1].as_i64().unwrap_or(-1));
        if let Some(insn) = raw.get_mut(at) {
            insn.imm = map as i32;
        }
    }
    let answer = |r: &Rejection| Answer {
        errno: r.errno.number() as i64,
        message: r.message.clone(),
        processed: r.stats.processed,
        peak: r.stats.peak_states,
        log: r.log.clone(),
    };
    let program = match decode(&raw) {
        Ok(program) => program,
        Err(error) => return answer(&Rejection::from_decode(&error)),
    };
    let prog_type = match case["prog_type"].as_str() {
        Some(name) => ProgType::from_name(name),
        None => ProgType::from_number(case["prog_type"].as_u64().unwrap_or(0) as u32),
    };
    let Some(prog_type) = prog_type else {
        panic!("unknown program type in {}", case["name"]);
    };
    let mut given = Assumptions::new(prog_type);
    given.attach_type = case["attach_type"].as_u64().and_then(|n| AttachType::from_number(n as u32));
    given.prog_flags = case["prog_flags"].as_u64().unwrap_or(0) as u32;
    given.sleepable = given.prog_flags & 16 != 0;
    let license = case["license"].as_str().unwrap_or("GPL");
    given.gpl = ["GPL", "GPL v2", "GPL and additional rights", "Dual BSD/GPL", "Dual MIT/GPL", "Dual MPL/GPL"]
        .contains(&license);
    for map in case["maps"].as_array().into_iter().flatten() {
        let spec = map_spec(map, &given.maps).expect("the map's type is known");
        given.maps.push(Arc::new(spec));
    }
    match verify(program, given, &Options { log_level, ..Options::default() }) {
        Ok(proof) => {
            let (processed, peak) = (proof.stats().processed, proof.stats().peak_states);
            Answer { errno: 0, message: String::new(), processed, peak, log: proof.log().to_owned() }
        }
        Err(rejection) => answer(&rejection),
    }
}

fn corpus() -> Option<String> {
    if let Ok(path) = std::env::var("RTBPF_CASES") {
        return std::fs::read_to_string(path).ok();
    }
    let folder = std::env::var("RTBPF_CORPORA").ok()?;
    let path = format!("{folder}/verifier-cases.jsonl.xz");
    let out = Command::new("xz").args(["-dc", &path]).output().ok()?;
    String::from_utf8(out.stdout).ok().filter(|text| !text.is_empty())
}

fn last_line(log: &str) -> &str {
    log.lines().rev().find(|l| !l.is_empty() && !l.starts_with("processed ")).unwrap_or("")
}

#[test]
fn verdicts_agree_with_linux() {
    let Some(corpus) = corpus() else {
        println!("skipped: RTBPF_CORPORA names no folder with verifier-cases.jsonl.xz, or there is no xz");
        return;
    };
    let only = std::env::var("RTBPF_CASE").ok();
    let (mut accepts, mut rejects) = ([0, 0], [0, 0]);
    let (mut errno_same, mut message_same) = (0, 0);
    let mut clusters: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let (mut ours, mut theirs, mut spent) = (0, 0, Duration::ZERO);
    let mut slowest = (Duration::ZERO, String::new());
    for line in corpus.lines() {
        let case: Value = serde_json::from_str(line).expect("a case is JSON");
        let name = case["name"].as_str().unwrap_or("?").to_owned();
        if only.as_ref().is_some_and(|only| *only != name) {
            continue;
        }
        let start = Instant::now();
        let got = judge(&case, if only.is_some() { 2 } else { 0 });
        let took = start.elapsed();
        spent += took;
        if took > slowest.0 {
            slowest = (took, format!("{name} {} processed, {} peak", got.processed, got.peak));
        }
        let linux = &case["linux"];
        let want = linux["errno"].as_i64().unwrap_or(0);
        let log = linux["log"].as_str().unwrap_or("");
        if only.is_some() {
            println!("{}\n--- linux: {want} {log}\n--- ours: {} {}", got.log, got.errno, got.message);
            println!("processed {} (linux {})", got.processed, linux["insns_processed"]);
            continue;
        }
        let same = (want == 0) == (got.errno == 0);
        let tally = if want == 0 { &mut accepts } else { &mut rejects };
        tally[0] += same as u32;
        tally[1] += 1;
        let digits = |text: &str| text.replace(|c: char| c.is_ascii_digit(), "");
        if !same {
            let key = if want == 0 {
                format!("false reject: {}", digits(&got.message))
            } else {
                format!("FALSE ACCEPT: {want} {}", digits(last_line(log)))
            };
            clusters.entry(key).or_default().push(name);
        } else if want != 0 {
            errno_same += (want == got.errno) as u32;
            let alike = digits(last_line(log)) == digits(&got.message);
            message_same += alike as u32;
            if !alike && std::env::var_os("RTBPF_WORDS").is_some() {
                println!("{name}: {} / linux {}", got.message, last_line(log));
            }
            if want != got.errno {
                let key =
                    format!("errno: {} {} / linux {want} {}", got.errno, digits(&got.message), digits(last_line(log)));
                clusters.entry(key).or_default().push(name);
            }
        } else {
            ours += got.processed;
            theirs += linux["insns_processed"].as_u64().unwrap_or(0);
        }
    }
    if only.is_some() {
        return;
    }
    let mut clusters: Vec<_> = clusters.into_iter().collect();
    clusters.sort_by_key(|(_, names)| std::cmp::Reverse(names.len()));
    for (key, names) in &clusters {
        println!("{:4} {key}: {}", names.len(), names[..names.len().min(4)].join(" "));
    }
    println!("accepts {}/{}, rejects {}/{}", accepts[0], accepts[1], rejects[0], rejects[1]);
    println!("errno equal on {errno_same}/{} common rejects, last line alike on {message_same}", rejects[0]);
    println!("processed on common accepts: ours {ours}, linux {theirs}; {spent:?} in all, slowest {slowest:?}");
    let agree = (accepts[0] + rejects[0]) as f64 / (accepts[1] + rejects[1]) as f64;
    println!("agreement {:.2} %", agree * 100.0);
    assert!(agree >= 0.98, "verdicts agree on {:.2} % (at least 98 %)", agree * 100.0);
    let equal = errno_same as f64 / f64::from(rejects[0].max(1));
    assert!(equal >= 0.95, "error numbers are equal on {:.2} % of common refusals (at least 95 %)", equal * 100.0);
    let false_accepts = rejects[1] - rejects[0];
    assert_eq!(
        false_accepts, 0,
        "programs that Linux refuses were accepted, and docs/verifier-differences.md has no reason"
    );
}
