//! How many bits registers have when a block begins.
//!
//! A 32-bit operation clears the upper half of its register, so most indices and counters need no extension before they are
//! used as 64-bit numbers; sums and products of small numbers stay small, and where both sides of a division have 32 bits, it
//! is a division of that width. The bounds start at the least at the targets of jumps and only grow, until every way into a
//! block agrees.

use rtbpf_isa::effects::{Flow, RegSet};
use rtbpf_isa::{AluOp, Imm64, Insn, InsnIdx, Operand, Reg, Subprog, Width};

/// Numbers of bits that are told apart: what halves a product of 32 bits, what may be doubled, what fills a half, and a sum of
/// two of those.
const LEVELS: [u32; 4] = [16, 31, 32, 33];
/// The level of numbers without a bit above 31.
const NARROW: usize = 2;

/// Registers that have no more bits than each of [`LEVELS`], 16 bits of the set for each.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Bounds(u64);

/// The first register at each level.
const LANES: u64 = 0x0001_0001_0001_0001;

impl Bounds {
    const ALL: Bounds = Bounds(LANES * ((1 << Reg::COUNT) - 1));

    fn narrow(self) -> RegSet {
        RegSet((self.0 >> (16 * NARROW)) as u16)
    }

    /// The bits of `reg` at most.
    fn bits(self, reg: Reg) -> u32 {
        let first = (self.0 >> reg as u32 & LANES).trailing_zeros() / 16;
        LEVELS.get(first as usize).copied().unwrap_or(64)
    }

    fn with(self, set: RegSet, bits: u32) -> Bounds {
        let first = LEVELS.iter().take_while(|most| bits > **most).count();
        let lanes = LANES.checked_shl(16 * first as u32).unwrap_or(0);
        let set = u64::from(set.0);
        Bounds((self.0 & !(LANES * set)) | (lanes * set))
    }
}

/// Bounds of registers before each instruction of a program.
#[derive(Default)]
pub(crate) struct Narrow {
    before: Vec<Bounds>,
}

impl Narrow {
    /// `widens` tells of loads that read more than the instruction says.
    pub fn new(insns: &[Insn], subprogs: &[Subprog], widens: impl Fn(InsnIdx) -> bool) -> Narrow {
        let mut narrow = Narrow { before: vec![Bounds::ALL; insns.len() + 1] };
        for subprog in subprogs {
            narrow.meet(subprog.start, Bounds(0));
        }
        while narrow.pass(insns, &widens) {}
        narrow
    }

    /// Takes what one way into `at` knows; whether that was less than was known.
    fn meet(&mut self, at: InsnIdx, bounds: Bounds) -> bool {
        let Some(place) = self.before.get_mut(at.index()) else { return false };
        let old = *place;
        place.0 &= bounds.0;
        *place != old
    }

    /// Whether a block that was passed already knows less now.
    fn pass(&mut self, insns: &[Insn], widens: impl Fn(InsnIdx) -> bool) -> bool {
        let mut again = false;
        for (at, insn) in (0..).map(InsnIdx).zip(insns) {
            let Some(before) = self.before.get(at.index()).copied() else { return again };
            let defs = insn.defs();
            let after = match defs {
                RegSet::EMPTY => before,
                _ if matches!(insn, Insn::Load { .. }) && widens(at) => before.with(defs, 64),
                _ => before.with(defs, bits(insn, before)),
            };
            match insn.flow() {
                Flow::Next | Flow::Call(_) => {
                    self.meet(at.next(), after);
                }
                Flow::Jump(to) => again |= self.meet(at.target(to), after) && to < 0,
                Flow::Branch(to) => {
                    self.meet(at.next(), after);
                    again |= self.meet(at.target(to), after) && to < 0;
                }
                Flow::Exit => {}
            }
        }
        again
    }

    /// Registers that have no bit above 31 before `at`.
    pub fn before(&self, at: InsnIdx) -> RegSet {
        self.before.get(at.index()).map_or(RegSet::EMPTY, |bounds| bounds.narrow())
    }

    /// Bits of `reg` that may be set before `at`.
    pub fn ones(&self, at: InsnIdx, reg: Reg) -> u64 {
        self.before.get(at.index()).map_or(u64::MAX, |bounds| u64::MAX >> (64 - bounds.bits(reg)))
    }
}

/// The bits of what `insn` defines, at most.
fn bits(insn: &Insn, before: Bounds) -> u32 {
    match *insn {
        Insn::Alu { op, width, dst, src } => {
            let right = match (src, width) {
                (Operand::Imm(value), Width::W32) => 32 - (value as u32).leading_zeros(),
                (Operand::Imm(value), Width::W64) => 64 - (value as i64 as u64).leading_zeros(),
                (Operand::Reg(src), _) => before.bits(src),
            };
            let most = width.bits();
            result(op, width, before.bits(dst).min(most), right.min(most), src).min(most)
        }
        Insn::Neg { width, .. } | Insn::MovSx { width, .. } | Insn::Atomic { width, .. } => width.bits(),
        Insn::Load { size, signed: false, .. } | Insn::LoadAcquire { size, .. } | Insn::Swap { size, .. } => {
            size.bits()
        }
        Insn::Imm { value: Imm64::Const([low, high]), .. } => {
            64 - (u64::from(high) << 32 | u64::from(low)).leading_zeros()
        }
        Insn::Load { signed: true, .. } | Insn::Imm { .. } | Insn::AddrCast { .. } | Insn::Store { .. } => 64,
        Insn::StoreRelease { .. } | Insn::Packet { .. } | Insn::Call(_) | Insn::Bad { .. } => 64,
        Insn::Jump { .. } | Insn::Branch { .. } | Insn::MayGoto { .. } | Insn::Exit => 64,
    }
}

/// The bits of a result, of operands with so many bits, both of the operation's width.
fn result(op: AluOp, width: Width, left: u32, right: u32, src: Operand) -> u32 {
    let all = width.bits();
    let count = match src {
        Operand::Imm(by) => Some(by as u32 & (all - 1)),
        Operand::Reg(_) => None,
    };
    match op {
        AluOp::Mov => right,
        AluOp::And => left.min(right),
        AluOp::Or | AluOp::Xor => left.max(right),
        AluOp::Add => left.max(right) + 1,
        AluOp::Mul => left + right,
        AluOp::Lsh => count.map_or(all, |by| left + by),
        AluOp::Rsh => left - count.unwrap_or(0).min(left),
        // No sign is shifted in.
        AluOp::Arsh if left < all => left - count.unwrap_or(0).min(left),
        // By zero, the quotient is zero and the remainder what was there.
        AluOp::Div | AluOp::Mod => left,
        AluOp::Sub | AluOp::Arsh | AluOp::Sdiv | AluOp::Smod => all,
    }
}

#[cfg(test)]
mod tests {
    use rtbpf_isa::eval;

    use super::*;

    #[test]
    fn results_have_no_more_bits_than_their_bounds() {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let mut below = 0;
        for number in 0..200_000 {
            let op = AluOp::ALL[number % AluOp::ALL.len()];
            let width = [Width::W32, Width::W64][number / 16 % 2];
            let mut operand = |most: [u32; 5]| {
                let bits = most[next() as usize % 5];
                (next() >> (64 - bits), bits)
            };
            let (a, left) = operand([16, 31, 32, 33, 64]);
            let (b, right) = operand([5, 16, 31, 32, 64]);
            let (dst, src) = (Reg::R1, Reg::R2);
            let before = Bounds(0).with(RegSet::of(dst), left).with(RegSet::of(src), right);
            for src in [Operand::Reg(src), Operand::Imm(b as i32)] {
                let right = if let Operand::Imm(value) = src { value as i64 as u64 } else { b };
                let value = eval::alu(op, width, a, right);
                let most = bits(&Insn::Alu { op, width, dst, src }, before);
                assert!(64 - value.leading_zeros() <= most, "{op:?} {width:?} {a:#x} {right:#x}: {value:#x}, {most}");
                below += u32::from(most < width.bits());
            }
        }
        assert!(below > 50_000, "{below} results are bounded");
    }

    #[test]
    fn bounds_are_the_next_level() {
        for (bits, level) in [(0, 16), (16, 16), (17, 31), (32, 32), (33, 33), (34, 64), (64, 64)] {
            let bounds = Bounds::ALL.with(RegSet::of(Reg::R9), bits);
            assert_eq!((bounds.bits(Reg::R9), bounds.bits(Reg::R8)), (level, 16));
            assert_eq!(bounds.narrow().contains(Reg::R9), bits <= 32);
        }
    }
}
