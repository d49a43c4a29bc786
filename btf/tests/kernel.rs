//! The running kernel's types, where there is a kernel that shows them.

use std::time::Instant;

use rtbpf_btf::{Btf, Kind};

#[test]
fn the_running_kernel_parses_and_answers() {
    let Ok(bytes) = std::fs::read("/sys/kernel/btf/vmlinux") else {
        println!("skipped: no /sys/kernel/btf/vmlinux");
        return;
    };
    let start = Instant::now();
    let btf = Btf::parse(&bytes).unwrap();
    let parsed = start.elapsed();
    let task = btf.find("task_struct", |kind| matches!(kind, Kind::Struct { .. })).unwrap();
    println!("{} types, parsed in {parsed:?}, first name in {:?}", btf.len(), start.elapsed() - parsed);
    let pid = btf.member(task.id, "pid").unwrap();
    assert_eq!(btf.size_of(pid.ty), Some(4));
    assert_eq!(btf.declare(pid.ty, "pid"), "pid_t pid");
    assert!(btf.iter().all(|ty| btf.define(ty.id).len() < 1 << 20));
}
