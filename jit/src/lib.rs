//! Native code for verified programs, on x86_64 and aarch64.
//!
//! ```text
//! VerifiedProgram ──compile──▶ Code ──publish──▶ Native ──call──▶ R0 or fault
//!                  bytes,             fresh pages,     RunFrame
//!                  relocations        RW then RX
//! ```
//!
//! [`compile`] runs on any host for either architecture and touches no executable memory. `docs/jit-abi.md` tells how
//! code, helpers and host agree.

pub mod a64;
pub mod abi;
pub mod asm;
mod blind;
pub mod code;
pub mod elf;
pub mod encode;
pub mod exec_mem;
mod fast;
pub mod link;
pub mod linker;
pub mod native;
pub mod opt;
pub mod pages;
mod plan;
pub mod tools;
pub mod trap;
pub mod x64;

use rtbpf_verifier::VerifiedProgram;

pub use code::{Arch, Code, CompileError, Reloc, RelocKind, Step, Symbol, Unwind};
pub use exec_mem::{PublishError, publish};
pub use linker::{ArrayLookup, HelperTraits, Linker, NoLinker};
pub use native::Native;
pub use opt::Techniques;
pub use tools::Tools;

use asm::Asm;
use encode::Encode;

/// What to generate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// For which processor.
    pub arch: Arch,
    /// What it has beyond its base.
    pub features: Features,
    /// Count source instructions and stop when `RunFrame::fuel` does not suffice for the next block.
    pub fuel: bool,
    /// Stop at the next block when `*RunFrame::cancel` is not 0.
    pub cancel: bool,
    /// The techniques of the optimising tier; `None` is the fast tier.
    pub optimise: Option<Techniques>,
    /// For programs that may be hostile: their constants do not appear in the code, and what is called by address begins
    /// with a landing pad. A number that nobody can guess; the fast tier is used. `None` for trusted programs.
    pub harden: Option<u64>,
}

/// Optional parts of instruction sets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Features {
    /// x86_64: three-operand shifts (BMI2).
    pub bmi2: bool,
    /// aarch64: single-instruction atomics (LSE).
    pub lse: bool,
}

impl Features {
    /// Those of this machine.
    pub fn host() -> Features {
        let mut features = Features::default();
        #[cfg(target_arch = "x86_64")]
        {
            features.bmi2 = std::arch::is_x86_feature_detected!("bmi2");
        }
        #[cfg(target_arch = "aarch64")]
        {
            features.lse = std::arch::is_aarch64_feature_detected!("lse");
        }
        features
    }
}

impl Options {
    /// For this machine, without metering; `None` on machines that are not ours.
    pub fn host() -> Option<Options> {
        Some(Options {
            arch: Arch::host()?,
            features: Features::host(),
            fuel: false,
            cancel: false,
            optimise: Some(Techniques::ALL),
            harden: None,
        })
    }
}

/// Compiles a program, in one pass or optimised.
///
/// Errors name an instruction without native code; the interpreter runs such programs.
pub fn compile(program: &VerifiedProgram, linker: &dyn Linker, options: &Options) -> Result<Code, CompileError> {
    let insns = program.code().len();
    let asm = Asm::new(insns * 6 + 256, insns);
    match options.arch {
        Arch::X86_64 => {
            let mut e = x64::X64::new(asm, x64::Features { bmi2: options.features.bmi2 });
            let entries = fast::emit(&mut e, program, linker, options)?;
            finish(options, e, entries, insns)
        }
        Arch::Aarch64 => {
            let mut e = a64::A64::new(asm, a64::Features { lse: options.features.lse });
            let entries = fast::emit(&mut e, program, linker, options)?;
            finish(options, e, entries, insns)
        }
    }
}

fn finish<E: Encode>(options: &Options, mut e: E, entries: fast::Entries, insns: usize) -> Result<Code, CompileError> {
    let place = |asm: &Asm, label: asm::Label| asm.place(label).ok_or(CompileError::Unbound { label: label.0 });
    let entry = place(e.asm(), entries.entry)?;
    let exit = entries.exit.map(|exit| place(e.asm(), exit)).transpose()?;
    let callbacks = entries.callbacks.into_iter().map(|(stub, at)| Ok((place(e.asm(), stub)?, at)));
    let callbacks = callbacks.collect::<Result<Vec<_>, CompileError>>()?;
    let functions = entries.functions.into_iter().map(|start| place(e.asm(), start));
    let functions = functions.collect::<Result<Vec<_>, CompileError>>()?;
    let asm = std::mem::replace(e.asm(), Asm::new(0, 0));
    let done = asm.finish(insns)?;
    let (arch, landing_pads) = (options.arch, options.harden.is_some());
    Ok(Code {
        arch,
        bytes: done.bytes,
        entry,
        exit,
        relocs: done.relocs,
        offsets: done.places,
        copies: done.copies,
        functions,
        callbacks,
        unwind: done.unwind,
        landing_pads,
    })
}
