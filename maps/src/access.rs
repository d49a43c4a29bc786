//! Every access to memory that a program, native code or another CPU may write meanwhile.
//!
//! Such memory has no `&[u8]`: it is read and written by the functions here, one per size. On x86_64 and aarch64 each
//! is one machine instruction the compiler cannot see through; elsewhere (and under Miri and AddressSanitizer) a relaxed
//! atomic. Aligned words never tear; copies go by words.

use std::marker::PhantomData;
use std::ptr::NonNull;

use rtbpf_abi::Errno;
use rtbpf_rt::RunCx;
use rtbpf_rt::lock::prim::point;

use crate::map::{Map, MapError};

macro_rules! access {
    ($load:ident, $store:ident, $type:ty, $atomic:ident, $x64_load:literal, $x64_store:literal, $a64_load:literal,
     $a64_store:literal, $class:ident) => {
        /// # Safety
        ///
        /// `at` must be readable for the size of the result.
        #[inline(always)]
        unsafe fn $load(at: *const u8) -> $type {
            #[cfg(all(target_arch = "x86_64", not(any(miri, asan))))]
            {
                let value: $type;
                // SAFETY: one load from memory the caller vouches for; no flags, no stack.
                unsafe {
                    std::arch::asm!($x64_load, out($class) value, at = in(reg) at,
                        options(nostack, preserves_flags, readonly));
                }
                value
            }
            #[cfg(all(target_arch = "aarch64", not(any(miri, asan))))]
            {
                let value: $type;
                // SAFETY: as above.
                unsafe {
                    std::arch::asm!($a64_load, value = out(reg) value, at = in(reg) at,
                        options(nostack, preserves_flags, readonly));
                }
                value
            }
            #[cfg(any(miri, asan, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
            {
                if !at.cast::<$type>().is_aligned() {
                    let mut bytes = [0u8; size_of::<$type>()];
                    for (i, byte) in bytes.iter_mut().enumerate() {
                        // SAFETY: inside the range the caller vouches for; a byte is always aligned.
                        *byte = unsafe {
                            std::sync::atomic::AtomicU8::from_ptr(at.add(i).cast_mut())
                                .load(std::sync::atomic::Ordering::Relaxed)
                        };
                    }
                    return <$type>::from_ne_bytes(bytes);
                }
                // SAFETY: readable, aligned, and every other access to it is atomic too.
                unsafe {
                    std::sync::atomic::$atomic::from_ptr(at.cast_mut().cast())
                        .load(std::sync::atomic::Ordering::Relaxed)
                }
            }
        }

        /// # Safety
        ///
        /// `at` must be writable for the size of `value`.
        #[inline(always)]
        unsafe fn $store(at: *mut u8, value: $type) {
            #[cfg(all(target_arch = "x86_64", not(any(miri, asan))))]
            // SAFETY: one store to memory the caller vouches for; no flags, no stack.
            unsafe {
                std::arch::asm!($x64_store, value = in($class) value, at = in(reg) at,
                    options(nostack, preserves_flags));
            }
            #[cfg(all(target_arch = "aarch64", not(any(miri, asan))))]
            // SAFETY: as above.
            unsafe {
                std::arch::asm!($a64_store, value = in(reg) value, at = in(reg) at,
                    options(nostack, preserves_flags));
            }
            #[cfg(any(miri, asan, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
            {
                if !at.cast::<$type>().is_aligned() {
                    for (i, byte) in value.to_ne_bytes().into_iter().enumerate() {
                        // SAFETY: inside the range the caller vouches for; a byte is always aligned.
                        unsafe {
                            std::sync::atomic::AtomicU8::from_ptr(at.add(i))
                                .store(byte, std::sync::atomic::Ordering::Relaxed)
                        };
                    }
                    return;
                }
                // SAFETY: writable, aligned, and every other access to it is atomic too.
                unsafe {
                    std::sync::atomic::$atomic::from_ptr(at.cast())
                        .store(value, std::sync::atomic::Ordering::Relaxed)
                }
            }
        }
    };
}

#[rustfmt::skip]
access!(load_u8,  store_u8,  u8,  AtomicU8,  "mov {}, byte ptr [{at}]",   "mov byte ptr [{at}], {value}",
        "ldrb {value:w}, [{at}]", "strb {value:w}, [{at}]", reg_byte);
#[rustfmt::skip]
access!(load_u16, store_u16, u16, AtomicU16, "mov {0:x}, word ptr [{at}]",  "mov word ptr [{at}], {value:x}",
        "ldrh {value:w}, [{at}]", "strh {value:w}, [{at}]", reg);
#[rustfmt::skip]
access!(load_u32, store_u32, u32, AtomicU32, "mov {0:e}, dword ptr [{at}]", "mov dword ptr [{at}], {value:e}",
        "ldr {value:w}, [{at}]",  "str {value:w}, [{at}]", reg);
#[rustfmt::skip]
access!(load_u64, store_u64, u64, AtomicU64, "mov {}, qword ptr [{at}]",  "mov qword ptr [{at}], {value}",
        "ldr {value}, [{at}]",    "str {value}, [{at}]", reg);

/// Words from which one string instruction beats a loop of moves (its start costs about 30 cycles on Zen 4).
#[cfg(all(target_arch = "x86_64", not(any(miri, asan))))]
const STRING_WORDS: usize = 32;

/// # Safety
///
/// `src` must be readable and `dst` writable for `len` bytes, and they must not overlap.
#[inline]
unsafe fn copy(dst: *mut u8, src: *const u8, len: usize) {
    // One or two words, the most frequent sizes: the first and the last.
    if len == 8 || len == 16 {
        // SAFETY: both words lie below `len`.
        unsafe {
            let (first, last) = (load_u64(src), load_u64(src.add(len - 8)));
            store_u64(dst, first);
            store_u64(dst.add(len - 8), last);
        }
        return;
    }
    // SAFETY: as for this function.
    unsafe { copy_long(dst, src, len) }
}

/// # Safety
///
/// As for [`copy`].
#[inline(never)]
unsafe fn copy_long(dst: *mut u8, src: *const u8, len: usize) {
    let mut at = 0;
    #[cfg(all(target_arch = "x86_64", not(any(miri, asan))))]
    if len / 8 >= STRING_WORDS {
        // SAFETY: moves `len / 8` words inside both ranges; the direction flag is clear by the ABI.
        unsafe {
            std::arch::asm!("rep movsq", inout("rcx") len / 8 => _, inout("rdi") dst => _, inout("rsi") src => _,
                options(nostack, preserves_flags));
        }
        at = len & !7;
    }
    let words = len & !7;
    while at < words {
        // SAFETY: a word below `len`.
        unsafe { store_u64(dst.add(at), load_u64(src.add(at))) };
        at += 8;
    }
    if at != len {
        // SAFETY: fewer than 8 bytes are left.
        unsafe { copy_tail(dst.add(at), src.add(at), len - at) };
    }
}

/// # Safety
///
/// As for [`copy`]; `len` is less than 8.
#[inline]
unsafe fn copy_tail(dst: *mut u8, src: *const u8, len: usize) {
    let mut at = 0;
    // SAFETY: every access below stays under `len`.
    unsafe {
        if len & 4 != 0 {
            store_u32(dst, load_u32(src));
            at = 4;
        }
        if len & 2 != 0 {
            store_u16(dst.add(at), load_u16(src.add(at)));
            at += 2;
        }
        if len & 1 != 0 {
            store_u8(dst.add(at), load_u8(src.add(at)));
        }
    }
}

/// A key: bytes the caller owns and nobody else writes (a helper copies a program's key first).
pub type KeyRef<'a> = &'a [u8];

/// Address of a value. Covers `value_size` bytes rounded up to 8, and stays valid until the map drops; the bytes may
/// change under the reader, so no reference is ever made to them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ValuePtr(pub NonNull<u8>);

impl ValuePtr {
    /// The address as a program sees it.
    #[inline]
    pub fn addr(self) -> u64 {
        self.0.as_ptr() as u64
    }
}

/// Readable bytes that a program or another CPU may write meanwhile: address and length.
#[derive(Clone, Copy, Debug)]
pub struct ProgBytes<'a> {
    ptr: *const u8,
    len: usize,
    life: PhantomData<&'a [u8]>,
}

impl<'a> ProgBytes<'a> {
    /// # Safety
    ///
    /// `ptr` must be readable for `len` bytes as long as `'a` lasts.
    #[inline]
    pub const unsafe fn new(ptr: *const u8, len: usize) -> ProgBytes<'a> {
        ProgBytes { ptr, len, life: PhantomData }
    }

    /// Where they begin.
    #[inline]
    pub const fn as_ptr(&self) -> *const u8 {
        self.ptr
    }

    /// How many.
    #[inline]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// A part of them; `None` when it does not lie inside.
    #[inline]
    pub fn slice(&self, off: usize, len: usize) -> Option<ProgBytes<'a>> {
        if off.checked_add(len)? > self.len {
            return None;
        }
        Some(ProgBytes { ptr: self.ptr.wrapping_add(off), len, life: PhantomData })
    }

    /// Appends a copy of them to `out`.
    #[inline]
    pub fn append_to(&self, out: &mut Vec<u8>) {
        out.reserve(self.len);
        let old = out.len();
        // SAFETY: readable by construction; `reserve` made room for `len` bytes behind `old`, all of which are written
        // before the length grows. A vector of ours cannot overlap them while borrowed mutably.
        unsafe {
            copy(out.as_mut_ptr().add(old), self.ptr, self.len);
            out.set_len(old + self.len);
        }
    }

    /// The first 4 as a number, as they are in memory; `None` where there are fewer.
    #[inline]
    pub fn first_u32(&self) -> Option<u32> {
        // SAFETY: readable by construction.
        (self.len >= 4).then(|| unsafe { load_u32(self.ptr) })
    }

    /// The first 8 as a number, as they are in memory; `None` where there are fewer.
    #[inline]
    pub fn first_u64(&self) -> Option<u64> {
        // SAFETY: readable by construction.
        (self.len >= 8).then(|| unsafe { load_u64(self.ptr) })
    }

    /// The same, by its halves: programs that wrote those one by one would wait for both to be in memory.
    #[inline]
    pub fn first_halves(&self) -> Option<u64> {
        // SAFETY: readable by construction.
        (self.len >= 8).then(|| unsafe { u64::from(load_u32(self.ptr)) | u64::from(load_u32(self.ptr.add(4))) << 32 })
    }

    /// A copy of the first `N`; what is missing reads as 0.
    #[inline]
    pub fn to_array<const N: usize>(&self) -> [u8; N] {
        let mut out = [0; N];
        self.copy_to(&mut out);
        out
    }

    /// A copy of them.
    #[inline]
    pub fn to_vec(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.append_to(&mut out);
        out
    }

    /// Copies as many of them as `out` holds.
    #[inline]
    pub fn copy_to(&self, out: &mut [u8]) {
        ProgOut::from(out).fill(*self);
    }

    /// Whether they equal `other` at this moment, byte by byte.
    #[inline]
    pub fn matches(&self, other: &[u8]) -> bool {
        // SAFETY: `i < self.len` for every load.
        self.len == other.len() && (0..self.len).all(|i| unsafe { load_u8(self.ptr.add(i)) } == other[i])
    }
}

impl<'a> From<&'a [u8]> for ProgBytes<'a> {
    #[inline]
    fn from(bytes: &'a [u8]) -> ProgBytes<'a> {
        ProgBytes { ptr: bytes.as_ptr(), len: bytes.len(), life: PhantomData }
    }
}

/// Writable bytes that a program or another CPU may read and write meanwhile.
#[derive(Clone, Copy, Debug)]
pub struct ProgOut<'a> {
    ptr: *mut u8,
    len: usize,
    life: PhantomData<&'a mut [u8]>,
}

impl<'a> ProgOut<'a> {
    /// # Safety
    ///
    /// `ptr` must be readable and writable for `len` bytes as long as `'a` lasts.
    #[inline]
    pub const unsafe fn new(ptr: *mut u8, len: usize) -> ProgOut<'a> {
        ProgOut { ptr, len, life: PhantomData }
    }

    /// How many bytes.
    #[inline]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The same bytes, for reading.
    #[inline]
    pub const fn as_bytes(&self) -> ProgBytes<'a> {
        ProgBytes { ptr: self.ptr, len: self.len, life: PhantomData }
    }

    /// Clears them.
    #[inline]
    pub fn zero(&self) {
        for at in 0..self.len {
            // SAFETY: under `len`, writable by construction.
            unsafe { store_u8(self.ptr.add(at), 0) };
        }
    }

    /// Copies `from` to their start, as far as both reach.
    #[inline]
    pub fn fill(&self, from: ProgBytes<'_>) {
        let len = self.len.min(from.len);
        // SAFETY: both ranges hold `len` bytes by construction; a map's memory and a caller's buffer are distinct
        // objects, and a value copied onto itself copies word by word, which is harmless.
        unsafe { copy(self.ptr, from.ptr, len) }
    }
}

impl<'a> From<&'a mut [u8]> for ProgOut<'a> {
    #[inline]
    fn from(bytes: &'a mut [u8]) -> ProgOut<'a> {
        ProgOut { ptr: bytes.as_mut_ptr(), len: bytes.len(), life: PhantomData }
    }
}

/// Overwrites `bytes` at `off` of the value under `key`, in place; the bytes beside them are left alone.
///
/// ENOENT for an absent key, EFAULT when the range does not lie in the value.
pub(crate) fn patch(map: &dyn Map, cx: &RunCx, key: KeyRef<'_>, off: usize, bytes: &[u8]) -> Result<(), MapError> {
    let size = map.spec().value_size as usize;
    if off.checked_add(bytes.len()).is_none_or(|end| end > size) {
        return Err(Errno::EFAULT.into());
    }
    let value = map.lookup(cx, key).ok_or(Errno::ENOENT)?;
    // SAFETY: a value covers `value_size` bytes until its map drops, and the range lies inside.
    unsafe { ProgOut::new(value.0.as_ptr().add(off), bytes.len()) }.fill(bytes.into());
    Ok(())
}

/// Memory of a map: a key, a value or a record, shared with programs. Made by the slab rooms only.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cell<'a> {
    ptr: *mut u8,
    len: usize,
    life: PhantomData<&'a ()>,
}

impl<'a> Cell<'a> {
    /// # Safety
    ///
    /// `ptr` must be readable and writable for `len` bytes as long as `'a` lasts, and aligned to 8.
    #[inline]
    pub(crate) const unsafe fn new(ptr: *mut u8, len: usize) -> Cell<'a> {
        Cell { ptr, len, life: PhantomData }
    }

    /// Its address as lookups hand it out.
    #[inline]
    pub(crate) fn value_ptr(self) -> ValuePtr {
        // SAFETY: `new` takes readable memory, which is never at null.
        ValuePtr(unsafe { NonNull::new_unchecked(self.ptr) })
    }

    #[inline]
    pub(crate) fn bytes(self) -> ProgBytes<'a> {
        ProgBytes { ptr: self.ptr, len: self.len, life: PhantomData }
    }

    #[inline]
    pub(crate) fn len(self) -> usize {
        self.len
    }

    /// The part from `off`, `len` long.
    #[inline]
    pub(crate) fn part(self, off: usize, len: usize) -> Cell<'a> {
        assert!(off <= self.len && len <= self.len - off, "part of a cell lies inside it");
        Cell { ptr: self.ptr.wrapping_add(off), len, life: PhantomData }
    }

    /// Copies `from` to its start, as far as both reach.
    #[inline]
    pub(crate) fn fill(self, from: ProgBytes<'_>) {
        // SAFETY: both ranges hold that many bytes by construction.
        unsafe { copy(self.ptr, from.ptr, self.len.min(from.len)) }
    }

    /// Clears it.
    #[inline]
    pub(crate) fn zero(self) {
        let mut at = 0;
        // SAFETY: every store stays under `len`.
        unsafe {
            while at + 8 <= self.len {
                store_u64(self.ptr.add(at), 0);
                at += 8;
            }
            while at < self.len {
                store_u8(self.ptr.add(at), 0);
                at += 1;
            }
        }
    }

    #[inline]
    pub(crate) fn append_to(self, out: &mut Vec<u8>) {
        self.bytes().append_to(out);
    }

    /// Whether its first `key.len()` bytes equal `key` at this moment.
    #[inline]
    pub(crate) fn starts_with(self, key: &[u8]) -> bool {
        if key.len() > self.len {
            return false;
        }
        let mut at = 0;
        // SAFETY: every load stays under `key.len()`, which both hold.
        unsafe {
            while at + 8 <= key.len() {
                if load_u64(self.ptr.add(at)) != key.as_ptr().add(at).cast::<u64>().read_unaligned() {
                    return false;
                }
                at += 8;
            }
            if at + 4 <= key.len() {
                if load_u32(self.ptr.add(at)) != key.as_ptr().add(at).cast::<u32>().read_unaligned() {
                    return false;
                }
                at += 4;
            }
            while at < key.len() {
                if load_u8(self.ptr.add(at)) != key[at] {
                    return false;
                }
                at += 1;
            }
        }
        true
    }

    #[inline]
    pub(crate) fn load_u32(self, off: usize) -> u32 {
        assert!(off <= self.len && self.len - off >= 4, "word inside the cell");
        // SAFETY: checked above.
        unsafe { load_u32(self.ptr.add(off)) }
    }

    #[inline]
    pub(crate) fn store_u32(self, off: usize, value: u32) {
        assert!(off <= self.len && self.len - off >= 4, "word inside the cell");
        // SAFETY: checked above.
        unsafe { store_u32(self.ptr.add(off), value) }
    }

    #[inline]
    pub(crate) fn load_u64(self, off: usize) -> u64 {
        assert!(off <= self.len && self.len - off >= 8, "word inside the cell");
        // SAFETY: checked above.
        unsafe { load_u64(self.ptr.add(off)) }
    }

    #[inline]
    pub(crate) fn store_u64(self, off: usize, value: u64) {
        assert!(off <= self.len && self.len - off >= 8, "word inside the cell");
        // SAFETY: checked above.
        unsafe { store_u64(self.ptr.add(off), value) }
    }

    /// The 4-byte word at `off` as an atomic, for lock words and ring headers.
    #[inline]
    pub(crate) fn atomic_u32(self, off: usize) -> &'a std::sync::atomic::AtomicU32 {
        assert!(off <= self.len && self.len - off >= 4 && off.is_multiple_of(4), "aligned word inside the cell");
        point();
        // SAFETY: inside, aligned (cells are aligned to 8), valid for `'a`; all accesses to it are atomic.
        unsafe { std::sync::atomic::AtomicU32::from_ptr(self.ptr.add(off).cast()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_of_every_length_move_exactly_their_bytes() {
        let source: Vec<u8> = (0..600u32).map(|i| (i * 7 + 1) as u8).collect();
        for len in (0..70).chain([255, 256, 257, 263, 511, 599]) {
            for skew in 0..3 {
                let mut target = vec![0xa5u8; 610];
                let bytes = ProgBytes::from(&source[..len]);
                ProgOut::from(&mut target[skew..skew + len]).fill(bytes);
                assert_eq!(target[skew..skew + len], source[..len], "{len} bytes at {skew}");
                assert!(target[skew + len..].iter().all(|b| *b == 0xa5) && target[..skew].iter().all(|b| *b == 0xa5));
                assert_eq!(bytes.to_vec(), source[..len]);
                assert!(bytes.matches(&source[..len]));
            }
        }
    }

    #[test]
    fn a_slice_never_leaves_its_bytes() {
        let bytes = [1u8, 2, 3, 4];
        let all = ProgBytes::from(&bytes[..]);
        assert_eq!(all.slice(1, 3).map(|s| s.to_vec()), Some(vec![2, 3, 4]));
        assert!(all.slice(2, 3).is_none());
        assert!(all.slice(usize::MAX, 2).is_none());
    }
}
