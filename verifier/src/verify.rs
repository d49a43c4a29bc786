//! The passes, in order.

use rtbpf_isa::{Linkage, Program};

use crate::cfg;
use crate::explore::Walk;
use crate::reject::{Checked, Rejection};
use crate::shape;
use crate::state::{Frame, State};
use crate::subprog;
use crate::verified::{Assumptions, Options, Proof, VerifiedProgram};

/// Proves that `program` is safe under `given`, or says why not.
///
/// Deterministic: the same input gives the same verdict, facts and log on any machine, after at most
/// [`Options::budget`] instructions.
pub fn verify(program: Program, given: Assumptions, opts: &Options) -> Result<VerifiedProgram, Rejection> {
    let flows = match before_the_walk(&program, &given, opts) {
        Ok(flows) => flows,
        Err(rejection) => return Err(finished(*rejection, String::new(), Default::default())),
    };
    let mut walk = Walk::new(&program, &given, opts, &flows);
    if let Err(rejection) = walk_everything(&mut walk) {
        return Err(finished(*rejection, walk.log.take_text(), walk.stats));
    }
    let (ctx_bytes_used, object_bytes_used) = (walk.ctx_bytes_used, walk.object_bytes_used);
    let (facts, stats, lowering) = (walk.take_facts(), walk.stats, std::mem::take(&mut walk.lowering));
    let states = walk.keeper.take().map(|keeper| keeper.into_states(Options { log_level: 0, ..opts.clone() }));
    let mut log = walk.log.take_text();
    if opts.log_level != 0 {
        log += &crate::log::summary(&stats);
    }
    let proof = Proof { facts, lowering, stats, log, ctx_bytes_used, object_bytes_used, states };
    Ok(VerifiedProgram::proven(program, given, proof))
}

fn before_the_walk(program: &Program, given: &Assumptions, opts: &Options) -> Checked<cfg::Flows> {
    shape::check(program, given, opts)?;
    cfg::flows(program, opts.privilege.bpf)
}

fn walk_everything(walk: &mut Walk) -> Checked {
    each_entry(walk, Walk::run)?;
    let depths: Vec<u32> =
        walk.stack_bytes.iter().enumerate().map(|(at, &bytes)| walk.spills.depth(at, bytes)).collect();
    subprog::check_depth(walk.program, walk.given.prog_type, &depths, &walk.async_entries)
}

/// Everywhere that a run can begin, with the state it begins in: the program, its global functions, and what the walk
/// found to run later.
pub(crate) fn each_entry<'a>(
    walk: &mut Walk<'a>,
    mut begin: impl FnMut(&mut Walk<'a>, usize, State) -> Checked,
) -> Checked {
    let mut frame = Frame::new(0, 0, rtbpf_isa::InsnIdx(0));
    for (reg, value) in [rtbpf_isa::Reg::R1, rtbpf_isa::Reg::R2].into_iter().zip(walk.entry_registers()) {
        if let Some(value) = value {
            frame.regs[reg.index()] = value;
        }
    }
    begin(walk, 0, State::new(frame))?;
    for (index, subprog) in walk.program.subprogs().iter().enumerate().skip(1) {
        if subprog.linkage == Linkage::Global {
            let entry = walk.global_entry(index)?;
            begin(walk, index, entry)?;
        }
    }
    let mut done = 0;
    while let Some(frame) = walk.async_frames.get(done).cloned() {
        done += 1;
        begin(walk, frame.subprog, State::new(frame))?;
    }
    Ok(())
}

/// A rejection with its log: what was logged on the way, the message and what belongs to it, the statistics.
fn finished(mut rejection: Rejection, mut log: String, stats: crate::verified::Stats) -> Rejection {
    if !log.is_empty() && !log.ends_with('\n') {
        log.push('\n');
    }
    rejection.log = format!("{log}{}\n{}{}", rejection.message, rejection.log, crate::log::summary(&stats));
    rejection.stats = stats;
    rejection
}
