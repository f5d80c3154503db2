//! The shardmaster: which group is to serve which shard, who does now, and the moves from one to the other.
//!
//! Pure: a state machine like any other, replicated by the same runtime, run as it ships by models and simulations.

pub mod ids;
pub mod orders;
