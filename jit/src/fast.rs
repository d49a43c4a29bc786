//! The fast tier: one pass, each instruction to its machine operations, registers at fixed places.

use std::borrow::Cow;

use rtbpf_abi::frame::FaultCode;
use rtbpf_isa::{Callee, Imm64, Insn, InsnIdx, Operand, Reg, Size, Swap, Width};
use rtbpf_verifier::{Access, Branch, InsnFacts, NativeAccess, VerifiedProgram};

use crate::Options;
use crate::abi::Slot;
use crate::asm::Label;
use crate::blind::Masks;
use crate::code::{CompileError, Step, Symbol};
use crate::encode::{Addr, Alu, Bin, Encode, Reach, Rhs, Shape};
use crate::linker::{ArrayLookup, HelperTraits, Linker};
use crate::opt::exits::{Cond, Exit};
use crate::opt::{Opt, Techniques, halves, latch, straight};
use crate::plan::Plan;

/// `bpf_map_lookup_elem`.
const MAP_LOOKUP: i32 = 1;
/// `bpf_tail_call`.
const TAIL_CALL: i32 = 12;

/// Nothing is known.
static NO_FACTS: InsnFacts = InsnFacts {
    unreached: false,
    divisor_nonzero: false,
    shift_in_range: false,
    branch: Branch::Both,
    access: Access::Mixed,
    const_key: None,
    map: None,
};

/// Where the entries of the emitted code are.
pub(crate) struct Entries {
    pub entry: Label,
    /// `None` when the program keeps no frame.
    pub exit: Option<Label>,
    /// Where each function begins.
    pub functions: Vec<Label>,
    /// Stubs that helpers call, and where their functions begin.
    pub callbacks: Vec<(Label, InsnIdx)>,
}

/// A fault that leaves the straight path; emitted behind the code.
pub(crate) struct ColdFault {
    pub from: Label,
    pub refund: u32,
    pub code: FaultCode,
    pub at: InsnIdx,
}

pub(crate) struct Fast<'a, E: Encode> {
    pub(crate) e: &'a mut E,
    pub(crate) program: &'a VerifiedProgram,
    /// What to emit for each instruction of the program.
    pub(crate) insns: Cow<'a, [Insn]>,
    linker: &'a dyn Linker,
    options: &'a Options,
    pub(crate) plan: Plan,
    shape: Shape,
    /// Where a frame ends, if an epilogue was emitted already.
    epilogue: Option<Label>,
    exit: Label,
    callbacks: Vec<Option<Label>>,
    cold: Vec<ColdFault>,
    pub(crate) exits: Vec<Exit>,
    lowering: &'a [NativeAccess],
    facts: &'a [InsnFacts],
    pub(crate) opt: Opt,
    /// Set when constants are to be blinded.
    pub(crate) masks: Option<Masks>,
}

/// Emits the whole program. Instruction `i` stands at label `i`.
pub(crate) fn emit<E: Encode>(
    e: &mut E,
    program: &VerifiedProgram,
    linker: &dyn Linker,
    options: &Options,
) -> Result<Entries, CompileError> {
    let plan = Plan::new::<E>(program, options);
    let exit = e.asm().label();
    let callbacks = plan.callbacks.iter().map(|named| named.then(|| e.asm().label())).collect();
    let Some(&shape) = plan.shapes.first() else { return Err(CompileError::TooLarge) };
    let lowering = program.lowering().ctx();
    let facts = program.proved().insns.as_slice();
    // Optimised code folds constants together and into addresses.
    let on = options.optimise.filter(|_| options.harden.is_none());
    // Under a meter, what a branch skips is a block of its own, and blocks are charged where they stand.
    let on = on.map(|on| Techniques {
        select: on.select && plan.blocks.is_empty(),
        layout: on.layout && plan.blocks.is_empty(),
        invert: on.invert && on.values && plan.blocks.is_empty(),
        ..on
    });
    let insns = Cow::Borrowed(program.code().insns());
    let (opt, insns) = match on {
        Some(on) => {
            let insns = if on.invert { straight::straightened(program).map_or(insns, Cow::Owned) } else { insns };
            let insns = if on.halves && on.values { Cow::Owned(halves::fitted(program, &insns)) } else { insns };
            let conditions = if on.invert { latch::conditions(program, &insns) } else { None };
            let insns = conditions.map_or(insns, Cow::Owned);
            let mut opt = Opt::new(program, &insns, on);
            let insns = opt.rewritten(program, insns);
            (opt, insns)
        }
        None => (Opt::off(), insns),
    };
    let mut fast = Fast {
        e,
        program,
        insns,
        linker,
        options,
        plan,
        shape,
        epilogue: None,
        exit,
        callbacks,
        cold: Vec::new(),
        exits: Vec::new(),
        lowering,
        facts,
        opt,
        masks: options.harden.map(Masks::new),
    };
    fast.begin_behind_ways();
    let (entry, functions) = fast.program()?;
    let subprogs = program.code().subprogs();
    let callbacks = fast.callbacks.iter().zip(subprogs).filter_map(|(stub, function)| Some(((*stub)?, function.start)));
    let keeps_frame = fast.plan.stub || shape.run;
    Ok(Entries { entry, exit: keeps_frame.then_some(exit), functions, callbacks: callbacks.collect() })
}

impl<E: Encode> Fast<'_, E> {
    fn program(&mut self) -> Result<(Label, Vec<Label>), CompileError> {
        let entry = self.e.asm().label();
        self.e.asm().bind(entry);
        if self.options.harden.is_some() {
            self.e.landing_pad();
        }
        let starts: Vec<Label> = self.plan.shapes.iter().map(|_| self.e.asm().label()).collect();
        if let (true, Some(&main)) = (self.plan.stub, starts.first()) {
            self.e.host_stub(main);
        }
        let program = self.program;
        for (number, subprog) in program.code().subprogs().iter().enumerate() {
            let (Some(&shape), Some(&start)) = (self.plan.shapes.get(number), starts.get(number)) else { continue };
            self.shape = shape;
            self.epilogue = None;
            self.e.asm().bind(start);
            self.enter(&shape, subprog);
            let insns = program.code().insns().get(subprog.start.index()..subprog.end.index()).unwrap_or_default();
            for (at, insn) in (subprog.start.0..).map(InsnIdx).zip(insns) {
                match self.opt.on.values {
                    true if self.is_moved(at) => {}
                    true => self.emit(at, &starts)?,
                    false => self.direct(at, insn, &starts)?,
                }
            }
            self.e.trap();
            self.exits();
        }
        // Faults leave from any function.
        self.e.asm().frame(Step::Ends);
        for fault in std::mem::take(&mut self.cold) {
            self.e.asm().bind(fault.from);
            self.e.fault(fault.refund, fault.code, fault.at, self.exit);
        }
        for (stub, &body) in self.callbacks.iter().zip(&starts) {
            if let Some(stub) = *stub {
                self.e.asm().bind(stub);
                if self.options.harden.is_some() {
                    self.e.landing_pad();
                }
                self.e.callback_stub(body);
            }
        }
        self.e.asm().bind(self.exit);
        match self.plan.shapes.first() {
            Some(shape) if !self.plan.stub && shape.run => self.e.exit(shape),
            Some(_) if self.plan.stub => self.e.exit_stub(),
            Some(_) | None => self.e.trap(),
        }
        Ok((entry, starts))
    }

    /// The fast tier's code at its place.
    #[inline]
    fn direct(&mut self, at: InsnIdx, insn: &Insn, starts: &[Label]) -> Result<(), CompileError> {
        if self.facts.get(at.index()).is_some_and(|facts| facts.unreached) {
            return Ok(());
        }
        self.e.asm().bind(Label(at.0));
        self.charge(at);
        self.plain(at, insn, starts)
    }

    /// An optimised instruction.
    pub(crate) fn emit(&mut self, at: InsnIdx, starts: &[Label]) -> Result<(), CompileError> {
        let Some(&insn) = self.insns.get(at.index()) else { return Ok(()) };
        // Most programs under test have no facts, and a record is larger than an instruction.
        let facts = self.facts.get(at.index()).unwrap_or(&NO_FACTS);
        if facts.unreached {
            return Ok(());
        }
        self.begin(at);
        match self.opt.begins(at) {
            true => self.e.asm().bind(Label(at.0)),
            false => self.e.asm().mark(Label(at.0)),
        }
        if self.opt.folded == Some(at) {
            return Ok(());
        }
        self.charge(at);
        if self.optimised(at, &insn) {
            return Ok(());
        }
        self.plain(at, &insn, starts)
    }

    /// The fast tier's code of one instruction.
    pub(crate) fn plain(&mut self, at: InsnIdx, insn: &Insn, starts: &[Label]) -> Result<(), CompileError> {
        let facts = self.facts;
        let facts = || facts.get(at.index()).unwrap_or(&NO_FACTS);
        if self.masks.is_some() && facts().branch == Branch::Both && self.blinded(at, insn) {
            return Ok(());
        }
        match *insn {
            Insn::Alu { op, width, dst, src } => match op.into() {
                Alu::Bin(op) => self.e.bin(op, width, reg::<E>(dst), reg::<E>(dst), rhs::<E>(src)),
                Alu::Div(op) => self.e.divide(op, width, reg::<E>(dst), rhs::<E>(src), facts().divisor_nonzero),
                Alu::Mov => match src {
                    Operand::Reg(src) => self.e.mov(width, reg::<E>(dst), reg::<E>(src)),
                    Operand::Imm(value) => self.e.mov_imm(reg::<E>(dst), constant(width, value)),
                },
            },
            Insn::MovSx { width, from, dst, src } => self.e.sign_extend(width, from, reg::<E>(dst), reg::<E>(src)),
            Insn::Neg { width, dst } => self.e.neg(width, reg::<E>(dst), reg::<E>(dst)),
            Insn::Swap { kind: Swap::ToLe, size, dst } => self.e.zero_extend(size, reg::<E>(dst), reg::<E>(dst)),
            Insn::Swap { kind: Swap::ToBe | Swap::Bswap, size, dst } => self.e.swap(size, reg::<E>(dst)),
            Insn::AddrCast { .. } => return Err(unsupported(at, "an address-space cast")),
            Insn::Imm { dst, value } => self.wide(at, dst, value),
            Insn::Load { size, signed, dst, base, off } => {
                let (size, off) = self.native(at, size, off);
                self.e.load(size, signed, reg::<E>(dst), addr::<E>(base, off));
            }
            Insn::Store { size, base, off, src } => {
                let (size, off) = self.native(at, size, off);
                match src {
                    Operand::Reg(src) => self.e.store(size, addr::<E>(base, off), reg::<E>(src)),
                    Operand::Imm(value) => self.e.store_imm(size, addr::<E>(base, off), value),
                }
            }
            Insn::Atomic { op, fetch, width, base, off, src } => {
                self.e.atomic(op, fetch, width, reg::<E>(base), off.into(), reg::<E>(src));
            }
            Insn::LoadAcquire { size, dst, base, off } => {
                self.e.load_acquire(size, reg::<E>(dst), reg::<E>(base), off.into());
            }
            Insn::StoreRelease { size, base, off, src } => {
                self.e.store_release(size, reg::<E>(base), off.into(), reg::<E>(src));
            }
            Insn::Packet { size, index, off } => {
                self.packet(size, index.map(reg::<E>), off);
            }
            Insn::Jump { to, .. } if !self.opt.on.values => {
                if to != 0 {
                    let reach = self.reach(at, to);
                    self.e.jump(Label(at.target(to).0), reach);
                }
            }
            Insn::Jump { to, .. } => {
                if to != 0 && !self.test_here(at, starts)? && !self.repeat(at, starts)? && !self.follow(at, to) {
                    self.settle_all(self.live_before(at.target(to)));
                    if !self.jumps_over_moved(at, to) {
                        let reach = self.reach(at, to);
                        self.e.jump(Label(at.target(to).0), reach);
                    }
                }
            }
            Insn::Branch { op, width, lhs, rhs, to } => {
                let target = at.target(to);
                match facts().branch {
                    Branch::Both if !self.opt.on.values => {
                        let reach = self.reach(at, to);
                        self.e.branch(op, width, reg::<E>(lhs), self::rhs::<E>(rhs), Label(target.0), reach);
                    }
                    Branch::Both if self.thread(at) => {}
                    Branch::Both if self.unroll(at, starts)? || self.repeat(at, starts)? => {}
                    Branch::Both => {
                        let target = self.target(at, target, Label(target.0), self.reach(at, to));
                        self.branch(Cond { at, op, width, lhs, rhs }, target);
                        self.falls_to(at.next());
                    }
                    Branch::Taken => {
                        self.settle_all(self.live_before(target));
                        let reach = self.reach(at, to);
                        self.e.jump(Label(target.0), reach);
                    }
                    Branch::Never => {}
                }
            }
            Insn::MayGoto { to } => {
                let reach = self.reach(at, to);
                self.e.may_goto(Label(at.target(to).0), reach);
            }
            Insn::Call(callee) => self.call(at, callee, starts)?,
            Insn::Exit => self.leave(),
            Insn::Bad { .. } => self.e.trap(),
        }
        Ok(())
    }

    /// A legacy packet load; one out of range ends the frame with R0 = 0.
    pub(crate) fn packet(&mut self, size: Size, index: Option<E::Reg>, off: i32) {
        let (fail, done) = (self.e.asm().label(), self.e.asm().label());
        self.e.packet_load(size, index, off, fail);
        self.e.jump(done, Reach::Near);
        self.e.asm().bind(fail);
        self.e.mov_imm(reg::<E>(Reg::R0), 0);
        self.leave();
        self.e.asm().bind(done);
    }

    #[inline(always)]
    pub(crate) fn charge(&mut self, at: InsnIdx) {
        if !self.plan.blocks.is_empty() {
            self.charge_block(at);
        }
    }

    fn charge_block(&mut self, at: InsnIdx) {
        let count = match self.plan.blocks.get(at.index()) {
            Some(&count) if count != 0 => count,
            Some(_) | None => return,
        };
        let mut refund = 0;
        if self.options.fuel {
            refund = count;
            let from = self.cold(count, FaultCode::OutOfFuel, at);
            self.e.charge(count, from);
        }
        if self.options.cancel {
            let from = self.cold(refund, FaultCode::Cancelled, at);
            self.e.check_cancel(from);
        }
    }

    fn cold(&mut self, refund: u32, code: FaultCode, at: InsnIdx) -> Label {
        let from = self.e.asm().label();
        self.cold.push(ColdFault { from, refund, code, at });
        from
    }

    /// Size and offset in native memory.
    pub(crate) fn native(&mut self, at: InsnIdx, size: Size, off: i16) -> (Size, i32) {
        // An instruction may be emitted more than once, so this is no walk along the table.
        if !self.lowering.is_empty()
            && let Some(access) = self.program.lowering().at(at)
        {
            return (access.size, access.off.into());
        }
        (size, off.into())
    }

    fn wide(&mut self, at: InsnIdx, dst: Reg, value: Imm64) {
        let dst = reg::<E>(dst);
        match value {
            Imm64::Const([low, high]) => self.e.mov_imm(dst, (high as u64) << 32 | low as u64),
            Imm64::Map { map, .. } => self.e.mov_symbol(dst, Symbol::Map(map)),
            Imm64::MapValue { map, off, .. } => self.e.mov_symbol(dst, Symbol::MapValue { map, off }),
            Imm64::Var { btf_id, btf_obj } => self.e.mov_symbol(dst, Symbol::Var { btf_id, btf_obj }),
            Imm64::Func { to } => {
                let callee = self.program.code().subprog_at(at.target(to));
                if let Some(Some(stub)) = self.callbacks.get(callee) {
                    self.e.mov_label(dst, *stub);
                }
            }
        }
    }

    fn call(&mut self, at: InsnIdx, callee: Callee, starts: &[Label]) -> Result<(), CompileError> {
        match callee {
            Callee::Local { to } => {
                let callee = self.program.code().subprog_at(at.target(to));
                if let Some(&start) = starts.get(callee) {
                    self.e.call(start);
                }
            }
            Callee::Helper(TAIL_CALL) => {
                self.e.call_symbol(Symbol::TailCall, false);
                let (shape, exit) = (self.shape, self.exit);
                self.e.tail_jump(&shape, exit);
            }
            Callee::Helper(MAP_LOOKUP) if self.inline_lookup(at) => {}
            Callee::Helper(id) => self.helper(at, Symbol::Helper(id), self.linker.helper(id)),
            Callee::Kfunc { btf_id, module } => {
                self.helper(at, Symbol::Kfunc { btf_id, module }, HelperTraits::ANY);
            }
            Callee::Reg(_) => return Err(unsupported(at, "a call through a register")),
        }
        Ok(())
    }

    fn helper(&mut self, at: InsnIdx, symbol: Symbol, traits: HelperTraits) {
        if traits.answers_cpu {
            return self.e.get_slot(reg::<E>(Reg::R0), Slot::Cpu);
        }
        if traits.wants_number
            && let Symbol::Helper(id) = symbol
        {
            self.e.set_slot(Slot::Helper, id as u32);
        }
        let calls_back = traits.calls_back && self.callbacks.iter().any(Option::is_some);
        self.e.call_symbol(symbol, calls_back);
        if traits.can_fault || calls_back {
            let from = self.cold(0, FaultCode::None, at);
            self.e.check_fault(from);
        }
    }

    /// A lookup in a known array, as address arithmetic.
    fn inline_lookup(&mut self, at: InsnIdx) -> bool {
        let facts = self.program.proved().at(at);
        let (r0, key, base) = (reg::<E>(Reg::R0), reg::<E>(Reg::R2), reg::<E>(Reg::R1));
        if let (Some(map), Some(index)) = (facts.map, facts.const_key)
            && let Some(array) = self.linker.array(map)
        {
            match index.checked_mul(array.stride) {
                Some(off) if index < array.len => {
                    self.e.mov_symbol(r0, Symbol::MapValue { map, off });
                    self.add_slot(r0, array);
                }
                Some(_) | None => self.e.mov_imm(r0, 0),
            }
            return true;
        }
        let Some((map, array)) = facts.map.and_then(|map| Some((map, self.linker.array(map)?))) else { return false };
        let (Ok(len), Ok(stride)) = (i32::try_from(array.len), i32::try_from(array.stride)) else { return false };
        let (absent, done) = (self.e.asm().label(), self.e.asm().label());
        self.e.load(Size::W, false, r0, Addr::new(key, 0));
        self.e.branch(rtbpf_isa::CmpOp::Ge, Width::W32, r0, Rhs::Imm(len), absent, Reach::Near);
        match (stride as u32).is_power_of_two() {
            true => self.e.bin(Bin::Lsh, Width::W64, r0, r0, Rhs::Imm(stride.trailing_zeros() as i32)),
            false => self.e.bin(Bin::Mul, Width::W64, r0, r0, Rhs::Imm(stride)),
        }
        self.e.mov_symbol(base, Symbol::MapValue { map, off: 0 });
        self.e.bin(Bin::Add, Width::W64, r0, r0, Rhs::Reg(base));
        self.add_slot(r0, array);
        self.e.jump(done, Reach::Short);
        self.e.asm().bind(absent);
        self.e.mov_imm(r0, 0);
        self.e.asm().bind(done);
        true
    }

    /// From a value's place on CPU 0 to its place on this one.
    fn add_slot(&mut self, value: E::Reg, array: ArrayLookup) {
        if array.slot_bytes == 0 {
            return;
        }
        self.e.get_slot(E::SPARE, Slot::Cpu);
        match array.slot_bytes.is_power_of_two() {
            true => {
                let shift = array.slot_bytes.trailing_zeros() as i32;
                self.e.bin(Bin::Lsh, Width::W64, E::SPARE, E::SPARE, Rhs::Imm(shift));
            }
            false => self.e.bin(Bin::Mul, Width::W64, E::SPARE, E::SPARE, Rhs::Imm(array.slot_bytes as i32)),
        }
        self.e.bin(Bin::Add, Width::W64, value, value, Rhs::Reg(E::SPARE));
    }

    fn leave(&mut self) {
        match self.epilogue {
            Some(epilogue) => self.e.jump(epilogue, Reach::Far),
            None => {
                let epilogue = self.e.asm().label();
                self.e.asm().bind(epilogue);
                self.epilogue = Some(epilogue);
                let shape = self.shape;
                self.e.leave(&shape);
            }
        }
    }

    /// How far a jump reaches at most.
    pub(crate) fn reach(&self, at: InsnIdx, to: i32) -> Reach {
        /// No instruction takes more bytes, its share of block charges and inlined code included.
        const MOST: i32 = 250;
        if !(0..=(1 << 20) / MOST).contains(&to) {
            return Reach::Far;
        }
        if !self.plan.blocks.is_empty() || self.masks.is_some() {
            return Reach::Near;
        }
        // A value that was put off costs its own instruction later, padding more than there is room for.
        let later = if self.opt.on.values { 12 } else { 0 };
        if self.opt.pads(at, to as usize) {
            return Reach::Near;
        }
        let mut bytes = 0;
        for insn in self.insns.iter().skip(at.index() + 1).take(to as usize) {
            // A loop that ends on the way may be repeated there.
            if self.opt.on.unroll && insn.relative_target().is_some_and(|to| to < 0) {
                return Reach::Near;
            }
            match E::most_bytes(insn) {
                Some(most) if bytes + most + later <= 100 => bytes += most + later,
                Some(_) | None => return Reach::Near,
            }
        }
        Reach::Short
    }
}

pub(crate) fn reg<E: Encode>(reg: Reg) -> E::Reg {
    E::MAP[reg.index()]
}

pub(crate) fn rhs<E: Encode>(operand: Operand) -> Rhs<E::Reg> {
    match operand {
        Operand::Reg(r) => Rhs::Reg(reg::<E>(r)),
        Operand::Imm(value) => Rhs::Imm(value),
    }
}

fn addr<E: Encode>(base: Reg, off: i32) -> Addr<E::Reg> {
    Addr::new(reg::<E>(base), off)
}

pub(crate) fn constant(width: Width, value: i32) -> u64 {
    match width {
        Width::W32 => value as u32 as u64,
        Width::W64 => value as i64 as u64,
    }
}

pub(crate) fn unsupported(at: InsnIdx, what: &'static str) -> CompileError {
    CompileError::Unsupported { at, what }
}
