//! Dynptrs: 16 bytes of stack that stand for memory whose size only the run knows.
//!
//! Both slots hold the same id; slices carry it, so that they die with it. A ring buffer's dynptr owns a reference.

use std::rc::Rc;

use rtbpf_abi::helper::DynptrKinds;
use rtbpf_isa::Reg;

use super::{Call, PACKET_DYNPTR};
use crate::explore::Walk;
use crate::reject::{Checked, refuse};
use crate::state::{Byte, Stack};
use crate::value::{DynptrKind, Kind, Source, Value};

impl Walk<'_> {
    /// Frame and lower slot of the 16 bytes behind `value`.
    pub(super) fn dynptr_slot(&self, reg: Reg, value: &Value) -> Checked<(u32, usize)> {
        let Kind::Stack(frame) = value.kind else {
            return refuse!(
                Dynptr,
                EINVAL,
                "arg#{} expected pointer to stack or const struct bpf_dynptr",
                reg as u8 - 1
            );
        };
        let Some(k) = value.num.as_constant() else {
            return refuse!(Dynptr, EINVAL, "dynptr has to be at a constant offset");
        };
        let off = value.off as i64 + k as i64;
        if off % 8 != 0 || !(-512..=-16).contains(&off) {
            return refuse!(Dynptr, EINVAL, "cannot pass in dynptr at an offset={off}");
        }
        Ok((frame, Stack::locate(off as i32).0))
    }

    pub(super) fn dynptr_argument(
        &mut self,
        reg: Reg,
        value: &Value,
        kinds: DynptrKinds,
        released: bool,
        call: &mut Call,
    ) -> Checked {
        let n = reg as u8;
        if let Kind::Dynptr { kind, .. } = value.kind {
            call.dynptr = Some((kind, value.ref_id, value.id));
            return Ok(());
        }
        let uninit = || match released {
            true => refuse!(Reference, EINVAL, "arg {n} is an unacquired reference"),
            false => refuse!(Dynptr, EINVAL, "Expected an initialized dynptr as arg #{}", n - 1),
        };
        let Ok((frame, slot)) = self.dynptr_slot(reg, value) else { return uninit() };
        self.mark_read(frame, 1 << slot | 1 << (slot - 1));
        let stack = &self.state.frame_at(frame).stack;
        let half = |at| stack.slot(at).and_then(|s| s.value.as_deref()).copied();
        let (Some(low), Some(high)) = (half(slot), half(slot - 1)) else { return uninit() };
        let (Kind::Dynptr { kind, first: true }, Kind::Dynptr { first: false, .. }) = (low.kind, high.kind) else {
            return uninit();
        };
        if released && low.ref_id == 0 {
            return refuse!(Reference, EINVAL, "arg {n} is an unacquired reference");
        }
        if kinds.0 & bit(kind).0 == 0 {
            return refuse!(Dynptr, EINVAL, "Expected a dynptr of type {} as arg #{}", name(kinds), n - 1);
        }
        call.dynptr = Some((kind, low.ref_id, low.id));
        Ok(())
    }

    /// Puts a dynptr that owns `ref_id` (0: nothing) at `slot` (the lower one) and the slot above.
    pub(super) fn place_dynptr(&mut self, kind: DynptrKind, frame: u32, slot: usize, ref_id: u32) {
        let packet = matches!(kind, DynptrKind::Skb | DynptrKind::Xdp);
        let id = self.fresh_id() | if packet { PACKET_DYNPTR } else { 0 };
        for (at, first) in [(slot, true), (slot - 1, false)] {
            let value = Value { id, ref_id, ..Value::pointer(Kind::Dynptr { kind, first }) };
            let slot = self.state.frame_at_mut(frame).stack.slot_mut(at);
            slot.bytes = [Byte::Dynptr; 8];
            slot.value = Some(Rc::new(value));
        }
    }

    /// Gives back the reference of a ring buffer's dynptr: it and its slices are gone.
    pub(super) fn release_dynptr(&mut self, ref_id: u32) -> Checked {
        for frame in 0..self.state.depth() as u32 {
            for at in 0..crate::state::Stack::SLOTS {
                let owned = self.state.frame_at(frame).stack.slot(at).and_then(|s| s.value.as_deref());
                if owned.is_some_and(|v| v.ref_id == ref_id && matches!(v.kind, Kind::Dynptr { .. })) {
                    let slot = self.state.frame_at_mut(frame).stack.slot_mut(at);
                    slot.value = None;
                    slot.bytes = [Byte::Invalid; 8];
                }
            }
        }
        self.release(ref_id)
    }

    /// A store over half a dynptr ends all of it; one that owns a reference may not end so.
    pub(crate) fn destroy_dynptr(&mut self, frame: u32, at: usize) -> Checked {
        let Some(half) = self.state.frame_at(frame).stack.slot(at).and_then(|s| s.value.as_deref()).copied() else {
            return Ok(());
        };
        let Kind::Dynptr { first, .. } = half.kind else { return Ok(()) };
        if half.ref_id != 0 {
            return refuse!(Dynptr, EINVAL, "cannot overwrite referenced dynptr");
        }
        let other = if first { at.saturating_sub(1) } else { at + 1 };
        for at in [at, other] {
            let slot = self.state.frame_at_mut(frame).stack.slot_mut(at);
            slot.value = None;
            slot.bytes = [Byte::Invalid; 8];
        }
        let dead = self.dead_value();
        self.state.rewrite(|value| match value.kind {
            Kind::Mem { from: Source::Dynptr(id), .. } if id == half.id => Some(dead),
            _ => None,
        });
        Ok(())
    }
}

pub(super) fn bit(kind: DynptrKind) -> DynptrKinds {
    match kind {
        DynptrKind::Local => DynptrKinds::LOCAL,
        DynptrKind::Ringbuf => DynptrKinds::RINGBUF,
        DynptrKind::Skb => DynptrKinds::SKB,
        DynptrKind::Xdp => DynptrKinds::XDP,
    }
}

fn name(kinds: DynptrKinds) -> &'static str {
    match kinds {
        DynptrKinds::LOCAL => "local",
        DynptrKinds::RINGBUF => "ringbuf",
        DynptrKinds::SKB => "skb",
        DynptrKinds::XDP => "xdp",
        _ => "any",
    }
}
