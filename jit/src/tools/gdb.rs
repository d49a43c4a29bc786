//! GDB's JIT interface [unsafe room]: a list of object files in memory, and a function on which GDB has a breakpoint.
//!
//! GDB manual, "JIT Compilation Interface". The two symbols are weak: where another compiler in the process defines them,
//! its list is used, and there is one list a process as there must be.

use std::ptr;
use std::sync::{Mutex, PoisonError};

/// `struct jit_code_entry`.
#[repr(C)]
struct Entry {
    next: *mut Entry,
    prev: *mut Entry,
    symfile: *const u8,
    bytes: u64,
}

/// `struct jit_descriptor`.
#[repr(C)]
struct Descriptor {
    version: u32,
    action: u32,
    relevant: *mut Entry,
    first: *mut Entry,
}

const REGISTER: u32 = 1;
const UNREGISTER: u32 = 2;

std::arch::global_asm!(
    ".pushsection .text.__jit_debug_register_code,\"ax\"",
    ".weak __jit_debug_register_code",
    ".type __jit_debug_register_code, %function",
    "__jit_debug_register_code:",
    "ret",
    ".size __jit_debug_register_code, . - __jit_debug_register_code",
    ".popsection",
    ".pushsection .data.__jit_debug_descriptor,\"aw\"",
    ".weak __jit_debug_descriptor",
    ".type __jit_debug_descriptor, %object",
    ".balign 8",
    "__jit_debug_descriptor:",
    ".long 1, 0",
    ".quad 0, 0",
    ".size __jit_debug_descriptor, 24",
    ".popsection",
);

// SAFETY: both are as GDB's manual defines them: the list has two words and two pointers, the function takes nothing.
unsafe extern "C" {
    static mut __jit_debug_descriptor: Descriptor;
    fn __jit_debug_register_code();
}

/// Our entries on GDB's list. Taken while the list changes; no other lock is taken under it.
static LIST: Mutex<()> = Mutex::new(());

/// An object file on GDB's list, until dropped.
pub(crate) struct Registered {
    entry: *mut Entry,
    _symfile: Box<[u8]>,
}

// SAFETY: the entry is touched under `LIST` only.
unsafe impl Send for Registered {}
// SAFETY: as above.
unsafe impl Sync for Registered {}

impl std::fmt::Debug for Registered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registered").finish_non_exhaustive()
    }
}

/// Puts an object file onto the list.
pub(super) fn register(symfile: Vec<u8>) -> Registered {
    let symfile: Box<[u8]> = symfile.into();
    let _list = LIST.lock().unwrap_or_else(PoisonError::into_inner);
    let descriptor = &raw mut __jit_debug_descriptor;
    // SAFETY: the list is ours while we hold its lock; entries on it are alive, ours until their `Registered` drops.
    unsafe {
        let next = (*descriptor).first;
        let new = Entry { next, prev: ptr::null_mut(), symfile: symfile.as_ptr(), bytes: symfile.len() as u64 };
        let entry = Box::into_raw(Box::new(new));
        if let Some(next) = next.as_mut() {
            next.prev = entry;
        }
        (*descriptor).first = entry;
        (*descriptor).relevant = entry;
        (*descriptor).action = REGISTER;
        __jit_debug_register_code();
        Registered { entry, _symfile: symfile }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let _list = LIST.lock().unwrap_or_else(PoisonError::into_inner);
        let descriptor = &raw mut __jit_debug_descriptor;
        // SAFETY: the list is ours while we hold its lock; the entry is on it, put there by `register`, and freed once.
        unsafe {
            let Entry { next, prev, .. } = *self.entry;
            match prev.as_mut() {
                Some(prev) => prev.next = next,
                None => (*descriptor).first = next,
            }
            if let Some(next) = next.as_mut() {
                next.prev = prev;
            }
            (*descriptor).relevant = self.entry;
            (*descriptor).action = UNREGISTER;
            __jit_debug_register_code();
            drop(Box::from_raw(self.entry));
        }
    }
}
