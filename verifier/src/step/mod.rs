//! What each instruction does to the state of a path. One file a family.

mod alu;
mod branch;
mod exit;
pub(crate) mod mem;
mod packet;
mod ptr_alu;

use rtbpf_isa::{BadField, BadFlow, Callee, Insn, InsnIdx, Reg};

use crate::explore::{Next, Walk};
use crate::reject::{Checked, refuse};

impl Walk<'_> {
    /// Executes `insn` on the current state.
    pub(crate) fn step(&mut self, at: InsnIdx, insn: &Insn) -> Checked<Next> {
        if let Some(facts) = self.facts.insns.get_mut(at.index()) {
            self.first_visit = facts.unreached;
            facts.unreached = false;
        }
        match *insn {
            Insn::Alu { op, width, dst, src } => self.alu(op, width, dst, src)?,
            Insn::MovSx { width, from, dst, src } => self.move_sx(width, from, dst, src)?,
            Insn::Neg { width, dst } => self.neg(width, dst)?,
            Insn::Swap { kind, size, dst } => self.swap(kind, size, dst)?,
            Insn::AddrCast { dst, src, .. } => self.addr_cast(dst, src)?,
            Insn::Imm { dst, value } => self.wide_load(dst, value)?,
            Insn::Load { size, signed, dst, base, off } => self.load(size, signed, dst, base, off)?,
            Insn::Store { size, base, off, src } => self.store(size, base, off, src)?,
            Insn::Atomic { op, fetch, width, base, off, src } => self.atomic(op, fetch, width, base, off, src)?,
            Insn::LoadAcquire { size, dst, base, off } => self.load_acquire(size, dst, base, off)?,
            Insn::StoreRelease { size, base, off, src } => self.store_release(size, base, off, src)?,
            Insn::Packet { size, index, .. } => self.packet_load(size, index)?,
            Insn::Jump { to, .. } => {
                self.count_jump();
                return Ok(Next::Go(at.target(to)));
            }
            Insn::Branch { op, width, lhs, rhs, to } => {
                self.count_jump();
                return self.branch(op, width, lhs, rhs, at.target(to));
            }
            Insn::MayGoto { to } => {
                self.count_jump();
                return self.may_goto(at.target(to));
            }
            Insn::Call(callee) => {
                self.count_jump();
                return match callee {
                    Callee::Helper(id) => self.call_helper(id),
                    Callee::Local { to } => self.call_local(at.target(to)),
                    Callee::Kfunc { btf_id, module } => self.call_kfunc(btf_id, module),
                    Callee::Reg(_) => refuse!(BadField, EINVAL, "unknown opcode 8d"),
                };
            }
            Insn::Exit => {
                self.count_jump();
                return self.exit();
            }
            Insn::Bad { why, flow } => return self.bad(at, why, flow),
        }
        Ok(Next::Go(at.next()))
    }

    fn bad(&self, at: InsnIdx, why: BadField, flow: BadFlow) -> Checked<Next> {
        let raw = self.program.raw(at).first().copied().unwrap_or_default();
        let family = match raw.code & 0x07 {
            0x00 if raw.code == 0x18 => "BPF_LD_IMM64",
            0x00 => "BPF_LD_[ABS|IND]",
            0x01 => "BPF_LDX",
            0x02 => "BPF_ST",
            0x03 => "BPF_STX",
            0x04 | 0x07 => match raw.code & 0xf0 {
                0x80 => "BPF_NEG",
                0xb0 => "BPF_MOV",
                0xd0 => "BPF_END",
                _ => "BPF_ALU",
            },
            _ => match raw.code & 0xf0 {
                0x00 => "BPF_JA",
                0x80 => "BPF_CALL",
                0x90 => "BPF_EXIT",
                _ => "BPF_JMP/JMP32",
            },
        };
        // Linux looks at some operands before it looks at the fields.
        let (dst, src) = (Reg::new(raw.dst), Reg::new(raw.src));
        let is_branch = matches!(flow, BadFlow::Branch(_));
        let class = raw.code & 0x07;
        let reads_src = match class {
            0x01 | 0x03 => true,
            // Negations and byte swaps have one operand.
            0x04 | 0x07 => raw.code & 0x08 != 0 && !matches!(raw.code & 0xf0, 0x80 | 0xd0),
            _ => false,
        };
        match (dst, src) {
            (Some(dst), _) if is_branch && matches!(why, BadField::Reserved | BadField::Register(_)) => {
                self.read(dst)?;
            }
            (None, Some(src)) if reads_src && matches!(why, BadField::Register(_)) => {
                self.read(src)?;
            }
            _ => {}
        }
        match why {
            BadField::Reserved => refuse!(BadField, EINVAL, "{family} uses reserved fields"),
            BadField::Register(n) => refuse!(BadField, EINVAL, "R{n} is invalid"),
            BadField::AtomicOp => refuse!(BadField, EINVAL, "BPF_ATOMIC uses invalid atomic opcode {:02x}", raw.imm),
            BadField::AtomicSize => refuse!(BadField, EINVAL, "invalid atomic operand size"),
            BadField::Cast => {
                refuse!(BadField, EINVAL, "addr_space_cast insn can only convert between address space 1 and 0")
            }
            BadField::MayGoto => refuse!(BadField, EINVAL, "invalid may_goto imm {}", raw.imm),
        }
    }
}
