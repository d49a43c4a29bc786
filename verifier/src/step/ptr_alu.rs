//! Pointer plus number.

use rtbpf_abi::limits::MAX_VAR_OFF;
use rtbpf_isa::{AluOp, Reg, Width};

use crate::domain::Scalar;
use crate::explore::Walk;
use crate::reject::{Checked, refuse};
use crate::value::{Kind, Value};

/// The assignment operator, as messages show it.
pub(super) fn operator(op: AluOp) -> &'static str {
    match op {
        AluOp::Add => "+=",
        AluOp::Sub => "-=",
        AluOp::Mul => "*=",
        AluOp::Div | AluOp::Sdiv => "/=",
        AluOp::Mod | AluOp::Smod => "%=",
        AluOp::Or => "|=",
        AluOp::And => "&=",
        AluOp::Xor => "^=",
        AluOp::Lsh => "<<=",
        AluOp::Rsh => ">>=",
        AluOp::Arsh => "s>>=",
        AluOp::Mov => "=",
    }
}

impl Walk<'_> {
    /// `dst = pointer op number`; `swapped` when the number was on the left.
    pub(super) fn pointer_alu(
        &mut self,
        op: AluOp,
        width: Width,
        dst: Reg,
        pointer: &Value,
        number: &Scalar,
        swapped: bool,
    ) -> Checked {
        let r = dst as u8;
        if width == Width::W32 {
            if op == AluOp::Sub && self.opts.privilege.perfmon {
                self.set(dst, Value::UNKNOWN);
                return Ok(());
            }
            return refuse!(PointerArithmetic, EACCES, "R{r} 32-bit pointer arithmetic prohibited");
        }
        let name = pointer.type_name();
        if pointer.nullable {
            return refuse!(
                PointerArithmetic,
                EACCES,
                "R{r} pointer arithmetic on {name} prohibited, null-check it first"
            );
        }
        let constant = number.as_constant();
        let allowed = match pointer.kind {
            Kind::Ctx | Kind::MapValue(_) | Kind::MapKey(_) | Kind::Stack(_) | Kind::Packet(_) => true,
            Kind::PacketMeta(_) | Kind::TpBuffer | Kind::Btf { .. } | Kind::Mem { .. } | Kind::Func(_) => true,
            Kind::PercpuBtf | Kind::Dynptr { .. } => true,
            Kind::FlowKeys => constant.is_some(),
            Kind::MapPtr(_) => constant == Some(0) && op == AluOp::Add,
            Kind::PacketEnd | Kind::Sock(_) | Kind::Iter { .. } => false,
            Kind::Scalar | Kind::Uninit => false,
        };
        if !allowed {
            return refuse!(PointerArithmetic, EACCES, "R{r} pointer arithmetic on {name} prohibited");
        }
        check_offset(&Value::scalar(*number), pointer)?;
        check_offset(pointer, pointer)?;
        let new = match op {
            AluOp::Add => self.add(pointer, number),
            AluOp::Sub if swapped => {
                return refuse!(PointerArithmetic, EACCES, "R{r} tried to subtract pointer from scalar");
            }
            AluOp::Sub if matches!(pointer.kind, Kind::Stack(_)) => {
                return refuse!(PointerArithmetic, EACCES, "R{r} subtraction from stack pointer prohibited");
            }
            AluOp::Sub => self.sub(pointer, number),
            AluOp::And | AluOp::Or | AluOp::Xor => {
                let sign = operator(op);
                return refuse!(PointerArithmetic, EACCES, "R{r} bitwise operator {sign} on pointer prohibited");
            }
            AluOp::Mul
            | AluOp::Div
            | AluOp::Sdiv
            | AluOp::Mod
            | AluOp::Smod
            | AluOp::Lsh
            | AluOp::Rsh
            | AluOp::Arsh
            | AluOp::Mov => {
                let sign = operator(op);
                return refuse!(PointerArithmetic, EACCES, "R{r} pointer arithmetic with {sign} operator prohibited");
            }
        };
        check_offset(&new, &new)?;
        self.check_pointer_stays(dst, &new)?;
        self.set(dst, new);
        Ok(())
    }

    fn add(&mut self, pointer: &Value, number: &Scalar) -> Value {
        let constant = number.as_constant().and_then(|k| i32::try_from(k as i64).ok());
        if let Some(off) = constant.and_then(|k| pointer.off.checked_add(k)) {
            return Value { off, ..*pointer };
        }
        let num = pointer.num.alu(AluOp::Add, Width::W64, number, self.precision());
        self.rebased(Value { num, ..*pointer }, true)
    }

    fn sub(&mut self, pointer: &Value, number: &Scalar) -> Value {
        let constant = number.as_constant().and_then(|k| i32::try_from(k as i64).ok());
        if let Some(off) = constant.and_then(|k| pointer.off.checked_sub(k)) {
            return Value { off, ..*pointer };
        }
        let num = pointer.num.alu(AluOp::Sub, Width::W64, number, self.precision());
        self.rebased(Value { num, ..*pointer }, number.smin() < 0)
    }

    /// A packet pointer moved by an unknown number has a new base; what was checked from the old one does not hold
    /// beyond it.
    fn rebased(&mut self, pointer: Value, may_grow: bool) -> Value {
        match pointer.kind {
            Kind::Packet(range) => {
                let id = self.fresh_id();
                Value { kind: Kind::Packet(if may_grow { 0 } else { range.max(0) }), id, ..pointer }
            }
            Kind::PacketMeta(range) => {
                let id = self.fresh_id();
                Value { kind: Kind::PacketMeta(if may_grow { 0 } else { range.max(0) }), id, ..pointer }
            }
            _ => pointer,
        }
    }

    /// Without CAP_PERFMON, pointers may not even be formed out of their object.
    fn check_pointer_stays(&self, dst: Reg, new: &Value) -> Checked {
        if self.opts.privilege.perfmon {
            return Ok(());
        }
        let r = dst as u8;
        match new.kind {
            Kind::MapValue(map) => {
                let size = self.map(map).map_or(0, |spec| spec.value_size) as i64;
                let (low, high) =
                    (new.num.smin().saturating_add(new.off as i64), new.num.smax().saturating_add(new.off as i64));
                if low < 0 || high > size || new.num.umax() >= MAX_VAR_OFF as u64 {
                    return refuse!(
                        PointerArithmetic,
                        EACCES,
                        "R{r} pointer arithmetic of map value goes out of range, prohibited for !root"
                    );
                }
            }
            Kind::Stack(_) => {
                if new.num.as_constant().is_none() {
                    let (tnum, off) = (new.num.tnum(), new.off);
                    return refuse!(
                        StackAccess,
                        EACCES,
                        "R{r} variable stack access prohibited for !root, var_off={tnum} off={off}"
                    );
                }
                if !(-512..0).contains(&(new.off as i64 + new.num.smin())) {
                    return refuse!(
                        PointerArithmetic,
                        EACCES,
                        "R{r} stack pointer arithmetic goes out of range, prohibited for !root"
                    );
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// Offsets stay below 2^29 before and after, so that no sum of them overflows.
fn check_offset(value: &Value, pointer: &Value) -> Checked {
    let name = pointer.type_name();
    if let Some(k) = value.num.as_constant().map(|k| k as i64)
        && (k >= MAX_VAR_OFF || k <= -MAX_VAR_OFF)
    {
        return refuse!(PointerArithmetic, EINVAL, "math between {name} pointer and {k} is not allowed");
    }
    let off = value.off as i64;
    if off >= MAX_VAR_OFF || off <= -MAX_VAR_OFF {
        return refuse!(PointerArithmetic, EINVAL, "{name} pointer offset {off} is not allowed");
    }
    let low = value.num.smin();
    if low == i64::MIN {
        return refuse!(
            PointerArithmetic,
            EINVAL,
            "math between {name} pointer and register with unbounded min value is not allowed"
        );
    }
    if low >= MAX_VAR_OFF || low <= -MAX_VAR_OFF {
        return refuse!(PointerArithmetic, EINVAL, "value {low} makes {name} pointer be out of bounds");
    }
    Ok(())
}
