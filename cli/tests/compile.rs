//! `rtbpf compile`: the object file of an example, linked into the example's C program by the system's compiler.
//!
//! Where a compiler (or, for the other architecture, qemu's user mode) is missing, a line says so.

use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn works(command: &str) -> bool {
    let found = Command::new(command).arg("--version").output().is_ok_and(|output| output.status.success());
    if !found {
        eprintln!("skipped: no {command}");
    }
    found
}

/// A folder of its own, gone with it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("rtbpf-compile-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).expect("the temporary folder is writable");
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Compiles an example with these options, links it with a C program, and answers what that prints.
fn linked(object: &str, main: &Path, options: &[&str], cc: &str, runner: Option<&str>) -> String {
    let folder = Folder::new(&format!("{object}-{}", options.join("")));
    let (file, maps, binary) = (folder.0.join("out.o"), folder.0.join("maps.c"), folder.0.join("binary"));
    let compiled = Command::new(env!("CARGO_BIN_EXE_rtbpf"))
        .arg("compile")
        .arg(root().join("examples").join(object))
        .args(["--btf", "none", "-o"])
        .arg(&file)
        .arg("--maps")
        .arg(&maps)
        .args(options)
        .output()
        .expect("the command starts");
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    let built = Command::new(cc)
        .args(["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-no-pie", "-static", "-o"])
        .arg(&binary)
        .arg("-I")
        .arg(root().join("jit/include"))
        .arg("-I")
        .arg(root().join("jit/runtime"))
        .args([main, &maps, &root().join("jit/runtime/rtbpf_runtime.c"), &file])
        .output()
        .expect("the compiler starts");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let ran = match runner {
        Some(runner) => Command::new(runner).arg(&binary).output(),
        None => Command::new(&binary).output(),
    };
    String::from_utf8(ran.expect("the program starts").stdout).expect("text")
}

const COUNTED: &str = "\
protocol 17: verdict 2
protocol 6: verdict 2
protocol 17: verdict 2
protocol 1: verdict 2
protocol 17: verdict 2
by_protocol[1]: 1 packets, 60 bytes
by_protocol[6]: 1 packets, 60 bytes
by_protocol[17]: 3 packets, 180 bytes
";

fn counter(arch: &str, cc: &str, runner: Option<&str>) {
    let main = root().join("examples/ahead_of_time.c");
    for tier in [&["--arch", arch][..], &["--arch", arch, "--fast"], &["--arch", arch, "--harden"]] {
        assert_eq!(linked("xdp_counter.bpf.o", &main, tier, cc, runner), COUNTED, "{tier:?}");
    }
}

#[test]
fn the_example_links_and_counts() {
    if works("cc") {
        counter(std::env::consts::ARCH, "cc", None);
    }
}

#[test]
fn the_example_links_for_aarch64_and_counts_under_qemu() {
    let (cc, qemu) = ("aarch64-linux-gnu-gcc", "qemu-aarch64-static");
    if works(cc) && works(qemu) {
        counter("aarch64", cc, Some(qemu));
    }
}

/// Sends one packet of each protocol to a dispatcher whose program array was set up in the object.
const DISPATCH: &str = r#"
#include <stdio.h>
#include <string.h>
#include <rtbpf_runtime.h>
extern rtbpf_prog prog_dispatch;
extern uint64_t rtbpf_value_bss[];
int main(void)
{
	static uint8_t stack[8 * 512] __attribute__((aligned(16)));
	static const uint8_t protocols[] = { 6, 17, 1, 17 };
	for (int i = 0; i < 4; i++) {
		uint8_t packet[60] = { 0 };
		packet[12] = 8; packet[14] = 0x45; packet[23] = protocols[i];
		struct rtbpf_xdp ctx = { .data = packet, .data_end = packet + 60, .data_meta = packet };
		struct rtbpf_frame frame = { .stack_top = stack + sizeof(stack), .fault_at = UINT32_MAX, .fuel = 1000 };
		unsigned verdict = (unsigned)prog_dispatch(&ctx, &frame);
		printf("%u: %u, %u tail calls, fault %u\n", protocols[i], verdict, frame.tail_calls, frame.fault);
	}
	printf("seen %u %u %u\n", (unsigned)rtbpf_value_bss[0], (unsigned)rtbpf_value_bss[1], (unsigned)rtbpf_value_bss[2]);
	return 0;
}
"#;

#[test]
fn tail_calls_and_variables_work_in_a_host_in_c() {
    if !works("cc") {
        return;
    }
    let folder = Folder::new("dispatch-source");
    let main = folder.0.join("main.c");
    std::fs::write(&main, DISPATCH).expect("writes");
    let got = linked("tail_call.bpf.o", &main, &["--fuel"], "cc", None);
    let want = "6: 2, 1 tail calls, fault 0\n17: 1, 1 tail calls, fault 0\n1: 2, 0 tail calls, fault 0\n\
                17: 1, 1 tail calls, fault 0\nseen 1 1 2\n";
    assert_eq!(got, want);
}

/// Inserts, replaces and deletes through the runtime's hash, against what bpf-helpers(7) says.
const HASH: &str = r#"
#include <stdio.h>
#include <rtbpf_runtime.h>
static _Alignas(16) uint8_t values[4 * 24];
static uint32_t links[8];
static struct rtbpf_map map = { .kind = RTBPF_HASH, .key_size = 4, .value_size = 16, .max_entries = 4,
	.stride = 24, .values = values, .links = links };
int main(void)
{
	uint64_t value[2];
	for (uint32_t key = 10; key < 15; key++) {
		value[0] = key; value[1] = key * 3;
		printf("%d ", (int)rtbpf_map_update(&map, &key, value, 1, 0));
	}
	uint32_t key = 11, none = 99, fresh = 20;
	printf("%d ", (int)rtbpf_map_update(&map, &key, value, 1, 0));
	printf("%d ", (int)rtbpf_map_update(&map, &none, value, 2, 0));
	printf("%d ", (int)rtbpf_map_delete(&map, &key));
	printf("%d ", (int)rtbpf_map_delete(&map, &key));
	printf("%d ", (int)rtbpf_map_update(&map, &fresh, value, 0, 0));
	for (uint32_t k = 10; k < 21; k++) {
		uint64_t *found = rtbpf_map_lookup(&map, &k, 0);
		if (found) printf("%u=%u/%u ", k, (unsigned)found[0], (unsigned)found[1]);
	}
	printf("\n");
	return 0;
}
"#;

/// What a host in C prints that has the runtime and nothing of a program.
fn hosted(name: &str, source: &str) -> String {
    let folder = Folder::new(name);
    let main = folder.0.join("main.c");
    std::fs::write(&main, source).expect("writes");
    linked("xdp_counter.bpf.o", &main, &[], "cc", None)
}

#[test]
fn the_runtimes_hash_answers_as_the_man_page_says() {
    if works("cc") {
        let got = hosted("hash-source", HASH);
        assert_eq!(got.trim_end(), "0 0 0 0 -7 -17 -2 0 -2 0 10=10/30 12=12/36 13=13/39 20=14/42");
    }
}

/// Random uses of an LRU hash of 5 elements, beside a list in the order of uses.
const LRU: &str = r#"
#include <stdio.h>
#include <string.h>
#include <rtbpf_runtime.h>
static _Alignas(16) uint8_t values[5 * 16];
static uint32_t links[10], order[10];
static struct rtbpf_map map = { .kind = RTBPF_LRU_HASH, .key_size = 4, .value_size = 8, .max_entries = 5,
	.stride = 16, .values = values, .links = links, .order = order };
static uint32_t keys[6];
static uint64_t held[6];
static unsigned count;
static int known(uint32_t key)
{
	for (unsigned i = 0; i < count; i++)
		if (keys[i] == key)
			return (int)i;
	return -1;
}
static void drop(unsigned at)
{
	count--;
	memmove(keys + at, keys + at + 1, (count - at) * sizeof(*keys));
	memmove(held + at, held + at + 1, (count - at) * sizeof(*held));
}
static void append(uint32_t key, uint64_t value)
{
	keys[count] = key;
	held[count++] = value;
}
int main(void)
{
	uint64_t state = 88172645463325252u, evicted = 0;
	for (uint64_t round = 0; round < 20000; round++) {
		state ^= state << 13; state ^= state >> 7; state ^= state << 17;
		uint32_t key = (state >> 32) % 9;
		int at = known(key), want, got;
		switch (state % 4) {
		case 0: {
			uint64_t *found = rtbpf_map_lookup(&map, &key, 0);
			got = found ? *found == held[at < 0 ? 0 : at] : -1;
			want = at < 0 ? -1 : 1;
			if (at >= 0) { uint64_t value = held[at]; drop((unsigned)at); append(key, value); }
			break;
		}
		case 1:
			got = (int)rtbpf_map_delete(&map, &key);
			want = at < 0 ? -2 : 0;
			if (at >= 0) drop((unsigned)at);
			break;
		default:
			got = (int)rtbpf_map_update(&map, &key, &round, 0, 0);
			want = 0;
			if (at >= 0) drop((unsigned)at);
			else if (count == 5) { drop(0); evicted++; }
			append(key, round);
		}
		if (got != want) { printf("round %d: %d instead of %d\n", (int)round, got, want); return 1; }
	}
	printf("%s\n", evicted > 1000 ? "equal" : "too few");
	return 0;
}
"#;

#[test]
fn the_runtimes_lru_hash_evicts_what_was_used_longest_ago() {
    if works("cc") {
        assert_eq!(hosted("lru-source", LRU).trim_end(), "equal");
    }
}
