//! Spin locks, timers and kernel pointers in map values.

use rtbpf_abi::map_spec::SpecialKind;
use rtbpf_isa::Reg;

use crate::explore::Walk;
use crate::reject::{Checked, refuse};
use crate::state::Lock;
use crate::value::{Kind, Value};

impl Walk<'_> {
    /// `bpf_spin_lock` and `bpf_spin_unlock` on the lock that R1 points to.
    pub(super) fn spin_lock(&mut self, lock: bool) -> Checked {
        let value = *self.state.reg(Reg::R1);
        let Kind::MapValue(map) = value.kind else {
            return refuse!(Argument, EINVAL, "R1 is not a map value");
        };
        self.check_field(Reg::R1, &value, "bpf_spin_lock", |kind| kind == SpecialKind::SpinLock)?;
        let object = (map.map.0 as u64) << 33 | (map.inner as u64) << 32 | map.uid as u64;
        let wanted = Lock { object, id: value.id };
        match (lock, self.state.held.lock) {
            (true, Some(_)) => refuse!(Lock, EINVAL, "Locking two bpf_spin_locks are not allowed"),
            (true, None) => {
                self.state.held.lock = Some(wanted);
                Ok(())
            }
            (false, None) => refuse!(Lock, EINVAL, "bpf_spin_unlock without taking a lock"),
            (false, Some(held)) if held != wanted => refuse!(Lock, EINVAL, "bpf_spin_unlock of different lock"),
            (false, Some(_)) => {
                self.state.held.lock = None;
                Ok(())
            }
        }
    }

    /// `value` points exactly to the field of this kind in its map's value.
    fn check_field(&self, reg: Reg, value: &Value, what: &str, is: impl Fn(SpecialKind) -> bool) -> Checked<u32> {
        let r = reg as u8;
        let Kind::MapValue(map) = value.kind else { return refuse!(Argument, EINVAL, "R{r} is not a map value") };
        let Some(k) = value.num.as_constant() else {
            return refuse!(
                SpecialField,
                EINVAL,
                "R{r} doesn't have constant offset. {what} has to be at the constant offset"
            );
        };
        let Some(spec) = self.map(map) else { return refuse!(Internal, EFAULT, "map is gone") };
        let off = value.off as i64 + k as i64;
        if spec.fields.is_empty() && spec.btf_value == 0 {
            let caller = if what == "kptr" { "bpf_kptr_xchg" } else { what };
            return refuse!(SpecialField, EINVAL, "map '{}' has to have BTF in order to use {caller}", spec.name);
        }
        let wanted: Vec<u32> = spec.fields.iter().filter(|f| is(f.kind)).map(|f| f.off).collect();
        match wanted.first() {
            None => refuse!(SpecialField, EINVAL, "map '{}' has no valid {what}", spec.name),
            Some(_) if wanted.iter().any(|&at| at as i64 == off) => Ok(off as u32),
            Some(at) => refuse!(SpecialField, EINVAL, "off {off} doesn't point to 'struct {what}' that is at {at}"),
        }
    }

    pub(super) fn timer_argument(&self, reg: Reg, value: &Value) -> Checked {
        self.check_field(reg, value, "bpf_timer", |kind| kind == SpecialKind::Timer).map(|_| ())
    }

    /// The map in argument 2 is the one that holds the timer in argument 1.
    pub(super) fn map_of_timer(&self, value: &Value) -> Checked {
        let Kind::MapPtr(map) = value.kind else { return Ok(()) };
        if self.map_of_value(self.state.reg(Reg::R1)) == Some(map) {
            return Ok(());
        }
        refuse!(SpecialField, EINVAL, "timer pointer in R1 map_uid={} doesn't match map pointer in R2", map.uid)
    }

    pub(super) fn kptr_slot(&self, reg: Reg, value: &Value) -> Checked {
        self.check_field(reg, value, "kptr", |kind| {
            matches!(kind, SpecialKind::KptrRef(_) | SpecialKind::KptrPercpu(_))
        })
        .map(|_| ())
    }
}
