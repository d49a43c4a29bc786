//! Control flow: what can be reached, where paths meet, and which registers are live.

use rtbpf_abi::helper::{self, Arg, HelperId};
use rtbpf_isa::effects::{Flow, RegSet};
use rtbpf_isa::{Callee, Imm64, Insn, InsnIdx, Linkage, Program, Reg};

use crate::reject::{Checked, refuse};

/// What the flow of a program says about each instruction.
#[derive(Clone, Debug, Default)]
pub struct Flows {
    /// States are compared here: jump targets, branches, local calls, functions' first instructions, what
    /// follows a call.
    pub meets: Vec<bool>,
    /// Jumps lead back here.
    pub heads: Vec<bool>,
    /// Registers of the current frame that some path from here reads before it writes them.
    pub live: Vec<RegSet>,
}

/// Checks that every instruction can be reached, and finds out where paths meet.
pub fn flows(program: &Program, back_edges: bool) -> Checked<Flows> {
    let count = program.len();
    let mut meets = vec![false; count];
    let mut heads = vec![false; count];
    let mark = |marks: &mut [bool], at: InsnIdx| {
        if let Some(marked) = marks.get_mut(at.index()) {
            *marked = true;
        }
    };
    for (at, insn) in program.iter() {
        let flow = insn.flow();
        match flow {
            Flow::Next => {
                if let Insn::Call(Callee::Helper(_) | Callee::Kfunc { .. }) = insn {
                    mark(&mut meets, at.next());
                    if is_checkpoint_call(insn) {
                        mark(&mut meets, at);
                    }
                }
            }
            Flow::Jump(to) | Flow::Branch(to) => {
                mark(&mut meets, at.target(to));
                if at.target(to) <= at {
                    mark(&mut heads, at.target(to));
                }
                if matches!(flow, Flow::Branch(_)) {
                    mark(&mut meets, at);
                }
            }
            Flow::Call(to) => [at, at.target(to), at.next()].into_iter().for_each(|at| mark(&mut meets, at)),
            Flow::Exit => {}
        }
    }
    reach(program, back_edges)?;
    Ok(Flows { meets, heads, live: live_registers(program) })
}

/// Calls at which loops converge: those that call back.
fn is_checkpoint_call(insn: &Insn) -> bool {
    match *insn {
        Insn::Call(Callee::Helper(id)) => CALLS_BACK.contains(&id),
        Insn::Call(Callee::Kfunc { .. }) => true,
        _ => false,
    }
}

/// Helpers that run a subprogram of the caller while it waits: for_each_map_elem, find_vma, loop, user_ringbuf_drain.
const CALLS_BACK: [i32; 4] = [164, 180, 181, 209];

#[derive(Clone, Copy, PartialEq)]
enum Color {
    White,
    Open,
    Done,
}

/// Instructions that follow one another, on the path that is looked at.
struct Line {
    first: InsnIdx,
    last: InsnIdx,
    /// Edges of the last one that were followed.
    tried: u8,
}

impl Line {
    /// The line from here to where the path may part, or comes to what it knows.
    fn from(first: InsnIdx, program: &Program, colors: &mut [Color]) -> Line {
        let mut last = first;
        colors[last.index()] = Color::Open;
        while let Some(insn) = program.get(last)
            && let [Some((next, false)), None] = edges(last, insn)
            && let Some(color @ Color::White) = colors.get_mut(next.index())
        {
            *color = Color::Open;
            last = next;
        }
        Line { first, last, tried: 0 }
    }
}

/// Depth first.
fn reach(program: &Program, back_edges: bool) -> Checked {
    let mut colors = vec![Color::White; program.len()];
    if colors.is_empty() {
        return refuse!(FallsThrough, EINVAL, "last insn is not an exit or jmp");
    }
    let mut path = vec![Line::from(InsnIdx(0), program, &mut colors)];
    while let Some(line) = path.last_mut() {
        let at = line.last;
        let edges = program.get(at).map_or([None; 2], |insn| edges(at, insn));
        let edge = edges.get(line.tried as usize).copied().flatten();
        line.tried += 1;
        match edge {
            Some((to, is_jump)) => match colors.get(to.index()) {
                Some(Color::White) => {
                    let line = Line::from(to, program, &mut colors);
                    path.push(line);
                }
                Some(Color::Open) if is_jump && !back_edges => {
                    let (from, to) = (program.slot(at), program.slot(to));
                    return refuse!(InfiniteLoop, EINVAL, "back-edge from insn {from} to {to}");
                }
                Some(Color::Open | Color::Done) => {}
                None => return refuse!(FallsThrough, EINVAL, "jump out of range from insn {} to {}", at, to),
            },
            None if line.tried > 2 => {
                colors[line.first.index()..=at.index()].fill(Color::Done);
                path.pop();
            }
            None => {}
        }
    }
    match colors.iter().position(|&color| color == Color::White) {
        Some(at) => {
            let slot = program.slot(InsnIdx(at as u32));
            refuse!(Unreachable, EINVAL, "unreachable insn {slot}")
        }
        None => Ok(()),
    }
}

/// Where an instruction leads, and whether that is a jump.
fn edges(at: InsnIdx, insn: &Insn) -> [Option<(InsnIdx, bool)>; 2] {
    let next = Some((at.next(), false));
    match insn.flow() {
        Flow::Next => match insn {
            Insn::Imm { value: Imm64::Func { to }, .. } => [next, Some((at.target(*to), false))],
            _ => [next, None],
        },
        Flow::Jump(to) => [Some((at.target(to), true)), None],
        Flow::Branch(to) => [next, Some((at.target(to), true))],
        Flow::Call(to) => [next, Some((at.target(to), false))],
        Flow::Exit => [None, None],
    }
}

/// Backward fix point: `live(i) = uses(i) ∪ (⋃ live(successors) ∖ defs(i))`.
///
/// An instruction is looked at again when one that it depends on grew, which happens at most once a register: the work
/// is linear in the program, however its jumps are laid out.
fn live_registers(program: &Program) -> Vec<RegSet> {
    let mut live = vec![RegSet::EMPTY; program.len()];
    let mut goes_back = false;
    for index in (0..program.len() as u32).rev() {
        let at = InsnIdx(index);
        goes_back |= program.get(at).and_then(Insn::relative_target).is_some_and(|to| to < 0);
        live[at.index()] = live_before(program, at, &live);
    }
    // Without a way back, what an instruction depends on was looked at before it.
    if !goes_back {
        return live;
    }
    let dependents = Dependents::of(program);
    let mut waiting = vec![true; program.len()];
    let mut queue: Vec<u32> = (0..program.len() as u32).collect();
    while let Some(index) = queue.pop() {
        let at = InsnIdx(index);
        waiting[at.index()] = false;
        let new = live_before(program, at, &live);
        if live[at.index()] == new {
            continue;
        }
        live[at.index()] = new;
        for &dependent in dependents.on(at) {
            if !std::mem::replace(&mut waiting[dependent as usize], true) {
                queue.push(dependent);
            }
        }
    }
    live
}

/// Live registers before an instruction, by those of the instructions that may follow.
fn live_before(program: &Program, at: InsnIdx, live: &[RegSet]) -> RegSet {
    let Some(insn) = program.get(at) else { return RegSet::EMPTY };
    let from = |to: InsnIdx| live.get(to.index()).copied().unwrap_or_default();
    let out = successors(at, insn).into_iter().flatten().fold(RegSet::EMPTY, |all, to| all.with(from(to)));
    uses(program, at, insn, live).with(out.without(insn.defs()))
}

/// For each instruction, those whose live registers follow from its own: predecessors, and calls of what begins there.
struct Dependents {
    /// Where each instruction's list begins.
    first: Vec<u32>,
    all: Vec<u32>,
}

impl Dependents {
    fn of(program: &Program) -> Dependents {
        let edges = || {
            program.iter().flat_map(|(at, insn)| {
                let callee = match insn.flow() {
                    Flow::Call(to) => Some(at.target(to)),
                    Flow::Next | Flow::Jump(_) | Flow::Branch(_) | Flow::Exit => None,
                };
                successors(at, insn).into_iter().flatten().chain(callee).map(move |to| (at.0, to))
            })
        };
        let mut first = vec![0u32; program.len() + 1];
        for (_, to) in edges() {
            if let Some(count) = first.get_mut(to.index()) {
                *count += 1;
            }
        }
        let mut total = 0;
        for count in &mut first {
            total += *count;
            *count = total;
        }
        // Each list is filled from its end: afterwards `first` holds where it begins.
        let mut all = vec![0u32; total as usize];
        for (from, to) in edges() {
            if let Some(place) = first.get_mut(to.index()).filter(|_| to.index() < program.len()) {
                *place -= 1;
                all[*place as usize] = from;
            }
        }
        Dependents { first, all }
    }

    fn on(&self, at: InsnIdx) -> &[u32] {
        let range = self.first[at.index()] as usize..self.first[at.index() + 1] as usize;
        self.all.get(range).unwrap_or_default()
    }
}

fn successors(at: InsnIdx, insn: &Insn) -> [Option<InsnIdx>; 2] {
    match insn.flow() {
        Flow::Next | Flow::Call(_) => [Some(at.next()), None],
        Flow::Jump(to) => [Some(at.target(to)), None],
        Flow::Branch(to) => [Some(at.next()), Some(at.target(to))],
        Flow::Exit => [None, None],
    }
}

/// What an instruction reads; a call, as many arguments as its callee has, or may be asked for by its types.
fn uses(program: &Program, at: InsnIdx, insn: &Insn, live: &[RegSet]) -> RegSet {
    match *insn {
        // A bad field may name any register.
        Insn::Bad { .. } => RegSet(u16::MAX),
        Insn::Call(Callee::Helper(id)) => {
            let rows = helper::rows_of(HelperId(id as u32));
            let args = rows.iter().map(|row| row.args.iter().filter(|arg| **arg != Arg::None).count()).max();
            let args = args.unwrap_or(Reg::ARGS.len());
            Reg::ARGS[..args].iter().fold(RegSet::EMPTY, |all, &reg| all.with(RegSet::of(reg)))
        }
        Insn::Call(Callee::Local { to }) => {
            let callee = program.subprogs().get(program.subprog_at(at.target(to)));
            if callee.is_some_and(|callee| callee.linkage == Linkage::Global) {
                return RegSet::ARGS;
            }
            let entry = live.get(at.target(to).index()).copied().unwrap_or_default();
            RegSet(entry.0 & RegSet::ARGS.0)
        }
        _ => insn.uses().without(RegSet::of(Reg::FP)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn live(text: &str) -> Vec<u16> {
        let slots = rtbpf_isa::asm::assemble(text).unwrap().slots;
        live_registers(&rtbpf_isa::decode(&slots).unwrap()).iter().map(|set| set.0).collect()
    }

    #[test]
    fn registers_live_until_their_last_read() {
        assert_eq!(live("r0 = r1\n r0 += r2\n exit"), [0b110, 0b101, 0b1]);
        assert_eq!(live("again:\n r1 += -1\n if r1 != 0 goto again\n r0 = r3\n exit"), [0b1010, 0b1010, 0b1000, 0b1]);
    }

    #[test]
    fn calls_read_what_their_callees_take() {
        // map_lookup_elem takes two arguments; f reads its second.
        assert_eq!(live("call 1\n exit")[0], 0b110);
        assert_eq!(live("call f\n exit\nf:\n r0 = r2\n exit")[0], 0b100);
    }
}
