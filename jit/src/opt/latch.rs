//! Loops whose test is a number that was made of a condition just before.
//!
//! ```text
//! head: step                                  head: step
//!       x &= 1; if x != 0 goto out                  if c goto out
//!       ...                       becomes           ...
//!       x = 1; if c goto head                       goto head
//!       x = 0; goto head
//! ```
//!
//! Compilers leave these where they moved a test from the end of a loop to its head. Read once, at the end of the round, it is
//! the test that it was made of.

use rtbpf_isa::{AluOp, CmpOp, Insn, InsnIdx, Operand, Reg};
use rtbpf_verifier::{Branch, VerifiedProgram};

use super::liveness::Liveness;
use super::{begins, falls, lead, nothing};

/// Instructions from the head to its branch, at most.
const MOST: u32 = 8;

/// The number and the condition, at the end of a loop.
struct Latch {
    /// Where the number is made.
    at: InsnIdx,
    head: InsnIdx,
    number: Reg,
    /// The branch of which it is made: 1 if it is taken.
    branch: Insn,
}

/// The instructions with conditions in the place of numbers; `None` where there is none.
pub(crate) fn conditions(program: &VerifiedProgram, insns: &[Insn]) -> Option<Vec<Insn>> {
    let latches = (0..).map(InsnIdx).zip(insns.windows(4)).filter_map(|(at, four)| latch(at, four));
    let latches: Vec<Latch> = latches.collect();
    if latches.is_empty() {
        return None;
    }
    let subprogs = program.code().subprogs();
    let (liveness, (leads, sources)) = (Liveness::new(insns, subprogs), lead(insns, subprogs));
    let mut new: Option<Vec<Insn>> = None;
    for latch in latches {
        let Some((test, branch)) = test(program, insns, &liveness, &latch) else { continue };
        let Latch { at, head, number, .. } = latch;
        // The two jumps are all that leads to the head, and nothing leads in between, or into the latch.
        let led = sources.get(head.index()) == Some(&(at.0 + 1, at.0 + 3)) && !falls(insns, head);
        let mut inside = (head.0 + 1..=test.0).chain(at.0 + 1..=at.0 + 3).map(InsnIdx);
        if !led || subprogs.iter().any(|subprog| subprog.start == head) || inside.any(|at| begins(&leads, at)) {
            continue;
        }
        let new = new.get_or_insert_with(|| insns.to_vec());
        for (place, insn) in (0..).zip(new.iter_mut()).take(at.index() + 3).skip(head.index()) {
            if place >= at.0 || place < test.0 && insn.defs().contains(number) {
                *insn = nothing(number);
            }
        }
        if let Some(place) = new.get_mut(test.index()) {
            *place = branch;
        }
    }
    new
}

fn latch(at: InsnIdx, four: &[Insn]) -> Option<Latch> {
    let &[
        Insn::Alu { op: AluOp::Mov, dst: number, src: Operand::Imm(one), .. },
        branch @ Insn::Branch { op, to: first @ ..0, .. },
        Insn::Alu { op: AluOp::Mov, dst: other, src: Operand::Imm(zero), .. },
        Insn::Jump { to: second @ ..0, .. },
    ] = four
    else {
        return None;
    };
    let head = InsnIdx(at.0 + 1).target(first);
    let same = number == other && InsnIdx(at.0 + 3).target(second) == head && !branch.uses().contains(number);
    let branch = match (one, zero) {
        (1, 0) => branch,
        (0, 1) => with_op(branch, op.inverse()?),
        _ => return None,
    };
    (same && head.0 > 0).then_some(Latch { at, head, number, branch })
}

fn with_op(insn: Insn, new: CmpOp) -> Insn {
    match insn {
        Insn::Branch { width, lhs, rhs, to, .. } => Insn::Branch { op: new, width, lhs, rhs, to },
        other => other,
    }
}

/// The branch at the head of the loop, and what takes its place.
fn test(program: &VerifiedProgram, insns: &[Insn], liveness: &Liveness, latch: &Latch) -> Option<(InsnIdx, Insn)> {
    let Latch { at, head, number, branch } = *latch;
    let both = |at: InsnIdx| {
        let facts = program.proved().at(at);
        !facts.unreached && facts.branch == Branch::Both
    };
    let test =
        (head.0..head.0 + MOST).map(InsnIdx).find(|at| matches!(insns.get(at.index()), Some(Insn::Branch { .. })))?;
    let Insn::Branch { op, lhs, rhs: Operand::Imm(0), to, .. } = *insns.get(test.index())? else { return None };
    let dead = |at: InsnIdx| !liveness.before(at, insns).contains(number);
    let (taken, next) = (test.target(to), test.next());
    if lhs != number || test >= at || !both(test) || !both(at.next()) || !dead(taken) || !dead(next) {
        return None;
    }
    // Nothing between says what the condition is, or looks at the number.
    let keeps = |insn: &Insn| match *insn {
        Insn::Alu { op: AluOp::And, dst, src: Operand::Imm(1), .. } if dst == number => true,
        Insn::Alu { .. } | Insn::MovSx { .. } | Insn::Load { .. } | Insn::Store { .. } | Insn::Neg { .. } => {
            !insn.uses().contains(number) && insn.defs().0 & (branch.uses().0 | 1 << number as u8) == 0
        }
        _ => false,
    };
    if !insns.get(head.index()..test.index())?.iter().all(keeps) {
        return None;
    }
    let new = match (op, branch) {
        (CmpOp::Ne, Insn::Branch { op, width, lhs, rhs, .. }) => Insn::Branch { op, width, lhs, rhs, to },
        (CmpOp::Eq, Insn::Branch { op, width, lhs, rhs, .. }) => {
            Insn::Branch { op: op.inverse()?, width, lhs, rhs, to }
        }
        _ => return None,
    };
    Some((test, new))
}
