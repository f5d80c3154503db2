//! Multi-Paxos as a value.
//!
//! A [`Replica`] has one entry point, [`Replica::step`]: it takes an [`io::Input`] and the time, and returns an [`io::Output`]
//! that says what to send, write, arm and apply. There is no clock, thread, socket, file or randomness in this
//! crate, so the same code runs under the production runtime, golden scripts and the model checker.
//!
//! The protocol is Multi-Paxos as in L. Lamport, "Paxos Made Simple" (2001), §2-3, with the leader's lease and
//! check-quorum of R. van Renesse and D. Altinbuken, "Paxos Made Moderately Complex" (2015), §4.

pub mod codec;
pub mod durable;
pub mod ids;
pub mod invariants;
pub mod io;
pub mod limits;
pub mod log;
pub mod message;
pub mod mutants;
pub mod quorum;
pub mod replica;
pub mod roles;
pub mod rsm;
pub mod trace;

pub use replica::Replica;
