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
use rand::RngExt;
use runtime::api::{Call, CallResult, ReadConsistency, Sink};
use shardmaster::ids::{GroupRef, SHARDMASTER};
use tokio::sync::oneshot;
use tonic::transport::Endpoint;
use wire::channel::Channel;
use wire::v1;
use wire::v1::group_answer::Result as Answered;
use wire::v1::group_call::Kind as Asked;
use wire::v1::groups_client::GroupsClient;

use super::context::{Context, count};
use super::groups;
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
enum Question {
    Write(Bytes),
    Read(Bytes),
    Writes(Vec<Bytes>),
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

/// Takes the answers of calls that were handed over together.
struct AllAnswers(Mutex<Collected>);

struct Collected {
    answers: Vec<Option<CallResult<Machine>>>,
    left: usize,
    done: Option<oneshot::Sender<Vec<CallResult<Machine>>>>,
}

impl Sink<Machine> for AllAnswers {
    fn answer(&self, call: u64, result: CallResult<Machine>, _log_time: u64) {
        let mut collected = self.0.lock();
        let place = usize::try_from(call).ok().and_then(|call| collected.answers.get_mut(call));
        let Some(place @ None) = place else { return };
        *place = Some(result);
        collected.left -= 1;
        if collected.left == 0
            && let Some(done) = collected.done.take()
        {
            let answers = std::mem::take(&mut collected.answers);
            // Whoever waited may have given up.
            let _gone = done.send(answers.into_iter().flatten().collect());
        }
    }
}

/// Hands calls to the node of this process at once. Their answers, in order; `None` if it stops meanwhile.
pub(crate) async fn ask_all_here(
    context: &Context,
    calls: Vec<(GroupId, Call<Machine>)>,
) -> Option<Vec<CallResult<Machine>>> {
    if calls.is_empty() {
        return Some(Vec::new());
    }
    let (done, wait) = oneshot::channel();
    let (left, answers) = (calls.len(), calls.iter().map(|_| None).collect());
    let sink: Arc<dyn Sink<Machine>> =
        Arc::new(AllAnswers(Mutex::new(Collected { answers, left, done: Some(done) })));
    let mut numbered = calls.into_iter().zip(0..).map(|((group, call), at)| (group, call, at)).collect();
    context.node.submit(&mut numbered, &sink);
    drop(sink);
    wait.await.ok()
}

/// What a try came to.
enum Tried {
    /// One answer a write, or one to the read.
    Answered(Vec<v1::GroupAnswer>),
    /// Ask `leader`, if it is known; else somebody else.
    Elsewhere { leader: Option<NodeId>, unknown: bool, why: String },
}

impl Asker {
    pub(crate) fn new(context: Arc<Context>) -> Asker {
        Asker {
            client: ClientId(context.env.luck().random()),
            context,
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
        let answer = self.ask_one(to, Question::Write(request.into())).await?;
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
        let answer = self.ask_one(to, Question::Read(query.encode().into())).await?;
        let decoded = match answer.result {
            Some(Answered::Found(bytes)) => machine::Answer::decode(to.group, &bytes),
            Some(Answered::Reply(_) | Answered::Refusal(_)) | None => None,
        };
        decoded.ok_or_else(|| Unanswered::NotExecuted("an answer that can't be read".to_string()))
    }

    /// Puts encoded requests into the log of `to`, all at once. A reply for each, in order; none where it was refused.
    ///
    /// # Errors
    /// [`Unanswered`], if none of them was answered.
    pub(crate) async fn write_all(
        &self,
        to: GroupRef,
        requests: Vec<Bytes>,
    ) -> Result<Vec<Option<machine::Reply>>, Unanswered> {
        let answers = self.ask(to, Question::Writes(requests)).await?;
        let reply = |answer: v1::GroupAnswer| match answer.result {
            Some(Answered::Reply(bytes)) => machine::Reply::decode(to.group, &bytes),
            Some(Answered::Found(_) | Answered::Refusal(_)) | None => None,
        };
        Ok(answers.into_iter().map(reply).collect())
    }

    async fn ask_one(&self, to: GroupRef, question: Question) -> Result<v1::GroupAnswer, Unanswered> {
        let answers = self.ask(to, question).await?;
        answers.into_iter().next().ok_or_else(|| Unanswered::Unknown("no answer".to_string()))
    }

    async fn ask(&self, to: GroupRef, question: Question) -> Result<Vec<v1::GroupAnswer>, Unanswered> {
        let members = self.members(to);
        let mut believed = self.believed(to.group);
        let mut next = members.iter().copied().cycle();
        let mut may_be_executed = false;
        let mut why = format!("{to} isn't known here");
        for _ in 0..TRIES {
            let Some(node) = believed.take().or_else(|| next.next()) else { break };
            match self.ask_node(node, to, &question).await {
                Tried::Answered(answers) => {
                    self.leaders.lock().insert(to.group, node);
                    return Ok(answers);
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
        let elsewhere = |why: String, unknown| Tried::Elsewhere { leader: None, unknown, why };
        if node != self.context.directory.node && is_cut(&self.context, node) {
            return elsewhere(format!("{node} doesn't answer"), false);
        }
        let writes = !matches!(question, Question::Read(_));
        let answers = match tokio::time::timeout(TRY, self.answers_of(node, to, question)).await {
            Ok(Ok(answers)) => answers,
            Ok(Err(why)) => return elsewhere(format!("{node}: {why}"), writes),
            Err(_) => return elsewhere(format!("{node} doesn't answer"), writes),
        };
        // Some of many may be refused while others are answered: that says nothing about who leads.
        let refusals = answers.iter().map_while(|answer| match &answer.result {
            Some(Answered::Refusal(refusal)) => Some(refusal),
            Some(Answered::Reply(_) | Answered::Found(_)) | None => None,
        });
        let refusals: Vec<&v1::Refusal> = refusals.collect();
        match refusals.first() {
            Some(first) if refusals.len() == answers.len() => Tried::Elsewhere {
                leader: (first.leader != 0).then_some(NodeId(first.leader)),
                unknown: refusals.iter().any(|refusal| refusal.outcome() == v1::Outcome::Unknown),
                why: format!("{node}: {}", first.message),
            },
            Some(_) | None if answers.iter().all(|answer| answer.result.is_some()) => {
                Tried::Answered(answers)
            }
            Some(_) | None => elsewhere(format!("{node} sent no answer"), writes),
        }
    }

    /// As many answers as there are questions; else why there are none.
    async fn answers_of(
        &self,
        node: NodeId,
        to: GroupRef,
        question: &Question,
    ) -> Result<Vec<v1::GroupAnswer>, String> {
        let (group, generation, from) = (to.group.0, to.generation.0, self.context.directory.node.0);
        let one = |kind| v1::GroupCall { group, generation, from, kind: Some(kind) };
        let many = |writes: &[Bytes]| v1::GroupCalls { group, generation, from, writes: writes.to_vec() };
        if node == self.context.directory.node {
            return Ok(match question {
                Question::Write(request) => {
                    vec![groups::answer(&self.context, one(Asked::Write(request.clone()))).await]
                }
                Question::Read(query) => {
                    vec![groups::answer(&self.context, one(Asked::Read(query.clone()))).await]
                }
                Question::Writes(requests) => groups::answer_all(&self.context, many(requests)).await,
            });
        }
        let mut client = self.client(node).ok_or("it has no address")?;
        slow_down(&self.context, node).await;
        let told = |status: tonic::Status| status.message().to_string();
        match question {
            Question::Write(request) => {
                let answer = client.submit(one(Asked::Write(request.clone()))).await.map_err(told)?;
                Ok(vec![answer.into_inner()])
            }
            Question::Read(query) => {
                let answer = client.submit(one(Asked::Read(query.clone()))).await.map_err(told)?;
                Ok(vec![answer.into_inner()])
            }
            Question::Writes(requests) => {
                count(&self.context.traffic.group_calls, 1);
                count(&self.context.traffic.group_entries, requests.len() as u64);
                let answers = client.submit_many(many(requests)).await.map_err(told)?.into_inner().answers;
                let fits = answers.len() == requests.len();
                fits.then_some(answers).ok_or_else(|| "other answers than were asked for".to_string())
            }
        }
    }

    fn client(&self, node: NodeId) -> Option<GroupsClient<Channel>> {
        let client = GroupsClient::new(self.channel(node)?);
        let max = wire::MESSAGE_BYTES_MAX;
        Some(client.max_decoding_message_size(max).max_encoding_message_size(max))
    }

    /// What a node says of its load; `None` if it doesn't.
    pub(crate) async fn load_of(&self, node: NodeId) -> Option<v1::LoadResponse> {
        if node == self.context.directory.node {
            return groups::load(&self.context).await;
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
        let tuned = |endpoint: Endpoint| {
            endpoint.connect_timeout(CONNECT).tcp_nodelay(true).initial_stream_window_size(4 << 20)
        };
        let channel = self.context.env.connect_lazily(&address, tuned)?;
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
    percent > 0 && context.env.luck().random_range(0..100) < percent
}

/// Waits as long as a fault that was injected delays what goes to `node`.
async fn slow_down(context: &Context, node: NodeId) {
    let faults = context.node.faults();
    if let Some((_, ms)) = faults.slow.iter().find(|(slow, _)| *slow == node) {
        tokio::time::sleep(Duration::from_millis(u64::from(*ms))).await;
    }
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
