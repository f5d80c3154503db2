//! Leases and reads, with clocks that run fast and slow.
//!
//! Three values of [`paxos::Replica`], each with a clock of its own. True time goes in ticks; in each tick the adversary
//! moves each clock on by any of the rates in [`bounds::Bounds`], which stay within the drift bound that the replicas are
//! told. A message arrives at any time, again, or never. A timer that a lease relies on fires when its clock says so, or any
//! time later; all others fire when they like. A node that does nothing for a while is one that is paused: its clock goes on.
//!
//! Reads need no events of their own: in each state, a node whose lease holds could answer one, so what it would answer
//! is judged. Only rounds of heartbeats are events.

pub mod bounds;
pub mod node;
pub mod properties;
pub mod sabotage;
pub mod world;
