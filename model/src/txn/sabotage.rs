//! Bugs put around the shipped code on purpose, to prove that the models see them.

use kvserver::command::{Op, Refusal, Reply, Request, ShardId};
use kvserver::store::Store;
use kvserver::txn::{Access, Attempt, Decision, TxnAnswer, TxnCommand, TxnState};
use paxos::codec;
use paxos::ids::{LogTime, Sequence};
use paxos::rsm::state_machine::RequestId;

use crate::groups::{GROUPS, enter};
use crate::txn::bounds::{Bounds, first_owner};
use crate::txn::machines::{enter_txn, find, lock_of, own_answer};

/// One bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sabotage {
    /// The coordinator's leader sends the decision when it has the last vote, before that is applied.
    CommitsEarly,
    /// A new leader of a group knows of no locks.
    LocksLost,
    /// Whoever hears a decision acknowledges it, even if it doesn't serve the shard.
    StrangerAcknowledges,
    /// Whoever is asked about an attempt that it doesn't know says that it was aborted.
    StrangerAborts,
    /// A Commit is installed under whatever lock its attempt holds.
    LockIgnored,
    /// The coordinator's record stays behind when its shard moves.
    RecordLeftBehind,
    /// A refused attempt is kept in the session table.
    ConflictRecorded,
    /// A Prepare that can't lock all keys locks one of them.
    LocksOneKey,
    /// A decision is forgotten when it is sent.
    ForgottenWhenSent,
    /// A key that is written is only locked as one that is read.
    WritersShare,
}

impl Sabotage {
    /// What a group makes of a message before it applies it; `None`: what it is.
    pub(crate) fn takes(self, store: &Store, command: &TxnCommand) -> Option<TxnCommand> {
        let mut taken = command.clone();
        match (self, &mut taken) {
            (Sabotage::LockIgnored, TxnCommand::Decide { attempt, shard, decision }) => {
                if let Decision::Commit { lock, .. } = decision {
                    *lock = lock_of(&store.txn_duties(), attempt, *shard)?;
                }
            }
            (Sabotage::WritersShare, TxnCommand::Prepare { keys, .. }) => {
                keys.iter_mut().for_each(|(_, access)| access.writes = false);
            }
            (Sabotage::LocksOneKey, TxnCommand::Prepare { keys, .. }) => {
                if granted(store, command) {
                    return None;
                }
                let alone = std::mem::take(keys).into_iter().find(|key| {
                    let mut alone = command.clone();
                    if let TxnCommand::Prepare { keys, .. } = &mut alone {
                        *keys = vec![key.clone()];
                    }
                    granted(store, &alone)
                });
                *keys = vec![alone?];
            }
            _ => return None,
        }
        Some(taken)
    }

    /// What a group answers to a message that it has applied.
    pub(crate) fn answers(
        self,
        store: &Store,
        command: &TxnCommand,
        answer: Option<TxnAnswer>,
    ) -> Option<TxnAnswer> {
        match (self, command, answer?) {
            (
                Sabotage::StrangerAcknowledges,
                TxnCommand::Decide { .. },
                TxnAnswer::WrongGroup(_) | TxnAnswer::Later,
            ) => Some(TxnAnswer::Done),
            (
                Sabotage::StrangerAborts,
                TxnCommand::Vote { .. },
                TxnAnswer::WrongGroup(_) | TxnAnswer::Later,
            ) => Some(TxnAnswer::Decided(Decision::Abort)),
            (Sabotage::LocksOneKey, TxnCommand::Prepare { keys, .. }, TxnAnswer::Granted(mut grant)) => {
                let value =
                    |(key, access): &(Vec<u8>, Access)| find(store, key).flatten().filter(|_| access.reads);
                grant.found = keys.iter().map(value).collect();
                Some(TxnAnswer::Granted(grant))
            }
            (_, _, answer) => Some(answer),
        }
    }

    /// What else a group does in a step.
    pub(crate) fn after(self, bounds: &Bounds, store: &mut Store, said: &[(RequestId, Reply)]) {
        if self == Sabotage::ForgottenWhenSent {
            forget_decisions(store, |_| true);
        }
        let refused = |reply: &Reply| matches!(reply, Reply::Refused(Refusal::Conflict(_)));
        for (id, _) in said.iter().filter(|(_, reply)| self == Sabotage::ConflictRecorded && refused(reply)) {
            let Some(op) = bounds.ops.iter().find(|op| op.id() == *id) else { continue };
            let Some(key) = op.keys().into_iter().find(|key| find(store, key).is_some()) else { continue };
            let request = Request {
                client: id.client,
                sequence: id.sequence,
                ack_through: Sequence(0),
                sent_at: LogTime(0),
                shard: op.home(),
                op: Op::Cas { key, expected: Some(b"something else".to_vec()), value: Vec::new() },
            };
            enter(store, &codec::encode(&request));
        }
    }

    /// What becomes of a shard that is about to move.
    pub(crate) fn moves(self, stores: &mut [Store; GROUPS], shard: ShardId) {
        if self == Sabotage::RecordLeftBehind {
            forget_decisions(&mut stores[first_owner(shard)], |attempt| attempt.home == shard);
        }
    }
}

fn granted(store: &Store, command: &TxnCommand) -> bool {
    let said = enter_txn(&mut store.clone(), command);
    matches!(own_answer(&said), Some(TxnAnswer::Granted(_)))
}

/// As if all participants had acknowledged.
fn forget_decisions(store: &mut Store, which: impl Fn(&Attempt) -> bool) {
    for duty in store.txn_duties() {
        if let TxnCommand::Decide { attempt, shard, .. } = duty.command
            && which(&attempt)
        {
            enter_txn(store, &TxnCommand::Acked { attempt, shard });
        }
    }
}

/// Takes all locks off a group.
pub(crate) fn lose_locks(store: &mut Store) -> Vec<(RequestId, Reply)> {
    let locks = store.txns().into_iter().filter(|txn| txn.state == TxnState::Prepared);
    let mut said = Vec::new();
    for lock in locks {
        let decision = Decision::Abort;
        let command = TxnCommand::Decide { attempt: lock.attempt, shard: lock.shard, decision };
        said.extend(enter_txn(store, &command));
    }
    said
}
