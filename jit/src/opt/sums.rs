//! Sums over the rounds of a loop.

use rtbpf_isa::effects::RegSet;
use rtbpf_isa::{AluOp, Insn, Operand, Reg, Width};

/// A register to which each round adds something, and that nothing else in the loop looks at; and an idle one that may
/// take every second summand.
pub(crate) struct Sums {
    pub width: Width,
    pub first: Reg,
    pub second: Reg,
    /// The addition, in the body.
    at: usize,
}

impl Sums {
    /// The first sum of `body`; `tested` is what the loop's branch reads.
    pub fn of(body: &[Insn], tested: [Operand; 2], idle: RegSet) -> Option<Sums> {
        let touched = body.iter().fold(RegSet::EMPTY, |all, insn| all.with(insn.uses()).with(insn.defs()));
        let tests = |reg: Reg| tested.contains(&Operand::Reg(reg));
        let second = idle.without(touched).iter().find(|reg| !tests(*reg))?;
        body.iter().enumerate().find_map(|(at, insn)| {
            let Insn::Alu { op: AluOp::Add, width, dst, src: Operand::Reg(src) } = *insn else { return None };
            let others = || body.iter().enumerate().filter(|(other, _)| *other != at).map(|(_, insn)| insn);
            let alone = others().all(|insn| !insn.uses().contains(dst) && !insn.defs().contains(dst));
            // Something must change from round to round, or the sum is no chain worth cutting.
            let changes = others().any(|insn| insn.defs().contains(src));
            (alone && changes && src != dst && !tests(dst)).then_some(Sums { width, first: dst, second, at })
        })
    }

    /// The body that adds to the second register.
    pub fn other(&self, body: &[Insn]) -> Vec<Insn> {
        let mut body = body.to_vec();
        if let Some(Insn::Alu { dst, .. }) = body.get_mut(self.at) {
            *dst = self.second;
        }
        body
    }
}
