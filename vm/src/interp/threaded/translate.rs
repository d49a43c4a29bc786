//! From instructions to operations.

use std::sync::Arc;

use rtbpf_abi::frame::HelperFn;
use rtbpf_isa::{AluOp, AtomicOp, Callee, Imm64, Insn, InsnIdx, Operand, Reg, Size, Swap, Width};
use rtbpf_verifier::{Branch, VerifiedProgram};

use super::op::{Handler, Op, STRAIGHT};
use super::ops::Form;
use super::{Thread, flow, fuse, ops};
use crate::error::Error;
use crate::executable::Bound;
use crate::helpers::{Action, Flow};
use crate::unchecked::{array_base, custom};

/// A program in translation.
struct Translation<'a> {
    verified: &'a VerifiedProgram,
    bound: &'a Bound,
    ops: Vec<Op>,
    /// Where each instruction begins.
    places: Vec<u32>,
    /// Operations that may be one with the next or the one before, in order.
    forms: Vec<(usize, Form)>,
    /// Operations whose `off` is the distance to this instruction.
    jumps: Vec<(usize, InsnIdx)>,
    /// Operations whose `imm` is the address of this instruction's operation.
    names: Vec<(usize, InsnIdx)>,
}

pub(super) fn translate(verified: &VerifiedProgram, bound: &Bound, metered: bool) -> Result<Thread, Error> {
    let code = verified.code();
    let places = Vec::with_capacity(code.len());
    let ops = Vec::with_capacity(code.len() + 8);
    let mut t = Translation { verified, bound, ops, places, forms: Vec::new(), jumps: Vec::new(), names: Vec::new() };
    let mut straight = 0;
    let mut subprogs = code.subprogs().iter().enumerate().peekable();
    for (at, insn) in code.iter() {
        straight += 1;
        if straight == STRAIGHT {
            t.push(ops::pause, 0, 0, 0, 0, 0);
            straight = 0;
        }
        t.places.push(t.ops.len() as u32);
        let cost = bound.costs.get(at.index()).copied().unwrap_or_default();
        if metered && cost != 0 {
            t.push(ops::charge, 0, 0, 0, cost as i32, at.0.into());
        }
        if let Some((number, subprog)) = subprogs.next_if(|(_, subprog)| subprog.start == at) {
            let insns = code.insns().get(subprog.start.index()..subprog.end.index()).unwrap_or_default();
            if insns.iter().any(|insn| insn.uses().contains(Reg::R10)) {
                t.clear(number);
            }
        }
        t.insn(at, insn)?;
    }
    t.push(ops::trap, 0, 0, 0, 0, code.len() as u64);
    Ok(t.finish())
}

impl Translation<'_> {
    fn push(&mut self, run: Handler, dst: u8, lhs: u8, rhs: u8, off: i32, imm: u64) {
        self.ops.push(Op { run, dst, lhs, rhs, off, imm });
    }

    /// The same, for an operation with a form.
    fn push_form(&mut self, form: Form, dst: u8, lhs: u8, rhs: u8, off: i32, imm: u64) {
        self.forms.push((self.ops.len(), form));
        self.push(form.handler(), dst, lhs, rhs, off, imm);
    }

    /// Programs that read stack which nobody wrote find zeros there.
    fn clear(&mut self, subprog: usize) {
        let facts = self.verified.proved();
        if facts.reads_uninit_stack {
            let bytes = facts.stack_bytes.get(subprog).map_or(512, |bytes| bytes.next_multiple_of(8).min(512));
            self.push(ops::clear, 0, 0, 0, 0, bytes.into());
        }
    }

    fn jump(&mut self, to: InsnIdx) {
        self.jumps.push((self.ops.len(), to));
    }

    fn insn(&mut self, at: InsnIdx, insn: &Insn) -> Result<(), Error> {
        let facts = self.verified.proved().at(at);
        if facts.unreached {
            self.push(ops::trap, 0, 0, 0, 0, at.0.into());
            return Ok(());
        }
        let native = |size: Size, off: i16| match self.verified.lowering().at(at) {
            Some(access) => (access.size, i32::from(access.off)),
            None => (size, i32::from(off)),
        };
        let (reg, value) = (
            |src: Operand| match src {
                Operand::Reg(reg) => (reg as u8, 0),
                Operand::Imm(imm) => (0, imm as i64 as u64),
            },
            |wide: bool| u64::from(wide),
        );
        match *insn {
            Insn::Alu { op, width, dst, src } => {
                let (rhs, imm) = reg(src);
                self.push_form(Form::alu(op, width, src), dst as u8, 0, rhs, 0, imm);
            }
            Insn::MovSx { width, from, dst, src } => {
                self.push(ops::move_sx, dst as u8, 0, src as u8, from as i32, value(width == Width::W64));
            }
            Insn::Neg { width, dst } => self.push(ops::neg, dst as u8, 0, 0, 0, value(width == Width::W64)),
            Insn::Swap { kind, size, dst } => {
                let kind = match kind {
                    Swap::ToLe => 0,
                    Swap::ToBe => 1,
                    Swap::Bswap => 2,
                };
                self.push(ops::swap, dst as u8, 0, 0, size as i32, kind);
            }
            Insn::AddrCast { .. } => return Err(none(at, "an address-space cast")),
            Insn::Imm { dst, value } => {
                let value = self.wide(at, value)?;
                self.push_form(Form::alu(AluOp::Mov, Width::W64, Operand::Imm(0)), dst as u8, 0, 0, 0, value);
            }
            Insn::Load { size, signed, dst, base, off } => {
                let (size, off) = native(size, off);
                self.push_form(Form::load(size, signed), dst as u8, base as u8, 0, off, 0);
            }
            Insn::LoadAcquire { size, dst, base, off } => {
                self.push_form(Form::load(size, false), dst as u8, base as u8, 0, off.into(), 0);
                self.push(ops::fence, 0, 0, 0, 0, 0);
            }
            Insn::Store { size, base, off, src } => {
                let ((size, off), (rhs, imm)) = (native(size, off), reg(src));
                self.push_form(Form::store(size, src), 0, base as u8, rhs, off, imm);
            }
            Insn::StoreRelease { size, base, off, src } => {
                self.push(ops::fence, 0, 0, 0, 0, 0);
                self.push_form(Form::store(size, Operand::Reg(src)), 0, base as u8, src as u8, off.into(), 0);
            }
            Insn::Atomic { op, fetch, width, base, off, src } => {
                let number = match op {
                    AtomicOp::Add => 0,
                    AtomicOp::Or => 1,
                    AtomicOp::And => 2,
                    AtomicOp::Xor => 3,
                    AtomicOp::Xchg => 4,
                    AtomicOp::Cmpxchg => 5u64,
                };
                let imm = number << 8 | value(width == Width::W64) << 1 | value(fetch);
                self.push(ops::atomic, 0, base as u8, src as u8, off.into(), imm);
            }
            Insn::Packet { size, index, off } => {
                let indexed = u8::from(index.is_some());
                let index = index.map_or(0, |index| index as u8);
                self.push(flow::packet_load, 0, indexed, index, off, size.bytes().into());
            }
            Insn::Jump { to, .. } => {
                self.jump(at.target(to));
                self.push(ops::jump, 0, 0, 0, 0, 0);
            }
            Insn::Branch { op, width, lhs, rhs, to } => match facts.branch {
                Branch::Both => {
                    self.jump(at.target(to));
                    let (right, imm) = reg(rhs);
                    self.push_form(Form::branch(op, width, rhs), 0, lhs as u8, right, 0, imm);
                }
                Branch::Taken => {
                    self.jump(at.target(to));
                    self.push(ops::jump, 0, 0, 0, 0, 0);
                }
                Branch::Never => {}
            },
            Insn::MayGoto { to } => {
                self.jump(at.target(to));
                self.push(ops::may_goto, 0, 0, 0, 0, 0);
            }
            Insn::Call(Callee::Local { to }) => {
                self.jump(at.target(to));
                self.push(ops::call, 0, 0, 0, 0, at.0.into());
            }
            Insn::Call(Callee::Helper(id)) => self.helper(at, id)?,
            Insn::Call(Callee::Kfunc { .. }) => return Err(none(at, "a kernel function")),
            Insn::Call(Callee::Reg(_)) => return Err(none(at, "a call through a register")),
            Insn::Exit => self.push(ops::exit, 0, 0, 0, 0, 0),
            Insn::Bad { .. } => self.push(ops::trap, 0, 0, 0, 0, at.0.into()),
        }
        Ok(())
    }

    fn helper(&mut self, at: InsnIdx, id: i32) -> Result<(), Error> {
        let helper = self.bound.helper(id).map_err(|why| none(at, &why.to_string()))?;
        let (run, function): (Handler, u64) = match &helper.action {
            Action::Native(function) => {
                (if function.sure { ops::sure_helper } else { ops::helper }, function.entry as usize as u64)
            }
            Action::Custom(_) => (ops::helper, custom as HelperFn as usize as u64),
            Action::Flow(Flow::Loop) => (flow::repeat, 0),
            Action::Flow(Flow::ForEach) => (flow::for_each, 0),
            Action::Flow(Flow::Drain) => (flow::drain, 0),
            Action::Flow(Flow::TimerSetCallback) => (flow::timer_set_callback, 0),
            Action::Flow(Flow::TailCall) => (flow::tail_call, 0),
        };
        self.push(run, 0, 0, 0, id, function);
        // The note behind a call: where it is.
        self.push(ops::trap, 0, 0, 0, 0, at.0.into());
        Ok(())
    }

    fn wide(&mut self, at: InsnIdx, value: Imm64) -> Result<u64, Error> {
        let map = |map| self.bound.map(map).map_err(|why| none(at, &why.to_string()));
        Ok(match value {
            Imm64::Const([low, high]) => (high as u64) << 32 | low as u64,
            Imm64::Map { map: index, .. } => std::ptr::from_ref(map(index)?.head()) as u64,
            Imm64::MapValue { map: index, off, .. } => {
                let base = array_base(map(index)?).ok_or_else(|| none(at, "a map without one direct value"))?;
                base.wrapping_add(off.into())
            }
            Imm64::Var { .. } => return Err(none(at, "a kernel variable")),
            Imm64::Func { to } => {
                self.names.push((self.ops.len(), at.target(to)));
                0
            }
        })
    }

    fn finish(mut self) -> Thread {
        let place = |at: InsnIdx| self.places.get(at.index()).copied().unwrap_or_default();
        for &(jump, to) in &self.jumps {
            if let Some(op) = self.ops.get_mut(jump) {
                op.off = place(to) as i32 - jump as i32;
            }
        }
        for pair in self.forms.windows(2) {
            if let [(at, first), (next, second)] = *pair
                && next == at + 1
                && let (Some(op), Some(run)) = (self.ops.get_mut(at), fuse::both(first, second))
            {
                op.run = run;
            }
        }
        let starts = self.verified.code().subprogs().iter().map(|subprog| (place(subprog.start), subprog.start));
        let starts: Arc<[(u32, InsnIdx)]> = starts.collect();
        let named: Vec<(usize, u32)> = self.names.iter().map(|&(name, to)| (name, place(to))).collect();
        let mut ops: Arc<[Op]> = self.ops.into();
        let base = ops.as_ptr().expose_provenance() as u64;
        for (name, to) in named {
            if let Some(op) = Arc::get_mut(&mut ops).and_then(|ops| ops.get_mut(name)) {
                op.imm = base + u64::from(to) * size_of::<Op>() as u64;
            }
        }
        Thread { ops, starts }
    }
}

fn none(at: InsnIdx, what: &str) -> Error {
    Error::NoNativeCode(format!("instruction {at} needs {what}"))
}
