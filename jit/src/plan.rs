//! What both tiers must know of a program before they emit its first byte.

use rtbpf_isa::effects::{Flow, RegSet};
use rtbpf_isa::{Callee, Imm64, Insn, InsnIdx, Reg};
use rtbpf_verifier::VerifiedProgram;

use crate::Options;
use crate::encode::{Encode, Entered, FramePointer, Shape};

const KEPT: RegSet = RegSet(1 << Reg::R6 as u8 | 1 << Reg::R7 as u8 | 1 << Reg::R8 as u8 | 1 << Reg::R9 as u8);

/// Functions, blocks and calls of a program.
pub(crate) struct Plan {
    /// Per subprogram.
    pub shapes: Vec<Shape>,
    /// Subprograms that wide loads name, so that helpers may call them.
    pub callbacks: Vec<bool>,
    /// The entry is a stub, because the program calls its first function or has callbacks.
    pub stub: bool,
    /// Source instructions of the block that begins at each instruction, 0 where none does; empty without fuel.
    pub blocks: Vec<u32>,
}

impl Plan {
    pub fn new<E: Encode>(program: &VerifiedProgram, options: &Options) -> Plan {
        let code = program.code();
        let mut callbacks = vec![false; code.subprogs().len()];
        let mut run = options.fuel || options.cancel;
        let mut calls_entry = false;
        let mut shapes: Vec<Shape> = Vec::with_capacity(callbacks.len());
        for (number, subprog) in code.subprogs().iter().enumerate() {
            let insns = code.insns().get(subprog.start.index()..subprog.end.index()).unwrap_or_default();
            let mut touched = RegSet::EMPTY;
            let (mut calls, mut passes, mut may_goto) = (false, false, false);
            for (offset, insn) in insns.iter().enumerate() {
                touched = touched.with(insn.touches());
                match insn {
                    Insn::Call(callee) => {
                        (calls, passes) = (true, true);
                        calls_entry |= matches!(callee, Callee::Local { .. }) && {
                            let at = InsnIdx(subprog.start.0 + offset as u32);
                            insn.relative_target().is_some_and(|to| code.subprog_at(at.target(to)) == 0)
                        };
                    }
                    Insn::Packet { .. } => calls = true,
                    Insn::MayGoto { .. } => may_goto = true,
                    Insn::Imm { value: Imm64::Func { to }, .. } => {
                        let at = InsnIdx(subprog.start.0 + offset as u32);
                        if let Some(named) = callbacks.get_mut(code.subprog_at(at.target(*to))) {
                            *named = true;
                        }
                    }
                    Insn::Load { .. } | Insn::Store { .. } | Insn::Atomic { .. } => run = true,
                    Insn::LoadAcquire { .. } | Insn::StoreRelease { .. } => run = true,
                    Insn::Alu { .. } | Insn::MovSx { .. } | Insn::Neg { .. } | Insn::Swap { .. } => {}
                    Insn::AddrCast { .. } | Insn::Imm { .. } | Insn::Jump { .. } | Insn::Branch { .. } => {}
                    Insn::Exit | Insn::Bad { .. } => {}
                }
            }
            run |= calls;
            let fp = if touched.contains(Reg::R10) {
                FramePointer::Own { zeroed: zeroed_bytes(program, number) }
            } else if passes {
                FramePointer::Passed
            } else {
                FramePointer::None
            };
            let saves = RegSet(touched.0 & KEPT.0).iter().fold(0, |saves, reg| saves | bit::<E>(reg));
            // Only plain programs have a second argument, and the checked engine leaves 0 in it for the others.
            let second = number == 0 && touched.contains(Reg::R2);
            shapes.push(Shape { entered: Entered::ByProgram, saves, fp, run: true, calls, may_goto, second });
        }
        // No verifier lets a jump leave its function. Where one does, every function gets the same frame, so that the
        // epilogue that a path meets undoes the prologue that it came through.
        let crosses = jumps_between_functions(program);
        if crosses {
            one_frame(&mut shapes);
        }
        let stub = calls_entry || crosses || callbacks.contains(&true);
        // A fault leaves from any depth, past the epilogues of the functions between.
        let all_saves = shapes.iter().fold(0, |all, shape| all | shape.saves);
        if let Some(entry) = shapes.first_mut()
            && !stub
        {
            (entry.entered, entry.run, entry.saves) = (Entered::ByHost, run, all_saves);
        }
        let blocks = if options.fuel || options.cancel { blocks(program) } else { Vec::new() };
        Plan { shapes, callbacks, stub, blocks }
    }
}

fn jumps_between_functions(program: &VerifiedProgram) -> bool {
    let code = program.code();
    code.subprogs().len() > 1
        && code.iter().any(|(at, insn)| match insn.flow() {
            Flow::Jump(to) | Flow::Branch(to) => code.subprog_at(at) != code.subprog_at(at.target(to)),
            Flow::Next | Flow::Call(_) | Flow::Exit => false,
        })
}

/// Gives every function the frame that holds what any of them needs.
fn one_frame(shapes: &mut [Shape]) {
    let saves = shapes.iter().fold(0, |all, shape| all | shape.saves);
    let zeroed = shapes.iter().map(|shape| match shape.fp {
        FramePointer::Own { zeroed } => zeroed,
        FramePointer::Passed | FramePointer::None => 0,
    });
    let fp = FramePointer::Own { zeroed: zeroed.max().unwrap_or(0) };
    let (calls, may_goto) = (shapes.iter().any(|s| s.calls), shapes.iter().any(|s| s.may_goto));
    for shape in shapes {
        (shape.saves, shape.fp, shape.calls, shape.may_goto) = (saves, fp, calls, may_goto);
    }
}

fn bit<E: Encode>(reg: Reg) -> u32 {
    E::MAP.get(reg.index()).map_or(0, |reg| 1 << Into::<u8>::into(*reg))
}

/// The bytes that a frame must find zero: where programs read what they have not written.
fn zeroed_bytes(program: &VerifiedProgram, subprog: usize) -> u32 {
    let facts = program.proved();
    if !facts.reads_uninit_stack {
        return 0;
    }
    facts.stack_bytes.get(subprog).map_or(512, |bytes| bytes.next_multiple_of(32).min(512))
}

/// Source instructions of each block, at its leader.
///
/// Leaders are the first instructions of subprograms, targets of jumps, and what follows a jump, a call, an exit or a
/// legacy packet load.
fn blocks(program: &VerifiedProgram) -> Vec<u32> {
    let code = program.code();
    let mut leader = vec![false; code.len() + 1];
    let mut lead = |at: InsnIdx| {
        if let Some(leader) = leader.get_mut(at.index()) {
            *leader = true;
        }
    };
    code.subprogs().iter().for_each(|subprog| lead(subprog.start));
    for (at, insn) in code.iter() {
        match insn.flow() {
            Flow::Next if !matches!(insn, Insn::Call(_) | Insn::Packet { .. } | Insn::Bad { .. }) => {}
            Flow::Next | Flow::Call(_) | Flow::Exit => lead(at.next()),
            Flow::Jump(to) | Flow::Branch(to) => {
                lead(at.next());
                lead(at.target(to));
            }
        }
    }
    let mut blocks = vec![0; code.len()];
    let mut count = 0;
    for (block, leads) in blocks.iter_mut().zip(&leader).rev() {
        count += 1;
        if *leads {
            *block = std::mem::take(&mut count);
        }
    }
    blocks
}
