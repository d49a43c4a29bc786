//! Read-modify-write operations and ordered accesses.
//!
//! What fetches is sequentially consistent, the rest is relaxed, as Linux has it: `*al` instructions, or a loop over
//! `ldxr` and `stlxr` with a full barrier behind it (kernel documentation, atomic_t).

use rtbpf_isa::{AtomicOp, Size, Width};

use super::branch;
use super::regs::{Gpr, MAP, Mem, T0, T1, T2, T3};
use super::{A64, alu, mem};
use crate::encode::Reach;
use rtbpf_isa::CmpOp;

const R0: Gpr = MAP[0];

/// The address in a register, as these instructions want it.
fn address(e: &mut A64, mem: Mem) -> Gpr {
    if mem.disp == 0 && mem.index.is_none() {
        return mem.base;
    }
    mem::lea(e, Width::W64, T1, mem);
    T1
}

macro_rules! lse {
    ($e:expr, $w:expr ; $mnemonic:ident $s:ident, $d:ident, $at:ident) => {
        match $w {
            Width::W32 => asm!($e.asm ; $mnemonic W($s), W($d), [X($at)]),
            Width::W64 => asm!($e.asm ; $mnemonic X($s), X($d), [X($at)]),
        }
    };
}

pub(super) fn atomic(e: &mut A64, op: AtomicOp, fetch: bool, w: Width, mem: Mem, src: Gpr) {
    let at = address(e, mem);
    match (op, fetch, e.features.lse) {
        (_, _, false) => exclusive(e, op, fetch, w, at, src),
        (AtomicOp::Add, true, true) => lse!(e, w ; ldaddal src, src, at),
        (AtomicOp::Or, true, true) => lse!(e, w ; ldsetal src, src, at),
        (AtomicOp::Xor, true, true) => lse!(e, w ; ldeoral src, src, at),
        (AtomicOp::And, _, true) => {
            let (clear, old) = (T0, if fetch { src } else { T2 });
            wx!(e, w ; mvn clear, src);
            match fetch {
                true => lse!(e, w ; ldclral clear, old, at),
                false => lse!(e, w ; ldclr clear, old, at),
            }
        }
        (AtomicOp::Xchg, _, true) => lse!(e, w ; swpal src, src, at),
        (AtomicOp::Cmpxchg, _, true) => {
            let expected = R0;
            lse!(e, w ; casal expected, src, at);
        }
        (AtomicOp::Add, false, true) => {
            let old = T2;
            lse!(e, w ; ldadd src, old, at);
        }
        (AtomicOp::Or, false, true) => {
            let old = T2;
            lse!(e, w ; ldset src, old, at);
        }
        (AtomicOp::Xor, false, true) => {
            let old = T2;
            lse!(e, w ; ldeor src, old, at);
        }
    }
}

fn exclusive(e: &mut A64, op: AtomicOp, fetch: bool, w: Width, at: Gpr, src: Gpr) {
    let ordered = fetch || matches!(op, AtomicOp::Xchg | AtomicOp::Cmpxchg);
    let (again, done) = (e.asm.label(), e.asm.label());
    let (new, old, failed) = (T0, T2, T3);
    e.asm.bind(again);
    match w {
        Width::W32 => asm!(e.asm ; ldxr W(old), [X(at)]),
        Width::W64 => asm!(e.asm ; ldxr X(old), [X(at)]),
    }
    let stored = match op {
        AtomicOp::Add => {
            wx!(e, w ; add new, old, src);
            new
        }
        AtomicOp::Or => {
            wx!(e, w ; orr new, old, src);
            new
        }
        AtomicOp::And => {
            wx!(e, w ; and new, old, src);
            new
        }
        AtomicOp::Xor => {
            wx!(e, w ; eor new, old, src);
            new
        }
        AtomicOp::Xchg => src,
        AtomicOp::Cmpxchg => {
            branch::branch(e, CmpOp::Ne, w, old, crate::encode::Rhs::Reg(R0), done, Reach::Near);
            src
        }
    };
    match (w, ordered) {
        (Width::W32, true) => asm!(e.asm ; stlxr W(failed), W(stored), [X(at)]),
        (Width::W64, true) => asm!(e.asm ; stlxr W(failed), X(stored), [X(at)]),
        (Width::W32, false) => asm!(e.asm ; stxr W(failed), W(stored), [X(at)]),
        (Width::W64, false) => asm!(e.asm ; stxr W(failed), X(stored), [X(at)]),
    }
    branch::branch(e, CmpOp::Ne, Width::W32, failed, crate::encode::Rhs::Imm(0), again, Reach::Near);
    e.asm.bind(done);
    if ordered {
        asm!(e.asm ; dmb ish);
        alu::mov(e, w, if op == AtomicOp::Cmpxchg { R0 } else { src }, old);
    }
}

pub(super) fn load_acquire(e: &mut A64, size: Size, d: Gpr, mem: Mem) {
    let at = address(e, mem);
    match size {
        Size::B => asm!(e.asm ; ldarb W(d), [X(at)]),
        Size::H => asm!(e.asm ; ldarh W(d), [X(at)]),
        Size::W => asm!(e.asm ; ldar W(d), [X(at)]),
        Size::D => asm!(e.asm ; ldar X(d), [X(at)]),
    }
}

pub(super) fn store_release(e: &mut A64, size: Size, mem: Mem, s: Gpr) {
    let at = address(e, mem);
    match size {
        Size::B => asm!(e.asm ; stlrb W(s), [X(at)]),
        Size::H => asm!(e.asm ; stlrh W(s), [X(at)]),
        Size::W => asm!(e.asm ; stlr W(s), [X(at)]),
        Size::D => asm!(e.asm ; stlr X(s), [X(at)]),
    }
}
