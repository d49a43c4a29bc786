//! The control plane: what `bpf(2)` does around the operations of a map, in its order of checks.
//!
//! Descriptors are the caller's: where a key or value is one, it says what it stands for. Errors are Linux 6.18's.

use std::sync::atomic::Ordering;

use rtbpf_abi::map_spec::flags as create_flags;
use rtbpf_abi::{Errno, MapKind};
use rtbpf_rt::RunCx;

use crate::access::KeyRef;
use crate::access::{ProgBytes, ProgOut};
use crate::array::Array;
use crate::map::{Map, MapRef, update as update_flags};
use crate::object::Object;

/// A key or value as user space hands it over.
#[derive(Clone, Copy, Debug)]
pub enum Given<'a> {
    /// A null pointer.
    Null,
    /// Bytes.
    Bytes(&'a [u8]),
    /// A descriptor, by what it stands for.
    Object(&'a Object),
}

impl Given<'_> {
    fn is_null(&self) -> bool {
        matches!(self, Given::Null)
    }
}

type Answer<T> = Result<T, Errno>;

fn check(ok: bool, errno: Errno) -> Answer<()> {
    if ok { Ok(()) } else { Err(errno) }
}

/// Whether the descriptor that created the map reads.
fn may_read(map: &dyn Map) -> bool {
    map.spec().flags & create_flags::WRONLY == 0
}

/// Whether it writes: never once the map is frozen.
fn may_write(map: &dyn Map) -> bool {
    map.spec().flags & create_flags::RDONLY == 0 && !map.head().is_frozen()
}

fn check_lock(map: &dyn Map, flags: u64) -> Answer<()> {
    check(flags & update_flags::F_LOCK == 0 || map.head().lock_offset().is_some(), Errno::EINVAL)
}

/// Bytes of a value as the control plane moves it.
pub fn value_bytes(map: &dyn Map) -> usize {
    let size = map.spec().value_size as usize;
    if map.spec().kind.is_percpu() { size.next_multiple_of(8) * map.head().slots() as usize } else { size }
}

fn is_keyed_by_owner(kind: MapKind) -> bool {
    matches!(kind, MapKind::TaskStorage | MapKind::SkStorage | MapKind::InodeStorage | MapKind::CgrpStorage)
}

/// The key as the map takes it: exactly `key_size` bytes, or the owner's number.
fn key_of(map: &dyn Map, key: Given<'_>) -> Answer<Vec<u8>> {
    let size = map.spec().key_size as usize;
    if size == 0 {
        return check(key.is_null(), Errno::EINVAL).map(|()| Vec::new());
    }
    match key {
        Given::Null => Err(Errno::EFAULT),
        Given::Object(owner) => map.owner_key(owner).map(|key| key.to_vec()).map_err(|error| error.errno()),
        Given::Bytes(_) if is_keyed_by_owner(map.spec().kind) => Err(Errno::EBADF),
        Given::Bytes(bytes) => exactly(bytes, size),
    }
}

fn exactly(bytes: &[u8], size: usize) -> Answer<Vec<u8>> {
    bytes.get(..size).map(<[u8]>::to_vec).ok_or(Errno::EFAULT)
}

/// `BPF_MAP_LOOKUP_ELEM`. `value_in` is what the value buffer holds before the call: a bloom filter tests it.
pub fn lookup(map: &dyn Map, cx: &RunCx, key: Given<'_>, flags: u64, value_in: Option<&[u8]>) -> Answer<Vec<u8>> {
    check(flags & !update_flags::F_LOCK == 0, Errno::EINVAL)?;
    check(may_read(map), Errno::EPERM)?;
    check_lock(map, flags)?;
    let key = key_of(map, key)?;
    let mut out = Vec::new();
    if map.spec().kind == MapKind::BloomFilter {
        let mut value = value_in.unwrap_or_default().to_vec();
        value.resize(map.spec().value_size as usize, 0);
        map.peek(cx, ProgOut::from(&mut value[..])).map_err(|error| error.errno())?;
        return Ok(value);
    }
    map.read(cx, &key, flags, &mut out).map_err(|error| error.errno())?;
    Ok(out)
}

/// `BPF_MAP_UPDATE_ELEM`.
pub fn update(map: &dyn Map, cx: &RunCx, key: Given<'_>, value: Given<'_>, flags: u64) -> Answer<()> {
    check(may_write(map), Errno::EPERM)?;
    check_lock(map, flags)?;
    // A descriptor is looked up once the value is here.
    check(!is_keyed_by_owner(map.spec().kind) || !value.is_null(), Errno::EFAULT)?;
    let key = key_of(map, key)?;
    store(map, cx, &key, value, flags)
}

fn store(map: &dyn Map, cx: &RunCx, key: &[u8], value: Given<'_>, flags: u64) -> Answer<()> {
    let done = match value {
        Given::Null if value_bytes(map) == 0 => map.update(cx, key, ProgBytes::from(&[][..]), flags),
        Given::Null => return Err(Errno::EFAULT),
        Given::Object(object) => map.update_object(cx, key, object, flags),
        Given::Bytes(bytes) => {
            let bytes = exactly(bytes, value_bytes(map))?;
            map.update(cx, key, ProgBytes::from(&bytes[..]), flags)
        }
    };
    done.map_err(|error| error.errno())
}

/// `BPF_MAP_DELETE_ELEM`.
pub fn delete(map: &dyn Map, cx: &RunCx, key: Given<'_>, flags: u64) -> Answer<()> {
    check(flags == 0, Errno::EINVAL)?;
    check(may_write(map), Errno::EPERM)?;
    let key = key_of(map, key)?;
    map.delete(cx, &key).map_err(|error| error.errno())
}

/// `BPF_MAP_GET_NEXT_KEY`.
pub fn next_key(map: &dyn Map, cx: &RunCx, key: Given<'_>) -> Answer<Vec<u8>> {
    check(may_read(map), Errno::EPERM)?;
    let key = match key {
        Given::Null => None,
        Given::Object(_) if is_keyed_by_owner(map.spec().kind) => Some(vec![0; 8]),
        given => Some(key_of(map, given)?),
    };
    let mut out = Vec::new();
    map.next_key(cx, key.as_deref(), &mut out).map_err(|error| error.errno())?;
    Ok(out)
}

/// `BPF_MAP_LOOKUP_AND_DELETE_ELEM`.
pub fn lookup_and_delete(map: &dyn Map, cx: &RunCx, key: Given<'_>, flags: u64) -> Answer<Vec<u8>> {
    check(flags & !update_flags::F_LOCK == 0, Errno::EINVAL)?;
    check(may_read(map) && may_write(map), Errno::EPERM)?;
    let fifo = matches!(map.spec().kind, MapKind::Queue | MapKind::Stack);
    check(flags == 0 || !fifo, Errno::EINVAL)?;
    check_lock(map, flags)?;
    // Nothing takes an owner's value, so nobody asks who the owner is.
    check(!is_keyed_by_owner(map.spec().kind) || key.is_null(), Errno::ENOTSUPP)?;
    let key = key_of(map, key)?;
    let mut out = Vec::new();
    map.take(cx, &key, flags, &mut out).map_err(|error| error.errno())?;
    Ok(out)
}

/// `BPF_MAP_FREEZE`.
pub fn freeze(map: &dyn Map) -> Answer<()> {
    check(map.spec().fields.is_empty(), Errno::ENOTSUPP)?;
    check(may_write(map), Errno::EPERM)?;
    check(map.head().writers().load(Ordering::Acquire) == 0, Errno::EBUSY)?;
    map.head().set_frozen();
    Ok(())
}

/// Overwrites part of an array's value in place, as a host does through a mapping; the bytes beside it are left alone.
///
/// EINVAL for kinds without plain values in place, ENOENT for an absent index, EFAULT when the range does not lie in the
/// value.
pub fn patch(map: &dyn Map, cx: &RunCx, key: KeyRef<'_>, off: usize, bytes: &[u8]) -> Result<(), crate::MapError> {
    if map.spec().kind != MapKind::Array || !map.spec().fields.is_empty() {
        return Err(Errno::EINVAL.into());
    }
    crate::access::patch(map, cx, key, off, bytes)
}

/// The attributes with what the verifier may assume of a frozen map that programs only read: its bytes.
pub fn assumed_spec(map: &dyn Map, cx: &RunCx) -> rtbpf_abi::MapSpec {
    let mut spec = map.spec().clone();
    if spec.kind == MapKind::Array && !spec.prog_writes() && map.head().is_frozen() {
        let mut bytes = Vec::new();
        let whole = (0..spec.max_entries).all(|index| map.read(cx, &index.to_le_bytes(), 0, &mut bytes).is_ok());
        spec.frozen = whole.then(|| bytes.into());
    }
    spec
}

/// A host mapping of a map. Keeps the map alive; a writable one keeps it from being frozen.
pub struct Mapping {
    map: MapRef,
    address: Option<u64>,
    writes: bool,
}

impl Mapping {
    /// Where the mapped bytes are in this process, for arrays and arenas.
    pub fn address(&self) -> Option<u64> {
        self.address
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // An arena that the host could once write to stays so: freezing it answers EBUSY from then on.
        if self.writes && self.map.spec().kind != MapKind::Arena {
            self.map.head().writers().fetch_sub(1, Ordering::AcqRel);
        }
    }
}

const PAGE: u64 = 4096;

/// `mmap` of a map's descriptor.
pub fn mmap(map: &MapRef, length: u64, writes: bool, offset: u64, shared: bool) -> Answer<Mapping> {
    let spec = map.spec();
    check(offset.is_multiple_of(PAGE) && length > 0, Errno::EINVAL)?;
    let kinds = [MapKind::Array, MapKind::Ringbuf, MapKind::UserRingbuf, MapKind::Arena];
    // The descriptor's own rights come first: the file system checks them.
    let no_rights =
        spec.flags & create_flags::WRONLY != 0 || writes && shared && spec.flags & create_flags::RDONLY != 0;
    check(!no_rights, Errno::EACCES)?;
    let mut address = None;
    let arena = map.as_any().downcast_ref::<crate::arena::Arena>();
    if let Some(arena) = arena {
        // An arena chooses its address, before anything else is looked at.
        arena.admit_host(length, offset / PAGE)?;
    }
    check(kinds.contains(&spec.kind) && spec.fields.is_empty(), Errno::ENOTSUPP)?;
    // What a descriptor may not write is never shared with its writers.
    check(shared && spec.flags & create_flags::RDONLY == 0, Errno::EINVAL)?;
    if writes {
        check(!map.head().is_frozen(), Errno::EPERM)?;
        check(spec.prog_writes(), Errno::EACCES)?;
    }
    let end = offset.checked_add(length.next_multiple_of(PAGE)).ok_or(Errno::EINVAL)?;
    match spec.kind {
        MapKind::Array => {
            check(spec.flags & create_flags::MMAPABLE != 0, Errno::EINVAL)?;
            let (base, bytes) =
                map.as_any().downcast_ref::<Array>().and_then(Array::host_view).ok_or(Errno::ENOTSUPP)?;
            check(end <= (bytes as u64).next_multiple_of(PAGE), Errno::EINVAL)?;
            address = Some(base + offset);
        }
        MapKind::Ringbuf => {
            // Only the reader's position may be written.
            check(!writes || offset == 0 && length.next_multiple_of(PAGE) == PAGE, Errno::EPERM)?;
            check(end <= 2 * PAGE + 2 * u64::from(spec.max_entries), Errno::EINVAL)?;
        }
        MapKind::UserRingbuf => {
            check(!writes || offset != 0, Errno::EPERM)?;
            check(end <= 2 * PAGE + 2 * u64::from(spec.max_entries), Errno::EINVAL)?;
        }
        MapKind::Arena => address = arena.map(|arena| arena.map_host(length)).transpose()?,
        _ => return Err(Errno::ENOTSUPP),
    }
    if writes {
        map.head().writers().fetch_add(1, Ordering::AcqRel);
    }
    Ok(Mapping { map: map.clone(), address, writes })
}

/// What a batch is asked.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Elements asked for, or given.
    pub count: u32,
    /// Where to go on: what the batch before answered.
    pub from: Option<Vec<u8>>,
    /// Flags of each element.
    pub elem_flags: u64,
    /// Flags of the batch.
    pub flags: u64,
}

/// What a batch answers.
#[derive(Clone, Debug, Default)]
pub struct Batched {
    /// Elements done; `None` when the caller's count is left as it was.
    pub count: Option<u32>,
    /// What was read.
    pub pairs: crate::batch::Pairs,
    /// Where the next batch goes on.
    pub next: Option<Vec<u8>>,
    /// Why it ended early; ENOENT at the end of the table.
    pub errno: Option<Errno>,
}

impl Batched {
    fn refused(errno: Errno) -> Batched {
        Batched { errno: Some(errno), ..Batched::default() }
    }
}

/// Which batches a kind has: lookup, lookup and delete, update, delete.
fn batches(kind: MapKind) -> [bool; 4] {
    match kind {
        MapKind::Hash | MapKind::PercpuHash | MapKind::LruHash | MapKind::LruPercpuHash | MapKind::HashOfMaps => {
            [true; 4]
        }
        MapKind::Array | MapKind::PercpuArray | MapKind::ArrayOfMaps => [true, false, true, false],
        MapKind::LpmTrie => [true, false, true, true],
        _ => [false; 4],
    }
}

fn check_batch(map: &dyn Map, which: usize, reads: bool, writes: bool, batch: &Batch) -> Answer<()> {
    check(!reads || may_read(map), Errno::EPERM)?;
    check(!writes || may_write(map), Errno::EPERM)?;
    check(batches(map.spec().kind)[which], Errno::ENOTSUPP)?;
    check(batch.elem_flags & !update_flags::F_LOCK == 0, Errno::EINVAL)?;
    check_lock(map, batch.elem_flags)
}

/// `BPF_MAP_LOOKUP_BATCH`, and `BPF_MAP_LOOKUP_AND_DELETE_BATCH` when `take` is set.
pub fn lookup_batch(map: &dyn Map, cx: &RunCx, batch: &Batch, take: bool) -> Batched {
    if let Err(errno) = check_batch(map, usize::from(take), true, take, batch) {
        return Batched::refused(errno);
    }
    match map.buckets() {
        // Tables look at the batch's flags; others do not.
        Some(_) if batch.flags != 0 => Batched::refused(Errno::EINVAL),
        _ if batch.count == 0 => Batched::default(),
        Some(buckets) => by_bucket(buckets, cx, batch, take),
        None => by_key(map, cx, batch),
    }
}

fn by_bucket(buckets: &dyn crate::batch::Buckets, cx: &RunCx, batch: &Batch, take: bool) -> Batched {
    let mut out = Batched { count: Some(0), ..Batched::default() };
    let from = batch.from.as_deref().and_then(|from| from.first_chunk()).map_or(0, |from| u32::from_le_bytes(*from));
    for bucket in from..buckets.bucket_count() {
        out.next = Some(bucket.to_le_bytes().to_vec());
        let room = batch.count - out.pairs.len() as u32;
        if let Err(error) = buckets.bucket(cx, bucket, room, take, &mut out.pairs) {
            // A bucket that no longer fits is for the next batch; one that never fits is an error.
            let done = error.errno() == Errno::ENOSPC && !out.pairs.is_empty();
            out.errno = (!done).then_some(error.errno());
            out.count = Some(out.pairs.len() as u32);
            return out;
        }
    }
    out.next = Some(buckets.bucket_count().to_le_bytes().to_vec());
    out.count = Some(out.pairs.len() as u32);
    out.errno = Some(Errno::ENOENT);
    out
}

fn by_key(map: &dyn Map, cx: &RunCx, batch: &Batch) -> Batched {
    let mut out = Batched { count: Some(0), ..Batched::default() };
    let mut last = batch.from.clone();
    while (out.pairs.len() as u32) < batch.count {
        let mut key = Vec::new();
        if let Err(error) = map.next_key(cx, last.as_deref(), &mut key) {
            out.errno = Some(error.errno());
            break;
        }
        let mut value = Vec::new();
        match map.read(cx, &key, batch.elem_flags, &mut value) {
            Ok(()) => out.pairs.push((key.clone(), value)),
            // Gone meanwhile, or an empty place.
            Err(error) if error.errno() == Errno::ENOENT => {}
            Err(error) => {
                out.errno = Some(error.errno());
                break;
            }
        }
        last = Some(key);
    }
    out.count = Some(out.pairs.len() as u32);
    out.next = last;
    out
}

/// `BPF_MAP_UPDATE_BATCH`. `pairs` has `batch.count` elements or more.
pub fn update_batch(map: &dyn Map, cx: &RunCx, batch: &Batch, pairs: &[(Given<'_>, Given<'_>)]) -> Batched {
    if let Err(errno) = check_batch(map, 2, false, true, batch) {
        return Batched::refused(errno);
    }
    each(batch, |at| {
        let (key, value) = pairs.get(at).copied().ok_or(Errno::EFAULT)?;
        let key = key_of(map, key)?;
        store(map, cx, &key, value, batch.elem_flags)
    })
}

/// `BPF_MAP_DELETE_BATCH`.
pub fn delete_batch(map: &dyn Map, cx: &RunCx, batch: &Batch, keys: &[Given<'_>]) -> Batched {
    if let Err(errno) = check_batch(map, 3, false, true, batch) {
        return Batched::refused(errno);
    }
    each(batch, |at| {
        let key = key_of(map, keys.get(at).copied().ok_or(Errno::EFAULT)?)?;
        map.delete(cx, &key).map_err(|error| error.errno())
    })
}

fn each(batch: &Batch, mut one: impl FnMut(usize) -> Answer<()>) -> Batched {
    if batch.count == 0 {
        return Batched::default();
    }
    for at in 0..batch.count {
        if let Err(errno) = one(at as usize) {
            return Batched { count: Some(at), errno: Some(errno), ..Batched::default() };
        }
    }
    Batched { count: Some(batch.count), ..Batched::default() }
}
