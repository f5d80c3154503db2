//! A shard that is about to move waits for its transactions to end: what asks for the freeze again changes nothing.

use kvserver::command::{Op, Request, ShardId, shard_of};
use kvserver::entry::GroupRequest;
use kvserver::genesis::Limits;
use kvserver::handoff::HandoffCommand;
use kvserver::store::Store;
use kvserver::txn::{Access, Age, Attempt, Decision, TxnCommand};
use paxos::codec;
use paxos::ids::{ClientId, Generation, GroupId, LogTime, Sequence};
use paxos::rsm::batch::BatchBuilder;
use paxos::rsm::state_machine::StateMachine;
use shardmaster::ids::{Epoch, GroupRef};

const HERE: ShardId = ShardId(0);
const EPOCH: Epoch = Epoch(2);

fn enter(store: &mut Store, bytes: &[u8]) -> usize {
    let mut batch = BatchBuilder::default();
    batch.push(bytes);
    let mut replies = 0;
    store.apply_each(&batch.finish(LogTime(0)), |_, _| replies += 1);
    replies
}

fn command(store: &mut Store, command: impl Into<kvserver::entry::GroupCommand>) {
    let request = GroupRequest { client: ClientId(1), sequence: Sequence(1), command: command.into() };
    enter(store, &request.encode());
}

#[test]
fn a_second_freeze_of_a_draining_shard_changes_nothing() {
    let key = (0..).map(|n| format!("k{n}").into_bytes()).find(|key| shard_of(key, 2) == HERE).unwrap();
    let mut store = Store::new(Limits::default(), 2, &[HERE]);
    let age = Age { sent_at: LogTime(0), client: ClientId(7), sequence: Sequence(1) };
    let attempt = Attempt { home: ShardId(1), number: 1, age };
    let keys = vec![(key.clone(), Access { reads: true, writes: true })];
    command(&mut store, TxnCommand::Prepare { attempt, shard: HERE, keys });
    let write = codec::encode(&Request {
        client: ClientId(8),
        sequence: Sequence(1),
        ack_through: Sequence(0),
        sent_at: LogTime(0),
        shard: HERE,
        op: Op::Put { key, value: b"v".to_vec() },
    });
    assert_eq!(enter(&mut store, &write), 0, "it waits for the lock");
    let to = GroupRef { group: GroupId(2), generation: Generation(1) };
    command(&mut store, HandoffCommand::Start { shard: HERE, epoch: EPOCH, to });
    command(&mut store, HandoffCommand::Freeze { shard: HERE, epoch: EPOCH, staged: 0 });
    let hash = store.state_hash();
    command(&mut store, HandoffCommand::Freeze { shard: HERE, epoch: EPOCH, staged: 0 });
    assert_eq!(store.state_hash(), hash);
    command(&mut store, TxnCommand::Decide { attempt, shard: HERE, decision: Decision::Abort });
    assert_eq!(store.keys(), 0, "it was frozen in the step that unlocked it");
    assert!(store.shards().next().is_none() && !store.is_empty());
}
