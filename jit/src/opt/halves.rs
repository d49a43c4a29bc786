//! Upper halves of registers that nobody reads.
//!
//! ```text
//! r4 = 0xfffc0000 ll; r3 &= r4; r3 >>= 18        becomes        w3 >>= 18
//! r2 <<= 14                                                     w2 <<= 14
//! r2 |= r3                                                      w2 |= w3       (with both: a rotation)
//! r2 <<= 32; r2 >>= 32                                          w2 = w2        (which is nothing)
//! ```
//!
//! Versions 1 and 2 of the instruction set have no 32-bit arithmetic, so compilers mask, shift and extend for it; later ones
//! extend what is only stored. Walked backwards, a register's upper half is *read* where a 64-bit operation reads it whose
//! own is, where it is compared, stored whole, an address or an argument. Where it is not, an operation may have either
//! width: 32 bits for what is shorter so, or what is extended later and need not be then; 64 bits for copies, which cost
//! nothing.
//!
//! Slots of the stack that nothing else reaches are registers here: what is spilled is a copy.
//!
//! Where a rule rests on an upper half being zero, that counts as reading it.

use rtbpf_isa::effects::{Flow, RegSet};
use rtbpf_isa::{AluOp, CmpOp, Imm64, Insn, InsnIdx, Operand, Reg, Size, Subprog, Swap, Width};
use rtbpf_verifier::VerifiedProgram;

use super::narrow::Narrow;
use super::{Lead, begins, falls, lead, nothing, slots};

/// The program's instructions in the widths that are wanted.
pub(crate) fn fitted(program: &VerifiedProgram, insns: &[Insn]) -> Vec<Insn> {
    let subprogs = program.code().subprogs();
    let lowering = program.lowering();
    let lowers = !lowering.ctx().is_empty();
    let moved = |at| lowers && lowering.at(at).is_some();
    let (leads, sources) = lead(insns, subprogs);
    let narrow = Narrow::new(insns, subprogs, moved);
    let mut new = insns.to_vec();
    let mut block = Block { constants: [None; Reg::COUNT], signed: RegSet::EMPTY };
    let mut around: Vec<Around> = Vec::new();
    for at in (0..insns.len()).map(|at| InsnIdx(at as u32)) {
        if begins(&leads, at) {
            around.retain(|around| at.0 <= around.last);
            around.extend(block.around(insns, (&leads, &sources), subprogs, at));
            let constants = around.last().map_or([None; Reg::COUNT], |around| around.constants);
            block = Block { constants, signed: RegSet::EMPTY };
        }
        if !begins(&leads, at.next())
            && let Some(two) = new.get_mut(at.index()..at.index() + 2)
            && let &mut [first, second] = two
            && let Some(pair) = block.pair(first, second)
        {
            two.copy_from_slice(&pair);
        }
        let Some(&insn) = new.get(at.index()) else { continue };
        // A mask of what a shift loses.
        if let Insn::Alu { op: AluOp::And, width, dst, src } = insn
            && let Some((place, by)) = shifted(&new, &leads, at, dst)
            && block.is_shifted_out(width, dst, src, by)
            && let Some(shift) = new.get_mut(place)
        {
            *shift = Insn::Alu { op: AluOp::Rsh, width: Width::W32, dst, src: Operand::Imm(by as i32) };
            if let Some(mask) = new.get_mut(at.index()) {
                *mask = nothing(dst);
            }
            continue;
        }
        // What was just loaded, and is extended from the size that was loaded.
        if let Some(before) = at.index().checked_sub(1)
            && !begins(&leads, at)
            && !moved(InsnIdx(before as u32))
            && let Some(two) = new.get_mut(before..before + 2)
            && let &mut [
                Insn::Load { size, signed: false, dst, base, off },
                Insn::MovSx { width: Width::W64, from, dst: d, src },
            ] = two
            && (dst, dst, size) == (d, src, from)
        {
            two.copy_from_slice(&[Insn::Load { size, signed: true, dst, base, off }, nothing(dst)]);
        } else if let Some(fitting) = block.narrowed(insn, narrow.before(at))
            && let Some(place) = new.get_mut(at.index())
        {
            *place = fitting;
        }
        block.note(&insn, moved(at));
    }
    let mut reads =
        Reads { after: vec![Halves::default(); insns.len()], before: vec![Halves::default(); insns.len() + 1] };
    let mut heads = vec![false; insns.len() + 1];
    // Where there is 32-bit arithmetic, spilled numbers of 32 bits have slots of their size.
    let is_half = |insn: &Insn| matches!(insn, Insn::Alu { width: Width::W32, .. });
    let words = if insns.iter().any(is_half) { Vec::new() } else { slots::words(&new, subprogs) };
    let word = |at: InsnIdx| words.get(at.index()).copied().flatten();
    while reads.pass(&new, &narrow, (moved, word), &mut heads) {}
    for (insn, after) in new.iter_mut().zip(&reads.after) {
        *insn = after.fitting(*insn);
    }
    new
}

/// Where `dst` is shifted to the right, and by how much, if that is the next that happens to it, near by.
fn shifted(insns: &[Insn], leads: &[Lead], at: InsnIdx, dst: Reg) -> Option<(usize, u32)> {
    const NEAR: u32 = 4;
    for next in (at.0 + 1..=at.0 + NEAR).map(InsnIdx).take_while(|next| !begins(leads, *next)) {
        match *insns.get(next.index())? {
            Insn::Alu { op: AluOp::Rsh, dst: d, src: Operand::Imm(by), .. } if d == dst => {
                return u32::try_from(by).ok().map(|by| (next.index(), by));
            }
            insn if insn.flow() != Flow::Next || insn.touches().contains(dst) => return None,
            _ => {}
        }
    }
    None
}

/// A loop, and the masks that stand in registers all through it.
struct Around {
    last: u32,
    constants: [Option<u64>; Reg::COUNT],
}

/// What is known within a block.
struct Block {
    constants: [Option<u64>; Reg::COUNT],
    /// Registers whose bits above 31 are copies of bit 31.
    signed: RegSet,
}

impl Block {
    /// The loop that begins at `at`, behind this block and entered nowhere else, if it keeps masks of 32 bits.
    fn around(
        &self,
        insns: &[Insn],
        (leads, sources): (&[Lead], &[(u32, u32)]),
        subprogs: &[Subprog],
        at: InsnIdx,
    ) -> Option<Around> {
        let is_mask =
            |value: &Option<u64>| value.is_some_and(|value| value > i32::MAX as u64 && value <= u32::MAX.into());
        if leads.get(at.index()) != Some(&Lead::Loop) || !self.constants.iter().any(is_mask) || !falls(insns, at) {
            return None;
        }
        let last = sources.get(at.index())?.1;
        // Places without jumps to them have sources in the wrong order.
        let inside = |(first, end): &(u32, u32)| first > end || *first >= at.0 && *end <= last;
        let called = subprogs.iter().any(|subprog| (at.0..=last).contains(&subprog.start.0));
        if called || !sources.get(at.index()..=last as usize)?.iter().all(inside) {
            return None;
        }
        let mut constants = self.constants;
        for reg in
            insns.get(at.index()..=last as usize)?.iter().fold(RegSet::EMPTY, |all, insn| all.with(insn.defs())).iter()
        {
            constants[reg.index()] = None;
        }
        Some(Around { last, constants })
    }

    fn value(&self, operand: Operand) -> Option<u64> {
        match operand {
            Operand::Imm(value) => Some(value as i64 as u64),
            Operand::Reg(reg) => self.constants[reg.index()],
        }
    }

    /// Notes what `insn` does; `moved` when it loads other bytes than it says.
    fn note(&mut self, insn: &Insn, moved: bool) {
        let (value, signed) = match *insn {
            Insn::Imm { value: Imm64::Const([low, high]), .. } => (Some((high as u64) << 32 | low as u64), false),
            Insn::Alu { op: AluOp::Mov, width, src, .. } => match (width, self.value(src)) {
                (Width::W32, value) => (value.map(|value| value as u32 as u64), false),
                (Width::W64, value) => (value, matches!(src, Operand::Reg(src) if self.signed.contains(src))),
            },
            Insn::Alu { op: AluOp::And, src: Operand::Imm(0..), .. } => (None, true),
            Insn::MovSx { width: Width::W64, .. } => (None, true),
            Insn::Load { size: Size::B | Size::H, .. } | Insn::Load { size: Size::W, signed: true, .. } => {
                (None, !moved)
            }
            _ => (None, false),
        };
        let signed = signed || value.is_some_and(|value| i32::try_from(value as i64).is_ok());
        for dst in insn.defs().iter() {
            self.constants[dst.index()] = value;
        }
        self.signed = if signed { self.signed.with(insn.defs()) } else { self.signed.without(insn.defs()) };
    }

    /// Two shifts in a row, as an extension and perhaps one.
    fn pair(&self, first: Insn, second: Insn) -> Option<[Insn; 2]> {
        let (
            Insn::Alu { op: a, width, dst, src: by },
            Insn::Alu { op: b, width: other, dst: d, src: Operand::Imm(back) },
        ) = (first, second)
        else {
            return None;
        };
        if d != dst {
            return None;
        }
        let bits = width.bits();
        match (a, by, b) {
            (AluOp::Lsh, Operand::Imm(by), AluOp::Rsh | AluOp::Arsh) if other == width => {
                let (by, back) = (by as u32 & (bits - 1), back as u32 & (bits - 1));
                let more = back.checked_sub(by)?;
                let from = match bits - by {
                    8 => Size::B,
                    16 => Size::H,
                    32 if width == Width::W64 => Size::W,
                    _ => return None,
                };
                let one = match (b, from) {
                    (AluOp::Arsh, from) => Insn::MovSx { width, from, dst, src: dst },
                    (_, Size::B) => Insn::Alu { op: AluOp::And, width: Width::W32, dst, src: Operand::Imm(0xff) },
                    (_, Size::H) => Insn::Alu { op: AluOp::And, width: Width::W32, dst, src: Operand::Imm(0xffff) },
                    // As an address, an index takes what is left of two shifts.
                    (_, _) if more != 0 => return None,
                    _ => Insn::Alu { op: AluOp::Mov, width: Width::W32, dst, src: Operand::Reg(dst) },
                };
                let rest = match more {
                    0 => nothing(dst),
                    more => Insn::Alu { op: b, width, dst, src: Operand::Imm(more as i32) },
                };
                Some([one, rest])
            }
            _ => None,
        }
    }

    /// Whether a mask of `dst` clears what a shift to the right by `by` at 32 bits loses or has not, and no more.
    fn is_shifted_out(&self, width: Width, dst: Reg, mask: Operand, by: u32) -> bool {
        let Some(mask) = self.value(mask).filter(|_| mask != Operand::Reg(dst)) else { return false };
        let mask = if width == Width::W32 { mask as u32 as u64 } else { mask };
        (1..32).contains(&by) && mask | ((1 << by) - 1) == u32::MAX as u64
    }

    /// `insn` at 32 bits, where it does the same to numbers that have no more. `narrow` are registers without bits above 31.
    fn narrowed(&self, insn: Insn, narrow: RegSet) -> Option<Insn> {
        let is = |set: RegSet, operand: Operand, imm: bool| match operand {
            Operand::Reg(reg) => set.contains(reg),
            Operand::Imm(_) => imm,
        };
        match insn {
            Insn::Alu { op, width: Width::W64, dst, src } => {
                let (left, right) = (narrow.contains(dst), is(narrow, src, matches!(src, Operand::Imm(0..))));
                let same = match op {
                    AluOp::Div | AluOp::Mod => left && right,
                    AluOp::Rsh | AluOp::Arsh => left && matches!(src, Operand::Imm(1..32)),
                    _ => false,
                };
                // No sign stands above 31.
                let op = if op == AluOp::Arsh { AluOp::Rsh } else { op };
                same.then_some(Insn::Alu { op, width: Width::W32, dst, src })
            }
            Insn::Branch { op, width: Width::W64, lhs, rhs, to } => {
                let unsigned = match op {
                    CmpOp::Eq | CmpOp::Ne | CmpOp::Lt | CmpOp::Le | CmpOp::Gt | CmpOp::Ge | CmpOp::Set => true,
                    CmpOp::Slt | CmpOp::Sle | CmpOp::Sgt | CmpOp::Sge => false,
                };
                let zeroes = narrow.contains(lhs) && is(narrow, rhs, matches!(rhs, Operand::Imm(0..)));
                // Bit 31 is set in both if any above is.
                let signs = self.signed.contains(lhs) && is(self.signed, rhs, true) && op != CmpOp::Set;
                (zeroes && unsigned || signs).then_some(Insn::Branch { op, width: Width::W32, lhs, rhs, to })
            }
            _ => None,
        }
    }
}

/// Registers at one place in the program.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
struct Halves {
    /// Whose upper half is read.
    read: RegSet,
    /// Which are extended from their lower half.
    extended: RegSet,
    /// Slots of the stack whose upper half is read.
    words_read: u64,
    /// Slots that are extended from their lower half.
    words_extended: u64,
}

impl Halves {
    fn with(self, other: Halves) -> Halves {
        Halves {
            read: self.read.with(other.read),
            extended: self.extended.with(other.extended),
            words_read: self.words_read | other.words_read,
            words_extended: self.words_extended | other.words_extended,
        }
    }

    fn without(self, set: RegSet) -> Halves {
        Halves { read: self.read.without(set), extended: self.extended.without(set), ..self }
    }

    fn reading(self, set: RegSet) -> Halves {
        Halves { read: self.read.with(set), ..self }
    }

    /// Before a load or a store of a slot, from what is behind it: a copy.
    fn before_word(self, insn: &Insn, word: u8) -> Halves {
        let bit = 1 << (word & 63);
        let mut before = self.without(insn.defs());
        match *insn {
            Insn::Load { dst, .. } => {
                before.words_read |= if self.read.contains(dst) { bit } else { 0 };
                before.words_extended |= if self.extended.contains(dst) { bit } else { 0 };
            }
            Insn::Store { src, .. } => {
                let copied = |is: bool| match src {
                    Operand::Reg(src) if is => RegSet::of(src),
                    Operand::Reg(_) | Operand::Imm(_) => RegSet::EMPTY,
                };
                before.read = before.read.with(copied(self.words_read & bit != 0));
                before.extended = before.extended.with(copied(self.words_extended & bit != 0));
                (before.words_read, before.words_extended) = (self.words_read & !bit, self.words_extended & !bit);
            }
            _ => {}
        }
        before
    }

    /// Before an instruction, from what is behind it.
    fn before(self, insn: &Insn, narrow: RegSet, moved: bool) -> Halves {
        let rest = self.without(insn.defs());
        let whole = |operand: Operand| match operand {
            Operand::Reg(reg) => RegSet::of(reg),
            Operand::Imm(_) => RegSet::EMPTY,
        };
        match *insn {
            Insn::Alu { op: AluOp::Mov, width, dst, src: Operand::Reg(src) } => {
                let (read, extended) = (self.read.contains(dst), self.extended.contains(dst));
                let src = RegSet::of(src);
                match width {
                    Width::W64 => Halves {
                        read: if read { rest.read.with(src) } else { rest.read },
                        extended: if extended { rest.extended.with(src) } else { rest.extended },
                        ..rest
                    },
                    Width::W32 if read || extended => Halves { extended: rest.extended.with(src), ..rest },
                    Width::W32 => rest,
                }
            }
            Insn::Alu { width: Width::W32, .. } | Insn::Neg { width: Width::W32, .. } | Insn::MovSx { .. } => rest,
            Insn::Alu { op, width: Width::W64, dst, src } => {
                let read = self.read.contains(dst);
                match (op, src) {
                    (AluOp::Mov, _) => rest,
                    (AluOp::Div | AluOp::Mod | AluOp::Sdiv | AluOp::Smod, _) => {
                        rest.reading(RegSet::of(dst).with(whole(src)))
                    }
                    (AluOp::Rsh | AluOp::Arsh, _) => rest.reading(RegSet::of(dst)),
                    (AluOp::Lsh, Operand::Imm(32..=63)) => rest,
                    (_, _) if !read => rest,
                    (AluOp::Lsh, _) => rest.reading(RegSet::of(dst)),
                    // The zeroes of one side are all that is seen of the upper half.
                    (AluOp::And, Operand::Imm(0..)) => rest,
                    (AluOp::And, Operand::Reg(src)) if narrow.contains(src) => rest.reading(RegSet::of(src)),
                    (AluOp::And, _) if narrow.contains(dst) => rest.reading(RegSet::of(dst)),
                    (AluOp::Add | AluOp::Sub | AluOp::Mul | AluOp::Or | AluOp::And | AluOp::Xor, _) => {
                        rest.reading(RegSet::of(dst).with(whole(src)))
                    }
                }
            }
            Insn::Neg { width: Width::W64, dst } if !self.read.contains(dst) => rest,
            Insn::Swap { size: Size::B | Size::H | Size::W, kind: Swap::ToLe | Swap::ToBe | Swap::Bswap, .. } => rest,
            Insn::Store { size, base, src: Operand::Reg(_), .. } if size != Size::D && !moved => {
                rest.reading(RegSet::of(base))
            }
            Insn::Branch { width: Width::W32, .. } => rest,
            _ => rest.reading(insn.uses()),
        }
    }

    /// The instruction that this stands behind, in the width that is wanted.
    fn fitting(self, insn: Insn) -> Insn {
        let free = |dst: Reg| !self.read.contains(dst);
        let extended = |dst: Reg| self.extended.contains(dst);
        match insn {
            Insn::Alu { op, width, dst, src } if free(dst) => {
                let wanted = match (op, src) {
                    (AluOp::Or | AluOp::And | AluOp::Xor | AluOp::Mul, _) => Width::W32,
                    (AluOp::Lsh, Operand::Imm(4..32)) => Width::W32,
                    (AluOp::Add | AluOp::Sub, _) | (AluOp::Lsh, Operand::Imm(1..4)) if extended(dst) => Width::W32,
                    (AluOp::Mov, Operand::Reg(_)) if !extended(dst) => Width::W64,
                    _ => width,
                };
                Insn::Alu { op, width: wanted, dst, src }
            }
            Insn::Neg { dst, .. } if free(dst) => Insn::Neg { width: Width::W32, dst },
            Insn::MovSx { from: Size::W, dst, src, .. } if free(dst) => {
                Insn::Alu { op: AluOp::Mov, width: Width::W64, dst, src: Operand::Reg(src) }
            }
            Insn::Load { size: Size::W, signed: true, dst, base, off } if free(dst) => {
                Insn::Load { size: Size::W, signed: false, dst, base, off }
            }
            other => other,
        }
    }
}

/// What is read behind and before each instruction.
struct Reads {
    after: Vec<Halves>,
    before: Vec<Halves>,
}

impl Reads {
    /// Whether a head of a loop has grown that was looked at before.
    fn pass(
        &mut self,
        insns: &[Insn],
        narrow: &Narrow,
        (moved, word): (impl Fn(InsnIdx) -> bool, impl Fn(InsnIdx) -> Option<u8>),
        heads: &mut [bool],
    ) -> bool {
        let mut changed = false;
        for (at, insn) in insns.iter().enumerate().rev() {
            let at = InsnIdx(at as u32);
            let before = |at: InsnIdx| self.before.get(at.index()).copied().unwrap_or_default();
            let after = match insn.flow() {
                Flow::Next | Flow::Call(_) => before(at.next()),
                Flow::Jump(to) | Flow::Branch(to) => {
                    if let (..0, Some(head)) = (to, heads.get_mut(at.target(to).index())) {
                        *head = true;
                    }
                    let next =
                        if matches!(insn.flow(), Flow::Branch(_)) { before(at.next()) } else { Halves::default() };
                    next.with(before(at.target(to)))
                }
                Flow::Exit => Halves::default(),
            };
            if let Some(place) = self.after.get_mut(at.index()) {
                *place = after;
            }
            let new = match word(at) {
                Some(word) => after.before_word(insn, word),
                None => after.before(insn, narrow.before(at), moved(at)),
            };
            if let Some(place) = self.before.get_mut(at.index())
                && *place != new
            {
                *place = new;
                changed |= heads.get(at.index()) == Some(&true);
            }
        }
        changed
    }
}
