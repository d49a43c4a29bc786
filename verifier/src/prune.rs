//! State inclusion: whether everything that can happen from one state was seen from another.
//!
//! `old` covers `new` when every needed fact of `old` holds in `new`. Ids name equalities, not objects: they must
//! correspond one to one.

use rtbpf_isa::Reg;
use rtbpf_isa::effects::RegSet;

use crate::call::PACKET_DYNPTR;
use crate::needed::Need;
use crate::state::{Byte, Frame, Slot, State};
use crate::value::{Kind, Source, Value};

/// How closely states are compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Match {
    /// On needed facts.
    Needed,
    /// On all facts, by inclusion.
    Within,
    /// On all facts, by equality.
    Same,
}

/// What a comparison reads of `old`, beside its state.
pub struct View<'a> {
    /// Live registers at a given instruction.
    pub live: &'a dyn Fn(rtbpf_isa::InsnIdx) -> RegSet,
    /// Where the states are.
    pub at: rtbpf_isa::InsnIdx,
    /// Needed bounds.
    pub need: &'a Need,
    /// Live slots, by frame; `None`: all.
    pub slots: Option<&'a [u64]>,
    /// Uninitialised stack may be read.
    pub uninit_stack: bool,
}

/// Correspondence of ids between two states.
#[derive(Default)]
struct Ids {
    pairs: Vec<(u32, u32)>,
}

impl Ids {
    fn correspond(&mut self, old: u32, new: u32) -> bool {
        if (old == 0) != (new == 0) {
            return false;
        }
        if old == 0 {
            return true;
        }
        for &(a, b) in &self.pairs {
            if a == old {
                return b == new;
            }
            if b == new {
                return false;
            }
        }
        self.pairs.push((old, new));
        true
    }

    /// Whether values that both states share can keep their ids: each corresponds to itself. Changes nothing if not.
    fn keep_own<'a>(&mut self, values: impl Iterator<Item = &'a Value>) -> bool {
        let before = self.pairs.len();
        for value in values {
            let uid = match value.kind {
                Kind::MapValue(map) | Kind::MapPtr(map) => map.uid,
                Kind::Mem { from: Source::Dynptr(id), .. } => id,
                _ => 0,
            };
            if ![value.id, value.ref_id, uid].iter().all(|&id| self.correspond(id, id)) {
                self.pairs.truncate(before);
                return false;
            }
        }
        true
    }

    /// Scalars: what was not linked before may be linked now, and what was linked may stand alone, if nobody else that
    /// matters was linked to it.
    fn correspond_links(&mut self, old: u32, new: u32) -> bool {
        if old == 0 || new != 0 {
            return old == 0 || self.correspond(old, new);
        }
        let is_first = self.pairs.iter().all(|&(a, _)| a != old);
        if is_first {
            // An id that no value has.
            self.pairs.push((old, u32::MAX - self.pairs.len() as u32));
        }
        is_first
    }
}

/// Whether `old` covers `new`.
pub fn covers(old: &State, new: &State, view: &View, how: Match) -> bool {
    if old.depth() != new.depth() {
        return false;
    }
    let mut ids = Ids::default();
    if !held_match(old, new, &mut ids) {
        return false;
    }
    let frames = old.frames().iter().zip(new.frames());
    for (index, (a, b)) in frames.enumerate() {
        if a.call_site != b.call_site || a.subprog != b.subprog || a.callback != b.callback {
            return false;
        }
        // Fewer rounds of a callback were walked from a state that had walked more of them before.
        if a.callback_depth > b.callback_depth {
            return false;
        }
        let at = resumes_at(old, index, view.at);
        if std::rc::Rc::ptr_eq(a, b) && ids.keep_own(a.regs.iter().chain(a.stack.spills())) {
            continue;
        }
        if !frame_covers(index, a, b, (view.live)(at), view, how, &mut ids) {
            return false;
        }
    }
    true
}

/// Where frame `index` of a state at `at` goes on.
pub fn resumes_at(state: &State, index: usize, at: rtbpf_isa::InsnIdx) -> rtbpf_isa::InsnIdx {
    match state.frames().get(index + 1) {
        Some(callee) if callee.callback.is_some() => callee.call_site,
        Some(callee) => callee.call_site.next(),
        None => at,
    }
}

fn held_match(old: &State, new: &State, ids: &mut Ids) -> bool {
    let (a, b) = (&old.held, &new.held);
    let refs = a.refs.len() == b.refs.len() && a.refs.iter().zip(&b.refs).all(|(x, y)| ids.correspond(x.id, y.id));
    let lock = match (a.lock, b.lock) {
        (None, None) => true,
        (Some(x), Some(y)) => x.object == y.object && ids.correspond(x.id, y.id),
        _ => false,
    };
    refs && lock && a.rcu == b.rcu && a.preempt == b.preempt && a.irq.len() == b.irq.len()
}

fn frame_covers(index: usize, a: &Frame, b: &Frame, live: RegSet, view: &View, how: Match, ids: &mut Ids) -> bool {
    let needed = |reg: Reg| view.need.all || view.need.regs[index] & 1 << reg as u16 != 0;
    for reg in live.iter() {
        let how = if how == Match::Needed && needed(reg) { Match::Within } else { how };
        if !value_covers(&a.regs[reg.index()], &b.regs[reg.index()], how, ids) {
            return false;
        }
    }
    // A store tears an object, so having none where the old state had none is needed wherever a path may still write:
    // liveness, which looks at reads, does not tell.
    let tears = |a: &Slot, b: &Slot| b.is_object() && !a.is_object();
    let live = match view.slots {
        Some(live) if how != Match::Same => live.get(index).copied().unwrap_or(u64::MAX),
        Some(_) | None => u64::MAX,
    };
    // What was not written reads as any number, down to the deepest slot that was.
    let reads_as_number = |at: usize, slot: &Slot| {
        view.uninit_stack && how != Match::Same && slot.bytes == [Byte::Invalid; 8] && b.stack.reaches_below(at)
    };
    for (first, a, b, same) in a.stack.pairs(&b.stack) {
        let is_live = |at: usize| live >> at & 1 != 0;
        let values = || (first..).zip(a).filter(|&(at, _)| is_live(at)).filter_map(|(_, slot)| slot.value.as_deref());
        if same && ids.keep_own(values()) {
            continue;
        }
        for (at, (a, b)) in (first..).zip(a.iter().zip(b)) {
            if tears(a, b) {
                return false;
            }
            if !is_live(at) {
                continue;
            }
            let needed = view.need.all || view.need.slots[index] >> at & 1 != 0;
            let how = if how == Match::Needed && needed { Match::Within } else { how };
            let b = if reads_as_number(at, b) { NUMBER } else { b };
            if !slot_covers(a, b, view.uninit_stack, how, ids) {
                return false;
            }
        }
    }
    true
}

/// A slot that holds some number.
const NUMBER: &Slot = &Slot { bytes: [Byte::Misc; 8], value: None };

fn slot_covers(a: &Slot, b: &Slot, uninit_stack: bool, how: Match, ids: &mut Ids) -> bool {
    let is_same = match (&a.value, &b.value) {
        (Some(x), Some(y)) => std::rc::Rc::ptr_eq(x, y),
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    };
    if is_same && a.bytes == b.bytes && ids.keep_own(a.value.iter().map(|value| &**value)) {
        return true;
    }
    if let (Some(x), Some(y)) = (as_scalar(a, uninit_stack), as_scalar(b, uninit_stack)) {
        return value_covers(&x, &y, how, ids);
    }
    for (x, y) in a.bytes.iter().zip(&b.bytes) {
        let fine = match (x, y) {
            _ if how == Match::Same => x == y,
            (Byte::Invalid, _) => true,
            (Byte::Misc, Byte::Dynptr | Byte::Iter) => false,
            (Byte::Misc, _) if uninit_stack => true,
            (Byte::Misc, Byte::Zero | Byte::Misc) => true,
            _ => x == y,
        };
        if !fine {
            return false;
        }
    }
    let holds_value = a.bytes.iter().any(|b| matches!(b, Byte::Spill | Byte::Dynptr | Byte::Iter));
    match (&a.value, &b.value) {
        (Some(x), Some(y)) if holds_value => value_covers(x, y, how, ids),
        (Some(_), None) if holds_value => false,
        _ => true,
    }
}

/// A whole slot as a number: a spilled scalar, or eight bytes of which nothing is known.
fn as_scalar(slot: &Slot, uninit_stack: bool) -> Option<Value> {
    if slot.bytes == [Byte::Spill; 8] {
        return slot.value.as_deref().filter(|v| v.is_scalar()).copied();
    }
    let unknown = |b: &Byte| *b == Byte::Misc || uninit_stack && *b == Byte::Invalid;
    let touched = slot.bytes.contains(&Byte::Misc);
    (touched && slot.bytes.iter().all(unknown)).then_some(Value::UNKNOWN)
}

fn value_covers(a: &Value, b: &Value, how: Match, ids: &mut Ids) -> bool {
    match a.kind {
        Kind::Uninit => return how != Match::Same || b.kind == Kind::Uninit,
        Kind::Scalar => {
            if !b.is_scalar() {
                return false;
            }
            return match how {
                Match::Needed => true,
                Match::Within => {
                    let links = a.id == 0 || a.plus == b.plus && a.off == b.off && ids.correspond_links(a.id, b.id);
                    links && a.num.includes(&b.num)
                }
                Match::Same => a.num == b.num && (a.id == 0) == (b.id == 0) && ids.correspond_links(a.id, b.id),
            };
        }
        _ => {}
    }
    let kinds = match (a.kind, b.kind) {
        (Kind::Packet(x), Kind::Packet(y)) | (Kind::PacketMeta(x), Kind::PacketMeta(y)) => {
            // More bytes checked is fine; a pointer known to be past the end must stay one.
            if how == Match::Same || x < 0 { x == y } else { y >= x }
        }
        (Kind::MapValue(x), Kind::MapValue(y)) | (Kind::MapPtr(x), Kind::MapPtr(y)) => {
            x.map == y.map && x.inner == y.inner && ids.correspond(x.uid, y.uid)
        }
        (
            Kind::Mem { size, from: Source::Dynptr(x), writable },
            Kind::Mem { size: other, from: Source::Dynptr(y), writable: w },
        ) => (size, writable, x & PACKET_DYNPTR) == (other, w, y & PACKET_DYNPTR) && ids.correspond(x, y),
        (Kind::Iter { state: x, .. }, Kind::Iter { state: y, .. }) => x == y,
        (x, y) => x == y,
    };
    let numbers = match how {
        Match::Same => a.num == b.num,
        Match::Needed | Match::Within => a.num.includes(&b.num),
    };
    kinds
        && a.nullable == b.nullable
        && a.off == b.off
        && numbers
        && ids.correspond(a.id, b.id)
        && ids.correspond(a.ref_id, b.ref_id)
}
