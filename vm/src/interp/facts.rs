//! The verifier's claims, asserted at every instruction that has some.

use rtbpf_isa::{AluOp, Insn, InsnIdx, Operand};
use rtbpf_verifier::{Access, Branch, InsnFacts};

use super::checked::Checked;
use crate::error::FaultKind;
use crate::region::{RegionKind, split};

impl Checked {
    fn facts_at(&self, at: InsnIdx) -> InsnFacts {
        self.exe.facts.as_ref().map(|facts| facts.at(at)).unwrap_or_default()
    }

    /// Claims about what an instruction is given.
    pub(super) fn check_before(&self, at: InsnIdx, insn: &Insn) -> Result<(), FaultKind> {
        let facts = self.facts_at(at);
        if facts.unreached {
            return Err(FaultKind::FactBroken("the instruction is unreachable"));
        }
        if let Insn::Alu { op, width, src, .. } = *insn {
            let src = match src {
                Operand::Reg(reg) => self.get(reg),
                Operand::Imm(imm) => imm as i64 as u64,
            };
            let low = rtbpf_isa::eval::zero_extend(width.size(), src);
            let divides = matches!(op, AluOp::Div | AluOp::Mod | AluOp::Sdiv | AluOp::Smod);
            if divides && facts.divisor_nonzero && low == 0 {
                return Err(FaultKind::FactBroken("the divisor is not zero"));
            }
            let shifts = matches!(op, AluOp::Lsh | AluOp::Rsh | AluOp::Arsh);
            if shifts && facts.shift_in_range && low >= width.bits() as u64 {
                return Err(FaultKind::FactBroken("the shift amount is below the width"));
            }
        }
        match insn.memory() {
            Some(access) => self.check_access(facts.access, self.get(access.base), access.off),
            None => Ok(()),
        }
    }

    fn check_access(&self, claim: Access, base: u64, off: i16) -> Result<(), FaultKind> {
        let Ok((region, start)) = self.regions.resolve(base) else { return Ok(()) };
        let off = start + off as i64;
        let stack_top = rtbpf_abi::limits::STACK_BYTES as i64;
        let holds = match claim {
            Access::Mixed => true,
            Access::Stack(at) => split(base).0 == self.stack && off - stack_top == at as i64,
            Access::AnyStack => region.kind == RegionKind::Stack,
            Access::Ctx(at) => region.kind == RegionKind::Ctx && off == at as i64,
            Access::MapValue { low, high, .. } => {
                region.kind == RegionKind::MapValue && (low as i64..=high as i64).contains(&off)
            }
            Access::Packet => region.kind == RegionKind::Packet,
            Access::Mem => matches!(region.kind, RegionKind::Mem | RegionKind::Ringbuf | RegionKind::FlowKeys),
        };
        if holds { Ok(()) } else { Err(FaultKind::FactBroken("where the access points")) }
    }

    /// Claims about which edges are alive.
    pub(super) fn check_branch(&self, at: InsnIdx, taken: bool) -> Result<(), FaultKind> {
        let holds = match self.facts_at(at).branch {
            Branch::Both => true,
            Branch::Taken => taken,
            Branch::Never => !taken,
        };
        if holds { Ok(()) } else { Err(FaultKind::FactBroken("which way the jump goes")) }
    }
}
