//! `create`: from attributes to a map. The one place that knows which type goes with which kind.

use std::sync::Arc;

use rtbpf_abi::map_rules::{self, Creator};
use rtbpf_abi::map_spec::flags;
use rtbpf_abi::{Errno, MapKind, MapSpec};
use rtbpf_rt::{Lock, PiMutex, RawLock, ZeroIsValid};

use crate::arena::Arena;
use crate::array::Array;
use crate::bloom::Bloom;
use crate::hash::{Hash, Listed, Place, Size, Table, Values};
use crate::head::{Head, publish};
use crate::lpm::Lpm;
use crate::lru::Lru;
use crate::map::{Map, MapError, MapRef};
use crate::map_in_map::MapInMap;
use crate::percpu::PercpuCells;
use crate::perf::PerfEventArray;
use crate::prog_array::ProgArray;
use crate::queue_stack::QueueStack;
use crate::redirect::{Loopback, RedirectMap, Targets};
use crate::ringbuf::Ringbuf;
use crate::slab::Pages;
use crate::sock::SocketMap;
use crate::stack_trace::StackTrace;
use crate::storage::{CgroupStorage, Storage};
use crate::user_ringbuf::UserRingbuf;

/// Owners an owner-keyed map has room for, and the bytes of address space it takes at most.
const MAX_OWNERS: u32 = 1 << 20;
const MAX_STORAGE: u64 = 4 << 30;

/// What `create` needs to know about the machine.
#[derive(Clone)]
pub struct CreateCx {
    /// Slots (possible CPUs): per-CPU values have one part for each.
    pub cpus: u32,
    /// Maps whose elements come at run time take a sleeping lock, so only contexts that may sleep can change them
    /// (the rule of the real-time series). Otherwise they take a raw one, as Linux has since 6.1.
    pub sleeping_locks: bool,
    /// Bring all pages of preallocated maps into being at once, so that no run takes a page fault.
    pub prefault: bool,
    /// The seed of hash tables without `BPF_F_ZERO_SEED`.
    pub seed: u32,
    /// The map whose attributes inner maps must have, for maps of maps; else `MapSpec::inner` says it.
    pub inner: Option<MapRef>,
    /// Who asks.
    pub creator: Creator,
    /// Which devices redirects can go to.
    pub targets: Arc<dyn Targets>,
}

impl CreateCx {
    /// A machine with `cpus` slots, raw locks, a fixed seed.
    pub fn new(cpus: u32) -> CreateCx {
        CreateCx {
            cpus,
            sleeping_locks: false,
            prefault: false,
            seed: 0x5eed,
            inner: None,
            creator: Creator::ROOT,
            targets: Arc::new(Loopback),
        }
    }
}

/// Creates a map.
///
/// Errors are those of `BPF_MAP_CREATE` on Linux 6.18 for the same attributes.
pub fn create(spec: &MapSpec, cx: &CreateCx) -> Result<MapRef, MapError> {
    let mut spec = spec.clone();
    spec.frozen = None;
    if let Some(inner) = &cx.inner {
        spec.inner = Some(Box::new(inner.spec().clone()));
    }
    map_rules::check(&spec, cx.creator)?;
    if matches!(spec.kind, MapKind::Devmap | MapKind::DevmapHash) {
        // Programs read devmaps (for presence) and never write them; the created map says so.
        spec.flags |= flags::RDONLY_PROG;
    }
    let preallocated = if cx.prefault { Pages::Now } else { Pages::OnTouchReserved };
    let map = match spec.kind {
        MapKind::Array | MapKind::PercpuArray => Box::new(Array::new(Head::new(spec, cx.cpus), preallocated)?),
        MapKind::Hash | MapKind::PercpuHash => hash(spec, cx, preallocated)?,
        MapKind::LruHash | MapKind::LruPercpuHash => lru(spec, cx, preallocated)?,
        MapKind::LpmTrie if cx.sleeping_locks => Box::new(Lpm::<PiMutex>::new(Head::new(spec, cx.cpus))?),
        MapKind::LpmTrie => Box::new(Lpm::<RawLock>::new(Head::new(spec, cx.cpus))?),
        MapKind::Queue | MapKind::Stack => Box::new(QueueStack::new(Head::new(spec, cx.cpus), preallocated)?),
        MapKind::BloomFilter => {
            let seed = seed(&spec, cx);
            Box::new(Bloom::new(Head::new(spec, cx.cpus), seed, preallocated)?)
        }
        MapKind::Ringbuf => Box::new(Ringbuf::new(Head::new(spec, cx.cpus), preallocated)?),
        MapKind::UserRingbuf => Box::new(UserRingbuf::new(Head::new(spec, cx.cpus), preallocated)?),
        MapKind::ProgArray => Box::new(ProgArray::new(Head::new(spec, cx.cpus))?),
        MapKind::PerfEventArray | MapKind::CgroupArray => Box::new(PerfEventArray::new(Head::new(spec, cx.cpus))?),
        MapKind::StackTrace => Box::new(StackTrace::new(Head::new(spec, cx.cpus), preallocated)?),
        MapKind::ArrayOfMaps => Box::new(MapInMap::array(Head::new(spec, cx.cpus))?),
        MapKind::HashOfMaps => {
            let table = object_table(&spec, cx, preallocated)?;
            Box::new(MapInMap::hash(Head::new(spec, cx.cpus), table))
        }
        MapKind::Devmap | MapKind::Cpumap | MapKind::Xskmap => {
            Box::new(RedirectMap::array(Head::new(spec, cx.cpus), cx.targets.clone())?)
        }
        MapKind::DevmapHash => {
            let table = object_table(&spec, cx, preallocated)?;
            Box::new(RedirectMap::hash(Head::new(spec, cx.cpus), table, cx.targets.clone()))
        }
        MapKind::Sockmap | MapKind::ReuseportSockarray => Box::new(SocketMap::array(Head::new(spec, cx.cpus))?),
        MapKind::Sockhash => {
            let table = object_table(&spec, cx, preallocated)?;
            Box::new(SocketMap::hash(Head::new(spec, cx.cpus), table))
        }
        MapKind::TaskStorage | MapKind::SkStorage | MapKind::InodeStorage | MapKind::CgrpStorage => {
            let table = owner_table(&spec, MapKind::Hash, 8, cx)?;
            Box::new(Storage::new(Head::new(spec, cx.cpus), table))
        }
        MapKind::CgroupStorage | MapKind::PercpuCgroupStorage => {
            let kind = if spec.kind == MapKind::CgroupStorage { MapKind::Hash } else { MapKind::PercpuHash };
            let table = owner_table(&spec, kind, spec.key_size, cx)?;
            Box::new(CgroupStorage::new(Head::new(spec, cx.cpus), table))
        }
        MapKind::Arena => Box::new(Arena::new(Head::new(spec, cx.cpus))?),
        MapKind::StructOps | MapKind::InsnArray => return Err(Errno::EINVAL.into()),
    } as Box<dyn Map>;
    Ok(publish(map))
}

/// The hash table behind a map whose values are objects.
fn object_table(spec: &MapSpec, cx: &CreateCx, pages: Pages) -> Result<Box<dyn Map>, MapError> {
    let mut table = MapSpec::new(MapKind::Hash, spec.key_size, 8, spec.max_entries);
    table.flags = spec.flags & (flags::NO_PREALLOC | flags::ZERO_SEED);
    // Objects come and go by the control plane only, which may sleep; lookups take no lock.
    hash(table, cx, pages)
}

/// The hash table behind a map that is keyed by owner and has no declared size.
fn owner_table(spec: &MapSpec, kind: MapKind, key_size: u32, cx: &CreateCx) -> Result<Box<dyn Map>, MapError> {
    let value = u64::from(spec.value_size) + 64;
    let owners = (MAX_STORAGE / value).clamp(1, u64::from(MAX_OWNERS)) as u32;
    let mut table = MapSpec::new(kind, key_size, spec.value_size, owners);
    table.flags = flags::NO_PREALLOC;
    table.fields = spec.fields.clone();
    // Created from any context, so with a raw lock in every model.
    hash(table, &CreateCx { sleeping_locks: false, ..cx.clone() }, Pages::OnTouch)
}

fn seed(spec: &MapSpec, cx: &CreateCx) -> u32 {
    if spec.flags & flags::ZERO_SEED != 0 { 0 } else { cx.seed }
}

/// How large the table of a map is. Per-CPU values are written in place, and LRU nodes come from the lists: only other
/// tables have spares.
fn size(spec: &MapSpec, cx: &CreateCx, spares: bool) -> Size {
    let value = if spec.kind.is_percpu() { 0 } else { spec.value_size };
    let spares = spares && !spec.kind.is_percpu();
    Size { entries: spec.max_entries, slots: cx.cpus, spares, key: spec.key_size, value }
}

fn values(spec: &MapSpec, cx: &CreateCx, pages: Pages) -> Result<Values, MapError> {
    Ok(match spec.kind.is_percpu() {
        true => Values::Percpu(PercpuCells::new(spec.max_entries, spec.value_size, cx.cpus, pages)?),
        false => Values::Inline,
    })
}

fn hash(spec: MapSpec, cx: &CreateCx, preallocated: Pages) -> Result<Box<dyn Map>, MapError> {
    if spec.is_preallocated() {
        listed::<RawLock>(spec, cx, preallocated)
    } else if cx.sleeping_locks {
        listed::<PiMutex>(spec, cx, Pages::OnTouch)
    } else {
        listed::<RawLock>(spec, cx, Pages::OnTouch)
    }
}

fn listed<L: Lock + 'static>(spec: MapSpec, cx: &CreateCx, pages: Pages) -> Result<Box<dyn Map>, MapError>
where
    Place<L>: ZeroIsValid,
{
    let values = values(&spec, cx, pages)?;
    let table = Table::<L>::new(size(&spec, cx, true), seed(&spec, cx), pages)?;
    let pool = Listed::new(spec.max_entries, cx.cpus, !spec.is_preallocated());
    Ok(Box::new(Hash::new(Head::new(spec, cx.cpus), table, values, pool)))
}

fn lru(mut spec: MapSpec, cx: &CreateCx, pages: Pages) -> Result<Box<dyn Map>, MapError> {
    let common = spec.flags & flags::NO_COMMON_LRU == 0;
    if !common {
        // Every slot gets the same share.
        spec.max_entries = spec.max_entries.checked_next_multiple_of(cx.cpus.max(1)).ok_or(Errno::E2BIG)?;
    }
    let values = values(&spec, cx, pages)?;
    let table = Table::new(size(&spec, cx, false), seed(&spec, cx), pages)?;
    let pool = Lru::new(spec.max_entries, cx.cpus, common, pages)?;
    Ok(Box::new(Hash::new(Head::new(spec, cx.cpus), table, values, pool)))
}
