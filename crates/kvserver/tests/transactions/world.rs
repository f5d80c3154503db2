//! Groups, clients with transactions, moves of shards, and a network that delivers late, twice, never, and to the wrong
//! group. Each group is its applied state; what it owes is read off it.

use std::collections::BTreeMap;

use kvserver::command::{Op, Refusal, Reply, Request, ShardId, shard_of};
use kvserver::entry::{GroupCommand, GroupRequest};
use kvserver::genesis::Limits;
use kvserver::handoff::HandoffCommand;
use kvserver::query::{Answer, Query};
use kvserver::store::Store;
use kvserver::txn::{Txn, TxnAnswer, TxnCommand, TxnDuty, TxnOp, TxnReply, TxnResult};
use paxos::codec;
use paxos::ids::{ClientId, Generation, GroupId, LogTime, Sequence, Slot};
use paxos::rsm::batch::BatchBuilder;
use paxos::rsm::state_machine::{RequestId, StateMachine};
use shardmaster::ids::{Epoch, GroupRef};
use shardmaster::orders::Order;

pub(crate) const SHARDS: u16 = 6;
pub(crate) const GROUPS: usize = 3;

/// A random number generator that is the same everywhere.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 20) as usize % n
    }

    pub(crate) fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

fn group(at: usize) -> GroupRef {
    GroupRef { group: GroupId(at as u32 + 1), generation: Generation(1) }
}

/// Something on its way to a group.
#[derive(Clone, Debug)]
pub(crate) enum Message {
    /// To be logged; the answer goes back to `from`, if it is a duty's.
    Txn { command: TxnCommand, duty: Option<(usize, TxnDuty)> },
    /// A try of a request.
    Try(Request),
}

/// A move of a shard.
#[derive(Clone, Copy, Debug)]
struct Move {
    shard: ShardId,
    epoch: Epoch,
    from: usize,
    to: usize,
    moved: bool,
}

pub(crate) struct World {
    pub(crate) stores: Vec<Store>,
    pub(crate) dice: Dice,
    pub(crate) net: Vec<Message>,
    /// Who serves, as far as everyone knows: may be old.
    owners: Vec<usize>,
    moves: Vec<Move>,
    next_epoch: u64,
    clock: u64,
    next: BTreeMap<u128, u64>,
    /// Requests without a final answer.
    pub(crate) open: BTreeMap<(u128, u64), Request>,
    pub(crate) answers: BTreeMap<(u128, u64), Reply>,
    /// How often an attempt was given up.
    pub(crate) conflicts: usize,
    pub(crate) moved: usize,
}

impl World {
    pub(crate) fn new(seed: u64, limits: &Limits) -> World {
        let owner = |shard: u16| usize::from(shard) * GROUPS / usize::from(SHARDS);
        let owned = |at| (0..SHARDS).filter(|s| owner(*s) == at).map(ShardId).collect::<Vec<_>>();
        World {
            stores: (0..GROUPS).map(|at| Store::new(limits.clone(), SHARDS, &owned(at))).collect(),
            dice: Dice::new(seed),
            net: Vec::new(),
            owners: (0..SHARDS).map(owner).collect(),
            moves: Vec::new(),
            next_epoch: 1,
            clock: 1,
            next: BTreeMap::new(),
            open: BTreeMap::new(),
            answers: BTreeMap::new(),
            conflicts: 0,
            moved: 0,
        }
    }

    /// A key that lives in this shard.
    pub(crate) fn key(shard: u16, n: usize) -> Vec<u8> {
        let mut keys = (0..).map(|i| format!("k{n}.{i}").into_bytes());
        keys.find(|key| shard_of(key, SHARDS).0 == shard).unwrap_or_default()
    }

    fn apply(&mut self, at: usize, bytes: &[u8]) -> Vec<(RequestId, Reply)> {
        let mut batch = BatchBuilder::default();
        batch.push(bytes);
        let mut replies = Vec::new();
        let store = &mut self.stores[at];
        store.apply(Slot(0), &batch.finish(LogTime(self.clock)), &mut replies);
        assert_eq!(store.state_hash(), store.recomputed_hash(), "the incremental hash is the state's (P5)");
        replies
    }

    /// What stands in the log of a group, and what it says to `id`; replies to clients are heard.
    fn log(&mut self, at: usize, bytes: &[u8], id: RequestId) -> Option<Reply> {
        let mut own = None;
        for (to, reply) in self.apply(at, bytes) {
            if to == id && to.client == ClientId(1 << 100) {
                own = Some(reply);
            } else {
                self.hear(to, reply);
            }
        }
        own
    }

    fn hear(&mut self, id: RequestId, reply: Reply) {
        let key = (id.client.0, id.sequence.0);
        match &reply {
            Reply::Refused(Refusal::Conflict(_)) => self.conflicts += 1,
            Reply::Refused(
                Refusal::Busy(_) | Refusal::WrongGroup { .. } | Refusal::Awaiting | Refusal::FromTheFuture,
            ) => {}
            Reply::Refused(Refusal::AlreadyAcknowledged) => {
                assert!(self.answers.contains_key(&key), "acknowledged only what was answered");
            }
            _ => {
                self.open.remove(&key);
                match self.answers.get(&key) {
                    // A read is run again.
                    Some(Reply::Txn(_)) if reads_only(&reply) => {}
                    Some(before) => assert_eq!(*before, reply, "one answer to a request (P9)"),
                    None => drop(self.answers.insert(key, reply)),
                }
            }
        }
    }

    fn group_request(command: GroupCommand) -> (Vec<u8>, RequestId) {
        let request = GroupRequest { client: ClientId(1 << 100), sequence: Sequence(1), command };
        (request.encode(), request.id())
    }

    fn handoff(&mut self, at: usize, command: HandoffCommand) -> bool {
        let (bytes, id) = World::group_request(command.into());
        matches!(self.log(at, &bytes, id), Some(Reply::Handoff(reply)) if reply.applied)
    }

    fn txn(&mut self, at: usize, command: TxnCommand) -> Option<TxnAnswer> {
        let (bytes, id) = World::group_request(command.into());
        match self.log(at, &bytes, id) {
            Some(Reply::Between(answer)) => Some(*answer),
            _ => None,
        }
    }

    /// A new request of a client.
    pub(crate) fn ask(&mut self, client: u128, op: Op) -> (u128, u64) {
        let sequence = self.next.entry(client).or_default();
        *sequence += 1;
        let sequence = *sequence;
        let shard = match &op {
            Op::Txn(txn) => shard_of(txn.first_key().unwrap_or_default(), SHARDS),
            op => shard_of(op.key().unwrap_or_default(), SHARDS),
        };
        let unanswered = self.open.iter().filter(|((c, _), r)| *c == client && r.shard == shard);
        let ack = unanswered.map(|((_, s), _)| s - 1).min().unwrap_or(sequence - 1);
        let request = Request {
            client: ClientId(client),
            sequence: Sequence(sequence),
            ack_through: Sequence(ack),
            sent_at: LogTime(self.clock),
            shard,
            op,
        };
        self.net.push(Message::Try(request.clone()));
        self.open.insert((client, sequence), request);
        (client, sequence)
    }

    /// Every group says what it owes, and clients try again.
    pub(crate) fn owe(&mut self) {
        for at in 0..GROUPS {
            for duty in self.stores[at].txn_duties() {
                self.net.push(Message::Txn { command: duty.command.clone(), duty: Some((at, duty)) });
            }
        }
        self.net.extend(self.open.values().cloned().map(Message::Try));
    }

    fn serves(&self, shard: ShardId) -> usize {
        let at = self.owners[usize::from(shard.0)];
        let served = |at: &usize| self.stores[*at].shards().any(|s| s == shard);
        (0..GROUPS).find(served).unwrap_or(at)
    }

    /// Delivers a message, mostly to whom it belongs. A duty's answer is logged at once, late, or never.
    pub(crate) fn deliver(&mut self, message: Message, astray: usize) {
        match message {
            Message::Try(request) => {
                let to = self.aim(request.shard, astray);
                let bytes = codec::encode(&request);
                let id = RequestId { client: request.client, sequence: request.sequence };
                self.log(to, &bytes, id);
            }
            Message::Txn { command, duty } => {
                let to = self.aim(command.to(), astray);
                let Some(answer) = self.txn(to, command) else { return };
                if let Some((from, duty)) = duty
                    && let Some(next) = duty.take(answer)
                {
                    match self.dice.chance(astray) {
                        true => self.net.push(Message::Txn { command: next, duty: None }),
                        false => drop(self.txn(from, next)),
                    }
                }
            }
        }
        for at in 0..GROUPS {
            for duty in self.stores[at].due() {
                self.net.push(Message::Txn { command: duty.command.clone(), duty: Some((at, duty)) });
            }
        }
    }

    fn aim(&mut self, shard: ShardId, astray: usize) -> usize {
        if self.dice.chance(astray) { self.dice.below(GROUPS) } else { self.serves(shard) }
    }

    /// An undecided attempt takes too long.
    pub(crate) fn expire(&mut self) {
        let at = self.dice.below(GROUPS);
        let expired: Vec<TxnCommand> =
            self.stores[at].txn_duties().iter().filter_map(TxnDuty::expire).collect();
        if let Some(command) = expired.into_iter().next() {
            self.txn(at, command);
        }
    }

    pub(crate) fn begin_move(&mut self) {
        let shard = ShardId(self.dice.below(usize::from(SHARDS)) as u16);
        if self.moves.iter().any(|m| m.shard == shard) {
            return;
        }
        let from = self.serves(shard);
        let to = (from + 1 + self.dice.below(GROUPS - 1)) % GROUPS;
        self.next_epoch += 1;
        let epoch = Epoch(self.next_epoch);
        self.moves.push(Move { shard, epoch, from, to, moved: false });
        self.handoff(to, HandoffCommand::Order(Order::Stage { shard, epoch, from: group(from) }));
    }

    /// One step of one move.
    pub(crate) fn step_move(&mut self) {
        if self.moves.is_empty() {
            return;
        }
        let n = self.dice.below(self.moves.len());
        let Move { shard, epoch, from, to, moved } = self.moves[n];
        if moved {
            self.handoff(from, HandoffCommand::Order(Order::Release { shard, epoch }));
            self.moves.remove(n);
            return;
        }
        let Some(duty) = self.stores[to].duties().into_iter().find(|d| d.shard == shard && d.epoch == epoch)
        else {
            assert!(self.stores[to].shards().any(|s| s == shard), "the move ended");
            self.moves[n].moved = true;
            self.moved += 1;
            self.owners[usize::from(shard.0)] = to;
            return;
        };
        for command in duty.messages(group(to)) {
            self.handoff(from, command);
        }
        let answer: Answer = self.stores[from].query(&duty.pull());
        if let Some(chunk) = duty.take(answer) {
            self.handoff(to, chunk);
        }
    }

    /// Replaces a group by what its snapshot restores.
    pub(crate) fn restore(&mut self, at: usize, limits: &Limits) {
        let pages: Vec<_> = self.stores[at].pages().collect();
        let empty = Store::new(limits.clone(), SHARDS, &[]);
        let restored = empty.restore(&mut pages.into_iter()).expect("its own pages");
        assert_eq!(restored, self.stores[at]);
        self.stores[at] = restored;
    }

    /// Nothing is lost any more, until nobody owes anything.
    pub(crate) fn come_to_rest(&mut self) {
        self.clock += 10;
        for round in 0.. {
            assert!(round < 300, "it never comes to rest: {:?}\nopen {:?}", self.txns(), self.open.keys());
            self.owe();
            while let Some(message) = (!self.net.is_empty()).then(|| self.net.remove(0)) {
                self.deliver(message, 0);
            }
            self.step_move();
            if self.open.is_empty() && self.moves.is_empty() && self.txns().is_empty() {
                return;
            }
        }
    }

    pub(crate) fn txns(&self) -> Vec<kvserver::txn::TxnStatus> {
        self.stores.iter().flat_map(Store::txns).collect()
    }

    pub(crate) fn value(&self, key: &[u8]) -> Option<Vec<u8>> {
        let shard = shard_of(key, SHARDS);
        let query = Query::Get { shard, key: key.to_vec() };
        assert!(!self.stores[self.serves(shard)].is_blocked(&query), "nothing is locked");
        match self.stores[self.serves(shard)].query(&query) {
            Answer::Value(value) => value.map(|(value, _)| value),
            other => panic!("{other:?}"),
        }
    }

    /// Time passes.
    pub(crate) fn tick(&mut self) {
        self.clock += 1;
    }
}

fn reads_only(reply: &Reply) -> bool {
    let Reply::Txn(reply) = reply else { return false };
    reply.results.iter().all(|result| matches!(result, TxnResult::Value(_)))
}

/// A transfer between two accounts, if the first has enough.
pub(crate) fn transfer(from: &[u8], to: &[u8], amount: i64) -> Op {
    let incr = |key: &[u8], by| TxnOp::Incr { key: key.to_vec(), by };
    Op::Txn(Box::new(Txn { then: vec![incr(from, -amount), incr(to, amount)], ..Txn::default() }))
}

/// A read of many keys.
pub(crate) fn read_all(keys: &[Vec<u8>]) -> Op {
    let then = keys.iter().map(|key| TxnOp::Get { key: key.clone() }).collect();
    Op::Txn(Box::new(Txn { then, ..Txn::default() }))
}

/// The number that a value is the text of.
pub(crate) fn number_of(value: &[u8]) -> i64 {
    String::from_utf8_lossy(value).parse().expect("only numbers are written")
}

/// Sum of the numbers that a read found.
pub(crate) fn sum(reply: &TxnReply) -> i64 {
    let number = |result: &TxnResult| match result {
        TxnResult::Value(Some((value, _))) => number_of(value),
        _ => 0,
    };
    reply.results.iter().map(number).sum()
}
