//! Interpreters.

mod call;
pub mod checked;
mod facts;
mod flow;
mod kfunc;
pub mod observe;
#[cfg(test)]
mod tests;

pub use checked::Checked;
pub use observe::Observer;
