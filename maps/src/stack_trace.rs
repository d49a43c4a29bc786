//! `stack_trace`: call stacks by the hash of their frames.
//!
//! A bucket names an element of a pool. Who writes takes an element, fills it, and swaps it in; who reads from the
//! control plane swaps it out meanwhile. No lock; every step is one atomic operation.

use std::any::Any;
use std::sync::atomic::{AtomicU32, Ordering};

use rtbpf_abi::Errno;
use rtbpf_abi::map_spec::flags as create_flags;
use rtbpf_rt::RunCx;
use rtbpf_rt::freelist::{FreeLists, Links};

use crate::access::{Cell, KeyRef, ProgBytes, ValuePtr};
use crate::array::index_of;
use crate::hash::bump;
use crate::head::Head;
use crate::jhash::jhash;
use crate::map::{Map, MapError, UpdateFlags};
use crate::slab::{Pages, Slab, ZeroedArray};

/// Flags of [`StackTrace::id_of`] (`BPF_F_*`); the low byte is the number of frames to skip.
pub mod stack {
    #![allow(missing_docs)]
    pub const SKIP: u64 = 0xff;
    pub const USER: u64 = 1 << 8;
    pub const FAST_CMP: u64 = 1 << 9;
    pub const REUSE: u64 = 1 << 10;
}

const HASH: usize = 0;
const BYTES: usize = 4;
const FREE: usize = 8;
const HEADER: usize = 16;
/// Bytes per frame with build ids: status, build id, offset or address.
const BUILD_ID_FRAME: usize = 32;
/// Frames of a stack, at most (`perf_event_max_stack`).
const MAX_FRAMES: usize = 127;
/// The status of a frame for which only the address is known.
const STATUS_IP: u32 = 2;

struct Elements(Slab);

impl Links for Elements {
    fn link(&self, element: u32) -> &AtomicU32 {
        self.0.cell(element).atomic_u32(FREE)
    }
}

/// A map of call stacks.
pub struct StackTrace {
    head: Head,
    /// Element + 1, or 0.
    buckets: ZeroedArray<AtomicU32>,
    elements: Elements,
    free: FreeLists,
    /// Elements from here on were never used.
    fresh: AtomicU32,
}

impl StackTrace {
    pub(crate) fn new(head: Head, pages: Pages) -> Result<StackTrace, MapError> {
        let spec = head.spec();
        let count = spec.max_entries.checked_next_power_of_two().ok_or(Errno::E2BIG)?;
        let elements = Elements(Slab::new(spec.max_entries, HEADER + spec.value_size as usize, pages)?);
        let free = FreeLists::new(head.slots());
        let fresh = AtomicU32::new(0);
        Ok(StackTrace { buckets: ZeroedArray::new(count as usize, pages)?, elements, free, fresh, head })
    }

    fn bucket(&self, id: u32) -> Option<&AtomicU32> {
        ((id as usize) < self.buckets.len()).then(|| self.buckets.get(id as usize))
    }

    fn value(&self, element: u32) -> Cell<'_> {
        self.elements.0.cell(element).part(HEADER, self.head.spec().value_size as usize)
    }

    fn word(&self, element: u32, at: usize) -> &AtomicU32 {
        self.elements.0.cell(element).atomic_u32(at)
    }

    fn with_build_ids(&self) -> bool {
        self.head.spec().flags & create_flags::STACK_BUILD_ID != 0
    }

    /// Bytes of one stored frame.
    fn frame_bytes(&self) -> usize {
        if self.with_build_ids() { BUILD_ID_FRAME } else { 8 }
    }

    /// Writes the frames into an element.
    fn write(&self, element: u32, frames: &[u64]) {
        let value = self.value(element);
        for (i, frame) in frames.iter().enumerate() {
            let at = i * self.frame_bytes();
            if self.with_build_ids() {
                value.part(at, BUILD_ID_FRAME).zero();
                value.atomic_u32(at).store(STATUS_IP, Ordering::Relaxed);
                value.store_u64(at + BUILD_ID_FRAME - 8, *frame);
            } else {
                value.store_u64(at, *frame);
            }
        }
    }

    /// Whether an element holds these frames.
    fn holds(&self, element: u32, frames: &[u64]) -> bool {
        let value = self.value(element);
        let used = self.word(element, BYTES).load(Ordering::Relaxed) as usize;
        used == frames.len() * self.frame_bytes()
            && frames.iter().enumerate().all(|(i, frame)| value.load_u64((i + 1) * self.frame_bytes() - 8) == *frame)
    }

    /// Most frames a stack of this map has.
    pub fn max_frames(&self) -> usize {
        self.head.spec().value_size as usize / self.frame_bytes()
    }

    /// Stores the stack `frames`, innermost first, and answers its id (`bpf_get_stackid`). `flags` skip frames and say
    /// what happens when another stack has the same id: EEXIST, or it is replaced ([`stack::REUSE`]), or taken for
    /// equal ([`stack::FAST_CMP`]).
    pub fn id_of(&self, cx: &RunCx, frames: &[u64], flags: u64) -> Result<u32, MapError> {
        if flags & !(stack::SKIP | stack::USER | stack::FAST_CMP | stack::REUSE) != 0 {
            return Err(Errno::EINVAL.into());
        }
        let skip = (flags & stack::SKIP) as usize;
        let frames = frames.get(skip..).filter(|frames| !frames.is_empty()).ok_or(Errno::EFAULT)?;
        let frames = &frames[..frames.len().min(self.max_frames()).min(MAX_FRAMES)];
        // No allocation: handlers store stacks.
        let mut raw = [[0; 8]; MAX_FRAMES];
        raw.iter_mut().zip(frames).for_each(|(raw, frame)| *raw = frame.to_le_bytes());
        let hash = jhash(raw[..frames.len()].as_flattened(), 0);
        let id = hash & (self.buckets.len() as u32 - 1);
        let bucket = self.buckets.get(id as usize);
        if let Some(element) = bucket.load(Ordering::Acquire).checked_sub(1) {
            let same_hash = self.word(element, HASH).load(Ordering::Relaxed) == hash;
            if same_hash && flags & stack::FAST_CMP != 0 {
                return Ok(id);
            }
            if same_hash && self.holds(element, frames) {
                return Ok(id);
            }
            if flags & stack::REUSE == 0 {
                return Err(Errno::EEXIST.into());
            }
        }
        let fresh = || bump(&self.fresh, self.elements.0.count());
        let element = self.free.pop(&self.elements, cx.slot).or_else(fresh).ok_or(Errno::ENOMEM)?;
        self.word(element, HASH).store(hash, Ordering::Relaxed);
        self.word(element, BYTES).store((frames.len() * self.frame_bytes()) as u32, Ordering::Relaxed);
        self.write(element, frames);
        self.put_back(cx, bucket, element);
        Ok(id)
    }

    /// Puts `element` into `bucket`; what was there is free.
    fn put_back(&self, cx: &RunCx, bucket: &AtomicU32, element: u32) {
        // Release: who sees the element sees its frames. Acquire: we may reuse the one that comes out.
        if let Some(old) = bucket.swap(element + 1, Ordering::AcqRel).checked_sub(1) {
            self.free.push(&self.elements, cx.slot, old);
        }
    }

    fn read_element(&self, element: u32, out: &mut Vec<u8>) {
        let used = (self.word(element, BYTES).load(Ordering::Relaxed) as usize).min(self.value(element).len());
        let end = out.len() + self.value(element).len();
        self.value(element).part(0, used).append_to(out);
        out.resize(end, 0);
    }
}

impl Map for StackTrace {
    fn head(&self) -> &Head {
        &self.head
    }

    fn lookup(&self, _: &RunCx, _: KeyRef<'_>) -> Option<ValuePtr> {
        None
    }

    fn update(&self, _: &RunCx, _: KeyRef<'_>, _: ProgBytes<'_>, _: UpdateFlags) -> Result<(), MapError> {
        Err(Errno::EINVAL.into())
    }

    fn delete(&self, cx: &RunCx, key: KeyRef<'_>) -> Result<(), MapError> {
        let bucket = index_of(key).and_then(|id| self.bucket(id)).ok_or(Errno::E2BIG)?;
        let element = bucket.swap(0, Ordering::AcqRel).checked_sub(1).ok_or(Errno::ENOENT)?;
        self.free.push(&self.elements, cx.slot, element);
        Ok(())
    }

    fn next_key(&self, _: &RunCx, key: Option<KeyRef<'_>>, out: &mut Vec<u8>) -> Result<(), MapError> {
        let is_set = |id: u32| self.bucket(id).is_some_and(|bucket| bucket.load(Ordering::Acquire) != 0);
        let from = key.and_then(index_of).filter(|id| is_set(*id)).map_or(0, |id| id + 1);
        let next = (from..self.buckets.len() as u32).find(|id| is_set(*id)).ok_or(Errno::ENOENT)?;
        out.extend_from_slice(&next.to_le_bytes());
        Ok(())
    }

    fn read(&self, cx: &RunCx, key: KeyRef<'_>, _: u64, out: &mut Vec<u8>) -> Result<(), MapError> {
        let bucket = index_of(key).and_then(|id| self.bucket(id)).ok_or(Errno::ENOENT)?;
        // Ours alone while it is out; a program that comes in between stores the stack again.
        let element = bucket.swap(0, Ordering::AcqRel).checked_sub(1).ok_or(Errno::ENOENT)?;
        self.read_element(element, out);
        self.put_back(cx, bucket, element);
        Ok(())
    }

    fn take(&self, cx: &RunCx, key: KeyRef<'_>, _: u64, out: &mut Vec<u8>) -> Result<(), MapError> {
        let bucket = index_of(key).and_then(|id| self.bucket(id)).ok_or(Errno::ENOENT)?;
        let element = bucket.swap(0, Ordering::AcqRel).checked_sub(1).ok_or(Errno::ENOENT)?;
        self.read_element(element, out);
        self.free.push(&self.elements, cx.slot, element);
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtbpf_abi::{MapKind, MapSpec};

    const CX: RunCx = RunCx::program(0);

    fn map(value_size: u32, max_entries: u32, flags: u32) -> StackTrace {
        let mut spec = MapSpec::new(MapKind::StackTrace, 4, value_size, max_entries);
        spec.flags = flags;
        StackTrace::new(Head::new(spec, 2), Pages::OnTouch).expect("a page")
    }

    #[test]
    fn a_stack_is_found_again_under_its_id_and_padded() {
        let map = map(24, 8, 0);
        let id = map.id_of(&CX, &[7, 8], 0).expect("stored");
        assert_eq!(map.id_of(&CX, &[7, 8], 0), Ok(id));
        let mut value = Vec::new();
        map.read(&CX, &id.to_le_bytes(), 0, &mut value).expect("there");
        assert_eq!(value, [7u64.to_le_bytes(), 8u64.to_le_bytes(), [0; 8]].concat());
        assert_eq!(map.delete(&CX, &id.to_le_bytes()), Ok(()));
        assert_eq!(map.delete(&CX, &id.to_le_bytes()), Err(Errno::ENOENT.into()));
    }

    #[test]
    fn flags_decide_what_a_collision_does() {
        let map = map(8, 1, 0);
        assert_eq!(map.id_of(&CX, &[1], 0), Ok(0));
        assert_eq!(map.id_of(&CX, &[2], 0), Err(Errno::EEXIST.into()));
        assert_eq!(map.id_of(&CX, &[2], stack::REUSE), Err(Errno::ENOMEM.into()), "the one element is in the bucket");
        assert_eq!(map.id_of(&CX, &[2], 1 << 11), Err(Errno::EINVAL.into()));
        assert_eq!(map.id_of(&CX, &[2], 1), Err(Errno::EFAULT.into()), "every frame skipped");
    }

    #[test]
    fn build_id_frames_carry_the_address() {
        let map = map(64, 4, create_flags::STACK_BUILD_ID);
        let id = map.id_of(&CX, &[0x1234], 0).expect("stored");
        let mut value = Vec::new();
        map.read(&CX, &id.to_le_bytes(), 0, &mut value).expect("there");
        assert_eq!((&value[..4], &value[24..32]), (&[2, 0, 0, 0][..], &0x1234u64.to_le_bytes()[..]));
    }
}
