//! What Linux 6.18 answers to thousands of small programs, many variants around one rule each: the numbers recorded in
//! `tests/data/variants` are those of the verifier, and those of the running kernel where it may be asked.
//!
//! `RTBPF_RECORD=1` writes the kernel's answers into the files.

use std::fs;
use std::path::{Path, PathBuf};

use rtbpf_tests::generate::Case;
use rtbpf_tests::kernel;
use rtbpf_tests::machine::Machine;
use rtbpf_tests::variants::{Family, parse};

fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/variants");
    let files = fs::read_dir(&folder).expect("the folder is in the tree").map(|entry| entry.expect("readable").path());
    let mut files: Vec<PathBuf> = files.collect();
    files.sort();
    files
}

fn families(path: &Path) -> (String, Vec<Family>) {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let families = parse(&text).unwrap_or_else(|wrong| panic!("{}: {wrong}", path.display()));
    (text, families)
}

/// Compares recorded numbers with those that `judge` gives.
fn check(judge: impl Fn(&Case) -> Result<i32, String>) {
    let (mut count, mut wrong) = (0, Vec::new());
    for path in files() {
        for family in families(&path).1 {
            for (case, recorded) in family.cases().unwrap_or_else(|wrong| panic!("{}: {wrong}", path.display())) {
                count += 1;
                let got = judge(&case);
                if got.as_ref().ok() != recorded.as_ref() {
                    wrong.push(format!("recorded {recorded:?}, got {got:?}: {}", case.name));
                }
            }
        }
    }
    println!("{count} programs");
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong[..wrong.len().min(20)].join("\n"));
}

#[test]
fn variants_are_judged_as_linux_judged_them() {
    check(|case| match Machine::new(case)?.judge(case) {
        Ok(_) => Ok(0),
        Err(rejection) => Ok(rejection.errno.number()),
    });
}

#[test]
fn the_running_kernel_answers_as_recorded() {
    if let Err(reason) = kernel::permitted() {
        println!("skipped: {reason}");
        return;
    }
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    if !release.starts_with("6.18.") {
        println!("skipped: the answers are those of Linux 6.18, and this is {}", release.trim());
        return;
    }
    let ask = |case: &Case| kernel::load(case, false).map(|loaded| loaded.verdict().errno);
    if std::env::var_os("RTBPF_RECORD").is_none() {
        return check(ask);
    }
    for path in files() {
        let (text, families) = families(&path);
        // What stands before the first family, and each family.
        let mut kept: Vec<String> = text.split("\n== ").map(without_answers).collect();
        for (family, text) in families.iter().zip(kept.iter_mut().skip(1)) {
            let cases = family.cases().unwrap_or_else(|wrong| panic!("{}: {wrong}", path.display()));
            let answers =
                cases.iter().map(|(case, _)| ask(case).unwrap_or_else(|error| panic!("{}: {error}", case.name)));
            *text = format!("{}\n{}", text.trim_end(), family.answers(&answers.collect::<Vec<_>>()));
        }
        fs::write(&path, kept.join("\n== ")).expect("the file can be written");
    }
}

fn without_answers(text: &str) -> String {
    text.lines().filter(|line| !line.starts_with("=> ")).map(|line| line.to_owned() + "\n").collect()
}
