//! `rtbpf bench latency`: what it measures, not how fast that was.

use std::process::Command;

fn latency(args: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_rtbpf"))
        .args(["bench", "latency", "--ops", "2000"])
        .args(args)
        .output()
        .expect("the command starts");
    let text = if output.status.success() { output.stdout } else { output.stderr };
    (output.status.success(), String::from_utf8(text).expect("text"))
}

/// Each operation is timed once, and holds the locks of its map once or more often.
#[test]
fn operations_and_the_locks_they_hold_are_counted() {
    for (work, class) in [
        ("hash update of one key, raw", "hash bucket"),
        ("hash update of one key, sleeping", "hash bucket"),
        ("lru update with eviction", "lru local"),
        ("queue", "queue"),
        ("stack id", "operation"),
    ] {
        let (done, text) = latency(&[work]);
        assert!(done, "{text}");
        for model in ["1 thread, NonRt", "1 thread, Rt"] {
            let block = text.split_once(model).unwrap_or_else(|| panic!("no {model} in {text}")).1;
            let block = block.split("thread").next().unwrap_or_default();
            let counted = |name: &str| {
                let rest = block.lines().find_map(|line| line.trim_start().strip_prefix(name))?;
                rest.split_whitespace().next()?.parse::<u32>().ok()
            };
            assert_eq!(counted("operation"), Some(2000), "{text}");
            assert!(counted(class).is_some_and(|count| count >= 2000 / 10), "no {class} of {work} in {text}");
        }
    }
}

#[test]
fn unknown_work_names_what_there_is() {
    let (done, text) = latency(&["nothing of the kind"]);
    assert!(!done && text.contains("no such work") && text.contains("stack id"), "{text}");
}
