//! One call from its caller's side: wait for room, encode, wait for the answer; leave in order when dropped.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use kvserver::command::{Op, Reply, ShardId};
use kvserver::query::{Answer, Query, ShardPage};
use kvserver::txn::Txn;
use paxos::codec;
use paxos::ids::GroupId;
use shardmaster::ids::Owner;
use tokio::time::Instant;

use crate::engine::{Begun, Event, Kind, Target};
use crate::error::{Error, ErrorKind};
use crate::options::Consistency;
use crate::outcome::Outcome;
use crate::session::Ticket;
use crate::shared::Shared;
use crate::slab::Key;
use crate::verdict::Verdict;

/// What a request's bytes are besides its key and value, at most.
const OVERHEAD_BYTES: usize = 96;
/// What a compare or an operation of a transaction is besides its keys and values, at most.
const PART_BYTES: usize = 32;
/// How long acknowledging may hold up a closing client.
const ACKNOWLEDGE_TIMEOUT: Duration = Duration::from_millis(500);

/// A call in the engine, taken out of it when the caller goes away.
struct Held<'a> {
    shared: &'a Shared,
    key: Option<Key>,
}

impl Held<'_> {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Event> {
        let Some(key) = self.key else { return Poll::Pending };
        let event = self.shared.with(|engine| engine.poll_call(key, context));
        if matches!(event, Poll::Ready(Event::Done(_))) {
            self.key = None;
        }
        event
    }

    async fn granted(&mut self) -> Result<Option<Ticket>, Error> {
        match poll_fn(|context| self.poll(context)).await {
            Event::Granted(ticket) => Ok(ticket),
            Event::Done(Err(error)) => Err(error),
            Event::Done(Ok(_)) => Err(unexpected()),
        }
    }

    async fn done(&mut self) -> Result<Verdict, Error> {
        match poll_fn(|context| self.poll(context)).await {
            Event::Done(result) => result,
            Event::Granted(_) => Err(unexpected()),
        }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.shared.with(|engine| engine.cancel(key));
        }
    }
}

async fn call(
    shared: &Shared,
    target: Target,
    kind: Kind,
    home: Option<ShardId>,
    cost: usize,
    encode: impl FnOnce(Option<Ticket>) -> Vec<u8>,
) -> Result<Verdict, Error> {
    let now = Instant::now();
    let (mut held, ticket, now) = match shared.with(|engine| engine.begin(target, kind, home, cost, now))? {
        Begun::Granted(key, ticket) => (Held { shared, key: Some(key) }, ticket, now),
        Begun::Waiting(key) => {
            let mut held = Held { shared, key: Some(key) };
            let ticket = held.granted().await?;
            (held, ticket, Instant::now())
        }
    };
    let body = Bytes::from(encode(ticket));
    if let Some(key) = held.key {
        shared.with(|engine| engine.submit(key, body, now));
    }
    held.done().await
}

/// A write; its reply is never a refusal.
pub(crate) async fn write(shared: &Shared, shard: ShardId, op: &Op) -> Result<Reply, Error> {
    match try_write(shared, shard, op).await {
        // A client that slept for hours stamps its first write with what it heard then. The refusal told it the time.
        // Who brought a session counts its sequences, so nothing is repeated under another one for them.
        Err(Error { kind: ErrorKind::SessionExpired, outcome: Outcome::NotExecuted, .. })
            if shared.with(|engine| engine.options().session.is_none()) =>
        {
            try_write(shared, shard, op).await
        }
        result => result,
    }
}

async fn try_write(shared: &Shared, shard: ShardId, op: &Op) -> Result<Reply, Error> {
    let cost = OVERHEAD_BYTES + op_bytes(op);
    let encode = |ticket: Option<Ticket>| match ticket {
        Some(ticket) => encode_request(&ticket, shard, op, cost),
        None => Vec::new(),
    };
    match call(shared, Target::Shard(shard), Kind::Write, Some(shard), cost, encode).await? {
        Verdict::Reply(reply) => Ok(reply),
        Verdict::Found(_) | Verdict::Refused(_) | Verdict::Malformed => {
            Err(Error { outcome: Outcome::Unknown, ..unexpected() })
        }
    }
}

fn encode_request(ticket: &Ticket, shard: ShardId, op: &Op, cost: usize) -> Vec<u8> {
    let Ticket { client, sequence, ack_through, sent_at } = *ticket;
    let mut bytes = Vec::with_capacity(cost);
    // Field by field as in a `Request`, without a copy of the value.
    codec::encode_into(&(client, sequence, ack_through, sent_at, shard, op), &mut bytes);
    bytes
}

/// A read of one shard.
pub(crate) async fn read(
    shared: &Shared,
    shard: ShardId,
    query: &Query,
    consistency: Consistency,
) -> Result<Answer, Error> {
    let body = codec::encode(query);
    match call(shared, Target::Shard(shard), Kind::Read(consistency), None, body.len(), |_| body).await? {
        Verdict::Found(answer) => Ok(answer),
        Verdict::Reply(_) | Verdict::Refused(_) | Verdict::Malformed => Err(unexpected()),
    }
}

/// What a group says to the request for a page.
#[derive(Debug)]
pub(crate) enum Paged {
    /// The pages of all shards that were asked for.
    Pages(Vec<ShardPage>),
    /// It doesn't serve this one; where it went, if it was ever there.
    Moved(ShardId, Option<Owner>),
    /// It doesn't serve some of them, or is gone.
    Elsewhere,
}

/// A page of a scan.
pub(crate) async fn page(
    shared: &Shared,
    group: GroupId,
    query: &Query,
    consistency: Consistency,
) -> Result<Paged, Error> {
    let body = codec::encode(query);
    match call(shared, Target::Group(group), Kind::Read(consistency), None, body.len(), |_| body).await? {
        Verdict::Found(Answer::Page(pages)) => Ok(Paged::Pages(pages)),
        Verdict::Found(Answer::WrongGroup { shard, owner }) => Ok(Paged::Moved(shard, owner)),
        Verdict::Found(Answer::Awaiting { .. }) | Verdict::Refused(_) => Ok(Paged::Elsewhere),
        Verdict::Found(Answer::Invalid) => {
            Err(Error::not_executed(ErrorKind::Invalid, "the node refuses the query"))
        }
        Verdict::Found(
            Answer::Value(_)
            | Answer::Pulled(_)
            | Answer::Duties(_)
            | Answer::Copies(_)
            | Answer::TxnDuties(_)
            | Answer::Txns(_),
        )
        | Verdict::Reply(_)
        | Verdict::Malformed => Err(unexpected()),
    }
}

/// An answer that doesn't fit what was asked.
pub(crate) fn unexpected() -> Error {
    Error::not_executed(ErrorKind::Protocol, "a node answered something else than was asked")
}

/// Tells the shards that keep replies for us that we have seen them all. Best effort, within a short time.
pub(crate) async fn acknowledge(shared: &Arc<Shared>) {
    let homes: Vec<ShardId> = shared.with(|engine| engine.session().idle_homes().collect());
    let acks = homes.into_iter().map(|home| async move {
        if write(shared, home, &Op::Ack).await.is_ok() {
            shared.with(|engine| engine.session_mut().acknowledged(home));
        }
    });
    let _in_time = tokio::time::timeout(ACKNOWLEDGE_TIMEOUT, all(acks)).await;
}

/// Runs futures together; their results in order.
pub(crate) async fn all<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut running: Vec<_> = futures.into_iter().map(|future| (Box::pin(future), None)).collect();
    let mut together = pin!(poll_fn(|context| {
        let mut pending = false;
        for (future, result) in running.iter_mut().filter(|(_, result)| result.is_none()) {
            match future.as_mut().poll(context) {
                Poll::Ready(output) => *result = Some(output),
                Poll::Pending => pending = true,
            }
        }
        if pending { Poll::Pending } else { Poll::Ready(()) }
    }));
    together.as_mut().await;
    running.into_iter().filter_map(|(_, result)| result).collect()
}

fn op_bytes(op: &Op) -> usize {
    let value = match op {
        Op::Put { value, .. } | Op::Append { value, .. } => value.len(),
        Op::Cas { expected, value, .. } => value.len() + expected.as_ref().map_or(0, Vec::len),
        Op::Delete { .. } | Op::Incr { .. } | Op::Ack => 0,
        Op::Txn(txn) => txn_bytes(txn),
    };
    value + op.key().map_or(0, <[u8]>::len)
}

fn txn_bytes(txn: &Txn) -> usize {
    let parts = txn.compares.len() + txn.then.len() + txn.otherwise.len();
    usize::try_from(txn.bytes()).unwrap_or(usize::MAX).saturating_add(parts * PART_BYTES)
}

#[cfg(test)]
mod tests {
    use kvserver::command::Request;
    use kvserver::txn::{Condition, Relation};
    use paxos::ids::{ClientId, LogTime, Sequence};

    use super::*;
    use crate::transaction::Transaction;

    #[test]
    fn a_request_is_encoded_as_the_log_reads_it() {
        let (key, value) = (b"key".to_vec(), vec![3; 300]);
        let most = vec![3; 1 << 17];
        let txn = Transaction::new()
            .when(&most, Condition::Value(Relation::Less, most.clone()))
            .when_version(&key, u64::MAX)
            .cas(&most, Some(&most), &most)
            .otherwise()
            .incr(&most, i64::MIN)
            .copy(&most, &most);
        let ops = [
            Op::Put { key: key.clone(), value: value.clone() },
            Op::Append { key: key.clone(), value: value.clone() },
            Op::Delete { key: key.clone() },
            Op::Cas { key: key.clone(), expected: Some(value.clone()), value },
            Op::Incr { key, by: i64::MIN },
            Op::Ack,
            Op::Txn(Box::new(txn.into())),
        ];
        for op in ops {
            let (client, sequence) = (ClientId(u128::MAX - 5), Sequence(u64::MAX - 7));
            let (ack_through, sent_at, shard) = (Sequence(300), LogTime(1 << 40), ShardId(1000));
            let ticket = Ticket { client, sequence, ack_through, sent_at };
            let cost = OVERHEAD_BYTES + op_bytes(&op);
            let bytes = encode_request(&ticket, shard, &op, cost);
            assert!(bytes.len() <= cost, "one allocation");
            let request = Request { client, sequence, ack_through, sent_at, shard, op };
            assert_eq!(bytes, codec::encode(&request));
        }
    }
}
