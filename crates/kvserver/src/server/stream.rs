//! The fast path of clients: one long-lived stream a client, calls and answers in frames of many.
//!
//! A task per stream reads: it never waits for a group, refuses what it can't hand over, and gives the node all calls of
//! a frame at once. The node answers into [`Answers`], which the stream's response is read from.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use paxos::codec;
use paxos::ids::GroupId;
use runtime::api::{Call, CallResult, Sink};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tonic::{Request, Response, Status, Streaming};
use wire::v1;
use wire::v1::client_server::Client;

use super::admission::{Admitted, admit};
use super::answers::{Answers, Kind, Outgoing};
use super::context::{Context, Phase, count};
use super::node::Numbered;
use super::refusal::{Rejected, refusal_of};
use crate::command::Reply;
use crate::machine::{self, Machine};
use crate::query::Answer;
use crate::txn::TxnResult;

/// How often an idle stream hears the log time.
const KEEPALIVE: Duration = Duration::from_secs(2);

/// The service.
pub(crate) struct Streams {
    context: Arc<Context>,
}

impl Streams {
    pub(crate) fn new(context: Arc<Context>) -> Streams {
        Streams { context }
    }
}

#[tonic::async_trait]
impl Client for Streams {
    type ConnectStream = Outgoing;

    async fn connect(
        &self,
        request: Request<Streaming<v1::ClientFrame>>,
    ) -> Result<Response<Outgoing>, Status> {
        if self.context.phase() > Phase::Serving {
            return Err(Status::unavailable("the node is stopping"));
        }
        let hello = self.context.hello().await?;
        let answers = Arc::new(Answers::new(self.context.serving.answer_bytes));
        answers.hello(hello, self.context.log_time());
        let outgoing = Outgoing::new(answers.clone(), self.context.clone());
        self.context.env.spawn(read(Incoming::new(self.context.clone(), answers), request.into_inner()));
        Ok(Response::new(outgoing))
    }
}

/// Reads a stream to its end.
async fn read(mut incoming: Incoming, mut frames: Streaming<v1::ClientFrame>) {
    let context = incoming.context.clone();
    let answers = incoming.answers.clone();
    let closed = context.reached(Phase::Closed);
    tokio::pin!(closed);
    let mut keepalive = interval(KEEPALIVE);
    keepalive.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut version = context.directory.version();
    while !answers.has_ended() {
        tokio::select! {
            biased;
            () = &mut closed => return answers.close(),
            now = context.directory.newer_than(version) => {
                version = now;
                answers.routing(context.directory.table().routing(&context.node.leaders()));
            }
            _ = keepalive.tick() => answers.hear_log_time(context.log_time()),
            // The last: there may always be another one.
            frame = frames.message() => match frame {
                Ok(Some(frame)) => incoming.on_frame(frame),
                Ok(None) => return answers.no_more_calls(),
                Err(_) => return answers.abandon(),
            },
        }
    }
}

/// The reading half of a stream.
pub(crate) struct Incoming {
    context: Arc<Context>,
    answers: Arc<Answers>,
    /// Of the groups that were called so far.
    groups: Vec<GroupCalls>,
}

/// Calls of one stream to one group.
struct GroupCalls {
    group: GroupId,
    sink: Arc<GroupSink>,
    as_sink: Arc<dyn Sink<Machine>>,
    /// Of the frame at hand; kept for its capacity.
    calls: Vec<Numbered>,
}

impl Incoming {
    pub(crate) fn new(context: Arc<Context>, answers: Arc<Answers>) -> Incoming {
        Incoming { context, answers, groups: Vec::new() }
    }

    /// The calls to `group`; `None` if there is no such group, as far as this node knows.
    fn calls_to(&mut self, group: GroupId) -> Option<&mut GroupCalls> {
        if let Some(known) = self.groups.iter().position(|calls| calls.group == group) {
            return self.groups.get_mut(known);
        }
        let table = self.context.directory.table();
        // Groups that are gone leave their places here; what bounds them is how many are there.
        self.groups.retain(|calls| table.groups.contains_key(&calls.group) || !calls.calls.is_empty());
        table.groups.get(&group)?;
        let (context, answers) = (self.context.clone(), self.answers.clone());
        let sink = Arc::new(GroupSink {
            context,
            answers,
            in_flight: AtomicU32::new(0),
            sample: Mutex::default(),
            sampling: AtomicBool::new(false),
        });
        self.groups.push(GroupCalls { group, as_sink: sink.clone(), sink, calls: Vec::new() });
        self.groups.last_mut()
    }

    /// Hands the calls of a frame to the node, and refuses those that can't be.
    pub(crate) fn on_frame(&mut self, frame: v1::ClientFrame) {
        count(&self.context.traffic.frames_received, 1);
        count(&self.context.traffic.calls, frame.calls.len() as u64);
        let stopping = self.context.phase() > Phase::Serving;
        for call in frame.calls {
            let id = call.id;
            let taken = if stopping { Err(Rejected::Stopping) } else { self.take(call) };
            if let Err(rejected) = taken {
                self.reject(id, &rejected);
            }
        }
        let with_calls = self.groups.iter_mut().filter(|group| !group.calls.is_empty());
        with_calls.for_each(|group| group.submit(&self.context, &self.answers));
    }

    fn take(&mut self, call: v1::Call) -> Result<(), Rejected> {
        let id = call.id;
        let group = GroupId(call.group);
        let Admitted { call, about } = admit(self.context.directory.shards(), call)?;
        let calls_max = self.context.serving.stream_calls;
        let of = self.calls_to(group).ok_or(Rejected::UnknownGroup)?;
        if of.sink.in_flight.load(Ordering::Relaxed) >= calls_max {
            return Err(Rejected::Busy);
        }
        of.sink.in_flight.fetch_add(1, Ordering::Relaxed);
        if matches!(call, Call::Write { .. }) {
            of.sink.begin_sample(id);
        }
        of.calls.push((group, call, id));
        about.count(&self.context.loads);
        Ok(())
    }

    fn reject(&self, id: u64, rejected: &Rejected) {
        count(&self.context.traffic.calls_rejected, 1);
        if self.answers.rejected(id, refusal_of(rejected)) {
            count(&self.context.traffic.streams_too_slow, 1);
        }
    }
}

impl GroupCalls {
    fn submit(&mut self, context: &Context, answers: &Answers) {
        answers.submitted(self.calls.len());
        context.node.submit(&mut self.calls, &self.as_sink);
        self.calls.clear();
        // One large frame doesn't pin its capacity for the life of the stream.
        self.calls.shrink_to(4096);
    }
}

/// Takes the answers of one group for one stream.
struct GroupSink {
    context: Arc<Context>,
    answers: Arc<Answers>,
    in_flight: AtomicU32,
    sample: Mutex<Option<(u64, Instant)>>,
    /// Whether a write is being timed.
    sampling: AtomicBool,
}

impl GroupSink {
    /// Times this write, if no other one of the stream and group is.
    fn begin_sample(&self, id: u64) {
        if !self.sampling.load(Ordering::Relaxed) {
            *self.sample.lock() = Some((id, Instant::now()));
            self.sampling.store(true, Ordering::Relaxed);
        }
    }

    fn end_sample(&self, id: u64) {
        if !self.sampling.load(Ordering::Relaxed) {
            return;
        }
        let mut sample = self.sample.lock();
        if let Some((_, began)) = sample.take_if(|(sampled, _)| *sampled == id) {
            self.sampling.store(false, Ordering::Relaxed);
            self.context.latencies.add(began.elapsed());
        }
    }
}

impl Sink<Machine> for GroupSink {
    fn answer(&self, call: u64, result: CallResult<Machine>, log_time: u64) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.end_sample(call);
        self.context.hear_log_time(log_time);
        let too_slow = match result {
            CallResult::Reply(machine::Reply::Store(reply)) => {
                self.context.outcomes.count(&reply);
                let size = size_of_reply(&reply);
                self.answers
                    .answer(call, Kind::Reply, size, log_time, |buffer| codec::encode_into(&reply, buffer))
            }
            CallResult::Found(machine::Answer::Store(answer)) => {
                let size = size_of_answer(&answer);
                self.answers
                    .answer(call, Kind::Found, size, log_time, |buffer| codec::encode_into(&answer, buffer))
            }
            CallResult::Refused(refused) => {
                self.answers.refused(call, log_time, self.context.directory.refused(refused))
            }
            // Calls of clients go to the groups of shards.
            CallResult::Reply(machine::Reply::Master(_)) | CallResult::Found(machine::Answer::Master(_)) => {
                self.answers.refused(call, log_time, refusal_of(&Rejected::UnknownGroup))
            }
        };
        if too_slow {
            count(&self.context.traffic.streams_too_slow, 1);
        }
    }
}

/// About how many bytes a reply takes beside what every answer does.
fn size_of_reply(reply: &Reply) -> usize {
    match reply {
        Reply::Txn(reply) => {
            let size = |result: &TxnResult| match result {
                TxnResult::Value(value) => 10 + value.as_ref().map_or(0, |(value, _)| value.len()),
                _ => 10,
            };
            reply.results.iter().map(size).sum()
        }
        _ => 0,
    }
}

/// About how many bytes an answer takes.
fn size_of_answer(answer: &Answer) -> usize {
    match answer {
        Answer::Value(value) => value.as_ref().map_or(0, |(value, _)| value.len()),
        Answer::Page(shards) => {
            let pairs = shards.iter().flat_map(|shard| &shard.pairs);
            pairs.map(|pair| pair.key.len() + pair.value.len() + 8).sum()
        }
        Answer::WrongGroup { .. }
        | Answer::Awaiting { .. }
        | Answer::Invalid
        | Answer::Pulled(_)
        | Answer::Duties(_)
        | Answer::Copies(_)
        | Answer::TxnDuties(_)
        | Answer::Txns(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context as TaskContext, Poll, Waker};

    use paxos::ids::{ClientId, LogTime, NodeId, Sequence};
    use runtime::api::{Refused, RefusedReason};

    use super::super::fake::FakeNode;
    use super::*;
    use crate::command::{Op, Request as Write, ShardId};

    struct Rig {
        node: Arc<FakeNode>,
        context: Arc<Context>,
        answers: Arc<Answers>,
        incoming: Incoming,
    }

    fn rig(stream_calls: u32) -> Rig {
        let node = Arc::new(FakeNode::default());
        let context = Arc::new(FakeNode::context(&node, |config| config.serving.stream_calls = stream_calls));
        let answers = Arc::new(Answers::new(1 << 20));
        let incoming = Incoming::new(context.clone(), answers.clone());
        Rig { node, context, answers, incoming }
    }

    fn call(id: u64, group: u32, shard: u16) -> v1::Call {
        let request = Write {
            client: ClientId(1),
            sequence: Sequence(id),
            ack_through: Sequence(0),
            sent_at: LogTime(0),
            shard: ShardId(shard),
            op: Op::Ack,
        };
        let kind = Some(v1::call::Kind::Write(codec::encode(&request).into()));
        v1::Call { id, group, kind, consistency: 0 }
    }

    /// Ids and refusal codes of what waits for the client; code 0 for a reply.
    fn answered(answers: &Answers) -> Vec<(u64, i32)> {
        let mut all = Vec::new();
        while let Poll::Ready(Some(Ok(frame))) = answers.poll(&mut TaskContext::from_waker(Waker::noop())) {
            all.extend(frame.answers.into_iter().map(|answer| match answer.result.unwrap() {
                v1::answer::Result::Refusal(refusal) => (answer.id, refusal.code),
                v1::answer::Result::Reply(_) | v1::answer::Result::Found(_) => (answer.id, 0),
            }));
        }
        all
    }

    #[test]
    fn the_calls_of_a_frame_go_out_once_a_group() {
        let mut rig = rig(10);
        let calls = vec![call(1, 1, 0), call(2, 2, 255), call(3, 1, 1), call(4, 9, 0)];
        rig.incoming.on_frame(v1::ClientFrame { calls });
        assert_eq!(rig.node.submitted_numbers(), [vec![1, 3], vec![2]]);
        assert_eq!(answered(&rig.answers), [(4, v1::Code::WrongGroup as i32)]);
        rig.node.answer_all(|| CallResult::Reply(machine::Reply::Store(Reply::Acked)));
        assert_eq!(answered(&rig.answers), [(1, 0), (3, 0), (2, 0)]);
    }

    #[test]
    fn a_full_group_is_busy_while_another_is_not_and_answers_make_room() {
        let mut rig = rig(2);
        let calls = vec![call(1, 1, 0), call(2, 1, 0), call(3, 1, 0), call(4, 2, 255)];
        rig.incoming.on_frame(v1::ClientFrame { calls });
        assert_eq!(answered(&rig.answers), [(3, v1::Code::Busy as i32)]);
        rig.node.answer_all(|| CallResult::Reply(machine::Reply::Store(Reply::Acked)));
        rig.incoming.on_frame(v1::ClientFrame { calls: vec![call(5, 1, 0)] });
        assert_eq!(answered(&rig.answers), [(1, 0), (2, 0), (4, 0)]);
    }

    #[test]
    fn a_draining_node_refuses_new_calls_and_answers_old_ones() {
        let mut rig = rig(10);
        rig.incoming.on_frame(v1::ClientFrame { calls: vec![call(1, 1, 0)] });
        rig.context.enter(Phase::Draining);
        rig.incoming.on_frame(v1::ClientFrame { calls: vec![call(2, 1, 0)] });
        rig.node.answer_all(|| CallResult::Reply(machine::Reply::Store(Reply::Acked)));
        assert_eq!(answered(&rig.answers), [(2, v1::Code::Stopping as i32), (1, 0)]);
    }

    #[test]
    fn a_refusal_by_the_node_reaches_the_client() {
        let mut rig = rig(10);
        rig.incoming.on_frame(v1::ClientFrame { calls: vec![call(1, 1, 0)] });
        let reason = RefusedReason::NotLeader;
        let refused = Refused { reason, leader: Some(NodeId(2)), outcome_unknown: true };
        rig.node.answer_all(|| CallResult::Refused(refused));
        assert_eq!(answered(&rig.answers), [(1, v1::Code::NotLeader as i32)]);
    }
}
