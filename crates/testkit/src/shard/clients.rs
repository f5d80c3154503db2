//! Clients with sessions: each request has a sequence, a stamp and an acknowledgement, fixed at its first try.

use std::collections::BTreeMap;

use kvserver::command::{Op, Refusal, Reply, Request, ShardId, shard_of};
use paxos::ids::{ClientId, LogTime, Sequence};

/// What a client remembers.
#[derive(Debug, Default)]
struct Client {
    last: Option<Request>,
    sequence: u64,
    /// The highest log time it heard.
    heard: LogTime,
    /// Requests without an answer that settles them.
    open: BTreeMap<u64, Request>,
}

/// All clients of a world.
#[derive(Debug, Default)]
pub struct Clients(BTreeMap<ClientId, Client>);

impl Clients {
    /// A new request of a client. One that is new here is told the time when it connects.
    pub fn request(&mut self, id: ClientId, op: Op, shards: u16, now: LogTime) -> Request {
        let client = self.0.entry(id).or_insert_with(|| Client { heard: now, ..Client::default() });
        client.sequence += 1;
        let shard = op.key().map_or(ShardId(0), |key| shard_of(key, shards));
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
        client.last = Some(request.clone());
        request
    }

    /// The client's last request, as it was sent first.
    pub fn last(&self, id: ClientId) -> Option<Request> {
        self.0.get(&id)?.last.clone()
    }

    /// A client gets an answer, from a group at a log time.
    pub fn hear(&mut self, request: &Request, reply: &Reply, log_time: LogTime) {
        let client = self.0.entry(request.client).or_default();
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
