//! The log, in the kernel's format, so that existing viewers read it.

use std::fmt::Write;

use rtbpf_isa::{Insn, InsnIdx, Program, Reg, text};

use crate::domain::Scalar;
use crate::state::{Byte, State};
use crate::value::{Kind, Value};
use crate::verified::Stats;

/// Bytes of log that are kept; what comes before is cut.
const MAX_BYTES: usize = 16 << 20;

/// Lines, at a level: bit 0 paths, bit 1 every state.
#[derive(Default)]
pub(crate) struct Log {
    level: u32,
    text: String,
}

impl Log {
    pub fn new(level: u32) -> Log {
        Log { level, text: String::new() }
    }

    pub fn into_text(self) -> String {
        self.text
    }

    /// Whether paths and instructions are logged.
    pub fn wants_paths(&self) -> bool {
        self.level & 3 != 0
    }

    fn line(&mut self, line: std::fmt::Arguments) {
        if self.text.len() > MAX_BYTES {
            let cut = self.text.ceil_char_boundary(MAX_BYTES / 2);
            self.text.drain(..cut);
        }
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "{line}");
    }

    /// A path that was put aside goes on.
    pub fn path(&mut self, from: u32, to: u32, state: &State) {
        let registers = registers(state, |_| true);
        self.line(format_args!("\nfrom {from} to {to}:{registers}"));
    }

    /// The path was covered.
    pub fn safe(&mut self) {
        if self.wants_paths() {
            self.line(format_args!("safe"));
        }
    }

    /// An instruction is executed.
    pub fn insn(&mut self, program: &Program, at: InsnIdx) {
        if !self.wants_paths() {
            return;
        }
        if let Some(line) = program.line(at)
            && (at == InsnIdx(0) || program.line(InsnIdx(at.0 - 1)) != Some(line))
        {
            self.line(format_args!("; {} @ {}:{}", line.text, line.file, line.line));
        }
        let slot = program.slot(at);
        self.line(format_args!("{slot}: {}", text::log(program, at, &text::NoNames)));
    }

    /// The state after an instruction.
    pub fn state_after(&mut self, state: &State, insn: &Insn) {
        if self.level & 2 == 0 {
            return;
        }
        let touched = insn.defs().with(insn.uses());
        let registers = registers(state, |reg| touched.contains(reg));
        if !registers.is_empty() {
            self.line(format_args!(";{registers}"));
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

pub(crate) fn registers(state: &State, shown: impl Fn(Reg) -> bool) -> String {
    let mut text = String::new();
    if state.depth() > 1 {
        let _ = write!(text, " frame{}:", state.current());
    }
    for reg in Reg::ALL {
        let value = state.reg(reg);
        if value.kind != Kind::Uninit && shown(reg) {
            let _ = write!(text, " R{}={}", reg as u8, describe(value));
        }
    }
    for (at, slot) in state.frame().stack.slots() {
        if slot.bytes == [Byte::Invalid; 8] {
            continue;
        }
        let off = -((at as i32 + 1) * 8);
        match slot.spilled() {
            Some(value) => {
                let _ = write!(text, " fp{off}={}", describe(value));
            }
            None => {
                let bytes: String = slot.bytes.iter().rev().map(|b| byte(*b)).collect();
                let _ = write!(text, " fp{off}={bytes}");
            }
        }
    }
    text
}

fn byte(byte: Byte) -> char {
    match byte {
        Byte::Invalid => '?',
        Byte::Misc => 'm',
        Byte::Zero => '0',
        Byte::Spill => 'r',
        Byte::Dynptr => 'd',
        Byte::Iter => 'i',
    }
}

/// A value as the kernel prints it.
pub(crate) fn describe(value: &Value) -> String {
    if value.is_scalar() {
        if let Some(x) = value.num.as_constant() {
            let x = x as i64;
            return if (-1000..1000).contains(&x) { format!("{x}") } else { format!("{x:#x}") };
        }
        let mut parts = Vec::new();
        if value.id != 0 {
            let plus = if value.plus { format!("+{}", value.off) } else { String::new() };
            parts.push(format!("id={}{plus}", value.id));
        }
        bounds(&value.num, &mut parts);
        return format!("scalar({})", parts.join(","));
    }
    let mut parts = Vec::new();
    if value.id != 0 {
        parts.push(format!("id={}", value.id));
    }
    if value.ref_id != 0 {
        parts.push(format!("ref_obj_id={}", value.ref_id));
    }
    if value.off != 0 && !matches!(value.kind, Kind::Stack(_)) {
        parts.push(format!("off={}", value.off));
    }
    match value.kind {
        Kind::Packet(range) | Kind::PacketMeta(range) => parts.push(format!("r={range}")),
        Kind::Mem { size, .. } => parts.push(format!("sz={size}")),
        _ => {}
    }
    if value.num.as_constant() != Some(0) {
        bounds(&value.num, &mut parts);
    }
    let name = value.type_name();
    match value.kind {
        Kind::Stack(_) if parts.is_empty() => format!("fp{}", value.off),
        Kind::PacketEnd => name.to_string() + "()",
        _ => format!("{name}({})", parts.join(",")),
    }
}

fn bounds(num: &Scalar, parts: &mut Vec<String>) {
    if num.smin() != i64::MIN {
        parts.push(format!("smin={}", num.smin()));
    }
    if num.smax() != i64::MAX {
        parts.push(format!("smax={}", num.smax()));
    }
    if num.umin() != 0 {
        parts.push(format!("umin={}", num.umin()));
    }
    if num.umax() != u64::MAX {
        parts.push(format!("umax={}", num.umax()));
    }
    let low = num.low();
    if low.smin() != i32::MIN as i64 && low.smin() != num.smin() {
        parts.push(format!("smin32={}", low.smin()));
    }
    if low.smax() != i32::MAX as i64 && low.smax() != num.smax() {
        parts.push(format!("smax32={}", low.smax()));
    }
    if num.tnum().mask() != u64::MAX {
        parts.push(format!("var_off={}", num.tnum()));
    }
}
