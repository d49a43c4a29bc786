//! Programs that are valid in structure: forward jumps in range, an exit at the end, registers initialised first.
//! Nothing is known of bounds, so that memory is touched on the stack only.

use rtbpf_abi::ProgKind;
use rtbpf_isa::rows::{Form, ROWS};
use rtbpf_isa::{AluOp, AtomicOp, CmpOp, Insn, Operand, Reg, Size, Swap, Width};

use super::code::Code;
use super::{Case, Rng};

/// Registers that hold numbers from the start.
const NUMBERS: [Reg; 8] = [Reg::R0, Reg::R2, Reg::R3, Reg::R4, Reg::R5, Reg::R7, Reg::R8, Reg::R9];

/// The lowest stack offset in use; 8-byte slots up to R10.
const FRAME: i64 = -64;

/// Two to sixty instructions over initialised registers and stack.
pub fn case(rng: &mut Rng, name: String) -> Case {
    let mut code = Code::default();
    for reg in NUMBERS {
        let value = rng.edge();
        code.constant(reg, value);
    }
    for off in (FRAME..0).step_by(8) {
        code.store(Size::D, Reg::R10, off as i16, rng.pick(&NUMBERS));
    }
    let mut open = Vec::new();
    for _ in 0..2 + rng.below(60) {
        open.retain(|&label| {
            let close = rng.chance(1, 3);
            if close {
                code.bind(label);
            }
            !close
        });
        if rng.chance(1, 6) {
            let label = code.label();
            let branch = branch(rng);
            code.push_to(branch, label);
            open.push(label);
        } else {
            straight(rng, &mut code);
        }
    }
    for label in open {
        code.bind(label);
    }
    code.push(Insn::Exit);
    let insns = code.assemble().expect("at most a few hundred slots, every label bound");
    let kind = rng.pick(&[ProgKind::Xdp, ProgKind::SchedCls, ProgKind::SocketFilter]);
    let packets = vec![(0..64u8).collect()];
    Case { name, kind, prog_flags: 0, insns, maps: Vec::new(), typed: true, packets }
}

fn number(rng: &mut Rng) -> Reg {
    rng.pick(&NUMBERS)
}

fn operand(rng: &mut Rng) -> Operand {
    if rng.chance(1, 2) { Operand::Reg(number(rng)) } else { Operand::Imm(rng.edge() as i32) }
}

fn width(rng: &mut Rng) -> Width {
    rng.pick(&[Width::W32, Width::W64])
}

fn branch(rng: &mut Rng) -> Insn {
    let ops: Vec<CmpOp> =
        ROWS.iter().filter_map(|row| if let Form::Branch(op) = row.form { Some(op) } else { None }).collect();
    Insn::Branch { op: rng.pick(&ops), width: width(rng), lhs: number(rng), rhs: operand(rng), to: 0 }
}

/// A stack offset aligned to `size`.
fn slot(rng: &mut Rng, size: Size) -> i16 {
    let bytes = i64::from(size.bytes());
    (FRAME + bytes * rng.below((-FRAME / bytes) as u64) as i64) as i16
}

/// An instruction of a random row that falls through.
fn straight(rng: &mut Rng, code: &mut Code) {
    let form = ROWS[rng.below(ROWS.len() as u64) as usize].form;
    let (dst, src, base) = (number(rng), number(rng), Reg::R10);
    let insn = match form {
        Form::Alu(op) => alu(rng, op, dst),
        Form::MovSx(from) => {
            let width = if from == Size::W { Width::W64 } else { width(rng) };
            Insn::MovSx { width, from, dst, src }
        }
        Form::Neg => Insn::Neg { width: width(rng), dst },
        Form::Swap(kind, size) => Insn::Swap { kind, size, dst },
        Form::Load(size, signed) => Insn::Load { size, signed, dst, base, off: slot(rng, size) },
        Form::Store(size) => Insn::Store { size, base, off: slot(rng, size), src: operand(rng) },
        Form::Atomic(op, fetch) => {
            let width = width(rng);
            Insn::Atomic {
                op,
                fetch,
                width,
                base,
                off: slot(rng, width.size()),
                src: if op == AtomicOp::Cmpxchg { Reg::R7 } else { src },
            }
        }
        Form::LoadAcquire => {
            let size = rng.pick(&[Size::B, Size::H, Size::W, Size::D]);
            Insn::LoadAcquire { size, dst, base, off: slot(rng, size) }
        }
        Form::StoreRelease => {
            let size = rng.pick(&[Size::B, Size::H, Size::W, Size::D]);
            Insn::StoreRelease { size, base, off: slot(rng, size), src }
        }
        Form::Imm(_) => {
            let value = rng.edge();
            return code.constant(dst, value);
        }
        Form::Branch(_) | Form::Jump | Form::JumpLong | Form::MayGoto | Form::Call(_) | Form::CallReg | Form::Exit => {
            Insn::Swap { kind: Swap::ToBe, size: Size::W, dst }
        }
        Form::PacketAbs(_) | Form::PacketInd(_) | Form::AddrCast => Insn::Neg { width: Width::W32, dst },
    };
    code.push(insn);
}

fn alu(rng: &mut Rng, op: AluOp, dst: Reg) -> Insn {
    let width = width(rng);
    let src = match (op, operand(rng)) {
        (AluOp::Lsh | AluOp::Rsh | AluOp::Arsh, Operand::Imm(imm)) => Operand::Imm(imm & (width.bits() as i32 - 1)),
        (AluOp::Div | AluOp::Mod | AluOp::Sdiv | AluOp::Smod, Operand::Imm(0)) => Operand::Imm(1),
        (_, src) => src,
    };
    Insn::Alu { op, width, dst, src }
}
