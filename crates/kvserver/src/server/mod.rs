//! The node as a process: configuration, ports, and the services on them.
//!
//! [`serve`] starts a node inside the present runtime (one thread) and returns once its ports are open. Several can run
//! in one process: nothing here is global.

mod admin;
mod admission;
mod agent;
mod answers;
mod ask;
mod balance;
pub mod config;
mod context;
mod courier;
mod crash;
mod director;
mod directory;
mod door;
mod explain;
#[cfg(test)]
mod fake;
mod groups;
mod http;
mod latency;
mod metrics;
mod node;
mod outcomes;
mod page;
mod ports;
mod ready;
mod refusal;
mod security;
mod session;
mod shardmaster;
mod stream;
mod trace;
mod transactions;
mod unary;
mod unary_txn;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ::shardmaster::group::NodeInfo;
use paxos::ids::GroupId;
use runtime::api::Handle;
use runtime::env::Env;
use runtime::hosting::Birth;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::service::interceptor::InterceptedService as Behind;
use tonic_health::server::HealthReporter;
use wire::v1::admin_server::AdminServer;
use wire::v1::client_server::ClientServer;
use wire::v1::groups_server::GroupsServer;
use wire::v1::kv_server::KvServer;
use wire::v1::shardmaster_server::ShardmasterServer;

use crate::genesis::{Genesis, GenesisError, Limits};
use crate::machine::Machine;
use crate::routing;
use agent::Agent;
use balance::Balancer;
use config::Config;
use context::{Context, Phase};
use director::Director;
use groups::BetweenGroups;
use node::Node;
use ports::{Bound, Ports};
use security::{Security, Tokens};
use transactions::TxnAgent;

/// How long the node may take to stop.
const STOP_TIMEOUT: Duration = Duration::from_millis(1200);
/// Why a node didn't start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The configuration contradicts itself.
    #[error("{key}: {reason}")]
    Config {
        /// The key.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No cluster can have these shards and groups.
    #[error(transparent)]
    Genesis(#[from] GenesisError),
    /// A port can't be bound.
    #[error("{key} {address}: {error}")]
    Listen {
        /// The key of its address.
        key: &'static str,
        /// The address.
        address: String,
        /// Why.
        error: io::Error,
    },
    /// The node below didn't start.
    #[error(transparent)]
    Node(#[from] runtime::node::StartError),
    /// The descriptors of the services can't be told.
    #[error("reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// A node that serves.
pub struct Running {
    /// Where clients reach it (gRPC).
    pub client_addr: SocketAddr,
    /// Where HTTP reaches it.
    pub http_addr: SocketAddr,
    /// The node below.
    pub handle: Handle<Machine>,
    context: Arc<Context>,
    health: HealthReporter,
    ports: Ports,
    others: Others,
}

/// Everything that runs beside the ports; ends with this, or with the machine.
struct Others {
    env: Env,
    tasks: JoinSet<()>,
}

impl Others {
    fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        match self.env.machine() {
            None => drop(self.tasks.spawn(task)),
            Some(_) => self.env.spawn(task),
        }
    }
}

/// Starts a node. Must be called inside a runtime of tokio.
///
/// # Errors
/// [`ServeError`] if the configuration, a port or the data directory can't be used.
pub async fn serve(config: Config) -> Result<Running, ServeError> {
    serve_in(Env::default(), config).await
}

/// The same, in an environment of its own. On a simulated machine there is no HTTP port, and the port of clients has
/// neither TLS nor tokens.
///
/// # Errors
/// As [`serve`].
pub async fn serve_in(env: Env, config: Config) -> Result<Running, ServeError> {
    let wrong = |(key, reason)| ServeError::Config { key, reason };
    config.validate().map_err(wrong)?;
    let security = Security::load(&config).map_err(wrong)?;
    let bound = match env.machine() {
        Some(_) => None,
        None => Some(Bound::new(&config).await?),
    };
    let (client_addr, http_addr) = match &bound {
        Some(bound) => (bound.client.1, bound.http.1),
        None => (
            simulated("listen.client", &config.listen.client)?,
            simulated("listen.http", &config.listen.http)?,
        ),
    };
    let between = BetweenGroups::default();
    let on_peer_port = tonic::service::Routes::new(
        GroupsServer::new(between.clone())
            .max_decoding_message_size(wire::MESSAGE_BYTES_MAX)
            .max_encoding_message_size(wire::MESSAGE_BYTES_MAX),
    );
    let options = config.node_options(env.clone(), genesis(&config)?.encode());
    let handle = runtime::node::start_with(options, machine, on_peer_port).await?;
    let context = Arc::new(Context::new(env.clone(), Arc::new(handle.clone()), &config));
    let agent = Agent::new(context.clone());
    let balancer = Balancer::new(context.clone(), agent.clone());
    let transactions = TxnAgent::new(context.clone(), agent.clone());
    let myself = myself(&config, &handle);
    let director = Director::new(context.clone(), handle.clone(), agent.clone(), myself);
    between.begin(context.clone());

    let (health, health_service) = tonic_health::server::health_reporter();
    ready::tell(&health, false).await;
    let services = services(&context, &agent, &balancer, &security.tokens).add_service(health_service);
    let ports = match (bound, env.machine()) {
        (Some(bound), _) => bound.serve(&context, services, security)?,
        (None, Some(machine)) => Ports::simulated(&**machine, &config.listen.client, services)?,
        (None, None) => Ports::Simulated(None),
    };
    let mut others = Others { env, tasks: JoinSet::new() };
    others.spawn(ready::keep_told(context.clone(), health.clone()));
    others.spawn(agent.run());
    others.spawn(transactions.clone().act());
    others.spawn(transactions.look());
    others.spawn(balancer.run());
    others.spawn(director.run());
    tracing::info!(node = config.node, %client_addr, %http_addr, "serving");
    Ok(Running { client_addr, http_addr, handle, context, health, ports, others })
}

/// The services of the client port but health and reflection.
fn services(
    context: &Arc<Context>,
    agent: &Arc<Agent>,
    balancer: &Arc<Balancer>,
    tokens: &Tokens,
) -> tonic::service::Routes {
    let max = wire::MESSAGE_BYTES_MAX;
    // Small calls take several times their size once decoded: what is taken in is bounded by the largest call.
    let taken = runtime::options::REQUEST_BYTES_MAX + (1 << 20);
    let streams = ClientServer::new(stream::Streams::new(context.clone()))
        .max_decoding_message_size(taken)
        .max_encoding_message_size(max);
    let unary = KvServer::new(unary::Unary::new(context.clone()))
        .max_decoding_message_size(taken)
        .max_encoding_message_size(max);
    let admin = AdminServer::new(admin::Administration::new(context.clone())).max_encoding_message_size(max);
    let shardmaster = ShardmasterServer::new(shardmaster::Government::new(agent.clone(), balancer.clone()));
    tonic::service::Routes::new(Behind::new(streams, tokens.clone()))
        .add_service(Behind::new(unary, tokens.clone()))
        .add_service(Behind::new(admin, tokens.clone()))
        .add_service(Behind::new(shardmaster, tokens.clone()))
}

/// An address on a simulated network.
fn simulated(key: &'static str, address: &str) -> Result<SocketAddr, ServeError> {
    let wrong = |error| ServeError::Listen { key, address: address.to_string(), error };
    address.parse().map_err(|error| wrong(io::Error::other(error)))
}

/// What all replicas of the cluster agree on: which group serves which shard first, and the bounds of their state.
fn genesis(config: &Config) -> Result<Genesis, GenesisError> {
    let groups: Vec<GroupId> = routing::groups(config.groups).collect();
    Genesis::spread(Limits::default(), config.shards, &groups)
}

/// The first state of a group, as the cluster's Genesis has it.
fn machine(birth: &Birth<'_>) -> Machine {
    match Genesis::decode(birth.config) {
        Ok(genesis) => genesis.machine(birth.group, birth.generation, birth.founders),
        // The cluster was made by code that this code doesn't understand: to go on would be to forget its bounds.
        Err(error) => panic!("{error}"),
    }
}

/// How others reach this node.
fn myself(config: &Config, handle: &Handle<Machine>) -> NodeInfo {
    let (node, incarnation) = handle.identity();
    let own = config.nodes.iter().find(|entry| entry.id == config.node);
    let address = |of: fn(&config::NodeEntry) -> &String| own.map_or(String::new(), |own| of(own).clone());
    NodeInfo {
        node,
        incarnation,
        peer: address(|entry| &entry.peer),
        client: address(|entry| &entry.client),
        http: address(|entry| &entry.http),
    }
}

impl Running {
    /// Stops in good order, within about two seconds: no new connection, new calls are refused, calls under way are
    /// answered, leadership is handed over, the log is synced.
    pub async fn stop(mut self) {
        self.context.enter(Phase::Draining);
        self.ports.close_door();
        ready::tell(&self.health, false).await;
        if timeout(STOP_TIMEOUT, Node::stop(&self.handle)).await.is_err() {
            tracing::warn!("the node didn't stop in time");
        }
        self.context.enter(Phase::Closed);
        self.ports.flush().await;
        self.context.enter(Phase::Cut);
        self.ports.cut();
        self.others.tasks.shutdown().await;
        tracing::info!("stopped");
    }
}

impl Drop for Running {
    /// Without [`Running::stop`] the ports close at once; the node below goes on until its handle is stopped.
    fn drop(&mut self) {
        self.ports.cut();
        self.context.enter(Phase::Cut);
    }
}

#[cfg(test)]
mod tests {
    use paxos::ids::Generation;

    use super::*;

    #[test]
    fn genesis_and_routing_agree() {
        let config = Config { shards: 100, groups: 3, ..Config::example() };
        let genesis = genesis(&config).unwrap();
        let decoded = Genesis::decode(&genesis.encode()).unwrap();
        for (shard, owner) in (0..100).map(crate::command::ShardId).zip(decoded.owners()) {
            assert_eq!(routing::group_of(shard, 100, 3), Some(*owner));
        }
        let config = genesis.encode();
        let birth = |group| {
            let (generation, founders) = (Generation(1), &[][..]);
            machine(&Birth { group: GroupId(group), generation, config: &config, founders })
        };
        let served: Vec<_> = birth(2).store().unwrap().shards().collect();
        assert_eq!(served, routing::shards_of(GroupId(2), 100, 3).collect::<Vec<_>>());
        assert_eq!(birth(0).master().unwrap().shard_count(), 100);
    }
}
