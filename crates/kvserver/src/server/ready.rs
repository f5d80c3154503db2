//! Whether this node is ready for clients, and if not, why: the same answer for HTTP and for gRPC health.

use std::sync::Arc;
use std::time::Duration;

use runtime::api::NodeStatus;
use tonic::server::NamedService;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use wire::v1::admin_server::AdminServer;
use wire::v1::client_server::ClientServer;
use wire::v1::kv_server::KvServer;

use super::admin::Administration;
use super::context::{Context, Phase};
use super::directory::GroupEntry;
use super::stream::Streams;
use super::unary::Unary;

/// How often readiness is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// The services whose health is told; the empty name is the process as a whole.
const SERVICES: [&str; 4] = [
    "",
    <ClientServer<Streams> as NamedService>::NAME,
    <KvServer<Unary> as NamedService>::NAME,
    <AdminServer<Administration> as NamedService>::NAME,
];

/// Why the node isn't ready; nothing if it is.
pub(crate) fn reasons(context: &Context, status: Option<&NodeStatus>) -> Vec<String> {
    if context.phase() > Phase::Serving {
        return vec!["the process is stopping".to_string()];
    }
    let Some(status) = status else { return vec!["the node doesn't answer".to_string()] };
    let mut reasons = Vec::new();
    if status.condition != "ok" {
        reasons.push(status.condition.clone());
    }
    let table = context.directory.table();
    let here = |group: &GroupEntry| group.members.iter().any(|(node, _)| *node == context.directory.node);
    for (group, _) in table.groups.iter().filter(|(_, group)| here(group)) {
        match status.replicas.iter().find(|replica| replica.group == *group) {
            None => reasons.push(format!("group {} has no replica here yet", group.0)),
            Some(replica) if replica.leader.is_none() => {
                reasons.push(format!("group {} has no leader that is known here", group.0));
            }
            Some(_) => {}
        }
    }
    reasons
}

/// Tells the health of the services; called before the first connection is taken.
pub(crate) async fn tell(health: &HealthReporter, ready: bool) {
    let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
    for service in SERVICES {
        health.set_service_status(service, status).await;
    }
}

/// Keeps health up to date until the process stops.
pub(crate) async fn keep_told(context: Arc<Context>, health: HealthReporter) {
    let mut before: Option<Vec<String>> = None;
    loop {
        let status = context.status().await;
        let now = reasons(&context, status.as_ref());
        if before.as_ref() != Some(&now) {
            tell(&health, now.is_empty()).await;
            tracing::info!(ready = now.is_empty(), reasons = now.join("; "), "readiness");
            before = Some(now);
        }
        if context.phase() > Phase::Serving {
            return;
        }
        tokio::select! {
            biased;
            () = tokio::time::sleep(LOOK) => {}
            () = context.reached(Phase::Draining) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::FakeNode;
    use super::*;

    fn reasons_of(change: impl FnOnce(&FakeNode, &Context)) -> Vec<String> {
        let node = Arc::new(FakeNode::default());
        let context = FakeNode::context(&node, |config| config.groups = 2);
        change(&node, &context);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let status = runtime.block_on(context.status());
        reasons(&context, status.as_ref())
    }

    #[test]
    fn a_node_that_votes_and_knows_its_leaders_is_ready() {
        assert!(reasons_of(|_, _| {}).is_empty());
    }

    #[test]
    fn every_reason_is_told() {
        let reasons = reasons_of(|node, _| {
            *node.condition.lock() = "disk failed".to_string();
            *node.leader.lock() = None;
        });
        assert_eq!(reasons.len(), 3);
        assert_eq!(reasons[0], "disk failed");
        assert_eq!(reasons[2], "group 2 has no leader that is known here");
        assert_eq!(reasons_of(|_, context| context.enter(Phase::Draining)), ["the process is stopping"]);
    }
}
