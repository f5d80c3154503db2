//! Which nodes there are, and the same admin call to all of them at once.

use std::collections::BTreeMap;
use std::time::Duration;

use client::{Access, Authorized};
use tokio::task::JoinSet;
use tonic::{Response, Status};
use wire::v1::admin_client::AdminClient;
use wire::v1::{
    MigrationsRequest, MigrationsResponse, Routing, RoutingRequest, StatusRequest, StatusResponse,
};

use crate::cluster::Home;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::settings::Endpoints;

/// A call to one node takes no longer, so that all of them together with finding the nodes stay under 2 s.
const NODE_WITHIN: Duration = Duration::from_millis(900);

/// A node and where it takes clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    /// Not known while nobody was reached who knows it.
    pub(crate) id: Option<u32>,
    pub(crate) address: String,
}

impl Node {
    /// For messages and the first column of tables.
    pub(crate) fn name(&self) -> String {
        self.id.map_or_else(|| self.address.clone(), |id| format!("n{id}"))
    }
}

/// How a node is asked.
#[derive(Clone, Debug)]
pub(crate) struct Reach {
    /// How long it may take to answer.
    pub(crate) within: Duration,
    /// What it is shown.
    pub(crate) access: Access,
}

impl Reach {
    /// As a demo is: plainly, showing nothing.
    pub(crate) fn plain(within: Duration) -> Reach {
        Reach { within, access: Access::default() }
    }
}

/// How one node is asked.
pub(crate) fn reach(context: &Context) -> Reach {
    Reach { within: context.settings.timeout.min(NODE_WITHIN), access: context.settings.access.clone() }
}

/// All nodes, by id. Of a demo: those in its directory. Else those in the routing table of the first endpoint that
/// answers; if none does, the endpoints themselves, unless one doesn't let this client in.
pub(crate) async fn discover(context: &Context) -> Result<Vec<Node>, Failure> {
    if let Endpoints::Demo(directory) = &context.settings.endpoints {
        let nodes = Home::open(directory)?.read()?.nodes;
        return Ok(nodes.into_iter().map(|n| Node { id: Some(n.id), address: n.client }).collect());
    }
    let endpoints = context.endpoints()?;
    let reach = reach(context);
    let mut asked = JoinSet::new();
    for endpoint in endpoints.clone() {
        let ask =
            |mut node: AdminClient<Authorized>| async move { node.get_routing(RoutingRequest {}).await };
        asked.spawn(call(endpoint, reach.clone(), ask));
    }
    let mut refused = None;
    while let Some(answer) = asked.join_next().await {
        match answer {
            Ok(Ok(routing)) => {
                let members = members(&routing);
                if !members.is_empty() {
                    return Ok(members);
                }
            }
            Ok(Err(failure)) if failure.exit() == Exit::NotAllowed => refused = Some(failure),
            Ok(Err(_)) | Err(_) => {}
        }
    }
    if let Some(failure) = refused {
        return Err(failure);
    }
    Ok(endpoints.into_iter().map(|address| Node { id: None, address }).collect())
}

fn members(routing: &Routing) -> Vec<Node> {
    let members = routing.groups.iter().flat_map(|group| &group.members);
    let by_id: BTreeMap<u32, &str> = members.map(|m| (m.node, m.client_address.as_str())).collect();
    by_id.into_iter().map(|(id, address)| Node { id: Some(id), address: address.to_owned() }).collect()
}

/// The same call to all these nodes at once; the answers in their order, each in time or a failure.
pub(crate) async fn on_all<T, F, Answering>(nodes: &[Node], reach: &Reach, ask: F) -> Vec<Result<T, Failure>>
where
    T: Send + 'static,
    F: Fn(AdminClient<Authorized>) -> Answering + Clone + Send + 'static,
    Answering: Future<Output = Result<Response<T>, Status>> + Send + 'static,
{
    let start = |node: &Node| tokio::spawn(call(node.address.clone(), reach.clone(), ask.clone()));
    let asked: Vec<_> = nodes.iter().map(start).collect();
    let mut answers = Vec::with_capacity(asked.len());
    for answer in asked {
        answers
            .push(answer.await.unwrap_or_else(|e| Err(Failure::new(Exit::Failed, "FAILED", e.to_string()))));
    }
    answers
}

/// One admin call to one node, connection included, in time or a failure.
pub(crate) async fn call<T, F, Answering>(address: String, reach: Reach, ask: F) -> Result<T, Failure>
where
    F: FnOnce(AdminClient<Authorized>) -> Answering,
    Answering: Future<Output = Result<Response<T>, Status>>,
{
    let Reach { within, access } = reach;
    let answered = tokio::time::timeout(within, async {
        let node = client::admin(&address, within, &access).await?;
        let failed = |status| match access.refusal(&address, &status) {
            Some(refusal) => Failure::from(refusal),
            None => Failure::from(status),
        };
        Ok(ask(node).await.map_err(failed)?.into_inner())
    });
    answered.await.unwrap_or_else(|_| {
        Err(Failure::new(Exit::Unavailable, "TIMEOUT", format!("no answer in {} ms", within.as_millis())))
    })
}

/// The status of all these nodes.
pub(crate) async fn statuses(nodes: &[Node], reach: &Reach) -> Vec<Result<StatusResponse, Failure>> {
    on_all(nodes, reach, |mut node| async move { node.status(StatusRequest {}).await }).await
}

/// What the shardmaster says of shards on their way, through whichever node answers first; `None` if none does in time.
pub(crate) async fn migrations(nodes: &[Node], reach: &Reach) -> Option<MigrationsResponse> {
    let mut asked = JoinSet::new();
    for address in nodes.iter().map(|node| node.address.clone()) {
        let Reach { within, access } = reach.clone();
        asked.spawn(tokio::time::timeout(within, async move {
            let mut node = client::shardmaster(&address, within, &access).await.ok()?;
            Some(node.migrations(MigrationsRequest {}).await.ok()?.into_inner())
        }));
    }
    while let Some(answer) = asked.join_next().await {
        if let Ok(Ok(Some(migrations))) = answer {
            return Some(migrations);
        }
    }
    None
}

/// The failure when not one node answered: the first reason stands for all.
pub(crate) fn nobody(nodes: &[Node], reason: Option<&Failure>) -> Failure {
    if let Some(refused) = reason.filter(|failure| failure.exit() == Exit::NotAllowed) {
        return Failure::not_authenticated(refused.message());
    }
    let addresses = nodes.iter().map(|node| node.address.as_str()).collect::<Vec<_>>().join(", ");
    let why = reason.map(|failure| format!(": {}", failure.message())).unwrap_or_default();
    Failure::new(Exit::Unavailable, "UNAVAILABLE", format!("no node answers ({addresses}){why}"))
        .hint("is the cluster running, and are the --endpoints right? `kvctl demo` starts one")
}

/// The node that leads a group, by what the nodes themselves say: of several that think so, the one with the highest
/// ballot.
pub(crate) fn leader_of(group: u32, statuses: &[Result<StatusResponse, Failure>]) -> Option<u32> {
    let replicas = statuses.iter().flatten().flat_map(|status| {
        status.replicas.iter().filter(|replica| replica.group == group).map(|replica| (status.node, replica))
    });
    replicas
        .filter(|(_, replica)| replica.role == "leader")
        .max_by_key(|(_, replica)| (replica.promised_round, replica.promised_node))
        .map(|(node, _)| node)
}

#[cfg(test)]
mod tests {
    use wire::v1::{Group, Member, ReplicaStatus};

    use super::*;

    #[test]
    fn members_of_all_groups_once_each() {
        let member = |node: u32| Member { node, client_address: format!("h:{node}") };
        let group = |id, nodes: &[u32]| Group {
            id,
            members: nodes.iter().map(|n| member(*n)).collect(),
            ..Group::default()
        };
        let routing = Routing { groups: vec![group(1, &[3, 1]), group(2, &[1, 2])], ..Routing::default() };
        let found = members(&routing);
        assert_eq!(found.iter().map(|node| node.id).collect::<Vec<_>>(), [Some(1), Some(2), Some(3)]);
        assert_eq!(found[2].address, "h:3");
    }

    #[test]
    fn an_old_leader_that_does_not_know_yet_does_not_count() {
        let says = |node, round, role: &str| {
            let replica = ReplicaStatus {
                group: 1,
                role: role.to_owned(),
                promised_round: round,
                ..ReplicaStatus::default()
            };
            Ok(StatusResponse { node, replicas: vec![replica], ..StatusResponse::default() })
        };
        let all = [says(1, 3, "leader"), says(2, 4, "leader"), says(3, 9, "follower")];
        assert_eq!(leader_of(1, &all), Some(2));
        assert_eq!(leader_of(2, &all), None);
    }

    #[tokio::test]
    async fn a_node_that_is_down_is_a_failure_in_time() {
        let node = Node { id: None, address: "127.0.0.1:1".to_owned() };
        let reach = Reach::plain(Duration::from_millis(500));
        let answers = statuses(std::slice::from_ref(&node), &reach).await;
        let failure = answers[0].as_ref().unwrap_err();
        assert_eq!(failure.exit(), Exit::Unavailable);
        assert!(nobody(&[node], Some(failure)).report().contains("127.0.0.1:1"));
    }
}
