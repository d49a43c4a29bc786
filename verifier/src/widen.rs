//! Loops that count: walked once with a range in place of the counter, in the strict profile.
//!
//! ```text
//!  v ─▶ head: c in v..=bound ── body ──▶ c' = c + step, c' in v..=bound ──▶ covered by the head
//! ```
//!
//! A state of the head that holds more than the one that came is always sound. That the loop ends is shown by its counter:
//! the walk follows, by the link of a number to the one that it was made from, that each way back to the head adds
//! `step` to it and stays within the bound, so that no run can go back for ever. A range or a step that does not hold
//! is given up and the next guess tried, from the start; where none holds, the loop is walked round by round.

use std::collections::HashMap;

use rtbpf_isa::effects::RegSet;
use rtbpf_isa::{AluOp, CmpOp, Insn, InsnIdx, Operand, Program, Reg, Width};

use crate::domain::Scalar;
use crate::explore::Walk;
use crate::needed::{Need, bits};
use crate::state::State;
use crate::value::Value;
use crate::verified::Profile;

/// Rounds of a loop that are walked before its counter is guessed.
const PATIENCE: u32 = 64;
/// Times that a loop is entered anew in one walk, before the guess is given up.
const MOST_ENTRIES: u32 = 256;
/// No guess beyond: sums of a bound and a step are exact.
const MOST: u64 = 1 << 62;

/// What a loop may count by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Guess {
    reg: Reg,
    step: i64,
    /// The last value that the head sees.
    bound: u64,
}

/// What is known of a loop's head.
#[derive(Default)]
struct Plan {
    /// The current guess, and what to try after it, last first; none: the loop is walked round by round.
    guesses: Vec<Guess>,
    /// Registers and slots of the current frame whose numbers change in the loop.
    regs: u16,
    slots: u64,
    entries: u32,
    /// Times that the current guess did not fit what entered.
    misfits: u32,
}

/// Guesses about the loops of a program.
#[derive(Default)]
pub(crate) struct Plans {
    heads: HashMap<InsnIdx, Plan>,
    rounds: HashMap<InsnIdx, u32>,
    /// A guess did not hold: the walk begins anew.
    pub restart: bool,
}

/// The counter of a head that was widened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counter {
    /// The link of what is made from it.
    pub id: u32,
    reg: Reg,
    step: i64,
}

/// How a state arrives at a widened head.
pub(crate) enum Back {
    /// From outside of the loop.
    Entry,
    /// From the loop, one step further.
    Step,
    /// From the loop, and it cannot be told that it ends.
    Stuck,
}

impl Counter {
    pub fn arrival(&self, state: &State) -> Back {
        let value = state.reg(self.reg);
        if !value.is_scalar() || value.id != self.id {
            return Back::Entry;
        }
        if value.plus == Some(Width::W64) && value.off as i64 == self.step { Back::Step } else { Back::Stuck }
    }
}

impl Plans {
    /// A walk begins.
    pub fn begin(&mut self) {
        self.rounds.clear();
        self.restart = false;
        self.heads.values_mut().for_each(|plan| plan.entries = 0);
    }

    /// Whether there is a guess about the loop that begins at `head`.
    pub fn counts(&self, head: InsnIdx) -> bool {
        !self.heads.is_empty() && self.heads.get(&head).is_some_and(|plan| !plan.guesses.is_empty())
    }

    /// The guess about `head` did not hold in `state`, where `wide` was expected.
    pub fn fail(&mut self, head: InsnIdx, states: Option<(&State, &State)>) {
        self.restart = true;
        let Some(plan) = self.heads.get_mut(&head) else { return };
        let counter = plan.guesses.last().map_or(0, |guess| 1 << guess.reg as u16);
        let (regs, slots) = states.map_or((0, 0), |(wide, state)| changed(wide, state));
        let (regs, slots) = (regs & !counter & !plan.regs, slots & !plan.slots);
        plan.regs |= regs;
        plan.slots |= slots;
        if regs == 0 && slots == 0 {
            plan.guesses.pop();
        }
    }
}

/// Numbers of the current frame that `wide` does not include.
fn changed(wide: &State, state: &State) -> (u16, u64) {
    let (a, b) = (wide.frame(), state.frame());
    let grew = |a: &Value, b: &Value| a.is_scalar() && b.is_scalar() && !a.num.includes(&b.num);
    let regs = Reg::ALL.iter().filter(|reg| grew(&a.regs[reg.index()], &b.regs[reg.index()]));
    let slots = a.stack.slots().filter(|(at, slot)| {
        let new = b.stack.slot(*at).and_then(|slot| slot.spilled());
        slot.spilled().zip(new).is_some_and(|(a, b)| grew(a, b))
    });
    (regs.fold(0, |set, &reg| set | 1 << reg as u16), slots.fold(0, |set, (at, _)| set | 1 << at))
}

/// What the loop from `head` to its last way back may count by.
fn guesses(program: &Program, head: InsnIdx, live: RegSet, state: &State) -> Vec<Guess> {
    let leads_back = |(at, insn): &(InsnIdx, &Insn)| {
        *at >= head && insn.relative_target().is_some_and(|to| to < 0 && at.target(to) == head)
    };
    let Some(last) = program.iter().filter(leads_back).map(|(at, _)| at).last() else { return Vec::new() };
    let body = || program.iter().filter(|(at, _)| (head..=last).contains(at)).map(|(_, insn)| *insn);
    let mut found = Vec::new();
    for branch in body() {
        let Insn::Branch { op, lhs, rhs, .. } = branch else { continue };
        let limit = match rhs {
            Operand::Imm(imm) => Some(imm as i64 as u64),
            Operand::Reg(reg) => Some(state.reg(reg)).filter(|v| v.is_scalar()).and_then(|v| v.as_constant()),
        };
        let Some(limit) = limit.filter(|&limit| limit < MOST && op != CmpOp::Set) else { continue };
        for insn in body() {
            let Insn::Alu { op: AluOp::Add, dst, src: Operand::Imm(step), .. } = insn else { continue };
            if dst != lhs || step == 0 || !live.contains(lhs) {
                continue;
            }
            let step = step as i64;
            // The test may come before or after the step, and may let the limit itself through or not.
            for over in [-step.signum(), 0, step - step.signum(), step] {
                if let Some(bound) = limit.checked_add_signed(over).filter(|&bound| bound < MOST) {
                    let guess = Guess { reg: lhs, step, bound };
                    if !found.contains(&guess) {
                        found.push(guess);
                    }
                }
            }
        }
    }
    found.reverse();
    found
}

impl Walk<'_> {
    /// One more arrival at what may be a loop's head: whether its counter is guessed now, and the walk begins anew.
    pub(crate) fn goes_round(&mut self, head: InsnIdx) -> bool {
        if self.opts.profile == Profile::Compat {
            return false;
        }
        let is_head = self.flows.heads.get(head.index()).copied().unwrap_or(false);
        if !is_head || self.plans.heads.contains_key(&head) {
            return false;
        }
        let rounds = self.plans.rounds.entry(head).or_default();
        *rounds += 1;
        if *rounds < PATIENCE {
            return false;
        }
        let live = self.flows.live.get(head.index()).copied().unwrap_or_default();
        let guesses = guesses(self.program, head, live, &self.state);
        self.plans.restart = !guesses.is_empty();
        self.plans.heads.insert(head, Plan { guesses, ..Plan::default() });
        self.plans.restart
    }

    /// Widens the current state, which enters a loop that counts.
    pub(crate) fn widen_counter(&mut self, head: InsnIdx) -> Option<Counter> {
        if !self.plans.counts(head) {
            return None;
        }
        let plan = self.plans.heads.get_mut(&head)?;
        let guess = *plan.guesses.last()?;
        let old = *self.state.reg(guess.reg);
        let (low, high) = match guess.step > 0 {
            true => (old.num.umin(), guess.bound),
            false => (guess.bound, old.num.umax()),
        };
        if !old.is_scalar() || old.num.umax() >= MOST || low > old.num.umin() || old.num.umax() > high {
            plan.misfits += 1;
            if plan.misfits > PATIENCE {
                plan.misfits = 0;
                plan.guesses.pop();
            }
            return None;
        }
        plan.entries += 1;
        if plan.entries > MOST_ENTRIES {
            plan.guesses.clear();
            return None;
        }
        let (regs, slots) = (plan.regs, plan.slots);
        // That the range holds rests on where the counter begins.
        self.propagate(Need::reg(self.state.current(), guess.reg), false);
        let id = self.fresh_id();
        let frame = self.state.frame_mut();
        for reg in bits(regs as u64) {
            if frame.regs.get(reg).is_some_and(|value| value.is_scalar()) {
                frame.regs[reg] = Value::UNKNOWN;
            }
        }
        for at in bits(slots) {
            let spilled = frame.stack.slot(at).filter(|slot| slot.spilled().is_some_and(|value| value.is_scalar()));
            if let Some(size) = spilled.map(|slot| slot.spill_size()) {
                frame.stack.slot_mut(at).value = Some(std::rc::Rc::new(Value::scalar(crate::prove::narrow(size))));
            }
        }
        frame.regs[guess.reg.index()] = Value { id, ..Value::scalar(Scalar::range(low, high)) };
        Some(Counter { id, reg: guess.reg, step: guess.step })
    }
}

impl Counter {
    /// The widened state as later ones are compared with it: any number in the range will do.
    pub fn unlink(&self, state: &mut State) {
        let value = *state.reg(self.reg);
        state.set(self.reg, Value { id: 0, ..value });
    }
}

/// Whether the numbers that `old` links to a counter are linked to the same one in `new`.
pub(crate) fn same_counters(old: &State, new: &State, is_counter: impl Fn(u32) -> bool) -> bool {
    let same = |a: &Value, b: Option<&Value>| {
        !a.is_scalar() || !is_counter(a.id) || b.is_some_and(|b| b.id == a.id && b.plus == a.plus && b.off == a.off)
    };
    old.frames().iter().zip(new.frames()).all(|(a, b)| {
        a.regs.iter().zip(&b.regs).all(|(a, b)| same(a, Some(b)))
            && a.stack.slots().all(|(at, slot)| {
                slot.spilled().is_none_or(|a| same(a, b.stack.slot(at).and_then(|slot| slot.spilled())))
            })
    })
}
