//! The verifier: from a decoded program to one that engines may trust.

pub mod domain;
pub mod facts;
pub mod lower;
pub mod reject;
pub mod verified;

pub use facts::{Access, Branch, Facts, InsnFacts};
pub use lower::{Lowering, NativeAccess};
pub use reject::{Reason, Rejection};
pub use verified::{Assumptions, Options, Privilege, Profile, VerifiedProgram};
