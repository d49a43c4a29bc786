//! Hardened code: the same results, none of the program's constants in it, landing pads where addresses lead.

mod harness;

use harness::*;
use rtbpf_isa::Operand::{Imm as I, Reg as R};
use rtbpf_isa::*;
use rtbpf_jit::{Arch, Features, Options, Techniques, compile};

/// A constant that no code holds by chance.
const MAGIC: i32 = 0x5bad_c0de_u32 as i32;

fn options(arch: Arch, harden: Option<u64>) -> Options {
    let optimise = Some(Techniques::ALL);
    Options { arch, features: Features::default(), fuel: false, cancel: false, optimise, harden }
}

/// Every kind of instruction that has a constant, with `value`.
fn constants(value: i32) -> Vec<Insn> {
    use AluOp::*;
    let mut insns = vec![Insn::Alu { op: Mov, width: Width::W64, dst: Reg::R6, src: R(Reg::R1) }];
    for width in [Width::W32, Width::W64] {
        for op in [Mov, Add, Sub, Mul, Or, And, Xor, Div, Mod, Sdiv, Smod] {
            insns.push(Insn::Alu { op, width, dst: Reg::R7, src: I(value) });
            insns.push(Insn::Alu { op: Add, width: Width::W64, dst: Reg::R8, src: R(Reg::R7) });
        }
        for op in [CmpOp::Eq, CmpOp::Set, CmpOp::Gt, CmpOp::Slt] {
            insns.push(Insn::Branch { op, width, lhs: Reg::R8, rhs: I(value), to: 1 });
            insns.push(Insn::Alu { op: Add, width: Width::W64, dst: Reg::R8, src: R(Reg::R7) });
        }
    }
    insns[1] = Insn::Imm { dst: Reg::R7, value: Imm64::Const([value as u32, !value as u32]) };
    insns.insert(2, Insn::Imm { dst: Reg::R8, value: Imm64::Const([value as u32, value as u32]) });
    for size in [Size::B, Size::H, Size::W, Size::D] {
        insns.push(Insn::Store { size, base: Reg::R6, off: 8 * size.bytes() as i16, src: I(value) });
    }
    insns.push(Insn::Alu { op: Mov, width: Width::W64, dst: Reg::R0, src: R(Reg::R8) });
    insns.push(Insn::Exit);
    insns
}

/// Whether a constant's bytes stand in the code; on aarch64 both halves as immediates of moves.
fn holds(arch: Arch, bytes: &[u8], value: i32) -> bool {
    match arch {
        Arch::X86_64 => bytes.windows(4).any(|window| window == value.to_le_bytes()),
        Arch::Aarch64 => {
            let moved = |half: u32| {
                let words = bytes.chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().expect("four bytes")));
                // movz, movn, movk
                words.filter(|word| word >> 23 & 0x3f == 0x25).any(|word| word >> 5 & 0xffff == half)
            };
            moved(value as u32 & 0xffff) && moved(value as u32 >> 16)
        }
    }
}

#[test]
fn hardened_code_holds_no_constant_of_the_program() {
    for arch in [Arch::X86_64, Arch::Aarch64] {
        let program = assume(&constants(MAGIC));
        let code = |harden| compile(&program, &TestLinker, &options(arch, harden)).expect("compiles");
        assert!(holds(arch, &code(None).bytes, MAGIC), "{arch:?}: the test would not see one");
        for seed in 0..200 {
            let code = code(Some(seed));
            assert!(!holds(arch, &code.bytes, MAGIC), "{arch:?}, seed {seed}");
            assert!(!holds(arch, &code.bytes, !MAGIC), "{arch:?}, seed {seed}");
        }
        assert_ne!(code(Some(1)).bytes, code(Some(2)).bytes);
    }
}

#[test]
fn hardened_code_does_the_same() {
    let Some(host) = Options::host() else { return };
    let ctx = std::array::from_fn(|i| (i as u64 + 1).wrapping_mul(0x1234_5678_9abc_def1));
    let check = |insns: &[Insn], seed: u64| {
        let want = reference::reference(&program(insns), ctx, None);
        let options = Options { harden: Some(seed), ..host };
        assert_eq!(run(&native(insns, &options), ctx, i64::MAX, &[]), want, "seed {seed} {insns:#?}");
    };
    for (seed, value) in (0..).zip([0, 1, -1, 2, 7, 32, 127, 128, -129, MAGIC, !MAGIC, i32::MAX, i32::MIN]) {
        check(&constants(value), seed);
    }
    let mut rng = generate::Rng::new(0x4a8d);
    // Fewer rounds under emulation.
    for seed in 0..if cfg!(target_arch = "aarch64") { 150 } else { 1000 } {
        let size = 1 + rng.below(80);
        check(&generate::program(&mut rng, size), seed);
    }
}

#[test]
fn the_longest_branches_stay_inside() {
    let Some(host) = Options::host() else { return };
    // 32,767 instructions that grow when they are blinded, jumped over both ways.
    let add = Insn::Alu { op: AluOp::Add, width: Width::W64, dst: Reg::R0, src: I(3) };
    let far = |rhs, to| Insn::Branch { op: CmpOp::Lt, width: Width::W64, lhs: Reg::R0, rhs: I(rhs), to };
    let mut insns = vec![Insn::Alu { op: AluOp::Mov, width: Width::W64, dst: Reg::R0, src: I(0) }, far(MAGIC, 32_767)];
    insns.extend(std::iter::repeat_n(add, 32_767));
    insns.extend([add, far(50_000, -32_768), Insn::Exit]);
    let got = run(&native(&insns, &Options { harden: Some(5), ..host }), [0; 32], i64::MAX, &[]);
    assert_eq!(got.r0, Some(3 + 3 * 32_767));
}

#[test]
fn entries_and_callbacks_begin_with_landing_pads() {
    let body = Insn::Imm { dst: Reg::R1, value: Imm64::Func { to: 2 } };
    let nothing = Insn::Alu { op: AluOp::Mov, width: Width::W64, dst: Reg::R0, src: I(0) };
    let insns = [body, Insn::Call(Callee::Helper(REPEAT)), Insn::Exit, nothing, Insn::Exit];
    for (arch, pad) in [(Arch::X86_64, [0xf3, 0x0f, 0x1e, 0xfa]), (Arch::Aarch64, [0xdf, 0x24, 0x03, 0xd5])] {
        for (harden, wanted) in [(None, false), (Some(1), true)] {
            let code = compile(&assume(&insns), &TestLinker, &options(arch, harden)).expect("compiles");
            assert_eq!(code.callbacks.len(), 1);
            for place in [code.entry, code.callbacks[0].0] {
                let found = code.bytes[place as usize..].starts_with(&pad);
                assert_eq!(found, wanted, "{arch:?} at {place}");
            }
        }
    }
}
