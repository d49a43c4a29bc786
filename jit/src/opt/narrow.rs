//! Which registers hold no bit above 31 when a block begins.
//!
//! A 32-bit operation clears the upper half of its register, so most indices and counters need no extension before they are
//! used as 64-bit numbers. The sets start full at the targets of jumps and only shrink, until every way into a block agrees.

use rtbpf_isa::effects::{Flow, RegSet};
use rtbpf_isa::{AluOp, Imm64, Insn, InsnIdx, Operand, Reg, Size, Subprog, Width};

const ALL: RegSet = RegSet((1 << Reg::COUNT) - 1);

/// Narrow registers before each instruction of a program.
#[derive(Default)]
pub(crate) struct Narrow {
    before: Vec<RegSet>,
}

impl Narrow {
    /// `widens` tells of loads that read more than the instruction says.
    pub fn new(insns: &[Insn], subprogs: &[Subprog], widens: impl Fn(InsnIdx) -> bool) -> Narrow {
        let mut narrow = Narrow { before: vec![ALL; insns.len() + 1] };
        for subprog in subprogs {
            narrow.meet(subprog.start, RegSet::EMPTY);
        }
        while narrow.pass(insns, &widens) {}
        narrow
    }

    /// Takes what one way into `at` knows; whether that was less than was known.
    fn meet(&mut self, at: InsnIdx, set: RegSet) -> bool {
        let Some(place) = self.before.get_mut(at.index()) else { return false };
        let old = *place;
        place.0 &= set.0;
        *place != old
    }

    /// Whether a block that was passed already knows less now.
    fn pass(&mut self, insns: &[Insn], widens: impl Fn(InsnIdx) -> bool) -> bool {
        let mut again = false;
        for (at, insn) in (0..).map(InsnIdx).zip(insns) {
            let before = self.before(at);
            let rest = before.without(insn.defs());
            let narrow = is_narrow(insn, before) && !(matches!(insn, Insn::Load { .. }) && widens(at));
            let set = if narrow { rest.with(insn.defs()) } else { rest };
            match insn.flow() {
                Flow::Next | Flow::Call(_) => {
                    self.meet(at.next(), set);
                }
                Flow::Jump(to) => again |= self.meet(at.target(to), set) && to < 0,
                Flow::Branch(to) => {
                    self.meet(at.next(), set);
                    again |= self.meet(at.target(to), set) && to < 0;
                }
                Flow::Exit => {}
            }
        }
        again
    }

    pub fn before(&self, at: InsnIdx) -> RegSet {
        self.before.get(at.index()).copied().unwrap_or_default()
    }
}

/// Whether what `insn` defines has no bit above 31.
fn is_narrow(insn: &Insn, before: RegSet) -> bool {
    match *insn {
        Insn::Alu { width: Width::W32, .. } | Insn::Neg { width: Width::W32, .. } => true,
        Insn::MovSx { width, .. } => width == Width::W32,
        Insn::Alu { op, width: Width::W64, dst, src } => {
            let (left, right) = (
                before.contains(dst),
                match src {
                    Operand::Imm(value) => value >= 0,
                    Operand::Reg(src) => before.contains(src),
                },
            );
            match op {
                AluOp::Mov => right,
                AluOp::And => left || right,
                AluOp::Or | AluOp::Xor => left && right,
                AluOp::Rsh => left || matches!(src, Operand::Imm(32..=63)),
                // By zero, the quotient is zero and the remainder what was there.
                AluOp::Div | AluOp::Mod => left,
                AluOp::Add | AluOp::Sub | AluOp::Mul | AluOp::Lsh | AluOp::Arsh | AluOp::Sdiv | AluOp::Smod => false,
            }
        }
        Insn::Load { size, signed, .. } => !signed && size != Size::D,
        Insn::LoadAcquire { size, .. } | Insn::Swap { size, .. } => size != Size::D,
        Insn::Atomic { width, .. } => width == Width::W32,
        Insn::Imm { value: Imm64::Const([_, high]), .. } => high == 0,
        Insn::Imm { .. } | Insn::Neg { .. } | Insn::AddrCast { .. } | Insn::Store { .. } => false,
        Insn::StoreRelease { .. } | Insn::Packet { .. } | Insn::Call(_) | Insn::Bad { .. } => false,
        Insn::Jump { .. } | Insn::Branch { .. } | Insn::MayGoto { .. } | Insn::Exit => false,
    }
}
