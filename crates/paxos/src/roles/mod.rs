//! The roles of the paper, one chapter each. What exists only in a role lives in that role's struct.

mod acceptor;
mod candidate;
mod leader;
mod learner;
mod reader;
mod transfer;

pub use candidate::{Candidate, Canvass, PromisePart};
pub use leader::{Ack, Beat, Leader};
pub use learner::Told;

/// What a replica is besides acceptor and learner.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Role<C> {
    /// Nothing.
    Follower,
    /// Asks whether a ballot would find a quorum.
    Canvassing(Canvass),
    /// In phase 1.
    Candidate(Candidate<C>),
    /// In phase 2.
    Leader(Leader<C>),
}
