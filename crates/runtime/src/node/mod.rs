//! A node: the replicas of one process, stepped on one thread, with its log, its links and its checkpoints.
//!
//! [`start`] opens the directory and returns a [`Handle`]; the node lives until it is told to stop. A cluster's first start
//! waits here until Genesis is known, see `bootstrap.rs`.

mod bootstrap;
mod care;
mod hosted;
mod links;
mod lives;
mod orders;
mod reads;
mod timers;
mod turn;
mod waiters;
mod watched;

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use paxos::codec;
use paxos::ids::{GroupId, Moment, NodeId, Slot};
use paxos::io::Input;
use paxos::message::{Envelope, Payload};
use paxos::rsm::state_machine::StateMachine;
use tokio::sync::{Notify, broadcast, oneshot, watch};
use tonic::service::Routes;

use crate::api::{Dues, Handle, Inbox, LinkFaults, Shared};
use crate::env::{Env, Listening};
use crate::genesis::Genesis;
use crate::hosting::Birth;
use crate::log::Log;
use crate::log::options::{self as log_options, FrameNo, Hooks, LogOptions};
use crate::log::record::RecordBuf;
use crate::node::hosted::Hosted;
use crate::node::links::Link;
use crate::node::lives::Settling;
use crate::node::turn::AfterSync;
use crate::node::watched::Watched;
use crate::options::NodeOptions;
use crate::peers::{Arrivals, Myself, Network, inbound};
use crate::record::{Life, Lives, LogRecord, NODE, Replayed, is_same};

pub use bootstrap::StartError;

/// Makes the first state of a group.
pub(crate) type Factory<S> = Arc<dyn Fn(&Birth<'_>) -> S + Send + Sync>;

/// What happened to a slot here, for `kvctl explain`.
pub(crate) struct SlotEvent {
    group: GroupId,
    slot: Slot,
    what: SlotHappening,
    unix_ms: u64,
}

pub(crate) enum SlotHappening {
    Accepted(paxos::ids::Ballot),
    Learnt,
    Applied,
}

pub(crate) struct Node<S: StateMachine> {
    options: NodeOptions,
    factory: Factory<S>,
    identity: crate::identity::Identity,
    log: Log,
    genesis: Option<Genesis>,
    /// Which replicas belong here, as the log says, durably or not yet.
    lives: Lives,
    /// The replicas that run, in order of groups. Removed from in [`Node::unhost`] only, between steps.
    hosted: Vec<Hosted<S>>,
    /// Orders to host and to drop that wait for the log.
    settling: VecDeque<Settling>,
    inbox: Arc<Inbox<S>>,
    dues: Arc<Dues<S>>,
    shared: Arc<Shared>,
    network: Arc<Network>,
    links: Vec<Link>,
    /// Messages of steps since the last commit, by replica.
    uncommitted: Vec<(Life, Vec<Envelope<Payload>>)>,
    after_sync: VecDeque<AfterSync>,
    /// What an observer is told when it is durable.
    watched: Watched,
    luck: rand::rngs::StdRng,
    /// Why this node doesn't vote any more.
    condition: Option<String>,
    faulty: bool,
    stopping: Option<(Moment, Vec<oneshot::Sender<()>>)>,
    started: Moment,
    /// The last frame of earlier lives.
    first_frame: FrameNo,
    checkpointing: bool,
    /// Another one is due when it ends.
    checkpoint_again: bool,
    log_bytes_at_checkpoint: u64,
    log_bytes: u64,
    events: VecDeque<SlotEvent>,
}

/// Opens the data directory and starts the node as a task of the present runtime.
///
/// # Errors
/// [`StartError`] if the directory can't be used, or the peer port can't be bound.
pub async fn start<S: StateMachine>(
    options: NodeOptions,
    machine: impl Fn(&Birth<'_>) -> S + Send + Sync + 'static,
) -> Result<Handle<S>, StartError> {
    start_with(options, machine, Routes::default()).await
}

/// [`start`], with more services on the port of peers.
///
/// # Errors
/// As [`start`].
pub async fn start_with<S: StateMachine>(
    options: NodeOptions,
    machine: impl Fn(&Birth<'_>) -> S + Send + Sync + 'static,
    services: Routes,
) -> Result<Handle<S>, StartError> {
    let env = options.env.clone();
    let started = env.now();
    options.validate().map_err(StartError::Options)?;
    let factory: Factory<S> = Arc::new(machine);
    let identity = {
        let fresh = paxos::ids::Incarnation(env.draw());
        crate::identity::Identity::open_on(env.fs(), &options.data_dir, options.node, fresh)?
    };
    let inbox = Arc::new(Inbox {
        calls: Default::default(),
        orders: Mutex::new(Some(VecDeque::new())),
        wake: Notify::new(),
    });
    let wake: Arc<dyn Fn() + Send + Sync> = {
        let inbox = inbox.clone();
        Arc::new(move || inbox.wake.notify_one())
    };
    let (mut log, replayed) = open_log(&options, &identity, wake.clone())?;
    if let Some(machine) = env.machine() {
        env.spawn(log.driver().run(machine.clone()));
    }
    let first_frame = log.durable();
    let myself = Myself { node: options.node, incarnation: identity.incarnation(), boot: identity.boot() };
    let network = Arc::new(Network {
        env: env.clone(),
        myself,
        genesis: Default::default(),
        later: Default::default(),
        arrivals: Arrivals::new(wake),
        faults: Default::default(),
        heard: Default::default(),
        forgot: Default::default(),
        stopping: tokio::sync::watch::channel(false).0,
        changed: Notify::new(),
    });
    let shared = Arc::new(Shared {
        counters: Default::default(),
        trace: broadcast::channel(16_384).0,
        leaders: Default::default(),
        identity: (options.node, identity.incarnation()),
        genesis: watch::channel(None).0,
        faults: Mutex::new(LinkFaults::default()),
    });
    let dues = Arc::new(Dues::default());
    let handle = Handle { inbox: inbox.clone(), dues: dues.clone(), shared: shared.clone() };
    let port = bootstrap::listen(&options, network.clone(), inbox.clone(), services).await?;
    let links = options
        .nodes
        .iter()
        .filter(|node| node.id != options.node)
        .map(|node| Link::new(node.id, node.peer.clone()))
        .collect();
    let mut node = Node {
        factory,
        identity,
        log,
        genesis: None,
        lives: Lives::default(),
        hosted: Vec::new(),
        settling: VecDeque::new(),
        inbox,
        dues,
        shared,
        network,
        links,
        uncommitted: Vec::new(),
        after_sync: VecDeque::new(),
        watched: Watched::default(),
        luck: env.luck(),
        condition: None,
        faulty: false,
        stopping: None,
        started,
        first_frame,
        checkpointing: false,
        checkpoint_again: false,
        log_bytes_at_checkpoint: 0,
        // What is in the log already counts: else a node that is restarted often never makes a checkpoint.
        log_bytes: replayed.bytes,
        events: VecDeque::new(),
        options,
    };
    match (replayed.genesis.clone(), node.identity.cluster()) {
        (Some(genesis), _) => {
            node.identity.set_cluster(genesis.cluster)?;
            node.found(genesis, replayed, true)?;
        }
        // The directory took part, and its log, which holds its votes, isn't there.
        (None, Some(_)) => return Err(StartError::LogLost(node.options.data_dir.join("log"))),
        (None, None) => node.seek_genesis(),
    }
    env.spawn(async move {
        node.live().await;
        drop(port);
    });
    Ok(handle)
}

fn open_log(
    options: &NodeOptions,
    identity: &crate::identity::Identity,
    wake: Arc<dyn Fn() + Send + Sync>,
) -> Result<(Log, Replayed), StartError> {
    let mut replayed = Replayed::default();
    let mut malformed = None;
    let env = options.env.clone();
    let on_fatal = {
        let env = env.clone();
        move |error: crate::log::error::FatalError| match env.machine() {
            None => log_options::abort(error),
            Some(machine) => machine.end(&error.to_string()),
        }
    };
    let hooks = Hooks { waker: Box::new(move || wake()), on_fatal: Box::new(on_fatal) };
    let wanted = LogOptions {
        segment_bytes: options.bounds.segment_bytes,
        spares_max: options.bounds.spares_max(),
        threads: env.machine().is_none(),
        salt_seed: env.machine().map(|machine| machine.luck()),
        ..LogOptions::new(identity.incarnation().0)
    };
    let dir: PathBuf = options.data_dir.join("log");
    let (log, recovery) = Log::open(env.fs(), &dir, wanted, hooks, &mut |_, record| {
        if let Err(error) = replayed.replay((record.group, record.generation), record.bytes) {
            malformed.get_or_insert(error);
        }
    })?;
    if let Some(error) = malformed {
        return Err(StartError::Record(error.to_string()));
    }
    if let Some(tail) = recovery.torn_tail {
        tracing::info!(?tail, "the log ended in a frame that was never durable; it was cut off");
    }
    Ok((log, replayed))
}

impl<S: StateMachine> Node<S> {
    /// Turns until the node is told to stop.
    async fn live(mut self) {
        let inbox = self.inbox.clone();
        loop {
            let wait = self.next_due();
            // Either way there is a turn to take.
            let _woken = tokio::time::timeout(wait, inbox.wake.notified()).await;
            self.turn();
            if self.has_stopped() {
                break;
            }
            // Streams cut their frames now, and what arrives meanwhile makes the next turn worth more.
            tokio::task::yield_now().await;
        }
        self.end();
    }

    pub(crate) fn env(&self) -> &Env {
        &self.options.env
    }

    fn next_due(&self) -> Duration {
        let now = self.env().now();
        let due = self.hosted.iter().filter_map(|h| h.timers.next()).min();
        let idle = if self.stopping.is_some() { 5_000 } else { 1_000_000 };
        self.env().until(due.map_or(idle, |due| due.0.saturating_sub(now.0).min(idle)))
    }

    /// Genesis is known: the replicas come to life. A founder's options must be those that it helped to make the cluster with.
    fn found(&mut self, genesis: Genesis, replayed: Replayed, restarted: bool) -> Result<(), StartError> {
        let me = self.options.node;
        let founder = genesis.incarnation_of(me);
        if !genesis.admits(me, self.identity.incarnation()) {
            self.condition = Some(format!("{me} votes with another data directory; this one is a stranger"));
        }
        if founder.is_some() {
            self.check_options(&genesis)?;
        }
        self.recover_replicas(&genesis, replayed, restarted)?;
        *self.network.genesis.lock() = Some(genesis.clone());
        self.shared.genesis.send_replace(Some(Arc::new(genesis.clone())));
        self.genesis = Some(genesis);
        for index in 0..self.hosted.len() {
            self.step(index, Input::Start);
        }
        self.commit();
        for link in &self.links {
            link.open(&self.network);
        }
        Ok(())
    }

    fn check_options(&self, genesis: &Genesis) -> Result<(), StartError> {
        if genesis.groups != self.options.groups || genesis.config != self.options.genesis {
            let reason = "the configured shards and groups aren't those that the cluster was created with";
            return Err(StartError::Options(reason.to_string()));
        }
        let known: BTreeMap<NodeId, ()> = self.options.nodes.iter().map(|n| (n.id, ())).collect();
        if let Some((stranger, _)) = genesis.voters.iter().find(|(node, _)| !known.contains_key(node)) {
            return Err(StartError::Options(format!("voter {stranger} has no address in the configuration")));
        }
        Ok(())
    }

    fn index_of(&self, group: GroupId) -> Option<usize> {
        self.hosted.iter().position(|hosted| hosted.life.0 == group)
    }

    fn index_of_life(&self, life: Life) -> Option<usize> {
        self.hosted.iter().position(|hosted| is_same(life, hosted.life))
    }

    fn append(&mut self, (group, generation): Life, slot: Option<Slot>, record: &LogRecord, lazy: bool) {
        let mut bytes = 0;
        self.log.append_with(group, generation, slot, lazy, |buffer| {
            let before = buffer.len();
            codec::encode_into(record, buffer);
            bytes = buffer.len() - before;
        });
        self.count_log(bytes);
        self.log_bytes += bytes as u64;
    }
}

/// What every segment of the log begins with.
fn state_records<S: StateMachine>(
    genesis: Option<&Genesis>,
    lives: &Lives,
    hosted: &[Hosted<S>],
) -> Vec<RecordBuf> {
    let record = |((group, generation), record): (Life, LogRecord)| {
        let bytes = codec::encode(&record);
        RecordBuf { group, generation, slot: None, bytes }
    };
    let first = genesis.map(|genesis| (NODE, LogRecord::Genesis(genesis.clone())));
    let states = hosted.iter().map(|h| {
        let state = LogRecord::State {
            promised: h.replica.promised(),
            chosen_end: h.written_chosen_end,
            trimmed_end: h.durable_end,
        };
        (h.life, state)
    });
    first.into_iter().chain(lives.records()).chain(states).map(record).collect()
}

/// The services on the port of peers.
pub(crate) fn on_peer_port(service: inbound::PeerService, services: Routes) -> Routes {
    let service = wire::v1::peer_server::PeerServer::new(service)
        .max_decoding_message_size(wire::MESSAGE_BYTES_MAX)
        .max_encoding_message_size(wire::MESSAGE_BYTES_MAX);
    services.add_service(service)
}

/// Serves a port over TCP until what is returned is dropped.
pub(crate) fn serve_peers(incoming: tonic::transport::server::TcpIncoming, routes: Routes) -> Listening {
    let serving = tokio::spawn(async move {
        let server = tonic::transport::Server::builder()
            .initial_stream_window_size(8 << 20)
            .initial_connection_window_size(16 << 20)
            .http2_keepalive_interval(Some(Duration::from_secs(5)))
            .add_routes(routes)
            .serve_with_incoming(incoming)
            .await;
        if let Err(error) = server {
            tracing::error!(%error, "peer port ended");
        }
    });
    Listening::new(EndsWith(serving))
}

/// Ends a task when it is dropped.
struct EndsWith(tokio::task::JoinHandle<()>);

impl Drop for EndsWith {
    fn drop(&mut self) {
        self.0.abort();
    }
}
