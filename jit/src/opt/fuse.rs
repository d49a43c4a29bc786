//! Loads that are operands: of an operation, of a comparison.
//!
//! A load whose result one near instruction takes, and nobody else, waits for it as a value ([`Value::Load`]); on a machine
//! whose operations take memory, the two become one. It is computed before anything is written to memory.

use rtbpf_isa::effects::Flow;
use rtbpf_isa::{CmpOp, Insn, InsnIdx, Operand, Reg, Size, Width};

use super::combine::keeps_memory;
use super::exits::Cond;
use super::value::Value;
use crate::encode::{Addr, Alu, Bin, Encode, Rhs};
use crate::fast::{Fast, reg};

/// Instructions between a load and what takes it.
const NEAR: usize = 8;

/// A comparison as the machine makes it.
#[derive(Clone, Copy)]
pub(crate) enum Compared<R> {
    Registers(R, Rhs<R>),
    /// `*addr op b`, at a size.
    Memory(CmpOp, Size, Addr<R>, Rhs<R>),
    /// The low byte of a register and a number.
    Byte(R, u8),
}

fn operates(op: Bin) -> bool {
    match op {
        Bin::Add | Bin::Sub | Bin::Mul | Bin::Or | Bin::And | Bin::Xor => true,
        Bin::Lsh | Bin::Rsh | Bin::Arsh => false,
    }
}

/// Whether an operation of `width` reads no more than `size`; the lowest byte comes first.
fn agrees(size: Size, width: Width) -> bool {
    match size {
        Size::B | Size::H => false,
        Size::W => width == Width::W32,
        Size::D => true,
    }
}

/// Whether the machine compares a zero-extended `size` at its own size.
fn compares(op: CmpOp, width: Width, size: Size, imm: Option<i32>) -> bool {
    match size {
        Size::B => {
            let unsigned = match op {
                CmpOp::Eq | CmpOp::Ne | CmpOp::Gt | CmpOp::Ge | CmpOp::Lt | CmpOp::Le => true,
                CmpOp::Set | CmpOp::Sgt | CmpOp::Sge | CmpOp::Slt | CmpOp::Sle => false,
            };
            unsigned && imm.is_none_or(|imm| (0..=0xff).contains(&imm))
        }
        Size::H => false,
        Size::W | Size::D => agrees(size, width),
    }
}

/// Whether `insn` takes a load of `dst` as an operand.
fn takes(insn: &Insn, dst: Reg, size: Size) -> bool {
    match *insn {
        Insn::Alu { op, width, dst: other, src: Operand::Reg(src) } => {
            matches!(op.into(), Alu::Bin(op) if operates(op)) && src == dst && other != dst && agrees(size, width)
        }
        Insn::Branch { op, width, lhs, rhs, .. } => match rhs {
            Operand::Imm(imm) => compares(op, width, size, Some(imm)),
            Operand::Reg(rhs) => lhs != rhs && compares(op, width, size, None),
        },
        _ => false,
    }
}

/// The size that a comparison of `width` looks at.
fn at_width(size: Size, width: Width) -> Size {
    if size == Size::D { width.size() } else { size }
}

/// `b op' a` for `a op b`.
fn mirrored(op: CmpOp) -> CmpOp {
    match op {
        CmpOp::Eq | CmpOp::Ne | CmpOp::Set => op,
        CmpOp::Gt => CmpOp::Lt,
        CmpOp::Ge => CmpOp::Le,
        CmpOp::Lt => CmpOp::Gt,
        CmpOp::Le => CmpOp::Ge,
        CmpOp::Sgt => CmpOp::Slt,
        CmpOp::Sge => CmpOp::Sle,
        CmpOp::Slt => CmpOp::Sgt,
        CmpOp::Sle => CmpOp::Sge,
    }
}

impl<E: Encode> Fast<'_, E> {
    /// Whether the load of `dst` at `at` becomes an operand.
    pub(crate) fn waits(&self, at: InsnIdx, dst: Reg, size: Size, base: Reg) -> bool {
        if !self.opt.on.fuse && !self.opt.on.merge {
            return false;
        }
        let operands = self.opt.on.fuse && E::MEMORY_OPERANDS;
        for next in (at.0 + 1..).take(NEAR).map(InsnIdx) {
            let Some(insn) = self.insns.get(next.index()) else { return false };
            if self.opt.begins(next) {
                return false;
            }
            if insn.uses().contains(dst) {
                let dies = insn.defs().contains(dst) || !self.opt.liveness.after(next).contains(dst);
                // What is loaded over its own address has none beside it.
                let alone = base == dst || self.opt.value(base).refs().contains(dst);
                let stored = self.opt.on.merge && !alone && self.is_copied(next, dst, size);
                let takes = stored || operands && self.opt.selects(next) == 0 && takes(insn, dst, size);
                return dies && takes;
            }
            if insn.defs().contains(dst) || insn.flow() != Flow::Next || !keeps_memory(insn) {
                return false;
            }
        }
        false
    }

    /// Emits the load of `dst` at `at`, the operation behind it and the store back as one, if they are that, and nobody reads
    /// `dst` behind them.
    pub(crate) fn update(&mut self, at: InsnIdx, size: Size, dst: Reg, base: Reg, off: i16) -> bool {
        let (next, last) = (at.next(), at.next().next());
        let (Some(&Insn::Alu { op, width, dst: d, src }), Some(&Insn::Store { size: s, base: b, off: o, src: stored })) =
            (self.insns.get(next.index()), self.insns.get(last.index()))
        else {
            return false;
        };
        let Alu::Bin(op) = op.into() else { return false };
        let same = (d, s, b, o, stored) == (dst, size, base, off, Operand::Reg(dst)) && base != dst;
        let alone = src != Operand::Reg(dst) && !self.opt.liveness.after(last).with(self.opt.pinned).contains(dst);
        let whole = width == Width::W64 || size != Size::D;
        let moved = [at, last].iter().any(|at| self.native(*at, size, off) != (size, off.into()));
        let follows = !self.opt.begins(next) && !self.opt.begins(last);
        if !self.opt.on.fuse || !E::MEMORY_OPERANDS || !operates(op) || op == Bin::Mul {
            return false;
        }
        if !same || !alone || !whole || moved || !follows {
            return false;
        }
        self.write();
        self.settle_loads();
        // The register stays what it was.
        self.opt.set(dst, Value::of(dst));
        // Computing the address may compute what is added, or the other way round; the second time both stand still.
        self.stored(size, src);
        self.address(base, off.into());
        let value = self.stored(size, src);
        let addr = self.address(base, off.into());
        self.e.update(op, size, addr, value);
        self.opt.updated = Some(at);
        true
    }

    /// Whether the instruction at `at` stores a load of `dst` as it is, and more of it may follow.
    fn is_copied(&self, at: InsnIdx, dst: Reg, loaded: Size) -> bool {
        match self.insns.get(at.index()) {
            Some(&Insn::Store { size, base, off, src }) => {
                let copies = src == Operand::Reg(dst) && base != dst && size == loaded && size != Size::D;
                copies && self.continues(at, size, base, off.into())
            }
            _ => false,
        }
    }

    /// Computes the loads that wait, before memory changes.
    pub(crate) fn settle_loads(&mut self) {
        self.settle_loads_but(Operand::Imm(0));
    }

    /// All but one of them.
    pub(crate) fn settle_loads_but(&mut self, one: Operand) {
        for r in Reg::ALL.into_iter().filter(|r| one != Operand::Reg(*r)) {
            if let Value::Load { .. } = self.opt.value(r) {
                match self.opt.live.contains(r) {
                    true => self.settle(r),
                    false => self.opt.set(r, Value::of(r)),
                }
            }
        }
    }

    /// `dst = dst op src` with `src` in memory, if it waits there.
    pub(crate) fn with_memory(&mut self, op: Bin, width: Width, dst: Reg, src: Operand) -> bool {
        let Operand::Reg(src) = src else { return false };
        let Value::Load { size, .. } = self.opt.value(src) else { return false };
        if src == dst || self.opt.after.contains(src) || !operates(op) || !agrees(size, width) {
            return false;
        }
        // Computing what stands on the left, or what refers to it, may have computed the load.
        self.source_at(width, dst);
        self.release(dst);
        let a = self.source_at(width, dst);
        let Some((_, addr)) = self.waiting(src) else { return false };
        self.e.bin_memory(op, width, reg::<E>(dst), reg::<E>(a), addr);
        self.opt.set(src, Value::of(src));
        self.defined(dst, width == Width::W32);
        true
    }

    /// The comparison, with one side in memory if it waits there.
    pub(crate) fn compared_with_memory(&mut self, cond: Cond) -> Compared<E::Reg> {
        let Cond { op, width, lhs, rhs, .. } = cond;
        let dies = |this: &Self, r: Reg| !this.opt.after.contains(r);
        match rhs {
            Operand::Imm(imm) => {
                if let Some((size, addr)) = self.waiting(lhs).filter(|_| dies(self, lhs))
                    && compares(op, width, size, Some(imm))
                {
                    return Compared::Memory(op, at_width(size, width), addr, Rhs::Imm(imm));
                }
                if let (Value::Low { size: Size::B, of }, Ok(value)) = (self.opt.value(lhs), u8::try_from(imm))
                    && E::MEMORY_OPERANDS
                    && self.opt.on.fuse
                    && compares(op, width, Size::B, Some(imm))
                {
                    return Compared::Byte(reg::<E>(of), value);
                }
            }
            Operand::Reg(rhs) => {
                let (left, right) = (self.waiting(lhs).is_some(), self.waiting(rhs).is_some());
                // The one that is not in memory is computed, which may compute the other.
                let (in_memory, other, op) = if right { (rhs, lhs, mirrored(op)) } else { (lhs, rhs, op) };
                if (left || right) && lhs != rhs && dies(self, in_memory) {
                    let side = self.source_at(width, other);
                    if let Some((size, addr)) = self.waiting(in_memory)
                        && compares(op, width, size, None)
                        && (size != Size::B || self.opt.ones(side) <= 0xff)
                    {
                        return Compared::Memory(op, at_width(size, width), addr, Rhs::Reg(reg::<E>(side)));
                    }
                }
            }
        }
        let (a, b) = self.compared(cond);
        Compared::Registers(a, b)
    }

    /// What `r` waits for.
    fn waiting(&self, r: Reg) -> Option<(Size, Addr<E::Reg>)> {
        match self.opt.value(r) {
            Value::Load { size, at } => Some((size, at.addr(reg::<E>))),
            Value::Sum { .. } | Value::Const(_) | Value::Shift { .. } => None,
            Value::Product { .. } | Value::Low { .. } | Value::Truth { .. } | Value::Carry { .. } => None,
        }
    }
}
