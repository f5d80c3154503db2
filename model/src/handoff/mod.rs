//! A shard moves from group A to group B and back while clients write to it.
//!
//! A group is its applied state, the shipped `Store`; the shardmaster is the shipped `Master`. A message that arrives is
//! proposed, chosen and applied in one step: the models of the replica show that a group is such a register of entries.
//! The network is the set of all messages that anyone ever had reason to send, so they are lost, repeated and reordered
//! at will; what the reasons are is what the shipped `duties` say of each state, so leaders may change at any time too.

pub mod bounds;
pub mod clients;
pub mod completion;
pub mod machines;
pub mod network;
pub mod properties;
pub mod sabotage;
pub mod steps;
mod told;
pub mod world;
