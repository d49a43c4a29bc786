//! Branches over jumps, as branches to where the jumps go.
//!
//! ```text
//! if c goto +1                         if !c goto head
//! goto head            becomes         (nothing)
//! ```
//!
//! Compilers leave these where they could not turn a condition round. As branches, they end loops of one block.

use rtbpf_isa::effects::Flow;
use rtbpf_isa::{Insn, InsnIdx};
use rtbpf_verifier::{Branch, VerifiedProgram};

use super::nothing;

/// The program's instructions with its branches over jumps inverted; `None` where there is none.
pub(crate) fn straightened(program: &VerifiedProgram) -> Option<Vec<Insn>> {
    let insns = program.code().insns();
    let mut new: Option<Vec<Insn>> = None;
    let mut entered: Option<Vec<bool>> = None;
    for (at, pair) in insns.windows(2).enumerate() {
        let &[Insn::Branch { op, width, lhs, rhs, to: 1 }, Insn::Jump { to, .. }] = pair else { continue };
        let facts = program.proved();
        let known = |at: usize| facts.at(InsnIdx(at as u32));
        if known(at).branch != Branch::Both || known(at).unreached || known(at + 1).unreached || to == 0 {
            continue;
        }
        let entered = entered.get_or_insert_with(|| targets(insns));
        let (Some(op), Some(to), Some(false)) = (op.inverse(), to.checked_add(1), entered.get(at + 1)) else {
            continue;
        };
        if to == 0 {
            continue;
        }
        if let Some(room) = new.get_or_insert_with(|| insns.to_vec()).get_mut(at..at + 2) {
            room.copy_from_slice(&[Insn::Branch { op, width, lhs, rhs, to }, nothing(lhs)]);
        }
    }
    new
}

/// Where jumps go.
fn targets(insns: &[Insn]) -> Vec<bool> {
    let mut targets = vec![false; insns.len()];
    for (at, insn) in (0..).map(InsnIdx).zip(insns) {
        if let Flow::Jump(to) | Flow::Branch(to) = insn.flow()
            && let Some(place) = targets.get_mut(at.target(to).index())
        {
            *place = true;
        }
    }
    targets
}
