//! Random programs that are safe by construction and show all they computed.
//!
//! A program keeps its context pointer in one register, its loop counter in another, and never mixes them with the
//! rest. It ends by storing every other register to the context. Upper halves are dirty from the start.

use rtbpf_isa::*;

use super::{FAIL_IF_ODD, MIX, REPEAT};

/// xorshift64*; printed seeds reproduce.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 33) % n
    }

    pub fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    pub fn chance(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }

    pub fn word(&mut self) -> u64 {
        match self.below(4) {
            0 => self.one_of(&[0, 1, u64::MAX, 1 << 63, i64::MAX as u64, 1 << 31, 0xffff_ffff, 0x8000_0000_0000_0001]),
            1 => self.next() & 0xff,
            2 => (self.next() as i32) as i64 as u64,
            _ => self.next(),
        }
    }

    pub fn imm(&mut self) -> i32 {
        match self.below(3) {
            0 => self.one_of(&[0, 1, -1, i32::MIN, i32::MAX, 127, 128, -128, -129, 0xff, 0xffff, 31, 32, 63, 64]),
            1 => self.below(64) as i32,
            _ => self.next() as i32,
        }
    }

    pub fn width(&mut self) -> Width {
        self.one_of(&[Width::W32, Width::W64])
    }

    fn size(&mut self) -> Size {
        self.one_of(&[Size::B, Size::H, Size::W, Size::D])
    }
}

struct Function<'r> {
    rng: &'r mut Rng,
    insns: Vec<Insn>,
    /// Registers that hold scalars.
    scalars: Vec<Reg>,
    /// Holds the context; the entry only.
    ctx: Option<Reg>,
    /// Holds a loop counter.
    counter: Reg,
    calls: bool,
    /// Local calls to patch: (instruction, callee).
    locals: Vec<(usize, usize)>,
    callees: Vec<usize>,
    callbacks: Vec<usize>,
}

/// A whole program of about `size` instructions a function.
pub fn program(rng: &mut Rng, size: u64) -> Vec<Insn> {
    let leaves = rng.below(3) as usize;
    let has_callback = rng.chance(4);
    let mut functions: Vec<Parts> = Vec::new();
    let callback = 1 + leaves;
    let callees: Vec<usize> = (1..=leaves).collect();
    let callbacks = if has_callback { vec![callback] } else { Vec::new() };
    functions.push(function(rng, size, true, callees, callbacks));
    for leaf in 1..=leaves {
        // Only later leaves may be called, so that nothing recurs.
        let callees = (leaf + 1..=leaves).collect();
        functions.push(function(rng, size / 2 + 1, false, callees, Vec::new()));
    }
    if has_callback {
        functions.push(function(rng, size / 4 + 1, false, Vec::new(), Vec::new()));
    }
    join(functions)
}

fn join(functions: Vec<Parts>) -> Vec<Insn> {
    let mut starts = Vec::new();
    let mut length = 0;
    for (insns, _) in &functions {
        starts.push(length);
        length += insns.len();
    }
    let mut program = Vec::new();
    for ((mut insns, locals), start) in functions.into_iter().zip(&starts) {
        for (at, callee) in locals {
            let distance = starts[callee] as i32 - (start + at) as i32 - 1;
            match &mut insns[at] {
                Insn::Call(Callee::Local { to }) | Insn::Imm { value: Imm64::Func { to }, .. } => *to = distance,
                other => panic!("{other:?} names no function"),
            }
        }
        program.extend(insns);
    }
    program
}

/// Instructions, and which of them name which function.
type Parts = (Vec<Insn>, Vec<(usize, usize)>);

fn function(rng: &mut Rng, size: u64, is_entry: bool, callees: Vec<usize>, callbacks: Vec<usize>) -> Parts {
    let calls = !callees.is_empty() || !callbacks.is_empty() || rng.chance(3);
    // What calls destroy holds neither context nor counter.
    let kept: &[Reg] = if calls { &Reg::ALL[6..10] } else { &Reg::ALL[1..10] };
    let ctx = is_entry.then(|| rng.one_of(kept));
    let counter = loop {
        let counter = rng.one_of(kept);
        if Some(counter) != ctx {
            break counter;
        }
    };
    let scalars = Reg::ALL[..10].iter().copied().filter(|r| Some(*r) != ctx && *r != counter).collect();
    let insns = Vec::new();
    let mut f = Function { rng, insns, scalars, ctx, counter, calls, locals: Vec::new(), callees, callbacks };
    f.prologue();
    f.block(size, 0);
    f.epilogue();
    (f.insns, f.locals)
}

impl Function<'_> {
    fn prologue(&mut self) {
        if let Some(ctx) = self.ctx {
            self.mov(ctx, Reg::R1);
        }
        // In a callee, arguments stay in the mixture.
        let arguments = if self.ctx.is_none() { 3 } else { 0 };
        for reg in self.scalars.clone() {
            if !(1..arguments).contains(&reg.index()) {
                self.constant(reg);
            }
        }
        self.insns.push(Insn::Alu { op: AluOp::Mov, width: Width::W64, dst: self.counter, src: Operand::Imm(0) });
    }

    fn epilogue(&mut self) {
        let scalars = self.scalars.clone();
        if let Some(ctx) = self.ctx {
            for (word, reg) in scalars.iter().enumerate() {
                let off = (word * 8) as i16;
                self.insns.push(Insn::Store { size: Size::D, base: ctx, off, src: Operand::Reg(*reg) });
            }
        }
        for reg in scalars.into_iter().filter(|reg| *reg != Reg::R0) {
            let op = self.rng.one_of(&[AluOp::Xor, AluOp::Add]);
            self.insns.push(Insn::Alu { op, width: Width::W64, dst: Reg::R0, src: Operand::Reg(reg) });
        }
        if !self.scalars.contains(&Reg::R0) {
            self.constant(Reg::R0);
        }
        self.insns.push(Insn::Exit);
    }

    fn mov(&mut self, dst: Reg, src: Reg) {
        self.insns.push(Insn::Alu { op: AluOp::Mov, width: Width::W64, dst, src: Operand::Reg(src) });
    }

    fn constant(&mut self, dst: Reg) {
        let value = self.rng.word();
        self.insns.push(Insn::Imm { dst, value: Imm64::Const([value as u32, (value >> 32) as u32]) });
    }

    fn scalar(&mut self) -> Reg {
        let scalars = self.scalars.clone();
        self.rng.one_of(&scalars)
    }

    fn operand(&mut self) -> Operand {
        if self.rng.chance(2) { Operand::Imm(self.rng.imm()) } else { Operand::Reg(self.scalar()) }
    }

    /// A base and an offset with `size` valid bytes, aligned if asked for.
    fn place(&mut self, size: Size, aligned: bool) -> (Reg, i16) {
        let bytes = size.bytes() as u64;
        let step = if aligned || self.rng.chance(2) { bytes } else { 1 };
        match self.ctx {
            // The first 80 bytes hold the result.
            Some(ctx) if self.rng.chance(2) => (ctx, (80 + self.rng.below((176 - bytes) / step + 1) * step) as i16),
            Some(_) | None => (Reg::R10, -512 + (self.rng.below((512 - bytes) / step + 1) * step) as i16),
        }
    }

    fn block(&mut self, size: u64, depth: u32) {
        let mut left = size;
        while left > 0 {
            let spent = self.rng.below(left) / 2 + 1;
            match self.rng.below(20) {
                0..=1 if spent > 2 => self.skip(spent, depth),
                2 if spent > 4 && depth == 0 => self.repeat(spent),
                3 if self.calls => self.call(),
                4..=5 => self.pointer(),
                6..=7 => self.idiom(),
                _ => self.straight(),
            }
            left = left.saturating_sub(spent);
        }
    }

    /// A forward branch over a block.
    fn skip(&mut self, size: u64, depth: u32) {
        let at = self.insns.len();
        let (op, width, lhs, rhs) = (self.rng.one_of(&CmpOp::ALL), self.rng.width(), self.scalar(), self.operand());
        self.insns.push(Insn::Branch { op, width, lhs, rhs, to: 0 });
        self.block(size, depth + 1);
        let over = (self.insns.len() - at - 1) as i32;
        // A branch over a jump, as compilers lay out loops and ifs.
        if self.rng.chance(4) {
            self.insns[at] = Insn::Branch { op, width, lhs, rhs, to: 1 };
            self.insns.insert(at + 1, Insn::Jump { to: over, long: false });
            self.locals.iter_mut().filter(|(call, _)| *call > at).for_each(|(call, _)| *call += 1);
            return;
        }
        match self.rng.below(8) {
            0 => self.insns[at] = Insn::Jump { to: over, long: self.rng.chance(2) },
            _ => self.insns[at] = Insn::Branch { op, width, lhs, rhs, to: over },
        }
    }

    /// A counted loop, by an ordinary branch or under `may_goto`.
    fn repeat(&mut self, size: u64) {
        let most = if self.rng.chance(4) { 40 } else { 5 };
        let count = self.rng.below(most) as i32 + 1;
        if self.rng.chance(3) {
            return self.rotated(size, count);
        }
        let counter = self.counter;
        self.insns.push(Insn::Alu { op: AluOp::Mov, width: Width::W64, dst: counter, src: Operand::Imm(count) });
        let start = self.insns.len();
        if self.rng.chance(4) {
            self.insns.push(Insn::MayGoto { to: 0 });
        }
        self.block(size, 1);
        let leaves = self.rng.chance(3).then(|| self.way_out());
        self.insns.push(Insn::Alu { op: AluOp::Sub, width: Width::W64, dst: counter, src: Operand::Imm(1) });
        let (width, lhs, rhs) = (Width::W64, counter, Operand::Imm(0));
        if self.rng.chance(2) {
            self.insns.push(Insn::Branch { op: CmpOp::Eq, width, lhs, rhs, to: 1 });
            let to = start as i32 - self.insns.len() as i32 - 1;
            self.insns.push(Insn::Jump { to, long: self.rng.chance(4) });
        } else {
            let to = start as i32 - self.insns.len() as i32 - 1;
            self.insns.push(Insn::Branch { op: CmpOp::Ne, width, lhs, rhs, to });
        }
        if let Some(at) = leaves {
            self.lead_here(at);
        }
    }

    /// A branch out of a loop, not yet led anywhere, and perhaps something behind it.
    fn way_out(&mut self) -> usize {
        let at = self.insns.len();
        let (op, width, lhs, rhs) = (self.rng.one_of(&CmpOp::ALL), self.rng.width(), self.scalar(), self.operand());
        self.insns.push(Insn::Branch { op, width, lhs, rhs, to: 0 });
        if self.rng.chance(2) {
            self.straight();
        }
        at
    }

    fn lead_here(&mut self, at: usize) {
        let over = (self.insns.len() - at - 1) as i32;
        if let Insn::Branch { to, .. } | Insn::Jump { to, .. } = &mut self.insns[at] {
            *to = over;
        }
    }

    /// A counted loop whose step and test come first, and which is entered behind them.
    fn rotated(&mut self, size: u64, count: i32) {
        let counter = self.counter;
        self.insns.push(Insn::Alu { op: AluOp::Mov, width: Width::W64, dst: counter, src: Operand::Imm(count) });
        let entry = self.insns.len();
        self.insns.push(Insn::Jump { to: 0, long: false });
        self.block(size / 4, 1);
        self.insns.push(Insn::Alu { op: AluOp::Sub, width: Width::W64, dst: counter, src: Operand::Imm(1) });
        let test = self.insns.len();
        // The way out may stand between test and body.
        let between = self.rng.chance(2);
        let op = if between { CmpOp::Ne } else { CmpOp::Eq };
        self.insns.push(Insn::Branch { op, width: Width::W64, lhs: counter, rhs: Operand::Imm(0), to: 0 });
        let mut out = test;
        if between {
            self.straight();
            out = self.insns.len();
            self.insns.push(Insn::Jump { to: 0, long: false });
            self.lead_here(test);
        }
        let middle = self.insns.len() as i32;
        self.insns[entry] = Insn::Jump { to: middle - entry as i32 - 1, long: false };
        self.block(size / 2, 1);
        let back = |from: &Self| entry as i32 - from.insns.len() as i32;
        let leaves = self.rng.chance(3).then(|| self.way_out());
        if self.rng.chance(2) {
            let (op, width, lhs, rhs) = (self.rng.one_of(&CmpOp::ALL), self.rng.width(), self.scalar(), self.operand());
            self.insns.push(Insn::Branch { op, width, lhs, rhs, to: back(self) });
            self.straight();
        }
        // A way round of its own.
        if self.rng.chance(3) {
            let over = self.way_out();
            self.block(size / 8, 1);
            self.insns.push(Insn::Jump { to: back(self), long: false });
            self.lead_here(over);
            self.block(size / 8, 1);
        }
        self.insns.push(Insn::Jump { to: back(self), long: false });
        self.lead_here(out);
        if let Some(at) = leaves {
            self.lead_here(at);
        }
    }

    fn call(&mut self) {
        let choice = self.rng.below(4);
        let (local, callback) = (self.callees.clone(), self.callbacks.clone());
        if self.rng.chance(5) {
            self.packet();
        } else if choice == 0 && !local.is_empty() {
            let callee = self.rng.one_of(&local);
            self.locals.push((self.insns.len(), callee));
            self.insns.push(Insn::Call(Callee::Local { to: 0 }));
        } else if choice == 1 && !callback.is_empty() {
            let callee = self.rng.one_of(&callback);
            self.locals.push((self.insns.len(), callee));
            self.insns.push(Insn::Imm { dst: Reg::R1, value: Imm64::Func { to: 0 } });
            let count = self.rng.below(4) as i32;
            let (op, width) = (AluOp::Mov, Width::W64);
            self.insns.push(Insn::Alu { op, width, dst: Reg::R2, src: Operand::Imm(count) });
            self.insns.push(Insn::Call(Callee::Helper(REPEAT)));
        } else {
            let id = if self.rng.chance(12) { FAIL_IF_ODD } else { MIX };
            self.insns.push(Insn::Call(Callee::Helper(id)));
        }
        for reg in &Reg::ALL[1..6] {
            self.constant(*reg);
        }
    }

    /// A legacy packet load, now and then out of range.
    fn packet(&mut self) {
        let size = self.rng.one_of(&[Size::B, Size::H, Size::W]);
        let off = self.rng.below(13) as i32;
        let index = self.rng.chance(2).then(|| self.scalar());
        if let Some(index) = index {
            let mask = self.rng.one_of(&[1, 3, 7, -1]);
            self.alu(AluOp::And, Width::W64, index, Operand::Imm(mask));
        }
        self.insns.push(Insn::Packet { size, index, off });
    }

    fn alu(&mut self, op: AluOp, width: Width, dst: Reg, src: Operand) {
        self.insns.push(Insn::Alu { op, width, dst, src });
    }

    /// An access through computed pointers: masked, scaled, added, copied and moved on. None of them survives.
    fn pointer(&mut self) {
        let (index, copy) = (self.scalar(), self.scalar());
        if index == copy {
            return;
        }
        let (base, lowest, room) = match self.ctx {
            Some(ctx) if self.rng.chance(2) => (ctx, 80, 40),
            Some(_) | None => (Reg::R10, -512, 300),
        };
        let (shift, step) = (self.rng.below(4) as i32, self.rng.below(3) as i32 * 8);
        let mask = self.rng.one_of(&[7, 15]);
        self.alu(AluOp::And, Width::W64, index, Operand::Imm(mask));
        self.alu(AluOp::Lsh, Width::W64, index, Operand::Imm(shift));
        if self.rng.chance(2) {
            self.alu(AluOp::Add, Width::W64, index, Operand::Reg(base));
        } else {
            self.mov(copy, base);
            self.alu(AluOp::Add, Width::W64, copy, Operand::Reg(index));
            self.mov(index, copy);
        }
        self.alu(AluOp::Add, Width::W64, index, Operand::Imm(lowest));
        self.mov(copy, index);
        if self.rng.chance(2) {
            self.alu(AluOp::Add, Width::W64, index, Operand::Imm(step));
        } else {
            self.alu(AluOp::Sub, Width::W64, index, Operand::Imm(-step));
        }
        let size = self.rng.size();
        let off = self.rng.below(room - 24) as i16;
        let through = self.rng.one_of(&[index, copy]);
        if self.rng.chance(2) {
            let src = if self.rng.chance(2) { Operand::Imm(self.rng.imm()) } else { Operand::Reg(self.counter) };
            self.insns.push(Insn::Store { size, base: through, off, src });
        }
        let (first, second) = if self.rng.chance(2) { (index, copy) } else { (copy, index) };
        self.insns.push(Insn::Load { size, signed: false, dst: first, base: second, off });
        self.insns.push(Insn::Load { size, signed: size != Size::D, dst: second, base: Reg::R10, off: -16 });
    }

    /// What compilers write for rotates, extensions and narrow arithmetic.
    fn idiom(&mut self) {
        let (a, b) = (self.scalar(), self.scalar());
        let (width, small, imm) = (self.rng.width(), self.rng.below(4) as i32, self.rng.imm());
        match self.rng.below(14) {
            0 => {
                let by = 1 + self.rng.below(width.bits() as u64 - 1) as i32;
                let op = self.rng.one_of(&[AluOp::Or, AluOp::Xor, AluOp::Add]);
                let rest = if self.rng.chance(8) { by } else { width.bits() as i32 - by };
                self.alu(AluOp::Mov, width, a, Operand::Reg(b));
                self.alu(AluOp::Lsh, width, a, Operand::Imm(by));
                self.alu(AluOp::Rsh, width, b, Operand::Imm(rest));
                let (dst, src) = if self.rng.chance(2) { (a, b) } else { (b, a) };
                self.alu(op, width, dst, Operand::Reg(src));
            }
            1 => {
                let right = self.rng.one_of(&[AluOp::Rsh, AluOp::Arsh]);
                self.alu(AluOp::Lsh, Width::W64, a, Operand::Imm(32));
                self.alu(right, Width::W64, a, Operand::Imm(32 - small));
                self.alu(AluOp::Add, Width::W64, a, Operand::Reg(b));
            }
            2 => {
                self.alu(AluOp::Mov, Width::W32, a, Operand::Reg(b));
                self.alu(AluOp::Add, width, b, Operand::Imm(imm));
                self.alu(AluOp::Add, Width::W64, a, Operand::Reg(b));
                self.alu(AluOp::Lsh, Width::W64, a, Operand::Imm(small));
            }
            3 => self.choice(a, b),
            4 => self.update(a, b),
            5 => {
                let factor = self.rng.one_of(&[3, 5, 9, 10, 12, 33, 65, 31, 127, 0x6000_0000]);
                self.alu(AluOp::Mul, width, a, Operand::Imm(factor));
                let (dst, src) = if self.rng.chance(2) { (a, b) } else { (b, a) };
                let width = if self.rng.chance(4) { self.rng.width() } else { width };
                self.alu(AluOp::Add, width, dst, Operand::Reg(src));
            }
            6 if self.rng.chance(2) => {
                let (dst, src) = if self.rng.chance(2) { (a, b) } else { (b, a) };
                self.alu(AluOp::And, width, b, Operand::Imm(1));
                let (shifted, joined) = (self.rng.width(), self.rng.width());
                self.alu(AluOp::Lsh, shifted, a, Operand::Imm(small));
                self.alu(AluOp::Or, joined, dst, Operand::Reg(src));
            }
            6 => {
                self.alu(AluOp::Lsh, Width::W32, a, Operand::Imm(small));
                self.alu(AluOp::Add, Width::W32, b, Operand::Reg(a));
            }
            7 => self.carry(a, b),
            9 => self.twice(),
            10 => {
                let (mask, shifted) = (self.rng.one_of(&[1, 0xff, 0x3ff, 0x1fff_ffff, i32::MAX]), self.rng.width());
                self.alu(AluOp::And, width, a, Operand::Imm(mask));
                self.alu(AluOp::Lsh, shifted, a, Operand::Imm(small));
                let (dst, src) = if self.rng.chance(2) { (a, b) } else { (b, a) };
                let op = self.rng.one_of(&[AluOp::Add, AluOp::Or]);
                self.alu(op, shifted, dst, Operand::Reg(src));
                self.alu(AluOp::Add, width, dst, Operand::Imm(imm));
                let third = self.scalar();
                self.alu(AluOp::Add, Width::W64, third, Operand::Reg(dst));
            }
            12 => {
                let op = self.rng.one_of(&[AluOp::Lsh, AluOp::Rsh, AluOp::Arsh]);
                let (mask, shifted) = (self.rng.one_of(&[15, 31, 63, 127, -1]), self.rng.width());
                self.alu(AluOp::And, width, b, Operand::Imm(mask));
                self.alu(op, shifted, a, Operand::Reg(b));
                if self.rng.chance(2) {
                    self.constant(b);
                }
            }
            11 => {
                let by = width.bits() as i32 - self.rng.one_of(&[8, 16, 32, 31]);
                let back = (by + self.rng.below(9) as i32).min(width.bits() as i32 - 1);
                let right = self.rng.one_of(&[AluOp::Rsh, AluOp::Arsh]);
                self.alu(AluOp::Lsh, width, a, Operand::Imm(by));
                self.alu(right, width, a, Operand::Imm(back));
            }
            8 => {
                let (zeros, ones) = (small as u32, self.rng.below(6) as u32 + 1);
                let by = width.bits() - zeros - ones;
                self.alu(AluOp::Rsh, width, a, Operand::Imm(by as i32));
                self.alu(AluOp::And, width, a, Operand::Imm(((1 << ones) - 1) << zeros));
                self.alu(AluOp::Add, Width::W64, b, Operand::Reg(a));
            }
            _ => {
                let op = self.rng.one_of(&[AluOp::Div, AluOp::Mod]);
                self.mov(a, b);
                let divisor = if self.rng.chance(3) {
                    self.constant(b);
                    Operand::Reg(b)
                } else {
                    Operand::Imm(imm)
                };
                self.alu(op, width, a, divisor);
            }
        }
    }

    /// Two branches on one condition, unless what is between them changes it.
    fn twice(&mut self) {
        let (op, width, lhs, rhs) = (self.rng.one_of(&CmpOp::ALL), self.rng.width(), self.scalar(), self.operand());
        for _ in 0..2 {
            let at = self.insns.len();
            self.insns.push(Insn::Branch { op, width, lhs, rhs, to: 0 });
            self.straight();
            self.lead_here(at);
            if self.rng.chance(2) {
                self.straight();
            }
        }
    }

    /// A sum, and one more if the addition carried.
    fn carry(&mut self, a: Reg, b: Reg) {
        let number = self.scalar();
        let (sum, part) = if self.rng.chance(8) { (b, a) } else { (a, b) };
        self.alu(AluOp::Add, Width::W64, a, Operand::Reg(b));
        self.alu(AluOp::Mov, Width::W32, number, Operand::Imm(1));
        let (op, lhs, rhs) = if self.rng.chance(2) { (CmpOp::Lt, sum, part) } else { (CmpOp::Gt, part, sum) };
        self.insns.push(Insn::Branch { op, width: Width::W64, lhs, rhs: Operand::Reg(rhs), to: 1 });
        self.alu(AluOp::Mov, Width::W32, number, Operand::Imm(0));
        if self.rng.chance(4) {
            self.straight();
        }
        let width = if self.rng.chance(6) { Width::W32 } else { Width::W64 };
        self.alu(AluOp::Add, width, sum, Operand::Reg(number));
        if self.rng.chance(2) {
            self.constant(number);
        }
    }

    /// A number in memory changes; now and then it is read again, or stored elsewhere.
    fn update(&mut self, a: Reg, b: Reg) {
        let size = self.rng.size();
        let (base, off) = self.place(size, false);
        let (width, src) =
            (self.rng.width(), if self.rng.chance(2) { Operand::Reg(b) } else { Operand::Imm(self.rng.imm()) });
        let op = self.rng.one_of(&[AluOp::Add, AluOp::Sub, AluOp::Or, AluOp::And, AluOp::Xor, AluOp::Mul, AluOp::Lsh]);
        self.insns.push(Insn::Load { size, signed: size != Size::D && self.rng.chance(6), dst: a, base, off });
        self.alu(op, width, a, src);
        let (base, off) = if self.rng.chance(6) { self.place(size, false) } else { (base, off) };
        self.insns.push(Insn::Store { size, base, off, src: Operand::Reg(a) });
        if !self.rng.chance(4) {
            self.constant(a);
        }
    }

    /// One of two values, by a branch over what computes the other.
    fn choice(&mut self, a: Reg, b: Reg) {
        let (op, width, lhs, rhs) = (self.rng.one_of(&CmpOp::ALL), self.rng.width(), self.scalar(), self.operand());
        let jumps = self.rng.chance(3);
        let zero = self.rng.below(2) as i32;
        if self.rng.chance(2) {
            self.alu(AluOp::Mov, width, a, Operand::Imm(zero));
        }
        let at = self.insns.len();
        self.insns.push(Insn::Branch { op, width, lhs, rhs, to: 0 });
        match self.rng.below(4) {
            0 => self.alu(AluOp::Mov, Width::W32, a, Operand::Imm(1 - zero)),
            1 => self.insns.push(Insn::Neg { width, dst: a }),
            2 => {
                let imm = self.rng.imm();
                self.alu(AluOp::Add, width, b, Operand::Imm(imm));
                self.alu(AluOp::Mov, width, a, Operand::Reg(b));
            }
            _ => {
                let (imm, op) = (self.rng.imm(), self.rng.one_of(&[AluOp::Xor, AluOp::Lsh, AluOp::Sub]));
                self.alu(AluOp::Mov, width, b, Operand::Reg(a));
                self.alu(op, width, b, Operand::Imm(imm));
                self.alu(AluOp::Mov, Width::W64, a, Operand::Reg(b));
            }
        }
        let over = self.insns.len() as i32 - at as i32 - 1;
        self.insns[at] = Insn::Branch { op, width, lhs, rhs, to: over + jumps as i32 * 2 };
        if jumps {
            self.insns.push(Insn::Jump { to: 1, long: false });
            self.constant(b);
        }
        // What was computed on the way is often read no more.
        if self.rng.chance(2) {
            self.alu(AluOp::Mov, Width::W64, b, Operand::Imm(zero));
        }
    }

    fn straight(&mut self) {
        let (dst, width) = (self.scalar(), self.rng.width());
        let insn = match self.rng.below(24) {
            0..=8 => Insn::Alu { op: self.rng.one_of(&AluOp::ALL), width, dst, src: self.operand() },
            9 => {
                let from = self.rng.one_of(if width == Width::W64 {
                    &[Size::B, Size::H, Size::W][..]
                } else {
                    &[Size::B, Size::H][..]
                });
                Insn::MovSx { width, from, dst, src: self.scalar() }
            }
            10 => Insn::Neg { width, dst },
            11 => {
                let kind = self.rng.one_of(&[Swap::ToLe, Swap::ToBe, Swap::Bswap]);
                Insn::Swap { kind, size: self.rng.one_of(&[Size::H, Size::W, Size::D]), dst }
            }
            12..=14 => {
                let size = self.rng.size();
                let (base, off) = self.place(size, false);
                Insn::Load { size, signed: size != Size::D && self.rng.chance(2), dst, base, off }
            }
            15..=18 => {
                let size = self.rng.size();
                let (base, off) = self.place(size, false);
                Insn::Store { size, base, off, src: self.operand() }
            }
            19..=20 => {
                let op = self.rng.one_of(&[
                    AtomicOp::Add,
                    AtomicOp::Or,
                    AtomicOp::And,
                    AtomicOp::Xor,
                    AtomicOp::Xchg,
                    AtomicOp::Cmpxchg,
                ]);
                let fetch = matches!(op, AtomicOp::Xchg | AtomicOp::Cmpxchg) || self.rng.chance(2);
                let (base, off) = self.place(width.size(), true);
                // Compare-and-exchange writes R0, whatever R0 is for.
                if op == AtomicOp::Cmpxchg && !self.scalars.contains(&Reg::R0) {
                    return;
                }
                Insn::Atomic { op, fetch, width, base, off, src: self.scalar() }
            }
            21 => {
                let size = self.rng.size();
                let (base, off) = self.place(size, true);
                Insn::LoadAcquire { size, dst, base, off }
            }
            22 => {
                let size = self.rng.size();
                let (base, off) = self.place(size, true);
                Insn::StoreRelease { size, base, off, src: self.scalar() }
            }
            _ => return self.constant(dst),
        };
        self.insns.push(insn);
    }
}
