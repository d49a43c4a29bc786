//! The context.

use rtbpf_abi::ProgType;
use rtbpf_abi::ctx::{CtxOp, FieldKind, layout};
use rtbpf_abi::helper::SockKind;
use rtbpf_isa::Size;

use super::{Mode, Target};
use crate::explore::Walk;
use crate::facts::Access;
use crate::lower::NativeAccess;
use crate::reject::{Checked, refuse};
use crate::value::{Kind, Trust, Value};

impl Walk<'_> {
    /// An access to the context; a pointer field gives a pointer.
    pub(super) fn ctx_access(&mut self, target: &Target, mode: &Mode) -> Checked<Option<Value>> {
        self.check_unmodified(target.reg, &target.pointer)?;
        let (off, size) = (target.fixed(), target.size);
        let op = match mode {
            Mode::Load | Mode::AtomicLoad { .. } => CtxOp::Load,
            Mode::LoadSigned => CtxOp::LoadSigned,
            Mode::Store { .. } | Mode::AtomicStore => CtxOp::Store,
        };
        let access = match layout(self.given.prog_type, self.given.attach_type) {
            Some(layout) => layout.access(off, size, op).ok(),
            None => None,
        };
        let Some(access) = access else {
            return refuse!(ContextAccess, EACCES, "invalid bpf_context access off={off} size={size}");
        };
        self.note_access(Access::Ctx(off as u16));
        self.ctx_bytes_used = self.ctx_bytes_used.max(off as u32 + size);
        let native = Size::from_bytes(access.native_size as u32).expect("native accesses have 1, 2, 4 or 8 bytes");
        if access.native_offset as i32 != off || native.bytes() != size {
            let entry = NativeAccess { at: self.at, off: access.native_offset as i16, size: native };
            if !self.lowering.insert(entry) {
                return refuse!(ContextAccess, EINVAL, "same insn cannot be used with different context fields");
            }
        }
        let nullable = |walk: &mut Self, kind| Value::pointer_or_null(kind, walk.fresh_id());
        Ok(match access.kind {
            FieldKind::Scalar => None,
            FieldKind::PacketData => Some(Value::pointer(Kind::Packet(0))),
            FieldKind::PacketMeta => Some(Value::pointer(Kind::PacketMeta(0))),
            FieldKind::PacketEnd => Some(Value::pointer(Kind::PacketEnd)),
            FieldKind::FlowKeys => Some(Value::pointer(Kind::FlowKeys)),
            FieldKind::Sock => Some(Value::pointer(Kind::Sock(SockKind::Sock))),
            FieldKind::SockOrNull => Some(nullable(self, Kind::Sock(SockKind::Sock))),
            FieldKind::SockCommonOrNull => Some(nullable(self, Kind::Sock(SockKind::SockCommon))),
            FieldKind::TracepointBuffer => Some(Value::pointer(Kind::TpBuffer)),
            FieldKind::Btf(name) => Some(Value::pointer(Kind::Btf { name, trust: Trust::Trusted })),
        })
    }

    /// What R1 and the other registers hold at the program's entry.
    pub(crate) fn entry_registers(&self) -> [Option<Value>; 2] {
        match self.given.prog_type {
            // The plain context is memory; R2 is its length, and no more than that is known of either.
            ProgType::Plain => {
                let size = self.given.plain_ctx_bytes;
                let mem = Value::pointer(Kind::Mem { size, from: crate::value::Source::Plain, writable: true });
                [Some(mem), Some(Value::UNKNOWN)]
            }
            _ => [Some(Value::pointer(Kind::Ctx)), None],
        }
    }
}
