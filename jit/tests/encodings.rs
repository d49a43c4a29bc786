//! What the x86_64 encoder emits, as an independent disassembler reads it: every register pair, every addressing form,
//! immediates and displacements at the edges of their fields.

use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};
use rtbpf_isa::{AtomicOp, CmpOp, Size, Width};
use rtbpf_jit::asm::{Asm, Label};
use rtbpf_jit::encode::{Addr, Bin, Encode, Reach, Rhs};
use rtbpf_jit::x64::regs::Gpr;
use rtbpf_jit::x64::{Features, X64};

const IMMEDIATES: [i32; 13] = [1, -1, 2, 127, 128, -128, -129, 255, 256, 0x7fff, 0x1234_5678, i32::MAX, i32::MIN];
const DISPLACEMENTS: [i32; 9] = [0, 1, -1, 127, 128, -128, -129, 32767, -32768];

fn name(reg: Gpr, bits: u32) -> Register {
    let full = Register::RAX as u32 + reg as u32;
    let base = [Register::RAX, Register::EAX, Register::AX];
    match bits {
        64 => Register::try_from(full as usize).expect("sixteen registers"),
        32 => base_plus(base[1], reg),
        16 => base_plus(base[2], reg),
        // al cl dl bl spl bpl sil dil r8b…: iced puts ah to bh between.
        _ => match reg as u32 {
            low @ 0..=3 => base_plus_number(Register::AL, low),
            high => base_plus_number(Register::SPL, high - 4),
        },
    }
}

fn base_plus(base: Register, reg: Gpr) -> Register {
    base_plus_number(base, reg as u32)
}

fn base_plus_number(base: Register, number: u32) -> Register {
    Register::try_from(base as usize + number as usize).expect("sixteen registers")
}

/// Emits one form a call, decodes them all, and hands each back to be judged.
fn judge<T: std::fmt::Debug>(forms: &[T], emit: impl Fn(&mut X64, &T), agrees: impl Fn(&Instruction, &T) -> bool) {
    let mut e = X64::new(Asm::new(forms.len() * 8, 0), Features { bmi2: true });
    for form in forms {
        emit(&mut e, form);
    }
    let Ok(done) = e.into_asm().finish(0) else { panic!("these forms have no labels") };
    let mut decoder = Decoder::new(64, &done.bytes, DecoderOptions::NONE);
    for form in forms {
        let insn = decoder.decode();
        assert!(!insn.is_invalid() && agrees(&insn, form), "{form:x?} reads as {:?} {insn:?}", insn.mnemonic());
    }
    assert!(!decoder.can_decode(), "more was emitted than was asked for");
}

fn pairs() -> impl Iterator<Item = (Gpr, Gpr)> {
    Gpr::ALL.into_iter().flat_map(|a| Gpr::ALL.into_iter().map(move |b| (a, b)))
}

const WIDTHS: [Width; 2] = [Width::W32, Width::W64];
const SIMPLE: [(Bin, Mnemonic); 6] = [
    (Bin::Add, Mnemonic::Add),
    (Bin::Sub, Mnemonic::Sub),
    (Bin::Or, Mnemonic::Or),
    (Bin::And, Mnemonic::And),
    (Bin::Xor, Mnemonic::Xor),
    (Bin::Mul, Mnemonic::Imul),
];

#[test]
fn register_forms_read_as_written() {
    for width in WIDTHS {
        for (op, mnemonic) in SIMPLE {
            let forms: Vec<_> = pairs().collect();
            judge(
                &forms,
                |e, &(d, s)| e.bin(op, width, d, d, Rhs::Reg(s)),
                |insn, &(d, s)| {
                    insn.mnemonic() == mnemonic
                        && insn.op0_register() == name(d, width.bits())
                        && insn.op1_register() == name(s, width.bits())
                },
            );
        }
        for (op, mnemonic) in [(Bin::Lsh, Mnemonic::Shlx), (Bin::Rsh, Mnemonic::Shrx), (Bin::Arsh, Mnemonic::Sarx)] {
            let forms: Vec<_> = pairs().flat_map(|(a, b)| Gpr::ALL.map(|d| (d, a, b))).collect();
            judge(
                &forms,
                |e, &(d, a, b)| e.bin(op, width, d, a, Rhs::Reg(b)),
                |insn, &(d, a, b)| {
                    let bits = width.bits();
                    insn.mnemonic() == mnemonic
                        && insn.op0_register() == name(d, bits)
                        && insn.op1_register() == name(a, bits)
                        && insn.op2_register() == name(b, bits)
                },
            );
        }
    }
}

#[test]
fn immediates_read_as_written() {
    for width in WIDTHS {
        for (op, mnemonic) in SIMPLE {
            let forms: Vec<_> = Gpr::ALL.into_iter().flat_map(|d| IMMEDIATES.map(|imm| (d, imm))).collect();
            judge(
                &forms,
                |e, &(d, imm)| e.bin(op, width, d, d, Rhs::Imm(imm)),
                |insn, &(d, imm)| {
                    // A positive mask clears the upper half at either width.
                    let bits = if op == Bin::And && imm >= 0 { 32 } else { width.bits() };
                    let last = insn.op_count() - 1;
                    insn.mnemonic() == mnemonic
                        && insn.op0_register() == name(d, bits)
                        && insn.immediate(last) as i32 == imm
                        && (bits == 32 || insn.immediate(last) == imm as i64 as u64)
                },
            );
        }
    }
    let constants = [1, 0x7f, 0xffff_ffff, 0x8000_0000, 1 << 32, u64::MAX, 1 << 63, 0xffff_ffff_8000_0000];
    let forms: Vec<_> = Gpr::ALL.into_iter().flat_map(|d| constants.map(|value| (d, value))).collect();
    judge(
        &forms,
        |e, &(d, value)| e.mov_imm(d, value),
        |insn, &(d, value)| {
            let loaded = match insn.op1_kind() {
                OpKind::Immediate32 => insn.immediate32() as u64,
                _ => insn.immediate(1),
            };
            insn.mnemonic() == Mnemonic::Mov && insn.op0_register().full_register() == name(d, 64) && loaded == value
        },
    );
}

type Form = (Gpr, Addr<Gpr>);

/// Every register with every base, index, shift and displacement.
fn addresses(reg: Gpr) -> Vec<Form> {
    let mut forms = Vec::new();
    for base in Gpr::ALL {
        let indices = Gpr::ALL.into_iter().filter(|index| *index != Gpr::Rsp);
        let scaled = indices.flat_map(|index| (0..4).map(move |shift| Some((index, shift))));
        for index in scaled.chain([None]) {
            forms.extend(DISPLACEMENTS.map(|disp| (reg, Addr { base, index, disp })));
        }
    }
    forms
}

fn same_address(insn: &Instruction, addr: &Addr<Gpr>) -> bool {
    let index = addr.index.map_or(Register::None, |(index, _)| name(index, 64));
    let scale = addr.index.map_or(1, |(_, shift)| 1 << shift);
    insn.memory_base() == name(addr.base, 64)
        && insn.memory_index() == index
        && insn.memory_index_scale() == scale
        && insn.memory_displacement64() == addr.disp as i64 as u64
}

#[test]
fn memory_forms_read_as_written() {
    let mut count = 0;
    for reg in Gpr::ALL {
        let forms = addresses(reg);
        let loads = [
            (Size::B, false, Mnemonic::Movzx, 32),
            (Size::H, false, Mnemonic::Movzx, 32),
            (Size::W, false, Mnemonic::Mov, 32),
            (Size::D, false, Mnemonic::Mov, 64),
            (Size::B, true, Mnemonic::Movsx, 64),
            (Size::H, true, Mnemonic::Movsx, 64),
            (Size::W, true, Mnemonic::Movsxd, 64),
        ];
        for (size, signed, mnemonic, bits) in loads {
            judge(
                &forms,
                |e, &(d, addr)| e.load(size, signed, d, addr),
                |insn, (d, addr)| {
                    insn.mnemonic() == mnemonic
                        && insn.op0_register() == name(*d, bits)
                        && insn.memory_size().size() == size.bytes() as usize
                        && same_address(insn, addr)
                },
            );
            count += forms.len();
        }
        for size in [Size::B, Size::H, Size::W, Size::D] {
            judge(
                &forms,
                |e, &(s, addr)| e.store(size, addr, s),
                |insn, (s, addr)| {
                    insn.mnemonic() == Mnemonic::Mov
                        && insn.op1_register() == name(*s, size.bits())
                        && insn.memory_size().size() == size.bytes() as usize
                        && same_address(insn, addr)
                },
            );
            count += forms.len();
        }
        judge(
            &forms,
            |e, &(d, addr)| e.lea(Width::W64, d, addr),
            |insn, (d, addr)| {
                insn.mnemonic() == Mnemonic::Lea && insn.op0_register() == name(*d, 64) && same_address(insn, addr)
            },
        );
        count += forms.len();
    }
    println!("x86_64: {count} forms of loads, stores and addresses read as written");
    assert!(count > 1_000_000, "only {count} forms");
}

#[test]
fn moves_and_extensions_read_as_written() {
    let apart: Vec<_> = pairs().filter(|(d, s)| d != s).collect();
    for width in WIDTHS {
        let bits = width.bits();
        judge(
            &apart,
            |e, &(d, s)| e.mov(width, d, s),
            |insn, &(d, s)| {
                insn.mnemonic() == Mnemonic::Mov
                    && insn.op0_register() == name(d, bits)
                    && insn.op1_register() == name(s, bits)
            },
        );
        let forms: Vec<_> = pairs().collect();
        for (from, mnemonic) in [(Size::B, Mnemonic::Movsx), (Size::H, Mnemonic::Movsx), (Size::W, Mnemonic::Movsxd)] {
            if width == Width::W32 && from == Size::W {
                continue;
            }
            judge(
                &forms,
                |e, &(d, s)| e.sign_extend(width, from, d, s),
                |insn, &(d, s)| {
                    insn.mnemonic() == mnemonic
                        && insn.op0_register() == name(d, bits)
                        && insn.op1_register() == name(s, from.bits())
                },
            );
        }
        let places: Vec<_> = Gpr::ALL.to_vec();
        judge(
            &places,
            |e, &d| e.neg(width, d, d),
            |insn, &d| insn.mnemonic() == Mnemonic::Neg && insn.op0_register() == name(d, bits),
        );
        judge(
            &places,
            |e, &d| e.swap(width.size(), d),
            |insn, &d| insn.mnemonic() == Mnemonic::Bswap && insn.op0_register() == name(d, bits),
        );
        let counted: Vec<_> = Gpr::ALL.into_iter().flat_map(|d| (1..bits as i32).map(move |by| (d, by))).collect();
        for (op, mnemonic) in [(Bin::Lsh, Mnemonic::Shl), (Bin::Rsh, Mnemonic::Shr), (Bin::Arsh, Mnemonic::Sar)] {
            judge(
                &counted,
                |e, &(d, by)| e.bin(op, width, d, d, Rhs::Imm(by)),
                |insn, &(d, by)| {
                    insn.mnemonic() == mnemonic
                        && insn.op0_register() == name(d, bits)
                        && i32::from(insn.immediate8()) == by
                },
            );
        }
        let turned: Vec<_> = pairs().flat_map(|pair| (1..bits as u8).map(move |by| (pair, by))).collect();
        judge(
            &turned,
            |e, &((d, s), by)| e.rotate_left(width, d, s, by),
            |insn, &((d, s), by)| {
                // Between different registers, the three-operand rotation to the right.
                let (mnemonic, count) = if d == s { (Mnemonic::Rol, by) } else { (Mnemonic::Rorx, bits as u8 - by) };
                insn.mnemonic() == mnemonic
                    && insn.op0_register() == name(d, bits)
                    && (d == s || insn.op1_register() == name(s, bits))
                    && insn.immediate8() == count
            },
        );
    }
    for from in [Size::B, Size::H] {
        judge(
            &pairs().collect::<Vec<_>>(),
            |e, &(d, s)| e.zero_extend(from, d, s),
            |insn, &(d, s)| {
                insn.mnemonic() == Mnemonic::Movzx
                    && insn.op0_register() == name(d, 32)
                    && insn.op1_register() == name(s, from.bits())
            },
        );
    }
}

#[test]
fn sums_and_stored_constants_read_as_written() {
    for width in WIDTHS {
        // Three different registers, or an immediate: one `lea`.
        let apart: Vec<_> = pairs()
            .flat_map(|(d, a)| Gpr::ALL.map(|b| (d, a, b)))
            .filter(|(d, a, b)| d != a && d != b && *b != Gpr::Rsp)
            .collect();
        judge(
            &apart,
            |e, &(d, a, b)| e.bin(Bin::Add, width, d, a, Rhs::Reg(b)),
            |insn, &(d, a, b)| {
                insn.mnemonic() == Mnemonic::Lea
                    && insn.op0_register() == name(d, width.bits())
                    && insn.memory_base() == name(a, 64)
                    && insn.memory_index() == name(b, 64)
                    && insn.memory_displacement64() == 0
            },
        );
        for reg in Gpr::ALL {
            judge(
                &addresses(reg),
                |e, &(d, addr)| e.lea(width, d, addr),
                |insn, (d, addr)| {
                    insn.mnemonic() == Mnemonic::Lea
                        && insn.op0_register() == name(*d, width.bits())
                        && same_address(insn, addr)
                },
            );
        }
    }
    for size in [Size::B, Size::H, Size::W, Size::D] {
        for value in IMMEDIATES {
            judge(
                &addresses(Gpr::Rax),
                |e, &(_, addr)| e.store_imm(size, addr, value),
                |insn, (_, addr)| {
                    let stored = insn.immediate(1) & (u64::MAX >> (64 - size.bits()));
                    insn.mnemonic() == Mnemonic::Mov
                        && insn.memory_size().size() == size.bytes() as usize
                        && stored == value as i64 as u64 & (u64::MAX >> (64 - size.bits()))
                        && same_address(insn, addr)
                },
            );
        }
    }
}

#[test]
fn atomic_forms_read_as_written() {
    use AtomicOp::*;
    // What takes one instruction; the others are loops around `cmpxchg`, which the tiers' tests run.
    let single = [
        (Add, false, Mnemonic::Add),
        (Or, false, Mnemonic::Or),
        (And, false, Mnemonic::And),
        (Xor, false, Mnemonic::Xor),
        (Add, true, Mnemonic::Xadd),
        (Xchg, true, Mnemonic::Xchg),
    ];
    let forms: Vec<_> = pairs().flat_map(|pair| DISPLACEMENTS.map(|disp| (pair, disp))).collect();
    for (width, (op, fetch, mnemonic)) in WIDTHS.into_iter().flat_map(|w| single.map(|op| (w, op))) {
        judge(
            &forms,
            |e, &((base, src), disp)| e.atomic(op, fetch, width, base, disp, src),
            |insn, &((base, src), disp)| {
                insn.mnemonic() == mnemonic
                    && (insn.has_lock_prefix() || op == Xchg)
                    && insn.op1_register() == name(src, width.bits())
                    && insn.memory_size().size() == width.size().bytes() as usize
                    && same_address(insn, &Addr::new(base, disp))
            },
        );
    }
    judge(
        &forms,
        |e, &((base, src), disp)| e.atomic(Cmpxchg, true, Width::W64, base, disp, src),
        |insn, &((base, src), disp)| {
            insn.mnemonic() == Mnemonic::Cmpxchg
                && insn.has_lock_prefix()
                && insn.op1_register() == name(src, 64)
                && same_address(insn, &Addr::new(base, disp))
        },
    );
}

#[test]
fn branches_read_as_written() {
    use CmpOp::*;
    let jumps = [
        (Eq, Mnemonic::Je),
        (Ne, Mnemonic::Jne),
        (Gt, Mnemonic::Ja),
        (Ge, Mnemonic::Jae),
        (Lt, Mnemonic::Jb),
        (Le, Mnemonic::Jbe),
        (Sgt, Mnemonic::Jg),
        (Sge, Mnemonic::Jge),
        (Slt, Mnemonic::Jl),
        (Sle, Mnemonic::Jle),
        (Set, Mnemonic::Jne),
    ];
    let rights = || Gpr::ALL.map(Rhs::Reg).into_iter().chain(IMMEDIATES.map(Rhs::Imm)).chain([Rhs::Imm(0)]);
    let forms: Vec<_> = Gpr::ALL.into_iter().flat_map(|a| rights().map(move |b| (a, b))).collect();
    for ((op, jump), width) in jumps.into_iter().flat_map(|jump| WIDTHS.map(|w| (jump, w))) {
        for &(a, b) in &forms {
            let mut e = X64::new(Asm::new(64, 0), Features { bmi2: true });
            let to = e.asm().label();
            e.branch(op, width, a, b, to, Reach::Far);
            e.asm().bind(to);
            let Ok(done) = e.into_asm().finish(0) else { panic!("the label stands behind") };
            let insns: Vec<Instruction> = Decoder::new(64, &done.bytes, DecoderOptions::NONE).into_iter().collect();
            let [compare, branch] = insns[..] else { panic!("{op:?} {width:?} {a:?} {b:?} reads as {insns:?}") };
            // A mask without its highest bit needs no upper half, and zero is asked of the register itself.
            let bits = compare.op0_register().size() as u32 * 8;
            let narrows = op == Set && matches!(b, Rhs::Imm(0..));
            let operand = match (b, compare.op1_kind()) {
                (Rhs::Imm(0), OpKind::Register) => compare.op1_register() == name(a, bits),
                (Rhs::Reg(b), _) => compare.op1_register() == name(b, bits),
                (Rhs::Imm(value), _) => compare.immediate(1) as i32 == value,
            };
            let tests = op == Set || b == Rhs::Imm(0) && compare.mnemonic() == Mnemonic::Test;
            let good = compare.mnemonic() == if tests { Mnemonic::Test } else { Mnemonic::Cmp }
                && compare.op0_register() == name(a, bits)
                && (bits == width.bits() || narrows)
                && operand
                && branch.mnemonic() == jump
                && branch.near_branch64() == done.bytes.len() as u64;
            assert!(good, "{op:?} {width:?} {a:?} {b:?} reads as {compare:?} {branch:?}");
        }
    }
}

#[test]
fn selections_move_on_the_inverse_condition() {
    use CmpOp::*;
    let moves = [
        (Eq, Mnemonic::Cmovne),
        (Ne, Mnemonic::Cmove),
        // With its sides exchanged.
        (Gt, Mnemonic::Cmovae),
        (Ge, Mnemonic::Cmovb),
        (Lt, Mnemonic::Cmovae),
        (Le, Mnemonic::Cmovb),
        (Sgt, Mnemonic::Cmovle),
        (Sge, Mnemonic::Cmovl),
        (Slt, Mnemonic::Cmovge),
        (Sle, Mnemonic::Cmovg),
        (Set, Mnemonic::Cmove),
    ];
    for ((op, mnemonic), (d, s)) in moves.into_iter().flat_map(|op| pairs().map(move |pair| (op, pair))) {
        let mut e = X64::new(Asm::new(64, 0), Features { bmi2: true });
        e.select(op, Width::W32, Gpr::Rcx, Rhs::Reg(Gpr::R8), d, s);
        let Ok(done) = e.into_asm().finish(0) else { panic!("there is no label") };
        let insns: Vec<Instruction> = Decoder::new(64, &done.bytes, DecoderOptions::NONE).into_iter().collect();
        let [compare, select] = insns[..] else { panic!("{op:?} {d:?} {s:?} reads as {insns:?}") };
        let left = if matches!(op, Gt | Le) { Gpr::R8 } else { Gpr::Rcx };
        assert!(op == Set || compare.op0_register() == name(left, 32), "{op:?} reads as {compare:?}");
        let read = (select.mnemonic(), select.op0_register(), select.op1_register());
        assert_eq!(read, (mnemonic, name(d, 64), name(s, 64)), "{op:?}");
    }
}

#[test]
fn updates_name_their_place_and_their_size() {
    let ops = [
        (Bin::Add, Mnemonic::Add),
        (Bin::Sub, Mnemonic::Sub),
        (Bin::Or, Mnemonic::Or),
        (Bin::And, Mnemonic::And),
        (Bin::Xor, Mnemonic::Xor),
    ];
    let sizes = [(Size::B, 8), (Size::H, 16), (Size::W, 32), (Size::D, 64)];
    for (((op, mnemonic), (size, bits)), (base, b)) in ops
        .into_iter()
        .flat_map(|op| sizes.map(|size| (op, size)))
        .flat_map(|form| pairs().map(move |pair| (form, pair)))
    {
        for value in [None, Some(5), Some(-5), Some(0x1234), Some(-0x1234)] {
            let mut e = X64::new(Asm::new(64, 0), Features { bmi2: true });
            let addr = Addr { base, index: Some((Gpr::R13, 2)), disp: 0x11 };
            e.update(op, size, addr, value.map_or(Rhs::Reg(b), Rhs::Imm));
            let Ok(done) = e.into_asm().finish(0) else { panic!("there is no label") };
            let insns: Vec<Instruction> = Decoder::new(64, &done.bytes, DecoderOptions::NONE).into_iter().collect();
            let [insn] = insns[..] else { panic!("{op:?} {size:?} {value:?} reads as {insns:?}") };
            assert_eq!(
                (insn.mnemonic(), insn.memory_base(), insn.memory_index()),
                (mnemonic, name(base, 64), Register::R13)
            );
            assert_eq!((insn.memory_index_scale(), insn.memory_displacement64()), (4, 0x11), "{insn:?}");
            assert_eq!(insn.memory_size().size() * 8, bits, "{insn:?}");
            match value {
                None => assert_eq!(insn.op1_register(), name(b, bits as u32), "{insn:?}"),
                Some(value) => {
                    assert_eq!(insn.immediate(1) << (64 - bits), (value as i64 as u64) << (64 - bits), "{insn:?}")
                }
            }
        }
    }
}

#[test]
fn conditions_as_numbers_set_a_byte_between_zeros() {
    use CmpOp::*;
    let sets = [
        (Eq, Mnemonic::Sete),
        // With its sides exchanged.
        (Gt, Mnemonic::Setb),
        (Le, Mnemonic::Setae),
        (Slt, Mnemonic::Setl),
        (Set, Mnemonic::Setne),
    ];
    for ((op, mnemonic), (d, a)) in sets.into_iter().flat_map(|op| pairs().map(move |pair| (op, pair))) {
        let mut e = X64::new(Asm::new(64, 0), Features { bmi2: true });
        e.set(op, Width::W32, a, Rhs::Reg(Gpr::R8), d);
        let Ok(done) = e.into_asm().finish(0) else { panic!("there is no label") };
        let insns: Vec<Instruction> = Decoder::new(64, &done.bytes, DecoderOptions::NONE).into_iter().collect();
        let [first, second, third] = insns[..] else { panic!("{op:?} {d:?} {a:?} reads as {insns:?}") };
        // What is compared must stand until it is.
        let (zeroed, set) = if d == a || d == Gpr::R8 { (third, second) } else { (first, third) };
        let zeroes = if d == a || d == Gpr::R8 { Mnemonic::Movzx } else { Mnemonic::Xor };
        assert_eq!((zeroed.mnemonic(), zeroed.op0_register()), (zeroes, name(d, 32)), "{op:?} {a:?}");
        assert_eq!((set.mnemonic(), set.op0_register()), (mnemonic, name(d, 8)), "{op:?} {a:?}");
    }
}

#[test]
fn sums_with_their_carry() {
    for ((a, b), d) in pairs().flat_map(|pair| Gpr::ALL.map(|d| (pair, d))).filter(|(_, d)| *d != Gpr::Rsp) {
        let decoded = |emit: &dyn Fn(&mut X64)| {
            let mut e = X64::new(Asm::new(64, 0), Features { bmi2: true });
            emit(&mut e);
            let Ok(done) = e.into_asm().finish(0) else { panic!("there is no label") };
            let insns: Vec<Instruction> = Decoder::new(64, &done.bytes, DecoderOptions::NONE).into_iter().collect();
            insns
                .into_iter()
                .map(|insn| (insn.mnemonic(), insn.op0_register(), insn.op1_register()))
                .collect::<Vec<_>>()
        };
        let (first, second) = if d == b { (b, a) } else { (a, b) };
        let mut want = vec![(Mnemonic::Mov, name(d, 64), name(first, 64))];
        want.retain(|_| d != first);
        want.push((Mnemonic::Add, name(d, 64), name(second, 64)));
        want.push((Mnemonic::Adc, name(d, 64), Register::None));
        assert_eq!(decoded(&|e| e.add_carry(a, b, d)), want);
        let [.., add, set, extend] = &decoded(&|e| e.set_carry(a, b, d))[..] else { panic!("too short") };
        assert_eq!((add.0, add.2), (Mnemonic::Add, name(b, 64)));
        assert_eq!((set.0, set.1), (Mnemonic::Setb, name(d, 8)));
        assert_eq!(*extend, (Mnemonic::Movzx, name(d, 32), name(d, 8)));
    }
}

/// What the machine adds is a carry, or one less its absence.
#[test]
fn truths_are_added_as_carries() {
    use CmpOp::*;
    // The sides as they are compared, with a register and with 7 or 0 on the right.
    let forms = [
        (Lt, Rhs::Reg(Gpr::R8), Mnemonic::Adc, None),
        (Ge, Rhs::Reg(Gpr::R8), Mnemonic::Sbb, None),
        (Gt, Rhs::Reg(Gpr::R8), Mnemonic::Adc, None),
        (Le, Rhs::Reg(Gpr::R8), Mnemonic::Sbb, None),
        (Lt, Rhs::Imm(7), Mnemonic::Adc, Some(7)),
        (Ge, Rhs::Imm(7), Mnemonic::Sbb, Some(7)),
        (Gt, Rhs::Imm(7), Mnemonic::Sbb, Some(8)),
        (Le, Rhs::Imm(7), Mnemonic::Adc, Some(8)),
        (Eq, Rhs::Imm(0), Mnemonic::Adc, Some(1)),
        (Ne, Rhs::Imm(0), Mnemonic::Sbb, Some(1)),
    ];
    for (((op, b, mnemonic, number), (d, a)), w) in forms
        .into_iter()
        .flat_map(|form| pairs().map(move |pair| (form, pair)))
        .flat_map(|form| WIDTHS.map(|w| (form, w)))
    {
        assert!(X64::adds_truth(op, w, b));
        let mut e = X64::new(Asm::new(64, 0), Features { bmi2: true });
        e.add_truth(op, w, a, b, w, d);
        let Ok(done) = e.into_asm().finish(0) else { panic!("there is no label") };
        let insns: Vec<Instruction> = Decoder::new(64, &done.bytes, DecoderOptions::NONE).into_iter().collect();
        let [compare, add] = insns[..] else { panic!("{op:?} {d:?} {a:?} reads as {insns:?}") };
        let added = if mnemonic == Mnemonic::Adc { 0 } else { u64::MAX };
        assert_eq!((add.mnemonic(), add.op0_register()), (mnemonic, name(d, w.bits())), "{op:?}");
        assert_eq!(add.immediate(1) << (64 - w.bits()), added << (64 - w.bits()), "{op:?}");
        let (left, right) = if number.is_none() && matches!(op, Gt | Le) { (Gpr::R8, a) } else { (a, Gpr::R8) };
        assert_eq!((compare.mnemonic(), compare.op0_register()), (Mnemonic::Cmp, name(left, w.bits())), "{op:?}");
        match number {
            Some(number) => assert_eq!(compare.immediate(1), number, "{op:?}"),
            None => assert_eq!(compare.op1_register(), name(right, w.bits()), "{op:?}"),
        }
    }
    assert!(!X64::adds_truth(Gt, Width::W64, Rhs::Imm(-1)) && !X64::adds_truth(Slt, Width::W64, Rhs::Imm(1)));
}

#[test]
fn bytes_of_registers_are_compared() {
    for (op, (a, value)) in [CmpOp::Eq, CmpOp::Lt, CmpOp::Gt].into_iter().flat_map(|op| {
        Gpr::ALL.into_iter().flat_map(move |a| [0, 1, 0x7f, 0x80, 0xff].map(move |value| (op, (a, value))))
    }) {
        let mut e = X64::new(Asm::new(64, 1), Features { bmi2: true });
        e.branch_byte(op, a, value, Label(0), Reach::Short);
        e.asm().bind(Label(0));
        let Ok(done) = e.into_asm().finish(1) else { panic!("the label is placed") };
        let insns: Vec<Instruction> = Decoder::new(64, &done.bytes, DecoderOptions::NONE).into_iter().collect();
        let [compare, _] = insns[..] else { panic!("{op:?} {a:?} reads as {insns:?}") };
        assert_eq!(compare.op0_register(), name(a, 8), "{op:?} {value}");
        match compare.mnemonic() {
            Mnemonic::Test => assert!(op == CmpOp::Eq && value == 0 && compare.op1_register() == name(a, 8)),
            mnemonic => assert_eq!((mnemonic, compare.immediate8()), (Mnemonic::Cmp, value)),
        }
    }
}

/// The zero flag stands behind an operation, beside moves, and until a branch may come in.
#[test]
fn results_are_compared_with_zero_once() {
    let count = |between: fn(&mut X64), op, width| {
        let mut e = X64::new(Asm::new(64, 1), Features { bmi2: true });
        e.bin(Bin::And, Width::W64, Gpr::Rbx, Gpr::Rbx, Rhs::Reg(Gpr::R8));
        between(&mut e);
        e.select(op, width, Gpr::Rbx, Rhs::Imm(0), Gpr::Rcx, Gpr::Rsi);
        let Ok(done) = e.into_asm().finish(0) else { panic!("there is no label to resolve") };
        let insns = Decoder::new(64, &done.bytes, DecoderOptions::NONE).into_iter();
        insns.filter(|insn| insn.mnemonic() == Mnemonic::Test).count()
    };
    assert_eq!(count(|_| {}, CmpOp::Eq, Width::W64), 0);
    assert_eq!(count(|e| e.mov(Width::W64, Gpr::Rcx, Gpr::Rdx), CmpOp::Ne, Width::W64), 0);
    assert_eq!(count(|e| e.mov(Width::W64, Gpr::Rbx, Gpr::Rdx), CmpOp::Ne, Width::W64), 1);
    assert_eq!(count(|e| e.lea(Width::W64, Gpr::Rcx, Addr::new(Gpr::Rbx, 4)), CmpOp::Ne, Width::W64), 1);
    assert_eq!(count(|e| e.asm().bind(Label(0)), CmpOp::Eq, Width::W64), 1);
    assert_eq!(count(|e| e.asm().mark(Label(0)), CmpOp::Eq, Width::W64), 0);
    assert_eq!(count(|_| {}, CmpOp::Sgt, Width::W64), 1);
    assert_eq!(count(|_| {}, CmpOp::Eq, Width::W32), 1);
}
