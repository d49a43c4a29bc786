//! What each kind of map may be: sizes, flags, special fields, and who may use it. One row a kind, and the one check
//! that the loader and the maps share.
//!
//! Measured on Linux 6.18 by creating maps, attribute by attribute.

use crate::errno::Errno;
use crate::map_kind::MapKind::{self, *};
use crate::map_spec::flags::*;
use crate::map_spec::{MapSpec, SpecialKind};

/// The largest element that one allocation holds, in bytes.
const ALLOC_MAX: u32 = 4 << 20;
/// The largest per-CPU value.
const PERCPU_MAX: u32 = 32 << 10;
/// The largest value of a local storage.
const STORAGE_MAX: u32 = 65_407;
/// Bytes that a hash element needs beside key and value.
const HASH_ELEM: u32 = 48;
/// Frames of one stack trace.
const STACK_FRAMES: u32 = 127;
const PAGE: u32 = 4096;

/// What a size may be. Zero is EINVAL where it is not the only choice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SizeRule {
    /// Nothing but 0.
    Zero,
    /// This size; any other is EINVAL.
    Is(u32),
    /// One of the two; any other is EINVAL.
    Either(u32, u32),
    /// From 1 to this size; beyond it, the error.
    UpTo(u32, Errno),
    /// Within both bounds; EINVAL outside.
    Within(u32, u32),
    /// Frames of 8 bytes, or 32 where a frame carries its build id.
    Frames,
    /// A power of two and whole pages; EINVAL otherwise.
    PowerOfTwoPages,
}

/// What type information may come with a map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BtfRule {
    /// None: ENOTSUPP.
    Unsupported,
    /// None, for want of a key: EINVAL.
    Invalid,
    /// Types of key and value with exactly their sizes.
    Optional,
    /// The type of the value alone.
    ValueOnly,
    /// The same as optional, and never absent.
    Required,
}

/// A set of [`SpecialKind`]s, by family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FieldSet(u8);

const NO_FIELDS: FieldSet = FieldSet(0);
/// `bpf_spin_lock`, `bpf_res_spin_lock`.
const LOCK: FieldSet = FieldSet(1);
/// `bpf_timer`, `bpf_wq`, `bpf_task_work`.
const LATER: FieldSet = FieldSet(2);
/// Kernel pointers of all sorts, reference counts, nodes of lists and trees.
const KPTR: FieldSet = FieldSet(4);
/// Pointers to user memory.
const UPTR: FieldSet = FieldSet(8);
/// Heads of lists and trees, which need a lock beside them.
const GRAPH: FieldSet = FieldSet(16);

impl FieldSet {
    const fn and(self, other: FieldSet) -> FieldSet {
        FieldSet(self.0 | other.0)
    }

    /// Whether a value may hold this field.
    pub const fn has(self, kind: SpecialKind) -> bool {
        let family = match kind {
            SpecialKind::SpinLock | SpecialKind::ResSpinLock => LOCK,
            SpecialKind::Timer | SpecialKind::Workqueue | SpecialKind::TaskWork => LATER,
            SpecialKind::KptrUntrusted(_) | SpecialKind::KptrRef(_) | SpecialKind::KptrPercpu(_) => KPTR,
            // Nodes do their work in allocated objects; in a map value they are just there.
            SpecialKind::Refcount | SpecialKind::ListNode | SpecialKind::RbNode => KPTR,
            SpecialKind::Uptr(_) => UPTR,
            SpecialKind::ListHead | SpecialKind::RbRoot => GRAPH,
        };
        self.0 & family.0 != 0
    }
}

/// The capability that creating a map of a kind takes where unprivileged users may use `bpf(2)` at all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Need {
    /// None.
    Nothing,
    /// CAP_BPF.
    Bpf,
    /// CAP_NET_ADMIN.
    NetAdmin,
}

/// One kind's rules.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct MapRules {
    /// The kind.
    pub kind: MapKind,
    /// Key bytes.
    pub key: SizeRule,
    /// Value bytes, per CPU.
    pub value: SizeRule,
    /// `max_entries`.
    pub entries: SizeRule,
    /// Flags that may be set.
    pub flags: u32,
    /// Flags that must be set.
    pub required: u32,
    /// Type information.
    pub btf: BtfRule,
    /// Special fields.
    pub fields: FieldSet,
    /// Who may create it.
    pub need: Need,
    /// Whether sleepable programs may use it.
    pub sleepable: bool,
}

// `max_entries`
const SOME: SizeRule = SizeRule::UpTo(u32::MAX, Errno::E2BIG);
const NONE: SizeRule = SizeRule::Zero;
const BUCKETS: SizeRule = SizeRule::UpTo(1 << 27, Errno::E2BIG);
const CPUS: SizeRule = SizeRule::UpTo(256, Errno::E2BIG);
const PAGES: SizeRule = SizeRule::UpTo(1 << 20, Errno::E2BIG);

// keys and values
const INDEX: SizeRule = SizeRule::Is(4);
const FD: SizeRule = SizeRule::Is(4);
const FD_OR_COOKIE: SizeRule = SizeRule::Either(4, 8);
const HASHED: SizeRule = SizeRule::UpTo(ALLOC_MAX - HASH_ELEM - 1, Errno::E2BIG);
const ELEMENT: SizeRule = SizeRule::UpTo(ALLOC_MAX, Errno::E2BIG);
const PERCPU: SizeRule = SizeRule::UpTo(PERCPU_MAX, Errno::E2BIG);
const STORAGE: SizeRule = SizeRule::UpTo(STORAGE_MAX, Errno::E2BIG);

// flags
const ACCESS: u32 = RDONLY | WRONLY;
const PROG: u32 = RDONLY_PROG | WRONLY_PROG;
const FDS: u32 = NUMA_NODE | ACCESS;
/// The node that stands for none (`NUMA_NO_NODE`).
const NO_NODE: u32 = u32::MAX;
const DATA: u32 = FDS | PROG;
const PERCPU_DATA: u32 = ACCESS | PROG;

// special fields
const HASH_FIELDS: FieldSet = LOCK.and(LATER).and(KPTR).and(GRAPH);
const LRU_FIELDS: FieldSet = LATER.and(KPTR);
const STORAGE_FIELDS: FieldSet = LOCK.and(KPTR);

use BtfRule::{Invalid, Optional, Required, Unsupported, ValueOnly};
use Need::{Bpf, NetAdmin, Nothing};

/// Every kind that Linux 6.18 creates, by number.
#[rustfmt::skip]
pub const RULES: &[MapRules] = &[
//       kind                 key     value   entries  flags                                  required     BTF          fields                needs     sleepable
    rule(Hash,                HASHED, HASHED, BUCKETS, DATA | NO_PREALLOC | ZERO_SEED,        0,           Optional,    HASH_FIELDS,          Nothing,  true),
    rule(Array,               INDEX,  ARRAY,  SOME,    DATA | MMAPABLE | INNER_MAP,           0,           Optional,    HASH_FIELDS,          Nothing,  true),
    rule(ProgArray,           INDEX,  FD,     SOME,    FDS,                                   0,           Optional,    NO_FIELDS,            Nothing,  false),
    rule(PerfEventArray,      INDEX,  FD,     SOME,    FDS | PRESERVE_ELEMS,                  0,           Unsupported, NO_FIELDS,            Nothing,  false),
    rule(PercpuHash,          HASHED, PERCPU, BUCKETS, PERCPU_DATA | NO_PREALLOC | ZERO_SEED, 0,           Optional,    KPTR,                 Nothing,  true),
    rule(PercpuArray,         INDEX,  PERCPU, SOME,    PERCPU_DATA,                           0,           Optional,    KPTR,                 Nothing,  true),
    rule(StackTrace,          INDEX,  FRAMES, SOME,    FDS | STACK_BUILD_ID,                  0,           Unsupported, NO_FIELDS,            Bpf,      false),
    rule(CgroupArray,         INDEX,  FD,     SOME,    FDS,                                   0,           Unsupported, NO_FIELDS,            Nothing,  false),
    rule(LruHash,             HASHED, HASHED, BUCKETS, DATA | NO_COMMON_LRU | ZERO_SEED,      0,           Optional,    LRU_FIELDS,           Bpf,      true),
    rule(LruPercpuHash,       HASHED, PERCPU, BUCKETS, PERCPU_DATA | NO_COMMON_LRU | ZERO_SEED, 0,         Optional,    KPTR,                 Bpf,      true),
    rule(LpmTrie,             PREFIX, LEAF,   SOME,    DATA | NO_PREALLOC,                    NO_PREALLOC, Optional,    NO_FIELDS,            Bpf,      false),
    rule(ArrayOfMaps,         INDEX,  FD,     SOME,    FDS,                                   0,           Unsupported, NO_FIELDS,            Nothing,  true),
    rule(HashOfMaps,          HASHED, FD,     BUCKETS, DATA | NO_PREALLOC | ZERO_SEED,        0,           Unsupported, NO_FIELDS,            Nothing,  true),
    rule(Devmap,              INDEX,  FD_OR_COOKIE, SOME, FDS,                                0,           Unsupported, NO_FIELDS,            NetAdmin, false),
    rule(Sockmap,             INDEX,  FD_OR_COOKIE, SOME, FDS,                                0,           Unsupported, NO_FIELDS,            NetAdmin, false),
    rule(Cpumap,              INDEX,  FD_OR_COOKIE, CPUS, NUMA_NODE,                          0,           Unsupported, NO_FIELDS,            Bpf,      false),
    rule(Xskmap,              INDEX,  FD,     SOME,    FDS,                                   0,           Unsupported, NO_FIELDS,            NetAdmin, false),
    rule(Sockhash,            SOCKKEY, FD_OR_COOKIE, SOME, FDS,                               0,           Unsupported, NO_FIELDS,            NetAdmin, false),
    rule(CgroupStorage,       CGROUP, STORAGE, NONE,   DATA,                                  0,           Optional,    LOCK,                 Nothing,  false),
    rule(ReuseportSockarray,  INDEX,  FD_OR_COOKIE, SOME, DATA,                               0,           Optional,    NO_FIELDS,            Bpf,      false),
    rule(PercpuCgroupStorage, CGROUP, PERCPU, NONE,    DATA,                                  0,           Optional,    NO_FIELDS,            Nothing,  false),
    rule(Queue,               NONE,   ELEMENT, SOME,   DATA,                                  0,           Invalid,     NO_FIELDS,            Bpf,      true),
    rule(Stack,               NONE,   ELEMENT, SOME,   DATA,                                  0,           Invalid,     NO_FIELDS,            Bpf,      true),
    rule(SkStorage,           FD,     STORAGE, NONE,   NO_PREALLOC | CLONE,                   NO_PREALLOC, Required,    STORAGE_FIELDS,       Bpf,      true),
    rule(DevmapHash,          INDEX,  FD_OR_COOKIE, SOME, FDS,                                0,           Unsupported, NO_FIELDS,            NetAdmin, false),
    rule(Ringbuf,             NONE,   NONE,   RING,    NUMA_NODE,                             0,           Invalid,     NO_FIELDS,            Nothing,  true),
    rule(InodeStorage,        FD,     STORAGE, NONE,   NO_PREALLOC | CLONE,                   NO_PREALLOC, Required,    STORAGE_FIELDS,       Bpf,      true),
    rule(TaskStorage,         FD,     STORAGE, NONE,   NO_PREALLOC | CLONE,                   NO_PREALLOC, Required,    STORAGE_FIELDS.and(UPTR), Bpf,  true),
    rule(BloomFilter,         NONE,   ELEMENT, SOME,   DATA | ZERO_SEED,                      0,           ValueOnly,   NO_FIELDS,            Bpf,      false),
    rule(UserRingbuf,         NONE,   NONE,   RING,    NUMA_NODE,                             0,           Invalid,     NO_FIELDS,            Nothing,  true),
    rule(CgrpStorage,         FD,     STORAGE, NONE,   NO_PREALLOC | CLONE,                   NO_PREALLOC, Required,    STORAGE_FIELDS,       Bpf,      true),
    rule(Arena,               NONE,   NONE,   PAGES,   MMAPABLE | SEGV_ON_FAULT | NO_USER_CONV, MMAPABLE,  Invalid,     NO_FIELDS,            Bpf,      true),
];

const ARRAY: SizeRule = SizeRule::UpTo(i32::MAX as u32, Errno::E2BIG);
const FRAMES: SizeRule = SizeRule::Frames;
const RING: SizeRule = SizeRule::PowerOfTwoPages;
/// A 4-byte prefix length and 1 to 256 bytes of data.
const PREFIX: SizeRule = SizeRule::Within(5, 260);
const LEAF: SizeRule = SizeRule::Within(1, ALLOC_MAX - 280);
const SOCKKEY: SizeRule = SizeRule::UpTo(512, Errno::E2BIG);
/// A cgroup's id, or id and attach type.
const CGROUP: SizeRule = SizeRule::Either(8, 16);

#[allow(clippy::too_many_arguments)] // columns of a table
const fn rule(
    kind: MapKind,
    key: SizeRule,
    value: SizeRule,
    entries: SizeRule,
    flags: u32,
    required: u32,
    btf: BtfRule,
    fields: FieldSet,
    need: Need,
    sleepable: bool,
) -> MapRules {
    MapRules { kind, key, value, entries, flags, required, btf, fields, need, sleepable }
}

/// Who creates a map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Creator {
    /// CAP_BPF.
    pub bpf: bool,
    /// CAP_NET_ADMIN.
    pub net_admin: bool,
    /// CAP_SYS_ADMIN.
    pub sys_admin: bool,
    /// `kernel.unprivileged_bpf_disabled`.
    pub unpriv_disabled: u8,
}

impl Creator {
    /// All capabilities.
    pub const ROOT: Creator = Creator { bpf: true, net_admin: true, sys_admin: true, unpriv_disabled: 2 };
    /// No capability, where unprivileged users are shut out.
    pub const NOBODY: Creator = Creator { bpf: false, net_admin: false, sys_admin: false, unpriv_disabled: 2 };
}

impl MapRules {
    /// The rules of this kind; `None` for kinds that Linux 6.18 does not create (struct_ops without a kernel type,
    /// instruction arrays).
    pub fn of(kind: MapKind) -> Option<&'static MapRules> {
        RULES.iter().find(|rules| rules.kind == kind)
    }
}

impl SizeRule {
    /// Whether the size has the right shape, however large it is.
    fn has_shape(self, size: u32, flags: u32) -> bool {
        match self {
            SizeRule::Zero => size == 0,
            SizeRule::Is(only) => size == only,
            SizeRule::Either(a, b) => size == a || size == b,
            SizeRule::UpTo(..) => size > 0,
            SizeRule::Within(low, high) => (low..=high).contains(&size),
            SizeRule::Frames => {
                let frame = if flags & STACK_BUILD_ID != 0 { 32 } else { 8 };
                size > 0 && size.is_multiple_of(frame) && size / frame <= STACK_FRAMES
            }
            SizeRule::PowerOfTwoPages => size.is_power_of_two() && size.is_multiple_of(PAGE),
        }
    }

    /// Whether the size is not too large.
    fn check_bound(self, size: u32) -> Result<(), Errno> {
        match self {
            SizeRule::UpTo(max, errno) if size > max => Err(errno),
            SizeRule::UpTo(..)
            | SizeRule::Zero
            | SizeRule::Is(_)
            | SizeRule::Either(..)
            | SizeRule::Within(..)
            | SizeRule::Frames
            | SizeRule::PowerOfTwoPages => Ok(()),
        }
    }
}

/// Whether a map may be created with these attributes by this caller, or the errno that `BPF_MAP_CREATE` gives.
///
/// Attributes are judged before or after privilege, as the kind has it, then the inner map, the name and the value's
/// special fields. Linux takes other names than letters, digits, `_` and `.`, and longer ones than 15 bytes, for EINVAL;
/// so do we, unless the name is longer because nobody will hand it to Linux ([`MapSpec::name`]).
pub fn check(spec: &MapSpec, creator: Creator) -> Result<(), Errno> {
    let rules = MapRules::of(spec.kind).ok_or(Errno::EINVAL)?;
    check_access_and_node(spec)?;
    if is_judged_as_it_is_made(spec.kind) {
        if extra_rule(spec.kind).is_none() {
            check_extra(spec)?;
        }
        check_creator(rules, spec, creator)?;
        check_attributes(rules, spec)?;
    } else {
        check_seed(rules, spec, creator)?;
        check_attributes(rules, spec)?;
        check_creator(rules, spec, creator)?;
    }
    check_inner(spec)?;
    check_name(&spec.name)?;
    check_fields(rules, spec)
}

/// Whether the attributes that are the kind's own are judged when the caller was found to have the right to make it.
fn is_judged_as_it_is_made(kind: MapKind) -> bool {
    matches!(
        kind,
        StackTrace
            | LpmTrie
            | Sockmap
            | Sockhash
            | Cpumap
            | Xskmap
            | CgroupStorage
            | PercpuCgroupStorage
            | BloomFilter
            | Ringbuf
            | UserRingbuf
            | Arena
    )
}

fn check_attributes(rules: &MapRules, spec: &MapSpec) -> Result<(), Errno> {
    check_extra(spec)?;
    let cgroup = matches!(spec.kind, CgroupStorage | PercpuCgroupStorage);
    // Three kinds look at the size of their values before their flags, and one of them before its key.
    if spec.kind == BloomFilter || cgroup && rules.key.has_shape(spec.key_size, 0) {
        rules.value.check_bound(spec.value_size)?;
    }
    check_flags(rules, spec)?;
    if rules.btf == Required && (spec.btf_key == 0 || spec.btf_value == 0) {
        return Err(Errno::EINVAL);
    }
    check_sizes(rules, spec)?;
    check_extent(spec)
}

/// Whether types of these sizes describe the map's key and value (`None`: no type given), as `BPF_MAP_CREATE` with
/// BTF judges them: sizes, then the special fields, then what the kind makes of types.
pub fn check_btf(spec: &MapSpec, key_type: Option<u32>, value_type: Option<u32>) -> Result<(), Errno> {
    let rules = MapRules::of(spec.kind).ok_or(Errno::EINVAL)?;
    if key_type.is_none() && value_type.is_none() {
        return if rules.btf == Required { Err(Errno::EINVAL) } else { Ok(()) };
    }
    if value_type != Some(spec.value_size) {
        return Err(Errno::EINVAL);
    }
    let good_key = match key_type {
        Some(size) => size == spec.key_size,
        // Kinds that look at types themselves do so after the fields; for the others a key has a type.
        None => matches!(rules.btf, Unsupported | ValueOnly) || looks_at_key_last(spec.kind),
    };
    if !good_key {
        return Err(Errno::EINVAL);
    }
    check_fields(rules, spec)?;
    match rules.btf {
        Unsupported => Err(Errno::ENOTSUPP),
        Invalid => Err(Errno::EINVAL),
        Optional | Required if key_type.is_none() => Err(Errno::EINVAL),
        ValueOnly if key_type.is_some() => Err(Errno::EINVAL),
        Optional | Required | ValueOnly => Ok(()),
    }
}

/// Of the kinds that may have types: those that look at the key's after the value's fields.
fn looks_at_key_last(kind: MapKind) -> bool {
    matches!(kind, Array | PercpuArray | LpmTrie | CgroupStorage | PercpuCgroupStorage)
}

fn check_name(name: &str) -> Result<(), Errno> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'.';
    if name.bytes().all(good) { Ok(()) } else { Err(Errno::EINVAL) }
}

/// Shapes are judged before bounds, in all three sizes.
fn check_sizes(rules: &MapRules, spec: &MapSpec) -> Result<(), Errno> {
    let sizes = [(rules.key, spec.key_size), (rules.value, spec.value_size), (rules.entries, spec.max_entries)];
    if !sizes.iter().all(|(rule, size)| rule.has_shape(*size, spec.flags)) {
        return Err(Errno::EINVAL);
    }
    for (rule, size) in sizes {
        rule.check_bound(size)?;
    }
    if rules.key == HASHED && spec.key_size.saturating_add(spec.value_size) >= ALLOC_MAX - HASH_ELEM {
        return Err(Errno::E2BIG);
    }
    Ok(())
}

/// What is judged of flags before anything that is the kind's own.
fn check_access_and_node(spec: &MapSpec) -> Result<(), Errno> {
    let offline_node = spec.flags & NUMA_NODE != 0 && !matches!(spec.numa_node, 0 | NO_NODE);
    if spec.flags & ACCESS == ACCESS || offline_node { Err(Errno::EINVAL) } else { Ok(()) }
}

fn check_flags(rules: &MapRules, spec: &MapSpec) -> Result<(), Errno> {
    let lru = matches!(spec.kind, LruHash | LruPercpuHash);
    // Per-CPU values are where their CPU is: they may say so only by naming no node.
    let no_node = spec.kind.is_percpu() && spec.numa_node == NO_NODE;
    let known = rules.flags | TOKEN_FD | if no_node { NUMA_NODE } else { 0 };
    // That every table may be told not to allocate, and where it lies, is known before it is an LRU or has CPUs.
    let of_a_table = known | if lru { NO_PREALLOC | NUMA_NODE } else { 0 };
    let lacks_required = spec.flags & rules.required != rules.required;
    if spec.flags & !of_a_table != 0 || lacks_required || spec.flags & PROG == PROG {
        return Err(Errno::EINVAL);
    }
    if lru && spec.flags & NO_PREALLOC != 0 {
        return Err(Errno::ENOTSUPP);
    }
    let lists_of_cpus =
        lru && spec.flags & NO_COMMON_LRU != 0 && spec.flags & NUMA_NODE != 0 && spec.numa_node != NO_NODE;
    if spec.flags & !known != 0 || lists_of_cpus { Err(Errno::EINVAL) } else { Ok(()) }
}

/// What a kind that gives `map_extra` a meaning takes for it.
fn extra_rule(kind: MapKind) -> Option<fn(u64) -> bool> {
    match kind {
        BloomFilter => Some(|hashes| hashes <= 15),
        Arena => Some(|address| address.is_multiple_of(u64::from(PAGE))),
        _ => None,
    }
}

fn check_extra(spec: &MapSpec) -> Result<(), Errno> {
    let good = extra_rule(spec.kind).map_or(spec.map_extra == 0, |rule| rule(spec.map_extra));
    if good { Ok(()) } else { Err(Errno::EINVAL) }
}

/// An arena with an address must not cross a multiple of 4 GiB: programs know the lower halves of addresses.
fn check_extent(spec: &MapSpec) -> Result<(), Errno> {
    let last = spec.map_extra.wrapping_add(u64::from(spec.max_entries) * u64::from(PAGE)).wrapping_sub(1);
    if spec.kind == Arena && spec.map_extra >> 32 != last >> 32 { Err(Errno::ERANGE) } else { Ok(()) }
}

fn check_inner(spec: &MapSpec) -> Result<(), Errno> {
    if !spec.kind.is_map_in_map() {
        return Ok(());
    }
    match spec.inner.as_deref().map(|inner| inner.kind) {
        None | Some(ArrayOfMaps | HashOfMaps) => Err(Errno::EINVAL),
        Some(ProgArray | CgroupStorage | PercpuCgroupStorage | StructOps) => Err(Errno::ENOTSUPP),
        Some(_) => Ok(()),
    }
}

/// Tables judge who asks for no seed before anything else that is theirs.
fn check_seed(rules: &MapRules, spec: &MapSpec, creator: Creator) -> Result<(), Errno> {
    let unseeded = rules.flags & spec.flags & ZERO_SEED != 0;
    if unseeded && !creator.sys_admin { Err(Errno::EPERM) } else { Ok(()) }
}

fn check_creator(rules: &MapRules, spec: &MapSpec, creator: Creator) -> Result<(), Errno> {
    // A token stands for privilege, and there are none here.
    if spec.flags & TOKEN_FD != 0 {
        return Err(Errno::EINVAL);
    }
    let shut_out = creator.unpriv_disabled != 0 && !creator.bpf;
    let lacks = match rules.need {
        Nothing => false,
        Bpf => !creator.bpf,
        NetAdmin => !creator.net_admin,
    };
    if shut_out || lacks { Err(Errno::EPERM) } else { Ok(()) }
}

fn check_fields(rules: &MapRules, spec: &MapSpec) -> Result<(), Errno> {
    // Programs may only read what these hold, whatever they were created with.
    let read_only = matches!(spec.kind, Devmap | DevmapHash);
    if !spec.fields.is_empty() && (read_only || spec.flags & PROG != 0) {
        return Err(Errno::EACCES);
    }
    for field in &spec.fields {
        let end = u64::from(field.off) + u64::from(field.kind.size());
        if end > u64::from(spec.value_size) {
            return Err(Errno::EINVAL);
        }
        if !rules.fields.has(field.kind) {
            return Err(if rules.btf == Invalid { Errno::EINVAL } else { Errno::EOPNOTSUPP });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map_spec::SpecialField;

    /// A map of this kind that Linux creates.
    fn canonical(kind: MapKind) -> MapSpec {
        let pick = |rule: SizeRule| match rule {
            SizeRule::Zero => 0,
            SizeRule::Is(n) | SizeRule::Either(_, n) | SizeRule::Within(n, _) => n,
            SizeRule::UpTo(..) => 4,
            SizeRule::Frames => 8,
            SizeRule::PowerOfTwoPages => 4096,
        };
        let rules = MapRules::of(kind).expect("the kind has rules");
        let mut spec = MapSpec::new(kind, pick(rules.key), pick(rules.value), pick(rules.entries));
        spec.flags = rules.required;
        if rules.btf == Required {
            (spec.btf_key, spec.btf_value) = (1, 2);
        }
        if kind.is_map_in_map() {
            spec.inner = Some(Box::new(MapSpec::new(Array, 4, 4, 4)));
        }
        spec
    }

    #[track_caller]
    fn check_with(kind: MapKind, change: impl Fn(&mut MapSpec), expected: Result<(), Errno>) {
        let mut spec = canonical(kind);
        change(&mut spec);
        assert_eq!(check(&spec, Creator::ROOT), expected, "{spec:?}");
    }

    #[test]
    fn every_row_creates_a_map() {
        for rules in RULES {
            check_with(rules.kind, |_| {}, Ok(()));
        }
    }

    #[test]
    fn numbers_follow_in_order() {
        assert!(RULES.is_sorted_by_key(|rules| rules.kind.number()));
    }

    #[test]
    fn sizes_end_where_linux_ends_them() {
        let e2big = Err(Errno::E2BIG);
        let einval = Err(Errno::EINVAL);
        check_with(Hash, |m| m.value_size = 4_194_251, Ok(()));
        check_with(Hash, |m| m.value_size = 4_194_252, e2big);
        check_with(Hash, |m| (m.key_size, m.value_size) = (16, 4_194_240), e2big);
        check_with(Hash, |m| m.key_size = 0, einval);
        check_with(Hash, |m| m.max_entries = 1 << 31, e2big);
        check_with(PercpuHash, |m| m.value_size = 32_768, Ok(()));
        check_with(PercpuHash, |m| m.value_size = 32_769, e2big);
        check_with(PercpuHash, |m| m.key_size = 4_194_252, e2big);
        check_with(Hash, |m| (m.value_size, m.max_entries) = (1 << 31, 0), einval);
        check_with(Array, |m| m.value_size = 1 << 31, e2big);
        check_with(Array, |m| m.key_size = 5, einval);
        check_with(StackTrace, |m| m.value_size = 1016, Ok(()));
        check_with(StackTrace, |m| m.value_size = 1024, einval);
        check_with(StackTrace, |m| (m.flags, m.value_size) = (STACK_BUILD_ID, 40), einval);
        check_with(LpmTrie, |m| m.key_size = 261, einval);
        check_with(LpmTrie, |m| m.value_size = 4_194_024, Ok(()));
        check_with(LpmTrie, |m| m.value_size = 4_194_025, einval);
        check_with(Sockhash, |m| m.key_size = 513, e2big);
        check_with(Queue, |m| m.value_size = (4 << 20) + 1, e2big);
        check_with(Queue, |m| m.key_size = 4, einval);
        check_with(Ringbuf, |m| m.max_entries = 12_288, einval);
        check_with(Arena, |m| m.max_entries = (1 << 20) + 1, e2big);
        check_with(Cpumap, |m| m.max_entries = 257, e2big);
        check_with(TaskStorage, |m| m.value_size = 65_408, e2big);
        check_with(TaskStorage, |m| m.max_entries = 1, einval);
    }

    #[test]
    fn flags_are_those_of_the_kind() {
        let einval = Err(Errno::EINVAL);
        check_with(Hash, |m| m.flags = NO_PREALLOC | ZERO_SEED, Ok(()));
        check_with(Hash, |m| m.flags = NO_COMMON_LRU, einval);
        check_with(Hash, |m| m.flags = 1 << 31, einval);
        check_with(Hash, |m| m.flags = RDONLY | WRONLY, einval);
        check_with(Hash, |m| m.flags = PROG, einval);
        check_with(Hash, |m| (m.flags, m.numa_node) = (NUMA_NODE, 7), einval);
        check_with(Hash, |m| m.numa_node = 7, Ok(()));
        for kind in [Hash, PercpuHash, PercpuArray, Ringbuf] {
            check_with(kind, |m| (m.flags, m.numa_node) = (NUMA_NODE, NO_NODE), Ok(()));
        }
        check_with(SkStorage, |m| (m.flags, m.numa_node) = (m.flags | NUMA_NODE, NO_NODE), einval);
        check_with(BloomFilter, |m| (m.key_size, m.value_size) = (3, 1 << 23), Err(Errno::E2BIG));
        check_with(BloomFilter, |m| (m.flags, m.value_size) = (RDONLY | WRONLY, 1 << 23), einval);
        check_with(CgroupStorage, |m| (m.flags, m.value_size) = (TOKEN_FD, 1 << 23), einval);
        check_with(Hash, |m| (m.flags, m.value_size) = (TOKEN_FD, 1 << 23), Err(Errno::E2BIG));
        check_with(SkStorage, |m| (m.btf_value, m.value_size) = (0, 1 << 23), einval);
        check_with(LruHash, |m| m.flags = NO_PREALLOC, Err(Errno::ENOTSUPP));
        check_with(LpmTrie, |m| m.flags = 0, einval);
        check_with(Array, |m| m.flags = MMAPABLE | INNER_MAP, Ok(()));
        check_with(PercpuArray, |m| m.flags = NUMA_NODE, einval);
        check_with(Ringbuf, |m| m.flags = RDONLY, einval);
        check_with(SkStorage, |m| m.btf_value = 0, einval);
        check_with(BloomFilter, |m| m.map_extra = 16, einval);
        check_with(Hash, |m| m.map_extra = 1, einval);
        check_with(Array, |m| m.name = "bad-name".into(), einval);
    }

    #[test]
    fn inner_maps_are_no_maps_of_maps() {
        let with = |kind| move |m: &mut MapSpec| m.inner = Some(Box::new(canonical(kind)));
        check_with(HashOfMaps, with(LpmTrie), Ok(()));
        check_with(HashOfMaps, with(ProgArray), Err(Errno::ENOTSUPP));
        check_with(ArrayOfMaps, with(CgroupStorage), Err(Errno::ENOTSUPP));
        check_with(ArrayOfMaps, with(HashOfMaps), Err(Errno::EINVAL));
        check_with(ArrayOfMaps, |m| m.inner = None, Err(Errno::EINVAL));
    }

    #[test]
    fn special_fields_stand_where_linux_allows_them() {
        let with = |kind| {
            move |m: &mut MapSpec| {
                m.value_size = 40;
                m.fields = vec![SpecialField { off: 0, kind }];
            }
        };
        let unsupported = Err(Errno::EOPNOTSUPP);
        check_with(Hash, with(SpecialKind::SpinLock), Ok(()));
        check_with(LruHash, with(SpecialKind::SpinLock), unsupported);
        check_with(LruHash, with(SpecialKind::Timer), Ok(()));
        check_with(PercpuHash, with(SpecialKind::KptrRef(1)), Ok(()));
        check_with(PercpuHash, with(SpecialKind::Timer), unsupported);
        check_with(LpmTrie, with(SpecialKind::SpinLock), unsupported);
        check_with(Queue, with(SpecialKind::SpinLock), Err(Errno::EINVAL));
        check_with(TaskStorage, with(SpecialKind::Uptr(1)), Ok(()));
        check_with(SkStorage, with(SpecialKind::Uptr(1)), unsupported);
        check_with(Hash, with(SpecialKind::RbRoot), Ok(()));
        check_with(LruHash, with(SpecialKind::ListHead), unsupported);
        check_with(LruHash, with(SpecialKind::ListNode), Ok(()));
        let read_only = |m: &mut MapSpec| {
            with(SpecialKind::SpinLock)(m);
            m.flags |= RDONLY_PROG;
        };
        check_with(Array, read_only, Err(Errno::EACCES));
        check_with(Array, |m| m.fields = vec![SpecialField { off: 2, kind: SpecialKind::Timer }], Err(Errno::EINVAL));
    }

    #[test]
    fn attributes_are_judged_before_privilege() {
        let mut spec = canonical(Hash);
        assert_eq!(check(&spec, Creator::NOBODY), Err(Errno::EPERM));
        spec.max_entries = 0;
        assert_eq!(check(&spec, Creator::NOBODY), Err(Errno::EINVAL));
        let user = Creator { unpriv_disabled: 0, ..Creator::NOBODY };
        assert_eq!(check(&canonical(Array), user), Ok(()));
        assert_eq!(check(&canonical(LpmTrie), user), Err(Errno::EPERM));
        assert_eq!(check(&canonical(Sockmap), Creator { bpf: true, ..user }), Err(Errno::EPERM));
    }

    #[test]
    fn some_attributes_are_judged_after_privilege() {
        let nobody = |kind, change: fn(&mut MapSpec)| {
            let mut spec = canonical(kind);
            change(&mut spec);
            check(&spec, Creator::NOBODY)
        };
        let (einval, eperm) = (Err(Errno::EINVAL), Err(Errno::EPERM));
        assert_eq!(nobody(LpmTrie, |m| m.flags = 0), eperm);
        assert_eq!(nobody(LpmTrie, |m| m.map_extra = 1), einval);
        assert_eq!(nobody(LpmTrie, |m| m.flags |= TOKEN_FD), einval);
        assert_eq!(nobody(Arena, |m| m.map_extra = 1), eperm);
        assert_eq!(nobody(Ringbuf, |m| m.max_entries = 5), eperm);
        assert_eq!(nobody(Hash, |m| m.flags = ZERO_SEED | INNER_MAP), eperm);
        assert_eq!(nobody(Hash, |m| m.flags = ZERO_SEED | ACCESS), einval);
        assert_eq!(nobody(Array, |m| m.flags = ZERO_SEED), einval);
        assert_eq!(nobody(ArrayOfMaps, |m| m.inner = None), eperm);
        assert_eq!(nobody(Array, |m| m.name = "bad-name".into()), eperm);
        // Names come after all of it.
        let named = |kind, change: fn(&mut MapSpec), expected| {
            let change = |m: &mut MapSpec| {
                m.name = "bad-name".into();
                change(m);
            };
            check_with(kind, change, expected);
        };
        named(LruHash, |m| m.flags = NO_PREALLOC, Err(Errno::ENOTSUPP));
        named(PercpuHash, |m| m.value_size = 40_000, Err(Errno::E2BIG));
    }

    #[test]
    fn types_have_the_sizes_of_key_and_value() {
        let of = |kind| check_btf(&canonical(kind), Some(canonical(kind).key_size), Some(canonical(kind).value_size));
        assert_eq!(of(Hash), Ok(()));
        assert_eq!(of(Devmap), Err(Errno::ENOTSUPP));
        assert_eq!(of(Queue), Err(Errno::EINVAL));
        assert_eq!(check_btf(&canonical(Hash), Some(4), Some(8)), Err(Errno::EINVAL));
        assert_eq!(check_btf(&canonical(Hash), Some(4), None), Err(Errno::EINVAL));
        assert_eq!(check_btf(&canonical(Hash), None, None), Ok(()));
        assert_eq!(check_btf(&canonical(TaskStorage), None, None), Err(Errno::EINVAL));
        assert_eq!(check_btf(&canonical(BloomFilter), None, Some(4)), Ok(()));
    }

    #[test]
    fn nothing_overflows_at_the_ends() {
        for rules in RULES {
            for size in [0, 1, u32::MAX] {
                let mut spec = MapSpec::new(rules.kind, size, size, size);
                (spec.flags, spec.map_extra) = (u32::MAX, u64::MAX);
                spec.fields = vec![SpecialField { off: u32::MAX, kind: SpecialKind::RbNode }];
                assert!(check(&spec, Creator::ROOT).is_err());
                spec.flags = rules.required;
                spec.map_extra = 0;
                assert!(check(&spec, Creator::ROOT).is_err());
            }
        }
    }
}
