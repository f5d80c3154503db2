//! The properties, as predicates over one state of a world. DESIGN gives the ids their meaning.
//!
//! Beside what must always hold stands what must be possible: a model in which nothing is ever chosen would hold every
//! property.

use paxos::ids::{Ballot, Slot};
use paxos::invariants;
use paxos::io::Timer;
use paxos::message::Entry;
use paxos::quorum::NodeSet;
use paxos::replica::FIRST_SLOT;
use stateright::Property;

use crate::bounds::{Bounds, REPLICAS};
use crate::node::{Node, end_of};
use crate::steps::Held;
use crate::world::{State, World};

/// The shipped replica asserts and its own monitors agree (P0 to P5).
pub const P0: &str = "P0-P5: no assertion fails, writes replay to the replica";
/// What a node confirmed is on its disk.
pub const P1: &str = "P1: no promise is taken back, on disk either";
/// A promise reports every vote below it.
pub const P2: &str = "P2: nothing is accepted below a promise";
/// Over all proposals ever sent.
pub const P3: &str = "P3: one ballot, one entry per slot";
/// Over all votes ever sent, and what replicas handed out.
pub const P4: &str = "P4: one entry chosen per slot, the one handed out";
/// In every state, so a crash at any moment finds it.
pub const P6: &str = "P6: a quorum's disks hold what is chosen";

/// The properties of a world within `bounds`. Each is asked under a number of its own, see [`World::finds`].
pub fn all(bounds: &Bounds) -> Vec<Property<World>> {
    let mut all = vec![
        always(P0, |world, state| !world.finds(0, || !no_fault(state))),
        always(P1, |world, state| !world.finds(1, || !promises_are_durable(state))),
        always(P2, |world, state| !world.finds(2, || !nothing_below_the_promise(state))),
        always(P3, |world, state| !world.finds(3, || state.network.facts.two_entries.is_some())),
        always(P4, |world, state| !world.finds(4, || !one_chosen(state))),
        always(P6, |world, state| !world.finds(6, || !chosen_is_durable(state))),
        sometimes("an entry is chosen and applied", |world, state| world.finds(7, || applied(state) > 0)),
    ];
    if bounds.timers.contains(&Timer::Heartbeat) || bounds.last_slot > FIRST_SLOT {
        all.push(sometimes("all replicas apply an entry", |world, state| {
            world.finds(8, || applied(state) == REPLICAS)
        }));
    }
    // Where there are checkpoints, the first value and its leader belong to what came before.
    let begins = bounds.checkpoints == 0;
    if begins && bounds.proposals.iter().filter(|values| **values > 0).count() > 1 {
        all.push(sometimes("the first value can win", |world, state| world.finds(9, || wins(state, 11))));
        all.push(sometimes("the second value can win", |world, state| world.finds(10, || wins(state, 21))));
    }
    if begins && bounds.campaigns.iter().filter(|ballots| **ballots > 0).count() > 1 {
        all.push(sometimes("a second leader adopts", |world, state| {
            world.finds(11, || state.network.facts.adopted)
        }));
    }
    if bounds.proposals[0] > 1 && bounds.campaigns[1] > 0 {
        all.push(sometimes("a second leader fills a hole", |world, state| {
            world.finds(14, || state.network.facts.hole_filled)
        }));
    }
    if bounds.checkpoints > 0 {
        all.push(sometimes("a node that lags installs a snapshot", |world, state| {
            world.finds(12, || state.nodes.iter().any(|held| has_installed(&held.node)))
        }));
        all.push(sometimes("after all crashes more is applied where the log was trimmed", |world, state| {
            let crashed = state.crashes == world.bounds.crashes;
            world.finds(13, || crashed && state.nodes.iter().any(|held| went_on_after_trim(&held.node)))
        }));
    }
    if bounds.crashes > 0 {
        all.push(sometimes("an entry is chosen in spite of all crashes", |world, state| {
            let crashed = state.crashes == world.bounds.crashes;
            world.finds(5, || crashed && !state.network.facts.chosen.is_empty())
        }));
    }
    all
}

/// With the types that a closure in a list doesn't know.
fn always(name: &'static str, holds: fn(&World, &State) -> bool) -> Property<World> {
    Property::always(name, holds)
}

fn sometimes(name: &'static str, shows: fn(&World, &State) -> bool) -> Property<World> {
    Property::sometimes(name, shows)
}

fn no_fault(state: &State) -> bool {
    let replicas = state.nodes.iter().map(|held| held.node.replica());
    state.fault.is_none() && invariants::violated(replicas).is_none()
}

fn promises_are_durable(state: &State) -> bool {
    state.nodes.iter().all(|held| {
        let confirmed = state.network.facts.confirmed.get(&held.node.replica().node());
        confirmed.is_none_or(|ballot| held.node.durable().promised >= *ballot)
    })
}

fn nothing_below_the_promise(state: &State) -> bool {
    let below = |held: &Held| {
        let durable = held.node.durable();
        durable.votes.values().all(|(ballot, _)| *ballot <= durable.promised)
    };
    state.network.facts.broken_promise.is_none() && state.nodes.iter().all(|held| below(held))
}

fn one_chosen(state: &State) -> bool {
    let facts = &state.network.facts;
    facts.two_chosen.is_none()
        && state.nodes.iter().all(|held| {
            let known = held.node.replica().log().from(FIRST_SLOT);
            known
                .filter_map(|(slot, held)| Some((slot, held.chosen.as_ref()?)))
                .all(|(slot, entry)| is_chosen(state, slot, entry))
                && (FIRST_SLOT.0..)
                    .map(Slot)
                    .zip(held.node.applied())
                    .all(|(slot, entry)| is_chosen(state, slot, entry))
        })
}

fn is_chosen(state: &State, slot: Slot, entry: &Entry<u8>) -> bool {
    let chosen = state.network.facts.chosen.get(&slot).and_then(|at| at.first());
    chosen.is_some_and(|(_, chosen)| chosen == entry)
}

fn chosen_is_durable(state: &State) -> bool {
    let voters = Bounds::voters();
    state.network.facts.chosen.iter().all(|(slot, at)| {
        at.iter().all(|(ballot, entry)| {
            let holds = |node: &Node| holds(node, *slot, *ballot, entry);
            let count = state.nodes.iter().filter(|held| holds(&held.node));
            let count: NodeSet = count.map(|held| held.node.replica().node()).collect();
            voters.is_quorum(&count)
        })
    })
}

/// Whether the disk of a node holds a chosen entry.
fn holds(node: &Node, slot: Slot, ballot: Ballot, entry: &Entry<u8>) -> bool {
    let voted = node.durable().votes.get(&slot);
    end_of(node.checkpoint()) > slot
        || voted.is_some_and(|(voted_at, held)| *voted_at >= ballot && held == entry)
}

/// The log says so; nothing else is there of the slots below.
fn has_installed(node: &Node) -> bool {
    !node.durable().unvouched.is_empty()
}

fn went_on_after_trim(node: &Node) -> bool {
    node.trimmed_end() > FIRST_SLOT && node.applied().len() > node.checkpoint().len()
}

/// How many replicas have handed out an entry to apply.
fn applied(state: &State) -> usize {
    state.nodes.iter().filter(|held| held.node.replica().applied_end() > FIRST_SLOT).count()
}

fn wins(state: &State, value: u8) -> bool {
    let chosen = state.network.facts.chosen.get(&FIRST_SLOT).and_then(|at| at.first());
    chosen.is_some_and(|(_, entry)| *entry == Entry::Batch(value))
}
