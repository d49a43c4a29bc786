//! Small programs around one rule each: values of every kind, put where a rule wants one kind, and a little beside it.
//!
//! A program makes one or two values (a pointer of some kind, a number with some bounds), does one to three things with
//! them (calls a helper, loads, stores, computes, compares, spills, passes them on), gives back what it holds, and
//! leaves. Kind of program × helper × argument × kind of value is the largest family; most arguments are right, so that
//! the wrong one is reached.

mod calls;
mod values;

use std::fmt::Write;

use rtbpf_abi::map_spec::flags;
use rtbpf_abi::{MapKind, MapSpec, ProgKind, ProgType};

use super::case::assemble;
use super::{Case, CaseMap, Rng};
use values::Kind;

/// A program under construction. R6 is the context, R7 and R8 the two values, and the top 64 bytes of stack are zero.
struct Sibling<'a> {
    rng: &'a mut Rng,
    kind: ProgKind,
    text: String,
    /// Functions behind the entry.
    functions: String,
    labels: u32,
    /// What R7 and R8 were made as.
    made: [Kind; 2],
    /// What must be given back before the end: a register or stack slot, and the helper that takes it.
    held: Vec<(String, u32)>,
}

/// A case.
pub fn case(rng: &mut Rng, name: String) -> Case {
    let kinds: Vec<ProgKind> = ProgKind::all().filter(|&kind| loads(kind)).collect();
    let common = [ProgKind::SchedCls, ProgKind::Xdp, ProgKind::SocketFilter, ProgKind::Kprobe, ProgKind::RawTp];
    let kind = if rng.chance(1, 2) { rng.pick(&common) } else { rng.pick(&kinds) };
    let mut sibling = Sibling {
        rng,
        kind,
        text: String::new(),
        functions: String::new(),
        labels: 0,
        made: [Kind::Nothing; 2],
        held: Vec::new(),
    };
    sibling.build();
    let text = sibling.text + &sibling.functions;
    let (insns, names) = assemble(&text).unwrap_or_else(|error| panic!("{error}"));
    let maps = names.iter().map(|name| CaseMap { spec: map(name), init: Vec::new() }).collect();
    let prog_flags = match rng.below(30) {
        0 => 1,
        1 => 8,
        _ => 0,
    };
    let typed = !rng.chance(1, 40);
    Case { name, kind, prog_flags, insns, maps, typed, packets: Vec::new() }
}

/// Kinds of program that Linux loads without a target and with root's rights.
fn loads(kind: ProgKind) -> bool {
    !matches!(
        kind.prog_type(),
        ProgType::Tracing | ProgType::StructOps | ProgType::Ext | ProgType::Lsm | ProgType::LircMode2 | ProgType::Plain
    )
}

/// The maps that texts name.
fn map(name: &str) -> MapSpec {
    use MapKind as K;
    let with = |flags, spec| MapSpec { flags, ..spec };
    match name {
        "hash" => MapSpec::new(K::Hash, 4, 16, 8),
        "wide" => MapSpec::new(K::Hash, 16, 64, 8),
        "array" => MapSpec::new(K::Array, 4, 16, 8),
        "one" => MapSpec::new(K::Array, 4, 64, 1),
        "readonly" => with(flags::RDONLY_PROG, MapSpec::new(K::Array, 4, 64, 1)),
        "writeonly" => with(flags::WRONLY_PROG, MapSpec::new(K::Array, 4, 64, 1)),
        "percpu_hash" => MapSpec::new(K::PercpuHash, 4, 16, 8),
        "percpu_array" => MapSpec::new(K::PercpuArray, 4, 16, 8),
        "lru" => MapSpec::new(K::LruHash, 4, 16, 8),
        "lpm" => with(flags::NO_PREALLOC, MapSpec::new(K::LpmTrie, 8, 16, 8)),
        "ring" => MapSpec::new(K::Ringbuf, 0, 0, 4096),
        "user_ring" => MapSpec::new(K::UserRingbuf, 0, 0, 4096),
        "progs" => MapSpec::new(K::ProgArray, 4, 4, 8),
        "events" => MapSpec::new(K::PerfEventArray, 4, 4, 8),
        "stacks" => MapSpec::new(K::StackTrace, 4, 64, 8),
        "cgroups" => MapSpec::new(K::CgroupArray, 4, 4, 8),
        "queue" => MapSpec::new(K::Queue, 0, 16, 8),
        "stack" => MapSpec::new(K::Stack, 0, 16, 8),
        "bloom" => MapSpec::new(K::BloomFilter, 0, 16, 8),
        "devices" => MapSpec::new(K::Devmap, 4, 4, 8),
        "device_hash" => MapSpec::new(K::DevmapHash, 4, 4, 8),
        "cpus" => MapSpec::new(K::Cpumap, 4, 4, 2),
        "xsks" => MapSpec::new(K::Xskmap, 4, 4, 8),
        "socks" => MapSpec::new(K::Sockmap, 4, 4, 8),
        "sock_hash" => MapSpec::new(K::Sockhash, 4, 4, 8),
        "reuse" => MapSpec::new(K::ReuseportSockarray, 4, 8, 8),
        name => panic!("no map called {name}"),
    }
}

/// Every map above.
const MAPS: &[&str] = &[
    "hash",
    "wide",
    "array",
    "one",
    "readonly",
    "writeonly",
    "percpu_hash",
    "percpu_array",
    "lru",
    "lpm",
    "ring",
    "user_ring",
    "progs",
    "events",
    "stacks",
    "cgroups",
    "queue",
    "stack",
    "bloom",
    "devices",
    "device_hash",
    "cpus",
    "xsks",
    "socks",
    "sock_hash",
    "reuse",
];

const SIZES: [(&str, i32); 4] = [("u8", 1), ("u16", 2), ("u32", 4), ("u64", 8)];
const OPS: [&str; 12] = ["+=", "-=", "*=", "/=", "%=", "&=", "|=", "^=", "<<=", ">>=", "s>>=", "="];
const TESTS: [&str; 11] = ["==", "!=", ">", ">=", "<", "<=", "s>", "s>=", "s<", "s<=", "&"];
const EDGES: [i32; 22] =
    [0, 1, -1, 2, 3, 4, 7, 8, -8, 15, 16, 31, 32, 56, 63, 64, 65, 255, 511, 512, i32::MAX, i32::MIN];

impl Sibling<'_> {
    fn line(&mut self, text: impl AsRef<str>) {
        self.text.push_str(text.as_ref());
        self.text.push('\n');
    }

    fn label(&mut self) -> String {
        self.labels += 1;
        format!("l{}", self.labels)
    }

    fn build(&mut self) {
        self.line("r6 = r1\nr0 = 0\nif r0 != 0 goto out");
        for slot in 1..=8 {
            self.line(format!("*(u64 *)(r10 - {}) = 0", slot * 8));
        }
        for (at, reg) in ["r7", "r8"].into_iter().enumerate() {
            let kind = self.any_kind();
            self.value(kind, reg);
            self.made[at] = kind;
        }
        for _ in 0..1 + self.rng.below(3) {
            let access = self.made[0].is_memory() || self.rng.chance(1, 8);
            match self.rng.below(16) {
                0..6 => self.call_any(),
                6 | 7 if access => self.load("r7"),
                8 if access => self.store(),
                9 if access => self.atomic(),
                6..10 => self.compute(),
                10 | 11 => self.compare(),
                12 => self.spill(),
                13 => self.pass(),
                _ => self.odd(),
            }
        }
        self.leave();
    }

    /// Gives back what is held, and leaves with a value that most kinds of program may return.
    fn leave(&mut self) {
        for (place, helper) in std::mem::take(&mut self.held) {
            if !self.rng.chance(1, 12) {
                self.line(format!("r1 = {place}\nr2 = 0\ncall {helper}"));
            }
        }
        match self.rng.below(12) {
            0 => {
                let reg = self.rng.pick(&["r7", "r8"]);
                self.line(format!("r0 = {reg}"));
            }
            2 => {
                let edge = self.rng.pick(&EDGES);
                self.line(format!("r0 = {edge}"));
            }
            3 => self.line("w0 = -1"),
            4 => self.line("call 7\nr0 &= 1"),
            _ => self.line("r0 = 1"),
        }
        self.line("exit\nout:\nr0 = 1\nexit");
    }

    fn size(&mut self) -> (&'static str, i32) {
        self.rng.pick(&SIZES)
    }

    /// An offset near the edges of what values have.
    fn off(&mut self, size: i32) -> i32 {
        if self.rng.chance(1, 2) {
            return 0;
        }
        let base = self.rng.pick(&[0, 4, 8, 16, 24, 48, 60, 64, 76, 80, 136, 168, -8, -16, -64, -512]) / size * size;
        base + self.rng.pick(&[0, 0, 0, 0, 1, -1, size, -size])
    }

    fn load(&mut self, reg: &str) {
        let (size, bytes) = self.size();
        let off = self.off(bytes);
        let size = if self.rng.chance(1, 6) { size.replace('u', "s") } else { size.to_owned() };
        let size = if size == "s64" { "u64".to_owned() } else { size };
        let to = self.rng.pick(&["r0", "r0", "r7", "r8"]);
        self.line(format!("{to} = *({size} *)({reg} + {off})"));
        if to == "r7" {
            self.made[0] = Kind::Word;
        }
    }

    fn store(&mut self) {
        let (size, bytes) = self.size();
        let off = self.off(bytes);
        let what = self.rng.pick(&["r8", "r7", "1", "0", "-1", "r10"]);
        self.line(format!("*({size} *)(r7 + {off}) = {what}"));
    }

    fn atomic(&mut self) {
        let (size, bytes) = self.rng.pick(&SIZES[2..]);
        let off = self.off(bytes);
        let reg = self.rng.pick(&["r8", "r8", "r8", "r7", "r0"]);
        let low = if size == "u32" { reg.replace('r', "w") } else { reg.to_owned() };
        let base = self.rng.pick(&["r7", "r7", "r7", "r10", "r8"]);
        let line = match self.rng.below(8) {
            0 => format!("lock *({size} *)({base} + {off}) += {low}"),
            1 => format!("lock *({size} *)({base} + {off}) ^= {low}"),
            2 => format!("{low} = atomic_fetch_add(({size} *)({base} + {off}), {low})"),
            3 => format!("{low} = atomic_fetch_and(({size} *)({base} + {off}), {low})"),
            4 => format!("{reg} = xchg_64({base} + {off}, {reg})"),
            5 => format!("r0 = cmpxchg_64({base} + {off}, r0, {reg})"),
            6 => format!("{low} = load_acquire(({size} *)({base} + {off}))"),
            _ => format!("store_release(({size} *)({base} + {off}), {low})"),
        };
        self.line(line);
    }

    fn compute(&mut self) {
        let op = self.rng.pick(&OPS);
        let op = if self.rng.chance(1, 3) { self.rng.pick(&["+=", "-=", "&="]) } else { op };
        let (dst, src) = self.rng.pick(&[("r7", "r8"), ("r8", "r7"), ("r7", "r7"), ("r7", "r0")]);
        let right = if self.rng.chance(1, 2) { src.to_owned() } else { self.rng.pick(&EDGES).to_string() };
        let line = match self.rng.below(12) {
            0 => format!("{dst} = -{dst}"),
            1 => format!("{dst} = be16 {dst}"),
            2 => format!("{dst} = (s8){src}"),
            3 => format!("{dst} = (s32){src}"),
            4 if op == "/=" || op == "%=" => format!("{dst} s{op} {right}"),
            5 | 6 => {
                let low = |text: &str| if text.starts_with('r') { text.replace('r', "w") } else { text.to_owned() };
                format!("{} {op} {}", low(dst), low(&right))
            }
            _ => format!("{dst} {op} {right}"),
        };
        self.line(line);
        let memory = self.made[usize::from(dst == "r8")].is_memory();
        if self.rng.chance(if memory { 4 } else { 1 }, 8) {
            self.load(dst);
        }
    }

    fn compare(&mut self) {
        let test = if self.rng.chance(1, 3) { self.rng.pick(&["==", "!="]) } else { self.rng.pick(&TESTS) };
        let right = match self.rng.below(4) {
            0 => "r8".to_owned(),
            1 => self.rng.pick(&EDGES).to_string(),
            2 => self.rng.pick(&["r10", "r0", "r6", "r7"]).to_owned(),
            _ => "0".to_owned(),
        };
        let low = |text: &str| if text.starts_with('r') { text.replace('r', "w") } else { text.to_owned() };
        let over = self.label();
        // What half an address is compared with, Linux takes it to be another; see docs/verifier-differences.md.
        let often = if self.made[0].is_number() { 3 } else { 60 };
        let narrow = self.rng.chance(1, often) && right != "r10";
        match narrow {
            true => self.line(format!("if w7 {test} {} goto {over}", low(&right))),
            false => self.line(format!("if r7 {test} {right} goto {over}")),
        }
        match self.rng.below(4) {
            0 => self.line("goto out"),
            1 => self.line("r7 = r10\nr7 += -8"),
            2 => self.load("r7"),
            _ => {}
        }
        self.line(format!("{over}:"));
        if self.rng.chance(if self.made[0].is_memory() { 5 } else { 1 }, 8) {
            self.load("r7");
        }
    }

    fn spill(&mut self) {
        let (size, _) = self.size();
        let size = if self.rng.chance(1, 2) { "u64" } else { size };
        let at = self.rng.pick(&[-8, -16, -24, -12, -20, -7, -512, -516, -504, 0]);
        self.line(format!("*({size} *)(r10 + {at}) = r7"));
        if self.rng.chance(1, 3) {
            let (over, _) = self.size();
            let near = at + self.rng.pick(&[0, 0, 1, 4, -4]);
            self.line(format!("*({over} *)(r10 + {near}) = 1"));
        }
        let (fill, _) = self.size();
        let fill = if self.rng.chance(1, 2) { size } else { fill };
        let from = at + self.rng.pick(&[0, 0, 0, 0, 1, 4, -8]);
        self.line(format!("r7 = *({fill} *)(r10 + {from})"));
        if self.rng.chance(1, 2) {
            self.load("r7");
        }
    }

    /// Passes the values to a function that uses them.
    fn pass(&mut self) {
        let function = self.label();
        self.line(format!("r1 = r7\nr2 = r8\nr3 = r10\ncall {function}"));
        if self.rng.chance(1, 3) {
            self.line("r7 = r0");
        }
        let use_it = match self.rng.below(8) {
            0 => "r0 = r1".to_owned(),
            1 => "r0 = *(u32 *)(r1 + 0)".to_owned(),
            2 => "*(u64 *)(r3 - 8) = r1\nr0 = 0".to_owned(),
            3 => "*(u64 *)(r10 - 8) = r1\nr0 = *(u64 *)(r10 - 8)".to_owned(),
            4 => format!("*(u8 *)(r10 - {}) = 1\nr0 = 0", self.rng.pick(&[8, 16, 448, 449, 464, 512])),
            5 => "r0 = r10".to_owned(),
            6 => "r7 = r1\nr0 = 0".to_owned(),
            _ => "r1 += r2\nr0 = r1".to_owned(),
        };
        let _ = write!(self.functions, "{function}:\n{use_it}\nexit\n");
    }

    /// Legacy loads, loops, jumps that may end a program, tail calls.
    fn odd(&mut self) {
        let skb = matches!(
            self.kind.prog_type(),
            ProgType::SocketFilter | ProgType::SchedCls | ProgType::SchedAct | ProgType::CgroupSkb
        );
        match self.rng.below(5) {
            0 if skb || self.rng.chance(1, 12) => {
                let at = self.rng.below(64);
                let (size, _) = self.rng.pick(&SIZES[..3]);
                self.line(format!("r0 = *({size} *)skb[{at}]"));
            }
            0 | 1 => {
                let again = self.label();
                let (test, rounds) = (self.rng.pick(&["<", "!=", "s<", "<="]), self.rng.pick(&[1, 5, 64, 100]));
                self.line(format!("r9 = 0\n{again}:\nr9 += 1\nif r9 {test} {rounds} goto {again}"));
                if self.rng.chance(1, 2) {
                    self.line("r7 += r9");
                    self.load("r7");
                }
            }
            2 => self.line("may_goto out"),
            3 => {
                let map = if self.rng.chance(1, 6) { self.rng.pick(MAPS) } else { "progs" };
                self.line(format!("r1 = r6\nr2 = map[{map}] ll\nr3 = 2\ncall 12"));
            }
            _ => {
                let kind = Kind::Record;
                self.value(kind, "r7");
            }
        }
    }
}
