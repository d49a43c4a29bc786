//! How an access to each kind of memory is shown to be safe. Nothing here looks at how a state was reached.

mod ctx;
mod map_value;
mod mem;
mod packet;
pub(crate) mod stack;

use rtbpf_isa::{MapIdx, Operand, Reg};

use crate::domain::{Scalar, Tnum};
use crate::explore::Walk;
use crate::facts::Access;
use crate::reject::{Checked, refuse};
use crate::value::{Kind, MapRef, Value};

/// The memory an instruction names.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    /// The register that holds the pointer.
    pub reg: Reg,
    /// Its value.
    pub pointer: Value,
    /// The instruction's offset.
    pub off: i32,
    /// Bytes.
    pub size: u32,
}

impl Target {
    /// Number of the register, as messages show it.
    pub fn r(&self) -> u8 {
        self.reg as u8
    }

    /// The constant part of the offset. Both parts are below 2^29, so the sum is exact.
    pub fn fixed(&self) -> i32 {
        self.off.wrapping_add(self.pointer.off)
    }
}

/// What is done to it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mode {
    Load,
    LoadSigned,
    /// The load half of a read-modify-write; `kept` when a register gets the old value.
    AtomicLoad {
        kept: bool,
    },
    Store {
        value: Value,
        from: Operand,
    },
    /// The store half of a read-modify-write: some number.
    AtomicStore,
}

impl Mode {
    pub fn writes(&self) -> bool {
        matches!(self, Mode::Store { .. } | Mode::AtomicStore)
    }

    /// The register whose value is stored.
    pub fn source(&self) -> Option<Reg> {
        match self {
            Mode::Store { from: Operand::Reg(reg), .. } => Some(*reg),
            _ => None,
        }
    }

    fn stores_pointer(&self) -> bool {
        matches!(self, Mode::Store { value, .. } if value.is_pointer())
    }
}

impl Walk<'_> {
    /// The map behind a reference.
    pub(crate) fn map(&self, map: MapRef) -> Option<&rtbpf_abi::MapSpec> {
        let outer = self.given.maps.get(map.map.index())?;
        if map.inner { outer.inner.as_deref() } else { Some(outer) }
    }

    /// Shows that an access is safe; for a load, what it gives (`None`: a number of which only the size is known).
    pub(crate) fn access(&mut self, target: Target, mode: Mode, atomic: bool) -> Checked<Option<Value>> {
        self.check_alignment(&target, atomic)?;
        let (r, pointer) = (target.r(), target.pointer);
        let unknown = || Some(Value::scalar(narrow(target.size)));
        if pointer.nullable {
            return refuse!(InvalidAccess, EACCES, "R{r} invalid mem access '{}'", pointer.type_name());
        }
        let leak = |into: &str| match mode.source() {
            Some(reg) if mode.stores_pointer() && !self.opts.privilege.perfmon => {
                refuse!(PointerLeak, EACCES, "R{} leaks addr into {into}", reg as u8)
            }
            _ => Ok(()),
        };
        let loaded = match pointer.kind {
            Kind::MapKey(map) => {
                if mode.writes() {
                    return refuse!(ReadOnly, EACCES, "write to change key R{r} not allowed");
                }
                let size = self.map(map).map_or(0, |spec| spec.key_size);
                self.check_region(&target, size, false, "key")?;
                unknown()
            }
            Kind::MapValue(map) => {
                leak("map")?;
                self.map_value_access(&target, map, mode)?.map(Value::constant).or(unknown())
            }
            Kind::Mem { size, writable, .. } => {
                if mode.writes() && !writable {
                    return refuse!(ReadOnly, EACCES, "R{r} cannot write into {}", pointer.type_name());
                }
                leak("mem")?;
                self.check_region(&target, size, false, "mem")?;
                self.note_access(Access::Mem);
                unknown()
            }
            Kind::Ctx => {
                leak("ctx")?;
                self.ctx_access(&target, &mode)?.or(unknown())
            }
            Kind::Stack(frame) => {
                let loaded = self.stack_access(&target, frame, mode)?;
                Some(loaded.unwrap_or(Value::UNKNOWN))
            }
            Kind::Packet(_) | Kind::PacketMeta(_) => {
                if mode.writes() && !self.may_write_packet() {
                    return refuse!(ReadOnly, EACCES, "cannot write into packet");
                }
                leak("packet")?;
                self.packet_access(&target, false)?;
                self.note_access(Access::Packet);
                unknown()
            }
            Kind::FlowKeys => {
                leak("flow keys")?;
                self.flow_keys_access(&target)?;
                self.note_access(Access::Mem);
                unknown()
            }
            Kind::Sock(kind) => {
                if mode.writes() {
                    return refuse!(ReadOnly, EACCES, "R{r} cannot write into {}", pointer.type_name());
                }
                self.sock_access(&target, kind)?;
                self.note_access(Access::Mixed);
                unknown()
            }
            Kind::TpBuffer => {
                self.check_buffer(&target)?;
                self.note_access(Access::Mixed);
                unknown()
            }
            Kind::Btf { name, .. } => {
                self.kernel_access(&target, name, mode.writes())?;
                self.note_access(Access::Mixed);
                unknown()
            }
            Kind::MapPtr(map) => {
                self.map_struct_access(&target, map, mode.writes())?;
                self.note_access(Access::Mixed);
                unknown()
            }
            Kind::Scalar
            | Kind::Uninit
            | Kind::PacketEnd
            | Kind::PercpuBtf
            | Kind::Func(_)
            | Kind::Dynptr { .. }
            | Kind::Iter { .. } => {
                return refuse!(InvalidAccess, EACCES, "R{r} invalid mem access '{}'", pointer.type_name());
            }
        };
        Ok(loaded)
    }

    /// Joins what this path knows of the current access with what others knew.
    pub(crate) fn note_access(&mut self, access: Access) {
        let first = self.first_visit;
        self.first_visit = false;
        let Some(facts) = self.facts.insns.get_mut(self.at.index()) else { return };
        facts.access = if first { access } else { join(facts.access, access) };
    }

    fn check_alignment(&self, target: &Target, atomic: bool) -> Checked {
        let size = target.size as u64;
        let flags = self.given.prog_flags;
        let strict = flags & 1 != 0 && flags & 2 == 0 || atomic;
        let (what, always, bias) = match target.pointer.kind {
            Kind::Packet(_) | Kind::PacketMeta(_) => ("packet ", false, 2),
            Kind::FlowKeys => ("flow keys ", false, 0),
            Kind::MapKey(_) => ("key ", false, 0),
            Kind::MapValue(_) => ("value ", false, 0),
            Kind::Ctx => ("context ", false, 0),
            Kind::Stack(_) => ("stack ", true, 0),
            Kind::Sock(rtbpf_abi::helper::SockKind::SockCommon) => ("sock_common ", false, 0),
            Kind::Sock(rtbpf_abi::helper::SockKind::Sock) => ("sock ", false, 0),
            Kind::Sock(rtbpf_abi::helper::SockKind::TcpSock) => ("tcp_sock ", false, 0),
            Kind::Sock(rtbpf_abi::helper::SockKind::XdpSock) => ("xdp_sock ", false, 0),
            _ => ("", false, 0),
        };
        if !strict && !always || size == 1 {
            return Ok(());
        }
        let (fixed, off) = (target.pointer.off, target.off);
        let sum = Tnum::constant((bias + fixed as i64 + off as i64) as u64);
        if target.pointer.num.tnum().add(sum).is_aligned(size) {
            return Ok(());
        }
        let base = match (bias, target.pointer.num.as_constant()) {
            (0, Some(k)) => format!("{}", k as i64),
            (0, None) => target.pointer.num.tnum().to_string(),
            (_, Some(k)) => format!("{bias}+{}", k as i64),
            (_, None) => format!("{bias}+{}", target.pointer.num.tnum()),
        };
        refuse!(Misaligned, EACCES, "misaligned {what}access off {base}+{fixed}+{off} size {size}")
    }

    /// Shows that the access stays within `size` bytes. `zero` says whether no bytes at all are fine.
    pub(crate) fn check_region(&self, target: &Target, size: u32, zero: bool, what: &str) -> Checked {
        let (r, num, off) = (target.r(), &target.pointer.num, target.fixed() as i64);
        let fits = |first: i64| {
            let end = first.checked_add(target.size as i64);
            first >= 0 && (target.size > 0 || zero) && end.is_some_and(|end| end <= size as i64)
        };
        let low = num.smin().checked_add(off);
        match low {
            Some(low) if num.smin() >= 0 || low >= 0 && num.smin() > i32::MIN as i64 => {
                if !fits(low) {
                    let _ = what;
                    return refuse!(OutOfBounds, EACCES, "R{r} min value is outside of the allowed memory range");
                }
            }
            _ => {
                return refuse!(
                    OutOfBounds,
                    EACCES,
                    "R{r} min value is negative, either use unsigned index or do a if (index >=0) check."
                );
            }
        }
        if num.umax() >= rtbpf_abi::limits::MAX_VAR_OFF as u64 {
            return refuse!(
                OutOfBounds,
                EACCES,
                "R{r} unbounded memory access, make sure to bounds check any such access"
            );
        }
        if !fits(num.umax() as i64 + off) {
            return refuse!(OutOfBounds, EACCES, "R{r} max value is outside of the allowed memory range");
        }
        Ok(())
    }

    /// A pointer whose identity matters: no offset at all.
    pub(crate) fn check_unmodified(&self, reg: Reg, pointer: &Value) -> Checked {
        let (r, name, off) = (reg as u8, pointer.type_name(), pointer.off);
        if off < 0 {
            return refuse!(ContextAccess, EACCES, "negative offset {name} ptr R{r} off={off} disallowed");
        }
        if off != 0 {
            return refuse!(ContextAccess, EACCES, "dereference of modified {name} ptr R{r} off={off} disallowed");
        }
        if pointer.num.as_constant() != Some(0) {
            let tnum = pointer.num.tnum();
            return refuse!(ContextAccess, EACCES, "variable {name} access var_off={tnum} disallowed");
        }
        Ok(())
    }
}

pub(crate) fn join(a: Access, b: Access) -> Access {
    match (a, b) {
        _ if a == b => a,
        (Access::Stack(_) | Access::AnyStack, Access::Stack(_) | Access::AnyStack) => Access::AnyStack,
        (Access::MapValue { map, low, high }, Access::MapValue { map: other, low: l, high: h }) if map == other => {
            Access::MapValue { map, low: low.min(l), high: high.max(h) }
        }
        _ => Access::Mixed,
    }
}

/// A number of `size` bytes.
pub(crate) fn narrow(size: u32) -> Scalar {
    rtbpf_isa::Size::from_bytes(size).map_or(Scalar::UNKNOWN, Scalar::unsigned)
}

/// The bytes of a map's value that an access may touch, as a fact.
pub(crate) fn value_range(map: MapIdx, target: &Target) -> Access {
    let off = target.fixed() as i64;
    let (low, high) = (target.pointer.num.smin() + off, target.pointer.num.smax() + off);
    match (u32::try_from(low), u32::try_from(high)) {
        (Ok(low), Ok(high)) => Access::MapValue { map, low, high },
        _ => Access::Mixed,
    }
}
