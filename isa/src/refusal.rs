//! What Linux says about encodings that it refuses. Measured on Linux 6.18.

use crate::decode::DecodeError;
use crate::insn::{AluOp, BadField};
use crate::raw::{self, RawInsn};
use crate::rows::Form;

impl BadField {
    /// The verifier's line about it; `raw` is the first slot of the instruction.
    pub fn kernel_message(self, raw: RawInsn) -> String {
        match self {
            BadField::Reserved => format!("{} uses reserved fields", family(raw)),
            BadField::Register(number) => format!("R{number} is invalid"),
            BadField::AtomicOp => format!("BPF_ATOMIC uses invalid atomic opcode {:02x}", raw.imm),
            BadField::AtomicSize => "invalid atomic operand size".into(),
            BadField::Cast => "addr_space_cast insn can only convert between address space 1 and 0".into(),
            BadField::MayGoto => format!("invalid may_goto imm {}", raw.imm),
        }
    }
}

impl DecodeError {
    /// The verifier's line about it; `None` where Linux refuses without a word.
    pub fn kernel_message(&self) -> Option<String> {
        Some(match *self {
            DecodeError::Empty | DecodeError::TooLong(_) => return None,
            DecodeError::UnknownOpcode { code, .. } => format!("unknown opcode {code:02x}"),
            DecodeError::LoadFields { .. } => "BPF_LDX uses reserved fields".into(),
            DecodeError::HalfWide { .. } => "invalid bpf_ld_imm64 insn".into(),
            DecodeError::WideSource { .. } => "unrecognized bpf_ld_imm64 insn".into(),
            DecodeError::JumpOutOfRange { slot, to } => format!("jump out of range from insn {slot} to {to}"),
            DecodeError::JumpIntoWide { to, .. } => format!("jump into the middle of ldimm64 insn {to}"),
            DecodeError::CallOutOfRange { .. } => "call to invalid destination".into(),
        })
    }
}

/// The name of an opcode's family in messages about reserved fields.
fn family(raw: RawInsn) -> &'static str {
    let Some(row) = raw::rows_of(raw.code).next() else { return "BPF_UNKNOWN" };
    match row.form {
        Form::Alu(AluOp::Mov) | Form::MovSx(_) | Form::AddrCast => "BPF_MOV",
        Form::Alu(_) => "BPF_ALU",
        Form::Neg => "BPF_NEG",
        Form::Swap(..) => "BPF_END",
        Form::Imm(_) => "BPF_LD_IMM64",
        Form::Load(..) => "BPF_LDX",
        Form::Store(_) if raw.is_stx() => "BPF_STX",
        Form::Store(_) => "BPF_ST",
        Form::Atomic(..) | Form::LoadAcquire | Form::StoreRelease => "BPF_ATOMIC",
        Form::PacketAbs(_) | Form::PacketInd(_) => "BPF_LD_[ABS|IND]",
        Form::Jump | Form::JumpLong => "BPF_JA",
        Form::Branch(_) | Form::MayGoto => "BPF_JMP/JMP32",
        Form::Call(_) | Form::CallReg => "BPF_CALL",
        Form::Exit => "BPF_EXIT",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Insn, decode};

    #[test]
    fn bad_fields_are_reported_in_the_kernels_words() {
        let check = |bytes: [u8; 8], want: &str| {
            let raw = RawInsn::from_le_bytes(bytes);
            match decode(&[raw]).unwrap().insns()[0] {
                Insn::Bad { why, .. } => assert_eq!(why.kernel_message(raw), want),
                other => panic!("{want}: decoded to {other:?}"),
            }
        };
        check([0x07, 0x0b, 1, 0, 2, 0, 0, 0], "BPF_ALU uses reserved fields");
        check([0x0f, 0xce, 0, 0, 0, 0, 0, 0], "R12 is invalid");
        check([0x1d, 0xce, 0xff, 0xff, 0, 0, 0, 0], "R14 is invalid");
        check([0x63, 0xce, 0, 0, 1, 0, 0, 0], "BPF_STX uses reserved fields");
        check([0xb7, 0x01, 8, 0, 0, 0, 0, 0], "BPF_MOV uses reserved fields");
        check([0xd7, 0x01, 0, 0, 8, 0, 0, 0], "BPF_END uses reserved fields");
        check([0xdb, 0x3a, 0xf8, 0xff, 2, 0, 0, 0], "BPF_ATOMIC uses invalid atomic opcode 02");
        check([0xd3, 0xcb, 0xf8, 0xff, 1, 0, 0, 0], "invalid atomic operand size");
        check([0xe5, 0x10, 0xff, 0xff, 0, 0, 0, 0], "invalid may_goto imm 0");
        check([0x85, 0x30, 0, 0, 2, 0, 0, 0], "BPF_CALL uses reserved fields");
    }
}
