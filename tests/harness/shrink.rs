//! Makes a case smaller while what is wrong with it stays wrong: delta debugging over instructions.

use std::time::{Duration, Instant};

use rtbpf_isa::{Callee, Imm64, Insn, InsnIdx, RawInsn, decode};

use crate::generate::Case;

/// Tries of `holds` before the smallest case so far is good enough.
const TRIES: usize = 2000;

/// Time after which the same goes: each try may be a walk of a million instructions.
const PATIENCE: Duration = Duration::from_secs(8);

/// One instruction: its slots, and the instruction it jumps to.
#[derive(Clone)]
struct Item {
    slots: Vec<RawInsn>,
    target: Option<usize>,
    /// The distance stands in the immediate rather than the offset.
    in_imm: bool,
}

/// The smallest case found for which `holds` is true, as it is for `case`.
pub fn shrink(case: &Case, mut holds: impl FnMut(&Case) -> bool) -> Case {
    let mut best = case.clone();
    let (mut tries, begun) = (0, Instant::now());
    let mut still = |candidate: &Case| {
        tries += 1;
        tries <= TRIES && begun.elapsed() < PATIENCE && holds(candidate)
    };
    for packet in 0..best.packets.len() {
        let candidate = Case { packets: vec![best.packets[packet].clone()], ..best.clone() };
        if best.packets.len() > 1 && still(&candidate) {
            best = candidate;
            break;
        }
    }
    for candidate in [Case { packets: Vec::new(), ..best.clone() }, Case { prog_flags: 0, ..best.clone() }] {
        if still(&candidate) {
            best = candidate;
        }
    }
    let Some(mut items) = items(&best.insns) else { return best };
    loop {
        let before = items.len();
        let mut chunk = (items.len() / 2).max(1);
        loop {
            let mut at = 0;
            while at < items.len() {
                let end = (at + chunk).min(items.len());
                let fewer = without(&items, at, end);
                let candidate = fewer.as_deref().and_then(|items| assembled(&best, items));
                match (fewer, candidate) {
                    (Some(fewer), Some(candidate)) if still(&candidate) => (items, best) = (fewer, candidate),
                    _ => at = end,
                }
            }
            if chunk == 1 {
                break;
            }
            chunk /= 2;
        }
        if items.len() == before {
            break;
        }
    }
    simpler_numbers(&mut best, &mut items, &mut still);
    drop_maps(&mut best, &mut still);
    best
}

/// Immediates and offsets, one after the other, made 0 or 1.
fn simpler_numbers(best: &mut Case, items: &mut [Item], still: &mut impl FnMut(&Case) -> bool) {
    for at in 0..items.len() {
        if items[at].target.is_some() || items[at].slots.len() > 1 {
            continue;
        }
        for imm in [0, 1] {
            let old = items[at].slots[0].imm;
            if old == 0 || old == imm {
                break;
            }
            items[at].slots[0].imm = imm;
            match assembled(best, items) {
                Some(candidate) if still(&candidate) => {
                    *best = candidate;
                    break;
                }
                _ => items[at].slots[0].imm = old,
            }
        }
    }
}

/// Maps from the end of the list that no instruction names.
fn drop_maps(best: &mut Case, still: &mut impl FnMut(&Case) -> bool) {
    while let Some(last) = best.maps.len().checked_sub(1) {
        let named = best.fixups().iter().any(|&(_, map)| map == last);
        let mut candidate = best.clone();
        candidate.maps.pop();
        if named || !still(&candidate) {
            return;
        }
        *best = candidate;
    }
}

fn items(insns: &[RawInsn]) -> Option<Vec<Item>> {
    let program = decode(insns).ok()?;
    let item = |(at, insn): (InsnIdx, &Insn)| Item {
        slots: program.raw(at).to_vec(),
        target: insn.relative_target().map(|to| at.target(to).index()),
        in_imm: matches!(
            insn,
            Insn::Jump { long: true, .. }
                | Insn::Call(Callee::Local { .. })
                | Insn::Imm { value: Imm64::Func { .. }, .. }
        ),
    };
    Some(program.iter().map(item).collect())
}

/// The items outside `from..to`; jumps into the gap go to what follows it. `None` when nothing is left to jump to.
fn without(items: &[Item], from: usize, to: usize) -> Option<Vec<Item>> {
    let moved = |target: usize| match target {
        _ if target < from => target,
        _ if target < to => from,
        _ => target - (to - from),
    };
    let left = items.len() - (to - from);
    let kept = items[..from].iter().chain(&items[to..]);
    let kept = kept.map(|item| {
        let target = item.target.map(moved);
        target.is_none_or(|target| target < left).then(|| Item { target, ..item.clone() })
    });
    kept.collect()
}

fn assembled(case: &Case, items: &[Item]) -> Option<Case> {
    let mut starts = Vec::with_capacity(items.len());
    let mut slot = 0i64;
    for item in items {
        starts.push(slot);
        slot += item.slots.len() as i64;
    }
    let mut insns = Vec::with_capacity(slot as usize);
    for (item, start) in items.iter().zip(&starts) {
        let mut slots = item.slots.clone();
        if let Some(target) = item.target {
            let distance = starts[target] - start - 1;
            match item.in_imm {
                true => slots[0].imm = i32::try_from(distance).ok()?,
                false => slots[0].off = i16::try_from(distance).ok()?,
            }
        }
        insns.extend(slots);
    }
    (!insns.is_empty()).then(|| Case { insns, ..case.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::Generator;

    #[test]
    fn what_matters_is_left() {
        let case = (0..).map(|seed| Generator::Grammar.case(seed)).find(|case| case.insns.len() > 40).expect("endless");
        // Say that a 64-bit division by a register is wrong.
        let division = |insn: &RawInsn| insn.code == 0x3f;
        let mut case = case;
        case.insns.insert(8, RawInsn { code: 0x3f, dst: 2, src: 3, ..RawInsn::default() });
        let small = shrink(&case, |case| case.insns.iter().any(division));
        assert!(small.insns.len() == 1 && division(&small.insns[0]), "{}", small.listing());
    }

    #[test]
    fn jumps_keep_their_target() {
        let exit = RawInsn { code: 0x95, ..RawInsn::default() };
        let skip = RawInsn { code: 0x05, off: 3, ..RawInsn::default() };
        let zero = RawInsn { code: 0xb7, ..RawInsn::default() };
        let items = items(&[skip, zero, zero, zero, exit]).unwrap();
        let fewer = without(&items, 1, 3).unwrap();
        assert_eq!(fewer[0].target, Some(2));
    }
}
