//! Helper calls of the checked interpreter: from pointers to native addresses by the prototype row, and back.

use rtbpf_abi::helper::{MemSize, MemUse, Null, SockKind, value_use};
use rtbpf_abi::{Arg, HelperId, Ret};
use rtbpf_isa::InsnIdx;
use rtbpf_maps::MapRef;

use super::checked::Checked;
use super::observe::Observer;
use crate::error::FaultKind;
use crate::helpers::{Action, BoundHelper};
use crate::mem::Keep;
use crate::region::{Region, RegionKind, split};

/// Arguments as helpers see them.
pub(super) struct Native {
    pub args: [u64; 5],
    /// The map among them.
    pub map: Option<MapRef>,
}

impl Checked {
    /// Calls helper `id`.
    pub(super) fn helper<O: Observer>(
        &mut self,
        at: InsnIdx,
        id: i32,
        args: &[u64; 5],
        observer: &mut O,
    ) -> Result<(), FaultKind> {
        let exe = self.exe.clone();
        let helper = exe.helper(id)?;
        let native = self.marshal(helper, args)?;
        if let Some(map) = &native.map {
            observer.map_access(at, map);
        }
        let result = match &helper.action {
            Action::Flow(flow) => return self.flow(*flow, args, native),
            Action::Native(function) => {
                self.frame.host = std::ptr::from_mut(&mut *self.host).cast();
                let [r1, r2, r3, r4, r5] = native.args;
                self.host.lent = Some(std::mem::take(&mut self.regions));
                let result = (function.entry)(r1, r2, r3, r4, r5, &mut self.frame);
                self.regions = self.host.lent.take().unwrap_or_default();
                self.host.granted = None;
                self.helper_fault(&helper.name)?;
                result
            }
            Action::Custom(custom) => {
                let panicked = || FaultKind::HelperPanicked(custom.name.clone());
                custom.call(&mut self.host, &native.args).ok_or_else(panicked)?
            }
        };
        if helper.moves_packet {
            self.packet_moved();
        }
        // A released dynptr lies on the stack, and only its slot in the run's table is gone.
        if let Some(at) = (helper.releases as usize).checked_sub(1)
            && helper.args.get(at).is_some_and(|arg| !matches!(arg, Arg::RingbufDynptr))
        {
            let released = args.get(at).copied().unwrap_or_default();
            self.regions.end(split(released).0);
        }
        let r0 = self.returned(helper, args, &native, result)?;
        observer.returned(at, r0);
        self.set(rtbpf_isa::Reg::R0, r0);
        Ok(())
    }

    /// Checks every argument against its kind and translates pointers.
    fn marshal(&mut self, helper: &BoundHelper, args: &[u64; 5]) -> Result<Native, FaultKind> {
        let mut native = Native { args: *args, map: None };
        // The map comes first among a row's arguments where key and value sizes depend on it.
        for (at, (arg, value)) in helper.args.iter().zip(args).enumerate() {
            let translated = self.argument(helper, *arg, *value, args, &mut native.map).map_err(|why| {
                FaultKind::Argument { helper: helper.name.to_string(), arg: at as u8 + 1, why: Box::new(why) }
            })?;
            native.args[at] = translated;
        }
        if let Some(at) = address_arg(helper.id)
            && let Ok((region, off)) = self.regions.resolve(args[at])
            && let Some(addr) = region.span.at(off, 0)
        {
            native.args[at] = addr;
            self.host.granted = Some((addr, region.span.len() as u64 - off as u64));
        }
        Ok(native)
    }

    fn argument(
        &mut self,
        helper: &BoundHelper,
        arg: Arg,
        value: u64,
        args: &[u64; 5],
        map: &mut Option<MapRef>,
    ) -> Result<u64, FaultKind> {
        match arg {
            Arg::None | Arg::Anything | Arg::Scalar | Arg::Size { .. } | Arg::AllocSize => Ok(value),
            Arg::ConstZero => match value {
                0 => Ok(0),
                found => Err(FaultKind::Expected { expected: "0", found }),
            },
            Arg::Ctx => self.expect_ctx(value),
            Arg::CtxOrNull if value == 0 => Ok(0),
            Arg::CtxOrNull => self.expect_ctx(value),
            Arg::Map(kinds) => {
                let found = self.expect_map(value)?;
                if !kinds.contains(&found.spec().kind) {
                    let found = found.spec().kind.number() as u64;
                    return Err(FaultKind::Expected { expected: "a map of another kind", found });
                }
                let native = std::ptr::from_ref(found.head()) as u64;
                *map = Some(found);
                Ok(native)
            }
            Arg::MapOfArg1 => Ok(std::ptr::from_ref(self.expect_map(value)?.head()) as u64),
            Arg::MapKey => {
                let len = map.as_ref().map_or(0, |map| map.spec().key_size);
                self.regions.native(value, len as u64, false)
            }
            Arg::MapValueOrNull if value == 0 => Ok(0),
            Arg::MapValueOrNull => {
                let len = map.as_ref().map_or(0, |map| map.spec().value_size);
                self.regions.native(value, len as u64, false)
            }
            Arg::MapValue(usage) => {
                let Some(map) = map else { return self.regions.native(value, 0, usage != MemUse::Read) };
                let usage = value_use(usage, map.spec().kind);
                self.regions.native(value, map.spec().value_size as u64, usage != MemUse::Read)
            }
            Arg::Mem { access, size, null, aligned, .. } => {
                let len = match size {
                    MemSize::Fixed(len) => len as u64,
                    MemSize::Arg(n) => size_of_arg(args, n)?,
                };
                match null {
                    Null::Yes if value == 0 => return Ok(0),
                    Null::IfSizeZero if value == 0 && len == 0 => return Ok(0),
                    Null::No | Null::Yes | Null::IfSizeZero => {}
                }
                let addr = self.regions.native(value, len, access != MemUse::Read)?;
                if aligned && len.is_power_of_two() && addr % len != 0 {
                    return Err(FaultKind::Expected { expected: "an aligned address", found: value });
                }
                Ok(addr)
            }
            Arg::ConstStr => self.expect_string(value),
            Arg::Func => match self.regions.resolve(value)?.0.kind {
                RegionKind::Func(_) => Ok(value),
                _ => Err(FaultKind::Expected { expected: "a subprogram", found: value }),
            },
            Arg::StackOrNull | Arg::Stack => Ok(value),
            Arg::DynptrUninit(_) | Arg::Dynptr(_) | Arg::RingbufDynptr => self.regions.native(value, 16, true),
            Arg::RingbufMem => self.expect(value, "a ring buffer record", |kind| kind == RegionKind::Ringbuf),
            Arg::SpinLock | Arg::SpinLockHeld => self.expect_field(value, 4),
            Arg::Timer => self.expect_field(value, 16),
            Arg::KptrSlot => self.expect_field(value, 8),
            Arg::SockCommonOrBtfOrNull | Arg::SockOrNull if value == 0 => Ok(0),
            Arg::SockCommon
            | Arg::SockCommonOrBtf
            | Arg::SockCommonOrBtfOrNull
            | Arg::SockOrNull
            | Arg::SockAcquired => self.expect(value, "a socket", |kind| kind == RegionKind::Socket),
            Arg::BtfOrNull(_) | Arg::KptrValue if value == 0 => Ok(0),
            Arg::Btf(name) | Arg::BtfOrNull(name) => {
                let _ = (helper, name);
                self.expect(value, "a kernel object", |kind| matches!(kind, RegionKind::Object | RegionKind::Socket))
            }
            Arg::KptrValue | Arg::PercpuBtf => self.expect(value, "a kernel object", |kind| kind == RegionKind::Object),
        }
    }

    fn expect_ctx(&self, value: u64) -> Result<u64, FaultKind> {
        if value == self.ctx.pointer(0) {
            Ok(self.host.ctx.addr())
        } else {
            Err(FaultKind::Expected { expected: "the context", found: value })
        }
    }

    pub(super) fn expect_map(&self, value: u64) -> Result<MapRef, FaultKind> {
        let (region, off) = self.regions.resolve(value)?;
        match region.span.keep() {
            Keep::Map(map) if region.kind == RegionKind::Map && off == 0 => Ok(map.clone()),
            _ => Err(FaultKind::Expected { expected: "a map", found: value }),
        }
    }

    /// A pointer to the start of a region of the right kind, as its native value.
    fn expect(&self, value: u64, expected: &'static str, is: impl Fn(RegionKind) -> bool) -> Result<u64, FaultKind> {
        let (region, off) = self.regions.resolve(value)?;
        if is(region.kind) && off == 0 {
            Ok(region.native)
        } else {
            Err(FaultKind::Expected { expected, found: value })
        }
    }

    /// A special field of a map value.
    fn expect_field(&self, value: u64, len: u64) -> Result<u64, FaultKind> {
        match self.regions.resolve(value)?.0.kind {
            RegionKind::MapValue | RegionKind::Mem => self.regions.native(value, len, true),
            _ => Err(FaultKind::Expected { expected: "a field of a map value", found: value }),
        }
    }

    /// A NUL-terminated string; the NUL lies in the same region.
    fn expect_string(&self, value: u64) -> Result<u64, FaultKind> {
        let (region, off) = self.regions.resolve(value)?;
        let mut at = off;
        loop {
            match region.span.load(at, rtbpf_isa::Size::B) {
                Some(0) => return self.regions.native(value, 1, false),
                Some(_) => at += 1,
                None => return Err(FaultKind::Expected { expected: "a NUL-terminated string", found: value }),
            }
        }
    }

    /// A helper's result as the program sees it.
    fn returned(
        &mut self,
        helper: &BoundHelper,
        args: &[u64; 5],
        native: &Native,
        result: u64,
    ) -> Result<u64, FaultKind> {
        let nothing = || Keep::Nothing;
        match helper.ret {
            Ret::Int | Ret::Range(..) | Ret::ErrnoOrUpTo(_) | Ret::Cpu => Ok(result),
            Ret::Void => Ok(0),
            _ if result == 0 => Ok(0),
            Ret::MapValueOrNull | Ret::MapValue => match &native.map {
                Some(map) => self.value_pointer(map, result),
                None => Ok(result),
            },
            Ret::RingbufMemOrNull(n) => {
                let len = size_of_arg(args, n)?;
                let keep = native.map.clone().map_or_else(nothing, Keep::Map);
                let id = self.regions.handed_out(RegionKind::Ringbuf, result, len as u32, true, keep)?;
                Ok(id.pointer(0))
            }
            Ret::DynptrSliceOrNull(n) => {
                let len = size_of_arg(args, n)?;
                let keep = self.host.keep_of(result);
                let span = crate::mem::Span::handed_out(result, len as u32, keep);
                Ok(self.regions.add(Region::memory(RegionKind::Mem, span, true))?.pointer(0))
            }
            Ret::SockOrNull { kind, .. } => {
                let len = match kind {
                    SockKind::SockCommon | SockKind::Sock => 80,
                    SockKind::TcpSock => 96,
                    SockKind::XdpSock => 4,
                };
                let keep = self.host.keep_of(result);
                Ok(self.regions.handed_out(RegionKind::Socket, result, len, false, keep)?.pointer(0))
            }
            Ret::Btf { .. } | Ret::KptrOrNull | Ret::Percpu { .. } => {
                let keep = self.host.keep_of(result);
                let make = || match keep {
                    Keep::Buffer(buffer) => {
                        let span = crate::mem::Span::of(&buffer, 0, buffer.len());
                        Region::memory(RegionKind::Object, span, false)
                    }
                    Keep::Nothing | Keep::Map(_) => Region::handle(RegionKind::Object, result),
                };
                Ok(self.regions.intern(RegionKind::Object, result, make)?.pointer(0))
            }
        }
    }

    /// A pointer to what a lookup in `map` found at a native address.
    pub(super) fn value_pointer(&mut self, map: &MapRef, addr: u64) -> Result<u64, FaultKind> {
        use rtbpf_abi::MapKind;
        let spec = map.spec();
        if spec.kind.is_map_in_map() {
            return match rtbpf_maps::map_at(addr) {
                Some(inner) => self.map_pointer(&inner),
                None => Ok(0),
            };
        }
        let (kind, writable, len) = match spec.kind {
            MapKind::Sockmap | MapKind::Sockhash | MapKind::Xskmap => (RegionKind::Socket, false, 80),
            _ => (RegionKind::MapValue, spec.prog_writes(), spec.value_size),
        };
        Ok(self.regions.handed_out(kind, addr, len, writable, Keep::Map(map.clone()))?.pointer(0))
    }

    /// The pointer that stands for a map.
    pub(super) fn map_pointer(&mut self, map: &MapRef) -> Result<u64, FaultKind> {
        let native = std::ptr::from_ref(map.head()) as u64;
        let make = || Region::map(map.clone(), native);
        Ok(self.regions.intern(RegionKind::Map, native, make)?.pointer(0))
    }
}

/// The size in argument `n`, 1 to 5. Sizes are 32 bits wide.
fn size_of_arg(args: &[u64; 5], n: u8) -> Result<u64, FaultKind> {
    let size = args.get((n as usize).wrapping_sub(1)).copied().unwrap_or_default();
    if size > u32::MAX as u64 { Err(FaultKind::Expected { expected: "a size", found: size }) } else { Ok(size) }
}

/// The argument (from 0) that helpers of the `probe_read` family take as an address of any kind.
fn address_arg(id: HelperId) -> Option<usize> {
    matches!(id.0, 4 | 45 | 112..=115 | 148 | 191).then_some(2)
}
