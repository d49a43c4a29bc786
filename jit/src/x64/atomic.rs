//! Read-modify-write operations. All are sequentially consistent, more than the model asks.

use rtbpf_isa::{AtomicOp, Width};

use super::branch::{self, Cc};
use super::regs::{Gpr, Mem, T0, T1, T2};
use super::{Op, Rm, X64, alu, mem};

const fn lock(code: u16) -> Op {
    Op { prefix: 0xf0, code, bytes: false }
}

pub(super) fn atomic(e: &mut X64, op: AtomicOp, fetch: bool, w: Width, mem: Mem, src: Gpr) {
    match (op, fetch) {
        (AtomicOp::Add, false) => e.rm(w, lock(0x01), src as u8, Rm::Mem(mem)),
        (AtomicOp::Or, false) => e.rm(w, lock(0x09), src as u8, Rm::Mem(mem)),
        (AtomicOp::And, false) => e.rm(w, lock(0x21), src as u8, Rm::Mem(mem)),
        (AtomicOp::Xor, false) => e.rm(w, lock(0x31), src as u8, Rm::Mem(mem)),
        (AtomicOp::Add, true) => e.rm(w, lock(0x0fc1), src as u8, Rm::Mem(mem)),
        (AtomicOp::Xchg, _) => e.rm(w, super::op(0x87), src as u8, Rm::Mem(mem)),
        (AtomicOp::Cmpxchg, _) => {
            e.rm(w, lock(0x0fb1), src as u8, Rm::Mem(mem));
            // On success `cmpxchg r32` leaves the upper half of rax as it was.
            if w == Width::W32 {
                alu::mov(e, w, Gpr::Rax, Gpr::Rax);
            }
        }
        (AtomicOp::Or, true) => fetch_loop(e, 0x0b, w, mem, src),
        (AtomicOp::And, true) => fetch_loop(e, 0x23, w, mem, src),
        (AtomicOp::Xor, true) => fetch_loop(e, 0x33, w, mem, src),
    }
}

/// `src = *mem; *mem op= src`, around rax, which is R0.
fn fetch_loop(e: &mut X64, code: u16, w: Width, mut mem: Mem, src: Gpr) {
    alu::mov(e, Width::W64, T2, Gpr::Rax);
    alu::mov(e, Width::W64, T1, src);
    if mem.base == Gpr::Rax {
        mem.base = T2;
    }
    mem::load(e, w.size(), false, Gpr::Rax, mem);
    let again = e.asm.label();
    e.asm.bind(again);
    alu::mov(e, w, T0, Gpr::Rax);
    e.rr(w, code, T0, T1);
    e.rm(w, lock(0x0fb1), T0 as u8, Rm::Mem(mem));
    branch::short(e, Cc::Ne, again);
    if src == Gpr::Rax {
        alu::mov(e, w, src, Gpr::Rax);
    } else {
        alu::mov(e, w, src, Gpr::Rax);
        alu::mov(e, Width::W64, Gpr::Rax, T2);
    }
}
