//! The properties, as predicates over one state. DESIGN gives the ids their meaning.

use paxos::ids::{Ballot, NodeId, Slot};
use paxos::invariants;
use stateright::Property;

use crate::lease::bounds::Bounds;
use crate::lease::world::{Lease, State};

/// The shipped replica asserts and its own monitors agree.
pub const P0: &str = "P0-P5: no assertion fails, writes replay to the replica";
/// Judged wherever a lease holds, since a read could be answered right there.
pub const P7_LEASE: &str = "P7: who holds a lease has applied all that was acknowledged";
/// Judged when the round is over.
pub const P7_ROUND: &str = "P7: a read after a round needs all that was acknowledged before it";
/// Follows from the other two; said because a lease is to be the only one.
pub const ONE_LEASE: &str = "no two ballots have leases at the same time";
/// A write at the new owner is acknowledged only after Activate, which comes after the Freeze.
pub const P8: &str =
    "P8: no lease of the source answers once the Freeze is acknowledged, unless it is applied";

/// The properties of a model within `bounds`. Each is asked under a number of its own, see [`Lease::finds`].
pub fn all(bounds: &Bounds) -> Vec<Property<Lease>> {
    let mut all = vec![
        always(P0, |model, state| !model.finds(0, || !no_fault(state))),
        always(P7_LEASE, |model, state| !model.finds(1, || leases(state).any(|(at, _)| lags(state, at)))),
        always(P7_ROUND, |model, state| !model.finds(2, || state.stale)),
        always(ONE_LEASE, |model, state| !model.finds(3, || leases(state).count() > 1)),
        always(P8, |model, state| !model.finds(4, || leases(state).any(|(at, _)| is_thawed(state, at)))),
        sometimes("the first leader holds a lease", |model, state| {
            model.finds(5, || leases(state).any(|(node, _)| node == NodeId(1)))
        }),
        sometimes("the next leader holds a lease while the first one leads unaware", |model, state| {
            model.finds(6, || {
                let next = leases(state).any(|(_, ballot)| ballot.node != NodeId(1));
                next && first_leads(state)
            })
        }),
        sometimes("the Freeze is acknowledged while the first leader leads unaware", |model, state| {
            model.finds(7, || state.frozen.is_some() && first_leads(state))
        }),
    ];
    if bounds.reads.iter().any(|reads| *reads > 0) {
        all.push(sometimes("a read is answered after a round", |model, state| {
            model.finds(8, || state.nodes.iter().any(|held| held.node.answered()))
        }));
    }
    if bounds.crashes.iter().any(|crashes| *crashes > 0) {
        all.push(sometimes("a node that crashed votes for the next leader", |model, state| {
            model.finds(9, || {
                state
                    .nodes
                    .iter()
                    .any(|held| held.node.spent().crashes > 0 && held.node.replica().promised().round > 1)
            })
        }));
    }
    if bounds.transfers > 0 {
        all.push(sometimes("the successor leads within the lease that was given up", |model, state| {
            model.finds(10, || state.ticks == 0 && leads(state).any(|ballot| ballot.round > 1))
        }));
    }
    all
}

/// With the types that a closure in a list doesn't know.
fn always(name: &'static str, holds: fn(&Lease, &State) -> bool) -> Property<Lease> {
    Property::always(name, holds)
}

fn sometimes(name: &'static str, shows: fn(&Lease, &State) -> bool) -> Property<Lease> {
    Property::sometimes(name, shows)
}

/// The leases that hold, and who holds them.
pub(crate) fn leases(state: &State) -> impl Iterator<Item = (NodeId, Ballot)> + '_ {
    state.nodes.iter().filter_map(|held| Some((held.node.replica().node(), held.node.lease()?)))
}

fn leads(state: &State) -> impl Iterator<Item = Ballot> + '_ {
    state.nodes.iter().filter_map(|held| held.node.replica().leading())
}

/// At its first ballot.
fn first_leads(state: &State) -> bool {
    leads(state).any(|ballot| (ballot.round, ballot.node) == (1, NodeId(1)))
}

fn no_fault(state: &State) -> bool {
    let replicas = state.nodes.iter().map(|held| held.node.replica());
    state.fault.is_none() && invariants::violated(replicas).is_none()
}

fn lags(state: &State, at: NodeId) -> bool {
    replica_lags(state, at, state.acked)
}

fn is_thawed(state: &State, at: NodeId) -> bool {
    state.frozen.is_some_and(|end| replica_lags(state, at, end))
}

fn replica_lags(state: &State, at: NodeId, end: Slot) -> bool {
    state.nodes.iter().any(|held| held.node.replica().node() == at && held.node.replica().applied_end() < end)
}
