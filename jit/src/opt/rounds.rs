//! Short loops of several blocks, several times in a row.
//!
//! ```text
//! head: load; if c goto skip; add                head: load; if c goto skip; add
//! skip: step; if d goto head        becomes      skip: step; if !d goto out
//!                                                      load; if c goto skip'; add
//!                                                skip': step; if d goto head
//!                                                out:
//! ```
//!
//! A processor takes one branch a cycle, and the one back to the head is one of few. A loop may as well end with a jump to
//! its head and be left from within.

use rtbpf_isa::effects::Flow;
use rtbpf_isa::{Insn, InsnIdx};
use rtbpf_verifier::Branch;

use super::exits::{Cond, Target};
use super::{Lead, Opt, unroll};
use crate::asm::Label;
use crate::code::CompileError;
use crate::encode::{Encode, Reach};
use crate::fast::Fast;

/// Instructions of the longest loop that is repeated.
pub(super) const MOST_INSNS: usize = 12;
/// Rounds in a row.
const ROUNDS: usize = 4;

impl Opt {
    /// Whether each instruction is in a loop that may be emitted several times.
    pub(super) fn tight(&self, insns: &[Insn]) -> Vec<bool> {
        let mut tight = vec![false; insns.len()];
        for (at, insn) in (0..).map(InsnIdx).zip(insns) {
            let Some(to @ ..0) = insn.relative_target() else { continue };
            let head = at.target(to);
            let len = (at.0 - head.0) as usize;
            let last = || self.sources.get(head.index()).is_some_and(|(_, last)| *last == at.0);
            let is_block = || (head.0 + 1..=at.0).all(|at| !self.begins(InsnIdx(at)));
            if (len <= MOST_INSNS && last() || len <= unroll::MOST_INSNS && is_block())
                && let Some(range) = tight.get_mut(head.index()..=at.index())
            {
                range.fill(true);
            }
        }
        tight
    }
}

impl<E: Encode> Fast<'_, E> {
    /// The head of the loop that ends at `at`, if it is one to repeat.
    fn repeated(&self, at: InsnIdx) -> Option<InsnIdx> {
        let to = match *self.insns.get(at.index())? {
            Insn::Branch { to, .. } | Insn::Jump { to, .. } if to < 0 => to,
            _ => return None,
        };
        let head = at.target(to);
        let body = self.insns.get(head.index()..at.index()).filter(|body| body.len() <= MOST_INSNS)?;
        let last = self.opt.sources.get(head.index()).is_some_and(|(_, last)| *last == at.0);
        let known = self.opt.on.unroll && self.opt.on.values && last;
        let plain = |(offset, insn): (usize, &Insn)| {
            let from = InsnIdx(head.0 + offset as u32);
            let reached = !self.program.proved().at(from).unreached;
            reached
                && match insn.flow() {
                    Flow::Next => !matches!(insn, Insn::Call(_) | Insn::Packet { .. } | Insn::Bad { .. }),
                    // Forward, to the head, or out of the loop.
                    Flow::Jump(to) | Flow::Branch(to) => {
                        let target = from.target(to);
                        !matches!(insn, Insn::MayGoto { .. }) && (to > 0 || target <= head)
                    }
                    Flow::Call(_) | Flow::Exit => false,
                }
        };
        // By a call, or a loop of its own.
        let apart = |target: u32| {
            let (first, last) = self.opt.sources.get(target as usize).copied().unwrap_or((0, u32::MAX));
            match self.opt.leads.get(target as usize) {
                Some(Lead::No) => false,
                Some(Lead::Block) => first > last,
                Some(Lead::Loop) | None => true,
            }
        };
        let mut inside = head.0 + 1..=at.0;
        let joins = |at: u32| self.opt.leads.get(at as usize) == Some(&Lead::Block);
        let several = inside.clone().any(joins) || body.iter().any(|insn| insn.flow() != Flow::Next);
        (known && several && body.iter().enumerate().all(plain) && !inside.any(apart)).then_some(head)
    }

    /// Emits the branch or jump at `at` and more rounds of the loop that it ends; `false` when it ends none to repeat.
    pub(crate) fn repeat(&mut self, at: InsnIdx, starts: &[Label]) -> Result<bool, CompileError> {
        let Some(head) = self.repeated(at) else { return Ok(false) };
        let Some(&latch) = self.insns.get(at.index()) else { return Ok(false) };
        let (out, mut places) = (self.way_out(at), Vec::new());
        let cond = Cond::of(at, &latch);
        for round in 0..ROUNDS {
            if round != 0 {
                places.clear();
                places.extend((head.0..=at.0).map(|_| self.e.asm().label()));
                self.blocks(head, at, &places, starts)?;
            }
            let last = round + 1 == ROUNDS;
            match (cond, cond.and_then(Cond::inverse)) {
                (Some(_), Some(not)) if !last => self.branch(not, out),
                (Some(cond), _) => {
                    let around =
                        Target { label: Label(head.0), live: self.live_before(head), reach: Reach::Far, leaves: false };
                    self.branch(cond, around);
                    self.settle_all(out.live);
                    if !last {
                        self.e.jump(out.label, Reach::Near);
                    }
                }
                (None, _) if last => {
                    self.settle_all(self.live_before(head));
                    self.e.jump(Label(head.0), Reach::Far);
                }
                (None, _) => self.write(),
            }
        }
        self.opt.enter(at.next());
        self.e.asm().bind(out.label);
        Ok(true)
    }

    /// Whether a jump between `head` and `end` goes to `at`. Those from elsewhere go to the first round.
    fn is_entered(&self, at: InsnIdx, head: InsnIdx, end: InsnIdx) -> bool {
        let (first, last) = self.opt.sources.get(at.index()).copied().unwrap_or((0, u32::MAX));
        self.opt.begins(at) && last >= head.0 && first <= end.0
    }

    /// One more round of the blocks from `head` up to `end`, whose instructions are at `places`.
    fn blocks(&mut self, head: InsnIdx, end: InsnIdx, places: &[Label], starts: &[Label]) -> Result<(), CompileError> {
        for number in head.0..=end.0 {
            let at = InsnIdx(number);
            let place = |at: InsnIdx| match at.0.checked_sub(head.0).and_then(|offset| places.get(offset as usize)) {
                Some(place) if at != head => *place,
                Some(_) | None => Label(at.0),
            };
            if at != head && self.is_entered(at, head, end) {
                self.write();
                let live = self.opt.live;
                self.settle_all(live);
                self.opt.enter(at);
                self.e.asm().bind(place(at));
            }
            self.e.asm().copy(at);
            self.charge(at);
            let Some(&insn) = self.insns.get(at.index()).filter(|_| at != end) else { continue };
            if self.optimised(at, &insn) {
                continue;
            }
            match insn {
                Insn::Jump { to, .. } => {
                    self.settle_all(self.live_before(at.target(to)));
                    let reach = self.reach(at, to);
                    self.e.jump(place(at.target(to)), reach);
                }
                Insn::Branch { op, width, lhs, rhs, to } => {
                    let target = at.target(to);
                    let target = self.target(at, target, place(target), self.reach(at, to));
                    match self.program.proved().at(at).branch {
                        Branch::Both => self.branch(Cond { at, op, width, lhs, rhs }, target),
                        Branch::Taken => {
                            self.settle_all(target.live);
                            self.e.jump(target.label, target.reach);
                        }
                        Branch::Never => {}
                    }
                }
                other => self.plain(at, &other, starts)?,
            }
        }
        Ok(())
    }
}
