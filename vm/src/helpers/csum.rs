//! Checksums of packets: `csum_diff`, `l3_csum_replace`, `l4_csum_replace`, `csum_update`, `csum_level`
//! (bpf-helpers(7)).

use rtbpf_abi::Errno;

use super::checksum;
use super::native::Cx;
use super::{status, value};

/// `BPF_F_HDR_FIELD_MASK`: bytes of the field that changed; 0 for a difference of sums.
const FIELD_MASK: u64 = 0xf;
/// `BPF_F_PSEUDO_HDR`.
const PSEUDO_HEADER: u64 = 0x10;
/// `BPF_F_MARK_MANGLED_0`.
const MARK_MANGLED_ZERO: u64 = 0x20;
/// `BPF_F_MARK_ENFORCE`.
const MARK_ENFORCE: u64 = 0x40;
/// `BPF_F_IPV6`.
const IPV6: u64 = 0x80;

pub(crate) fn csum_diff(cx: &mut Cx<'_>) -> u64 {
    let from = cx.copied(1, cx.arg(2) as u32 as usize);
    let to = cx.copied(3, cx.arg(4) as u32 as usize);
    checksum::diff(&from, &to, cx.arg(5) as u32)
}

/// The checksum field in the packet at the offset in argument 2.
fn field(cx: &mut Cx<'_>) -> Result<(usize, u16), Errno> {
    let at = cx.arg(2) as u32 as usize;
    if at > 0xffff || !at.is_multiple_of(2) {
        return Err(Errno::EFAULT);
    }
    let mut check = [0; 2];
    let found = cx.host().ctx.packet().is_some_and(|packet| packet.read(at, &mut check));
    if found { Ok((at, u16::from_ne_bytes(check))) } else { Err(Errno::EFAULT) }
}

fn put(cx: &mut Cx<'_>, at: usize, check: u16) -> Result<(), Errno> {
    let stored = cx.host().ctx.packet().is_some_and(|packet| packet.write(at, &check.to_ne_bytes()));
    if stored { Ok(()) } else { Err(Errno::EFAULT) }
}

/// The checksum after what arguments 3 and 4 say.
fn replaced(cx: &Cx<'_>, check: u16, flags: u64) -> Result<u16, Errno> {
    let (from, to) = (cx.arg(3), cx.arg(4));
    match flags & FIELD_MASK {
        0 if from == 0 => Ok(checksum::replace_by_diff(check, to as u32)),
        2 => Ok(checksum::replace2(check, from as u16, to as u16)),
        4 => Ok(checksum::replace4(check, from as u32, to as u32)),
        _ => Err(Errno::EINVAL),
    }
}

pub(crate) fn l3_csum_replace(cx: &mut Cx<'_>) -> u64 {
    let flags = cx.arg(5);
    if flags & !FIELD_MASK != 0 {
        return Errno::EINVAL.as_ret();
    }
    status(field(cx).and_then(|(at, check)| {
        let check = replaced(cx, check, flags)?;
        put(cx, at, check)
    }))
}

pub(crate) fn l4_csum_replace(cx: &mut Cx<'_>) -> u64 {
    let flags = cx.arg(5);
    if flags & !(FIELD_MASK | PSEUDO_HEADER | MARK_MANGLED_ZERO | MARK_ENFORCE | IPV6) != 0 {
        return Errno::EINVAL.as_ret();
    }
    let zero_means_none = flags & MARK_MANGLED_ZERO != 0;
    status(field(cx).and_then(|(at, check)| {
        if zero_means_none && flags & MARK_ENFORCE == 0 && check == 0 {
            return Ok(());
        }
        match replaced(cx, check, flags)? {
            0 if zero_means_none => put(cx, at, 0xffff),
            check => put(cx, at, check),
        }
    }))
}

/// Only packets whose checksum a device summed have one to update, and no packet here does.
pub(crate) fn csum_update(_cx: &mut Cx<'_>) -> u64 {
    Errno::ENOTSUPP.as_ret()
}

/// How many checksums count as checked: one more, one less, or none. Asking where none does is EACCES.
pub(crate) fn csum_level(cx: &mut Cx<'_>) -> u64 {
    /// `SKB_MAX_CSUM_LEVEL`.
    const INNERMOST: u8 = 3;
    let what = cx.arg(2);
    let Some(packet) = cx.host().ctx.packet_mut() else { return Errno::EINVAL.as_ret() };
    let level = packet.csum_level();
    // BPF_CSUM_LEVEL_QUERY, INC, DEC and RESET.
    let changed = match what {
        0 => return value(level.map(u64::from).ok_or(Errno::EACCES)),
        1 => Some(level.map_or(0, |level| INNERMOST.min(level + 1))),
        2 => level.and_then(|level| level.checked_sub(1)),
        3 => None,
        _ => return Errno::EINVAL.as_ret(),
    };
    packet.set_csum_level(changed);
    0
}
