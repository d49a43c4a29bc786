//! Branches over one operation, without the branch.
//!
//! ```text
//! if c goto +1                      t = x + 1            (nothing for a plain move)
//! x += 1              becomes       compare
//! ...                               x = t unless c
//! ```
//!
//! The same of a branch to where a jump behind the operation goes.
//!
//! Compilers make this of `c ? a : b`, because the instruction set has no conditional move. Most have decided by then that
//! the condition cannot be predicted, or that both sides cost nothing: they emit a conditional move for other machines.

use rtbpf_isa::effects::RegSet;
use rtbpf_isa::{AluOp, Insn, InsnIdx, Operand, Reg, Width};
use rtbpf_verifier::{Branch, VerifiedProgram};

use super::exits::Cond;
use super::value::Value;
use super::{Lead, begins};
use crate::encode::{Alu, Encode, Rhs};
use crate::fast::{Fast, constant, reg};

/// Marks branches over one operation, and what was a block only by them is none any more.
pub(crate) fn selects(program: &VerifiedProgram, leads: &mut [Lead], sources: &[(u32, u32)]) -> Vec<bool> {
    let mut selects = Vec::new();
    let code = program.code();
    let facts = program.proved();
    for (at, pair) in code.insns().windows(2).enumerate() {
        let [Insn::Branch { to, .. }, then] = pair else { continue };
        let from = InsnIdx(at as u32);
        // Over the operation, or where a jump behind it goes.
        let jumps = match code.insns().get(at + 2) {
            Some(Insn::Jump { to: then, .. }) => *then + 2 == *to && !begins(leads, from.next().next()),
            _ => false,
        };
        if *to != 1 && !jumps {
            continue;
        }
        let known = facts.at(from).unreached || facts.at(from).branch != Branch::Both;
        let entered = begins(leads, from.next());
        if !is_plain(then)
            || known
            || entered
            || waits(code.insns(), at)
            || code.subprog_at(from) != code.subprog_at(InsnIdx(from.0 + 2))
        {
            continue;
        }
        selects.resize(code.len() + 1, false);
        if let Some(place) = selects.get_mut(at) {
            *place = true;
        }
        if let (Some(lead @ Lead::Block), Some(source)) = (leads.get_mut(at + 2), sources.get(at + 2))
            && *to == 1
            && *source == (from.0, from.0)
        {
            *lead = Lead::No;
        }
    }
    selects
}

/// Whether what the branch at `at` compares was just loaded from an address that what it chooses goes into: a processor that
/// predicts the branch need not wait for one load before the next.
fn waits(insns: &[Insn], at: usize) -> bool {
    const NEAR: usize = 16;
    let (Some(branch), Some(chosen)) = (insns.get(at), insns.get(at + 1)) else { return false };
    let (mut wanted, mut addresses) = (branch.uses(), RegSet::EMPTY);
    for number in (at.saturating_sub(NEAR)..at).rev() {
        let Some(insn) = insns.get(number) else { break };
        if insn.defs().0 & addresses.0 != 0 {
            addresses = addresses.without(insn.defs()).with(insn.uses());
        }
        if insn.defs().0 & wanted.0 != 0 {
            wanted = wanted.without(insn.defs());
            if matches!(insn, Insn::Load { .. }) {
                addresses = addresses.with(insn.uses());
            }
        }
    }
    addresses.0 & chosen.defs().0 != 0
}

/// One cheap operation on registers.
fn is_plain(insn: &Insn) -> bool {
    match *insn {
        Insn::Alu { op, src, .. } => match op {
            AluOp::Mov | AluOp::Add | AluOp::Sub | AluOp::Or | AluOp::And | AluOp::Xor => true,
            AluOp::Lsh | AluOp::Rsh | AluOp::Arsh => matches!(src, Operand::Imm(_)),
            AluOp::Mul | AluOp::Div | AluOp::Mod | AluOp::Sdiv | AluOp::Smod => false,
        },
        _ => false,
    }
}

/// `body` for those who ask what it does to registers: what happens under a condition is some operation on what was there.
pub(crate) fn unconditional(body: &[Insn]) -> Vec<Insn> {
    let mut body = body.to_vec();
    for at in 1..body.len() {
        if let [Insn::Branch { .. }, Insn::Alu { op, .. }] = &mut body[at - 1..=at] {
            *op = AluOp::Or;
        }
    }
    body
}

impl<E: Encode> Fast<'_, E> {
    /// Whether the branch at `at` selects.
    pub(crate) fn selects(&self, at: InsnIdx) -> bool {
        self.opt.selects.get(at.index()) == Some(&true)
    }

    /// Whether the operation at `at` was emitted with the branch before it.
    pub(crate) fn selected(&self, at: InsnIdx) -> bool {
        at.0.checked_sub(1).is_some_and(|before| self.selects(InsnIdx(before)))
    }

    /// Emits the branch at `at` and the operation behind it.
    pub(crate) fn select(&mut self, at: InsnIdx, branch: &Insn) -> bool {
        let then = self.insns.get(at.next().index()).copied();
        let (Some(cond), Some(Insn::Alu { op, width, dst, src })) = (Cond::of(at, branch), then) else { return false };
        self.write();
        let sources = if let Operand::Reg(src) = src { RegSet::of(src) } else { RegSet::EMPTY };
        self.opt.after = self.opt.liveness.after(at.next()).with(self.opt.pinned);
        self.opt.live = self.opt.live.with(sources).with(RegSet::of(dst));
        // Computing one of these may compute another; the second time all of them stand still.
        for _ in 0..2 {
            self.release(dst);
            self.settle(dst);
            self.right_side(width, src);
            self.compared(cond);
        }
        let d = reg::<E>(dst);
        let (value, narrow) = match (op.into(), self.right_side(width, src)) {
            (Alu::Mov, Rhs::Imm(value)) => {
                let value = constant(width, value);
                self.e.mov_imm(E::SPARE, value);
                (E::SPARE, value <= u32::MAX.into())
            }
            (Alu::Mov, Rhs::Reg(value)) if width == Width::W32 && !self.is_narrow(src) => {
                self.e.mov(width, E::SPARE, value);
                (E::SPARE, true)
            }
            (Alu::Mov, Rhs::Reg(value)) => (value, self.is_narrow(src)),
            (Alu::Bin(op), value) => {
                self.e.bin(op, width, E::SPARE, d, value);
                (E::SPARE, width == Width::W32)
            }
            (Alu::Div(_), _) => return false,
        };
        let (a, b) = self.compared(cond);
        self.e.select(cond.op, cond.width, a, b, d, value);
        let narrow = narrow && self.opt.narrow.contains(dst);
        self.defined(dst, narrow);
        true
    }

    fn is_narrow(&self, src: Operand) -> bool {
        let Operand::Reg(src) = src else { return false };
        let is = |r: Reg| self.opt.narrow.contains(r);
        match self.opt.value(src) {
            Value::Sum { base: Some(base), index: None, disp: 0 } => is(base),
            Value::Sum { .. } | Value::Const(_) | Value::Shift { .. } => false,
            Value::Low { .. } | Value::Load { .. } => false,
        }
    }
}
