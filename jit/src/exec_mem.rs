//! Executable memory.
//!
//! ```text
//! range, reserved PROT_NONE near this crate's own code, so that helpers are one direct call away
//! │ guard │ pages of group 0 │ guard │ pages of group 1 │ guard │ …           never used yet │
//!           RW, then RX, then PROT_NONE for good
//! ```
//!
//! A page is writable once, before anyone can know its address, and never again: turning a live page writable kills the
//! thread that runs in it. Addresses come around only when a whole range is empty, after `membarrier(SYNC_CORE)`. Builds
//! with debug assertions ask the system after each publication whether that is so.

use std::ptr;
use std::sync::{Arc, Mutex, PoisonError};

use crate::code::{Arch, Code};
use crate::link::{self, LinkError};
use crate::linker::Linker;
use crate::native::{Native, Placed};
use crate::pages;
use crate::tools::Registered;
use crate::trap::Table;

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
    table: &'static Table,
    next: usize,
    live: usize,
}

/// Pages of one group of programs, and what lies in them.
#[derive(Debug)]
pub(crate) struct Pages {
    base: usize,
    bytes: usize,
    table: &'static Table,
    programs: Vec<Placed>,
    /// What debuggers know of it; taken only to add to it.
    registered: Mutex<Vec<Registered>>,
}

impl Pages {
    pub(crate) fn program(&self, number: usize) -> &Placed {
        &self.programs[number]
    }

    pub(crate) fn keep(&self, registered: Registered) {
        self.registered.lock().unwrap_or_else(PoisonError::into_inner).push(registered);
    }

    /// The program whose code holds the address `pc`.
    pub(crate) fn program_at(&self, pc: usize) -> Option<&Placed> {
        self.programs.iter().find(|program| program.contains(pc))
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
    let mut pages = allocate(bytes.max(1))?;
    for (code, place) in codes.iter().zip(&places) {
        let image = link::image(code, (pages.base + place) as u64, linker)?;
        // SAFETY: `allocate` returned at least `bytes` writable bytes that nobody else knows, and
        // `place + image.len() <= bytes` because `image_bytes` bounds every image.
        unsafe { ptr::copy_nonoverlapping(image.as_ptr(), (pages.base + place) as *mut u8, image.len()) };
    }
    protect(&pages, codes.iter().all(|code| code.landing_pads))?;
    pages.programs = codes.iter().zip(places).map(|(code, place)| Placed::new(code, pages.base + place)).collect();
    let pages = Arc::new(pages);
    pages.table.enter(pages.base..pages.base + pages.bytes, &pages);
    debug_assert_eq!(own_breach(), None);
    Ok((0..codes.len()).map(|number| Native::new(pages.clone(), number)).collect())
}

/// What is wrong with the pages of the reserved ranges, by what the system says of them.
fn own_breach() -> Option<pages::Breach> {
    let tables: Vec<_> =
        RANGES.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|range| range.table).collect();
    let ours = |mapping: &pages::Mapping| tables.iter().any(|table| table.overlaps(&mapping.range));
    pages::breach(&pages::mappings().unwrap_or_default().into_iter().filter(ours).collect::<Vec<_>>())
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
    let fits = |range: &Range| range.next + page + bytes <= range.table.bytes();
    let found = ranges.iter().position(fits).or_else(|| {
        let empty = ranges.iter().position(|range| range.live == 0 && page + bytes <= range.table.bytes())?;
        sync_cores().then_some(())?;
        ranges.get_mut(empty)?.next = 0;
        Some(empty)
    });
    let index = match found {
        Some(index) => index,
        None => {
            let bytes = (bytes + page).max(RANGE_BYTES);
            ranges.push(Range { table: Table::add(reserve(bytes)?, bytes, page), next: 0, live: 0 });
            ranges.len() - 1
        }
    };
    let range = ranges.get_mut(index).ok_or_else(|| PublishError::Memory(std::io::ErrorKind::OutOfMemory.into()))?;
    let base = range.table.base() + range.next + page;
    map(base, bytes, libc::PROT_READ | libc::PROT_WRITE)?;
    range.next += page + bytes;
    range.live += 1;
    Ok(Pages { base, bytes, table: range.table, programs: Vec::new(), registered: Mutex::default() })
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

/// Writable to executable, for good. With landing pads the processor takes jumps by address to nowhere else, if it can.
fn protect(pages: &Pages, landing_pads: bool) -> Result<(), PublishError> {
    clean_caches(pages);
    let guarded = if landing_pads { guarded_pages() } else { 0 };
    let rights = libc::PROT_READ | libc::PROT_EXEC | guarded;
    // SAFETY: the pages are ours.
    let failed = unsafe { libc::mprotect(pages.base as *mut _, pages.bytes, rights) };
    if failed != 0 { Err(last_error()) } else { Ok(()) }
}

/// The flag of pages whose landing pads count; x86_64 has none for processes.
#[cfg(not(target_arch = "aarch64"))]
fn guarded_pages() -> i32 {
    0
}

#[cfg(target_arch = "aarch64")]
fn guarded_pages() -> i32 {
    const HWCAP2_BTI: u64 = 1 << 17;
    const PROT_BTI: i32 = 0x10;
    // SAFETY: no preconditions.
    let capable = unsafe { libc::getauxval(libc::AT_HWCAP2) } & HWCAP2_BTI != 0;
    if capable { PROT_BTI } else { 0 }
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
        self.table.forget(self.base..self.base + self.bytes);
        // Gives the memory back and keeps the addresses; on failure the pages stay as they are, which is safe.
        let _ = map(self.base, self.bytes, libc::PROT_NONE);
        if let Some(range) = ranges.iter_mut().find(|range| ptr::eq(range.table, self.table)) {
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
