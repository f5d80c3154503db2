//! What a model of the catalog is made of, and how it is searched or shown.

use std::net::SocketAddr;

use stateright::Model;

use crate::bounds::Bounds;
use crate::check::{self, Options, Outcome};
use crate::handoff::world::Handoff;
use crate::lease::world::Lease;
use crate::once::world::Once;
use crate::search::Search;
use crate::txn::world::Commit;
use crate::world::World;
use crate::{handoff, lease, once, txn};

/// What a model is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Replicas of one group.
    Replicas(Bounds),
    /// Replicas of one group, with clocks.
    Lease(lease::bounds::Bounds),
    /// One group and its clients.
    Once(once::bounds::Bounds),
    /// Two groups and the shardmaster.
    Handoff(handoff::bounds::Bounds),
    /// Two groups and transactions over them.
    Commit(txn::bounds::Bounds),
}

impl Kind {
    /// Searches all its states.
    pub fn check(&self, options: Options) -> Outcome {
        match self.clone() {
            Kind::Replicas(bounds) => check::run(World::new(bounds), options),
            Kind::Lease(bounds) => check::run(Lease::new(bounds), options),
            Kind::Once(bounds) => check::run(Once::new(bounds), options),
            Kind::Handoff(bounds) => check::run(Handoff::new(bounds), options),
            Kind::Commit(bounds) => check::run(Commit::new(bounds), options),
        }
    }

    /// Shows it to a browser, until the process ends.
    pub fn explore(&self, address: SocketAddr) {
        match self.clone() {
            Kind::Replicas(bounds) => drop(World::new(bounds).to_explore().checker().serve(address)),
            Kind::Lease(bounds) => drop(Lease::new(bounds).to_explore().checker().serve(address)),
            Kind::Once(bounds) => drop(Once::new(bounds).to_explore().checker().serve(address)),
            Kind::Handoff(bounds) => drop(Handoff::new(bounds).to_explore().checker().serve(address)),
            Kind::Commit(bounds) => drop(Commit::new(bounds).to_explore().checker().serve(address)),
        }
    }

    /// The bounds of a model of replicas.
    pub fn replicas(self) -> Option<Bounds> {
        match self {
            Kind::Replicas(bounds) => Some(bounds),
            Kind::Lease(_) | Kind::Once(_) | Kind::Handoff(_) | Kind::Commit(_) => None,
        }
    }
}
