//! What can go wrong: errors of setting up, and faults of running.

use rtbpf_isa::{BadField, DecodeError, InsnIdx, Program, SourceLine};
use rtbpf_verifier::Rejection;

use crate::region::RegionKind;

/// Why something could not be set up or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bytes are not a program.
    #[error("cannot decode the program: {0}")]
    Decode(#[from] DecodeError),
    /// The verifier refused it.
    #[error("program refused: {0}")]
    Rejected(#[from] Box<Rejection>),
    /// The bytes are not a BPF object, or their parts do not fit together.
    #[error(transparent)]
    Object(#[from] rtbpf_loader::Error),
    /// The object has no program of this name.
    #[error("no program `{name}`; the object has {}", listed(.known))]
    NoSuchProgram {
        /// As asked for.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// The object has no variable of this name.
    #[error("no variable `{name}`; the object has {}", listed(.known))]
    NoSuchVariable {
        /// As asked for.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// A map could not be made or filled.
    #[error("{kind} `{map}`: {source}")]
    Map {
        /// Its name.
        map: String,
        /// Its kind.
        kind: &'static str,
        /// Linux's answer.
        source: rtbpf_maps::MapError,
    },
    /// The object has no map of this name.
    #[error("no map `{name}`; the object has {}", listed(.known))]
    NoMapNamed {
        /// As given.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// A map that was given differs from what the object says of it.
    #[error("map `{map}` is not what the object wants: {what} differs")]
    MapUnlike {
        /// Its name.
        map: String,
        /// Which attribute.
        what: &'static str,
    },
    /// A map operation failed.
    #[error(transparent)]
    MapOperation(#[from] rtbpf_maps::MapError),
    /// The program names a map that was not given.
    #[error("instruction {at} names map {map}, but only {given} maps were given")]
    NoSuchMap {
        /// The instruction.
        at: InsnIdx,
        /// The map's index.
        map: u32,
        /// How many there are.
        given: usize,
    },
    /// What is bound differs from what the proof assumed.
    #[error("map {map} is not what the program was verified with: {what} differs")]
    MapDiffers {
        /// The map's index.
        map: usize,
        /// Which attribute.
        what: &'static str,
    },
    /// The context was built for another program type.
    #[error("a {program} program cannot run on a {context} context")]
    WrongContext {
        /// The program's type.
        program: &'static str,
        /// The context's type.
        context: &'static str,
    },
    /// The context's bytes have the wrong size or contents.
    #[error("{0}")]
    Context(#[from] crate::ctx::CtxError),
    /// The context is shorter than what the program was verified with.
    #[error("the context has {given} bytes, the program was verified with {needed}")]
    ShortContext {
        /// Bytes.
        needed: usize,
        /// Bytes.
        given: usize,
    },
    /// There is no native code for it; the interpreter runs it.
    #[error("no native code: {0}")]
    NoNativeCode(String),
    /// A profiler or debugger that was to be told of native code cannot be.
    #[error("telling tools of native code: {0}")]
    Tools(String),
    /// A name that is taken.
    #[error("a helper named {0} exists already")]
    HelperExists(String),
    /// The run ended early.
    #[error(transparent)]
    Fault(#[from] Box<Fault>),
}

/// Why a run ended early, and where.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
#[error("{kind} at instruction {slot}{}", place(.line.as_ref()))]
pub struct Fault {
    /// What happened.
    pub kind: FaultKind,
    /// The instruction.
    pub at: InsnIdx,
    /// Its first slot, as logs and disassembly count.
    pub slot: u32,
    /// Its source line, where known.
    pub line: Option<SourceLine>,
}

impl Fault {
    /// `kind` at instruction `at` of `program`.
    pub(crate) fn new(kind: FaultKind, at: InsnIdx, program: &Program) -> Box<Fault> {
        Box::new(Fault { kind, at, slot: program.slot(at), line: program.line(at).cloned() })
    }
}

/// Names in a sentence; a long list is cut.
fn listed(names: &[String]) -> String {
    const SHOWN: usize = 12;
    match names {
        [] => "none".into(),
        names if names.len() <= SHOWN => names.join(", "),
        names => format!("{} and {} more", names[..SHOWN].join(", "), names.len() - SHOWN),
    }
}

fn place(line: Option<&SourceLine>) -> String {
    match line {
        Some(line) if line.text.is_empty() => format!(" ({}:{})", line.file, line.line),
        Some(line) => format!(" ({}:{}: {})", line.file, line.line, line.text.trim()),
        None => String::new(),
    }
}

/// What a program did, or what ended it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum FaultKind {
    #[error("access through the null pointer (address {value:#x})")]
    NullPointer { value: u64 },
    #[error("access through {value:#x}, which is not a pointer")]
    NotAPointer { value: u64 },
    #[error("access through {value:#x}, a pointer to something that is gone")]
    StalePointer { value: u64 },
    #[error("{} of {size} bytes at {}{off:+} (size {len})", access(*.write), .region.name())]
    OutOfBounds { region: RegionKind, off: i64, size: u64, len: u32, write: bool },
    #[error("{} of a {} is not allowed", access(*.write), .region.name())]
    Denied { region: RegionKind, write: bool },
    #[error("{} of {size} bytes at context offset {off}", access(*.write))]
    Context { off: i64, size: u32, write: bool },
    #[error("invalid instruction: {0:?}")]
    BadInsn(BadField),
    #[error("write to the frame pointer r10")]
    FramePointer,
    #[error("execution ran past the last instruction")]
    PastEnd,
    #[error("call through a register (callx) is not part of any kernel's instruction set")]
    CallReg,
    #[error("unknown helper {0}, or one that this program type may not call")]
    UnknownHelper(i32),
    #[error("helper {0} has no function in this build")]
    NoHelper(&'static str),
    #[error("unknown kernel function {0}")]
    UnknownKfunc(i32),
    #[error("argument {arg} of {helper}: {why}")]
    Argument { helper: String, arg: u8, why: Box<FaultKind> },
    #[error("expected {expected}, found {found:#x}")]
    Expected { expected: &'static str, found: u64 },
    #[error("{0} frames of calls (at most {max})", max = rtbpf_abi::limits::MAX_FRAMES)]
    CallDepth(usize),
    #[error("more than 2^24 live objects in one run")]
    TooManyRegions,
    #[error("kernel variable {0} does not exist here")]
    NoVariable(u32),
    #[error("address-space casts need an arena map")]
    NoArena,
    #[error("legacy packet load without a packet context in r6")]
    NoPacket,
    #[error("instruction limit reached")]
    OutOfFuel,
    #[error("deadline passed")]
    Deadline,
    #[error("cancelled")]
    Cancelled,
    #[error("helper {0} panicked")]
    HelperPanicked(String),
    #[error("bpf_throw({0:#x})")]
    Thrown(u64),
    #[error("native code used the address {address:#x}, where its proof allows no access")]
    NativeMemory { address: u64 },
    #[error("native code came to an operation that its proof excludes")]
    NativeTrap,
    #[error("the verifier's claim does not hold: {0}")]
    FactBroken(&'static str),
}

fn access(write: bool) -> &'static str {
    if write { "write" } else { "read" }
}
