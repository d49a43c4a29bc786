//! Type-stable memory: mapped when a map is created, unmapped when it drops, never handed back in between.
//!
//! Element `i` keeps its address and its layout for the life of the map. So a lookup needs no lock and no reference
//! count: at worst it reads an element that meanwhile holds another key.

use std::sync::atomic::AtomicU32;

use rtbpf_abi::Errno;
use rtbpf_rt::ZeroIsValid;
use rtbpf_rt::lock::prim::point;

use crate::access::Cell;
use crate::map::MapError;

/// When pages come into being.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Pages {
    /// All of them, when the map is created: no page fault later.
    Now,
    /// Each when its first element is used; but the system must have the memory for all.
    OnTouchReserved,
    /// Each when its first element is used, if there is memory then.
    OnTouch,
}

/// Memory of a ring, which appears twice in a row, so that a record which wraps around the end is contiguous.
pub(crate) struct Mirrored {
    region: Region,
    /// Bytes of the ring.
    size: u64,
}

impl Mirrored {
    /// Memory of `size` bytes, a power of two and whole pages.
    pub(crate) fn new(size: u32, pages: Pages) -> Result<Mirrored, MapError> {
        if !size.is_power_of_two() {
            return Err(Errno::EINVAL.into());
        }
        Ok(Mirrored { region: Region::mirrored(size as usize, pages)?, size: u64::from(size) })
    }

    #[inline(always)]
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Where position `at` is in the memory.
    #[inline(always)]
    pub(crate) fn offset(&self, at: u64) -> u64 {
        at & (self.size - 1)
    }

    /// The `len` bytes at position `at`; `len` may not exceed the ring.
    #[inline]
    pub(crate) fn cell(&self, at: u64, len: u64) -> Cell<'_> {
        self.region.cell(self.offset(at) as usize, len as usize)
    }

    /// The first or the second half of the 8 bytes that `at` lies in.
    #[inline(always)]
    pub(crate) fn half(&self, at: u64, second: bool) -> &AtomicU32 {
        let off = (self.offset(at) as usize & !7) + usize::from(second) * 4;
        // SAFETY: a multiple of 4 below the size, which is a multiple of 8, in memory of twice that size; all accesses to
        // it are atomic.
        unsafe { AtomicU32::from_ptr(self.region.base.add(off).cast()) }
    }

    pub(crate) fn region(&self) -> &Region {
        &self.region
    }
}

/// Zeroed, page-aligned memory of this process.
pub(crate) struct Region {
    base: *mut u8,
    bytes: usize,
}

// SAFETY: the memory is only accessed through `Cell`s, whose accesses are atomic; the fields never change.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    pub(crate) fn new(bytes: usize, pages: Pages) -> Result<Region, MapError> {
        let reserve = if pages == Pages::OnTouch { libc::MAP_NORESERVE } else { 0 };
        // SAFETY: an anonymous mapping at an address of the kernel's choice touches nothing that exists.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes.max(1),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | reserve,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(Errno::ENOMEM.into());
        }
        let region = Region { base: base.cast(), bytes };
        region.populate(pages);
        #[cfg(asan)]
        region.forbid_tail();
        Ok(region)
    }

    /// Under AddressSanitizer, what lies between the last element and the end of its page is out of bounds.
    #[cfg(asan)]
    fn forbid_tail(&self) {
        // SAFETY: as the sanitizer's runtime has it (sanitizer/asan_interface.h).
        unsafe extern "C" {
            fn __asan_poison_memory_region(at: *const libc::c_void, bytes: usize);
        }
        // SAFETY: the rest of the last page of this mapping, which nobody uses; the sanitizer forgets it at `munmap`.
        unsafe {
            __asan_poison_memory_region(
                self.base.add(self.bytes).cast(),
                self.bytes.next_multiple_of(4096) - self.bytes,
            );
        }
    }

    /// Lets all pages come into being, where that is asked for.
    fn populate(&self, pages: Pages) {
        if pages == Pages::Now {
            // Kernels before 5.14 lack the advice; then pages come on first touch.
            // SAFETY: the range is ours, and writable.
            unsafe { libc::madvise(self.base.cast(), self.bytes.max(1), libc::MADV_POPULATE_WRITE) };
        }
    }

    /// Memory of `bytes` (a multiple of the page size) that appears twice in a row.
    fn mirrored(bytes: usize, pages: Pages) -> Result<Region, MapError> {
        let total = bytes.checked_mul(2).ok_or(Errno::E2BIG)?;
        // SAFETY: a fresh reservation; then two mappings of one fresh file laid over it, inside the reservation.
        unsafe {
            let base = libc::mmap(
                std::ptr::null_mut(),
                total,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            );
            if base == libc::MAP_FAILED {
                return Err(Errno::ENOMEM.into());
            }
            let region = Region { base: base.cast(), bytes: total };
            let file = libc::memfd_create(c"rtbpf-ring".as_ptr(), libc::MFD_CLOEXEC);
            if file < 0 {
                return Err(Errno::ENOMEM.into());
            }
            let lay = |at: usize| {
                let protection = libc::PROT_READ | libc::PROT_WRITE;
                let flags = libc::MAP_SHARED | libc::MAP_FIXED;
                libc::mmap(region.base.add(at).cast(), bytes, protection, flags, file, 0) != libc::MAP_FAILED
            };
            let done = libc::ftruncate(file, bytes as libc::off_t) == 0 && lay(0) && lay(bytes);
            libc::close(file);
            if !done {
                return Err(Errno::ENOMEM.into());
            }
            region.populate(pages);
            Ok(region)
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn address(&self) -> u64 {
        self.base as u64
    }

    /// Its addresses, as [`Map::memory`](crate::Map::memory) lists them.
    pub(crate) fn ranges(&self) -> Vec<std::ops::Range<u64>> {
        std::iter::once(self.address()..self.address() + self.bytes as u64).collect()
    }

    /// `len` bytes from `off`, a multiple of 8.
    #[inline]
    pub(crate) fn cell(&self, off: usize, len: usize) -> Cell<'_> {
        assert!(off <= self.bytes && len <= self.bytes - off && off.is_multiple_of(8), "cell inside the region");
        // SAFETY: checked above; the mapping is page-aligned and lives as long as `self`.
        unsafe { Cell::new(self.base.add(off), len) }
    }

    /// Whether `address` lies in it, and where.
    #[inline]
    pub(crate) fn offset_of(&self, address: u64) -> Option<usize> {
        let off = usize::try_from(address.checked_sub(self.base as u64)?).ok()?;
        (off < self.bytes).then_some(off)
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: mapped by us with this size, and every borrow of it has ended.
        unsafe { libc::munmap(self.base.cast(), self.bytes.max(1)) };
    }
}

/// Elements of one size.
pub(crate) struct Slab {
    region: Region,
    stride: usize,
    count: u32,
}

impl Slab {
    /// `count` zeroed elements of `stride` bytes (rounded up to 8).
    pub(crate) fn new(count: u32, stride: usize, pages: Pages) -> Result<Slab, MapError> {
        let stride = stride.checked_next_multiple_of(8).ok_or(Errno::E2BIG)?;
        let bytes = stride.checked_mul(count as usize).ok_or(Errno::ENOMEM)?;
        Ok(Slab { region: Region::new(bytes, pages)?, stride, count })
    }

    /// Element `index`, which must be below the count.
    #[inline]
    pub(crate) fn cell(&self, index: u32) -> Cell<'_> {
        assert!(index < self.count, "element inside the slab");
        // SAFETY: `index * stride + stride <= count * stride`, the size of the region; strides are multiples of 8.
        unsafe { Cell::new(self.region.base.add(index as usize * self.stride), self.stride) }
    }

    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    pub(crate) fn stride(&self) -> usize {
        self.stride
    }

    pub(crate) fn region(&self) -> &Region {
        &self.region
    }
}

/// Elements that begin with four words, which change one by one; the others are their body.
pub(crate) struct Headed {
    slab: Slab,
}

/// The words in front of an element.
#[derive(Clone, Copy)]
pub(crate) struct Words<'a>(&'a [AtomicU32; Headed::WORDS]);

impl<'a> Words<'a> {
    /// Word `at`.
    #[inline(always)]
    pub(crate) fn at(self, at: usize) -> &'a AtomicU32 {
        point();
        &self.0[at]
    }
}

impl Headed {
    const WORDS: usize = 4;
    const BYTES: usize = 4 * Headed::WORDS;

    /// `count` zeroed elements with bodies of `bytes` (rounded up to 8).
    pub(crate) fn new(count: u32, bytes: usize, pages: Pages) -> Result<Headed, MapError> {
        let stride = bytes.checked_add(Headed::BYTES).ok_or(Errno::E2BIG)?;
        Ok(Headed { slab: Slab::new(count, stride, pages)? })
    }

    /// The words of element `index`; `None` when it is not below the count.
    #[inline]
    pub(crate) fn get(&self, index: u32) -> Option<Words<'_>> {
        if index >= self.slab.count {
            return None;
        }
        // SAFETY: inside the region, as for `Slab::cell`; strides are at least `BYTES` and multiples of 8. All accesses
        // to the words are atomic.
        Some(Words(unsafe { &*self.slab.region.base.add(index as usize * self.slab.stride).cast() }))
    }

    /// The words of element `index`, which must be below the count.
    #[inline]
    pub(crate) fn words(&self, index: u32) -> Words<'_> {
        self.get(index).expect("element inside the slab")
    }

    /// The body of element `index`, which must be below the count.
    #[inline]
    pub(crate) fn body(&self, index: u32) -> Cell<'_> {
        self.element(index).1
    }

    /// Words and body of element `index`, which must be below the count.
    #[inline(always)]
    pub(crate) fn element(&self, index: u32) -> (Words<'_>, Cell<'_>) {
        assert!(index < self.slab.count, "element inside the slab");
        // SAFETY: as for `get`; the body is what follows the words.
        unsafe {
            let at = self.slab.region.base.add(index as usize * self.slab.stride);
            (Words(&*at.cast()), Cell::new(at.add(Headed::BYTES), self.slab.stride - Headed::BYTES))
        }
    }

    /// The element in whose body `address` lies, and where.
    pub(crate) fn element_at(&self, address: u64) -> Option<(u32, usize)> {
        let off = self.slab.region.offset_of(address)?;
        let index = u32::try_from(off / self.slab.stride).ok().filter(|index| *index < self.slab.count)?;
        Some((index, (off % self.slab.stride).checked_sub(Headed::BYTES)?))
    }

    pub(crate) fn count(&self) -> u32 {
        self.slab.count
    }

    pub(crate) fn region(&self) -> &Region {
        &self.slab.region
    }
}

// SAFETY: words may be 0, and a lock of zeroes is free; neither has a destructor.
unsafe impl<L: ZeroIsValid> ZeroIsValid for crate::hash::Place<L> {}

// SAFETY: a null pointer is an empty place. Its destructor does nothing then; what is filled is emptied by the owner.
unsafe impl<T> ZeroIsValid for crate::retire::Shared<T> {}

/// An array of words and locks, as large as buckets need, whose pages come when they are used.
pub(crate) struct ZeroedArray<T> {
    region: Region,
    count: usize,
    element: std::marker::PhantomData<T>,
}

impl<T: ZeroIsValid + Sync> ZeroedArray<T> {
    pub(crate) fn new(count: usize, pages: Pages) -> Result<ZeroedArray<T>, MapError> {
        let bytes = count.checked_mul(size_of::<T>()).ok_or(Errno::ENOMEM)?;
        Ok(ZeroedArray { region: Region::new(bytes, pages)?, count, element: std::marker::PhantomData })
    }

    /// Element `index`, which must be below the count.
    #[inline]
    pub(crate) fn get(&self, index: usize) -> &T {
        assert!(index < self.count, "element inside the array");
        // SAFETY: inside the region, page-aligned base and `T`-sized steps, zeroed memory is a valid `T`, and only
        // shared references are ever made.
        unsafe { &*self.region.base.cast::<T>().add(index) }
    }

    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// All elements: what is asked of many is asked of where they are once.
    #[inline(always)]
    pub(crate) fn all(&self) -> &[T] {
        // SAFETY: as for `get`.
        unsafe { std::slice::from_raw_parts(self.region.base.cast(), self.count) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::ProgBytes;

    #[test]
    fn elements_are_zeroed_apart_and_stable() {
        let slab = Slab::new(3, 13, Pages::Now).expect("a page");
        assert_eq!(slab.stride(), 16);
        let first = slab.cell(0).value_ptr();
        slab.cell(1).fill(ProgBytes::from(&[0xff; 16][..]));
        assert_eq!(slab.cell(0).bytes().to_vec(), [0; 16]);
        assert_eq!(slab.cell(2).bytes().to_vec(), [0; 16]);
        assert_eq!(slab.cell(0).value_ptr(), first);
        assert_eq!(slab.cell(1).value_ptr().addr(), first.addr() + 16);
    }

    #[test]
    fn what_cannot_be_mapped_is_an_error() {
        assert!(Slab::new(u32::MAX, usize::MAX / 2, Pages::OnTouch).is_err());
        assert!(Region::new(1 << 60, Pages::OnTouch).is_err());
    }

    #[test]
    fn a_mirrored_region_shows_its_first_bytes_again() {
        let region = Region::mirrored(4096, Pages::Now).expect("two pages");
        region.cell(4088, 16).fill(ProgBytes::from(&(1..=16).collect::<Vec<u8>>()[..]));
        assert_eq!(region.cell(0, 8).bytes().to_vec(), (9..=16).collect::<Vec<u8>>());
        assert_eq!(region.cell(8184, 8).bytes().to_vec(), (1..=8).collect::<Vec<u8>>());
    }
}
