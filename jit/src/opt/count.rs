//! How many rounds a loop has left, where one side of its test counts.

use rtbpf_isa::effects::RegSet;
use rtbpf_isa::{AluOp, CmpOp, Insn, Operand, Reg, Width};

use super::is_nothing;

/// A loop that goes round again if `counter + add op limit`, where `counter` grows by `step` each round.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Count {
    width: Width,
    op: CmpOp,
    counter: Reg,
    add: i32,
    step: i32,
    limit: Operand,
}

/// When the tests of some coming rounds all pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Spare {
    pub width: Width,
    pub counter: Reg,
    /// What [`Test`] adds to the counter.
    pub add: i32,
    pub test: Test,
}

/// See [`Spare`]. Counters wrap at the width.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Test {
    /// Not if `counter + add op bound`.
    Compare { op: CmpOp, bound: i32 },
    /// Not if the way from `counter + add` to `limit`, counted upwards or downwards without sign, is at most `most`. Some hold
    /// only where the test of the round before has passed.
    Distance { limit: Operand, up: bool, most: i32, passed: bool },
}

/// What a register holds in terms of what registers held when the round began.
#[derive(Clone, Copy)]
struct Linear {
    of: Reg,
    add: i32,
}

impl Spare {
    /// Whether it tells even where the test of the round before has not passed.
    pub fn stands_alone(&self) -> bool {
        match self.test {
            Test::Compare { .. } => true,
            Test::Distance { passed, .. } => !passed,
        }
    }
}

impl Count {
    /// How the loop of `body` and `if lhs op rhs` counts, if it does.
    pub fn of(body: &[Insn], op: CmpOp, width: Width, lhs: Reg, rhs: Operand) -> Option<Count> {
        let mut held = Reg::ALL.map(|of| Some(Linear { of, add: 0 }));
        let mut changed = RegSet::EMPTY;
        for insn in body {
            // At 32 bits, what happens above does not matter.
            let counts = |w: Width| w == Width::W64 || width == Width::W32;
            let result = match *insn {
                Insn::Alu { op: AluOp::Mov, width, src: Operand::Reg(src), .. } if counts(width) => held[src.index()],
                Insn::Alu { op: AluOp::Add, width, dst, src: Operand::Imm(by) } if counts(width) => {
                    held[dst.index()].and_then(|l| Some(Linear { add: l.add.checked_add(by)?, ..l }))
                }
                Insn::Alu { op: AluOp::Sub, width, dst, src: Operand::Imm(by) } if counts(width) => {
                    held[dst.index()].and_then(|l| Some(Linear { add: l.add.checked_sub(by)?, ..l }))
                }
                _ => None,
            };
            for dst in insn.defs().iter() {
                held[dst.index()] = result;
            }
            if !is_nothing(insn) {
                changed = changed.with(insn.defs());
            }
        }
        let tested = held[lhs.index()]?;
        let step = held[tested.of.index()].filter(|counter| counter.of == tested.of)?.add;
        if let Operand::Reg(limit) = rhs
            && changed.contains(limit)
        {
            return None;
        }
        let small = |value: i32| value.unsigned_abs() < 1 << 20;
        let counts = step != 0 && small(step) && small(tested.add);
        counts.then_some(Count { width, op, counter: tested.of, add: tested.add, step, limit: rhs })
    }

    /// When `tests` tests in a row pass.
    pub fn spare(self, tests: usize) -> Option<Spare> {
        let Count { width, op, counter, add, step, limit } = self;
        let up = step > 0;
        // From the test before the first of these to the last of them.
        let way = step.unsigned_abs().checked_mul(u32::try_from(tests).ok()?)?;
        let way = i32::try_from(way).ok()?;
        let add = add.checked_sub(step)?;
        // The bound of the last test, seen from there: no counter in between wraps.
        let bound = |limit: i32| if up { limit.checked_sub(way) } else { limit.checked_add(way) };
        let bound = |limit: i32| bound(limit).filter(|bound| limit >= 0 && *bound >= 0);
        let distance = |passed| Test::Distance { limit, up, most: way, passed };
        let upward = match op {
            CmpOp::Lt | CmpOp::Le | CmpOp::Slt | CmpOp::Sle => true,
            CmpOp::Gt | CmpOp::Ge | CmpOp::Sgt | CmpOp::Sge => false,
            CmpOp::Ne => {
                let near = if let Operand::Imm(limit) = limit { bound(limit) } else { None };
                let op = if up { CmpOp::Ge } else { CmpOp::Le };
                let test = near.map_or(distance(false), |bound| Test::Compare { op, bound });
                return Some(Spare { width, counter, add, test });
            }
            CmpOp::Eq | CmpOp::Set => return None,
        };
        if upward != up {
            return None;
        }
        let test = match limit {
            Operand::Imm(limit) => Test::Compare { op: op.inverse()?, bound: bound(limit)? },
            // The test before these has passed, so the way from what it saw to the limit is no longer than it looks.
            Operand::Reg(_) => distance(true),
        };
        Some(Spare { width, counter, add, test })
    }
}
