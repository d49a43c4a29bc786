//! Helper prototypes: one row a helper and argument shape, with or without a function behind it.
//!
//! The verifier checks calls with these rows and the machine binds functions to them, so that the two cannot disagree.

mod proto;

pub use proto::*;

use crate::prog_type::{AttachType, ProgType};

/// The prototype of helper `id` for a program of this type and attach type.
///
/// `None` when the helper does not exist or the type may not call it.
pub fn proto(id: HelperId, prog: ProgType, attach: AttachType) -> Option<&'static HelperProto> {
    let _ = (id, prog, attach);
    None
}
