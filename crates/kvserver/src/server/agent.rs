//! Acts on what the groups that are led here owe others: a state machine can't send, it says in `duties` what is due.
//!
//! The agent remembers nothing that matters: it asks the applied state what is due, does it, and asks again, at once
//! after something was done and on a timer. So a new leader owes the same as the old one, and crashes lose nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use paxos::ids::GroupId;
use shardmaster::ids::{Epoch, GroupRef, SHARDMASTER, ShardId};
use shardmaster::orders::{Order, Report};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::ask::{Asker, Unanswered, read_here};
use super::context::{Context, Mark, Phase};
use crate::entry::GroupRequest;
use crate::handoff::{Duty, HandoffCommand, HandoffReply};
use crate::{command, machine, query};

/// How often duties are looked at without a cause.
const LOOK: Duration = Duration::from_millis(20);
/// An order without a report is given again after this time.
const AGAIN: Duration = Duration::from_millis(250);
/// Something that couldn't be done is tried again after this time.
const RETRY: Duration = Duration::from_millis(60);

/// What is under way, or not yet due again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Task {
    Order(GroupRef, Order),
    Pull(GroupId, ShardId, Epoch),
}

/// See the module.
pub(crate) struct Agent {
    context: Arc<Context>,
    pub(crate) asker: Asker,
    /// `None` while it is under way.
    tasks: Mutex<BTreeMap<Task, Option<Instant>>>,
    /// There was nothing to do here at this mark.
    quiet: Mutex<Option<Mark>>,
    wake: Notify,
    started: Instant,
    /// Until when copying has used up what it may, in µs since the start.
    copied_until: AtomicU64,
}

impl Agent {
    pub(crate) fn new(context: Arc<Context>) -> Arc<Agent> {
        let asker = Asker::new(context.clone());
        Arc::new(Agent {
            context,
            asker,
            tasks: Mutex::default(),
            quiet: Mutex::default(),
            wake: Notify::new(),
            started: Instant::now(),
            copied_until: AtomicU64::new(0),
        })
    }

    /// Until the process stops.
    pub(crate) async fn run(self: Arc<Agent>) {
        while self.context.phase() == Phase::Serving {
            // Either way there is something to look at.
            let _woken = tokio::time::timeout(LOOK, self.wake.notified()).await;
            self.look().await;
        }
    }

    async fn look(self: &Arc<Agent>) {
        let me = self.context.directory.node;
        let now = Instant::now();
        self.tasks.lock().retain(|_, due| due.is_none_or(|due| due > now));
        let mark = self.context.mark();
        if self.quiet.lock().as_ref() == Some(&mark) {
            return;
        }
        let mut owes_nothing = true;
        for (group, leader) in self.context.node.leaders() {
            if leader != Some(me) {
                continue;
            }
            owes_nothing &= match group {
                SHARDMASTER => self.look_at_master().await,
                _ => self.look_at_store(group).await,
            };
        }
        *self.quiet.lock() = owes_nothing.then_some(mark);
    }

    /// Whether it owes nothing.
    async fn look_at_master(self: &Arc<Agent>) -> bool {
        let query = machine::Query::Master(shardmaster::query::Query::Duties);
        let found = read_here(&self.context, SHARDMASTER, query).await;
        let Some(machine::Answer::Master(shardmaster::query::Answer::Duties(duties))) = found else {
            return false;
        };
        let owes_nothing = duties.is_empty();
        for duty in duties {
            let task = Task::Order(duty.to, duty.order);
            self.begin(task, move |agent| async move { agent.give(duty.to, duty.order).await });
        }
        owes_nothing
    }

    /// Whether it owes nothing.
    async fn look_at_store(self: &Arc<Agent>, group: GroupId) -> bool {
        let query = machine::Query::Store(query::Query::Duties);
        let found = read_here(&self.context, group, query).await;
        let Some(machine::Answer::Store(query::Answer::Duties(duties))) = found else { return false };
        let Some(generation) = self.context.node.generation(group) else { return false };
        let owes_nothing = duties.is_empty();
        let own = GroupRef { group, generation };
        for duty in duties {
            let task = Task::Pull(group, duty.shard, duty.epoch);
            self.begin(task, move |agent| async move { agent.pull(own, duty).await });
        }
        owes_nothing
    }

    /// Does something unless it is under way, or was tried a moment ago. It says when it may be done again.
    fn begin<F>(self: &Arc<Agent>, task: Task, work: impl FnOnce(Arc<Agent>) -> F)
    where
        F: Future<Output = Duration> + Send + 'static,
    {
        if self.tasks.lock().contains_key(&task) {
            return;
        }
        self.tasks.lock().insert(task, None);
        let (agent, work) = (self.clone(), work(self.clone()));
        self.context.env.spawn(async move {
            let pause = work.await;
            if pause.is_zero() {
                agent.tasks.lock().remove(&task);
                agent.wake.notify_one();
            } else {
                agent.tasks.lock().insert(task, Some(Instant::now() + pause));
            }
        });
    }

    /// Gives an order of the shardmaster, and puts what the group reports into the shardmaster's log.
    async fn give(&self, to: GroupRef, order: Order) -> Duration {
        let reply = match self.command(to, HandoffCommand::Order(order)).await {
            Ok(reply) => reply,
            Err(error) => {
                tracing::debug!(%to, ?order, %error, "an order wasn't answered");
                return RETRY;
            }
        };
        match reply.report {
            None => AGAIN,
            Some(report) => match self.report(to, report).await {
                Ok(()) => Duration::ZERO,
                Err(_) => RETRY,
            },
        }
    }

    /// One step of a handoff to a group that is led here.
    async fn pull(&self, own: GroupRef, duty: Duty) -> Duration {
        match self.try_pull(own, &duty).await {
            Ok(pause) => pause,
            Err(error) => {
                tracing::debug!(%own, ?duty, %error, "a pull wasn't answered");
                RETRY
            }
        }
    }

    async fn try_pull(&self, own: GroupRef, duty: &Duty) -> Result<Duration, Unanswered> {
        for message in duty.messages(own) {
            self.command(duty.from, message).await?;
        }
        let machine::Answer::Store(answer) =
            self.asker.read(duty.from, &machine::Query::Store(duty.pull())).await?
        else {
            return Ok(RETRY);
        };
        let Some(chunk) = duty.take(answer) else { return Ok(RETRY) };
        self.pace(&chunk).await;
        let reply = self.command(own, chunk).await?;
        if let Some(report) = reply.report {
            // The shardmaster would ask; telling it saves the wait.
            if let Err(error) = self.report(own, report).await {
                tracing::debug!(%own, ?report, %error, "a report wasn't taken");
            }
        }
        Ok(if reply.applied { Duration::ZERO } else { RETRY })
    }

    /// Waits until the bytes of a chunk fit what copying may use; a shard that is frozen doesn't wait.
    async fn pace(&self, command: &HandoffCommand) {
        let HandoffCommand::Chunk(chunk) = command else { return };
        let now = micros(self.started.elapsed());
        let cost = chunk.bytes() * 1_000_000 / self.context.serving.copy_bytes_per_s;
        let until = self.copied_until.load(Ordering::Relaxed).max(now);
        self.copied_until.store(until + cost, Ordering::Relaxed);
        if chunk.seal.is_none() && until > now {
            tokio::time::sleep(Duration::from_micros(until - now)).await;
        }
    }

    async fn command(&self, to: GroupRef, command: HandoffCommand) -> Result<HandoffReply, Unanswered> {
        let id = self.asker.next_id();
        let request = GroupRequest { client: id.client, sequence: id.sequence, command: command.into() };
        match self.asker.write(to, request.encode()).await? {
            machine::Reply::Store(command::Reply::Handoff(reply)) => Ok(reply),
            machine::Reply::Store(_) | machine::Reply::Master(_) => {
                Err(Unanswered::NotExecuted("an answer to something else".to_string()))
            }
        }
    }

    async fn report(&self, from: GroupRef, report: Report) -> Result<(), Unanswered> {
        self.govern(shardmaster::command::Command::Report { from, report }).await.map(|_| ())
    }

    /// A command for the shardmaster, under a name that nobody had.
    pub(crate) fn request(&self, command: shardmaster::command::Command) -> shardmaster::command::Request {
        shardmaster::command::Request { id: self.asker.next_id(), command }
    }

    /// Puts a command into the shardmaster's log.
    ///
    /// # Errors
    /// [`Unanswered`].
    pub(crate) async fn govern(
        &self,
        command: shardmaster::command::Command,
    ) -> Result<shardmaster::command::Reply, Unanswered> {
        self.govern_as(&self.request(command)).await
    }

    /// The same for a request that may have been sent before: it is executed once.
    ///
    /// # Errors
    /// [`Unanswered`].
    pub(crate) async fn govern_as(
        &self,
        request: &shardmaster::command::Request,
    ) -> Result<shardmaster::command::Reply, Unanswered> {
        match self.asker.write(super::directory::MASTER, request.encode()).await? {
            machine::Reply::Master(reply) => Ok(reply),
            machine::Reply::Store(_) => Err(Unanswered::Unknown("an answer to something else".to_string())),
        }
    }

    /// Reads the shardmaster's state, linearizably.
    ///
    /// # Errors
    /// [`Unanswered`].
    pub(crate) async fn consult(
        &self,
        query: shardmaster::query::Query,
    ) -> Result<shardmaster::query::Answer, Unanswered> {
        match self.asker.read(super::directory::MASTER, &machine::Query::Master(query)).await? {
            machine::Answer::Master(answer) => Ok(answer),
            machine::Answer::Store(_) => {
                Err(Unanswered::NotExecuted("an answer to something else".to_string()))
            }
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use paxos::ids::NodeId;
    use runtime::api::{CallResult, Counters};

    use super::super::fake::FakeNode;
    use super::super::node::Node;
    use super::*;

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    #[test]
    fn groups_that_owe_nothing_are_asked_again_only_when_something_was_applied_or_somebody_else_leads() {
        let node = Arc::new(FakeNode::default());
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = asked.clone();
        *node.respond.lock() = Some(Box::new(move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
            CallResult::Found(machine::Answer::Store(query::Answer::Duties(Vec::new())))
        }));
        let agent = Agent::new(Arc::new(FakeNode::context(&node, |_| {})));
        let look = || {
            run(agent.look());
            asked.swap(0, Ordering::Relaxed)
        };
        assert_eq!(look(), 0, "another node leads");
        *node.leader.lock() = Some(NodeId(1));
        assert_eq!([look(), look(), look()], [2, 0, 0]);
        let counters: &Counters = Node::counters(&*node);
        counters.applied.fetch_add(1, Ordering::Relaxed);
        assert_eq!([look(), look()], [2, 0]);
        counters.snapshots.fetch_add(1, Ordering::Relaxed);
        assert_eq!([look(), look()], [2, 0]);
    }
}
