//! Abstract scalars: values with algebra and nothing else.
//!
//! ```text
//!  Tnum       which bits are known               (value, mask)
//!  Circle<B>  one arc on Z/2^B                   (base, size)
//!  Scalar     Tnum × Circle<64> × Circle<32>     each refines the others
//! ```
//!
//! No domain value is empty: an operation that can leave nothing returns `Option`, and `None` means that no run gets
//! there.

pub mod circle;
#[cfg(test)]
mod exhaustive;
pub mod refine;
pub mod scalar;
pub mod tnum;

pub use circle::Circle;
pub use refine::{decide, refine};
pub use scalar::{Ends, Precision, Scalar};
pub use tnum::Tnum;
