//! A node's first start: how Genesis comes to be, and how a node that isn't in it is told so.
//!
//! The founder with the lowest id asks all others who they are. Only when *all* have answered, and none knows a Genesis, does
//! it write one that names every incarnation; the others ask until they see it. So a wiped directory never votes again.
//! A node that joins later takes the Genesis that it hears and is named by none: it votes in groups that are hosted on it.

use std::sync::Arc;

use paxos::ids::{Incarnation, NodeId};
use paxos::rsm::state_machine::StateMachine;
use tokio::sync::{mpsc, oneshot};
use tonic::Status;
use tonic::service::Routes;
use tonic::transport::server::TcpIncoming;

use crate::api::{Inbox, Order};
use crate::env::{Env, Listening};
use crate::genesis::Genesis;
use crate::log::Committed;
use crate::node::orders::{GENESIS_POLL, identify};
use crate::node::{Node, on_peer_port, serve_peers};
use crate::options::NodeOptions;
use crate::peers::Network;
use crate::peers::inbound::PeerService;
use crate::record::{Life, LogRecord, NODE, Replayed};
use crate::snapshot::{SnapshotSource, send_state};

/// Why a node didn't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The options don't fit each other.
    #[error("{0}")]
    Options(String),
    /// The data directory is in use, foreign, or damaged.
    #[error(transparent)]
    Identity(#[from] crate::identity::IdentityError),
    /// The log can't be used: this node must not vote.
    #[error(transparent)]
    Log(#[from] crate::log::error::LogError),
    /// A record of the log isn't one.
    #[error("a record of the log can't be read: {0}")]
    Record(String),
    /// The directory took part in a cluster, and its log is gone: what it voted for is forgotten.
    #[error("{0} is empty, although this node has voted: it must not vote again under this id")]
    LogLost(std::path::PathBuf),
    /// The checkpoint can't be used.
    #[error(transparent)]
    Checkpoint(#[from] crate::checkpoint::CheckpointError),
    /// The peer port can't be bound.
    #[error("peer port {address}: {reason}")]
    Listen {
        /// What was to be bound.
        address: String,
        /// Why it wasn't.
        reason: String,
    },
}

pub(crate) async fn listen<S: StateMachine>(
    options: &NodeOptions,
    network: Arc<Network>,
    inbox: Arc<Inbox<S>>,
    services: Routes,
) -> Result<Listening, StartError> {
    let address = options.listen_peer.clone();
    let listen = |reason: String| StartError::Listen { address: address.clone(), reason };
    let snapshots = Arc::new(FromNode { inbox, env: options.env.clone() });
    let routes = on_peer_port(PeerService { network, snapshots }, services);
    if let Some(machine) = options.env.machine() {
        return machine.listen(&address, routes).map_err(listen);
    }
    let parsed = tokio::net::lookup_host(&address).await.map_err(|e| listen(e.to_string()))?.next();
    let parsed = parsed.ok_or_else(|| listen("no such address".to_string()))?;
    let incoming = TcpIncoming::bind(parsed).map_err(|e| listen(e.to_string()))?.with_nodelay(Some(true));
    Ok(serve_peers(incoming, routes))
}

/// Snapshots come from the node's next turn.
struct FromNode<S: StateMachine> {
    inbox: Arc<Inbox<S>>,
    env: Env,
}

#[tonic::async_trait]
impl<S: StateMachine> SnapshotSource for FromNode<S> {
    async fn stream(
        &self,
        life: Life,
        at_least: u64,
    ) -> Result<mpsc::Receiver<Result<wire::v1::SnapshotChunk, Status>>, Status> {
        let (answer, wait) = oneshot::channel();
        self.inbox.order(Order::Snapshot { life, at_least: paxos::ids::Slot(at_least), answer });
        let state = wait.await.map_err(|_| Status::unavailable("the node has stopped"))?;
        let (end, state) = state
            .ok_or_else(|| Status::unavailable(format!("no state of {} at s{at_least} here", life.0)))?;
        Ok(send_state(&self.env, state, end))
    }
}

impl<S: StateMachine> Node<S> {
    /// Looks for Genesis beside the node's turns.
    pub(crate) fn seek_genesis(&self) {
        let me = (self.options.node, self.identity.incarnation());
        let options = self.options.clone();
        let inbox = self.inbox.clone();
        let mut stopping = self.network.stopping.subscribe();
        self.env().spawn(async move {
            let found = tokio::select! {
                biased;
                found = seek(&options, me) => found,
                _ = stopping.wait_for(|stop| *stop) => return,
            };
            inbox.order(match found {
                Ok(genesis) => Order::Genesis(genesis),
                Err(reason) => Order::Stranger(reason),
            });
        });
    }

    pub(crate) fn on_genesis(&mut self, genesis: Genesis) {
        if self.genesis.is_some() {
            return;
        }
        self.append(NODE, None, &LogRecord::Genesis(genesis.clone()), false);
        // Nobody may hear of it before it is durable, and there is nothing else to do meanwhile.
        let Committed::Durable(_) = self.log.commit_and_wait(Vec::new) else {
            return self.stop_voting("Genesis couldn't be written".to_string());
        };
        if let Err(reason) = self.identity.set_cluster(genesis.cluster) {
            return self.stop_voting(format!("the identity couldn't be written: {reason}"));
        }
        tracing::info!(cluster = format!("{:032x}", genesis.cluster), "Genesis");
        if let Err(reason) = self.found(genesis, Replayed::default(), false) {
            self.stop_voting(reason.to_string());
        }
    }
}

async fn seek(options: &NodeOptions, me: (NodeId, Incarnation)) -> Result<Genesis, String> {
    let founders = options.founders();
    let proposes = founders.iter().min() == Some(&me.0);
    loop {
        let mut voters = vec![me];
        for node in options.nodes.iter().filter(|node| node.id != me.0) {
            let Ok(hello) = identify(&options.env, &node.peer).await else { continue };
            if !hello.genesis.is_empty() {
                return adopt(&hello.genesis, me);
            }
            if hello.node == node.id.0 && founders.contains(&node.id) {
                voters.push((node.id, Incarnation(hello.incarnation)));
            }
        }
        if proposes && voters.len() == founders.len() {
            return Ok(Genesis::new(voters, options.groups.clone(), options.genesis.clone()));
        }
        tokio::time::sleep(GENESIS_POLL).await;
    }
}

/// A Genesis that others know counts only if it names this very directory, or doesn't name the node: then it joined later.
fn adopt(bytes: &[u8], me: (NodeId, Incarnation)) -> Result<Genesis, String> {
    let genesis = Genesis::decode(bytes)?;
    match genesis.incarnation_of(me.0) {
        Some(other) if other != me.1 => Err(format!(
            "{} voted with another data directory, which is gone; a wiped node comes back only under a new node id",
            me.0
        )),
        Some(_) | None => Ok(genesis),
    }
}
