//! What the chosen entries of a shard group make: the shipped state machine, applied request by request in the order of the log, so
//! that each turn of a copy and each answer is seen by itself.

use std::collections::{BTreeMap, BTreeSet};

use kvserver::command::{Op, Reply, Request, ShardId};
use kvserver::entry::is_group_request;
use kvserver::genesis::Genesis;
use kvserver::handoff::CopyPhase;
use kvserver::store::Store;
use paxos::codec;
use paxos::ids::{Generation, Slot};
use paxos::message::{Entry, Payload};
use paxos::rsm::batch::{BatchBuilder, BatchView};
use paxos::rsm::state_machine::{RequestId, StateMachine};
use shardmaster::ids::{Epoch, GroupRef, SHARDMASTER};

use crate::observation::Observation;

type Copies = BTreeMap<ShardId, (Epoch, CopyPhase)>;

/// See the module.
pub struct Reference {
    genesis: Genesis,
    groups: BTreeMap<GroupRef, Group>,
    /// Home shard of each request in a log, and whether its answer is kept.
    requests: BTreeMap<RequestId, (ShardId, bool)>,
}

struct Group {
    store: Store,
    copies: Copies,
}

/// An observation that owns what it says.
pub(super) enum Derived {
    Turned {
        group: GroupRef,
        shard: ShardId,
        before: Option<(Epoch, CopyPhase)>,
        after: Option<(Epoch, CopyPhase)>,
    },
    Answered {
        group: GroupRef,
        shard: ShardId,
        id: RequestId,
        recorded: bool,
        reply: Reply,
    },
    Reached {
        group: GroupRef,
        end: Slot,
        hash: u128,
    },
}

impl Derived {
    pub(super) fn seen(&self) -> Observation<'_> {
        match self {
            Derived::Turned { group, shard, before, after } => {
                Observation::Turned { group: *group, shard: *shard, before: *before, after: *after }
            }
            Derived::Answered { group, shard, id, recorded, reply } => {
                Observation::Answered { group: *group, shard: *shard, id: *id, recorded: *recorded, reply }
            }
            Derived::Reached { group, end, hash } => {
                Observation::Reached { group: *group, end: *end, hash: *hash }
            }
        }
    }
}

/// What holds a shard's copy at a group, by shard.
fn copies(store: &Store) -> Copies {
    store.copies().into_iter().map(|copy| (copy.shard, (copy.epoch, copy.phase))).collect()
}

impl Reference {
    /// Nothing is chosen yet.
    pub fn new(genesis: Genesis) -> Reference {
        Reference { genesis, groups: BTreeMap::new(), requests: BTreeMap::new() }
    }

    /// Applies the entry of the next slot. The shardmaster's aren't followed.
    pub(super) fn apply(&mut self, group: GroupRef, slot: Slot, entry: &Entry<Payload>) -> Vec<Derived> {
        let mut derived = Vec::new();
        if group.group == SHARDMASTER {
            return derived;
        }
        if !self.groups.contains_key(&group) {
            let machine = self.genesis.machine(group.group, group.generation, &[]);
            let Some(store) = machine.store().cloned() else { return derived };
            self.groups.insert(group, Group { store, copies: Copies::new() });
            self.turns(group, &mut derived);
        }
        if let Entry::Batch(Payload(batch)) = entry {
            self.apply_batch(group, slot, batch, &mut derived);
        }
        if let Some(Group { store, .. }) = self.groups.get(&group) {
            derived.push(Derived::Reached { group, end: slot.next(), hash: store.state_hash() });
        }
        derived
    }

    /// What is under way: a transaction, or a shard on its way.
    pub(super) fn unrest(&self) -> Option<String> {
        self.groups.iter().find_map(|(group, Group { store, copies })| {
            if !store.is_idle() {
                return Some(format!("{group} has a transaction"));
            }
            let moves = copies.iter().find(|(_, (_, phase))| *phase != CopyPhase::Serving);
            moves.map(|(shard, (epoch, phase))| format!("{shard} at {epoch} is {} at {group}", phase.word()))
        })
    }

    /// The groups that serve shards, and the shardmaster's.
    pub(super) fn serving(&self) -> BTreeSet<GroupRef> {
        let serves = |group: &Group| group.copies.values().any(|(_, phase)| *phase == CopyPhase::Serving);
        let master = GroupRef { group: SHARDMASTER, generation: Generation(1) };
        self.groups.iter().filter(|(_, group)| serves(group)).map(|(at, _)| *at).chain([master]).collect()
    }

    fn apply_batch(&mut self, group: GroupRef, slot: Slot, batch: &[u8], derived: &mut Vec<Derived>) {
        // What can't be read whole is left whole: the store counts it.
        let whole =
            BatchView::new(batch).and_then(|view| Ok((view.time, view.collect::<Result<Vec<_>, _>>()?)));
        match whole {
            Ok((time, requests)) if !requests.is_empty() => {
                for request in requests {
                    self.note(request);
                    let mut alone = BatchBuilder::default();
                    alone.push(request);
                    self.apply_bytes(group, slot, &alone.finish(time), derived);
                }
            }
            Ok(_) | Err(_) => self.apply_bytes(group, slot, batch, derived),
        }
    }

    /// Remembers what kind of request an id names.
    fn note(&mut self, bytes: &[u8]) {
        if is_group_request(bytes) {
            return;
        }
        let Ok(request) = codec::decode::<Request>(bytes) else { return };
        let recorded = match &request.op {
            Op::Ack => false,
            Op::Txn(txn) => !txn.is_read_only(),
            Op::Put { .. } | Op::Append { .. } | Op::Delete { .. } | Op::Cas { .. } | Op::Incr { .. } => true,
        };
        let id = RequestId { client: request.client, sequence: request.sequence };
        self.requests.entry(id).or_insert((request.shard, recorded));
    }

    fn apply_bytes(&mut self, group: GroupRef, slot: Slot, batch: &[u8], derived: &mut Vec<Derived>) {
        let Some(Group { store, .. }) = self.groups.get_mut(&group) else { return };
        let mut replies = Vec::new();
        store.apply(slot, batch, &mut replies);
        // Hints for leaders, and what is only dropped.
        drop((store.due(), store.discarded()));
        for (id, reply) in replies {
            if let Some((shard, recorded)) = self.requests.get(&id).copied() {
                derived.push(Derived::Answered { group, shard, id, recorded, reply });
            }
        }
        self.turns(group, derived);
    }

    fn turns(&mut self, group: GroupRef, derived: &mut Vec<Derived>) {
        let Some(Group { store, copies: known }) = self.groups.get_mut(&group) else { return };
        let now = copies(store);
        if now == *known {
            return;
        }
        for shard in (0..store.shard_count()).map(ShardId) {
            let (before, after) = (known.get(&shard).copied(), now.get(&shard).copied());
            if before != after {
                derived.push(Derived::Turned { group, shard, before, after });
            }
        }
        *known = now;
    }
}

#[cfg(test)]
mod tests {
    use kvserver::command::shard_of;
    use kvserver::entry::GroupRequest;
    use kvserver::genesis::Limits;
    use kvserver::handoff::HandoffCommand;
    use paxos::ids::{ClientId, GroupId, LogTime, Sequence};
    use shardmaster::orders::Order;

    use super::*;

    const GROUP: GroupRef = GroupRef { group: GroupId(1), generation: Generation(1) };

    fn put(sequence: u64) -> Vec<u8> {
        codec::encode(&Request {
            client: ClientId(7),
            sequence: Sequence(sequence),
            ack_through: Sequence(0),
            sent_at: LogTime(0),
            shard: shard_of(b"k", 2),
            op: Op::Append { key: b"k".to_vec(), value: b"x".to_vec() },
        })
    }

    fn handoff(sequence: u64, command: HandoffCommand) -> Vec<u8> {
        let (client, sequence) = (ClientId(8), Sequence(sequence));
        GroupRequest { client, sequence, command: command.into() }.encode()
    }

    fn entry(requests: &[Vec<u8>]) -> Entry<Payload> {
        let mut batch = BatchBuilder::default();
        requests.iter().for_each(|request| batch.push(request));
        Entry::Batch(Payload(batch.finish(LogTime(5)).into()))
    }

    #[test]
    fn a_batch_is_followed_request_by_request_to_the_state_that_it_makes_whole() {
        let genesis = Genesis::spread(Limits::default(), 2, &[GroupId(1)]).unwrap();
        let to = GroupRef { group: GroupId(2), generation: Generation(1) };
        let (shard, epoch) = (shard_of(b"k", 2), Epoch(2));
        let batch = entry(&[
            put(1),
            put(1),
            handoff(1, HandoffCommand::Start { shard, epoch, to }),
            handoff(2, HandoffCommand::Freeze { shard, epoch, staged: 0 }),
            put(2),
            handoff(3, HandoffCommand::Order(Order::Thaw { shard, epoch })),
        ]);
        let mut store = genesis.store(GroupId(1));
        let Entry::Batch(Payload(bytes)) = &batch else { unreachable!("it is one") };
        store.apply(Slot(1), bytes, &mut Vec::new());

        let derived = Reference::new(genesis).apply(GROUP, Slot(1), &batch);
        let words = derived.iter().map(|it| match it {
            Derived::Turned { after, .. } => after.map_or("none", |(_, phase)| phase.word()),
            Derived::Answered { reply: Reply::Refused(_), .. } => "refused",
            Derived::Answered { .. } => "answered",
            Derived::Reached { hash, end, .. } => {
                assert_eq!((*hash, *end), (store.state_hash(), Slot(2)));
                "reached"
            }
        });
        let begins = [
            "serving", "serving", "answered", "answered", "moving", "frozen", "refused", "serving", "reached",
        ];
        assert_eq!(words.collect::<Vec<_>>(), begins);
    }

    #[test]
    fn the_shardmaster_isnt_followed() {
        let genesis = Genesis::spread(Limits::default(), 2, &[GroupId(1)]).unwrap();
        let master = GroupRef { group: SHARDMASTER, generation: Generation(1) };
        assert!(Reference::new(genesis).apply(master, Slot(1), &entry(&[put(1)])).is_empty());
    }
}
