//! The verifier: from a decoded program to one that engines may trust.
//!
//! ```text
//!  shape ─▶ cfg ─▶ explore (step, prove, call, prune, needed) ─▶ facts
//! ```
//!
//! [`verify`] is the list of passes. Acceptance is a full proof of memory safety, lifetimes and leaks.
#![deny(unsafe_code)]

mod call;
mod cfg;
pub mod domain;
mod effects;
mod explore;
pub mod facts;
mod global;
mod log;
pub mod lower;
mod needed;
mod prove;
mod prune;
pub mod reject;
mod shape;
mod spills;
mod state;
mod step;
mod subprog;
mod value;
pub mod verified;
mod verify;
pub mod walked;
mod widen;
mod worst;

pub use facts::{Access, Branch, Facts, InsnFacts};
pub use log::HelperNames;
pub use lower::{Lowering, NativeAccess};
pub use reject::{Reason, Rejection};
pub use verified::{Assumptions, Options, Privilege, Profile, Pruning, Stats, VerifiedProgram};
pub use verify::verify;
pub use walked::{BlockStates, KeepStates};
