//! Spills that Linux takes out of a program: those around a call that leaves the argument registers alone.
//!
//! ```text
//!  *(u64 *)(r10 - 24) = r1        the lowest slots of the function, nested,
//!  call get_smp_processor_id      and nothing else touches them:
//!  r1 = *(u64 *)(r10 - 24)        the function's stack ends above
//! ```
//!
//! They count for every check but the depth of the stack.

use rtbpf_isa::{Callee, Insn, InsnIdx, Operand, Program, Reg, Size};

use crate::verified::Assumptions;

/// The spills of a program, and what else its functions touch.
#[derive(Clone, Debug, Default)]
pub struct Spills {
    /// Per instruction, whether it is such a spill or its fill; empty where there are none.
    around: Vec<bool>,
    /// Per subprogram, how far its stack reaches without them.
    ends: Vec<Option<u32>>,
    /// Per subprogram, how far other instructions reach.
    others: Vec<u32>,
}

impl Spills {
    /// Finds them.
    pub fn of(program: &Program, given: &Assumptions) -> Spills {
        let mut spills = Spills::default();
        for (index, subprog) in program.subprogs().iter().enumerate() {
            let insns = program.insns().get(subprog.start.index()..subprog.end.index()).unwrap_or_default();
            let calls = || insns.iter().enumerate().filter(|(_, insn)| spares_arguments(insn, given));
            if calls().next().is_none() {
                continue;
            }
            let Some(lowest) = insns.iter().filter_map(spill).map(|(_, off)| off).min() else { continue };
            for (at, _) in calls() {
                let pairs = pairs(insns, at, lowest);
                if pairs == 0 {
                    continue;
                }
                if spills.around.is_empty() {
                    spills.around = vec![false; program.len()];
                    spills.ends = vec![None; program.subprogs().len()];
                    spills.others = vec![0; program.subprogs().len()];
                }
                let first = subprog.start.index() + at;
                for step in 1..=pairs {
                    spills.around[first - step] = true;
                    spills.around[first + step] = true;
                }
                let end = (lowest + 8 * pairs as i16).unsigned_abs().into();
                spills.ends[index] = Some(spills.ends[index].map_or(end, |other: u32| other.min(end)));
            }
        }
        spills
    }

    /// The instruction at `at` touches the stack of `subprog` down to `bytes`.
    pub fn touch(&mut self, at: InsnIdx, subprog: usize, bytes: u32) {
        if self.around.get(at.index()) == Some(&false)
            && let Some(other) = self.others.get_mut(subprog)
        {
            *other = (*other).max(bytes);
        }
    }

    /// How deep the stack of `subprog` is, of which `touched` bytes are used.
    pub fn depth(&self, subprog: usize, touched: u32) -> u32 {
        match (self.ends.get(subprog), self.others.get(subprog)) {
            (Some(&Some(end)), Some(&other)) if other <= end => touched.min(end),
            _ => touched,
        }
    }
}

/// Whether `insn` calls a helper that takes nothing and changes R0 only.
fn spares_arguments(insn: &Insn, given: &Assumptions) -> bool {
    match *insn {
        Insn::Call(Callee::Helper(id)) => given.helper(id).found().is_some_and(|proto| proto.spares_arguments),
        _ => false,
    }
}

/// The register and offset of an 8-byte spill.
fn spill(insn: &Insn) -> Option<(Reg, i16)> {
    match *insn {
        Insn::Store { size: Size::D, base: Reg::R10, off, src: Operand::Reg(reg) } => Some((reg, off)),
        _ => None,
    }
}

/// How many spills and fills stand nested around the call at `at`, from the lowest slot up.
fn pairs(insns: &[Insn], at: usize, lowest: i16) -> usize {
    if lowest % 8 != 0 || lowest < -512 {
        return 0;
    }
    let mut seen = Vec::new();
    for step in 1..=Reg::ARGS.len() {
        let off = lowest + 8 * (step as i16 - 1);
        let before = at.checked_sub(step).and_then(|at| spill(insns.get(at)?));
        let after = insns.get(at + step).and_then(|insn| match *insn {
            Insn::Load { size: Size::D, signed: false, dst, base: Reg::R10, off } => Some((dst, off)),
            _ => None,
        });
        match (before, after) {
            (Some((reg, here)), Some(fill))
                if here == off && fill == (reg, off) && Reg::ARGS.contains(&reg) && !seen.contains(&reg) =>
            {
                seen.push(reg);
            }
            _ => return step - 1,
        }
    }
    Reg::ARGS.len()
}

#[cfg(test)]
mod tests {
    use rtbpf_abi::ProgType;
    use rtbpf_isa::{asm, decode};

    use super::*;

    #[track_caller]
    fn check_as(prog: ProgType, text: &str, touched: u32, others: &[(u32, u32)], expected: u32) {
        let program = decode(&asm::assemble(text).unwrap().slots).unwrap();
        let mut spills = Spills::of(&program, &Assumptions::new(prog));
        for &(at, bytes) in others {
            spills.touch(InsnIdx(at), 0, bytes);
        }
        assert_eq!(spills.depth(0, touched), expected, "{text}");
    }

    #[track_caller]
    fn check(text: &str, touched: u32, others: &[(u32, u32)], expected: u32) {
        check_as(ProgType::SchedCls, text, touched, others, expected);
    }

    #[test]
    fn the_lowest_slots_are_left_out() {
        let one = "*(u64 *)(r10 - 8) = r1\n call 8\n r1 = *(u64 *)(r10 - 8)\n exit";
        check(one, 8, &[(0, 8), (2, 8)], 0);
        check(one, 8, &[(3, 8)], 8);
        check_as(ProgType::CgroupSkb, one, 8, &[(0, 8), (2, 8)], 8);
        check(&one.replace("call 8", "call 7"), 8, &[], 8);
        check(&one.replace("r1 = *", "r2 = *"), 8, &[], 8);
        let two = "*(u64 *)(r10 - 16) = r2\n*(u64 *)(r10 - 24) = r1\n call 8\n r1 = *(u64 *)(r10 - 24)\n\
                   r2 = *(u64 *)(r10 - 16)\n *(u64 *)(r10 - 8) = 1\n exit";
        check(two, 24, &[(5, 8)], 8);
        check(two, 24, &[(5, 16)], 24);
    }
}
