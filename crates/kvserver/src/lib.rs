//! The key-value store as a state machine, and (feature `server`) the node that serves it.
//!
//! The library without features is pure: the same code runs in the node, in the simulator and in models.

pub mod command;
pub mod entry;
pub mod genesis;
pub mod handoff;
pub mod key;
pub mod machine;
mod pairs;
mod prefetch;
pub mod query;
mod request;
pub mod routing;
mod scan;
#[cfg(feature = "server")]
pub mod server;
mod session;
mod shard;
mod snapshot;
pub mod status;
pub mod store;
mod tally;
pub mod txn;
