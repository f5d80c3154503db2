//! Replicas of the shipped core on a network, disks and clocks that a test commands; and groups of them whose shards move.
//!
//! - [`group`] runs the replicas of one group and judges P0 to P7 after every step;
//! - [`net`] carries their messages one by one, for [`script`], the line language of golden scripts;
//! - [`random`] draws whole runs from a seed: faults, clients, clocks;
//! - [`mutants`] is for command lines that switch seeded bugs on;
//! - [`shard`] is the world of shards that move, with its own line language, and judges P8 and P9.
//!
//! Nothing here has a protocol of its own: every effect comes from [`paxos::Replica::step`], or from what a state machine
//! applies.

pub mod command;
pub mod disk;
pub mod golden;
pub mod group;
pub mod history;
pub mod judge;
pub mod mutants;
pub mod net;
pub mod prng;
pub mod random;
pub mod script;
pub mod shard;
mod words;
