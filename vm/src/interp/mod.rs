//! Interpreters.

mod call;
pub mod checked;
mod facts;
mod flow;
mod inspect;
mod kfunc;
pub mod observe;
#[cfg(test)]
mod tests;
#[allow(unsafe_code)]
pub mod threaded;

pub use checked::Checked;
pub use inspect::FrameView;
pub use observe::Observer;
pub use threaded::Threaded;
