//! What a helper leaves in R0.

use rtbpf_abi::helper::{HelperProto, Ret};

use super::{Call, id};
use crate::domain::Scalar;
use crate::explore::Walk;
use crate::reject::Checked;
use crate::value::{Kind, Source, Trust, Value};

/// The lowest errno a helper returns.
const MIN_ERRNO: i64 = -4095;

/// The reference behind a pointer that is the argument under another type.
fn of_same_object(proto: &HelperProto, call: &Call) -> u32 {
    if id::CASTS.contains(&proto.id.0) { call.ref_id } else { 0 }
}

impl Walk<'_> {
    pub(super) fn result(&mut self, proto: &HelperProto, call: &Call) -> Checked<Value> {
        let acquire = |walk: &mut Self, kind| {
            let id = walk.acquire();
            Value { ref_id: id, ..Value::pointer_or_null(kind, id) }
        };
        Ok(match proto.ret {
            Ret::Int => Value::UNKNOWN,
            Ret::Range(low, high) => Value::scalar(Scalar::signed_range(low, high)),
            Ret::ErrnoOrUpTo(_) => {
                let high = i64::try_from(call.size_max).unwrap_or(i64::MAX);
                Value::scalar(Scalar::signed_range(MIN_ERRNO, high))
            }
            Ret::Cpu => Value::scalar(Scalar::range(0, self.given.cpus.max(1) as u64 - 1)),
            Ret::Void => Value::UNINIT,
            Ret::MapValueOrNull => {
                let Some(map) = call.map else { return Ok(Value::UNKNOWN) };
                if self.is_lookup(proto) && self.map(map).is_some_and(|s| super::args::is_socket_map(s.kind)) {
                    return Ok(acquire(self, Kind::MapValue(map)));
                }
                let id = self.fresh_id();
                let found = Value::pointer_or_null(Kind::MapValue(map), id);
                if call.const_key.is_some() && self.is_lookup(proto) {
                    super::checked_pointer(self, &found)
                } else {
                    found
                }
            }
            Ret::MapValue => match call.map {
                Some(map) => Value::pointer(Kind::MapValue(map)),
                None => Value::UNKNOWN,
            },
            Ret::RingbufMemOrNull(_) => {
                let size = u32::try_from(call.alloc_size).unwrap_or(u32::MAX);
                acquire(self, Kind::Mem { size, from: Source::Ringbuf, writable: true })
            }
            Ret::DynptrSliceOrNull(_) => {
                let size = u32::try_from(call.alloc_size).unwrap_or(u32::MAX);
                let (kind, ref_id, dynptr) = call.dynptr.unwrap_or((crate::value::DynptrKind::Local, 0, 0));
                let _ = kind;
                let id = self.fresh_id();
                let slice = Kind::Mem { size, from: Source::Dynptr(dynptr), writable: true };
                Value { ref_id, ..Value::pointer_or_null(slice, id) }
            }
            Ret::SockOrNull { kind, acquired: true } => acquire(self, Kind::Sock(kind)),
            Ret::SockOrNull { kind, acquired: false } => {
                let id = self.fresh_id();
                Value { ref_id: of_same_object(proto, call), ..Value::pointer_or_null(Kind::Sock(kind), id) }
            }
            Ret::Btf { name, trusted, nullable } => {
                let trust = if trusted { Trust::Trusted } else { Trust::Plain };
                let kind = Kind::Btf { name, trust };
                let pointer =
                    if nullable { Value::pointer_or_null(kind, self.fresh_id()) } else { Value::pointer(kind) };
                Value { ref_id: of_same_object(proto, call), ..pointer }
            }
            Ret::KptrOrNull => acquire(self, Kind::Btf { name: "kptr", trust: Trust::Trusted }),
            Ret::Percpu { nullable } => {
                let kind = Kind::Btf { name: "percpu", trust: Trust::Plain };
                if nullable { Value::pointer_or_null(kind, self.fresh_id()) } else { Value::pointer(kind) }
            }
        })
    }

    /// Takes a reference, made by the current instruction.
    pub(crate) fn acquire(&mut self) -> u32 {
        let id = self.fresh_id();
        let slot = self.program.slot(self.at);
        self.state.held.acquire(id, slot);
        id
    }
}
