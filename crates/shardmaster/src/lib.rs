//! The shardmaster: which group is to serve which shard, who does now, and the moves from one to the other.
//!
//! Pure: a state machine like any other, replicated by the same runtime, run as it ships by models and simulations.

pub mod balance;
mod change;
pub mod command;
pub mod duties;
pub mod group;
pub mod history;
pub mod ids;
pub mod invariants;
pub mod limits;
pub mod master;
mod memory;
pub mod moves;
pub mod orders;
pub mod query;
pub mod rebalance;
pub mod refusal;
mod snapshot;
