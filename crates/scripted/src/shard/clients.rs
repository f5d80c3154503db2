//! Clients with sessions: each request has a sequence, a stamp and an acknowledgement, fixed at its first try.

use std::collections::{BTreeMap, BTreeSet};

use kvserver::command::{Op, Refusal, Reply, Request, ShardId, shard_of};
use paxos::ids::{ClientId, LogTime, Sequence};
use paxos::rsm::state_machine::RequestId;
use shardmaster::ids::GroupRef;

/// What a client remembers.
#[derive(Debug, Default)]
struct Client {
    all: BTreeMap<u64, Request>,
    sequence: u64,
    /// The highest log time it heard.
    heard: LogTime,
    /// Requests without an answer that settles them.
    open: BTreeMap<u64, Request>,
}

/// All clients of a world.
#[derive(Debug, Default)]
pub struct Clients {
    all: BTreeMap<ClientId, Client>,
    /// Who waits at the leader of which group, for what comes in a later step.
    waiting: BTreeSet<(ClientId, Sequence, GroupRef)>,
}

impl Clients {
    /// A new request of a client. One that is new here is told the time when it connects.
    pub fn request(&mut self, id: ClientId, op: Op, shards: u16, now: LogTime) -> Request {
        let client = self.all.entry(id).or_insert_with(|| Client { heard: now, ..Client::default() });
        client.sequence += 1;
        let first = match &op {
            Op::Txn(txn) => txn.first_key(),
            op => op.key(),
        };
        let shard = first.map_or(ShardId(0), |key| shard_of(key, shards));
        let oldest = client.open.values().find(|open| open.shard == shard);
        let oldest = oldest.map_or(client.sequence, |open| open.sequence.0);
        let request = Request {
            client: id,
            sequence: Sequence(client.sequence),
            ack_through: Sequence(oldest - 1),
            sent_at: client.heard,
            shard,
            op,
        };
        client.open.insert(client.sequence, request.clone());
        client.all.insert(client.sequence, request.clone());
        request
    }

    /// A request, as it was sent first.
    pub fn asked(&self, id: RequestId) -> Option<Request> {
        self.all.get(&id.client)?.all.get(&id.sequence.0).cloned()
    }

    /// All requests without an answer that settles them, oldest first.
    pub fn open(&self) -> Vec<Request> {
        let mut open: Vec<Request> =
            self.all.values().flat_map(|client| client.open.values().cloned()).collect();
        open.sort_by_key(|request| (request.sent_at, request.client, request.sequence));
        open
    }

    /// A client forgets what it asked for; the next request says so.
    pub fn give_up(&mut self, id: ClientId) {
        if let Some(client) = self.all.get_mut(&id) {
            client.open.clear();
        }
        self.waiting.retain(|(client, ..)| *client != id);
    }

    /// A client waits at the leader of a group.
    pub fn waits(&mut self, id: RequestId, at: GroupRef) {
        self.waiting.insert((id.client, id.sequence, at));
    }

    /// A client waits no more; whether it did.
    pub fn leaves(&mut self, id: RequestId, at: GroupRef) -> bool {
        self.waiting.remove(&(id.client, id.sequence, at))
    }

    /// The leader of a group is no more: those who waited there. They may ask again.
    pub fn leave(&mut self, at: GroupRef) -> Vec<(ClientId, Sequence)> {
        let (gone, left) =
            std::mem::take(&mut self.waiting).into_iter().partition(|(_, _, there)| *there == at);
        self.waiting = left;
        let gone: BTreeSet<(ClientId, Sequence, GroupRef)> = gone;
        gone.into_iter().map(|(client, sequence, _)| (client, sequence)).collect()
    }

    /// The client's last request, as it was sent first.
    pub fn last(&self, id: ClientId) -> Option<Request> {
        self.all.get(&id)?.all.values().next_back().cloned()
    }

    /// A client gets an answer, from a group at a log time.
    pub fn hear(&mut self, request: &Request, reply: &Reply, log_time: LogTime) {
        let client = self.all.entry(request.client).or_default();
        client.heard = client.heard.max(log_time);
        if settles(reply) {
            client.open.remove(&request.sequence.0);
        }
    }
}

/// Whether a client asks no more after this answer.
fn settles(reply: &Reply) -> bool {
    match reply {
        Reply::Refused(refusal) => match refusal {
            Refusal::Busy(_)
            | Refusal::WrongGroup { .. }
            | Refusal::Awaiting
            | Refusal::Conflict(_)
            | Refusal::FromTheFuture => false,
            Refusal::AlreadyAcknowledged
            | Refusal::SessionExpired
            | Refusal::SequenceReused
            | Refusal::Invalid => true,
        },
        Reply::Written { .. }
        | Reply::Deleted { .. }
        | Reply::Number { .. }
        | Reply::Acked
        | Reply::Mismatch { .. }
        | Reply::NotANumber
        | Reply::ValueTooLarge
        | Reply::Txn(_)
        | Reply::TxnFailed { .. }
        | Reply::Between(_)
        | Reply::Handoff(_) => true,
    }
}
