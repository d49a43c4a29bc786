//! What `BPF_MAP_CREATE` checks, in Linux 6.18's order. One row per kind; the checks that only one kind has follow.

use rtbpf_abi::map_spec::{SpecialKind, flags};
use rtbpf_abi::{Errno, MapKind, MapSpec};

use crate::create::CreateCx;
use crate::map::MapError;

/// How long a key, a value or a count may be.
#[derive(Clone, Copy)]
enum Size {
    Any,
    /// Not 0.
    Some,
    Is(u32),
}

use Size::{Any, Is, Some as NonZero};

impl Size {
    fn fits(self, size: u32) -> bool {
        match self {
            Any => true,
            NonZero => size > 0,
            Is(exact) => size == exact,
        }
    }
}

const NUMA: u32 = flags::NUMA_NODE;
/// `BPF_F_RDONLY | BPF_F_WRONLY`: what the creator's descriptor may do.
const FD: u32 = flags::RDONLY | flags::WRONLY;
/// What programs may do.
const PROG: u32 = flags::RDONLY_PROG | flags::WRONLY_PROG;
const HASH: u32 = flags::NO_PREALLOC | flags::ZERO_SEED | FD | PROG;
const STORAGE: u32 = flags::NO_PREALLOC | flags::CLONE;

/// Key, value, entries, flags that may be set. `None`: the kind cannot be created here.
#[rustfmt::skip]
const fn row(kind: MapKind) -> Option<(Size, Size, Size, u32)> {
    match kind {
        MapKind::Hash                => Some((NonZero, NonZero, NonZero, HASH | NUMA)),
        MapKind::PercpuHash          => Some((NonZero, NonZero, NonZero, HASH)),
        MapKind::LruHash             => Some((NonZero, NonZero, NonZero, HASH | NUMA | flags::NO_COMMON_LRU)),
        MapKind::LruPercpuHash       => Some((NonZero, NonZero, NonZero, HASH | flags::NO_COMMON_LRU)),
        MapKind::HashOfMaps          => Some((NonZero, Is(4),   NonZero, HASH | NUMA)),
        MapKind::Array               => Some((Is(4),   NonZero, NonZero, NUMA | FD | PROG | flags::MMAPABLE | flags::INNER_MAP)),
        MapKind::PercpuArray         => Some((Is(4),   NonZero, NonZero, FD | PROG)),
        MapKind::ProgArray           => Some((Is(4),   Is(4),   NonZero, NUMA | FD)),
        MapKind::PerfEventArray      => Some((Is(4),   Is(4),   NonZero, NUMA | FD | flags::PRESERVE_ELEMS)),
        MapKind::CgroupArray         => Some((Is(4),   Is(4),   NonZero, NUMA | FD)),
        MapKind::ArrayOfMaps         => Some((Is(4),   Is(4),   NonZero, NUMA | FD)),
        MapKind::StackTrace          => Some((Is(4),   NonZero, NonZero, NUMA | FD | flags::STACK_BUILD_ID)),
        MapKind::LpmTrie             => Some((Any,     NonZero, NonZero, flags::NO_PREALLOC | NUMA | FD | PROG)),
        MapKind::Queue
        | MapKind::Stack             => Some((Is(0),   NonZero, NonZero, NUMA | FD | PROG)),
        MapKind::BloomFilter         => Some((Is(0),   NonZero, NonZero, NUMA | flags::ZERO_SEED | FD | PROG)),
        MapKind::Ringbuf             => Some((Is(0),   Is(0),   NonZero, NUMA | flags::RB_OVERWRITE)),
        MapKind::UserRingbuf         => Some((Is(0),   Is(0),   NonZero, NUMA)),
        MapKind::Devmap              => Some((Is(4),   Any,     NonZero, NUMA | FD)),
        MapKind::DevmapHash          => Some((Is(4),   Any,     NonZero, NUMA | FD)),
        MapKind::Cpumap              => Some((Is(4),   Any,     NonZero, NUMA)),
        MapKind::Xskmap              => Some((Is(4),   Is(4),   NonZero, NUMA | FD)),
        MapKind::Sockmap             => Some((Is(4),   Any,     NonZero, NUMA | FD)),
        MapKind::Sockhash            => Some((NonZero, Any,     NonZero, NUMA | FD)),
        MapKind::ReuseportSockarray  => Some((Is(4),   Any,     NonZero, NUMA | FD)),
        MapKind::TaskStorage
        | MapKind::SkStorage
        | MapKind::InodeStorage
        | MapKind::CgrpStorage       => Some((Is(4),   NonZero, Is(0),   STORAGE)),
        MapKind::CgroupStorage
        | MapKind::PercpuCgroupStorage => Some((Any,   NonZero, Is(0),   NUMA | FD | PROG)),
        MapKind::Arena               => Some((Is(0),   Is(0),   NonZero, flags::MMAPABLE | flags::SEGV_ON_FAULT | flags::NO_USER_CONV)),
        MapKind::StructOps
        | MapKind::InsnArray         => None,
    }
}

/// Longest key and value together of an element that Linux allocates in one piece.
const KMALLOC_MAX: u64 = 4 << 20;
/// Longest value of one CPU.
const PERCPU_MAX: u32 = 32 << 10;
/// Frames of a stack trace.
const MAX_FRAMES: u32 = 127;
const PAGE: u32 = 4096;

fn refuse<T>(errno: Errno) -> Result<T, MapError> {
    Err(errno.into())
}

/// Checks the attributes of a map to be created.
pub(crate) fn check(spec: &MapSpec, cx: &CreateCx) -> Result<(), MapError> {
    let name_is_legal = |name: &str| name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'.');
    if spec.name.len() > 15 || !name_is_legal(&spec.name) {
        return refuse(Errno::EINVAL);
    }
    if spec.map_extra != 0 && !matches!(spec.kind, MapKind::BloomFilter | MapKind::Arena) {
        return refuse(Errno::EINVAL);
    }
    if spec.flags & NUMA != 0 && spec.numa_node != 0 {
        return refuse(Errno::EINVAL);
    }
    let Some((key, value, entries, known)) = row(spec.kind) else { return refuse(Errno::EINVAL) };
    if spec.flags & FD == FD || spec.flags & PROG == PROG {
        return refuse(Errno::EINVAL);
    }
    lru_before_sizes(spec)?;
    let known = known | flags::TOKEN_FD | flags::VTYPE_BTF_OBJ_FD;
    if spec.flags & !known != 0
        || !key.fits(spec.key_size)
        || !value.fits(spec.value_size)
        || !entries.fits(spec.max_entries)
    {
        return refuse(Errno::EINVAL);
    }
    of_kind(spec)?;
    if spec.kind.is_map_in_map() {
        template(cx.inner.as_ref().map(|map| map.spec()).or(spec.inner.as_deref()))?;
    }
    special_fields(spec)
}

/// LRU maps refuse run-time allocation before anything else is looked at.
fn lru_before_sizes(spec: &MapSpec) -> Result<(), MapError> {
    let lru = matches!(spec.kind, MapKind::LruHash | MapKind::LruPercpuHash);
    if lru && spec.flags & flags::NO_PREALLOC != 0 { refuse(Errno::ENOTSUPP) } else { Ok(()) }
}

fn of_kind(spec: &MapSpec) -> Result<(), MapError> {
    match spec.kind {
        MapKind::Hash | MapKind::PercpuHash | MapKind::LruHash | MapKind::LruPercpuHash | MapKind::HashOfMaps => {
            if u64::from(spec.key_size) + u64::from(spec.value_size) >= KMALLOC_MAX - 64 {
                return refuse(Errno::E2BIG);
            }
            if spec.kind.is_percpu() && spec.value_size.next_multiple_of(8) > PERCPU_MAX {
                return refuse(Errno::E2BIG);
            }
            if spec.max_entries >= 1 << 31 {
                return refuse(Errno::E2BIG);
            }
        }
        MapKind::Array | MapKind::PercpuArray => {
            if spec.value_size > i32::MAX as u32 {
                return refuse(Errno::E2BIG);
            }
            if spec.kind.is_percpu() && spec.value_size.next_multiple_of(8) > PERCPU_MAX {
                return refuse(Errno::E2BIG);
            }
        }
        MapKind::LpmTrie => {
            if spec.flags & flags::NO_PREALLOC == 0 || !(5..=260).contains(&spec.key_size) {
                return refuse(Errno::EINVAL);
            }
            if u64::from(spec.value_size) > KMALLOC_MAX - 64 - 256 {
                return refuse(Errno::E2BIG);
            }
        }
        MapKind::Queue | MapKind::Stack => {
            if u64::from(spec.value_size) > KMALLOC_MAX {
                return refuse(Errno::E2BIG);
            }
        }
        MapKind::BloomFilter => {
            if spec.map_extra > 15 {
                return refuse(Errno::EINVAL);
            }
            if u64::from(spec.value_size) > KMALLOC_MAX {
                return refuse(Errno::E2BIG);
            }
        }
        MapKind::StackTrace => {
            let frame = if spec.flags & flags::STACK_BUILD_ID != 0 { 32 } else { 8 };
            if !spec.value_size.is_multiple_of(8)
                || !spec.value_size.is_multiple_of(frame)
                || spec.value_size / frame > MAX_FRAMES
            {
                return refuse(Errno::EINVAL);
            }
            if spec.max_entries > 1 << 31 {
                return refuse(Errno::E2BIG);
            }
        }
        MapKind::Ringbuf | MapKind::UserRingbuf => {
            if !spec.max_entries.is_power_of_two() || !spec.max_entries.is_multiple_of(PAGE) {
                return refuse(Errno::EINVAL);
            }
        }
        MapKind::Devmap | MapKind::DevmapHash => {
            if !matches!(spec.value_size, 4 | 8) {
                return refuse(Errno::EINVAL);
            }
            if spec.kind == MapKind::DevmapHash && spec.max_entries > 1 << 31 {
                return refuse(Errno::EINVAL);
            }
        }
        MapKind::Cpumap => {
            if !matches!(spec.value_size, 4 | 8) {
                return refuse(Errno::EINVAL);
            }
            if spec.max_entries > 8192 {
                return refuse(Errno::E2BIG);
            }
        }
        MapKind::Sockmap | MapKind::Sockhash | MapKind::ReuseportSockarray => {
            if !matches!(spec.value_size, 4 | 8) {
                return refuse(Errno::EINVAL);
            }
            if spec.kind == MapKind::Sockhash && spec.key_size > 512 {
                return refuse(Errno::E2BIG);
            }
        }
        MapKind::TaskStorage | MapKind::SkStorage | MapKind::InodeStorage | MapKind::CgrpStorage => {
            if spec.flags & flags::NO_PREALLOC == 0 || spec.btf_key == 0 || spec.btf_value == 0 {
                return refuse(Errno::EINVAL);
            }
            if u64::from(spec.value_size) > 64 << 10 {
                return refuse(Errno::E2BIG);
            }
        }
        MapKind::CgroupStorage | MapKind::PercpuCgroupStorage => {
            if !matches!(spec.key_size, 8 | 16) {
                return refuse(Errno::EINVAL);
            }
            let max = if spec.kind == MapKind::CgroupStorage { PAGE } else { PERCPU_MAX };
            if spec.value_size > max {
                return refuse(Errno::E2BIG);
            }
        }
        MapKind::Arena => {
            if spec.flags & flags::MMAPABLE == 0 || spec.map_extra & u64::from(PAGE - 1) != 0 {
                return refuse(Errno::EINVAL);
            }
            if spec.max_entries > 1 << 20 {
                return refuse(Errno::E2BIG);
            }
        }
        MapKind::ProgArray
        | MapKind::ArrayOfMaps
        | MapKind::PerfEventArray
        | MapKind::CgroupArray
        | MapKind::Xskmap
        | MapKind::StructOps
        | MapKind::InsnArray => {}
    }
    Ok(())
}

/// Which maps can stand in maps of maps.
fn template(inner: Option<&MapSpec>) -> Result<(), MapError> {
    match inner.map(|inner| inner.kind) {
        None | Some(MapKind::ArrayOfMaps | MapKind::HashOfMaps) => refuse(Errno::EINVAL),
        Some(MapKind::ProgArray | MapKind::CgroupStorage | MapKind::PercpuCgroupStorage | MapKind::StructOps) => {
            refuse(Errno::ENOTSUPP)
        }
        Some(_) => Ok(()),
    }
}

/// Which special fields a kind's values may have (`map_check_btf`).
fn special_fields(spec: &MapSpec) -> Result<(), MapError> {
    if spec.fields.is_empty() {
        return Ok(());
    }
    if spec.flags & PROG != 0 {
        return refuse(Errno::EACCES);
    }
    for field in &spec.fields {
        let allowed: &[MapKind] = match field.kind {
            SpecialKind::SpinLock | SpecialKind::ResSpinLock => &[
                MapKind::Hash,
                MapKind::Array,
                MapKind::CgroupStorage,
                MapKind::SkStorage,
                MapKind::InodeStorage,
                MapKind::TaskStorage,
                MapKind::CgrpStorage,
            ],
            SpecialKind::Timer | SpecialKind::Workqueue | SpecialKind::TaskWork => {
                &[MapKind::Hash, MapKind::LruHash, MapKind::Array]
            }
            SpecialKind::KptrUntrusted(_)
            | SpecialKind::KptrRef(_)
            | SpecialKind::KptrPercpu(_)
            | SpecialKind::Refcount => &[
                MapKind::Hash,
                MapKind::PercpuHash,
                MapKind::LruHash,
                MapKind::LruPercpuHash,
                MapKind::Array,
                MapKind::PercpuArray,
                MapKind::SkStorage,
                MapKind::InodeStorage,
                MapKind::TaskStorage,
                MapKind::CgrpStorage,
            ],
            SpecialKind::Uptr(_) => &[MapKind::TaskStorage],
            SpecialKind::ListHead | SpecialKind::RbRoot | SpecialKind::ListNode | SpecialKind::RbNode => {
                &[MapKind::Hash, MapKind::LruHash, MapKind::Array]
            }
        };
        if !allowed.contains(&spec.kind) {
            return refuse(Errno::EOPNOTSUPP);
        }
    }
    Ok(())
}
