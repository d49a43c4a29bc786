//! Steps that branch, loop and leave early.

use rtbpf_isa::{AluOp, CmpOp, Insn, Operand, Reg, Width};

use super::state::{ANY, State, Value};
use super::{Shaper, weighted};

impl Shaper<'_> {
    /// A comparison of numbers, with one or two arms.
    pub(super) fn branch(&mut self) {
        if self.nesting > 3 {
            return;
        }
        let lhs = self.scalar();
        let op = self.rng.pick(&CmpOp::ALL);
        let width = self.rng.pick(&[Width::W32, Width::W64]);
        let scalars = self.state.registers(Value::is_scalar);
        let rhs = match self.rng.choose(&scalars) {
            Some(reg) if self.rng.chance(1, 4) => Operand::Reg(reg),
            _ => Operand::Imm(self.rng.edge() as i32),
        };
        let other = self.code.label();
        self.code.push_to(Insn::Branch { op, width, lhs, rhs, to: 0 }, other);
        let before = self.state.clone();
        match weighted(self.rng, &[(0, 5), (1, 3), (2, 2)]) {
            0 => {
                self.arm();
                self.code.bind(other);
                self.state = self.meet(&before);
            }
            1 => {
                let after = self.code.label();
                self.arm();
                self.code.jump(after);
                let first = std::mem::replace(&mut self.state, before);
                self.code.bind(other);
                self.arm();
                self.code.bind(after);
                self.state = self.meet(&first);
            }
            _ => {
                // Leaving on one side makes the comparison hold on the other.
                if self.rng.chance(1, 2) {
                    self.arm();
                }
                self.leave();
                self.state = before;
                self.code.bind(other);
                if let (Operand::Imm(imm @ 0..), CmpOp::Lt | CmpOp::Le | CmpOp::Eq, Width::W64) = (rhs, op, width)
                    && let Value::Scalar(low, high) = self.state.get(lhs)
                {
                    self.state.set(lhs, Value::Scalar(low.min(imm as u64), high.min(imm as u64)));
                }
            }
        }
    }

    fn meet(&self, other: &State) -> State {
        self.state.join(other)
    }

    /// A short series inside a branch.
    pub(super) fn arm(&mut self) {
        self.nesting += 1;
        let steps = 1 + self.rng.below(3);
        self.series(steps);
        self.nesting -= 1;
    }

    /// A loop with a known number of rounds, or one that a hidden budget ends.
    pub(super) fn a_loop(&mut self) {
        if self.nesting > 1 || self.in_loop {
            return;
        }
        let free: Vec<Reg> = [Reg::R7, Reg::R8, Reg::R9].into_iter().filter(|&reg| self.state.is_free(reg)).collect();
        let Some(counter) = self.rng.choose(&free) else { return };
        let rounds = self.rng.pick(&[1, 2, 3, 4, 8, 16, 50]);
        let shape = self.rng.below(4);
        let saved = self.state.locked;
        self.code.mov(counter, if shape == 1 { rounds } else { 0 });
        self.enter_loop(counter);
        let head = self.code.here();
        let out = self.code.label();
        match shape {
            // Up to a constant, tested behind the body.
            0 => {
                self.body();
                self.code.alu(AluOp::Add, counter, 1);
                let op = self.rng.pick(&[CmpOp::Lt, CmpOp::Ne, CmpOp::Slt]);
                self.code.branch(op, counter, rounds, head);
            }
            // Down to zero.
            1 => {
                self.body();
                self.code.alu(AluOp::Sub, counter, 1);
                self.code.branch(CmpOp::Ne, counter, 0, head);
            }
            // Tested at the head, up to a number that is only bounded.
            2 => {
                let limit = self.state.registers(|value| matches!(value, Value::Scalar(_, 0..=64)));
                match self.rng.choose(&limit) {
                    Some(limit) if limit != counter => self.code.branch(CmpOp::Ge, counter, limit, out),
                    _ => self.code.branch(CmpOp::Ge, counter, rounds, out),
                }
                self.body();
                self.code.alu(AluOp::Add, counter, 1);
                self.code.branch(CmpOp::Lt, counter, 64, head);
            }
            _ => {
                self.code.push_to(Insn::MayGoto { to: 0 }, out);
                self.code.branch(CmpOp::Gt, counter, rounds, out);
                self.body();
                self.code.alu(AluOp::Add, counter, 1);
                self.code.jump(head);
                // How many rounds the budget allows is for each engine to say.
                self.deterministic &= rounds < 50;
            }
        }
        self.code.bind(out);
        self.state.locked = saved;
        self.state.set(counter, ANY);
    }

    /// At a loop's head only what every round keeps is known: numbers may be anything, pointers stay where they are.
    fn enter_loop(&mut self, counter: Reg) {
        self.state.set(counter, ANY);
        self.state.lock(counter);
        self.state.widen();
        self.state.clobber();
        self.state.set(Reg::R0, Value::Dead);
        let pointers = self.state.registers(|value| !value.is_scalar() && value != Value::Dead);
        for reg in pointers {
            self.state.lock(reg);
        }
    }

    fn body(&mut self) {
        self.in_loop = true;
        let head = self.state.clone();
        self.arm();
        // What the head relies on as a number must still be one.
        for reg in Reg::ALL.into_iter().take(10) {
            if head.get(reg).is_scalar() && !self.state.get(reg).is_scalar() {
                self.code.mov(reg, 0);
                self.state.set(reg, ANY);
            }
        }
        self.state = self.state.join(&head);
        self.in_loop = false;
    }
}
