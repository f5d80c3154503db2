//! A state machine of your own, replicated: replicas in this process, over loopback with real files, or simulated.
//!
//! The nodes are those of the store: the same log, the same disk, the same leases. Only what they replicate is yours.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use paxos::ids::{GroupId, NodeId};
use paxos::limits::Limits;
use paxos::rsm::state_machine::{RequestId, StateMachine};
use runtime::api::{Call, CallResult, Handle, NodeStatus, ReadConsistency, Refused, ReplicaStatus, Sink};
use runtime::env::Env;
use runtime::node::{self, StartError};
use runtime::options::{Bounds, NodeAddress, NodeOptions};
use scripted::prng::Prng;
use simulated::{Machine, WorldOptions};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::builder::{Mode, free_ports, mode, small_disks, temporary, world};
use crate::error::{Error, Replay, seed};
use crate::host::thread::{Thread, Way};
use crate::host::{Dir, PORT_PAUSE, PORT_TRIES, Place};

/// The only group.
const GROUP: GroupId = GroupId(1);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(10);
/// How long a node may take to answer before another is asked.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Why replicas of your state machine don't do what they were asked for.
///
/// Its `Debug` is what it says in words, since that is what a test that returns it shows.
#[derive(thiserror::Error)]
pub enum GroupError {
    /// No replica answered in time. What was proposed may have been applied, or may yet be.
    #[error("no answer within {after:?}; last: {last}; the replicas:\n{replicas}\n{replay}")]
    TimedOut {
        /// How long was tried.
        after: Duration,
        /// What the last try came to.
        last: String,
        /// What the replicas say.
        replicas: String,
        /// How to get the same luck again.
        replay: Replay,
    },
    /// Replicas that applied the same hold something else: the state machine isn't deterministic.
    #[error("P5: at s{end}, the states differ: {hashes:?}\n{replay}")]
    Diverged {
        /// The end up to which both have applied.
        end: u64,
        /// Nodes, and the hashes of their states.
        hashes: Vec<(u32, u128)>,
        /// How to get the same luck again.
        replay: Replay,
    },
    /// The cluster below.
    #[error(transparent)]
    Cluster(#[from] Error),
}

impl fmt::Debug for GroupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Replicas of a state machine `S`. When this is dropped, no thread, port or file of them is left.
///
/// ```no_run
/// # use paxos::ids::{ClientId, Sequence};
/// # use paxos::rsm::state_machine::{RequestId, StateMachine};
/// # async fn example<S: StateMachine<Query = ()> + Default>() -> Result<(), testcluster::GroupError> {
/// use testcluster::TestGroup;
/// let mut group = TestGroup::start(3, S::default).await?;
/// let id = RequestId { client: ClientId(1), sequence: Sequence(1) };
/// let reply = group.propose(id, "one".into()).await?;
/// let leader = group.leader().await?;
/// group.crash(leader)?;
/// let answer = group.read(()).await?; // from the next leader
/// group.restart(leader)?;
/// group.agree().await?;
/// # Ok(())
/// # }
/// ```
pub struct TestGroup<S: StateMachine> {
    // Dropped in this order: first the nodes, then their files.
    members: Vec<Member<S>>,
    machine: Arc<dyn Fn() -> S + Send + Sync>,
    nodes: Vec<NodeAddress>,
    place: Place,
    dir: Dir,
    timeout: Duration,
    replay: Replay,
}

/// A node, while it runs.
type Member<S> = Option<(Home, Handle<S>)>;

/// Where a node lives; it ends with this.
enum Home {
    Thread(Thread),
    Machine(Machine),
}

impl Home {
    fn crash(self) {
        match self {
            Home::Thread(thread) => thread.end(Way::Crash),
            Home::Machine(machine) => machine.crash(),
        }
    }
}

impl<S: StateMachine> Drop for TestGroup<S> {
    fn drop(&mut self) {
        let homes = self.members.iter_mut().filter_map(Option::take);
        homes.for_each(|(home, _)| home.crash());
    }
}

impl<S: StateMachine> TestGroup<S> {
    /// Starts so many replicas, in the mode that `SYNOD_MODE` says, else live. `machine` makes the first state, the same for
    /// all of them.
    ///
    /// # Errors
    /// As [`TestGroup::start_in`].
    pub async fn start(
        replicas: u32,
        machine: impl Fn() -> S + Send + Sync + 'static,
    ) -> Result<TestGroup<S>, GroupError> {
        TestGroup::start_in(mode(None)?, replicas, machine).await
    }

    /// The same in one of the modes Live and Sim.
    ///
    /// # Errors
    /// [`Error::Node`] if one doesn't start; [`GroupError::TimedOut`] if none comes to lead; [`Error::Unsupported`] in mode
    /// Process.
    pub async fn start_in(
        mode: Mode,
        replicas: u32,
        machine: impl Fn() -> S + Send + Sync + 'static,
    ) -> Result<TestGroup<S>, GroupError> {
        let count = usize::try_from(replicas).unwrap_or(usize::MAX).clamp(1, 15);
        let replay = Replay::here(seed(None)?);
        let (place, dir, ports) = match mode {
            Mode::Live => {
                let ports = free_ports(count).map_err(|error| Error::io("ports on loopback", error))?;
                (Place::Threads, Dir::Real(temporary()?), ports)
            }
            Mode::Sim => {
                let place = Place::World(world(WorldOptions::new(replay.seed)).await?);
                let ports = (1..=count).map(|id| format!("10.0.0.{id}:7002")).collect();
                (place, Dir::simulated(), ports)
            }
            Mode::Process => {
                let (what, why) = ("a state machine of your own", "kvserver has its own");
                return Err(Error::Unsupported { mode, what, why }.into());
            }
        };
        let nodes = (1..).zip(ports).map(|(id, peer)| NodeAddress { id: NodeId(id), peer }).collect();
        let members = std::iter::repeat_with(|| None).take(count).collect();
        let (machine, timeout) = (Arc::new(machine), Duration::from_secs(30));
        replay.say();
        let mut group = TestGroup { members, machine, nodes, place, dir, timeout, replay };
        for node in group.nodes() {
            group.restart(node)?;
        }
        group.leader().await?;
        Ok(group)
    }

    /// How long each call may take with all its tries; 30 s if nothing is said.
    pub fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    /// The luck of one part of a test: a stream of numbers that `SYNOD_SEED` and this name decide; without it, any.
    pub fn luck(&self, name: &str) -> Prng {
        self.replay.luck(name)
    }

    /// The nodes, by id.
    pub fn nodes(&self) -> Vec<u32> {
        self.nodes.iter().map(|node| node.id.0).collect()
    }

    /// Puts a request into the log, and waits for its reply: the one that your state machine pushes under `id`. It is tried
    /// again until there is one, so the same request may be applied several times: your state machine knows it by its id,
    /// which it must find in `request`.
    ///
    /// # Errors
    /// [`GroupError::TimedOut`].
    pub async fn propose(&self, id: RequestId, request: Bytes) -> Result<S::Reply, GroupError> {
        let call = || Call::Write { id, request: request.clone(), sent_at: 0 };
        self.ask(call, |result| match result {
            CallResult::Reply(reply) => Ok(reply),
            CallResult::Found(_) => Err("a write was answered as a read".to_string()),
            CallResult::Refused(refused) => Err(in_words(refused)),
        })
        .await
    }

    /// A linearizable read.
    ///
    /// # Errors
    /// [`GroupError::TimedOut`].
    pub async fn read(&self, query: S::Query) -> Result<S::Answer, GroupError>
    where
        S::Query: Clone,
    {
        let call = || Call::Read { query: query.clone(), consistency: ReadConsistency::Quorum };
        self.ask(call, |result| match result {
            CallResult::Found(answer) => Ok(answer),
            CallResult::Reply(_) => Err("a read was answered as a write".to_string()),
            CallResult::Refused(refused) => Err(in_words(refused)),
        })
        .await
    }

    /// The node that leads.
    ///
    /// # Errors
    /// [`GroupError::TimedOut`].
    pub async fn leader(&self) -> Result<u32, GroupError> {
        let began = Instant::now();
        loop {
            let replicas = self.replicas().await;
            let leads = replicas.iter().filter(|(_, replica)| replica.role == "leader");
            // Of two, the other doesn't know yet.
            if let Some((node, _)) = leads.max_by_key(|(_, replica)| replica.promised) {
                return Ok(*node);
            }
            self.pause(began, "nobody leads").await?;
        }
    }

    /// Ends a node at once: nobody is told, leadership isn't handed over.
    ///
    /// # Errors
    /// [`Error::NoSuchNode`].
    pub fn crash(&mut self, node: u32) -> Result<(), GroupError> {
        if let Some((home, handle)) = self.member(node)?.take() {
            drop(handle);
            home.crash();
        }
        Ok(())
    }

    /// Starts a node that was crashed, with its data.
    ///
    /// # Errors
    /// [`Error::NoSuchNode`]; [`Error::Node`] if it doesn't start.
    pub fn restart(&mut self, node: u32) -> Result<(), GroupError> {
        if self.member(node)?.is_none() {
            let started = self.run(node).map_err(|why| Error::Node(why, self.replay.clone()))?;
            *self.member(node)? = Some(started);
        }
        Ok(())
    }

    /// Waits until all replicas that run have applied the same, and compares their states.
    ///
    /// # Errors
    /// [`GroupError::Diverged`]; [`GroupError::TimedOut`].
    pub async fn agree(&self) -> Result<(), GroupError> {
        let began = Instant::now();
        loop {
            let replicas = self.replicas().await;
            self.compare(&replicas)?;
            let mut ends = replicas.iter().map(|(_, replica)| (replica.chosen_end, replica.applied_end));
            let first = ends.next();
            let is_at_rest = first.is_some_and(|(chosen, applied)| chosen == applied);
            if is_at_rest && ends.all(|other| Some(other) == first) {
                return Ok(());
            }
            self.pause(began, "not all replicas have applied the same").await?;
        }
    }

    fn compare(&self, replicas: &[(u32, ReplicaStatus)]) -> Result<(), GroupError> {
        for (_, replica) in replicas {
            let same_end = replicas.iter().filter(|(_, other)| other.applied_end == replica.applied_end);
            let hashes: Vec<(u32, u128)> = same_end.map(|(node, it)| (*node, it.state_hash)).collect();
            if hashes.iter().any(|(_, hash)| *hash != replica.state_hash) {
                let (end, replay) = (replica.applied_end.0, self.replay.clone());
                return Err(GroupError::Diverged { end, hashes, replay });
            }
        }
        Ok(())
    }

    fn member(&mut self, node: u32) -> Result<&mut Member<S>, GroupError> {
        let nodes = self.nodes();
        let index = nodes.iter().position(|id| *id == node);
        let member = index.and_then(|index| self.members.get_mut(index));
        member.ok_or(GroupError::Cluster(Error::NoSuchNode { node, nodes }))
    }

    fn run(&self, node: u32) -> Result<(Home, Handle<S>), String> {
        let own = self.nodes.iter().find(|it| it.id.0 == node).ok_or("no such node")?;
        let mut options = NodeOptions {
            node: own.id,
            data_dir: self.dir.path().join(format!("n{node}")),
            listen_peer: own.peer.clone(),
            nodes: self.nodes.clone(),
            founders: Vec::new(),
            groups: vec![GROUP],
            genesis: Vec::new(),
            limits: Limits::default(),
            bounds: Bounds::default(),
            env: Env::default(),
        };
        let machine = self.machine.clone();
        if let Place::World(world) = &self.place {
            let home = world.machine(node);
            (options.env, options.bounds) = (home.boot(), small_disks(options.bounds));
            // On a simulated machine nothing in it waits.
            let started = now_or_never(node::start(options, move |_| machine()));
            let started = started.unwrap_or_else(|| unreachable!("the start of a simulated node waits"));
            let handle = started.map_err(|error| {
                home.end();
                error.to_string()
            })?;
            return Ok((Home::Machine(home), handle));
        }
        let data_dir = options.data_dir.clone();
        let started = Thread::start(format!("node {node}"), &data_dir, async move || {
            let handle = start_node(&options, &machine).await.map_err(|error| error.to_string())?;
            let stopping = handle.clone();
            Ok((async move || stopping.stop().await, handle))
        });
        started.map(|(thread, handle)| (Home::Thread(thread), handle))
    }

    fn running(&self) -> impl Iterator<Item = (u32, &Handle<S>)> {
        let members = self.nodes.iter().zip(&self.members);
        members.filter_map(|(node, member)| Some((node.id.0, &member.as_ref()?.1)))
    }

    /// What the replicas that run say.
    async fn replicas(&self) -> Vec<(u32, ReplicaStatus)> {
        let mut told = Vec::new();
        for (node, handle) in self.running() {
            let status: Option<Option<NodeStatus>> =
                tokio::time::timeout(ANSWER_WITHIN, handle.status()).await.ok();
            let replicas = status.flatten().into_iter().flat_map(|status| status.replicas);
            told.extend(replicas.map(|replica| (node, replica)));
        }
        told
    }

    /// Asks one node after another, the one that is named as the leader first, until there is an answer.
    async fn ask<T>(
        &self,
        call: impl Fn() -> Call<S>,
        mut answer: impl FnMut(CallResult<S>) -> Result<T, String>,
    ) -> Result<T, GroupError> {
        let began = Instant::now();
        loop {
            let mut last = "no node runs".to_string();
            let leader = self.running().find_map(|(_, handle)| handle.leaders().first()?.1);
            let (first, rest): (Vec<_>, Vec<_>) =
                self.running().partition(|(node, _)| leader == Some(NodeId(*node)));
            for (node, handle) in first.into_iter().chain(rest) {
                match tokio::time::timeout(ANSWER_WITHIN, once(handle, call())).await {
                    Ok(Some(result)) => match answer(result) {
                        Ok(answer) => return Ok(answer),
                        Err(why) => last = format!("node {node}: {why}"),
                    },
                    Ok(None) | Err(_) => last = format!("node {node} doesn't answer"),
                }
            }
            self.pause(began, &last).await?;
        }
    }

    /// A moment, if there is time left.
    async fn pause(&self, began: Instant, last: &str) -> Result<(), GroupError> {
        let after = began.elapsed();
        if after < self.timeout {
            tokio::time::sleep(PAUSE).await;
            return Ok(());
        }
        let told = self.replicas().await;
        let line = |(node, it): &(u32, ReplicaStatus)| {
            let ReplicaStatus { role, leader, promised, chosen_end, applied_end, .. } = it;
            format!(
                "node {node}: {role}, hears {leader:?}, promised {promised}, chosen {chosen_end} applied {applied_end}"
            )
        };
        let replicas = told.iter().map(line).collect::<Vec<_>>().join("\n");
        let (last, replay) = (last.to_string(), self.replay.clone());
        Err(GroupError::TimedOut { after, last, replicas, replay })
    }
}

/// What a future gives that is ready at once.
fn now_or_never<T>(future: impl Future<Output = T>) -> Option<T> {
    match std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(ready) => Some(ready),
        Poll::Pending => None,
    }
}

async fn start_node<S: StateMachine>(
    options: &NodeOptions,
    machine: &Arc<dyn Fn() -> S + Send + Sync>,
) -> Result<Handle<S>, StartError> {
    let mut tries = 0;
    loop {
        let machine = machine.clone();
        match runtime::node::start(options.clone(), move |_| machine()).await {
            Err(StartError::Listen { .. } | StartError::Identity(_)) if tries < PORT_TRIES => tries += 1,
            ended => return ended,
        }
        tokio::time::sleep(PORT_PAUSE).await;
    }
}

fn in_words(refused: Refused) -> String {
    let outcome = if refused.outcome_unknown { "outcome unknown" } else { "not executed" };
    format!("{:?}, {outcome}", refused.reason)
}

/// Takes one answer.
struct Answers<S: StateMachine>(mpsc::UnboundedSender<CallResult<S>>);

impl<S: StateMachine> Sink<S> for Answers<S> {
    fn answer(&self, _: u64, result: CallResult<S>, _: u64) {
        let _nobody_waits_any_more = self.0.send(result);
    }
}

async fn once<S: StateMachine>(handle: &Handle<S>, call: Call<S>) -> Option<CallResult<S>> {
    let (send, mut answers) = mpsc::unbounded_channel();
    let sink: Arc<dyn Sink<S>> = Arc::new(Answers(send));
    handle.call(GROUP, call, 1, &sink);
    drop(sink);
    answers.recv().await
}
