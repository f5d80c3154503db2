//! The unary service, for grpcurl and languages without a client of ours. A call that this node can't answer fails with
//! a status; its metadata says where the leader is and whether the call had an effect. Nothing is forwarded, and nothing
//! is retried but a transaction that had to give way.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use paxos::codec;
use paxos::ids::{ClientId, GroupId, LogTime, Sequence};
use rand::RngExt;
use runtime::api::{Call, CallResult};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tonic::{Request, Response, Status};
use wire::v1;
use wire::v1::kv_server::Kv;

use super::admission::{Admitted, admit_query, admit_write, consistency};
use super::ask::ask_here;
use super::context::{Context, Phase, count};
use super::page::Merge;
use super::refusal::{
    Rejected, refusal_of, status_of, status_of_reply, status_of_session, status_of_timeout,
};
use super::session::{Sessions, Ticket};
use super::unary_txn::{response_of, txn_of};
use crate::command::{BusyReason, Op, Refusal, Reply, Request as Write, ShardId, shard_of};
use crate::machine::{self, Machine};
use crate::query::{Answer, Query, SCAN_PAIRS_MAX, ShardCursor};
use crate::routing::SHARDS_MAX;
use crate::txn::{Conflict, Txn, TxnReply};

/// A call without a deadline of its own is given up after this time.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// First pause of a transaction that had to give way, and the longest; each is about twice the one before.
const PAUSE_MIN: Duration = Duration::from_millis(2);
const PAUSE_MAX: Duration = Duration::from_millis(100);
/// Calls under way at once; above it they are refused as busy.
const CALLS_MAX: usize = 4096;

/// The service.
pub(crate) struct Unary {
    context: Arc<Context>,
    sessions: Sessions,
    room: Semaphore,
}

impl Unary {
    pub(crate) fn new(context: Arc<Context>) -> Unary {
        let sessions = Sessions::new(SHARDS_MAX, context.env.luck());
        Unary { context, sessions, room: Semaphore::new(CALLS_MAX) }
    }

    fn rejected(&self, rejected: &Rejected) -> Status {
        status_of(&refusal_of(rejected))
    }

    /// Hands one call to the node and waits for its answer.
    async fn call(&self, group: GroupId, call: Call<Machine>) -> Result<CallResult<Machine>, Status> {
        self.call_within(CALL_TIMEOUT, group, call).await
    }

    async fn call_within(
        &self,
        timeout: Duration,
        group: GroupId,
        call: Call<Machine>,
    ) -> Result<CallResult<Machine>, Status> {
        count(&self.context.traffic.unary_calls, 1);
        if self.context.phase() > Phase::Serving {
            return Err(self.rejected(&Rejected::Stopping));
        }
        let _place = self.room.try_acquire().map_err(|_| self.rejected(&Rejected::Busy))?;
        let lost = match &call {
            Call::Write { .. } => v1::Outcome::Unknown,
            Call::Read { .. } => v1::Outcome::NotExecuted,
        };
        tokio::select! {
            biased;
            answer = tokio::time::timeout(timeout, ask_here(&self.context, group, call)) => match answer {
                Ok(Some(CallResult::Refused(refused))) => Err(status_of(&self.context.directory.refused(refused))),
                Ok(Some(result)) => Ok(result),
                Ok(None) | Err(_) => Err(status_of_timeout(lost)),
            },
            () = self.context.reached(Phase::Closed) => Err(status_of_timeout(lost)),
        }
    }

    async fn read(&self, group: GroupId, query: Query, consistency_number: i32) -> Result<Answer, Status> {
        let shards = self.context.directory.shards();
        let admitted =
            consistency(consistency_number).and_then(|consistency| admit_query(shards, query, consistency));
        let admitted = admitted.map_err(|rejected| self.rejected(&rejected))?;
        admitted.about.count(&self.context.loads);
        let CallResult::Found(machine::Answer::Store(answer)) = self.call(group, admitted.call).await? else {
            return Err(mismatched());
        };
        match answer {
            Answer::WrongGroup { .. } => Err(status_of_session(&Refusal::WrongGroup { owner: None }, true)),
            Answer::Awaiting { .. } => Err(status_of_session(&Refusal::Awaiting, true)),
            Answer::Invalid => Err(Status::invalid_argument("the query breaks a bound")),
            answer => Ok(answer),
        }
    }

    fn group_of(&self, shard: ShardId) -> Result<GroupId, Status> {
        self.context.directory.group_of(shard).ok_or_else(|| self.rejected(&Rejected::UnknownGroup))
    }

    async fn write(&self, op: Op, session: Option<v1::Session>) -> Result<Reply, Status> {
        let shard = shard_of(op.key().unwrap_or_default(), self.context.directory.shards());
        let only_try = session.is_none();
        // Held until the answer is there: until then the request counts as unanswered.
        let (request, _ticket) = self.request(shard, op, session)?;
        let admitted = self.admitted(Bytes::from(codec::encode(&request)))?;
        admitted.about.count(&self.context.loads);
        match self.call(self.group_of(shard)?, admitted.call).await? {
            CallResult::Reply(machine::Reply::Store(
                reply @ (Reply::Written { .. } | Reply::Deleted { .. } | Reply::Number { .. } | Reply::Acked),
            )) => Ok(reply),
            CallResult::Reply(machine::Reply::Store(reply)) => Err(status_of_reply(&reply, only_try)),
            CallResult::Reply(_) | CallResult::Found(_) | CallResult::Refused(_) => Err(mismatched()),
        }
    }

    /// A request in the caller's session, or in one of this node's own.
    fn request(
        &self,
        shard: ShardId,
        op: Op,
        session: Option<v1::Session>,
    ) -> Result<(Write, Option<Ticket>), Status> {
        if let Some(session) = session {
            return Ok((request_of(session, shard, op)?, None));
        }
        let ticket = self.sessions.next(shard).ok_or_else(|| self.rejected(&Rejected::Busy))?;
        Ok((ticket.request(shard, self.context.log_time(), op), Some(ticket)))
    }

    fn admitted(&self, request: Bytes) -> Result<Admitted, Status> {
        let admitted = admit_write(self.context.directory.shards(), request);
        admitted.map_err(|rejected| self.rejected(&rejected))
    }

    /// Tries a transaction until it runs, while it has to give way: with the same request, so that it grows older than
    /// what it meets, and is run once.
    async fn run(&self, txn: Txn, session: Option<v1::Session>) -> Result<TxnReply, Status> {
        let began = Instant::now();
        let home = shard_of(txn.first_key().unwrap_or_default(), self.context.directory.shards());
        let only_try = session.is_none();
        let (request, _ticket) = self.request(home, Op::Txn(Box::new(txn)), session)?;
        let request = Bytes::from(codec::encode(&request));
        self.admitted(request.clone())?.about.count(&self.context.loads);
        let mut pause = PAUSE_MIN;
        loop {
            let left = CALL_TIMEOUT.saturating_sub(began.elapsed());
            let call = self.admitted(request.clone())?.call;
            let CallResult::Reply(machine::Reply::Store(reply)) =
                self.call_within(left, self.group_of(home)?, call).await?
            else {
                return Err(mismatched());
            };
            self.context.outcomes.count(&reply);
            let wait = self.context.env.luck().random_range(pause / 2..=pause);
            match reply {
                Reply::Txn(reply) => return Ok(*reply),
                Reply::Refused(refusal) if gives_way(&refusal) && began.elapsed() + wait < CALL_TIMEOUT => {
                    tokio::time::sleep(wait).await;
                }
                reply => return Err(status_of_reply(&reply, only_try)),
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn written(
        &self,
        op: Op,
        session: Option<v1::Session>,
    ) -> Result<Response<v1::WriteResponse>, Status> {
        match self.write(op, session).await? {
            Reply::Written { length, version } => Ok(Response::new(v1::WriteResponse { length, version })),
            reply => Err(status_of_reply(&reply, true)),
        }
    }
}

/// Whether the same request may run a little later.
fn gives_way(refusal: &Refusal) -> bool {
    match refusal {
        Refusal::Busy(reason) => match reason {
            BusyReason::Locked | BusyReason::Moving | BusyReason::Transactions => true,
            BusyReason::Sessions | BusyReason::Window => false,
        },
        Refusal::Conflict(why) => match why {
            Conflict::Older | Conflict::Moving | Conflict::TimedOut | Conflict::Full => true,
            Conflict::GivenUp | Conflict::TooLarge => false,
        },
        Refusal::Awaiting => true,
        Refusal::AlreadyAcknowledged
        | Refusal::SessionExpired
        | Refusal::FromTheFuture
        | Refusal::SequenceReused
        | Refusal::WrongGroup { .. }
        | Refusal::Invalid => false,
    }
}

fn mismatched() -> Status {
    Status::internal("an answer to another kind of call")
}

/// A request in the caller's own session.
fn request_of(session: v1::Session, shard: ShardId, op: Op) -> Result<Write, Status> {
    let client: [u8; 16] = session.client.as_ref().try_into().map_err(|_| {
        Status::invalid_argument(format!("session.client has 16 bytes, not {}", session.client.len()))
    })?;
    Ok(Write {
        client: ClientId(u128::from_be_bytes(client)),
        sequence: Sequence(session.sequence),
        ack_through: Sequence(session.ack_through),
        sent_at: LogTime(session.sent_at),
        shard,
        op,
    })
}

#[tonic::async_trait]
impl Kv for Unary {
    async fn get(&self, request: Request<v1::GetRequest>) -> Result<Response<v1::GetResponse>, Status> {
        let v1::GetRequest { key, consistency } = request.into_inner();
        let shard = shard_of(&key, self.context.directory.shards());
        let group = self.group_of(shard)?;
        match self.read(group, Query::Get { shard, key: key.into() }, consistency).await? {
            Answer::Value(Some((value, version))) => {
                Ok(Response::new(v1::GetResponse { found: true, value: value.into(), version }))
            }
            Answer::Value(None) => Ok(Response::new(v1::GetResponse::default())),
            _ => Err(mismatched()),
        }
    }

    async fn put(&self, request: Request<v1::PutRequest>) -> Result<Response<v1::WriteResponse>, Status> {
        let v1::PutRequest { key, value, session } = request.into_inner();
        self.written(Op::Put { key: key.into(), value: value.into() }, session).await
    }

    async fn append(
        &self,
        request: Request<v1::AppendRequest>,
    ) -> Result<Response<v1::WriteResponse>, Status> {
        let v1::AppendRequest { key, value, session } = request.into_inner();
        self.written(Op::Append { key: key.into(), value: value.into() }, session).await
    }

    async fn delete(
        &self,
        request: Request<v1::DeleteRequest>,
    ) -> Result<Response<v1::DeleteResponse>, Status> {
        let v1::DeleteRequest { key, session } = request.into_inner();
        match self.write(Op::Delete { key: key.into() }, session).await? {
            Reply::Deleted { existed } => Ok(Response::new(v1::DeleteResponse { existed })),
            reply => Err(status_of_reply(&reply, true)),
        }
    }

    async fn cas(&self, request: Request<v1::CasRequest>) -> Result<Response<v1::WriteResponse>, Status> {
        let v1::CasRequest { key, expected, value, session } = request.into_inner();
        let op = Op::Cas { key: key.into(), expected: expected.map(Vec::from), value: value.into() };
        self.written(op, session).await
    }

    async fn incr(&self, request: Request<v1::IncrRequest>) -> Result<Response<v1::IncrResponse>, Status> {
        let v1::IncrRequest { key, by, session } = request.into_inner();
        match self.write(Op::Incr { key: key.into(), by }, session).await? {
            Reply::Number { value, version } => Ok(Response::new(v1::IncrResponse { value, version })),
            reply => Err(status_of_reply(&reply, true)),
        }
    }

    async fn txn(&self, request: Request<v1::TxnRequest>) -> Result<Response<v1::TxnResponse>, Status> {
        let mut request = request.into_inner();
        let session = request.session.take();
        Ok(Response::new(response_of(self.run(txn_of(request)?, session).await?)))
    }

    /// One page in key order over all groups. Each group is read by itself, so a linearizable scan needs a node that
    /// leads them all; `STALE` works everywhere.
    async fn scan(&self, request: Request<v1::ScanRequest>) -> Result<Response<v1::ScanResponse>, Status> {
        let v1::ScanRequest { prefix, after, limit, keys_only, consistency } = request.into_inner();
        let limit = if limit == 0 { SCAN_PAIRS_MAX } else { limit.min(SCAN_PAIRS_MAX) };
        let after = (!after.is_empty()).then(|| after.to_vec());
        let table = self.context.directory.table();
        let mut merge = Merge::default();
        for group in table.groups.keys().copied() {
            let cursor = |shard| ShardCursor { shard, after: after.clone() };
            let shards: Vec<ShardCursor> = table.shards_of(group).map(cursor).collect();
            if shards.is_empty() {
                continue;
            }
            let query = Query::Scan { shards, prefix: prefix.to_vec(), limit, keys_only };
            let Answer::Page(shards) = self.read(group, query, consistency).await? else {
                return Err(mismatched());
            };
            merge.add(shards);
        }
        let (pairs, done) = merge.page(limit);
        let pair = |pair: crate::query::Pair| v1::Pair {
            key: pair.key.into(),
            value: pair.value.into(),
            version: pair.version,
        };
        Ok(Response::new(v1::ScanResponse { pairs: pairs.into_iter().map(pair).collect(), done }))
    }
}

#[cfg(test)]
#[path = "unary_tests.rs"]
mod tests;
