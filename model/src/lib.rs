//! Exhaustive models of the shipped replica, and of the shipped handoff of a shard between groups.
//!
//! A [`world::World`] is three values of [`paxos::Replica`], their disks and a network that never forgets a message. The
//! model checker visits every state that any order of deliveries, losses, duplicates, timers, syncs and crashes can
//! reach within [`bounds::Bounds`], and judges the properties of [`properties`] in each.
//!
//! A [`handoff::world::Handoff`] is two shipped stores, the shipped shardmaster, clients and such a network.
//!
//! There is no protocol in this crate: what a replica does is what `Replica::step` does, and what a group does is what
//! `apply`, `query` and `duties` of its state machine do.

pub mod bounds;
pub mod catalog;
pub mod check;
pub mod handoff;
pub mod memo;
pub mod network;
pub mod node;
pub mod notes;
pub mod properties;
pub mod sabotage;
pub mod search;
pub mod steps;
pub mod world;
