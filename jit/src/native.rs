//! Published code and the call into it.

use std::ops::Range;
use std::sync::Arc;

use rtbpf_abi::frame::{EntryFn, RunFrame};
use rtbpf_isa::InsnIdx;

use crate::code::{self, Code, Unwind};
use crate::exec_mem::Pages;
use crate::tools::Registered;

/// A program in executable memory.
#[derive(Clone, Debug)]
pub struct Native {
    pages: Arc<Pages>,
    number: usize,
    entry: usize,
}

/// Where a program lies, and what its places mean.
#[derive(Debug)]
pub(crate) struct Placed {
    base: usize,
    bytes: u32,
    entry: u32,
    exit: Option<u32>,
    body: Range<u32>,
    offsets: Box<[u32]>,
    copies: Box<[(u32, InsnIdx)]>,
    functions: Box<[u32]>,
    callbacks: Box<[(u32, InsnIdx)]>,
    unwind: Box<[Unwind]>,
}

impl Placed {
    pub fn new(code: &Code, base: usize) -> Placed {
        Placed {
            base,
            bytes: code.bytes.len() as u32,
            entry: code.entry,
            exit: code.exit,
            body: code.body(),
            offsets: code.offsets.as_slice().into(),
            copies: code.copies.as_slice().into(),
            functions: code.functions.as_slice().into(),
            callbacks: code.callbacks.as_slice().into(),
            unwind: code.unwind.as_slice().into(),
        }
    }

    fn offset(&self, pc: usize) -> Option<u32> {
        u32::try_from(pc.checked_sub(self.base)?).ok().filter(|offset| *offset < self.bytes)
    }

    pub fn contains(&self, pc: usize) -> bool {
        self.offset(pc).is_some()
    }

    /// Where to go on from `pc` to leave the innermost entry, and the instruction there; `None` where the frame is not in
    /// its register.
    pub fn leave(&self, pc: usize) -> Option<(usize, InsnIdx)> {
        let in_body = self.offset(pc).is_some_and(|offset| self.body.contains(&offset));
        Some((self.base + self.exit.filter(|_| in_body)? as usize, self.insn_at(pc)?))
    }

    fn insn_at(&self, pc: usize) -> Option<InsnIdx> {
        code::insn_at(&self.offsets, &self.copies, self.offset(pc)?)
    }
}

impl Native {
    pub(crate) fn new(pages: Arc<Pages>, number: usize) -> Native {
        let placed = pages.program(number);
        let entry = placed.base + placed.entry as usize;
        Native { pages, number, entry }
    }

    fn placed(&self) -> &Placed {
        self.pages.program(self.number)
    }

    /// Address of the first byte.
    pub fn base(&self) -> usize {
        self.placed().base
    }

    /// The code as linked, without veneers.
    pub(crate) fn image(&self) -> &[u8] {
        // SAFETY: the bytes are readable while `pages` lives, as long as the reference does, and nobody writes to them.
        unsafe { std::slice::from_raw_parts(std::ptr::with_exposed_provenance(self.base()), self.code_bytes()) }
    }

    /// Where each function begins, from the first byte.
    pub(crate) fn functions(&self) -> &[u32] {
        &self.placed().functions
    }

    /// Where code of instructions begins, likewise; see [`Code::places`].
    pub(crate) fn places(&self) -> Vec<(u32, InsnIdx)> {
        let placed = self.placed();
        code::places(&placed.offsets, &placed.copies, placed.bytes)
    }

    /// What happens to frames, likewise.
    pub(crate) fn unwind(&self) -> &[Unwind] {
        &self.placed().unwind
    }

    /// Keeps an entry on a debugger's list for as long as the code.
    pub(crate) fn keep(&self, registered: Registered) {
        self.pages.keep(registered);
    }

    /// Bytes of code, without veneers.
    pub fn code_bytes(&self) -> usize {
        self.placed().bytes as usize
    }

    /// Address of the entry, an [`EntryFn`]: what a tail call's function returns for this program.
    #[inline]
    pub fn entry_address(&self) -> usize {
        self.entry
    }

    /// The entry as a function. It stays callable while a clone of this `Native` lives.
    #[inline]
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
    #[inline]
    pub unsafe fn call(&self, frame: &mut RunFrame) -> u64 {
        // SAFETY: the caller keeps the promises above; the rest is what verification proved.
        unsafe { (self.entry())(frame) }
    }

    /// The first instruction of the subprogram that helpers call by this address.
    pub fn callback_at(&self, address: usize) -> Option<InsnIdx> {
        let placed = self.placed();
        let offset = placed.offset(address)?;
        placed.callbacks.iter().find(|(known, _)| *known == offset).map(|(_, at)| *at)
    }

    /// The instruction whose code holds the address `pc`.
    pub fn insn_at(&self, pc: usize) -> Option<InsnIdx> {
        self.placed().insn_at(pc)
    }
}
