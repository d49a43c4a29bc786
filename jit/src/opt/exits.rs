//! Branches, and what is pending when they leave a loop.
//!
//! ```text
//! head: i = i + 1; k = a + i; if x == y goto out          becomes      head: if x == y goto exit
//!       if i != n goto head                                                  i = i + 1; if i != n goto head
//!                                                                      exit: i = i + 1; k = a + i; goto out
//! ```
//!
//! What only the other side of a branch reads need not be computed on this one. Where a branch leaves a loop, which it
//! does once in many rounds, all that is pending is computed behind the branch, in code of its own.

use std::ops::Range;

use rtbpf_isa::effects::RegSet;
use rtbpf_isa::{AluOp, CmpOp, Insn, InsnIdx, Operand, Reg, Width};

use super::Opt;
use super::fuse::Compared;
use super::truth::right;
use super::value::Value;
use crate::asm::Label;
use crate::encode::{Encode, Reach, Rhs};
use crate::fast::{Fast, reg};

/// A comparison and the instruction that makes it.
#[derive(Clone, Copy)]
pub(crate) struct Cond {
    pub at: InsnIdx,
    pub op: CmpOp,
    pub width: Width,
    pub lhs: Reg,
    pub rhs: Operand,
}

impl Cond {
    /// What `insn` compares, if it is a branch.
    pub fn of(at: InsnIdx, insn: &Insn) -> Option<Cond> {
        match *insn {
            Insn::Branch { op, width, lhs, rhs, .. } => Some(Cond { at, op, width, lhs, rhs }),
            _ => None,
        }
    }

    pub fn inverse(self) -> Option<Cond> {
        Some(Cond { op: self.op.inverse()?, ..self })
    }

    pub fn uses(self) -> RegSet {
        let lhs = RegSet::of(self.lhs);
        match self.rhs {
            Operand::Reg(rhs) => lhs.with(RegSet::of(rhs)),
            Operand::Imm(_) => lhs,
        }
    }
}

/// Where a branch goes.
#[derive(Clone, Copy)]
pub(crate) struct Target {
    pub label: Label,
    /// What is read there or later.
    pub live: RegSet,
    pub reach: Reach,
    /// It is out of a loop.
    pub leaves: bool,
}

/// Code behind a branch that left values pending.
pub(crate) struct Exit {
    /// The branch.
    at: InsnIdx,
    from: Label,
    to: Label,
    values: [Value; Reg::COUNT],
    pending: RegSet,
    narrow: RegSet,
    ones: [u64; Reg::COUNT],
    live: RegSet,
    /// Instructions to emit on the way.
    then: Range<u32>,
    /// Where it leads, if what stands there may be emitted on the way, too.
    leads: Option<InsnIdx>,
}

/// Instructions that are emitted once more for a way that leads there, at most.
const AGAIN: usize = 12;

/// What the optimising tier emits by itself, whatever it knows.
pub(super) fn is_emitted(insn: &Insn) -> bool {
    match insn {
        Insn::Alu { op, .. } => !matches!(op, AluOp::Div | AluOp::Mod | AluOp::Sdiv | AluOp::Smod),
        Insn::MovSx { .. } | Insn::Load { .. } | Insn::Store { .. } => true,
        _ => false,
    }
}

impl<E: Encode> Fast<'_, E> {
    /// What is read at `at` or later.
    pub(crate) fn live_before(&self, at: InsnIdx) -> RegSet {
        self.opt.liveness.before(at, &self.insns).with(self.opt.pinned)
    }

    /// The target of the branch at `at`, which stands at `label`.
    pub(crate) fn target(&self, at: InsnIdx, to: InsnIdx, label: Label, reach: Reach) -> Target {
        Target { label, live: self.live_before(to), reach, leaves: self.opt.leaves(at, to) }
    }

    /// The way out behind the loop that ends at `at`.
    pub(crate) fn way_out(&self, at: InsnIdx) -> Target {
        let label = Label(at.next().0);
        Target { label, live: self.live_before(at.next()), reach: Reach::Near, leaves: true }
    }

    /// Jumps to `target` if `cond` holds. On the other side, what was pending still is.
    pub(crate) fn branch(&mut self, cond: Cond, target: Target) {
        self.write();
        let cond = self.resolved(cond);
        self.opt.after = self.opt.liveness.after(cond.at).with(self.opt.pinned);
        self.opt.live = self.opt.after.with(cond.uses());
        let leaves = target.leaves && self.opt.on.exits;
        if !leaves || self.is_cheap(target.live) {
            self.settle_all(target.live);
        }
        let compared = self.compared_with_memory(cond);
        if target.live.0 & self.opt.pending.0 == 0 {
            // What is pending may be computed on the way, in up to ten bytes each; short branches have 27 to spare.
            let short = target.reach == Reach::Short && self.opt.pending.0.count_ones() > 2;
            let reach = if short { Reach::Near } else { target.reach };
            return self.compare(cond, compared, target.label, reach);
        }
        let from = self.e.asm().label();
        self.leave_pending((cond.at, from), target, 0..0, None);
        self.compare(cond, compared, from, Reach::Far);
    }

    pub(crate) fn compare(&mut self, cond: Cond, compared: Compared<E::Reg>, to: Label, reach: Reach) {
        match compared {
            Compared::Registers(a, b) => self.e.branch(cond.op, cond.width, a, b, to, reach),
            Compared::Memory(op, size, addr, b) => self.e.branch_memory(op, size, addr, b, to, reach),
            Compared::Byte(a, value) => self.e.branch_byte(cond.op, a, value, to, reach),
        }
    }

    /// Whether all that is pending of `set` is one move, which costs less here than a jump there.
    fn is_cheap(&self, set: RegSet) -> bool {
        let mut pending = RegSet(set.0 & self.opt.pending.0).iter().map(|r| self.opt.value(r));
        let first = pending.next();
        pending.next().is_none()
            && first
                .is_none_or(|value| value.copied().is_some() || matches!(value, Value::Const(_) | Value::Low { .. }))
    }

    /// What was pending at a branch is needed only as far as it is read behind it.
    pub(crate) fn falls_to(&mut self, at: InsnIdx) {
        self.opt.live = self.live_before(at);
    }

    /// The sides of a comparison; against a sum, what it is summed to is compared.
    pub(crate) fn compared(&mut self, cond: Cond) -> (E::Reg, Rhs<E::Reg>) {
        let (a, b) = self.sides(cond);
        (reg::<E>(a), right::<E>(b))
    }

    /// The registers whose contents are compared.
    pub(super) fn sides(&mut self, cond: Cond) -> (Reg, Operand) {
        let Cond { op, width, lhs, rhs: right, .. } = cond;
        if let (CmpOp::Eq | CmpOp::Ne, Value::Sum { base: Some(base), index: None, disp }) = (op, self.opt.value(lhs))
            && let Operand::Imm(value) = self.right_source(width, right)
            && let Some(value) = value.checked_sub(disp)
        {
            return (base, Operand::Imm(value));
        }
        self.right_source(width, right);
        self.source_at(width, lhs);
        // Computing one may have computed the other; what is computed stands still.
        let b = self.right_source(width, right);
        (self.source_at(width, lhs), b)
    }

    /// Begins the branch of `cond`.
    pub(crate) fn branching(&mut self, cond: Cond) -> Compared<E::Reg> {
        self.write();
        self.opt.after = self.opt.liveness.after(cond.at).with(self.opt.pinned);
        self.opt.live = self.opt.after.with(cond.uses());
        self.compared_with_memory(cond)
    }

    /// Leaves for later what stands between `from` and `target`.
    pub(crate) fn leave_pending(
        &mut self,
        (at, from): (InsnIdx, Label),
        target: Target,
        then: Range<u32>,
        leads: Option<InsnIdx>,
    ) {
        let Opt { values, pending, narrow, ones, .. } = self.opt;
        self.exits.push(Exit {
            at,
            from,
            to: target.label,
            values,
            pending,
            narrow,
            ones,
            live: target.live,
            then,
            leads,
        });
    }

    /// A few instructions from `at` on, up to a branch, that may be emitted once more, and where the way goes on behind them.
    fn way(&self, mut at: InsnIdx) -> Option<(Vec<InsnIdx>, InsnIdx)> {
        let (mut way, mut end) = (Vec::new(), None);
        for _ in 0..AGAIN {
            // Where a loop may be emitted several times, nothing stands once more, and nothing else comes in.
            if self.opt.is_tight(at) {
                break;
            }
            let insn = self.insns.get(at.index()).filter(|_| !self.program.proved().at(at).unreached)?;
            let next = match *insn {
                Insn::Jump { to, .. } => {
                    at = at.target(to);
                    continue;
                }
                // Where a branch decided the next one, that one is not there.
                Insn::Branch { .. } if self.decided(at).is_some() => break,
                Insn::Branch { .. } if self.opt.selects(at) != 0 => InsnIdx(at.0 + 1 + self.opt.selects(at) as u32),
                Insn::Branch { .. } if self.condition(at).is_some() => {
                    if !self.opt.is_tight(at.next()) || self.opt.begins(at.next()) {
                        end = Some((way.len() + 1, at.next()));
                    }
                    at.next()
                }
                _ if is_emitted(insn) => at.next(),
                _ => break,
            };
            way.push(at);
            at = next;
        }
        let (len, next) = end?;
        way.truncate(len);
        Some((way, next))
    }

    /// Begins a block behind each way that is emitted once more: it is jumped to from there.
    pub(crate) fn begin_behind_ways(&mut self) {
        if !self.opt.on.thread || !self.plan.blocks.is_empty() {
            return;
        }
        self.opt.tight = self.opt.tight(&self.insns);
        for at in (0..self.insns.len() as u32).map(InsnIdx) {
            let jump = self.decided(at).or_else(|| self.is_followed(at).then_some(at));
            if let Some(jump) = jump
                && let Some(to) = self.insns.get(jump.index()).and_then(Insn::relative_target)
                && let Some((_, next)) = self.way(jump.target(to))
            {
                self.opt.begin_at(next);
            }
        }
    }

    /// Whether `at` is a jump in a loop that is too long to be emitted several times.
    fn is_followed(&self, at: InsnIdx) -> bool {
        let Some(&Insn::Jump { to, .. }) = self.insns.get(at.index()) else { return false };
        !self.opt.is_tight(at) && to < 0
    }

    /// Emits the beginning of what the jump at `at` goes to in its place: each round then takes a jump less.
    pub(crate) fn follow(&mut self, at: InsnIdx, to: i32) -> bool {
        let on = self.opt.on.thread && self.plan.blocks.is_empty() && self.is_followed(at);
        on && !self.jumps_over_moved(at, to) && self.once_more(at.target(to))
    }

    /// Emits the way from `at` on in place of a jump there.
    fn once_more(&mut self, at: InsnIdx) -> bool {
        let Some((way, next)) = self.way(at).filter(|(_, next)| self.opt.begins(*next)) else { return false };
        for at in way {
            self.e.asm().copy(at);
            let Some(&insn) = self.insns.get(at.index()) else { continue };
            match (self.condition(at), insn) {
                (Some(cond), Insn::Branch { to, .. }) if self.opt.selects(at) == 0 => {
                    let to = at.target(to);
                    self.branch(cond, self.target(at, to, Label(to.0), Reach::Far));
                    self.falls_to(at.next());
                }
                _ => {
                    self.optimised(at, &insn);
                }
            }
        }
        let live = self.live_before(next);
        self.settle_all(live);
        self.e.jump(Label(next.0), Reach::Far);
        self.opt.forget();
        true
    }

    /// Emits what branches left for later.
    pub(crate) fn exits(&mut self) {
        // A branch on the way may leave something for later, too.
        while let Some(exit) = self.exits.pop() {
            self.e.asm().bind(exit.from);
            self.e.asm().copy(exit.at);
            self.opt.forget();
            exit.pending.iter().for_each(|r| self.opt.set(r, exit.values[r.index()]));
            (self.opt.narrow, self.opt.ones) = (exit.narrow, exit.ones);
            for at in exit.then.map(InsnIdx) {
                self.e.asm().copy(at);
                if let Some(&insn) = self.insns.get(at.index()) {
                    self.optimised(at, &insn);
                }
            }
            if exit.leads.is_some_and(|at| self.once_more(at)) {
                continue;
            }
            self.write();
            self.opt.live = self.opt.live.with(exit.live);
            self.settle_all(exit.live);
            self.e.jump(exit.to, Reach::Far);
            // What was pending on this way is nothing to the code that comes next.
            self.opt.forget();
        }
    }
}
