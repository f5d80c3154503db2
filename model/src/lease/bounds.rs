//! What keeps the model of leases finite, and how its clocks run.

use std::sync::Arc;

use paxos::ids::NodeId;
use paxos::io::Timer;
use paxos::limits::Limits;
use paxos::replica::Config;

use crate::bounds::{self, REPLICAS};
use crate::lease::sabotage::Sabotage;

/// What a right clock counts in one tick of true time.
pub const RIGHT: u64 = 12;
/// What the slowest clock within the drift bound, a third, counts in a tick.
pub const SLOW: u64 = 8;
/// What the fastest counts.
pub const FAST: u64 = 16;
/// How long a follower is sticky by its own clock: two ticks if that is the fastest, four if it is the slowest. The leader
/// counts half of it, two ticks of the slowest clock: where one ends the other does, to the instant.
pub const LEASE: u64 = 2 * FAST;
/// The drift bound that the replicas are told.
pub const DRIFT_PPM: u64 = 333_333;

/// The value that stands for the Freeze of a shard: the first of node 2. That it is acknowledged stands for the Activate.
pub const FREEZE: u8 = 21;

/// The size of a model of leases. It begins with node 1 as leader, elected by itself and node 2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// True time ends after so many ticks.
    pub ticks: u8,
    /// What each clock may count in a tick.
    pub rates: [&'static [u64]; REPLICAS],
    /// How many ballots each node may prepare in its lives together; node 1 begins with one.
    pub campaigns: [u8; REPLICAS],
    /// How many values each node proposes when it leads.
    pub proposals: [u8; REPLICAS],
    /// How often each node's Heartbeat timer fires while it leads.
    pub beats: [u8; REPLICAS],
    /// How many reads arrive at each node that leads, and are answered after a round of heartbeats.
    pub reads: [u8; REPLICAS],
    /// How often each node crashes, and starts again at once.
    pub crashes: [u8; REPLICAS],
    /// Timers that may fire at any time, besides Election and Heartbeat.
    pub timers: &'static [Timer],
    /// How often node 1 is asked to hand over to node 2.
    pub transfers: u8,
    /// A bug put in on purpose, outside the replica, or beyond what it was told.
    pub sabotage: Option<Sabotage>,
}

impl Bounds {
    /// What the replica of `node` is told.
    pub fn config(&self, node: NodeId) -> Arc<Config> {
        let mut limits = limits();
        if self.sabotage == Some(Sabotage::DriftIgnored) {
            limits.drift_ppm = 0;
        }
        Arc::new(Config { me: node, voters: bounds::Bounds::voters(), limits })
    }
}

/// The limits of every replica. Only the lease and the drift bound are times here: the other timers fire when they like.
pub fn limits() -> Limits {
    Limits {
        lease_us: LEASE,
        drift_ppm: DRIFT_PPM,
        heartbeat_us: LEASE / 4,
        check_quorum_us: LEASE / 2,
        election_min_us: LEASE,
        election_max_us: 2 * LEASE,
        ..Limits::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_would_start_with_these_limits() {
        assert_eq!(limits().validate(), Ok(()));
    }

    #[test]
    fn a_lease_ends_with_the_patience_it_relies_on() {
        // The slowest leader and the fastest follower, in ticks.
        assert_eq!((limits().lease_held_us() / SLOW, limits().lease_held_us() % SLOW), (2, 0));
        assert_eq!((LEASE / FAST, LEASE % FAST), (2, 0));
        let drift = |rate: u64| rate.abs_diff(RIGHT) * 1_000_000 / RIGHT;
        assert_eq!((drift(SLOW), drift(FAST)), (DRIFT_PPM, DRIFT_PPM));
    }
}
