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
    if let Err(rejection) = walk_everything(&mut walk, &program, &given) {
        let log = std::mem::take(&mut walk.log);
        return Err(finished(*rejection, log.into_text(), walk.stats));
    }
    let (ctx_bytes_used, tp_bytes_used) = (walk.ctx_bytes_used, walk.tp_bytes_used);
    let (facts, stats, lowering) = (walk.take_facts(), walk.stats, std::mem::take(&mut walk.lowering));
    let mut log = std::mem::take(&mut walk.log).into_text();
    if opts.log_level != 0 {
        log += &crate::log::summary(&stats);
    }
    Ok(VerifiedProgram::proven(program, given, Proof { facts, lowering, stats, log, ctx_bytes_used, tp_bytes_used }))
}

fn before_the_walk(program: &Program, given: &Assumptions, opts: &Options) -> Checked<cfg::Flows> {
    shape::check(program, given, opts)?;
    cfg::flows(program, opts.privilege.bpf)
}

fn walk_everything(walk: &mut Walk, program: &Program, given: &Assumptions) -> Checked {
    let mut frame = Frame::new(0, 0, rtbpf_isa::InsnIdx(0));
    for (reg, value) in [rtbpf_isa::Reg::R1, rtbpf_isa::Reg::R2].into_iter().zip(walk.entry_registers()) {
        if let Some(value) = value {
            frame.regs[reg.index()] = value;
        }
    }
    walk.run(0, State::new(frame))?;
    for (index, subprog) in program.subprogs().iter().enumerate().skip(1) {
        if subprog.linkage == Linkage::Global {
            let entry = walk.global_entry(index)?;
            walk.run(index, entry)?;
        }
    }
    let mut done = 0;
    while let Some(frame) = walk.async_frames.get(done).cloned() {
        done += 1;
        walk.run(frame.subprog, State::new(frame))?;
    }
    let depths: Vec<u32> =
        walk.stack_bytes.iter().enumerate().map(|(at, &bytes)| walk.spills.depth(at, bytes)).collect();
    subprog::check_depth(program, given.prog_type, &depths, &walk.async_entries)
}

/// A rejection with its log: what was logged on the way, the message, the statistics.
fn finished(mut rejection: Rejection, log: String, stats: crate::verified::Stats) -> Rejection {
    rejection.log = format!("{log}{}\n{}", rejection.message, crate::log::summary(&stats));
    rejection.stats = stats;
    rejection
}
