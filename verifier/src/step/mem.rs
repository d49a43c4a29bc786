//! Loads, stores and read-modify-writes.

use rtbpf_isa::{AtomicOp, Operand, Reg, Size, Width};

use crate::domain::Scalar;
use crate::explore::Walk;
use crate::prove::{Mode, Target};
use crate::reject::{Checked, refuse};
use crate::value::{Kind, Value};

/// Pointers that one instruction may not mix with others: the machine translates accesses to them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PointerClass {
    /// Plain memory.
    Memory,
    /// The context.
    Context,
    /// A socket of this kind.
    Socket(rtbpf_abi::helper::SockKind),
    /// A kernel structure.
    Kernel,
}

impl PointerClass {
    fn of(kind: Kind) -> PointerClass {
        match kind {
            Kind::Ctx => PointerClass::Context,
            Kind::Sock(sock) => PointerClass::Socket(sock),
            Kind::Btf { .. } => PointerClass::Kernel,
            _ => PointerClass::Memory,
        }
    }
}

impl Walk<'_> {
    pub(super) fn load(&mut self, size: Size, signed: bool, dst: Reg, base: Reg, off: i16) -> Checked {
        let pointer = self.read(base)?;
        self.check_writable(dst)?;
        let mode = if signed { Mode::LoadSigned } else { Mode::Load };
        let target = Target { reg: base, pointer, off: off as i32, size: size.bytes() };
        let loaded = self.access(target, mode, false)?.unwrap_or(Value::UNKNOWN);
        self.check_class(&pointer)?;
        let loaded = match (signed, loaded.is_scalar()) {
            (true, true) => {
                let num = loaded.num.sign_extend(size);
                if num == loaded.num { loaded } else { Value::scalar(num) }
            }
            _ => loaded,
        };
        self.set(dst, loaded);
        Ok(())
    }

    pub(super) fn store(&mut self, size: Size, base: Reg, off: i16, src: Operand) -> Checked {
        let value = match src {
            Operand::Reg(src) => self.read(src)?,
            Operand::Imm(imm) => Value::constant(imm as i64 as u64),
        };
        let pointer = self.read(base)?;
        let target = Target { reg: base, pointer, off: off as i32, size: size.bytes() };
        self.access(target, Mode::Store { value, from: src }, false)?;
        self.check_class(&pointer)
    }

    pub(super) fn atomic(&mut self, op: AtomicOp, fetch: bool, width: Width, base: Reg, off: i16, src: Reg) -> Checked {
        let value = self.read(src)?;
        let pointer = self.read(base)?;
        if op == AtomicOp::Cmpxchg {
            let expected = self.read(Reg::R0)?;
            if expected.is_pointer() && !self.opts.privilege.perfmon {
                return refuse!(PointerLeak, EACCES, "R0 leaks addr into mem");
            }
        }
        if value.is_pointer() && !self.opts.privilege.perfmon {
            return refuse!(PointerLeak, EACCES, "R{} leaks addr into mem", src as u8);
        }
        if !atomics_allowed(pointer.kind) {
            let name = pointer.type_name();
            return refuse!(InvalidAccess, EACCES, "BPF_ATOMIC stores into R{} {name} is not allowed", base as u8);
        }
        let result = match op {
            AtomicOp::Cmpxchg => Some(Reg::R0),
            AtomicOp::Xchg => Some(src),
            AtomicOp::Add | AtomicOp::Or | AtomicOp::And | AtomicOp::Xor => fetch.then_some(src),
        };
        if let Some(result) = result {
            self.check_writable(result)?;
        }
        // The register that gets the old value is unknown from here on, also where it is the address.
        let pointer = if result == Some(base) { Value::UNKNOWN } else { pointer };
        let target = Target { reg: base, pointer, off: off as i32, size: width.size().bytes() };
        let loaded = self.access(target, Mode::AtomicLoad { kept: result.is_some() }, true)?;
        if let Some(result) = result {
            let unknown = Value::scalar(Scalar::unsigned(width.size()));
            self.set(result, loaded.map_or(unknown, Value::unlinked));
        }
        self.access(target, Mode::AtomicStore, true)?;
        Ok(())
    }

    pub(super) fn load_acquire(&mut self, size: Size, dst: Reg, base: Reg, off: i16) -> Checked {
        let pointer = self.read(base)?;
        self.check_writable(dst)?;
        let target = Target { reg: base, pointer, off: off as i32, size: size.bytes() };
        let loaded = self.access(target, Mode::Load, true)?;
        if !atomics_allowed(pointer.kind) && !matches!(pointer.kind, Kind::Btf { .. }) {
            let name = pointer.type_name();
            return refuse!(InvalidAccess, EACCES, "BPF_ATOMIC loads from R{} {name} is not allowed", base as u8);
        }
        self.check_class(&pointer)?;
        self.set(dst, loaded.unwrap_or(Value::UNKNOWN));
        Ok(())
    }

    pub(super) fn store_release(&mut self, size: Size, base: Reg, off: i16, src: Reg) -> Checked {
        let value = self.read(src)?;
        let pointer = self.read(base)?;
        let target = Target { reg: base, pointer, off: off as i32, size: size.bytes() };
        self.access(target, Mode::Store { value, from: Operand::Reg(src) }, true)?;
        if !atomics_allowed(pointer.kind) {
            let name = pointer.type_name();
            return refuse!(InvalidAccess, EACCES, "BPF_ATOMIC stores into R{} {name} is not allowed", base as u8);
        }
        self.check_class(&pointer)
    }

    fn check_class(&mut self, pointer: &Value) -> Checked {
        let class = PointerClass::of(pointer.kind);
        let Some(seen) = self.pointer_kinds.get_mut(self.at.index()) else { return Ok(()) };
        match seen.replace(class) {
            Some(before) if before != class => {
                refuse!(InvalidAccess, EINVAL, "same insn cannot be used with different pointers")
            }
            _ => Ok(()),
        }
    }
}

fn atomics_allowed(kind: Kind) -> bool {
    !matches!(kind, Kind::Ctx | Kind::Packet(_) | Kind::PacketMeta(_) | Kind::FlowKeys | Kind::Sock(_))
}
