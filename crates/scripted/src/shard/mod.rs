//! Groups, their shards and the shardmaster in a world that a test commands: the language of the golden scripts of
//! sharding.
//!
//! - [`world`] is the shipped [`Master`](shardmaster::master::Master), a shipped [`Store`](kvserver::store::Store) for each
//!   group, and a net that delivers, loses, repeats and delays what they owe each other;
//! - [`clients`] are sessions that try, and try again;
//! - [`judge`] checks P7, P8 and P9 after every step, against a plain map;
//! - [`script`] is the line language;
//! - [`random`] draws whole scripts from a seed.
//!
//! A group is its applied state: an entry is chosen and applied in the step that delivers it, which is what consensus
//! promises. So a leader has nothing to lose but the messages it had under way: what is owed is read off the state.

mod ask;
pub mod clients;
mod faults;
pub mod judge;
mod language;
pub mod message;
mod net;
pub mod random;
mod reference;
pub mod script;
mod text;
mod txns;
mod view;
pub mod world;
