//! Arithmetic on numbers, and what happens to pointers under it.

use rtbpf_isa::{AluOp, CmpOp, Imm64, Linkage, Operand, Reg, Size, Swap, Width};

use crate::domain::{Scalar, refine};
use crate::explore::Walk;
use crate::reject::{Checked, refuse};
use crate::value::{Kind, MapRef, Value};
use crate::verified::Profile;

impl Walk<'_> {
    pub(super) fn alu(&mut self, op: AluOp, width: Width, dst: Reg, src: Operand) -> Checked {
        let source = match src {
            Operand::Reg(src) => self.read(src)?,
            // An immediate is sign-extended to 64 bits; a 32-bit operation looks at its low half only.
            Operand::Imm(imm) => Value::constant(imm as i64 as u64),
        };
        if op == AluOp::Mov {
            self.check_writable(dst)?;
            return self.mov(width, dst, src, source);
        }
        let mut old = self.read(dst)?;
        self.check_operand(op, width, src)?;
        self.check_writable(dst)?;
        self.note_operand(op, width, src);
        if matches!(op, AluOp::And | AluOp::Or)
            && source.as_constant().is_some()
            && old.is_scalar()
            && let Some((zero, ones)) = by_sign(&old.num)
        {
            // The path on which it is zero comes back here.
            self.demand(dst);
            let mut other = self.state.clone();
            other.set(dst, Value { num: zero, ..old });
            self.push(other, self.at)?;
            old.num = ones;
        }
        match (old.is_pointer(), source.is_pointer()) {
            (false, false) => {
                let num = old.num.alu(op, width, &source.num, self.precision());
                let delta = self.delta(op, width, src, &old, &source.num);
                if let (Some(_), Operand::Reg(src)) = (delta, src) {
                    // What the sum is linked by is the constant.
                    self.demand(src);
                }
                let new = match delta {
                    Some((plus, off)) => Value { id: old.id, plus: Some(plus), off, ..Value::scalar(num) },
                    None => Value::scalar(num),
                };
                self.set(dst, new);
                Ok(())
            }
            (true, true) => {
                if op == AluOp::Sub && self.opts.privilege.perfmon {
                    self.set(dst, Value::UNKNOWN);
                    return Ok(());
                }
                let sign = super::ptr_alu::operator(op);
                refuse!(PointerArithmetic, EACCES, "R{} pointer {sign} pointer prohibited", dst as u8)
            }
            (true, false) => {
                if let Operand::Reg(src) = src {
                    self.demand(src);
                }
                self.pointer_alu(op, width, dst, &old, &source.num, false)
            }
            (false, true) => {
                self.demand(dst);
                self.pointer_alu(op, width, dst, &source, &old.num, true)
            }
        }
    }

    /// What `old op src` adds to the number that `old` is linked to, where that is a constant, and in which width: the
    /// sum stays linked.
    fn delta(&self, op: AluOp, width: Width, src: Operand, old: &Value, by: &Scalar) -> Option<(Width, i32)> {
        if old.id == 0 || old.plus.is_some() || !self.opts.privilege.bpf {
            return None;
        }
        let by = match width {
            Width::W64 => by.as_constant()? as i64,
            Width::W32 => i64::from(by.low_as_constant()? as i32),
        };
        let delta = match op {
            AluOp::Add => by,
            AluOp::Sub => by.checked_neg()?,
            AluOp::Mul | AluOp::Div | AluOp::Mod | AluOp::Sdiv | AluOp::Smod | AluOp::Or | AluOp::And => return None,
            AluOp::Xor | AluOp::Lsh | AluOp::Rsh | AluOp::Arsh | AluOp::Mov => return None,
        };
        let delta = i32::try_from(delta).ok()?;
        match width {
            Width::W64 if delta == i32::MIN && matches!(src, Operand::Reg(_)) => None,
            Width::W64 => Some((width, delta)),
            Width::W32 => {
                // A low half that does not overflow gets the same sum in both widths; Linux 6.18 does not look.
                let sum = |x: u64| u32::try_from(x).ok()?.checked_add_signed(delta);
                let is_exact = sum(old.num.umin()).is_some() && sum(old.num.umax()).is_some();
                let fits = u32::try_from(old.num.umax()).is_ok();
                let width = if is_exact && self.opts.profile == Profile::Strict { Width::W64 } else { width };
                fits.then_some((width, delta))
            }
        }
    }

    fn check_operand(&self, op: AluOp, width: Width, src: Operand) -> Checked {
        let Operand::Imm(imm) = src else { return Ok(()) };
        match op {
            AluOp::Div | AluOp::Mod | AluOp::Sdiv | AluOp::Smod if imm == 0 => {
                refuse!(Arithmetic, EINVAL, "div by zero")
            }
            AluOp::Lsh | AluOp::Rsh | AluOp::Arsh if !(0..width.bits() as i32).contains(&imm) => {
                refuse!(Arithmetic, EINVAL, "invalid shift {imm}")
            }
            _ => Ok(()),
        }
    }

    fn mov(&mut self, width: Width, dst: Reg, src: Operand, source: Value) -> Checked {
        let Operand::Reg(from) = src else {
            let num = match width {
                Width::W64 => source.num,
                Width::W32 => source.num.zero_extend_low(),
            };
            self.set(dst, Value::scalar(num));
            return Ok(());
        };
        match width {
            Width::W64 => {
                let source = self.linked(from, source);
                self.set(dst, source);
            }
            Width::W32 if source.is_scalar() => {
                let fits = source.num.umax() <= u32::MAX as u64;
                let new = if fits { self.linked(from, source) } else { source.unlinked() };
                self.set(dst, Value { num: new.num.zero_extend_low(), ..new });
            }
            Width::W32 => {
                if !self.opts.privilege.perfmon {
                    return refuse!(PointerLeak, EACCES, "R{} partial copy of pointer", from as u8);
                }
                self.set(dst, Value::scalar(Scalar::unsigned(Size::W)));
            }
        }
        Ok(())
    }

    /// The value of `from`, made to share an id with its copies. Copies of a sum Linux links to each other alone.
    pub(crate) fn linked(&mut self, from: Reg, mut value: Value) -> Value {
        if value.plus.is_some() && self.opts.profile == Profile::Compat {
            value = value.unlinked();
        }
        if value.is_scalar() && value.id == 0 && value.num.as_constant().is_none() {
            value.id = self.fresh_id();
            self.set(from, value);
        }
        value
    }

    pub(super) fn move_sx(&mut self, width: Width, from: Size, dst: Reg, src: Reg) -> Checked {
        let source = self.read(src)?;
        self.check_writable(dst)?;
        if source.is_pointer() {
            if !self.opts.privilege.perfmon {
                return refuse!(PointerLeak, EACCES, "R{} sign-extension part of pointer", src as u8);
            }
            self.set(dst, Value::scalar(Scalar::UNKNOWN.move_sx(width, Size::D)));
            return Ok(());
        }
        // A value that its sign extension leaves alone stays linked.
        let limit = 1u64 << (from.bits() - 1);
        let same = source.num.umax() < limit;
        let new = if same { self.linked(src, source) } else { source.unlinked() };
        let num = new.num.move_sx(width, from);
        self.set(dst, Value { num, ..new });
        Ok(())
    }

    pub(super) fn neg(&mut self, width: Width, dst: Reg) -> Checked {
        let old = self.unary(dst)?;
        let num = if old.is_scalar() { old.num.neg(width) } else { Scalar::UNKNOWN };
        self.set(dst, Value::scalar(num));
        Ok(())
    }

    pub(super) fn swap(&mut self, kind: Swap, size: Size, dst: Reg) -> Checked {
        let old = self.unary(dst)?;
        if old.is_scalar() && (kind, size) == (Swap::ToLe, Size::D) {
            return Ok(());
        }
        let num = if old.is_scalar() { old.num.swap(kind, size) } else { Scalar::UNKNOWN };
        self.set(dst, Value::scalar(num));
        Ok(())
    }

    fn unary(&mut self, dst: Reg) -> Checked<Value> {
        let old = self.read(dst)?;
        if old.is_pointer() && !self.opts.privilege.perfmon {
            return refuse!(PointerArithmetic, EACCES, "R{} pointer arithmetic prohibited", dst as u8);
        }
        self.check_writable(dst)?;
        Ok(old)
    }

    pub(super) fn addr_cast(&mut self, dst: Reg, src: Reg) -> Checked {
        self.read(src)?;
        self.check_writable(dst)?;
        refuse!(BadField, EINVAL, "addr_space_cast insn can only be used in a program that has an associated arena")
    }

    pub(super) fn wide_load(&mut self, dst: Reg, value: Imm64) -> Checked {
        self.check_writable(dst)?;
        let new = match value {
            Imm64::Const([low, high]) => Value::constant((high as u64) << 32 | low as u64),
            Imm64::Map { map, .. } => Value::pointer(Kind::MapPtr(MapRef { map, inner: false, uid: 0 })),
            Imm64::MapValue { map, off, .. } => {
                let pointer = Value::pointer(Kind::MapValue(MapRef { map, inner: false, uid: 0 }));
                Value { off: off as i32, ..pointer }
            }
            Imm64::Func { to } => {
                let target = self.at.target(to);
                self.check_function(self.program.subprog_at(target))?;
                Value::pointer(Kind::Func(self.program.subprog_at(target) as u32))
            }
            Imm64::Var { btf_id, .. } => {
                return refuse!(Kfunc, EINVAL, "pseudo btf_id {btf_id} in ldimm64 isn't a known kernel variable");
            }
        };
        self.set(dst, new);
        Ok(())
    }

    /// A function that is referred to is one that helpers may call: static, and described by types.
    fn check_function(&self, index: usize) -> Checked {
        let Some(subprog) = self.program.subprogs().get(index) else { return Ok(()) };
        if subprog.btf_id == 0 && self.opts.profile == Profile::Compat {
            return refuse!(Callback, EINVAL, "missing btf func_info");
        }
        if subprog.linkage != Linkage::Static || index == 0 {
            return refuse!(Callback, EINVAL, "callback function not static");
        }
        Ok(())
    }

    /// Notes whether division and shift are in range on every path. Bounds of a register are no fact: paths may have
    /// ended in a state that was covered without them.
    fn note_operand(&mut self, op: AluOp, width: Width, src: Operand) {
        if !divides(op) && !shifts(op) {
            return;
        }
        let by_constant = matches!(src, Operand::Imm(imm) if imm != 0 || !divides(op));
        if let Some(facts) = self.facts.insns.get_mut(self.at.index()) {
            facts.divisor_nonzero = divides(op) && by_constant;
            facts.shift_in_range =
                shifts(op) && matches!(src, Operand::Imm(by) if (0..width.bits() as i32).contains(&by));
        }
    }
}

/// A low half that is 0 or all ones, as a shift leaves that spreads the sign, in its two cases: what is masked with it is
/// one of two numbers, not all between them.
fn by_sign(num: &Scalar) -> Option<(Scalar, Scalar)> {
    let low = num.low();
    if (low.smin(), low.smax()) != (-1, 0) {
        return None;
    }
    let with = |low| Some(refine(CmpOp::Eq, Width::W32, true, num, &Scalar::constant(low))?.0);
    Some((with(0)?, with(u32::MAX as u64)?))
}

fn divides(op: AluOp) -> bool {
    matches!(op, AluOp::Div | AluOp::Mod | AluOp::Sdiv | AluOp::Smod)
}

fn shifts(op: AluOp) -> bool {
    matches!(op, AluOp::Lsh | AluOp::Rsh | AluOp::Arsh)
}
