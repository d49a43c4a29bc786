//! From the walk's states to kept ones, and back.

use std::rc::Rc;

use rtbpf_isa::effects::RegSet;
use rtbpf_isa::{InsnIdx, Reg};

use super::{BlockState, FrameState, SlotState};
use crate::needed::{FRAMES, Need, Place};
use crate::prune::resumes_at;
use crate::state::{Frame, Slot, State};
use crate::value::Value;

/// What the walk from a state on depends on.
pub(crate) struct Places<'a> {
    /// Live registers at a given instruction.
    pub live: &'a dyn Fn(InsnIdx) -> RegSet,
    /// Where the state is.
    pub at: InsnIdx,
    /// Numbers whose bounds are needed.
    pub need: &'a Need,
    /// Slots that are read, by frame.
    pub read: &'a [u64; FRAMES],
    /// Bytes of stack that nobody wrote are numbers like others.
    pub uninit_stack: bool,
    /// Links of widened counters.
    pub counters: &'a [u32],
}

impl BlockState {
    /// What of `state` the proof needed.
    pub(crate) fn needed(state: &State, places: &Places) -> BlockState {
        let frames = state.frames().iter().enumerate().map(|(index, frame)| {
            let live = (places.live)(resumes_at(state, index, places.at));
            FrameState::needed(index, frame, live, places)
        });
        let mut kept =
            BlockState { frames: frames.collect(), held: state.held.clone(), may_goto_depth: state.may_goto_depth };
        kept.settle_links(places.counters);
        kept
    }

    fn values_mut(&mut self) -> impl Iterator<Item = &mut Value> {
        self.frames.iter_mut().flat_map(|frame| {
            frame.regs.iter_mut().chain(frame.slots.iter_mut().filter_map(|slot| slot.value.as_mut()))
        })
    }

    /// The walk follows a widened counter by its link; the state that later ones are compared with has none. What tells
    /// nothing about two numbers is left out.
    fn settle_links(&mut self, counters: &[u32]) {
        for &id in counters {
            let is_held = |value: &Value| value.is_scalar() && value.id == id;
            let mut held: Vec<&mut Value> = self.values_mut().filter(|value| is_held(value)).collect();
            let Some(first) = held.first().map(|value| (value.plus, value.off)) else { continue };
            let is_single = held.len() == 1;
            if held.iter().all(|value| (value.plus, value.off) == first) {
                for value in &mut held {
                    **value = Value { id: if is_single { 0 } else { id }, ..value.unlinked() };
                }
            }
        }
    }

    /// The state to walk on from, and the slots that are read, by frame.
    pub(crate) fn to_state(&self) -> (State, [u64; FRAMES]) {
        let mut read = [0; FRAMES];
        let mut frames = self.frames.iter().enumerate().map(|(index, kept)| {
            let mut frame = Frame::new(index as u32, kept.subprog, kept.call_site);
            frame.regs = kept.regs;
            frame.callback = kept.callback;
            frame.callback_depth = kept.callback_depth;
            for slot in &kept.slots {
                *frame.stack.slot_mut(slot.at as usize) = Slot { bytes: slot.bytes, value: slot.value.map(Rc::new) };
                if let Some(read) = read.get_mut(index).filter(|_| slot.is_read) {
                    *read |= 1 << slot.at;
                }
            }
            frame
        });
        let mut state = State::new(frames.next().expect("a state has a frame"));
        frames.for_each(|frame| state.push(frame));
        state.held = self.held.clone();
        state.may_goto_depth = self.may_goto_depth;
        (state, read)
    }
}

impl FrameState {
    fn needed(index: usize, frame: &Frame, live: RegSet, places: &Places) -> FrameState {
        let mut regs = [Value::UNINIT; Reg::COUNT];
        for reg in Reg::ALL.into_iter().filter(|&reg| reg == Reg::FP || live.contains(reg)) {
            let value = frame.regs[reg.index()];
            let any = value.is_scalar() && !places.need.has(Place::Reg(index as u8, reg as u8));
            regs[reg.index()] = if any { Value::UNKNOWN } else { value };
        }
        let read = places.read.get(index).copied().unwrap_or(u64::MAX);
        let slots = frame.stack.slots().filter_map(|(at, slot)| {
            let is_read = read >> at & 1 != 0;
            if !is_read && !slot.is_object() {
                return None;
            }
            let mut kept =
                SlotState { at: at as u8, bytes: slot.bytes, value: slot.value.as_deref().copied(), is_read };
            let any = slot.spilled().is_some_and(|value| value.is_scalar())
                && !places.need.has(Place::Slot(index as u8, at as u8));
            match any {
                true if places.uninit_stack => {
                    let mut unknown = slot.clone();
                    unknown.forget();
                    (kept.bytes, kept.value) = (unknown.bytes, unknown.value.as_deref().copied());
                }
                true => kept.value = Some(Value::scalar(crate::prove::narrow(slot.spill_size()))),
                false => {}
            }
            Some(kept)
        });
        FrameState {
            regs,
            slots: slots.collect(),
            call_site: frame.call_site,
            subprog: frame.subprog,
            callback: frame.callback,
            callback_depth: frame.callback_depth,
        }
    }
}
