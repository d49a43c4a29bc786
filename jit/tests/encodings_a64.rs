//! What the aarch64 encoder emits, as an independent disassembler reads it: the text is carried out on registers and
//! memory, and must do what the operation means (`isa::eval`). Every operation, every pair of registers, immediates and
//! offsets at the edges of their fields; on any host.
//!
//! Of a million and a half forms every 61st is taken, `RTBPF_FORMS=all` takes all of them.

#[path = "a64/cpu.rs"]
mod cpu;

use cpu::Cpu;
use rtbpf_isa::{AluOp, AtomicOp, CmpOp, Size, Swap, Width, eval};
use rtbpf_jit::a64::regs::Gpr;
use rtbpf_jit::a64::{A64, Features};
use rtbpf_jit::asm::Asm;
use rtbpf_jit::encode::{Addr, Bin, Div, Encode, Reach, Rhs};
use rtbpf_jit::opt::magic::Magic;
use yaxpeax_arch::{Decoder, U8Reader};
use yaxpeax_arm::armv8::a64::InstDecoder;

/// What operations may use for themselves: x9 to x12.
const TEMPORARIES: std::ops::RangeInclusive<usize> = 9..=12;
/// Tells whether a branch was taken.
const MARKER: usize = 13;

#[rustfmt::skip]
const IMMEDIATES: [i32; 26] = [
    0, 1, -1, 2, 3, 7, 8, 31, 32, 63, 64, 127, 255, 256, 0xfff, -0xfff, 0x1000, -0x1000, 0x1001, 0xff_f000, 0x100_0000,
    0x0f0f_0f0f, 0x1234_5678, i32::MAX, i32::MIN, i32::MIN + 1,
];
const DISPLACEMENTS: [i32; 16] = [0, 1, -1, 2, 4, 8, 255, 256, -256, -257, 4095, 4096, 16380, 32760, 32767, -32768];
const WIDTHS: [Width; 2] = [Width::W32, Width::W64];
const SIZES: [Size; 4] = [Size::B, Size::H, Size::W, Size::D];

/// Registers that operands may stand in.
fn registers() -> impl Iterator<Item = Gpr> + Clone {
    (0..29).filter(|n| !TEMPORARIES.contains(&(*n as usize)) && !(13..=18).contains(n)).map(Gpr::x)
}

fn pairs() -> impl Iterator<Item = (Gpr, Gpr)> + Clone {
    registers().flat_map(|a| registers().map(move |b| (a, b)))
}

/// Reads back and carries out what was emitted.
struct Forms {
    lse: bool,
    every: u64,
    count: u64,
    checked: u64,
}

impl Forms {
    fn new() -> Forms {
        let all = std::env::var("RTBPF_FORMS").is_ok_and(|value| value == "all");
        Forms { lse: true, every: if all { 1 } else { 61 }, count: 0, checked: 0 }
    }

    /// One form: how it is emitted, and what it means.
    fn check(&mut self, what: impl Fn() -> String, emit: impl FnOnce(&mut A64), means: impl FnOnce(&mut Cpu)) {
        self.count += 1;
        if !self.count.is_multiple_of(self.every) {
            return;
        }
        self.checked += 1;
        let mut e = A64::new(Asm::new(96, 0), Features { lse: self.lse });
        emit(&mut e);
        let done = std::mem::replace(e.asm(), Asm::new(0, 0)).finish(0).unwrap_or_else(|error| panic!("{error}"));
        let begin = Cpu::new(contents(self.count));
        let (mut want, mut got, mut read) = (begin.clone(), begin, Vec::new());
        means(&mut want);
        let mut at = 0i64;
        while let Some(word) = done.bytes.get(at as usize..at as usize + 4) {
            let decoded = InstDecoder::default().decode(&mut U8Reader::new(word));
            let text = decoded.unwrap_or_else(|error| panic!("{}: {word:02x?}: {error}", what())).to_string();
            at += got.step(&text);
            read.push(text);
        }
        let kept = |cpu: &Cpu| (0..32).filter(|n| !TEMPORARIES.contains(n)).map(|n| cpu.x[n]).collect::<Vec<_>>();
        assert!(
            kept(&got) == kept(&want) && got.stores == want.stores,
            "{} reads as {read:?}\n{got:x?}\n{want:x?}",
            what()
        );
    }
}

/// Register contents, other ones for each form.
fn contents(seed: u64) -> [u64; 32] {
    const EDGES: [u64; 8] = [0, 1, u64::MAX, 1 << 63, i64::MAX as u64, 0xffff_ffff, 1 << 31, 0x8000_0000_0000_0001];
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    std::array::from_fn(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        if state.is_multiple_of(5) { EDGES[(state >> 32) as usize % 8] } else { state }
    })
}

fn reg(cpu: &Cpu, reg: Gpr) -> u64 {
    cpu.x[usize::from(reg.number())]
}

fn set(cpu: &mut Cpu, reg: Gpr, value: u64) {
    cpu.x[usize::from(reg.number())] = value;
}

fn right(cpu: &Cpu, rhs: Rhs<Gpr>) -> u64 {
    match rhs {
        Rhs::Reg(b) => reg(cpu, b),
        Rhs::Imm(value) => value as i64 as u64,
    }
}

const BINS: [(Bin, AluOp); 9] = [
    (Bin::Add, AluOp::Add),
    (Bin::Sub, AluOp::Sub),
    (Bin::Mul, AluOp::Mul),
    (Bin::Or, AluOp::Or),
    (Bin::And, AluOp::And),
    (Bin::Xor, AluOp::Xor),
    (Bin::Lsh, AluOp::Lsh),
    (Bin::Rsh, AluOp::Rsh),
    (Bin::Arsh, AluOp::Arsh),
];
const DIVISIONS: [(Div, AluOp); 4] =
    [(Div::Div, AluOp::Div), (Div::Mod, AluOp::Mod), (Div::Sdiv, AluOp::Sdiv), (Div::Smod, AluOp::Smod)];

fn arithmetic(forms: &mut Forms) {
    for w in WIDTHS {
        for (d, a) in pairs() {
            let rights = registers().map(Rhs::Reg).chain(IMMEDIATES.map(Rhs::Imm));
            for b in rights.clone() {
                for (op, meaning) in BINS {
                    forms.check(
                        || format!("{op:?} {w:?} {d:?} {a:?} {b:?}"),
                        |e| e.bin(op, w, d, a, b),
                        |cpu| set(cpu, d, eval::alu(meaning, w, reg(cpu, a), right(cpu, b))),
                    );
                }
            }
            let divisors = [Rhs::Reg(a)].into_iter().chain(IMMEDIATES.map(Rhs::Imm));
            for (b, (op, meaning)) in divisors.flat_map(|b| DIVISIONS.map(|division| (b, division))) {
                forms.check(
                    || format!("{op:?} {w:?} {d:?} {b:?}"),
                    |e| e.divide(op, w, d, b, false),
                    |cpu| set(cpu, d, eval::alu(meaning, w, reg(cpu, d), right(cpu, b))),
                );
            }
        }
    }
}

fn moves(forms: &mut Forms) {
    for (d, s) in pairs() {
        for w in WIDTHS {
            forms.check(
                || format!("mov {w:?} {d:?} {s:?}"),
                |e| e.mov(w, d, s),
                |cpu| set(cpu, d, eval::alu(AluOp::Mov, w, 0, reg(cpu, s))),
            );
            forms.check(
                || format!("neg {w:?} {d:?} {s:?}"),
                |e| e.neg(w, d, s),
                |cpu| set(cpu, d, eval::neg(w, reg(cpu, s))),
            );
            for from in [Size::B, Size::H, Size::W] {
                forms.check(
                    || format!("sign extend {w:?} {from:?} {d:?} {s:?}"),
                    |e| e.sign_extend(w, from, d, s),
                    |cpu| set(cpu, d, eval::move_sx(w, from, reg(cpu, s))),
                );
            }
            for count in 0..w.bits() as u8 {
                let turned = |value: u64| match w {
                    Width::W32 => (value as u32).rotate_left(count.into()).into(),
                    Width::W64 => value.rotate_left(count.into()),
                };
                forms.check(
                    || format!("rotate {w:?} {d:?} {s:?} {count}"),
                    |e| e.rotate_left(w, d, s, count),
                    |cpu| set(cpu, d, turned(reg(cpu, s))),
                );
            }
            for divisor in [3u64, 5, 6, 7, 10, 641, 1000, 0x7fff_ffff, 0xffff_fffb] {
                let Some(magic) = Magic::new(w, divisor) else { continue };
                forms.check(
                    || format!("quotient {w:?} {d:?} {s:?} {divisor}"),
                    |e| {
                        let q = e.quotient(w, d, s, false, magic).expect("there is a high product");
                        e.mov(w, d, q);
                    },
                    |cpu| set(cpu, d, eval::alu(AluOp::Div, w, reg(cpu, s), divisor)),
                );
                forms.check(
                    || format!("quotient of a narrow number {w:?} {d:?} {s:?} {divisor}"),
                    |e| {
                        e.mov(Width::W32, d, s);
                        let q = e.quotient(w, d, d, true, magic).expect("there is a high product");
                        e.mov(w, d, q);
                    },
                    |cpu| set(cpu, d, eval::alu(AluOp::Div, w, reg(cpu, s) as u32 as u64, divisor)),
                );
            }
        }
        for from in SIZES {
            forms.check(
                || format!("zero extend {from:?} {d:?} {s:?}"),
                |e| e.zero_extend(from, d, s),
                |cpu| set(cpu, d, eval::zero_extend(from, reg(cpu, s))),
            );
        }
    }
    for d in registers() {
        for size in [Size::H, Size::W, Size::D] {
            forms.check(
                || format!("swap {size:?} {d:?}"),
                |e| e.swap(size, d),
                |cpu| set(cpu, d, eval::swap(Swap::Bswap, size, reg(cpu, d))),
            );
        }
        // Every way to put a constant together of halves.
        for number in 0..256u64 {
            let half = |at: u64| [0, 0xffff, 0x1234, 0x8000][(number >> (2 * at) & 3) as usize];
            let value = (0..4).fold(0, |value, at| value << 16 | half(at));
            forms.check(|| format!("{d:?} = {value:#x}"), |e| e.mov_imm(d, value), |cpu| set(cpu, d, value));
        }
    }
}

/// Addresses over `base`: with each displacement, each index and each shift.
fn addresses(base: Gpr) -> impl Iterator<Item = Addr<Gpr>> {
    let scaled = registers().flat_map(|index| (0..4).map(move |shift| (index, shift)));
    let indexed = scaled.flat_map(move |index| [0, -8, 4096].map(|disp| Addr { base, index: Some(index), disp }));
    DISPLACEMENTS.into_iter().map(move |disp| Addr::new(base, disp)).chain(indexed)
}

fn ea(cpu: &Cpu, addr: Addr<Gpr>) -> u64 {
    let index = addr.index.map_or(0, |(index, shift)| reg(cpu, index) << shift);
    reg(cpu, addr.base).wrapping_add(index).wrapping_add(addr.disp as i64 as u64)
}

fn memory(forms: &mut Forms) {
    for (d, base) in pairs() {
        for addr in addresses(base) {
            for (size, signed) in SIZES.into_iter().flat_map(|size| [(size, false), (size, size != Size::D)]) {
                let extended = |value| if signed { eval::sign_extend(size, value) } else { value };
                forms.check(
                    || format!("load {size:?} {signed} {d:?} {addr:?}"),
                    |e| e.load(size, signed, d, addr),
                    |cpu| set(cpu, d, extended(cpu.read(ea(cpu, addr), size.bytes()))),
                );
            }
            for size in SIZES {
                forms.check(
                    || format!("store {size:?} {d:?} {addr:?}"),
                    |e| e.store(size, addr, d),
                    |cpu| cpu.write(ea(cpu, addr), size.bytes(), reg(cpu, d)),
                );
            }
            for w in WIDTHS {
                forms.check(
                    || format!("lea {w:?} {d:?} {addr:?}"),
                    |e| e.lea(w, d, addr),
                    |cpu| set(cpu, d, eval::alu(AluOp::Mov, w, 0, ea(cpu, addr))),
                );
            }
        }
    }
    for (base, size) in registers().flat_map(|base| SIZES.map(|size| (base, size))) {
        for (disp, value) in DISPLACEMENTS.into_iter().flat_map(|disp| IMMEDIATES.map(|value| (disp, value))) {
            let addr = Addr::new(base, disp);
            forms.check(
                || format!("store {size:?} {addr:?} {value}"),
                |e| e.store_imm(size, addr, value),
                |cpu| cpu.write(ea(cpu, addr), size.bytes(), value as i64 as u64),
            );
        }
    }
}

#[rustfmt::skip]
const ATOMICS: [(AtomicOp, bool); 10] = [
    (AtomicOp::Add, false), (AtomicOp::Add, true), (AtomicOp::Or, false), (AtomicOp::Or, true),
    (AtomicOp::And, false), (AtomicOp::And, true), (AtomicOp::Xor, false), (AtomicOp::Xor, true),
    (AtomicOp::Xchg, true), (AtomicOp::Cmpxchg, true),
];

fn atomics(forms: &mut Forms) {
    const R0: Gpr = rtbpf_jit::a64::regs::MAP[0];
    for lse in [true, false] {
        forms.lse = lse;
        for ((base, src), disp) in pairs().flat_map(|pair| DISPLACEMENTS.map(|disp| (pair, disp))) {
            for (w, (op, fetch)) in WIDTHS.into_iter().flat_map(|w| ATOMICS.map(|op| (w, op))) {
                forms.check(
                    || format!("{op:?} {fetch} {w:?} {base:?} {disp} {src:?} {lse}"),
                    |e| e.atomic(op, fetch, w, base, disp, src),
                    |cpu| {
                        let (at, bytes) = (ea(cpu, Addr::new(base, disp)), w.bits() / 8);
                        let old = cpu.read(at, bytes);
                        // Without one instruction for it, a failed comparison writes nothing.
                        let fails = op == AtomicOp::Cmpxchg && eval::compare(CmpOp::Ne, w, old, reg(cpu, R0));
                        if lse || !fails {
                            cpu.write(at, bytes, eval::atomic(op, w, old, reg(cpu, src), reg(cpu, R0)));
                        }
                        match op {
                            AtomicOp::Cmpxchg => set(cpu, R0, old),
                            _ if fetch => set(cpu, src, old),
                            _ => {}
                        }
                    },
                );
            }
            for size in SIZES {
                let addr = Addr::new(base, disp);
                forms.check(
                    || format!("acquire {size:?} {src:?} {addr:?}"),
                    |e| e.load_acquire(size, src, base, disp),
                    |cpu| set(cpu, src, cpu.read(ea(cpu, addr), size.bytes())),
                );
                forms.check(
                    || format!("release {size:?} {src:?} {addr:?}"),
                    |e| e.store_release(size, base, disp, src),
                    |cpu| cpu.write(ea(cpu, addr), size.bytes(), reg(cpu, src)),
                );
            }
        }
    }
}

fn branches(forms: &mut Forms) {
    for (w, op) in WIDTHS.into_iter().flat_map(|w| CmpOp::ALL.map(|op| (w, op))) {
        for a in registers() {
            for b in registers().map(Rhs::Reg).chain(IMMEDIATES.map(Rhs::Imm)) {
                let (d, s) = (Gpr::x(3), Gpr::x(MARKER as u8));
                forms.check(
                    || format!("select {op:?} {w:?} {a:?} {b:?}"),
                    |e| e.select(op, w, a, b, d, s),
                    |cpu| {
                        if !eval::compare(op, w, reg(cpu, a), right(cpu, b)) {
                            set(cpu, d, reg(cpu, s));
                        }
                    },
                );
                forms.check(
                    || format!("set {op:?} {w:?} {a:?} {b:?}"),
                    |e| e.set(op, w, a, b, d),
                    |cpu| set(cpu, d, eval::compare(op, w, reg(cpu, a), right(cpu, b)).into()),
                );
                for width in WIDTHS {
                    forms.check(
                        || format!("add {op:?} {w:?} {a:?} {b:?} {width:?}"),
                        |e| e.add_truth(op, w, a, b, width, d),
                        |cpu| {
                            let truth = eval::compare(op, w, reg(cpu, a), right(cpu, b)).into();
                            set(cpu, d, eval::alu(AluOp::Add, width, reg(cpu, d), truth));
                        },
                    );
                }
                if let (CmpOp::Lt, Width::W64, Rhs::Reg(b)) = (op, w, b) {
                    let sum = move |cpu: &mut _| reg(cpu, a).overflowing_add(reg(cpu, b));
                    forms.check(
                        || format!("add {a:?} {b:?} and carry"),
                        |e| e.add_carry(a, b, d),
                        |cpu| {
                            let (sum, carry) = sum(cpu);
                            set(cpu, d, sum.wrapping_add(carry.into()));
                        },
                    );
                    forms.check(
                        || format!("carry of {a:?} {b:?}"),
                        |e| e.set_carry(a, b, d),
                        |cpu| {
                            let (_, carry) = sum(cpu);
                            set(cpu, d, carry.into());
                        },
                    );
                }
                for reach in [Reach::Short, Reach::Near, Reach::Far] {
                    forms.check(
                        || format!("{op:?} {w:?} {a:?} {b:?} {reach:?}"),
                        |e| {
                            let to = e.asm().label();
                            e.branch(op, w, a, b, to, reach);
                            e.mov_imm(Gpr::x(MARKER as u8), 1);
                            e.asm().bind(to);
                        },
                        |cpu| {
                            if !eval::compare(op, w, reg(cpu, a), right(cpu, b)) {
                                cpu.x[MARKER] = 1;
                            }
                        },
                    );
                }
            }
        }
    }
}

#[test]
fn forms_read_as_they_are_meant() {
    let mut forms = Forms::new();
    for part in [arithmetic, moves, memory, branches, atomics] {
        part(&mut forms);
    }
    println!("aarch64: {} forms of {} read as they are meant", forms.checked, forms.count);
    assert!(forms.count >= 1_000_000 && forms.checked >= 10_000, "{} of {}", forms.checked, forms.count);
}
