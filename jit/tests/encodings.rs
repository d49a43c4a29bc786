//! What the x86_64 encoder emits, as an independent disassembler reads it: every register pair, every addressing form,
//! immediates and displacements at the edges of their fields.

use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};
use rtbpf_isa::{Size, Width};
use rtbpf_jit::asm::Asm;
use rtbpf_jit::encode::{Addr, Bin, Encode, Rhs};
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
    assert!(count > 1_000_000, "only {count} forms");
}
