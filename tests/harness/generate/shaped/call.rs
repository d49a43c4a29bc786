//! Steps that call subprograms, and callbacks for helpers that call back.

use rtbpf_isa::{AluOp, Callee, Imm64, Insn, Reg};

use super::state::{ANY, Place, Value};
use super::{Pending, Shaper};
use crate::generate::code::Label;

impl Shaper<'_> {
    /// Calls a subprogram with what is at hand.
    pub(super) fn call_subprogram(&mut self) {
        if self.depth > 1 || self.callback || self.pending.len() > 3 || self.code.len() > 250 {
            return;
        }
        let mut args = [Value::Dead; 5];
        let count = self.rng.below(4) as usize;
        for (i, arg) in args.iter_mut().enumerate().take(count) {
            *arg = self.argument(Reg::ARGS[i]);
        }
        let label = self.code.label();
        self.code.push_to(Insn::Call(Callee::Local { to: 0 }), label);
        self.pending.push(Pending { label, args, callback: false, depth: self.depth + 1 });
        self.state.clobber();
        self.state.set(Reg::R0, ANY);
        // The callee may have written through what it got.
        self.state.forget_packet();
    }

    /// Puts something into argument register `to`, and says what the callee sees there.
    fn argument(&mut self, to: Reg) -> Value {
        let saved = self.state.registers(|value| value != Value::Dead);
        let saved: Vec<Reg> = saved.into_iter().filter(|reg| reg.is_callee_saved()).collect();
        if self.rng.chance(1, 4)
            && let Some(off) = self.stack_bytes(16, true)
        {
            self.code.mov(to, Reg::R10);
            self.code.alu(AluOp::Add, to, off);
            self.state.set(to, Value::Stack(off));
            let id = self.id();
            return Value::Mem { place: Place::CallerStack, id, size: 16, low: 0, high: 0, null: false };
        }
        match self.rng.choose(&saved) {
            Some(from) if !matches!(self.state.get(from), Value::Stack(_) | Value::Packet { .. }) => {
                self.code.mov(to, from);
                self.state.set(to, self.state.get(from));
                self.state.get(from)
            }
            _ => {
                let value = self.rng.below(32);
                self.code.mov(to, value as i32);
                self.state.set(to, Value::Scalar(value, value));
                Value::Scalar(value, value)
            }
        }
    }

    /// Puts the address of a callback with these arguments into `to`.
    pub(super) fn callback(&mut self, to: Reg, args: [Value; 5]) -> Option<Label> {
        if self.depth > 1 || self.callback || self.pending.len() > 3 {
            return None;
        }
        let label = self.code.label();
        self.code.push_to(Insn::Imm { dst: to, value: Imm64::Func { to: 0 } }, label);
        self.pending.push(Pending { label, args, callback: true, depth: self.depth + 1 });
        Some(label)
    }
}
