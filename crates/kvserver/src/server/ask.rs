//! Asks the leader of a group, wherever it is: what the shardmaster and the groups owe each other goes this way.
//!
//! An answer that doesn't come is no failure here: whoever asks derives what it owes from applied state, and asks again.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use paxos::ids::{ClientId, GroupId, NodeId, Sequence};
use paxos::rsm::state_machine::RequestId;
use runtime::api::{Call, CallResult, ReadConsistency, Sink};
use shardmaster::ids::{GroupRef, SHARDMASTER};
use tokio::sync::oneshot;
use tonic::transport::{Channel, Endpoint};
use wire::v1;
use wire::v1::group_answer::Result as Answered;
use wire::v1::groups_client::GroupsClient;

use super::context::Context;
use crate::machine::{self, Machine};

/// One node is waited for so long.
const TRY: Duration = Duration::from_millis(1000);
/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_millis(300);
/// Nodes asked before the asker is told that nobody answers.
const TRIES: usize = 6;
/// Pause after a node that knows of no leader.
const PAUSE: Duration = Duration::from_millis(15);

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unanswered {
    /// Nothing came of it.
    #[error("{0}")]
    NotExecuted(String),
    /// It may have been, or may yet be, executed.
    #[error("{0}")]
    Unknown(String),
}

/// What is asked; the same in every try.
#[derive(Clone)]
enum Question {
    Write(Bytes),
    Read(Bytes),
}

/// See the module.
pub(crate) struct Asker {
    context: Arc<Context>,
    /// Names this process in requests between groups; replies are matched by it, nothing else.
    client: ClientId,
    last: AtomicU64,
    channels: Mutex<HashMap<String, Channel>>,
    leaders: Mutex<HashMap<GroupId, NodeId>>,
}

/// Takes the one answer of one call.
struct OneAnswer(Mutex<Option<oneshot::Sender<CallResult<Machine>>>>);

impl Sink<Machine> for OneAnswer {
    fn answer(&self, _call: u64, result: CallResult<Machine>, _log_time: u64) {
        if let Some(waiting) = self.0.lock().take() {
            // Whoever waited may have given up.
            let _gone = waiting.send(result);
        }
    }
}

/// Hands one call to the node of this process; `None` if it stops meanwhile.
pub(crate) async fn ask_here(
    context: &Context,
    group: GroupId,
    call: Call<Machine>,
) -> Option<CallResult<Machine>> {
    let (answer, wait) = oneshot::channel();
    let sink: Arc<dyn Sink<Machine>> = Arc::new(OneAnswer(Mutex::new(Some(answer))));
    context.node.submit(&mut vec![(group, call, 0)], &sink);
    drop(sink);
    wait.await.ok()
}

/// What a try came to.
enum Tried {
    Answered(v1::GroupAnswer),
    /// Ask `leader`, if it is known; else somebody else.
    Elsewhere {
        leader: Option<NodeId>,
        unknown: bool,
        why: String,
    },
}

impl Asker {
    pub(crate) fn new(context: Arc<Context>) -> Asker {
        Asker {
            context,
            client: ClientId(rand::random()),
            last: AtomicU64::new(0),
            channels: Mutex::default(),
            leaders: Mutex::default(),
        }
    }

    /// A name for a request that nobody had.
    pub(crate) fn next_id(&self) -> RequestId {
        let sequence = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        RequestId { client: self.client, sequence: Sequence(sequence) }
    }

    /// Puts an encoded request into the log of `to`.
    ///
    /// # Errors
    /// [`Unanswered`].
    pub(crate) async fn write(&self, to: GroupRef, request: Vec<u8>) -> Result<machine::Reply, Unanswered> {
        let answer = self.ask(to, Question::Write(request.into())).await?;
        let decoded = match answer.result {
            Some(Answered::Reply(bytes)) => machine::Reply::decode(to.group, &bytes),
            Some(Answered::Found(_) | Answered::Refusal(_)) | None => None,
        };
        decoded.ok_or_else(|| Unanswered::Unknown("an answer that can't be read".to_string()))
    }

    /// Reads the state of `to`, linearizably, by its leader.
    ///
    /// # Errors
    /// [`Unanswered`].
    pub(crate) async fn read(
        &self,
        to: GroupRef,
        query: &machine::Query,
    ) -> Result<machine::Answer, Unanswered> {
        let answer = self.ask(to, Question::Read(query.encode().into())).await?;
        let decoded = match answer.result {
            Some(Answered::Found(bytes)) => machine::Answer::decode(to.group, &bytes),
            Some(Answered::Reply(_) | Answered::Refusal(_)) | None => None,
        };
        decoded.ok_or_else(|| Unanswered::NotExecuted("an answer that can't be read".to_string()))
    }

    async fn ask(&self, to: GroupRef, question: Question) -> Result<v1::GroupAnswer, Unanswered> {
        let members = self.members(to);
        let mut believed = self.believed(to.group);
        let mut next = members.iter().copied().cycle();
        let mut may_be_executed = false;
        let mut why = format!("{to} isn't known here");
        for _ in 0..TRIES {
            let Some(node) = believed.take().or_else(|| next.next()) else { break };
            match self.ask_node(node, to, &question).await {
                Tried::Answered(answer) => {
                    self.leaders.lock().insert(to.group, node);
                    return Ok(answer);
                }
                Tried::Elsewhere { leader, unknown, why: reason } => {
                    may_be_executed |= unknown;
                    why = reason;
                    self.leaders.lock().remove(&to.group);
                    believed = leader.filter(|leader| *leader != node);
                    if believed.is_none() {
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
        }
        Err(if may_be_executed { Unanswered::Unknown(why) } else { Unanswered::NotExecuted(why) })
    }

    fn members(&self, to: GroupRef) -> Vec<NodeId> {
        let table = self.context.directory.table();
        if to.group == SHARDMASTER {
            return self.context.directory.founders.clone();
        }
        let group = table.groups.get(&to.group).filter(|group| group.generation == to.generation);
        group.map_or(Vec::new(), |group| group.members.iter().map(|(node, _)| *node).collect())
    }

    fn believed(&self, group: GroupId) -> Option<NodeId> {
        let remembered = self.leaders.lock().get(&group).copied();
        remembered.or_else(|| self.context.leader_of(group))
    }

    async fn ask_node(&self, node: NodeId, to: GroupRef, question: &Question) -> Tried {
        let (kind, writes) = match question {
            Question::Write(request) => (v1::group_call::Kind::Write(request.clone()), true),
            Question::Read(query) => (v1::group_call::Kind::Read(query.clone()), false),
        };
        let from = self.context.directory.node.0;
        let call = v1::GroupCall { group: to.group.0, generation: to.generation.0, from, kind: Some(kind) };
        let elsewhere = |why: String, unknown| Tried::Elsewhere { leader: None, unknown, why };
        let answer = if node == self.context.directory.node {
            match tokio::time::timeout(TRY, super::groups::answer(&self.context, call)).await {
                Ok(answer) => answer,
                Err(_) => return elsewhere(format!("{node} doesn't answer"), writes),
            }
        } else if is_cut(&self.context, node) {
            return elsewhere(format!("{node} doesn't answer"), false);
        } else {
            let Some(channel) = self.channel(node) else {
                return elsewhere(format!("{node} has no address"), false);
            };
            let mut client = GroupsClient::new(channel)
                .max_decoding_message_size(wire::MESSAGE_BYTES_MAX)
                .max_encoding_message_size(wire::MESSAGE_BYTES_MAX);
            match tokio::time::timeout(TRY, client.submit(call)).await {
                Ok(Ok(answer)) => answer.into_inner(),
                Ok(Err(status)) => return elsewhere(format!("{node}: {}", status.message()), writes),
                Err(_) => return elsewhere(format!("{node} doesn't answer"), writes),
            }
        };
        match answer.result {
            Some(Answered::Refusal(refusal)) => Tried::Elsewhere {
                leader: (refusal.leader != 0).then_some(NodeId(refusal.leader)),
                unknown: refusal.outcome() == v1::Outcome::Unknown,
                why: format!("{node}: {}", refusal.message),
            },
            Some(_) => Tried::Answered(answer),
            None => elsewhere(format!("{node} sent no answer"), writes),
        }
    }

    /// What a node says of its load; `None` if it doesn't.
    pub(crate) async fn load_of(&self, node: NodeId) -> Option<v1::LoadResponse> {
        if node == self.context.directory.node {
            return super::groups::load(&self.context).await;
        }
        let mut client = GroupsClient::new(self.channel(node)?);
        client.load(v1::LoadRequest {}).await.ok().map(tonic::Response::into_inner)
    }

    /// A connection to the peer port of `node`; it comes about when it is used.
    fn channel(&self, node: NodeId) -> Option<Channel> {
        let table = self.context.directory.table();
        let address = table.nodes.get(&node).map(|entry| entry.peer.clone()).filter(|a| !a.is_empty())?;
        let mut channels = self.channels.lock();
        if let Some(channel) = channels.get(&address) {
            return Some(channel.clone());
        }
        let endpoint = Endpoint::from_shared(format!("http://{address}")).ok()?;
        let endpoint =
            endpoint.connect_timeout(CONNECT).tcp_nodelay(true).initial_stream_window_size(4 << 20);
        let channel = endpoint.connect_lazy();
        channels.insert(address, channel.clone());
        Some(channel)
    }
}

/// Whether a fault that was injected keeps this node from talking with that one.
pub(crate) fn is_cut(context: &Context, node: NodeId) -> bool {
    let faults = context.node.faults();
    faults.deaf_to.contains(&node) || faults.mute_to.contains(&node)
}

/// Whether a fault that was injected loses what arrives just now.
pub(crate) fn is_lost(context: &Context) -> bool {
    let percent = context.node.faults().loss_percent;
    percent > 0 && rand::random_range(0..100) < percent
}

/// A read of the state that is here, however old.
pub(crate) async fn read_here(
    context: &Context,
    group: GroupId,
    query: machine::Query,
) -> Option<machine::Answer> {
    let call = Call::Read { query, consistency: ReadConsistency::Stale };
    match ask_here(context, group, call).await? {
        CallResult::Found(answer) => Some(answer),
        CallResult::Reply(_) | CallResult::Refused(_) => None,
    }
}
