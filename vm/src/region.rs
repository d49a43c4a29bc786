//! Live regions of the checked engine, and pointers into them.
//!
//! ```text
//!  63   62..56      55..32   31..0
//!  1 │ generation │ index  │ BIAS + offset
//! ```
//!
//! A pointer is a plain 64-bit number, so arithmetic, comparisons, spills and truncation need no tags: within one region
//! they give what native addresses give. An access is judged by the region in the number, wherever the number came
//! from; a forged pointer reaches only what the program may touch anyway. The bias keeps small negative offsets from
//! borrowing out of the region number. Bit 63 is set, as it is in a kernel address.

use std::collections::HashMap;

use rtbpf_isa::InsnIdx;
use rtbpf_maps::MapRef;

use crate::error::FaultKind;
use crate::mem::{Keep, Span};

/// Offset 0 of every region, in the low half of a pointer.
const BIAS: u64 = 0x4000_0000;
const INDEX_BITS: u32 = 24;
const INDEX_MASK: u32 = (1 << INDEX_BITS) - 1;
const LIVE: u32 = 1 << 31;

/// What a region is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum RegionKind {
    /// The stack of one frame, lowest byte first.
    Stack,
    /// The context: accesses go by its layout.
    Ctx,
    /// A packet, from its metadata to its end.
    Packet,
    /// A map's value, or its whole direct value.
    MapValue,
    /// A map itself.
    Map,
    /// A subprogram, as a callback.
    Func(InsnIdx),
    /// A ring buffer record.
    Ringbuf,
    /// Other memory that a helper handed out.
    Mem,
    /// A socket.
    Socket,
    /// The flow keys of a flow dissector.
    FlowKeys,
    /// A kernel object that programs only hand around.
    Object,
}

impl RegionKind {
    /// What it is called in messages.
    pub const fn name(self) -> &'static str {
        match self {
            RegionKind::Stack => "stack",
            RegionKind::Ctx => "context",
            RegionKind::Packet => "packet",
            RegionKind::MapValue => "map value",
            RegionKind::Map => "map",
            RegionKind::Func(_) => "function",
            RegionKind::Ringbuf => "ring buffer record",
            RegionKind::Mem => "memory",
            RegionKind::Socket => "socket",
            RegionKind::FlowKeys => "flow keys",
            RegionKind::Object => "kernel object",
        }
    }
}

/// A live region.
#[derive(Clone)]
pub struct Region {
    /// What it is.
    pub kind: RegionKind,
    /// Its memory; empty where programs only hand the pointer around.
    pub span: Span,
    /// Native value of a pointer to its first byte.
    pub native: u64,
    /// The offset that a pointer to its first byte holds. Packets begin where they begin in their page, as on Linux:
    /// programs may look at the low bits.
    pub origin: i64,
    /// Programs may load from it.
    pub readable: bool,
    /// Programs may store to it.
    pub writable: bool,
}

impl Region {
    /// Memory that programs may read, and write if `writable`.
    pub fn memory(kind: RegionKind, span: Span, writable: bool) -> Region {
        Region { kind, native: span.addr(), span, origin: 0, readable: true, writable }
    }

    /// A map, which helpers see as `native`.
    pub fn map(map: MapRef, native: u64) -> Region {
        let len = rtbpf_abi::map_struct::BYTES as u32;
        let span = Span::handed_out(native, len, Keep::Map(map));
        Region { kind: RegionKind::Map, span, native, origin: 0, readable: true, writable: false }
    }

    /// Something whose pointer programs only hand around; helpers see it as `native`.
    pub fn handle(kind: RegionKind, native: u64) -> Region {
        Region { kind, span: Span::EMPTY, native, origin: 0, readable: false, writable: false }
    }
}

/// Name of a region: generation and index.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct RegionId(u32);

impl RegionId {
    /// The pointer to its byte `off`.
    pub const fn pointer(self, off: i64) -> u64 {
        ((self.0 as u64) << 32).wrapping_add(BIAS).wrapping_add(off as u64)
    }
}

/// The region number and the offset that a pointer holds.
#[inline(always)]
pub fn split(pointer: u64) -> (RegionId, i64) {
    (RegionId((pointer >> 32) as u32), (pointer & 0xffff_ffff) as i64 - BIAS as i64)
}

struct Entry {
    generation: u32,
    region: Option<Region>,
}

/// All regions of a run.
#[derive(Default)]
pub struct Regions {
    entries: Vec<Entry>,
    free: Vec<u32>,
    /// Regions found by what they are and their native address, so that equal addresses give equal pointers.
    known: HashMap<(RegionKind, u64), RegionId>,
}

impl Regions {
    /// Adds a region.
    pub fn add(&mut self, region: Region) -> Result<RegionId, FaultKind> {
        if let Some(index) = self.free.pop()
            && let Some(entry) = self.entries.get_mut(index as usize)
        {
            entry.region = Some(region);
            return Ok(id(entry.generation, index));
        }
        let index = u32::try_from(self.entries.len()).ok().filter(|index| *index <= INDEX_MASK);
        let index = index.ok_or(FaultKind::TooManyRegions)?;
        self.entries.push(Entry { generation: 0, region: Some(region) });
        Ok(id(0, index))
    }

    /// The region with this kind and native address: the one added before, or `make`'s.
    pub fn intern(
        &mut self,
        kind: RegionKind,
        native: u64,
        make: impl FnOnce() -> Region,
    ) -> Result<RegionId, FaultKind> {
        if let Some(id) = self.known.get(&(kind, native)) {
            return Ok(*id);
        }
        let id = self.add(make())?;
        self.known.insert((kind, native), id);
        Ok(id)
    }

    /// Ends a region: pointers into it fault from now on.
    pub fn end(&mut self, id: RegionId) {
        let index = id.0 & INDEX_MASK;
        if self.get(id).is_some()
            && let Some(entry) = self.entries.get_mut(index as usize)
        {
            if let Some(region) = entry.region.take() {
                self.known.remove(&(region.kind, region.native));
            }
            entry.generation += 1;
            // A pointer holds 7 bits of generation; a slot whose generations are used up stays dead.
            if entry.generation < 0x80 {
                self.free.push(index);
            }
        }
    }

    /// The live region with this name.
    #[inline(always)]
    pub fn get(&self, id: RegionId) -> Option<&Region> {
        let entry = self.entries.get((id.0 & INDEX_MASK) as usize)?;
        if id.0 >> INDEX_BITS != LIVE >> INDEX_BITS | entry.generation {
            return None;
        }
        entry.region.as_ref()
    }

    /// The live region that a pointer points to, and the offset into it.
    #[inline(always)]
    pub fn resolve(&self, pointer: u64) -> Result<(&Region, i64), FaultKind> {
        let (id, off) = split(pointer);
        match self.get(id) {
            Some(region) => Ok((region, off - region.origin)),
            None => Err(self.no_region(pointer)),
        }
    }

    /// Names why a number points nowhere.
    #[cold]
    fn no_region(&self, pointer: u64) -> FaultKind {
        let (id, _) = split(pointer);
        let index = (id.0 & INDEX_MASK) as usize;
        if id.0 & LIVE != 0 && index < self.entries.len() {
            FaultKind::StalePointer { value: pointer }
        } else if pointer < 4096 {
            FaultKind::NullPointer { value: pointer }
        } else {
            FaultKind::NotAPointer { value: pointer }
        }
    }

    /// The native address of `len` bytes behind `pointer`, after checking bounds and rights.
    pub fn native(&self, pointer: u64, len: u64, write: bool) -> Result<u64, FaultKind> {
        let (region, off) = self.resolve(pointer)?;
        let allowed = if write { region.writable } else { region.readable };
        if !allowed {
            return Err(FaultKind::Denied { region: region.kind, write });
        }
        let outside = || FaultKind::OutOfBounds { region: region.kind, off, size: len, len: region.span.len(), write };
        region.span.at(off, len).ok_or_else(outside)
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.free.clear();
        self.known.clear();
    }

    /// A region over memory a helper handed out, found again by address.
    pub fn handed_out(
        &mut self,
        kind: RegionKind,
        addr: u64,
        len: u32,
        writable: bool,
        keep: Keep,
    ) -> Result<RegionId, FaultKind> {
        self.intern(kind, addr, || Region::memory(kind, Span::handed_out(addr, len, keep), writable))
    }
}

const fn id(generation: u32, index: u32) -> RegionId {
    RegionId(LIVE | generation << INDEX_BITS | index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::Buffer;

    fn region(len: usize) -> Region {
        Region::memory(RegionKind::Mem, Span::of(&Buffer::zeroed(len), 0, len), true)
    }

    #[test]
    fn pointers_behave_as_addresses_within_a_region() {
        let mut regions = Regions::default();
        let id = regions.add(region(64)).unwrap();
        let (start, end) = (id.pointer(0), id.pointer(64));
        assert_eq!(end - start, 64);
        assert_eq!((end as u32).wrapping_sub(start as u32), 64);
        assert!(start + 14 < end && start.wrapping_sub(1) < start);
        assert_eq!(split(start.wrapping_sub(8)), (id, -8));
    }

    #[test]
    fn an_ended_region_is_stale_even_when_its_slot_is_used_again() {
        let mut regions = Regions::default();
        let old = regions.add(region(8)).unwrap();
        regions.end(old);
        let new = regions.add(region(8)).unwrap();
        assert!(regions.resolve(new.pointer(0)).is_ok());
        let fault = regions.resolve(old.pointer(0)).map(|_| ()).unwrap_err();
        assert_eq!(fault, FaultKind::StalePointer { value: old.pointer(0) });
    }

    #[test]
    fn numbers_are_not_pointers() {
        let regions = Regions::default();
        assert_eq!(regions.native(0, 1, false), Err(FaultKind::NullPointer { value: 0 }));
        assert_eq!(regions.native(1 << 40, 1, false), Err(FaultKind::NotAPointer { value: 1 << 40 }));
    }
}
