//! The command against bad input, as a new user would try it: one line that says what to do, the usual exit status,
//! nothing lost of what was already written.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn rtbpf(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_rtbpf")).args(args).output().expect("the binary starts")
}

fn example(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(name);
    path.to_string_lossy().into_owned()
}

fn temp(name: &str, bytes: &[u8]) -> PathBuf {
    let path = std::env::temp_dir().join(format!("rtbpf-bad-{}-{name}", std::process::id()));
    std::fs::write(&path, bytes).expect("the temporary folder is writable");
    path
}

/// Fails with status 1 and one line that holds all of `words`.
#[track_caller]
fn refuses(args: &[&str], words: &[&str]) {
    let output = rtbpf(args);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{args:?}: {error}");
    assert_eq!(error.trim_end().lines().count(), 1, "{args:?}: {error}");
    for word in words {
        assert!(error.contains(word), "{args:?}: no `{word}` in: {error}");
    }
}

#[test]
fn files_that_are_no_objects() {
    let object = std::fs::read(example("xdp_counter.bpf.o")).expect("the example is there");
    let empty = temp("empty.o", b"");
    let png = temp("picture.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\x06\0\0\0");
    let cut = temp("cut.o", &object[..object.len() / 2]);
    for command in ["run", "inspect", "verify"] {
        refuses(&[command, "/no/such/object.o"], &["no such file"]);
        refuses(&[command, "/tmp"], &["directory"]);
        refuses(&[command, &empty.to_string_lossy()], &["empty"]);
        refuses(&[command, &png.to_string_lossy()], &["picture.png", "ELF"]);
        refuses(&[command, &cut.to_string_lossy()], &["cut.o"]);
        refuses(&[command, env!("CARGO_BIN_EXE_rtbpf")], &["BPF"]);
    }
    for path in [empty, png, cut] {
        std::fs::remove_file(path).expect("it was written above");
    }
}

#[test]
fn an_object_that_cannot_be_read_hides_no_other() {
    let args = ["verify", "--format", "csv", "/no/such/object.o", &example("xdp_echo.bpf.o")];
    refuses(&args, &["no such file"]);
    assert!(String::from_utf8_lossy(&rtbpf(&args).stdout).contains("xdp_echo.bpf.o,"));
}

#[test]
fn wrong_names_and_values_say_what_there_is() {
    refuses(&["run", &example("tail_call.bpf.o")], &["--prog", "dispatch"]);
    refuses(&["run", &example("xdp_echo.bpf.o"), "--prog", "nope"], &["nope", "echo"]);
    refuses(&["run", &example("xdp_echo.bpf.o"), "--type", "xpd"], &["xpd", "sched_cls"]);
    refuses(&["run", &example("xdp_echo.bpf.o"), "--set", "nope=1"], &["nope", "echoed"]);
    refuses(&["run", &example("xdp_echo.bpf.o"), "--set", "echoed"], &["VAR=VALUE"]);
    refuses(&["run", &example("xdp_echo.bpf.o"), "--data", "0g"], &["hexadecimal"]);
    refuses(&["run", &example("xdp_counter.bpf.o"), "--map", "nope=1:1"], &["nope", "by_protocol"]);
    refuses(&["verify", "--policy", "linux-9", &example("xdp_echo.bpf.o")], &["linux-9", "strict-rt"]);
}

#[test]
fn wrong_usage_has_status_2() {
    assert_eq!(rtbpf(&["run"]).status.code(), Some(2));
    assert_eq!(rtbpf(&["no-such-command"]).status.code(), Some(2));
}

#[test]
fn a_cut_capture_is_used_as_far_as_it_goes() {
    let whole = std::fs::read(example("mixed.pcap")).expect("the example is there");
    let cut = temp("cut.pcap", &whole[..whole.len() - 10]);
    let out = temp("out.pcap", b"");
    let args =
        ["run", &example("xdp_counter.bpf.o"), "--pcap", &cut.to_string_lossy(), "--pcap-out", &out.to_string_lossy()];
    let output = rtbpf(&args);
    let (said, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("damaged after packet 9"), "{error}");
    assert!(said.contains("9 packets") && said.contains("XDP_PASS"), "{said}");
    // All nine packets were rewritten and stored: the capture less its last packet.
    let written = std::fs::metadata(&out).expect("it was written").len();
    assert!(written > 24 + 9 * 16, "{written} bytes");
    refuses(&["run", &example("xdp_counter.bpf.o"), "--pcap", &example("xdp_counter.bpf.o")], &["pcap"]);
    for path in [cut, out] {
        std::fs::remove_file(path).expect("it was written above");
    }
}

#[test]
fn a_closed_pipe_ends_quietly() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_rtbpf"))
        .args(["inspect", &example("xdp_counter.bpf.o")])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    // 141 is what a shell shows for a writer whose reader left; 0 if everything was written before.
    assert!(matches!(output.status.code(), Some(0 | 141)), "{:?}", output.status);
}
