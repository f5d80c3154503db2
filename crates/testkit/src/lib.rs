//! Replicas of the shipped core on a network, disks and clocks that a test commands.
//!
//! - [`group`] runs the replicas of one group and judges P0 to P7 after every step;
//! - [`net`] carries their messages one by one, for [`script`], the line language of golden scripts;
//! - [`random`] draws whole runs from a seed: faults, clients, clocks.
//!
//! Nothing here has a protocol of its own: every effect comes from [`paxos::Replica::step`].

pub mod command;
pub mod disk;
pub mod golden;
pub mod group;
pub mod judge;
pub mod net;
pub mod prng;
pub mod random;
pub mod script;
mod words;
