//! The checked interpreter: runs any well-formed program safely, verified or not.
//!
//! Every access is judged by the region its pointer names ([`crate::region`]), every run is metered, and whatever a
//! program does wrong ends in a typed [`Fault`]. A run is a value: it can be put down after any instruction and taken
//! up again, and helpers that call back into the program are steps of it (`flow.rs`), not recursion.
//!
//! Stack bytes and registers that nobody wrote read as 0. Fuel counts instructions: a straight run of them is charged
//! at its first, and a run stops before one it cannot pay for.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use rtbpf_abi::frame::{FaultCode, RunFrame};
use rtbpf_abi::limits::{MAX_FRAMES, MAX_LOOPS, STACK_BYTES};
use rtbpf_isa::{AluOp, AtomicOp, Callee, Imm64, Insn, InsnIdx, Operand, Reg, Size, Width, eval};

use rtbpf_rt::gate::Section;

use super::flow::Then;
use super::observe::Observer;
use crate::ctx::{Ctx, CtxValue};
use crate::error::{Fault, FaultKind};
use crate::executable::{Bound, Session};
use crate::mem::{Buffer, Keep, Span};
use crate::region::{Region, RegionId, RegionKind, Regions};
use crate::run::Host;
use crate::timers::Due;

/// How many charged blocks pass between two looks at the clock.
const BLOCKS_PER_POLL: u32 = 1 << 12;

/// What a caller left behind for its return.
pub(super) struct Frame {
    pub exe: Arc<Bound>,
    pub ret: InsnIdx,
    /// R6 to R10.
    pub saved: [u64; 5],
    pub stack: RegionId,
    pub may_goto_left: u64,
    pub then: Then,
}

/// One run, between any two instructions.
pub struct Checked {
    pub(super) exe: Arc<Bound>,
    pub(super) regs: [u64; Reg::COUNT],
    pub(super) pc: InsnIdx,
    pub(super) frames: Vec<Frame>,
    pub(super) stack: RegionId,
    pub(super) may_goto_left: u64,
    pub(super) regions: Regions,
    pub(super) ctx: RegionId,
    pub(super) packet: Option<RegionId>,
    pub(super) frame: RunFrame,
    pub(super) host: Box<Host>,
    polls: u32,
    /// What maps hand out stays alive while the run does.
    _section: Section,
}

impl Checked {
    /// A run of the callback of a timer in the element with this key, before its first instruction.
    pub(crate) fn start_callback(
        exe: &Arc<Bound>,
        session: &mut Session,
        ctx: Ctx,
        due: &Due,
        key: &[u8],
    ) -> Result<Checked, Box<Fault>> {
        let mut run = Checked::start(exe, session, ctx)?;
        run.pc = due.callback.at;
        run.host.timer = Some(due.word);
        run.fire(due, key).map_err(|kind| Fault::new(kind, run.pc, &exe.program))?;
        Ok(run)
    }

    /// `callback(map, key, value)`.
    fn fire(&mut self, due: &Due, key: &[u8]) -> Result<(), FaultKind> {
        let key = Buffer::from_bytes(key);
        let map = self.map_pointer(&due.map)?;
        let value = self.value_pointer(&due.map, due.value)?;
        let region = self.show(&key, false)?;
        self.host.keep(key);
        self.set(Reg::R1, map);
        self.set(Reg::R2, region.pointer(0));
        self.set(Reg::R3, value);
        Ok(())
    }

    /// A run of `exe` on `ctx`, before its first instruction.
    pub(crate) fn start(exe: &Arc<Bound>, session: &mut Session, ctx: Ctx) -> Result<Checked, Box<Fault>> {
        let host = Box::new(session.host(exe, ctx));
        let mut frame = host.frame();
        frame.fuel = session.fuel();
        let mut run = Checked {
            exe: exe.clone(),
            regs: [0; Reg::COUNT],
            pc: InsnIdx(0),
            frames: Vec::new(),
            stack: RegionId::default(),
            may_goto_left: MAX_LOOPS,
            regions: session.take_regions(),
            ctx: RegionId::default(),
            packet: None,
            frame,
            host,
            polls: BLOCKS_PER_POLL,
            _section: rtbpf_rt::gate::enter(),
        };
        run.enter().map_err(|kind| Fault::new(kind, run.pc, &exe.program))?;
        Ok(run)
    }

    fn enter(&mut self) -> Result<(), FaultKind> {
        self.ctx = self.regions.add(self.host.ctx.region())?;
        self.set(Reg::R1, self.ctx.pointer(0));
        self.set(Reg::R2, self.host.ctx.second_arg());
        self.push_stack()
    }

    /// Runs to the end, or to a fault. After [`FaultKind::OutOfFuel`] the run can be continued with more fuel.
    pub fn run<O: Observer>(&mut self, observer: &mut O) -> Result<u64, Box<Fault>> {
        loop {
            if let Some(result) = self.step(observer)? {
                return Ok(result);
            }
        }
    }

    /// Runs one instruction; the result once the program has ended.
    #[inline]
    pub fn step<O: Observer>(&mut self, observer: &mut O) -> Result<Option<u64>, Box<Fault>> {
        let at = self.pc;
        match self.insn(observer) {
            Ok(result) => Ok(result),
            Err(kind) => {
                self.pc = at;
                Err(Fault::new(kind, at, &self.exe.program))
            }
        }
    }

    /// The instruction that runs next, in the program that runs now.
    pub fn at(&self) -> InsnIdx {
        self.pc
    }

    /// The registers.
    pub fn regs(&self) -> &[u64; Reg::COUNT] {
        &self.regs
    }

    /// Instructions that may still run.
    pub fn fuel(&self) -> i64 {
        self.frame.fuel
    }

    /// Allows more instructions.
    pub fn add_fuel(&mut self, insns: i64) {
        self.frame.fuel = self.frame.fuel.saturating_add(insns);
    }

    /// Gives the context back, and the run's tables for the next run.
    pub(crate) fn finish(self, session: &mut Session) -> Ctx {
        session.take_back(self.regions, self.frame.fuel, *self.host)
    }

    #[inline(always)]
    pub(super) fn get(&self, reg: Reg) -> u64 {
        self.regs[reg.index()]
    }

    #[inline(always)]
    pub(super) fn set(&mut self, reg: Reg, value: u64) {
        self.regs[reg.index()] = value;
    }

    #[inline(always)]
    fn set_dst(&mut self, reg: Reg, value: u64) -> Result<(), FaultKind> {
        if reg == Reg::FP {
            return Err(FaultKind::FramePointer);
        }
        self.set(reg, value);
        Ok(())
    }

    #[inline(always)]
    fn operand(&self, operand: Operand) -> u64 {
        match operand {
            Operand::Reg(reg) => self.get(reg),
            Operand::Imm(imm) => imm as i64 as u64,
        }
    }

    /// Pays for the straight run of instructions that starts at `pc`, and looks at the outside now and then.
    #[inline(always)]
    fn charge(&mut self, cost: u32) -> Result<(), FaultKind> {
        if self.frame.fuel < cost as i64 {
            return Err(FaultKind::OutOfFuel);
        }
        if self.host.cancel.load(Relaxed) != 0 {
            return Err(FaultKind::Cancelled);
        }
        self.polls -= 1;
        if self.polls == 0 {
            self.polls = BLOCKS_PER_POLL;
            if self.host.deadline_passed() {
                return Err(FaultKind::Deadline);
            }
        }
        // What stops here has not begun, so it is not paid for.
        self.frame.fuel -= cost as i64;
        Ok(())
    }

    #[inline(always)]
    fn insn<O: Observer>(&mut self, observer: &mut O) -> Result<Option<u64>, FaultKind> {
        let at = self.pc;
        let insn = *self.exe.program.get(at).ok_or(FaultKind::PastEnd)?;
        let cost = self.exe.costs.get(at.index()).copied().unwrap_or(1);
        if cost != 0 {
            self.charge(cost)?;
        }
        observer.insn(at, &self.regs);
        if self.exe.facts.is_some() {
            self.check_before(at, &insn)?;
        }
        self.pc = at.next();
        match insn {
            Insn::Alu { op: AluOp::Mov, width: Width::W64, dst, src } => self.set_dst(dst, self.operand(src))?,
            Insn::Alu { op, width, dst, src } => {
                self.set_dst(dst, eval::alu(op, width, self.get(dst), self.operand(src)))?;
            }
            Insn::MovSx { width, from, dst, src } => self.set_dst(dst, eval::move_sx(width, from, self.get(src)))?,
            Insn::Neg { width, dst } => self.set_dst(dst, eval::neg(width, self.get(dst)))?,
            Insn::Swap { kind, size, dst } => self.set_dst(dst, eval::swap(kind, size, self.get(dst)))?,
            Insn::AddrCast { .. } => return Err(FaultKind::NoArena),
            Insn::Imm { dst, value } => {
                let value = self.wide(at, value)?;
                self.set_dst(dst, value)?;
            }
            Insn::Load { size, signed, dst, base, off } => {
                let value = self.load(self.get(base), off, size, signed)?;
                self.set_dst(dst, if signed { eval::sign_extend(size, value) } else { value })?;
            }
            Insn::LoadAcquire { size, dst, base, off } => {
                let value = self.load(self.get(base), off, size, false)?;
                std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
                self.set_dst(dst, value)?;
            }
            Insn::Store { size, base, off, src } => self.store(self.get(base), off, size, self.operand(src))?,
            Insn::StoreRelease { size, base, off, src } => {
                std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
                self.store(self.get(base), off, size, self.get(src))?;
            }
            Insn::Atomic { op, fetch, width, base, off, src } => {
                let old = self.atomic(op, width, self.get(base), off, self.get(src))?;
                match op {
                    AtomicOp::Cmpxchg => self.set(Reg::R0, old),
                    AtomicOp::Xchg => self.set_dst(src, old)?,
                    AtomicOp::Add | AtomicOp::Or | AtomicOp::And | AtomicOp::Xor if fetch => self.set_dst(src, old)?,
                    AtomicOp::Add | AtomicOp::Or | AtomicOp::And | AtomicOp::Xor => {}
                }
            }
            Insn::Packet { size, index, off } => {
                let index = index.map_or(0, |index| self.get(index));
                match self.packet_load(size, index, off)? {
                    Some(value) => self.set(Reg::R0, value),
                    None => {
                        self.set(Reg::R0, 0);
                        return self.exit();
                    }
                }
            }
            Insn::Jump { to, .. } => self.pc = at.target(to),
            Insn::Branch { op, width, lhs, rhs, to } => {
                let taken = eval::compare(op, width, self.get(lhs), self.operand(rhs));
                observer.branch(at, taken);
                if self.exe.facts.is_some() {
                    self.check_branch(at, taken)?;
                }
                if taken {
                    self.pc = at.target(to);
                }
            }
            Insn::MayGoto { to } => {
                let leaves = self.may_goto_left == 0;
                observer.branch(at, leaves);
                match leaves {
                    true => self.pc = at.target(to),
                    false => self.may_goto_left -= 1,
                }
            }
            Insn::Call(callee) => {
                let args = [self.regs[1], self.regs[2], self.regs[3], self.regs[4], self.regs[5]];
                observer.call(at, callee, &args);
                match callee {
                    Callee::Local { to } => self.push_frame(at.target(to), Then::Return)?,
                    Callee::Helper(id) => self.helper(at, id, &args, observer)?,
                    Callee::Kfunc { btf_id, .. } => {
                        if let Some(thrown) = self.kfunc(btf_id, &args)? {
                            return Ok(Some(thrown));
                        }
                    }
                    Callee::Reg(_) => return Err(FaultKind::CallReg),
                }
            }
            Insn::Exit => return self.exit(),
            Insn::Bad { why, .. } => return Err(FaultKind::BadInsn(why)),
        }
        Ok(None)
    }

    /// The value of a wide load.
    fn wide(&mut self, at: InsnIdx, value: Imm64) -> Result<u64, FaultKind> {
        match value {
            Imm64::Const([low, high]) => Ok((high as u64) << 32 | low as u64),
            Imm64::Map { map, .. } => {
                let exe = self.exe.clone();
                self.map_pointer(exe.map(map)?)
            }
            Imm64::MapValue { map, off, .. } => {
                let exe = self.exe.clone();
                let map = exe.map(map)?;
                let (addr, len) = self.host.direct_value(map)?;
                let writable = map.spec().prog_writes();
                let keep = Keep::Map(map.clone());
                let id = self.regions.handed_out(RegionKind::MapValue, addr, len, writable, keep)?;
                Ok(id.pointer(off as i64))
            }
            Imm64::Var { btf_id, .. } => Err(FaultKind::NoVariable(btf_id)),
            Imm64::Func { to } => {
                let target = at.target(to);
                let native = Arc::as_ptr(&self.exe) as u64 + target.0 as u64;
                let make = || Region::handle(RegionKind::Func(target), native);
                Ok(self.regions.intern(RegionKind::Func(target), native, make)?.pointer(0))
            }
        }
    }

    #[inline(always)]
    pub(super) fn load(&mut self, base: u64, off: i16, size: Size, signed: bool) -> Result<u64, FaultKind> {
        let (region, start) = self.regions.resolve(base)?;
        let off = start + off as i64;
        if region.kind == RegionKind::Ctx {
            return self.load_ctx(off, size, signed);
        }
        match region.span.load(off, size) {
            Some(value) if region.readable => Ok(value),
            _ => Err(refused(region, off, size, false)),
        }
    }

    #[inline(always)]
    pub(super) fn store(&mut self, base: u64, off: i16, size: Size, value: u64) -> Result<(), FaultKind> {
        let (region, start) = self.regions.resolve(base)?;
        let off = start + off as i64;
        if region.kind == RegionKind::Ctx && !self.host.ctx.may_write(off, size) {
            return Err(FaultKind::Context { off, size: size.bytes(), write: true });
        }
        if !region.writable || region.span.store(off, size, value).is_none() {
            return Err(refused(region, off, size, true));
        }
        Ok(())
    }

    fn atomic(&mut self, op: AtomicOp, width: Width, base: u64, off: i16, src: u64) -> Result<u64, FaultKind> {
        let r0 = self.get(Reg::R0);
        let (region, start) = self.regions.resolve(base)?;
        let (off, size) = (start + off as i64, width.size());
        if !region.writable || region.kind == RegionKind::Ctx && self.host.ctx.has_layout() {
            return Err(FaultKind::Denied { region: region.kind, write: true });
        }
        region.span.atomic(op, width, off, src, r0).ok_or_else(|| refused(region, off, size, true))
    }

    /// A load of the context: bytes, or a pointer to what a field stands for.
    fn load_ctx(&mut self, off: i64, size: Size, signed: bool) -> Result<u64, FaultKind> {
        match self.host.ctx.load(off, size, signed) {
            None => Err(FaultKind::Context { off, size: size.bytes(), write: false }),
            Some(CtxValue::Scalar(value)) => Ok(value),
            Some(CtxValue::Packet(at)) => {
                let id = self.packet_region()?;
                let origin = self.regions.get(id).map_or(0, |region| region.origin);
                Ok(id.pointer(origin + at))
            }
            Some(CtxValue::Null) => Ok(0),
            Some(CtxValue::Memory { kind, span, off, writable }) => {
                let make = || Region::memory(kind, span.clone(), writable);
                Ok(self.regions.intern(kind, span.addr(), make)?.pointer(off))
            }
        }
    }

    /// The region of the packet as it is now.
    pub(super) fn packet_region(&mut self) -> Result<RegionId, FaultKind> {
        match self.packet {
            Some(id) => Ok(id),
            None => {
                let region = self.host.ctx.packet_region();
                let id = self.regions.add(region)?;
                self.packet = Some(id);
                Ok(id)
            }
        }
    }

    /// Ends the packet's region: pointers taken before point nowhere.
    pub(super) fn packet_moved(&mut self) {
        if let Some(id) = self.packet.take() {
            self.regions.end(id);
        }
        self.host.describe_packet(&mut self.frame);
    }

    /// `r0 = ntoh(packet[...])`; `None` when it is out of range. R6 must hold the context.
    fn packet_load(&mut self, size: Size, index: u64, off: i32) -> Result<Option<u64>, FaultKind> {
        if self.get(Reg::R6) != self.ctx.pointer(0) {
            return Err(FaultKind::NoPacket);
        }
        let at = off as i64 + index as u32 as i32 as i64;
        self.host.ctx.load_packet(at, size)
    }

    /// A zeroed stack for the frame that starts now, and R10 to its top.
    pub(super) fn push_stack(&mut self) -> Result<(), FaultKind> {
        let at = self.frames.len() * STACK_BYTES as usize;
        self.host.stack.zero(at, STACK_BYTES as usize);
        let span = Span::of(&self.host.stack, at, STACK_BYTES as usize);
        self.stack = self.regions.add(Region::memory(RegionKind::Stack, span, true))?;
        self.set(Reg::FP, self.stack.pointer(STACK_BYTES as i64));
        self.may_goto_left = MAX_LOOPS;
        Ok(())
    }

    /// Calls the subprogram at `target`.
    pub(super) fn push_frame(&mut self, target: InsnIdx, then: Then) -> Result<(), FaultKind> {
        if self.frames.len() + 1 >= MAX_FRAMES {
            return Err(FaultKind::CallDepth(self.frames.len() + 2));
        }
        let [.., r6, r7, r8, r9, r10] = self.regs;
        self.frames.push(Frame {
            exe: self.exe.clone(),
            ret: self.pc,
            saved: [r6, r7, r8, r9, r10],
            stack: self.stack,
            may_goto_left: self.may_goto_left,
            then,
        });
        self.pc = target;
        self.push_stack()
    }

    /// Puts the caller `frame` back in force.
    pub(super) fn restore(&mut self, frame: Frame) {
        self.regions.end(self.stack);
        let [.., r6, r7, r8, r9, r10] = &mut self.regs;
        [*r6, *r7, *r8, *r9, *r10] = frame.saved;
        self.exe = frame.exe;
        self.pc = frame.ret;
        self.stack = frame.stack;
        self.may_goto_left = frame.may_goto_left;
    }

    /// What a helper left in the frame.
    pub(super) fn helper_fault(&mut self, name: &str) -> Result<(), FaultKind> {
        match std::mem::take(&mut self.frame.fault) {
            FaultCode::None => Ok(()),
            FaultCode::OutOfFuel => Err(FaultKind::OutOfFuel),
            FaultCode::Cancelled => Err(FaultKind::Cancelled),
            FaultCode::Deadline => Err(FaultKind::Deadline),
            FaultCode::Thrown => Err(FaultKind::Thrown(self.get(Reg::R0))),
            FaultCode::Helper | FaultCode::Memory | FaultCode::Trap => Err(FaultKind::HelperPanicked(name.into())),
        }
    }
}

#[cold]
fn refused(region: &Region, off: i64, size: Size, write: bool) -> FaultKind {
    let allowed = if write { region.writable } else { region.readable };
    if !allowed {
        return FaultKind::Denied { region: region.kind, write };
    }
    FaultKind::OutOfBounds { region: region.kind, off, size: size.bytes() as u64, len: region.span.len(), write }
}
