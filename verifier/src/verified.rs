//! The proof-carrying program.

use std::sync::Arc;

use rtbpf_abi::helper::{self, HelperProto, Lookup};
use rtbpf_abi::{AttachType, HelperId, MapSpec, Policy, ProgType, limits};
use rtbpf_btf::Btf;
use rtbpf_isa::Program;

use crate::facts::Facts;
use crate::lower::Lowering;
use crate::walked::{BlockStates, KeepStates};

/// Whose rules of budget and errno hold. Acceptance in either is a full proof of memory safety, lifetimes and leaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Profile {
    /// Linux 6.18's.
    #[default]
    Compat,
    /// A deterministic work budget; accepts safe programs that Linux refuses.
    Strict,
}

/// The capabilities of whoever loads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Privilege {
    /// CAP_BPF.
    pub bpf: bool,
    /// CAP_PERFMON.
    pub perfmon: bool,
    /// CAP_NET_ADMIN.
    pub net_admin: bool,
    /// CAP_SYS_ADMIN.
    pub sys_admin: bool,
}

impl Privilege {
    /// All capabilities.
    pub const ROOT: Privilege = Privilege { bpf: true, perfmon: true, net_admin: true, sys_admin: true };
    /// None.
    pub const NONE: Privilege = Privilege { bpf: false, perfmon: false, net_admin: false, sys_admin: false };
}

impl Default for Privilege {
    fn default() -> Privilege {
        Privilege::ROOT
    }
}

/// What a program is verified under; binding checks each of these against what it binds.
#[derive(Clone, Debug)]
pub struct Assumptions {
    /// Program type.
    pub prog_type: ProgType,
    /// Expected attach type, as the loader gave it; `None` is 0.
    pub attach_type: Option<AttachType>,
    /// The licence is GPL-compatible.
    pub gpl: bool,
    /// May sleep (`BPF_F_SLEEPABLE`).
    pub sleepable: bool,
    /// Load flags (`prog_flags`): 1 strict alignment, 2 any alignment, 8 frequent state checkpoints.
    pub prog_flags: u32,
    /// Maps by index.
    pub maps: Vec<Arc<MapSpec>>,
    /// The embedder's helpers, with their names.
    pub helpers: Vec<(String, HelperProto)>,
    /// Names of kernel functions by the id that calls use.
    pub kfuncs: Vec<(i32, String)>,
    /// Number of slots (CPUs).
    pub cpus: u32,
    /// Real-time policy.
    pub policy: Policy,
    /// The program's BTF: types of global functions.
    pub btf: Option<Arc<Btf>>,
    /// For a plain context: bytes behind R1 that every run has.
    pub plain_ctx_bytes: u32,
}

impl Assumptions {
    /// A privileged, GPL program without maps, under Linux 6.18's policy on two CPUs.
    pub fn new(prog_type: ProgType) -> Assumptions {
        Assumptions {
            prog_type,
            attach_type: None,
            gpl: true,
            sleepable: false,
            prog_flags: 0,
            maps: Vec::new(),
            helpers: Vec::new(),
            kfuncs: Vec::new(),
            cpus: 2,
            policy: Policy::V6_18,
            btf: None,
            plain_ctx_bytes: 0,
        }
    }

    /// What calling helper `number` gives: one of the embedder's, or one of Linux's.
    pub fn helper(&self, number: i32) -> Lookup<'_> {
        let id = HelperId(number as u32);
        match self.helpers.iter().find(|(_, proto)| proto.id == id) {
            Some((_, proto)) => Lookup::Found(proto),
            None => helper::proto(id, self.prog_type, self.attach_type, self.sleepable),
        }
    }
}

impl rtbpf_isa::text::Names for Assumptions {
    fn helper(&self, id: i32) -> Option<&str> {
        let id = HelperId(id as u32);
        let custom = self.helpers.iter().find(|(_, proto)| proto.id == id);
        custom.map(|(name, _)| name.as_str()).or_else(|| helper::name(id))
    }
}

/// When a path ends because what is left of it was walked before. All give the same verdict, as long as the budget
/// lasts: for tests of the verifier.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Pruning {
    /// In a state that an earlier one holds on all that it needed.
    #[default]
    Needed,
    /// In a state that an earlier one holds altogether.
    Whole,
    /// Never, but in loops that the language promises to end.
    Never,
}

/// How to verify.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Profile.
    pub profile: Profile,
    /// Privilege.
    pub privilege: Privilege,
    /// Bits of the kernel's log level: 1 paths, 2 every state, 4 statistics.
    pub log_level: u32,
    /// Instructions to process before giving up; `None`: the profile's.
    pub budget: Option<u64>,
    /// Where to keep the states that prove the program ([`VerifiedProgram::block_states`]). The verdict stays the same,
    /// except that a walk which would keep more than 150,000 states ends with `E2BIG`.
    pub keep_states: KeepStates,
    /// When paths end.
    pub pruning: Pruning,
}

impl Options {
    /// Instructions to process before giving up. Counted, not timed: the same program gets the same verdict anywhere.
    pub fn budget(&self) -> u64 {
        self.budget.unwrap_or(match self.profile {
            Profile::Compat => limits::MAX_PROCESSED_INSNS,
            Profile::Strict => 8 * limits::MAX_PROCESSED_INSNS,
        })
    }
}

/// How much was walked to reach a verdict.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Instructions processed, repeated walks counted.
    pub processed: u64,
    /// States that were kept for comparison.
    pub states: u64,
    /// The most of them at one time.
    pub peak_states: u64,
    /// The most of them that one arrival at an instruction was compared with in vain.
    pub max_states_per_insn: u32,
    /// The deepest stack of pending branches.
    pub pending: u32,
}

/// What a finished walk leaves behind.
pub(crate) struct Proof {
    pub facts: Facts,
    pub lowering: Lowering,
    pub stats: Stats,
    pub log: String,
    pub ctx_bytes_used: u32,
    pub object_bytes_used: u32,
    pub states: Option<BlockStates>,
}

/// A program the verifier accepted: what it ran under and what it found out. The only thing that engines without
/// checks take.
#[derive(Clone, Debug)]
pub struct VerifiedProgram {
    code: Program,
    given: Assumptions,
    proved: Facts,
    lowering: Lowering,
    stats: Stats,
    log: String,
    ctx_bytes_used: u32,
    object_bytes_used: u32,
    states: Option<Arc<BlockStates>>,
}

impl VerifiedProgram {
    /// Claims that `code` is safe under `given`, without a proof and without facts.
    ///
    /// For code-generation tests and test tools.
    ///
    /// # Safety
    ///
    /// Every access the program can make must be one that a proof would allow.
    #[allow(unsafe_code)]
    pub unsafe fn assume(code: Program, given: Assumptions) -> VerifiedProgram {
        VerifiedProgram {
            code,
            given,
            proved: Facts::none(),
            lowering: Lowering::identity(),
            stats: Stats::default(),
            log: String::new(),
            ctx_bytes_used: 0,
            object_bytes_used: 0,
            states: None,
        }
    }

    /// The only other way to make one: a finished proof.
    pub(crate) fn proven(code: Program, given: Assumptions, proof: Proof) -> VerifiedProgram {
        let Proof { facts, lowering, stats, log, ctx_bytes_used, object_bytes_used, states } = proof;
        let states = states.map(Arc::new);
        VerifiedProgram { code, given, proved: facts, lowering, stats, log, ctx_bytes_used, object_bytes_used, states }
    }

    /// How much was walked.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// The log, in the kernel's format; empty at level 0.
    pub fn log(&self) -> &str {
        &self.log
    }

    /// One past the highest byte of the context that some path touches.
    pub fn ctx_bytes_used(&self) -> u32 {
        self.ctx_bytes_used
    }

    /// One past the highest byte that some path touches of a kernel's structure or of a writable tracepoint's buffer. Linux
    /// compares the buffer's size when it attaches the program, and reads zeroes where a structure ends too early; engines
    /// without checks must have that many bytes behind each.
    pub fn object_bytes_used(&self) -> u32 {
        self.object_bytes_used
    }

    /// The program.
    pub fn code(&self) -> &Program {
        &self.code
    }

    /// What was assumed.
    pub fn given(&self) -> &Assumptions {
        &self.given
    }

    /// What was proved.
    pub fn proved(&self) -> &Facts {
        &self.proved
    }

    /// What engines without checks do differently from the instructions; holds with or without facts.
    pub fn lowering(&self) -> &Lowering {
        &self.lowering
    }

    /// The states that proved it, where [`Options::keep_states`] asked for them.
    pub fn block_states(&self) -> Option<&BlockStates> {
        self.states.as_deref()
    }

    /// The same program with no facts; engines must behave the same.
    pub fn without_facts(self) -> VerifiedProgram {
        VerifiedProgram { proved: Facts::none(), ..self }
    }
}
