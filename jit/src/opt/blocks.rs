//! Where blocks and loops begin and end.

use rtbpf_isa::effects::Flow;
use rtbpf_isa::{Insn, InsnIdx, Subprog};

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Lead {
    No,
    Block,
    Loop,
}

/// Where blocks begin, and where the first and the last of the jumps to each instruction stand.
pub(super) fn lead(insns: &[Insn], subprogs: &[Subprog]) -> (Vec<Lead>, Vec<(u32, u32)>) {
    let mut leads = vec![Lead::No; insns.len() + 1];
    let mut sources = vec![(u32::MAX, 0); insns.len() + 1];
    let mut backward = false;
    for (at, insn) in (0..).map(InsnIdx).zip(insns) {
        let (Flow::Jump(to) | Flow::Branch(to)) = insn.flow() else { continue };
        if to == 0 {
            continue;
        }
        let target = at.target(to).index();
        if let (Some((first, last)), Some(lead)) = (sources.get_mut(target), leads.get_mut(target)) {
            (*first, *last) = ((*first).min(at.0), (*last).max(at.0));
            if *lead == Lead::No {
                *lead = Lead::Block;
            }
            if to < 0 {
                (*lead, backward) = (Lead::Loop, true);
            }
        }
    }
    for subprog in subprogs {
        if let Some(place) = leads.get_mut(subprog.start.index())
            && *place == Lead::No
        {
            *place = Lead::Block;
        }
    }
    if backward {
        joins(insns, &mut leads, &sources);
    }
    (leads, sources)
}

/// Where ways meet that jumps backwards take, too, without going round: what falls in there might as well have gone by.
fn joins(insns: &[Insn], leads: &mut [Lead], sources: &[(u32, u32)]) {
    /// Instructions that are looked at, for each.
    const WINDOW: usize = 256;
    for at in 1..insns.len() {
        if leads.get(at) != Some(&Lead::Loop) || !falls(insns, InsnIdx(at as u32)) {
            continue;
        }
        let Some((_, last)) = sources.get(at) else { continue };
        let inside = sources.get(at + 1..=*last as usize).unwrap_or_default();
        if inside.iter().take(WINDOW).any(|(first, _)| (*first as usize) < at)
            && let Some(lead) = leads.get_mut(at)
        {
            *lead = Lead::Block;
        }
    }
}

/// Whether control comes to `at` from the instruction before it.
pub(super) fn falls(insns: &[Insn], at: InsnIdx) -> bool {
    match at.0.checked_sub(1).and_then(|before| insns.get(before as usize)) {
        Some(Insn::Jump { to, .. }) => *to == 0,
        Some(Insn::Exit) | None => false,
        Some(_) => true,
    }
}

/// Whether a block begins at `at`, which it does behind the last instruction.
pub(super) fn begins(leads: &[Lead], at: InsnIdx) -> bool {
    leads.get(at.index()) != Some(&Lead::No)
}

/// The innermost loop around each instruction, and the whole program where there is none.
pub(super) fn loops(leads: &[Lead], sources: &[(u32, u32)]) -> Vec<(u32, u32, u32)> {
    let mut open = vec![(0, u32::MAX)];
    let around = |(at, (lead, (_, last))): (u32, (&Lead, &(u32, u32)))| {
        while open.len() > 1 && open.last().is_some_and(|(_, last)| *last < at) {
            open.pop();
        }
        if *lead == Lead::Loop && *last >= at {
            open.push((at, *last));
        }
        let (first, last) = open.last().copied().unwrap_or((0, u32::MAX));
        (first, last, open.len() as u32 - 1)
    };
    (0..).zip(leads.iter().zip(sources)).map(around).collect()
}
