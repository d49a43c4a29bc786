//! Memory of helpers and the kernel: flow keys, sockets, buffers, kernel structures.

use rtbpf_abi::ctx::{self, CtxLayout, CtxOp};
use rtbpf_abi::helper::SockKind;
use rtbpf_abi::map_struct::{self, Member, NoMember};

use super::Target;
use crate::explore::Walk;
use crate::reject::{Checked, refuse};
use crate::value::MapRef;

impl Walk<'_> {
    pub(super) fn flow_keys_access(&self, target: &Target) -> Checked {
        let (off, size) = (target.fixed() as i64 + target.pointer.num.smin(), target.size);
        let end = ctx::FLOW_KEYS.size as i64;
        if off < 0 || off + size as i64 > end || target.pointer.num.as_constant().is_none() {
            return refuse!(OutOfBounds, EACCES, "invalid access to flow keys off={off} size={size}");
        }
        Ok(())
    }

    pub(super) fn sock_access(&self, target: &Target, kind: SockKind) -> Checked {
        let layout: &CtxLayout = match kind {
            SockKind::SockCommon => &ctx::SOCK_COMMON,
            SockKind::Sock => &ctx::FULL_SOCK,
            SockKind::TcpSock => &ctx::TCP_SOCK,
            SockKind::XdpSock => &ctx::XDP_SOCK,
        };
        let (r, name) = (target.r(), target.pointer.type_name());
        if target.pointer.num.smin() < 0 {
            return refuse!(
                OutOfBounds,
                EACCES,
                "R{r} min value is negative, either use unsigned index or do a if (index >=0) check."
            );
        }
        if layout.access(target.fixed(), target.size, CtxOp::Load).is_err() {
            let (off, size) = (target.fixed(), target.size);
            return refuse!(OutOfBounds, EACCES, "R{r} invalid {name} access off={off} size={size}");
        }
        Ok(())
    }

    /// The buffer of a writable raw tracepoint: its size is known when the program is attached.
    pub(super) fn check_buffer(&mut self, target: &Target) -> Checked {
        let (r, off) = (target.r(), target.fixed());
        if off < 0 {
            let size = target.size;
            return refuse!(OutOfBounds, EACCES, "R{r} invalid tracepoint buffer access: off={off}, size={size}");
        }
        if target.pointer.num.as_constant() != Some(0) {
            let tnum = target.pointer.num.tnum();
            return refuse!(OutOfBounds, EACCES, "R{r} invalid variable buffer offset: off={off}, var_off={tnum}");
        }
        self.note_object_bytes(target);
        Ok(())
    }

    /// Notes how far an access whose offset is known reaches into an object of the machine.
    pub(crate) fn note_object_bytes(&mut self, target: &Target) {
        let end = i64::from(target.fixed().max(0)) + i64::from(target.size);
        self.object_bytes_used = self.object_bytes_used.max(u32::try_from(end).unwrap_or(u32::MAX));
    }

    /// The kernel's structure behind a map's pointer: whole members, read only.
    pub(super) fn map_struct_access(&self, target: &Target, map: MapRef, writes: bool) -> Checked {
        let Some(kind) = self.map(map).map(|spec| spec.kind) else { return Ok(()) };
        let (r, name, off, size) = (target.r(), map_struct::name(kind), target.fixed(), target.size);
        if !self.opts.privilege.perfmon {
            return refuse!(
                Privilege,
                EPERM,
                "'struct {name}' access is allowed only to CAP_PERFMON and CAP_SYS_ADMIN"
            );
        }
        let Ok(at) = u32::try_from(off) else {
            return refuse!(OutOfBounds, EACCES, "R{r} is {name} invalid negative access: off={off}");
        };
        if writes {
            return refuse!(ReadOnly, EACCES, "only read from {name} is supported");
        }
        match map_struct::access(kind, at, size) {
            Ok(_) => Ok(()),
            Err(NoMember::Beyond) => {
                refuse!(OutOfBounds, EACCES, "access beyond struct {name} at off {off} size {size}")
            }
            Err(NoMember::Hole) => {
                refuse!(OutOfBounds, EINVAL, "struct bpf_map doesn't have field at offset {off}")
            }
            Err(NoMember::Across(member)) => {
                let end = member.offset + member.size;
                let name = member.name;
                refuse!(
                    OutOfBounds,
                    EACCES,
                    "access beyond the end of member {name} (mend:{end}) in struct bpf_map with off {off} size {size}"
                )
            }
            Err(NoMember::PartOfPointer(Member { name, offset, .. })) => refuse!(
                OutOfBounds,
                EACCES,
                "cannot access ptr member {name} with moff {offset} in struct bpf_map with off {off} size {size}"
            ),
        }
    }

    /// A kernel structure: loads that may fault and then give 0, at constant offsets.
    pub(super) fn kernel_access(&mut self, target: &Target, name: &str, writes: bool) -> Checked {
        let (r, off) = (target.r(), target.fixed());
        if off < 0 {
            return refuse!(OutOfBounds, EACCES, "R{r} is ptr_{name} invalid negative access: off={off}");
        }
        if target.pointer.num.as_constant() != Some(0) {
            let tnum = target.pointer.num.tnum();
            return refuse!(
                OutOfBounds,
                EACCES,
                "R{r} is ptr_{name} invalid variable offset: off={off}, var_off={tnum}"
            );
        }
        if writes {
            return refuse!(ReadOnly, EACCES, "only read is supported");
        }
        self.note_object_bytes(target);
        Ok(())
    }
}
