//! Sums over the rounds of a loop.

use rtbpf_isa::effects::RegSet;
use rtbpf_isa::{AluOp, Insn, Operand, Reg, Width};

use super::nothing;

/// A register to which each round adds something, and that nothing else in the loop looks at.
pub(crate) struct Sums {
    pub width: Width,
    pub first: Reg,
    /// What is added.
    pub summand: Reg,
    /// An idle register that may take every second summand.
    pub second: Option<Reg>,
    /// The addition, in the body.
    pub at: usize,
}

impl Sums {
    /// The first sum of `body`; `tested` is what the loop's branch reads.
    pub fn of(body: &[Insn], tested: [Operand; 2], idle: RegSet) -> Option<Sums> {
        let touched = body.iter().fold(RegSet::EMPTY, |all, insn| all.with(insn.touches()));
        let tests = |reg: Reg| tested.contains(&Operand::Reg(reg));
        let second = idle.without(touched).iter().find(|reg| !tests(*reg));
        body.iter().enumerate().find_map(|(at, insn)| {
            let Insn::Alu { op: AluOp::Add, width, dst, src: Operand::Reg(src) } = *insn else { return None };
            let others = || body.iter().enumerate().filter(|(other, _)| *other != at).map(|(_, insn)| insn);
            let alone = others().all(|insn| !insn.uses().contains(dst) && !insn.defs().contains(dst));
            // Something must change from round to round, or the sum is no chain worth cutting.
            let changes = others().any(|insn| insn.defs().contains(src));
            let sums = Sums { width, first: dst, summand: src, second, at };
            (alone && changes && src != dst && !tests(dst)).then_some(sums)
        })
    }

    /// Makes the addition one to the second register.
    pub fn turn(&self, body: &mut [Insn]) {
        if let (Some(Insn::Alu { dst, .. }), Some(second)) = (body.get_mut(self.at), self.second) {
            *dst = second;
        }
    }
}

/// Where the register that a loop counts in grows or shrinks, if nothing else in `body` looks at it, and if so many rounds
/// may do that at once.
pub(crate) fn lone_step(body: &[Insn], counter: Reg, rounds: i32) -> Option<usize> {
    let mut uses = body.iter().enumerate().filter(|(_, insn)| insn.touches().contains(counter));
    let (at, insn) = uses.next()?;
    let Insn::Alu { op: AluOp::Add | AluOp::Sub, src: Operand::Imm(by), .. } = insn else { return None };
    by.checked_mul(rounds)?;
    uses.next().is_none().then_some(at)
}

/// Makes the step at `at` nothing, or that of `rounds`, if there is such a one.
pub(crate) fn step(body: &mut [Insn], at: usize, rounds: Option<i32>) {
    let Some(place) = body.get_mut(at) else { return };
    if let Insn::Alu { dst, src: Operand::Imm(by), .. } = place {
        match rounds {
            None => *place = nothing(*dst),
            Some(rounds) => *by *= rounds,
        }
    }
}
