//! Inputs and engines that the benches share.

pub mod runs;
pub mod shapes;

use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::ptr;

use rtbpf_abi::ProgType;
use rtbpf_abi::frame::{EntryFn, FaultCode, RunFrame};
use rtbpf_isa::{RawInsn, decode};
use rtbpf_jit::{Native, NoLinker, Options, compile, publish};
use rtbpf_verifier::{Assumptions, VerifiedProgram};

/// Bytes of memory that each compute program works on.
pub const MEM: usize = 4096;

/// A recorded compute program.
pub struct Recorded {
    /// Its name in `programs.c`.
    pub name: String,
    /// Its instructions, 8 bytes each.
    pub bytes: Vec<u8>,
    /// The same for engines that know no more than version 3 of the instruction set, where that is another program.
    pub v3: Option<Vec<u8>>,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("programs")
}

/// All recorded programs, by name.
///
/// # Panics
///
/// When the folder cannot be read: there is nothing to measure then.
pub fn recorded() -> Vec<Recorded> {
    let entries = std::fs::read_dir(folder()).expect("the recorded programs are part of the package");
    let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "bpf"));
    files.sort();
    let name = |file: &Path| file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let read = |file: PathBuf| Recorded {
        name: name(&file),
        bytes: std::fs::read(&file).expect("a readable file"),
        v3: std::fs::read(file.with_extension("v3")).ok(),
    };
    files.into_iter().map(read).collect()
}

/// A program taken as verified. The recorded ones stay within their 4096 bytes and their stack, by their source.
///
/// # Panics
///
/// When the bytes are not a program.
pub fn assumed(bytes: &[u8]) -> VerifiedProgram {
    let slots = RawInsn::parse_all(bytes).expect("whole instructions");
    let program = decode(&slots).expect("a well-formed program");
    // SAFETY: the source in programs.c bounds every access by 4096 bytes of memory or by a local array.
    unsafe { VerifiedProgram::assume(program, Assumptions::new(ProgType::Plain)) }
}

/// Compiles and publishes.
///
/// # Panics
///
/// When a recorded program has no native code.
pub fn native(program: &VerifiedProgram, options: &Options) -> Native {
    let code = compile(program, &NoLinker, options).expect("the recorded programs have native code");
    publish(&[&code], &NoLinker).expect("publishes").remove(0)
}

/// A frame and what it points to.
pub struct Run {
    frame: RunFrame,
    mem: Vec<u64>,
    _stack: Vec<u64>,
    _cancel: Box<u32>,
    entry: EntryFn,
    _native: Native,
}

impl Run {
    /// A run of `native` on `mem`.
    pub fn new(native: Native, mem: &[u64]) -> Run {
        let (mut mem, mut stack, cancel) = (mem.to_vec(), vec![0u64; 512], Box::new(0));
        let frame = RunFrame {
            ctx: mem.as_mut_ptr().cast(),
            stack_top: stack.as_mut_ptr_range().end.cast(),
            fuel: i64::MAX,
            fault: FaultCode::None,
            fault_at: RunFrame::NOWHERE,
            tail_calls: 0,
            cpu: 0,
            entry_sp: 0,
            data: ptr::null_mut(),
            data_end: ptr::null_mut(),
            data_meta: ptr::null_mut(),
            cancel: &raw const *cancel,
            host: ptr::null_mut(),
            stack: ptr::null_mut(),
            second: MEM as u64,
            helper: 0,
        };
        let entry = native.entry();
        Run { frame, mem, _stack: stack, _cancel: cancel, entry, _native: native }
    }

    /// Runs it once.
    #[inline]
    pub fn run(&mut self) -> u64 {
        // SAFETY: the frame points to memory and stack that `self` owns, of the sizes that `assumed` argues with.
        unsafe { (self.entry)(&mut self.frame) }
    }

    /// The memory behind R1.
    pub fn mem(&self) -> &[u64] {
        &self.mem
    }
}

/// A function of `programs.c`, compiled for this machine.
pub type Compiled = unsafe extern "C" fn(*mut u8, u64) -> u64;

/// `programs.c` as a shared object, without vectorisation.
pub struct Library(*mut libc::c_void);

impl Library {
    /// Compiles and loads it; `None` (and a line that says why) without a compiler.
    pub fn compiled() -> Option<Library> {
        let output = std::env::temp_dir().join(format!("rtbpf-benches-{}.so", std::process::id()));
        let compiler = std::env::var("CC").unwrap_or_else(|_| "clang-19".into());
        let flags = ["-O2", "-fno-builtin", "-fno-vectorize", "-fno-slp-vectorize", "-shared", "-fPIC", "-o"];
        let done = Command::new(&compiler).args(flags).arg(&output).arg(folder().join("programs.c")).status();
        if !done.is_ok_and(|status| status.success()) {
            println!("skipped: native twins, because {compiler} did not compile programs.c");
            return None;
        }
        let path = CString::new(output.to_string_lossy().as_bytes()).ok()?;
        // SAFETY: the object was just compiled from our source and has no constructors.
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) };
        let _ = std::fs::remove_file(output);
        (!handle.is_null()).then_some(Library(handle))
    }

    /// A function by name.
    pub fn get(&self, name: &str) -> Option<Compiled> {
        let name = CString::new(name).ok()?;
        // SAFETY: the handle is live.
        let found = unsafe { libc::dlsym(self.0, name.as_ptr()) };
        // SAFETY: every function of programs.c has this type.
        (!found.is_null()).then(|| unsafe { std::mem::transmute::<*mut libc::c_void, Compiled>(found) })
    }
}

/// Memory with the same contents in every run.
pub fn memory() -> Vec<u64> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    std::iter::repeat_with(next).take(MEM / 8).collect()
}
