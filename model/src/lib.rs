//! Exhaustive models of the shipped replica, of the shipped handoff of a shard between groups, and of the shipped
//! transactions over them.
//!
//! A [`world::World`] is three values of [`paxos::Replica`], their disks and a network that never forgets a message. The
//! model checker visits every state that any order of deliveries, losses, duplicates, timers, syncs and crashes can
//! reach within [`bounds::Bounds`], and judges the properties of [`properties`] in each.
//!
//! A [`lease::world::Lease`] is three such replicas with clocks that drift; a [`once::world::Once`] is one shipped store and its
//! clients.
//!
//! A [`handoff::world::Handoff`] is two shipped stores, the shipped shardmaster, clients and such a network; a
//! [`txn::world::Commit`] is the same without the shardmaster.
//!
//! There is no protocol in this crate: what a replica does is what `Replica::step` does, and what a group does is what
//! `apply`, `query`, `duties` and `txn_duties` of its state machine do.

pub mod bounds;
pub mod catalog;
pub mod check;
pub mod groups;
pub mod handoff;
pub mod kind;
pub mod lease;
pub mod letters;
pub mod memo;
#[cfg(feature = "mutants")]
pub mod mutants;
pub mod network;
pub mod node;
pub mod notes;
pub mod once;
pub mod properties;
pub mod sabotage;
pub mod search;
pub mod steps;
pub mod txn;
pub mod world;
