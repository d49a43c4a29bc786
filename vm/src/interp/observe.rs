//! Watching a run: coverage, traces, profiles, tests.

use rtbpf_isa::{Callee, InsnIdx, Reg};
use rtbpf_maps::MapRef;

/// Watches the checked interpreter. Every method does nothing by default, and `()` watches nothing: the calls then
/// compile away.
pub trait Observer {
    /// The instruction at `at` is about to run with these registers.
    #[inline(always)]
    fn insn(&mut self, at: InsnIdx, regs: &[u64; Reg::COUNT]) {
        let _ = (at, regs);
    }

    /// A conditional jump was decided.
    #[inline(always)]
    fn branch(&mut self, at: InsnIdx, taken: bool) {
        let _ = (at, taken);
    }

    /// A call is about to happen with these arguments.
    #[inline(always)]
    fn call(&mut self, at: InsnIdx, callee: Callee, args: &[u64; 5]) {
        let _ = (at, callee, args);
    }

    /// A helper returned this.
    #[inline(always)]
    fn returned(&mut self, at: InsnIdx, value: u64) {
        let _ = (at, value);
    }

    /// A helper is about to work on this map.
    #[inline(always)]
    fn map_access(&mut self, at: InsnIdx, map: &MapRef) {
        let _ = (at, map);
    }
}

impl Observer for () {}

impl<O: Observer + ?Sized> Observer for &mut O {
    fn insn(&mut self, at: InsnIdx, regs: &[u64; Reg::COUNT]) {
        (**self).insn(at, regs);
    }

    fn branch(&mut self, at: InsnIdx, taken: bool) {
        (**self).branch(at, taken);
    }

    fn call(&mut self, at: InsnIdx, callee: Callee, args: &[u64; 5]) {
        (**self).call(at, callee, args);
    }

    fn returned(&mut self, at: InsnIdx, value: u64) {
        (**self).returned(at, value);
    }

    fn map_access(&mut self, at: InsnIdx, map: &MapRef) {
        (**self).map_access(at, map);
    }
}
