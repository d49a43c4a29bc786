//! What a relocation puts into its instruction, and putting it there.

use rtbpf_btf::{CoreReloKind, Kind, TypeId};
use rtbpf_isa::RawInsn;
use rtbpf_isa::raw::is_wide;

use super::POISONED_HELPER;
use super::spec::Spec;

/// A number for an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Number {
    pub value: u64,
    /// Bytes and type of the field, where a load or store of it may have to change its width.
    pub field: Option<(u32, TypeId)>,
    /// Whether the compiler's number is known exactly, so that the instruction must hold it.
    pub exact: bool,
}

impl Number {
    fn plain(value: u64) -> Number {
        Number { value, field: None, exact: true }
    }
}

/// A relocation worked out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub old: u64,
    pub new: u64,
    pub exact: bool,
    /// Bytes of the field before and after, when they differ and a load may change its width.
    pub widths: Option<(u32, u32)>,
    /// The field changed width in a way that no load can follow.
    pub width_lost: bool,
}

/// The number that `kind` asks for; `Ok(None)` when only poison will do, as `spec` is not there.
pub(super) fn number(kind: CoreReloKind, spec: Option<&Spec<'_>>) -> Result<Option<Number>, String> {
    use CoreReloKind::*;
    let Some(spec) = spec else {
        return Ok(match kind {
            FieldExists | EnumvalExists | TypeExists | TypeMatches | TypeSize | TypeIdTarget => Some(Number::plain(0)),
            FieldByteOffset | FieldByteSize | FieldSigned | FieldLshiftU64 | FieldRshiftU64 => None,
            EnumvalValue | TypeIdLocal => None,
        });
    };
    Ok(Some(match kind {
        FieldExists | EnumvalExists | TypeExists | TypeMatches => Number::plain(1),
        // Type ids change when objects are joined.
        TypeIdLocal | TypeIdTarget => Number { exact: false, ..Number::plain(spec.root.0.into()) },
        TypeSize => Number::plain(spec.btf.size_of(spec.root).ok_or("its type has no size")?),
        EnumvalValue => {
            let step = spec.steps.first().ok_or("it names no enum value")?;
            let Kind::Enum { values, .. } = spec.btf.peel(step.ty).kind else {
                return Err("it names no enum".into());
            };
            Number::plain(values.get(step.index as usize).ok_or("it names no enum value")?.value as u64)
        }
        FieldByteOffset | FieldByteSize | FieldSigned | FieldLshiftU64 | FieldRshiftU64 => field(kind, spec)?,
    }))
}

fn field(kind: CoreReloKind, spec: &Spec<'_>) -> Result<Number, String> {
    let step = spec.steps.last().ok_or("it names no field")?;
    let size_of = |ty| {
        let bytes = spec.btf.size_of(ty).and_then(|bytes| u32::try_from(bytes).ok());
        bytes.ok_or_else(|| format!("its type `{}` has no size", spec.btf.declare(ty, "")))
    };
    if step.name.is_none() {
        let bytes = size_of(step.ty)?;
        return match kind {
            CoreReloKind::FieldByteOffset => {
                Ok(Number { field: Some((bytes, step.ty)), ..Number::plain(spec.bit_offset / 8) })
            }
            CoreReloKind::FieldByteSize => Ok(Number::plain(bytes.into())),
            _ => Err("an array element is no field".into()),
        };
    }
    let members = spec.btf.members(step.ty).ok_or("it names no field")?;
    let member = members.get(step.index as usize).ok_or("it names no field")?;
    let ty = spec.btf.peel(member.ty);
    let is_bitfield = member.bitfield != 0;
    let (bytes, byte_offset, bits) = if is_bitfield {
        let bits = u64::from(member.bitfield);
        let mut bytes = u64::from(size_of(member.ty)?).max(1);
        // The naturally aligned word that holds the field, doubled until it does.
        loop {
            let byte_offset = spec.bit_offset / 8 / bytes * bytes;
            let end = spec.bit_offset.checked_add(bits).ok_or("its offset overflows")?;
            if end - byte_offset * 8 <= bytes * 8 {
                break (bytes as u32, byte_offset, bits);
            }
            if bytes >= 8 {
                return Err("its bitfield does not fit 64 bits".into());
            }
            bytes *= 2;
        }
    } else {
        let bytes = size_of(member.ty)?;
        (bytes, spec.bit_offset / 8, u64::from(bytes) * 8)
    };
    let inexact = |value| Number { exact: !is_bitfield, ..Number::plain(value) };
    Ok(match kind {
        CoreReloKind::FieldByteOffset if is_bitfield => inexact(byte_offset),
        CoreReloKind::FieldByteOffset => Number { field: Some((bytes, member.ty)), ..Number::plain(byte_offset) },
        CoreReloKind::FieldByteSize => inexact(bytes.into()),
        CoreReloKind::FieldSigned => Number::plain(match ty.kind {
            Kind::Int(int) => int.encoding.signed.into(),
            Kind::Enum { signed, .. } => signed.into(),
            _ => 0,
        }),
        CoreReloKind::FieldLshiftU64 => {
            let used = spec.bit_offset.saturating_add(bits) - byte_offset * 8;
            inexact(64u64.checked_sub(used).ok_or("its field is wider than 64 bits")?)
        }
        CoreReloKind::FieldRshiftU64 => {
            Number::plain(64u64.checked_sub(bits).ok_or("its field is wider than 64 bits")?)
        }
        _ => return Err("it asks for nothing of a field".into()),
    })
}

/// The change from the object's number to the target's.
pub(super) fn change(old: Number, new: Number, local: &Spec<'_>, target: &Spec<'_>) -> Change {
    let mut change = Change { old: old.value, new: new.value, exact: old.exact, widths: None, width_lost: false };
    if let (Some((old_bytes, old_ty)), Some((new_bytes, new_ty))) = (old.field, new.field)
        && old_bytes != new_bytes
    {
        // Zero-extending loads can follow pointers and unsigned integers.
        match (local.btf.peel(old_ty).kind, target.btf.peel(new_ty).kind) {
            (Kind::Ptr { .. }, Kind::Ptr { .. }) => change.widths = Some((old_bytes, new_bytes)),
            (Kind::Int(l), Kind::Int(t)) if !l.encoding.signed && !t.encoding.signed => {
                change.widths = Some((old_bytes, new_bytes));
            }
            _ => change.width_lost = true,
        }
    }
    change
}

/// The instruction (and the second half of a wide load) after `change`; `None` where it must be poisoned.
pub(super) fn patch(insns: [RawInsn; 2], change: &Change) -> Result<Option<[RawInsn; 2]>, String> {
    let [mut insn, mut second] = insns;
    let holds = |value: i64| {
        let expected = change.old as i64;
        if !change.exact || value == expected || value as u32 == expected as u32 {
            Ok(())
        } else {
            Err(format!("the instruction holds {value} (the object's types say {expected})"))
        }
    };
    // The class: bits 0 to 2.
    match insn.code & 7 {
        // ALU, ALU64 with an immediate.
        4 | 7 if insn.code & 8 == 0 => {
            holds(insn.imm.into())?;
            insn.imm = change.new as i32;
        }
        // LDX, ST, STX.
        1..=3 => {
            holds(insn.off.into())?;
            let Ok(off) = i16::try_from(change.new) else {
                return Err(format!("offset {} does not fit the instruction (must be at most 32767)", change.new));
            };
            if change.width_lost {
                return Ok(None);
            }
            insn.off = off;
            if let Some((old, new)) = change.widths {
                if width_of(insn.code) != old {
                    return Err(format!("it accesses {} bytes of a field of {old}", width_of(insn.code)));
                }
                let size = size_bits(new).ok_or_else(|| format!("no load has {new} bytes"))?;
                insn.code = insn.code & !0x18 | size;
            }
        }
        0 if is_wide(insn.code) && insn.src == 0 => {
            let value = u64::from(insn.imm as u32) | u64::from(second.imm as u32) << 32;
            if change.exact && value != change.old {
                return Err(format!("the instruction holds {value} (the object's types say {})", change.old));
            }
            insn.imm = change.new as i32;
            second.imm = (change.new >> 32) as i32;
        }
        _ => return Err(format!("instruction {:#04x} cannot take it", insn.code)),
    }
    Ok(Some([insn, second]))
}

/// Bytes of a load or store by its size bits.
fn width_of(code: u8) -> u32 {
    match code & 0x18 {
        0x00 => 4,
        0x08 => 2,
        0x10 => 1,
        _ => 8,
    }
}

fn size_bits(bytes: u32) -> Option<u8> {
    match bytes {
        1 => Some(0x10),
        2 => Some(0x08),
        4 => Some(0x00),
        8 => Some(0x18),
        _ => None,
    }
}

/// The instruction that stands for a relocation that failed: legal in dead code only.
pub(super) fn poison() -> RawInsn {
    RawInsn { code: crate::reloc::CALL, imm: POISONED_HELPER, ..RawInsn::default() }
}
