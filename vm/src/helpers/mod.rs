//! Helper functions: what programs call.

pub mod checksum;
pub mod format;
pub mod number;
