//! A world of groups for the tests of handoff: each group is its applied state, a message is delivered by applying it in
//! one step, and the network keeps messages to deliver them in any order, twice, or never. A plain map is told of each
//! request when it is executed; the groups together must say and hold what it says and holds.
#![allow(dead_code)] // Each test file uses its part.

use std::collections::{BTreeMap, BTreeSet};

use kvserver::command::{Op, Refusal, Reply, Request, ShardId, shard_of};
use kvserver::entry::GroupRequest;
use kvserver::genesis::Limits;
use kvserver::handoff::{Chunk, CopyPhase, Duty, HandoffCommand, HandoffReply, Pulled};
use kvserver::query::{Answer, Query};
use kvserver::store::Store;
use paxos::ids::{ClientId, Generation, GroupId, LogTime, Sequence, Slot};
use paxos::rsm::batch::BatchBuilder;
use paxos::rsm::state_machine::StateMachine;
use shardmaster::ids::{Epoch, GroupRef};
use shardmaster::orders::{Order, Report};

use crate::common::SHARDS;
use crate::master::Master;

/// A group as others name it; ids are places in [`World::stores`].
pub(crate) fn group(number: u32) -> GroupRef {
    GroupRef { group: GroupId(number), generation: Generation(1) }
}

/// Something on its way.
#[derive(Clone, Debug)]
pub(crate) enum Message {
    /// To be proposed in a group.
    Command { to: u32, command: HandoffCommand },
    /// A duty of a group whose messages were sent before: its pull.
    Pull { of: u32, duty: Duty },
    /// A try of a request.
    Try { to: u32, request: Request },
    /// To the shardmaster.
    Report(Report),
}

/// A request that its client has no answer to.
pub(crate) type Open = BTreeMap<(u128, u64), Request>;

pub(crate) struct World {
    pub(crate) stores: Vec<Store>,
    pub(crate) master: Master,
    pub(crate) messages: Vec<Message>,
    pub(crate) clock: u64,
    /// How far the clock of each group is behind.
    pub(crate) behind: Vec<u64>,
    pub(crate) open: Open,
    sequences: BTreeMap<u128, u64>,
    /// What each executed request was answered.
    executed: BTreeMap<(u128, u64), Reply>,
    reference: BTreeMap<Vec<u8>, Vec<u8>>,
    stamps: BTreeMap<u128, u64>,
}

impl World {
    /// `groups` groups, of which the first serves every shard.
    pub(crate) fn new(limits: &Limits, groups: u32) -> World {
        let all: Vec<ShardId> = (0..SHARDS).map(ShardId).collect();
        let owned = |number: u32| if number == 0 { &all[..] } else { &[] };
        World {
            stores: (0..groups).map(|number| Store::new(limits.clone(), SHARDS, owned(number))).collect(),
            master: Master::new(SHARDS, group(0)),
            messages: Vec::new(),
            clock: 0,
            behind: vec![0; groups as usize],
            open: Open::new(),
            sequences: BTreeMap::new(),
            executed: BTreeMap::new(),
            reference: BTreeMap::new(),
            stamps: BTreeMap::new(),
        }
    }

    pub(crate) fn store(&self, number: u32) -> &Store {
        &self.stores[number as usize]
    }

    fn apply(&mut self, number: u32, bytes: &[u8]) -> Reply {
        let time = self.clock.saturating_sub(self.behind[number as usize]);
        let mut builder = BatchBuilder::default();
        builder.push(bytes);
        let mut replies = Vec::new();
        let store = &mut self.stores[number as usize];
        store.apply(Slot(0), &builder.finish(LogTime(time)), &mut replies);
        assert_eq!(
            store.state_hash(),
            store.recomputed_hash(),
            "the incremental hash is that of the state (P5)"
        );
        self.check_owners();
        replies.remove(0).1
    }

    /// P8: a shard is served by one group at most.
    fn check_owners(&self) {
        let mut seen = BTreeSet::new();
        let twice = self.stores.iter().flat_map(Store::shards).find(|shard| !seen.insert(*shard));
        assert_eq!(twice, None, "P8: two groups serve a shard");
    }

    /// Proposes a handoff command in a group.
    pub(crate) fn command(&mut self, number: u32, command: HandoffCommand) -> HandoffReply {
        let request =
            GroupRequest { client: ClientId(1 << 100), sequence: Sequence(1), command: command.into() };
        let before = self.store(number).clone();
        match self.apply(number, &request.encode()) {
            Reply::Handoff(reply) => {
                if !reply.applied && before.log_time() == self.store(number).log_time() {
                    assert_eq!(&before, self.store(number), "no effect leaves no trace");
                }
                reply
            }
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn order(&mut self, number: u32, order: Order) -> Option<Report> {
        self.command(number, HandoffCommand::Order(order)).report
    }

    /// A new request of a client, not sent yet.
    pub(crate) fn request(&mut self, client: u128, op: Op) -> Request {
        let sequence = self.sequences.entry(client).or_default();
        *sequence += 1;
        let shard = op.key().map_or(ShardId(0), |key| shard_of(key, SHARDS));
        let open = self.open.values().find(|r| r.client.0 == client && r.shard == shard);
        let request = Request {
            client: ClientId(client),
            sequence: Sequence(*sequence),
            ack_through: Sequence(open.map_or(*sequence, |r| r.sequence.0) - 1),
            sent_at: LogTime(self.stamps.get(&client).copied().unwrap_or(0)),
            shard,
            op,
        };
        self.open.insert((client, *sequence), request.clone());
        request
    }

    /// A try of a request; `heard`: whether the client gets the answer.
    pub(crate) fn attempt(&mut self, number: u32, request: &Request, heard: bool) -> Reply {
        let id = (request.client.0, request.sequence.0);
        let before = self.store(number).clone();
        let reply = self.apply(number, &paxos::codec::encode(request));
        match (&reply, self.executed.get(&id)) {
            (Reply::Refused(refusal), _) => self.check_trace(number, &before, refusal),
            (_, Some(first)) => assert_eq!(&reply, first, "P9: a retry gets the reply of what was executed"),
            (_, None) => {
                self.execute(&request.op, &reply);
                self.executed.insert(id, reply.clone());
            }
        }
        if heard {
            let log_time = self.store(number).log_time().0;
            let stamp = self.stamps.entry(request.client.0).or_default();
            *stamp = log_time.max(*stamp);
            if is_final(&reply) {
                self.open.remove(&id);
            }
        }
        reply
    }

    fn check_trace(&self, number: u32, before: &Store, refusal: &Refusal) {
        let after = self.store(number);
        let by_phase = matches!(refusal, Refusal::WrongGroup { .. } | Refusal::Awaiting);
        if by_phase && before.log_time() == after.log_time() {
            assert_eq!(before, after, "what is refused leaves no trace");
        }
    }

    /// Tells the plain map.
    fn execute(&mut self, op: &Op, reply: &Reply) {
        let Some(key) = op.key() else { return };
        let value = self.reference.get(key).cloned();
        let value = match op {
            Op::Put { value, .. } => Some(value.clone()),
            Op::Append { value: tail, .. } => Some([value.unwrap_or_default(), tail.clone()].concat()),
            Op::Delete { .. } => {
                assert_eq!(reply, &Reply::Deleted { existed: value.is_some() });
                None
            }
            Op::Cas { .. } | Op::Incr { .. } | Op::Ack | Op::Txn(_) => panic!("not in this world"),
        };
        if let (Some(value), Reply::Written { length, .. }) = (&value, reply) {
            assert_eq!(*length, value.len() as u64, "what was written before is there");
        }
        match value {
            Some(value) => self.reference.insert(key.to_vec(), value),
            None => self.reference.remove(key),
        };
    }

    /// Who answers, answers what was written last; somebody does, if `all`.
    pub(crate) fn check_reads(&self, keys: &[Vec<u8>], all: bool) {
        for key in keys {
            let query = Query::Get { shard: shard_of(key, SHARDS), key: key.clone() };
            let mut answers = 0;
            for store in &self.stores {
                match store.query(&query) {
                    Answer::Value(found) => {
                        let found = found.map(|(value, _)| value);
                        assert_eq!(
                            found.as_ref(),
                            self.reference.get(key),
                            "nothing is lost, nothing is twice"
                        );
                        answers += 1;
                    }
                    Answer::WrongGroup { .. } | Answer::Awaiting { .. } => {}
                    other => panic!("{other:?}"),
                }
            }
            assert!(answers == 1 || (!all && answers == 0), "{answers} groups answer");
        }
    }

    /// What the source answers to a duty of a group, as the chunk to propose there.
    pub(crate) fn pull(&self, duty: &Duty) -> Option<HandoffCommand> {
        duty.take(self.store(duty.from.group.0).query(&duty.pull()))
    }

    /// The chunk that a group would be sent now.
    pub(crate) fn next_chunk(&self, number: u32) -> Chunk {
        let duty = self.store(number).duties().remove(0);
        match self.store(duty.from.group.0).query(&duty.pull()) {
            Answer::Pulled(Pulled::Chunk(chunk)) => chunk,
            other => panic!("{other:?}"),
        }
    }

    /// The word for the copy that a group holds of a shard.
    pub(crate) fn phase(&self, number: u32, shard: ShardId) -> Option<CopyPhase> {
        self.store(number).copies().iter().find(|copy| copy.shard == shard).map(|copy| copy.phase)
    }

    /// Puts everything that the groups and the shardmaster owe on the network.
    pub(crate) fn send_duties(&mut self) {
        for (to, order) in self.master.duties() {
            self.messages.push(Message::Command { to: to.group.0, command: HandoffCommand::Order(order) });
        }
        for of in 0..u32::try_from(self.stores.len()).unwrap() {
            for duty in self.store(of).duties() {
                let to = duty.from.group.0;
                for command in duty.messages(group(of)) {
                    self.messages.push(Message::Command { to, command });
                }
                self.messages.push(Message::Pull { of, duty });
            }
        }
    }

    pub(crate) fn deliver(&mut self, message: Message, heard: bool) {
        match message {
            Message::Command { to, command } => {
                let report = self.command(to, command).report;
                self.messages.extend(report.map(Message::Report));
            }
            Message::Pull { of, duty } => {
                let command = self.pull(&duty);
                self.messages.extend(command.map(|command| Message::Command { to: of, command }));
            }
            Message::Try { to, request } => {
                self.attempt(to, &request, heard);
            }
            Message::Report(report) => self.master.on_report(report),
        }
    }

    /// All that is owed now is sent and arrives, with what follows from it. What was on its way before stays there.
    pub(crate) fn round(&mut self) {
        let late = std::mem::take(&mut self.messages);
        self.send_duties();
        while !self.messages.is_empty() {
            let message = self.messages.remove(0);
            self.deliver(message, true);
        }
        self.messages = late;
    }

    /// No staged copy ever differed from its seal.
    pub(crate) fn check_digests(&self) {
        let mut copies = self.stores.iter().flat_map(Store::copies);
        assert_eq!(copies.find(|copy| copy.mismatches > 0), None, "what was sent is what was frozen");
    }

    /// Goes on without loss until nothing is owed and every client has its answer.
    pub(crate) fn settle(&mut self) {
        for _ in 0..1000 {
            self.round();
            for request in self.open.clone().into_values() {
                let owner = self.master.owner(request.shard).group.0;
                self.attempt(owner, &request, true);
            }
            self.clock += 1;
            if self.master.is_at_rest() && self.open.is_empty() {
                return;
            }
        }
        let copies: Vec<_> = self.stores.iter().map(Store::copies).collect();
        panic!("stuck: {:?}\n{copies:#?}\n{:?}", self.master, self.open);
    }

    /// What was under way before comes late.
    pub(crate) fn deliver_the_late(&mut self) {
        for message in std::mem::take(&mut self.messages) {
            self.deliver(message, true);
        }
    }

    /// Writes and restores the state of a group.
    pub(crate) fn restart(&mut self, number: u32) {
        let store = self.store(number);
        let empty = Store::new(store.limits().clone(), SHARDS, &[]);
        let restored = empty.restore(&mut store.pages()).unwrap();
        assert_eq!(&restored, store);
        assert_eq!(
            (restored.state_hash(), restored.state_bytes()),
            (store.state_hash(), store.state_bytes())
        );
        assert_eq!((restored.duties(), restored.copies()), (store.duties(), store.copies()));
        self.stores[number as usize] = restored;
    }

    /// A move that nothing disturbs.
    pub(crate) fn carry(&mut self, shard: ShardId, to: u32) -> Epoch {
        let epoch = self.master.begin(shard, group(to)).expect("no move is under way");
        self.settle();
        epoch
    }
}

/// Whether a client is done with a request after this answer.
fn is_final(reply: &Reply) -> bool {
    match reply {
        Reply::Refused(refusal) => match refusal {
            Refusal::Busy(_)
            | Refusal::Conflict(_)
            | Refusal::WrongGroup { .. }
            | Refusal::Awaiting
            | Refusal::FromTheFuture => false,
            Refusal::AlreadyAcknowledged
            | Refusal::SessionExpired
            | Refusal::SequenceReused
            | Refusal::Invalid => true,
        },
        _ => true,
    }
}
