//! Scripts of shards drawn from a seed: the same seed gives the same script, and the same end.

pub mod moves;
pub mod transactions;
