//! Which facts of a state a finished walk used.
//!
//! A scalar's bounds matter only where some check depended on them. When one does, [`undo`] follows the value back
//! through the instructions that made it, and every checkpoint on the way notes that it needs those bounds. Later states
//! are compared with a checkpoint on needed facts only.

use std::rc::Rc;

use rtbpf_isa::{AluOp, AtomicOp, Callee, Insn, InsnIdx, Operand, Program, Reg};

use crate::state::State;

/// Most frames of a state.
pub const FRAMES: usize = rtbpf_abi::limits::MAX_FRAMES;

/// A register or stack slot of some frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// Register `.1` of frame `.0`.
    Reg(u8, u8),
    /// Slot `.1` of frame `.0`.
    Slot(u8, u8),
}

/// What an executed instruction did, beyond what its text says.
#[derive(Clone, Debug, Default)]
pub enum Touch {
    /// Nothing.
    #[default]
    None,
    /// Read or wrote one slot of a frame's stack.
    Slot { frame: u8, slot: u8 },
    /// Compared scalars that are linked to others.
    Linked(Rc<Vec<Place>>),
    /// Entered a subprogram.
    Enter,
    /// Returned from a subprogram.
    Leave,
    /// A helper entered a subprogram.
    EnterCallback,
    /// A subprogram returned to the helper that called it.
    LeaveCallback,
}

/// A run of executed instructions; more than one only when nothing was touched.
#[derive(Clone, Debug)]
pub struct Step {
    /// First.
    pub from: InsnIdx,
    /// Last.
    pub to: InsnIdx,
    /// What the only one did.
    pub touch: Touch,
}

/// The instructions from a checkpoint to here.
#[derive(Debug, Default)]
pub struct Trail {
    steps: Vec<Step>,
    /// How many instructions.
    insns: u32,
    /// Runs that were cut off before; see [`Trail::cut`].
    before: u32,
    /// Where the run goes on that was cut off last.
    goes_on: Option<InsnIdx>,
    /// The first run began before the cut.
    is_joined: bool,
    /// What was followed back already, from after so many instructions, in ascending order. The latest few: with them,
    /// the work of following back does not grow with the length of a trail.
    marks: Vec<(u32, Need)>,
}

/// Marks of a trail, at most.
const MAX_MARKS: usize = 16;

impl Clone for Trail {
    /// With room for the instructions that will follow.
    fn clone(&self) -> Trail {
        let mut steps = Vec::with_capacity(self.steps.len() + 8);
        steps.extend_from_slice(&self.steps);
        Trail { steps, marks: self.marks.clone(), ..*self }
    }
}

impl Trail {
    /// Appends an instruction.
    pub fn push(&mut self, at: InsnIdx) {
        self.insns += 1;
        if let Some(last) = self.steps.last_mut()
            && matches!(last.touch, Touch::None)
            && last.to.next() == at
        {
            last.to = at;
            return;
        }
        if self.goes_on.take() == Some(at) {
            self.before -= 1;
            self.is_joined = true;
        }
        self.steps.push(Step { from: at, to: at, touch: Touch::None });
    }

    /// Says what the last instruction did.
    pub fn touch(&mut self, touch: Touch) {
        let first = self.steps.len() == 1;
        let Some(last) = self.steps.last_mut() else { return };
        if last.from == last.to {
            last.touch = touch;
            if first && std::mem::take(&mut self.is_joined) {
                self.before += 1;
            }
            return;
        }
        let at = last.to;
        last.to = InsnIdx(at.0 - 1);
        self.steps.push(Step { from: at, to: at, touch });
    }

    /// Runs; what following back costs.
    pub fn runs(&self) -> usize {
        self.before as usize + self.steps.len()
    }

    /// Whether no instruction was executed.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// What the last instruction did.
    pub fn last_touch(&self) -> Option<&Touch> {
        self.steps.last().map(|step| &step.touch)
    }

    /// Leaves an empty trail. The one that is taken is followed for needs that its end did not have before.
    pub fn take(&mut self) -> Trail {
        // The next one will be about as long.
        let next = Trail { steps: Vec::with_capacity(self.steps.len()), ..Trail::default() };
        Trail { marks: Vec::new(), ..std::mem::replace(self, next) }
    }

    /// Like [`Trail::take`], but what is left counts runs as if nothing had been taken.
    pub fn cut(&mut self) -> Trail {
        let goes_on = match self.steps.last() {
            Some(Step { to, touch: Touch::None, .. }) => Some(to.next()),
            Some(_) => None,
            None => self.goes_on,
        };
        let before = self.runs() as u32;
        let taken = self.take();
        (self.before, self.goes_on) = (before, goes_on);
        taken
    }

    /// Follows `need` from here to before the trail, or from before its last instruction; nothing is left of what was
    /// followed before. `depth` is the current frame's index, before and after.
    ///
    /// Each place leads back to places of its own, whatever else is needed: what is new can be followed alone.
    pub fn follow(&mut self, program: &Program, skip_last: bool, need: &mut Need, depth: &mut u32) {
        let mut position = self.insns - u32::from(skip_last && self.insns > 0);
        let mut mark = self.marks.len();
        // The mark of this place is made when the way back is done.
        let (begun, asked) = (position, *need);
        let mut is_new = true;
        let mut skip = skip_last;
        'steps: for step in self.steps.iter().rev() {
            let mut at = step.to;
            loop {
                if let Some((marked, known)) = mark.checked_sub(1).and_then(|last| self.marks.get_mut(last))
                    && *marked == position
                    && !skip
                {
                    is_new &= *marked != begun;
                    need.remove_all(known);
                    known.add_all(need);
                    mark -= 1;
                }
                if need.is_empty_from(*depth) || need.all {
                    break 'steps;
                }
                if let Some(insn) = program.get(at)
                    && !std::mem::take(&mut skip)
                {
                    undo(insn, &step.touch, need, depth);
                    position -= 1;
                }
                if at == step.from {
                    break;
                }
                at = InsnIdx(at.0 - 1);
            }
        }
        if is_new {
            if self.marks.len() == MAX_MARKS {
                self.marks.drain(..MAX_MARKS / 2);
            }
            self.marks.retain(|(marked, _)| *marked < begun);
            self.marks.push((begun, asked));
        }
    }
}

/// Places whose bounds are needed, at one point of a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Need {
    /// Registers, by frame.
    pub regs: [u16; FRAMES],
    /// Stack slots, by frame.
    pub slots: [u64; FRAMES],
    /// It cannot be told: everything is.
    pub all: bool,
}

impl Need {
    /// One register.
    pub fn reg(frame: u32, reg: Reg) -> Need {
        let mut need = Need::default();
        need.add(Place::Reg(frame as u8, reg as u8));
        need
    }

    /// Everything.
    pub fn everything() -> Need {
        Need { all: true, ..Need::default() }
    }

    /// Whether nothing is needed; `at` is a frame that is looked at first.
    fn is_empty_from(&self, at: u32) -> bool {
        let at = at as usize % FRAMES;
        self.regs[at] == 0 && self.slots[at] == 0 && self.is_empty()
    }

    /// Whether nothing is needed.
    pub fn is_empty(&self) -> bool {
        !self.all
            && self.regs.iter().fold(0, |all, set| all | set) == 0
            && self.slots.iter().fold(0, |all, set| all | set) == 0
    }

    /// Adds a place.
    pub fn add(&mut self, place: Place) {
        match place {
            Place::Reg(frame, reg) => self.regs[frame as usize % FRAMES] |= 1 << reg,
            Place::Slot(frame, slot) => self.slots[frame as usize % FRAMES] |= 1 << slot,
        }
    }

    /// Membership.
    pub fn has(&self, place: Place) -> bool {
        self.all
            || match place {
                Place::Reg(frame, reg) => self.regs[frame as usize % FRAMES] & 1 << reg != 0,
                Place::Slot(frame, slot) => self.slots[frame as usize % FRAMES] & 1 << slot != 0,
            }
    }

    fn remove_all(&mut self, other: &Need) {
        if other.all {
            *self = Need::default();
        }
        self.regs.iter_mut().zip(other.regs).for_each(|(set, known)| *set &= !known);
        self.slots.iter_mut().zip(other.slots).for_each(|(set, known)| *set &= !known);
    }

    fn add_all(&mut self, other: &Need) {
        self.all |= other.all;
        self.regs.iter_mut().zip(other.regs).for_each(|(set, new)| *set |= new);
        self.slots.iter_mut().zip(other.slots).for_each(|(set, new)| *set |= new);
    }

    fn remove(&mut self, place: Place) {
        match place {
            Place::Reg(frame, reg) => self.regs[frame as usize % FRAMES] &= !(1 << reg),
            Place::Slot(frame, slot) => self.slots[frame as usize % FRAMES] &= !(1 << slot),
        }
    }

    /// Adds `new` to what a checkpoint with this state notes already; returns what was not noted before, without places
    /// that hold no number.
    pub fn note(&mut self, new: &Need, numbers: &impl Numbers) -> Need {
        let mut fresh = Need { all: new.all && !self.all, ..Need::default() };
        self.all |= new.all;
        if new.all {
            return fresh;
        }
        for frame in 0..FRAMES {
            if new.regs[frame] == 0 && new.slots[frame] == 0 {
                continue;
            }
            for reg in bits(new.regs[frame] as u64 & !(self.regs[frame] as u64)) {
                if numbers.has(Place::Reg(frame as u8, reg as u8)) {
                    fresh.regs[frame] |= 1 << reg;
                }
            }
            for slot in bits(new.slots[frame] & !self.slots[frame]) {
                if numbers.has(Place::Slot(frame as u8, slot as u8)) {
                    fresh.slots[frame] |= 1 << slot;
                }
            }
            self.regs[frame] |= fresh.regs[frame];
            self.slots[frame] |= fresh.slots[frame];
        }
        if self.all {
            return Need::default();
        }
        fresh
    }
}

/// Tells which places hold a number.
pub trait Numbers {
    /// Whether this one does.
    fn has(&self, place: Place) -> bool;
}

impl Numbers for State {
    fn has(&self, place: Place) -> bool {
        let (Place::Reg(frame, at) | Place::Slot(frame, at)) = place;
        let (Some(frame), at) = (self.frames().get(frame as usize), at as usize) else { return false };
        match place {
            Place::Reg(..) => frame.regs.get(at).is_some_and(|value| value.is_scalar()),
            Place::Slot(..) => frame.stack.slot(at).and_then(|slot| slot.spilled()).is_some_and(|v| v.is_scalar()),
        }
    }
}

impl Numbers for Need {
    fn has(&self, place: Place) -> bool {
        Need::has(self, place)
    }
}

/// All places of `state` that hold a number.
pub fn numbers(state: &State) -> Need {
    let mut found = Need::default();
    for (frame, content) in state.frames().iter().enumerate().take(FRAMES) {
        for reg in Reg::ALL.iter().filter(|reg| content.regs[reg.index()].is_scalar()) {
            found.regs[frame] |= 1 << *reg as u16;
        }
        for (at, slot) in content.stack.slots() {
            found.slots[frame] |= u64::from(slot.spilled().is_some_and(|value| value.is_scalar())) << at;
        }
    }
    found
}

/// Positions of the ones in `set`.
pub fn bits(mut set: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let bit = set.trailing_zeros() as usize;
        set &= set.wrapping_sub(1);
        (bit < 64).then_some(bit)
    })
}

/// Follows `need` from after a trail to before it. `depth` is the current frame's index, before and after.
pub fn undo_trail(program: &Program, trail: &Trail, need: &mut Need, depth: &mut u32) {
    for step in trail.steps.iter().rev() {
        let mut at = step.to;
        loop {
            if need.is_empty_from(*depth) || need.all {
                return;
            }
            if let Some(insn) = program.get(at) {
                undo(insn, &step.touch, need, depth);
            }
            if at == step.from {
                break;
            }
            at = InsnIdx(at.0 - 1);
        }
    }
}

/// Follows `need` from after `insn` to before it.
fn undo(insn: &Insn, touch: &Touch, need: &mut Need, depth: &mut u32) {
    let frame = *depth as u8;
    let reg = |r: Reg| Place::Reg(frame, r as u8);
    let slot = match touch {
        Touch::Slot { frame, slot } => Some(Place::Slot(*frame, *slot)),
        _ => None,
    };
    let add_operand = |need: &mut Need, operand: Operand| {
        if let Operand::Reg(src) = operand {
            need.add(reg(src));
        }
    };
    match *insn {
        Insn::Alu { op: AluOp::Mov, dst, src, .. } => {
            if need.has(reg(dst)) {
                need.remove(reg(dst));
                add_operand(need, src);
            }
        }
        Insn::Alu { dst, src, .. } => {
            if need.has(reg(dst)) {
                add_operand(need, src);
            }
        }
        Insn::MovSx { dst, src, .. } | Insn::AddrCast { dst, src, .. } => {
            if need.has(reg(dst)) {
                need.remove(reg(dst));
                need.add(reg(src));
            }
        }
        Insn::Neg { .. } | Insn::Swap { .. } => {}
        Insn::Imm { dst, .. } => need.remove(reg(dst)),
        Insn::Load { dst, .. } | Insn::LoadAcquire { dst, .. } => {
            if need.has(reg(dst)) {
                need.remove(reg(dst));
                if let Some(slot) = slot {
                    need.add(slot);
                }
            }
        }
        Insn::Store { src, .. } => undo_store(need, slot, |need| add_operand(need, src)),
        Insn::StoreRelease { src, .. } => undo_store(need, slot, |need| need.add(reg(src))),
        Insn::Atomic { op, fetch, src, .. } => {
            let result = if op == AtomicOp::Cmpxchg { Reg::R0 } else { src };
            let fetches = fetch || matches!(op, AtomicOp::Xchg | AtomicOp::Cmpxchg);
            let fetched = fetches && need.has(reg(result));
            let stored = slot.is_some_and(|slot| need.has(slot));
            if fetched {
                need.remove(reg(result));
            }
            if let Some(slot) = slot
                && (fetched || stored)
            {
                need.add(slot);
                need.add(reg(src));
                if op == AtomicOp::Cmpxchg {
                    need.add(reg(Reg::R0));
                }
            }
        }
        Insn::Packet { .. } => match touch {
            Touch::Leave => leave_early(need, depth),
            _ => remove_caller_saved(need, frame),
        },
        Insn::Branch { lhs, rhs, .. } => {
            let mut hit = need.has(reg(lhs)) || matches!(rhs, Operand::Reg(rhs) if need.has(reg(rhs)));
            let linked: &[Place] = match touch {
                Touch::Linked(linked) => linked,
                _ => &[],
            };
            hit |= linked.iter().any(|&place| need.has(place));
            if hit {
                need.add(reg(lhs));
                add_operand(need, rhs);
                linked.iter().for_each(|&place| need.add(place));
            }
        }
        Insn::Call(Callee::Helper(_) | Callee::Local { .. } | Callee::Kfunc { .. } | Callee::Reg(_)) => match touch {
            Touch::Enter => enter(need, depth),
            Touch::Leave => leave_early(need, depth),
            Touch::EnterCallback => {
                // What the helper hands over may come from any of the caller's arguments.
                let callee = *depth as usize % FRAMES;
                let args = need.regs[callee] & 0b11_1110;
                need.regs[callee] = 0;
                need.slots[callee] = 0;
                *depth = depth.saturating_sub(1);
                if args != 0 {
                    need.regs[*depth as usize % FRAMES] |= 0b11_1110;
                }
            }
            _ => remove_caller_saved(need, frame),
        },
        Insn::Exit => match touch {
            Touch::Leave => {
                let had_r0 = need.has(reg(Reg::R0));
                remove_caller_saved(need, frame);
                *depth += 1;
                if had_r0 {
                    need.add(Place::Reg(*depth as u8, 0));
                }
            }
            Touch::LeaveCallback => *depth += 1,
            _ => {}
        },
        Insn::Jump { .. } | Insn::MayGoto { .. } | Insn::Bad { .. } => {}
    }
}

/// A frame ended in the middle: its caller's R0 is no value of the callee's.
fn leave_early(need: &mut Need, depth: &mut u32) {
    remove_caller_saved(need, *depth as u8);
    *depth += 1;
}

/// Whatever the store's size, nothing is left of a number that was spilled to the slot before.
fn undo_store(need: &mut Need, slot: Option<Place>, add_source: impl Fn(&mut Need)) {
    if let Some(slot) = slot.filter(|&slot| need.has(slot)) {
        need.remove(slot);
        add_source(need);
    }
}

fn enter(need: &mut Need, depth: &mut u32) {
    let callee = *depth as usize % FRAMES;
    let args = need.regs[callee] & 0b11_1110;
    need.regs[callee] = 0;
    need.slots[callee] = 0;
    *depth = depth.saturating_sub(1);
    need.regs[*depth as usize % FRAMES] |= args;
}

fn remove_caller_saved(need: &mut Need, frame: u8) {
    need.regs[frame as usize % FRAMES] &= !0b11_1111;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(insn: Insn, touch: Touch, after: &[Place], before: &[Place]) {
        let set = |places: &[Place]| {
            let mut need = Need::default();
            places.iter().for_each(|&place| need.add(place));
            need
        };
        let (mut need, mut depth) = (set(after), 1);
        undo(&insn, &touch, &mut need, &mut depth);
        assert_eq!(need, set(before), "{insn:?}");
    }

    #[test]
    fn needs_follow_values_backwards() {
        use rtbpf_isa::{CmpOp, Size, Width};
        let r = |n| Place::Reg(1, n);
        let mov = Insn::Alu { op: AluOp::Mov, width: Width::W64, dst: Reg::R1, src: Operand::Reg(Reg::R2) };
        check(mov, Touch::None, &[r(1)], &[r(2)]);
        let add = Insn::Alu { op: AluOp::Add, width: Width::W64, dst: Reg::R1, src: Operand::Reg(Reg::R2) };
        check(add, Touch::None, &[r(1)], &[r(1), r(2)]);
        check(add, Touch::None, &[r(3)], &[r(3)]);
        let slot = Place::Slot(0, 4);
        let touched = || Touch::Slot { frame: 0, slot: 4 };
        let load = Insn::Load { size: Size::D, signed: false, dst: Reg::R1, base: Reg::R10, off: 0 };
        check(load, touched(), &[r(1)], &[slot]);
        check(load, Touch::None, &[r(1)], &[]);
        let store = Insn::Store { size: Size::D, base: Reg::R10, off: 0, src: Operand::Reg(Reg::R3) };
        check(store, touched(), &[slot], &[r(3)]);
        let narrow = Insn::Store { size: Size::B, base: Reg::R10, off: 0, src: Operand::Reg(Reg::R3) };
        check(narrow, touched(), &[slot], &[r(3)]);
        let branch = Insn::Branch { op: CmpOp::Eq, width: Width::W64, lhs: Reg::R1, rhs: Operand::Reg(Reg::R2), to: 0 };
        check(branch, Touch::None, &[r(2)], &[r(1), r(2)]);
        check(branch, Touch::Linked(Rc::new(vec![r(1), slot])), &[slot], &[r(1), r(2), slot]);
        let call = Insn::Call(Callee::Local { to: 0 });
        check(call, Touch::Enter, &[r(1), r(6)], &[Place::Reg(0, 1)]);
        check(Insn::Exit, Touch::Leave, &[r(0), r(6)], &[Place::Reg(2, 0), r(6)]);
    }

    #[test]
    fn runs_split_where_something_is_touched() {
        let mut trail = Trail::default();
        (0..3).for_each(|at| trail.push(InsnIdx(at)));
        trail.touch(Touch::Enter);
        trail.push(InsnIdx(3));
        assert_eq!(trail.runs(), 3);
    }
}
