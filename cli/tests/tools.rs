//! Native code as people look at it: `rtbpf dump jited`, and debuggers and profilers told by `rtbpf run --tools`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(name)
}

fn dump(arch: &str, more: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_rtbpf"))
        .args(["dump", "jited", "--btf", "none", "--arch", arch])
        .args(more)
        .arg(example("xdp_counter.bpf.o"))
        .output()
        .expect("the command starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// The shape of a dump: bytes of code and instructions that its first line promises, bytes and slots that it shows.
fn shape(text: &str) -> (usize, usize, usize, BTreeSet<usize>) {
    let first = text.lines().next().expect("a line");
    let numbers: Vec<usize> = first.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let (mut bytes, mut slots) = (0, BTreeSet::new());
    for line in text.lines().filter(|line| line.starts_with(' ')) {
        let (place, rest) = line.trim_start().split_once(':').expect("a place");
        if line.starts_with("        ") {
            bytes += rest.split_whitespace().next().expect("bytes").len() / 2;
        } else {
            assert!(slots.insert(place.parse().expect("a slot")), "{line} is shown twice");
        }
    }
    (numbers[1], numbers[0], bytes, slots)
}

#[test]
fn dumps_show_every_byte_and_every_instruction_once() {
    for (arch, ret) in [("x86_64", "ret"), ("aarch64", "ret")] {
        for tier in [&[][..], &["--fast"], &["--fast", "--fuel"], &["--harden"]] {
            let text = dump(arch, tier);
            let (promised, insns, shown, slots) = shape(&text);
            assert_eq!(shown, promised, "{arch} {tier:?}\n{text}");
            assert_eq!(slots.len(), insns, "{arch} {tier:?}\n{text}");
            assert!(text.lines().any(|line| line.trim_end().ends_with(ret)), "{text}");
            assert!(text.contains("; traffic->packets++; @ "), "{text}");
            assert!(text.contains("# value of map by_protocol + 0"), "{text}");
        }
    }
}

#[test]
fn gdb_stops_in_a_program_and_knows_its_source_line() {
    if !Command::new("gdb").arg("--version").output().is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: no gdb");
        return;
    }
    let output = Command::new("gdb")
        .args(["-nx", "-batch", "-ex", "set debuginfod enabled off", "-ex", "set breakpoint pending on"])
        .args([
            "-ex",
            "break bpf_prog_count",
            "-ex",
            "run",
            "-ex",
            "info symbol $pc",
            "-ex",
            "info line *$pc",
            "--args",
        ])
        .arg(env!("CARGO_BIN_EXE_rtbpf"))
        .args(["run", "--engine", "jit", "--tools", "gdb", "--btf", "none"])
        .arg(example("xdp_counter.bpf.o"))
        .output()
        .expect("gdb starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    if errors.contains("ptrace") || text.contains("ptrace") {
        eprintln!("skipped: gdb may not trace here");
        return;
    }
    assert!(text.contains("bpf_prog_count in section .text"), "{text}{errors}");
    assert!(text.contains("xdp_counter.bpf.c"), "{text}{errors}");
}

#[test]
fn perf_reads_the_dump() {
    let perf = |args: &[&str], folder: &Path| Command::new("perf").args(args).current_dir(folder).output();
    let folder = std::env::temp_dir().join(format!("rtbpf-perf-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("the temporary folder is writable");
    let object = example("xdp_counter.bpf.o");
    let object = object.to_str().expect("text");
    let command = [env!("CARGO_BIN_EXE_rtbpf"), "run", "--engine", "jit", "--tools", "jitdump", "--btf", "none"];
    let record = ["record", "-q", "-k", "1", "-e", "cpu-clock:u", "-o", "perf.data"];
    let recorded = perf(&[&record[..], &command, &["--repeat", "60000", object]].concat(), &folder);
    let skipped = match recorded {
        Ok(output) if output.status.success() => {
            let injected =
                perf(&["inject", "--jit", "-i", "perf.data", "-o", "jit.data"], &folder).expect("perf starts");
            assert!(injected.status.success(), "{}", String::from_utf8_lossy(&injected.stderr));
            let report =
                perf(&["report", "--stdio", "-q", "--sort", "sym", "-i", "jit.data"], &folder).expect("perf starts");
            let text = String::from_utf8_lossy(&report.stdout);
            assert!(text.contains("bpf_prog_count"), "{text}{}", String::from_utf8_lossy(&report.stderr));
            None
        }
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).into_owned()),
        Err(error) => Some(error.to_string()),
    };
    std::fs::remove_dir_all(&folder).expect("it is ours");
    if let Some(why) = skipped {
        eprintln!("skipped: no perf, or it may not record here ({})", why.lines().next().unwrap_or_default());
    }
}
