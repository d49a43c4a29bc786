//! x
mod capture;
fn main() {}
