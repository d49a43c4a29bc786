//! The threaded interpreter [unsafe room]: runs verified programs without checks where there is no native code.
//!
//! ```text
//! op 0 ──▶ op 1 ──▶ op 2 ─┐      each operation holds the address of the function that performs it,
//!            ▲            │      and that function ends with a jump to the next operation's
//!            └────────────┘
//! ```
//!
//! Three ways to dispatch were measured on a hash and a byte scan (ns an operation): one `match` in a loop 1.6 and 1.7, functions
//! that return the next one 5.9 and 3.1, functions that call the next one last 0.9 and 1.2. Optimised, such a call is a
//! jump, but stable Rust does not promise it: `op` therefore bounds how many may nest.

mod flow;
mod fuse;
mod op;
mod ops;
mod translate;

use std::sync::Arc;

use rtbpf_abi::frame::RunFrame;
use rtbpf_isa::InsnIdx;
use rtbpf_maps::MapRef;
use rtbpf_verifier::VerifiedProgram;

use crate::engine::Engine;
use crate::error::Error;
use crate::unchecked::{Code, Unchecked};
use op::{At, Machine, Op};

/// A verified program for the threaded interpreter, bound to maps and helpers. Cheap to clone.
pub type Threaded = Unchecked<Thread>;

/// A program's operations.
#[derive(Clone)]
pub struct Thread {
    ops: Arc<[Op]>,
    /// Where subprograms begin: operation and instruction.
    starts: Arc<[(u32, InsnIdx)]>,
}

impl std::fmt::Debug for Thread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Thread").field("ops", &self.ops.len()).finish_non_exhaustive()
    }
}

impl Thread {
    fn entry(&self) -> At {
        // SAFETY: translation leaves no program empty; the operations live as long as the program that runs.
        unsafe { At::new(self.ops.as_ptr()) }
    }

    /// The subprogram that a callback argument names.
    pub(crate) fn callback_at(&self, address: u64) -> Option<InsnIdx> {
        let at = address.checked_sub(self.entry().address())? / size_of::<Op>() as u64;
        self.starts.iter().find(|(start, _)| u64::from(*start) == at).map(|(_, insn)| *insn)
    }
}

impl Code for Thread {
    fn bind(engine: &Engine, verified: VerifiedProgram, maps: Vec<MapRef>) -> Result<Threaded, Error> {
        engine.bind_threaded(verified, maps)
    }

    // SAFETY: operations trust what `Code::call` asks for: the proof, the frame and its host.
    unsafe fn call(&self, frame: &mut RunFrame) -> u64 {
        let mut machine = Machine::new(frame);
        machine.run(self.entry());
        machine.regs[0]
    }
}

impl Engine {
    /// Binds a verified program to live maps for the threaded interpreter, which every machine has.
    ///
    /// Fails with [`Error::NoNativeCode`] where the program needs what only [`Engine::bind`] has: kernel functions,
    /// kernel variables, a clock that ends runs.
    pub fn bind_threaded(&self, verified: VerifiedProgram, maps: Vec<MapRef>) -> Result<Threaded, Error> {
        let metered = self.metered_unchecked(&verified)?;
        let exe = self.bind(verified.clone(), maps)?;
        let code = translate::translate(&verified, exe.bound(), metered)?;
        // A program is bound once, so the cell is empty.
        let _ = exe.bound().threaded.set(code.clone());
        Ok(Unchecked { exe, code })
    }
}
