//! Registers that hold one constant from the beginning of a function on: nothing else ever defines them.
//!
//! Compilers load a number that fits no immediate once, before the loops that divide by it.

use rtbpf_isa::effects::Flow;
use rtbpf_isa::{AluOp, Imm64, Insn, InsnIdx, Operand, Reg, Subprog};

use super::{Lead, begins};
use crate::fast::constant;

/// Their constants.
#[derive(Default)]
pub(super) struct Fixed {
    found: Vec<Constant>,
}

struct Constant {
    /// From behind its definition to the end of its function.
    at: std::ops::Range<u32>,
    reg: Reg,
    value: u64,
}

impl Fixed {
    /// Those of programs that divide by registers; nobody asks for others.
    pub fn of(insns: &[Insn], subprogs: &[Subprog], leads: &[Lead]) -> Fixed {
        let mut found = Vec::new();
        let divides = |insn: &Insn| matches!(insn, Insn::Alu { op: AluOp::Div | AluOp::Mod, src: Operand::Reg(_), .. });
        for subprog in subprogs {
            let Some(body) = insns.get(subprog.start.index()..subprog.end.index()) else { continue };
            if !body.iter().any(divides) {
                continue;
            }
            let first = found.len();
            for (at, insn) in (subprog.start.0..).zip(body) {
                if insn.flow() != Flow::Next || at != subprog.start.0 && begins(leads, InsnIdx(at)) {
                    break;
                }
                let (reg, value) = match *insn {
                    Insn::Imm { dst, value: Imm64::Const([low, high]) } => (dst, (high as u64) << 32 | low as u64),
                    Insn::Alu { op: AluOp::Mov, width, dst, src: Operand::Imm(value) } => (dst, constant(width, value)),
                    _ => continue,
                };
                found.push(Constant { at: at + 1..subprog.end.0, reg, value });
            }
            let mut times = [0u32; Reg::COUNT];
            for reg in body.iter().flat_map(|insn| insn.defs().iter()) {
                times[reg.index()] += 1;
            }
            let mut index = 0;
            found.retain(|constant| {
                index += 1;
                index <= first || times[constant.reg.index()] == 1
            });
        }
        Fixed { found }
    }

    /// What `reg` holds at `at`.
    pub fn value(&self, at: InsnIdx, reg: Reg) -> Option<u64> {
        let holds = |constant: &&Constant| constant.reg == reg && constant.at.contains(&at.0);
        self.found.iter().find(holds).map(|constant| constant.value)
    }
}
