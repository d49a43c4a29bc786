//! Bytes loaded one by one and put together become one wide load, with a swap behind it where they stood in network
//! order. Compilers take packet headers apart like this, because nothing tells them that wider loads may be unaligned.
//!
//! ```text
//! r3 = *(u8 *)(r6 + 2)                 (nothing)
//! w3 <<= 8                becomes      (nothing)
//! r5 = *(u8 *)(r6 + 3)                 r3 = *(u16 *)(r6 + 2)
//! w3 |= w5                             r3 = be16 r3
//! ```
//!
//! Within a block, each register that holds nothing but bytes of memory and zeroes is known by its lanes. Where lanes
//! make up a wide number, the instructions that did so are given up if nobody else reads what they computed, and if
//! base and memory still stand.

use std::collections::HashSet;

use rtbpf_isa::effects::{Flow, RegSet};
use rtbpf_isa::{AluOp, Insn, InsnIdx, Operand, Reg, Size, Swap, Width};
use rtbpf_verifier::VerifiedProgram;

use super::liveness::Liveness;
use super::nothing;

/// Instructions between the first byte and the last at most.
const WINDOW: usize = 48;
/// Instructions that put one number together at most: 8 loads, 7 shifts, 7 ors and some copies.
const MOST_PARTS: usize = 32;

/// A register's contents as bytes of memory. Lane 0 is the lowest byte; `None` is zero.
#[derive(Clone)]
struct Word {
    base: Reg,
    /// Which contents of `base`, and which state of memory.
    epoch: (u32, u32),
    lanes: [Option<i32>; 8],
    /// The instructions that made it, in ascending order.
    parts: Vec<usize>,
}

impl Word {
    fn low(mut self, width: Width) -> Word {
        if width == Width::W32 {
            self.lanes[4..].fill(None);
        }
        self
    }

    fn at(mut self, at: usize) -> Option<Word> {
        self.parts.push(at);
        (self.parts.len() <= MOST_PARTS).then_some(self)
    }

    /// Shifted by whole bytes.
    fn shifted(self, width: Width, left: bool, by: i32) -> Option<Word> {
        let bits = by as u32 & (width.bits() - 1);
        let bytes = (bits / 8) as usize;
        if !bits.is_multiple_of(8) {
            return None;
        }
        let mut word = self.low(width);
        if left {
            word.lanes.rotate_right(bytes);
            word.lanes[..bytes].fill(None);
        } else {
            word.lanes.rotate_left(bytes);
            word.lanes[8 - bytes..].fill(None);
        }
        Some(word.low(width))
    }

    /// Masked by whole bytes.
    fn masked(self, width: Width, mask: i32) -> Option<Word> {
        let mut word = self.low(width);
        for (lane, byte) in word.lanes.iter_mut().zip((mask as i64).to_le_bytes()) {
            match byte {
                0 => *lane = None,
                0xff => {}
                _ if lane.is_none() => {}
                _ => return None,
            }
        }
        Some(word)
    }

    fn swapped(mut self, kind: Swap, size: Size) -> Word {
        let bytes = size.bytes() as usize;
        self.lanes[bytes..].fill(None);
        match kind {
            Swap::ToLe => {}
            Swap::ToBe | Swap::Bswap => self.lanes[..bytes].reverse(),
        }
        self
    }

    /// Put together with bytes in other lanes.
    fn joined(self, other: &Word, width: Width) -> Option<Word> {
        let (mut word, other) = (self.low(width), other.clone().low(width));
        if (word.base, word.epoch) != (other.base, other.epoch) {
            return None;
        }
        for (lane, new) in word.lanes.iter_mut().zip(other.lanes) {
            match (*lane, new) {
                (Some(_), Some(_)) => return None,
                (mine, new) => *lane = mine.or(new),
            }
        }
        word.parts.extend(&other.parts);
        word.parts.sort_unstable();
        word.parts.dedup();
        Some(word)
    }

    /// Size, offset and whether the order is the network's, if it is one run of at least two bytes.
    fn wide(&self) -> Option<(Size, i16, bool)> {
        let len = self.lanes.iter().take_while(|lane| lane.is_some()).count();
        let size = [Size::H, Size::W, Size::D].into_iter().find(|size| size.bytes() as usize == len)?;
        let (bytes, rest) = self.lanes.split_at(len);
        if rest.iter().any(Option::is_some) {
            return None;
        }
        let run = |step: i32| bytes.windows(2).all(|pair| pair[0].zip(pair[1]).is_some_and(|(a, b)| b - a == step));
        let (first, swaps) = match (run(1), run(-1)) {
            (true, _) => (bytes.first(), false),
            (_, true) => (bytes.last(), true),
            (false, false) => return None,
        };
        Some((size, i16::try_from((*first?)?).ok()?, swaps))
    }
}

/// A number that one load can make.
struct Candidate {
    at: usize,
    dst: Reg,
    word: Word,
}

/// What each register of a block holds.
struct Block {
    words: [Option<Word>; Reg::COUNT],
    /// Registers of which there is one.
    known: RegSet,
    writes: [u32; Reg::COUNT],
    memory: u32,
}

impl Block {
    fn word(&self, reg: Reg) -> Option<&Word> {
        self.words[reg.index()].as_ref()
    }

    fn forget(&mut self) {
        for reg in std::mem::take(&mut self.known).iter() {
            self.words[reg.index()] = None;
        }
    }

    /// Notes what `insn` changes.
    fn note(&mut self, insn: &Insn) {
        for reg in insn.defs().iter() {
            self.writes[reg.index()] += 1;
        }
        self.memory += u32::from(!keeps_memory(insn));
    }

    /// What `insn` leaves in the register it defines, if that is bytes of memory.
    fn result(&self, at: usize, insn: &Insn, moved: bool) -> Option<Word> {
        match *insn {
            // Eight bytes leave no lane for others.
            Insn::Load { size, signed: false, base, off, .. } if !moved && size != Size::D => {
                let mut lanes = [None; 8];
                for (lane, off) in lanes.iter_mut().zip(i32::from(off)..).take(size.bytes() as usize) {
                    *lane = Some(off);
                }
                let epoch = (self.writes[base.index()], self.memory);
                Some(Word { base, epoch, lanes, parts: vec![at] })
            }
            Insn::Alu { op: AluOp::Mov, width, src: Operand::Reg(src), .. } => {
                self.word(src)?.clone().low(width).at(at)
            }
            Insn::Alu { op: op @ (AluOp::Lsh | AluOp::Rsh), width, dst, src: Operand::Imm(by) } => {
                self.word(dst)?.clone().shifted(width, op == AluOp::Lsh, by)?.at(at)
            }
            Insn::Alu { op: AluOp::And, width, dst, src: Operand::Imm(mask) } => {
                self.word(dst)?.clone().masked(width, mask)?.at(at)
            }
            Insn::Alu { op: AluOp::Or | AluOp::Xor | AluOp::Add, width, dst, src: Operand::Reg(src) } => {
                self.word(dst)?.clone().joined(self.word(src)?, width)?.at(at)
            }
            Insn::Swap { kind, size, dst } => self.word(dst)?.clone().swapped(kind, size).at(at),
            _ => None,
        }
    }
}

/// The program's instructions with wide loads; `None` when there is nothing to combine.
pub(crate) fn combined(
    (program, insns): (&VerifiedProgram, &[Insn]),
    begins: impl Fn(InsnIdx) -> bool,
    liveness: &Liveness,
) -> Option<Vec<Insn>> {
    let mut block = Block { words: Default::default(), known: RegSet::EMPTY, writes: [0; Reg::COUNT], memory: 0 };
    let mut candidates = Vec::new();
    let lowering = program.lowering();
    let lowers = !lowering.ctx().is_empty();
    for (at, insn) in insns.iter().enumerate() {
        if begins(InsnIdx(at as u32)) {
            block.forget();
        }
        let loads = matches!(insn, Insn::Load { .. });
        if !loads && block.known.0 & insn.touches().0 == 0 {
            block.note(insn);
            if insn.flow() != Flow::Next {
                block.forget();
            }
            continue;
        }
        let moved = lowers && lowering.at(InsnIdx(at as u32)).is_some();
        let result = block.result(at, insn, moved);
        let joins = matches!(insn, Insn::Alu { op: AluOp::Or | AluOp::Xor | AluOp::Add, .. });
        if let (true, Some(word), Some(dst)) = (joins, &result, insn.defs().iter().next())
            && word.epoch.1 == block.memory
            && word.wide().is_some()
        {
            candidates.push(Candidate { at, dst, word: word.clone() });
        }
        for reg in insn.defs().iter() {
            block.words[reg.index()] = result.clone();
            let (bit, known) = (RegSet::of(reg), result.is_some());
            block.known = if known { block.known.with(bit) } else { block.known.without(bit) };
        }
        block.note(insn);
        // On the other path of a branch, parts may have other readers.
        if insn.flow() != Flow::Next {
            block.forget();
        }
    }
    let mut new: Option<Vec<Insn>> = None;
    let mut taken = HashSet::new();
    // The widest number comes last; what it is made of is no number of its own any more.
    for candidate in candidates.into_iter().rev() {
        if !taken.contains(&candidate.at) && candidate.may_go(insns, liveness) {
            candidate.put(new.get_or_insert_with(|| insns.to_vec()));
            taken.extend(candidate.word.parts);
        }
    }
    new
}

/// Whether memory is what it was behind `insn`.
pub(super) fn keeps_memory(insn: &Insn) -> bool {
    match insn {
        Insn::Alu { .. } | Insn::MovSx { .. } | Insn::Neg { .. } | Insn::Swap { .. } | Insn::AddrCast { .. } => true,
        Insn::Imm { .. } | Insn::Load { .. } | Insn::LoadAcquire { .. } | Insn::Jump { .. } => true,
        Insn::Branch { .. } | Insn::MayGoto { .. } | Insn::Exit => true,
        Insn::Store { .. } | Insn::StoreRelease { .. } | Insn::Atomic { .. } => false,
        Insn::Packet { .. } | Insn::Call(_) | Insn::Bad { .. } => false,
    }
}

impl Candidate {
    /// Whether nobody but the number itself needs its parts, and its base still stands where it is put together.
    fn may_go(&self, insns: &[Insn], liveness: &Liveness) -> bool {
        let parts = &self.word.parts;
        let Some(&first) = parts.first() else { return false };
        if self.at - first > WINDOW {
            return false;
        }
        let is_part = |at: usize| parts.binary_search(&at).is_ok();
        let between = || (first..self.at).filter(|&at| !is_part(at)).filter_map(|at| insns.get(at));
        if between().any(|insn| insn.defs().contains(self.word.base)) {
            return false;
        }
        parts.iter().filter(|&&part| part != self.at).all(|&part| {
            let Some(dst) = insns.get(part).and_then(|insn| insn.defs().iter().next()) else { return false };
            for at in part + 1..=self.at {
                let Some(insn) = insns.get(at) else { return false };
                if !is_part(at) && insn.uses().contains(dst) {
                    return false;
                }
                if insn.defs().contains(dst) {
                    return true;
                }
            }
            !liveness.after(InsnIdx(self.at as u32)).contains(dst)
        })
    }

    /// Puts the load, and the swap, where the last parts were, and nothing where the others were.
    fn put(&self, insns: &mut [Insn]) {
        let (base, dst) = (self.word.base, self.dst);
        let Some((size, off, swaps)) = self.word.wide() else { return };
        let load = Insn::Load { size, signed: false, dst, base, off };
        let mut places = self.word.parts.iter().rev();
        let mut next = |insn| {
            if let Some(place) = places.next().and_then(|&at| insns.get_mut(at)) {
                *place = insn;
            }
        };
        if swaps {
            next(Insn::Swap { kind: Swap::ToBe, size, dst });
        }
        next(load);
        for _ in 1 + usize::from(swaps)..self.word.parts.len() {
            next(nothing(base));
        }
    }
}
