//! Keeps this node as the shardmaster's log says: the table that clients are told, the peers it talks to, the replicas
//! it hosts. And says to the shardmaster where this node is reached.

use std::sync::Arc;
use std::time::Duration;

use paxos::ids::Incarnation;
use runtime::api::Handle;
use runtime::hosting::{HostSpec, Peer};
use shardmaster::command::Command;
use shardmaster::group::NodeInfo;
use shardmaster::ids::SHARDMASTER;
use shardmaster::query::{Answer, Query, RoutingTable};
use tokio::time::Instant;

use super::agent::Agent;
use super::ask::read_here;
use super::context::{Context, Mark, Phase};
use super::directory::{GroupEntry, NodeEntry, Table};
use crate::machine::{self, Machine};

/// How often the shardmaster's state is looked at where a replica of it is here.
const LOOK: Duration = Duration::from_millis(20);
/// How often its leader is asked where there is none.
const ASK: Duration = Duration::from_millis(200);
/// How often this node says where it is, until it sees itself in the table.
const REGISTER: Duration = Duration::from_millis(500);

/// See the module.
pub(crate) struct Director {
    context: Arc<Context>,
    handle: Handle<Machine>,
    agent: Arc<Agent>,
    /// As others reach this node.
    myself: NodeInfo,
    registered: Instant,
    /// There was no newer table here at this mark.
    seen: Option<Mark>,
}

impl Director {
    pub(crate) fn new(
        context: Arc<Context>,
        handle: Handle<Machine>,
        agent: Arc<Agent>,
        myself: NodeInfo,
    ) -> Director {
        let registered = Instant::now().checked_sub(REGISTER).unwrap_or_else(Instant::now);
        Director { context, handle, agent, myself, registered, seen: None }
    }

    /// Until the process stops.
    pub(crate) async fn run(mut self) {
        while self.context.phase() == Phase::Serving {
            let here = self.context.node.generation(SHARDMASTER).is_some();
            tokio::time::sleep(if here { LOOK } else { ASK }).await;
            if let Some(table) = self.newer_table(here).await {
                self.handle.set_peers(peers(&table));
                self.context.directory.replace(table);
            }
            self.host().await;
            self.register().await;
        }
    }

    async fn newer_table(&mut self, here: bool) -> Option<Table> {
        let mark = here.then(|| self.context.mark());
        if mark.is_some() && mark == self.seen {
            return None;
        }
        let query = Query::Routing { newer_than: self.context.directory.table().version };
        let answer = if here {
            let found = read_here(&self.context, SHARDMASTER, machine::Query::Master(query)).await?;
            let machine::Answer::Master(answer) = found else { return None };
            answer
        } else {
            self.agent.consult(query).await.ok()?
        };
        self.seen = mark;
        let Answer::Routing(routing) = answer else { return None };
        Some(table_of(routing))
    }

    /// Begins and ends replicas here. What a table is too old to know of is left alone.
    async fn host(&self) {
        let table = self.context.directory.table();
        if table.version == 0 {
            return;
        }
        let me = self.context.directory.node;
        let hosted = self.handle.hosted();
        for (group, generation) in &hosted {
            let wanted = table.groups.get(group).is_some_and(|entry| entry.generation == *generation);
            if *group != SHARDMASTER && !wanted && generation.0 <= table.config {
                match self.handle.unhost(*group, *generation).await {
                    Ok(()) => tracing::info!(%group, generation = generation.0, "the group is gone"),
                    Err(error) => tracing::warn!(%group, %error, "a replica couldn't be ended"),
                }
            }
        }
        for (group, entry) in &table.groups {
            let member = entry.members.iter().find(|(node, _)| *node == me);
            let Some((_, incarnation)) = member else { continue };
            if hosted.contains(&(*group, entry.generation)) {
                continue;
            }
            let voters = entry.members.iter().map(|(node, _)| *node).collect();
            let spec =
                HostSpec { group: *group, generation: entry.generation, voters, incarnation: *incarnation };
            match self.handle.host(spec).await {
                Ok(()) => tracing::info!(%group, generation = entry.generation.0, "a replica begins here"),
                Err(error) => tracing::debug!(%group, %error, "no replica begins here"),
            }
        }
    }

    async fn register(&mut self) {
        let table = self.context.directory.table();
        let known = table.nodes.get(&self.context.directory.node);
        let right = known.is_some_and(|entry| *entry == entry_of(&self.myself));
        if right || self.registered.elapsed() < REGISTER {
            return;
        }
        self.registered = Instant::now();
        let command = Command::Register(self.myself.clone());
        match self.agent.govern(command).await {
            Ok(shardmaster::command::Reply::Refused(refusal)) => {
                tracing::warn!(%refusal, "the shardmaster doesn't take this node");
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "the shardmaster doesn't answer"),
        }
    }
}

fn table_of(routing: RoutingTable) -> Table {
    let group = |group: &shardmaster::group::Group| {
        let members = group.members.iter().map(|member| (member.node, member.incarnation)).collect();
        let entry = GroupEntry { generation: group.at.generation, members };
        (group.at.group, entry)
    };
    Table {
        version: routing.version,
        config: routing.config.0,
        owners: routing.owners,
        groups: routing.groups.iter().map(group).collect(),
        nodes: routing.nodes.iter().map(|node| (node.node, entry_of(node))).collect(),
    }
}

fn entry_of(node: &NodeInfo) -> NodeEntry {
    NodeEntry {
        incarnation: node.incarnation,
        client: node.client.clone(),
        peer: node.peer.clone(),
        http: node.http.clone(),
    }
}

fn peers(table: &Table) -> Vec<Peer> {
    let registered = |entry: &NodeEntry| entry.incarnation != Incarnation(0) && !entry.peer.is_empty();
    let known = table.nodes.iter().filter(|(_, entry)| registered(entry));
    known
        .map(|(node, entry)| Peer {
            node: *node,
            incarnation: entry.incarnation,
            address: entry.peer.clone(),
        })
        .collect()
}
