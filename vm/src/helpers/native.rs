//! Where helper functions meet native addresses [unsafe room].
//!
//! A helper's arguments are addresses that an engine vouches for: the checked interpreter has tested each against its
//! region by the helper's prototype row, and the other engines run only programs of which the verifier proved the same.
//! A [`Cx`] is that promise as a value. It exists only while an engine calls a helper, and its methods turn arguments
//! into bytes, maps and the run's own state, so that helpers themselves contain no unsafe code.

use std::panic::{AssertUnwindSafe, catch_unwind};

use rtbpf_abi::Errno;
use rtbpf_abi::frame::{FaultCode, RunFrame};
use rtbpf_maps::{Head, Map, MapRef, ProgBytes, ProgOut};

use rtbpf_rt::RunCx;
use rtbpf_rt::lock::{Lock, RawLock};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::dynptr::Dynptr;
use crate::run::Host;

/// One call of a helper.
pub(crate) struct Cx<'a> {
    args: [u64; 5],
    frame: &'a mut RunFrame,
}

/// Runs `helper` for an engine. A panic in it becomes a fault of the run.
///
/// Only the `extern "C"` entries of [`super::FUNCTIONS`] call this, and only engines call those, with arguments that
/// satisfy the helper's prototype row and a frame whose `host` is the run's [`Host`].
#[inline(always)]
pub(crate) fn enter(helper: impl FnOnce(&mut Cx<'_>) -> u64, args: [u64; 5], frame: &mut RunFrame) -> u64 {
    let mut cx = Cx { args, frame };
    match catch_unwind(AssertUnwindSafe(|| helper(&mut cx))) {
        Ok(result) => result,
        Err(_) => {
            frame.fault = FaultCode::Helper;
            0
        }
    }
}

/// [`enter`] for a helper that cannot panic.
#[inline(always)]
pub(crate) fn enter_sure(helper: impl FnOnce(&mut Cx<'_>) -> u64, args: [u64; 5], frame: &mut RunFrame) -> u64 {
    helper(&mut Cx { args, frame })
}

/// The memory in argument `at` (0 to 4) of an embedder's helper, whose size is the next argument; `None` where it is null.
///
/// Only called for arguments whose row says that they are memory with a size.
pub(crate) fn sized(args: &[u64; 5], at: usize) -> Option<ProgOut<'_>> {
    let (addr, len) = (*args.get(at)?, *args.get(at + 1)?);
    // SAFETY: by the row, which the engine checked or the verifier proved, the argument covers as many bytes.
    (addr != 0).then(|| unsafe { ProgOut::new(addr as *mut u8, len as usize) })
}

/// The lock at an address that the checked interpreter found to be 4 writable bytes; `None` where it is misaligned.
pub(crate) fn lock_at<'a>(addr: u64) -> Option<&'a RawLock> {
    let word = addr as *mut u32;
    // SAFETY: 4 bytes of memory that the run keeps alive, aligned by the test; every access to them is atomic.
    word.is_aligned().then(|| RawLock::of_word(unsafe { AtomicU32::from_ptr(word) }))
}

/// The first word of the timer at an address that an engine vouches for; `None` where it is misaligned, which only
/// unverified programs bring about.
pub(crate) fn word_at<'a>(addr: u64) -> Option<&'a AtomicU64> {
    let word = addr as *mut u64;
    // SAFETY: 16 bytes of a map's value, which the run keeps alive, aligned by the test; every access to the word is
    // atomic.
    word.is_aligned().then(|| unsafe { AtomicU64::from_ptr(word) })
}

/// The word at `addr`, while it lies in a value of `map`.
pub(crate) fn word_of(map: &MapRef, addr: u64) -> Option<u64> {
    let inside = map.memory().iter().any(|range| range.contains(&addr) && range.end - addr >= 8);
    let word = addr as *mut u64;
    // SAFETY: 8 bytes of the map's memory, which the caller's reference keeps, aligned by the test; every access to them
    // is atomic.
    (inside && word.is_aligned()).then(|| unsafe { AtomicU64::from_ptr(word) }.load(Ordering::Acquire))
}

/// Releases locks that a run still held when it ended. `words` are the addresses that [`Cx::spin_lock`] took.
pub(crate) fn release_locks(words: &[u64]) {
    for word in words {
        // SAFETY: the words lie in values of maps, which live as long as the run's programs; the caller still has those.
        RawLock::of_word(unsafe { AtomicU32::from_ptr(*word as *mut u32) }).release();
    }
}

impl<'a> Cx<'a> {
    /// Argument `n`, 1 to 5.
    #[inline]
    pub fn arg(&self, n: usize) -> u64 {
        self.args[n - 1]
    }

    /// The run's state.
    #[inline]
    pub fn host(&mut self) -> &mut Host {
        // SAFETY: the engine set `host` to the live state of this run before the call and does not touch it until the
        // call returns; `&mut self` makes this the only reference made from it meanwhile.
        unsafe { &mut *self.frame.host.cast::<Host>() }
    }

    /// Slot and level of the run, as maps ask for them.
    #[inline]
    pub fn run_cx(&mut self) -> RunCx {
        self.host().cx
    }

    /// The same, where it is.
    #[inline]
    pub fn run_cx_ref(&mut self) -> &RunCx {
        &self.host().cx
    }

    /// The same call, to be given away: what it is made of can then stay in registers.
    #[inline]
    pub fn again(&mut self) -> Cx<'_> {
        Cx { args: self.args, frame: self.frame }
    }

    /// The frame, for helpers that set its fields.
    pub fn frame(&mut self) -> &mut RunFrame {
        self.frame
    }

    /// The head of the map in argument `n`.
    #[inline]
    pub fn head(&self, n: usize) -> &'a Head {
        // SAFETY: the row says that the argument is a map; engines pass the address of the head of one that the run
        // keeps alive, which lasts longer than the call.
        unsafe { &*(self.arg(n) as *const Head) }
    }

    /// The map in argument `n`.
    #[inline]
    pub fn map(&self, n: usize) -> Result<&'a dyn Map, Errno> {
        // SAFETY: the run keeps the map alive for longer than the call, as for `head`.
        unsafe { self.head(n).borrowed() }.ok_or(Errno::EINVAL)
    }

    /// The map in argument `n`, to be held beyond the call.
    pub fn map_ref(&self, n: usize) -> Result<MapRef, Errno> {
        self.head(n).map().ok_or(Errno::EINVAL)
    }

    /// The `len` readable bytes in argument `n`.
    #[inline]
    pub fn bytes(&self, n: usize, len: usize) -> ProgBytes<'a> {
        // SAFETY: the row says that the argument covers `len` readable bytes, which outlive the call.
        unsafe { ProgBytes::new(self.arg(n) as *const u8, len) }
    }

    /// A copy of the `len` readable bytes in argument `n`; empty for a null pointer.
    pub fn copied(&self, n: usize, len: usize) -> Vec<u8> {
        if self.arg(n) == 0 { Vec::new() } else { self.bytes(n, len).to_vec() }
    }

    /// The `len` writable bytes in argument `n`.
    #[inline]
    pub fn out(&self, n: usize, len: usize) -> ProgOut<'a> {
        // SAFETY: the row says that the argument covers `len` writable bytes, which outlive the call.
        unsafe { ProgOut::new(self.arg(n) as *mut u8, len) }
    }

    /// Copies `bytes` to the memory in argument `n`, which has `len` bytes.
    pub fn write(&self, n: usize, len: usize, bytes: &[u8]) {
        self.out(n, len.min(bytes.len())).fill(bytes.into());
    }

    /// Reads memory at an address that nobody vouches for: a pointer of the program, memory of the run, or what the host
    /// declared. EFAULT when it is none of these.
    pub fn probe(&mut self, addr: u64, out: &mut [u8]) -> Result<(), Errno> {
        let len = out.len();
        let pointer = self.host().lent.as_ref().and_then(|regions| regions.native(addr, len as u64, false).ok());
        let bytes = match pointer {
            // SAFETY: the regions of this run say that `len` bytes at the address may be read.
            Some(native) => Some(unsafe { ProgBytes::new(native as *const u8, len) }.to_vec()),
            None => self.own_bytes(addr, len).or_else(|| self.host().world().probe(addr, len)),
        };
        out.copy_from_slice(&bytes.ok_or(Errno::EFAULT)?);
        Ok(())
    }

    /// The lock in argument 1 … 5; `None` for a misaligned address, which only unverified programs pass.
    pub fn spin_lock(&self, n: usize) -> Option<&'a RawLock> {
        let word = self.arg(n) as *mut u32;
        // SAFETY: the row says that the argument covers the 4 bytes of a lock in a map's value; the test adds alignment.
        // Every access to the word is atomic.
        word.is_aligned().then(|| RawLock::of_word(unsafe { AtomicU32::from_ptr(word) }))
    }

    /// The 8-byte word in argument `n`; `None` for a misaligned address, which only unverified programs pass.
    pub fn word(&self, n: usize) -> Option<&'a AtomicU64> {
        word_at(self.arg(n))
    }

    /// Exchanges the 8-byte pointer in argument `n` for `new`; 0 for a misaligned field, which only unverified programs
    /// pass.
    pub fn swap_pointer(&self, n: usize, new: u64) -> u64 {
        let field = self.arg(n) as *mut u64;
        if !field.is_aligned() {
            return 0;
        }
        // SAFETY: the row says that the argument covers the 8 bytes of a kernel pointer in a map's value; aligned by the
        // test. Acquire and release: what the pointer leads to was written before it was put there.
        unsafe { AtomicU64::from_ptr(field) }.swap(new, Ordering::AcqRel)
    }

    /// The NUL-terminated string in argument `n`, without its NUL.
    pub fn string(&self, n: usize) -> Vec<u8> {
        let at = |off: usize| {
            // SAFETY: the row says that the argument is a NUL-terminated string, and no byte before `off` was its NUL.
            unsafe { ProgBytes::new((self.arg(n) as *const u8).wrapping_add(off), 1) }.to_vec()
        };
        (0..).map(at).take_while(|byte| byte != &[0]).flatten().collect()
    }

    /// `len` bytes at `at` of a dynptr's memory, which [`Dynptr::range`] found to lie inside.
    pub fn dynptr_memory(&self, dynptr: &Dynptr, at: u64, len: usize) -> ProgOut<'a> {
        debug_assert!(at + len as u64 <= dynptr.offset as u64 + dynptr.size as u64);
        // SAFETY: the dynptr was made over memory that the run may write and keeps alive, and the range lies inside.
        unsafe { ProgOut::new((dynptr.addr + at) as *mut u8, len) }
    }

    /// Bytes at an address that the run itself owns or was granted: its stack, context, packet, or what the checked
    /// interpreter found behind an address argument. `None` when they are not all there.
    pub fn own_bytes(&mut self, addr: u64, len: usize) -> Option<Vec<u8>> {
        let host = self.host();
        let packet = host.ctx.packet().map(|packet| packet.addrs());
        let packet = packet.map(|(meta, _, end)| (meta, end.saturating_sub(meta)));
        let stack = (host.stack.addr(), host.stack.len() as u64);
        let ctx = (host.ctx.addr(), host.ctx.native_len() as u64);
        let end = addr.checked_add(len as u64)?;
        let inside = |(start, size): (u64, u64)| start <= addr && end <= start.saturating_add(size);
        if !inside(stack) && !inside(ctx) && !packet.is_some_and(inside) && !host.granted.is_some_and(inside) {
            return None;
        }
        // SAFETY: the range lies inside memory that the run keeps alive.
        Some(unsafe { ProgBytes::new(addr as *const u8, len) }.to_vec())
    }
}
