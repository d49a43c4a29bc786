//! Published code and the call into it.

use std::sync::Arc;

use rtbpf_abi::frame::{EntryFn, RunFrame};
use rtbpf_isa::InsnIdx;

use crate::code::Code;
use crate::exec_mem::Pages;

/// A program in executable memory.
#[derive(Clone, Debug)]
pub struct Native {
    pages: Arc<Pages>,
    place: usize,
    bytes: u32,
    entry: u32,
    exit: u32,
    offsets: Arc<[u32]>,
    callbacks: Arc<[(u32, InsnIdx)]>,
}

impl Native {
    pub(crate) fn new(code: &Code, pages: Arc<Pages>, place: usize) -> Native {
        let bytes = code.bytes.len() as u32;
        Native {
            pages,
            place,
            bytes,
            entry: code.entry,
            exit: code.exit,
            offsets: code.offsets.as_slice().into(),
            callbacks: code.callbacks.as_slice().into(),
        }
    }

    /// Address of the first byte.
    pub fn base(&self) -> usize {
        self.pages.base() + self.place
    }

    /// Bytes of code, without veneers.
    pub fn code_bytes(&self) -> usize {
        self.bytes as usize
    }

    /// Address of the entry, an [`EntryFn`]: what a tail call's function returns for this program.
    pub fn entry_address(&self) -> usize {
        self.base() + self.entry as usize
    }

    /// Address that leaves the innermost entry, for a fault handler.
    pub fn exit_address(&self) -> usize {
        self.base() + self.exit as usize
    }

    /// The entry as a function. It stays callable while a clone of this `Native` lives.
    pub fn entry(&self) -> EntryFn {
        // SAFETY: the address is that of code which was generated as an `EntryFn` and is executable while `pages`
        // lives.
        unsafe { std::mem::transmute::<usize, EntryFn>(self.entry_address()) }
    }

    /// Runs the program.
    ///
    /// # Safety
    ///
    /// * `frame.ctx` points to a native context of the layout that the program was verified under, valid for the run.
    /// * `frame.stack_top` is 8-byte aligned, with 512 writable bytes below it for each frame of the deepest call
    ///   chain, and nobody else uses them during the run.
    /// * `frame.cancel` points to a readable word if the code was compiled to test it.
    /// * What the linker resolved at publication is still valid.
    pub unsafe fn call(&self, frame: &mut RunFrame) -> u64 {
        // SAFETY: the caller keeps the promises above; the rest is what verification proved.
        unsafe { (self.entry())(frame) }
    }

    /// The first instruction of the subprogram that helpers call by this address.
    pub fn callback_at(&self, address: usize) -> Option<InsnIdx> {
        let offset = u32::try_from(address.checked_sub(self.base())?).ok()?;
        self.callbacks.iter().find(|(known, _)| *known == offset).map(|(_, at)| *at)
    }

    /// The instruction whose code holds the address `pc`.
    pub fn insn_at(&self, pc: usize) -> Option<InsnIdx> {
        let offset = u32::try_from(pc.checked_sub(self.base())?).ok().filter(|offset| *offset < self.bytes)?;
        let before = self.offsets.iter().enumerate().filter(|(_, start)| **start <= offset);
        before.max_by_key(|(_, start)| **start).map(|(at, _)| InsnIdx(at as u32))
    }
}
