//! Moves and arithmetic: what becomes a value, and what becomes one operation of the machine.

use rtbpf_isa::effects::{Flow, RegSet};
use rtbpf_isa::{AluOp, Insn, InsnIdx, Operand, Reg, Size, Width};

use super::magic::Magic;
use super::ones;
use super::truth::right;
use super::value::Value;
use crate::encode::{Addr, Alu, Bin, Div, Encode, Rhs};
use crate::fast::{Fast, constant, reg};

impl<E: Encode> Fast<'_, E> {
    pub(super) fn alu(&mut self, at: InsnIdx, op: AluOp, width: Width, dst: Reg, src: Operand) -> bool {
        match op.into() {
            Alu::Mov => self.copy(width, dst, src),
            Alu::Bin(Bin::And) if self.is_count(at, dst, src) => {}
            Alu::Bin(op) => self.bin(op, width, dst, src),
            Alu::Div(op) => return self.divide(at, op, width, dst, src),
        }
        true
    }

    fn copy(&mut self, width: Width, dst: Reg, src: Operand) {
        let src = match src {
            Operand::Imm(value) => return self.assign(dst, Value::Const(constant(width, value))),
            Operand::Reg(src) => src,
        };
        if src == dst && width == Width::W64 {
            return;
        }
        self.avoid_cycle(dst, self.opt.value(src).refs().with(RegSet::of(src)));
        // A value that costs an instruction is computed once, unless its first owner is about to die.
        let value = self.opt.value(src);
        let cheap = matches!(value, Value::Sum { index: None, .. } | Value::Const(_));
        if !cheap && src != dst && self.opt.after.contains(src) {
            self.settle(src);
        }
        let value = self.opt.value(src);
        match (width, value) {
            (Width::W64, value) => self.assign(dst, value),
            (Width::W32, Value::Const(value)) => self.assign(dst, Value::Const(value as u32 as u64)),
            (
                Width::W32,
                Value::Low { .. }
                | Value::Truth { .. }
                | Value::Carry { .. }
                | Value::Shift { width: Width::W32, .. }
                | Value::Product { width: Width::W32, .. },
            ) => self.assign(dst, value),
            (Width::W32, Value::Sum { .. } | Value::Shift { .. } | Value::Product { .. } | Value::Load { .. }) => {
                let of = self.source(src);
                let narrow = self.opt.narrow.contains(of);
                self.assign(dst, if narrow { Value::of(of) } else { Value::Low { size: Size::W, of } });
            }
        }
    }

    fn bin(&mut self, op: Bin, width: Width, dst: Reg, src: Operand) {
        if self.with_memory(op, width, dst, src) || self.mask(op, dst, src) || self.add_truth(op, width, dst, src) {
            return;
        }
        if self.rotate(op, width, dst, src) {
            return;
        }
        let (a, b) = (self.opt.ones_of_operand(width, Operand::Reg(dst)), self.opt.ones_of_operand(width, src));
        if op == Bin::And && self.opt.ones_of(dst) & !b == 0 && matches!(src, Operand::Imm(_)) {
            return;
        }
        let (op, width) = match op {
            // Where the sum is one of 32 bits anyway, it is made of whole registers.
            Bin::Or if a & b == 0 && self.is_whole(width, dst, src) => (Bin::Add, Width::W64),
            Bin::Or if a & b == 0 => (Bin::Add, width),
            Bin::Add if ones::sum(a, b) <= u32::MAX as u64 && self.is_whole(width, dst, src) => (op, Width::W64),
            _ => (op, width),
        };
        let ones = match op {
            Bin::And => a & b,
            Bin::Or | Bin::Xor => a | b,
            Bin::Add if a & b == 0 => a | b,
            Bin::Add | Bin::Sub | Bin::Mul | Bin::Lsh | Bin::Rsh | Bin::Arsh => u64::MAX,
        };
        if self.add_scaled(op, width, dst, src) || self.postpone(op, width, dst, src) {
            return;
        }
        if self.times(op, width, dst, src) {
            return;
        }
        self.right_side(width, src);
        self.source_at(width, dst);
        self.release(dst);
        // Each of these may have computed the others' registers; now they stand still.
        let b = self.right_side(width, src);
        let a = self.source_at(width, dst);
        self.e.bin(op, width, reg::<E>(dst), reg::<E>(a), b);
        self.defined(dst, width == Width::W32 || ones <= u32::MAX as u64);
        self.opt.ones[dst.index()] = ones;
    }

    /// Whether both sides of an operation of `width` are what their registers are.
    fn is_whole(&self, width: Width, dst: Reg, src: Operand) -> bool {
        let fits = |ones: u64| width == Width::W64 || ones <= u32::MAX as u64;
        fits(self.opt.ones_of(dst))
            && match src {
                Operand::Imm(value) => width == Width::W64 || value >= 0,
                Operand::Reg(src) => fits(self.opt.ones_of(src)),
            }
    }

    pub(super) fn right_side(&mut self, width: Width, src: Operand) -> Rhs<E::Reg> {
        right::<E>(self.right_source(width, src))
    }

    /// The register whose contents are the value of an operand, or the immediate.
    pub(super) fn right_source(&mut self, width: Width, src: Operand) -> Operand {
        let src = match src {
            Operand::Imm(_) => return src,
            Operand::Reg(src) => src,
        };
        match self.opt.value(src) {
            Value::Const(value) if width == Width::W32 => Operand::Imm(value as i32),
            Value::Const(value) if i32::try_from(value as i64).is_ok() => Operand::Imm(value as i32),
            _ => Operand::Reg(self.source_at(width, src)),
        }
    }

    /// Masks that leave whole bytes; and those that leave a condition's number as it is.
    fn mask(&mut self, op: Bin, dst: Reg, src: Operand) -> bool {
        let (Bin::And, Operand::Imm(mask @ 1..)) = (op, src) else { return false };
        if let (Value::Truth { .. } | Value::Carry { .. }, 1) = (self.opt.value(dst), mask & 1) {
            return true;
        }
        if self.high_bits(dst, mask) {
            return true;
        }
        let size = match mask {
            0xff => Size::B,
            0xffff => Size::H,
            _ => return false,
        };
        let of = match self.opt.value(dst) {
            Value::Low { size: low, .. } if low.bytes() <= size.bytes() => return true,
            Value::Low { of, .. } => of,
            _ => self.source(dst),
        };
        let fits = self.opt.ones(of) & !(u64::MAX >> (64 - size.bits())) == 0;
        self.assign(dst, if fits { Value::of(of) } else { Value::Low { size, of } });
        true
    }

    /// Whether a mask at `at` leaves what the next shift by `dst` reads of it, and nobody else reads it.
    fn is_count(&self, at: InsnIdx, dst: Reg, mask: Operand) -> bool {
        /// Instructions between mask and shift.
        const NEAR: u32 = 4;
        let Operand::Imm(mask) = mask else { return false };
        for next in (at.0 + 1..=at.0 + NEAR).map(InsnIdx) {
            let Some(insn) = self.insns.get(next.index()).filter(|_| !self.opt.begins(next)) else { return false };
            if let Insn::Alu { op: AluOp::Lsh | AluOp::Rsh | AluOp::Arsh, width, dst: shifted, src } = *insn
                && src == Operand::Reg(dst)
            {
                let all = width.bits() as i32 - 1;
                let after = self.opt.liveness.after(next).with(self.opt.pinned);
                return mask & all == all && shifted != dst && !after.contains(dst);
            }
            if insn.flow() != Flow::Next || insn.touches().contains(dst) {
                return false;
            }
        }
        false
    }

    /// `(x >> by) & mask`, where the mask leaves all but up to three of the bits that are left, as `x >> more << zeros`: as an
    /// index of an address, the second shift costs nothing.
    fn high_bits(&mut self, dst: Reg, mask: i32) -> bool {
        let Some((width, false, of, by)) = self.opt.value(dst).shift() else { return false };
        let (zeros, ones) = (mask.trailing_zeros(), mask.count_ones());
        let all = by as u32 + zeros + ones == width.bits() && mask.leading_zeros() + zeros + ones == 32;
        if !all || !(1..=3).contains(&zeros) {
            return false;
        }
        self.assign(dst, Value::Shift { width, left: false, of, by: by + zeros as u8 });
        self.settle(dst);
        if let Some(value) = Value::of(dst).scaled(zeros as u8) {
            self.assign(dst, value);
        }
        true
    }

    /// Turns an operation into a value, where it is one.
    fn postpone(&mut self, op: Bin, width: Width, dst: Reg, src: Operand) -> bool {
        let value = match (op, width, src) {
            (Bin::Add, Width::W64, Operand::Imm(by)) => self.summand(dst).plus(by),
            (Bin::Sub, Width::W64, Operand::Imm(by)) => by.checked_neg().and_then(|by| self.summand(dst).plus(by)),
            (Bin::Add, Width::W64, Operand::Reg(src)) if src != dst => self.sum(dst, src),
            (Bin::Lsh, _, Operand::Imm(by)) => self.shift_left(width, dst, by),
            (Bin::Rsh, _, Operand::Imm(by)) => self.shift_right(width, dst, by),
            (Bin::Arsh, Width::W64, Operand::Imm(by @ 29..=32)) => return self.sign_extend_pair(dst, by),
            (Bin::Add | Bin::Sub | Bin::Mul | Bin::Or | Bin::And | Bin::Xor | Bin::Lsh | Bin::Rsh | Bin::Arsh, ..) => {
                None
            }
        };
        match value {
            Some(value) => {
                self.assign(dst, value);
                true
            }
            None => false,
        }
    }

    /// The value of `r` as something that can be added to.
    fn summand(&mut self, r: Reg) -> Value {
        match self.opt.value(r) {
            Value::Sum { .. } | Value::Const(_) => {}
            Value::Shift { .. } | Value::Product { .. } | Value::Low { .. } => self.settle(r),
            Value::Load { .. } | Value::Truth { .. } | Value::Carry { .. } => self.settle(r),
        }
        self.opt.value(r)
    }

    fn sum(&mut self, dst: Reg, src: Reg) -> Option<Value> {
        self.summand(dst);
        let refs = self.summand(src).refs().with(RegSet::of(src));
        self.avoid_cycle(dst, refs);
        if let Some(sum) = self.opt.value(dst).sum(self.opt.value(src)) {
            return Some(sum);
        }
        match self.opt.after.contains(src) {
            true => self.settle(src),
            false => self.settle_terms(src),
        }
        if let Some(sum) = self.opt.value(dst).sum(self.opt.value(src)) {
            return Some(sum);
        }
        self.settle_terms(dst);
        self.opt.value(dst).sum(self.opt.value(src))
    }

    /// Computes a sum but for its constant, which an address takes for nothing.
    fn settle_terms(&mut self, r: Reg) {
        let Value::Sum { base, index, disp } = self.opt.value(r) else { return self.settle(r) };
        self.opt.set(r, Value::Sum { base, index, disp: 0 });
        self.settle(r);
        self.opt.set(r, Value::Sum { base: Some(r), index: None, disp });
    }

    fn shift_left(&mut self, width: Width, dst: Reg, by: i32) -> Option<Value> {
        let by = (by as u32 & (width.bits() - 1)) as u8;
        if by == 0 {
            return None;
        }
        if width == Width::W64
            && let Some(value) = self.opt.value(dst).scaled(by)
        {
            return Some(value);
        }
        let of = self.source_at(width, dst);
        let fits = width == Width::W64 || self.opt.ones(of) <= (u32::MAX >> by).into();
        let scaled = if fits { Value::of(of).scaled(by) } else { None };
        Some(scaled.unwrap_or(Value::Shift { width, left: true, of, by }))
    }

    fn shift_right(&mut self, width: Width, dst: Reg, by: i32) -> Option<Value> {
        let by = (by as u32 & (width.bits() - 1)) as u8;
        if by == 0 {
            return None;
        }
        if let (Width::W64, Some((Width::W64, true, of, 32)), 29..=32) = (width, self.opt.value(dst).shift(), by) {
            let narrow = self.opt.narrow.contains(of);
            let low = if narrow { Value::of(of) } else { Value::Low { size: Size::W, of } };
            if by == 32 {
                return Some(low);
            }
            self.assign(dst, low);
            if !narrow {
                self.settle(dst);
            }
            return self.opt.value(dst).scaled(32 - by);
        }
        let of = self.source_at(width, dst);
        Some(Value::Shift { width, left: false, of, by })
    }

    /// `dst <<= 32; dst s>>= by`: sign extension, and a shift back by up to 3.
    fn sign_extend_pair(&mut self, dst: Reg, by: i32) -> bool {
        let Some((Width::W64, true, of, 32)) = self.opt.value(dst).shift() else { return false };
        self.release(dst);
        self.e.sign_extend(Width::W64, Size::W, reg::<E>(dst), reg::<E>(of));
        self.defined(dst, false);
        if let Some(value) = Value::of(dst).scaled((32 - by) as u8)
            && by != 32
        {
            self.assign(dst, value);
        }
        true
    }

    /// `(x << k) | (x >> width - k)`.
    fn rotate(&mut self, op: Bin, width: Width, dst: Reg, src: Operand) -> bool {
        let (Bin::Or | Bin::Xor | Bin::Add, Operand::Reg(src)) = (op, src) else { return false };
        let (Some(a), Some(b)) = (self.opt.value(dst).shift(), self.opt.value(src).shift()) else { return false };
        let (left, right) = if a.1 { (a, b) } else { (b, a) };
        let matches = left.1 && !right.1 && left.2 == right.2 && left.0 == width && right.0 == width;
        if !matches || (left.3 + right.3) as u32 != width.bits() {
            return false;
        }
        // Its shift is part of the rotation now.
        if src != left.2 && !self.opt.after.contains(src) {
            self.opt.set(src, Value::of(src));
        }
        self.release(dst);
        self.e.rotate_left(width, reg::<E>(dst), reg::<E>(left.2), left.3);
        self.defined(dst, width == Width::W32);
        true
    }

    /// Products with numbers next to a power of two, as sums and differences; with 3, 5 and 9 times a power of two.
    fn times(&mut self, op: Bin, width: Width, dst: Reg, src: Operand) -> bool {
        let (Bin::Mul, Operand::Imm(factor @ 3..)) = (op, src) else { return false };
        let zeros = factor.trailing_zeros();
        let odd = factor >> zeros;
        if is_power(odd - 1) && (zeros == 0 || odd <= 9) {
            let of = self.source_at(width, dst);
            self.assign(dst, Value::Product { width, of, shift: (odd - 1).trailing_zeros() as u8 });
            if zeros != 0 {
                self.settle(dst);
                let shifted = Value::Shift { width, left: true, of: dst, by: zeros as u8 };
                let scaled = if width == Width::W64 { Value::of(dst).scaled(zeros as u8) } else { None };
                self.assign(dst, scaled.unwrap_or(shifted));
            }
            return true;
        }
        let Some(above) = factor.checked_add(1).filter(|above| is_power(*above)) else { return false };
        let x = self.source_at(width, dst);
        self.release(dst);
        self.e.bin(Bin::Lsh, width, E::SPARE, reg::<E>(x), Rhs::Imm(above.trailing_zeros() as i32));
        self.e.bin(Bin::Sub, width, reg::<E>(dst), E::SPARE, Rhs::Reg(reg::<E>(x)));
        self.defined(dst, width == Width::W32);
        true
    }

    /// `x + (x << k) + y` as `(x + y) + (x << k)`: when `y` comes late, it is one addition away, and so is `x`. And
    /// `(x << k) + y` at 32 bits.
    fn add_scaled(&mut self, op: Bin, width: Width, dst: Reg, src: Operand) -> bool {
        let (Bin::Add, Operand::Reg(src)) = (op, src) else { return false };
        let scaled = |this: &Self, r: Reg| match this.opt.value(r) {
            Value::Product { width: w, of, shift } if w == width => Some((of, shift, true)),
            Value::Shift { width: Width::W32, left: true, of, by: by @ 1..=3 }
            | Value::Sum { base: None, index: Some((of, by)), disp: 0 }
                if width == Width::W32 =>
            {
                Some((of, by, false))
            }
            _ => None,
        };
        let (of, other) = match (scaled(self, dst), scaled(self, src)) {
            _ if src == dst => return false,
            (Some(_), _) => (dst, src),
            (None, Some(_)) if !self.opt.after.contains(src) => (src, dst),
            (None, _) => return false,
        };
        // Computing one may compute the other.
        for _ in 0..2 {
            self.source_at(width, other);
            self.release(dst);
        }
        let y = self.source_at(width, other);
        let Some((x, shift, twice)) = scaled(self, of) else { return false };
        let (d, x, y) = (reg::<E>(dst), reg::<E>(x), reg::<E>(y));
        match twice {
            false => self.e.lea(width, d, Addr { base: y, index: Some((x, shift)), disp: 0 }),
            true => {
                self.e.bin(Bin::Lsh, width, E::SPARE, x, Rhs::Imm(shift.into()));
                self.e.bin(Bin::Add, width, d, x, Rhs::Reg(y));
                self.e.bin(Bin::Add, width, d, d, Rhs::Reg(E::SPARE));
            }
        }
        if of == src {
            self.opt.set(src, Value::of(src));
        }
        self.defined(dst, width == Width::W32);
        true
    }

    /// What `r` holds, where that is known.
    fn constant_of(&self, at: InsnIdx, r: Reg) -> Option<u64> {
        match self.opt.value(r) {
            Value::Const(value) => Some(value),
            value if value == Value::of(r) => self.opt.fixed.value(at, r),
            _ => None,
        }
    }

    fn divide(&mut self, at: InsnIdx, op: Div, width: Width, dst: Reg, src: Operand) -> bool {
        let divisor = match src {
            Operand::Imm(divisor) => constant(width, divisor),
            Operand::Reg(src) => match self.constant_of(at, src) {
                Some(divisor) if width == Width::W32 => divisor as u32 as u64,
                Some(divisor) => divisor,
                None => return false,
            },
        };
        if !self.opt.on.magic || divisor == 0 {
            return false;
        }
        let quotient = match op {
            Div::Div => true,
            Div::Mod => false,
            Div::Sdiv | Div::Smod => return false,
        };
        // The product with the divisor takes a signed immediate, or its register.
        let factor = match (i32::try_from(divisor), src) {
            (Ok(factor), _) => Rhs::Imm(factor),
            (Err(_), Operand::Reg(src)) if src != dst => {
                self.settle(src);
                Rhs::Reg(reg::<E>(src))
            }
            (Err(_), _) => return false,
        };
        let n = self.source_at(width, dst);
        if divisor.is_power_of_two() {
            let log = divisor.trailing_zeros() as i32;
            let mask = i32::try_from(divisor - 1);
            self.release(dst);
            match (quotient, mask) {
                (true, _) => self.e.bin(Bin::Rsh, width, reg::<E>(dst), reg::<E>(n), Rhs::Imm(log)),
                (false, Ok(mask)) => self.e.bin(Bin::And, width, reg::<E>(dst), reg::<E>(n), Rhs::Imm(mask)),
                (false, Err(_)) => return false,
            }
            self.defined(dst, width == Width::W32);
            return true;
        }
        let Some(magic) = Magic::new(width, divisor) else { return false };
        self.release(dst);
        // A remainder needs the dividend once more.
        let (narrow, to) = (self.opt.narrow.contains(n), if quotient { reg::<E>(dst) } else { E::SPARE });
        let Some(q) = self.e.quotient(width, to, reg::<E>(n), narrow, magic) else { return false };
        if quotient {
            if q != reg::<E>(dst) {
                self.e.mov(width, reg::<E>(dst), q);
            }
        } else {
            self.e.bin(Bin::Mul, width, q, q, factor);
            self.e.bin(Bin::Sub, width, reg::<E>(dst), reg::<E>(n), Rhs::Reg(q));
        }
        self.defined(dst, width == Width::W32);
        true
    }
}

fn is_power(value: i32) -> bool {
    value > 1 && value.count_ones() == 1
}
