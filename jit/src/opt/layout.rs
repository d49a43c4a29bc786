//! The test of a loop, at the loop's end.
//!
//! ```text
//!       goto body                      goto body
//! test: if c goto body                 cold
//!       cold               becomes
//! body: ...                      body: ...
//!       goto test                test: if c goto body
//!                                      goto cold
//! ```
//!
//! Compilers place the test before the body where the way out is placed between them. Each round then jumps twice. And they
//! leave step and test in front where they could not turn a condition round:
//!
//! ```text
//!       goto body
//! test: step; if c goto out              body: ...
//! body: ...                  becomes     test: step; if !c goto body
//!       goto test                              goto out
//! ```

use rtbpf_isa::effects::Flow;
use rtbpf_isa::{Insn, InsnIdx};
use rtbpf_verifier::{Branch, VerifiedProgram};

use super::exits::{Cond, Target};
use super::rounds;
use super::{Lead, begins, falls};
use crate::asm::Label;
use crate::code::CompileError;
use crate::encode::{Encode, Reach};
use crate::fast::Fast;

/// Instructions of the longest test.
const MOST: u32 = 8;
/// Instructions that are looked at on the way out.
const WAY_OUT: u32 = 32;

/// A test and the jump whose place it takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moved {
    first: InsnIdx,
    /// Its branch.
    last: InsnIdx,
    jump: InsnIdx,
    /// Where the body begins, if nothing else leads to the test: then the loop is a straight line.
    body: Option<InsnIdx>,
    /// The branch leaves the loop.
    leaves: bool,
}

/// The tests to move; what is behind each becomes a block of its own.
pub(crate) fn moved(
    code: (&VerifiedProgram, &[Insn]),
    selects: &[u8],
    leads: &mut [Lead],
    sources: &mut [(u32, u32)],
) -> Vec<Moved> {
    let mut found = Vec::new();
    let (program, insns) = code;
    for (jump, insn) in (0..).map(InsnIdx).zip(insns) {
        let Insn::Jump { to: to @ ..0, .. } = *insn else { continue };
        let first = jump.target(to);
        let Some((first_source, last_source)) = sources.get(first.index()).copied() else { continue };
        if first.0 == 0 || last_source != jump.0 || program.proved().at(jump).unreached {
            continue;
        }
        let Some(last) = test(code, leads, first).filter(|last| *last < jump) else { continue };
        let Some(Insn::Branch { op, to, .. }) = insns.get(last.index()) else { continue };
        let (target, turns) = (last.target(*to), op.inverse().is_some());
        let leaves = !(first..=jump).contains(&target) && turns;
        let body = if leaves { last.next() } else { target };
        // Other branches to the test select, and do not go there.
        let mut others = (first_source..jump.0).map(InsnIdx).filter(|at| {
            let target = insns.get(at.index()).and_then(Insn::relative_target).map(|to| at.target(to));
            target == Some(first) && selects.get(at.index()).is_none_or(|count| *count == 0)
        });
        let alone = jump.0 - first_source <= MOST && others.next().is_none();
        let short = jump.0 - first.0 <= rounds::MOST_INSNS as u32;
        let joins = (body.0 + 1..=jump.0).any(|at| begins(leads, InsnIdx(at)));
        let moves = match leaves {
            // Short ones of several blocks are repeated as they are.
            true => alone && last.next() < jump && !(short && joins),
            false => (!short || alone && turns && !joins) && is_cold(insns, last.next(), first, jump),
        };
        if !moves {
            continue;
        }
        let body = (leaves || alone && turns && (last..jump).contains(&body)).then_some(body);
        found.push(Moved { first, last, jump, body, leaves });
        if let (false, Some(lead @ Lead::No)) = (leaves, leads.get_mut(last.index() + 1)) {
            *lead = Lead::Block;
        }
        let Some(body) = body else { continue };
        if let (Some(lead), Some((_, source))) = (leads.get_mut(body.index()), sources.get_mut(body.index())) {
            (*lead, *source) = (Lead::Loop, (*source).max(jump.0));
        }
        if let Some(lead) = leads.get_mut(first.index()) {
            *lead = Lead::No;
        }
    }
    found
}

/// The branch of the short block at `first`, which nothing falls into.
fn test((program, insns): (&VerifiedProgram, &[Insn]), leads: &[Lead], first: InsnIdx) -> Option<InsnIdx> {
    if falls(insns, first) || program.code().subprog_at(first) != program.code().subprog_at(InsnIdx(first.0 - 1)) {
        return None;
    }
    for at in (first.0..first.0 + MOST).map(InsnIdx) {
        let facts = program.proved().at(at);
        let entered = at != first && begins(leads, at);
        if facts.unreached || entered {
            return None;
        }
        match insns.get(at.index())? {
            Insn::Alu { .. } | Insn::MovSx { .. } | Insn::Load { .. } | Insn::Store { .. } => {}
            // A branch over a jump becomes one branch.
            Insn::Branch { to: 1, .. } if matches!(insns.get(at.index() + 1), Some(Insn::Jump { .. })) => return None,
            Insn::Branch { .. } if facts.branch == Branch::Both => return Some(at),
            _ => return None,
        }
    }
    None
}

/// Whether no way from `at` that is not the last one's goes back into the loop from `first` to `last`.
fn is_cold(insns: &[Insn], at: InsnIdx, first: InsnIdx, last: InsnIdx) -> bool {
    let inside = |at: InsnIdx| (first..=last).contains(&at);
    for at in (at.0..at.0 + WAY_OUT).map(InsnIdx) {
        let Some(insn) = insns.get(at.index()) else { return false };
        match insn.flow() {
            Flow::Next | Flow::Call(_) if inside(at) => {}
            Flow::Branch(to) if inside(at) && !inside(at.target(to)) => {}
            Flow::Jump(to) => return !inside(at.target(to)),
            Flow::Exit => return true,
            Flow::Next | Flow::Call(_) | Flow::Branch(_) => return false,
        }
    }
    false
}

impl<E: Encode> Fast<'_, E> {
    /// Whether the instruction at `at` is emitted elsewhere.
    pub(crate) fn is_moved(&self, at: InsnIdx) -> bool {
        self.opt.moved.iter().any(|moved| (moved.first..=moved.last).contains(&at))
    }

    /// Whether all that stands between the jump at `at` and its target is emitted elsewhere.
    pub(crate) fn jumps_over_moved(&self, at: InsnIdx, to: i32) -> bool {
        (1..=MOST as i32).contains(&to) && (at.0 + 1..at.target(to).0).all(|at| self.is_moved(InsnIdx(at)))
    }

    /// Emits the test that takes the place of the jump at `at`, if one does.
    pub(crate) fn test_here(&mut self, at: InsnIdx, starts: &[Label]) -> Result<bool, CompileError> {
        let Some(moved) = self.opt.moved.iter().find(|moved| moved.jump == at).copied() else { return Ok(false) };
        if let Some(body) = moved.body {
            return self.ring(moved, body, starts).map(|()| true);
        }
        for at in (moved.first.0..=moved.last.0).map(InsnIdx) {
            self.emit(at, starts)?;
        }
        let out = moved.last.next();
        self.settle_all(self.live_before(out));
        self.e.jump(Label(out.0), Reach::Far);
        self.opt.forget();
        Ok(true)
    }

    /// Emits the test of a loop that is a straight line, and the way back to the body.
    fn ring(&mut self, moved: Moved, body: InsnIdx, starts: &[Label]) -> Result<(), CompileError> {
        let Moved { first, last, jump, leaves, .. } = moved;
        for at in (first.0..last.0).map(InsnIdx) {
            self.emit(at, starts)?;
        }
        let Some(&branch @ Insn::Branch { to, .. }) = self.insns.get(last.index()) else { return Ok(()) };
        let cond = Cond::of(last, &branch);
        let Some(leave) = cond.and_then(|cond| if leaves { Some(cond) } else { cond.inverse() }) else { return Ok(()) };
        self.e.asm().mark(Label(last.0));
        let out = if leaves { last.target(to) } else { last.next() };
        let out = Target { leaves: true, ..self.target(last, out, Label(out.0), Reach::Far) };
        let places = (body.0..jump.0).chain(first.0..last.0).map(InsnIdx).collect();
        self.unroll_moved(places, leave, out, starts)
    }
}
