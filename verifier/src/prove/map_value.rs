//! Values of maps.

use rtbpf_abi::MapKind;
use rtbpf_abi::map_spec::SpecialKind;

use super::{Mode, Target, value_range};
use crate::explore::Walk;
use crate::facts::Access;
use crate::reject::{Checked, refuse};
use crate::value::MapRef;

impl Walk<'_> {
    /// An access to a map's value; a load of frozen bytes gives them.
    pub(super) fn map_value_access(&mut self, target: &Target, map: MapRef, mode: Mode) -> Checked<Option<u64>> {
        let Some(spec) = self.map(map) else { return refuse!(Internal, EFAULT, "map {} is gone", map.map.0) };
        let (value_size, off, size) = (spec.value_size, target.fixed(), target.size);
        if mode.writes() && !spec.prog_writes() {
            return refuse!(
                ReadOnly,
                EACCES,
                "write into map forbidden, value_size={value_size} off={off} size={size}"
            );
        }
        if !mode.writes() && !spec.prog_reads() {
            return refuse!(ReadOnly, EACCES, "read from map forbidden, value_size={value_size} off={off} size={size}");
        }
        self.check_map_range(target, map, false)?;
        let fact = if map.inner { Access::Mixed } else { value_range(map.map, target) };
        self.note_access(fact);
        if matches!(mode, Mode::Load | Mode::LoadSigned) { Ok(self.frozen_bytes(target, map)) } else { Ok(None) }
    }

    /// The access stays in the value and off its special fields.
    pub(crate) fn check_map_range(&self, target: &Target, map: MapRef, zero: bool) -> Checked {
        let Some(spec) = self.map(map) else { return refuse!(Internal, EFAULT, "map {} is gone", map.map.0) };
        self.check_region(target, spec.value_size, zero, "map value")?;
        let (low, high) = (target.pointer.num.smin(), target.pointer.num.umax() as i64);
        let (first, end) = (low + target.fixed() as i64, high + target.fixed() as i64 + target.size as i64);
        for field in &spec.fields {
            let (start, stop) = (field.off as i64, (field.off + field.kind.size()) as i64);
            if first >= stop || end <= start {
                continue;
            }
            match field.kind {
                SpecialKind::KptrUntrusted(_)
                | SpecialKind::KptrRef(_)
                | SpecialKind::KptrPercpu(_)
                | SpecialKind::Uptr(_) => {
                    return refuse!(SpecialField, EACCES, "kptr access cannot be done by a plain load or store here");
                }
                kind => {
                    let name = field_name(kind);
                    return refuse!(SpecialField, EACCES, "{name} cannot be accessed directly by load/store");
                }
            }
        }
        Ok(())
    }

    fn frozen_bytes(&self, target: &Target, map: MapRef) -> Option<u64> {
        let spec = self.map(map)?;
        let bytes = spec.frozen.as_deref().filter(|_| !map.inner && spec.kind == MapKind::Array)?;
        let off = usize::try_from(target.fixed() as i64 + target.pointer.num.as_constant()? as i64).ok()?;
        let read = bytes.get(off..off.checked_add(target.size as usize)?)?;
        Some(read.iter().rev().fold(0, |word, &byte| word << 8 | byte as u64))
    }
}

fn field_name(kind: SpecialKind) -> &'static str {
    match kind {
        SpecialKind::SpinLock => "bpf_spin_lock",
        SpecialKind::ResSpinLock => "bpf_res_spin_lock",
        SpecialKind::Timer => "bpf_timer",
        SpecialKind::Workqueue => "bpf_wq",
        SpecialKind::TaskWork => "bpf_task_work",
        SpecialKind::ListHead => "bpf_list_head",
        SpecialKind::ListNode => "bpf_list_node",
        SpecialKind::RbRoot => "bpf_rb_root",
        SpecialKind::RbNode => "bpf_rb_node",
        SpecialKind::Refcount => "bpf_refcount",
        SpecialKind::KptrUntrusted(_) | SpecialKind::KptrRef(_) | SpecialKind::KptrPercpu(_) => "kptr",
        SpecialKind::Uptr(_) => "uptr",
    }
}
