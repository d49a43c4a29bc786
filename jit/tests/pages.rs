//! Executable memory: never writable, its addresses never taken over while anyone could run there, and little of it.

mod harness;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};

use harness::generate::{Rng, program};
use harness::{TestLinker, breach, code, native, run};
use rtbpf_isa::{AluOp, Insn, Operand, Reg, Width};
use rtbpf_jit::{Native, Options, publish};

/// The system's allocator, with a count of what the calling thread holds.
struct Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
}

// SAFETY: passes everything on to the system's allocator; the count is a thread's own and needs no destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.with(|held| held.set(held.get() + layout.size() as isize));
        // SAFETY: the caller's promises are those of the system's allocator.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        HELD.with(|held| held.set(held.get() - layout.size() as isize));
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Counts R0 up from 0 for as long as it runs.
fn spins(rounds: i32) -> Vec<Insn> {
    let set = |dst, value| Insn::Alu { op: AluOp::Mov, width: Width::W64, dst, src: Operand::Imm(value) };
    let add = |dst| Insn::Alu { op: AluOp::Add, width: Width::W64, dst, src: Operand::Imm(1) };
    let rhs = Operand::Imm(rounds);
    let again = Insn::Branch { op: rtbpf_isa::CmpOp::Ne, width: Width::W64, lhs: Reg::R0, rhs, to: -2 };
    vec![set(Reg::R0, 0), add(Reg::R0), again, Insn::Exit]
}

#[test]
fn code_pages_never_become_writable_and_live_code_keeps_running() {
    let Some(options) = Options::host() else { return };
    let long_lived = native(&spins(100_000), &options);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // A page that were writable for a moment, and so not executable, would end this thread.
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                assert_eq!(run(&long_lived, [0; 32], i64::MAX, &[]).r0, Some(100_000));
            }
        });
        let mut rng = Rng::new(0x9a6e5);
        let mut kept: Vec<Native> = Vec::new();
        let mut used = HashSet::new();
        for round in 0..if cfg!(target_arch = "aarch64") { 60 } else { 300 } {
            let size = 1 + rng.below(200);
            // The harness looks at all pages after each publication.
            let fresh = native(&program(&mut rng, size), &options);
            for page in fresh.base() >> 12..=(fresh.base() + fresh.code_bytes()) >> 12 {
                // A thread runs in the range, so no address of it may come around.
                assert!(used.insert(page), "page {page:#x} held other code before");
            }
            kept.push(fresh);
            if round % 3 == 0 {
                kept.swap_remove(rng.below(kept.len() as u64) as usize);
                assert_eq!(breach(), None);
            }
        }
        done.store(true, Ordering::Relaxed);
    });

    // What the checks above would have seen.
    // SAFETY: fresh memory of the system's choice, given back at once; the file is used for nothing else.
    unsafe {
        let (anonymous, all) =
            (libc::MAP_ANONYMOUS | libc::MAP_PRIVATE, libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC);
        // Between pages without rights: an emulator lists it with its neighbours where it can.
        let pages = libc::mmap(std::ptr::null_mut(), 3 * 4096, libc::PROT_NONE, anonymous, -1, 0);
        assert_eq!(libc::mprotect(pages.byte_add(4096), 4096, all), 0);
        assert!(breach().is_some_and(|found| found.to_string().ends_with("is writable and executable")));
        libc::munmap(pages, 3 * 4096);
        let file = libc::memfd_create(c"code".as_ptr(), 0);
        assert_eq!(libc::ftruncate(file, 4096), 0);
        let view = |rights| libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ | rights, libc::MAP_SHARED, file, 0);
        let (writable, executable) = (view(libc::PROT_WRITE), view(libc::PROT_EXEC));
        assert!(breach().is_some_and(|found| found.to_string().contains("shows the memory of")));
        libc::munmap(writable, 4096);
        libc::munmap(executable, 4096);
        libc::close(file);
    }
    assert_eq!(breach(), None);
}

/// Bytes of memory behind the pages that hold these programs.
fn resident(natives: &[Native]) -> usize {
    let text = std::fs::read_to_string("/proc/self/smaps").expect("the system lists mappings");
    let (mut bytes, mut ours) = (0, false);
    for line in text.lines() {
        let first = line.split_ascii_whitespace().next().unwrap_or_default();
        if let Some((start, end)) = first.split_once('-').filter(|_| !first.ends_with(':')) {
            let address = |text| usize::from_str_radix(text, 16).expect("an address");
            let range = address(start)..address(end);
            ours = natives.iter().any(|native| range.contains(&native.base()));
        } else if ours && let Some(size) = line.strip_prefix("Rss:") {
            let kilobytes = size.trim().trim_end_matches(" kB");
            bytes += kilobytes.parse::<usize>().expect("a number") << 10;
        }
    }
    bytes
}

#[test]
fn a_small_program_takes_at_most_8_kib() {
    let Some(options) = Options::host() else { return };
    let mut rng = Rng::new(300);
    let codes: Vec<_> = (0..100)
        .map(|_| {
            let mut insns = program(&mut rng, 300);
            let short = 300usize.saturating_sub(insns.len());
            let more = Insn::Alu { op: AluOp::Add, width: Width::W64, dst: Reg::R0, src: Operand::Imm(1) };
            insns.splice(0..0, std::iter::repeat_n(more, short));
            code(&insns, &options)
        })
        .collect();
    let mut natives = Vec::with_capacity(codes.len());
    let before = HELD.with(Cell::get);
    for code in &codes {
        natives.extend(publish(&[code], &TestLinker).expect("publishes"));
    }
    let heap = (HELD.with(Cell::get) - before) as usize;
    let pages = resident(&natives);
    let bytes = codes.iter().map(|code| code.bytes.len()).sum::<usize>() / codes.len();
    println!(
        "100 programs of 300 instructions or more, {bytes} bytes of code each: {} bytes of pages and {} of tables each",
        pages / 100,
        heap / 100
    );
    assert!(pages >= 100 * 4096, "the mappings were not found");
    assert!(pages + heap <= 100 * (8 << 10), "{} bytes each", (pages + heap) / 100);
}
