//! What the current path needs and reads, noted at the checkpoints that it came by.

use rtbpf_isa::{InsnIdx, Reg};

use super::{Id, Walk};
use crate::needed::{FRAMES, Need, Touch, undo_trail};
use crate::value::Value;

impl Walk<'_> {
    /// A check depends on the bounds of `reg`, before the current instruction.
    pub fn demand(&mut self, reg: Reg) {
        if self.state.reg(reg).is_scalar() {
            self.propagate(Need::reg(self.state.current(), reg), true);
        }
    }

    /// A check depends on the bounds of a spilled number, before the current instruction.
    pub fn demand_slot(&mut self, frame: u32, slot: usize) {
        let mut need = Need::default();
        need.add(crate::needed::Place::Slot(frame as u8, slot as u8));
        self.propagate(need, true);
    }

    /// Forgets bounds that changed since the path was last at `at` and that nothing needed, so that a loop converges.
    ///
    /// `at_checkpoint` when the current instruction is `at` itself: the checkpoint made on arrival is no earlier visit.
    pub fn widen(&mut self, at: InsnIdx, at_checkpoint: bool) {
        let newest = self.parent.and_then(|id| self.checkpoints.get(id));
        let mut earlier = if at_checkpoint { newest.and_then(|c| c.parent) } else { self.parent };
        while let Some(id) = earlier {
            let Some(checkpoint) = self.checkpoints.get(id) else { return };
            if checkpoint.at == at && !checkpoint.beside && checkpoint.state.depth() == self.state.depth() {
                break;
            }
            earlier = checkpoint.parent;
        }
        let Some(checkpoint) = earlier.and_then(|id| self.checkpoints.get(id)) else { return };
        for frame in 0..self.state.depth() {
            let old = checkpoint.state.frame_at(frame as u32);
            for reg in Reg::ALL {
                let (a, b) = (&old.regs[reg.index()], &self.state.frame_at(frame as u32).regs[reg.index()]);
                let needed = checkpoint.need.has(crate::needed::Place::Reg(frame as u8, reg as u8));
                if a.is_scalar() && b.is_scalar() && !needed && a.num != b.num {
                    self.state.frame_at_mut(frame as u32).regs[reg.index()] = Value::UNKNOWN;
                }
            }
            for slot in old.stack.slots().map(|(at, _)| at) {
                let spilled = |stack: &crate::state::Stack| stack.slot(slot).and_then(|s| s.spilled()).copied();
                let needed = checkpoint.need.has(crate::needed::Place::Slot(frame as u8, slot as u8));
                let (a, b) = (spilled(&old.stack), spilled(&self.state.frame_at(frame as u32).stack));
                if let (Some(a), Some(b)) = (a, b)
                    && a.is_scalar()
                    && b.is_scalar()
                    && !needed
                    && a.num != b.num
                {
                    let size = self.state.frame_at(frame as u32).stack.slot(slot).map_or(8, |s| s.spill_size());
                    let wide = Value::scalar(crate::prove::narrow(size));
                    let slot = self.state.frame_at_mut(frame as u32).stack.slot_mut(slot);
                    slot.value = Some(std::rc::Rc::new(wide));
                }
            }
        }
    }

    /// Notes `need` at every checkpoint that it leads back to. `inside` an instruction, which is on the trail already.
    pub fn propagate(&mut self, mut need: Need, inside: bool) {
        if need.is_empty() || self.parent.is_none() {
            return;
        }
        let mut depth = self.state.current();
        if inside && let Some(Touch::Leave | Touch::LeaveCallback) = self.trail.last_touch() {
            depth += 1;
        }
        self.trail.follow(self.program, inside, &mut need, &mut depth);
        if !need.is_empty() {
            self.note_need(self.parent, need);
        }
    }

    /// Notes `need` at `at` and at the checkpoints it leads back to; whether any was new.
    pub(super) fn note_need(&mut self, mut at: Option<Id>, mut need: Need) -> bool {
        let mut changed = false;
        while let Some(id) = at {
            let Some(checkpoint) = self.checkpoints.get_mut(id) else { break };
            need = checkpoint.note(&need);
            if need.is_empty() {
                break;
            }
            changed = true;
            let mut depth = checkpoint.frames().saturating_sub(1) as u32;
            undo_trail(self.program, &checkpoint.trail, &mut need, &mut depth);
            at = checkpoint.parent;
        }
        changed
    }

    /// The path reads `slots` of `frame`: so it does from every checkpoint that did not see them written since.
    pub fn mark_read(&mut self, frame: u32, slots: u64) {
        let frame = frame as usize % FRAMES;
        self.note_read(self.parent, frame, slots & !self.written[frame]);
    }

    /// Notes `slots` of `frame` as read at `at` and above; whether any was new.
    pub(super) fn note_read(&mut self, mut at: Option<Id>, frame: usize, mut slots: u64) -> bool {
        let mut changed = false;
        while let Some(id) = at {
            let Some(checkpoint) = self.checkpoints.get_mut(id) else { break };
            slots &= !checkpoint.read[frame];
            if slots == 0 || checkpoint.frames() <= frame {
                break;
            }
            changed = true;
            checkpoint.read[frame] |= slots;
            slots &= !checkpoint.written[frame];
            at = checkpoint.parent;
        }
        changed
    }

    /// The path wrote all of `slots` of `frame`.
    pub fn mark_written(&mut self, frame: u32, slots: u64) {
        self.written[frame as usize % FRAMES] |= slots;
    }
}
