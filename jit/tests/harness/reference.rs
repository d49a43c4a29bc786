//! The meaning of a program, spelt out: one instruction after the other, by `isa::eval`, on memory of its own.

use rtbpf_abi::frame::{FaultCode, RunFrame};
use rtbpf_isa::eval;
use rtbpf_isa::{AtomicOp, Callee, Imm64, Insn, InsnIdx, Operand, Program, Reg, Size};

use super::{CTX, FAIL_IF_ODD, MIX, Outcome, REPEAT, STACK, mixed, packet};

/// Addresses of the model: the context begins here, the stack ends there, code lies in the third.
const CTX_BASE: u64 = 0x1_0000_0000;
const STACK_TOP: u64 = 0x2_0000_0000;
const CODE_BASE: u64 = 0x3_0000_0000;

pub struct Reference<'a> {
    program: &'a Program,
    ctx: [u8; CTX],
    stack: Vec<u8>,
    fuel: Option<i64>,
    fault: FaultCode,
    fault_at: u32,
    trace: Vec<[u64; 5]>,
    steps: u64,
}

struct Stop;

/// Runs `program`; `fuel` only counts when given.
pub fn reference(program: &Program, ctx: [u64; CTX / 8], fuel: Option<i64>) -> Outcome {
    let mut bytes = [0; CTX];
    for (to, word) in bytes.chunks_exact_mut(8).zip(ctx) {
        to.copy_from_slice(&word.to_le_bytes());
    }
    let stack = vec![0xa5; STACK];
    let mut machine = Reference {
        program,
        ctx: bytes,
        stack,
        fuel,
        fault: FaultCode::None,
        fault_at: RunFrame::NOWHERE,
        trace: Vec::new(),
        steps: 0,
    };
    let mut regs = [0; 11];
    regs[1] = CTX_BASE;
    let r0 = machine.function(InsnIdx(0), regs, STACK_TOP).ok();
    let mut ctx = [0; CTX / 8];
    for (word, bytes) in ctx.iter_mut().zip(machine.ctx.as_chunks::<8>().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    Outcome {
        r0,
        fault: machine.fault,
        fault_at: machine.fault_at,
        fuel: machine.fuel.unwrap_or(i64::MAX),
        ctx,
        trace: machine.trace,
    }
}

impl Reference<'_> {
    fn bytes(&mut self, address: u64, size: Size) -> &mut [u8] {
        let (region, start) = match address >> 32 {
            1 if address < STACK_TOP - STACK as u64 => (&mut self.ctx[..], address - CTX_BASE),
            _ => (&mut self.stack[..], address - (STACK_TOP - STACK as u64)),
        };
        &mut region[start as usize..][..size.bytes() as usize]
    }

    fn read(&mut self, address: u64, size: Size) -> u64 {
        self.bytes(address, size).iter().rev().fold(0, |value, byte| value << 8 | *byte as u64)
    }

    fn write(&mut self, address: u64, size: Size, value: u64) {
        let bytes = value.to_le_bytes();
        self.bytes(address, size).copy_from_slice(&bytes[..size.bytes() as usize]);
    }

    fn is_leader(&self, at: InsnIdx) -> bool {
        let program = self.program;
        let starts = program.subprogs().iter().any(|s| s.start == at);
        let follows = at.0 > 0 && {
            let before = program.insns()[at.index() - 1];
            let ends = matches!(before, Insn::Call(_) | Insn::Packet { .. } | Insn::Bad { .. });
            ends || matches!(before, Insn::Jump { .. } | Insn::Branch { .. } | Insn::MayGoto { .. } | Insn::Exit)
        };
        let is_jump = |insn: &Insn| matches!(insn, Insn::Jump { .. } | Insn::Branch { .. } | Insn::MayGoto { .. });
        starts || follows || {
            let targets = |(from, insn): (InsnIdx, &Insn)| {
                is_jump(insn) && insn.relative_target().map(|to| from.target(to)) == Some(at)
            };
            program.iter().any(targets)
        }
    }

    fn charge(&mut self, at: InsnIdx) -> Result<(), Stop> {
        let Some(fuel) = self.fuel else { return Ok(()) };
        if !self.is_leader(at) {
            return Ok(());
        }
        let mut end = at.next();
        while end.index() < self.program.len() && !self.is_leader(end) {
            end = end.next();
        }
        let cost = (end.0 - at.0) as i64;
        if fuel < cost {
            (self.fault, self.fault_at) = (FaultCode::OutOfFuel, at.0);
            return Err(Stop);
        }
        self.fuel = Some(fuel - cost);
        Ok(())
    }

    fn function(&mut self, start: InsnIdx, mut regs: [u64; 11], fp: u64) -> Result<u64, Stop> {
        regs[10] = fp;
        // Native code zeroes the frame where nothing proves that it is written before it is read.
        let uses_frame = {
            let subprog = &self.program.subprogs()[self.program.subprog_at(start)];
            (subprog.start.0..subprog.end.0).any(|at| self.program.insns()[at as usize].uses().contains(Reg::R10))
        };
        if uses_frame {
            (1..=64).for_each(|word| self.write(fp - word * 8, Size::D, 0));
        }
        let mut at = start;
        let mut budget = 8u64 << 20;
        loop {
            self.steps += 1;
            assert!(self.steps < 10_000_000, "the test program does not end");
            self.charge(at)?;
            let insn = self.program.insns()[at.index()];
            let value = |regs: &[u64; 11], operand| match operand {
                Operand::Reg(reg) => regs[reg as usize],
                Operand::Imm(imm) => imm as i64 as u64,
            };
            let mut next = at.next();
            match insn {
                Insn::Alu { op, width, dst, src } => {
                    regs[dst as usize] = eval::alu(op, width, regs[dst as usize], value(&regs, src));
                }
                Insn::MovSx { width, from, dst, src } => {
                    regs[dst as usize] = eval::move_sx(width, from, regs[src as usize]);
                }
                Insn::Neg { width, dst } => regs[dst as usize] = eval::neg(width, regs[dst as usize]),
                Insn::Swap { kind, size, dst } => regs[dst as usize] = eval::swap(kind, size, regs[dst as usize]),
                Insn::Imm { dst, value: Imm64::Const([low, high]) } => {
                    regs[dst as usize] = (high as u64) << 32 | low as u64;
                }
                Insn::Imm { dst, value: Imm64::Func { to } } => {
                    regs[dst as usize] = CODE_BASE + at.target(to).0 as u64;
                }
                Insn::Load { size, signed, dst, base, off } => {
                    let value = self.read(regs[base as usize].wrapping_add(off as u64), size);
                    regs[dst as usize] = if signed { eval::sign_extend(size, value) } else { value };
                }
                Insn::LoadAcquire { size, dst, base, off } => {
                    regs[dst as usize] = self.read(regs[base as usize].wrapping_add(off as u64), size);
                }
                Insn::Store { size, base, off, src } => {
                    let value = value(&regs, src);
                    self.write(regs[base as usize].wrapping_add(off as u64), size, value);
                }
                Insn::StoreRelease { size, base, off, src } => {
                    self.write(regs[base as usize].wrapping_add(off as u64), size, regs[src as usize]);
                }
                Insn::Atomic { op, fetch, width, base, off, src } => {
                    let address = regs[base as usize].wrapping_add(off as u64);
                    let old = self.read(address, width.size());
                    let new = eval::atomic(op, width, old, regs[src as usize], regs[0]);
                    self.write(address, width.size(), new);
                    match op {
                        AtomicOp::Cmpxchg => regs[0] = old,
                        _ if fetch => regs[src as usize] = old,
                        _ => {}
                    }
                }
                Insn::Packet { size, index, off } => {
                    let off = (off as u32).wrapping_add(index.map_or(0, |index| regs[index as usize] as u32));
                    match packet(off as u64, size.bytes() as u64) {
                        Some(value) => regs[0] = value,
                        None => return Ok(0),
                    }
                }
                Insn::Jump { to, .. } => next = at.target(to),
                Insn::Branch { op, width, lhs, rhs, to } => {
                    if eval::compare(op, width, regs[lhs as usize], value(&regs, rhs)) {
                        next = at.target(to);
                    }
                }
                Insn::MayGoto { to } => match budget.checked_sub(1) {
                    Some(left) => budget = left,
                    None => next = at.target(to),
                },
                Insn::Call(Callee::Local { to }) => {
                    regs[0] = self.function(at.target(to), regs, fp - 512)?;
                }
                Insn::Call(Callee::Helper(id)) => {
                    regs[0] = self.helper(id, &regs, fp)?;
                    if self.fault != FaultCode::None {
                        self.fault_at = at.0;
                        return Err(Stop);
                    }
                }
                Insn::Exit => return Ok(regs[0]),
                other => panic!("the reference does not run {other:?}"),
            }
            at = next;
        }
    }

    fn helper(&mut self, id: i32, regs: &[u64; 11], fp: u64) -> Result<u64, Stop> {
        let args = [regs[1], regs[2], regs[3], regs[4], regs[5]];
        match id {
            MIX => {
                self.trace.push(args);
                Ok(mixed(args))
            }
            FAIL_IF_ODD => {
                if args[0] & 1 != 0 {
                    self.fault = FaultCode::Helper;
                }
                Ok(args[0])
            }
            REPEAT => {
                let mut done = 0;
                while done < args[1] {
                    let mut inner = [0; 11];
                    (inner[1], inner[2]) = (done, args[2]);
                    if self.function(InsnIdx((args[0] - CODE_BASE) as u32), inner, fp - 512)? != 0 {
                        break;
                    }
                    done += 1;
                }
                Ok(done)
            }
            other => panic!("no helper {other}"),
        }
    }
}
