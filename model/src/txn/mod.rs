//! Transactions over two groups, while messages are lost, doubled and late, and while a shard moves.
//!
//! As in [`crate::handoff`] a group is its applied state, a message that arrives is proposed, chosen and applied in one
//! step, and the network is the set of all messages that anyone ever had reason to send. What the reasons are is what the
//! shipped `txn_duties` say of each state; what a group's leader puts into its own log after an answer is what
//! `TxnDuty::take` says, and is on the network too, since leaders change and act twice.

pub mod bounds;
pub mod clients;
pub mod completion;
pub mod machines;
pub mod moves;
pub mod properties;
pub mod replays;
pub mod sabotage;
pub mod steps;
mod told;
pub mod world;
