//! The properties, as predicates over one state. DESIGN gives the ids their meaning.
//!
//! Beside what must always hold stands what must be possible: a model in which nothing ever moves would hold all.

use std::collections::BTreeSet;

use kvserver::command::{BusyReason, Refusal, Reply};
use kvserver::handoff::{CopyPhase, HandoffCommand};
use paxos::rsm::state_machine::StateMachine;
use shardmaster::ids::Epoch;
use shardmaster::orders::{Order, Report};
use stateright::Property;

use crate::groups::{GROUPS, index};
use crate::handoff::bounds::{Bounds, late};
use crate::handoff::clients::is_answer;
use crate::handoff::machines::HeldStore;
use crate::handoff::network::{Message, reports};
use crate::handoff::sabotage;
use crate::handoff::world::{Handoff, State};

/// The shipped code's own rules.
pub const P0: &str = "P0, P5: no assertion fails, each state holds its invariants and survives a snapshot";
/// Two that serve would both take writes.
pub const P8: &str = "P8: at most one copy serves, and an epoch belongs to one group";
/// What an answer says was done once, and isn't lost.
pub const P9: &str =
    "P9: the newest copy is a replay of its session table, and whatever was answered is in it";
/// The digest never had to stop anything.
pub const SEALED: &str = "no copy differs from its seal";
/// The shardmaster believes only what is so.
pub const OWNER: &str = "who owns the shard for the shardmaster has activated it";
/// No state is a dead end.
pub const COMPLETES: &str = "from here, without losses, all moves end and all operations are answered";

/// The properties. Each is asked under a number of its own, see [`crate::search::Watch::finds`].
pub fn all(bounds: &Bounds) -> Vec<Property<Handoff>> {
    let mut all = vec![
        always(P0, |model, state| !model.finds(0, || has_fault(state))),
        always(P8, |model, state| !model.finds(1, || two_owners(state))),
        always(P9, |model, state| !model.finds(2, || !holds_what_was_answered(model, state))),
        always(SEALED, |model, state| !model.finds(3, || differs(state))),
        always(OWNER, |model, state| !model.finds(4, || !owner_activated(state))),
        always(COMPLETES, |model, state| !model.finds(5, || model.completes(state).is_err())),
        sometimes("the shard goes and comes back", |model, state| {
            model.finds(6, || came_back(state) && state.master.master.is_at_rest())
        }),
        sometimes("a retry is answered from the copied session table", |model, state| {
            model.finds(7, || retry_is_answered(model, state))
        }),
        sometimes("a late Release of the first move finds the shard back", |model, state| {
            model.finds(8, || late_release(state))
        }),
        sometimes("a Freeze is refused since too much changed", |model, state| {
            model.finds(9, || refused_freeze(model, state))
        }),
        sometimes("a write is refused since too much changed", |model, state| {
            model.finds(10, || refused_write(model, state))
        }),
        sometimes("a frozen copy thaws", |model, state| model.finds(11, || thaws(model, state))),
        sometimes("a move that is to be cancelled ends all the same", |model, state| {
            let cancels =
                orders(state).any(|(_, order)| matches!(order, Order::Abandon { epoch: Epoch(2), .. }));
            model.finds(12, || cancels && came_back(state))
        }),
    ];
    if bounds.ages {
        all.push(sometimes("the destination is as late as the source", |model, state| {
            model.finds(13, || {
                state.stores.iter().all(|held| held.store.log_time() == late()) && came_back(state)
            })
        }));
        all.push(sometimes("a retry is refused as too old at the destination", |model, state| {
            model.finds(14, || state.stores[1].serves() && is_too_old(model, state))
        }));
    }
    all
}

/// With the types that a closure in a list doesn't know.
fn always(name: &'static str, holds: fn(&Handoff, &State) -> bool) -> Property<Handoff> {
    Property::always(name, holds)
}

fn sometimes(name: &'static str, shows: fn(&Handoff, &State) -> bool) -> Property<Handoff> {
    Property::sometimes(name, shows)
}

fn has_fault(state: &State) -> bool {
    state.fault.is_some()
        || state.master.fault.is_some()
        || state.stores.iter().any(|held| held.fault.is_some())
}

/// Who ever served which epoch: each activation was reported in the step that did it.
fn activated(state: &State) -> BTreeSet<(Epoch, usize)> {
    let moved = reports(&state.network).filter_map(|(from, report)| match report {
        Report::Moved { epoch, .. } => Some((epoch, from)),
        _ => None,
    });
    std::iter::once((Epoch(1), 0)).chain(moved).collect()
}

fn two_owners(state: &State) -> bool {
    let serving = state.stores.iter().filter(|held| held.serves()).count();
    let owned = (0..GROUPS).filter_map(|at| Some((state.stores[at].owned()?, at)));
    let mut owners = activated(state);
    owners.extend(owned);
    let epochs: BTreeSet<Epoch> = owners.iter().map(|(epoch, _)| *epoch).collect();
    serving > 1 || epochs.len() < owners.len()
}

/// The copy that counts: the newest of those that serve or served.
fn newest(state: &State) -> Option<&HeldStore> {
    let held = state.stores.iter().max_by_key(|held| held.owned())?;
    held.owned().and(Some(held))
}

fn holds_what_was_answered(model: &Handoff, state: &State) -> bool {
    let digest = newest(state).and_then(|held| held.digest);
    digest.is_some_and(|digest| {
        model.replays.of(digest).any(|replay| {
            state.heard.iter().zip(&replay.replies).all(|(heard, done)| heard.is_none() || heard == done)
        })
    })
}

fn differs(state: &State) -> bool {
    state.stores.iter().filter_map(|held| held.copy.as_ref()).any(|copy| copy.mismatches > 0)
}

/// There is a copy of that epoch or a later one, and the group named reported to serve that epoch.
fn owner_activated(state: &State) -> bool {
    let owner = state.master.owner.and_then(|owner| Some((owner.epoch, index(owner.group)?)));
    owner.is_some_and(|(epoch, at)| {
        newest(state).and_then(HeldStore::owned).is_some_and(|newest| newest >= epoch)
            && activated(state).contains(&(epoch, at))
    })
}

fn came_back(state: &State) -> bool {
    state.stores[0].owned().is_some_and(|epoch| epoch > Epoch(1))
}

/// What the source executed before it froze is answered at the destination, and changes nothing there.
fn retry_is_answered(model: &Handoff, state: &State) -> bool {
    let Some(to) = (0..GROUPS).find(|at| state.stores[*at].phase() == Some(CopyPhase::Serving)) else {
        return false;
    };
    let source = sabotage::thawed(&state.stores[1 - to].store).and(state.stores[1 - to].digest);
    let Some(before) = source.and_then(|digest| model.replays.of(digest).next()) else { return false };
    (0..model.bounds.ops.len()).any(|n| {
        let done = model.steps.request(&model.bounds, to, &state.stores[to], n);
        before.replies[n].is_some()
            && done.is_ok_and(|done| {
                done.held.hash == state.stores[to].hash && done.reply.as_ref().is_some_and(is_answer)
            })
    })
}

/// What was executed and forgotten is refused at the destination.
fn is_too_old(model: &Handoff, state: &State) -> bool {
    (0..model.bounds.ops.len()).any(|n| {
        let done = model.steps.request(&model.bounds, 1, &state.stores[1], n);
        let refusal = Reply::Refused(Refusal::SessionExpired);
        state.heard[n].is_some() && done.is_ok_and(|done| done.reply.as_ref() == Some(&refusal))
    })
}

fn orders(state: &State) -> impl Iterator<Item = (usize, Order)> + '_ {
    state.network.all.iter().filter_map(|letter| match &letter.message {
        Message::Command { to, command: HandoffCommand::Order(order) } => Some((*to, *order)),
        _ => None,
    })
}

fn late_release(state: &State) -> bool {
    let first = |order: Order| matches!(order, Order::Release { epoch: Epoch(2), .. });
    came_back(state) && state.stores[0].serves() && orders(state).any(|(to, order)| to == 0 && first(order))
}

fn refused_freeze(model: &Handoff, state: &State) -> bool {
    state.network.all.iter().any(|letter| {
        let Message::Command { to, command: HandoffCommand::Freeze { epoch, .. } } = letter.message else {
            return false;
        };
        let held = &state.stores[to];
        let moves = held.copy.as_ref().and_then(|copy| copy.other).is_some_and(|(move_, _)| move_ == epoch);
        let done = model.steps.deliver(&model.bounds, to, held, letter);
        moves
            && held.phase() == Some(CopyPhase::Moving)
            && done.is_ok_and(|done| done.held.phase() == Some(CopyPhase::Moving))
    })
}

fn refused_write(model: &Handoff, state: &State) -> bool {
    let refusal = Reply::Refused(Refusal::Busy(BusyReason::Moving));
    (0..GROUPS).filter(|at| state.stores[*at].phase() == Some(CopyPhase::Moving)).any(|at| {
        (0..model.bounds.ops.len()).any(|n| {
            let done = model.steps.request(&model.bounds, at, &state.stores[at], n);
            done.is_ok_and(|done| done.reply.as_ref() == Some(&refusal))
        })
    })
}

fn thaws(model: &Handoff, state: &State) -> bool {
    state.network.all.iter().any(|letter| {
        let Message::Command { to, command: HandoffCommand::Order(Order::Thaw { .. }) } = letter.message
        else {
            return false;
        };
        let done = model.steps.deliver(&model.bounds, to, &state.stores[to], letter);
        state.stores[to].phase() == Some(CopyPhase::Frozen) && done.is_ok_and(|done| done.held.serves())
    })
}
