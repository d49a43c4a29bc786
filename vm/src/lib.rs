//! Under construction.
pub mod helpers;
