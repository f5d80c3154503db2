//! Groups under hostile entries: what really goes between clients and groups, with fields changed, at the wrong group, late
//! and twice. Whatever comes, a group goes on, and its state is as its hash and its snapshot say.

use fuzz::dice::Dice;
use fuzz::mutate::mutate;
use kvserver::command::{Op, Reply, Request, ShardId, shard_of};
use kvserver::entry::{GroupCommand, GroupRequest};
use kvserver::genesis::Limits;
use kvserver::handoff::{Base, Chunk, HandoffCommand, Item, Position};
use kvserver::query::{Answer, Query};
use kvserver::store::Store;
use kvserver::txn::{Compare, Condition, Relation, Txn, TxnCommand, TxnDuty, TxnOp};
use paxos::codec;
use paxos::ids::{ClientId, Generation, GroupId, LogTime, Sequence, Slot};
use paxos::rsm::batch::BatchBuilder;
use paxos::rsm::state_machine::StateMachine;
use shardmaster::ids::{Epoch, GroupRef};
use shardmaster::orders::Order;

use crate::common::SHARDS;

const GROUPS: usize = 3;
/// Who asks on behalf of a group.
const ASKER: ClientId = ClientId(1 << 100);

pub(crate) fn limits() -> Limits {
    Limits {
        session_ttl_ms: 1000,
        ahead_max_ms: 100,
        sessions_per_shard: 5,
        session_window: 8,
        handoff_chunk_bytes: 80,
        handoff_freeze_lag: 2,
        handoff_rounds: 2,
        txn_keys: 8,
        txns_per_shard: 4,
        parked_per_shard: 3,
        parked_bytes_per_shard: 500,
        ..Limits::default()
    }
}

fn group(at: usize) -> GroupRef {
    GroupRef { group: GroupId(at as u32 + 1), generation: Generation(1) }
}

/// The n-th key of a shard.
fn key(shard: u16, n: usize) -> Vec<u8> {
    let keys = (0_u32..).map(|i| format!("k{i}").into_bytes());
    keys.filter(|key| shard_of(key, SHARDS).0 == shard).nth(n).unwrap_or_default()
}

fn request(client: u128, sequence: u64, sent_at: u64, op: Op) -> Request {
    let home = match &op {
        Op::Txn(txn) => txn.first_key().map(<[u8]>::to_vec),
        op => op.key().map(<[u8]>::to_vec),
    };
    Request {
        client: ClientId(client),
        sequence: Sequence(sequence),
        ack_through: Sequence(sequence.saturating_sub(3)),
        sent_at: LogTime(sent_at),
        shard: shard_of(&home.unwrap_or_default(), SHARDS),
        op,
    }
}

fn transfer(from: Vec<u8>, to: Vec<u8>) -> Op {
    let condition = Condition::Version(Relation::Less, 900);
    Op::Txn(Box::new(Txn {
        compares: vec![Compare { key: from.clone(), condition }],
        then: vec![
            TxnOp::Incr { key: from.clone(), by: -1 },
            TxnOp::Copy { key: to.clone(), from: from.clone() },
            TxnOp::Cas { key: to.clone(), expected: None, value: b"1".to_vec() },
        ],
        otherwise: vec![TxnOp::Get { key: to }, TxnOp::Delete { key: from }],
    }))
}

/// One of each kind, all to one shard but for transactions.
pub(crate) fn requests() -> Vec<Request> {
    let here = || key(0, 0);
    let ops = vec![
        Op::Put { key: here(), value: b"7".to_vec() },
        Op::Append { key: here(), value: b"8".to_vec() },
        Op::Delete { key: here() },
        Op::Cas { key: here(), expected: Some(b"7".to_vec()), value: vec![b'x'; 40] },
        Op::Incr { key: here(), by: -300 },
        Op::Ack,
        transfer(key(0, 1), key(0, 2)),
        transfer(key(0, 1), key(3, 0)),
    ];
    (1..).zip(ops).map(|(sequence, op)| request(1 << 90, sequence, 60, op)).collect()
}

fn group_request(command: impl Into<GroupCommand>) -> Vec<u8> {
    GroupRequest { client: ASKER, sequence: Sequence(1), command: command.into() }.encode()
}

/// One entry of each kind of command between groups.
pub(crate) fn entries() -> Vec<Vec<u8>> {
    let (shard, epoch) = (ShardId(0), Epoch(2));
    let orders = [
        Order::Greet,
        Order::Stage { shard, epoch, from: group(1) },
        Order::Release { shard, epoch },
        Order::Cancel { shard, epoch },
        Order::Abandon { shard, epoch },
        Order::Thaw { shard, epoch },
        Order::Retire,
    ];
    let mut entries: Vec<Vec<u8>> =
        orders.into_iter().map(|order| group_request(HandoffCommand::Order(order))).collect();
    entries.push(group_request(HandoffCommand::Start { shard, epoch, to: group(1) }));
    entries.push(group_request(HandoffCommand::Freeze { shard, epoch, staged: 3 }));
    let from = Position::default();
    let to = Position { base: Base::Keys(Some(key(0, 1))), staged: 2 };
    let items = vec![
        Item::Key { key: key(0, 1), value: Some((3, b"v".to_vec())) },
        Item::Row { client: ClientId(7), row: None },
        Item::Record { number: 3, record: None },
    ];
    let chunk = Chunk { shard, epoch, from, to, items, left: 2, changes_end: 9, seal: None };
    entries.push(group_request(HandoffCommand::Chunk(chunk)));
    entries.extend(world().iter().flat_map(Store::txn_duties).map(|duty| group_request(duty.command)));
    entries
}

/// Groups in the middle of moves and transactions.
pub(crate) fn world() -> Vec<Store> {
    let mut world = World::new();
    for (sequence, n) in (1..).zip(0..4) {
        let put = Op::Put { key: key(n % 4, 0), value: vec![b'1'; 30] };
        world.log(usize::from(n % 4 == 3), &codec::encode(&request(9, sequence, 1, put)));
    }
    let (shard, epoch) = (ShardId(0), Epoch(2));
    world.log(1, &group_request(HandoffCommand::Order(Order::Stage { shard, epoch, from: group(0) })));
    for duty in world.stores[1].duties() {
        for command in duty.messages(group(1)) {
            world.log(0, &group_request(command));
        }
        let chunk = duty.take(world.stores[0].query(&duty.pull()));
        chunk.into_iter().for_each(|chunk| drop(world.log(1, &group_request(chunk))));
    }
    world.log(0, &codec::encode(&request(8, 1, 1, transfer(key(1, 0), key(3, 0)))));
    world.log(0, &codec::encode(&request(8, 2, 1, Op::Incr { key: key(1, 0), by: 1 })));
    let duties = world.stores[0].txn_duties();
    duties.into_iter().for_each(|duty| drop(world.log(1, &group_request(duty.command))));
    world.stores
}

/// A store with a key, and where the key is.
pub(crate) fn served() -> (Store, ShardId, Vec<u8>) {
    let mut store = crate::common::store(limits());
    let put = Op::Put { key: key(0, 0), value: b"7".to_vec() };
    let put = codec::encode(&request(9, 1, 1, put));
    let mut batch = BatchBuilder::default();
    batch.push(&put);
    store.apply(Slot(0), &batch.finish(LogTime(2)), &mut Vec::new());
    (store, ShardId(0), key(0, 0))
}

struct World {
    stores: Vec<Store>,
    clock: u64,
}

impl World {
    /// The first group serves the first three shards, the second one the last.
    fn new() -> World {
        let owned = |at: usize| match at {
            0 => vec![ShardId(0), ShardId(1), ShardId(2)],
            1 => vec![ShardId(3)],
            _ => vec![],
        };
        World { stores: (0..GROUPS).map(|at| Store::new(limits(), SHARDS, &owned(at))).collect(), clock: 2 }
    }

    fn log(&mut self, at: usize, bytes: &[u8]) -> Option<Reply> {
        let mut batch = BatchBuilder::default();
        batch.push(bytes);
        self.log_batch(at, &batch.finish(LogTime(self.clock)))
    }

    fn log_batch(&mut self, at: usize, batch: &[u8]) -> Option<Reply> {
        let mut replies = Vec::new();
        let store = &mut self.stores[at];
        store.apply(Slot(0), batch, &mut replies);
        assert_eq!(
            store.state_hash(),
            store.recomputed_hash(),
            "the incremental hash is that of the state (P5)"
        );
        let own = replies.into_iter().find(|(id, _)| id.client == ASKER);
        own.map(|(_, reply)| reply)
    }

    /// P5: what a snapshot says is the state.
    fn restore(&mut self, at: usize) {
        let store = &self.stores[at];
        let pages: Vec<_> = store.pages().collect();
        let empty = Store::new(limits(), SHARDS, &[]);
        let restored =
            empty.restore(&mut pages.into_iter()).unwrap_or_else(|error| panic!("{error}: {store:?}"));
        assert_eq!(restored, *store);
        let sizes =
            |store: &Store| (store.state_hash(), store.state_bytes(), store.duties(), store.txn_duties());
        assert_eq!(sizes(&restored), sizes(store));
        self.stores[at] = restored;
    }
}

/// An entry on its way, and whose duty it is.
#[derive(Clone)]
struct Message {
    to: usize,
    bytes: Vec<u8>,
    duty: Option<(usize, TxnDuty)>,
}

/// A history of what clients and groups say, each changed before it is applied, or not.
pub(crate) fn history(mut dice: Dice) -> u64 {
    let mut world = World::new();
    let mut bag: Vec<Message> =
        entries().into_iter().map(|bytes| Message { to: 0, bytes, duty: None }).collect();
    let steps = 50 + dice.below(250) as u64;
    let (hostile, astray) = (dice.below(60), dice.below(40));
    for step in 0..steps {
        world.clock =
            if dice.chance(1) { dice.hostile() } else { world.clock.saturating_add(dice.below(4) as u64) };
        owe(&world, &mut dice, &mut bag, step);
        let at = dice.below(bag.len());
        let mut message = bag[at].clone();
        if dice.chance(astray) {
            message.to = dice.below(GROUPS);
        }
        if dice.chance(hostile) {
            let other = dice.below(bag.len());
            message.bytes = mutate(&mut dice, &message.bytes, &bag[other].bytes, &[], 1 << 16);
        }
        let reply = world.log(message.to, &message.bytes);
        if let (Some((from, duty)), Some(Reply::Between(answer))) = (&message.duty, reply)
            && let Some(next) = duty.take(*answer)
        {
            bag.push(Message { to: *from, bytes: group_request(next), duty: None });
        }
        if dice.chance(3) {
            let mut batch = BatchBuilder::default();
            (0..dice.below(5)).for_each(|_| batch.push(&dice.pick(&bag).bytes));
            let batch = batch.finish(LogTime(world.clock));
            let batch = mutate(&mut dice, &batch, &message.bytes, &[], 1 << 16);
            // The version of a batch decides whether the group goes on at all.
            world.log_batch(message.to, &batch);
        }
        if dice.chance(4) {
            world.restore(dice.below(GROUPS));
        }
        while bag.len() > 120 {
            bag.swap_remove(dice.below(bag.len()));
        }
    }
    (0..GROUPS).for_each(|at| world.restore(at));
    steps
}

/// Puts something new into the bag.
fn owe(world: &World, dice: &mut Dice, bag: &mut Vec<Message>, step: u64) {
    let at = dice.below(GROUPS);
    let store = &world.stores[at];
    let send = |to: usize, bytes: Vec<u8>| Message { to, bytes, duty: None };
    match dice.below(10) {
        0..4 => {
            let mut key = || key(dice.below(4) as u16, dice.below(3));
            let (one, two) = (key(), key());
            let op = match dice.below(8) {
                0 | 1 => transfer(one.clone(), two),
                2 => Op::Txn(Box::new(Txn { then: vec![TxnOp::Get { key: two }], ..Txn::default() })),
                3 => Op::Append { key: one.clone(), value: b"9".to_vec() },
                4 => Op::Delete { key: one.clone() },
                5 => Op::Incr { key: one.clone(), by: dice.hostile() as i64 },
                _ => Op::Put { key: one.clone(), value: dice.below(100).to_string().into_bytes() },
            };
            let to = (0..GROUPS).find(|at| world.stores[*at].shards().any(|s| s == shard_of(&one, SHARDS)));
            let request = request(1 + dice.below(4) as u128, step + 1, world.clock, op);
            bag.push(send(to.unwrap_or(at), codec::encode(&request)));
        }
        4 | 5 => bag.extend(store.txn_duties().into_iter().map(|duty| {
            let to = (0..GROUPS).find(|to| world.stores[*to].shards().any(|shard| shard == duty.to));
            Message {
                to: to.unwrap_or(at),
                bytes: group_request(duty.command.clone()),
                duty: Some((at, duty)),
            }
        })),
        6 => {
            let expired: Vec<TxnCommand> = store.txn_duties().iter().filter_map(TxnDuty::expire).collect();
            bag.extend(expired.into_iter().map(|command| send(at, group_request(command))));
        }
        7 => {
            let (shard, epoch) = (ShardId(dice.below(4) as u16), Epoch(2 + step / 40));
            let order = match dice.below(8) {
                0 => Order::Release { shard, epoch },
                1 => Order::Cancel { shard, epoch },
                2 => Order::Abandon { shard, epoch },
                3 => Order::Thaw { shard, epoch },
                4 if dice.chance(5) => Order::Retire,
                _ => Order::Stage { shard, epoch, from: group((at + 1 + dice.below(2)) % GROUPS) },
            };
            bag.push(send(at, group_request(HandoffCommand::Order(order))));
        }
        _ => {
            for duty in store.duties() {
                let from = (duty.from.group.0 as usize).wrapping_sub(1).min(GROUPS - 1);
                for command in duty.messages(group(at)) {
                    bag.push(send(from, group_request(command)));
                }
                let answer: Answer = world.stores[from].query(&duty.pull());
                bag.extend(duty.take(answer).map(|chunk| send(at, group_request(chunk))));
            }
            let query = Query::Get { shard: ShardId(0), key: key(0, 0) };
            let _ = store.is_blocked(&query);
        }
    }
}
