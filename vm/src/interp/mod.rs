//! Interpreters.

mod call;
pub mod checked;
mod facts;
mod flow;
pub mod observe;
#[cfg(test)]
mod tests;

pub use checked::Checked;
pub use observe::Observer;
