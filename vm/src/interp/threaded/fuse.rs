//! Two operations in one step.
//!
//! The second one stays where it is, for jumps that lead to it; the first one's handler does both and goes on behind it.
//! Which pairs exist was chosen by how often compiled C has them in its loops.

use rtbpf_isa::AluOp::{Add, And, Lsh, Mov, Mul, Or, Rsh, Xor};
use rtbpf_isa::CmpOp::{Eq, Gt, Lt, Ne};

use super::op::{At, Handler, Machine};
use super::ops::{AluImm, AluReg, BranchImm, BranchReg, Form, Load, Step, StoreReg, Test};

fn two_steps<A: Step, B: Step>(at: At, m: &mut Machine<'_>, jumps: u32) -> At {
    A::take(at.op(), m);
    let second = at.by(1);
    B::take(second.op(), m);
    second.next(m, jumps)
}

fn step_and_branch<A: Step, T: Test>(at: At, m: &mut Machine<'_>, jumps: u32) -> At {
    A::take(at.op(), m);
    let branch = at.by(1);
    match T::holds(branch.op(), m) {
        true => branch.by(branch.op().off).jump(m, jumps),
        false => branch.by(1).jump(m, jumps),
    }
}

macro_rules! pairs {
    ($steps:tt, $tests:tt) => { pairs!(@rows $steps $steps $tests); };
    (@rows [$($first:ty,)*] $steps:tt $tests:tt) => {
        const FIRST: &[Form] = &[$(<$first as Step>::FORM),*];
        const STEPS: &[&[Handler]] = &[$(pairs!(@row two_steps $first, $steps)),*];
        const TESTS: &[&[Handler]] = &[$(pairs!(@row step_and_branch $first, $tests)),*];
        pairs!(@forms $tests);
    };
    (@row $run:ident $first:ty, [$($second:ty,)*]) => { &[$($run::<$first, $second>),*] };
    (@forms [$($test:ty,)*]) => { const BRANCHES: &[Form] = &[$(<$test as Test>::FORM),*]; };
}

pairs! {
    [
        AluReg<{ Mov as usize }, true>,
        AluReg<{ Mov as usize }, false>,
        AluImm<{ Mov as usize }, false>,
        AluReg<{ Add as usize }, true>,
        AluReg<{ Add as usize }, false>,
        AluImm<{ Add as usize }, true>,
        AluImm<{ Add as usize }, false>,
        AluImm<{ And as usize }, true>,
        AluImm<{ And as usize }, false>,
        AluReg<{ Or as usize }, true>,
        AluReg<{ Or as usize }, false>,
        AluReg<{ Xor as usize }, true>,
        AluReg<{ Xor as usize }, false>,
        AluImm<{ Lsh as usize }, true>,
        AluImm<{ Lsh as usize }, false>,
        AluImm<{ Rsh as usize }, true>,
        AluImm<{ Rsh as usize }, false>,
        AluReg<{ Mul as usize }, true>,
        Load<0, false>,
        Load<2, false>,
        Load<3, false>,
        StoreReg<0>,
        StoreReg<2>,
    ],
    [
        BranchImm<{ Eq as usize }, true>,
        BranchImm<{ Eq as usize }, false>,
        BranchImm<{ Ne as usize }, true>,
        BranchImm<{ Ne as usize }, false>,
        BranchImm<{ Lt as usize }, true>,
        BranchImm<{ Lt as usize }, false>,
        BranchImm<{ Gt as usize }, true>,
        BranchImm<{ Gt as usize }, false>,
        BranchReg<{ Eq as usize }, true>,
        BranchReg<{ Ne as usize }, true>,
        BranchReg<{ Lt as usize }, true>,
        BranchReg<{ Lt as usize }, false>,
        BranchReg<{ Gt as usize }, true>,
    ]
}

/// The handler of `first` that does what follows, too.
pub(super) fn both(first: Form, second: Form) -> Option<Handler> {
    let row = FIRST.iter().position(|form| *form == first)?;
    let of = |forms: &[Form], rows: &[&[Handler]]| {
        let column = forms.iter().position(|form| *form == second)?;
        rows.get(row)?.get(column).copied()
    };
    of(FIRST, STEPS).or_else(|| of(BRANCHES, TESTS))
}
