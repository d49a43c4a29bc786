//! Executable memory.
//!
//! ```text
//! range, reserved PROT_NONE near this crate's own code, so that helpers are one direct call away
//! │ guard │ pages of group 0 │ guard │ pages of group 1 │ guard │ …           never used yet │
//!           RW, then RX, then PROT_NONE for good
//! ```
//!
//! A page is writable once, before anyone can know its address, and never again: turning a live page writable kills the
//! thread that runs in it. Addresses come around only when a whole range is empty, after `membarrier(SYNC_CORE)`.

use std::ptr;
use std::sync::{Arc, Mutex, PoisonError};

use crate::code::{Arch, Code};
use crate::link::{self, LinkError};
use crate::linker::Linker;
use crate::native::Native;

/// Why code cannot be published.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum PublishError {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("code for {code:?} cannot run on this machine")]
    WrongArch { code: Arch },
    #[error("no executable memory: {0}")]
    Memory(std::io::Error),
}

/// Bytes of one reserved range. Half of what aarch64 branches span, so that most helpers stay in reach.
const RANGE_BYTES: usize = 32 << 20;

/// The ranges of this process.
///
/// Protects the list and the positions in it; taken only while publishing and dropping code, never by a running
/// program; no other lock is taken under it.
static RANGES: Mutex<Vec<Range>> = Mutex::new(Vec::new());

struct Range {
    base: usize,
    bytes: usize,
    next: usize,
    live: usize,
}

/// Pages of one group of programs.
#[derive(Debug)]
pub(crate) struct Pages {
    base: usize,
    bytes: usize,
}

impl Pages {
    pub(crate) fn base(&self) -> usize {
        self.base
    }
}

/// Publishes programs together, into pages of their own.
///
/// The code lives as long as one of its [`Native`]s does.
pub fn publish(codes: &[&Code], linker: &dyn Linker) -> Result<Vec<Native>, PublishError> {
    if let Some(code) = codes.iter().find(|code| Some(code.arch) != Arch::host()) {
        return Err(PublishError::WrongArch { code: code.arch });
    }
    let mut places = Vec::with_capacity(codes.len());
    let mut bytes = 0usize;
    for code in codes {
        places.push(bytes);
        bytes = (bytes + link::image_bytes(code)).next_multiple_of(64);
    }
    let pages = allocate(bytes.max(1))?;
    for (code, place) in codes.iter().zip(&places) {
        let image = link::image(code, (pages.base + place) as u64, linker)?;
        // SAFETY: `allocate` returned at least `bytes` writable bytes that nobody else knows, and
        // `place + image.len() <= bytes` because `image_bytes` bounds every image.
        unsafe { ptr::copy_nonoverlapping(image.as_ptr(), (pages.base + place) as *mut u8, image.len()) };
    }
    protect(&pages)?;
    let pages = Arc::new(pages);
    Ok(codes.iter().zip(places).map(|(code, place)| Native::new(code, pages.clone(), place)).collect())
}

fn page_bytes() -> usize {
    // SAFETY: no preconditions.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(bytes).unwrap_or(4096)
}

fn allocate(bytes: usize) -> Result<Pages, PublishError> {
    let page = page_bytes();
    let bytes = bytes.next_multiple_of(page);
    let mut ranges = RANGES.lock().unwrap_or_else(PoisonError::into_inner);
    let fits = |range: &Range| range.next + page + bytes <= range.bytes;
    let found = ranges.iter().position(fits).or_else(|| {
        let empty = ranges.iter().position(|range| range.live == 0 && page + bytes <= range.bytes)?;
        sync_cores().then_some(())?;
        ranges.get_mut(empty)?.next = 0;
        Some(empty)
    });
    let index = match found {
        Some(index) => index,
        None => {
            let bytes = (bytes + page).max(RANGE_BYTES);
            ranges.push(Range { base: reserve(bytes)?, bytes, next: 0, live: 0 });
            ranges.len() - 1
        }
    };
    let range = ranges.get_mut(index).ok_or_else(|| PublishError::Memory(std::io::ErrorKind::OutOfMemory.into()))?;
    let base = range.base + range.next + page;
    map(base, bytes, libc::PROT_READ | libc::PROT_WRITE)?;
    range.next += page + bytes;
    range.live += 1;
    Ok(Pages { base, bytes })
}

/// Replaces pages of a reserved range by fresh ones.
fn map(base: usize, bytes: usize, protection: i32) -> Result<(), PublishError> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE;
    // SAFETY: the pages lie in a range that this module reserved, and hold no code that anyone may still run.
    let at = unsafe { libc::mmap(base as *mut _, bytes, protection, flags, -1, 0) };
    if at == libc::MAP_FAILED { Err(last_error()) } else { Ok(()) }
}

fn last_error() -> PublishError {
    PublishError::Memory(std::io::Error::last_os_error())
}

/// Writable to executable, for good.
fn protect(pages: &Pages) -> Result<(), PublishError> {
    clean_caches(pages);
    // SAFETY: the pages are ours.
    let failed = unsafe { libc::mprotect(pages.base as *mut _, pages.bytes, libc::PROT_READ | libc::PROT_EXEC) };
    if failed != 0 { Err(last_error()) } else { Ok(()) }
}

#[cfg(not(target_arch = "aarch64"))]
fn clean_caches(_: &Pages) {}

/// Makes what was written visible to instruction fetch (Arm ARM B2.7.4).
#[cfg(target_arch = "aarch64")]
fn clean_caches(pages: &Pages) {
    use std::arch::asm;
    let ctr: u64;
    // SAFETY: reads the cache type register, which Linux lets user space do.
    unsafe { asm!("mrs {}, ctr_el0", out(reg) ctr, options(nomem, nostack)) };
    let (data, code) = (4usize << (ctr >> 16 & 15), 4usize << (ctr & 15));
    for line in (pages.base & !(data - 1)..pages.base + pages.bytes).step_by(data) {
        // SAFETY: cleans a data cache line of pages that are ours.
        unsafe { asm!("dc cvau, {}", in(reg) line, options(nostack)) };
    }
    // SAFETY: a barrier.
    unsafe { asm!("dsb ish", options(nostack)) };
    for line in (pages.base & !(code - 1)..pages.base + pages.bytes).step_by(code) {
        // SAFETY: invalidates an instruction cache line of pages that are ours.
        unsafe { asm!("ic ivau, {}", in(reg) line, options(nostack)) };
    }
    // SAFETY: barriers.
    unsafe { asm!("dsb ish", "isb", options(nostack)) };
}

impl Drop for Pages {
    fn drop(&mut self) {
        let mut ranges = RANGES.lock().unwrap_or_else(PoisonError::into_inner);
        // Gives the memory back and keeps the addresses; on failure the pages stay as they are, which is safe.
        let _ = map(self.base, self.bytes, libc::PROT_NONE);
        let inside = |range: &&mut Range| (range.base..range.base + range.bytes).contains(&self.base);
        if let Some(range) = ranges.iter_mut().find(inside) {
            range.live -= 1;
        }
    }
}

/// Reserves addresses, near this crate's own code where there is room.
fn reserve(bytes: usize) -> Result<usize, PublishError> {
    let reach = if cfg!(target_arch = "aarch64") { 120 << 20 } else { 2000 << 20 };
    let here = reserve as *const () as usize & !(page_bytes() - 1);
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    for distance in (bytes..reach).step_by(16 << 20) {
        for hint in [here.wrapping_sub(distance), here.wrapping_add(distance - bytes)] {
            let exact = flags | libc::MAP_FIXED_NOREPLACE;
            // SAFETY: reserves free addresses only; NOREPLACE leaves what is mapped alone.
            let at = unsafe { libc::mmap(hint as *mut _, bytes, libc::PROT_NONE, exact, -1, 0) };
            if at as usize == hint {
                return Ok(hint);
            }
            if at != libc::MAP_FAILED {
                // SAFETY: an old kernel took the hint as a hint; the mapping is ours and unused.
                unsafe { libc::munmap(at, bytes) };
            }
        }
    }
    // SAFETY: reserves free addresses of the kernel's choice; calls go through veneers.
    let at = unsafe { libc::mmap(ptr::null_mut(), bytes, libc::PROT_NONE, flags, -1, 0) };
    if at == libc::MAP_FAILED { Err(last_error()) } else { Ok(at as usize) }
}

/// Makes every core of the process drop what it has fetched; `false` where the kernel cannot.
fn sync_cores() -> bool {
    const REGISTER: i32 = 1 << 6;
    const SYNC: i32 = 1 << 5;
    // SAFETY: no memory is involved; registering twice is allowed.
    unsafe {
        libc::syscall(libc::SYS_membarrier, REGISTER, 0, 0) == 0 && libc::syscall(libc::SYS_membarrier, SYNC, 0, 0) == 0
    }
}
