//! Exhaustive models of the shipped replica.
//!
//! A [`world::World`] is three values of [`paxos::Replica`], their disks and a network that never forgets a message. The
//! model checker visits every state that any order of deliveries, losses, duplicates, timers, syncs and crashes can
//! reach within [`bounds::Bounds`], and judges the properties of [`properties`] in each.
//!
//! There is no protocol in this crate: what a replica does is what `Replica::step` does.

pub mod bounds;
pub mod catalog;
pub mod check;
pub mod memo;
pub mod network;
pub mod node;
pub mod properties;
pub mod sabotage;
pub mod steps;
pub mod world;
