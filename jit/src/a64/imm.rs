//! What fits an immediate field. dynasm panics on what does not, so everything is asked here first.

use dynasmrt::aarch64::{encode_logical_immediate_32bit, encode_logical_immediate_64bit};
use rtbpf_isa::{Size, Width};

/// Whether `and`, `orr` and `eor` take the value.
pub(super) fn is_logical(w: Width, value: i32) -> bool {
    match w {
        Width::W32 => encode_logical_immediate_32bit(value as u32).is_some(),
        Width::W64 => encode_logical_immediate_64bit(value as i64 as u64).is_some(),
    }
}

/// The immediate of `add` and `sub`: 12 bits, or 12 bits shifted by 12.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Add {
    Plain(u32),
    Shifted(u32),
}

pub(super) fn add(value: u32) -> Option<Add> {
    match value {
        0..=0xfff => Some(Add::Plain(value)),
        _ if value & 0xff00_0fff == 0 => Some(Add::Shifted(value >> 12)),
        _ => None,
    }
}

/// The scaled 12-bit offset of loads and stores.
pub(super) fn scaled(size: Size, disp: i32) -> Option<u32> {
    let disp = u32::try_from(disp).ok()?;
    (disp.is_multiple_of(size.bytes()) && disp / size.bytes() <= 0xfff).then_some(disp)
}

/// The unscaled 9-bit offset of loads and stores.
pub(super) fn unscaled(disp: i32) -> bool {
    (-256..=255).contains(&disp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_take_what_they_can_hold() {
        assert_eq!(add(0xfff), Some(Add::Plain(0xfff)));
        assert_eq!(add(0x1000), Some(Add::Shifted(1)));
        assert_eq!(add(0x1001), None);
        assert_eq!(add(0xfff000), Some(Add::Shifted(0xfff)));
        assert_eq!(add(0x1000000), None);
        assert_eq!(scaled(Size::D, 32760), Some(32760));
        assert_eq!(scaled(Size::D, 32768), None);
        assert_eq!(scaled(Size::D, 4), None);
        assert_eq!(scaled(Size::B, -1), None);
        assert!(is_logical(Width::W64, 0xff) && !is_logical(Width::W64, 0) && !is_logical(Width::W32, -1));
    }
}
