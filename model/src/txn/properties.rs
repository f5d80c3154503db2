//! The properties, as predicates over one state.
//!
//! Beside what must always hold stands what must be possible: a model in which nobody ever waits would hold all.

use kvserver::command::Op;
use kvserver::handoff::CopyPhase;
use kvserver::txn::{Attempt, Decision, TxnCommand, TxnState, TxnStatus};
use stateright::Property;

use crate::txn::bounds::{Bounds, SHARDS, first_owner, shard_of_key};
use crate::txn::world::{Commit, State};
use kvserver::command::ShardId;

/// The shipped code's own rules.
pub const P0: &str = "P0, P5: no assertion fails, each state holds its invariants and survives a snapshot";
/// Two that serve would both vote.
pub const P8: &str = "P8: at most one copy of a shard serves";
/// All or nothing, once, in an order.
pub const SERIAL: &str =
    "P9: what is decided is an order of whole operations, with the answers that were heard";
/// Whoever reads sees no half of a transaction.
pub const READS: &str = "a read that needn't wait finds what is decided";
/// No state is a dead end.
pub const COMPLETES: &str =
    "from here, without losses, no lock is left, each operation is executed once and answered as before";

/// The properties. Each is asked under a number of its own, see [`crate::search::Watch::finds`].
pub fn all(bounds: &Bounds) -> Vec<Property<Commit>> {
    let mut all = vec![
        always(P0, |model, state| !model.finds(0, || has_fault(state))),
        always(P8, |model, state| !model.finds(1, || two_serve(state))),
        always(SERIAL, |model, state| !model.finds(2, || !is_serial(model, state))),
        always(READS, |model, state| !model.finds(3, || !reads_are_decided(model, state))),
        always(COMPLETES, |model, state| !model.finds(4, || model.rest(state).is_err())),
        sometimes("all operations are answered", |model, state| {
            let all = model.bounds.ops.len();
            model.finds(5, || state.heard.iter().filter(|heard| heard.is_some()).count() == all)
        }),
        sometimes("a transaction over two groups commits", |model, state| {
            model.finds(6, || txns(state).any(|txn| txn.state == TxnState::Committed))
        }),
        sometimes("an attempt is given up", |model, state| {
            model.finds(7, || txns(state).any(|txn| txn.state == TxnState::Aborted))
        }),
        sometimes("a read waits for a transaction", |model, state| {
            model.finds(10, || read_waits(model, state))
        }),
    ];
    if bounds.late > 0 {
        all.extend([
            sometimes("a late Prepare locks keys for an attempt that is over", |model, state| {
                model.finds(8, || orphans(state).next().is_some())
            }),
            sometimes("such a lock is freed", |model, state| {
                model.finds(9, || frees_an_orphan(model, state))
            }),
        ]);
    }
    if bounds.ops.iter().filter(|op| matches!(op.op, Op::Txn(_))).count() > 1 {
        all.push(sometimes("an older transaction waits for a younger one", |model, state| {
            model.finds(11, || txns(state).any(|txn| txn.state == TxnState::Waiting))
        }));
    }
    if bounds.tries.iter().any(|tries| *tries > 1) {
        all.push(sometimes("an attempt is given up and the next one commits", |model, state| {
            model.finds(12, || next_one_commits(state))
        }));
    }
    if bounds.ops.iter().any(|op| !matches!(op.op, Op::Txn(_))) {
        all.push(sometimes("a write waits for a transaction", |model, state| {
            model.finds(13, || write_waits(model, state))
        }));
    }
    if bounds.strays() {
        all.push(sometimes("a shard waits for transactions to end before it freezes", |model, state| {
            model.finds(14, || phases(state).any(|phase| phase == CopyPhase::Moving))
        }));
        all.push(sometimes("a shard freezes in the step that frees its last lock", |model, state| {
            model.finds(15, || phases(state).any(|phase| phase == CopyPhase::Frozen))
        }));
        all.push(sometimes("a decision moves with its home shard", |model, state| {
            model.finds(16, || decision_moved(state))
        }));
        all.push(sometimes("both shards are at one group, and all is answered", |model, state| {
            let both = state.stores.iter().any(|held| held.copies.len() == usize::from(SHARDS));
            let all = model.bounds.ops.len();
            model.finds(17, || both && state.heard.iter().flatten().count() == all)
        }));
    }
    if bounds.cancels {
        all.push(sometimes("a move is cancelled while the shard waits to freeze", |model, state| {
            model.finds(18, || state.cancelled)
        }));
    }
    all
}

/// With the types that a closure in a list doesn't know.
fn always(name: &'static str, holds: fn(&Commit, &State) -> bool) -> Property<Commit> {
    Property::always(name, holds)
}

fn sometimes(name: &'static str, shows: fn(&Commit, &State) -> bool) -> Property<Commit> {
    Property::sometimes(name, shows)
}

fn has_fault(state: &State) -> bool {
    state.fault.is_some() || state.stores.iter().any(|held| held.fault.is_some())
}

fn two_serve(state: &State) -> bool {
    let serving = |shard| state.stores.iter().filter(|held| held.serves(shard)).count();
    (0..SHARDS).map(ShardId).any(|shard| serving(shard) > 1)
}

fn is_serial(model: &Commit, state: &State) -> bool {
    let explains =
        |values: &_| model.replays.of(values).any(|replay| replay.explains(&model.bounds, &state.heard));
    model.decided(&state.stores).is_ok_and(|values| explains(&values))
}

fn reads_are_decided(model: &Commit, state: &State) -> bool {
    let Ok(values) = model.decided(&state.stores) else { return false };
    let keys = model.bounds.keys();
    state.stores.iter().all(|held| {
        let mut reads = keys.iter().zip(&held.reads);
        reads.all(|(key, read)| read.as_ref().is_none_or(|found| found.as_ref() == values.get(key)))
    })
}

fn txns(state: &State) -> impl Iterator<Item = &TxnStatus> + '_ {
    state.stores.iter().flat_map(|held| &held.txns)
}

/// Locks of attempts of which no coordinator knows.
fn orphans(state: &State) -> impl Iterator<Item = &TxnStatus> + '_ {
    let coordinated = |attempt: &Attempt| {
        let coordinates = |txn: &&TxnStatus| !matches!(txn.state, TxnState::Prepared | TxnState::Waiting);
        txns(state).filter(coordinates).any(|txn| txn.attempt == *attempt)
    };
    txns(state).filter(move |txn| txn.state == TxnState::Prepared && !coordinated(&txn.attempt))
}

fn frees_an_orphan(model: &Commit, state: &State) -> bool {
    let frees = |orphan: &TxnStatus| {
        let decisions = state.network.all.iter().filter(|letter| {
            matches!(&letter.message, TxnCommand::Decide { attempt, shard, decision: Decision::Abort }
                if (*attempt, *shard) == (orphan.attempt, orphan.shard))
        });
        decisions.into_iter().any(|letter| {
            state.stores.iter().enumerate().any(|(at, held)| {
                let done = model.steps.deliver(&model.bounds, at, held, letter);
                held.txns.contains(orphan) && done.is_ok_and(|done| !done.held.txns.contains(orphan))
            })
        })
    };
    orphans(state).any(frees)
}

fn read_waits(model: &Commit, state: &State) -> bool {
    let keys = model.bounds.keys();
    state.stores.iter().any(|held| {
        let mut reads = keys.iter().zip(&held.reads);
        reads.any(|(key, read)| held.serves(shard_of_key(key)) && read.is_none())
    })
}

/// A request that had an effect and no answer.
fn write_waits(model: &Commit, state: &State) -> bool {
    let mut ops = model.bounds.ops.iter().enumerate();
    ops.any(|(n, op)| !matches!(op.op, Op::Txn(_)) && state.tries[n] > 0 && state.heard[n].is_none())
}

fn next_one_commits(state: &State) -> bool {
    let decided = |committed: bool| {
        state.network.all.iter().filter_map(move |letter| match &letter.message {
            TxnCommand::Decide { attempt, decision, .. } => {
                (committed != (*decision == Decision::Abort)).then_some(*attempt)
            }
            _ => None,
        })
    };
    decided(true).any(|last| decided(false).any(|first| first.age == last.age && first.number < last.number))
}

fn phases(state: &State) -> impl Iterator<Item = CopyPhase> + '_ {
    state.stores.iter().flat_map(|held| &held.copies).map(|copy| copy.phase)
}

fn decision_moved(state: &State) -> bool {
    state.stores.iter().enumerate().any(|(at, held)| {
        let moved = |txn: &TxnStatus| first_owner(txn.attempt.home) != at && txn.state == TxnState::Committed;
        held.txns.iter().any(moved)
    })
}
