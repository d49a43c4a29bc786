//! CO-RE: instructions adjusted to the types of the system they run on.

use crate::error::Error;
use crate::object::{Object, ParseOptions};
use rtbpf_btf::BtfExt;

/// Helper number of a poisoned instruction.
pub const POISONED_HELPER: i32 = 195_896_080;

/// What became of a relocation.
#[derive(Clone, Debug, PartialEq)]
pub struct CoreOutcome {}

/// How it went.
#[derive(Clone, Debug, PartialEq)]
pub enum CoreResult {}

impl Object {
    pub(crate) fn apply_core(&mut self, _: &BtfExt, _: &ParseOptions<'_>) -> Result<(), Error> {
        Ok(())
    }
}
