//! All server-side IO around the replicas of a node: write-ahead log, checkpoints, peers, timers, identity.
//!
//! One thread runs the network and the steps of all replicas of a node, one thread syncs the log, and bulk work
//! (checkpoints, snapshots, large drops) runs beside them.

pub mod api;
pub mod checkpoint;
mod clock;
pub mod env;
pub mod fs;
pub mod genesis;
#[cfg(test)]
mod hostile;
pub mod hosting;
pub mod identity;
pub mod log;
pub mod node;
pub mod observe;
pub mod options;
mod peers;
mod record;
mod sealed;
mod snapshot;
