//! kvserver.
fn main() {}
