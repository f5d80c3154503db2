//! One group and its clients: requests are retried, doubled and late, answers get lost, time passes, and the group goes on
//! from a snapshot of itself.
//!
//! As in [`crate::handoff`] the group is its applied state, the shipped `Store`, and a request that arrives is proposed,
//! chosen and applied in one step. A leader that fails leaves requests behind that are chosen later or never, and clients
//! that ask again; the next leader has the state that the log gives, or a snapshot of it. So a failover is a request that
//! arrives late, an answer that is lost, and a state that is restored from its pages.
//!
//! Times are small numbers, all of them are tried: stamps of requests are any that a client may have heard, in this group
//! or, ahead of its log time, in another one.

pub mod bounds;
pub mod properties;
pub mod sabotage;
pub mod steps;
pub mod world;
