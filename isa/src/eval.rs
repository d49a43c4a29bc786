//! What operations compute: the one definition that interpreter, constant folding and tests share.
//!
//! RFC 9669 §4 and §5. Every function is pure and total.

use crate::insn::{AluOp, AtomicOp, CmpOp, Size, Swap, Width};

/// `a op b`. A 32-bit result is zero-extended.
#[inline(always)]
pub fn alu(op: AluOp, width: Width, a: u64, b: u64) -> u64 {
    match width {
        Width::W64 => alu64(op, a, b),
        Width::W32 => alu32(op, a as u32, b as u32) as u64,
    }
}

#[inline(always)]
fn alu64(op: AluOp, a: u64, b: u64) -> u64 {
    match op {
        AluOp::Add => a.wrapping_add(b),
        AluOp::Sub => a.wrapping_sub(b),
        AluOp::Mul => a.wrapping_mul(b),
        AluOp::Div => a.checked_div(b).unwrap_or(0),
        AluOp::Mod => a.checked_rem(b).unwrap_or(a),
        AluOp::Sdiv if b == 0 => 0,
        AluOp::Sdiv => (a as i64).wrapping_div(b as i64) as u64,
        AluOp::Smod if b == 0 => a,
        AluOp::Smod => (a as i64).wrapping_rem(b as i64) as u64,
        AluOp::Or => a | b,
        AluOp::And => a & b,
        AluOp::Xor => a ^ b,
        AluOp::Lsh => a.wrapping_shl(b as u32),
        AluOp::Rsh => a.wrapping_shr(b as u32),
        AluOp::Arsh => (a as i64).wrapping_shr(b as u32) as u64,
        AluOp::Mov => b,
    }
}

#[inline(always)]
fn alu32(op: AluOp, a: u32, b: u32) -> u32 {
    match op {
        AluOp::Add => a.wrapping_add(b),
        AluOp::Sub => a.wrapping_sub(b),
        AluOp::Mul => a.wrapping_mul(b),
        AluOp::Div => a.checked_div(b).unwrap_or(0),
        AluOp::Mod => a.checked_rem(b).unwrap_or(a),
        AluOp::Sdiv if b == 0 => 0,
        AluOp::Sdiv => (a as i32).wrapping_div(b as i32) as u32,
        AluOp::Smod if b == 0 => a,
        AluOp::Smod => (a as i32).wrapping_rem(b as i32) as u32,
        AluOp::Or => a | b,
        AluOp::And => a & b,
        AluOp::Xor => a ^ b,
        AluOp::Lsh => a.wrapping_shl(b),
        AluOp::Rsh => a.wrapping_shr(b),
        AluOp::Arsh => (a as i32).wrapping_shr(b) as u32,
        AluOp::Mov => b,
    }
}

/// `-a`.
#[inline(always)]
pub fn neg(width: Width, a: u64) -> u64 {
    match width {
        Width::W64 => a.wrapping_neg(),
        Width::W32 => (a as u32).wrapping_neg() as u64,
    }
}

/// Whether `a op b` holds.
#[inline(always)]
pub fn compare(op: CmpOp, width: Width, a: u64, b: u64) -> bool {
    let (ua, ub, sa, sb) = match width {
        Width::W64 => (a, b, a as i64, b as i64),
        Width::W32 => (a as u32 as u64, b as u32 as u64, a as i32 as i64, b as i32 as i64),
    };
    match op {
        CmpOp::Eq => ua == ub,
        CmpOp::Ne => ua != ub,
        CmpOp::Set => ua & ub != 0,
        CmpOp::Gt => ua > ub,
        CmpOp::Ge => ua >= ub,
        CmpOp::Lt => ua < ub,
        CmpOp::Le => ua <= ub,
        CmpOp::Sgt => sa > sb,
        CmpOp::Sge => sa >= sb,
        CmpOp::Slt => sa < sb,
        CmpOp::Sle => sa <= sb,
    }
}

/// Byte-order conversion of the low `size` bytes; the result is zero-extended.
#[inline(always)]
pub fn swap(kind: Swap, size: Size, a: u64) -> u64 {
    let low = zero_extend(size, a);
    let swaps = match kind {
        Swap::ToLe => cfg!(target_endian = "big"),
        Swap::ToBe => cfg!(target_endian = "little"),
        Swap::Bswap => true,
    };
    if swaps { low.swap_bytes() >> (64 - size.bits()) } else { low }
}

/// The low `size` bytes, zero-extended.
#[inline(always)]
pub fn zero_extend(size: Size, a: u64) -> u64 {
    a & (u64::MAX >> (64 - size.bits()))
}

/// The low `size` bytes, sign-extended to 64 bits.
#[inline(always)]
pub fn sign_extend(size: Size, a: u64) -> u64 {
    let unused = 64 - size.bits();
    ((a << unused) as i64 >> unused) as u64
}

/// A sign-extending move to `width`; a 32-bit result is zero-extended.
#[inline(always)]
pub fn move_sx(width: Width, from: Size, a: u64) -> u64 {
    zero_extend(width.size(), sign_extend(from, a))
}

/// The value that an atomic operation leaves in memory, from the old one, the source, and R0 (cmpxchg only).
#[inline(always)]
pub fn atomic(op: AtomicOp, width: Width, old: u64, src: u64, r0: u64) -> u64 {
    let new = match op {
        AtomicOp::Add => old.wrapping_add(src),
        AtomicOp::Or => old | src,
        AtomicOp::And => old & src,
        AtomicOp::Xor => old ^ src,
        AtomicOp::Xchg => src,
        AtomicOp::Cmpxchg if compare(CmpOp::Eq, width, old, r0) => src,
        AtomicOp::Cmpxchg => old,
    };
    zero_extend(width.size(), new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn division_is_total() {
        let check = |op, width, a: i64, b: i64, want: i64| assert_eq!(alu(op, width, a as u64, b as u64), want as u64);
        check(AluOp::Div, Width::W64, 7, 0, 0);
        check(AluOp::Mod, Width::W64, 7, 0, 7);
        check(AluOp::Mod, Width::W32, -1, 0, 0xffff_ffff);
        check(AluOp::Sdiv, Width::W64, i64::MIN, -1, i64::MIN);
        check(AluOp::Smod, Width::W64, i64::MIN, -1, 0);
        check(AluOp::Sdiv, Width::W32, i32::MIN as i64, -1, 0x8000_0000);
        check(AluOp::Sdiv, Width::W64, -13, 4, -3);
        check(AluOp::Smod, Width::W64, -13, 4, -1);
    }

    #[test]
    fn shifts_use_the_amount_modulo_the_width() {
        assert_eq!(alu(AluOp::Lsh, Width::W64, 1, 65), 2);
        assert_eq!(alu(AluOp::Arsh, Width::W32, 0x8000_0000, 33), 0xc000_0000);
    }

    #[test]
    fn swaps_truncate() {
        assert_eq!(swap(Swap::Bswap, Size::H, 0x1122_3344), 0x4433);
        assert_eq!(swap(Swap::ToLe, Size::W, 0x1122_3344_5566_7788), 0x5566_7788);
        assert_eq!(move_sx(Width::W32, Size::B, 0x80), 0xffff_ff80);
    }
}
