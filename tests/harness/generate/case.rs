//! A generated program with its maps and inputs: what every oracle takes, and one line of the batch format.

use std::collections::BTreeSet;
use std::fmt::Write;

use rtbpf_abi::{AttachType, MapKind, MapSpec, ProgKind, ProgRules, ProgType};
use rtbpf_isa::{Callee, Imm64, Insn, Program, RawInsn, asm, decode};

/// A map of a case, with what it holds before each run.
#[derive(Clone, Debug, PartialEq)]
pub struct CaseMap {
    /// Its attributes.
    pub spec: MapSpec,
    /// Keys and values.
    pub init: Vec<(Vec<u8>, Vec<u8>)>,
}

impl CaseMap {
    /// An empty map.
    pub fn new(kind: MapKind, key_size: u32, value_size: u32, max_entries: u32) -> CaseMap {
        CaseMap { spec: MapSpec::new(kind, key_size, value_size, max_entries), init: Vec::new() }
    }
}

/// One program with its surroundings. Maps are named in the instructions by index.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// Says where it comes from: generator and seed.
    pub name: String,
    /// Kind of program.
    pub kind: ProgKind,
    /// Load flags.
    pub prog_flags: u32,
    /// The instructions.
    pub insns: Vec<RawInsn>,
    /// The maps.
    pub maps: Vec<CaseMap>,
    /// Subprograms are described by BTF, as callbacks and tail calls in subprograms need.
    pub typed: bool,
    /// Packets to run it on; empty where the answer depends on clock or chance, or no engine can run the kind.
    pub packets: Vec<Vec<u8>>,
}

/// What a program contains; campaigns print the shares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Instructions.
    pub insns: usize,
    /// A register is added to a pointer that is then accessed.
    pub variable_offset: bool,
    /// It calls helpers.
    pub helpers: bool,
    /// It jumps backwards or has callbacks.
    pub loops: bool,
    /// It spills registers to its stack.
    pub spills: bool,
    /// It has subprograms.
    pub subprogs: bool,
    /// It has atomic operations.
    pub atomics: bool,
}

/// A generated text's instructions, as cases name maps in them, and the maps' names. Numbers behind a `+` may be negative.
///
/// Fails with the assembler's words and the text.
pub fn assemble(text: &str) -> Result<(Vec<RawInsn>, Vec<String>), String> {
    let text = text.replace("+ -", "- ").replace("+-", "-");
    let assembly = asm::assemble(&text).map_err(|error| format!("{error}\n{text}"))?;
    let mut insns = assembly.slots;
    let mut second = false;
    for insn in &mut insns {
        // Maps are named by descriptor, as cases do it.
        if !second && insn.code == 0x18 && matches!(insn.src, 5 | 6) {
            insn.src -= 4;
        }
        second = !second && insn.code == 0x18;
    }
    Ok((insns, assembly.maps))
}

impl Case {
    /// Program type.
    pub fn prog_type(&self) -> ProgType {
        self.kind.prog_type()
    }

    /// Expected attach type.
    pub fn attach_type(&self) -> Option<AttachType> {
        let of_type = || ProgRules::of(self.prog_type()).and_then(|rules| rules.attach.first());
        self.kind.attach_types().first().or_else(of_type).copied()
    }

    /// Slots whose immediate names a map by index, with that index.
    pub fn fixups(&self) -> Vec<(usize, usize)> {
        let mut found = Vec::new();
        let mut slot = 0;
        while let Some(raw) = self.insns.get(slot) {
            let wide = rtbpf_isa::raw::is_wide(raw.code);
            if wide && matches!(raw.src, 1 | 2) && (raw.imm as usize) < self.maps.len() {
                found.push((slot, raw.imm as usize));
            }
            slot += if wide { 2 } else { 1 };
        }
        found
    }

    /// The helpers that it calls, each once.
    pub fn helpers(&self) -> BTreeSet<i32> {
        let Ok(program) = decode(&self.insns) else { return BTreeSet::new() };
        let id = |insn: &Insn| if let Insn::Call(Callee::Helper(id)) = *insn { Some(id) } else { None };
        program.insns().iter().filter_map(id).collect()
    }

    /// Whether some instruction calls helper `id`.
    pub fn calls(&self, id: i32) -> bool {
        self.helpers().contains(&id)
    }

    /// What it contains; nothing for slots that do not decode.
    pub fn features(&self) -> Features {
        let Ok(program) = decode(&self.insns) else { return Features::default() };
        features(&program)
    }

    /// As one line of the batch format.
    pub fn line(&self) -> String {
        let mut out = String::new();
        let attach = self.attach_type().map_or(0, AttachType::number);
        let _ = write!(
            out,
            r#"{{"name":"{}","prog_type":"{}","attach_type":{attach},"prog_flags":{},"license":"GPL","insns":"{}","#,
            self.name,
            self.prog_type().name(),
            self.prog_flags | if self.kind.is_sleepable() { 16 } else { 0 },
            hex(&self.bytes()),
        );
        let maps = self.maps.iter().map(|map| {
            let spec = &map.spec;
            let init = map.init.iter().map(|(key, value)| format!(r#"["{}","{}"]"#, hex(key), hex(value)));
            format!(
                r#"{{"type":"{}","key_size":{},"value_size":{},"max_entries":{},"flags":{},"init":[{}]}}"#,
                spec.kind.name(),
                spec.key_size,
                spec.value_size,
                spec.max_entries,
                spec.flags,
                init.collect::<Vec<_>>().join(","),
            )
        });
        let fixups = self.fixups().into_iter().map(|(slot, map)| format!("[{slot},{map}]"));
        let runs = self.packets.iter().map(|packet| format!(r#"{{"data_in":"{}"}}"#, hex(packet)));
        let _ = write!(
            out,
            r#""maps":[{}],"fixups":[{}],"runs":[{}]}}"#,
            maps.collect::<Vec<_>>().join(","),
            fixups.collect::<Vec<_>>().join(","),
            runs.collect::<Vec<_>>().join(","),
        );
        out
    }

    /// The instructions as bytes.
    pub fn bytes(&self) -> Vec<u8> {
        self.insns.iter().flat_map(|raw| raw.to_le_bytes()).collect()
    }

    /// The instructions as text, one a line with its slot; what does not decode as hexadecimal slots.
    pub fn listing(&self) -> String {
        let mut out = String::new();
        match decode(&self.insns) {
            Ok(program) => {
                for (at, _) in program.iter() {
                    let text = rtbpf_isa::text::plain(&program, at, &rtbpf_isa::text::NoNames);
                    let _ = writeln!(out, "{:4}: {text}", program.slot(at));
                }
            }
            Err(_) => {
                for (slot, raw) in self.insns.iter().enumerate() {
                    let _ = writeln!(out, "{slot:4}: {}", hex(&raw.to_le_bytes()));
                }
            }
        }
        out
    }
}

fn features(program: &Program) -> Features {
    let mut features = Features { insns: program.len(), subprogs: program.subprogs().len() > 1, ..Features::default() };
    let mut moved = rtbpf_isa::effects::RegSet::EMPTY;
    for (_, insn) in program.iter() {
        match *insn {
            Insn::Call(Callee::Helper(id)) => {
                features.helpers = true;
                features.loops |= matches!(id, 164 | 181);
            }
            Insn::Alu { op: rtbpf_isa::AluOp::Add, width: rtbpf_isa::Width::W64, dst, src } => {
                if matches!(src, rtbpf_isa::Operand::Reg(_)) {
                    moved = moved.with(rtbpf_isa::effects::RegSet::of(dst));
                }
            }
            Insn::Atomic { .. } | Insn::LoadAcquire { .. } | Insn::StoreRelease { .. } => features.atomics = true,
            Insn::Store { size: rtbpf_isa::Size::D, base: rtbpf_isa::Reg::R10, src, .. } => {
                features.spills |= matches!(src, rtbpf_isa::Operand::Reg(_));
            }
            Insn::Imm { value: Imm64::Func { .. }, .. } => features.loops = true,
            _ => {}
        }
        if let Some(memory) = insn.memory() {
            features.variable_offset |= moved.contains(memory.base);
        }
        let backwards = insn.relative_target().is_some_and(|to| to < 0);
        features.loops |= backwards && !matches!(insn, Insn::Call(_));
    }
    features
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_maps_by_fixup() {
        let wide = RawInsn { code: 0x18, dst: 1, src: 1, off: 0, imm: 0 };
        let exit = RawInsn { code: 0x95, ..RawInsn::default() };
        let mut map = CaseMap::new(MapKind::Array, 4, 8, 1);
        map.init.push((vec![0; 4], vec![1; 8]));
        let case = Case {
            name: "t".into(),
            kind: ProgKind::Xdp,
            prog_flags: 0,
            insns: vec![wide, RawInsn::default(), exit],
            maps: vec![map],
            typed: false,
            packets: vec![vec![0xab; 2]],
        };
        let expected = concat!(
            r#"{"name":"t","prog_type":"xdp","attach_type":0,"prog_flags":0,"license":"GPL","#,
            r#""insns":"181100000000000000000000000000009500000000000000","#,
            r#""maps":[{"type":"array","key_size":4,"value_size":8,"max_entries":1,"flags":0,"#,
            r#""init":[["00000000","0101010101010101"]]}],"fixups":[[0,0]],"runs":[{"data_in":"abab"}]}"#
        );
        assert_eq!(case.line(), expected);
    }
}
