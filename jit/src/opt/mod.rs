//! The optimising tier: the fast tier with values instead of registers within each block.
//!
//! | technique | where | switch |
//! |---|---|---|
//! | copy propagation, dead code, constants | `value.rs` | `values` |
//! | 32-bit numbers that need no extension, and other bounds | `narrow.rs` | `narrow` |
//! | `or` of what has no bit in common is a sum; masks that clear nothing | `ones.rs` | `values` |
//! | the width that is wanted, where nobody reads an upper half | `halves.rs` | `halves` |
//! | base + index * scale + displacement in loads and stores; `lea` | `value.rs` | `values` |
//! | shift, shift, or → rotate; shift pairs → extension; times 3, 5, 10, 31, 33 → sums; bits shifted in | `arith.rs` | `values` |
//! | bytes put together → one wide load | `combine.rs` | `combine` |
//! | division and remainder by constants | [`magic`], `fixed.rs` | `magic` |
//! | stores next to each other → one wide store | `merge.rs` | `merge` |
//! | a load as an operand of what takes it; load, operation and store as one | `fuse.rs` | `fuse` |
//! | a branch over few operations → conditional move, or the condition as a number | `select.rs` | `select` |
//! | a condition as a number: none, where it is asked for again or added | `truth.rs` | `select` |
//! | a branch that the one before decided | `thread.rs` | `thread` |
//! | a jump back to a near branch: what stands there, once more | `exits.rs` | `thread` |
//! | the test of a loop at its end | `layout.rs` | `layout` |
//! | stack slots in registers | `slots.rs` | `slots` |
//! | what only the other side of a branch reads is computed there | `exits.rs` | `exits` |
//! | the condition of which a loop's test was made | `latch.rs` | `invert` |
//! | loop heads on 32-byte boundaries | `begin` | `align` |
//! | a branch over a jump: its inverse, to where the jump goes | `straight.rs` | `invert` |
//! | one-block loops several times; those that count, with one test | `unroll.rs` | `unroll` |
//! | short loops of several blocks several times | `rounds.rs` | `unroll` |
//!
//! Each only removes work: without facts the result is the same, and every switch is off in the fast tier.

mod arith;
mod blocks;
pub(crate) mod combine;
mod count;
pub(crate) mod exits;
mod fixed;
mod fuse;
pub(crate) mod halves;
pub(crate) mod latch;
mod layout;
pub(crate) mod liveness;
pub mod magic;
mod merge;
mod narrow;
mod ones;
mod rounds;
mod select;
mod slots;
pub(crate) mod straight;
mod sums;
mod thread;
mod truth;
mod unroll;
pub(crate) mod value;

use std::borrow::Cow;

use rtbpf_isa::effects::RegSet;
use rtbpf_isa::{AluOp, Imm64, Insn, InsnIdx, Operand, Reg, Size, Width};
use rtbpf_verifier::VerifiedProgram;

use crate::encode::{Addr, Bin, Encode, Rhs};
use crate::fast::{Fast, reg};
use blocks::{Lead, begins, falls, lead, loops};
use liveness::Liveness;
use narrow::Narrow;
use value::{Place, Value};

/// Which techniques are on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Techniques {
    /// Values instead of registers: copies, constants, addresses, rotates, extensions.
    pub values: bool,
    /// Knowledge of upper halves from block to block.
    pub narrow: bool,
    /// Other widths where nobody reads an upper half.
    pub halves: bool,
    /// Wide loads instead of bytes put together.
    pub combine: bool,
    /// Multiplication instead of division by constants.
    pub magic: bool,
    /// Wide stores instead of narrow ones next to each other.
    pub merge: bool,
    /// Operands in memory, where the machine takes them.
    pub fuse: bool,
    /// Conditional moves instead of branches over one operation.
    pub select: bool,
    /// Branches that the ones before decided.
    pub thread: bool,
    /// Tests of loops at their ends.
    pub layout: bool,
    /// Registers instead of stack slots.
    pub slots: bool,
    /// What is pending at a branch out of a loop stays so.
    pub exits: bool,
    /// Alignment of loop heads.
    pub align: bool,
    /// Inversion of branches over jumps.
    pub invert: bool,
    /// Repetition of the bodies of one-block loops.
    pub unroll: bool,
}

impl Techniques {
    /// All of them.
    pub const ALL: Techniques = Techniques {
        values: true,
        narrow: true,
        halves: true,
        combine: true,
        magic: true,
        merge: true,
        fuse: true,
        select: true,
        thread: true,
        layout: true,
        slots: true,
        exits: true,
        align: true,
        invert: true,
        unroll: true,
    };
    /// None of them.
    pub const NONE: Techniques = Techniques {
        values: false,
        narrow: false,
        halves: false,
        combine: false,
        magic: false,
        merge: false,
        fuse: false,
        select: false,
        thread: false,
        layout: false,
        slots: false,
        exits: false,
        align: false,
        invert: false,
        unroll: false,
    };
}

/// What the tier knows while it walks a program.
pub(crate) struct Opt {
    pub on: Techniques,
    liveness: Liveness,
    entered: Narrow,
    /// Targets of jumps: a block begins, and perhaps a loop.
    leads: Vec<Lead>,
    /// Where the first and the last of the jumps to each instruction stand.
    sources: Vec<(u32, u32)>,
    /// The innermost loop around each instruction: its first and its last, and how many loops there are around it.
    loops: Vec<(u32, u32, u32)>,
    /// Which instructions are in loops that may be emitted several times.
    tight: Vec<bool>,
    /// Slots of this function that are in registers.
    slots: Vec<slots::Slot>,
    /// Branches that select; empty where there are none.
    selects: Vec<u8>,
    moved: Vec<layout::Moved>,
    /// Registers that hold constants throughout.
    fixed: fixed::Fixed,
    values: [Value; Reg::COUNT],
    /// Registers whose values are not computed yet.
    pending: RegSet,
    /// Registers whose contents have no bit above 31.
    narrow: RegSet,
    /// Bits of their contents that may be set; see `ones.rs`.
    ones: [u64; Reg::COUNT],
    /// Registers that are read by this instruction or later.
    live: RegSet,
    /// Registers that are read later.
    after: RegSet,
    /// Registers that hold what the program knows nothing of: a second sum.
    pinned: RegSet,
    /// Stores that are still to be written.
    run: Option<merge::Run>,
    /// What is emitted is one of several rounds of a loop.
    rounds: bool,
    /// A load that was emitted together with the operation and the store behind it.
    updated: Option<InsnIdx>,
    /// A jump that the branch before it took over.
    pub folded: Option<InsnIdx>,
}

impl Opt {
    /// For `insns` in place of the program's.
    pub fn new(verified: &VerifiedProgram, insns: &[Insn], on: Techniques) -> Opt {
        let program = verified.code();
        let (mut leads, mut sources) = lead(insns, program.subprogs());
        let code = (verified, insns);
        let liveness = Liveness::new(insns, program.subprogs());
        let selects = match on.select && on.values {
            true => select::selects(code, &liveness, &mut leads, &sources),
            false => Vec::new(),
        };
        let moved =
            if on.layout && on.values { layout::moved(code, &selects, &mut leads, &mut sources) } else { Vec::new() };
        let loops = loops(&leads, &sources);
        Opt { sources, loops, selects, moved, ..Opt::with(on, liveness, leads) }
    }

    /// For the fast tier: nothing is known and nothing on.
    pub fn off() -> Opt {
        Opt::with(Techniques::NONE, Liveness::default(), Vec::new())
    }

    fn with(on: Techniques, liveness: Liveness, leads: Vec<Lead>) -> Opt {
        Opt {
            on,
            liveness,
            leads,
            entered: Narrow::default(),
            sources: Vec::new(),
            loops: Vec::new(),
            tight: Vec::new(),
            slots: Vec::new(),
            selects: Vec::new(),
            moved: Vec::new(),
            fixed: fixed::Fixed::default(),
            values: Reg::ALL.map(Value::of),
            pending: RegSet::EMPTY,
            narrow: RegSet::EMPTY,
            ones: [u64::MAX; Reg::COUNT],
            live: RegSet::EMPTY,
            after: RegSet::EMPTY,
            pinned: RegSet::EMPTY,
            run: None,
            rounds: false,
            updated: None,
            folded: None,
        }
    }

    /// The instructions to emit in place of `insns`.
    pub fn rewritten<'a>(&mut self, program: &VerifiedProgram, mut insns: Cow<'a, [Insn]>) -> Cow<'a, [Insn]> {
        if !self.on.values {
            return insns;
        }
        let subprogs = program.code().subprogs();
        if self.on.combine
            && let Some(new) = combine::combined((program, &insns), |at| self.begins(at), &self.liveness)
        {
            self.liveness = Liveness::new(&new, subprogs);
            insns = Cow::Owned(new);
        }
        if self.on.magic {
            self.fixed = fixed::Fixed::of(&insns, subprogs, &self.leads);
        }
        if self.on.narrow {
            let lowering = program.lowering();
            let lowers = !lowering.ctx().is_empty();
            let widens = |at| lowers && lowering.at(at).is_some();
            self.entered = Narrow::new(&insns, subprogs, widens);
        }
        insns
    }

    /// Forgets what is known of the contents of registers; all that is read later stands in its own.
    fn forget(&mut self) {
        for reg in self.pending.iter() {
            self.values[reg.index()] = Value::of(reg);
        }
        (self.pending, self.narrow) = (RegSet::EMPTY, RegSet::EMPTY);
        self.ones = [u64::MAX; Reg::COUNT];
    }

    /// Forgets what is known but for what every way to `at` agrees on.
    fn enter(&mut self, at: InsnIdx) {
        self.forget();
        self.narrow = self.entered.before(at).without(self.pinned);
        for reg in self.narrow.iter() {
            self.ones[reg.index()] = self.entered.ones(at, reg);
        }
    }

    fn value(&self, reg: Reg) -> Value {
        self.values[reg.index()]
    }

    fn set(&mut self, reg: Reg, value: Value) {
        self.values[reg.index()] = value;
        let bit = RegSet::of(reg);
        self.pending = if value == Value::of(reg) { self.pending.without(bit) } else { self.pending.with(bit) };
    }

    /// Whether the pending value of `from` refers to `to`, or to another that does.
    fn reaches(&self, from: Reg, to: Reg) -> bool {
        if self.is_settled(from) {
            return false;
        }
        let refs = self.value(from).refs().without(RegSet::of(from));
        refs.contains(to) || refs.iter().any(|other| self.reaches(other, to))
    }

    fn is_settled(&self, reg: Reg) -> bool {
        !self.pending.contains(reg)
    }

    /// Whether a branch from `at` to `to` leaves a loop.
    fn leaves(&self, at: InsnIdx, to: InsnIdx) -> bool {
        self.loops.get(at.index()).is_some_and(|(first, last, _)| !(*first..=*last).contains(&to.0))
    }

    /// Whether a block begins at `at`.
    pub fn begins(&self, at: InsnIdx) -> bool {
        begins(&self.leads, at)
    }

    /// Begins a block at `at`, if none does.
    fn begin_at(&mut self, at: InsnIdx) {
        if let Some(lead @ Lead::No) = self.leads.get_mut(at.index()) {
            *lead = Lead::Block;
        }
    }

    /// Whether `at` is in a loop that may be emitted several times.
    fn is_tight(&self, at: InsnIdx) -> bool {
        self.tight.get(at.index()) == Some(&true)
    }

    /// How many loops there are around `at`.
    fn depth(&self, at: InsnIdx) -> u32 {
        self.loops.get(at.index()).map_or(0, |(_, _, depth)| *depth)
    }

    fn set_narrow(&mut self, reg: Reg, is: bool) {
        self.ones[reg.index()] = u64::MAX;
        self.narrow = self.narrow.without(RegSet::of(reg));
        if is {
            self.narrow = self.narrow.with(RegSet::of(reg));
        }
    }

    /// Whether there is a loop between `at` and `at + len`, which may be padded or repeated.
    pub fn pads(&self, at: InsnIdx, len: usize) -> bool {
        (self.on.align || self.on.unroll)
            && self.leads.iter().skip(at.index() + 1).take(len).any(|lead| *lead == Lead::Loop)
    }
}

/// An instruction that does nothing; the register is any.
fn nothing(reg: Reg) -> Insn {
    Insn::Alu { op: AluOp::Mov, width: Width::W64, dst: reg, src: Operand::Reg(reg) }
}

fn is_nothing(insn: &Insn) -> bool {
    matches!(*insn, Insn::Alu { op: AluOp::Mov, width: Width::W64, dst, src: Operand::Reg(src) } if dst == src)
}

impl<E: Encode> Fast<'_, E> {
    /// Before the label of an instruction is placed.
    pub(crate) fn begin(&mut self, at: InsnIdx) {
        let lead = self.opt.leads.get(at.index()).copied().unwrap_or(Lead::No);
        if lead == Lead::No {
            return;
        }
        // What falls into a block leaves nothing pending; what jumps into it settled at the jump.
        self.write();
        let live = self.opt.live;
        self.settle_all(live);
        self.opt.enter(at);
        if lead == Lead::Loop && self.opt.on.align && !self.is_moved(at) {
            self.e.align(32);
        }
    }

    /// Emits or postpones an instruction; `false` when the fast tier's code is wanted, for which all is settled.
    pub(crate) fn optimised(&mut self, at: InsnIdx, insn: &Insn) -> bool {
        if self.opt.selected(at) || self.opt.updated.is_some_and(|load| (1..=2).contains(&(at.0.wrapping_sub(load.0))))
        {
            return true;
        }
        let after = self.opt.liveness.after(at).with(self.opt.pinned);
        (self.opt.live, self.opt.after) = (after.with(insn.uses()), after);
        let done = match *insn {
            Insn::Alu { op, width, dst, src } => self.alu(at, op, width, dst, src),
            Insn::MovSx { width, from, dst, src } => {
                self.release(dst);
                let s = self.low_or_all(from, src);
                self.e.sign_extend(width, from, reg::<E>(dst), s);
                self.defined(dst, width == Width::W32);
                true
            }
            Insn::Imm { dst, value: Imm64::Const([low, high]) } => {
                self.assign(dst, Value::Const((high as u64) << 32 | low as u64));
                true
            }
            Insn::Load { size, signed, dst, base, off } => {
                self.opt.updated = None;
                if self.load_slot(dst, base, off, size, signed) {
                    return true;
                }
                if !signed && self.update(at, size, dst, base, off) {
                    return true;
                }
                let (size, off) = self.native(at, size, off);
                if !signed && self.waits(at, dst, size, base) {
                    self.avoid_cycle(dst, self.opt.value(base).refs().with(RegSet::of(base)));
                    let place = self.place(base, off);
                    self.write_unless_apart(place, size);
                    self.assign(dst, Value::Load { size, at: place });
                    return true;
                }
                let place = self.last_place(dst, base, off).unwrap_or_else(|| {
                    self.release(dst);
                    self.place(base, off)
                });
                self.write_unless_apart(place, size);
                self.write_if_through(dst);
                self.e.load(size, signed, reg::<E>(dst), place.addr(reg::<E>));
                self.defined(dst, !signed && size != Size::D);
                if !signed {
                    self.opt.ones[dst.index()] = u64::MAX >> (64 - size.bits());
                }
                true
            }
            Insn::Store { size, base, off, src } => {
                if self.store_slot(base, off, size, src) {
                    return true;
                }
                let (size, off) = self.native(at, size, off);
                if self.delayed(at, size, base, off, src) {
                    return true;
                }
                self.write();
                self.settle_loads();
                let value = self.stored(size, src);
                let mut addr = self.address(base, off);
                // Settling the address may have settled the value, or the other way round; now both stand still.
                let value = match value {
                    Rhs::Imm(_) => value,
                    Rhs::Reg(_) => {
                        let value = self.stored(size, src);
                        addr = self.address(base, off);
                        value
                    }
                };
                match value {
                    Rhs::Reg(src) => self.e.store(size, addr, src),
                    Rhs::Imm(value) => self.e.store_imm(size, addr, value),
                }
                true
            }
            Insn::Branch { .. } if self.opt.selects(at) != 0 => return self.select(at, insn),
            Insn::Jump { to: 0, .. } => true,
            // Both settle what their targets read, when they are emitted.
            Insn::Branch { .. } | Insn::Jump { .. } => {
                self.write();
                return false;
            }
            Insn::MayGoto { .. } => {
                self.write();
                self.settle_all(after.with(insn.uses()));
                false
            }
            Insn::Neg { .. } | Insn::Swap { .. } | Insn::AddrCast { .. } | Insn::Imm { .. } => false,
            Insn::Atomic { .. } | Insn::LoadAcquire { .. } | Insn::StoreRelease { .. } => false,
            Insn::Packet { .. } | Insn::Call(_) | Insn::Exit | Insn::Bad { .. } => false,
        };
        if !done {
            self.write();
            if !combine::keeps_memory(insn) {
                self.settle_loads();
            }
            self.settle_all(insn.uses());
            for dst in insn.defs().iter() {
                self.release(dst);
            }
            for dst in insn.defs().iter() {
                self.defined(dst, false);
            }
        }
        done
    }

    pub(crate) fn settle_all(&mut self, set: RegSet) {
        for reg in RegSet(set.0 & self.opt.pending.0).iter() {
            self.settle(reg);
        }
    }

    /// Computes the value of `r` into its register.
    fn settle(&mut self, r: Reg) {
        let value = self.opt.value(r);
        if self.opt.is_settled(r) {
            return;
        }
        if let Value::Sum { base: Some(base), index: None, disp } = value
            && base == r
        {
            for other in self.dependents(r) {
                match self.opt.value(other).rebased(r, disp) {
                    Some(rebased) => self.opt.set(other, rebased),
                    None => self.settle(other),
                }
            }
        } else {
            for other in self.dependents(r) {
                self.settle(other);
            }
        }
        self.write_if_through(r);
        let d = reg::<E>(r);
        let ones = self.opt.ones_in(value);
        let narrow = ones <= u32::MAX as u64;
        match value {
            Value::Sum { base: Some(base), index: None, disp: 0 } => {
                self.e.mov(Width::W64, d, reg::<E>(base));
            }
            Value::Sum { base: Some(base), index: None, disp } => {
                self.e.bin(Bin::Add, Width::W64, d, reg::<E>(base), Rhs::Imm(disp));
            }
            Value::Sum { base: Some(base), index: Some((index, 0)), disp: 0 } => {
                self.e.bin(Bin::Add, Width::W64, d, reg::<E>(base), Rhs::Reg(reg::<E>(index)));
            }
            Value::Sum { base: Some(base), index, disp } => {
                let index = index.map(|(index, shift)| (reg::<E>(index), shift));
                self.e.lea(Width::W64, d, Addr { base: reg::<E>(base), index, disp });
            }
            Value::Sum { base: None, index, disp } => {
                if let Some((index, shift)) = index {
                    self.e.bin(Bin::Lsh, Width::W64, d, reg::<E>(index), Rhs::Imm(shift.into()));
                }
                if disp != 0 {
                    self.e.bin(Bin::Add, Width::W64, d, d, Rhs::Imm(disp));
                }
            }
            Value::Const(value) => self.e.mov_imm(d, value),
            Value::Shift { width, left: true, of, by: 1 } if of != r => {
                self.e.lea(width, d, Addr { base: reg::<E>(of), index: Some((reg::<E>(of), 0)), disp: 0 });
            }
            Value::Shift { width, left, of, by } => {
                let op = if left { Bin::Lsh } else { Bin::Rsh };
                self.e.bin(op, width, d, reg::<E>(of), Rhs::Imm(by.into()));
            }
            Value::Product { width, of, shift: shift @ 1..=3 } => {
                let of = reg::<E>(of);
                self.e.lea(width, d, Addr { base: of, index: Some((of, shift)), disp: 0 });
            }
            Value::Product { width, of, shift } => {
                self.e.bin(Bin::Lsh, width, E::SPARE, reg::<E>(of), Rhs::Imm(shift.into()));
                self.e.bin(Bin::Add, width, d, reg::<E>(of), Rhs::Reg(E::SPARE));
            }
            Value::Low { size, of } => self.e.zero_extend(size, d, reg::<E>(of)),
            Value::Load { size, at } => self.e.load(size, false, d, at.addr(reg::<E>)),
            Value::Truth { op, width, lhs, rhs } => {
                self.e.set(op, width, reg::<E>(lhs), truth::right::<E>(rhs), d);
            }
            Value::Carry { a, b } => self.e.set_carry(reg::<E>(a), reg::<E>(b), d),
        }
        self.defined(r, narrow);
        self.opt.ones[r.index()] = ones;
    }

    /// Other registers whose pending values refer to the contents of `r` and are still wanted.
    fn dependents(&mut self, r: Reg) -> impl Iterator<Item = Reg> + use<E> {
        let mut found = RegSet::EMPTY;
        for other in self.opt.pending.iter() {
            if other != r && self.opt.value(other).refs().contains(r) {
                if self.opt.live.contains(other) {
                    found = found.with(RegSet::of(other));
                } else {
                    // Nobody reads it again; its register holds what it held.
                    self.opt.set(other, Value::of(other));
                }
            }
        }
        found.iter()
    }

    /// Settles what refers to the contents of `dst`, which are about to change.
    fn release(&mut self, dst: Reg) {
        self.release_but(dst, dst);
    }

    /// All but one of it.
    fn release_but(&mut self, dst: Reg, one: Reg) {
        self.write_if_through(dst);
        for other in self.dependents(dst).filter(|other| *other != one) {
            self.settle(other);
        }
    }

    /// `dst` was computed into its register.
    fn defined(&mut self, dst: Reg, narrow: bool) {
        self.opt.set(dst, Value::of(dst));
        self.opt.set_narrow(dst, narrow);
    }

    /// Gives `dst` a value without computing it.
    fn assign(&mut self, dst: Reg, value: Value) {
        self.avoid_cycle(dst, value.refs());
        self.opt.set(dst, value);
    }

    /// Before `dst` takes a value that refers to `refs`: computes what refers to `dst`, where one of them does.
    fn avoid_cycle(&mut self, dst: Reg, refs: RegSet) {
        if refs.without(RegSet::of(dst)).iter().any(|other| self.opt.reaches(other, dst)) {
            self.release(dst);
        }
    }

    /// The register whose contents are the value of `r`.
    fn source(&mut self, r: Reg) -> Reg {
        if let Some(copied) = self.opt.value(r).copied() {
            return copied;
        }
        self.settle(r);
        r
    }

    /// The register whose contents agree with the value of `r` in the low 32 bits.
    fn low(&mut self, r: Reg) -> Reg {
        match self.opt.value(r) {
            Value::Low { size: Size::W, of } => of,
            _ => self.source(r),
        }
    }

    fn source_at(&mut self, width: Width, r: Reg) -> Reg {
        match width {
            Width::W32 => self.low(r),
            Width::W64 => self.source(r),
        }
    }

    pub(super) fn low_or_all(&mut self, size: Size, r: Reg) -> E::Reg {
        let source = match self.opt.value(r) {
            Value::Low { size: low, of } if low.bytes() >= size.bytes() => of,
            _ => self.source(r),
        };
        reg::<E>(source)
    }

    fn stored(&mut self, size: Size, src: Operand) -> Rhs<E::Reg> {
        match src {
            Operand::Imm(value) => Rhs::Imm(value),
            Operand::Reg(src) => match self.opt.value(src) {
                Value::Const(value) if size != Size::D => Rhs::Imm(value as i32),
                Value::Const(value) if i32::try_from(value as i64).is_ok() => Rhs::Imm(value as i32),
                _ => Rhs::Reg(self.low_or_all(size, src)),
            },
        }
    }

    fn address(&mut self, base: Reg, off: i32) -> Addr<E::Reg> {
        self.place(base, off).addr(reg::<E>)
    }

    fn place(&mut self, base: Reg, off: i32) -> Place {
        self.opt.value(base).place(off).unwrap_or_else(|| {
            self.settle(base);
            Place::new(base, off)
        })
    }

    /// The address of a load of `dst` through a base that nobody reads later. The base may refer to the contents of `dst` and
    /// is not computed for that.
    fn last_place(&mut self, dst: Reg, base: Reg, off: i32) -> Option<Place> {
        let refers =
            |opt: &Opt, other: Reg| other != dst && !opt.is_settled(other) && opt.value(other).refs().contains(dst);
        let after = self.opt.after;
        if base == dst || after.contains(base) || !refers(&self.opt, base) {
            return None;
        }
        if Reg::ALL.into_iter().any(|other| other != base && after.contains(other) && refers(&self.opt, other)) {
            return None;
        }
        let place = self.opt.value(base).place(off)?;
        for other in Reg::ALL {
            if refers(&self.opt, other) {
                self.opt.set(other, Value::of(other));
            }
        }
        Some(place)
    }
}
