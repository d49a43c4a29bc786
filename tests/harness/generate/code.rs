//! Instructions under construction: jumps name labels, and distances are found at the end.

use rtbpf_isa::encode::encode_one;
use rtbpf_isa::{AluOp, Callee, CmpOp, Imm64, Insn, MapBy, MapIdx, Operand, RawInsn, Reg, Size, Width};

/// A place in the code, bound once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Label(usize);

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Code {
    insns: Vec<(Insn, Option<Label>)>,
    labels: Vec<Option<usize>>,
}

impl Code {
    /// How many instructions so far.
    pub fn len(&self) -> usize {
        self.insns.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.insns.is_empty()
    }

    /// A label to be bound later.
    pub fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// Binds `label` to the next instruction.
    pub fn bind(&mut self, label: Label) {
        self.labels[label.0] = Some(self.insns.len());
    }

    /// A label at the next instruction.
    pub fn here(&mut self) -> Label {
        let label = self.label();
        self.bind(label);
        label
    }

    /// Appends an instruction without a target.
    pub fn push(&mut self, insn: Insn) {
        self.insns.push((insn, None));
    }

    /// Appends an instruction whose target is `label`.
    pub fn push_to(&mut self, insn: Insn, label: Label) {
        self.insns.push((insn, Some(label)));
    }

    /// `dst = dst op src`, 64 bits.
    pub fn alu(&mut self, op: AluOp, dst: Reg, src: impl Into<Source>) {
        self.push(Insn::Alu { op, width: Width::W64, dst, src: src.into().0 });
    }

    /// `dst = src`, 64 bits.
    pub fn mov(&mut self, dst: Reg, src: impl Into<Source>) {
        self.alu(AluOp::Mov, dst, src);
    }

    /// `dst = *(size *)(base + off)`.
    pub fn load(&mut self, size: Size, dst: Reg, base: Reg, off: i16) {
        self.push(Insn::Load { size, signed: false, dst, base, off });
    }

    /// `*(size *)(base + off) = src`.
    pub fn store(&mut self, size: Size, base: Reg, off: i16, src: impl Into<Source>) {
        self.push(Insn::Store { size, base, off, src: src.into().0 });
    }

    /// `if lhs op rhs goto label`, 64 bits.
    pub fn branch(&mut self, op: CmpOp, lhs: Reg, rhs: impl Into<Source>, label: Label) {
        self.push_to(Insn::Branch { op, width: Width::W64, lhs, rhs: rhs.into().0, to: 0 }, label);
    }

    /// `goto label`.
    pub fn jump(&mut self, label: Label) {
        self.push_to(Insn::Jump { to: 0, long: false }, label);
    }

    /// `call helper`.
    pub fn call(&mut self, id: u32) {
        self.push(Insn::Call(Callee::Helper(id as i32)));
    }

    /// `dst = map`.
    pub fn map(&mut self, dst: Reg, map: usize) {
        self.push(Insn::Imm { dst, value: Imm64::Map { map: MapIdx(map as u32), by: MapBy::Fd } });
    }

    /// `dst = address of byte `off` of the map's value`.
    pub fn map_value(&mut self, dst: Reg, map: usize, off: u32) {
        self.push(Insn::Imm { dst, value: Imm64::MapValue { map: MapIdx(map as u32), off, by: MapBy::Fd } });
    }

    /// `dst = value`, as the shortest instruction that holds it.
    pub fn constant(&mut self, dst: Reg, value: u64) {
        match i32::try_from(value as i64) {
            Ok(imm) => self.mov(dst, imm),
            Err(_) => self.push(Insn::Imm { dst, value: Imm64::Const([value as u32, (value >> 32) as u32]) }),
        }
    }

    /// The slots. `None` when a label is unbound or a distance does not fit its field.
    pub fn assemble(&self) -> Option<Vec<RawInsn>> {
        let mut slots = Vec::with_capacity(self.insns.len() + 1);
        let mut slot = 0i32;
        for (insn, _) in &self.insns {
            slots.push(slot);
            slot += insn.slots() as i32;
        }
        slots.push(slot);
        let mut out = Vec::with_capacity(slot as usize);
        for (at, (insn, label)) in self.insns.iter().enumerate() {
            let to = match label {
                // Callback references count from their first slot, as jumps do.
                Some(label) => slots[self.labels[label.0]?] - slots[at] - 1,
                None => 0,
            };
            let (first, second) = encode_one(insn, to)?;
            out.push(first);
            out.extend(second);
        }
        Some(out)
    }
}

/// A register or an immediate, whichever the caller has.
#[derive(Clone, Copy, Debug)]
pub struct Source(pub Operand);

impl From<Reg> for Source {
    fn from(reg: Reg) -> Source {
        Source(Operand::Reg(reg))
    }
}

impl From<i32> for Source {
    fn from(imm: i32) -> Source {
        Source(Operand::Imm(imm))
    }
}

impl From<Operand> for Source {
    fn from(operand: Operand) -> Source {
        Source(operand)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_count_slots() {
        let mut code = Code::default();
        let out = code.label();
        code.branch(CmpOp::Eq, Reg::R1, 0, out);
        code.constant(Reg::R0, 1 << 40);
        code.bind(out);
        code.push(Insn::Exit);
        let slots = code.assemble().unwrap();
        assert_eq!((slots.len(), slots[0].off), (4, 2));
    }

    #[test]
    fn an_unbound_label_has_no_code() {
        let mut code = Code::default();
        let nowhere = code.label();
        code.jump(nowhere);
        assert_eq!(code.assemble(), None);
    }
}
