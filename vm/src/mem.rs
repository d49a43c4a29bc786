//! Memory that programs touch: owned buffers, spans of them, and the accesses of the checked engine.
//!
//! Everything unsafe about program memory of the checked engine is here. A [`Span`] knows its bounds and keeps its owner
//! alive, so its accesses are safe functions: they check the bounds first.
//!
//! Program memory may be written by other CPUs at any time. All accesses are therefore relaxed atomics of the access'
//! size where the address is aligned, and of single bytes where it is not; no reference to the bytes is ever made.

#[cfg(all(target_arch = "x86_64", not(miri)))]
use std::arch::asm;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

use rtbpf_isa::{AtomicOp, Size, Width, eval};
use rtbpf_maps::{MapRef, ProgOut};

/// Zeroed memory of a fixed size that the machine owns; 8-byte aligned.
#[derive(Debug)]
pub struct Buffer {
    words: Box<[AtomicU64]>,
    len: usize,
}

impl Buffer {
    /// `len` zero bytes.
    pub fn zeroed(len: usize) -> Arc<Buffer> {
        let words = std::iter::repeat_with(|| AtomicU64::new(0)).take(len.div_ceil(8)).collect();
        Arc::new(Buffer { words, len })
    }

    /// A copy of `bytes`.
    pub fn from_bytes(bytes: &[u8]) -> Arc<Buffer> {
        let buffer = Buffer::zeroed(bytes.len());
        buffer.write(0, bytes);
        buffer
    }

    /// Its size in bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Its native address. Valid while the buffer lives.
    #[inline]
    pub fn addr(&self) -> u64 {
        self.words.as_ptr() as u64
    }

    fn ptr(&self, at: usize) -> *mut u8 {
        debug_assert!(at <= self.len);
        // The atomics are cells: writing through a shared pointer to them is allowed.
        (self.words.as_ptr() as *mut u8).wrapping_add(at)
    }

    /// Whether `at..at + len` lies inside.
    fn holds(&self, at: usize, len: usize) -> bool {
        at.checked_add(len).is_some_and(|end| end <= self.len)
    }

    /// Copies the bytes at `at` into `out`; `false` (and nothing copied) when they do not all exist.
    pub fn read(&self, at: usize, out: &mut [u8]) -> bool {
        let inside = self.holds(at, out.len());
        if inside {
            // SAFETY: the range was checked, and the words live as long as `self`.
            unsafe { copy_out(self.ptr(at), out) }
        }
        inside
    }

    /// Copies `bytes` to `at`; `false` (and nothing copied) when they do not fit.
    pub fn write(&self, at: usize, bytes: &[u8]) -> bool {
        let inside = self.holds(at, bytes.len());
        if inside {
            // SAFETY: as in `read`.
            unsafe { copy_in(self.ptr(at), bytes) }
        }
        inside
    }

    /// The bytes at `at..at + len`, or as many of them as exist.
    pub fn to_vec(&self, at: usize, len: usize) -> Vec<u8> {
        let at = at.min(self.len);
        let mut out = vec![0; len.min(self.len - at)];
        self.read(at, &mut out);
        out
    }

    /// Zeroes the words that hold `at..at + len`; both are multiples of 8.
    pub fn zero(&self, at: usize, len: usize) {
        for word in self.words.iter().skip(at / 8).take(len / 8) {
            word.store(0, Relaxed);
        }
    }
}

/// Who keeps a span's memory alive.
#[derive(Clone)]
pub enum Keep {
    /// Nobody needs to: the span is empty.
    Nothing,
    /// A buffer of the machine.
    Buffer(Arc<Buffer>),
    /// A map: its values stay until it drops.
    Map(MapRef),
}

/// A range of native memory, with its bounds and its owner.
#[derive(Clone)]
pub struct Span {
    base: *mut u8,
    len: u32,
    keep: Keep,
}

// SAFETY: the owner in `keep` is Send and Sync, and every access through `base` is atomic.
unsafe impl Send for Span {}
// SAFETY: as above.
unsafe impl Sync for Span {}

impl Span {
    /// No memory at all: every access is refused.
    pub const EMPTY: Span = Span { base: std::ptr::null_mut(), len: 0, keep: Keep::Nothing };

    /// `len` bytes of `buffer` from `at`; cut at its end.
    pub fn of(buffer: &Arc<Buffer>, at: usize, len: usize) -> Span {
        let at = at.min(buffer.len);
        let len = len.min(buffer.len - at).min(u32::MAX as usize) as u32;
        Span { base: buffer.ptr(at), len, keep: Keep::Buffer(buffer.clone()) }
    }

    /// Memory that a helper handed out: `len` bytes at `addr`, which live as long as `keep`.
    ///
    /// A helper function returns what its prototype row says, so the address is trusted. The functions of
    /// [`helpers`](crate::helpers) are the only callers' sources: an embedder's closure cannot return a pointer.
    pub(crate) fn handed_out(addr: u64, len: u32, keep: Keep) -> Span {
        Span { base: addr as *mut u8, len, keep }
    }

    /// Native address of its first byte.
    #[inline]
    pub fn addr(&self) -> u64 {
        self.base as u64
    }

    /// Its size in bytes.
    #[inline]
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The native address of `len` bytes from `off`, if they lie inside.
    pub fn at(&self, off: i64, len: u64) -> Option<u64> {
        self.ptr(off, len).map(|ptr| ptr as u64)
    }

    #[inline(always)]
    fn ptr(&self, off: i64, len: u64) -> Option<*mut u8> {
        let off = u64::try_from(off).ok()?;
        let end = off.checked_add(len)?;
        (end <= self.len as u64).then(|| self.base.wrapping_add(off as usize))
    }

    /// Loads `size` bytes at `off`, zero-extended; `None` outside the span.
    #[inline(always)]
    pub fn load(&self, off: i64, size: Size) -> Option<u64> {
        let ptr = self.ptr(off, size.bytes() as u64)?;
        // SAFETY: `ptr` covers `size` bytes of the span, which `keep` keeps alive.
        Some(unsafe { load(ptr, size) })
    }

    /// Stores the low `size` bytes of `value` at `off`; `None` outside the span.
    #[inline(always)]
    pub fn store(&self, off: i64, size: Size, value: u64) -> Option<()> {
        let ptr = self.ptr(off, size.bytes() as u64)?;
        // SAFETY: as in `load`.
        unsafe { store(ptr, size, value) }
        Some(())
    }

    /// Performs a read-modify-write and returns the old value, zero-extended; `None` outside the span.
    pub fn atomic(&self, op: AtomicOp, width: Width, off: i64, src: u64, r0: u64) -> Option<u64> {
        let ptr = self.ptr(off, width.size().bytes() as u64)?;
        // SAFETY: `ptr` covers the operand, and `keep` keeps it alive.
        Some(unsafe { atomic(ptr, op, width, src, r0) })
    }

    /// Who keeps it alive.
    pub fn keep(&self) -> &Keep {
        &self.keep
    }

    /// `len` bytes at `off`, for a host function; `None` outside the span.
    pub fn out(&self, off: i64, len: u64) -> Option<ProgOut<'_>> {
        let ptr = self.ptr(off, len)?;
        // SAFETY: the bytes lie inside the span, which the borrow keeps alive.
        Some(unsafe { ProgOut::new(ptr, len as usize) })
    }

    /// Copies bytes from `off` into `out`; `None` outside the span.
    pub fn read(&self, off: i64, out: &mut [u8]) -> Option<()> {
        let ptr = self.ptr(off, out.len() as u64)?;
        // SAFETY: as in `load`.
        unsafe { copy_out(ptr, out) }
        Some(())
    }
}

/// # Safety
///
/// `ptr` must be readable for `size` bytes.
#[inline(always)]
pub(crate) unsafe fn load(ptr: *const u8, size: Size) -> u64 {
    let ptr = ptr.cast_mut();
    if !ptr.addr().is_multiple_of(size.bytes() as usize) {
        // SAFETY: the caller's promise.
        return unsafe { load_misaligned(ptr, size) };
    }
    // SAFETY: readable by the caller's promise, aligned by the test above; the cells are atomic, so writers may race.
    unsafe {
        match size {
            Size::B => AtomicU8::from_ptr(ptr).load(Relaxed) as u64,
            Size::H => AtomicU16::from_ptr(ptr.cast()).load(Relaxed) as u64,
            Size::W => AtomicU32::from_ptr(ptr.cast()).load(Relaxed) as u64,
            Size::D => AtomicU64::from_ptr(ptr.cast()).load(Relaxed),
        }
    }
}

/// # Safety
///
/// As for [`load`].
#[cold]
#[inline(never)]
unsafe fn load_misaligned(ptr: *const u8, size: Size) -> u64 {
    let mut bytes = [0; 8];
    // SAFETY: the caller's promise.
    unsafe { copy_out(ptr, &mut bytes[..size.bytes() as usize]) }
    u64::from_ne_bytes(bytes)
}

/// # Safety
///
/// As for [`store`].
#[cold]
#[inline(never)]
unsafe fn store_misaligned(ptr: *mut u8, size: Size, value: u64) {
    // SAFETY: the caller's promise.
    unsafe { copy_in(ptr, &value.to_ne_bytes()[..size.bytes() as usize]) }
}

/// # Safety
///
/// `ptr` must be writable for `size` bytes.
#[inline(always)]
pub(crate) unsafe fn store(ptr: *mut u8, size: Size, value: u64) {
    if !ptr.addr().is_multiple_of(size.bytes() as usize) {
        // SAFETY: the caller's promise.
        return unsafe { store_misaligned(ptr, size, value) };
    }
    // SAFETY: writable by the caller's promise, aligned by the test above. The casts keep the low bits, as BPF stores do.
    unsafe {
        match size {
            Size::B => AtomicU8::from_ptr(ptr).store(value as u8, Relaxed),
            Size::H => AtomicU16::from_ptr(ptr.cast()).store(value as u16, Relaxed),
            Size::W => AtomicU32::from_ptr(ptr.cast()).store(value as u32, Relaxed),
            Size::D => AtomicU64::from_ptr(ptr.cast()).store(value, Relaxed),
        }
    }
}

/// A read-modify-write; the old value, zero-extended. Programs may have memory that begins anywhere, such as a part of what is
/// behind a dynptr: there it is one exchange on x86_64, as in Linux, and on other machines two accesses.
///
/// # Safety
///
/// `ptr` is readable and writable for the width's bytes.
pub(crate) unsafe fn atomic(ptr: *mut u8, op: AtomicOp, width: Width, src: u64, r0: u64) -> u64 {
    if !ptr.addr().is_multiple_of(width.size().bytes() as usize) {
        // SAFETY: the caller's promise.
        return unsafe { atomic_misaligned(ptr, op, width, src, r0) };
    }
    match width {
        Width::W32 => {
            let step = |old: u32| Some(eval::atomic(op, width, old as u64, src, r0) as u32);
            // SAFETY: the caller's promise, and the test above.
            let cell = unsafe { AtomicU32::from_ptr(ptr.cast()) };
            cell.fetch_update(SeqCst, SeqCst, step).unwrap_or_else(|old| old) as u64
        }
        Width::W64 => {
            let step = |old| Some(eval::atomic(op, width, old, src, r0));
            // SAFETY: as above.
            let cell = unsafe { AtomicU64::from_ptr(ptr.cast()) };
            cell.fetch_update(SeqCst, SeqCst, step).unwrap_or_else(|old| old)
        }
    }
}

/// # Safety
///
/// As for [`atomic`].
#[cold]
#[inline(never)]
unsafe fn atomic_misaligned(ptr: *mut u8, op: AtomicOp, width: Width, src: u64, r0: u64) -> u64 {
    loop {
        // SAFETY: the caller's promise.
        let old = unsafe { load(ptr, width.size()) };
        let new = eval::atomic(op, width, old, src, r0);
        // SAFETY: the caller's promise.
        if unsafe { replace_misaligned(ptr, width, old, new) } {
            return old;
        }
    }
}

/// Stores the low bytes of `new` where those of `old` are; whether they were.
///
/// # Safety
///
/// As for [`atomic`].
#[cfg(all(target_arch = "x86_64", not(miri)))]
unsafe fn replace_misaligned(ptr: *mut u8, width: Width, old: u64, new: u64) -> bool {
    match width {
        Width::W32 => {
            let found: u32;
            // SAFETY: one locked exchange of 4 bytes, which the caller vouches for; it needs no alignment.
            unsafe {
                asm!("lock cmpxchg dword ptr [{ptr}], {new:e}", ptr = in(reg) ptr, new = in(reg) new as u32,
                    inout("eax") old as u32 => found, options(nostack));
            }
            found == old as u32
        }
        Width::W64 => {
            let found: u64;
            // SAFETY: as above, of 8 bytes.
            unsafe {
                asm!("lock cmpxchg qword ptr [{ptr}], {new}", ptr = in(reg) ptr, new = in(reg) new,
                    inout("rax") old => found, options(nostack));
            }
            found == old
        }
    }
}

/// Stores the low bytes of `new`, whatever is there.
///
/// # Safety
///
/// As for [`atomic`].
#[cfg(not(all(target_arch = "x86_64", not(miri))))]
unsafe fn replace_misaligned(ptr: *mut u8, width: Width, _old: u64, new: u64) -> bool {
    // SAFETY: the caller's promise.
    unsafe { store(ptr, width.size(), new) };
    true
}

/// Copies program memory out, by words where it is aligned.
///
/// # Safety
///
/// `src` must be readable for `out.len()` bytes.
pub(crate) unsafe fn copy_out(src: *const u8, out: &mut [u8]) {
    let head = src.align_offset(8).min(out.len());
    let (first, rest) = out.split_at_mut(head);
    let (words, last) = rest.as_chunks_mut::<8>();
    let tail = head + words.len() * 8;
    for (i, byte) in first.iter_mut().enumerate() {
        // SAFETY: `i` is below `out.len()`.
        *byte = unsafe { load(src.add(i), Size::B) } as u8;
    }
    for (i, word) in words.iter_mut().enumerate() {
        // SAFETY: word `i` ends at or before `tail`, hence below `out.len()`.
        *word = unsafe { load(src.add(head + i * 8), Size::D) }.to_ne_bytes();
    }
    for (i, byte) in last.iter_mut().enumerate() {
        // SAFETY: `tail + i` is below `out.len()`.
        *byte = unsafe { load(src.add(tail + i), Size::B) } as u8;
    }
}

/// Copies bytes into program memory, by words where it is aligned.
///
/// # Safety
///
/// `dst` must be writable for `bytes.len()` bytes.
pub(crate) unsafe fn copy_in(dst: *mut u8, bytes: &[u8]) {
    let head = dst.align_offset(8).min(bytes.len());
    let (first, rest) = bytes.split_at(head);
    let (words, last) = rest.as_chunks::<8>();
    let tail = head + words.len() * 8;
    for (i, byte) in first.iter().enumerate() {
        // SAFETY: `i` is below `bytes.len()`.
        unsafe { store(dst.add(i), Size::B, *byte as u64) }
    }
    for (i, word) in words.iter().enumerate() {
        // SAFETY: word `i` ends at or before `tail`, hence below `bytes.len()`.
        unsafe { store(dst.add(head + i * 8), Size::D, u64::from_ne_bytes(*word)) }
    }
    for (i, byte) in last.iter().enumerate() {
        // SAFETY: `tail + i` is below `bytes.len()`.
        unsafe { store(dst.add(tail + i), Size::B, *byte as u64) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accesses_outside_a_span_are_refused() {
        let buffer = Buffer::from_bytes(&[1, 2, 3, 4, 5, 6, 7, 8, 9]);
        let span = Span::of(&buffer, 1, 4);
        let check = |off, size, want| assert_eq!(span.load(off, size), want, "{off} {size:?}");
        check(0, Size::W, Some(0x0504_0302));
        check(1, Size::H, Some(0x0403));
        check(1, Size::W, None);
        check(-1, Size::B, None);
        check(i64::MAX, Size::D, None);
        assert_eq!(span.store(3, Size::H, 0), None);
        assert_eq!(Span::EMPTY.load(0, Size::B), None);
    }

    #[test]
    fn copies_at_every_alignment_agree_with_single_bytes() {
        let bytes: Vec<u8> = (0..64).collect();
        let buffer = Buffer::from_bytes(&bytes);
        for at in 0..16 {
            for len in 0..40 {
                assert_eq!(buffer.to_vec(at, len), bytes[at..at + len]);
                let target = Buffer::zeroed(64);
                assert!(target.write(at, &bytes[..len]));
                assert_eq!(target.to_vec(at, len), bytes[..len]);
                assert_eq!(target.to_vec(at + len, 8), [0; 8]);
            }
        }
    }

    #[test]
    fn atomics_need_no_alignment() {
        for at in 0..9 {
            let span = Span::of(&Buffer::zeroed(24), 0, 24);
            let run = |op, width, src, r0| span.atomic(op, width, at, src, r0);
            let wide = u64::MAX << 32 | 5;
            assert_eq!(run(AtomicOp::Add, Width::W64, wide, 0), Some(0), "{at}");
            assert_eq!(run(AtomicOp::Add, Width::W32, 3, 0), Some(5), "{at}");
            assert_eq!(run(AtomicOp::Cmpxchg, Width::W32, 1, 9), Some(8), "{at}");
            assert_eq!(run(AtomicOp::Cmpxchg, Width::W32, 1, 8), Some(8), "{at}");
            assert_eq!(run(AtomicOp::Xchg, Width::W64, 7, 0), Some(u64::MAX << 32 | 1), "{at}");
            assert_eq!(span.load(at, Size::D), Some(7), "{at}");
        }
        assert_eq!(Span::of(&Buffer::zeroed(8), 0, 8).atomic(AtomicOp::Add, Width::W64, 4, 1, 0), None);
    }
}
