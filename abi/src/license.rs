//! Licences: which a program must name to call GPL-only helpers.

/// The licences that Linux takes for compatible with the GPL, to the letter.
const GPL_COMPATIBLE: &[&str] =
    &["GPL", "GPL v2", "GPL and additional rights", "Dual BSD/GPL", "Dual MIT/GPL", "Dual MPL/GPL"];

/// Whether a program under `license` may call GPL-only helpers.
pub fn is_gpl_compatible(license: &str) -> bool {
    GPL_COMPATIBLE.contains(&license)
}
