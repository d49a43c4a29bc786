//! Stack slots in registers that nothing else in the function uses.
//!
//! Compilers spill what does not fit into ten registers; a machine has some more. A slot may move where the frame's address
//! goes nowhere, so that only loads and stores with one offset and one size reach it.
//!
//! Numbers that differ by constants are spilled apart, as `a`, `a + 4`, `a + 8`. Where each is stored once, and all of them
//! together, one register holds them all.

use std::cmp::Reverse;

use rtbpf_abi::limits::STACK_BYTES;
use rtbpf_isa::effects::Flow;
use rtbpf_isa::{AluOp, Insn, InsnIdx, Operand, Reg, Size, Subprog, Width};

use super::Opt;
use crate::encode::{Addr, Encode, FramePointer, Shape};
use crate::fast::{Fast, constant, reg};

/// Slots that are looked at, by use.
const MOST: usize = 64;
/// Uses that are worth a register; one in a loop counts ten times.
const WORTH: u64 = 10;

/// A slot in a register.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot {
    off: i16,
    size: Size,
    /// Which of [`Encode::EXTRA`].
    pub(super) home: usize,
    /// What the slot holds beyond the register.
    add: i32,
    /// Its stores write the register; what the others store is known by then.
    leads: bool,
}

/// What the function does with one slot.
struct Use {
    off: i16,
    size: Size,
    weight: u64,
    loads: Vec<u32>,
    stores: Vec<u32>,
    stored: Option<Stored>,
}

/// What an only store stores.
#[derive(Clone, Copy)]
struct Stored {
    /// With what it is surely stored together.
    block: u32,
    /// Something that a register held, and what the slot holds beyond that.
    root: u32,
    add: i32,
}

impl Stored {
    fn is_beside(&self, other: &Stored) -> bool {
        (self.block, self.root) == (other.block, other.root)
    }
}

/// One function, and what is known of its loops.
struct Function<'a> {
    insns: &'a [Insn],
    start: u32,
    opt: &'a Opt,
}

/// The slots of a function that move, and whether it reads nothing of its frame that it did not write.
fn slots<E: Encode>(e: &E, opt: &Opt, insns: &[Insn], subprog: &Subprog, zeroed: bool) -> (Vec<Slot>, bool) {
    let body = insns.get(subprog.start.index()..subprog.end.index()).unwrap_or_default();
    let function = Function { insns: body, start: subprog.start.0, opt };
    let Some((mut uses, whole)) = function.uses(e) else { return (Vec::new(), false) };
    let written = zeroed && whole && function.stored_before_loads(&uses).count_ones() as usize == uses.len();
    function.link(&mut uses);
    // A slot of its own, or one that leads others.
    let mut units: Vec<(u64, Vec<&Use>)> = Vec::new();
    for slot in &uses {
        let beside = |leading: &&Use| leading.stored.zip(slot.stored).is_some_and(|(a, b)| a.is_beside(&b));
        match units.iter_mut().find(|(_, slots)| slots.first().is_some_and(beside)) {
            Some((weight, slots)) => {
                *weight += slot.weight;
                slots.push(slot);
            }
            None => units.push((slot.weight, vec![slot])),
        }
    }
    units.sort_by_key(|(weight, _)| Reverse(*weight));
    let worth = units.iter().take(E::EXTRA.len()).take_while(|(weight, _)| *weight >= WORTH).enumerate();
    let moved = worth.flat_map(|(home, (_, slots))| {
        let beyond = |slot: &Use| slot.stored.map_or(0, |stored| stored.add);
        let first = slots.first().map_or(0, |first| beyond(first));
        let slot = move |(number, slot): (usize, &&Use)| Slot {
            off: slot.off,
            size: slot.size,
            home,
            add: if number == 0 { 0 } else { beyond(slot).wrapping_sub(first) },
            leads: number == 0,
        };
        slots.iter().enumerate().map(slot)
    });
    (moved.collect(), written)
}

fn access(insn: &Insn) -> Option<(i16, Size, bool)> {
    match *insn {
        Insn::Load { base: Reg::R10, off, size, .. } => Some((off, size, false)),
        Insn::Store { base: Reg::R10, off, size, src } if src != Operand::Reg(Reg::R10) => Some((off, size, true)),
        _ => None,
    }
}

/// Where in the frame an offset lies, from its lowest byte.
fn place(off: i16) -> Option<usize> {
    usize::try_from(i32::from(off) + STACK_BYTES as i32).ok().filter(|place| *place < STACK_BYTES as usize)
}

/// The numbers of slots that nothing overlaps, by their offsets.
fn numbers(slots: &[(i16, Size)]) -> impl Fn(i16) -> Option<usize> + use<> {
    let mut numbers = [None; STACK_BYTES as usize];
    for (number, (off, _)) in slots.iter().enumerate() {
        if let Some(room) = place(*off).and_then(|place| numbers.get_mut(place)) {
            *room = Some(number);
        }
    }
    move |off| numbers.get(place(off)?).copied().flatten()
}

/// The slot of 8 bytes that each instruction loads or stores, where nothing else reaches it; numbered in each function.
pub(super) fn words(insns: &[Insn], subprogs: &[Subprog]) -> Vec<Option<u8>> {
    let mut words = Vec::new();
    for subprog in subprogs {
        let body = insns.get(subprog.start.index()..subprog.end.index()).unwrap_or_default();
        let Some((mut slots, _)) = apart(body) else { continue };
        slots.retain(|(_, size)| *size == Size::D);
        slots.truncate(MOST);
        if slots.is_empty() {
            continue;
        }
        words.resize(insns.len(), None);
        let number = numbers(&slots);
        for (word, insn) in words.iter_mut().skip(subprog.start.index()).zip(body) {
            *word = access(insn).and_then(|(off, ..)| number(off)).map(|number| number as u8);
        }
    }
    words
}

/// Offset and size of every slot of a function that nothing overlaps, and whether these are all; `None` where the frame's
/// address goes elsewhere.
pub(super) fn apart(insns: &[Insn]) -> Option<(Vec<(i16, Size)>, bool)> {
    let mut slots: Vec<(i16, Size)> = Vec::new();
    let mut owners = [None::<usize>; STACK_BYTES as usize];
    let mut overlapped = Vec::new();
    for insn in insns {
        let Some((off, size, _)) = access(insn) else {
            if insn.uses().contains(Reg::R10) {
                return None;
            }
            continue;
        };
        let first = place(off)?;
        let bytes = owners.get_mut(first..first + size.bytes() as usize)?;
        let same = |number: &usize| slots.get(*number) == Some(&(off, size));
        let number = bytes.first().copied().flatten().filter(same).unwrap_or(slots.len());
        if number == slots.len() {
            slots.push((off, size));
        }
        for owner in bytes {
            match owner.replace(number) {
                Some(other) if other != number => overlapped.extend([other, number]),
                Some(_) | None => {}
            }
        }
    }
    let mut number = 0..;
    slots.retain(|_| number.next().is_some_and(|number| !overlapped.contains(&number)));
    Some((slots, overlapped.is_empty()))
}

impl Function<'_> {
    fn at(&self, number: u32) -> InsnIdx {
        InsnIdx(self.start + number)
    }

    fn begins(&self, number: u32) -> bool {
        number == 0 || self.opt.begins(self.at(number))
    }

    /// Whether it is the operation of a branch that selects.
    fn is_conditional(&self, number: u32) -> bool {
        self.opt.selected(self.at(number))
    }

    /// Every slot that nothing overlaps, and whether these are all; `None` where the frame's address goes elsewhere, or the registers are taken.
    fn uses<E: Encode>(&self, e: &E) -> Option<(Vec<Use>, bool)> {
        if self.insns.iter().any(|insn| e.takes_extra(insn)) {
            return None;
        }
        let (slots, whole) = apart(self.insns)?;
        let fresh = |(off, size)| Use { off, size, weight: 0, loads: Vec::new(), stores: Vec::new(), stored: None };
        let number = numbers(&slots);
        let mut uses: Vec<Use> = slots.into_iter().map(fresh).collect();
        for (at, insn) in (0..).zip(self.insns) {
            let Some((off, _, stores)) = access(insn) else { continue };
            let Some(slot) = number(off).and_then(|number| uses.get_mut(number)) else { continue };
            slot.weight += 10u64.pow(self.opt.depth(self.at(at)).min(6));
            if stores { slot.stores.push(at) } else { slot.loads.push(at) }
        }
        uses.sort_by_key(|slot| Reverse(slot.weight));
        let whole = whole && uses.len() <= MOST;
        uses.truncate(MOST);
        Some((uses, whole))
    }

    /// Finds what is stored together.
    fn link(&self, uses: &mut [Use]) {
        let single = |slot: &&Use| slot.size == Size::D && slot.stores.len() == 1;
        if uses.iter().filter(single).count() < 2 {
            return;
        }
        let (mut block, mut next) = (0, 0);
        let mut fresh = || {
            next += 1;
            (next, 0)
        };
        let mut held = Reg::ALL.map(|_| fresh());
        for (at, insn) in (0..).zip(self.insns) {
            if self.begins(at) {
                block += 1;
                held = Reg::ALL.map(|_| fresh());
            }
            if let Insn::Store { size: Size::D, base: Reg::R10, src: Operand::Reg(src), off } = *insn
                && let Some(slot) = uses.iter_mut().find(|slot| slot.off == off)
                && slot.stores == [at]
            {
                let (root, add) = held[src.index()];
                slot.stored = Some(Stored { block, root, add });
            }
            let new = match *insn {
                Insn::Alu { op: AluOp::Mov, width: Width::W64, src: Operand::Reg(src), .. } => held[src.index()],
                Insn::Alu { op: AluOp::Add, width: Width::W64, dst, src: Operand::Imm(by) } => {
                    let (root, add): (u32, i32) = held[dst.index()];
                    add.checked_add(by).map_or_else(&mut fresh, |add| (root, add))
                }
                _ => fresh(),
            };
            let new = if self.is_conditional(at) { fresh() } else { new };
            for dst in insn.defs().iter() {
                held[dst.index()] = new;
            }
            // Behind a branch, not every way through the block goes on.
            block += u32::from(insn.flow() != Flow::Next);
        }
        let beside = |a: &Use, b: &Use| a.stored.zip(b.stored).is_some_and(|(a, b)| a.is_beside(&b));
        let together =
            uses.iter().enumerate().any(|(number, slot)| uses.iter().skip(number + 1).any(|b| beside(slot, b)));
        if !together {
            return;
        }
        let always = self.stored_before_loads(uses);
        let spans: Vec<_> = uses.iter().map(|slot| span(uses, slot)).collect();
        for (number, (slot, (first, last))) in uses.iter_mut().zip(spans).enumerate() {
            // Between the first store and the last, the register holds old numbers beside new ones.
            let looks = slot.loads.iter().any(|at| (first..last).contains(at));
            if looks || always & 1 << number == 0 {
                slot.stored = None;
            }
        }
    }

    /// The slots that were stored on every way to each of their loads, as bits by number.
    fn stored_before_loads(&self, uses: &[Use]) -> u64 {
        let mut before = vec![u64::MAX; self.insns.len() + 1];
        if let Some(first) = before.first_mut() {
            *first = 0;
        }
        let numbered = || (0..MOST as u32).zip(uses);
        let mut stores = vec![0u64; self.insns.len()];
        for (at, bit) in numbered().flat_map(|(number, slot)| slot.stores.iter().map(move |at| (*at, 1 << number))) {
            stores[at as usize] |= bit;
        }
        loop {
            let mut again = false;
            for (at, insn) in (0u32..).zip(self.insns) {
                let set = before[at as usize] | stores[at as usize];
                let mut meet = |to: Option<u32>| {
                    let Some(place) = to.and_then(|to| before.get_mut(to as usize)) else { return };
                    again |= *place & !set != 0 && to.is_some_and(|to| to <= at);
                    *place &= set;
                };
                let target = |to: i32| at.checked_add_signed(to).and_then(|to| to.checked_add(1));
                match insn.flow() {
                    Flow::Next | Flow::Call(_) => meet(at.checked_add(1)),
                    Flow::Jump(to) => meet(target(to)),
                    Flow::Branch(to) => {
                        meet(at.checked_add(1));
                        meet(target(to));
                    }
                    Flow::Exit => {}
                }
            }
            if !again {
                break;
            }
        }
        let stored = |number: u32, slot: &Use| slot.loads.iter().all(|at| before[*at as usize] & 1 << number != 0);
        numbered().filter(|(number, slot)| stored(*number, slot)).fold(0, |all, (number, _)| all | 1 << number)
    }
}

/// The first and the last store of what is stored beside `slot`.
fn span(uses: &[Use], slot: &Use) -> (u32, u32) {
    let Some(stored) = slot.stored else { return (0, 0) };
    let beside = uses.iter().filter(|other| other.stored.is_some_and(|other| other.is_beside(&stored)));
    let stores = beside.flat_map(|other| &other.stores).copied();
    (stores.clone().min().unwrap_or(0), stores.max().unwrap_or(0))
}

impl<E: Encode> Fast<'_, E> {
    /// Emits the beginning of a function.
    pub(crate) fn enter(&mut self, shape: &Shape, subprog: &Subprog) {
        if !self.opt.on.slots || !self.opt.on.values || !self.plan.blocks.is_empty() {
            return self.e.enter(shape);
        }
        let FramePointer::Own { zeroed } = shape.fp else {
            self.opt.slots = Vec::new();
            return self.e.enter(shape);
        };
        let (slots, written) = slots(self.e, &self.opt, &self.insns, subprog, zeroed != 0);
        let zeroed = if written { 0 } else { zeroed };
        self.opt.slots = slots;
        self.e.enter(&Shape { fp: FramePointer::Own { zeroed }, ..*shape });
        for home in self.opt.slots.iter().filter(|slot| slot.leads).filter_map(|slot| E::EXTRA.get(slot.home)) {
            self.e.mov_imm(*home, 0);
        }
    }

    fn slot(&self, base: Reg, off: i16, size: Size) -> Option<(Slot, E::Reg)> {
        let slots = self.opt.slots.iter().filter(|_| base == Reg::R10);
        let slot = slots.copied().find(|slot| (slot.off, slot.size) == (off, size))?;
        Some((slot, *E::EXTRA.get(slot.home)?))
    }

    /// Emits a load from a slot in a register, if it is one.
    pub(crate) fn load_slot(&mut self, dst: Reg, base: Reg, off: i16, size: Size, signed: bool) -> bool {
        let Some((slot, home)) = self.slot(base, off, size) else { return false };
        self.release(dst);
        let d = reg::<E>(dst);
        match (slot.add, signed && size != Size::D) {
            (0, true) => self.e.sign_extend(Width::W64, size, d, home),
            (0, false) => self.e.mov(Width::W64, d, home),
            (add, _) => self.e.lea(Width::W64, d, Addr::new(home, add)),
        }
        self.defined(dst, size != Size::D && !signed);
        true
    }

    /// Emits a store to a slot in a register, if it is one.
    pub(crate) fn store_slot(&mut self, base: Reg, off: i16, size: Size, src: Operand) -> bool {
        let Some((slot, home)) = self.slot(base, off, size) else { return false };
        if !slot.leads {
            return true;
        }
        let mask = u64::MAX >> (64 - 8 * size.bytes());
        match src {
            Operand::Imm(value) => self.e.mov_imm(home, constant(Width::W64, value) & mask),
            Operand::Reg(src) => {
                let source = self.low_or_all(size, src);
                self.e.zero_extend(size, home, source);
            }
        }
        true
    }
}
