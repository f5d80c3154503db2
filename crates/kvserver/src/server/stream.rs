//! The fast path of clients: one long-lived stream a client, calls and answers in frames of many.
//!
//! A task per stream reads: it never waits for a group, refuses what it can't hand over, and gives the node all calls of
//! a frame at once. The node answers into [`Answers`], which the stream's response is read from.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use paxos::codec;
use runtime::api::{CallResult, Sink};
use tokio::time::{MissedTickBehavior, interval};
use tonic::{Request, Response, Status, Streaming};
use wire::v1;
use wire::v1::client_server::Client;

use super::admission::admit;
use super::answers::{Answers, Kind, Outgoing};
use super::context::{Context, Phase, count};
use super::node::Numbered;
use super::refusal::Rejected;
use crate::query::Answer;
use crate::store::Store;

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
        tokio::spawn(read(Incoming::new(self.context.clone(), answers), request.into_inner()));
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
    while !answers.has_ended() {
        tokio::select! {
            frame = frames.message() => match frame {
                Ok(Some(frame)) => incoming.on_frame(frame),
                Ok(None) => return answers.no_more_calls(),
                Err(_) => return answers.abandon(),
            },
            _ = keepalive.tick() => answers.hear_log_time(context.log_time()),
            () = &mut closed => return answers.close(),
        }
    }
}

/// The reading half of a stream.
pub(crate) struct Incoming {
    context: Arc<Context>,
    answers: Arc<Answers>,
    /// By group, from group 1.
    groups: Vec<GroupCalls>,
}

/// Calls of one stream to one group.
struct GroupCalls {
    sink: Arc<GroupSink>,
    as_sink: Arc<dyn Sink<Store>>,
    /// Of the frame at hand; kept for its capacity.
    calls: Vec<Numbered>,
}

impl Incoming {
    pub(crate) fn new(context: Arc<Context>, answers: Arc<Answers>) -> Incoming {
        let group = |_| {
            let in_flight = AtomicU32::new(0);
            let sink = Arc::new(GroupSink { context: context.clone(), answers: answers.clone(), in_flight });
            GroupCalls { as_sink: sink.clone(), sink, calls: Vec::new() }
        };
        let groups = context.directory.groups().map(group).collect();
        Incoming { context, answers, groups }
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
        let (group, call) = admit(&self.context.directory, call)?;
        let calls_max = self.context.serving.stream_calls;
        // Groups are numbered from 1 without gaps, and `admit` gives none but those.
        let place = usize::try_from(group.0 - 1).ok().and_then(|index| self.groups.get_mut(index));
        let of = place.ok_or(Rejected::WrongGroup(group))?;
        if of.sink.in_flight.load(Ordering::Relaxed) >= calls_max {
            return Err(Rejected::Busy);
        }
        of.sink.in_flight.fetch_add(1, Ordering::Relaxed);
        of.calls.push((group, call, id));
        Ok(())
    }

    fn reject(&self, id: u64, rejected: &Rejected) {
        count(&self.context.traffic.calls_rejected, 1);
        let leader = match rejected {
            Rejected::WrongGroup(group) => self.context.leader_of(*group),
            Rejected::TooLarge(_) | Rejected::Invalid(_) | Rejected::Busy | Rejected::Stopping => None,
        };
        if self.answers.rejected(id, self.context.directory.rejected(rejected, leader)) {
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
}

impl Sink<Store> for GroupSink {
    fn answer(&self, call: u64, result: CallResult<Store>, log_time: u64) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.context.hear_log_time(log_time);
        let too_slow = match result {
            CallResult::Reply(reply) => self
                .answers
                .answer(call, Kind::Reply, 0, log_time, |buffer| codec::encode_into(&reply, buffer)),
            CallResult::Found(answer) => {
                let size = size_of_answer(&answer);
                self.answers
                    .answer(call, Kind::Found, size, log_time, |buffer| codec::encode_into(&answer, buffer))
            }
            CallResult::Refused(refused) => {
                self.answers.refused(call, log_time, self.context.directory.refused(refused))
            }
        };
        if too_slow {
            count(&self.context.traffic.streams_too_slow, 1);
        }
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
        Answer::WrongGroup { .. } | Answer::Awaiting { .. } | Answer::Invalid => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context as TaskContext, Poll, Waker};

    use paxos::ids::{ClientId, LogTime, NodeId, Sequence};
    use runtime::api::{Refused, RefusedReason};

    use super::super::fake::FakeNode;
    use super::*;
    use crate::command::{Op, Reply, Request as Write, ShardId};

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
        let calls = vec![call(1, 1, 0), call(2, 2, 255), call(3, 1, 1), call(4, 2, 0)];
        rig.incoming.on_frame(v1::ClientFrame { calls });
        assert_eq!(rig.node.submitted_numbers(), [vec![1, 3], vec![2]]);
        assert_eq!(answered(&rig.answers), [(4, v1::Code::WrongGroup as i32)]);
        rig.node.answer_all(|| CallResult::Reply(Reply::Acked));
        assert_eq!(answered(&rig.answers), [(1, 0), (3, 0), (2, 0)]);
    }

    #[test]
    fn a_full_group_is_busy_while_another_is_not_and_answers_make_room() {
        let mut rig = rig(2);
        let calls = vec![call(1, 1, 0), call(2, 1, 0), call(3, 1, 0), call(4, 2, 255)];
        rig.incoming.on_frame(v1::ClientFrame { calls });
        assert_eq!(answered(&rig.answers), [(3, v1::Code::Busy as i32)]);
        rig.node.answer_all(|| CallResult::Reply(Reply::Acked));
        rig.incoming.on_frame(v1::ClientFrame { calls: vec![call(5, 1, 0)] });
        assert_eq!(answered(&rig.answers), [(1, 0), (2, 0), (4, 0)]);
    }

    #[test]
    fn a_draining_node_refuses_new_calls_and_answers_old_ones() {
        let mut rig = rig(10);
        rig.incoming.on_frame(v1::ClientFrame { calls: vec![call(1, 1, 0)] });
        rig.context.enter(Phase::Draining);
        rig.incoming.on_frame(v1::ClientFrame { calls: vec![call(2, 1, 0)] });
        rig.node.answer_all(|| CallResult::Reply(Reply::Acked));
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
