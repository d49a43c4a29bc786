//! The most instructions that one run can take, where no path goes back.
//!
//! ```text
//!  worst(i) = 1 + worst(callee, if i is a call) + max over successors j of worst(j)
//! ```

use rtbpf_abi::helper::{self, HelperId};
use rtbpf_isa::effects::Flow;
use rtbpf_isa::{Callee, Insn, InsnIdx, Program};

/// Instructions of the longest run; `None` where a jump goes back, a helper calls back, or another program may follow.
pub(crate) fn case(program: &Program) -> Option<u64> {
    let count = program.subprogs().len();
    let mut worst: Vec<Option<u64>> = vec![None; count];
    // Each round finds the functions whose callees are known; a recursive one never is.
    for _ in 0..count {
        let mut changed = false;
        for index in 0..count {
            if worst[index].is_none() {
                worst[index] = of_subprog(program, index, &worst);
                changed |= worst[index].is_some();
            }
        }
        if !changed {
            break;
        }
    }
    worst.first().copied().flatten()
}

fn of_subprog(program: &Program, index: usize, callees: &[Option<u64>]) -> Option<u64> {
    let subprog = program.subprogs().get(index)?;
    let start = subprog.start.index();
    let mut worst = vec![0u64; subprog.end.index() - start + 1];
    for at in (start..subprog.end.index()).rev() {
        let here = InsnIdx(at as u32);
        let insn = program.get(here)?;
        let from = |to: InsnIdx| (to > here).then(|| worst.get(to.index() - start).copied()).flatten();
        let rest = match insn.flow() {
            Flow::Next => from(here.next())?,
            Flow::Jump(to) => from(here.target(to))?,
            Flow::Branch(to) => from(here.next())?.max(from(here.target(to))?),
            Flow::Call(to) => {
                callees.get(program.subprog_at(here.target(to))).copied()??.checked_add(from(here.next())?)?
            }
            Flow::Exit => 0,
        };
        if let Insn::Call(Callee::Helper(id)) = insn
            && (*id as u32 == crate::call::id::TAIL_CALL
                || helper::rows_of(HelperId(*id as u32)).iter().any(|r| r.calls_back()))
        {
            return None;
        }
        worst[at - start] = rest.checked_add(1)?;
    }
    worst.first().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_path_counts() {
        let check = |text: &str, want| {
            let slots = rtbpf_isa::asm::assemble(text).unwrap().slots;
            assert_eq!(case(&rtbpf_isa::decode(&slots).unwrap()), want, "{text}");
        };
        check("r0 = 0\n exit", Some(2));
        check("r0 = 0\n if r1 == 0 goto out\n r0 = 1\n r0 = 2\nout:\n exit", Some(5));
        check("call f\n call f\n exit\nf:\n r0 = 0\n exit", Some(7));
        check("again:\n if r1 == 0 goto again\n exit", None);
        check("r0 = 0\n call f\n exit\nf:\n call f\n exit", None);
        check("call 12\n exit", None);
    }
}
