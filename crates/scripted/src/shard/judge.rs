//! Judges a world from outside, after every step.
//!
//! P7: a transaction runs in the step that decides it, a read in the step that answers it, each on what all before it left
//! (strict serializability, since a request is decided between its first try and its answer).
//! P8: a shard is served by one group at most; the epochs that serve it only grow, and an epoch serves at one group only.
//! P9: a request has an effect once, a retry is answered as the first try was, and who serves a shard holds what a plain
//! map holds that was told of each executed request. Who served it last has its copy until another one serves it, and no
//! staged copy differs from its seal. P10: at rest nothing is locked, owed or waiting. And what the shardmaster checks of itself, and fences that only grow.

use std::collections::BTreeMap;

use kvserver::command::{Op, Reply, Request};
use kvserver::handoff::{CopyPhase, CopyStatus};
use kvserver::query::{Answer, Pair, Query, ShardCursor};
use kvserver::store::Store;
use paxos::ids::{ClientId, Sequence};
use paxos::rsm::state_machine::StateMachine;
use shardmaster::ids::{Epoch, GroupRef, Owner, ShardId};
use shardmaster::master::Master;

use crate::shard::language;
use crate::shard::reference::Reference;
use crate::shard::text;

/// What was seen so far.
#[derive(Debug, Default)]
pub struct Judge {
    reference: Reference,
    replies: BTreeMap<(ClientId, Sequence), Reply>,
    served: BTreeMap<ShardId, Owner>,
    revisions: BTreeMap<ShardId, u64>,
    fences: BTreeMap<(GroupRef, ShardId), Epoch>,
    master: Option<Master>,
    /// Something was damaged on its way: a staged copy may differ from its seal.
    pub damaged: bool,
}

fn holds(rule: bool, text: impl FnOnce() -> String) -> Result<(), String> {
    if rule { Ok(()) } else { Err(text()) }
}

impl Judge {
    /// A request was answered.
    ///
    /// # Errors
    /// P9, if the answer isn't what it must be.
    pub fn on_reply(&mut self, request: &Request, reply: &Reply) -> Result<(), String> {
        if matches!(reply, Reply::Refused(_)) {
            return Ok(());
        }
        if let Op::Txn(txn) = &request.op
            && txn.is_read_only()
        {
            // It is run again.
            return holds(self.reference.decide(txn, reply), || {
                format!("P7: a transaction that reads was answered [{}]", text::reply(reply))
            });
        }
        let id = (request.client, request.sequence);
        if let Some(first) = self.replies.get(&id) {
            return holds(reply == first, || {
                format!("P9: a retry was answered {reply:?}, at first {first:?}")
            });
        }
        self.replies.insert(id, reply.clone());
        match &request.op {
            Op::Txn(txn) => holds(self.reference.decide(txn, reply), || {
                format!("P7: a transaction was answered [{}]", text::reply(reply))
            }),
            op => holds(self.reference.execute(op, reply), || {
                format!("P9: {:?} was answered {reply:?}", request.op)
            }),
        }
    }

    /// A read was answered.
    ///
    /// # Errors
    /// P7, if it isn't what the last write left.
    pub fn on_read(&self, query: &Query, answer: &Answer, shards: u16) -> Result<(), String> {
        match (query, answer) {
            (Query::Get { key, .. }, Answer::Value(found)) => {
                let found = found.as_ref().map(|(value, _)| value);
                holds(found == self.reference.value(key), || {
                    let (key, due) = (language::full_key(key, shards), self.reference.shown(key));
                    format!("P7: a read of {key} found {found:?}, it should be {due}")
                })
            }
            (Query::Scan { .. }, Answer::Page(pages)) => {
                let wrong = pages
                    .iter()
                    .find(|page| shown(&page.pairs) != self.reference.shard_text(page.shard, shards));
                wrong.map_or(Ok(()), |page| {
                    let (found, due) = (shown(&page.pairs), self.reference.shard_text(page.shard, shards));
                    Err(format!("P7: a scan of {} found [{found}], it should be [{due}]", page.shard))
                })
            }
            _ => Ok(()),
        }
    }

    /// Checks a state of the world.
    ///
    /// # Errors
    /// The property that doesn't hold.
    pub fn check<'a>(
        &mut self,
        master: &Master,
        groups: impl Iterator<Item = (GroupRef, &'a Store)> + Clone,
    ) -> Result<(), String> {
        master.check()?;
        if let Some(before) = &self.master {
            master.check_since(before)?;
        }
        self.master = Some(master.clone());
        let mut serving: BTreeMap<ShardId, GroupRef> = BTreeMap::new();
        for (at, store) in groups.clone() {
            holds(store.state_hash() == store.recomputed_hash(), || {
                format!("P5: the state hash of {at} isn't that of its state")
            })?;
            self.check_fences(at, store)?;
            for shard in store.shards() {
                if let Some(other) = serving.insert(shard, at) {
                    return Err(format!("P8: {shard} is served by {other} and {at}"));
                }
                self.check_copy(master, at, store, shard)?;
            }
        }
        let copies: Vec<(GroupRef, CopyStatus)> =
            groups.flat_map(|(at, store)| store.copies().into_iter().map(move |copy| (at, copy))).collect();
        self.check_seals(&copies)?;
        self.check_last(&copies)
    }

    /// What was sent is what was frozen, unless something damaged it.
    fn check_seals(&self, copies: &[(GroupRef, CopyStatus)]) -> Result<(), String> {
        let differs = copies.iter().find(|(_, copy)| copy.mismatches > 0 && !self.damaged);
        differs.map_or(Ok(()), |(at, copy)| {
            Err(format!("P9: what {at} staged of {} isn't what was frozen", copy.shard))
        })
    }

    /// Who served a shard last has its copy until another one serves it.
    fn check_last(&self, copies: &[(GroupRef, CopyStatus)]) -> Result<(), String> {
        for (shard, last) in &self.served {
            let is_it = |(at, copy): &(GroupRef, CopyStatus)| {
                copy.shard == *shard
                    && (*at, copy.epoch) == (last.group, last.epoch)
                    && copy.phase != CopyPhase::Staging
            };
            holds(copies.iter().any(is_it), || {
                format!(
                    "P9: {} served {shard} last, at {}, and has no copy of it any more",
                    last.group, last.epoch
                )
            })?;
        }
        Ok(())
    }

    fn check_fences(&mut self, at: GroupRef, store: &Store) -> Result<(), String> {
        for shard in (0..store.shard_count()).map(ShardId) {
            let seen = self.fences.entry((at, shard)).or_default();
            let fence = store.fence(shard);
            holds(fence >= *seen, || {
                format!("P8: the fence of {shard} at {at} fell from {seen} to {fence}")
            })?;
            *seen = fence;
        }
        Ok(())
    }

    fn check_copy(
        &mut self,
        master: &Master,
        at: GroupRef,
        store: &Store,
        shard: ShardId,
    ) -> Result<(), String> {
        let copies = store.copies();
        let Some(copy) = copies.iter().find(|copy| copy.shard == shard) else { return Ok(()) };
        let owner = Owner { group: at, epoch: copy.epoch };
        let before = *self.served.entry(shard).or_insert(owner);
        holds(before == owner || before.epoch < owner.epoch, || {
            format!(
                "P8: {shard} is served by {at} at {}, after {} at {}",
                owner.epoch, before.group, before.epoch
            )
        })?;
        self.served.insert(shard, owner);
        let known = master.owner(shard).map_or(Epoch(0), |owner| owner.epoch);
        holds(known <= owner.epoch, || {
            format!("P8: {shard} is served at {}, gone since {known}", owner.epoch)
        })?;
        let revision = self.revisions.entry(shard).or_default();
        holds(copy.revision >= *revision, || {
            format!("P8: the revision of {shard} fell from {revision} to {}", copy.revision)
        })?;
        *revision = copy.revision;
        let (found, shards) = (content(store, shard)?, store.shard_count());
        let waits = |key: &[u8]| store.is_blocked(&Query::Get { shard, key: key.to_vec() });
        let same = self.reference.observe(shard, shards, &found, waits);
        same.map_err(|key| {
            let (key, due) = (text::name(&key), self.reference.shard_text(shard, shards));
            let found = shown(&found);
            format!("P9: of {shard} {at} holds [{found}], it should be [{due}]: {key} differs")
        })
    }

    /// Checks a world in which nothing is owed any more: each shard is served, nothing is locked.
    ///
    /// # Errors
    /// The shard that isn't.
    pub fn check_rest<'a>(
        &self,
        master: &Master,
        groups: impl Iterator<Item = (GroupRef, &'a Store)>,
    ) -> Result<(), String> {
        let mut served: BTreeMap<ShardId, GroupRef> = BTreeMap::new();
        for (at, store) in groups {
            served.extend(store.shards().map(|shard| (shard, at)));
            let idle = store.txns().is_empty() && store.parked().is_empty() && store.txn_duties().is_empty();
            holds(idle, || format!("P10: at rest, {at} has a transaction"))?;
        }
        for shard in (0..master.shard_count()).map(ShardId) {
            let owner = master.owner(shard).map(|owner| owner.group);
            holds(served.get(&shard).copied() == owner, || format!("P10: at rest, nobody serves {shard}"))?;
        }
        Ok(())
    }
}

fn shown(pairs: &[Pair]) -> String {
    let pair = |pair: &Pair| format!("{}={}", text::name(&pair.key), String::from_utf8_lossy(&pair.value));
    pairs.iter().map(pair).collect::<Vec<_>>().join(" ")
}

/// All pairs of a shard that is served.
fn content(store: &Store, shard: ShardId) -> Result<Vec<Pair>, String> {
    let shards = vec![ShardCursor { shard, after: None }];
    let query = Query::Scan { shards, prefix: Vec::new(), limit: 1_000, keys_only: false };
    match store.query(&query) {
        Answer::Page(pages) => Ok(pages.into_iter().flat_map(|page| page.pairs).collect()),
        other => Err(format!("P8: a copy that serves answers {other:?}")),
    }
}

#[cfg(test)]
mod tests {
    use kvserver::command::shard_of;
    use kvserver::genesis::Limits;
    use kvserver::txn::{Txn, TxnOp};
    use paxos::codec;
    use paxos::ids::{Generation, GroupId, LogTime, Slot};
    use paxos::rsm::batch::BatchBuilder;

    use super::*;

    fn group(id: u32) -> GroupRef {
        GroupRef { group: GroupId(id), generation: Generation(1) }
    }

    fn judged(judge: &mut Judge, owned: [&[ShardId]; 2]) -> Result<(), String> {
        let master = Master::new(1, &[GroupId(1), GroupId(2)], &[], vec![GroupId(1)]);
        let stores = owned.map(|owned| Store::new(Limits::default(), 1, owned));
        judge.check(&master, (1..).map(group).zip(&stores))
    }

    #[test]
    fn two_owners_are_noticed() {
        let both = judged(&mut Judge::default(), [&[ShardId(0)], &[ShardId(0)]]);
        assert_eq!(both, Err("P8: shard 0 is served by g1.1 and g2.1".to_string()));
    }

    #[test]
    fn an_epoch_at_two_groups_and_a_fence_that_falls_are_noticed() {
        let mut judge = Judge::default();
        assert_eq!(judged(&mut judge, [&[ShardId(0)], &[]]), Ok(()));
        let other = judged(&mut judge, [&[], &[ShardId(0)]]);
        assert_eq!(other, Err("P8: the fence of shard 0 at g1.1 fell from e1 to e0".to_string()));
        let lost = judged(&mut judge, [&[], &[]]);
        assert!(lost.is_err());
        judge.fences.clear();
        let lost = judged(&mut judge, [&[], &[]]);
        assert_eq!(
            lost,
            Err("P9: g1.1 served shard 0 last, at e1, and has no copy of it any more".to_string())
        );
        judge.fences.clear();
        let other = judged(&mut judge, [&[], &[ShardId(0)]]);
        assert_eq!(other, Err("P8: shard 0 is served by g2.1 at e1, after g1.1 at e1".to_string()));
    }

    #[test]
    fn what_is_lost_and_what_is_done_twice_is_noticed() {
        let mut judge = Judge::default();
        let request = Request {
            client: ClientId(1),
            sequence: Sequence(1),
            ack_through: Sequence(0),
            sent_at: LogTime(0),
            shard: ShardId(0),
            op: Op::Append { key: b"k".to_vec(), value: b"x".to_vec() },
        };
        assert_eq!(judge.on_reply(&request, &Reply::Written { length: 1, version: 1 }), Ok(()));
        assert!(judge.on_reply(&request, &Reply::Written { length: 2, version: 2 }).is_err());
        assert!(judged(&mut judge, [&[ShardId(0)], &[]]).is_err_and(|text| text.starts_with("P9: ")));
    }

    #[test]
    fn an_old_read_and_a_lock_at_rest_are_noticed() {
        let mut judge = Judge::default();
        let request = |op| Request {
            client: ClientId(1),
            sequence: Sequence(1),
            ack_through: Sequence(0),
            sent_at: LogTime(0),
            shard: ShardId(0),
            op,
        };
        let op = Op::Put { key: b"k".to_vec(), value: b"x".to_vec() };
        assert_eq!(judge.on_reply(&request(op), &Reply::Written { length: 1, version: 1 }), Ok(()));
        let read = Query::Get { shard: ShardId(0), key: b"k".to_vec() };
        assert_eq!(judge.on_read(&read, &Answer::Value(Some((b"x".to_vec(), 1))), 1), Ok(()));
        let old = judge.on_read(&read, &Answer::Value(None), 1);
        assert!(old.is_err_and(|text| text.starts_with("P7: ")));

        let key = (0..9_u8).map(|n| vec![n]).find(|key| shard_of(key, 2) == ShardId(1)).unwrap();
        let home = (0..9_u8).map(|n| vec![n]).find(|key| shard_of(key, 2) == ShardId(0)).unwrap();
        let then = [home, key].map(|key| TxnOp::Put { key, value: Vec::new() }).to_vec();
        let mut store = Store::new(Limits::default(), 2, &[ShardId(0)]);
        let mut batch = BatchBuilder::default();
        let begin = request(Op::Txn(Box::new(Txn { then, ..Txn::default() })));
        batch.push(&codec::encode(&begin));
        store.apply(Slot(1), &batch.finish(LogTime(0)), &mut Vec::new());
        let master = Master::new(1, &[GroupId(1)], &[], vec![GroupId(1)]);
        let rest = Judge::default().check_rest(&master, [(group(1), &store)].into_iter());
        assert_eq!(rest, Err("P10: at rest, g1.1 has a transaction".to_string()));
    }
}
