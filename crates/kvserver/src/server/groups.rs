//! What other groups ask of the groups here, on the port of peers: requests between groups, and pulls of moving shards.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use paxos::ids::{Generation, GroupId, NodeId};
use runtime::api::{Call, CallResult, ReadConsistency};
use shardmaster::ids::SHARDMASTER;
use tonic::{Request, Response, Status};
use wire::v1;
use wire::v1::group_answer::Result as Answered;
use wire::v1::group_call::Kind;
use wire::v1::groups_server::Groups;

use super::ask::{ask_all_here, ask_here, is_cut, is_lost, read_here};
use super::context::{Context, Phase, ShardCalls};
use super::crash::Point;
use super::refusal::{Rejected, refusal_of};
use crate::entry::{GroupCommand, GroupRequest};
use crate::handoff::CopyStatus;
use crate::machine;
use crate::query::{Answer, Query};
use crate::txn::TxnCommand;

/// The service. It is on the port before the node is there.
#[derive(Clone, Default)]
pub(crate) struct BetweenGroups {
    context: Arc<OnceLock<Arc<Context>>>,
}

impl BetweenGroups {
    fn context(&self) -> Result<&Arc<Context>, Status> {
        self.context.get().ok_or_else(|| Status::unavailable("the node is starting"))
    }

    /// From here on calls are answered.
    pub(crate) fn begin(&self, context: Arc<Context>) {
        // Called once, by whoever made it.
        let _first = self.context.set(context);
    }
}

#[tonic::async_trait]
impl Groups for BetweenGroups {
    async fn submit(&self, request: Request<v1::GroupCall>) -> Result<Response<v1::GroupAnswer>, Status> {
        let (context, call) = (self.context()?, request.into_inner());
        if is_cut(context, NodeId(call.from)) || is_lost(context) {
            return Err(Status::unavailable("the link is cut"));
        }
        Ok(Response::new(answer(context, call).await))
    }

    async fn submit_many(
        &self,
        request: Request<v1::GroupCalls>,
    ) -> Result<Response<v1::GroupAnswers>, Status> {
        let (context, calls) = (self.context()?, request.into_inner());
        if is_cut(context, NodeId(calls.from)) || is_lost(context) {
            return Err(Status::unavailable("the link is cut"));
        }
        Ok(Response::new(v1::GroupAnswers { answers: answer_all(context, calls).await }))
    }

    async fn load(&self, _: Request<v1::LoadRequest>) -> Result<Response<v1::LoadResponse>, Status> {
        let load = load(self.context()?).await;
        Ok(Response::new(load.ok_or_else(|| Status::unavailable("the node is stopping"))?))
    }
}

/// Answers a call of a group, if the leader of the one that is asked is here.
pub(crate) async fn answer(context: &Context, call: v1::GroupCall) -> v1::GroupAnswer {
    let result = match taken(context, call) {
        Ok((group, call)) => answer_of(context, group, call).await,
        Err(rejected) => Answered::Refusal(refusal_of(&rejected)),
    };
    v1::GroupAnswer { result: Some(result) }
}

/// Whether this life of the group is here, and calls are taken.
fn taken_by(context: &Context, group: GroupId, generation: Generation) -> Result<(), Rejected> {
    if context.phase() > Phase::Serving {
        return Err(Rejected::Stopping);
    }
    let here = context.node.generation(group) == Some(generation);
    here.then_some(()).ok_or(Rejected::UnknownGroup)
}

fn taken(context: &Context, call: v1::GroupCall) -> Result<(GroupId, Call<machine::Machine>), Rejected> {
    let group = GroupId(call.group);
    taken_by(context, group, Generation(call.generation))?;
    let call = match call.kind {
        Some(Kind::Write(request)) => {
            let id = machine::id_of_request(group, &request).ok_or(Rejected::Invalid("not a request"))?;
            Call::Write { id, request, sent_at: 0 }
        }
        Some(Kind::Read(query)) => {
            let query = machine::Query::decode(group, &query).ok_or(Rejected::Invalid("not a query"))?;
            Call::Read { query, consistency: ReadConsistency::Lease }
        }
        None => return Err(Rejected::Invalid("neither a write nor a read")),
    };
    Ok((group, call))
}

/// Answers the requests of another group, each by itself and in order.
pub(crate) async fn answer_all(context: &Context, calls: v1::GroupCalls) -> Vec<v1::GroupAnswer> {
    let group = GroupId(calls.group);
    // The shardmaster's log holds no such entries.
    let here = match group {
        SHARDMASTER => Err(Rejected::UnknownGroup),
        group => taken_by(context, group, Generation(calls.generation)),
    };
    let mut logged = Vec::new();
    let mut taken = Vec::new();
    let mut answers: Vec<Option<Answered>> = Vec::new();
    for request in calls.writes {
        let decoded = here.clone().and_then(|()| {
            GroupRequest::decode(&request).map_err(|_| Rejected::Invalid("not a request between groups"))
        });
        match decoded {
            Ok(decoded) => {
                if let GroupCommand::Txn(command) = &decoded.command {
                    context.crash.reached(Point::received(command));
                    logged.push(Point::logged(command));
                    if let TxnCommand::Prepare { shard, .. } = command {
                        context.loads.count(*shard, true);
                    }
                }
                taken.push((group, Call::Write { id: decoded.id(), request, sent_at: 0 }));
                answers.push(None);
            }
            Err(rejected) => answers.push(Some(Answered::Refusal(refusal_of(&rejected)))),
        }
    }
    let mut replies = ask_all_here(context, taken).await.unwrap_or_default().into_iter();
    logged.into_iter().for_each(|point| context.crash.reached(point));
    let answer =
        |answered: Option<Answered>| answered.unwrap_or_else(|| answered_by(context, replies.next()));
    answers.into_iter().map(answer).map(|result| v1::GroupAnswer { result: Some(result) }).collect()
}

async fn answer_of(context: &Context, group: GroupId, call: Call<machine::Machine>) -> Answered {
    answered_by(context, ask_here(context, group, call).await)
}

fn answered_by(context: &Context, result: Option<CallResult<machine::Machine>>) -> Answered {
    match result {
        Some(CallResult::Reply(reply)) => Answered::Reply(Bytes::from(reply.encode())),
        Some(CallResult::Found(answer)) => Answered::Found(Bytes::from(answer.encode())),
        Some(CallResult::Refused(refused)) => Answered::Refusal(context.directory.refused(refused)),
        None => Answered::Refusal(refusal_of(&Rejected::Stopping)),
    }
}

/// What this node knows of its load, and of the copies in the groups that it leads; `None` if it stops meanwhile.
pub(crate) async fn load(context: &Context) -> Option<v1::LoadResponse> {
    let status = context.status().await?;
    let mut copies = Vec::new();
    for replica in &status.replicas {
        if replica.group == SHARDMASTER || replica.role != "leader" {
            continue;
        }
        let found = read_here(context, replica.group, machine::Query::Store(Query::Copies)).await?;
        let machine::Answer::Store(Answer::Copies(found)) = found else { continue };
        copies.extend(found.iter().map(|copy| load_of(context, replica.group, copy)));
    }
    let groups = status.replicas.iter().map(|replica| v1::GroupHealth {
        group: replica.group.0,
        leader: replica.leader.map_or(0, |leader| leader.0),
        applied_end: replica.applied_end.0,
    });
    Some(v1::LoadResponse { copies, groups: groups.collect(), p99_us: context.latencies.p99_us() })
}

fn load_of(context: &Context, group: GroupId, copy: &CopyStatus) -> v1::CopyLoad {
    let calls = context.loads.of(copy.shard);
    let counted = |counter: fn(&ShardCalls) -> &AtomicU64| {
        calls.map_or(0, |calls| counter(calls).load(Ordering::Relaxed))
    };
    v1::CopyLoad {
        shard: u32::from(copy.shard.0),
        group: group.0,
        epoch: copy.epoch.0,
        phase: copy.phase.word().to_string(),
        keys: copy.keys,
        sessions: copy.sessions,
        bytes: copy.bytes,
        left: copy.left,
        writes: counted(|calls| &calls.writes),
        reads: counted(|calls| &calls.reads),
    }
}

#[cfg(test)]
mod tests {
    use paxos::ids::{ClientId, LogTime, Sequence};

    use super::super::fake::FakeNode;
    use super::*;
    use crate::command::{Op, Reply, Request as Write, ShardId};
    use crate::txn::{Age, Attempt, TxnAnswer};

    fn answered(calls: v1::GroupCalls) -> (Vec<v1::GroupAnswer>, Arc<Context>) {
        let node = Arc::new(FakeNode::default());
        *node.respond.lock() = Some(Box::new(|(_, call, _)| {
            let Call::Write { request, .. } = call else { panic!("a read") };
            match GroupRequest::decode(request).unwrap().sequence.0 {
                2 => {
                    let reason = runtime::api::RefusedReason::Busy;
                    let (leader, outcome_unknown) = (None, false);
                    CallResult::Refused(runtime::api::Refused { reason, leader, outcome_unknown })
                }
                _ => CallResult::Reply(machine::Reply::Store(Reply::Between(Box::new(TxnAnswer::Waiting)))),
            }
        }));
        let context = Arc::new(FakeNode::context(&node, |_| {}));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        (runtime.block_on(answer_all(&context, calls)), context)
    }

    fn calls(group: u32, writes: Vec<Vec<u8>>) -> v1::GroupCalls {
        let writes = writes.into_iter().map(Bytes::from).collect();
        v1::GroupCalls { group, generation: 1, from: 2, writes }
    }

    fn prepare(sequence: u64) -> Vec<u8> {
        let age = Age { sent_at: LogTime(1), client: ClientId(7), sequence: Sequence(1) };
        let attempt = Attempt { home: ShardId(3), number: 1, age };
        let command = TxnCommand::Prepare { attempt, shard: ShardId(200), keys: Vec::new() }.into();
        GroupRequest { client: ClientId(9), sequence: Sequence(sequence), command }.encode()
    }

    fn codes(answers: &[v1::GroupAnswer]) -> Vec<Option<v1::Code>> {
        let code = |answer: &v1::GroupAnswer| match answer.result.as_ref().unwrap() {
            Answered::Refusal(refusal) => Some(refusal.code()),
            Answered::Reply(_) | Answered::Found(_) => None,
        };
        answers.iter().map(code).collect()
    }

    #[test]
    fn each_of_many_requests_is_answered_by_itself_and_in_its_place() {
        let of_a_client = Write {
            client: ClientId(1),
            sequence: Sequence(1),
            ack_through: Sequence(0),
            sent_at: LogTime(0),
            shard: ShardId(0),
            op: Op::Ack,
        };
        let writes =
            vec![prepare(1), paxos::codec::encode(&of_a_client), prepare(2), b"\0junk".to_vec(), prepare(3)];
        let (answers, context) = answered(calls(2, writes));
        let (invalid, busy) = (Some(v1::Code::Invalid), Some(v1::Code::Busy));
        assert_eq!(codes(&answers), [None, invalid, busy, invalid, None]);
        let counted = context.loads.of(ShardId(200)).unwrap().writes.load(Ordering::Relaxed);
        assert_eq!(counted, 3, "it is load of the shard");
    }

    #[test]
    fn nothing_is_taken_for_the_shardmaster_or_for_another_life_of_a_group() {
        let wrong = Some(v1::Code::WrongGroup);
        assert_eq!(codes(&answered(calls(0, vec![prepare(1)])).0), [wrong]);
        let older = v1::GroupCalls { generation: 0, ..calls(1, vec![prepare(1), prepare(2)]) };
        assert_eq!(codes(&answered(older).0), [wrong, wrong]);
        assert!(answered(calls(1, Vec::new())).0.is_empty());
    }
}
