//! The log, in the kernel's format, so that existing viewers read it.
//!
//! ```text
//!  0: R1=ctx() R10=fp0                            where a path begins
//!  0: (b7) r0 = 0                        ; R0=0   an instruction, and what it touched afterwards
//!  from 4 to 11: R0=0 …                           level 2: a path that was put aside goes on
//! ```
//!
//! At level 1 what a finished path logged is taken back: what stays leads to the rejection.

mod print;

use std::fmt::Write;

use rtbpf_abi::MapSpec;
use rtbpf_abi::helper::{self, HelperId};
use rtbpf_isa::{Callee, Insn, InsnIdx, Program, Reg, text};

use crate::state::{Frame, SLOT_BYTES, Slot, Stack, State};
use crate::value::Kind;
use crate::verified::{Assumptions, Stats};

/// Bytes of log that are kept; what comes before is cut.
const MAX_BYTES: usize = 16 << 20;

/// What stands before the next instruction.
#[derive(Clone, Copy)]
enum Before {
    /// Nothing: it follows the last one.
    Nothing,
    /// Its state: a function begins.
    State,
    /// Where the path was put aside, and its state.
    Path(InsnIdx),
    /// The exit that led here, and its state.
    Return(InsnIdx),
}

/// A place in the log to go back to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Mark(usize);

/// Lines, at a level: bit 0 paths, bit 1 every state.
pub(crate) struct Log<'a> {
    level: u32,
    program: &'a Program,
    given: &'a Assumptions,
    text: String,
    /// Bytes that were cut.
    cut: usize,
    before: Before,
    /// What the last instruction touched: printed when the next one is walked.
    touched: String,
    /// Slots of the current frame that the instruction overwrites beside what it says, a bit each.
    overwritten: u64,
}

impl<'a> Log<'a> {
    pub fn new(level: u32, program: &'a Program, given: &'a Assumptions) -> Log<'a> {
        let mut log = Log {
            level,
            program,
            given,
            text: String::new(),
            cut: 0,
            before: Before::State,
            touched: String::new(),
            overwritten: 0,
        };
        if log.wants_states() {
            for (index, subprog) in program.subprogs().iter().enumerate() {
                log.line(format_args!("func#{index} @{}", program.slot(subprog.start)));
            }
        }
        log
    }

    pub fn take_text(&mut self) -> String {
        std::mem::take(&mut self.text)
    }

    /// Whether anything is logged on the way.
    pub fn wants_paths(&self) -> bool {
        self.level & 3 != 0
    }

    fn wants_states(&self) -> bool {
        self.level & 2 != 0
    }

    fn line(&mut self, line: std::fmt::Arguments) {
        if self.text.len() > MAX_BYTES {
            let cut = self.text.ceil_char_boundary(MAX_BYTES / 2);
            self.text.drain(..cut);
            self.cut += cut;
        }
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "{line}");
    }

    fn registers(&self, state: &State) -> String {
        registers(state, &self.given.maps)
    }

    /// The end of what was logged.
    pub fn mark(&self) -> Mark {
        Mark(self.cut + self.text.len())
    }

    /// A path ended well; the next one left its own at `mark`.
    pub fn rewind(&mut self, mark: Mark) {
        if self.level & 3 == 1 {
            self.forget(mark);
        }
    }

    /// What was logged since `mark` is walked again.
    pub fn forget(&mut self, mark: Mark) {
        self.text.truncate(mark.0.saturating_sub(self.cut));
    }

    /// A function begins.
    pub fn begin(&mut self) {
        self.before = Before::State;
    }

    /// The path goes on that was put aside at `from`.
    pub fn path(&mut self, from: InsnIdx) {
        self.before = Before::Path(from);
    }

    /// The instruction at `at` is next, in `state`; if `covered`, an older state holds it.
    pub fn arrive(&mut self, at: InsnIdx, state: &State, covered: bool) {
        let slot = self.program.slot(at);
        let before = std::mem::replace(&mut self.before, Before::Nothing);
        let states = self.wants_states();
        let touched = std::mem::take(&mut self.touched);
        match before {
            Before::Path(from) | Before::Return(from) if covered && states => {
                return self.line(format_args!("\nfrom {} to {slot}: safe", self.program.slot(from)));
            }
            _ if covered => return self.line(format_args!("{slot}: safe")),
            Before::Nothing => return self.behind(&touched),
            Before::Return(_) if !states => return,
            Before::State | Before::Path(_) | Before::Return(_) => {}
        }
        let registers = self.registers(state);
        if let (Before::Path(from) | Before::Return(from), true) = (before, states) {
            self.line(format_args!("\nfrom {} to {slot}:{registers}", self.program.slot(from)));
        }
        if !matches!(before, Before::Return(_)) {
            self.line(format_args!("{slot}:{registers}"));
        }
    }

    /// The current instruction overwrites slot `at` of the current frame, beside what its fields say.
    pub fn overwrites(&mut self, at: usize) {
        self.overwritten |= 1 << at;
    }

    /// The instruction at `at` is carried out.
    pub fn insn(&mut self, at: InsnIdx) {
        self.overwritten = 0;
        let program = self.program;
        if let Some(line) = program.line(at)
            && (at == InsnIdx(0) || program.line(InsnIdx(at.0 - 1)) != Some(line))
        {
            self.line(format_args!("; {} @ {}:{}", line.text, line.file, line.line));
        }
        self.line(format_args!("{}: {}", program.slot(at), text::log(program, at, self.given)));
    }

    /// What `insn` read and wrote, as it is afterwards, behind its text.
    pub fn after(&mut self, before: &State, state: &State, insn: &Insn) {
        if before.depth() != state.depth() || matches!(insn, Insn::Exit | Insn::Call(Callee::Local { .. })) {
            return;
        }
        let touched = insn.defs().with(insn.uses());
        let slots = touched_slots(before, state.frame(), insn) | self.overwritten;
        let all = matches!(insn, Insn::Call(_)) && Reg::ARGS.iter().any(|reg| is_callback(before, *reg));
        self.touched = print::registers(
            state,
            &self.given.maps,
            |reg| all || touched.contains(reg),
            |at| all || slots >> at & 1 != 0,
        );
        if matches!(insn, Insn::Branch { .. }) {
            let touched = std::mem::take(&mut self.touched);
            self.behind(&touched);
        }
    }

    /// Prints what an instruction touched behind its text.
    fn behind(&mut self, touched: &str) {
        if !touched.is_empty() && self.text.ends_with('\n') {
            self.text.pop();
            // Columns as the kernel counts them, with the end of the line.
            let column = self.text.len() - self.text.rfind('\n').map_or(0, |at| at + 1) + 1;
            let width = print::STATE_COLUMN.max(column + 4).next_multiple_of(8) - column - 1;
            self.line(format_args!("{:width$};{touched}", ""));
        }
    }

    /// A call of a subprogram made a frame.
    pub fn call(&mut self, state: &State) {
        self.before = Before::State;
        if self.wants_paths() {
            let mut caller = state.clone();
            caller.pop();
            let (caller, callee) = (self.registers(&caller), self.registers(state));
            self.line(format_args!("caller:\n{caller}\ncallee:\n{callee}"));
        }
    }

    /// The exit at `from` leaves a frame; `state` was before it, `left` is what goes on at `to`.
    pub fn leave(&mut self, from: InsnIdx, state: &State, to: InsnIdx, left: &State) {
        self.before = Before::Return(from);
        if self.wants_paths() {
            let (callee, caller, to) = (self.registers(state), self.registers(left), self.program.slot(to));
            self.line(format_args!("returning from callee:\n{callee}\nto caller at {to}:\n{caller}"));
        }
    }
}

/// The last line of a log.
pub(crate) fn summary(stats: &Stats) -> String {
    format!(
        "processed {} insns (limit 1000000) max_states_per_insn {} total_states {} peak_states {} mark_read 0\n",
        stats.processed, stats.max_states_per_insn, stats.states, stats.peak_states
    )
}

/// Everything that a state knows of its current frame.
pub(crate) fn registers(state: &State, maps: &[std::sync::Arc<MapSpec>]) -> String {
    print::registers(state, maps, |_| true, |_| true)
}

fn is_callback(state: &State, reg: Reg) -> bool {
    matches!(state.reg(reg).kind, Kind::Func(_))
}

/// Names of helpers, as the log and every command print them.
pub struct HelperNames;

impl text::Names for HelperNames {
    fn helper(&self, id: i32) -> Option<&str> {
        helper::name(HelperId(u32::try_from(id).ok()?))
    }
}

/// The slots of the current frame that `insn` read or wrote, a bit each.
fn touched_slots(before: &State, after: &Frame, insn: &Insn) -> u64 {
    let accessed = match *insn {
        Insn::Load { size, base, off, .. } | Insn::LoadAcquire { size, base, off, .. } => {
            accessed(before, base, off, size.bytes())
        }
        Insn::Store { size, base, off, .. } | Insn::StoreRelease { size, base, off, .. } => {
            accessed(before, base, off, size.bytes() + spread(before, base))
        }
        Insn::Atomic { width, base, off, .. } => accessed(before, base, off, width.size().bytes()),
        Insn::Call(_) => return Reg::ARGS.iter().fold(0, |slots, &reg| slots | objects(before, after, reg)),
        Insn::Alu { .. }
        | Insn::MovSx { .. }
        | Insn::Neg { .. }
        | Insn::Swap { .. }
        | Insn::AddrCast { .. }
        | Insn::Imm { .. }
        | Insn::Packet { .. }
        | Insn::Jump { .. }
        | Insn::Branch { .. }
        | Insn::MayGoto { .. }
        | Insn::Exit
        | Insn::Bad { .. } => return 0,
    };
    let same = |a: &Slot, b: &Slot| a.bytes == b.bytes && a.value == b.value;
    let changed = before.frame().stack.pairs(&after.stack).filter(|(.., shared)| !shared);
    changed.fold(accessed, |slots, (first, old, new, _)| {
        let differ = old.iter().zip(new).enumerate().filter(|(_, (old, new))| !same(old, new));
        differ.fold(slots, |slots, (at, _)| slots | 1 << (first + at))
    })
}

/// The slots of a dynptr or iterator that an argument points at, or pointed at.
fn objects(before: &State, after: &Frame, reg: Reg) -> u64 {
    let frame = before.frame();
    let is_object = |at: usize| [frame, after].iter().any(|f| f.stack.slot(at).is_some_and(Slot::is_object));
    let slots = accessed(before, reg, 0, 2 * SLOT_BYTES as u32);
    (0..Stack::SLOTS).filter(|&at| slots >> at & 1 != 0 && is_object(at)).fold(0, |slots, at| slots | 1 << at)
}

/// Bytes between the first place that a pointer may have and the last one; 0 where that is beyond any stack.
fn spread(state: &State, base: Reg) -> u32 {
    let num = state.reg(base).num;
    let bytes = num.smax().wrapping_sub(num.smin());
    u32::try_from(bytes).ok().filter(|&bytes| bytes < rtbpf_abi::limits::STACK_BYTES).unwrap_or(0)
}

/// The slots under `size` bytes at a pointer into the current frame's stack.
fn accessed(state: &State, base: Reg, off: i16, size: u32) -> u64 {
    let pointer = state.reg(base);
    let Kind::Stack(frame) = pointer.kind else { return 0 };
    let fixed = i64::from(pointer.off).wrapping_add(i64::from(off));
    let low = fixed.wrapping_add(pointer.num.smin());
    let end = low.wrapping_add(i64::from(size));
    let is_inside = low >= -(Stack::SLOTS as i64) * i64::from(SLOT_BYTES) && end <= 0;
    if frame != state.current() || !is_inside {
        return 0;
    }
    let (first, last) = (Stack::locate(end as i32 - 1).0, Stack::locate(low as i32).0);
    (first..=last).fold(0, |slots, at| slots | 1 << at)
}
