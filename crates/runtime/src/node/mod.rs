//! A node: the replicas of one process, stepped on one thread, with its log, its links and its checkpoints.
//!
//! [`start`] opens the directory and returns a [`Handle`]; the node lives until it is told to stop. A cluster's first start
//! waits here until Genesis is known, see `bootstrap.rs`.

mod bootstrap;
mod care;
mod hosted;
mod orders;
mod timers;
mod turn;

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use paxos::codec;
use paxos::ids::{Generation, GroupId, Moment, NodeId, Slot};
use paxos::io::Input;
use paxos::message::{Envelope, Payload};
use paxos::quorum::Voters;
use paxos::replica::{Config, FIRST_SLOT, Recovered, Replica};
use paxos::rsm::state_machine::StateMachine;
use tokio::sync::{Notify, broadcast, oneshot};

use crate::api::{Handle, Inbox, LinkFaults, Shared};
use crate::clock;
use crate::fs::RealFs;
use crate::genesis::Genesis;
use crate::log::Log;
use crate::log::options::{self as log_options, FrameNo, Hooks, LogOptions};
use crate::log::record::RecordBuf;
use crate::node::hosted::Hosted;
use crate::node::turn::AfterSync;
use crate::options::NodeOptions;
use crate::peers::{Arrivals, Myself, Network, Outbox, inbound, outbound};
use crate::record::{LogRecord, Replayed, ReplayedGroup};

pub use bootstrap::StartError;

/// The links to one peer.
pub(crate) struct Link {
    peer: NodeId,
    address: String,
    control: Arc<Outbox>,
    bulk: Arc<Outbox>,
}

/// Makes the state machine of a group from the replicated configuration.
pub(crate) type Factory<S> = Arc<dyn Fn(GroupId, &[u8]) -> S + Send + Sync>;

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
    generation: Generation,
    genesis: Option<Genesis>,
    hosted: Vec<Hosted<S>>,
    /// States of the checkpoint, until their replicas exist.
    inbox: Arc<Inbox<S>>,
    shared: Arc<Shared>,
    network: Arc<Network>,
    links: Vec<Link>,
    /// Messages of steps since the last commit, by replica.
    uncommitted: Vec<(usize, Vec<Envelope<Payload>>)>,
    after_sync: VecDeque<AfterSync>,
    luck: rand::rngs::SmallRng,
    /// Why this node doesn't vote any more.
    condition: Option<String>,
    faulty: bool,
    stopping: Option<(Moment, Vec<oneshot::Sender<()>>)>,
    started: Moment,
    /// The last frame of earlier lives.
    first_frame: FrameNo,
    checkpointing: bool,
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
    machine: impl Fn(GroupId, &[u8]) -> S + Send + Sync + 'static,
) -> Result<Handle<S>, StartError> {
    let started = clock::now();
    options.limits.validate().map_err(|e| StartError::Options(e.to_string()))?;
    let factory: Factory<S> = Arc::new(machine);
    let identity = crate::identity::Identity::open(&options.data_dir, options.node)?;
    let inbox =
        Arc::new(Inbox { calls: Default::default(), orders: Default::default(), wake: Notify::new() });
    let wake: Arc<dyn Fn() + Send + Sync> = {
        let inbox = inbox.clone();
        Arc::new(move || inbox.wake.notify_one())
    };
    let (log, replayed) = open_log(&options, &identity, wake.clone())?;
    let first_frame = log.durable();
    let myself = Myself { node: options.node, incarnation: identity.incarnation(), boot: identity.boot() };
    let network = Arc::new(Network {
        myself,
        genesis: Default::default(),
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
        faults: parking_lot::Mutex::new(LinkFaults::default()),
    });
    let handle = Handle { inbox: inbox.clone(), shared: shared.clone() };
    let server = bootstrap::listen(&options, network.clone(), inbox.clone()).await?;
    let links = options
        .nodes
        .iter()
        .filter(|node| node.id != options.node)
        .map(|node| Link {
            peer: node.id,
            address: node.peer.clone(),
            control: Arc::default(),
            bulk: Arc::default(),
        })
        .collect();
    let mut node = Node {
        factory,
        identity,
        log,
        generation: Generation(1),
        genesis: None,
        hosted: Vec::new(),
        inbox,
        shared,
        network,
        links,
        uncommitted: Vec::new(),
        after_sync: VecDeque::new(),
        luck: rand::make_rng(),
        condition: None,
        faulty: false,
        stopping: None,
        started,
        first_frame,
        checkpointing: false,
        log_bytes_at_checkpoint: 0,
        log_bytes: 0,
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
    tokio::spawn(async move {
        node.live().await;
        server.abort();
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
    let hooks = Hooks { waker: Box::new(move || wake()), on_fatal: Box::new(log_options::abort) };
    let wanted = LogOptions {
        segment_bytes: options.bounds.segment_bytes,
        ..LogOptions::new(identity.incarnation().0)
    };
    let dir: PathBuf = options.data_dir.join("log");
    let (log, recovery) = Log::open(Arc::new(RealFs), &dir, wanted, hooks, &mut |_, record| {
        if let Err(error) = replayed.replay(record.group, record.bytes) {
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

    fn next_due(&self) -> Duration {
        let now = clock::now();
        let due = self.hosted.iter().filter_map(|h| h.timers.next()).min();
        let idle = if self.stopping.is_some() { 5_000 } else { 1_000_000 };
        Duration::from_micros(due.map_or(idle, |due| due.0.saturating_sub(now.0).min(idle)))
    }

    /// Genesis is known: the replicas come to life.
    fn found(&mut self, genesis: Genesis, mut replayed: Replayed, restarted: bool) -> Result<(), StartError> {
        let me = self.options.node;
        match genesis.incarnation_of(me) {
            Some(incarnation) if incarnation == self.identity.incarnation() => {}
            Some(_) => {
                self.condition =
                    Some(format!("{me} votes with another data directory; this one is a stranger"))
            }
            None => self.condition = Some(format!("{me} is no voter of this cluster")),
        }
        if genesis.groups != self.options.groups || genesis.config != self.options.genesis {
            let reason = "the configured shards and groups aren't those that the cluster was created with";
            return Err(StartError::Options(reason.to_string()));
        }
        let known: BTreeMap<NodeId, ()> = self.options.nodes.iter().map(|n| (n.id, ())).collect();
        if let Some((stranger, _)) = genesis.voters.iter().find(|(node, _)| !known.contains_key(node)) {
            return Err(StartError::Options(format!("voter {stranger} has no address in the configuration")));
        }
        self.generation = genesis.generation;
        let config = Arc::new(Config {
            me,
            voters: Voters::new(genesis.voters.iter().map(|(node, _)| *node)),
            limits: self.options.limits.clone(),
        });
        let mut states = self.load_checkpoint(&genesis)?;
        for group in &genesis.groups {
            let ReplayedGroup { durable, trimmed_end } = replayed.groups.remove(group).unwrap_or_default();
            let fresh = || (FIRST_SLOT, (self.factory)(*group, &genesis.config));
            let (state_end, machine) = states.remove(group).unwrap_or_else(fresh);
            let trimmed_end = trimmed_end.max(FIRST_SLOT);
            let recovered = Recovered { durable, state_end, trimmed_end, restarted };
            let replica = Replica::recover(config.clone(), recovered);
            self.hosted.push(Hosted::new(*group, replica, machine, state_end.max(trimmed_end), clock::now()));
        }
        *self.network.genesis.lock() = Some(genesis.clone());
        self.genesis = Some(genesis);
        for index in 0..self.hosted.len() {
            self.step(index, Input::Start);
        }
        self.commit();
        for link in &self.links {
            for outbox in [&link.control, &link.bulk] {
                let (network, peer, address) = (self.network.clone(), link.peer, link.address.clone());
                tokio::spawn(outbound::keep_sending(network, peer, address, outbox.clone()));
            }
        }
        Ok(())
    }

    fn index_of(&self, group: GroupId) -> Option<usize> {
        self.hosted.iter().position(|hosted| hosted.group == group)
    }

    fn append(
        &mut self,
        group: GroupId,
        generation: Generation,
        slot: Option<Slot>,
        record: &LogRecord,
        lazy: bool,
    ) {
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
    generation: Generation,
    hosted: &[Hosted<S>],
) -> Vec<RecordBuf> {
    let record =
        |group, record: &LogRecord| RecordBuf { group, generation, slot: None, bytes: codec::encode(record) };
    let first = genesis.map(|genesis| record(GroupId(0), &LogRecord::Genesis(genesis.clone())));
    let states = hosted.iter().map(|h| {
        let state = LogRecord::State {
            promised: h.replica.promised(),
            chosen_end: h.written_chosen_end,
            trimmed_end: h.durable_end,
        };
        record(h.group, &state)
    });
    first.into_iter().chain(states).collect()
}

pub(crate) fn serve_peers(
    listener: tonic::transport::server::TcpIncoming,
    service: inbound::PeerService,
) -> tokio::task::JoinHandle<()> {
    let service = wire::v1::peer_server::PeerServer::new(service)
        .max_decoding_message_size(wire::MESSAGE_BYTES_MAX)
        .max_encoding_message_size(wire::MESSAGE_BYTES_MAX);
    tokio::spawn(async move {
        let server = tonic::transport::Server::builder()
            .initial_stream_window_size(8 << 20)
            .initial_connection_window_size(16 << 20)
            .http2_keepalive_interval(Some(Duration::from_secs(5)))
            .add_service(service)
            .serve_with_incoming(listener)
            .await;
        if let Err(error) = server {
            tracing::error!(%error, "peer port ended");
        }
    })
}
