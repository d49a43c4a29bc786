//! Functions of a program: their shape, and how deep their stacks add up.

use rtbpf_abi::{ProgType, limits};
use rtbpf_isa::effects::Flow;
use rtbpf_isa::{Callee, Insn, InsnIdx, Program};

use crate::reject::{Checked, refuse};

/// Checks that jumps stay in their function and that no function falls off its end.
pub fn check(program: &Program) -> Checked {
    if program.subprogs().len() > limits::MAX_SUBPROGS {
        return refuse!(TooLarge, E2BIG, "too many subprograms");
    }
    for subprog in program.subprogs() {
        for at in subprog.start.0..subprog.end.0 {
            let at = InsnIdx(at);
            let Some(insn) = program.get(at) else { continue };
            if let Flow::Jump(to) | Flow::Branch(to) = insn.flow() {
                let target = at.target(to);
                if !subprog.contains(target) {
                    let (from, to) = (program.slot(at), program.slot(target));
                    return refuse!(BadJump, EINVAL, "jump out of range from insn {from} to {to}");
                }
            }
        }
        let last = subprog.end.0.checked_sub(1).and_then(|at| program.get(InsnIdx(at)));
        if !last.is_some_and(|insn| matches!(insn.flow(), Flow::Exit | Flow::Jump(_))) {
            return refuse!(FallsThrough, EINVAL, "last insn is not an exit or jmp");
        }
    }
    Ok(())
}

/// Helper numbers with a rule of their own.
const TAIL_CALL: i32 = 12;

/// Whether `subprog` makes a tail call.
pub fn tail_calls(program: &Program, subprog: usize) -> bool {
    let range = program.subprogs().get(subprog).map(|s| s.start.index()..s.end.index()).unwrap_or_default();
    let insns = program.insns().get(range).unwrap_or_default();
    insns.contains(&Insn::Call(Callee::Helper(TAIL_CALL)))
}

/// Whether frames of this program type get a stack of their own instead of sharing 512 bytes.
fn has_private_stack(program: &Program, prog_type: ProgType) -> bool {
    let private =
        prog_type.is_tracing() && prog_type != ProgType::RawTracepointWritable || prog_type == ProgType::Tracing;
    private && !(0..program.subprogs().len()).any(|s| tail_calls(program, s))
}

/// Checks the stack that call chains need, from the bytes each function touched.
///
/// Each frame is rounded up to 16 bytes, as the native code rounds it. The walk over chains is an explicit stack; a
/// function's deepest chain is worked out once.
pub fn check_depth(program: &Program, prog_type: ProgType, touched: &[u32], async_entries: &[usize]) -> Checked {
    let private = has_private_stack(program, prog_type);
    let bytes = |subprog: usize| touched.get(subprog).copied().unwrap_or(0).next_multiple_of(16);
    for &entry in [0].iter().chain(async_entries) {
        // Paths through the call graph, depth first; a chain is at most eight frames, so this ends.
        let mut chain = vec![(entry, calls_of(program, entry), bytes(entry))];
        let mut best: Vec<(u32, usize)> = vec![(0, 0); program.subprogs().len()];
        while let Some((caller, calls, total)) = chain.last_mut() {
            let (caller, total, next) = (*caller, *total, calls.pop());
            if total > limits::STACK_BYTES && !private {
                let n = chain.len();
                return refuse!(StackDepth, EACCES, "combined stack size of {n} calls is {total}. Too large");
            }
            if chain.len() > 1 && tail_calls(program, caller) {
                let below = total - bytes(caller);
                if below >= 256 {
                    return refuse!(
                        StackDepth,
                        EACCES,
                        "tail_calls are not allowed when call stack of previous frames is {below} bytes. Too large"
                    );
                }
            }
            match next {
                None => {
                    chain.pop();
                }
                Some(callee) => {
                    let depth = chain.len();
                    if depth >= limits::MAX_FRAMES {
                        return refuse!(CallDepth, E2BIG, "the call stack of {depth} frames is too deep !");
                    }
                    // A visit that was as deep and as long before has said all that this one can.
                    let total = total + bytes(callee);
                    let seen = best.get(callee).copied().unwrap_or_default();
                    if total > seen.0 || depth > seen.1 {
                        if let Some(seen) = best.get_mut(callee) {
                            *seen = (seen.0.max(total), seen.1.max(depth));
                        }
                        chain.push((callee, calls_of(program, callee), total));
                    }
                }
            }
        }
    }
    Ok(())
}

fn calls_of(program: &Program, subprog: usize) -> Vec<usize> {
    let Some(range) = program.subprogs().get(subprog) else { return Vec::new() };
    let mut calls: Vec<usize> = (range.start.0..range.end.0)
        .rev()
        .filter_map(|at| {
            let to = program.get(InsnIdx(at))?.function_target()?;
            Some(program.subprog_at(InsnIdx(at).target(to)))
        })
        .collect();
    calls.dedup();
    calls
}
