//! model.
fn main() {}
